//! [load]: requests, headers, bodies, variables.

use std::collections::{BTreeMap, BTreeSet};

use super::common::{header_name_problem, header_value_ok, is_identifier, path_problem, placeholders};
use super::context::{Span, Text, show};
use super::errors::nearest;
use super::keys::{MAX_AGENTS, MAX_REQUESTS, MAX_VAR_VALUES, MAX_VARS};
use super::reader::Node;
use super::{AgentsSpec, Arrivals, LoadSpec, RequestSpec, Secret, VarSource};
use crate::space::Value;

const MAX_HEADERS: usize = 64;

/// Reads [load]; None where it is missing.
pub(crate) fn load(root: &Node<'_>) -> Option<LoadSpec> {
    let node = root.table("load");
    if !node.present() {
        return None;
    }
    let vars = vars(&node);
    let mut used = BTreeSet::new();
    let common = headers(&node);
    let mut requests = Vec::new();
    for n in node.list("requests", MAX_REQUESTS) {
        requests.push(request(&n, &common, &vars, &mut used));
    }
    if requests.is_empty() && node.has("requests") && !node.ctx.has_errors() {
        node.missing("requests");
    }
    for (name, (span, _)) in &vars {
        if !used.contains(name) {
            node.ctx.warn(
                span,
                &format!("the variable `{name}` is not used in any path or body"),
            );
        }
    }
    let allow_remote = node.texts("allow_remote", 100);
    for host in &allow_remote {
        if host.value.is_empty() || host.value.contains(['/', ' ', '@']) {
            node.ctx.error(
                &host.span,
                "a host is expected, without scheme, port or path",
                None,
            );
        }
    }
    Some(LoadSpec {
        timeout: node.time("timeout").unwrap_or_default(),
        connections: node
            .whole("connections")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_default(),
        arrivals: match node.one_of("arrivals") {
            Some("poisson") => Arrivals::Poisson,
            _ => Arrivals::Uniform,
        },
        headers: common,
        requests,
        vars: vars
            .into_iter()
            .filter_map(|(name, (_, source))| Some((name, source?)))
            .collect(),
        cpu: node.whole("cpu").and_then(|n| usize::try_from(n).ok()),
        keep_alive: node.bool("keep_alive").unwrap_or_default(),
        allow_remote: allow_remote.into_iter().map(|h| h.value).collect(),
        agents: agents(&node),
    })
}

/// Other machines that drive the load, with the token and the certificates that they need.
fn agents(node: &Node<'_>) -> AgentsSpec {
    let ctx = node.ctx;
    let addresses = node.texts("agents", MAX_AGENTS);
    for a in &addresses {
        let rest = a.value.strip_prefix("https://").unwrap_or(&a.value);
        let port = rest.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty() && !host.contains(['/', ' ', '@'])).then(|| port.parse::<u16>().ok())?
        });
        if port.is_none_or(|p| p == 0) {
            let hint = "for example \"10.0.0.2:7650\", or \"https://10.0.0.2:7650\" with TLS".to_owned();
            ctx.error(&a.span, "an agent is a host with a port", hint);
        }
        if addresses
            .iter()
            .take_while(|o| o.span != a.span)
            .any(|o| o.value == a.value)
        {
            ctx.error(&a.span, "this agent is named twice", None);
        }
    }
    let read = |key: &str| {
        let file = node.text(key)?;
        if addresses.is_empty() && !node.has("agents") {
            ctx.error(&file.span, format!("`{key}` belongs to `agents`"), None);
            return None;
        }
        match (ctx.files)(&file.value)
            .and_then(|b| String::from_utf8(b).map_err(|_| "it is not text".to_owned()))
        {
            Ok(text) => Some((text, file.span)),
            Err(why) => {
                let hint = "it is looked for beside the space file".to_owned();
                ctx.error(&file.span, format!("`{key}` can't be read: {why}"), hint);
                None
            }
        }
    };
    let token = read("agent_token_file").and_then(|(text, span)| match AgentsSpec::token_of(&text) {
        Ok(token) => Some(token),
        Err(why) => {
            ctx.error(&span, format!("`agent_token_file`: {why}"), None);
            None
        }
    });
    let ca = read("agent_ca").map(|(text, _)| text);
    if let Some(token) = &token {
        ctx.keep_secret(Secret::expose(token));
    }
    if !addresses.is_empty() && !node.has("agent_token_file") {
        node.missing("agent_token_file");
    }
    AgentsSpec {
        addresses: addresses.into_iter().map(|a| a.value).collect(),
        token,
        ca,
    }
}

fn headers(node: &Node<'_>) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (name, value) in node.map("headers", MAX_HEADERS) {
        if let Some(why) = header_name_problem(&name.value) {
            node.ctx
                .error(&name.span, format!("`{}` {why}", show(&name.value)), None);
        } else if !header_value_ok(&value.value) {
            let why = format!(
                "the value of `{}` must be visible ASCII of at most 8192 bytes",
                name.value
            );
            node.ctx.error(&value.span, why, None);
        } else if out.iter().any(|(n, _)| n.eq_ignore_ascii_case(&name.value)) {
            node.ctx.error(
                &name.span,
                format!("the header `{}` stands here twice", name.value),
                None,
            );
        } else {
            out.push((name.value, value.value));
        }
    }
    out
}

type Vars = BTreeMap<String, (Span, Option<VarSource>)>;

fn request(
    node: &Node<'_>,
    common: &[(String, String)],
    vars: &Vars,
    used: &mut BTreeSet<String>,
) -> RequestSpec {
    let ctx = node.ctx;
    let method = node.one_of("method").unwrap_or("GET").to_owned();
    let path = node.text("path");
    if let Some(p) = &path {
        check_path(node, p, vars, used);
    }
    let body = body(node);
    if let Some(Body {
        bytes,
        span,
        from_env,
    }) = &body
    {
        if method == "GET" || method == "HEAD" {
            let hint = "add method = \"POST\"".to_owned();
            ctx.error(span, format!("a {method} request has no body"), hint);
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            check_body(node, text, span, *from_env, vars, used);
        }
    }
    let mut own = headers(node);
    let typed = own
        .iter()
        .chain(common)
        .any(|(n, _)| n.eq_ignore_ascii_case("content-type"));
    let json = body.as_ref().is_some_and(|b| {
        b.bytes
            .iter()
            .find(|c| !c.is_ascii_whitespace())
            .is_some_and(|c| matches!(c, b'{' | b'['))
    });
    if json && !typed {
        own.push(("Content-Type".to_owned(), "application/json".to_owned()));
    }
    RequestSpec {
        weight: node.number("weight").unwrap_or_default(),
        method,
        path: path.map(|p| p.value).unwrap_or_default(),
        headers: own,
        body: body.map(|b| b.bytes),
        expect: expect(node),
        expect_body: node.text("expect_body").map(|t| t.value),
    }
}

fn check_body(
    node: &Node<'_>,
    text: &str,
    span: &Span,
    from_env: bool,
    vars: &Vars,
    used: &mut BTreeSet<String>,
) {
    for (_, name) in placeholders(text) {
        if vars.contains_key(name) {
            used.insert(name.to_owned());
            continue;
        }
        let shown = if from_env { "..." } else { name };
        let what = format!("`{{{}}}` has no [load.vars.{0}]", show(shown));
        match nearest(name, vars.keys().map(String::as_str)) {
            Some(near) => node.ctx.error(span, what, format!("did you mean `{{{near}}}`?")),
            // GraphQL and templates have words in braces too.
            None => node.ctx.warn(span, &format!("{what} and is sent as it is")),
        }
    }
}

fn check_path(node: &Node<'_>, path: &Text, vars: &Vars, used: &mut BTreeSet<String>) {
    let ctx = node.ctx;
    let names = placeholders(&path.value);
    for (_, name) in &names {
        let shown = if path.from_env { "..." } else { *name };
        if vars.contains_key(*name) {
            used.insert((*name).to_owned());
            continue;
        }
        let hint = nearest(name, vars.keys().map(String::as_str)).map_or_else(
            || format!("add [load.vars.{shown}] with range = [1, 1000], values or csv"),
            |near| format!("did you mean `{{{near}}}`?"),
        );
        ctx.error(
            &path.span,
            format!("`{{{}}}` has no [load.vars.{0}]", show(shown)),
            hint,
        );
    }
    if let Some(why) = path_problem(&path.value) {
        let hint = (why == "must begin with /").then(|| "the host belongs to [sut] url".to_owned());
        ctx.error(&path.span, format!("`path` {why}"), hint);
    }
    let braces = path.value.matches(['{', '}']).count();
    if braces != names.len() * 2 {
        let hint = "a variable is {name}; write %7B and %7D for the characters".to_owned();
        ctx.error(&path.span, "`path` has a brace that belongs to no variable", hint);
    }
}

/// A body with its place.
struct Body {
    bytes: Vec<u8>,
    span: Span,
    from_env: bool,
}

fn body(node: &Node<'_>) -> Option<Body> {
    let inline = node.text("body");
    let file = node.text("body_file");
    if let (Some(_), Some(f)) = (&inline, &file) {
        node.ctx
            .error(&f.span, "`body` and `body_file` exclude each other", None);
        return None;
    }
    if let Some(f) = file {
        return match (node.ctx.files)(&f.value) {
            Ok(bytes) => {
                node.note("body_file", digest(&bytes));
                Some(Body {
                    bytes,
                    span: f.span,
                    from_env: false,
                })
            }
            Err(why) => {
                node.ctx.error(
                    &f.span,
                    format!("`body_file` can't be read: {why}"),
                    "it is looked for beside the space file".to_owned(),
                );
                None
            }
        };
    }
    inline.map(|t| Body {
        bytes: t.value.into_bytes(),
        span: t.span,
        from_env: t.from_env,
    })
}

fn expect(node: &Node<'_>) -> Vec<u16> {
    let Some((values, span)) = node.scalars("expect", 100) else {
        return (200..=206).collect();
    };
    if values.is_empty() {
        node.ctx
            .error(&span, "`expect` is empty: no answer would be good", None);
    }
    let mut out = Vec::new();
    for (v, at) in values {
        match v {
            Value::Int(s) if (100..=599).contains(&s) => out.extend(u16::try_from(s)),
            _ => node
                .ctx
                .error(&at, "an HTTP status is a whole number from 100 to 599", None),
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn vars(node: &Node<'_>) -> Vars {
    let mut vars = Vars::new();
    for (name, n) in node.named("vars", MAX_VARS) {
        if !is_identifier(&name.value) {
            node.ctx.error(
                &name.span,
                format!("`{}` can't be a variable's name", show(&name.value)),
                "letters, digits and _ are, beginning with a letter".to_owned(),
            );
            continue;
        }
        let source = var(&n, &name);
        vars.insert(name.value, (name.span, source));
    }
    vars
}

fn var(node: &Node<'_>, name: &Text) -> Option<VarSource> {
    let ctx = node.ctx;
    let given = ["range", "values", "csv"]
        .into_iter()
        .filter(|k| node.has(k))
        .count();
    if given != 1 {
        let hint = "for example range = [1, 1000]".to_owned();
        ctx.error(
            &name.span,
            "a variable has exactly one of `range`, `values` and `csv`",
            hint,
        );
    }
    let column = node.text("column");
    let range = node.scalars("range", 2);
    let values = node.scalars("values", MAX_VAR_VALUES);
    let file = node.text("csv");
    if let (Some(c), None) = (&column, &file)
        && !node.has("csv")
    {
        ctx.error(&c.span, "`column` belongs to `csv`", None);
    }
    if let Some((pair, span)) = range {
        return match pair.as_slice() {
            [(Value::Int(a), _), (Value::Int(b), _)] if a <= b => Some(VarSource::Range(*a, *b)),
            _ => {
                ctx.error(
                    &span,
                    "`range` must be two whole numbers, the smaller first",
                    "for example range = [1, 1000]".to_owned(),
                );
                None
            }
        };
    }
    if let Some((values, span)) = values {
        if values.is_empty() {
            ctx.error(&span, "`values` is empty", None);
        }
        return Some(VarSource::Values(
            values.into_iter().map(|(v, _)| v.to_string()).collect(),
        ));
    }
    let file = file?;
    let Some(column) = column else {
        if !node.has("column") {
            ctx.error(
                &file.span,
                "`csv` needs `column`",
                "for example column = \"id\"".to_owned(),
            );
        }
        return None;
    };
    match (ctx.files)(&file.value).and_then(|bytes| csv_column(&bytes, &column.value)) {
        Ok(values) => {
            node.note("csv", digest(values.join("\n").as_bytes()));
            Some(VarSource::Values(values))
        }
        Err(why) => {
            ctx.error(
                &file.span,
                format!("`csv` can't be used: {why}"),
                "it is looked for beside the space file".to_owned(),
            );
            None
        }
    }
}

fn csv_column(bytes: &[u8], column: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|_| "its header line is not valid CSV".to_owned())?
        .clone();
    let at = header.iter().position(|h| h.trim() == column).ok_or_else(|| {
        let near = nearest(column, header.iter())
            .map_or(String::new(), |n| format!("; did you mean `{}`?", show(n)));
        format!("it has no such column{near}")
    })?;
    let mut values = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let record = record.map_err(|_| format!("row {} is not valid CSV", i + 2))?;
        values.push(record.get(at).unwrap_or("").to_owned());
        if values.len() > MAX_VAR_VALUES {
            return Err(format!("it has more than {MAX_VAR_VALUES} rows"));
        }
    }
    if values.is_empty() {
        return Err("it has no rows".to_owned());
    }
    Ok(values)
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}
