//! Several instances behind the balancer on the real stack: a short study over one and two of them, with a choice and a
//! parameter that exists only where another allows it; and the connection budget, which the database is asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{AUTOTUNE, Stack, csv_rows, docker, output, stack_wanted};

const API_PORT: u16 = 18_600;
const BALANCER: u16 = 18_620;
const POSTGRES: u16 = 18_621;

fn stack() -> Stack {
    let range = format!("{API_PORT}-{}", API_PORT + 9);
    Stack::up(
        "atscale",
        API_PORT,
        &[
            ("COMPOSE_PROFILES", "scale"),
            ("API_PORT", &range),
            ("BALANCER_PORT", &BALANCER.to_string()),
            ("POSTGRES_PORT", &POSTGRES.to_string()),
            ("REDIS_PORT", &(POSTGRES + 1).to_string()),
            ("POSTGRES_MAX_CONNECTIONS", "40"),
        ],
    )
}

/// One or two instances, a choice, and a Redis pool that exists only where there is a cache.
fn space_file(dir: &Path, name: &str, pool: &str, project: &str) -> PathBuf {
    let text = format!(
        r#"
[study]
name = "{name}"
budget = "100s"
trials = 2
seed = 1

[sut]
kind = "docker"
service = "api"
project = "{project}"
url = "http://127.0.0.1:{BALANCER}"
ready = {{ path = "/ready", timeout = "40s" }}

[parameters.replicas]
type = "int"
low = 1
high = 2
baseline = 1
replicas = true

[parameters.event_loop]
type = "choice"
values = ["auto", "asyncio"]
baseline = "auto"
env = "LOOP"

[parameters.cache_ttl]
type = "choice"
values = [0, 30]
baseline = 0
env = "CACHE_TTL"

[parameters.redis_max_connections]
type = "int"
low = 2
high = 50
baseline = 20
env = "REDIS_MAX_CONNECTIONS"
only_if = "cache_ttl > 0"

{pool}

[budget]
connections = "postgres"

[load]
timeout = "5s"
[[load.requests]]
path = "/items/{{id}}"
[load.vars.id]
range = [1, 1000]

[slo]
errors = "5%"

[capacity]
start = 20
max = 20
precision = "30%"
confirm = "2s"
warm_up = "1s"

[telemetry]
postgres = "postgresql://shop:shop@127.0.0.1:{POSTGRES}/shop"

[confirm]
pairs = 1
reserve = "5s"
"#
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path
}

const SMALL_POOL: &str =
    "[parameters.pool_size]\ntype = \"int\"\nlow = 1\nhigh = 8\nbaseline = 2\nenv = \"POOL_SIZE\"";
const LARGE_POOL: &str =
    "[parameters.pool_size]\ntype = \"int\"\nlow = 50\nhigh = 80\nbaseline = 50\nenv = \"POOL_SIZE\"";

/// Names of the trial's containers that run now.
fn instances() -> Vec<String> {
    let names = docker(&["ps", "--filter", "label=autotune.run", "--format", "{{.Names}}"]);
    // Of this stack: trials of other stacks may run on the same engine.
    names
        .lines()
        .filter(|n| n.starts_with("atscale-"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn stack_scale_tries_one_and_two_instances_and_leaves_none() {
    if !stack_wanted() {
        return;
    }
    let stack = stack();
    let before = stack.api();
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");

    // A space of which nothing fits is refused before anything is touched, with the arithmetic.
    let large = space_file(dir.path(), "large", LARGE_POOL, stack.project());
    for command in [vec!["check"], vec![]] {
        let out = output(
            Command::new(AUTOTUNE)
                .args(&command)
                .arg("--space")
                .arg(&large)
                .arg("--results")
                .arg(&results),
        );
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(65), "{said}");
        for part in [
            "replicas * pool_size",
            "1 * 50 = 50 > ",
            "40 max_connections - 3 reserved - ",
        ] {
            assert!(said.contains(part), "{command:?}: no `{part}` in: {said}");
        }
    }
    assert_eq!(stack.api(), before, "a refused space must touch nothing");

    let space = space_file(dir.path(), "scale", SMALL_POOL, stack.project());
    let begun = Instant::now();
    let mut child = Command::new(AUTOTUNE)
        .arg("--space")
        .arg(&space)
        .arg("--results")
        .arg(&results)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(240),
            "the study does not end"
        );
        most = most.max(instances().len());
        std::thread::park_timeout(Duration::from_millis(700));
    }
    let out = child.wait_with_output().unwrap();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("{printed}\ntook {:?}", begun.elapsed());
    assert!(matches!(out.status.code(), Some(0 | 3)), "{printed}");
    assert!(
        printed.contains("connection budget: replicas * pool_size <= "),
        "{printed}"
    );

    let rows = csv_rows(&results.join("scale/trials.csv"));
    let measured: Vec<_> = rows.iter().filter(|r| r["outcome"] == "measured").collect();
    assert!(measured.len() >= 2, "{rows:?}");
    // The search's first config is far from today's, whatever the seed: two instances, the other loop, the cache.
    let tried = |n: &str| measured.iter().any(|r| r["replicas"] == n);
    assert!(tried("1") && tried("2"), "one and two instances: {rows:?}");
    assert_eq!(most, 2, "two instances ran side by side");
    for r in &rows {
        assert_eq!(
            r["redis_max_connections"].is_empty(),
            r["cache_ttl"] == "0",
            "the Redis pool exists only with a cache: {r:?}"
        );
        if r["outcome"] == "measured" {
            assert_eq!(
                r["instance_traffic_ratio"].is_empty(),
                r["replicas"] == "1",
                "{r:?}"
            );
        }
    }
    assert_eq!(
        stack.api(),
        before,
        "id, name or state of the user's container changed"
    );
    assert_eq!(stack.leftovers(), "", "instances are left");

    for_many_instances(&results.join("scale"));
    asked_within_the_budget(dir.path(), stack.project());
}

/// `ask` keeps the budget too, and `recommend` says how many instances fit.
fn asked_within_the_budget(dir: &Path, project: &str) {
    let wide = SMALL_POOL.replace("high = 8", "high = 30");
    let space = space_file(dir, "asked", &wide, project);
    let folder = dir.join("asked");
    let tool = |args: &[&str]| output(Command::new(AUTOTUNE).args(args).arg("--study").arg(&folder));
    for n in 1..=8 {
        let out = tool(&["ask", "--trials", "20", "--space", &space.display().to_string()]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{said}");
        assert_eq!(
            said.contains("connection budget: replicas * pool_size <= "),
            n == 1,
            "{said}"
        );
        let asked: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let of = |name: &str| asked["config"][name].as_i64().unwrap();
        assert!(
            of("replicas") * of("pool_size") <= 37,
            "40 less 3 reserved: {asked}"
        );
    }
    // Today's configuration, the first trial: two connections an instance.
    let told = tool(&["tell", "--trial", "1", "--rate", "100"]);
    assert_eq!(
        told.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    let twelve = tool(&["recommend", "--instances", "12"]);
    let text = String::from_utf8_lossy(&twelve.stdout).into_owned();
    assert_eq!(
        twelve.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&twelve.stderr)
    );
    assert!(text.contains("= 12 * 2 = 24 <= "), "{text}");
    let thirty = tool(&["recommend", "--instances", "30"]);
    let said = String::from_utf8_lossy(&thirty.stderr).into_owned();
    assert_eq!(thirty.status.code(), Some(65), "{said}");
    assert!(
        said.contains("do not fit") && said.contains("= 30 * 2 = 60 > "),
        "{said}"
    );
}

/// The recommendation for production: as many instances as fit, and not one more.
fn for_many_instances(folder: &Path) {
    let export = |n: &str, usable: &str| {
        output(Command::new(AUTOTUNE).arg("export").arg(folder).args([
            "--format",
            "compose",
            "--force",
            "--instances",
            n,
            "--connections",
            usable,
        ]))
    };
    let fits = export("12", "1000");
    let text = String::from_utf8_lossy(&fits.stdout).into_owned();
    assert_eq!(
        fits.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&fits.stderr)
    );
    assert!(text.contains("replicas: 12") && text.contains("12 *"), "{text}");
    let refused = export("12", "11");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(65), "{said}");
    assert!(
        said.contains("do not fit") && said.contains("> 11 (11 usable)"),
        "{said}"
    );
    assert!(
        refused.stdout.is_empty(),
        "a refused recommendation prints nothing"
    );
}
