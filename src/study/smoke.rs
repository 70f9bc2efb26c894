//! The smoke test before any trial: every request of the mix, slowly. A broken request ends the run here, with the
//! table, instead of in the morning.

use std::time::Duration;

use super::Study;
use super::measure::generator;
use crate::event::Event;
use crate::exit::{self, ExitError};
use crate::load::Generator;
use crate::smoke::{MixRequest, Smoke, SmokeRow, judge_mix};
use crate::spec::StudySpec;
use crate::sut::{Deployment, Sut};

/// Samples of each request.
const SAMPLES: u32 = 3;
/// Between two samples: about one request a second over a mix of three.
const GAP: Duration = Duration::from_millis(300);
/// The kind under which a passed smoke test is journalled.
const KIND: &str = "smoke";

impl Study<'_> {
    /// Samples today's configuration; once a study.
    pub(crate) async fn smoke(&mut self) -> Result<(), ExitError> {
        use crate::store::Journal;
        if !self.store.events(KIND).await?.is_empty() {
            return Ok(());
        }
        let mut stop = self.stop.clone();
        let baseline = self.spec.space.baseline();
        let deployment = tokio::select! {
            biased;
            signal = super::run_trial::stopped(&mut stop) => return Err(signal),
            d = self.sut.deploy(0, &self.spec.space.parameters, &baseline) => d,
        }
        .map_err(|e| {
            ExitError::new(
                ExitError::from(e.clone()).code,
                format!("today's configuration does not come up as a trial: {e}"),
            )
        })?;
        if deployment.urls.iter().any(|u| u.starts_with("simulated://")) {
            return Ok(());
        }
        let smoke = tokio::select! {
            biased;
            signal = super::run_trial::stopped(&mut stop) => return Err(signal),
            s = sample(&self.spec, &deployment, self.meta.seed) => s?,
        };
        if !smoke.may_start() {
            let code = smoke.code().map_or(String::new(), |c| format!(" [{}]", c.name()));
            return Err(ExitError::new(
                exit::UNAVAILABLE,
                format!(
                    "the smoke test found what no tuning mends{code}: {}\n\n{}",
                    smoke.sentence,
                    smoke.table()
                ),
            ));
        }
        self.sink.event(&Event::Note(smoke.sentence.clone()));
        self.store
            .log(KIND, &serde_json::Value::String(smoke.sentence))
            .await?;
        Ok(())
    }
}

/// Samples what runs at `deployment` and judges it.
pub(crate) async fn sample(spec: &StudySpec, deployment: &Deployment, seed: u64) -> Result<Smoke, ExitError> {
    let load: Generator = generator(spec, deployment, seed)?;
    let rows = load
        .sample(SAMPLES, GAP)
        .await
        .map_err(|e| ExitError::new(exit::UNAVAILABLE, e.to_string()))?;
    let rows: Vec<SmokeRow> = rows
        .into_iter()
        .map(|r| SmokeRow {
            request: r.request,
            class: r.class,
            status: r.status,
            bytes: r.bytes,
            latency_ms: r.latency.as_secs_f64() * 1e3,
            first_bytes: if r.body.is_empty() {
                r.error.unwrap_or_default()
            } else {
                r.body
            },
        })
        .collect();
    let mix: Vec<MixRequest> = spec
        .load
        .iter()
        .flat_map(|l| &l.requests)
        .map(MixRequest::from)
        .collect();
    Ok(judge_mix(&rows, &mix))
}
