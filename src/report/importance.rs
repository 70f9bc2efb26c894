//! How much of the rates' variance each parameter explains: functional ANOVA over a small random forest.
//!
//! Source: Hutter, Hoos, Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance"
//! (ICML 2014). Each tree is a partition of the unit cube into boxes with a constant each; the marginal of one
//! parameter is the average over the boxes, weighted by their volume in the other dimensions, and its variance
//! over the tree's whole variance is the parameter's share. What no single parameter explains is interaction.
//! Rates enter as logarithms: a doubling counts the same at 50 and at 500 rps.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Trees of the forest.
const TREES: usize = 48;
/// Fewest observations in a leaf.
const LEAF: usize = 3;
/// Fewest observations that say anything.
const FEWEST: usize = 8;
/// Observations that are looked at; more add time and no insight.
const MOST: usize = 2_000;

/// A parameter's share of the variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Mean over the trees, 0..=1.
    pub mean: f64,
    /// Standard deviation over the trees.
    pub deviation: f64,
}

/// The share of each dimension; None with too few observations or rates that do not differ. `points` are
/// coordinates in the unit cube, `rates` requests per second above zero.
#[must_use]
pub fn importance(points: &[Vec<f64>], rates: &[f64], seed: u64) -> Option<Vec<Share>> {
    let dims = points.first()?.len();
    let n = points.len().min(rates.len());
    if n < FEWEST || dims == 0 {
        return None;
    }
    // The newest observations, where there are too many.
    let from = n.saturating_sub(MOST);
    let (points, rates) = (points.get(from..n)?, rates.get(from..n)?);
    let logs: Vec<f64> = rates.iter().map(|r| r.max(1e-9).ln()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut shares: Vec<Vec<f64>> = Vec::with_capacity(TREES);
    for _ in 0..TREES {
        let mut sample: Vec<usize> = (0..points.len())
            .map(|_| rng.random_range(0..points.len()))
            .collect();
        let mut leaves = Vec::new();
        let data = Data { points, logs: &logs };
        data.grow(&mut sample, Leaf::whole(dims), &mut leaves);
        if let Some(s) = tree_shares(&leaves, dims) {
            shares.push(s);
        }
    }
    if shares.is_empty() {
        return None;
    }
    Some((0..dims).map(|d| mean_of(&shares, d)).collect())
}

#[allow(clippy::cast_precision_loss)]
fn mean_of(shares: &[Vec<f64>], d: usize) -> Share {
    let values: Vec<f64> = shares.iter().filter_map(|s| s.get(d).copied()).collect();
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    Share {
        mean,
        deviation: var.sqrt(),
    }
}

/// A box of the unit cube with its constant.
#[derive(Clone)]
struct Leaf {
    low: Vec<f64>,
    high: Vec<f64>,
    value: f64,
}

impl Leaf {
    fn whole(dims: usize) -> Self {
        Self {
            low: vec![0.0; dims],
            high: vec![1.0; dims],
            value: 0.0,
        }
    }
    fn side(&self, d: usize) -> f64 {
        match (self.low.get(d), self.high.get(d)) {
            (Some(l), Some(h)) => h - l,
            _ => 0.0,
        }
    }
    fn volume(&self) -> f64 {
        (0..self.low.len()).map(|d| self.side(d)).product()
    }
}

struct Data<'a> {
    points: &'a [Vec<f64>],
    logs: &'a [f64],
}

impl Data<'_> {
    fn at(&self, i: usize, d: usize) -> f64 {
        self.points.get(i).and_then(|p| p.get(d)).copied().unwrap_or(0.5)
    }
    fn log(&self, i: usize) -> f64 {
        self.logs.get(i).copied().unwrap_or(0.0)
    }

    /// Splits `sample` until its leaves are small; a work list instead of recursion bounds the stack.
    #[allow(clippy::cast_precision_loss)]
    fn grow(&self, sample: &mut [usize], root: Leaf, leaves: &mut Vec<Leaf>) {
        let mut open = vec![(sample, root)];
        while let Some((part, mut area)) = open.pop() {
            match self.best_split(part, &area) {
                Some((d, at)) => {
                    part.sort_by(|a, b| self.at(*a, d).total_cmp(&self.at(*b, d)));
                    let cut = part.partition_point(|i| self.at(*i, d) <= at);
                    let (left, right) = part.split_at_mut(cut);
                    let mut upper = area.clone();
                    if let (Some(h), Some(l)) = (area.high.get_mut(d), upper.low.get_mut(d)) {
                        *h = at;
                        *l = at;
                    }
                    open.push((left, area));
                    open.push((right, upper));
                }
                None => {
                    area.value = part.iter().map(|i| self.log(*i)).sum::<f64>() / part.len().max(1) as f64;
                    leaves.push(area);
                }
            }
        }
    }

    /// The dimension and threshold that reduce the squared error most.
    #[allow(clippy::cast_precision_loss)]
    fn best_split(&self, part: &mut [usize], area: &Leaf) -> Option<(usize, f64)> {
        if part.len() < 2 * LEAF {
            return None;
        }
        let total: f64 = part.iter().map(|i| self.log(*i)).sum();
        let n = part.len() as f64;
        let mut best: Option<(f64, usize, f64)> = None;
        for d in 0..area.low.len() {
            part.sort_by(|a, b| self.at(*a, d).total_cmp(&self.at(*b, d)));
            let mut left = 0.0;
            for (k, pair) in part.windows(2).enumerate() {
                let &[i, j] = pair else { continue };
                left += self.log(i);
                let (nl, x, y) = ((k + 1) as f64, self.at(i, d), self.at(j, d));
                if k + 1 < LEAF || part.len() - k - 1 < LEAF || y - x < 1e-12 {
                    continue;
                }
                let gain = left * left / nl + (total - left).powi(2) / (n - nl) - total * total / n;
                if gain > best.map_or(1e-9, |b| b.0) {
                    best = Some((gain, d, f64::midpoint(x, y)));
                }
            }
        }
        best.map(|(_, d, at)| (d, at))
    }
}

/// Each dimension's marginal variance over the tree's whole variance.
fn tree_shares(leaves: &[Leaf], dims: usize) -> Option<Vec<f64>> {
    let mean: f64 = leaves.iter().map(|l| l.volume() * l.value).sum();
    let whole: f64 = leaves.iter().map(|l| l.volume() * (l.value - mean).powi(2)).sum();
    if whole < 1e-12 {
        return None;
    }
    let share = |d: usize| {
        let mut cuts: Vec<f64> = leaves
            .iter()
            .flat_map(|l| [l.low.get(d).copied(), l.high.get(d).copied()])
            .flatten()
            .collect();
        cuts.sort_by(f64::total_cmp);
        cuts.dedup();
        let variance: f64 = cuts
            .windows(2)
            .map(|w| {
                let (from, to) = (
                    w.first().copied().unwrap_or(0.0),
                    w.last().copied().unwrap_or(0.0),
                );
                let middle = f64::midpoint(from, to);
                let marginal: f64 = leaves
                    .iter()
                    .filter(|l| {
                        l.low.get(d).is_some_and(|x| *x < middle)
                            && l.high.get(d).is_some_and(|x| middle < *x)
                    })
                    .map(|l| l.value * l.volume() / l.side(d).max(1e-300))
                    .sum();
                (to - from) * (marginal - mean).powi(2)
            })
            .sum();
        (variance / whole).clamp(0.0, 1.0)
    };
    Some((0..dims).map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: usize, dims: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| (0..dims).map(|_| rng.random()).collect())
            .collect()
    }

    /// An additive function's shares are known: for a*x + b*y they are a^2 and b^2 over their sum. Breaks when
    /// volumes or marginals are weighted wrongly.
    #[test]
    fn shares_of_an_additive_function_are_the_known_ones() {
        let p = points(600, 3, 1);
        let rates: Vec<f64> = p.iter().map(|x| (2.0 * x[0] + 1.0 * x[1]).exp()).collect();
        let s = importance(&p, &rates, 1).unwrap();
        assert!((s[0].mean - 0.8).abs() < 0.06, "{s:?}");
        assert!((s[1].mean - 0.2).abs() < 0.06, "{s:?}");
        assert!(s[2].mean < 0.02, "an idle parameter explains nothing: {s:?}");
    }

    /// Breaks when an interaction is handed to one of its parameters.
    #[test]
    fn an_interaction_belongs_to_no_single_parameter() {
        let p = points(800, 2, 2);
        let rates: Vec<f64> = p
            .iter()
            .map(|x| (8.0 * (x[0] - 0.5) * (x[1] - 0.5)).exp())
            .collect();
        let s = importance(&p, &rates, 1).unwrap();
        assert!(s.iter().map(|x| x.mean).sum::<f64>() < 0.35, "{s:?}");
    }

    #[test]
    fn too_little_says_nothing_and_the_seed_decides() {
        let p = points(40, 2, 3);
        let rates: Vec<f64> = p.iter().map(|x| 1.0 + x[0]).collect();
        assert_eq!(importance(&p[..5], &rates[..5], 1), None);
        assert_eq!(importance(&p, &vec![3.0; 40], 1), None);
        assert_eq!(importance(&p, &rates, 1), importance(&p, &rates, 1));
    }
}
