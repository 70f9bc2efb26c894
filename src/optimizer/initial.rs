//! The first points: today's configuration, then legal configs that lie far from each other.

use super::field::Field;
use crate::space::{Config, Domain};

/// Points of the pool that the design is chosen from.
const POOL: usize = 2_048;
/// Sobol points looked at for the pool; with 2 % legal they still give three hundred.
const POOL_TRIES: u32 = 16_000;

/// Number of trials before the model is asked, today's configuration included.
pub(super) fn size(parameters: usize) -> usize {
    (parameters + 3).clamp(7, 12)
}

/// The design of `seed`: `count` configs besides `first`, each as far as possible from those before it
/// (greedy maximin over legal scrambled Sobol points). A longer design begins with a shorter one.
pub(super) fn design(field: &Field, first: &Config, count: usize, seed: u64) -> Vec<Config> {
    // Legal shares near 1 fill the pool at once; the bound on tries matters for tight budgets only.
    let pool: Vec<(Vec<f64>, Config)> = field
        .sobol_legal(POOL, POOL_TRIES, seed)
        .into_iter()
        .map(|(_, c)| (place(field, &c), c))
        .collect();
    let mut nearest: Vec<f64> = {
        let start = place(field, first);
        pool.iter().map(|(x, _)| distance(x, &start)).collect()
    };
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

    #[test]
    fn the_design_is_legal_spread_out_and_grows_at_its_end() {
        for space in spaces::all() {
            let field = Field::new(&space);
            let first = space.baseline();
            let long = design(&field, &first, 11, 5);
            let short = design(&field, &first, 6, 5);
            assert_eq!(short, long[..short.len()]);
            for (i, c) in long.iter().enumerate() {
                assert!(space.is_legal(c));
                assert!(!long[..i].contains(c) && *c != first);
            }
        }
    }

    #[test]
    fn the_design_reaches_into_every_half_of_every_range() {
        let field = Field::new(&spaces::pool());
        let chosen = design(&field, &field.space.baseline(), 8, 1);
        for d in 0..field.dimensions() {
            let u = |c: &Config| field.space.encode(c)[d];
            assert!(chosen.iter().any(|c| u(c) < 0.4), "dimension {d} low");
            assert!(chosen.iter().any(|c| u(c) > 0.6), "dimension {d} high");
        }
    }
}
