//! The charts of the search: rate against cost, best so far, each parameter's effect and importance.

use std::fmt::Write as _;

use super::svg::{Axis, Frame, WIDTH, tick_text};
use super::{esc, figure};
use crate::report::importance::importance;
use crate::report::text::{number, percent, rate};
use crate::report::{Row, Share, Summary};
use crate::space::{Domain, Parameter, Value};
use crate::trial::TrialPhase;

const HEIGHT: f64 = 260.0;

/// Rows with a rate that can be compared: finals aside, lost races too (only a bound is known).
pub(super) fn measured<'a>(s: &'a Summary<'_>) -> Vec<&'a Row> {
    s.rows
        .iter()
        .filter(|r| {
            r.phase != TrialPhase::Final
                && matches!(r.verdict, "sustainable" | "at_least" | "generator_limited")
        })
        .filter(|r| r.rate_rps.is_some())
        .collect()
}

pub(super) fn rate_of(r: &Row) -> f64 {
    r.rate_rps.unwrap_or(0.0)
}

fn tip(r: &Row) -> String {
    let interval = r.interval_rps.map_or(String::new(), |[lo, hi]| {
        format!(" ({} to {})", rate(lo), rate(hi))
    });
    format!(
        "trial {}, {}: {} rps{interval}; {}",
        r.trial,
        r.phase.name(),
        rate(rate_of(r)),
        r.config
    )
}

/// For charts that show a trial again: the table has the rest.
fn short_tip(r: &Row) -> String {
    format!("trial {}: {} rps", r.trial, rate(rate_of(r)))
}

pub(super) fn mark_class(s: &Summary<'_>, r: &Row) -> &'static str {
    if r.config == s.baseline {
        "today"
    } else if s.is_win() && s.recommended() == Some(&r.config) {
        "best"
    } else {
        "trial"
    }
}

/// The class of a mark in a reader's words.
pub(super) fn mark_name(class: &str) -> &'static str {
    match class {
        "best" => "recommended",
        "today" => "today",
        _ => "trial",
    }
}

/// Sustainable rate against cost, the Pareto front, and the cheapest config within the noise of the best.
pub(super) fn cost_chart(s: &Summary<'_>) -> String {
    let title = "Sustainable rate against cost";
    let rows: Vec<(&Row, f64)> = measured(s)
        .into_iter()
        .filter_map(|r| Some((r, r.cost?)))
        .collect();
    if rows.is_empty() {
        let why = "No cost is known: give [objective] a cost, such as \"cpus + memory / 2048\", to see what the rate is worth.";
        return figure(title, why, "", "cost");
    }
    let top = rows.iter().map(|(r, _)| rate_of(r)).fold(0.0, f64::max);
    let (lo, hi) = rows
        .iter()
        .fold((f64::MAX, f64::MIN), |a, (_, c)| (a.0.min(*c), a.1.max(*c)));
    let mut f = Frame::new(Axis::around(lo, hi), Axis::from_zero(top), HEIGHT);
    f.axes("cost", "rps");
    let mut sorted = rows.clone();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1).then(rate_of(b.0).total_cmp(&rate_of(a.0))));
    let mut front: Vec<(f64, f64)> = Vec::new();
    for (r, cost) in &sorted {
        if front.last().is_none_or(|(_, y)| rate_of(r) > *y) {
            front.push((*cost, rate_of(r)));
        }
    }
    f.steps("front", &front, hi);
    let best = rows.iter().max_by(|a, b| rate_of(a.0).total_cmp(&rate_of(b.0)));
    let floor = best.and_then(|(r, _)| r.interval_rps).map_or(top, |i| i[0]);
    let cheapest = sorted
        .iter()
        .find(|(r, _)| r.interval_rps.map_or(rate_of(r), |i| i[1]) >= floor);
    // What matters is drawn last, so that nothing covers it.
    let weight = |r: &Row| usize::from(mark_class(s, r) != "trial");
    let mut drawn = rows.clone();
    drawn.sort_by_key(|(r, _)| weight(r));
    for (r, cost) in &drawn {
        let tip = format!("{}; cost {}", tip(r), number(*cost, 3));
        f.dot(
            mark_class(s, r),
            *cost,
            rate_of(r),
            if weight(r) > 0 { 5.5 } else { 4.0 },
            &tip,
        );
    }
    let mut note = "The line is the Pareto front: nothing measured carries more for less.".to_owned();
    if let Some((r, cost)) = cheapest {
        f.dot(
            "ring",
            *cost,
            rate_of(r),
            8.0,
            &format!("cheapest within noise: {}", tip(r)),
        );
        let _ = write!(
            note,
            " The ring is the cheapest configuration within the noise of the best (its interval reaches the best's): trial {}, cost {}, {} rps.",
            r.trial,
            number(*cost, 3),
            rate(rate_of(r))
        );
    }
    figure(
        title,
        &note,
        &f.finish("Scatter of sustainable rate against cost"),
        "cost",
    )
}

/// Each trial's rate in order, the best so far, and today's configuration measured again.
pub(super) fn history_chart(s: &Summary<'_>) -> String {
    let note = "Dots are trials, the line is the best so far. Diamonds are today's configuration, measured again along the way: \
                their spread is the machine's drift. Crosses failed.";
    figure("Best so far", note, &history_svg(s), "history")
}

/// The drawing alone.
pub(super) fn history_svg(s: &Summary<'_>) -> String {
    let rows: Vec<&Row> = s.rows.iter().filter(|r| r.phase != TrialPhase::Final).collect();
    let top = rows.iter().filter_map(|r| r.rate_rps).fold(0.0, f64::max);
    let last = rows.last().map_or(1.0, |r| f64::from(r.trial));
    let mut f = Frame::new(
        Axis {
            low: 0.0,
            high: last + 1.0,
            log: false,
        },
        Axis::from_zero(top),
        HEIGHT,
    );
    f.axes("trial", "rps");
    let mut best: Vec<(f64, f64)> = Vec::new();
    let mut anchors: Vec<(f64, f64)> = Vec::new();
    for r in &rows {
        let x = f64::from(r.trial);
        match (r.outcome, r.rate_rps) {
            ("measured", Some(y)) if r.verdict == "at_most" => {
                f.dot(
                    "lost",
                    x,
                    y,
                    3.0,
                    &format!("{} (lost its race: at most this)", tip(r)),
                );
            }
            ("measured", Some(y)) => {
                if best.last().is_none_or(|b| y > b.1) {
                    best.push((x, y));
                }
                if matches!(r.phase, TrialPhase::Baseline | TrialPhase::Anchor) {
                    anchors.push((x, y));
                } else {
                    f.dot(
                        mark_class(s, r),
                        x,
                        y,
                        if mark_class(s, r) == "trial" { 3.5 } else { 5.0 },
                        &tip(r),
                    );
                }
            }
            ("open" | "interrupted", _) => {}
            ("infrastructure", _) => f.cross("away", x, 8.0, &format!("trial {}: {}", r.trial, r.reason)),
            _ => f.cross(
                "failed",
                x,
                8.0,
                &format!("trial {}: {}; {}", r.trial, r.reason, r.config),
            ),
        }
    }
    f.steps("front", &best, last);
    f.line("anchorline", &anchors);
    for (x, y) in &anchors {
        f.diamond(
            "today",
            *x,
            *y,
            5.0,
            &format!("trial {x}: today's configuration again, {} rps", rate(*y)),
        );
    }
    f.finish("Rate of each trial in order, and the best so far")
}

/// Axis and tick of a parameter: its own scale for numbers, a place each for choices.
pub(super) fn place(p: &Parameter, v: &Value) -> f64 {
    p.domain.encode(v)
}

pub(super) fn places(p: &Parameter) -> Vec<(f64, String)> {
    match &p.domain {
        Domain::Choice { values } => values
            .iter()
            .take(12)
            .map(|v| (place(p, v), v.to_string()))
            .collect(),
        d => {
            let mut out: Vec<(f64, String)> = Vec::new();
            for i in 0..=4 {
                let v = d.decode(f64::from(i) / 4.0);
                let text = v.as_f64().map_or_else(|| v.to_string(), tick_text);
                if out.last().is_none_or(|o| o.1 != text) {
                    out.push((d.encode(&v), text));
                }
            }
            out
        }
    }
}

/// The order of the parameters by importance, and each one's share where it is known.
fn ranked(s: &Summary<'_>) -> Vec<(usize, Option<Share>)> {
    let rows = measured(s);
    let points: Vec<Vec<f64>> = rows.iter().map(|r| s.space.encode(&r.config)).collect();
    let rates: Vec<f64> = rows.iter().map(|r| rate_of(r)).collect();
    let shares = importance(&points, &rates, s.meta.seed);
    let mut out: Vec<_> = (0..s.space.parameters.len())
        .map(|d| (d, shares.as_ref().and_then(|x| x.get(d).copied())))
        .collect();
    out.sort_by(|a, b| {
        let m = |x: &Option<Share>| x.map_or(0.0, |x| x.mean);
        m(&b.1).total_cmp(&m(&a.1))
    });
    out
}

/// Importance, slices and heat maps: they share the order of the parameters.
pub(super) fn parameter_charts(s: &Summary<'_>) -> String {
    let order = ranked(s);
    let indices: Vec<usize> = order.iter().map(|o| o.0).collect();
    format!(
        "{}{}{}",
        importance_chart(s, &order),
        super::heat::heat_maps(s, &indices),
        slices(s, &indices)
    )
}

fn importance_chart(s: &Summary<'_>, order: &[(usize, Option<Share>)]) -> String {
    let title = "Importance of the parameters";
    if order.iter().all(|o| o.1.is_none()) {
        return figure(
            title,
            "Too few measured trials to say, or no differences between them.",
            "",
            "importance",
        );
    }
    let height = 20.0 + 30.0 * order.len() as f64;
    let mut body = String::new();
    let mut rest = 1.0;
    for (i, (d, share)) in order.iter().enumerate() {
        let (Some(p), Some(share)) = (s.space.parameters.get(*d), share) else {
            continue;
        };
        rest -= share.mean;
        let y = 10.0 + 30.0 * i as f64;
        let _ = write!(
            body,
            r#"<text class="tick e" x="140" y="{:.1}">{}</text><rect class="bar" x="148" y="{y:.1}" width="{:.1}" height="18" rx="3"/><text class="tick" x="{:.1}" y="{:.1}">{} % ± {}</text>"#,
            y + 14.0,
            esc(&p.name, 20),
            (share.mean * (WIDTH - 250.0)).max(1.0),
            156.0 + share.mean * (WIDTH - 250.0),
            y + 14.0,
            percent(share.mean),
            percent(share.deviation)
        );
    }
    let note = format!(
        "Share of the rates' variance that each parameter explains alone (functional ANOVA over a forest, ± between its trees); {} % is interaction and noise.",
        percent(rest.max(0.0))
    );
    let svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Importance of each parameter">{body}</svg>"#
    );
    figure(title, &note, &svg, "importance")
}

fn slices(s: &Summary<'_>, order: &[usize]) -> String {
    let rows = measured(s);
    let top = rows.iter().map(|r| rate_of(r)).fold(0.0, f64::max);
    let mut out = String::new();
    for p in order.iter().filter_map(|d| s.space.parameters.get(*d)).take(24) {
        let mut f = Frame::new(
            Axis {
                low: -0.04,
                high: 1.04,
                log: false,
            },
            Axis::from_zero(top),
            200.0,
        );
        f.axes_with("", "rps", &places(p));
        // What matters is drawn last and larger, so that nothing covers it.
        for weight in [3.5, 5.0] {
            for r in rows
                .iter()
                .filter(|r| (mark_class(s, r) == "trial") == (weight < 4.0))
            {
                if let Some(v) = r.config.get(&p.name) {
                    f.dot(mark_class(s, r), place(p, v), rate_of(r), weight, &short_tip(r));
                }
            }
        }
        let label = format!("Rate by {}", p.name);
        out.push_str(&figure(&label, "", &f.finish(&label), "slice"));
    }
    out
}
