//! The documented exit codes, and the error that carries one to `main`.

/// A recommendation was written and everything was given back.
pub const OK: u8 = 0;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// Nothing feasible, or no gain beyond the noise: data kept, today's configuration stays.
pub const NO_GAIN: u8 = 3;
/// The space file cannot be read.
pub const NO_INPUT: u8 = 64;
/// The space file, or a resumed study, is not what it must be.
pub const DATA: u8 = 65;
/// Docker, the API or the database is not available.
pub const UNAVAILABLE: u8 = 69;
/// Our own bug.
pub const SOFTWARE: u8 = 70;
/// Disk full, read-only, I/O error.
pub const IO: u8 = 74;
/// Another run holds the container or the results folder.
pub const LOCKED: u8 = 75;
/// The container could not be given back; the message has the commands.
pub const RESTORE_FAILED: u8 = 76;
/// Not permitted.
pub const PERMISSION: u8 = 77;

/// An end with its code: what, why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExitError {
    /// The documented exit code.
    pub code: u8,
    /// For people.
    pub message: String,
}

impl ExitError {
    /// An end with `code`.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<crate::store::StoreError> for ExitError {
    fn from(e: crate::store::StoreError) -> Self {
        use crate::store::StoreError as S;
        let code = match &e {
            S::Missing(_) => NO_INPUT,
            S::Unreadable(_) => DATA,
            S::Io(_) => IO,
            S::Locked(_) => LOCKED,
            S::Away(_) => UNAVAILABLE,
            S::Lost(_) | S::Conflict(_) => SOFTWARE,
        };
        Self::new(code, e.to_string())
    }
}

impl From<crate::sut::SutError> for ExitError {
    fn from(e: crate::sut::SutError) -> Self {
        use crate::sut::SutError as S;
        let code = match &e {
            S::Config { .. } | S::Infrastructure(_) => UNAVAILABLE,
            S::Refused { exit, .. } => *exit,
            S::RestoreFailed { .. } => RESTORE_FAILED,
        };
        Self::new(code, e.to_string())
    }
}
