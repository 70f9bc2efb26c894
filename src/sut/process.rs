//! The process sut: a command with environment variables and a port. Needs no Docker; limits are not possible here.
//!
//! The demo is this with our own executable. What was running before is nobody's business here: there is nothing to
//! give back, only to end.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::child::{GRACE, GroupChild, started_ticks};
use super::redact::Redactor;
use super::{Deployment, Health, Note, Notes, Sut, SutError, SutFacts, ready, tuned_env};
use crate::space::{Binding, Config, Parameter};
use crate::spec::SutSpec;
use crate::trial::Failure;
use crate::units::show_duration;

/// A command that serves.
#[derive(Debug)]
pub struct ProcessSut {
    spec: SutSpec,
    command: Vec<String>,
    child: Option<GroupChild>,
    redactor: Redactor,
    notes: Notes,
}

impl ProcessSut {
    /// Runs `command` (program and arguments) with the spec's environment.
    #[must_use]
    pub fn new(spec: &SutSpec, command: Vec<String>) -> Self {
        let added = spec.env.iter().map(|(k, v)| (k.as_str(), v.expose()));
        Self {
            redactor: Redactor::inherited(added),
            spec: spec.clone(),
            command,
            child: None,
            notes: Notes::default(),
        }
    }

    /// The demo API: a hidden subcommand of `executable`, normally our own.
    #[must_use]
    pub fn demo(spec: &SutSpec, executable: &Path) -> Self {
        let program = executable.to_string_lossy().into_owned();
        Self::new(spec, vec![program, "demo-api".to_owned()])
    }

    /// Who is told about children, so that they end when the tool is killed.
    pub fn set_notes(&mut self, notes: Notes) {
        self.notes = notes;
    }

    fn program(&self) -> Result<(PathBuf, &[String]), SutError> {
        let (program, args) = self
            .command
            .split_first()
            .ok_or_else(|| refused(65, "[sut] command is empty".into()))?;
        let found = resolve(program).ok_or_else(|| {
            refused(
                65,
                format!("[sut] command: there is no program `{program}`; give its path or install it"),
            )
        })?;
        Ok((found, args))
    }

    /// How the child ended, as the config's fault.
    async fn ended(&mut self) -> Option<SutError> {
        let child = self.child.as_mut()?;
        let status = child.ended()?;
        let what = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(9)) => "was killed with SIGKILL (out of memory? `dmesg` says so)".to_owned(),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        };
        let log = self.redactor.log(&child.tail().await);
        Some(SutError::Config {
            failure: Failure::Crash,
            detail: with_log(&what, &log),
        })
    }

    async fn wait_ready(&mut self, base: &str, since: Instant) -> Result<(), SutError> {
        let ready = self.spec.ready.clone();
        let outcome = ready::wait(base, &ready, since, async || {
            self.ended().await.map_or(Ok(()), Err)
        })
        .await;
        match outcome {
            Ok(()) => match self.ended().await {
                // Somebody else answers on the port.
                Some(e) => Err(e),
                None => Ok(()),
            },
            Err(ready::NotReady::Ended(e)) => Err(e),
            Err(ready::NotReady::Late(seen)) => {
                let log = self.log_tail().await;
                let what = format!(
                    "{} did not answer 2xx within {} ({seen})",
                    ready.path,
                    show_duration(ready.timeout)
                );
                Err(SutError::Config {
                    failure: Failure::NeverReady,
                    detail: with_log(&what, &log),
                })
            }
        }
    }
}

impl Sut for ProcessSut {
    async fn preflight(&mut self, parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        only_env(parameters, "process")?;
        let (program, _) = self.program()?;
        let (_, port) = base_url(&self.spec.url)?;
        if let Some(port) = port.filter(|_| self.child.is_none()) {
            port_is_free(port)?;
        }
        let identity = hash_of(&program);
        let mut facts = SutFacts {
            lines: vec![format!(
                "process {} is started for each trial and ended after it",
                program.display()
            )],
            identity: identity.clone(),
            secrets: self.redactor.secrets(),
            ..SutFacts::default()
        };
        facts
            .environment
            .insert("program".into(), program.display().to_string());
        facts.environment.insert("program_sha256".into(), identity);
        Ok(facts)
    }

    async fn deploy(
        &mut self,
        _trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        let since = Instant::now();
        self.teardown().await?;
        let (program, args) = self.program()?;
        let (mut url, port) = base_url(&self.spec.url)?;
        let tuned = tuned_env(parameters, config);
        let mut env: BTreeMap<String, String> = self
            .spec
            .env
            .iter()
            .map(|(k, v)| (k.clone(), v.expose().to_owned()))
            .collect();
        match port {
            Some(port) => port_is_free(port)?,
            None => {
                let port = free_port()?;
                env.insert("PORT".into(), port.to_string());
                url.set_port(Some(port))
                    .map_err(|()| refused(65, format!("`{}` can't have a port", self.spec.url)))?;
            }
        }
        env.extend(tuned.clone());
        let child = GroupChild::spawn(&program.to_string_lossy(), args, &env).map_err(|e| {
            refused(
                69,
                format!("cannot start `{}`: {e}; check [sut] command", program.display()),
            )
        })?;
        let pid = child.pid();
        self.notes.send(Note::Group {
            pid,
            started: started_ticks(pid).unwrap_or(0),
        });
        self.child = Some(child);
        let base = url.as_str().trim_end_matches('/').to_owned();
        if let Err(e) = self.wait_ready(&base, since).await {
            self.teardown().await?;
            return Err(e);
        }
        Ok(Deployment {
            urls: vec![base],
            proof: tuned.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            containers: Vec::new(),
            pids: vec![pid],
            ready_s: since.elapsed().as_secs_f64(),
        })
    }

    async fn health(&mut self) -> Health {
        if self.child.is_none() {
            return Health::Unknown("no process is deployed".into());
        }
        match self.ended().await {
            Some(SutError::Config { failure, detail }) => Health::Failed(failure, detail),
            Some(e) => Health::Unknown(e.to_string()),
            None => Health::Running,
        }
    }

    async fn log_tail(&mut self) -> String {
        match &mut self.child {
            Some(child) => self.redactor.log(&child.tail().await),
            None => String::new(),
        }
    }

    async fn teardown(&mut self) -> Result<(), SutError> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        let pid = child.pid();
        if !child.end(GRACE).await {
            return Err(SutError::Infrastructure(format!(
                "process group {pid} does not end even after SIGKILL"
            )));
        }
        self.child = None;
        self.notes.send(Note::GroupGone { pid });
        Ok(())
    }

    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        self.teardown().await?;
        Ok(None)
    }
}

fn refused(exit: u8, message: String) -> SutError {
    SutError::Refused { exit, message }
}

fn with_log(what: &str, log: &str) -> String {
    if log.is_empty() {
        format!("{what}; it wrote nothing")
    } else {
        format!("{what}; its last lines:\n{log}")
    }
}

/// Limits and instances need containers.
pub(super) fn only_env(parameters: &[Parameter], kind: &str) -> Result<(), SutError> {
    let not_possible: Vec<&str> = parameters
        .iter()
        .filter(|p| matches!(p.binding, Binding::Limit(_) | Binding::Replicas))
        .map(|p| p.name.as_str())
        .collect();
    if not_possible.is_empty() {
        return Ok(());
    }
    Err(refused(
        65,
        format!(
            "a {kind} sut takes environment variables only, and these parameters set limits or replicas: {}; \
             use kind = \"docker\"",
            not_possible.join(", ")
        ),
    ))
}

/// The spec's URL, and its port unless that is 0.
pub(super) fn base_url(text: &str) -> Result<(reqwest::Url, Option<u16>), SutError> {
    let url = reqwest::Url::parse(text).map_err(|e| refused(65, format!("`{text}` is not a URL: {e}")))?;
    let port = url.port_or_known_default().filter(|p| *p != 0);
    Ok((url, port))
}

/// Another server there would answer in the trial's place.
fn port_is_free(port: u16) -> Result<(), SutError> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    if TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err() {
        return Ok(());
    }
    Err(refused(
        69,
        format!(
            "port {port} is in use by another program (`ss -ltnp` says by which); stop it, or use port 0 in [sut] url"
        ),
    ))
}

/// A port that was free a moment ago; the kernel does not hand it out again soon.
fn free_port() -> Result<u16, SutError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|e| SutError::Infrastructure(format!("no free port: {e}")))
}

/// As a shell finds it: a path as it is, a name along PATH.
pub(super) fn resolve(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| p.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|p| p.is_file())
}

/// SHA-256 of the file, or why not: trials of one study share it.
pub(super) fn hash_of(program: &Path) -> String {
    let mut hash = Sha256::new();
    let copied = std::fs::File::open(program).and_then(|mut f| std::io::copy(&mut f, &mut hash));
    match copied {
        Ok(_) => hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        Err(e) => format!("unreadable ({})", e.kind()),
    }
}
