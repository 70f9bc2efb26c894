//! The study's records: a probe, a trial, how it ended, and the history that the optimizer sees.
//!
//! Data and small readings of it; `store` keeps it, `study` makes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, ProbePhase};
use crate::measurement::Measurement;
use crate::slo::Verdict;
use crate::space::Config;

/// One offered rate held for a window, as it was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Number within its trial, from 1.
    pub number: u32,
    /// What it was for.
    pub phase: ProbePhase,
    /// What was measured.
    pub measurement: Measurement,
    /// The judgement.
    pub verdict: Verdict,
    /// Why, in a few words.
    pub reason: String,
    /// Upper 95 % bound of the goodput loss.
    pub loss_upper: f64,
    /// Whether the service was back near idle after the drain; None when it was not looked at.
    #[serde(default)]
    pub recovered: Option<bool>,
    /// Figures sampled meanwhile (CPU, memory, backends ...), by the documented names of `telemetry`.
    #[serde(default)]
    pub telemetry: BTreeMap<String, f64>,
}

/// What a trial is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialPhase {
    /// Today's configuration, first.
    Baseline,
    /// Asked from the optimizer.
    Search,
    /// The baseline again, to see drift.
    Anchor,
    /// Measured again for the decision.
    Final,
    /// A knob moved alone, to prove that it is live or that it binds.
    Knob,
}

impl TrialPhase {
    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Search => "search",
            Self::Anchor => "anchor",
            Self::Final => "final",
            Self::Knob => "knob",
        }
    }
}

/// Why a config is bad in itself: shown to the optimizer as infeasible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Killed for its memory limit, the main process or a child.
    Oom,
    /// Exited by itself.
    Crash,
    /// Did not answer `ready` within its budget.
    NeverReady,
    /// Health flapped, or it restarted, under load.
    Unstable,
    /// The database refused more connections.
    TooManyClients,
    /// No rate was sustained at all.
    NoCapacity,
    /// Told by somebody else's tool.
    Told,
}

impl Failure {
    /// For people: what happened to the service.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Oom => "out of memory",
            Self::Crash => "it ended by itself",
            Self::NeverReady => "it never got ready",
            Self::Unstable => "it was restarted or flapped under load",
            Self::TooManyClients => "the database refused more connections",
            Self::NoCapacity => "it sustained no rate at all",
            Self::Told => "told as failed",
        }
    }

    /// What is to be looked at where it is today's configuration that fails.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Oom => "give it the memory that it has in production, or look for a leak at its start",
            Self::Crash => {
                "run it by hand with these variables; a variable or a service that it needs may be missing"
            }
            Self::NeverReady => {
                "look whether `ready` in [sut] names the path and port that it answers on, or give it more time: \
                 ready = { path = \"/ready\", timeout = \"60s\" }"
            }
            Self::Unstable => {
                "it must stay up under the load of [capacity] start before anything can be tuned"
            }
            Self::TooManyClients => {
                "its pools want more connections than the database gives: lower them, or raise max_connections"
            }
            Self::NoCapacity | Self::Told => "look at its log, and at [load] and [slo]",
        }
    }

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::Crash => "crash",
            Self::NeverReady => "never_ready",
            Self::Unstable => "unstable",
            Self::TooManyClients => "too_many_clients",
            Self::NoCapacity => "no_capacity",
            Self::Told => "told",
        }
    }
}

/// How a trial ended. Four different things (invariant 3): the first two are shown to the optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// A capacity was found, or bounded.
    Measured {
        /// The search's verdict.
        capacity: Capacity,
    },
    /// The config itself does not work.
    Failed {
        /// How.
        failure: Failure,
        /// Exit code, last log lines: redacted and bounded.
        detail: String,
    },
    /// Docker, the database or the machine was away: says nothing about the config.
    Infrastructure {
        /// What was away.
        detail: String,
    },
    /// The tool was stopped or killed inside the trial.
    Interrupted,
}

/// A finished or open trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number within the study, from 1.
    pub number: u32,
    /// Part of the run.
    pub phase: TrialPhase,
    /// What was deployed.
    pub config: Config,
    /// How it ended; None while it is open.
    pub outcome: Option<Outcome>,
    /// In order.
    pub probes: Vec<Probe>,
    /// RFC 3339, UTC, for people; never used for durations.
    pub started_at: String,
    /// From its beginning to its end, monotonic seconds.
    pub seconds: f64,
    /// The final round it belongs to, where it does.
    #[serde(default)]
    pub round: Option<u32>,
    /// The host that ran it.
    #[serde(default)]
    pub host: String,
    /// What binds, as the diagnosis found it; a code of docs/diagnosis.md.
    #[serde(default)]
    pub binding: Option<String>,
}

/// What a trial tells the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Sustainable rate with its interval, requests per second.
    Rate {
        /// Point.
        rps: f64,
        /// Lower end of the 90 % interval.
        lo: f64,
        /// Upper end.
        hi: f64,
    },
    /// Carries at least this (generator or maximum reached).
    AtLeast(f64),
    /// Carries at most this (race lost).
    AtMost(f64),
    /// Infeasible.
    Failed,
    /// Asked and not yet told.
    Pending,
}

/// One line of the optimizer's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The config.
    pub config: Config,
    /// What is known of it.
    pub seen: Seen,
    /// The phase of its trial: the optimizer tells replicates and anchors from its own asks.
    pub phase: TrialPhase,
    /// Taken from an earlier study: discounted, never in the finals.
    #[serde(default)]
    pub prior: bool,
}

/// Everything that the optimizer sees, in the order of the trials.
pub type History = Vec<Observation>;

impl Trial {
    /// What this trial tells the optimizer; None for infrastructure faults, interruptions and finals.
    #[must_use]
    pub fn observation(&self) -> Option<Observation> {
        use crate::capacity::CapacityVerdict as V;
        if self.phase == TrialPhase::Final {
            return None;
        }
        let seen = match &self.outcome {
            None => Seen::Pending,
            Some(Outcome::Failed { .. }) => Seen::Failed,
            Some(Outcome::Infrastructure { .. } | Outcome::Interrupted) => return None,
            Some(Outcome::Measured { capacity: c }) => match (c.verdict, c.sustainable_rps) {
                (V::Sustainable, Some(rps)) => Seen::Rate {
                    rps,
                    lo: c.interval_rps[0],
                    hi: c.interval_rps[1],
                },
                (V::AtLeast | V::GeneratorLimited, Some(rps)) => Seen::AtLeast(rps),
                (V::AtMost, _) => Seen::AtMost(c.interval_rps[1]),
                (V::None, _) => Seen::Failed,
                _ => return None,
            },
        };
        Some(Observation {
            config: self.config.clone(),
            seen,
            phase: self.phase,
            prior: false,
        })
    }

    /// The capacity that was measured, where one was.
    #[must_use]
    pub fn capacity(&self) -> Option<&Capacity> {
        match &self.outcome {
            Some(Outcome::Measured { capacity }) => Some(capacity),
            _ => None,
        }
    }
}
