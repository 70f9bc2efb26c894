//! The life of one connection: opened, given one request after the other, closed.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::link::{Broken, Link};
use super::pool::{Core, Job, Phase};
use crate::measurement::OutcomeClass;

/// Servers close connections that idle for seconds. A request that meets such a close is sent again; on a connection that was busy
/// a moment ago a close is the service's failure.
const IDLE_CLOSE: u64 = 1_000_000_000;

/// The life of one connection.
pub(super) async fn run(core: Arc<Core>, slot: usize, at: usize, expired: Arc<AtomicBool>) {
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
    let mut last_used = None;
    while let Some(job) = next_job(&core, slot, at, &mut link).await {
        match carry(&core, slot, at, &mut link, job, last_used, &expired).await {
            ControlFlow::Continue(ended) if core.setup.keep_alive => last_used = Some(ended),
            _ => break,
        }
    }
    drop(link);
    core.closed(&mut core.state(), slot, at);
}

/// Waits until the connection can take a request and there is one; None when the connection is finished.
async fn next_job(core: &Arc<Core>, slot: usize, at: usize, link: &mut Link) -> Option<Job> {
    if !link.is_open().await {
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

/// Carries one request to its end, and tells when that was. Breaks when the connection is of no use afterwards. `last_used` is the end of
/// the request before on this connection.
async fn carry(
    core: &Arc<Core>,
    slot: usize,
    at: usize,
    link: &mut Link,
    mut job: Job,
    last_used: Option<u64>,
    expired: &AtomicBool,
) -> ControlFlow<(), u64> {
    let mix = &core.setup.mix;
    let now = core.clock.now();
    let (Some(request), Some(expectation)) = (mix.request(job.pick, at), mix.expectation(job.pick)) else {
        // The preparation excludes it; should it happen all the same, it is ours.
        core.ended(&mut core.state(), &job, now, OutcomeClass::Shed, None, at);
        return ControlFlow::Continue(now);
    };
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
    let outcome = until(expired, link.exchange(&request, expectation, false)).await;
    expired.store(false, Ordering::Relaxed);
    let at_end = core.clock.now();
    let s = &mut *core.state();
    match outcome {
        Some(Ok(answer)) => {
            core.ended(s, &job, at_end, answer.class, Some(answer.status), at);
            return ControlFlow::Continue(at_end);
        }
        Some(Err(broken))
            if !job.retried && may_repeat(&broken, last_used.map(|l| now.saturating_sub(l))) =>
        {
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
fn may_repeat(broken: &Broken, idle: Option<u64>) -> bool {
    broken.class == OutcomeClass::ResetBeforeFirstByte
        && (broken.unsent || idle.is_some_and(|idle| idle >= IDLE_CLOSE))
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
