//! `autotune --space FILE`, `run` and `demo`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Global, signals};
use crate::console::{Console, Verbosity};
use crate::exit::{self, ExitError};
use crate::spec::{self, StudySpec};
use crate::study::{self, RunOptions};

/// The space file embedded for `autotune demo`.
const QUICKSTART: &str = include_str!("../../experiments/quickstart.toml");

/// Flags of the main job.
#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    /// The space file: what may change, what is sent, what counts as good.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Flags of `demo`.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
struct CommonArgs {
    /// Folder of results; the study's own folder is made in it.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_RESULTS")]
    results: Option<PathBuf>,
    /// Most search trials.
    #[arg(long, value_name = "N", env = "AUTOTUNE_TRIALS")]
    trials: Option<u32>,
    /// Longest run, finals and giving back included: "8h".
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_BUDGET", value_parser = duration)]
    budget: Option<Duration>,
    /// End by this time of day (local): "06:30".
    #[arg(long, value_name = "HH:MM", env = "AUTOTUNE_UNTIL")]
    until: Option<String>,
    /// Seed of a new study.
    #[arg(long, value_name = "N", env = "AUTOTUNE_SEED")]
    seed: Option<u64>,
    /// Begin with what an earlier study of the same or an overlapping space knows; the finals don't see it.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_PRIOR")]
    prior: Option<PathBuf>,
    /// Archive an earlier study of this name and begin again.
    #[arg(long, env = "AUTOTUNE_FRESH")]
    fresh: bool,
    /// Say what would be done and end; the same as `check`.
    #[arg(long, env = "AUTOTUNE_DRY_RUN")]
    dry_run: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::units::parse_duration(text).map_err(|e| e.to_string())
}

/// The main job.
pub(super) async fn run(args: &RunArgs, global: &Global) -> anyhow::Result<u8> {
    let Some(space) = &args.space else {
        return Err(ExitError::new(
            exit::USAGE,
            "say what to do: `autotune --space FILE`, or `autotune --help`",
        )
        .into());
    };
    let spec = load(space)?;
    Box::pin(start(spec, &args.common, global)).await
}

/// The main job on the built-in API.
pub(super) async fn demo(args: &DemoArgs, global: &Global) -> anyhow::Result<u8> {
    let spec = spec::parse(
        QUICKSTART,
        "quickstart.toml",
        &|name| std::env::var(name).ok(),
        &|path| Err(format!("{path}: the embedded space file reads no other files")),
    )
    .map_err(|e| ExitError::new(exit::DATA, e.to_string()))?;
    let mut common = args.common.clone();
    // A demo is tried several times: each begins again and the last one is kept.
    common.fresh = true;
    Box::pin(start(spec, &common, global)).await
}

/// Reads and validates a space file.
pub(super) fn load(path: &Path) -> Result<StudySpec, ExitError> {
    spec::load(path, &|name| std::env::var(name).ok())
        .map_err(|e| ExitError::new(e.exit_code(), e.to_string()))
}

async fn start(mut spec: StudySpec, args: &CommonArgs, global: &Global) -> anyhow::Result<u8> {
    if let Some(seed) = args.seed {
        spec.seed = seed;
    }
    let parent = args.results.clone().unwrap_or_else(|| spec.results.clone());
    if args.dry_run {
        let folder = parent.join(&spec.name);
        return super::check::check(spec, &folder, global).await;
    }
    let until = args.until.as_deref().map(time_until).transpose()?;
    let budget = [args.budget, until].into_iter().flatten().min();
    let options = RunOptions {
        folder: parent.join(&spec.name),
        fresh: args.fresh,
        trials: args.trials,
        budget,
        prior: args.prior.clone(),
        confirm: None,
        unguarded: false,
    };
    Box::pin(drive(&spec, &options, global)).await
}

/// Runs a study or a confirmation with a console and signals, and prints how it ended.
pub(super) async fn drive(spec: &StudySpec, options: &RunOptions, global: &Global) -> anyhow::Result<u8> {
    let verbosity = if global.quiet {
        Verbosity::Quiet
    } else {
        Verbosity::Normal
    };
    let mut console = Console::new(verbosity);
    let mut signals = signals::listen()?;
    let end = tokio::select! {
        end = study::run(spec, options, &mut console, signals.stop.clone()) => end?,
        // The guardian, which sees its pipe close, gives the container back.
        second = &mut signals.impatient => {
            let code = 128_u8.saturating_add(second.unwrap_or(2));
            return Err(ExitError::new(code, "interrupted twice: the guardian gives the container back now").into());
        }
    };
    drop(console);
    let mut out = std::io::stdout().lock();
    if global.json {
        writeln!(out, "{}", end.json)?;
    } else {
        writeln!(out, "{}", end.summary)?;
    }
    Ok(end.code)
}

/// Time from now to the next HH:MM, local time.
fn time_until(text: &str) -> Result<Duration, ExitError> {
    let bad = || {
        ExitError::new(
            exit::USAGE,
            format!("--until takes a time of day such as 06:30, not `{text}`"),
        )
    };
    let time: jiff::civil::Time = text.parse().map_err(|_| bad())?;
    let now = jiff::ZonedDateTime::now();
    let mut then = now.with().time(time).build().map_err(|_| bad())?;
    if then <= now {
        then = then
            .tomorrow()
            .map_err(|_| bad())?
            .with()
            .time(time)
            .build()
            .map_err(|_| bad())?;
    }
    Duration::try_from(then.duration_since(&now)).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_within_a_day_and_refuses_nonsense() {
        let d = time_until("06:30").unwrap();
        assert!(d > Duration::ZERO && d <= Duration::from_secs(25 * 3600));
        assert_eq!(time_until("soon").unwrap_err().code, exit::USAGE);
    }
}
