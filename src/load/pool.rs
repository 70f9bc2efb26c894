//! What the tasks of a probe share: connections, idle or busy, and the requests that wait for one.
//!
//! It is behind one mutex that is never contended, since all tasks run on the engine's thread. Arrivals take an idle connection, the
//! longest idle first, so that the workers behind one port share the load; with none idle they wait in the backlog, and a connection
//! is opened while the bound allows. Deadlines are kept by one sweep instead of a timer a request.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

use super::carrier;
use super::clock::{Clock, as_nanos};
use super::endpoint::Endpoint;
use super::engine::Order;
use super::ledger::{End, Frame, Ledger};
use super::link::Tls;
use super::mix::{Mix, Pick};
use crate::measurement::OutcomeClass;
use crate::spec::Arrivals;

/// Most requests that wait for a connection, whatever the rate and the timeout: 12 MB.
const BACKLOG: usize = 1 << 18;
/// A connection that does not open within this fails its request, or within the request's timeout where that is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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

/// One request on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) due: u64,
    pub(super) pick: Pick,
    /// First written at.
    pub(super) sent: Option<u64>,
    /// It found an idle connection when it was due.
    pub(super) direct: bool,
    pub(super) retried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    Opening { deadline: u64 },
    Idle,
    Busy { deadline: u64 },
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    pub(super) job: Option<Job>,
    pub(super) waker: Option<Waker>,
    /// Set when its deadline has passed.
    pub(super) expired: Arc<AtomicBool>,
}

/// Connections and waiting requests of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) idle: VecDeque<usize>,
    pub(super) backlog: VecDeque<Job>,
    /// Connections, those being opened included.
    pub(super) connections: usize,
    pub(super) opening: usize,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<usize>,
    pub(super) lanes: Vec<Lane>,
    pub(super) waiting: usize,
    pub(super) next_sweep: u64,
    pub(super) cap_reached: bool,
    pub(super) opened: u64,
    pub(super) retried: u64,
    pub(super) draining: bool,
}

/// What the pacing task and the connections share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) setup: Arc<Setup>,
    pub(super) clock: Clock,
    /// Nanoseconds.
    pub(super) timeout: u64,
    /// Most connections of one endpoint.
    pub(super) lane_bound: usize,
    pub(super) backlog_bound: usize,
    pub(super) state: Mutex<State>,
    pub(super) drained: Notify,
}

/// Endpoints that one of `parts` generators sends to: an arrival's endpoint and its generator both follow from its number, so
/// with two endpoints and two generators each has one to itself.
fn used_lanes(lanes: usize, parts: u32) -> usize {
    let (mut a, mut b) = (lanes.max(1), (parts as usize).max(1));
    let lanes = a;
    // Euclid's greatest common divisor.
    while b != 0 {
        (a, b) = (b, a % b);
    }
    lanes / a
}

impl Core {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn new(setup: Arc<Setup>, order: Order, clock: Clock) -> io::Result<Arc<Self>> {
        let start = order.start.map_or(clock.now() + RUN_UP, |at| clock.at(at));
        let begin = start + as_nanos(order.lead_in);
        let frame = Frame::new(order.rate, begin, as_nanos(order.window));
        let timeout = as_nanos(setup.timeout);
        let lanes = setup.endpoints.len().max(1);
        let longest_us = timeout.saturating_mul(2) / 1_000;
        let mut ledger =
            Ledger::open(frame, lanes, longest_us).map_err(|e| io::Error::other(e.to_string()))?;
        if order.intervals {
            ledger.keep_intervals();
        }
        if order.bin_histograms {
            ledger.keep_bin_histograms();
        }
        // What the timeout lets wait at this rate, twice over; beyond that the generator sheds and says so.
        let waiting = order.own_rate().get() * setup.timeout.as_secs_f64() * 2.0 + 1_000.0;
        Ok(Arc::new(Self {
            clock,
            timeout,
            lane_bound: (setup.connections as usize / used_lanes(lanes, order.part.of)).max(1),
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An arrival is due: onto an idle connection, or into the backlog.
    pub(super) fn arrive(self: &Arc<Self>, s: &mut State, now: u64, due: u64, pick: Pick) {
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
    pub(super) fn open_where_needed(self: &Arc<Self>, s: &mut State, at: usize, now: u64) {
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
            tokio::spawn(carrier::run(Arc::clone(self), index, at, expired));
        }
    }

    pub(super) fn ended(
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
    pub(super) fn sweep(&self, s: &mut State, now: u64) {
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
    pub(super) fn give_up_waiting(&self, s: &mut State) {
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
    pub(super) fn closed(self: &Arc<Self>, s: &mut State, slot: usize, at: usize) {
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
    pub(super) fn not_opened(self: &Arc<Self>, slot: usize, at: usize, class: OutcomeClass) {
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
