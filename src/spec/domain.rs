//! The values of a parameter: ranges, steps, choices, baselines, and what the bound thing can't be.

use super::context::show;
use super::keys::MAX_CHOICES;
use super::reader::Node;
use crate::space::{Binding, Domain, Limit, Value};
use crate::units::{Bytes, Cpus};

/// Memory that Docker accepts at least, MiB.
const MIN_MEMORY_MIB: f64 = 6.0;

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

pub(super) fn domain(node: &Node<'_>, memory: bool) -> Option<Domain> {
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
        (Value::Int(low), Value::Int(high), step) => int_domain(node, low, high, step.as_ref(), log),
        (_, _, step) => float_domain(node, lo, hi, step.and_then(|s| s.as_f64()), log),
    }
}

fn int_domain(node: &Node<'_>, low: i64, high: i64, step: Option<&Value>, log: bool) -> Option<Domain> {
    let step = match step {
        Some(Value::Int(s)) => *s,
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
        // Seven digits of steps: with more, a step drowns in what a float can hold of its distance from 0.
        let finest = low.abs().max(high.abs()) / 1e7;
        if s <= 0.0 || s < finest {
            let hint = "leave it out for every value of the range".to_owned();
            let what = if s <= 0.0 {
                "must be above 0".to_owned()
            } else {
                format!("must be at least {finest}")
            };
            node.ctx
                .error(&node.value_span("step"), format!("`step` {what}, not {s}"), hint);
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
pub(super) fn check_bounds(node: &Node<'_>, name: &str, binding: &Binding, domain: &Domain) {
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

pub(super) fn baseline(node: &Node<'_>, domain: &Domain, memory: bool, broken: bool) -> Option<Value> {
    if broken {
        beside_a_mistake(node, memory);
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

/// A range whose step is wrong still has ends: a baseline beyond them is said in the same pass.
fn beside_a_mistake(node: &Node<'_>, memory: bool) {
    if memory || ["low", "high", "step", "baseline"].iter().any(|k| !node.has(k)) {
        return;
    }
    let (Some((low, _)), Some((high, _)), Some((value, span))) =
        (node.any("low"), node.any("high"), node.any("baseline"))
    else {
        return;
    };
    let (Some(low), Some(high)) = (low.as_f64(), high.as_f64()) else {
        return;
    };
    if low <= high && value.as_f64().is_some_and(|v| v < low || v > high) {
        node.ctx.error(
            &span,
            format!("the baseline {value} is not within {low} to {high}"),
            "it is the value in production today: widen the range".to_owned(),
        );
    }
}
