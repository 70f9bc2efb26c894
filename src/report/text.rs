//! Text that came from elsewhere, made fit for a file that people open: bounded, without control characters,
//! and never a formula. Numbers as people read them.

use crate::space::Value;

/// Longest text of a cell or a table row, characters.
pub(super) const CELL: usize = 400;

/// `text` on one line, at most `longest` characters, without control and direction-changing characters.
#[must_use]
pub fn clean(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest * 4));
    let mut left = longest;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            gap = !out.is_empty();
            continue;
        }
        if c.is_control() || is_invisible(c) {
            continue;
        }
        if left <= usize::from(gap) {
            out.push('…');
            break;
        }
        if std::mem::take(&mut gap) {
            out.push(' ');
            left -= 1;
        }
        out.push(c);
        left -= 1;
    }
    out
}

/// Characters that change how the text around them is shown: zero-width ones and Unicode's bidi controls.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `text` for a CSV cell: cleaned, and quoted with `'` where a spreadsheet would take it for a formula.
#[must_use]
pub fn csv_text(text: &str) -> String {
    let t = clean(text, CELL);
    if t.starts_with(['=', '+', '-', '@']) {
        format!("'{t}")
    } else {
        t
    }
}

/// A parameter's value for a CSV cell: numbers stay numbers.
pub(super) fn csv_value(v: &Value) -> String {
    match v {
        Value::Text(t) => csv_text(t),
        other => other.to_string(),
    }
}

/// A number with at most `decimals` decimals, without trailing zeros; empty when it is not finite.
pub(super) fn number(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return String::new();
    }
    let s = format!("{x:.decimals$}");
    let s = if s.contains('.') {
        s.trim_end_matches('0').trim_end_matches('.')
    } else {
        &s
    };
    if s == "-0" { "0".to_owned() } else { s.to_owned() }
}

/// [`number`] of a value that may be missing.
pub(super) fn maybe(x: Option<f64>, decimals: usize) -> String {
    x.map_or(String::new(), |x| number(x, decimals))
}

/// A rate: whole from 100 on, one decimal below.
pub(super) fn rate(x: f64) -> String {
    number(x, usize::from(x.abs() < 100.0))
}

/// A fraction as percent: 0.4321 -> "43"; one decimal below ten.
pub(super) fn percent(x: f64) -> String {
    let p = x * 100.0;
    number(p, usize::from(p.abs() < 10.0))
}

/// A gain as percent with its sign.
pub(super) fn signed_percent(x: f64) -> String {
    let p = percent(x);
    if x > 0.0 && p != "0" { format!("+{p}") } else { p }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Breaks when a control character, a formula or an endless text gets through.
        #[test]
        fn cells_are_bounded_lines_and_never_formulas(s in any::<String>()) {
            let c = csv_text(&s);
            prop_assert!(c.chars().count() <= CELL + 2);
            prop_assert!(c.chars().all(|c| !c.is_control() && !is_invisible(c)));
            prop_assert!(!c.starts_with(['=', '+', '-', '@']));
        }
    }

    #[test]
    fn texts_and_numbers_read_well() {
        assert_eq!(clean("  a\n\tb\u{202e}c\u{7}", 10), "a bc");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(csv_text("\t=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
        assert_eq!(csv_value(&Value::Int(-5)), "-5");
        assert_eq!(number(2.500, 3), "2.5");
        assert_eq!(number(300.0, 0), "300");
        assert_eq!(number(-0.0001, 2), "0");
        assert_eq!(signed_percent(1.434), "+143");
        assert_eq!(signed_percent(-0.021), "-2.1");
    }
}
