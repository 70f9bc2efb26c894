//! The built-in demo API: axum on an embedded SQLite through sqlx's own pool, which really limits.
//!
//! It exists so that `autotune demo` does the whole job on a machine with nothing installed. A request takes
//! a connection, queries, and keeps the connection for `HOLD_MS` as a service does that calls something else
//! inside its transaction: the commonest way to run out of a pool. Every limit is an environment variable.
//! Deliberately not here: anything that makes it look better or worse than it is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::Semaphore;

/// The limits, as the environment sets them.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// Connections of the pool (`POOL_SIZE`).
    pub pool_size: u32,
    /// Longest wait for a connection (`POOL_TIMEOUT_MS`).
    pub pool_timeout: Duration,
    /// Time that a request keeps its connection besides its query (`HOLD_MS`).
    pub hold: Duration,
    /// Requests worked on at once; more are refused with 503 (`MAX_IN_FLIGHT`).
    pub max_in_flight: usize,
    /// Runtime threads (`WORKER_THREADS`).
    pub worker_threads: usize,
}

impl Limits {
    /// Reads the limits from `env`; an error names the variable.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        fn number<T: FromStr>(
            env: &dyn Fn(&str) -> Option<String>,
            name: &str,
            default: T,
        ) -> anyhow::Result<T> {
            match env(name) {
                None => Ok(default),
                Some(text) => text
                    .parse()
                    .ok()
                    .with_context(|| format!("{name} must be a whole number")),
            }
        }
        let limits = Self {
            port: number(env, "PORT", 8000)?,
            pool_size: number(env, "POOL_SIZE", 2)?,
            pool_timeout: Duration::from_millis(number(env, "POOL_TIMEOUT_MS", 1_000)?),
            hold: Duration::from_millis(number(env, "HOLD_MS", 20)?),
            max_in_flight: number(env, "MAX_IN_FLIGHT", 512)?,
            worker_threads: number(env, "WORKER_THREADS", 1)?,
        };
        anyhow::ensure!(limits.pool_size >= 1, "POOL_SIZE must be at least 1");
        anyhow::ensure!(
            (1..=64).contains(&limits.worker_threads),
            "WORKER_THREADS must be 1 to 64"
        );
        anyhow::ensure!(limits.max_in_flight >= 1, "MAX_IN_FLIGHT must be at least 1");
        Ok(limits)
    }
}

struct Shop {
    pool: SqlitePool,
    limits: Limits,
    slots: Semaphore,
    pool_timeouts: AtomicU64,
}

/// Serves until SIGTERM or SIGINT; the database lives in a folder of its own that is removed at the end.
pub fn run(limits: Limits) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits.worker_threads)
        .enable_all()
        .build()?;
    let folder = std::env::temp_dir().join(format!("autotune-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let result = runtime.block_on(serve(limits, folder.join("shop.db")));
    runtime.shutdown_timeout(Duration::from_millis(500));
    let removed = std::fs::remove_dir_all(&folder);
    result.and(removed.with_context(|| format!("cannot remove {}", folder.display())))
}

async fn serve(limits: Limits, database: PathBuf) -> anyhow::Result<()> {
    let pool = open(&limits, &database).await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, limits.port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; is the port in use?"))?;
    let shop = Arc::new(Shop {
        pool,
        slots: Semaphore::new(limits.max_in_flight),
        limits,
        pool_timeouts: AtomicU64::new(0),
    });
    let app = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/ready", get(ready))
        .route("/pool", get(pool_state))
        .route("/items/{id}", get(item))
        .route("/orders", post(order))
        .with_state(Arc::clone(&shop));
    axum::serve(listener, app).with_graceful_shutdown(ended()).await?;
    shop.pool.close().await;
    Ok(())
}

async fn open(limits: &Limits, database: &std::path::Path) -> anyhow::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(5));
    let pool = SqlitePoolOptions::new()
        .max_connections(limits.pool_size)
        .acquire_timeout(limits.pool_timeout)
        .connect_with(options)
        .await
        .context("cannot open the demo database")?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS items(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL, quantity INTEGER NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT OR IGNORE INTO items SELECT i, 'item ' || i FROM n;",
    )
    .execute(&pool)
    .await
    .context("cannot fill the demo database")?;
    Ok(pool)
}

async fn ended() {
    let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// What went wrong inside a request.
enum Trouble {
    Busy,
    Pool,
    Database(String),
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests in flight".to_owned(),
            ),
            Self::Pool => (
                StatusCode::SERVICE_UNAVAILABLE,
                "pool timed out while waiting for an open connection".to_owned(),
            ),
            Self::Database(e) => (StatusCode::INTERNAL_SERVER_ERROR, e),
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

impl Shop {
    async fn connection(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>, Trouble> {
        self.pool.acquire().await.map_err(|e| match e {
            sqlx::Error::PoolTimedOut => {
                self.pool_timeouts.fetch_add(1, Ordering::Relaxed);
                Trouble::Pool
            }
            other => Trouble::Database(other.to_string()),
        })
    }
}

async fn item(State(shop): State<Arc<Shop>>, Path(id): Path<i64>) -> Result<Response, Trouble> {
    let _slot = shop.slots.try_acquire().map_err(|_| Trouble::Busy)?;
    let mut connection = shop.connection().await?;
    let row: Option<(String,)> = sqlx::query_as("SELECT name FROM items WHERE id = ?")
        .bind(id)
        .fetch_optional(&mut *connection)
        .await
        .map_err(|e| Trouble::Database(e.to_string()))?;
    tokio::time::sleep(shop.limits.hold).await;
    drop(connection);
    Ok(match row {
        Some((name,)) => Json(serde_json::json!({ "id": id, "name": name })).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

#[derive(Deserialize)]
struct Order {
    item_id: i64,
    quantity: i64,
}

async fn order(State(shop): State<Arc<Shop>>, Json(o): Json<Order>) -> Result<Response, Trouble> {
    let _slot = shop.slots.try_acquire().map_err(|_| Trouble::Busy)?;
    let mut connection = shop.connection().await?;
    sqlx::query("INSERT INTO orders(item_id, quantity) VALUES (?, ?)")
        .bind(o.item_id)
        .bind(o.quantity)
        .execute(&mut *connection)
        .await
        .map_err(|e| Trouble::Database(e.to_string()))?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "ok": true }))).into_response())
}

async fn ready(State(shop): State<Arc<Shop>>) -> Result<&'static str, Trouble> {
    let mut connection = match shop.connection().await {
        Ok(c) => c,
        Err(Trouble::Pool) => return Ok("busy"), // a full pool is slow, not broken
        Err(other) => return Err(other),
    };
    sqlx::query("SELECT 1")
        .execute(&mut *connection)
        .await
        .map_err(|e| Trouble::Database(e.to_string()))?;
    Ok("ok")
}

async fn pool_state(State(shop): State<Arc<Shop>>) -> Json<BTreeMap<&'static str, u64>> {
    let open = u64::from(shop.pool.size());
    let idle = u64::try_from(shop.pool.num_idle()).unwrap_or(0);
    Json(BTreeMap::from([
        ("size", u64::from(shop.limits.pool_size)),
        ("open", open),
        ("checkedout", open.saturating_sub(idle)),
        ("pool_timeout", shop.pool_timeouts.load(Ordering::Relaxed)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_the_variable_that_is_wrong() {
        let env = |name: &str| (name == "POOL_SIZE").then(|| "many".to_owned());
        assert!(
            Limits::from_env(&env)
                .unwrap_err()
                .to_string()
                .contains("POOL_SIZE")
        );
        assert_eq!(Limits::from_env(&|_| None).unwrap().pool_size, 2);
        let zero = |name: &str| (name == "POOL_SIZE").then(|| "0".to_owned());
        assert!(Limits::from_env(&zero).is_err());
    }
}
