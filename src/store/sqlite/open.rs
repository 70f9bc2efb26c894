//! Opening a journal: the folder and the file with their modes, and a look at an existing file that changes
//! nothing, so that what is not ours is refused before it is touched.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use super::errors::{damaged, io_error, sql_error};
use crate::store::StoreError;

/// "ATUN" in the header; the first migration writes it.
const APPLICATION_ID: i64 = 0x4154_554E;
/// Each SQLite file begins so.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long a reader or a second process is waited for.
pub(super) const BUSY: Duration = Duration::from_secs(10);

const MIGRATIONS: [(i64, &str, &str); 1] = [(
    1,
    "study",
    include_str!("../../../migrations/sqlite/0001_study.sql"),
)];

pub(super) fn migrator() -> Migrator {
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

pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY)
}

pub(super) async fn connect(path: &Path, options: SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    // One connection: SQLite has one writer anyway, and calls keep their order.
    SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(|e| sql_error(path, "be opened", &e))
}

/// Looks at an existing file without changing it, and refuses what is not a journal of this version. Gives
/// the read-only pool that it looked through.
pub(super) async fn inspect(path: &Path) -> Result<SqlitePool, StoreError> {
    check_magic(path)?;
    match look(path, options(path).read_only(true)).await {
        // A folder that cannot be written has no room for the shared-memory file. Without a log beside it the
        // file alone is the whole journal.
        Err(StoreError::Io(_)) if !log_beside(path) => {
            look(path, options(path).read_only(true).immutable(true)).await
        }
        other => other,
    }
}

async fn look(path: &Path, options: SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let pool = connect(path, options).await?;
    match check_contents(path, &pool).await {
        Ok(()) => Ok(pool),
        Err(e) => {
            pool.close().await;
            Err(e)
        }
    }
}

fn log_beside(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|m| m.len() > 0)
}

fn check_magic(path: &Path) -> Result<(), StoreError> {
    let mut head = [0_u8; 18];
    let mut file = fs::File::open(path).map_err(|e| io_error(path, "open", &e))?;
    let length = file.metadata().map_err(|e| io_error(path, "read", &e))?.len();
    // Made and never begun: a process died between the two.
    if length == 0 {
        return Ok(());
    }
    if file.read_exact(&mut head).is_err() || !head.starts_with(MAGIC) {
        return Err(StoreError::Unreadable(format!(
            "{} is not a SQLite database; nothing was changed: move it away, or name another study",
            path.display()
        )));
    }
    // SQLite fills a last page that was cut off with zeros and goes on; a log beside it would mend that.
    let page = match u64::from(u16::from_be_bytes([head[16], head[17]])) {
        1 => 65_536, // the file format's way to say so
        n => n,
    };
    if (page < 512 || length % page != 0) && !log_beside(path) {
        return Err(damaged(path, "it ends inside a page"));
    }
    Ok(())
}

async fn check_contents(path: &Path, pool: &SqlitePool) -> Result<(), StoreError> {
    let reading = |e| sql_error(path, "be read", &e);
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(pool)
        .await
        .map_err(reading)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '_sqlx_%'")
        .fetch_one(pool)
        .await
        .map_err(reading)?;
    if id != APPLICATION_ID && tables > 0 {
        return Err(StoreError::Unreadable(format!(
            "{} is somebody else's database, not a study; nothing was changed: move it away, or name another study",
            path.display()
        )));
    }
    if id != APPLICATION_ID {
        return Ok(());
    }
    let health: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(pool)
        .await
        .map_err(reading)?;
    if health != "ok" {
        return Err(damaged(path, &health));
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(pool)
        .await
        .map_err(reading)?;
    let known = MIGRATIONS.iter().map(|m| m.0).max().unwrap_or(0);
    match version {
        Some(v) if v > known => Err(StoreError::Unreadable(format!(
            "{} was written by a newer autotune (journal version {v}, this one knows {known}); nothing was changed: \
             use that version, or begin again with --fresh",
            path.display()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn make_folder(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| io_error(parent, "make", &e))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io_error(dir, "make", &e)),
        _ => Ok(()),
    }
}

/// Makes the file with its mode before SQLite opens it (its log takes over the mode); false when it is there.
pub(super) fn make_file(path: &Path) -> Result<bool, StoreError> {
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(io_error(path, "make", &e)),
    }
}
