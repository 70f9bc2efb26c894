//! The JSON Schema of the space file and docs/space-file.md, both made from the table of keys.
//!
//! The schema is for editors: it knows names, types, defaults and bounds. Rules between keys are the parser's.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};
use toml::de::DeValue;

use super::keys::{
    Key, MAX_CHOICES, MAX_CONSTRAINTS, MAX_PARAMETERS, MAX_REQUESTS, MAX_VARS, Need, ROOT, Section, Ty,
};

/// The JSON Schema (draft 2020-12) of a space file.
#[must_use]
pub fn schema() -> Json {
    let mut root = section_schema(&ROOT);
    if let Json::Object(map) = &mut root {
        map.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        map.insert("title".into(), json!("autotune space file"));
    }
    root
}

fn section_schema(section: &'static Section) -> Json {
    let mut properties = Map::new();
    for key in section.keys {
        properties.insert(key.name.to_owned(), key_schema(key));
    }
    let required: Vec<&str> = section
        .keys
        .iter()
        .filter(|k| matches!(k.need, Need::Required))
        .map(|k| k.name)
        .collect();
    json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn key_schema(key: &'static Key) -> Json {
    let mut schema = type_schema(&key.ty);
    if let Json::Object(map) = &mut schema {
        map.insert("description".into(), json!(key.doc));
        if let Need::Default(text) = key.need {
            map.insert("default".into(), json_of(text));
        }
        if !key.example.is_empty() {
            map.insert("examples".into(), json!([json_of(key.example)]));
        }
    }
    schema
}

/// A number, or a text that reads it from the environment.
fn or_env(schema: &Json) -> Json {
    json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{" }] })
}

fn type_schema(ty: &Ty) -> Json {
    let scalar = json!({ "type": ["string", "number", "boolean"] });
    match ty {
        Ty::Text | Ty::Secret | Ty::Expr => json!({ "type": "string" }),
        Ty::Bool => json!({ "type": "boolean" }),
        Ty::Whole { min, max } => or_env(&json!({ "type": "integer", "minimum": min, "maximum": max })),
        Ty::Number { min, max } => or_env(&json!({ "type": "number", "minimum": min, "maximum": max })),
        Ty::Time { .. } => json!({ "type": "string", "pattern": "^\\s*([0-9]+\\s*[a-zA-Z]+\\s*)+$|\\$\\{" }),
        Ty::Share => json!({ "anyOf": [
            { "type": "number", "minimum": 0, "maximum": 1 },
            { "type": "string", "pattern": "^\\s*[0-9.]+\\s*%?\\s*$|\\$\\{" },
        ] }),
        Ty::OneOf(values) => json!({ "enum": values }),
        Ty::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Ty::Env | Ty::Headers => json!({ "type": "object", "additionalProperties": scalar }),
        Ty::Scalar => scalar,
        Ty::Scalars => json!({ "type": "array", "items": scalar }),
        Ty::Range => json!({ "type": "array", "items": { "type": "integer" }, "minItems": 2, "maxItems": 2 }),
        Ty::Statuses => json!({
            "type": "array",
            "items": { "type": "integer", "minimum": 100, "maximum": 599 },
            "minItems": 1,
        }),
        Ty::Connections => json!({ "anyOf": [{ "const": "postgres" }, { "type": "integer", "minimum": 1 }] }),
        Ty::Table(s) => section_schema(s),
        Ty::Named(s) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z][A-Za-z0-9_]{0,63}$" },
            "additionalProperties": section_schema(s),
            "minProperties": 1,
        }),
        Ty::List(s) => json!({ "type": "array", "items": section_schema(s) }),
    }
}

/// A TOML value as JSON; what is none stays a text.
fn json_of(text: &str) -> Json {
    fn convert(v: &DeValue<'_>) -> Option<Json> {
        Some(match v {
            DeValue::String(s) => json!(s.as_ref()),
            DeValue::Boolean(b) => json!(b),
            DeValue::Integer(i) => json!(i.as_str().parse::<i64>().ok()?),
            DeValue::Float(f) => json!(f.as_str().parse::<f64>().ok()?),
            DeValue::Array(a) => Json::Array(a.iter().map(|v| convert(v.get_ref())).collect::<Option<_>>()?),
            DeValue::Table(t) => {
                let entry = |(k, v): (
                    &toml::Spanned<toml::de::DeString<'_>>,
                    &toml::Spanned<DeValue<'_>>,
                )| { Some((k.get_ref().to_string(), convert(v.get_ref())?)) };
                Json::Object(t.iter().map(entry).collect::<Option<_>>()?)
            }
            DeValue::Datetime(_) => return None,
        })
    }
    DeValue::parse(text)
        .ok()
        .and_then(|v| convert(v.get_ref()))
        .unwrap_or_else(|| json!(text))
}

const HEAD: &str = "# The space file

<!-- Made by `autotune schema --reference > docs/space-file.md` from the table that the parser reads with. Don't edit. -->

What is tuned, what is sent, what must hold. `experiments/` has complete files to start from; `autotune check --space FILE` says
everything that is wrong with yours at once, and changes nothing. For completion in an editor, `autotune schema > autotune.schema.json`
and write as the file's first line

    #:schema ./autotune.schema.json

";

const TAIL: &str = "## Expressions

`that`, `only_if`, `cost` and `uses` are expressions over the parameters: numbers (all are fractions: 5 / 2 is 2.5), `+ - * / %`,
comparisons, `&& || !`, `min(a, b)`, `max(a, b)`, `sqrt(a)`, `abs(a)`, `floor(a)`, `ceiling(a)`, texts in double quotes. A parameter that is
not active in a config is 0, \"\" or false. Nothing can be assigned or called beyond that, and evaluation is bounded.

## Zero is not small

SQLAlchemy takes `pool_size = 0` and `max_overflow = -1` as no limit at all, so a range for a variable called like POOL_SIZE begins at 1
and one for MAX_OVERFLOW at 0. The pool is one per worker process: all together may open replicas * workers * (pool_size + max_overflow)
connections.

## What makes trials comparable

A study can be resumed as long as [sut], [parameters], [[constraints]], [load], [slo], [capacity], [objective] and [budget] mean the same:
comments, order, spacing and defaults written out don't count, nor do texts that `${NAME}` brought in; the contents of body and
CSV files do. [study], [telemetry] and [confirm] may change.

## Secrets

Values under `env` and `headers`, URLs of [telemetry] and everything that came from the environment are never printed, also not in
the line that a mistake is shown with. The tool keeps them in memory to take them out of logs.
";

/// docs/space-file.md.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let _ = writeln!(out, "{}\n", plain(ROOT.doc));
    let _ = writeln!(
        out,
        "At most {MAX_PARAMETERS} parameters of at most {MAX_CHOICES} choices, {MAX_CONSTRAINTS} constraints, {MAX_REQUESTS} requests, {MAX_VARS} variables.\n"
    );
    for (section, header) in headers(&ROOT) {
        let _ = writeln!(out, "## {header}\n\n{}\n", plain(section.doc));
        let _ = writeln!(out, "| key | takes | left out | meaning |\n|---|---|---|---|");
        for key in section.keys {
            let (takes, left_out) = match (key.ty, key.need) {
                (Ty::Table(s), _) => (format!("[{}]", s.name), String::new()),
                (Ty::Named(s), need) => (format!("[{}]", s.name), left_out(need)),
                (Ty::List(s), need) => (format!("[[{}]]", s.name), left_out(need)),
                (ty, need) => (ty.expected(), left_out(need)),
            };
            let example = if key.example.is_empty() {
                String::new()
            } else {
                format!("; `{}`", key.example)
            };
            let row = [
                format!("`{}`", key.name),
                takes,
                left_out,
                format!("{}{example}", key.doc),
            ];
            let _ = writeln!(out, "| {} |", row.map(|c| c.replace('|', "\\|")).join(" | "));
        }
        out.push('\n');
    }
    out.push_str(TAIL);
    out
}

fn left_out(need: Need) -> String {
    match need {
        Need::Required => "required".into(),
        Need::Optional => String::new(),
        Need::Default(text) => format!("`{text}`"),
    }
}

/// The sections below `section` with the header that people write.
fn headers(section: &'static Section) -> Vec<(&'static Section, String)> {
    let mut all = Vec::new();
    for key in section.keys {
        match key.ty {
            Ty::Table(s) | Ty::Named(s) => {
                all.push((s, format!("[{}]", s.name)));
                all.extend(headers(s));
            }
            Ty::List(s) => {
                all.push((s, format!("[[{}]]", s.name)));
                all.extend(headers(s));
            }
            _ => {}
        }
    }
    all
}

/// Without the line breaks of the source.
fn plain(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A validator of the subset that `schema` uses, patterns left out.
    fn valid(schema: &Json, v: &Json) -> bool {
        if let Some(any) = schema["anyOf"].as_array() {
            return any.iter().any(|s| valid(s, v));
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.contains(v);
        }
        if !schema["const"].is_null() {
            return schema["const"] == *v;
        }
        let is = |t: &str| match t {
            "object" => v.is_object(),
            "array" => v.is_array(),
            "string" => v.is_string(),
            "boolean" => v.is_boolean(),
            "integer" => v.is_i64(),
            _ => v.is_number(),
        };
        let typed = match &schema["type"] {
            Json::Array(types) => types.iter().filter_map(Json::as_str).any(is),
            t => t.as_str().is_none_or(is),
        };
        let (low, high) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let bounded = v
            .as_f64()
            .is_none_or(|x| low.is_none_or(|l| l <= x) && high.is_none_or(|h| x <= h));
        let items = v.as_array().is_none_or(|a| {
            a.iter()
                .all(|x| schema["items"].is_null() || valid(&schema["items"], x))
        });
        let fields = v.as_object().is_none_or(|o| {
            let required = schema["required"].as_array().into_iter().flatten();
            required.filter_map(Json::as_str).all(|k| o.contains_key(k))
                && o.iter().all(|(k, x)| {
                    match (schema["properties"].get(k), &schema["additionalProperties"]) {
                        (Some(s), _) | (None, s @ Json::Object(_)) => valid(s, x),
                        (None, extra) => *extra != Json::Bool(false),
                    }
                })
        });
        typed && bounded && items && fields
    }

    fn experiment(name: &str) -> Json {
        let path = format!("{}/experiments/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap()
    }

    /// Fails when the schema refuses what the parser takes, or takes what it refuses.
    #[test]
    fn the_schema_takes_the_experiments_and_refuses_mistakes() {
        let schema = schema();
        for name in ["pool.toml", "smoke.toml", "quickstart.toml"] {
            assert!(valid(&schema, &experiment(name)), "{name}");
        }
        let good = experiment("smoke.toml");
        for (place, wrong) in [
            ("/sut/kind", json!("dokcer")),
            ("/study", json!({ "nam": "x" })),
            ("/parameters/pool_size", json!({ "low": 1 })),
            ("/capacity/max", json!(-1)),
            ("/load/requests/0/expect", json!([1000])),
        ] {
            let mut bad = good.clone();
            if let Some(at) = bad.pointer_mut(place) {
                *at = wrong.clone();
            } else {
                bad.pointer_mut("/load/requests/0").unwrap()["expect"] = wrong.clone();
            }
            assert!(!valid(&schema, &bad), "{place} = {wrong}");
        }
    }

    /// Fails when the table changed and the page was not made again.
    #[test]
    fn the_reference_is_current() {
        let path = format!("{}/docs/space-file.md", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        if page != reference() && std::env::var_os("AUTOTUNE_BLESS").is_some() {
            std::fs::write(&path, reference()).unwrap();
            return;
        }
        assert!(
            page == reference(),
            "docs/space-file.md is old: run autotune schema --reference > docs/space-file.md"
        );
    }

    /// Fails when an example or a default of the table is no TOML.
    #[test]
    fn examples_and_defaults_are_toml() {
        for key in ROOT.walk().into_iter().flat_map(|s| s.keys) {
            for text in [key.example, if let Need::Default(d) = key.need { d } else { "" }] {
                assert!(
                    text.is_empty() || DeValue::parse(text).is_ok(),
                    "{}: {text}",
                    key.name
                );
            }
        }
    }
}
