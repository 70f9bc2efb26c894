//! What `autotune capacity` says where there is no capacity to find: services that are not there or answer something else,
//! rate limiters, limits of the user's or the generator's own, services that do not come back. Real sockets.

use std::ops::ControlFlow;
use std::time::Duration;

use autotune::capacity::{CapacityVerdict, Plan, ProbePlan};
use autotune::load::{Generator, LoadError};
use autotune::measurement::{Bin, Measurement};
use autotune::probing::{Attendant, Drive, find_capacity};
use autotune::slo::Slo;
use autotune::trial::Probe;
use autotune::units::Rps;
use serde_json::Value;

use super::capacity_service::{Build, Service};
use super::capacity_truth::{found, search};
use super::load_server::{Script, Server, Then, spec};

/// Most requests of an idle check: a handful at rest, asked twice, and again where this machine was too busy to ask.
const AT_REST: usize = 40;

fn reasons(json: &Value) -> String {
    let list = json["reasons"].as_array().unwrap();
    list.iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn nobody_listening_is_said_before_any_probe() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}/items");
    let (json, code, said) = found(search(&url, &[]));
    assert_eq!((code, &json["code"]), (69, &Value::from(69)), "{said}");
    assert!(json.get("probes").is_none(), "{json}");
    assert!(
        said.contains(&format!("127.0.0.1:{port}")) && said.contains("is the service running?"),
        "{said}"
    );
}

/// Redirects and refusals to everything end at the idle check with the status table and what to do.
#[tokio::test]
async fn wrong_answers_to_everything_are_said_at_the_idle_check_before_any_load() {
    let elsewhere = Script::bytes(
        "HTTP/1.1 302 X\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        Then::KeepOpen,
    );
    let cases = [
        (elsewhere, "302", "redirects are not followed"),
        (Script::answer(404, "no such page"), "404", "path"),
        (Script::answer(401, "who are you"), "401", "--header"),
        (Script::answer(500, "oops"), "500", "its log"),
    ];
    for (script, status, advice) in cases {
        let server = Server::start(script).await;
        let url = format!("{}/items", server.url());
        let child = search(&url, &["--max-rate", "1000"]);
        let (json, code, said) = tokio::task::spawn_blocking(move || found(child)).await.unwrap();
        assert_eq!(code, 69, "{status}: {said}");
        assert_eq!(json["verdict"], "none");
        assert!(json["sustainable_rps"].is_null());
        let why = reasons(&json);
        assert!(
            why.contains(&format!("{status}: ")) && why.contains(advice),
            "{status}: {why}"
        );
        let probes = json["probes"].as_array().unwrap();
        assert!(probes.iter().all(|p| p["phase"] == "idle"), "{probes:?}");
        assert!(server.requests() <= AT_REST, "{} requests", server.requests());
    }
}

#[test]
fn a_rate_limiter_is_policy_and_not_capacity() {
    let service = Service::start(Build {
        limiter: Some(100.0),
        ..Build::of(5_000.0, 50, Duration::from_secs(1))
    });
    let (json, code, said) = found(search(&service.url(), &["--max-rate", "2000", "--confirm", "5s"]));
    let why = reasons(&json);
    assert!(why.contains("policy, not capacity"), "{why}\n{said}");
    assert_eq!(code, 0, "{said}");
    let rate = json["sustainable_rps"].as_f64().unwrap();
    assert!(
        (95.0..=110.0).contains(&rate),
        "{rate} rps of a limit of 100\n{said}"
    );
}

#[test]
fn the_highest_rate_allowed_is_a_lower_bound_and_nothing_more_is_offered() {
    let service = Service::start(Build::of(400.0, 8, Duration::from_secs(1)));
    let (json, code, said) = found(search(&service.url(), &["--max-rate", "60", "--confirm", "4s"]));
    assert_eq!(
        (code, json["verdict"].as_str()),
        (0, Some("at_least")),
        "{json}\n{said}"
    );
    assert_eq!(json["sustainable_rps"].as_f64(), Some(60.0));
    assert_eq!(json["peak_offered_rps"].as_f64(), Some(60.0));
    assert!(
        reasons(&json).contains("all is well at the highest rate allowed"),
        "{json}"
    );
}

/// Two connections carry 100 rps of a service that answers in 20 ms; it could do 1,000.
#[test]
fn too_few_connections_are_the_generators_limit_and_never_a_capacity() {
    let service = Service::start(Build::of(1_000.0, 20, Duration::from_secs(1)));
    let args = ["--max-rate", "2000", "--confirm", "4s", "--connections", "2"];
    let (json, code, said) = found(search(&service.url(), &args));
    assert_eq!(json["verdict"], "generator_limited", "{json}\n{said}");
    assert!(reasons(&json).contains("raise `connections`"), "{json}");
    assert_eq!(code, 0, "{said}");
    assert!(json["sustainable_rps"].as_f64().unwrap() < 110.0, "{json}");
}

/// What `--errors-only` makes of a full pool: no error response for 30 s, so every rate seems fine.
#[test]
fn errors_only_overlooks_a_full_pool_and_says_so() {
    let service = Service::start(Build::of(100.0, 5, Duration::from_secs(30)));
    let args = ["--errors-only", "--max-rate", "200", "--confirm", "4s"];
    let (json, _, said) = found(search(&service.url(), &args));
    let rate = json["sustainable_rps"].as_f64().unwrap_or(0.0);
    assert!(rate > 150.0, "the comparison is no longer wrong: {rate}\n{said}");
    let why = reasons(&json);
    assert!(
        why.contains("judged by error responses alone") && why.contains("never answered"),
        "{why}"
    );
}

#[test]
fn public_addresses_are_refused_unless_named() {
    // An address of the documentation's network: nobody has it.
    let url = "http://192.0.2.1:9/";
    let (json, code, said) = found(search(url, &[]));
    assert_eq!((code, &json["code"]), (77, &Value::from(77)), "{said}");
    assert!(
        said.contains("192.0.2.1") && said.contains("--allow-remote"),
        "{said}"
    );
    let mut spec = spec();
    let base = ["http://192.0.2.1:9".to_owned()];
    let refused = Generator::prepare(&spec, &base, 1);
    assert!(matches!(refused, Err(LoadError::Remote { .. })));
    spec.allow_remote = vec!["192.0.2.1".into()];
    assert!(Generator::prepare(&spec, &base, 1).is_ok());
}

struct Engine(Generator);

impl Drive for Engine {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        self.0.drive(plan, watch).await.map_err(|e| e.to_string())
    }
}

/// Deploys again by emptying the service.
struct Deployer<'a> {
    service: &'a Service,
    tripped_at: Vec<f64>,
}

impl Attendant for Deployer<'_> {
    async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String> {
        println!(
            "{} {:?} {} {}",
            probe.number, probe.phase, probe.measurement.offered, probe.reason
        );
        Ok(())
    }
    async fn restart(&mut self, tripped_at: Rps) -> Result<bool, String> {
        self.tripped_at.push(tripped_at.get());
        self.service.restart();
        Ok(true)
    }
}

/// A service that stays slow after an overload is deployed again, the load that tripped it is recorded, and nothing near
/// that load is offered any more.
#[tokio::test]
async fn a_metastable_service_is_restarted_and_named() {
    let service = Service::start(Build {
        trips_at: Some(Duration::from_millis(100)),
        ..Build::of(100.0, 5, Duration::from_secs(30))
    });
    let base = [service.url().trim_end_matches('/').to_owned()];
    let mut load = spec();
    load.timeout = Duration::from_secs(60);
    let mut engine = Engine(Generator::prepare(&load, &base, 1).unwrap());
    let mut deployer = Deployer {
        service: &service,
        tripped_at: Vec::new(),
    };
    let plan = Plan {
        confirm: Duration::from_secs(4),
        warm_up: Duration::from_secs(4),
        ..Plan::new(Slo::default(), Rps::saturating(2000.0))
    };
    let (answer, probes) = find_capacity(&plan, Vec::new(), &mut engine, &mut deployer)
        .await
        .unwrap();
    assert!(!deployer.tripped_at.is_empty(), "{answer:?}");
    let first = deployer.tripped_at[0];
    assert!(
        answer.reasons.iter().any(|r| r.starts_with("METASTABLE")),
        "{answer:?}"
    );
    assert_eq!(answer.verdict, CapacityVerdict::Sustainable, "{answer:?}");
    let rate = answer.sustainable_rps.unwrap();
    assert!((85.0..=101.0).contains(&rate), "{rate}");
    let again = probes
        .iter()
        .skip_while(|p| p.measurement.offered.get() < first)
        .skip(1)
        .all(|p| p.measurement.offered.get() < first);
    assert!(again, "{first} rps tripped it and were offered again");
}
