//! Exports and comparisons, as other programs read them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use autotune::report::{ExportError, FinalVerdict, Format, compare, export};
use autotune::results::Study;
use autotune::space::{Binding, Domain, Limit, Parameter, Value};
use autotune::store::{Journal, Sqlite, kinds};

use crate::report::{not_won, study};
use crate::support::{AUTOTUNE, csv_rows, output, root};
use crate::synthetic::{Synthetic, int};

/// A Python that has `module`: the project's own environment first. None, with the reason on stderr.
fn python_with(module: &str) -> Option<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let named = std::env::var_os("AUTOTUNE_TEST_PYTHON").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain([own, PathBuf::from("python3")])
        .find(|python| {
            let import = format!("import {module}");
            Command::new(python)
                .args(["-c", &import])
                .output()
                .is_ok_and(|o| o.status.success())
        });
    if found.is_none() {
        assert!(
            std::env::var_os("AUTOTUNE_TEST_OPTUNA").is_none(),
            "scripts/tools found {module} in target/venv and it does not import"
        );
        eprintln!("skipped: no python with {module}; scripts/tools installs it into target/venv");
    }
    found
}

fn run(python: &PathBuf, script: &str, input: &std::path::Path) -> serde_json::Value {
    let out = Command::new(python)
        .args(["-W", "ignore", "-c", script])
        .arg(input)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Breaks when the real Optuna, which its dashboard reads through, sees another study than ours.
#[tokio::test]
async fn optuna_opens_its_journal() {
    let mut study = study(Synthetic {
        trials: 40,
        ..Synthetic::default()
    })
    .await;
    study.space.parameters.push(Parameter {
        name: "timeout".into(),
        domain: Domain::Float {
            low: 0.1,
            high: 10.0,
            step: None,
            log: true,
        },
        baseline: Value::Float(1.0),
        binding: Binding::Unbound,
        only_if: None,
    });
    for t in &mut study.trials {
        t.config.set("timeout", Value::Float(0.7));
    }
    let s = study.summary();
    let bytes = export(&s, Format::Optuna, false).unwrap();
    for line in String::from_utf8(bytes.clone()).unwrap().lines() {
        let _: serde_json::Value = serde_json::from_str(line).unwrap();
    }
    let Some(python) = python_with("optuna") else {
        return;
    };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.log");
    std::fs::write(&path, bytes).unwrap();
    let script = r#"
import json, sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
name = optuna.get_all_study_names(storage)[0]
study = optuna.load_study(study_name=name, storage=storage)
print(json.dumps({"name": name, "best": study.best_value, "params": study.best_params, "direction": study.direction.name,
    "states": [t.state.name for t in study.trials], "evidence": study.user_attrs["evidence"],
    "importances": len(optuna.importance.get_param_importances(study)) if len(study.trials) else 0,
    "duration": study.trials[0].duration.total_seconds()}))
"#;
    let seen = run(&python, script, &path);
    assert_eq!(seen["name"].as_str(), Some("shop-api pool"));
    assert_eq!(seen["direction"].as_str(), Some("MAXIMIZE"));
    let searched: Vec<_> = s
        .rows
        .iter()
        .filter(|r| r.phase != autotune::trial::TrialPhase::Final)
        .collect();
    let states: Vec<&str> = searched
        .iter()
        .map(|r| if r.rate_rps.is_some() { "COMPLETE" } else { "FAIL" })
        .collect();
    assert_eq!(seen["states"], serde_json::json!(states));
    let best = searched.iter().filter_map(|r| r.rate_rps).fold(0.0, f64::max);
    assert!((seen["best"].as_f64().unwrap() - best).abs() < 1e-9);
    assert_eq!(seen["params"]["timeout"].as_f64(), Some(0.7));
    assert_eq!(seen["evidence"].as_str(), Some(s.headline().as_str()));
    assert_eq!(seen["duration"].as_f64(), Some(s.rows[0].seconds));
}

/// A child that ends with its handle.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One GET; None while nobody listens or the answer is not 200.
fn get_json(port: u16, path: &str) -> Option<serde_json::Value> {
    let mut s = TcpStream::connect(("127.0.0.1", port)).ok()?;
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(s, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").ok()?;
    let mut text = String::new();
    s.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.lines()
        .next()?
        .contains(" 200 ")
        .then(|| serde_json::from_str(body).unwrap())
}

/// Breaks when the real dashboard does not open the export, or shows another study than ours.
#[tokio::test]
async fn optuna_dashboard_opens_the_export() {
    let study = study(Synthetic {
        trials: 40,
        ..Synthetic::default()
    })
    .await;
    let s = study.summary();
    let Some(python) = python_with("optuna_dashboard") else {
        return;
    };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("study.log");
    std::fs::write(&path, export(&s, Format::Optuna, false).unwrap()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    // By that Python, not by the script's first line: it names the folder that the environment was made in.
    let child = Command::new(&python)
        .arg(python.with_file_name("optuna-dashboard"))
        .arg(&path)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Running(child);
    let end = Instant::now() + Duration::from_secs(90);
    let studies = loop {
        if let Some(v) = get_json(port, "/api/studies") {
            break v;
        }
        assert!(Instant::now() < end, "optuna-dashboard did not come up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let shown = &studies["study_summaries"][0];
    assert_eq!(shown["study_name"].as_str(), Some("shop-api pool"), "{studies}");
    let detail = get_json(port, &format!("/api/studies/{}", shown["study_id"])).unwrap();
    let searched = s
        .rows
        .iter()
        .filter(|r| r.phase != autotune::trial::TrialPhase::Final);
    assert_eq!(detail["trials"].as_array().unwrap().len(), searched.count());
    let complete = |t: &&serde_json::Value| t["state"] == "Complete";
    let best = detail["trials"]
        .as_array()
        .unwrap()
        .iter()
        .filter(complete)
        .filter_map(|t| t["values"][0].as_f64());
    let measured = s
        .rows
        .iter()
        .filter(|r| r.phase != autotune::trial::TrialPhase::Final)
        .filter_map(|r| r.rate_rps);
    assert!((best.fold(0.0, f64::max) - measured.fold(0.0, f64::max)).abs() < 1e-6);
}

/// Breaks when the patch is no YAML, a value changes on its way, or Kubernetes would take a text for a number.
#[tokio::test]
async fn a_yaml_parser_reads_the_kubernetes_patch() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let p = |name: &str, domain, baseline, binding| Parameter {
        name: name.into(),
        domain,
        baseline,
        binding,
        only_if: None,
    };
    let awkward = Value::Text("yes: \"$HOME\" #x".into());
    study.space.parameters.extend([
        p(
            "flag",
            Domain::Choice {
                values: vec![awkward.clone()],
            },
            awkward.clone(),
            Binding::Env("FLAG".into()),
        ),
        p("instances", int(1, 4), Value::Int(1), Binding::Replicas),
        p(
            "reserve",
            int(64, 512),
            Value::Int(64),
            Binding::Limit(Limit::MemoryReservation),
        ),
    ]);
    let d = study.decision.as_mut().unwrap();
    for (k, v) in [
        ("flag", awkward),
        ("instances", Value::Int(3)),
        ("reserve", Value::Int(128)),
        ("cpus", Value::Float(1.5)),
        ("memory", Value::Int(768)),
    ] {
        d.config.set(k, v);
    }
    let bytes = export(&study.summary(), Format::Kubernetes, false).unwrap();
    let Some(python) = python_with("yaml") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("patch.yaml");
    std::fs::write(&path, bytes).unwrap();
    let seen = run(
        &python,
        "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))",
        &path,
    );
    assert_eq!(
        (seen["kind"].as_str(), seen["spec"]["replicas"].as_i64()),
        (Some("Deployment"), Some(3))
    );
    let container = &seen["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"].as_str(), Some("api"));
    let env = container["env"].as_array().unwrap();
    assert!(env.iter().all(|e| e["value"].is_string()), "{env:?}");
    assert!(
        env.contains(&serde_json::json!({ "name": "FLAG", "value": "yes: \"$HOME\" #x" })),
        "{env:?}"
    );
    let resources = serde_json::json!({ "limits": { "cpu": "1.5", "memory": "768Mi" }, "requests": { "memory": "128Mi" } });
    assert_eq!(container["resources"], resources);
}

/// Breaks when the snippet is no Python, or misses a setting of the pool.
#[tokio::test]
async fn the_sqlalchemy_snippet_is_python() {
    let study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let s = study.summary();
    let text = String::from_utf8(export(&s, Format::Sqlalchemy, false).unwrap()).unwrap();
    let config = s.recommended().unwrap();
    for name in ["pool_size", "max_overflow"] {
        assert!(
            text.contains(&format!("    {name}={},\n", config.get(name).unwrap())),
            "{text}"
        );
    }
    assert!(
        text.contains("# also: cpus = ") && text.contains("95 % interval"),
        "{text}"
    );
    let Some(python) = python_with("ast") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("engine.py");
    std::fs::write(&path, text).unwrap();
    let script = "import ast, sys; tree = ast.parse(open(sys.argv[1]).read()); print(len(tree.body[-1].value.keywords))";
    assert_eq!(run(&python, script, &path), 2);
}

/// Breaks when a config that did not win can be carried to production without being asked for.
#[tokio::test]
async fn exports_are_refused_without_a_win_unless_forced() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let candidate = not_won(&mut study, FinalVerdict::NoGain);
    let s = study.summary();
    let pool = candidate.get("pool_size").unwrap();
    let today = s.baseline.get("pool_size").unwrap();
    for format in [
        Format::Env,
        Format::Compose,
        Format::Sqlalchemy,
        Format::Kubernetes,
    ] {
        assert!(
            matches!(export(&s, format, false), Err(ExportError::NoWin(_))),
            "{format:?}"
        );
        let text = String::from_utf8(export(&s, format, true).unwrap()).unwrap();
        assert!(
            text.contains("# NOT RECOMMENDED") && text.contains("# No gain: keep today's"),
            "{text}"
        );
        let lines = match format {
            Format::Env => ["POOL_SIZE=", ""],
            Format::Compose => ["      \"POOL_SIZE\": \"", "\""],
            Format::Kubernetes => ["            - name: \"POOL_SIZE\"\n              value: \"", "\""],
            _ => ["    pool_size=", ","],
        };
        let line = |v: &Value| format!("{}{v}{}\n", lines[0], lines[1]);
        assert!(text.contains(&line(pool)), "{text}");
        assert!(
            !text.contains(&line(today)),
            "today's values as the candidate's: {text}"
        );
        let [lo, hi] = s.sample(&candidate).unwrap().interval_rps.unwrap();
        let rates = format!(
            "best candidate {:.0} rps ({lo:.0} to {hi:.0}).",
            s.decision.as_ref().unwrap().winner_rps
        );
        assert!(text.contains(&rates), "{rates}: {text}");
    }
    for format in [Format::Json, Format::Optuna] {
        assert!(export(&s, format, false).is_ok(), "data is data");
    }
    let json: serde_json::Value = serde_json::from_slice(&export(&s, Format::Json, false).unwrap()).unwrap();
    assert_eq!(json["verdict"].as_str(), Some("no_gain"));
    assert_eq!(json["config"], json["today"], "a forced export changes no other");
    assert_eq!(json["trials"].as_array().unwrap().len(), study.trials.len());
}

/// Breaks when equal studies are told apart, a real difference is missed, or other loads are compared silently.
#[tokio::test]
async fn studies_are_compared_by_their_finals() {
    let a = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let same = compare(&a.summary(), &a.summary());
    assert_eq!((same.verdict, same.remarks.len()), ("same", 0));
    let mut b = a.clone();
    not_won(&mut b, FinalVerdict::NoGain); // recommends today's
    let worse = compare(&a.summary(), &b.summary());
    assert_eq!(worse.verdict, "worse");
    assert!(worse.difference.unwrap()[2] < -0.3, "{worse:?}");
    assert_eq!(compare(&b.summary(), &a.summary()).verdict, "better");
    let mut top = a.clone();
    for t in top.trials.iter_mut().filter(|t| t.round.is_some()) {
        if let Some(autotune::trial::Outcome::Measured { capacity }) = &mut t.outcome {
            capacity.verdict = autotune::capacity::CapacityVerdict::AtLeast;
        }
    }
    let bounded = compare(&a.summary(), &top.summary());
    assert!(bounded.words.contains("carries at least"), "{}", bounded.words);
    assert!(
        bounded.remarks[0].starts_with("the second study's recommendation reached"),
        "{bounded:?}"
    );
    b.meta.section_hashes.insert("load".into(), "other".into());
    assert_eq!(
        compare(&a.summary(), &b.summary()).remarks,
        ["[load] differs: the rates may not mean the same"]
    );
    b.trials.retain(|t| t.round.is_none());
    let unknown = compare(&a.summary(), &b.summary());
    assert_eq!(unknown.verdict, "unknown");
    assert!(
        unknown.remarks.iter().all(|r| !r.contains("hosts")),
        "it ran nowhere: {unknown:?}"
    );
    // The verdict stands before the words: they don't begin with it, and say what is missing.
    assert!(
        !unknown.words.to_lowercase().contains("unknown"),
        "{}",
        unknown.words
    );
    assert!(unknown.words.contains("the second 0"), "{}", unknown.words);
}

/// Fails when finals that compared nothing are listed with a gain of 0.
#[tokio::test]
async fn runs_shows_no_gain_where_none_was_compared() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), "pool").await;
    let list = || {
        let out = output(Command::new(AUTOTUNE).args(["runs", "--results"]).arg(tmp.path()));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(list().contains(" %"), "{}", list());
    let journal = Sqlite::open(std::path::Path::new(&dir)).await.unwrap();
    let mut study = Study::read(&journal).await.unwrap();
    not_won(&mut study, FinalVerdict::Undecided);
    let mut d = study.decision.unwrap();
    (d.gain, d.pairs) = ([0.0; 3], 1);
    journal
        .log(kinds::DECISION, &serde_json::to_value(d).unwrap())
        .await
        .unwrap();
    journal.close().await;
    let shown = list();
    assert!(shown.contains("undecided") && !shown.contains('%'), "{shown}");
    // A run that was refused before its first trial has nothing that could be confirmed.
    let empty = Sqlite::open(&tmp.path().join("refused")).await.unwrap();
    empty.create(&study.meta).await.unwrap();
    empty.close().await;
    assert!(
        list().contains("0 trials") && list().contains("nothing measured"),
        "{}",
        list()
    );
}

/// A study's folder, as a run leaves it.
async fn folder(results: &std::path::Path, name: &str) -> String {
    let dir = results.join(name);
    let journal = Sqlite::open(&dir).await.unwrap();
    Synthetic {
        trials: 8,
        pairs: 2,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    journal.close().await;
    dir.display().to_string()
}

/// Breaks when a script that reads one JSON document gets something else, or nothing, also from a mistake.
#[tokio::test]
async fn every_command_prints_one_document_with_json() {
    let tmp = tempfile::tempdir().unwrap();
    let results = tmp.path().display().to_string();
    let dir = folder(tmp.path(), "pool").await;
    let space = root().join("experiments/quickstart.toml").display().to_string();
    let unbudgeted: [&str; 8] = [
        "export",
        &dir,
        "--format",
        "env",
        "--instances",
        "12",
        "--connections",
        "480",
    ];
    let commands: [(&[&str], i32, &str); 17] = [
        (&["report", &dir], 0, "/summary"),
        (&["export", &dir, "--format", "env"], 0, "/content"),
        (&["export", &dir, "--format", "svg"], 0, "/content"),
        (&["export", &dir, "--format", "json"], 0, "/config"),
        (&["compare", &dir, &dir], 0, "/verdict"),
        (&["runs", "--results", &results], 0, "/studies/0/state"),
        (&["schema"], 0, "/properties"),
        (&["schema", "--reference"], 0, "/reference"),
        (&["completions", "bash"], 0, "/completions"),
        (&["man"], 0, "/man"),
        (&["check", "--space", &space], 0, "/plan/restarts"),
        (&["--space", &space, "--dry-run"], 0, "/plan/trials"),
        (&["report", "nowhere"], 64, "/error"),
        (&["man", "laod"], 2, "/error"),
        (&unbudgeted, 2, "/error"),
        (&["check", "--space", "nowhere.toml"], 64, "/error"),
        (&["runs", "--results", "nowhere"], 64, "/error"),
    ];
    for (args, code, pointer) in commands {
        let out = output(
            Command::new(AUTOTUNE)
                .args(args)
                .arg("--json")
                .env_remove("RUST_LOG"),
        );
        let stdout = String::from_utf8_lossy(&out.stdout);
        let document: serde_json::Value =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"));
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stdout}");
        assert!(
            document.pointer(pointer).is_some_and(|v| !v.is_null()),
            "{args:?} has no {pointer}: {stdout}"
        );
        if code != 0 {
            assert_eq!(document["code"].as_i64(), Some(i64::from(code)));
            assert!(!out.stderr.is_empty(), "people are told as well");
        }
    }
}

/// Breaks when a mistake is answered without what to do instead.
#[tokio::test]
async fn mistakes_come_with_a_hint() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), "pool").await;
    let wrong = tmp.path().join("pol").display().to_string();
    let missing = format!("there are {dir}");
    for (args, hint) in [
        (vec!["report", &wrong], missing.as_str()),
        (vec!["serve", &wrong], missing.as_str()),
        (vec!["rport", &dir], "'report'"),
        (vec!["export", &dir, "--format", "enb"], "'env'"),
        (vec!["--spaec", "x.toml"], "'--space'"),
        (vec!["man", "laod"], "did you mean load?"),
        (
            vec![
                "export",
                &dir,
                "--format",
                "env",
                "--instances",
                "12",
                "--connections",
                "480",
            ],
            "this study has no connection budget",
        ),
        (vec![], "autotune --space FILE"),
        (vec!["--space", "x.toml", "--serve", "many"], "a port is a number"),
        (vec!["--space", "x.toml", "--until", "soon"], "no such file"),
    ] {
        let out = output(Command::new(AUTOTUNE).args(&args).env("NO_COLOR", "1"));
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && stderr.contains(hint),
            "{args:?}: {stderr}"
        );
        assert!(
            !stderr.contains('\u{1b}') && out.stdout.is_empty(),
            "{args:?}: {stderr}"
        );
    }
}

/// Breaks when the picture is no XML, or shows something other than the study.
#[tokio::test]
async fn the_picture_is_an_svg_of_its_own() {
    let study = study(Synthetic::default()).await;
    let svg = String::from_utf8(export(&study.summary(), Format::Svg, false).unwrap()).unwrap();
    assert!(
        svg.len() < 60_000 && !svg.contains("<script") && !svg.contains("http://x"),
        "{}",
        svg.len()
    );
    let Some(python) = python_with("ast") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("study.svg");
    std::fs::write(&path, svg).unwrap();
    let script = "import json, sys, xml.etree.ElementTree as t; r = t.parse(sys.argv[1]).getroot(); n = '{http://www.w3.org/2000/svg}'; \
                  print(json.dumps([r.tag == n + 'svg', len(r.findall(n + 'svg')), len(list(r.iter(n + 'circle')))]))";
    let seen = run(&python, script, &path);
    assert_eq!((seen[0].as_bool(), seen[1].as_i64()), (Some(true), Some(2)));
    assert!(seen[2].as_i64().unwrap() > 60, "{seen}");
}

/// Ten told trials, then a confirmation that measures: the figures of other tools and the service's own differ.
const TOLD: &str = r#"
[study]
name = "told"
trials = 3
seed = 5
[sut]
kind = "simulated"
model = "pool-queue capacity=320 noise=0.01 per_pool_size=20"
[parameters.pool_size]
type = "int"
low = 1
high = 32
baseline = BASELINE
env = "POOL_SIZE"
[[load.requests]]
path = "/"
[capacity]
start = 40
max = MAX
confirm = "10s"
warm_up = "2s"
[confirm]
pairs = 4
"#;

/// Tells `rates` for what is asked, confirms, and returns the folder, the confirmation's document, and what was told last.
fn confirmed(
    dir: &std::path::Path,
    baseline: &str,
    max: &str,
    rates: &[&str],
) -> (String, serde_json::Value, i64) {
    let space = dir.join("told.toml");
    std::fs::write(&space, TOLD.replace("BASELINE", baseline).replace("MAX", max)).unwrap();
    let folder = dir.join("told").display().to_string();
    let tool = |args: &[&str]| {
        let out = output(
            Command::new(AUTOTUNE)
                .args(args)
                .args(["--study", &folder])
                .env("AUTOTUNE_SPACE", &space)
                .env_remove("RUST_LOG"),
        );
        assert!(
            matches!(out.status.code(), Some(0 | 3)),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let mut last = 0;
    for rate in rates {
        let asked: serde_json::Value = serde_json::from_str(&tool(&["ask", "--trials", "20"])).unwrap();
        last = asked["config"]["pool_size"].as_i64().unwrap();
        tool(&["tell", "--trial", &asked["trial"].to_string(), "--rate", rate]);
    }
    let end = serde_json::from_str(&tool(&["confirm", "--json"])).unwrap();
    (folder, end, last)
}

/// Breaks when the driver loses the candidate of finals that did not win, so that today's values are exported as its;
/// when what binds is not said after a confirmation; or when a shown loss lies above its own upper bound.
#[test]
fn a_forced_export_of_what_did_not_win_is_the_candidate() {
    let dir = tempfile::tempdir().unwrap();
    // Today's pool carries all there is; what is told to carry more carries no more when it is measured.
    let (folder, end, told) = confirmed(dir.path(), "16", "2000", &["100", "900"]);
    let d = &end["decision"];
    assert!(
        ["no_gain", "worse"].contains(&d["verdict"].as_str().unwrap()),
        "{end}"
    );
    assert_eq!(d["config"]["pool_size"], 16, "{end}");
    assert_eq!(d["candidate"]["pool_size"], told, "{end}");
    assert_ne!(told, 16);
    let out = output(Command::new(AUTOTUNE).args(["export", &folder, "--format", "env", "--force"]));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.ends_with(&format!("\nPOOL_SIZE={told}\n")), "{text}");
    let recommended = std::fs::read_to_string(PathBuf::from(&folder).join("recommended.toml")).unwrap();
    assert!(recommended.contains("\nbinds = \""), "{recommended}");
    let rows = csv_rows(&PathBuf::from(&folder).join("trials.csv"));
    let finals: Vec<_> = rows.iter().filter(|r| r["phase"] == "final").collect();
    assert!(finals.len() >= 4);
    for r in finals {
        let of = |name: &str| r[name].parse::<f64>().unwrap();
        assert!(of("error_ratio") <= of("error_ratio_upper"), "{r:?}");
    }
}

/// Breaks when the driver quotes a winner that reached `[capacity] max` with an upper end.
#[test]
fn a_winner_that_reached_the_maximum_is_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, end, _) = confirmed(dir.path(), "2", "60", &["30", "900"]);
    assert_eq!(end["decision"]["verdict"], "win", "{end}");
    assert_eq!(end["decision"]["at_least"], true, "{end}");
    assert!(
        end["headline"].as_str().unwrap().starts_with("At least +"),
        "{end}"
    );
    let page = std::fs::read_to_string(PathBuf::from(&folder).join("report.html")).unwrap();
    assert!(page.contains("The winner reached [capacity] max (60 rps)"));
}
