//! The history, cleaned: what may be believed of each line of it.
//!
//! Rates are logarithms from here on: a service twice as fast is as far above as one half as fast is below,
//! and noise is relative. A line that makes no sense (a rate that is no number) teaches nothing, but its
//! config still counts as tried.

use std::collections::{HashMap, HashSet};

use crate::space::Config;
use crate::trial::{History, Observation, Seen};

/// Half the width of a 90 % interval in standard deviations.
const Z90: f64 = 1.645;
/// Widest measurement error that is taken from an interval, as a relative deviation.
const MAX_ERROR: f64 = 0.3;
/// Relative range of the repeats of one config above which it is called unstable (TUNA).
const UNSTABLE: f64 = 0.30;

/// What one line says. Rates are natural logarithms of requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fact {
    /// A rate, with the variance that its own interval explains.
    Exact { y: f64, variance: f64 },
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// It does not work.
    Failed,
    /// Asked, not told.
    Pending,
}

/// One usable line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) config: Config,
    pub(super) key: String,
    pub(super) fact: Fact,
    pub(super) prior: bool,
}

fn ln_rate(rps: f64) -> Option<f64> {
    (rps.is_finite() && rps > 0.0).then(|| rps.ln())
}

fn fact(o: &Observation) -> Option<Fact> {
    Some(match o.seen {
        Seen::Rate { rps, .. } | Seen::AtLeast(rps) | Seen::AtMost(rps) if rps <= 0.0 => Fact::Failed,
        Seen::Rate { rps, lo, hi } => {
            let y = ln_rate(rps)?;
            let error = match (ln_rate(lo), ln_rate(hi)) {
                (Some(lo), Some(hi)) if hi > lo => ((hi - lo) / (2.0 * Z90)).min(MAX_ERROR),
                _ => 0.0,
            };
            Fact::Exact {
                y,
                variance: error * error,
            }
        }
        Seen::AtLeast(rps) => Fact::AtLeast(ln_rate(rps)?),
        Seen::AtMost(rps) => Fact::AtMost(ln_rate(rps)?),
        Seen::Failed => Fact::Failed,
        Seen::Pending => Fact::Pending,
    })
}

/// The usable lines, in order.
pub(super) fn clean(history: &History) -> Vec<Known> {
    history
        .iter()
        .filter_map(|o| {
            Some(Known {
                key: o.config.key(),
                config: o.config.clone(),
                fact: fact(o)?,
                prior: o.prior,
            })
        })
        .collect()
}

/// The configs of this study that were tried or are being tried, whatever came of it.
pub(super) fn taken(history: &History) -> HashSet<String> {
    history
        .iter()
        .filter(|o| !o.prior)
        .map(|o| o.config.key())
        .collect()
}

/// What the repeats of one config say together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Tally {
    /// Rates that were measured.
    pub(super) rates: u32,
    /// Lower bounds.
    pub(super) at_least: u32,
    /// Upper bounds.
    pub(super) at_most: u32,
    /// Failures.
    pub(super) failed: u32,
    /// Asked, not told.
    pub(super) pending: u32,
    /// Highest lower bound and lowest upper bound, as logarithms, where there are any.
    pub(super) floor: Option<f64>,
    pub(super) ceiling: Option<f64>,
    lowest: f64,
    highest: f64,
    sum: f64,
}

impl Tally {
    /// Mean of the logarithms of its rates.
    pub(super) fn average(&self) -> Option<f64> {
        (self.rates > 0).then(|| self.sum / f64::from(self.rates))
    }

    /// It failed, or its repeats differ too much: never recommended.
    pub(super) fn is_unstable(&self) -> bool {
        let range = self.highest.exp() - self.lowest.exp();
        let middle = 0.5 * (self.highest.exp() + self.lowest.exp());
        self.failed > 0 || (self.rates > 1 && range > UNSTABLE * middle)
    }
}

/// The tallies of this study's configs, by key.
pub(super) fn tallies(known: &[Known]) -> HashMap<String, Tally> {
    let mut all: HashMap<String, Tally> = HashMap::new();
    for k in known.iter().filter(|k| !k.prior) {
        let t = all.entry(k.key.clone()).or_default();
        match k.fact {
            Fact::Exact { y, .. } => {
                t.lowest = if t.rates == 0 { y } else { t.lowest.min(y) };
                t.highest = if t.rates == 0 { y } else { t.highest.max(y) };
                t.sum += y;
                t.rates += 1;
            }
            Fact::AtLeast(y) => {
                t.floor = Some(t.floor.map_or(y, |f| f.max(y)));
                t.at_least += 1;
            }
            Fact::AtMost(y) => {
                t.ceiling = Some(t.ceiling.map_or(y, |c| c.min(y)));
                t.at_most += 1;
            }
            Fact::Failed => t.failed += 1,
            Fact::Pending => t.pending += 1,
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::TrialPhase;

    fn line(seen: Seen) -> Observation {
        Observation {
            config: Config::default(),
            seen,
            phase: TrialPhase::Search,
            prior: false,
        }
    }

    fn rate(rps: f64) -> Observation {
        line(Seen::Rate {
            rps,
            lo: rps,
            hi: rps,
        })
    }

    #[test]
    fn nonsense_teaches_nothing_but_counts_as_tried() {
        let h = vec![rate(f64::NAN), line(Seen::AtLeast(f64::INFINITY))];
        assert!(clean(&h).is_empty());
        assert_eq!(taken(&h).len(), 1);
        assert_eq!(clean(&vec![rate(0.0), rate(-3.0)])[1].fact, Fact::Failed);
    }

    #[test]
    fn an_interval_becomes_a_variance() {
        let h = vec![line(Seen::Rate {
            rps: 100.0,
            lo: 100.0 / 1.1,
            hi: 110.0,
        })];
        let Fact::Exact { variance, .. } = clean(&h)[0].fact else {
            panic!("a rate")
        };
        assert!((variance.sqrt() - 1.1_f64.ln() / Z90).abs() < 1e-9);
    }

    #[test]
    fn repeats_that_differ_by_a_third_are_unstable() {
        let steady = tallies(&clean(&vec![rate(100.0), rate(125.0)]));
        let wild = tallies(&clean(&vec![rate(100.0), rate(140.0)]));
        let key = Config::default().key();
        assert!(!steady[&key].is_unstable());
        assert!(wild[&key].is_unstable());
        assert!(tallies(&clean(&vec![rate(100.0), line(Seen::Failed)]))[&key].is_unstable());
    }
}
