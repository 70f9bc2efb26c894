//! Constraints, the cost, the connection budget: compiled, and tried out on configs.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ConnectionBudget;
use super::context::{Span, Text, show};
use super::errors::nearest;
use super::keys::MAX_CONSTRAINTS;
use super::parameters::Parameters;
use super::reader::Node;
use crate::expr::{Expr, ExprError};
use crate::space::{
    Binding, Config, Constraint, LegalShare, Limit, Parameter, Space, Value, legal_share, samples,
};
use crate::units::Ratio;

/// Configs on which expressions are tried.
const TRIED: u64 = 256;

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
pub(crate) fn connections(
    root: &Node<'_>,
    parameters: &[Parameter],
    fixed: &BTreeMap<String, f64>,
) -> Option<ConnectionBudget> {
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
            let Some(text) = derived_uses(parameters, fixed) else {
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
        derived: !node.has("uses"),
        headroom,
        share,
    })
}

/// replicas * workers * (pool_size + max_overflow), of the parameters that are bound to these; what is not tuned counts as
/// the `fixed` variables have it. A factor that is not active in every config counts as one there, not as nothing.
pub(super) fn derived_uses(parameters: &[Parameter], fixed: &BTreeMap<String, f64>) -> Option<String> {
    let tuned = |wanted: &dyn Fn(&str) -> bool| {
        parameters.iter().find(|p| match &p.binding {
            Binding::Env(v) => wanted(&v.to_uppercase()),
            _ => false,
        })
    };
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let constant = || fixed.iter().find(|(n, _)| wanted(&n.to_uppercase()));
        tuned(wanted)
            .map(|p| p.name.clone())
            .or_else(|| Some(constant()?.1.to_string()).filter(|n| n != "0"))
    };
    let is_pool = |v: &str| v.contains("POOL_SIZE") && !v.contains("REDIS");
    let pool = tuned(&is_pool)?.name.clone();
    let pool = match of(&|v| v.contains("MAX_OVERFLOW")) {
        Some(overflow) => format!("({pool} + {overflow})"),
        None => pool,
    };
    let at_least_one = |p: &Parameter| match p.only_if {
        Some(_) => format!("max(1, {})", p.name),
        None => p.name.clone(),
    };
    let workers = match tuned(&is_workers) {
        Some(p) => Some(at_least_one(p)),
        None => of(&is_workers).filter(|n| n != "1"),
    };
    let replicas = parameters
        .iter()
        .find(|p| p.binding == Binding::Replicas)
        .map(at_least_one);
    let factors: Vec<String> = [replicas, workers, Some(pool)].into_iter().flatten().collect();
    Some(factors.join(" * "))
}

fn is_workers(variable: &str) -> bool {
    variable == "WEB_CONCURRENCY" || variable == "WORKERS" || variable.ends_with("_WORKERS")
}

/// Whether a variable of the service counts in the connection budget although nobody tunes it.
#[must_use]
pub fn counts_connections(variable: &str) -> bool {
    let v = variable.to_uppercase();
    v.contains("MAX_OVERFLOW") || is_workers(&v)
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
    if samples(space, 1, TRIED).any(|c| space.is_legal(&c)) {
        return;
    }
    let LegalShare {
        interval,
        exact,
        share,
        ..
    } = legal_share(space, 1);
    if share <= 0.0 {
        let span = spans.first().cloned().unwrap_or_default();
        let tried = if exact {
            "no config".to_owned()
        } else {
            format!(
                "none of 10,000 configs tried (less than {:.2} %)",
                interval[1] * 100.0
            )
        };
        let hint = "widen a range or relax a constraint".to_owned();
        root.ctx
            .error(&span, format!("{tried} keeps every constraint"), hint);
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
