//! The reader's lists, maps and tables.

use toml::Spanned;
use toml::de::DeValue;

use super::context::{Span, Text, show, sounds_secret};
use super::keys::{Key, Ty};
use super::reader::{Found, Node};
use crate::space::Value;

impl<'a> Node<'a> {
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
            if !found.from_env && sounds_secret(k.get_ref()) {
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
