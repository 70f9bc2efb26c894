//! `ask`, `tell`, `recommend` as programs: what they print, what they refuse, and many of them at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{AUTOTUNE, output};

const SPACE: &str = r#"
[study]
name = "mine"
seed = 3

[parameters.pool_size]
type = "int"
low = 1
high = 64
baseline = 4

[parameters.cache]
type = "choice"
values = ["off", "on"]
baseline = "off"

[parameters.ttl_s]
type = "int"
low = 1
high = 600
baseline = 60
only_if = 'cache == "on"'

[[constraints]]
that = "pool_size <= 48"
why = "max_connections"

[objective]
cost = "pool_size"
"#;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(SPACE)
    }

    fn with(space: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("space.toml"), space).unwrap();
        Self { dir }
    }

    fn study(&self) -> PathBuf {
        self.dir.path().join("study")
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut c = Command::new(AUTOTUNE);
        c.arg(name)
            .arg("--study")
            .arg(self.study())
            .args(args)
            .env_remove("RUST_LOG");
        if name == "ask" {
            c.arg("--space").arg(self.dir.path().join("space.toml"));
        }
        c
    }

    /// Exit code, stdout, stderr.
    fn run(&self, name: &str, args: &[&str]) -> (i32, String, String) {
        let out = output(&mut self.command(name, args));
        (
            out.status.code().unwrap(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    }

    fn ask(&self) -> Value {
        let (code, stdout, stderr) = self.run("ask", &[]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn tell(&self, trial: &Value, args: &[&str]) {
        let number = trial["trial"].to_string();
        let all: Vec<&str> = ["--trial", &number]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let (code, stdout, stderr) = self.run("tell", &all);
        assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    }

    fn recommend(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        let (code, stdout, stderr) = self.run("recommend", &all);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

/// A pool that carries ten a connection up to 20, and the cache is worth nothing; above 40 memory runs out.
fn rate(config: &Value) -> Option<f64> {
    let pool = config["pool_size"].as_f64().unwrap();
    (pool <= 40.0).then(|| 10.0 * pool.min(20.0))
}

/// Breaks when the baseline is not first, an inactive parameter is shown, an illegal config is asked for, a
/// recommendation is dearer than the noise asks for, or a failed config is recommended.
#[test]
fn a_search_by_hand_finds_the_cheap_end_of_the_plateau() {
    let b = Bench::new();
    let first = b.ask();
    assert_eq!(first["trial"], 1);
    assert_eq!(first["config"]["pool_size"], 4, "today's configuration first");
    assert_eq!(first["config"].get("ttl_s"), None, "not active: left out");
    let mut trial = first;
    for n in 1..=16 {
        assert_eq!(trial["trial"], n);
        let config = &trial["config"];
        assert!(config["pool_size"].as_i64().unwrap() <= 48, "{config}");
        assert_eq!(config.get("ttl_s").is_some(), config["cache"] == "on", "{config}");
        match rate(config) {
            Some(r) => b.tell(&trial, &["--rate", &r.to_string()]),
            None => b.tell(&trial, &["--failed", "oom"]),
        }
        if n < 16 {
            trial = b.ask();
            if trial.get("stop").is_some() {
                break;
            }
        }
    }
    let r = b.recommend(&[]);
    let pool = r["config"]["pool_size"].as_f64().unwrap();
    assert!((17.0..=40.0).contains(&pool), "{r}");
    assert_eq!(r["cost"], pool);
    assert_eq!(r["confirmed"], Value::Null);
    assert!(r["why"].is_string() && r["baseline"]["rps"].is_number(), "{r}");
    let fastest = b.recommend(&["--fastest"]);
    assert!(fastest["rps"].as_f64().unwrap() >= r["rps"].as_f64().unwrap());
    let (code, text, _) = b.run("recommend", &[]);
    assert_eq!(code, 0);
    assert!(
        text.contains("pool_size=") && text.contains("not confirmed"),
        "{text}"
    );
    // The journal is a study like any other: the report reads it.
    let report = output(Command::new(AUTOTUNE).arg("report").arg(b.study()));
    assert!(
        report.status.success(),
        "{}",
        String::from_utf8_lossy(&report.stderr)
    );
    let rows = crate::support::csv_rows(&b.study().join("trials.csv"));
    assert!(rows.len() >= 8 && rows[0]["phase"] == "baseline");
}

/// Breaks when two processes get one number or one config, a trial is lost, or one of them fails.
#[test]
fn many_processes_ask_and_tell_at_once() {
    const ASKS: usize = 12;
    let b = Bench::new();
    let spawn = |name: &str, args: &[&str]| {
        b.command(name, args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // None of them has begun the study: making it is part of what they do at once.
    let children: Vec<_> = (0..ASKS).map(|_| spawn("ask", &[])).collect();
    let trials: Vec<Value> = children
        .into_iter()
        .map(|c| {
            let out = c.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            serde_json::from_slice(&out.stdout).unwrap()
        })
        .collect();
    let numbers: BTreeSet<u64> = trials.iter().map(|t| t["trial"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=ASKS as u64).collect());
    let configs: BTreeSet<String> = trials.iter().map(|t| t["config"].to_string()).collect();
    assert_eq!(configs.len(), ASKS, "a config was asked for twice: {trials:?}");
    // All are told at once, while two more are asked for.
    let mut children: Vec<_> = (0..2).map(|_| spawn("ask", &[])).collect();
    children.extend(trials.iter().map(|t| {
        let (number, rate) = (t["trial"].to_string(), rate(&t["config"]));
        let rate = rate.map(|r| r.to_string());
        match &rate {
            Some(r) => spawn("tell", &["--trial", &number, "--rate", r]),
            None => spawn("tell", &["--trial", &number, "--failed", "oom"]),
        }
    }));
    for c in children {
        let out = c.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let r = b.recommend(&[]);
    assert_eq!(r["trials"], ASKS + 2);
    assert_eq!(r["pending"], 2);
}

/// Breaks when one of ten processes that tell the same trial is not the only one.
#[test]
fn one_of_many_tells_wins() {
    let b = Bench::new();
    let trial = b.ask();
    let children: Vec<_> = (1..=6)
        .map(|i| {
            b.command("tell", &["--trial", "1", "--rate", &format!("{i}00")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let codes: Vec<i32> = children
        .into_iter()
        .map(|c| c.wait_with_output().unwrap().status.code().unwrap())
        .collect();
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|c| matches!(c, 0 | 65)), "{codes:?}");
    assert_eq!(trial["trial"], 1);
}

/// What is wrong is a sentence with the documented code, and changes nothing.
#[test]
fn mistakes_are_sentences_with_their_codes() {
    let b = Bench::new();
    let nowhere = |name: &str, args: &[&str]| {
        let (code, _, stderr) = b.run(name, args);
        assert_eq!(code, 64, "{stderr}");
        assert!(stderr.contains("there is no study in"), "{stderr}");
        assert!(!b.study().exists(), "{name} made a study");
    };
    nowhere("tell", &["--trial", "1", "--rate", "5"]);
    nowhere("recommend", &[]);
    b.ask();
    let (code, stdout, _) = b.run("recommend", &["--json"]);
    assert_eq!(code, 3, "nothing was told");
    let nothing: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(nothing["config"], Value::Null);
    let refuses = |args: &[&str], code: i32, words: &[&str]| {
        let (got, stdout, stderr) = b.run("tell", args);
        assert_eq!(got, code, "{args:?}: {stderr}");
        assert_eq!(stdout, "");
        for w in words {
            assert!(stderr.contains(w), "{args:?}: {stderr}");
        }
    };
    refuses(&["--trial", "9", "--rate", "5"], 65, &["trial 9", "1 to 1"]);
    refuses(&["--trial", "1", "--rate", "-5"], 2, &["0 or more", "-5"]);
    refuses(&["--trial", "1", "--rate", "NaN"], 2, &["0 or more"]);
    refuses(&["--trial", "1", "--rate", "inf"], 2, &["0 or more"]);
    refuses(&["--trial", "1"], 2, &["--rate"]);
    refuses(
        &["--trial", "1", "--rate", "5", "--failed", "oom"],
        2,
        &["cannot be used"],
    );
    refuses(
        &["--trial", "1", "--failed", "oom", "--at-least"],
        2,
        &["cannot be used"],
    );
    refuses(
        &["--trial", "1", "--rate", "0", "--at-most"],
        2,
        &["a bound of 0"],
    );
    b.tell(&serde_json::json!({"trial": 1}), &["--rate", "5"]);
    refuses(&["--trial", "1", "--rate", "6"], 65, &["trial 1", "already"]);
    let space = b.dir.path().join("space.toml");
    fs::write(&space, SPACE.replace("high = 64", "high = 80")).unwrap();
    let (code, _, stderr) = b.run("ask", &[]);
    assert_eq!(code, 65, "{stderr}");
    assert!(
        stderr.contains("[parameters.pool_size] was 1 to 64 and is 1 to 80"),
        "{stderr}"
    );
    fs::write(&space, SPACE).unwrap();
    assert_eq!(b.ask()["trial"], 2, "a refused ask leaves no trial");
}

/// Bounds, failures and what says nothing: each is kept as what it is.
#[test]
fn bounds_failures_and_faults_are_kept_apart() {
    let b = Bench::new();
    let trials: Vec<Value> = (0..6).map(|_| b.ask()).collect();
    b.tell(&trials[0], &["--rate", "100"]);
    b.tell(&trials[1], &["--rate", "300", "--at-least"]);
    b.tell(&trials[2], &["--rate", "80", "--at-most"]);
    b.tell(&trials[3], &["--failed", "never ready"]);
    b.tell(&trials[4], &["--failed", "infrastructure"]);
    b.tell(&trials[5], &["--rate", "0"]);
    let r = b.recommend(&["--fastest"]);
    assert_eq!(
        r["trials"], 5,
        "what says nothing about the config does not count: {r}"
    );
    assert_eq!(r["failed"], 2);
    assert_eq!(r["config"], trials[1]["config"]);
    assert!(
        output(Command::new(AUTOTUNE).arg("report").arg(b.study()))
            .status
            .success()
    );
    let rows = crate::support::csv_rows(&b.study().join("trials.csv"));
    let verdicts: Vec<&str> = rows.iter().map(|r| r["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["sustainable", "at_least", "at_most", "", "", ""]);
    assert!(rows[3]["reason"].starts_with("never_ready"), "{:?}", rows[3]);
}

/// A small space is walked to its end: then there is nothing left, however many ask.
#[test]
fn nothing_left_is_said_and_is_no_error() {
    let text = "[parameters.a]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\n";
    let b = Bench::with(text);
    for n in 1..=3 {
        assert_eq!(b.ask()["trial"], n);
    }
    let end = b.ask();
    assert!(
        end["stop"].as_str().unwrap().contains("all 3 legal configs"),
        "{end}"
    );
    assert_eq!(end.get("config"), None);
}

/// Breaks when a prior is asked for again as if it were new, is counted as this study's trials, is recommended, or must
/// be named with every ask.
#[test]
fn an_earlier_study_shortens_the_start_and_is_never_recommended() {
    let old = Bench::new();
    for _ in 0..12 {
        let t = old.ask();
        match rate(&t["config"]) {
            Some(r) => old.tell(&t, &["--rate", &r.to_string()]),
            None => old.tell(&t, &["--failed", "oom"]),
        }
    }
    let new = Bench::new();
    let dir = old.study().display().to_string();
    let (code, stdout, stderr) = new.run("ask", &["--prior", &dir]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("12 observations"), "{stderr}");
    let first: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        first["config"]["pool_size"], 4,
        "today's configuration is measured here too"
    );
    let (code, _, _) = new.run("recommend", &["--json"]);
    assert_eq!(code, 3, "nothing was measured in this study");
    new.tell(&first, &["--rate", "40"]);
    // Two more of the design, then the model, which knows where the plateau is.
    let later: Vec<Value> = (0..4)
        .map(|_| {
            let t = new.ask();
            match rate(&t["config"]) {
                Some(r) => new.tell(&t, &["--rate", &r.to_string()]),
                None => new.tell(&t, &["--failed", "oom"]),
            }
            t
        })
        .collect();
    let pool = |t: &Value| t["config"]["pool_size"].as_i64().unwrap();
    assert!(
        later[2..].iter().any(|t| (15..=40).contains(&pool(t))),
        "{later:?}"
    );
    assert_eq!(new.recommend(&[])["trials"], 5);
    let (code, _, stderr) = new.run("ask", &["--prior", &new.study().display().to_string()]);
    assert_eq!(code, 65, "{stderr}");
    assert!(stderr.contains("takes no second one"), "{stderr}");
}

/// A study that `run` measured is not mixed with what others measure.
#[test]
fn a_measured_study_is_refused() {
    let b = Bench::new();
    simulated_run(b.dir.path(), &b.study());
    let (code, _, stderr) = b.run("ask", &[]);
    assert_eq!(code, 65, "{stderr}");
    assert!(
        stderr.contains("autotune run") && stderr.contains("--prior"),
        "{stderr}"
    );
    let (code, _, stderr) = b.run("tell", &["--trial", "1", "--rate", "5"]);
    assert_eq!(code, 65, "{stderr}");
    assert!(b.recommend(&[])["confirmed"]["verdict"].is_string());
}

/// A whole study on arithmetic into `study`; seconds.
fn simulated_run(dir: &Path, study: &Path) {
    let text = crate::search_confirm::SIMULATED.replace("NAME", study.file_name().unwrap().to_str().unwrap());
    let path = dir.join("simulated.toml");
    fs::write(&path, text).unwrap();
    let out = output(
        Command::new(AUTOTUNE)
            .arg("--space")
            .arg(&path)
            .arg("--results")
            .arg(study.parent().unwrap()),
    );
    assert_eq!(
        out.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
