//! Folders of studies: list them, and move an old one aside for `--fresh`. Nothing is ever deleted.

use std::path::{Path, PathBuf};

use super::{JOURNAL_FILE, Journal, Sqlite, StoreError, StudyMeta};

/// Most entries that are looked at in a results folder, and most archives of one study.
const MOST: usize = 10_000;

/// A study found in a results folder.
#[derive(Debug)]
pub struct Entry {
    /// Its folder.
    pub dir: PathBuf,
    /// Its facts, or why they cannot be read; None for a journal that was opened and never begun.
    pub meta: Result<Option<StudyMeta>, StoreError>,
    /// Trials begun.
    pub trials: u32,
    /// The last decision of its finals, as journalled.
    pub decision: Option<serde_json::Value>,
    /// It ended without finals: today's configuration stays.
    pub ended: bool,
}

/// The studies below `results`, by folder name; a folder without a journal is passed over.
pub async fn list(results: &Path) -> Result<Vec<Entry>, StoreError> {
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => StoreError::Missing(format!(
            "there is no folder {}; name it with --results",
            results.display()
        )),
        _ => StoreError::Io(format!("could not read {}: {e}", results.display())),
    };
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(results).map_err(io)?.take(MOST) {
        let dir = entry.map_err(io)?.path();
        if dir.join(JOURNAL_FILE).is_file() {
            dirs.push(dir);
        }
    }
    dirs.sort();
    let mut entries = Vec::with_capacity(dirs.len());
    for dir in dirs {
        entries.push(look(dir).await);
    }
    Ok(entries)
}

async fn look(dir: PathBuf) -> Entry {
    let mut entry = Entry {
        dir,
        meta: Ok(None),
        trials: 0,
        decision: None,
        ended: false,
    };
    let found: Result<(), StoreError> = async {
        let journal = Sqlite::open_read_only(&entry.dir).await?;
        entry.meta = Ok(journal.meta().await?);
        entry.trials = journal.trial_count().await?;
        entry.decision = journal.events(super::kinds::DECISION).await?.pop();
        entry.ended = journal
            .events(super::kinds::NO_FINALS)
            .await?
            .pop()
            .and_then(|d| d.get("after_trial")?.as_u64())
            .is_some_and(|n| n == u64::from(entry.trials));
        journal.close().await;
        Ok(())
    }
    .await;
    if let Err(e) = found {
        entry.meta = Err(e);
    }
    entry
}

/// Renames the study folder `dir` to the first free of `dir.1`, `dir.2` ... and gives the new name. The
/// rename is one step and never replaces anything.
pub fn archive(dir: &Path) -> Result<PathBuf, StoreError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if !dir.exists() {
        return Err(StoreError::Missing(format!(
            "there is no study in {}",
            dir.display()
        )));
    }
    for n in 1..=MOST {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".{n}"));
        let target = PathBuf::from(name);
        match renameat_with(CWD, dir, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(target),
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {}
            Err(e) => {
                return Err(StoreError::Io(format!(
                    "could not move {} to {}: {e}",
                    dir.display(),
                    target.display()
                )));
            }
        }
    }
    Err(StoreError::Io(format!(
        "{} has {MOST} archives; move some of them away",
        dir.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks when an archive replaces an earlier one (an empty folder is what a plain rename would replace).
    #[test]
    fn archives_never_replace() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("pool");
        for n in 1..=3 {
            std::fs::create_dir(&dir).unwrap();
            if n == 2 {
                std::fs::write(dir.join("mark"), "second").unwrap();
            }
            let to = archive(&dir).unwrap();
            assert_eq!(to, tmp.path().join(format!("pool.{n}")));
            assert!(!dir.exists());
        }
        assert_eq!(
            std::fs::read_to_string(tmp.path().join("pool.2/mark")).unwrap(),
            "second"
        );
        assert!(matches!(archive(&dir), Err(StoreError::Missing(_))));
    }
}
