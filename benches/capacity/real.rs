//! Searches through the binary on real sockets, one after the other, against services whose capacity is known by
//! construction: the error of each and the coefficient of variation of all.

use std::process::Command;
use std::time::Duration;

#[path = "../../tests/it/capacity_service.rs"]
mod capacity_service;

use capacity_service::{Build, Service};

/// `times` searches of each service, with the confirmation of 30 s; a line a service.
pub fn run(times: usize) {
    let Some(autotune) = option_env!("CARGO_BIN_EXE_autotune") else {
        println!("the binary is not there: run this with cargo bench");
        return;
    };
    println!("service                        | searches | error % each | mean | coefficient of variation");
    for (capacity, workers) in [(20.0, 2), (200.0, 10), (2_000.0, 40)] {
        for timeout in [1, 30] {
            let service = Service::start(Build::of(capacity, workers, Duration::from_secs(timeout)));
            let rates: Vec<f64> = (0..times)
                .filter_map(|_| search(autotune, &service.url()))
                .collect();
            let n = rates.len() as f64;
            let mean = rates.iter().sum::<f64>() / n;
            let var = rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0);
            let errors: Vec<String> = rates
                .iter()
                .map(|r| format!("{:+.1}", 100.0 * (r / capacity - 1.0)))
                .collect();
            println!(
                "{capacity:>6} rps, pool timeout {timeout:>2} s | {n:>3} | {} | {:+.2} % | {:.2} %",
                errors.join(" "),
                100.0 * (mean / capacity - 1.0),
                100.0 * var.sqrt() / mean
            );
        }
    }
}

fn search(autotune: &str, url: &str) -> Option<f64> {
    let out = Command::new(autotune)
        .args(["-q", "capacity", "--json", "--timeout", "60s", "--url", url])
        .output()
        .ok()?;
    // The one number of the document that is needed, without a parser.
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let rest = text.split("\"sustainable_rps\":").nth(1)?;
    rest.split([',', '}']).next()?.trim().parse().ok()
}
