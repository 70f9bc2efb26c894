//! The trials as a worker knows them. A closed trial never changes, so that each is read once by each worker, however
//! many asks follow; only what is open, or waits to be asked again, is looked at again.
//!
//! Probes of search trials stay in the database: nothing that decides on the next trial reads them, and ten thousand
//! trials with them would not fit beside a load generator.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use crate::trial::{Outcome, Probe, Trial, TrialPhase};

/// What was read so far.
#[derive(Default)]
pub(super) struct Cache {
    /// By number, without gaps. One that waits to be asked again shows as open: it is still to be measured.
    pub(super) trials: Vec<Trial>,
    /// Numbers of those that may still change.
    unsettled: Vec<i32>,
}

impl Cache {
    /// Reads what is new.
    pub(super) async fn refresh(&mut self, on: &mut PgConnection) -> Result<(), sqlx::Error> {
        let known = i32::try_from(self.trials.len()).unwrap_or(i32::MAX);
        let rows = sqlx::query(
            "SELECT number, phase, config, round, host, started_at, outcome, seconds, binding, again
             FROM trial WHERE number > $1 OR number = ANY($2) ORDER BY number",
        )
        .bind(known)
        .bind(&self.unsettled)
        .fetch_all(&mut *on)
        .await?;
        let mut read = Vec::with_capacity(rows.len());
        let mut unsettled = Vec::new();
        for row in &rows {
            let mut trial = trial_of(row)?;
            if row.try_get::<bool, _>(9)? {
                trial.outcome = None;
            }
            if trial.outcome.is_none() {
                unsettled.push(row.try_get::<i32, _>(0)?);
            }
            read.push(trial);
        }
        let with_probes: Vec<i32> = read
            .iter()
            .filter(|t| t.phase != TrialPhase::Search && t.outcome.is_some())
            .filter_map(|t| i32::try_from(t.number).ok())
            .collect();
        if !with_probes.is_empty() {
            add_probes(on, &mut read, &with_probes).await?;
        }
        for trial in read {
            let (place, known) = ((trial.number as usize).saturating_sub(1), self.trials.len());
            match self.trials.get_mut(place) {
                Some(old) => *old = trial,
                None if place == known => self.trials.push(trial),
                None => return Err(undecodable("a trial before it is missing")),
            }
        }
        self.unsettled = unsettled;
        Ok(())
    }
}

async fn add_probes(on: &mut PgConnection, trials: &mut [Trial], which: &[i32]) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT trial, data FROM probe WHERE trial = ANY($1) ORDER BY trial, number")
        .bind(which)
        .fetch_all(on)
        .await?;
    for row in &rows {
        put_probe(row, trials)?;
    }
    Ok(())
}

/// Puts the probe of a row (trial, data) where it belongs; `trials` are in order.
pub(super) fn put_probe(row: &PgRow, trials: &mut [Trial]) -> Result<(), sqlx::Error> {
    let number = unsigned(row.try_get(0)?)?;
    let probe: Probe = parsed(row.try_get(1)?)?;
    let found = trials.binary_search_by_key(&number, |t| t.number);
    match found.ok().and_then(|i| trials.get_mut(i)) {
        Some(t) => {
            t.probes.push(probe);
            Ok(())
        }
        None => Err(undecodable("a probe's trial is missing")),
    }
}

/// A trial of a row (number, phase, config, round, host, started_at, outcome, seconds, binding).
pub(super) fn trial_of(row: &PgRow) -> Result<Trial, sqlx::Error> {
    let outcome: Option<&str> = row.try_get(6)?;
    let round: Option<i32> = row.try_get(3)?;
    Ok(Trial {
        number: unsigned(row.try_get(0)?)?,
        phase: phase_of(row.try_get(1)?)?,
        config: parsed(row.try_get(2)?)?,
        round: round.map(unsigned).transpose()?,
        host: row.try_get(4)?,
        started_at: row.try_get(5)?,
        outcome: outcome.map(parsed::<Outcome>).transpose()?,
        seconds: row.try_get(7)?,
        binding: row.try_get(8)?,
        probes: Vec::new(),
    })
}

pub(super) fn phase_of(name: &str) -> Result<TrialPhase, sqlx::Error> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|e| undecodable(&e.to_string()))
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|e| undecodable(&e.to_string()))
}

pub(super) fn unsigned(n: i32) -> Result<u32, sqlx::Error> {
    u32::try_from(n).map_err(|e| undecodable(&e.to_string()))
}

fn undecodable(why: &str) -> sqlx::Error {
    sqlx::Error::Decode(why.to_owned().into())
}
