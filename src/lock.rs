//! One run for each container and for each results folder: file locks of the kernel, which end with their holder.
//!
//! A lock that had to be renewed would fail living runs on a busy machine. Who holds a lock is written into its file, for
//! the message to the one who comes second. A guardian that is giving a container back is waited for.
//!
//! Locks of containers lie in the machine's folder for temporary files: two machines that share a remote engine don't
//! see each other's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::sut::SutError;

/// How long a holder that is about to end is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a guardian is waited for: it gives back within 30 s when Docker answers.
const GUARDIAN_PATIENCE: Duration = Duration::from_secs(90);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// A lock file holds one line.
const MAX_HOLDER: u64 = 4096;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The run.
    pub run: String,
    /// The container or folder.
    pub what: String,
    /// Set while a guardian cleans up after the run.
    pub guardian: bool,
}

impl Holder {
    /// This process, working on `what`.
    #[must_use]
    pub fn this(run: &str, what: &str, guardian: bool) -> Self {
        Self {
            pid: std::process::id(),
            run: run.to_owned(),
            what: what.to_owned(),
            guardian,
        }
    }

    fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        let file = File::open(path).ok()?;
        file.take(MAX_HOLDER).read_to_string(&mut text).ok()?;
        serde_json::from_str(text.lines().next()?).ok()
    }

    /// Writes the holder's name into a lock file that is held.
    pub fn write(&self, mut file: &File) -> std::io::Result<()> {
        use std::io::Seek;
        file.set_len(0)?;
        file.rewind()?;
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

/// A lock that is held; dropped, or its process dead, it is free.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The lock of a container, by a key that is the same for every run ("container-0123456789ab").
    pub async fn container(key: &str, holder: &Holder) -> Result<Self, SutError> {
        let folder = std::env::temp_dir().join("autotune-locks");
        let path = folder.join(format!("{key}.lock"));
        let file = shared_file(&folder, &path)
            .map_err(|e| unwritable(&path, &e, "make it writable, or set TMPDIR to a folder that is"))?;
        Self::take(file, &path, holder).await
    }

    /// The container's lock for giving back, which a lock that can't be made must not prevent: None then, and `warn` is told
    /// why. Whoever else gives the same container back does the same to it.
    ///
    /// # Errors
    /// Only with exit code 75: somebody else has it, and gives it back at its own end.
    pub async fn to_give_back(
        key: &str,
        holder: &Holder,
        warn: impl FnOnce(&str),
    ) -> Result<Option<Self>, SutError> {
        match Self::container(key, holder).await {
            Ok(lock) => Ok(Some(lock)),
            Err(e @ SutError::Refused { exit: 75, .. }) => Err(e),
            Err(e) => {
                warn(&format!("{e}; giving back goes on without it"));
                Ok(None)
            }
        }
    }

    /// The lock of a results folder. It lies beside the folder, which `--fresh` moves away.
    pub async fn results(folder: &Path, holder: &Holder) -> Result<Self, SutError> {
        let path = results_path(folder);
        let file = private_file(&path).map_err(|e| unwritable(&path, &e, ELSEWHERE))?;
        Self::take(file, &path, holder).await
    }

    async fn take(file: File, path: &Path, holder: &Holder) -> Result<Self, SutError> {
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Held is held; the name is only for the message to the one who comes second.
                    if let Err(e) = holder.write(&file) {
                        tracing::debug!("cannot write the holder into {}: {e}", path.display());
                    }
                    return Ok(Self { file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(unwritable(path, &e.into(), ELSEWHERE)),
            }
            let other = Holder::read(path);
            let patience = match &other {
                Some(h) if h.guardian => GUARDIAN_PATIENCE,
                _ => PATIENCE,
            };
            if begun.elapsed() >= patience {
                return Err(busy(holder, other.as_ref()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The locked file: who inherits it holds the lock too.
    pub fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn busy(wanted: &Holder, other: Option<&Holder>) -> SutError {
    let message = match other {
        Some(h) if h.guardian => format!(
            "the guardian (pid {}) of run {} is still giving {} back, it waits for docker (its guardian.log says for what); \
             try again later",
            h.pid, h.run, h.what
        ),
        Some(h) => format!(
            "{} is in use by run {} (pid {}, working on {}); wait for it or stop it: kill {}",
            wanted.what, h.run, h.pid, h.what, h.pid
        ),
        None => format!("{} is in use by another run", wanted.what),
    };
    SutError::Refused { exit: 75, message }
}

/// What mends a folder that can't be written.
const ELSEWHERE: &str = "make the folder writable and the disk not full, or name another with --results DIR";

fn unwritable(path: &Path, e: &std::io::Error, remedy: &str) -> SutError {
    SutError::Refused {
        exit: 74,
        message: format!("cannot lock {}: {e}; {remedy}", path.display()),
    }
}

/// Whether a run could write into the results folder `folder`, looking only: the nearest folder that exists must be
/// writable for this user. A full disk is not seen.
///
/// # Errors
/// With exit code 74 and what mends it.
pub fn would_write(folder: &Path) -> Result<(), SutError> {
    use rustix::fs::{Access, access};
    let parent = folder.parent().unwrap_or(Path::new(""));
    let here = |p: &Path| match p.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => p.to_owned(),
    };
    let existing = folder.exists().then(|| folder.to_owned());
    // The lock lies beside the study's folder, the tables in it.
    let beside = parent.ancestors().map(here).find(|p| p.exists());
    for place in [existing, beside].into_iter().flatten() {
        if !place.is_dir() {
            let e = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(unwritable(&place, &e, ELSEWHERE));
        }
        access(&place, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|e| unwritable(&place, &e.into(), ELSEWHERE))?;
    }
    Ok(())
}

fn private_file(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Everybody's: another user may tune the same container. Kernels refuse O_CREAT on others' files in such folders.
fn shared_file(folder: &Path, path: &Path) -> std::io::Result<File> {
    let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
    if made.is_ok() {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777))?;
    }
    let mut options = OpenOptions::new();
    // A link that somebody put there is not followed.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    options
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0));
    match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        // To hold the lock it need not be written.
        Err(e) if is_denied(&e) => return options.write(false).open(path),
        other => return other,
    }
    match options.clone().create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => options.open(path),
        Err(e) => Err(e),
    }
}

fn is_denied(e: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(e.kind(), Kind::PermissionDenied | Kind::ReadOnlyFilesystem)
}

/// The lock's name of a container.
#[must_use]
pub fn container_key(short_id: &str) -> String {
    format!("container-{short_id}")
}

/// Where a results folder's lock lies: `.NAME.lock` beside it.
#[must_use]
pub fn results_path(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_stays_when_the_folder_is_moved_away() {
        assert_eq!(
            results_path(Path::new("results/smoke/")),
            Path::new("results/.smoke.lock")
        );
        assert_eq!(results_path(Path::new("smoke")), Path::new(".smoke.lock"));
    }

    #[tokio::test]
    async fn the_second_is_told_who_the_first_is_and_gets_in_when_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("study");
        let first = Lock::results(&folder, &Holder::this("run-1", "results/x", false))
            .await
            .unwrap();
        let wanted = Holder::this("run-2", "results/x", false);
        let e = Lock::results(&folder, &wanted).await.unwrap_err();
        let SutError::Refused { exit, message } = e else {
            panic!("{e:?}")
        };
        assert_eq!(exit, 75);
        assert!(
            message.contains("run-1") && message.contains(&std::process::id().to_string()),
            "{message}"
        );
        drop(first);
        Lock::results(&folder, &wanted).await.unwrap();
    }

    /// Breaks when a full disk, on which the holder's name can't be written, keeps anybody from holding a lock.
    #[tokio::test]
    async fn a_lock_is_held_where_its_file_cannot_be_written() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("l.lock");
        std::fs::write(&path, "").unwrap();
        let holder = Holder::this("r", "x", false);
        let first = Lock::take(File::open(&path).unwrap(), &path, &holder)
            .await
            .unwrap();
        let second = Lock::take(File::open(&path).unwrap(), &path, &holder).await;
        assert!(
            matches!(second, Err(SutError::Refused { exit: 75, .. })),
            "{second:?}"
        );
        drop(first);
    }

    #[tokio::test]
    async fn a_shared_file_keeps_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("study");
        let holder = Holder::this("r", "x", false);
        let lock = Lock::results(&folder, &holder).await.unwrap();
        let heir = lock.share().unwrap();
        drop(lock);
        assert!(Lock::results(&folder, &holder).await.is_err());
        drop(heir);
        assert!(Lock::results(&folder, &holder).await.is_ok());
    }

    #[tokio::test]
    async fn a_guardian_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("study");
        let lock = Lock::results(&folder, &Holder::this("r", "x", true))
            .await
            .unwrap();
        let path = folder.clone();
        let second = tokio::spawn(async move { Lock::results(&path, &Holder::this("s", "x", false)).await });
        // longer than the patience with anybody else
        tokio::time::sleep(PATIENCE + Duration::from_millis(500)).await;
        assert!(!second.is_finished());
        drop(lock);
        assert!(second.await.unwrap().is_ok());
    }
}
