//! Reads a TOML tree through the table of keys: types, bounds and defaults are checked here, unknown keys are
//! refused, and everything that was read is noted in a canonical form for the hash.
//!
//! A getter that finds a mistake reports it and gives None, so that one pass finds them all.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::context::{Ctx, Span, Text, show};
use super::errors::nearest;
use super::keys::{Key, MAX_INT, MAX_TEXT, Need, ROOT, Section, Ty};
use crate::space::Value;
use crate::units::{Ratio, parse_duration};

/// A table of the file under its section of the table of keys.
pub(crate) struct Node<'a> {
    pub(crate) ctx: &'a Ctx<'a>,
    pub(crate) section: &'static Section,
    /// "load.requests.0"
    pub(crate) path: String,
    /// Its header, or where it should stand.
    pub(crate) span: Span,
    pub(super) table: Option<&'a DeTable<'a>>,
}

/// A value before its type is checked: what a file, the environment or a default has.
pub(super) struct Found {
    pub(super) value: Value,
    pub(super) raw: String,
    pub(super) span: Span,
    pub(super) from_env: bool,
}

impl<'a> Node<'a> {
    pub(crate) fn root(ctx: &'a Ctx<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(ctx, &ROOT, String::new(), 0..0, Some(table))
    }

    pub(super) fn new(
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

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        let key = self.section.key(name);
        if let Some(k) = key {
            self.ctx.asked.borrow_mut().insert((self.section.name, k.name));
        }
        key
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&'a Spanned<DeValue<'a>>> {
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

    pub(super) fn wrong(&self, key: &Key, span: &Span, why: &str) {
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

    pub(super) fn found(&self, key: &Key, v: &Spanned<DeValue<'_>>, span: &Span) -> Option<Found> {
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
