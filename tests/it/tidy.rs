//! The house rules as tests: what the pure rooms may import, in which direction the rooms depend on each
//! other, and that the tree holds no path of a machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that decide or render: no effects.
const PURE: [&str; 15] = [
    "units",
    "expr",
    "space",
    "spec",
    "measurement",
    "slo",
    "capacity",
    "trial",
    "optimizer",
    "finals",
    "diagnosis",
    "report",
    "agenda",
    "smoke",
    "noise",
];

/// What an effect looks like in source.
const EFFECTS: [&str; 16] = [
    "tokio::",
    "sqlx::",
    "bollard::",
    "reqwest::",
    "hyper::",
    "axum::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "ToSocketAddrs",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "std::env::",
    "rand::rng(",
    "thread_rng",
];

/// Room -> rooms that it must not know.
const APART: [(&str, &[&str]); 10] = [
    ("sut", &["load", "telemetry", "store", "study", "report", "cli"]),
    ("load", &["sut", "telemetry", "store", "study", "report", "cli"]),
    ("telemetry", &["sut", "load", "store", "study", "report", "cli"]),
    (
        "store",
        &[
            "sut",
            "load",
            "telemetry",
            "study",
            "report",
            "optimizer",
            "finals",
            "cli",
        ],
    ),
    (
        "capacity",
        &[
            "optimizer",
            "finals",
            "diagnosis",
            "report",
            "sut",
            "load",
            "store",
            "study",
        ],
    ),
    (
        "optimizer",
        &[
            "capacity::next_step",
            "finals",
            "diagnosis",
            "report",
            "sut",
            "load",
            "store",
            "study",
        ],
    ),
    (
        "report",
        &["sut", "load", "telemetry", "store::sqlite", "study", "cli"],
    ),
    ("space", &["spec", "trial", "capacity", "optimizer", "study"]),
    ("measurement", &["slo", "trial", "capacity", "study"]),
    ("units", &["space", "spec", "measurement", "trial", "study"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn room(name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let file = root().join("src").join(format!("{name}.rs"));
    if file.is_file() {
        files.push(file);
    }
    let folder = root().join("src").join(name);
    if folder.is_dir() {
        sources(&folder, &mut files);
    }
    files
}

/// Code without comments and without the module of unit tests, which may use anything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or("").to_owned();
    text.lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn pure_rooms_have_no_effects() {
    let mut found = Vec::new();
    for name in PURE {
        for path in room(name) {
            let text = code(&path);
            // The one thin reader of space files, and tests in files of their own.
            if path.ends_with("spec/file.rs") || path.ends_with("tests.rs") {
                continue;
            }
            for effect in EFFECTS.iter().filter(|e| text.contains(**e)) {
                found.push(format!("{} uses {effect}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "pure rooms with effects:\n{}", found.join("\n"));
}

#[test]
fn rooms_depend_one_way() {
    let mut found = Vec::new();
    for (name, forbidden) in APART {
        for path in room(name).iter().filter(|p| !p.ends_with("tests.rs")) {
            let text = code(path);
            for other in forbidden.iter() {
                let used = text.match_indices(&format!("crate::{other}")).any(|(i, m)| {
                    !text[i + m.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                if used {
                    found.push(format!("{} knows {other}", path.display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "dependencies against the grain:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let silent: Vec<_> = files
        .iter()
        .filter(|p| !fs::read_to_string(p).unwrap().starts_with("//!"))
        .collect();
    assert!(
        silent.is_empty(),
        "modules without a word on what they are for: {silent:?}"
    );
}

#[test]
fn architecture_is_short_and_names_every_room() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(
        text.lines().count() <= 150,
        "ARCHITECTURE.md has {} lines",
        text.lines().count()
    );
    for entry in fs::read_dir(root().join("src")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            text.contains(&format!("src/{name}")),
            "ARCHITECTURE.md does not name src/{name}"
        );
    }
}

#[test]
fn no_ignored_tests_and_no_stubs() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let words = [
        concat!("#[ign", "ore"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    let bad: Vec<_> = files
        .iter()
        .filter(|p| {
            let text = fs::read_to_string(p).unwrap();
            words.iter().any(|w| text.contains(w))
        })
        .collect();
    assert!(bad.is_empty(), "stubs or ignored tests in {bad:?}");
}

/// Fails when a page of docs/ is in no index: nobody finds it then; or the index names one that is gone.
#[test]
fn every_page_is_in_the_index_of_the_docs() {
    let docs = root().join("docs");
    let index = fs::read_to_string(docs.join("README.md")).unwrap();
    let listed: std::collections::BTreeSet<String> = index
        .lines()
        .filter_map(|l| l.strip_prefix("| [")?.split_once("](")?.1.split_once(')'))
        .map(|(path, _)| path.trim_end_matches('/').to_owned())
        .collect();
    let pages: std::collections::BTreeSet<String> = fs::read_dir(&docs)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md" && name != "img")
        .collect();
    assert_eq!(listed, pages, "docs/README.md and the files in docs/");
}
