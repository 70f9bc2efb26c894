//! The search against synthetic services: how good its recommendation is after 20, 40, 60 and 100 trials, the
//! same for random, Sobol, the simplex and Optuna (where `python3 -c "import optuna"` works), the error rates
//! of the finals, and the time of an ask.
//!
//! `cargo bench --bench search` prints every table; `-- --help` lists the parts. Nothing is measured here but
//! time: the services are formulas, so any machine gives the same figures for the same seeds.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::float_cmp,
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::needless_pass_by_value
)] // tables on the terminal are its result
#![allow(missing_docs)] // a program for people
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod finals;
mod optuna;
mod race;
mod service;
mod sets;
mod times;

use race::{Options, Searcher};

const HELP: &str = "\
cargo bench --bench search -- [PART...] [--set tuning|reported] [--seeds N] [--budgets 20,40,60,100] [--noise 0.05] [--only TEXT] [--ours] [--verbose]

parts (all without any):
  race      value of the recommendation: ours, random, Sobol, simplex
  optuna    the same for Optuna's TPE (and its Gaussian process where torch is installed)
  noise     ours at 8 % noise
  cost      cheapest mode after 60 trials
  finals    A/A, power and flat services by simulation
  times     seconds of an ask at 50, 200, 500, 2,000 and 10,000 trials
";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return;
    }
    let value = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|i| args.get(i + 1))
            .cloned()
    };
    let options = Options {
        tuning: value("--set").is_some_and(|s| s == "tuning"),
        seeds: value("--seeds").and_then(|s| s.parse().ok()).unwrap_or(20),
        budgets: value("--budgets").map_or(vec![20, 40, 60, 100], |b| {
            b.split(',').filter_map(|n| n.parse().ok()).collect()
        }),
        noise: value("--noise").and_then(|s| s.parse().ok()).unwrap_or(0.05),
        only: value("--only"),
        verbose: args.iter().any(|a| a == "--verbose"),
    };
    let parts: Vec<&str> = ["race", "optuna", "noise", "cost", "finals", "times"]
        .into_iter()
        .filter(|p| args.iter().any(|a| a == p))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    if wanted("race") {
        let mut ours = vec![
            Searcher::Ours,
            Searcher::Simplex,
            Searcher::Sobol,
            Searcher::Random,
        ];
        ours.truncate(if args.iter().any(|a| a == "--ours") { 1 } else { 4 });
        race::table("value of the recommendation over the optimum", &ours, &options);
    }
    if wanted("optuna") {
        race::table(
            "the same, Optuna (illegal proposals free, log scales declared)",
            &optuna::samplers(),
            &options,
        );
    }
    if wanted("noise") {
        let loud = Options {
            noise: 0.08,
            budgets: vec![40],
            ..options.clone()
        };
        race::table("the same at 8 % noise", &[Searcher::Ours], &loud);
    }
    if wanted("cost") {
        race::cost_table(&options);
    }
    if wanted("finals") {
        finals::table(options.only.as_deref());
    }
    if wanted("times") {
        times::table(options.only.as_deref());
    }
}
