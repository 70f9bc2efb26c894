//! [sut]: how it is deployed, where it answers, and what must fit together with [load] and the parameters.

use std::collections::BTreeMap;

use super::common::{base_url, is_near, path_problem};
use super::context::{is_env_name, show};
use super::parameters::Deploys;
use super::reader::Node;
use super::{DockerRef, LoadSpec, ReadySpec, Secret, SutKind, SutSpec, SwarmRef};
use crate::space::{Binding, Parameter};

const MAX_COMMAND: usize = 200;
const MAX_ENV: usize = 200;

/// Keys of [sut] and the kinds that they belong to.
const KIND_KEYS: &[(&str, &[&str])] = &[
    ("service", &["docker", "swarm"]),
    ("project", &["docker"]),
    ("container", &["docker"]),
    ("task_url", &["swarm"]),
    ("command", &["process"]),
    ("deploy", &["command"]),
    ("teardown", &["command"]),
    ("model", &["simulated"]),
];

pub(super) fn sut(root: &Node<'_>) -> (Option<SutSpec>, Deploys) {
    let node = root.table("sut");
    if !node.present() {
        return (None, Deploys::Elsewhere);
    }
    let Some(kind_name) = node.one_of("kind") else {
        return (None, Deploys::Elsewhere);
    };
    for (key, kinds) in KIND_KEYS {
        if node.has(key) && !kinds.contains(&kind_name) {
            let hint = format!("it belongs to kind = \"{}\"", kinds.join("\" or \""));
            node.ctx.error(
                &node.span_of(key),
                format!("`{key}` is not for kind = \"{kind_name}\""),
                hint,
            );
        }
    }
    let command = argv(&node, "command");
    let deploy = argv(&node, "deploy");
    let teardown = argv(&node, "teardown");
    let docker = docker(&node, kind_name == "docker");
    let task_url = task_url(&node, kind_name == "swarm");
    let model = node.text("model").map(|t| t.value).unwrap_or_default();
    let need = |key: &str| {
        if !node.has(key) {
            node.missing(key);
        }
    };
    let (kind, deploys) = match kind_name {
        "docker" => (docker.map(SutKind::Docker), Deploys::Containers),
        "swarm" => (swarm(&node, task_url).map(SutKind::Swarm), Deploys::Containers),
        "process" => {
            need("command");
            (Some(SutKind::Process { command }), Deploys::Variables)
        }
        "command" => {
            need("deploy");
            (Some(SutKind::Command { deploy, teardown }), Deploys::Variables)
        }
        "simulated" => (Some(SutKind::Simulated { model }), Deploys::Elsewhere),
        _ => (Some(SutKind::Demo), Deploys::Variables),
    };
    let url = sut_url(&node, kind_name);
    let ready = node.table("ready");
    let path = ready.text("path");
    if let Some((t, why)) = path.as_ref().and_then(|t| Some((t, path_problem(&t.value)?))) {
        ready.ctx.error(&t.span, format!("`path` {why}"), None);
    }
    let timeout = ready.time("timeout").unwrap_or_default();
    let ready = ReadySpec {
        path: path.map(|t| t.value).unwrap_or_default(),
        timeout,
    };
    let env = env(&node);
    (
        kind.map(|kind| SutSpec {
            kind,
            url,
            ready,
            env,
        }),
        deploys,
    )
}

/// Additions to the environment that are not tuned.
fn env(node: &Node<'_>) -> BTreeMap<String, Secret> {
    let mut env = BTreeMap::new();
    for (name, value) in node.map("env", MAX_ENV) {
        if is_env_name(&name.value) {
            env.insert(name.value, Secret::new(value.value));
        } else {
            let what = format!("`{}` is no name of an environment variable", show(&name.value));
            node.ctx
                .error(&name.span, what, "letters, digits and _".to_owned());
        }
    }
    env
}

fn docker(node: &Node<'_>, wanted: bool) -> Option<DockerRef> {
    let (service, project, container) = (node.text("service"), node.text("project"), node.text("container"));
    let empty = [&service, &project, &container]
        .into_iter()
        .flatten()
        .find(|t| t.value.trim().is_empty());
    if let Some(t) = empty {
        node.ctx.error(&t.span, "this is empty", None);
    }
    match (service, container) {
        (Some(_), Some(c)) => {
            node.ctx
                .error(&c.span, "`service` and `container` exclude each other", None);
            None
        }
        (Some(s), None) => Some(DockerRef::Service {
            service: s.value,
            project: project.map(|p| p.value),
        }),
        (None, Some(c)) => {
            if let Some(p) = project {
                node.ctx.error(&p.span, "`project` belongs to `service`", None);
            }
            Some(DockerRef::Container(c.value))
        }
        (None, None) => {
            if wanted && !node.has("service") && !node.has("container") {
                let hint = "add service = \"api\" (compose) or container = \"name\"".to_owned();
                node.ctx.error(
                    &node.span,
                    "kind = \"docker\" needs `service` or `container`",
                    hint,
                );
            }
            None
        }
    }
}

/// Where each task answers by itself, with what can be said of it before the swarm is asked.
fn task_url(node: &Node<'_>, wanted: bool) -> Option<String> {
    let t = node.text("task_url").filter(|_| wanted)?;
    let example = "for example task_url = \"http://{node}:1830{slot}\"".to_owned();
    if node.has("url") {
        let hint = "`url` is a balancer's, `task_url` is each task's own".to_owned();
        node.ctx
            .error(&t.span, "`task_url` and `url` exclude each other", hint);
    } else if !t.value.contains("{node}") && !t.value.contains("{slot}") {
        let what = "`task_url` has neither {node} nor {slot}, so every task would have the same";
        node.ctx.error(&t.span, what, example);
    } else {
        match base_url(&SwarmRef::fill(&t.value, "127.0.0.1", 1)) {
            Ok(base) if base.port == 0 => node.ctx.error(&t.span, "`task_url` needs a port", example),
            Ok(_) => {}
            Err(why) => node.ctx.error(&t.span, format!("`task_url` {why}"), example),
        }
    }
    Some(t.value)
}

fn swarm(node: &Node<'_>, task_url: Option<String>) -> Option<SwarmRef> {
    if !node.has("service") {
        node.missing("service");
    }
    // That it is not empty, `docker` has looked at.
    Some(SwarmRef {
        service: node.text("service")?.value,
        task_url,
    })
}

fn argv(node: &Node<'_>, key: &str) -> Vec<String> {
    let words = node.texts(key, MAX_COMMAND);
    if node.has(key) && words.first().is_none_or(|w| w.value.trim().is_empty()) && !node.ctx.has_errors() {
        let hint = format!("for example {key} = [\"./run.sh\"]");
        node.ctx
            .error(&node.value_span(key), format!("`{key}` names no program"), hint);
    }
    words.into_iter().map(|t| t.value).collect()
}

fn sut_url(node: &Node<'_>, kind: &str) -> String {
    let Some(t) = node.text("url") else {
        let is_needed = match kind {
            "swarm" => !node.has("task_url"),
            _ => matches!(kind, "docker" | "command"),
        };
        if !node.has("url") && is_needed {
            node.missing("url");
        }
        return "http://127.0.0.1:0".to_owned();
    };
    match base_url(&t.value) {
        Ok(base) => {
            if base.port == 0 && !matches!(kind, "process" | "demo" | "simulated") {
                let hint = "the port where the service is published".to_owned();
                node.ctx
                    .error(&t.span, format!("kind = \"{kind}\" needs a port in `url`"), hint);
            }
            base.text
        }
        Err(why) => {
            node.ctx.error(
                &t.span,
                format!("`url` {why}"),
                "for example url = \"http://127.0.0.1:18000\"".to_owned(),
            );
            String::new()
        }
    }
}

/// Rules that hold between [sut], [load] and the parameters.
pub(super) fn between(
    root: &Node<'_>,
    sut: Option<&SutSpec>,
    load: Option<&LoadSpec>,
    parameters: &[Parameter],
    deploys: Deploys,
) {
    let node = root.table("sut");
    let Some(sut) = sut else { return };
    if load.is_none() && !root.has("load") && !matches!(sut.kind, SutKind::Simulated { .. }) {
        let hint = "add [[load.requests]] with path = \"/\"".to_owned();
        root.ctx.error(
            &node.span,
            "[sut] says what is deployed, but no [load] what is sent",
            hint,
        );
    }
    for p in parameters {
        let Binding::Env(name) = &p.binding else { continue };
        if sut.env.contains_key(name) {
            let at = node.span_of("env");
            root.ctx.error(
                &at,
                format!(
                    "{name} is set by the parameter `{}`, so it can't be fixed here",
                    p.name
                ),
                None,
            );
        }
        if name == "PORT" && deploys == Deploys::Variables && sut.url.ends_with(":0") {
            root.ctx.error(
                &node.span_of("url"),
                format!("PORT is the tool's own with port 0, and `{}` sets it", p.name),
                None,
            );
        }
    }
    // A node's own address is looked at when the swarm has said it.
    let (key, url) = match &sut.kind {
        SutKind::Swarm(SwarmRef {
            task_url: Some(template),
            ..
        }) => ("task_url", SwarmRef::fill(template, "127.0.0.1", 1)),
        _ => ("url", sut.url.clone()),
    };
    let Ok(base) = base_url(&url) else { return };
    let allowed = load.is_some_and(|l| l.allow_remote.iter().any(|h| h.eq_ignore_ascii_case(&base.host)));
    if !is_near(&base.host) && !allowed && !matches!(sut.kind, SutKind::Simulated { .. }) {
        // The host may have come from the environment: it is not repeated.
        root.ctx.error(
            &node.value_span(key),
            "load goes to localhost and private addresses only",
            "if this host is yours and may be loaded, name it: [load] allow_remote = [\"host\"]".to_owned(),
        );
    }
}
