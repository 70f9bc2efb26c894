//! From text to a validated study: every mistake in one pass.
//!
//! The table of keys gives names, types and defaults; here are the rules between keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::common::is_folder_name;
use super::context::{Ctx, Finished, Span, sounds_secret};
use super::errors::Source;
use super::expressions::{connections, constraints, try_out};
use super::keys::MAX_FILE;
use super::load::{digest, load};
use super::parameters::parameters;
use super::reader::Node;
use super::settings::{capacity, confirm, objective, slo, telemetry};
use super::sut::{between, sut};
use super::{SpecErrors, StudySpec};
use crate::optimizer::Search;
use crate::space::Space;

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
    let others = ["postgres", "redis", "://"];
    if !sounds_secret(&line) && !others.iter().any(|w| line.contains(w)) {
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
        let secret = matches!(
            name,
            "env" | "headers" | "postgres" | "redis" | "url" | "task_url"
        ) && !here.starts_with("parameters.");
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
        let fixed = sut
            .as_ref()
            .map(|s| super::fixed_numbers(&s.env))
            .unwrap_or_default();
        let connections = connections(root, &params.list, &fixed);
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
                .unwrap_or_default(),
            search: search(&study),
            results: PathBuf::from(study.text("results").map(|t| t.value).unwrap_or_default()),
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

/// Who chooses the configs.
fn search(study: &Node<'_>) -> Search {
    match study.one_of("search") {
        Some("simplex") => Search::Simplex,
        Some("sobol") => Search::Sobol,
        Some("random") => Search::Random,
        _ => Search::Model,
    }
}

/// A run that deploys must end some time.
fn limits(root: &Node<'_>, study: &Node<'_>, spec: &StudySpec) {
    if spec.sut.is_some() && !study.has("budget") && !study.has("trials") {
        let hint =
            "add [study] budget = \"8h\" or trials = 60; --budget and --trials override them".to_owned();
        let at = if study.present() {
            study.span.clone()
        } else {
            root.span_of("sut")
        };
        root.ctx.error(&at, "nothing says when the study ends", hint);
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
