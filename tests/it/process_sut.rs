//! The process and command suts with real children: ready, crash, ports, process groups, scripts.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use autotune::guardian::Guardian;
use autotune::space::{Binding, Config, Domain, Limit, Parameter, Value};
use autotune::spec::{ReadySpec, Secret, SutKind, SutSpec};
use autotune::sut::command::CommandSut;
use autotune::sut::process::ProcessSut;
use autotune::sut::{Health, Sut, SutError};
use autotune::trial::Failure;

use crate::docker_kit::{CANARY, eventually};

/// A server in bash and nothing else is not possible: the test binary itself serves, by `AUTOTUNE_IT_SERVE`.
#[test]
fn serve() {
    use std::io::{Read, Write};
    let Ok(mode) = std::env::var("AUTOTUNE_IT_SERVE") else {
        return;
    };
    println!(
        "starting with {}",
        std::env::var("SECRET_THING").unwrap_or_default()
    );
    #[allow(clippy::disallowed_methods)]
    if mode == "crash" {
        std::process::exit(3);
    }
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    if mode == "family" {
        // a grandchild in the same group, which the leader does not wait for
        std::process::Command::new("sleep").arg("600").spawn().unwrap();
    }
    for stream in listener.incoming().take(10_000) {
        let mut stream = stream.unwrap();
        let mut buffer = [0_u8; 1024];
        let _ = stream.read(&mut buffer);
        let status = if mode == "deaf" { "503 No" } else { "200 OK" };
        let body = std::env::var("POOL_SIZE").unwrap_or_default();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

fn this_binary() -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let args = ["--exact", "process_sut::serve", "--nocapture"];
    std::iter::once(own.to_string_lossy().into_owned())
        .chain(args.map(str::to_owned))
        .collect()
}

fn spec(url: &str, timeout: Duration) -> SutSpec {
    SutSpec {
        kind: SutKind::Demo,
        url: url.into(),
        ready: ReadySpec {
            path: "/ready".into(),
            timeout,
        },
        env: BTreeMap::from([("SECRET_THING".to_owned(), Secret::new(CANARY))]),
    }
}

fn parameter(name: &str, binding: Binding, domain: Domain) -> Parameter {
    Parameter {
        name: name.into(),
        domain,
        baseline: Value::Int(1),
        binding,
        only_if: None,
    }
}

fn int() -> Domain {
    Domain::Int {
        low: 1,
        high: 64,
        step: 1,
        log: false,
    }
}

fn parameters() -> Vec<Parameter> {
    let modes = ["ok", "crash", "deaf", "family"].map(|m| Value::Text(m.into()));
    vec![
        parameter("pool", Binding::Env("POOL_SIZE".into()), int()),
        parameter(
            "mode",
            Binding::Env("AUTOTUNE_IT_SERVE".into()),
            Domain::Choice {
                values: modes.to_vec(),
            },
        ),
    ]
}

fn config(mode: &str) -> Config {
    [
        ("pool".to_owned(), Value::Int(7)),
        ("mode".to_owned(), Value::Text(mode.into())),
    ]
    .into_iter()
    .collect()
}

fn process(timeout: Duration) -> ProcessSut {
    ProcessSut::new(&spec("http://127.0.0.1:0", timeout), this_binary())
}

const LONG: Duration = Duration::from_secs(20);

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_started_with_its_config_and_ends_with_its_children() {
    let mut sut = process(LONG);
    let facts = sut.preflight(&parameters()).await.unwrap();
    assert_eq!(facts.identity.len(), 64, "SHA-256 of the program");
    let up = sut.deploy(1, &parameters(), &config("family")).await.unwrap();
    assert_eq!(crate::docker_kit::get(&up.urls[0]).await.unwrap(), "7");
    assert_eq!(sut.health().await, Health::Running);
    assert_eq!(up.proof, ["AUTOTUNE_IT_SERVE=family", "POOL_SIZE=7"]);
    let pid = up.pids[0];
    let log = sut.log_tail().await;
    assert!(
        log.contains("starting with ***") && !log.contains(CANARY),
        "{log}"
    );
    sut.teardown().await.unwrap();
    assert!(
        !autotune::sut::child::group_lives(pid),
        "the grandchild is gone too"
    );
    assert!(!is_there(pid));
    // another trial has another port or the same, and works
    sut.deploy(2, &parameters(), &config("ok")).await.unwrap();
    assert_eq!(sut.restore().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_and_silence_are_the_configs_fault() {
    let error = process(LONG)
        .deploy(1, &parameters(), &config("crash"))
        .await
        .unwrap_err();
    let SutError::Config { failure, detail } = error else {
        panic!("{error:?}")
    };
    assert_eq!(failure, Failure::Crash);
    assert!(
        detail.contains("status 3") && detail.contains("starting with ***"),
        "{detail}"
    );

    let mut sut = process(Duration::from_secs(2));
    let error = sut.deploy(2, &parameters(), &config("deaf")).await.unwrap_err();
    assert!(
        matches!(&error, SutError::Config { failure: Failure::NeverReady, detail } if detail.contains("503")),
        "{error:?}"
    );
    assert_eq!(
        sut.health().await,
        Health::Unknown("no process is deployed".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_under_load_is_seen() {
    let mut sut = process(LONG);
    let up = sut.deploy(1, &parameters(), &config("ok")).await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(up.pids[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut last = Health::Running;
    assert!(
        eventually(async || {
            last = sut.health().await;
            matches!(&last, Health::Failed(Failure::Crash, d) if d.contains("SIGKILL"))
        })
        .await,
        "{last:?}"
    );
    sut.teardown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_starts() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut busy = ProcessSut::new(&spec(&format!("http://127.0.0.1:{port}"), LONG), this_binary());
    let mut missing = ProcessSut::new(
        &spec("http://127.0.0.1:0", LONG),
        vec!["no-such-program-here".into()],
    );
    let cases = [
        (busy.preflight(&parameters()).await, 69, "in use"),
        (
            busy.deploy(1, &parameters(), &config("ok"))
                .await
                .map(|_| Default::default()),
            69,
            "in use",
        ),
        (missing.preflight(&parameters()).await, 65, "no-such-program-here"),
        (
            process(LONG)
                .preflight(&[parameter("memory", Binding::Limit(Limit::Memory), int())])
                .await,
            65,
            "kind = \"docker\"",
        ),
    ];
    for (result, code, word) in cases {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, SutError::Refused { exit, message } if *exit == code && message.contains(word)),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_done_the_guardian_ends_the_process_group() {
    let (_home, results) = crate::docker_faults::study_folder();
    let guardian = Guardian::spawn_with(&crate::docker_faults::launcher(), &results, "run-p")
        .await
        .unwrap();
    let mut sut = process(LONG);
    sut.set_notes(guardian.notes());
    let up = sut.deploy(1, &parameters(), &config("family")).await.unwrap();
    // as if killed: the pipe closes, nobody tears down
    drop(guardian);
    let ended = eventually(async || matches!(sut.health().await, Health::Failed(..))).await;
    assert!(ended);
    // the leader is ours to reap; its child is the guardian's work
    let gone = eventually(async || {
        let _ = sut.health().await;
        !autotune::sut::child::group_lives(up.pids[0])
    })
    .await;
    assert!(gone);
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn command_sut(folder: &Path, url: &str, deploy: &str, timeout: Duration) -> CommandSut {
    let deploy = script(folder, "deploy", deploy);
    let log = folder.join("log");
    let teardown = script(
        folder,
        "teardown",
        &format!("echo down $POOL_SIZE >> {}", log.display()),
    );
    CommandSut::new(
        &spec(url, timeout),
        &[deploy.to_string_lossy().into_owned()],
        &[teardown.to_string_lossy().into_owned()],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_get_the_parameters_and_run_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // the service that the scripts pretend to deploy
    let mut service = process(LONG);
    let up = service.deploy(1, &parameters(), &config("ok")).await.unwrap();
    let text = format!("echo up $POOL_SIZE $AUTOTUNE_TRIAL >> {}", log.display());
    let mut sut = command_sut(folder.path(), &up.urls[0], &text, LONG);
    sut.preflight(&parameters()).await.unwrap();
    for trial in [1, 2] {
        sut.deploy(trial, &parameters(), &config("ok")).await.unwrap();
        assert_eq!(sut.health().await, Health::Running);
    }
    sut.teardown().await.unwrap();
    sut.teardown().await.unwrap();
    assert_eq!(sut.restore().await.unwrap(), None);
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "up 7 1\ndown 7\nup 7 2\ndown 7\n"
    );
    service.teardown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scripts_status_says_whose_fault_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:9";
    for (text, expected) in [
        ("echo $SECRET_THING; exit 4", "status 4:\n***"),
        ("exit 75", "not the config's fault"),
        ("sleep 60", "did not return"),
    ] {
        let mut sut = command_sut(folder.path(), url, text, Duration::from_secs(1));
        let error = sut.deploy(1, &parameters(), &config("ok")).await.unwrap_err();
        let is_config = matches!(&error, SutError::Config { .. });
        assert_eq!(is_config, text != "exit 75", "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains(expected) && !shown.contains(CANARY), "{shown}");
    }
    let downs = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(
        downs.lines().count(),
        3,
        "what was begun is taken away, after failures too"
    );
}
