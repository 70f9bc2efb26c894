//! A child process in a group of its own, its output kept as a bounded tail, ended with a deadline.

use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Kept of what a child writes, both streams together.
const TAIL: usize = 64 << 10;
/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// After SIGKILL, for the kernel to clean up.
const REAP: Duration = Duration::from_secs(5);
/// Between two looks at a group that is ending.
const LOOK: Duration = Duration::from_millis(20);

type Tail = Arc<Mutex<VecDeque<u8>>>;

/// A running child and all that it started in its group.
#[derive(Debug)]
pub struct GroupChild {
    child: Child,
    pid: u32,
    tail: Tail,
    readers: Vec<tokio::task::JoinHandle<()>>,
    is_ours: bool,
}

impl Drop for GroupChild {
    /// The last resort when nobody called `end`: a group must not outlive the tool.
    fn drop(&mut self) {
        if self.is_ours {
            signal_group(self.pid, Signal::KILL);
        }
    }
}

impl GroupChild {
    /// Starts `program` with `args`, the environment of this process, and `env` over it.
    pub fn spawn(program: &str, args: &[String], env: &BTreeMap<String, String>) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            // The address of a shared study holds a password, and no service needs it.
            .env_remove("AUTOTUNE_STUDY")
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| std::io::Error::other("it ended at once"))?;
        let tail = Tail::default();
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(tokio::spawn(keep(out, tail.clone())));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(tokio::spawn(keep(err, tail.clone())));
        }
        Ok(Self {
            child,
            pid,
            tail,
            readers,
            is_ours: true,
        })
    }

    /// Process id, also the id of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, when it did.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, at most `most`.
    pub async fn wait(&mut self, most: Duration) -> Option<std::process::ExitStatus> {
        tokio::time::timeout(most, self.child.wait()).await.ok()?.ok()
    }

    /// What it wrote last. After its end, waits a moment for what is still in the pipes.
    pub async fn tail(&mut self) -> String {
        if self.ended().is_some() {
            for reader in &mut self.readers {
                // A grandchild may hold the pipe open.
                let _ = tokio::time::timeout(Duration::from_millis(500), reader).await;
            }
            self.readers.clear();
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is left of the group lives on when this is dropped: a script's work is what it left behind.
    pub fn release(&mut self) {
        self.is_ours = false;
    }

    /// Ends the whole group: SIGTERM, after `grace` SIGKILL. Returns whether nothing of it is left.
    pub async fn end(&mut self, grace: Duration) -> bool {
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, REAP)] {
            signal_group(self.pid, signal);
            let deadline = tokio::time::Instant::now() + patience;
            loop {
                let _ = self.child.try_wait();
                if !group_lives(self.pid) {
                    // The number may belong to somebody else from here on.
                    self.is_ours = false;
                    return true;
                }
                if tokio::time::Instant::now() >= deadline {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        false
    }
}

async fn keep(mut from: impl AsyncRead + Unpin, tail: Tail) {
    let mut chunk = [0_u8; 4096];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let mut kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(chunk.iter().take(n));
        let over = kept.len().saturating_sub(TAIL);
        kept.drain(..over);
    }
}

fn group(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Sends `signal` to every process of the group.
pub fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = group(pid) {
        // An error means that nobody is left.
        let _ = kill_process_group(group, signal);
    }
}

/// Whether a process of the group is left (one that ended and was not waited for counts).
#[must_use]
pub fn group_lives(pid: u32) -> bool {
    group(pid).is_some_and(|g| test_kill_process_group(g).is_ok())
}

/// Start time of a process in clock ticks since boot: with the pid, its identity.
#[must_use]
pub fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted after it. Field 22 of proc(5).
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
