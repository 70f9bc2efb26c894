//! The journal that a run was given: SQLite of its own, or Postgres with others.

use super::{Journal, NewTrial, Postgres, Sqlite, StoreError, StudyMeta, TrialEnd};
use crate::measurement::Histograms;
use crate::trial::{Probe, Trial};

/// Either journal.
#[derive(Debug)]
pub enum AnyStore {
    /// In the study's folder.
    Sqlite(Sqlite),
    /// Shared by several workers.
    Postgres(Box<Postgres>),
}

impl AnyStore {
    /// Where it is, for people; no user, no password.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite(s) => s.path().display().to_string(),
            Self::Postgres(p) => p.place().to_owned(),
        }
    }

    /// The shared journal, where it is one.
    #[must_use]
    pub fn shared(&self) -> Option<&Postgres> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(p) => Some(p.as_ref()),
        }
    }
}

/// The same call on whichever it is.
macro_rules! either {
    ($self:ident, $journal:ident => $call:expr) => {
        match $self {
            AnyStore::Sqlite($journal) => $call,
            AnyStore::Postgres($journal) => $call,
        }
    };
}

impl Journal for AnyStore {
    async fn meta(&self) -> Result<Option<StudyMeta>, StoreError> {
        either!(self, j => j.meta().await)
    }

    async fn create(&self, meta: &StudyMeta) -> Result<(), StoreError> {
        either!(self, j => j.create(meta).await)
    }

    async fn begin_trial(&self, trial: &NewTrial) -> Result<u32, StoreError> {
        either!(self, j => j.begin_trial(trial).await)
    }

    async fn record_probe(&self, trial: u32, probe: &Probe) -> Result<(), StoreError> {
        either!(self, j => j.record_probe(trial, probe).await)
    }

    async fn finish_trial(&self, trial: u32, end: &TrialEnd) -> Result<(), StoreError> {
        either!(self, j => j.finish_trial(trial, end).await)
    }

    async fn trials(&self) -> Result<Vec<Trial>, StoreError> {
        either!(self, j => j.trials().await)
    }

    async fn histograms(&self, trial: u32, probe: u32) -> Result<Option<Histograms>, StoreError> {
        either!(self, j => j.histograms(trial, probe).await)
    }

    async fn log(&self, kind: &str, detail: &serde_json::Value) -> Result<(), StoreError> {
        either!(self, j => j.log(kind, detail).await)
    }

    async fn events(&self, kind: &str) -> Result<Vec<serde_json::Value>, StoreError> {
        either!(self, j => j.events(kind).await)
    }
}
