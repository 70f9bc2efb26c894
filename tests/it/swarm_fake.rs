//! The swarm sut on the fake engine: every call of a run fails, stalls or breaks off once, or the tool is killed at it, and
//! afterwards the service has its own spec to the last field, also as the spec before.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use autotune::guardian::Guardian;
use autotune::space::{Binding, Config, Domain, Parameter, Value};
use autotune::spec::{ReadySpec, SutKind, SutSpec, SwarmRef};
use autotune::sut::docker::engine::Engine;
use autotune::sut::swarm::SwarmSut;
use autotune::sut::{Health, Sut, SutError};
use autotune::trial::Failure;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::docker_faults::{launcher, study_folder};
use crate::docker_kit::{CANARY, eventually};
use crate::fake_engine::{FakeEngine, Fault};
use crate::fake_swarm::{Tasks, node};
use crate::support::{AUTOTUNE, files_with};

/// What stands in front of the tasks: it answers 200.
struct Front {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn front() -> Front {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0_u8; 2048];
                let _ = stream.read(&mut buffer).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                let _ = stream.write_all(answer).await;
            });
        }
    });
    Front { url, task }
}

fn own() -> Json {
    json!({"Name": "shop_api", "Labels": {"com.docker.stack.namespace": "shop"}, "FromTheFuture": {"a": 1},
        "TaskTemplate": {"ForceUpdate": 0, "ContainerSpec": {"Image": "shop@sha256:1",
            "Env": ["POOL_SIZE=2", format!("DATABASE_URL=postgresql://shop:{CANARY}@db/shop")]},
            "Resources": {"Limits": {"MemoryBytes": 512 << 20}}},
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Parallelism": 1, "Delay": 5_000_000_000_i64, "Order": "start-first"}})
}

/// An engine that manages three nodes and the service; its id.
fn swarm() -> (FakeEngine, String) {
    let fake = FakeEngine::start();
    let id = fake.new_id();
    fake.swarm(|s| {
        s.nodes = ["node1", "node2", "node3"]
            .iter()
            .map(|n| node(n, true))
            .collect();
        s.add(&id, own());
    });
    (fake, id)
}

/// What is not as it was.
fn violation(fake: &FakeEngine, id: &str) -> Option<String> {
    let s = fake.swarm(|s| s.service(id));
    let running = s
        .tasks
        .iter()
        .filter(|t| t["Spec"] == own()["TaskTemplate"] && t["DesiredState"] == "running");
    if s.spec != own() {
        Some(format!("the spec is {}", s.spec))
    } else if s.previous.to_string().contains("autotune") {
        Some("a rollback would lead to a trial".to_owned())
    } else if running.count() != 2 {
        Some("its tasks don't run".to_owned())
    } else {
        None
    }
}

fn parameters() -> Vec<Parameter> {
    let int = |high| Domain::Int {
        low: 1,
        high,
        step: 1,
        log: false,
    };
    let p = |name: &str, binding, high| Parameter {
        name: name.into(),
        domain: int(high),
        baseline: Value::Int(2),
        binding,
        only_if: None,
    };
    vec![
        p("pool_size", Binding::Env("POOL_SIZE".into()), 50),
        p("replicas", Binding::Replicas, 4),
    ]
}

fn config(pool: i64, replicas: i64) -> Config {
    let pairs = [("pool_size", pool), ("replicas", replicas)];
    pairs
        .iter()
        .map(|(n, v)| ((*n).to_owned(), Value::Int(*v)))
        .collect()
}

fn target() -> SwarmRef {
    SwarmRef {
        service: "shop_api".into(),
        task_url: None,
    }
}

fn spec(url: &str) -> SutSpec {
    SutSpec {
        kind: SutKind::Swarm(target()),
        url: url.into(),
        ready: ReadySpec {
            path: "/".into(),
            timeout: Duration::from_secs(10),
        },
        env: BTreeMap::default(),
    }
}

fn sut(host: &str, url: &str, results: &Path) -> SwarmSut {
    let engine = Engine::at(host).unwrap().with_deadline(Duration::from_secs(3));
    SwarmSut::new(engine, &spec(url), &target(), "run-1", results)
}

/// What the driver does: everything, and giving back whatever came before.
async fn whole_run(sut: &mut SwarmSut) -> (Result<(), SutError>, Result<Option<String>, SutError>) {
    let worked = async {
        sut.restore().await?;
        sut.preflight(&parameters()).await?;
        for (trial, pool, replicas) in [(1, 5, 3), (2, 6, 1)] {
            sut.deploy(trial, &parameters(), &config(pool, replicas)).await?;
            if sut.health().await != Health::Running {
                return Err(SutError::Infrastructure("not running".into()));
            }
            sut.teardown().await?;
        }
        Ok(())
    }
    .await;
    let _ = sut.teardown().await;
    (worked, sut.restore().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_are_single_updates_and_the_service_gets_its_own_spec_back() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    let facts = sut.preflight(&parameters()).await.unwrap();
    assert_eq!(facts.today["pool_size"], Value::Int(2));
    assert_eq!(facts.today["replicas"], Value::Int(2));
    assert!(
        fake.log().iter().all(|l| l.starts_with("GET ")),
        "preflight changes nothing"
    );
    let up = sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    assert_eq!(
        up.proof,
        ["POOL_SIZE=5", "replicas=3", "3 tasks on node1, node2, node3"]
    );
    let live = fake.swarm(|s| s.service(&id));
    assert_eq!(live.updates, ["update"], "one for everything");
    assert_eq!(
        live.spec["FromTheFuture"],
        json!({"a": 1}),
        "fields that nobody knows stay"
    );
    assert_eq!(live.previous, own(), "the swarm itself keeps it");
    sut.teardown().await.unwrap();
    sut.deploy(2, &parameters(), &config(5, 3)).await.unwrap();
    let said = sut.restore().await.unwrap().unwrap();
    assert!(said.contains("2 of 2 tasks"), "{said}");
    assert_eq!(violation(&fake, &id), None);
    assert_eq!(sut.restore().await.unwrap(), None, "again is nothing");
    assert!(files_with(results.path(), CANARY).is_empty());
}

/// Breaks when the swarm's own rollback is not used where it leads to the service's own spec.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_one_trial_it_is_the_swarms_own_rollback() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    sut.restore().await.unwrap();
    let s = fake.swarm(|s| s.service(&id));
    assert_eq!(s.updates, ["update", "rollback", "update"]);
    assert_eq!(violation(&fake, &id), None);
}

/// A run in which the `n`-th call meets `fault`; false when it had fewer.
async fn run_with(n: u64, what: &str, fault: Fault) -> bool {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    fake.plan(n, fault);
    let mut sut = sut(&fake.host, &front.url, results.path());
    let (worked, given_back) = whole_run(&mut sut).await;
    let when = format!("{what} at {n}: {worked:?}, {given_back:?}");
    if fake.is_armed() {
        assert!(worked.is_ok() && given_back.is_ok(), "no fault, no error: {when}");
        return false;
    }
    if given_back.is_err() {
        // the fault met the restore itself: the same again
        sut.restore().await.unwrap_or_else(|e| panic!("{when}: {e}"));
    }
    assert_eq!(violation(&fake, &id), None, "{when}");
    assert!(!when.contains(CANARY), "{when}");
    assert!(
        !matches!(worked, Err(SutError::Config { .. })),
        "a fault of the swarm is never the config's: {when}"
    );
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_fault_of_the_manager_is_survived() {
    type Make = fn() -> Fault;
    let faults: [(&str, Make); 4] = [
        ("status 500", || Fault::Status),
        ("stall", || Fault::Stall),
        ("break after", || Fault::BreakAfter),
        ("half a body", || Fault::HalfBody),
    ];
    for (what, fault) in faults {
        let mut met = 0;
        // many at a time: most of each is waiting
        for block in 0..10 {
            let runs = (1..=16).map(|i| Box::pin(run_with(block * 16 + i, what, fault())));
            let ends = futures_util::future::join_all(runs).await;
            met += ends.iter().filter(|e| **e).count();
            if ends.contains(&false) {
                break;
            }
        }
        assert!((20..160).contains(&met), "{what}: {met} calls met it");
    }
}

/// Breaks when the swarm's own writes end a run, or somebody's update is overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_version_is_the_swarms_own_or_somebodys() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.preflight(&parameters()).await.unwrap();
    fake.swarm(|s| s.restless = 3);
    sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    assert_eq!(sut.health().await, Health::Running);
    fake.swarm(|s| s.restless = 2);
    sut.restore().await.unwrap();
    assert_eq!(violation(&fake, &id), None);

    sut.deploy(2, &parameters(), &config(5, 3)).await.unwrap();
    fake.swarm(|s| s.change(&id, |spec| spec["Labels"] = json!({"they": "deployed"})));
    let seen = sut.health().await;
    assert!(
        matches!(&seen, Health::Foreign(m) if m.contains("Labels.they")),
        "{seen:?}"
    );
    let refused = sut.deploy(3, &parameters(), &config(6, 3)).await;
    assert!(
        matches!(&refused, Err(SutError::Refused { exit: 69, .. })),
        "{refused:?}"
    );
    sut.restore().await.unwrap();
    let spec = fake.swarm(|s| s.service(&id).spec);
    assert_eq!(
        spec["Labels"],
        json!({"they": "deployed"}),
        "theirs stays: our label is gone with their update"
    );
}

/// Breaks when somebody's change of a trial, which keeps our labels, keeps the service from being given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_somebody_changed_is_given_back_all_the_same() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    fake.swarm(|s| s.change(&id, |spec| spec["Mode"]["Replicated"]["Replicas"] = json!(7)));
    assert!(matches!(sut.health().await, Health::Foreign(_)));
    sut.restore().await.unwrap();
    assert_eq!(violation(&fake, &id), None);
    fake.swarm(|s| s.remove(&id));
    assert_eq!(sut.restore().await, Ok(None), "what is gone can't be given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_tasks_is_put_down_to_whom_it_concerns() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.preflight(&parameters()).await.unwrap();
    let mut deploy = async |outcome: Tasks| {
        fake.swarm(|s| s.outcome = outcome);
        let end = sut.deploy(1, &parameters(), &config(5, 3)).await;
        fake.swarm(|s| s.outcome = Tasks::Run);
        end
    };
    let oom = deploy(Tasks::Fail(137, "task: non-zero exit (137)".into())).await;
    assert!(
        matches!(
            &oom,
            Err(SutError::Config {
                failure: Failure::Oom,
                ..
            })
        ),
        "{oom:?}"
    );
    let crash = deploy(Tasks::Fail(3, "task: non-zero exit (3)".into())).await;
    let Err(SutError::Config {
        failure: Failure::Crash,
        detail,
    }) = &crash
    else {
        panic!("{crash:?}")
    };
    assert!(
        detail.contains("exit (3)") && detail.contains("a line of the log"),
        "{detail}"
    );
    let words = "no suitable node (insufficient resources on 3 nodes)";
    let full = deploy(Tasks::NoPlace(words.into())).await;
    assert!(
        matches!(&full, Err(SutError::Config { failure: Failure::NeverReady, detail }) if detail.contains(words)),
        "{full:?}"
    );
    // The same with a node fewer than the study began with says nothing about the config.
    fake.swarm(|s| s.nodes[2] = node("node3", false));
    let away = deploy(Tasks::NoPlace(words.into())).await;
    assert!(
        matches!(&away, Err(SutError::Infrastructure(m)) if m.contains("away")),
        "{away:?}"
    );
    // What goes on with two nodes is measured there.
    let up = deploy(Tasks::Run).await.unwrap();
    assert_eq!(up.proof.last().unwrap(), "3 tasks on node1, node2");
    fake.swarm(|s| s.nodes[0] = node("node1", false));
    let lost = sut.health().await;
    assert!(
        matches!(&lost, Health::Unknown(m) if m.contains("node1")),
        "{lost:?}"
    );
    fake.swarm(|s| s.nodes[0] = node("node1", true));
    fake.swarm(|s| {
        s.task(&id, |t| {
            t["Status"] = json!({"State": "failed", "Err": "task: non-zero exit (1)", "ContainerStatus": {"ExitCode": 1}});
            t["DesiredState"] = json!("shutdown");
        });
    });
    let failed = sut.health().await;
    assert!(matches!(&failed, Health::Failed(Failure::Crash, _)), "{failed:?}");
    sut.restore().await.unwrap();
    assert_eq!(violation(&fake, &id), None);
}

/// Breaks when a manager that is demoted during the run is taken for a swarm without services: the run would end as if the
/// service had been given back, and send the guardian home.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_demoted_has_not_given_back() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    let nodes = fake.swarm(crate::fake_swarm::FakeSwarm::demote);
    let before = fake.log().len();
    let promoted = async {
        // Asked for the service more than once: it goes on trying.
        let asked = || {
            fake.log()[before..]
                .iter()
                .filter(|l| l.contains("/services"))
                .count()
        };
        let is_asked = eventually(async || asked() >= 2).await;
        fake.swarm(|s| s.nodes = nodes);
        is_asked
    };
    let (given_back, went_on) = tokio::join!(sut.restore(), promoted);
    assert!(went_on, "{given_back:?}");
    assert!(given_back.unwrap().unwrap().contains("has its own spec back"));
    assert_eq!(violation(&fake, &id), None);
}

/// Breaks when of two machines that begin at the same moment the second, which is refused, takes the service from the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_machine_took_a_moment_earlier_is_not_given_back() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, &front.url, results.path());
    sut.preflight(&parameters()).await.unwrap();
    fake.swarm(|s| {
        s.change(&id, |spec| {
            let own = spec.to_string();
            let labels = [
                ("original-spec", own.as_str()),
                ("run", "night-7"),
                ("host", "far-away"),
            ];
            for (key, value) in labels {
                spec["Labels"][format!("autotune.{key}")] = json!(value);
            }
        });
    });
    let theirs = fake.swarm(|s| s.service(&id).spec);
    let refused = sut.deploy(1, &parameters(), &config(5, 3)).await;
    assert!(
        matches!(&refused, Err(SutError::Refused { exit: 69, .. })),
        "{refused:?}"
    );
    let left = sut.restore().await;
    assert!(
        matches!(&left, Err(SutError::Refused { exit: 75, message }) if message.contains("far-away")),
        "{left:?}"
    );
    let now = fake.swarm(|s| s.service(&id));
    assert_eq!((now.spec, now.updates.len()), (theirs, 0), "theirs stays");
}

/// Breaks when what an earlier run left is given back, and the run that did it is then refused for the update of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_gave_back_what_was_left_is_not_refused_for_that_update() {
    let (fake, id) = swarm();
    let front = front().await;
    let results = tempfile::tempdir().unwrap();
    let mut first = sut(&fake.host, &front.url, results.path());
    first.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    drop(first);
    // The swarm watches new tasks for some seconds before it calls an update complete.
    fake.swarm(|s| s.busy = 8);
    let mut next = sut(&fake.host, &front.url, results.path());
    assert!(next.restore().await.unwrap().is_some());
    next.preflight(&parameters()).await.unwrap();
    assert_eq!(violation(&fake, &id), None);
}

/// The re-executed test binary. As an ordinary test it does nothing.
#[test]
fn role() {
    if std::env::var("AUTOTUNE_IT_ROLE").as_deref() != Ok("swarm_tool") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = runtime.block_on(tool());
    #[allow(clippy::disallowed_methods)]
    std::process::exit(code);
}

/// A run as the driver makes it, in a process of its own; with AUTOTUNE_IT_HOLD it stays in its first trial.
async fn tool() -> i32 {
    let results = std::path::PathBuf::from(std::env::var("AUTOTUNE_IT_RESULTS").unwrap());
    let url = std::env::var("AUTOTUNE_IT_URL").unwrap();
    let guardian = Guardian::spawn_with(&launcher(), &results, "run-1")
        .await
        .unwrap();
    let mut sut = sut(&std::env::var("DOCKER_HOST").unwrap(), &url, &results);
    sut.set_notes(guardian.notes());
    if std::env::var_os("AUTOTUNE_IT_HOLD").is_some() {
        sut.preflight(&parameters()).await.unwrap();
        sut.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
        let pids = format!("{} {}", std::process::id(), guardian.pid());
        std::fs::write(results.join("pids"), pids).unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await; // killed meanwhile
        return 1;
    }
    let (worked, given_back) = whole_run(&mut sut).await;
    if worked.is_ok() && given_back.is_ok() {
        guardian.done();
        0
    } else {
        eprintln!("{worked:?} {given_back:?}");
        1
    }
}

fn start_tool(host: &str, url: &str, results: &Path, hold: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if hold {
        command.env("AUTOTUNE_IT_HOLD", "1");
    }
    command
        .args(["--exact", "swarm_fake::role", "--nocapture"])
        .env("AUTOTUNE_IT_ROLE", "swarm_tool")
        .env("DOCKER_HOST", host)
        .env("AUTOTUNE_IT_RESULTS", results)
        .env("AUTOTUNE_IT_URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The guardian has ended: nobody holds the results folder.
fn is_free(results: &Path) -> bool {
    let file = std::fs::File::open(autotune::lock::results_path(results)).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Kills the tool at its `n`-th call; false when it had fewer.
async fn killed_at(n: u64, after: bool) -> bool {
    let (fake, id) = swarm();
    let front = front().await;
    let (_home, results) = study_folder();
    let pid = Arc::new(AtomicU64::new(0));
    fake.plan(
        n,
        Fault::Kill {
            pid: pid.clone(),
            after,
        },
    );
    let child = start_tool(&fake.host, &front.url, &results, false);
    pid.store(u64::from(child.id()), Ordering::SeqCst);
    let status = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    if fake.is_armed() {
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(status.status.success(), "without a fault: {said}");
        assert_eq!(violation(&fake, &id), None, "without a fault");
        return false;
    }
    let back = eventually(async || violation(&fake, &id).is_none() && is_free(&results)).await;
    let log = std::fs::read_to_string(results.join("guardian.log")).unwrap_or_default();
    assert!(
        back && violation(&fake, &id).is_none(),
        "kill at {n} (after: {after}): {:?}\n{log}{:?}",
        violation(&fake, &id),
        fake.log()
    );
    assert!(files_with(&results, CANARY).is_empty());
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_the_guardian_gives_the_service_its_own_spec_back() {
    let mut kills = 0;
    // four at a time: most of each is waiting
    for block in 0..50_u64 {
        let attempts = (0..4).map(|i| {
            let step = block * 4 + i;
            Box::pin(killed_at(step / 2 + 1, step % 2 == 1))
        });
        let ends = futures_util::future::join_all(attempts).await;
        kills += ends.iter().filter(|e| **e).count();
        if ends.contains(&false) {
            println!("{kills} kills");
            assert!(kills >= 40, "{kills}");
            return;
        }
    }
    panic!("a run has fewer than 100 calls");
}

/// `autotune restore ARGS`, its code and what it printed.
async fn restore(host: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(AUTOTUNE);
    command
        .args(["restore", "--wait", "0s"])
        .args(args)
        .env("DOCKER_HOST", host);
    let out = command.stdin(Stdio::null()).output().await.unwrap();
    let words = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    (out.status.code(), words)
}

/// A space file of the service.
fn space_file(folder: &Path, url: &str) -> std::path::PathBuf {
    let path = folder.join("space.toml");
    let text = format!(
        "[study]\ntrials = 2\n[sut]\nkind = \"swarm\"\nservice = \"shop_api\"\nurl = \"{url}\"\n[load]\nrequests = [{{ path = \"/\" }}]\n\
         [parameters.replicas]\ntype = \"int\"\nlow = 1\nhigh = 4\nreplicas = true\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn kill(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_finds_the_service_when_tool_and_guardian_are_killed() {
    let (fake, id) = swarm();
    let front = front().await;
    let (_home, results) = study_folder();
    let mut child = start_tool(&fake.host, &front.url, &results, true);
    let pids = results.join("pids");
    let read = || std::fs::read_to_string(&pids).unwrap_or_default();
    assert!(eventually(async || read().split(' ').count() == 2).await);
    // A living run is left alone.
    let (code, words) = restore(&fake.host, &[]).await;
    assert_eq!(code, Some(75), "{words}");
    assert!(words.contains("run-1"), "{words}");
    let (tool, guardian) = read()
        .split_once(' ')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    kill(&guardian);
    kill(&tool);
    child.wait().unwrap();
    assert!(violation(&fake, &id).is_some(), "nobody was left to give it back");
    let (code, words) = restore(&fake.host, &["--json"]).await;
    assert_eq!(code, Some(0), "{words}");
    let json: Json = serde_json::from_str(&words).unwrap();
    assert_eq!(json["restored"][0]["service"], "shop_api");
    assert_eq!(violation(&fake, &id), None);
    let (code, words) = restore(&fake.host, &[]).await;
    assert_eq!((code, words.trim()), (Some(0), "nothing is parked"));
}

/// Breaks when a run on another machine loses its service to a cron job here, or nobody can ever take it from a machine that
/// is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_on_another_machine_has_is_given_back_only_by_name() {
    let (fake, id) = swarm();
    let front = front().await;
    let home = tempfile::tempdir().unwrap();
    let mut here = sut(&fake.host, &front.url, home.path());
    here.deploy(1, &parameters(), &config(5, 3)).await.unwrap();
    drop(here);
    fake.swarm(|s| s.change(&id, |spec| spec["Labels"]["autotune.host"] = json!("far-away")));
    let mut second = sut(&fake.host, &front.url, home.path());
    for refused in [
        second.restore().await.map(|_| ()),
        second.preflight(&parameters()).await.map(|_| ()),
    ] {
        let Err(SutError::Refused { exit: 75, message }) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            message.contains("far-away") && message.contains("run-1"),
            "{message}"
        );
    }
    drop(second);
    let (code, words) = restore(&fake.host, &[]).await;
    assert_eq!(code, Some(75), "{words}");
    assert!(violation(&fake, &id).is_some());
    let space = space_file(home.path(), &front.url);
    let (code, words) = restore(&fake.host, &["--space", space.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(violation(&fake, &id), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_a_swarm_is_refused_and_has_nothing_to_give_back() {
    let fake = FakeEngine::start();
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake.host, "http://127.0.0.1:1", results.path());
    assert_eq!(sut.restore().await, Ok(None));
    let refused = sut.preflight(&parameters()).await.unwrap_err();
    assert!(
        matches!(&refused, SutError::Refused { exit: 69, message } if message.contains("in no swarm")),
        "{refused:?}"
    );
    let (code, words) = restore(&fake.host, &[]).await;
    assert_eq!((code, words.trim()), (Some(0), "nothing is parked"));
    // Asked for by name it is on another engine, which is another thing than a swarm without it.
    let space = space_file(results.path(), "http://127.0.0.1:1");
    let (code, words) = restore(&fake.host, &["--space", space.to_str().unwrap()]).await;
    assert_eq!(code, Some(69), "{words}");
    assert!(words.contains("not a swarm manager"), "{words}");
}
