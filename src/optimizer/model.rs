//! What is believed of every config: its rate (one process), and whether it works at all (another).
//!
//! The history becomes data here: rates with their variances, bounds by expectation propagation, outliers
//! made vague, trials that are still out as if they had met expectations, an earlier study with an offset of
//! its own. `acquisition` decides what is worth a trial, `recommend` what is worth recommending.

use std::collections::HashMap;

use statrs::function::erf::erfc;

use super::censored::{self, Bound};
use super::features::Features;
use super::field::Field;
use super::gp::{self, Belief, Data, Gp, Priors, Theta};
use super::known::{self, Fact, Known, Tally};
use super::thin;
use crate::space::{Config, Space};
use crate::trial::History;

/// Rates further below the best than this are as good as there: a tenth is a tenth.
const FLOOR: f64 = 2.5;
/// Leave-one-out residuals below this many deviations are outliers: a trial that was disturbed.
const OUTLIER: f64 = -3.2;
/// At most this share of the points.
const OUTLIERS: f64 = 0.15;
/// How much vaguer an outlier is than other measurements.
const VAGUER: f64 = 60.0;
/// Extra variance of an earlier study's rates: the service may have changed since.
const PRIOR_VARIANCE: f64 = 0.01;
/// Where P(works) turns: half-way between the labels -1 and 1.
const CLASS_WIDTH: f64 = 0.1;
/// Value of a working config in the process of what works, and the mean far from all data.
const WORKS: f64 = 1.0;
const OPTIMISM: f64 = 0.4;

/// Length scales: longer in more dimensions, so that what is far does not grow with their number.
#[allow(clippy::cast_precision_loss)]
fn length_prior(groups: usize) -> (f64, f64) {
    let d = groups.max(1) as f64;
    (0.6_f64.ln() + 0.35 * (d / 4.0).ln(), 0.9)
}

fn rate_priors(groups: usize) -> Priors {
    Priors {
        length: length_prior(groups),
        amplitude: (0.0, 1.0),
        noise: (0.05_f64.ln(), 0.5),
        noise_within: (0.012, 0.2),
        constant: 1.0,
        study: 0.25,
    }
}

fn class_priors(groups: usize) -> Priors {
    Priors {
        length: length_prior(groups),
        amplitude: (0.0, 0.5),
        noise: (0.15_f64.ln(), 0.5),
        noise_within: (0.05, 0.5),
        constant: 0.3,
        study: 0.0,
    }
}

/// The beliefs after a history.
pub(super) struct Model {
    pub(super) features: Features,
    /// The observations that it holds: all, or of many those that `thin` chose.
    pub(super) known: Vec<Known>,
    /// Of all observations.
    pub(super) tallies: HashMap<String, Tally>,
    /// Keys of configs whose measurement looks disturbed.
    pub(super) suspects: Vec<String>,
    rate: Option<Gp>,
    works: Option<Gp>,
    centre: f64,
}

/// What is believed of one config; rates as logarithms of requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outlook {
    /// The rate, where anything is known about rates.
    pub(super) rate: Option<Belief>,
    /// Probability that the config works.
    pub(super) works: f64,
}

impl Outlook {
    /// The same with deviations `factor` times as large.
    pub(super) fn bolder(&self, factor: f64) -> Self {
        let rate = self.rate.map(|b| Belief {
            sd: b.sd * factor,
            ..b
        });
        Self { rate, ..*self }
    }
}

impl Model {
    pub(super) fn new(space: &Space, history: &History) -> Self {
        Self::of_at_most(thin::MOST, space, history)
    }

    /// The same with so many observations at most.
    pub(super) fn of_at_most(most: usize, space: &Space, history: &History) -> Self {
        let field = Field::new(space);
        let features = Features::new(&field);
        let known = known::clean(history);
        let tallies = known::tallies(&known);
        let known = thin::thin(known, &tallies, &field.space, most);
        let mut model = Self {
            features,
            tallies,
            known,
            suspects: Vec::new(),
            rate: None,
            works: None,
            centre: 0.0,
        };
        model.fit_rate();
        model.fit_works();
        model
    }

    /// What is believed of configs with these inputs.
    pub(super) fn outlook(&self, rows: &[Vec<f64>]) -> Vec<Outlook> {
        let rates = self.rate.as_ref().map(|gp| gp.predict(rows));
        let works = self.works.as_ref().map(|gp| gp.predict(rows));
        (0..rows.len())
            .map(|i| Outlook {
                rate: rates.as_ref().and_then(|r| r.get(i)).map(|b| self.shifted(*b)),
                works: works.as_ref().and_then(|w| w.get(i)).map_or(1.0, probability),
            })
            .collect()
    }

    pub(super) fn outlook_of(&self, configs: &[Config]) -> Vec<Outlook> {
        let rows: Vec<Vec<f64>> = configs.iter().map(|c| self.features.of(c)).collect();
        self.outlook(&rows)
    }

    /// The rate believed at `config` from the first `count` points that the model holds.
    pub(super) fn rate_from_first(&self, count: usize, config: &Config) -> Option<Belief> {
        let gp = self.rate.as_ref()?;
        Some(self.shifted(gp.predict_from_first(count, &self.features.of(config))))
    }

    /// The configs of the points that the model of rates holds, in its order, trials that are out left aside.
    pub(super) fn rated_configs(&self) -> Vec<&Config> {
        self.known
            .iter()
            .filter(|k| !matches!(k.fact, Fact::Failed | Fact::Pending))
            .map(|k| &k.config)
            .collect()
    }

    /// Standard deviation from trial to trial, relative, as learned.
    pub(super) fn noise_sd(&self) -> f64 {
        self.rate.as_ref().map_or(0.05, Gp::noise_sd)
    }

    fn shifted(&self, b: Belief) -> Belief {
        Belief {
            mean: b.mean + self.centre,
            sd: b.sd,
        }
    }

    fn rows_of(&self, which: &[usize]) -> Data {
        Data {
            rows: which
                .iter()
                .map(|i| self.features.of(&self.known[*i].config))
                .collect(),
            y: vec![0.0; which.len()],
            variance: vec![0.0; which.len()],
            prior: which.iter().map(|i| self.known[*i].prior).collect(),
            groups: self.features.groups.clone(),
            group_count: self.features.group_count,
        }
    }

    fn fit_rate(&mut self) {
        let which: Vec<usize> = (0..self.known.len())
            .filter(|i| !matches!(self.known[*i].fact, Fact::Failed | Fact::Pending))
            .collect();
        let mut levels: Vec<f64> = which.iter().filter_map(|i| level(&self.known[*i])).collect();
        levels.sort_by(f64::total_cmp);
        let (Some(best), Some(middle)) = (levels.last().copied(), levels.get(levels.len() / 2).copied())
        else {
            return;
        };
        self.centre = middle.max(best - FLOOR);
        let floored = |y: f64| y.max(best - FLOOR) - self.centre;
        let mut data = self.rows_of(&which);
        let mut bounds = Vec::new();
        for (place, i) in which.iter().enumerate() {
            let discount = if self.known[*i].prior { PRIOR_VARIANCE } else { 0.0 };
            data.variance[place] = discount;
            match self.known[*i].fact {
                Fact::Exact { y, variance } => {
                    data.y[place] = floored(y);
                    data.variance[place] += variance;
                }
                Fact::AtLeast(y) => bounds.push(Bound {
                    index: place,
                    at: floored(y),
                    at_least: true,
                }),
                Fact::AtMost(y) => bounds.push(Bound {
                    index: place,
                    at: floored(y),
                    at_least: false,
                }),
                Fact::Failed | Fact::Pending => {}
            }
        }
        let priors = rate_priors(self.features.group_count);
        let (data, theta, suspects) = fit_with_outliers(data, &bounds, &priors);
        self.suspects = suspects
            .iter()
            .filter(|place| !data.prior[**place])
            .map(|place| self.known[which[*place]].key.clone())
            .collect();
        self.rate = Gp::new(data, theta, &priors);
        self.add_pending();
    }

    /// Trials that are out are taken to meet expectations: the next ask looks elsewhere, and no hope is lost.
    fn add_pending(&mut self) {
        let pending: Vec<usize> = (0..self.known.len())
            .filter(|i| self.known[*i].fact == Fact::Pending)
            .collect();
        let Some(gp) = self.rate.take() else { return };
        if pending.is_empty() {
            self.rate = Some(gp);
            return;
        }
        let believed = self.rows_of(&pending);
        let means = gp.predict(&believed.rows);
        let mut data = gp.data.clone();
        data.rows.extend(believed.rows);
        data.y.extend(means.iter().map(|b| b.mean));
        data.variance.extend(believed.variance);
        data.prior.extend(believed.prior);
        self.rate = Gp::new(data, gp.theta.clone(), &gp.priors).or(Some(gp));
    }

    fn fit_works(&mut self) {
        let which: Vec<usize> = (0..self.known.len())
            .filter(|i| self.known[*i].fact != Fact::Pending)
            .collect();
        let failed = |i: &usize| self.known[*i].fact == Fact::Failed;
        if !which.iter().any(failed) {
            return;
        }
        let mut data = self.rows_of(&which);
        for (place, i) in which.iter().enumerate() {
            data.y[place] = if failed(i) { -WORKS } else { WORKS } - OPTIMISM;
        }
        let priors = class_priors(self.features.group_count);
        let start = [Theta::start(data.group_count, &priors, 0.0)];
        let theta = gp::fit(&data, &priors, &start, 25);
        self.works = Gp::new(data, theta, &priors);
    }
}

fn level(k: &Known) -> Option<f64> {
    match k.fact {
        Fact::Exact { y, .. } | Fact::AtLeast(y) | Fact::AtMost(y) => Some(y),
        Fact::Failed | Fact::Pending => None,
    }
}

fn probability(b: &Belief) -> f64 {
    let z = (b.mean + OPTIMISM) / (b.sd * b.sd + CLASS_WIDTH).sqrt();
    (0.5 * erfc(-z / std::f64::consts::SQRT_2)).clamp(1e-12, 1.0)
}

/// Fits, looks for measurements that fell far below what all others say, makes those vague, fits again.
fn fit_with_outliers(mut data: Data, bounds: &[Bound], priors: &Priors) -> (Data, Theta, Vec<usize>) {
    let groups = data.group_count;
    // The second start lets a function that wiggles more be found; long fits need it less.
    let mut starts = vec![
        Theta::start(groups, priors, 0.0),
        Theta::start(groups, priors, -0.9),
    ];
    let many = data.len() > 100;
    if many {
        starts.truncate(1);
    }
    censored::guess(&mut data, bounds);
    let mut theta = gp::fit(&data, priors, &starts, if many { 20 } else { 30 });
    if !bounds.is_empty() {
        censored::settle(&mut data, bounds, &theta, priors);
        theta = gp::fit(&data, priors, &[theta], 12);
        censored::settle(&mut data, bounds, &theta, priors);
    }
    let suspects = outliers(&data, bounds, &theta, priors);
    if !suspects.is_empty() {
        let noise = theta.noise_sd(priors);
        for place in &suspects {
            data.variance[*place] += (VAGUER - 1.0) * noise * noise;
        }
        theta = gp::fit(&data, priors, &[theta], 15);
    }
    (data, theta, suspects)
}

/// The points that lie too far below what the others let expect, the worst first.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn outliers(data: &Data, bounds: &[Bound], theta: &Theta, priors: &Priors) -> Vec<usize> {
    let Some(gp) = Gp::new(data.clone(), theta.clone(), priors) else {
        return Vec::new();
    };
    let mut found: Vec<(f64, usize)> = gp
        .leave_one_out()
        .iter()
        .enumerate()
        .map(|(i, b)| ((data.y[i] - b.mean) / b.sd.max(1e-9), i))
        .filter(|(z, i)| *z < OUTLIER && !bounds.iter().any(|b| b.index == *i))
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.truncate((OUTLIERS * data.len() as f64) as usize);
    found.into_iter().map(|(_, i)| i).collect()
}
