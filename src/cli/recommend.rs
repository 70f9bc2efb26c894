//! `autotune recommend`: what a study would recommend now, and why.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::load::print;
use crate::exit::{self, ExitError};
use crate::optimizer::{Candidate, Recommendation};
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
}

/// Prints the recommendation; changes nothing.
pub(super) async fn run(args: &RecommendArgs, global: &Global) -> anyhow::Result<u8> {
    let store = Sqlite::open_read_only(&args.study)
        .await
        .map_err(ExitError::from)?;
    let standing = Standing::read(&store).await;
    store.close().await;
    let standing = standing?;
    let is_known = standing.config(args.fastest).is_some();
    print(&if global.json {
        document(&standing, args.fastest).to_string()
    } else {
        words(&standing, args.fastest).trim_end().to_owned()
    })?;
    Ok(if is_known { exit::OK } else { exit::NO_GAIN })
}

const NOTHING: &str = "nothing that works has been measured yet: today's configuration stays";

/// Why it is recommended, in a sentence.
fn why(s: &Standing, fastest: bool) -> String {
    match (&s.decision, &s.search) {
        (Some(d), _) if !fastest => format!("measured again, in {} pairs: {}", d.pairs, d.words),
        (_, Some(r)) if fastest => format!("the fastest measured config, {:.1} rps", r.fastest.rps),
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

fn words(s: &Standing, fastest: bool) -> String {
    let Some(config) = s.config(fastest) else {
        return format!("{NOTHING}\n");
    };
    let mut text = format!("{config}\n  {}\n", why(s, fastest));
    let line = |name: &str, c: &Candidate| {
        let cost = c.cost.map_or(String::new(), |c| format!(", cost {c:.3}"));
        format!(
            "  {name:<9} {:.1} rps (90 % {:.1} to {:.1}){cost}, measured {}: {}\n",
            c.rps,
            c.interval_rps[0],
            c.interval_rps[1],
            if c.measured == 1 {
                "once".to_owned()
            } else {
                format!("{} times", c.measured)
            },
            c.config
        )
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
    if s.decision.is_none() {
        text += "  not confirmed: `autotune confirm` measures it again, against today's configuration\n";
    }
    text
}
