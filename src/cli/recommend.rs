//! `autotune recommend`: what a study would recommend now, and why.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::load::print;
use crate::exit::{self, ExitError};
use crate::optimizer::{Candidate, Recommendation};
use crate::report::FinalVerdict;
use crate::results;
use crate::spec::{Connections, MOST_INSTANCES};
use crate::store::Sqlite;
use crate::study::standing::Standing;
use crate::trial::Seen;

/// Flags of `recommend`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  autotune recommend --study results/mine\n  \
                  autotune recommend --study results/mine --json | jq .config\n\n\
                  The cheapest config within the noise of the best where [objective] has a cost, the best itself with\n\
                  --fastest. Where finals or `autotune confirm` decided and nothing was tried since, it is what they decided;\n\
                  before that it is the search's opinion, and `confirmed` is null.\n\n\
                  Exit codes: 0 something is recommended, 3 nothing that works has been measured, 64 no such study.")]
pub struct RecommendArgs {
    /// The study's folder.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_STUDY")]
    study: PathBuf,
    /// The fastest, whatever it costs.
    #[arg(long, env = "AUTOTUNE_FASTEST")]
    fastest: bool,
    /// For so many instances in production; refused, with the arithmetic, where their connections exceed the budget.
    #[arg(long, value_name = "N", env = "AUTOTUNE_INSTANCES", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_INSTANCES)))]
    instances: Option<u32>,
}

/// Prints the recommendation; changes nothing.
pub(super) async fn run(args: &RecommendArgs, global: &Global) -> anyhow::Result<u8> {
    let store = Sqlite::open_read_only(&args.study)
        .await
        .map_err(ExitError::from)?;
    let standing = Standing::read(&store).await;
    let connections = results::connections(&store).await;
    store.close().await;
    let (mut standing, connections) = (standing?, connections.map_err(ExitError::from)?);
    // What was told by other tools has no folder of a run on record: it is the one that is read here.
    if let Some(command) = &mut standing.confirm {
        *command = command.replace("--study DIR", &format!("--study {}", args.study.display()));
    }
    let is_known = standing.config(args.fastest).is_some();
    let fit = fitting(&standing, args, connections.as_ref())?;
    print(&if global.json {
        let mut document = document(&standing, args.fastest);
        if let Some(words) = &fit {
            document["instances"] = json!({ "count": args.instances, "connections": words });
        }
        document.to_string()
    } else {
        let mut text = words(&standing, args.fastest).trim_end().to_owned();
        if let (Some(words), Some(n)) = (&fit, args.instances) {
            text += &format!("\n  for {n} instances: {words}");
        }
        text
    })?;
    Ok(if is_known { exit::OK } else { exit::NO_GAIN })
}

/// The arithmetic of the connections for the instances that are asked about; an error where they do not fit.
fn fitting(
    s: &Standing,
    args: &RecommendArgs,
    connections: Option<&Connections>,
) -> Result<Option<String>, ExitError> {
    let (Some(n), Some(config)) = (args.instances, s.config(args.fastest)) else {
        return Ok(None);
    };
    let Some(c) = connections else {
        return Ok(Some(
            "not checked against the database: the space file has no [budget] connections".to_owned(),
        ));
    };
    c.for_instances(&s.space, &config, n)
        .map(|fit| Some(fit.words))
        .map_err(|why| ExitError::new(exit::DATA, why))
}

const NOTHING: &str = "nothing that works has been measured yet: today's configuration stays";

/// Why it is recommended, in a sentence.
fn why(s: &Standing, fastest: bool) -> String {
    match (&s.decision, &s.search) {
        (Some(d), _) if !fastest => format!("measured again: {}", d.words),
        (_, Some(r)) if fastest => format!("the fastest measured config, {}", known(&r.fastest)),
        (_, Some(r)) => r.why.clone(),
        _ => NOTHING.to_owned(),
    }
}

/// What is believed of the recommended config.
fn believed(r: &Recommendation, s: &Standing, fastest: bool) -> Option<Candidate> {
    let config = s.config(fastest)?;
    [Some(&r.recommended), Some(&r.fastest), r.baseline.as_ref()]
        .into_iter()
        .flatten()
        .chain(&r.pareto)
        .find(|c| c.config == config)
        .cloned()
}

fn document(s: &Standing, fastest: bool) -> serde_json::Value {
    let told = |seen: fn(&Seen) -> bool| s.history.iter().filter(|o| seen(&o.seen)).count();
    let search = s.search.as_ref();
    let belief = search.and_then(|r| believed(r, s, fastest));
    json!({
        "config": s.config(fastest),
        "why": why(s, fastest),
        "rps": belief.as_ref().map(|c| c.rps),
        "interval_rps": belief.as_ref().map(|c| c.interval_rps),
        "cost": s.config(fastest).and_then(|c| s.space.cost_of(&c).ok().flatten()),
        "measured": belief.as_ref().map(|c| c.measured),
        "fastest": search.map(|r| &r.fastest),
        "pareto": search.map(|r| &r.pareto),
        "baseline": search.and_then(|r| r.baseline.as_ref()),
        "baseline_config": s.space.baseline(),
        "noise": search.map(|r| r.noise),
        "trials": s.history.len(),
        "pending": told(|seen| *seen == Seen::Pending),
        "failed": told(|seen| *seen == Seen::Failed),
        "confirmed": s.decision,
    })
}

/// What is known of a config's rate: measured and believed, or a bound alone.
fn known(c: &Candidate) -> String {
    let times = match c.measured {
        0 => return bounds(c),
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let [lo, hi] = c.interval_rps;
    format!("{:.1} rps (90 % {lo:.1} to {hi:.1}), measured {times}", c.rps)
}

/// A config whose rate was never reached: the load ended before it did, or a race was lost.
fn bounds(c: &Candidate) -> String {
    let floor = c.at_least_rps.map(|r| format!("at least {r:.1} rps"));
    let ceiling = c.below_rps.map(|r| format!("below {r:.1} rps"));
    let known: Vec<String> = [floor, ceiling].into_iter().flatten().collect();
    format!(
        "{} (no more was offered, so that its rate is not known)",
        known.join(", ")
    )
}

fn words(s: &Standing, fastest: bool) -> String {
    let Some(config) = s.config(fastest) else {
        return format!("{NOTHING}\n");
    };
    let mut text = format!("{config}\n  {}\n", why(s, fastest));
    let line = |name: &str, c: &Candidate| {
        let cost = c.cost.map_or(String::new(), |c| format!(", cost {c:.3}"));
        format!("  {name:<9} {}{cost}: {}\n", known(c), c.config)
    };
    if let Some(r) = &s.search {
        if let Some(b) = &r.baseline {
            text += &line("today", b);
        }
        text += &line("fastest", &r.fastest);
        for c in r.pareto.iter().filter(|_| r.pareto.len() > 1) {
            text += &line("trade-off", c);
        }
    }
    let again = |before: &str| {
        s.confirm
            .as_ref()
            .map_or(String::new(), |c| format!("{before}{c}"))
    };
    match &s.decision {
        None => {
            let how = again("; this measures it again, against today's configuration: ");
            text += &format!("  not confirmed{how}\n");
        }
        Some(d) if d.verdict == FinalVerdict::Undecided => {
            text += &format!("  undecided{}\n", again("; to decide it: "));
        }
        Some(_) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Space;
    use crate::trial::{Observation, TrialPhase};

    /// Fails when a config of which only a bound is known is said to be measured 0 times, with a rate that nobody saw.
    #[test]
    fn a_config_that_is_known_by_its_bounds_says_so() {
        let history = vec![Observation {
            config: crate::space::Config::default(),
            seen: Seen::AtLeast(250.0),
            phase: TrialPhase::Search,
            prior: false,
        }];
        let found = crate::optimizer::recommend(&Space::default(), &history, None).unwrap();
        assert_eq!(
            (found.fastest.measured, found.fastest.at_least_rps.map(f64::round)),
            (0, Some(250.0))
        );
        let text = known(&found.fastest);
        assert!(
            text.starts_with("at least 250.0 rps (no more") && !text.contains("measured 0"),
            "{text}"
        );
    }
}
