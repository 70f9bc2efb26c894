//! `autotune confirm` and `--prior` of a run, on the arithmetic service: the driver, the journal and the finals as they
//! are, in virtual time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{AUTOTUNE, csv_rows, output};

/// Today's pool of 2 carries 40 rps, and up to 16 each one carries 20 more.
pub const SIMULATED: &str = r#"
[study]
name = "NAME"
trials = 3
seed = 5

[sut]
kind = "simulated"
model = "pool-queue capacity=320 noise=0.02 per_pool_size=20"

[parameters.pool_size]
type = "int"
low = 1
high = 32
baseline = 2

[[load.requests]]
path = "/"

[capacity]
start = 40
max = 2000
confirm = "10s"
warm_up = "2s"

[confirm]
pairs = 4
"#;

struct Studio {
    dir: tempfile::TempDir,
}

impl Studio {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("space.toml"), SIMULATED.replace("NAME", "s")).unwrap();
        Self { dir }
    }

    fn study(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Exit code, stdout, stderr.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = output(
            Command::new(AUTOTUNE)
                .args(args)
                .env("AUTOTUNE_SPACE", self.dir.path().join("space.toml"))
                .env_remove("RUST_LOG"),
        );
        (
            out.status.code().unwrap(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    }

    fn confirm(&self, args: &[&str]) -> (i32, Value, String) {
        let study = self.study().display().to_string();
        let all: Vec<&str> = ["confirm", "--json", "--study", &study]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let (code, stdout, stderr) = self.run(&all);
        (code, serde_json::from_str(&stdout).unwrap_or(Value::Null), stderr)
    }

    fn told(&self, rates: &[&str]) {
        let study = self.study().display().to_string();
        for rate in rates {
            let (code, stdout, stderr) = self.run(&["ask", "--study", &study, "--trials", "20"]);
            assert_eq!(code, 0, "{stderr}");
            let trial = serde_json::from_str::<Value>(&stdout).unwrap()["trial"].to_string();
            let (code, _, stderr) = self.run(&["tell", "--study", &study, "--trial", &trial, "--rate", rate]);
            assert_eq!(code, 0, "{stderr}");
        }
    }
}

/// A/A: breaks when today's configuration measured against itself is called better or worse, or is not measured on both
/// sides of every pair.
#[test]
fn a_baseline_against_itself_is_no_gain() {
    let s = Studio::new();
    s.told(&["100", "20", "30"]);
    let (code, end, stderr) = s.confirm(&[]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("measured against itself"), "{stderr}");
    assert_eq!(end["decision"]["verdict"], "no_gain", "{end}");
    assert!(
        end["decision"]["minimum_detectable_gain"].as_f64().unwrap() > 0.0,
        "{end}"
    );
    let rows = csv_rows(&s.study().join("trials.csv"));
    let finals: Vec<_> = rows.iter().filter(|r| r["phase"] == "final").collect();
    assert!(finals.len() >= 4 && finals.len() % 2 == 0, "{}", finals.len());
    assert!(finals.iter().all(|r| r["pool_size"] == "2"));
}

/// What other tools' figures recommend is measured here and wins; a second confirmation counts its own pairs only, and
/// its rounds go on counting.
#[test]
fn what_was_told_is_confirmed_twice() {
    let s = Studio::new();
    s.told(&["40", "300", "310"]);
    let (code, first, stderr) = s.confirm(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(first["decision"]["verdict"], "win");
    assert!(s.study().join("recommended.env").is_file() || s.study().join("recommended.toml").is_file());
    let finals = |s: &Studio| {
        csv_rows(&s.study().join("trials.csv"))
            .into_iter()
            .filter(|r| r["phase"] == "final")
            .count()
    };
    let before = finals(&s);
    let study = s.study().display().to_string();
    let (_, stdout, _) = s.run(&["recommend", "--study", &study, "--json"]);
    let r: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(r["confirmed"]["verdict"], "win");
    assert_eq!(r["config"], first["decision"]["config"]);
    let (code, second, stderr) = s.confirm(&["--pairs", "3"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(second["decision"]["config"], first["decision"]["config"]);
    assert!(second["decision"]["pairs"].as_u64().unwrap() <= 3, "{second}");
    assert!(finals(&s) > before);
    // The search goes on: what was decided before is no longer the last word.
    s.told(&["900"]);
    let (_, stdout, _) = s.run(&["recommend", "--study", &study, "--json"]);
    let r: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(r["confirmed"], Value::Null, "{r}");
}

/// Trials that were asked for and not told stay open while a confirmation runs.
#[test]
fn a_confirmation_closes_nobody_elses_trials() {
    let s = Studio::new();
    s.told(&["40", "300"]);
    let study = s.study().display().to_string();
    let (_, stdout, _) = s.run(&["ask", "--study", &study]);
    assert!(stdout.contains("\"trial\":3"), "{stdout}");
    assert_eq!(s.confirm(&[]).0, 0);
    let (code, _, stderr) = s.run(&["tell", "--study", &study, "--trial", "3", "--rate", "33"]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn what_cannot_be_confirmed_is_a_sentence() {
    let s = Studio::new();
    let (code, _, stderr) = s.confirm(&[]);
    assert_eq!(code, 64, "{stderr}");
    assert!(!s.study().exists(), "confirm made a study");
    s.told(&["0"]);
    let (code, _, stderr) = s.confirm(&[]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("nothing to confirm"), "{stderr}");
    let other = SIMULATED.replace("NAME", "s").replace("high = 32", "high = 33");
    fs::write(s.dir.path().join("space.toml"), other).unwrap();
    let (code, _, stderr) = s.confirm(&[]);
    assert_eq!(code, 65, "{stderr}");
    assert!(stderr.contains("pool_size"), "{stderr}");
}

/// A run that begins with an earlier study says so, says why its search ended, and measures all of its finals itself.
#[test]
fn a_run_with_a_prior_decides_on_its_own_finals() {
    let old = Studio::new();
    let results = |s: &Studio| s.dir.path().display().to_string();
    let (code, _, stderr) = old.run(&["run", "--results", &results(&old)]);
    assert_eq!(code, 0, "{stderr}");
    let new = Studio::new();
    let prior = old.study().display().to_string();
    let (code, stdout, stderr) = new.run(&["run", "--results", &results(&new), "--prior", &prior]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("the finals don't see them"), "{stderr}");
    assert!(stdout.contains("the search ended: "), "{stdout}");
    assert!(stdout.contains("would have shown a gain of"), "{stdout}");
    let rows = csv_rows(&new.study().join("trials.csv"));
    assert_eq!(
        rows[0]["phase"], "baseline",
        "today's configuration is measured in this study too"
    );
    let searched = rows.iter().filter(|r| r["phase"] == "search").count();
    assert!((1..=3).contains(&searched), "{searched}");
    // A prior that is not a study is refused before anything is measured.
    let third = Studio::new();
    let (code, _, stderr) = third.run(&["run", "--results", &results(&third), "--prior", "/nonexistent"]);
    assert_eq!(code, 64, "{stderr}");
}
