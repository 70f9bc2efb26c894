//! [parameters], [[constraints]], the cost and the connection budget: everything that makes the space.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ConnectionBudget;
use super::common::is_identifier;
use super::errors::nearest;
use super::keys::{MAX_CHOICES, MAX_CONSTRAINTS, MAX_PARAMETERS};
use super::reader::{Node, Span, Text, is_env_name, show};
use crate::expr::{Expr, ExprError};
use crate::space::{
    Binding, Config, Constraint, Domain, LegalShare, Limit, Parameter, Space, Value, legal_share, samples,
};
use crate::units::{Bytes, Cpus, Ratio};

/// Memory that Docker accepts at least, MiB.
const MIN_MEMORY_MIB: f64 = 6.0;
/// Configs on which expressions are tried.
const TRIED: u64 = 256;
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
    spans: Vec<Span>,
    /// Place of `only_if`, by parameter.
    conditions: BTreeMap<String, Span>,
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
            condition(&node, &t, &out.list, &all)
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
            format!("`{key}` needs a container: [sut] kind = \"docker\""),
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

/// A number of the file; sizes such as "512MiB" are MiB where the parameter is memory.
fn quantity(node: &Node<'_>, key: &str, whole: bool, memory: bool) -> Option<Value> {
    let (value, span) = node.any(key)?;
    let value = match (value, memory) {
        (Value::Text(t), true) => match t.parse::<Bytes>() {
            Ok(b) if b.get() % (1 << 20) == 0 => Value::Int(i64::try_from(b.get() >> 20).unwrap_or(i64::MAX)),
            Ok(_) => {
                node.ctx
                    .error(&span, format!("`{key}` must be a whole number of MiB"), None);
                return None;
            }
            Err(e) => {
                node.ctx.error(&span, format!("`{key}`: {e}"), None);
                return None;
            }
        },
        (v, _) => v,
    };
    let typed = match (value, whole) {
        (v @ Value::Int(_), true) => Some(v),
        (v @ (Value::Int(_) | Value::Float(_)), false) => v.as_f64().map(Value::Float),
        _ => None,
    };
    match typed {
        Some(v) => {
            node.note(key, v.to_string());
            Some(v)
        }
        None => {
            let (what, hint) = if whole {
                ("a whole number", "type = \"float\" takes fractions")
            } else {
                ("a number", "without quotes")
            };
            node.ctx
                .error(&span, format!("`{key}` must be {what}"), hint.to_owned());
            None
        }
    }
}

fn domain(node: &Node<'_>, memory: bool) -> Option<Domain> {
    let kind = node.one_of("type")?;
    let foreign: &[&str] = if kind == "choice" {
        &["low", "high", "step", "log"]
    } else {
        &["values"]
    };
    for key in foreign.iter().filter(|k| node.has(k)) {
        let hint = if kind == "choice" {
            "a choice has `values`"
        } else {
            "type = \"choice\" has `values`"
        };
        node.ctx.error(
            &node.span_of(key),
            format!("`{key}` is not for type = \"{kind}\""),
            hint.to_owned(),
        );
    }
    let log = node.bool("log");
    if kind == "choice" {
        return choice(node);
    }
    let whole = kind == "int";
    for key in ["low", "high"].into_iter().filter(|k| !node.has(k)) {
        node.missing(key);
    }
    let (low, high) = (
        quantity(node, "low", whole, memory),
        quantity(node, "high", whole, memory),
    );
    let step = quantity(node, "step", whole, memory);
    if node.has("step") && step.is_none() {
        return None;
    }
    let (low, high) = (low?, high?);
    let (lo, hi) = (low.as_f64()?, high.as_f64()?);
    if lo > hi {
        let hint = format!("exchange them, or set high to at least {low}");
        node.ctx.error(
            &node.value_span("high"),
            format!("`high` ({high}) is below `low` ({low})"),
            hint,
        );
        return None;
    }
    if log == Some(true) && lo < 0.0 {
        node.ctx.error(
            &node.value_span("log"),
            "a log scale needs `low` of at least 0",
            None,
        );
        return None;
    }
    // As the search measures it: worth it from a factor of 8; a scale from 0 is log(1 + x).
    let log = log.unwrap_or(lo >= 0.0 && hi >= 8.0 * lo && (lo > 0.0 || hi >= 8.0));
    node.note("log", log.to_string());
    match (low, high, step) {
        (Value::Int(low), Value::Int(high), step) => int_domain(node, low, high, step, log),
        (_, _, step) => float_domain(node, lo, hi, step.and_then(|s| s.as_f64()), log),
    }
}

fn int_domain(node: &Node<'_>, low: i64, high: i64, step: Option<Value>, log: bool) -> Option<Domain> {
    let step = match step {
        Some(Value::Int(s)) => s,
        _ => 1,
    };
    if step < 1 {
        let hint = "leave it out for every whole number".to_owned();
        node.ctx.error(
            &node.value_span("step"),
            format!("`step` must be at least 1, not {step}"),
            hint,
        );
        return None;
    }
    let over = (high - low) % step;
    if over != 0 {
        let hint = format!(
            "the last value would be {}: set high to {0} or {}",
            high - over,
            high - over + step
        );
        node.ctx.error(
            &node.value_span("step"),
            format!("`step` ({step}) does not divide high - low ({})", high - low),
            hint,
        );
        return None;
    }
    Some(Domain::Int { low, high, step, log })
}

fn float_domain(node: &Node<'_>, low: f64, high: f64, step: Option<f64>, log: bool) -> Option<Domain> {
    if let Some(s) = step {
        if s < 1e-6 {
            let hint = "leave it out for every value of the range".to_owned();
            node.ctx.error(
                &node.value_span("step"),
                format!("`step` must be at least 0.000001, not {s}"),
                hint,
            );
            return None;
        }
        let n = (high - low) / s;
        if (n - n.round()).abs() > 1e-6 {
            let hint = format!(
                "the last value would be {}: set high to it, or another step",
                low + n.floor() * s
            );
            node.ctx.error(
                &node.value_span("step"),
                format!("`step` ({s}) does not divide high - low"),
                hint,
            );
            return None;
        }
    }
    Some(Domain::Float { low, high, step, log })
}

fn choice(node: &Node<'_>) -> Option<Domain> {
    let Some((given, span)) = node.scalars("values", MAX_CHOICES) else {
        if !node.has("values") {
            node.missing("values");
        }
        return None;
    };
    if given.is_empty() {
        node.ctx
            .error(&span, "`values` is empty", "give at least one".to_owned());
        return None;
    }
    let float = given.iter().any(|(v, _)| matches!(v, Value::Float(_)));
    let kind = |v: &Value| match v {
        Value::Bool(_) => 0,
        Value::Int(_) | Value::Float(_) => 1,
        Value::Text(_) => 2,
    };
    let mut values: Vec<Value> = Vec::new();
    for (v, at) in given {
        if values.iter().any(|x| x.to_string() == v.to_string()) {
            node.ctx.error(
                &at,
                format!("the value {} stands here twice", show(&v.to_string())),
                None,
            );
        } else if values.first().is_some_and(|x| kind(x) != kind(&v)) {
            node.ctx.error(
                &at,
                "the values of a choice are all numbers, all texts, or true and false",
                None,
            );
        } else if matches!(&v, Value::Text(t) if t.len() > 1_000 || t.contains(char::is_control)) {
            node.ctx.error(
                &at,
                "a value has 1000 bytes at most and no control characters",
                None,
            );
        } else {
            values.push(match v {
                Value::Int(_) if float => v.as_f64().map_or(v, Value::Float),
                v => v,
            });
        }
    }
    (!values.is_empty()).then_some(Domain::Choice { values })
}

/// Smallest and largest number of a domain; None where it has others.
fn extremes(domain: &Domain) -> Option<(f64, f64)> {
    match domain {
        #[allow(clippy::cast_precision_loss)]
        Domain::Int { low, high, .. } => Some((*low as f64, *high as f64)),
        Domain::Float { low, high, .. } => Some((*low, *high)),
        Domain::Choice { values } => {
            let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
            let numbers = numbers?;
            let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            Some((low, numbers.into_iter().fold(f64::NEG_INFINITY, f64::max)))
        }
    }
}

fn is_whole(domain: &Domain) -> bool {
    match domain {
        Domain::Int { .. } => true,
        Domain::Float { .. } => false,
        Domain::Choice { values } => values.iter().all(|v| matches!(v, Value::Int(_))),
    }
}

/// What the bound thing can't be. The host's own maximum is preflight's.
fn check_bounds(node: &Node<'_>, name: &str, binding: &Binding, domain: &Domain) {
    let first = if node.has("low") { "low" } else { "values" };
    let at = node.value_span(first);
    let Some((low, high)) = extremes(domain) else {
        if !matches!(binding, Binding::Env(_) | Binding::Unbound) {
            node.ctx
                .error(&at, format!("`{name}` must be numbers: it sets a limit"), None);
        }
        return;
    };
    let error = |message: String, hint: &str| {
        node.ctx
            .error(&at, message, (!hint.is_empty()).then(|| hint.to_owned()));
    };
    match binding {
        Binding::Limit(Limit::Cpus | Limit::CpuReservation) => {
            if low < Cpus::MIN {
                error(
                    format!("cpus must be at least {}, not {low}", Cpus::MIN),
                    "Docker refuses less",
                );
            }
        }
        Binding::Limit(Limit::Memory | Limit::MemoryReservation) => {
            if !is_whole(domain) {
                error("memory is a whole number of MiB".to_owned(), "type = \"int\"");
            } else if low < MIN_MEMORY_MIB {
                error(
                    format!("memory must be at least {MIN_MEMORY_MIB} MiB, not {low}"),
                    "Docker refuses less",
                );
            }
        }
        Binding::Replicas => {
            if !is_whole(domain) || low < 1.0 || high > 100.0 {
                error("replicas are a whole number from 1 to 100".to_owned(), "");
            }
        }
        Binding::Env(variable) => check_pool(&variable.to_uppercase(), low, &error),
        Binding::Unbound => check_pool(&name.to_uppercase(), low, &error),
    }
}

/// Numbers that mean "no limit" or nothing at all: the search would take them for small.
fn check_pool(name: &str, low: f64, error: &dyn Fn(String, &str)) {
    if name.contains("POOL_SIZE") && low < 1.0 {
        error(
            format!("a pool size must be at least 1, not {low}"),
            "SQLAlchemy takes pool_size = 0 as no limit at all, not as a small pool",
        );
    } else if name.contains("MAX_OVERFLOW") && low < 0.0 {
        error(
            format!("an overflow must be at least 0, not {low}"),
            "SQLAlchemy takes max_overflow = -1 as no limit at all",
        );
    } else if low < 1.0 && (name == "WEB_CONCURRENCY" || name == "WORKERS" || name.ends_with("_WORKERS")) {
        error(format!("workers must be at least 1, not {low}"), "");
    } else if low < 1.0 && name.ends_with("MAX_CONNECTIONS") {
        error(
            format!("a limit of connections must be at least 1, not {low}"),
            "0 means no limit, or no connection at all",
        );
    }
}

fn baseline(node: &Node<'_>, domain: &Domain, memory: bool, broken: bool) -> Option<Value> {
    if broken {
        return None;
    }
    let value = if matches!(domain, Domain::Choice { .. }) {
        let (v, _) = node.any("baseline")?;
        node.note("baseline", v.to_string());
        v
    } else {
        quantity(node, "baseline", matches!(domain, Domain::Int { .. }), memory)?
    };
    let typed = domain.adopt(&value);
    if typed.is_none() {
        node.ctx.error(
            &node.value_span("baseline"),
            format!("the baseline {} is not one of {domain}", show(&value.to_string())),
            "it is the value in production today: widen the range or change the step".to_owned(),
        );
    }
    typed
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

/// Place of a mistake inside an expression.
fn place(node: &Node<'_>, text: &Text, e: &ExprError) -> Range<usize> {
    let typed = node.ctx.source.text.get(text.span.clone()).unwrap_or("");
    let Some((at, column)) = typed.find(&text.value).zip(e.column) else {
        return text.span.clone();
    };
    let inside = text
        .value
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(0, |(i, _)| i);
    let start = text.span.start + at + inside;
    start..start + e.unknown.as_ref().map_or(1, String::len)
}

/// Compiles an expression over `parameters`; `all` are the names of the whole file.
pub(crate) fn compile(
    node: &Node<'_>,
    text: &Text,
    parameters: &[Parameter],
    all: &[String],
) -> Option<Expr> {
    match Expr::compile(&text.value, &Space::names(parameters)) {
        Ok(e) => Some(e),
        Err(e) => {
            let (message, hint) = match &e.unknown {
                Some(name) if all.contains(name) => (
                    format!("`{}` stands after the condition that uses it", show(name)),
                    Some("conditions use parameters that stand before them: move it up".to_owned()),
                ),
                Some(name) => {
                    let known = parameters.iter().map(|p| p.name.as_str());
                    let hint = nearest(name, known.clone()).map_or_else(
                        || format!("the parameters are {}", known.collect::<Vec<_>>().join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    (format!("`{}` is no parameter", show(name)), Some(hint))
                }
                None => (format!("this is no expression: {}", e.message), None),
            };
            node.ctx.error(&place(node, text, &e), message, hint);
            None
        }
    }
}

fn condition(node: &Node<'_>, text: &Text, before: &[Parameter], all: &[String]) -> Option<Expr> {
    compile(node, text, before, all)
}

/// Constraints with their places.
pub(crate) fn constraints(root: &Node<'_>, parameters: &[Parameter]) -> Vec<(Constraint, Span)> {
    let mut out = Vec::new();
    for node in root.list("constraints", MAX_CONSTRAINTS) {
        let that = node.text("that");
        let why = node.text("why").map_or(String::new(), |t| t.value);
        let Some(text) = that else { continue };
        if let Some(that) = compile(&node, &text, parameters, &[]) {
            let why = if why.is_empty() {
                "a constraint of the space file".to_owned()
            } else {
                why
            };
            out.push((Constraint { that, why }, text.span));
        }
    }
    out
}

/// [budget]; None where it is missing.
pub(crate) fn connections(root: &Node<'_>, parameters: &[Parameter]) -> Option<ConnectionBudget> {
    let node = root.table("budget");
    if !node.present() {
        return None;
    }
    let usable = node.connections("connections")?;
    let headroom = node
        .whole("headroom")
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(0);
    let share = node.share("share").unwrap_or(Ratio::ONE);
    let uses = match node.text("uses") {
        Some(text) => compile(&node, &text, parameters, &[])?,
        None if node.has("uses") => return None,
        None => {
            let Some(text) = derived_uses(parameters) else {
                let hint = "add uses = \"(pool_size + max_overflow) * 4\" or the like".to_owned();
                node.ctx.error(
                    &node.span,
                    "what a config uses of the connections can't be told from the parameters",
                    hint,
                );
                return None;
            };
            Expr::compile(&text, &Space::names(parameters)).ok()?
        }
    };
    node.note("uses", uses.text().to_owned());
    Some(ConnectionBudget {
        usable,
        uses,
        headroom,
        share,
    })
}

/// replicas * workers * (pool_size + max_overflow), of the parameters that are bound to these.
fn derived_uses(parameters: &[Parameter]) -> Option<String> {
    let find = |wanted: &dyn Fn(&str) -> bool| {
        parameters.iter().find_map(|p| match &p.binding {
            Binding::Env(v) if wanted(&v.to_uppercase()) => Some(p.name.clone()),
            _ => None,
        })
    };
    let pool = find(&|v| v.contains("POOL_SIZE") && !v.contains("REDIS"))?;
    let pool = match find(&|v| v.contains("MAX_OVERFLOW")) {
        Some(overflow) => format!("({pool} + {overflow})"),
        None => pool,
    };
    let workers = find(&|v| v == "WEB_CONCURRENCY" || v == "WORKERS" || v.ends_with("_WORKERS"));
    let replicas = parameters
        .iter()
        .find(|p| p.binding == Binding::Replicas)
        .map(|p| p.name.clone());
    let factors: Vec<String> = [replicas, workers, Some(pool)].into_iter().flatten().collect();
    Some(factors.join(" * "))
}

/// Tries the expressions of a space whose parts are in order: truths are truths, costs are numbers, the baseline
/// is legal, and something else is too.
pub(crate) fn try_out(root: &Node<'_>, p: &Parameters, space: &Space, spans: &[Span], cost: &Span) {
    let ctx = root.ctx;
    let mut configs = vec![space.baseline()];
    configs.extend(samples(space, 1, TRIED));
    for x in &space.parameters {
        let failure = x
            .only_if
            .as_ref()
            .and_then(|e| configs.iter().find_map(|c| e.truth(c).err()));
        if let (Some(e), Some(span)) = (failure, p.conditions.get(&x.name)) {
            ctx.error(span, format!("`only_if` must be true or false: {e}"), None);
        }
    }
    for (c, span) in space.constraints.iter().zip(spans) {
        if let Some(e) = configs.iter().find_map(|x| c.that.truth(x).err()) {
            let hint = "compare two sides, as in a + b <= 97".to_owned();
            ctx.error(span, format!("a constraint must be true or false: {e}"), hint);
        }
    }
    let bad_cost = configs.iter().find_map(|c| match space.cost_of(c) {
        Err(e) => Some(e.to_string()),
        Ok(Some(x)) if x < 0.0 => Some(format!("it is {x} at {c}")),
        Ok(_) => None,
    });
    if let Some(why) = bad_cost {
        ctx.error(
            cost,
            format!("`cost` must be a number of at least 0: {why}"),
            None,
        );
    }
    if ctx.has_errors() {
        return;
    }
    check_legal(root, p, space, spans);
    if !ctx.has_errors() {
        check_reservations(root, p, space, &configs);
    }
}

fn check_legal(root: &Node<'_>, p: &Parameters, space: &Space, spans: &[Span]) {
    let today = space.baseline();
    let broken = space
        .constraints
        .iter()
        .zip(spans)
        .find(|(c, _)| !c.that.truth(&today).unwrap_or(false));
    if p.unknown.is_empty() {
        if let Some((c, span)) = broken {
            let sum = c
                .that
                .sides(&today)
                .map_or(String::new(), |(l, r)| format!(": {l} against {r}"));
            root.ctx.error(
                span,
                format!("the baseline breaks this constraint{sum}"),
                format!("today's configuration must be legal ({}): {}", today, c.why),
            );
        }
        return;
    }
    let LegalShare {
        interval: [_, hi],
        exact,
        share,
        ..
    } = legal_share(space, 1);
    if share <= 0.0 {
        let span = spans.first().cloned().unwrap_or_default();
        let tried = if exact {
            "no config".to_owned()
        } else {
            format!("none of 10,000 configs tried (less than {:.2} %)", hi * 100.0)
        };
        root.ctx.error(
            &span,
            format!("{tried} keeps every constraint"),
            "widen a range or relax a constraint".to_owned(),
        );
    }
}

/// Docker refuses a memory reservation above the limit; a CPU reservation above the limit means nothing.
fn check_reservations(root: &Node<'_>, p: &Parameters, space: &Space, configs: &[Config]) {
    for (limit, reservation) in [
        (Limit::Memory, Limit::MemoryReservation),
        (Limit::Cpus, Limit::CpuReservation),
    ] {
        let of = |l| {
            space
                .parameters
                .iter()
                .position(|x| x.binding == Binding::Limit(l))
        };
        let Some((i, j)) = of(limit).zip(of(reservation)) else {
            continue;
        };
        let (Some(a), Some(b)) = (space.parameters.get(i), space.parameters.get(j)) else {
            continue;
        };
        let above = configs.iter().filter(|c| space.is_legal(c)).any(|c| {
            let value = |n: &str| c.get(n).and_then(Value::as_f64);
            value(&b.name).zip(value(&a.name)).is_some_and(|(r, l)| r > l)
        });
        if let (true, Some(span)) = (above, p.spans.get(j)) {
            root.ctx.error(
                span,
                format!(
                    "`{}` can be above `{}`: a reservation can't exceed its limit",
                    b.name, a.name
                ),
                format!("add [[constraints]] that = \"{} <= {}\"", b.name, a.name),
            );
        }
    }
}
