//! The docker sut on a real engine: parking, trials, failures, giving back. Skipped, with the reason, where none answers.

use std::time::Duration;

use autotune::space::Value;
use autotune::spec::DockerRef;
use autotune::sut::docker::engine::FaultPlan;
use autotune::sut::docker::parking::{self, Filter};
use autotune::sut::docker::record::{Record, Step};
use autotune::sut::{Health, Sut, SutError};
use autotune::trial::Failure;

use crate::docker_kit::{CANARY, Given, config, eventually, get, kit, parameters};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_parked_tried_and_given_back() {
    let Some(mut kit) = kit("a_container_is_parked_tried_and_given_back").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let name = kit.name("api");
    let mut sut = kit.sut("api");

    let facts = sut.preflight(&parameters()).await.unwrap();
    assert_eq!(facts.today["pool_size"], Value::Int(2));
    assert_eq!(facts.today["memory"], Value::Int(512));
    assert!(!facts.today.contains_key("cpus"));
    assert!(facts.identity.starts_with("sha256:"));
    assert!(facts.secrets.iter().any(|s| s.expose() == CANARY));
    kit.assert_given_back(&id, &name, true, "preflight changes nothing")
        .await;

    let mut shown = format!("{facts:?}");
    for pool in [7, 9] {
        let up = sut
            .deploy(u32::try_from(pool).unwrap(), &parameters(), &config(pool, "ok"))
            .await
            .unwrap();
        assert_eq!(
            up.proof,
            [
                "MODE=ok",
                &format!("POOL_SIZE={pool}"),
                "cpus=0.5",
                "memory=64 MiB"
            ]
        );
        assert!(
            get(&up.urls[0])
                .await
                .unwrap()
                .contains(&format!("\"pool\": \"{pool}\""))
        );
        assert_eq!(sut.health().await, Health::Running);

        let parked = kit.listed(&id).await.unwrap();
        assert_eq!(
            (parked.name, parked.state.as_str()),
            (parking::parked_name(&name, true), "exited")
        );
        let trial = kit.engine.inspect(&up.containers[0]).await.unwrap();
        assert_eq!(trial["Name"], format!("/{name}"));
        assert_eq!(trial["HostConfig"]["MemorySwap"], 64 << 20);
        assert_eq!(trial["HostConfig"]["RestartPolicy"]["Name"], "no");
        let labels = trial["Config"]["Labels"].as_object().unwrap();
        assert!(
            labels.keys().all(|k| !k.starts_with("com.docker.compose")),
            "{labels:?}"
        );
        assert_eq!(labels["com.example.kept"], "yes");
        let env = trial["Config"]["Env"].as_array().unwrap();
        assert!(env.iter().any(|e| e.as_str().unwrap().contains(CANARY)));
        assert!(env.iter().any(|e| e == "ADDED=added-value-11"));
        shown += &format!("{up:?} {}", sut.log_tail().await);
    }
    let record = std::fs::read_to_string(kit.results.path().join("parking.json")).unwrap();
    shown += &record;
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(
        shown.contains("starting with ***"),
        "the log itself is shown: {shown}"
    );

    sut.teardown().await.unwrap();
    assert!(parking::unparked(&kit.listed(&id).await.unwrap().name).is_some());
    let said = sut.restore().await.unwrap().unwrap();
    assert!(said.contains(&name) && said.contains("running"), "{said}");
    kit.assert_given_back(&id, &name, true, "after restore").await;
    assert_eq!(
        Record::read(kit.results.path()).unwrap().step,
        Step::Restored,
        "the record says so"
    );
    assert_eq!(sut.restore().await.unwrap(), None, "nothing left to do");
    assert_eq!(
        parking::restore_all(&kit.engine, &Filter::Originals(vec![id])).await,
        Ok(vec![])
    );
}

/// Fails when `check` passes over a variable that the container does not have or a baseline that is not its own, does not
/// ask what a study would ask, or shows a value that nobody tunes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_what_the_file_and_the_container_do_not_agree_on() {
    let Some(mut kit) = kit("check_names_what_the_file_and_the_container_do_not_agree_on").await else {
        return;
    };
    let port = free_port();
    let given = Given {
        port: Some(port),
        ..Given::default()
    };
    kit.original("api", given).await;
    let url = format!("http://127.0.0.1:{port}");
    assert!(eventually(async || get(&format!("{url}/ready")).await.is_ok()).await);
    let check = |parameters: &str| {
        let file = kit.results.path().join("space.toml");
        let text = format!(
            "[study]\nname = \"it\"\ntrials = 3\n[sut]\nkind = \"docker\"\ncontainer = \"{}\"\nurl = \"{url}\"\n\
             ready = {{ path = \"/ready\", timeout = \"5s\" }}\n{parameters}\n[[load.requests]]\npath = \"/\"\n\
             [telemetry]\npool = \"/pool\"\n",
            kit.name("api")
        );
        std::fs::write(&file, text).unwrap();
        let out = crate::support::output(
            std::process::Command::new(crate::support::AUTOTUNE)
                .args(["check", "--space"])
                .arg(&file)
                .arg("--results")
                .arg(kit.results.path()),
        );
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(!said.contains(CANARY), "{said}");
        (out.status.code().unwrap(), said)
    };
    let int = |env: &str, rest: &str| {
        format!("[parameters.pool_size]\ntype = \"int\"\nlow = 1\nhigh = 9\nenv = \"{env}\"\n{rest}")
    };
    let (code, said) = check(&int("POOLSIZE", "baseline = 5"));
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("the container has no POOLSIZE; it has POOL_SIZE")
            && said.contains("ready path /ready: answers"),
        "{said}"
    );
    assert!(
        said.contains("names no connections in use"),
        "the pool page was asked: {said}"
    );
    let (code, said) = check(&int("POOLSIZE", ""));
    assert_eq!(code, 65, "{said}");
    assert!(
        said.contains("it has POOL_SIZE") && said.contains("write baseline"),
        "{said}"
    );
    let (code, said) = check(&int("POOL_SIZE", "baseline = 5"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("today's value is 5, the service has 2"), "{said}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_was_stopped_stays_stopped() {
    let Some(mut kit) = kit("a_container_that_was_stopped_stays_stopped").await else {
        return;
    };
    let given = Given {
        start: false,
        compose: false,
        ..Given::default()
    };
    let id = kit.original("plain", given).await;
    let target = DockerRef::Container(kit.name("plain"));
    let mut sut = kit.sut_of(&kit.spec(target.clone()), &target, kit.engine.clone());
    sut.deploy(1, &parameters(), &config(3, "ok")).await.unwrap();
    let mut early = kit.sut_of(&kit.spec(target.clone()), &target, kit.engine.clone());
    let error = early.preflight(&parameters()).await.unwrap_err();
    assert!(
        matches!(&error, SutError::Refused { exit: 75, message }
            if message.contains(&kit.prefix) && message.contains(&kit.name("plain"))),
        "{error:?}"
    );
    // as after a crash of the tool: another instance, by the same name
    drop(sut);
    let mut second = kit.sut_of(&kit.spec(target.clone()), &target, kit.engine.clone());
    let facts = second.preflight(&parameters()).await.unwrap();
    assert!(facts.lines.iter().any(|l| l.contains("parked")), "{facts:?}");
    second.deploy(2, &parameters(), &config(4, "ok")).await.unwrap();
    assert_eq!(
        kit.left_over().await.len(),
        1,
        "the first trial was taken over and removed"
    );
    second.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("plain"), false, "stopped")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_start_is_the_configs_fault_and_its_log_is_redacted() {
    let Some(mut kit) = kit("a_crash_at_start").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let mut sut = kit.sut("api");
    let error = sut
        .deploy(1, &parameters(), &config(1, "crash"))
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
    assert!(kit.left_over().await.is_empty(), "a failed trial leaves nothing");
    // the next config has its chance
    sut.deploy(2, &parameters(), &config(1, "ok")).await.unwrap();
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "after a crash")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_gets_ready_is_bounded_by_its_budget() {
    let Some(mut kit) = kit("never_ready").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let target = kit.service("api");
    let mut spec = kit.spec(target.clone());
    spec.ready.timeout = Duration::from_secs(2);
    let mut sut = kit.sut_of(&spec, &target, kit.engine.clone());
    let error = sut
        .deploy(1, &parameters(), &config(1, "deaf"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SutError::Config { failure: Failure::NeverReady, detail }
            if detail.contains("status 503") && !detail.contains(CANARY)),
        "{error:?}"
    );
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "never ready")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory_is_seen_in_the_main_process_and_in_a_child() {
    let Some(mut kit) = kit("out_of_memory").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let mut sut = kit.sut("api");
    for (trial, path) in [(1, "/eat"), (2, "/eat-child")] {
        let up = sut.deploy(trial, &parameters(), &config(1, "ok")).await.unwrap();
        let _ = get(&format!("{}{path}", up.urls[0])).await;
        let mut last = Health::Running;
        let seen = eventually(async || {
            last = sut.health().await;
            matches!(last, Health::Failed(Failure::Oom, _))
        })
        .await;
        assert!(seen, "{path}: {last:?}");
        if path == "/eat-child" {
            assert!(
                get(&up.urls[0]).await.is_ok(),
                "the main process lives, and no flag shows it"
            );
        }
    }
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "oom").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_under_load_is_a_crash() {
    let Some(mut kit) = kit("an_exit_under_load").await else {
        return;
    };
    kit.original("api", Given::default()).await;
    let mut sut = kit.sut("api");
    let up = sut.deploy(1, &parameters(), &config(1, "ok")).await.unwrap();
    let _ = get(&format!("{}/exit", up.urls[0])).await;
    let mut last = Health::Running;
    let seen = eventually(async || {
        last = sut.health().await;
        last != Health::Running
    })
    .await;
    assert!(
        seen && matches!(&last, Health::Failed(Failure::Crash, d) if d.contains("status 4")),
        "{last:?}"
    );
    sut.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_port_is_found_in_preflight_and_survived_at_the_start() {
    let Some(mut kit) = kit("a_busy_port").await else {
        return;
    };
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let given = Given {
        start: false,
        port: Some(port),
        ..Given::default()
    };
    let id = kit.original("api", given).await;
    let mut sut = kit.sut("api");
    let error = sut.preflight(&parameters()).await.unwrap_err();
    assert!(
        matches!(&error, SutError::Refused { exit: 69, message } if message.contains(&port.to_string())),
        "{error:?}"
    );
    let error = sut.deploy(1, &parameters(), &config(1, "ok")).await.unwrap_err();
    assert!(
        matches!(&error, SutError::Infrastructure(m) if m.contains("port")),
        "not the config's fault: {error:?}"
    );
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), false, "port busy")
        .await;
    drop(holder);
    sut.deploy(2, &parameters(), &config(1, "ok")).await.unwrap();
    sut.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_given_back_is_refused_untouched() {
    let Some(mut kit) = kit("what_cannot_be_given_back").await else {
        return;
    };
    let given = |auto_remove| Given {
        auto_remove,
        ..Given::default()
    };
    let removed = kit.original("removed", given(true)).await;
    let host = kit.original("host", given(false)).await;
    let guest = Given {
        network_mode: Some(format!("container:{host}")),
        ..Given::default()
    };
    kit.original("guest", guest).await;
    for (service, word) in [
        ("removed", "--rm"),
        ("host", "guest"),
        ("guest", "network namespace"),
        ("nobody", "there are: guest, host, removed"),
    ] {
        let error = kit.sut(service).preflight(&parameters()).await.unwrap_err();
        assert!(
            matches!(&error, SutError::Refused { exit: 69, message } if message.contains(word)),
            "{service}: {error:?}"
        );
        // a driver that skips preflight is stopped as well
        let error = kit.sut(service).deploy(1, &parameters(), &config(1, "ok")).await;
        assert!(matches!(error, Err(SutError::Refused { .. })), "{service}");
    }
    kit.assert_given_back(&removed, &kit.name("removed"), true, "untouched")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_the_trial_stops_the_run() {
    let Some(mut kit) = kit("what_others_do").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let mut sut = kit.sut("api");

    let up = sut.deploy(1, &parameters(), &config(1, "ok")).await.unwrap();
    kit.engine.remove(&up.containers[0]).await.unwrap();
    let mut last = Health::Running;
    assert!(
        eventually(async || {
            last = sut.health().await;
            matches!(last, Health::Foreign(_))
        })
        .await,
        "{last:?}"
    );
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "trial removed")
        .await;

    // A run keeps the container's lock to its end.
    drop(sut);
    let mut sut = kit.sut("api");
    sut.deploy(2, &parameters(), &config(1, "ok")).await.unwrap();
    // what `docker compose up` does with the parked container
    kit.engine.start(&id).await.unwrap();
    assert!(
        eventually(async || {
            last = sut.health().await;
            matches!(&last, Health::Foreign(m) if m.contains("docker compose -p"))
        })
        .await,
        "{last:?}"
    );
    let next = sut.deploy(3, &parameters(), &config(1, "ok")).await;
    assert!(
        matches!(next, Err(SutError::Refused { exit: 69, .. })),
        "{next:?}"
    );
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "parked one started")
        .await;
}

/// Every Docker call that changes something, in turn, is the last thing the tool ever does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_change_leaves_something_that_restore_gives_back() {
    let Some(mut kit) = kit("dying_at_any_change").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let name = kit.name("api");
    let target = kit.service("api");
    let spec = kit.spec(target.clone());
    let filter = Filter::Originals(vec![id.clone()]);
    let mut got_through = false;
    for step in 0..40_u64 {
        let plan = FaultPlan {
            at: step / 2 + 1,
            carried_out: step % 2 == 1,
            changes_only: true,
        };
        let engine = kit.engine.clone().with_faults(plan);
        let mut sut = kit.sut_of(&spec, &target, engine);
        let deployed = sut.deploy(1, &parameters(), &config(2, "ok")).await.is_ok();
        // No in-process restore: it would find the daemon "away" and wait; the tool is dead.
        let all_done = deployed && sut.teardown().await.is_ok();
        drop(sut);
        parking::restore_all(&kit.engine, &filter).await.unwrap();
        kit.assert_given_back(&id, &name, true, &format!("{plan:?}"))
            .await;
        if all_done {
            got_through = true;
            break;
        }
    }
    assert!(got_through, "the loop must reach a run that no fault cuts short");
    // and a restore that dies at any of its changes is finished by the next
    for step in 0..8_u64 {
        let mut sut = kit.sut("api");
        sut.deploy(1, &parameters(), &config(2, "ok")).await.unwrap();
        drop(sut);
        let plan = FaultPlan {
            at: step / 2 + 1,
            carried_out: step % 2 == 1,
            changes_only: true,
        };
        let _ = parking::restore_all(&kit.engine.clone().with_faults(plan), &filter).await;
        parking::restore_all(&kit.engine, &filter).await.unwrap();
        kit.assert_given_back(&id, &name, true, &format!("restore, {plan:?}"))
            .await;
    }
}
