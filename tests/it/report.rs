//! The derived files, from a journal to the folder, and what other programs say to them.

use std::path::Path;
use std::process::Command;

use autotune::report::{self, FinalDecision, FinalVerdict, Notes, Summary};
use autotune::results::{self, Study};
use autotune::space::{Binding, Domain, Limit, Parameter, Value};
use autotune::store::{JOURNAL_FILE, SpaceRecord, Sqlite};
use autotune::trial::{Failure, Outcome, TrialPhase};

use crate::synthetic::{Synthetic, int};

/// A made-up study, read back from its journal.
pub async fn study(s: Synthetic) -> Study {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    s.fill(&journal).await;
    Study::read(&journal).await.unwrap()
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8(bytes.unwrap()).unwrap()
}

fn table(bytes: &[u8]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut r = csv::Reader::from_reader(bytes);
    let head = r.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = r
        .records()
        .map(|r| r.unwrap().iter().map(str::to_owned).collect())
        .collect();
    (head, rows)
}

/// Breaks when a documented column is renamed, moved or lost, or a row is.
#[tokio::test]
async fn the_tables_have_the_documented_columns_and_every_row() {
    let study = study(Synthetic {
        trials: 40,
        ..Synthetic::default()
    })
    .await;
    let s = study.summary();
    let (head, rows) = table(&report::trials_csv(&s).unwrap());
    let documented = "trial,phase,outcome,reason,pool_size,max_overflow,cpus,memory,cache,offered_rps,goodput_rps,error_ratio,\
         error_ratio_upper,latency_ms_p50,latency_ms_p95,latency_ms_p99,cost,cpu_used,throttled_ratio,memory_peak_mb,\
         db_connections_peak,binding_constraint,verdict,seconds,started_at";
    assert!(head.join(",").starts_with(documented), "{head:?}");
    assert_eq!(rows.len(), study.trials.len());
    for (row, t) in rows.iter().zip(&study.trials) {
        let outcome = match &t.outcome {
            Some(Outcome::Measured { .. }) => "measured",
            Some(Outcome::Failed { .. }) => "failed",
            Some(Outcome::Infrastructure { .. }) => "infrastructure",
            _ => "other",
        };
        assert_eq!(row[2], outcome);
        let rate = head.iter().position(|h| h == "offered_rps").unwrap();
        assert_eq!(row[rate].is_empty(), outcome != "measured", "{row:?}");
        assert_eq!(
            row[4].parse::<i64>().ok().map(Value::Int).as_ref(),
            t.config.get("pool_size")
        );
    }
    for outcome in ["measured", "failed", "infrastructure"] {
        assert!(
            rows.iter().any(|r| r[2] == outcome),
            "the made-up study has no {outcome} trial"
        );
    }
    let (head, rows) = table(&report::probes_csv(&s).unwrap());
    assert_eq!(
        rows.len(),
        study.trials.iter().map(|t| t.probes.len()).sum::<usize>()
    );
    let documented = "trial,probe,phase,offered_rps,achieved_rps,goodput_rps,sent,good,unexpected_status,";
    assert!(head.join(",").starts_with(documented), "{head:?}");
    for c in [
        "pool_timeout",
        "in_flight_end",
        "latency_ms_p999",
        "send_lag_ms_p99",
        "verdict",
        "reason",
    ] {
        assert!(head.iter().any(|h| h == c), "{c}");
    }
}

/// Breaks when anything but a win leaves a config to deploy in the folder, an old one included.
#[tokio::test]
async fn only_a_win_leaves_something_to_deploy() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    Synthetic {
        trials: 20,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    results::write(&journal, tmp.path()).await.unwrap();
    let there = |name: &str| tmp.path().join(name).exists();
    assert!(there("recommended.env") && there("docker-compose.recommended.yml") && there("recommended.toml"));
    let mut study = Study::read(&journal).await.unwrap();
    for verdict in [FinalVerdict::NoGain, FinalVerdict::Worse, FinalVerdict::Undecided] {
        let d = study.decision.as_mut().unwrap();
        d.verdict = verdict;
        d.gain = [-0.02, 0.004, 0.027];
        results::write_all(tmp.path(), &report::files(&study.summary()).unwrap()).unwrap();
        assert!(
            !there("recommended.env") && !there("docker-compose.recommended.yml"),
            "{verdict:?}"
        );
        let file: toml::Table =
            toml::from_str(&text(std::fs::read(tmp.path().join("recommended.toml")).ok())).unwrap();
        assert_eq!(file["verdict"].as_str(), Some(verdict.name()));
        assert_eq!(file["config"], file["today"], "keep today's");
        assert!(
            file["summary"]
                .as_str()
                .unwrap()
                .contains("keep today's configuration")
        );
    }
    study.decision = None;
    results::write_all(tmp.path(), &report::files(&study.summary()).unwrap()).unwrap();
    assert!(!there("recommended.toml"), "nothing decided, nothing recommended");
    assert!(there("trials.csv") && there(JOURNAL_FILE));
}

/// Breaks when evidence is missing from a file that is carried to production, or an untuned thing is in it.
#[tokio::test]
async fn the_recommendation_carries_its_evidence() {
    let study = study(Synthetic::default()).await;
    let s = study.summary();
    let d = study.decision.clone().unwrap();
    let file: toml::Table = toml::from_str(&text(report::recommended_toml(&s).ok())).unwrap();
    assert_eq!(file["verdict"].as_str(), Some("win"));
    assert_eq!(
        file["config"]["pool_size"].as_integer().map(Value::Int).as_ref(),
        d.config.get("pool_size")
    );
    let e = file["evidence"].as_table().unwrap();
    let f = |k: &str| e[k].as_float().unwrap();
    assert!(
        (f("rate_rps") - d.winner_rps).abs() < 0.001 && (f("baseline_rps") - d.baseline_rps).abs() < 0.001
    );
    assert!((f("gain") - d.gain[1]).abs() < 0.001);
    assert_eq!(
        (e["pairs"].as_integer(), e["seed"].as_integer()),
        (Some(8), Some(7))
    );
    assert_eq!(
        (e["image"].as_str(), e["host"].as_str()),
        (Some("sha256:2c9fbb1f4f0a"), Some("bench-1"))
    );
    let interval = e["rate_interval_rps"].as_array().unwrap();
    let (lo, hi) = (interval[0].as_float().unwrap(), interval[1].as_float().unwrap());
    assert!(lo < f("rate_rps") && f("rate_rps") < hi, "{lo} {hi}");
    assert!(file["binds"].as_str().unwrap().starts_with("CPU quota"));

    let env = text(Some(report::recommended_env(&s)));
    let lines: Vec<&str> = env.lines().filter(|l| !l.starts_with('#')).collect();
    let keys: Vec<&str> = lines.iter().map(|l| l.split('=').next().unwrap()).collect();
    assert_eq!(
        keys,
        ["POOL_SIZE", "MAX_OVERFLOW", "CACHE"],
        "tuned variables alone"
    );
    assert!(env.contains("95 % interval") && env.contains("Seed 7") && env.contains("# limit: cpus"));
    let environment: toml::Table = toml::from_str(&text(report::environment_toml(&s).ok())).unwrap();
    assert_eq!(environment["environment"]["kernel"].as_str(), Some("6.1.0"));
    assert_eq!(environment["space_hash"].as_str(), Some("9f2c41d0aa"));
}

/// Everything that a compose override can hold, with texts that YAML and compose would take for something else.
fn awkward(study: &mut Study) {
    let p = |name: &str, domain, baseline, binding| Parameter {
        name: name.into(),
        domain,
        baseline,
        binding,
        only_if: None,
    };
    let hostile = Value::Text("a: \"$HOME\" #{x}\n<b>'\\".into());
    let choice = Domain::Choice {
        values: vec![hostile.clone(), Value::Text("yes".into())],
    };
    study.space.parameters.extend([
        p(
            "flag",
            choice,
            Value::Text("yes".into()),
            Binding::Env("FLAG".into()),
        ),
        p("instances", int(1, 4), Value::Int(1), Binding::Replicas),
        p(
            "reserve",
            int(64, 512),
            Value::Int(64),
            Binding::Limit(Limit::MemoryReservation),
        ),
        p(
            "share",
            int(1, 4),
            Value::Int(1),
            Binding::Limit(Limit::CpuReservation),
        ),
    ]);
    let d = study.decision.as_mut().unwrap();
    for (name, v) in [
        ("flag", hostile),
        ("instances", Value::Int(3)),
        ("reserve", Value::Int(128)),
        ("share", Value::Int(1)),
    ] {
        d.config.set(name, v);
    }
    d.config.set("cpus", Value::Float(1.5));
    d.config.set("memory", Value::Int(768));
    study.meta.space = SpaceRecord::of(&study.space);
}

fn compose_config(dir: &Path, base: &str) -> Option<serde_json::Value> {
    std::fs::write(dir.join("docker-compose.yml"), base).unwrap();
    let out = Command::new("docker")
        .args([
            "compose",
            "-f",
            "docker-compose.yml",
            "-f",
            "docker-compose.recommended.yml",
            "config",
        ])
        .args(["--format", "json"])
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent-home")
        .output()
        .ok()?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    if error.contains("is not a docker command") || error.contains("unknown shorthand flag") {
        return None;
    }
    assert!(out.status.success(), "{error}");
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

/// Breaks when compose refuses the override beside either form of limits, or reads another value than ours.
#[tokio::test]
async fn docker_compose_accepts_the_override() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    awkward(&mut study);
    let tmp = tempfile::tempdir().unwrap();
    let files = report::files(&study.summary()).unwrap();
    results::write_all(tmp.path(), &files).unwrap();
    let bases = [
        "services: { api: { image: x, environment: { POOL_SIZE: 5, KEEP: me } } }",
        "services: { api: { image: x, cpus: 2.0, mem_limit: 1g, mem_reservation: 32m, scale: 1, environment: [POOL_SIZE=5, KEEP=me] } }",
        "services: { api: { image: x, environment: { KEEP: me }, deploy: { replicas: 1, resources: { limits: { cpus: '2', memory: 1G }, \
         reservations: { cpus: '0.5', memory: 32M } } } } }",
    ];
    for base in bases {
        let Some(config) = compose_config(tmp.path(), base) else {
            eprintln!("skipped: docker compose is not installed");
            return;
        };
        let api = &config["services"]["api"];
        let env = &api["environment"];
        assert_eq!(
            env["FLAG"].as_str(),
            Some("a: \"$$HOME\" #{x}\n<b>'\\"),
            "compose prints $ doubled"
        );
        assert_eq!(env["KEEP"].as_str(), Some("me"), "what is not tuned stays");
        let pool = study
            .decision
            .as_ref()
            .unwrap()
            .config
            .get("pool_size")
            .unwrap()
            .to_string();
        assert_eq!(env["POOL_SIZE"].as_str(), Some(pool.as_str()));
        let limits = &api["deploy"]["resources"]["limits"];
        assert_eq!(
            limits["cpus"]
                .to_string()
                .trim_matches('"')
                .parse::<f64>()
                .unwrap(),
            1.5
        );
        assert_eq!(
            limits["memory"].as_str(),
            Some((768_u64 << 20).to_string().as_str())
        );
        assert_eq!(
            api["memswap_limit"].as_str(),
            Some((768_u64 << 20).to_string().as_str())
        );
        assert_eq!(api["deploy"]["replicas"].as_i64(), Some(3));
    }
}

/// Text as an attacker would have it, wherever text comes from outside.
pub fn poison(study: &mut Study) {
    let bad = "=HYPERLINK(\"http://x\")</script><script>alert(1)</script><img src=x onerror=alert(2)>\u{202e}\u{0}\r\n\"'`${x}";
    study.meta.name = bad.into();
    study.meta.identity = bad.into();
    study.meta.about.requests = vec![bad.into()];
    study.notes = Notes {
        binds: Some(bad.into()),
        warnings: vec![bad.into()],
        ..study.notes.clone()
    };
    study.notes.environment.insert(bad.into(), bad.into());
    for p in &mut study.space.parameters {
        if p.name == "cache" {
            p.name = bad.into();
            p.domain = Domain::Choice {
                values: vec![Value::Text(bad.into()), Value::Text("off".into())],
            };
        }
    }
    for t in &mut study.trials {
        t.host = bad.into();
        t.config.remove("cache");
        t.config.set(bad, Value::Text(bad.into()));
        t.binding = Some(bad.into());
        if t.phase == TrialPhase::Search {
            t.outcome = Some(Outcome::Failed {
                failure: Failure::Crash,
                detail: bad.repeat(500),
            });
        }
        for p in &mut t.probes {
            p.reason = bad.into();
        }
    }
}

/// Breaks when a text from outside begins a formula, a line or a comment's end in a file.
#[tokio::test]
async fn hostile_text_stays_text_in_the_files() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    poison(&mut study);
    let s: Summary<'_> = study.summary();
    for csv in [report::trials_csv(&s).unwrap(), report::probes_csv(&s).unwrap()] {
        let (head, rows) = table(&csv);
        for cell in head.iter().chain(rows.iter().flatten()) {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell}");
            assert!(
                cell.chars().count() < 500 && !cell.contains(['\u{0}', '\n', '\u{202e}']),
                "{cell}"
            );
        }
    }
    let header = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    for file in [report::recommended_env(&s), report::compose_override(&s).unwrap()].map(header) {
        assert!(!file.contains(['\u{0}', '\r', '\u{202e}']));
        assert!(
            file.lines().all(|l| !l.starts_with('=') && !l.starts_with('<')),
            "{file}"
        );
    }
    let _: toml::Table = toml::from_str(&text(report::recommended_toml(&s).ok())).unwrap();
    let _: toml::Table = toml::from_str(&text(report::environment_toml(&s).ok())).unwrap();
}

/// Breaks when the sentence that people read first misstates the decision.
#[tokio::test]
async fn the_headline_says_what_was_decided() {
    let mut study = study(Synthetic {
        trials: 20,
        pairs: 2,
        ..Synthetic::default()
    })
    .await;
    let mut config = study.summary().baseline;
    config.set("pool_size", Value::Int(24));
    study.decision = Some(FinalDecision {
        verdict: FinalVerdict::Win,
        config,
        gain: [1.28, 1.43, 1.57],
        pairs: 8,
        minimum_detectable_gain: 0.03,
        baseline_rps: 170.0,
        winner_rps: 413.0,
        words: String::new(),
    });
    assert_eq!(
        study.summary().headline(),
        "+143 % over today's configuration (95 % interval +128 to +157 %, 8 pairs): raise pool_size 5 → 24, \
         keep max_overflow 10, cpus 1, memory 512, cache off."
    );
    let noise = |s: &Study| report::warnings(&s.summary()).iter().any(|w| w.contains("noise"));
    study.decision.as_mut().unwrap().minimum_detectable_gain = 0.5;
    assert!(!noise(&study), "a gain that was found is above the noise");
    let d = study.decision.as_mut().unwrap();
    d.verdict = FinalVerdict::NoGain;
    assert!(noise(&study));
    let d = study.decision.as_mut().unwrap();
    (d.verdict, d.gain, d.pairs) = (FinalVerdict::Undecided, [0.0; 3], 1);
    assert_eq!(
        study.summary().headline(),
        "Undecided: keep today's configuration; too few rounds of the finals were finished to compare anything."
    );
    study.decision = None;
    assert!(study.summary().headline().starts_with("Not confirmed yet"));
}
