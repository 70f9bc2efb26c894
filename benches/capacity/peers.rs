//! The rules of other tools, written from their documentation, on the same simulated services.
//!
//! MLRsearch after RFC-to-be draft-ietf-bmwg-mlrsearch and FD.io's implementation notes, fed with goodput loss.
//! Nighthawk's adaptive load controller after its `adaptive_load` documents: exponential search, then bisection until two
//! loads agree within 1 %, then a testing stage. k6 after its "breakpoint testing" guide: a ramp with an aborting
//! threshold on the rate of failed requests, which is cumulative since the start (its issue 2379).

use std::ops::ControlFlow;
use std::time::Duration;

use autotune::capacity::simulated::{Model, Service};
use autotune::capacity::{ProbePhase, ProbePlan};
use autotune::units::Rps;

use super::{Run, max_rate};

const LIMIT: f64 = 0.05;

/// All of them.
pub const METHODS: [(&str, fn(Model, u64) -> Run); 3] = [
    ("mlrsearch", mlrsearch),
    ("nighthawk", nighthawk),
    ("k6 ramp", k6),
];

struct Bench {
    service: Service,
    run: Run,
}

impl Bench {
    fn new(model: Model, seed: u64) -> Self {
        let run = Run {
            rate: None,
            interval: None,
            seconds: 0.0,
            peak: 0.0,
            offered: Vec::new(),
            truth: model.truth(LIMIT),
            soaked: None,
        };
        Self {
            service: Service::new(model, seed),
            run,
        }
    }

    /// A trial without early end: (goodput loss, goodput).
    fn trial(&mut self, rate: f64, seconds: f64, drain_s: f64) -> (f64, f64) {
        let mut plan = ProbePlan::new(
            ProbePhase::Growth,
            Rps::saturating(rate),
            Duration::from_secs_f64(seconds),
        );
        plan.drain = Duration::from_secs_f64(drain_s);
        let m = self.service.drive(&plan, &mut |_| ControlFlow::Continue(()));
        self.run.peak = self.run.peak.max(rate);
        self.run.offered.push((rate, seconds));
        (m.loss(), m.goodput_rps())
    }

    fn done(mut self, rate: Option<f64>) -> Run {
        self.run.rate = rate;
        self.run.seconds = self.service.now_s();
        self.run
    }
}

/// Starts at the maximum load, then at the forwarding rate seen; phases of growing duration and shrinking width; the
/// relevant lower bound at the final duration is the conditional throughput.
fn mlrsearch(model: Model, seed: u64) -> Run {
    let mut b = Bench::new(model, seed);
    let (max, min) = (max_rate(model), 0.5);
    let (_, at_max) = b.trial(max, 1.0, 30.0);
    let mut guess = at_max.clamp(min, max);
    let (_, again) = b.trial(guess, 1.0, 30.0);
    guess = again.clamp(min, max);
    let (mut lo, mut hi) = (None, None);
    for (seconds, width) in [(1.0, 0.04), (5.5, 0.02), (30.0, 0.01)] {
        // Bounds of the phase before are only hints: both are measured again at this duration.
        let mut next = lo.unwrap_or(guess);
        let mut reach = width;
        (lo, hi) = (None, None);
        for _ in 0..40 {
            let (loss, _) = b.trial(next, seconds, 30.0);
            if loss <= LIMIT {
                lo = Some(lo.map_or(next, |l: f64| l.max(next)));
            } else {
                hi = Some(hi.map_or(next, |h: f64| h.min(next)));
            }
            // A lower bound above an upper bound: the later trial is believed.
            match (lo, hi) {
                (Some(l), Some(h)) if l >= h && loss <= LIMIT => hi = None,
                (Some(l), Some(h)) if l >= h => lo = None,
                _ => {}
            }
            next = match (lo, hi) {
                (Some(l), Some(h)) if h / l - 1.0 <= width => break,
                (Some(l), Some(h)) => (l * h).sqrt(),
                (Some(l), None) if l >= max * 0.999 => break,
                (Some(l), None) => (l * (1.0 + reach)).min(max),
                (None, Some(h)) if h <= min => break,
                (None, h) => (h.unwrap_or(next) * (1.0 - reach)).max(min),
            };
            if lo.is_none() || hi.is_none() {
                reach *= 2.0_f64.min(0.5 / reach).max(1.0);
            }
        }
    }
    let _ = hi;
    b.done(lo)
}

/// Doubling, bisection to 1 %, trials of 10 s; the answer is the last midpoint, tested for 30 s; deadline 5 minutes.
fn nighthawk(model: Model, seed: u64) -> Run {
    let mut b = Bench::new(model, seed);
    let (mut rate, mut bottom, mut top): (f64, f64, Option<f64>) = (model.capacity / 8.0, 0.0, None);
    for _ in 0..40 {
        let (loss, _) = b.trial(rate, 10.0, 5.0);
        if loss <= LIMIT {
            bottom = bottom.max(rate);
        } else {
            top = Some(top.map_or(rate, |t: f64| t.min(rate)));
        }
        let next = match top {
            None => rate * 2.0,
            Some(t) => f64::midpoint(bottom, t),
        };
        let converged = top.is_some() && (next / rate - 1.0).abs() < 0.01;
        rate = next;
        if converged || b.service.now_s() > 300.0 {
            break;
        }
    }
    b.trial(rate, 30.0, 5.0);
    b.done(Some(rate))
}

/// A linear ramp to the maximum in five minutes; the answer is the rate when more than 5 % of all requests so far failed.
fn k6(model: Model, seed: u64) -> Run {
    let mut b = Bench::new(model, seed);
    let (max, seconds) = (max_rate(model), 300.0);
    let (mut good, mut bad) = (0_u64, 0_u64);
    for second in 0..300 {
        let rate = max * (f64::from(second) + 0.5) / seconds;
        let mut plan = ProbePlan::new(ProbePhase::Growth, Rps::saturating(rate), Duration::from_secs(1));
        plan.drain = Duration::ZERO;
        let m = b.service.drive(&plan, &mut |_| ControlFlow::Continue(()));
        b.run.peak = rate;
        b.run.offered.push((rate, 1.0));
        good += m.bins.iter().map(|x| x.completed_good).sum::<u64>();
        bad += m.bins.iter().map(|x| x.completed_bad).sum::<u64>();
        if second >= 10 && bad as f64 > LIMIT * (good + bad) as f64 {
            return b.done(Some(rate));
        }
    }
    b.done(Some(max))
}
