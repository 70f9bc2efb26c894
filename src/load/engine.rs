//! The engine of one probe: a thread of its own with a runtime of its own, on which one task paces arrivals and one task a
//! connection carries them.
//!
//! Here is the probe's course: arrivals when they are due, bins when they are over, the end of the window, the drain. What the tasks
//! share is in `pool`, what a connection does in `carrier`. Nothing here judges: it fills the ledger.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::LoadError;
use super::clock::{Clock, Timer, TimerSource, as_nanos};
use super::health::Reading;
use super::interval::Interval;
use super::ledger::Ledger;
use super::mix::Picks;
use super::pool::{Core, Setup};
use super::schedule::{Part, Schedule, slack};
use crate::measurement::{Bin, GeneratorHealth, Measurement};
use crate::units::Rps;

/// Arrivals entered before the answers are looked at again.
const BATCH: usize = 1_024;

/// One probe's own part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) rate: Rps,
    pub(super) lead_in: Duration,
    pub(super) window: Duration,
    pub(super) drain: Duration,
    pub(super) seed: u64,
    /// Whether histograms are wanted second by second.
    pub(super) intervals: bool,
    /// Whether the histogram of each bin is told.
    pub(super) bin_histograms: bool,
    /// This generator's share.
    pub(super) part: Part,
    /// When the lead-in begins; as soon as everything is set up where nobody says.
    pub(super) start: Option<Instant>,
}

impl Order {
    /// What this generator sends of the rate.
    pub(super) fn own_rate(&self) -> Rps {
        Rps::saturating(self.rate.get() / f64::from(self.part.of.max(1)))
    }
}

/// What a probe left.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) measurement: Measurement,
    /// Service time of the first answers, milliseconds, where there were enough.
    pub(super) first_ms: Option<f64>,
    /// Send lag, microseconds.
    pub(super) lag: Histogram<u64>,
}

/// What the engine tells while it runs.
#[derive(Debug)]
pub(super) enum Event {
    /// Number and latencies of the bin that is told next.
    Latency(usize, Box<Histogram<u64>>),
    Bin(Bin),
    Interval(Interval),
    Done(Result<Box<Finished>, LoadError>),
}

/// How the engine is stopped from outside.
#[derive(Debug, Default)]
pub(super) struct Stop {
    changed: Notify,
    wanted: Mutex<Option<Wanted>>,
}

#[derive(Debug, Clone)]
enum Wanted {
    /// End the window, then drain: at once, or so many nanoseconds after its begin.
    Window(String, Option<u64>),
    /// Leave everything.
    All,
}

impl Stop {
    /// Ends the window early: now, or at `offset` from its begin where that is still to come.
    pub(super) fn end_window(&self, reason: String, offset: Option<Duration>) {
        self.want(Wanted::Window(reason, offset.map(as_nanos)));
    }

    /// Stops at once.
    pub(super) fn abort(&self) {
        self.want(Wanted::All);
    }

    fn want(&self, wanted: Wanted) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        self.changed.notify_one();
    }

    fn wanted(&self) -> Option<Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs one probe on the calling thread.
pub(super) fn run(setup: Arc<Setup>, order: Order, stop: &Stop, events: &UnboundedSender<Event>) {
    let result = run_here(setup, order, stop, events);
    // The listener is gone when the drive was dropped.
    let _ = events.send(Event::Done(result.map(Box::new)));
}

fn run_here(
    setup: Arc<Setup>,
    order: Order,
    stop: &Stop,
    events: &UnboundedSender<Event>,
) -> Result<Finished, LoadError> {
    if let Some(cpu) = setup.cpu {
        pin_to(cpu)?;
    }
    let source = TimerSource::open();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io();
    if source.needs_tokio_time() {
        builder.enable_time();
    }
    let runtime = builder.build().map_err(LoadError::Engine)?;
    let probe = async {
        let clock = Clock::start();
        let timer = source.register(clock)?;
        let core = Core::new(setup, order, clock)?;
        pace(&core, order, &timer, stop, events).await
    };
    let result = runtime.block_on(probe).map_err(LoadError::Engine);
    // Closes every connection before the end is told.
    drop(runtime);
    result
}

#[cfg(target_os = "linux")]
fn pin_to(cpu: usize) -> Result<(), LoadError> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let refused = |why: String| LoadError::Cpu { cpu, why };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(format!("the highest number is {}", CpuSet::MAX_CPU - 1)));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|e| refused(e.to_string()))
}

#[cfg(not(target_os = "linux"))]
fn pin_to(cpu: usize) -> Result<(), LoadError> {
    Err(LoadError::Cpu {
        cpu,
        why: "pinning needs Linux".into(),
    })
}

/// How the window is to end before its time.
enum Ending {
    No,
    Now(String),
    /// At this time, which is still to come.
    At(u64, String),
}

/// What is wanted from outside at `now`. Generators that share a probe are told a place of the schedule at which all of them
/// end; where that has passed the window ends now. An end that was `agreed` on already stays.
fn ending(core: &Core, stop: &Stop, now: u64, agreed: bool) -> io::Result<Ending> {
    Ok(match stop.wanted() {
        Some(Wanted::All) => return Err(io::Error::other("stopped")),
        Some(Wanted::Window(why, offset)) if !agreed => {
            let ledger = &mut core.state().ledger;
            match offset.map(|o| ledger.begin().saturating_add(o)) {
                Some(at) if at > now && ledger.shorten(at) => Ending::At(at, why),
                // The window ends before that by itself.
                Some(at) if at > now => Ending::No,
                _ => Ending::Now(why),
            }
        }
        Some(Wanted::Window(..)) | None => Ending::No,
    })
}

/// Offers the schedule, closes bins, and waits for what is in flight.
async fn pace(
    core: &Arc<Core>,
    order: Order,
    timer: &Timer,
    stop: &Stop,
    events: &UnboundedSender<Event>,
) -> io::Result<Finished> {
    let window = as_nanos(order.window).max(1);
    let begin = core.state().ledger.begin();
    let mut end = begin.saturating_add(window);
    let start = begin - as_nanos(order.lead_in);
    let slack = as_nanos(slack(order.own_rate()));
    let mut schedule = Schedule::new(order.rate, core.setup.arrivals, order.seed, order.part);
    let mut picks = Picks::of_part(&core.setup.mix, order.seed, order.part);
    let mut next = start + schedule.next_offset();
    let mut before: Option<Reading> = None;
    let mut reason = None;
    loop {
        let now = core.clock.now();
        if before.is_none() && now >= begin {
            before = Some(Reading::take());
        }
        let mut wake;
        {
            let s = &mut *core.state();
            let mut batch = 0;
            while next <= now && next < end && batch < BATCH {
                let pick = picks.next(&core.setup.mix);
                core.arrive(s, now, next, pick);
                next = start + schedule.next_offset();
                batch += 1;
            }
            if now >= s.next_sweep {
                core.sweep(s, now);
            }
            wake = next.saturating_add(slack).min(s.next_sweep).min(end);
            if before.is_none() {
                wake = wake.min(begin);
            }
            // With arrivals still to enter, a bin's figures are not complete yet.
            if next > now || next >= end {
                tell(&mut s.ledger, now, events);
            }
            let closes = [s.ledger.next_close(), s.ledger.next_interval()];
            wake = closes.into_iter().flatten().fold(wake, u64::min);
        }
        match ending(core, stop, now, reason.is_some())? {
            Ending::No => {}
            Ending::Now(why) => {
                reason = Some(why);
                break;
            }
            Ending::At(at, why) => {
                (end, reason) = (at, Some(why));
                continue;
            }
        }
        if now >= end && next >= end {
            break;
        }
        if wake <= now {
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                biased;
                woken = timer.wait_until(wake) => woken?,
                () = stop.changed.notified() => {}
            }
        }
    }
    finish(core, order, timer, stop, events, (before, reason)).await
}

/// Tells what is complete at `now`. When nobody listens any more, the stop is on its way.
fn tell(ledger: &mut Ledger, now: u64, events: &UnboundedSender<Event>) {
    while let Some(bin) = ledger.close_bin(now) {
        if let Some((at, latency)) = ledger.closed_latency() {
            let _ = events.send(Event::Latency(at, Box::new(latency)));
        }
        let _ = events.send(Event::Bin(bin));
    }
    while let Some(interval) = ledger.take_interval(now) {
        let _ = events.send(Event::Interval(interval));
    }
}

/// Closes the window, drains, and closes the books.
async fn finish(
    core: &Arc<Core>,
    order: Order,
    timer: &Timer,
    stop: &Stop,
    events: &UnboundedSender<Event>,
    (before, reason): (Option<Reading>, Option<String>),
) -> io::Result<Finished> {
    let over = core.clock.now();
    let mut health = GeneratorHealth {
        timeout_s: core.setup.timeout.as_secs_f64(),
        connections: core.setup.connections,
        ..GeneratorHealth::default()
    };
    if let Some(before) = before {
        before.until(&Reading::take(), &mut health);
    }
    let left = {
        let s = &mut *core.state();
        if reason.is_some() {
            s.ledger.cut(over);
            core.give_up_waiting(s);
        }
        tell(&mut s.ledger, over, events);
        s.draining = true;
        health.connections_opened = s.opened;
        health.cap_reached = s.cap_reached;
        s.ledger.outstanding()
    };
    let drained = left == 0 || drain(core, over.saturating_add(as_nanos(order.drain)), timer, stop).await?;
    let drained_s =
        drained.then(|| Duration::from_nanos(core.clock.now().saturating_sub(over)).as_secs_f64());
    let s = &mut *core.state();
    health.retried = s.retried;
    let names: Vec<String> = core.setup.endpoints.iter().map(|e| e.name.clone()).collect();
    let mut m = s.ledger.close(order.rate, &names, health);
    m.drained_s = drained_s;
    m.stopped_early = reason;
    Ok(Finished {
        measurement: m,
        first_ms: s.ledger.first_service_ms(),
        lag: s.ledger.lag().clone(),
    })
}

/// Waits until nothing is in flight; false when that was not so by `deadline`.
async fn drain(core: &Arc<Core>, deadline: u64, timer: &Timer, stop: &Stop) -> io::Result<bool> {
    loop {
        let now = core.clock.now();
        let wake = {
            let s = &mut *core.state();
            if s.ledger.outstanding() == 0 {
                return Ok(true);
            }
            if now >= s.next_sweep {
                core.sweep(s, now);
            }
            s.next_sweep.min(deadline)
        };
        if matches!(stop.wanted(), Some(Wanted::All)) {
            return Err(io::Error::other("stopped"));
        }
        if now >= deadline {
            return Ok(false);
        }
        tokio::select! {
            biased;
            () = core.drained.notified() => {}
            woken = timer.wait_until(wake) => woken?,
            () = stop.changed.notified() => {}
        }
    }
}
