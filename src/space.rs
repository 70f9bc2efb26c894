//! The search space: parameters, their domains and bindings, constraints, cost; and a config, one point of it.
//!
//! Pure. What a config *does* to a container is `sut`'s business; which config to try is `optimizer`'s.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::expr::{Expr, ExprError, Kind};

mod legal;

pub use legal::{LegalShare, all_configs, legal_share, samples};

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

impl Value {
    /// The value as a number, where it is one.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(i) => Some(*i as f64),
            Self::Float(x) => Some(*x),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    /// As the environment variable has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// The values a parameter may take. Bounds are inclusive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Whole numbers from `low` by `step`.
    Int {
        /// Smallest value.
        low: i64,
        /// Largest value.
        high: i64,
        /// Distance between neighbours, at least 1.
        step: i64,
        /// Equal ratios are equal distances.
        log: bool,
    },
    /// Numbers, on a grid from `low` where `step` is given.
    Float {
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
        /// Distance between neighbours.
        step: Option<f64>,
        /// Equal ratios are equal distances.
        log: bool,
    },
    /// One of a few values without an order.
    Choice {
        /// The values, at least one.
        values: Vec<Value>,
    },
}

impl fmt::Display for Domain {
    /// "1 to 50 by 5", "0.25 to 4", "on, off".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int {
                low, high, step: 1, ..
            } => write!(f, "{low} to {high}"),
            Self::Int { low, high, step, .. } => write!(f, "{low} to {high} by {step}"),
            Self::Float {
                low,
                high,
                step: None,
                ..
            } => write!(f, "{low} to {high}"),
            Self::Float {
                low,
                high,
                step: Some(s),
                ..
            } => write!(f, "{low} to {high} by {s}"),
            Self::Choice { values } => {
                let shown: Vec<String> = values.iter().map(ToString::to_string).collect();
                f.write_str(&shown.join(", "))
            }
        }
    }
}

/// How a scale turns a value into 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
    /// ln(1 + x), for log scales that begin at 0.
    Log1p,
}

impl Scale {
    fn to(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::Log => x.max(f64::MIN_POSITIVE).ln(),
            Self::Log1p => x.max(0.0).ln_1p(),
        }
    }
    fn from(self, y: f64) -> f64 {
        match self {
            Self::Linear => y,
            Self::Log => y.exp(),
            Self::Log1p => y.exp_m1(),
        }
    }
}

impl Domain {
    /// Number of different values; None where it is not countable.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Int { low, high, step, .. } => {
                Some(u64::try_from((high - low) / (*step).max(1)).unwrap_or(0) + 1)
            }
            Self::Float {
                low,
                high,
                step: Some(s),
                ..
            } => Some(((high - low) / s + 1e-6).floor() as u64 + 1),
            Self::Float { step: None, .. } => None,
            Self::Choice { values } => Some(values.len() as u64),
        }
    }

    /// Whether `value` is one of the domain's.
    #[must_use]
    pub fn contains(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int { low, high, step, .. }, Value::Int(v)) => {
                low <= v && v <= high && (v - low) % (*step).max(1) == 0
            }
            (Self::Float { low, high, step, .. }, v) => v.as_f64().is_some_and(|x| {
                let on_grid = step.is_none_or(|s| {
                    let k = (x - low) / s;
                    (k - k.round()).abs() < 1e-6
                });
                *low <= x && x <= *high && on_grid
            }),
            (Self::Choice { values }, v) => values.contains(v),
            (Self::Int { .. }, _) => false,
        }
    }

    fn scale(&self) -> Scale {
        match self {
            Self::Int { low, log: true, .. } if *low <= 0 => Scale::Log1p,
            Self::Float { low, log: true, .. } if *low <= 0.0 => Scale::Log1p,
            Self::Int { log: true, .. } | Self::Float { log: true, .. } => Scale::Log,
            _ => Scale::Linear,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn bounds(&self) -> (f64, f64) {
        match self {
            Self::Int { low, high, .. } => (*low as f64, *high as f64),
            Self::Float { low, high, .. } => (*low, *high),
            Self::Choice { values } => (0.0, values.len() as f64),
        }
    }

    /// The `k`-th value from the lowest, on a grid; None beyond it and where it is not countable.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn nth(&self, k: u64) -> Option<Value> {
        if k >= self.size()? {
            return None;
        }
        match self {
            Self::Int { low, step, .. } => Some(Value::Int(low + i64::try_from(k).ok()? * (*step).max(1))),
            Self::Float { low, high, step, .. } => Some(Value::Float(
                decimal(low + k as f64 * step.as_ref()?).clamp(*low, *high),
            )),
            Self::Choice { values } => values.get(usize::try_from(k).ok()?).cloned(),
        }
    }

    /// `value` in the type of this domain: a text such as an environment variable's, or a whole number where
    /// fractions are allowed. None where it is not one of the domain's values.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn adopt(&self, value: &Value) -> Option<Value> {
        let typed = match (self, value) {
            (Self::Choice { values }, v) => {
                let shown = v.to_string();
                values.iter().find(|x| *x == v || x.to_string() == shown)?.clone()
            }
            (Self::Int { .. }, Value::Text(t)) => Value::Int(t.trim().parse().ok()?),
            (Self::Int { .. }, Value::Float(x)) if x.fract() == 0.0 && x.abs() < 9e15 => {
                Value::Int(*x as i64)
            }
            (Self::Float { .. }, Value::Text(t)) => Value::Float(t.trim().parse().ok()?),
            (Self::Float { .. }, v) => Value::Float(v.as_f64()?),
            (Self::Int { .. }, v) => v.clone(),
        };
        self.contains(&typed).then_some(typed)
    }

    /// Where `value` lies in the unit interval; a choice is at the middle of its cell.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn encode(&self, value: &Value) -> f64 {
        if let Self::Choice { values } = self {
            let i = values.iter().position(|v| v == value).unwrap_or(0);
            return (i as f64 + 0.5) / values.len().max(1) as f64;
        }
        let (s, (low, high)) = (self.scale(), self.bounds());
        let span = s.to(high) - s.to(low);
        if span <= 0.0 {
            return 0.5;
        }
        ((s.to(value.as_f64().unwrap_or(low)) - s.to(low)) / span).clamp(0.0, 1.0)
    }

    /// The value nearest to `u` of the unit interval, on the grid.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn decode(&self, u: f64) -> Value {
        let u = if u.is_nan() { 0.5 } else { u.clamp(0.0, 1.0) };
        let (sc, (lo, hi)) = (self.scale(), self.bounds());
        let x = || sc.from(sc.to(lo) + u * (sc.to(hi) - sc.to(lo)));
        match self {
            Self::Choice { values } => {
                let i = ((u * values.len() as f64) as usize).min(values.len().saturating_sub(1));
                values.get(i).cloned().unwrap_or(Value::Bool(false))
            }
            Self::Int { low, high, step, .. } => {
                let step = (*step).max(1);
                let k = ((x() - lo) / step as f64).round() as i64;
                Value::Int((low + k * step).clamp(*low, low + (high - low) / step * step))
            }
            Self::Float { low, high, step, .. } => {
                let v = match step {
                    Some(s) => {
                        let k = ((x() - low) / s).round().min(((high - low) / s + 1e-6).floor());
                        decimal(low + k * s)
                    }
                    None => x(),
                };
                Value::Float(v.clamp(*low, *high))
            }
        }
    }
}

/// Grids are typed in decimals (0.25, 0.1): undoes the binary tail that would show in files, 13 digits are kept.
fn decimal(x: f64) -> f64 {
    format!("{x:.12e}").parse().unwrap_or(x)
}

/// A limit of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// CPU quota in cores.
    Cpus,
    /// Memory limit in MiB; swap is set to the same.
    Memory,
    /// CPU reservation (shares) in cores.
    CpuReservation,
    /// Memory reservation in MiB.
    MemoryReservation,
}

/// What a parameter sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// An environment variable of the service.
    Env(String),
    /// A limit of the container.
    Limit(Limit),
    /// The number of instances.
    Replicas,
    /// Nothing here: somebody else deploys (`ask` and `tell`).
    Unbound,
}

/// A named dimension of the space.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Name in the file, in CSV columns and in expressions.
    pub name: String,
    /// Its values.
    pub domain: Domain,
    /// The value in production today.
    pub baseline: Value,
    /// What it sets.
    pub binding: Binding,
    /// It exists only where this holds.
    pub only_if: Option<Expr>,
}

/// A condition that every config keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// The condition.
    pub that: Expr,
    /// Why, for people.
    pub why: String,
}

/// One point of the space: the values of its active parameters, by name.
#[derive(Debug, Clone, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(BTreeMap<String, Value>);

impl Config {
    /// The value of `name`, where it is active.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Takes a value out.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All values in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// A text that is equal exactly for equal configs: compact JSON, so that a text with a space or an equals
    /// sign is not taken for another config.
    #[must_use]
    pub fn key(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.to_string())
    }
}

impl FromIterator<(String, Value)> for Config {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (k, v)) in self.0.iter().enumerate() {
            let gap = if i > 0 { " " } else { "" };
            write!(f, "{gap}{k}={v}")?;
        }
        Ok(())
    }
}

/// Parameters, constraints and cost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Space {
    /// In the order of the file.
    pub parameters: Vec<Parameter>,
    /// Kept by every config that is proposed.
    pub constraints: Vec<Constraint>,
    /// What a config costs, where that was said.
    pub cost: Option<Expr>,
}

/// What a config does wrong.
enum Broken<'a> {
    Outside(&'a str, &'a Value),
    Inactive(&'a str),
    Missing(&'a str),
    Unknown(&'a str),
    Rule(&'a Constraint),
    Undecided(&'a Constraint, ExprError),
}

/// Coordinates of a config: one in 0..=1 for each parameter, in the order of the space.
pub type Point = Vec<f64>;

impl Space {
    /// Today's configuration, without the parameters that are not active in it.
    #[must_use]
    pub fn baseline(&self) -> Config {
        let full = self
            .parameters
            .iter()
            .map(|p| (p.name.clone(), p.baseline.clone()))
            .collect();
        self.without_inactive(full)
    }

    /// The config at `point`, snapped to the grids, without inactive parameters. It may break a constraint.
    #[must_use]
    pub fn decode(&self, point: &[f64]) -> Config {
        let full = self
            .parameters
            .iter()
            .enumerate()
            .map(|(i, p)| {
                (
                    p.name.clone(),
                    p.domain.decode(point.get(i).copied().unwrap_or(0.5)),
                )
            })
            .collect();
        self.without_inactive(full)
    }

    /// Coordinates of `config`; an inactive parameter lies at 0.5.
    #[must_use]
    pub fn encode(&self, config: &Config) -> Point {
        self.parameters
            .iter()
            .map(|p| config.get(&p.name).map_or(0.5, |v| p.domain.encode(v)))
            .collect()
    }

    /// Takes the parameters out whose condition does not hold, in file order, so that conditions may chain.
    fn without_inactive(&self, mut config: Config) -> Config {
        for p in &self.parameters {
            if let Some(e) = &p.only_if
                && !e.truth(&config).unwrap_or(false)
            {
                config.remove(&p.name);
            }
        }
        config
    }

    /// Whether `config` has exactly its active parameters, each in its domain, and keeps every constraint.
    #[must_use]
    pub fn is_legal(&self, config: &Config) -> bool {
        self.broken(config).is_none()
    }

    /// The first rule that `config` breaks, in words.
    #[must_use]
    pub fn violation(&self, config: &Config) -> Option<String> {
        Some(match self.broken(config)? {
            Broken::Outside(name, v) => format!("{name} = {v} is outside its range"),
            Broken::Inactive(name) => format!("{name} is not active here"),
            Broken::Missing(name) => format!("{name} is missing"),
            Broken::Unknown(name) => format!("{name} is not a parameter of this space"),
            Broken::Rule(c) => {
                let sum = c
                    .that
                    .sides(config)
                    .map_or(String::new(), |(l, r)| format!(" ({l} against {r})"));
                format!("`{}` does not hold{sum}: {}", c.that.text(), c.why)
            }
            Broken::Undecided(c, e) => format!("`{}`: {e}", c.that.text()),
        })
    }

    /// The first rule that `config` breaks. Searches ask this of thousands of configs, most of them illegal
    /// under a tight constraint: the sentence is made only where somebody reads it.
    fn broken<'a>(&'a self, config: &'a Config) -> Option<Broken<'a>> {
        for p in &self.parameters {
            let active = p
                .only_if
                .as_ref()
                .is_none_or(|e| e.truth(config).unwrap_or(false));
            match (config.get(&p.name), active) {
                (Some(v), true) if !p.domain.contains(v) => return Some(Broken::Outside(&p.name, v)),
                (Some(_), false) => return Some(Broken::Inactive(&p.name)),
                (None, true) => return Some(Broken::Missing(&p.name)),
                _ => {}
            }
        }
        if let Some((name, _)) = config
            .iter()
            .find(|(n, _)| self.parameters.iter().all(|p| p.name != *n))
        {
            return Some(Broken::Unknown(name));
        }
        self.constraints.iter().find_map(|c| match c.that.truth(config) {
            Ok(true) => None,
            Ok(false) => Some(Broken::Rule(c)),
            Err(e) => Some(Broken::Undecided(c, e)),
        })
    }

    /// Cost of `config`; None without a cost expression.
    pub fn cost_of(&self, config: &Config) -> Result<Option<f64>, ExprError> {
        self.cost.as_ref().map(|e| e.number(config)).transpose()
    }

    /// Number of points of the grid, legal or not; None where a parameter is continuous or it overflows.
    #[must_use]
    pub fn grid_size(&self) -> Option<u64> {
        self.parameters
            .iter()
            .try_fold(1_u64, |n, p| n.checked_mul(p.domain.size()?))
    }

    /// The names that expressions may use, each with the kind of its values.
    #[must_use]
    pub fn names(parameters: &[Parameter]) -> Vec<(String, Kind)> {
        parameters
            .iter()
            .map(|p| {
                let kind = match &p.domain {
                    Domain::Choice { values } if values.iter().any(|v| matches!(v, Value::Text(_))) => {
                        Kind::Text
                    }
                    Domain::Choice { values } if values.iter().any(|v| matches!(v, Value::Bool(_))) => {
                        Kind::Bool
                    }
                    _ => Kind::Number,
                };
                (p.name.clone(), kind)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
