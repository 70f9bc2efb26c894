//! The situation of the report that this tool answers, staged with experiments/report_*.toml on the real stack: what is
//! said, how soon, and that no trial is run where none would say anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{AUTOTUNE, Stack, csv_rows, output, root, stack_wanted};

const PORT: u16 = 18_720;

/// An experiment for the project and port of `stack`.
fn space_file(stack: &Stack, name: &str, dir: &Path) -> PathBuf {
    let text = fs::read_to_string(root().join(format!("experiments/{name}.toml"))).unwrap();
    let text = text
        .replace(
            "service = \"api\"",
            &format!("service = \"api\"\nproject = \"{}\"", stack.project()),
        )
        .replace("127.0.0.1:18000", &format!("127.0.0.1:{}", stack.port));
    assert!(
        text.contains(stack.project()) && text.contains(&stack.port.to_string()),
        "{name}.toml changed its form"
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

fn autotune(args: &[&str]) -> Ran {
    let begun = Instant::now();
    let out = output(
        Command::new(AUTOTUNE)
            .args(args)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG"),
    );
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let ran = Ran {
        code: out.status.code(),
        out: text(&out.stdout),
        err: text(&out.stderr),
        took: begun.elapsed(),
    };
    println!("{args:?} {:?} {:?}\n{}\n{}", ran.code, ran.took, ran.out, ran.err);
    ran
}

/// Three of four requests always fail: found before any trial, by `check` too, with the table.
#[test]
fn stack_report_broken_mix_is_found_at_smoke() {
    if !stack_wanted() {
        return;
    }
    let settings = [
        ("AUTH_TOKEN", "let-me-in"),
        ("POOL_SIZE", "10"),
        ("MAX_OVERFLOW", "20"),
        ("POOL_TIMEOUT", "30"),
        ("HOLD_MS", "2"),
    ];
    let stack = Stack::up("atreport", PORT, &settings);
    let before = stack.api();
    let dir = tempfile::tempdir().unwrap();
    let space = space_file(&stack, "report_mix", dir.path());
    let results = dir.path().join("results");
    let args = |first: &[&'static str]| {
        let mut all: Vec<String> = first.iter().map(|s| (*s).to_owned()).collect();
        all.extend(
            [
                "--space",
                space.to_str().unwrap(),
                "--results",
                results.to_str().unwrap(),
            ]
            .map(str::to_owned),
        );
        all
    };
    let call = |first: &[&'static str]| {
        let all = args(first);
        autotune(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let checked = call(&["check"]);
    assert_eq!(checked.code, Some(65), "check says that the mix is broken");
    assert_eq!(stack.api(), before, "check touched the container");
    assert!(
        checked
            .out
            .contains("sent 12 requests of the mix to what runs there now"),
        "{}",
        checked.out
    );

    let ran = call(&[]);
    assert_eq!(ran.code, Some(65));
    assert!(ran.took < Duration::from_secs(120), "{:?}", ran.took);
    for text in [&checked.out, &ran.err] {
        assert!(
            text.contains("broken request mix: 3 of 4 requests fail without any load (401, 404, 422)"),
            "{text}"
        );
        for cell in ["401 x3", "404 x3", "422 x3", "200 x3", "GET /itemz/{id}"] {
            assert!(text.contains(cell), "{cell}\n{text}");
        }
    }
    assert!(
        ran.err.contains("the same share fails at both rates") && ran.err.contains("at 200 rps"),
        "{}",
        ran.err
    );
    let trials = results.join("report_mix/trials.csv");
    assert!(
        !trials.exists() || csv_rows(&trials).is_empty(),
        "a trial was run"
    );
    assert_eq!(stack.api(), before, "the container is not back as it was");
    assert_eq!(stack.leftovers(), "");
}
