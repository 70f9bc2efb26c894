//! The parser from outside: good files, bad files, hashes, secrets.

use super::*;

/// Parses with this environment and without other files.
fn parsed(text: &str, env: &[(&str, &str)]) -> Result<StudySpec, SpecErrors> {
    let env: BTreeMap<String, String> = env.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    parse(text, "t.toml", &|n| env.get(n).cloned(), &|_| {
        Err("there is no such file".into())
    })
}

#[test]
fn the_experiments_are_valid() {
    for name in ["pool", "smoke", "quickstart"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.toml"));
        let spec = load(&path, &|_| None).unwrap_or_else(|e| panic!("{e}"));
        assert!(spec.warnings.is_empty(), "{:?}", spec.warnings);
        let read = if name == "pool" { 4 } else { 0 };
        assert_eq!(spec.baseline_unknown.len(), read, "{name}");
    }
}

#[test]
fn bad() {
    let e = parsed("[study]\nnam = 3\n[sut]\nkind=\"dokcer\"\n[parameters.a]\ntype=\"int\"\nlow=3\nhigh=1\nenv=\"A\"\n[[constraints]]\nthat=\"b + 1 < 2\"", &[]).unwrap_err();
    panic!("{e}");
}
