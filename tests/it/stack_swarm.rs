//! The swarm sut on a real swarm of three nodes with a real Postgres: a study over 1 to 4 tasks, a node that goes away in
//! the middle of a trial, and a tool that is killed. Each time the service has its own spec back, to the last field.
//!
//! `make test-swarm` brings the nodes up (scripts/swarm-nodes) and names their sockets in AUTOTUNE_TEST_SWARM_NODES;
//! `make test` brings up one, for a short study.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::faults_study::child_of;
use crate::support::{AUTOTUNE, csv_rows, files_with, output, root, run};

const CANARY: &str = "canary-5w4rm-pw";
const API: &str = "atswarm_api";
const DATABASE: &str = "atswarm_db";
/// For tasks to run.
const UP: Duration = Duration::from_secs(120);

/// The nodes, the manager first, with a database and the demo API on them; the services go when it is dropped.
struct Bed {
    manager: String,
    nodes: usize,
    own: Json,
}

fn nodes() -> Option<Vec<String>> {
    let all = std::env::var("AUTOTUNE_TEST_SWARM_NODES").unwrap_or_default();
    let nodes: Vec<String> = all
        .split(',')
        .filter(|s| !s.is_empty())
        .map(|s| format!("unix://{s}"))
        .collect();
    if nodes.is_empty() {
        println!("skipped: needs a swarm; `make test-swarm` brings it up");
        return None;
    }
    Some(nodes)
}

impl Bed {
    /// None, with a word, where there are not so many nodes. The API has as many tasks as are asked for.
    fn up(least: usize, replicas: u32) -> Option<Self> {
        let nodes = nodes()?;
        if nodes.len() < least {
            println!("skipped: needs a swarm of {least} nodes; `make test-swarm` brings them up");
            return None;
        }
        let mut bed = Self {
            manager: nodes[0].clone(),
            nodes: nodes.len(),
            own: Json::Null,
        };
        bed.remove();
        bed.all_nodes_ready();
        let roles = root().join("demo/postgres/roles.sh");
        let mount = format!(
            "type=bind,src={},dst=/docker-entrypoint-initdb.d/roles.sh,readonly",
            roles.display()
        );
        // The kernel may have no IP_VS: everything is on the hosts' networks, each task with a port of its own.
        bed.docker(&[
            "service",
            "create",
            "--detach",
            "--quiet",
            "--name",
            DATABASE,
            "--network",
            "host",
            "--constraint",
            "node.role==manager",
            "--mount",
            &mount,
            "--env",
            "POSTGRES_DB=shop",
            "--env",
            &format!("POSTGRES_PASSWORD={CANARY}"),
            "--env",
            &format!("SHOP_PASSWORD={CANARY}"),
            "postgres:15",
        ]);
        bed.runs(DATABASE, 1);
        let address = bed.docker(&["node", "inspect", "self", "--format", "{{.ManagerStatus.Addr}}"]);
        let host = address.split(':').next().unwrap();
        bed.docker(&[
            "service",
            "create",
            "--detach",
            "--quiet",
            "--name",
            API,
            "--network",
            "host",
            "--no-healthcheck",
            "--replicas",
            &replicas.to_string(),
            "--env",
            "PORT=1830{{.Task.Slot}}",
            "--env",
            "POOL_SIZE=2",
            "--env",
            "MAX_OVERFLOW=0",
            "--env",
            "POOL_TIMEOUT=1",
            "--env",
            "HOLD_MS=50",
            "--env",
            &format!("DATABASE_URL=postgresql+asyncpg://shop:{CANARY}@{host}:5432/shop"),
            "--limit-cpu",
            "0.75",
            "--limit-memory",
            "512M",
            "--reserve-memory",
            "64M",
            "--label",
            "team=shop",
            "--update-delay",
            "2s",
            "--update-order",
            "stop-first",
            "--rollback-parallelism",
            "2",
            "autotune-shop-api",
        ]);
        bed.runs(API, replicas as usize);
        bed.own = bed.spec();
        Some(bed)
    }

    fn docker(&self, args: &[&str]) -> String {
        run(Command::new("docker").args(["-H", &self.manager]).args(args))
    }

    fn inspect(&self) -> Json {
        let all: Json = serde_json::from_str(&self.docker(&["service", "inspect", API])).unwrap();
        all[0].clone()
    }

    fn spec(&self) -> Json {
        self.inspect()["Spec"].clone()
    }

    /// The number of the trial whose spec the service has.
    fn trial(&self) -> Option<u32> {
        self.spec()["Labels"]["autotune.trial"].as_str()?.parse().ok()
    }

    /// Tasks of a service that run, by node.
    fn running(&self, service: &str) -> Vec<String> {
        let format = "{{.Node}} {{.CurrentState}}";
        let out = self.docker(&[
            "service",
            "ps",
            service,
            "--filter",
            "desired-state=running",
            "--format",
            format,
        ]);
        out.lines()
            .filter_map(|l| l.split_once(" Running"))
            .map(|(node, _)| node.to_owned())
            .collect()
    }

    fn runs(&self, service: &str, tasks: usize) {
        until(UP, &format!("{tasks} tasks of {service}"), || {
            self.running(service).len() == tasks
        });
    }

    fn all_nodes_ready(&self) {
        until(UP, "all nodes", || {
            let states = self.docker(&["node", "ls", "--format", "{{.Status}}"]);
            states.lines().filter(|s| *s == "Ready").count() == self.nodes
        });
    }

    fn remove(&self) {
        for service in [API, DATABASE] {
            output(Command::new("docker").args(["-H", &self.manager, "service", "rm", service]));
        }
        // A port is free only when its task is gone.
        let filter = "name=atswarm_";
        until(UP, "the end of the services' tasks", || {
            self.docker(&["ps", "-q", "--filter", filter]).is_empty()
        });
    }

    /// The spec is the service's own to the last field, the one before is no trial's, and its tasks run.
    fn assert_given_back(&self) {
        let now = self.inspect();
        assert_eq!(now["Spec"], self.own, "the service's spec changed");
        assert!(
            !now["PreviousSpec"].to_string().contains("autotune."),
            "a rollback would lead to a trial: {}",
            now["PreviousSpec"]
        );
        let replicas = self.own["Mode"]["Replicated"]["Replicas"].as_u64().unwrap();
        self.runs(API, usize::try_from(replicas).unwrap());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(AUTOTUNE);
        c.args(args)
            .env("DOCKER_HOST", &self.manager)
            .env("NO_COLOR", "1")
            .env("RUST_LOG", "trace");
        c
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for args in [&["node", "ls"][..], &["service", "ps", API, "--no-trunc"]] {
                let out = output(Command::new("docker").args(["-H", &self.manager]).args(args));
                println!("{}", String::from_utf8_lossy(&out.stdout));
            }
        }
        for service in [API, DATABASE] {
            output(Command::new("docker").args(["-H", &self.manager, "service", "rm", service]));
        }
    }
}

fn until(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < patience, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(300));
    }
}

/// experiments/swarm/pool.toml, made small.
fn space(dir: &Path, low: u32, high: u32, trials: u32) -> PathBuf {
    let path = dir.join("swarm.toml");
    let text = format!(
        r#"
[study]
name = "swarm"
trials = {trials}
budget = "12m"

[sut]
kind = "swarm"
service = "{API}"
task_url = "http://{{node}}:1830{{slot}}"
ready = {{ path = "/ready", timeout = "60s" }}

[parameters.replicas]
type = "int"
low = {low}
high = {high}
replicas = true

[load]
timeout = "5s"
requests = [{{ path = "/items" }}]

[capacity]
start = 60
max = 300
precision = "25%"
confirm = "3s"
warm_up = "2s"

[confirm]
pairs = 1
"#
    );
    fs::write(&path, text).unwrap();
    path
}

fn study(bed: &Bed, space: &Path, results: &Path) -> Command {
    let mut c = bed.command(&[]);
    c.arg("--space").arg(space).arg("--results").arg(results);
    c
}

/// Started, with what it says in a file.
fn started(mut command: Command, log: &Path) -> Child {
    let file = fs::File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap()
}

fn ended(child: &mut Child, patience: Duration, log: &Path) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > patience {
            child.kill().unwrap();
            panic!("the study does not end:\n{}", fs::read_to_string(log).unwrap());
        }
        std::thread::park_timeout(Duration::from_millis(300));
    }
}

fn outcomes(results: &Path) -> Vec<(String, String)> {
    csv_rows(&results.join("swarm/trials.csv"))
        .into_iter()
        .map(|r| (r["outcome"].clone(), r["replicas"].clone()))
        .collect()
}

#[test]
fn stack_swarm_short_study_on_one_node() {
    let Some(bed) = Bed::up(1, 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let space = space(dir.path(), 1, 2, 2);
    let out = output(&mut study(&bed, &space, &results));
    assert!(
        matches!(out.status.code(), Some(0 | 3)),
        "{}:\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    let rows = outcomes(&results);
    println!("{rows:?}");
    assert!(
        rows.len() >= 2 && rows.iter().all(|(o, _)| o == "measured"),
        "{rows:?}"
    );
    bed.assert_given_back();
    assert_eq!(files_with(dir.path(), CANARY), Vec::<PathBuf>::new());
}

#[test]
fn stack_swarm_study_over_the_nodes_gives_the_service_its_own_spec_back() {
    let Some(bed) = Bed::up(3, 2) else { return };
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let space = space(dir.path(), 1, 4, 4);
    let out = output(&mut study(&bed, &space, &results));
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("{printed}");
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", out.status);
    let rows = outcomes(&results);
    println!("{rows:?}");
    assert!(
        rows.iter().all(|(o, _)| o == "measured" || o == "failed"),
        "{rows:?}"
    );
    let mut tried: Vec<&str> = rows.iter().map(|(_, n)| n.as_str()).collect();
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried, ["1", "2", "3", "4"]);
    bed.assert_given_back();
    assert!(!printed.contains(CANARY), "the database password was printed");
    assert_eq!(files_with(dir.path(), CANARY), Vec::<PathBuf>::new());
    // `docker service rollback` in the morning changes nothing.
    bed.docker(&["service", "rollback", "--detach", "--quiet", API]);
    assert_eq!(bed.spec(), bed.own);
}

/// `scripts/swarm-nodes stop|start K`
fn switch(what: &str, node: u32) {
    run(Command::new(root().join("scripts/swarm-nodes")).args([what, &node.to_string()]));
}

/// Breaks when a node that goes away in the middle of a trial is charged to the config, or ends the study.
#[test]
fn stack_swarm_node_lost_in_the_middle_the_trial_is_repeated() {
    // Three tasks and more: each node has one.
    let Some(bed) = Bed::up(3, 3) else { return };
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let log = dir.path().join("log");
    let space = space(dir.path(), 3, 4, 2);
    let mut child = started(study(&bed, &space, &results), &log);
    // In the load of the first trial.
    until(UP, "the first trial", || {
        bed.trial() == Some(1) && bed.running(API).len() >= 3
    });
    std::thread::park_timeout(Duration::from_secs(3));
    switch("stop", 3);
    let code = ended(&mut child, Duration::from_secs(500), &log);
    let printed = fs::read_to_string(&log).unwrap();
    let rows = outcomes(&results);
    println!("{printed}\n{rows:?}");
    switch("start", 3);
    bed.all_nodes_ready();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    assert!(printed.contains("node node3 went away"), "it is not said");
    let of = |wanted: &str| rows.iter().filter(|(o, _)| o == wanted).count();
    assert!(of("infrastructure") >= 1, "{rows:?}");
    assert_eq!(of("failed"), 0, "charged to a config: {rows:?}");
    assert!(of("measured") >= 2, "{rows:?}");
    bed.assert_given_back();
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn stack_swarm_killed_the_service_gets_its_own_spec_back_from_guardian_or_restore() {
    let Some(bed) = Bed::up(3, 2) else { return };
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let log = dir.path().join("log");
    let space = space(dir.path(), 1, 4, 3);
    // The tool alone: its guardian gives back.
    let mut child = started(study(&bed, &space, &results), &log);
    until(UP, "the first trial", || bed.trial().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    until(UP, "the guardian", || bed.spec() == bed.own);
    let said = results.join("swarm/guardian.log");
    until(UP, "the guardian's word", || {
        fs::read_to_string(&said).is_ok_and(|t| t.contains("given back by the guardian"))
    });
    bed.assert_given_back();
    // Both, later on: the study is resumed, killed in its second trial or later, and given back by hand.
    let mut child = started(study(&bed, &space, &results), &log);
    until(UP, "a trial", || bed.trial().is_some_and(|n| n >= 1));
    let guardian = child_of(child.id()).expect("no guardian");
    kill(guardian);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(bed.spec(), bed.own, "nobody was left to give it back");
    let out = output(&mut bed.command(&["restore"]));
    let words = String::from_utf8_lossy(&out.stdout).into_owned();
    println!("{words}");
    assert_eq!(
        out.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(words.contains("has its own spec back"), "{words}");
    bed.assert_given_back();
    assert_eq!(files_with(dir.path(), CANARY), Vec::<PathBuf>::new());
}
