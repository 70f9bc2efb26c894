//! The measuring part of a trial: load, telemetry and the capacity search on one deployment.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::Study;
use crate::agenda;
use crate::capacity::{Capacity, Plan, ProbePlan, simulated};
use crate::diagnosis::{self, Evidence, Facts};
use crate::event::{Event, Sink};
use crate::exit::{self, ExitError};
use crate::load::Generator;
use crate::measurement::{Bin, Measurement};
use crate::probing::{Attendant, Drive, ProbingError, find_capacity};
use crate::space::{Config, Parameter};
use crate::spec::{Objective, StudySpec};
use crate::store::{AnyStore, Journal, StoreError};
use crate::sut::{AnySut, Deployment, Health, Sut, SutError};
use crate::telemetry::Telemetry;
use crate::trial::{Failure, Outcome, Probe, Trial, TrialPhase};
use crate::units::Rps;

/// The kind under which a diagnosis is journalled.
pub(crate) const DIAGNOSIS: &str = "diagnosis";
/// Most probes of one search: a bound on the loop.
const MAX_PROBES: u32 = 200;

/// Why a trial ended without a capacity.
pub(crate) enum Cut {
    /// An outcome worth recording.
    Outcome(Outcome),
    /// The run must end; the trial is recorded as interrupted.
    Run(ExitError),
    /// The trial was given to another worker: nothing of it is recorded any more.
    Lost(String),
}

impl From<SutError> for Cut {
    fn from(e: SutError) -> Self {
        match e {
            SutError::Config { failure, detail } => Self::Outcome(Outcome::Failed { failure, detail }),
            SutError::Infrastructure(detail) => Self::Outcome(Outcome::Infrastructure { detail }),
            other => Self::Run(other.into()),
        }
    }
}

impl From<StoreError> for Cut {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Lost(why) => Self::Lost(why),
            other => Self::Run(other.into()),
        }
    }
}

/// What offers the load to a deployment: real sockets, or arithmetic.
pub(crate) enum Driver {
    /// The load engine. A restart may move the service to another port: the engine is then exchanged.
    Real(Arc<Mutex<Arc<Generator>>>),
    /// A simulated service.
    Simulated(Box<simulated::Service>),
}

impl Drive for Driver {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        match self {
            Self::Real(shared) => {
                let generator = Arc::clone(&shared.lock().unwrap_or_else(PoisonError::into_inner));
                generator.drive(plan, watch).await.map_err(|e| e.to_string())
            }
            Self::Simulated(service) => Drive::drive(service.as_mut(), plan, watch).await,
        }
    }
}

/// Prepares the load for a deployment.
pub(crate) fn generator(
    spec: &StudySpec,
    deployment: &Deployment,
    seed: u64,
) -> Result<Generator, ExitError> {
    let load = spec
        .load
        .as_ref()
        .ok_or_else(|| ExitError::new(exit::DATA, "no [load] in the space file"))?;
    Generator::prepare(load, &deployment.urls, seed)
        .map_err(|e| ExitError::new(exit::UNAVAILABLE, e.to_string()))
}

/// Keeps the promises around each probe: sampled, durable, and the service still the one that was deployed.
struct Keeper<'a> {
    spec: &'a StudySpec,
    parameters: &'a [Parameter],
    store: &'a AnyStore,
    sut: &'a mut AnySut,
    sink: &'a mut dyn Sink,
    telemetry: Telemetry,
    lead_in: std::time::Duration,
    shared: Option<Arc<Mutex<Arc<Generator>>>>,
    trial: &'a mut Trial,
    seed: u64,
    cut: Option<Cut>,
}

impl Keeper<'_> {
    /// Ends the search with `cut`; the text is not shown to anybody.
    fn end<T>(&mut self, cut: Cut) -> Result<T, String> {
        self.cut = Some(cut);
        Err("the trial was cut short".to_owned())
    }
}

impl Attendant for Keeper<'_> {
    async fn before(&mut self, _number: u32, plan: &ProbePlan) {
        self.lead_in = plan.lead_in;
        self.telemetry.start();
    }

    async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String> {
        let window = std::time::Duration::from_secs_f64(probe.measurement.window_s.clamp(0.0, 1e6));
        let sampled = self.telemetry.stop_within(self.lead_in, window).await.figures;
        // A simulated service takes no real time: what the machine did meanwhile says nothing of it.
        if self.shared.is_some() {
            probe.telemetry = sampled;
        }
        if let Err(e) = self.store.record_probe(self.trial.number, probe).await {
            return self.end(e.into());
        }
        let mut kept = probe.clone();
        kept.measurement.histograms = None;
        self.trial.probes.push(kept.clone());
        self.sink.event(&Event::ProbeFinished {
            trial: self.trial.number,
            probe: Box::new(kept),
        });
        match self.sut.health().await {
            Health::Running => Ok(()),
            Health::Failed(failure, detail) => self.end(Cut::Outcome(Outcome::Failed { failure, detail })),
            Health::Foreign(message) => self.end(Cut::Run(ExitError::new(exit::UNAVAILABLE, message))),
            Health::Unknown(detail) => self.end(Cut::Outcome(Outcome::Infrastructure { detail })),
        }
    }

    async fn restart(&mut self, tripped_at: Rps) -> Result<bool, String> {
        self.sink.event(&Event::Note(format!(
            "trial {}: the service did not recover from {tripped_at}; it is deployed again",
            self.trial.number
        )));
        let deployed = match self
            .sut
            .deploy(self.trial.number, self.parameters, &self.trial.config)
            .await
        {
            Ok(d) => d,
            Err(e) => return self.end(e.into()),
        };
        let base = deployed.urls.first().cloned().unwrap_or_default();
        self.telemetry =
            Telemetry::open(&self.spec.telemetry, &base, &deployed.containers, &deployed.pids).await;
        if let Some(shared) = &self.shared {
            match generator(self.spec, &deployed, self.seed) {
                Ok(g) => *shared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(g),
                Err(e) => return self.end(Cut::Run(e)),
            }
        }
        Ok(true)
    }
}

impl Study<'_> {
    /// Deploys, searches the capacity and diagnoses.
    pub(crate) async fn measure(&mut self, trial: &mut Trial) -> Result<Capacity, Cut> {
        let deployment = self.deploy(trial.number, &trial.config).await?;
        let took = std::time::Duration::from_secs_f64(deployment.ready_s.clamp(0.0, 3_600.0));
        self.slowest_deploy = self.slowest_deploy.max(took);
        self.sink.event(&Event::Deployed {
            trial: trial.number,
            ready_s: deployment.ready_s,
        });
        let plan = self.plan(trial);
        let seed = self.meta.seed ^ u64::from(trial.number);
        let mut driver = match simulated_service(&deployment, &trial.config, seed)? {
            Some(service) => Driver::Simulated(Box::new(service)),
            None => {
                let g = generator(&self.spec, &deployment, seed).map_err(Cut::Run)?;
                Driver::Real(Arc::new(Mutex::new(Arc::new(g))))
            }
        };
        let base = deployment.urls.first().cloned().unwrap_or_default();
        let telemetry = Telemetry::open(
            &self.spec.telemetry,
            &base,
            &deployment.containers,
            &deployment.pids,
        )
        .await;
        self.warn_once(telemetry.warnings().to_vec()).await;
        let mut keeper = Keeper {
            spec: &self.spec,
            parameters: &self.spec.space.parameters,
            store: &self.store,
            sut: &mut self.sut,
            sink: &mut *self.sink,
            telemetry,
            lead_in: std::time::Duration::ZERO,
            shared: match &driver {
                Driver::Real(s) => Some(Arc::clone(s)),
                Driver::Simulated(_) => None,
            },
            trial,
            seed,
            cut: None,
        };
        let found = find_capacity(&plan, Vec::new(), &mut driver, &mut keeper).await;
        match (found, keeper.cut.take()) {
            (_, Some(cut)) => Err(cut),
            (Ok((capacity, _)), None) => {
                self.diagnose(trial).await;
                self.tell_uneven(trial).await;
                Ok(capacity)
            }
            (Err(ProbingError::Drive(why)), None) => {
                Err(Cut::Outcome(Outcome::Infrastructure { detail: why }))
            }
            (Err(e), None) => Err(Cut::Run(ExitError::new(exit::SOFTWARE, e.to_string()))),
        }
    }

    /// Deploys a trial. What ends by itself at its start is tried once more: it may have met a neighbour that was not up.
    pub(crate) async fn deploy(&mut self, number: u32, config: &Config) -> Result<Deployment, SutError> {
        let parameters = &self.spec.space.parameters;
        let first = self.sut.deploy(number, parameters, config).await;
        let Err(SutError::Config {
            failure: Failure::Crash,
            detail,
        }) = first
        else {
            return first;
        };
        let said = in_one_line(&detail);
        self.sink.event(&Event::Note(format!(
            "trial {number}: {said}; it is started once more"
        )));
        self.sut.deploy(number, parameters, config).await
    }

    /// What binds in this trial: its code goes into the row, the whole of it into the journal.
    pub(crate) async fn diagnose(&self, trial: &mut Trial) {
        let facts = Facts::of(&self.spec, &trial.config);
        let found = diagnosis::diagnose(&Evidence {
            probes: &trial.probes,
            facts: &facts,
        });
        trial.binding = Some(found.code.name().to_owned());
        let detail = serde_json::json!({ "trial": trial.number, "config": trial.config, "diagnosis": found });
        if let Err(e) = self.store.log(DIAGNOSIS, &detail).await {
            tracing::debug!("a diagnosis was not journalled: {e}");
        }
    }

    /// The search's plan: neighbours give the first guess, the incumbent makes it a race. Finals and the baseline don't
    /// race: their rate is needed, not only whether they win.
    fn plan(&self, trial: &Trial) -> Plan {
        let c = &self.spec.capacity;
        let race = trial.phase == TrialPhase::Search;
        Plan {
            slo: self.spec.slo.clone(),
            prior: agenda::prior_rate(&self.spec.space, &self.trials, &trial.config).or(c.start),
            // Whether it carries the required rate is all that is asked of a config where a cheap one is wanted.
            incumbent: match (&self.spec.objective, race) {
                (_, false) => None,
                (Objective::CostAt(rate), true) => Some(*rate),
                (Objective::SustainableRps, true) => agenda::incumbent(&self.trials),
            },
            min: Rps::saturating(0.5),
            max: c.max,
            precision: c.precision,
            confirm: c.confirm,
            warm_up: c.warm_up,
            errors_only: false,
            max_probes: MAX_PROBES,
        }
    }
}

/// How a service ended, with the last thing that it wrote: the log that follows the first line has no place in a note.
fn in_one_line(detail: &str) -> String {
    let mut lines = detail.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default();
    // "...; its last lines:" is a heading; without lines under it, it wrote nothing.
    let Some((how, _)) = first.strip_suffix(':').and_then(|l| l.rsplit_once("; ")) else {
        return first.to_owned();
    };
    match lines.next_back() {
        Some(last) => format!("{how}, its last line: {}", crate::report::clean(last, 200)),
        None => format!("{how}; it wrote nothing"),
    }
}

/// The arithmetic service behind a simulated deployment. A word `per_NAME=20` of the model makes the capacity at most
/// 20 times the parameter NAME, so that a space has something to find; None where the deployment is a real one.
fn simulated_service(
    deployment: &Deployment,
    config: &Config,
    seed: u64,
) -> Result<Option<simulated::Service>, Cut> {
    let Some(text) = deployment
        .urls
        .first()
        .and_then(|u| u.strip_prefix("simulated://"))
    else {
        return Ok(None);
    };
    let text = text.split('?').next().unwrap_or_default();
    let (ties, words): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|w| w.starts_with("per_"));
    let mut model = simulated::Model::parse(&words.join(" "))
        .map_err(|e| Cut::Run(ExitError::new(exit::DATA, format!("[sut] model: {e}"))))?;
    for tie in ties {
        let bound = tie
            .trim_start_matches("per_")
            .split_once('=')
            .and_then(|(name, factor)| Some(config.get(name)?.as_f64()? * factor.parse::<f64>().ok()?));
        model.capacity = model.capacity.min(bound.unwrap_or(f64::INFINITY)).max(0.1);
    }
    Ok(Some(simulated::Service::new(model, seed)))
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    /// Fails when the heading of a log stands alone in the note.
    #[test]
    fn a_note_ends_with_the_last_line_or_says_that_there_is_none() {
        let line = in_one_line("it ended with 1; its last lines:\nconnecting\nError: no such host\n");
        assert_eq!(line, "it ended with 1, its last line: Error: no such host");
        assert_eq!(
            in_one_line("it ended with 1; last lines of its log:\n\n"),
            "it ended with 1; it wrote nothing"
        );
        assert_eq!(
            in_one_line("it ended with 1; it wrote nothing"),
            "it ended with 1; it wrote nothing"
        );
    }
}
