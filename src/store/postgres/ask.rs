//! Which trial is a worker's next: one that was given back, or one that is chosen from all that the journal holds. And
//! the giving back of trials whose worker is gone.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use super::cache::{parsed, phase_of, put_probe, trial_of, unsigned};
use super::session::{ASKING, Session, State, limited};
use super::{Postgres, json, now, signed};
use crate::space::Config;
use crate::store::{NewTrial, StoreError};
use crate::trial::{Outcome, Trial, TrialPhase};

/// A trial that this worker holds from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// Its number.
    pub number: u32,
    /// Part of the run.
    pub phase: TrialPhase,
    /// Config to deploy.
    pub config: Config,
    /// Round of the finals.
    pub round: Option<u32>,
    /// The trial that was cut off and is asked again by this one.
    pub repeats: Option<u32>,
}

/// A row to insert.
struct NewRow<'a> {
    phase: &'a str,
    config: &'a str,
    round: Option<i32>,
    repeats: Option<i32>,
}

/// Who asks.
struct Asker<'a> {
    host: &'a str,
    worker: &'a str,
    claim: &'a str,
}

impl Postgres {
    /// The next trial for this worker on `host`: one that another was cut off from, else the one that `choose` makes of all
    /// trials so far, those of other workers shown as open; nothing is begun where it makes none. `choose` may be called
    /// again when the connection was lost, and must give the same for the same trials.
    ///
    /// Trials as `choose` sees them have their probes, unless they are of the search.
    pub async fn begin_next<T>(
        &self,
        host: &str,
        choose: impl Fn(&[Trial]) -> Result<NewTrial, T>,
    ) -> Result<Result<Begun, T>, StoreError> {
        let (doing, mut pace, claim) = ("be asked for a trial", self.pace(), self.claim());
        let asker = Asker {
            host,
            worker: &self.worker,
            claim: &claim,
        };
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let done = limited(attempt(&mut s, &asker, pace.is_again(), &choose)).await;
            if let Some(found) = self.settle(s, done, &mut pace, doing).await? {
                return found;
            }
        }
    }

    /// What `read` makes of all trials, as an ask would see them.
    pub async fn known<T>(&self, read: impl Fn(&[Trial]) -> T) -> Result<T, StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let Session { state, connection } = &mut s;
            let done = limited(state.cache.refresh(connection)).await;
            let found = done.map(|()| read(&s.state.cache.trials));
            if let Some(found) = self.settle(s, found, &mut pace, doing).await? {
                return Ok(found);
            }
        }
    }

    /// Begins `trial`, whatever the others do.
    pub(super) async fn begin(&self, trial: &NewTrial) -> Result<u32, StoreError> {
        let config = json("the config", &trial.config)?;
        let (doing, mut pace, claim) = ("begin a trial", self.pace(), self.claim());
        let asker = Asker {
            host: &trial.host,
            worker: &self.worker,
            claim: &claim,
        };
        let row = NewRow {
            phase: trial.phase.name(),
            config: &config,
            round: trial.round.map(signed),
            repeats: None,
        };
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let done = limited(begin_once(&mut s, &asker, &row, pace.is_again())).await;
            if let Some(number) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(number);
            }
        }
    }
}

async fn begin_once(
    s: &mut Session<'_>,
    asker: &Asker<'_>,
    row: &NewRow<'_>,
    is_again: bool,
) -> Result<u32, sqlx::Error> {
    let Session { state, connection } = s;
    if is_again && let Some(begun) = claimed(state, connection, asker).await? {
        return Ok(begun.number);
    }
    let number = insert(connection, state.class, asker, row).await?;
    state.held.push(number);
    unsigned(number)
}

async fn attempt<T>(
    s: &mut Session<'_>,
    asker: &Asker<'_>,
    is_again: bool,
    choose: &impl Fn(&[Trial]) -> Result<NewTrial, T>,
) -> Result<Result<Result<Begun, T>, StoreError>, sqlx::Error> {
    let Session { state, connection } = s;
    let state: &mut State = state;
    if is_again && let Some(begun) = claimed(state, connection, asker).await? {
        return Ok(Ok(Ok(begun)));
    }
    give_back_dead(connection, state.class, asker.worker).await?;
    let mut tx = connection.begin().await?;
    if let Some(begun) = take_over(&mut tx, state.class, asker).await? {
        tx.commit().await?;
        state.held.push(signed(begun.number));
        return Ok(Ok(Ok(begun)));
    }
    // From here to the end of the transaction nobody else asks.
    sqlx::query("SELECT pg_advisory_xact_lock($1, $2)")
        .bind(state.class)
        .bind(ASKING)
        .execute(&mut *tx)
        .await?;
    state.cache.refresh(&mut tx).await?;
    let new = match choose(&state.cache.trials) {
        Ok(new) => new,
        Err(none) => {
            tx.rollback().await?;
            return Ok(Ok(Err(none)));
        }
    };
    let config = match json("the config", &new.config) {
        Ok(text) => text,
        Err(e) => {
            tx.rollback().await?;
            return Ok(Err(e));
        }
    };
    let row = NewRow {
        phase: new.phase.name(),
        config: &config,
        round: new.round.map(signed),
        repeats: None,
    };
    let number = insert(&mut tx, state.class, asker, &row).await?;
    tx.commit().await?;
    state.held.push(number);
    Ok(Ok(Ok(Begun {
        number: unsigned(number)?,
        phase: new.phase,
        config: new.config,
        round: new.round,
        repeats: None,
    })))
}

/// What an attempt whose answer was lost began, held again.
async fn claimed(
    state: &mut State,
    on: &mut PgConnection,
    asker: &Asker<'_>,
) -> Result<Option<Begun>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT number, phase, config, round, repeats, pg_try_advisory_lock($1, number)
         FROM trial WHERE claim = $2 AND outcome IS NULL",
    )
    .bind(state.class)
    .bind(asker.claim)
    .fetch_optional(on)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let number: i32 = row.try_get(0)?;
    state.held.push(number);
    let round: Option<i32> = row.try_get(3)?;
    let repeats: Option<i32> = row.try_get(4)?;
    Ok(Some(Begun {
        number: unsigned(number)?,
        phase: phase_of(row.try_get(1)?)?,
        config: parsed(row.try_get(2)?)?,
        round: round.map(unsigned).transpose()?,
        repeats: repeats.map(unsigned).transpose()?,
    }))
}

/// Closes open trials whose lock is free: their worker is gone. Rows that somebody else is at are passed over.
async fn give_back_dead(on: &mut PgConnection, class: i32, worker: &str) -> Result<(), sqlx::Error> {
    let cut_off = serde_json::to_string(&Outcome::Interrupted).unwrap_or_default();
    sqlx::query(
        "WITH open AS MATERIALIZED (
             SELECT number FROM trial WHERE outcome IS NULL AND worker <> $2 FOR UPDATE SKIP LOCKED),
         dead AS MATERIALIZED (
             SELECT number FROM open WHERE pg_try_advisory_xact_lock($1, number))
         UPDATE trial SET outcome = $3, again = phase IN ('search', 'knob')
         WHERE number IN (SELECT number FROM dead)",
    )
    .bind(class)
    .bind(worker)
    .bind(cut_off)
    .execute(on)
    .await
    .map(drop)
}

/// A trial that was given back, begun again by this worker.
async fn take_over(
    on: &mut PgConnection,
    class: i32,
    asker: &Asker<'_>,
) -> Result<Option<Begun>, sqlx::Error> {
    let row = sqlx::query(
        "UPDATE trial SET again = false
         WHERE number = (SELECT number FROM trial WHERE again ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING number, phase, config, round",
    )
    .fetch_optional(&mut *on)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let old: i32 = row.try_get(0)?;
    let (phase, config, round): (&str, &str, Option<i32>) =
        (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    let new = NewRow {
        phase,
        config,
        round,
        repeats: Some(old),
    };
    let number = insert(on, class, asker, &new).await?;
    Ok(Some(Begun {
        number: unsigned(number)?,
        phase: phase_of(phase)?,
        config: parsed(config)?,
        round: round.map(unsigned).transpose()?,
        repeats: Some(unsigned(old)?),
    }))
}

/// Numbers a trial, writes it and locks it. The lock is there before anybody can see the row.
async fn insert(
    on: &mut PgConnection,
    class: i32,
    asker: &Asker<'_>,
    row: &NewRow<'_>,
) -> Result<i32, sqlx::Error> {
    sqlx::query_as::<_, (i32, bool)>(
        "WITH next AS (UPDATE counter SET trials = trials + 1 WHERE id = 1 RETURNING trials),
         begun AS (
             INSERT INTO trial (number, phase, config, round, host, started_at, worker, claim, repeats)
             SELECT trials, $2, $3, $4, $5, $6, $7, $8, $9 FROM next RETURNING number)
         SELECT number, pg_try_advisory_lock($1, number) FROM begun",
    )
    .bind(class)
    .bind(row.phase)
    .bind(row.config)
    .bind(row.round)
    .bind(asker.host)
    .bind(now())
    .bind(asker.worker)
    .bind(asker.claim)
    .bind(row.repeats)
    .fetch_one(on)
    .await
    .map(|(number, _)| number)
}

/// Every trial with its probes, as they were at one moment.
pub(super) async fn all_trials(on: &mut PgConnection) -> Result<Vec<Trial>, sqlx::Error> {
    let mut tx = on.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *tx)
        .await?;
    let rows = sqlx::query(
        "SELECT number, phase, config, round, host, started_at, outcome, seconds, binding FROM trial ORDER BY number",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut trials = rows.iter().map(trial_of).collect::<Result<Vec<_>, _>>()?;
    let probes = sqlx::query("SELECT trial, data FROM probe ORDER BY trial, number")
        .fetch_all(&mut *tx)
        .await?;
    for row in &probes {
        put_probe(row, &mut trials)?;
    }
    tx.commit().await?;
    Ok(trials)
}
