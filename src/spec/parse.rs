//! From text to a validated study: every mistake in one pass.
//!
//! The table of keys gives names, types and defaults; here are the rules between keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::common::{base_url, is_folder_name, is_near, path_problem};
use super::errors::Source;
use super::keys::MAX_FILE;
use super::load::{digest, load};
use super::parameters::{Deploys, compile, connections, constraints, parameters, try_out};
use super::reader::{Ctx, Finished, Node, Span, Text, is_env_name, show};
use super::{
    CapacitySpec, ConfirmSpec, DockerRef, LoadSpec, Objective, ReadySpec, Secret, SpecErrors, StudySpec,
    SutKind, SutSpec, TelemetrySpec,
};
use crate::expr::Expr;
use crate::slo::Slo;
use crate::space::{Binding, Parameter, Space};
use crate::units::{Ratio, Rps};

/// Sections that make trials comparable.
const HASHED: &[&str] = &[
    "sut",
    "parameters",
    "constraints",
    "load",
    "slo",
    "capacity",
    "objective",
    "budget",
];
const MAX_COMMAND: usize = 200;
const MAX_ENV: usize = 200;

/// Validates `text`, the space file called `file_name`. `env` reads the environment, `files` the files that the
/// text names. Pure: the same arguments give the same answer.
pub fn parse(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    files: &dyn Fn(&str) -> Result<Vec<u8>, String>,
) -> Result<StudySpec, SpecErrors> {
    parse_all(text, file_name, env, files).0
}

/// As `parse`, with what the pass left beside the spec.
pub(crate) fn parse_all(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    files: &dyn Fn(&str) -> Result<Vec<u8>, String>,
) -> (Result<StudySpec, SpecErrors>, Option<Finished>) {
    if text.len() > MAX_FILE {
        let why = format!("it is larger than {} MiB", MAX_FILE >> 20);
        return (Err(SpecErrors::unreadable(file_name, why)), None);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(file_name, text);
    let (tree, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        let mut errors = Vec::new();
        for e in syntax {
            let span = e.span().unwrap_or(0..0);
            errors.push(source.error(&span, lower(e.message()), None, &[secretive_line(text, &span)]));
        }
        return (Err(SpecErrors::wrong(errors)), None);
    }
    let mut blank = Vec::new();
    secret_spans(tree.get_ref(), "", &mut blank);
    let ctx = Ctx::new(source, env, files, blank);
    let draft = Draft::read(&Node::root(&ctx, tree.get_ref()), file_name);
    let done = ctx.finish();
    if !done.errors.is_empty() {
        return (Err(SpecErrors::wrong(done.errors.clone())), Some(done));
    }
    (Ok(draft.seal(&done)), Some(done))
}

fn lower(message: &str) -> String {
    let mut chars = message.trim().chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// The part of a broken line that may hold a secret: everything after its first `=`. What the line was meant to
/// be is not known, so nothing of it is shown.
fn secretive_line(text: &str, span: &Span) -> Span {
    let at = span.start.min(text.len());
    let start = text
        .as_bytes()
        .iter()
        .take(at)
        .rposition(|b| *b == b'\n')
        .map_or(0, |i| i + 1);
    let rest = text.get(start..).unwrap_or("");
    let end = start + rest.find('\n').unwrap_or(rest.len());
    let line = text.get(start..end).unwrap_or("").to_ascii_lowercase();
    let words = [
        "pass",
        "secret",
        "token",
        "auth",
        "key",
        "dsn",
        "_url",
        "credential",
        "postgres",
        "redis",
        "cookie",
        "://",
    ];
    if !words.iter().any(|w| line.contains(w)) {
        return 0..0;
    }
    line.find('=').map_or(start..end, |i| start + i + 1..end)
}

/// Where texts stand that may be secret: under `env`, `headers`, [telemetry], in a URL, and under keys that
/// nobody knows.
fn secret_spans(table: &DeTable<'_>, path: &str, out: &mut Vec<Span>) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let here = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        let secret = matches!(name, "env" | "headers" | "postgres" | "redis" | "url")
            && !here.starts_with("parameters.");
        let section = super::keys::ROOT.walk().into_iter().find(|s| s.name == path);
        let unknown = section.is_some_and(|s| s.key(name).is_none());
        if secret || unknown {
            texts(value.get_ref(), &value.span(), out);
        } else {
            inside(value.get_ref(), &here, out);
        }
    }
}

fn inside(value: &DeValue<'_>, path: &str, out: &mut Vec<Span>) {
    match value {
        DeValue::Table(t) => secret_spans(t, path, out),
        DeValue::Array(a) => a.iter().for_each(|v| inside(v.get_ref(), path, out)),
        _ => {}
    }
}

fn texts(value: &DeValue<'_>, span: &Span, out: &mut Vec<Span>) {
    match value {
        DeValue::Table(t) => t.iter().for_each(|(_, v)| texts(v.get_ref(), &v.span(), out)),
        DeValue::Array(a) => a.iter().for_each(|v| texts(v.get_ref(), &v.span(), out)),
        DeValue::String(s) if !s.starts_with("${") => out.push(span.clone()),
        _ => {}
    }
}

/// Everything that was read, before the hash.
struct Draft {
    spec: StudySpec,
}

impl Draft {
    fn read(root: &Node<'_>, file_name: &str) -> Self {
        let study = root.table("study");
        let (sut, deploys) = sut(root);
        let params = parameters(root, deploys);
        let constraints = constraints(root, &params.list);
        let connections = connections(root, &params.list);
        let load = load(root);
        let capacity = capacity(root);
        let (objective, cost, cost_span) = objective(root, &params.list, capacity.max);
        let telemetry = telemetry(root);
        let confirm = confirm(root);
        between(root, sut.as_ref(), load.as_ref(), &params.list, deploys);
        if let (Some(c), None) = (&connections, &telemetry.postgres)
            && c.usable.is_none()
            && !root.table("telemetry").has("postgres")
        {
            let at = root.table("budget").value_span("connections");
            let hint = "add [telemetry] postgres = \"${DATABASE_URL}\", or the number of usable connections"
                .to_owned();
            root.ctx.error(&at, "there is no database to ask", hint);
        }
        let (mut list, mut spans): (Vec<_>, Vec<_>) = constraints.into_iter().unzip();
        if let Some((c, usable)) = connections.as_ref().and_then(|c| Some((c, c.usable?))) {
            let at = root.table("budget").value_span("connections");
            match c.constraint(usable) {
                Ok(limit) => {
                    list.push(limit);
                    spans.push(at);
                }
                Err(why) => root.ctx.error(&at, why, None),
            }
        }
        let space = Space {
            parameters: params.list.clone(),
            constraints: list,
            cost,
        };
        if !root.ctx.has_errors() {
            try_out(root, &params, &space, &spans, &cost_span);
        }
        let spec = StudySpec {
            name: study_name(&study, file_name),
            budget: study.time("budget"),
            trials: study.whole("trials").and_then(|n| u32::try_from(n).ok()),
            seed: study
                .whole("seed")
                .and_then(|n| u64::try_from(n).ok())
                .unwrap_or(1),
            results: PathBuf::from(
                study
                    .text("results")
                    .map_or_else(|| "results".to_owned(), |t| t.value),
            ),
            sut,
            space,
            baseline_unknown: params.unknown,
            load,
            slo: slo(root),
            capacity,
            telemetry,
            confirm,
            objective,
            connections,
            warnings: Vec::new(),
            secrets: Vec::new(),
            hash: String::new(),
            section_hashes: BTreeMap::new(),
        };
        limits(root, &study, &spec);
        Self { spec }
    }

    /// Adds hashes, warnings and secrets.
    fn seal(self, done: &Finished) -> StudySpec {
        let mut spec = self.spec;
        let mut all = String::new();
        for section in HASHED {
            let mut lines = String::new();
            for (path, value) in &done.canon {
                let counts = path.split('.').next() == Some(*section)
                    && path != "load.allow_remote"
                    && !(*section == "constraints" && path.ends_with(".why"));
                if counts {
                    // JSON strings, so that no value can look like another line.
                    lines.push_str(&serde_json::json!([path, value]).to_string());
                    lines.push('\n');
                }
            }
            spec.section_hashes
                .insert((*section).to_owned(), digest(lines.as_bytes()));
            all.push_str(&lines);
        }
        spec.hash = digest(all.as_bytes());
        spec.warnings.clone_from(&done.warnings);
        spec.secrets.clone_from(&done.secrets);
        spec
    }
}

/// A run that deploys must end some time.
fn limits(root: &Node<'_>, study: &Node<'_>, spec: &StudySpec) {
    if spec.sut.is_some() && !study.has("budget") && !study.has("trials") {
        let hint =
            "add [study] budget = \"8h\" or trials = 60; --budget and --trials override them".to_owned();
        root.ctx
            .error(&study.span, "nothing says when the study ends", hint);
    }
    if let (Some(budget), Some(reserve)) = (spec.budget, spec.confirm.reserve)
        && reserve >= budget
    {
        let at = root.table("confirm").value_span("reserve");
        root.ctx.error(
            &at,
            "`reserve` takes the whole budget",
            "it is kept of [study] budget for the finals".to_owned(),
        );
    }
}

fn study_name(study: &Node<'_>, file_name: &str) -> String {
    if let Some(t) = study.text("name") {
        if !is_folder_name(&t.value) {
            let hint =
                "letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 64 at most".to_owned();
            study
                .ctx
                .error(&t.span, "`name` must do as a folder's name", hint);
        }
        return t.value;
    }
    let stem = Path::new(file_name)
        .file_stem()
        .map_or(String::new(), |s| s.to_string_lossy().into_owned());
    if is_folder_name(&stem) {
        stem
    } else {
        "study".to_owned()
    }
}

/// Keys of [sut] and the kinds that they belong to.
const KIND_KEYS: &[(&str, &[&str])] = &[
    ("service", &["docker"]),
    ("project", &["docker"]),
    ("container", &["docker"]),
    ("command", &["process"]),
    ("deploy", &["command"]),
    ("teardown", &["command"]),
    ("model", &["simulated"]),
];

fn sut(root: &Node<'_>) -> (Option<SutSpec>, Deploys) {
    let node = root.table("sut");
    if !node.present() {
        return (None, Deploys::Elsewhere);
    }
    let Some(kind_name) = node.one_of("kind") else {
        return (None, Deploys::Elsewhere);
    };
    for (key, kinds) in KIND_KEYS {
        if node.has(key) && !kinds.contains(&kind_name) {
            let hint = format!("it belongs to kind = \"{}\"", kinds.join("\" or \""));
            node.ctx.error(
                &node.span_of(key),
                format!("`{key}` is not for kind = \"{kind_name}\""),
                hint,
            );
        }
    }
    let command = argv(&node, "command");
    let deploy = argv(&node, "deploy");
    let teardown = argv(&node, "teardown");
    let docker = docker(&node, kind_name == "docker");
    let model = node.text("model").map_or_else(|| "pool".to_owned(), |t| t.value);
    let need = |key: &str| {
        if !node.has(key) {
            node.missing(key);
        }
    };
    let (kind, deploys) = match kind_name {
        "docker" => (docker.map(SutKind::Docker), Deploys::Containers),
        "process" => {
            need("command");
            (Some(SutKind::Process { command }), Deploys::Variables)
        }
        "command" => {
            need("deploy");
            (Some(SutKind::Command { deploy, teardown }), Deploys::Variables)
        }
        "simulated" => (Some(SutKind::Simulated { model }), Deploys::Elsewhere),
        _ => (Some(SutKind::Demo), Deploys::Variables),
    };
    let url = sut_url(&node, kind_name);
    let ready = node.table("ready");
    let path = ready.text("path");
    if let Some((t, why)) = path.as_ref().and_then(|t| Some((t, path_problem(&t.value)?))) {
        ready.ctx.error(&t.span, format!("`path` {why}"), None);
    }
    let timeout = ready.time("timeout").unwrap_or(Duration::from_secs(60));
    let ready = ReadySpec {
        path: path.map_or_else(|| "/health".to_owned(), |t| t.value),
        timeout,
    };
    let mut env = BTreeMap::new();
    for (name, value) in node.map("env", MAX_ENV) {
        if is_env_name(&name.value) {
            env.insert(name.value, Secret::new(value.value));
        } else {
            let what = format!("`{}` is no name of an environment variable", show(&name.value));
            node.ctx
                .error(&name.span, what, "letters, digits and _".to_owned());
        }
    }
    (
        kind.map(|kind| SutSpec {
            kind,
            url,
            ready,
            env,
        }),
        deploys,
    )
}

fn docker(node: &Node<'_>, wanted: bool) -> Option<DockerRef> {
    let (service, project, container) = (node.text("service"), node.text("project"), node.text("container"));
    let empty = [&service, &project, &container]
        .into_iter()
        .flatten()
        .find(|t| t.value.trim().is_empty());
    if let Some(t) = empty {
        node.ctx.error(&t.span, "this is empty", None);
    }
    match (service, container) {
        (Some(_), Some(c)) => {
            node.ctx
                .error(&c.span, "`service` and `container` exclude each other", None);
            None
        }
        (Some(s), None) => Some(DockerRef::Service {
            service: s.value,
            project: project.map(|p| p.value),
        }),
        (None, Some(c)) => {
            if let Some(p) = project {
                node.ctx.error(&p.span, "`project` belongs to `service`", None);
            }
            Some(DockerRef::Container(c.value))
        }
        (None, None) => {
            if wanted && !node.has("service") && !node.has("container") {
                let hint = "add service = \"api\" (compose) or container = \"name\"".to_owned();
                node.ctx.error(
                    &node.span,
                    "kind = \"docker\" needs `service` or `container`",
                    hint,
                );
            }
            None
        }
    }
}

fn argv(node: &Node<'_>, key: &str) -> Vec<String> {
    let words = node.texts(key, MAX_COMMAND);
    if node.has(key) && words.first().is_none_or(|w| w.value.trim().is_empty()) && !node.ctx.has_errors() {
        let hint = format!("for example {key} = [\"./run.sh\"]");
        node.ctx
            .error(&node.value_span(key), format!("`{key}` names no program"), hint);
    }
    words.into_iter().map(|t| t.value).collect()
}

fn sut_url(node: &Node<'_>, kind: &str) -> String {
    let Some(t) = node.text("url") else {
        if !node.has("url") && matches!(kind, "docker" | "command") {
            node.missing("url");
        }
        return "http://127.0.0.1:0".to_owned();
    };
    match base_url(&t.value) {
        Ok(base) => {
            if base.port == 0 && !matches!(kind, "process" | "demo" | "simulated") {
                let hint = "the port where the service is published".to_owned();
                node.ctx
                    .error(&t.span, format!("kind = \"{kind}\" needs a port in `url`"), hint);
            }
            base.text
        }
        Err(why) => {
            node.ctx.error(
                &t.span,
                format!("`url` {why}"),
                "for example url = \"http://127.0.0.1:18000\"".to_owned(),
            );
            String::new()
        }
    }
}

/// Rules that hold between [sut], [load] and the parameters.
fn between(
    root: &Node<'_>,
    sut: Option<&SutSpec>,
    load: Option<&LoadSpec>,
    parameters: &[Parameter],
    deploys: Deploys,
) {
    let node = root.table("sut");
    let Some(sut) = sut else { return };
    if load.is_none() && !root.has("load") && !matches!(sut.kind, SutKind::Simulated { .. }) {
        let hint = "add [[load.requests]] with path = \"/\"".to_owned();
        root.ctx.error(
            &node.span,
            "[sut] says what is deployed, but no [load] what is sent",
            hint,
        );
    }
    for p in parameters {
        let Binding::Env(name) = &p.binding else { continue };
        if sut.env.contains_key(name) {
            let at = node.span_of("env");
            root.ctx.error(
                &at,
                format!(
                    "{name} is set by the parameter `{}`, so it can't be fixed here",
                    p.name
                ),
                None,
            );
        }
        if name == "PORT" && deploys == Deploys::Variables && sut.url.ends_with(":0") {
            root.ctx.error(
                &node.span_of("url"),
                format!("PORT is the tool's own with port 0, and `{}` sets it", p.name),
                None,
            );
        }
    }
    let Ok(base) = base_url(&sut.url) else { return };
    let allowed = load.is_some_and(|l| l.allow_remote.iter().any(|h| h.eq_ignore_ascii_case(&base.host)));
    if !is_near(&base.host) && !allowed && !matches!(sut.kind, SutKind::Simulated { .. }) {
        // The host may have come from the environment: it is not repeated.
        root.ctx.error(
            &node.value_span("url"),
            "load goes to localhost and private addresses only",
            "if this host is yours and may be loaded, name it: [load] allow_remote = [\"host\"]".to_owned(),
        );
    }
}

fn slo(root: &Node<'_>) -> Slo {
    let node = root.table("slo");
    let errors = node.share("errors");
    let success = node.share("success");
    if node.has("errors") && node.has("success") {
        node.ctx.error(
            &node.span_of("success"),
            "`errors` and `success` say the same: keep one",
            None,
        );
    }
    let errors = success
        .map(|s| Ratio::saturating(1.0 - s.get()))
        .or(errors)
        .unwrap_or(Ratio::ZERO);
    if errors.get() >= 1.0 {
        let key = if node.has("success") { "success" } else { "errors" };
        node.ctx.error(
            &node.value_span(key),
            "every rate would do: all requests may fail",
            None,
        );
    }
    let mut times = Vec::new();
    for key in ["p95", "p99", "mean"] {
        let time = node.time(key);
        if time == Some(Duration::ZERO) {
            node.ctx
                .error(&node.value_span(key), format!("`{key}` must be above 0"), None);
        }
        times.push(time);
    }
    let (p95, p99) = (times.first().copied().flatten(), times.get(1).copied().flatten());
    if let (Some(a), Some(b)) = (p95, p99)
        && a > b
    {
        node.ctx
            .warn(&node.value_span("p95"), "`p95` is above `p99`: it never binds");
    }
    Slo {
        errors,
        p95,
        p99,
        mean: times.get(2).copied().flatten(),
    }
}

fn capacity(root: &Node<'_>) -> CapacitySpec {
    let node = root.table("capacity");
    let start = node.number("start");
    let max = node.number("max").unwrap_or(10_000.0);
    if start.is_some_and(|s| s > max) {
        node.ctx.error(
            &node.value_span("start"),
            format!("`start` is above `max` ({max})"),
            None,
        );
    }
    let precision = node.share("precision").unwrap_or(Ratio::ONE);
    if node.has("precision") && !(0.001..=0.5).contains(&precision.get()) {
        node.ctx.error(
            &node.value_span("precision"),
            "`precision` must be from 0.1% to 50%",
            None,
        );
    }
    CapacitySpec {
        start: start.map(Rps::saturating),
        max: Rps::saturating(max),
        precision,
        confirm: node.time("confirm").unwrap_or(Duration::from_secs(30)),
        warm_up: node.time("warm_up").unwrap_or_default(),
    }
}

fn objective(root: &Node<'_>, parameters: &[Parameter], max: Rps) -> (Objective, Option<Expr>, Span) {
    let node = root.table("objective");
    let cost: Option<Text> = node.text("cost");
    let span = cost.as_ref().map_or(node.span.clone(), |t| t.span.clone());
    let expr = cost.and_then(|t| compile(&node, &t, parameters, &[]));
    let (maximize, minimize, at) = (
        node.one_of("maximize"),
        node.one_of("minimize"),
        node.number("at"),
    );
    if let (Some(_), Some(_)) = (maximize, minimize) {
        node.ctx.error(
            &node.span_of("minimize"),
            "`maximize` and `minimize` exclude each other",
            None,
        );
    }
    let objective = match (minimize, at) {
        (Some(_), Some(rate)) => {
            if !node.has("cost") {
                let hint = "for example cost = \"cpus + memory_mb / 2048\"".to_owned();
                node.ctx
                    .error(&node.span_of("minimize"), "`minimize` needs `cost`", hint);
            }
            if rate > max.get() {
                let hint = "raise [capacity] max".to_owned();
                node.ctx.error(
                    &node.value_span("at"),
                    format!("`at` is above the highest rate that is offered ({max})"),
                    hint,
                );
            }
            Objective::CostAt(Rps::saturating(rate))
        }
        (Some(_), None) => {
            if !node.has("at") {
                node.missing("at");
            }
            Objective::SustainableRps
        }
        (None, Some(_)) => {
            let hint = "add minimize = \"cost\"".to_owned();
            node.ctx
                .error(&node.span_of("at"), "`at` belongs to `minimize`", hint);
            Objective::SustainableRps
        }
        (None, None) => Objective::SustainableRps,
    };
    (objective, expr, span)
}

fn telemetry(root: &Node<'_>) -> TelemetrySpec {
    let node = root.table("telemetry");
    let url = |key: &str, schemes: &[&str]| {
        let t = node.text(key)?;
        let (scheme, rest) = t.value.split_once("://").unwrap_or(("", ""));
        // SQLAlchemy writes postgresql+asyncpg://; the driver is its own affair.
        let plain = scheme.split('+').next().unwrap_or("");
        if !schemes.contains(&plain) || rest.is_empty() {
            let hint = format!(
                "for example {}://user:password@127.0.0.1/name",
                schemes.first().unwrap_or(&"")
            );
            node.ctx.error(
                &t.span,
                format!(
                    "`{key}` must be a URL that begins with {}://",
                    schemes.join(":// or ")
                ),
                hint,
            );
            return None;
        }
        if let Some(password) = rest
            .split('@')
            .next()
            .and_then(|u| u.split_once(':'))
            .map(|(_, p)| p)
            && rest.contains('@')
        {
            node.ctx.keep_secret(password);
        }
        Some(Secret::new(format!("{plain}://{rest}")))
    };
    let postgres = url("postgres", &["postgres", "postgresql"]);
    let redis = url("redis", &["redis", "rediss", "unix"]);
    let pool = node.text("pool");
    if let Some((t, why)) = pool.as_ref().and_then(|t| Some((t, path_problem(&t.value)?))) {
        node.ctx.error(
            &t.span,
            format!("`pool` {why}"),
            "it is a path of the API".to_owned(),
        );
    }
    TelemetrySpec {
        postgres,
        redis,
        pool: pool.map(|t| t.value),
    }
}

fn confirm(root: &Node<'_>) -> ConfirmSpec {
    let node = root.table("confirm");
    ConfirmSpec {
        pairs: node
            .whole("pairs")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        reserve: node.time("reserve"),
    }
}
