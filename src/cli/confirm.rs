//! `autotune confirm`: the recommendation and today's configuration measured again, interleaved.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Global;
use crate::study::{Confirm, RunOptions};

/// Flags of `confirm`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autotune confirm --space experiments/pool.toml --study results/pool\n\n\
                  The recommendation (`autotune recommend`) and today's configuration are deployed and measured in shuffled\n\
                  pairs until the interval of their difference decides, or [confirm] pairs are used: win, no gain, worse. Only\n\
                  these pairs count. Where today's configuration is what is recommended, it is measured against itself. A\n\
                  confirmation that was interrupted goes on with the same command.\n\n\
                  Exit codes: 0 win, 3 no gain, worse or undecided, 64 no such study, 65 another space than the study's; the\n\
                  others as for a run."
)]
pub struct ConfirmArgs {
    /// The space file, with [sut] and [load].
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: PathBuf,
    /// The study's folder.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_STUDY")]
    study: PathBuf,
    /// Confirm the fastest config, whatever it costs.
    #[arg(long, env = "AUTOTUNE_FASTEST")]
    fastest: bool,
    /// Most pairs; [confirm] pairs where it is left out.
    #[arg(long, value_name = "N", env = "AUTOTUNE_PAIRS", value_parser = clap::value_parser!(u32).range(2..=100))]
    pairs: Option<u32>,
    /// Longest time for it: "2h".
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_BUDGET", value_parser = super::run::budget)]
    budget: Option<Duration>,
}

/// Measures the pairs and decides.
pub(super) async fn run(args: &ConfirmArgs, global: &Global) -> anyhow::Result<u8> {
    let mut spec = super::run::load(&args.space)?;
    if let Some(pairs) = args.pairs {
        spec.confirm.pairs = pairs;
    }
    let options = RunOptions {
        until: None,
        folder: args.study.clone(),
        fresh: false,
        trials: None,
        budget: args.budget,
        prior: None,
        confirm: Some(if args.fastest {
            Confirm::Fastest
        } else {
            Confirm::Recommended
        }),
        space_file: Some(args.space.clone()),
        unguarded: false,
    };
    Box::pin(super::run::drive(&spec, &options, global)).await
}
