//! `autotune worker` as it is, several processes on one Postgres: who measures what, what kill -9 and a database that goes
//! away cost, and that the address stays a secret.
//!
//! `make test` kills a handful of workers; with AUTOTUNE_TEST_SWARM set (`make test-swarm`) fifty, and two workers are timed
//! against one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::docker_kit::CANARY;
use crate::fake_engine::FakeEngine;
use crate::shared_kit::{Server, broken_promises, number, runtime, server};
use crate::shared_swarm::is_long;
use crate::support::{AUTOTUNE, csv_rows, files_with, output};

/// A study that takes longer hangs.
const HANG: Duration = Duration::from_secs(300);

/// A simulated service with three knobs, none of which helps alone.
const SPACE: &str = r#"
[study]
name = "night"
trials = TRIALS
seed = 5

[sut]
kind = "simulated"
model = "pool-queue capacity=900 noise=0.03 ready_after=AFTER per_pool_size=20 per_workers=110 per_threads=45"

[parameters.pool_size]
type = "int"
low = 1
high = 64
baseline = 4
[parameters.workers]
type = "int"
low = 1
high = 12
baseline = 2
[parameters.threads]
type = "int"
low = 1
high = 32
baseline = 3

[[load.requests]]
path = "/"

[capacity]
start = 40
max = 2000
confirm = "10s"
warm_up = "2s"

[confirm]
pairs = 2
"#;

/// Workers of one study, each with a folder of its own.
struct Fleet {
    url: String,
    home: tempfile::TempDir,
}

impl Fleet {
    fn new(url: String, trials: u32, after: f64) -> Self {
        let text = SPACE
            .replace("TRIALS", &trials.to_string())
            .replace("AFTER", &after.to_string());
        Self::of(url, &text)
    }

    fn of(url: String, space: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("night.toml"), space).unwrap();
        Self { url, home }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.home.path().join(name).join("night")
    }

    fn command(&self, name: &str) -> Command {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.path().join(format!("{name}.log")))
            .unwrap();
        let mut c = Command::new(AUTOTUNE);
        c.args(["worker", "--name", name, "--space"])
            .arg(self.home.path().join("night.toml"))
            .arg("--results")
            .arg(self.home.path().join(name))
            .env("AUTOTUNE_STUDY", &self.url)
            .env("RUST_LOG", "debug")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        c
    }

    fn start(&self, name: &str) -> Child {
        self.command(name).spawn().unwrap()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.home.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn ended(&self, name: &str, child: &mut Child) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begun.elapsed() > HANG {
                drop(child.kill());
                panic!("{name} hangs:\n{}", self.log(name));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn number(&self, sql: &'static str) -> i64 {
        runtime().block_on(number(&self.url, sql))
    }

    /// Until `sql` gives what `done` wants; the schema may not be there yet.
    fn until(&self, what: &str, sql: &'static str, done: impl Fn(i64) -> bool) {
        let begun = Instant::now();
        while !(self
            .number("SELECT count(*) FROM pg_tables WHERE schemaname = 'autotune' AND tablename = 'event'")
            == 1
            && done(self.number(sql)))
        {
            assert!(begun.elapsed() < HANG, "{what} does not come");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Nothing lost, nothing doubled, one decision; each folder holds the whole study and no secret.
    fn assert_whole(&self, names: &[&str]) {
        let broken = runtime().block_on(broken_promises(&self.url));
        assert_eq!(
            broken,
            [],
            "{}",
            names.iter().map(|n| self.log(n)).collect::<String>()
        );
        assert_eq!(
            self.number("SELECT count(*) FROM event WHERE kind = 'finals_over'"),
            1
        );
        assert!(self.number("SELECT count(*) FROM event WHERE kind = 'decision'") <= 1);
        let closed = usize::try_from(self.number("SELECT count(*) FROM trial")).unwrap();
        for name in names {
            let rows = csv_rows(&self.folder(name).join("trials.csv"));
            assert_eq!(rows.len(), closed, "{name}'s table\n{}", self.log(name));
            assert!(self.folder(name).join("report.html").is_file(), "{name}");
        }
        self.assert_discreet();
    }

    /// The address is in no file and was never printed, at debug level too.
    fn assert_discreet(&self) {
        assert_eq!(files_with(self.home.path(), "canary"), Vec::<PathBuf>::new());
    }
}

fn kill_9(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn stdout_and_err(command: &mut Command) -> (Option<i32>, String) {
    let out = output(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    (out.status.code(), text)
}

/// Breaks when a host skips its baseline, both measure finals, more trials are measured than asked for, a worker ends
/// otherwise than the others, or its folder is no study for the other commands.
#[test]
fn two_workers_share_a_study_and_both_have_all_of_it() {
    let Some(server) = server() else { return };
    let fleet = Fleet::new(server.database(), 8, 0.3);
    let (mut left, mut right) = (fleet.start("left"), fleet.start("right"));
    let codes = [
        fleet.ended("left", &mut left).code(),
        fleet.ended("right", &mut right).code(),
    ];
    assert!(
        matches!(codes, [Some(0), Some(0)] | [Some(3), Some(3)]),
        "{codes:?}\n{}",
        fleet.log("left")
    );
    fleet.assert_whole(&["left", "right"]);
    assert_eq!(
        fleet.number("SELECT count(DISTINCT host) FROM trial WHERE phase = 'baseline'"),
        2
    );
    assert_eq!(
        fleet.number("SELECT count(*) FROM (SELECT min(number) AS n FROM trial GROUP BY host) f JOIN trial t ON t.number = f.n AND t.phase = 'baseline'"),
        2,
        "a host began with something else"
    );
    assert_eq!(
        fleet.number("SELECT count(DISTINCT host) FROM trial WHERE phase = 'final'"),
        1
    );
    assert!((3..=8).contains(&fleet.number("SELECT count(*) FROM trial WHERE phase = 'search'")));
    assert_eq!(
        fleet.number("SELECT count(DISTINCT host) FROM trial WHERE phase = 'search'"),
        2,
        "one did it all"
    );
    let same = |file: &str| {
        fs::read_to_string(fleet.folder("left").join(file)).unwrap()
            == fs::read_to_string(fleet.folder("right").join(file)).unwrap()
    };
    assert!(same("trials.csv") && same("probes.csv") && same("recommended.toml"));

    other_commands_read_the_copy(&fleet);
    another_space_is_refused(&fleet);
    // A worker that comes when all is decided measures nothing and says the same.
    let before = fleet.number("SELECT count(*) FROM trial");
    let mut late = fleet.start("left");
    assert_eq!(fleet.ended("left", &mut late).code(), codes[0]);
    assert_eq!(fleet.number("SELECT count(*) FROM trial"), before);
    fleet.assert_discreet();
}

fn other_commands_read_the_copy(fleet: &Fleet) {
    let tool = |args: &[&str], path: &Path| {
        let mut c = Command::new(AUTOTUNE);
        c.args(args).arg(path).env_remove("AUTOTUNE_STUDY");
        c
    };
    let (code, text) = stdout_and_err(&mut tool(&["report"], &fleet.folder("left")));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = stdout_and_err(&mut tool(&["runs", "--results"], &fleet.home.path().join("left")));
    assert!(code == Some(0) && text.contains("night"), "{text}");
    let elsewhere = fleet.home.path().join("elsewhere");
    let (code, text) = stdout_and_err(tool(&["report"], &elsewhere).env("AUTOTUNE_STUDY", &fleet.url));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        csv_rows(&elsewhere.join("trials.csv")).len(),
        csv_rows(&fleet.folder("left").join("trials.csv")).len()
    );
    // A run does not go on alone with what is a copy.
    let (code, text) = stdout_and_err(
        Command::new(AUTOTUNE)
            .arg("--space")
            .arg(fleet.home.path().join("night.toml"))
            .arg("--results")
            .arg(fleet.home.path().join("left")),
    );
    assert!(
        code == Some(65) && text.contains("autotune worker"),
        "{code:?} {text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

fn another_space_is_refused(fleet: &Fleet) {
    let other = fleet.home.path().join("other.toml");
    let text = fs::read_to_string(fleet.home.path().join("night.toml")).unwrap();
    fs::write(&other, text.replace("high = 64", "high = 65")).unwrap();
    let mut c = Command::new(AUTOTUNE);
    c.args(["worker", "--name", "stranger", "--space"])
        .arg(&other)
        .arg("--results")
        .arg(fleet.home.path().join("stranger"))
        .env("AUTOTUNE_STUDY", &fleet.url);
    let (code, said) = stdout_and_err(&mut c);
    assert_eq!(code, Some(65), "{said}");
    assert!(
        said.contains("[parameters]") && said.contains("Every worker needs the same file"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(
        fleet.number("SELECT count(*) FROM trial WHERE host = 'stranger'"),
        0
    );
}

/// kill -9 of any worker at any moment, again and again. Breaks when a trial is lost, given to two, or a study does not
/// end.
#[test]
fn workers_killed_at_random_lose_nothing() {
    let Some(server) = server() else { return };
    let (wanted, workers, trials) = if is_long() { (50, 4, 30) } else { (6, 3, 10) };
    let names: Vec<String> = (0..workers).map(|n| format!("host{n}")).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut kills, mut studies, mut cut_off, mut repeated) = (0, 0, 0, 0);
    while kills < wanted {
        studies += 1;
        assert!(studies < 40, "studies end before anybody is killed");
        let fleet = Fleet::new(server.database(), trials, 0.2);
        let mut running: Vec<Child> = names.iter().map(|n| fleet.start(n)).collect();
        fleet.until("a first trial", "SELECT count(*) FROM trial", |n| n > 0);
        while kills < wanted {
            std::thread::park_timeout(Duration::from_millis(rng.random_range(50..1_500)));
            if fleet.number("SELECT count(*) FROM event WHERE kind = 'finals_over'") > 0 {
                break;
            }
            let who = rng.random_range(0..workers);
            kill_9(&mut running[who]);
            kills += 1;
            running[who] = fleet.start(&names[who]);
        }
        for (name, child) in names.iter().zip(&mut running) {
            let code = fleet.ended(name, child).code();
            assert!(
                matches!(code, Some(0 | 3)),
                "{name} ended with {code:?}\n{}",
                fleet.log(name)
            );
        }
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        fleet.assert_whole(&all);
        cut_off += fleet.number("SELECT count(*) FROM trial WHERE outcome LIKE '%\"interrupted\"%'");
        repeated += fleet.number("SELECT count(*) FROM trial WHERE repeats IS NOT NULL");
    }
    println!(
        "{kills} kills in {studies} studies: {cut_off} trials cut off, {repeated} of the search repeated, 0 lost, 0 doubled"
    );
    assert!(cut_off > 0, "no kill met a trial");
}

/// Breaks when a short outage costs a trial, or a long one ends in anything but exit code 69 with a sentence.
#[test]
fn a_database_that_goes_away_is_waited_for_within_limits() {
    let Some(server) = Server::start() else { return };
    let fleet = Fleet::new(server.database(), 6, 0.5);
    let mut patient = fleet.start("patient");
    fleet.until("a second trial", "SELECT count(*) FROM trial", |n| n > 1);
    server.stop();
    server.up();
    fleet.until(
        "a trial after that",
        "SELECT count(*) FROM trial WHERE outcome IS NOT NULL",
        |n| n > 2,
    );
    assert_eq!(
        fleet.number("SELECT count(*) FROM trial WHERE outcome LIKE '%\"interrupted\"%'"),
        0
    );
    kill_9(&mut patient);
    let mut hasty = fleet
        .command("patient")
        .args(["--patience", "500ms"])
        .spawn()
        .unwrap();
    let before = fleet.number("SELECT count(*) FROM trial");
    let begun = Instant::now();
    while fleet.number("SELECT count(*) FROM trial") == before {
        assert!(begun.elapsed() < HANG);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    server.stop();
    let code = fleet.ended("patient", &mut hasty).code();
    let log = fleet.log("patient");
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains("start this worker again"), "{log}");
    server.up();
    let mut again = fleet.start("patient");
    assert!(matches!(fleet.ended("patient", &mut again).code(), Some(0 | 3)));
    fleet.assert_whole(&["patient"]);
}

/// A container on the (fake) engine of a worker that is killed: the guardian gives it back, and another worker repeats the
/// trial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_container_is_given_back_and_its_trial_repeated() {
    let Some(server) = server() else { return };
    let url = server.database();
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let port = fake.container(&id).unwrap().port().unwrap();
    let space = crate::faults_study::SPACE.replace("PORT", &port.to_string());
    tokio::task::spawn_blocking(move || {
        let fleet = Fleet::of(url, &space);
        let start = || {
            fleet
                .command("one")
                .env("DOCKER_HOST", &fake.host)
                .spawn()
                .unwrap()
        };
        let mut child = start();
        fleet.until(
            "a trial",
            "SELECT count(*) FROM trial WHERE outcome IS NULL",
            |n| n > 0,
        );
        kill_9(&mut child);
        let begun = Instant::now();
        while let Some(wrong) = fake.violation(&id, "web", true) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{wrong:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let mut child = start();
        let code = fleet.ended("one", &mut child).code();
        assert!(matches!(code, Some(0 | 3)), "{code:?}\n{}", fleet.log("one"));
        assert_eq!(fake.violation(&id, "web", true), None);
        assert_eq!(
            fleet.number("SELECT count(*) FROM trial WHERE outcome LIKE '%\"interrupted\"%'"),
            1
        );
        fleet.assert_whole(&["one"]);
        assert!(files_with(fleet.home.path(), CANARY).is_empty());
    })
    .await
    .unwrap();
}

/// Seconds a trial in a search of at most 40 by `workers`: it ends where nothing is left to gain, after more trials or fewer.
fn seconds_a_trial(server: &Server, workers: u32) -> f64 {
    let fleet = Fleet::new(server.database(), 40, 2.0);
    let begun = Instant::now();
    let names: Vec<String> = (0..workers).map(|n| format!("host{n}")).collect();
    let mut running: Vec<Child> = names.iter().map(|n| fleet.start(n)).collect();
    fleet.until(
        "the end of the search",
        "SELECT count(*) FROM event WHERE kind = 'search_ended'",
        |n| n > 0,
    );
    let took = begun.elapsed().as_secs_f64();
    let trials = fleet.number("SELECT count(*) FROM trial WHERE outcome IS NOT NULL");
    println!("{workers}: {took:.1} s for {trials} trials");
    running.iter_mut().for_each(kill_9);
    #[allow(clippy::cast_precision_loss)] // few
    let trials = trials.max(1) as f64;
    took / trials
}

/// The figure of docs/workers.md; only its direction is held, the machine is noisy.
#[test]
fn two_workers_are_faster_than_one() {
    if !is_long() {
        return;
    }
    let Some(server) = server() else { return };
    let (one, two) = (seconds_a_trial(&server, 1), seconds_a_trial(&server, 2));
    println!("two workers take {:.2} of one's time for a trial", two / one);
    assert!(two < one);
}
