//! Tests of specs: only what is tuned differs, and what is kept is the original.

use proptest::prelude::*;

use super::super::restore::differences;
use super::*;

fn parameter(name: &str, binding: Binding) -> Parameter {
    Parameter {
        name: name.into(),
        domain: Domain::Int {
            low: 1,
            high: 4096,
            step: 1,
            log: false,
        },
        baseline: Value::Int(1),
        binding,
        only_if: None,
    }
}

fn parameters() -> Vec<Parameter> {
    vec![
        parameter("pool", Binding::Env("POOL_SIZE".into())),
        parameter("tasks", Binding::Replicas),
        parameter("cpus", Binding::Limit(Limit::Cpus)),
        parameter("memory", Binding::Limit(Limit::Memory)),
    ]
}

fn config(pairs: &[(&str, i64)]) -> Config {
    pairs
        .iter()
        .map(|(n, v)| ((*n).to_owned(), Value::Int(*v)))
        .collect()
}

fn own() -> Json {
    json!({"Name": "shop_api", "Labels": {"com.docker.stack.namespace": "shop"},
        "TaskTemplate": {"ForceUpdate": 3, "FromTheFuture": {"a": [1.5, null]},
            "ContainerSpec": {"Image": "shop:1", "Env": ["A=1", "POOL_SIZE=2", "DATABASE_URL=postgresql://x:canary@db/x", "PORT=1830{{.Task.Slot}}"]},
            "Resources": {"Limits": {"MemoryBytes": 536_870_912}, "Reservations": {"NanoCPUs": 500_000_000, "MemoryBytes": 268_435_456}},
            "RestartPolicy": {"Condition": "any"}},
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Parallelism": 1, "Delay": 10_000_000_000_i64, "MaxFailureRatio": 0.1},
        "EndpointSpec": {"Mode": "dnsrr"}})
}

fn marks() -> Marks {
    Marks {
        run: "run-1".into(),
        host: "host-1".into(),
        results: "results/run".into(),
        trial: 7,
        force: 9,
    }
}

fn made(original: &Json, pairs: &[(&str, i64)]) -> Json {
    let change = Change::of(&parameters(), &config(pairs), &BTreeMap::new()).unwrap();
    trial(original, &change, &marks()).unwrap()
}

/// Breaks when an update touches anything that nobody tunes, or leaves out what it should set.
#[test]
fn a_trial_differs_only_where_it_is_tuned() {
    let t = made(
        &own(),
        &[("pool", 12), ("tasks", 4), ("cpus", 1), ("memory", 256)],
    );
    assert_eq!(
        differences(&t, &own()),
        [
            "Labels.autotune.host",
            "Labels.autotune.original-spec",
            "Labels.autotune.results",
            "Labels.autotune.run",
            "Labels.autotune.trial",
            "Mode.Replicated.Replicas",
            "TaskTemplate.ContainerSpec.Env",
            "TaskTemplate.ForceUpdate",
            "TaskTemplate.Resources.Limits.MemoryBytes",
            "TaskTemplate.Resources.Limits.NanoCPUs",
        ]
    );
    let env = t["TaskTemplate"]["ContainerSpec"]["Env"].as_array().unwrap();
    assert_eq!(env[1], "POOL_SIZE=12", "in its place");
    assert_eq!(env.len(), 4);
    assert_eq!(t["UpdateConfig"]["Parallelism"], 0);
    assert_eq!(
        t["UpdateConfig"]["FailureAction"], "pause",
        "no rollback by the swarm itself"
    );
    assert_eq!(kept(&t), Some(Ok(own())));
    assert_eq!(kept(&own()), None);
    assert_eq!(force(&t), 9);
}

#[test]
fn the_same_config_still_makes_tasks_of_its_own() {
    let t = made(&own(), &[("pool", 2)]);
    assert_ne!(force(&t), force(&own()));
    assert_eq!(replicas(&t), Some(2), "as many as today");
}

/// Breaks when a reservation of today exceeds a tuned limit, which no node takes, or when a tuned one is changed quietly.
#[test]
fn reservations_never_exceed_new_limits() {
    let t = made(&own(), &[("memory", 128)]);
    assert_eq!(limit(&t, LimitKey::Memory), Some(128 << 20));
    assert_eq!(limit(&t, LimitKey::MemoryReservation), Some(128 << 20));
    assert_eq!(
        limit(&t, LimitKey::CpuReservation),
        Some(500_000_000),
        "no limit of its kind is tuned"
    );
    let both = [
        parameter("memory", Binding::Limit(Limit::Memory)),
        parameter("reserved", Binding::Limit(Limit::MemoryReservation)),
    ];
    let wrong = Change::of(
        &both,
        &config(&[("memory", 128), ("reserved", 256)]),
        &BTreeMap::new(),
    );
    assert!(wrong.unwrap_err().contains("[[constraints]]"));
    let right = Change::of(
        &both,
        &config(&[("memory", 256), ("reserved", 128)]),
        &BTreeMap::new(),
    )
    .unwrap();
    let t = trial(&own(), &right, &marks()).unwrap();
    assert_eq!(limit(&t, LimitKey::MemoryReservation), Some(128 << 20));
}

#[test]
fn proof_names_what_is_not_live_and_shows_tuned_values_only() {
    let added = BTreeMap::from([("TOKEN".to_owned(), "canary".to_owned())]);
    let change = Change::of(
        &parameters(),
        &config(&[("pool", 12), ("tasks", 4), ("cpus", 1)]),
        &added,
    )
    .unwrap();
    let t = trial(&own(), &change, &marks()).unwrap();
    assert_eq!(
        change.proof(&t, &["POOL_SIZE"]).unwrap(),
        ["POOL_SIZE=12", "limits.NanoCPUs=1", "replicas=4"]
    );
    let missing = change.proof(&own(), &["POOL_SIZE"]).unwrap_err();
    assert_eq!(missing, "POOL_SIZE, TOKEN, limits.NanoCPUs=1, replicas=4");
}

#[test]
fn today_is_read_by_type_and_says_what_it_cannot_read() {
    let (values, unread) = today(&own(), &parameters());
    assert_eq!(values["pool"], Value::Int(2));
    assert_eq!(values["tasks"], Value::Int(2));
    assert_eq!(values["memory"], Value::Int(512));
    assert_eq!(unread, ["cpus: the service has no `cpus` today"]);
    let secret = [parameter("url", Binding::Env("DATABASE_URL".into()))];
    assert!(!today(&own(), &secret).1.join("").contains("canary"));
}

/// Breaks when a study can't be resumed after its own recommendation was deployed or on another swarm, or can be after
/// another image.
#[test]
fn the_identity_is_of_what_nobody_tunes_and_of_no_value() {
    let is = |spec: &Json| identity(spec, &parameters());
    let same = made(&own(), &[("pool", 40), ("memory", 640), ("tasks", 3)]);
    assert_eq!(is(&own()), is(&same));
    let mut other = own();
    other["TaskTemplate"]["ContainerSpec"]["Env"][2] = json!("DATABASE_URL=postgresql://other");
    other["TaskTemplate"]["Networks"] = json!([{"Target": "id-of-another-swarm"}]);
    assert_eq!(is(&own()), is(&other));
    other["TaskTemplate"]["ContainerSpec"]["Image"] = json!("shop:2");
    assert_ne!(is(&own()), is(&other));
    let mut command = own();
    command["TaskTemplate"]["ContainerSpec"]["Args"] = json!(["--workers", "4"]);
    assert_ne!(is(&own()), is(&command));
}

#[test]
fn a_spec_too_large_for_a_label_is_refused_before_it_is_sent() {
    let mut large = own();
    large["TaskTemplate"]["ContainerSpec"]["Env"] = json!(["A".repeat(MAX_SPEC)]);
    assert!(trial(&large, &Change::default(), &marks()).is_err());
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        "[ -~äß\"\\\\]{0,20}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[A-Za-z.]{1,8}", inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    /// Whatever a future engine writes into a spec comes back to the last field.
    #[test]
    fn what_is_kept_is_the_original(
        more in any_json(),
        inner in any_json(),
        env in prop::collection::vec("[A-Z]{1,4}=[ -~]{0,10}", 0..5),
        pool in 1_i64..4096,
        tasks in 1_i64..9,
    ) {
        let mut original = own();
        original["More"] = more;
        original["TaskTemplate"]["ContainerSpec"]["Inner"] = inner;
        original["TaskTemplate"]["ContainerSpec"]["Env"] = json!(env);
        let first = made(&original, &[("pool", pool), ("tasks", tasks)]);
        prop_assert_eq!(kept(&first), Some(Ok(original.clone())));
        // The label survives the engine's own writing: as a text in JSON.
        let read: Json = serde_json::from_str(&first.to_string()).unwrap();
        prop_assert_eq!(kept(&read), Some(Ok(original.clone())));
        let allowed = ["Labels.", "Mode.", "TaskTemplate.ContainerSpec.Env", "TaskTemplate.ForceUpdate", "UpdateConfig"];
        for path in differences(&first, &original) {
            prop_assert!(allowed.iter().any(|a| path.starts_with(a)), "{}", path);
        }
    }
}
