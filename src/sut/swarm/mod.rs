//! The swarm sut: a service of a Docker Swarm is updated to each trial, all at once, and given its own spec back.
//!
//! The service's spec lies in a label of the trial's (see `spec`), so that the swarm itself keeps it and anybody can give
//! it back after a kill -9. Between trials the last trial's tasks stay. A node that goes away says nothing about a config.
//! Not here: which config is next, load, what a failure means for the search; other services of the stack.

mod facts;
mod reach;
pub mod refuse;
pub mod restore;
pub mod spec;
pub mod tasks;
mod up;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::docker::engine::services::has_no_swarm;
use super::docker::engine::{Engine, EngineError};
use super::docker::parking::{RestoreError, short};
use super::redact::{LOG_LINES, Redactor};
use super::{Deployment, Health, Note, Notes, Sut, SutError, SutFacts};
use crate::lock::{Holder, Lock};
use crate::space::{Config, Parameter};
use crate::spec::{SutSpec, SwarmRef};
use reach::Watched;
use spec::Service;
use tasks::{Blame, Change, Node, Task};

/// A restore that finds the managers away tries again this often, with pauses of 1, 2, 4 ... seconds.
const RESTORE_TRIES: u32 = 6;
/// How long a trial waits for a daemon that was there before.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that fell silent is given to be heard again, or missed by the managers (13 s, as measured).
const NODE_PATIENCE: Duration = Duration::from_secs(25);
/// Between two looks at the nodes then.
const NODE_LOOK: Duration = Duration::from_secs(1);

/// The lock's name of a service.
#[must_use]
pub fn lock_key(id: &str) -> String {
    format!("service-{}", short(id))
}

/// The service as preflight found it.
#[derive(Debug, Clone)]
struct Found {
    id: String,
    name: String,
    /// Its own spec.
    own: Json,
    redactor: Redactor,
    /// Nodes that were ready then.
    ready: usize,
}

/// A trial that is up, or was.
#[derive(Debug, Clone, Default)]
struct Live {
    tasks: Vec<Task>,
    watched: Vec<Watched>,
}

/// A service of a swarm.
#[derive(Debug)]
pub struct SwarmSut {
    engine: Engine,
    spec: SutSpec,
    target: SwarmRef,
    run_id: String,
    results: PathBuf,
    found: Option<Found>,
    /// Specs that the service may have by our own doing; any other is somebody else's.
    known: Vec<Json>,
    live: Option<Live>,
    /// The task that failed last, for its log.
    failed: Option<String>,
    lock: Option<Lock>,
    notes: Notes,
}

fn refused(message: String) -> SutError {
    SutError::Refused { exit: 69, message }
}

/// This machine's name, as labels have it.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// All services of the swarm; an error where the engine manages none.
pub async fn all(engine: &Engine) -> Result<Vec<Service>, EngineError> {
    let all = engine.services().await?;
    Ok(all.iter().filter_map(Service::from_json).collect())
}

/// All services of the swarm; none where the engine manages no swarm.
pub async fn services(engine: &Engine) -> Result<Vec<Service>, EngineError> {
    match all(engine).await {
        Err(e) if has_no_swarm(&e) => Ok(Vec::new()),
        other => other,
    }
}

impl SwarmSut {
    /// For the manager behind `engine`. Nothing is asked yet.
    #[must_use]
    pub fn new(engine: Engine, spec: &SutSpec, target: &SwarmRef, run_id: &str, results: &Path) -> Self {
        Self {
            engine,
            spec: spec.clone(),
            target: target.clone(),
            run_id: run_id.to_owned(),
            results: results.to_owned(),
            found: None,
            known: Vec::new(),
            live: None,
            failed: None,
            lock: None,
            notes: Notes::default(),
        }
    }

    /// Who is told what is being updated, so that it is given back when the tool is killed.
    pub fn set_notes(&mut self, notes: Notes) {
        self.notes = notes;
    }

    fn claim(&self, service: &Service) -> (String, Holder) {
        let holder = Holder::this(&self.run_id, &format!("service {}", service.name), false);
        (lock_key(&service.id), holder)
    }

    /// Nobody else on this machine works on this service from now on, and nobody on another one says so.
    async fn hold(&mut self, service: &Service) -> Result<(), SutError> {
        if self.lock.is_none() {
            let (key, holder) = self.claim(service);
            self.lock = Some(Lock::container(&key, &holder).await?);
        }
        refuse::elsewhere(service, &host())
    }

    fn redact(&self, text: &str) -> String {
        self.found
            .as_ref()
            .map_or_else(|| text.to_owned(), |f| f.redactor.text(text))
    }

    /// Docker's messages may quote what it was sent.
    fn redacted(&self, e: EngineError) -> SutError {
        // A socket that was there and is gone belongs to a daemon that is being restarted.
        if self.found.is_some() && matches!(e, EngineError::Missing(_)) {
            return SutError::Infrastructure(self.redact(&e.to_string()));
        }
        match e.into_sut() {
            SutError::Infrastructure(m) => SutError::Infrastructure(self.redact(&m)),
            SutError::Refused { exit, message } => SutError::Refused {
                exit,
                message: self.redact(&message),
            },
            other => other,
        }
    }

    fn known(&self) -> Result<&Found, SutError> {
        self.found
            .as_ref()
            .ok_or_else(|| SutError::Infrastructure("the service was not looked for yet".into()))
    }

    async fn tasks(&self, id: &str) -> Result<Vec<Task>, SutError> {
        let all = self.engine.tasks(id).await.map_err(|e| self.redacted(e))?;
        Ok(all.iter().filter_map(Task::from_json).collect())
    }

    async fn nodes(&self) -> Result<Vec<Node>, SutError> {
        let all = self.engine.nodes().await.map_err(|e| self.redacted(e))?;
        Ok(all.iter().filter_map(Node::from_json).collect())
    }

    async fn read(&self, id: &str, name: &str) -> Result<Service, SutError> {
        match self.engine.service(id).await {
            Ok(json) => Service::from_json(&json)
                .ok_or_else(|| SutError::Infrastructure("docker's answer is no service".into())),
            Err(EngineError::NotFound(_)) => Err(refused(format!(
                "service {name} was removed by somebody: deploy it again (docker stack deploy ...)"
            ))),
            Err(e) => Err(self.redacted(e)),
        }
    }

    /// Finds the service and refuses what can't be given back. Changes nothing. What to say about it.
    async fn find(
        &mut self,
        parameters: &[Parameter],
    ) -> Result<(Vec<Node>, Vec<Task>, Vec<String>), SutError> {
        let info = self.engine.info().await.map_err(|e| self.redacted(e))?;
        refuse::manager(&info, self.engine.host())?;
        let all = all(&self.engine).await.map_err(|e| self.redacted(e))?;
        let service = refuse::find(&all, &self.target.service)?;
        self.hold(&service).await?;
        let nodes = self.nodes().await?;
        let tasks = self.tasks(&service.id).await?;
        let notes = refuse::check(&service, (&tasks, &nodes), parameters, &self.target)?;
        let own = service.own_spec().map_err(refused)?;
        let added = self.spec.env.iter().map(|(k, v)| (k.as_str(), v.expose()));
        let redactor = Redactor::new(spec::env(&own).chain(added), |name| {
            spec::is_tuned(parameters, name) || name == "PATH"
        });
        self.known = vec![own.clone(), service.spec];
        self.found = Some(Found {
            id: service.id,
            name: service.name,
            own,
            redactor,
            ready: nodes.iter().filter(|n| n.is_ready).count(),
        });
        Ok((nodes, tasks, notes))
    }

    /// A daemon that is being restarted is waited for, before that counts as a fault.
    async fn await_daemon(&self) -> Result<(), SutError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(250);
        loop {
            match self.engine.version().await {
                Ok(_) => return Ok(()),
                Err(e) if begun.elapsed() >= DAEMON_PATIENCE => return Err(self.redacted(e)),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    /// Whether the service has a spec that this run knows of.
    fn is_ours(&self, service: &Service) -> Result<(), SutError> {
        match self.known.contains(&service.spec) {
            true => Ok(()),
            false => Err(refused(format!(
                "service {} was updated by somebody during the run ({}); the run stops, and where the update left the trial's \
                 labels, the spec from before the run is given back: make the change again then",
                service.name,
                restore::differences(&service.spec, self.known.last().unwrap_or(&Json::Null)).join(", ")
            ))),
        }
    }

    /// The end of a task's log, fit to be shown.
    async fn tail(&self, task: &str) -> String {
        let Some(found) = &self.found else {
            return String::new();
        };
        // Its node may be away: then there is none.
        let log = self.engine.task_logs(task, LOG_LINES).await.unwrap_or_default();
        found.redactor.log(&log)
    }

    /// Whom the end of `task` is put down to: a node that went away takes its tasks along.
    async fn explain(&self, task: &Task, watched: &[Watched]) -> SutError {
        let (failure, words) = match tasks::blame(task) {
            Blame::Swarm(why) => return SutError::Infrastructure(self.redact(&why)),
            Blame::Config(failure, words) => (failure, words),
        };
        if let Some(why) = self.lost_node(watched).await {
            return SutError::Infrastructure(why);
        }
        let log = self.tail(&task.id).await;
        let detail = match log.is_empty() {
            true => format!("{}; it wrote no log", self.redact(&words)),
            false => format!("{}; last lines of its log:\n{log}", self.redact(&words)),
        };
        SutError::Config { failure, detail }
    }

    /// A node that went away since the trial came up: silent at its port until the managers miss it, or until patience ends.
    async fn lost_node(&self, watched: &[Watched]) -> Option<String> {
        let begun = Instant::now();
        let mut last = None;
        while let Some(silent) = reach::silent(watched).await {
            last = Some(silent.name.clone());
            let nodes = self.nodes().await.unwrap_or_default();
            let is_missed = nodes.iter().any(|n| n.id == silent.id && !n.is_ready);
            if is_missed || begun.elapsed() >= NODE_PATIENCE {
                break;
            }
            tokio::time::sleep(NODE_LOOK).await;
        }
        // Heard again after a silence: it was away all the same, and its tasks with it.
        last.map(|name| {
            format!("node {name} went away during the trial, which says nothing about the config")
        })
    }

    /// Looks at the service once; an error where it is not what was deployed.
    async fn look(&self) -> Result<(), SutError> {
        let found = self.known()?;
        let Some(live) = &self.live else {
            return Err(SutError::Infrastructure("no trial is deployed".into()));
        };
        self.is_ours(&self.read(&found.id, &found.name).await?)?;
        let now = self.tasks(&found.id).await?;
        let nodes = self.nodes().await?;
        match tasks::compare(&live.tasks, &now, &nodes) {
            Some(Change::NodeAway(name)) => Err(SutError::Infrastructure(format!(
                "node {name} went away during the trial, which says nothing about the config"
            ))),
            Some(Change::Ended(task)) => Err(self.explain(&task, &live.watched).await),
            Some(Change::Moved(what)) => Err(SutError::Infrastructure(format!(
                "{what} during the trial, by the swarm or by somebody"
            ))),
            None => match self.lost_node(&live.watched).await {
                Some(why) => Err(SutError::Infrastructure(why)),
                None => Ok(()),
            },
        }
    }

    /// The service that there is something to give back for: ours, or what an earlier run left.
    async fn left(&mut self) -> Result<Option<Service>, SutError> {
        let found = match &self.found {
            // By its id: an engine that manages no swarm any more (it was demoted) has nothing in its list, and the service
            // is there all the same.
            Some(f) => match self.engine.service(&f.id).await {
                Err(EngineError::NotFound(_)) => None,
                seen => match seen.ok().and_then(|json| Service::from_json(&json)) {
                    // It can't be seen whether there is something to do: assume so.
                    None => {
                        return Ok(Some(Service {
                            id: f.id.clone(),
                            name: f.name.clone(),
                            ..Service::default()
                        }));
                    }
                    seen => seen,
                },
            },
            // Not found: preflight says so.
            None => {
                let all = services(&self.engine).await.map_err(|e| self.redacted(e))?;
                refuse::find(&all, &self.target.service).ok()
            }
        };
        let Some(service) = found else { return Ok(None) };
        // Two machines that began at once: what the other one's labels are on is the other one's to give back. Not told by
        // the run's name, which two machines can share.
        if !self.known.contains(&service.spec)
            && let Err(e) = refuse::elsewhere(&service, &host())
        {
            self.notes.send(Note::ServiceGivenBack { id: service.id });
            return Err(e);
        }
        if restore::step(&service) == restore::Step::Nothing && !self.engine.is_unsure() {
            return Ok(None);
        }
        if self.lock.is_none() {
            let (key, holder) = self.claim(&service);
            self.lock = Lock::to_give_back(&key, &holder, |why| tracing::warn!("{why}")).await?;
        }
        Ok(Some(service))
    }

    fn not_given_back(&self, service: &Service, e: &RestoreError) -> SutError {
        let commands = match e {
            RestoreError::Away(_) => "autotune restore".to_owned(),
            RestoreError::Failing { commands, .. }
            | RestoreError::Taken { commands, .. }
            | RestoreError::Stuck { commands, .. } => commands.clone(),
        };
        let heir = match self.notes.are_heard() && e.may_pass() {
            true => " (the guardian goes on trying and gives it back as soon as the swarm lets it)",
            false => "",
        };
        SutError::RestoreFailed {
            name: service.name.clone(),
            detail: format!("{}{heir}", self.redact(&e.to_string())),
            commands,
        }
    }
}

impl Sut for SwarmSut {
    async fn preflight(&mut self, parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        self.found = None;
        let version = self.engine.version().await?;
        let (nodes, tasks, notes) = self.find(parameters).await?;
        self.facts(parameters, (&nodes, &tasks), (&version, notes))
    }

    async fn deploy(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        let since = Instant::now();
        self.await_daemon().await?;
        if self.found.is_none() {
            self.find(parameters).await?;
        }
        self.live = None;
        self.failed = None;
        self.up(trial, parameters, config, since).await
    }

    async fn health(&mut self) -> Health {
        match self.look().await {
            Ok(()) => Health::Running,
            Err(SutError::Config { failure, detail }) => Health::Failed(failure, detail),
            Err(SutError::Refused { exit: 69, message }) => Health::Foreign(message),
            Err(e) => Health::Unknown(e.to_string()),
        }
    }

    async fn log_tail(&mut self) -> String {
        let first = self.live.as_ref().and_then(|l| l.tasks.first());
        match self.failed.clone().or_else(|| first.map(|t| t.id.clone())) {
            Some(task) => self.tail(&task).await,
            None => String::new(),
        }
    }

    /// The tasks stay until the next trial or the end: an update in between would cost as much as a trial's.
    async fn teardown(&mut self) -> Result<(), SutError> {
        self.live = None;
        Ok(())
    }

    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        let Some(service) = self.left().await? else {
            return Ok(None);
        };
        // Before anything is changed: who is killed here is in the middle of giving back, an earlier run's service too.
        self.notes.send(Note::ServiceUpdating {
            id: service.id.clone(),
            name: service.name.clone(),
        });
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=RESTORE_TRIES {
            match restore::give_back(&self.engine, &service.id).await {
                Ok(mut done) => {
                    if self.engine.is_unsure() {
                        done.extend(restore::settle(&self.engine, &service.id).await);
                        self.engine.is_settled();
                    }
                    self.notes.send(Note::ServiceGivenBack { id: service.id });
                    self.live = None;
                    self.found = None;
                    let said: Vec<String> = done.into_iter().map(|r| r.what).collect();
                    return Ok(Some(said.join("; ")).filter(|s| !s.is_empty()));
                }
                Err(e) if e.may_pass() && attempt < RESTORE_TRIES => tokio::time::sleep(pause).await,
                Err(e) => return Err(self.not_given_back(&service, &e)),
            }
            pause *= 2;
        }
        Ok(None)
    }
}
