//! Of many observations, those that the model looks at: so an ask costs the same after 10,000 trials as after 500.
//!
//! A Gaussian process costs the cube of its points, and what is far from everything that matters tells it little. Above
//! [`MOST`] observations it holds, in their own order: trials that are out, today's configuration, the latest, the best, the
//! front of cost and rate, and of the rest those that lie farthest from what is held already. Whether a config failed or is
//! unstable, how often it was measured, and which were tried is still counted from all. Pure: the same history gives the same choice.

use std::collections::{HashMap, HashSet};

use super::known::{Fact, Known, Tally};
use crate::space::Space;

/// Observations that a model holds at most.
pub(super) const MOST: usize = 500;
/// Shares of that, in percent; what they leave goes to the spread.
const OUT: usize = 40;
const LATEST: usize = 10;
const BEST: usize = 30;
const FRONT: usize = 10;
/// Lines of one config, the latest.
const EACH: usize = 4;
/// Observations that the spread is chosen from; of more, every second, fourth, eighth.
const SPREAD_FROM: usize = 2_000;

/// What is held, by place in the history.
struct Choice<'a> {
    known: &'a [Known],
    lines: HashMap<&'a str, Vec<usize>>,
    held: Vec<bool>,
    count: usize,
    most: usize,
}

/// At most `most` of `known`, in order. `tallies` are those of all.
pub(super) fn thin(
    known: Vec<Known>,
    tallies: &HashMap<String, Tally>,
    space: &Space,
    most: usize,
) -> Vec<Known> {
    if known.len() <= most {
        return known;
    }
    let held = choose(&known, tallies, space, most);
    known
        .into_iter()
        .zip(held)
        .filter_map(|(k, held)| held.then_some(k))
        .collect()
}

fn choose(known: &[Known], tallies: &HashMap<String, Tally>, space: &Space, most: usize) -> Vec<bool> {
    let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, k) in known.iter().enumerate().filter(|(_, k)| !k.prior) {
        lines.entry(k.key.as_str()).or_default().push(at);
    }
    let mut choice = Choice {
        known,
        lines,
        held: vec![false; known.len()],
        count: 0,
        most,
    };
    let share = |percent: usize| most * percent / 100;
    let out = |at: &usize| known[*at].fact == Fact::Pending;
    choice.hold_within(share(OUT), (0..known.len()).rev().filter(out));
    let baseline = space.baseline().key();
    choice.hold_config(&baseline);
    choice.hold_within(share(LATEST), (0..known.len()).rev());
    let merit = by_merit(known, tallies);
    let before = choice.count;
    for (at, _) in &merit {
        if choice.count >= before + share(BEST) {
            break;
        }
        choice.hold_config(&known[*at].key);
    }
    for at in front(known, space, &merit, share(FRONT)) {
        choice.hold_config(&known[at].key);
    }
    choice.spread(space);
    choice.held
}

impl Choice<'_> {
    fn hold(&mut self, at: usize) {
        if self.count < self.most && !self.held[at] {
            self.held[at] = true;
            self.count += 1;
        }
    }

    fn hold_within(&mut self, room: usize, places: impl Iterator<Item = usize>) {
        places.take(room).for_each(|at| self.hold(at));
    }

    /// The latest lines of a config.
    fn hold_config(&mut self, key: &str) {
        let lines = self.lines.get(key).map_or(&[][..], Vec::as_slice);
        let latest: Vec<usize> = lines.iter().rev().take(EACH).copied().collect();
        latest.into_iter().for_each(|at| self.hold(at));
    }

    /// Fills what room is left with observations that lie far from those that are held (greedy maximin); of equals the earliest.
    fn spread(&mut self, space: &Space) {
        let step = self.known.len().div_ceil(SPREAD_FROM).next_power_of_two();
        let place = |at: usize| space.encode(&self.known[at].config);
        let held: Vec<Vec<f64>> = (0..self.known.len())
            .filter(|at| self.held[*at])
            .map(place)
            .collect();
        let mut rest: Vec<(usize, Vec<f64>, f64)> = (0..self.known.len())
            .step_by(step)
            .filter(|at| !self.held[*at])
            .map(|at| {
                let x = place(at);
                let nearest = held.iter().map(|h| distance(h, &x)).fold(f64::INFINITY, f64::min);
                (at, x, nearest)
            })
            .collect();
        while self.count < self.most {
            // `max_by` takes the last of equals: walked backwards, that is the earliest.
            let Some(best) = (0..rest.len())
                .rev()
                .max_by(|a, b| rest[*a].2.total_cmp(&rest[*b].2))
            else {
                return;
            };
            let (at, x, _) = rest.remove(best);
            self.hold(at);
            for (_, other, nearest) in &mut rest {
                *nearest = nearest.min(distance(&x, other));
            }
        }
    }
}

/// The first line of each config of this study that worked, with its level (logarithm of the rate), the highest first.
fn by_merit(known: &[Known], tallies: &HashMap<String, Tally>) -> Vec<(usize, f64)> {
    let mut seen = HashSet::new();
    let mut merit: Vec<(usize, f64)> = known
        .iter()
        .enumerate()
        .filter(|(_, k)| !k.prior)
        .filter_map(|(at, k)| {
            let level = match k.fact {
                Fact::Exact { y, .. } | Fact::AtLeast(y) => y,
                Fact::AtMost(_) | Fact::Failed | Fact::Pending => return None,
            };
            let tally = tallies.get(&k.key)?;
            let fresh = !tally.is_unstable() && seen.insert(k.key.as_str());
            fresh.then(|| (at, tally.average().unwrap_or(level)))
        })
        .collect();
    merit.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    merit
}

/// The configs that no other is both cheaper and faster than, of many every k-th by rate; nothing where the space has no cost.
fn front(known: &[Known], space: &Space, merit: &[(usize, f64)], most: usize) -> Vec<usize> {
    let mut cheapest = f64::INFINITY;
    let mut front = Vec::new();
    for (at, _) in merit {
        if let Ok(Some(cost)) = space.cost_of(&known[*at].config)
            && cost < cheapest
        {
            cheapest = cost;
            front.push(*at);
        }
    }
    if front.len() <= most {
        return front;
    }
    (0..most).map(|k| front[k * front.len() / most]).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::conformance::spaces;
    use super::super::field::Field;
    use super::super::known;
    use super::super::model::Model;
    use super::super::recommend::recommend_from;
    use super::*;
    use crate::trial::{History, Observation, Seen, TrialPhase};

    /// `count` observations of the pool space: rates, failures, and trials that are out.
    fn history(count: usize) -> History {
        let space = spaces::pool();
        let points = Field::new(&space).sobol_legal(count, 60_000, 5, |_, _, u| u);
        let line = |(i, (u, config)): (usize, (Vec<f64>, crate::space::Config))| {
            let rps = 100.0 * (1.0 + u.iter().sum::<f64>());
            let seen = match i % 10 {
                3 => Seen::Failed,
                4 => Seen::AtMost(rps),
                5 => Seen::AtLeast(rps),
                7 if i + 50 > count => Seen::Pending,
                _ => Seen::Rate {
                    rps,
                    lo: rps * 0.97,
                    hi: rps * 1.03,
                },
            };
            Observation {
                config,
                seen,
                phase: TrialPhase::Search,
                prior: false,
            }
        };
        points.into_iter().enumerate().map(line).collect()
    }

    fn thinned(history: &History, most: usize) -> Vec<Known> {
        let all = known::clean(history);
        let tallies = known::tallies(&all);
        thin(all, &tallies, &spaces::pool(), most)
    }

    #[test]
    fn few_are_left_alone() {
        let h = history(60);
        assert_eq!(thinned(&h, 60), known::clean(&h));
    }

    #[test]
    fn many_are_thinned_to_the_same_ones_each_time_in_their_order() {
        let h = history(1_200);
        assert!(h.len() > 700, "{}", h.len());
        let (all, some) = (known::clean(&h), thinned(&h, 200));
        assert_eq!(some.len(), 200);
        assert_eq!(some, thinned(&h.clone(), 200));
        let mut from = all.iter();
        assert!(some.iter().all(|k| from.any(|a| a == k)), "order is kept");
    }

    #[test]
    fn what_matters_is_held() {
        let mut h = history(1_200);
        let space = spaces::pool();
        h[5].config = space.baseline();
        let (all, some) = (known::clean(&h), thinned(&h, 200));
        let holds = |k: &Known| some.contains(k);
        assert!(
            all.iter().filter(|k| k.fact == Fact::Pending).all(holds),
            "trials that are out"
        );
        assert!(all.iter().rev().take(20).all(holds), "the latest tenth");
        assert!(
            some.iter().any(|k| k.config == space.baseline()),
            "today's configuration"
        );
        let tallies = known::tallies(&all);
        let merit = by_merit(&all, &tallies);
        assert!(merit.iter().take(40).all(|(at, _)| holds(&all[*at])), "the best");
        let front = front(&all, &space, &merit, 20);
        assert!(front.len() >= 5, "{}", front.len());
        assert!(front.iter().all(|at| holds(&all[*at])), "the cheap and fast");
        let failed = some.iter().filter(|k| k.fact == Fact::Failed).count();
        assert!(failed >= 5, "what failed is spread too: {failed}");
    }

    /// Breaks when the model of few no longer holds what would be recommended.
    #[test]
    fn a_model_of_few_of_many_recommends_among_the_best() {
        let (mut h, space) = (history(600), spaces::pool());
        // A bound may rightly be believed to lie far above itself: rates and failures only.
        h.retain(|o| matches!(o.seen, Seen::Rate { .. } | Seen::Failed));
        let model = Model::of_at_most(80, &space, &h);
        assert_eq!(model.known.len(), 80);
        assert_eq!(model.tallies.len(), h.len(), "counted from all");
        let fastest = recommend_from(&model, &space, None).unwrap().fastest;
        let best = h.iter().filter_map(|o| match o.seen {
            Seen::Rate { rps, .. } => Some(rps),
            _ => None,
        });
        let best = best.fold(0.0, f64::max);
        let measured = h.iter().find(|o| o.config == fastest.config).unwrap().seen;
        let Seen::Rate { rps, .. } = measured else {
            panic!("{measured:?}")
        };
        assert!(rps > 0.9 * best, "{rps} of {best}");
    }

    #[test]
    fn the_spread_reaches_every_corner() {
        let h = history(1_200);
        let some = thinned(&h, 200);
        let space = spaces::pool();
        for d in 0..space.parameters.len() {
            let u: Vec<f64> = some.iter().map(|k| space.encode(&k.config)[d]).collect();
            assert!(
                u.iter().any(|u| *u < 0.1) && u.iter().any(|u| *u > 0.8),
                "dimension {d}"
            );
        }
    }

    #[test]
    fn repeats_of_one_config_do_not_crowd_out_the_rest() {
        let mut h = history(400);
        let again = h[0].config.clone();
        for line in h.iter_mut().step_by(2) {
            line.config = again.clone();
            line.seen = Seen::Rate {
                rps: 900.0,
                lo: 890.0,
                hi: 910.0,
            };
        }
        let some = thinned(&h, 100);
        let repeats = some.iter().filter(|k| k.config == again).count();
        assert!(repeats <= 20, "{repeats} of 100");
    }
}
