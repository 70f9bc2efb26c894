//! What a reader must know before believing a result, found in the rows themselves.

use super::text::{clean, number, percent, rate, signed_percent};
use super::{FinalVerdict, Summary};
use crate::space::Domain;
use crate::trial::TrialPhase;

/// A detectable gain above this is too coarse for a decision, as a fraction.
const COARSE: f64 = 0.10;
/// Drift of the anchors that is worth a word, as a fraction.
const DRIFT: f64 = 0.10;

/// All warnings, the weightiest first; the study's own come last.
#[must_use]
pub fn warnings(s: &Summary<'_>) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(unconfirmed(s));
    out.extend(edges(s));
    out.extend(noise(s));
    out.extend(drift(s));
    out.extend(strewn(s));
    out.extend(s.notes.warnings.iter().map(|w| clean(w, 400)));
    out
}

fn unconfirmed(s: &Summary<'_>) -> Option<String> {
    match s.decision.as_ref().map(|d| d.verdict) {
        None => Some("The optimum is not confirmed: the finals have not been run.".to_owned()),
        Some(FinalVerdict::Undecided) => Some(
            "The optimum is not confirmed: the finals could not tell it from today's configuration."
                .to_owned(),
        ),
        Some(_) => None,
    }
}

/// Parameters of the best config that lie at an end of their range.
fn edges(s: &Summary<'_>) -> Vec<String> {
    let best = match &s.decision {
        Some(d) => &d.config,
        None => match s.best_row().and_then(|i| s.rows.get(i)) {
            Some(r) => &r.config,
            None => return Vec::new(),
        },
    };
    if *best == s.baseline {
        return Vec::new();
    }
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
                    "The optimum is at the upper edge of {name} ({v}): widen its range and search again."
                ))
            } else if u < 1e-9 && v.as_f64().is_some_and(|x| x > 0.0) {
                Some(format!(
                    "The optimum is at the lower edge of {name} ({v}): a lower value may do as well."
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
        .filter(|d| d.minimum_detectable_gain > COARSE)?;
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

fn drift(s: &Summary<'_>) -> Option<String> {
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
    (anchors.len() >= 2 && lo > 0.0 && hi / lo - 1.0 > DRIFT).then(|| {
        format!(
            "The machine or the database drifted: today's configuration, measured {} times during the search, carried \
             between {} and {} rps.",
            anchors.len(),
            rate(lo),
            rate(hi)
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
