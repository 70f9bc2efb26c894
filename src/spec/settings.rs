//! [slo], [capacity], [objective], [telemetry], [confirm].

use std::time::Duration;

use super::common::path_problem;
use super::context::{Span, Text};
use super::expressions::compile;
use super::reader::Node;
use super::{CapacitySpec, ConfirmSpec, Objective, Secret, TelemetrySpec};
use crate::expr::Expr;
use crate::slo::Slo;
use crate::space::Parameter;
use crate::units::{Ratio, Rps};

pub(super) fn slo(root: &Node<'_>) -> Slo {
    let node = root.table("slo");
    let errors = node.share("errors");
    let success = node.share("success");
    if node.has("errors") && node.has("success") {
        node.ctx.error(
            &node.span_of("success"),
            "`errors` and `success` say the same: keep one",
            None,
        );
    }
    let errors = success
        .map(|s| Ratio::saturating(1.0 - s.get()))
        .or(errors)
        .unwrap_or(Ratio::ZERO);
    if errors.get() >= 1.0 {
        let key = if node.has("success") { "success" } else { "errors" };
        node.ctx.error(
            &node.value_span(key),
            "every rate would do: all requests may fail",
            None,
        );
    }
    let mut times = Vec::new();
    for key in ["p95", "p99", "mean"] {
        let time = node.time(key);
        if time == Some(Duration::ZERO) {
            node.ctx
                .error(&node.value_span(key), format!("`{key}` must be above 0"), None);
        }
        times.push(time);
    }
    let (p95, p99) = (times.first().copied().flatten(), times.get(1).copied().flatten());
    if let (Some(a), Some(b)) = (p95, p99)
        && a > b
    {
        node.ctx
            .warn(&node.value_span("p95"), "`p95` is above `p99`: it never binds");
    }
    Slo {
        errors,
        p95,
        p99,
        mean: times.get(2).copied().flatten(),
    }
}

pub(super) fn capacity(root: &Node<'_>) -> CapacitySpec {
    let node = root.table("capacity");
    let start = node.number("start");
    let max = node.number("max").unwrap_or(f64::MAX);
    if start.is_some_and(|s| s > max) {
        node.ctx.error(
            &node.value_span("start"),
            format!("`start` is above `max` ({max})"),
            None,
        );
    }
    let precision = node.share("precision").unwrap_or(Ratio::ONE);
    if node.has("precision") && !(0.001..=0.5).contains(&precision.get()) {
        node.ctx.error(
            &node.value_span("precision"),
            "`precision` must be from 0.1% to 50%",
            None,
        );
    }
    CapacitySpec {
        start: start.map(Rps::saturating),
        max: Rps::saturating(max),
        precision,
        confirm: node.time("confirm").unwrap_or_default(),
        warm_up: node.time("warm_up").unwrap_or_default(),
    }
}

pub(super) fn objective(
    root: &Node<'_>,
    parameters: &[Parameter],
    max: Rps,
) -> (Objective, Option<Expr>, Span) {
    let node = root.table("objective");
    let cost: Option<Text> = node.text("cost");
    let span = cost.as_ref().map_or(node.span.clone(), |t| t.span.clone());
    let expr = cost.and_then(|t| compile(&node, &t, parameters, &[]));
    let (maximize, minimize, at) = (
        node.one_of("maximize"),
        node.one_of("minimize"),
        node.number("at"),
    );
    if let (Some(_), Some(_)) = (maximize, minimize) {
        node.ctx.error(
            &node.span_of("minimize"),
            "`maximize` and `minimize` exclude each other",
            None,
        );
    }
    let objective = match (minimize, at) {
        (Some(_), Some(rate)) => {
            if !node.has("cost") {
                let hint = "for example cost = \"cpus + memory_mb / 2048\"".to_owned();
                node.ctx
                    .error(&node.span_of("minimize"), "`minimize` needs `cost`", hint);
            }
            if rate > max.get() {
                let hint = "raise [capacity] max".to_owned();
                node.ctx.error(
                    &node.value_span("at"),
                    format!("`at` is above the highest rate that is offered ({max})"),
                    hint,
                );
            }
            Objective::CostAt(Rps::saturating(rate))
        }
        (Some(_), None) => {
            if !node.has("at") {
                node.missing("at");
            }
            Objective::SustainableRps
        }
        (None, Some(_)) => {
            let hint = "add minimize = \"cost\"".to_owned();
            node.ctx
                .error(&node.span_of("at"), "`at` belongs to `minimize`", hint);
            Objective::SustainableRps
        }
        (None, None) => Objective::SustainableRps,
    };
    (objective, expr, span)
}

pub(super) fn telemetry(root: &Node<'_>) -> TelemetrySpec {
    let node = root.table("telemetry");
    let url = |key: &str, schemes: &[&str]| {
        let t = node.text(key)?;
        let (scheme, rest) = t.value.split_once("://").unwrap_or(("", ""));
        // SQLAlchemy writes postgresql+asyncpg://; the driver is its own affair.
        let plain = scheme.split('+').next().unwrap_or("");
        if !schemes.contains(&plain) || rest.is_empty() {
            let hint = format!(
                "for example {}://user:password@127.0.0.1/name",
                schemes.first().unwrap_or(&"")
            );
            node.ctx.error(
                &t.span,
                format!(
                    "`{key}` must be a URL that begins with {}://",
                    schemes.join(":// or ")
                ),
                hint,
            );
            return None;
        }
        if let Some(password) = rest
            .split('@')
            .next()
            .and_then(|u| u.split_once(':'))
            .map(|(_, p)| p)
            && rest.contains('@')
        {
            node.ctx.keep_secret(password);
        }
        Some(Secret::new(format!("{plain}://{rest}")))
    };
    let postgres = url("postgres", &["postgres", "postgresql"]);
    let redis = url("redis", &["redis", "rediss", "unix"]);
    let pool = node.text("pool");
    if let Some((t, why)) = pool.as_ref().and_then(|t| Some((t, path_problem(&t.value)?))) {
        node.ctx.error(
            &t.span,
            format!("`pool` {why}"),
            "it is a path of the API".to_owned(),
        );
    }
    TelemetrySpec {
        postgres,
        redis,
        pool: pool.map(|t| t.value),
    }
}

pub(super) fn confirm(root: &Node<'_>) -> ConfirmSpec {
    let node = root.table("confirm");
    ConfirmSpec {
        pairs: node
            .whole("pairs")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_default(),
        reserve: node.time("reserve"),
    }
}
