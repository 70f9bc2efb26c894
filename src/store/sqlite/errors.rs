//! What went wrong with the file, as a sentence and as the branch that a caller takes.

use std::path::Path;

use crate::store::StoreError;

pub(super) fn damaged(path: &Path, why: &str) -> StoreError {
    let why: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
    StoreError::Unreadable(format!(
        "{} is damaged ({why}); nothing was changed: restore it from a backup, or begin again with --fresh, which \
         keeps the old file",
        path.display()
    ))
}

pub(super) fn io_error(path: &Path, doing: &str, e: &std::io::Error) -> StoreError {
    StoreError::Io(format!(
        "could not {doing} {}: {e}; check the disk's space and the folder's permissions, or name another with --results",
        path.display()
    ))
}

pub(super) fn migrate_error(path: &Path, e: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError as M;
    match e {
        M::Execute(e) | M::ExecuteMigration(e, _) => sql_error(path, "be prepared", &e),
        other => StoreError::Unreadable(format!(
            "{} was written by another build of autotune ({other}); nothing was changed: use that build, or begin \
             again with --fresh",
            path.display()
        )),
    }
}

/// The branch that an SQLite result code belongs to; codes: <https://www.sqlite.org/rescode.html>.
pub(super) fn sql_error(path: &Path, doing: &str, e: &sqlx::Error) -> StoreError {
    let file = path.display();
    let code = e
        .as_database_error()
        .and_then(|d| d.code())
        .and_then(|c| c.parse::<u32>().ok())
        .map(|c| c & 0xff);
    let text: String = e
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    match code {
        Some(5 | 6 | 15) => StoreError::Locked(format!(
            "{file} could not {doing}: another process holds it ({text})"
        )),
        Some(13) => StoreError::Io(format!(
            "{file} could not {doing}: the disk is full; free some space and run again"
        )),
        Some(3 | 8 | 23) => StoreError::Io(format!(
            "{file} could not {doing}: it may not be written ({text})"
        )),
        Some(10 | 14) => StoreError::Io(format!(
            "{file} could not {doing}: the disk reports an error ({text})"
        )),
        Some(11 | 26) => damaged(path, &text),
        Some(1) => StoreError::Unreadable(format!(
            "{file} could not {doing}: it lacks what a journal has ({text})"
        )),
        Some(_) => StoreError::Conflict(format!("{file} could not {doing}: {text}")),
        None => match e {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => damaged(path, &text),
            _ => StoreError::Io(format!("{file} could not {doing}: {text}")),
        },
    }
}
