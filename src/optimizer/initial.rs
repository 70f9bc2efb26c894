//! The first points: today's configuration, two in which nothing starves, then legal configs that lie far from
//! each other.
//!
//! The rate of a service is about the smallest of its limits, so one starved resource hides what all other
//! parameters do; of points that are only spread, nearly every one has a starved resource. The first two show the
//! level that is within reach, and what machines are made of (CPU, memory) is given plentifully throughout where
//! a rule allows it: the pools are what is to be learned first. The model looks for the cheap end later.

use super::field::Field;
use crate::space::{Binding, Config, Domain, Limit, Parameter, Value};

/// Points of the pool that the design is chosen from.
const POOL: usize = 2_048;
/// Sobol points looked at for the pool; with 2 % legal they still give three hundred.
const POOL_TRIES: u32 = 16_000;
/// Where the points in which nothing starves lie in every range (of its logarithm, where that is wide).
const DIAGONAL: [f64; 2] = [0.75, 0.5];
/// Steps from the first of them towards the end of the diagonal.
const STEPS: u32 = 5;
/// CPU and memory at the points in which nothing starves, and at least at all others.
const PLENTY: f64 = 0.9;
const ENOUGH: f64 = 0.6;
/// Squared distance under which two points are one.
const SAME: f64 = 1e-9;

/// Number of trials before the model is asked, today's configuration included.
pub(super) fn size(parameters: usize) -> usize {
    (parameters / 2 + 3).clamp(5, 12)
}

/// The design of `seed`: `count` configs besides `first`, those in which nothing starves before those that are
/// spread. A longer design begins with a shorter one.
pub(super) fn design(field: &Field, first: &Config, count: usize, seed: u64) -> Vec<Config> {
    let plentiful = plentiful(field);
    let mut chosen: Vec<Config> = Vec::new();
    for (k, level) in (0..).zip(DIAGONAL) {
        let Some(c) = ample(field, &plentiful, level, seed, k) else {
            continue;
        };
        let at = place(field, &c);
        let known = chosen.iter().chain([first]);
        if known.into_iter().all(|o| distance(&place(field, o), &at) > SAME) {
            chosen.push(c);
        }
    }
    let scarce_nowhere = |i: usize, p: &Parameter, u: f64| {
        let enough = ENOUGH + (1.0 - ENOUGH) * u;
        match &p.domain {
            _ if !plentiful.get(i).copied().unwrap_or(false) => u,
            Domain::Choice { values } => of_numbers(values, enough).unwrap_or(u),
            _ => enough,
        }
    };
    let plain = |_: usize, _: &Parameter, u: f64| u;
    let known = |chosen: &[Config]| -> Vec<Config> { chosen.iter().chain([first]).cloned().collect() };
    let left = |chosen: &[Config]| count.saturating_sub(chosen.len());
    let rest = spread(field, &known(&chosen), left(&chosen), seed, scarce_nowhere);
    chosen.extend(rest);
    // Where rules leave little of what is plentiful, the rest comes from everywhere.
    let rest = spread(field, &known(&chosen), left(&chosen), seed, plain);
    chosen.extend(rest);
    chosen.truncate(count);
    chosen
}

/// `count` legal configs, each as far as possible from `known` and from those before it (greedy maximin over
/// scrambled Sobol points, whose coordinates `shape` moves first).
pub(super) fn spread(
    field: &Field,
    known: &[Config],
    count: usize,
    seed: u64,
    shape: impl Fn(usize, &Parameter, f64) -> f64,
) -> Vec<Config> {
    if count == 0 {
        return Vec::new();
    }
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
        if nearest[best] <= SAME {
            break;
        }
        for (d, (x, _)) in nearest.iter_mut().zip(&pool) {
            *d = d.min(distance(x, &pool[best].0));
        }
        chosen.push(pool[best].1.clone());
    }
    chosen
}

/// A config in which nothing starves: every number at `level` of its range, CPU and memory at `PLENTY`. Where
/// that is legal and a constraint ends the way up, the first lies at its end: what the user's own budget allows
/// is not too much. Where it is illegal, the legal config whose largest shortfall is the smallest. None where none
/// of the points looked at is legal.
fn ample(field: &Field, plentiful: &[bool], level: f64, seed: u64, turn: u64) -> Option<Config> {
    let at = |level: f64| field.legal_at(&target(field, plentiful, level, seed, turn));
    let Some(there) = at(level) else {
        return nearest_to(field, plentiful, level, seed, turn);
    };
    if level < DIAGONAL[0] {
        return Some(there);
    }
    let mut last = there.clone();
    for k in 1..=STEPS {
        match at(level + (1.0 - level) * f64::from(k) / f64::from(STEPS)) {
            Some(c) => last = c,
            None => return Some(last),
        }
    }
    // Nothing says how far is far enough.
    Some(there)
}

/// Of the legal Sobol points, the one that starves least.
fn nearest_to(field: &Field, plentiful: &[bool], level: f64, seed: u64, turn: u64) -> Option<Config> {
    let target = target(field, plentiful, level, seed, turn);
    let starved = |config: &Config| {
        let (mut shortfall, mut texts, mut far) = (0.0_f64, 0.0, 0.0);
        let at = field.space.encode(config);
        for ((p, u), wanted) in field.space.parameters.iter().zip(at).zip(&target) {
            let rank = |u: f64| match &p.domain {
                Domain::Choice { values } => rank_of(values, u),
                _ => Some(u),
            };
            match (rank(u), rank(*wanted)) {
                (Some(own), Some(wanted)) => {
                    shortfall = shortfall.max(wanted - own);
                    far += (wanted - own) * (wanted - own);
                }
                // A text that a rule forbids gives way to another.
                _ if (u - wanted).abs() > SAME => texts += 1.0,
                _ => {}
            }
        }
        [shortfall + 0.1 * texts, far]
    };
    field
        .sobol_legal(POOL, POOL_TRIES, seed, |_, _, u| u)
        .into_iter()
        .map(|(_, c)| (starved(&c), c))
        .min_by(|(a, _), (b, _)| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])))
        .map(|(_, c)| c)
}

/// The point with every number at `level`, plentiful ones at `PLENTY`. The texts begin where the seed says, every
/// combination for some seed, and all move on by one each `turn`.
fn target(field: &Field, plentiful: &[bool], level: f64, seed: u64, turn: u64) -> Vec<f64> {
    let mut begin = seed;
    field
        .space
        .parameters
        .iter()
        .zip(plentiful)
        .map(|(p, plenty)| {
            let level = if *plenty { PLENTY } else { level };
            match &p.domain {
                Domain::Choice { values } => of_numbers(values, level).unwrap_or_else(|| {
                    let n = values.len().max(1) as u64;
                    let own = begin % n + turn;
                    begin /= n;
                    middle_of(own % n, n)
                }),
                _ => level,
            }
        })
        .collect()
}

/// The coordinate of the value `i` of `n`.
#[allow(clippy::cast_precision_loss)] // a choice has few values
fn middle_of(i: u64, n: u64) -> f64 {
    (i as f64 + 0.5) / n as f64
}

/// The places of a choice between at least three numbers, in their order; None for texts, flags and pairs.
fn order(values: &[Value]) -> Option<Vec<usize>> {
    let mut sorted: Vec<(f64, usize)> = values
        .iter()
        .enumerate()
        .map(|(i, v)| v.as_f64().filter(|x| x.is_finite()).map(|x| (x, i)))
        .collect::<Option<_>>()?;
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    (sorted.len() >= 3).then(|| sorted.into_iter().map(|(_, i)| i).collect())
}

/// The coordinate of the number at `level` of a choice between numbers.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // a choice has few values
fn of_numbers(values: &[Value], level: f64) -> Option<f64> {
    let order = order(values)?;
    let rank = (level * (order.len() - 1) as f64).round() as usize;
    let i = *order.get(rank)?;
    Some(middle_of(i as u64, values.len() as u64))
}

/// The inverse: how far up in the order the number at the coordinate `u` is.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // a choice has few values
fn rank_of(values: &[Value], u: f64) -> Option<f64> {
    let order = order(values)?;
    let i = ((u * values.len() as f64) as usize).min(values.len() - 1);
    let rank = order.iter().position(|o| *o == i)?;
    Some(rank as f64 / (order.len() - 1) as f64)
}

/// Which parameters are to be plentiful: what machines are made of, unless nothing else is a number (then they
/// are what is to be learned).
fn plentiful(field: &Field) -> Vec<bool> {
    let parameters = &field.space.parameters;
    let number = |p: &Parameter| match &p.domain {
        Domain::Choice { values } => order(values).is_some(),
        Domain::Int { .. } | Domain::Float { .. } => true,
    };
    let others = parameters.iter().any(|p| number(p) && !is_resource(p));
    parameters.iter().map(|p| others && is_resource(p)).collect()
}

/// Whether `p` is something that machines are made of: bound to CPU or memory of the container, or, where
/// somebody else deploys, named like one. A wrong guess moves a few first trials, no more.
fn is_resource(p: &Parameter) -> bool {
    let named = || {
        p.name.split('_').any(|w| {
            ["cpu", "cpus", "cores", "memory", "mem", "ram"].contains(&w.to_ascii_lowercase().as_str())
        })
    };
    match p.binding {
        Binding::Limit(Limit::Cpus | Limit::Memory) => true,
        Binding::Unbound => named(),
        Binding::Limit(_) | Binding::Env(_) | Binding::Replicas => false,
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
    use crate::expr::Expr;
    use crate::optimizer::conformance::spaces;
    use crate::space::{Constraint, Space};

    fn with_rule(mut space: Space, that: &str) -> Space {
        let that = Expr::compile(that, &Space::names(&space.parameters)).unwrap();
        let why = "a test".to_owned();
        space.constraints = vec![Constraint { that, why }];
        space
    }

    fn text(name: &str, values: &[&str]) -> Parameter {
        let values: Vec<Value> = values.iter().map(|v| Value::Text((*v).to_owned())).collect();
        Parameter {
            name: name.to_owned(),
            baseline: values[0].clone(),
            domain: Domain::Choice { values },
            binding: Binding::Unbound,
            only_if: None,
        }
    }

    fn u(field: &Field, c: &Config, name: &str) -> f64 {
        let i = field
            .space
            .parameters
            .iter()
            .position(|p| p.name == name)
            .unwrap();
        field.space.encode(c)[i]
    }

    #[test]
    fn the_size_grows_with_the_parameters_within_bounds() {
        assert_eq!([1, 4, 6, 9, 15, 32].map(size), [5, 5, 6, 7, 10, 12]);
    }

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
        let mut space = spaces::pool();
        // Bound to a limit under any name is the same as named so and unbound; bound to a variable is not.
        space.parameters[3].name = "quota".to_owned();
        space.parameters[3].binding = Binding::Limit(Limit::Cpus);
        space.parameters[2].name = "cpu_threads".to_owned();
        space.parameters[2].binding = Binding::Env("WORKERS".to_owned());
        let space = with_rule(space, "(pool_size + max_overflow) * cpu_threads <= 97");
        let space = Space { cost: None, ..space };
        let field = Field::new(&space);
        let chosen = design(&field, &space.baseline(), 8, 1);
        assert_eq!(plentiful(&field), [false, false, false, true, true]);
        for name in ["quota", "memory_mb"] {
            // A step of the grid may lie a little lower.
            assert!(
                chosen.iter().all(|c| u(&field, c, name) > 0.5),
                "{name} is scarce"
            );
        }
        for name in ["pool_size", "max_overflow", "cpu_threads"] {
            assert!(chosen.iter().any(|c| u(&field, c, name) < 0.4), "{name} low");
            assert!(chosen.iter().any(|c| u(&field, c, name) > 0.6), "{name} high");
        }
    }

    /// Breaks when the first point stays where it is although the budget has room, or goes on where nothing says
    /// how far is far enough.
    #[test]
    fn a_budget_is_used_to_its_end() {
        let free = Space {
            constraints: vec![],
            ..spaces::pool()
        };
        let field = Field::new(&free);
        let both = design(&field, &free.baseline(), 2, 0);
        for (c, level) in both.iter().zip([0.75, 0.5]) {
            assert!((u(&field, c, "pool_size") - level).abs() < 0.05, "{c}");
            assert!((u(&field, c, "memory_mb") - 0.9).abs() < 0.01, "{c}");
        }
        let roomy = with_rule(spaces::pool(), "pool_size + max_overflow <= 90");
        let c = design(&Field::new(&roomy), &roomy.baseline(), 1, 0).remove(0);
        assert!(u(&field, &c, "pool_size") > 0.85, "{c}");
        let tight = spaces::pool();
        let c = design(&Field::new(&tight), &tight.baseline(), 1, 0).remove(0);
        let n = |name: &str| c.get(name).and_then(Value::as_f64).unwrap();
        let used = (n("pool_size") + n("max_overflow")) * n("workers");
        assert!((50.0..=97.0).contains(&used), "{c} uses {used} of 97");
    }

    /// Breaks when a rule between resources and counts, or one of order, makes the counts starve.
    #[test]
    fn a_rule_costs_every_parameter_a_little_and_none_all() {
        for that in [
            "workers * cpus <= 4",
            "pool_size > max_overflow",
            "workers * memory_mb <= 4096",
        ] {
            let space = with_rule(spaces::pool(), that);
            let field = Field::new(&space);
            let c = design(&field, &space.baseline(), 1, 3).remove(0);
            for p in &space.parameters {
                assert!(u(&field, &c, &p.name) > 0.25, "{that}: {c}: {} starves", p.name);
            }
        }
    }

    #[test]
    fn the_design_is_full_where_rules_forbid_plenty() {
        let space = with_rule(spaces::pool(), "cpus * 20 + memory_mb / 100 <= 35");
        let field = Field::new(&space);
        assert_eq!(design(&field, &space.baseline(), 7, 1).len(), 7);
    }

    /// Breaks when resources are set aside in a study that is about nothing else.
    #[test]
    fn where_only_resources_are_searched_they_are_spread() {
        let mut space = Space {
            constraints: vec![],
            ..spaces::pool()
        };
        space.parameters.drain(..3);
        let field = Field::new(&space);
        let chosen = design(&field, &space.baseline(), 6, 1);
        for name in ["cpus", "memory_mb"] {
            assert!(chosen.iter().any(|c| u(&field, c, name) < 0.4), "{name}");
        }
    }

    #[test]
    fn numbers_of_a_choice_keep_their_order_and_every_pair_of_texts_has_its_seed() {
        let numbers: Vec<Value> = [8, 1, 4, 2, 16].map(Value::Int).into();
        // The fourth of 1, 2, 4, 8, 16 is 8, the first in the file.
        assert_eq!(of_numbers(&numbers, 0.75), Some(0.1));
        assert_eq!(rank_of(&numbers, 0.1), Some(0.75));
        assert_eq!(of_numbers(&[0, 1].map(Value::Int), 0.75), None);
        let mut space = Space {
            constraints: vec![],
            cost: None,
            ..spaces::pool()
        };
        space
            .parameters
            .extend([text("a", &["x", "y", "z"]), text("b", &["on", "off"])]);
        let pairs: std::collections::BTreeSet<String> = (0..6)
            .map(|seed| {
                let c = design(&Field::new(&space), &space.baseline(), 1, seed).remove(0);
                format!("{:?} {:?}", c.get("a"), c.get("b"))
            })
            .collect();
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        // A text that a rule forbids does not cost the point.
        let ruled = with_rule(space, "a != \"x\"");
        for seed in 0..6 {
            let field = Field::new(&ruled);
            let c = design(&field, &ruled.baseline(), 1, seed).remove(0);
            assert!(u(&field, &c, "pool_size") > 0.4, "{c}");
        }
    }
}
