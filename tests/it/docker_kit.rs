//! What the tests with a real engine share: small containers with unique names, removed at the end whatever happens.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use autotune::space::{Binding, Config, Domain, Limit, Parameter, Value};
use autotune::spec::{DockerRef, ReadySpec, Secret, SutKind, SutSpec};
use autotune::sut::docker::DockerSut;
use autotune::sut::docker::engine::{Engine, Listed};
use autotune::sut::docker::parking::{ORIGINAL, RUN};
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};

/// Must not show up anywhere.
pub(crate) const CANARY: &str = "canary-7f3a-9c1e";

/// A server of which every test can say how it should misbehave: MODE is tuned like any other variable.
const SERVER: &str = r#"
import http.server, json, os, signal, sys, threading, time
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
mode = os.environ.get("MODE", "ok")
print("starting with", os.environ.get("DATABASE_URL"), flush=True)
if mode == "crash":
    sys.exit(3)
def eat():
    kept = []
    while True:
        kept.append(bytearray(4 << 20))
        for i in range(0, 4 << 20, 4096): kept[-1][i] = 1
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if mode == "deaf":
            self.send_response(503); self.end_headers(); return
        if self.path == "/eat-child":
            if os.fork() == 0: eat()
        body = json.dumps({"pool": os.environ.get("POOL_SIZE"), "host": os.uname().nodename}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body); self.wfile.flush()
        if self.path == "/eat": threading.Thread(target=eat).start()
        if self.path == "/exit": os._exit(4)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"#;

pub(crate) fn image() -> String {
    std::env::var("PYTHON_IMAGE").unwrap_or_else(|_| "python:3.11-slim".into())
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One test's containers.
pub(crate) struct Kit {
    pub(crate) engine: Engine,
    pub(crate) prefix: String,
    pub(crate) results: tempfile::TempDir,
    originals: Vec<String>,
}

/// An engine that answers and has the image, or None and the reason on the terminal.
pub(crate) async fn kit(test: &str) -> Option<Kit> {
    let skip = |why: String| {
        println!("skipped {test}: {why}");
        None
    };
    let engine = match Engine::from_env() {
        Ok(e) => e,
        Err(e) => return skip(e.to_string()),
    };
    if let Err(e) = engine.version().await {
        return skip(e.to_string());
    }
    match engine.has_image(&image()).await {
        Ok(true) => {}
        _ => return skip(format!("no image {}; scripts/images makes one", image())),
    }
    let n = NUMBER.fetch_add(1, Ordering::Relaxed);
    Some(Kit {
        engine,
        prefix: format!("autotune-it-{}-{n}", std::process::id()),
        results: tempfile::tempdir().unwrap(),
        originals: Vec::new(),
    })
}

/// How the original is made.
pub(crate) struct Given {
    pub(crate) port: Option<u16>,
    pub(crate) start: bool,
    pub(crate) auto_remove: bool,
    pub(crate) compose: bool,
    pub(crate) network_mode: Option<String>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            port: None,
            start: true,
            auto_remove: false,
            compose: true,
            network_mode: None,
        }
    }
}

impl Kit {
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    pub(crate) async fn original(&mut self, suffix: &str, given: Given) -> String {
        let name = self.name(suffix);
        let labels = given.compose.then(|| {
            HashMap::from([
                ("com.docker.compose.project".to_owned(), self.prefix.clone()),
                ("com.docker.compose.service".to_owned(), suffix.to_owned()),
                ("com.docker.compose.oneoff".to_owned(), "False".to_owned()),
                ("com.example.kept".to_owned(), "yes".to_owned()),
            ])
        });
        let body = ContainerCreateBody {
            image: Some(image()),
            entrypoint: Some(vec!["python3".into(), "-c".into(), SERVER.into()]),
            env: Some(vec![
                "POOL_SIZE=2".into(),
                format!("DATABASE_URL=postgresql://shop:{CANARY}@db/shop"),
                "MODE=ok".into(),
            ]),
            labels,
            // Python installs its handler after 100 ms; a stop before that would wait for the whole grace period.
            stop_timeout: Some(1),
            exposed_ports: given.network_mode.is_none().then(|| vec!["8000/tcp".into()]),
            host_config: Some(HostConfig {
                memory: Some(512 << 20),
                auto_remove: Some(given.auto_remove),
                port_bindings: given.network_mode.is_none().then(|| {
                    HashMap::from([(
                        "8000/tcp".to_owned(),
                        Some(vec![PortBinding {
                            host_ip: Some("127.0.0.1".into()),
                            host_port: Some(given.port.map_or(String::new(), |p| p.to_string())),
                        }]),
                    )])
                }),
                network_mode: given.network_mode,
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = self.engine.create(&name, body).await.unwrap();
        if given.start {
            self.engine.start(&id).await.unwrap();
        }
        self.originals.push(id.clone());
        id
    }

    pub(crate) fn spec(&self, target: DockerRef) -> SutSpec {
        SutSpec {
            kind: SutKind::Docker(target),
            url: "http://127.0.0.1:0".into(),
            ready: ReadySpec {
                path: "/ready".into(),
                timeout: Duration::from_secs(20),
            },
            env: BTreeMap::from([("ADDED".to_owned(), Secret::new("added-value-11"))]),
        }
    }

    pub(crate) fn service(&self, suffix: &str) -> DockerRef {
        DockerRef::Service {
            service: suffix.into(),
            project: Some(self.prefix.clone()),
        }
    }

    pub(crate) fn sut(&self, suffix: &str) -> DockerSut {
        let target = self.service(suffix);
        self.sut_of(&self.spec(target.clone()), &target, self.engine.clone())
    }

    pub(crate) fn sut_of(&self, spec: &SutSpec, target: &DockerRef, engine: Engine) -> DockerSut {
        DockerSut::new(engine, spec, target, &self.prefix, self.results.path())
    }

    pub(crate) async fn listed(&self, id: &str) -> Option<Listed> {
        let all = self.engine.list().await.unwrap();
        all.into_iter().find(|c| c.id == id)
    }

    /// Containers of this test's runs that are left.
    pub(crate) async fn left_over(&self) -> Vec<String> {
        let all = self.engine.list().await.unwrap();
        all.into_iter()
            .filter(|c| c.label(RUN) == Some(self.prefix.as_str()))
            .map(|c| c.name)
            .collect()
    }

    /// I1 and I2.
    pub(crate) async fn assert_given_back(&self, id: &str, name: &str, running: bool, when: &str) {
        let c = self
            .listed(id)
            .await
            .unwrap_or_else(|| panic!("original gone: {when}"));
        assert_eq!((c.name.as_str(), c.is_up()), (name, running), "{when}");
        assert_eq!(self.left_over().await, Vec::<String>::new(), "{when}");
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        let (engine, prefix, originals) = (self.engine.clone(), self.prefix.clone(), self.originals.clone());
        let work = async move {
            for c in engine.list().await.unwrap_or_default() {
                let ours = c.name.starts_with(&prefix)
                    || originals.contains(&c.id)
                    || c.label(ORIGINAL)
                        .is_some_and(|o| originals.iter().any(|i| i == o));
                if ours {
                    let _ = engine.remove(&c.id).await;
                }
            }
        };
        let _ = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work);
        })
        .join();
    }
}

pub(crate) fn parameters() -> Vec<Parameter> {
    let parameter = |name: &str, binding, domain| Parameter {
        name: name.into(),
        domain,
        baseline: Value::Int(1),
        binding,
        only_if: None,
    };
    let int = || Domain::Int {
        low: 1,
        high: 512,
        step: 1,
        log: false,
    };
    let float = Domain::Float {
        low: 0.1,
        high: 1.0,
        step: None,
        log: false,
    };
    let modes = ["ok", "crash", "deaf"];
    vec![
        parameter("pool_size", Binding::Env("POOL_SIZE".into()), int()),
        parameter(
            "mode",
            Binding::Env("MODE".into()),
            Domain::Choice {
                values: modes.iter().map(|m| Value::Text((*m).into())).collect(),
            },
        ),
        parameter("cpus", Binding::Limit(Limit::Cpus), float),
        parameter("memory", Binding::Limit(Limit::Memory), int()),
    ]
}

pub(crate) fn config(pool: i64, mode: &str) -> Config {
    [
        ("pool_size".to_owned(), Value::Int(pool)),
        ("mode".to_owned(), Value::Text(mode.into())),
        ("cpus".to_owned(), Value::Float(0.5)),
        ("memory".to_owned(), Value::Int(64)),
    ]
    .into_iter()
    .collect()
}

/// The body of a GET, or how it failed.
pub(crate) async fn get(url: &str) -> Result<String, String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .get(url)
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .map_err(|e| e.to_string())?;
    answer.text().await.map_err(|e| e.to_string())
}

/// Asks until `done`, at most 20 s.
pub(crate) async fn eventually(mut done: impl AsyncFnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < deadline {
        if done().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
