//! Warm start: an earlier study of the same or an overlapping space, as discounted observations.
//!
//! What carries over is the shape: the model gives an earlier study an offset of its own, because another
//! night or another machine is faster or slower throughout. Its configs are never taken as measured here.

use crate::space::{Config, Space};
use crate::trial::{History, Observation, Seen};

/// The lines of an earlier study that mean something in `space`. A parameter that did not exist then has
/// today's value; one that no longer exists is left out; a value outside today's range, or a trial that was
/// never told, makes the line useless.
#[must_use]
pub fn prior_history(space: &Space, earlier: &History) -> History {
    earlier
        .iter()
        .filter(|o| o.seen != Seen::Pending)
        .filter_map(|o| {
            Some(Observation {
                config: translated(space, &o.config)?,
                seen: o.seen,
                phase: o.phase,
                prior: true,
            })
        })
        .collect()
}

fn translated(space: &Space, config: &Config) -> Option<Config> {
    let mut shared = 0;
    let mut full = Config::default();
    for p in &space.parameters {
        match config.get(&p.name) {
            Some(v) if p.domain.contains(v) => {
                shared += 1;
                full.set(&p.name, v.clone());
            }
            Some(_) => return None,
            None => full.set(&p.name, p.baseline.clone()),
        }
    }
    // Through the coordinates, so that inactive parameters are left out.
    (shared > 0).then(|| space.decode(&space.encode(&full)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::conformance::spaces;
    use crate::space::Value;
    use crate::trial::TrialPhase;

    fn line(config: Config) -> Observation {
        Observation {
            config,
            seen: Seen::AtLeast(10.0),
            phase: TrialPhase::Search,
            prior: false,
        }
    }

    #[test]
    fn overlapping_configs_are_translated_and_marked() {
        let space = spaces::pool();
        let mut old = Config::default();
        old.set("pool_size", Value::Int(8));
        old.set("gone", Value::Int(1));
        let prior = prior_history(&space, &vec![line(old)]);
        assert_eq!(prior.len(), 1);
        assert!(prior[0].prior);
        assert_eq!(prior[0].config.get("pool_size"), Some(&Value::Int(8)));
        assert_eq!(prior[0].config.get("gone"), None);
        assert_eq!(prior[0].config.get("cpus"), space.baseline().get("cpus"));
    }

    #[test]
    fn what_lies_outside_or_was_never_told_is_left_out() {
        let space = spaces::pool();
        let mut outside = space.baseline();
        outside.set("pool_size", Value::Int(9_999));
        let mut pending = line(space.baseline());
        pending.seen = Seen::Pending;
        let foreign = Config::from_iter([("other".to_owned(), Value::Int(3))]);
        assert!(prior_history(&space, &vec![line(outside), pending, line(foreign)]).is_empty());
    }
}
