//! The journal in Postgres: the same contract as SQLite's, and what several workers need of it.

use std::sync::Arc;
use std::time::Duration;

use autotune::spec::Secret;
use autotune::store::{Begun, Journal, NewTrial, Postgres, Sqlite, StoreError};
use autotune::trial::{Outcome, Trial};
use sqlx::Connection;

use crate::shared_kit::{PASSWORD, Server, connect, number, server};
use crate::store::{conformance, end, new_trial, some_probe};
use crate::synthetic::{Synthetic, meta, space};

const PATIENCE: Duration = Duration::from_secs(20);

async fn open(url: &str, name: &str) -> Postgres {
    Postgres::open(&Secret::new(url), name, PATIENCE).await.unwrap()
}

/// The next of an endless search.
async fn ask(store: &Postgres, host: &str) -> Begun {
    let choose = |trials: &[Trial]| -> Result<NewTrial, ()> {
        Ok(NewTrial {
            host: host.to_owned(),
            ..new_trial(i64::try_from(trials.len()).unwrap())
        })
    };
    store.begin_next(host, choose).await.unwrap().unwrap()
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let Some(server) = server() else { return };
    let url = server.database();
    let journal = open(&url, "a").await;
    conformance(&journal).await;
    let before = journal.trials().await.unwrap();
    drop(journal);
    let again = open(&url, "a").await;
    assert_eq!(again.trials().await.unwrap(), before);
    assert_eq!(again.begin_trial(&new_trial(3)).await.unwrap(), 3);
    // Another study in the same database shares nothing with it.
    let other = open(&format!("{url}?study=other"), "a").await;
    conformance(&other).await;
}

/// Breaks when a closed trial, a probe, an event or a float differs between the two journals, or a copy is not brought up
/// to date.
#[tokio::test]
async fn a_copy_is_the_study() {
    let Some(server) = server() else { return };
    let shared = open(&server.database(), "a").await;
    let tmp = tempfile::tempdir().unwrap();
    let copy = Sqlite::open(&tmp.path().join("pool")).await.unwrap();
    let made = Synthetic {
        trials: 5,
        probes: 3,
        pairs: 2,
        histograms: true,
        ..Synthetic::default()
    };
    made.fill(&shared).await;
    shared.copy_into(&copy).await.unwrap();
    shared.begin_trial(&new_trial(1)).await.unwrap();
    let late = shared.begin_trial(&new_trial(2)).await.unwrap();
    shared.record_probe(late, &some_probe(1)).await.unwrap();
    shared.finish_trial(late, &end()).await.unwrap();
    shared.log("drift", &serde_json::json!({ "n": 1 })).await.unwrap();
    for _ in 0..2 {
        shared.copy_into(&copy).await.unwrap();
        let closed: Vec<Trial> = shared
            .trials()
            .await
            .unwrap()
            .into_iter()
            .filter(|t| t.outcome.is_some())
            .collect();
        assert_eq!(copy.trials().await.unwrap(), closed, "all but the open one");
    }
    assert_eq!(copy.meta().await.unwrap(), shared.meta().await.unwrap());
    for kind in ["drift", "decision", "warning", "environment"] {
        assert_eq!(
            copy.events(kind).await.unwrap(),
            shared.events(kind).await.unwrap(),
            "{kind}"
        );
    }
    assert_eq!(
        copy.histograms(late, 1).await.unwrap(),
        shared.histograms(late, 1).await.unwrap()
    );
    let other = Sqlite::open(&tmp.path().join("other")).await.unwrap();
    let mut foreign = meta(&space());
    foreign.seed += 1;
    other.create(&foreign).await.unwrap();
    let refused = shared.copy_into(&other).await;
    assert!(matches!(refused, Err(StoreError::Unreadable(_))), "{refused:?}");
}

/// Breaks when the trial of a living worker is taken from it, that of a dead one is not given on, or given on twice.
#[tokio::test]
async fn a_dead_workers_trial_is_repeated_once() {
    let Some(server) = server() else { return };
    let url = server.database();
    let (a, b, c) = (
        open(&url, "a").await,
        open(&url, "b").await,
        open(&url, "c").await,
    );
    a.create(&meta(&space())).await.unwrap();
    let first = ask(&a, "a").await;
    let second = ask(&b, "b").await;
    assert_eq!(
        (first.number, second.number, second.repeats),
        (1, 2, None),
        "a lives"
    );
    a.record_probe(1, &some_probe(1)).await.unwrap();
    drop(a);
    // The server takes a moment to see that the connection is gone.
    let mut asked = vec![ask(&c, "c").await];
    for _ in 0..200 {
        if asked.iter().any(|t| t.repeats.is_some()) {
            break;
        }
        asked.push(ask(&c, "c").await);
    }
    asked.push(ask(&c, "c").await);
    asked.push(ask(&b, "b").await);
    let repeats: Vec<&Begun> = asked.iter().filter(|t| t.repeats.is_some()).collect();
    assert_eq!(repeats.len(), 1, "{asked:?}");
    assert_eq!((repeats[0].repeats, &repeats[0].config), (Some(1), &first.config));
    let trials = c.trials().await.unwrap();
    assert_eq!(trials[0].outcome, Some(Outcome::Interrupted));
    assert_eq!(trials[0].probes.len(), 1, "what was measured stays");
    assert_eq!(trials[1].outcome, None, "b lives");
    b.finish_trial(2, &end()).await.unwrap();
}

/// A worker whose connection was cut goes on with its trial; one that was taken for dead meanwhile is told so.
#[tokio::test]
async fn a_cut_connection_costs_nothing_unless_somebody_asked_meanwhile() {
    let Some(server) = server() else { return };
    let url = server.database();
    let (a, b) = (open(&url, "a").await, open(&url, "b").await);
    a.create(&meta(&space())).await.unwrap();
    let cut = || async {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'autotune-worker'";
        assert!(number(&url, sql).await >= 1);
        let gone = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'autotune-worker'";
        for _ in 0..1_000 {
            if number(&url, gone).await == 0 {
                return;
            }
        }
        panic!("the sessions do not end");
    };
    let first = ask(&a, "a").await.number;
    a.record_probe(first, &some_probe(1)).await.unwrap();
    cut().await;
    a.record_probe(first, &some_probe(2)).await.unwrap();
    assert_eq!(ask(&b, "b").await.repeats, None, "a holds its trial again");
    cut().await;
    assert_eq!(ask(&b, "b").await.repeats, Some(first), "nobody held it");
    let told = a.record_probe(first, &some_probe(3)).await;
    assert!(
        matches!(&told, Err(StoreError::Lost(why)) if why.contains("another worker")),
        "{told:?}"
    );
    let twice = a.finish_trial(first, &end()).await;
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    assert_eq!(ask(&a, "a").await.repeats, None);
}

/// Breaks when two workers may measure the finals at once, or nobody may after the first one died.
#[tokio::test]
async fn the_finals_are_one_workers() {
    let Some(server) = server() else { return };
    let url = server.database();
    let (a, b) = (open(&url, "a").await, open(&url, "b").await);
    assert!(a.take_finals().await.unwrap() && a.take_finals().await.unwrap());
    assert!(!b.take_finals().await.unwrap());
    drop(a);
    for _ in 0..10_000 {
        if b.take_finals().await.unwrap() {
            return;
        }
    }
    panic!("the dead worker's finals stay locked");
}

/// Breaks when what is not a journal of this version is taken for one, or is changed.
#[tokio::test]
async fn foreign_and_newer_schemas_are_refused_untouched() {
    let Some(server) = server() else { return };
    let (foreign, newer) = (server.database(), server.database());
    let mut c = connect(&foreign).await.unwrap();
    sqlx::raw_sql("CREATE SCHEMA autotune; CREATE TABLE autotune.users (id int)")
        .execute(&mut c)
        .await
        .unwrap();
    c.close().await.unwrap();
    open(&newer, "a").await;
    let mut c = connect(&newer).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', true, '\\x00', 0)")
        .execute(&mut c)
        .await
        .unwrap();
    c.close().await.unwrap();
    for (url, said) in [(&foreign, "somebody else's"), (&newer, "newer autotune")] {
        for refused in [
            Postgres::open(&Secret::new(url.as_str()), "a", PATIENCE).await,
            Postgres::open_existing(&Secret::new(url.as_str())).await,
        ] {
            let Err(StoreError::Unreadable(text)) = refused else {
                panic!("{refused:?}")
            };
            assert!(text.contains(said) && !text.contains("canary"), "{text}");
        }
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'autotune'";
    assert_eq!(number(&foreign, tables).await, 1, "it was changed");
    let empty = Postgres::open_existing(&Secret::new(server.database())).await;
    assert!(matches!(empty, Err(StoreError::Missing(_))), "{empty:?}");
}

/// Breaks when a wrong password, a missing database or a dead server ends in anything but a sentence, or shows the secret.
#[tokio::test]
async fn a_database_that_is_not_there_is_a_sentence() {
    let Some(server) = server() else { return };
    let good = server.url("postgres");
    let short = Duration::from_secs(1);
    for (url, said) in [
        (server.url("nowhere"), "3D000"),
        (good.replace("canary-7f3e", "canary-wrong"), "28P01"),
        (good.replace(&format!(":{}/", server.port), ":1/"), "tried"),
    ] {
        let refused = Postgres::open(&Secret::new(url), "a", short).await;
        let Err(StoreError::Away(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("canary") && !text.contains(PASSWORD), "{text}");
    }
}

/// Breaks when a server that is away for a while loses a write, doubles one, or is waited for without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_has_everything_once() {
    let Some(server) = Server::start().map(Arc::new) else {
        return;
    };
    let url = server.database();
    let a = open(&url, "a").await;
    a.create(&meta(&space())).await.unwrap();
    let trial = ask(&a, "a").await.number;
    a.record_probe(trial, &some_probe(1)).await.unwrap();
    server.stop();
    let its = Arc::clone(&server);
    let (written, up) = tokio::join!(
        async {
            a.record_probe(trial, &some_probe(2)).await?;
            a.log("drift", &serde_json::json!(1)).await?;
            a.finish_trial(trial, &end()).await
        },
        tokio::task::spawn_blocking(move || its.up())
    );
    up.unwrap();
    written.unwrap();
    let trials = a.trials().await.unwrap();
    assert_eq!(
        (trials[0].probes.len(), trials[0].outcome.clone()),
        (2, Some(end().outcome))
    );
    assert_eq!(a.events("drift").await.unwrap().len(), 1);

    let hasty = Postgres::open(&Secret::new(&url), "b", Duration::from_millis(300))
        .await
        .unwrap();
    server.stop();
    let given_up = hasty.log("drift", &serde_json::json!(2)).await;
    assert!(
        matches!(&given_up, Err(StoreError::Away(t)) if t.contains("start this worker again")),
        "{given_up:?}"
    );
}
