//! docs/faults.md names a real test for each fault, and what docs/overnight.md tells people to install is taken by those
//! who read it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{AUTOTUNE, output, root};

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// `module::test` of every test in the tree. The module is the file's name, or its folder's for `mod.rs` and `tests.rs`.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests/it"), &mut files);
    let mut all = BTreeSet::new();
    for path in files {
        let names: Vec<String> = path
            .components()
            .map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        let module = names
            .iter()
            .rev()
            .find(|n| *n != "mod" && *n != "tests")
            .unwrap()
            .clone();
        let text = fs::read_to_string(&path).unwrap();
        let mut marked = false;
        let mut in_proptest = false;
        for line in text.lines().map(str::trim_start) {
            in_proptest |= line.starts_with("proptest!") || line.starts_with("proptest::proptest!");
            marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let function = line
                .strip_prefix("async fn ")
                .or_else(|| line.strip_prefix("fn "));
            let Some((name, _)) = function.and_then(|f| f.split_once('(')) else {
                continue;
            };
            if marked || in_proptest {
                all.insert(format!("{module}::{name}"));
            }
            marked = false;
        }
    }
    all
}

/// Between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_fault_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let soak = fs::read_to_string(root().join("tests/soak/run")).unwrap();
    let tests = tests();
    let mut wrong = Vec::new();
    let mut rows = Vec::new();
    for line in text.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Ok(number) = cells[0].parse::<u32>() else {
            continue;
        };
        assert_eq!(cells.len(), 4, "row {number}");
        rows.push(number);
        let named = quoted(cells[3]);
        if named.is_empty() {
            wrong.push(format!("row {number} names no test"));
        }
        for name in named {
            let there = match name.strip_prefix("soak: ") {
                Some(fault) => soak.contains(&format!("    {fault})")),
                None => tests.contains(name),
            };
            if !there {
                wrong.push(format!("row {number}: no test `{name}`"));
            }
        }
    }
    assert_eq!(rows, (1..=30).collect::<Vec<u32>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The indented blocks of docs/overnight.md that begin with `[Unit]` or `[Timer]`, by the name before them.
fn units() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/overnight.md")).unwrap();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('`').and_then(|l| l.strip_suffix("`:")) {
            all.push((name.to_owned(), String::new()));
            open = true;
        } else if !line.is_empty() && !line.starts_with("    ") {
            open = false;
        } else if open && let Some((_, unit)) = all.last_mut() {
            unit.push_str(line.strip_prefix("    ").unwrap_or(line));
            unit.push('\n');
        }
    }
    all
}

/// What stands behind `key` in a unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    unit.lines()
        .find_map(|l| l.strip_prefix(key))
        .unwrap_or_else(|| panic!("no {key}"))
}

/// How long a `restore` waits for an engine.
fn waited(command: &str) -> Duration {
    let (_, wait) = command
        .split_once(" restore -q --wait ")
        .unwrap_or_else(|| panic!("{command}"));
    autotune::units::parse_duration(wait.split_whitespace().next().unwrap()).unwrap()
}

#[test]
fn systemd_takes_the_units_of_the_docs() {
    let units = units();
    assert_eq!(
        units.iter().map(|u| u.0.as_str()).collect::<Vec<_>>(),
        ["autotune.service", "autotune.timer", "autotune-restore.service"]
    );
    let service = &units[0].1;
    for needed in [
        "KillMode=process\n",
        "ExecStopPost=",
        "SuccessExitStatus=3 143\n",
        "After=docker.service\n",
    ] {
        assert!(service.contains(needed), "{needed}");
    }
    // What systemd would cut short gives nothing back.
    let stop: u64 = value(service, "TimeoutStopSec=").parse().unwrap();
    let waits = waited(value(service, "ExecStopPost="));
    assert!(
        Duration::ZERO < waits && waits < Duration::from_secs(stop),
        "{waits:?} of {stop} s"
    );
    assert!(
        waited(value(&units[2].1, "ExecStart=")) > waits,
        "at boot the engine is not up yet"
    );
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").arg("--man=no");
    for (name, text) in &units {
        let text = text
            .replace("/usr/local/bin/autotune", AUTOTUNE)
            .replace("/srv/shop", dir.path().to_str().unwrap());
        fs::write(dir.path().join(name), text).unwrap();
        command.arg(dir.path().join(name));
    }
    // Docker's own unit may not be installed here.
    fs::write(
        dir.path().join("docker.service"),
        "[Service]\nExecStart=/bin/true\n",
    )
    .unwrap();
    let out = output(&mut command);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.trim().is_empty(), "{said}");
}

/// Each cron line: five fields or `@reboot`, and a command that works with what cron gives it: no PATH to speak of, and at
/// boot no engine yet.
#[test]
fn the_cron_lines_are_ones() {
    let text = fs::read_to_string(root().join("docs/overnight.md")).unwrap();
    let (_, cron) = text.split_once("## By cron").unwrap();
    let lines: Vec<&str> = cron
        .split("##")
        .next()
        .unwrap()
        .lines()
        .filter_map(|l| l.strip_prefix("    "))
        .collect();
    assert_eq!(lines.len(), 2);
    let home = tempfile::tempdir().unwrap();
    let results = home.path().to_str().unwrap();
    for line in lines {
        let skip = if line.starts_with('@') { 1 } else { 5 };
        let fields: Vec<&str> = line.split_whitespace().take(skip).collect();
        if skip == 5 {
            let legal = |f: &&str| f.chars().all(|c| c.is_ascii_digit() || "*-,/".contains(c));
            assert!(fields.iter().all(legal), "{fields:?}");
        }
        assert!(!line.contains('%'), "cron makes a newline of it");
        // As cron does it, with the tool of this build, asking only what it would do.
        let command = line.split_whitespace().skip(skip).collect::<Vec<_>>().join(" ");
        assert!(
            command.contains("/usr/local/bin/autotune "),
            "cron finds no other: {command}"
        );
        if skip == 1 {
            assert!(waited(&command) >= Duration::from_secs(300), "{command}");
        }
        let command = command
            .replace("/srv/shop", root().to_str().unwrap())
            .replace(
                "/usr/local/bin/autotune -q --space",
                &format!("{AUTOTUNE} -q --dry-run --results {results} --space"),
            )
            .replace(
                "/usr/local/bin/autotune restore -q --wait 10m",
                &format!("{AUTOTUNE} restore -q --wait 1ms"),
            )
            .replace("autotune.log", &format!("{results}/autotune.log"));
        let out = output(
            Command::new("/bin/sh")
                .arg("-c")
                .arg(&command)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("DOCKER_HOST", "unix:///nowhere/docker.sock"),
        );
        // The dry run goes as far as the engine, which is not there.
        let expected: &[i32] = if skip == 5 { &[0, 64, 65, 69] } else { &[69] };
        assert!(
            out.status.code().is_some_and(|c| expected.contains(&c)),
            "{command}: {out:?}"
        );
    }
}
