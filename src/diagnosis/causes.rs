//! The causes. Each looks at the evidence by itself and says how strongly it speaks for it, 0..=1, with the figures.
//! Thresholds are those of docs/diagnosis.md, from runs on a real stack; a ramp stands between "no" and "yes" so that
//! no figure decides by a hair.

use crate::capacity::ProbePhase;
use crate::measurement::OutcomeClass as C;
use crate::slo::Verdict;
use crate::trial::{Failure, Probe};

use super::Code;
use super::evidence::{Reading, answered};

/// What a cause found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) code: Code,
    /// 0..=1.
    pub(super) strength: f64,
    /// Somebody named the cause: an error text, an event, a status that means only this.
    pub(super) witnessed: bool,
    /// Something that could contradict it was not looked at: never of high confidence.
    pub(super) blind: bool,
    pub(super) figures: Vec<String>,
}

impl Finding {
    fn new(code: Code, strength: f64) -> Self {
        Self {
            code,
            strength: if strength.is_nan() {
                0.0
            } else {
                strength.clamp(0.0, 1.0)
            },
            witnessed: false,
            blind: false,
            figures: Vec::new(),
        }
    }

    fn witnessed(mut self, yes: bool) -> Self {
        self.witnessed = yes;
        self
    }

    fn blind(mut self, yes: bool) -> Self {
        self.blind = yes;
        self
    }

    fn figure(mut self, text: String) -> Self {
        self.figures.push(text);
        self
    }

    fn figure_if(self, yes: bool, text: impl FnOnce() -> String) -> Self {
        if yes { self.figure(text()) } else { self }
    }
}

pub(super) fn all(r: &Reading<'_>) -> Vec<Finding> {
    [
        pool_wait,
        pool_too_large,
        database_locks,
        max_connections,
        cpu_quota,
        one_core,
        memory,
        broken_mix,
        rate_limiter,
        accept_queue,
        generator,
        redis_pool,
        host_cpu,
        database,
        failing_service,
    ]
    .iter()
    .filter_map(|cause| cause(r))
    .filter(|f| f.strength > 0.0)
    .collect()
}

/// 0 up to `low`, 1 from `high`, a line between.
fn ramp(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() {
        return 0.0;
    }
    ((x - low) / (high - low)).clamp(0.0, 1.0)
}

fn pct(x: f64) -> String {
    format!("{:.0} %", x * 100.0)
}

fn pool_wait(r: &Reading<'_>) -> Option<Finding> {
    let limit = r.at_limit?;
    let m = &limit.measurement;
    let timeouts = r.share_of_bad(&[C::PoolTimeout]);
    let named = r.count(&[C::PoolTimeout]) >= 3 && timeouts >= 0.3;
    let server_errors = r.share_of_bad(&[C::ServerError, C::Unavailable, C::PoolTimeout]);
    // The error of a full pool comes exactly at pool_timeout (2000.3 ms for 2 s).
    let at_timeout =
        r.f.pool_timeout_s
            .filter(|_| server_errors >= 0.5)
            .is_some_and(|t| {
                r.failing
                    .iter()
                    .map(|p| p.measurement.error_latency_ms.p50 / (t * 1e3))
                    .any(|x| (0.9..=1.2).contains(&x))
            });
    let (out, capacity) = (r.figure("pool_checked_out_peak"), r.figure("pool_capacity"));
    let waiting = r.figure("pool_waiting_mean").unwrap_or(0.0);
    let full = matches!((out, capacity), (Some(o), Some(c)) if c > 0.0 && o >= c);
    let backends = r.figure("db_connections_peak");
    let all_backends = matches!((backends, r.f.pool_total), (Some(b), Some(t)) if t > 0.0 && b >= t * 0.95);
    let slow = r.slowdown();
    let queues = (slow >= 3.0 || m.in_flight_end > m.scheduled / 20) && r.cpu_is_idle();
    let strength = [
        (named, 0.95),
        (at_timeout, 0.85),
        (full && waiting >= 1.0, 0.9),
        (full && queues, 0.85),
        (all_backends && queues, 0.7),
        (queues && capacity.is_none() && backends.is_none(), 0.35),
    ]
    .iter()
    .filter(|(yes, _)| *yes)
    .map(|(_, s)| *s)
    .fold(0.0, f64::max);
    // An endpoint that says that the pool was never full contradicts everything but the pool's own words.
    let contradicted = !named && matches!((out, capacity), (Some(o), Some(c)) if c > 0.0 && o < c * 0.9);
    Some(
        Finding::new(
            Code::PoolWait,
            if contradicted { strength * 0.2 } else { strength },
        )
        .witnessed(false) // also said by a pool that is full for another reason
        .blind(!r.knows_cpu() || r.starved())
        .figure_if(full, || {
            format!(
                "{:.0} of {:.0} connections checked out",
                out.unwrap_or(0.0),
                capacity.unwrap_or(0.0)
            )
        })
        .figure_if(waiting >= 1.0, || format!("{waiting:.0} requests wait for one"))
        .figure_if(named, || {
            format!("{} of the failures are pool timeouts", pct(timeouts))
        })
        .figure_if(at_timeout, || {
            format!("errors come at {:.0} ms, pool_timeout", m.error_latency_ms.p50)
        })
        .figure_if(all_backends && !full, || {
            format!(
                "{:.0} backends, all that the pool may have",
                backends.unwrap_or(0.0)
            )
        })
        .figure_if(r.figure("db_running_mean").is_some(), || {
            format!(
                "{:.1} backends running in Postgres",
                r.figure("db_running_mean").unwrap_or(0.0).abs()
            )
        })
        .figure_if(slow >= 3.0, || format!("the median rose {slow:.0} times")),
    )
}

/// Backends that work or contend, in units of the database's CPUs; sleeping ones and those that wait for the client not
/// counted.
fn contention(r: &Reading<'_>) -> Option<(f64, f64)> {
    let cores =
        r.f.database_cores
            .or_else(|| r.figure("host_cores"))
            .filter(|c| *c > 0.0)?;
    let active = r.figure("db_active_mean")?;
    let running = r.figure("db_running_mean")?;
    let waits = ["db_wait_lwlock_ratio", "db_wait_io_ratio"]
        .iter()
        .filter_map(|n| r.figure(n))
        .sum::<f64>();
    Some((running / cores, (running + waits * active) / cores))
}

fn pool_too_large(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let (_, contended) = contention(r)?;
    let cores = r.f.database_cores.or_else(|| r.figure("host_cores"))?;
    let backends = r.figure("db_connections_peak").unwrap_or(0.0);
    let lwlock = r.figure("db_wait_lwlock_ratio").unwrap_or(0.0);
    let strength = ramp(contended, 2.0, 5.0) * ramp(backends / cores, 3.0, 8.0) * 0.9;
    Some(
        Finding::new(Code::PoolTooLarge, strength)
            .blind(true) // only a smaller pool proves it
            .figure(format!("{:.1} backends want {cores:.0} CPUs", contended * cores))
            .figure(format!("{backends:.0} connections"))
            .figure_if(lwlock > 0.1, || {
                format!("{} of active backends wait for internal locks", pct(lwlock))
            }),
    )
}

fn database(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let (running, contended) = contention(r)?;
    let io = r.figure("db_wait_io_ratio").unwrap_or(0.0);
    let active = r.figure("db_active_mean").unwrap_or(0.0);
    let busy = ramp(running, 0.4, 0.9);
    let disk = ramp(io, 0.3, 0.7) * ramp(active, 1.0, 3.0);
    // A database full on this machine fills the machine; where that was looked at and is not so, its CPU does not bind.
    let room = r.figure("host_cpu_ratio").map_or(1.0, |h| ramp(h, 0.6, 0.85));
    let strength = (busy * room).max(disk) * 0.8 * (1.0 - 0.5 * ramp(contended, 3.0, 6.0));
    Some(
        Finding::new(Code::Database, strength)
            .blind(true)
            .figure(format!(
                "{:.1} of {active:.1} active backends are on a CPU",
                running
                    * r.f
                        .database_cores
                        .or_else(|| r.figure("host_cores"))
                        .unwrap_or(1.0)
            ))
            .figure_if(disk > 0.0, || format!("{} wait for a disk", pct(io))),
    )
}

fn database_locks(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let share = r.figure("db_wait_lock_ratio")?;
    let active = r.figure("db_active_mean").unwrap_or(0.0);
    let waiting = share * active;
    let deadlocks = r.any("db_deadlocks");
    let strength = 0.95 * ramp(share, 0.2, 0.5) * ramp(waiting, 0.5, 2.0);
    Some(
        Finding::new(
            Code::DatabaseLocks,
            strength.max(if deadlocks > 0.0 { 0.5 } else { 0.0 }),
        )
        .figure(format!("{} of the active backends wait for a lock", pct(share)))
        .figure(format!("{waiting:.1} of {active:.1}"))
        .figure_if(deadlocks > 0.0, || format!("{deadlocks:.0} deadlocks")),
    )
}

fn max_connections(r: &Reading<'_>) -> Option<Finding> {
    let refused = r.count(&[C::TooManyClients]);
    let share = r.share_of_bad(&[C::TooManyClients]);
    let witnessed = refused >= 3 && share >= 0.1;
    let usable = r.figure("db_usable_connections");
    let peak = r.figure("db_server_connections_peak");
    let at_max = matches!((peak, usable), (Some(p), Some(u)) if u > 0.0 && p >= u - 1.0);
    let fast_errors = r.share_of_bad(&[C::ServerError, C::Unavailable]) >= 0.5
        && r.at_limit.is_some_and(|p| {
            let e = p.measurement.error_latency_ms.p50;
            e > 0.0 && e <= p.measurement.latency_ms.p50.max(50.0)
        });
    let strength = match (witnessed, at_max, fast_errors) {
        (true, ..) => 0.95,
        (_, true, true) => 0.75,
        (_, true, false) => 0.4,
        _ if r.f.failure == Some(Failure::TooManyClients) => 0.9,
        _ => 0.0,
    };
    Some(
        Finding::new(Code::MaxConnections, strength)
            .witnessed(witnessed)
            .figure_if(witnessed, || {
                format!("{refused} answers say too many clients (53300)")
            })
            .figure_if(at_max, || {
                format!(
                    "{:.0} of {:.0} usable connections taken",
                    peak.unwrap_or(0.0),
                    usable.unwrap_or(0.0)
                )
            }),
    )
}

fn cpu_quota(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let used = r.quota_used()?;
    let limit = r.figure("cpu_limit")?;
    let throttled = r.figure("throttled_ratio").unwrap_or(0.0);
    let by_throttling = 0.95 * ramp(throttled, 0.05, 0.3) * ramp(used, 0.6, 0.85);
    // One process fills a quota of one core without ever being throttled.
    let by_use = 0.85 * ramp(used, 0.85, 0.95);
    Some(
        Finding::new(Code::CpuQuota, by_throttling.max(by_use))
            .figure(format!("{:.2} of {limit} cores", used * limit))
            .figure(format!("{} of periods throttled", pct(throttled))),
    )
}

fn one_core(r: &Reading<'_>) -> Option<Finding> {
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
    let strength = (0.95 * ramp(busiest, 0.75, 0.92)).max(kept_waiting) * (1.0 - ramp(throttled, 0.05, 0.3));
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

fn memory(r: &Reading<'_>) -> Option<Finding> {
    let kills = r.any("oom_kills");
    let failed = r.f.failure == Some(Failure::Oom);
    let died = r.any("restarts");
    let used = match (r.any("memory_peak_mb"), r.any("memory_limit_mb")) {
        (p, l) if l > 0.0 => p / l,
        _ => 0.0,
    };
    let broken = r.share_of_bad(&[C::ResetBeforeFirstByte, C::ResetInBody, C::ConnectRefused]) >= 0.3;
    let strength = if kills > 0.0 || failed {
        0.98
    } else if used >= 0.9 && (died > 0.0 || broken) {
        0.7
    } else {
        0.4 * ramp(used, 0.93, 1.0)
    };
    Some(
        Finding::new(Code::Memory, strength)
            .witnessed(kills > 0.0 || failed)
            .figure_if(kills > 0.0, || format!("{kills:.0} killed for the memory limit"))
            .figure_if(failed && kills <= 0.0, || {
                "killed for the memory limit".to_owned()
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

/// What a request that can never succeed answers: the wrong path, method, body or key.
const WRONG_REQUEST: [C; 4] = [C::ClientError, C::UnexpectedStatus, C::Redirect, C::BodyCheck];

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

fn broken_mix(r: &Reading<'_>) -> Option<Finding> {
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

fn failing_service(r: &Reading<'_>) -> Option<Finding> {
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

fn rate_limiter(r: &Reading<'_>) -> Option<Finding> {
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
    let strength = if policy >= 0.5 {
        0.95
    } else if turned_away && constant {
        if idle { 0.85 } else { 0.7 }
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
            .figure_if(idle, || "the service's CPU is idle".to_owned()),
    )
}

fn accept_queue(r: &Reading<'_>) -> Option<Finding> {
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

fn redis_pool(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let (used, capacity) = (
        r.figure("redis_pool_in_use_mean"),
        r.figure("redis_pool_capacity"),
    );
    let errors = r.figure("redis_pool_errors").unwrap_or(0.0);
    let full = matches!((used, capacity), (Some(u), Some(c)) if c > 0.0 && u >= c);
    let rejected = r.any("redis_rejected");
    let clients = r.figure("redis_clients").unwrap_or(0.0);
    let at_max = r
        .figure("redis_max_clients")
        .is_some_and(|m| m > 0.0 && clients >= m);
    let strength = [
        (full, 0.85),
        (full && errors > 0.0, 0.95),
        (rejected > 0.0, 0.9),
        (at_max, 0.8),
        (errors >= 3.0, 0.6),
    ]
    .iter()
    .filter(|(yes, _)| *yes)
    .map(|(_, s)| *s)
    .fold(0.0, f64::max);
    Some(
        Finding::new(Code::RedisPool, strength)
            .blind(!r.knows_cpu() || (r.starved() && rejected <= 0.0))
            .figure_if(full, || {
                format!(
                    "{:.0} requests use or wait for {:.0} Redis connections",
                    used.unwrap_or(0.0),
                    capacity.unwrap_or(0.0)
                )
            })
            .figure_if(errors > 0.0, || format!("{errors:.0} Redis errors"))
            .figure_if(rejected > 0.0, || {
                format!("Redis refused {rejected:.0} connections")
            })
            .figure_if(at_max, || format!("{clients:.0} clients, all that Redis takes")),
    )
}

fn host_cpu(r: &Reading<'_>) -> Option<Finding> {
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
fn generator(r: &Reading<'_>) -> Option<Finding> {
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
