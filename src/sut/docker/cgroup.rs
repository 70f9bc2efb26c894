//! The kernel's own count of out-of-memory kills, where the daemon runs on this machine. Read only.
//!
//! `State.OOMKilled` stays false when a child was killed; events can be missed while the daemon is away. This counter
//! cannot, as long as the container lives.

use std::path::PathBuf;

/// Kills so far in the cgroup of process `pid`; None where it can't be seen from here.
#[must_use]
pub fn oom_kills(pid: u32) -> Option<u64> {
    let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (file, key) = counter(&membership)?;
    let text = std::fs::read_to_string(file).ok()?;
    field(&text, key)
}

/// The file that counts, for version 2 (`0::/path`) or 1 (`N:memory:/path`).
fn counter(membership: &str) -> Option<(PathBuf, &'static str)> {
    let lines: Vec<Vec<&str>> = membership
        .lines()
        .take(64)
        .map(|l| l.splitn(3, ':').collect())
        .collect();
    let of = |wanted: &dyn Fn(&str, &str) -> bool| {
        lines.iter().find_map(|l| match l.as_slice() {
            [id, controllers, path] if wanted(id, controllers) => Some((*path).to_owned()),
            _ => None,
        })
    };
    if let Some(path) = of(&|_, c| c.split(',').any(|c| c == "memory")) {
        let file = format!("/sys/fs/cgroup/memory{path}/memory.oom_control");
        return is_below_root(&path).then(|| (file.into(), "oom_kill"));
    }
    let path = of(&|id, c| id == "0" && c.is_empty())?;
    let file = format!("/sys/fs/cgroup{path}/memory.events");
    is_below_root(&path).then(|| (file.into(), "oom_kill"))
}

/// The root group counts the whole machine.
fn is_below_root(path: &str) -> bool {
    path.len() > 1 && !path.contains("..")
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, v)| v.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_lead_to_their_counter() {
        let v1 = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n";
        assert_eq!(
            counter(v1).unwrap().0,
            PathBuf::from("/sys/fs/cgroup/memory/docker/abc/memory.oom_control")
        );
        let v2 = "0::/system.slice/docker-abc.scope\n";
        assert_eq!(
            counter(v2).unwrap().0,
            PathBuf::from("/sys/fs/cgroup/system.slice/docker-abc.scope/memory.events")
        );
        assert_eq!(counter("0::/\n"), None);
        assert_eq!(counter("0::/../x\n"), None);
    }

    #[test]
    fn the_counter_is_told_from_its_neighbours() {
        assert_eq!(field("low 0\noom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(
            field("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", "oom_kill"),
            Some(5)
        );
        assert_eq!(field("oom_kill_disable 0\n", "oom_kill"), None);
    }
}
