//! The load engine against real sockets: schedules, outcome classes, in-flight counts, early ends.
//!
//! Asserted are counts and facts the server saw, never how fast this machine was.

use std::ops::ControlFlow;
use std::time::Duration;

use autotune::capacity::{ProbePhase, ProbePlan};
use autotune::load::Generator;
use autotune::measurement::{Bin, Measurement, OutcomeClass, generator_verdict};
use autotune::spec::LoadSpec;
use autotune::units::Rps;

use crate::load_server::{self, Script, Server};

pub(crate) fn plan(rate: f64, window: Duration) -> ProbePlan {
    let mut plan = ProbePlan::new(ProbePhase::Growth, Rps::new(rate).unwrap(), window);
    plan.drain = Duration::from_secs(5);
    plan
}

pub(crate) async fn drive(spec: &LoadSpec, url: &str, plan: &ProbePlan) -> Measurement {
    let generator = Generator::prepare(spec, &[url.to_owned()], 1).unwrap();
    generator
        .drive(plan, &mut |_| ControlFlow::Continue(()))
        .await
        .unwrap()
}

fn errors(m: &Measurement) -> u64 {
    m.errors.values().sum()
}

#[tokio::test]
async fn every_arrival_of_the_window_is_sent_and_answered() {
    let server = Server::start(Script::ok()).await;
    let mut p = plan(200.0, Duration::from_secs(1));
    p.lead_in = Duration::from_millis(500);
    let mut bins: Vec<Bin> = Vec::new();
    let generator = Generator::prepare(&load_server::spec(), &[server.url()], 1).unwrap();
    let mut watch = |b: &Bin| {
        bins.push(*b);
        ControlFlow::Continue(())
    };
    let m = generator.drive(&p, &mut watch).await.unwrap();
    assert_eq!(m.scheduled, 200);
    assert_eq!(m.good + errors(&m) + m.in_flight_end, 200);
    assert_eq!(errors(&m), 0, "{:?}", m.errors);
    assert_eq!(m.in_flight_after_drain, 0);
    assert_eq!(server.requests(), 300, "the lead-in is sent too");
    assert_eq!(bins.len(), 2);
    assert_eq!(m.bins.iter().map(|b| b.scheduled).sum::<u64>(), 200);
    assert!(m.stopped_early.is_none() && m.drained_s.is_some());
}

#[tokio::test]
async fn a_watch_ends_the_window_early() {
    let server = Server::start(Script::ok()).await;
    let generator = Generator::prepare(&load_server::spec(), &[server.url()], 1).unwrap();
    let mut watch = |_: &Bin| ControlFlow::Break("enough".to_owned());
    let m = generator
        .drive(&plan(100.0, Duration::from_secs(60)), &mut watch)
        .await
        .unwrap();
    assert_eq!(m.stopped_early.as_deref(), Some("enough"));
    assert!(m.window_s < 30.0 && m.scheduled < 3_000);
    assert_eq!(m.good + errors(&m) + m.in_flight_end, m.scheduled);
}

#[tokio::test]
async fn what_is_in_flight_at_the_end_is_counted_apart() {
    // Nothing is answered: everything is in flight at the end, and given up after the drain.
    let server = Server::start(Script::silent()).await;
    let mut spec = load_server::spec();
    spec.timeout = Duration::from_secs(30);
    let mut p = plan(100.0, Duration::from_millis(500));
    p.drain = Duration::from_millis(200);
    let m = drive(&spec, &server.url(), &p).await;
    assert_eq!(
        (m.scheduled, m.good, m.in_flight_end, m.in_flight_after_drain),
        (50, 0, 50, 50)
    );
    assert_eq!(m.sent, 50);
    assert!(m.drained_s.is_none());
    assert!((m.loss() - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn requests_time_out_from_their_scheduled_time() {
    let server = Server::start(Script::silent()).await;
    let mut spec = load_server::spec();
    spec.timeout = Duration::from_millis(200);
    let m = drive(&spec, &server.url(), &plan(100.0, Duration::from_secs(1))).await;
    assert_eq!(m.scheduled, 100);
    assert_eq!(m.good, 0);
    assert!(m.count(OutcomeClass::ClientTimeout) >= 70, "{:?}", m.errors);
    assert_eq!(m.in_flight_after_drain, 0);
    assert!(
        m.error_latency_ms.p50 >= 200.0,
        "no request may time out early: {:?}",
        m.error_latency_ms
    );
}

#[tokio::test]
async fn a_refused_connection_is_its_own_class() {
    // A port that was free a moment ago and is not listened on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let m = drive(
        &load_server::spec(),
        &format!("http://127.0.0.1:{port}"),
        &plan(50.0, Duration::from_secs(1)),
    )
    .await;
    assert_eq!((m.scheduled, m.sent, m.good), (50, 0, 0));
    assert!(m.count(OutcomeClass::ConnectRefused) >= 49, "{:?}", m.errors);
}

#[tokio::test]
async fn several_endpoints_take_turns() {
    let (a, b) = (
        Server::start(Script::ok()).await,
        Server::start(Script::ok()).await,
    );
    let generator = Generator::prepare(&load_server::spec(), &[a.url(), b.url()], 1).unwrap();
    let m = generator
        .drive(&plan(100.0, Duration::from_secs(1)), &mut |_| {
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!((a.requests(), b.requests()), (50, 50));
    assert_eq!(m.by_endpoint.len(), 2);
}

#[tokio::test]
async fn without_keep_alive_every_request_has_its_connection() {
    let server = Server::start(Script::ok()).await;
    let mut spec = load_server::spec();
    spec.keep_alive = false;
    let m = drive(&spec, &server.url(), &plan(50.0, Duration::from_secs(1))).await;
    assert_eq!(m.good + m.in_flight_end, 50, "{:?}", m.errors);
    assert_eq!(server.connections(), 50);
}

#[tokio::test]
async fn few_connections_make_requests_wait_and_the_wait_counts() {
    // 50 ms an answer on one connection is 20 rps; 40 rps are offered. Half of them wait, and all waiting is latency.
    let server = Server::start(Script::slow(Duration::from_millis(50))).await;
    let mut spec = load_server::spec();
    spec.connections = 1;
    let m = drive(&spec, &server.url(), &plan(40.0, Duration::from_secs(2))).await;
    assert_eq!(m.scheduled, 80);
    assert_eq!(server.connections(), 1);
    assert!(m.in_flight_end >= 35, "{}", m.in_flight_end);
    assert_eq!(m.in_flight_after_drain, 0, "the backlog is sent in the drain");
    assert!(m.latency_ms.p99 > m.service_ms.p99 * 5.0);
    // The service was idle and the generator's own bound was met: the probe says nothing of the service.
    assert!(
        generator_verdict(&m, None)
            .iter()
            .any(|r| r.contains("connections")),
        "{:?}",
        m.generator
    );
}

#[tokio::test]
async fn dropping_the_drive_stops_the_load() {
    let server = Server::start(Script::ok()).await;
    let generator = Generator::prepare(&load_server::spec(), &[server.url()], 1).unwrap();
    let p = plan(500.0, Duration::from_secs(60));
    let mut seen = 0;
    let mut watch = |_: &Bin| {
        seen += 1;
        ControlFlow::Continue(())
    };
    let _ = tokio::time::timeout(Duration::from_millis(700), generator.drive(&p, &mut watch)).await;
    // All connections are closed, which is the end of the load whatever the machine does.
    server.until_idle().await;
    let after = server.requests();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.requests(), after);
    assert!(after > 0 && after < 30_000);
}

#[tokio::test]
async fn a_sample_shows_what_came_back() {
    let server = Server::start(Script::answer(
        503,
        "{\"detail\": \"QueuePool limit of size 5 overflow 10 reached\"}",
    ))
    .await;
    let generator = Generator::prepare(&load_server::spec(), &[server.url()], 1).unwrap();
    let rows = generator.sample(2, Duration::from_millis(1)).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].status, rows[0].class),
        (Some(503), OutcomeClass::PoolTimeout)
    );
    assert!(rows[0].body.contains("QueuePool"));
    assert_eq!(rows[0].line, "GET /");
}
