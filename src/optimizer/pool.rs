//! Candidates for an ask: legal configs with what is believed of them, ranked by what a trial is worth.

use std::cell::RefCell;
use std::collections::HashSet;

use argmin::core::{CostFunction, Error, Executor};
use argmin::solver::neldermead::NelderMead;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::field::Field;
use super::model::{Model, Outlook};
use crate::space::{Config, Domain};

/// Share of coordinates that a scattered candidate has at the end of their range: special values (an
/// overflow of 0, a pool at its limit) often differ in kind from their neighbours (LlamaTune).
const EDGES: f64 = 0.1;
/// Share of choices that a perturbation flips.
const FLIPS: f64 = 0.1;
/// Draws per wanted candidate; a tight constraint yields fewer candidates instead of a longer ask.
const DRAWS: usize = 12;
/// Candidates that the search zooms in on.
const LEADERS: usize = 6;
/// Evaluations of the final polish, times dimensions.
const POLISH: u64 = 12;

struct Entry {
    point: Vec<f64>,
    config: Config,
    row: Vec<f64>,
    outlook: Outlook,
    /// None until it is ranked.
    worth: Option<f64>,
}

/// The candidates of one ask.
pub(super) struct Pool<'a> {
    field: &'a Field,
    model: &'a Model,
    rng: ChaCha8Rng,
    seen: HashSet<String>,
    entries: Vec<Entry>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(field: &'a Field, model: &'a Model, rng: ChaCha8Rng) -> Self {
        Self {
            field,
            model,
            rng,
            seen: HashSet::new(),
            entries: Vec::new(),
        }
    }

    /// Legal configs from all over the space.
    pub(super) fn scatter(&mut self, count: usize, taken: &HashSet<String>) {
        let mut found = Vec::new();
        for draw in 0..count * DRAWS {
            let mut point = self.field.draw(&mut self.rng);
            if draw % 2 == 0 {
                for u in &mut point {
                    if self.rng.random::<f64>() < EDGES {
                        *u = if self.rng.random::<bool>() { 1.0 } else { 0.0 };
                    }
                }
            }
            self.offer(point, taken, &mut found);
            if found.len() >= count {
                break;
            }
        }
        self.believe(found);
    }

    /// Legal neighbours of `centres`, `count` of each, at distances of about the `radii`.
    pub(super) fn around(
        &mut self,
        centres: &[Config],
        count: usize,
        radii: &[f64],
        taken: &HashSet<String>,
    ) {
        let mut found = Vec::new();
        for centre in centres {
            let centre = self.field.space.encode(centre);
            self.neighbours(&centre, count, radii, taken, &mut found);
        }
        self.believe(found);
    }

    /// Neighbours of the leading candidates at distances of about `radius`, ranked with the others.
    pub(super) fn zoom(
        &mut self,
        count: usize,
        radius: f64,
        taken: &HashSet<String>,
        worth: impl Fn(&Config, &[f64], &Outlook) -> f64,
    ) {
        let leaders: Vec<Vec<f64>> = self
            .entries
            .iter()
            .take(LEADERS)
            .map(|e| e.point.clone())
            .collect();
        let mut found = Vec::new();
        for point in leaders {
            self.neighbours(&point, count, &[radius], taken, &mut found);
        }
        self.believe(found);
        self.rank(worth);
    }

    fn neighbours(
        &mut self,
        centre: &[f64],
        count: usize,
        radii: &[f64],
        taken: &HashSet<String>,
        found: &mut Vec<(Vec<f64>, Config)>,
    ) {
        #[allow(clippy::cast_precision_loss)] // few dimensions
        let share = (3.0 / centre.len().max(1) as f64).clamp(0.3, 1.0);
        let start = found.len();
        for draw in 0..count * 3 {
            let radius = radii[draw % radii.len()];
            let mut point = centre.to_vec();
            for (u, p) in point.iter_mut().zip(&self.field.space.parameters) {
                if matches!(p.domain, Domain::Choice { .. }) {
                    if self.rng.random::<f64>() < FLIPS {
                        *u = self.rng.random::<f64>();
                    }
                } else if self.rng.random::<f64>() < share {
                    *u = (*u + radius * normal(&mut self.rng)).clamp(0.0, 1.0);
                }
            }
            self.offer(point, taken, found);
            if found.len() >= start + count {
                break;
            }
        }
    }

    fn offer(&mut self, point: Vec<f64>, taken: &HashSet<String>, found: &mut Vec<(Vec<f64>, Config)>) {
        if let Some(config) = self.field.legal_at(&point) {
            let key = config.key();
            if !taken.contains(&key) && self.seen.insert(key) {
                found.push((point, config));
            }
        }
    }

    fn believe(&mut self, found: Vec<(Vec<f64>, Config)>) {
        let rows: Vec<Vec<f64>> = found.iter().map(|(_, c)| self.model.features.of(c)).collect();
        let outlook = self.model.outlook(&rows);
        let entries = found.into_iter().zip(rows).zip(outlook);
        self.entries
            .extend(entries.map(|(((point, config), row), outlook)| Entry {
                point,
                config,
                row,
                outlook,
                worth: None,
            }));
    }

    /// Ranks all candidates, best first; equal ones keep the order they were found in. Only those that have
    /// come since the last ranking are judged: `worth` must be the same until `rank_anew`.
    pub(super) fn rank(&mut self, worth: impl Fn(&Config, &[f64], &Outlook) -> f64) {
        for e in self.entries.iter_mut().filter(|e| e.worth.is_none()) {
            let w = worth(&e.config, &e.row, &e.outlook);
            e.worth = Some(if w.is_nan() { f64::NEG_INFINITY } else { w });
        }
        let key = |e: &Entry| e.worth.unwrap_or(f64::NEG_INFINITY);
        self.entries.sort_by(|a, b| key(b).total_cmp(&key(a)));
    }

    /// Ranks all candidates by another worth.
    pub(super) fn rank_anew(&mut self, worth: impl Fn(&Config, &[f64], &Outlook) -> f64) {
        for e in &mut self.entries {
            e.worth = None;
        }
        self.rank(worth);
    }

    /// Moves the best candidate along the continuous coordinates with argmin's Nelder-Mead; kept where the
    /// config it arrives at, on the grid, is worth more.
    pub(super) fn polish(
        &mut self,
        taken: &HashSet<String>,
        worth: impl Fn(&Config, &[f64], &Outlook) -> f64,
    ) {
        let Some(start) = self.entries.first().map(|e| e.point.clone()) else {
            return;
        };
        let free: Vec<usize> = (0..start.len())
            .filter(|d| !matches!(self.field.space.parameters[*d].domain, Domain::Choice { .. }))
            .collect();
        if free.is_empty() {
            return;
        }
        let visited = RefCell::new(Vec::new());
        let climb = Climb {
            pool: self,
            start: &start,
            free: &free,
            worth: &worth,
            visited: &visited,
        };
        let origin: Vec<f64> = free.iter().map(|d| start[*d]).collect();
        let mut simplex = vec![origin.clone()];
        for d in 0..origin.len() {
            let mut corner = origin.clone();
            corner[d] += if corner[d] > 0.5 { -0.03 } else { 0.03 };
            simplex.push(corner);
        }
        // The result of the run is not needed: the best point that was visited is, and it is noted.
        let _ended = Executor::new(climb, NelderMead::new(simplex))
            .configure(|s| s.max_iters(POLISH * free.len().min(6) as u64))
            .timer(false)
            .ctrlc(false)
            .run();
        let mut found = Vec::new();
        if let Some((_, point)) = visited
            .into_inner()
            .into_iter()
            .max_by(|a, b| a.0.total_cmp(&b.0))
        {
            self.offer(point, taken, &mut found);
        }
        self.believe(found);
        self.rank(worth);
    }

    /// The candidate of the highest worth.
    pub(super) fn best(&self) -> Option<Config> {
        self.entries.first().map(|e| e.config.clone())
    }

    /// Its worth.
    pub(super) fn best_worth(&self) -> f64 {
        self.entries
            .first()
            .and_then(|e| e.worth)
            .unwrap_or(f64::NEG_INFINITY)
    }

    /// Whether any candidate is worth anything.
    pub(super) fn has_hope(&self) -> bool {
        self.best_worth().is_finite()
    }

    /// The largest value of `of` over all candidates.
    pub(super) fn greatest(&self, of: impl Fn(&Config, &Outlook) -> f64) -> Option<f64> {
        self.entries
            .iter()
            .map(|e| of(&e.config, &e.outlook))
            .max_by(f64::total_cmp)
    }
}

/// The worth of a trial as a function of the free coordinates.
struct Climb<'a, 'p, W> {
    pool: &'a Pool<'p>,
    start: &'a [f64],
    free: &'a [usize],
    worth: &'a W,
    visited: &'a RefCell<Vec<(f64, Vec<f64>)>>,
}

impl<W: Fn(&Config, &[f64], &Outlook) -> f64> CostFunction for Climb<'_, '_, W> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, at: &Self::Param) -> Result<f64, Error> {
        let mut point = self.start.to_vec();
        for (d, u) in self.free.iter().zip(at) {
            point[*d] = u.clamp(0.0, 1.0);
        }
        // Far above any negative worth, so that the simplex turns away from what is illegal.
        let wall = 1e6;
        let Some(config) = self.pool.field.legal_at(&point) else {
            return Ok(wall);
        };
        let row = self.pool.model.features.of(&config);
        let Some(outlook) = self
            .pool
            .model
            .outlook(std::slice::from_ref(&row))
            .first()
            .copied()
        else {
            return Ok(wall);
        };
        let worth = (self.worth)(&config, &row, &outlook);
        if !worth.is_finite() {
            return Ok(wall);
        }
        self.visited.borrow_mut().push((worth, point));
        Ok(-worth)
    }
}

/// A standard normal draw (Box-Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::conformance::spaces;
    use crate::optimizer::field::{Purpose, stream};
    use crate::trial::History;

    /// Breaks when a candidate that comes late is not ranked with the others, when one is judged twice by the same
    /// worth, or when another worth leaves the old order.
    #[test]
    fn each_candidate_is_judged_once_by_a_worth_and_again_by_another() {
        let space = spaces::pool();
        let field = Field::new(&space);
        let model = Model::new(&space, &History::new());
        let mut pool = Pool::new(&field, &model, stream(1, Purpose::Candidates, 0));
        let taken = HashSet::new();
        let judged = std::cell::Cell::new(0);
        let low = |_: &Config, row: &[f64], _: &Outlook| {
            judged.set(judged.get() + 1);
            -row[0]
        };
        pool.scatter(50, &taken);
        pool.rank(low);
        pool.around(&[space.baseline()], 20, &[0.1], &taken);
        pool.rank(low);
        assert_eq!(judged.get(), pool.entries.len());
        let in_order = |p: &Pool<'_>, sign: f64| {
            p.entries
                .windows(2)
                .all(|w| sign * w[0].row[0] <= sign * w[1].row[0])
        };
        assert!(pool.entries.len() > 50 && in_order(&pool, 1.0));
        pool.rank_anew(|_, row, _| row[0]);
        assert!(in_order(&pool, -1.0));
    }
}
