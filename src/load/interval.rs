//! Histograms second by second, for those who look at a probe with HdrHistogram's own tools.
//!
//! An interval holds what ended in it, by the time it ended: the good answers' latency (no tag, which is what the tools show without
//! being asked), their service time, and the latency of each class that was not good. Adding the intervals up gives the
//! whole without loss. Kept only when somebody asked, since a histogram is 188 KB until it is written.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::measurement::OutcomeClass;

/// Width of an interval, nanoseconds.
pub(super) const WIDTH: u64 = 1_000_000_000;

/// What ended in one second of the window, microseconds.
#[derive(Debug)]
pub struct Interval {
    /// From the start of the window.
    pub start: Duration,
    /// Shorter than a second for the last one.
    pub width: Duration,
    /// By tag; None is the latency of the good answers.
    pub histograms: Vec<(Option<&'static str>, Histogram<u64>)>,
}

/// The interval being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    histograms: Vec<(Option<&'static str>, Histogram<u64>)>,
}

impl Filling {
    pub(super) fn record(
        &mut self,
        class: OutcomeClass,
        latency_us: u64,
        service_us: Option<u64>,
        longest_us: u64,
    ) {
        let tag = (class != OutcomeClass::Good).then(|| class.name());
        self.add(tag, latency_us, longest_us);
        if tag.is_none()
            && let Some(us) = service_us
        {
            self.add(Some("service"), us, longest_us);
        }
    }

    fn add(&mut self, tag: Option<&'static str>, us: u64, longest_us: u64) {
        if let Some((_, h)) = self.histograms.iter_mut().find(|(t, _)| *t == tag) {
            h.saturating_record(us);
        } else if let Ok(mut h) = Histogram::new_with_bounds(1, longest_us, 3) {
            h.saturating_record(us);
            self.histograms.push((tag, h));
        }
    }

    /// Hands over what is there, as the interval from `start` (from the window's begin) to `end`, nanoseconds.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Interval {
        Interval {
            start: Duration::from_nanos(start),
            width: Duration::from_nanos(end.saturating_sub(start)),
            histograms: std::mem::take(&mut self.histograms),
        }
    }
}
