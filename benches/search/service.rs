//! What a synthetic service is: a space, a true rate for every config, and the noise of measuring it.

use autotune::expr::Expr;
use autotune::space::{Binding, Config, Constraint, Domain, Parameter, Space, Value};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// True rate of a config; None where it fails (out of memory).
pub type Truth = fn(&View<'_>) -> Option<f64>;

/// A synthetic service.
pub struct Service {
    pub name: &'static str,
    pub space: Space,
    truth: Truth,
    /// The highest true rate of any legal config.
    pub optimum: f64,
    /// The lowest cost among legal configs within 3 % of it.
    pub cheapest: Option<f64>,
}

/// Reads a config: numbers are 0 and texts empty where a parameter is not active.
pub struct View<'a>(pub &'a Config);

impl View<'_> {
    pub fn n(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(0.0)
    }
    pub fn is(&self, name: &str, text: &str) -> bool {
        matches!(self.0.get(name), Some(Value::Text(t)) if t == text)
    }
}

/// Several limits at once: the smallest rules, and near the knee each still shows.
pub fn soft_min(limits: &[f64]) -> f64 {
    limits
        .iter()
        .map(|x| x.max(1e-9).powi(-6))
        .sum::<f64>()
        .powf(-1.0 / 6.0)
}

/// Throughput of `n` workers of rate `each` by Gunther's universal scalability law.
pub fn usl(n: f64, each: f64, contention: f64, crosstalk: f64) -> f64 {
    each * n / (1.0 + contention * (n - 1.0).max(0.0) + crosstalk * n * (n - 1.0).max(0.0))
}

pub struct Builder {
    parameters: Vec<Parameter>,
    conditions: Vec<Option<&'static str>>,
    constraints: Vec<&'static str>,
    cost: Option<&'static str>,
}

pub fn space() -> Builder {
    Builder {
        parameters: vec![],
        conditions: vec![],
        constraints: vec![],
        cost: None,
    }
}

impl Builder {
    fn add(mut self, name: &str, domain: Domain, baseline: Value) -> Self {
        self.parameters.push(Parameter {
            name: name.to_owned(),
            domain,
            baseline,
            binding: Binding::Unbound,
            only_if: None,
        });
        self.conditions.push(None);
        self
    }
    pub fn int(self, name: &str, low: i64, high: i64, baseline: i64) -> Self {
        self.add(
            name,
            Domain::Int {
                low,
                high,
                step: 1,
                log: false,
            },
            Value::Int(baseline),
        )
    }
    pub fn stepped(self, name: &str, low: i64, high: i64, step: i64, baseline: i64) -> Self {
        self.add(
            name,
            Domain::Int {
                low,
                high,
                step,
                log: false,
            },
            Value::Int(baseline),
        )
    }
    pub fn float(self, name: &str, low: f64, high: f64, step: Option<f64>, baseline: f64) -> Self {
        self.add(
            name,
            Domain::Float {
                low,
                high,
                step,
                log: false,
            },
            Value::Float(baseline),
        )
    }
    pub fn choice(self, name: &str, values: &[&str]) -> Self {
        let values: Vec<Value> = values.iter().map(|v| Value::Text((*v).to_owned())).collect();
        let first = values[0].clone();
        self.add(name, Domain::Choice { values }, first)
    }
    pub fn only_if(mut self, condition: &'static str) -> Self {
        *self.conditions.last_mut().unwrap() = Some(condition);
        self
    }
    pub fn rule(mut self, that: &'static str) -> Self {
        self.constraints.push(that);
        self
    }
    pub fn cost(mut self, cost: &'static str) -> Self {
        self.cost = Some(cost);
        self
    }

    pub fn service(self, name: &'static str, truth: Truth) -> Service {
        let names = Space::names(&self.parameters);
        let compile = |t: &str| Expr::compile(t, &names).unwrap();
        let mut parameters = self.parameters;
        for (p, c) in parameters.iter_mut().zip(&self.conditions) {
            p.only_if = c.map(compile);
        }
        let space = Space {
            parameters,
            constraints: self
                .constraints
                .iter()
                .map(|c| Constraint {
                    that: compile(c),
                    why: "the service has it".to_owned(),
                })
                .collect(),
            cost: self.cost.map(compile),
        };
        let mut service = Service {
            name,
            space,
            truth,
            optimum: 0.0,
            cheapest: None,
        };
        assert!(
            service.space.is_legal(&service.space.baseline()),
            "{name}: the baseline is illegal"
        );
        service.optimum = service.best_of(|s, c| s.rate(c).unwrap_or(0.0)).1;
        if service.space.cost.is_some() {
            let level = 0.97 * service.optimum;
            let (_, worth) = service.best_of(|s, c| match s.rate(c) {
                Some(r) if r >= level => 1e6 - s.cost(c),
                // Towards the level first.
                other => other.unwrap_or(0.0),
            });
            service.cheapest = Some(1e6 - worth);
        }
        service
    }
}

impl Service {
    pub fn rate(&self, config: &Config) -> Option<f64> {
        (self.truth)(&View(config))
    }

    pub fn cost(&self, config: &Config) -> f64 {
        self.space.cost_of(config).ok().flatten().unwrap_or(0.0)
    }

    /// True value of a config over the optimum; 0 where it fails.
    pub fn value(&self, config: &Config) -> f64 {
        self.rate(config).unwrap_or(0.0) / self.optimum
    }

    /// Share of random configs that keep the constraints.
    pub fn legal_share(&self) -> f64 {
        autotune::space::legal_share(&self.space, 1).share
    }

    /// One measurement: relative noise, and a few trials that lose another 30 %.
    pub fn measure(&self, config: &Config, noise: f64, rng: &mut ChaCha8Rng) -> Option<f64> {
        let z = normal(rng);
        let disturbed = rng.random::<f64>() < 0.03;
        let rate = self.rate(config)?;
        Some(rate * (noise * z).exp() * if disturbed { 0.7 } else { 1.0 })
    }

    /// The best legal config by `worth`: many random points, then coordinate steps from the best of them.
    fn best_of(&self, worth: impl Fn(&Self, &Config) -> f64) -> (Config, f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(99);
        let d = self.space.parameters.len();
        let mut found: Vec<(f64, Vec<f64>)> = Vec::new();
        let judge = |point: &[f64]| {
            let c = self.space.decode(point);
            if self.space.is_legal(&c) {
                worth(self, &c)
            } else {
                f64::NEG_INFINITY
            }
        };
        for _ in 0..40_000 {
            // Half of the points favour small values: budgets leave the corner.
            let small = rng.random::<bool>();
            let point: Vec<f64> = (0..d)
                .map(|_| {
                    let u = rng.random::<f64>();
                    if small { u * u } else { u }
                })
                .collect();
            found.push((judge(&point), point));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.truncate(12);
        for (value, point) in &mut found {
            let mut step = 0.2;
            while step > 5e-4 {
                let mut better = false;
                for _ in 0..40 * d {
                    let mut next = point.clone();
                    for u in &mut next {
                        if rng.random::<f64>() < 1.5 / d as f64 {
                            *u = (*u + step * normal(&mut rng)).clamp(0.0, 1.0);
                        }
                    }
                    let w = judge(&next);
                    if w > *value {
                        (*value, *point) = (w, next);
                        better = true;
                    }
                }
                if !better {
                    step *= 0.6;
                }
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        (self.space.decode(&found[0].1), found[0].0)
    }
}

/// A standard normal draw.
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
