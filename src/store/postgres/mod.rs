//! The journal in Postgres: one study that several workers share, each on a host with an engine of its own. The twin of
//! `store::sqlite`, and what several need besides: a trial belongs to the worker whose session holds its advisory lock.
//!
//! - Postgres frees the lock when the worker dies, however it dies; whoever asks next gives the trial back, and it is
//!   asked again once (`trial.repeats` is unique).
//! - An ask is one transaction under a lock: nobody chooses from the same trials, numbers have no gaps.
//! - Each call that writes carries a claim: repeated after a lost connection, it finds what it did.
//! - Nothing of the address but host, port and database is ever shown.
//!
//! One connection a worker, straight to the server: a pooler that hands out sessions by transaction would lose the locks.

mod address;
mod ask;
mod cache;
mod copy;
mod errors;
mod open;
mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::sync::Mutex;

pub use self::ask::Begun;

use self::address::Address;
use self::open::Found;
use self::session::{FINALS, Pace, Session, State, connect, limited};
use super::sqlite::{bounded, json, now};
use super::{Journal, NewTrial, StoreError, StudyMeta, TrialEnd, histograms, kinds};
use crate::measurement::Histograms;
use crate::spec::Secret;
use crate::trial::{Outcome, Probe, Trial};

/// Longest wait for a database that is not there when a worker starts: more likely a mistake than an outage.
const AT_START: Duration = Duration::from_secs(15);

/// A shared study's journal.
pub struct Postgres {
    at: Address,
    /// This process, among all that ever worked on the study.
    worker: String,
    patience: Duration,
    claims: AtomicU64,
    state: Mutex<State>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// Opens the study at `url` for the worker `name`, making it where it is missing. A database that goes away later is
    /// tried again for `patience`.
    ///
    /// Errors: [`StoreError::Missing`] where `url` is no URL, [`StoreError::Away`] where nobody answers or the login is
    /// refused, [`StoreError::Unreadable`] where the schema is somebody else's or newer.
    pub async fn open(url: &Secret, name: &str, patience: Duration) -> Result<Self, StoreError> {
        let this = Self::at(Address::parse(url)?, name, patience);
        let mut connection = this.first_connection().await?;
        if open::inspect(&mut connection, &this.at).await? == Found::Unmade {
            open::make(&mut connection, &this.at).await?;
        }
        Ok(this)
    }

    /// Opens a study that exists, for reading.
    pub async fn open_existing(url: &Secret) -> Result<Self, StoreError> {
        let this = Self::at(Address::parse(url)?, "reader", AT_START);
        let mut connection = this.first_connection().await?;
        match open::inspect(&mut connection, &this.at).await? {
            Found::Journal => Ok(this),
            Found::Unmade => Err(StoreError::Missing(format!(
                "there is no study yet: {} is empty; `autotune worker` begins it",
                this.at.place
            ))),
        }
    }

    fn at(at: Address, name: &str, patience: Duration) -> Self {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            at,
            worker: format!("{name}-{}-{:x}", std::process::id(), since.as_nanos()),
            patience,
            claims: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A connection for the look before anything else; it is closed again.
    async fn first_connection(&self) -> Result<PgConnection, StoreError> {
        let mut pace = Pace::new(self.patience.min(AT_START));
        loop {
            match connect(&self.at).await {
                Ok(c) => return Ok(c),
                Err(e) => pace.next(&self.at, "be opened", &e).await?,
            }
        }
    }

    /// Where it is, for people; no user, no password.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.at.place
    }

    /// A name for one call, so that its repetition is known as one.
    fn claim(&self) -> String {
        format!("{}-{}", self.worker, self.claims.fetch_add(1, Ordering::Relaxed))
    }

    fn pace(&self) -> Pace {
        Pace::new(self.patience)
    }

    /// The connection for one attempt; None when there was none and the next attempt is due.
    async fn session(&self, pace: &mut Pace, doing: &str) -> Result<Option<Session<'_>>, StoreError> {
        match session::open(self.state.lock().await, &self.at).await {
            Ok(s) => Ok(Some(s)),
            Err(e) => pace.next(&self.at, doing, &e).await.map(|()| None),
        }
    }

    /// What an attempt came to; None when the next is due. A connection with an error of its own is not used again.
    async fn settle<T>(
        &self,
        session: Session<'_>,
        done: Result<T, sqlx::Error>,
        pace: &mut Pace,
        doing: &str,
    ) -> Result<Option<T>, StoreError> {
        match done {
            Ok(value) => {
                session.keep();
                Ok(Some(value))
            }
            Err(e) if errors::kind(&e) == errors::Kind::Away => {
                drop(session);
                pace.next(&self.at, doing, &e).await.map(|()| None)
            }
            Err(e) => {
                session.keep();
                Err(errors::sentence(&self.at, doing, &e))
            }
        }
    }

    fn unreadable(&self, what: &str, why: &str) -> StoreError {
        StoreError::Unreadable(format!("a {what} in {} cannot be read: {why}", self.at.place))
    }

    /// Trials begun so far, those that are still to be closed, and the ends of finals: while all stay, nothing has changed
    /// that a waiting worker acts on.
    pub async fn revision(&self) -> Result<[u32; 3], StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query = sqlx::query(
                "SELECT trials, (SELECT count(*) FROM trial WHERE outcome IS NULL)::int,
                    (SELECT count(*) FROM event WHERE kind = $1)::int FROM counter WHERE id = 1",
            )
            .bind(kinds::FINALS_OVER);
            let done = limited(query.fetch_one(&mut s.connection)).await;
            let done = done.and_then(|row| {
                let n = |i: usize| cache::unsigned(row.try_get(i)?);
                Ok([n(0)?, n(1)?, n(2)?])
            });
            if let Some(found) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(found);
            }
        }
    }

    /// Whether this worker is the one to measure the finals: true for the first that asks, until it ends or dies.
    pub async fn take_finals(&self) -> Result<bool, StoreError> {
        let (doing, mut pace) = ("be asked for its finals", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            if s.state.is_locked(FINALS) {
                s.keep();
                return Ok(true);
            }
            // Where an earlier session had it and another worker has it now, it is lost.
            s.state.forget(FINALS);
            let query = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1, $2)")
                .bind(s.state.class)
                .bind(FINALS);
            let done = limited(query.fetch_one(&mut s.connection)).await;
            if let Ok(true) = done {
                s.state.held.push(FINALS);
            }
            if let Some(is_ours) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(is_ours);
            }
        }
    }

    /// Why a write to a trial changed nothing.
    async fn refusal(
        &self,
        session: &mut Session<'_>,
        trial: u32,
        what: &str,
    ) -> Result<StoreError, sqlx::Error> {
        let state = sqlx::query(
            "SELECT outcome IS NOT NULL, (SELECT count(*) FROM probe WHERE trial = t.number) FROM trial t WHERE number = $1",
        )
        .bind(signed(trial))
        .fetch_optional(&mut session.connection);
        let Some(row) = limited(state).await? else {
            return Ok(StoreError::Conflict(format!(
                "could not {what}: there is no trial {trial}"
            )));
        };
        let held = session.state.held.contains(&signed(trial));
        Ok(match (row.try_get::<bool, _>(0)?, held) {
            (true, true) => {
                session.state.forget(signed(trial));
                StoreError::Lost(format!(
                    "trial {trial} was given to another worker while this one could not be seen: what it measures is left out"
                ))
            }
            (true, false) => {
                StoreError::Conflict(format!("could not {what}: trial {trial} is closed already"))
            }
            (false, _) => StoreError::Conflict(format!(
                "could not {what}: the next probe of trial {trial} is {}",
                row.try_get::<i64, _>(1)? + 1
            )),
        })
    }

    async fn write_probe(&self, s: &mut Session<'_>, row: &ProbeRow<'_>, is_again: bool) -> Written {
        let query = sqlx::query(
            "INSERT INTO probe (trial, number, data, histograms)
             SELECT t.number, $2, $3, $4 FROM trial t
             WHERE t.number = $1 AND t.outcome IS NULL
               AND $2 = 1 + (SELECT coalesce(max(number), 0) FROM probe WHERE trial = $1)",
        )
        .bind(row.trial)
        .bind(row.number)
        .bind(row.data)
        .bind(row.histograms);
        if limited(query.execute(&mut s.connection)).await?.rows_affected() > 0 {
            return Ok(Ok(()));
        }
        if is_again {
            // The attempt before may have arrived, and only its answer was lost.
            let there = sqlx::query_scalar::<_, i32>(
                "SELECT count(*)::int FROM probe WHERE trial = $1 AND number = $2 AND data = $3",
            )
            .bind(row.trial)
            .bind(row.number)
            .bind(row.data);
            if limited(there.fetch_one(&mut s.connection)).await? == 1 {
                return Ok(Ok(()));
            }
        }
        let (trial, what) = (cache::unsigned(row.trial)?, row.what());
        self.refusal(s, trial, &what).await.map(Err)
    }

    async fn write_end(&self, s: &mut Session<'_>, row: &EndRow<'_>, is_again: bool) -> Written {
        // What was cut off is to be asked again; today's configuration and the finals are asked for by the agenda of the
        // host that they belong to.
        let query = sqlx::query_as::<_, (i32, bool)>(
            "WITH done AS (
                 UPDATE trial SET outcome = $3, seconds = $4, binding = $5, again = $6 AND phase IN ('search', 'knob')
                 WHERE number = $2 AND outcome IS NULL RETURNING number)
             SELECT number, pg_advisory_unlock($1, number) FROM done",
        )
        .bind(s.state.class)
        .bind(row.trial)
        .bind(row.outcome)
        .bind(row.seconds)
        .bind(row.binding)
        .bind(row.is_cut_off);
        let mut done = limited(query.fetch_optional(&mut s.connection)).await?.is_some();
        if !done && is_again {
            let there = sqlx::query_scalar::<_, i32>(
                "SELECT count(*)::int FROM trial WHERE number = $1 AND outcome = $2",
            )
            .bind(row.trial)
            .bind(row.outcome);
            done = limited(there.fetch_one(&mut s.connection)).await? == 1;
        }
        if done {
            s.state.forget(row.trial);
            return Ok(Ok(()));
        }
        let trial = cache::unsigned(row.trial)?;
        self.refusal(s, trial, &format!("close trial {trial}"))
            .await
            .map(Err)
    }
}

/// Done, or refused for what the journal holds.
type Written = Result<Result<(), StoreError>, sqlx::Error>;

struct ProbeRow<'a> {
    trial: i32,
    number: i32,
    data: &'a str,
    histograms: Option<&'a [u8]>,
}

impl ProbeRow<'_> {
    fn what(&self) -> String {
        format!("record probe {} of trial {}", self.number, self.trial)
    }
}

struct EndRow<'a> {
    trial: i32,
    outcome: &'a str,
    seconds: f64,
    binding: Option<&'a str>,
    is_cut_off: bool,
}

/// Numbers of trials and probes stay far below this type's end.
fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl Journal for Postgres {
    async fn meta(&self) -> Result<Option<StudyMeta>, StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query = sqlx::query_scalar::<_, String>("SELECT meta FROM study WHERE id = 1");
            let done = limited(query.fetch_optional(&mut s.connection)).await;
            if let Some(text) = self.settle(s, done, &mut pace, doing).await? {
                return text
                    .map(|t| serde_json::from_str(&t).map_err(|e| self.unreadable("study", &e.to_string())))
                    .transpose();
            }
        }
    }

    async fn create(&self, meta: &StudyMeta) -> Result<(), StoreError> {
        let text = json("the study", meta)?;
        let (doing, mut pace) = ("begin the study", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query =
                sqlx::query("INSERT INTO study (id, meta) VALUES (1, $1) ON CONFLICT (id) DO NOTHING")
                    .bind(&text);
            let done = limited(query.execute(&mut s.connection)).await;
            match self.settle(s, done, &mut pace, doing).await? {
                None => {}
                Some(done) if done.rows_affected() > 0 => return Ok(()),
                // The attempt before may have arrived.
                Some(_) if pace.is_again() && self.meta().await?.as_ref() == Some(meta) => return Ok(()),
                Some(_) => {
                    return Err(StoreError::Conflict(format!(
                        "{} has begun already",
                        self.at.place
                    )));
                }
            }
        }
    }

    async fn begin_trial(&self, trial: &NewTrial) -> Result<u32, StoreError> {
        self.begin(trial).await
    }

    async fn record_probe(&self, trial: u32, probe: &Probe) -> Result<(), StoreError> {
        let data = json("the probe", probe)?;
        let blob = match &probe.measurement.histograms {
            Some(h) => Some(histograms::encode(h).map_err(StoreError::Conflict)?),
            None => None,
        };
        let row = ProbeRow {
            trial: signed(trial),
            number: signed(probe.number),
            data: &data,
            histograms: blob.as_deref(),
        };
        let (doing, mut pace) = (row.what(), self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, &doing).await? else {
                continue;
            };
            let done = self.write_probe(&mut s, &row, pace.is_again()).await;
            if let Some(written) = self.settle(s, done, &mut pace, &doing).await? {
                return written;
            }
        }
    }

    async fn finish_trial(&self, trial: u32, end: &TrialEnd) -> Result<(), StoreError> {
        let doing = format!("close trial {trial}");
        let outcome = json("the outcome", &end.outcome)?;
        if !end.seconds.is_finite() {
            return Err(StoreError::Conflict(format!(
                "could not {doing}: its length is not a number"
            )));
        }
        let row = EndRow {
            trial: signed(trial),
            outcome: &outcome,
            seconds: end.seconds,
            binding: end.binding.as_deref(),
            is_cut_off: end.outcome == Outcome::Interrupted,
        };
        let mut pace = self.pace();
        loop {
            let Some(mut s) = self.session(&mut pace, &doing).await? else {
                continue;
            };
            let done = self.write_end(&mut s, &row, pace.is_again()).await;
            if let Some(written) = self.settle(s, done, &mut pace, &doing).await? {
                return written;
            }
        }
    }

    async fn trials(&self) -> Result<Vec<Trial>, StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let done = limited(ask::all_trials(&mut s.connection)).await;
            if let Some(trials) = self.settle(s, done, &mut pace, doing).await? {
                return Ok(trials);
            }
        }
    }

    async fn histograms(&self, trial: u32, probe: u32) -> Result<Option<Histograms>, StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query = sqlx::query_scalar::<_, Option<Vec<u8>>>(
                "SELECT histograms FROM probe WHERE trial = $1 AND number = $2",
            )
            .bind(signed(trial))
            .bind(signed(probe));
            let done = limited(query.fetch_optional(&mut s.connection)).await;
            if let Some(blob) = self.settle(s, done, &mut pace, doing).await? {
                return blob
                    .flatten()
                    .map(|b| histograms::decode(&b).map_err(|e| self.unreadable("histogram", &e)))
                    .transpose();
            }
        }
    }

    async fn log(&self, kind: &str, detail: &serde_json::Value) -> Result<(), StoreError> {
        let (doing, mut pace) = (format!("log `{kind}`"), self.pace());
        let (claim, at, text) = (self.claim(), now(), bounded(detail));
        loop {
            let Some(mut s) = self.session(&mut pace, &doing).await? else {
                continue;
            };
            let query = sqlx::query(
                "INSERT INTO event (at, kind, detail, claim) VALUES ($1, $2, $3, $4) ON CONFLICT (claim) DO NOTHING",
            )
            .bind(&at)
            .bind(kind)
            .bind(&text)
            .bind(&claim);
            let done = limited(query.execute(&mut s.connection)).await;
            if self.settle(s, done, &mut pace, &doing).await?.is_some() {
                return Ok(());
            }
        }
    }

    async fn events(&self, kind: &str) -> Result<Vec<serde_json::Value>, StoreError> {
        let (doing, mut pace) = ("be read", self.pace());
        loop {
            let Some(mut s) = self.session(&mut pace, doing).await? else {
                continue;
            };
            let query =
                sqlx::query_scalar::<_, String>("SELECT detail FROM event WHERE kind = $1 ORDER BY id")
                    .bind(kind);
            let done = limited(query.fetch_all(&mut s.connection)).await;
            if let Some(texts) = self.settle(s, done, &mut pace, doing).await? {
                return texts
                    .iter()
                    .map(|t| serde_json::from_str(t).map_err(|e| self.unreadable("event", &e.to_string())))
                    .collect();
            }
        }
    }
}
