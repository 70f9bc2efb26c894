//! What the study does next, as a pure function of the trials so far and the time that is left.
//!
//! Baseline first; in studies that are long enough the baseline again (how much does the same differ from itself?) and
//! each knob alone at its ends (is it live?); then search trials with the baseline again now and then (drift), then
//! the finals. It keeps no state: a resumed study goes on where the journal ends.

mod hosts;

use std::time::Duration;

pub use self::hosts::{Shared, as_seen_from, next_final_on, next_shared};

use crate::capacity::CapacityVerdict;
use crate::diagnosis::{self, Code};
use crate::finals::{self, Decision, FinalResult, FinalStep, FinalsPlan};
use crate::optimizer::{self, Ask, AskContext, Optimizer};
use crate::space::{Config, Space};
use crate::trial::{History, Outcome, Trial, TrialPhase};
use crate::units::Rps;

/// Finals never take more than this share of a budget.
pub(crate) const FINALS_SHARE: f64 = 0.45;
/// Trials from which on the baseline is measured twice at the start.
const REPEAT_FROM: u32 = 12;
/// Trials in a row whose limit was the generator, after which the search ends.
const GENERATOR_TRIALS: usize = 3;
const NOTHING_BETTER: &str = "generator-limited: the service carries all that the load generator can send, again and again, so nothing \
     better could be seen; give it more [load] connections or CPU";
/// The knobs' ends may take this part of the trials.
const KNOBS_PART: u32 = 5;

/// The study's limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Most search trials.
    pub trials: Option<u32>,
    /// Kept for the finals; None: computed from measured times.
    pub reserve: Option<Duration>,
    /// Most rounds of the finals.
    pub pairs: u32,
    /// The recorded seed.
    pub seed: u64,
    /// The rate that is required, where the cheapest config that carries it is wanted.
    pub required: Option<Rps>,
}

/// The time that the run has used and has left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// The whole budget, where there is one.
    pub budget: Option<Duration>,
    /// What is left of it.
    pub left: Option<Duration>,
}

impl Clock {
    /// After `used` of this run and `before` of earlier ones. The budget is that of all runs together; `until` is the end of
    /// this one, whatever was used before.
    #[must_use]
    pub fn of(budget: Option<Duration>, until: Option<Duration>, used: Duration, before: Duration) -> Self {
        let by_budget = budget.map(|b| b.saturating_sub(used + before));
        let by_clock = until.map(|u| u.saturating_sub(used));
        Self {
            budget: [budget, until.map(|u| u + before)].into_iter().flatten().min(),
            left: [by_budget, by_clock].into_iter().flatten().min(),
        }
    }
}

/// The next thing.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Run this trial.
    Trial {
        /// Part of the run.
        phase: TrialPhase,
        /// Config.
        config: Config,
        /// Round of the finals.
        round: Option<u32>,
    },
    /// The search is over, for this reason; the finals begin (ask again with `searching` false).
    SearchOver(String),
    /// The finals decided.
    Decided(Box<Decision>),
    /// Nothing can be decided; why.
    Nothing(String),
}

/// History for the optimizer: what every trial but the finals tells.
#[must_use]
pub fn history(trials: &[Trial]) -> History {
    trials.iter().filter_map(Trial::observation).collect()
}

/// The next trial of the search, or why it is over. `prior` is what an earlier study knew: the optimizer sees it before
/// the trials of this one; the finals don't see it.
#[must_use]
pub fn next_search(
    space: &Space,
    limits: &Limits,
    trials: &[Trial],
    prior: &History,
    clock: Clock,
    optimizer: &dyn Optimizer,
) -> Next {
    let over = |why: &str| Next::SearchOver(why.to_owned());
    if trials.iter().any(|t| t.phase == TrialPhase::Final) {
        return over("the finals had begun");
    }
    let baseline = space.baseline();
    let ended = |t: &&Trial| matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. }));
    if !trials
        .iter()
        .filter(ended)
        .any(|t| t.phase == TrialPhase::Baseline)
    {
        return trial(TrialPhase::Baseline, baseline, None);
    }
    if nothing_better_can_be_seen(space, trials) {
        return over(NOTHING_BETTER);
    }
    match before_search(space, limits, trials, clock) {
        Some(Ok(next)) => return next,
        Some(Err(why)) => return Next::SearchOver(why),
        None => {}
    }
    let space = &diagnosis::without_frozen(space, trials);
    if diagnosis::nothing_to_move(space) {
        return over("nothing that is tuned changes anything");
    }
    let searched = trials
        .iter()
        .filter(ended)
        .filter(|t| t.phase == TrialPhase::Search)
        .count();
    if limits.trials.is_some_and(|n| searched >= n as usize) {
        return over("all trials of the budget are done");
    }
    if let Some(left) = clock.left
        && left < finals_reserve(limits, trials, clock).saturating_add(typical(trials, false))
    {
        return over("the rest of the time is kept for the finals");
    }
    let mut seen = prior.clone();
    seen.extend(history(trials));
    let context = AskContext {
        seed: limits.seed,
        trials: affordable(limits, trials, clock),
        required: limits.required,
    };
    match optimizer.ask(space, &seen, &context) {
        Ask::Config(config) => trial(optimizer::phase_of(space, &seen, &config), config, None),
        Ask::Stop(why) => over(&why),
    }
}

/// The generator, not the service, was the limit of this trial.
fn generator_limited(t: &Trial) -> bool {
    t.binding.as_deref() == Some(Code::Generator.name())
        || t.capacity()
            .is_some_and(|c| c.verdict == CapacityVerdict::GeneratorLimited)
}

/// The last trials all reached what the generator can send, and no cost makes a difference between them.
fn nothing_better_can_be_seen(space: &Space, trials: &[Trial]) -> bool {
    let told = |t: &&Trial| matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. }));
    let last: Vec<&Trial> = trials.iter().rev().filter(told).take(GENERATOR_TRIALS).collect();
    space.cost.is_none() && last.len() == GENERATOR_TRIALS && last.iter().all(|t| generator_limited(t))
}

/// What is measured between the baseline and the search: the baseline again, then each knob at its ends. Err: why no
/// search is worth its time.
fn before_search(
    space: &Space,
    limits: &Limits,
    trials: &[Trial],
    clock: Clock,
) -> Option<Result<Next, String>> {
    let of = |phase: TrialPhase| {
        trials
            .iter()
            .filter(move |t| t.phase == phase)
            .filter(|t| matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. })))
    };
    let first = of(TrialPhase::Baseline).next_back()?;
    if of(TrialPhase::Search).next().is_some() {
        return None; // its time is over
    }
    let generator = generator_limited;
    let code = first.binding.as_deref().and_then(Code::of_name);
    // What no setting moves is worth proving even in a short study: it saves the rest of it.
    let hopeless = generator(first) || code.is_some_and(diagnosis::is_beyond_tuning);
    if first.capacity().is_none() && !hopeless {
        return None; // no rate to compare with
    }
    let room = affordable(limits, trials, clock);
    let fits = |needed: u32| hopeless || room.is_none_or(|n| n >= needed);
    match of(TrialPhase::Anchor).next() {
        None if fits(REPEAT_FROM) => return Some(Ok(trial(TrialPhase::Anchor, space.baseline(), None))),
        Some(again) if generator(first) && generator(again) && space.cost.is_none() => {
            return Some(Err(NOTHING_BETTER.to_owned()));
        }
        _ => {}
    }
    let ends = diagnosis::extremes(space);
    let begun = of(TrialPhase::Knob).next().is_some();
    let many = u32::try_from(2 * ends.len()).unwrap_or(u32::MAX);
    if !begun && !fits(many.saturating_mul(KNOBS_PART)) {
        return None;
    }
    let done = |c: &Config| {
        trials.iter().any(|t| {
            t.config == *c
                && !matches!(
                    t.outcome,
                    Some(Outcome::Interrupted | Outcome::Infrastructure { .. })
                )
        })
    };
    ends.into_iter()
        .flat_map(|e| [e.low, e.high])
        .find(|c| !done(c))
        .map(|c| Ok(trial(TrialPhase::Knob, c, None)))
}

/// The configs that are measured again beside the baseline.
#[must_use]
pub fn finalists(space: &Space, limits: &Limits, trials: &[Trial], clock: Clock) -> Vec<Config> {
    let space = &diagnosis::without_frozen(space, trials);
    let mut list = finals::finalists(space, &history(trials), limits.required);
    list.truncate(finalists_wanted(trials, clock).min(finalists_in_time(trials, clock)) as usize);
    list
}

/// How many finalists two rounds are left for when the finals begin: today's configuration and one at the least, since two
/// of one say more than one of several. What the finals have used themselves is given back to them, so that the number
/// does not shrink while they run.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn finalists_in_time(trials: &[Trial], clock: Clock) -> u32 {
    let most = u32::try_from(finals::MOST_FINALISTS).unwrap_or(1);
    let Some(left) = clock.left else { return most };
    let used: f64 = trials
        .iter()
        .filter(|t| t.phase == TrialPhase::Final)
        .map(|t| t.seconds.max(0.0))
        .sum();
    // Finals measure a rate, lost races only a bound, in a fraction of the time.
    let whole: Vec<Trial> = trials
        .iter()
        .filter(|t| t.phase != TrialPhase::Final)
        .filter(|t| t.capacity().is_some_and(|c| c.verdict != CapacityVerdict::AtMost))
        .cloned()
        .collect();
    let each = typical(&whole, false).as_secs_f64().max(1.0);
    ((left.as_secs_f64() + used) / (2.0 * each) - 1.0)
        .max(1.0)
        .min(f64::from(most)) as u32
}

/// The next trial of the finals, or the decision.
#[must_use]
pub fn next_final(space: &Space, limits: &Limits, trials: &[Trial], clock: Clock) -> Next {
    next_final_from(space, limits, trials, clock, 1)
}

/// The same for finals that begin with trial `first`.
fn next_final_from(space: &Space, limits: &Limits, trials: &[Trial], clock: Clock, first: u32) -> Next {
    let finalists = finalists(space, limits, trials, clock);
    if finalists.is_empty() {
        return Next::Nothing(why_nothing(space, trials).to_owned());
    }
    next_pairing(space, limits, trials, clock, &finalists, first)
}

/// Why nothing is there to be compared with today's configuration.
fn why_nothing(space: &Space, trials: &[Trial]) -> &'static str {
    let mut measured = trials.iter().filter(|t| t.capacity().is_some()).peekable();
    if diagnosis::nothing_to_move(&diagnosis::without_frozen(space, trials)) {
        "nothing that is tuned changes anything"
    } else if measured.peek().is_none() {
        "no configuration kept the objective at any rate, today's neither"
    } else if measured.all(generator_limited) {
        NOTHING_BETTER
    } else if !trials
        .iter()
        .any(|t| t.phase == TrialPhase::Search && t.outcome.is_some())
    {
        "only today's configuration was measured, the budget held no other trial; raise it (--budget, or [study] budget)"
    } else {
        "nothing but today's configuration carried anything"
    }
}

/// The next trial of a confirmation of `candidate`, or the decision. Only trials from number `first` on count, so that
/// earlier finals decide nothing here; `candidate` may be today's configuration, which is then measured against itself.
#[must_use]
pub fn next_confirm(
    space: &Space,
    limits: &Limits,
    trials: &[Trial],
    clock: Clock,
    candidate: &Config,
    first: u32,
) -> Next {
    next_pairing(
        space,
        limits,
        trials,
        clock,
        std::slice::from_ref(candidate),
        first,
    )
}

/// The next trial of interleaved rounds that begin with trial `first`. Rounds of earlier finals keep their numbers: new
/// ones go on counting.
fn next_pairing(
    space: &Space,
    limits: &Limits,
    trials: &[Trial],
    clock: Clock,
    finalists: &[Config],
    first: u32,
) -> Next {
    let earlier = trials.iter().filter(|t| t.number < first);
    let rounds_before = earlier.filter_map(|t| t.round).max().unwrap_or(0);
    let done: Vec<FinalResult> = trials
        .iter()
        .filter(|t| t.number >= first)
        .filter_map(FinalResult::of_trial)
        .map(|mut r| {
            r.round = r.round.saturating_sub(rounds_before);
            r
        })
        .collect();
    // A round that has begun needs only what is missing in it.
    let another = clock
        .left
        .is_none_or(|left| left >= round_needs(space, trials, finalists, &done));
    let noise = optimizer::recommend(space, &history(trials), limits.required).map_or(0.05, |r| r.noise);
    let plan = FinalsPlan::new(limits.pairs, limits.seed)
        .with_noise(noise)
        .with_required(limits.required);
    match finals::next_final(&plan, space, finalists, &space.baseline(), &done, another) {
        FinalStep::Measure { config, round } => trial(
            TrialPhase::Final,
            config,
            Some(round.saturating_add(rounds_before)),
        ),
        FinalStep::Decided(decision) => Next::Decided(Box::new(decision)),
    }
}

/// Time for what is missing in the round that has begun, or else for a whole one: each config takes as long as it took in
/// these finals before, a fast one less than a slow one, and a typical trial where it was not measured yet.
fn round_needs(space: &Space, trials: &[Trial], finalists: &[Config], done: &[FinalResult]) -> Duration {
    let baseline = space.baseline();
    let last = done.iter().map(|d| d.round).max().unwrap_or(0);
    let mut missing: Vec<&Config> = finalists.iter().chain([&baseline]).collect();
    // One by one: today's configuration may be measured against itself.
    for d in done.iter().filter(|d| d.round == last) {
        if let Some(i) = missing.iter().position(|c| **c == d.config) {
            missing.swap_remove(i);
        }
    }
    if missing.is_empty() {
        missing = finalists.iter().chain([&baseline]).collect();
    }
    missing
        .into_iter()
        .map(|c| {
            let own: Vec<Trial> = trials
                .iter()
                .filter(|t| t.phase == TrialPhase::Final && t.config == *c)
                .cloned()
                .collect();
            match typical(&own, true) {
                Duration::ZERO => typical(trials, true),
                known => known,
            }
        })
        .fold(Duration::ZERO, Duration::saturating_add)
}

fn trial(phase: TrialPhase, config: Config, round: Option<u32>) -> Next {
    Next::Trial { phase, config, round }
}

/// Search trials that trials and time allow in all, as far as that is known: the search spends them by it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn affordable(limits: &Limits, trials: &[Trial], clock: Clock) -> Option<u32> {
    let by_time = clock.left.map(|left| {
        let free = left
            .saturating_sub(finals_reserve(limits, trials, clock))
            .as_secs_f64();
        let each = typical(trials, false).as_secs_f64().max(1.0);
        u32::try_from(trials.len())
            .unwrap_or(u32::MAX)
            .saturating_add((free / each).min(1e6) as u32)
    });
    // The trials before the search are not taken from the number that was asked for.
    let before = trials
        .iter()
        .filter(|t| t.phase == TrialPhase::Knob || t.phase == TrialPhase::Anchor)
        .count();
    let asked = limits
        .trials
        .map(|n| n.saturating_add(u32::try_from(before).unwrap_or(0)));
    match (asked, by_time) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Median seconds of a measured trial; of the finals where there are any and they are asked for.
fn typical(trials: &[Trial], finals: bool) -> Duration {
    let of = |final_only: bool| {
        let mut s: Vec<f64> = trials
            .iter()
            .filter(|t| !final_only || t.phase == TrialPhase::Final)
            .filter(|t| matches!(t.outcome, Some(Outcome::Measured { .. })) && t.seconds.is_finite())
            .map(|t| t.seconds)
            .collect();
        s.sort_by(f64::total_cmp);
        s.get(s.len() / 2).copied()
    };
    let seconds = finals
        .then(|| of(true))
        .flatten()
        .or_else(|| of(false))
        .unwrap_or(0.0);
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

/// Time kept for the finals: every finalist and the baseline, `pairs` rounds, at most a share of the budget.
#[must_use]
pub fn finals_reserve(limits: &Limits, trials: &[Trial], clock: Clock) -> Duration {
    if let Some(r) = limits.reserve {
        return r;
    }
    let round = typical(trials, false).saturating_mul(finalists_wanted(trials, clock) + 1);
    let wanted = round.saturating_mul(limits.pairs.max(2));
    clock
        .budget
        .map_or(wanted, |b| wanted.min(b.mul_f64(FINALS_SHARE)))
}

/// How many finalists two rounds can be afforded for: three, or fewer when the budget is a few minutes. Computed from the
/// whole budget and the search trials alone, so that it stays the same while the finals run.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn finalists_wanted(trials: &[Trial], clock: Clock) -> u32 {
    let most = u32::try_from(finals::MOST_FINALISTS).unwrap_or(1);
    let explored: Vec<Trial> = trials
        .iter()
        .filter(|t| t.phase != TrialPhase::Final)
        .cloned()
        .collect();
    let each = typical(&explored, false).as_secs_f64().max(1.0);
    clock.budget.map_or(most, |b| {
        let affordable = b.as_secs_f64() * FINALS_SHARE / (2.0 * each);
        ((affordable - 1.0).max(1.0) as u32).min(most)
    })
}

/// The best sustainable rate among comparable trials.
#[must_use]
pub fn incumbent(trials: &[Trial]) -> Option<Rps> {
    trials
        .iter()
        .filter(|t| t.phase != TrialPhase::Final)
        .filter_map(|t| {
            t.capacity()
                .filter(|c| c.verdict == CapacityVerdict::Sustainable)?
                .sustainable_rps
        })
        .max_by(f64::total_cmp)
        .and_then(|r| Rps::new(r).ok())
}

/// A guess for `config`: the rate of the nearest config that was measured, in the unit cube.
#[must_use]
pub fn prior_rate(space: &Space, trials: &[Trial], config: &Config) -> Option<Rps> {
    let at = space.encode(config);
    let distance = |c: &Config| -> f64 {
        space
            .encode(c)
            .iter()
            .zip(&at)
            .map(|(a, b)| (a - b) * (a - b))
            .sum()
    };
    trials
        .iter()
        .filter_map(|t| {
            let c = t.capacity()?;
            let rate = match c.verdict {
                CapacityVerdict::AtMost => c.interval_rps[1],
                _ => c.sustainable_rps?,
            };
            Some((distance(&t.config), rate))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .and_then(|(_, rate)| Rps::new(rate).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Capacity;
    use crate::optimizer::Sobol;
    use crate::space::{Binding, Domain, Parameter, Value};

    fn space() -> Space {
        Space {
            parameters: vec![Parameter {
                name: "pool_size".into(),
                domain: Domain::Int {
                    low: 1,
                    high: 64,
                    step: 1,
                    log: true,
                },
                baseline: Value::Int(2),
                binding: Binding::Unbound,
                only_if: None,
            }],
            ..Space::default()
        }
    }

    fn limits(trials: u32) -> Limits {
        Limits {
            trials: Some(trials),
            reserve: None,
            pairs: 3,
            seed: 1,
            required: None,
        }
    }

    const NO_CLOCK: Clock = Clock {
        budget: None,
        left: None,
    };

    fn done(number: u32, phase: TrialPhase, config: &Config, round: Option<u32>, rps: f64) -> Trial {
        let capacity = Capacity {
            verdict: CapacityVerdict::Sustainable,
            sustainable_rps: Some(rps),
            goodput_rps: rps,
            interval_rps: [rps * 0.98, rps * 1.02],
            error_ratio_upper: 0.01,
            peak_offered_rps: rps * 1.3,
            confirmed_by: None,
            reasons: Vec::new(),
        };
        Trial {
            number,
            phase,
            config: config.clone(),
            outcome: Some(Outcome::Measured { capacity }),
            probes: Vec::new(),
            started_at: String::new(),
            seconds: 20.0,
            round,
            host: String::new(),
            binding: None,
        }
    }

    /// Plays a whole study on a service that carries ten times its pool size.
    fn play(search: u32) -> (Vec<Trial>, Next) {
        let (space, limits) = (space(), limits(search));
        let mut trials: Vec<Trial> = Vec::new();
        for _ in 0..200 {
            let next = match next_search(&space, &limits, &trials, &History::new(), NO_CLOCK, &Sobol) {
                Next::SearchOver(_) => next_final(&space, &limits, &trials, NO_CLOCK),
                next => next,
            };
            let Next::Trial { phase, config, round } = next else {
                return (trials, next);
            };
            let rps = 10.0 * config.get("pool_size").and_then(Value::as_f64).unwrap();
            let number = u32::try_from(trials.len()).unwrap() + 1;
            trials.push(done(number, phase, &config, round, rps));
        }
        panic!("the study does not end");
    }

    #[test]
    fn baseline_first_then_the_search_then_finals_that_decide() {
        let (trials, end) = play(5);
        assert_eq!(trials[0].phase, TrialPhase::Baseline);
        assert!(
            (3..=5).contains(&trials.iter().filter(|t| t.phase == TrialPhase::Search).count()),
            "five, or fewer when nothing is left to try"
        );
        let first_final = trials.iter().position(|t| t.phase == TrialPhase::Final).unwrap();
        assert!(
            trials[first_final..].iter().all(|t| t.phase == TrialPhase::Final),
            "search after the finals began"
        );
        assert!(matches!(end, Next::Decided(d) if d.verdict == crate::finals::FinalVerdict::Win));
    }

    /// A longer study measures today's configuration again and each knob at its ends before it searches; these trials
    /// are not taken from the number that was asked for.
    #[test]
    fn a_long_study_first_looks_at_noise_and_knobs() {
        let (trials, _) = play(14);
        let phases: Vec<&str> = trials.iter().take(5).map(|t| t.phase.name()).collect();
        assert_eq!(phases, ["baseline", "anchor", "knob", "knob", "search"]);
        let (short, _) = play(5);
        assert!(
            short
                .iter()
                .all(|t| t.phase != TrialPhase::Anchor && t.phase != TrialPhase::Knob)
        );
    }

    /// Behind a rate limiter nothing that is tuned matters: that is proven, and the night is saved.
    #[test]
    fn behind_a_limiter_the_knobs_are_proven_dead_and_the_search_ends() {
        let (space, limits) = (space(), limits(5));
        let mut trials: Vec<Trial> = Vec::new();
        for _ in 0..20 {
            let next = next_search(&space, &limits, &trials, &History::new(), NO_CLOCK, &Sobol);
            let Next::Trial { phase, config, round } = next else {
                assert!(matches!(next, Next::SearchOver(why) if why.contains("nothing that is tuned")));
                assert_eq!(trials.len(), 4, "baseline, again, both ends");
                let end = next_final(&space, &limits, &trials, NO_CLOCK);
                assert!(matches!(end, Next::Nothing(why) if why.contains("nothing that is tuned")));
                return;
            };
            let number = u32::try_from(trials.len()).unwrap() + 1;
            let mut t = done(number, phase, &config, round, 30.0);
            t.binding = Some(Code::RateLimiter.name().to_owned());
            trials.push(t);
        }
        panic!("the search goes on behind a limiter");
    }

    #[test]
    fn a_generator_that_is_the_limit_twice_ends_the_search() {
        let (space, limits) = (space(), limits(5));
        let mut trials: Vec<Trial> = Vec::new();
        for phase in [TrialPhase::Baseline, TrialPhase::Anchor] {
            let next = next_search(&space, &limits, &trials, &History::new(), NO_CLOCK, &Sobol);
            assert!(
                matches!(next, Next::Trial { phase: p, .. } if p == phase),
                "{next:?}"
            );
            let mut t = done(1, phase, &space.baseline(), None, 25.0);
            if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
                capacity.verdict = CapacityVerdict::GeneratorLimited;
            }
            trials.push(t);
        }
        let end = next_search(&space, &limits, &trials, &History::new(), NO_CLOCK, &Sobol);
        assert!(matches!(end, Next::SearchOver(why) if why.contains("generator")));
    }

    /// A study that was cut off anywhere goes on with the trial that would have come next.
    #[test]
    fn resuming_is_replaying() {
        let (trials, _) = play(4);
        for cut in 0..trials.len() {
            let (space, limits) = (space(), limits(4));
            let next = match next_search(&space, &limits, &trials[..cut], &History::new(), NO_CLOCK, &Sobol) {
                Next::SearchOver(_) => next_final(&space, &limits, &trials[..cut], NO_CLOCK),
                next => next,
            };
            let Next::Trial { phase, config, round } = next else {
                panic!("ends after {cut} trials")
            };
            let t = &trials[cut];
            assert_eq!(
                (phase, &config, round),
                (t.phase, &t.config, t.round),
                "after {cut} trials"
            );
        }
    }

    /// Interrupted and infrastructure trials are asked again: they count as nothing.
    #[test]
    fn what_says_nothing_is_asked_again() {
        let (space, limits) = (space(), limits(4));
        let mut open = done(1, TrialPhase::Baseline, &space.baseline(), None, 20.0);
        open.outcome = Some(Outcome::Interrupted);
        let next = next_search(&space, &limits, &[open], &History::new(), NO_CLOCK, &Sobol);
        assert!(matches!(
            next,
            Next::Trial {
                phase: TrialPhase::Baseline,
                ..
            }
        ));
    }

    #[test]
    fn the_finals_keep_their_share_of_a_short_budget() {
        let baseline = done(1, TrialPhase::Baseline, &space().baseline(), None, 20.0);
        let clock = |left: u64| Clock {
            budget: Some(Duration::from_secs(240)),
            left: Some(Duration::from_secs(left)),
        };
        let ask = |left| {
            next_search(
                &space(),
                &limits(50),
                std::slice::from_ref(&baseline),
                &History::new(),
                clock(left),
                &Sobol,
            )
        };
        assert!(matches!(
            ask(220),
            Next::Trial {
                phase: TrialPhase::Search,
                ..
            }
        ));
        assert!(
            matches!(ask(100), Next::SearchOver(_)),
            "nothing would be left for the finals"
        );
        assert!(
            finals_reserve(&limits(50), std::slice::from_ref(&baseline), clock(220))
                <= Duration::from_secs(108)
        );
    }

    /// Fails when little time is spread over three finalists, so that no two rounds are complete, or when finals that began
    /// with one finalist take in another on the way.
    #[test]
    fn little_time_for_the_finals_is_spent_on_one_finalist() {
        let at = |n: i64| -> Config { [("pool_size".to_owned(), Value::Int(n))].into_iter().collect() };
        let mut trials = vec![done(1, TrialPhase::Baseline, &space().baseline(), None, 20.0)];
        for (i, n) in [10, 20, 40].into_iter().enumerate() {
            let number = u32::try_from(i).unwrap() + 2;
            trials.push(done(number, TrialPhase::Search, &at(n), None, 10.0 * n as f64));
        }
        // Lost races take less time than finals do.
        for number in 5..12 {
            let mut race = done(number, TrialPhase::Search, &at(3), None, 30.0);
            race.seconds = 4.0;
            if let Some(Outcome::Measured { capacity }) = &mut race.outcome {
                capacity.verdict = CapacityVerdict::AtMost;
            }
            trials.push(race);
        }
        let clock = |left: u64| Clock {
            budget: Some(Duration::from_secs(3_600)),
            left: Some(Duration::from_secs(left)),
        };
        let many = |left| finalists(&space(), &limits(50), &trials, clock(left)).len();
        assert_eq!([many(600), many(125), many(85), many(45)], [3, 2, 1, 1]);
        // Four trials of 20 s: two complete rounds, and a decision.
        let mut left = 85;
        for _ in 0..20 {
            match next_final(&space(), &limits(50), &trials, clock(left)) {
                Next::Trial { phase, config, round } => {
                    let rps = 10.0 * config.get("pool_size").and_then(Value::as_f64).unwrap();
                    let number = u32::try_from(trials.len()).unwrap() + 1;
                    trials.push(done(number, phase, &config, round, rps));
                    left -= 20;
                }
                Next::Decided(d) => {
                    assert_eq!(d.verdict, crate::finals::FinalVerdict::Win, "{}", d.words);
                    assert_eq!(d.config, at(40));
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("the finals do not end");
    }

    /// Fails when the second round is given up for want of time that it does not need: a fast finalist's trial takes less
    /// than the slow one's of today.
    #[test]
    fn a_round_takes_as_long_as_its_configs_took() {
        let at = |n: i64| -> Config { [("pool_size".to_owned(), Value::Int(n))].into_iter().collect() };
        let mut fast = done(3, TrialPhase::Final, &at(40), Some(1), 400.0);
        fast.seconds = 14.0;
        let mut trials = vec![
            done(1, TrialPhase::Baseline, &space().baseline(), None, 20.0),
            done(2, TrialPhase::Search, &at(40), None, 400.0),
            fast,
            done(4, TrialPhase::Final, &space().baseline(), Some(1), 20.0),
        ];
        trials[3].seconds = 24.0;
        let clock = |left: u64| Clock {
            budget: Some(Duration::from_secs(180)),
            left: Some(Duration::from_secs(left)),
        };
        let next = |left| next_final(&space(), &limits(50), &trials, clock(left));
        assert!(
            matches!(next(39), Next::Trial { round: Some(2), .. }),
            "{:?}",
            next(39)
        );
        assert!(matches!(next(37), Next::Decided(_)), "{:?}", next(37));
    }

    /// A study that was cut off at 02:00 and is resumed with `--until 06:30` has until 06:30, whatever it used before.
    #[test]
    fn until_is_the_end_of_this_run_and_the_budget_that_of_all() {
        let h = |n: u64| Duration::from_secs(n * 3_600);
        let left = |budget, until| Clock::of(budget, until, h(1), h(4)).left;
        assert_eq!(left(None, Some(h(5))), Some(h(4)));
        assert_eq!(left(Some(h(8)), None), Some(h(3)));
        assert_eq!(left(Some(h(8)), Some(h(2))), Some(h(1)));
        assert_eq!(left(None, None), None);
        assert_eq!(Clock::of(None, Some(h(5)), h(1), h(4)).budget, Some(h(9)));
    }
}
