//! One reading of the journal for all renderings: a row a trial, the finals' samples, the sentences that
//! every rendering shares.

use std::collections::BTreeMap;

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::text::{CELL, clean, percent, rate, signed_percent};
use super::{FinalDecision, FinalVerdict};
use crate::capacity::CapacityVerdict;
use crate::slo::Slo;
use crate::space::{Config, Space};
use crate::store::StudyMeta;
use crate::trial::{Outcome, Probe, Trial, TrialPhase};
use crate::units::show_duration;

/// An interval whose ends differ by more than this factor is none: two rounds that disagree.
const WIDEST: f64 = 10.0;

/// What a report says besides the trials and the decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Notes {
    /// One sentence on what binds the recommended config.
    pub binds: Option<String>,
    /// Host, cores, memory, kernel, engine, image ids.
    pub environment: BTreeMap<String, String>,
    /// What a reader must know.
    pub warnings: Vec<String>,
}

/// A trial as a row of figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Number within the study.
    pub trial: u32,
    /// Part of the run.
    pub phase: TrialPhase,
    /// open, measured, failed, infrastructure, interrupted.
    pub outcome: &'static str,
    /// Why: the failure and its detail, the search's remarks. Cleaned.
    pub reason: String,
    /// What was deployed.
    pub config: Config,
    /// The rate that was found, or its bound, requests per second.
    pub rate_rps: Option<f64>,
    /// Its 90 % interval.
    pub interval_rps: Option<[f64; 2]>,
    /// Good answers per second at the probe that counts.
    pub goodput_rps: Option<f64>,
    /// Goodput loss there.
    pub error_ratio: Option<f64>,
    /// Upper 95 % bound of it.
    pub error_ratio_upper: Option<f64>,
    /// p50, p95, p99 from the scheduled time there, milliseconds.
    pub latency_ms: Option<[f64; 3]>,
    /// Of the space's cost expression.
    pub cost: Option<f64>,
    /// Cores in use there.
    pub cpu_used: Option<f64>,
    /// Share of throttled periods there.
    pub throttled_ratio: Option<f64>,
    /// Largest over the trial, MiB.
    pub memory_peak_mb: Option<f64>,
    /// Largest over the trial.
    pub db_connections_peak: Option<f64>,
    /// Traffic of the busiest instance over the mean of all there; None with one instance.
    pub instance_traffic_ratio: Option<f64>,
    /// Code of the diagnosis.
    pub binding: Option<String>,
    /// sustainable, at_least, at_most, generator_limited, none; empty where nothing was measured.
    pub verdict: &'static str,
    /// Length, seconds.
    pub seconds: f64,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Round of the finals.
    pub round: Option<u32>,
    /// Where it ran.
    pub host: String,
    /// Index in its trial of the probe that the figures are from.
    pub probe: Option<usize>,
}

/// The measurements of one config in the finals.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The config.
    pub config: Config,
    /// Sustainable rates in the order of the rounds, requests per second.
    pub rates: Vec<f64>,
    /// Geometric mean, requests per second.
    pub mean_rps: f64,
    /// Its 95 % interval (Student's t on the logarithms); None below two measurements, and where it is so wide
    /// that it says nothing.
    pub interval_rps: Option<[f64; 2]>,
}

/// A study, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary<'a> {
    /// The study's facts.
    pub meta: &'a StudyMeta,
    /// Its space.
    pub space: &'a Space,
    /// Its trials, for the load curves.
    pub trials: &'a [Trial],
    /// A row for each of them.
    pub rows: Vec<Row>,
    /// Today's configuration.
    pub baseline: Config,
    /// The finals, the baseline first, then by falling rate.
    pub finals: Vec<Sample>,
    /// The decision, once there is one.
    pub decision: Option<FinalDecision>,
    /// What else is to be said.
    pub notes: Notes,
    /// A config that a person exports against the verdict.
    pub(super) forced: Option<Config>,
    /// Instances in production, where a person asks for so many, with the arithmetic of their connections.
    pub(super) instances: Option<crate::spec::Fit>,
}

/// Reads a study. `decision` is the finals'; without one nothing is recommended.
#[must_use]
pub fn summarise<'a>(
    meta: &'a StudyMeta,
    space: &'a Space,
    trials: &'a [Trial],
    decision: Option<&FinalDecision>,
) -> Summary<'a> {
    let baseline = trials
        .iter()
        .find(|t| t.phase == TrialPhase::Baseline)
        .map_or_else(|| space.baseline(), |t| t.config.clone());
    let rows: Vec<Row> = trials.iter().map(|t| row(space, t)).collect();
    let finals = samples(&rows, &baseline);
    Summary {
        meta,
        space,
        trials,
        rows,
        baseline,
        finals,
        decision: decision.cloned(),
        notes: Notes::default(),
        forced: None,
        instances: None,
    }
}

impl Summary<'_> {
    /// The same with `notes`.
    #[must_use]
    pub fn with_notes(mut self, notes: Notes) -> Self {
        self.notes = notes;
        self
    }

    /// Whether a config other than today's is recommended.
    #[must_use]
    pub fn is_win(&self) -> bool {
        self.decision
            .as_ref()
            .is_some_and(|d| d.verdict == FinalVerdict::Win)
    }

    /// The config to run, once the finals decided: the winner, or today's.
    #[must_use]
    pub fn recommended(&self) -> Option<&Config> {
        if self.forced.is_some() {
            return self.forced.as_ref();
        }
        match self.decision.as_ref()? {
            d if d.verdict == FinalVerdict::Win => Some(&d.config),
            _ => Some(&self.baseline),
        }
    }

    /// The finals' sample of `config`.
    #[must_use]
    pub fn sample(&self, config: &Config) -> Option<&Sample> {
        self.finals.iter().find(|s| s.config == *config)
    }

    /// The best rate of the search so far, finals aside: the row's index.
    #[must_use]
    pub fn best_row(&self) -> Option<usize> {
        let searched =
            |r: &Row| r.phase != TrialPhase::Final && matches!(r.verdict, "sustainable" | "at_least");
        self.rows
            .iter()
            .enumerate()
            .filter(|(_, r)| searched(r))
            .filter_map(|(i, r)| Some((i, r.rate_rps?)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(i, _)| i)
    }

    /// Host names that ran trials, in the order of their first trial.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        for t in self.trials {
            let h = clean(&t.host, CELL);
            if !h.is_empty() && !hosts.contains(&h) {
                hosts.push(h);
            }
        }
        hosts
    }

    /// The verdict in one sentence.
    #[must_use]
    pub fn headline(&self) -> String {
        let Some(d) = &self.decision else {
            return match self.best_row().and_then(|i| self.rows.get(i)) {
                Some(r) => format!(
                    "Not confirmed yet: the best trial so far carried {} rps; nothing is recommended on a single measurement.",
                    rate(r.rate_rps.unwrap_or(0.0))
                ),
                None => "Nothing measured yet.".to_owned(),
            };
        };
        if let Some(rate) = self.meta.about.required_rps.filter(|_| !d.words.is_empty()) {
            // The dual question has no gain in rate: the decision's own words say what was proven.
            let change = match d.verdict {
                FinalVerdict::Win => format!(": {}", self.changes(&d.config)),
                _ => String::new(),
            };
            return format!(
                "The cheapest configuration for {} rps; {}{change}.",
                super::text::rate(rate),
                d.words
            );
        }
        let evidence = format!(
            "95 % interval {} to {} %, {} {}",
            signed_percent(d.gain[0]),
            signed_percent(d.gain[2]),
            d.pairs,
            if d.pairs == 1 { "pair" } else { "pairs" }
        );
        let found = if d.is_compared() {
            format!(
                "the best candidate differs by {} % ({evidence})",
                signed_percent(d.gain[1])
            )
        } else {
            "too few rounds of the finals were finished to compare anything".to_owned()
        };
        match d.verdict {
            FinalVerdict::Win => format!(
                "{} % over today's configuration ({evidence}): {}.",
                signed_percent(d.gain[1]),
                self.changes(&d.config)
            ),
            FinalVerdict::NoGain => format!(
                "No gain: keep today's configuration; {found}; a gain of {} % would have been seen.",
                percent(d.minimum_detectable_gain)
            ),
            FinalVerdict::Worse => format!("Worse when measured again: keep today's configuration; {found}."),
            FinalVerdict::Undecided => format!("Undecided: keep today's configuration; {found}."),
        }
    }

    /// "raise pool_size 5 -> 24, keep cpus 1".
    #[must_use]
    pub fn changes(&self, to: &Config) -> String {
        let mut changed = Vec::new();
        let mut kept = Vec::new();
        for p in &self.space.parameters {
            let name = clean(&p.name, 80);
            let show = |v: &crate::space::Value| clean(&v.to_string(), 80);
            match (self.baseline.get(&p.name), to.get(&p.name)) {
                (Some(a), Some(b)) if a == b || a.as_f64().is_some_and(|x| Some(x) == b.as_f64()) => {
                    kept.push(format!("{name} {}", show(b)));
                }
                (Some(a), Some(b)) => {
                    let verb = match (a.as_f64(), b.as_f64()) {
                        (Some(x), Some(y)) if y > x => "raise",
                        (Some(_), Some(_)) => "lower",
                        _ => "set",
                    };
                    changed.push(format!("{verb} {name} {} → {}", show(a), show(b)));
                }
                (None, Some(b)) => changed.push(format!("set {name} {}", show(b))),
                (Some(_), None) => changed.push(format!("{name} no longer applies")),
                (None, None) => {}
            }
        }
        if !kept.is_empty() {
            changed.push(format!("keep {}", kept.join(", ")));
        }
        changed.join(", ")
    }
}

/// The objective as people read it: "at most 5 % errors, p99 within 250 ms".
#[must_use]
pub fn objective_words(slo: &Slo) -> String {
    let mut words = format!("at most {} % errors", percent(slo.errors.get()));
    for (name, limit) in [("p95", slo.p95), ("p99", slo.p99), ("mean", slo.mean)] {
        if let Some(d) = limit {
            words.push_str(&format!(", {name} within {}", show_duration(d)));
        }
    }
    words
}

/// The probe that a trial's figures are from: the confirming one, else the last that met the objective,
/// else the last.
fn telling_probe(t: &Trial) -> Option<usize> {
    let confirmed = t.capacity().and_then(|c| c.confirmed_by);
    let by_number = confirmed.and_then(|n| t.probes.iter().position(|p| p.number == n));
    by_number
        .or_else(|| {
            t.probes
                .iter()
                .rposition(|p| p.verdict == crate::slo::Verdict::Meets)
        })
        .or_else(|| t.probes.len().checked_sub(1))
}

fn row(space: &Space, t: &Trial) -> Row {
    let capacity = t.capacity();
    let at = telling_probe(t);
    let probe: Option<&Probe> = at.and_then(|i| t.probes.get(i));
    let figure = |name: &str| probe.and_then(|p| p.telemetry.get(name)).copied();
    let peak = |name: &str| {
        t.probes
            .iter()
            .filter_map(|p| p.telemetry.get(name))
            .copied()
            .reduce(f64::max)
    };
    let (outcome, reason) = match &t.outcome {
        None => ("open", String::new()),
        Some(Outcome::Measured { capacity }) => ("measured", clean(&capacity.reasons.join("; "), CELL)),
        Some(Outcome::Failed { failure, detail }) => {
            ("failed", clean(&format!("{}: {detail}", failure.name()), CELL))
        }
        Some(Outcome::Infrastructure { detail }) => ("infrastructure", clean(detail, CELL)),
        Some(Outcome::Interrupted) => ("interrupted", String::new()),
    };
    let measured = capacity.is_some();
    Row {
        trial: t.number,
        phase: t.phase,
        outcome,
        reason,
        config: t.config.clone(),
        rate_rps: capacity.and_then(|c| match c.verdict {
            CapacityVerdict::AtMost => Some(c.interval_rps[1]),
            CapacityVerdict::None => None,
            _ => c.sustainable_rps,
        }),
        interval_rps: capacity.and_then(|c| c.sustainable_rps.map(|_| c.interval_rps)),
        goodput_rps: capacity.map(|c| c.goodput_rps),
        error_ratio: probe.filter(|_| measured).map(|p| p.measurement.loss()),
        error_ratio_upper: capacity.filter(|_| probe.is_some()).map(|c| c.error_ratio_upper),
        latency_ms: probe.filter(|_| measured).map(|p| {
            let l = p.measurement.latency_ms;
            [l.p50, l.p95, l.p99]
        }),
        cost: space.cost_of(&t.config).ok().flatten(),
        cpu_used: figure("cpu_used"),
        throttled_ratio: figure("throttled_ratio"),
        memory_peak_mb: peak("memory_peak_mb"),
        db_connections_peak: peak("db_connections_peak"),
        instance_traffic_ratio: figure("instance_traffic_ratio"),
        binding: t.binding.as_deref().map(|b| clean(b, 80)),
        verdict: capacity.map_or("", |c| verdict_name(c.verdict)),
        seconds: t.seconds,
        started_at: clean(&t.started_at, 40),
        round: t.round,
        host: clean(&t.host, 80),
        probe: at,
    }
}

fn verdict_name(v: CapacityVerdict) -> &'static str {
    match v {
        CapacityVerdict::Sustainable => "sustainable",
        CapacityVerdict::AtLeast => "at_least",
        CapacityVerdict::GeneratorLimited => "generator_limited",
        CapacityVerdict::AtMost => "at_most",
        CapacityVerdict::None => "none",
    }
}

/// The finals by config, the baseline first, then by falling rate.
fn samples(rows: &[Row], baseline: &Config) -> Vec<Sample> {
    let mut found: Vec<(Config, Vec<f64>)> = Vec::new();
    for r in rows.iter().filter(|r| r.phase == TrialPhase::Final) {
        let Some(x) = r.rate_rps.filter(|x| *x > 0.0 && r.verdict != "at_most") else {
            continue;
        };
        match found.iter_mut().find(|(c, _)| *c == r.config) {
            Some((_, rates)) => rates.push(x),
            None => found.push((r.config.clone(), vec![x])),
        }
    }
    let mut samples: Vec<Sample> = found.into_iter().map(|(c, rates)| sample(c, rates)).collect();
    samples.sort_by(|a, b| {
        let first = |s: &Sample| s.config != *baseline;
        first(a).cmp(&first(b)).then(b.mean_rps.total_cmp(&a.mean_rps))
    });
    samples
}

/// Geometric mean and Student's t interval of the logarithms: rates of repeats scatter by a factor.
#[allow(clippy::cast_precision_loss)]
fn sample(config: Config, rates: Vec<f64>) -> Sample {
    let n = rates.len() as f64;
    let logs: Vec<f64> = rates.iter().map(|x| x.ln()).collect();
    let mean = logs.iter().sum::<f64>() / n;
    let interval_rps = (rates.len() >= 2).then(|| {
        let var = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let t = StudentsT::new(0.0, 1.0, n - 1.0).map_or(f64::INFINITY, |d| d.inverse_cdf(0.975));
        let half = t * (var / n).sqrt();
        [(mean - half).exp(), (mean + half).exp()]
    });
    let interval_rps = interval_rps.filter(|[lo, hi]| *hi <= WIDEST * *lo);
    Sample {
        config,
        rates,
        mean_rps: mean.exp(),
        interval_rps,
    }
}
