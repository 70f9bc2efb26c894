//! The finals by simulation: how often the baseline against itself is called a win, how often a true gain is
//! found, and what flat services are called.

use autotune::finals::{FinalResult, FinalStep, FinalVerdict, FinalsPlan, next_final};
use autotune::space::{Config, Space, Value};
use autotune::units::Rps;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::service::normal;

struct Case {
    name: &'static str,
    /// True rates; the first is the baseline's.
    rates: &'static [f64],
    /// Relative deviation from trial to trial, and what the search had learned of it.
    noise: f64,
    believed: f64,
    /// Share of measurements that lose another 30 %.
    disturbed: f64,
    pairs: u32,
    wanted: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "A/A",
        rates: &[100.0, 100.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A, 8 % noise, 5 % believed",
        rates: &[100.0, 100.0],
        noise: 0.08,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A, 12 % noise, 5 % believed",
        rates: &[100.0, 100.0],
        noise: 0.12,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A, some disturbed",
        rates: &[100.0, 100.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 10,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A in two pairs",
        rates: &[100.0, 100.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 2,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A in two pairs, 12 % noise",
        rates: &[100.0, 100.0],
        noise: 0.12,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 2,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A in three pairs, 8 % noise",
        rates: &[100.0, 100.0],
        noise: 0.08,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 3,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "A/A in four pairs, 8 % noise",
        rates: &[100.0, 100.0],
        noise: 0.08,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 4,
        wanted: "win <= 2.5 %",
    },
    Case {
        name: "flat, three finalists",
        rates: &[100.0, 100.0, 100.0, 100.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 10,
        wanted: "no gain >= 95 %",
    },
    Case {
        name: "gain of 8 %",
        rates: &[100.0, 108.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "win >= 80 %",
    },
    Case {
        name: "gain of 8 %, some disturbed",
        rates: &[100.0, 108.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 10,
        wanted: "",
    },
    Case {
        name: "gain of 8 %, three finalists",
        rates: &[100.0, 108.0, 106.0, 104.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "win >= 80 %",
    },
    Case {
        name: "gain of 20 %, three finalists",
        rates: &[100.0, 120.0, 118.0, 110.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 10,
        wanted: "",
    },
    Case {
        name: "threefold in two pairs",
        rates: &[100.0, 300.0],
        noise: 0.08,
        believed: 0.05,
        disturbed: 0.03,
        pairs: 2,
        wanted: "",
    },
    Case {
        name: "10 % slower",
        rates: &[100.0, 90.0],
        noise: 0.05,
        believed: 0.05,
        disturbed: 0.0,
        pairs: 10,
        wanted: "",
    },
];

const RUNS: u64 = 1_000;

pub fn table(only: Option<&str>) {
    println!("\nfinals, {RUNS} simulated each: share of verdicts, mean number of trials");
    for case in CASES.iter().filter(|c| only.is_none_or(|o| c.name.contains(o))) {
        let (mut counts, mut trials) = ([0_u32; 4], 0);
        for seed in 0..RUNS {
            let (verdict, n) = play(case, seed);
            counts[match verdict {
                FinalVerdict::Win => 0,
                FinalVerdict::NoGain => 1,
                FinalVerdict::Worse => 2,
                FinalVerdict::Undecided => 3,
            }] += 1;
            trials += n;
        }
        let share = |i: usize| 100.0 * f64::from(counts[i]) / RUNS as f64;
        println!(
            "{:<34}win {:5.1} %  no gain {:5.1} %  worse {:5.1} %  undecided {:4.1} %  {:5.1} trials   {}",
            case.name,
            share(0),
            share(1),
            share(2),
            share(3),
            trials as f64 / RUNS as f64,
            case.wanted
        );
    }
}

fn play(case: &Case, seed: u64) -> (FinalVerdict, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed * 31 + 5);
    let configs: Vec<Config> = (0..case.rates.len())
        .map(|i| Config::from_iter([("c".to_owned(), Value::Int(i as i64))]))
        .collect();
    let plan = FinalsPlan::new(case.pairs, seed).with_noise(case.believed);
    let mut done: Vec<FinalResult> = Vec::new();
    // What the night does to both sides alike.
    let mut drift = 1.0;
    let mut last = 0;
    loop {
        match next_final(&plan, &Space::default(), &configs[1..], &configs[0], &done, true) {
            FinalStep::Decided(d) => return (d.verdict, done.len()),
            FinalStep::Measure { config, round } => {
                if round != last {
                    drift *= (0.03 * normal(&mut rng)).exp();
                    last = round;
                }
                let i = configs.iter().position(|c| *c == config).unwrap();
                let lost = if rng.random::<f64>() < case.disturbed {
                    0.7
                } else {
                    1.0
                };
                let rps = case.rates[i] * drift * lost * (case.noise * normal(&mut rng)).exp();
                done.push(FinalResult {
                    config,
                    round,
                    rate: Rps::new(rps).ok(),
                    interval_rps: [rps * 0.985, rps * 1.015],
                    at_least: false,
                    stable: true,
                    latency_ms_p99: None,
                    void: None,
                });
            }
        }
    }
}
