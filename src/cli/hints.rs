//! What was probably meant where the command line is wrong: the same command with the flag, or without it. Everything
//! that takes a space file takes it by --space, a finished study is named alone: that is easily mixed up.
//!
//! Pure but for a look whether a name is a folder.

use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::Cli;
use crate::sut::docker::find::quoted;

/// The command line; ends the process with a message, a tip and code 2 where it is wrong.
#[must_use]
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        let args: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        if let Some(tip) = tip(&args, &error, &|name| Path::new(name).is_dir()) {
            let tips = vec![StyledStr::from(tip)];
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
        error.exit()
    })
}

/// The command that was probably meant, in words.
fn tip(args: &[String], error: &clap::Error, is_dir: &dyn Fn(&str) -> bool) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        _ => None,
    };
    let bad = match error.kind() {
        ErrorKind::UnknownArgument => text(ContextKind::InvalidArg)?,
        ErrorKind::InvalidSubcommand => text(ContextKind::InvalidSubcommand)?,
        // `report --study DIR` lacks its DIR; --study is something else there.
        ErrorKind::MissingRequiredArgument => "--study".to_owned(),
        _ => return None,
    };
    let known = Cli::command();
    let name = args
        .iter()
        .find_map(|a| known.find_subcommand(a))
        .map_or("run", clap::Command::get_name);
    let at = args.iter().position(|a| *a == bad)?;
    let mut meant: Vec<String> = masked(args);
    if bad.starts_with('-') {
        let takes_dir = matches!(name, "report" | "export" | "serve");
        if !takes_dir || !matches!(bad.as_str(), "--study" | "--dir" | "--results") {
            return None;
        }
        meant.remove(at);
    } else {
        meant.insert(at, flag(name, &bad, is_dir)?.to_owned());
    }
    // What the command needs besides: a tip that is the next mistake helps nobody.
    for (needs, value) in needed(name) {
        if !meant.iter().any(|a| a.split('=').next() == Some(needs)) {
            meant.extend([(*needs).to_owned(), (*value).to_owned()]);
        }
    }
    Some(format!("it may be meant so: `autotune {}`", meant.join(" ")))
}

/// The flags without which command `name` is none, with names to fill in.
fn needed(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "ask" | "confirm" => &[("--space", "FILE"), ("--study", "DIR")],
        "export" => &[("--format", "env")],
        _ => &[],
    }
}

/// The words as a shell takes them, with `...` for what may be secret: a header, and the user and password of a URL. A CI log
/// shows the tip, and the shell has put in its variables by then.
fn masked(args: &[String]) -> Vec<String> {
    let secret = |flag: &str| flag == "--header";
    let mut after = false;
    let word = |arg: &String| {
        let hidden = std::mem::replace(&mut after, secret(arg));
        if hidden {
            return "...".to_owned();
        }
        if let Some((f, _)) = arg.split_once('=').filter(|(f, _)| secret(f)) {
            return format!("{f}=...");
        }
        match arg
            .split_once("://")
            .and_then(|(s, rest)| Some((s, rest.rsplit_once('@')?.1)))
        {
            Some((scheme, host)) => quoted(&format!("{scheme}://...@{host}")),
            None => quoted(arg),
        }
    };
    args.iter().map(word).collect()
}

/// The flag of command `name` that takes what `value` looks like.
fn flag(name: &str, value: &str, is_dir: &dyn Fn(&str) -> bool) -> Option<&'static str> {
    let is_file = Path::new(value).extension().is_some_and(|e| e == "toml");
    let study = !is_file && is_dir(value);
    Some(match name {
        "run" | "check" | "worker" | "restore" if is_file || (name == "check" && !study) => "--space",
        "ask" | "confirm" if is_file => "--space",
        "ask" | "confirm" | "tell" | "recommend" if !is_file => "--study",
        "runs" => "--results",
        "load" | "capacity" | "ladder" => "--url",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip_for(line: &str) -> Option<String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let all = std::iter::once("autotune".to_owned()).chain(args.iter().cloned());
        let error = Cli::try_parse_from(all).unwrap_err();
        let tip = tip(&args, &error, &|name| name.starts_with("results"))?;
        let (_, command) = tip.split_once('`')?;
        let command = command.trim_end_matches('`');
        let again: Vec<&str> = command.split_whitespace().collect();
        assert!(
            Cli::try_parse_from(again).is_ok_and(|_| true),
            "`{line}`: `{command}` is no command either"
        );
        Some(command.to_owned())
    }

    /// Fails when a forgotten flag is answered with usage alone, or the tip is itself no command.
    #[test]
    fn a_forgotten_flag_is_named_in_the_command_as_it_was_typed() {
        for (line, meant) in [
            ("check pool.toml", "autotune check --space pool.toml"),
            (
                "check pool.toml --json",
                "autotune check --space pool.toml --json",
            ),
            ("pool.toml", "autotune --space pool.toml"),
            (
                "run pool.toml --trials 3",
                "autotune run --space pool.toml --trials 3",
            ),
            (
                "recommend results/pool",
                "autotune recommend --study results/pool",
            ),
            (
                "confirm results/pool --space pool.toml",
                "autotune confirm --study results/pool --space pool.toml",
            ),
            (
                "confirm pool.toml --study results/pool",
                "autotune confirm --space pool.toml --study results/pool",
            ),
            (
                "confirm results/pool",
                "autotune confirm --study results/pool --space FILE",
            ),
            (
                "export --study results/pool",
                "autotune export results/pool --format env",
            ),
            ("runs results", "autotune runs --results results"),
            (
                "capacity http://127.0.0.1:8000/",
                "autotune capacity --url http://127.0.0.1:8000/",
            ),
            ("report --study results/pool", "autotune report results/pool"),
            (
                "export --study results/pool --format env",
                "autotune export results/pool --format env",
            ),
            ("serve --study results/pool", "autotune serve results/pool"),
        ] {
            assert_eq!(tip_for(line).as_deref(), Some(meant), "`{line}`");
        }
    }

    /// Fails when a password that the shell put in is shown in a tip, or a word with a blank falls apart.
    #[test]
    fn a_tip_shows_no_secret_and_is_one_command() {
        let said = |words: &[&str]| {
            let args: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            let all = std::iter::once("autotune".to_owned()).chain(args.iter().cloned());
            tip(&args, &Cli::try_parse_from(all).unwrap_err(), &|_| false).unwrap()
        };
        let text = said(&["load", "http://127.0.0.1:1/", "--header", "Authorization: canary"]);
        assert!(text.contains("--url http://127.0.0.1:1/ --header ..."), "{text}");
        let text = said(&["load", "http://127.0.0.1:1/", "--header=Authorization: canary"]);
        assert!(!text.contains("canary"), "{text}");
        let text = said(&["worker", "pool.toml", "--study", "postgres://me:canary@db/x"]);
        assert!(
            text.contains("--space pool.toml --study postgres://...@db/x"),
            "{text}"
        );
        let text = said(&["check", "my pool.toml"]);
        assert!(text.contains("--space 'my pool.toml'"), "{text}");
    }

    #[test]
    fn other_mistakes_keep_their_own_words() {
        assert_eq!(tip_for("check --spcae pool.toml"), None);
        assert_eq!(tip_for("chekc"), None);
        assert_eq!(tip_for("check"), None);
    }
}
