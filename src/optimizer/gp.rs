//! A Gaussian process: Matern 5/2 with a length scale a group of inputs, a constant mean that is integrated
//! out, learned noise beside known variances; hyperparameters by maximum a posteriori.
//!
//! Formulas: Rasmussen & Williams, *Gaussian Processes for Machine Learning* (2006), eqs. 2.30 and 5.9 for
//! the marginal likelihood and its gradient, 5.12 for leave-one-out. argmin's L-BFGS with the Moré-Thuente
//! line search climbs it, nalgebra's Cholesky factorises. It knows nothing of configs or rates.

use std::cell::RefCell;

use argmin::core::{CostFunction, Error, Executor, Gradient};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

const SQRT5: f64 = 2.236_067_977_499_79;
/// Added to the diagonal so that repeats do not make the matrix singular.
const JITTER: f64 = 1e-8;
/// Points that a fit of the hyperparameters looks at; the posterior uses all.
const FIT_POINTS: usize = 120;
/// Candidates predicted at a time.
const BATCH: usize = 256;

/// Normal priors on the logarithms of the hyperparameters, and what is fixed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Priors {
    /// Length scales: mean and deviation.
    pub(super) length: (f64, f64),
    /// Amplitude (standard deviation of the function).
    pub(super) amplitude: (f64, f64),
    /// Noise (standard deviation of a measurement).
    pub(super) noise: (f64, f64),
    /// Bounds of the noise.
    pub(super) noise_within: (f64, f64),
    /// Variance of the constant mean.
    pub(super) constant: f64,
    /// Variance of the common offset of an earlier study.
    pub(super) study: f64,
}

/// Points and values.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    /// Inputs, one row a point.
    pub(super) rows: Vec<Vec<f64>>,
    /// Values.
    pub(super) y: Vec<f64>,
    /// Known variance of each value, besides the learned noise.
    pub(super) variance: Vec<f64>,
    /// From an earlier study: shares an unknown offset with the others of it.
    pub(super) prior: Vec<bool>,
    /// Length scale of each column.
    pub(super) groups: Vec<usize>,
    /// Number of length scales.
    pub(super) group_count: usize,
}

impl Data {
    pub(super) fn len(&self) -> usize {
        self.y.len()
    }

    fn subset(&self, keep: &[usize]) -> Self {
        Self {
            rows: keep.iter().map(|i| self.rows[*i].clone()).collect(),
            y: keep.iter().map(|i| self.y[*i]).collect(),
            variance: keep.iter().map(|i| self.variance[*i]).collect(),
            prior: keep.iter().map(|i| self.prior[*i]).collect(),
            groups: self.groups.clone(),
            group_count: self.group_count,
        }
    }

    /// What a fit looks at: all points, or of many the best, the latest, and every k-th of the rest.
    fn for_fit(&self) -> Self {
        let n = self.len();
        if n <= FIT_POINTS {
            return self.clone();
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| self.y[*b].total_cmp(&self.y[*a]));
        let mut keep: Vec<usize> = order[..FIT_POINTS / 2].to_vec();
        let rest: Vec<usize> = (0..n).filter(|i| !keep.contains(i)).collect();
        let latest = FIT_POINTS / 4;
        keep.extend(&rest[rest.len() - latest..]);
        let rest = &rest[..rest.len() - latest];
        let room = FIT_POINTS - keep.len();
        keep.extend((0..room.min(rest.len())).map(|k| rest[k * rest.len() / room.max(1)]));
        keep.sort_unstable();
        keep.dedup();
        self.subset(&keep)
    }
}

/// Hyperparameters, as natural logarithms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Theta {
    pub(super) length: Vec<f64>,
    pub(super) amplitude: f64,
    pub(super) noise: f64,
}

impl Theta {
    pub(super) fn start(groups: usize, priors: &Priors, shift: f64) -> Self {
        Self {
            length: vec![priors.length.0 + shift; groups],
            amplitude: priors.amplitude.0,
            noise: priors.noise.0,
        }
    }

    fn to_vec(&self) -> Vec<f64> {
        let mut v = self.length.clone();
        v.push(self.amplitude);
        v.push(self.noise);
        v
    }

    fn from_slice(v: &[f64]) -> Self {
        let g = v.len().saturating_sub(2);
        Self {
            length: v[..g].to_vec(),
            amplitude: v.get(g).copied().unwrap_or(0.0),
            noise: v.get(g + 1).copied().unwrap_or(0.0),
        }
    }

    /// Standard deviation of a measurement.
    pub(super) fn noise_sd(&self, priors: &Priors) -> f64 {
        self.noise
            .exp()
            .clamp(priors.noise_within.0, priors.noise_within.1)
    }
}

/// Covariance between two points of the same study, apart from the constant.
fn matern(r2: f64, amplitude2: f64) -> f64 {
    let r = r2.max(0.0).sqrt();
    amplitude2 * (1.0 + SQRT5 * r + 5.0 / 3.0 * r2) * (-SQRT5 * r).exp()
}

/// Squared distances by group, for the pairs j < i of the points.
struct Pairs {
    distances: Vec<f64>,
    groups: usize,
}

impl Pairs {
    fn of(data: &Data) -> Self {
        let n = data.len();
        let g = data.group_count;
        let mut distances = vec![0.0; n * n.saturating_sub(1) / 2 * g];
        let mut at = 0;
        for i in 0..n {
            for j in 0..i {
                let cell = &mut distances[at..at + g];
                for (c, k) in data.groups.iter().enumerate() {
                    let d = data.rows[i][c] - data.rows[j][c];
                    cell[*k] += d * d;
                }
                at += g;
            }
        }
        Self { distances, groups: g }
    }
}

/// The negative log posterior of the hyperparameters, with its gradient; remembers the last point asked.
struct Posterior<'a> {
    data: &'a Data,
    priors: &'a Priors,
    pairs: Pairs,
    last: RefCell<Option<Evaluated>>,
    best: RefCell<Option<(f64, Vec<f64>)>>,
}

#[derive(Clone)]
struct Evaluated {
    at: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

impl Posterior<'_> {
    fn evaluate(&self, at: &[f64]) -> Option<Evaluated> {
        if let Some(e) = self.last.borrow().as_ref().filter(|e| e.at == at) {
            return Some(e.clone());
        }
        let e = self.compute(at)?;
        let better = self.best.borrow().as_ref().is_none_or(|(v, _)| e.value < *v);
        if better {
            *self.best.borrow_mut() = Some((e.value, at.to_vec()));
        }
        *self.last.borrow_mut() = Some(e.clone());
        Some(e)
    }

    fn compute(&self, at: &[f64]) -> Option<Evaluated> {
        if at.iter().any(|v| !v.is_finite() || v.abs() > 50.0) {
            return None;
        }
        let theta = Theta::from_slice(at);
        let (data, g) = (self.data, self.pairs.groups);
        let n = data.len();
        let inverse2: Vec<f64> = theta.length.iter().map(|l| (-2.0 * l).exp()).collect();
        let amplitude2 = (2.0 * theta.amplitude).exp();
        let noise = theta.noise_sd(self.priors);
        let mut k = DMatrix::<f64>::zeros(n, n);
        // Per pair: the Matern value, and the common factor of its derivatives by the length scales.
        let mut factors = vec![(0.0, 0.0); n * n.saturating_sub(1) / 2];
        let mut pair = 0;
        for i in 0..n {
            for j in 0..i {
                let cell = &self.pairs.distances[pair * g..(pair + 1) * g];
                let r2: f64 = cell.iter().zip(&inverse2).map(|(d, w)| d * w).sum();
                let r = r2.sqrt();
                let e = amplitude2 * (-SQRT5 * r).exp();
                let value = (1.0 + SQRT5 * r + 5.0 / 3.0 * r2) * e;
                factors[pair] = (value, 5.0 / 3.0 * (1.0 + SQRT5 * r) * e);
                k[(i, j)] = value + self.offset(i, j);
                pair += 1;
            }
            k[(i, i)] = amplitude2 + self.offset(i, i) + noise * noise + data.variance[i] + JITTER;
        }
        let chol = Cholesky::new(k)?;
        let y = DVector::from_column_slice(&data.y);
        let alpha = chol.solve(&y);
        let half_log_det: f64 = chol.l_dirty().diagonal().iter().map(|d| d.ln()).sum();
        let mut value = 0.5 * y.dot(&alpha) + half_log_det;
        let inverse = chol.inverse();
        let mut gradient = vec![0.0; g + 2];
        pair = 0;
        for i in 0..n {
            for j in 0..i {
                // Both triangles: twice one half.
                let w = inverse[(i, j)] - alpha[i] * alpha[j];
                let (matern, factor) = factors[pair];
                let cell = &self.pairs.distances[pair * g..(pair + 1) * g];
                for ((out, d), l) in gradient.iter_mut().zip(cell).zip(&inverse2) {
                    *out += w * factor * d * l;
                }
                gradient[g] += w * 2.0 * matern;
                pair += 1;
            }
            let w = 0.5 * (inverse[(i, i)] - alpha[i] * alpha[i]);
            gradient[g] += w * 2.0 * amplitude2;
            gradient[g + 1] += w * 2.0 * noise * noise;
        }
        let p = self.priors;
        let scales = [p.length]
            .into_iter()
            .cycle()
            .take(g)
            .chain([p.amplitude, p.noise]);
        for ((slope, x), (mean, sd)) in gradient.iter_mut().zip(at).zip(scales) {
            let z = (x - mean) / sd;
            value += 0.5 * z * z;
            *slope += z / sd;
        }
        (value.is_finite() && gradient.iter().all(|v| v.is_finite())).then(|| Evaluated {
            at: at.to_vec(),
            value,
            gradient,
        })
    }

    fn offset(&self, i: usize, j: usize) -> f64 {
        let both = self.data.prior[i] && self.data.prior[j];
        self.priors.constant + if both { self.priors.study } else { 0.0 }
    }
}

impl CostFunction for &Posterior<'_> {
    type Param = Vec<f64>;
    type Output = f64;
    fn cost(&self, at: &Self::Param) -> Result<f64, Error> {
        self.evaluate(at)
            .map(|e| e.value)
            .ok_or_else(|| Error::msg("not positive definite"))
    }
}

impl Gradient for &Posterior<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;
    fn gradient(&self, at: &Self::Param) -> Result<Vec<f64>, Error> {
        self.evaluate(at)
            .map(|e| e.gradient)
            .ok_or_else(|| Error::msg("not positive definite"))
    }
}

/// The hyperparameters of highest posterior density found from `starts`, within `iterations` steps of each.
pub(super) fn fit(data: &Data, priors: &Priors, starts: &[Theta], iterations: u64) -> Theta {
    let data = &data.for_fit();
    let mut best: Option<(f64, Vec<f64>)> = None;
    for start in starts {
        let problem = Posterior {
            data,
            priors,
            pairs: Pairs::of(data),
            last: RefCell::new(None),
            best: RefCell::new(None),
        };
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), 7)
            .with_tolerance_grad(1e-2)
            .and_then(|s| s.with_tolerance_cost(1e-3));
        if let Ok(solver) = solver {
            // An error (a matrix that is not positive definite far out) ends the climb; the best point
            // that was evaluated is kept by the problem itself.
            let _ended = Executor::new(&problem, solver)
                .configure(|s| s.param(start.to_vec()).max_iters(iterations))
                .timer(false)
                .ctrlc(false)
                .run();
        }
        if let Some(found) = problem.best.into_inner()
            && best.as_ref().is_none_or(|(v, _)| found.0 < *v)
        {
            best = Some(found);
        }
    }
    match (best, starts.first()) {
        (Some((_, at)), _) => Theta::from_slice(&at),
        (None, Some(start)) => start.clone(),
        (None, None) => Theta::start(data.group_count, priors, 0.0),
    }
}

/// Mean and standard deviation of the function at a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    pub(super) mean: f64,
    pub(super) sd: f64,
}

/// A process conditioned on data.
#[derive(Debug, Clone)]
pub(super) struct Gp {
    pub(super) data: Data,
    pub(super) theta: Theta,
    pub(super) priors: Priors,
    scale: Vec<f64>,
    scaled: Vec<Vec<f64>>,
    factor: Cholesky<f64, Dyn>,
    lower: DMatrix<f64>,
    alpha: DVector<f64>,
}

impl Gp {
    /// None where the covariance matrix is not positive definite (values beyond reason).
    pub(super) fn new(data: Data, theta: Theta, priors: &Priors) -> Option<Self> {
        let n = data.len();
        let scale: Vec<f64> = data
            .groups
            .iter()
            .map(|g| theta.length.get(*g).map_or(1.0, |l| (-l).exp()))
            .collect();
        let scaled: Vec<Vec<f64>> = data.rows.iter().map(|r| times(r, &scale)).collect();
        let amplitude2 = (2.0 * theta.amplitude).exp();
        let noise = theta.noise_sd(priors);
        let mut k = DMatrix::<f64>::zeros(n, n);
        for i in 0..n {
            for j in 0..i {
                let both = data.prior[i] && data.prior[j];
                k[(i, j)] = matern(distance2(&scaled[i], &scaled[j]), amplitude2)
                    + priors.constant
                    + if both { priors.study } else { 0.0 };
            }
            let own = if data.prior[i] { priors.study } else { 0.0 };
            k[(i, i)] = amplitude2 + priors.constant + own + noise * noise + data.variance[i] + JITTER;
        }
        let factor = Cholesky::new(k)?;
        let alpha = factor.solve(&DVector::from_column_slice(&data.y));
        let lower = factor.l();
        Some(Self {
            data,
            theta,
            priors: priors.clone(),
            scale,
            scaled,
            factor,
            lower,
            alpha,
        })
    }

    /// Standard deviation of a measurement.
    pub(super) fn noise_sd(&self) -> f64 {
        self.theta.noise_sd(&self.priors)
    }

    /// What is believed at each of `rows`, in the present study.
    pub(super) fn predict(&self, rows: &[Vec<f64>]) -> Vec<Belief> {
        rows.chunks(BATCH)
            .flat_map(|chunk| self.predict_batch(chunk, self.data.len()))
            .collect()
    }

    /// The same from the first `count` points alone, with today's hyperparameters: the leading block of a
    /// Cholesky factor is the factor of the leading block.
    pub(super) fn predict_from_first(&self, count: usize, row: &[f64]) -> Belief {
        let rows = [row.to_vec()];
        let first = self.predict_batch(&rows, count.min(self.data.len()));
        first.first().copied().unwrap_or(Belief { mean: 0.0, sd: 1.0 })
    }

    fn predict_batch(&self, rows: &[Vec<f64>], count: usize) -> Vec<Belief> {
        let amplitude2 = (2.0 * self.theta.amplitude).exp();
        let at: Vec<Vec<f64>> = rows.iter().map(|r| times(r, &self.scale)).collect();
        let mut k = DMatrix::from_fn(count, at.len(), |i, j| {
            matern(distance2(&self.scaled[i], &at[j]), amplitude2) + self.priors.constant
        });
        let all = count == self.data.len();
        let weights = if all { Some(k.tr_mul(&self.alpha)) } else { None };
        let lower = self.lower.view((0, 0), (count, count));
        let solved = lower.solve_lower_triangular_mut(&mut k);
        let means = weights.unwrap_or_else(|| {
            let y = DVector::from_column_slice(&self.data.y[..count]);
            let z = lower.solve_lower_triangular(&y).unwrap_or(y);
            k.tr_mul(&z)
        });
        k.column_iter()
            .zip(means.iter())
            .map(|(v, mean)| {
                let explained = if solved { v.norm_squared() } else { 0.0 };
                let variance = amplitude2 + self.priors.constant - explained;
                Belief {
                    mean: *mean,
                    sd: variance.max(1e-12).sqrt(),
                }
            })
            .collect()
    }

    /// For each point, mean and standard deviation of its *value* (noise included) given all others.
    pub(super) fn leave_one_out(&self) -> Vec<Belief> {
        let inverse = self.factor.inverse();
        (0..self.data.len())
            .map(|i| {
                let q = inverse[(i, i)].max(1e-12);
                Belief {
                    mean: self.data.y[i] - self.alpha[i] / q,
                    sd: (1.0 / q).sqrt(),
                }
            })
            .collect()
    }

    /// Variance that the model gives to the value of point `i` besides the function's own.
    pub(super) fn diagonal(&self, i: usize) -> f64 {
        let noise = self.noise_sd();
        noise * noise + self.data.variance.get(i).copied().unwrap_or(0.0) + JITTER
    }
}

fn times(row: &[f64], scale: &[f64]) -> Vec<f64> {
    row.iter().zip(scale).map(|(x, s)| x * s).collect()
}

fn distance2(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}
