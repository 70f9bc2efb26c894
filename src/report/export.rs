//! The recommendation, and the study itself, in the forms of other tools.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::recommend::{Settings, evidence_header};
use super::text::{CELL, clean, number};
use super::{RenderError, Row, Summary, compose_override, objective_words, recommended_env};
use crate::space::{Domain, Limit, Value};
use crate::spec::{Connections, Fit};

/// A form to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// KEY=VALUE lines.
    Env,
    /// A compose override.
    Compose,
    /// A Python snippet.
    Sqlalchemy,
    /// A patch of a Deployment.
    Kubernetes,
    /// Everything, for scripts.
    Json,
    /// Optuna's journal file, for its dashboard.
    Optuna,
    /// A picture of the search and the finals.
    Svg,
}

/// Why there is nothing to export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Nothing beat today's configuration.
    #[error("nothing to put into production: {0} (--force exports the best candidate all the same)")]
    NoWin(String),
    /// The study has nothing in this form.
    #[error("{0}")]
    Unsuited(String),
    /// The connections of so many instances exceed the budget; the arithmetic.
    #[error("{0}")]
    DoesNotFit(String),
    /// A bug.
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// `s` as `format`. What goes into production is refused without a win, unless `force`d: then it is the best
/// candidate, and its header says that it was not recommended.
pub fn export(s: &Summary<'_>, format: Format, force: bool) -> Result<Vec<u8>, ExportError> {
    match format {
        Format::Json => return Ok(json_bytes(&summary_json(s))),
        Format::Optuna => return Ok(optuna_journal(s)),
        Format::Svg => return Ok(super::picture(s)),
        _ => {}
    }
    let forced;
    let s = if s.is_win() {
        s
    } else if force {
        forced = forced_win(s).ok_or_else(|| ExportError::NoWin(s.headline()))?;
        &forced
    } else {
        return Err(ExportError::NoWin(s.headline()));
    };
    match format {
        Format::Compose => compose_override(s).ok_or_else(|| {
            ExportError::Unsuited("this study tuned no compose service: export env instead".to_owned())
        }),
        Format::Sqlalchemy => sqlalchemy(s),
        Format::Kubernetes => Ok(kubernetes(s)),
        _ => Ok(recommended_env(s)),
    }
}

/// The summary for `instances` in production: every form then asks for so many. Refused with the arithmetic where their
/// connections exceed the budget of the study; without one that is said, and nothing is checked.
pub fn for_instances<'a>(
    s: &Summary<'a>,
    connections: Option<&Connections>,
    instances: u32,
    force: bool,
) -> Result<Summary<'a>, ExportError> {
    let candidate = if force && !s.is_win() { forced_win(s) } else { None };
    let of = candidate.as_ref().unwrap_or(s);
    let config = of.recommended().ok_or_else(|| ExportError::NoWin(s.headline()))?;
    let fit = match connections {
        Some(c) => c
            .for_instances(s.space, config, instances)
            .map_err(ExportError::DoesNotFit)?,
        None => Fit {
            instances,
            words: "not checked against the database: the space file has no [budget] connections".to_owned(),
        },
    };
    let mut out = s.clone();
    out.instances = Some(fit);
    Ok(out)
}

/// The summary with its best candidate in the winner's place; the headline still says what was decided.
fn forced_win<'a>(s: &Summary<'a>) -> Option<Summary<'a>> {
    let candidate = s.other()?.clone();
    let mut out = s.clone();
    out.forced = Some(candidate);
    Some(out)
}

fn json_bytes(v: &Json) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(v).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The study as one JSON document.
#[must_use]
pub fn summary_json(s: &Summary<'_>) -> Json {
    let sample = |c: &crate::space::Config| {
        s.sample(c)
            .map(|x| json!({ "mean_rps": x.mean_rps, "interval_rps": x.interval_rps, "rates_rps": x.rates }))
    };
    json!({
        "study": s.meta.name,
        "tool": format!("autotune {}", s.meta.version),
        "verdict": s.verdict_name(),
        "summary": s.headline(),
        "ended": s.ended(),
        "config": s.recommended(),
        "today": s.baseline,
        "decision": s.decision,
        "finals": s.finals.iter().map(|x| json!({ "config": x.config, "sample": sample(&x.config) })).collect::<Vec<_>>(),
        "binds": s.notes.binds,
        "instances": s.instances.as_ref().map(|f| json!({ "count": f.instances, "connections": f.words })),
        "objective": objective_words(&s.meta.about.slo),
        "seed": s.meta.seed,
        "image": s.meta.identity,
        "hosts": s.hosts(),
        "space_hash": s.meta.spec_hash,
        "space": s.meta.space,
        "environment": s.notes.environment,
        "warnings": super::warnings(s),
        "trials": s.rows.iter().map(row_json).collect::<Vec<_>>(),
    })
}

fn row_json(r: &Row) -> Json {
    json!({
        "trial": r.trial,
        "phase": r.phase.name(),
        "outcome": r.outcome,
        "reason": r.reason,
        "config": r.config,
        "sustainable_rps": r.rate_rps,
        "interval_rps": r.interval_rps,
        "goodput_rps": r.goodput_rps,
        "error_ratio": r.error_ratio,
        "error_ratio_upper": r.error_ratio_upper,
        "latency_ms": r.latency_ms.map(|l| json!({ "p50": l[0], "p95": l[1], "p99": l[2] })),
        "cost": r.cost,
        "binding_constraint": r.binding,
        "instance_traffic_ratio": r.instance_traffic_ratio,
        "verdict": r.verdict,
        "seconds": r.seconds,
        "started_at": r.started_at,
        "round": r.round,
    })
}

/// The settings of a SQLAlchemy pool, as `create_engine` names them.
const POOL_SETTINGS: [&str; 6] = [
    "pool_size",
    "max_overflow",
    "pool_timeout",
    "pool_recycle",
    "pool_pre_ping",
    "pool_use_lifo",
];

fn sqlalchemy(s: &Summary<'_>) -> Result<Vec<u8>, ExportError> {
    let Some(config) = s.recommended() else {
        return Err(ExportError::NoWin(s.headline()));
    };
    let mut engine = String::new();
    let mut rest = String::new();
    for p in &s.space.parameters {
        let Some(v) = config.get(&p.name) else { continue };
        let bound = match &p.binding {
            crate::space::Binding::Env(name) => name.to_ascii_lowercase(),
            _ => String::new(),
        };
        let names = [p.name.to_ascii_lowercase(), bound];
        // DB_POOL_SIZE is a pool size as well; REDIS_POOL_SIZE is somebody else's.
        let setting = POOL_SETTINGS
            .into_iter()
            .find(|k| names.iter().any(|n| n.ends_with(k) && !n.contains("redis")));
        match setting {
            Some(k) => {
                let _ = writeln!(engine, "    {k}={},", python(v));
            }
            None => {
                let _ = writeln!(
                    rest,
                    "# also: {} = {}",
                    clean(&p.name, 80),
                    clean(&v.to_string(), 200)
                );
            }
        }
    }
    if engine.is_empty() {
        return Err(ExportError::Unsuited(
            "no parameter of this study is a setting of a SQLAlchemy pool: export env instead".to_owned(),
        ));
    }
    let head = evidence_header(s);
    Ok(format!(
        "{head}{rest}from sqlalchemy.ext.asyncio import create_async_engine\n\nengine = create_async_engine(\n    DATABASE_URL,\n{engine})\n"
    )
    .into_bytes())
}

fn python(v: &Value) -> String {
    match v {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // JSON's string form is a Python string.
        Value::Text(t) if t == "true" || t == "on" => "True".to_owned(),
        Value::Text(t) if t == "false" || t == "off" => "False".to_owned(),
        Value::Text(t) => Json::String(t.clone()).to_string(),
        other => other.to_string(),
    }
}

/// A strategic-merge patch: `kubectl patch deployment NAME --patch-file FILE`.
fn kubernetes(s: &Summary<'_>) -> Vec<u8> {
    let name = s
        .meta
        .about
        .service
        .as_deref()
        .or(s.meta.about.container.as_deref())
        .unwrap_or("api");
    // A Kubernetes value is not interpolated: compose's doubled dollars must not come in.
    let quoted = |t: &str| Json::String(t.to_owned()).to_string();
    let mut out = evidence_header(s);
    let _ = writeln!(
        out,
        "# kubectl patch deployment {0} --patch-file FILE; the container is taken to be named like the service.\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {1}\nspec:",
        clean(name, 60),
        quoted(name)
    );
    let Some(config) = s.recommended() else {
        return out.into_bytes();
    };
    let settings = Settings::of(s, config);
    if let Some(n) = settings.replicas {
        let _ = writeln!(out, "  replicas: {n}");
    }
    let _ = writeln!(
        out,
        "  template:\n    spec:\n      containers:\n        - name: {}",
        quoted(name)
    );
    if !settings.env.is_empty() {
        out.push_str("          env:\n");
        for (k, v) in &settings.env {
            let _ = writeln!(
                out,
                "            - name: {}\n              value: {}",
                quoted(k),
                quoted(&v.to_string())
            );
        }
    }
    let part = |title: &str, cpus: Limit, memory: Limit| {
        let mut lines = String::new();
        if let Some(x) = settings.limit(cpus) {
            let _ = writeln!(lines, "              cpu: \"{}\"", number(x, 3));
        }
        if let Some(x) = settings.limit(memory) {
            let _ = writeln!(lines, "              memory: {}Mi", number(x, 0));
        }
        if lines.is_empty() {
            lines
        } else {
            format!("            {title}:\n{lines}")
        }
    };
    let limits = part("limits", Limit::Cpus, Limit::Memory);
    let requests = part("requests", Limit::CpuReservation, Limit::MemoryReservation);
    if !limits.is_empty() || !requests.is_empty() {
        let _ = write!(out, "          resources:\n{limits}{requests}");
    }
    out.into_bytes()
}

/// Optuna's journal file (`JournalStorage` on `JournalFileBackend`): one JSON operation a line. Finals are
/// left out: they repeat configs, and Optuna would take them for trials of the search.
fn optuna_journal(s: &Summary<'_>) -> Vec<u8> {
    const WORKER: &str = "autotune";
    let mut lines = vec![
        json!({ "op_code": 0, "worker_id": WORKER, "study_name": clean(&s.meta.name, 200), "directions": [2] }),
        json!({ "op_code": 2, "worker_id": WORKER, "study_id": 0, "user_attr": { "evidence": clean(&s.headline(), 1_000) } }),
        json!({ "op_code": 2, "worker_id": WORKER, "study_id": 0, "user_attr": { "objective": objective_words(&s.meta.about.slo) } }),
    ];
    for r in s
        .rows
        .iter()
        .filter(|r| r.phase != crate::trial::TrialPhase::Final)
    {
        let mut distributions = Map::new();
        let mut params = Map::new();
        for p in &s.space.parameters {
            let Some(v) = r.config.get(&p.name) else { continue };
            let Some((distribution, inner)) = distribution(&p.domain, v) else {
                continue;
            };
            distributions.insert(p.name.clone(), Json::String(distribution.to_string()));
            params.insert(p.name.clone(), json!(inner));
        }
        let value = r
            .rate_rps
            .filter(|_| r.outcome == "measured" && r.verdict != "at_most");
        // Optuna's states: complete 1, pruned 2, fail 3. A race that was cut short is a pruned trial.
        let state = match value {
            Some(_) => 1,
            None if r.verdict == "at_most" => 2,
            None => 3,
        };
        let mut line = json!({
            "op_code": 4, "worker_id": WORKER, "study_id": 0, "state": state,
            "datetime_start": utc(&r.started_at, 0.0),
            "datetime_complete": utc(&r.started_at, r.seconds),
            "distributions": distributions, "params": params,
            "user_attrs": {
                "trial": r.trial, "phase": r.phase.name(), "outcome": r.outcome, "reason": r.reason,
                "interval_rps": r.interval_rps, "cost": r.cost, "binding_constraint": r.binding,
            },
            "system_attrs": {}, "intermediate_values": {},
        });
        if let Some(x) = value {
            line["value"] = json!(x);
        }
        lines.push(line);
    }
    let mut out = Vec::new();
    for l in lines {
        out.extend_from_slice(l.to_string().as_bytes());
        out.push(b'\n');
    }
    out
}

/// Optuna's distribution and its inner value (a choice is its index).
#[allow(clippy::cast_precision_loss)]
fn distribution(domain: &Domain, v: &Value) -> Option<(Json, f64)> {
    Some(match domain {
        Domain::Int { low, high, step, log } => {
            // Optuna takes a logarithmic scale only from 1 on and without steps, and ranges that end on the grid.
            let log = *log && *low > 0 && *step == 1;
            let high = low + (high - low) / (*step).max(1) * step;
            (
                json!({ "name": "IntDistribution", "attributes": { "log": log, "step": step, "low": low, "high": high } }),
                v.as_f64()?,
            )
        }
        Domain::Float { low, high, step, log } => {
            let log = *log && *low > 0.0 && step.is_none();
            let high = step.map_or(*high, |d| low + ((high - low) / d + 1e-9).floor() * d);
            (
                json!({ "name": "FloatDistribution", "attributes": { "step": step, "low": low, "high": high, "log": log } }),
                v.as_f64()?,
            )
        }
        Domain::Choice { values } => (
            json!({ "name": "CategoricalDistribution", "attributes": { "choices": values } }),
            values.iter().position(|x| x == v)? as f64,
        ),
    })
}

/// `at` plus `seconds` in the form that every Python reads; the epoch where `at` is no time.
fn utc(at: &str, seconds: f64) -> String {
    let start = humantime::parse_rfc3339(at).unwrap_or(std::time::UNIX_EPOCH);
    let after = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let text = humantime::format_rfc3339_micros(start.checked_add(after).unwrap_or(start)).to_string();
    clean(&format!("{}+00:00", text.trim_end_matches('Z')), CELL)
}
