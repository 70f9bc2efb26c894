//! Which config to try next: `ask`, as a pure function of the space and the history; and what to recommend.
//!
//! Reading order: [`Optimizer`] and its four implementations, chosen by [`Search`] (`simple`: random and Sobol; `model_free`:
//! argmin's simplex by replay; `bayes`: the Gaussian process that the tool uses); below them `field` (the
//! space as a search sees it), `known` (the history, cleaned), `initial` (the first points), `features`,
//! `gp`, `censored`, `thin` (of many observations those that count), `model` (what is believed of every config), `acquisition` (what is worth a trial);
//! then [`recommend`] (what would be recommended now, and why). The method is described in docs/search.md.
//!
//! Deliberately not here: deploying, measuring, waiting, the finals (`finals`), and any state. An optimizer
//! keeps nothing between two asks, so a killed study resumes by asking again.

mod acquisition;
mod bayes;
mod censored;
mod features;
mod field;
mod gp;
mod initial;
mod known;
mod model;
mod model_free;
mod pool;
mod prior;
mod recommend;
mod simple;
mod thin;

#[cfg(test)]
mod conformance;

pub use bayes::GaussianProcess;
pub use model_free::ModelFree;
pub use prior::prior_history;
pub use recommend::{Candidate, Recommendation, leaders, recommend};
pub use simple::{Random, Sobol};

use crate::space::{Config, Space};
use crate::trial::{History, TrialPhase};
use crate::units::Rps;

/// The answer to an ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Try this.
    Config(Config),
    /// Nothing is left to try or to gain; the reason is for people.
    Stop(String),
}

/// What the ask may know besides the history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AskContext {
    /// The study's recorded seed.
    pub seed: u64,
    /// Trials that the search may use in all, where that is known or can be estimated from the time left.
    pub trials: Option<u32>,
    /// The rate that is required, where the cheapest config that carries it is wanted.
    pub required: Option<Rps>,
}

/// Chooses configs. Implementations hold no state: the same history gives the same answer.
pub trait Optimizer {
    /// The next config, legal and not measured before unless repeated on purpose (the baseline as a drift
    /// anchor, a suspected outlier, a cheap config that is about to be recommended on one measurement).
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask;
}

/// Which optimizer a study uses: `[study] search`. The others are there to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Search {
    /// [`GaussianProcess`].
    #[default]
    Model,
    /// [`ModelFree`].
    Simplex,
    /// [`Sobol`].
    Sobol,
    /// [`Random`].
    Random,
}

impl Optimizer for Search {
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask {
        match self {
            Self::Model => GaussianProcess::default().ask(space, history, context),
            Self::Simplex => ModelFree.ask(space, history, context),
            Self::Sobol => Sobol.ask(space, history, context),
            Self::Random => Random.ask(space, history, context),
        }
    }
}

/// What a trial of `config` is part of, when the search asks for it after `history`.
#[must_use]
pub fn phase_of(space: &Space, history: &History, config: &Config) -> TrialPhase {
    if *config != space.baseline() {
        TrialPhase::Search
    } else if history.iter().any(|o| !o.prior && o.config == *config) {
        TrialPhase::Anchor
    } else {
        TrialPhase::Baseline
    }
}
