//! Searches run against services, and the tables of what they recommend.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use autotune::optimizer::{
    Ask, AskContext, GaussianProcess, ModelFree, Optimizer, Random, Sobol, phase_of, recommend,
};
use autotune::space::Config;
use autotune::trial::{History, Observation, Seen};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::optuna::Peer;
use crate::service::Service;
use crate::sets;

#[derive(Debug, Clone)]
pub struct Options {
    pub tuning: bool,
    pub seeds: u64,
    pub budgets: Vec<usize>,
    pub noise: f64,
    pub only: Option<String>,
    pub verbose: bool,
}

/// Who searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searcher {
    Ours,
    Simplex,
    Sobol,
    Random,
    Optuna(&'static str),
}

impl Searcher {
    fn name(self) -> String {
        match self {
            Self::Ours => "autotune".to_owned(),
            Self::Simplex => "argmin's simplex".to_owned(),
            Self::Sobol => "Sobol, legal".to_owned(),
            Self::Random => "random, legal".to_owned(),
            Self::Optuna(s) => format!("Optuna {s}"),
        }
    }
}

/// One search.
struct Run {
    /// True value of the recommendation at each budget.
    values: Vec<f64>,
    /// The first trial after which the recommendation was within 5 %.
    within: Option<usize>,
    /// Share of trials that failed.
    failed: f64,
}

fn seen(rate: Option<f64>) -> Seen {
    match rate {
        Some(rps) => Seen::Rate {
            rps,
            lo: rps,
            hi: rps,
        },
        None => Seen::Failed,
    }
}

/// Others recommend the best they saw; we ask the model.
fn recommended(who: Searcher, s: &Service, history: &History) -> Option<Config> {
    if who == Searcher::Ours {
        return recommend(&s.space, history, None).map(|r| r.fastest.config);
    }
    let rate = |o: &Observation| match o.seen {
        Seen::Rate { rps, .. } => rps,
        _ => f64::NEG_INFINITY,
    };
    let best = history.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    rate(best).is_finite().then(|| best.config.clone())
}

/// Lets `who` search; what stopped early recommends the same at the later budgets.
fn search(who: Searcher, s: &Service, seed: u64, options: &Options) -> Run {
    let most = options.budgets.iter().copied().max().unwrap_or(20);
    let mut rng = ChaCha8Rng::seed_from_u64(seed * 7_919 + 13);
    let mut peer = match who {
        Searcher::Optuna(sampler) => Some(Peer::start(sampler, &s.space, seed)),
        _ => None,
    };
    let mut history = History::new();
    let mut run = Run {
        values: vec![f64::NAN; options.budgets.len()],
        within: None,
        failed: 0.0,
    };
    let context = AskContext {
        seed,
        trials: Some(most as u32),
        required: None,
    };
    for n in 1..=most {
        let ask = match (&mut peer, who) {
            (Some(p), _) => Ask::Config(p.ask(&s.space)),
            (None, Searcher::Simplex) => ModelFree.ask(&s.space, &history, &context),
            (None, Searcher::Sobol) => Sobol.ask(&s.space, &history, &context),
            (None, Searcher::Random) => Random.ask(&s.space, &history, &context),
            (None, _) => GaussianProcess::default().ask(&s.space, &history, &context),
        };
        if let Ask::Config(config) = ask {
            assert!(s.space.is_legal(&config), "{who:?} proposed {config}");
            let rate = s.measure(&config, options.noise, &mut rng);
            if let Some(p) = &mut peer {
                p.tell(rate);
            }
            let phase = phase_of(&s.space, &history, &config);
            history.push(Observation {
                config,
                seen: seen(rate),
                phase,
                prior: false,
            });
        }
        let budget = options.budgets.iter().position(|b| *b == n);
        if budget.is_none() && run.within.is_some() {
            continue;
        }
        let value = recommended(who, s, &history).map_or(0.0, |c| s.value(&c));
        if let Some(i) = budget {
            run.values[i] = value;
        }
        if run.within.is_none() && value >= 0.95 {
            run.within = Some(n);
        }
    }
    let failures = history.iter().filter(|o| o.seen == Seen::Failed).count();
    run.failed = failures as f64 / history.len().max(1) as f64;
    run
}

/// Runs `work` for every item on both cores, results in order.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let r = work(item);
                    results.lock().unwrap().push((i, r));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, r)| r).collect()
}

fn services(options: &Options) -> Vec<Service> {
    let mut all = if options.tuning {
        sets::tuning()
    } else {
        sets::reported()
    };
    if let Some(only) = &options.only {
        all.retain(|s| s.name.contains(only.as_str()));
    }
    all
}

/// The `q` quantile.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut v: Vec<f64> = values.to_vec();
    v.sort_by(f64::total_cmp);
    if v.is_empty() {
        return f64::NAN;
    }
    let at = q * (v.len() - 1) as f64;
    let (i, rest) = (at.floor() as usize, at.fract());
    v[i] + rest * (v[(i + 1).min(v.len() - 1)] - v[i])
}

pub fn table(title: &str, searchers: &[Searcher], options: &Options) {
    let services = services(options);
    let set = if options.tuning { "tuning" } else { "reported" };
    println!(
        "\n{title}; {set} set, {} seeds, {} % noise; median / 10th percentile",
        options.seeds,
        100.0 * options.noise
    );
    for who in searchers {
        let jobs: Vec<(usize, u64)> = (0..services.len())
            .flat_map(|s| (0..options.seeds).map(move |seed| (s, seed)))
            .collect();
        let runs = on_all_cores(&jobs, |(s, seed)| search(*who, &services[*s], *seed, options));
        let group = |constrained: bool| -> Vec<&Run> {
            jobs.iter()
                .zip(&runs)
                .filter(|((s, _), _)| services[*s].space.constraints.is_empty() != constrained)
                .map(|(_, r)| r)
                .collect()
        };
        for (label, runs) in [
            ("without a constraint", group(false)),
            ("10 % legal", group(true)),
        ] {
            if !runs.is_empty() {
                println!("{:<26}{label:<22}{}", who.name(), line(&runs, options));
            }
        }
        if options.verbose {
            for (i, s) in services.iter().enumerate() {
                let own: Vec<&Run> = jobs
                    .iter()
                    .zip(&runs)
                    .filter(|((k, _), _)| *k == i)
                    .map(|(_, r)| r)
                    .collect();
                println!(
                    "    {:<22}{:>5.2} legal   {}",
                    s.name,
                    s.legal_share(),
                    line(&own, options)
                );
            }
        }
    }
}

fn line(runs: &[&Run], options: &Options) -> String {
    let mut text = String::new();
    for (i, b) in options.budgets.iter().enumerate() {
        let v: Vec<f64> = runs.iter().map(|r| r.values[i]).collect();
        text += &format!("{b}: {:.3}/{:.3}  ", quantile(&v, 0.5), quantile(&v, 0.1));
    }
    let within: Vec<f64> = runs.iter().map(|r| r.within.map_or(1e9, |n| n as f64)).collect();
    let show = |x: f64| {
        if x > 1e6 {
            "never".to_owned()
        } else {
            format!("{x:.0}")
        }
    };
    let failed = runs.iter().map(|r| r.failed).sum::<f64>() / runs.len() as f64;
    format!(
        "{text}within 5 %: {} median, {} p90  failed {:.0} %",
        show(quantile(&within, 0.5)),
        show(quantile(&within, 0.9)),
        100.0 * failed
    )
}

/// Cheapest mode: cost of the recommendation over the cheapest true one within 3 %, and its value.
pub fn cost_table(options: &Options) {
    let mut services = services(options);
    services.retain(|s| s.cheapest.is_some());
    println!(
        "\ncheapest mode after 60 trials, {} seeds: cost over the cheapest within 3 % (median), value (p10)",
        options.seeds
    );
    let jobs: Vec<(usize, u64)> = (0..services.len())
        .flat_map(|s| (0..options.seeds).map(move |seed| (s, seed)))
        .collect();
    let runs = on_all_cores(&jobs, |(s, seed)| cost_run(&services[*s], *seed, options.noise));
    let show = |name: &str, runs: &[(f64, f64)]| {
        let costs: Vec<f64> = runs.iter().map(|r| r.0).collect();
        let values: Vec<f64> = runs.iter().map(|r| r.1).collect();
        println!(
            "{name:<26}cost {:.2} (p90 {:.2})   value {:.3} (p10 {:.3})",
            quantile(&costs, 0.5),
            quantile(&costs, 0.9),
            quantile(&values, 0.5),
            quantile(&values, 0.1)
        );
    };
    let limiter = |s: &Service| s.name.contains("limiter");
    let pick = |keep: &dyn Fn(&Service) -> bool| -> Vec<(f64, f64)> {
        jobs.iter()
            .zip(&runs)
            .filter(|((s, _), _)| keep(&services[*s]))
            .map(|(_, r)| *r)
            .collect()
    };
    show("all but the limiter", &pick(&|s| !limiter(s)));
    show("flat rate limiter", &pick(&limiter));
    if options.verbose {
        for s in &services {
            show(s.name, &pick(&|t| t.name == s.name));
        }
    }
}

fn cost_run(s: &Service, seed: u64, noise: f64) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed * 104_729 + 7);
    let mut history = History::new();
    let context = AskContext {
        seed,
        trials: Some(60),
        required: None,
    };
    while let Ask::Config(config) = GaussianProcess::default().ask(&s.space, &history, &context) {
        let rate = s.measure(&config, noise, &mut rng);
        let phase = phase_of(&s.space, &history, &config);
        history.push(Observation {
            config,
            seen: seen(rate),
            phase,
            prior: false,
        });
    }
    match recommend(&s.space, &history, None) {
        Some(r) => {
            let c = &r.recommended.config;
            (s.cost(c) / s.cheapest.unwrap_or(1.0), s.value(c))
        }
        None => (f64::INFINITY, 0.0),
    }
}
