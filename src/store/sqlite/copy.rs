//! Rows of a study whose journal is elsewhere, put here as they are: a copy to read from.

use super::{Sqlite, now};
use crate::store::StoreError;

/// A closed trial's row.
#[derive(Debug)]
pub(in crate::store) struct TrialRow {
    pub(in crate::store) number: i64,
    pub(in crate::store) phase: String,
    pub(in crate::store) config: String,
    pub(in crate::store) round: Option<i64>,
    pub(in crate::store) host: String,
    pub(in crate::store) started_at: String,
    pub(in crate::store) outcome: Option<String>,
    pub(in crate::store) seconds: f64,
    pub(in crate::store) binding: Option<String>,
}

/// A probe's row.
#[derive(Debug)]
pub(in crate::store) struct ProbeRow {
    pub(in crate::store) trial: i64,
    pub(in crate::store) number: i64,
    pub(in crate::store) data: String,
    pub(in crate::store) histograms: Option<Vec<u8>>,
}

/// An event's row.
#[derive(Debug)]
pub(in crate::store) struct EventRow {
    pub(in crate::store) id: i64,
    pub(in crate::store) at: String,
    pub(in crate::store) kind: String,
    pub(in crate::store) detail: String,
}

/// What a copy holds already.
#[derive(Debug)]
pub(in crate::store) struct Copied {
    pub(in crate::store) trials: Vec<i64>,
    pub(in crate::store) last_event: i64,
}

impl Sqlite {
    /// What is here.
    pub(in crate::store) async fn copied(&self) -> Result<Copied, StoreError> {
        let trials = sqlx::query_scalar("SELECT number FROM trial")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.error("be read", &e))?;
        let last_event = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM event")
            .fetch_one(&self.pool)
            .await
            .map_err(|e| self.error("be read", &e))?;
        Ok(Copied { trials, last_event })
    }

    /// Says where the study itself is, in an event that no copied one can have the number of.
    pub(in crate::store) async fn put_origin(&self, kind: &str, place: &str) -> Result<(), StoreError> {
        let origin = EventRow {
            id: 0,
            at: now(),
            kind: kind.to_owned(),
            detail: serde_json::Value::String(place.to_owned()).to_string(),
        };
        self.put_events(&[origin]).await
    }

    /// Adds trials and their probes, all or none.
    pub(in crate::store) async fn put_trials(
        &self,
        trials: &[TrialRow],
        probes: &[ProbeRow],
    ) -> Result<(), StoreError> {
        let said = |e: sqlx::Error| self.error("take a copy", &e);
        let mut tx = self.pool.begin().await.map_err(said)?;
        for t in trials {
            sqlx::query(
                "INSERT OR IGNORE INTO trial (number, phase, config, round, host, started_at, outcome, seconds, binding)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .bind(t.number)
            .bind(&t.phase)
            .bind(&t.config)
            .bind(t.round)
            .bind(&t.host)
            .bind(&t.started_at)
            .bind(&t.outcome)
            .bind(t.seconds)
            .bind(&t.binding)
            .execute(&mut *tx)
            .await
            .map_err(said)?;
        }
        for p in probes {
            sqlx::query(
                "INSERT OR IGNORE INTO probe (trial, number, data, histograms) VALUES (?1, ?2, ?3, ?4)",
            )
            .bind(p.trial)
            .bind(p.number)
            .bind(&p.data)
            .bind(&p.histograms)
            .execute(&mut *tx)
            .await
            .map_err(said)?;
        }
        tx.commit().await.map_err(said)
    }

    /// Adds events, all or none.
    pub(in crate::store) async fn put_events(&self, events: &[EventRow]) -> Result<(), StoreError> {
        let said = |e: sqlx::Error| self.error("take a copy", &e);
        let mut tx = self.pool.begin().await.map_err(said)?;
        for e in events {
            sqlx::query("INSERT OR IGNORE INTO event (id, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")
                .bind(e.id)
                .bind(&e.at)
                .bind(&e.kind)
                .bind(&e.detail)
                .execute(&mut *tx)
                .await
                .map_err(said)?;
        }
        tx.commit().await.map_err(said)
    }
}
