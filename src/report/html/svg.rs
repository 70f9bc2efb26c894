//! The little drawing that the charts need: frames with axes, scales, marks. Colours are classes of the
//! page's style sheet, so that light, dark and print are one drawing.

use std::fmt::Write as _;

use super::esc;
use crate::report::text::number;

/// Width of every chart in its own units: narrow, so that text stays readable on a phone.
pub(super) const WIDTH: f64 = 480.0;

/// A range of values and how it is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
}

impl Axis {
    /// From zero to a round number above `high`.
    pub(super) fn from_zero(high: f64) -> Self {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let step = step_for(high, 5.0);
        Self {
            low: 0.0,
            high: (high / step * 1.02).ceil() * step,
            log: false,
        }
    }

    /// Around the values with a little room.
    pub(super) fn around(low: f64, high: f64) -> Self {
        let room = ((high - low) * 0.06).max(high.abs() * 0.01).max(1e-9);
        Self {
            low: low - room,
            high: high + room,
            log: false,
        }
    }

    /// Logarithmic, from the power of ten below `low` to `high` and a little more.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let low = if low.is_finite() && low > 0.0 { low } else { 1.0 };
        let high = if high.is_finite() && high > low {
            high
        } else {
            low * 10.0
        };
        Self {
            low: 10_f64.powf(low.log10().floor()),
            high: high * 1.3,
            log: true,
        }
    }

    /// Where `v` lies, 0..=1 within the range; outside values are clamped to its ends.
    pub(super) fn at(self, v: f64) -> f64 {
        let f = |x: f64| {
            if self.log {
                x.max(self.low * 1e-3).max(1e-12).ln()
            } else {
                x
            }
        };
        let span = f(self.high) - f(self.low);
        if span <= 0.0 || !v.is_finite() {
            return 0.5;
        }
        ((f(v) - f(self.low)) / span).clamp(0.0, 1.0)
    }

    /// At most a dozen round values inside the range.
    pub(super) fn ticks(self) -> Vec<f64> {
        let mut out = Vec::new();
        if self.log {
            let mut t = self.low;
            while t <= self.high && out.len() < 12 {
                out.push(t);
                t *= 10.0;
            }
            return out;
        }
        let step = step_for(self.high - self.low, 5.0);
        let mut t = (self.low / step).ceil() * step;
        while t <= self.high + step * 1e-9 && out.len() < 12 {
            out.push(if t.abs() < step * 1e-9 { 0.0 } else { t });
            t += step;
        }
        out
    }
}

/// 1, 2 or 5 times a power of ten, so that `span` has about `wanted` steps.
fn step_for(span: f64, wanted: f64) -> f64 {
    let raw = (span / wanted).max(1e-12);
    let power = 10_f64.powf(raw.log10().floor());
    let m = raw / power;
    power
        * if m <= 1.0 {
            1.0
        } else if m <= 2.0 {
            2.0
        } else if m <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// A value as an axis shows it.
pub(super) fn tick_text(v: f64) -> String {
    let a = v.abs();
    if a >= 10_000.0 {
        format!("{}k", number(v / 1_000.0, 1))
    } else if a >= 10.0 {
        number(v, 1)
    } else {
        number(v, 3)
    }
}

/// A chart: a plotting area with two axes, and what was drawn so far.
pub(super) struct Frame {
    pub(super) x: Axis,
    pub(super) y: Axis,
    height: f64,
    left: f64,
    bottom: f64,
    body: String,
}

const TOP: f64 = 26.0;
const RIGHT: f64 = 14.0;

impl Frame {
    pub(super) fn new(x: Axis, y: Axis, height: f64) -> Self {
        Self {
            x,
            y,
            height,
            left: 52.0,
            bottom: 40.0,
            body: String::new(),
        }
    }

    pub(super) fn px(&self, v: f64) -> f64 {
        self.left + self.x.at(v) * (WIDTH - self.left - RIGHT)
    }

    pub(super) fn py(&self, v: f64) -> f64 {
        TOP + (1.0 - self.y.at(v)) * (self.height - TOP - self.bottom)
    }

    /// Puts ready SVG in.
    pub(super) fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// Grid lines, tick texts and the axes' names.
    pub(super) fn axes(&mut self, x_name: &str, y_name: &str) {
        let ticks = self.x.ticks();
        self.axes_with(
            x_name,
            y_name,
            &ticks.iter().map(|t| (*t, tick_text(*t))).collect::<Vec<_>>(),
        );
    }

    /// The same with given ticks along x.
    pub(super) fn axes_with(&mut self, x_name: &str, y_name: &str, x_ticks: &[(f64, String)]) {
        let (right, base) = (WIDTH - RIGHT, self.height - self.bottom);
        for t in self.y.ticks() {
            let y = self.py(t);
            let _ = write!(
                self.body,
                r#"<path class="rule" d="M{:.1} {y:.1}H{right:.1}"/><text class="tick e" x="{:.1}" y="{:.1}">{}</text>"#,
                self.left,
                self.left - 6.0,
                y + 4.0,
                tick_text(t)
            );
        }
        for (t, text) in x_ticks {
            let x = self.px(*t);
            let _ = write!(
                self.body,
                r#"<text class="tick m" x="{x:.1}" y="{:.1}">{}</text>"#,
                base + 16.0,
                esc(text, 14)
            );
        }
        let _ = write!(
            self.body,
            r#"<path class="axis" d="M{:.1} {base:.1}H{right:.1}"/><text class="name e" x="{right:.1}" y="{:.1}">{}</text><text class="name" x="{:.1}" y="{:.1}">{}</text>"#,
            self.left,
            self.height - 6.0,
            esc(x_name, 80),
            2.0,
            12.0,
            esc(y_name, 80)
        );
    }

    /// A dot with a tooltip.
    pub(super) fn dot(&mut self, class: &str, x: f64, y: f64, r: f64, tip: &str) {
        let (x, y) = (self.px(x), self.py(y));
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{r}"><title>{}</title></circle>"#,
            esc(tip, 400)
        );
    }

    /// A diamond with a tooltip.
    pub(super) fn diamond(&mut self, class: &str, x: f64, y: f64, r: f64, tip: &str) {
        let (x, y) = (self.px(x), self.py(y));
        let _ = write!(
            self.body,
            r#"<path class="{class}" d="M{x:.1} {:.1}l{r} {r}l-{r} {r}l-{r} -{r}z"><title>{}</title></path>"#,
            y - r,
            esc(tip, 400)
        );
    }

    /// A cross with a tooltip, at a height in pixels above the axis.
    pub(super) fn cross(&mut self, class: &str, x: f64, above: f64, tip: &str) {
        let (x, y) = (self.px(x), self.height - self.bottom - above);
        let _ = write!(
            self.body,
            r#"<path class="{class}" d="M{:.1} {:.1}l8 8m0 -8l-8 8"><title>{}</title></path>"#,
            x - 4.0,
            y - 4.0,
            esc(tip, 400)
        );
    }

    /// A vertical bar from `lo` to `hi`.
    pub(super) fn whisker(&mut self, class: &str, x: f64, lo: f64, hi: f64) {
        let _ = write!(
            self.body,
            r#"<path class="{class}" d="M{:.1} {:.1}V{:.1}"/>"#,
            self.px(x),
            self.py(lo),
            self.py(hi)
        );
    }

    /// A line through `points`.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.is_empty() {
            return;
        }
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let verb = if i == 0 { 'M' } else { 'L' };
            let _ = write!(d, "{verb}{:.1} {:.1}", self.px(*x), self.py(*y));
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// A line that keeps its height until the next point.
    pub(super) fn steps(&mut self, class: &str, points: &[(f64, f64)], end: f64) {
        if points.is_empty() {
            return;
        }
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            if i == 0 {
                let _ = write!(d, "M{:.1} {:.1}", self.px(*x), self.py(*y));
            } else {
                let _ = write!(d, "H{:.1}V{:.1}", self.px(*x), self.py(*y));
            }
        }
        let _ = write!(d, "H{:.1}", self.px(end));
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// The chart; `label` is read out where the drawing cannot be seen.
    pub(super) fn finish(self, label: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {}" role="img" aria-label="{}">{}</svg>"#,
            self.height,
            esc(label, 300),
            self.body
        )
    }

    /// The chart with its scales as attributes, so that the page's script can lay another line over it.
    pub(super) fn finish_with_scales(self, label: &str, name: &str) -> String {
        let (x0, x1) = (self.left, WIDTH - RIGHT);
        let (y0, y1) = (self.height - self.bottom, TOP);
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {}" role="img" aria-label="{}" data-chart="{name}" data-x="{} {} {x0} {x1} {}" data-y="{} {} {y0} {y1} {}">{}<g class="over"></g></svg>"#,
            self.height,
            esc(label, 300),
            self.x.low,
            self.x.high,
            u8::from(self.x.log),
            self.y.low,
            self.y.high,
            u8::from(self.y.log),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Breaks when a chart of odd numbers draws outside its frame, or an axis loops.
        #[test]
        fn marks_stay_inside(low in -1e9_f64..1e9, span in 0.0_f64..1e9, v in any::<f64>(), log in any::<bool>()) {
            let axis = if log { Axis::log(low, low + span) } else { Axis::around(low, low + span) };
            let f = Frame::new(axis, axis, 240.0);
            prop_assert!((0.0..=WIDTH).contains(&f.px(v)));
            prop_assert!((0.0..=240.0).contains(&f.py(v)));
            prop_assert!(axis.ticks().len() <= 12);
        }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            Axis::from_zero(413.0).ticks(),
            [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]
        );
        assert_eq!(Axis::log(3.0, 900.0).ticks(), [1.0, 10.0, 100.0, 1000.0]);
    }
}
