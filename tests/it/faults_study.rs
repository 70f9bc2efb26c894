//! Whole runs of the tool itself against the fake engine, with a fault at every numbered side effect: each Docker call
//! and each write to the journal fails, or is the last thing that the tool does. Afterwards I1 to I5 of docs/faults.md
//! hold, and the same command ends the study.
//!
//! `make test` takes a sample of the numbers; with AUTOTUNE_TEST_SOAK set (`make soak`) every one is taken.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use autotune::store::{Journal, Sqlite};
use autotune::trial::{Outcome, Trial};
use serde_json::json;

use crate::docker_kit::CANARY;
use crate::fake_engine::{FakeEngine, Fault};
use crate::support::{AUTOTUNE, csv_rows, files_with};

/// A run that takes longer hangs.
const HANG: Duration = Duration::from_secs(240);
/// Within this the container must be back.
const BACK: Duration = Duration::from_secs(30);

/// A study of a few seconds: today's configuration carries the most that is asked, so little is left to search.
pub const SPACE: &str = r#"
[study]
name = "night"
trials = 1
seed = 3

[sut]
kind = "docker"
container = "web"
url = "http://127.0.0.1:PORT"
ready = { path = "/", timeout = "20s" }

[parameters.pool_size]
type = "int"
low = 1
high = 8
baseline = 1
env = "POOL_SIZE"

[load]
timeout = "5s"
[[load.requests]]
path = "/"

[slo]
errors = "20%"

[capacity]
start = 10
max = 10
precision = "40%"
confirm = "1s"
warm_up = "1s"

[confirm]
pairs = 2
"#;

/// Whether every number is taken.
fn soak() -> bool {
    std::env::var_os("AUTOTUNE_TEST_SOAK").is_some()
}

/// A fake engine with the user's container, and a place for results.
struct Field {
    fake: FakeEngine,
    id: String,
    home: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        let fake = FakeEngine::start();
        let id = fake.add("web", json!({}), true);
        Self::with(fake, id)
    }

    /// For kills by number. In a soak the study searches and confirms too, so that side effects of all phases come by, more
    /// than two hundred: every other one is taken.
    fn to_be_killed() -> Self {
        let field = Self::new();
        if soak() {
            let file = field.home.path().join("night.toml");
            let space = std::fs::read_to_string(&file).unwrap();
            let longer = space
                .replace("trials = 1\n", "trials = 3\n")
                .replace("pairs = 2\n", "pairs = 1\n");
            assert_eq!(
                longer.matches("trials = 3\n").count() + longer.matches("pairs = 1\n").count(),
                2
            );
            std::fs::write(&file, longer).unwrap();
        }
        field
    }

    fn with(fake: FakeEngine, id: String) -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = fake.container(&id).unwrap().port().unwrap();
        let space = SPACE.replace("PORT", &port.to_string());
        std::fs::write(home.path().join("night.toml"), space).unwrap();
        Self { fake, id, home }
    }

    fn results(&self) -> PathBuf {
        self.home.path().join("results")
    }

    fn folder(&self) -> PathBuf {
        self.results().join("night")
    }

    fn tool(&self) -> tokio::process::Command {
        let mut c = tokio::process::Command::new(AUTOTUNE);
        c.arg("--space")
            .arg(self.home.path().join("night.toml"))
            .arg("--results")
            .arg(self.results())
            .env("DOCKER_HOST", &self.fake.host)
            .env("RUST_LOG", "trace")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        c
    }

    /// I1 and I2 within the time allowed, and the guardian gone; how long it took.
    async fn given_back(&self, when: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let wrong = self.fake.violation(&self.id, "web", true);
            let free = is_free(&self.folder());
            if wrong.is_none() && free {
                return begun.elapsed();
            }
            if begun.elapsed() > BACK {
                let log = std::fs::read_to_string(self.folder().join("guardian.log")).unwrap_or_default();
                panic!(
                    "{when}: {wrong:?}, lock free: {free}\n{log}\n{:?}",
                    self.fake.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn trials(&self) -> Vec<Trial> {
        match Sqlite::open_read_only(&self.folder()).await {
            Ok(journal) => journal.trials().await.unwrap(),
            Err(_) => Vec::new(),
        }
    }

    /// I4: nothing secret on disk or on the terminal; files of our own for nobody else.
    fn assert_discreet(&self, out: &Output, when: &str) {
        use std::os::unix::fs::PermissionsExt;
        let printed = words(out);
        assert!(!printed.contains(CANARY), "{when}: printed\n{printed}");
        assert_eq!(
            files_with(self.home.path(), CANARY),
            Vec::<PathBuf>::new(),
            "{when}"
        );
        let Ok(entries) = std::fs::read_dir(self.folder()) else {
            return;
        };
        let mode = |p: &Path| std::fs::metadata(p).map(|m| m.permissions().mode() & 0o777);
        assert_eq!(mode(&self.folder()).unwrap(), 0o700, "{when}");
        for path in entries.map(|e| e.unwrap().path()) {
            // Names beside the final ones come and go.
            if let Ok(m) = mode(&path) {
                assert_eq!(m, 0o600, "{when}: {}", path.display());
            }
        }
    }

    /// The same command ends the study: what was finished before is untouched, nothing is there twice.
    async fn assert_resumes(&self, when: &str) -> usize {
        let before = self.trials().await;
        let out = ended(self.tool()).await;
        let code = out.status.code();
        assert!(
            matches!(code, Some(0 | 3)),
            "{when}: resumed to {code:?}\n{}",
            words(&out)
        );
        self.given_back(&format!("{when}, resumed")).await;
        self.assert_discreet(&out, when);
        let after = self.trials().await;
        let mut lost = 0;
        for (old, new) in before.iter().zip(&after) {
            if old.outcome.is_some() {
                assert_eq!(old, new, "{when}: a finished trial was changed");
            } else {
                lost += 1;
                assert_eq!(new.outcome, Some(Outcome::Interrupted), "{when}");
                assert_eq!(old.probes, new.probes, "{when}");
            }
        }
        assert!(after.len() > before.len() || lost == 0, "{when}");
        assert!(after.iter().all(|t| t.outcome.is_some()), "{when}");
        self.assert_tables(&after, when);
        self.assert_honest(code, when);
        if lost > 0 {
            assert!(
                words(&out).contains("was cut off"),
                "{when}: the next run does not say so"
            );
        }
        lost
    }

    /// I3: the tables hold exactly what the journal holds.
    fn assert_tables(&self, trials: &[Trial], when: &str) {
        let keys = |file: &str, columns: &[&str]| {
            let mut all: Vec<String> = csv_rows(&self.folder().join(file))
                .iter()
                .map(|r| {
                    columns
                        .iter()
                        .map(|c| r[*c].as_str())
                        .collect::<Vec<_>>()
                        .join("/")
                })
                .collect();
            all.sort();
            all
        };
        let mut expected: Vec<String> = trials.iter().map(|t| t.number.to_string()).collect();
        expected.sort();
        assert_eq!(keys("trials.csv", &["trial"]), expected, "{when}");
        let mut expected: Vec<String> = trials
            .iter()
            .flat_map(|t| t.probes.iter().map(move |p| format!("{}/{}", t.number, p.number)))
            .collect();
        expected.sort();
        assert_eq!(keys("probes.csv", &["trial", "probe"]), expected, "{when}");
    }

    /// I5: 0 only with a recommendation.
    fn assert_honest(&self, code: Option<i32>, when: &str) {
        let deployable = self.folder().join("recommended.env").is_file();
        assert_eq!(code == Some(0), deployable, "{when}: exit {code:?}");
    }
}

fn is_free(folder: &Path) -> bool {
    let Ok(file) = std::fs::File::open(autotune::lock::results_path(folder)) else {
        return true; // it died before it made one
    };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn words(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

async fn ended(mut command: tokio::process::Command) -> Output {
    tokio::time::timeout(HANG, command.spawn().unwrap().wait_with_output())
        .await
        .expect("the run hangs")
        .unwrap()
}

/// Writes that a journal holds: each row, and each trial that was closed.
async fn writes(folder: &Path) -> u64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("study.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let n: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM study) + (SELECT count(*) FROM trial) + (SELECT count(*) FROM probe)
              + (SELECT count(*) FROM trial WHERE outcome IS NOT NULL) + (SELECT count(*) FROM event)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    pool.close().await;
    u64::try_from(n).unwrap()
}

/// A side effect, and whether the tool dies before or after it takes effect.
#[derive(Debug, Clone, Copy)]
enum At {
    Call(u64, bool),
    Write(u64, bool),
}

/// What one kill came to.
#[derive(Debug, Default)]
struct Kills {
    calls: u32,
    writes: u32,
    lost: Vec<usize>,
    slowest: Duration,
}

/// Kills the tool there; None where the run had fewer side effects.
async fn killed(at: At) -> Option<(Duration, usize)> {
    let field = Field::to_be_killed();
    let when = format!("{at:?}");
    let mut command = field.tool();
    let pid = Arc::new(AtomicU64::new(0));
    match at {
        At::Call(n, after) => field.fake.plan(
            n,
            Fault::Kill {
                pid: pid.clone(),
                after,
            },
        ),
        At::Write(n, after) => {
            let how = if after { "kill_after" } else { "kill_before" };
            command.env("AUTOTUNE_TEST_JOURNAL_FAULT", format!("{n} {how}"));
        }
    }
    let child = command.spawn().unwrap();
    pid.store(u64::from(child.id().unwrap()), Ordering::SeqCst);
    let out = tokio::time::timeout(HANG, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{when}: the run hangs"))
        .unwrap();
    field.assert_discreet(&out, &when);
    if out.status.signal() != Some(9) {
        assert!(
            matches!(out.status.code(), Some(0 | 3)),
            "{when}: {}",
            words(&out)
        );
        field.given_back(&when).await;
        return None;
    }
    let took = field.given_back(&when).await;
    if let At::Write(n, after) = at {
        let held = writes(&field.folder()).await;
        assert_eq!(
            held,
            if after { n } else { n - 1 },
            "{when}: not exactly what was acknowledged"
        );
    }
    let lost = field.assert_resumes(&when).await;
    assert!(lost <= 1, "{when}: {lost} trials lost");
    Some((took, lost))
}

/// Runs `attempts` some at a time: most of each is waiting.
async fn all_killed(attempts: Vec<At>) -> Kills {
    use futures_util::StreamExt;
    let at_once = std::env::var("AUTOTUNE_TEST_SOAK_AT_ONCE")
        .map_or(if soak() { 12 } else { 6 }, |n| n.parse().unwrap());
    let mut kills = Kills::default();
    let mut ends = futures_util::stream::iter(attempts)
        .map(|at| async move { (at, Box::pin(killed(at)).await) })
        .buffer_unordered(at_once);
    while let Some((at, end)) = ends.next().await {
        if let Some((took, lost)) = end {
            match at {
                At::Call(..) => kills.calls += 1,
                At::Write(..) => kills.writes += 1,
            }
            kills.lost.push(lost);
            kills.slowest = kills.slowest.max(took);
        }
    }
    kills
}

/// Docker calls and journal writes of a run that nothing disturbs.
async fn undisturbed() -> (u64, u64) {
    let field = Field::to_be_killed();
    field.fake.plan(u64::MAX, Fault::Status);
    let out = ended(field.tool()).await;
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    field.given_back("undisturbed").await;
    field.assert_discreet(&out, "undisturbed");
    field.assert_tables(&field.trials().await, "undisturbed");
    field.assert_honest(out.status.code(), "undisturbed");
    (field.fake.log().len() as u64, writes(&field.folder()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_side_effect_of_a_whole_run_nothing_is_lost() {
    let (calls, written) = undisturbed().await;
    println!("an undisturbed run has {calls} docker calls and {written} journal writes");
    assert!(calls >= 25 && written >= 8, "{calls} calls, {written} writes");
    assert!(
        !soak() || calls + written >= 200,
        "{calls} calls, {written} writes"
    );
    let stride = if soak() { 2 } else { 11 };
    let mut attempts = Vec::new();
    // Before and after it takes effect, in turns.
    let after = |n: u64| (n / stride as u64).is_multiple_of(2);
    attempts.extend((1..=calls).step_by(stride).map(|n| At::Call(n, after(n))));
    attempts.extend((1..=written).step_by(stride).map(|n| At::Write(n, after(n))));
    let planned = attempts.len();
    let kills = all_killed(attempts).await;
    println!(
        "{planned} planned; killed at {} docker calls and {} journal writes: 0 violations, at most {} trial lost each \
         ({} in all), slowest return {:.1} s",
        kills.calls,
        kills.writes,
        kills.lost.iter().max().unwrap_or(&0),
        kills.lost.iter().sum::<usize>(),
        kills.slowest.as_secs_f64()
    );
    // The number of calls depends a little on how often the container was looked at.
    assert!(
        (kills.calls + kills.writes) as usize * 10 >= planned * 8,
        "{kills:?}"
    );
}

/// Breaks when a journal that cannot be written is anything but an end with 74, the container back and nothing recommended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_write_that_fails_ends_the_run_with_74_and_gives_back() {
    use futures_util::StreamExt;
    let numbers: Vec<u64> = if soak() {
        (1..=40).collect()
    } else {
        vec![1, 2, 5, 6, 8, 11]
    };
    let mut ends = futures_util::stream::iter(numbers)
        .map(|n| async move {
            let field = Field::new();
            let how = if n % 2 == 0 { "fail" } else { "fail_after" };
            let mut command = field.tool();
            command.env("AUTOTUNE_TEST_JOURNAL_FAULT", format!("{n} {how}"));
            let out = ended(command).await;
            let (when, code) = (format!("write {n} {how}"), out.status.code());
            field.given_back(&when).await;
            field.assert_discreet(&out, &when);
            if matches!(code, Some(0 | 3)) {
                // A warning or a diagnosis that is not journalled ends nothing; nor is there a write of every number.
                return false;
            }
            assert_eq!(code, Some(74), "{when}: {}", words(&out));
            assert!(words(&out).contains("injected fault"), "{when}");
            field.assert_honest(code, &when);
            field.assert_resumes(&when).await;
            true
        })
        .buffer_unordered(4);
    let mut met = 0;
    while let Some(ended_so) = ends.next().await {
        met += u32::from(ended_so);
    }
    println!("{met} failed writes ended a run with 74");
    assert!(met >= 3, "{met}");
}

/// Breaks when a Docker call that fails once is charged to a config, or the container is not back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_docker_call_that_fails_once_is_never_the_configs_fault() {
    use futures_util::StreamExt;
    let numbers: Vec<u64> = if soak() {
        (1..=90).collect()
    } else {
        vec![2, 15, 31, 40]
    };
    let mut ends = futures_util::stream::iter(numbers)
        .map(|n| async move {
            let field = Field::new();
            let (what, fault) = match n % 2 {
                0 => ("500", Fault::Status),
                _ => ("broken off", Fault::BreakAfter),
            };
            field.fake.plan(n, fault);
            let out = ended(field.tool()).await;
            let (when, code) = (format!("call {n} {what}"), out.status.code());
            field.given_back(&when).await;
            field.assert_discreet(&out, &when);
            field.assert_honest(code, &when);
            assert!(
                matches!(code, Some(0 | 3 | 69 | 76)),
                "{when}: {code:?}\n{}",
                words(&out)
            );
            let trials = field.trials().await;
            let charged = trials
                .iter()
                .filter(|t| matches!(t.outcome, Some(Outcome::Failed { .. })));
            assert_eq!(charged.count(), 0, "{when}: {trials:?}");
            if !matches!(code, Some(0 | 3)) {
                field.assert_resumes(&when).await;
            }
        })
        .buffer_unordered(4);
    while ends.next().await.is_some() {}
}

/// Starts a run and waits until its first trial is measured.
async fn under_way(field: &Field) -> tokio::process::Child {
    under_way_as(field, field.tool()).await
}

async fn under_way_as(field: &Field, mut tool: tokio::process::Command) -> tokio::process::Child {
    let mut child = tool.spawn().unwrap();
    let begun = Instant::now();
    while field.trials().await.iter().all(|t| t.probes.is_empty()) {
        if child.try_wait().unwrap().is_some() {
            panic!(
                "it ended at once: {}",
                words(&child.wait_with_output().await.unwrap())
            );
        }
        assert!(begun.elapsed() < HANG, "no first probe");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    child
}

fn signal(child: &tokio::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_signal_stops_writes_and_gives_back_with_its_code() {
    use rustix::process::Signal;
    let one = async |which: Signal, code: i32| {
        let field = Field::new();
        let child = under_way(&field).await;
        signal(&child, which);
        let out = child.wait_with_output().await.unwrap();
        let when = format!("{which:?}");
        assert_eq!(out.status.code(), Some(code), "{when}: {}", words(&out));
        assert_eq!(
            field.fake.violation(&field.id, "web", true),
            None,
            "{when}: back before it ends"
        );
        field.given_back(&when).await;
        field.assert_discreet(&out, &when);
        field.assert_tables(&field.trials().await, &when);
        assert!(words(&out).contains("resumes"), "{when}");
        field.assert_resumes(&when).await;
    };
    futures_util::future::join3(
        Box::pin(one(Signal::INT, 130)),
        Box::pin(one(Signal::TERM, 143)),
        Box::pin(one(Signal::HUP, 129)),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_skips_the_grace_and_the_guardian_gives_back() {
    use rustix::process::Signal;
    let field = Field::new();
    let child = under_way(&field).await;
    // The daemon does not answer any more: giving back in order would take its time.
    field.fake.stall_all(true);
    signal(&child, Signal::TERM);
    tokio::time::sleep(Duration::from_millis(300)).await; // two signals at once would be one
    signal(&child, Signal::TERM);
    let out = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output())
        .await
        .expect("a second signal did not end it")
        .unwrap();
    assert_eq!(out.status.code(), Some(143), "{}", words(&out));
    assert!(words(&out).contains("interrupted twice"), "{}", words(&out));
    field.fake.stall_all(false);
    let begun = Instant::now();
    while field.fake.violation(&field.id, "web", true).is_some() {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "{:?}",
            field.fake.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_exits_75_and_names_the_first() {
    let field = Field::new();
    let child = under_way(&field).await;
    let pid = child.id().unwrap().to_string();
    let same_folder = ended(field.tool()).await;
    let mut other = tokio::process::Command::new(AUTOTUNE);
    other
        .arg("--space")
        .arg(field.home.path().join("night.toml"))
        .arg("--results")
        .arg(field.home.path().join("elsewhere"))
        .env("DOCKER_HOST", &field.fake.host)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let same_container = ended(other).await;
    for (what, out) in [("folder", same_folder), ("container", same_container)] {
        let text = words(&out);
        assert_eq!(out.status.code(), Some(75), "{what}: {text}");
        for name in [pid.as_str(), &format!("night-{pid}"), "web"] {
            assert!(text.contains(name), "{what}: {name} is not in: {text}");
        }
    }
    let out = child.wait_with_output().await.unwrap();
    assert!(
        matches!(out.status.code(), Some(0 | 3)),
        "the first is not disturbed: {}",
        words(&out)
    );
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_restarted_is_waited_for_and_the_trial_is_repeated() {
    let mut field = Field::new();
    let child = under_way(&field).await;
    field.fake.stop();
    tokio::time::sleep(Duration::from_secs(2)).await; // away for as long as a restart takes
    field.fake.start_again_with(0); // a restart in order, of a service that ends as it is told
    let out = child.wait_with_output().await.unwrap();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    field.given_back("daemon restarted").await;
    let trials = field.trials().await;
    let faults = trials
        .iter()
        .filter(|t| matches!(t.outcome, Some(Outcome::Infrastructure { .. })));
    assert!(faults.count() >= 1, "{trials:?}");
    assert!(
        !trials
            .iter()
            .any(|t| matches!(t.outcome, Some(Outcome::Failed { .. }))),
        "a restart of the daemon was charged to a config: {trials:?}"
    );
    field.assert_tables(&trials, "daemon restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_infrastructure_faults_in_a_row_stop_the_run() {
    let field = Field::new();
    let mut tool = field.tool();
    tool.args(["--trials", "6"]); // so that there is more to come after the first
    let child = under_way_as(&field, tool).await;
    // Every trial from now on is not created: the daemon has an error of its own.
    field.fake.refuse("create");
    let out = tokio::time::timeout(HANG, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let text = words(&out);
    assert_eq!(out.status.code(), Some(69), "{text}");
    assert!(text.contains("3 infrastructure faults in a row"), "{text}");
    assert!(
        text.contains("trying again in 5 s") && text.contains("trying again in 20 s"),
        "backoff: {text}"
    );
    field.given_back("three faults").await;
    let trials = field.trials().await;
    let tail: Vec<_> = trials.iter().rev().take(3).map(|t| t.outcome.clone()).collect();
    assert!(
        tail.iter()
            .all(|o| matches!(o, Some(Outcome::Infrastructure { .. }))),
        "{trials:?}"
    );
    assert!(
        autotune::agenda::history(&trials).len() <= 1,
        "shown to the optimizer"
    );
    field.assert_honest(out.status.code(), "three faults");
}

/// Breaks when a full or read-only disk under a real run is anything but 74, with the container back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_during_a_run_ends_it_with_74_and_gives_back() {
    let field = Field::new();
    std::fs::create_dir(field.results()).unwrap();
    let Some(disk) = crate::store::Small::mount_at(&field.results(), "4m") else {
        return;
    };
    let child = under_way(&field).await;
    let filler = field.results().join("filler");
    let _ = std::fs::write(&filler, vec![0_u8; 8 << 20]); // as much as there is room for
    let out = child.wait_with_output().await.unwrap();
    let text = words(&out);
    assert_eq!(out.status.code(), Some(74), "{text}");
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
    field.assert_honest(Some(74), "disk full");
    std::fs::remove_file(&filler).unwrap();
    field.assert_resumes("disk full").await;
    assert!(disk.remount("ro"));
    let out = ended(field.tool()).await;
    assert_eq!(out.status.code(), Some(74), "read-only: {}", words(&out));
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
    drop(disk);
}

/// Breaks when a socket that is not there, or may not be used, is told as anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_missing_or_forbidden_is_said_with_what_mends_it() {
    let field = Field::new();
    let mut missing = field.tool();
    missing.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let out = ended(missing).await;
    assert_eq!(out.status.code(), Some(69), "{}", words(&out));
    assert!(words(&out).contains("/nowhere/docker.sock"), "{}", words(&out));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Root may use any socket; nobody may not.
    use std::os::unix::fs::PermissionsExt;
    let open = |p: &Path, mode| std::fs::set_permissions(p, std::fs::Permissions::from_mode(mode)).unwrap();
    let socket = PathBuf::from(field.fake.host.trim_start_matches("unix://"));
    open(socket.parent().unwrap(), 0o755);
    open(&socket, 0o600);
    open(field.home.path(), 0o777);
    let binary = field.home.path().join("autotune");
    std::fs::copy(AUTOTUNE, &binary).unwrap();
    let mut forbidden = tokio::process::Command::new(&binary);
    forbidden
        .arg("--space")
        .arg(field.home.path().join("night.toml"))
        .arg("--results")
        .arg(field.home.path().join("nobodys"))
        .env("DOCKER_HOST", &field.fake.host)
        .uid(65_534)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let out = ended(forbidden).await;
    assert_eq!(out.status.code(), Some(77), "{}", words(&out));
    assert!(words(&out).contains("docker group"), "{}", words(&out));
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
}

/// `restore` after tool and guardian were both killed; the second time there is nothing left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_gives_back_when_tool_and_guardian_are_killed() {
    let field = Field::new();
    let mut child = under_way(&field).await;
    let tool = child.id().unwrap();
    let guardian = child_of(tool).expect("no guardian");
    for pid in [guardian, tool] {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    child.wait().await.unwrap();
    assert!(
        field.fake.violation(&field.id, "web", true).is_some(),
        "nobody was left to give it back"
    );
    let first = ended(field.restore("0s")).await;
    assert_eq!(first.status.code(), Some(0), "{}", words(&first));
    assert!(
        words(&first).contains("container web is back (running)"),
        "{}",
        words(&first)
    );
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
    let second = ended(field.restore("0s")).await;
    assert_eq!(
        (second.status.code(), words(&second).trim()),
        (Some(0), "nothing is parked")
    );
    field.assert_resumes("restored by hand").await;
}

/// What a run leaves that was killed with its guardian, without having to run and kill one.
fn left_parked() -> Field {
    let fake = FakeEngine::start();
    let id = fake.add("web.autotune-parked-running", json!({}), false);
    let trial = json!({"autotune.run": "night-0", "autotune.original": id, "autotune.original-name": "web"});
    fake.add("web", trial, true);
    Field::with(fake, id)
}

impl Field {
    fn restore(&self, wait: &str) -> tokio::process::Command {
        let mut c = tokio::process::Command::new(AUTOTUNE);
        c.args(["restore", "--wait", wait])
            .env("DOCKER_HOST", &self.fake.host)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        c
    }
}

/// Breaks when `restore`, at boot or after the service's end, gives up on an engine that is about to come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_waits_for_an_engine_that_is_not_up_yet() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut field = left_parked();
    field.fake.stop();
    let once = ended(field.restore("0s")).await;
    assert_eq!(once.status.code(), Some(69), "{}", words(&once));
    let mut child = field.restore("2m").spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = tokio::time::timeout(HANG, said.next_line())
        .await
        .unwrap()
        .unwrap();
    assert!(first.as_ref().is_some_and(|l| l.contains("waiting")), "{first:?}");
    field.fake.start_again();
    let status = tokio::time::timeout(HANG, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
}

/// Breaks when a swarm that can't be asked (no leader after a reboot, locked, a proxy that forbids it) keeps a container parked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_that_cannot_be_asked_keeps_no_container_parked() {
    let field = left_parked();
    field.fake.refuse("/services");
    let out = ended(field.restore("0s")).await;
    assert_eq!(
        field.fake.violation(&field.id, "web", true),
        None,
        "{}",
        words(&out)
    );
    assert_eq!(
        out.status.code(),
        Some(69),
        "services may be left: {}",
        words(&out)
    );
    assert!(
        words(&out).contains("container web is back (running)")
            && words(&out).contains("services of the swarm could not be"),
        "{}",
        words(&out)
    );
}

/// Breaks when a folder for locks that can't be used keeps `restore` or the next run from giving back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_cannot_be_made_keeps_nobody_from_giving_back() {
    let field = left_parked();
    let mut restore = field.restore("0s");
    restore.env("TMPDIR", "/dev/null");
    let out = ended(restore).await;
    assert_eq!(out.status.code(), Some(0), "{}", words(&out));
    assert!(
        words(&out).contains("giving back goes on without it"),
        "{}",
        words(&out)
    );
    assert_eq!(field.fake.violation(&field.id, "web", true), None);

    let field = left_parked();
    let mut next = field.tool();
    next.env("TMPDIR", "/dev/null");
    let out = ended(next).await;
    assert_eq!(
        out.status.code(),
        Some(74),
        "tunes nothing without one: {}",
        words(&out)
    );
    assert!(words(&out).contains("set TMPDIR"), "{}", words(&out));
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
}

/// Breaks when a signal that comes while Docker is at work leaves behind what that work comes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_in_the_middle_of_a_docker_call_leaves_nothing_behind() {
    for call in ["/rename", "/create"] {
        let field = Field::new();
        field.fake.slow(call, Duration::from_millis(700));
        let mut child = field.tool().spawn().unwrap();
        let begun = Instant::now();
        while !field.fake.log().iter().any(|l| l.ends_with(call)) {
            assert!(
                begun.elapsed() < HANG && child.try_wait().unwrap().is_none(),
                "{call}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        signal(&child, rustix::process::Signal::TERM);
        let out = child.wait_with_output().await.unwrap();
        assert_eq!(out.status.code(), Some(143), "{call}: {}", words(&out));
        field.given_back(call).await;
        while !field.fake.is_through() {
            assert!(begun.elapsed() < HANG);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(field.fake.violation(&field.id, "web", true), None, "{call}");
    }
}

/// Breaks when a study goes on with another image than the one that its trials were measured with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_is_refused_on_resume_and_fresh_keeps_the_old_study() {
    let field = Field::new();
    let out = ended(field.tool()).await;
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    let before = field.trials().await;
    field.fake.set_image("sha256:built-anew");
    let out = ended(field.tool()).await;
    let text = words(&out);
    assert_eq!(out.status.code(), Some(65), "{text}");
    assert!(
        text.contains("the image or executable (sha256:fake -> sha256:built-anew)")
            && text.contains("--fresh"),
        "{text}"
    );
    assert_eq!(field.trials().await, before, "a refused resume changes nothing");
    assert_eq!(field.fake.violation(&field.id, "web", true), None);
    let mut fresh = field.tool();
    fresh.arg("--fresh");
    let out = ended(fresh).await;
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    let kept = Sqlite::open_read_only(&field.results().join("night.1"))
        .await
        .unwrap();
    assert_eq!(
        kept.trials().await.unwrap(),
        before,
        "the old study is beside the new one"
    );
    assert!(
        field
            .trials()
            .await
            .iter()
            .all(|t| t.outcome != Some(Outcome::Interrupted))
    );
}

/// Breaks when a study that was cut off before anything was measured stands in the way, or is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_begins_anew_where_nothing_was_measured() {
    let field = Field::new();
    let child = under_way(&field).await;
    signal(&child, rustix::process::Signal::TERM);
    child.wait_with_output().await.unwrap();
    field.given_back("interrupted").await;
    let before = field.trials().await;
    field.fake.set_image("sha256:built-anew");
    let out = ended(field.tool()).await;
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    field.given_back("begun anew").await;
    let kept = Sqlite::open_read_only(&field.results().join("night.1"))
        .await
        .unwrap();
    assert_eq!(kept.trials().await.unwrap(), before);
}

/// A child process that is a guardian.
pub(crate) fn child_of(parent: u32) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().find_map(|e| {
        let pid: u32 = e.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ppid: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (ppid == parent && command.contains("guardian")).then_some(pid)
    })
}

/// A service that ours depends on ends in the middle of a trial: waited for, repeated, never charged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_restarted_is_never_charged_to_a_config() {
    let label = |service: &str| {
        json!({"com.docker.compose.project": "shop", "com.docker.compose.service": service,
            "com.docker.compose.oneoff": "False"})
    };
    let fake = FakeEngine::start();
    let id = fake.add("web", label("web"), true);
    let database = fake.add("shop-db-1", label("db"), true);
    let field = Field::with(fake, id);
    let child = under_way(&field).await;
    field.fake.turn(&database, false);
    tokio::time::sleep(Duration::from_secs(2)).await; // as long as a restart takes
    field.fake.turn(&database, true);
    let out = child.wait_with_output().await.unwrap();
    let text = words(&out);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{text}");
    assert!(text.contains("shop-db-1"), "it is said what was away: {text}");
    field.given_back("database restarted").await;
    let trials = field.trials().await;
    assert!(
        trials.iter().any(|t| matches!(&t.outcome,
            Some(Outcome::Infrastructure { detail }) if detail.contains("shop-db-1"))),
        "{trials:?}"
    );
    assert!(
        !trials
            .iter()
            .any(|t| matches!(t.outcome, Some(Outcome::Failed { .. }))),
        "{trials:?}"
    );
}
