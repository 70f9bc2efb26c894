//! What the answers say by themselves: a broken mix, a failing service, a rate limiter.

use crate::capacity::ProbePhase;
use crate::measurement::OutcomeClass as C;
use crate::trial::Probe;

use super::super::Code;
use super::super::evidence::{Reading, answered};
use super::{Finding, pct};

/// Share of `classes` among the answers of each probe that has enough of them, with its rate. Where none has (a search
/// that ended on the idle service), that of all probes together, at the lowest rate.
#[allow(clippy::cast_precision_loss)]
fn shares(probes: &[&Probe], classes: &[C]) -> Vec<(f64, f64, u64)> {
    let each: Vec<(f64, u64, u64)> = probes
        .iter()
        .map(|p| &p.measurement)
        .map(|m| {
            let n: u64 = classes.iter().map(|c| m.count(*c)).sum();
            (m.offered.get(), n, answered(m))
        })
        .collect();
    let enough: Vec<(f64, f64, u64)> = each
        .iter()
        .filter(|(.., all)| *all >= 20)
        .map(|(rate, n, all)| (*rate, *n as f64 / *all as f64, *all))
        .collect();
    let all: u64 = each.iter().map(|e| e.2).sum();
    if !enough.is_empty() || all < 5 {
        return enough;
    }
    let lowest = each.iter().map(|e| e.0).fold(f64::INFINITY, f64::min);
    let n: u64 = each.iter().map(|e| e.1).sum();
    vec![(lowest, n as f64 / all as f64, all)]
}

/// How far the rates lie apart and how far the shares, where every share is above `least`.
fn same_share(shares: &[(f64, f64, u64)], least: f64) -> Option<(f64, f64, f64)> {
    if shares.is_empty() || shares.iter().any(|(_, s, _)| *s < least) {
        return None;
    }
    let min = |f: fn(&(f64, f64, u64)) -> f64| shares.iter().map(f).fold(f64::INFINITY, f64::min);
    let max = |f: fn(&(f64, f64, u64)) -> f64| shares.iter().map(f).fold(0.0, f64::max);
    Some((max(|s| s.0) / min(|s| s.0), min(|s| s.1), max(|s| s.1)))
}

/// How equal shares are that chance alone sets apart: two standard errors of the smallest sample, and 3 points.
#[allow(clippy::cast_precision_loss)]
fn is_constant(shares: &[(f64, f64, u64)], low: f64, high: f64) -> bool {
    let n = shares.iter().map(|s| s.2).min().unwrap_or(1).max(1) as f64;
    let p = f64::midpoint(low, high);
    high - low <= 0.03 + 2.83 * (p * (1.0 - p) / n).sqrt()
}

fn constant_errors(r: &Reading<'_>, classes: &[C]) -> Option<(f64, f64, f64, f64)> {
    let seen: Vec<&Probe> = r.valid.iter().chain(&r.void).copied().collect();
    let shares = shares(&seen, classes);
    let (spread, low, high) = same_share(&shares, (r.f.slo_errors / 2.0).max(0.02))?;
    let constant = is_constant(&shares, low, high);
    let strength = match (constant, spread) {
        (true, s) if s >= 3.0 => 0.97,
        (true, s) if s >= 1.8 => 0.85,
        (true, _) => 0.6,
        (false, _) => 0.3,
    };
    Some((strength, spread, low, high))
}

/// What a request that can never succeed answers: the wrong path, method, body or key.
const WRONG_REQUEST: [C; 4] = [C::ClientError, C::UnexpectedStatus, C::Redirect, C::BodyCheck];

pub(super) fn broken_mix(r: &Reading<'_>) -> Option<Finding> {
    let (strength, spread, low, high) = constant_errors(r, &WRONG_REQUEST)?;
    // Wrong on the idle service already: no load makes a 404.
    let unloaded = r.idle.is_some_and(|p| p.phase == ProbePhase::Idle) && low >= 0.2;
    let strength = if unloaded && strength >= 0.6 {
        strength.max(0.85)
    } else {
        strength
    };
    let statuses = statuses(r, |s| s < 500 && s != 429);
    Some(
        Finding::new(Code::BrokenMix, strength)
            .figure(if spread >= 1.8 {
                format!(
                    "{} to {} of the requests fail at rates {spread:.1} times apart",
                    pct(low),
                    pct(high)
                )
            } else {
                format!("{} of the requests fail", pct(high))
            })
            .figure_if(!statuses.is_empty(), || format!("statuses {statuses}")),
    )
}

/// "401, 404": statuses of the failing probes that are not 2xx, the most frequent first.
fn statuses(r: &Reading<'_>, which: impl Fn(u16) -> bool) -> String {
    let mut counts = std::collections::BTreeMap::<u16, u64>::new();
    for p in &r.failing {
        for (s, n) in &p.measurement.statuses {
            if !(200..300).contains(s) && which(*s) {
                *counts.entry(*s).or_default() += n;
            }
        }
    }
    let mut list: Vec<(u16, u64)> = counts.into_iter().collect();
    list.sort_by_key(|(s, n)| (std::cmp::Reverse(*n), *s));
    list.iter()
        .take(4)
        .map(|(s, _)| s.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn failing_service(r: &Reading<'_>) -> Option<Finding> {
    let classes = [
        C::ServerError,
        C::Unavailable,
        C::ConnectRefused,
        C::ResetBeforeFirstByte,
    ];
    let (strength, spread, low, high) = constant_errors(r, &classes)?;
    // A service that fails at its lowest rate like at its highest. With a single rate it may as well be overloaded.
    let alone = if spread >= 1.8 { 1.0 } else { 0.6 };
    Some(
        Finding::new(Code::FailingService, strength * alone * 0.9)
            .figure(format!(
                "{} to {} server errors at every rate",
                pct(low),
                pct(high)
            ))
            .figure(format!("statuses {}", statuses(r, |s| s >= 500))),
    )
}

pub(super) fn rate_limiter(r: &Reading<'_>) -> Option<Finding> {
    let limit = r.at_limit?;
    let m = &limit.measurement;
    let policy = r.share_of_bad(&[C::TooManyRequests]);
    let flat = r
        .goodput_over_rates()
        .filter(|(rates, _)| *rates >= 1.25)
        .map(|(rates, good)| (rates, good, (good - 1.0).abs() <= 0.12));
    let constant = flat.is_some_and(|(.., c)| c);
    // A 503 of a limiter is the fastest answer of all: nothing was done for it.
    let turned_away = r.share_of_bad(&[C::Unavailable, C::ClientError]) >= 0.8
        && m.error_latency_ms.p50 < 0.6 * m.latency_ms.p50
        && r.slowdown() < 2.0
        && r.figure("pool_waiting_mean").unwrap_or(0.0) < 1.0;
    let idle = r.cpu_is_idle();
    // A limiter that lets bursts through gives no constant goodput in short windows. What else refuses at once, with the CPU
    // idle, is a pool that is full and does not wait: only where the pool was seen with room it is not that.
    let room = match (r.figure("pool_checked_out_peak"), r.figure("pool_capacity")) {
        (Some(out), Some(capacity)) => out < 0.8 * capacity,
        _ => false,
    };
    let at_once = m.error_latency_ms.p50 < 0.25 * m.latency_ms.p50;
    let strength = if policy >= 0.5 {
        0.95
    } else if turned_away && constant {
        if idle { 0.85 } else { 0.7 }
    } else if turned_away && idle && room && at_once {
        0.55
    } else if turned_away {
        0.4
    } else {
        0.0
    };
    Some(
        Finding::new(Code::RateLimiter, strength)
            .witnessed(policy >= 0.5)
            .figure_if(policy > 0.0, || {
                format!("{} of the failures are 429", pct(policy))
            })
            .figure_if(constant, || {
                let (rates, ..) = flat.unwrap_or((1.0, 1.0, true));
                format!(
                    "goodput stays at {:.0} rps while the offered rate rises {rates:.1} times",
                    m.goodput_rps()
                )
            })
            .figure_if(turned_away || policy > 0.0, || {
                format!(
                    "refusals in {:.0} ms, answers in {:.0} ms",
                    m.error_latency_ms.p50, m.latency_ms.p50
                )
            })
            .figure_if(idle, || "the service's CPU is idle".to_owned())
            .figure_if(turned_away && room, || "the pool has room".to_owned()),
    )
}
