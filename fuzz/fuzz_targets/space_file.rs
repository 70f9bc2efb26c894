//! The space file's parser on any bytes: no panic, every mistake inside the text, no value of the environment shown.
//!
//!     cargo +nightly fuzz run space_file -- -dict=fuzz/space_file.dict -max_len=8192
#![no_main]

use libfuzzer_sys::fuzz_target;

const CANARY: &str = "canary-5ecr3t";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name != "NOPE").then(|| CANARY.to_owned());
    let files = |name: &str| match name {
        "users.csv" => Ok(b"id,name\n7,ann\n8,bob\n".to_vec()),
        _ => Err("there is no such file".to_owned()),
    };
    match autotune::spec::parse(text, "fuzz.toml", &env, &files) {
        Ok(spec) => {
            assert!(!format!("{spec:?}").contains(CANARY));
            let today = spec.space.baseline();
            assert!(!spec.baseline_unknown.is_empty() || spec.space.is_legal(&today));
        }
        Err(errors) => {
            let lines = text.split('\n').count();
            assert!(errors.iter().all(|e| (1..=lines).contains(&e.line) && e.column >= 1));
            assert!(!errors.to_string().contains(CANARY) || text.contains(CANARY));
        }
    }
});
