//! The unit costs that docs/scale.md computes with: what a trial takes in the journal, what a part of a probe takes to merge,
//! what an arrival costs that another agent sends.
//!
//!     cargo bench --bench scale
//!
//! The cost of an ask is in `cargo bench --bench search -- times`.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::type_complexity,
    clippy::needless_pass_by_value,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // tables on the terminal are its result

#[path = "../../tests/it/synthetic.rs"]
mod synthetic;

use std::time::Instant;

use autotune::load::schedule::{Part, Schedule};
use autotune::spec::Arrivals;
use autotune::store::{Journal, Sqlite};
use autotune::units::Rps;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

const TRIALS: u32 = 300;
/// Answers behind the histogram of a bin, and of a part's result.
const ANSWERS: [(&str, u64); 2] = [
    ("a bin of 0.5 s at 50,000 rps", 25_000),
    ("the result of 30 s of it", 1_500_000),
];
const REPEATS: usize = 200;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(journal());
    histograms();
    schedule();
}

/// Milliseconds and bytes of a trial in SQLite, on the file system of the temporary folder.
async fn journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(dir.path()).await.unwrap();
    let begun = Instant::now();
    synthetic::Synthetic {
        trials: TRIALS,
        pairs: 1,
        ..synthetic::Synthetic::default()
    }
    .fill(&journal)
    .await;
    let wrote = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let trials = journal.trials().await.unwrap();
    let read = begun.elapsed().as_secs_f64();
    let probes: usize = trials.iter().map(|t| t.probes.len()).sum();
    journal.close().await;
    let bytes: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    let n = trials.len() as f64;
    println!("SQLite, {} trials with {probes} probes:", trials.len());
    println!("  {:8.2} ms a trial to write, each row durable", wrote * 1e3 / n);
    println!("  {:8.3} ms a trial to read back", read * 1e3 / n);
    println!(
        "  {:8.1} KB a trial, {:.1} KB a probe",
        bytes as f64 / 1e3 / n,
        bytes as f64 / 1e3 / probes as f64
    );
}

/// Packing, unpacking and adding one histogram: what an agent and the controller do with each.
fn histograms() {
    for (what, answers) in ANSWERS {
        let mut h = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
        let mut state = 1_u64;
        for _ in 0..answers {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let u = (state >> 11) as f64 / (1_u64 << 53) as f64;
            // A heavy tail over three decades, as of a service near its capacity.
            h.saturating_record((2_000.0 / (1.0 - u).max(1e-3).powf(0.8)) as u64);
        }
        let mut packed = String::new();
        let pack = micros(|| {
            let mut bytes = Vec::new();
            V2DeflateSerializer::new().serialize(&h, &mut bytes).unwrap();
            packed = STANDARD.encode(bytes);
        });
        let mut back = h.clone();
        let unpack = micros(|| {
            let bytes = STANDARD.decode(&packed).unwrap();
            back = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        });
        assert_eq!(back, h);
        let mut sum = h.clone();
        let add = micros(|| sum.add(&back).unwrap());
        println!(
            "histogram of {what}: {:.1} KB; pack {pack:.0} us, unpack {unpack:.0} us, add {add:.0} us",
            packed.len() as f64 / 1e3
        );
    }
}

/// Nanoseconds of an own arrival of the schedule, where so many agents share it.
fn schedule() {
    for arrivals in [Arrivals::Uniform, Arrivals::Poisson] {
        let per: Vec<String> = [1, 20, 200]
            .into_iter()
            .map(|of| {
                let mut s = Schedule::new(Rps::saturating(1e6), arrivals, 1, Part { index: 0, of });
                let begun = Instant::now();
                let mut last = 0;
                for _ in 0..100_000 {
                    last = s.next_offset();
                }
                std::hint::black_box(last);
                format!("{:.0}", begun.elapsed().as_nanos() as f64 / 1e5)
            })
            .collect();
        println!(
            "an own arrival of 1 / 20 / 200 parts, {arrivals:?}: {} ns",
            per.join(" / ")
        );
    }
}

/// Median of many runs.
fn micros(mut work: impl FnMut()) -> f64 {
    let mut all: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
