//! Watches the daemon's container events: out-of-memory kills of children, which no flag shows, and what others do to
//! the trial and the parked original.
//!
//! A stream that ends says only that something is unknown from here on: it is opened again from the last event on, and
//! the gap is remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::engine::{Engine, EngineError};
use super::find::Original;
use super::neighbours::Neighbours;
use super::parking;

/// Pauses between attempts to open the stream again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a stream that broke off is waited for where the daemon answers: a few attempts.
const OPEN_SOON: Duration = Duration::from_secs(10);
/// A daemon that comes up again starts what its restart policies say, for about this long.
const BOOT: Duration = Duration::from_secs(20);
/// Trials that are remembered; more never run at once.
const MOST_TRIALS: usize = 64;

/// What happened to a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrialEvents {
    /// Processes of it that were killed for memory.
    pub oom: u32,
    /// It was sent a signal through Docker that we didn't send.
    pub killed: bool,
    /// Its main process ended with this status.
    pub died: Option<i64>,
}

#[derive(Debug, Default)]
struct Seen {
    trials: BTreeMap<String, TrialEvents>,
    foreign: Option<String>,
    neighbours: Neighbours,
    trouble: Option<String>,
    gaps: u32,
    is_broken: bool,
    reopened: Option<Instant>,
    last_nano: Option<i64>,
}

/// A running subscription; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Subscribes; when this returns, nothing that happens from now on is missed.
    pub async fn begin(engine: &Engine, original: &Original) -> Result<Self, EngineError> {
        let mut lines = engine.events("").await?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (engine, original, shared) = (engine.clone(), original.clone(), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                while let Some(event) = lines.next().await {
                    lock(&shared).take(&event, &original);
                }
                {
                    let mut seen = lock(&shared);
                    seen.gaps += 1;
                    seen.is_broken = true;
                }
                lines = reopen(&engine, &shared).await;
                let mut seen = lock(&shared);
                seen.reopened = Some(Instant::now());
                seen.is_broken = false;
            }
        });
        Ok(Self { seen, task })
    }

    /// From now on `id` is ours and watched.
    pub fn add(&self, id: &str) {
        let mut seen = lock(&self.seen);
        if seen.trials.len() < MOST_TRIALS {
            seen.trials.insert(id.to_owned(), TrialEvents::default());
        }
    }

    /// From now on what happens to `id` is our own doing.
    pub fn forget(&self, id: &str) {
        lock(&self.seen).trials.remove(id);
    }

    /// What happened to `id` so far.
    #[must_use]
    pub fn of(&self, id: &str) -> TrialEvents {
        lock(&self.seen).trials.get(id).copied().unwrap_or_default()
    }

    /// What somebody else did, where it matters.
    #[must_use]
    pub fn foreign(&self) -> Option<String> {
        lock(&self.seen).foreign.clone()
    }

    /// From now on what happens to these is told, until the next call.
    pub(super) fn mind(&self, neighbours: &Neighbours) {
        let mut seen = lock(&self.seen);
        seen.trouble = None;
        if seen.neighbours != *neighbours {
            seen.neighbours = neighbours.clone();
        }
    }

    /// What happened since then to a service that ours leans on.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        lock(&self.seen).trouble.clone()
    }

    /// Until the stream is open again, for a moment: what happens while it is not is not seen. Says whether it is.
    pub async fn is_open_soon(&self) -> bool {
        let deadline = Instant::now() + OPEN_SOON;
        while lock(&self.seen).is_broken {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// How often the stream broke off.
    #[must_use]
    pub fn gaps(&self) -> u32 {
        lock(&self.seen).gaps
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // The state is plain data: right after a panic as before it.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the daemon is back, or the watch is dropped.
async fn reopen(engine: &Engine, seen: &Mutex<Seen>) -> super::raw::Lines {
    loop {
        tokio::time::sleep(RETRY).await;
        let since = lock(seen)
            .last_nano
            .map(|n| format!("{}.{:09}", n / 1_000_000_000, n % 1_000_000_000 + 1))
            .unwrap_or_default();
        if let Ok(lines) = engine.events(&since).await {
            return lines;
        }
    }
}

impl Seen {
    fn take(&mut self, event: &Json, original: &Original) {
        if let Some(nano) = event["timeNano"].as_i64() {
            self.last_nano = Some(nano);
        }
        let action = event["Action"].as_str().unwrap_or_default();
        let id = event["Actor"]["ID"].as_str().unwrap_or_default();
        let attributes = &event["Actor"]["Attributes"];
        let text = |key: &str| attributes[key].as_str().unwrap_or_default();
        if let Some(what) = self.neighbours.trouble(action, attributes) {
            self.trouble.get_or_insert(what);
        }
        if let Some(trial) = self.trials.get_mut(id) {
            match action {
                "oom" => trial.oom += 1,
                "die" => trial.died = text("exitCode").parse().ok(),
                "kill" => trial.killed = true,
                "destroy" | "pause" | "rename" | "restart" | "update" => {
                    self.foreign(format!(
                        "somebody did `{action}` to the trial of {}",
                        original.name
                    ));
                }
                _ => {}
            }
        } else if id == original.id {
            match action {
                // Restart policy `always`, under the parked name too: the next trial parks it again.
                "start" if self.reopened.is_some_and(|t| t.elapsed() < BOOT) => {}
                "start" | "destroy" => {
                    let done = if action == "start" { "started" } else { "removed" };
                    self.foreign(format!("somebody {done} the parked container {}", original.name));
                }
                "rename" if text("name") != parking::parked_name(&original.name, original.was_running) => {
                    self.foreign(format!("somebody renamed the parked container {}", original.name));
                }
                _ => {}
            }
        } else if action == "create" && attributes.get(parking::RUN).is_none() {
            let made = (
                text("com.docker.compose.project"),
                text("com.docker.compose.service"),
            );
            let is_same = original
                .compose
                .as_ref()
                .is_some_and(|(p, s)| (p.as_str(), s.as_str()) == made);
            if is_same && text("com.docker.compose.oneoff") != "True" {
                self.foreign(format!("somebody ran `docker compose up` for service {}", made.1));
            }
        }
    }

    /// The first one is the cause; what follows is mostly its consequence.
    fn foreign(&mut self, what: String) {
        self.foreign.get_or_insert(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Original {
        Original {
            id: "orig".into(),
            name: "web".into(),
            is_parked: true,
            was_running: true,
            compose: Some(("shop".into(), "api".into())),
            compose_up: None,
        }
    }

    fn after(events: &[Json]) -> Seen {
        let mut seen = Seen::default();
        seen.trials.insert("t1".into(), TrialEvents::default());
        for e in events {
            seen.take(e, &original());
        }
        seen
    }

    fn event(action: &str, id: &str, attributes: &Json) -> Json {
        serde_json::json!({"Type": "container", "Action": action, "timeNano": 7,
            "Actor": {"ID": id, "Attributes": attributes}})
    }

    #[test]
    fn oom_and_death_are_the_trials_own_a_signal_is_not() {
        let none = serde_json::json!({});
        let seen = after(&[
            event("oom", "t1", &none),
            event("die", "t1", &serde_json::json!({"exitCode": "137"})),
            event("oom", "other", &none),
        ]);
        let expected = TrialEvents {
            oom: 1,
            killed: false,
            died: Some(137),
        };
        assert_eq!(seen.trials["t1"], expected);
        assert_eq!(seen.foreign, None);
        assert!(after(&[event("kill", "t1", &none)]).trials["t1"].killed);
    }

    #[test]
    fn our_own_parking_is_not_foreign_and_what_others_do_is() {
        let none = serde_json::json!({});
        let parked = serde_json::json!({"name": "web.autotune-parked-running"});
        let ours = [
            event("rename", "orig", &parked),
            event("kill", "orig", &none),
            event("die", "orig", &none),
            event("stop", "orig", &none),
            event("create", "t2", &serde_json::json!({"autotune.run": "r"})),
            event("start", "t1", &none),
        ];
        assert_eq!(after(&ours).foreign, None);
        let compose =
            serde_json::json!({"com.docker.compose.project": "shop", "com.docker.compose.service": "api"});
        for e in [
            event("start", "orig", &none),
            event("destroy", "orig", &none),
            event("rename", "orig", &serde_json::json!({"name": "elsewhere"})),
            event("destroy", "t1", &none),
            event("update", "t1", &none),
            event("create", "new", &compose),
        ] {
            assert!(after(std::slice::from_ref(&e)).foreign.is_some(), "{e}");
        }
        let mut seen = Seen {
            reopened: Some(Instant::now()),
            ..Seen::default()
        };
        seen.take(&event("start", "orig", &none), &original());
        assert_eq!(
            seen.foreign, None,
            "a daemon that was restarted starts it by its policy"
        );
        let other =
            serde_json::json!({"com.docker.compose.project": "shop", "com.docker.compose.service": "db"});
        assert_eq!(after(&[event("create", "new", &other)]).foreign, None);
    }
}
