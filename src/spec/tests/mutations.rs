//! Any text gets an answer: random texts, mutated good files, random expressions.

use proptest::prelude::*;

use super::super::*;
use super::{CANARY, FULL, files};

/// What holds for any text: no panic, places inside the text, a spec that later code can trust.
fn judge(text: &str) -> Result<(), TestCaseError> {
    let env = |n: &str| (n != "NOPE").then(|| CANARY.to_owned());
    match parse(text, "t.toml", &env, &files) {
        Err(errors) => {
            prop_assert!(errors.iter().next().is_some());
            let lines: Vec<&str> = text.trim_start_matches('\u{feff}').split('\n').collect();
            for e in errors.iter() {
                prop_assert!(e.line >= 1 && e.line <= lines.len(), "{e}");
                prop_assert!(
                    e.column >= 1 && e.column <= lines[e.line - 1].chars().count() + 1,
                    "{e}"
                );
                let escape = e.to_string().contains(char::from(0x1b));
                prop_assert!(!e.message.is_empty() && !escape);
            }
        }
        Ok(spec) => {
            let space = &spec.space;
            prop_assert!(!space.parameters.is_empty());
            if spec.baseline_unknown.is_empty() {
                prop_assert_eq!(space.violation(&space.baseline()), None);
            }
            for c in crate::space::samples(space, 1, 20) {
                let free = Space {
                    constraints: vec![],
                    ..space.clone()
                };
                prop_assert_eq!(free.violation(&c), None);
                prop_assert!(space.cost_of(&c).is_ok());
            }
            prop_assert!(spec.load.iter().all(|l| !l.requests.is_empty()));
            prop_assert_eq!(spec.hash.len(), 64);
        }
    }
    Ok(())
}

/// Words that a mutation may put anywhere.
const WORDS: &[&str] = &[
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'''",
    "=",
    "\n",
    "#",
    "\\",
    "\u{1b}",
    "\u{feff}",
    "é",
    "${",
    "${DB}",
    "${NOPE}",
    "-1",
    "0",
    "1e999",
    "nan",
    "9223372036854775808",
    "0x7fffffffffffffff",
    "1979-05-27",
    "true",
    "[parameters.a]\n",
    "[[constraints]]\n",
    "that = \"a\"\n",
    "low = 0\n",
    "step = 1e-9\n",
    "only_if = \"(((((\"\n",
    "type = \"choice\"\n",
    "a.b.c = 1\n",
    "log = true\n",
];

/// Cuts, doublings, moves and insertions at random places.
fn mutated(base: &str, changes: &[(u8, u32, u32, usize)]) -> String {
    let mut text: Vec<char> = base.chars().collect();
    for (what, at, len, word) in changes {
        if text.is_empty() {
            break;
        }
        let i = *at as usize % text.len();
        let j = (i + *len as usize % 40).min(text.len());
        match what % 4 {
            0 => drop(text.drain(i..j)),
            1 => {
                let part = text[i..j].to_vec();
                text.splice(i..i, part);
            }
            2 => drop(text.splice(i..i, WORDS[word % WORDS.len()].chars())),
            _ => drop(text.splice(i..j, WORDS[word % WORDS.len()].chars())),
        }
    }
    text.into_iter().collect()
}

/// Breaks when a control character that the file writes as an escape reaches the terminal in a message.
#[test]
fn an_escaped_control_character_stays_out_of_the_messages() {
    for (part, odd) in [
        ("cpus * replicas <= 4", r"cpus *\e replicas <= 4"),
        ("kind = \"docker\"", r#"kind = "doc\u001bker""#),
        ("cost = \"", r#"cost = "\e"#),
    ] {
        let text = FULL.replacen(part, odd, 1);
        assert_ne!(text, FULL, "{part}");
        judge(&text).unwrap();
    }
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,200}|[\\x00-\\x7f]{0,200}") {
        judge(&text)?;
    }

    #[test]
    fn any_mutation_of_a_good_file_gets_an_answer(
        short in any::<bool>(),
        changes in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u32>(), any::<usize>()), 1..6),
    ) {
        judge(&mutated(if short { include_str!("../../../experiments/smoke.toml") } else { FULL }, &changes))?;
    }

    /// Fails when an expression panics, runs for ever, or is compiled and then neither evaluates nor says why.
    #[test]
    fn any_expression_gets_an_answer(text in "[ab0-9+*/%()<>=!&|\" .,-]{0,40}|\\PC{0,40}") {
        if let Ok(e) = Expr::compile(&text, &[("a".to_owned(), false), ("b".to_owned(), true)]) {
            let config = crate::space::Config::from_iter([("a".to_owned(), Value::Int(3))]);
            for told in [e.number(&config).err(), e.truth(&config).err()].into_iter().flatten() {
                prop_assert!(!told.message.is_empty());
            }
        }
    }
}
