//! The command line: clap types and dispatch, one short function a command.
//!
//! Results go to stdout, progress and errors to stderr; the exit codes are those of `exit`.

pub mod agent;
pub mod ask;
pub mod capacity;
pub mod check;
pub mod completions;
pub mod confirm;
mod hints;
pub mod ladder;
pub mod load;
mod notify;
pub mod recommend;
pub mod report;
mod restore;
mod run;
pub mod schema;
pub mod serve;
mod signals;
pub mod tell;
mod worker;

use std::io::{IsTerminal, Write};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use hints::parse;

use crate::exit::{self, ExitError};

/// Finds the pool and resource settings with which an API sustains the most load, and proves it.
#[derive(Debug, Parser)]
#[command(
    name = "autotune",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  autotune demo                               the whole job on the built-in API, about three minutes\n  \
                  autotune check --space experiments/pool.toml   what a run would do; changes nothing\n  \
                  autotune --space experiments/pool.toml         the night's work; the same command resumes it\n\n\
                  Exit codes: 0 found and restored, 2 usage, 3 no gain, 64/65 space file, 69 Docker or API unavailable,\n\
                  70 bug, 74 I/O, 75 locked, 76 restore failed, 77 permission, 129/130/143 interrupted and restored."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
    #[command(flatten)]
    global: Global,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print one JSON document to stdout and nothing else there.
    #[arg(long, global = true, env = "AUTOTUNE_JSON")]
    pub json: bool,
    /// Only warnings and errors on stderr.
    #[arg(long, short, global = true, env = "AUTOTUNE_QUIET")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The main job; the same as `autotune --space FILE`.
    Run(run::RunArgs),
    /// The same job on the built-in demo API and SQLite: needs nothing, takes about three minutes.
    Demo(run::DemoArgs),
    /// What a run would find and do, and how long it takes; changes nothing.
    Check(check::CheckArgs),
    /// One open-loop probe: a rate, a duration, and everything that came back.
    Load(load::LoadArgs),
    /// The highest sustainable rate of what runs at a URL now.
    Capacity(capacity::CapacityArgs),
    /// A generator for others: sends its share of a probe that a controller divides between several machines.
    Agent(agent::AgentArgs),
    /// Fixed steps of load on what runs at a URL now: rates, and closed-loop users.
    Ladder(ladder::LadderArgs),
    /// The next config to try, for those who deploy and measure with their own tools.
    Ask(ask::AskArgs),
    /// What became of a trial that was asked for.
    Tell(tell::TellArgs),
    /// What a study would recommend now, and why.
    Recommend(recommend::RecommendArgs),
    /// Measure the recommendation and today's configuration again, interleaved: win, no gain, worse.
    Confirm(confirm::ConfirmArgs),
    /// Work on a study that several hosts share through Postgres, until it is decided.
    Worker(worker::WorkerArgs),
    /// Write a study's tables, recommendation and report again from its journal.
    Report(report::ReportArgs),
    /// The recommendation as env, compose, SQLAlchemy, Kubernetes or JSON; the study as an Optuna journal or a picture.
    Export(report::ExportArgs),
    /// Two studies beside each other, with the interval of their difference.
    Compare(report::CompareArgs),
    /// The studies in a results folder.
    Runs(report::RunsArgs),
    /// The live page of a study, on this machine only.
    Serve(serve::ServeArgs),
    /// The JSON Schema of space files, for editors.
    Schema(schema::SchemaArgs),
    /// Shell completions.
    Completions(completions::CompletionsArgs),
    /// A manual page.
    Man(completions::ManArgs),
    /// Give parked containers back, after a reboot or when everything was killed; running it again changes nothing.
    Restore(restore::RestoreArgs),
    /// Waits beside a run and gives its container back when the run is killed.
    #[command(hide = true)]
    Guardian,
    /// The demo's API itself; its limits are environment variables.
    #[command(hide = true)]
    DemoApi,
}

/// Runs the command line; returns the exit code.
#[must_use]
pub fn main(cli: Cli) -> u8 {
    init_tracing();
    let json = cli.global.json;
    match dispatch(cli) {
        Ok(code) => code,
        // The reader had enough (`| head`): a quiet end.
        Err(e) if is_broken_pipe(&e) => exit::OK,
        Err(e) => {
            let code = e.downcast_ref::<ExitError>().map_or(exit::SOFTWARE, |e| e.code);
            // Nothing is left to do when stderr itself is gone.
            drop(writeln!(std::io::stderr(), "autotune: {e:#}"));
            if json {
                // A script that reads one document gets one, whatever happened.
                let document = serde_json::json!({ "error": format!("{e:#}"), "code": code });
                drop(writeln!(std::io::stdout(), "{document}"));
            }
            code
        }
    }
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.downcast_ref::<ExitError>().is_none()
        && e.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
        })
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let global = cli.global;
    match (cli.command, cli.run) {
        (Some(Command::DemoApi), _) => {
            let limits = crate::demo_api::Limits::from_env(&|name| std::env::var(name).ok())?;
            crate::demo_api::run(limits).map(|()| exit::OK)
        }
        (Some(command), _) => block_on(Box::pin(execute(command, &global))),
        (None, args) => block_on(Box::pin(run::run(&args, &global))),
    }
}

async fn execute(command: Command, global: &Global) -> anyhow::Result<u8> {
    let out = || std::io::stdout().lock();
    match command {
        Command::Run(args) => Box::pin(run::run(&args, global)).await,
        Command::Demo(args) => Box::pin(run::demo(&args, global)).await,
        Command::Check(args) => Box::pin(check::run(&args, global)).await,
        Command::Load(args) => load::run(&args, global.json, global.quiet).await,
        Command::Capacity(args) => Box::pin(capacity::run(&args, global.json, global.quiet)).await,
        Command::Ladder(args) => Box::pin(ladder::run(&args, global.json, global.quiet)).await,
        Command::Agent(args) => agent::run(&args, global.json, global.quiet).await,
        Command::Ask(args) => ask::run(&args, global).await,
        Command::Tell(args) => tell::run(&args, global).await,
        Command::Recommend(args) => recommend::run(&args, global).await,
        Command::Confirm(args) => Box::pin(confirm::run(&args, global)).await,
        Command::Worker(args) => Box::pin(worker::run(&args, global)).await,
        Command::Report(args) => report::report(&args, global.json).await,
        Command::Export(args) => report::export(&args, global.json).await,
        Command::Compare(args) => report::compare(&args, global.json).await,
        Command::Runs(args) => report::runs(&args, global.json).await,
        Command::Serve(args) => serve::serve(&args, global, signals::interrupted()).await,
        Command::Schema(args) => Ok(schema::run(&args, global.json, &mut out())?),
        Command::Completions(args) => Ok(completions::completions(
            &args,
            Cli::command(),
            global.json,
            &mut out(),
        )?),
        Command::Man(args) => completions::man(&args, Cli::command(), global.json, &mut out()),
        Command::Restore(args) => restore::run(&args, global).await,
        Command::Guardian => Ok(crate::guardian::run_child().await),
        Command::DemoApi => Ok(exit::OK),
    }
}

/// A line on stderr; nothing is left to do when that itself is gone.
fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// The control plane's runtime. The load has a thread and a runtime of its own.
fn block_on(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Clients whose own logs hold requests, environments and statements, with the most that they may say.
const CAPPED: [(&str, tracing::Level); 8] = [
    ("bollard", tracing::Level::WARN),
    ("hyper", tracing::Level::WARN),
    ("hyper_util", tracing::Level::WARN),
    ("reqwest", tracing::Level::WARN),
    // A slow statement on a loaded machine is no news for the user, and its text is ours.
    ("sqlx::query", tracing::Level::ERROR),
    ("sqlx", tracing::Level::WARN),
    ("rustls", tracing::Level::WARN),
    ("h2", tracing::Level::WARN),
];

/// Whether a library may say this, whatever RUST_LOG asks for: a directive for a module of its own would win over one for
/// the crate.
fn may_say(target: &str, level: tracing::Level) -> bool {
    CAPPED
        .iter()
        .find(|(name, _)| {
            target
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
        .is_none_or(|(_, most)| level <= *most)
}

/// RUST_LOG is honoured, except where a library would print secrets: clients log whole requests at debug.
fn init_tracing() {
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, Layer as _};
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = EnvFilter::try_new(&asked).unwrap_or_else(|_| EnvFilter::new("warn"));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(color)
        .with_writer(std::io::stderr)
        .with_filter(filter_fn(|meta| may_say(meta.target(), *meta.level())));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // A second call (tests) finds a subscriber: that one stays.
    drop(subscriber.try_init());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bollard logs the body of a create, with every value of the environment.
    #[test]
    fn a_client_is_capped_whatever_is_asked_for() {
        use tracing::Level;
        assert!(!may_say("bollard::docker", Level::DEBUG));
        assert!(may_say("bollard::docker", Level::WARN));
        assert!(!may_say("sqlx::query", Level::WARN));
        assert!(!may_say("hyper_util::client::legacy", Level::TRACE));
        assert!(may_say("autotune::study", Level::TRACE));
        assert!(may_say("h2load", Level::TRACE));
    }
}
