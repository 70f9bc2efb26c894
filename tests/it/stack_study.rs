//! The main job on the real stack: a real engine, Postgres and Redis, the short study of experiments/smoke.toml.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{AUTOTUNE, Stack, csv_rows, docker, files_with, output, root, stack_wanted};

const CANARY: &str = "canary-5up3r-s3cret-pw";

/// experiments/smoke.toml for the project and port of `stack`.
fn space_file(stack: &Stack, dir: &Path) -> std::path::PathBuf {
    let text = fs::read_to_string(root().join("experiments/smoke.toml")).unwrap();
    let text = text
        .replace(
            "service = \"api\"",
            &format!("service = \"api\"\nproject = \"{}\"", stack.project()),
        )
        .replace("127.0.0.1:18000", &format!("127.0.0.1:{}", stack.port));
    assert!(
        text.contains(stack.project()) && text.contains(&stack.port.to_string()),
        "smoke.toml changed its form"
    );
    let path = dir.join("smoke.toml");
    fs::write(&path, text).unwrap();
    path
}

fn study(space: &Path, results: &Path) -> Command {
    let mut c = Command::new(AUTOTUNE);
    c.arg("--space")
        .arg(space)
        .arg("--results")
        .arg(results)
        .env("RUST_LOG", "trace")
        .env("NO_COLOR", "1");
    c
}

/// The container of `stack` as it was before a study, to be compared after it.
fn assert_given_back(stack: &Stack, before: &(String, String, String)) {
    assert_eq!(
        &stack.api(),
        before,
        "id, name or state of the user's container changed"
    );
    assert_eq!(stack.leftovers(), "", "containers of ours are left");
}

#[test]
fn stack_study_finds_confirms_and_gives_back() {
    if !stack_wanted() {
        return;
    }
    let stack = Stack::up("atstudy", 18_400, &[("POSTGRES_PASSWORD", CANARY)]);
    let before = stack.api();
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let space = space_file(&stack, dir.path());

    let begun = Instant::now();
    let out = output(&mut study(&space, &results));
    let took = begun.elapsed();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("{printed}\ntook {took:?}");
    assert_eq!(
        out.status.code(),
        Some(0),
        "the study must end with a recommendation"
    );
    assert!(
        took < Duration::from_secs(300),
        "a study of four minutes took {took:?}"
    );
    assert_given_back(&stack, &before);

    let folder = results.join("smoke");
    let recommended = fs::read_to_string(folder.join("recommended.toml")).unwrap();
    let gain = finals_gain(&folder);
    assert!(
        gain >= 3.0,
        "confirmed goodput is only {gain:.2} times today's:\n{recommended}"
    );

    let config = crate::support::run(
        Command::new("docker")
            .current_dir(root())
            .args(["compose", "-f", "docker-compose.yml", "-f"])
            .arg(folder.join("docker-compose.recommended.yml"))
            .arg("config"),
    );
    let env = fs::read_to_string(folder.join("recommended.env")).unwrap();
    let pool = env.lines().find_map(|l| l.strip_prefix("POOL_SIZE=")).unwrap();
    assert!(
        config.contains(&format!("POOL_SIZE: \"{pool}\"")),
        "compose does not take POOL_SIZE={pool}:\n{config}"
    );

    assert!(!printed.contains(CANARY), "the database password was printed");
    assert_eq!(
        files_with(dir.path(), CANARY),
        Vec::<std::path::PathBuf>::new(),
        "the database password was written"
    );
}

/// Median goodput of the recommended config over the baseline's, both of the finals alone.
fn finals_gain(folder: &Path) -> f64 {
    let rows = csv_rows(&folder.join("trials.csv"));
    let env = fs::read_to_string(folder.join("recommended.env")).unwrap();
    let pool = env
        .lines()
        .find_map(|l| l.strip_prefix("POOL_SIZE="))
        .unwrap()
        .to_owned();
    let median = |wanted: &str| {
        let mut v: Vec<f64> = rows
            .iter()
            .filter(|r| r["phase"] == "final" && r["pool_size"] == wanted)
            .map(|r| r["goodput_rps"].parse().unwrap_or(0.0))
            .collect();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    median(&pool) / median("2").max(1e-9)
}

#[test]
fn stack_study_killed_in_the_middle_resumes_and_repeats_no_probe() {
    if !stack_wanted() {
        return;
    }
    let stack = Stack::up("atkill", 18_410, &[("POSTGRES_PASSWORD", CANARY)]);
    let before = stack.api();
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let space = space_file(&stack, dir.path());
    let folder = results.join("smoke");

    let mut child = study(&space, &results)
        .arg("--trials")
        .arg("3")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // In the middle of the second trial: its first probes are on disk, the original is parked.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !csv_has_trials(&folder, 1) {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "no first trial in two minutes"
        );
        std::thread::park_timeout(Duration::from_millis(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let first = probes_of(&folder, 1);
    assert!(!first.is_empty());

    let out = output(study(&space, &results).arg("--trials").arg("3"));
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    println!("{printed}");
    assert!(
        matches!(out.status.code(), Some(0 | 3)),
        "the resumed study ended with {}",
        out.status
    );
    assert!(
        printed.contains("resumed"),
        "the second run does not say that it resumed"
    );
    assert_given_back(&stack, &before);

    assert_eq!(
        probes_of(&folder, 1),
        first,
        "the finished trial's probes were measured again or changed"
    );
    let rows = csv_rows(&folder.join("probes.csv"));
    let keys: HashSet<(String, String)> = rows
        .iter()
        .map(|r| (r["trial"].clone(), r["probe"].clone()))
        .collect();
    assert_eq!(keys.len(), rows.len(), "a probe is twice in probes.csv");
    assert!(
        !docker(&["ps", "-a", "--format", "{{.Names}}"])
            .lines()
            .any(|name| name.starts_with(stack.project()) && name.contains("parked")),
        "a parked container is left"
    );
}

fn csv_has_trials(folder: &Path, n: usize) -> bool {
    let path = folder.join("trials.csv");
    path.is_file()
        && csv_rows(&path)
            .iter()
            .filter(|r| r["outcome"] == "measured")
            .count()
            >= n
}

fn probes_of(folder: &Path, trial: u32) -> Vec<(String, String)> {
    csv_rows(&folder.join("probes.csv"))
        .into_iter()
        .filter(|r| r["trial"] == trial.to_string())
        .map(|r| (r["probe"].clone(), r["offered_rps"].clone()))
        .collect()
}
