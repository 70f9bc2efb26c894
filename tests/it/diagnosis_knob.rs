//! A knob that does nothing, in a whole study of the binary: it is named, frozen, and the night is not spent on it.

use std::fs;
use std::process::Command;

use crate::support::{AUTOTUNE, csv_rows, output};

/// A service that carries 300 rps, whatever `sleepy` is set to.
const SPACE: &str = r#"
[study]
name = "sleepy"
trials = 40
seed = 5
[sut]
kind = "simulated"
model = "hard-limit capacity=300 noise=0.01"
[parameters.sleepy]
type = "int"
low = 1
high = 40
baseline = 10
[load]
requests = [{ path = "/" }]
[capacity]
start = 100
max = 2000
confirm = "10s"
[confirm]
pairs = 3
"#;

/// Fails when the ends of a knob are not compared, when one without effect is not named, or when it is searched on.
#[test]
fn a_knob_without_effect_is_named_and_not_searched_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sleepy.toml");
    fs::write(&file, SPACE).unwrap();
    let results = dir.path().join("results");
    let out = output(
        Command::new(AUTOTUNE)
            .arg("--space")
            .arg(&file)
            .arg("--results")
            .arg(&results)
            .env("NO_COLOR", "1"),
    );
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("sleepy stays as it is today"), "{said}");
    let rows = csv_rows(&results.join("sleepy/trials.csv"));
    let of = |phase: &str| rows.iter().filter(|r| r["phase"] == phase).count();
    assert_eq!(of("knob"), 2, "both ends: {rows:?}");
    assert_eq!(of("search"), 0, "a frozen knob is not searched on: {rows:?}");
    assert!(rows.len() < 12, "the night is saved: {} trials", rows.len());
}
