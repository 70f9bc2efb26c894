//! Postgres as seen by itself: states and waits of the backends, how near `max_connections` is, deadlocks. Through
//! one connection that is opened before the load, because a full database refuses a later one.
//!
//! The service's role sees its own sessions; `pg_monitor` sees all.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::Instant;

use super::sampler::{Record, Source};
use super::{Figures, names};
use crate::spec::{Secret, Usable};

const ACTIVITY: &str = "select coalesce(state,''), coalesce(wait_event_type,''), coalesce(wait_event,''), count(*) \
    from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() \
    and backend_type = 'client backend' group by 1, 2, 3";
const SERVER: &str = "select \
    (select count(*) from pg_stat_activity where backend_type = 'client backend'), \
    (select count(*) from pg_locks where not granted), \
    xact_commit, xact_rollback, deadlocks, temp_bytes from pg_stat_database where datname = current_database()";
const LIMITS: &str = "select current_setting('max_connections')::int8, \
    current_setting('superuser_reserved_connections')::int8";

/// What is reserved for superusers, and since Postgres 16 for a role; sessions by where they come from. A role without
/// `pg_monitor` sees of other roles' sessions neither type nor address: they count as others.
const RESERVED: &str = "select current_setting('max_connections')::int8, \
    current_setting('superuser_reserved_connections')::int8 \
    + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int8";
const SESSIONS: &str = "select coalesce(host(client_addr), ''), count(*) from pg_stat_activity \
    where (backend_type = 'client backend' or (backend_type is null and datid is not null)) \
    and pid <> pg_backend_pid() group by 1";
/// Longest wait for the answers before a study.
const ASKING: Duration = Duration::from_secs(10);

/// After a lost connection it is opened again at most this often.
const REOPEN_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Postgres {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    reopened: Instant,
    max_connections: i64,
    reserved: i64,
}

/// One group of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    state: String,
    wait_type: String,
    wait: String,
    count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PgSample {
    groups: Vec<Group>,
    server_backends: u64,
    waiting_locks: u64,
    commits: u64,
    rollbacks: u64,
    deadlocks: u64,
    temp_bytes: u64,
}

impl Postgres {
    pub(super) async fn open(url: Option<&Secret>) -> Result<Self, String> {
        let options = PgConnectOptions::from_str(&plain_url(url.map_or("", Secret::expose)))
            // The message of a bad URL may repeat it, password and all.
            .map_err(|_| "not a url that says postgres://user:password@host:port/database".to_owned())?
            .application_name("autotune-telemetry")
            .options([("statement_timeout", "800"), ("lock_timeout", "500")])
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(|e| said(&e))?;
        let (max_connections, reserved) = sqlx::query_as::<_, (i64, i64)>(LIMITS)
            .fetch_one(&mut connection)
            .await
            .map_err(|e| said(&e))?;
        Ok(Self {
            options,
            connection: Some(connection),
            reopened: Instant::now(),
            max_connections,
            reserved,
        })
    }
}

/// What the database at `url` has for a service whose own connections come from `service`: these are not others', since
/// they go when the service is replaced. One more is counted for the telemetry during the load.
///
/// # Errors
/// Why the database could not be asked, without what was sent to it.
pub async fn usable_connections(url: &Secret, service: &[String]) -> Result<Usable, String> {
    let asking = async {
        let opened = Postgres::open(Some(url)).await?;
        let mut connection = opened.connection.ok_or("the connection was lost")?;
        let (max, reserved) = sqlx::query_as::<_, (i64, i64)>(RESERVED)
            .fetch_one(&mut connection)
            .await
            .map_err(|e| said(&e))?;
        let sessions = sqlx::query_as::<_, (String, i64)>(SESSIONS)
            .fetch_all(&mut connection)
            .await
            .map_err(|e| said(&e))?;
        // The answers are here: how the goodbye ends does not matter.
        drop(connection.close().await);
        let others: i64 = sessions
            .iter()
            .filter(|(from, _)| !service.contains(from))
            .map(|(_, n)| *n)
            .sum();
        let n = |v: i64| u32::try_from(v.max(0)).unwrap_or(u32::MAX);
        Ok(Usable {
            max_connections: n(max),
            reserved: n(reserved),
            others: n(others + 1),
        })
    };
    tokio::time::timeout(ASKING, asking)
        .await
        .map_err(|_| format!("no answer within {} s", ASKING.as_secs()))?
}

/// `postgresql+asyncpg://...`, as SQLAlchemy writes it, means the same server.
fn plain_url(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let scheme = scheme.split('+').next().unwrap_or(scheme);
            format!("{scheme}://{rest}")
        }
        None => url.to_owned(),
    }
}

/// What the database said, without what was sent to it.
fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(e) => match e.code().as_deref() {
            Some("53300") => {
                "53300: too many clients already; no connection is left for telemetry".to_owned()
            }
            Some(code) => format!("{code}: refused by the database"),
            None => "refused by the database".to_owned(),
        },
        sqlx::Error::Io(e) => format!("cannot reach it: {e}; is [telemetry] postgres reachable from here?"),
        sqlx::Error::Tls(_) => "tls failed; try ?sslmode=disable".to_owned(),
        _ => "the connection failed".to_owned(),
    }
}

#[allow(clippy::cast_sign_loss)]
async fn look(connection: &mut PgConnection) -> Result<PgSample, sqlx::Error> {
    let rows = sqlx::query_as::<_, (String, String, String, i64)>(ACTIVITY)
        .fetch_all(&mut *connection)
        .await?;
    let (backends, locks, commits, rollbacks, deadlocks, temp) =
        sqlx::query_as::<_, (i64, i64, i64, i64, i64, i64)>(SERVER)
            .fetch_one(connection)
            .await?;
    let n = |v: i64| v.max(0) as u64;
    Ok(PgSample {
        groups: rows
            .into_iter()
            .map(|(state, wait_type, wait, count)| Group {
                state,
                wait_type,
                wait,
                count: u32::try_from(count).unwrap_or(0),
            })
            .collect(),
        server_backends: n(backends),
        waiting_locks: n(locks),
        commits: n(commits),
        rollbacks: n(rollbacks),
        deadlocks: n(deadlocks),
        temp_bytes: n(temp),
    })
}

impl PgSample {
    fn count(&self, which: impl Fn(&Group) -> bool) -> f64 {
        self.groups
            .iter()
            .filter(|g| which(g))
            .map(|g| f64::from(g.count))
            .sum()
    }
}

impl Group {
    fn is_active(&self) -> bool {
        self.state == "active"
    }

    fn is_in_transaction(&self) -> bool {
        self.state.starts_with("idle in transaction")
    }

    /// On a CPU, or waiting for one: Postgres names no wait.
    fn is_running(&self) -> bool {
        self.is_active() && self.wait_type.is_empty()
    }
}

impl Source for Postgres {
    type Sample = PgSample;
    const NAME: &'static str = "postgres";

    async fn sample(&mut self) -> Result<PgSample, String> {
        // Taken out: cancelled at the deadline, a query is still running on the connection.
        let mut connection = match self.connection.take() {
            Some(c) => c,
            None if self.reopened.elapsed() < REOPEN_EVERY => return Err("connection lost".to_owned()),
            None => {
                self.reopened = Instant::now();
                self.options.connect().await.map_err(|e| said(&e))?
            }
        };
        match look(&mut connection).await {
            Ok(sample) => {
                self.connection = Some(connection);
                Ok(sample)
            }
            Err(e) => {
                self.reopened = Instant::now();
                drop(connection.close_hard()); // never awaited: the socket goes with it
                Err(said(&e))
            }
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn figures(&self, record: &Record<'_, PgSample>) -> Figures {
        let mut out = Figures::new();
        let mut put = |k: &str, v: f64| {
            out.insert(k.to_owned(), v);
        };
        put(names::DB_MAX_CONNECTIONS, self.max_connections as f64);
        put(
            names::DB_USABLE_CONNECTIONS,
            (self.max_connections - self.reserved).max(0) as f64,
        );
        put(names::DB_CONNECTIONS_PEAK, record.peak(|s| s.count(|_| true)));
        put(
            names::DB_SERVER_CONNECTIONS_PEAK,
            record.peak(|s| s.server_backends as f64),
        );
        put(names::DB_ACTIVE_MEAN, record.mean(|s| s.count(Group::is_active)));
        put(
            names::DB_RUNNING_MEAN,
            record.mean(|s| s.count(Group::is_running)),
        );
        put(
            names::DB_IDLE_IN_TRANSACTION_MEAN,
            record.mean(|s| s.count(Group::is_in_transaction)),
        );
        put(
            names::DB_WAITING_LOCKS_MEAN,
            record.mean(|s| s.waiting_locks as f64),
        );
        let active: f64 = record.values().map(|s| s.count(Group::is_active)).sum();
        let share = |kind: &str| {
            let waiting: f64 = record
                .values()
                .map(|s| s.count(|g| g.is_active() && g.wait_type == kind))
                .sum();
            if active > 0.0 { waiting / active } else { 0.0 }
        };
        put(names::DB_WAIT_LOCK_RATIO, share("Lock"));
        put(names::DB_WAIT_IO_RATIO, share("IO"));
        put(names::DB_WAIT_LWLOCK_RATIO, share("LWLock"));
        put(names::DB_WAIT_CLIENT_RATIO, share("Client"));
        put(names::DB_WAIT_TIMEOUT_RATIO, share("Timeout"));
        for (key, grown) in [
            (names::DB_DEADLOCKS, record.growth(|s| s.deadlocks)),
            (names::DB_COMMITS_PER_S, record.rate(|s| s.commits)),
            (names::DB_ROLLBACKS_PER_S, record.rate(|s| s.rollbacks)),
            (names::DB_TEMP_BYTES, record.growth(|s| s.temp_bytes)),
        ] {
            if let Some(v) = grown {
                put(key, v);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(state: &str, wait_type: &str, count: u32) -> Group {
        Group {
            state: state.to_owned(),
            wait_type: wait_type.to_owned(),
            wait: String::new(),
            count,
        }
    }

    #[tokio::test]
    async fn figures_tell_running_from_sleeping_and_from_waiting_for_a_lock() {
        let options = PgConnectOptions::new_without_pgpass();
        let pg = Postgres {
            options,
            connection: None,
            reopened: Instant::now(),
            max_connections: 100,
            reserved: 3,
        };
        let a = PgSample {
            groups: vec![
                group("active", "", 2),
                group("active", "Lock", 6),
                group("active", "Timeout", 2),
                group("idle", "Client", 5),
                group("idle in transaction", "Client", 1),
            ],
            server_backends: 20,
            deadlocks: 4,
            ..PgSample::default()
        };
        let b = PgSample {
            deadlocks: 6,
            ..a.clone()
        };
        let samples = [(Duration::ZERO, a), (Duration::from_secs(2), b)];
        let f = pg.figures(&Record(&samples));
        for (key, want) in [
            (names::DB_CONNECTIONS_PEAK, 16.0),
            (names::DB_SERVER_CONNECTIONS_PEAK, 20.0),
            (names::DB_ACTIVE_MEAN, 10.0),
            (names::DB_RUNNING_MEAN, 2.0),
            (names::DB_IDLE_IN_TRANSACTION_MEAN, 1.0),
            (names::DB_WAIT_LOCK_RATIO, 0.6),
            (names::DB_WAIT_TIMEOUT_RATIO, 0.2),
            (names::DB_WAIT_IO_RATIO, 0.0),
            (names::DB_USABLE_CONNECTIONS, 97.0),
            (names::DB_DEADLOCKS, 2.0),
        ] {
            assert!((f[key] - want).abs() < 1e-9, "{key}: {f:?}");
        }
    }

    #[test]
    fn a_url_of_sqlalchemy_names_the_same_server() {
        assert_eq!(plain_url("postgresql+asyncpg://u:p@h/d"), "postgresql://u:p@h/d");
        assert_eq!(plain_url("postgres://h"), "postgres://h");
    }

    #[tokio::test]
    async fn a_bad_url_is_refused_without_repeating_it() {
        let error = Postgres::open(Some(&Secret::new("mysql://u:hunter2@h/d")))
            .await
            .err()
            .unwrap();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
