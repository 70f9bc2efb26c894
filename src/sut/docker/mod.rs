//! The docker sut: parks the user's container, puts trials in its place, gives it back.
//!
//! Each step starts from what is observed: after a daemon restart the original may be up and the trial dead. Between
//! trials the original stays parked. Not here: which config is next, load, what a failure means for the search.

pub mod cgroup;
pub mod clone;
pub mod engine;
pub mod find;
pub mod giving_back;
mod instances;
mod neighbours;
pub mod parking;
mod place;
mod raw;
pub mod record;
pub mod replicas;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::models::ContainerInspectResponse;
use serde_json::Value as Json;

use super::redact::{LOG_LINES, Redactor};
use super::{Deployment, Health, Note, Notes, Sut, SutError, SutFacts, ready, tuned_env};
use crate::lock::{Holder, Lock, container_key};
use crate::space::{Binding, Config, Domain, Parameter};
use crate::spec::{DockerRef, SutSpec};
use crate::trial::Failure;
use crate::units::Bytes;
use clone::Limits;
use engine::{Engine, EngineError};
use find::Original;
use giving_back::{GiveBack, RestoreError};
use neighbours::Neighbours;
use parking::Filter;
use record::{Record, Step};
use watch::Watch;

/// Between two looks at the container while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How long a death waits for the event that explains it.
const EXPLANATION: Duration = Duration::from_millis(1_000);
/// A restore that finds the daemon away tries again this often, with pauses of 1, 2, 4 ... seconds.
const RESTORE_TRIES: u32 = 6;
/// How long a trial waits for a daemon that was there before.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);
/// The exit status of a process that was killed.
const SIGKILL_STATUS: i64 = 137;

/// An instance of a trial that is up, or was.
#[derive(Debug, Clone)]
struct Live {
    id: String,
    /// From 1.
    instance: u32,
    trial: u32,
    started_at: String,
    pid: Option<u32>,
    has_memory_limit: bool,
    /// How often the daemon had gone away before it was made.
    gaps: u32,
}

/// The original as preflight found it.
#[derive(Debug, Clone)]
struct Found {
    original: Original,
    inspect: ContainerInspectResponse,
    grace: Duration,
    redactor: Redactor,
    neighbours: Neighbours,
}

/// A compose service or container.
#[derive(Debug)]
pub struct DockerSut {
    engine: Engine,
    spec: SutSpec,
    target: DockerRef,
    run_id: String,
    results: PathBuf,
    found: Option<Found>,
    live: Option<Live>,
    /// The second instance and the rest, where a config has several.
    others: Vec<Live>,
    watch: Option<Watch>,
    lock: Option<Lock>,
    notes: Notes,
}

impl DockerSut {
    /// For the daemon behind `engine`. Nothing is asked yet.
    #[must_use]
    pub fn new(engine: Engine, spec: &SutSpec, target: &DockerRef, run_id: &str, results: &Path) -> Self {
        Self {
            engine,
            spec: spec.clone(),
            target: target.clone(),
            run_id: run_id.to_owned(),
            results: results.to_owned(),
            found: None,
            live: None,
            others: Vec::new(),
            watch: None,
            lock: None,
            notes: Notes::default(),
        }
    }

    /// Who is told what is parked, so that it is given back when the tool is killed.
    pub fn set_notes(&mut self, notes: Notes) {
        self.notes = notes;
    }

    /// Nobody else works on this container from now on.
    async fn hold(&mut self, original: &Original) -> Result<(), SutError> {
        if self.lock.is_none() {
            let (key, holder) = self.claim(original);
            self.lock = Some(Lock::container(&key, &holder).await?);
        }
        Ok(())
    }

    /// The same before it is given back, which a lock that can't be made does not prevent.
    async fn hold_to_give_back(&mut self, original: &Original) -> Result<(), SutError> {
        if self.lock.is_none() {
            let (key, holder) = self.claim(original);
            self.lock = Lock::to_give_back(&key, &holder, |why| tracing::warn!("{why}")).await?;
        }
        Ok(())
    }

    fn claim(&self, original: &Original) -> (String, Holder) {
        let holder = Holder::this(&self.run_id, &format!("container {}", original.name), false);
        (container_key(parking::short(&original.id)), holder)
    }

    /// Finds the container and refuses what can't be given back. Changes nothing.
    async fn find(&mut self, parameters: &[Parameter]) -> Result<&mut Found, SutError> {
        if self.found.is_none() {
            let all = self.engine.list().await?;
            let original = find::find(&all, &self.target)?;
            self.hold(&original).await?;
            let json = self.engine.inspect(&original.id).await?;
            let inspect = typed(json, &original.name)?;
            find::check(&original, &inspect, &all)?;
            let image = inspect.image.clone().unwrap_or_default();
            if !self.engine.has_image(&image).await? {
                return Err(refused(format!(
                    "the image of container `{}` ({image}) is gone, and no trial can be made from it; {}",
                    original.name,
                    original.mend()
                )));
            }
            self.found = Some(Found {
                grace: parking::grace(inspect.config.as_ref().and_then(|c| c.stop_timeout)),
                redactor: redactor(&inspect, &self.spec, parameters),
                neighbours: Neighbours::of(&all, &original),
                original,
                inspect,
            });
        }
        self.known()
    }

    fn known(&mut self) -> Result<&mut Found, SutError> {
        self.found
            .as_mut()
            .ok_or_else(|| SutError::Infrastructure("the container was not looked for yet".into()))
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

    fn record(&self, original: &Original, step: Step, trial: u32) -> std::io::Result<()> {
        Record::new(&self.run_id, self.engine.host(), original, step, trial).write(&self.results)
    }

    /// The end of a container's log, fit to be shown.
    async fn tail(&self, id: &str) -> String {
        let Some(found) = &self.found else {
            return String::new();
        };
        let log = self.engine.logs(id, LOG_LINES).await.unwrap_or_default();
        found.redactor.log(&log)
    }

    fn foreign(&self) -> Option<String> {
        let what = self.watch.as_ref().and_then(Watch::foreign)?;
        let mend = self.found.as_ref().map(|f| f.original.mend()).unwrap_or_default();
        Some(format!(
            "{what} during the run; the run stops and gives back what it can; if the service is not up then: {mend}"
        ))
    }

    /// What happened to a service that ours leans on, since the trial began.
    fn trouble(&self) -> Option<SutError> {
        let what = self.watch.as_ref().and_then(Watch::trouble)?;
        Some(SutError::Infrastructure(format!(
            "{what} during the trial, which says nothing about the config"
        )))
    }

    /// Everything before the trial itself: observed, parked, no leftovers.
    async fn make_room(&mut self, trial: u32) -> Result<(), SutError> {
        if let Some(message) = self.foreign() {
            return Err(refused(message));
        }
        let engine = self.engine.clone();
        let mut original = self.known()?.original.clone();
        let all = engine.list().await.map_err(|e| self.redacted(e))?;
        let Some(listed) = all.iter().find(|c| c.id == original.id) else {
            return Err(refused(format!(
                "container {} was removed by somebody; {}",
                original.name,
                original.mend()
            )));
        };
        let now = Original::from_listed(listed);
        if now.name != original.name {
            return Err(refused(format!(
                "container {} was renamed to {} by somebody; rename it back and run again",
                original.name, now.name
            )));
        }
        original.is_parked = now.is_parked;
        original.was_running = now.was_running;
        let leftovers: Vec<_> = parking::observe(&all, &Filter::Originals(vec![original.id.clone()]))
            .into_iter()
            .flat_map(|p| p.trials)
            .collect();
        let in_the_way = all
            .iter()
            .find(|c| c.name == original.name && c.id != original.id);
        if let Some(other) = in_the_way.filter(|c| leftovers.iter().all(|(id, _)| *id != c.id)) {
            return Err(refused(format!(
                "container {} ({}) has the name that the trial needs, and is not ours; remove or rename it",
                other.name,
                parking::short(&other.id)
            )));
        }
        let removed = parking::remove_trials(&engine, &leftovers).await;
        removed.map_err(|e| self.redacted(e))?;
        self.record(&original, Step::Park, trial)
            .map_err(|e| record::refused(&self.results, &e))?;
        self.follow_events(&original).await?;
        let grace = self.known()?.grace;
        self.notes.send(Note::Parking {
            id: original.id.clone(),
            name: original.name.clone(),
        });
        let parked = parking::park(&engine, &mut original, grace).await;
        self.known()?.original = original;
        parked.map_err(|e| self.redacted(e))?;
        self.neighbours_settled().await
    }

    /// From here on nothing that happens in the daemon is missed.
    async fn follow_events(&mut self, original: &Original) -> Result<(), SutError> {
        if self.watch.is_none() {
            let watch = Watch::begin(&self.engine, original).await;
            self.watch = Some(watch.map_err(|e| self.redacted(e))?);
        }
        if let Some(watch) = &self.watch
            && !watch.is_open_soon().await
        {
            return Err(SutError::Infrastructure(
                "docker answers, but its events can't be followed; what happens to the trial would not be seen".into(),
            ));
        }
        Ok(())
    }

    /// What the service leans on is there; what happens to it from here on is told.
    async fn neighbours_settled(&mut self) -> Result<(), SutError> {
        let neighbours = self.known()?.neighbours.clone();
        match neighbours.settle(&self.engine).await {
            Ok(None) => {
                // From here on only: what parking the service did to others is our own doing.
                if let Some(watch) = &self.watch {
                    watch.mind(&neighbours);
                }
                Ok(())
            }
            Ok(Some(which)) => Err(SutError::Infrastructure(format!(
                "{which}, and the service needs it"
            ))),
            Err(e) => Err(self.redacted(e)),
        }
    }

    /// Creates and starts an instance of the trial, from 1. On an error what was made of it is removed by the caller.
    async fn launch(
        &mut self,
        trial: u32,
        instance: u32,
        env: &BTreeMap<String, String>,
        limits: Limits,
    ) -> Result<String, SutError> {
        let found = self.known()?.clone();
        let mut all_env: BTreeMap<String, String> = self
            .spec
            .env
            .iter()
            .map(|(k, v)| (k.clone(), v.expose().to_owned()))
            .collect();
        all_env.extend(env.clone());
        let labels = parking::labels(&self.run_id, &found.original, trial);
        let mut plan = clone::blueprint(&found.inspect, &all_env, limits, &labels);
        replicas::adapt(&mut plan, &found.original.name, instance);
        self.record(&found.original, Step::Deploy, trial)
            .map_err(|e| record::refused(&self.results, &e))?;
        let name = replicas::name(&found.original.name, instance);
        let id = match self.engine.create(&name, plan.body).await {
            Ok(id) => id,
            Err(e) => return Err(self.not_created(e)),
        };
        let live = Live {
            id: id.clone(),
            instance,
            trial,
            started_at: String::new(),
            pid: None,
            has_memory_limit: limits.memory.is_some()
                || found
                    .inspect
                    .host_config
                    .as_ref()
                    .and_then(|h| h.memory)
                    .is_some_and(|m| m > 0),
            gaps: self.gaps(),
        };
        if instance > 1 {
            self.others.push(live);
        } else {
            self.live = Some(live);
        }
        if let Some(watch) = &self.watch {
            watch.add(&id);
        }
        for (network, endpoint) in plan.extra_networks {
            let connected = self.engine.connect(&network, &id, endpoint).await;
            connected.map_err(|e| self.redacted(e))?;
        }
        match parking::start(&self.engine, &id).await {
            Ok(()) => Ok(id),
            Err(e) => Err(self.not_started(e)),
        }
    }

    fn not_created(&self, e: EngineError) -> SutError {
        match e {
            // Docker looked at the config and refused it: "Minimum memory limit allowed is 6MB"
            EngineError::Status(400, message) => SutError::Config {
                failure: Failure::Crash,
                detail: format!("docker refuses this config: {}", self.redact(&message)),
            },
            other => self.redacted(other),
        }
    }

    fn not_started(&self, e: EngineError) -> SutError {
        if parking::is_port_busy(&e) {
            return SutError::Infrastructure(format!(
                "the service's port is taken by another program, three times in a row ({}); \
                 `ss -ltnp` says by which",
                self.redact(&e.to_string())
            ));
        }
        match e {
            EngineError::Status(_, m) if m.contains("OOM-killed") || m.contains("memory limit too low") => {
                SutError::Config {
                    failure: Failure::Oom,
                    detail: "the memory limit is too low to start a process at all".into(),
                }
            }
            other => self.redacted(other),
        }
    }

    /// Looks at every instance of the trial once; an error where one is not simply running. The first one's facts.
    async fn look(&self) -> Result<Json, SutError> {
        let Some(live) = &self.live else {
            return Err(SutError::Infrastructure("no trial is deployed".into()));
        };
        let first = self.look_at(live).await?;
        for other in &self.others {
            self.look_at(other).await?;
        }
        Ok(first)
    }

    async fn look_at(&self, live: &Live) -> Result<Json, SutError> {
        if let Some(message) = self.foreign() {
            return Err(refused(message));
        }
        if let Some(trouble) = self.trouble() {
            return Err(trouble);
        }
        let json = match self.engine.inspect(&live.id).await {
            Ok(json) => json,
            Err(EngineError::NotFound(_)) => {
                let name = self
                    .found
                    .as_ref()
                    .map_or("the service", |f| f.original.name.as_str());
                return Err(refused(format!(
                    "the trial of {name} was removed by somebody during the run"
                )));
            }
            Err(e) => return Err(self.redacted(e)),
        };
        let state = &json["State"];
        if state["Running"].as_bool() != Some(true) {
            return Err(self.explain_end(live, state).await);
        }
        let restarted = !live.started_at.is_empty() && state["StartedAt"].as_str() != Some(&live.started_at);
        if restarted {
            if self.gaps() > live.gaps {
                return Err(daemon_restarted());
            }
            return Err(SutError::Config {
                failure: Failure::Unstable,
                detail: "the container was started again under the load".into(),
            });
        }
        if self.oom_kills(live) > 0 {
            return Err(SutError::Config {
                failure: Failure::Oom,
                detail: format!(
                    "a process of the service was killed for memory{}",
                    limit_note(&json)
                ),
            });
        }
        Ok(json)
    }

    fn oom_kills(&self, live: &Live) -> u64 {
        let by_event = self.watch.as_ref().map_or(0, |w| u64::from(w.of(&live.id).oom));
        let by_kernel = live.pid.and_then(cgroup::oom_kills).unwrap_or(0);
        by_event.max(by_kernel)
    }

    /// How often the daemon went away so far.
    fn gaps(&self) -> u32 {
        self.watch.as_ref().map_or(0, Watch::gaps)
    }

    /// Why the trial's main process ended: the config, somebody, or the daemon.
    async fn explain_end(&self, live: &Live, state: &Json) -> SutError {
        let deadline = Instant::now() + EXPLANATION;
        if let Some(watch) = &self.watch {
            // A daemon that is stopped ends its containers first: a signal may be followed by the end of the stream.
            let is_clear = |seen: watch::TrialEvents| seen.died.is_some() && !seen.killed;
            while !is_clear(watch.of(&live.id)) && watch.gaps() == live.gaps && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let code = state["ExitCode"].as_i64().unwrap_or(-1);
        let events = self.watch.as_ref().map(|w| w.of(&live.id)).unwrap_or_default();
        let oom = state["OOMKilled"].as_bool() == Some(true) || events.oom > 0;
        // Whatever the status: a restart in order sends SIGTERM, which services end with 0, 143 or as they like.
        if !oom && self.gaps() > live.gaps {
            return daemon_restarted();
        }
        if !oom && events.killed {
            return refused("somebody stopped the trial through docker during the run".into());
        }
        let failure = if oom || (code == SIGKILL_STATUS && live.has_memory_limit) {
            Failure::Oom
        } else {
            Failure::Crash
        };
        let what = match failure {
            Failure::Oom => "killed for memory".to_owned(),
            _ => format!("exited with status {code}"),
        };
        SutError::Config {
            failure,
            detail: with_log(&what, &self.tail(&live.id).await),
        }
    }

    /// Waits for the ready path, looking at the container meanwhile.
    async fn wait_ready(&mut self, base: &str, since: Instant) -> Result<(), SutError> {
        let mut looked = Instant::now();
        let this = &*self;
        let outcome = ready::wait(base, &this.spec.ready, since, async || {
            if looked.elapsed() < LOOK_EVERY {
                return Ok(());
            }
            looked = Instant::now();
            this.look().await.map(|_| ())
        })
        .await;
        match outcome {
            Ok(()) => Ok(()),
            Err(ready::NotReady::Ended(e)) => Err(e),
            Err(ready::NotReady::Late(seen)) => {
                // The last look may be older than its end.
                self.look().await?;
                let id = self.live.as_ref().map(|l| l.id.clone()).unwrap_or_default();
                let what = format!(
                    "{} did not answer 2xx within {} ({seen})",
                    self.spec.ready.path,
                    crate::units::show_duration(self.spec.ready.timeout)
                );
                Err(SutError::Config {
                    failure: Failure::NeverReady,
                    detail: with_log(&what, &self.tail(&id).await),
                })
            }
        }
    }

    async fn up(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
        since: Instant,
    ) -> Result<Deployment, SutError> {
        let env = tuned_env(parameters, config);
        let limits = Limits::of(parameters, config);
        let count = replicas::wanted(parameters, config);
        let mut ids = Vec::new();
        for instance in 1..=count {
            ids.push(self.launch(trial, instance, &env, limits).await?);
        }
        let started = self.note_starts().await?;
        let spec_url = self.spec.url.clone();
        let base = place::url(
            &spec_url,
            &self.known()?.inspect,
            started.first().unwrap_or(&Json::Null),
        )?;
        // The budget counts from the start, stopping the predecessor is not the config's fault.
        let urls = if replicas::is_tuned(parameters) {
            self.wait_all_ready(&base, &started, &ids, Instant::now()).await?
        } else {
            self.wait_ready(&base, Instant::now()).await?;
            vec![base]
        };
        self.check_live(&env, limits).await?;
        let mut proof = proof(&env, limits);
        if replicas::is_tuned(parameters) {
            proof.push(format!("instances={count}"));
        }
        Ok(Deployment {
            urls,
            proof,
            containers: ids,
            pids: Vec::new(),
            ready_s: since.elapsed().as_secs_f64(),
        })
    }

    async fn remove_live(&mut self) -> Result<(), SutError> {
        let all: Vec<Live> = self.live.iter().chain(&self.others).cloned().collect();
        let Some(first) = all.first() else {
            return Ok(());
        };
        if let Some(watch) = &self.watch {
            all.iter().for_each(|l| watch.forget(&l.id));
        }
        if let Some(found) = &self.found {
            self.note(&found.original, Step::Teardown, first.trial);
        }
        let ids: Vec<(String, String)> = all.iter().map(|l| (l.id.clone(), String::new())).collect();
        let gone = parking::remove_trials(&self.engine, &ids).await;
        gone.map_err(|e| self.redacted(e))?;
        self.live = None;
        self.others.clear();
        Ok(())
    }
}

impl Sut for DockerSut {
    async fn preflight(&mut self, parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        self.found = None;
        let version = self.engine.version().await?;
        let info = self.engine.info().await?;
        check_limits(parameters, &info)?;
        let spec_url = self.spec.url.clone();
        let found = self.find(parameters).await?;
        let (today, unread) = clone::today(&found.inspect, parameters);
        let mut facts = SutFacts {
            today,
            identity: found.inspect.image.clone().unwrap_or_default(),
            secrets: found.redactor.secrets(),
            ..SutFacts::default()
        };
        place::check(&spec_url, found)?;
        facts.lines = lines(found, &version);
        facts.warnings = unread;
        facts.warnings.extend(found.neighbours.warning());
        facts.warnings.extend(place::anonymous_volumes(&found.inspect));
        facts.warnings.extend(replicas::check(
            parameters,
            &spec_url,
            &found.original.name,
            &found.inspect,
        )?);
        facts.addresses = addresses(&found.inspect);
        facts.fixed = clone::fixed(&found.inspect, parameters);
        let text = |v: &Json| v.as_str().unwrap_or("unknown").to_owned();
        facts
            .environment
            .insert("docker".into(), text(&version["Version"]));
        facts
            .environment
            .insert("docker_api".into(), text(&version["ApiVersion"]));
        let cores = info["NCPU"].as_u64().map_or(String::new(), |n| n.to_string());
        facts.environment.insert("engine_cpus".into(), cores);
        let cgroup = info["CgroupVersion"].as_str().unwrap_or("1").to_owned();
        facts.environment.insert("cgroup_version".into(), cgroup);
        facts
            .environment
            .insert("container".into(), found.original.name.clone());
        facts
            .environment
            .insert("image_id".into(), facts.identity.clone());
        let image = found.inspect.config.as_ref().and_then(|c| c.image.clone());
        facts
            .environment
            .insert("image".into(), image.unwrap_or_default());
        Ok(facts)
    }

    async fn deploy(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        let since = Instant::now();
        self.find(parameters).await?;
        self.await_daemon().await?;
        self.remove_live().await?;
        self.make_room(trial).await?;
        let mut result = self.up(trial, parameters, config, since).await;
        if let (Err(SutError::Config { .. }), Some(trouble)) = (&result, self.trouble()) {
            result = Err(trouble);
        }
        if result.is_err()
            && let Err(e) = self.remove_live().await
        {
            tracing::warn!("cannot remove the failed trial yet: {e}");
        }
        result
    }

    async fn health(&mut self) -> Health {
        match self.look().await {
            Ok(_) => Health::Running,
            Err(SutError::Config { failure, detail }) => Health::Failed(failure, detail),
            Err(SutError::Refused { exit: 69, message }) => Health::Foreign(message),
            Err(e) => Health::Unknown(e.to_string()),
        }
    }

    async fn log_tail(&mut self) -> String {
        match &self.live {
            Some(live) => self.tail(&live.id).await,
            None => String::new(),
        }
    }

    async fn teardown(&mut self) -> Result<(), SutError> {
        self.remove_live().await
    }

    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        let Some(original) = self.parked().await? else {
            return Ok(None);
        };
        self.watch = None;
        // Before anything is changed: who is killed here is in the middle of giving back, an earlier run's container too.
        self.notes.send(Note::Parking {
            id: original.id.clone(),
            name: original.name.clone(),
        });
        self.note(&original, Step::Restore, 0);
        let engine = self.engine.clone();
        let filter = Filter::Originals(vec![original.id.clone()]);
        let mut attempts = GiveBack::new(&engine, &filter);
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=RESTORE_TRIES {
            match attempts.attempt().await {
                Ok(mut done) => {
                    if engine.is_unsure() {
                        done.extend(parking::settle(&engine, &filter, &done).await);
                        engine.is_settled();
                    }
                    self.note(&original, Step::Restored, 0);
                    self.notes.send(Note::GivenBack { id: original.id });
                    self.live = None;
                    self.others.clear();
                    self.found = None;
                    let said: Vec<String> = done.into_iter().map(|r| r.what).collect();
                    return Ok(Some(said.join("; ")).filter(|s| !s.is_empty()));
                }
                Err(e) if e.may_pass() && attempt < RESTORE_TRIES => tokio::time::sleep(pause).await,
                Err(e) => return Err(self.not_given_back(&original, e)),
            }
            pause *= 2;
        }
        Ok(None)
    }
}

impl DockerSut {
    /// The container that there is something to give back for: ours, or what an earlier run left parked.
    async fn parked(&mut self) -> Result<Option<Original>, SutError> {
        let known = self.found.as_ref().map(|f| f.original.clone());
        let all = match (self.engine.list().await, known) {
            (Ok(all), _) => all,
            // It can't be seen whether there is something to do: assume so.
            (Err(_), Some(original)) if original.is_parked || self.engine.is_unsure() => {
                return Ok(Some(original));
            }
            (Err(e), _) => return Err(e.into()),
        };
        let found = match &self.found {
            Some(f) => Some(f.original.clone()),
            // Not found, or not one: preflight says so.
            None => find::find(&all, &self.target).ok(),
        };
        let Some(original) = found else {
            return Ok(None);
        };
        let filter = Filter::Originals(vec![original.id.clone()]);
        // A call that was cut off may park it yet.
        if parking::observe(&all, &filter).is_empty() && !self.engine.is_unsure() {
            self.live = None;
            self.others.clear();
            return Ok(None);
        }
        self.hold_to_give_back(&original).await?;
        Ok(Some(original))
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

    /// What can't be given back now: who goes on with it, and what does it by hand.
    fn not_given_back(&self, original: &Original, e: RestoreError) -> SutError {
        let is_stuck = !e.may_pass();
        let (detail, commands) = match e {
            // Nothing is known of the trials that there are.
            RestoreError::Away(e) => (e.to_string(), parking::by_hand(original)),
            RestoreError::Failing { detail, commands, .. }
            | RestoreError::Taken { detail, commands, .. }
            | RestoreError::Stuck { detail, commands, .. } => (detail, commands),
        };
        let heir = match self.notes.are_heard() && !is_stuck {
            true => " (the guardian goes on trying and gives it back as soon as docker lets it)",
            false => "",
        };
        SutError::RestoreFailed {
            name: original.name.clone(),
            detail: format!("{}{heir}", self.redact(&detail)),
            commands,
        }
    }

    fn note(&self, original: &Original, step: Step, trial: u32) {
        if let Err(e) = self.record(original, step, trial) {
            // Giving back goes before writing about it.
            tracing::warn!("cannot write the parking record: {e}");
        }
    }
}

fn daemon_restarted() -> SutError {
    SutError::Infrastructure("the docker daemon was restarted and took the trial with it".into())
}

fn refused(message: String) -> SutError {
    SutError::Refused { exit: 69, message }
}

/// Where the container's connections to others come from: its addresses in Docker's networks.
fn addresses(inspect: &ContainerInspectResponse) -> Vec<String> {
    let networks = inspect.network_settings.as_ref().and_then(|n| n.networks.clone());
    networks
        .unwrap_or_default()
        .into_values()
        .filter_map(|n| n.ip_address)
        .filter(|ip| !ip.is_empty())
        .collect()
}

fn typed(json: Json, name: &str) -> Result<ContainerInspectResponse, SutError> {
    // The parser's message would quote values.
    serde_json::from_value(json).map_err(|_| {
        refused(format!(
            "container `{name}` has settings that this version does not know, so no true copy can be made of it"
        ))
    })
}

fn redactor(inspect: &ContainerInspectResponse, spec: &SutSpec, parameters: &[Parameter]) -> Redactor {
    let env = inspect
        .config
        .as_ref()
        .and_then(|c| c.env.as_deref())
        .unwrap_or_default();
    let original = env.iter().filter_map(|e| e.split_once('='));
    let added = spec.env.iter().map(|(k, v)| (k.as_str(), v.expose()));
    let is_tuned = |name: &str| {
        parameters
            .iter()
            .any(|p| matches!(&p.binding, Binding::Env(n) if n == name))
    };
    Redactor::new(original.chain(added), |name| is_tuned(name) || name == "PATH")
}

fn with_log(what: &str, log: &str) -> String {
    if log.is_empty() {
        format!("{what}; it wrote no log")
    } else {
        format!("{what}; last lines of its log:\n{log}")
    }
}

fn limit_note(inspect: &Json) -> String {
    match inspect["HostConfig"]["Memory"].as_u64() {
        Some(m) if m > 0 => format!(" (limit {})", Bytes::new(m)),
        _ => String::new(),
    }
}

#[allow(clippy::cast_precision_loss)]
fn proof(env: &BTreeMap<String, String>, limits: Limits) -> Vec<String> {
    let mib = |b: i64| Bytes::new(b.unsigned_abs()).to_string();
    let mut out: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    out.extend(limits.nano_cpus.map(|n| format!("cpus={}", n as f64 / 1e9)));
    out.extend(limits.memory.map(|m| format!("memory={}", mib(m))));
    out.extend(limits.cpu_shares.map(|s| format!("cpu_shares={s}")));
    out.extend(
        limits
            .memory_reservation
            .map(|m| format!("memory_reservation={}", mib(m))),
    );
    out
}

fn lines(found: &Found, version: &Json) -> Vec<String> {
    let o = &found.original;
    let mut out = vec![format!(
        "docker {} (API {})",
        version["Version"].as_str().unwrap_or("?"),
        version["ApiVersion"].as_str().unwrap_or("?")
    )];
    let state = if o.was_running { "running" } else { "stopped" };
    let of = o
        .compose
        .as_ref()
        .map_or(String::new(), |(p, s)| format!(", service {s} of project {p}"));
    out.push(format!(
        "container {} ({}{of}), {state}",
        o.name,
        parking::short(&o.id)
    ));
    if o.is_parked {
        out.push(
            "it is parked by an earlier run, which did not end well; it is given back at the end".into(),
        );
    }
    let parked = parking::parked_name(&o.name, o.was_running);
    let back = if o.was_running {
        "start and rename"
    } else {
        "rename"
    };
    out.push(format!(
        "docker actions, at first: rename {} to {parked}, stop it",
        o.name
    ));
    out.push(format!(
        "  for each trial: create {} from image {} with the trial's variables and limits, connect it to the same networks, start it; \
         afterwards stop and remove it",
        o.name,
        parking::short(
            found
                .inspect
                .image
                .as_deref()
                .unwrap_or_default()
                .trim_start_matches("sha256:")
        )
    ));
    out.push(format!("  at the end: {back} {parked} back to {}", o.name));
    out
}

/// A quota above the host's cores, or a limit that Docker refuses, is known before anything is touched.
#[allow(clippy::cast_precision_loss)]
fn check_limits(parameters: &[Parameter], info: &Json) -> Result<(), SutError> {
    use crate::space::Limit;
    let cores = info["NCPU"].as_u64().unwrap_or(0) as f64;
    let memory = info["MemTotal"].as_u64().map_or(0.0, |m| Bytes::new(m).mib());
    let mut wrong = Vec::new();
    for p in parameters {
        let Binding::Limit(limit) = p.binding else {
            continue;
        };
        let high = highest(&p.domain);
        match limit {
            Limit::Cpus if cores > 0.0 && high > cores => wrong.push(format!(
                "parameter `{}` goes up to {high} cpus, the docker host has {cores}",
                p.name
            )),
            Limit::Memory if memory > 0.0 && high > memory => wrong.push(format!(
                "parameter `{}` goes up to {high} MiB, the docker host has {memory:.0}",
                p.name
            )),
            _ => {}
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(SutError::Refused {
        exit: 65,
        message: wrong.join("; "),
    })
}

#[allow(clippy::cast_precision_loss)]
fn highest(domain: &Domain) -> f64 {
    match domain {
        Domain::Int { high, .. } => *high as f64,
        Domain::Float { high, .. } => *high,
        Domain::Choice { values } => values.iter().filter_map(|v| v.as_f64()).fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ReadySpec, SutKind};

    /// Breaks when the message of a daemon that is away at the end tells people to remove the container that the guardian
    /// gives back meanwhile, under the name that it has then.
    #[test]
    fn a_container_that_is_not_given_back_is_never_named_in_a_removal() {
        let target = DockerRef::Container("shop-api-service-1".into());
        let spec = SutSpec {
            kind: SutKind::Docker(target.clone()),
            url: "http://127.0.0.1:0".into(),
            ready: ReadySpec {
                path: "/".into(),
                timeout: Duration::from_secs(1),
            },
            env: BTreeMap::new(),
        };
        let engine = Engine::at("unix:///nowhere/docker.sock").unwrap();
        let mut sut = DockerSut::new(engine, &spec, &target, "run-1", Path::new("results"));
        let original = Original {
            id: "0123456789abcdef".into(),
            name: "shop-api-service-1".into(),
            is_parked: true,
            was_running: true,
            compose: None,
            compose_up: None,
        };
        let away = || RestoreError::Away(EngineError::Away("no answer".into()));
        let said = sut.not_given_back(&original, away()).to_string();
        assert!(
            said.contains("run: autotune restore, or: docker rm -f -v $(docker ps -aq --filter label=autotune.original=0123456789abcdef)"),
            "{said}"
        );
        assert!(!said.contains("guardian"), "there is none: {said}");
        sut.set_notes(Notes::to(|_| {}));
        let said = sut.not_given_back(&original, away()).to_string();
        assert!(said.contains("no answer (the guardian goes on"), "{said}");
    }
}
