//! What a study recommends as it stands: the decision of its finals where nothing was tried since, else the search's
//! opinion. Read from the journal alone.

use crate::agenda;
use crate::exit::{self, ExitError};
use crate::optimizer::{self, Recommendation};
use crate::report::{FinalDecision, FinalVerdict};
use crate::results;
use crate::space::{Config, Space};
use crate::store::{Journal, StudyMeta, kinds};
use crate::trial::{History, TrialPhase};
use crate::units::Rps;

/// A study as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) space: Space,
    /// What every trial but the finals tells; without the prior.
    pub(crate) history: History,
    /// The search's opinion; None where nothing that works was measured.
    pub(crate) search: Option<Recommendation>,
    /// The last decision of finals or of a confirmation, where no trial of the search was begun since.
    pub(crate) decision: Option<FinalDecision>,
}

impl Standing {
    /// Reads the study in `store`.
    pub(crate) async fn read(store: &impl Journal) -> Result<Self, ExitError> {
        let study = results::Study::read(store).await?;
        let after = store
            .events(kinds::DECISION)
            .await?
            .pop()
            .and_then(|d| d.get("after_trial")?.as_u64());
        let searched = study
            .trials
            .iter()
            .filter(|t| t.phase != TrialPhase::Final)
            .map(|t| u64::from(t.number))
            .max();
        let is_stale = after.is_some_and(|n| searched.is_some_and(|s| s > n));
        let history = agenda::history(&study.trials);
        let mut all = super::prior::recorded(store).await?;
        all.extend(history.iter().cloned());
        Ok(Self {
            search: optimizer::recommend(&study.space, &all, required(&study.meta)),
            decision: study.decision.filter(|_| !is_stale),
            space: study.space,
            history,
        })
    }

    /// The config to take: the decision's, else the search's; the search's fastest where that is asked for.
    pub(crate) fn config(&self, fastest: bool) -> Option<Config> {
        match (&self.decision, &self.search) {
            (Some(d), _) if !fastest => Some(d.config.clone()),
            (_, Some(r)) if fastest => Some(r.fastest.config.clone()),
            (_, Some(r)) => Some(r.recommended.config.clone()),
            (Some(d), None) => Some(d.config.clone()),
            (None, None) => None,
        }
    }
}

impl Standing {
    /// What `confirm` measures: the config to take, and where the finals could not decide the candidate that they left open.
    pub(crate) fn to_confirm(&self, fastest: bool) -> Option<Config> {
        let open = self
            .decision
            .as_ref()
            .filter(|d| !fastest && d.verdict == FinalVerdict::Undecided);
        match open {
            Some(d) => d
                .candidate
                .clone()
                .or_else(|| Some(self.search.as_ref()?.recommended.config.clone()))
                .or_else(|| self.config(false)),
            None => self.config(fastest),
        }
    }
}

/// The rate that is required, where the study looks for the cheapest config that carries it.
pub(crate) fn required(meta: &StudyMeta) -> Option<Rps> {
    meta.about.required_rps.and_then(|r| Rps::new(r).ok())
}

/// Refuses a space other than the one that the study was begun with, and says what differs.
pub(crate) fn same_space(meta: &StudyMeta, asked: &StudyMeta) -> Result<(), ExitError> {
    let mut changed = Vec::new();
    let (old, new) = (&meta.space, &asked.space);
    for p in &new.parameters {
        match old.parameters.iter().find(|o| o.name == p.name) {
            None => changed.push(format!("[parameters.{}] is new", p.name)),
            Some(o) if o.domain != p.domain => changed.push(format!(
                "[parameters.{}] was {} and is {}",
                p.name, o.domain, p.domain
            )),
            Some(o) if o.baseline != p.baseline => changed.push(format!(
                "the baseline of {} was {} and is {}",
                p.name, o.baseline, p.baseline
            )),
            Some(o) if o.only_if != p.only_if => {
                changed.push(format!("only_if of [parameters.{}]", p.name));
            }
            Some(_) => {}
        }
    }
    for p in &old.parameters {
        if new.parameters.iter().all(|n| n.name != p.name) {
            changed.push(format!("[parameters.{}] is gone", p.name));
        }
    }
    let conditions = |r: &crate::store::SpaceRecord| -> Vec<String> {
        r.constraints.iter().map(|(that, _)| that.clone()).collect()
    };
    if conditions(old) != conditions(new) {
        changed.push("[[constraints]]".to_owned());
    }
    if old.cost != new.cost || meta.about.required_rps != asked.about.required_rps {
        changed.push("[objective]".to_owned());
    }
    if changed.is_empty() {
        return Ok(());
    }
    Err(ExitError::new(
        exit::DATA,
        format!(
            "this is not the space that the study was begun with: {}. Change it back, or begin a study in another \
             folder; --prior takes over what this one knows",
            changed.join("; ")
        ),
    ))
}
