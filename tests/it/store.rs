//! The journal: one contract for every store, durability under kill -9 and aborts, and what is refused.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use autotune::capacity::ProbePhase;
use autotune::exit::ExitError;
use autotune::space::{Config, Value};
use autotune::store::{
    JOURNAL_FILE, Journal, NewTrial, Sqlite, StoreError, TrialEnd, WriteFault, archive, list,
};
use autotune::trial::{Failure, Outcome, Probe, TrialPhase};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::synthetic::{Synthetic, meta, probe, space};

fn config(n: i64) -> Config {
    [
        ("pool_size".to_owned(), Value::Int(n)),
        ("cpus".to_owned(), Value::Float(0.1 + 0.2)),
    ]
    .into_iter()
    .collect()
}

pub fn new_trial(n: i64) -> NewTrial {
    NewTrial {
        phase: TrialPhase::Search,
        config: config(n),
        round: None,
        host: "here".into(),
    }
}

pub fn some_probe(n: u32) -> Probe {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(n));
    probe(
        &mut rng,
        n,
        ProbePhase::Growth,
        50.0 + f64::from(n) / 3.0,
        100.0,
        true,
    )
}

pub fn end() -> TrialEnd {
    let outcome = Outcome::Failed {
        failure: Failure::Oom,
        detail: "137".into(),
    };
    TrialEnd {
        outcome,
        seconds: 1.0 / 3.0,
        binding: Some("memory".into()),
    }
}

/// What every journal keeps to. `journal` is empty. Breaks when a number is given twice or with a gap, a
/// closed trial takes a write, or anything reads back other than it was written.
pub async fn conformance(journal: &impl Journal) {
    assert_eq!(journal.meta().await.unwrap(), None);
    let facts = meta(&space());
    journal.create(&facts).await.unwrap();
    assert_eq!(journal.meta().await.unwrap(), Some(facts.clone()));
    assert!(
        matches!(journal.create(&facts).await, Err(StoreError::Conflict(_))),
        "created twice"
    );

    assert_eq!(journal.begin_trial(&new_trial(1)).await.unwrap(), 1);
    let final_ = NewTrial {
        phase: TrialPhase::Final,
        round: Some(3),
        ..new_trial(2)
    };
    assert_eq!(journal.begin_trial(&final_).await.unwrap(), 2);
    for n in 1..=3 {
        journal.record_probe(1, &some_probe(n)).await.unwrap();
    }
    for wrong in [3, 5, 1] {
        let again = journal.record_probe(1, &some_probe(wrong)).await;
        assert!(
            matches!(again, Err(StoreError::Conflict(_))),
            "probe {wrong} after 3"
        );
    }
    assert!(
        matches!(
            journal.record_probe(9, &some_probe(1)).await,
            Err(StoreError::Conflict(_))
        ),
        "no such trial"
    );
    assert!(
        matches!(
            journal.finish_trial(9, &end()).await,
            Err(StoreError::Conflict(_))
        ),
        "no such trial"
    );
    let mut not_a_number = some_probe(4);
    not_a_number.loss_upper = f64::NAN;
    assert!(
        matches!(
            journal.record_probe(1, &not_a_number).await,
            Err(StoreError::Conflict(_))
        ),
        "not a number"
    );
    journal.finish_trial(1, &end()).await.unwrap();
    assert!(
        matches!(
            journal.finish_trial(1, &end()).await,
            Err(StoreError::Conflict(_))
        ),
        "finished twice"
    );
    assert!(
        matches!(
            journal.record_probe(1, &some_probe(4)).await,
            Err(StoreError::Conflict(_))
        ),
        "closed"
    );

    let trials = journal.trials().await.unwrap();
    assert_eq!(trials.iter().map(|t| t.number).collect::<Vec<_>>(), [1, 2]);
    let first = &trials[0];
    assert_eq!(
        (first.phase, first.round, &first.config),
        (TrialPhase::Search, None, &config(1))
    );
    assert_eq!(first.outcome, Some(end().outcome));
    assert_eq!(
        (first.seconds.to_bits(), first.binding.as_deref()),
        ((1.0_f64 / 3.0).to_bits(), Some("memory"))
    );
    assert_eq!(
        (trials[1].phase, trials[1].round, &trials[1].outcome),
        (TrialPhase::Final, Some(3), &None)
    );
    for (n, p) in (1..).zip(&first.probes) {
        let mut wrote = some_probe(n);
        let full = wrote.measurement.histograms.take();
        assert_eq!(
            *p, wrote,
            "every float the very same: a replayed search must decide the same"
        );
        assert_eq!(journal.histograms(1, n).await.unwrap().map(Box::new), full);
    }
    assert_eq!(journal.histograms(2, 1).await.unwrap(), None);

    let long = serde_json::json!({ "n": 2, "text": "x".repeat(2_000_000) });
    journal
        .log("drift", &serde_json::json!({ "n": 1 }))
        .await
        .unwrap();
    journal.log("other", &serde_json::json!(null)).await.unwrap();
    journal.log("drift", &long).await.unwrap();
    let events = journal.events("drift").await.unwrap();
    assert_eq!(
        events.iter().map(|e| e["n"].as_i64()).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    assert!(events[1].to_string().len() < 300_000, "events are bounded");
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("results/pool");
    let journal = Sqlite::open(&dir).await.unwrap();
    conformance(&journal).await;
    // Opened again without a clean end, beside the first, and for reading.
    let before = journal.trials().await.unwrap();
    assert_eq!(
        Sqlite::open_read_only(&dir)
            .await
            .unwrap()
            .trials()
            .await
            .unwrap(),
        before
    );
    journal.close().await;
    let again = Sqlite::open(&dir).await.unwrap();
    assert_eq!(again.trials().await.unwrap(), before);
    assert_eq!(again.begin_trial(&new_trial(3)).await.unwrap(), 3);
    let refused = Sqlite::open_read_only(&dir)
        .await
        .unwrap()
        .begin_trial(&new_trial(4))
        .await;
    assert!(matches!(refused, Err(StoreError::Io(_))), "{refused:?}");
}

/// Breaks when others on the machine could read the journal, its log, or list the folder.
#[tokio::test]
async fn the_folder_is_0700_and_its_files_0600() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("pool");
    let journal = Sqlite::open(&dir).await.unwrap();
    Synthetic {
        trials: 3,
        probes: 3,
        pairs: 2,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    autotune::results::write(&journal, &dir).await.unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(files.len() >= 6, "{files:?}");
    for f in files {
        assert_eq!(mode(&f), 0o600, "{}", f.display());
    }
}

async fn refusal(dir: &Path) -> String {
    let before = std::fs::read(dir.join(JOURNAL_FILE)).unwrap();
    let mut texts = Vec::new();
    for e in [
        Sqlite::open(dir).await.err(),
        Sqlite::open_read_only(dir).await.err(),
    ] {
        match e {
            Some(StoreError::Unreadable(text)) => texts.push(text),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    assert_eq!(
        std::fs::read(dir.join(JOURNAL_FILE)).unwrap(),
        before,
        "it was written to"
    );
    assert_eq!(texts[0], texts[1]);
    texts.swap_remove(0)
}

/// Breaks when a file that is not a readable journal of ours is taken for one, or is changed.
#[tokio::test]
async fn damaged_foreign_and_newer_files_are_refused_untouched() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let d = tmp.path().join(name);
        std::fs::create_dir_all(&d).unwrap();
        d
    };
    let whole = dir("whole");
    let journal = Sqlite::open(&whole).await.unwrap();
    Synthetic {
        trials: 4,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    journal.close().await;
    let bytes = std::fs::read(whole.join(JOURNAL_FILE)).unwrap();

    let text = dir("text");
    std::fs::write(text.join(JOURNAL_FILE), "name,rate\na,1\n").unwrap();
    assert!(refusal(&text).await.contains("is not a SQLite database"));

    for (name, length) in [
        ("half", bytes.len() / 2),
        ("odd", bytes.len() - 1_234),
        ("one_page", 4_096),
    ] {
        let cut = dir(name);
        std::fs::write(cut.join(JOURNAL_FILE), &bytes[..length]).unwrap();
        assert!(refusal(&cut).await.contains("is damaged"), "{name}");
    }
    let torn = dir("torn");
    let mut torn_bytes = bytes.clone();
    for b in &mut torn_bytes[4_096..20_000] {
        *b = 0xa5;
    }
    std::fs::write(torn.join(JOURNAL_FILE), torn_bytes).unwrap();
    assert!(refusal(&torn).await.contains("is damaged"));

    let open = |p: &Path| {
        sqlx::sqlite::SqliteConnectOptions::new()
            .filename(p.join(JOURNAL_FILE))
            .create_if_missing(true)
    };
    let foreign = dir("foreign");
    let pool = sqlx::SqlitePool::connect_with(open(&foreign)).await.unwrap();
    sqlx::query("CREATE TABLE users (id INTEGER)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    assert!(refusal(&foreign).await.contains("somebody else's"));

    let newer = dir("newer");
    std::fs::write(newer.join(JOURNAL_FILE), &bytes).unwrap();
    let pool = sqlx::SqlitePool::connect_with(open(&newer)).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'later', 1, x'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    assert!(refusal(&newer).await.contains("newer autotune"));

    let missing = Sqlite::open_read_only(&tmp.path().join("nowhere")).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))), "{missing:?}");
}

/// Breaks when an empty file, left by a process that died between making and filling it, cannot be used.
#[tokio::test]
async fn a_journal_that_was_only_made_is_begun() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join(JOURNAL_FILE), "").unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    journal.create(&meta(&space())).await.unwrap();
}

#[tokio::test]
async fn studies_are_listed_and_archived() {
    let tmp = tempfile::tempdir().unwrap();
    let (a, b) = (tmp.path().join("a"), tmp.path().join("b"));
    let journal = Sqlite::open(&a).await.unwrap();
    Synthetic {
        trials: 3,
        pairs: 2,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    journal.close().await;
    std::fs::create_dir(&b).unwrap();
    std::fs::write(b.join(JOURNAL_FILE), "junk").unwrap();
    std::fs::create_dir(tmp.path().join("no study")).unwrap();
    let found = list(tmp.path()).await.unwrap();
    assert_eq!(
        found.iter().map(|e| e.dir.clone()).collect::<Vec<_>>(),
        [a.clone(), b]
    );
    assert_eq!(
        found[0].meta.as_ref().unwrap().as_ref().unwrap().name,
        "shop-api pool"
    );
    assert!(found[0].trials > 3 && found[0].decision.is_some());
    assert!(
        matches!(found[1].meta, Err(StoreError::Unreadable(_))),
        "one bad study hides no other"
    );
    let old = archive(&a).unwrap();
    assert_eq!(
        Sqlite::open_read_only(&old)
            .await
            .unwrap()
            .trial_count()
            .await
            .unwrap(),
        found[0].trials
    );
}

// -- what a killed process leaves

const CHILD_DIR: &str = "AUTOTUNE_TEST_JOURNAL_DIR";
const CHILD_ABORT: &str = "AUTOTUNE_TEST_JOURNAL_ABORT";

/// Not a test by itself: the child of the two below. Writes trials and says each acknowledged write on a line.
#[tokio::test]
async fn child_writes_when_asked() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let abort: Option<(u64, bool)> = std::env::var(CHILD_ABORT).ok().map(|t| {
        let (n, after) = t.split_once(' ').unwrap();
        (n.parse().unwrap(), after == "after")
    });
    println!(); // the harness left its line open
    let journal = Sqlite::open(Path::new(&dir))
        .await
        .unwrap()
        .with_faults(Arc::new(move |n| match abort {
            Some((at, true)) if n == at => WriteFault::KillAfter,
            Some((at, false)) if n == at => WriteFault::KillBefore,
            _ => WriteFault::Go,
        }));
    if journal.meta().await.unwrap().is_none() {
        journal.create(&meta(&space())).await.unwrap();
        println!("ack create");
    }
    for _ in 0..1_000 {
        let t = journal.begin_trial(&new_trial(1)).await.unwrap();
        println!("ack begin {t}");
        for n in 1..=4 {
            journal.record_probe(t, &some_probe(n)).await.unwrap();
            println!("ack probe {t} {n}");
        }
        journal.finish_trial(t, &end()).await.unwrap();
        println!("ack finish {t}");
    }
}

fn child(dir: &Path, abort: Option<String>) -> std::process::Child {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args([
        "--exact",
        "store::child_writes_when_asked",
        "--nocapture",
        "--test-threads=1",
    ])
    .env(CHILD_DIR, dir)
    .stdout(Stdio::piped())
    .stderr(Stdio::null());
    if let Some(a) = abort {
        c.env(CHILD_ABORT, a);
    }
    c.spawn().unwrap()
}

/// Everything acknowledged is there once, and nothing is half there.
async fn check_acknowledged(dir: &Path, acks: &[String]) {
    let journal = Sqlite::open(dir).await.unwrap();
    let trials = journal.trials().await.unwrap();
    for line in acks {
        let words: Vec<&str> = line.split(' ').collect();
        let n = |i: usize| words[i].parse::<u32>().unwrap();
        match words[1] {
            "create" => assert!(journal.meta().await.unwrap().is_some()),
            "begin" => assert!(trials.iter().any(|t| t.number == n(2)), "{line}"),
            "probe" => {
                let t = trials.iter().find(|t| t.number == n(2)).expect(line);
                assert_eq!(t.probes.iter().filter(|p| p.number == n(3)).count(), 1, "{line}");
            }
            "finish" => assert_eq!(trials[n(2) as usize - 1].outcome, Some(end().outcome), "{line}"),
            other => panic!("{other}"),
        }
    }
    for (i, t) in trials.iter().enumerate() {
        assert_eq!(t.number as usize, i + 1);
        assert!(t.probes.iter().zip(1..).all(|(p, n)| p.number == n));
        assert!(t.outcome.is_none() || t.probes.len() == 4);
    }
    journal.close().await;
}

/// kill -9 after the k-th acknowledged write, over and over on the same journal. Breaks when a write is
/// acknowledged before it is durable, or a journal does not open again.
#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("pool");
    let mut acks = Vec::new();
    for kill_at in [1, 2, 3, 5, 8, 13, 21, 34, 4, 7] {
        let mut c = child(&dir, None);
        let mut lines = BufReader::new(c.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < kill_at {
            let line = lines.next().expect("the child ended early").unwrap();
            if line.starts_with("ack") {
                acks.push(line);
                seen += 1;
            }
        }
        c.kill().unwrap(); // SIGKILL
        // What it acknowledged between our reading and its end counts too; the last line may be cut.
        acks.extend(
            lines
                .map_while(Result::ok)
                .filter(|l| l.starts_with("ack") && is_whole(l)),
        );
        c.wait().unwrap();
        check_acknowledged(&dir, &acks).await;
    }
    assert!(acks.len() > 90);
}

fn is_whole(line: &str) -> bool {
    let words = line.split(' ').count();
    match line.split(' ').nth(1) {
        Some("create") => words == 2,
        // A number may be cut short in the middle: only lines with the right count of words and a known
        // prefix are claims, and a cut number names an earlier row that must be there as well.
        Some("begin" | "finish") => words == 3 && !line.ends_with(' '),
        Some("probe") => words == 4 && !line.ends_with(' '),
        _ => false,
    }
}

/// The process ends before and after the N-th write, for every N of two trials. Breaks when a write is not
/// all or nothing.
#[tokio::test]
async fn a_death_at_every_write_leaves_a_whole_journal() {
    let tmp = tempfile::tempdir().unwrap();
    for n in 1..=13 {
        for after in ["before", "after"] {
            let dir = tmp.path().join(format!("{n}-{after}"));
            let out = child(&dir, Some(format!("{n} {after}")))
                .wait_with_output()
                .unwrap();
            assert!(!out.status.success());
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let acks: Vec<String> = text
                .lines()
                .filter(|l| l.starts_with("ack"))
                .map(str::to_owned)
                .collect();
            assert_eq!(acks.len(), n - 1, "{text}");
            check_acknowledged(&dir, &acks).await;
        }
    }
}

/// Breaks when an injected failure writes, or one after the write does not.
#[tokio::test]
async fn injected_faults_are_numbered_io_errors() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path())
        .await
        .unwrap()
        .with_faults(Arc::new(|n| match n {
            2 => WriteFault::Fail,
            4 => WriteFault::FailAfter,
            _ => WriteFault::Go,
        }));
    journal.create(&meta(&space())).await.unwrap();
    assert!(matches!(
        journal.begin_trial(&new_trial(1)).await,
        Err(StoreError::Io(_))
    ));
    assert_eq!(journal.begin_trial(&new_trial(1)).await.unwrap(), 1);
    let lost = journal.record_probe(1, &some_probe(1)).await.unwrap_err();
    assert_eq!(ExitError::from(lost).code, 74);
    assert_eq!(journal.trials().await.unwrap()[0].probes.len(), 1);
    assert_eq!(journal.writes(), 4);
}

/// A file system of its own, taken away again at the end. None, with the reason on stderr, where this user
/// may not mount.
pub(crate) struct Small(PathBuf, Option<tempfile::TempDir>);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut small = Self::mount_at(dir.path(), size)?;
        small.1 = Some(dir);
        Some(small)
    }

    /// The same over a folder that is there.
    pub(crate) fn mount_at(dir: &Path, size: &str) -> Option<Self> {
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(dir)
            .output();
        match out {
            Ok(o) if o.status.success() => Some(Self(dir.to_owned(), None)),
            Ok(o) => {
                eprintln!(
                    "skipped: may not mount a tmpfs: {}",
                    String::from_utf8_lossy(&o.stderr).trim()
                );
                None
            }
            Err(e) => {
                eprintln!("skipped: no mount command: {e}");
                None
            }
        }
    }
    pub(crate) fn remount(&self, options: &str) -> bool {
        let o = format!("remount,{options}");
        Command::new("mount")
            .args(["-o", &o])
            .arg(&self.0)
            .status()
            .is_ok_and(|s| s.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Breaks when a full disk is anything but an I/O error with its exit code, or harms what was acknowledged.
#[tokio::test]
async fn a_full_disk_is_an_io_error_and_harms_nothing() {
    let Some(disk) = Small::mount("600k") else { return };
    let dir = disk.0.join("pool");
    let journal = Sqlite::open(&dir).await.unwrap();
    journal.create(&meta(&space())).await.unwrap();
    let t = journal.begin_trial(&new_trial(1)).await.unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match journal.record_probe(t, &some_probe(acknowledged + 1)).await {
            Ok(()) => acknowledged += 1,
            Err(e) => break e,
        }
        assert!(acknowledged < 10_000, "the disk never filled");
    };
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(ExitError::from(error).code, 74);
    let full = autotune::results::write(&journal, &dir).await.unwrap_err();
    assert_eq!(ExitError::from(full).code, 74);
    drop(journal);
    assert!(disk.remount("size=8m"));
    let journal = Sqlite::open(&dir).await.unwrap();
    assert_eq!(
        journal.trials().await.unwrap()[0].probes.len(),
        acknowledged as usize
    );
    journal
        .record_probe(t, &some_probe(acknowledged + 1))
        .await
        .unwrap();
}

/// Breaks when results that cannot be written are found out only after the first trial, or a finished study on
/// a read-only disk cannot be reported on.
#[tokio::test]
async fn a_read_only_disk_is_an_io_error_and_can_be_read() {
    let Some(disk) = Small::mount("8m") else { return };
    let dir = disk.0.join("pool");
    let journal = Sqlite::open(&dir).await.unwrap();
    Synthetic {
        trials: 3,
        pairs: 2,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    journal.close().await;
    assert!(disk.remount("ro"));
    let refused = Sqlite::open(&disk.0.join("other")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Io(_)), "{refused:?}");
    let refused = Sqlite::open(&dir).await.unwrap_err();
    assert!(matches!(refused, StoreError::Io(_)), "{refused:?}");
    let reader = Sqlite::open_read_only(&dir).await.unwrap();
    assert!(reader.trial_count().await.unwrap() > 3);
    drop(reader);
}
