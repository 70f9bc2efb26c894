//! Seconds of an ask at 50 to 10,000 trials.

use std::collections::HashSet;
use std::time::Instant;

use autotune::optimizer::{AskContext, GaussianProcess, Optimizer};
use autotune::trial::{History, Observation, Seen, TrialPhase};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::sets;

const TRIALS: [usize; 5] = [50, 200, 500, 2_000, 10_000];
/// Draws for a history; tight constraints leave fewer trials than asked for.
const DRAWS: usize = 2_000_000;

pub fn table(only: Option<&str>) {
    println!(
        "\nseconds of an ask after 50 / 200 / 500 / 2,000 / 10,000 trials (a dash: the space has fewer configs)"
    );
    for s in sets::reported() {
        if only.is_some_and(|o| !s.name.contains(o)) {
            continue;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let context = AskContext {
            seed: 1,
            ..AskContext::default()
        };
        let mut history = History::new();
        let mut tried = HashSet::new();
        for draw in 0..DRAWS {
            if history.len() == TRIALS[TRIALS.len() - 1] {
                break;
            }
            let config = match draw {
                0 => s.space.baseline(),
                _ => {
                    let point: Vec<f64> = s.space.parameters.iter().map(|_| rng.random::<f64>()).collect();
                    s.space.decode(&point)
                }
            };
            if !s.space.is_legal(&config) || !tried.insert(config.key()) {
                continue;
            }
            let seen = match s.measure(&config, 0.05, &mut rng) {
                Some(rps) => Seen::Rate {
                    rps,
                    lo: rps * 0.98,
                    hi: rps * 1.02,
                },
                None => Seen::Failed,
            };
            history.push(Observation {
                config,
                seen,
                phase: TrialPhase::Search,
                prior: false,
            });
        }
        let mut text = String::new();
        for n in TRIALS {
            if history.len() < n {
                text += "       -";
                continue;
            }
            let part: History = history.iter().take(n).cloned().collect();
            let mut seconds: Vec<f64> = (0..if n > 200 { 3 } else { 5 })
                .map(|_| {
                    let begun = Instant::now();
                    std::hint::black_box(GaussianProcess::default().ask(&s.space, &part, &context));
                    begun.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            text += &format!("{:8.3}", seconds[seconds.len() / 2]);
        }
        println!("{:<22}{text}", s.name);
    }
}
