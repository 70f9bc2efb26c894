//! The capacity search on real sockets against services whose capacity is known by construction, through the binary: the
//! answer is within 3 % of the truth, whatever the pool's timeout.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::capacity_service::{Build, Service};
use super::support::AUTOTUNE;

/// `autotune capacity --json` on `url`, started. The long timeout allows the generator as much lag: a machine that others
/// use at the same time is late, and a void probe says nothing of the service.
pub fn search(url: &str, more: &[&str]) -> Child {
    Command::new(AUTOTUNE)
        .args(["capacity", "--json", "--timeout", "60s", "--url", url])
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

/// Searches all `services` at once and asserts each answer. A machine that stops everything for half a second is a
/// service that stalled: what is wrong is asked once more, alone, and then counts.
fn all_right(services: &[(f64, u64, Service)], more: &[&str]) {
    let run = |service: &Service| search(&service.url(), &[&["--max-rate", "20000"], more].concat());
    let running: Vec<Child> = services.iter().map(|(_, _, service)| run(service)).collect();
    for ((capacity, timeout, service), child) in services.iter().zip(running) {
        let name = format!("{capacity} rps, pool timeout {timeout} s");
        if let Err(why) = right(*capacity, &name, child) {
            println!("asked again: {why}");
            right(*capacity, &name, run(service)).unwrap();
        }
    }
}

/// Whether the answer is right for a service of `capacity`.
fn right(capacity: f64, name: &str, child: Child) -> Result<(), String> {
    let (json, code, said) = found(child);
    let rate = json["sustainable_rps"].as_f64().unwrap_or(0.0);
    let peak = json["peak_offered_rps"].as_f64().unwrap_or(f64::MAX);
    let seconds = json["seconds"].as_f64().unwrap_or(0.0);
    println!("{name}: {rate:.1} of {capacity} rps in {seconds:.0} s, peak {peak:.1}");
    let fine = code == 0
        && json["verdict"] == "sustainable"
        && (rate / capacity - 1.0).abs() <= 0.03
        && peak < 2.0 * capacity;
    if fine {
        Ok(())
    } else {
        Err(format!("{name}: {rate:.1} rps, {}\n{said}", json["verdict"]))
    }
}

/// Two services of `capacity`, with pool timeouts of 1 and 30 s.
fn pair(capacity: f64, workers: usize) -> [(f64, u64, Service); 2] {
    [1, 30].map(|timeout| {
        let build = Build::of(capacity, workers, Duration::from_secs(timeout));
        (capacity, timeout, Service::start(build))
    })
}

/// At twice the capacity a pool with SQLAlchemy's timeout fails nobody for 30 s: judged by error responses the answer is
/// +50 to +400 % off. All at once: the services sleep most of the time.
#[test]
fn capacities_by_construction_are_found_whatever_the_pool_timeout() {
    let services: Vec<_> = pair(20.0, 2).into_iter().chain(pair(200.0, 10)).collect();
    all_right(&services, &[]);
}

/// The same at 2,000 rps, one after the other, with a shorter confirmation: it has 20,000 requests.
#[test]
fn two_thousand_requests_a_second_are_found_too() {
    for service in pair(2_000.0, 40) {
        all_right(&[service], &["--confirm", "10s"]);
    }
}
