//! One event enum. The driver says what happens; console, log and live page only consume it.

use std::time::Duration;

use crate::space::Config;
use crate::trial::{Outcome, Probe, Trial, TrialPhase};

/// What happens in a run, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run begins.
    Started {
        /// Study.
        name: String,
        /// Folder of the results.
        folder: String,
        /// Trials that are there already.
        resumed: usize,
        /// Most search trials, where set.
        trials: Option<u32>,
        /// Time left, where a budget is set.
        left: Option<Duration>,
    },
    /// Something worth a line: found, given back, frozen, corrected.
    Note(String),
    /// Something that a person should look at.
    Warning(String),
    /// A trial begins.
    TrialStarted {
        /// Number.
        number: u32,
        /// Part of the run.
        phase: TrialPhase,
        /// Config.
        config: Config,
        /// Time left of the budget, where there is one.
        left: Option<Duration>,
    },
    /// The deployment answers and is proven live.
    Deployed {
        /// Number of the trial.
        trial: u32,
        /// Seconds from the call to ready.
        ready_s: f64,
    },
    /// A probe is on disk.
    ProbeFinished {
        /// Number of the trial.
        trial: u32,
        /// The probe.
        probe: Box<Probe>,
    },
    /// A trial is on disk.
    TrialFinished {
        /// The trial.
        trial: Box<Trial>,
        /// Best sustainable rate so far.
        best_rps: Option<f64>,
    },
    /// The search is over; why.
    SearchEnded(String),
    /// The finals begin with these.
    FinalsStarted(Vec<Config>),
    /// The run is over.
    Finished {
        /// What a tired person needs to know, several lines.
        summary: String,
    },
}

/// Where events go. Sinks never fail and never block for long.
pub trait Sink: Send {
    /// Takes an event.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send> Sink for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// How a trial ended, in a few words for one line.
#[must_use]
pub fn outcome_words(outcome: Option<&Outcome>) -> String {
    use crate::capacity::CapacityVerdict as V;
    match outcome {
        None => "open".to_owned(),
        Some(Outcome::Failed { failure, .. }) => format!("failed: {}", failure.name()),
        Some(Outcome::Infrastructure { .. }) => "infrastructure fault, not counted".to_owned(),
        Some(Outcome::Interrupted) => "interrupted, will be repeated".to_owned(),
        Some(Outcome::Measured { capacity: c }) => {
            let rate = c.sustainable_rps.unwrap_or(0.0);
            match c.verdict {
                V::Sustainable => format!("{rate:.1} rps"),
                V::AtLeast => format!("at least {rate:.1} rps (maximum asked)"),
                V::GeneratorLimited if rate <= 0.0 => "nothing measured (the generator's limit)".to_owned(),
                V::GeneratorLimited => format!("at least {rate:.1} rps (the generator's limit)"),
                V::AtMost => format!("at most {:.1} rps (race lost)", c.interval_rps[1]),
                V::None => "sustains nothing".to_owned(),
            }
        }
    }
}
