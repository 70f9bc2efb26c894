//! When each request is due: absolute offsets from the start of a probe, as pure arithmetic.
//!
//! An open loop does not wait for answers, so the schedule knows nothing of them. Offsets are computed from
//! the arrival's number and never by adding gaps up (uniform), so that no rounding accumulates. Not here: clocks,
//! waiting, and what is sent.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::spec::Arrivals;
use crate::units::Rps;

const NANOS: f64 = 1e9;

/// One generator's share of a schedule that several drive together: every `of`-th arrival, from `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which, from 0.
    pub index: u32,
    /// Of how many, at least 1.
    pub of: u32,
}

impl Part {
    /// The whole schedule.
    pub const WHOLE: Self = Self { index: 0, of: 1 };
}

/// Arrival offsets in nanoseconds from the start, ascending and without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    rate: f64,
    part: Part,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Arrival `i` is due at `i / rate`.
    Uniform { next: u64 },
    /// Exponential gaps of the whole rate. Every part draws all of them and keeps its own arrivals, so that the parts
    /// together are the very schedule of one generator; a draw costs nanoseconds.
    Poisson {
        at_s: f64,
        skip: u32,
        random: Box<ChaCha8Rng>,
    },
}

impl Schedule {
    /// The schedule of `rate` requests per second; `part` is this generator's share, `seed` fixes Poisson gaps.
    #[must_use]
    pub fn new(rate: Rps, arrivals: Arrivals, seed: u64, part: Part) -> Self {
        let of = part.of.max(1);
        let part = Part {
            index: part.index.min(of - 1),
            of,
        };
        let kind = match arrivals {
            Arrivals::Uniform => Kind::Uniform { next: 0 },
            Arrivals::Poisson => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                // Apart from the stream that draws the requests.
                random.set_stream(1);
                Kind::Poisson {
                    at_s: 0.0,
                    skip: part.index,
                    random: Box::new(random),
                }
            }
        };
        Self {
            rate: rate.get(),
            part,
            kind,
        }
    }

    /// The offset of the next arrival, nanoseconds from the start.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn next_offset(&mut self) -> u64 {
        match &mut self.kind {
            Kind::Uniform { next } => {
                let number = next.saturating_mul(u64::from(self.part.of)) + u64::from(self.part.index);
                *next += 1;
                (number as f64 * NANOS / self.rate).round() as u64
            }
            Kind::Poisson { at_s, skip, random } => {
                for _ in 0..=*skip {
                    // Inverse transform sampling; 1 - u is in (0, 1], so the logarithm is finite.
                    let u: f64 = random.random();
                    *at_s += -(1.0 - u).ln() / self.rate;
                }
                *skip = self.part.of - 1;
                (*at_s * NANOS).round() as u64
            }
        }
    }
}

/// How long an arrival may be left waiting at `rate`, so that those due soon after it are sent with it. Waking is two thirds of
/// the cost of a request below saturation, so from some 2,000 rps on a little lag buys a lot of CPU (docs/load.md has the
/// measurements). The lag of an arrival is at most this and what the wake takes.
#[must_use]
pub fn slack(rate: Rps) -> Duration {
    match rate.get() {
        r if r <= 2_000.0 => Duration::ZERO,
        r if r < 6_000.0 => Duration::from_micros(250),
        _ => Duration::from_micros(500),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets(rate: f64, arrivals: Arrivals, part: Part, count: usize) -> Vec<u64> {
        let mut s = Schedule::new(Rps::new(rate).unwrap(), arrivals, 7, part);
        (0..count).map(|_| s.next_offset()).collect()
    }

    #[test]
    fn uniform_offsets_do_not_drift() {
        let mut s = Schedule::new(Rps::new(3.0).unwrap(), Arrivals::Uniform, 0, Part::WHOLE);
        let last = (0..=3_000_000_u64).map(|_| s.next_offset()).last().unwrap();
        assert_eq!(last, 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn poisson_gaps_have_the_rate_and_the_spread_of_an_exponential() {
        let all = offsets(1_000.0, Arrivals::Poisson, Part::WHOLE, 100_001);
        let gaps: Vec<f64> = all.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let var = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1e-3).abs() < 2e-5, "{mean}");
        // The coefficient of variation of an exponential is 1.
        assert!((var.sqrt() / mean - 1.0).abs() < 0.02);
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals_and_parts_differ() {
        let part = |index| Part { index, of: 2 };
        let a = offsets(50.0, Arrivals::Poisson, part(0), 100);
        assert_eq!(a, offsets(50.0, Arrivals::Poisson, part(0), 100));
        assert_ne!(a, offsets(50.0, Arrivals::Poisson, part(1), 100));
    }

    #[test]
    fn slow_rates_are_sent_one_by_one() {
        assert_eq!(slack(Rps::new(2_000.0).unwrap()), Duration::ZERO);
        assert_eq!(slack(Rps::new(20_000.0).unwrap()), Duration::from_micros(500));
    }

    proptest! {
        #[test]
        fn offsets_ascend(rate in 0.01_f64..1e6, poisson: bool, of in 1_u32..5) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Uniform };
            let all = offsets(rate, arrivals, Part { index: of - 1, of }, 200);
            prop_assert!(all.windows(2).all(|w| w[0] <= w[1]));
        }

        /// A window of whole seconds holds rate x seconds arrivals, give or take the one at its edge.
        #[test]
        fn a_window_holds_its_arrivals(rate in 0.5_f64..5_000.0, seconds in 1_u64..5) {
            let mut s = Schedule::new(Rps::new(rate).unwrap(), Arrivals::Uniform, 0, Part::WHOLE);
            let end = seconds * 1_000_000_000;
            let mut count = 0_u64;
            while s.next_offset() < end {
                count += 1;
            }
            let expected = rate * seconds as f64;
            prop_assert!((count as f64 - expected).abs() <= 1.0, "{count} of {expected}");
        }

        /// Split among several, the parts' arrivals are the whole schedule's, none lost and none doubled.
        #[test]
        fn parts_interleave_into_the_whole(rate in 0.5_f64..1e5, of in 1_u32..6, poisson: bool) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Uniform };
            let parts: Vec<Vec<u64>> = (0..of)
                .map(|index| offsets(rate, arrivals, Part { index, of }, 50))
                .collect();
            let whole = offsets(rate, arrivals, Part::WHOLE, 50 * of as usize);
            for (k, due) in whole.iter().enumerate() {
                prop_assert_eq!(parts[k % of as usize][k / of as usize], *due);
            }
        }
    }
}
