//! Closed-loop users, as most load tests have them (k6's virtual users, JMeter's threads): each sends its next request
//! when the last one was answered, after a pause.
//!
//! For comparison with such tests, never for a verdict: users wait for a slow service and send less, so that overload
//! hides in the rate instead of the latency (coordinated omission). Latency counts from the send; there is no schedule.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hdrhistogram::Histogram;

use super::health::Reading;
use super::link::Link;
use super::mix::{Pick, Picks};
use super::pool::Setup;
use super::{Generator, LoadError, raise_descriptors};
use crate::measurement::{Measurement, OutcomeClass, Quantiles};
use crate::units::Rps;

/// Most users: as many connections are open at once.
pub const MOST_USERS: u32 = 20_000;
/// A user that could not connect tries again after this, so that a refusing service is not hammered.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// A step of closed-loop load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsersPlan {
    /// Users at the same time.
    pub users: u32,
    /// Before the window, not counted; the users begin spread over it.
    pub lead_in: Duration,
    /// What is counted: requests sent in it.
    pub window: Duration,
    /// Pause of a user after each answer.
    pub think: Duration,
}

/// What the users count together; they run on one thread.
struct Tally {
    sent: u64,
    good: u64,
    in_flight: u64,
    errors: BTreeMap<OutcomeClass, u64>,
    statuses: BTreeMap<u16, u64>,
    by_endpoint: Vec<u64>,
    latency: Histogram<u64>,
    error_latency: Histogram<u64>,
    picks: Picks,
    connections: u64,
}

struct Ending {
    class: OutcomeClass,
    status: Option<u16>,
    unsent: bool,
}

/// Ends the users when the caller goes away.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Generator {
    /// Runs `plan` on a thread of its own. In the result `offered` and `scheduled` are what the users came to send, and both
    /// latencies count from the send. Cancel-safe: dropped, the users stop after their present request.
    ///
    /// # Errors
    /// When the thread or its runtime can't run. What the service did is in the measurement.
    pub async fn users(&self, plan: UsersPlan) -> Result<Measurement, LoadError> {
        raise_descriptors(plan.users);
        let setup = Arc::clone(&self.setup);
        let seed = self.seed;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(Arc::clone(&stop));
        let (sender, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("autotune-users".into())
            .spawn(move || {
                // The listener is gone when the call was dropped.
                let _ = sender.send(run(&setup, plan, seed, &stop));
            })
            .map_err(LoadError::Engine)?;
        done.await.map_err(|_| LoadError::Died)?
    }
}

fn run(setup: &Setup, plan: UsersPlan, seed: u64, stop: &AtomicBool) -> Result<Measurement, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Engine)?;
    // One second beyond the timeout: nothing takes longer.
    let longest_us = u64::try_from(setup.timeout.as_micros()).unwrap_or(u64::MAX / 2) + 1_000_000;
    let histogram = || {
        Histogram::new_with_max(longest_us.max(2), 3).map_err(|e| LoadError::Engine(std::io::Error::other(e)))
    };
    let tally = RefCell::new(Tally {
        sent: 0,
        good: 0,
        in_flight: 0,
        errors: BTreeMap::new(),
        statuses: BTreeMap::new(),
        by_endpoint: vec![0; setup.endpoints.len()],
        latency: histogram()?,
        error_latency: histogram()?,
        picks: Picks::new(&setup.mix, seed),
        connections: 0,
    });
    let begun = Instant::now();
    let before = Reading::take();
    runtime.block_on(async {
        join_all((0..plan.users).map(|n| user(setup, plan, begun, n, &tally, stop))).await;
    });
    let after = Reading::take();
    Ok(sum(setup, plan, &tally.into_inner(), (&before, &after)))
}

#[allow(clippy::cast_precision_loss)]
fn sum(setup: &Setup, plan: UsersPlan, t: &Tally, (before, after): (&Reading, &Reading)) -> Measurement {
    let rate = t.sent as f64 / plan.window.as_secs_f64().max(1e-9);
    let mut m = Measurement::empty(Rps::saturating(rate), plan.window);
    m.scheduled = t.sent;
    m.sent = t.sent;
    m.good = t.good;
    m.errors.clone_from(&t.errors);
    m.statuses.clone_from(&t.statuses);
    m.in_flight_end = t.in_flight;
    m.latency_ms = Quantiles::of_micros(&t.latency);
    m.service_ms = m.latency_ms;
    m.error_latency_ms = Quantiles::of_micros(&t.error_latency);
    if setup.endpoints.len() > 1 {
        let names = setup.endpoints.iter().map(|e| e.name.clone());
        m.by_endpoint = names.zip(t.by_endpoint.iter().copied()).collect();
    }
    before.until(after, &mut m.generator);
    m.generator.timeout_s = setup.timeout.as_secs_f64();
    m.generator.connections = plan.users;
    m.generator.connections_opened = t.connections;
    m
}

/// One user until the end of the window.
async fn user(
    setup: &Setup,
    plan: UsersPlan,
    begun: Instant,
    number: u32,
    tally: &RefCell<Tally>,
    stop: &AtomicBool,
) {
    let at = number as usize % setup.endpoints.len().max(1);
    let (open, close) = (begun + plan.lead_in, begun + plan.lead_in + plan.window);
    let spread = plan.lead_in.max(plan.think.min(plan.window / 4));
    tokio::time::sleep(spread.mul_f64(f64::from(number) / f64::from(plan.users.max(1)))).await;
    let mut link: Option<Link> = None;
    // Bounded by the window; each turn waits for an answer, a timeout or a pause.
    while Instant::now() < close && !stop.load(Ordering::Relaxed) {
        let pick = tally.borrow_mut().picks.next(&setup.mix);
        let sent = Instant::now();
        let counted = sent >= open;
        if counted {
            let t = &mut *tally.borrow_mut();
            t.sent += 1;
            t.in_flight += 1;
        }
        let exchange = exchange(setup, &mut link, pick, at, tally);
        let ending = tokio::time::timeout(setup.timeout, exchange)
            .await
            .unwrap_or_else(|_| {
                link = None;
                Ending {
                    class: OutcomeClass::ClientTimeout,
                    status: None,
                    unsent: false,
                }
            });
        let ended = Instant::now();
        // What is answered after the window stays in flight at its end.
        if counted && ended <= close {
            record(&mut tally.borrow_mut(), &ending, at, ended.duration_since(sent));
        }
        let pause = match ending.unsent {
            true => plan.think.max(AFTER_REFUSAL),
            false => plan.think,
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause.min(close.saturating_duration_since(ended))).await;
        }
    }
}

fn record(t: &mut Tally, ending: &Ending, at: usize, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    t.in_flight -= 1;
    if let Some(status) = ending.status {
        *t.statuses.entry(status).or_default() += 1;
        if let Some(n) = t.by_endpoint.get_mut(at) {
            *n += 1;
        }
    }
    if ending.class == OutcomeClass::Good {
        t.good += 1;
        t.latency.saturating_record(micros);
    } else {
        *t.errors.entry(ending.class).or_default() += 1;
        t.error_latency.saturating_record(micros);
    }
}

/// One request on the user's connection, opened where there is none; once more where the server had closed it meanwhile.
async fn exchange(
    setup: &Setup,
    link: &mut Option<Link>,
    pick: Pick,
    at: usize,
    tally: &RefCell<Tally>,
) -> Ending {
    let failed = |class, status, unsent| Ending {
        class,
        status,
        unsent,
    };
    for attempt in 0..2 {
        let (Some(endpoint), Some(expectation)) = (setup.endpoints.get(at), setup.mix.expectation(pick))
        else {
            break;
        };
        let Some(request) = setup.mix.request(pick, at) else {
            break;
        };
        let mut kept = link.take();
        if let Some(l) = &mut kept
            && !l.is_open().await
        {
            kept = None;
        }
        let is_fresh = kept.is_none();
        let mut open = match kept {
            Some(l) => l,
            None => match Link::open(endpoint, setup.tls.as_ref().map(|t| &t.0)).await {
                Ok(l) => {
                    tally.borrow_mut().connections += 1;
                    l
                }
                Err(e) => return failed(e.class, None, true),
            },
        };
        match open.exchange(&request, expectation, false).await {
            Ok(a) => {
                if setup.keep_alive {
                    *link = Some(open);
                }
                return failed(a.class, Some(a.status), false);
            }
            Err(e) if e.unsent && !is_fresh && attempt == 0 => {}
            Err(e) => return failed(e.class, e.status, false),
        }
    }
    failed(OutcomeClass::Malformed, None, true)
}
