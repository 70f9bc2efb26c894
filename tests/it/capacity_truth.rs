//! The capacity search on real sockets against services whose capacity is known by construction, through the binary: the
//! answer is within 3 % of the truth, whatever the pool's timeout.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::capacity_service::{Build, Service};
use super::support::AUTOTUNE;

/// `autotune capacity --json` on `url`, started.
pub fn search(url: &str, more: &[&str]) -> Child {
    Command::new(AUTOTUNE)
        .args(["capacity", "--json", "--url", url])
        .args(more)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its document, exit code and what it said on the way.
pub fn found(child: Child) -> (Value, i32, String) {
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let text = String::from_utf8_lossy(&out.stdout);
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    (value, out.status.code().unwrap_or(-1), said)
}

/// Asserts the answer for a service of `capacity`.
fn is_right(capacity: f64, name: &str, child: Child) {
    let (json, code, said) = found(child);
    let rate = json["sustainable_rps"].as_f64().unwrap_or(0.0);
    println!(
        "{name}: {rate:.1} of {capacity} rps in {:.0} s\n{said}",
        json["seconds"].as_f64().unwrap_or(0.0)
    );
    assert_eq!(code, 0, "{name}: {json}");
    assert_eq!(json["verdict"], "sustainable", "{name}: {said}");
    assert!(
        (rate / capacity - 1.0).abs() <= 0.03,
        "{name}: {rate:.1} rps where {capacity} are the truth\n{said}"
    );
    let peak = json["peak_offered_rps"].as_f64().unwrap_or(f64::MAX);
    assert!(
        peak < 2.0 * capacity,
        "{name}: {peak:.1} rps were offered\n{said}"
    );
}

/// At twice the capacity a pool with SQLAlchemy's timeout fails nobody for 30 s: judged by error responses the answer is
/// +50 to +400 % off. All at once: the services sleep most of the time.
#[test]
fn capacities_by_construction_are_found_whatever_the_pool_timeout() {
    let cases: Vec<(f64, u64, Service)> = [(20.0, 2), (200.0, 10)]
        .into_iter()
        .flat_map(|(capacity, workers)| [1_u64, 30].map(|timeout| (capacity, workers, timeout)))
        .map(|(capacity, workers, timeout)| {
            let build = Build::of(capacity, workers, Duration::from_secs(timeout));
            (capacity, timeout, Service::start(build))
        })
        .collect();
    let running: Vec<Child> = cases
        .iter()
        .map(|(_, _, service)| search(&service.url(), &["--max-rate", "5000", "--timeout", "40s"]))
        .collect();
    for ((capacity, timeout, _), child) in cases.iter().zip(running) {
        is_right(
            *capacity,
            &format!("{capacity} rps, pool timeout {timeout} s"),
            child,
        );
    }
}
