//! A study that several workers share: the same driver on a journal in Postgres. What differs is where the next trial
//! comes from, that the end is waited for, that one host measures the finals, and that the results folder holds a copy.

use std::path::Path;
use std::time::{Duration, Instant};

use super::run_trial::stopped;
use super::{MAX_TRIALS, Study};
use crate::agenda::{self, Next, Shared};
use crate::event::Event;
use crate::exit::{self, ExitError};
use crate::finals::Decision;
use crate::results;
use crate::spec::Secret;
use crate::store::{AnyStore, Begun, Journal, NewTrial, Postgres, Sqlite, kinds};

/// Asks and waits of one worker: a bound on the loop.
const MAX_STEPS: usize = 1_000_000;
/// Between two looks for something new.
const LOOK: Duration = Duration::from_millis(200);
/// Without anything new, after this a trial is asked for all the same: that is when dead workers are noticed.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The copy in the folder is at most so old, or twenty times what it takes.
const COPY_EVERY: Duration = Duration::from_secs(10);
const COPY_SHARE: u32 = 20;

/// How to take part in a shared study.
#[derive(Debug, Clone)]
pub struct Share {
    /// The database; never shown.
    pub url: Secret,
    /// This host's name in every row.
    pub host: String,
    /// How long a database that is away is tried again.
    pub patience: Duration,
}

/// Taking part.
pub(crate) struct Sharing {
    pub(crate) host: String,
    copy: AnyStore,
    /// When the copy was brought up to date, and how long that took.
    copied: Option<(Instant, Duration)>,
}

/// Why no trial came of an ask.
enum Stay {
    Wait(String),
    Over(String),
}

/// The journal of a run: the folder's own, or the shared one with the folder for a copy.
pub(super) async fn open(
    folder: &Path,
    share: Option<&Share>,
) -> Result<(AnyStore, Option<Sharing>), ExitError> {
    let Some(share) = share else {
        let own = Sqlite::open(folder).await?;
        if let Some(place) = own.events(kinds::COPY_OF).await?.pop() {
            return Err(ExitError::new(
                exit::DATA,
                format!(
                    "{} holds a copy of {}: go on with `autotune worker`, or name another folder with --results",
                    folder.display(),
                    place.as_str().unwrap_or("a shared study")
                ),
            ));
        }
        return Ok((AnyStore::Sqlite(own), None));
    };
    let shared = Postgres::open(&share.url, &share.host, share.patience).await?;
    let copy = Sqlite::open(folder).await?;
    if copy.meta().await?.is_some() && copy.events(kinds::COPY_OF).await?.is_empty() {
        return Err(ExitError::new(
            exit::DATA,
            format!(
                "{} holds a study of its own: name another folder for the shared one with --results",
                folder.display()
            ),
        ));
    }
    let sharing = Sharing {
        host: share.host.clone(),
        copy: AnyStore::Sqlite(copy),
        copied: None,
    };
    Ok((AnyStore::Postgres(Box::new(shared)), Some(sharing)))
}

impl Study<'_> {
    /// The journal that results are rendered from.
    pub(super) fn book(&self) -> &AnyStore {
        self.share.as_ref().map_or(&self.store, |s| &s.copy)
    }

    /// The shared journal and this host's name in it.
    fn shared(&self) -> Result<(&Postgres, &str), ExitError> {
        match (self.store.shared(), &self.share) {
            (Some(store), Some(share)) => Ok((store, &share.host)),
            _ => Err(ExitError::new(exit::SOFTWARE, "the study is not shared")),
        }
    }

    /// Trials until the search is over for all hosts.
    pub(super) async fn search_shared(&mut self) -> Result<(), ExitError> {
        let mut said = String::new();
        for _ in 0..MAX_STEPS {
            match self.ask_shared().await? {
                Ok(begun) => {
                    if let Some(before) = begun.repeats {
                        self.sink.event(&Event::Note(format!(
                            "trial {before} was cut off when its worker ended; trial {} repeats it",
                            begun.number
                        )));
                    }
                    let new = NewTrial {
                        phase: begun.phase,
                        config: begun.config,
                        round: begun.round,
                        host: self.host(),
                    };
                    Box::pin(self.begun(begun.number, new)).await?;
                    self.baseline_must_work()?;
                    self.say_what_was_learned().await;
                    said.clear();
                }
                Err(Stay::Wait(why)) => {
                    if said != why {
                        self.sink
                            .event(&Event::Note(format!("waiting for other workers: {why}")));
                        said = why;
                    }
                    self.pause().await?;
                }
                Err(Stay::Over(why)) => {
                    if self.store.events(kinds::SEARCH_ENDED).await?.is_empty() {
                        let said = serde_json::Value::String(why.clone());
                        self.store.log(kinds::SEARCH_ENDED, &said).await?;
                    }
                    self.sink.event(&Event::SearchEnded(why));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn ask_shared(&mut self) -> Result<Result<Begun, Stay>, ExitError> {
        let (limits, clock) = (self.limits(), self.clock());
        let optimizer = self.spec.search;
        let (store, host) = self.shared()?;
        let mut stop = self.stop.clone();
        let asking = store.begin_next(host, |trials| {
            match agenda::next_shared(
                &self.spec.space,
                &limits,
                trials,
                (host, &self.prior),
                clock,
                &optimizer,
            ) {
                Shared::Trial { phase, config } => Ok(NewTrial {
                    phase,
                    config,
                    round: None,
                    host: host.to_owned(),
                }),
                Shared::Wait(why) => Err(Stay::Wait(why)),
                Shared::Over(why) => Err(Stay::Over(why)),
            }
        });
        // A trial that is begun while the signal comes is given back with the session.
        let found = tokio::select! {
            biased;
            signal = stopped(&mut stop) => return Err(signal),
            found = asking => found?,
        };
        self.look_around().await?;
        if let Ok(begun) = &found {
            self.trials.retain(|t| t.number != begun.number);
        }
        Ok(found)
    }

    /// The study as this host sees it now.
    async fn look_around(&mut self) -> Result<(), ExitError> {
        let (store, host) = self.shared()?;
        self.trials = store.known(|trials| agenda::as_seen_from(host, trials)).await?;
        Ok(())
    }

    /// Until something happens in the study, or it is time to look for dead workers.
    async fn pause(&mut self) -> Result<(), ExitError> {
        let mut stop = self.stop.clone();
        let (store, _) = self.shared()?;
        let (begun, before) = (Instant::now(), store.revision().await?);
        while begun.elapsed() < ASK_AGAIN {
            tokio::select! {
                biased;
                signal = stopped(&mut stop) => return Err(signal),
                () = tokio::time::sleep(LOOK) => {}
            }
            if store.revision().await? != before {
                break;
            }
        }
        Ok(())
    }

    /// The finals, on the host that comes first; the others give their container back and wait for its decision, ready to
    /// take over where it dies.
    pub(super) async fn finals_shared(&mut self) -> Result<Option<Decision>, ExitError> {
        let mut is_waiting = false;
        for _ in 0..MAX_STEPS {
            if !self.store.events(kinds::FINALS_OVER).await?.is_empty() {
                return Ok(None);
            }
            if self.shared()?.0.take_finals().await? {
                // Between the look and the lock the host before may have ended them.
                if self.store.events(kinds::FINALS_OVER).await?.is_empty()
                    && let Some(end) = Box::pin(self.finals_here()).await?
                {
                    return Ok(end);
                }
                continue;
            }
            if !is_waiting {
                is_waiting = true;
                let given_back = self.give_back().await?;
                let done = given_back.map_or(String::new(), |words| format!("{words}; "));
                self.sink.event(&Event::Note(format!(
                    "{done}another host measures the finals: waiting for its decision"
                )));
            }
            if self.clock().left.is_some_and(|left| left.is_zero()) {
                self.sink.event(&Event::Warning(
                    "the time is up before the finals of another host were decided: `autotune report DIR --study URL` shows \
                     them later"
                        .to_owned(),
                ));
                return Ok(None);
            }
            self.pause().await?;
        }
        Ok(None)
    }

    /// The finals on this host; None where another host took them over meanwhile.
    async fn finals_here(&mut self) -> Result<Option<Option<Decision>>, ExitError> {
        self.record_environment().await?;
        self.look_around().await?;
        let host = self.host();
        let list = agenda::finalists(&self.spec.space, &self.limits(), &self.trials, self.clock());
        self.sink.event(&Event::FinalsStarted(list));
        for _ in 0..MAX_TRIALS {
            if !self.shared()?.0.take_finals().await? {
                return Ok(None);
            }
            let next = agenda::next_final_on(
                &host,
                &self.spec.space,
                &self.limits(),
                &self.trials,
                self.clock(),
            );
            let decision = match next {
                Next::Trial { phase, config, round } => {
                    Box::pin(self.trial(phase, config, round)).await?;
                    continue;
                }
                Next::Decided(decision) => {
                    self.record_decision(&decision).await?;
                    Some(*decision)
                }
                Next::Nothing(why) | Next::SearchOver(why) => {
                    self.sink.event(&Event::Note(why));
                    None
                }
            };
            self.say_what_binds(decision.as_ref()).await?;
            let over = serde_json::json!({ "host": host, "decided": decision.is_some() });
            self.store.log(kinds::FINALS_OVER, &over).await?;
            return Ok(Some(decision));
        }
        Ok(Some(None))
    }

    /// The next copy is made whenever the last one was.
    pub(super) fn copy_is_due(&mut self) {
        if let Some(s) = &mut self.share {
            s.copied = None;
        }
    }

    /// Brings the folder's copy up to date and writes every derived file from it, not more often than is worth it.
    pub(super) async fn copy_results(&mut self) -> Result<(), ExitError> {
        let (Some(shared), Some(sharing)) = (self.store.shared(), &mut self.share) else {
            return Ok(());
        };
        if let Some((at, took)) = sharing.copied
            && at.elapsed() < COPY_EVERY.max(took * COPY_SHARE)
        {
            return Ok(());
        }
        let begun = Instant::now();
        if let AnyStore::Sqlite(copy) = &sharing.copy {
            shared.copy_into(copy).await?;
            results::write(copy, &self.options.folder).await?;
        }
        sharing.copied = Some((Instant::now(), begun.elapsed()));
        Ok(())
    }
}
