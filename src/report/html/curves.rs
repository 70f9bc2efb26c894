//! Load curves: offered rate against goodput, loss and latency, for today's and the recommended configuration,
//! and the data from which the page's script lays any other trial over them.

use std::fmt::Write as _;

use super::figure;
use super::svg::{Axis, Frame};
use crate::report::Summary;
use crate::report::text::{number, rate};
use crate::slo::Verdict;
use crate::space::Config;
use crate::trial::{Probe, Trial, TrialPhase};

/// One point of a curve.
#[derive(Clone, Copy)]
struct Point {
    offered: f64,
    goodput: f64,
    loss: f64,
    p50: f64,
    p95: f64,
    p99: f64,
}

/// A probe that says something, as a point.
fn point(p: &Probe) -> Option<Point> {
    let m = &p.measurement;
    (p.verdict != Verdict::Void && m.scheduled > 0).then(|| Point {
        offered: m.offered.get(),
        goodput: m.goodput_rps(),
        loss: m.loss() * 100.0,
        p50: m.latency_ms.p50,
        p95: m.latency_ms.p95,
        p99: m.latency_ms.p99,
    })
}

fn sorted(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.offered.total_cmp(&b.offered));
    points
}

/// The curve of the trial of `config` that offered the most rates: the search's ramp widely, the finals only
/// around the answer. The latest of equals.
fn curve_of(s: &Summary<'_>, config: &Config) -> Vec<Point> {
    let trials = s.trials.iter().filter(|t| t.config == *config);
    let curves = trials.map(|t| sorted(t.probes.iter().filter_map(point).collect()));
    curves.max_by_key(Vec::len).unwrap_or_default()
}

/// What a panel shows of a point.
struct Panel {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    lines: &'static [fn(&Point) -> f64],
}

const PANELS: [Panel; 3] = [
    Panel {
        name: "goodput",
        title: "Goodput by offered rate",
        unit: "good answers/s",
        lines: &[|p| p.goodput],
    },
    Panel {
        name: "loss",
        title: "Goodput loss by offered rate",
        unit: "% lost",
        lines: &[|p| p.loss],
    },
    Panel {
        name: "latency",
        title: "Latency by offered rate",
        unit: "ms, logarithmic; p50 solid, p95 dashed, p99 dotted",
        lines: &[|p| p.p50, |p| p.p95, |p| p.p99],
    },
];

/// The three panels and the picker of another trial.
pub(super) fn load_curves(s: &Summary<'_>) -> String {
    let mut curves = vec![("today", curve_of(s, &s.baseline))];
    if let Some(c) = s.other() {
        curves.push(("best", curve_of(s, c)));
    }
    let all: Vec<Point> = s
        .trials
        .iter()
        .flat_map(|t| t.probes.iter().filter_map(point))
        .collect();
    if all.is_empty() {
        return figure("Load curves", "No probe has been recorded.", "", "curve");
    }
    let mut out = String::new();
    for panel in &PANELS {
        out.push_str(&draw(s, panel, &curves, &all));
    }
    out
}

fn draw(s: &Summary<'_>, panel: &Panel, curves: &[(&str, Vec<Point>)], all: &[Point]) -> String {
    let x = Axis::from_zero(all.iter().map(|p| p.offered).fold(0.0, f64::max));
    let values = |p: &Point| panel.lines.iter().map(|f| f(p)).collect::<Vec<_>>();
    let top = all.iter().flat_map(values).fold(0.0, f64::max);
    let y = if panel.name == "latency" {
        let low = all
            .iter()
            .map(|p| p.p50)
            .filter(|v| *v > 0.0)
            .fold(f64::MAX, f64::min);
        Axis::log(low, top)
    } else {
        Axis::from_zero(top)
    };
    let mut f = Frame::new(x, y, 240.0);
    f.axes("offered rps", panel.unit);
    if panel.name == "goodput" {
        // What a service without loss would do.
        f.line("ideal", &[(0.0, 0.0), (x.high.min(y.high), x.high.min(y.high))]);
    }
    let every = every_trial(&f, s, panel);
    f.raw(&every);
    for (class, points) in curves {
        for (k, value) in panel.lines.iter().enumerate() {
            let line: Vec<(f64, f64)> = points.iter().map(|p| (p.offered, value(p))).collect();
            f.line(&format!("curve {class} q{k}"), &line);
            for (p, (x, y)) in points.iter().zip(&line) {
                let tip = format!(
                    "offered {} rps: goodput {}, loss {} %, p50 {} ms, p95 {} ms, p99 {} ms",
                    rate(p.offered),
                    rate(p.goodput),
                    number(p.loss, 1),
                    number(p.p50, 1),
                    number(p.p95, 1),
                    number(p.p99, 1)
                );
                f.dot(class, *x, *y, 2.5, &tip);
            }
        }
    }
    figure(
        panel.title,
        "",
        &f.finish_with_scales(panel.title, panel.name),
        "curve",
    )
}

/// Every trial of the search as one faint path, whole pixels: the crowd that the two curves stand out from. Of the
/// latencies the highest quantile.
fn every_trial(f: &Frame, s: &Summary<'_>, panel: &Panel) -> String {
    let Some(value) = panel.lines.last() else {
        return String::new();
    };
    let mut d = String::new();
    for t in s.trials.iter().filter(|t| t.phase != TrialPhase::Final) {
        let mut verb = 'M';
        for p in sorted(t.probes.iter().filter_map(point).collect()) {
            let _ = write!(d, "{verb}{:.0} {:.0}", f.px(p.offered), f.py(value(&p)));
            verb = 'L';
        }
    }
    if d.is_empty() {
        return d;
    }
    format!(r#"<path class="every" d="{d}"/>"#)
}

/// Every trial's curve as compact JSON: trial -> rows of offered, goodput, loss %, p50, p95, p99.
pub(super) fn curve_data(s: &Summary<'_>) -> String {
    let mut out = String::from("{");
    for t in s.trials.iter().filter(|t| !t.probes.is_empty()) {
        if out.len() > 1 {
            out.push(',');
        }
        let _ = write!(out, "\"{}\":[", t.number);
        for (i, p) in sorted(t.probes.iter().filter_map(point).collect())
            .iter()
            .enumerate()
        {
            let gap = if i > 0 { "," } else { "" };
            let _ = write!(
                out,
                "{gap}[{:.1},{:.1},{:.2},{:.1},{:.1},{:.1}]",
                p.offered, p.goodput, p.loss, p.p50, p.p95, p.p99
            );
        }
        out.push(']');
    }
    out.push('}');
    out
}

/// A thumbnail of one trial's goodput by offered rate, for the table; empty without probes.
pub(super) fn thumbnail(t: &Trial, top: f64) -> String {
    let points = sorted(t.probes.iter().filter_map(point).collect());
    if points.is_empty() || top <= 0.0 {
        return String::new();
    }
    let mut d = String::new();
    for (i, p) in points.iter().enumerate() {
        let verb = if i == 0 { 'M' } else { 'L' };
        let _ = write!(
            d,
            "{verb}{:.0} {:.0}",
            1.0 + 78.0 * (p.offered / top).min(1.0),
            23.0 - 22.0 * (p.goodput / top).min(1.0)
        );
    }
    format!(r#"<svg class="thumb" viewBox="0 0 80 24"><path class="curve trial" d="{d}"/></svg>"#)
}

/// Highest offered rate of the study, the thumbnails' common scale.
pub(super) fn highest_offered(s: &Summary<'_>) -> f64 {
    let all = s.trials.iter().flat_map(|t| t.probes.iter());
    all.map(|p| p.measurement.offered.get()).fold(0.0, f64::max)
}
