//! Processes of the service, from /proc: CPU of the busiest process and thread (a busy event loop beside idle CPUs is
//! invisible in a container's sum), memory of a `process` sut, and the listen queue's overflows.
//!
//! A container's processes are looked at only when its engine runs on this host, which the cgroup path proves.

use std::collections::HashMap;
use std::fs;

use super::sampler::{Record, Source};
use super::{Figures, names};

/// Most processes and threads that are looked at; more are left out, from the youngest.
const MAX_PROCESSES: usize = 64;
const MAX_THREADS: usize = 1_024;
/// Longest chain of parents that is followed.
const MAX_DEPTH: usize = 16;

/// Where the service begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) pid: u32,
    /// Its container, where it has one.
    pub(super) container: Option<String>,
}

pub(super) struct Processes {
    roots: Vec<u32>,
    /// Processes of a `process` sut: their CPU and memory are the service's. A container's come from Docker.
    whole_service: bool,
    tick_s: f64,
    page_mb: f64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ProcessSample {
    /// Ticks by process.
    processes: HashMap<u32, u64>,
    /// Ticks by thread.
    threads: HashMap<(u32, u32), u64>,
    /// Nanoseconds that each thread was ready to run and had no CPU.
    waits: HashMap<(u32, u32), u64>,
    rss_mb: f64,
    listen_overflows: u64,
}

impl Processes {
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn open(roots: &[Root], whole_service: bool) -> Option<Self> {
        let roots: Vec<u32> = roots.iter().filter(|r| is_here(r)).map(|r| r.pid).collect();
        (!roots.is_empty()).then(|| Self {
            roots,
            whole_service,
            tick_s: 1.0 / rustix::param::clock_ticks_per_second().max(1) as f64,
            page_mb: rustix::param::page_size() as f64 / f64::from(1 << 20),
        })
    }
}

/// Whether the pid is what it is said to be: pids of an engine on another host or in another namespace mean nothing here.
fn is_here(root: &Root) -> bool {
    match &root.container {
        None => fs::metadata(format!("/proc/{}", root.pid)).is_ok(),
        Some(id) => fs::read_to_string(format!("/proc/{}/cgroup", root.pid))
            .is_ok_and(|text| id.len() >= 12 && text.contains(id.as_str())),
    }
}

/// Parent and CPU ticks (user + system) out of /proc/PID/stat; the name in brackets may hold anything.
fn parse_stat(text: &str) -> Option<(u32, u64)> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let f: Vec<&str> = rest.split_ascii_whitespace().take(13).collect();
    let ticks = f.get(11)?.parse::<u64>().ok()? + f.get(12)?.parse::<u64>().ok()?;
    Some((f.get(1)?.parse().ok()?, ticks))
}

/// Run delay out of /proc/PID/task/TID/schedstat, nanoseconds: its second field.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn stat_of(path: &str) -> Option<(u32, u64)> {
    parse_stat(&fs::read_to_string(path).ok()?)
}

/// Numbers among the names of a folder.
fn numbers_in(path: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// `roots` and everything below them, given every process's parent.
fn family(roots: &[u32], parents: &HashMap<u32, u32>) -> Vec<u32> {
    let belongs = |pid: u32| {
        let mut p = pid;
        for _ in 0..MAX_DEPTH {
            if roots.contains(&p) {
                return true;
            }
            match parents.get(&p) {
                Some(&up) if up != p => p = up,
                _ => return false,
            }
        }
        false
    };
    let mut all: Vec<u32> = parents.keys().copied().filter(|&p| belongs(p)).collect();
    all.sort_unstable();
    all.truncate(MAX_PROCESSES);
    all
}

/// `ListenOverflows` + `ListenDrops` of /proc/PID/net/netstat: the name line, then the value line.
fn parse_netstat(text: &str) -> u64 {
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:"));
    let (Some(keys), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    keys.split_ascii_whitespace()
        .zip(values.split_ascii_whitespace())
        .filter(|(k, _)| *k == "ListenOverflows")
        .filter_map(|(_, v)| v.parse::<u64>().ok())
        .sum()
}

impl Source for Processes {
    type Sample = ProcessSample;
    const NAME: &'static str = "process";

    async fn sample(&mut self) -> Result<ProcessSample, String> {
        let mut ticks = HashMap::new();
        let mut parents = HashMap::new();
        for pid in numbers_in("/proc") {
            if let Some((parent, t)) = stat_of(&format!("/proc/{pid}/stat")) {
                parents.insert(pid, parent);
                ticks.insert(pid, t);
            }
        }
        let family = family(&self.roots, &parents);
        if family.is_empty() {
            return Err("the service's processes are gone".to_owned());
        }
        let mut s = ProcessSample::default();
        for &pid in &family {
            s.processes.insert(pid, ticks.get(&pid).copied().unwrap_or(0));
            for tid in numbers_in(&format!("/proc/{pid}/task")) {
                if s.threads.len() >= MAX_THREADS {
                    break;
                }
                if let Some((_, t)) = stat_of(&format!("/proc/{pid}/task/{tid}/stat")) {
                    s.threads.insert((pid, tid), t);
                }
                let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"));
                if let Some(ns) = text.ok().as_deref().and_then(parse_schedstat) {
                    s.waits.insert((pid, tid), ns);
                }
            }
            if self.whole_service
                && let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm"))
                && let Some(pages) = statm.split(' ').nth(1).and_then(|p| p.parse::<f64>().ok())
            {
                s.rss_mb += pages * self.page_mb;
            }
        }
        for pid in &self.roots {
            let text = fs::read_to_string(format!("/proc/{pid}/net/netstat")).unwrap_or_default();
            s.listen_overflows += parse_netstat(&text);
        }
        Ok(s)
    }

    fn figures(&self, record: &Record<'_, ProcessSample>) -> Figures {
        let mut out = Figures::new();
        let seconds = record.seconds();
        if let (Some((_, a)), Some((_, b))) = (record.0.first(), record.0.last())
            && seconds > 0.0
        {
            let per_second = self.tick_s / seconds;
            let busiest = top(&a.processes, &b.processes) * per_second;
            out.insert(names::PROCESS_CPU_MAX.to_owned(), busiest);
            out.insert(
                names::THREAD_CPU_MAX.to_owned(),
                top(&a.threads, &b.threads) * per_second,
            );
            if !b.waits.is_empty() {
                out.insert(
                    names::THREAD_CPU_WAIT_MAX.to_owned(),
                    top(&a.waits, &b.waits) / 1e9 / seconds,
                );
            }
            if self.whole_service {
                let used = grown(&a.processes, &b.processes).sum::<f64>() * per_second;
                out.insert(names::CPU_USED.to_owned(), used);
                out.insert(names::MEMORY_PEAK_MB.to_owned(), record.peak(|s| s.rss_mb));
            }
        }
        if let Some(n) = record.growth(|s| s.listen_overflows) {
            out.insert(names::LISTEN_OVERFLOWS.to_owned(), n);
        }
        out.insert(
            names::PROCESSES.to_owned(),
            record.peak(|s| f64::from(u32::try_from(s.processes.len()).unwrap_or(u32::MAX))),
        );
        out
    }
}

/// Growth of each key; a key that is new began at 0.
#[allow(clippy::cast_precision_loss)]
fn grown<'a, K: std::hash::Hash + Eq>(
    a: &'a HashMap<K, u64>,
    b: &'a HashMap<K, u64>,
) -> impl Iterator<Item = f64> + 'a {
    b.iter()
        .map(|(k, v)| v.saturating_sub(a.get(k).copied().unwrap_or(0)) as f64)
}

fn top<K: std::hash::Hash + Eq>(a: &HashMap<K, u64>, b: &HashMap<K, u64>) -> f64 {
    grown(a, b).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_run_delay_is_the_second_field() {
        assert_eq!(parse_schedstat("7002 991 14\n"), Some(991));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn stat_survives_names_with_brackets_and_spaces() {
        let line = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(parse_stat(line), Some((7, 300)));
        assert_eq!(parse_stat("12 (short) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_family_is_the_root_and_all_below_it_and_loops_end() {
        let parents = HashMap::from([(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 31), (31, 30)]);
        assert_eq!(family(&[10], &parents), vec![10, 11, 12]);
        assert_eq!(family(&[99], &parents), Vec::<u32>::new());
    }

    #[test]
    fn the_busiest_process_and_thread_are_found() {
        let p = Processes {
            roots: vec![1],
            whole_service: true,
            tick_s: 0.01,
            page_mb: 1.0,
        };
        let a = ProcessSample {
            waits: HashMap::from([((1, 1), 1_000_000_000)]),
            processes: HashMap::from([(1, 100), (2, 100)]),
            threads: HashMap::from([((1, 1), 50), ((1, 2), 50), ((2, 2), 100)]),
            rss_mb: 10.0,
            listen_overflows: 3,
        };
        let b = ProcessSample {
            waits: HashMap::from([((1, 1), 2_000_000_000)]),
            processes: HashMap::from([(1, 300), (2, 110)]),
            threads: HashMap::from([((1, 1), 60), ((1, 2), 240), ((2, 2), 110)]),
            rss_mb: 12.0,
            listen_overflows: 8,
        };
        let samples = [(Duration::ZERO, a), (Duration::from_secs(2), b)];
        let f = p.figures(&Record(&samples));
        let near = |k: &str, v: f64| assert!((f[k] - v).abs() < 1e-9, "{k}: {f:?}");
        near(names::PROCESS_CPU_MAX, 1.0);
        near(names::THREAD_CPU_MAX, 0.95);
        near(names::CPU_USED, 1.05);
        near(names::MEMORY_PEAK_MB, 12.0);
        near(names::LISTEN_OVERFLOWS, 5.0);
    }

    #[test]
    fn listen_overflows_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 5 7 7\nIpExt: A\nIpExt: 1\n";
        assert_eq!(parse_netstat(text), 7);
        assert_eq!(parse_netstat("TcpExt: A\n"), 0);
    }

    #[tokio::test]
    async fn this_very_process_can_be_sampled() {
        let me = Root {
            pid: std::process::id(),
            container: None,
        };
        let mut p = Processes::open(std::slice::from_ref(&me), true).unwrap();
        let s = p.sample().await.unwrap();
        assert!(s.processes.contains_key(&me.pid) && s.rss_mb > 0.0, "{s:?}");
        // A pid that is said to be of a container, and is not, must not be looked at.
        let alien = Root {
            container: Some("0123456789abcdef".to_owned()),
            ..me
        };
        assert!(Processes::open(&[alien], false).is_none());
    }
}
