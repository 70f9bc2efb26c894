//! `autotune ask`: the next config to try, for those who deploy and measure with their own tools. The folder holds all
//! state; any number of processes may ask at once, and each gets a trial of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Global;
use super::load::print;
use crate::agenda;
use crate::exit::{self, ExitError};
use crate::optimizer::{self, Ask, AskContext, Optimizer};
use crate::space::Config;
use crate::spec::StudySpec;
use crate::store::{Journal, NewTrial, Sqlite, StoreError, StudyMeta, turn};
use crate::study::{self, ASKED, prior, standing};
use crate::trial::{History, Trial};

/// How long other processes that ask or tell are waited for. An ask takes seconds after hundreds of trials.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Most trials of a study.
const MAX_TRIALS: usize = 10_000;

/// Flags of `ask`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autotune ask --space pool.toml --study results/mine     {\"trial\":7,\"config\":{\"pool_size\":12}}\n  \
                  ... deploy it, measure it ...\n  autotune tell --study results/mine --trial 7 --rate 212.5\n  \
                  autotune recommend --study results/mine\n\n\
                  Prints {\"stop\": \"reason\"} when nothing is left to try or to gain. Several trials may be asked for\n\
                  before the first is told, by several processes too. [sut] and [load] may be missing in the file; a\n\
                  parameter that is not active is left out of the config.\n\n\
                  Exit codes: 0 a trial or a stop was printed, 64 no such file, 65 a mistake in the file, or another space\n\
                  than the study's, 74 the folder cannot be written, 75 other processes kept the study for two minutes."
)]
pub struct AskArgs {
    /// The space file.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: PathBuf,
    /// The study's folder; made by the first ask.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_STUDY")]
    study: PathBuf,
    /// Begin with what an earlier study of the same or an overlapping space knows; recorded by the first ask that says it.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_PRIOR")]
    prior: Option<PathBuf>,
    /// Seed of a new study.
    #[arg(long, value_name = "N", env = "AUTOTUNE_SEED")]
    seed: Option<u64>,
    /// Most trials of the study; [study] trials where it is left out.
    #[arg(long, value_name = "N", env = "AUTOTUNE_TRIALS")]
    trials: Option<u32>,
}

/// What is printed; the number first, for people who read along.
#[derive(Serialize)]
struct Asked {
    trial: u32,
    config: Config,
}

/// Prints the next trial, or why there is none.
pub(super) async fn run(args: &AskArgs, global: &Global) -> anyhow::Result<u8> {
    let mut spec = super::run::load(&args.space)?;
    if let Some(seed) = args.seed {
        spec.seed = seed;
    }
    let store = Sqlite::open(&args.study).await.map_err(ExitError::from)?;
    store.wait_for_writers(PATIENCE).await.map_err(ExitError::from)?;
    let (meta, earlier) = begin(&store, &mut spec, args, global).await?;
    let context = AskContext {
        seed: meta.seed,
        trials: args.trials.or(spec.trials),
        required: standing::required(&meta),
    };
    let host = study::host_name();
    let chosen = store
        .begin_next(|trials| choose(&spec, &context, &earlier, trials, &host))
        .await
        .map_err(ExitError::from)?;
    let answer = match chosen {
        Ok((trial, config)) => serde_json::to_string(&Asked { trial, config })?,
        Err(why) => json!({ "stop": why }).to_string(),
    };
    store.close().await;
    print(&answer)?;
    Ok(exit::OK)
}

/// The study's facts and the earlier study's observations; the first ask writes them.
async fn begin(
    store: &Sqlite,
    spec: &mut StudySpec,
    args: &AskArgs,
    global: &Global,
) -> Result<(StudyMeta, History), ExitError> {
    let _turn = turn(&args.study, PATIENCE).await?;
    let known = store.meta().await?;
    adopt_baselines(spec, known.as_ref())?;
    if let Some(words) = study::instances::limit_asked(spec, store).await?
        && known.is_none()
        && !global.quiet
    {
        super::note(&words);
    }
    let asked = StudyMeta::of(spec, ASKED, env!("CARGO_PKG_VERSION"), &study::now_utc());
    let meta = match known {
        Some(meta) => {
            usable(&meta, &args.study)?;
            standing::same_space(&meta, &asked)?;
            meta
        }
        None => {
            store.create(&asked).await?;
            asked
        }
    };
    if let Some(dir) = &args.prior
        && let Some(n) = prior::take_over(store, &spec.space, dir).await?
        && !global.quiet
    {
        super::note(&format!(
            "the search begins with {n} observations of {}",
            dir.display()
        ));
    }
    Ok((meta, prior::recorded(store).await?))
}

/// Baselines that the file leaves to the container are those of the study, once it has begun.
fn adopt_baselines(spec: &mut StudySpec, known: Option<&StudyMeta>) -> Result<(), ExitError> {
    if spec.baseline_unknown.is_empty() {
        return Ok(());
    }
    let today = known
        .map(|m| m.space.parameters.iter())
        .into_iter()
        .flatten()
        .map(|p| (p.name.clone(), p.baseline.clone()))
        .collect();
    spec.set_baselines(&today)
        .map_err(|e| ExitError::new(exit::DATA, e))
}

/// A study that was measured by the tool itself is not mixed with what other tools measure.
pub(super) fn usable(meta: &StudyMeta, dir: &Path) -> Result<(), ExitError> {
    if meta.identity == ASKED {
        return Ok(());
    }
    Err(ExitError::new(
        exit::DATA,
        format!(
            "the study in {0} was measured by `autotune run`, and other tools' rates are not comparable with it: use \
             another --study folder, and `ask --prior {0}` to begin with what this one knows",
            dir.display()
        ),
    ))
}

/// The trial that comes next, or why none does.
fn choose(
    spec: &StudySpec,
    context: &AskContext,
    earlier: &History,
    trials: &[Trial],
    host: &str,
) -> Result<NewTrial, String> {
    if trials.len() >= MAX_TRIALS {
        return Err(format!(
            "the study has {MAX_TRIALS} trials, the most that it can have"
        ));
    }
    let mut history = earlier.clone();
    history.extend(agenda::history(trials));
    match spec.search.ask(&spec.space, &history, context) {
        Ask::Stop(why) => Err(why),
        Ask::Config(config) => Ok(NewTrial {
            phase: optimizer::phase_of(&spec.space, &history, &config),
            config,
            round: None,
            host: host.to_owned(),
        }),
    }
}

/// The study in `dir`, for a command that begins none.
pub(super) async fn existing(dir: &Path) -> Result<(Sqlite, StudyMeta), ExitError> {
    // Looked at before it is opened for writing, which would make one.
    Sqlite::open_read_only(dir).await?.close().await;
    let store = Sqlite::open(dir).await?;
    match store.meta().await? {
        Some(meta) => Ok((store, meta)),
        None => Err(StoreError::Missing(format!(
            "the study in {} has not begun: `autotune ask --space FILE --study {0}` begins it",
            dir.display()
        ))
        .into()),
    }
}
