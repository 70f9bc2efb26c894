//! The right code on the real stack: each binding constraint is staged with the demo API, its capacity searched as in a
//! trial, and the diagnosis must name what was staged. Some run with every `make test`; `make diagnosis` sets
//! AUTOTUNE_TEST_DIAGNOSIS and runs them all. With AUTOTUNE_RECORD set as well, the measurements are kept in
//! tests/fixtures/diagnosis, which `diagnosis_recorded` judges again without any stack.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use autotune::capacity::{Plan, ProbePlan};
use autotune::diagnosis::{Code, Confidence, Diagnosis, Evidence, Facts, Knob, KnobKind, diagnose};
use autotune::load::Generator;
use autotune::measurement::{Bin, Measurement};
use autotune::probing::{Attendant, Drive, find_capacity};
use autotune::slo::Slo;
use autotune::spec::{Arrivals, LoadSpec, RequestSpec, Secret, TelemetrySpec, VarSource};
use autotune::telemetry::Telemetry;
use autotune::trial::Probe;
use autotune::units::{Ratio, Rps};

use crate::support::{Stack, root, stack_wanted};

const PORT: u16 = 18_700;

/// The scenarios share one project and its ports.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is staged.
struct Scene {
    name: &'static str,
    /// Variables of docker-compose.yml.
    stack: &'static [(&'static str, &'static str)],
    requests: Vec<RequestSpec>,
    connections: u32,
    start: f64,
    max: f64,
    code: Code,
    /// Part of every test run.
    quick: bool,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            name: "",
            stack: &[],
            requests: vec![get("/items/{id}")],
            connections: 512,
            start: 20.0,
            max: 2_000.0,
            code: Code::Unknown,
            quick: false,
        }
    }
}

fn get(path: &str) -> RequestSpec {
    RequestSpec {
        weight: 1.0,
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: None,
        expect: vec![200],
        expect_body: None,
    }
}

fn post(path: &str, body: &str) -> RequestSpec {
    RequestSpec {
        method: "POST".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: Some(body.as_bytes().to_vec()),
        ..get(path)
    }
}

impl Scene {
    fn load(&self) -> LoadSpec {
        LoadSpec {
            timeout: Duration::from_secs(5),
            connections: self.connections,
            arrivals: Arrivals::Uniform,
            headers: Vec::new(),
            requests: self.requests.clone(),
            vars: BTreeMap::from([("id".to_owned(), VarSource::Range(1, 1_000))]),
            cpu: None,
            keep_alive: true,
            allow_remote: Vec::new(),
            agents: Default::default(),
        }
    }

    fn variable(&self, name: &str, otherwise: f64) -> f64 {
        let given = self.stack.iter().find(|(n, _)| *n == name);
        given.map_or(otherwise, |(_, v)| v.parse().unwrap())
    }

    fn facts(&self) -> Facts {
        let knob = |name: &str, kind, env: &str, otherwise: f64| Knob {
            name: name.to_owned(),
            kind,
            value: Some(self.variable(env, otherwise).to_string()),
            no_room_up: None,
            no_room_down: None,
        };
        Facts {
            pool_timeout_s: Some(self.variable("POOL_TIMEOUT", 1.0)),
            pool_total: Some(self.variable("POOL_SIZE", 2.0) * self.variable("WORKERS", 1.0)),
            database_cores: None,
            database_elsewhere: false,
            slo_errors: 0.05,
            knobs: vec![
                knob("pool_size", KnobKind::Pool, "POOL_SIZE", 2.0),
                knob("cpus", KnobKind::Cpus, "API_CPUS", 1.0),
                knob("workers", KnobKind::Workers, "WORKERS", 1.0),
            ],
            failure: None,
        }
    }
}

/// The plain load of most scenes.
pub(crate) fn plain_load() -> LoadSpec {
    Scene::default().load()
}

/// The load engine, as the study drives it.
struct Real(Generator);

impl Drive for Real {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        self.0.drive(plan, watch).await.map_err(|e| e.to_string())
    }
}

/// Samples around every probe.
struct Sampling {
    telemetry: Telemetry,
    lead_in: Duration,
}

impl Attendant for Sampling {
    async fn before(&mut self, _: u32, plan: &ProbePlan) {
        self.lead_in = plan.lead_in;
        self.telemetry.start();
    }

    async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String> {
        let window = Duration::from_secs_f64(probe.measurement.window_s);
        let sampled = self.telemetry.stop_within(self.lead_in, window).await;
        probe.telemetry = sampled.figures;
        println!(
            "{:>3} {:?} {} -> {:?} good {:.0}/s p50 {:.0} ms {:?}: {} {:?}",
            probe.number,
            probe.phase,
            probe.measurement.offered,
            probe.verdict,
            probe.measurement.goodput_rps(),
            probe.measurement.latency_ms.p50,
            probe.measurement.errors,
            probe.reason,
            sampled.warnings,
        );
        Ok(())
    }

    async fn restart(&mut self, _: Rps) -> Result<bool, String> {
        Ok(false)
    }
}

fn plan(scene: &Scene) -> Plan {
    let slo = Slo {
        errors: Ratio::saturating(0.05),
        ..Slo::default()
    };
    Plan {
        prior: Some(Rps::saturating(scene.start)),
        precision: Ratio::saturating(0.1),
        confirm: Duration::from_secs(6),
        warm_up: Duration::from_secs(4),
        max_probes: 40,
        ..Plan::new(slo, Rps::saturating(scene.max))
    }
}

fn telemetry_spec() -> TelemetrySpec {
    TelemetrySpec {
        postgres: Some(Secret::new(format!(
            "postgres://shop:shop@127.0.0.1:{}/shop",
            PORT + 1
        ))),
        redis: Some(Secret::new(format!("redis://127.0.0.1:{}", PORT + 2))),
        pool: Some("/pool".to_owned()),
    }
}

/// Whether all scenes run, not only the quick ones of every test run.
fn all_wanted() -> bool {
    let wanted = std::env::var_os("AUTOTUNE_TEST_DIAGNOSIS").is_some();
    if !wanted {
        println!("skipped: one of the long ones; `make diagnosis` runs them all");
    }
    wanted
}

/// Stages the scene, measures it as a trial does, and judges.
fn staged(scene: &Scene) -> Option<(Diagnosis, Vec<Probe>)> {
    if !stack_wanted() || !(scene.quick || all_wanted()) {
        return None;
    }
    let _one = alone();
    let stack = Stack::up("atdiag", PORT, scene.stack);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let probes = runtime.block_on(async {
        let url = format!("http://127.0.0.1:{PORT}");
        let telemetry = Telemetry::open(&telemetry_spec(), &url, &[stack.api().0], &[]).await;
        assert_eq!(
            telemetry.warnings(),
            [""; 0],
            "every source of the demo stack must open"
        );
        let generator = Generator::prepare(&scene.load(), &[url], 1).unwrap();
        let mut sampling = Sampling {
            telemetry,
            lead_in: Duration::ZERO,
        };
        let (capacity, probes) = find_capacity(&plan(scene), Vec::new(), &mut Real(generator), &mut sampling)
            .await
            .unwrap();
        println!("{capacity:?}");
        probes
    });
    let facts = scene.facts();
    let found = diagnose(&Evidence {
        probes: &probes,
        facts: &facts,
    });
    println!("{found:#?}");
    record(scene, &facts, &probes);
    Some((found, probes))
}

/// Keeps what was measured, without the bins: the diagnosis does not look at them.
fn record(scene: &Scene, facts: &Facts, probes: &[Probe]) {
    if std::env::var_os("AUTOTUNE_RECORD").is_none() {
        return;
    }
    let mut probes = probes.to_vec();
    for p in &mut probes {
        p.measurement.bins.clear();
    }
    let kept = serde_json::json!({
        "code": scene.code,
        "staged": scene.stack.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        "facts": facts,
        "probes": probes,
    });
    let folder = root().join("tests/fixtures/diagnosis");
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join(format!("{}.json", scene.name)),
        serde_json::to_string(&kept).unwrap() + "\n",
    )
    .unwrap();
}

#[track_caller]
fn assert_named(scene: &Scene) {
    if let Some((found, probes)) = staged(scene) {
        let last = probes.iter().rev().find(|p| !p.telemetry.is_empty());
        let figures = last.map(|p| &p.telemetry);
        assert_eq!(found.code, scene.code, "{}: {found:#?}\n{figures:#?}", scene.name);
        assert!(
            found.confidence >= Confidence::Medium,
            "{}: {found:#?}",
            scene.name
        );
    }
}

#[test]
fn stack_diagnosis_pool_too_small() {
    assert_named(&Scene {
        name: "pool_too_small",
        quick: true,
        stack: &[("POOL_SIZE", "2")],
        code: Code::PoolWait,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_pool_too_small_with_a_long_timeout() {
    assert_named(&Scene {
        name: "pool_too_small_silent",
        stack: &[("POOL_SIZE", "4"), ("POOL_TIMEOUT", "30")],
        code: Code::PoolWait,
        start: 40.0,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_pool_far_too_large_for_the_database() {
    assert_named(&Scene {
        name: "pool_too_large",
        stack: &[
            ("POOL_SIZE", "90"),
            ("HOLD_MS", "0"),
            ("DB_ROWS", "300000"),
            ("API_CPUS", "2.0"),
            ("POOL_TIMEOUT", "10"),
        ],
        start: 8.0,
        code: Code::PoolTooLarge,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_max_connections_below_the_pool() {
    assert_named(&Scene {
        name: "max_connections",
        stack: &[
            ("POSTGRES_MAX_CONNECTIONS", "20"),
            ("POOL_SIZE", "50"),
            ("HOLD_MS", "100"),
        ],
        start: 60.0,
        code: Code::MaxConnections,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_cpu_quota() {
    assert_named(&Scene {
        name: "cpu_quota",
        stack: &[("API_CPUS", "0.25"), ("POOL_SIZE", "10"), ("CPU_MS", "20")],
        start: 8.0,
        code: Code::CpuQuota,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_one_busy_event_loop() {
    assert_named(&Scene {
        name: "one_core",
        stack: &[
            ("API_CPUS", "2.0"),
            ("CPU_MS", "15"),
            ("POOL_SIZE", "20"),
            ("HOLD_MS", "5"),
        ],
        start: 30.0,
        code: Code::OneCore,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_memory_limit_kills_a_worker() {
    assert_named(&Scene {
        name: "memory",
        stack: &[
            ("API_MEMORY", "256M"),
            ("WORKERS", "2"),
            ("LEAK_KB", "512"),
            ("POOL_SIZE", "20"),
            ("HOLD_MS", "5"),
        ],
        start: 60.0,
        code: Code::Memory,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_rate_limiter_at_30_rps() {
    assert_named(&Scene {
        name: "rate_limiter",
        stack: &[("RATE_LIMIT_RPS", "30"), ("POOL_SIZE", "20")],
        code: Code::RateLimiter,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_rate_limiter_that_says_503() {
    assert_named(&Scene {
        name: "rate_limiter_503",
        stack: &[
            ("RATE_LIMIT_RPS", "30"),
            ("RATE_LIMIT_STATUS", "503"),
            ("POOL_SIZE", "20"),
        ],
        code: Code::RateLimiter,
        ..Scene::default()
    });
}

/// The report's mix: one request works; a missing token, a wrong path and a wrong body never do.
fn broken_mix() -> Vec<RequestSpec> {
    let token = ("authorization".to_owned(), "Bearer let-me-in".to_owned());
    let with_token = |r: RequestSpec| RequestSpec {
        headers: [r.headers.clone(), vec![token.clone()]].concat(),
        ..r
    };
    vec![
        with_token(get("/items?hold_ms=2")),
        get("/items/{id}"),
        with_token(get("/itemz/{id}")),
        with_token(RequestSpec {
            expect: vec![201],
            ..post("/orders", "{\"item_id\": \"one\"}")
        }),
    ]
}

#[test]
fn stack_diagnosis_broken_mix() {
    assert_named(&Scene {
        name: "broken_mix",
        stack: &[("AUTH_TOKEN", "let-me-in"), ("POOL_SIZE", "10")],
        requests: broken_mix(),
        start: 25.0,
        max: 200.0,
        code: Code::BrokenMix,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_database_lock() {
    assert_named(&Scene {
        name: "database_locks",
        quick: true,
        stack: &[("POOL_SIZE", "20"), ("HOLD_MS", "20")],
        requests: vec![post("/reserve", "{\"item_id\": 7, \"quantity\": 1}")],
        code: Code::DatabaseLocks,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_redis_pool_too_small() {
    assert_named(&Scene {
        name: "redis_pool",
        stack: &[
            ("REDIS_MAX_CONNECTIONS", "2"),
            ("REDIS_HOLD_MS", "50"),
            ("POOL_SIZE", "20"),
        ],
        requests: vec![get("/visits")],
        code: Code::RedisPool,
        ..Scene::default()
    });
}

#[test]
fn stack_diagnosis_generator_held_by_one_connection() {
    assert_named(&Scene {
        name: "generator",
        stack: &[("POOL_SIZE", "20"), ("HOLD_MS", "38")],
        connections: 1,
        start: 40.0,
        max: 360.0,
        code: Code::Generator,
        ..Scene::default()
    });
}
