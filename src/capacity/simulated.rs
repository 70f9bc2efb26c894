//! Services of arithmetic, in virtual time: what the capacity search is tried on, and what a `simulated` system under
//! test runs. A second costs microseconds; the same seed gives the same answers.
//!
//! The model: a bottleneck that serves `capacity` requests a second in order of arrival, behind it a fixed latency of
//! `servers / capacity`, around it whatever the [`Law`] adds. Requests above 2,000 a second are computed in batches.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::ControlFlow;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::measurement::{Bin, Measurement, OutcomeClass, Quantiles};
use crate::units::Rps;

use super::ProbePlan;

/// Most items computed a second.
const ITEMS_PER_S: f64 = 2000.0;

/// What a service does beyond serving at its rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// Refuses at once what it cannot serve.
    HardLimit,
    /// Queues, and fails who waited longer than the pool's timeout, seconds.
    PoolQueue {
        /// Pool timeout, seconds.
        timeout_s: f64,
    },
    /// The same queue with random service times.
    RandomService {
        /// Coefficient of variation of one request's service time.
        cv: f64,
    },
    /// Errors that rise smoothly with the rate: 5 % at the capacity.
    Logistic {
        /// Steepness: share of the capacity over which the log-odds change by one.
        width: f64,
    },
    /// Twice as slow when cold.
    ColdStart {
        /// Time constant of warming up, seconds.
        tau_s: f64,
    },
    /// Serves nothing for `length_s` out of every `every_s`.
    Stall {
        /// Period, seconds.
        every_s: f64,
        /// Pause, seconds.
        length_s: f64,
    },
    /// After `after_s` with more than two seconds' work queued it serves a fifth, five times slower, until it is deployed
    /// again.
    Metastable {
        /// Time with such a queue that trips it, seconds.
        after_s: f64,
    },
    /// Above the knee goodput falls as (capacity / rate) to this power.
    Collapse {
        /// The power.
        power: f64,
    },
    /// Answers 429 to what exceeds its rate; could serve ten times more.
    RateLimiter,
    /// Fails this share of requests at any load.
    Background {
        /// Share.
        errors: f64,
    },
    /// Fails everything for `length_s` out of every `every_s`.
    Bursts {
        /// Period, seconds.
        every_s: f64,
        /// Length of a burst, seconds.
        length_s: f64,
    },
}

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// What the bottleneck serves, requests per second.
    pub capacity: f64,
    /// Requests served side by side.
    pub servers: u32,
    /// The rest of its behaviour.
    pub law: Law,
    /// Deviation of the capacity between probes, as a share.
    pub noise: f64,
    /// Client timeout, seconds.
    pub timeout_s: f64,
    /// What the generator can drive, requests per second.
    pub generator: f64,
}

impl Model {
    /// A service of `capacity` with 16 servers (fewer where latency would exceed a second) and no noise.
    #[must_use]
    pub fn new(capacity: f64, law: Law) -> Self {
        let capacity = capacity.clamp(0.1, 1e6);
        let servers = (capacity / 4.0).clamp(1.0, 16.0) as u32;
        Self {
            capacity,
            servers,
            law,
            noise: 0.0,
            timeout_s: 10.0,
            generator: f64::INFINITY,
        }
    }

    /// The same with `noise` between probes.
    #[must_use]
    pub fn with_noise(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    /// The highest rate at which the queue does not grow and no more than `errors` is lost, in the long run.
    #[must_use]
    pub fn truth(&self, errors: f64) -> f64 {
        match self.law {
            Law::HardLimit | Law::RateLimiter => self.capacity / (1.0 - errors),
            Law::Stall { every_s, length_s } => self.capacity * (1.0 - length_s / every_s),
            _ => self.capacity,
        }
    }

    /// The model that `text` names: "pool-queue capacity=200 timeout=5 noise=0.02".
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or("pool-queue");
        let mut values: BTreeMap<&str, f64> = BTreeMap::new();
        for w in words {
            let (key, value) = w
                .split_once('=')
                .ok_or_else(|| format!("'{w}' is not key=value"))?;
            let value: f64 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
            values.insert(key, value);
        }
        let get = |key: &str, or: f64| values.get(key).copied().unwrap_or(or);
        let law = match name {
            "hard-limit" => Law::HardLimit,
            "pool-queue" => Law::PoolQueue {
                timeout_s: get("timeout", 30.0),
            },
            "random-service" => Law::RandomService { cv: get("cv", 0.5) },
            "logistic" => Law::Logistic {
                width: get("width", 0.05),
            },
            "cold-start" => Law::ColdStart {
                tau_s: get("tau", 3.0),
            },
            "stall" => Law::Stall {
                every_s: get("every", 20.0),
                length_s: get("length", 1.0),
            },
            "metastable" => Law::Metastable {
                after_s: get("after", 5.0),
            },
            "collapse" => Law::Collapse {
                power: get("power", 2.0),
            },
            "rate-limiter" => Law::RateLimiter,
            "background" => Law::Background {
                errors: get("errors", 0.02),
            },
            "bursts" => Law::Bursts {
                every_s: get("every", 10.0),
                length_s: get("length", 0.2),
            },
            other => return Err(format!("there is no simulated service '{other}'")),
        };
        let model = Self::new(get("capacity", 200.0), law).with_noise(get("noise", 0.0).clamp(0.0, 0.5));
        Ok(Self {
            servers: get("servers", f64::from(model.servers)).clamp(1.0, 1e5) as u32,
            ..model
        })
    }
}

/// A running one.
#[derive(Debug, Clone)]
pub struct Service {
    model: Model,
    rng: ChaCha8Rng,
    /// Virtual time, seconds.
    now: f64,
    /// When the bottleneck is free.
    free: f64,
    loaded_s: f64,
    overload_s: f64,
    tripped: bool,
    phase: f64,
    in_flight: BinaryHeap<Reverse<End>>,
}

/// A request on its way: when it ends, how, and where it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct End {
    at: f64,
    scheduled: f64,
    class: OutcomeClass,
    weight: u64,
    in_window: bool,
}

impl Eq for End {}
impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at)
    }
}
impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Counts of the probe under way.
struct Tally {
    m: Measurement,
    bins: Vec<Bin>,
    bin: Bin,
    bin_latencies: Vec<f64>,
    latencies: Vec<f64>,
    start: f64,
}

impl Service {
    /// A fresh one.
    #[must_use]
    pub fn new(model: Model, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let phase = rng.random::<f64>();
        Self {
            model,
            rng,
            now: 0.0,
            free: 0.0,
            loaded_s: 0.0,
            overload_s: 0.0,
            tripped: false,
            phase,
            in_flight: BinaryHeap::new(),
        }
    }

    /// Virtual time since it was made, seconds.
    #[must_use]
    pub fn now_s(&self) -> f64 {
        self.now
    }

    /// Deploys it again: cold, empty, untripped. Takes ten virtual seconds.
    pub fn restart(&mut self) {
        self.now += 10.0;
        self.free = self.now;
        self.loaded_s = 0.0;
        self.overload_s = 0.0;
        self.tripped = false;
        self.in_flight.clear();
    }

    /// Offers a probe and shows each bin of its window to `watch`.
    pub fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut dyn FnMut(&Bin) -> ControlFlow<String>,
    ) -> Measurement {
        let noise = self.gauss() * self.model.noise;
        let capacity = self.model.capacity * noise.exp();
        self.offer(plan, capacity, watch)
    }

    /// Holds `rate` for `seconds`; the capacity is drawn anew every 30 s, as it is between probes.
    pub fn soak(&mut self, rate: Rps, seconds: f64) -> Vec<Measurement> {
        let parts = (seconds / 30.0).ceil().clamp(1.0, 1000.0) as usize;
        let mut out = Vec::with_capacity(parts);
        for i in 0..parts {
            let mut plan = ProbePlan::new(
                super::ProbePhase::Confirm,
                rate,
                std::time::Duration::from_secs_f64(seconds / parts as f64),
            );
            if i + 1 < parts {
                plan.drain = std::time::Duration::ZERO;
            }
            out.push(self.drive(&plan, &mut |_| ControlFlow::Continue(())));
        }
        out
    }

    fn offer(
        &mut self,
        plan: &ProbePlan,
        capacity: f64,
        watch: &mut dyn FnMut(&Bin) -> ControlFlow<String>,
    ) -> Measurement {
        let rate = plan.rate.get();
        let driven = rate.min(self.model.generator);
        let weight = (driven / ITEMS_PER_S).ceil().max(1.0);
        let gap = weight / driven;
        let start = self.now + plan.lead_in.as_secs_f64();
        let window = plan.window.as_secs_f64();
        let width = if rate < 8.0 {
            (4.0 / rate).min(window / 2.0).max(0.5)
        } else {
            0.5_f64.min(window)
        };
        let mut t = Tally::new(plan, start);
        let (mut next, mut stopped) = (self.now, None);
        while t.bin.start_s < window - 1e-9 {
            t.bin.width_s = width.min(window - t.bin.start_s);
            let end = start + t.bin.start_s + t.bin.width_s;
            while next < end {
                // The lead-in is not measured: its requests are offered when the first bin begins.
                let in_window = next >= start - 1e-9;
                self.arrive(next, rate, capacity, weight as u64, in_window, &mut t);
                next += gap;
            }
            self.complete(end, &mut t);
            t.bin.in_flight_end = self.in_flight.iter().map(|e| e.0.weight).sum();
            t.close_bin();
            if let Some(b) = t.bins.last()
                && let ControlFlow::Break(why) = watch(b)
            {
                stopped = Some(why);
                break;
            }
        }
        self.now = start + t.bin.start_s;
        self.loaded_s += self.now - start + plan.lead_in.as_secs_f64();
        t.m.stopped_early = stopped;
        self.finish(plan, t, driven / rate)
    }

    /// One item arrives.
    fn arrive(&mut self, at: f64, rate: f64, capacity: f64, weight: u64, in_window: bool, t: &mut Tally) {
        let model = self.model;
        let (speed, slow) = self.speed(at, rate, capacity, weight);
        let base = f64::from(model.servers) / model.capacity * slow;
        let begin = self.stalled_until(at.max(self.free));
        let wait = begin - at;
        let mut end = End {
            at: begin + base,
            scheduled: at,
            class: OutcomeClass::Good,
            weight,
            in_window,
        };
        let pool_s = if let Law::PoolQueue { timeout_s } = model.law {
            timeout_s
        } else {
            30.0
        };
        let refuses = matches!(model.law, Law::HardLimit | Law::RateLimiter);
        if refuses && wait > 2.0 * weight as f64 / capacity {
            end.at = at + 0.001;
            end.class = if model.law == Law::RateLimiter {
                OutcomeClass::TooManyRequests
            } else {
                OutcomeClass::Unavailable
            };
        } else if wait > pool_s {
            end.at = at + pool_s;
            end.class = OutcomeClass::PoolTimeout;
        } else {
            let cv = if let Law::RandomService { cv } = model.law {
                cv
            } else {
                0.0
            };
            let scatter = 1.0 + cv / (weight as f64).sqrt() * self.skewed();
            self.free = begin + scatter.max(0.0) * weight as f64 / speed;
            if end.at - at > model.timeout_s {
                end.at = at + model.timeout_s;
                end.class = OutcomeClass::ClientTimeout;
            }
        }
        self.spoil(rate, end, t);
    }

    /// Background errors: part of the item fails where it would have been good.
    fn spoil(&mut self, rate: f64, end: End, t: &mut Tally) {
        let share = match self.model.law {
            _ if end.class != OutcomeClass::Good => 0.0,
            Law::Logistic { width } => {
                let z = (rate / self.model.capacity - 1.0) / width - 2.944;
                1.0 / (1.0 + (-z).exp())
            }
            Law::Background { errors } => errors,
            Law::Bursts { every_s, length_s } => {
                let at = (end.scheduled / every_s + self.phase).fract() * every_s;
                if at < length_s { 1.0 } else { 0.0 }
            }
            _ => 0.0,
        };
        let n = end.weight as f64;
        let bad = if end.weight == 1 {
            u64::from(self.rng.random::<f64>() < share)
        } else {
            let scatter = (n * share * (1.0 - share)).sqrt() * self.gauss();
            (n * share + scatter).round().clamp(0.0, n) as u64
        };
        for (class, weight) in [(end.class, end.weight - bad), (OutcomeClass::ServerError, bad)] {
            if weight > 0 {
                t.scheduled(&end, weight);
                self.in_flight.push(Reverse(End { class, weight, ..end }));
            }
        }
    }

    /// Rate of the bottleneck now, and how much slower than usual it answers.
    fn speed(&mut self, at: f64, rate: f64, capacity: f64, weight: u64) -> (f64, f64) {
        match self.model.law {
            Law::ColdStart { tau_s } => {
                let slow = 1.0 + (-(self.loaded_s + (at - self.now).max(0.0)) / tau_s).exp();
                (capacity / slow, slow)
            }
            Law::Metastable { after_s } => {
                if self.free - at > 2.0 {
                    self.overload_s += weight as f64 / rate;
                } else {
                    self.overload_s = 0.0;
                }
                self.tripped |= self.overload_s > after_s;
                if self.tripped {
                    (capacity / 5.0, 5.0)
                } else {
                    (capacity, 1.0)
                }
            }
            Law::Collapse { power } if rate > capacity => (capacity * (capacity / rate).powf(power), 1.0),
            _ => (capacity, 1.0),
        }
    }

    fn stalled_until(&self, at: f64) -> f64 {
        let Law::Stall { every_s, length_s } = self.model.law else {
            return at;
        };
        let into = (at / every_s + self.phase).fract() * every_s;
        if into < length_s { at + length_s - into } else { at }
    }

    fn complete(&mut self, until: f64, t: &mut Tally) {
        while let Some(Reverse(e)) = self.in_flight.peek().copied() {
            if e.at > until {
                return;
            }
            self.in_flight.pop();
            t.ended(&e);
        }
    }

    fn finish(&mut self, plan: &ProbePlan, mut t: Tally, driven: f64) -> Measurement {
        t.m.window_s = t.bin.start_s;
        t.m.in_flight_end = self
            .in_flight
            .iter()
            .filter(|e| e.0.in_window)
            .map(|e| e.0.weight)
            .sum();
        let limit = self.now + plan.drain.as_secs_f64();
        let last = self.in_flight.iter().map(|e| e.0.at).fold(self.now, f64::max);
        if last <= limit {
            t.m.drained_s = Some(last - self.now);
            self.in_flight.clear();
            self.now = last;
        } else {
            self.in_flight.retain(|e| e.0.at > limit);
            t.m.in_flight_after_drain = self
                .in_flight
                .iter()
                .filter(|e| e.0.in_window)
                .map(|e| e.0.weight)
                .sum();
            self.now = limit;
        }
        t.into_measurement(driven, self.model.timeout_s)
    }

    fn gauss(&mut self) -> f64 {
        let (a, b): (f64, f64) = (self.rng.random::<f64>().max(1e-300), self.rng.random());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// Mean 0, deviation 1, skewed like service times: an exponential less its mean.
    fn skewed(&mut self) -> f64 {
        if !matches!(self.model.law, Law::RandomService { .. }) {
            return 0.0;
        }
        -self.rng.random::<f64>().max(1e-300).ln() - 1.0
    }
}

impl Tally {
    fn new(plan: &ProbePlan, start: f64) -> Self {
        Self {
            m: Measurement::empty(plan.rate, plan.window),
            bins: Vec::new(),
            bin: Bin::default(),
            bin_latencies: Vec::new(),
            latencies: Vec::new(),
            start,
        }
    }

    fn scheduled(&mut self, e: &End, weight: u64) {
        if e.in_window {
            self.m.scheduled += weight;
            self.m.sent += weight;
            self.bin.scheduled += weight;
        }
    }

    fn ended(&mut self, e: &End) {
        let good = e.class == OutcomeClass::Good;
        let latency_ms = (e.at - e.scheduled) * 1e3;
        if e.at >= self.start {
            if good {
                self.bin.completed_good += e.weight;
                self.bin_latencies.push(latency_ms);
            } else {
                self.bin.completed_bad += e.weight;
            }
        }
        if !e.in_window {
            return;
        }
        if !good {
            *self.m.errors.entry(e.class).or_default() += e.weight;
            return;
        }
        self.m.good += e.weight;
        self.latencies.push(latency_ms);
        let at = e.scheduled - self.start;
        if at >= self.bin.start_s {
            self.bin.scheduled_good += e.weight;
        } else if let Some(b) = self.bins.iter_mut().rev().find(|b| b.start_s <= at + 1e-9) {
            b.scheduled_good += e.weight;
        }
    }

    fn close_bin(&mut self) {
        self.bin_latencies.sort_by(f64::total_cmp);
        self.bin.latency_ms_p50 = quantile(&self.bin_latencies, 0.5);
        self.bin.latency_ms_p95 = quantile(&self.bin_latencies, 0.95);
        self.bin_latencies.clear();
        self.bins.push(self.bin);
        self.bin = Bin {
            start_s: self.bin.start_s + self.bin.width_s,
            ..Bin::default()
        };
    }

    fn into_measurement(mut self, driven: f64, timeout_s: f64) -> Measurement {
        self.latencies.sort_by(f64::total_cmp);
        let l = &self.latencies;
        let q = |p| quantile(l, p);
        self.m.latency_ms = Quantiles {
            mean: l.iter().sum::<f64>() / l.len().max(1) as f64,
            p50: q(0.5),
            p90: q(0.9),
            p95: q(0.95),
            p99: q(0.99),
            p999: q(0.999),
            max: q(1.0),
        };
        self.m.service_ms = self.m.latency_ms;
        self.m.bins = self.bins;
        let g = &mut self.m.generator;
        g.timeout_s = timeout_s;
        g.cpu_ratio = if driven < 1.0 { 0.99 } else { 0.1 };
        g.send_lag_ms = Quantiles {
            p50: 0.02,
            p99: 0.07,
            max: 0.2,
            ..Quantiles::default()
        };
        self.m
    }
}

/// Nearest-rank quantile of sorted values; 0 without any.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).saturating_sub(1);
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}
