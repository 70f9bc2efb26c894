//! What all parts of the parser share: the source, mistakes, the environment, what was read.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Secret;
use super::errors::{Source, SpecError};
use super::keys::{MAX_NAME, MAX_TEXT};

/// Bytes of the file.
pub(crate) type Span = Range<usize>;
/// The environment.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;
/// Reads a file that the space file names.
pub(crate) type Files<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

/// What all parts of the parser share.
pub(crate) struct Ctx<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) files: Files<'a>,
    env: Env<'a>,
    errors: RefCell<Vec<SpecError>>,
    warnings: RefCell<Vec<String>>,
    /// Path of a key -> canonical value.
    canon: RefCell<BTreeMap<String, String>>,
    secrets: RefCell<Vec<Secret>>,
    blank: Vec<Span>,
    /// Keys that were asked for: a test holds that the parser asks for every key of the table.
    pub(super) asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

/// A text of the file, as typed and with `${NAME}` replaced.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) value: String,
    pub(crate) span: Span,
    pub(crate) from_env: bool,
}

impl<'a> Ctx<'a> {
    pub(crate) fn new(source: Source<'a>, env: Env<'a>, files: Files<'a>, blank: Vec<Span>) -> Self {
        Self {
            source,
            files,
            env,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            canon: RefCell::default(),
            secrets: RefCell::default(),
            blank,
            asked: RefCell::default(),
        }
    }

    pub(crate) fn error(&self, span: &Span, message: impl Into<String>, hint: impl Into<Option<String>>) {
        let e = self.source.error(span, message.into(), hint.into(), &self.blank);
        self.errors.borrow_mut().push(e);
    }

    pub(crate) fn warn(&self, span: &Span, message: &str) {
        let e = self.source.error(span, message.to_owned(), None, &self.blank);
        self.warnings
            .borrow_mut()
            .push(format!("{}:{}:{}: {}", e.file, e.line, e.column, e.message));
    }

    pub(crate) fn note(&self, path: &str, canonical: impl Into<String>) {
        self.canon.borrow_mut().insert(path.to_owned(), canonical.into());
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    pub(crate) fn finish(self) -> Finished {
        Finished {
            errors: self.errors.into_inner(),
            warnings: self.warnings.into_inner(),
            canon: self.canon.into_inner(),
            secrets: self.secrets.into_inner(),
            #[cfg(test)]
            asked: self.asked.into_inner(),
        }
    }

    /// Replaces `${NAME}`; `$${` stands for `${`. The second part says whether the environment was read.
    pub(super) fn expand(&self, raw: &str, span: &Span) -> Option<(String, bool)> {
        let (mut out, mut rest, mut read) = (String::new(), raw, false);
        while let Some(i) = rest.find("${") {
            if i > 0 && rest.as_bytes().get(i - 1) == Some(&b'$') {
                out.push_str(&rest[..i - 1]);
                out.push_str("${");
                rest = &rest[i + 2..];
                continue;
            }
            out.push_str(&rest[..i]);
            let after = &rest[i + 2..];
            let name = after.split('}').next().unwrap_or("");
            if name.len() == after.len() || !is_env_name(name) {
                self.error(
                    span,
                    "`${` begins a reference to the environment that does not end",
                    "write ${NAME}, or $${ for the text ${".to_owned(),
                );
                return None;
            }
            let Some(value) = (self.env)(name) else {
                self.error(
                    span,
                    format!("the environment variable {name} is not set"),
                    format!("export {name}=... before the start, or leave this key out"),
                );
                return None;
            };
            if value.len() > MAX_TEXT || value.contains('\0') {
                self.error(
                    span,
                    format!("the environment variable {name} is too long or has a NUL"),
                    None,
                );
                return None;
            }
            self.keep_secret(&value);
            out.push_str(&value);
            read = true;
            rest = &after[name.len() + 1..];
        }
        out.push_str(rest);
        Some((out, read))
    }

    /// Marks a value as secret, for redaction: not numbers and not shorter than four bytes, which would blank half
    /// of every log.
    pub(crate) fn keep_secret(&self, value: &str) {
        if value.len() >= 4 && value.parse::<f64>().is_err() {
            self.secrets.borrow_mut().push(Secret::new(value));
        }
    }
}

/// What a pass left.
pub(crate) struct Finished {
    pub(crate) errors: Vec<SpecError>,
    pub(crate) warnings: Vec<String>,
    pub(crate) canon: BTreeMap<String, String>,
    pub(crate) secrets: Vec<Secret>,
    #[cfg(test)]
    pub(crate) asked: BTreeSet<(&'static str, &'static str)>,
}

/// A name as it may be printed: short, without control characters.
pub(crate) fn show(name: &str) -> String {
    let clean: String = name
        .chars()
        .take(MAX_NAME)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if name.chars().count() > MAX_NAME {
        format!("{clean}...")
    } else {
        clean
    }
}

/// A variable's name as shells and Docker take it.
pub(crate) fn is_env_name(name: &str) -> bool {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.len() <= 256 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a name sounds like that of a password, key or token: its value is taken out of logs. Values such as
/// "warning" or "application/json" under harmless names are not shown either, but stay where others print them.
pub(crate) fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = [
        "pass",
        "pwd",
        "secret",
        "token",
        "auth",
        "key",
        "dsn",
        "url",
        "credential",
        "cookie",
    ];
    words.iter().any(|w| name.contains(w))
}
