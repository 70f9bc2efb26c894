//! Twenty workers on one Postgres, their services simulated: none lost, none claimed twice, and what the store costs.
//!
//! `make test` takes a few hundred trials; with AUTOTUNE_TEST_SWARM set (`make test-swarm`) ten thousand, with the figures
//! of docs/workers.md printed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use autotune::spec::Secret;
use autotune::store::{Journal, NewTrial, Postgres};
use autotune::trial::{Probe, Trial, TrialPhase};
use serde_json::json;
use sqlx::{Connection, Row};

use crate::shared_kit::{broken_promises, connect, number, runtime, server};
use crate::store::{end, new_trial, some_probe};
use crate::synthetic::{meta, space};

const WORKERS: usize = 20;
const PROBES: u32 = 8;

pub fn is_long() -> bool {
    std::env::var_os("AUTOTUNE_TEST_SWARM").is_some()
}

/// Milliseconds of the calls of one worker.
#[derive(Default)]
struct Spent {
    /// With the trials that were known when it was asked.
    asks: Vec<(u32, f64)>,
    probes: Vec<f64>,
    ends: Vec<f64>,
    /// All calls of a trial together.
    trials: Vec<f64>,
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

enum Stay {
    Wait,
    Over,
}

/// One more trial of the search, while fewer than `wanted` were begun or told.
fn choose(trials: &[Trial], wanted: usize, host: &str) -> Result<NewTrial, Stay> {
    if trials.len() < wanted {
        return Ok(NewTrial {
            phase: TrialPhase::Search,
            host: host.to_owned(),
            ..new_trial(i64::try_from(trials.len()).unwrap())
        });
    }
    Err(if trials.iter().any(|t| t.outcome.is_none()) {
        Stay::Wait
    } else {
        Stay::Over
    })
}

/// Works until nothing is left; between two probes it waits for `pause`, as a trial would.
async fn work(url: &str, n: usize, wanted: usize, pause: Duration) -> Spent {
    let host = format!("host{n}");
    let store = Postgres::open(&Secret::new(url), &host, Duration::from_secs(60))
        .await
        .unwrap();
    let probes: Vec<Probe> = (1..=PROBES).map(some_probe).collect();
    let mut spent = Spent::default();
    for _ in 0..1_000_000 {
        let since = Instant::now();
        let begun = match store
            .begin_next(&host, |t| choose(t, wanted, &host))
            .await
            .unwrap()
        {
            Ok(begun) => begun,
            Err(Stay::Over) => return spent,
            Err(Stay::Wait) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let asked = ms(since);
        spent.asks.push((begun.number, asked));
        let mut whole = asked;
        for p in &probes {
            tokio::time::sleep(pause).await;
            let since = Instant::now();
            store.record_probe(begun.number, p).await.unwrap();
            whole += ms(since);
            spent.probes.push(ms(since));
        }
        let since = Instant::now();
        let detail = json!({ "trial": begun.number, "diagnosis": "x".repeat(600) });
        store.log("diagnosis", &detail).await.unwrap();
        store.finish_trial(begun.number, &end()).await.unwrap();
        spent.ends.push(ms(since));
        spent.trials.push(whole + ms(since));
    }
    panic!("the study does not end");
}

fn words(mut all: Vec<f64>) -> String {
    all.sort_by(f64::total_cmp);
    let at = |q: f64| all[((all.len() - 1) as f64 * q) as usize];
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    format!("mean {mean:.2}, median {:.2}, p99 {:.2} ms", at(0.5), at(0.99))
}

#[test]
fn twenty_workers_lose_nothing_and_double_nothing() {
    let Some(server) = server() else { return };
    let url = server.database();
    let (wanted, pause) = if is_long() {
        (10_000, Duration::from_millis(25))
    } else {
        (300, Duration::ZERO)
    };
    runtime().block_on(async {
        let first = Postgres::open(&Secret::new(&url), "first", Duration::from_secs(20))
            .await
            .unwrap();
        first.create(&meta(&space())).await.unwrap();
    });
    let begun = Instant::now();
    let spent: Vec<Spent> = std::thread::scope(|s| {
        let url = &url;
        let all: Vec<_> = (0..WORKERS)
            .map(|n| s.spawn(move || runtime().block_on(work(url, n, wanted, pause))))
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();

    let numbers: Vec<u32> = spent
        .iter()
        .flat_map(|s| s.asks.iter().map(|(n, _)| *n))
        .collect();
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    assert_eq!(numbers.len(), wanted, "each was given to one worker");
    assert_eq!(
        distinct,
        (1..=u32::try_from(wanted).unwrap()).collect::<BTreeSet<u32>>()
    );
    runtime().block_on(async {
        assert_eq!(broken_promises(&url).await, []);
        let count = |sql| number(&url, sql);
        let wanted = i64::try_from(wanted).unwrap();
        assert_eq!(
            count("SELECT count(*) FROM trial WHERE outcome IS NOT NULL").await,
            wanted
        );
        assert_eq!(
            count("SELECT count(DISTINCT config) FROM trial").await,
            wanted,
            "a config was given twice"
        );
        assert_eq!(
            count("SELECT count(*) FROM probe").await,
            wanted * i64::from(PROBES)
        );
        assert_eq!(count("SELECT count(*) FROM event").await, wanted);
    });

    println!("{wanted} trials of {PROBES} probes, {WORKERS} workers, {seconds:.1} s");
    let all = |f: fn(&Spent) -> Vec<f64>| words(spent.iter().flat_map(f).collect());
    println!("  store, a trial:  {}", all(|s| s.trials.clone()));
    println!(
        "  an ask:          {}",
        all(|s| s.asks.iter().map(|a| a.1).collect())
    );
    println!("  a probe:         {}", all(|s| s.probes.clone()));
    println!("  diagnosis, end:  {}", all(|s| s.ends.clone()));
    for part in 0..4 {
        let (from, to) = (wanted * part / 4, wanted * (part + 1) / 4);
        let of: Vec<f64> = spent
            .iter()
            .flat_map(|s| s.asks.iter())
            .filter(|a| (from..to).contains(&(a.0 as usize)))
            .map(|a| a.1)
            .collect();
        println!("  an ask of {from} to {to}: {}", words(of));
    }
    runtime().block_on(sizes(&url));
}

/// Bytes a row, indexes and what is stored beside the table included.
async fn sizes(url: &str) {
    let mut c = connect(url).await.unwrap();
    for table in ["trial", "probe", "event"] {
        let row = sqlx::query("SELECT pg_total_relation_size(to_regclass($1)) / (SELECT greatest(1, CASE $1 WHEN 'trial' THEN (SELECT count(*) FROM trial) WHEN 'probe' THEN (SELECT count(*) FROM probe) ELSE (SELECT count(*) FROM event) END))")
            .bind(table)
            .fetch_one(&mut c)
            .await
            .unwrap();
        println!("  bytes a row of {table}: {}", row.get::<i64, _>(0));
    }
    c.close().await.unwrap();
}
