//! The optimizer that the tool uses: trials where the model expects most of them.
//!
//! In order: today's configuration; points in which nothing starves; points spread over the space; then,
//! with a model of all that was seen, a suspected outlier again, the baseline again now and then (drift),
//! cheaper configs as the budget goes on, and otherwise the config with the largest expected improvement. It
//! stops when that has been below the noise for several asks.

use std::collections::HashSet;

use super::acquisition::{cheaper, faster, log_improvement};
use super::field::{Field, Purpose, stream};
use super::known;
use super::model::{Model, Outlook};
use super::pool::Pool;
use super::recommend::{Recommendation, candidates, recommend_from};
use super::{Ask, AskContext, Optimizer, initial, simple};
use crate::space::{Config, Space};
use crate::trial::{History, Seen};

/// Improvement over the best *believed* rate that a trial looks for; without it, the leader is measured again
/// and again.
const MARGIN: f64 = 0.02;
/// Expected improvement, relative, under which a trial is not worth its time.
const NOTHING_LEFT: f64 = 0.005;
/// Every so manyth ask trusts the model less: length scales that were learned too long hide another basin.
const BOLD_EVERY: usize = 3;
/// By this factor on its deviations.
const BOLD: f64 = 2.0;
/// Asks in a row that must have promised so little.
const PATIENCE: usize = 8;
/// Expected relative saving under which looking for a cheaper config is not worth a trial.
const NO_SAVING: f64 = 0.02;
/// Share of the budget after which every third trial looks for a cheaper config.
const COST_FROM: f64 = 0.6;
/// Trials that are assumed where nobody said how many there will be.
const ASSUMED_TRIALS: u32 = 60;
/// The baseline is measured again after this many trials, in studies that are long enough to drift.
const ANCHOR_EVERY: usize = 25;
/// Trials of a study that affords anchors.
const ANCHORS_FROM: u32 = 60;
/// Earlier observations that stand in for most of the initial design.
const WARM: usize = 10;
/// Initial design of a warm start.
const WARM_DESIGN: usize = 3;

/// Gaussian-process search. The fields set its effort, not its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GaussianProcess {
    /// Random legal configs that are looked at for each ask.
    pub scattered: usize,
    /// Configs around each of the six best that are looked at for each ask.
    pub around: usize,
}

impl Default for GaussianProcess {
    fn default() -> Self {
        Self {
            scattered: 1_500,
            around: 210,
        }
    }
}

/// What this ask is after.
struct Aim<'a> {
    space: &'a Space,
    /// Log rate that an improvement is counted from.
    best: f64,
    /// Factor on what the model does not know.
    boldness: f64,
    /// Log rate that a cheaper config must carry, and the cost to undercut.
    cheap: Option<(f64, f64)>,
    /// Places already known, to keep away from while no rate is.
    known: Vec<Vec<f64>>,
}

impl Aim<'_> {
    fn worth(&self, config: &Config, row: &[f64], o: &Outlook) -> f64 {
        if o.rate.is_none() {
            // Nothing worked yet: where it is likely to work, and far from what was seen.
            let nearest = self
                .known
                .iter()
                .map(|k| distance2(k, row))
                .fold(f64::INFINITY, f64::min);
            return o.works.ln() + 0.5 * nearest.max(1e-9).ln();
        }
        match self.cheap {
            Some((level, cheapest)) => match self.space.cost_of(config) {
                Ok(Some(cost)) => cheaper(o, level, cost, cheapest),
                _ => f64::NEG_INFINITY,
            },
            None => faster(&o.bolder(self.boldness), self.best + MARGIN),
        }
    }
}

fn distance2(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

impl Optimizer for GaussianProcess {
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask {
        if let Some(ask) = simple::opening(space, history, context) {
            return ask;
        }
        let field = Field::new(space);
        let taken = known::taken(history);
        let own = history.iter().filter(|o| !o.prior).count();
        if let Some(config) = from_design(&field, history, &taken, own, context.seed) {
            return Ask::Config(config);
        }
        let model = Model::new(space, history);
        if let Some(config) = again(space, &model, own, context) {
            return Ask::Config(config);
        }
        self.by_model(&field, space, &model, &taken, history, context)
    }
}

/// The next point of the initial design, while it is not finished.
fn from_design(
    field: &Field,
    history: &History,
    taken: &HashSet<String>,
    own: usize,
    seed: u64,
) -> Option<Config> {
    let size = match history.len() - own {
        earlier if earlier >= WARM => WARM_DESIGN,
        _ => initial::size(field.dimensions()),
    };
    if own >= size {
        return None;
    }
    // What failed in the earlier study is not asked again.
    let failed: HashSet<String> = history
        .iter()
        .filter(|o| o.prior && o.seen == Seen::Failed)
        .map(|o| o.config.key())
        .collect();
    initial::design(field, &field.space.baseline(), size, seed)
        .into_iter()
        .find(|c| !taken.contains(&c.key()) && !failed.contains(&c.key()))
}

/// A config that deserves a second measurement: a suspected outlier among the best, or the baseline (drift).
fn again(space: &Space, model: &Model, own: usize, context: &AskContext) -> Option<Config> {
    let long = context.trials.is_some_and(|n| n >= ANCHORS_FROM);
    let baseline = space.baseline();
    if long && own.is_multiple_of(ANCHOR_EVERY) && space.is_legal(&baseline) {
        return Some(baseline);
    }
    let best = best_mean(model, space);
    let suspects: Vec<Config> = model
        .known
        .iter()
        .filter(|k| !k.prior && model.suspects.contains(&k.key))
        .filter(|k| {
            model
                .tallies
                .get(&k.key)
                .is_some_and(|t| t.rates == 1 && t.pending == 0 && t.failed == 0)
        })
        .map(|k| k.config.clone())
        .collect();
    let outlook = model.outlook_of(&suspects);
    suspects
        .into_iter()
        .zip(outlook)
        .filter_map(|(c, o)| Some((c, o.rate?.mean)))
        .filter(|(_, mean)| *mean > best - 0.1)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(c, _)| c)
}

/// The highest believed rate among what was measured; of all known points where nothing usable was.
fn best_mean(model: &Model, space: &Space) -> f64 {
    let measured = candidates(model, space)
        .iter()
        .map(|c| c.mean)
        .fold(f64::NEG_INFINITY, f64::max);
    if measured.is_finite() {
        return measured;
    }
    let configs: Vec<Config> = model
        .known
        .iter()
        .filter(|k| !k.prior)
        .map(|k| k.config.clone())
        .collect();
    let all = model.outlook_of(&configs);
    let any = all
        .iter()
        .filter_map(|o| o.rate)
        .map(|b| b.mean)
        .fold(f64::NEG_INFINITY, f64::max);
    if any.is_finite() { any } else { 0.0 }
}

impl GaussianProcess {
    fn by_model(
        &self,
        field: &Field,
        space: &Space,
        model: &Model,
        taken: &HashSet<String>,
        history: &History,
        context: &AskContext,
    ) -> Ask {
        let recommended = recommend_from(model, space, context.required);
        let mut aim = Aim {
            space,
            best: best_mean(model, space),
            boldness: 1.0,
            cheap: None,
            known: model.known.iter().map(|k| model.features.of(&k.config)).collect(),
        };
        let own = history.iter().filter(|o| !o.prior).count();
        if own % BOLD_EVERY == 1 {
            aim.boldness = BOLD;
        }
        let target = recommended.as_ref().and_then(|r| undercut(r, context));
        if wants_cheaper(own, context) {
            aim.cheap = target;
        }
        let rng = stream(context.seed, Purpose::Candidates, history.len());
        let centres = centres(model, space);
        let mut pool = Pool::new(field, model, rng);
        pool.scatter(self.scattered, taken);
        pool.around(&centres, self.around, &[0.25, 0.10, 0.03], taken);
        pool.rank(|c, r, o| aim.worth(c, r, o));
        if aim.cheap.is_some() && !pool.has_hope() {
            // Nothing can be cheaper: look for something faster instead.
            aim.cheap = None;
            pool.rank_anew(|c, r, o| aim.worth(c, r, o));
        }
        for radius in [0.08, 0.03, 0.01] {
            pool.zoom(self.around / 7, radius, taken, |c, r, o| aim.worth(c, r, o));
        }
        pool.polish(taken, |c, r, o| aim.worth(c, r, o));
        if let Some(reason) = nothing_left(model, space, &pool, aim.best, target) {
            return Ask::Stop(reason);
        }
        if let Some((level, cost)) = aim.cheap
            && let Some(config) = contender(model, space, level, cost, pool.best_worth())
        {
            return Ask::Config(config);
        }
        match pool.best() {
            Some(config) => Ask::Config(config),
            None => simple::Random.ask(space, history, context),
        }
    }
}

/// The log rate that a cheaper config must carry, and the cost to undercut; None without a cost.
fn undercut(r: &Recommendation, context: &AskContext) -> Option<(f64, f64)> {
    match context.required {
        Some(rate) if r.fastest.mean < rate.get().ln() => None,
        _ => Some((r.level, r.recommended.cost?)),
    }
}

#[allow(clippy::cast_precision_loss)] // trial counts
fn wants_cheaper(own: usize, context: &AskContext) -> bool {
    if context.required.is_some() {
        return true;
    }
    let budget = f64::from(context.trials.unwrap_or(ASSUMED_TRIALS));
    own as f64 >= COST_FROM * budget && own.is_multiple_of(3)
}

/// A cheaper config that was measured once and looks as if it carried the level: measured again before a new
/// one is tried, where that promises as much.
fn contender(model: &Model, space: &Space, level: f64, cost: f64, rival: f64) -> Option<Config> {
    let single: Vec<Config> = candidates(model, space)
        .into_iter()
        .filter(|c| c.measured == 1 && c.mean >= level && c.lower < level)
        .filter(|c| c.cost.is_some_and(|own| own < cost))
        .map(|c| c.config)
        .collect();
    let outlook = model.outlook_of(&single);
    single
        .into_iter()
        .zip(outlook)
        .filter_map(|(c, o)| {
            let own = space.cost_of(&c).ok().flatten()?;
            Some((cheaper(&o, level, own, cost), c))
        })
        .filter(|(worth, _)| *worth >= rival)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// The six measured configs of the highest belief.
fn centres(model: &Model, space: &Space) -> Vec<Config> {
    let mut all = candidates(model, space);
    all.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    all.into_iter().take(6).map(|c| c.config).collect()
}

/// Why the search may end here, where it may.
fn nothing_left(
    model: &Model,
    space: &Space,
    pool: &Pool<'_>,
    best: f64,
    target: Option<(f64, f64)>,
) -> Option<String> {
    let promise = pool.greatest(|_, o| o.rate.map_or(0.0, |b| log_improvement(b, best).exp() * o.works));
    if promise? >= NOTHING_LEFT || !promised_little(model) {
        return None;
    }
    if let Some((level, cheapest)) = target {
        let saving = pool.greatest(|config, o| match space.cost_of(config) {
            Ok(Some(cost)) => cheaper(o, level, cost, cheapest).exp(),
            _ => 0.0,
        });
        if saving.is_some_and(|s| s >= NO_SAVING) {
            return None;
        }
    }
    Some(format!(
        "the largest expected improvement has been under {:.1} % for {PATIENCE} trials",
        100.0 * NOTHING_LEFT
    ))
}

/// Whether each of the last trials had promised little before it was measured, by what was known then.
fn promised_little(model: &Model) -> bool {
    let rated: Vec<&Config> = model.rated_configs();
    let wanted = PATIENCE - 1;
    if rated.len() < wanted + 4 {
        return false;
    }
    (rated.len() - wanted..rated.len()).all(|i| {
        let before = rated[..i]
            .iter()
            .filter_map(|c| model.rate_from_first(i, c))
            .map(|b| b.mean);
        let best = before.fold(f64::NEG_INFINITY, f64::max);
        model
            .rate_from_first(i, rated[i])
            .is_some_and(|b| log_improvement(b, best).exp() < NOTHING_LEFT)
    })
}
