//! The one connection of a worker: opened when it is needed, opened again when it was lost, with everything that the
//! worker holds. Locks belong to the session, so that the database frees them when the worker dies.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Row};
use tokio::sync::MutexGuard;

use super::address::Address;
use super::cache::Cache;
use super::errors::{Kind, kind, sentence};
use crate::store::StoreError;

/// For one attempt to connect.
const CONNECTING: Duration = Duration::from_secs(10);
/// For one call: above the server's own statement_timeout, so that only a dead line reaches it.
const ANSWER: Duration = Duration::from_secs(130);
/// Between attempts, doubling from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Object number of the lock for asking.
pub(super) const ASKING: i32 = 0;
/// Object number of the lock of who measures the finals.
pub(super) const FINALS: i32 = -1;

/// What a worker knows between two calls.
#[derive(Default)]
pub(super) struct State {
    connection: Option<PgConnection>,
    /// First key of every lock of this study.
    pub(super) class: i32,
    /// Trials, and the finals, that this process holds.
    pub(super) held: Vec<i32>,
    /// What of it the present session has not locked yet.
    unlocked: Vec<i32>,
    pub(super) cache: Cache,
}

impl State {
    /// Whether this process holds `n`, and its present session has the lock.
    pub(super) fn is_locked(&self, n: i32) -> bool {
        self.held.contains(&n) && !self.unlocked.contains(&n)
    }

    /// Holds `n` no more.
    pub(super) fn forget(&mut self, n: i32) {
        self.held.retain(|h| *h != n);
        self.unlocked.retain(|h| *h != n);
    }
}

/// The connection while a call uses it. Dropped without [`Session::keep`], in the middle of a call, it is closed: a
/// half-read answer is never taken for the next one's.
pub(super) struct Session<'a> {
    pub(super) state: MutexGuard<'a, State>,
    pub(super) connection: PgConnection,
}

impl Session<'_> {
    /// Puts the connection back.
    pub(super) fn keep(mut self) {
        self.state.connection = Some(self.connection);
    }
}

/// The attempts of one call: how many, and how long they may go on.
pub(super) struct Pace {
    begun: Instant,
    patience: Duration,
    pause: Duration,
    tries: u32,
}

impl Pace {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            begun: Instant::now(),
            patience,
            pause: PAUSES.0,
            tries: 0,
        }
    }

    /// Whether an earlier attempt failed: it may have been carried out, and its answer lost.
    pub(super) fn is_again(&self) -> bool {
        self.tries > 0
    }

    /// Waits before the next attempt; the sentence for `e` when patience is used up.
    pub(super) async fn next(
        &mut self,
        at: &Address,
        doing: &str,
        e: &sqlx::Error,
    ) -> Result<(), StoreError> {
        self.tries += 1;
        if kind(e) != Kind::Away {
            return Err(sentence(at, doing, e));
        }
        let waited = self.begun.elapsed();
        if waited + self.pause > self.patience {
            let StoreError::Away(text) = sentence(at, doing, e) else {
                return Err(sentence(at, doing, e));
            };
            return Err(StoreError::Away(format!(
                "{text}; tried {} times in {:.0} s: see that the database runs and can be reached from here, then start this \
                 worker again",
                self.tries,
                waited.as_secs_f64()
            )));
        }
        tracing::debug!("{doing}: {}; again in {:?}", at.clean(&e.to_string()), self.pause);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

/// `call`, with a deadline.
pub(super) async fn limited<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(done) => done,
        Err(_) => Err(timed_out(ANSWER)),
    }
}

fn timed_out(after: Duration) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("no answer within {} s", after.as_secs()),
    ))
}

/// A new connection to `at`.
pub(super) async fn connect(at: &Address) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(CONNECTING, at.options.connect()).await {
        Ok(opened) => opened,
        Err(_) => Err(timed_out(CONNECTING)),
    }
}

/// The connection of `state`, opened where there is none, holding what this process holds.
pub(super) async fn open<'a>(
    mut state: MutexGuard<'a, State>,
    at: &Address,
) -> Result<Session<'a>, sqlx::Error> {
    let connection = match state.connection.take() {
        Some(c) => c,
        None => {
            let mut c = connect(at).await?;
            limited(prepare(&mut c)).await?;
            state.class = limited(class(&mut c)).await?;
            state.unlocked = state.held.clone();
            c
        }
    };
    let mut session = Session { state, connection };
    if !session.state.unlocked.is_empty() {
        // The session before may not be gone yet as the server sees it: what is not free is tried at the next call.
        let (class, wanted) = (session.state.class, session.state.unlocked.clone());
        let got = limited(lock_again(&mut session.connection, class, &wanted)).await?;
        session.state.unlocked.retain(|n| !got.contains(n));
    }
    Ok(session)
}

/// A server may end idle sessions, and a trial is silent for minutes; older ones don't know the setting.
async fn prepare(on: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
        .execute(on)
        .await
        .map(drop)
}

/// The number of the study's own table: two studies of one database never share a lock. 0 before there is one.
async fn class(on: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce((to_regclass('trial')::oid::bigint & 2147483647)::int, 0)")
        .fetch_one(on)
        .await
}

async fn lock_again(on: &mut PgConnection, class: i32, wanted: &[i32]) -> Result<Vec<i32>, sqlx::Error> {
    let rows = sqlx::query("SELECT n FROM unnest($2::int[]) AS n WHERE pg_try_advisory_lock($1, n)")
        .bind(class)
        .bind(wanted)
        .fetch_all(on)
        .await?;
    rows.iter().map(|r| r.try_get(0)).collect()
}
