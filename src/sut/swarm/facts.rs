//! What preflight found, in words and figures.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::tasks::{Node, Task};
use super::{SwarmSut, spec};
use crate::space::Parameter;
use crate::sut::docker::parking::short;
use crate::sut::{SutError, SutFacts};

impl SwarmSut {
    pub(super) fn facts(
        &self,
        parameters: &[Parameter],
        (nodes, tasks): (&[Node], &[Task]),
        (version, notes): (&Json, Vec<String>),
    ) -> Result<SutFacts, SutError> {
        let found = self.known()?;
        let (today, unread) = spec::today(&found.own, parameters);
        let usable: Vec<&Node> = nodes.iter().filter(|n| n.is_ready && n.is_active).collect();
        let text = |v: &Json| v.as_str().unwrap_or("unknown").to_owned();
        let names: Vec<&str> = usable.iter().map(|n| n.name.as_str()).collect();
        let replicas = spec::replicas(&found.own).unwrap_or(0);
        let reached = match &self.target.task_url {
            Some(t) => format!("load goes to every task in turn, at {t}"),
            None => format!(
                "load goes to {}, which must pass it on to the tasks",
                self.spec.url
            ),
        };
        let mut lines = vec![
            format!(
                "docker {} (API {})",
                text(&version["Version"]),
                text(&version["ApiVersion"])
            ),
            format!(
                "swarm of {} nodes that take tasks: {}",
                usable.len(),
                names.join(", ")
            ),
            format!(
                "service {} ({}), {replicas} tasks today",
                found.name,
                short(&found.id)
            ),
            reached,
            format!(
                "docker actions: for each trial one update of {}, all tasks at once (stop first), its own spec kept in the label {}",
                found.name,
                spec::ORIGINAL
            ),
            format!(
                "  at the end: rollback, or an update to exactly its own spec ({} bytes)",
                found.own.to_string().len()
            ),
        ];
        if self.known.iter().any(|s| *s != found.own) {
            let left = "it has the spec of an earlier run's trial, which did not end well; its own comes back at the start";
            lines.push(left.to_owned());
        }
        let cores: f64 = usable.iter().map(|n| n.cpus).sum();
        let environment = BTreeMap::from([
            ("docker".to_owned(), text(&version["Version"])),
            ("docker_api".to_owned(), text(&version["ApiVersion"])),
            ("engine_cpus".to_owned(), cores.to_string()),
            ("swarm_nodes".to_owned(), usable.len().to_string()),
            ("service".to_owned(), found.name.clone()),
            ("image".to_owned(), spec::image(&found.own).to_owned()),
        ]);
        let mut warnings = unread;
        warnings.extend(notes);
        Ok(SutFacts {
            lines,
            warnings,
            today,
            identity: spec::identity(&found.own, parameters),
            environment,
            secrets: found.redactor.secrets(),
            fixed: spec::fixed(&found.own, parameters),
            addresses: tasks
                .iter()
                .filter(|t| t.is_up())
                .flat_map(|t| t.addresses.clone())
                .collect(),
        })
    }
}
