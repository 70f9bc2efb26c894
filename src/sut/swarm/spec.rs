//! A service's spec as JSON: the trial's made from the original, the original kept in it and taken out again, today's
//! values read. Pure.
//!
//! Specs stay JSON from end to end, so that what this version doesn't know of comes back as it was. The original lies in
//! a label of the trial's spec, beside the environment that the swarm's own store holds anyway: the swarm itself remembers
//! only the spec before the present one, which after two trials is a trial's. Not here: asking and telling the engine.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use sha2::Digest;

use crate::space::{Binding, Config, Domain, Limit, Parameter, Value};
use crate::sut::docker::clone::{limit_name, typed};
use crate::units::{Bytes, Cpus};

/// Label of a service under trial: its own spec, as JSON.
pub const ORIGINAL: &str = "autotune.original-spec";
/// Label of a service under trial: the run.
pub const RUN: &str = "autotune.run";
/// Label of a service under trial: the machine that the run is on.
pub const HOST: &str = "autotune.host";
/// Label of a service under trial: the run's results folder.
pub const RESULTS: &str = "autotune.results";
/// Label of a service under trial: the trial's number.
pub const TRIAL: &str = "autotune.trial";
/// Longest spec that is kept in a label, bytes: the swarm's store takes about a megabyte, and holds two of them.
pub const MAX_SPEC: usize = 200 << 10;
/// Long enough for a swarm to see that a task runs, short enough not to matter, nanoseconds.
const MONITOR: i64 = 5_000_000;

/// A service, as the engine lists it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Service {
    /// Full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Of the object; the engine wants it with an update, and refuses one that is not the present one.
    pub version: u64,
    /// What it should be.
    pub spec: Json,
    /// What it was before; null where it was never updated.
    pub previous: Json,
    /// "updating", "completed", "paused", "rollback_started" ...; empty where it was never updated.
    pub update_state: String,
}

impl Service {
    /// Reads it leniently; None where it is no service.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        Some(Self {
            id: json["ID"].as_str()?.to_owned(),
            name: json["Spec"]["Name"].as_str()?.to_owned(),
            version: json["Version"]["Index"].as_u64()?,
            spec: json["Spec"].clone(),
            previous: json["PreviousSpec"].clone(),
            update_state: json["UpdateStatus"]["State"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// The spec of its own: the one kept in a label while a trial is there, else the present one. An error where a label is
    /// there and can't be read.
    pub fn own_spec(&self) -> Result<Json, String> {
        match kept(&self.spec) {
            None => Ok(self.spec.clone()),
            Some(own) => own,
        }
    }

    /// The label `key` of the present spec.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.spec["Labels"][key].as_str()
    }
}

/// The original kept in `spec`, if it is a trial's.
pub fn kept(spec: &Json) -> Option<Result<Json, String>> {
    let text = spec["Labels"][ORIGINAL].as_str()?;
    let own: Result<Json, _> = serde_json::from_str(text);
    // The parser's message would quote values.
    Some(match own {
        Ok(own) if own["TaskTemplate"].is_object() => Ok(own),
        _ => Err(format!("the label {ORIGINAL} holds no spec any more")),
    })
}

/// Who has the service, for the labels of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The run.
    pub run: String,
    /// The machine.
    pub host: String,
    /// The results folder.
    pub results: String,
    /// The trial's number.
    pub trial: u32,
    /// The trial's `ForceUpdate`: other than any before, so that every trial has tasks of its own, and they can be told.
    pub force: u64,
}

/// What of a spec a config sets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Change {
    /// Tasks; None: as many as the original.
    pub replicas: Option<u64>,
    /// Variables that are replaced or added.
    pub env: BTreeMap<String, String>,
    /// Limits and reservations that are replaced: cores in billionths, memory in bytes.
    pub limits: BTreeMap<LimitKey, i64>,
}

/// A limit by its place in a spec, in an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKey {
    /// Limits.NanoCPUs
    Cpus,
    /// Limits.MemoryBytes
    Memory,
    /// Reservations.NanoCPUs
    CpuReservation,
    /// Reservations.MemoryBytes
    MemoryReservation,
}

impl LimitKey {
    fn of(limit: Limit) -> Self {
        match limit {
            Limit::Cpus => Self::Cpus,
            Limit::Memory => Self::Memory,
            Limit::CpuReservation => Self::CpuReservation,
            Limit::MemoryReservation => Self::MemoryReservation,
        }
    }

    /// The table and the key.
    #[must_use]
    pub fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpus => ("Limits", "NanoCPUs"),
            Self::Memory => ("Limits", "MemoryBytes"),
            Self::CpuReservation => ("Reservations", "NanoCPUs"),
            Self::MemoryReservation => ("Reservations", "MemoryBytes"),
        }
    }

    /// What is reserved may not exceed this.
    fn ceiling(self) -> Option<Self> {
        match self {
            Self::CpuReservation => Some(Self::Cpus),
            Self::MemoryReservation => Some(Self::Memory),
            _ => None,
        }
    }

    /// In the unit of the space file: cores, MiB.
    #[allow(clippy::cast_precision_loss)]
    fn shown(self, value: i64) -> f64 {
        match self {
            Self::Cpus | Self::CpuReservation => value as f64 / 1e9,
            _ => Bytes::new(value.unsigned_abs()).mib(),
        }
    }

    /// From the unit of the space file.
    #[allow(clippy::cast_possible_truncation)]
    fn raw(self, value: f64) -> Option<i64> {
        match self {
            Self::Cpus | Self::CpuReservation => Cpus::new(value).ok().map(Cpus::nano),
            _ => Some((value * 1024.0 * 1024.0).round() as i64),
        }
    }
}

/// A limit in `spec`; None where it has none.
#[must_use]
pub fn limit(spec: &Json, key: LimitKey) -> Option<i64> {
    let (table, name) = key.place();
    spec["TaskTemplate"]["Resources"][table][name]
        .as_i64()
        .filter(|v| *v > 0)
}

/// A limit of `spec` in words: "0.5 cpus", "64 MiB".
#[must_use]
pub fn shown(spec: &Json, key: LimitKey) -> Option<String> {
    let value = limit(spec, key)?;
    Some(match key {
        LimitKey::Cpus | LimitKey::CpuReservation => format!("{} cpus", key.shown(value)),
        _ => Bytes::new(value.unsigned_abs()).to_string(),
    })
}

/// Tasks that `spec` asks for; None where it is not replicated.
#[must_use]
pub fn replicas(spec: &Json) -> Option<u64> {
    let mode = spec["Mode"]["Replicated"].as_object()?;
    Some(mode.get("Replicas").and_then(Json::as_u64).unwrap_or(1))
}

/// The counter in `spec` that makes tasks anew.
#[must_use]
pub fn force(spec: &Json) -> u64 {
    spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or(0)
}

impl Change {
    /// What `config` sets, with `added` variables that are not tuned. An error: no spec can be this config.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn of(
        parameters: &[Parameter],
        config: &Config,
        added: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut change = Self {
            env: added.clone(),
            ..Self::default()
        };
        change.env.extend(crate::sut::tuned_env(parameters, config));
        for p in parameters {
            let Some(value) = config.get(&p.name).and_then(Value::as_f64) else {
                continue;
            };
            match p.binding {
                Binding::Replicas => change.replicas = Some(value.round().clamp(1.0, 1e6) as u64),
                Binding::Limit(limit) => {
                    let key = LimitKey::of(limit);
                    let raw = key
                        .raw(value)
                        .ok_or_else(|| format!("{} = {value} is no limit", p.name))?;
                    change.limits.insert(key, raw);
                }
                Binding::Env(_) | Binding::Unbound => {}
            }
        }
        for (key, value) in &change.limits {
            if let Some(most) = key.ceiling().and_then(|c| change.limits.get(&c))
                && value > most
            {
                return Err(format!(
                    "reserves {} of a limit of {}: add [[constraints]] that keep the reservation below the limit",
                    key.shown(*value),
                    key.shown(*most)
                ));
            }
        }
        Ok(change)
    }

    /// What was read back and proves that it is live; an error names what is not.
    pub fn proof(&self, live: &Json, tuned: &[&str]) -> Result<Vec<String>, String> {
        let mut proof = Vec::new();
        let mut wrong = Vec::new();
        for (name, value) in &self.env {
            let there = env_value(live, name);
            if there != Some(value.as_str()) {
                wrong.push(name.clone());
            } else if tuned.contains(&name.as_str()) {
                proof.push(format!("{name}={value}"));
            }
        }
        for (key, value) in &self.limits {
            let (table, name) = key.place();
            let said = format!("{}.{name}={}", table.to_lowercase(), key.shown(*value));
            match limit(live, *key) == Some(*value) {
                true => proof.push(said),
                false => wrong.push(said),
            }
        }
        if let Some(n) = self.replicas {
            match replicas(live) == Some(n) {
                true => proof.push(format!("replicas={n}")),
                false => wrong.push(format!("replicas={n}")),
            }
        }
        match wrong.is_empty() {
            true => Ok(proof),
            false => Err(wrong.join(", ")),
        }
    }
}

/// Puts `value` under `path`; what is on the way and no table becomes one.
fn set(at: &mut Json, path: &[&str], value: Json) {
    let Some((first, rest)) = path.split_first() else {
        *at = value;
        return;
    };
    if !at.is_object() {
        *at = Json::Object(Map::new());
    }
    set(&mut at[*first], rest, value);
}

/// The trial's spec: `original` with `change`, with `marks`, and updated all at once. An error where that can't be.
pub fn trial(original: &Json, change: &Change, marks: &Marks) -> Result<Json, String> {
    let mut spec = original.clone();
    let kept = original.to_string();
    if kept.len() > MAX_SPEC {
        return Err(format!(
            "the service's spec has {} bytes, and at most {MAX_SPEC} can be kept in a label",
            kept.len()
        ));
    }
    for (key, value) in [
        (ORIGINAL, kept),
        (RUN, marks.run.clone()),
        (HOST, marks.host.clone()),
        (RESULTS, marks.results.clone()),
        (TRIAL, marks.trial.to_string()),
    ] {
        set(&mut spec, &["Labels", key], value.into());
    }
    // All at once, and no rollback by the swarm itself: what fails is the trial's result.
    let at_once = json!({"Parallelism": 0, "Delay": 0, "FailureAction": "pause", "Monitor": MONITOR,
        "MaxFailureRatio": 0, "Order": "stop-first"});
    set(&mut spec, &["UpdateConfig"], at_once);
    if let Some(n) = change.replicas {
        set(&mut spec, &["Mode", "Replicated", "Replicas"], n.into());
    }
    set(&mut spec, &["TaskTemplate", "ForceUpdate"], marks.force.into());
    set_limits(&mut spec, change);
    set_env(&mut spec, &change.env);
    Ok(spec)
}

fn set_limits(spec: &mut Json, change: &Change) {
    let put = |spec: &mut Json, key: LimitKey, value: i64| {
        let (table, name) = key.place();
        set(spec, &["TaskTemplate", "Resources", table, name], value.into());
    };
    for (key, value) in &change.limits {
        put(spec, *key, *value);
    }
    // What the original reserves is not tuned: no more of it than the new limit allows.
    for key in [LimitKey::CpuReservation, LimitKey::MemoryReservation] {
        let most = key.ceiling().and_then(|c| change.limits.get(&c)).copied();
        if let (Some(most), Some(reserved)) = (most, limit(spec, key))
            && reserved > most
        {
            put(spec, key, most);
        }
    }
}

fn set_env(spec: &mut Json, env: &BTreeMap<String, String>) {
    if env.is_empty() {
        return;
    }
    let path = ["TaskTemplate", "ContainerSpec", "Env"];
    let mut lines: Vec<Json> = match &spec[path[0]][path[1]][path[2]] {
        Json::Array(lines) => lines.clone(),
        _ => Vec::new(),
    };
    for (name, value) in env {
        let new = Json::String(format!("{name}={value}"));
        let mut was_there = false;
        for line in &mut lines {
            if line.as_str().is_some_and(|l| name_of(l) == name) {
                line.clone_from(&new);
                was_there = true;
            }
        }
        if !was_there {
            lines.push(new);
        }
    }
    set(spec, &path, Json::Array(lines));
}

fn name_of(line: &str) -> &str {
    line.split_once('=').map_or(line, |(n, _)| n)
}

/// The variables of `spec`, name and value.
pub fn env(spec: &Json) -> impl Iterator<Item = (&str, &str)> {
    let lines = spec["TaskTemplate"]["ContainerSpec"]["Env"].as_array();
    lines
        .into_iter()
        .flatten()
        .filter_map(|l| l.as_str()?.split_once('='))
}

fn env_value<'a>(spec: &'a Json, name: &str) -> Option<&'a str> {
    // The last one wins, as it does for the process.
    env(spec).filter(|(n, _)| *n == name).last().map(|(_, v)| v)
}

/// Values in production today, by parameter, and what could not be read.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
pub fn today(original: &Json, parameters: &[Parameter]) -> (BTreeMap<String, Value>, Vec<String>) {
    let mut values = BTreeMap::new();
    let mut unread = Vec::new();
    for p in parameters {
        let found = match &p.binding {
            Binding::Env(name) => match env_value(original, name) {
                Some(text) => typed(&p.domain, text)
                    .ok_or_else(|| format!("{name} is set to something that is no value of `{}`", p.name)),
                None => Err(format!("{name} is not set in the service's spec")),
            },
            Binding::Limit(wanted) => {
                let key = LimitKey::of(*wanted);
                limit(original, key)
                    .and_then(|v| number(&p.domain, key.shown(v)))
                    .ok_or_else(|| format!("the service has no `{}` today", limit_name(*wanted)))
            }
            Binding::Replicas => replicas(original)
                .and_then(|n| number(&p.domain, n as f64))
                .ok_or_else(|| "the service is not replicated".to_owned()),
            Binding::Unbound => continue,
        };
        match found {
            Ok(v) => {
                values.insert(p.name.clone(), v);
            }
            Err(why) => unread.push(format!("{}: {why}", p.name)),
        }
    }
    (values, unread)
}

#[allow(clippy::cast_possible_truncation)]
fn number(domain: &Domain, v: f64) -> Option<Value> {
    match domain {
        Domain::Int { .. } => Some(Value::Int(v.round() as i64)),
        Domain::Float { .. } => Some(Value::Float(v)),
        Domain::Choice { values } => values
            .iter()
            .find(|x| x.as_f64().is_some_and(|x| (x - v).abs() < 1e-9))
            .cloned(),
    }
}

/// Variables that nobody tunes and that count in the connection budget.
#[must_use]
pub fn fixed(original: &Json, parameters: &[Parameter]) -> BTreeMap<String, f64> {
    env(original)
        .filter(|(name, _)| crate::spec::counts_connections(name) && !is_tuned(parameters, name))
        .filter_map(|(name, value)| {
            let n: f64 = value.trim().parse().ok()?;
            (n.is_finite() && n >= 0.0).then(|| (name.to_owned(), n))
        })
        .collect()
}

/// Whether a parameter sets the variable.
#[must_use]
pub fn is_tuned(parameters: &[Parameter], name: &str) -> bool {
    parameters
        .iter()
        .any(|p| matches!(&p.binding, Binding::Env(n) if n == name))
}

/// The image as the spec names it.
#[must_use]
pub fn image(spec: &Json) -> &str {
    spec["TaskTemplate"]["ContainerSpec"]["Image"]
        .as_str()
        .unwrap_or("unknown")
}

/// What makes trials of one study comparable: the image, and a hash of what nobody tunes. Values of variables are left out
/// of it (their hash would tell a short one), and so are ids, which differ between two swarms with the same service.
#[must_use]
pub fn identity(original: &Json, parameters: &[Parameter]) -> String {
    let mut names: Vec<&str> = env(original)
        .map(|(n, _)| n)
        .filter(|n| !is_tuned(parameters, n))
        .collect();
    names.sort_unstable();
    let mut template = original["TaskTemplate"].clone();
    let forget = |at: &mut Json, keys: &[&str]| {
        if let Some(table) = at.as_object_mut() {
            keys.iter().for_each(|k| drop(table.remove(*k)));
        }
    };
    for p in parameters {
        if let Binding::Limit(limit) = p.binding {
            let (table, name) = LimitKey::of(limit).place();
            forget(&mut template["Resources"][table], &[name]);
        }
    }
    forget(
        &mut template["ContainerSpec"],
        &["Env", "Labels", "Secrets", "Configs"],
    );
    forget(&mut template, &["ForceUpdate", "Networks", "LogDriver"]);
    let text = json!([template, names]).to_string();
    let hash = sha2::Sha256::digest(text.as_bytes());
    let short: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("{} spec {short}", image(original))
}

#[cfg(test)]
mod tests;
