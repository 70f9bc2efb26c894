//! What is being done to whose container, in a file beside the journal, written before each step.
//!
//! For people and for the next run; restoring does not need it (see `parking`). It holds names and ids, never values.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::find::Original;
use crate::sut::SutError;

/// Name in the results folder.
pub const FILE: &str = "parking.json";

/// The step that was begun last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The original is about to be renamed and stopped.
    Park,
    /// A trial is about to be created and started.
    Deploy,
    /// A trial is about to be removed.
    Teardown,
    /// The original is about to be given back.
    Restore,
    /// It was given back.
    Restored,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The run.
    pub run: String,
    /// Where the daemon listens.
    pub engine: String,
    /// The original's full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its name while it is parked.
    pub parked_name: String,
    /// Whether it ran.
    pub was_running: bool,
    /// The step begun last.
    pub step: Step,
    /// The trial it is about, 0 outside of trials.
    pub trial: u32,
    /// What gives it back by hand.
    pub by_hand: String,
}

impl Record {
    /// Describes `step` for `original`.
    #[must_use]
    pub fn new(run: &str, engine: &str, original: &Original, step: Step, trial: u32) -> Self {
        let parked_name = super::parking::parked_name(&original.name, original.was_running);
        Self {
            run: run.to_owned(),
            engine: engine.to_owned(),
            id: original.id.clone(),
            name: original.name.clone(),
            by_hand: super::parking::by_hand(original),
            parked_name,
            was_running: original.was_running,
            step,
            trial,
        }
    }

    /// Replaces the file in `results`: whole and on disk, or not at all.
    pub fn write(&self, results: &Path) -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(results)?;
        let new: PathBuf = results.join(format!("{FILE}.new"));
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&new, results.join(FILE))
    }

    /// What an earlier run left; None where there is none or it can't be read.
    #[must_use]
    pub fn read(results: &Path) -> Option<Self> {
        let bytes = std::fs::read(results.join(FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// An I/O error at the record as the driver sees it: stop before anything is touched.
#[must_use]
pub fn refused(results: &Path, e: &std::io::Error) -> SutError {
    SutError::Refused {
        exit: 74,
        message: format!(
            "cannot write {} ({e}): free some space or choose another folder with --results",
            results.join(FILE).display()
        ),
    }
}
