//! Which knobs are live, judged from the trials: the extremes of each compared at the start, or the search's own
//! history. Pure, so that a resumed study freezes the same knobs.
//!
//! Equal rates at both ends prove nothing by themselves: another knob may bind at both (the pool, while `cpus` is
//! moved), or the best value may lie between them. So a knob is frozen only where the rates are equal within a noise
//! in which a fifth would have shown, *and* the same thing binds at both ends, *and* no other knob of the search moves
//! that thing. Where the service says itself that the value did not arrive (the pool endpoint shows the same capacity
//! at both ends), that is said instead of guessed.

use std::collections::BTreeSet;

use super::knob::{Effect, KnobKind, Side, compare_knob, is_beyond_tuning, moved_by};
use super::{Code, Diagnosis, Evidence, Facts, confirmed_by, diagnose};
use crate::capacity::CapacityVerdict;
use crate::noise::Noise;
use crate::space::{Binding, Config, Domain, Parameter, Space};
use crate::spec::StudySpec;
use crate::trial::{Outcome, Trial, TrialPhase};

/// A low and a high group of the history need this many rates each.
const GROUP: usize = 4;
/// Values that differ by less prove nothing about whether a setting arrived.
const MOVED: f64 = 1.5;

/// Rates that differ by less, with the same limit beyond tuning, are the same.
const ABOUT_EQUAL: f64 = 1.2;

/// What was found about one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct KnobFinding {
    /// The parameter.
    pub name: String,
    /// Whether moving it did anything.
    pub effect: Effect,
    /// It is left at today's value for the rest of the study.
    pub frozen: bool,
    /// For people.
    pub sentence: String,
}

/// A parameter with today's configuration at its two ends, everything else being equal.
#[derive(Debug, Clone, PartialEq)]
pub struct Extremes {
    /// The parameter.
    pub name: String,
    /// At its lowest legal value.
    pub low: Config,
    /// At its highest.
    pub high: Config,
}

/// Today's configuration with each parameter alone at its ends; where a constraint forbids an end, at the legal value
/// nearest to it. Parameters that are not active today, or cannot be moved alone, are left out.
#[must_use]
pub fn extremes(space: &Space) -> Vec<Extremes> {
    let baseline = space.baseline();
    let point = space.encode(&baseline);
    let at = |i: usize, u: f64| {
        let mut p = point.clone();
        if let Some(x) = p.get_mut(i) {
            *x = u;
        }
        space.decode(&p)
    };
    // Eleven steps from the end to the middle and beyond; a bound on the search for a legal one.
    let first = |i: usize, from: f64, step: f64| {
        (0..=20)
            .map(|k| at(i, step.mul_add(f64::from(k), from).clamp(0.0, 1.0)))
            .find(|c| space.is_legal(c))
    };
    space
        .parameters
        .iter()
        .enumerate()
        .filter(|(_, p)| baseline.get(&p.name).is_some() && p.domain.size() != Some(1))
        .filter_map(|(i, p)| {
            let (low, high) = (first(i, 0.0, 0.05)?, first(i, 1.0, -0.05)?);
            (low != high).then(|| Extremes {
                name: p.name.clone(),
                low,
                high,
            })
        })
        .collect()
}

/// The space in which the search goes on: knobs without effect keep today's value.
#[must_use]
pub fn without_frozen(space: &Space, trials: &[Trial]) -> Space {
    let frozen: Vec<String> = knob_findings(space, trials)
        .into_iter()
        .filter(|f| f.frozen)
        .map(|f| f.name)
        .collect();
    let mut left = space.clone();
    for p in left.parameters.iter_mut().filter(|p| frozen.contains(&p.name)) {
        p.domain = Domain::Choice {
            values: vec![p.baseline.clone()],
        };
    }
    left
}

/// Whether any parameter can still be moved.
#[must_use]
pub fn nothing_to_move(space: &Space) -> bool {
    space.parameters.iter().all(|p| p.domain.size() == Some(1))
}

/// What the trials so far say about each parameter, in the order of the space; those of which nothing can be said yet are
/// left out.
#[must_use]
pub fn knob_findings(space: &Space, trials: &[Trial]) -> Vec<KnobFinding> {
    let at_ends = extremes(space);
    space
        .parameters
        .iter()
        .filter_map(|p| {
            let direct = at_ends
                .iter()
                .find(|e| e.name == p.name)
                .and_then(|e| by_extremes(space, p, e, trials));
            direct.or_else(|| by_history(space, p, trials))
        })
        .collect()
}

fn by_extremes(space: &Space, p: &Parameter, ends: &Extremes, trials: &[Trial]) -> Option<KnobFinding> {
    // Only what was measured before the search: the answer must not change while it goes on.
    let prelude: Vec<&Trial> = trials
        .iter()
        .take_while(|t| !matches!(t.phase, TrialPhase::Search | TrialPhase::Final))
        .collect();
    let of = |c: &Config| -> Vec<&Trial> { prelude.iter().copied().filter(|t| t.config == *c).collect() };
    let (low, high) = (of(&ends.low), of(&ends.high));
    let ended = |side: &[&Trial]| side.iter().any(|t| t.phase == TrialPhase::Knob || told(t));
    if !ended(&low) || !ended(&high) || bounded(&low) || bounded(&high) {
        return None;
    }
    let (a, b) = (value(&ends.low, p), value(&ends.high, p));
    if let Some(found) = beyond_tuning(p, [&a, &b], [&low, &high]) {
        return Some(found);
    }
    Some(judged(
        space,
        p,
        [&a, &b],
        [&low, &high],
        &noise_of(&prelude),
        None,
    ))
}

/// The same thing, which no setting moves, is the limit at both ends, at about the same rate: that is proof however much
/// single measurements vary. Trials in which something else came first (a busy machine) are not counted, as long as
/// they are not the majority.
fn beyond_tuning(p: &Parameter, values: [&str; 2], sides: [&[&Trial]; 2]) -> Option<KnobFinding> {
    let code_of = |t: &&Trial| t.binding.as_deref().and_then(Code::of_name);
    let code = sides[0]
        .iter()
        .find_map(code_of)
        .filter(|c| is_beyond_tuning(*c))?;
    let [low, high] = sides.map(|side| {
        let same: Vec<&Trial> = side
            .iter()
            .copied()
            .filter(|t| code_of(t) == Some(code))
            .collect();
        let found = rates(&same);
        (2 * found.len() >= side.len() && !found.is_empty())
            .then(|| found.iter().sum::<f64>() / f64::from(u32::try_from(found.len()).unwrap_or(1)))
    });
    let (low, high) = (low?, high?);
    let ratio = high / low;
    (ratio.ln().abs() <= ABOUT_EQUAL.ln()).then(|| KnobFinding {
        name: p.name.clone(),
        effect: Effect::None {
            ratio,
            detectable: ABOUT_EQUAL - 1.0,
        },
        frozen: true,
        sentence: format!(
            "{} changes nothing between {} and {} ({low:.1} and {high:.1} rps): {} at both",
            p.name,
            values[0],
            values[1],
            code.title()
        ),
    })
}

/// Groups of the search's own trials in which the parameter lies in its lowest and highest third. Whatever else was
/// moved is in their spread, so that only a knob without effect among others without effect is called so.
fn by_history(space: &Space, p: &Parameter, trials: &[Trial]) -> Option<KnobFinding> {
    if matches!(p.domain, Domain::Choice { .. }) {
        return None;
    }
    let place = |t: &Trial| t.config.get(&p.name).map(|v| p.domain.encode(v));
    let third = |from: f64, to: f64| -> Vec<&Trial> {
        trials
            .iter()
            .filter(|t| t.phase != TrialPhase::Final)
            .filter(|t| place(t).is_some_and(|u| (from..=to).contains(&u)) && told(t))
            .collect()
    };
    let (low, middle, high) = (third(0.0, 0.3333), third(0.3334, 0.6666), third(0.6667, 1.0));
    if low.len() < GROUP || high.len() < GROUP || bounded(&low) || bounded(&high) || bounded(&middle) {
        return None;
    }
    let noise = Noise::of(&[rates(&low), rates(&middle), rates(&high)]);
    let ends = |g: &[&Trial]| {
        let mut v: Vec<(f64, String)> = g
            .iter()
            .filter_map(|t| Some((place(t)?, t.config.get(&p.name)?.to_string())))
            .collect();
        v.sort_by(|a, b| a.0.total_cmp(&b.0));
        v
    };
    let (a, b) = (ends(&low).first()?.1.clone(), ends(&high).last()?.1.clone());
    Some(judged(space, p, [&a, &b], [&low, &high], &noise, Some(&middle)))
}

/// The common part: effect, what arrived, what binds, and the sentence.
fn judged(
    space: &Space,
    p: &Parameter,
    values: [&str; 2],
    sides: [&[&Trial]; 2],
    noise: &Noise,
    middle: Option<&[&Trial]>,
) -> KnobFinding {
    let [low, high] = [0, 1].map(|i| Side {
        value: values[i].to_owned(),
        rates: rates(sides[i]),
    });
    let effect = compare_knob(&low, &high, noise);
    // A peak between equal ends is an effect too.
    let peak = middle.filter(|m| !m.is_empty()).is_some_and(|m| {
        let between = Side {
            value: String::new(),
            rates: rates(m),
        };
        matches!(compare_knob(&low, &between, noise), Effect::Live { .. })
    });
    let kind = KnobKind::of(p);
    let env = match &p.binding {
        Binding::Env(name) => Some(name.as_str()),
        _ => None,
    };
    let arrived = arrived(kind, values, sides);
    let binds = common_code(sides);
    let others: BTreeSet<KnobKind> = space
        .parameters
        .iter()
        .filter(|o| o.name != p.name)
        .map(KnobKind::of)
        .collect();
    let not_read = matches!(arrived, Some((false, _)));
    // What binds at both ends must be known, and no other knob's business.
    let settled = binds.is_some_and(|c| {
        !matches!(c, Code::Several | Code::Unknown | Code::NotReached)
            && moved_by(c).iter().all(|k| !others.contains(k))
    });
    let none = matches!(effect, Effect::None { .. }) && !peak;
    let unlike = matches!(effect, Effect::Live { .. }) || peak;
    let plain = effect.sentence(&p.name, env, &low, &high);
    let sentence = match (&arrived, binds) {
        (Some((false, seen)), _) if !unlike => format!(
            "{} changes nothing between {} and {}: {seen} at both, so {} is not applied by the service",
            p.name,
            values[0],
            values[1],
            env.unwrap_or(&p.name)
        ),
        (Some((true, seen)), Some(code)) if none && settled => format!(
            "{} changes nothing between {} and {} (a change of {:.0} % would have shown): the service applies it ({seen}), but {} binds at both",
            p.name,
            values[0],
            values[1],
            detectable(&effect) * 100.0,
            code.title()
        ),
        (None, Some(code)) if none && settled && !moved_by(code).contains(&kind) => {
            format!("{plain} {} binds at both", capital(code.title()))
        }
        (_, Some(code)) if none && !settled && !moved_by(code).is_empty() => format!(
            "{} changes nothing between {} and {} while {} binds; it may once that is mended",
            p.name,
            values[0],
            values[1],
            code.title()
        ),
        _ => plain,
    };
    KnobFinding {
        name: p.name.clone(),
        frozen: (none && settled) || (not_read && !unlike),
        effect,
        sentence,
    }
}

fn detectable(effect: &Effect) -> f64 {
    match effect {
        Effect::None { detectable, .. } | Effect::Unclear { detectable, .. } => *detectable,
        Effect::Live { .. } => 0.0,
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| {
        c.to_uppercase().collect::<String>() + chars.as_str()
    })
}

/// Whether the service shows that a moved value arrived, with what it shows; None where it shows nothing.
fn arrived(kind: KnobKind, values: [&str; 2], sides: [&[&Trial]; 2]) -> Option<(bool, String)> {
    let [a, b] = values.map(|v| v.parse::<f64>().ok());
    let (a, b) = (a?, b?);
    let far = (a - b).abs() >= 1.0 && (a.max(b) >= MOVED * a.min(b));
    let (figure, what) = match kind {
        KnobKind::Pool | KnobKind::Overflow => ("pool_capacity", "the pool endpoint shows a capacity of"),
        KnobKind::RedisPool => (
            "redis_pool_capacity",
            "the pool endpoint shows a Redis capacity of",
        ),
        _ => return None,
    };
    let seen = sides.map(|s| largest(s, figure));
    if let [Some(x), Some(y)] = seen {
        let same = (x - y).abs() < 0.5;
        return far.then(|| {
            if same {
                (false, format!("{what} {x:.0}"))
            } else {
                (true, format!("{what} {x:.0} and {y:.0}"))
            }
        });
    }
    // More backends at the database prove that a larger pool arrived; as many prove nothing.
    let [x, y] = sides.map(|s| largest(s, "db_connections_peak"));
    let (x, y) = (x?, y?);
    let more = if b > a {
        y > x * MOVED && y > x + 2.0
    } else {
        x > y * MOVED && x > y + 2.0
    };
    more.then(|| (true, format!("the database sees {x:.0} and {y:.0} connections")))
}

fn largest(side: &[&Trial], figure: &str) -> Option<f64> {
    side.iter()
        .flat_map(|t| &t.probes)
        .filter_map(|p| p.telemetry.get(figure).copied())
        .filter(|v| v.is_finite())
        .reduce(f64::max)
}

/// What binds in every trial of both sides, where it is the same.
fn common_code(sides: [&[&Trial]; 2]) -> Option<Code> {
    let mut codes = sides
        .iter()
        .flat_map(|s| s.iter())
        .map(|t| t.binding.as_deref().and_then(Code::of_name));
    let first = codes.next()??;
    codes.all(|c| c == Some(first)).then_some(first)
}

/// Says something about its config.
fn told(t: &Trial) -> bool {
    matches!(t.outcome, Some(Outcome::Measured { .. } | Outcome::Failed { .. }))
}

/// A rate of these is only a bound: nothing can be compared.
fn bounded(side: &[&Trial]) -> bool {
    side.iter().filter_map(|t| t.capacity()).any(|c| {
        matches!(
            c.verdict,
            CapacityVerdict::AtLeast | CapacityVerdict::GeneratorLimited | CapacityVerdict::AtMost
        )
    })
}

fn rates(side: &[&Trial]) -> Vec<f64> {
    side.iter()
        .filter_map(|t| {
            t.capacity()
                .filter(|c| c.verdict == CapacityVerdict::Sustainable)?
                .sustainable_rps
        })
        .collect()
}

/// The noise of the repeats among `trials`.
fn noise_of(trials: &[&Trial]) -> Noise {
    let mut groups: Vec<(&Config, Vec<f64>)> = Vec::new();
    for t in trials {
        let found = rates(&[*t]);
        match groups.iter_mut().find(|(c, _)| **c == t.config) {
            Some((_, g)) => g.extend(found),
            None => groups.push((&t.config, found)),
        }
    }
    Noise::of(&groups.into_iter().map(|(_, g)| g).collect::<Vec<_>>())
}

/// The noise of every repeat of a study, finals included.
#[must_use]
pub fn study_noise(trials: &[Trial]) -> Noise {
    noise_of(&trials.iter().collect::<Vec<_>>())
}

fn value(config: &Config, p: &Parameter) -> String {
    config.get(&p.name).map_or(String::new(), ToString::to_string)
}

/// What binds at `config`: the diagnosis most of its trials agree on (those of the finals, where there are any), the
/// surest of them, confirmed or refuted by trials in which only the suspected knob was moved.
#[must_use]
pub fn binds_at(spec: &StudySpec, trials: &[Trial], config: &Config) -> Option<Diagnosis> {
    let mine: Vec<&Trial> = trials.iter().filter(|t| t.config == *config && told(t)).collect();
    let finals: Vec<&Trial> = mine
        .iter()
        .copied()
        .filter(|t| t.phase == TrialPhase::Final)
        .collect();
    let told_by = if finals.is_empty() { mine } else { finals };
    let facts = Facts::of(spec, config);
    let all: Vec<Diagnosis> = told_by.iter().map(|t| of_trial(t, &facts)).collect();
    let votes = |code: Code| all.iter().filter(|d| d.code == code).count();
    let best = all
        .iter()
        .max_by(|a, b| {
            votes(a.code)
                .cmp(&votes(b.code))
                .then(a.confidence.cmp(&b.confidence))
        })?
        .clone();
    Some(confirm(best, spec, trials, config))
}

fn of_trial(t: &Trial, facts: &Facts) -> Diagnosis {
    let mut facts = facts.clone();
    if let Some(Outcome::Failed { failure, .. }) = &t.outcome {
        facts.failure = Some(*failure);
    }
    diagnose(&Evidence {
        probes: &t.probes,
        facts: &facts,
    })
}

/// The knob's word on a suspicion: the nearest config that differs in the suspected knob alone, in the direction that
/// should help.
fn confirm(found: Diagnosis, spec: &StudySpec, trials: &[Trial], config: &Config) -> Diagnosis {
    let Some((p, up)) = spec
        .space
        .parameters
        .iter()
        .filter(|p| p.domain.size() != Some(1) && !matches!(p.domain, Domain::Choice { .. }))
        .find_map(|p| Some((p, super::knob::helps(found.code, KnobKind::of(p))?)))
    else {
        return found;
    };
    let place = |c: &Config| c.get(&p.name).map(|v| p.domain.encode(v));
    let Some(here) = place(config) else { return found };
    let alone = |c: &Config| {
        let mut other = c.clone();
        other.remove(&p.name);
        let mut own = config.clone();
        own.remove(&p.name);
        other == own
    };
    let step = trials
        .iter()
        .filter(|t| told(t) && alone(&t.config) && !bounded(&[t]))
        .filter(|t| place(&t.config).is_some_and(|u| if up { u > here + 1e-9 } else { u < here - 1e-9 }))
        .min_by(|a, b| {
            let far = |t: &Trial| place(&t.config).map_or(f64::INFINITY, |u| (u - here).abs());
            far(a).total_cmp(&far(b))
        });
    let Some(step) = step else { return found };
    let of = |c: &Config| {
        // A trial that only bounds the rate says nothing here; the others of the same configuration do.
        let all: Vec<&Trial> = trials
            .iter()
            .filter(|t| t.config == *c && told(t) && !bounded(&[t]))
            .collect();
        Side {
            value: value(c, p),
            rates: rates(&all),
        }
    };
    let (own, moved) = (of(config), of(&step.config));
    if own.rates.is_empty() {
        return found;
    }
    let effect = compare_knob(&own, &moved, &study_noise(trials));
    let code = found.code;
    let mut told = confirmed_by(
        found,
        &format!("{} {} -> {}", p.name, own.value, moved.value),
        &effect,
    );
    if !matches!(effect, Effect::Unclear { .. }) {
        let last = told.figures.last().cloned().unwrap_or_default();
        told.sentence = format!(
            "{} ({last})",
            super::sentence(code, &told.figures, told.confidence, told.next_knob.as_deref())
        );
    }
    told
}

#[cfg(test)]
mod tests;
