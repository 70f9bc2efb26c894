//! A study made up from arithmetic, written through the journal: realistic enough to look at, the same for
//! the same seed. Capacity follows a pool that saturates, a CPU quota and a database that suffers from too
//! many connections; failures, faults and generator limits are strewn in.

use std::collections::BTreeMap;
use std::time::Duration;

use autotune::capacity::{Capacity, CapacityVerdict, ProbePhase};
use autotune::expr::Expr;
use autotune::measurement::{Bin, GeneratorHealth, Histograms, Measurement, OutcomeClass, Quantiles};
use autotune::report::{FinalDecision, FinalVerdict};
use autotune::slo::{Slo, Verdict};
use autotune::space::{Binding, Config, Constraint, Domain, Limit, Parameter, Space, Value};
use autotune::store::{About, Journal, NewTrial, SpaceRecord, StudyMeta, TrialEnd, kinds};
use autotune::trial::{Failure, Outcome, Probe, TrialPhase};
use autotune::units::{Ratio, Rps};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What to make up.
#[derive(Debug, Clone, Copy)]
pub struct Synthetic {
    pub trials: u32,
    pub probes: u32,
    pub pairs: u32,
    pub seed: u64,
    /// Keep full histograms with each probe.
    pub histograms: bool,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            trials: 60,
            probes: 12,
            pairs: 8,
            seed: 7,
            histograms: false,
        }
    }
}

pub fn int(low: i64, high: i64) -> Domain {
    Domain::Int {
        low,
        high,
        step: 1,
        log: false,
    }
}

pub fn space() -> Space {
    let p = |name: &str, domain, baseline, binding| Parameter {
        name: name.to_owned(),
        domain,
        baseline,
        binding,
        only_if: None,
    };
    let env = |n: &str| Binding::Env(n.to_owned());
    let mut s = Space {
        parameters: vec![
            p("pool_size", int(1, 50), Value::Int(5), env("POOL_SIZE")),
            p("max_overflow", int(0, 20), Value::Int(10), env("MAX_OVERFLOW")),
            p(
                "cpus",
                Domain::Float {
                    low: 0.25,
                    high: 2.0,
                    step: Some(0.25),
                    log: false,
                },
                Value::Float(1.0),
                Binding::Limit(Limit::Cpus),
            ),
            p(
                "memory",
                Domain::Int {
                    low: 128,
                    high: 1024,
                    step: 64,
                    log: false,
                },
                Value::Int(512),
                Binding::Limit(Limit::Memory),
            ),
            p(
                "cache",
                Domain::Choice {
                    values: vec![Value::Text("on".into()), Value::Text("off".into())],
                },
                Value::Text("off".into()),
                env("CACHE"),
            ),
        ],
        ..Space::default()
    };
    let names = Space::names(&s.parameters);
    s.constraints.push(Constraint {
        that: Expr::compile("pool_size + max_overflow <= 60", &names).unwrap(),
        why: "max_connections of the database".into(),
    });
    s.cost = Some(Expr::compile("cpus + memory / 2048", &names).unwrap());
    s
}

pub fn meta(space: &Space) -> StudyMeta {
    StudyMeta {
        name: "shop-api pool".into(),
        seed: 7,
        spec_hash: "9f2c41d0aa".into(),
        section_hashes: BTreeMap::from([
            ("load".into(), "aa11".into()),
            ("parameters".into(), "bb22".into()),
        ]),
        identity: "sha256:2c9fbb1f4f0a".into(),
        version: "0.1.0".into(),
        created_at: "2026-05-04T22:00:00Z".into(),
        space: SpaceRecord::of(space),
        about: About {
            slo: Slo {
                p99: Some(Duration::from_millis(250)),
                errors: Ratio::new(0.05).unwrap(),
                ..Slo::default()
            },
            service: Some("api".into()),
            kind: "docker".into(),
            requests: vec!["GET /items/{id} (70 %)".into(), "POST /orders (30 %)".into()],
            confirm_s: 30.0,
            max_rps: 2_000.0,
            ..About::default()
        },
    }
}

fn value_of(c: &Config, name: &str) -> f64 {
    c.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// The true sustainable rate of a config, requests per second.
pub fn truth(c: &Config) -> f64 {
    let pool = value_of(c, "pool_size") + 0.35 * value_of(c, "max_overflow");
    let cached = c.get("cache") == Some(&Value::Text("on".into()));
    let hold = if cached { 0.040 } else { 0.050 };
    let by_pool = pool / hold;
    let by_cpu = 330.0 * value_of(c, "cpus").powf(0.9) * if cached { 1.1 } else { 1.0 };
    let by_db = 460.0 / (1.0 + (pool / 45.0).powi(3));
    // Limits meet softly: 1/x^4 adds up.
    (by_pool.powi(-4) + by_cpu.powi(-4) + by_db.powi(-4)).powf(-0.25)
}

/// A probe of a service that sustains `capacity`, offered `offered`.
pub fn probe(
    rng: &mut ChaCha8Rng,
    n: u32,
    phase: ProbePhase,
    offered: f64,
    capacity: f64,
    full: bool,
) -> Probe {
    let window = if phase == ProbePhase::Confirm { 30.0 } else { 8.0 };
    let scheduled = (offered * window) as u64;
    let over = (offered / capacity - 1.0).max(0.0);
    let loss = (over / (1.0 + over)) * rng.random_range(0.9..1.1) + 0.002 * rng.random::<f64>();
    let good = scheduled - ((scheduled as f64 * loss.min(1.0)) as u64);
    let stuck = ((scheduled - good) as f64 * 0.2) as u64;
    let load = (offered / capacity).min(0.995);
    let p50 = 6.0 / (1.0 - 0.85 * load) * rng.random_range(0.95..1.05)
        + if over > 0.0 { 900.0 * over.min(1.0) } else { 0.0 };
    let q = |f: f64| (p50 * f * 1e3).round() / 1e3;
    let mut m = Measurement::empty(Rps::new(offered).unwrap(), Duration::from_secs_f64(window));
    m.scheduled = scheduled;
    m.sent = scheduled;
    m.good = good;
    m.in_flight_end = stuck;
    let failed = scheduled - good - stuck;
    if failed > 0 {
        m.errors.insert(OutcomeClass::PoolTimeout, failed - failed / 8);
        m.errors.insert(OutcomeClass::ClientTimeout, failed / 8);
    }
    m.statuses = BTreeMap::from([(200, good), (503, failed)]);
    m.latency_ms = Quantiles {
        mean: q(1.2),
        p50: q(1.0),
        p90: q(1.9),
        p95: q(2.4),
        p99: q(4.1),
        p999: q(7.0),
        max: q(9.0),
    };
    m.service_ms = m.latency_ms;
    m.generator = GeneratorHealth {
        send_lag_ms: Quantiles {
            p50: 0.05,
            p99: 0.4,
            max: 1.3,
            ..Quantiles::default()
        },
        cpu_ratio: 0.2,
        timeout_s: 10.0,
        ..GeneratorHealth::default()
    };
    let bins = (window * 2.0) as u64;
    m.bins = (0..bins)
        .map(|i| Bin {
            start_s: i as f64 * 0.5,
            width_s: 0.5,
            scheduled: scheduled / bins,
            scheduled_good: good / bins,
            completed_good: good / bins,
            completed_bad: failed / bins,
            in_flight_end: stuck * i / bins,
            latency_ms_p50: q(1.0),
            latency_ms_p95: q(2.4),
        })
        .collect();
    if full {
        let mut h = Histogram::new_with_bounds(1, 120_000_000, 3).unwrap();
        for i in 0..good.min(5_000) {
            h.record((p50 * 1e3 * (0.6 + 1.2 * (i as f64 / 5e3))) as u64 + 1)
                .unwrap();
        }
        m.histograms = Some(Box::new(Histograms {
            service: h.clone(),
            latency: h,
            by_class: BTreeMap::new(),
        }));
    }
    let meets = m.loss() <= 0.05 && m.latency_ms.p99 <= 250.0;
    Probe {
        number: n,
        phase,
        verdict: if meets { Verdict::Meets } else { Verdict::Violates },
        reason: if meets {
            String::new()
        } else {
            format!("{:.1} % lost", m.loss() * 100.0)
        },
        loss_upper: m.loss() + 0.004,
        recovered: None,
        telemetry: BTreeMap::from([
            (
                "cpu_used".into(),
                (offered.min(capacity) / 330.0 * 100.0).round() / 100.0,
            ),
            ("throttled_ratio".into(), if load > 0.9 { 0.2 } else { 0.0 }),
            ("memory_peak_mb".into(), 140.0 + 40.0 * load),
            (
                "db_connections_peak".into(),
                (offered.min(capacity) * 0.05).ceil(),
            ),
        ]),
        measurement: m,
    }
}

impl Synthetic {
    /// Writes the whole study into `journal`.
    pub async fn fill(self, journal: &impl Journal) {
        let space = space();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        journal.create(&meta(&space)).await.unwrap();
        let environment =
            serde_json::json!({ "cores": "8", "memory": "16 GiB", "kernel": "6.1.0", "docker": "24.0.7" });
        journal.log(kinds::ENVIRONMENT, &environment).await.unwrap();
        let baseline = space.baseline();
        let mut best: Vec<(f64, Config)> = Vec::new();
        for n in 0..self.trials {
            let (phase, config) = match n {
                0 => (TrialPhase::Baseline, baseline.clone()),
                n if n % 12 == 0 => (TrialPhase::Anchor, baseline.clone()),
                n => (TrialPhase::Search, self.pick(&space, &mut rng, &best, n)),
            };
            let rate = self.trial(journal, &mut rng, phase, &config, None).await;
            if let Some(rate) = rate.filter(|_| phase == TrialPhase::Search) {
                best.push((rate, config));
                best.sort_by(|a, b| b.0.total_cmp(&a.0));
            }
        }
        self.finals(journal, &mut rng, &baseline, best).await;
    }

    /// One more measured trial of a study under way.
    pub async fn one_more(self, journal: &impl Journal) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed + 1);
        let mut config = space().baseline();
        config.set("pool_size", Value::Int(11));
        self.trial(journal, &mut rng, TrialPhase::Search, &config, None)
            .await;
    }

    /// Random at first, then near the best: the shape of a model's search.
    fn pick(self, space: &Space, rng: &mut ChaCha8Rng, best: &[(f64, Config)], n: u32) -> Config {
        for _ in 0..1_000 {
            let near = best.get(rng.random_range(0..3)).filter(|_| n > self.trials / 3);
            let point: Vec<f64> = match near {
                Some((_, c)) => space
                    .encode(c)
                    .iter()
                    .map(|u| u + rng.random_range(-0.15..0.15))
                    .collect(),
                None => space.parameters.iter().map(|_| rng.random()).collect(),
            };
            let c = space.decode(&point);
            if space.is_legal(&c) {
                return c;
            }
        }
        space.baseline()
    }

    async fn trial(
        self,
        journal: &impl Journal,
        rng: &mut ChaCha8Rng,
        phase: TrialPhase,
        config: &Config,
        round: Option<u32>,
    ) -> Option<f64> {
        let new = NewTrial {
            phase,
            config: config.clone(),
            round,
            host: "bench-1".into(),
        };
        let number = journal.begin_trial(&new).await.unwrap();
        let final_ = phase == TrialPhase::Final;
        let end = |outcome, binding: Option<&str>| TrialEnd {
            outcome,
            seconds: f64::from(self.probes) * 10.0,
            binding: binding.map(str::to_owned),
        };
        if number % 29 == 17 && !final_ {
            let outcome = Outcome::Infrastructure {
                detail: "the Docker engine did not answer for 30 s".into(),
            };
            journal.finish_trial(number, &end(outcome, None)).await.unwrap();
            return None;
        }
        if value_of(config, "memory") < 192.0 {
            let detail = "exit code 137 after 4.1 s of 120 rps; last line: worker 2 started".into();
            let outcome = Outcome::Failed {
                failure: Failure::Oom,
                detail,
            };
            journal
                .finish_trial(number, &end(outcome, Some("memory")))
                .await
                .unwrap();
            return None;
        }
        let noise: f64 = 1.0 + 0.02 * (rng.random::<f64>() + rng.random::<f64>() + rng.random::<f64>() - 1.5);
        let capacity = truth(config) * noise;
        let probes = if final_ { self.probes.min(5) } else { self.probes };
        for n in 1..=probes {
            let (phase, offered) = match n {
                1 => (ProbePhase::Idle, 2.0),
                2 => (ProbePhase::WarmUp, capacity * 0.4),
                n if n == probes => (ProbePhase::Confirm, capacity * 0.98),
                n if n <= probes / 2 + 1 => (
                    ProbePhase::Growth,
                    capacity * 0.35 * 1.35_f64.powf(f64::from(n - 2)),
                ),
                n => (
                    ProbePhase::Refine,
                    capacity * (1.0 + 0.3 * 0.6_f64.powf(f64::from(n - probes / 2))),
                ),
            };
            let p = probe(rng, n, phase, offered.max(1.0), capacity, self.histograms);
            journal.record_probe(number, &p).await.unwrap();
        }
        let rate = capacity * 0.98;
        let limited = number % 37 == 36 && !final_;
        let capacity = Capacity {
            verdict: if limited {
                CapacityVerdict::GeneratorLimited
            } else {
                CapacityVerdict::Sustainable
            },
            sustainable_rps: Some(rate),
            goodput_rps: rate * 0.985,
            interval_rps: [rate * 0.97, rate * 1.03],
            error_ratio_upper: 0.031,
            peak_offered_rps: rate * 1.4,
            confirmed_by: Some(probes),
            reasons: vec![if limited {
                "the generator was the limit".into()
            } else {
                "precision reached".into()
            }],
        };
        let binding = if value_of(config, "pool_size") < 14.0 {
            "pool_wait"
        } else {
            "cpu_quota"
        };
        journal
            .finish_trial(number, &end(Outcome::Measured { capacity }, Some(binding)))
            .await
            .unwrap();
        Some(rate)
    }

    async fn finals(
        self,
        journal: &impl Journal,
        rng: &mut ChaCha8Rng,
        baseline: &Config,
        best: Vec<(f64, Config)>,
    ) {
        let mut finalists: Vec<Config> = Vec::new();
        for (_, c) in best {
            if finalists.len() < 3 && !finalists.contains(&c) {
                finalists.push(c);
            }
        }
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for round in 1..=self.pairs {
            for c in std::iter::once(baseline).chain(&finalists) {
                let rate = self
                    .trial(journal, rng, TrialPhase::Final, c, Some(round))
                    .await
                    .unwrap_or(1.0);
                *sums.entry(c.key()).or_default() += rate.ln() / f64::from(self.pairs);
            }
        }
        let Some(winner) = finalists.first().filter(|_| self.pairs > 0) else {
            return;
        };
        let mean = |c: &Config| sums.get(&c.key()).copied().unwrap_or(0.0).exp();
        let gain = mean(winner) / mean(baseline) - 1.0;
        let decision = FinalDecision {
            verdict: FinalVerdict::Win,
            config: winner.clone(),
            candidate: Some(winner.clone()),
            at_least: false,
            gain: [gain - 0.05, gain, gain + 0.05],
            pairs: self.pairs,
            minimum_detectable_gain: 0.03,
            baseline_rps: mean(baseline),
            winner_rps: mean(winner),
            void: None,
            words: "3 finalists; the other two are within the noise of the best".into(),
        };
        journal
            .log(kinds::DECISION, &serde_json::to_value(decision).unwrap())
            .await
            .unwrap();
        let binds = serde_json::json!(
            "CPU quota: 21 % of the periods were throttled at the sustainable rate; more cpus would move it."
        );
        journal.log(kinds::BINDS, &binds).await.unwrap();
    }
}
