//! One generator's share of a probe that several machines drive: its part of the schedule, begun at an agreed instant.
//!
//! The engine is the same as for a whole probe. Not here: who the others are, what the clocks say, and how the shares
//! become one measurement (`agents`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::engine::{Event, Order, Stop};
use super::schedule::Part;
use super::{Generator, Interval, LoadError};
use crate::capacity::ProbePlan;
use crate::measurement::{Bin, Measurement};

/// What is agreed on for a probe of several generators.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Which part of the schedule and of the sequence of requests.
    pub part: Part,
    /// The seed of this probe, the same for all parts.
    pub seed: u64,
    /// When the lead-in begins.
    pub start: Instant,
    /// Whether histograms are wanted second by second.
    pub intervals: bool,
}

/// What is told while a share runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A bin is over: its number, its counts, and the latencies of the good answers that came in it, microseconds.
    Bin(usize, &'a Bin, &'a Histogram<u64>),
    /// A second is over.
    Interval(&'a Interval),
}

/// What a share measured.
#[derive(Debug)]
pub struct ShareResult {
    /// As of a whole probe, with the counts of this part.
    pub measurement: Measurement,
    /// Send lag, microseconds.
    pub lag: Histogram<u64>,
    /// Service time of the first answers, milliseconds, where there were enough.
    pub first_ms: Option<f64>,
}

/// Ends a share's window early, from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Brake(Arc<Stop>);

impl Brake {
    /// Ends the window `offset` after its begin, or now where that has passed. Without effect before the share runs and after
    /// its window.
    pub fn end_at(&self, offset: Duration, reason: String) {
        self.0.end_window(reason, Some(offset));
    }
}

impl Generator {
    /// Drives `share` of `plan`, whose rate is that of all parts together, and tells `hear` what is complete. Cancel-safe: dropping
    /// the future stops the load at once.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    pub async fn drive_share(
        &self,
        plan: &ProbePlan,
        share: Share,
        brake: &Brake,
        hear: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<ShareResult, LoadError> {
        let order = Order {
            rate: plan.rate,
            lead_in: plan.lead_in,
            window: plan.window,
            drain: plan.drain,
            seed: share.seed,
            intervals: share.intervals,
            bin_histograms: true,
            part: share.part,
            start: Some(share.start),
        };
        let mut latency = None;
        let mut on = |event| match event {
            Event::Latency(at, histogram) => latency = Some((at, histogram)),
            Event::Bin(bin) => {
                if let Some((at, histogram)) = latency.take() {
                    hear(Progress::Bin(at, &bin, &histogram));
                }
            }
            Event::Interval(interval) => hear(Progress::Interval(&interval)),
            Event::Done(_) => {}
        };
        let done = self.run(order, Arc::clone(&brake.0), &mut on).await?;
        Ok(ShareResult {
            measurement: done.measurement,
            lag: done.lag,
            first_ms: done.first_ms,
        })
    }
}
