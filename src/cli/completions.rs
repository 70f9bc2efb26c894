//! `autotune completions SHELL` and `autotune man`: made from the command line's own definition.

use std::io::Write;

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

/// Writes the completions of `command` to `out` and gives the exit code.
pub fn completions(
    args: &CompletionsArgs,
    mut command: clap::Command,
    out: &mut dyn Write,
) -> std::io::Result<u8> {
    // Into a buffer first: a reader that goes away (`| head`) is an error of writing, not a panic inside the generator.
    let mut page = Vec::new();
    clap_complete::generate(args.shell, &mut command, "autotune", &mut page);
    out.write_all(&page)?;
    out.flush()?;
    Ok(0)
}

/// Writes a manual page of `command` to `out` and gives the exit code: 2 where there is no such page.
pub fn man(args: &ManArgs, mut command: clap::Command, out: &mut dyn Write) -> std::io::Result<u8> {
    command.build();
    let page = match &args.page {
        None => clap_mangen::Man::new(command),
        Some(name) => {
            if let Some(sub) = command.find_subcommand(name) {
                clap_mangen::Man::new(sub.clone()).title(format!("autotune-{name}"))
            } else {
                let known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
                writeln!(out, "there is no command {name}; there are {}", known.join(", "))?;
                return Ok(2);
            }
        }
    };
    page.render(out)?;
    out.flush()?;
    Ok(0)
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
                completions(&CompletionsArgs { shell }, command(), &mut out).unwrap(),
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
            let exit = man(&args, command(), &mut out).unwrap();
            (exit, String::from_utf8(out).unwrap())
        };
        assert!(page(None).1.contains("finds settings"));
        let (exit, load) = page(Some("load"));
        assert!(
            exit == 0 && load.contains("autotune\\-load") && load.contains("url"),
            "{load}"
        );
        assert_eq!(page(Some("laod")).0, 2);
    }
}
