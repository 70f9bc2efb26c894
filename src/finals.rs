//! Which configs are measured again, in which order, and the decision between them. Pure: the same results
//! give the same next step, so a killed final resumes by replay.
//!
//! The leaders of the search and today's configuration are redeployed in interleaved, shuffled rounds. What
//! is compared is the logarithm of the ratio of two rates of the *same round*, so that drift cancels. The
//! rounds are looked at one after the other with boundaries that keep the chance of a false win under 2.5 %
//! for all looks and all finalists together; the search's own figures decide nothing here.
//!
//! Deliberately not here: choosing from one measurement, gains without an interval, and waiting.

mod boundary;
mod cost;
mod standing;
mod void;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, CapacityVerdict, GENERATOR_LIMITED};
use crate::optimizer;
use crate::space::{Config, Space};
use crate::trial::{History, Outcome, Trial, TrialPhase};
use crate::units::{Ratio, Rps};

use standing::{Look, Round, Standing, judge};

/// How the finals are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalsPlan {
    /// Most rounds; each has every remaining finalist and the baseline.
    pub pairs: u32,
    /// Finals end early when a gain of this much is excluded.
    pub minimum_gain: Ratio,
    /// Relative deviation from trial to trial that the search has seen: what is known of the noise before
    /// the first pair.
    pub noise: Ratio,
    /// The study's seed: it shuffles the rounds.
    pub seed: u64,
    /// The rate that must be carried, where the cheapest config that does is wanted.
    #[serde(default)]
    pub required: Option<Rps>,
}

impl FinalsPlan {
    /// A plan of at most `pairs` rounds, with the usual noise of 5 % and a gain of 3 % as the least that matters.
    #[must_use]
    pub fn new(pairs: u32, seed: u64) -> Self {
        Self {
            pairs: pairs.clamp(1, 100),
            minimum_gain: Ratio::saturating(0.03),
            noise: Ratio::saturating(0.05),
            seed,
            required: None,
        }
    }

    /// The same for the dual question: the cheapest config that carries `required`.
    #[must_use]
    pub fn with_required(mut self, required: Option<Rps>) -> Self {
        self.required = required;
        self
    }

    /// The same with the noise that the search has learned (`Recommendation::noise`).
    #[must_use]
    pub fn with_noise(mut self, noise: f64) -> Self {
        self.noise = Ratio::saturating(noise.clamp(0.01, 0.5));
        self
    }
}

/// Most finalists besides the baseline.
pub const MOST_FINALISTS: usize = 3;

/// The configs that are measured again, the recommended one first (the cheapest within the noise of the
/// best where the space has a cost), without the baseline, which takes part in every final.
#[must_use]
pub fn finalists(space: &Space, history: &History, required: Option<Rps>) -> Vec<Config> {
    match required {
        Some(rate) => cost::finalists(space, history, rate, MOST_FINALISTS),
        None => optimizer::leaders(space, history, required, MOST_FINALISTS),
    }
}

/// One measurement of the finals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalResult {
    /// What was measured.
    pub config: Config,
    /// In which round, from 1.
    pub round: u32,
    /// Sustainable rate; None when the config failed.
    pub rate: Option<Rps>,
    /// 90 % interval of the rate, requests per second.
    pub interval_rps: [f64; 2],
    /// The rate is a lower bound: the generator or the allowed maximum was reached.
    pub at_least: bool,
    /// It was stable under load.
    pub stable: bool,
    /// 99th percentile of the latency at the confirmed rate, milliseconds.
    pub latency_ms_p99: Option<f64>,
    /// What kept the load from being offered, where that and not the config ended the search (the generator, its clock, an
    /// agent): `rate` is then a lower bound, and without a rate nothing is known of the config.
    #[serde(default)]
    pub void: Option<String>,
}

impl FinalResult {
    /// What a trial of the finals says; None for trials of other phases, open ones, and those that say
    /// nothing about the config (infrastructure faults, interruptions), which are measured again.
    #[must_use]
    pub fn of_trial(trial: &Trial) -> Option<Self> {
        let round = trial.round.filter(|_| trial.phase == TrialPhase::Final)?;
        let mut result = Self {
            config: trial.config.clone(),
            round,
            rate: None,
            interval_rps: [0.0, 0.0],
            at_least: false,
            stable: true,
            latency_ms_p99: None,
            void: None,
        };
        match trial.outcome.as_ref()? {
            Outcome::Failed { .. } => result.stable = false,
            Outcome::Infrastructure { .. } | Outcome::Interrupted => return None,
            Outcome::Measured { capacity: c } => {
                let rate = match c.verdict {
                    CapacityVerdict::AtMost => Some(c.interval_rps[1]),
                    CapacityVerdict::None => None,
                    _ => c.sustainable_rps,
                };
                result.rate = rate.and_then(|r| Rps::new(r).ok());
                result.interval_rps = c.interval_rps;
                result.at_least = matches!(
                    c.verdict,
                    CapacityVerdict::AtLeast | CapacityVerdict::GeneratorLimited
                );
                result.void = why_void(c);
                result.stable = !c.reasons.iter().any(|r| r.to_lowercase().contains("unstable"));
                result.latency_ms_p99 = trial
                    .probes
                    .iter()
                    .find(|p| Some(p.number) == c.confirmed_by)
                    .map(|p| p.measurement.latency_ms.p99);
            }
        }
        Some(result)
    }
}

/// Why the load could not be offered, where that ended the search of a rate.
fn why_void(c: &Capacity) -> Option<String> {
    let is_void = c.verdict == CapacityVerdict::GeneratorLimited;
    let said = c.reasons.iter().find_map(|r| r.strip_prefix(GENERATOR_LIMITED));
    is_void.then(|| said.map_or_else(|| c.reasons.join("; "), str::to_owned))
}

/// "1 complete round is", "3 complete rounds are".
fn rounds_are(n: usize) -> String {
    match n {
        0 => "no complete round is".to_owned(),
        1 => "1 complete round is".to_owned(),
        n => format!("{n} complete rounds are"),
    }
}

/// The next thing to do in the finals.
#[derive(Debug, Clone, PartialEq)]
pub enum FinalStep {
    /// Deploy and measure this in this round.
    Measure {
        /// What.
        config: Config,
        /// Round, from 1.
        round: u32,
    },
    /// Finished.
    Decided(Decision),
}

/// How the finals ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalVerdict {
    /// A finalist is faster than the baseline beyond the noise.
    Win,
    /// No gain was shown: the baseline stays.
    NoGain,
    /// Every finalist is slower than the baseline, or failed: the baseline stays.
    Worse,
    /// Too few rounds that compare anything: the baseline stays.
    Undecided,
}

/// What the finals decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// How it ended.
    pub verdict: FinalVerdict,
    /// The config to run: the winner, or the baseline.
    pub config: Config,
    /// Gain over the baseline, relative (0.08 is 8 % more), of the winner or else of the best finalist: lower
    /// end, point, upper end of the 95 % interval, adjusted for the looks and the finalists. None where no
    /// pair could be compared.
    pub gain: Option<[f64; 3]>,
    /// Rounds with a rate of both.
    pub pairs: u32,
    /// The smallest true gain that these rounds would have shown with 80 % probability, relative.
    pub minimum_detectable_gain: Option<f64>,
    /// Mean sustainable rate of the baseline in the finals (geometric), requests per second.
    pub baseline_rps: Option<f64>,
    /// The same of the winner, or else of the best finalist.
    pub winner_rps: Option<f64>,
    /// The config that `gain` and `winner_rps` speak of.
    pub candidate: Option<Config>,
    /// The candidate reached the highest rate that could be offered (`[capacity] max`, or what the generator sends) in
    /// at least one round: its rate and the gain are lower bounds, and the upper end of the interval is open.
    #[serde(default)]
    pub at_least: bool,
    /// Which side could not be measured in which share of the rounds, and why: these rounds compare nothing.
    #[serde(default)]
    pub void: Option<String>,
    /// The decision in a sentence or two.
    pub words: String,
}

/// The next measurement, or the decision. `done` has the results in the order in which they were measured;
/// `time_left` says whether there is time for one more round.
#[must_use]
pub fn next_final(
    plan: &FinalsPlan,
    space: &Space,
    finalists: &[Config],
    baseline: &Config,
    done: &[FinalResult],
    time_left: bool,
) -> FinalStep {
    if let Some(required) = plan.required {
        let standing = cost::CostStanding::new(plan, required, space, finalists, baseline);
        return next_cost_final(plan, standing, finalists, baseline, done, time_left);
    }
    let mut standing = Standing::new(plan, space, finalists, baseline);
    let mut used = vec![false; done.len()];
    for round in 1..=plan.pairs {
        if let Some(decision) = judge(&standing, Look::Between) {
            return FinalStep::Decided(decision);
        }
        let mut results = Round::new(finalists.len());
        for slot in order(plan.seed, round, &standing.remaining()) {
            let config = slot.map_or(baseline, |i| &finalists[i]);
            let found =
                (0..done.len()).find(|i| !used[*i] && done[*i].round == round && done[*i].config == *config);
            match found {
                Some(i) => {
                    used[i] = true;
                    results.set(slot, &done[i]);
                }
                // A round that cannot be finished does not count.
                None if !time_left => return FinalStep::Decided(standing.last_word()),
                None => {
                    return FinalStep::Measure {
                        config: config.clone(),
                        round,
                    };
                }
            }
        }
        standing.add(results);
    }
    FinalStep::Decided(standing.last_word())
}

/// The same for the dual question.
fn next_cost_final<'a>(
    plan: &FinalsPlan,
    mut standing: cost::CostStanding<'a>,
    finalists: &'a [Config],
    baseline: &'a Config,
    done: &'a [FinalResult],
    time_left: bool,
) -> FinalStep {
    // What a plan of one round leaves: nothing is proven, and that is said.
    let undecided = |s: &cost::CostStanding<'_>| s.judge(true).unwrap_or_else(|| s.undecided());
    for round in 1..=plan.pairs {
        if let Some(decision) = standing.judge(false) {
            return FinalStep::Decided(decision);
        }
        let mut results = Vec::new();
        for slot in order(plan.seed, round, &standing.remaining()) {
            let config = slot.map_or(baseline, |i| &finalists[i]);
            match done.iter().find(|d| d.round == round && d.config == *config) {
                Some(found) => results.push((slot, found)),
                None if !time_left => return FinalStep::Decided(undecided(&standing)),
                None => {
                    return FinalStep::Measure {
                        config: config.clone(),
                        round,
                    };
                }
            }
        }
        standing.add(&results);
    }
    FinalStep::Decided(undecided(&standing))
}

/// The order of one round: the remaining finalists and the baseline (None), shuffled.
fn order(seed: u64, round: u32, remaining: &[usize]) -> Vec<Option<usize>> {
    let mut slots: Vec<Option<usize>> = remaining.iter().map(|i| Some(*i)).collect();
    slots.push(None);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((9 << 40) | u64::from(round));
    for i in (1..slots.len()).rev() {
        slots.swap(i, rng.random_range(0..=i));
    }
    slots
}

#[cfg(test)]
mod tests;
