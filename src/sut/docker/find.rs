//! Which container is meant, and whether it may be touched. Pure: works on a listing and an inspect.

use std::collections::BTreeSet;

use bollard::models::ContainerInspectResponse;

use super::engine::Listed;
use super::parking;
use crate::spec::DockerRef;
use crate::sut::SutError;

const SERVICE: &str = "com.docker.compose.service";
const PROJECT: &str = "com.docker.compose.project";
const ONE_OFF: &str = "com.docker.compose.oneoff";

fn refuse(message: String) -> SutError {
    SutError::Refused { exit: 69, message }
}

/// The user's own container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Full id; the same before, during and after.
    pub id: String,
    /// Its own name, parked or not.
    pub name: String,
    /// Whether it has its parked name now.
    pub is_parked: bool,
    /// Whether it ran when it was found or parked.
    pub was_running: bool,
    /// Compose project and service, where it has them.
    pub compose: Option<(String, String)>,
    /// How compose makes it again: for messages.
    pub compose_up: Option<String>,
}

impl Original {
    /// From its line in a listing.
    #[must_use]
    pub fn from_listed(c: &Listed) -> Self {
        let parked = parking::unparked(&c.name);
        let compose = match (c.label(PROJECT), c.label(SERVICE)) {
            (Some(p), Some(s)) => Some((p.to_owned(), s.to_owned())),
            _ => None,
        };
        Self {
            id: c.id.clone(),
            name: parked.map_or_else(|| c.name.clone(), |(name, _)| name.to_owned()),
            is_parked: parked.is_some(),
            was_running: parked.map_or_else(|| c.is_up(), |(_, running)| running),
            compose_up: compose_up(c),
            compose,
        }
    }

    /// What makes it again when it is gone, or starts it.
    #[must_use]
    pub fn mend(&self) -> String {
        self.compose_up
            .clone()
            .unwrap_or_else(|| format!("docker start {}", self.name))
    }
}

fn compose_up(c: &Listed) -> Option<String> {
    let (project, service) = (c.label(PROJECT)?, c.label(SERVICE)?);
    let folder = c.label("com.docker.compose.project.working_dir");
    let files = c.label("com.docker.compose.project.config_files").unwrap_or("");
    let mut words = vec![format!("docker compose -p {project}")];
    words.extend(folder.map(|f| format!("--project-directory {}", quoted(f))));
    words.extend(
        files
            .split(',')
            .filter(|f| !f.is_empty())
            .map(|f| format!("-f {}", quoted(f))),
    );
    words.push(format!("up -d {service}"));
    Some(words.join(" "))
}

/// A word for a shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Finds the container that `target` means among `all`, which holds stopped ones too.
pub fn find(all: &[Listed], target: &DockerRef) -> Result<Original, SutError> {
    let found = match target {
        DockerRef::Service { service, project } => by_service(all, service, project.as_deref())?,
        DockerRef::Container(name) => by_name(all, name)?,
    };
    Ok(Original::from_listed(found))
}

fn by_service<'a>(all: &'a [Listed], service: &str, project: Option<&str>) -> Result<&'a Listed, SutError> {
    let of_compose = |c: &&Listed| c.label(ONE_OFF) != Some("True") && c.label(SERVICE).is_some();
    let in_project = |c: &&Listed| project.is_none_or(|p| c.label(PROJECT) == Some(p));
    let found: Vec<&Listed> = all
        .iter()
        .filter(of_compose)
        .filter(in_project)
        .filter(|c| c.label(SERVICE) == Some(service))
        .collect();
    let projects: BTreeSet<&str> = found.iter().filter_map(|c| c.label(PROJECT)).collect();
    let listed = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    match (found.as_slice(), projects.len()) {
        ([], _) => {
            let others = all.iter().filter(of_compose).filter(in_project);
            let names: BTreeSet<&str> = others.filter_map(|c| c.label(SERVICE)).collect();
            let known = if names.is_empty() {
                "no compose service has a container here".to_owned()
            } else {
                format!("there are: {}", listed(names))
            };
            let of = project.map(|p| format!(" of project `{p}`")).unwrap_or_default();
            Err(refuse(format!(
                "no container for compose service `{service}`{of} ({known}); start it: docker compose up -d {service}"
            )))
        }
        (_, 2..) => Err(refuse(format!(
            "compose service `{service}` exists in several projects ({}); add `project = \"...\"` to [sut]",
            listed(projects)
        ))),
        ([one], _) => Ok(one),
        (many, _) => Err(refuse(format!(
            "compose service `{service}` has {} containers ({}), and one is tuned at a time; scale it down first: \
             docker compose up -d --scale {service}=1 {service}",
            many.len(),
            many.iter()
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

fn by_name<'a>(all: &'a [Listed], name: &str) -> Result<&'a Listed, SutError> {
    let name = name.trim_start_matches('/');
    let is_id = name.len() >= 12 && name.chars().all(|c| c.is_ascii_hexdigit());
    let direct = all
        .iter()
        .find(|c| c.name == name || c.id == name)
        .or_else(|| all.iter().find(|c| is_id && c.id.starts_with(name)));
    let parked = || {
        all.iter()
            .find(|c| parking::unparked(&c.name).is_some_and(|(n, _)| n == name))
    };
    // A trial of ours that was left under the name stands for the original that it displaced.
    let found = match direct.and_then(|c| c.label(parking::ORIGINAL)) {
        Some(id) => all.iter().find(|c| c.id == id).or_else(parked),
        None => direct.or_else(parked),
    };
    found.ok_or_else(|| {
        refuse(format!(
            "no container `{name}`; `docker ps -a` lists what there is"
        ))
    })
}

/// Refuses what can't be parked and given back safely (facts of the container itself and of its neighbours).
pub fn check(
    original: &Original,
    inspect: &ContainerInspectResponse,
    all: &[Listed],
) -> Result<(), SutError> {
    let name = &original.name;
    let host = inspect.host_config.clone().unwrap_or_default();
    if host.auto_remove == Some(true) {
        return Err(refuse(format!(
            "container `{name}` was started with --rm: stopping it would remove it for good; start it without --rm"
        )));
    }
    let labels = inspect.config.as_ref().and_then(|c| c.labels.as_ref());
    let has = |key: &str| labels.is_some_and(|l| l.contains_key(key));
    if has("com.docker.swarm.task.id") {
        return Err(refuse(format!(
            "container `{name}` is a Swarm task: Swarm would replace it at once; tune its service, with kind = \"swarm\""
        )));
    }
    if has("io.kubernetes.pod.name") || has("io.kubernetes.container.name") {
        return Err(refuse(format!(
            "container `{name}` belongs to Kubernetes, which would replace it at once; use kind = \"command\" with kubectl"
        )));
    }
    let mode = host.network_mode.unwrap_or_default();
    if let Some(other) = mode.strip_prefix("container:") {
        return Err(refuse(format!(
            "container `{name}` lives in the network namespace of container {}; give it a network of its own",
            all.iter()
                .find(|c| c.id == other)
                .map_or(other, |c| c.name.as_str())
        )));
    }
    let own_name = all
        .iter()
        .find(|c| c.id == original.id)
        .map_or(name.as_str(), |c| c.name.as_str());
    let guests: Vec<&str> = all
        .iter()
        .filter(|c| {
            let of = c.network_mode.strip_prefix("container:");
            of.is_some_and(|x| x == original.id || x == name || x == own_name)
        })
        .map(|c| c.name.as_str())
        .collect();
    if !guests.is_empty() {
        return Err(refuse(format!(
            "container `{name}` shares its network namespace with {}: stopping it would cut them off; stop them first",
            guests.join(", ")
        )));
    }
    check_state(original, inspect)
}

fn check_state(original: &Original, inspect: &ContainerInspectResponse) -> Result<(), SutError> {
    let name = &original.name;
    let state = inspect.state.clone().unwrap_or_default();
    if state.paused == Some(true) {
        return Err(refuse(format!(
            "container `{name}` is paused; docker unpause {name}"
        )));
    }
    if state.restarting == Some(true) {
        return Err(refuse(format!(
            "container `{name}` is restarting again and again; see `docker logs {name}` and mend it first"
        )));
    }
    if state.dead == Some(true) {
        return Err(refuse(format!(
            "container `{name}` is dead; docker rm {name} and create it again"
        )));
    }
    if inspect.image.as_deref().is_none_or(str::is_empty) {
        return Err(refuse(format!(
            "container `{name}` has no image that a trial could be made from"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: &str, labels: &[(&str, &str)]) -> Listed {
        Listed {
            id: id.into(),
            name: name.into(),
            state: "running".into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            network_mode: "bridge".into(),
            ..Listed::default()
        }
    }

    fn service(project: &str, service: &str, id: &str) -> Listed {
        let labels = [(PROJECT, project), (SERVICE, service), (ONE_OFF, "False")];
        listed(id, &format!("{project}-{service}-{id}"), &labels)
    }

    fn wanted(name: &str) -> DockerRef {
        DockerRef::Service {
            service: name.into(),
            project: None,
        }
    }

    fn message(r: Result<impl std::fmt::Debug, SutError>) -> String {
        r.unwrap_err().to_string()
    }

    #[test]
    fn a_service_must_be_one_container_of_one_project() {
        let all = [service("a", "api", "1"), service("a", "db", "2")];
        assert_eq!(find(&all, &wanted("api")).unwrap().id, "1");
        assert!(message(find(&all, &wanted("web"))).contains("there are: api, db"));
        let twice = [service("a", "api", "1"), service("b", "api", "2")];
        assert!(message(find(&twice, &wanted("api"))).contains("project"));
        let scaled = [service("a", "api", "1"), service("a", "api", "2")];
        assert!(message(find(&scaled, &wanted("api"))).contains("--scale api=1"));
        let of_b = DockerRef::Service {
            service: "api".into(),
            project: Some("b".into()),
        };
        assert_eq!(find(&twice, &of_b).unwrap().id, "2");
    }

    #[test]
    fn a_one_off_container_of_the_service_is_not_the_service() {
        let mut run = service("a", "api", "9");
        run.labels.insert(ONE_OFF.into(), "True".into());
        assert_eq!(
            find(&[run, service("a", "api", "1")], &wanted("api")).unwrap().id,
            "1"
        );
    }

    #[test]
    fn after_a_crash_the_name_leads_to_the_parked_original() {
        let parked = listed("abc", "web.autotune-parked-running", &[]);
        let trial = listed("def", "web", &[(parking::ORIGINAL, "abc")]);
        let target = DockerRef::Container("web".into());
        for all in [vec![parked.clone(), trial.clone()], vec![parked]] {
            let o = find(&all, &target).unwrap();
            assert_eq!(
                (o.id.as_str(), o.name.as_str(), o.is_parked, o.was_running),
                ("abc", "web", true, true)
            );
        }
        assert!(message(find(&[trial], &target)).contains("no container `web`"));
    }

    fn inspected(host: &serde_json::Value, labels: &serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(serde_json::json!({
            "Id": "abc", "Image": "sha256:1", "HostConfig": host, "Config": {"Labels": labels}, "State": {"Running": true}
        }))
        .unwrap()
    }

    #[test]
    fn what_cannot_be_given_back_is_refused_with_the_reason() {
        let me = listed("abc", "web", &[]);
        let o = Original::from_listed(&me);
        let none = serde_json::json!({});
        let cases = [
            (serde_json::json!({"AutoRemove": true}), none.clone(), "--rm"),
            (
                none.clone(),
                serde_json::json!({"com.docker.swarm.task.id": "x"}),
                "Swarm",
            ),
            (
                none.clone(),
                serde_json::json!({"io.kubernetes.pod.name": "x"}),
                "Kubernetes",
            ),
            (
                serde_json::json!({"NetworkMode": "container:zzz"}),
                none.clone(),
                "network namespace",
            ),
        ];
        for (host, labels, word) in cases {
            let m = message(check(&o, &inspected(&host, &labels), std::slice::from_ref(&me)));
            assert!(m.contains(word) && m.contains("web"), "{m}");
        }
        let mut guest = listed("def", "sidecar", &[]);
        guest.network_mode = "container:abc".into();
        let m = message(check(&o, &inspected(&none, &none), &[me.clone(), guest]));
        assert!(m.contains("sidecar"), "{m}");
        for (state, word) in [
            ("Paused", "unpause"),
            ("Restarting", "docker logs"),
            ("Dead", "docker rm"),
        ] {
            let mut i = inspected(&none, &none);
            i.state = serde_json::from_value(serde_json::json!({ state: true })).unwrap();
            assert!(message(check(&o, &i, std::slice::from_ref(&me))).contains(word));
        }
        assert!(check(&o, &inspected(&none, &none), &[me]).is_ok());
    }

    #[test]
    fn the_command_that_makes_a_service_again_is_ready_to_paste() {
        let mut c = service("shop", "api", "1");
        c.labels.insert(
            "com.docker.compose.project.working_dir".into(),
            "/srv/my shop".into(),
        );
        c.labels.insert(
            "com.docker.compose.project.config_files".into(),
            "/srv/a.yml,/srv/b.yml".into(),
        );
        assert_eq!(
            Original::from_listed(&c).mend(),
            "docker compose -p shop --project-directory '/srv/my shop' -f /srv/a.yml -f /srv/b.yml up -d api"
        );
    }
}
