//! The capacity search: the highest rate that a service sustains, as a pure state machine over probes.
//!
//! `next_step(plan, probes)` says what to do next or what was found; replaying the stored probes gives the
//! same answer. It never waits, measures or deploys; `probing` executes its steps, `study` and `cli` call that.
//!
//! [`judge`]: did one probe carry its rate? [`Watch`]: may it stop early? `posterior`: what all probes say together.
//! `reading`: where the search stands. `search`: what to do next, `windows`: for how long. `conclusion`: the answer. [`simulated`]: services of arithmetic to try all that on.

mod conclusion;
mod judge;
mod posterior;
mod reading;
mod search;
pub mod simulated;
mod watch;
mod windows;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use conclusion::{GENERATOR_LIMITED, conclude};
pub use judge::{Judgement, judge};
pub use reading::judged_loss;
pub use search::next_step;
pub use watch::Watch;
pub use windows::after_restart;

use crate::slo::Slo;
use crate::units::{Ratio, Rps};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbePhase {
    /// A minimal rate: idle latency, error shape.
    Idle,
    /// A modest rate until the medians settle.
    WarmUp,
    /// Steps up.
    Growth,
    /// Between bounds.
    Refine,
    /// Full length, the one that counts.
    Confirm,
    /// First question of a race: does it beat the incumbent at all?
    Race,
}

/// What the search is asked to find, and within which limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The objective.
    pub slo: Slo,
    /// A guess of the answer (neighbouring configs), where there is one.
    pub prior: Option<Rps>,
    /// The incumbent's rate: with it, the search is a race.
    pub incumbent: Option<Rps>,
    /// Lowest rate worth asking.
    pub min: Rps,
    /// Never offer more.
    pub max: Rps,
    /// Relative width at which refinement stops.
    pub precision: Ratio,
    /// Length of the confirmation window.
    pub confirm: Duration,
    /// Longest warm-up.
    pub warm_up: Duration,
    /// Judge by error responses alone, for comparison.
    pub errors_only: bool,
    /// Most probes; a bound on the loop.
    pub max_probes: u32,
}

impl Plan {
    /// The plan of a search that is told nothing but the objective: 30 s of confirmation, 3 % precision.
    #[must_use]
    pub fn new(slo: Slo, max: Rps) -> Self {
        Self {
            slo,
            prior: None,
            incumbent: None,
            min: Rps::saturating(1.0_f64.min(max.get())),
            max,
            precision: Ratio::saturating(0.03),
            confirm: Duration::from_secs(30),
            warm_up: Duration::from_secs(30),
            errors_only: false,
            max_probes: 120,
        }
    }
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Offer a rate.
    Probe(ProbePlan),
    /// The service did not recover: deploy it again, then go on.
    Restart {
        /// The rate that tripped it.
        tripped_at: Rps,
    },
    /// Finished.
    Done(Capacity),
}

/// One probe to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbePlan {
    /// What it is for.
    pub phase: ProbePhase,
    /// The rate to offer.
    pub rate: Rps,
    /// Measured window.
    pub window: Duration,
    /// Discarded before the window, at the same rate.
    pub lead_in: Duration,
    /// Longest wait afterwards for nothing in flight.
    pub drain: Duration,
    /// Median latency of the idle service, milliseconds, where it is known: what may be in flight without a queue,
    /// and what "back to normal" means.
    pub idle_ms: Option<f64>,
}

impl ProbePlan {
    /// A probe without lead-in, with half a minute to drain.
    #[must_use]
    pub fn new(phase: ProbePhase, rate: Rps, window: Duration) -> Self {
        Self {
            phase,
            rate,
            window,
            lead_in: Duration::ZERO,
            drain: Duration::from_secs(30),
            idle_ms: None,
        }
    }
}

/// Kind of answer; `AtMost` is a race cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacityVerdict {
    /// Found and confirmed.
    Sustainable,
    /// The maximum rate was reached while all was well.
    AtLeast,
    /// The generator could not drive more.
    GeneratorLimited,
    /// A race that was clearly lost.
    AtMost,
    /// Not even the lowest rate.
    None,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Kind of answer.
    pub verdict: CapacityVerdict,
    /// Highest rate that passed a confirmation, requests per second.
    pub sustainable_rps: Option<f64>,
    /// Goodput at that probe, requests per second.
    pub goodput_rps: f64,
    /// 90 % interval of the sustainable rate, requests per second.
    pub interval_rps: [f64; 2],
    /// Upper 95 % bound of the loss at the confirmation.
    pub error_ratio_upper: f64,
    /// Highest rate that was offered, requests per second.
    pub peak_offered_rps: f64,
    /// Number of the probe that confirmed it.
    pub confirmed_by: Option<u32>,
    /// Words: why it ended, what was noticed (METASTABLE, policy, never settled ...).
    pub reasons: Vec<String>,
}
