//! Service-level objective, the verdict on a probe, and the statistics of an error ratio. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Ratio;

/// What a sustainable rate must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// Largest goodput loss.
    pub errors: Ratio,
    /// Largest 95th percentile from the scheduled time.
    #[serde(default)]
    pub p95: Option<Duration>,
    /// Largest 99th percentile from the scheduled time.
    #[serde(default)]
    pub p99: Option<Duration>,
    /// Largest mean latency from the scheduled time.
    #[serde(default)]
    pub mean: Option<Duration>,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            errors: Ratio::saturating(0.05),
            p95: None,
            p99: None,
            mean: None,
        }
    }
}

/// The judgement of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The service carried the rate.
    Meets,
    /// It did not.
    Violates,
    /// The probe says nothing: the generator could not drive it.
    Void,
}
