//! `autotune worker`: one of several hosts on one study. The same driver as a run, on a journal in Postgres.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Global;
use super::run::{drive_shared, duration, load, time_until};
use crate::exit::{self, ExitError};
use crate::spec::Secret;
use crate::study::{self, RunOptions, Share};

/// Longest name of a host, characters.
const MAX_NAME: usize = 64;

/// Flags of `worker`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example, on any number of hosts:\n  export AUTOTUNE_STUDY=postgres://USER:PASSWORD@db.example/nights\n  \
                  autotune worker --space experiments/pool.toml\n\n\
                  Every host has its own engine, measures today's configuration first, and takes trials until none is left;\n\
                  one of them measures the finals, the others wait for its decision. A worker that dies, kill -9 included,\n\
                  loses nothing but its open trial, which the next one repeats; its container is given back. Several studies\n\
                  in one database: ?study=NAME in the address. Two workers on one host need two folders of results.\n\n\
                  Exit codes: 0 win, 3 no gain, 64 no such file or no address, 65 another space than the study's, or a study of\n\
                  a newer version, 69 the database is away or refuses the login; the others as for a run."
)]
pub(super) struct WorkerArgs {
    /// The database of the study, postgres://USER:PASSWORD@HOST/DATABASE. Best in the variable: others on this machine
    /// can read a command line. Never shown or written.
    #[arg(long, value_name = "URL", env = "AUTOTUNE_STUDY", hide_env_values = true, value_parser = secret)]
    study: Secret,
    /// The space file, the same on every host.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: PathBuf,
    /// Folder of results on this host; the study's own folder is made in it, with a copy of the whole study.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_RESULTS")]
    results: Option<PathBuf>,
    /// This host's name in every row; its own name where it is left out. Rates are compared within a name.
    #[arg(long, value_name = "HOST", env = "AUTOTUNE_NAME")]
    name: Option<String>,
    /// Most search trials of the whole study; the same on every host.
    #[arg(long, value_name = "N", env = "AUTOTUNE_TRIALS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: Option<u32>,
    /// Longest run of this worker, finals and giving back included: "8h".
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_BUDGET", value_parser = super::run::budget)]
    budget: Option<Duration>,
    /// End by this time of day (local): "06:30".
    #[arg(long, value_name = "HH:MM", env = "AUTOTUNE_UNTIL")]
    until: Option<String>,
    /// How long a database that goes away is tried again before this worker ends.
    #[arg(long, value_name = "TIME", default_value = "2m", env = "AUTOTUNE_PATIENCE", value_parser = duration)]
    patience: Duration,
}

/// Any text: what is wrong with it is said without repeating it.
#[allow(clippy::unnecessary_wraps)] // what clap takes
pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// Works until the study is decided.
pub(super) async fn run(args: &WorkerArgs, global: &Global) -> anyhow::Result<u8> {
    let spec = load(&args.space)?;
    let host = match &args.name {
        Some(name) => checked(name)?,
        None => study::host_name(),
    };
    let until = args.until.as_deref().map(time_until).transpose()?;
    let options = RunOptions {
        folder: args
            .results
            .clone()
            .unwrap_or_else(|| spec.results.clone())
            .join(&spec.name),
        fresh: false,
        trials: args.trials,
        budget: args.budget,
        until,
        prior: None,
        confirm: None,
        space_file: Some(args.space.clone()),
        unguarded: false,
    };
    let share = Share {
        url: args.study.clone(),
        host,
        patience: args.patience,
    };
    drive_shared(&spec, &options, &share, global).await
}

fn checked(name: &str) -> Result<String, ExitError> {
    let name = name.trim();
    let is_plain = name.chars().all(|c| !c.is_control() && c != ',');
    if !name.is_empty() && name.chars().count() <= MAX_NAME && is_plain {
        return Ok(name.to_owned());
    }
    Err(ExitError::new(
        exit::USAGE,
        format!("--name takes a host's name of at most {MAX_NAME} characters"),
    ))
}
