//! Connections and what is behind them: the pools of the service, the database, Redis.

use crate::measurement::OutcomeClass as C;
use crate::trial::Failure;

use super::super::Code;
use super::super::evidence::Reading;
use super::{Finding, pct, ramp};

pub(super) fn pool_wait(r: &Reading<'_>) -> Option<Finding> {
    let limit = r.at_limit?;
    let m = &limit.measurement;
    let timeouts = r.share_of_bad(&[C::PoolTimeout]);
    let named = r.count(&[C::PoolTimeout]) >= 3 && timeouts >= 0.3;
    let server_errors = r.share_of_bad(&[C::ServerError, C::Unavailable, C::PoolTimeout]);
    // The error of a full pool comes exactly at pool_timeout (2000.3 ms for 2 s).
    let at_timeout = r.f.pool_timeout_s.filter(|_| server_errors >= 0.5).and_then(|t| {
        let medians = r.failing.iter().map(|p| p.measurement.error_latency_ms.p50);
        medians
            .into_iter()
            .find(|ms| (0.9..=1.2).contains(&(ms / (t * 1e3))))
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
        (at_timeout.is_some(), 0.85),
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
        // Locks and a slow database fill a pool too: whoever has not looked there can't exclude them.
        .blind(
            !r.knows_cpu() || r.starved() || r.figure("db_active_mean").is_none() || r.f.database_elsewhere,
        )
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
        .figure_if(at_timeout.is_some(), || {
            format!("errors come at {:.0} ms, pool_timeout", at_timeout.unwrap_or(0.0))
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

pub(super) fn pool_too_large(r: &Reading<'_>) -> Option<Finding> {
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

pub(super) fn database(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    let (running, contended) = contention(r)?;
    let io = r.figure("db_wait_io_ratio").unwrap_or(0.0);
    let active = r.figure("db_active_mean").unwrap_or(0.0);
    let busy = ramp(running, 0.4, 0.9);
    let disk = ramp(io, 0.3, 0.7) * ramp(active, 1.0, 3.0);
    // A database full on this machine fills the machine; where that was looked at and is not so, its CPU does not bind. On
    // another machine nobody knows how many CPUs it has.
    let room = match r.f.database_elsewhere {
        true => 0.6,
        false => r.figure("host_cpu_ratio").map_or(1.0, |h| ramp(h, 0.6, 0.85)),
    };
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

pub(super) fn database_locks(r: &Reading<'_>) -> Option<Finding> {
    r.at_limit?;
    // A short probe just above the limit has one or two samples, which can miss the queue at a row that another one shows.
    let (share, active) = r
        .failing
        .iter()
        .filter_map(|p| {
            let told = |name: &str| p.telemetry.get(name).copied().filter(|v| v.is_finite());
            Some((told("db_wait_lock_ratio")?, told("db_active_mean").unwrap_or(0.0)))
        })
        .max_by(|a, b| (a.0 * a.1).total_cmp(&(b.0 * b.1)))?;
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

pub(super) fn max_connections(r: &Reading<'_>) -> Option<Finding> {
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

pub(super) fn redis_pool(r: &Reading<'_>) -> Option<Finding> {
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
