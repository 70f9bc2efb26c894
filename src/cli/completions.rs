//! `autotune completions SHELL` and `autotune man`: made from the command line's own definition.

use std::io::Write;

use crate::exit::{self, ExitError};

/// Print the completions of a shell.
///
/// Example: `autotune completions bash > /etc/bash_completion.d/autotune`
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    #[arg(env = "AUTOTUNE_SHELL")]
    pub shell: clap_complete::Shell,
}

/// Print a manual page (roff).
///
/// Example: `autotune man | man -l -`, `autotune man load > autotune-load.1`
#[derive(Debug, Clone, clap::Args)]
pub struct ManArgs {
    /// The page of this command; of autotune as a whole where it is left out
    #[arg(env = "AUTOTUNE_MAN_PAGE")]
    pub page: Option<String>,
}

/// Writes `text` as it is, or within a JSON document under `name`.
pub(super) fn put(name: &str, text: &[u8], json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if json {
        let document = serde_json::json!({ name: String::from_utf8_lossy(text) });
        writeln!(out, "{document}")?;
    } else {
        out.write_all(text)?;
    }
    out.flush()
}

/// Writes the completions of `command` to `out` and gives the exit code.
pub fn completions(
    args: &CompletionsArgs,
    mut command: clap::Command,
    json: bool,
    out: &mut dyn Write,
) -> std::io::Result<u8> {
    // Into a buffer first: a reader that goes away (`| head`) is an error of writing, not a panic inside the generator.
    let mut page = Vec::new();
    clap_complete::generate(args.shell, &mut command, "autotune", &mut page);
    put("completions", &page, json, out)?;
    Ok(exit::OK)
}

/// Writes a manual page of `command` to `out` and gives the exit code; an error where there is no such page.
pub fn man(
    args: &ManArgs,
    mut command: clap::Command,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    command.build();
    let man = match &args.page {
        None => clap_mangen::Man::new(command),
        Some(name) => {
            let Some(sub) = command.find_subcommand(name) else {
                return Err(ExitError::new(exit::USAGE, unknown(name, &command)).into());
            };
            clap_mangen::Man::new(sub.clone()).title(format!("autotune-{name}"))
        }
    };
    let mut page = Vec::new();
    man.render(&mut page)?;
    put("man", &page, json, out)?;
    Ok(exit::OK)
}

fn unknown(name: &str, command: &clap::Command) -> String {
    let known: Vec<&str> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
        .map(clap::Command::get_name)
        .collect();
    let near = known
        .iter()
        .max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)))
        .filter(|k| strsim::jaro(k, name) > 0.7)
        .map_or(String::new(), |k| format!(", did you mean {k}?"));
    format!("there is no command {name}{near}; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> clap::Command {
        let load = clap::Command::new("load")
            .about("one probe")
            .arg(clap::Arg::new("url").long("url"));
        clap::Command::new("autotune")
            .about("finds settings")
            .subcommand(load)
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let mut out = Vec::new();
            assert_eq!(
                completions(&CompletionsArgs { shell }, command(), false, &mut out).unwrap(),
                0
            );
            assert!(String::from_utf8(out).unwrap().contains("load"), "{shell}");
        }
    }

    #[test]
    fn pages_are_of_the_whole_or_of_a_command() {
        let page = |name: Option<&str>| {
            let mut out = Vec::new();
            let args = ManArgs {
                page: name.map(str::to_owned),
            };
            man(&args, command(), false, &mut out).map(|_| String::from_utf8(out).unwrap())
        };
        assert!(page(None).unwrap().contains("finds settings"));
        let load = page(Some("load")).unwrap();
        assert!(load.contains("autotune\\-load") && load.contains("url"), "{load}");
        let e = page(Some("laod")).unwrap_err();
        assert_eq!(e.downcast_ref::<ExitError>().unwrap().code, exit::USAGE);
        assert!(e.to_string().contains("did you mean load?"), "{e}");
    }
}
