//! One reading of the journal for all renderings: a row a trial, the finals' samples, and which config stands
//! beside today's. The sentences that every rendering shares are in `headline`.

use std::collections::BTreeMap;

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::text::{CELL, clean};
use super::{FinalDecision, FinalVerdict};
use crate::capacity::{CapacityVerdict, ProbePhase, judged_loss};
use crate::space::{Config, Space};
use crate::store::StudyMeta;
use crate::trial::{Outcome, Probe, Trial, TrialPhase};

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
    /// Why the study ended without finals, where nothing was there to be compared: then today's configuration stays.
    pub ended: Option<String>,
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
    /// Good answers per second at the probe that confirmed the rate. This and what follows is None where no rate was
    /// confirmed: a race that was lost has a bound and no figures at it.
    pub goodput_rps: Option<f64>,
    /// Goodput loss there, as it was judged: what a service without a queue has in flight when the window ends is forgiven.
    pub error_ratio: Option<f64>,
    /// Upper 95 % bound of it, on the same footing.
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
    /// A rate among them is a lower bound (`[capacity] max` or the generator's limit was reached): so is the mean, and
    /// the upper end of the interval says nothing.
    pub at_least: bool,
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

    /// Why the study ended without finals, where it did: today's configuration stays.
    #[must_use]
    pub fn ended(&self) -> Option<&str> {
        match self.decision {
            Some(_) => None,
            None => self.notes.ended.as_deref(),
        }
    }

    /// The verdict's name in files: win, no_gain, worse, undecided, or not_confirmed while nothing was decided.
    #[must_use]
    pub fn verdict_name(&self) -> &'static str {
        match &self.decision {
            Some(d) => d.verdict.name(),
            None if self.ended().is_some() => FinalVerdict::NoGain.name(),
            None => "not_confirmed",
        }
    }

    /// The config that the decision's gain speaks of: the winner, or else the best candidate.
    #[must_use]
    pub fn candidate(&self) -> Option<&Config> {
        match self.decision.as_ref()? {
            d if d.verdict == FinalVerdict::Win => Some(&d.config),
            d => d.candidate.as_ref(),
        }
    }

    /// The config that is shown beside today's: the winner, else the best candidate of the finals, else the best of the
    /// search; None where that is today's.
    #[must_use]
    pub fn other(&self) -> Option<&Config> {
        let best = self.best_row().and_then(|i| self.rows.get(i)).map(|r| &r.config);
        let other = |c: &&Config| **c != self.baseline;
        self.candidate().filter(other).or_else(|| best.filter(other))
    }

    /// Today's configuration as the search measured it, first and along the way.
    #[must_use]
    pub(super) fn today_in_search(&self) -> Option<Sample> {
        let of_today = |r: &&Row| matches!(r.phase, TrialPhase::Baseline | TrialPhase::Anchor);
        gathered(self.rows.iter().filter(of_today)).pop()
    }

    /// The config to run, once the finals decided or nothing was there to decide: the winner, or today's.
    #[must_use]
    pub fn recommended(&self) -> Option<&Config> {
        if self.forced.is_some() {
            return self.forced.as_ref();
        }
        match &self.decision {
            Some(d) if d.verdict == FinalVerdict::Win => Some(&d.config),
            Some(_) => Some(&self.baseline),
            None => self.ended().map(|_| &self.baseline),
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
        let searched = |r: &Row| {
            r.phase != TrialPhase::Final
                && matches!(r.verdict, "sustainable" | "at_least" | "generator_limited")
        };
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
}

/// The probe that a trial's figures are from: the confirming one, else the last that met the objective,
/// else the last. An idle check says nothing of a service under load.
fn telling_probe(t: &Trial) -> Option<usize> {
    let confirmed = t.capacity().and_then(|c| c.confirmed_by);
    let by_number = confirmed.and_then(|n| t.probes.iter().position(|p| p.number == n));
    by_number
        .or_else(|| {
            t.probes
                .iter()
                .rposition(|p| p.phase != ProbePhase::Idle && p.verdict == crate::slo::Verdict::Meets)
        })
        .or_else(|| t.probes.iter().rposition(|p| p.phase != ProbePhase::Idle))
}

fn row(space: &Space, t: &Trial) -> Row {
    let capacity = t.capacity();
    let at = telling_probe(t);
    let probe: Option<&Probe> = at.and_then(|i| t.probes.get(i));
    // What a trial without a confirmed rate measured last is not what it does at its rate.
    let confirmed = capacity.filter(|c| c.verdict != CapacityVerdict::AtMost && c.sustainable_rps.is_some());
    let at_rate = probe.filter(|_| confirmed.is_some());
    let figure = |name: &str| {
        let of = if capacity.is_some() { at_rate } else { probe };
        of.and_then(|p| p.telemetry.get(name)).copied()
    };
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
        goodput_rps: confirmed.map(|c| c.goodput_rps),
        error_ratio: at_rate.and(at).and_then(|i| judged_loss(&t.probes, i)),
        error_ratio_upper: confirmed
            .filter(|_| at_rate.is_some())
            .map(|c| c.error_ratio_upper),
        latency_ms: at_rate.map(|p| {
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
    let mut samples = gathered(rows.iter().filter(|r| r.phase == TrialPhase::Final));
    samples.sort_by(|a, b| {
        let first = |s: &Sample| s.config != *baseline;
        first(a).cmp(&first(b)).then(b.mean_rps.total_cmp(&a.mean_rps))
    });
    samples
}

/// The rates of `rows` by config, in the order of their first rows.
fn gathered<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Sample> {
    let mut found: Vec<(Config, Vec<f64>, bool)> = Vec::new();
    for r in rows {
        let Some(x) = r.rate_rps.filter(|x| *x > 0.0 && r.verdict != "at_most") else {
            continue;
        };
        let bound = matches!(r.verdict, "at_least" | "generator_limited");
        match found.iter_mut().find(|(c, ..)| *c == r.config) {
            Some((_, rates, at_least)) => {
                rates.push(x);
                *at_least |= bound;
            }
            None => found.push((r.config.clone(), vec![x], bound)),
        }
    }
    found
        .into_iter()
        .map(|(c, rates, at_least)| Sample {
            at_least,
            ..sample(c, rates)
        })
        .collect()
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
        at_least: false,
    }
}
