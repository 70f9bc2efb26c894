//! The command sut: somebody's own scripts deploy and take away. The parameters are environment variables of both.
//!
//! `deploy` must return when the service is up, or is about to be: `ready` is polled afterwards. Its exit status 75
//! (a temporary failure, sysexits.h) means the infrastructure, any other failure means the config.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::child::GroupChild;
use super::process::{base_url, hash_of, resolve};
use super::redact::Redactor;
use super::{Deployment, Health, Note, Notes, Sut, SutError, SutFacts, ready};
use crate::space::{Binding, Config, Parameter};
use crate::spec::SutSpec;
use crate::trial::Failure;

/// A script that says "not my config's fault": `EX_TEMPFAIL`.
const TEMPORARY: i32 = 75;
/// Longest run of `teardown`.
const TEARDOWN: Duration = Duration::from_secs(300);
/// Between SIGTERM and SIGKILL of a script past its deadline.
const GRACE: Duration = Duration::from_secs(5);

/// Two scripts.
#[derive(Debug)]
pub struct CommandSut {
    spec: SutSpec,
    deploy: Vec<String>,
    teardown: Vec<String>,
    /// The environment of the deployment that is up, for its teardown.
    up: Option<BTreeMap<String, String>>,
    log: String,
    redactor: Redactor,
    notes: Notes,
}

impl CommandSut {
    /// Runs `deploy` for each trial and `teardown` after it; an empty `teardown` is skipped.
    #[must_use]
    pub fn new(spec: &SutSpec, deploy: &[String], teardown: &[String]) -> Self {
        let added = spec.env.iter().map(|(k, v)| (k.as_str(), v.expose()));
        Self {
            redactor: Redactor::inherited(added),
            spec: spec.clone(),
            deploy: deploy.to_vec(),
            teardown: teardown.to_vec(),
            up: None,
            log: String::new(),
            notes: Notes::default(),
        }
    }

    /// Who is told about deployments, so that they are taken away when the tool is killed.
    pub fn set_notes(&mut self, notes: Notes) {
        self.notes = notes;
    }

    fn env(&self, trial: u32, parameters: &[Parameter], config: &Config) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = self
            .spec
            .env
            .iter()
            .map(|(k, v)| (k.clone(), v.expose().to_owned()))
            .collect();
        for p in parameters {
            let Some(value) = config.get(&p.name) else {
                continue;
            };
            let name = match &p.binding {
                Binding::Env(name) => name.clone(),
                // Limits and replicas are the script's business here.
                _ => format!("AUTOTUNE_{}", p.name.to_uppercase()),
            };
            env.insert(name, value.to_string());
        }
        env.insert("AUTOTUNE_TRIAL".into(), trial.to_string());
        env
    }
}

/// Runs a script to its end; its output, and its status where it ended in time.
async fn run(
    command: &[String],
    env: &BTreeMap<String, String>,
    most: Duration,
) -> Result<(Option<i32>, String), SutError> {
    let Some((program, args)) = command.split_first() else {
        return Ok((Some(0), String::new()));
    };
    let mut child = GroupChild::spawn(program, args, env).map_err(|e| SutError::Refused {
        exit: 69,
        message: format!("cannot run `{program}`: {e}"),
    })?;
    let status = child.wait(most).await;
    if status.is_none() {
        child.end(GRACE).await;
    }
    let output = child.tail().await;
    // What a script leaves in the background is what it deployed: only a late one is ended.
    let code = status.map(|s| s.code().unwrap_or(-1));
    child.release();
    Ok((code, output))
}

impl Sut for CommandSut {
    async fn preflight(&mut self, _parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        let (_, port) = base_url(&self.spec.url)?;
        let wrong = |message: String| Err(SutError::Refused { exit: 65, message });
        if port.is_none() {
            return wrong("a command sut needs the port in [sut] url: port 0 is for process".into());
        }
        let mut facts = SutFacts {
            secrets: self.redactor.secrets(),
            ..SutFacts::default()
        };
        for (key, command) in [("deploy", &self.deploy), ("teardown", &self.teardown)] {
            let Some(program) = command.first() else {
                if key == "deploy" {
                    return wrong("[sut] deploy is empty".into());
                }
                facts
                    .warnings
                    .push("no teardown: the last trial stays as it is".into());
                continue;
            };
            let Some(found) = resolve(program) else {
                return wrong(format!("[sut] {key}: there is no program `{program}`"));
            };
            facts.lines.push(format!("{key}: {}", found.display()));
            if key == "deploy" {
                facts.identity = hash_of(&found);
            }
        }
        Ok(facts)
    }

    async fn deploy(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        let since = Instant::now();
        self.teardown().await?;
        let env = self.env(trial, parameters, config);
        self.notes.send(Note::Deployed {
            teardown: self.teardown.clone(),
            env: env.clone(),
        });
        self.up = Some(env.clone());
        let (status, output) = run(&self.deploy, &env, self.spec.ready.timeout).await?;
        self.log = self.redactor.log(&output);
        let failed = match status {
            Some(0) => None,
            Some(TEMPORARY) => Some(SutError::Infrastructure(format!(
                "deploy says that it is not the config's fault:\n{}",
                self.log
            ))),
            Some(code) => Some(SutError::Config {
                failure: Failure::Crash,
                detail: format!("deploy exited with status {code}:\n{}", self.log),
            }),
            None => Some(SutError::Config {
                failure: Failure::NeverReady,
                detail: format!("deploy did not return within ready.timeout:\n{}", self.log),
            }),
        };
        let base = self.spec.url.trim_end_matches('/').to_owned();
        let result = match failed {
            Some(e) => Err(e),
            None => match ready::wait(&base, &self.spec.ready, since, async || Ok(())).await {
                Ok(()) => Ok(()),
                Err(ready::NotReady::Ended(e)) => Err(e),
                Err(ready::NotReady::Late(seen)) => Err(SutError::Config {
                    failure: Failure::NeverReady,
                    detail: format!("{} did not answer 2xx in time ({seen})", self.spec.ready.path),
                }),
            },
        };
        if let Err(e) = result {
            self.teardown().await?;
            return Err(e);
        }
        let is_tuned = |name: &str| !self.spec.env.contains_key(name);
        Ok(Deployment {
            urls: vec![base],
            proof: env
                .iter()
                .filter(|(k, _)| is_tuned(k))
                .map(|(k, v)| format!("{k}={v} (given to deploy)"))
                .collect(),
            containers: Vec::new(),
            pids: Vec::new(),
            ready_s: since.elapsed().as_secs_f64(),
        })
    }

    async fn health(&mut self) -> Health {
        match self.up {
            Some(_) => Health::Running,
            None => Health::Unknown("nothing is deployed".into()),
        }
    }

    async fn log_tail(&mut self) -> String {
        self.log.clone()
    }

    async fn teardown(&mut self) -> Result<(), SutError> {
        let Some(env) = self.up.clone() else {
            return Ok(());
        };
        let (status, output) = run(&self.teardown, &env, TEARDOWN).await?;
        if status != Some(0) {
            let how = status.map_or("did not return in time".to_owned(), |c| {
                format!("exited with status {c}")
            });
            return Err(SutError::Infrastructure(format!(
                "teardown {how}:\n{}",
                self.redactor.log(&output)
            )));
        }
        self.up = None;
        self.notes.send(Note::TakenAway);
        Ok(())
    }

    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        let was_up = self.up.is_some();
        self.teardown().await?;
        Ok(was_up.then(|| "teardown was run".to_owned()))
    }
}
