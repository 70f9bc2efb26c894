//! The study as one picture: the search and the finals side by side, for a README, a ticket or a chat. It has its
//! own colours for light and dark, and no text but the study's own figures.

use super::{STYLE, charts, esc, finals};
use crate::report::Summary;

/// Characters of a line of the headline at the picture's width.
const LINE: usize = 118;

/// An SVG file.
#[must_use]
pub fn picture(s: &Summary<'_>) -> Vec<u8> {
    // The page's own rules for drawings; the one for every svg is about its place on the page.
    let style: String = STYLE
        .lines()
        .filter(|l| {
            l.starts_with(":root") || l.starts_with("@media (prefers-color-scheme") || l.starts_with("svg ")
        })
        .collect();
    let lines = wrapped(&s.headline(), LINE);
    let text: String = lines
        .iter()
        .enumerate()
        .map(|(i, l)| format!(r#"<text x="20" y="{}">{}</text>"#, 28 + 18 * i, esc(l, 2 * LINE)))
        .collect();
    let top = 20 + 18 * lines.len();
    let place = |x: u32, drawing: &str| {
        drawing.replacen(
            "<svg ",
            &format!(r#"<svg x="{x}" y="{}" width="480" height="260" "#, top + 20),
            1,
        )
    };
    let names = format!(
        r#"<text class="name" x="24" y="{0}">Each trial, and the best so far</text><text class="name" x="524" y="{0}">The finals, which decide</text>"#,
        top + 16
    );
    let height = top + 290;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1000 {height}\" role=\"img\" aria-label=\"{}\"><style>{style}</style>\
         <rect width=\"1000\" height=\"{height}\" rx=\"8\" style=\"fill:var(--bg);stroke:var(--line)\"/>{text}{names}{}{}</svg>\n",
        esc(&s.headline(), 600),
        place(10, &charts::history_svg(s)),
        place(510, &finals::finals_svg(s)),
    )
    .into_bytes()
}

/// `text` in lines of at most `longest` characters, broken between words; at most four.
fn wrapped(text: &str, longest: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let n = lines.len();
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > longest {
            if n == 4 {
                line.push('…');
                break;
            }
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_end() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("", 8), [""]);
        assert_eq!(wrapped(&"word ".repeat(100), 9).len(), 4);
    }
}
