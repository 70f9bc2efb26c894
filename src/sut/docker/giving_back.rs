//! Giving the original back: attempts that each start from what is observed, until it has its name again and runs if it ran.
//!
//! An error says whether the same again is worth trying: a daemon that is away or fails (5xx) may recover, a name that is
//! taken (409) may be free in a moment. How long to try is the caller's business: the tool has half a minute, the
//! guardian a day, `autotune restore` what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::engine::{Engine, EngineError, Listed};
use super::find::Original;
use super::parking::{self, Filter, LONG_GRACE, Parked, observe, remove_trials, start};
use crate::sut::SutError;

/// A call may still be under way in the daemon when its caller is gone: looked at again after this.
const SETTLE: Duration = Duration::from_secs(1);
/// How often it looks again before it believes that it is over.
const LOOKS: u32 = 10;

/// What a restore did to one original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Whether it runs now, as it did before it was parked.
    pub runs: bool,
    /// One sentence for people.
    pub what: String,
}

/// Why a restore did not get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The daemon does not answer: the same again later.
    #[error("{0}")]
    Away(EngineError),
    /// The daemon has an error of its own (5xx; a busy port is one too): the same again later.
    #[error("could not give {name} back yet: {detail}; if it lasts, run: {commands}")]
    Failing {
        /// The container.
        name: String,
        /// What the daemon said.
        detail: String,
        /// What does it by hand.
        commands: String,
    },
    /// The name is taken, or something else contradicts (409): a trial that appears late goes away at the next attempt, a
    /// stranger's container does not.
    #[error("could not give {name} back yet: {detail}; if it lasts, run: {commands}")]
    Taken {
        /// The container.
        name: String,
        /// What the daemon said.
        detail: String,
        /// What does it by hand.
        commands: String,
    },
    /// Something is in the way that only a person can judge.
    #[error("could not give {name} back: {detail}; run: {commands}")]
    Stuck {
        /// The container.
        name: String,
        /// What is in the way.
        detail: String,
        /// What does it by hand.
        commands: String,
    },
}

impl RestoreError {
    /// Whether the same again may get through without anybody's help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::Stuck { .. })
    }

    fn of(e: EngineError, parked: &Parked) -> Self {
        let (name, detail, commands) = (parked.original.name.clone(), e.to_string(), parked.commands());
        match e {
            EngineError::Away(_) | EngineError::Missing(_) | EngineError::Late(_) => Self::Away(e),
            EngineError::Status(500.., _) => Self::Failing {
                name,
                detail,
                commands,
            },
            EngineError::Conflict(_) => Self::Taken {
                name,
                detail,
                commands,
            },
            _ => Self::Stuck {
                name,
                detail,
                commands,
            },
        }
    }
}

impl From<RestoreError> for SutError {
    fn from(e: RestoreError) -> Self {
        match e {
            RestoreError::Away(e) => e.into_sut(),
            RestoreError::Failing {
                name,
                detail,
                commands,
            }
            | RestoreError::Taken {
                name,
                detail,
                commands,
            }
            | RestoreError::Stuck {
                name,
                detail,
                commands,
            } => Self::RestoreFailed {
                name,
                detail,
                commands,
            },
        }
    }
}

/// One attempt. Idempotent. All that `filter` takes are tried; the first error is returned.
pub async fn restore_all(engine: &Engine, filter: &Filter) -> Result<Vec<Restored>, RestoreError> {
    GiveBack::new(engine, filter).attempt().await
}

/// Attempts at the same thing, one after the other: a later one knows what an earlier one did.
#[derive(Debug)]
pub struct GiveBack<'a> {
    engine: &'a Engine,
    filter: &'a Filter,
    /// Begun and not seen back, by id.
    begun: BTreeMap<String, Parked>,
    /// Started here: not to be stopped again.
    started: BTreeSet<String>,
}

impl<'a> GiveBack<'a> {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(engine: &'a Engine, filter: &'a Filter) -> Self {
        Self {
            engine,
            filter,
            begun: BTreeMap::new(),
            started: BTreeSet::new(),
        }
    }

    /// Gives back everything that the filter takes, from what is listed now. All are tried; the first error is returned.
    pub async fn attempt(&mut self) -> Result<Vec<Restored>, RestoreError> {
        let all = self.engine.list().await.map_err(RestoreError::Away)?;
        let seen = observe(&all, self.filter);
        // Has its name already, by an attempt that broke off before it was seen to run.
        let half: Vec<Parked> = self
            .begun
            .values()
            .filter(|b| seen.iter().all(|p| p.original.id != b.original.id))
            .cloned()
            .collect();
        let mut done = Vec::new();
        let mut first_error = None;
        for parked in &seen {
            match self.one(parked).await {
                Ok(restored) => done.push(restored),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        for parked in &half {
            match self.see_through(parked).await {
                Ok(restored) => done.push(restored),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        first_error.map_or(Ok(done), Err)
    }

    async fn one(&mut self, parked: &Parked) -> Result<Restored, RestoreError> {
        let o = &parked.original;
        let failed = |e| RestoreError::of(e, parked);
        if o.is_parked {
            self.begun.insert(o.id.clone(), parked.clone());
        }
        remove_trials(self.engine, &parked.trials).await.map_err(failed)?;
        if !parked.exists {
            return Ok(Restored {
                name: o.name.clone(),
                id: o.id.clone(),
                runs: false,
                what: format!(
                    "the trial of {} is removed; the container itself was removed by somebody: {}",
                    o.name,
                    o.mend()
                ),
            });
        }
        if o.is_parked {
            // The old name comes last: as long as the parked one is there, a repeat knows what is left to do.
            if o.was_running {
                if parked.is_up && !self.started.contains(&o.id) {
                    // A stop that the tool asked for just before it was killed may be under way: starting would find it
                    // running, and then it ends. Stopping waits for that.
                    let stopped = self.engine.stop(&o.id, None, LONG_GRACE).await;
                    stopped.map_err(failed)?;
                }
                start(self.engine, &o.id).await.map_err(failed)?;
                self.started.insert(o.id.clone());
            }
            self.engine.rename(&o.id, &o.name).await.map_err(failed)?;
        }
        self.verified(parked).await
    }

    /// It has its name; what is left is that it runs.
    async fn see_through(&mut self, parked: &Parked) -> Result<Restored, RestoreError> {
        let o = &parked.original;
        if o.was_running {
            let started = start(self.engine, &o.id).await;
            started.map_err(|e| RestoreError::of(e, parked))?;
        }
        self.verified(parked).await
    }

    async fn verified(&mut self, parked: &Parked) -> Result<Restored, RestoreError> {
        let all = self.engine.list().await.map_err(RestoreError::Away)?;
        let o = &parked.original;
        if let Some(detail) = wrong(&all, o) {
            return Err(RestoreError::Stuck {
                name: o.name.clone(),
                detail,
                commands: parked.commands(),
            });
        }
        self.begun.remove(&o.id);
        let state = match o.was_running {
            true => "running",
            false => "stopped, as it was",
        };
        Ok(Restored {
            name: o.name.clone(),
            id: o.id.clone(),
            runs: o.was_running,
            what: format!("container {} is back ({state})", o.name),
        })
    }
}

/// What is not as it was.
fn wrong(all: &[Listed], o: &Original) -> Option<String> {
    match all.iter().find(|c| c.id == o.id) {
        None => Some("it is gone".to_owned()),
        Some(c) if c.name != o.name => Some(format!("its name is {}", c.name)),
        Some(c) if o.was_running && !c.is_up() => {
            Some(format!("it ended right after its start ({})", c.state))
        }
        Some(_) => None,
    }
}

/// A call that nobody saw the end of may take effect after everything was looked at: looks until nothing changes any
/// more. What that gave back.
pub async fn settle(engine: &Engine, filter: &Filter, restored: &[Restored]) -> Vec<Restored> {
    let mut more: Vec<Restored> = Vec::new();
    for _ in 0..LOOKS {
        tokio::time::sleep(SETTLE).await;
        let again = restore_all(engine, filter).await;
        let Ok(all) = engine.list().await else { continue };
        let mut is_calm = again.as_ref().is_ok_and(Vec::is_empty);
        more.extend(again.unwrap_or_default());
        for r in restored.iter().chain(&more).filter(|r| r.runs) {
            if all.iter().any(|c| c.id == r.id && !c.is_up()) {
                is_calm = false;
                // Looked at again: whether it worked shows then.
                let _ = parking::start(engine, &r.id).await;
            }
        }
        if is_calm {
            break;
        }
    }
    more
}
