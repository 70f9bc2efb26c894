//! One trial: deploy, prove, measure, diagnose, take away; every probe on disk before the next.

use std::time::{Duration, Instant};

use super::measure::Cut;
use super::{MAX_INFRASTRUCTURE_FAULTS, Study};
use crate::agenda;
use crate::capacity::Capacity;
use crate::event::Event;
use crate::exit::{self, ExitError};
use crate::space::Config;
use crate::store::{Journal, NewTrial, StoreError, TrialEnd};
use crate::sut::{Sut, SutError};
use crate::trial::{Failure, Outcome, Trial, TrialPhase};

impl Study<'_> {
    /// Runs and records one trial. Errors end the run; bad results don't.
    pub(crate) async fn trial(
        &mut self,
        phase: TrialPhase,
        config: Config,
        round: Option<u32>,
    ) -> Result<(), ExitError> {
        let new = NewTrial {
            phase,
            config: config.clone(),
            round,
            host: self.host(),
        };
        let number = self.store.begin_trial(&new).await?;
        Box::pin(self.begun(number, new)).await
    }

    /// Runs and records a trial that the journal holds already.
    pub(crate) async fn begun(&mut self, number: u32, new: NewTrial) -> Result<(), ExitError> {
        let begun = Instant::now();
        let (phase, round) = (new.phase, new.round);
        let mut trial = Trial {
            number,
            phase,
            config: new.config,
            outcome: None,
            probes: Vec::new(),
            started_at: super::now_utc(),
            seconds: 0.0,
            round,
            host: new.host,
            binding: None,
        };
        let left = self.clock().left;
        self.sink.event(&Event::TrialStarted {
            number,
            phase,
            config: trial.config.clone(),
            left,
        });
        let mut stop = self.stop.clone();
        let cut = tokio::select! {
            biased;
            signal = stopped(&mut stop) => Err(Cut::Run(signal)),
            done = self.measure(&mut trial) => done,
        };
        let outcome = match cut {
            Ok(capacity) => Ok(judge_capacity(capacity)),
            Err(Cut::Outcome(o)) => Ok(o),
            Err(Cut::Run(e)) => Err(e),
            Err(Cut::Lost(why)) => return self.leave(why).await,
        };
        let ended = self.end_trial(trial, &outcome, begun).await;
        let outcome = outcome?;
        ended?;
        self.count_faults(&outcome).await
    }

    async fn end_trial(
        &mut self,
        mut trial: Trial,
        outcome: &Result<Outcome, ExitError>,
        begun: Instant,
    ) -> Result<(), ExitError> {
        let torn_down = self.sut.teardown().await;
        trial.seconds = begun.elapsed().as_secs_f64();
        let recorded = outcome.clone().unwrap_or(Outcome::Interrupted);
        trial.outcome = Some(recorded.clone());
        let end = TrialEnd {
            outcome: recorded,
            seconds: trial.seconds,
            binding: trial.binding.clone(),
        };
        match self.store.finish_trial(trial.number, &end).await {
            Err(StoreError::Lost(why)) => return self.leave(why).await,
            other => other?,
        }
        self.trials.push(trial.clone());
        let best_rps = agenda::incumbent(&self.trials).map(crate::units::Rps::get);
        self.sink.event(&Event::TrialFinished {
            trial: Box::new(trial),
            best_rps,
        });
        self.write_results().await?;
        if let Err(e @ (SutError::Refused { .. } | SutError::RestoreFailed { .. })) = torn_down {
            return Err(e.into());
        }
        Ok(())
    }

    /// A trial that is another worker's by now: what runs here is taken away, and the next trial is asked for.
    async fn leave(&mut self, why: String) -> Result<(), ExitError> {
        self.sink.event(&Event::Warning(why));
        if let Err(e @ (SutError::Refused { .. } | SutError::RestoreFailed { .. })) =
            self.sut.teardown().await
        {
            return Err(e.into());
        }
        Ok(())
    }

    /// Three infrastructure faults in a row end the run; before that, each waits longer than the last.
    async fn count_faults(&mut self, outcome: &Outcome) -> Result<(), ExitError> {
        let Outcome::Infrastructure { detail } = outcome else {
            self.faults_in_a_row = 0;
            return Ok(());
        };
        self.faults_in_a_row += 1;
        if self.faults_in_a_row >= MAX_INFRASTRUCTURE_FAULTS {
            return Err(ExitError::new(
                exit::UNAVAILABLE,
                format!("{MAX_INFRASTRUCTURE_FAULTS} infrastructure faults in a row, the last: {detail}"),
            ));
        }
        let wait = Duration::from_secs(5 * u64::from(self.faults_in_a_row).pow(2));
        self.sink.event(&Event::Warning(format!(
            "{detail}; trying again in {} s",
            wait.as_secs()
        )));
        let mut stop = self.stop.clone();
        tokio::select! {
            signal = stopped(&mut stop) => Err(signal),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    pub(crate) fn host(&self) -> String {
        if let Some(share) = &self.share {
            return share.host.clone();
        }
        self.facts
            .environment
            .get("host")
            .cloned()
            .unwrap_or_else(super::files::host_name)
    }
}

/// A config that sustains nothing is infeasible: its own kind of outcome.
fn judge_capacity(capacity: Capacity) -> Outcome {
    if capacity.verdict == crate::capacity::CapacityVerdict::None {
        let detail = capacity.reasons.join("; ");
        return Outcome::Failed {
            failure: Failure::NoCapacity,
            detail,
        };
    }
    Outcome::Measured { capacity }
}

/// Ends when a signal came; the exit code is 128 + its number.
pub(crate) async fn stopped(stop: &mut super::Stop) -> ExitError {
    let signal = match stop.wait_for(Option::is_some).await {
        Ok(s) => s.unwrap_or(2),
        Err(_) => return std::future::pending().await, // no sender: nothing can stop it
    };
    ExitError::new(
        128_u8.saturating_add(signal),
        "interrupted: the load is stopped, results so far are on disk; the same command resumes",
    )
}
