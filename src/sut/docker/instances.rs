//! The steps of a deployment that look at every instance: since when it runs, whether it is ready, whether it is what was
//! asked for. What distinguishes the instances is in `replicas`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value as Json;

use super::clone::{self, Limits};
use super::replicas::{self, Front};
use super::{DockerSut, LOOK_EVERY, typed, with_log};
use crate::sut::SutError;
use crate::trial::Failure;

impl DockerSut {
    /// Remembers since when each instance runs; what Docker says of each, the first one first.
    pub(super) async fn note_starts(&mut self) -> Result<Vec<Json>, SutError> {
        let mut seen = Vec::new();
        for live in self.live.iter().chain(&self.others) {
            seen.push(self.look_at(live).await?);
        }
        for (live, json) in self.live.iter_mut().chain(&mut self.others).zip(&seen) {
            let state = &json["State"];
            live.started_at = state["StartedAt"].as_str().unwrap_or_default().to_owned();
            live.pid = state["Pid"].as_u64().and_then(|p| u32::try_from(p).ok());
        }
        Ok(seen)
    }

    /// Waits until every instance is ready by itself, and the balancer, where there is one, uses all of them. The URLs that
    /// the load goes to.
    pub(super) async fn wait_all_ready(
        &mut self,
        base: &str,
        started: &[Json],
        ids: &[String],
        since: Instant,
    ) -> Result<Vec<String>, SutError> {
        let url = self.spec.url.clone();
        let front = replicas::front(&url, &self.known()?.inspect);
        let key = match &front {
            Front::Direct(key) => Some(key.as_str()),
            Front::Balancer(key) => key.as_deref(),
        };
        let is_local = self.engine.host().starts_with("unix://");
        let mut own: Vec<Option<String>> = started
            .iter()
            .map(|json| replicas::own_address(&url, key, json, is_local))
            .collect();
        if let (Front::Direct(_), Some(first)) = (&front, own.first_mut()) {
            *first = Some(base.to_owned());
        }
        let known: Vec<String> = own.iter().flatten().cloned().collect();
        let ready = tokio::select! {
            ready = replicas::wait_each(&known, &self.spec.ready, since) => ready,
            ended = self.until_it_ends() => return Err(ended),
        };
        if let Err((i, seen)) = ready {
            return Err(self.instance_not_ready(i, ids.len(), &seen).await);
        }
        if matches!(front, Front::Balancer(_)) {
            let balanced = tokio::select! {
                b = replicas::wait_balanced(&self.engine, base, ids, &self.spec.ready, since) => b,
                ended = self.until_it_ends() => return Err(ended),
            };
            balanced.map_err(SutError::Infrastructure)?;
        }
        Ok(replicas::load_urls(&front, base, &own))
    }

    /// Looks again and again; returns when something is wrong. Bounded by what it is raced with.
    async fn until_it_ends(&self) -> SutError {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(e) = self.look().await {
                return e;
            }
        }
    }

    async fn instance_not_ready(&self, index: usize, count: usize, seen: &str) -> SutError {
        // The last look may be older than its end.
        if let Err(e) = self.look().await {
            return e;
        }
        let id = self
            .live
            .iter()
            .chain(&self.others)
            .nth(index)
            .map(|l| l.id.clone());
        let what = format!(
            "instance {} of {count}: {} did not answer 2xx within {} ({seen})",
            index + 1,
            self.spec.ready.path,
            crate::units::show_duration(self.spec.ready.timeout)
        );
        SutError::Config {
            failure: Failure::NeverReady,
            detail: with_log(&what, &self.tail(&id.unwrap_or_default()).await),
        }
    }

    /// Proof that every instance is what was asked for.
    pub(super) async fn check_live(
        &self,
        env: &BTreeMap<String, String>,
        limits: Limits,
    ) -> Result<(), SutError> {
        for live in self.live.iter().chain(&self.others) {
            let now = typed(self.look_at(live).await?, &live.id)?;
            let missing = clone::missing(&now, env, limits);
            if !missing.is_empty() {
                return Err(SutError::Infrastructure(format!(
                    "docker started instance {} of the trial without what was asked: {}",
                    live.instance,
                    missing.join(", ")
                )));
            }
        }
        Ok(())
    }
}
