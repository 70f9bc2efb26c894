//! What would be recommended now, and why: the fastest config, the cheapest within the noise of it, and the
//! trade-offs between. Only configs that were measured in this study, never one that failed or was unstable.
//!
//! This is the search's opinion. The finals (`finals`) measure it again before anybody acts on it.

use serde::Serialize;

use super::known::Tally;
use super::model::Model;
use crate::space::{Config, Space};
use crate::trial::History;
use crate::units::Rps;

/// Share of the best rate that may be given up for a lower cost.
const TOLERANCE: f64 = 0.03;
/// Deviations below the mean that a cheap config's rate is taken at.
const CAUTION: f64 = 0.5;
/// A model may smooth over a cliff: a config is believed at most this many noises above its own average.
const OWN_NOISES: f64 = 1.5;

/// A measured config with what is believed of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The config.
    pub config: Config,
    /// Believed sustainable rate, requests per second.
    pub rps: f64,
    /// 90 % interval of the same.
    pub interval_rps: [f64; 2],
    /// Its cost, where the space has one.
    pub cost: Option<f64>,
    /// How often its rate was measured; 0 where only bounds are known.
    pub measured: u32,
    /// It carries at least this, requests per second: the highest rate that could be offered, where one was reached.
    pub at_least_rps: Option<f64>,
    /// It carries less than this, requests per second, where a race was lost.
    pub below_rps: Option<f64>,
    #[serde(skip)]
    pub(super) lower: f64,
    #[serde(skip)]
    pub(super) mean: f64,
    #[serde(skip)]
    pub(super) sd: f64,
}

/// What the search recommends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The config to take: the cheapest within the noise of the fastest, or the fastest without a cost.
    pub recommended: Candidate,
    /// The fastest.
    pub fastest: Candidate,
    /// Configs that no other is both faster and cheaper than, cheapest first; the fastest alone without a cost.
    pub pareto: Vec<Candidate>,
    /// Today's configuration as measured in the search.
    pub baseline: Option<Candidate>,
    /// Relative deviation from trial to trial, as learned.
    pub noise: f64,
    /// Why, in a sentence.
    pub why: String,
    /// The log rate that a config must reach to be recommended for its cost.
    #[serde(skip)]
    pub(super) level: f64,
}

/// What would be recommended after `history`; None where nothing that works was measured. With `required`,
/// the cheapest config that carries that rate.
#[must_use]
pub fn recommend(space: &Space, history: &History, required: Option<Rps>) -> Option<Recommendation> {
    recommend_from(&Model::new(space, history), space, required)
}

pub(super) fn recommend_from(model: &Model, space: &Space, required: Option<Rps>) -> Option<Recommendation> {
    let candidates = candidates(model, space);
    let fastest = fastest(&candidates)?.clone();
    let level = match required {
        Some(r) => r.get().ln(),
        None => reference(&candidates) + (1.0 - TOLERANCE).ln(),
    };
    let recommended = cheapest(&candidates, level).unwrap_or(&fastest).clone();
    let baseline = space.baseline();
    let why = why(&recommended, &fastest, model, required);
    Some(Recommendation {
        pareto: pareto(&candidates),
        baseline: candidates.iter().find(|c| c.config == baseline).cloned(),
        noise: model.noise_sd(),
        recommended,
        fastest,
        why,
        level,
    })
}

/// The configs worth measuring again: the recommended one first, then the fastest, then the next in rate;
/// `most` of them, without the baseline, which takes part in every final anyway.
#[must_use]
pub fn leaders(space: &Space, history: &History, required: Option<Rps>, most: usize) -> Vec<Config> {
    let model = Model::new(space, history);
    let Some(r) = recommend_from(&model, space, required) else {
        return Vec::new();
    };
    let baseline = space.baseline();
    let mut rest = candidates(&model, space);
    rest.sort_by(|a, b| b.lower.total_cmp(&a.lower));
    let mut chosen: Vec<Config> = Vec::new();
    for c in [&r.recommended, &r.fastest].into_iter().chain(&rest) {
        if c.config != baseline && !chosen.contains(&c.config) {
            chosen.push(c.config.clone());
        }
    }
    chosen.truncate(most);
    chosen
}

/// Every config of this study that was measured and worked, in the order of its first measurement.
pub(super) fn candidates(model: &Model, space: &Space) -> Vec<Candidate> {
    let mut seen = std::collections::HashSet::new();
    let configs: Vec<(Config, Tally)> = model
        .known
        .iter()
        .filter(|k| !k.prior && seen.insert(k.key.clone()))
        .filter_map(|k| {
            let t = model.tallies.get(&k.key)?;
            let usable = t.rates + t.at_least > 0 && !t.is_unstable() && space.is_legal(&k.config);
            usable.then(|| (k.config.clone(), *t))
        })
        .collect();
    let plain: Vec<Config> = configs.iter().map(|(c, _)| c.clone()).collect();
    let noise = model.noise_sd();
    configs
        .into_iter()
        .zip(model.outlook_of(&plain))
        .filter_map(|((config, tally), o)| {
            let b = o.rate?;
            let ceiling = tally.average().map_or(f64::INFINITY, |y| y + OWN_NOISES * noise);
            let mean = b.mean.min(ceiling);
            Some(Candidate {
                cost: space.cost_of(&config).ok().flatten(),
                config,
                rps: mean.exp(),
                interval_rps: [(mean - 1.645 * b.sd).exp(), (mean + 1.645 * b.sd).exp()],
                measured: tally.rates,
                at_least_rps: tally.floor.map(f64::exp),
                below_rps: tally.ceiling.map(f64::exp),
                lower: mean - CAUTION * b.sd,
                mean,
                sd: b.sd,
            })
        })
        .collect()
}

fn fastest(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().max_by(|a, b| a.mean.total_cmp(&b.mean))
}

/// The log rate that a cheap config is held against. The largest of many noisy estimates is too large: it is the mean of all
/// that lie within one deviation of the difference from it, each weighted by its precision. On a plateau that is its level.
fn reference(candidates: &[Candidate]) -> f64 {
    let Some(best) = fastest(candidates) else {
        return f64::INFINITY;
    };
    let (mut sum, mut weight) = (0.0, 0.0);
    for c in candidates {
        if c.mean >= best.mean - c.sd.hypot(best.sd) {
            let w = c.sd.max(1e-6).powi(-2);
            sum += w * c.mean;
            weight += w;
        }
    }
    sum / weight
}

/// The cheapest whose lower bound reaches `level`; None without a cost, or where none does.
fn cheapest(candidates: &[Candidate], level: f64) -> Option<&Candidate> {
    candidates
        .iter()
        .filter(|c| c.cost.is_some() && c.lower >= level)
        .min_by(|a, b| {
            let cost = |c: &Candidate| c.cost.unwrap_or(f64::INFINITY);
            cost(a).total_cmp(&cost(b)).then(b.mean.total_cmp(&a.mean))
        })
}

fn pareto(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    let cost = |c: &Candidate| c.cost.unwrap_or(0.0);
    sorted.sort_by(|a, b| cost(a).total_cmp(&cost(b)).then(b.mean.total_cmp(&a.mean)));
    let mut front: Vec<Candidate> = Vec::new();
    for c in sorted {
        if front.last().is_none_or(|f| c.mean > f.mean) {
            front.push(c.clone());
        }
    }
    front
}

fn why(recommended: &Candidate, fastest: &Candidate, model: &Model, required: Option<Rps>) -> String {
    let noise = 100.0 * model.noise_sd();
    // Of a config that never reached its limit only a bound is known: what is believed beyond it was not measured.
    let rate = |c: &Candidate| match c.at_least_rps {
        Some(floor) if c.measured == 0 => format!("at least {}", Rps::saturating(floor)),
        _ => Rps::saturating(c.rps).to_string(),
    };
    if let Some(r) = required {
        return if recommended.lower >= r.get().ln() {
            format!("the cheapest measured config that carries the required {r}")
        } else {
            format!(
                "no measured config carries the required {r}; this is the fastest, with {}",
                rate(fastest)
            )
        };
    }
    if recommended.config == fastest.config {
        format!(
            "the fastest measured config, {}; trials vary by about {noise:.1} %",
            rate(fastest)
        )
    } else {
        format!(
            "the cheapest measured config within the noise of the fastest: {} against {}, at {:.3} against {:.3} \
             in cost; trials vary by about {noise:.1} %",
            rate(recommended),
            rate(fastest),
            recommended.cost.unwrap_or(0.0),
            fastest.cost.unwrap_or(0.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(mean: f64, sd: f64) -> Candidate {
        Candidate {
            config: Config::default(),
            rps: mean.exp(),
            interval_rps: [mean.exp(); 2],
            cost: Some(1.0),
            measured: 1,
            at_least_rps: None,
            below_rps: None,
            lower: mean - CAUTION * sd,
            mean,
            sd,
        }
    }

    /// Breaks when the luckiest of equals sets the level, or when a config that is clearly slower lowers it.
    #[test]
    fn the_luckiest_of_many_equals_is_no_reference() {
        let plateau: Vec<Candidate> = [5.00, 5.02, 4.98, 5.04].map(|m| candidate(m, 0.04)).into();
        assert!(
            (reference(&plateau) - 5.02).abs() < 1e-9,
            "{}",
            reference(&plateau)
        );
        let peak: Vec<Candidate> = [5.04, 4.5, 4.0].map(|m| candidate(m, 0.04)).into();
        assert!((reference(&peak) - 5.04).abs() < 1e-9, "{}", reference(&peak));
        // What is known well counts for more.
        let sure = [candidate(5.0, 0.01), candidate(5.06, 0.06)];
        assert!(reference(&sure) < 5.01, "{}", reference(&sure));
    }
}
