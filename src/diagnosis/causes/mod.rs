//! The causes. Each looks at the evidence by itself and says how strongly it speaks for it, 0..=1, with the figures.
//! Thresholds are those of docs/diagnosis.md, from runs on a real stack; a ramp stands between "no" and "yes" so that
//! no figure decides by a hair.

mod answers;
mod machine;
mod pools;

use super::Code;
use super::evidence::Reading;

/// What a cause found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) code: Code,
    /// 0..=1.
    pub(super) strength: f64,
    /// Somebody named the cause: an error text, an event, a status that means only this.
    pub(super) witnessed: bool,
    /// Something that could contradict it was not looked at: never of high confidence.
    pub(super) blind: bool,
    pub(super) figures: Vec<String>,
}

impl Finding {
    fn new(code: Code, strength: f64) -> Self {
        Self {
            code,
            strength: if strength.is_nan() {
                0.0
            } else {
                strength.clamp(0.0, 1.0)
            },
            witnessed: false,
            blind: false,
            figures: Vec::new(),
        }
    }

    fn witnessed(mut self, yes: bool) -> Self {
        self.witnessed = yes;
        self
    }

    fn blind(mut self, yes: bool) -> Self {
        self.blind = yes;
        self
    }

    fn figure(mut self, text: String) -> Self {
        self.figures.push(text);
        self
    }

    fn figure_if(self, yes: bool, text: impl FnOnce() -> String) -> Self {
        if yes { self.figure(text()) } else { self }
    }
}

pub(super) fn all(r: &Reading<'_>) -> Vec<Finding> {
    [
        pools::pool_wait,
        pools::pool_too_large,
        pools::database_locks,
        pools::max_connections,
        machine::cpu_quota,
        machine::one_core,
        machine::memory,
        answers::broken_mix,
        answers::rate_limiter,
        machine::accept_queue,
        machine::generator,
        pools::redis_pool,
        machine::host_cpu,
        pools::database,
        answers::failing_service,
    ]
    .iter()
    .filter_map(|cause| cause(r))
    .filter(|f| f.strength > 0.0)
    .collect()
}

/// 0 up to `low`, 1 from `high`, a line between.
fn ramp(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() {
        return 0.0;
    }
    ((x - low) / (high - low)).clamp(0.0, 1.0)
}

fn pct(x: f64) -> String {
    format!("{:.0} %", x * 100.0)
}
