//! report.html: one file that opens from disk, without network, with or without JavaScript.
//!
//! Everything is drawn here, as SVG and tables: the page is complete without its script, which only sorts,
//! filters, shows tooltips and lays one trial's curve over the others. That is why no chart library is
//! embedded: it would draw a second time what must be there anyway, with its own idea of the numbers. The
//! page's policy (CSP) allows that one script by its hash and no request at all, so that hostile text which
//! slipped through the escaping still could not run.

mod charts;
mod curves;
mod finals;
mod heat;
mod picture;
mod sections;
mod svg;

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

pub use picture::picture;

use super::text::clean;
use super::{FinalVerdict, Summary};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// Where a page is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// A file: no request is ever made.
    File,
    /// Served by the tool itself while the study runs: the page asks its own server for news.
    Live,
}

/// The whole page.
#[must_use]
pub fn report_html(s: &Summary<'_>, page: Page) -> Vec<u8> {
    page_around(s, page, &main_html(s, page))
}

/// The page around a `main` that [`main_html`] made.
#[must_use]
pub fn page_around(s: &Summary<'_>, page: Page, main: &str) -> Vec<u8> {
    let connect = match page {
        Page::File => "",
        Page::Live => " connect-src 'self';",
    };
    let (live, lost) = match page {
        Page::File => ("", ""),
        Page::Live => (
            " data-live",
            "<p id=lost role=status>Not live any more: the run has ended, or the server was stopped. This is the last state that was seen.</p>\n",
        ),
    };
    let mut out = String::with_capacity(main.len() + 16 * 1024);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=en{live}>\n<head>\n<meta charset=utf-8>\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'sha256-{}';{connect} base-uri 'none'; form-action 'none'\">\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>{} · autotune</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         {lost}<main id=main>{main}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        base64(&Sha256::digest(SCRIPT.as_bytes())),
        esc(&s.meta.name, 120),
    );
    out.into_bytes()
}

/// What is inside `<main>`: a live page swaps it for a newer one.
#[must_use]
pub fn main_html(s: &Summary<'_>, page: Page) -> String {
    let parts = [
        sections::verdict(s),
        sections::configs(s),
        sections::binds(s),
        format!(
            "<section id=charts><h2>What was measured</h2><p class=note>{} <span class=key-trial>other trials</span></p>{}<div class=grid>{}{}</div>\
             <h3>Parameters</h3><div class=grid>{}</div><h3 id=curves-head>Load curves</h3>{}<div class=grid>{}{}</div></section>",
            sections::legend(s),
            finals::finals_chart(s),
            charts::cost_chart(s),
            charts::history_chart(s),
            charts::parameter_charts(s),
            sections::curve_picker(s),
            curves::load_curves(s),
            sections::at_the_rate(s)
        ),
        sections::trial_table(s),
        sections::warnings(s),
        sections::about(s),
        downloads(page),
        // A data block; `<` is escaped so that nothing in it can end it.
        format!(
            "<script type=application/json id=curves>{}</script>",
            curves::curve_data(s).replace('<', "\\u003c")
        ),
    ];
    parts.concat()
}

/// The journal's data to take away; beside a file they lie in the same folder.
fn downloads(page: Page) -> String {
    let files: &[&str] = match page {
        Page::File => &["trials.csv", "probes.csv"],
        Page::Live => &["trials.csv", "probes.csv", "study.json"],
    };
    let links: Vec<String> = files.iter().map(|f| format!("<a href={f}>{f}</a>")).collect();
    format!("<p id=downloads>Data: {}</p>", links.join(", "))
}

/// `text` cleaned, at most `longest` characters, as HTML text or a quoted attribute.
fn esc(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest) + 16);
    for c in clean(text, longest).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A chart with its title and a line on how to read it. `title` and `note` are text, `body` is ready HTML.
fn figure(title: &str, note: &str, body: &str, class: &str) -> String {
    let note = if note.is_empty() {
        String::new()
    } else {
        format!("<p class=note>{}</p>", esc(note, 600))
    };
    format!(
        "<figure class=\"{class}\"><figcaption>{}</figcaption>{body}{note}</figure>",
        esc(title, 120)
    )
}

/// Class of the verdict's colour.
fn verdict_class(s: &Summary<'_>) -> &'static str {
    match s.decision.as_ref().map(|d| d.verdict) {
        Some(FinalVerdict::Win) => "win",
        Some(FinalVerdict::NoGain | FinalVerdict::Worse) => "keep",
        None if s.ended().is_some() => "keep",
        Some(FinalVerdict::Undecided) | None => "open",
    }
}

/// RFC 4648 base64, for the script's hash.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET
                .get((n >> (18 - 6 * i) & 63) as usize)
                .copied()
                .unwrap_or(b'=');
            out.push(if i > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_the_rfc_has_it() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn markup_becomes_text() {
        assert_eq!(esc("<b a='x'>&\"\u{0}", 99), "&lt;b a=&#39;x&#39;&gt;&amp;&quot;");
    }
}
