//! The derived files, from a journal to the folder, and what other programs say to them.

use std::path::Path;
use std::process::Command;

use autotune::capacity::{CapacityVerdict, ProbePhase};
use autotune::report::{self, FinalDecision, FinalVerdict, Notes, Page, Summary};
use autotune::results::{self, Study};
use autotune::space::{Binding, Config, Domain, Limit, Parameter, Value};
use autotune::store::{JOURNAL_FILE, Journal, SpaceRecord, Sqlite, kinds};
use autotune::trial::{Failure, Outcome, TrialPhase};

use crate::support::{AUTOTUNE, output};
use crate::synthetic::{Synthetic, int};

/// A made-up study, read back from its journal.
pub async fn study(s: Synthetic) -> Study {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    s.fill(&journal).await;
    Study::read(&journal).await.unwrap()
}

/// Makes the win of a made-up study end otherwise, as the finals journal it: the config to run is today's, the candidate
/// is kept beside it. Returns the candidate.
pub fn not_won(study: &mut Study, verdict: FinalVerdict) -> Config {
    let today = study.summary().baseline;
    let d = study.decision.as_mut().unwrap();
    let candidate = d.candidate.clone().unwrap();
    assert_ne!(candidate, today, "the made-up study has no other candidate");
    (d.verdict, d.config) = (verdict, today);
    candidate
}

fn not_won_again(study: &mut Study) {
    let d = study.decision.as_mut().unwrap();
    (d.verdict, d.at_least, d.gain) = (FinalVerdict::NoGain, false, [0.2, 0.4, 0.6]);
}

fn html(study: &Study) -> String {
    String::from_utf8(report::report_html(&study.summary(), Page::File)).unwrap()
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
        let candidate = not_won(&mut study, verdict);
        study.decision.as_mut().unwrap().gain = [-0.02, 0.004, 0.027];
        results::write_all(tmp.path(), &report::files(&study.summary()).unwrap()).unwrap();
        assert!(
            !there("recommended.env") && !there("docker-compose.recommended.yml"),
            "{verdict:?}"
        );
        let file: toml::Table =
            toml::from_str(&text(std::fs::read(tmp.path().join("recommended.toml")).ok())).unwrap();
        assert_eq!(file["verdict"].as_str(), Some(verdict.name()));
        assert_eq!(file["config"], file["today"], "keep today's");
        let pool = file["candidate"]["pool_size"].as_integer().map(Value::Int);
        assert_eq!(pool.as_ref(), candidate.get("pool_size"), "what `gain` speaks of");
        assert!(
            file["summary"]
                .as_str()
                .unwrap()
                .contains("keep today's configuration")
        );
    }
    // Faster in every round and yet no win: the reader is told why.
    not_won_again(&mut study);
    let said = study.summary().headline();
    assert!(
        said.contains("unstable") && !said.contains("would have been seen"),
        "{said}"
    );
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
        candidate: Some(config.clone()),
        config,
        at_least: false,
        gain: [1.28, 1.43, 1.57],
        pairs: 8,
        minimum_detectable_gain: 0.03,
        baseline_rps: 170.0,
        winner_rps: 413.0,
        void: None,
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
    not_won(&mut study, FinalVerdict::NoGain);
    assert!(noise(&study));
    let d = study.decision.as_mut().unwrap();
    (d.verdict, d.gain, d.pairs) = (FinalVerdict::Undecided, [0.0; 3], 1);
    assert_eq!(
        study.summary().headline(),
        "Undecided: keep today's configuration; too few rounds of the finals were finished to compare anything. To decide it: \
         autotune confirm --space FILE --study DIR"
    );
    // Where the study knows from where it ran, the command can be pasted.
    let known = &mut study.notes.environment;
    known.insert("space_file".to_owned(), "my space.toml".to_owned());
    known.insert("study_folder".to_owned(), "results/pool".to_owned());
    let command = "autotune confirm --space 'my space.toml' --study results/pool";
    assert_eq!(study.summary().confirm_command().as_deref(), Some(command));
    assert!(
        study
            .summary()
            .headline()
            .ends_with(&format!("To decide it: {command}"))
    );
    // A side that could not be measured is named in the first sentence.
    study.decision.as_mut().unwrap().void =
        Some("the candidate could not be measured in 2 of 2 rounds: send lag".to_owned());
    let headline = study.summary().headline();
    assert!(
        headline
            .contains("; the candidate could not be measured in 2 of 2 rounds: send lag. To decide it, once"),
        "{headline}"
    );
    study
        .notes
        .environment
        .insert("worker".to_owned(), "a".to_owned());
    assert_eq!(
        study.summary().confirm_command(),
        None,
        "a shared study is not confirmed from its copy"
    );
    study.decision = None;
    assert!(study.summary().headline().starts_with("Not confirmed yet"));
}

/// Breaks when a study that did not win shows today's values as its candidate's, or a rate beside another config's interval.
#[tokio::test]
async fn the_candidate_that_did_not_win_is_the_one_that_is_shown() {
    let mut study = study(Synthetic::default()).await;
    let parameters = &mut study.space.parameters;
    let candidate = study.decision.as_ref().unwrap().config.clone();
    let top = candidate.get("pool_size").unwrap().as_f64().unwrap();
    parameters[0].domain = int(1, top as i64); // so that it lies at an edge
    for verdict in [FinalVerdict::NoGain, FinalVerdict::Undecided, FinalVerdict::Worse] {
        let mut s = study.clone();
        assert_eq!(not_won(&mut s, verdict), candidate);
        let summary = s.summary();
        assert_eq!(summary.other(), Some(&candidate));
        assert_eq!(summary.recommended(), Some(&summary.baseline));
        let page = html(&s);
        let (_, configs) = page.split_once("<section id=configs>").unwrap();
        let (configs, _) = configs.split_once("</section>").unwrap();
        assert!(configs.contains("best candidate (not recommended)"), "{configs}");
        let row = format!("<td class=n>5<td class=n>{top}</tr>");
        assert!(configs.contains(&row), "{row} is not in {configs}");
        let [lo, hi] = summary.sample(&candidate).unwrap().interval_rps.unwrap();
        let (_, card) = page.split_once("<span>best candidate</span>").unwrap();
        let (card, _) = card.split_once("</div>").unwrap();
        assert!(
            card.ends_with(&format!("<small>{lo:.0} to {hi:.0}</small>")),
            "{card}"
        );
        let warned = report::warnings(&summary)
            .iter()
            .any(|w| w.starts_with("The best candidate is at the upper edge of pool_size"));
        assert_eq!(warned, verdict != FinalVerdict::Worse, "{verdict:?}");
    }
    // A journal of an older version has no candidate: nothing is made up for it.
    let mut old = study.clone();
    not_won(&mut old, FinalVerdict::NoGain);
    old.decision.as_mut().unwrap().candidate = None;
    assert!(html(&old).contains("best of the search (not recommended)"));
    let (_, card) = html(&old)
        .split_once("<span>best candidate</span>")
        .map(|(a, b)| (a.len(), b.to_owned()))
        .unwrap();
    assert!(
        !card.split("</div>").next().unwrap().contains("<small>"),
        "{card}"
    );
}

/// A service that carries 300 rps, whatever is tuned.
const FROZEN: &str = r#"
[study]
name = "frozen"
trials = 40
seed = 5
[sut]
kind = "simulated"
model = "hard-limit capacity=300 noise=0.01"
[parameters.sleepy]
type = "int"
low = 1
high = 40
baseline = 10
[load]
requests = [{ path = "/" }]
[capacity]
start = 100
max = 2000
confirm = "10s"
"#;

/// Breaks when a study that ended without finals reads as unfinished, names a file that is not there, or leaves no
/// recommended.toml.
#[test]
fn a_study_that_ends_without_finals_says_keep_and_leaves_what_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("frozen.toml");
    std::fs::write(&file, FROZEN).unwrap();
    let results = dir.path().join("results");
    let run = |json: &[&str]| {
        output(
            Command::new(AUTOTUNE)
                .arg("--space")
                .arg(&file)
                .arg("--results")
                .arg(&results)
                .args(json)
                .env("NO_COLOR", "1"),
        )
    };
    let out = run(&[]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    let headline = "Keep today's configuration: nothing that is tuned changes anything; ";
    assert!(
        said.contains(headline) && !said.contains("Not confirmed"),
        "{said}"
    );
    let named: Vec<&str> = said
        .lines()
        .filter_map(|l| l.strip_prefix("Evidence: ").or(l.strip_prefix("To use it: ")))
        .flat_map(|l| l.split(", "))
        .collect();
    assert_eq!(named.len(), 3, "{said}");
    for path in named {
        assert!(Path::new(path).is_file(), "{path} is named and not there");
    }
    let folder = results.join("frozen");
    let toml: toml::Table =
        toml::from_str(&std::fs::read_to_string(folder.join("recommended.toml")).unwrap()).unwrap();
    assert_eq!(toml["verdict"].as_str(), Some("no_gain"));
    assert_eq!(toml["config"], toml["today"]);
    assert_eq!(toml["config"]["sleepy"].as_integer(), Some(10));
    assert_eq!(
        toml["reason"].as_str(),
        Some("nothing that is tuned changes anything")
    );
    assert!(!toml["binds"].as_str().unwrap().is_empty());
    let evidence = toml["evidence"].as_table().unwrap();
    let rate = evidence["rate_rps"].as_float().unwrap();
    assert!((240.0..360.0).contains(&rate), "{rate}");
    assert!(!evidence.contains_key("gain"), "nothing was compared");
    assert!(!folder.join("recommended.env").exists());
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("<header class=keep>") && page.contains("<h1>Keep today's"));
    assert!(
        !page.contains("is not confirmed") && !page.contains("upper edge of"),
        "nothing is to come"
    );
    let out = output(Command::new(AUTOTUNE).args(["runs", "--results"]).arg(&results));
    assert!(
        String::from_utf8_lossy(&out.stdout).contains("no_gain"),
        "{out:?}"
    );
    // The same command finds the same end, and says the same to a script.
    let out = run(&["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (out.status.code(), json["verdict"].as_str()),
        (Some(3), Some("no_gain"))
    );
    assert!(json["headline"].as_str().unwrap().starts_with(headline), "{json}");
}

/// Breaks when an end without finals outlives the trial that follows it, or a bound is quoted as a rate.
#[tokio::test]
async fn an_end_without_finals_holds_until_the_next_trial() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    let made_up = Synthetic {
        trials: 2,
        pairs: 0,
        ..Synthetic::default()
    };
    made_up.fill(&journal).await;
    let why = serde_json::json!({ "why": "nothing that is tuned changes anything", "after_trial": 2 });
    journal.log(kinds::NO_FINALS, &why).await.unwrap();
    let mut ended = Study::read(&journal).await.unwrap();
    assert_eq!(ended.summary().verdict_name(), "no_gain");
    ended.notes.binds =
        Some("rate limiter binds: 429, 100 %; nothing tuned here will help [D09 rate_limiter, high]".into());
    assert_eq!(
        ended.summary().headline(),
        "Keep today's configuration: nothing that is tuned changes anything; rate limiter binds: 429, 100 %."
    );
    made_up.one_more(&journal).await;
    let mut on = Study::read(&journal).await.unwrap();
    assert_eq!(on.summary().verdict_name(), "not_confirmed");
    assert!(html(&on).contains("Not judged yet: that is said at the end of a run."));
    for t in &mut on.trials {
        if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
            capacity.verdict = CapacityVerdict::GeneratorLimited;
        }
    }
    let headline = on.summary().headline();
    assert!(
        headline.starts_with("Not confirmed yet: the best trial so far carried at least "),
        "{headline}"
    );
}

/// Breaks when a lost race is given the figures of its idle check.
#[tokio::test]
async fn a_lost_race_has_a_bound_and_no_figures() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let lost = study
        .trials
        .iter_mut()
        .find(|t| t.phase == TrialPhase::Search && t.capacity().is_some())
        .unwrap();
    let number = lost.number;
    lost.probes.retain(|p| p.phase == ProbePhase::Idle);
    if let Some(Outcome::Measured { capacity }) = &mut lost.outcome {
        capacity.verdict = CapacityVerdict::AtMost;
        (capacity.sustainable_rps, capacity.confirmed_by) = (None, None);
        (capacity.goodput_rps, capacity.error_ratio_upper) = (0.0, 1.0);
        capacity.interval_rps = [10.0, 77.0];
    }
    let (head, rows) = table(&report::trials_csv(&study.summary()).unwrap());
    let row = rows.iter().find(|r| r[0] == number.to_string()).unwrap();
    let cell = |name: &str| row[head.iter().position(|h| h == name).unwrap()].as_str();
    assert_eq!((cell("offered_rps"), cell("verdict")), ("77", "at_most"));
    for name in [
        "goodput_rps",
        "error_ratio",
        "error_ratio_upper",
        "latency_ms_p50",
        "latency_ms_p99",
        "cpu_used",
        "throttled_ratio",
    ] {
        assert_eq!(cell(name), "", "{name}");
    }
}

/// Breaks when a winner at `[capacity] max` is quoted with an upper end, or nobody is told to raise it.
#[tokio::test]
async fn a_winner_at_the_maximum_has_an_open_end() {
    let mut study = study(Synthetic::default()).await;
    let d = study.decision.as_mut().unwrap();
    (d.at_least, d.gain, d.winner_rps) = (true, [7.9, 8.57, 9.3], 2_000.0);
    let winner = d.config.clone();
    for t in study
        .trials
        .iter_mut()
        .filter(|t| t.round.is_some() && t.config == winner)
    {
        if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
            capacity.verdict = CapacityVerdict::AtLeast;
        }
    }
    let s = study.summary();
    assert!(
        s.headline().starts_with(
            "At least +857 % over today's configuration (95 % interval from +790 %, open above, 8 pairs): "
        ),
        "{}",
        s.headline()
    );
    let warned =
        "The winner reached [capacity] max (2000 rps): its rate and the gain are at least this; raise it";
    assert!(
        report::warnings(&s).iter().any(|w| w.starts_with(warned)),
        "{:?}",
        report::warnings(&s)
    );
    let file: toml::Table = toml::from_str(&text(report::recommended_toml(&s).ok())).unwrap();
    for interval in ["gain_interval", "rate_interval_rps"] {
        let ends = file["evidence"][interval].as_array().unwrap();
        assert_eq!(ends[1].as_float(), Some(f64::INFINITY), "{interval}");
    }
    let page = html(&study);
    for mark in [
        "<b>≥ 2000</b> rps",
        "<b>≥ +857 %</b><small>+790 % or more (8 pairs)</small>",
        " or more<td class=n>8",
    ] {
        assert!(page.contains(mark), "{mark}");
    }
    let env = text(Some(report::recommended_env(&s)));
    assert!(env.contains("recommended at least 2000 rps."), "{env}");
    // A win without a ratio: today's configuration carried nothing.
    let d = study.decision.as_mut().unwrap();
    (d.at_least, d.gain, d.pairs, d.baseline_rps) = (false, [0.0; 3], 0, 0.0);
    let headline = study.summary().headline();
    assert!(
        headline.starts_with("Today's configuration carried nothing when it was measured again"),
        "{headline}"
    );
}

/// Breaks when two measurements are called a drift, or the noise is; or when a real one is passed over.
#[tokio::test]
async fn a_drift_is_more_than_a_pair_and_more_than_the_noise() {
    let quiet = study(Synthetic::default()).await; // five anchors, rates of the finals within 3 %
    let drifted = |study: &Study| {
        report::warnings(&study.summary())
            .iter()
            .any(|w| w.contains("drifted"))
    };
    assert!(!drifted(&quiet));
    let mut moved = quiet.clone();
    let mut anchors = 0;
    for t in moved
        .trials
        .iter_mut()
        .filter(|t| matches!(t.phase, TrialPhase::Baseline | TrialPhase::Anchor))
    {
        if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
            let rate = 100.0 + 12.0 * f64::from(anchors);
            capacity.sustainable_rps = Some(rate);
            anchors += 1;
        }
    }
    assert!(anchors >= 3 && drifted(&moved));
    let mut pair = moved.clone();
    let mut seen = 0;
    pair.trials.retain(|t| {
        let anchor = matches!(t.phase, TrialPhase::Baseline | TrialPhase::Anchor);
        seen += u32::from(anchor);
        !anchor || seen <= 2
    });
    assert!(!drifted(&pair), "two measurements in a row differ by 12 %");
    let mut loud = moved.clone();
    for t in loud
        .trials
        .iter_mut()
        .filter(|t| t.round.is_some_and(|n| n % 2 == 0))
    {
        if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
            capacity.sustainable_rps = capacity.sustainable_rps.map(|x| x * 0.6);
        }
    }
    assert!(!drifted(&loud), "the rounds of the finals scatter as much");
    moved
        .notes
        .warnings
        .push("drift: today's configuration, measured 5 times, changes by +9.1 % an hour".into());
    assert!(!drifted(&moved), "said once");
}

/// Breaks when several instances are written into an override without what compose needs for them.
#[tokio::test]
async fn several_instances_are_written_with_what_they_need() {
    let mut study = study(Synthetic {
        trials: 20,
        ..Synthetic::default()
    })
    .await;
    let warned = |s: &Study| {
        report::warnings(&s.summary())
            .iter()
            .any(|w| w.contains("already allocated"))
    };
    let needs =
        "    # 3 instances: needs a port range or no published port, and a balancer in front\n    scale: 3\n";
    let written = |s: &Study| text(report::compose_override(&s.summary()));
    assert!(!warned(&study));
    awkward(&mut study);
    assert!(
        warned(&study) && written(&study).contains(needs),
        "{}",
        written(&study)
    );
    study
        .decision
        .as_mut()
        .unwrap()
        .config
        .set("instances", Value::Int(1));
    assert!(!warned(&study) && !written(&study).contains("balancer"));
}
