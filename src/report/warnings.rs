//! What a reader must know before believing a result, found in the rows themselves.

use super::recommend::NEEDS_FOR_INSTANCES;
use super::text::{clean, number, percent, rate, signed_percent};
use super::{FinalVerdict, Summary};
use crate::noise::Noise;
use crate::space::{Binding, Config, Domain};
use crate::trial::TrialPhase;

/// A detectable gain above this is too coarse for a decision, as a fraction.
const COARSE: f64 = 0.10;
/// Range of the anchors that is worth a word, as a fraction; and as many times the noise of one measurement.
const DRIFT: f64 = 0.10;
const BEYOND_NOISE: f64 = 3.0;
/// A pair of measurements is no trend.
const FEWEST_ANCHORS: usize = 3;

/// All warnings, the weightiest first; the study's own come last.
#[must_use]
pub fn warnings(s: &Summary<'_>) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(unconfirmed(s));
    out.extend(at_the_maximum(s));
    out.extend(edges(s));
    out.extend(instances(s));
    out.extend(noise(s));
    out.extend(drift(s));
    out.extend(strewn(s));
    out.extend(s.notes.warnings.iter().map(|w| clean(w, 400)));
    out
}

fn unconfirmed(s: &Summary<'_>) -> Option<String> {
    match s.decision.as_ref().map(|d| d.verdict) {
        None if s.ended().is_some() => None, // nothing was there to confirm
        None => Some("The optimum is not confirmed: the finals have not been run.".to_owned()),
        Some(FinalVerdict::Undecided) => Some(
            "The optimum is not confirmed: the finals could not tell it from today's configuration."
                .to_owned(),
        ),
        Some(_) => None,
    }
}

/// What reached the highest rate that could be offered in the finals: then only a bound is known.
fn at_the_maximum(s: &Summary<'_>) -> Vec<String> {
    if s.meta.about.required_rps.is_some() {
        return Vec::new(); // whether a rate is carried needs no upper end
    }
    let reached = |c: &Config, verdict: &str| {
        s.rows
            .iter()
            .any(|r| r.phase == TrialPhase::Final && r.config == *c && r.verdict == verdict)
    };
    let max = match s.meta.about.max_rps {
        x if x > 0.0 => format!("[capacity] max ({} rps)", rate(x)),
        _ => "[capacity] max".to_owned(),
    };
    let mut out = Vec::new();
    if let (Some(d), Some(c)) = (&s.decision, s.candidate())
        && d.at_least
    {
        let who = if s.is_win() { "winner" } else { "best candidate" };
        out.push(if reached(c, "generator_limited") && !reached(c, "at_least") {
            format!(
                "The {who} reached what the load generator can send: its rate and the gain are at least this; give it more [load] \
                 connections or CPU and measure again."
            )
        } else {
            format!(
                "The {who} reached {max}: its rate and the gain are at least this; raise it and measure again."
            )
        });
    }
    if !s.is_win() && reached(&s.baseline, "at_least") {
        out.push(format!(
            "Today's configuration reached {max} in the finals: a gain above that could not be seen; raise it and measure again."
        ));
    }
    out
}

/// Several instances of a compose service need what autotune did not set up.
fn instances(s: &Summary<'_>) -> Option<String> {
    s.meta.about.service.as_deref().filter(|_| s.is_win())?;
    let p = s
        .space
        .parameters
        .iter()
        .find(|p| p.binding == Binding::Replicas)?;
    let n = s.recommended()?.get(&p.name)?.as_f64().filter(|n| *n > 1.0)?;
    Some(format!(
        "The recommendation has {} instances: the compose service {NEEDS_FOR_INSTANCES}; a single published port ends with \"port \
         is already allocated\".",
        number(n, 0)
    ))
}

/// Parameters of the best config that lie at an end of their range.
fn edges(s: &Summary<'_>) -> Vec<String> {
    // Where nothing tuned matters, or the candidate is slower than today's configuration, its place says nothing.
    let worse = s.decision.as_ref().map(|d| d.verdict) == Some(FinalVerdict::Worse);
    if worse || s.ended().is_some() {
        return Vec::new();
    }
    let Some(best) = s.other() else {
        return Vec::new();
    };
    let what = match s.decision {
        Some(_) if !s.is_win() => "The best candidate",
        _ => "The optimum",
    };
    s.space
        .parameters
        .iter()
        .filter(|p| !matches!(p.domain, Domain::Choice { .. }) && p.domain.size().is_none_or(|n| n > 2))
        .filter_map(|p| {
            let u = p.domain.encode(best.get(&p.name)?);
            let v = best.get(&p.name)?;
            let name = clean(&p.name, 80);
            // The lower end may be a natural floor (no overflow at all): only the upper one is a hint to widen.
            if u > 1.0 - 1e-9 {
                Some(format!(
                    "{what} is at the upper edge of {name} ({v}): widen its range and search again."
                ))
            } else if u < 1e-9 && v.as_f64().is_some_and(|x| x > 0.0) {
                Some(format!(
                    "{what} is at the lower edge of {name} ({v}): a lower value may do as well."
                ))
            } else {
                None
            }
        })
        .collect()
}

fn noise(s: &Summary<'_>) -> Option<String> {
    let d = s
        .decision
        .as_ref()
        .filter(|d| d.minimum_detectable_gain > COARSE && !d.at_least)?; // an open end is said already
    if d.verdict == FinalVerdict::Win {
        // What was found is above what could be found: its size is what the noise hides.
        return Some(format!(
            "The gain is proven, its size is not well known: with {} pairs it lies between {} and {} %; more pairs narrow it.",
            d.pairs,
            signed_percent(d.gain[0]),
            signed_percent(d.gain[2])
        ));
    }
    Some(format!(
        "The noise is above the goal: only a gain of {} % or more could have been seen with {} pairs; run more pairs or \
         a quieter machine.",
        percent(d.minimum_detectable_gain),
        d.pairs
    ))
}

/// Today's configuration differs from itself, over the search, by more than the noise explains. Two measurements prove no
/// trend, and where the run found one it has said so itself, with the rate an hour.
fn drift(s: &Summary<'_>) -> Option<String> {
    if s.notes.warnings.iter().any(|w| w.starts_with("drift:")) {
        return None;
    }
    let anchors: Vec<f64> = s
        .rows
        .iter()
        .filter(|r| {
            matches!(r.phase, TrialPhase::Baseline | TrialPhase::Anchor) && r.verdict == "sustainable"
        })
        .filter_map(|r| r.rate_rps)
        .collect();
    let (lo, hi) = (
        anchors.iter().copied().reduce(f64::min)?,
        anchors.iter().copied().reduce(f64::max)?,
    );
    // The rounds of the finals are minutes apart: their scatter is noise. The anchors' own would be the drift itself.
    let rounds: Vec<Vec<f64>> = s.finals.iter().map(|x| x.rates.clone()).collect();
    let noise = Noise::of(&rounds).cv();
    let drifted = anchors.len() >= FEWEST_ANCHORS
        && lo > 0.0
        && hi / lo - 1.0 > DRIFT
        && (hi / lo).ln() > BEYOND_NOISE * noise;
    drifted.then(|| {
        format!(
            "The machine or the database drifted: today's configuration, measured {} times during the search, carried \
             between {} and {} rps; one measurement varies by about {} %.",
            anchors.len(),
            rate(lo),
            rate(hi),
            percent(noise)
        )
    })
}

/// Trials that say less than they should.
fn strewn(s: &Summary<'_>) -> Vec<String> {
    let count = |f: &dyn Fn(&super::Row) -> bool| s.rows.iter().filter(|r| f(r)).count();
    let trials = |n: usize| {
        if n == 1 {
            "1 trial".to_owned()
        } else {
            format!("{n} trials")
        }
    };
    let mut out = Vec::new();
    let limited = count(&|r| r.verdict == "generator_limited");
    if limited > 0 {
        out.push(format!(
            "{} reached what the load generator can send: the service carries at least that.",
            trials(limited)
        ));
    }
    let away = count(&|r| r.outcome == "infrastructure");
    if away > 0 {
        out.push(format!(
            "{} ended because Docker, the database or the machine was away; they say nothing about their configurations.",
            trials(away)
        ));
    }
    let hosts = s.hosts();
    if hosts.len() > 1 {
        out.push(format!(
            "Trials ran on {} hosts ({}).",
            number(hosts.len() as f64, 0),
            hosts.join(", ")
        ));
    }
    out
}
