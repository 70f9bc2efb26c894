//! `autotune ladder` and closed-loop users against real sockets. Asserted are counts and facts that the server saw.

use std::process::Command;
use std::time::Duration;

use autotune::load::{Generator, UsersPlan};
use autotune::measurement::OutcomeClass;

use crate::load_server::{self, Script, Server};
use crate::support::{AUTOTUNE, output};

fn plan(users: u32, think: Duration) -> UsersPlan {
    UsersPlan {
        users,
        lead_in: Duration::ZERO,
        window: Duration::from_secs(1),
        think,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_user_has_one_request_under_way_and_thinks_after_it() {
    let server = Server::start(Script::slow(Duration::from_millis(50))).await;
    let generator = Generator::prepare(&load_server::spec(), &[server.url()], 1).unwrap();
    let m = generator
        .users(plan(4, Duration::from_millis(200)))
        .await
        .unwrap();
    // A turn takes 250 ms at least: four or five requests in a second, never more.
    assert!(m.sent >= 4 && m.sent <= 4 * 5, "{}", m.sent);
    assert_eq!(m.good + m.in_flight_end, m.sent, "{:?}", m.errors);
    assert_eq!(server.requests() as u64, m.sent);
    assert_eq!(server.connections(), 4, "a user keeps its connection");
    assert!(m.latency_ms.p50 >= 50.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answers_and_silence_are_counted_by_class() {
    let refused = Server::start(Script::answer(401, "no token")).await;
    let generator = Generator::prepare(&load_server::spec(), &[refused.url()], 1).unwrap();
    let m = generator
        .users(plan(2, Duration::from_millis(100)))
        .await
        .unwrap();
    let n = m.errors.get(&OutcomeClass::ClientError).copied().unwrap_or(0);
    assert!(n > 0 && m.good == 0, "{m:?}");
    assert_eq!(m.statuses.get(&401).copied(), Some(n));

    let silent = Server::start(Script::silent()).await;
    let mut spec = load_server::spec();
    spec.timeout = Duration::from_millis(200);
    let generator = Generator::prepare(&spec, &[silent.url()], 1).unwrap();
    let m = generator.users(plan(2, Duration::ZERO)).await.unwrap();
    assert!(
        m.errors.get(&OutcomeClass::ClientTimeout).is_some_and(|n| *n > 0),
        "{m:?}"
    );
}

#[test]
fn the_ladder_prints_a_row_a_step_and_the_same_requests_every_time() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start(Script::ok()));
    let climb = |more: &[&str]| {
        let out = output(
            Command::new(AUTOTUNE)
                .args([
                    "ladder",
                    "--url",
                    &format!("{}/x", server.url()),
                    "--rates",
                    "20,40",
                    "--users",
                    "3",
                ])
                .args([
                    "--step",
                    "1s",
                    "--lead-in",
                    "0s",
                    "--rest",
                    "0s",
                    "--think",
                    "200ms",
                ])
                .args(more),
        );
        assert_eq!(
            out.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let json = || -> serde_json::Value { serde_json::from_str(&climb(&["--json"])).unwrap() };
    let (first, second) = (json(), json());
    let steps = first["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    assert_eq!(
        (&steps[0]["scheduled"], &steps[1]["scheduled"]),
        (&20.into(), &40.into())
    );
    assert_eq!(steps[2]["users"], 3);
    assert!(steps[2]["verdict"].is_null(), "users' rate is no promise");
    for i in 0..2 {
        assert_eq!(
            first["steps"][i]["scheduled"], second["steps"][i]["scheduled"],
            "it is repeatable"
        );
        assert!(
            first["steps"][i]["errors"]
                .as_object()
                .is_some_and(serde_json::Map::is_empty)
        );
    }
    let table = climb(&[]);
    assert!(
        table.contains("20 rps") && table.contains("3 users") && table.contains("p95"),
        "{table}"
    );
}

#[test]
fn a_ladder_needs_to_know_where_to() {
    let out = output(Command::new(AUTOTUNE).args(["ladder", "--rates", "5"]));
    assert_eq!(out.status.code(), Some(2));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/quickstart.toml");
    let out = output(Command::new(AUTOTUNE).args(["ladder", "--space", file]));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(65), "{said}");
    assert!(said.contains("no fixed port"), "{said}");
}
