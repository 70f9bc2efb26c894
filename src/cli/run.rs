//! `autotune --space FILE`, `run` and `demo`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::notify::{End, notify};
use super::{Global, signals};
use crate::console::{Console, Verbosity};
use crate::event::{Event, Sink};
use crate::exit::{self, ExitError};
use crate::spec::{self, StudySpec};
use crate::study::{self, RunEnd, RunOptions, Share};

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
    #[arg(long, value_name = "N", env = "AUTOTUNE_TRIALS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: Option<u32>,
    /// Longest run, finals and giving back included: "8h".
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_BUDGET", value_parser = budget)]
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
    /// Show the study's live page on 127.0.0.1 while it runs; a free port where 8790 is taken and none is named.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "default", env = "AUTOTUNE_SERVE", value_parser = port)]
    serve: Option<Port>,
    /// Run a command in a shell at the end, however it ends; AUTOTUNE_CODE, _VERDICT, _HEADLINE and _FOLDER say how.
    #[arg(long, value_name = "COMMAND", env = "AUTOTUNE_NOTIFY")]
    notify: Option<String>,
}

/// The port of the live page: as named, or the usual one and a free one where that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Usual,
    Named(u16),
}

fn port(text: &str) -> Result<Port, String> {
    match text {
        "default" | "" | "true" => Ok(Port::Usual),
        n => n
            .parse()
            .map(Port::Named)
            .map_err(|_| format!("a port is a number from 0 to 65535, not `{n}`")),
    }
}

/// As [study] budget has it.
const LEAST_BUDGET: Duration = Duration::from_secs(10);

pub(super) fn budget(text: &str) -> Result<Duration, String> {
    match crate::units::parse_duration(text) {
        Ok(d) if d < LEAST_BUDGET => Err("a run needs 10 s at the very least".to_owned()),
        other => other.map_err(|e| e.to_string()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
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
    Box::pin(start(spec, Some(space), &args.common, global)).await
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
    Box::pin(start(spec, None, &common, global)).await
}

/// Reads and validates a space file.
pub(super) fn load(path: &Path) -> Result<StudySpec, ExitError> {
    spec::load(path, &|name| std::env::var(name).ok())
        .map_err(|e| ExitError::new(e.exit_code(), e.to_string()))
}

async fn start(
    mut spec: StudySpec,
    space: Option<&PathBuf>,
    args: &CommonArgs,
    global: &Global,
) -> anyhow::Result<u8> {
    if let Some(seed) = args.seed {
        spec.seed = seed;
    }
    let parent = args.results.clone().unwrap_or_else(|| spec.results.clone());
    if args.dry_run {
        let folder = parent.join(&spec.name);
        spec.budget = args.budget.or(spec.budget);
        spec.trials = args.trials.or(spec.trials);
        return Box::pin(super::check::check(spec, &folder, args.fresh, global)).await;
    }
    let until = args.until.as_deref().map(time_until).transpose()?;
    let options = RunOptions {
        folder: parent.join(&spec.name),
        fresh: args.fresh,
        trials: args.trials,
        budget: args.budget,
        until,
        prior: args.prior.clone(),
        confirm: None,
        space_file: space.cloned(),
        unguarded: false,
    };
    let page = match args.serve {
        Some(p) => Some(LivePage::open(p, &options.folder, global).await?),
        None => None,
    };
    let ended = Box::pin(measure(&spec, &options, None, page.as_ref(), global)).await;
    if let Some(command) = &args.notify
        && let Err(e) = notify(command, &end_words(&ended, &options.folder)).await
    {
        drop(writeln!(std::io::stderr(), "warning: {e}"));
    }
    if let Some(page) = page {
        page.close().await;
    }
    let end = ended?;
    Ok(end.code)
}

/// A study or a confirmation, its result printed; no live page.
pub(super) async fn drive(spec: &StudySpec, options: &RunOptions, global: &Global) -> anyhow::Result<u8> {
    Ok(Box::pin(measure(spec, options, None, None, global)).await?.code)
}

/// A worker of a shared study, its result printed.
pub(super) async fn drive_shared(
    spec: &StudySpec,
    options: &RunOptions,
    share: &Share,
    global: &Global,
) -> anyhow::Result<u8> {
    Ok(Box::pin(measure(spec, options, Some(share), None, global))
        .await?
        .code)
}

/// The run itself, its result printed.
async fn measure(
    spec: &StudySpec,
    options: &RunOptions,
    share: Option<&Share>,
    page: Option<&LivePage>,
    global: &Global,
) -> anyhow::Result<RunEnd> {
    let verbosity = if global.quiet {
        Verbosity::Quiet
    } else {
        Verbosity::Normal
    };
    let mut console = Console::new(verbosity);
    let mut sink = |event: &Event| {
        if let (Event::Started { .. }, Some(page)) = (event, page) {
            page.begun.send_replace(true);
        }
        console.event(event);
    };
    let mut signals = signals::listen()?;
    let stop = signals.stop.clone();
    let working = async {
        match share {
            None => study::run(spec, options, &mut sink, stop).await,
            Some(share) => study::work(spec, options, share, &mut sink, stop).await,
        }
    };
    let end = tokio::select! {
        end = working => end?,
        // The guardian, which sees its pipe close, gives the container back.
        second = &mut signals.impatient => {
            let code = 128_u8.saturating_add(second.unwrap_or(2));
            return Err(ExitError::new(code, "interrupted twice: the guardian gives the container back now").into());
        }
    };
    drop(console);
    let mut out = std::io::stdout().lock();
    let printed = match global.json {
        true => writeln!(out, "{}", end.json),
        false => writeln!(out, "{}", end.summary),
    };
    // How the run ended is not changed by a reader that went away or a full disk behind stdout; the files are written.
    if let Err(e) = printed
        && e.kind() != std::io::ErrorKind::BrokenPipe
    {
        drop(writeln!(
            std::io::stderr(),
            "warning: the summary could not be printed: {e}"
        ));
    }
    Ok(end)
}

/// How a run ended, for `--notify`.
fn end_words(ended: &anyhow::Result<RunEnd>, folder: &Path) -> End {
    let folder = folder.display().to_string();
    match ended {
        Ok(end) => End {
            code: end.code,
            verdict: end.json["verdict"].as_str().unwrap_or("not_confirmed").to_owned(),
            headline: end.json["headline"].as_str().unwrap_or_default().to_owned(),
            folder,
            summary: format!("{}\n", end.summary.trim()),
        },
        Err(e) => End {
            code: e.downcast_ref::<ExitError>().map_or(exit::SOFTWARE, |e| e.code),
            verdict: "error".to_owned(),
            headline: format!("{e:#}"),
            folder,
            summary: format!("{e:#}\n"),
        },
    }
}

/// The live page beside a run: its port is taken before anything is touched, it is served from the moment that the
/// study has begun.
struct LivePage {
    begun: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LivePage {
    async fn open(port: Port, folder: &Path, global: &Global) -> anyhow::Result<Self> {
        let (first, other) = match port {
            Port::Named(n) => (n, n),
            Port::Usual => (super::serve::USUAL_PORT, 0),
        };
        let listener = match super::serve::listen(first, "--serve").await {
            Err(_) if first != other => super::serve::listen(other, "--serve").await?,
            found => found?,
        };
        if !global.quiet {
            let line = crate::serve::invitation(listener.local_addr()?, folder);
            drop(writeln!(std::io::stderr(), "{line}"));
        }
        let (begun, mut wait) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let folder = folder.to_owned();
        let task = tokio::spawn(async move {
            // An error means that the run ended before it began.
            if wait.wait_for(|b| *b).await.is_err() {
                return;
            }
            let stopped = async move { drop(stopped.await) };
            if let Err(e) = crate::serve::serve(listener, folder, stopped).await {
                drop(writeln!(std::io::stderr(), "warning: the live page ended: {e}"));
            }
        });
        Ok(Self { begun, stop, task })
    }

    /// Ends it; pages that are open get the last state first.
    async fn close(self) {
        drop(self.begun);
        drop(self.stop);
        // Its own end has a deadline; it cannot fail in a way that matters now.
        drop(self.task.await);
    }
}

/// Time from now to the next HH:MM, local time.
pub(super) fn time_until(text: &str) -> Result<Duration, ExitError> {
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
    fn ports_are_numbers_or_left_out() {
        assert_eq!(
            (port("default"), port("0")),
            (Ok(Port::Usual), Ok(Port::Named(0)))
        );
        assert!(port("80000").is_err() && port("x").is_err());
    }

    /// Breaks when a run that failed tells nobody.
    #[test]
    fn errors_are_told_too() {
        let failed = Err(ExitError::new(exit::UNAVAILABLE, "no engine").into());
        let end = end_words(&failed, Path::new("results/x"));
        assert_eq!((end.code, end.verdict.as_str()), (69, "error"));
        assert_eq!(end.headline, "no engine");
    }

    #[test]
    fn until_is_within_a_day_and_refuses_nonsense() {
        let d = time_until("06:30").unwrap();
        assert!(d > Duration::ZERO && d <= Duration::from_secs(25 * 3600));
        assert_eq!(time_until("soon").unwrap_err().code, exit::USAGE);
    }
}
