//! What a study recommends as it stands: the decision of its finals where nothing was tried since, else the search's
//! opinion. Read from the journal alone.

use std::path::Path;

use crate::agenda;
use crate::exit::{self, ExitError};
use crate::optimizer::{self, Recommendation};
use crate::report::{FinalDecision, FinalVerdict};
use crate::results;
use crate::space::{Binding, Config, Space};
use crate::spec::{StudySpec, SutKind};
use crate::store::{JOURNAL_FILE, Journal, Sqlite, StoreError, StudyMeta, kinds};
use crate::sut::SutFacts;
use crate::trial::{History, Outcome, Trial, TrialPhase};
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
    /// The command that measures it again.
    pub(crate) confirm: Option<String>,
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
        let confirm = study.summary().confirm_command();
        Ok(Self {
            confirm,
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

/// What of a study with these facts is not as `asked`, in words: trials would not be comparable.
pub(crate) fn changed(meta: &StudyMeta, asked: &StudyMeta) -> Vec<String> {
    let mut changed: Vec<String> = asked
        .section_hashes
        .iter()
        .filter(|(k, v)| meta.section_hashes.get(*k) != Some(*v))
        .map(|(k, _)| format!("[{k}]"))
        .collect();
    if meta.identity != asked.identity {
        changed.push(format!(
            "the image or executable ({} -> {})",
            meta.identity, asked.identity
        ));
    }
    if meta.seed != asked.seed {
        changed.push(format!("the seed ({} -> {})", meta.seed, asked.seed));
    }
    changed
}

/// Whether a study with these trials may begin anew by itself: none of them says anything of a config, and none is out
/// with other tools, which may still tell it.
pub(crate) fn loses_nothing(meta: &StudyMeta, trials: &[Trial]) -> bool {
    let said = |t: &Trial| match t.outcome {
        Some(Outcome::Measured { .. } | Outcome::Failed { .. }) => true,
        Some(Outcome::Infrastructure { .. } | Outcome::Interrupted) => false,
        None => meta.identity == super::ASKED,
    };
    !trials.iter().any(said)
}

/// What a run finds in its results folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// The same study: it goes on after so many trials.
    GoesOn(usize),
    /// Another one in which nothing was measured: the run begins anew, since these changed.
    Anew(Vec<String>),
    /// Another one: the run is refused.
    Refused(ExitError),
}

/// What a run of `spec` would find in `folder`; None where no study began there. Looks, changes nothing.
pub(crate) async fn earlier(
    spec: &StudySpec,
    identity: &str,
    folder: &Path,
) -> Result<Option<Earlier>, ExitError> {
    if !folder.join(JOURNAL_FILE).exists() {
        return Ok(None);
    }
    let store = Sqlite::open_read_only(folder).await?;
    let read = async {
        Ok::<_, StoreError>((
            store.meta().await?,
            store.trials().await?,
            store.events(kinds::COPY_OF).await?,
        ))
    };
    let found = read.await;
    store.close().await;
    let (Some(meta), trials, copies) = found? else {
        return Ok(None);
    };
    if !copies.is_empty() {
        return Ok(None); // a worker's copy: the study itself is elsewhere
    }
    let asked = StudyMeta::of(spec, identity, env!("CARGO_PKG_VERSION"), &super::now_utc());
    let changed = changed(&meta, &asked);
    Ok(Some(match changed.is_empty() {
        true => Earlier::GoesOn(trials.len()),
        false if loses_nothing(&meta, &trials) => Earlier::Anew(changed),
        false => Earlier::Refused(not_resumed(&changed)),
    }))
}

/// The refusal to go on with a study of another kind.
pub(crate) fn not_resumed(changed: &[String]) -> ExitError {
    ExitError::new(
        exit::DATA,
        format!(
            "this study cannot be resumed, since these changed: {}. Trials would not be comparable; \
             change them back, use another [study] name, or begin again with --fresh (the old study is kept)",
            changed.join(", ")
        ),
    )
}

/// Takes over what preflight found of today: the baselines that the file leaves out, and the variables that count in the
/// connection budget. A baseline of the file that is not what runs today becomes a warning: what is compared with then is
/// not production.
pub(crate) fn adopt_today(spec: &mut StudySpec, facts: &mut SutFacts) -> Result<(), ExitError> {
    for p in &spec.space.parameters {
        let Some(today) = facts.today.get(&p.name) else {
            continue;
        };
        let is_same = *today == p.baseline
            || matches!((today.as_f64(), p.baseline.as_f64()), (Some(a), Some(b)) if (a - b).abs() < 1e-9);
        // How many instances there are is not read from one container; a service says it.
        let is_unseen = p.binding == Binding::Replicas
            && !matches!(spec.sut.as_ref().map(|s| &s.kind), Some(SutKind::Swarm(_)));
        if is_same || is_unseen || spec.baseline_unknown.contains(&p.name) {
            continue;
        }
        facts.warnings.push(format!(
            "{0}: the file says that today's value is {1}, the service has {today}: trials are compared with {1}, which is not \
             what runs today; leave `baseline` out to take the service's own",
            p.name, p.baseline
        ));
    }
    let unknown = spec.baseline_unknown.clone();
    spec.set_baselines(&facts.today).map_err(|e| {
        // Why it could not be read is in preflight's words.
        let why: Vec<&str> = facts
            .warnings
            .iter()
            .filter(|w| unknown.iter().any(|name| w.starts_with(&format!("{name}: "))))
            .map(String::as_str)
            .collect();
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(" ({})", why.join("; "))
        };
        ExitError::new(exit::DATA, format!("{e}{why}"))
    })?;
    spec.count_fixed(&facts.fixed);
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::space::Value;

    fn warned(file: &str, replicas: i64) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let mut spec = crate::spec::load(&path, &|_| None).unwrap();
        let p = spec.space.parameters.iter_mut();
        for p in p.filter(|p| p.binding == Binding::Replicas) {
            p.baseline = Value::Int(2);
        }
        spec.baseline_unknown.clear();
        let mut facts = SutFacts {
            today: BTreeMap::from([("replicas".to_owned(), Value::Int(replicas))]),
            ..SutFacts::default()
        };
        adopt_today(&mut spec, &mut facts).unwrap();
        facts.warnings
    }

    /// Fails when a study compares with a number of tasks that is not production's, and nobody says so.
    #[test]
    fn a_services_tasks_are_compared_with_the_files() {
        let file = "experiments/swarm/pool.toml";
        assert_eq!(warned(file, 2), Vec::<String>::new());
        let said = warned(file, 3).join(" ");
        assert!(said.contains("today's value is 2, the service has 3"), "{said}");
    }
}
