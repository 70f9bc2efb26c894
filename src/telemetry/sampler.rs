//! The background task around a source: a sample a second, a deadline each, a bounded record, and a last sample on
//! stop. The source moves into the task and comes back with the record, so that nothing is shared.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::{Figures, Sampled};

const PERIOD: Duration = Duration::from_secs(1);
/// Of one sample. Below the period: a source that hangs never has two samples under way.
const DEADLINE: Duration = Duration::from_millis(900);
/// Record of a probe: an hour. Beyond it the last sample is overwritten, so that counters still span the whole time.
const MAX_SAMPLES: usize = 3_600;
/// How far outside the asked part a sample may lie and still count for it.
const SLACK: Duration = Duration::from_millis(600);

/// One outside thing that can be sampled.
pub(super) trait Source: Send + 'static {
    /// What one look gives.
    type Sample: Send + 'static;
    /// For warnings.
    const NAME: &'static str;
    /// One look. Cancelled at the deadline, so it must be able to go on after being dropped half-way.
    fn sample(&mut self) -> impl Future<Output = Result<Self::Sample, String>> + Send;
    /// Sums a record up. Never called with an empty record.
    fn figures(&self, record: &Record<'_, Self::Sample>) -> Figures;
}

/// Samples with their times since `start`, in order; at least one.
pub(super) struct Record<'a, T>(pub(super) &'a [(Duration, T)]);

impl<T> Record<'_, T> {
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, v)| v)
    }

    /// Seconds between the first and the last sample.
    pub(super) fn seconds(&self) -> f64 {
        match (self.0.first(), self.0.last()) {
            (Some(a), Some(b)) => (b.0.saturating_sub(a.0)).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// How much a counter grew; None with fewer than two samples or when it went backwards (a restart).
    #[allow(clippy::cast_precision_loss)] // counters far below 2^52
    pub(super) fn growth(&self, counter: impl Fn(&T) -> u64) -> Option<f64> {
        let (a, b) = (self.0.first()?, self.0.last()?);
        if self.0.len() < 2 {
            return None;
        }
        counter(&b.1).checked_sub(counter(&a.1)).map(|d| d as f64)
    }

    /// Growth a second.
    pub(super) fn rate(&self, counter: impl Fn(&T) -> u64) -> Option<f64> {
        let s = self.seconds();
        if s <= 0.0 {
            return None;
        }
        self.growth(counter).map(|g| g / s)
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn mean(&self, gauge: impl Fn(&T) -> f64) -> f64 {
        self.values().map(gauge).sum::<f64>() / self.0.len().max(1) as f64
    }

    pub(super) fn peak(&self, gauge: impl Fn(&T) -> f64) -> f64 {
        self.values().map(gauge).fold(0.0, f64::max)
    }
}

/// A part of the time since `start`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) from: Duration,
    pub(super) length: Duration,
}

struct Finished<S: Source> {
    source: S,
    samples: Vec<(Duration, S::Sample)>,
    missed: u32,
    last_error: Option<String>,
}

enum State<S: Source> {
    Idle(S),
    Running(oneshot::Sender<()>, JoinHandle<Finished<S>>),
    /// The task died or overran; there is nothing to sample with any more.
    Lost,
}

/// A source and, while it is sampled, the task that owns it.
pub(super) struct Worker<S: Source>(State<S>);

impl<S: Source> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(S::NAME)
    }
}

impl<S: Source> Worker<S> {
    pub(super) fn new(source: S) -> Self {
        Self(State::Idle(source))
    }

    pub(super) fn start(&mut self) {
        match std::mem::replace(&mut self.0, State::Lost) {
            State::Idle(source) => {
                let (stop, stopped) = oneshot::channel();
                self.0 = State::Running(stop, tokio::spawn(sample_until(source, stopped)));
            }
            other => self.0 = other,
        }
    }

    pub(super) async fn stop(&mut self, part: Part) -> Sampled {
        let (stop, mut task) = match std::mem::replace(&mut self.0, State::Lost) {
            State::Running(stop, task) => (stop, task),
            State::Idle(source) => {
                self.0 = State::Idle(source);
                return Sampled::default();
            }
            State::Lost => return Sampled::default(),
        };
        let _ = stop.send(()); // an error means that the task has ended already; joining it says how
        // The task ends after at most two samples: the one under way and the last.
        match tokio::time::timeout(DEADLINE * 2 + PERIOD, &mut task).await {
            Ok(Ok(finished)) => {
                let sampled = sum_up(&finished, part);
                self.0 = State::Idle(finished.source);
                sampled
            }
            Ok(Err(e)) => Sampled {
                warnings: vec![format!("{}: sampling ended by itself: {e}", S::NAME)],
                ..Sampled::default()
            },
            Err(_) => {
                task.abort();
                Sampled {
                    warnings: vec![format!(
                        "{}: sampling did not stop; it is off from now on",
                        S::NAME
                    )],
                    ..Sampled::default()
                }
            }
        }
    }
}

impl<S: Source> Drop for Worker<S> {
    fn drop(&mut self) {
        if let State::Running(_, task) = &self.0 {
            task.abort();
        }
    }
}

async fn sample_until<S: Source>(source: S, mut stop: oneshot::Receiver<()>) -> Finished<S> {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut run = Finished {
        source,
        samples: Vec::new(),
        missed: 0,
        last_error: None,
    };
    loop {
        // Ends when `stop` is sent or dropped, at the latest with the probe that it belongs to.
        tokio::select! {
            biased;
            _ = &mut stop => break,
            _ = ticks.tick() => one(&mut run, begun).await,
        }
    }
    one(&mut run, begun).await;
    run
}

async fn one<S: Source>(run: &mut Finished<S>, begun: Instant) {
    let looked = tokio::time::timeout(DEADLINE, run.source.sample()).await;
    match looked {
        Ok(Ok(sample)) => {
            if run.samples.len() >= MAX_SAMPLES {
                run.samples.pop();
            }
            run.samples.push((begun.elapsed(), sample));
        }
        Ok(Err(why)) => {
            run.missed += 1;
            run.last_error = Some(why);
        }
        Err(_) => {
            run.missed += 1;
            run.last_error = Some(format!("no answer within {} ms", DEADLINE.as_millis()));
        }
    }
}

fn sum_up<S: Source>(run: &Finished<S>, part: Part) -> Sampled {
    let mut out = Sampled::default();
    // One late answer of an overloaded service is no news; every second one is.
    if let Some(why) = &run.last_error
        && run.missed as usize >= run.samples.len().max(1)
    {
        out.warnings.push(format!(
            "{}: {} of {} samples missed, last: {why}",
            S::NAME,
            run.missed,
            run.missed as usize + run.samples.len()
        ));
    }
    out.figures
        .insert(format!("{}_samples_missed", S::NAME), f64::from(run.missed));
    let (first, last) = range(run.samples.iter().map(|(t, _)| *t), part);
    if last > first {
        out.figures
            .extend(run.source.figures(&Record(&run.samples[first..last])));
    }
    out
}

/// Half-open range of the samples that lie in `part`; of all when fewer than two do.
fn range(times: impl Iterator<Item = Duration> + Clone, part: Part) -> (usize, usize) {
    let low = part.from.saturating_sub(SLACK);
    let high = part.from.saturating_add(part.length).saturating_add(SLACK);
    let n = times.clone().count();
    let first = times.clone().take_while(|t| *t < low).count();
    let last = times.take_while(|t| *t <= high).count();
    if last >= first + 2 { (first, last) } else { (0, n) }
}
