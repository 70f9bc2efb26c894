//! What is wanted besides the highest rate: secondary limits in [slo], and the cheapest config at a required rate. Whole
//! studies of the binary on simulated services, which take no time.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{AUTOTUNE, csv_rows, output};

/// A service that carries 20 rps for each connection of its pool, at most 500, at 32 ms a request and more.
fn space(slo: &str, objective: &str) -> String {
    format!(
        r#"
[study]
name = "sim"
trials = 14
seed = 3
[sut]
kind = "simulated"
model = "pool-queue capacity=500 timeout=2 noise=0.01 per_pool_size=20"
[parameters.pool_size]
type = "int"
low = 1
high = 40
baseline = 24
[load]
requests = [{{ path = "/" }}]
[slo]
{slo}
[capacity]
start = 100
max = 2000
confirm = "10s"
[objective]
{objective}
[confirm]
pairs = 3
"#
    )
}

struct Ran {
    code: Option<i32>,
    text: String,
    trials: Vec<HashMap<String, String>>,
    recommended: String,
}

fn run(dir: &Path, text: &str) -> Ran {
    let file = dir.join("sim.toml");
    fs::write(&file, text).unwrap();
    let results = dir.join("results");
    let out = output(
        Command::new(AUTOTUNE)
            .arg("--space")
            .arg(&file)
            .arg("--results")
            .arg(&results)
            .arg("--fresh")
            .env("NO_COLOR", "1"),
    );
    let folder = results.join("sim");
    Ran {
        code: out.status.code(),
        text: format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        ),
        trials: csv_rows(&folder.join("trials.csv")),
        recommended: fs::read_to_string(folder.join("recommended.toml")).unwrap_or_default(),
    }
}

fn pool_of(recommended: &str) -> i64 {
    let line = recommended
        .lines()
        .skip_while(|l| *l != "[config]")
        .find_map(|l| l.strip_prefix("pool_size = "));
    line.unwrap_or_else(|| panic!("no pool in {recommended}"))
        .trim()
        .parse()
        .unwrap()
}

/// The dual question: 200 rps need ten connections; today's 24 cost more than twice that.
#[test]
fn the_cheapest_config_that_carries_the_required_rate_is_recommended() {
    let dir = tempfile::tempdir().unwrap();
    let text = space(
        "errors = \"5%\"",
        "cost = \"pool_size\"\nminimize = \"cost\"\nat = 200",
    );
    let ran = run(dir.path(), &text);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    let pool = pool_of(&ran.recommended);
    assert!((10..=12).contains(&pool), "pool of {pool}:\n{}", ran.text);
    let finals = ran.trials.iter().filter(|t| t["phase"] == "final");
    let carried: Vec<f64> = finals
        .filter(|t| t["pool_size"] == pool.to_string())
        .map(|t| t["offered_rps"].parse().unwrap())
        .collect();
    assert!(
        !carried.is_empty() && carried.iter().all(|r| *r >= 195.0),
        "{carried:?}"
    );
}

/// Without the requirement the same space has another answer.
#[test]
fn the_highest_rate_is_another_question() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(dir.path(), &space("errors = \"5%\"", "cost = \"pool_size\""));
    let best = ran
        .trials
        .iter()
        .filter(|t| t["verdict"] == "sustainable")
        .filter_map(|t| t["offered_rps"].parse::<f64>().ok())
        .fold(0.0, f64::max);
    assert!(best > 400.0, "{best}\n{}", ran.text);
}

/// Each secondary limit binds by itself, and names itself where nothing keeps it.
#[test]
fn a_latency_limit_below_what_the_service_takes_leaves_no_capacity() {
    let dir = tempfile::tempdir().unwrap();
    for limit in ["p95", "p99", "mean"] {
        let text = space(
            &format!("errors = \"5%\"\n{limit} = \"10ms\""),
            "cost = \"pool_size\"",
        );
        let ran = run(dir.path(), &text.replace("trials = 14", "trials = 2"));
        assert!(
            ran.trials.iter().all(|t| t["outcome"] == "failed"),
            "{limit}: {}",
            ran.text
        );
        assert_eq!(ran.code, Some(3), "{limit}: {}", ran.text);
        let probes = csv_rows(&dir.path().join("results/sim/probes.csv"));
        assert!(
            probes.iter().any(|p| p["reason"].contains(limit)),
            "no probe says that {limit} is exceeded"
        );
    }
}

/// `success = "95%"` is `errors = "5%"`, and a limit that the service keeps with ease changes nothing.
#[test]
fn a_success_share_is_the_same_as_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    let rates = |slo: &str| -> Vec<String> {
        let text = space(slo, "cost = \"pool_size\"").replace("trials = 14", "trials = 2");
        let ran = run(dir.path(), &text);
        ran.trials.iter().map(|t| t["offered_rps"].clone()).collect()
    };
    let errors = rates("errors = \"5%\"");
    assert!(!errors.is_empty());
    assert_eq!(errors, rates("success = \"95%\""));
}
