//! Every Docker call of a run fails, stalls or breaks off once, or the tool is killed at it: afterwards the container is
//! back (I1) and nothing of ours is left (I2). The engine is the fake one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use autotune::guardian::{Guardian, Launcher};
use autotune::space::{Binding, Config, Domain, Parameter, Value};
use autotune::spec::{DockerRef, ReadySpec, SutKind, SutSpec};
use autotune::sut::docker::DockerSut;
use autotune::sut::docker::engine::Engine;
use autotune::sut::docker::parking::{self, Filter};
use autotune::sut::{Health, Sut, SutError};
use autotune::trial::Failure;
use serde_json::json;

use crate::docker_kit::{CANARY, eventually};
use crate::fake_engine::{FakeEngine, Fault};

fn spec(name: &str) -> SutSpec {
    SutSpec {
        kind: SutKind::Docker(DockerRef::Container(name.into())),
        url: "http://127.0.0.1:0".into(),
        ready: ReadySpec {
            path: "/".into(),
            timeout: Duration::from_secs(10),
        },
        env: Default::default(),
    }
}

fn parameters() -> Vec<Parameter> {
    vec![Parameter {
        name: "pool_size".into(),
        domain: Domain::Int {
            low: 1,
            high: 50,
            step: 1,
            log: false,
        },
        baseline: Value::Int(2),
        binding: Binding::Env("POOL_SIZE".into()),
        only_if: None,
    }]
}

fn config(pool: i64) -> Config {
    [("pool_size".to_owned(), Value::Int(pool))].into_iter().collect()
}

fn sut(fake: &FakeEngine, results: &Path) -> DockerSut {
    let engine = Engine::at(&fake.host)
        .unwrap()
        .with_deadline(Duration::from_secs(3));
    let target = DockerRef::Container("web".into());
    DockerSut::new(engine, &spec("web"), &target, "run-1", results)
}

/// What the driver does: everything, and giving back whatever came before.
async fn whole_run(sut: &mut DockerSut) -> (Result<(), SutError>, Result<Option<String>, SutError>) {
    let worked = async {
        sut.restore().await?;
        sut.preflight(&parameters()).await?;
        sut.deploy(1, &parameters(), &config(5)).await?;
        if sut.health().await != Health::Running {
            return Err(SutError::Infrastructure("not running".into()));
        }
        sut.teardown().await?;
        sut.deploy(2, &parameters(), &config(6)).await?;
        sut.teardown().await
    }
    .await;
    let _ = sut.teardown().await;
    (worked, sut.restore().await)
}

/// A run in which the `n`-th call meets `fault`; false when it had fewer.
async fn run_with(n: u64, what: &str, fault: Fault) -> bool {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    fake.plan(n, fault);
    let mut sut = sut(&fake, results.path());
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
    assert_eq!(fake.violation(&id, "web", true), None, "{when}");
    assert!(!when.contains(CANARY), "{when}");
    assert!(
        !matches!(worked, Err(SutError::Config { .. })),
        "a fault of the daemon is never the config's: {when}"
    );
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_fault_of_the_daemon_is_survived() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_engine_with_unknown_states_is_restored() {
    let fake = FakeEngine::start().newer();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let (worked, given_back) = whole_run(&mut sut(&fake, results.path())).await;
    assert_eq!(worked, Ok(()));
    given_back.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None);
}

/// Breaks when a restart of the daemon counts against a config, by whatever status its container ended, or when a trial
/// that dies long after one is still put down to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_daemon_is_an_infrastructure_fault_and_not_an_oom() {
    let mut fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    // killed; stopped in order, where the service handles the signal, and where it doesn't; and one that says 1 then
    for (trial, code) in [(1, 137), (2, 0), (3, 143), (4, 1)] {
        // the trial is made again from what is observed
        sut.deploy(trial, &parameters(), &config(5)).await.unwrap();
        assert_eq!(sut.health().await, Health::Running);
        fake.stop();
        let away = sut.health().await;
        assert!(matches!(&away, Health::Unknown(_)), "{away:?}");
        fake.start_again_with(code);
        let dead = sut.health().await;
        assert!(
            matches!(&dead, Health::Unknown(m) if m.contains("daemon")),
            "exit {code} after a restart is not the config's fault: {dead:?}"
        );
    }
    for (trial, code, failure) in [(5, 137, Failure::Oom), (6, 1, Failure::Crash)] {
        let up = sut.deploy(trial, &parameters(), &config(5)).await.unwrap();
        fake.end(&up.containers[0], code);
        let dead = sut.health().await;
        assert!(
            matches!(&dead, Health::Failed(f, _) if *f == failure),
            "the restart was before this trial: {dead:?}"
        );
    }
    sut.restore().await.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None);
}

fn of_compose(service: &str) -> serde_json::Value {
    json!({"com.docker.compose.project": "shop", "com.docker.compose.service": service,
        "com.docker.compose.oneoff": "False"})
}

/// Breaks when what parking the service does to another one counts as a fault of that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_ends_because_the_service_is_parked_is_no_fault() {
    let fake = FakeEngine::start();
    let id = fake.add("web", of_compose("web"), true);
    let worker = fake.add("shop-worker-1", of_compose("worker"), true);
    fake.follow(&id, &worker);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    sut.deploy(1, &parameters(), &config(5)).await.unwrap();
    assert_eq!(sut.health().await, Health::Running);
    // and what happens to it later is one
    fake.turn(&worker, false);
    let noticed =
        eventually(async || matches!(sut.health().await, Health::Unknown(m) if m.contains("shop-worker-1")));
    assert!(noticed.await);
    sut.restore().await.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None);
}

/// Times that `id` was asked to do `what` since the last plan.
fn times(fake: &FakeEngine, id: &str, what: &str) -> usize {
    let end = format!("/containers/{id}/{what}");
    fake.log().iter().filter(|l| l.ends_with(&end)).count()
}

/// Breaks when a daemon that fails for a moment, or a name that is taken for one, leaves the container parked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_waited_for_while_giving_back() {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    sut.deploy(1, &parameters(), &config(5)).await.unwrap();
    fake.refuse(&format!("{id}/start"));
    let (given_back, ()) = tokio::join!(sut.restore(), async {
        assert!(
            eventually(async || times(&fake, &id, "start") >= 2).await,
            "500 ended it"
        );
        fake.allow();
    });
    given_back.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None, "after a 500");

    sut.deploy(2, &parameters(), &config(5)).await.unwrap();
    sut.teardown().await.unwrap();
    let foreign = fake.add("web", json!({"somebody": "else"}), false);
    fake.plan(u64::MAX, Fault::Status);
    let (given_back, ()) = tokio::join!(sut.restore(), async {
        assert!(
            eventually(async || times(&fake, &id, "rename") >= 2).await,
            "409 ended it"
        );
        fake.remove(&foreign);
    });
    given_back.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None, "after a 409");
    assert_eq!(
        times(&fake, &id, "stop"),
        0,
        "the service is not stopped again by each attempt"
    );
}

/// Breaks when a call that a signal cut off takes effect after everything was given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_cut_off_is_looked_at_again() {
    for call in ["/rename", "/stop", "/create"] {
        let fake = FakeEngine::start();
        let id = fake.add("web", json!({}), true);
        let results = tempfile::tempdir().unwrap();
        let mut sut = sut(&fake, results.path());
        sut.preflight(&parameters()).await.unwrap();
        fake.slow(call, Duration::from_millis(300));
        {
            let (parameters, config) = (parameters(), config(5));
            let deploy = std::pin::pin!(sut.deploy(1, &parameters, &config));
            let asked = eventually(async || fake.log().iter().any(|l| l.ends_with(call)));
            tokio::select! {
                done = deploy => panic!("{call}: {done:?}"),
                asked = asked => assert!(asked, "{call}"),
            }
        }
        sut.teardown().await.unwrap();
        sut.restore().await.unwrap();
        assert!(eventually(async || fake.is_through()).await, "{call}");
        assert_eq!(fake.violation(&id, "web", true), None, "{call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_killed_for_memory_is_seen_by_its_event_alone() {
    let fake = FakeEngine::start();
    fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    let up = sut.deploy(1, &parameters(), &config(5)).await.unwrap();
    assert_eq!(sut.health().await, Health::Running);
    fake.oom(&up.containers[0]);
    assert!(eventually(async || matches!(sut.health().await, Health::Failed(Failure::Oom, _))).await);
    sut.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_started_again_under_the_load_is_unstable() {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    let up = sut.deploy(1, &parameters(), &config(5)).await.unwrap();
    assert_eq!(sut.health().await, Health::Running);
    fake.start_over(&up.containers[0]);
    assert!(matches!(sut.health().await, Health::Failed(Failure::Unstable, _)));
    sut.restore().await.unwrap();
    assert_eq!(fake.violation(&id, "web", true), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_above_the_hosts_are_refused_before_anything_is_touched() {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    let limit = |name: &str, limit, high| Parameter {
        name: name.into(),
        domain: Domain::Int {
            low: 1,
            high,
            step: 1,
            log: false,
        },
        baseline: Value::Int(1),
        binding: Binding::Limit(limit),
        only_if: None,
    };
    let parameters = [
        limit("cpus", autotune::space::Limit::Cpus, 65),
        limit("memory_mb", autotune::space::Limit::Memory, 1 << 20),
    ];
    let refused = sut.preflight(&parameters).await.unwrap_err();
    assert!(
        matches!(&refused, SutError::Refused { exit: 65, message }
            if message.contains("`cpus`") && message.contains("`memory_mb`")),
        "both at once: {refused:?}"
    );
    assert_eq!(fake.violation(&id, "web", true), None);
    assert!(
        fake.log().iter().all(|l| l.starts_with("GET ")),
        "{:?}",
        fake.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_are_made_from_the_images_id() {
    let fake = FakeEngine::start();
    fake.add("web", json!({}), true);
    let results = tempfile::tempdir().unwrap();
    let mut sut = sut(&fake, results.path());
    let up = sut.deploy(1, &parameters(), &config(5)).await.unwrap();
    let trial = fake.container(&up.containers[0]).unwrap();
    assert_eq!(
        trial.config["Image"], "sha256:fake",
        "not shop:latest, which may mean another one now"
    );
    sut.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_container_under_the_name_is_never_removed() {
    let fake = FakeEngine::start();
    let id = fake.add("web.autotune-parked-running", json!({}), false);
    let foreign = fake.add("web", json!({"somebody": "else"}), false);
    let engine = Engine::at(&fake.host).unwrap();
    let error: SutError = parking::restore_all(&engine, &Filter::All)
        .await
        .unwrap_err()
        .into();
    assert!(fake.container(&foreign).is_some());
    let SutError::RestoreFailed { commands, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        commands,
        "docker rename web.autotune-parked-running web; docker start web"
    );
    assert!(
        fake.container(&id).unwrap().running,
        "the service itself is up again"
    );
}

/// A study's folder: its lock lies beside it.
pub(crate) fn study_folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("study");
    std::fs::create_dir(&folder).unwrap();
    (home, folder)
}

/// The re-executed test binary: `AUTOTUNE_IT_ROLE` says as what. As an ordinary test it does nothing.
#[test]
fn role() {
    let Ok(role) = std::env::var("AUTOTUNE_IT_ROLE") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = match role.as_str() {
        "guardian" => runtime.block_on(autotune::guardian::run_child()),
        "tool" => runtime.block_on(tool()),
        other => panic!("{other}"),
    };
    #[allow(clippy::disallowed_methods)]
    std::process::exit(i32::from(code));
}

fn this(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "docker_faults::role", "--nocapture"])
        .env("AUTOTUNE_IT_ROLE", role);
    command
}

pub(crate) fn launcher() -> Launcher {
    Launcher {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "docker_faults::role", "--nocapture"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("AUTOTUNE_IT_ROLE".into(), "guardian".into())],
    }
}

/// A run as the driver makes it, in a process of its own.
async fn tool() -> u8 {
    let results = std::path::PathBuf::from(std::env::var("AUTOTUNE_IT_RESULTS").unwrap());
    let target = DockerRef::Container(std::env::var("AUTOTUNE_IT_NAME").unwrap());
    let mut own = launcher();
    if let Ok(folder) = std::env::var("AUTOTUNE_IT_GUARDIAN_TMPDIR") {
        own.env.push(("TMPDIR".into(), folder));
    }
    let guardian = Guardian::spawn_with(&own, &results, "run-1").await.unwrap();
    let mut sut = DockerSut::new(
        Engine::from_env().unwrap(),
        &spec("web"),
        &target,
        "run-1",
        &results,
    );
    sut.set_notes(guardian.notes());
    if std::env::var_os("AUTOTUNE_IT_HOLD").is_some() {
        sut.preflight(&parameters()).await.unwrap();
        sut.deploy(1, &parameters(), &config(5)).await.unwrap();
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

/// The tool in a process of its own: a whole run, or with `hold` one that stays in its first trial.
fn start_tool(host: &str, results: &Path, hold: bool) -> Child {
    start_tool_with(host, results, hold, &[])
}

fn start_tool_with(host: &str, results: &Path, hold: bool, env: &[(&str, &str)]) -> Child {
    let mut command = this("tool");
    command.envs(env.iter().copied());
    if hold {
        command.env("AUTOTUNE_IT_HOLD", "1");
    }
    command
        .env("DOCKER_HOST", host)
        .env("AUTOTUNE_IT_RESULTS", results)
        .env("AUTOTUNE_IT_NAME", "web")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the tool at its `n`-th call; None when it had fewer. The time until everything was back, else.
async fn killed_at(n: u64, after: bool) -> Option<Duration> {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let (_home, results) = study_folder();
    let pid = Arc::new(AtomicU64::new(0));
    fake.plan(
        n,
        Fault::Kill {
            pid: pid.clone(),
            after,
        },
    );
    let child = start_tool(&fake.host, &results, false);
    pid.store(u64::from(child.id()), Ordering::SeqCst);
    let status = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    if fake.is_armed() {
        assert!(
            status.status.success(),
            "without a fault: {}",
            String::from_utf8_lossy(&status.stderr)
        );
        assert_eq!(fake.violation(&id, "web", true), None, "without a fault");
        return None;
    }
    let begun = Instant::now();
    let mut last = None;
    let back = eventually(async || {
        last = fake.violation(&id, "web", true);
        last.is_none() && is_free(&results).await
    })
    .await;
    let log = std::fs::read_to_string(results.join("guardian.log")).unwrap_or_default();
    assert!(
        back,
        "kill at {n} (after: {after}): {last:?}\n{log}{:?}",
        fake.log()
    );
    assert_eq!(
        fake.violation(&id, "web", true),
        None,
        "and it stays: {n} (after: {after})"
    );
    for entry in std::fs::read_dir(&results).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains(CANARY), "{text}");
    }
    Some(begun.elapsed())
}

/// The guardian has ended: nobody holds the results folder.
async fn is_free(results: &Path) -> bool {
    let file = std::fs::File::open(autotune::lock::results_path(results)).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_the_guardian_gives_the_container_back() {
    let mut slowest = Duration::ZERO;
    let mut kills = 0;
    // four at a time: most of each is waiting
    for block in 0..40_u64 {
        let attempts = (0..4).map(|i| {
            let step = block * 4 + i;
            Box::pin(killed_at(step / 2 + 1, step % 2 == 1))
        });
        let mut is_over = false;
        for attempt in futures_util::future::join_all(attempts).await {
            match attempt {
                Some(took) => {
                    kills += 1;
                    slowest = slowest.max(took);
                }
                None => is_over = true,
            }
        }
        if is_over {
            println!("{kills} kills, slowest return {slowest:?}");
            assert!(kills >= 40, "{kills}");
            assert!(slowest < Duration::from_secs(30));
            return;
        }
    }
    panic!("a run has fewer than 80 calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guardian_waits_for_a_daemon_that_is_away() {
    let mut fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let (_home, results) = study_folder();
    let mut child = start_tool(&fake.host, &results, true);
    // as soon as a trial is there
    let parked = eventually(async || fake.containers().len() > 1).await;
    assert!(parked);
    fake.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    let log = results.join("guardian.log");
    let waiting =
        eventually(async || std::fs::read_to_string(&log).is_ok_and(|t| t.contains("waiting for docker")))
            .await;
    assert!(waiting, "{:?}", std::fs::read_to_string(&log));
    // the next run is told who is at it
    let own = launcher();
    let second = Guardian::spawn_with(&own, &results, "run-2");
    let waits = tokio::time::timeout(Duration::from_secs(2), second).await;
    assert!(waits.is_err(), "it waits for the guardian");
    fake.start_again();
    assert!(eventually(async || fake.violation(&id, "web", true).is_none()).await);
}

/// Breaks when a lock that can't be made counts as another run that has the container, or a daemon that fails for longer
/// than three attempts as one that never recovers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guardian_gives_back_without_a_lock_and_from_a_daemon_that_fails() {
    let fake = FakeEngine::start();
    let id = fake.add("web", json!({}), true);
    let (_home, results) = study_folder();
    let no_folder = [("AUTOTUNE_IT_GUARDIAN_TMPDIR", "/dev/null")];
    let mut child = start_tool_with(&fake.host, &results, true, &no_folder);
    assert!(eventually(async || fake.containers().len() > 1).await);
    fake.plan(u64::MAX, Fault::Status);
    fake.refuse(&format!("{id}/start"));
    child.kill().unwrap();
    child.wait().unwrap();
    let log = || std::fs::read_to_string(results.join("guardian.log")).unwrap_or_default();
    assert!(
        eventually(async || times(&fake, &id, "start") >= 4).await,
        "{}",
        log()
    );
    fake.allow();
    let back = eventually(async || fake.violation(&id, "web", true).is_none()).await;
    assert!(back, "{}", log());
    assert!(log().contains("giving back goes on without it"), "{}", log());
    assert!(
        eventually(async || log().contains("given back by the guardian")).await,
        "{}",
        log()
    );
}

/// Breaks when the guardian does not know of what an earlier run left, and the tool is killed while it gives that back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_giving_back_what_an_earlier_run_left_the_guardian_goes_on() {
    let killed = async |n: u64| {
        let fake = FakeEngine::start();
        let id = fake.add("web.autotune-parked-running", json!({}), false);
        let trial =
            json!({"autotune.run": "run-0", "autotune.original": id, "autotune.original-name": "web"});
        fake.add("web", trial, true);
        let (_home, results) = study_folder();
        let pid = Arc::new(AtomicU64::new(0));
        let after = n.is_multiple_of(2);
        fake.plan(
            n,
            Fault::Kill {
                pid: pid.clone(),
                after,
            },
        );
        let child = start_tool(&fake.host, &results, false);
        pid.store(u64::from(child.id()), Ordering::SeqCst);
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
            .await
            .unwrap();
        assert!(!fake.is_armed(), "{n}");
        let back = eventually(async || fake.violation(&id, "web", true).is_none() && is_free(&results).await);
        assert!(
            back.await,
            "kill at {n}: {:?} {:?}",
            fake.violation(&id, "web", true),
            fake.log()
        );
    };
    // 1 and 2 list, then the trial is stopped and removed, the original started and renamed, and looked at
    futures_util::future::join_all((2..=7).map(|n| Box::pin(killed(n)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_in_the_same_folder_is_told_about_the_first() {
    let (_home, results) = study_folder();
    let first = Guardian::spawn_with(&launcher(), &results, "run-1")
        .await
        .unwrap();
    let second = Guardian::spawn_with(&launcher(), &results, "run-2").await;
    let Err(SutError::Refused { exit: 75, message }) = second else {
        panic!("{second:?}")
    };
    assert!(
        message.contains("run-1") && message.contains(&std::process::id().to_string()),
        "{message}"
    );
    first.done();
    Guardian::spawn_with(&launcher(), &results, "run-3")
        .await
        .unwrap()
        .done();
}
