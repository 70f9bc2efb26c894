//! The agenda of one of several hosts that share a study: what is the study's, what is the host's own.
//!
//! Hosts differ. Each measures today's configuration first, and sees the rates of the others as they would be on itself: times
//! the ratio of the two baselines. What a host cannot compare it does not see. Trials that are out count as tried, and as
//! part of the number that was asked for. The finals belong to one host and compare within it.

use super::{Clock, Limits, Next, finals_reserve, next_final_from, next_search};
use crate::capacity::Capacity;
use crate::optimizer::Optimizer;
use crate::space::{Config, Space};
use crate::trial::{History, Outcome, Trial, TrialPhase};

/// What a host does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Shared {
    /// Run this trial.
    Trial {
        /// Part of the run.
        phase: TrialPhase,
        /// Config.
        config: Config,
    },
    /// Nothing now: what others are measuring decides, or comes back to be asked again.
    Wait(String),
    /// The search is over, for this reason.
    Over(String),
}

/// Geometric mean of the rates that today's configuration sustains on `host`.
#[allow(clippy::cast_precision_loss)]
fn baseline_rate(host: &str, trials: &[Trial]) -> Option<f64> {
    let logs: Vec<f64> = trials
        .iter()
        .filter(|t| t.host == host && matches!(t.phase, TrialPhase::Baseline | TrialPhase::Anchor))
        .filter_map(|t| t.capacity()?.sustainable_rps)
        .filter(|r| r.is_finite() && *r > 0.0)
        .map(f64::ln)
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// The study as if `host` had measured all of it. Left out: what others measured of today's configuration (it is what they
/// are compared by, so that corrected it would say nothing), and rates of hosts without a baseline, or where this host has
/// none yet.
#[must_use]
pub fn as_seen_from(host: &str, trials: &[Trial]) -> Vec<Trial> {
    let own = baseline_rate(host, trials);
    let mut factors: Vec<(&str, Option<f64>)> = Vec::new();
    for t in trials.iter().filter(|t| t.host != host) {
        if !factors.iter().any(|(name, _)| *name == t.host) {
            let factor = own.and_then(|own| Some(own / baseline_rate(&t.host, trials)?));
            factors.push((&t.host, factor));
        }
    }
    trials
        .iter()
        .filter_map(|t| {
            if t.host == host {
                return Some(t.clone());
            }
            if matches!(t.phase, TrialPhase::Baseline | TrialPhase::Anchor) {
                return None;
            }
            let mut seen = t.clone();
            if let Some(Outcome::Measured { capacity }) = &mut seen.outcome {
                let factor = factors.iter().find(|(name, _)| *name == t.host)?.1?;
                scale(capacity, factor);
            }
            Some(seen)
        })
        .collect()
}

fn scale(c: &mut Capacity, factor: f64) {
    c.sustainable_rps = c.sustainable_rps.map(|r| r * factor);
    c.goodput_rps *= factor;
    c.interval_rps = c.interval_rps.map(|r| r * factor);
    c.peak_offered_rps *= factor;
}

fn told(t: &Trial) -> bool {
    matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. }))
}

/// The next trial of `host` in the search. `trials` are those of all hosts as they were measured.
#[must_use]
pub fn next_shared(
    space: &Space,
    limits: &Limits,
    trials: &[Trial],
    (host, prior): (&str, &History),
    clock: Clock,
    optimizer: &dyn Optimizer,
) -> Shared {
    if trials.iter().any(|t| t.phase == TrialPhase::Final) {
        return Shared::Over("the finals had begun".to_owned());
    }
    let here = |t: &&Trial| t.host == host && t.phase == TrialPhase::Baseline;
    if !trials.iter().filter(here).any(told) {
        if trials.iter().filter(here).any(|t| t.outcome.is_none()) {
            return Shared::Wait("another worker of this host measures today's configuration".to_owned());
        }
        return Shared::Trial {
            phase: TrialPhase::Baseline,
            config: space.baseline(),
        };
    }
    let of_search = |t: &&Trial| t.phase == TrialPhase::Search;
    let searched = trials.iter().filter(of_search).filter(|t| told(t)).count();
    let out = trials
        .iter()
        .filter(of_search)
        .filter(|t| t.outcome.is_none())
        .count();
    if out > 0
        && limits
            .trials
            .is_some_and(|n| searched < n as usize && searched + out >= n as usize)
    {
        return Shared::Wait("the last trials of the search are under way".to_owned());
    }
    let seen = as_seen_from(host, trials);
    match next_search(space, limits, &seen, prior, clock, optimizer) {
        Next::Trial { phase, config, .. } => Shared::Trial { phase, config },
        Next::SearchOver(why) | Next::Nothing(why) => {
            // What is still out may change the leaders; the time that is kept for the finals is not spent on it.
            let reserve = finals_reserve(limits, &seen, clock) / 2;
            if out > 0 && clock.left.is_none_or(|left| left > reserve) {
                Shared::Wait(why)
            } else {
                Shared::Over(why)
            }
        }
        Next::Decided(_) => Shared::Over("the finals had decided".to_owned()),
    }
}

/// The next trial of the finals on `host`, or the decision. Finals that another host began, and could not end, decide
/// nothing here; rounds go on counting. `seen` is the study as this host sees it.
#[must_use]
pub fn next_final_on(host: &str, space: &Space, limits: &Limits, seen: &[Trial], clock: Clock) -> Next {
    let of_others = seen
        .iter()
        .filter(|t| t.phase == TrialPhase::Final && t.host != host)
        .map(|t| t.number)
        .max()
        .unwrap_or(0);
    next_final_from(space, limits, seen, clock, of_others + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::CapacityVerdict;
    use crate::finals::FinalVerdict;
    use crate::optimizer::Sobol;
    use crate::space::{Binding, Domain, Parameter, Value};
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn space() -> Space {
        Space {
            parameters: vec![Parameter {
                name: "pool_size".into(),
                domain: Domain::Int {
                    low: 1,
                    high: 64,
                    step: 1,
                    log: true,
                },
                baseline: Value::Int(2),
                binding: Binding::Unbound,
                only_if: None,
            }],
            ..Space::default()
        }
    }

    const LIMITS: Limits = Limits {
        trials: Some(6),
        reserve: None,
        pairs: 3,
        seed: 1,
        required: None,
    };
    const NO_CLOCK: Clock = Clock {
        budget: None,
        left: None,
    };

    fn begun(number: u32, host: &str, phase: TrialPhase, config: &Config, round: Option<u32>) -> Trial {
        Trial {
            number,
            phase,
            config: config.clone(),
            outcome: None,
            probes: Vec::new(),
            started_at: String::new(),
            seconds: 20.0,
            round,
            host: host.into(),
            binding: None,
        }
    }

    /// Ends a trial; the host "slow" carries half of what "fast" carries.
    fn end(t: &mut Trial) {
        let per = if t.host == "slow" { 5.0 } else { 10.0 };
        let rps = per * t.config.get("pool_size").and_then(Value::as_f64).unwrap();
        t.outcome = Some(Outcome::Measured {
            capacity: Capacity {
                verdict: CapacityVerdict::Sustainable,
                sustainable_rps: Some(rps),
                goodput_rps: rps,
                interval_rps: [rps * 0.98, rps * 1.02],
                error_ratio_upper: 0.01,
                peak_offered_rps: rps * 1.3,
                confirmed_by: None,
                reasons: Vec::new(),
            },
        });
    }

    fn ask(host: &str, trials: &[Trial]) -> Shared {
        next_shared(
            &space(),
            &LIMITS,
            trials,
            (host, &History::new()),
            NO_CLOCK,
            &Sobol,
        )
    }

    fn rate(t: &Trial) -> f64 {
        t.capacity().unwrap().sustainable_rps.unwrap()
    }

    /// Breaks when a host skips its own baseline, a config goes out twice, more trials go out than were asked for, or the
    /// search ends while one is out.
    #[test]
    fn two_hosts_share_a_search() {
        let mut trials: Vec<Trial> = Vec::new();
        let mut out: Vec<usize> = Vec::new();
        let mut first: Vec<(String, TrialPhase)> = Vec::new();
        for turn in 0..60 {
            let host = if turn % 2 == 0 { "fast" } else { "slow" };
            match ask(host, &trials) {
                Shared::Trial { phase, config } => {
                    if !first.iter().any(|(h, _)| h == host) {
                        first.push((host.to_owned(), phase));
                    }
                    let number = u32::try_from(trials.len()).unwrap() + 1;
                    trials.push(begun(number, host, phase, &config, None));
                    out.push(trials.len() - 1);
                }
                Shared::Wait(_) => assert!(!out.is_empty(), "waits for nothing"),
                Shared::Over(_) => {
                    assert!(out.is_empty(), "over while one is out");
                    break;
                }
            }
            if out.len() > 1 {
                end(&mut trials[out.remove(0)]);
            } else if matches!(ask(host, &trials), Shared::Wait(_)) {
                out.drain(..).for_each(|i| end(&mut trials[i]));
            }
        }
        assert_eq!(
            first,
            [
                ("fast".to_owned(), TrialPhase::Baseline),
                ("slow".to_owned(), TrialPhase::Baseline)
            ]
        );
        let searched: Vec<&Trial> = trials.iter().filter(|t| t.phase == TrialPhase::Search).collect();
        assert_eq!(
            searched.len(),
            5,
            "of six trials one is today's configuration, however many hosts there are"
        );
        let configs: BTreeSet<String> = searched.iter().map(|t| t.config.key()).collect();
        assert_eq!(configs.len(), 5, "a config went out twice");
    }

    /// Breaks when rates of a slower host make its configs look bad, or a host's own rates are changed.
    #[test]
    fn rates_are_seen_through_the_baselines() {
        let at = |n: i64| -> Config { [("pool_size".to_owned(), Value::Int(n))].into_iter().collect() };
        let mut trials = vec![
            begun(1, "fast", TrialPhase::Baseline, &at(2), None),
            begun(2, "slow", TrialPhase::Baseline, &at(2), None),
            begun(3, "slow", TrialPhase::Search, &at(40), None),
            begun(4, "fast", TrialPhase::Search, &at(8), None),
            begun(5, "stranger", TrialPhase::Search, &at(9), None),
            begun(6, "slow", TrialPhase::Search, &at(7), None),
        ];
        trials[..5].iter_mut().for_each(end);
        let fast = as_seen_from("fast", &trials);
        let numbers: Vec<u32> = fast.iter().map(|t| t.number).collect();
        assert_eq!(
            numbers,
            [1, 3, 4, 6],
            "others' baselines and what has none are left out"
        );
        assert!((rate(&fast[1]) - 400.0).abs() < 1e-9 && (rate(&fast[2]) - 80.0).abs() < 1e-9);
        let slow = as_seen_from("slow", &trials);
        assert!((rate(&slow[1]) - 200.0).abs() < 1e-9, "own rates stay");
        assert!((rate(&slow[2]) - 40.0).abs() < 1e-9);
        // Before its own baseline a host compares nothing, and knows what is out.
        let new: Vec<u32> = as_seen_from("new", &trials).iter().map(|t| t.number).collect();
        assert_eq!(new, [6]);
    }

    /// Breaks when a second worker of a host measures the baseline beside the first, or a host that came late does not.
    #[test]
    fn a_host_measures_its_baseline_once() {
        let baseline = space().baseline();
        let mut trials = vec![begun(1, "a", TrialPhase::Baseline, &baseline, None)];
        assert!(matches!(ask("a", &trials), Shared::Wait(_)));
        assert!(matches!(
            ask("b", &trials),
            Shared::Trial {
                phase: TrialPhase::Baseline,
                ..
            }
        ));
        end(&mut trials[0]);
        assert!(matches!(
            ask("a", &trials),
            Shared::Trial {
                phase: TrialPhase::Search,
                ..
            }
        ));
        trials[0].outcome = Some(Outcome::Interrupted);
        assert!(matches!(
            ask("a", &trials),
            Shared::Trial {
                phase: TrialPhase::Baseline,
                ..
            }
        ));
    }

    /// Breaks when finals of a host that died decide, or mix with those of the host that took over.
    #[test]
    fn finals_are_of_one_host() {
        let (space, baseline) = (space(), space().baseline());
        let at = |n: i64| -> Config { [("pool_size".to_owned(), Value::Int(n))].into_iter().collect() };
        let mut trials = vec![
            begun(1, "fast", TrialPhase::Baseline, &baseline, None),
            begun(2, "slow", TrialPhase::Baseline, &baseline, None),
            begun(3, "fast", TrialPhase::Search, &at(60), None),
            begun(4, "slow", TrialPhase::Final, &baseline, Some(1)),
            begun(5, "slow", TrialPhase::Final, &at(60), Some(1)),
        ];
        trials.iter_mut().for_each(end);
        for _ in 0..40 {
            let seen = as_seen_from("fast", &trials);
            match next_final_on("fast", &space, &LIMITS, &seen, NO_CLOCK) {
                Next::Trial { phase, config, round } => {
                    assert!(round > Some(1), "rounds go on counting");
                    let number = u32::try_from(trials.len()).unwrap() + 1;
                    let mut t = begun(number, "fast", phase, &config, round);
                    end(&mut t);
                    trials.push(t);
                }
                Next::Decided(d) => {
                    assert_eq!(d.verdict, FinalVerdict::Win);
                    let own = trials
                        .iter()
                        .filter(|t| t.phase == TrialPhase::Final && t.host == "fast");
                    assert!(own.count() >= 4, "two rounds of its own");
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("the finals do not end");
    }

    /// Breaks when a worker waits for others into the time that is kept for the finals.
    #[test]
    fn the_time_of_the_finals_is_not_waited_away() {
        let at = |n: i64| -> Config { [("pool_size".to_owned(), Value::Int(n))].into_iter().collect() };
        let mut trials = vec![
            begun(1, "a", TrialPhase::Baseline, &space().baseline(), None),
            begun(2, "b", TrialPhase::Search, &at(9), None),
        ];
        end(&mut trials[0]);
        let left = |s: u64| {
            let clock = Clock {
                budget: Some(Duration::from_secs(600)),
                left: Some(Duration::from_secs(s)),
            };
            next_shared(&space(), &LIMITS, &trials, ("a", &History::new()), clock, &Sobol)
        };
        assert!(matches!(left(200), Shared::Wait(_)), "{:?}", left(200));
        assert!(matches!(left(20), Shared::Over(_)));
    }
}
