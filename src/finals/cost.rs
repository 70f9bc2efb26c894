//! The finals of the dual question: the cheapest config that carries a required rate. Pure.
//!
//! What decides is not a ratio of two rates but whether each measurement carried the required rate, which every trial of
//! the finals has confirmed or not. A config that missed it once is out; one that carried it in every round, at least two,
//! is proven, and the cheapest proven one wins where it costs less than today's configuration or that does not carry it.

use super::void::Side;
use super::{Decision, FinalResult, FinalVerdict, FinalsPlan};
use crate::optimizer;
use crate::space::{Config, Space};
use crate::trial::History;
use crate::units::Rps;

/// Rounds that are enough where every one of them carried the rate, if the plan allows so many.
const ENOUGH: u32 = 3;
/// Fewer than these prove nothing.
const LEAST: u32 = 2;

/// The configs that are measured again: the cheapest that the search believes to carry the rate, then the next on the
/// front of cost and rate, `most` of them, without the baseline.
pub(super) fn finalists(space: &Space, history: &History, required: Rps, most: usize) -> Vec<Config> {
    let Some(r) = optimizer::recommend(space, history, Some(required)) else {
        return Vec::new();
    };
    let baseline = space.baseline();
    let mut chosen: Vec<Config> = Vec::new();
    let carrying = r.pareto.iter().filter(|c| c.rps >= required.get());
    let dearer = carrying.filter(|c| c.cost > r.recommended.cost);
    for c in std::iter::once(&r.recommended).chain(dearer).chain([&r.fastest]) {
        if c.config != baseline && !chosen.contains(&c.config) {
            chosen.push(c.config.clone());
        }
    }
    chosen.truncate(most);
    chosen
}

/// Complete rounds: the results of each finalist, and of the baseline at the end.
pub(super) struct CostStanding<'a> {
    plan: &'a FinalsPlan,
    required: f64,
    space: &'a Space,
    configs: Vec<&'a Config>,
    rounds: u32,
    /// What was measured; rounds in which a config could not be offered the required rate are not among it.
    seen: Vec<Vec<&'a FinalResult>>,
    /// How often that was so, and why the last time.
    void: Vec<(usize, &'a str)>,
}

impl<'a> CostStanding<'a> {
    pub(super) fn new(
        plan: &'a FinalsPlan,
        required: Rps,
        space: &'a Space,
        finalists: &'a [Config],
        baseline: &'a Config,
    ) -> Self {
        let configs: Vec<&Config> = finalists.iter().chain([baseline]).collect();
        Self {
            plan,
            required: required.get(),
            space,
            rounds: 0,
            seen: vec![Vec::new(); configs.len()],
            void: vec![(0, ""); configs.len()],
            configs,
        }
    }

    fn baseline(&self) -> usize {
        self.configs.len() - 1
    }

    /// Adds a round of (finalist, or None for the baseline; result).
    pub(super) fn add(&mut self, round: &[(Option<usize>, &'a FinalResult)]) {
        self.rounds += 1;
        for (slot, result) in round {
            let i = slot.unwrap_or_else(|| self.baseline());
            let is_short = result.rate.is_none_or(|x| x.get() < self.required);
            if let (Some(why), Some(void)) =
                (result.void.as_deref().filter(|_| is_short), self.void.get_mut(i))
            {
                *void = (void.0 + 1, why);
            } else if let Some(list) = self.seen.get_mut(i) {
                list.push(result);
            }
        }
    }

    fn carried(&self, i: usize) -> bool {
        self.seen.get(i).is_some_and(|list| {
            list.iter()
                .all(|r| r.stable && r.rate.is_some_and(|x| x.get() >= self.required))
        })
    }

    /// Whether today's configuration carries the rate: it is measured, not judged, so half of its rounds decide. None where
    /// it could not be measured.
    fn baseline_carries(&self) -> Option<bool> {
        let list = self.seen.get(self.baseline()).filter(|l| !l.is_empty())?;
        let good = list
            .iter()
            .filter(|r| r.rate.is_some_and(|x| x.get() >= self.required));
        Some(2 * good.count() > list.len())
    }

    /// Rounds in which config `i` was measured.
    fn told(&self, i: usize) -> u32 {
        self.seen
            .get(i)
            .map_or(0, |l| u32::try_from(l.len()).unwrap_or(u32::MAX))
    }

    /// Finalists that may still win.
    pub(super) fn remaining(&self) -> Vec<usize> {
        (0..self.baseline()).filter(|i| self.carried(*i)).collect()
    }

    fn cost(&self, i: usize) -> f64 {
        let config = self.configs.get(i);
        config
            .and_then(|c| self.space.cost_of(c).ok().flatten())
            .unwrap_or(f64::INFINITY)
    }

    /// The decision, where it stands; `last` says that no further round follows.
    pub(super) fn judge(&self, last: bool) -> Option<Decision> {
        let mut open = self.remaining();
        open.sort_by(|a, b| self.cost(*a).total_cmp(&self.cost(*b)));
        let carries = self.baseline_carries();
        let useful = |i: &usize| carries == Some(false) || self.cost(*i) < self.cost(self.baseline());
        let best = open.iter().copied().find(useful);
        if self.rounds == 0 && !last && !open.is_empty() {
            return None;
        }
        let Some(best) = best else {
            return match carries {
                // Dearer than today's, which may not carry it: that is not known.
                None if !open.is_empty() => last.then(|| self.undecided()),
                _ => Some(self.nothing(carries != Some(false))),
            };
        };
        let rounds = self.told(best);
        if rounds >= ENOUGH.min(self.plan.pairs).max(LEAST) || (last && rounds >= LEAST) {
            return Some(self.win(best, carries != Some(false)));
        }
        last.then(|| self.undecided())
    }

    /// The rounds that say nothing of candidate `i` or of today's configuration, for people.
    fn void_words(&self, i: usize) -> Option<String> {
        let rounds = usize::try_from(self.rounds).unwrap_or(usize::MAX);
        let said: Vec<String> = [i, self.baseline()]
            .into_iter()
            .filter_map(|i| Some((i, *self.void.get(i)?)))
            .filter(|(_, (n, _))| *n > 0)
            .map(|(i, (n, why))| {
                let side = if i == self.baseline() {
                    Side::Today
                } else {
                    Side::Candidate
                };
                side.void_words(n, rounds, why)
            })
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// Too few rounds to prove anything.
    pub(super) fn undecided(&self) -> Decision {
        let required = Rps::saturating(self.required);
        let words = match self.void_words(0) {
            Some(void) => format!(
                "keep the baseline: too little could be measured to prove that a config carries {required}; {void}"
            ),
            None => format!(
                "keep the baseline: {} too few to prove that a config carries {required}; give the finals more time",
                super::rounds_are(usize::try_from(self.rounds).unwrap_or(usize::MAX)),
            ),
        };
        self.decision(FinalVerdict::Undecided, 0, words)
    }

    fn win(&self, best: usize, carries: bool) -> Decision {
        let (cost, today) = (self.cost(best), self.cost(self.baseline()));
        let proof = format!(
            "carries the required {} in all {} rounds at a cost of {cost:.4}",
            Rps::saturating(self.required),
            self.told(best)
        );
        let words = if carries {
            let less = 100.0 * (1.0 - cost / today);
            format!("win: {proof} against {today:.4} of today's configuration ({less:.1} % less)")
        } else {
            let rate = self
                .mean(self.baseline())
                .map_or("nothing".to_owned(), |r| Rps::saturating(r).to_string());
            format!("win: {proof}; today's configuration, at {today:.4}, does not carry it ({rate})")
        };
        self.decision(FinalVerdict::Win, best, words)
    }

    fn nothing(&self, carries: bool) -> Decision {
        let required = Rps::saturating(self.required);
        let first = 0;
        let rate = self.mean(first).map_or(String::new(), |r| {
            format!("; the best candidate carried {}", Rps::saturating(r))
        });
        let words = if carries {
            format!(
                "keep the baseline: it carries the required {required}, and no cheaper config did in every round{rate}"
            )
        } else {
            format!("keep the baseline: no config carried the required {required} in every round{rate}")
        };
        self.decision(FinalVerdict::NoGain, first, words)
    }

    /// Geometric mean of the rates.
    #[allow(clippy::cast_precision_loss)] // at most 100 rounds
    fn mean(&self, i: usize) -> Option<f64> {
        let logs: Vec<f64> = self
            .seen
            .get(i)?
            .iter()
            .filter_map(|r| r.rate)
            .map(|r| r.get().ln())
            .collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    fn decision(&self, verdict: FinalVerdict, candidate: usize, words: String) -> Decision {
        let config = |i: usize| self.configs.get(i).map(|c| (*c).clone());
        let is_win = verdict == FinalVerdict::Win;
        Decision {
            verdict,
            config: config(if is_win { candidate } else { self.baseline() }).unwrap_or_default(),
            gain: None,
            pairs: self.rounds,
            minimum_detectable_gain: None,
            baseline_rps: self.mean(self.baseline()),
            winner_rps: self.mean(candidate),
            candidate: (candidate < self.baseline()).then(|| config(candidate)).flatten(),
            at_least: self
                .seen
                .get(candidate)
                .is_some_and(|list| list.iter().any(|r| r.at_least && r.rate.is_some())),
            void: self.void_words(candidate),
            words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Expr;
    use crate::finals::{FinalStep, next_final};
    use crate::space::{Binding, Domain, Parameter, Value};

    fn space() -> Space {
        let parameter = Parameter {
            name: "pool".into(),
            domain: Domain::Int {
                low: 1,
                high: 40,
                step: 1,
                log: false,
            },
            baseline: Value::Int(24),
            binding: Binding::Unbound,
            only_if: None,
        };
        let names = Space::names(std::slice::from_ref(&parameter));
        Space {
            cost: Some(Expr::compile("pool", &names).unwrap()),
            parameters: vec![parameter],
            ..Space::default()
        }
    }

    fn pool(n: i64) -> Config {
        [("pool".to_owned(), Value::Int(n))].into_iter().collect()
    }

    /// Plays finals for 200 rps; `rate` says what a pool carries in a round.
    fn play(finalists: &[i64], pairs: u32, rate: &dyn Fn(i64, u32) -> Option<f64>) -> Decision {
        let (space, plan) = (
            space(),
            FinalsPlan::new(pairs, 1).with_required(Rps::new(200.0).ok()),
        );
        let finalists: Vec<Config> = finalists.iter().map(|n| pool(*n)).collect();
        let mut done = Vec::new();
        for _ in 0..100 {
            match next_final(&plan, &space, &finalists, &space.baseline(), &done, true) {
                FinalStep::Decided(d) => return d,
                FinalStep::Measure { config, round } => {
                    let n = config.get("pool").and_then(Value::as_f64).unwrap() as i64;
                    let rate = rate(n, round).and_then(|r| Rps::new(r).ok());
                    done.push(FinalResult {
                        config,
                        round,
                        rate,
                        interval_rps: [0.0, 0.0],
                        at_least: false,
                        stable: true,
                        latency_ms_p99: None,
                        void: None,
                    });
                }
            }
        }
        panic!("the finals do not end");
    }

    #[test]
    fn the_cheapest_proven_config_wins() {
        let d = play(&[10, 12], 3, &|n, _| Some(20.5 * n as f64));
        assert_eq!((d.verdict, d.config), (FinalVerdict::Win, pool(10)));
        assert!(
            d.words.contains("at a cost of 10.0000 against 24.0000") && d.words.contains("58.3 % less"),
            "{}",
            d.words
        );
    }

    #[test]
    fn a_config_that_misses_the_rate_once_is_out_and_the_next_wins() {
        let d = play(&[10, 12], 3, &|n, round| {
            Some(if n == 10 && round == 2 { 190.0 } else { 210.0 })
        });
        assert_eq!((d.verdict, d.config), (FinalVerdict::Win, pool(12)));
    }

    #[test]
    fn where_today_does_not_carry_it_the_dearer_wins_and_where_nothing_does_today_stays() {
        let d = play(&[30], 3, &|n, _| Some(if n == 30 { 220.0 } else { 150.0 }));
        assert_eq!((d.verdict, d.config), (FinalVerdict::Win, pool(30)));
        assert!(d.words.contains("does not carry it"), "{}", d.words);
        let d = play(&[30], 3, &|_, _| Some(150.0));
        assert_eq!((d.verdict, d.config), (FinalVerdict::NoGain, pool(24)));
        let d = play(&[30], 3, &|_, _| Some(220.0));
        assert_eq!(
            d.verdict,
            FinalVerdict::NoGain,
            "dearer than today, which carries it: {}",
            d.words
        );
        let d = play(&[10], 3, &|n, _| (n != 10).then_some(220.0));
        assert_eq!(d.verdict, FinalVerdict::NoGain, "a failed finalist");
    }

    /// Fails when a config that could not be offered the required rate counts as one that does not carry it: then the
    /// candidate "missed" it, or today's configuration did.
    #[test]
    fn what_could_not_be_offered_proves_nothing() {
        let run = |finalist: i64, void_of: i64| {
            let (space, plan) = (space(), FinalsPlan::new(3, 1).with_required(Rps::new(200.0).ok()));
            let finalists = [pool(finalist)];
            let mut done = Vec::new();
            for _ in 0..20 {
                match next_final(&plan, &space, &finalists, &space.baseline(), &done, true) {
                    FinalStep::Decided(d) => return d,
                    FinalStep::Measure { config, round } => {
                        let is_void = config == pool(void_of);
                        done.push(FinalResult {
                            config,
                            round,
                            rate: Rps::new(if is_void { 45.0 } else { 220.0 }).ok(),
                            interval_rps: [0.0, 0.0],
                            at_least: is_void,
                            stable: true,
                            latency_ms_p99: None,
                            void: is_void.then(|| "send lag".to_owned()),
                        });
                    }
                }
            }
            panic!("the finals do not end");
        };
        for (finalist, void_of, who) in [(10, 10, "the candidate"), (30, 24, "today's configuration")] {
            let d = run(finalist, void_of);
            assert_eq!(d.verdict, FinalVerdict::Undecided, "{}", d.words);
            assert!(
                d.words
                    .contains(&format!("{who} could not be measured in 3 of 3 rounds: send lag")),
                "{}",
                d.words
            );
        }
        // Cheaper than today's and proven: whether today's carries it too makes no difference.
        assert_eq!(run(10, 24).verdict, FinalVerdict::Win);
    }

    #[test]
    fn one_round_proves_nothing() {
        let d = play(&[10], 1, &|_, _| Some(220.0));
        assert_eq!((d.verdict, d.config), (FinalVerdict::Undecided, pool(24)));
    }
}
