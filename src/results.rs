//! The derived files of a study: the journal read, the renderings made, the bytes put into the folder. The
//! one place where `store` and `report` meet; it measures and decides nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::report::{self, FinalDecision, Notes, Summary};
use crate::space::Space;
use crate::spec::Connections;
use crate::store::{Journal, StoreError, StudyMeta, kinds};
use crate::trial::Trial;

/// Everything that the renderings need, read from the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// The study's facts.
    pub meta: StudyMeta,
    /// Its space.
    pub space: Space,
    /// Its trials.
    pub trials: Vec<Trial>,
    /// The last decision.
    pub decision: Option<FinalDecision>,
    /// Environment, what binds, warnings.
    pub notes: Notes,
}

impl Study {
    /// Reads a study; [`StoreError::Missing`] when the journal was opened and nothing begun.
    pub async fn read(journal: &impl Journal) -> Result<Self, StoreError> {
        let meta = journal.meta().await?.ok_or_else(|| {
            StoreError::Missing("the study has not begun yet: nothing is in its journal".to_owned())
        })?;
        let space = meta
            .space
            .space()
            .map_err(|e| StoreError::Unreadable(format!("the study's space cannot be read: {e}")))?;
        let decision = journal
            .events(kinds::DECISION)
            .await?
            .pop()
            .map(serde_json::from_value)
            .transpose()
            .map_err(|e| StoreError::Unreadable(format!("the study's decision cannot be read: {e}")))?;
        let trials = journal.trials().await?;
        let last = trials.iter().map(|t| u64::from(t.number)).max().unwrap_or(0);
        let text = |v: serde_json::Value| match v {
            serde_json::Value::String(s) => s,
            other => other.to_string(),
        };
        let notes = Notes {
            binds: journal.events(kinds::BINDS).await?.pop().map(text),
            warnings: journal
                .events(kinds::WARNING)
                .await?
                .into_iter()
                .map(text)
                .collect(),
            environment: match journal.events(kinds::ENVIRONMENT).await?.pop() {
                Some(serde_json::Value::Object(map)) => map.into_iter().map(|(k, v)| (k, text(v))).collect(),
                _ => std::collections::BTreeMap::new(),
            },
            // What was said when fewer trials were known is no longer the end.
            ended: journal
                .events(kinds::NO_FINALS)
                .await?
                .pop()
                .filter(|d| d.get("after_trial").and_then(serde_json::Value::as_u64) == Some(last))
                .and_then(|d| d.get("why").cloned())
                .map(text),
        };
        Ok(Self {
            trials,
            meta,
            space,
            decision,
            notes,
        })
    }

    /// Its summary.
    #[must_use]
    pub fn summary(&self) -> Summary<'_> {
        report::summarise(&self.meta, &self.space, &self.trials, self.decision.as_ref())
            .with_notes(self.notes.clone())
    }
}

/// The connection budget of a study, where its space file has one: what a number of instances is judged by.
pub async fn connections(journal: &impl Journal) -> Result<Option<Connections>, StoreError> {
    journal
        .events(kinds::CONNECTIONS)
        .await?
        .pop()
        .map(serde_json::from_value)
        .transpose()
        .map_err(|e| StoreError::Unreadable(format!("the study's connection budget cannot be read: {e}")))
}

/// Reads the journal and writes every derived file into `dir`; files that no longer hold are taken away.
pub async fn write(journal: &impl Journal, dir: &Path) -> Result<(), StoreError> {
    let study = Study::read(journal).await?;
    let files = report::files(&study.summary()).map_err(|e| StoreError::Conflict(e.to_string()))?;
    write_all(dir, &files)
}

/// Puts `files` into `dir`, each whole or not at all: written beside its name, synced, renamed; mode 0600. A
/// file without bytes is taken away.
pub fn write_all(dir: &Path, files: &[report::File]) -> Result<(), StoreError> {
    for (name, bytes) in files {
        let path = dir.join(name);
        match bytes {
            Some(bytes) => replace(&path, bytes),
            None => match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        }
        .map_err(|e| {
            StoreError::Io(format!(
                "could not write {}: {e}; the journal has everything: `autotune report {}` writes the files again",
                path.display(),
                dir.display()
            ))
        })?;
    }
    // The renames themselves must last.
    fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| StoreError::Io(format!("could not sync {}: {e}", dir.display())))
}

/// The name beside the file is always the same: what a killed process left there is overwritten next time.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.tmp"));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut f| {
            f.write_all(bytes)?;
            f.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // A half-written file must not stay; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    written
}
