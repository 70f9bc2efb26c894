//! Random and Sobol: the searches without a model. Yardsticks for the others, and what a search falls back on.

use super::field::{Field, Purpose, stream};
use super::known::taken;
use super::{Ask, AskContext, Optimizer};
use crate::space::{Config, Space};
use crate::trial::History;

/// Today's configuration, as long as it is legal and was not tried in this study.
fn baseline_first(space: &Space, history: &History) -> Option<Config> {
    let baseline = space.baseline();
    let tried = history.iter().any(|o| !o.prior && o.config == baseline);
    (!tried && space.is_legal(&baseline)).then_some(baseline)
}

/// What every search begins and ends with: the budget, then today's configuration.
pub(super) fn opening(space: &Space, history: &History, context: &AskContext) -> Option<Ask> {
    let own = history.iter().filter(|o| !o.prior).count();
    if let Some(n) = context
        .trials
        .filter(|n| u32::try_from(own).is_ok_and(|own| own >= *n))
    {
        return Some(Ask::Stop(format!("the budget of {n} trials is used")));
    }
    baseline_first(space, history).map(Ask::Config)
}

/// Legal configs at random.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl Optimizer for Random {
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask {
        if let Some(ask) = opening(space, history, context) {
            return ask;
        }
        let field = Field::new(space);
        let mut rng = stream(context.seed, Purpose::Random, history.len());
        match field.fresh(&taken(history), &mut rng) {
            Some(config) => Ask::Config(config),
            None => Ask::Stop(field.exhausted()),
        }
    }
}

/// Legal configs in the order of a scrambled Sobol sequence: the space filled evenly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sobol;

impl Optimizer for Sobol {
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask {
        if let Some(ask) = opening(space, history, context) {
            return ask;
        }
        let field = Field::new(space);
        let taken = taken(history);
        for i in 0..20_000 {
            let point = field.sobol(i, context.seed);
            if let Some(config) = field.legal_at(&point)
                && !taken.contains(&config.key())
            {
                return Ask::Config(config);
            }
        }
        Random.ask(space, history, context)
    }
}
