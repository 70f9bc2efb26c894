//! The machine: CPU quota and cores, memory, the host, the accept queue, and the generator of the load itself.

use crate::measurement::OutcomeClass as C;
use crate::slo::Verdict;
use crate::trial::{Failure, Probe};

use super::super::Code;
use super::super::evidence::Reading;
use super::{Finding, pct, ramp};

pub(super) fn cpu_quota(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let used = r.quota_used()?;
    let limit = r.figure("cpu_limit")?;
    let throttled = r.figure("throttled_ratio").unwrap_or(0.0);
    let by_throttling = 0.95 * ramp(throttled, 0.05, 0.3) * ramp(used, 0.6, 0.85);
    // One process fills a quota of one core without ever being throttled.
    let by_use = 0.85 * ramp(used, 0.85, 0.95);
    Some(
        Finding::new(Code::CpuQuota, by_throttling.max(by_use))
            // At its memory limit a service spends its CPU on making room, and on starting again what was killed.
            .blind(memory_used(r) >= 0.97)
            .figure(format!("{:.2} of {limit} cores", used * limit))
            .figure(format!("{} of periods throttled", pct(throttled))),
    )
}

pub(super) fn one_core(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let process = r.figure("process_cpu_max")?;
    let thread = r.figure("thread_cpu_max").unwrap_or(0.0);
    // Above one core the process has no lock that holds it to one; then a single thread must be full.
    let busiest = if process <= 1.15 { process } else { thread };
    let throttled = r.figure("throttled_ratio").unwrap_or(0.0);
    let limit = r.figure("cpu_limit");
    let hosts = r.figure("host_cores").unwrap_or(2.0);
    let can_fill = limit.is_none_or(|l| l >= 0.95) && hosts >= 1.5;
    // On a machine that others fill, a full event loop runs half of the time and is ready to run in the other half.
    let wait = r.figure("thread_cpu_wait_max").unwrap_or(0.0);
    let kept_waiting = if r.starved() {
        0.8 * ramp(busiest + wait, 0.8, 0.95) * ramp(busiest, 0.3, 0.42)
    } else {
        0.0
    };
    // Processes that fill every core of the machine between them: another one would have none to run on.
    let machine = r.figure("cpu_used").unwrap_or(0.0) / hosts.max(1.0);
    let strength = (0.95 * ramp(busiest, 0.75, 0.92)).max(kept_waiting)
        * (1.0 - ramp(throttled, 0.05, 0.3))
        * (1.0 - ramp(machine, 0.8, 0.95));
    Some(
        Finding::new(Code::OneCore, if can_fill { strength } else { 0.0 })
            .blind(r.figure("host_cpu_ratio").is_none() || kept_waiting > 0.0)
            .figure(format!("the busiest process uses {busiest:.2} of one core"))
            .figure_if(kept_waiting > 0.0, || {
                format!("its thread waits {wait:.2} s a second for a CPU that others use")
            })
            .figure(match limit {
                Some(l) => format!(
                    "{:.2} of {l} cores used, {} of periods throttled",
                    r.figure("cpu_used").unwrap_or(0.0),
                    pct(throttled)
                ),
                None => format!("no quota, {hosts:.0} cores in the machine"),
            }),
    )
}

/// Memory at its peak over the limit; 0 without a limit.
fn memory_used(r: &Reading<'_>) -> f64 {
    match (r.any("memory_peak_mb"), r.any("memory_limit_mb")) {
        (peak, limit) if limit > 0.0 => peak / limit,
        _ => 0.0,
    }
}

pub(super) fn memory(r: &Reading<'_>) -> Option<Finding> {
    let kills = r.any("oom_kills");
    let failed = r.f.failure == Some(Failure::Oom);
    let died = r.any("restarts");
    let used = memory_used(r);
    // Killed, but nobody saw that it was for memory, and there was room a second before: somebody else may have done it.
    let sudden = failed && kills <= 0.0 && used > 0.0 && used < 0.8;
    let seen = kills > 0.0 || (failed && !sudden);
    let broken = r.share_of_bad(&[C::ResetBeforeFirstByte, C::ResetInBody, C::ConnectRefused]) >= 0.3;
    let strength = if seen {
        0.98
    } else if sudden {
        0.45
    } else if used >= 0.9 && (died > 0.0 || broken) {
        0.7
    } else {
        0.4 * ramp(used, 0.93, 1.0)
    };
    Some(
        Finding::new(Code::Memory, strength)
            .witnessed(seen)
            .figure_if(kills > 0.0, || format!("{kills:.0} killed for the memory limit"))
            .figure_if(failed && kills <= 0.0, || match sudden {
                true => "killed (status 137), by whom was not seen".to_owned(),
                false => "killed for the memory limit".to_owned(),
            })
            .figure_if(used > 0.0, || {
                format!(
                    "{:.0} of {:.0} MiB at the peak",
                    r.any("memory_peak_mb"),
                    r.any("memory_limit_mb")
                )
            }),
    )
}

pub(super) fn accept_queue(r: &Reading<'_>) -> Option<Finding> {
    let limit = r.at_limit?;
    let share = r.share_of_bad(&[C::ConnectRefused, C::ResetBeforeFirstByte, C::ConnectTimeout]);
    let overflows = r.any("listen_overflows");
    let calm = r.any("oom_kills") <= 0.0 && r.any("restarts") <= 0.0 && r.f.failure.is_none();
    // The kernel answers a full queue with silence; the client tries again after 1 s and 3 s.
    let m = &limit.measurement;
    let again = [1_000.0, 3_000.0]
        .iter()
        .any(|t| (t * 0.97..t * 1.12).contains(&m.latency_ms.p99) && m.latency_ms.p50 < t / 5.0);
    let strength = if !calm {
        0.0
    } else if overflows >= 3.0 && (share >= 0.3 || again) {
        0.9
    } else if share >= 0.5 {
        0.6
    } else if overflows >= 3.0 {
        0.4
    } else {
        0.0
    };
    Some(
        Finding::new(Code::AcceptQueue, strength)
            .blind(!r.knows_cpu())
            .figure_if(overflows > 0.0, || {
                format!("{overflows:.0} connections dropped by a full listen queue")
            })
            .figure_if(share > 0.0, || {
                format!("{} of the failures are refused or reset connections", pct(share))
            })
            .figure_if(again, || {
                format!("p99 {:.0} ms: a second try to connect", m.latency_ms.p99)
            }),
    )
}

pub(super) fn host_cpu(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let busy = r.figure("host_cpu_ratio")?;
    let steal = r.figure("host_steal_ratio").unwrap_or(0.0);
    // A machine that is as full at the lowest rate is filled by others: that slows everything, and explains no limit.
    let before = r.at_lowest("host_cpu_ratio").unwrap_or(0.0);
    let by_others = ramp(before, 0.6, 0.85);
    let wait = r.figure("thread_cpu_wait_max").unwrap_or(0.0);
    Some(
        Finding::new(
            Code::HostCpu,
            0.85 * ramp(busy, 0.85, 0.96) * (1.0 - 0.6 * by_others),
        )
        .blind(by_others > 0.0)
        .figure(format!("the machine is {} busy", pct(busy)))
        .figure_if(by_others > 0.0, || {
            format!("{} at the lowest rate already: others use it", pct(before))
        })
        .figure_if(wait >= 0.3, || {
            format!("the service's busiest thread waits {wait:.2} s a second for a CPU")
        })
        .figure_if(steal > 0.02, || {
            format!("{} of it taken by the hypervisor", pct(steal))
        }),
    )
}

/// What was carried later was only a bad moment of the generator.
fn carried_later(r: &Reading<'_>, p: &Probe) -> bool {
    r.valid.iter().any(|v| {
        v.verdict == Verdict::Meets
            && v.number > p.number
            && v.measurement.offered.get() >= 0.98 * p.measurement.offered.get()
    })
}

/// The generator's own trouble, by the rules that make a probe Void, and the one that looks like a slow service: all
/// requests wait for too few connections while the service answers as fast as ever.
#[allow(clippy::cast_precision_loss)]
pub(super) fn generator(r: &Reading<'_>) -> Option<Finding> {
    let lowest_void = r.void.iter().filter(|p| !carried_later(r, p)).min_by(|a, b| {
        a.measurement
            .offered
            .get()
            .total_cmp(&b.measurement.offered.get())
    });
    let probe = lowest_void.copied().or(r.at_limit)?;
    let m = &probe.measurement;
    let g = &m.generator;
    let local: u64 = m
        .errors
        .iter()
        .filter(|(c, _)| c.is_local())
        .map(|(_, n)| n)
        .sum();
    let local = local as f64 / m.scheduled.max(1) as f64;
    let idle_ms = r
        .idle
        .map_or(0.0, |p| p.measurement.service_ms.p50)
        .max(m.service_ms.p50.min(1.0));
    let held = g.cap_reached
        && m.service_ms.p50 > 0.0
        && m.service_ms.p50 <= 1.5 * idle_ms + 2.0
        && m.sent < m.scheduled;
    let lag = g.send_lag_ms.p99 > (0.02 * g.timeout_s * 1e3).max(1.0);
    // A Void below the lowest failure ended the search; one above it was only a step too far.
    let ended = match (lowest_void, r.at_limit) {
        (Some(v), Some(l)) => v.measurement.offered.get() <= l.measurement.offered.get(),
        (Some(_), None) => true,
        (None, _) => false,
    };
    let own = [
        (local > 0.005, 0.95),
        (g.cpu_ratio > 0.8, 0.85),
        (g.throttled_ratio > 0.1, 0.85),
        (held, 0.9),
        (lag, 0.8),
    ]
    .iter()
    .filter(|(yes, _)| *yes)
    .map(|(_, s)| *s)
    .fold(0.0, f64::max);
    let strength = match (lowest_void.is_some(), ended) {
        (true, true) => own.max(0.85),
        (true, false) => 0.3,
        (false, _) => own * 0.8,
    };
    Some(
        Finding::new(Code::Generator, strength)
            .figure_if(strength > 0.0, || {
                format!("{:.0} of {:.0} rps sent", m.achieved_rps(), m.offered.get())
            })
            .figure_if(held, || {
                format!(
                    "all connections in use while the service answers in {:.1} ms",
                    m.service_ms.p50
                )
            })
            .figure_if(local > 0.005, || format!("{} never sent", pct(local)))
            .figure_if(lag, || format!("send lag p99 {:.1} ms", g.send_lag_ms.p99))
            .figure_if(g.cpu_ratio > 0.8, || {
                format!("the generator uses {} of its core", pct(g.cpu_ratio))
            })
            .figure_if(lowest_void.is_some(), || probe.reason.clone()),
    )
}
