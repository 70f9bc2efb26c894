//! The driver: the only place that calls sut, load, telemetry, store and the pure rooms together.
//!
//! One loop: the agenda says what comes next, a trial is run, everything is on disk before the next. What is
//! decided, is decided elsewhere; here are effects, deadlines and the order of giving back.

mod files;
mod measure;
mod run_trial;
mod smoke;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::agenda::{self, Clock, Limits, Next};
use crate::event::{Event, Sink};
use crate::exit::{self, ExitError};
use crate::finals::{Decision, FinalVerdict};
use crate::guardian::Guardian;
use crate::optimizer;
use crate::report::FinalDecision;
use crate::spec::{Objective, StudySpec};
use crate::store::{Journal, Sqlite, StudyMeta, TrialEnd, kinds};
use crate::sut::{self, AnySut, Sut, SutFacts};
use crate::trial::{Outcome, Trial, TrialPhase};

/// Infrastructure faults in a row after which the run ends instead of looping to the morning.
const MAX_INFRASTRUCTURE_FAULTS: u32 = 3;
/// Most trials of one study: a bound on the loop.
const MAX_TRIALS: usize = 10_000;

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
    /// Start no guardian; for tests that kill nothing.
    pub unguarded: bool,
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
    store: Sqlite,
    sut: AnySut,
    facts: SutFacts,
    meta: StudyMeta,
    trials: Vec<Trial>,
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
    let started = Instant::now();
    let (Some(sut_spec), Some(_)) = (&spec.sut, &spec.load) else {
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
    let store = Sqlite::open(&options.folder).await?;
    let mut sut = sut::open(sut_spec, &run_id, &options.folder)?;
    if let Some(g) = &guardian {
        sut.set_notes(g.notes());
    }
    if let Some(done) = sut.restore().await? {
        sink.event(&Event::Note(format!("an earlier run was cut off: {done}")));
    }
    let facts = sut.preflight(&spec.space.parameters).await?;
    let mut spec = spec.clone();
    spec.set_baselines(&facts.today)
        .map_err(|e| ExitError::new(exit::DATA, e))?;
    let meta = open_study(&spec, &facts, &store).await?;
    let trials = close_interrupted(&store, sink).await?;
    let spent_before =
        Duration::from_secs_f64(trials.iter().map(|t| t.seconds).sum::<f64>().clamp(0.0, 3.2e7));
    let mut study = Study {
        spec,
        options,
        store,
        sut,
        facts,
        meta,
        trials,
        sink,
        stop,
        started,
        spent_before,
        faults_in_a_row: 0,
        slowest_deploy: Duration::ZERO,
        given_back: false,
        warned: BTreeSet::new(),
    };
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

/// Creates the study's record, or checks that the one on disk is of the same study.
async fn open_study(spec: &StudySpec, facts: &SutFacts, store: &Sqlite) -> Result<StudyMeta, ExitError> {
    let fresh = StudyMeta::of(spec, &facts.identity, env!("CARGO_PKG_VERSION"), &now_utc());
    let Some(meta) = store.meta().await? else {
        store.create(&fresh).await?;
        return Ok(fresh);
    };
    let mut changed: Vec<String> = fresh
        .section_hashes
        .iter()
        .filter(|(k, v)| meta.section_hashes.get(*k) != Some(*v))
        .map(|(k, _)| format!("[{k}]"))
        .collect();
    if meta.identity != fresh.identity {
        changed.push(format!(
            "the image or executable ({} -> {})",
            meta.identity, fresh.identity
        ));
    }
    if meta.seed != fresh.seed {
        changed.push(format!("the seed ({} -> {})", meta.seed, fresh.seed));
    }
    if changed.is_empty() {
        return Ok(meta);
    }
    Err(ExitError::new(
        exit::DATA,
        format!(
            "this study cannot be resumed, since these changed: {}. Trials would not be comparable; \
             change them back, use another [study] name, or begin again with --fresh (the old study is kept)",
            changed.join(", ")
        ),
    ))
}

/// Trials that were open when the tool died are closed as interrupted; they will be asked again.
async fn close_interrupted(store: &Sqlite, sink: &mut dyn Sink) -> Result<Vec<Trial>, ExitError> {
    for t in store.trials().await?.iter().filter(|t| t.outcome.is_none()) {
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
        gain: d.gain.unwrap_or_default(),
        pairs: d.pairs,
        minimum_detectable_gain: d.minimum_detectable_gain.unwrap_or_default(),
        baseline_rps: d.baseline_rps.unwrap_or_default(),
        winner_rps: d.winner_rps.unwrap_or_default(),
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
        let budget = self.options.budget.or(self.spec.budget);
        let used = self.started.elapsed() + self.spent_before + self.slowest_deploy;
        Clock {
            budget,
            left: budget.map(|b| b.saturating_sub(used)),
        }
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
        self.warn_once(warnings).await;
        self.smoke().await?;
        Box::pin(self.search()).await?;
        Box::pin(self.finals()).await
    }

    async fn search(&mut self) -> Result<(), ExitError> {
        let optimizer = optimizer::default_optimizer();
        for _ in 0..MAX_TRIALS {
            match agenda::next_search(
                &self.spec.space,
                &self.limits(),
                &self.trials,
                self.clock(),
                &optimizer,
            ) {
                Next::Trial { phase, config, round } => {
                    Box::pin(self.trial(phase, config, round)).await?;
                    self.baseline_must_work()?;
                }
                Next::SearchOver(why) => {
                    self.sink.event(&Event::SearchEnded(why));
                    return Ok(());
                }
                Next::Decided(_) | Next::Nothing(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// A baseline that does not even come up means that the trial is not what runs in production.
    fn baseline_must_work(&self) -> Result<(), ExitError> {
        match self.trials.last() {
            Some(Trial {
                phase: TrialPhase::Baseline,
                outcome: Some(Outcome::Failed { failure, detail }),
                ..
            }) if *failure != crate::trial::Failure::NoCapacity => Err(ExitError::new(
                exit::UNAVAILABLE,
                format!(
                    "today's configuration does not come up as a trial ({}): {detail}",
                    failure.name()
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
                    let detail = serde_json::to_value(final_decision(&decision)).unwrap_or_default();
                    self.store.log(kinds::DECISION, &detail).await?;
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

    /// Gives everything back, writes the files, and says how it ended: in this order, whatever came before.
    async fn finish(&mut self, outcome: Result<Option<Decision>, ExitError>) -> Result<RunEnd, ExitError> {
        let given_back = self.give_back().await;
        self.given_back = given_back.is_ok();
        let written = self.write_results().await;
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
        let won = decision.is_some_and(|d| d.verdict == FinalVerdict::Win);
        Ok(RunEnd {
            code: if won { exit::OK } else { exit::NO_GAIN },
            summary,
            json,
        })
    }

    async fn give_back(&mut self) -> Result<Option<String>, ExitError> {
        // The teardown's own failure does not matter: restoring removes what is left of the trial.
        if let Err(e) = self.sut.teardown().await {
            tracing::debug!("teardown: {e}");
        }
        Ok(self.sut.restore().await?)
    }
}
