//! Containers of the service through the Docker Engine API: CPU, throttling, memory without cache, and the events that
//! tell of an OOM kill or a death. Reads cgroup v1 and v2 answers. Keeps its own last sample: `one-shot` answers have
//! no previous one. bollard's own timeout covers headers only, so every call is wrapped in one here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerStatsResponse, EventMessage};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions, StatsOptionsBuilder};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::process::Root;
use super::sampler::{Record, Source};
use super::{Figures, names};

const CALL: Duration = Duration::from_secs(3);
/// Between subscriptions, when the events end: the daemon was restarted.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// Most containers that are sampled; more instances than this are a mistake.
const MAX_CONTAINERS: usize = 64;

pub(super) struct Containers {
    docker: Docker,
    ids: Vec<String>,
    limits: Limits,
    counts: Arc<Counts>,
    events: JoinHandle<()>,
    /// First processes of the containers, for /proc.
    pub(super) roots: Vec<Root>,
    pub(super) warnings: Vec<String>,
}

/// Sums of what inspect says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Limits {
    /// Cores of all containers together; None when one has no quota.
    cpus: Option<f64>,
    /// MiB of the container that has the least.
    memory_mb: Option<f64>,
}

/// Since `open`; every probe takes the growth.
#[derive(Debug, Default)]
struct Counts {
    oom: AtomicU64,
    died: AtomicU64,
}

/// One container's counters; sums over containers are made of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct One {
    cpu_ns: u64,
    periods: u64,
    throttled: u64,
    throttled_ns: u64,
    memory_mb: f64,
    received: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ContainersSample {
    cpu_ns: u64,
    periods: u64,
    throttled: u64,
    throttled_ns: u64,
    /// Of the fullest container.
    memory_mb: f64,
    oom: u64,
    died: u64,
    answered: u32,
    /// CPU, nanoseconds, and bytes received of each container, in the order of the instances; zeros where one was silent.
    each: Vec<(u64, u64)>,
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.events.abort();
    }
}

impl Containers {
    pub(super) async fn open(ids: &[String]) -> Result<Self, String> {
        let docker = Docker::connect_with_defaults().map_err(|e| said(&e))?;
        let ids: Vec<String> = ids.iter().take(MAX_CONTAINERS).cloned().collect();
        let mut inspected = Vec::new();
        let mut warnings = Vec::new();
        for id in &ids {
            match tokio::time::timeout(
                CALL,
                docker.inspect_container(id, None::<InspectContainerOptions>),
            )
            .await
            {
                Ok(Ok(found)) => inspected.push(found),
                Ok(Err(e)) => warnings.push(format!("docker: cannot inspect {}: {}", short(id), said(&e))),
                Err(_) => warnings.push(format!("docker: no answer about {}", short(id))),
            }
        }
        if inspected.is_empty() {
            return Err(warnings
                .pop()
                .unwrap_or_else(|| "no container to look at".to_owned()));
        }
        let counts = Arc::new(Counts::default());
        let events = tokio::spawn(follow_events(docker.clone(), ids.clone(), Arc::clone(&counts)));
        Ok(Self {
            limits: limits(&inspected),
            roots: inspected.iter().filter_map(root_of).collect(),
            docker,
            ids,
            counts,
            events,
            warnings,
        })
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// An error of the engine without the request that it was about.
fn said(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => {
            format!("the engine answered {status_code}")
        }
        _ => "cannot reach the engine; is DOCKER_HOST right, and may this user use it?".to_owned(),
    }
}

fn root_of(c: &ContainerInspectResponse) -> Option<Root> {
    let pid = c.state.as_ref()?.pid?;
    Some(Root {
        pid: u32::try_from(pid).ok().filter(|p| *p > 0)?,
        container: Some(c.id.clone()?),
    })
}

#[allow(clippy::cast_precision_loss)]
fn limits(inspected: &[ContainerInspectResponse]) -> Limits {
    let hosts = || inspected.iter().map(|c| c.host_config.as_ref());
    let cpus = hosts().map(|h| {
        let h = h?;
        let positive = |v: Option<i64>| v.filter(|v| *v > 0).map(|v| v as f64);
        positive(h.nano_cpus)
            .map(|n| n / 1e9)
            .or_else(|| Some(positive(h.cpu_quota)? / positive(h.cpu_period).unwrap_or(100_000.0)))
    });
    let memory = hosts().filter_map(|h| h?.memory.filter(|m| *m > 0)).min();
    Limits {
        cpus: cpus.sum(),
        memory_mb: memory.map(|m| m as f64 / f64::from(1 << 20)),
    }
}

/// Out of an answer of either cgroup version. Memory is `usage` less the inactive file cache, as `docker stats` has it:
/// that cache is given back before anybody is killed.
#[allow(clippy::cast_precision_loss)]
fn read(stats: &ContainerStatsResponse) -> Option<One> {
    let cpu = stats.cpu_stats.as_ref()?;
    let throttling = cpu.throttling_data.as_ref();
    let memory = stats.memory_stats.as_ref();
    let cache = memory
        .and_then(|m| m.stats.as_ref())
        .and_then(|s| s.get("total_inactive_file").or_else(|| s.get("inactive_file")))
        .copied()
        .unwrap_or(0);
    let usage = memory.and_then(|m| m.usage).unwrap_or(0);
    Some(One {
        // A stopped container answers with zeros and without this field.
        cpu_ns: cpu.cpu_usage.as_ref()?.total_usage.filter(|n| *n > 0)?,
        periods: throttling.and_then(|t| t.periods).unwrap_or(0),
        throttled: throttling.and_then(|t| t.throttled_periods).unwrap_or(0),
        throttled_ns: throttling.and_then(|t| t.throttled_time).unwrap_or(0),
        memory_mb: usage.saturating_sub(cache) as f64 / f64::from(1 << 20),
        received: stats
            .networks
            .iter()
            .flat_map(HashMap::values)
            .filter_map(|n| n.rx_bytes)
            .sum(),
    })
}

async fn one(docker: &Docker, id: &str) -> Option<One> {
    let options = StatsOptionsBuilder::default()
        .stream(false)
        .one_shot(true)
        .build();
    let mut answers = std::pin::pin!(docker.stats(id, Some(options)));
    read(&answers.next().await?.ok()?)
}

/// Counts the events of our containers until it is aborted. The stream ends silently when the daemon goes; then it is
/// opened again from the second of the last event, and what was counted already is left out.
async fn follow_events(docker: Docker, ids: Vec<String>, counts: Arc<Counts>) {
    let filters = HashMap::from([
        ("type", vec!["container"]),
        ("event", vec!["oom", "die"]),
        ("container", ids.iter().map(String::as_str).collect()),
    ]);
    let mut seen = since_epoch();
    // Bounded by the life of the telemetry: Drop aborts this task.
    loop {
        let options = EventsOptionsBuilder::default()
            .since(&format!("{}", seen / 1_000_000_000))
            .filters(&filters)
            .build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            count(&event, &mut seen, &counts);
        }
        tokio::time::sleep(RESUBSCRIBE).await;
    }
}

fn count(event: &EventMessage, seen: &mut i64, counts: &Counts) {
    let at = event.time_nano.unwrap_or(0);
    if at <= *seen {
        return;
    }
    *seen = at;
    match event.action.as_deref() {
        Some("oom") => counts.oom.fetch_add(1, Ordering::Relaxed),
        Some("die") => counts.died.fetch_add(1, Ordering::Relaxed),
        _ => 0,
    };
}

/// The engine's events are on the wall clock; never used for durations.
#[allow(clippy::disallowed_methods)]
fn since_epoch() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

impl Source for Containers {
    type Sample = ContainersSample;
    const NAME: &'static str = "docker";

    async fn sample(&mut self) -> Result<ContainersSample, String> {
        let answers = join_all(self.ids.iter().map(|id| one(&self.docker, id))).await;
        let mut s = ContainersSample {
            oom: self.counts.oom.load(Ordering::Relaxed),
            died: self.counts.died.load(Ordering::Relaxed),
            ..ContainersSample::default()
        };
        s.each = answers
            .iter()
            .map(|a| a.map_or((0, 0), |a| (a.cpu_ns, a.received)))
            .collect();
        for a in answers.into_iter().flatten() {
            s.cpu_ns += a.cpu_ns;
            s.periods += a.periods;
            s.throttled += a.throttled;
            s.throttled_ns += a.throttled_ns;
            s.memory_mb = s.memory_mb.max(a.memory_mb);
            s.answered += 1;
        }
        // Deaths must be seen even when nothing answers any more: a sample without counters is still one.
        Ok(s)
    }

    fn figures(&self, record: &Record<'_, ContainersSample>) -> Figures {
        let mut out = figures(record);
        if let Some(cpus) = self.limits.cpus {
            out.insert(names::CPU_LIMIT.to_owned(), cpus);
        }
        if let Some(mb) = self.limits.memory_mb {
            out.insert(names::MEMORY_LIMIT_MB.to_owned(), mb);
        }
        out
    }
}

fn figures(record: &Record<'_, ContainersSample>) -> Figures {
    let mut out = Figures::new();
    let mut put = |k: &str, v: Option<f64>| {
        if let Some(v) = v {
            out.insert(k.to_owned(), v);
        }
    };
    put(names::OOM_KILLS, record.growth(|s| s.oom));
    put(names::RESTARTS, record.growth(|s| s.died));
    let all = record.values().map(|s| s.answered).max().unwrap_or(0);
    put(names::CONTAINERS, Some(f64::from(all)));
    // Counters are compared only between samples in which everybody answered.
    let full: Vec<_> = record
        .0
        .iter()
        .filter(|(_, s)| s.answered == all && all > 0)
        .cloned()
        .collect();
    let full = Record(&full);
    put(names::CPU_USED, full.rate(|s| s.cpu_ns).map(|ns| ns / 1e9));
    put(
        names::THROTTLED_S_PER_S,
        full.rate(|s| s.throttled_ns).map(|ns| ns / 1e9),
    );
    if let (Some(throttled), Some(periods)) = (full.growth(|s| s.throttled), full.growth(|s| s.periods)) {
        put(
            names::THROTTLED_RATIO,
            Some(if periods > 0.0 { throttled / periods } else { 0.0 }),
        );
    }
    if !full.0.is_empty() {
        put(names::MEMORY_PEAK_MB, Some(full.peak(|s| s.memory_mb)));
    }
    if all > 1 {
        let (cpu, traffic) = spread(&full);
        put(names::INSTANCE_CPU_MAX, cpu.map(|c| c[1]));
        put(names::INSTANCE_CPU_MIN, cpu.map(|c| c[0]));
        put(names::INSTANCE_TRAFFIC_RATIO, traffic);
    }
    out
}

/// Cores of the idlest and the busiest instance, and what the one with most traffic received over the mean of all.
#[allow(clippy::cast_precision_loss)]
fn spread(record: &Record<'_, ContainersSample>) -> (Option<[f64; 2]>, Option<f64>) {
    let count = record.0.first().map_or(0, |(_, s)| s.each.len());
    let of =
        |i: usize, which: fn(&(u64, u64)) -> u64| move |s: &ContainersSample| s.each.get(i).map_or(0, which);
    let cpu: Option<Vec<f64>> = (0..count).map(|i| record.rate(of(i, |e| e.0))).collect();
    let received: Option<Vec<f64>> = (0..count).map(|i| record.growth(of(i, |e| e.1))).collect();
    let highest = |v: &[f64]| v.iter().copied().fold(0.0, f64::max);
    let lowest = |v: &[f64]| v.iter().copied().fold(f64::INFINITY, f64::min);
    let cpu = cpu.map(|v| [lowest(&v) / 1e9, highest(&v) / 1e9]);
    let traffic = received.and_then(|v| {
        let mean = v.iter().sum::<f64>() / v.len().max(1) as f64;
        (mean > 0.0).then(|| highest(&v) / mean)
    });
    (cpu, traffic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(text: &str) -> ContainerStatsResponse {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn answers_of_cgroup_v1_and_v2_mean_the_same() {
        let v1 = stats(
            r#"{"cpu_stats": {"cpu_usage": {"total_usage": 1058174424, "percpu_usage": [1, 2]},
                "throttling_data": {"periods": 39, "throttled_periods": 4, "throttled_time": 5}},
                "memory_stats": {"usage": 66428928, "max_usage": 67760128, "failcnt": 0,
                "stats": {"total_inactive_file": 1048576, "inactive_file": 99}}}"#,
        );
        let v2 = stats(
            r#"{"cpu_stats": {"cpu_usage": {"total_usage": 1058174424},
                "throttling_data": {"periods": 39, "throttled_periods": 4, "throttled_time": 5}},
                "memory_stats": {"usage": 66428928, "stats": {"inactive_file": 1048576}}}"#,
        );
        let want = read(&v1).unwrap();
        assert_eq!(Some(want), read(&v2));
        assert!((want.memory_mb - 62.351).abs() < 0.001, "{want:?}");
    }

    #[test]
    fn a_stopped_container_has_no_counters() {
        assert_eq!(
            read(&stats(r#"{"cpu_stats": {"cpu_usage": {"total_usage": 0}}}"#)),
            None
        );
        assert_eq!(read(&stats("{}")), None);
    }

    fn sample(cpu_s: u64, periods: u64, throttled: u64, answered: u32) -> ContainersSample {
        ContainersSample {
            cpu_ns: cpu_s * 1_000_000_000,
            periods,
            throttled,
            answered,
            ..ContainersSample::default()
        }
    }

    #[test]
    fn a_sample_in_which_a_container_was_silent_does_not_spoil_the_counters() {
        let samples = [
            (Duration::from_secs(0), sample(10, 100, 0, 2)),
            (Duration::from_secs(5), sample(6, 70, 10, 1)),
            (Duration::from_secs(10), sample(15, 200, 41, 2)),
        ];
        let f = figures(&Record(&samples));
        assert!((f[names::CPU_USED] - 0.5).abs() < 1e-9, "{f:?}");
        assert!((f[names::THROTTLED_RATIO] - 0.41).abs() < 1e-9, "{f:?}");
    }

    #[test]
    fn the_busiest_of_several_instances_is_told() {
        let at = |s: u64, each: &[(u64, u64)]| {
            (
                Duration::from_secs(s),
                ContainersSample {
                    answered: 3,
                    each: each.to_vec(),
                    ..ContainersSample::default()
                },
            )
        };
        let ns = |s: f64| (s * 1e9) as u64;
        let samples = [
            at(0, &[(0, 100), (ns(5.0), 200), (0, 0)]),
            at(10, &[(ns(8.0), 700), (ns(7.0), 500), (ns(2.0), 300)]),
        ];
        let f = figures(&Record(&samples));
        assert!((f[names::INSTANCE_CPU_MAX] - 0.8).abs() < 1e-9, "{f:?}");
        assert!((f[names::INSTANCE_CPU_MIN] - 0.2).abs() < 1e-9, "{f:?}");
        // 600, 300 and 300 of a mean of 400
        assert!((f[names::INSTANCE_TRAFFIC_RATIO] - 1.5).abs() < 1e-9, "{f:?}");
        let one = [
            (Duration::ZERO, sample(1, 1, 0, 1)),
            (Duration::from_secs(1), sample(2, 2, 0, 1)),
        ];
        assert!(!figures(&Record(&one)).contains_key(names::INSTANCE_TRAFFIC_RATIO));
    }

    #[test]
    fn events_that_are_told_twice_count_once() {
        let counts = Counts::default();
        let mut seen = 100;
        let event = |action: &str, at: i64| EventMessage {
            action: Some(action.to_owned()),
            time_nano: Some(at),
            ..EventMessage::default()
        };
        for e in [
            event("oom", 90),
            event("oom", 110),
            event("die", 120),
            event("oom", 110),
            event("die", 120),
        ] {
            count(&e, &mut seen, &counts);
        }
        assert_eq!(
            counts.oom.load(Ordering::Relaxed),
            1,
            "before us, and again after subscribing again"
        );
        assert_eq!(counts.died.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn limits_are_read_in_both_forms_and_are_none_when_one_container_has_none() {
        let c = |host: &str| -> ContainerInspectResponse {
            serde_json::from_str(&format!(r#"{{"HostConfig": {host}}}"#)).unwrap()
        };
        let quota = c(r#"{"CpuQuota": 50000, "CpuPeriod": 100000, "Memory": 536870912}"#);
        let nano = c(r#"{"NanoCpus": 1500000000, "Memory": 268435456}"#);
        let free = c(r#"{"NanoCpus": 0, "Memory": 0}"#);
        let both = limits(&[quota.clone(), nano]);
        assert_eq!((both.cpus, both.memory_mb), (Some(2.0), Some(256.0)));
        assert_eq!(limits(&[quota, free]).cpus, None);
    }
}
