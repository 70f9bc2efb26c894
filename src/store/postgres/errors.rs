//! What the database said, as the branch that a caller takes: away and worth another attempt, or a sentence.

use super::address::Address;
use crate::store::StoreError;

/// What becomes of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is gone or the server is not ready: try again on a new one.
    Away,
    /// Somebody else holds what is needed.
    Locked,
    /// The login or the database is not there.
    Refused,
    /// Disk full, no permission, I/O.
    Io,
    /// Not a journal, or not of this version.
    Unreadable,
    /// The call contradicts what is there.
    Conflict,
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn kind(e: &sqlx::Error) -> Kind {
    let Some(code) = e.as_database_error().and_then(|d| d.code()) else {
        return match e {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Kind::Unreadable
            }
            _ => Kind::Away,
        };
    };
    match code.as_ref() {
        // Shutting down, crashed, starting; cut off by an administrator; full; a deadlock's victim.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "40001" | "40P01" => Kind::Away,
        c if c.starts_with("08") => Kind::Away,
        // Cancelled by statement_timeout: an ask that waited for other asks.
        "57014" | "55P03" => Kind::Locked,
        c if c.starts_with("28") || c == "3D000" => Kind::Refused,
        c if c == "42501" || c == "25006" || c.starts_with("53") || c.starts_with("58") => Kind::Io,
        c if c.starts_with("42") || c.starts_with("3F") => Kind::Unreadable,
        _ => Kind::Conflict,
    }
}

/// The sentence for a call that is given up.
pub(super) fn sentence(at: &Address, doing: &str, e: &sqlx::Error) -> StoreError {
    let code = e
        .as_database_error()
        .and_then(|d| d.code())
        .map_or(String::new(), |c| format!("{c}: "));
    let said = match e {
        sqlx::Error::Database(d) => at.clean(d.message()),
        other => at.clean(&other.to_string()),
    };
    let place = &at.place;
    match kind(e) {
        Kind::Away => StoreError::Away(format!("{place} could not {doing}: {code}{said}")),
        Kind::Locked => StoreError::Locked(format!(
            "{place} could not {doing}: other workers kept it for two minutes ({code}{said}); try again later"
        )),
        Kind::Refused => StoreError::Away(format!(
            "{place} refused the login ({code}{said}): look at the user, the password and the database's name in AUTOTUNE_STUDY"
        )),
        Kind::Io => StoreError::Io(format!(
            "{place} could not {doing} ({code}{said}): the role needs CREATE on the database when the study begins, and room \
             on its disk"
        )),
        Kind::Unreadable => StoreError::Unreadable(format!(
            "{place} could not {doing}: it lacks what a journal has ({code}{said})"
        )),
        Kind::Conflict => StoreError::Conflict(format!("{place} could not {doing}: {code}{said}")),
    }
}
