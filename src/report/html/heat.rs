//! Heat maps: the best rate in each cell of two parameters' plane. One map a pair is drawn, so that the page has
//! them all without its script; the script shows the pair that the reader picks.

use std::fmt::Write as _;

use super::charts::{mark_name, measured, place, places, rate_of};
use super::svg::{Axis, Frame};
use super::{esc, figure};
use crate::report::text::rate;
use crate::report::{Row, Summary};
use crate::space::{Domain, Parameter, Value};

const HEIGHT: f64 = 260.0;
/// Parameters that get maps, the most important first: ten make 45 pairs.
const MOST: usize = 10;
/// Cells along a side.
const CELLS: usize = 10;

/// One map for each two of the parameters `order`, which is by falling importance.
pub(super) fn heat_maps(s: &Summary<'_>, order: &[usize]) -> String {
    let title = "Two parameters at a time";
    let rows = measured(s);
    let shown: Vec<&Parameter> = order
        .iter()
        .filter_map(|d| s.space.parameters.get(*d))
        .take(MOST)
        .collect();
    if shown.len() < 2 {
        return figure(title, "The space has one parameter.", "", "heats");
    }
    let mut maps = String::new();
    for (i, a) in shown.iter().enumerate() {
        for (j, b) in shown.iter().enumerate().skip(i + 1) {
            let _ = write!(
                maps,
                "<div class=heat data-pair=\"{i} {j}\">{}</div>",
                heat_map(s, &rows, a, b)
            );
        }
    }
    let options: Vec<String> = shown
        .iter()
        .enumerate()
        .map(|(i, p)| format!("<option value={i}>{}</option>", esc(&p.name, 60)))
        .collect();
    let options = options.concat();
    let picker = format!(
        "<p class=\"js pick\"><label>Parameters <select id=one>{options}</select></label> <label>and <select id=two>{options}</select></label></p>"
    );
    let more = if order.len() > MOST {
        " The ten most important parameters are here."
    } else {
        ""
    };
    let note = format!(
        "The best rate found in each cell; empty cells were not tried. Rings: today (grey) and {}.{more}",
        if s.is_win() {
            "recommended (green)"
        } else {
            "nothing else, since nothing is recommended"
        }
    );
    figure(title, &note, &format!("{picker}{maps}"), "heats")
}

/// Cells along the side of `p`.
#[allow(clippy::cast_possible_truncation)]
fn side(p: &Parameter) -> usize {
    match &p.domain {
        Domain::Choice { values } => values.len().clamp(1, CELLS),
        d => d.size().map_or(CELLS, |n| (n as usize).clamp(1, CELLS)),
    }
}

/// Where `v` lies along a side of `n` cells: the ends of a range are the middles of the outer cells.
#[allow(clippy::cast_precision_loss)]
fn spot(p: &Parameter, u: f64, n: usize) -> f64 {
    match &p.domain {
        Domain::Choice { .. } => u,
        _ => (u * (n as f64 - 1.0) + 0.5) / n as f64,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn index(p: &Parameter, v: &Value, n: usize) -> usize {
    ((spot(p, place(p, v), n) * n as f64) as usize).min(n.saturating_sub(1))
}

/// The best rate and the number of trials in each cell, row by row from below; with the sides' lengths.
fn cells(rows: &[&Row], a: &Parameter, b: &Parameter) -> (usize, usize, Vec<(f64, u32)>) {
    let (na, nb) = (side(a), side(b));
    let mut best = vec![(0.0_f64, 0_u32); na * nb];
    for r in rows {
        if let (Some(x), Some(y)) = (r.config.get(&a.name), r.config.get(&b.name))
            && let Some(c) = best.get_mut(index(b, y, nb) * na + index(a, x, na))
        {
            *c = (c.0.max(rate_of(r)), c.1 + 1);
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
        let trials = if *n == 1 { "trial" } else { "trials" };
        let _ = write!(
            body,
            r#"<rect class="cell" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill-opacity="{:.2}"><title>{} rps, the best of {n} {trials}</title></rect>"#,
            x0 + 0.5,
            y0 + 0.5,
            (x1 - x0 - 1.0).max(1.0),
            (y1 - y0 - 1.0).max(1.0),
            0.08 + 0.92 * shade,
            rate(*y)
        );
    }
    f.raw(&body);
    let frame = heat_frame(s, &f, (a, na), (b, nb));
    f.raw(&frame);
    format!(
        "{}<p class=scale>{} rps <i class=ramp></i> {} rps</p>",
        f.finish(&format!("Best rate by {} and {}", a.name, b.name)),
        rate(floor),
        rate(top)
    )
}

/// Ticks, names and the two configurations that matter.
fn heat_frame(
    s: &Summary<'_>,
    f: &Frame,
    (a, na): (&Parameter, usize),
    (b, nb): (&Parameter, usize),
) -> String {
    let mut out = String::new();
    for (t, text) in places(a) {
        let _ = write!(
            out,
            r#"<text class="tick m" x="{:.1}" y="{:.1}">{}</text>"#,
            f.px(spot(a, t, na)),
            HEIGHT - 24.0,
            esc(&text, 14)
        );
    }
    for (t, text) in places(b) {
        let _ = write!(
            out,
            r#"<text class="tick e" x="46" y="{:.1}">{}</text>"#,
            f.py(spot(b, t, nb)) + 4.0,
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
                r#"<circle class="pin {class}" cx="{:.1}" cy="{:.1}" r="6"><title>{}: {}</title></circle>"#,
                f.px(spot(a, place(a, x), na)),
                f.py(spot(b, place(b, y), nb)),
                mark_name(class),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Binding;

    fn int(low: i64, high: i64) -> Parameter {
        Parameter {
            name: "p".into(),
            domain: Domain::Int {
                low,
                high,
                step: 1,
                log: false,
            },
            baseline: Value::Int(low),
            binding: Binding::Unbound,
            only_if: None,
        }
    }

    /// Breaks when a value falls into a neighbour's cell, or a short range loses a cell.
    #[test]
    fn each_value_of_a_short_range_has_its_cell() {
        for high in 1..=9 {
            let p = int(0, high);
            let n = side(&p);
            let found: Vec<usize> = (0..=high).map(|v| index(&p, &Value::Int(v), n)).collect();
            assert_eq!(found, (0..n).collect::<Vec<_>>(), "0..={high}");
        }
        let wide = int(1, 1_000);
        assert_eq!(
            (
                index(&wide, &Value::Int(1), 10),
                index(&wide, &Value::Int(1_000), 10)
            ),
            (0, 9)
        );
    }
}
