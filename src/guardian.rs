//! Gives the user's container, or a service its own spec, back when the tool itself was killed.
//!
//! A child in its own session reads notes from a pipe: what was parked, started, deployed. "done" ends it. The end of
//! the pipe without "done" means that the tool is gone, however it went: the guardian then ends process groups, runs a
//! teardown script, and gives containers back, waiting for a Docker daemon that is away. It holds the lock of the
//! results folder with the tool, so that the next run waits for it.
//!
//! What it cannot outlive, a reboot or its own kill -9, is what `autotune restore` and the next run are for: Docker's own
//! names and labels tell them what to do (`sut::docker::parking`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::lock::{self, Holder, Lock};
use crate::sut::child::{GroupChild, group_lives, signal_group, started_ticks};
use crate::sut::docker::engine::Engine;
use crate::sut::docker::parking::{self, Filter, GiveBack, RestoreError, Restored};
use crate::sut::docker::record::{Record, Step};
use crate::sut::swarm;
use crate::sut::{Note, Notes, SutError};

/// For the child to start and say so.
const START: Duration = Duration::from_secs(10);
/// For the child to end after "done".
const END: Duration = Duration::from_secs(5);
/// A process group between SIGTERM and SIGKILL.
const GROUP_GRACE: Duration = Duration::from_secs(5);
/// A teardown script.
const TEARDOWN: Duration = Duration::from_secs(300);
/// How long a daemon that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Between attempts, growing from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Attempts where something is in the way that only a person can judge.
const STUCK_TRIES: u32 = 3;
/// How long a name that is taken is waited for: what is going away is gone by then.
const TAKEN_PATIENCE: Duration = Duration::from_secs(600);
/// How long a tool that let go and still lives is waited for, where no lock says when it is gone.
const TOOL_END: Duration = Duration::from_secs(30);
/// Most reasons for waiting that are written down.
const MAX_REASONS: u32 = 20;
/// Longest note; a command's environment goes along.
const MAX_LINE: usize = 1 << 20;

/// What the pipe carries, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
enum Message {
    /// First.
    Hello { run: String, results: PathBuf, pid: u32 },
    /// Something to clean up, or not any more.
    Note {
        #[serde(flatten)]
        note: Note,
    },
    /// Everything is given back: last.
    Done,
}

type Pipe = Arc<Mutex<Option<ChildStdin>>>;

/// The tool's end. Dropped without `done`, the guardian does its work.
#[derive(Debug)]
pub struct Guardian {
    pipe: Pipe,
    child: Child,
    _lock: Lock,
}

/// How the child is started.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Additions to its environment.
    pub env: Vec<(String, String)>,
}

impl Launcher {
    /// Our own executable's hidden subcommand.
    pub fn own() -> Result<Self, SutError> {
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        Ok(Self {
            program,
            args: vec!["guardian".to_owned()],
            env: Vec::new(),
        })
    }
}

fn failed(e: &std::io::Error) -> SutError {
    SutError::Refused {
        exit: 74,
        message: format!("cannot start the guardian, without which nothing is touched: {e}"),
    }
}

impl Guardian {
    /// Locks the results folder for `run` and starts the guardian. Nothing may be parked or started before.
    pub async fn spawn(results: &Path, run: &str) -> Result<Self, SutError> {
        Self::spawn_with(&Launcher::own()?, results, run).await
    }

    /// The same with another executable, for tests.
    pub async fn spawn_with(launcher: &Launcher, results: &Path, run: &str) -> Result<Self, SutError> {
        let holder = Holder::this(run, &results.display().to_string(), false);
        let lock = Lock::results(results, &holder)
            .await
            .map_err(|e| with_container(e, results))?;
        let results = std::path::absolute(results).map_err(|e| failed(&e))?;
        let mut child = Command::new(&launcher.program)
            .args(&launcher.args)
            .envs(launcher.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // So that it holds the lock: the file, with the lock on it, is inherited. It writes nothing there.
            .stderr(lock.share().map_err(|e| failed(&e))?)
            .spawn()
            .map_err(|e| failed(&e))?;
        let ready = child.stdout.take();
        let pipe: Pipe = Arc::new(Mutex::new(child.stdin.take()));
        let guardian = Self {
            pipe,
            child,
            _lock: lock,
        };
        let hello = Message::Hello {
            run: run.to_owned(),
            results,
            pid: std::process::id(),
        };
        let is_up = tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(ready?).lines().take(100);
            lines.map_while(Result::ok).find(|l| l == READY)
        });
        send(&guardian.pipe, &hello).map_err(|e| failed(&e))?;
        match tokio::time::timeout(START, is_up).await {
            Ok(Ok(Some(_))) => Ok(guardian),
            _ => Err(failed(&std::io::Error::other("it did not say that it is ready"))),
        }
    }

    /// Where the sut tells what it does.
    #[must_use]
    pub fn notes(&self) -> Notes {
        let pipe = self.pipe.clone();
        Notes::to(move |note| {
            if let Err(e) = send(&pipe, &Message::Note { note: note.clone() }) {
                tracing::warn!(
                    "the guardian is gone ({e}); if the tool is killed now, run `autotune restore`"
                );
            }
        })
    }

    /// The guardian's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything was given back: the guardian ends.
    pub fn done(mut self) {
        if let Err(e) = send(&self.pipe, &Message::Done) {
            tracing::debug!("the guardian was gone already: {e}");
        }
        close(&self.pipe);
        let deadline = Instant::now() + END;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Who comes second is told which container the first works on, too.
fn with_container(e: SutError, results: &Path) -> SutError {
    match (e, Record::read(results)) {
        (SutError::Refused { exit: 75, message }, Some(r)) if message.contains(&r.run) => SutError::Refused {
            exit: 75,
            message: format!(
                "{message}; its container is {} ({})",
                r.name,
                parking::short(&r.id)
            ),
        },
        (e, _) => e,
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        close(&self.pipe);
    }
}

fn close(pipe: &Pipe) {
    pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn send(pipe: &Pipe, message: &Message) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut guard = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    match guard.as_mut() {
        Some(pipe) => pipe.write_all(&line),
        None => Err(std::io::ErrorKind::BrokenPipe.into()),
    }
}

const READY: &str = "guardian ready";

/// What the guardian knows.
#[derive(Debug, Default)]
struct Ward {
    run: String,
    results: PathBuf,
    tool: u32,
    groups: BTreeMap<u32, u64>,
    teardown: Option<(Vec<String>, BTreeMap<String, String>)>,
    /// Full id and name.
    parked: BTreeMap<String, String>,
    /// Services of a swarm: full id and name.
    services: BTreeMap<String, String>,
}

/// How the pipe ended.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Done,
    Gone,
}

impl Ward {
    fn take(&mut self, note: Note) {
        match note {
            Note::Group { pid, started } => {
                self.groups.insert(pid, started);
            }
            Note::GroupGone { pid } => {
                self.groups.remove(&pid);
            }
            Note::Deployed { teardown, env } => self.teardown = Some((teardown, env)),
            Note::TakenAway => self.teardown = None,
            Note::Parking { id, name } => {
                self.parked.insert(id, name);
            }
            Note::GivenBack { id } => {
                self.parked.remove(&id);
            }
            Note::ServiceUpdating { id, name } => {
                self.services.insert(id, name);
            }
            Note::ServiceGivenBack { id } => {
                self.services.remove(&id);
            }
        }
    }

    /// Follows the notes until "done" or the end.
    fn listen(&mut self, mut input: impl BufRead) -> Told {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = std::io::Read::take(&mut input, MAX_LINE as u64);
            match bounded.read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Told::Gone,
            }
            match serde_json::from_slice(&line) {
                Ok(Message::Hello { run, results, pid }) => {
                    (self.run, self.results, self.tool) = (run, results, pid);
                }
                Ok(Message::Note { note }) => self.take(note),
                Ok(Message::Done) => return Told::Done,
                // A line cut off by the tool's death: what it announced was not begun.
                Err(_) => {}
            }
        }
    }
}

/// The hidden subcommand `guardian`: returns the exit code.
pub async fn run_child() -> u8 {
    // Out of the terminal's reach: Ctrl-C goes to the session that is left here. An error means it leads one already.
    let _ = rustix::process::setsid();
    let _deaf = deaf();
    let mut out = std::io::stdout();
    if writeln!(out, "{READY}").and_then(|()| out.flush()).is_err() {
        return crate::exit::SOFTWARE;
    }
    let listened = tokio::task::spawn_blocking(|| {
        let mut ward = Ward::default();
        let told = ward.listen(std::io::stdin().lock());
        (ward, told)
    });
    match listened.await {
        Ok((_, Told::Done)) => crate::exit::OK,
        Ok((ward, Told::Gone)) => ward.clean_up().await,
        Err(_) => crate::exit::SOFTWARE,
    }
}

/// Signals that would end it come to nothing. Kept until the end.
fn deaf() -> Vec<tokio::signal::unix::Signal> {
    use tokio::signal::unix::{SignalKind, signal};
    [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ]
    .into_iter()
    .filter_map(|kind| signal(kind).ok())
    .collect()
}

impl Ward {
    fn say(&self, what: &str) {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        let opened = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.results.join("guardian.log"));
        if let Ok(mut file) = opened {
            // Nobody is left to hear that the log can't be written.
            let _ = writeln!(file, "{now} {what}");
        }
    }

    async fn clean_up(self) -> u8 {
        let is_idle = self.groups.is_empty() && self.teardown.is_none();
        if is_idle && self.parked.is_empty() && self.services.is_empty() {
            return crate::exit::OK;
        }
        self.say(&format!(
            "the tool (pid {}, run {}) is gone; cleaning up",
            self.tool, self.run
        ));
        let holder = Holder::this(&self.run, &self.results.display().to_string(), true);
        if let Ok(file) = std::fs::OpenOptions::new()
            .write(true)
            .open(lock::results_path(&self.results))
        {
            let _ = holder.write(&file);
        }
        for (pid, started) in &self.groups {
            end_group(*pid, *started).await;
            self.say(&format!("process group {pid} was ended"));
        }
        let mut code = crate::exit::OK;
        if let Some((command, env)) = &self.teardown
            && !tear_down(command, env).await
        {
            self.say("the teardown command failed; run it by hand");
            code = crate::exit::RESTORE_FAILED;
        }
        let mut tell = |end: Result<String, String>| {
            if end.is_err() {
                code = crate::exit::RESTORE_FAILED;
            }
            self.say(&end.unwrap_or_else(|why| why));
        };
        for (id, name) in &self.parked {
            tell(self.give_back(id, name).await);
        }
        for (id, name) in &self.services {
            tell(self.give_service_back(id, name).await);
        }
        code
    }

    async fn give_service_back(&self, id: &str, name: &str) -> Result<String, String> {
        let _lock = match self.lock(&swarm::lock_key(id), name).await {
            Ok(lock) => lock,
            Err(by) => return Ok(format!("service {name} is left to its new owner: {by}")),
        };
        let engine = Engine::from_env().map_err(|e| e.to_string())?;
        let attempt = async || swarm::restore::give_back(&engine, id).await;
        let mut restored = self.insist(attempt).await.map_err(|e| e.to_string())?;
        restored.extend(swarm::restore::settle(&engine, id).await);
        Ok(restored.first().map_or_else(
            || format!("service {name} had its own spec"),
            |r| format!("{} (given back by the guardian)", r.what),
        ))
    }

    async fn give_back(&self, id: &str, name: &str) -> Result<String, String> {
        let key = lock::container_key(parking::short(id));
        let _lock = match self.lock(&key, name).await {
            Ok(lock) => lock,
            Err(by) => return Ok(format!("container {name} is left to its new owner: {by}")),
        };
        let engine = Engine::from_env().map_err(|e| e.to_string())?;
        let filter = Filter::Originals(vec![id.to_owned()]);
        let mut attempts = GiveBack::new(&engine, &filter);
        let restored = self.insist(async || attempts.attempt().await).await;
        let restored = restored.map_err(|e| e.to_string())?;
        parking::settle(&engine, &filter, &restored).await;
        if let Some(mut record) = Record::read(&self.results).filter(|r| r.id == id) {
            record.step = Step::Restored;
            record.by_hand.clear();
            // The record is for people; the container is back with or without it.
            let _ = record.write(&self.results);
        }
        Ok(restored.first().map_or_else(
            || format!("container {name} was not parked any more"),
            |r| format!("{} (given back by the guardian)", r.what),
        ))
    }

    /// The container's lock, free as soon as the tool is really gone; None where none can be made, which is no reason to
    /// keep the container. Err where another run has it: that one restores.
    async fn lock(&self, key: &str, name: &str) -> Result<Option<Lock>, String> {
        let holder = Holder::this(&self.run, name, true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Lock::to_give_back(key, &holder, |why| self.say(why)).await {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {
                    self.outlive_the_tool().await;
                    return Ok(None);
                }
                // The tool closed its pipe and still lives: it is in the middle of its own restore.
                Err(e) if started_ticks(self.tool).is_none() || Instant::now() >= deadline => {
                    return Err(e.to_string());
                }
                Err(_) => tokio::time::sleep(PAUSES.0).await,
            }
        }
    }

    async fn outlive_the_tool(&self) {
        let deadline = Instant::now() + TOOL_END;
        while started_ticks(self.tool).is_some() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Tries until it is given back: for a day while the daemon is away or fails, for minutes where the name is taken.
    async fn insist(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<Vec<Restored>, RestoreError>,
    ) -> Result<Vec<Restored>, RestoreError> {
        let begun = Instant::now();
        let (mut pause, most) = PAUSES;
        let (mut stuck, mut reasons, mut said) = (0, 0, String::new());
        loop {
            let e = match attempt().await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            let is_over = match &e {
                RestoreError::Stuck { .. } => {
                    stuck += 1;
                    stuck >= STUCK_TRIES
                }
                RestoreError::Taken { .. } => begun.elapsed() >= TAKEN_PATIENCE,
                RestoreError::Away(_) | RestoreError::Failing { .. } => begun.elapsed() >= PATIENCE,
            };
            if is_over {
                return Err(e);
            }
            let reason = e.to_string();
            if reason != said && reasons < MAX_REASONS {
                self.say(&format!("waiting for docker: {reason}"));
                reasons += 1;
                said = reason;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
        }
    }
}

/// Ends a process group, if it is still the one that was told.
async fn end_group(pid: u32, started: u64) {
    // Another process with this pid now: the group is gone. No such process: only its children may be left.
    if started_ticks(pid).is_some_and(|now| now != started) {
        return;
    }
    for (signal, patience) in [(Signal::TERM, GROUP_GRACE), (Signal::KILL, GROUP_GRACE)] {
        signal_group(pid, signal);
        let deadline = Instant::now() + patience;
        while group_lives(pid) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn tear_down(command: &[String], env: &BTreeMap<String, String>) -> bool {
    let Some((program, args)) = command.split_first() else {
        return true;
    };
    let Ok(mut child) = GroupChild::spawn(program, args, env) else {
        return false;
    };
    let status = child.wait(TEARDOWN).await;
    child.release();
    status.is_some_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(lines: &[Message], tail: &str) -> (Ward, Told) {
        let mut text: String = lines
            .iter()
            .map(|m| serde_json::to_string(m).unwrap() + "\n")
            .collect();
        text += tail;
        let mut ward = Ward::default();
        let told = ward.listen(text.as_bytes());
        (ward, told)
    }

    fn note(note: Note) -> Message {
        Message::Note { note }
    }

    #[test]
    fn what_was_begun_and_not_ended_is_remembered() {
        let parking = |id: &str| {
            note(Note::Parking {
                id: id.into(),
                name: "web".into(),
            })
        };
        let lines = [
            note(Note::Group { pid: 7, started: 1 }),
            note(Note::Group { pid: 8, started: 2 }),
            note(Note::GroupGone { pid: 7 }),
            parking("a"),
            parking("b"),
            note(Note::GivenBack { id: "a".into() }),
        ];
        let (ward, told) = listen(&lines, r#"{"message":"note","note":"grou"#);
        assert_eq!(told, Told::Gone);
        assert_eq!(ward.groups, BTreeMap::from([(8, 2)]));
        assert_eq!(ward.parked.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn only_the_word_done_is_done() {
        assert_eq!(listen(&[], "").1, Told::Gone);
        assert_eq!(listen(&[Message::Done], "").1, Told::Done);
    }
}
