//! How much of a space is legal, and the walk over its configs. Pure.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Config, Space};

/// Configs that are counted one by one; larger spaces are sampled.
const EXACT: u64 = 20_000;
/// Points of the estimate.
const SAMPLES: u64 = 10_000;

/// How much of a space keeps the constraints.
#[derive(Debug, Clone, PartialEq)]
pub struct LegalShare {
    /// Legal configs over all configs (counted), or over random points of the grid (estimated).
    pub share: f64,
    /// 95 % Wilson interval of the share; both ends are the share where it was counted.
    pub interval: [f64; 2],
    /// Whether every config was looked at.
    pub exact: bool,
    /// Legal configs: counted, or the share of the grid's points; None where a parameter is continuous.
    pub legal: Option<u64>,
    /// All configs: counted, or the grid's points (inactive parameters counted too); None where continuous.
    pub total: Option<u64>,
}

/// Counts or estimates the legal share of `space`.
///
/// A space of up to 20,000 configs is counted, each different config once; otherwise 10,000 points drawn from
/// `seed` are judged. The interval is Wilson's (1927) at 95 %.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn legal_share(space: &Space, seed: u64) -> LegalShare {
    if let Some((legal, total)) = count(space) {
        let share = if total == 0 {
            0.0
        } else {
            legal as f64 / total as f64
        };
        return LegalShare {
            share,
            interval: [share, share],
            exact: true,
            legal: Some(legal),
            total: Some(total),
        };
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let legal = (0..SAMPLES)
        .filter(|_| space.is_legal(&any_config(space, &mut rng)))
        .count();
    let (n, share) = (SAMPLES as f64, legal as f64 / SAMPLES as f64);
    let z2 = 1.96_f64.powi(2);
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = 1.96 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let total = space.grid_size();
    LegalShare {
        share,
        interval: [(middle - half).max(0.0), (middle + half).min(1.0)],
        exact: false,
        legal: total.map(|t| (t as f64 * share).round() as u64),
        total,
    }
}

/// A config whose values are drawn evenly from the grids: on a log scale, points of the unit interval are not.
fn any_config(space: &Space, rng: &mut ChaCha8Rng) -> Config {
    let full = space
        .parameters
        .iter()
        .map(|p| {
            let value = match p.domain.size() {
                Some(n) => p.domain.nth(rng.random_range(0..n.max(1))),
                None => None,
            };
            (
                p.name.clone(),
                value.unwrap_or_else(|| p.domain.decode(rng.random::<f64>())),
            )
        })
        .collect();
    space.without_inactive(full)
}

/// `n` configs at random points of the unit cube, legal or not, from `seed`.
pub fn samples(space: &Space, seed: u64, n: u64) -> impl Iterator<Item = Config> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(move |_| {
        let point: Vec<f64> = space.parameters.iter().map(|_| rng.random::<f64>()).collect();
        space.decode(&point)
    })
}

/// (legal, all) configs, each counted once; None where there are too many.
fn count(space: &Space) -> Option<(u64, u64)> {
    let configs = all_configs(space, EXACT)?;
    let legal = configs.iter().filter(|c| space.is_legal(c)).count() as u64;
    Some((legal, configs.len() as u64))
}

/// Every config of the grid once, legal or not; None where a parameter is continuous or there are more than `most`.
#[must_use]
pub fn all_configs(space: &Space, most: u64) -> Option<Vec<Config>> {
    let mut configs = vec![Config::default()];
    // A condition uses earlier parameters only, so that it can be judged on the config so far.
    for p in &space.parameters {
        let size = p.domain.size()?;
        let mut next = Vec::new();
        for config in configs {
            let active = p
                .only_if
                .as_ref()
                .is_none_or(|e| e.truth(&config).unwrap_or(false));
            if !active {
                next.push(config);
                continue;
            }
            if (next.len() as u64).saturating_add(size) > most {
                return None;
            }
            for value in (0..size).filter_map(|k| p.domain.nth(k)) {
                let mut c = config.clone();
                c.set(&p.name, value);
                next.push(c);
            }
        }
        configs = next;
    }
    Some(configs)
}
