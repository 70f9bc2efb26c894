//! The journal in SQLite: `study.db` in the study's folder, WAL, synchronous FULL. A call that returned is
//! on disk; a process killed at any moment leaves a journal that opens again with everything acknowledged.
//!
//! A file that is not ours, damaged, or from a newer version is refused with a sentence before anything is
//! written to it.

mod copy;
mod errors;
mod open;
mod turn;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteJournalMode, SqlitePool, SqliteQueryResult, SqliteSynchronous};

pub(in crate::store) use self::copy::{Copied, EventRow, ProbeRow, TrialRow};
use self::errors::{migrate_error, sql_error};
use self::open::{BUSY, connect, inspect, make_file, make_folder, migrator, options};
pub use self::turn::{Turn, turn};
use super::{Journal, NewTrial, StoreError, StudyMeta, TrialEnd, histograms};
use crate::measurement::Histograms;
use crate::trial::{Probe, Trial};

/// The journal's file inside a study's folder.
pub const JOURNAL_FILE: &str = "study.db";
/// Longest event, bytes of JSON.
const MAX_EVENT: usize = 256 * 1024;

/// What an injected fault does to one journal write. Only tests set one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing: write.
    Go,
    /// An I/O error; nothing is written.
    Fail,
    /// Written, and reported as an I/O error: the answer was lost.
    FailAfter,
    /// SIGKILL before the write.
    KillBefore,
    /// SIGKILL when the write is on disk.
    KillAfter,
}

/// Builds for development take the fault of one write from here, "7 kill_after", so that a whole run of the tool can be
/// killed at any write. A release knows nothing of it.
#[cfg(debug_assertions)]
const FAULT_VARIABLE: &str = "AUTOTUNE_TEST_JOURNAL_FAULT";

/// Decides on the write with this number (from 1, counted over the life of one journal).
pub type WriteHook = Arc<dyn Fn(u64) -> WriteFault + Send + Sync>;

/// A study's journal in `study.db`.
#[derive(Clone)]
pub struct Sqlite {
    pool: SqlitePool,
    path: PathBuf,
    writes: Arc<AtomicU64>,
    hook: Option<WriteHook>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Sqlite {
    /// Opens the journal in `dir`, making the folder (0700) and the file (0600) where they are missing.
    ///
    /// Errors: [`StoreError::Unreadable`] for a file that is damaged, foreign or newer, [`StoreError::Io`] for
    /// a folder or disk that cannot be written, [`StoreError::Locked`] when somebody holds the database.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(JOURNAL_FILE);
        make_folder(dir)?;
        // Two processes that make the same journal at once: migrations are not made for that.
        let _turn = turn(dir, BUSY).await?;
        if !make_file(&path)? {
            inspect(&path).await?;
        }
        let options = options(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let pool = connect(&path, options).await?;
        if let Err(e) = migrator().run(&pool).await {
            pool.close().await;
            return Err(migrate_error(&path, e));
        }
        Ok(Self::on(pool, path))
    }

    /// Opens the journal in `dir` for reading alone, also beside a running study and on a read-only disk.
    pub async fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(JOURNAL_FILE);
        if !path.is_file() {
            return Err(StoreError::Missing(format!(
                "there is no study in {}: it has no {JOURNAL_FILE}",
                dir.display()
            )));
        }
        let pool = inspect(&path).await?;
        Ok(Self::on(pool, path))
    }

    fn on(pool: SqlitePool, path: PathBuf) -> Self {
        Self {
            pool,
            path,
            writes: Arc::new(AtomicU64::new(0)),
            hook: hook_from_env(),
        }
    }

    /// The same journal with faults injected into its writes, for tests of what follows from them.
    #[must_use]
    pub fn with_faults(mut self, hook: WriteHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Writes begun so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folds the write-ahead log into the file and lets go of it. Leaving it out loses nothing.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Trials begun.
    pub async fn trial_count(&self) -> Result<u32, StoreError> {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM trial")
            .fetch_one(&self.pool)
            .await
            .map_err(|e| self.error("count its trials", &e))?;
        u32::try_from(n).map_err(|e| self.unreadable("trial", &e.to_string()))
    }

    /// A number that changes when a trial begins or ends, or an event is added: what a live page polls. Probes
    /// do not count: drawing the page at each would take CPU from the measurement.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM trial) + (SELECT count(*) FROM trial WHERE outcome IS NOT NULL)
                  + (SELECT count(*) FROM event)",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|e| self.error("be read", &e))
    }

    /// One numbered write: the fault that is due, then `query`, durable when it returns.
    async fn write(&self, what: &str, query: Query<'_>) -> Result<SqliteQueryResult, StoreError> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = self.hook.as_ref().map_or(WriteFault::Go, |hook| hook(number));
        let injected = || StoreError::Io(format!("injected fault at journal write {number} ({what})"));
        match fault {
            WriteFault::Fail => return Err(injected()),
            WriteFault::KillBefore => die(),
            WriteFault::Go | WriteFault::FailAfter | WriteFault::KillAfter => {}
        }
        // One statement is one transaction, and synchronous FULL syncs the log before it returns.
        let done = query
            .execute(&self.pool)
            .await
            .map_err(|e| self.error(what, &e))?;
        match fault {
            WriteFault::FailAfter => Err(injected()),
            WriteFault::KillAfter => die(),
            _ => Ok(done),
        }
    }

    fn error(&self, doing: &str, e: &sqlx::Error) -> StoreError {
        sql_error(&self.path, doing, e)
    }

    fn unreadable(&self, what: &str, why: &str) -> StoreError {
        StoreError::Unreadable(format!(
            "{}: a {what} in it cannot be read: {why}; keep the file and begin again with --fresh",
            self.path.display()
        ))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|e| self.unreadable(what, &e.to_string()))
    }

    /// Why a write to an open trial changed nothing.
    async fn refuse(&self, trial: u32, what: &str) -> StoreError {
        let state = sqlx::query(
            "SELECT outcome IS NOT NULL, (SELECT count(*) FROM probe WHERE trial = t.number)
             FROM trial t WHERE number = ?1",
        )
        .bind(trial)
        .fetch_optional(&self.pool)
        .await;
        match state {
            Err(e) => self.error(what, &e),
            Ok(None) => StoreError::Conflict(format!("could not {what}: there is no trial {trial}")),
            Ok(Some(row)) => {
                let closed = row.try_get::<bool, _>(0).unwrap_or(false);
                let probes = row.try_get::<i64, _>(1).unwrap_or(0);
                StoreError::Conflict(if closed {
                    format!("could not {what}: trial {trial} is closed already")
                } else {
                    format!(
                        "could not {what}: the next probe of trial {trial} is {}",
                        probes + 1
                    )
                })
            }
        }
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// JSON of `value`, checked to read back as the same: a number that JSON cannot hold (not-a-number, infinity)
/// would otherwise make the whole study unreadable.
pub(in crate::store) fn json<T>(what: &str, value: &T) -> Result<String, StoreError>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let text = serde_json::to_string(value).map_err(|e| StoreError::Conflict(format!("{what}: {e}")))?;
    serde_json::from_str::<T>(&text)
        .map_err(|e| StoreError::Conflict(format!("{what} holds a value that cannot be kept: {e}")))?;
    Ok(text)
}

pub(in crate::store) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

impl Journal for Sqlite {
    async fn meta(&self) -> Result<Option<StudyMeta>, StoreError> {
        let text: Option<String> = sqlx::query_scalar("SELECT meta FROM study WHERE id = 1")
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.error("be read", &e))?;
        text.map(|t| self.parse("study", &t)).transpose()
    }

    async fn create(&self, meta: &StudyMeta) -> Result<(), StoreError> {
        let text = json("the study", meta)?;
        let query =
            sqlx::query("INSERT INTO study (id, meta) VALUES (1, ?1) ON CONFLICT (id) DO NOTHING").bind(text);
        match self.write("begin the study", query).await?.rows_affected() {
            0 => Err(StoreError::Conflict(format!(
                "{} holds a study already; --fresh archives it and begins again",
                self.path.display()
            ))),
            _ => Ok(()),
        }
    }

    async fn begin_trial(&self, trial: &NewTrial) -> Result<u32, StoreError> {
        let config = json("the config", &trial.config)?;
        let query = sqlx::query(
            "INSERT INTO trial (number, phase, config, round, host, started_at)
             SELECT coalesce(max(number), 0) + 1, ?1, ?2, ?3, ?4, ?5 FROM trial",
        )
        .bind(trial.phase.name())
        .bind(config)
        .bind(trial.round)
        .bind(&trial.host)
        .bind(now());
        // The number is the row's id: right also when another process begins a trial at the same time.
        let number = self.write("begin a trial", query).await?.last_insert_rowid();
        u32::try_from(number).map_err(|e| self.unreadable("trial", &e.to_string()))
    }

    async fn record_probe(&self, trial: u32, probe: &Probe) -> Result<(), StoreError> {
        let what = format!("record probe {} of trial {trial}", probe.number);
        let data = json("the probe", probe)?;
        let blob = match &probe.measurement.histograms {
            Some(h) => Some(histograms::encode(h).map_err(StoreError::Conflict)?),
            None => None,
        };
        let query = sqlx::query(
            "INSERT INTO probe (trial, number, data, histograms)
             SELECT t.number, ?2, ?3, ?4 FROM trial t
             WHERE t.number = ?1 AND t.outcome IS NULL
               AND ?2 = 1 + (SELECT coalesce(max(number), 0) FROM probe WHERE trial = ?1)",
        )
        .bind(trial)
        .bind(probe.number)
        .bind(data)
        .bind(blob);
        match self.write(&what, query).await?.rows_affected() {
            0 => Err(self.refuse(trial, &what).await),
            _ => Ok(()),
        }
    }

    async fn finish_trial(&self, trial: u32, end: &TrialEnd) -> Result<(), StoreError> {
        let what = format!("close trial {trial}");
        let outcome = json("the outcome", &end.outcome)?;
        if !end.seconds.is_finite() {
            return Err(StoreError::Conflict(format!(
                "could not {what}: its length is not a number"
            )));
        }
        let query = sqlx::query(
            "UPDATE trial SET outcome = ?2, seconds = ?3, binding = ?4 WHERE number = ?1 AND outcome IS NULL",
        )
        .bind(trial)
        .bind(outcome)
        .bind(end.seconds)
        .bind(&end.binding);
        match self.write(&what, query).await?.rows_affected() {
            0 => Err(self.refuse(trial, &what).await),
            _ => Ok(()),
        }
    }

    async fn trials(&self) -> Result<Vec<Trial>, StoreError> {
        // One read transaction: a study that is written meanwhile shows one state.
        let mut tx = self.pool.begin().await.map_err(|e| self.error("be read", &e))?;
        self.read_trials(&mut tx).await
    }

    async fn histograms(&self, trial: u32, probe: u32) -> Result<Option<Histograms>, StoreError> {
        let blob: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT histograms FROM probe WHERE trial = ?1 AND number = ?2")
                .bind(trial)
                .bind(probe)
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.error("be read", &e))?;
        blob.flatten()
            .map(|b| histograms::decode(&b).map_err(|e| self.unreadable("histogram", &e)))
            .transpose()
    }

    async fn log(&self, kind: &str, detail: &serde_json::Value) -> Result<(), StoreError> {
        let query = sqlx::query("INSERT INTO event (at, kind, detail) VALUES (?1, ?2, ?3)")
            .bind(now())
            .bind(kind)
            .bind(bounded(detail));
        self.write(&format!("log `{kind}`"), query).await.map(|_| ())
    }

    async fn events(&self, kind: &str) -> Result<Vec<serde_json::Value>, StoreError> {
        let texts: Vec<String> = sqlx::query_scalar("SELECT detail FROM event WHERE kind = ?1 ORDER BY id")
            .bind(kind)
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.error("be read", &e))?;
        texts.iter().map(|t| self.parse("event", t)).collect()
    }
}

/// kill -9 of this very process: nothing is unwound, flushed or told.
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(debug_assertions)]
fn hook_from_env() -> Option<WriteHook> {
    let text = std::env::var(FAULT_VARIABLE).ok()?;
    let (at, how) = text.split_once(' ')?;
    let at: u64 = at.parse().ok()?;
    let fault = match how {
        "fail" => WriteFault::Fail,
        "fail_after" => WriteFault::FailAfter,
        "kill_before" => WriteFault::KillBefore,
        "kill_after" => WriteFault::KillAfter,
        _ => return None,
    };
    Some(Arc::new(move |n| if n == at { fault } else { WriteFault::Go }))
}

#[cfg(not(debug_assertions))]
fn hook_from_env() -> Option<WriteHook> {
    None
}

impl Sqlite {
    async fn read_trials(&self, on: &mut SqliteConnection) -> Result<Vec<Trial>, StoreError> {
        let rows = sqlx::query(
            "SELECT number, phase, config, round, host, started_at, outcome, seconds, binding
             FROM trial ORDER BY number",
        )
        .fetch_all(&mut *on)
        .await
        .map_err(|e| self.error("be read", &e))?;
        let mut trials = Vec::with_capacity(rows.len());
        for row in &rows {
            trials.push(self.trial_of(row)?);
        }
        let probes = sqlx::query("SELECT trial, data FROM probe ORDER BY trial, number")
            .fetch_all(&mut *on)
            .await
            .map_err(|e| self.error("be read", &e))?;
        for row in &probes {
            let number: i64 = self.column(row, 0)?;
            let probe: Probe = self.parse("probe", &self.column::<String>(row, 1)?)?;
            let found = trials.binary_search_by_key(&number, |t| i64::from(t.number));
            match found.ok().and_then(|i| trials.get_mut(i)) {
                Some(t) => t.probes.push(probe),
                None => return Err(self.unreadable("probe", "its trial is missing")),
            }
        }
        Ok(trials)
    }

    fn column<'r, T>(&self, row: &'r sqlx::sqlite::SqliteRow, i: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        row.try_get(i).map_err(|e| self.unreadable("row", &e.to_string()))
    }

    fn trial_of(&self, row: &sqlx::sqlite::SqliteRow) -> Result<Trial, StoreError> {
        let number = |n: i64| u32::try_from(n).map_err(|e| self.unreadable("trial", &e.to_string()));
        let phase = serde_json::Value::String(self.column(row, 1)?);
        Ok(Trial {
            number: number(self.column(row, 0)?)?,
            phase: serde_json::from_value(phase).map_err(|e| self.unreadable("trial", &e.to_string()))?,
            config: self.parse("config", &self.column::<String>(row, 2)?)?,
            round: self.column::<Option<i64>>(row, 3)?.map(number).transpose()?,
            host: self.column(row, 4)?,
            started_at: self.column(row, 5)?,
            outcome: self
                .column::<Option<String>>(row, 6)?
                .map(|t| self.parse("outcome", &t))
                .transpose()?,
            seconds: self.column(row, 7)?,
            binding: self.column(row, 8)?,
            probes: Vec::new(),
        })
    }
}

/// JSON of an event within [`MAX_EVENT`]: texts are cut shorter and shorter before it is given up.
pub(in crate::store) fn bounded(detail: &serde_json::Value) -> String {
    let mut text = detail.to_string();
    for longest in [8_192, 1_024, 128] {
        if text.len() <= MAX_EVENT {
            return text;
        }
        text = clipped(detail, longest).to_string();
    }
    if text.len() <= MAX_EVENT {
        text
    } else {
        serde_json::json!({ "left_out": "too long", "bytes": text.len() }).to_string()
    }
}

fn clipped(value: &serde_json::Value, longest: usize) -> serde_json::Value {
    use serde_json::Value as V;
    match value {
        V::String(s) if s.chars().count() > longest => {
            V::String(s.chars().take(longest).chain("…".chars()).collect())
        }
        V::Array(items) => V::Array(items.iter().take(longest).map(|v| clipped(v, longest)).collect()),
        V::Object(map) => V::Object(
            map.iter()
                .map(|(k, v)| (k.clone(), clipped(v, longest)))
                .collect(),
        ),
        other => other.clone(),
    }
}
