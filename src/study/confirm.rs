//! `autotune confirm`: the recommendation and today's configuration measured again, in pairs, by the driver of the
//! finals. Only the pairs of this confirmation decide; a confirmation that was killed goes on where it stopped.

use serde::{Deserialize, Serialize};

use super::standing::Standing;
use super::{MAX_TRIALS, Study};
use crate::agenda::{self, Next};
use crate::event::Event;
use crate::exit::{self, ExitError};
use crate::finals::Decision;
use crate::space::Config;
use crate::store::{AnyStore, Journal, StoreError, kinds};
use crate::trial::Trial;

/// What is confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Confirmation {
    /// The config that is compared with today's.
    pub(crate) config: Config,
    /// Number of its first trial.
    pub(crate) first_trial: u32,
    /// Decisions that the journal held when it began: with one more, it is finished.
    decisions_before: usize,
}

impl Confirmation {
    /// The confirmation that was cut off, or a new one of what the study recommends now.
    pub(crate) async fn begin(store: &AnyStore, trials: &[Trial], fastest: bool) -> Result<Self, ExitError> {
        let decisions = store.events(kinds::DECISION).await?.len();
        if let Some(last) = store.events(kinds::CONFIRM).await?.pop() {
            let last: Self = serde_json::from_value(last).map_err(|e| {
                StoreError::Unreadable(format!("a confirmation in {} cannot be read: {e}", store.place()))
            })?;
            if last.decisions_before == decisions {
                return Ok(last);
            }
        }
        let config = Standing::read(store).await?.to_confirm(fastest).ok_or_else(|| {
            ExitError::new(
                exit::NO_GAIN,
                "there is nothing to confirm: no trial of this study worked; today's configuration stays",
            )
        })?;
        let new = Self {
            config,
            first_trial: trials.iter().map(|t| t.number).max().unwrap_or(0) + 1,
            decisions_before: decisions,
        };
        store
            .log(kinds::CONFIRM, &serde_json::to_value(&new).unwrap_or_default())
            .await?;
        Ok(new)
    }
}

impl Study<'_> {
    /// Measures pairs until they decide.
    pub(crate) async fn confirm(&mut self, what: &Confirmation) -> Result<Option<Decision>, ExitError> {
        if what.config == self.spec.space.baseline() {
            let note = "the recommendation is today's configuration: it is measured against itself, which shows how much \
                        of a gain the noise alone can feign";
            self.sink.event(&Event::Note(note.to_owned()));
        }
        self.sink.event(&Event::FinalsStarted(vec![what.config.clone()]));
        for _ in 0..MAX_TRIALS {
            let next = agenda::next_confirm(
                &self.spec.space,
                &self.limits(),
                &self.trials,
                self.clock(),
                &what.config,
                what.first_trial,
            );
            match next {
                Next::Trial { phase, config, round } => Box::pin(self.trial(phase, config, round)).await?,
                Next::Decided(decision) => {
                    self.record_decision(&decision).await?;
                    return Ok(Some(*decision));
                }
                Next::Nothing(why) | Next::SearchOver(why) => {
                    self.sink.event(&Event::Note(why));
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }
}
