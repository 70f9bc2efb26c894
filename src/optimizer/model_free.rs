//! A search without a model: argmin's Nelder-Mead simplex, made stateless by replay.
//!
//! The simplex runs from its beginning at every ask, and its cost function looks results up in the history.
//! The first config that has no result yet is the answer. Every step is a function of what was measured, so
//! a killed study, a resumed one and an uninterrupted one walk the same path.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use argmin::core::{CostFunction, Error, Executor};
use argmin::solver::neldermead::NelderMead;
use rand::RngExt;

use super::field::{Field, Purpose, stream};
use super::initial;
use super::known::{self, Fact, Known};
use super::simple::{Random, opening};
use super::{Ask, AskContext, Optimizer};
use crate::space::{Config, Space};
use crate::trial::History;

/// Simplexes started one after the other, each from another corner of the space.
const RESTARTS: usize = 40;
/// Iterations of one simplex; on a grid it collapses long before.
const ITERATIONS: u64 = 200;
/// Cost of what cannot be measured: far above the negative logarithm of any rate.
const ILLEGAL: f64 = 2_000.0;
/// Cost of a config that failed.
const FAILED: f64 = 1_000.0;

/// argmin's Nelder-Mead simplex on the negative logarithm of the rate, restarted when it has collapsed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelFree;

/// The history as a cost function; it notes the first config without a result.
struct Replay<'a> {
    field: &'a Field,
    costs: &'a HashMap<String, f64>,
    wanted: &'a RefCell<Option<Config>>,
    /// Evaluations before an error may end the run: argmin unwraps those of the first simplex.
    grace: Cell<usize>,
}

impl CostFunction for Replay<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, point: &Self::Param) -> Result<Self::Output, Error> {
        let in_grace = self.grace.get() > 0;
        self.grace.set(self.grace.get().saturating_sub(1));
        let Some(config) = self.field.legal_at(point) else {
            return Ok(ILLEGAL);
        };
        if let Some(cost) = self.costs.get(&config.key()) {
            return Ok(*cost);
        }
        self.wanted.borrow_mut().get_or_insert(config);
        if in_grace {
            Ok(FAILED)
        } else {
            Err(Error::msg("not measured yet"))
        }
    }
}

/// What each tried config costs: its first result, so that a repeat does not bend the path already walked.
fn costs(history: &History) -> HashMap<String, f64> {
    let known = known::clean(history);
    let mut rates: Vec<f64> = known.iter().filter_map(rate).collect();
    rates.sort_by(f64::total_cmp);
    let middle = rates.get(rates.len() / 2).copied().unwrap_or(0.0);
    let mut costs = HashMap::new();
    for o in history {
        // Nonsense that was told costs as much as a failure.
        costs.entry(o.config.key()).or_insert(FAILED);
    }
    let mut told = HashSet::new();
    for k in known.iter().filter(|k| !k.prior) {
        if told.insert(k.key.as_str()) {
            let cost = match k.fact {
                Fact::Exact { y, .. } | Fact::AtLeast(y) | Fact::AtMost(y) => -y,
                Fact::Failed => FAILED,
                Fact::Pending => -middle,
            };
            costs.insert(k.key.clone(), cost);
        }
    }
    costs
}

fn rate(k: &Known) -> Option<f64> {
    match k.fact {
        Fact::Exact { y, .. } if !k.prior => Some(y),
        _ => None,
    }
}

/// A simplex around `centre`: one corner a dimension, moved by a quarter of the range towards its far end.
fn simplex(centre: &[f64], size: f64) -> Vec<Vec<f64>> {
    let mut corners = vec![centre.to_vec()];
    for d in 0..centre.len() {
        let mut corner = centre.to_vec();
        corner[d] += if corner[d] > 0.5 { -size } else { size };
        corners.push(corner);
    }
    corners
}

impl Optimizer for ModelFree {
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask {
        if let Some(ask) = opening(space, history, context) {
            return ask;
        }
        let field = Field::new(space);
        let baseline = space.baseline();
        let taken = known::taken(history);
        let count = (field.dimensions() + 3).clamp(7, 12) / 2;
        let first = initial::spread(
            &field,
            std::slice::from_ref(&baseline),
            count,
            context.seed,
            |_, _, u| u,
        );
        if let Some(config) = first.iter().find(|c| !taken.contains(&c.key())) {
            return Ask::Config(config.clone());
        }
        let costs = costs(history);
        let cost = |c: &Config| costs.get(&c.key()).copied().unwrap_or(ILLEGAL);
        let best = first
            .iter()
            .chain([&baseline])
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
            .map_or_else(|| vec![0.5; field.dimensions()], |c| field.space.encode(c));
        for restart in 0..RESTARTS {
            let mut rng = stream(context.seed, Purpose::Simplex, restart);
            let (centre, size) = match restart {
                0 => (best.clone(), 0.25),
                _ => (field.draw(&mut rng), 0.15 + 0.25 * rng.random::<f64>()),
            };
            let wanted = RefCell::new(None);
            let replay = Replay {
                field: &field,
                costs: &costs,
                wanted: &wanted,
                grace: Cell::new(centre.len() + 1),
            };
            // The result of the run is not needed: what it could not look up is.
            let _ended = Executor::new(replay, NelderMead::new(simplex(&centre, size)))
                .configure(|s| s.max_iters(ITERATIONS))
                .timer(false)
                .ctrlc(false)
                .run();
            if let Some(config) = wanted.into_inner() {
                return Ask::Config(config);
            }
        }
        Random.ask(space, history, context)
    }
}
