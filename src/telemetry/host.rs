//! The host's CPU from /proc/stat, so that "the machine itself was full" can be said. Linux only; elsewhere absent.

use super::sampler::{Record, Source};
use super::{Figures, names};

pub(super) struct Host;

/// Jiffies since boot, all CPUs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostSample {
    busy: u64,
    steal: u64,
    total: u64,
}

impl Host {
    /// None where there is no /proc/stat.
    pub(super) fn open() -> Option<Self> {
        read().ok().map(|_| Self)
    }
}

fn read() -> Result<HostSample, String> {
    let text = std::fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
    parse(&text).ok_or_else(|| "/proc/stat: no line of all cpus".to_owned())
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)); guest time is part of user.
fn parse(text: &str) -> Option<HostSample> {
    let mut fields = text.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let n: Vec<u64> = fields.take(8).filter_map(|f| f.parse().ok()).collect();
    let idle = n.get(3)? + n.get(4).copied().unwrap_or(0);
    let steal = n.get(7).copied().unwrap_or(0);
    let total: u64 = n.iter().sum();
    Some(HostSample {
        busy: total - idle - steal,
        steal,
        total,
    })
}

/// Logical CPUs that the tool can see.
#[allow(clippy::cast_precision_loss)]
pub(super) fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

impl Source for Host {
    type Sample = HostSample;
    const NAME: &'static str = "host";

    async fn sample(&mut self) -> Result<HostSample, String> {
        read()
    }

    fn figures(&self, record: &Record<'_, HostSample>) -> Figures {
        let mut out = Figures::from([(names::HOST_CORES.to_owned(), cores())]);
        if let (Some(busy), Some(steal), Some(total)) = (
            record.growth(|s| s.busy),
            record.growth(|s| s.steal),
            record.growth(|s| s.total),
        ) && total > 0.0
        {
            // Stolen time is not ours to use: the machine is as full as if it were busy.
            out.insert(names::HOST_CPU_RATIO.to_owned(), (busy + steal) / total);
            out.insert(names::HOST_STEAL_RATIO.to_owned(), steal / total);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn busy_is_everything_but_idle_and_stolen_is_not_free() {
        let a = parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1\n").unwrap();
        let b = parse("cpu  160 0 120 710 100 0 0 10 0 0\n").unwrap();
        assert_eq!(a.busy, 200);
        let samples = [(Duration::ZERO, a), (Duration::from_secs(1), b)];
        let f = Host.figures(&Record(&samples));
        assert!((f[names::HOST_CPU_RATIO] - 0.9).abs() < 1e-9, "{f:?}");
        assert!((f[names::HOST_STEAL_RATIO] - 0.1).abs() < 1e-9, "{f:?}");
    }

    #[test]
    fn what_is_not_proc_stat_is_refused() {
        for bad in ["", "cpu0 1 2 3 4", "cpu", "cpu 1 2 x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
