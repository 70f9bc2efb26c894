//! `autotune tell`: what became of a trial that was asked for.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::Global;
use super::ask::{PATIENCE, existing, usable};
use super::load::print;
use crate::capacity::{Capacity, CapacityVerdict};
use crate::exit::{self, ExitError};
use crate::store::{Journal, StoreError, TrialEnd};
use crate::trial::{Failure, Outcome};

/// Longest reason that is kept, characters.
const MAX_REASON: usize = 400;

/// Flags of `tell`.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["rate", "failed"]),
    after_help = "Examples:\n  autotune tell --study results/mine --trial 7 --rate 212.5\n  \
                  autotune tell --study results/mine --trial 8 --rate 900 --at-least     the generator's limit was reached\n  \
                  autotune tell --study results/mine --trial 9 --failed oom\n\n\
                  --failed takes any word; oom, crash, never_ready, unstable, too_many_clients and no_capacity have their\n\
                  own names in the tables. `--failed infrastructure` says that something else was broken: the config may\n\
                  be asked for again.\n\n\
                  Exit codes: 0 told, 2 not a rate, 64 no such study, 65 no such trial, told before, or a study measured by\n\
                  `autotune run`, 75 other processes kept the study for two minutes."
)]
pub struct TellArgs {
    /// The study's folder.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_STUDY")]
    study: PathBuf,
    /// The trial, as `ask` numbered it.
    #[arg(long, value_name = "N", env = "AUTOTUNE_TRIAL")]
    trial: u32,
    /// The rate that it sustains, requests per second.
    #[arg(long, value_name = "R", env = "AUTOTUNE_RATE", allow_negative_numbers = true, value_parser = rate)]
    rate: Option<f64>,
    /// The config does not work; why, in a word or a sentence.
    #[arg(long, value_name = "WHY", env = "AUTOTUNE_FAILED", conflicts_with_all = ["at_least", "at_most"])]
    failed: Option<String>,
    /// The rate is a lower bound: more was not tried.
    #[arg(long, env = "AUTOTUNE_AT_LEAST", conflicts_with = "at_most")]
    at_least: bool,
    /// The rate is an upper bound: the trial was ended early.
    #[arg(long, env = "AUTOTUNE_AT_MOST")]
    at_most: bool,
}

/// Any rate: another tool may drive more than this one.
fn rate(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rps) if rps.is_finite() && rps >= 0.0 => Ok(rps),
        _ => Err(format!(
            "a rate is a number of requests per second, 0 or more, not `{text}`; a config that does not work is told \
             with --failed"
        )),
    }
}

/// Closes the trial.
pub(super) async fn run(args: &TellArgs, global: &Global) -> anyhow::Result<u8> {
    let outcome = outcome(args)?;
    let (store, meta) = existing(&args.study).await?;
    usable(&meta, &args.study)?;
    store.wait_for_writers(PATIENCE).await.map_err(ExitError::from)?;
    let number = args.trial;
    let trials = store.trials().await.map_err(ExitError::from)?;
    let refused = |why: &str| ExitError::new(exit::DATA, format!("trial {number} {why}"));
    let begun = match trials.iter().find(|t| t.number == number) {
        None => {
            let last = trials.len();
            return Err(refused(&format!("was never asked for: this study has trials 1 to {last}")).into());
        }
        Some(t) if t.outcome.is_some() => return Err(refused("has been told already").into()),
        Some(t) => t.started_at.clone(),
    };
    let end = TrialEnd {
        outcome,
        seconds: seconds_since(&begun),
        binding: None,
    };
    match store.finish_trial(number, &end).await {
        // Somebody else told it meanwhile.
        Err(StoreError::Conflict(_)) => return Err(refused("has been told already").into()),
        other => other.map_err(ExitError::from)?,
    }
    store.close().await;
    if global.json {
        print(&json!({ "trial": number, "told": true }).to_string())?;
    }
    Ok(exit::OK)
}

/// For the tables alone: two readings of the wall clock, by whoever asked and told.
fn seconds_since(begun: &str) -> f64 {
    humantime::parse_rfc3339(begun)
        .ok()
        .and_then(|t| std::time::SystemTime::now().duration_since(t).ok())
        .map_or(0.0, |d| d.as_secs_f64())
}

fn outcome(args: &TellArgs) -> Result<Outcome, ExitError> {
    if let Some(why) = &args.failed {
        return failure(why);
    }
    let rps = args.rate.unwrap_or(0.0);
    if rps <= 0.0 {
        if args.at_least || args.at_most {
            let message = "a bound of 0 says nothing; a config that carries nothing is told with --rate 0";
            return Err(ExitError::new(exit::USAGE, message));
        }
        return Ok(Outcome::Failed {
            failure: Failure::NoCapacity,
            detail: "told a rate of 0".to_owned(),
        });
    }
    let (verdict, sustained, interval_rps) = if args.at_least {
        (CapacityVerdict::AtLeast, Some(rps), [rps, rps])
    } else if args.at_most {
        (CapacityVerdict::AtMost, None, [0.0, rps])
    } else {
        (CapacityVerdict::Sustainable, Some(rps), [rps, rps])
    };
    Ok(Outcome::Measured {
        capacity: Capacity {
            verdict,
            sustainable_rps: sustained,
            goodput_rps: sustained.unwrap_or(0.0),
            interval_rps,
            error_ratio_upper: 0.0,
            peak_offered_rps: rps,
            confirmed_by: None,
            reasons: vec!["told".to_owned()],
        },
    })
}

fn failure(why: &str) -> Result<Outcome, ExitError> {
    let why = crate::report::clean(why, MAX_REASON);
    if why.is_empty() {
        return Err(ExitError::new(exit::USAGE, "say why it failed: --failed oom"));
    }
    let named = [
        Failure::Oom,
        Failure::Crash,
        Failure::NeverReady,
        Failure::Unstable,
        Failure::TooManyClients,
        Failure::NoCapacity,
    ];
    let word = why.to_lowercase().replace(['-', ' '], "_");
    if word == "infrastructure" || word == "interrupted" {
        return Ok(Outcome::Infrastructure {
            detail: format!("told: {why}"),
        });
    }
    Ok(Outcome::Failed {
        failure: named
            .into_iter()
            .find(|f| f.name() == word)
            .unwrap_or(Failure::Told),
        detail: format!("told: {why}"),
    })
}
