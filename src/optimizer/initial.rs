//! The first points: today's configuration, two in which nothing starves, then legal configs that lie far from
//! each other.
//!
//! The rate of a service is about the smallest of its limits, so one starved resource hides what all other
//! parameters do; of points that are only spread, nearly every one has a starved resource. The two on the
//! diagonal show the level that is within reach, and what machines are made of (CPU, memory) is given
//! plentifully throughout: the pools are what is to be learned first. The model looks for the cheap end later.

use super::field::Field;
use crate::space::{Binding, Config, Domain, Parameter, Value};

/// Points of the pool that the design is chosen from.
const POOL: usize = 2_048;
/// Sobol points looked at for the pool; with 2 % legal they still give three hundred.
const POOL_TRIES: u32 = 16_000;
/// Where the points in which nothing starves lie in every range (of its logarithm, where that is wide).
const DIAGONAL: [f64; 2] = [0.75, 0.5];
/// Steps along the diagonal where constraints end it, and the place where it is given up.
const STEP: f64 = 0.05;
const SMALLEST: f64 = 0.1;
/// CPU and memory at the points in which nothing starves, and at least at all others.
const PLENTY: f64 = 0.9;
const ENOUGH: f64 = 0.6;

/// Number of trials before the model is asked, today's configuration included.
pub(super) fn size(parameters: usize) -> usize {
    (parameters / 2 + 3).clamp(5, 12)
}

/// The design of `seed`: `count` configs besides `first`, those on the diagonal before those that are spread. A
/// longer design begins with a shorter one.
pub(super) fn design(field: &Field, first: &Config, count: usize, seed: u64) -> Vec<Config> {
    let mut chosen: Vec<Config> = Vec::new();
    for (level, turn) in DIAGONAL.into_iter().zip(0..) {
        if let Some(c) = diagonal(field, level, seed.wrapping_add(turn))
            && c != *first
            && !chosen.contains(&c)
        {
            chosen.push(c);
        }
    }
    let known: Vec<&Config> = chosen.iter().chain([first]).collect();
    let plenty = |p: &Parameter, u| {
        if is_resource(p) {
            ENOUGH + (1.0 - ENOUGH) * u
        } else {
            u
        }
    };
    let rest = spread(field, &known, count.saturating_sub(chosen.len()), seed, plenty);
    chosen.extend(rest);
    chosen.truncate(count);
    chosen
}

/// `count` legal configs, each as far as possible from `known` and from those before it (greedy maximin over
/// scrambled Sobol points, whose coordinates `shape` moves first).
pub(super) fn spread(
    field: &Field,
    known: &[&Config],
    count: usize,
    seed: u64,
    shape: impl Fn(&Parameter, f64) -> f64,
) -> Vec<Config> {
    // Legal shares near 1 fill the pool at once; the bound on tries matters for tight budgets only.
    let pool: Vec<(Vec<f64>, Config)> = field
        .sobol_legal(POOL, POOL_TRIES, seed, shape)
        .into_iter()
        .map(|(_, c)| (place(field, &c), c))
        .collect();
    let known: Vec<Vec<f64>> = known.iter().map(|c| place(field, c)).collect();
    let mut nearest: Vec<f64> = pool
        .iter()
        .map(|(x, _)| known.iter().map(|k| distance(x, k)).fold(f64::INFINITY, f64::min))
        .collect();
    let mut chosen = Vec::new();
    for _ in 0..count.min(pool.len()) {
        let Some(best) = (0..pool.len()).max_by(|a, b| nearest[*a].total_cmp(&nearest[*b])) else {
            break;
        };
        if nearest[best] <= 0.0 {
            break;
        }
        for (d, (x, _)) in nearest.iter_mut().zip(&pool) {
            *d = d.min(distance(x, &pool[best].0));
        }
        chosen.push(pool[best].1.clone());
    }
    chosen
}

/// The first config of the diagonal, at `level` or lower where that is illegal. Where a constraint ends the
/// diagonal further up, the last before its end: what the user's own budget allows is not too much. None where
/// nothing on the way is legal. Texts take turns.
fn diagonal(field: &Field, level: f64, turn: u64) -> Option<Config> {
    let steps = |from: f64, by: f64| (0..20).map(move |k| from + by * f64::from(k));
    let below = || {
        steps(level, -STEP)
            .take_while(|l| *l > SMALLEST)
            .find_map(|l| at_level(field, l, turn))
    };
    if at_level(field, level, turn).is_none() || level < DIAGONAL[0] {
        return below();
    }
    let above: Vec<Option<Config>> = steps(level, STEP)
        .take_while(|l| *l < 1.0 + STEP / 2.0)
        .map(|l| at_level(field, l.min(1.0), turn))
        .collect();
    match above.iter().position(Option::is_none) {
        Some(end) => above.get(end.saturating_sub(1)).cloned().flatten(),
        None => below(),
    }
}

/// The legal config with every number at `level` of its range.
fn at_level(field: &Field, level: f64, turn: u64) -> Option<Config> {
    let mut texts = 0;
    let point: Vec<f64> = field
        .space
        .parameters
        .iter()
        .map(|p| match &p.domain {
            Domain::Choice { values } => match of_numbers(values, level) {
                Some(u) => u,
                None => {
                    // Every further text turns once more often, so that pairs of values change too.
                    texts += 1;
                    turn_of(values.len(), turn.wrapping_add(texts * (texts - 1) / 2))
                }
            },
            _ if is_resource(p) => PLENTY,
            _ => level,
        })
        .collect();
    field.legal_at(&point)
}

/// The coordinate of the number at `level` of a choice between numbers, in their order; None where some are not.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // a choice has few values
fn of_numbers(values: &[Value], level: f64) -> Option<f64> {
    let mut sorted: Vec<(f64, usize)> = values
        .iter()
        .enumerate()
        .map(|(i, v)| v.as_f64().map(|x| (x, i)))
        .collect::<Option<_>>()?;
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rank = (level * (values.len() - 1) as f64).round() as usize;
    let (_, i) = sorted.get(rank)?;
    Some((*i as f64 + 0.5) / values.len() as f64)
}

#[allow(clippy::cast_precision_loss)] // a choice has few values
fn turn_of(values: usize, turn: u64) -> f64 {
    let n = values.max(1) as u64;
    ((turn % n) as f64 + 0.5) / n as f64
}

/// Whether `p` is something that machines are made of: bound to a limit of the container, or, where somebody
/// else deploys, named like one. A wrong guess moves a few first trials, no more.
fn is_resource(p: &Parameter) -> bool {
    let named = || {
        p.name
            .split('_')
            .any(|w| ["cpu", "cpus", "memory", "mem", "ram"].contains(&w.to_ascii_lowercase().as_str()))
    };
    match p.binding {
        Binding::Limit(_) => true,
        Binding::Unbound => named(),
        Binding::Env(_) | Binding::Replicas => false,
    }
}

/// Where a config lies for the design: its coordinates, a choice as one coordinate a value.
fn place(field: &Field, config: &Config) -> Vec<f64> {
    let mut x = Vec::new();
    for (p, u) in field.space.parameters.iter().zip(field.space.encode(config)) {
        match (&p.domain, config.get(&p.name)) {
            (Domain::Choice { values }, v) => {
                x.extend(values.iter().map(|w| if Some(w) == v { 0.7 } else { 0.0 }));
            }
            _ => x.push(u),
        }
    }
    x
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::conformance::spaces;
    use crate::space::Space;

    #[test]
    fn the_design_is_legal_spread_out_and_grows_at_its_end() {
        for space in spaces::all() {
            let field = Field::new(&space);
            let first = space.baseline();
            let long = design(&field, &first, 11, 5);
            // The largest seed turns the texts too.
            assert_eq!(design(&field, &first, 2, u64::MAX).len(), 2);
            for count in [0, 1, 2, 3, 6] {
                let short = design(&field, &first, count, 5);
                assert_eq!(short, long[..short.len()]);
            }
            for (i, c) in long.iter().enumerate() {
                assert!(space.is_legal(c));
                assert!(!long[..i].contains(c) && *c != first);
            }
        }
    }

    /// Breaks when the points are drawn together, or when CPU and memory are scarce in one of them.
    #[test]
    fn the_design_reaches_into_every_half_of_every_range_and_is_generous_with_resources() {
        let field = Field::new(&spaces::pool());
        let chosen = design(&field, &field.space.baseline(), 8, 1);
        let mut resources = 0;
        for (d, p) in field.space.parameters.iter().enumerate() {
            let u = |c: &Config| field.space.encode(c)[d];
            if is_resource(p) {
                resources += 1;
                // A step of the grid may lie a little lower.
                assert!(chosen.iter().all(|c| u(c) > ENOUGH - 0.1), "{} is scarce", p.name);
            } else {
                assert!(chosen.iter().any(|c| u(c) < 0.4), "{} low", p.name);
                assert!(chosen.iter().any(|c| u(c) > 0.6), "{} high", p.name);
            }
        }
        assert_eq!(resources, 2);
    }

    /// Breaks when the first points starve in one parameter, or when a budget has no legal point on the diagonal.
    #[test]
    fn the_first_points_starve_nowhere() {
        for space in spaces::all() {
            let field = Field::new(&space);
            let first = space.baseline();
            let Some(c) = design(&field, &first, 2, 3).into_iter().next() else {
                continue;
            };
            for (p, u) in field.space.parameters.iter().zip(field.space.encode(&c)) {
                let coarse = field.space.grid_size().is_some_and(|n| n <= 20);
                if !matches!(p.domain, Domain::Choice { .. }) && !coarse {
                    assert!(u > 0.15, "{c}: {} at {u}", p.name);
                }
            }
        }
    }

    /// Breaks when the first point stays where it is although the budget has room, or leaves the budget.
    #[test]
    fn a_budget_is_used_to_its_end() {
        let field = Field::new(&spaces::pool());
        let c = diagonal(&field, DIAGONAL[0], 0).unwrap();
        let n = |name: &str| c.get(name).and_then(Value::as_f64).unwrap();
        let used = (n("pool_size") + n("max_overflow")) * n("workers");
        assert!((60.0..=97.0).contains(&used), "{c} uses {used} of 97");
        // Without a rule nothing says how far is far enough.
        let mut free = spaces::pool();
        free.constraints.clear();
        let field = Field::new(&free);
        let c = diagonal(&field, DIAGONAL[0], 0).unwrap();
        let u = field.space.encode(&c);
        assert!((u[0] - 0.75).abs() < 0.03, "{c}");
        // A roomy one is used beyond three quarters of the range.
        let mut roomy = spaces::pool();
        roomy.constraints = vec![crate::space::Constraint {
            that: crate::expr::Expr::compile(
                "pool_size + max_overflow <= 90",
                &Space::names(&roomy.parameters),
            )
            .unwrap(),
            why: "half of the connections".to_owned(),
        }];
        let field = Field::new(&roomy);
        let c = diagonal(&field, DIAGONAL[0], 0).unwrap();
        let u = field.space.encode(&c);
        assert!(u[0] > 0.85, "{c}");
    }

    #[test]
    fn numbers_of_a_choice_keep_their_order_and_texts_take_turns() {
        let numbers: Vec<Value> = [8, 1, 4, 2, 16].map(Value::Int).into();
        // The fourth of 1, 2, 4, 8, 16 is 8, the first in the file.
        assert_eq!(of_numbers(&numbers, 0.75), Some(0.1));
        assert_eq!(of_numbers(&[Value::Text("a".to_owned())], 0.75), None);
        let seen: std::collections::BTreeSet<u64> = (0..3).map(|t| turn_of(3, t).to_bits()).collect();
        assert_eq!(seen.len(), 3);
    }
}
