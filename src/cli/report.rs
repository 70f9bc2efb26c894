//! `report`, `export`, `compare`, `runs`: what can be said of finished studies, from their journals alone.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::exit::{self, ExitError};
use crate::report::{self, ExportError, FinalDecision, Format};
use crate::results::{self, Study};
use crate::spec::{MOST_INSTANCES, Secret};
use crate::store::{self, Postgres, Sqlite, StoreError};

/// Arguments of `report`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  autotune report results/pool    writes report.html, the CSVs and the recommendation again\n  \
                  AUTOTUNE_STUDY=postgres://... autotune report results/pool    brings the folder's copy of a shared study up to date first"
)]
pub struct ReportArgs {
    /// The study's folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The database of a study that several workers share, as for `worker`: what it holds is copied into DIR first.
    #[arg(long, value_name = "URL", env = "AUTOTUNE_STUDY", hide_env_values = true, value_parser = super::worker::secret)]
    pub study: Option<Secret>,
}

/// Arguments of `export`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  autotune export results/pool --format compose > docker-compose.recommended.yml\n  \
                  autotune export results/pool --format kubernetes --instances 12"
)]
pub struct ExportArgs {
    /// The study's folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The form.
    #[arg(long, value_enum, env = "AUTOTUNE_FORMAT")]
    pub format: ExportFormat,
    /// For so many instances in production; refused, with the arithmetic, where their connections exceed the budget.
    #[arg(long, value_name = "N", env = "AUTOTUNE_INSTANCES", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_INSTANCES)))]
    pub instances: Option<u32>,
    /// Usable connections of the database in production, where they differ from those of the study's.
    #[arg(
        long,
        value_name = "N",
        env = "AUTOTUNE_CONNECTIONS_USABLE",
        requires = "instances"
    )]
    pub connections: Option<u32>,
    /// Export the best candidate although it was not found better; its header says so.
    #[arg(long, env = "AUTOTUNE_FORCE")]
    pub force: bool,
}

/// Forms of `export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// KEY=VALUE lines of the tuned variables.
    Env,
    /// An override for docker compose.
    Compose,
    /// A Python snippet for the engine's pool.
    Sqlalchemy,
    /// A patch of a Deployment.
    Kubernetes,
    /// Everything, for scripts.
    Json,
    /// A journal file for optuna-dashboard.
    Optuna,
    /// A picture of the search and the finals.
    Svg,
}

impl From<ExportFormat> for Format {
    fn from(f: ExportFormat) -> Self {
        match f {
            ExportFormat::Env => Self::Env,
            ExportFormat::Compose => Self::Compose,
            ExportFormat::Sqlalchemy => Self::Sqlalchemy,
            ExportFormat::Kubernetes => Self::Kubernetes,
            ExportFormat::Json => Self::Json,
            ExportFormat::Optuna => Self::Optuna,
            ExportFormat::Svg => Self::Svg,
        }
    }
}

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autotune compare results/pool.1 results/pool    what the second study's recommendation is worth against the first's"
)]
pub struct CompareArgs {
    /// The first study's folder.
    #[arg(value_name = "FIRST")]
    pub first: PathBuf,
    /// The second's.
    #[arg(value_name = "SECOND")]
    pub second: PathBuf,
}

/// Arguments of `runs`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  autotune runs --results results")]
pub struct RunsArgs {
    /// The folder of studies.
    #[arg(long, value_name = "DIR", default_value = "results", env = "AUTOTUNE_RESULTS")]
    pub results: PathBuf,
}

/// The study's journal, or where studies are.
pub(super) async fn journal(dir: &Path) -> Result<Sqlite, ExitError> {
    match Sqlite::open_read_only(dir).await {
        Err(StoreError::Missing(why)) => {
            let near = nearby(dir).await;
            let hint = if near.is_empty() {
                "; `autotune runs --results DIR` lists the studies of a folder".to_owned()
            } else {
                format!("; there are {}", near.join(", "))
            };
            Err(ExitError::new(exit::NO_INPUT, format!("{why}{hint}")))
        }
        other => Ok(other?),
    }
}

/// Studies in `dir`, beside it, or in the usual folder: a handful, the most alike first.
async fn nearby(dir: &Path) -> Vec<String> {
    let beside = dir.parent().filter(|p| !p.as_os_str().is_empty());
    for place in [Some(dir), beside, Some(Path::new("results"))]
        .into_iter()
        .flatten()
    {
        let Ok(found) = store::list(place).await else {
            continue;
        };
        let mut names: Vec<String> = found
            .iter()
            .map(|e| report::clean(&e.dir.display().to_string(), 200))
            .collect();
        if names.is_empty() {
            continue;
        }
        let asked = dir.display().to_string();
        names.sort_by(|a, b| strsim::jaro(b, &asked).total_cmp(&strsim::jaro(a, &asked)));
        names.truncate(5);
        return names;
    }
    Vec::new()
}

async fn read(dir: &Path) -> Result<(Sqlite, Study), ExitError> {
    let journal = journal(dir).await?;
    let study = Study::read(&journal).await?;
    Ok((journal, study))
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(format!("{value:#}\n").as_bytes())
}

/// `autotune report DIR`: writes the derived files again and says what they say.
pub async fn report(args: &ReportArgs, json: bool) -> anyhow::Result<u8> {
    // The variable may name a folder: that is for ask and tell.
    if let Some(url) = args.study.as_ref().filter(|u| u.expose().contains("://")) {
        copy(url, &args.dir).await?;
    }
    let (journal, study) = read(&args.dir).await?;
    let summary = study.summary();
    results::write_all(&args.dir, &report::files(&summary)?).map_err(ExitError::from)?;
    journal.close().await;
    if json {
        print_json(&report::summary_json(&summary))?;
    } else {
        let page = args.dir.join("report.html");
        print(format!("{}\n{}\n", summary.headline(), page.display()).as_bytes())?;
    }
    Ok(exit::OK)
}

/// Brings the copy in `dir` up to date, or makes it.
async fn copy(url: &Secret, dir: &Path) -> Result<(), ExitError> {
    let shared = Postgres::open_existing(url).await?;
    let own = Sqlite::open(dir).await?;
    shared.copy_into(&own).await?;
    own.close().await;
    Ok(())
}

/// `autotune export DIR --format FORM`: the recommendation in another tool's form, to stdout; with `--json` within a
/// document.
pub async fn export(args: &ExportArgs, json: bool) -> anyhow::Result<u8> {
    let (journal, study) = read(&args.dir).await?;
    let mut connections = results::connections(&journal).await?;
    journal.close().await;
    let coded = |e: ExportError| {
        let code = match e {
            ExportError::NoWin(_) => exit::NO_GAIN,
            ExportError::Unsuited(_) => exit::USAGE,
            ExportError::DoesNotFit(_) => exit::DATA,
            ExportError::Render(_) => exit::SOFTWARE,
        };
        ExitError::new(code, e.to_string())
    };
    match (&mut connections, args.connections) {
        (Some(c), Some(usable)) => (c.usable, c.asked) = (usable, None),
        (None, Some(_)) => {
            return Err(ExitError::new(
                exit::USAGE,
                "--connections: this study has no connection budget, so nothing says how many connections a configuration \
                 takes; write [budget] connections and `uses` into its space file before the study, or leave the flag out",
            )
            .into());
        }
        (_, None) => {}
    }
    let mut summary = study.summary();
    if let Some(n) = args.instances {
        summary = report::for_instances(&summary, connections.as_ref(), n, args.force).map_err(coded)?;
    }
    let bytes = report::export(&summary, args.format.into(), args.force).map_err(coded)?;
    if json && args.format != ExportFormat::Json {
        let name = args
            .format
            .to_possible_value()
            .map_or(String::new(), |v| v.get_name().to_owned());
        print_json(&json!({ "format": name, "content": String::from_utf8_lossy(&bytes) }))?;
    } else {
        print(&bytes)?;
    }
    Ok(exit::OK)
}

/// `autotune compare FIRST SECOND`: the second's recommendation against the first's.
pub async fn compare(args: &CompareArgs, json: bool) -> anyhow::Result<u8> {
    let (ja, a) = read(&args.first).await?;
    let (jb, b) = read(&args.second).await?;
    ja.close().await;
    jb.close().await;
    let found = report::compare(&a.summary(), &b.summary());
    if json {
        print_json(&serde_json::to_value(&found)?)?;
    } else {
        let remarks: String = found.remarks.iter().map(|r| format!("  note: {r}\n")).collect();
        print(format!("{}: {}\n{remarks}", found.verdict, found.words).as_bytes())?;
    }
    Ok(exit::OK)
}

/// `autotune runs`: the studies of a folder.
pub async fn runs(args: &RunsArgs, json: bool) -> anyhow::Result<u8> {
    let entries = store::list(&args.results).await.map_err(ExitError::from)?;
    let mut rows = Vec::new();
    for e in &entries {
        let decision = e
            .decision
            .clone()
            .and_then(|d| serde_json::from_value::<FinalDecision>(d).ok());
        let (state, begun) = match &e.meta {
            Ok(Some(m)) => (
                match &decision {
                    Some(d) => d.verdict.name(),
                    None if e.ended => "no_gain",
                    None if e.trials == 0 => "nothing measured",
                    None => "not confirmed",
                }
                .to_owned(),
                m.created_at.clone(),
            ),
            Ok(None) => ("not begun".to_owned(), String::new()),
            Err(why) => (format!("unreadable: {why}"), String::new()),
        };
        // Too few rounds give no gain: the zeros of the record are none.
        let at_least = decision.as_ref().is_some_and(|d| d.at_least);
        let gain = decision.as_ref().filter(|d| d.is_compared()).map(|d| d.gain[1]);
        rows.push(json!({ "dir": e.dir, "state": state, "trials": e.trials, "gain": gain, "at_least": at_least, "begun": begun }));
    }
    if json {
        print_json(&json!({ "studies": rows }))?;
        return Ok(exit::OK);
    }
    if entries.is_empty() {
        print(format!("no studies in {}\n", args.results.display()).as_bytes())?;
        return Ok(exit::OK);
    }
    let text: String = rows
        .iter()
        .map(|r| {
            let s = |k: &str| r[k].as_str().unwrap_or_default().to_owned();
            let gain = r["gain"]
                .as_f64()
                .map_or(String::new(), |g| format!("{:+.1} %", g * 100.0));
            let bound = if r["at_least"] == true && !gain.is_empty() {
                ">= "
            } else {
                ""
            };
            let gain = format!("{bound}{gain}");
            format!(
                "{:<32} {:>5} trials  {:>12}  {:<20} {}\n",
                report::clean(&s("dir"), 200),
                r["trials"],
                gain,
                report::clean(&s("begun"), 40),
                report::clean(&s("state"), 300)
            )
        })
        .collect();
    print(text.as_bytes())?;
    Ok(exit::OK)
}
