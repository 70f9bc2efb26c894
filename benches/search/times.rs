//! Seconds of an ask at 50, 200 and 500 trials.

use std::time::Instant;

use autotune::optimizer::{AskContext, GaussianProcess, Optimizer, Random};
use autotune::trial::{History, Observation, Seen, TrialPhase};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::sets;

pub fn table() {
    println!("\nseconds of an ask after 50 / 200 / 500 trials");
    for s in sets::reported() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let context = AskContext {
            seed: 1,
            ..AskContext::default()
        };
        let mut history = History::new();
        while history.len() < 500 {
            let autotune::optimizer::Ask::Config(config) = Random.ask(&s.space, &history, &context) else {
                break;
            };
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
        for n in [50, 200, 500] {
            let part: History = history.iter().take(n).cloned().collect();
            let mut seconds: Vec<f64> = (0..if n > 200 { 1 } else { 5 })
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
