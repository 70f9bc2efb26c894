//! What the generator itself was given and took while a probe ran: CPU time, time spent waiting for a CPU, throttling by a
//! control group, and time the machine slept.
//!
//! Readings only. What they mean for a probe is decided by `measurement::generator_verdict`.

use crate::measurement::GeneratorHealth;

/// One look at the clocks and counters of the calling thread and its control group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    /// CPU time of this thread, nanoseconds.
    cpu: u64,
    /// Time this thread was runnable and did not run, nanoseconds (schedstat's run delay).
    waited: u64,
    /// Monotonic clock, nanoseconds.
    monotonic: u64,
    /// Clock that goes on while the machine sleeps, nanoseconds.
    boot: u64,
    group: Group,
}

/// CPU bandwidth control of the group.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    periods: u64,
    throttled: u64,
    /// Cores that the group may use; None without a quota.
    cores: Option<f64>,
}

impl Reading {
    /// Takes it, on the generator's own thread.
    #[cfg(target_os = "linux")]
    pub(super) fn take() -> Self {
        use rustix::time::{ClockId, clock_gettime};

        use super::clock::nanos;
        Self {
            cpu: nanos(clock_gettime(ClockId::ThreadCPUTime)),
            waited: run_delay(),
            monotonic: nanos(clock_gettime(ClockId::Monotonic)),
            boot: nanos(clock_gettime(ClockId::Boottime)),
            group: Group::read(),
        }
    }

    /// Elsewhere nothing is known; the send lag still tells.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn take() -> Self {
        Self::default()
    }

    /// Enters what happened between `self` and the later reading `then`.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn until(&self, then: &Self, health: &mut GeneratorHealth) {
        let wall = then.monotonic.saturating_sub(self.monotonic) as f64;
        if wall <= 0.0 {
            return;
        }
        let allowance = then.group.cores.map_or(1.0, |c| c.min(1.0));
        let used = then.cpu.saturating_sub(self.cpu) as f64;
        let waited = then.waited.saturating_sub(self.waited) as f64;
        health.cpu_ratio = (used / (wall * allowance)).clamp(0.0, 1.0);
        health.cpu_wait_ratio = (waited / wall).clamp(0.0, 1.0);
        health.cpu_s = used / 1e9;
        let periods = then.group.periods.saturating_sub(self.group.periods);
        let throttled = then.group.throttled.saturating_sub(self.group.throttled);
        if periods > 0 {
            health.throttled_ratio = (throttled as f64 / periods as f64).clamp(0.0, 1.0);
        }
        let slept = then.boot.saturating_sub(self.boot) as f64 - wall;
        // The two clocks are read one after the other; a suspend is longer than that.
        health.suspended_s = if slept > 1e7 { slept / 1e9 } else { 0.0 };
    }
}

#[cfg(target_os = "linux")]
fn run_delay() -> u64 {
    // "on-CPU time, run-queue wait, slices" (Documentation/scheduler/sched-stats.rst).
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|t| t.split_ascii_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(target_os = "linux")]
impl Group {
    /// Of the innermost group that has a quota: version 2 first, then version 1.
    fn read() -> Self {
        let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else {
            return Self::default();
        };
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let two = id == "0" && controllers.is_empty();
            if !two && !controllers.split(',').any(|c| c == "cpu") {
                continue;
            }
            let roots: &[&str] = if two {
                &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            } else {
                &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
            };
            for root in roots {
                if let Some(found) = Self::upwards(root, path, two) {
                    return found;
                }
            }
        }
        Self::default()
    }

    /// From the group at `path` towards the root; a container sees its own group as the root.
    fn upwards(root: &str, path: &str, two: bool) -> Option<Self> {
        let mut at = path.trim_matches('/');
        // A path has at most 4,096 bytes, so this ends.
        loop {
            let dir = format!("{root}/{at}");
            if let Some(cores) = quota(&dir, two) {
                let stat = std::fs::read_to_string(format!("{dir}/cpu.stat")).unwrap_or_default();
                return Some(Self {
                    cores: Some(cores),
                    periods: field(&stat, "nr_periods"),
                    throttled: field(&stat, "nr_throttled"),
                });
            }
            if at.is_empty() {
                return None;
            }
            at = at.rfind('/').map_or("", |i| &at[..i]);
        }
    }
}

/// Cores that the quota in `dir` allows; None when there is none.
#[cfg(target_os = "linux")]
fn quota(dir: &str, two: bool) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(format!("{dir}/{name}")).ok();
    let (quota, period): (f64, f64) = if two {
        let text = read("cpu.max")?;
        let mut parts = text.split_ascii_whitespace();
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)
    } else {
        let number = |name: &str| read(name)?.trim().parse().ok();
        (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
    };
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(target_os = "linux")]
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_become_ratios() {
        let group = |periods, throttled| Group {
            periods,
            throttled,
            cores: Some(0.5),
        };
        let a = Reading {
            cpu: 0,
            waited: 0,
            monotonic: 0,
            boot: 0,
            group: group(10, 1),
        };
        let b = Reading {
            cpu: 250_000_000,
            waited: 100_000_000,
            monotonic: 1_000_000_000,
            boot: 3_000_000_000,
            group: group(20, 6),
        };
        let mut h = GeneratorHealth::default();
        a.until(&b, &mut h);
        assert!((h.cpu_ratio - 0.5).abs() < 1e-9, "half a core, half of it used");
        assert!((h.cpu_wait_ratio - 0.1).abs() < 1e-9);
        assert!((h.throttled_ratio - 0.5).abs() < 1e-9);
        assert!((h.suspended_s - 2.0).abs() < 1e-9);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_busy_thread_is_seen_as_busy() {
        let a = Reading::take();
        let mut sum = 0_u64;
        while Reading::take().cpu - a.cpu < 20_000_000 {
            sum = sum.wrapping_add(1);
        }
        let mut h = GeneratorHealth::default();
        a.until(&Reading::take(), &mut h);
        assert!(sum > 0 && h.cpu_ratio > 0.0 && h.suspended_s < 1e-9);
    }
}
