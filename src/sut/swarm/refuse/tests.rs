//! Tests of what is refused.

use super::*;
use serde_json::json;

fn service(spec: Json, state: &str) -> Service {
    Service {
        id: "0123456789abcdef".into(),
        name: "shop_api".into(),
        spec,
        update_state: state.into(),
        ..Service::default()
    }
}

fn own(replicas: u64) -> Json {
    json!({"Name": "shop_api", "TaskTemplate": {"ContainerSpec": {"Image": "shop@sha256:1", "Env": ["PORT=1830{{.Task.Slot}}"]}},
        "Mode": {"Replicated": {"Replicas": replicas}}})
}

fn up(n: u64) -> Vec<Task> {
    (1..=n)
        .map(|slot| Task {
            slot,
            desired: "running".into(),
            state: "running".into(),
            ..Task::default()
        })
        .collect()
}

fn nodes(n: usize) -> Vec<Node> {
    (0..n)
        .map(|i| Node {
            id: i.to_string(),
            name: format!("node{i}"),
            is_ready: true,
            is_active: true,
            cpus: 2.0,
            memory: 4 << 30,
            ..Node::default()
        })
        .collect()
}

fn parameter(binding: Binding, high: i64) -> Parameter {
    Parameter {
        name: "p".into(),
        domain: Domain::Int {
            low: 1,
            high,
            step: 1,
            log: false,
        },
        baseline: Value::Int(1),
        binding,
        only_if: None,
    }
}

fn target(task_url: Option<&str>) -> SwarmRef {
    SwarmRef {
        service: "shop_api".into(),
        task_url: task_url.map(str::to_owned),
    }
}

fn outcome(s: &Service, tasks: u64, high: i64, task_url: Option<&str>) -> Option<(u8, String)> {
    let replicas = [parameter(Binding::Replicas, high)];
    match check(s, (&up(tasks), &nodes(3)), &replicas, &target(task_url)) {
        Ok(_) => None,
        Err(SutError::Refused { exit, message }) => Some((exit, message)),
        Err(e) => panic!("{e:?}"),
    }
}

#[test]
fn what_cannot_be_given_back_or_does_not_work_today_is_refused() {
    let said = |s: &Service, tasks| outcome(s, tasks, 3, None).unwrap();
    assert_eq!(outcome(&service(own(2), "completed"), 2, 3, None), None);
    for mode in ["Global", "ReplicatedJob", "GlobalJob"] {
        let mut spec = own(2);
        spec["Mode"] = json!({ mode: {} });
        let (exit, message) = said(&service(spec, ""), 2);
        assert!(exit == 65 && message.contains(mode), "{message}");
    }
    for state in ["updating", "paused", "rollback_started", "rollback_paused"] {
        assert_eq!(said(&service(own(2), state), 2).0, 69, "{state}");
    }
    assert!(said(&service(own(2), ""), 1).1.contains("1 of 2 tasks"));
    let mut left = own(2);
    left["Labels"] = json!({ spec::ORIGINAL: "{" });
    assert_eq!(said(&service(left, ""), 2).0, 69);
}

/// Breaks when two tasks could be put on one node that take the same port.
#[test]
fn more_tasks_than_nodes_need_ports_of_their_own() {
    let mut fixed = own(2);
    fixed["EndpointSpec"] =
        json!({"Ports": [{"PublishMode": "host", "PublishedPort": 18300, "TargetPort": 8000}]});
    let fixed = service(fixed, "");
    let each = Some("http://{node}:18300");
    assert_eq!(outcome(&fixed, 2, 3, each), None);
    let (exit, message) = outcome(&fixed, 2, 4, each).unwrap();
    assert!(
        exit == 65 && message.contains("18300") && message.contains("bound `replicas` by 3"),
        "{message}"
    );
    let plain = service(own(2), "");
    assert_eq!(outcome(&plain, 2, 4, Some("http://{node}:1830{slot}")), None);
    assert!(outcome(&plain, 2, 4, each).unwrap().1.contains("{slot}"));
    let mut untemplated = own(2);
    untemplated["TaskTemplate"]["ContainerSpec"]["Env"] = json!(["PORT=18300"]);
    let said = outcome(&service(untemplated, ""), 2, 4, Some("http://{node}:1830{slot}"));
    assert!(said.unwrap().1.contains(".Task.Slot"));
    let none_left = outcome(&plain, 2, 12, Some("http://{node}:1830{slot}")).unwrap();
    assert!(none_left.1.contains("no port for task 12"), "{none_left:?}");
    assert_eq!(outcome(&plain, 2, 12, Some("http://{node}:183{slot}")), None);
    assert_eq!(outcome(&plain, 2, 64, None), None, "behind a balancer");
    assert_eq!(outcome(&plain, 2, 65, None).unwrap().0, 65);
}

#[test]
fn limits_that_no_node_has_are_refused_together() {
    let wrong = [
        parameter(Binding::Limit(Limit::Cpus), 3),
        parameter(Binding::Limit(Limit::Memory), 5000),
    ];
    let e = check(&service(own(2), ""), (&up(2), &nodes(3)), &wrong, &target(None)).unwrap_err();
    let words = e.to_string();
    assert!(words.contains("3 cpus") && words.contains("5000 MiB"), "{words}");
}

#[test]
fn an_engine_that_manages_no_swarm_is_said_with_what_mends_it() {
    let of = |swarm: Json| manager(&json!({ "Swarm": swarm }), "unix:///x");
    assert_eq!(
        of(json!({"LocalNodeState": "active", "ControlAvailable": true})),
        Ok(())
    );
    for (state, word) in [
        ("inactive", "in no swarm"),
        ("active", "worker"),
        ("locked", "unlock"),
        ("error", "error"),
    ] {
        let said = of(json!({"LocalNodeState": state})).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
    assert!(manager(&json!({}), "unix:///x").is_err());
}

#[test]
fn a_missing_service_is_said_with_those_that_there_are() {
    let all = [service(own(1), "")];
    assert!(
        find(&all, "shop_web")
            .unwrap_err()
            .to_string()
            .contains("shop_api")
    );
    assert!(find(&all, "shop_api").is_ok());
    assert!(find(&all, "0123456789ab").is_ok());
    assert!(find(&[], "x").unwrap_err().to_string().contains("has none"));
}

/// Breaks when a run takes over a service that a run on another machine has, whose lock can't be seen here.
#[test]
fn a_run_on_another_machine_is_named() {
    let mut own = own(1);
    own["Labels"] = json!({spec::RUN: "pool-7", spec::HOST: "far", spec::RESULTS: "results/pool"});
    let s = service(own, "");
    assert_eq!(elsewhere(&s, "far"), Ok(()));
    let SutError::Refused { exit, message } = elsewhere(&s, "near").unwrap_err() else {
        panic!()
    };
    assert_eq!(exit, 75);
    assert!(
        message.contains("pool-7") && message.contains("far") && message.contains("autotune restore --space")
    );
}
