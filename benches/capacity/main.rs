//! The capacity search against services whose truth is known, beside the rules of its peers, in virtual time.
//!
//!     cargo bench --bench capacity -- [--seeds 40] [--noise 2%|5%] [--only NAME] [--no-peers] [--capacity 200] [--off] [--trace SEED]
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

mod peers;

use std::ops::ControlFlow;

use autotune::capacity::simulated::{Law, Model, Service};
use autotune::capacity::{
    Capacity, CapacityVerdict, Plan, ProbePhase, ProbePlan, Step, Watch, after_restart, conclude, judge,
    next_step,
};
use autotune::measurement::Measurement;
use autotune::slo::{Slo, Verdict};
use autotune::trial::Probe;
use autotune::units::Rps;

const CAPACITIES: [f64; 5] = [5.0, 30.0, 200.0, 1500.0, 20_000.0];

/// What one run of a method cost and gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// The reported rate, where there is one.
    pub rate: Option<f64>,
    /// 90 % interval, where the method has one.
    pub interval: Option<[f64; 2]>,
    /// Virtual seconds.
    pub seconds: f64,
    /// Highest offered rate.
    pub peak: f64,
    /// (rate, seconds) of everything that was offered.
    pub offered: Vec<(f64, f64)>,
    /// The truth, to compare with.
    pub truth: f64,
    /// Kept its rate in a soak of five minutes.
    pub soaked: Option<bool>,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|i| args.get(i + 1))
            .cloned()
    };
    let seeds: u64 = value("--seeds").and_then(|s| s.parse().ok()).unwrap_or(40);
    let noise = value("--noise")
        .and_then(|s| s.trim_end_matches('%').parse::<f64>().ok())
        .unwrap_or(2.0)
        / 100.0;
    let only = value("--only");
    let capacity: Option<f64> = value("--capacity").and_then(|s| s.parse().ok());
    if let Some(seed) = value("--trace").and_then(|s| s.parse().ok()) {
        return trace(
            only.as_deref().unwrap_or("pool 30 s"),
            capacity.unwrap_or(200.0),
            noise,
            seed,
        );
    }
    let capacities: Vec<f64> = CAPACITIES
        .into_iter()
        .filter(|c| capacity.is_none_or(|x| x == *c))
        .collect();
    let mut methods: Vec<(&str, fn(Model, u64) -> Run)> = vec![("autotune", ours)];
    if !args.iter().any(|a| a == "--no-peers") {
        methods.extend(peers::METHODS);
    }
    println!(
        "{seeds} seeds x capacities {capacities:?} rps, noise between probes {:.0} %",
        noise * 100.0
    );
    println!("{}", Row::HEAD);
    for (name, method) in methods {
        let mut all = Vec::new();
        for (service, law) in laws() {
            if only.as_ref().is_some_and(|o| o != service) {
                continue;
            }
            let mut runs = Vec::new();
            for c in &capacities {
                let model = |seed| model_of(*c, law, noise, seed);
                runs.extend((0..seeds).map(|seed| soaked(model(seed), seed, method(model(seed), seed))));
            }
            println!("{}", Row::of(name, service, &runs));
            if args.iter().any(|a| a == "--off") {
                list_off(service, &capacities, seeds, &runs);
            }
            all.extend(runs);
        }
        println!("{}", Row::of(name, "ALL", &all));
        for c in &capacities {
            let some: Vec<Run> = all
                .iter()
                .filter(|r| r.truth > c * 0.9 && r.truth < c * 1.1)
                .cloned()
                .collect();
            println!("{}", Row::of(name, &format!("at {c} rps"), &some));
        }
    }
    race(seeds, noise, &capacities);
}

/// The runs that are off by more than 5 % or fail the soak, to be looked at with `--trace`.
fn list_off(service: &str, capacities: &[f64], seeds: u64, runs: &[Run]) {
    let of = capacities.iter().flat_map(|c| (0..seeds).map(move |s| (*c, s)));
    for ((c, seed), r) in of.zip(runs) {
        let error = r.rate.map_or(-1.0, |x| x / r.truth - 1.0);
        if error.abs() > 0.05 || r.soaked == Some(false) {
            println!(
                "    --only '{service}' --capacity {c} --trace {seed}: {:.1} %, {:.0} s, soaked {:?}",
                error * 100.0,
                r.seconds,
                r.soaked
            );
        }
    }
}

/// Few or many servers, by the seed: what the idle latency tells of the capacity differs as widely in life.
fn model_of(capacity: f64, law: Law, noise: f64, seed: u64) -> Model {
    let servers = [1, 2, 5, 12, 30, 64, 100][(seed % 7) as usize];
    let base = Model::new(capacity, law).with_noise(noise);
    Model {
        servers: servers.min((capacity / 4.0).ceil() as u32).max(1),
        ..base
    }
}

fn laws() -> Vec<(&'static str, Law)> {
    vec![
        ("hard limit", Law::HardLimit),
        ("pool 1 s", Law::PoolQueue { timeout_s: 1.0 }),
        ("pool 5 s", Law::PoolQueue { timeout_s: 5.0 }),
        ("pool 30 s", Law::PoolQueue { timeout_s: 30.0 }),
        ("random", Law::RandomService { cv: 0.5 }),
        ("logistic", Law::Logistic { width: 0.05 }),
        ("cold start", Law::ColdStart { tau_s: 3.0 }),
        (
            "stall",
            Law::Stall {
                every_s: 20.0,
                length_s: 1.0,
            },
        ),
        ("metastable", Law::Metastable { after_s: 5.0 }),
        ("collapse", Law::Collapse { power: 2.0 }),
        ("rate limiter", Law::RateLimiter),
        ("2 % errors", Law::Background { errors: 0.02 }),
        (
            "bursts",
            Law::Bursts {
                every_s: 10.0,
                length_s: 0.2,
            },
        ),
    ]
}

/// The highest rate that may be offered: what an operator who knows nothing would allow.
pub fn max_rate(model: Model) -> f64 {
    (3.0 * model.capacity).max(5000.0)
}

fn plan(model: Model) -> Plan {
    Plan {
        min: Rps::saturating(0.5),
        ..Plan::new(Slo::default(), Rps::saturating(max_rate(model)))
    }
}

fn ours(model: Model, seed: u64) -> Run {
    let (found, probes, seconds) = search(&plan(model), model, seed);
    Run {
        rate: found.sustainable_rps,
        interval: Some(found.interval_rps),
        seconds,
        peak: found.peak_offered_rps,
        offered: probes
            .iter()
            .map(|(p, lead_s)| (p.measurement.offered.get(), p.measurement.window_s + lead_s))
            .collect(),
        truth: model.truth(0.05),
        soaked: None,
    }
}

/// The search's steps on a simulated service: the driver of `probing`, without waiting.
fn search(plan: &Plan, model: Model, seed: u64) -> (Capacity, Vec<(Probe, f64)>, f64) {
    let mut service = Service::new(model, seed);
    let (mut probes, mut leads): (Vec<Probe>, Vec<f64>) = (Vec::new(), Vec::new());
    let found = loop {
        let probe = match next_step(plan, &probes) {
            Step::Done(found) => break found,
            Step::Probe(probe) => probe,
            Step::Restart { .. } => {
                service.restart();
                after_restart(plan)
            }
        };
        let mut watch = Watch::new(plan, &probe);
        let measurement = service.drive(&probe, &mut |b| watch.observe(b));
        let j = judge(plan, &probe, &measurement);
        leads.push(probe.lead_in.as_secs_f64());
        probes.push(Probe {
            number: probes.len() as u32 + 1,
            phase: probe.phase,
            recovered: Some(measurement.drained_s.is_some()),
            measurement,
            verdict: j.verdict,
            reason: j.reason,
            loss_upper: j.loss_upper,
            telemetry: Default::default(),
        });
        if probes.len() > 500 {
            break conclude(plan, &probes, Some("endless"));
        }
    };
    (found, probes.into_iter().zip(leads).collect(), service.now_s())
}

/// Five minutes at the reported rate, judged like a confirmation.
fn soaked(model: Model, seed: u64, run: Run) -> Run {
    let Some(rate) = run.rate else { return run };
    let mut service = Service::new(
        Model {
            law: model.law,
            ..model
        },
        seed ^ 0x50a4,
    );
    let idle = ProbePlan::new(
        ProbePhase::WarmUp,
        Rps::saturating(rate * 0.4),
        std::time::Duration::from_secs(20),
    );
    service.drive(&idle, &mut |_| ControlFlow::Continue(()));
    let parts = service.soak(Rps::saturating(rate), 300.0);
    let mut whole = Measurement::empty(Rps::saturating(rate), std::time::Duration::from_secs(300));
    for part in parts {
        let at: f64 = whole.bins.last().map_or(0.0, |b| b.start_s + b.width_s);
        whole
            .bins
            .extend(part.bins.iter().map(|b| autotune::measurement::Bin {
                start_s: at + b.start_s,
                // What a part could not finish is good if a later part finishes it: flows, not levels.
                scheduled_good: b.completed_good.min(b.scheduled),
                ..*b
            }));
        whole.scheduled += part.scheduled;
        whole.good += part.bins.iter().map(|b| b.completed_good).sum::<u64>();
        whole.in_flight_end = part.bins.last().map_or(0, |b| b.in_flight_end);
        whole.drained_s = part.drained_s;
        whole.latency_ms = part.latency_ms;
        whole.generator = part.generator;
    }
    let lost = 1.0 - whole.good as f64 / whole.scheduled.max(1) as f64;
    let plan = plan(model);
    let probe = ProbePlan::new(
        ProbePhase::Growth,
        Rps::saturating(rate),
        std::time::Duration::from_secs(300),
    );
    // Flow counts per bin make stalls look like losses: only the whole and the trend are judged.
    whole.bins.iter_mut().for_each(|b| b.scheduled_good = b.scheduled);
    let growth = judge(&plan, &probe, &whole).verdict == Verdict::Violates;
    Run {
        soaked: Some(lost <= 0.05 && !growth),
        ..run
    }
}

/// Races against an incumbent: clear losers, near losers, winners.
fn race(seeds: u64, noise: f64, capacities: &[f64]) {
    println!(
        "\nrace: truth over incumbent | cut short | won | seconds median, max | bracket holds the truth"
    );
    for share in [0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 1.1, 1.5] {
        let (mut cut, mut won, mut holds, mut times) = (0, 0, 0, Vec::new());
        for (_, law) in laws() {
            for c in capacities {
                for seed in 0..seeds.div_ceil(4) {
                    let model = model_of(*c, law, noise, seed);
                    let incumbent = Rps::saturating(model.truth(0.05) / share);
                    let plan = Plan {
                        incumbent: Some(incumbent),
                        prior: Some(incumbent),
                        ..plan(model)
                    };
                    let (found, _, seconds) = search(&plan, model, seed);
                    let truth = model.truth(0.05);
                    cut += u32::from(found.verdict == CapacityVerdict::AtMost);
                    won += u32::from(found.sustainable_rps.is_some_and(|r| r > incumbent.get()));
                    holds += u32::from(truth <= found.interval_rps[1]);
                    times.push(seconds);
                }
            }
        }
        let n = times.len() as f64;
        times.sort_by(f64::total_cmp);
        println!(
            "{share:>5.2} | {:>5.1} % | {:>5.1} % | {:>5.1} {:>6.1} | {:>5.1} %",
            100.0 * f64::from(cut) / n,
            100.0 * f64::from(won) / n,
            times[times.len() / 2],
            times[times.len() - 1],
            100.0 * f64::from(holds) / n
        );
    }
}

/// Prints one search probe by probe.
fn trace(name: &str, capacity: f64, noise: f64, seed: u64) {
    let Some((_, law)) = laws().into_iter().find(|l| l.0 == name) else {
        println!("no service '{name}'");
        return;
    };
    let model = model_of(capacity, law, noise, seed);
    let (found, probes, seconds) = search(&plan(model), model, seed);
    for (p, lead_s) in probes {
        let m = &p.measurement;
        println!(
            "{:>3} {:<8} {:>9.1} rps {:>5.1} + {lead_s:.1} s  goodput {:>9.1}  loss {:>5.1} %  in flight {:>6}  {:?}: {}",
            p.number,
            format!("{:?}", p.phase),
            m.offered.get(),
            m.window_s,
            m.goodput_rps(),
            m.loss() * 100.0,
            m.in_flight_end,
            p.verdict,
            p.reason
        );
    }
    println!("truth {:.1}, {seconds:.1} s: {found:#?}", model.truth(0.05));
}

/// One line of the table.
struct Row;

impl Row {
    const HEAD: &'static str = "method     service       |   n none | error % p5 median p95 | off>5% | seconds med p90 | peak med  max | s>1.25x med max | covered | soak fails";

    fn of(method: &str, service: &str, runs: &[Run]) -> String {
        let found: Vec<&Run> = runs.iter().filter(|r| r.rate.is_some()).collect();
        let errors = sorted(
            found
                .iter()
                .filter_map(|r| Some(100.0 * (r.rate? / r.truth - 1.0))),
        );
        let off = errors.iter().filter(|e| e.abs() > 5.0).count() + runs.len() - found.len();
        let seconds = sorted(runs.iter().map(|r| r.seconds));
        let peaks = sorted(runs.iter().map(|r| r.peak / r.truth));
        let over = sorted(runs.iter().map(|r| {
            r.offered
                .iter()
                .filter(|o| o.0 > 1.25 * r.truth)
                .map(|o| o.1)
                .sum::<f64>()
        }));
        let share = |k: usize, n: usize| {
            if n == 0 {
                f64::NAN
            } else {
                100.0 * k as f64 / n as f64
            }
        };
        let with: Vec<([f64; 2], f64)> = runs.iter().filter_map(|r| Some((r.interval?, r.truth))).collect();
        let covered = with.iter().filter(|(i, t)| i[0] <= *t && *t <= i[1]).count();
        let soaked = runs.iter().filter(|r| r.soaked == Some(false)).count();
        format!(
            "{method:<10} {service:<13} | {:>4} {:>3} | {:>6.1} {:>6.1} {:>6.1} | {:>5.1} | {:>6.1} {:>6.1} | {:>5.2} {:>6.2} | {:>5.1} {:>5.1} | {:>5.1} | {:>5.1}",
            runs.len(),
            runs.len() - found.len(),
            at(&errors, 0.05),
            at(&errors, 0.5),
            at(&errors, 0.95),
            share(off, runs.len()),
            at(&seconds, 0.5),
            at(&seconds, 0.9),
            at(&peaks, 0.5),
            at(&peaks, 1.0),
            at(&over, 0.5),
            at(&over, 1.0),
            share(covered, with.len()),
            share(soaked, found.len())
        )
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v
}

fn at(sorted: &[f64], q: f64) -> f64 {
    let i = ((sorted.len().saturating_sub(1)) as f64 * q).round() as usize;
    sorted.get(i).copied().unwrap_or(f64::NAN)
}
