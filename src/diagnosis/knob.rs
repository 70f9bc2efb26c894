//! The knobs: which kind a parameter is, whether moving one alone did anything, and which to move next.

use serde::{Deserialize, Serialize};

use crate::noise::Noise;
use crate::space::{Binding, Limit, Parameter};

use super::{Code, Facts};

/// What a parameter does, as far as its binding and its name tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnobKind {
    /// Connections of the database pool.
    Pool,
    /// Connections beyond the pool's size.
    Overflow,
    /// Wait for a connection, seconds.
    PoolTimeout,
    /// Processes or threads of one instance.
    Workers,
    /// Instances.
    Replicas,
    /// CPU quota.
    Cpus,
    /// Memory limit.
    Memory,
    /// Connections of the Redis pool.
    RedisPool,
    /// Listen queue.
    Backlog,
    /// Anything else.
    Other,
}

impl KnobKind {
    /// Of a parameter.
    #[must_use]
    pub fn of(parameter: &Parameter) -> Self {
        match &parameter.binding {
            Binding::Limit(Limit::Cpus) => Self::Cpus,
            Binding::Limit(Limit::Memory) => Self::Memory,
            Binding::Limit(_) => Self::Other,
            Binding::Replicas => Self::Replicas,
            Binding::Env(name) => Self::of_name(name),
            Binding::Unbound => Self::of_name(&parameter.name),
        }
    }

    /// Of a name, as people call these things: `POOL_SIZE`, `DB_MAX_OVERFLOW`, `SQLALCHEMY_POOL_TIMEOUT`, `WEB_CONCURRENCY`.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let n = name.to_ascii_lowercase();
        let has = |part: &str| n.contains(part);
        if has("redis") || has("cache_conn") {
            if has("conn") || has("pool") {
                Self::RedisPool
            } else {
                Self::Other
            }
        } else if has("overflow") {
            Self::Overflow
        } else if has("pool") && has("timeout") {
            Self::PoolTimeout
        } else if n == "pool"
            || has("pool_size")
            || has("poolsize")
            || has("pool_max")
            || has("max_pool")
            || has("maximum_pool")
        {
            Self::Pool
        } else if has("worker") || has("web_concurrency") || has("processes") {
            Self::Workers
        } else if has("replica") || has("instances") {
            Self::Replicas
        } else if has("backlog") {
            Self::Backlog
        } else if n == "cpus" || n == "cpu" {
            Self::Cpus
        } else if n == "memory" || n == "memory_mb" {
            Self::Memory
        } else {
            Self::Other
        }
    }
}

/// Something that can be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knob {
    /// The parameter's name.
    pub name: String,
    /// What it does.
    pub kind: KnobKind,
    /// Its value in this trial.
    pub value: Option<String>,
    /// Why it can't go up by a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_room_up: Option<String>,
    /// Why it can't go down by a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_room_down: Option<String>,
}

/// What to move for `code`, in words. Falls back to what the user would have to add to the search.
pub(super) fn next(code: Code, facts: &Facts) -> Option<String> {
    let (verb, kinds, otherwise): (&str, &[KnobKind], Option<&str>) = match code {
        Code::PoolWait => (
            "raise",
            &[KnobKind::Pool],
            Some("a larger pool, or shorter holds of its connections"),
        ),
        Code::PoolTooLarge => (
            "lower",
            &[KnobKind::Pool, KnobKind::Overflow],
            Some("a smaller pool"),
        ),
        Code::DatabaseLocks => {
            return Some("shorter transactions on the contended rows (the application)".to_owned());
        }
        Code::MaxConnections => (
            "lower",
            &[KnobKind::Pool, KnobKind::Overflow, KnobKind::Workers],
            Some("pool x workers x replicas below max_connections"),
        ),
        Code::CpuQuota => ("raise", &[KnobKind::Cpus], Some("a larger CPU quota")),
        Code::OneCore => (
            "raise",
            &[KnobKind::Workers, KnobKind::Replicas],
            Some("more workers or replicas"),
        ),
        Code::Memory => (
            "raise",
            &[KnobKind::Memory],
            Some("a larger memory limit, or less memory a request"),
        ),
        Code::BrokenMix => return Some("the requests of [load] that always fail".to_owned()),
        Code::RateLimiter => {
            return Some("the limiter's own setting, or a test key that is exempt from it".to_owned());
        }
        Code::AcceptQueue => (
            "raise",
            &[KnobKind::Backlog],
            Some("backlog, somaxconn and the limit of open files"),
        ),
        Code::Generator => return Some("[load] connections, or more CPU for the generator".to_owned()),
        Code::RedisPool => ("raise", &[KnobKind::RedisPool], Some("more Redis connections")),
        Code::HostCpu => return Some("a larger machine, or the database on another one".to_owned()),
        Code::Database => return Some("the queries, or a larger database".to_owned()),
        Code::FailingService => return Some("what the service needs: look at its log".to_owned()),
        Code::Several | Code::NotReached | Code::Unknown => return None,
    };
    let mine = kinds
        .iter()
        .find_map(|k| facts.knobs.iter().find(|knob| knob.kind == *k));
    match mine {
        Some(k) => {
            let wanted = match &k.value {
                Some(v) => format!("{verb} {} ({v} now)", k.name),
                None => format!("{verb} {}", k.name),
            };
            let no_room = if verb == "raise" {
                &k.no_room_up
            } else {
                &k.no_room_down
            };
            Some(match no_room {
                Some(why) => format!("{wanted}, for which this space has no room: {why}"),
                None => wanted,
            })
        }
        None => otherwise.map(|o| format!("{o} (not among the parameters)")),
    }
}

/// The kinds of knob that move what `code` names, in one direction or the other.
pub(super) fn moved_by(code: Code) -> &'static [KnobKind] {
    use KnobKind as K;
    match code {
        Code::PoolWait | Code::PoolTooLarge | Code::MaxConnections | Code::Database | Code::HostCpu => {
            &[K::Pool, K::Overflow, K::Workers, K::Replicas]
        }
        Code::CpuQuota => &[K::Cpus, K::Replicas],
        Code::OneCore => &[K::Workers, K::Replicas],
        Code::Memory => &[K::Memory, K::Pool, K::Overflow, K::Workers],
        Code::AcceptQueue => &[K::Backlog, K::Workers, K::Replicas],
        Code::RedisPool => &[K::RedisPool, K::Workers, K::Replicas],
        Code::DatabaseLocks
        | Code::BrokenMix
        | Code::RateLimiter
        | Code::Generator
        | Code::Several
        | Code::NotReached
        | Code::Unknown
        | Code::FailingService => &[],
    }
}

/// Whether a knob of this kind should help against `code`, and in which direction: true is up.
pub(super) fn helps(code: Code, kind: KnobKind) -> Option<bool> {
    use KnobKind as K;
    match (code, kind) {
        (Code::PoolWait, K::Pool)
        | (Code::CpuQuota, K::Cpus)
        | (Code::OneCore, K::Workers | K::Replicas)
        | (Code::Memory, K::Memory)
        | (Code::AcceptQueue, K::Backlog)
        | (Code::RedisPool, K::RedisPool) => Some(true),
        (Code::PoolTooLarge | Code::MaxConnections, K::Pool) => Some(false),
        _ => None,
    }
}

/// Nothing that is tuned moves it, whatever the parameters are.
#[must_use]
pub fn is_beyond_tuning(code: Code) -> bool {
    matches!(
        code,
        Code::DatabaseLocks | Code::BrokenMix | Code::RateLimiter | Code::Generator | Code::FailingService
    )
}

/// One end of a knob: its value and what was measured there.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// As the file has it.
    pub value: String,
    /// Sustainable rates, one a repeat; empty when the config did not work at all.
    pub rates: Vec<f64>,
}

/// Whether moving a knob did anything.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It did, beyond the noise: the high end's rate over the low end's (0 or infinite when one end did not work).
    Live {
        /// High over low.
        ratio: f64,
    },
    /// It did not, and a gain of `detectable` would have shown.
    None {
        /// High over low.
        ratio: f64,
        /// Smallest relative change that would have been seen.
        detectable: f64,
    },
    /// Neither can be said: too few measurements for this noise.
    Unclear {
        /// High over low.
        ratio: f64,
        /// Smallest relative change that would have been seen.
        detectable: f64,
    },
}

impl Effect {
    /// For people: "pool_size changes nothing between 2 and 50: is POOL_SIZE read?".
    #[must_use]
    pub fn sentence(&self, knob: &str, env: Option<&str>, low: &Side, high: &Side) -> String {
        let (a, b) = (&low.value, &high.value);
        match self {
            Self::Live { ratio } => {
                format!("{knob} is live: from {a} to {b} the rate changes by a factor of {ratio:.2}")
            }
            Self::None { detectable, .. } => {
                let read = env.map_or_else(|| "is it applied?".to_owned(), |e| format!("is {e} read?"));
                format!(
                    "{knob} changes nothing between {a} and {b} (a change of {:.0} % would have shown): {read}",
                    detectable * 100.0
                )
            }
            Self::Unclear { ratio, detectable } => format!(
                "{knob} between {a} and {b}: {:+.0} %, within what noise does ({:.0} %)",
                (ratio - 1.0) * 100.0,
                detectable * 100.0
            ),
        }
    }
}

/// A knob counts as without effect only when a change this large would have shown.
const WORTH_SEEING: f64 = 0.20;

/// Compares the extremes of a knob, everything else being equal: live, no effect beyond the noise, or not to be said.
/// Pure arithmetic on logarithms of rates, whose spread is what `noise` was measured on.
#[must_use]
pub fn compare_knob(low: &Side, high: &Side, noise: &Noise) -> Effect {
    match (mean_ln(&low.rates), mean_ln(&high.rates)) {
        (None, None) => Effect::Unclear {
            ratio: 1.0,
            detectable: f64::INFINITY,
        },
        // An end that does not work at all is an effect.
        (None, Some(_)) => Effect::Live { ratio: f64::INFINITY },
        (Some(_), None) => Effect::Live { ratio: 0.0 },
        (Some(a), Some(b)) => {
            let ratio = (b - a).exp();
            let (n, m) = (low.rates.len(), high.rates.len());
            let detectable = noise.detectable(n, m);
            if (b - a).abs() > noise.margin(n, m) {
                Effect::Live { ratio }
            } else if detectable <= WORTH_SEEING {
                Effect::None { ratio, detectable }
            } else {
                Effect::Unclear { ratio, detectable }
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn mean_ln(rates: &[f64]) -> Option<f64> {
    let lns: Vec<f64> = rates
        .iter()
        .filter(|r| r.is_finite() && **r > 0.0)
        .map(|r| r.ln())
        .collect();
    (!lns.is_empty()).then(|| lns.iter().sum::<f64>() / lns.len() as f64)
}
