//! The charts of the search: rate against cost, best so far, the finals, each parameter's effect and
//! importance, heat maps of two parameters.

use std::fmt::Write as _;

use super::svg::{Axis, Frame, WIDTH, tick_text};
use super::{esc, figure};
use crate::report::importance::importance;
use crate::report::text::{number, percent, rate};
use crate::report::{Row, Sample, Share, Summary};
use crate::space::{Domain, Parameter, Value};
use crate::trial::TrialPhase;

const HEIGHT: f64 = 260.0;
/// Most pairs of parameters that get a heat map, the most important ones first.
const MOST_PAIRS: usize = 45;
/// Cells along a side of a heat map.
const CELLS: usize = 10;

/// Rows with a rate that can be compared: finals aside, lost races too (only a bound is known).
fn measured<'a>(s: &'a Summary<'_>) -> Vec<&'a Row> {
    s.rows
        .iter()
        .filter(|r| {
            r.phase != TrialPhase::Final
                && matches!(r.verdict, "sustainable" | "at_least" | "generator_limited")
        })
        .filter(|r| r.rate_rps.is_some())
        .collect()
}

fn rate_of(r: &Row) -> f64 {
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

fn mark_class(s: &Summary<'_>, r: &Row) -> &'static str {
    if r.config == s.baseline {
        "today"
    } else if s.is_win() && s.recommended() == Some(&r.config) {
        "best"
    } else {
        "trial"
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
    let title = "Best so far";
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
                    f.dot(mark_class(s, r), x, y, 3.5, &tip(r));
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
    let note = "Dots are trials, the line is the best so far. Diamonds are today's configuration, measured again along the way: \
                their spread is the machine's drift. Crosses failed.";
    figure(
        title,
        note,
        &f.finish("Rate of each trial in order, and the best so far"),
        "history",
    )
}

/// The finals: each round's rates by configuration, with means and intervals.
#[allow(clippy::cast_precision_loss)]
pub(super) fn finals_chart(s: &Summary<'_>) -> String {
    if s.finals.is_empty() {
        return String::new();
    }
    let top = s
        .finals
        .iter()
        .flat_map(|x| x.rates.iter().copied())
        .fold(0.0, f64::max);
    let n = s.finals.len() as f64;
    let mut f = Frame::new(
        Axis {
            low: 0.0,
            high: n,
            log: false,
        },
        Axis::from_zero(top * 1.1),
        230.0,
    );
    let names: Vec<(&str, String)> = s
        .finals
        .iter()
        .enumerate()
        .map(|(i, x)| finalist(s, i, x))
        .collect();
    let places = |i: usize| i as f64 + 0.5;
    let ticks: Vec<(f64, String)> = names
        .iter()
        .enumerate()
        .map(|(i, n)| (places(i), n.1.clone()))
        .collect();
    f.axes_with("", "rps", &ticks);
    for (i, (x, (class, _))) in s.finals.iter().zip(&names).enumerate() {
        let middle = places(i);
        for (k, y) in x.rates.iter().enumerate() {
            // Rounds side by side, so that equal rates do not hide each other.
            let shift = (k as f64 - (x.rates.len() as f64 - 1.0) / 2.0) * 0.5 / x.rates.len() as f64;
            f.dot(
                class,
                middle + shift,
                *y,
                3.5,
                &format!("round {}: {} rps", k + 1, rate(*y)),
            );
        }
        if let Some([lo, hi]) = x.interval_rps {
            f.whisker("whisker", middle, lo, hi);
        }
        f.diamond(
            "mean",
            middle,
            x.mean_rps,
            5.0,
            &format!("mean {} rps", rate(x.mean_rps)),
        );
    }
    let note = "Measured again in interleaved rounds, minutes apart: dots are rounds, diamonds the means, bars their 95 % intervals. \
                Only these decide.";
    let body = format!(
        "{}{}",
        f.finish("Rates of the finalists by round"),
        finals_table(s, &names)
    );
    figure("The finals", note, &body, "finals")
}

/// Class and name of a finalist; today's comes first, so the others count from 1.
fn finalist(s: &Summary<'_>, i: usize, x: &Sample) -> (&'static str, String) {
    if x.config == s.baseline {
        ("today", "today".to_owned())
    } else if s.is_win() && s.recommended() == Some(&x.config) {
        ("best", "recommended".to_owned())
    } else {
        ("trial", format!("candidate {i}"))
    }
}

fn finals_table(s: &Summary<'_>, names: &[(&str, String)]) -> String {
    let mut lines = String::new();
    for (x, (_, name)) in s.finals.iter().zip(names) {
        let interval = x.interval_rps.map_or("too few rounds".to_owned(), |[lo, hi]| {
            format!("{} to {}", rate(lo), rate(hi))
        });
        let _ = write!(
            lines,
            "<tr><th scope=row>{}<td class=n>{}<td>{interval}<td class=n>{}<td>{}</tr>",
            esc(name, 40),
            rate(x.mean_rps),
            x.rates.len(),
            esc(&x.config.to_string(), 400)
        );
    }
    format!(
        "<div class=scroll><table><thead><tr><th>finalist<th class=n>rps<th>95 % interval<th class=n>rounds<th>configuration</tr></thead><tbody>{lines}</tbody></table></div>"
    )
}

/// Axis and tick of a parameter: its own scale for numbers, a place each for choices.
fn place(p: &Parameter, v: &Value) -> f64 {
    p.domain.encode(v)
}

fn places(p: &Parameter) -> Vec<(f64, String)> {
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
        slices(s, &indices),
        heat_maps(s, &indices)
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
        for r in &rows {
            if let Some(v) = r.config.get(&p.name) {
                f.dot(mark_class(s, r), place(p, v), rate_of(r), 3.5, &short_tip(r));
            }
        }
        let label = format!("Rate by {}", p.name);
        out.push_str(&figure(&label, "", &f.finish(&label), "slice"));
    }
    out
}

/// The best rate in each cell of two parameters' plane; one map a pair, of which the page's script shows one.
fn heat_maps(s: &Summary<'_>, order: &[usize]) -> String {
    let rows = measured(s);
    let mut maps = String::new();
    let mut options = String::new();
    let mut n = 0;
    for (i, a) in order.iter().enumerate() {
        for b in order.iter().skip(i + 1) {
            let (Some(pa), Some(pb)) = (s.space.parameters.get(*a), s.space.parameters.get(*b)) else {
                continue;
            };
            if n == MOST_PAIRS {
                break;
            }
            let _ = write!(
                options,
                "<option value={n}>{} × {}</option>",
                esc(&pa.name, 60),
                esc(&pb.name, 60)
            );
            let _ = write!(
                maps,
                "<div class=heat data-pair={n}>{}</div>",
                heat_map(s, &rows, pa, pb)
            );
            n += 1;
        }
    }
    if n == 0 {
        return figure(
            "Two parameters at a time",
            "The space has one parameter.",
            "",
            "heats",
        );
    }
    let picker = format!("<label class=js>Parameters <select id=pair>{options}</select></label>");
    let note = "Best rate found in each cell; the stronger the colour the more it carries, empty cells were not tried. Rings: today (grey) and recommended (green).";
    figure(
        "Two parameters at a time",
        note,
        &format!("{picker}{maps}"),
        "heats",
    )
}

/// The best rate and the number of trials in each cell, row by row from below; with the sides' lengths.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn cells(rows: &[&Row], a: &Parameter, b: &Parameter) -> (usize, usize, Vec<(f64, u32)>) {
    let side = |p: &Parameter| match &p.domain {
        Domain::Choice { values } => values.len().clamp(1, CELLS),
        d => d.size().map_or(CELLS, |n| (n as usize).clamp(1, CELLS)),
    };
    let (na, nb) = (side(a), side(b));
    let index = |u: f64, n: usize| ((u * n as f64) as usize).min(n - 1);
    let mut best = vec![(0.0_f64, 0_u32); na * nb];
    for r in rows {
        if let (Some(x), Some(y)) = (r.config.get(&a.name), r.config.get(&b.name)) {
            let at = index(place(b, y), nb) * na + index(place(a, x), na);
            if let Some(c) = best.get_mut(at) {
                *c = (c.0.max(rate_of(r)), c.1 + 1);
            }
        }
    }
    (na, nb, best)
}

#[allow(clippy::cast_precision_loss)]
fn heat_map(s: &Summary<'_>, rows: &[&Row], a: &Parameter, b: &Parameter) -> String {
    let (na, nb, best) = cells(rows, a, b);
    let unit = Axis {
        low: 0.0,
        high: 1.0,
        log: false,
    };
    let mut f = Frame::new(unit, unit, HEIGHT);
    let top = best.iter().map(|c| c.0).fold(0.0, f64::max);
    let floor = best.iter().filter(|c| c.1 > 0).map(|c| c.0).fold(top, f64::min);
    let mut body = String::new();
    for (k, (y, n)) in best.iter().enumerate().filter(|(_, c)| c.1 > 0) {
        let (i, j) = ((k % na) as f64, (k / na) as f64);
        let (x0, x1) = (f.px(i / na as f64), f.px((i + 1.0) / na as f64));
        let (y0, y1) = (f.py((j + 1.0) / nb as f64), f.py(j / nb as f64));
        let shade = if top > floor {
            (y - floor) / (top - floor)
        } else {
            1.0
        };
        let _ = write!(
            body,
            r#"<rect class="cell" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill-opacity="{:.2}"><title>best {} rps of {n}</title></rect>"#,
            x0 + 0.5,
            y0 + 0.5,
            (x1 - x0 - 1.0).max(1.0),
            (y1 - y0 - 1.0).max(1.0),
            0.08 + 0.92 * shade,
            rate(*y)
        );
    }
    f.raw(&body);
    let frame = heat_frame(s, &f, a, b);
    f.raw(&frame);
    f.finish(&format!("Best rate by {} and {}", a.name, b.name))
}

/// Ticks, names and the two configurations that matter.
fn heat_frame(s: &Summary<'_>, f: &Frame, a: &Parameter, b: &Parameter) -> String {
    let mut out = String::new();
    for (t, text) in places(a) {
        let _ = write!(
            out,
            r#"<text class="tick m" x="{:.1}" y="{:.1}">{}</text>"#,
            f.px(t),
            HEIGHT - 24.0,
            esc(&text, 14)
        );
    }
    for (t, text) in places(b) {
        let _ = write!(
            out,
            r#"<text class="tick e" x="46" y="{:.1}">{}</text>"#,
            f.py(t) + 4.0,
            esc(&text, 7)
        );
    }
    for (config, class) in [
        (Some(&s.baseline), "today"),
        (s.recommended().filter(|_| s.is_win()), "best"),
    ] {
        let Some(c) = config else { continue };
        if let (Some(x), Some(y)) = (c.get(&a.name), c.get(&b.name)) {
            let _ = write!(
                out,
                r#"<circle class="pin {class}" cx="{:.1}" cy="{:.1}" r="6"><title>{class}: {}</title></circle>"#,
                f.px(place(a, x)),
                f.py(place(b, y)),
                esc(&c.to_string(), 300)
            );
        }
    }
    let _ = write!(
        out,
        r#"<text class="name e" x="466" y="{:.1}">{}</text><text class="name" x="2" y="12">{}</text>"#,
        HEIGHT - 6.0,
        esc(&a.name, 60),
        esc(&b.name, 60)
    );
    out
}
