//! Which config to try next: ask, as a pure function of the space and the history.

use crate::space::{Config, Space};
use crate::trial::History;

/// The answer to an ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Try this.
    Config(Config),
    /// Nothing is left to try or to gain; the reason is for people.
    Stop(String),
}

/// What the ask may know besides the history.
#[derive(Debug, Clone, PartialEq)]
pub struct AskContext {
    /// The study's recorded seed.
    pub seed: u64,
    /// Trials that the search may use in all, where that is known.
    pub trials: Option<u32>,
}

/// Chooses configs. Implementations hold no state: the same history gives the same answer.
pub trait Optimizer {
    /// The next config, legal and not measured before unless repeated on purpose.
    fn ask(&self, space: &Space, history: &History, context: &AskContext) -> Ask;
}
