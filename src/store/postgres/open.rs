//! Opening a shared study: a look that changes nothing, so that what is not ours or is newer is refused before it is
//! touched; then the schema and its migrations, one worker at a time.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, SqlStr};

use super::address::Address;
use super::errors::sentence;
use crate::store::StoreError;

/// "ATUN": the lock of whoever makes a study.
const MAKING: i64 = 0x4154_554E;

const MIGRATIONS: [(i64, &str, &str); 1] = [(
    1,
    "study",
    include_str!("../../../migrations/postgres/0001_study.sql"),
)];

fn migrator() -> Migrator {
    Migrator::with_migrations(
        MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                let sql = SqlStr::from_static(sql);
                Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, sql, false)
            })
            .collect(),
    )
}

/// What is in the study's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing yet, or not all of it.
    Unmade,
    /// A journal of this version.
    Journal,
}

/// Looks, and refuses what is somebody else's or newer.
pub(super) async fn inspect(on: &mut PgConnection, at: &Address) -> Result<Found, StoreError> {
    let doing = "be read";
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = current_setting('search_path')",
    )
    .fetch_all(&mut *on)
    .await
    .map_err(|e| sentence(at, doing, &e))?;
    if tables.is_empty() {
        return Ok(Found::Unmade);
    }
    if !tables.iter().any(|t| t == "_sqlx_migrations") {
        return Err(StoreError::Unreadable(format!(
            "the schema {} there is somebody else's ({}, of {} tables); nothing was changed: name another study with \
             ?study=NAME in {}",
            at.schema,
            at.clean(tables.first().map_or("", String::as_str)),
            tables.len(),
            at.place
        )));
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut *on)
        .await
        .map_err(|e| sentence(at, doing, &e))?;
    let known = MIGRATIONS.iter().map(|m| m.0).max().unwrap_or(0);
    match version {
        Some(v) if v > known => Err(StoreError::Unreadable(format!(
            "{} was written by a newer autotune (journal version {v}, this one knows {known}); nothing was changed: give every \
             worker that version",
            at.place
        ))),
        Some(v) if v == known => Ok(Found::Journal),
        _ => Ok(Found::Unmade),
    }
}

/// Makes the schema and brings it to this version.
pub(super) async fn make(on: &mut PgConnection, at: &Address) -> Result<(), StoreError> {
    let doing = "be prepared";
    let said = |e: sqlx::Error| sentence(at, doing, &e);
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(MAKING)
        .execute(&mut *on)
        .await
        .map_err(said)?;
    // Small letters, digits and _ alone: `Address` sees to that.
    sqlx::query(AssertSqlSafe(format!(
        "CREATE SCHEMA IF NOT EXISTS {}",
        at.schema
    )))
    .execute(&mut *on)
    .await
    .map_err(said)?;
    migrator().run(&mut *on).await.map_err(|e| match e {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => sentence(at, doing, &e),
        other => StoreError::Unreadable(format!(
            "{} was written by another build of autotune ({}); nothing was changed: give every worker the same build",
            at.place,
            at.clean(&other.to_string())
        )),
    })?;
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(MAKING)
        .execute(&mut *on)
        .await
        .map(drop)
        .map_err(said)
}
