//! The space as a search sees it: legal configs drawn, enumerated and counted, and neighbours of a config.
//!
//! A range that spans a factor of eight or more is searched on a log scale, and one that begins at 0 by
//! ln(1 + x), whether the file says `log` or not: a pool of 4 differs from 5 as 40 does from 50. Only the
//! scale of the search changes; the configs that exist stay the file's.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::space::{Config, Domain, Parameter, Space, all_configs};

/// Ratio of bounds from which a range is searched on a log scale.
const LOG_FROM: f64 = 8.0;
/// Grids up to this many points are enumerated, so that a search of them ends exactly.
const ENUMERABLE: u64 = 20_000;
/// Random draws before a space counts as without a further legal config.
const MAX_DRAWS: usize = 60_000;
/// Points of the (short, 16 bit) Sobol sequence.
const SOBOL_POINTS: u32 = 1 << 16;

/// Randomness for one purpose: its own stream of the study's seed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Random = 1,
    Simplex = 2,
    Candidates = 3,
}

/// The stream of `purpose` for step `n` of the study that has `seed`.
pub(super) fn stream(seed: u64, purpose: Purpose, n: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 40) | n as u64);
    rng
}

/// The space with the scales of the search.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// The same configs, other coordinates.
    pub(super) space: Space,
}

impl Field {
    pub(super) fn new(space: &Space) -> Self {
        let mut space = space.clone();
        for p in &mut space.parameters {
            match &mut p.domain {
                Domain::Int { low, high, log, .. } => {
                    #[allow(clippy::cast_precision_loss)] // bounds of a range, only compared
                    let wide = *low == 0 || (*low > 0 && *high as f64 / *low as f64 >= LOG_FROM);
                    *log |= wide;
                }
                Domain::Float { low, high, log, .. } => {
                    *log |= *low > 0.0 && *high / *low >= LOG_FROM;
                    // ln(1 + x) bends only where x is well above 1.
                    *log |= *low == 0.0 && *high >= LOG_FROM;
                }
                Domain::Choice { .. } => {}
            }
        }
        Self { space }
    }

    pub(super) fn dimensions(&self) -> usize {
        self.space.parameters.len()
    }

    /// The config at `point` where it is legal.
    pub(super) fn legal_at(&self, point: &[f64]) -> Option<Config> {
        let config = self.space.decode(point);
        self.space.is_legal(&config).then_some(config)
    }

    /// A random point of the unit cube.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        (0..self.dimensions()).map(|_| rng.random::<f64>()).collect()
    }

    /// Point `index` of the scrambled Sobol sequence of `seed`.
    pub(super) fn sobol(&self, index: u32, seed: u64) -> Vec<f64> {
        #[allow(clippy::cast_possible_truncation)] // 32 of the 64 bits are seed enough for a scrambling
        let seed = (seed ^ (seed >> 32)) as u32;
        (0..self.dimensions())
            .map(|d| {
                // 256 dimensions come with direction numbers; a further block gets its own scrambling.
                let (block, d) = (d / 256, d % 256);
                #[allow(clippy::cast_possible_truncation)] // d < 256, few blocks
                let (block, d) = (block as u32, d as u32);
                f64::from(sobol_burley::sample(
                    index % SOBOL_POINTS,
                    d,
                    seed.wrapping_add(block),
                ))
            })
            .collect()
    }

    /// The first `count` legal configs of the scrambled Sobol sequence, with their points, without repeats;
    /// fewer where `tries` points did not hold as many. `shape` moves the coordinate of each
    /// parameter first.
    pub(super) fn sobol_legal(
        &self,
        count: usize,
        tries: u32,
        seed: u64,
        shape: impl Fn(usize, &Parameter, f64) -> f64,
    ) -> Vec<(Vec<f64>, Config)> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for i in 0..tries.min(SOBOL_POINTS) {
            let mut point = self.sobol(i, seed);
            for (d, (u, p)) in point.iter_mut().zip(&self.space.parameters).enumerate() {
                *u = shape(d, p, *u);
            }
            if let Some(config) = self.legal_at(&point)
                && seen.insert(config.key())
            {
                found.push((point, config));
                if found.len() == count {
                    break;
                }
            }
        }
        found
    }

    /// All legal configs, where the grid is small enough to walk.
    pub(super) fn enumerate(&self) -> Option<Vec<Config>> {
        let mut all = all_configs(&self.space, ENUMERABLE)?;
        all.retain(|c| self.space.is_legal(c));
        Some(all)
    }

    /// A legal config outside `taken`, drawn at random; None where there is none, or none was found within
    /// the bound on draws.
    pub(super) fn fresh(&self, taken: &HashSet<String>, rng: &mut ChaCha8Rng) -> Option<Config> {
        let tries = if self.space.grid_size().is_some_and(|n| n <= ENUMERABLE) {
            200
        } else {
            MAX_DRAWS
        };
        for _ in 0..tries {
            let point = self.draw(rng);
            if let Some(config) = self.legal_at(&point)
                && !taken.contains(&config.key())
            {
                return Some(config);
            }
        }
        let left: Vec<Config> = self
            .enumerate()?
            .into_iter()
            .filter(|c| !taken.contains(&c.key()))
            .collect();
        if left.is_empty() {
            return None;
        }
        left.get(rng.random_range(0..left.len())).cloned()
    }

    /// Why nothing is left, in words.
    pub(super) fn exhausted(&self) -> String {
        match self.enumerate() {
            Some(all) => format!("all {} legal configs have been tried", all.len()),
            None => format!("no further legal config was found in {MAX_DRAWS} random draws"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::conformance::spaces;

    #[test]
    fn wide_ranges_are_searched_on_a_log_scale_and_keep_their_configs() {
        let space = spaces::pool();
        let field = Field::new(&space);
        // Half of a range 1..=64 on a log scale is 8.
        let half = field.space.decode(&vec![0.5; field.dimensions()]);
        assert_eq!(half.get("pool_size"), Some(&crate::space::Value::Int(8)));
        for (_, c) in field.sobol_legal(100, 4_000, 3, |_, _, u| u) {
            assert!(space.is_legal(&c));
        }
    }

    #[test]
    fn streams_differ_by_purpose_and_step() {
        let first = |p, n| stream(7, p, n).random::<u64>();
        assert_ne!(first(Purpose::Random, 1), first(Purpose::Random, 2));
        assert_ne!(first(Purpose::Random, 1), first(Purpose::Simplex, 1));
        assert_eq!(first(Purpose::Random, 1), first(Purpose::Random, 1));
    }
}
