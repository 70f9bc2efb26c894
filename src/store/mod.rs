//! The study's journal. It keeps; it never decides. One trait with one conformance suite, and two that keep to it:
//! SQLite in the study's folder, and Postgres where several workers share a study.
//!
//! Every call is durable when it returns. Facts are appended; a trial is closed once. What is *derived* from
//! the journal (CSV, recommendation, HTML) is `report`'s business and written elsewhere; the lock that keeps
//! a second run away is the driver's.

mod any;
mod folder;
mod histograms;
mod postgres;
mod record;
mod sqlite;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use any::AnyStore;
pub use folder::{Entry, archive, list};
pub use postgres::{Begun, Postgres};
pub use record::{About, SpaceRecord};
pub use sqlite::{JOURNAL_FILE, Sqlite, Turn, WriteFault, WriteHook, turn};

use crate::measurement::Histograms;
use crate::space::Config;
use crate::trial::{Outcome, Probe, Trial, TrialPhase};

/// What a journal says when it cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not there.
    #[error("{0}")]
    Missing(String),
    /// Damaged, foreign, or from a newer version of the tool.
    #[error("{0}")]
    Unreadable(String),
    /// Disk full, read-only, I/O error (exit 74).
    #[error("{0}")]
    Io(String),
    /// Held by somebody else (exit 75).
    #[error("{0}")]
    Locked(String),
    /// The database is away, or refuses the login (exit 69).
    #[error("{0}")]
    Away(String),
    /// The trial is not this worker's any more: it looked dead, and the trial was given to another.
    #[error("{0}")]
    Lost(String),
    /// The call contradicts what the journal holds: a number out of turn, a trial closed twice (our bug, exit 70).
    #[error("{0}")]
    Conflict(String),
}

/// What makes a study one study; written once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyMeta {
    /// Name.
    pub name: String,
    /// The recorded seed.
    pub seed: u64,
    /// Hash of the spec, and by section.
    pub spec_hash: String,
    /// By section, for saying what changed.
    pub section_hashes: BTreeMap<String, String>,
    /// Image id or executable hash.
    pub identity: String,
    /// Tool version.
    pub version: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// The search space, so that `tell`, `recommend` and `report` need no space file.
    #[serde(default)]
    pub space: SpaceRecord,
    /// What a reader of the results must know besides: the objective, the requests, the service's name.
    #[serde(default)]
    pub about: About,
}

/// A trial about to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTrial {
    /// Part of the run.
    pub phase: TrialPhase,
    /// Config to deploy.
    pub config: Config,
    /// Round of the finals.
    pub round: Option<u32>,
    /// Host name.
    pub host: String,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialEnd {
    /// Outcome.
    pub outcome: Outcome,
    /// Monotonic seconds.
    pub seconds: f64,
    /// Diagnosis code.
    pub binding: Option<String>,
}

/// Kinds of event that other rooms read back; any other kind is for people.
pub mod kinds {
    /// A flat table of texts for environment.toml: host, cores, memory, kernel, engine, image ids.
    pub const ENVIRONMENT: &str = "environment";
    /// The decision of the finals, as `report::FinalDecision`; the last one counts.
    pub const DECISION: &str = "decision";
    /// One sentence on what binds the recommended config: a text.
    pub const BINDS: &str = "binds";
    /// The connection budget with what the database said, as `spec::Connections`; written once a study.
    pub const CONNECTIONS: &str = "connections";
    /// Observations of an earlier study that this one began with: `from`, and `lines` of the optimizer's history.
    pub const PRIOR: &str = "prior";
    /// A confirmation that began: its config, its first trial, and how many decisions there were before.
    pub const CONFIRM: &str = "confirm";
    /// Why the search ended: a text; the last one counts.
    pub const SEARCH_ENDED: &str = "search_ended";
    /// Why the study ended without finals, where nothing was there to be compared: `why`, and `after_trial`, the last trial
    /// that it knew. Void once another trial began.
    pub const NO_FINALS: &str = "no_finals";
    /// In a folder that holds a copy alone: where the study itself is, a text without user or password.
    pub const COPY_OF: &str = "copy_of";
    /// The finals of a shared study are over: the host that measured them, and whether they came to a decision.
    pub const FINALS_OVER: &str = "finals_over";
    /// Something that a reader of the report must know: a text.
    pub const WARNING: &str = "warning";
}

/// The journal.
#[allow(async_fn_in_trait)] // generic use inside this crate
pub trait Journal {
    /// The study's facts; None when it is new.
    async fn meta(&self) -> Result<Option<StudyMeta>, StoreError>;
    /// Writes the study's facts once; an error when they are there already.
    async fn create(&self, meta: &StudyMeta) -> Result<(), StoreError>;
    /// Opens a trial and gives its number (from 1, without gaps).
    async fn begin_trial(&self, trial: &NewTrial) -> Result<u32, StoreError>;
    /// Appends a finished probe; its number must be the next of its trial.
    async fn record_probe(&self, trial: u32, probe: &Probe) -> Result<(), StoreError>;
    /// Closes a trial; an error when it is closed already.
    async fn finish_trial(&self, trial: u32, end: &TrialEnd) -> Result<(), StoreError>;
    /// All trials with their probes, by number (histograms left out).
    async fn trials(&self) -> Result<Vec<Trial>, StoreError>;
    /// The full histograms of one probe, where they were kept.
    async fn histograms(&self, trial: u32, probe: u32) -> Result<Option<Histograms>, StoreError>;
    /// Appends an event (intent or outcome of a side effect, drift, decision) as JSON; bounded length.
    async fn log(&self, kind: &str, detail: &serde_json::Value) -> Result<(), StoreError>;
    /// All events of a kind, oldest first.
    async fn events(&self, kind: &str) -> Result<Vec<serde_json::Value>, StoreError>;
}
