//! The recommendation as files for production, and the environment it was found in. Only tuned variables are
//! ever written: the service's other variables are unknown here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::text::{CELL, clean, number, rate};
use super::{FinalDecision, RenderError, Sample, Summary, objective_words};
use crate::space::{Binding, Config, Limit, Value};

/// What compose needs for several instances of a service, and autotune does not set up.
pub(super) const NEEDS_FOR_INSTANCES: &str =
    "needs a port range or no published port, and a balancer in front";

#[derive(Serialize)]
struct Recommended<'a> {
    verdict: &'static str,
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binds: Option<String>,
    config: &'a Config,
    today: &'a Config,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<&'a Config>,
    evidence: Evidence<'a>,
}

#[derive(Serialize)]
struct Evidence<'a> {
    #[serde(flatten)]
    rates: Rates,
    objective: String,
    trials: usize,
    probes: usize,
    seed: u64,
    image: &'a str,
    host: String,
    space_hash: &'a str,
    study: &'a str,
    measured_at: String,
    tool: String,
}

/// Rates and gain; what was not compared is left out. An open end is infinite.
#[derive(Serialize, Default)]
struct Rates {
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_interval_rps: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_interval_rps: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate_rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gain: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gain_interval: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
    pairs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum_detectable_gain: Option<f64>,
}

impl Rates {
    /// Of the finals.
    fn decided(s: &Summary<'_>, d: &FinalDecision) -> Self {
        let interval = |c: &Config, bound: bool| interval_of(s.sample(c)?, bound);
        let todays = interval(&s.baseline, s.sample(&s.baseline).is_some_and(|x| x.at_least));
        let is_win = s.is_win();
        // The dual question has no gain in rate, and one round has none either.
        let known = d.is_compared() && s.meta.about.required_rps.is_none();
        let upper = if d.at_least {
            f64::INFINITY
        } else {
            round(d.gain[2], 4)
        };
        Self {
            rate_rps: Some(round(if is_win { d.winner_rps } else { d.baseline_rps }, 3)),
            rate_interval_rps: if is_win {
                interval(&d.config, d.at_least)
            } else {
                todays
            },
            baseline_rps: Some(round(d.baseline_rps, 3)),
            baseline_interval_rps: todays,
            candidate_rps: (!is_win && d.winner_rps > 0.0).then(|| round(d.winner_rps, 3)),
            gain: known.then(|| round(d.gain[1], 4)),
            gain_interval: known.then(|| [round(d.gain[0], 4), upper]),
            confidence: Some(0.95),
            pairs: d.pairs,
            minimum_detectable_gain: known.then(|| round(d.minimum_detectable_gain, 4)),
        }
    }

    /// Of the search alone: nothing was compared.
    fn searched(s: &Summary<'_>) -> Self {
        let today = s.today_in_search();
        let rate = today.as_ref().map(|x| round(x.mean_rps, 3));
        let interval = today.as_ref().and_then(|x| interval_of(x, x.at_least));
        Self {
            rate_rps: rate,
            rate_interval_rps: interval,
            baseline_rps: rate,
            baseline_interval_rps: interval,
            confidence: interval.map(|_| 0.95),
            ..Self::default()
        }
    }
}

/// A sample's interval for a file; a bound has no upper end.
fn interval_of(x: &Sample, bound: bool) -> Option<[f64; 2]> {
    match (x.interval_rps, bound) {
        (Some([lo, hi]), false) => Some([round(lo, 3), round(hi, 3)]),
        (Some([lo, _]), true) => Some([round(lo, 3), f64::INFINITY]),
        (None, true) => Some([round(x.mean_rps, 3), f64::INFINITY]),
        (None, false) => None,
    }
}

fn round(x: f64, decimals: i32) -> f64 {
    let k = 10_f64.powi(decimals);
    let r = (x * k).round() / k;
    if r.is_finite() { r } else { 0.0 }
}

/// recommended.toml: the config, the evidence for it and the verdict. An error while nothing is decided.
pub fn recommended_toml(s: &Summary<'_>) -> Result<Vec<u8>, RenderError> {
    let what = "recommended.toml";
    let Some(config) = s.recommended() else {
        return Err(RenderError::new(what, "nothing was decided yet"));
    };
    let recommended = Recommended {
        verdict: s.verdict_name(),
        summary: s.headline(),
        reason: s.ended().map(|why| clean(why, CELL)),
        binds: s.notes.binds.as_deref().map(|b| clean(b, CELL)),
        config,
        today: &s.baseline,
        candidate: s.candidate().filter(|_| !s.is_win()),
        evidence: Evidence {
            rates: match &s.decision {
                Some(d) => Rates::decided(s, d),
                None => Rates::searched(s),
            },
            objective: objective_words(&s.meta.about.slo),
            trials: s.trials.len(),
            probes: s.trials.iter().map(|t| t.probes.len()).sum(),
            seed: s.meta.seed,
            image: &s.meta.identity,
            host: s.hosts().join(", "),
            space_hash: &s.meta.spec_hash,
            study: &s.meta.name,
            measured_at: s.rows.last().map_or(String::new(), |r| r.started_at.clone()),
            tool: format!("autotune {}", s.meta.version),
        },
    };
    let mut out = String::from(
        "# What autotune recommends for this service, and the evidence. `gain` is a fraction: 0.43 is +43 %.\n",
    );
    if s.ended().is_some() {
        out.push_str("# The search ended before any finals: [config] is today's, and `reason` says why.\n");
    } else if !s.is_win() {
        out.push_str("# Nothing beat today's configuration beyond the noise: [config] is today's; `gain` is that of [candidate].\n");
    }
    out.push_str(&toml::to_string(&recommended).map_err(|e| RenderError::new(what, e))?);
    Ok(out.into_bytes())
}

/// environment.toml: what the study ran with and on.
pub fn environment_toml(s: &Summary<'_>) -> Result<Vec<u8>, RenderError> {
    #[derive(Serialize)]
    struct Environment<'a> {
        tool: String,
        study: &'a str,
        created_at: &'a str,
        seed: u64,
        space_hash: &'a str,
        image: &'a str,
        hosts: Vec<String>,
        environment: BTreeMap<String, String>,
        sections: &'a BTreeMap<String, String>,
    }
    let environment = Environment {
        tool: format!("autotune {}", s.meta.version),
        study: &s.meta.name,
        created_at: &s.meta.created_at,
        seed: s.meta.seed,
        space_hash: &s.meta.spec_hash,
        image: &s.meta.identity,
        hosts: s.hosts(),
        environment: s
            .notes
            .environment
            .iter()
            .map(|(k, v)| (clean(k, 80), clean(v, CELL)))
            .collect(),
        sections: &s.meta.section_hashes,
    };
    toml::to_string(&environment)
        .map(String::into_bytes)
        .map_err(|e| RenderError::new("environment.toml", e))
}

/// The evidence as comment lines, each beginning with `# `.
#[must_use]
pub(super) fn evidence_header(s: &Summary<'_>) -> String {
    let mut lines = vec![format!(
        "autotune {}, study {}",
        s.meta.version,
        clean(&s.meta.name, 120)
    )];
    if s.forced.is_some() {
        lines.push("NOT RECOMMENDED: exported by force; the verdict below stands.".to_owned());
    }
    lines.push(s.headline());
    if let Some(d) = &s.decision {
        lines.push(rates_line(s, d));
    }
    if let Some(fit) = &s.instances {
        lines.push(format!("For {} instances: {}", fit.instances, fit.words));
    }
    lines.push(format!(
        "Objective: {}. Seed {}. Image {}. Host {}.",
        objective_words(&s.meta.about.slo),
        s.meta.seed,
        clean(&s.meta.identity, 120),
        s.hosts().join(", ")
    ));
    lines.iter().fold(String::new(), |mut out, l| {
        let _ = writeln!(out, "# {}", clean(l, 600));
        out
    })
}

fn rates_line(s: &Summary<'_>, d: &FinalDecision) -> String {
    let interval = |c: Option<&Config>| {
        c.and_then(|c| s.sample(c))
            .and_then(|x| x.interval_rps)
            .map_or(String::new(), |[lo, hi]| {
                format!(" ({} to {})", rate(lo), rate(hi))
            })
    };
    let best = if s.is_win() {
        "recommended"
    } else {
        "best candidate"
    };
    let todays = format!(
        "today {} rps{}",
        rate(d.baseline_rps),
        interval(Some(&s.baseline))
    );
    let theirs = match d.winner_rps {
        x if x <= 0.0 => format!("{best} none"),
        x if d.at_least => format!("{best} at least {} rps", rate(x)),
        x => format!("{best} {} rps{}", rate(x), interval(s.candidate())),
    };
    format!("Measured again in interleaved rounds: {todays}, {theirs}.")
}

/// A value as KEY=VALUE files take it: bare where every reader agrees (docker run, compose, systemd), else
/// in double quotes.
fn env_quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,=-".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' | '`' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The parameters of `config` by what they set.
pub(super) struct Settings {
    /// Variable -> value.
    pub(super) env: Vec<(String, Value)>,
    /// Limit -> value.
    pub(super) limits: BTreeMap<Limit, f64>,
    /// Instances.
    pub(super) replicas: Option<i64>,
    /// Name -> value of what has no binding.
    pub(super) unbound: Vec<(String, Value)>,
}

impl Settings {
    pub(super) fn of(s: &Summary<'_>, config: &Config) -> Self {
        let mut out = Self {
            env: Vec::new(),
            limits: BTreeMap::new(),
            replicas: None,
            unbound: Vec::new(),
        };
        for p in &s.space.parameters {
            let Some(v) = config.get(&p.name) else { continue };
            match &p.binding {
                Binding::Env(name) => out.env.push((name.clone(), v.clone())),
                Binding::Limit(limit) => {
                    if let Some(x) = v.as_f64() {
                        out.limits.insert(*limit, x);
                    }
                }
                Binding::Replicas => out.replicas = v.as_f64().map(whole),
                Binding::Unbound => out.unbound.push((p.name.clone(), v.clone())),
            }
        }
        if let Some(fit) = &s.instances {
            out.replicas = Some(i64::from(fit.instances));
        }
        out
    }

    pub(super) fn limit(&self, limit: Limit) -> Option<f64> {
        self.limits.get(&limit).copied()
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole(x: f64) -> i64 {
    x.round() as i64
}

/// recommended.env: the tuned variables alone; limits as comments, because a variable cannot set them.
#[must_use]
pub fn recommended_env(s: &Summary<'_>) -> Vec<u8> {
    let mut out = evidence_header(s);
    let Some(config) = s.recommended() else {
        return out.into_bytes();
    };
    let settings = Settings::of(s, config);
    for (limit, x) in &settings.limits {
        let _ = writeln!(out, "# limit: {}", limit_words(*limit, *x));
    }
    if let Some(n) = settings.replicas {
        let _ = writeln!(out, "# instances: {n}");
    }
    for (name, v) in &settings.env {
        let _ = writeln!(out, "{}={}", clean(name, 200), env_quoted(&v.to_string()));
    }
    out.into_bytes()
}

pub(super) fn limit_words(limit: Limit, x: f64) -> String {
    match limit {
        Limit::Cpus => format!("cpus {}", number(x, 3)),
        Limit::Memory => format!("memory {} MiB", number(x, 0)),
        Limit::CpuReservation => format!("cpu reservation {}", number(x, 3)),
        Limit::MemoryReservation => format!("memory reservation {} MiB", number(x, 0)),
    }
}

/// `text` as a YAML double-quoted scalar for a compose file, where `$` would begin a variable.
fn yaml_quoted(text: &str) -> String {
    // JSON's string form is a YAML flow scalar.
    serde_json::Value::String(text.replace('$', "$$")).to_string()
}

/// docker-compose.recommended.yml: an override of the compose service. None where the study tuned no compose
/// service. Limits are given in both of compose's forms, because compose refuses a file in which `cpus` and
/// `deploy.resources.limits.cpus` differ, and the user's file may have either.
#[must_use]
pub fn compose_override(s: &Summary<'_>) -> Option<Vec<u8>> {
    let service = s.meta.about.service.as_deref()?;
    let settings = Settings::of(s, s.recommended()?);
    let mut out = evidence_header(s);
    out.push_str("# docker compose -f docker-compose.yml -f docker-compose.recommended.yml up -d\n");
    let _ = writeln!(out, "services:\n  {}:", yaml_quoted(service));
    if !settings.env.is_empty() {
        out.push_str("    environment:\n");
        for (name, v) in &settings.env {
            let _ = writeln!(
                out,
                "      {}: {}",
                yaml_quoted(name),
                yaml_quoted(&v.to_string())
            );
        }
    }
    if let Some(x) = settings.limit(Limit::Cpus) {
        let _ = writeln!(out, "    cpus: {}", number(x, 3));
    }
    if let Some(x) = settings.limit(Limit::Memory) {
        // The trials ran without swap beyond the limit: the same here.
        let m = number(x, 0);
        let _ = writeln!(out, "    mem_limit: {m}m\n    memswap_limit: {m}m");
    }
    if let Some(x) = settings.limit(Limit::CpuReservation) {
        let _ = writeln!(out, "    cpu_shares: {}", whole(x * 1024.0));
    }
    if let Some(x) = settings.limit(Limit::MemoryReservation) {
        let _ = writeln!(out, "    mem_reservation: {}m", number(x, 0));
    }
    if let Some(n) = settings.replicas {
        if n > 1 {
            let _ = writeln!(out, "    # {n} instances: {NEEDS_FOR_INSTANCES}");
        }
        let _ = writeln!(out, "    scale: {n}");
    }
    out.push_str(&deploy_section(&settings));
    if settings.env.is_empty() && settings.limits.is_empty() && settings.replicas.is_none() {
        out.push_str("    {}\n");
    }
    Some(out.into_bytes())
}

fn deploy_section(settings: &Settings) -> String {
    let section = |name: &str, cpus: Option<f64>, memory: Option<f64>| {
        let mut out = String::new();
        if cpus.is_some() || memory.is_some() {
            let _ = writeln!(out, "        {name}:");
        }
        if let Some(x) = cpus {
            let _ = writeln!(out, "          cpus: \"{}\"", number(x, 3));
        }
        if let Some(x) = memory {
            let _ = writeln!(out, "          memory: {}M", number(x, 0));
        }
        out
    };
    let limits = section(
        "limits",
        settings.limit(Limit::Cpus),
        settings.limit(Limit::Memory),
    );
    let reserved = section(
        "reservations",
        settings.limit(Limit::CpuReservation),
        settings.limit(Limit::MemoryReservation),
    );
    let mut out = String::new();
    if let Some(n) = settings.replicas {
        let _ = writeln!(out, "      replicas: {n}");
    }
    if !limits.is_empty() || !reserved.is_empty() {
        let _ = write!(out, "      resources:\n{limits}{reserved}");
    }
    if out.is_empty() {
        out
    } else {
        format!("    deploy:\n{out}")
    }
}
