//! Giving a service its own spec back: attempts that each start from what the swarm says now.
//!
//! Everything that it needs is in the service itself: the label of a trial holds the whole spec. Where the spec before the
//! present one is the service's own, it is the swarm's own rollback that gives it back, else an update to exactly that
//! spec. Then the same spec once more, which changes no task, so that `docker service rollback` does not lead to a trial.
//! May be repeated and broken off at every step. How long to try is the caller's business, as with containers.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::spec::{self, Service};
use super::tasks::{Task, running};
use crate::sut::docker::engine::services::is_stale;
use crate::sut::docker::engine::{Engine, EngineError};
use crate::sut::docker::find::quoted;
use crate::sut::docker::parking::{RestoreError, Restored};

/// A service that is changed by others all the time is tried so often in one attempt.
const STALE_TRIES: u32 = 10;
/// How long the tasks of the spec that is back are waited for; the spec is back before that.
const TASKS: Duration = Duration::from_secs(60);
/// Between two looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A call that nobody saw the end of may take effect after everything was looked at: looked at again after this.
const SETTLE: Duration = Duration::from_secs(1);
/// How often, at most.
const LOOKS: u32 = 5;

/// What is to be done to a service.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing of ours is in it.
    Nothing,
    /// Its own spec is the one before the present one: roll back to it.
    RollBack(Json),
    /// Update it to its own spec.
    Update(Json),
    /// Its own spec is there; the one before is a trial's: the same again takes that away.
    Tidy(Json),
    /// Its own spec can't be told any more.
    Lost(String),
}

/// What is to be done to `service`. Pure.
#[must_use]
pub fn step(service: &Service) -> Step {
    match spec::kept(&service.spec) {
        Some(Ok(own)) if service.previous == own => Step::RollBack(own),
        Some(Ok(own)) => Step::Update(own),
        Some(Err(why)) => Step::Lost(why),
        None => match spec::kept(&service.previous) {
            // What somebody deployed over a trial is theirs, and their update may be under way.
            Some(Ok(own)) if own == service.spec => Step::Tidy(own),
            _ => Step::Nothing,
        },
    }
}

/// What gives the service back by hand.
#[must_use]
pub fn by_hand(service: &Service) -> String {
    let name = quoted(&service.name);
    match step(service) {
        Step::RollBack(_) => format!("autotune restore, or: docker service rollback {name}"),
        _ => format!(
            "autotune restore, or deploy it again (docker stack deploy ...); its own spec is in a label: docker service inspect \
             --format '{{{{index .Spec.Labels \"{}\"}}}}' {name}",
            spec::ORIGINAL
        ),
    }
}

/// One attempt at the service with that id. Idempotent; empty where there was nothing to do.
pub async fn give_back(engine: &Engine, id: &str) -> Result<Vec<Restored>, RestoreError> {
    let mut own = None;
    for _ in 0..STALE_TRIES {
        let service = match read(engine, id).await {
            Ok(service) => service,
            Err(EngineError::NotFound(_)) => return Ok(vec![gone(id)]),
            Err(e) => return Err(failed(e, id, None)),
        };
        let (spec, rollback) = match step(&service) {
            Step::Nothing if own.is_none() => return Ok(Vec::new()),
            Step::Nothing => return seen_back(engine, &service, own.unwrap_or_default()).await,
            Step::Lost(why) => return Err(stuck(&service, why)),
            Step::RollBack(spec) => (spec, true),
            Step::Update(spec) | Step::Tidy(spec) => (spec, false),
        };
        own = Some(spec.clone());
        match engine.update_service(id, service.version, &spec, rollback).await {
            Ok(()) => {}
            // Somebody, or the swarm itself, wrote meanwhile: what is there now decides.
            Err(e) if is_stale(&e) => {}
            Err(EngineError::NotFound(_)) => return Ok(vec![gone(id)]),
            Err(e) => return Err(failed(e, id, Some(&service))),
        }
    }
    Err(RestoreError::Taken {
        name: id.to_owned(),
        detail: "the service is changed again and again".to_owned(),
        commands: "autotune restore".to_owned(),
    })
}

async fn read(engine: &Engine, id: &str) -> Result<Service, EngineError> {
    let json = engine.service(id).await?;
    Service::from_json(&json).ok_or_else(|| EngineError::Unreadable("docker's answer is no service".into()))
}

/// The spec that is there must be the service's own, to the last field.
async fn seen_back(engine: &Engine, service: &Service, own: Json) -> Result<Vec<Restored>, RestoreError> {
    if service.spec != own {
        let differs = differences(&service.spec, &own).join(", ");
        return Err(stuck(
            service,
            format!("the swarm took its own spec and has another now; what differs: {differs}"),
        ));
    }
    let wanted = spec::replicas(&own).unwrap_or(0);
    let force = spec::force(&own);
    let begun = Instant::now();
    let mut up = 0;
    // They are the swarm's business by now: what can't be seen is no reason to fail. The update may go on watching them for
    // some seconds, and a run that resumes here and now would be refused for it.
    while begun.elapsed() < TASKS {
        if let Ok(all) = engine.tasks(&service.id).await {
            let tasks: Vec<Task> = all.iter().filter_map(Task::from_json).collect();
            up = running(&tasks, force) as u64;
        }
        if up >= wanted && !is_under_way(engine, &service.id).await {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let tasks = match up >= wanted {
        true => format!("{wanted} of {wanted} tasks run it"),
        false => format!("{up} of {wanted} tasks run it so far, the swarm goes on"),
    };
    Ok(vec![Restored {
        name: service.name.clone(),
        id: service.id.clone(),
        runs: up >= wanted,
        what: format!("service {} has its own spec back ({tasks})", service.name),
    }])
}

/// Whether the swarm says that it is still at an update of the service.
async fn is_under_way(engine: &Engine, id: &str) -> bool {
    let now = read(engine, id).await.unwrap_or_default();
    matches!(now.update_state.as_str(), "updating" | "rollback_started")
}

/// Looks until nothing of ours appears any more. What that gave back.
pub async fn settle(engine: &Engine, id: &str) -> Vec<Restored> {
    let mut more = Vec::new();
    for _ in 0..LOOKS {
        tokio::time::sleep(SETTLE).await;
        match give_back(engine, id).await {
            Ok(done) if done.is_empty() => break,
            Ok(done) => more.extend(done),
            Err(_) => {}
        }
    }
    more
}

fn gone(id: &str) -> Restored {
    Restored {
        name: id.to_owned(),
        id: id.to_owned(),
        runs: false,
        what: format!("service {id} was removed by somebody: deploy it again (docker stack deploy ...)"),
    }
}

fn stuck(service: &Service, detail: String) -> RestoreError {
    RestoreError::Stuck {
        name: service.name.clone(),
        detail,
        commands: by_hand(service),
    }
}

fn failed(e: EngineError, id: &str, service: Option<&Service>) -> RestoreError {
    let name = service.map_or(id, |s| s.name.as_str()).to_owned();
    let commands = service.map_or_else(|| "autotune restore".to_owned(), by_hand);
    let detail = e.to_string();
    match e {
        EngineError::Away(_) | EngineError::Missing(_) | EngineError::Late(_) => RestoreError::Away(e),
        // Without a leader it is 503, and a manager's rpc errors are 500.
        EngineError::Status(500.., _) => RestoreError::Failing {
            name,
            detail,
            commands,
        },
        EngineError::Conflict(_) => RestoreError::Taken {
            name,
            detail,
            commands,
        },
        _ => RestoreError::Stuck {
            name,
            detail,
            commands,
        },
    }
}

/// Paths at which two values differ, without the values: they may be somebody's environment.
#[must_use]
pub fn differences(a: &Json, b: &Json) -> Vec<String> {
    let mut found = Vec::new();
    walk(a, b, "", &mut found);
    found.truncate(10);
    found
}

fn walk(a: &Json, b: &Json, path: &str, found: &mut Vec<String>) {
    if let (Some(x), Some(y)) = (a.as_object(), b.as_object()) {
        let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let (x, y) = (
                x.get(key).unwrap_or(&Json::Null),
                y.get(key).unwrap_or(&Json::Null),
            );
            walk(x, y, &format!("{path}.{key}"), found);
        }
    } else if a != b {
        found.push(path.trim_start_matches('.').to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: Json, previous: Json) -> Service {
        Service {
            name: "web".into(),
            spec,
            previous,
            ..Service::default()
        }
    }

    fn own() -> Json {
        json!({"Name": "web", "Labels": {"team": "shop"}, "TaskTemplate": {"ForceUpdate": 0}, "Mode": {"Replicated": {"Replicas": 2}}})
    }

    fn trial(n: u32) -> Json {
        let marks = spec::Marks {
            run: "r".into(),
            host: "h".into(),
            results: "results/r".into(),
            trial: n,
            force: u64::from(n),
        };
        spec::trial(&own(), &spec::Change::default(), &marks).unwrap()
    }

    /// Breaks when a second trial is rolled back to the first, a kill between the two steps leaves a trial as the spec
    /// before, or what somebody else deployed over a trial is touched.
    #[test]
    fn each_state_of_a_service_says_what_is_left_to_do() {
        assert_eq!(step(&service(trial(1), own())), Step::RollBack(own()));
        assert_eq!(step(&service(trial(2), trial(1))), Step::Update(own()));
        assert_eq!(step(&service(own(), trial(2))), Step::Tidy(own()));
        assert_eq!(step(&service(own(), own())), Step::Nothing);
        assert_eq!(step(&service(own(), Json::Null)), Step::Nothing);
        let mut theirs = own();
        theirs["Mode"]["Replicated"]["Replicas"] = json!(7);
        assert_eq!(step(&service(theirs, trial(2))), Step::Nothing);
        let mut broken = trial(2);
        broken["Labels"][spec::ORIGINAL] = json!("{");
        assert!(matches!(step(&service(broken, own())), Step::Lost(_)));
    }

    #[test]
    fn what_differs_is_named_without_its_value() {
        let a = json!({"A": {"Env": ["PASSWORD=canary"]}, "B": 1});
        let b = json!({"A": {"Env": ["PASSWORD=other"]}, "B": 1, "C": 2});
        assert_eq!(differences(&a, &b), ["A.Env", "C"]);
    }

    #[test]
    fn by_hand_is_a_rollback_only_where_that_leads_to_the_services_own_spec() {
        assert!(by_hand(&service(trial(1), own())).contains("docker service rollback web"));
        assert!(!by_hand(&service(trial(2), trial(1))).contains("rollback"));
    }
}
