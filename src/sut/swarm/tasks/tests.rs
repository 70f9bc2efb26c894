//! Tests of what lists of tasks and nodes say.

use super::*;
use serde_json::json;

fn task(id: &str, slot: u64, node: &str, desired: &str, state: &str, force: u64) -> Task {
    Task {
        id: id.into(),
        slot,
        node: node.into(),
        desired: desired.into(),
        state: state.into(),
        force,
        ..Task::default()
    }
}

fn node(id: &str, is_ready: bool) -> Node {
    Node {
        id: id.into(),
        name: format!("name-{id}"),
        address: format!("10.0.0.{}", id.len()),
        is_ready,
        is_active: true,
        cpus: 2.0,
        memory: 1 << 30,
    }
}

#[test]
fn a_trial_is_up_when_all_its_tasks_run_and_none_of_before() {
    let nodes = [node("a", true), node("b", false)];
    let old = task("o", 1, "a", "shutdown", "running", 1);
    let waits = task("n", 1, "a", "ready", "ready", 2);
    let runs = task("n", 1, "a", "running", "running", 2);
    let of = |all: &[Task]| judge(all, &nodes, 2, 1);
    assert_eq!(of(&[old.clone(), waits.clone()]), Progress::Ending(1));
    assert!(matches!(of(&[waits]), Progress::Starting { up: 0, .. }));
    let ended = task("o", 1, "a", "shutdown", "shutdown", 1);
    assert_eq!(of(&[ended, runs.clone()]), Progress::Up(vec![runs.clone()]));
    // One of before on a node that is away says "running" for a day.
    let away = task("o", 2, "b", "shutdown", "running", 1);
    assert_eq!(of(&[away, runs.clone()]), Progress::Up(vec![runs.clone()]));
    // A failure of before this update is not this trial's.
    let failed_before = task("f", 1, "a", "shutdown", "failed", 1);
    assert_eq!(of(&[failed_before, runs.clone()]), Progress::Up(vec![runs]));
    // A second task of ours that was scaled away still takes traffic.
    let surplus = task("s", 2, "a", "remove", "running", 2);
    let runs = task("n", 1, "a", "running", "running", 2);
    assert_eq!(of(&[surplus, runs]), Progress::Ending(1));
}

#[test]
fn a_task_without_a_place_is_seen_with_the_swarms_words() {
    let mut t = task("n", 1, "", "ready", "pending", 2);
    t.error = "no suitable node (insufficient resources on 3 nodes)".into();
    let Progress::Starting { without_place, .. } = judge(&[t], &[node("a", true)], 2, 1) else {
        panic!("it waits for a place")
    };
    assert!(without_place.unwrap().contains("insufficient"));
}

/// Breaks when a killed task counts as out of memory without a limit, an unhealthy one as out of memory, or a node
/// without the image as the config's fault.
#[test]
fn an_end_is_put_down_to_the_config_or_to_the_swarm() {
    let ended = |error: &str, exit: i64, limited: bool| {
        let mut t = task("n", 1, "a", "shutdown", "failed", 2);
        (t.error, t.exit, t.has_memory_limit) = (error.into(), exit, limited);
        blame(&t)
    };
    let failure = |b: &Blame| match b {
        Blame::Config(f, _) => Some(*f),
        Blame::Swarm(_) => None,
    };
    assert_eq!(
        failure(&ended("task: non-zero exit (137)", 137, true)),
        Some(Failure::Oom)
    );
    assert_eq!(
        failure(&ended("task: non-zero exit (137)", 137, false)),
        Some(Failure::Crash)
    );
    assert_eq!(
        failure(&ended("task: non-zero exit (1)", 1, true)),
        Some(Failure::Crash)
    );
    let unhealthy = "task: non-zero exit (137): dockerexec: unhealthy container";
    assert_eq!(failure(&ended(unhealthy, 137, true)), Some(Failure::Unstable));
    let mut rejected = task("n", 1, "a", "running", "rejected", 2);
    rejected.error = "No such image: shop:1".into();
    assert_eq!(failure(&blame(&rejected)), None);
    // Three letters of a name are no kill for memory.
    let path = "invalid mount config: bind source path does not exist: /srv/chatroom";
    assert_eq!(failure(&ended(path, 1, true)), Some(Failure::Crash));
    assert_eq!(failure(&ended("task: OOMKilled", 1, true)), Some(Failure::Oom));
}

/// Breaks when what a node took along counts as the config's failure.
#[test]
fn a_node_that_is_away_explains_everything_on_it() {
    let live = [
        task("x", 1, "a", "running", "running", 2),
        task("y", 2, "b", "running", "running", 2),
    ];
    let all_there = [node("a", true), node("b", true)];
    assert_eq!(compare(&live, &live, &all_there), None);
    let failed = task("y", 2, "b", "shutdown", "failed", 2);
    let now = [live[0].clone(), failed.clone()];
    let away = [node("a", true), node("b", false)];
    assert_eq!(
        compare(&live, &now, &away),
        Some(Change::NodeAway("name-b".into()))
    );
    assert_eq!(
        compare(&live, &live, &away),
        Some(Change::NodeAway("name-b".into()))
    );
    assert_eq!(
        compare(&live, &now, &all_there),
        Some(Change::Ended(Box::new(failed)))
    );
    let moved = [live[0].clone(), task("y", 2, "b", "shutdown", "shutdown", 2)];
    assert!(matches!(
        compare(&live, &moved, &all_there),
        Some(Change::Moved(_))
    ));
    assert!(matches!(
        compare(&live, &live[..1], &all_there),
        Some(Change::Moved(_))
    ));
}

#[test]
fn every_task_has_its_address_or_the_balancer_has_it() {
    let tasks = [
        task("x", 1, "a", "running", "running", 2),
        task("y", 2, "bb", "running", "running", 2),
    ];
    let nodes = [node("a", true), node("bb", true)];
    let template = Some("http://{node}:1830{slot}");
    assert_eq!(
        urls(template, "u", &tasks, &nodes).unwrap(),
        ["http://10.0.0.1:18301", "http://10.0.0.2:18302"]
    );
    assert_eq!(urls(None, "u", &tasks, &nodes).unwrap(), ["u"]);
    let mut unknown = nodes.clone();
    unknown[1].address = String::new();
    assert!(
        urls(template, "u", &tasks, &unknown)
            .unwrap_err()
            .contains("name-bb")
    );
    assert!(urls(Some("http://127.0.0.1:1830{slot}"), "u", &tasks, &unknown).is_ok());
    assert_eq!(spread(&tasks, &nodes), "2 tasks on name-a, name-bb");
}

#[test]
fn a_counter_is_never_used_twice() {
    let tasks = [
        task("x", 1, "a", "shutdown", "failed", 8),
        task("y", 1, "a", "running", "running", 2),
    ];
    assert_eq!(next_force(2, &tasks), 9);
    assert_eq!(next_force(11, &tasks), 12);
}

#[test]
fn a_managers_own_address_is_found() {
    let of = |own: &str, manager: &str| {
        let json = json!({"ID": "n", "Description": {"Hostname": "h", "Resources": {"NanoCPUs": 2_000_000_000_i64}},
            "Status": {"State": "ready", "Addr": own}, "ManagerStatus": {"Addr": manager}, "Spec": {"Availability": "active"}});
        Node::from_json(&json).unwrap().address
    };
    assert_eq!(of("0.0.0.0", "10.77.0.11:2377"), "10.77.0.11");
    assert_eq!(of("10.77.0.12", ""), "10.77.0.12");
    assert_eq!(of("127.0.0.1", "10.77.0.11:2377"), "10.77.0.11");
    assert_eq!(of("0.0.0.0", "[fd00::1]:2377"), "fd00::1");
}
