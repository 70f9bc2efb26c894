//! The driver: the only place that calls sut, load, telemetry, store and the pure rooms together.
//!
//! One loop: the agenda says what comes next, a trial is run, everything is on disk before the next. What is
//! decided, is decided elsewhere; here are effects, deadlines and the order of giving back.

mod binds;
mod confirm;
mod files;
pub mod instances;
mod measure;
pub(crate) mod prior;
mod run_trial;
mod share;
pub(crate) mod smoke;
pub(crate) mod standing;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::agenda::{self, Clock, Limits, Next};
use crate::event::{Event, Sink};
use crate::exit::{self, ExitError};
use crate::finals::{Decision, FinalVerdict};
use crate::guardian::Guardian;
use crate::report::FinalDecision;
use crate::spec::{Objective, StudySpec};
use crate::store::{AnyStore, Journal, Sqlite, StoreError, StudyMeta, TrialEnd, kinds};
use crate::sut::{self, AnySut, Sut, SutFacts};
use crate::trial::{History, Outcome, Trial, TrialPhase};

use self::confirm::Confirmation;
pub(crate) use self::files::host_name;
pub use self::share::Share;

/// Infrastructure faults in a row after which the run ends instead of looping to the morning.
const MAX_INFRASTRUCTURE_FAULTS: u32 = 3;
/// Most trials of one study: a bound on the loop.
const MAX_TRIALS: usize = 10_000;

/// The identity of a study whose trials are deployed and measured by other tools.
pub(crate) const ASKED: &str = "ask and tell";

/// What the command line adds to the space file.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// The study's own folder: RESULTS/NAME.
    pub folder: PathBuf,
    /// Archive an earlier study of that name and begin again.
    pub fresh: bool,
    /// Most search trials.
    pub trials: Option<u32>,
    /// Longest run, finals and restoring included.
    pub budget: Option<Duration>,
    /// The end of this run, from its start; what earlier runs of the study used does not count here.
    pub until: Option<Duration>,
    /// An earlier study whose trials the search may learn from.
    pub prior: Option<PathBuf>,
    /// Search nothing: measure what is there again, against today's configuration.
    pub confirm: Option<Confirm>,
    /// The space file as it was typed, for the commands that the results suggest; None where there is none to name.
    pub space_file: Option<PathBuf>,
    /// Start no guardian; for tests that kill nothing.
    pub unguarded: bool,
}

/// What `confirm` measures again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// What the study recommends.
    Recommended,
    /// Its fastest config, whatever it costs.
    Fastest,
}

/// The stop signal: the number of the signal once one came.
pub type Stop = tokio::sync::watch::Receiver<Option<u8>>;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// The documented exit code.
    pub code: u8,
    /// For a tired person.
    pub summary: String,
    /// The same for programs.
    pub json: serde_json::Value,
}

/// A study under way.
pub(crate) struct Study<'a> {
    spec: StudySpec,
    options: &'a RunOptions,
    store: AnyStore,
    /// Where the study is shared with other workers; the folder then holds a copy.
    share: Option<share::Sharing>,
    sut: AnySut,
    facts: SutFacts,
    meta: StudyMeta,
    trials: Vec<Trial>,
    prior: History,
    confirming: Option<Confirmation>,
    sink: &'a mut dyn Sink,
    stop: Stop,
    started: Instant,
    spent_before: Duration,
    faults_in_a_row: u32,
    /// The longest deployment so far: giving the container back takes as long.
    slowest_deploy: Duration,
    given_back: bool,
    warned: BTreeSet<String>,
}

/// Runs the whole study and gives everything back, whatever happens.
pub async fn run(
    spec: &StudySpec,
    options: &RunOptions,
    sink: &mut dyn Sink,
    stop: Stop,
) -> Result<RunEnd, ExitError> {
    Box::pin(run_on(spec, options, None, sink, stop)).await
}

/// Works on a study that is shared with other workers, until it is decided; gives everything back, whatever happens.
pub async fn work(
    spec: &StudySpec,
    options: &RunOptions,
    share: &Share,
    sink: &mut dyn Sink,
    stop: Stop,
) -> Result<RunEnd, ExitError> {
    Box::pin(run_on(spec, options, Some(share), sink, stop)).await
}

async fn run_on(
    spec: &StudySpec,
    options: &RunOptions,
    share: Option<&Share>,
    sink: &mut dyn Sink,
    stop: Stop,
) -> Result<RunEnd, ExitError> {
    let started = Instant::now();
    let (Some(_), Some(_)) = (&spec.sut, &spec.load) else {
        return Err(ExitError::new(
            exit::DATA,
            "this space file has no [sut] or no [load]: it is for ask and tell; add both to measure",
        ));
    };
    let run_id = format!("{}-{}", spec.name, std::process::id());
    // First: it holds the lock of the results folder, which --fresh moves away.
    let guardian = match options.unguarded {
        true => None,
        false => Some(Guardian::spawn(&options.folder, &run_id).await?),
    };
    if options.fresh && options.folder.exists() {
        let kept = crate::store::archive(&options.folder)?;
        sink.event(&Event::Note(format!(
            "the earlier study is kept as {}",
            kept.display()
        )));
    }
    if options.confirm.is_some() {
        begun_before(&options.folder).await?;
    }
    let mut study = Box::pin(open(
        spec,
        (options, share),
        (sink, stop),
        (guardian.as_ref(), &run_id),
        started,
    ))
    .await?;
    let outcome = Box::pin(study.search_and_decide()).await;
    let end = Box::pin(study.finish(outcome)).await;
    // Without "done" the guardian goes on trying to give the container back.
    if let Some(g) = guardian
        && study.given_back
    {
        g.done();
    }
    end
}

/// Opens the journal and the system under test: what an earlier run left is given back first, and what changed since
/// is refused.
async fn open<'a>(
    spec: &StudySpec,
    (options, share): (&'a RunOptions, Option<&Share>),
    (sink, stop): (&'a mut dyn Sink, Stop),
    (guardian, run_id): (Option<&Guardian>, &str),
    started: Instant,
) -> Result<Study<'a>, ExitError> {
    // A journal that can't be read ends the run before Docker is asked; a new one is made only when nothing was refused.
    let begun = match share.is_some() || options.folder.join(crate::store::JOURNAL_FILE).exists() {
        true => Some(share::open(&options.folder, share).await?),
        false => None,
    };
    let Some(sut_spec) = &spec.sut else {
        return Err(ExitError::new(exit::DATA, "no [sut] in the space file"));
    };
    let mut sut = sut::open(sut_spec, run_id, &options.folder)?;
    if let Some(g) = guardian {
        sut.set_notes(g.notes());
    }
    if let Some(done) = sut.restore().await? {
        sink.event(&Event::Note(format!("an earlier run was cut off: {done}")));
    }
    let mut facts = sut.preflight(&spec.space.parameters).await?;
    let mut spec = spec.clone();
    standing::adopt_today(&mut spec, &mut facts)?;
    let (store, share) = match begun {
        Some(opened) => opened,
        None => share::open(&options.folder, None).await?,
    };
    let store = match share.is_none() && options.confirm.is_none() {
        true => anew_where_nothing_is_lost(&spec, &facts, store, &options.folder, sink).await?,
        false => store,
    };
    instances::limit_journalled(&mut spec, &facts.addresses, &store, sink).await?;
    let meta = match options.confirm {
        None => open_study(&spec, &facts, &store, share.is_some()).await?,
        Some(_) => confirmed_study(&spec, &facts, &store, sink).await?,
    };
    let trials = match store.shared() {
        // Open trials are other workers'; those of the dead are found when a trial is asked for.
        Some(shared) => shared.known(<[Trial]>::to_vec).await?,
        None => close_interrupted(&store, options.confirm.is_some(), sink).await?,
    };
    let confirming = match options.confirm {
        None => None,
        Some(which) => Some(Confirmation::begin(&store, &trials, which == Confirm::Fastest).await?),
    };
    let prior = take_prior(&store, &spec, options, sink).await?;
    // A confirmation has the whole of its own budget.
    let first = confirming.as_ref().map_or(0, |c| c.first_trial);
    // Each host has the budget for itself.
    let here = |t: &&Trial| share.as_ref().is_none_or(|s| s.host == t.host);
    let spent = trials
        .iter()
        .filter(|t| t.number >= first)
        .filter(here)
        .map(|t| t.seconds);
    let spent_before = Duration::from_secs_f64(spent.sum::<f64>().clamp(0.0, 3.2e7));
    let warned = warned_before(&store).await?;
    Ok(Study {
        spec,
        options,
        store,
        share,
        sut,
        facts,
        meta,
        trials,
        prior,
        confirming,
        sink,
        stop,
        started,
        spent_before,
        faults_in_a_row: 0,
        slowest_deploy: Duration::ZERO,
        given_back: false,
        warned,
    })
}

/// What was warned of before a resume is in the journal already.
async fn warned_before(store: &impl Journal) -> Result<BTreeSet<String>, ExitError> {
    let warnings = store.events(kinds::WARNING).await?;
    Ok(warnings
        .into_iter()
        .filter_map(|w| w.as_str().map(str::to_owned))
        .collect())
}

/// Creates the study's record, or checks that the one on disk is of the same study.
async fn open_study(
    spec: &StudySpec,
    facts: &SutFacts,
    store: &AnyStore,
    is_shared: bool,
) -> Result<StudyMeta, ExitError> {
    let fresh = StudyMeta::of(spec, &facts.identity, env!("CARGO_PKG_VERSION"), &now_utc());
    let meta = match store.meta().await? {
        Some(meta) => meta,
        None => match store.create(&fresh).await {
            // Another worker began it meanwhile.
            Err(StoreError::Conflict(_)) if is_shared => store.meta().await?.unwrap_or(fresh.clone()),
            other => {
                other?;
                return Ok(fresh);
            }
        },
    };
    let changed = standing::changed(&meta, &fresh);
    if is_shared && changed.is_empty() {
        // What the file leaves to the container is not in its hash.
        standing::same_space(&meta, &fresh)?;
    }
    if changed.is_empty() {
        return Ok(meta);
    }
    if is_shared {
        return Err(ExitError::new(
            exit::DATA,
            format!(
                "this worker's space is not the one of {}: {} differ. Every worker needs the same file and image; another space                  needs a study of its own: ?study=NAME in the address",
                store.place(),
                changed.join(", ")
            ),
        ));
    }
    Err(standing::not_resumed(&changed))
}

/// A study in which nothing was measured begins anew where the file, the image or the seed changed since: a mistake that
/// the smoke test found is mended, and there is nothing to lose. What it left is kept beside it, as with `--fresh`.
async fn anew_where_nothing_is_lost(
    spec: &StudySpec,
    facts: &SutFacts,
    store: AnyStore,
    folder: &Path,
    sink: &mut dyn Sink,
) -> Result<AnyStore, ExitError> {
    let Some(meta) = store.meta().await? else {
        return Ok(store);
    };
    let asked = StudyMeta::of(spec, &facts.identity, env!("CARGO_PKG_VERSION"), &now_utc());
    let changed = standing::changed(&meta, &asked);
    if changed.is_empty() || !standing::loses_nothing(&meta, &store.trials().await?) {
        return Ok(store);
    }
    if let AnyStore::Sqlite(own) = store {
        own.close().await;
    }
    let kept = crate::store::archive(folder)?;
    sink.event(&Event::Note(format!(
        "{} changed since an earlier run, in which nothing was measured: the study begins anew; what that run left is in {}",
        changed.join(", "),
        kept.display()
    )));
    Ok(share::open(folder, None).await?.0)
}

/// The study that is to be confirmed must be there: nothing is made for one that is not.
async fn begun_before(folder: &Path) -> Result<(), ExitError> {
    let store = Sqlite::open_read_only(folder).await?;
    let meta = store.meta().await;
    store.close().await;
    match meta? {
        Some(_) => Ok(()),
        None => Err(ExitError::new(
            exit::NO_INPUT,
            format!(
                "the study in {} has not begun: there is nothing to confirm",
                folder.display()
            ),
        )),
    }
}

/// Checks that the study on disk is of the same space. Another load or image is no obstacle: both sides of every pair
/// get the same one; it is said, since the rates are then not those of the search.
async fn confirmed_study(
    spec: &StudySpec,
    facts: &SutFacts,
    store: &AnyStore,
    sink: &mut dyn Sink,
) -> Result<StudyMeta, ExitError> {
    let asked = StudyMeta::of(spec, &facts.identity, env!("CARGO_PKG_VERSION"), &now_utc());
    let meta = store.meta().await?.ok_or_else(|| {
        ExitError::new(
            exit::NO_INPUT,
            "the study has not begun: there is nothing to confirm",
        )
    })?;
    standing::same_space(&meta, &asked)?;
    if meta.identity != asked.identity && meta.identity != ASKED {
        sink.event(&Event::Warning(
            "the image or executable is not the one of the search: what is confirmed is its configuration on this one"
                .to_owned(),
        ));
    }
    Ok(meta)
}

/// The earlier study's observations: those recorded, or those of `--prior` taken over now.
async fn take_prior(
    store: &AnyStore,
    spec: &StudySpec,
    options: &RunOptions,
    sink: &mut dyn Sink,
) -> Result<History, ExitError> {
    if let Some(dir) = &options.prior
        && let Some(n) = prior::take_over(store, &spec.space, dir).await?
    {
        sink.event(&Event::Note(format!(
            "the search begins with {n} observations of {}; the finals don't see them",
            dir.display()
        )));
    }
    prior::recorded(store).await
}

/// Trials that were open when the tool died are closed as interrupted; they will be asked again. A confirmation closes
/// only its own kind: trials that were asked for may still be told.
async fn close_interrupted(
    store: &AnyStore,
    only_finals: bool,
    sink: &mut dyn Sink,
) -> Result<Vec<Trial>, ExitError> {
    let is_ours = |t: &&Trial| t.outcome.is_none() && (!only_finals || t.phase == TrialPhase::Final);
    for t in store.trials().await?.iter().filter(is_ours) {
        let end = TrialEnd {
            outcome: Outcome::Interrupted,
            seconds: 0.0,
            binding: None,
        };
        store.finish_trial(t.number, &end).await?;
        sink.event(&Event::Note(format!(
            "trial {} was cut off when an earlier run ended; it counts as interrupted and is repeated",
            t.number
        )));
    }
    Ok(store.trials().await?)
}

/// The decision in the terms of the report.
fn final_decision(d: &Decision) -> FinalDecision {
    use crate::report::FinalVerdict as R;
    FinalDecision {
        verdict: match d.verdict {
            FinalVerdict::Win => R::Win,
            FinalVerdict::NoGain => R::NoGain,
            FinalVerdict::Worse => R::Worse,
            FinalVerdict::Undecided => R::Undecided,
        },
        config: d.config.clone(),
        candidate: d.candidate.clone(),
        at_least: d.at_least,
        gain: d.gain.unwrap_or_default(),
        pairs: d.pairs,
        minimum_detectable_gain: d.minimum_detectable_gain.unwrap_or_default(),
        baseline_rps: d.baseline_rps.unwrap_or_default(),
        winner_rps: d.winner_rps.unwrap_or_default(),
        void: d.void.clone(),
        words: d.words.clone(),
    }
}

/// RFC 3339, UTC, seconds.
pub(crate) fn now_utc() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

impl Study<'_> {
    fn limits(&self) -> Limits {
        Limits {
            trials: self.options.trials.or(self.spec.trials),
            reserve: self.spec.confirm.reserve,
            pairs: self.spec.confirm.pairs,
            seed: self.meta.seed,
            required: match self.spec.objective {
                Objective::CostAt(rate) => Some(rate),
                Objective::SustainableRps => None,
            },
        }
    }

    fn clock(&self) -> Clock {
        let budget = match self.confirming {
            None => self.options.budget.or(self.spec.budget),
            Some(_) => self.options.budget,
        };
        Clock::of(
            budget,
            self.options.until,
            self.started.elapsed() + self.slowest_deploy,
            self.spent_before,
        )
    }

    async fn search_and_decide(&mut self) -> Result<Option<Decision>, ExitError> {
        self.sink.event(&Event::Started {
            name: self.spec.name.clone(),
            folder: self.options.folder.display().to_string(),
            resumed: self.trials.len(),
            trials: self.limits().trials,
            left: self.clock().left,
        });
        self.record_environment().await?;
        let mut warnings = self.facts.warnings.clone();
        if let Some(load) = &self.spec.load {
            warnings.extend(files::generator_limits(load.connections));
        }
        warnings.extend(instances::overcommitted(&self.spec.space, &self.facts));
        self.warn_once(warnings).await;
        self.smoke().await?;
        if let Some(what) = self.confirming.clone() {
            let decision = Box::pin(self.confirm(&what)).await?;
            self.say_what_binds(decision.as_ref()).await?;
            return Ok(decision);
        }
        if self.share.is_some() {
            Box::pin(self.search_shared()).await?;
            return Box::pin(self.finals_shared()).await;
        }
        Box::pin(self.search()).await?;
        let decision = Box::pin(self.finals()).await?;
        self.say_what_binds(decision.as_ref()).await?;
        Ok(decision)
    }

    async fn search(&mut self) -> Result<(), ExitError> {
        let optimizer = self.spec.search;
        for _ in 0..MAX_TRIALS {
            match agenda::next_search(
                &self.spec.space,
                &self.limits(),
                &self.trials,
                &self.prior,
                self.clock(),
                &optimizer,
            ) {
                Next::Trial { phase, config, round } => {
                    Box::pin(self.trial(phase, config, round)).await?;
                    self.baseline_must_work()?;
                    self.say_what_was_learned().await;
                }
                Next::SearchOver(why) => {
                    let said = serde_json::Value::String(why.clone());
                    self.store.log(kinds::SEARCH_ENDED, &said).await?;
                    self.sink.event(&Event::SearchEnded(why));
                    return Ok(());
                }
                Next::Decided(_) | Next::Nothing(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// A baseline that does not even come up means that the trial is not what runs in production.
    pub(crate) fn baseline_must_work(&self) -> Result<(), ExitError> {
        match self.trials.last() {
            Some(Trial {
                phase: TrialPhase::Baseline,
                outcome: Some(Outcome::Failed { failure, detail }),
                ..
            }) if *failure != crate::trial::Failure::NoCapacity => Err(ExitError::new(
                exit::UNAVAILABLE,
                format!(
                    "today's configuration does not come up as a trial: {}: {detail}\n{}",
                    failure.words(),
                    failure.remedy()
                ),
            )),
            _ => Ok(()),
        }
    }

    async fn finals(&mut self) -> Result<Option<Decision>, ExitError> {
        let list = agenda::finalists(&self.spec.space, &self.limits(), &self.trials, self.clock());
        self.sink.event(&Event::FinalsStarted(list));
        for _ in 0..MAX_TRIALS {
            match agenda::next_final(&self.spec.space, &self.limits(), &self.trials, self.clock()) {
                Next::Trial { phase, config, round } => Box::pin(self.trial(phase, config, round)).await?,
                Next::Decided(decision) => {
                    self.record_decision(&decision).await?;
                    return Ok(Some(*decision));
                }
                Next::Nothing(why) => {
                    let last = self.trials.last().map_or(0, |t| t.number);
                    let detail = serde_json::json!({ "why": why, "after_trial": last });
                    self.store.log(kinds::NO_FINALS, &detail).await?;
                    self.sink
                        .event(&Event::Note(format!("{why}: today's configuration stays")));
                    return Ok(None);
                }
                Next::SearchOver(why) => {
                    self.sink.event(&Event::Note(why));
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Journals a decision, with the number of the last trial that it knew.
    pub(crate) async fn record_decision(&self, decision: &Decision) -> Result<(), ExitError> {
        let mut detail = serde_json::to_value(final_decision(decision)).unwrap_or_default();
        if let Some(map) = detail.as_object_mut() {
            let last = self.trials.last().map_or(0, |t| t.number);
            map.insert("after_trial".to_owned(), last.into());
        }
        Ok(self.store.log(kinds::DECISION, &detail).await?)
    }

    /// Gives everything back, writes the files, and says how it ended: in this order, whatever came before.
    async fn finish(&mut self, outcome: Result<Option<Decision>, ExitError>) -> Result<RunEnd, ExitError> {
        let given_back = self.give_back().await;
        self.given_back = given_back.is_ok();
        self.copy_is_due();
        let written = match &outcome {
            // What could not be reached a moment ago is not waited for again.
            Err(e) if self.share.is_some() && e.code == exit::UNAVAILABLE => Ok(()),
            _ => self.write_results().await,
        };
        match &given_back {
            Ok(Some(words)) => self.sink.event(&Event::Note(words.clone())),
            Ok(None) => {}
            Err(e) => return Err(e.clone()),
        }
        let decision = outcome?;
        written?;
        let (summary, json) = self.summary().await?;
        self.sink.event(&Event::Finished {
            summary: summary.clone(),
        });
        // The finals of a shared study may have been another host's.
        let won = decision.is_some_and(|d| d.verdict == FinalVerdict::Win)
            || (self.share.is_some() && json["decision"]["verdict"] == "win");
        Ok(RunEnd {
            code: if won { exit::OK } else { exit::NO_GAIN },
            summary,
            json,
        })
    }

    pub(crate) async fn give_back(&mut self) -> Result<Option<String>, ExitError> {
        // The teardown's own failure does not matter: restoring removes what is left of the trial.
        if let Err(e) = self.sut.teardown().await {
            tracing::debug!("teardown: {e}");
        }
        Ok(self.sut.restore().await?)
    }
}
