//! The smoke test before any trial: every request of the mix, slowly, then two rates. A broken request ends the run
//! here, with the table, instead of in the morning.

use std::ops::ControlFlow;
use std::time::Duration;

use super::Study;
use super::measure::generator;
use crate::capacity::{ProbePhase, ProbePlan};
use crate::event::Event;
use crate::exit::{self, ExitError};
use crate::load::Generator;
use crate::measurement::Measurement;
use crate::smoke::{MixRequest, Smoke, SmokeRow, SmokeVerdict, TwoRatesSaid, judge_mix, say_two_rates};
use crate::spec::{Secret, StudySpec};
use crate::sut::redact::Redactor;
use crate::sut::{Deployment, SutError};
use crate::units::Rps;

/// Characters of an answer that are kept.
const SHOWN: usize = 200;
/// Samples of each request.
const SAMPLES: u32 = 3;
/// Between two samples: about one request a second over a mix of three.
const GAP: Duration = Duration::from_millis(300);
/// Of each of the two rates.
const WINDOW: Duration = Duration::from_secs(3);
/// The kind under which a passed smoke test is journalled.
const KIND: &str = "smoke";

impl Study<'_> {
    /// Samples today's configuration; once a study.
    pub(crate) async fn smoke(&mut self) -> Result<(), ExitError> {
        use crate::store::Journal;
        // Of several hosts each has a service of its own.
        let kind = self
            .share
            .as_ref()
            .map_or(KIND.to_owned(), |s| format!("{KIND} on {}", s.host));
        if !self.store.events(&kind).await?.is_empty() {
            return Ok(());
        }
        let mut stop = self.stop.clone();
        let baseline = self.spec.space.baseline();
        let deployment = tokio::select! {
            biased;
            signal = super::run_trial::stopped(&mut stop) => return Err(signal),
            d = self.deploy(0, &baseline) => d,
        }
        .map_err(|e| {
            let remedy = match &e {
                SutError::Config { failure, .. } => format!("\n{}", failure.remedy()),
                _ => String::new(),
            };
            ExitError::new(
                ExitError::from(e.clone()).code,
                format!("today's configuration does not come up as a trial: {e}{remedy}"),
            )
        })?;
        if deployment.urls.iter().any(|u| u.starts_with("simulated://")) {
            return Ok(());
        }
        let (smoke, rates) = tokio::select! {
            biased;
            signal = super::run_trial::stopped(&mut stop) => return Err(signal),
            s = both(&self.spec, &deployment, self.meta.seed, &self.facts.secrets) => s?,
        };
        stop_where_nothing_can_be_measured(&smoke, rates.as_ref())?;
        self.sink.event(&Event::Note(smoke.sentence.clone()));
        let mut lines = vec![smoke.sentence];
        if let Some(said) = rates {
            if said.code.is_some() {
                self.warn_once(vec![said.sentence.clone()]).await;
            } else {
                self.sink.event(&Event::Note(said.sentence.clone()));
            }
            lines.push(said.sentence);
        }
        self.store
            .log(&kind, &serde_json::Value::String(lines.join("; ")))
            .await?;
        Ok(())
    }
}

/// A broken mix ends the run with 65, a service that fails or refuses without load with 69; the message has the table.
fn stop_where_nothing_can_be_measured(smoke: &Smoke, rates: Option<&TwoRatesSaid>) -> Result<(), ExitError> {
    let code = |c: Option<crate::diagnosis::Code>| {
        c.map_or(String::new(), |c| format!(" [{} {}]", c.id(), c.name()))
    };
    let second = rates.filter(|r| r.stops);
    if !smoke.may_start() {
        let also = second.map_or(String::new(), |r| format!("\n{}", r.sentence));
        return Err(ExitError::new(
            smoke.exit_code(),
            format!(
                "the smoke test found what no tuning mends{}: {}\n\n{}{also}",
                code(smoke.code()),
                smoke.sentence,
                smoke.table()
            ),
        ));
    }
    let Some(rates) = second else { return Ok(()) };
    let exit = match rates.code {
        Some(crate::diagnosis::Code::BrokenMix) => exit::DATA,
        _ => exit::UNAVAILABLE,
    };
    Err(ExitError::new(
        exit,
        format!(
            "the smoke test found what no tuning mends{}: {}\n\n{}",
            code(rates.code),
            rates.sentence,
            smoke.table()
        ),
    ))
}

/// The slow samples, and the two rates unless nothing answers as it should.
async fn both(
    spec: &StudySpec,
    deployment: &Deployment,
    seed: u64,
    secrets: &[Secret],
) -> Result<(Smoke, Option<TwoRatesSaid>), ExitError> {
    let load = generator(spec, deployment, seed)?;
    let smoke = sample(spec, &load, GAP, secrets).await?;
    if matches!(
        smoke.verdict,
        SmokeVerdict::Failing { .. } | SmokeVerdict::Limited { .. }
    ) {
        return Ok((smoke, None));
    }
    let [low, high] = two_rates(spec.capacity.start, spec.capacity.max);
    if high.get() < 1.5 * low.get() {
        return Ok((smoke, None));
    }
    let (low, high) = (offer(&load, low).await?, offer(&load, high).await?);
    let said = say_two_rates(&low, &high, spec.slo.errors.get());
    Ok((smoke, Some(said)))
}

/// A quarter and twice the rate that the search would begin with, within what a service in production stands.
fn two_rates(start: Option<Rps>, max: Rps) -> [Rps; 2] {
    let start = start.map_or(50.0, Rps::get);
    [
        Rps::saturating((start / 4.0).clamp(10.0, 25.0).min(max.get())),
        Rps::saturating((start * 2.0).clamp(40.0, 200.0).min(max.get())),
    ]
}

async fn offer(load: &Generator, rate: Rps) -> Result<Measurement, ExitError> {
    let plan = ProbePlan {
        drain: Duration::from_secs(10),
        ..ProbePlan::new(ProbePhase::Idle, rate, WINDOW)
    };
    load.drive(&plan, &mut |_| ControlFlow::Continue(()))
        .await
        .map_err(|e| ExitError::new(exit::UNAVAILABLE, e.to_string()))
}

/// Samples every request of the mix, `gap` between two requests, and judges. Bodies of errors like to quote a database URL:
/// the values of the service's environment (`secrets`) and of the file are masked before anything is cut.
pub(crate) async fn sample(
    spec: &StudySpec,
    load: &Generator,
    gap: Duration,
    secrets: &[Secret],
) -> Result<Smoke, ExitError> {
    let redactor = Redactor::of(secrets.iter().chain(&spec.secrets));
    let rows = load
        .sample(SAMPLES, gap)
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
            first_bytes: {
                let said = if r.body.is_empty() {
                    r.error.unwrap_or_default()
                } else {
                    r.body
                };
                redactor.text(&said).chars().take(SHOWN).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_rates_lie_apart_and_stay_moderate() {
        let of = |start: Option<f64>, max: f64| {
            two_rates(start.map(Rps::saturating), Rps::saturating(max)).map(|r| r.to_string())
        };
        assert_eq!(of(Some(100.0), 1e3), ["25.0 rps", "200 rps"]);
        assert_eq!(of(None, 1e3), ["12.5 rps", "100 rps"]);
        assert_eq!(of(Some(4000.0), 1e4), ["25.0 rps", "200 rps"]);
        assert_eq!(of(Some(40.0), 30.0), ["10.0 rps", "30.0 rps"]);
    }
}
