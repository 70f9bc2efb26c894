//! [parameters]: names, bindings, baselines.

use std::collections::BTreeMap;

use super::common::is_identifier;
use super::context::{Span, Text, is_env_name, show};
use super::domain::{baseline, check_bounds, domain};
use super::expressions::compile;
use super::keys::MAX_PARAMETERS;
use super::reader::Node;
use crate::expr::Expr;
use crate::space::{Binding, Config, Domain, Limit, Parameter, Space};

/// Columns of trials.csv that are not parameters.
const COLUMNS: &[&str] = &[
    "trial",
    "phase",
    "outcome",
    "reason",
    "offered_rps",
    "goodput_rps",
    "error_ratio",
    "error_ratio_upper",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "cost",
    "cpu_used",
    "throttled_ratio",
    "memory_peak_mb",
    "db_connections_peak",
    "binding_constraint",
    "verdict",
    "seconds",
    "started_at",
];

/// What is deployed, as far as bindings depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deploys {
    /// Containers: every binding, and today's values can be read.
    Containers,
    /// A process or somebody's scripts: environment variables.
    Variables,
    /// Somebody else, or arithmetic: bindings may be missing.
    Elsewhere,
}

/// The parameters with their places.
pub(crate) struct Parameters {
    pub(crate) list: Vec<Parameter>,
    pub(super) spans: Vec<Span>,
    /// Place of `only_if`, by parameter.
    pub(super) conditions: BTreeMap<String, Span>,
    /// Baselines that the file leaves out.
    pub(crate) unknown: Vec<String>,
}

/// Reads [parameters]. A broken parameter keeps its name, so that expressions about it are not mistakes too.
pub(crate) fn parameters(root: &Node<'_>, deploys: Deploys) -> Parameters {
    let mut out = Parameters {
        list: vec![],
        spans: vec![],
        conditions: BTreeMap::new(),
        unknown: vec![],
    };
    let named = root.named("parameters", MAX_PARAMETERS);
    let all: Vec<String> = named.iter().map(|(n, _)| n.value.clone()).collect();
    if named.is_empty() && root.has("parameters") && !root.ctx.has_errors() {
        root.missing("parameters");
    }
    let mut no_baseline = Vec::new();
    for (name, node) in named {
        if !usable(&node, &name) {
            continue;
        }
        let binding = binding(&node, &name, deploys);
        let memory = matches!(
            binding,
            Some(Binding::Limit(Limit::Memory | Limit::MemoryReservation))
        );
        let domain = domain(&node, memory);
        if let (Some(b), Some(d)) = (&binding, &domain) {
            check_bounds(&node, &name.value, b, d);
        }
        let only_if = node.text("only_if").and_then(|t| {
            out.conditions.insert(name.value.clone(), t.span.clone());
            compile(&node, &t, &out.list, &all)
        });
        let broken = domain.is_none();
        let domain = domain.unwrap_or(Domain::Int {
            low: 0,
            high: 1,
            step: 1,
            log: false,
        });
        let baseline = baseline(&node, &domain, memory, broken);
        if baseline.is_none() && !node.has("baseline") && !broken {
            no_baseline.push(name.clone());
        }
        let placeholder = domain.nth(0).unwrap_or_else(|| domain.decode(0.0));
        out.list.push(Parameter {
            name: name.value,
            baseline: baseline.unwrap_or(placeholder),
            domain,
            binding: binding.unwrap_or(Binding::Unbound),
            only_if,
        });
        out.spans.push(name.span);
    }
    duplicates(root, &out);
    missing_baselines(root, &mut out, no_baseline, deploys);
    out
}

/// Whether the name can stand in expressions and as a CSV column.
fn usable(node: &Node<'_>, name: &Text) -> bool {
    let shown = show(&name.value);
    let problem = if !is_identifier(&name.value) {
        Some("letters, digits and _ are, beginning with a letter, 64 at most")
    } else if COLUMNS.contains(&name.value.as_str()) {
        Some("trials.csv has a column of that name")
    } else if Expr::compile(&name.value, &[(name.value.clone(), false)])
        .and_then(|e| e.number(&Config::default()))
        .is_err()
    {
        Some("it is a word of the expression language")
    } else {
        None
    };
    if let Some(why) = problem {
        node.ctx.error(
            &name.span,
            format!("`{shown}` can't be a parameter's name"),
            why.to_owned(),
        );
    }
    problem.is_none()
}

fn binding(node: &Node<'_>, name: &Text, deploys: Deploys) -> Option<Binding> {
    let env = node.text("env");
    let limit = node.one_of("limit");
    let replicas = node.bool("replicas");
    let given: Vec<&str> = ["env", "limit", "replicas"]
        .into_iter()
        .filter(|k| node.has(k))
        .collect();
    if let [_, second, ..] = given.as_slice() {
        node.ctx.error(
            &node.span_of(second),
            format!("`{}` sets two things", name.value),
            "a parameter has one of `env`, `limit` and `replicas`".to_owned(),
        );
        return None;
    }
    if given.is_empty() {
        if deploys != Deploys::Elsewhere {
            node.ctx.error(
                &name.span,
                format!("`{}` sets nothing", name.value),
                format!(
                    "add env = \"{}\", limit = \"cpus\" or \"memory\", or replicas = true",
                    name.value.to_uppercase()
                ),
            );
        }
        return Some(Binding::Unbound);
    }
    if let (Deploys::Variables, [key @ ("limit" | "replicas")]) = (deploys, given.as_slice()) {
        node.ctx.error(
            &node.span_of(key),
            format!("`{key}` needs a container: [sut] kind = \"docker\" or \"swarm\""),
            "a process and a command take parameters as environment variables: env = \"NAME\"".to_owned(),
        );
    }
    if let Some(t) = env {
        if !is_env_name(&t.value) {
            node.ctx.error(
                &t.span,
                "this is no name of an environment variable",
                "letters, digits and _".to_owned(),
            );
        }
        return Some(Binding::Env(t.value));
    }
    if replicas == Some(false) {
        node.ctx.error(
            &node.value_span("replicas"),
            "`replicas` is true or left out",
            None,
        );
    }
    match limit {
        Some("cpus") => Some(Binding::Limit(Limit::Cpus)),
        Some("memory") => Some(Binding::Limit(Limit::Memory)),
        Some("cpu_reservation") => Some(Binding::Limit(Limit::CpuReservation)),
        Some("memory_reservation") => Some(Binding::Limit(Limit::MemoryReservation)),
        _ => replicas.map(|_| Binding::Replicas),
    }
}

fn duplicates(root: &Node<'_>, p: &Parameters) {
    for (i, (a, span)) in p.list.iter().zip(&p.spans).enumerate() {
        if a.binding == Binding::Unbound {
            continue;
        }
        if let Some(b) = p.list.iter().take(i).find(|b| b.binding == a.binding) {
            let what = match &a.binding {
                Binding::Env(name) => format!("the environment variable {}", show(name)),
                _ => "the same limit".to_owned(),
            };
            root.ctx.error(
                span,
                format!("`{}` and `{}` both set {what}", b.name, a.name),
                None,
            );
        }
    }
}

/// A baseline may be missing where the container tells it, or where the parameter is not active today.
fn missing_baselines(root: &Node<'_>, p: &mut Parameters, missing: Vec<Text>, deploys: Deploys) {
    let space = Space {
        parameters: p.list.clone(),
        ..Space::default()
    };
    let today = space.baseline();
    for name in missing {
        if p.unknown.is_empty() && today.get(&name.value).is_none() {
            continue;
        }
        if deploys == Deploys::Containers {
            p.unknown.push(name.value);
        } else {
            root.ctx.error(
                &name.span,
                format!("`{}` has no baseline", name.value),
                "add baseline = ..., the value in production today: the winner has to beat it".to_owned(),
            );
        }
    }
}
