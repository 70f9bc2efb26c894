//! Did the service carry a probe's rate? One measurement in, a verdict with its reason out.
//!
//! Judged on goodput loss, not on error responses: a full pool fails nobody for as long as its timeout, and by then a
//! search that counts errors has gone far past the capacity. Not here: what to offer next.

use crate::measurement::{Bin, Measurement, OutcomeClass, generator_verdict};
use crate::slo::{Drift, Slo, Verdict, blocks_upper, drift, share_lower, share_upper};

use super::{Plan, ProbePhase, ProbePlan};

/// Growth of the queue above which a rate is not sustained: per second, as a share of the rate.
pub(super) const GROWTH_LIMIT: f64 = 0.01;
/// One-sided confidence of the loss bound.
const CONFIDENCE: f64 = 0.95;
/// Time blocks a window is cut into.
const BLOCKS: usize = 10;
/// In flight must be gone this long after a confirmation, seconds.
const RECOVERY_S: f64 = 5.0;

/// What a probe says.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in a few words.
    pub reason: String,
    /// Upper 95 % bound of the goodput loss.
    pub loss_upper: f64,
}

/// Judges what `probe` measured.
///
/// A confirmation must show that the rate is carried: the upper bound of the loss is under the limit. A short probe
/// must only not show the contrary; its errors are the posterior's business.
#[must_use]
pub fn judge(plan: &Plan, probe: &ProbePlan, m: &Measurement) -> Judgement {
    let blocks = loss_blocks(probe, m);
    let loss_upper = blocks_upper(&blocks, CONFIDENCE);
    let is = |verdict, reason: String| Judgement {
        verdict,
        reason,
        loss_upper,
    };
    let limits = generator_verdict(m, probe.idle_ms);
    if !limits.is_empty() {
        return is(Verdict::Void, limits.join("; "));
    }
    if m.scheduled == 0 {
        return is(Verdict::Void, "nothing was scheduled in the window".into());
    }
    if probe.phase == ProbePhase::Idle {
        return judge_idle(probe, m, loss_upper);
    }
    if plan.errors_only {
        let (ratio, limit) = (m.error_response_ratio(), plan.slo.errors.get());
        let verdict = if ratio > limit {
            Verdict::Violates
        } else {
            Verdict::Meets
        };
        return is(
            verdict,
            format!(
                "{:.1} % error responses, {} in flight unseen",
                ratio * 100.0,
                m.in_flight_end
            ),
        );
    }
    if let (Some(why), true) = (&m.stopped_early, probe.phase != ProbePhase::WarmUp) {
        return is(Verdict::Violates, blame(m, why.clone()));
    }
    let failed = loss_fails(plan, probe, m, &blocks, loss_upper)
        .or_else(|| growth_fails(m))
        .or_else(|| latency_fails(m))
        .or_else(|| slo_fails(&plan.slo, m))
        .or_else(|| recovery_fails(probe, m));
    match failed {
        Some(why) if probe.phase != ProbePhase::WarmUp || m.loss() > 0.5 => {
            is(Verdict::Violates, blame(m, why))
        }
        Some(why) => is(Verdict::Meets, format!("warm-up: {why}")),
        None => is(
            Verdict::Meets,
            format!("goodput loss {:.1} % at most", loss_upper * 100.0),
        ),
    }
}

/// Names a rate limiter where one answered: its refusals are a policy, flat whatever the configuration.
fn blame(m: &Measurement, why: String) -> String {
    if is_policy(m) {
        return format!("{why}; policy, not capacity: the service answers 429");
    }
    why
}

/// Most of what was not good was refused by a rate limiter.
pub(super) fn is_policy(m: &Measurement) -> bool {
    let bad: u64 = m.errors.values().sum();
    bad > 0 && m.count(OutcomeClass::TooManyRequests) as f64 > 0.8 * (bad + m.in_flight_end / 2) as f64
}

/// Lost and scheduled requests by time block. In flight at the end is lost, except for what a service without a queue
/// would have in flight as well: at most the level at the start of the window, and three idle latencies' worth.
pub(super) fn loss_blocks(probe: &ProbePlan, m: &Measurement) -> Vec<(u64, u64)> {
    let Some(first) = m.bins.first() else {
        return vec![(m.scheduled.saturating_sub(m.good), m.scheduled)];
    };
    let idle_s = probe.idle_ms.map_or(0.3, |ms| ms / 1e3);
    let usual = (m.offered.get() * 3.0 * idle_s).ceil() as u64;
    let mut allowed = m.in_flight_end.min(first.in_flight_end).min(usual);
    let mut lost: Vec<(u64, u64)> = Vec::with_capacity(m.bins.len());
    for b in m.bins.iter().rev() {
        let bad = b.scheduled.saturating_sub(b.scheduled_good);
        let forgiven = bad.min(allowed);
        allowed -= forgiven;
        lost.push((bad - forgiven, b.scheduled));
    }
    lost.reverse();
    lost.chunks(lost.len().div_ceil(BLOCKS))
        .map(|c| c.iter().fold((0, 0), |s, b| (s.0 + b.0, s.1 + b.1)))
        .collect()
}

fn loss_fails(
    plan: &Plan,
    probe: &ProbePlan,
    m: &Measurement,
    blocks: &[(u64, u64)],
    upper: f64,
) -> Option<String> {
    let limit = plan.slo.errors.get();
    let (bad, n) = blocks.iter().fold((0, 0), |s, b| (s.0 + b.0, s.1 + b.1));
    let loss = if n == 0 { 1.0 } else { bad as f64 / n as f64 };
    let fails = if probe.phase == ProbePhase::Confirm {
        // Too few requests for any bound (a very slow service): then the point estimate is all there is.
        upper > limit && (share_upper(0, n, CONFIDENCE) < limit || loss > limit)
    } else {
        loss > limit && share_lower(bad, n, 0.9) > limit / 2.0
    };
    fails.then(|| {
        let policy = m.count(OutcomeClass::TooManyRequests);
        let refused = if policy > 0 {
            format!(", {policy} refused with 429")
        } else {
            String::new()
        };
        format!(
            "goodput loss {:.1} %, with 95 % confidence under {:.1} %: the limit is {:.1} %{refused}",
            loss * 100.0,
            upper * 100.0,
            limit * 100.0
        )
    })
}

fn growth_fails(m: &Measurement) -> Option<String> {
    let d = queue_growth(m)?;
    if let (Some(first), Some(last)) = (m.bins.first(), m.bins.last())
        && m.bins.len() >= 12
    {
        // From end to end, with the scatter of random service times: a trend that a stall hides from the slope.
        let span = last.start_s + last.width_s - first.width_s;
        let grown = last.in_flight_end as f64 - first.in_flight_end as f64;
        let per_s = (grown - (0.5 * m.scheduled as f64).sqrt() - 2.0) / span / m.offered.get();
        if per_s > GROWTH_LIMIT {
            return Some(format!(
                "{grown:.0} more requests in flight at the window's end than at its start"
            ));
        }
    }
    (d.per_s - d.se > GROWTH_LIMIT).then(|| {
        format!(
            "requests in flight grow by {:.1} % of the rate every second",
            d.per_s * 100.0
        )
    })
}

/// Latency that climbs is a queue that grows, seen more finely at low rates: behind a first-in first-out queue the
/// latency rises by (rate / capacity - 1) seconds a second. The rule of thirds catches what is not linear; a rise
/// that a growth under the limit would explain is let pass.
fn latency_fails(m: &Measurement) -> Option<String> {
    if let Some(d) = latency_growth(m)
        && d.per_s - d.se > GROWTH_LIMIT
    {
        return Some(format!(
            "the median latency climbs by {:.0} ms every second",
            d.per_s * 1e3
        ));
    }
    let seen: Vec<&Bin> = m.bins.iter().filter(|b| b.completed_good > 0).collect();
    if seen.len() < 12 {
        return None;
    }
    let third = seen.len() / 3;
    let p95 = |bins: &[&Bin]| {
        let n: u64 = bins.iter().map(|b| b.completed_good).sum();
        bins.iter()
            .map(|b| b.latency_ms_p95 * b.completed_good as f64)
            .sum::<f64>()
            / n.max(1) as f64
    };
    let (first, last) = (p95(&seen[..third]), p95(&seen[seen.len() - third..]));
    let series: Vec<f64> = chunk_means(&seen, |b| b.latency_ms_p95);
    let d = drift(&series, m.window_s);
    let rise_limit = 2.0 * GROWTH_LIMIT * 1e3 * m.window_s * 2.0 / 3.0;
    (last > 1.3 * first && last - first > rise_limit && d.per_s > 2.0 * d.se)
        .then(|| format!("the 95th percentile rises from {first:.0} to {last:.0} ms within the window"))
}

fn slo_fails(slo: &Slo, m: &Measurement) -> Option<String> {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let q = &m.latency_ms;
    // A percentile needs requests beyond it: with few, the next lower one is asked instead.
    let p95 = if m.good >= 60 { q.p95 } else { q.p90 };
    let p99 = if m.good >= 300 { q.p99 } else { p95 };
    [
        ("mean", slo.mean, q.mean),
        ("p95", slo.p95, p95),
        ("p99", slo.p99, p99),
    ]
    .into_iter()
    .find_map(|(name, limit, is)| {
        let limit = ms(limit?);
        (is > limit).then(|| format!("{name} {is:.0} ms over {limit:.0} ms"))
    })
}

fn recovery_fails(probe: &ProbePlan, m: &Measurement) -> Option<String> {
    if probe.phase != ProbePhase::Confirm {
        return None;
    }
    let idle_s = probe.idle_ms.map_or(0.0, |ms| ms / 1e3);
    let limit = RECOVERY_S.max(5.0 * idle_s);
    match m.drained_s {
        Some(s) if s <= limit => None,
        Some(s) => Some(format!("{s:.0} s until nothing was in flight")),
        None => Some(format!(
            "{} requests still in flight after the drain",
            m.in_flight_after_drain
        )),
    }
}

/// The first idle check asks whether the service answers at all; later ones whether it is back to normal.
fn judge_idle(probe: &ProbePlan, m: &Measurement, loss_upper: f64) -> Judgement {
    let is = |verdict, reason| Judgement {
        verdict,
        reason,
        loss_upper,
    };
    let ended: u64 = m.good + m.errors.values().sum::<u64>();
    if m.good * 2 < ended || ended == 0 {
        return is(Verdict::Violates, status_table(m));
    }
    let p50 = m.latency_ms.p50;
    if let Some(idle) = probe.idle_ms {
        let limit = (2.0 * idle).max(idle + 10.0);
        if p50 > limit {
            return is(
                Verdict::Violates,
                format!("median {p50:.0} ms, {idle:.0} ms when idle before"),
            );
        }
    }
    is(Verdict::Meets, format!("median {p50:.1} ms"))
}

/// What was answered: "404: 7, connect_refused: 3".
fn status_table(m: &Measurement) -> String {
    let mut parts: Vec<String> = m.statuses.iter().map(|(s, n)| format!("{s}: {n}")).collect();
    parts.extend(
        m.errors
            .iter()
            .filter(|(c, n)| {
                **n > 0
                    && matches!(
                        c,
                        OutcomeClass::ClientTimeout
                            | OutcomeClass::ConnectRefused
                            | OutcomeClass::ConnectTimeout
                            | OutcomeClass::ResetBeforeFirstByte
                            | OutcomeClass::ResetInBody
                            | OutcomeClass::Malformed
                            | OutcomeClass::BodyCheck
                    )
            })
            .map(|(c, n)| format!("{}: {n}", c.name())),
    );
    if parts.is_empty() {
        parts.push("nothing".into());
    }
    format!(
        "at rest {} of {} requests were good; answers: {}{}",
        m.good,
        m.scheduled,
        parts.join(", "),
        advice(m).map(|a| format!("; {a}")).unwrap_or_default()
    )
}

/// What to do about the commonest wrong answer, where that is clear.
fn advice(m: &Measurement) -> Option<&'static str> {
    let (status, _) = m.statuses.iter().max_by_key(|(_, n)| **n)?;
    Some(match status {
        300..=399 => "redirects are not followed: give the address it redirects to",
        401 | 403 | 407 => "it wants to know who asks: give a header (--header, or headers in [load])",
        404 | 410 => "is the path right?",
        405 => "is the method right?",
        429 => "it limits the rate even at rest",
        500..=599 => "it fails without any load: its log has the reason",
        _ => return None,
    })
}

/// Growth of the requests in flight, per second, as a share of the rate.
pub(super) fn queue_growth(m: &Measurement) -> Option<Drift> {
    let rate = m.offered.get();
    let span: f64 = m.bins.iter().map(|b| b.width_s).sum();
    if span <= 0.0 || m.bins.len() < 2 {
        return None;
    }
    let n: u64 = m.bins.iter().map(|b| b.scheduled).sum();
    if m.bins.len() < 6 {
        // Too few points for a trend: what came in less what went out, with the scatter of a moderately random service.
        let out: u64 = m.bins.iter().map(|b| b.completed_good + b.completed_bad).sum();
        let per_s = (n as f64 - out as f64) / span / rate;
        return Some(Drift {
            per_s,
            se: (2.0 + 0.3 * n as f64).sqrt() / span / rate,
        });
    }
    let all: Vec<&Bin> = m.bins.iter().collect();
    let d = drift(&chunk_means(&all, |b| b.in_flight_end as f64), span);
    // A count of whole requests cannot show less than a part of one.
    let grain = 0.7 * (12.0 / m.bins.len() as f64).sqrt() / span;
    Some(Drift {
        per_s: d.per_s / rate,
        se: d.se.max(grain) / rate,
    })
}

/// Climb of the median latency, seconds per second; needs six bins with answers.
pub(super) fn latency_growth(m: &Measurement) -> Option<Drift> {
    let seen: Vec<&Bin> = m.bins.iter().filter(|b| b.completed_good > 0).collect();
    let span: f64 = seen.iter().map(|b| b.width_s).sum();
    if seen.len() < 6 || span <= 0.0 {
        return None;
    }
    let series = chunk_means(&seen, |b| b.latency_ms_p50 / 1e3);
    let d = drift(&series, span);
    let jitter = 0.1 * series.iter().sum::<f64>() / series.len() as f64;
    let grain = 3.46 * jitter / (seen.len() as f64).sqrt() / span;
    Some(Drift {
        per_s: d.per_s,
        se: d.se.max(grain),
    })
}

/// Means over at most ten chunks of bins: averages out the jitter of single bins and keeps the walk of the queue.
fn chunk_means(bins: &[&Bin], of: impl Fn(&Bin) -> f64) -> Vec<f64> {
    bins.chunks(bins.len().div_ceil(BLOCKS).max(1))
        .map(|c| c.iter().map(|b| of(b)).sum::<f64>() / c.len() as f64)
        .collect()
}
