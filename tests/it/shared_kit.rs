//! A real Postgres for tests of shared studies: a server of Debian's package under a user that is not root, or the stack's
//! image. One server serves the tests that run at the same time; it ends with the last of them, and with the process.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};

use crate::support::{output, run, stack_wanted};

/// The password of every server here: must never be seen anywhere.
pub const PASSWORD: &str = "canary-7f3e@x";
/// The same in a URL.
const ENCODED: &str = "canary-7f3e%40x";
/// For a server to answer.
const UP: Duration = Duration::from_secs(60);

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server of the tests that run now; None, with a word, where there is nothing to run one with.
pub fn server() -> Option<Arc<Server>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let new = Arc::new(Server::start()?);
    *shared = Arc::downgrade(&new);
    Some(new)
}

/// A Postgres.
pub struct Server {
    pub port: u16,
    how: How,
}

enum How {
    Debian {
        home: PathBuf,
        child: Mutex<Option<Child>>,
    },
    Docker {
        name: String,
    },
}

/// Debian keeps the server's programs out of PATH.
fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .filter(|p| p.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop()
}

/// The server refuses root.
fn unprivileged(program: &Path) -> Command {
    if rustix::process::getuid().is_root() {
        let mut c = Command::new("runuser");
        let user = if output(Command::new("id").arg("postgres")).status.success() {
            "postgres"
        } else {
            "nobody"
        };
        c.args(["-u", user, "--"]).arg(program);
        return c;
    }
    Command::new(program)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    /// A server of its own, for tests that stop it.
    pub fn start() -> Option<Self> {
        let port = free_port();
        if let Some(bin) = binaries() {
            return Some(Self::debian(&bin, port));
        }
        if stack_wanted() {
            return Some(Self::docker(port));
        }
        println!("skipped: needs Debian's postgresql package, or a Docker engine and the demo images");
        None
    }

    fn debian(bin: &Path, port: u16) -> Self {
        let home = PathBuf::from(run(
            unprivileged(Path::new("mktemp")).args(["-d", "/tmp/autotune-pg.XXXXXX"])
        ));
        let mut init = unprivileged(Path::new("sh"))
            .arg("-c")
            .arg(format!(
                "cd {0} && cat >pw && {1}/initdb -D {0}/data -U owner -A scram-sha-256 --pwfile={0}/pw --no-sync -E UTF8 --locale=C",
                home.display(),
                bin.display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        init.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
        assert!(init.wait().unwrap().success(), "initdb failed");
        let server = Self {
            port,
            how: How::Debian {
                home,
                child: Mutex::new(None),
            },
        };
        server.up();
        server
    }

    fn docker(port: u16) -> Self {
        let name = format!("autotune-test-pg-{port}");
        run(Command::new("docker")
            .args(["run", "-d", "--name", &name, "-p"])
            .arg(format!("127.0.0.1:{port}:5432"))
            .args(["-e", "POSTGRES_USER=owner", "-e", "POSTGRES_DB=postgres", "-e"])
            .arg(format!("POSTGRES_PASSWORD={PASSWORD}"))
            .args(["postgres:15", "postgres", "-c", "max_connections=100"]));
        let server = Self {
            port,
            how: How::Docker { name },
        };
        server.answers();
        server
    }

    /// Starts it again after `stop`.
    pub fn up(&self) {
        match &self.how {
            How::Docker { name } => {
                run(Command::new("docker").args(["start", name]));
            }
            How::Debian { home, child } => {
                let bin = binaries().unwrap();
                // The server ends when its standard input does: with this process, however that ends.
                let script = format!(
                    "cd {0}; {1}/postgres -D {0}/data -p {2} -c listen_addresses=127.0.0.1 -c unix_socket_directories={0} \
                     -c max_connections=60 -c log_min_messages=fatal >>{0}/log 2>&1 & P=$!; read -r _; kill -QUIT $P; wait $P",
                    home.display(),
                    bin.display(),
                    self.port
                );
                let mut lock = child.lock().unwrap_or_else(PoisonError::into_inner);
                *lock = Some(
                    unprivileged(Path::new("sh"))
                        .arg("-c")
                        .arg(script)
                        .stdin(Stdio::piped())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap(),
                );
            }
        }
        self.answers();
    }

    /// As if its machine had crashed: connections are cut, what was acknowledged stays.
    pub fn stop(&self) {
        match &self.how {
            How::Docker { name } => {
                run(Command::new("docker").args(["kill", name]));
            }
            How::Debian { child, .. } => {
                let mut lock = child.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(mut c) = lock.take() {
                    drop(c.stdin.take());
                    c.wait().unwrap();
                }
            }
        }
    }

    fn answers(&self) {
        let (begun, url) = (Instant::now(), self.url("postgres"));
        aside(async {
            while let Err(e) = connect(&url).await {
                assert!(begun.elapsed() < UP, "Postgres does not come up: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://owner:{ENCODED}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("night{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        let url = self.url("postgres");
        aside(async {
            let mut c = connect(&url).await.unwrap();
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
                .execute(&mut c)
                .await
                .unwrap();
            c.close().await.unwrap();
        });
        self.url(&name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &self.how {
            How::Docker { name } => drop(output(Command::new("docker").args(["rm", "-f", "-v", name]))),
            How::Debian { home, .. } => {
                self.stop();
                drop(std::fs::remove_dir_all(home));
            }
        }
    }
}

/// Runs `work` to its end on a thread and a runtime of its own, from asynchronous tests too.
fn aside(work: impl Future<Output = ()> + Send) {
    std::thread::scope(|s| s.spawn(|| runtime().block_on(work)).join().unwrap());
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A plain connection, its names looked up in the study's schema.
pub async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    url.parse::<sqlx::postgres::PgConnectOptions>()?
        .options([("search_path", "autotune")])
        .connect()
        .await
}

/// What one number of the study in `url` is.
pub async fn number(url: &str, sql: &'static str) -> i64 {
    let mut c = connect(url).await.unwrap();
    let n = sqlx::query(sql).fetch_one(&mut c).await.unwrap().get::<i64, _>(0);
    c.close().await.unwrap();
    n
}

/// The promises of a shared study, once nobody works on it: nothing lost, nothing doubled. Counts that are not zero, by name.
pub async fn broken_promises(url: &str) -> Vec<(&'static str, i64)> {
    let mut found = Vec::new();
    for (what, sql) in [
        (
            "numbers with gaps",
            "SELECT (SELECT trials FROM counter) - count(*) + (SELECT trials FROM counter) - coalesce(max(number), 0) FROM trial",
        ),
        ("trials left open", "SELECT count(*) FROM trial WHERE outcome IS NULL"),
        ("trials given back and not asked again", "SELECT count(*) FROM trial WHERE again"),
        (
            "trials of the search that were cut off and never repeated",
            "SELECT count(*) FROM trial t WHERE phase IN ('search', 'knob') AND outcome LIKE '%\"interrupted\"%'
             AND NOT EXISTS (SELECT FROM trial r WHERE r.repeats = t.number)",
        ),
        (
            "repeats of trials that were not cut off",
            "SELECT count(*) FROM trial r JOIN trial t ON t.number = r.repeats WHERE t.outcome NOT LIKE '%\"interrupted\"%'",
        ),
        (
            "repeats of another config",
            "SELECT count(*) FROM trial r JOIN trial t ON t.number = r.repeats WHERE t.config <> r.config",
        ),
        (
            "trials repeated twice",
            "SELECT count(*) - count(DISTINCT repeats) FROM trial WHERE repeats IS NOT NULL",
        ),
        (
            "probes with gaps",
            "SELECT count(*) FROM (SELECT 1 FROM probe GROUP BY trial HAVING max(number) <> count(*)) AS g",
        ),
    ] {
        match number(url, sql).await {
            0 => {}
            n => found.push((what, n)),
        }
    }
    found
}
