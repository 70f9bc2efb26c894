//! Parking the original and giving it back.
//!
//! Everything that giving back needs is in Docker itself: the parked name holds the old name and whether the container
//! ran, and a trial's labels hold the run and the original's id. So a restore starts from what is observed, works
//! without any file, and may be repeated and broken off at every step.
//!
//! The order is rename, stop; and back: start, rename. So from the first change to the last the name tells what has to
//! be undone. The original is never removed and never updated. The way back is in `giving_back`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::engine::{Engine, EngineError, Listed};
use super::find::{Original, quoted};
pub use super::giving_back::{GiveBack, RestoreError, Restored, restore_all, settle};

/// Label of a trial: the run that made it.
pub const RUN: &str = "autotune.run";
/// Label of a trial: id of the original that it stands for.
pub const ORIGINAL: &str = "autotune.original";
/// Label of a trial: the original's name.
pub const ORIGINAL_NAME: &str = "autotune.original-name";
/// Label of a trial: its number.
pub const TRIAL: &str = "autotune.trial";

const RUNNING: &str = ".autotune-parked-running";
const STOPPED: &str = ".autotune-parked-stopped";
/// Docker's own grace period between stop signal and SIGKILL.
const DOCKER_GRACE: Duration = Duration::from_secs(10);
/// Bounds the wait for a container whose own grace period is not known.
pub(super) const LONG_GRACE: Duration = Duration::from_secs(60);
/// Pauses before the second and third attempt to start.
const START_PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_millis(1_500),
];

/// The name of a parked original.
#[must_use]
pub fn parked_name(name: &str, was_running: bool) -> String {
    format!("{name}{}", if was_running { RUNNING } else { STOPPED })
}

/// The old name behind a parked one, and whether the container ran.
#[must_use]
pub fn unparked(name: &str) -> Option<(&str, bool)> {
    name.strip_suffix(RUNNING)
        .map(|n| (n, true))
        .or_else(|| name.strip_suffix(STOPPED).map(|n| (n, false)))
        .filter(|(n, _)| !n.is_empty())
}

/// The labels of a trial.
#[must_use]
pub fn labels(run: &str, original: &Original, trial: u32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (RUN.to_owned(), run.to_owned()),
        (ORIGINAL.to_owned(), original.id.clone()),
        (ORIGINAL_NAME.to_owned(), original.name.clone()),
        (TRIAL.to_owned(), trial.to_string()),
    ])
}

/// How long stopping may take by the container's own settings.
#[must_use]
pub fn grace(stop_timeout: Option<i64>) -> Duration {
    stop_timeout
        .and_then(|s| u64::try_from(s).ok())
        .map_or(DOCKER_GRACE, |s| Duration::from_secs(s.min(3_600)))
}

/// What gives `o` back by hand, whatever was done so far. Trials go by their label and never by a name: once the original
/// is back, that name is its own.
#[must_use]
pub fn by_hand(o: &Original) -> String {
    let start = match o.was_running {
        true => format!("; docker start {}", quoted(&o.name)),
        false => String::new(),
    };
    format!(
        "autotune restore, or: docker rm -f -v $(docker ps -aq --filter label={ORIGINAL}={}); docker rename {} {}{start}",
        o.id,
        quoted(&parked_name(&o.name, o.was_running)),
        quoted(&o.name),
    )
}

/// Which containers a restore is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Everything that is parked here.
    All,
    /// These originals, by full id.
    Originals(Vec<String>),
}

impl Filter {
    fn takes(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Originals(ids) => ids.iter().any(|i| i == id),
        }
    }
}

/// One original to give back, as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The container, with its old name. `is_parked` is false where only trials were left over.
    pub original: Original,
    /// Whether it is up now.
    pub is_up: bool,
    /// Containers of ours that stand for it: id and name.
    pub trials: Vec<(String, String)>,
    /// False where only trials are left and the original itself is gone.
    pub exists: bool,
}

impl Parked {
    /// What gives it back by hand.
    #[must_use]
    pub fn commands(&self) -> String {
        let o = &self.original;
        let mut words: Vec<String> = self
            .trials
            .iter()
            .map(|(id, _)| format!("docker rm -f -v {}", short(id)))
            .collect();
        if o.is_parked {
            words.push(format!(
                "docker rename {} {}",
                quoted(&parked_name(&o.name, o.was_running)),
                quoted(&o.name)
            ));
        }
        if o.was_running {
            words.push(format!("docker start {}", quoted(&o.name)));
        }
        words.join("; ")
    }
}

/// The first twelve digits, as `docker ps` shows them.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What there is to give back in a listing. Pure.
#[must_use]
pub fn observe(all: &[Listed], filter: &Filter) -> Vec<Parked> {
    let mut out: BTreeMap<String, Parked> = BTreeMap::new();
    for c in all
        .iter()
        .filter(|c| unparked(&c.name).is_some() && filter.takes(&c.id))
    {
        out.insert(c.id.clone(), parked(c, true));
    }
    for c in all.iter().filter(|c| c.label(RUN).is_some()) {
        let Some(id) = c.label(ORIGINAL).filter(|id| filter.takes(id)) else {
            continue;
        };
        let entry = out.entry(id.to_owned()).or_insert_with(|| {
            let there = all.iter().find(|o| o.id == id);
            there.map_or_else(|| gone(id, c), |o| parked(o, true))
        });
        entry.trials.push((c.id.clone(), c.name.clone()));
    }
    out.into_values().collect()
}

fn parked(c: &Listed, exists: bool) -> Parked {
    Parked {
        original: Original::from_listed(c),
        is_up: c.is_up(),
        trials: Vec::new(),
        exists,
    }
}

fn gone(id: &str, trial: &Listed) -> Parked {
    let mut original = Original::from_listed(trial);
    id.clone_into(&mut original.id);
    if let Some(name) = trial.label(ORIGINAL_NAME) {
        name.clone_into(&mut original.name);
    }
    Parked {
        original,
        is_up: false,
        trials: Vec::new(),
        exists: false,
    }
}

/// Stops our trials, so that they can say goodbye to their database, and removes them with their anonymous volumes.
pub async fn remove_trials(engine: &Engine, trials: &[(String, String)]) -> Result<(), EngineError> {
    // At once: each may take its whole grace period.
    let all = trials.iter().map(|(id, _)| remove_trial(engine, id));
    futures_util::future::join_all(all).await.into_iter().collect()
}

async fn remove_trial(engine: &Engine, id: &str) -> Result<(), EngineError> {
    match engine.stop(id, None, LONG_GRACE).await {
        // A trial that takes longer than the deadline, or can't be stopped, is removed by force.
        Ok(())
        | Err(
            EngineError::NotFound(_)
            | EngineError::Conflict(_)
            | EngineError::Status(..)
            | EngineError::Late(_),
        ) => {}
        Err(e) => return Err(e),
    }
    engine.remove(id).await
}

/// Starts a container; a port that its predecessor has just given up may need a moment.
pub async fn start(engine: &Engine, id: &str) -> Result<(), EngineError> {
    let mut last = Ok(());
    for pause in START_PAUSES {
        tokio::time::sleep(pause).await;
        last = engine.start(id).await;
        match &last {
            Err(e) if is_port_busy(e) => {}
            _ => return last,
        }
    }
    last
}

/// Whether a start failed because somebody has the port.
#[must_use]
pub fn is_port_busy(e: &EngineError) -> bool {
    matches!(e, EngineError::Status(_, m) | EngineError::Conflict(m)
        if m.contains("port is already allocated") || m.contains("address already in use"))
}

/// Parks the original: from here on `restore_all` has something to do. Idempotent, and right again after a daemon
/// restart that started the parked container by its policy.
pub async fn park(engine: &Engine, original: &mut Original, own_grace: Duration) -> Result<(), EngineError> {
    if !original.is_parked {
        let name = parked_name(&original.name, original.was_running);
        engine.rename(&original.id, &name).await?;
        original.is_parked = true;
    }
    engine.stop(&original.id, None, own_grace).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: &str, state: &str, labels: &[(&str, &str)]) -> Listed {
        Listed {
            id: id.into(),
            name: name.into(),
            state: state.into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Listed::default()
        }
    }

    #[test]
    fn the_parked_name_holds_the_old_one_and_the_state() {
        for (name, running) in [("web", true), ("a.b_c-1", false)] {
            assert_eq!(unparked(&parked_name(name, running)), Some((name, running)));
        }
        assert_eq!(unparked("web"), None);
        assert_eq!(unparked(RUNNING), None);
    }

    /// Breaks when what people paste in the morning could remove the container that is meanwhile back under its name.
    #[test]
    fn by_hand_only_what_has_our_label_is_removed() {
        let mut o = Original::from_listed(&listed(
            "o1-with-all-its-digits",
            "shop-api-service-1",
            "running",
            &[],
        ));
        let words = by_hand(&o);
        assert_eq!(
            words,
            "autotune restore, or: docker rm -f -v $(docker ps -aq --filter \
             label=autotune.original=o1-with-all-its-digits); docker rename \
             shop-api-service-1.autotune-parked-running shop-api-service-1; docker start shop-api-service-1"
        );
        o.was_running = false;
        assert!(!by_hand(&o).contains("docker start"));
    }

    #[test]
    fn a_listing_is_enough_to_know_what_to_give_back() {
        let all = [
            listed("o1", "web.autotune-parked-running", "exited", &[]),
            listed("t1", "web", "running", &[(RUN, "r"), (ORIGINAL, "o1")]),
            listed(
                "t2",
                "other",
                "exited",
                &[(RUN, "q"), (ORIGINAL, "o2"), (ORIGINAL_NAME, "db")],
            ),
            listed("x", "foreign", "running", &[]),
            listed("s", "stand-in", "running", &[("autotune.stand-in", "1")]),
        ];
        let seen = observe(&all, &Filter::All);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].trials, [("t1".to_owned(), "web".to_owned())]);
        assert_eq!(
            seen[0].commands(),
            "docker rm -f -v t1; docker rename web.autotune-parked-running web; docker start web"
        );
        assert!(!seen[1].exists);
        assert_eq!(seen[1].original.name, "db");
        let one = observe(&all, &Filter::Originals(vec!["o2".into()]));
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn trials_beside_an_unparked_original_are_ours_to_remove_and_it_is_not_touched() {
        let all = [
            listed("o1", "web", "running", &[]),
            listed("t1", "web-x", "created", &[(RUN, "r"), (ORIGINAL, "o1")]),
        ];
        let seen = observe(&all, &Filter::All);
        assert_eq!(seen.len(), 1);
        assert!(!seen[0].original.is_parked && seen[0].exists);
    }
}
