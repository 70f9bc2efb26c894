//! Is the pool's variable read at all? What the service's own pool page shows, against what it was told. Pure.
//!
//! Rates say that late or never (another thing may bind), the page says it in the second trial: the same maximum at two
//! sizes, or more connections in use than the size allows and no more at a larger one. One value alone proves it only
//! where the overflow is known: SQLAlchemy goes ten beyond its size by default.
//!
//! Not here: freezing a knob (`live`), which takes rates too.

use std::collections::BTreeMap;

use crate::space::{Binding, Config, Parameter, Space};
use crate::spec::{Secret, StudySpec};
use crate::trial::{Outcome, Trial};

use super::knob::KnobKind;

/// Sizes that differ by less prove nothing.
const APART: f64 = 1.5;
/// Connections in use that differ by less are as many: a peak is a matter of chance.
const AS_MANY: f64 = 1.2;
/// How such a sentence ends its first part; with the variable before it, it is the same for all evidence.
const SEEMS: &str = "seems not to be read";

/// What the page showed at one config.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    size: f64,
    /// Connections beyond the size, where the config, the file or the page tells them.
    overflow: Option<f64>,
    capacity: Option<f64>,
    used: Option<f64>,
    waiting: f64,
}

impl Shown {
    fn of(
        space: &Space,
        p: &Parameter,
        env: &BTreeMap<String, Secret>,
        config: &Config,
        figure: impl Fn(&str) -> Option<f64>,
    ) -> Option<Self> {
        let tuned = || {
            let o = space
                .parameters
                .iter()
                .find(|o| KnobKind::of(o) == KnobKind::Overflow)?;
            config.get(&o.name)?.as_f64()
        };
        let fixed = || {
            let (_, v) = env
                .iter()
                .find(|(n, _)| KnobKind::of_name(n) == KnobKind::Overflow)?;
            v.expose().trim().parse::<f64>().ok()
        };
        let (capacity, used) = (figure("pool_capacity"), figure("pool_checked_out_peak"));
        (capacity.is_some() || used.is_some()).then_some(())?;
        Some(Self {
            size: config.get(&p.name)?.as_f64()?,
            overflow: tuned()
                .or_else(fixed)
                .or_else(|| figure("pool_overflow_peak").map(|o| o.max(0.0))),
            capacity,
            used,
            waiting: figure("pool_waiting_mean").unwrap_or(0.0),
        })
    }

    fn allowed(&self) -> f64 {
        self.size + self.overflow.unwrap_or(0.0)
    }

    /// More than was allowed: how much, in words.
    fn beyond(&self) -> Option<String> {
        match (self.capacity, self.used) {
            (Some(c), _) if c > self.allowed() + 0.5 => Some(format!("a maximum of {c:.0} connections")),
            (_, Some(u)) if u > self.allowed() + 0.5 => Some(format!("{u:.0} connections in use")),
            _ => None,
        }
    }
}

/// The variables of pools that the service seems not to read, a sentence each, from all `trials` so far.
#[must_use]
pub fn not_read(spec: &StudySpec, trials: &[Trial]) -> Vec<String> {
    let none = BTreeMap::new();
    let env = spec.sut.as_ref().map_or(&none, |s| &s.env);
    pools(&spec.space)
        .filter_map(|(p, variable)| {
            let shown: Vec<Shown> = trials
                .iter()
                .filter(|t| matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. })))
                .filter_map(|t| Shown::of(&spec.space, p, env, &t.config, |name| largest(t, name)))
                .collect();
            judge(&p.name, variable, &shown)
        })
        .collect()
}

/// The same of the service that runs now, whose page shows `figures`, against today's configuration: a doubt, not a proof.
#[must_use]
pub fn not_read_now(
    space: &Space,
    env: &BTreeMap<String, Secret>,
    figures: &BTreeMap<String, f64>,
) -> Vec<String> {
    let today = space.baseline();
    pools(space)
        .filter_map(|(p, variable)| {
            let s = Shown::of(space, p, env, &today, |name| figures.get(name).copied())?;
            let seen = match s.capacity {
                Some(c) if c < s.size - 0.5 => Some(format!("a maximum of {c:.0} connections")),
                _ => s.beyond(),
            }?;
            let or = match s.overflow {
                None if s.capacity.is_none_or(|c| c > s.size) => {
                    ", or the pool goes beyond it by an overflow that nothing here names"
                }
                _ => "",
            };
            Some(format!(
                "{variable} {SEEMS}{or}: the pool page shows {seen} at {} {}",
                p.name, s.size
            ))
        })
        .collect()
}

/// Whether `warning` says of the same variable what `sentence` does.
#[must_use]
pub fn is_same_doubt(warning: &str, sentence: &str) -> bool {
    let subject = |t: &str| t.split_once(SEEMS).map(|(before, _)| before.to_owned());
    subject(sentence).is_some_and(|s| subject(warning) == Some(s))
}

fn pools(space: &Space) -> impl Iterator<Item = (&Parameter, &str)> {
    space.parameters.iter().filter_map(|p| match &p.binding {
        Binding::Env(variable) if KnobKind::of(p) == KnobKind::Pool => Some((p, variable.as_str())),
        _ => None,
    })
}

fn largest(t: &Trial, figure: &str) -> Option<f64> {
    t.probes
        .iter()
        .filter_map(|p| p.telemetry.get(figure).copied())
        .filter(|v| v.is_finite())
        .reduce(f64::max)
}

/// The doubt, where there is one and no two trials contradict it.
fn judge(name: &str, variable: &str, shown: &[Shown]) -> Option<String> {
    // Within the same overflow, the smallest and the largest size.
    let mut ends: Vec<(Shown, Shown)> = Vec::new();
    for s in shown {
        match ends.iter_mut().find(|(low, _)| low.overflow == s.overflow) {
            Some((low, _)) if s.size < low.size => *low = *s,
            Some((_, high)) if s.size > high.size => *high = *s,
            Some(_) => {}
            None => ends.push((*s, *s)),
        }
    }
    if ends.iter().any(|(low, high)| has_moved(low, high)) {
        return None;
    }
    ends.iter()
        .find_map(|(low, high)| evidence(name, low, high))
        .map(|seen| format!("{variable} {SEEMS}: the pool page shows {seen}"))
}

/// The larger size shows: it arrived.
fn has_moved(low: &Shown, high: &Shown) -> bool {
    match (low.capacity, high.capacity, low.used, high.used) {
        (Some(a), Some(b), ..) => (a - b).abs() >= 0.5,
        (_, _, Some(a), Some(b)) => b > AS_MANY * a + 1.0,
        _ => false,
    }
}

fn evidence(name: &str, low: &Shown, high: &Shown) -> Option<String> {
    let (a, b) = (low.size, high.size);
    if b < APART * a || b - a < 1.0 {
        // One size: the overflow must be known for it to say anything.
        let seen = low.overflow.and_then(|_| low.beyond())?;
        return Some(format!("{seen} at {name} {a}"));
    }
    if let (Some(c), Some(_)) = (low.capacity, high.capacity) {
        return Some(format!(
            "a maximum of {c:.0} connections at {name} {a} and at {b}"
        ));
    }
    let (x, y) = (low.used?, high.used?);
    if x > low.allowed() + 0.5 {
        return Some(format!(
            "{x:.0} connections in use at {name} {a}, and {y:.0} at {b}"
        ));
    }
    let waits = high.waiting >= 1.0 && y < 0.9 * b && (x - y).abs() <= 1.0;
    waits.then(|| {
        format!(
            "{y:.0} connections in use at {name} {b}, as many as at {a}, while {:.0} requests wait for one",
            high.waiting
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(size: f64, capacity: Option<f64>, used: f64) -> Shown {
        Shown {
            size,
            overflow: None,
            capacity,
            used: Some(used),
            waiting: 0.0,
        }
    }

    fn doubt(shown: &[Shown]) -> Option<String> {
        judge("pool_size", "POOL_SIZE", shown)
    }

    /// Fails when a pool that keeps its default is not named, whatever form of page shows it.
    #[test]
    fn a_pool_that_does_not_move_with_its_variable_is_named() {
        let said = doubt(&[shown(2.0, Some(10.0), 10.0), shown(20.0, Some(10.0), 10.0)]).unwrap();
        assert_eq!(
            said,
            "POOL_SIZE seems not to be read: the pool page shows a maximum of 10 connections at pool_size 2 and at 20"
        );
        // node-postgres: no maximum on the page, ten connections by default.
        let said = doubt(&[shown(20.0, None, 10.0), shown(2.0, None, 10.0)]).unwrap();
        assert!(
            said.ends_with("10 connections in use at pool_size 2, and 10 at 20"),
            "{said}"
        );
        let full = Shown {
            waiting: 6.0,
            ..shown(40.0, None, 10.0)
        };
        let said = doubt(&[shown(10.0, None, 10.0), full]).unwrap();
        assert!(said.contains("as many as at 10, while 6 requests wait"), "{said}");
        let known = Shown {
            overflow: Some(0.0),
            ..shown(2.0, None, 10.0)
        };
        assert!(
            doubt(&[known])
                .unwrap()
                .ends_with("10 connections in use at pool_size 2")
        );
    }

    /// Fails when an overflow that nobody named, an idle pool, or one trial alone makes a live knob a dead one.
    #[test]
    fn what_has_another_explanation_is_no_doubt() {
        // SQLAlchemy's ten beyond the size.
        assert_eq!(doubt(&[shown(5.0, Some(15.0), 15.0)]), None, "one trial");
        assert_eq!(
            doubt(&[shown(5.0, Some(15.0), 15.0), shown(20.0, Some(30.0), 30.0)]),
            None
        );
        assert_eq!(doubt(&[shown(5.0, None, 15.0), shown(20.0, None, 30.0)]), None);
        assert_eq!(
            doubt(&[shown(10.0, None, 8.0), shown(40.0, None, 8.0)]),
            None,
            "it needs no more"
        );
        assert_eq!(
            doubt(&[shown(10.0, Some(10.0), 8.0), shown(11.0, Some(10.0), 8.0)]),
            None,
            "too near"
        );
        // Size and overflow move against each other: their sum says nothing.
        let with = |size, overflow| Shown {
            overflow: Some(overflow),
            ..shown(size, Some(20.0), 12.0)
        };
        assert_eq!(doubt(&[with(5.0, 15.0), with(15.0, 5.0)]), None);
    }

    #[test]
    fn one_variable_is_doubted_once() {
        let a = doubt(&[shown(2.0, Some(10.0), 10.0), shown(20.0, Some(10.0), 10.0)]).unwrap();
        let b = doubt(&[shown(1.0, Some(10.0), 10.0), shown(20.0, Some(10.0), 10.0)]).unwrap();
        assert!(a != b && is_same_doubt(&a, &b));
        assert!(!is_same_doubt(&a, &b.replace("POOL_SIZE", "OTHER_POOL")));
        assert!(!is_same_doubt("drift", &a));
    }
}
