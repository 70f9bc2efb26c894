//! Reads a TOML tree through the table of keys: types, bounds and defaults are checked here, unknown keys are
//! refused, and everything that was read is noted in a canonical form for the hash.
//!
//! A getter that finds a mistake reports it and gives None, so that one pass finds them all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Secret;
use super::errors::{Source, SpecError, nearest};
use super::keys::{Key, MAX_INT, MAX_NAME, MAX_TEXT, Need, ROOT, Section, Ty};
use crate::space::Value;
use crate::units::{Ratio, parse_duration};

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
    asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
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
            .push(format!("{}:{}:{}: {message}", e.file, e.line, e.column));
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
    fn expand(&self, raw: &str, span: &Span) -> Option<(String, bool)> {
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
            if !value.is_empty() {
                self.secrets.borrow_mut().push(Secret::new(value.clone()));
            }
            out.push_str(&value);
            read = true;
            rest = &after[name.len() + 1..];
        }
        out.push_str(rest);
        Some((out, read))
    }

    /// Marks a value as secret: for redaction.
    pub(crate) fn keep_secret(&self, value: &str) {
        if !value.is_empty() {
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

/// A table of the file under its section of the table of keys.
pub(crate) struct Node<'a> {
    pub(crate) ctx: &'a Ctx<'a>,
    pub(crate) section: &'static Section,
    /// "load.requests.0"
    pub(crate) path: String,
    /// Its header, or where it should stand.
    pub(crate) span: Span,
    table: Option<&'a DeTable<'a>>,
}

/// A value before its type is checked: what a file, the environment or a default has.
struct Found {
    value: Value,
    raw: String,
    span: Span,
    from_env: bool,
}

impl<'a> Node<'a> {
    pub(crate) fn root(ctx: &'a Ctx<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(ctx, &ROOT, String::new(), 0..0, Some(table))
    }

    fn new(
        ctx: &'a Ctx<'a>,
        section: &'static Section,
        path: String,
        span: Span,
        table: Option<&'a DeTable<'a>>,
    ) -> Self {
        let node = Self {
            ctx,
            section,
            path,
            span,
            table,
        };
        for key in table.iter().flat_map(|t| t.keys()) {
            if section.key(key.get_ref()).is_none() {
                node.unknown(key.get_ref(), &key.span());
            }
        }
        node
    }

    fn unknown(&self, key: &str, span: &Span) {
        let known = self.section.keys.iter().map(|k| k.name);
        let hint = if let Some(near) = nearest(key, known.clone()) {
            format!("did you mean `{near}`?")
        } else if let Some(other) = ROOT
            .walk()
            .into_iter()
            .find(|s| !s.name.is_empty() && s.key(key).is_some())
        {
            format!("`{}` belongs to [{}]", show(key), other.name)
        } else {
            format!("known here: {}", known.collect::<Vec<_>>().join(", "))
        };
        let place = if self.section.name.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.section.name)
        };
        self.ctx
            .error(span, format!("unknown key `{}`{place}", show(key)), hint);
    }

    /// Whether the section stands in the file.
    pub(crate) fn present(&self) -> bool {
        self.table.is_some()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|t| t.contains_key(key))
    }

    /// Where `key` stands, or the section's header.
    pub(crate) fn span_of(&self, key: &str) -> Span {
        self.table
            .and_then(|t| t.get_key_value(key))
            .map_or_else(|| self.span.clone(), |(k, _)| k.span())
    }

    /// The bytes of the value of `key`, or the section's header.
    pub(crate) fn value_span(&self, key: &str) -> Span {
        self.table
            .and_then(|t| t.get(key))
            .map_or_else(|| self.span.clone(), Spanned::span)
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        let key = self.section.key(name);
        if let Some(k) = key {
            self.ctx.asked.borrow_mut().insert((self.section.name, k.name));
        }
        key
    }

    fn entry(&self, key: &Key) -> Option<&'a Spanned<DeValue<'a>>> {
        let value = self.table.and_then(|t| t.get(key.name));
        if value.is_none() && self.table.is_some() && matches!(key.need, Need::Required) {
            self.missing(key.name);
        }
        value
    }

    /// Reports that `key` is missing, with its example.
    pub(crate) fn missing(&self, name: &str) {
        let example = self.key(name).map_or("", |k| k.example);
        let (place, hint) = match self.key(name).map(|k| k.ty) {
            Some(Ty::List(s)) => ("", format!("add at least one [[{}]]", s.name)),
            Some(Ty::Named(s)) => ("", format!("add at least one [{}]", s.name)),
            Some(Ty::Table(s)) => ("", format!("add [{}]", s.name)),
            _ => (self.section.name, format!("for example {name} = {example}")),
        };
        let place = if place.is_empty() {
            String::new()
        } else {
            format!(" in [{place}]")
        };
        self.ctx
            .error(&self.span, format!("`{name}` is missing{place}"), hint);
    }

    fn wrong(&self, key: &Key, span: &Span, why: &str) {
        let hint = (!key.example.is_empty()).then(|| format!("for example {} = {}", key.name, key.example));
        self.ctx
            .error(span, format!("`{}` must be {why}", key.name), hint);
    }

    /// A scalar of the file with the environment read, or the default.
    fn scalar(&self, key: &'static Key) -> Option<Found> {
        if let Some(v) = self.entry(key) {
            return self.found(key, v, &v.span());
        }
        let Need::Default(text) = key.need else {
            return None;
        };
        let value = DeValue::parse(text)
            .ok()
            .and_then(|v| scalar_of(v.get_ref()).ok())?;
        let raw = value.to_string();
        Some(Found {
            value,
            raw,
            span: self.span.clone(),
            from_env: false,
        })
    }

    fn found(&self, key: &Key, v: &Spanned<DeValue<'_>>, span: &Span) -> Option<Found> {
        let value = match scalar_of(v.get_ref()) {
            Ok(value) => value,
            Err(why) => {
                match why {
                    Some(why) => self.ctx.error(span, why, None),
                    None => self.wrong(key, span, &key.ty.expected()),
                }
                return None;
            }
        };
        let raw = value.to_string();
        if raw.len() > MAX_TEXT {
            self.ctx.error(
                span,
                format!("`{}` is longer than {MAX_TEXT} bytes", key.name),
                None,
            );
            return None;
        }
        let Value::Text(text) = &value else {
            return Some(Found {
                value,
                raw,
                span: span.clone(),
                from_env: false,
            });
        };
        let reads = ["study", "sut", "load", "telemetry"];
        let top = self.path.split('.').next().unwrap_or("");
        if matches!(key.ty, Ty::Expr) || !reads.contains(&top) {
            if text.contains("${") {
                let hint = format!("it is read in {}", reads.map(|r| format!("[{r}]")).join(", "));
                self.ctx.error(span, "the environment is not read here", hint);
                return None;
            }
            return Some(Found {
                value,
                raw,
                span: span.clone(),
                from_env: false,
            });
        }
        let (text, from_env) = self.ctx.expand(text, span)?;
        Some(Found {
            value: Value::Text(text),
            raw,
            span: span.clone(),
            from_env,
        })
    }

    /// Converts with `f`; what does not convert is reported as "must be ...", without a value of the environment.
    fn convert<T>(
        &self,
        key: &'static Key,
        found: &Found,
        canon: impl Fn(&T) -> String,
        f: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let from_env = match (&found.value, found.from_env) {
            (Value::Text(t), true) if !matches!(key.ty, Ty::Text | Ty::Secret) => DeValue::parse(t.trim())
                .ok()
                .and_then(|v| scalar_of(v.get_ref()).ok()),
            _ => None,
        };
        if let Some(v) = from_env.as_ref().and_then(&f).or_else(|| f(&found.value)) {
            self.ctx.note(&self.at(key.name), canon(&v));
            return Some(v);
        }
        let mut why = key.ty.expected();
        if let (Ty::OneOf(values), Value::Text(t), false) = (key.ty, &found.value, found.from_env)
            && let Some(near) = nearest(t, values.iter().copied())
        {
            why = format!("{why}; did you mean \"{near}\"?");
        }
        if found.from_env {
            why = format!("{why}; the environment gives something else");
        }
        self.wrong(key, &found.span, &why);
        None
    }

    /// A text, expression or secret.
    pub(crate) fn text(&self, name: &str) -> Option<Text> {
        let key = self.key(name)?;
        let found = self.scalar(key)?;
        let Value::Text(value) = &found.value else {
            self.wrong(key, &found.span, &key.ty.expected());
            return None;
        };
        if value.contains('\0') {
            self.wrong(key, &found.span, "a text without NUL");
            return None;
        }
        self.ctx.note(&self.at(name), found.raw.clone());
        if matches!(key.ty, Ty::Secret) && !found.from_env {
            self.ctx.keep_secret(value);
        }
        Some(Text {
            value: value.clone(),
            span: found.span,
            from_env: found.from_env,
        })
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        let key = self.key(name)?;
        self.convert(key, &self.scalar(key)?, bool::to_string, |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    pub(crate) fn whole(&self, name: &str) -> Option<i64> {
        let key = self.key(name)?;
        let Ty::Whole { min, max } = key.ty else {
            return None;
        };
        self.convert(key, &self.scalar(key)?, i64::to_string, |v| match v {
            Value::Int(i) if (min..=max).contains(i) => Some(*i),
            _ => None,
        })
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        let key = self.key(name)?;
        let Ty::Number { min, max } = key.ty else {
            return None;
        };
        self.convert(key, &self.scalar(key)?, f64::to_string, |v| {
            v.as_f64().filter(|x| (min..=max).contains(x))
        })
    }

    pub(crate) fn time(&self, name: &str) -> Option<Duration> {
        let key = self.key(name)?;
        let Ty::Time { min_ms, max_ms } = key.ty else {
            return None;
        };
        let canon = |d: &Duration| format!("{}ns", d.as_nanos());
        self.convert(key, &self.scalar(key)?, canon, |v| match v {
            Value::Text(t) => parse_duration(t)
                .ok()
                .filter(|d| Duration::from_millis(min_ms) <= *d && *d <= Duration::from_millis(max_ms)),
            _ => None,
        })
    }

    pub(crate) fn share(&self, name: &str) -> Option<Ratio> {
        let key = self.key(name)?;
        self.convert(
            key,
            &self.scalar(key)?,
            |r: &Ratio| r.get().to_string(),
            |v| match v {
                Value::Text(t) => t.parse().ok(),
                v => v.as_f64().and_then(|x| Ratio::new(x).ok()),
            },
        )
    }

    pub(crate) fn one_of(&self, name: &str) -> Option<&'static str> {
        let key = self.key(name)?;
        let Ty::OneOf(values) = key.ty else { return None };
        self.convert(
            key,
            &self.scalar(key)?,
            |s: &&str| (*s).to_owned(),
            |v| match v {
                Value::Text(t) => values.iter().copied().find(|x| x == t),
                _ => None,
            },
        )
    }

    /// A scalar of any type, not noted: the caller knows its type.
    pub(crate) fn any(&self, name: &str) -> Option<(Value, Span)> {
        let found = self.scalar(self.key(name)?)?;
        Some((found.value, found.span))
    }

    /// Notes what `any` was typed as.
    pub(crate) fn note(&self, name: &str, canonical: impl Into<String>) {
        self.ctx.note(&self.at(name), canonical);
    }

    /// "postgres" (None) or a number.
    pub(crate) fn connections(&self, name: &str) -> Option<Option<u32>> {
        let key = self.key(name)?;
        self.convert(
            key,
            &self.scalar(key)?,
            |c: &Option<u32>| format!("{c:?}"),
            |v| match v {
                Value::Text(t) if t == "postgres" => Some(None),
                Value::Int(i) => u32::try_from(*i).ok().filter(|n| *n >= 1).map(Some),
                _ => None,
            },
        )
    }

    fn array(&self, name: &str, most: usize) -> Option<(&'static Key, &'a [Spanned<DeValue<'a>>], Span)> {
        let key = self.key(name)?;
        let v = self.entry(key)?;
        match v.get_ref() {
            DeValue::Array(a) if a.len() <= most => Some((key, a, v.span())),
            DeValue::Array(_) => {
                self.ctx.error(
                    &v.span(),
                    format!("`{name}` may have {most} entries at most"),
                    None,
                );
                None
            }
            _ => {
                self.wrong(key, &v.span(), &key.ty.expected());
                None
            }
        }
    }

    /// A list of texts; empty where it is missing.
    pub(crate) fn texts(&self, name: &str, most: usize) -> Vec<Text> {
        let Some((key, array, _)) = self.array(name, most) else {
            return Vec::new();
        };
        let mut raws = Vec::new();
        let mut texts = Vec::new();
        for v in array {
            match self.found(key, v, &v.span()) {
                Some(Found {
                    value: Value::Text(value),
                    raw,
                    span,
                    from_env,
                }) if !value.contains('\0') => {
                    raws.push(raw);
                    texts.push(Text {
                        value,
                        span,
                        from_env,
                    });
                }
                Some(f) => self.wrong(key, &f.span, &key.ty.expected()),
                None => {}
            }
        }
        self.note(name, format!("{raws:?}"));
        texts
    }

    /// A list of scalars with their places.
    pub(crate) fn scalars(&self, name: &str, most: usize) -> Option<(Vec<(Value, Span)>, Span)> {
        let (key, array, span) = self.array(name, most)?;
        let mut values = Vec::new();
        let mut raws = Vec::new();
        for v in array {
            let f = self.found(key, v, &v.span())?;
            raws.push(format!(
                "{:?}",
                if f.from_env {
                    Value::Text(f.raw)
                } else {
                    f.value.clone()
                }
            ));
            values.push((f.value, f.span));
        }
        self.note(name, raws.join(","));
        Some((values, span))
    }

    /// Names and texts in the order of the file; the values are secrets.
    pub(crate) fn map(&self, name: &str, most: usize) -> Vec<(Text, Text)> {
        let Some(key) = self.key(name) else {
            return Vec::new();
        };
        let Some(v) = self.entry(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = v.get_ref() else {
            self.wrong(key, &v.span(), &key.ty.expected());
            return Vec::new();
        };
        if table.len() > most {
            self.ctx.error(
                &v.span(),
                format!("`{name}` may have {most} entries at most"),
                None,
            );
            return Vec::new();
        }
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(k, _)| k.span().start);
        let mut out = Vec::new();
        for (k, v) in entries {
            let Some(found) = self.found(key, v, &v.span()) else {
                continue;
            };
            let value = found.value.to_string();
            self.ctx
                .note(&format!("{}.{}", self.at(name), k.get_ref()), found.raw);
            if !found.from_env && matches!(key.ty, Ty::Env | Ty::Headers) && value.len() >= 8 {
                self.ctx.keep_secret(&value);
            }
            let plain = Text {
                value: k.get_ref().to_string(),
                span: k.span(),
                from_env: false,
            };
            out.push((
                plain,
                Text {
                    value,
                    span: found.span,
                    from_env: found.from_env,
                },
            ));
        }
        out
    }

    /// A sub-table; absent ones give their defaults.
    pub(crate) fn table(&self, name: &str) -> Node<'a> {
        let (section, value) = match self.key(name) {
            Some(key @ Key { ty: Ty::Table(s), .. }) => (*s, self.entry(key).map(|v| (key, v))),
            _ => (self.section, None),
        };
        let mut span = self.span_of(name);
        let table = value.and_then(|(key, v)| match v.get_ref() {
            DeValue::Table(t) => {
                if span.is_empty() {
                    span = v.span();
                }
                Some(t)
            }
            _ => {
                self.wrong(key, &v.span(), "a table");
                None
            }
        });
        Node::new(self.ctx, section, self.at(name), span, table)
    }

    /// Tables under names of the user's choice, in the order of the file.
    pub(crate) fn named(&self, name: &str, most: usize) -> Vec<(Text, Node<'a>)> {
        let Some(
            key @ Key {
                ty: Ty::Named(section),
                ..
            },
        ) = self.key(name)
        else {
            return Vec::new();
        };
        let Some(v) = self.entry(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = v.get_ref() else {
            self.wrong(key, &v.span(), &format!("tables, written [{}]", section.name));
            return Vec::new();
        };
        if table.len() > most {
            self.ctx.error(
                &self.span_of(name),
                format!("there may be {most} [{}] at most", section.name),
                None,
            );
            return Vec::new();
        }
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(k, _)| k.span().start);
        let mut out = Vec::new();
        for (k, v) in entries {
            let DeValue::Table(t) = v.get_ref() else {
                let hint = format!("write [{name}.{}] on a line of its own", show(k.get_ref()));
                self.ctx.error(
                    &k.span(),
                    format!("`{}` must be a table", show(k.get_ref())),
                    hint,
                );
                continue;
            };
            let label = Text {
                value: k.get_ref().to_string(),
                span: k.span(),
                from_env: false,
            };
            let path = format!("{}.{}", self.at(name), k.get_ref());
            out.push((label, Node::new(self.ctx, section, path, k.span(), Some(t))));
        }
        out
    }

    /// A list of tables.
    pub(crate) fn list(&self, name: &str, most: usize) -> Vec<Node<'a>> {
        let Some(Key {
            ty: Ty::List(section),
            ..
        }) = self.key(name)
        else {
            return Vec::new();
        };
        let Some((key, array, _)) = self.array(name, most) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, v) in array.iter().enumerate() {
            if let DeValue::Table(t) = v.get_ref() {
                let path = format!("{}.{i}", self.at(name));
                out.push(Node::new(self.ctx, section, path, v.span(), Some(t)));
            } else {
                self.wrong(key, &v.span(), &key.ty.expected());
            }
        }
        out
    }
}

/// A scalar; Err(Some) says what is wrong with it, Err(None) that it is none.
fn scalar_of(v: &DeValue<'_>) -> Result<Value, Option<String>> {
    match v {
        DeValue::String(s) => Ok(Value::Text(s.to_string())),
        DeValue::Boolean(b) => Ok(Value::Bool(*b)),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix())
            .ok()
            .filter(|n| (-MAX_INT..=MAX_INT).contains(n))
            .map(Value::Int)
            .ok_or_else(|| Some(format!("whole numbers are between -{MAX_INT} and {MAX_INT}"))),
        DeValue::Float(f) => f
            .as_str()
            .parse::<f64>()
            .ok()
            .filter(|x| x.is_finite() && x.abs() <= 1e12)
            // -0.0 is 0, also in the hash.
            .map(|x| Value::Float(x + 0.0))
            .ok_or_else(|| Some("numbers are finite and between -1e12 and 1e12".to_owned())),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Err(None),
    }
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
