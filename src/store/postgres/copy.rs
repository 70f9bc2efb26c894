//! A copy of a shared study in a worker's own folder: closed trials and events, as they stand. Every command that reads a
//! folder reads it, and it stays when the database is gone.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::Postgres;
use super::session::limited;
use crate::store::sqlite::{Copied, EventRow, ProbeRow, TrialRow};
use crate::store::{Journal, Sqlite, StoreError, kinds};

/// Trials that are read and written at a time.
const BATCH: usize = 100;
/// Events become visible in another order than they are numbered: so many before the last are read again.
const OVERLAP: i64 = 1_000;

impl Postgres {
    /// Brings `to` up to date; trials that are open are left out. Errors where `to` holds another study.
    pub async fn copy_into(&self, to: &Sqlite) -> Result<(), StoreError> {
        let Some(meta) = self.meta().await? else {
            return Ok(());
        };
        match to.meta().await? {
            None => {
                to.create(&meta).await?;
                to.put_origin(kinds::COPY_OF, self.place()).await?;
            }
            Some(there) if there == meta => {}
            Some(_) => {
                return Err(StoreError::Unreadable(format!(
                    "{} holds another study; nothing was changed: name another folder with --results",
                    to.path().display()
                )));
            }
        }
        let known = to.copied().await?;
        let closed = self.closed(&known).await?;
        for batch in closed.chunks(BATCH) {
            let (trials, probes) = self.rows(batch).await?;
            to.put_trials(&trials, &probes).await?;
        }
        let events = self.events_after(known.last_event - OVERLAP).await?;
        to.put_events(&events).await
    }

    /// Numbers of closed trials that `known` lacks.
    async fn closed(&self, known: &Copied) -> Result<Vec<i32>, StoreError> {
        let (doing, mut pace) = ("be copied", self.pace());
        let there: HashSet<i64> = known.trials.iter().copied().collect();
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query = sqlx::query_scalar::<_, i32>(
                "SELECT number FROM trial WHERE outcome IS NOT NULL ORDER BY number",
            );
            let done = limited(query.fetch_all(&mut s.connection)).await;
            if let Some(all) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(all
                    .into_iter()
                    .filter(|n| !there.contains(&i64::from(*n)))
                    .collect());
            }
        }
    }

    async fn rows(&self, which: &[i32]) -> Result<(Vec<TrialRow>, Vec<ProbeRow>), StoreError> {
        let (doing, mut pace) = ("be copied", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let done = limited(read(&mut s.connection, which)).await;
            if let Some(rows) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(rows);
            }
        }
    }

    async fn events_after(&self, id: i64) -> Result<Vec<EventRow>, StoreError> {
        let (doing, mut pace) = ("be copied", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query =
                sqlx::query("SELECT id, at, kind, detail FROM event WHERE id > $1 ORDER BY id").bind(id);
            let done = limited(query.fetch_all(&mut s.connection)).await;
            let done = done.and_then(|rows| rows.iter().map(event_of).collect::<Result<Vec<_>, _>>());
            if let Some(rows) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(rows);
            }
        }
    }
}

async fn read(on: &mut PgConnection, which: &[i32]) -> Result<(Vec<TrialRow>, Vec<ProbeRow>), sqlx::Error> {
    let trials = sqlx::query(
        "SELECT number, phase, config, round, host, started_at, outcome, seconds, binding
         FROM trial WHERE number = ANY($1) ORDER BY number",
    )
    .bind(which)
    .fetch_all(&mut *on)
    .await?;
    let probes = sqlx::query(
        "SELECT trial, number, data, histograms FROM probe WHERE trial = ANY($1) ORDER BY trial, number",
    )
    .bind(which)
    .fetch_all(on)
    .await?;
    Ok((
        trials.iter().map(trial_row).collect::<Result<_, _>>()?,
        probes.iter().map(probe_row).collect::<Result<_, _>>()?,
    ))
}

fn trial_row(r: &PgRow) -> Result<TrialRow, sqlx::Error> {
    Ok(TrialRow {
        number: r.try_get::<i32, _>(0)?.into(),
        phase: r.try_get(1)?,
        config: r.try_get(2)?,
        round: r.try_get::<Option<i32>, _>(3)?.map(i64::from),
        host: r.try_get(4)?,
        started_at: r.try_get(5)?,
        outcome: r.try_get(6)?,
        seconds: r.try_get(7)?,
        binding: r.try_get(8)?,
    })
}

fn probe_row(r: &PgRow) -> Result<ProbeRow, sqlx::Error> {
    Ok(ProbeRow {
        trial: r.try_get::<i32, _>(0)?.into(),
        number: r.try_get::<i32, _>(1)?.into(),
        data: r.try_get(2)?,
        histograms: r.try_get(3)?,
    })
}

fn event_of(r: &PgRow) -> Result<EventRow, sqlx::Error> {
    Ok(EventRow {
        id: r.try_get(0)?,
        at: r.try_get(1)?,
        kind: r.try_get(2)?,
        detail: r.try_get(3)?,
    })
}
