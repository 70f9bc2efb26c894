//! The engine of one probe: a thread of its own with a runtime of its own, on which one task paces arrivals and one task a
//! connection carries them.
//!
//! Everything the tasks share is behind one mutex that is never contended, since all of them run on this thread. Arrivals take an
//! idle connection, the longest idle first, so that the workers behind a load-balanced port share the load; with none idle they
//! wait in the backlog, and a connection is opened while the bound allows. Nothing here judges: it fills the ledger.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsConnector;

use super::LoadError;
use super::classify;
use super::clock::{Clock, Timer, TimerSource, as_nanos};
use super::endpoint::Endpoint;
use super::health::Reading;
use super::ledger::{End, Frame, Ledger};
use super::link::{Broken, Link};
use super::mix::{Mix, Pick, Picks};
use super::schedule::{Part, Schedule, on_grid, quantum};
use crate::measurement::{Bin, GeneratorHealth, Measurement, OutcomeClass};
use crate::spec::Arrivals;
use crate::units::Rps;

/// Most requests that wait for a connection, whatever the rate and the timeout: 12 MB.
const BACKLOG: usize = 1 << 18;
/// Arrivals entered before the answers are looked at again.
const BATCH: usize = 1_024;
/// A connection that does not open within this fails its request, or within the request's timeout where that is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers close connections that idle for seconds. A request that meets such a close is sent again; on a connection that was busy
/// a moment ago a close is the service's failure.
const IDLE_CLOSE: u64 = 1_000_000_000;
/// Between making the clock and the first arrival, nanoseconds: the thread is set up by then.
const RUN_UP: u64 = 2_000_000;
/// Deadlines are looked at no more often than this, nanoseconds.
const SWEEP: u64 = 1_000_000;

/// What stays the same from probe to probe.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) mix: Mix,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) tls: Option<Tls>,
    pub(super) timeout: Duration,
    pub(super) connections: u32,
    pub(super) arrivals: Arrivals,
    pub(super) cpu: Option<usize>,
    pub(super) keep_alive: bool,
}

/// A connector that has no `Debug`.
#[derive(Clone)]
pub(super) struct Tls(pub(super) TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// One probe's own part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) rate: Rps,
    pub(super) lead_in: Duration,
    pub(super) window: Duration,
    pub(super) drain: Duration,
    pub(super) seed: u64,
}

/// What the engine tells while it runs.
#[derive(Debug)]
pub(super) enum Event {
    Bin(Bin),
    /// With the service time of the first answers, where there were enough.
    Done(Result<Box<(Measurement, Option<f64>)>, LoadError>),
}

/// How the engine is stopped from outside.
#[derive(Debug, Default)]
pub(super) struct Stop {
    changed: Notify,
    wanted: Mutex<Option<Wanted>>,
}

#[derive(Debug, Clone)]
enum Wanted {
    /// End the window, then drain.
    Window(String),
    /// Leave everything.
    All,
}

impl Stop {
    /// Ends the window early.
    pub(super) fn end_window(&self, reason: String) {
        self.want(Wanted::Window(reason));
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
) -> Result<(Measurement, Option<f64>), LoadError> {
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

/// One request on its way.
#[derive(Debug, Clone, Copy)]
struct Job {
    due: u64,
    pick: Pick,
    /// First written at.
    sent: Option<u64>,
    /// It found an idle connection when it was due.
    direct: bool,
    retried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Opening { deadline: u64 },
    Idle,
    Busy { deadline: u64 },
}

/// A place for one connection.
#[derive(Debug)]
struct Slot {
    phase: Phase,
    job: Option<Job>,
    waker: Option<Waker>,
    /// Set when its deadline has passed.
    expired: Arc<AtomicBool>,
}

/// Connections and waiting requests of one endpoint.
#[derive(Debug, Default)]
struct Lane {
    idle: VecDeque<usize>,
    backlog: VecDeque<Job>,
    /// Connections, those being opened included.
    connections: usize,
    opening: usize,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    slots: Vec<Slot>,
    free: Vec<usize>,
    lanes: Vec<Lane>,
    waiting: usize,
    next_sweep: u64,
    cap_reached: bool,
    opened: u64,
    retried: u64,
    draining: bool,
}

/// What the pacing task and the connections share.
#[derive(Debug)]
struct Core {
    setup: Arc<Setup>,
    clock: Clock,
    /// Nanoseconds.
    timeout: u64,
    /// Most connections of one endpoint.
    lane_bound: usize,
    backlog_bound: usize,
    state: Mutex<State>,
    drained: Notify,
}

impl Core {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn new(setup: Arc<Setup>, order: Order, clock: Clock) -> io::Result<Arc<Self>> {
        let begin = clock.now() + RUN_UP + as_nanos(order.lead_in);
        let frame = Frame::new(order.rate, begin, as_nanos(order.window));
        let timeout = as_nanos(setup.timeout);
        let lanes = setup.endpoints.len().max(1);
        let longest_us = timeout.saturating_mul(2) / 1_000;
        let ledger = Ledger::open(frame, lanes, longest_us).map_err(|e| io::Error::other(e.to_string()))?;
        // What the timeout lets wait at this rate, twice over; beyond that the generator sheds and says so.
        let waiting = order.rate.get() * setup.timeout.as_secs_f64() * 2.0 + 1_000.0;
        Ok(Arc::new(Self {
            clock,
            timeout,
            lane_bound: (setup.connections as usize / lanes).max(1),
            backlog_bound: BACKLOG.min(waiting as usize),
            state: Mutex::new(State {
                ledger,
                slots: Vec::new(),
                free: Vec::new(),
                lanes: (0..lanes).map(|_| Lane::default()).collect(),
                waiting: 0,
                next_sweep: begin,
                cap_reached: false,
                opened: 0,
                retried: 0,
                draining: false,
            }),
            drained: Notify::new(),
            setup,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An arrival is due: onto an idle connection, or into the backlog.
    fn arrive(self: &Arc<Self>, s: &mut State, now: u64, due: u64, pick: Pick) {
        s.ledger.arrived(due);
        let at = usize::try_from(pick.number % s.lanes.len() as u64).unwrap_or(0);
        let mut job = Job {
            due,
            pick,
            sent: None,
            direct: false,
            retried: false,
        };
        let idle = s.lanes.get_mut(at).and_then(|lane| lane.idle.pop_front());
        if let Some(slot) = idle.and_then(|i| s.slots.get_mut(i)) {
            job.direct = true;
            slot.phase = Phase::Busy {
                deadline: due.saturating_add(self.timeout),
            };
            slot.job = Some(job);
            if let Some(w) = &slot.waker {
                w.wake_by_ref();
            }
            return;
        }
        s.ledger.lagged(due, now);
        if s.waiting >= self.backlog_bound {
            self.ended(s, &job, now, OutcomeClass::Shed, None, at);
            return;
        }
        s.waiting += 1;
        if let Some(lane) = s.lanes.get_mut(at) {
            lane.backlog.push_back(job);
        }
        self.open_where_needed(s, at, now);
    }

    /// Opens connections while more requests wait than connections are being opened, within the bound.
    fn open_where_needed(self: &Arc<Self>, s: &mut State, at: usize, now: u64) {
        while let Some(lane) = s.lanes.get_mut(at) {
            if lane.opening >= lane.backlog.len() {
                return;
            }
            if lane.connections >= self.lane_bound {
                s.cap_reached |= lane.opening == 0;
                return;
            }
            lane.connections += 1;
            lane.opening += 1;
            s.opened += 1;
            let deadline = now + self.timeout.min(as_nanos(CONNECT_TIMEOUT));
            let phase = Phase::Opening { deadline };
            s.next_sweep = s.next_sweep.min(deadline);
            let expired = Arc::new(AtomicBool::new(false));
            let slot = Slot {
                phase,
                job: None,
                waker: None,
                expired: Arc::clone(&expired),
            };
            let index = match s.free.pop() {
                Some(free) if free < s.slots.len() => {
                    s.slots[free] = slot;
                    free
                }
                _ => {
                    s.slots.push(slot);
                    s.slots.len() - 1
                }
            };
            tokio::spawn(connection(Arc::clone(self), index, at, expired));
        }
    }

    fn ended(
        &self,
        s: &mut State,
        job: &Job,
        at: u64,
        class: OutcomeClass,
        status: Option<u16>,
        endpoint: usize,
    ) {
        s.ledger.ended(End {
            due: job.due,
            sent: job.sent,
            at,
            class,
            status,
            endpoint,
        });
        if s.draining && s.ledger.outstanding() == 0 {
            self.drained.notify_one();
        }
    }

    /// Fails what has waited or run longer than its timeout.
    fn sweep(&self, s: &mut State, now: u64) {
        let mut next = now.saturating_add(self.timeout);
        for slot in &s.slots {
            let (Phase::Opening { deadline } | Phase::Busy { deadline }) = slot.phase else {
                continue;
            };
            if deadline > now {
                next = next.min(deadline);
            } else if !slot.expired.swap(true, Ordering::Relaxed)
                && let Some(w) = &slot.waker
            {
                w.wake_by_ref();
            }
        }
        for at in 0..s.lanes.len() {
            while let Some(lane) = s.lanes.get_mut(at)
                && let Some(first) = lane.backlog.front()
            {
                let deadline = first.due.saturating_add(self.timeout);
                if deadline > now {
                    next = next.min(deadline);
                    break;
                }
                let job = *first;
                // With no connection at all it was the connecting that took too long.
                let class = match lane.connections == lane.opening {
                    true => OutcomeClass::ConnectTimeout,
                    false => OutcomeClass::ClientTimeout,
                };
                lane.backlog.pop_front();
                s.waiting -= 1;
                self.ended(s, &job, now, class, None, at);
            }
        }
        s.next_sweep = next.max(now + SWEEP);
    }

    /// Drops the requests that were never sent: the window ended early, and the service is to be left alone.
    fn give_up_waiting(&self, s: &mut State) {
        let State {
            lanes,
            ledger,
            waiting,
            ..
        } = s;
        for job in lanes.iter_mut().flat_map(|l| l.backlog.drain(..)) {
            ledger.abandoned(job.due);
        }
        *waiting = 0;
    }

    /// A connection is gone, or was never there.
    fn closed(self: &Arc<Self>, s: &mut State, slot: usize, at: usize) {
        if let Some(place) = s.slots.get_mut(slot) {
            place.phase = Phase::Free;
            place.waker = None;
            // It was assigned a request at the moment it closed.
            if let Some(job) = place.job.take() {
                s.waiting += 1;
                if let Some(lane) = s.lanes.get_mut(at) {
                    lane.backlog.push_front(job);
                }
            }
            s.free.push(slot);
        }
        if let Some(lane) = s.lanes.get_mut(at) {
            lane.connections -= 1;
            lane.idle.retain(|i| *i != slot);
        }
        self.open_where_needed(s, at, self.clock.now());
    }

    /// A connection could not be opened: the request that has waited longest fails with it.
    fn not_opened(self: &Arc<Self>, slot: usize, at: usize, class: OutcomeClass) {
        let now = self.clock.now();
        let s = &mut *self.state();
        let waiting = s.lanes.get_mut(at).and_then(|lane| {
            lane.opening -= 1;
            lane.backlog.pop_front()
        });
        if let Some(job) = waiting {
            s.waiting -= 1;
            self.ended(s, &job, now, class, None, at);
        }
        self.closed(s, slot, at);
    }
}

/// The life of one connection.
async fn connection(core: Arc<Core>, slot: usize, at: usize, expired: Arc<AtomicBool>) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    if let Some(place) = core.state().slots.get_mut(slot) {
        place.waker = Some(waker);
    }
    let Some(endpoint) = core.setup.endpoints.get(at) else {
        return;
    };
    let tls = core.setup.tls.as_ref().map(|t| &t.0);
    let mut link = match until(&expired, Link::open(endpoint, tls)).await {
        None => return core.not_opened(slot, at, OutcomeClass::ConnectTimeout),
        Some(Err(e)) => return core.not_opened(slot, at, e.class),
        Some(Ok(link)) => link,
    };
    if let Some(lane) = core.state().lanes.get_mut(at) {
        lane.opening -= 1;
    }
    let mut last_used = core.clock.now();
    let mut reused = false;
    while let Some(job) = next_job(&core, slot, at, &mut link, &expired).await {
        let retry_after = (reused, core.clock.now().saturating_sub(last_used) >= IDLE_CLOSE);
        if carry(&core, slot, at, &mut link, job, retry_after, &expired)
            .await
            .is_break()
        {
            break;
        }
        last_used = core.clock.now();
        reused = true;
        if !core.setup.keep_alive {
            break;
        }
    }
    drop(link);
    core.closed(&mut core.state(), slot, at);
}

/// Waits until the connection can take a request and there is one; None when the connection is finished.
async fn next_job(
    core: &Arc<Core>,
    slot: usize,
    at: usize,
    link: &mut Link,
    expired: &AtomicBool,
) -> Option<Job> {
    // A server may answer before it has read the whole request; until that is settled the old deadline holds.
    let ready = poll_fn(|cx| match link.poll_closed(cx) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending if link.is_ready() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    if !until(expired, ready).await.unwrap_or(false) {
        return None;
    }
    {
        let s = &mut *core.state();
        let lane = s.lanes.get_mut(at)?;
        if let Some(job) = lane.backlog.pop_front() {
            s.waiting -= 1;
            return Some(job);
        }
        lane.idle.push_back(slot);
        let place = s.slots.get_mut(slot)?;
        place.phase = Phase::Idle;
    }
    poll_fn(|cx| {
        // First whether it is still open: an assigned request then goes back to the backlog, unsent.
        if link.poll_closed(cx).is_ready() {
            return Poll::Ready(None);
        }
        match core.state().slots.get_mut(slot).and_then(|p| p.job.take()) {
            Some(job) => Poll::Ready(Some(job)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Carries one request to its end. Breaks when the connection is of no use afterwards.
async fn carry(
    core: &Arc<Core>,
    slot: usize,
    at: usize,
    link: &mut Link,
    mut job: Job,
    (reused, idled): (bool, bool),
    expired: &AtomicBool,
) -> ControlFlow<()> {
    let mix = &core.setup.mix;
    let (Some(request), Some(expectation)) = (mix.request(job.pick, at), mix.expectation(job.pick)) else {
        // The preparation excludes it; should it happen all the same, it is ours.
        core.ended(
            &mut core.state(),
            &job,
            core.clock.now(),
            OutcomeClass::Shed,
            None,
            at,
        );
        return ControlFlow::Continue(());
    };
    let now = core.clock.now();
    {
        let s = &mut *core.state();
        let deadline = job.due.saturating_add(core.timeout);
        s.next_sweep = s.next_sweep.min(deadline);
        if let Some(place) = s.slots.get_mut(slot) {
            place.phase = Phase::Busy { deadline };
        }
        if job.sent.is_none() {
            s.ledger.sent(job.due, now);
            if job.direct {
                s.ledger.lagged(job.due, now);
            }
        }
    }
    job.sent = Some(now);
    let outcome = until(expired, link.exchange(request, expectation, false)).await;
    expired.store(false, Ordering::Relaxed);
    let at_end = core.clock.now();
    let s = &mut *core.state();
    match outcome {
        Some(Ok(answer)) => {
            core.ended(s, &job, at_end, answer.class, Some(answer.status), at);
            return ControlFlow::Continue(());
        }
        Some(Err(broken)) if !job.retried && may_repeat(&broken, reused, idled) => {
            s.retried += 1;
            s.waiting += 1;
            job.retried = true;
            if let Some(lane) = s.lanes.get_mut(at) {
                lane.backlog.push_front(job);
            }
        }
        Some(Err(broken)) => core.ended(s, &job, at_end, broken.class, broken.status, at),
        None => core.ended(s, &job, at_end, OutcomeClass::ClientTimeout, None, at),
    }
    ControlFlow::Break(())
}

/// Whether a broken exchange met the close of an idle connection, which is nobody's failure: nothing of the answer came, and either
/// nothing of the request left, or the connection had idled long enough for a server to give it up.
fn may_repeat(broken: &Broken, reused: bool, idled: bool) -> bool {
    broken.class == OutcomeClass::ResetBeforeFirstByte && (broken.unsent || (reused && idled))
}

/// `work`, or None once `expired` is set (whoever sets it wakes the task).
async fn until<T>(expired: &AtomicBool, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if expired.load(Ordering::Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Offers the schedule, closes bins, and waits for what is in flight.
async fn pace(
    core: &Arc<Core>,
    order: Order,
    timer: &Timer,
    stop: &Stop,
    events: &UnboundedSender<Event>,
) -> io::Result<(Measurement, Option<f64>)> {
    let window = as_nanos(order.window).max(1);
    let begin = core.state().ledger.begin();
    let end = begin.saturating_add(window);
    let start = begin - as_nanos(order.lead_in);
    let step = as_nanos(quantum(order.rate));
    let mut schedule = Schedule::new(order.rate, core.setup.arrivals, order.seed, Part::WHOLE);
    let mut picks = Picks::new(&core.setup.mix, order.seed);
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
            wake = (start + on_grid(next - start, step)).min(s.next_sweep).min(end);
            if before.is_none() {
                wake = wake.min(begin);
            }
            // With arrivals still to enter, a bin's figures are not complete yet.
            if next > now || next >= end {
                while let Some(bin) = s.ledger.close_bin(now) {
                    let _ = events.send(Event::Bin(bin));
                }
            }
            wake = wake.min(s.ledger.next_close().unwrap_or(u64::MAX));
        }
        match stop.wanted() {
            Some(Wanted::All) => return Err(io::Error::other("stopped")),
            Some(Wanted::Window(why)) => {
                reason = Some(why);
                break;
            }
            None => {}
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
    finish(core, order, timer, stop, (before, reason)).await
}

/// Closes the window, drains, and closes the books.
async fn finish(
    core: &Arc<Core>,
    order: Order,
    timer: &Timer,
    stop: &Stop,
    (before, reason): (Option<Reading>, Option<String>),
) -> io::Result<(Measurement, Option<f64>)> {
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
    Ok((m, s.ledger.first_service_ms()))
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

/// Used by the smoke sample too.
pub(super) fn tls_connector() -> Result<Tls, LoadError> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    use tokio_rustls::rustls::{ClientConfig, crypto};
    let broken = |e: tokio_rustls::rustls::Error| LoadError::Tls(e.to_string());
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_platform_verifier()
        .map_err(broken)?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls(TlsConnector::from(Arc::new(config))))
}

/// For messages of the smoke sample.
pub(super) fn shown_text(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..most.min(bytes.len())).unwrap_or_default());
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == char::REPLACEMENT_CHARACTER {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if classify::contains(bytes, b"\n") || bytes.len() > most {
        out.push('…');
    }
    out
}
