//! The books of one probe: every arrival and every end is entered once, with its times, and the measurement is what
//! the books say. Pure: times come in as nanoseconds of the probe's clock.
//!
//! Arrivals of the lead-in are entered too, since they are in flight and their answers arrive in the window, but only
//! arrivals scheduled in the window are judged. Ends after the window go into the histograms, so that the slowest
//! answers are not cut off, and never into the counts.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::interval::{self, Filling, Interval};
use crate::measurement::{Bin, GeneratorHealth, Histograms, Measurement, OutcomeClass, Quantiles};
use crate::units::Rps;

/// Service times from which the unloaded service time is taken.
const FIRST_ANSWERS: usize = 20;
/// Arrivals that a bin should hold at least, so that its figures mean something.
const ARRIVALS_PER_BIN: f64 = 5.0;
/// Width of a bin, seconds: CPU quotas act in periods of 0.1 s, so narrower bins would measure the quota's phase.
const BIN_S: f64 = 0.5;

/// How one request ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// When it was scheduled.
    pub(super) due: u64,
    /// When it was written; None when it never was.
    pub(super) sent: Option<u64>,
    /// When it ended.
    pub(super) at: u64,
    pub(super) class: OutcomeClass,
    /// Of a complete or partial answer.
    pub(super) status: Option<u16>,
    pub(super) endpoint: usize,
}

/// The planned times of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// First nanosecond of the window.
    pub(super) begin: u64,
    /// First nanosecond after it, as planned.
    pub(super) end: u64,
    /// Number of equal bins.
    pub(super) bins: u32,
}

impl Frame {
    /// Cuts a window into equal bins of about half a second, or wider when the rate is very low.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub(super) fn new(rate: Rps, lead_in: u64, window: u64) -> Self {
        let window_s = window as f64 / 1e9;
        let width_s = BIN_S.max(ARRIVALS_PER_BIN / rate.get());
        let bins = (window_s / width_s).round().clamp(1.0, 1e6) as u32;
        Self {
            begin: lead_in,
            end: lead_in.saturating_add(window.max(1)),
            bins,
        }
    }

    fn bin_of(&self, at: u64) -> usize {
        let into = u128::from(at.saturating_sub(self.begin));
        let width = u128::from(self.end - self.begin);
        usize::try_from(into * u128::from(self.bins) / width).unwrap_or(usize::MAX)
    }

    /// First nanosecond of bin `index`: the smallest that `bin_of` puts there.
    pub(super) fn start_of(&self, index: usize) -> u64 {
        let width = u128::from(self.end - self.begin);
        let offset = (index as u128 * width).div_ceil(u128::from(self.bins));
        self.begin + u64::try_from(offset).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    arrived: u64,
    good_of_arrived: u64,
    completed_good: u64,
    completed_bad: u64,
    latency_ms_p50: f64,
    latency_ms_p95: f64,
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    frame: Frame,
    rows: Vec<Row>,
    /// First nanosecond after the window, as it was run.
    end: u64,
    /// First bin not closed yet.
    open: usize,
    arrived_before: u64,
    ended_before: u64,
    arrived: u64,
    sent: u64,
    ended: u64,
    ended_late: u64,
    all_arrived: u64,
    all_ended: u64,
    good: u64,
    errors: [u64; OutcomeClass::ALL.len()],
    statuses: Vec<u64>,
    answered: Vec<u64>,
    lag: Histogram<u64>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    by_class: BTreeMap<OutcomeClass, Histogram<u64>>,
    /// Of the bins around the open one, in turn.
    recent: [Histogram<u64>; 3],
    first_services: Vec<u64>,
    longest_us: u64,
    /// Two seconds side by side, as the bins are; None when nobody asked.
    intervals: Option<[Filling; 2]>,
    /// Intervals handed over.
    handed: u64,
    /// Whether the histograms of closed bins are wanted.
    bin_histograms: bool,
}

/// The books could not be opened: the histogram's bounds are wrong.
pub(super) type LedgerError = hdrhistogram::CreationError;

impl Ledger {
    /// Opens the books; `longest_us` bounds what a histogram tells apart (longer is recorded as that).
    pub(super) fn open(frame: Frame, endpoints: usize, longest_us: u64) -> Result<Self, LedgerError> {
        let longest_us = longest_us.max(60_000_000);
        let new = || Histogram::new_with_bounds(1, longest_us, 3);
        Ok(Self {
            frame,
            rows: vec![Row::default(); frame.bins as usize],
            end: frame.end,
            open: 0,
            arrived_before: 0,
            ended_before: 0,
            arrived: 0,
            sent: 0,
            ended: 0,
            ended_late: 0,
            all_arrived: 0,
            all_ended: 0,
            good: 0,
            errors: [0; OutcomeClass::ALL.len()],
            statuses: vec![0; 1_000],
            answered: vec![0; endpoints],
            lag: new()?,
            latency: new()?,
            service: new()?,
            by_class: BTreeMap::new(),
            recent: [new()?, new()?, new()?],
            first_services: Vec::with_capacity(FIRST_ANSWERS),
            longest_us,
            intervals: None,
            handed: 0,
            bin_histograms: false,
        })
    }

    fn in_window(&self, due: u64) -> bool {
        (self.frame.begin..self.end).contains(&due)
    }

    /// An arrival is due.
    pub(super) fn arrived(&mut self, due: u64) {
        self.all_arrived += 1;
        if due < self.frame.begin {
            self.arrived_before += 1;
        } else if due < self.end {
            self.arrived += 1;
            let at = self.frame.bin_of(due);
            if let Some(row) = self.rows.get_mut(at) {
                row.arrived += 1;
            }
        }
    }

    /// How late the generator was with a request, from its own doing.
    pub(super) fn lagged(&mut self, due: u64, at: u64) {
        if self.in_window(due) {
            self.lag.saturating_record(at.saturating_sub(due) / 1_000);
        }
    }

    /// A request was written for the first time.
    pub(super) fn sent(&mut self, due: u64, at: u64) {
        if self.in_window(due) && at < self.end {
            self.sent += 1;
        }
    }

    /// A request ended.
    pub(super) fn ended(&mut self, e: End) {
        self.all_ended += 1;
        let good = e.class == OutcomeClass::Good;
        let latency_us = e.at.saturating_sub(e.due) / 1_000;
        let service_us = e.sent.map(|s| e.at.saturating_sub(s) / 1_000);
        if good
            && self.first_services.len() < FIRST_ANSWERS
            && let Some(us) = service_us
        {
            self.first_services.push(us);
        }
        if e.at < self.frame.begin {
            self.ended_before += 1;
        } else if e.at < self.end {
            if let Some(pair) = &mut self.intervals {
                let second = (e.at - self.frame.begin) / interval::WIDTH;
                if let Some(filling) = pair.get_mut((second % 2) as usize) {
                    filling.record(e.class, latency_us, service_us, self.longest_us);
                }
            }
            let at = self.frame.bin_of(e.at);
            if good {
                self.recent[at % 3].saturating_record(latency_us);
            }
            if let Some(row) = self.rows.get_mut(at) {
                *(if good {
                    &mut row.completed_good
                } else {
                    &mut row.completed_bad
                }) += 1;
            }
        }
        if !self.in_window(e.due) {
            return;
        }
        self.record(e.class, latency_us, service_us);
        if e.at >= self.end {
            self.ended_late += 1;
            return;
        }
        self.ended += 1;
        if good {
            self.good += 1;
            let at = self.frame.bin_of(e.due);
            if let Some(row) = self.rows.get_mut(at) {
                row.good_of_arrived += 1;
            }
        } else if let Some(count) = self.errors.get_mut(e.class as usize) {
            *count += 1;
        }
        if let Some(status) = e.status {
            if let Some(count) = self.statuses.get_mut(usize::from(status)) {
                *count += 1;
            }
            if let Some(count) = self.answered.get_mut(e.endpoint) {
                *count += 1;
            }
        }
    }

    fn record(&mut self, class: OutcomeClass, latency_us: u64, service_us: Option<u64>) {
        if class == OutcomeClass::Good {
            self.latency.saturating_record(latency_us);
            if let Some(us) = service_us {
                self.service.saturating_record(us);
            }
            return;
        }
        if let Some(h) = self.by_class.get_mut(&class) {
            h.saturating_record(latency_us);
        } else if let Ok(mut h) = Histogram::new_with_bounds(1, self.longest_us, 3) {
            h.saturating_record(latency_us);
            self.by_class.insert(class, h);
        }
    }

    /// When the open bin ends; None after the last.
    pub(super) fn next_close(&self) -> Option<u64> {
        (self.open < self.rows.len()).then(|| self.end_of(self.open))
    }

    /// Closes the open bin if it is over at `now`, and tells what it looks like so far. Arrivals due before its end must
    /// have been entered.
    pub(super) fn close_bin(&mut self, now: u64) -> Option<Bin> {
        if self.next_close()? > now {
            return None;
        }
        let at = self.open;
        self.summarize(at, None);
        self.open += 1;
        // Of the three, the one before the closed bin's is free for the bin after the next.
        self.recent[(at + 2) % 3].reset();
        self.bins().nth(at)
    }

    /// From now on tells the histograms of closed bins.
    pub(super) fn keep_bin_histograms(&mut self) {
        self.bin_histograms = true;
    }

    /// Number and latencies of the bin that was closed last, where they are wanted.
    pub(super) fn closed_latency(&self) -> Option<(usize, Histogram<u64>)> {
        let at = self.open.checked_sub(1).filter(|_| self.bin_histograms)?;
        Some((at, self.recent.get(at % 3)?.clone()))
    }

    /// How late the generator was, request by request, microseconds.
    pub(super) fn lag(&self) -> &Histogram<u64> {
        &self.lag
    }

    /// Lets the window end at `at`, which is still to come: nothing due or ended from there on has been entered. False where
    /// it ends before that anyway, or a bin was closed that begins later.
    pub(super) fn shorten(&mut self, at: u64) -> bool {
        if at >= self.end || at <= self.frame.begin || self.frame.bin_of(at - 1) < self.open {
            return false;
        }
        self.end = at;
        self.rows.truncate(self.frame.bin_of(at - 1) + 1);
        true
    }

    /// From now on keeps histograms second by second.
    pub(super) fn keep_intervals(&mut self) {
        self.intervals = Some([Filling::default(), Filling::default()]);
    }

    /// When the next interval is complete; None when none is kept or all were taken.
    pub(super) fn next_interval(&self) -> Option<u64> {
        let start = self
            .frame
            .begin
            .saturating_add(self.handed.saturating_mul(interval::WIDTH));
        (self.intervals.is_some() && start < self.end).then(|| self.end.min(start + interval::WIDTH))
    }

    /// The next interval, if it is complete at `now`.
    pub(super) fn take_interval(&mut self, now: u64) -> Option<Interval> {
        let end = self.next_interval()?;
        if end > now {
            return None;
        }
        let filling = self.intervals.as_mut()?.get_mut((self.handed % 2) as usize)?;
        let taken = filling.take(self.handed * interval::WIDTH, end - self.frame.begin);
        self.handed += 1;
        Some(taken)
    }

    /// Ends the window at `at`, before its planned end. What was begun of a bin and is less than half of one joins the bin before.
    pub(super) fn cut(&mut self, at: u64) {
        if at >= self.end || at <= self.frame.begin {
            return;
        }
        let last = self.frame.bin_of(at - 1);
        let begun = at - self.frame.start_of(last);
        let half = (self.frame.start_of(last + 1) - self.frame.start_of(last)) / 2;
        self.end = at;
        self.rows.truncate(last + 1);
        if begun < half
            && last > 0
            && let Some(part) = self.rows.pop()
            && let Some(row) = self.rows.get_mut(last - 1)
        {
            row.arrived += part.arrived;
            row.good_of_arrived += part.good_of_arrived;
            row.completed_good += part.completed_good;
            row.completed_bad += part.completed_bad;
            self.summarize(last - 1, Some(last));
        } else {
            self.summarize(last, None);
        }
        self.open = self.rows.len();
    }

    /// Enters the quantiles of row `at`, of its own histogram and where given another bin's.
    fn summarize(&mut self, at: usize, with: Option<usize>) {
        let own = &self.recent[at % 3];
        let q = match with {
            Some(other) => {
                let mut sum = own.clone();
                // The bounds are the same, so adding cannot fail.
                let _ = sum.add(&self.recent[other % 3]);
                Quantiles::of_micros(&sum)
            }
            None => Quantiles::of_micros(own),
        };
        if let Some(row) = self.rows.get_mut(at) {
            row.latency_ms_p50 = q.p50;
            row.latency_ms_p95 = q.p95;
        }
    }

    fn end_of(&self, row: usize) -> u64 {
        if row + 1 == self.rows.len() {
            self.end
        } else {
            self.frame.start_of(row + 1)
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn bins(&self) -> impl Iterator<Item = Bin> + '_ {
        let mut in_flight = self.arrived_before.saturating_sub(self.ended_before);
        self.rows.iter().enumerate().map(move |(at, row)| {
            in_flight = (in_flight + row.arrived).saturating_sub(row.completed_good + row.completed_bad);
            let (start, end) = (self.frame.start_of(at), self.end_of(at));
            Bin {
                start_s: (start - self.frame.begin) as f64 / 1e9,
                width_s: end.saturating_sub(start) as f64 / 1e9,
                scheduled: row.arrived,
                scheduled_good: row.good_of_arrived,
                completed_good: row.completed_good,
                completed_bad: row.completed_bad,
                in_flight_end: in_flight,
                latency_ms_p50: row.latency_ms_p50,
                latency_ms_p95: row.latency_ms_p95,
            }
        })
    }

    /// A request is given up before it was sent: neither good nor failed, and not in flight any more.
    pub(super) fn abandoned(&mut self, due: u64) {
        self.all_ended += 1;
        if self.in_window(due) {
            self.ended_late += 1;
        }
    }

    /// First nanosecond of the window.
    pub(super) fn begin(&self) -> u64 {
        self.frame.begin
    }

    /// Requests entered and not ended, those of the lead-in included.
    pub(super) fn outstanding(&self) -> u64 {
        self.all_arrived - self.all_ended
    }

    /// Median service time of the first answers, milliseconds: the service while it had least to do. None before there are enough.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn first_service_ms(&self) -> Option<f64> {
        if self.first_services.len() < FIRST_ANSWERS {
            return None;
        }
        let mut sorted = self.first_services.clone();
        sorted.sort_unstable();
        sorted.get(FIRST_ANSWERS / 2).map(|us| *us as f64 / 1e3)
    }

    /// Closes the books.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn close(
        &self,
        offered: Rps,
        names: &[String],
        mut generator: GeneratorHealth,
    ) -> Measurement {
        generator.send_lag_ms = Quantiles::of_micros(&self.lag);
        let mut error_latency = self.latency.clone();
        error_latency.reset();
        for (class, h) in &self.by_class {
            if !class.is_local() {
                let _ = error_latency.add(h);
            }
        }
        let counted = |counts: &[u64]| -> Vec<(usize, u64)> {
            counts
                .iter()
                .copied()
                .enumerate()
                .filter(|(_, n)| *n > 0)
                .collect()
        };
        Measurement {
            offered,
            window_s: (self.end - self.frame.begin) as f64 / 1e9,
            scheduled: self.arrived,
            sent: self.sent,
            good: self.good,
            errors: OutcomeClass::ALL
                .into_iter()
                .filter_map(|c| self.errors.get(c as usize).filter(|n| **n > 0).map(|n| (c, *n)))
                .collect(),
            in_flight_end: self.arrived - self.ended,
            in_flight_after_drain: (self.arrived - self.ended).saturating_sub(self.ended_late),
            statuses: counted(&self.statuses)
                .into_iter()
                .filter_map(|(s, n)| Some((u16::try_from(s).ok()?, n)))
                .collect(),
            latency_ms: Quantiles::of_micros(&self.latency),
            service_ms: Quantiles::of_micros(&self.service),
            error_latency_ms: Quantiles::of_micros(&error_latency),
            bins: self.bins().collect(),
            generator,
            drained_s: None,
            by_endpoint: counted(&self.answered)
                .into_iter()
                .filter_map(|(at, n)| Some((names.get(at)?.clone(), n)))
                .collect(),
            stopped_early: None,
            histograms: Some(Box::new(Histograms {
                latency: self.latency.clone(),
                service: self.service.clone(),
                by_class: self.by_class.clone(),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    /// A window of 2 s after a lead-in of 1 s, at 10 rps: four bins.
    fn ledger() -> Ledger {
        let rate = Rps::new(10.0).unwrap();
        Ledger::open(Frame::new(rate, 1_000 * MS, 2_000 * MS), 1, 1).unwrap()
    }

    fn end(due_ms: u64, at_ms: u64, class: OutcomeClass) -> End {
        End {
            due: due_ms * MS,
            sent: Some(due_ms * MS),
            at: at_ms * MS,
            class,
            status: (class == OutcomeClass::Good).then_some(200),
            endpoint: 0,
        }
    }

    fn close(ledger: &Ledger) -> Measurement {
        ledger.close(
            Rps::new(10.0).unwrap(),
            &["a".to_owned()],
            GeneratorHealth::default(),
        )
    }

    #[test]
    fn lead_in_is_in_flight_but_not_judged() {
        let mut l = ledger();
        l.arrived(900 * MS);
        l.arrived(1_100 * MS);
        l.sent(900 * MS, 900 * MS);
        l.sent(1_100 * MS, 1_100 * MS);
        l.ended(end(900, 1_200, OutcomeClass::Good));
        let m = close(&l);
        assert_eq!((m.scheduled, m.sent, m.good, m.in_flight_end), (1, 1, 0, 1));
        assert_eq!(m.bins[0].completed_good, 1);
        assert_eq!(m.bins[0].scheduled_good, 0);
        assert_eq!(m.bins[0].in_flight_end, 1);
        assert_eq!(m.latency_ms, Quantiles::default());
    }

    #[test]
    fn what_ends_after_the_window_is_in_flight_yet_its_latency_counts() {
        let mut l = ledger();
        l.arrived(2_900 * MS);
        l.arrived(2_950 * MS);
        l.ended(end(2_900, 3_400, OutcomeClass::Good));
        let m = close(&l);
        assert_eq!((m.good, m.in_flight_end, m.in_flight_after_drain), (0, 2, 1));
        assert!((m.latency_ms.max - 500.0).abs() < 1.0);
        assert_eq!(m.bins[3].in_flight_end, 2);
    }

    #[test]
    fn an_answer_counts_where_it_came_and_where_it_was_scheduled() {
        let mut l = ledger();
        l.arrived(1_100 * MS);
        assert!(l.close_bin(1_499 * MS).is_none());
        let first = l.close_bin(1_500 * MS).unwrap();
        assert_eq!(
            (first.scheduled, first.scheduled_good, first.in_flight_end),
            (1, 0, 1)
        );
        l.ended(end(1_100, 1_700, OutcomeClass::Good));
        let second = l.close_bin(2_000 * MS).unwrap();
        assert_eq!((second.completed_good, second.in_flight_end), (1, 0));
        assert!((second.latency_ms_p50 - 600.0).abs() < 1.0);
        let m = close(&l);
        assert_eq!(m.bins[0].scheduled_good, 1);
        assert_eq!(m.bins[1].scheduled_good, 0);
        assert_eq!(m.statuses, [(200, 1)].into());
        assert_eq!(m.by_endpoint, [("a".to_owned(), 1)].into());
    }

    #[test]
    fn a_window_cut_short_keeps_whole_bins() {
        let mut l = ledger();
        for due in [1_100, 1_600, 1_650] {
            l.arrived(due * MS);
        }
        l.ended(end(1_100, 1_200, OutcomeClass::Good));
        l.close_bin(1_500 * MS).unwrap();
        l.ended(end(1_600, 1_660, OutcomeClass::ServerError));
        l.cut(1_700 * MS);
        l.ended(end(1_650, 1_800, OutcomeClass::Good));
        let m = close(&l);
        assert_eq!(m.bins.len(), 1);
        assert!((m.window_s - 0.7).abs() < 1e-9 && (m.bins[0].width_s - 0.7).abs() < 1e-9);
        assert_eq!(
            (
                m.scheduled,
                m.good,
                m.count(OutcomeClass::ServerError),
                m.in_flight_end
            ),
            (3, 1, 1, 1)
        );
        assert_eq!((m.bins[0].scheduled, m.bins[0].completed_bad), (3, 1));
    }

    #[test]
    fn slow_rates_have_wide_bins_and_all_bins_the_same_width() {
        let frame = |rps: f64, ms: u64| Frame::new(Rps::new(rps).unwrap(), 0, ms * MS);
        assert_eq!(frame(1_000.0, 30_000).bins, 60);
        assert_eq!(frame(1.0, 30_000).bins, 6);
        assert_eq!(frame(0.1, 10_000).bins, 1);
    }

    proptest! {
        /// Whatever happens when, the sums agree: each arrival of the window is good, failed or in flight, once.
        #[test]
        fn the_books_balance(
            requests in prop::collection::vec((0_u64..3_200, 0_u64..2_500, 0_usize..OutcomeClass::ALL.len(), any::<bool>()), 0..60),
            cut in prop::option::of(1_001_u64..3_000),
        ) {
            let mut l = ledger();
            let mut events: Vec<(u64, Option<End>)> = Vec::new();
            for (due, took, class, ends) in requests {
                events.push((due, None));
                if ends {
                    events.push((due + took, Some(end(due, due + took, OutcomeClass::ALL[class]))));
                }
            }
            events.sort_by_key(|e| (e.0, e.1.is_some()));
            let stop = cut.unwrap_or(3_000);
            let mut was_cut = false;
            for (at, e) in events {
                while l.close_bin(at * MS).is_some() {}
                if at >= stop && !was_cut {
                    l.cut(stop * MS);
                    was_cut = true;
                }
                match e {
                    None if at < stop => l.arrived(at * MS),
                    None => {}
                    Some(e) if e.due < stop * MS => l.ended(e),
                    Some(_) => {}
                }
            }
            if !was_cut {
                l.cut(stop * MS);
            }
            let outstanding = l.outstanding();
            let m = close(&l);
            let errors: u64 = m.errors.values().sum();
            prop_assert_eq!(m.scheduled, m.good + errors + m.in_flight_end);
            prop_assert!(m.in_flight_after_drain <= outstanding);
            prop_assert_eq!(m.bins.iter().map(|b| b.scheduled).sum::<u64>(), m.scheduled);
            prop_assert_eq!(m.bins.iter().map(|b| b.scheduled_good).sum::<u64>(), m.good);
            let width: f64 = m.bins.iter().map(|b| b.width_s).sum();
            prop_assert!((width - m.window_s).abs() < 1e-6);
        }
    }
}
