//! Tests of the judgement of knobs: studies made up trial by trial.

use super::*;
use crate::capacity::{Capacity, ProbePhase};
use crate::measurement::Measurement;
use crate::slo::Verdict;
use crate::space::Value;
use crate::trial::Probe;
use crate::units::Rps;
use std::time::Duration;

fn parameter(name: &str, binding: Binding, low: i64, high: i64, today: i64) -> Parameter {
    Parameter {
        name: name.into(),
        domain: Domain::Int {
            low,
            high,
            step: 1,
            log: false,
        },
        baseline: Value::Int(today),
        binding,
        only_if: None,
    }
}

fn pool(today: i64) -> Parameter {
    parameter("pool_size", Binding::Env("POOL_SIZE".into()), 2, 50, today)
}

fn cpus() -> Parameter {
    parameter("cpus", Binding::Limit(crate::space::Limit::Cpus), 1, 4, 1)
}

fn space(parameters: Vec<Parameter>) -> Space {
    Space {
        parameters,
        ..Space::default()
    }
}

fn trial(
    number: usize,
    phase: TrialPhase,
    config: &Config,
    rps: f64,
    code: Code,
    figures: &[(&str, f64)],
) -> Trial {
    let probe = Probe {
        number: 1,
        phase: ProbePhase::Confirm,
        measurement: Measurement::empty(Rps::saturating(rps), Duration::from_secs(4)),
        verdict: Verdict::Meets,
        reason: String::new(),
        loss_upper: 0.0,
        recovered: None,
        telemetry: figures.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
    };
    Trial {
        number: u32::try_from(number).unwrap(),
        phase,
        config: config.clone(),
        outcome: Some(Outcome::Measured {
            capacity: Capacity {
                verdict: CapacityVerdict::Sustainable,
                sustainable_rps: Some(rps),
                goodput_rps: rps,
                interval_rps: [rps * 0.98, rps * 1.02],
                error_ratio_upper: 0.01,
                peak_offered_rps: rps * 1.3,
                confirmed_by: Some(1),
                reasons: Vec::new(),
            },
        }),
        probes: vec![probe],
        started_at: String::new(),
        seconds: 20.0,
        round: None,
        host: String::new(),
        binding: Some(code.name().to_owned()),
    }
}

/// Baseline twice, then every end, each with the rate, code and figures that `of` gives.
fn prelude(space: &Space, of: impl Fn(&Config) -> (f64, Code, Vec<(&'static str, f64)>)) -> Vec<Trial> {
    let baseline = space.baseline();
    let mut plan = vec![
        (TrialPhase::Baseline, baseline.clone()),
        (TrialPhase::Anchor, baseline),
    ];
    for e in extremes(space) {
        plan.push((TrialPhase::Knob, e.low));
        plan.push((TrialPhase::Knob, e.high));
    }
    plan.iter()
        .enumerate()
        .map(|(i, (phase, c))| {
            let (rps, code, figures) = of(c);
            // One percent of wobble: the same, not identical.
            trial(
                i + 1,
                *phase,
                c,
                rps * (1.0 + 0.01 * (i % 2) as f64),
                code,
                &figures,
            )
        })
        .collect()
}

#[test]
fn ends_are_legal_and_move_one_knob_alone() {
    let mut s = space(vec![pool(10), cpus()]);
    let names = Space::names(&s.parameters);
    s.constraints = vec![crate::space::Constraint {
        that: crate::expr::Expr::compile("pool_size * cpus <= 40", &names).unwrap(),
        why: "a test".into(),
    }];
    let ends = extremes(&s);
    assert_eq!(ends.len(), 2);
    for e in &ends {
        assert!(s.is_legal(&e.low) && s.is_legal(&e.high), "{e:?}");
    }
    assert_eq!(ends[0].low.get("pool_size"), Some(&Value::Int(2)));
    let high = ends[0].high.get("pool_size").and_then(Value::as_f64).unwrap();
    assert!((36.0..=40.0).contains(&high), "{high}");
    assert_eq!(ends[1].high.get("pool_size"), Some(&Value::Int(10)));
}

#[test]
fn behind_a_limiter_the_pool_changes_nothing_and_is_frozen() {
    let s = space(vec![pool(10)]);
    let trials = prelude(&s, |_| (30.0, Code::RateLimiter, vec![]));
    let found = knob_findings(&s, &trials);
    assert_eq!(found.len(), 1);
    assert!(found[0].frozen, "{found:?}");
    let sentence = &found[0].sentence;
    assert!(
        sentence.starts_with("pool_size changes nothing between 2 and 50")
            && sentence.ends_with("rate limiter at both"),
        "{sentence}"
    );
    let left = without_frozen(&s, &trials);
    assert!(nothing_to_move(&left));
    assert_eq!(left.baseline(), s.baseline());
    // A disturbed repeat does not matter, another rate at the other end does.
    let small = Value::Int(2);
    let at_low_end = space(vec![pool(2)]);
    let mut disturbed = prelude(&at_low_end, |_| (30.0, Code::RateLimiter, vec![]));
    assert_eq!(disturbed[1].config.get("pool_size"), Some(&small));
    disturbed[1] = trial(
        2,
        TrialPhase::Anchor,
        &at_low_end.baseline(),
        18.0,
        Code::HostCpu,
        &[],
    );
    assert!(knob_findings(&at_low_end, &disturbed)[0].frozen);
    let moved = prelude(&s, |c| {
        let size = c.get("pool_size").and_then(Value::as_f64).unwrap();
        (20.0 + size, Code::RateLimiter, vec![])
    });
    assert!(knob_findings(&s, &moved).iter().all(|f| !f.frozen));
}

#[test]
fn a_pool_that_does_not_arrive_is_said_by_its_own_endpoint() {
    let s = space(vec![pool(5), cpus()]);
    let trials = prelude(&s, |_| (98.0, Code::PoolWait, vec![("pool_capacity", 5.0)]));
    let found = knob_findings(&s, &trials);
    assert!(
        found[0].frozen
            && found[0]
                .sentence
                .contains("a capacity of 5 at both, so POOL_SIZE is not applied"),
        "{found:?}"
    );
}

#[test]
fn a_knob_behind_another_is_not_frozen() {
    // The pool binds at one core and at four: cpus shows nothing, and means nothing yet.
    let s = space(vec![pool(2), cpus()]);
    let trials = prelude(&s, |c| {
        let size = c.get("pool_size").and_then(Value::as_f64).unwrap();
        (20.0 * size, Code::PoolWait, vec![("pool_capacity", size)])
    });
    let found = knob_findings(&s, &trials);
    assert!(
        matches!(found[0].effect, Effect::Live { .. }) && !found[0].frozen,
        "{found:?}"
    );
    assert!(
        !found[1].frozen && found[1].sentence.contains("while pool wait binds"),
        "{found:?}"
    );
    assert!(!nothing_to_move(&without_frozen(&s, &trials)));
}

#[test]
fn equal_ends_with_different_limits_are_not_called_without_effect() {
    // Too small at one end, too large at the other: the best lies between.
    let s = space(vec![pool(10)]);
    let trials = prelude(&s, |c| {
        let small = c.get("pool_size").and_then(Value::as_f64).unwrap() < 10.0;
        (
            60.0,
            if small { Code::PoolWait } else { Code::PoolTooLarge },
            vec![],
        )
    });
    assert!(knob_findings(&s, &trials).iter().all(|f| !f.frozen));
}

#[test]
fn bounds_and_noise_decide_nothing() {
    let s = space(vec![pool(10)]);
    let mut trials = prelude(&s, |_| (25.0, Code::Generator, vec![]));
    for t in &mut trials {
        if let Some(Outcome::Measured { capacity }) = &mut t.outcome {
            capacity.verdict = CapacityVerdict::GeneratorLimited;
        }
    }
    assert!(knob_findings(&s, &trials).is_empty());
    let mut loud = prelude(&s, |_| (30.0, Code::CpuQuota, vec![]));
    if let Some(Outcome::Measured { capacity }) = &mut loud[1].outcome {
        capacity.sustainable_rps = Some(45.0);
    }
    assert!(knob_findings(&s, &loud).iter().all(|f| !f.frozen));
}

#[test]
fn the_searchs_own_history_tells_too() {
    let s = space(vec![pool(10), cpus()]);
    let run = |rate: &dyn Fn(f64) -> f64| -> Vec<Trial> {
        (0..18)
            .map(|i| {
                let size = 2 + (i * 17) % 49;
                let mut c = s.baseline();
                c.set("pool_size", Value::Int(size));
                let rps = rate(size as f64) * (1.0 + 0.01 * (i % 3) as f64);
                trial(
                    i as usize + 1,
                    TrialPhase::Search,
                    &c,
                    rps,
                    Code::RateLimiter,
                    &[],
                )
            })
            .collect()
    };
    let flat = knob_findings(&s, &run(&|_| 30.0));
    assert!(flat.iter().any(|f| f.name == "pool_size" && f.frozen), "{flat:?}");
    let steep = knob_findings(&s, &run(&|p| 10.0 * p));
    assert!(steep.iter().all(|f| !f.frozen), "{steep:?}");
    let peak = knob_findings(&s, &run(&|p| if (18.0..34.0).contains(&p) { 90.0 } else { 30.0 }));
    assert!(peak.iter().all(|f| !f.frozen), "{peak:?}");
}
