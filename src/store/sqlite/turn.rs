//! Several processes on one journal: whoever makes it waits for the other, and a trial that is chosen from what the
//! journal holds is begun in the transaction that read it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{Sqlite, json, now};
use crate::space::Config;
use crate::store::{NewTrial, StoreError};
use crate::trial::Trial;

/// Between two attempts at a lock.
const PAUSE: Duration = Duration::from_millis(5);

/// A folder that this process has to itself among all that ask for it. The kernel ends it with the process.
#[derive(Debug)]
pub struct Turn {
    _folder: fs::File,
}

/// Waits at most `longest` for the folder. For short sections that SQLite's own locks do not cover: making the file,
/// migrating it, the first facts of a study.
pub async fn turn(dir: &Path, longest: Duration) -> Result<Turn, StoreError> {
    let folder = fs::File::open(dir).map_err(|e| super::errors::io_error(dir, "open", &e))?;
    let begun = Instant::now();
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if begun.elapsed() < longest => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked(format!(
                    "another process has worked on {} for {} s: end it, or try again later",
                    dir.display(),
                    longest.as_secs()
                )));
            }
            // A file system without such locks (some network ones): SQLite's own are what is left.
            Ok(()) | Err(_) => return Ok(Turn { _folder: folder }),
        }
    }
}

impl Sqlite {
    /// Waits up to `longest` for other writers from now on, instead of the usual ten seconds.
    pub async fn wait_for_writers(&self, longest: Duration) -> Result<(), StoreError> {
        let ms = longest.as_millis().min(600_000);
        sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA busy_timeout = {ms}")))
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|e| self.error("be prepared", &e))
    }

    /// Begins the trial that `choose` makes of all trials so far, and gives its number and config; nothing is begun where it
    /// makes none. Between the reading and the writing nobody else writes, so that two processes never choose from the
    /// same trials.
    pub async fn begin_next<T>(
        &self,
        choose: impl FnOnce(&[Trial]) -> Result<NewTrial, T> + Send,
    ) -> Result<Result<(u32, Config), T>, StoreError> {
        let what = "begin a trial";
        let mut tx = self
            .pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|e| self.error(what, &e))?;
        let trials = self.read_trials(&mut tx).await?;
        let trial = match choose(&trials) {
            Ok(trial) => trial,
            Err(none) => return Ok(Err(none)),
        };
        let number = trials.last().map_or(0, |t| t.number).saturating_add(1);
        sqlx::query(
            "INSERT INTO trial (number, phase, config, round, host, started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(number)
        .bind(trial.phase.name())
        .bind(json("the config", &trial.config)?)
        .bind(trial.round)
        .bind(&trial.host)
        .bind(now())
        .execute(&mut *tx)
        .await
        .map_err(|e| self.error(what, &e))?;
        tx.commit().await.map_err(|e| self.error(what, &e))?;
        Ok(Ok((number, trial.config)))
    }
}
