//! What is wrong with a space file: every mistake with its file, line, column, caret and hint.
//!
//! Values that may be secrets are never shown: their characters are blanked in the quoted line.

use std::fmt;
use std::ops::Range;

/// Most mistakes that are printed; the rest is counted.
const MAX_SHOWN: usize = 40;
/// Widest part of a source line that is quoted, characters.
const MAX_QUOTED: usize = 160;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, lowercase.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The line with secrets blanked, and the number of characters to underline.
    quoted: Option<(String, usize)>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if let Some((line, width)) = &self.quoted {
            let number = self.line.to_string();
            let pad = " ".repeat(number.len());
            let gap = " ".repeat(self.column.saturating_sub(1));
            let caret = "^".repeat((*width).max(1));
            write!(f, "\n {pad} |\n {number} | {line}\n {pad} | {gap}{caret}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n   = {hint}")?;
        }
        Ok(())
    }
}

/// All mistakes of a file, in its order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors {
    errors: Vec<SpecError>,
    exit: u8,
}

impl SpecErrors {
    /// The file could not be read (exit 64).
    pub(crate) fn unreadable(file: &str, message: String) -> Self {
        let error = SpecError {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message,
            hint: None,
            quoted: None,
        };
        Self {
            errors: vec![error],
            exit: 64,
        }
    }

    /// The file is wrong (exit 65).
    pub(crate) fn wrong(mut errors: Vec<SpecError>) -> Self {
        errors.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        errors.dedup();
        Self { errors, exit: 65 }
    }

    /// The mistakes.
    pub fn iter(&self) -> impl Iterator<Item = &SpecError> {
        self.errors.iter()
    }

    /// The documented exit code: 64 where the file is missing or unreadable, 65 where it is wrong.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.errors.iter().take(MAX_SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{e}")?;
        }
        let n = self.errors.len();
        if n > MAX_SHOWN {
            write!(f, "\n\nand {} more", n - MAX_SHOWN)?;
        }
        if n > 1 {
            write!(f, "\n\n{n} mistakes; nothing was touched")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

/// The text, for turning byte offsets into lines.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(
                text.bytes()
                    .enumerate()
                    .filter(|(_, b)| *b == b'\n')
                    .map(|(i, _)| i + 1),
            )
            .collect();
        Self { file, text, starts }
    }

    /// The mistake at `span`; bytes inside `blank` are not shown.
    pub(crate) fn error(
        &self,
        span: &Range<usize>,
        message: String,
        hint: Option<String>,
        blank: &[Range<usize>],
    ) -> SpecError {
        let at = span.start.min(self.text.len());
        let index = self.starts.partition_point(|s| *s <= at).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(0);
        let end = self.starts.get(index + 1).map_or(self.text.len(), |e| e - 1);
        let line = self.text.get(start..end).unwrap_or("").trim_end_matches('\r');
        let column = line.char_indices().take_while(|(i, _)| start + i < at).count() + 1;
        let hidden = |i: usize| blank.iter().any(|r| r.contains(&(start + i)));
        let shown: String = line
            .char_indices()
            .take(MAX_QUOTED)
            .map(|(i, c)| match c {
                _ if hidden(i) => '*',
                '\t' => ' ',
                c if c.is_control() => '\u{fffd}',
                c => c,
            })
            .collect();
        let until = span.end.min(start + line.len());
        let width = self.text.get(at..until).map_or(1, |s| s.chars().count());
        // What a file says with an escape (`"\e"`) reaches messages as the character itself.
        let tame = |said: String| -> String {
            let one = |c: char| {
                if c.is_control() && c != '\n' {
                    '\u{fffd}'
                } else {
                    c
                }
            };
            said.chars().map(one).collect()
        };
        let quoted = (column <= MAX_QUOTED).then(|| (shown, width.min(MAX_QUOTED + 1 - column)));
        SpecError {
            file: self.file.to_owned(),
            line: index + 1,
            column,
            message: tame(message),
            hint: hint.map(tame),
            quoted,
        }
    }
}

/// "did you mean" for `typed` among `known`; None when nothing is near.
pub(crate) fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if typed.len() > 100 {
        return None;
    }
    let typed = typed.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&typed, &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(typed.len()) / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}
