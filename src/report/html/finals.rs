//! The finals: each round's rates by configuration, with means and intervals. The one chart that decides.

use std::fmt::Write as _;

use super::svg::{Axis, Frame};
use super::{esc, figure};
use crate::report::text::rate;
use crate::report::{Sample, Summary};

/// The chart and its table.
pub(super) fn finals_chart(s: &Summary<'_>) -> String {
    if s.finals.is_empty() {
        return String::new();
    }
    let note = "Measured again in interleaved rounds, minutes apart: dots are rounds, diamonds the means, bars their 95 % intervals. \
                Only these decide.";
    let body = format!("<div class=beside>{}{}</div>", finals_svg(s), finals_table(s));
    figure("The finals", note, &body, "finals")
}

/// The drawing alone.
#[allow(clippy::cast_precision_loss)]
pub(super) fn finals_svg(s: &Summary<'_>) -> String {
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
    f.finish("Rates of the finalists by round")
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

/// What a finalist changes, shortly: today's values are in the table above.
fn changed(s: &Summary<'_>, x: &Sample) -> String {
    let differs = |name: &str| x.config.get(name) != s.baseline.get(name);
    let words: Vec<String> = s
        .space
        .parameters
        .iter()
        .filter(|p| differs(&p.name))
        .map(|p| {
            let v = x.config.get(&p.name).map_or("–".to_owned(), ToString::to_string);
            format!("{} {v}", p.name)
        })
        .collect();
    words.join(", ")
}

fn finals_table(s: &Summary<'_>) -> String {
    let mut lines = String::new();
    for (i, x) in s.finals.iter().enumerate() {
        let interval = match x.interval_rps {
            Some([lo, _]) if x.at_least => format!("{} or more", rate(lo)),
            Some([lo, hi]) => format!("{} to {}", rate(lo), rate(hi)),
            None => "too few rounds".to_owned(),
        };
        let bound = if x.at_least { "≥ " } else { "" };
        let change = changed(s, x);
        let change = if change.is_empty() {
            String::new()
        } else {
            format!("<small>{}</small>", esc(&change, 300))
        };
        let _ = write!(
            lines,
            "<tr><th scope=row>{}{change}<td class=n>{bound}{}<td>{interval}<td class=n>{}</tr>",
            esc(&finalist(s, i, x).1, 40),
            rate(x.mean_rps),
            x.rates.len()
        );
    }
    format!(
        "<div class=scroll><table><thead><tr><th>finalist<th class=n>rps<th>95 % interval<th class=n>rounds</tr></thead><tbody>{lines}</tbody></table></div>"
    )
}
