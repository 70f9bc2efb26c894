//! Whole studies on the built-in API as a child process: real sockets, a real pool, no Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{AUTOTUNE, csv_rows, output};

/// A study of some seconds: a pool of one connection held for 20 ms carries about 50 rps, one of eight about 400.
fn space_file(dir: &Path, more: &str) -> PathBuf {
    let text = format!(
        r#"
[study]
name = "tiny"
trials = 2
seed = 7

[sut]
kind = "process"
command = ["{AUTOTUNE}", "demo-api"]
url = "http://127.0.0.1:0"
ready = {{ path = "/ready", timeout = "20s" }}

[parameters.pool_size]
type = "int"
low = 1
high = 8
baseline = 1
env = "POOL_SIZE"

[load]
timeout = "2s"
[[load.requests]]
path = "/items/{{id}}"
[load.vars.id]
range = [1, 1000]

[capacity]
start = 40
max = 250
precision = "15%"
confirm = "2s"
warm_up = "1s"

[confirm]
pairs = 2
{more}
"#
    );
    let path = dir.join("tiny.toml");
    fs::write(&path, text).unwrap();
    path
}

fn study(space: &Path, results: &Path) -> Command {
    let mut c = Command::new(AUTOTUNE);
    c.arg("--space")
        .arg(space)
        .arg("--results")
        .arg(results)
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG");
    c
}

#[test]
fn a_study_on_the_demo_api_wins_and_leaves_the_promised_files() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let out = output(&mut study(&space, &dir.path().join("r")));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert_eq!(out.status.code(), Some(0), "{stdout}\n{stderr}");
    let folder = dir.path().join("r/tiny");
    for name in [
        "study.db",
        "trials.csv",
        "probes.csv",
        "recommended.toml",
        "recommended.env",
        "environment.toml",
    ] {
        assert!(folder.join(name).is_file(), "{name} is missing");
    }
    let rows = csv_rows(&folder.join("trials.csv"));
    let finals: Vec<_> = rows.iter().filter(|r| r["phase"] == "final").collect();
    assert!(
        finals.iter().any(|r| r["pool_size"] == "1"),
        "today's configuration is not in the finals"
    );
    assert_eq!(rows[0]["phase"], "baseline");
    assert!(stdout.contains("over today's configuration"), "{stdout}");
}

#[test]
fn sigterm_stops_the_load_keeps_the_results_and_exits_143() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let results = dir.path().join("r");
    let mut child = study(&space, &results)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let csv = results.join("tiny/trials.csv");
    while !(csv.is_file() && csv_rows(&csv).iter().any(|r| r["outcome"] == "measured")) {
        assert!(Instant::now() < deadline, "no first trial in a minute");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    crate::support::run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    let before = csv_rows(&csv);

    // The same command goes on where it stopped: trial 1 is not measured again.
    let out = output(&mut study(&space, &results));
    assert_eq!(
        out.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let after = csv_rows(&csv);
    assert_eq!(after[0], before[0], "a finished trial changed on resume");
    assert_eq!(
        after.iter().filter(|r| r["phase"] == "baseline").count(),
        1,
        "the baseline was measured again"
    );
}

#[test]
fn a_changed_space_is_refused_on_resume_and_fresh_archives() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("r");
    let space = space_file(dir.path(), "");
    assert_eq!(output(&mut study(&space, &results)).status.code(), Some(0));
    let trials = fs::read(results.join("tiny/trials.csv")).unwrap();
    let text = fs::read_to_string(&space)
        .unwrap()
        .replace("high = 8", "high = 9");
    fs::write(&space, text).unwrap();
    let out = output(&mut study(&space, &results));
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(65), "{stderr}");
    assert!(
        stderr.contains("parameters") && stderr.contains("--fresh"),
        "{stderr}"
    );
    // another load and another range: both are named
    let text = fs::read_to_string(&space)
        .unwrap()
        .replace("timeout = \"2s\"", "timeout = \"3s\"");
    fs::write(&space, text).unwrap();
    let out = output(&mut study(&space, &results));
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(65), "{stderr}");
    assert!(
        stderr.contains("[load]") && stderr.contains("[parameters]"),
        "{stderr}"
    );
    assert_eq!(
        fs::read(results.join("tiny/trials.csv")).unwrap(),
        trials,
        "a refused resume must change nothing"
    );
    let out = output(study(&space, &results).args(["--fresh", "--trials", "1"]));
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{stderr}");
    assert!(stderr.contains("tiny.1"), "where the old study is kept: {stderr}");
    assert_eq!(fs::read(results.join("tiny.1/trials.csv")).unwrap(), trials);
    assert_ne!(fs::read(results.join("tiny/trials.csv")).unwrap(), trials);
}

#[test]
fn a_service_that_never_gets_ready_is_a_sentence_and_69() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let text = fs::read_to_string(&space).unwrap().replace(
        "path = \"/ready\", timeout = \"20s\"",
        "path = \"/nowhere\", timeout = \"1s\"",
    );
    fs::write(&space, text).unwrap();
    let out = output(&mut study(&space, &dir.path().join("r")));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("today's configuration"), "{stderr}");
}

/// The file of `space_file` with another command.
fn with_command(dir: &Path, command: &str) -> PathBuf {
    let space = space_file(dir, "");
    let text = fs::read_to_string(&space)
        .unwrap()
        .replace(&format!("[\"{AUTOTUNE}\", \"demo-api\"]"), command);
    fs::write(&space, text).unwrap();
    space
}

/// Fails when a crash at the start is final at once, or is tried again without an end.
#[test]
fn what_crashes_at_its_start_is_started_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("api");
    let starts = dir.path().join("starts");
    fs::write(
        &script,
        format!(
            "echo start >>'{0}'; if [ $(wc -l <'{0}') = \"$1\" ] || [ \"$1\" = 0 ]; then echo not yet >&2; exit 3; fi\nexec '{AUTOTUNE}' demo-api\n",
            starts.display()
        ),
    )
    .unwrap();
    let command = |n: u32| format!("[\"sh\", \"{}\", \"{n}\"]", script.display());

    // The second start, that of the baseline's trial, crashes once; the smoke test's start is the first.
    let space = with_command(dir.path(), &command(2));
    let out = output(study(&space, &dir.path().join("once")).args(["--trials", "1"]));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{said}");
    assert_eq!(said.matches("it is started once more").count(), 1, "{said}");
    let rows = csv_rows(&dir.path().join("once/tiny/trials.csv"));
    assert_eq!(rows[0]["outcome"], "measured");

    // What crashes always is started twice, and the sentence says what to do.
    fs::remove_file(&starts).unwrap();
    let space = with_command(dir.path(), &command(0));
    let out = output(&mut study(&space, &dir.path().join("always")));
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert_eq!(fs::read_to_string(&starts).unwrap().lines().count(), 2, "{said}");
    assert!(
        said.contains("its last line: not yet; it is started once more"),
        "{said}"
    );
    assert!(said.contains("run it by hand with these variables"), "{said}");
}

/// Fails when a run that was refused leaves a journal that a later one would have to resume.
#[test]
fn a_refused_preflight_leaves_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let space = with_command(dir.path(), "[\"/nowhere/api\"]");
    let out = output(&mut study(&space, &dir.path().join("r")));
    assert_ne!(out.status.code(), Some(0));
    assert!(!dir.path().join("r/tiny/study.db").exists());
}

/// Fails when a mistake that ended the first run keeps the corrected file from running, when a study in which something was
/// measured is moved away without being asked, or when `check` says something else than the run that follows.
#[test]
fn a_study_in_which_nothing_was_measured_begins_anew_when_the_file_was_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let results = dir.path().join("r");
    let right = fs::read_to_string(&space).unwrap();
    let check = || {
        let out = output(
            Command::new(AUTOTUNE)
                .args(["check", "--space"])
                .arg(&space)
                .arg("--results")
                .arg(&results),
        );
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
        )
    };
    fs::write(
        &space,
        right.replace("path = \"/items/{id}\"", "path = \"/itemz/{id}\""),
    )
    .unwrap();
    let out = output(&mut study(&space, &results));
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(65), "{said}");
    assert!(
        results.join("tiny/study.db").is_file(),
        "a refused smoke test leaves a journal"
    );

    fs::write(&space, &right).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("nothing was measured") && said.contains("[load]"),
        "{said}"
    );
    assert!(!results.join("tiny.1").exists(), "check moved it");
    let out = output(study(&space, &results).args(["--trials", "1"]));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{said}");
    assert!(
        said.contains("the study begins anew") && said.contains("tiny.1"),
        "{said}"
    );
    assert!(results.join("tiny.1/study.db").is_file());

    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("a run goes on after them"), "{said}");
    fs::write(&space, right.replace("high = 8", "high = 9")).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(65), "{said}");
    assert!(
        said.contains("a run would be refused") && said.contains("[parameters]") && said.contains("--fresh"),
        "{said}"
    );
    let out = output(&mut study(&space, &results));
    assert_eq!(out.status.code(), Some(65));
    assert!(
        !results.join("tiny.2").exists(),
        "a study with trials was moved away"
    );
}

/// A service that is ready, and answers everything else with an error that quotes its database URL; until the test ends.
fn leaky(secret: &str) -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = format!("connection to postgresql://shop:{secret}@db/shop failed");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), body) = (stream, body.clone()) else {
                return;
            };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).unwrap_or(0);
                let (status, body) = match buffer[..n].starts_with(b"GET /ready") {
                    true => ("200 OK", ""),
                    false => ("500 Error", body.as_str()),
                };
                let text = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                drop(stream.write_all(text.as_bytes()));
            });
        }
    });
    port
}

/// Fails when a body of an error brings a password to the terminal, into the JSON or a file.
#[test]
fn an_error_that_quotes_the_database_url_is_shown_without_the_password() {
    const CANARY: &str = "canary-l34ky-pw";
    let dir = tempfile::tempdir().unwrap();
    let port = leaky(CANARY);
    let scripts = "[\"true\"]\nteardown = [\"true\"]\nenv = { DATABASE_URL = \"${LEAKY_URL}\" }";
    let space = with_command(dir.path(), scripts);
    let text = fs::read_to_string(&space)
        .unwrap()
        .replace("kind = \"process\"\ncommand", "kind = \"command\"\ndeploy")
        .replace("http://127.0.0.1:0", &format!("http://127.0.0.1:{port}"));
    fs::write(&space, text).unwrap();
    let out = output(
        study(&space, &dir.path().join("r"))
            .env("LEAKY_URL", format!("postgresql://shop:{CANARY}@db/shop"))
            .arg("--json"),
    );
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(
        said.contains("connection to"),
        "the table shows what was said: {said}"
    );
    assert!(!said.contains(CANARY), "{said}");
    for file in fs::read_dir(dir.path().join("r/tiny")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let found = bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes());
        assert!(!found, "a file holds the password");
    }
}

/// Fails when `check` promises a night that would end at its first write.
#[test]
fn check_looks_whether_the_results_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let taken = dir.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let check = |results: &Path| {
        output(
            Command::new(AUTOTUNE)
                .args(["check", "--space"])
                .arg(&space)
                .arg("--results")
                .arg(results),
        )
    };
    let out = check(&taken.join("results"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(74), "{said}");
    assert!(said.contains("--results DIR"), "{said}");
    let new = dir.path().join("new/results");
    assert_eq!(check(&new).status.code(), Some(0));
    assert!(!dir.path().join("new").exists(), "check made a folder");
}

#[test]
fn a_malformed_space_file_is_65_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(dir.path(), "");
    let text = fs::read_to_string(&space)
        .unwrap()
        .replace("trials = 2", "trails = 2");
    fs::write(&space, text).unwrap();
    let out = output(&mut study(&space, &dir.path().join("r")));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(65), "{stderr}");
    assert!(
        stderr.contains("tiny.toml:4:") && stderr.contains("did you mean"),
        "{stderr}"
    );
    assert!(
        !dir.path().join("r").exists(),
        "a malformed file must touch nothing"
    );
}
