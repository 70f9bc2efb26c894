//! What the service leans on: the other services of its compose project. When one of them ends or is restarted during a
//! trial, the trial says nothing about the config: an infrastructure fault, waited for and repeated.
//!
//! Those that the service's own label `depends_on` names, else all that were up when the service was found and don't
//! depend on it themselves: a proxy or a worker that ends because the service is parked is no fault. Nor is one that was
//! unhealthy before. A database outside of the project is not seen from here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::engine::{Engine, EngineError, Listed};
use super::find::Original;
use super::parking;

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// Most services that are kept in mind.
const MOST: usize = 64;
/// How long one that is down is waited for, before the trial is given up.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Services of the project, with the name of a container of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Neighbours {
    project: String,
    services: BTreeMap<String, String>,
    /// Not in order when the service was found: name and state.
    ailing: Vec<String>,
}

impl Neighbours {
    /// Those of `original`, as they are now; none without compose.
    pub(super) fn of(all: &[Listed], original: &Original) -> Self {
        let Some((project, own)) = &original.compose else {
            return Self::default();
        };
        let named = all
            .iter()
            .find(|c| c.id == original.id)
            .and_then(|c| c.label(DEPENDS_ON))
            .map(depended_on)
            .unwrap_or_default();
        let members: Vec<&Listed> = all
            .iter()
            .filter(|c| c.is_up() && c.label(parking::RUN).is_none() && c.label(ONE_OFF) != Some("True"))
            .filter(|c| c.label(PROJECT) == Some(project.as_str()))
            .collect();
        let dependents = dependents(&members, own);
        let mut found = Self {
            project: project.clone(),
            ..Self::default()
        };
        for c in members {
            let Some(service) = c.label(SERVICE).filter(|s| *s != own) else {
                continue;
            };
            let matters =
                named.iter().any(|n| n == service) || (named.is_empty() && !dependents.contains(service));
            if !matters {
                continue;
            }
            if c.state != "running" || c.is_unhealthy {
                let state = if c.is_unhealthy {
                    "unhealthy"
                } else {
                    c.state.as_str()
                };
                found.ailing.push(format!("{} ({state})", c.name));
            } else if found.services.len() < MOST {
                found.services.insert(service.to_owned(), c.name.clone());
            }
        }
        found.ailing.truncate(MOST);
        found
    }

    /// What is not watched, and why.
    pub(super) fn warning(&self) -> Option<String> {
        (!self.ailing.is_empty()).then(|| {
            format!(
                "not in order already, so that what becomes of it during a trial counts for nothing: {}",
                self.ailing.join(", ")
            )
        })
    }

    /// What an event says about one of them, where it matters.
    pub(super) fn trouble(&self, action: &str, attributes: &Json) -> Option<String> {
        let text = |key: &str| attributes[key].as_str().unwrap_or_default();
        let name = self.services.get(text(SERVICE))?;
        if text(PROJECT) != self.project || text(ONE_OFF) == "True" {
            return None;
        }
        match action {
            "die" => Some(format!("{name} ended (exit status {})", text("exitCode"))),
            "pause" => Some(format!("{name} was paused")),
            // SIGHUP and the like are how services are told to reload.
            "kill" if matches!(text("signal"), "2" | "3" | "9" | "15") => Some(format!("{name} was stopped")),
            _ => None,
        }
    }

    /// One that is not up.
    fn down(&self, all: &[Listed]) -> Option<&str> {
        self.services
            .iter()
            .find(|(service, _)| {
                !all.iter().any(|c| {
                    c.state == "running"
                        && c.label(PROJECT) == Some(self.project.as_str())
                        && c.label(SERVICE) == Some(service.as_str())
                })
            })
            .map(|(_, name)| name.as_str())
    }

    /// Waits until all are up and none says that it is still starting; at the end of the patience, which is not.
    pub(super) async fn settle(&self, engine: &Engine) -> Result<Option<String>, EngineError> {
        if self.services.is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        loop {
            let all = engine.list().await?;
            let waiting = match self.down(&all) {
                Some(name) => Some(format!("{name} is down")),
                None => self.starting(engine, &all).await?,
            };
            if waiting.is_none() || begun.elapsed() >= PATIENCE {
                return Ok(waiting);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn starting(&self, engine: &Engine, all: &[Listed]) -> Result<Option<String>, EngineError> {
        let ours = all
            .iter()
            .filter(|c| c.state == "running" && c.label(PROJECT) == Some(self.project.as_str()))
            .filter(|c| c.label(SERVICE).is_some_and(|s| self.services.contains_key(s)));
        for c in ours {
            let json = match engine.inspect(&c.id).await {
                Ok(json) => json,
                Err(EngineError::NotFound(_)) => return Ok(Some(format!("{} is being replaced", c.name))),
                Err(e) => return Err(e),
            };
            let health = json["State"]["Health"]["Status"].as_str().unwrap_or_default();
            if matches!(health, "starting" | "unhealthy") {
                return Ok(Some(format!("{} is {health}", c.name)));
            }
        }
        Ok(None)
    }
}

/// Services that depend on `own`, over others too.
fn dependents<'a>(members: &[&'a Listed], own: &'a str) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::from([own]);
    // Each round finds at least one more, or it was the last.
    for _ in 0..=members.len() {
        let before = all.len();
        for c in members {
            let needs = c.label(DEPENDS_ON).map(depended_on).unwrap_or_default();
            if needs.iter().any(|n| all.contains(n.as_str())) {
                all.extend(c.label(SERVICE));
            }
        }
        if all.len() == before {
            break;
        }
    }
    all
}

/// `postgres:service_healthy:false,redis:service_started:true`
fn depended_on(label: &str) -> Vec<String> {
    label
        .split(',')
        .filter_map(|d| d.split(':').next())
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, state: &str, more: &[(&str, &str)]) -> Listed {
        let mut labels = BTreeMap::from([
            (PROJECT.to_owned(), "shop".to_owned()),
            (SERVICE.to_owned(), name.to_owned()),
        ]);
        labels.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Listed {
            id: format!("{name}-id"),
            name: format!("shop-{name}-1"),
            state: state.into(),
            labels,
            ..Listed::default()
        }
    }

    fn project(depends_on: &str) -> (Vec<Listed>, Original) {
        let all = vec![
            service("api", "running", &[(DEPENDS_ON, depends_on)]),
            service("db", "running", &[]),
            service("mail", "running", &[]),
            service("old", "exited", &[]),
            service("migrate", "running", &[(ONE_OFF, "True")]),
        ];
        let original = Original::from_listed(&all[0]);
        (all, original)
    }

    #[test]
    fn those_it_depends_on_count_or_else_all_that_were_up() {
        let names = |depends_on| {
            let (all, original) = project(depends_on);
            let of = Neighbours::of(&all, &original);
            of.services.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["db", "mail"]);
        assert_eq!(names("db:service_healthy:false,old:service_started:true"), ["db"]);
        let (all, mut original) = project("");
        original.compose = None;
        assert_eq!(Neighbours::of(&all, &original), Neighbours::default());
    }

    /// Breaks when what follows from parking the service itself, or was there before, ends trials.
    #[test]
    fn those_that_depend_on_it_and_those_that_ail_already_are_left_out() {
        let (mut all, original) = project("");
        all.push(service(
            "worker",
            "running",
            &[(DEPENDS_ON, "api:service_started:true")],
        ));
        all.push(service(
            "proxy",
            "running",
            &[(DEPENDS_ON, "worker:service_started:false")],
        ));
        all.push(service("search", "restarting", &[]));
        all[2].is_unhealthy = true;
        let of = Neighbours::of(&all, &original);
        assert_eq!(of.services.keys().collect::<Vec<_>>(), ["db"]);
        let said = of.warning().unwrap();
        assert!(
            said.contains("shop-mail-1 (unhealthy)") && said.contains("shop-search-1 (restarting)"),
            "{said}"
        );
        assert!(!said.contains("worker") && !said.contains("proxy"), "{said}");
    }

    #[test]
    fn an_end_is_trouble_and_a_reload_is_not() {
        let (all, original) = project("");
        let of = Neighbours::of(&all, &original);
        let event = |action, service: &str, more: (&str, &str)| {
            let mut attributes = serde_json::json!({ PROJECT: "shop", SERVICE: service });
            attributes[more.0] = more.1.into();
            of.trouble(action, &attributes)
        };
        assert_eq!(
            event("die", "db", ("exitCode", "137")).unwrap(),
            "shop-db-1 ended (exit status 137)"
        );
        assert!(event("kill", "db", ("signal", "15")).is_some());
        assert_eq!(event("kill", "db", ("signal", "1")), None);
        assert_eq!(event("start", "db", ("", "")), None);
        assert_eq!(event("die", "api", ("exitCode", "0")), None);
        assert_eq!(event("die", "migrate", ("exitCode", "0")), None);
    }

    #[test]
    fn a_replaced_container_of_the_service_is_as_good() {
        let (mut all, original) = project("");
        let of = Neighbours::of(&all, &original);
        assert_eq!(of.down(&all), None);
        all[1].id = "new".into();
        assert_eq!(of.down(&all), None);
        all[1].state = "restarting".into();
        assert_eq!(of.down(&all), Some("shop-db-1"));
    }
}
