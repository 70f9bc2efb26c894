//! Where the finals stand after some complete rounds: the paired gains, who remains, and the decision.

use super::boundary::{FIRST_LOOK, boundaries, t_like, tail, z_of};
use super::void::{Pair, Side};
use super::{Decision, FinalResult, FinalVerdict, FinalsPlan};
use crate::space::{Config, Space};
use crate::units::Rps;

/// Chance of a false win, over all looks and finalists.
const ALPHA: f64 = 0.025;
/// The first finalist's part of it: the search has pointed at it before the finals began.
const FIRST_SHARE: f64 = 0.8;
/// Before so many pairs what is known of the noise counts as this many degrees of freedom.
const ENOUGH: usize = 4;
const EARLY_FREEDOM: f64 = 4.0;
/// What is known of the noise counts as this many degrees of freedom afterwards.
const PRIOR_FREEDOM: f64 = 12.0;
/// The noise is never taken for smaller than this, nor than that where few rounds can contradict it.
const LEAST_NOISE: f64 = 0.03;
const SHORT_NOISE: f64 = 0.10;
const SHORT: u32 = 3;
/// Winners this close in the logarithm of the rate are equally fast: the cheapest of them is taken.
const TIE: f64 = 0.03;
/// A finalist this many deviations behind the best leaves.
const BEHIND: f64 = 2.5;
/// Chance of still winning under which a finalist is given up, from this round on.
const HOPELESS: f64 = 0.005;
const PATIENCE: u32 = 4;
/// Relative range between repeats above which a config is unstable (TUNA), where the baseline's is smaller.
const UNSTABLE: f64 = 0.30;

/// The results of one round.
#[derive(Debug, Clone)]
pub(super) struct Round<'a> {
    baseline: Option<&'a FinalResult>,
    finalists: Vec<Option<&'a FinalResult>>,
}

impl<'a> Round<'a> {
    pub(super) fn new(finalists: usize) -> Self {
        Self {
            baseline: None,
            finalists: vec![None; finalists],
        }
    }

    /// Sets the result of a finalist, or of the baseline (None).
    pub(super) fn set(&mut self, slot: Option<usize>, result: &'a FinalResult) {
        match slot {
            None => self.baseline = Some(result),
            Some(i) => {
                if let Some(cell) = self.finalists.get_mut(i) {
                    *cell = Some(result);
                }
            }
        }
    }
}

/// Whether more rounds may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Between,
    Last,
}

/// Complete rounds.
pub(super) struct Standing<'a> {
    plan: &'a FinalsPlan,
    space: &'a Space,
    finalists: &'a [Config],
    baseline: &'a Config,
    rounds: Vec<Round<'a>>,
    /// Boundaries of the first finalist and of any other, by look.
    tables: [Vec<f64>; 2],
}

/// What the pairs say of one finalist; logarithms of ratios to the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gain {
    pairs: u32,
    mean: f64,
    /// Deviation of one pair.
    spread: f64,
    freedom: f64,
    /// How many standard errors the interval reaches to each side.
    reach: f64,
}

impl Gain {
    fn error(&self) -> f64 {
        self.spread / f64::from(self.pairs.max(1)).sqrt()
    }
    fn lower(&self) -> f64 {
        self.mean - self.reach * self.error()
    }
    fn upper(&self) -> f64 {
        self.mean + self.reach * self.error()
    }
}

/// How a finalist stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Open,
    Win,
    /// It wins because the baseline does not work at all.
    BaselineFails,
    NoGain,
    Worse,
    Failed,
    Unstable,
}

impl<'a> Standing<'a> {
    pub(super) fn new(
        plan: &'a FinalsPlan,
        space: &'a Space,
        finalists: &'a [Config],
        baseline: &'a Config,
    ) -> Self {
        let table = |i| boundaries(alpha(finalists.len(), i), plan.pairs, plan.pairs, false);
        let others = if finalists.len() > 1 { table(1) } else { Vec::new() };
        Self {
            plan,
            space,
            finalists,
            baseline,
            rounds: Vec::new(),
            tables: [table(0), others],
        }
    }

    pub(super) fn add(&mut self, round: Round<'a>) {
        self.rounds.push(round);
    }

    /// The finalists that are measured in the next round: all that may still win, the clearly slower ones
    /// left out, and from the fourth round on at most two.
    pub(super) fn remaining(&self) -> Vec<usize> {
        let mut open: Vec<(usize, Option<Gain>)> = (0..self.finalists.len())
            .map(|i| (i, self.gain(i, Look::Between)))
            .filter(|(i, g)| {
                matches!(
                    self.place(*i, g.as_ref(), Look::Between),
                    Place::Open | Place::Win | Place::BaselineFails
                )
            })
            .filter(|(i, _)| self.rounds.last().is_none_or(|r| r.finalists[*i].is_some()))
            .collect();
        let mean = |g: &Option<Gain>| g.map_or(f64::NEG_INFINITY, |g| g.mean);
        let best = open
            .iter()
            .map(|(_, g)| mean(g))
            .fold(f64::NEG_INFINITY, f64::max);
        open.retain(|(_, g)| {
            g.is_none_or(|g| g.pairs < FIRST_LOOK || best - g.mean < TIE.max(BEHIND * g.error()))
        });
        if self.rounds.len() >= 3 {
            open.sort_by(|a, b| mean(&b.1).total_cmp(&mean(&a.1)));
            open.truncate(2);
            open.sort_by_key(|(i, _)| *i);
        }
        open.into_iter().map(|(i, _)| i).collect()
    }

    /// The decision when no further round follows.
    pub(super) fn last_word(&self) -> Decision {
        judge(self, Look::Last).unwrap_or_else(|| self.decision(FinalVerdict::Undecided, None))
    }

    fn pair(&self, r: &Round<'a>, i: usize) -> Pair<'a> {
        match (r.finalists.get(i).copied().flatten(), r.baseline) {
            (Some(f), Some(b)) => Pair::of(f, b),
            _ => Pair::Missing,
        }
    }

    /// The rounds that compare nothing, for people: which side, how often, and why; None where there are none.
    fn void(&self, i: usize) -> Option<String> {
        let of = |side: Side| {
            let found: Vec<&str> = self
                .rounds
                .iter()
                .filter_map(|r| match self.pair(r, i) {
                    Pair::Void(s, why) if s == side => Some(why),
                    _ => None,
                })
                .collect();
            found
                .last()
                .map(|why| side.void_words(found.len(), self.rounds.len(), why))
        };
        let both: Vec<String> = [Side::Candidate, Side::Today]
            .into_iter()
            .filter_map(of)
            .collect();
        (!both.is_empty()).then(|| both.join("; "))
    }

    /// The logarithms of the paired ratios of finalist `i`, and the mean variance that the intervals explain.
    fn ratios(&self, i: usize) -> (Vec<f64>, f64) {
        let mut ratios = Vec::new();
        let mut known = 0.0;
        for r in &self.rounds {
            let Pair::Told(f, b) = self.pair(r, i) else {
                continue;
            };
            let (Some(rate), Some(base)) = (f.rate, b.rate) else {
                continue;
            };
            let ratio = (rate.get() / base.get()).ln();
            // A baseline that carries "at least" so much may carry more: no gain can be read from that. A finalist that
            // does only makes the ratio a lower bound: the decision says so (`at_least`).
            ratios.push(if b.at_least { ratio.min(0.0) } else { ratio });
            known += interval_variance(f) + interval_variance(b);
        }
        #[allow(clippy::cast_precision_loss)] // at most 100 rounds
        let mean = known / ratios.len().max(1) as f64;
        (ratios, mean)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // at most 100 rounds
    fn gain(&self, i: usize, look: Look) -> Option<Gain> {
        let (ratios, known) = self.ratios(i);
        let n = ratios.len();
        if n == 0 {
            return None;
        }
        let mean = ratios.iter().sum::<f64>() / n as f64;
        let squares: f64 = ratios.iter().map(|d| (d - mean) * (d - mean)).sum();
        let least = if self.plan.pairs <= SHORT {
            SHORT_NOISE
        } else {
            LEAST_NOISE
        };
        let noise = self.plan.noise.get().max(least);
        let prior = 2.0 * noise * noise + known;
        // Where the pairs scatter more than the search did, what it learned is worth less: they are believed.
        let sample = squares / (n as f64 - 1.0).max(1.0);
        // Two or three pairs say too little of their own scatter for that.
        let weight = if n < ENOUGH {
            EARLY_FREEDOM
        } else {
            PRIOR_FREEDOM * (prior / sample.max(prior)).powi(2)
        };
        let freedom = weight + n as f64 - 1.0;
        let spread = ((weight * prior + squares) / freedom).sqrt();
        let n = n as u32;
        let reach = if n < FIRST_LOOK {
            f64::INFINITY
        } else {
            t_like(self.boundary(i, n, look), freedom)
        };
        Some(Gain {
            pairs: n,
            mean,
            spread,
            freedom,
            reach,
        })
    }

    /// The standardised boundary of finalist `i` after `pairs` pairs; a last look spends all that is left.
    fn boundary(&self, i: usize, pairs: u32, look: Look) -> f64 {
        let cut_short = look == Look::Last && pairs < self.plan.pairs;
        let closing;
        let table = if cut_short {
            closing = boundaries(self.alpha(i), self.plan.pairs, pairs, true);
            &closing
        } else {
            &self.tables[usize::from(i > 0)]
        };
        let at = usize::try_from(pairs - FIRST_LOOK).unwrap_or(usize::MAX);
        table.get(at).copied().unwrap_or(f64::INFINITY)
    }

    fn alpha(&self, i: usize) -> f64 {
        alpha(self.finalists.len(), i)
    }

    fn place(&self, i: usize, gain: Option<&Gain>, look: Look) -> Place {
        let own = || {
            self.rounds
                .iter()
                .filter_map(move |r| r.finalists.get(i).copied().flatten())
        };
        if own().any(|r| r.rate.is_none() && r.void.is_none()) {
            return Place::Failed;
        }
        if own().any(|r| !r.stable) || self.is_unstable(i) {
            return Place::Unstable;
        }
        let baseline_fails = self
            .rounds
            .iter()
            .filter_map(|r| r.baseline)
            .filter(|b| b.rate.is_none() && b.void.is_none())
            .count();
        let Some(g) = gain.filter(|g| g.pairs >= FIRST_LOOK) else {
            let proven = baseline_fails >= 2 && own().filter(|r| r.rate.is_some()).count() >= 2;
            return if proven { Place::BaselineFails } else { Place::Open };
        };
        if g.lower() > 0.0 {
            Place::Win
        } else if g.upper() < 0.0 && !own().any(|r| r.at_least) {
            // A finalist that carries "at least" so much may carry more: it is not shown to be slower.
            Place::Worse
        } else if look == Look::Last
            || g.upper() < self.plan.minimum_gain.get().ln_1p()
            || self.is_hopeless(i, g)
        {
            Place::NoGain
        } else {
            Place::Open
        }
    }

    /// Whether a win by the planned end has become unlikely (predictive power: Spiegelhalter et al. 1986).
    fn is_hopeless(&self, i: usize, g: &Gain) -> bool {
        let planned = self.plan.pairs;
        if g.pairs < PATIENCE || g.pairs >= planned {
            return false;
        }
        let (n, all) = (f64::from(g.pairs), f64::from(planned));
        let needed = z_of(self.alpha(i)) * 1.05 * g.spread / all.sqrt();
        let spread = g.spread * ((all - n) / (n * all)).sqrt();
        tail((needed - g.mean) / spread) < HOPELESS
    }

    /// The range of the rates over their middle is large, and larger than the baseline's; with five rounds
    /// or more the lowest is left out, because one disturbed measurement is no instability.
    fn is_unstable(&self, i: usize) -> bool {
        // Where the load could not be offered, the rate is the generator's, and its scatter too.
        let own = range(
            self.rounds
                .iter()
                .filter_map(|r| r.finalists.get(i).copied().flatten())
                .filter(|r| r.void.is_none()),
        );
        let base = range(
            self.rounds
                .iter()
                .filter_map(|r| r.baseline)
                .filter(|r| r.void.is_none()),
        );
        own > UNSTABLE && own > 1.5 * base
    }

    fn decision(&self, verdict: FinalVerdict, of: Option<(usize, Option<Gain>)>) -> Decision {
        let gain = of.and_then(|(_, g)| g).filter(|g| g.pairs >= FIRST_LOOK);
        let candidate = of.map(|(i, _)| self.finalists[i].clone());
        let rate = |results: Vec<&FinalResult>| {
            let logs: Vec<f64> = results
                .iter()
                .filter_map(|r| r.rate)
                .map(|r| r.get().ln())
                .collect();
            #[allow(clippy::cast_precision_loss)] // at most 100 rounds
            (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
        };
        // What a side was offered in a round that says nothing of it is no rate of it.
        let told = |r: &Round<'a>, side: Side| {
            of.is_none_or(|(i, _)| !matches!(self.pair(r, i), Pair::Void(s, _) if s == side))
        };
        let mut decision = Decision {
            verdict,
            config: match (&candidate, verdict) {
                (Some(c), FinalVerdict::Win) => c.clone(),
                _ => self.baseline.clone(),
            },
            gain: gain.map(|g| [g.lower(), g.mean, g.upper()].map(f64::exp_m1)),
            pairs: of.and_then(|(_, g)| g).map_or(0, |g| g.pairs),
            minimum_detectable_gain: gain
                .map(|g| ((g.reach + t_like(0.841_6, g.freedom)) * g.error()).exp_m1()),
            baseline_rps: rate(
                self.rounds
                    .iter()
                    .filter(|r| told(r, Side::Today))
                    .filter_map(|r| r.baseline)
                    .collect(),
            ),
            winner_rps: of.and_then(|(i, _)| {
                rate(
                    self.rounds
                        .iter()
                        .filter(|r| told(r, Side::Candidate))
                        .filter_map(|r| r.finalists.get(i).copied().flatten())
                        .collect(),
                )
            }),
            candidate,
            at_least: of.is_some_and(|(i, _)| {
                self.rounds
                    .iter()
                    .filter_map(|r| r.finalists.get(i).copied().flatten())
                    .any(|r| r.at_least && r.rate.is_some())
            }),
            void: of.and_then(|(i, _)| self.void(i)),
            words: String::new(),
        };
        decision.words = self.words(&decision, of.map(|(i, g)| self.place(i, g.as_ref(), Look::Last)));
        decision
    }

    fn words(&self, d: &Decision, place: Option<Place>) -> String {
        let percent = |x: f64| format!("{:+.1} %", 100.0 * x);
        let bound = if d.at_least { "at least " } else { "" };
        let rates = match (d.winner_rps, d.baseline_rps) {
            (Some(w), Some(b)) => format!("{bound}{} against {}", Rps::saturating(w), Rps::saturating(b)),
            (Some(w), None) => format!("{bound}{} against none", Rps::saturating(w)),
            _ => "no rates".to_owned(),
        };
        let interval = d.gain.map_or(String::new(), |[lo, at, hi]| {
            let (at, lo) = (percent(at), percent(lo));
            match d.at_least {
                true => format!("at least {at} (95 % interval from {lo}, open above)"),
                false => format!("{at} (95 % interval {lo} to {})", percent(hi)),
            }
        });
        let detectable = d.minimum_detectable_gain.map_or(String::new(), |m| {
            format!(
                "; {} pairs would have shown a gain of {:.0} % or more",
                d.pairs,
                100.0 * m
            )
        });
        let words = match (d.verdict, place) {
            (FinalVerdict::Win, Some(Place::BaselineFails)) => format!(
                "win: {rates}; today's configuration failed in every round of the finals, so there is no ratio"
            ),
            (FinalVerdict::Win, _) => format!(
                "win: {interval} over today's configuration, {rates}, in {} pairs",
                d.pairs
            ),
            (_, Some(Place::Failed)) => {
                "keep the baseline: the finalists failed when they were measured again".to_owned()
            }
            (_, Some(Place::Unstable)) => {
                format!("keep the baseline: the best finalist was not stable from round to round ({rates})")
            }
            (FinalVerdict::Worse, _) => {
                format!("keep the baseline: the best finalist is slower, {interval}, {rates}")
            }
            (FinalVerdict::NoGain, Some(_)) if d.at_least => format!(
                "keep the baseline: no gain could be shown, {interval}, {rates}; the best finalist reached the highest rate that \
                 could be offered"
            ),
            (FinalVerdict::NoGain, Some(_)) => {
                format!("keep the baseline: no gain was shown, {interval}, {rates}{detectable}")
            }
            (FinalVerdict::NoGain, None) => {
                "keep the baseline: the search found nothing that works besides it".to_owned()
            }
            (FinalVerdict::Undecided, _) if d.void.is_some() => {
                "keep the baseline: too little could be measured to compare anything".to_owned()
            }
            (FinalVerdict::Undecided, _) => format!(
                "keep the baseline: {} too few to compare ({rates}); give the finals more time",
                super::rounds_are(self.rounds.len())
            ),
        };
        match &d.void {
            Some(void) => format!("{words}; {void}"),
            None => words,
        }
    }
}

/// The part of the error that the test of finalist `i` of `count` may make.
#[allow(clippy::cast_precision_loss)] // few finalists
fn alpha(count: usize, i: usize) -> f64 {
    match (count, i) {
        (0 | 1, _) => ALPHA,
        (_, 0) => ALPHA * FIRST_SHARE,
        (k, _) => ALPHA * (1.0 - FIRST_SHARE) / (k - 1) as f64,
    }
}

/// The decision that stands now, where one does.
pub(super) fn judge(s: &Standing<'_>, look: Look) -> Option<Decision> {
    if s.finalists.is_empty() {
        return Some(s.decision(FinalVerdict::NoGain, None));
    }
    let all: Vec<(usize, Option<Gain>, Place)> = (0..s.finalists.len())
        .map(|i| {
            let g = s.gain(i, look);
            (i, g, s.place(i, g.as_ref(), look))
        })
        .collect();
    let mean = |g: &Option<Gain>| g.map_or(f64::NEG_INFINITY, |g| g.mean);
    let winners: Vec<_> = all
        .iter()
        .filter(|(_, _, p)| matches!(p, Place::Win | Place::BaselineFails))
        .collect();
    let remaining = s.remaining();
    let open: Vec<_> = all
        .iter()
        .filter(|(i, _, p)| *p == Place::Open && remaining.contains(i))
        .collect();
    if !winners.is_empty() {
        let best = winners
            .iter()
            .map(|(_, g, _)| mean(g))
            .fold(f64::NEG_INFINITY, f64::max);
        if look == Look::Between && open.iter().any(|(_, g, _)| mean(g) > best + TIE) {
            return None;
        }
        let cost = |i: usize| s.space.cost_of(&s.finalists[i]).ok().flatten();
        let chosen = winners
            .iter()
            .filter(|(_, g, _)| mean(g) >= best - TIE)
            .min_by(|a, b| match (cost(a.0), cost(b.0)) {
                (Some(x), Some(y)) => x.total_cmp(&y).then(mean(&b.1).total_cmp(&mean(&a.1))),
                _ => mean(&b.1).total_cmp(&mean(&a.1)),
            })?;
        return Some(s.decision(FinalVerdict::Win, Some((chosen.0, chosen.1))));
    }
    if look == Look::Between && (!open.is_empty() || s.rounds.is_empty()) {
        return None;
    }
    let (i, g, place) = all.iter().max_by(|a, b| {
        let rank = |p: &Place| u8::from(!matches!(p, Place::Failed | Place::Unstable));
        rank(&a.2)
            .cmp(&rank(&b.2))
            .then(mean(&a.1).total_cmp(&mean(&b.1)))
    })?;
    let verdict = match place {
        Place::Worse | Place::Failed => FinalVerdict::Worse,
        // Left behind by finalists that did not win either.
        Place::Open if g.is_some_and(|g| g.pairs >= FIRST_LOOK) => FinalVerdict::NoGain,
        Place::Open => FinalVerdict::Undecided,
        _ => FinalVerdict::NoGain,
    };
    Some(s.decision(verdict, Some((*i, *g))))
}

/// Variance of the logarithm of a rate that its own 90 % interval explains; at most that of 30 %.
fn interval_variance(r: &FinalResult) -> f64 {
    let [lo, hi] = r.interval_rps;
    if lo > 0.0 && hi > lo && hi.is_finite() {
        ((hi / lo).ln() / (2.0 * 1.645)).min(0.3).powi(2)
    } else {
        0.0
    }
}

fn range<'a>(results: impl Iterator<Item = &'a FinalResult>) -> f64 {
    let mut rates: Vec<f64> = results.filter_map(|r| r.rate).map(Rps::get).collect();
    rates.sort_by(f64::total_cmp);
    let from = usize::from(rates.len() >= 5);
    match (rates.get(from), rates.last()) {
        (Some(lo), Some(hi)) if rates.len() >= 2 => (hi - lo) / (0.5 * (hi + lo)),
        _ => 0.0,
    }
}
