//! Bringing a trial up: one update, every task running, every address answering, and the proof. The effects of a
//! deployment; what the lists mean is in `tasks`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::spec::{self, Change, Marks};
use super::tasks::{self, Node, Progress, Task};
use super::{Found, Live, SwarmSut, host, reach};
use crate::space::{Config, Parameter};
use crate::sut::docker::engine::EngineError;
use crate::sut::docker::engine::services::is_stale;
use crate::sut::{Deployment, Note, SutError, ready, tuned_env};
use crate::trial::Failure;

/// The swarm writes into a service by itself (its update's state): an update that came too late is made again this often.
const STALE_TRIES: u32 = 10;
/// Between two looks at the tasks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// For the tasks of before to end, beyond their own grace period.
const END_MARGIN: Duration = Duration::from_secs(60);
/// Docker's own grace period.
const GRACE: Duration = Duration::from_secs(10);
/// How long a task without a place is waited for: what ended a moment ago frees its reservation a moment later.
const PLACE: Duration = Duration::from_secs(6);
/// Requests that each task gets in a round through the balancer, on average.
const ASKS: usize = 6;
/// Rounds through the balancer that must be good, one after the other.
const ROUNDS: u32 = 2;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(300);
/// A balancer has at least this long to notice new tasks.
const NOTICE: Duration = Duration::from_secs(10);

fn config_error(failure: Failure, detail: String) -> SutError {
    SutError::Config { failure, detail }
}

impl SwarmSut {
    pub(super) async fn up(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
        since: Instant,
    ) -> Result<Deployment, SutError> {
        let found = self.known()?.clone();
        let added: BTreeMap<String, String> = self
            .spec
            .env
            .iter()
            .map(|(k, v)| (k.clone(), v.expose().to_owned()))
            .collect();
        let change = Change::of(parameters, config, &added)
            .map_err(|why| config_error(Failure::Crash, format!("no service can be this: {why}")))?;
        let tuned = tuned_env(parameters, config);
        let before = self.nodes().await?;
        let answered = reach::answering(&before).await;
        let brought = self.bring_up(trial, &found, &change).await;
        let (live, nodes) = match brought {
            Ok(up) => up,
            // What a node that went away took along is not the config's fault.
            Err(e @ SutError::Config { .. }) => {
                let silent = self.lost_node(&answered).await;
                return match silent.or(self.lost_since(&before).await) {
                    Some(why) => Err(SutError::Infrastructure(why)),
                    None => Err(e),
                };
            }
            Err(e) => return Err(e),
        };
        let urls = tasks::urls(
            self.target.task_url.as_deref(),
            &self.spec.url,
            &live.tasks,
            &nodes,
        )
        .map_err(super::refused)?;
        if let Err(seen) = self.all_answer(&urls, live.tasks.len()).await {
            let first = live.tasks.first().cloned().unwrap_or_default();
            self.failed = Some(first.id.clone());
            // A task that ended meanwhile explains it better.
            self.live = Some(live);
            self.look().await?;
            let log = self.tail(&first.id).await;
            return Err(config_error(
                Failure::NeverReady,
                format!("{seen}; last lines of a task's log:\n{log}"),
            ));
        }
        self.live = Some(live.clone());
        let service = self.read(&found.id, &found.name).await?;
        self.is_ours(&service)?;
        let names: Vec<&str> = tuned.keys().map(String::as_str).collect();
        let mut proof = change.proof(&service.spec, &names).map_err(|missing| {
            SutError::Infrastructure(format!(
                "the swarm took the update, but these are not live: {missing}"
            ))
        })?;
        proof.push(tasks::spread(&live.tasks, &nodes));
        Ok(Deployment {
            urls,
            proof,
            containers: self.containers(&live.tasks).await,
            pids: Vec::new(),
            ready_s: since.elapsed().as_secs_f64(),
        })
    }

    /// One update, and every task of it running.
    async fn bring_up(
        &mut self,
        trial: u32,
        found: &Found,
        change: &Change,
    ) -> Result<(Live, Vec<Node>), SutError> {
        let (spec, force) = self.update(trial, found, change).await?;
        let replicas = spec::replicas(&spec).unwrap_or(1);
        let tasks = self.await_tasks(found, force, replicas).await?;
        let nodes = self.nodes().await?;
        let mut watched = reach::answering(&nodes).await;
        watched.retain(|w| tasks.iter().any(|t| t.node == w.id));
        Ok((Live { tasks, watched }, nodes))
    }

    /// Replicas, variables and limits in one update. What was sent, and the counter that tells its tasks.
    async fn update(&mut self, trial: u32, found: &Found, change: &Change) -> Result<(Json, u64), SutError> {
        let mut tried = 0;
        loop {
            let service = self.read(&found.id, &found.name).await?;
            self.is_ours(&service)?;
            let tasks = self.tasks(&found.id).await?;
            let marks = Marks {
                run: self.run_id.clone(),
                host: host(),
                results: self.results.display().to_string(),
                trial,
                force: tasks::next_force(spec::force(&service.spec), &tasks),
            };
            let spec = spec::trial(&found.own, change, &marks).map_err(super::refused)?;
            self.notes.send(Note::ServiceUpdating {
                id: found.id.clone(),
                name: found.name.clone(),
            });
            // Before it is sent: whether a call that breaks off was carried out, nobody knows.
            self.known = vec![found.own.clone(), service.spec.clone(), spec.clone()];
            match self
                .engine
                .update_service(&found.id, service.version, &spec, false)
                .await
            {
                Ok(()) => return self.confirm(found, spec, marks.force).await,
                // Read again: where somebody changed the spec, that is seen there.
                Err(e) if is_stale(&e) && tried < STALE_TRIES => tried += 1,
                // The swarm looked at the config and refused it.
                Err(EngineError::Status(400, message)) => {
                    let detail = format!("the swarm refuses this config: {}", self.redact(&message));
                    return Err(config_error(Failure::Crash, detail));
                }
                Err(e) => return Err(self.redacted(e)),
            }
        }
    }

    /// Reads what the swarm made of the spec: that is what the service has from now on by our doing.
    async fn confirm(&mut self, found: &Found, spec: Json, force: u64) -> Result<(Json, u64), SutError> {
        let service = self.read(&found.id, &found.name).await?;
        if service.spec != spec {
            let is_same = spec::force(&service.spec) == force
                && service.label(spec::RUN) == Some(self.run_id.as_str())
                && service.label(spec::ORIGINAL).is_some();
            if !is_same {
                return self.is_ours(&service).map(|()| (spec, force));
            }
            tracing::debug!(
                "the swarm writes the spec in its own way: {}",
                super::restore::differences(&service.spec, &spec).join(", ")
            );
        }
        self.known = vec![found.own.clone(), service.spec];
        Ok((spec, force))
    }

    /// Waits until all tasks run and those of before have ended.
    async fn await_tasks(&mut self, found: &Found, force: u64, replicas: u64) -> Result<Vec<Task>, SutError> {
        let grace = found.own["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"].as_u64();
        let grace = grace.map_or(GRACE, |ns| {
            Duration::from_nanos(ns).min(Duration::from_secs(3_600))
        });
        let ends = Instant::now() + grace + END_MARGIN;
        // The budget counts from when those of before are gone: stopping them is not the config's fault.
        let mut deadline = None;
        let mut placeless: Option<Instant> = None;
        loop {
            let nodes = self.nodes().await?;
            let all = self.tasks(&found.id).await?;
            let ready = self.spec.ready.timeout;
            match tasks::judge(&all, &nodes, force, replicas) {
                Progress::Up(up) => return Ok(up),
                Progress::Failed(task) => {
                    self.failed = Some(task.id.clone());
                    return Err(self.explain(&task, &[]).await);
                }
                Progress::Ending(n) if Instant::now() >= ends => {
                    return Err(SutError::Infrastructure(format!(
                        "{n} tasks of before the update don't end (docker service ps {})",
                        found.name
                    )));
                }
                Progress::Ending(_) => {}
                Progress::Starting { up, without_place } => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + ready);
                    match without_place {
                        None => placeless = None,
                        Some(why) if placeless.get_or_insert_with(Instant::now).elapsed() >= PLACE => {
                            return Err(self.no_place(found, &nodes, up, replicas, &why));
                        }
                        Some(_) => {}
                    }
                    if Instant::now() >= until {
                        let late = crate::units::show_duration(ready);
                        let what = format!("{up} of {replicas} tasks run after {late}");
                        return Err(config_error(Failure::NeverReady, what));
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A config that the swarm has no room for is infeasible; one that it had room for while all nodes were there is not.
    fn no_place(&self, found: &Found, nodes: &[Node], up: usize, replicas: u64, why: &str) -> SutError {
        let ready = nodes.iter().filter(|n| n.is_ready).count();
        let why = self.redact(why);
        if ready < found.ready {
            return SutError::Infrastructure(format!(
                "{why}, and {} of {} nodes are away",
                found.ready - ready,
                found.ready
            ));
        }
        config_error(
            Failure::NeverReady,
            format!("the swarm has no place for it: {up} of {replicas} tasks run, {why}"),
        )
    }

    /// Every address answers: each task's own, or the balancer's, again and again.
    async fn all_answer(&self, urls: &[String], tasks: usize) -> Result<(), String> {
        let since = Instant::now();
        let spec = &self.spec.ready;
        let waits = urls
            .iter()
            .map(|url| ready::wait(url, spec, since, async || Ok(())));
        for (url, done) in urls.iter().zip(futures_util::future::join_all(waits).await) {
            let seen = match done {
                Ok(()) => continue,
                Err(ready::NotReady::Late(seen)) => seen,
                Err(ready::NotReady::Ended(e)) => e.to_string(),
            };
            let late = crate::units::show_duration(spec.timeout);
            return Err(format!(
                "{} at {url} did not answer 2xx within {late} ({seen})",
                spec.path
            ));
        }
        let (Some(balancer), None) = (urls.first(), &self.target.task_url) else {
            return Ok(());
        };
        // Which task answers, a balancer does not say: that none of many requests fails is all that can be asked.
        let deadline = (since + spec.timeout).max(Instant::now() + NOTICE);
        let mut good = 0;
        while good < ROUNDS {
            match ready::round(balancer, spec, tasks.max(1) * ASKS).await {
                Ok(()) => good += 1,
                Err(seen) if Instant::now() >= deadline => {
                    return Err(format!(
                        "all tasks run, but the balancer at {balancer} does not pass {} on without failures ({seen})",
                        spec.path
                    ));
                }
                Err(_) => good = 0,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The containers of the tasks, where all of them are on this engine: figures of some of them would pass for all.
    async fn containers(&self, tasks: &[Task]) -> Vec<String> {
        let info = self.engine.info().await.unwrap_or_default();
        let here = info["Swarm"]["NodeID"].as_str().unwrap_or("?");
        match tasks.iter().all(|t| t.node == here && !t.container.is_empty()) {
            true => tasks.iter().map(|t| t.container.clone()).collect(),
            false => Vec::new(),
        }
    }

    /// A node that was ready before and is not any more, or does not answer.
    async fn lost_since(&self, before: &[Node]) -> Option<String> {
        let now = self.nodes().await.ok()?;
        let is_ready = |id: &str| now.iter().any(|n| n.id == id && n.is_ready);
        let lost = before.iter().find(|n| n.is_ready && !is_ready(&n.id))?;
        Some(format!(
            "node {} went away while the trial came up, which says nothing about the config",
            lost.name
        ))
    }
}
