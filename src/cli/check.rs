//! `autotune check`: what a study would do, how much of its space is legal, and how long it will take.
//!
//! The plan is a pure function of the spec; what preflight found is added by the caller. Nothing is parked or changed.
//! Where the service runs already, every request of the mix is sent to it a few times, about one a second: what does
//! not work without load is said here, before the night.

mod what_runs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::Global;
use crate::exit::{self, ExitError};
use crate::space::{Binding, Limit, Parameter, legal_share};
use crate::spec::{DockerRef, Objective, StudySpec, SutKind};
use crate::study::standing::{self, Earlier};
use crate::sut::{self, Sut, SutFacts};
use crate::units::show_duration;
pub use what_runs::Sampled;
use what_runs::{look_beside, sample_what_runs};

/// Flags of `check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  autotune check --space experiments/pool.toml")]
pub struct CheckArgs {
    /// The space file.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: PathBuf,
    /// Folder of results.
    #[arg(long, value_name = "DIR", env = "AUTOTUNE_RESULTS")]
    results: Option<PathBuf>,
}

/// The command: reads the file, looks at the service, prints; changes nothing.
pub(super) async fn run(args: &CheckArgs, global: &Global) -> anyhow::Result<u8> {
    let spec = super::run::load(&args.space)?;
    let folder = args
        .results
        .clone()
        .unwrap_or_else(|| spec.results.clone())
        .join(&spec.name);
    Box::pin(check(spec, &folder, false, global)).await
}

/// What a run of `spec` into `folder` would find and do; `fresh` says that what is there would be moved away.
pub(super) async fn check(
    mut spec: StudySpec,
    folder: &Path,
    fresh: bool,
    global: &Global,
) -> anyhow::Result<u8> {
    crate::lock::would_write(folder).map_err(ExitError::from)?;
    let mut facts = match &spec.sut {
        Some(s) => {
            let mut sut = sut::open(s, "check", folder).map_err(ExitError::from)?;
            Some(
                sut.preflight(&spec.space.parameters)
                    .await
                    .map_err(ExitError::from)?,
            )
        }
        None => None,
    };
    if let Some(f) = &mut facts {
        standing::adopt_today(&mut spec, f)?;
    }
    let service = facts.as_ref().map(|f| f.addresses.clone()).unwrap_or_default();
    if let Some(words) = crate::study::instances::limit(&mut spec, &service).await? {
        facts.get_or_insert_default().lines.push(words);
    }
    if let Some(f) = &mut facts {
        f.warnings
            .extend(crate::study::instances::overcommitted(&spec.space, f));
    }
    let earlier = match &facts {
        Some(f) if !fresh => standing::earlier(&spec, &f.identity, folder).await?,
        _ => None,
    };
    let sampled = match &facts {
        Some(f) => Some(sample_what_runs(&spec, &f.secrets).await?),
        None => None,
    };
    let mut never_ready = false;
    if let Some(f) = &mut facts {
        f.lines
            .extend(earlier.iter().filter_map(|e| earlier_words(e, folder)));
        if !matches!(sampled, Some(Sampled::Silent(_))) {
            never_ready = !look_beside(&spec, f).await;
        }
    }
    let plan = plan(&spec);
    let refused = match &earlier {
        Some(Earlier::Refused(e)) => Some(e),
        _ => None,
    };
    show(
        &plan,
        facts.as_ref(),
        sampled.as_ref(),
        refused.map(|e| e.message.as_str()),
        global.json,
        &mut std::io::stdout().lock(),
    )?;
    Ok(match sampled {
        _ if refused.is_some() => refused.map_or(exit::DATA, |e| e.code),
        Some(Sampled::Judged(smoke)) if !smoke.may_start() => smoke.exit_code(),
        Some(Sampled::Silent(_)) => exit::UNAVAILABLE,
        _ if never_ready => exit::UNAVAILABLE,
        _ if plan.trials == Some(0) && spec.sut.is_some() => exit::DATA,
        _ => exit::OK,
    })
}

/// What the run makes of what is in its folder already; a refusal is said at the end, with its exit code.
fn earlier_words(earlier: &Earlier, folder: &Path) -> Option<String> {
    let folder = folder.display();
    match earlier {
        Earlier::GoesOn(0) | Earlier::Refused(_) => None,
        Earlier::GoesOn(n) => Some(format!(
            "{folder} holds this study with {n} trials: a run goes on after them"
        )),
        Earlier::Anew(changed) => Some(format!(
            "{folder} holds an earlier study in which nothing was measured, and {} changed since: a run begins anew and keeps \
             that one beside it",
            changed.join(", ")
        )),
    }
}

/// A parameter in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedParameter {
    /// Name.
    pub name: String,
    /// "1 to 80".
    pub range: String,
    /// What it sets: "POOL_SIZE", "memory limit (MiB)".
    pub sets: String,
    /// Today's value; None: read from the service.
    pub baseline: Option<String>,
}

/// What a study would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Its name.
    pub study: String,
    /// What is deployed, in words.
    pub sut: Option<String>,
    /// What is searched.
    pub parameters: Vec<PlannedParameter>,
    /// All configs; None where a parameter is continuous.
    pub configs: Option<u64>,
    /// Legal configs: counted, or estimated.
    pub legal: Option<u64>,
    /// Legal share, and its 95 % interval.
    pub legal_share: f64,
    /// 95 % interval of the legal share.
    pub legal_share_interval: [f64; 2],
    /// Whether the legal configs were counted one by one.
    pub counted: bool,
    /// What is wanted, in words.
    pub objective: String,
    /// Typical length of a trial, seconds.
    pub trial_s: f64,
    /// Kept for the finals, seconds.
    pub finals_s: f64,
    /// Trials that fit.
    pub trials: Option<u64>,
    /// Restarts of the service that this takes, finals and giving back included.
    pub restarts: Option<u64>,
    /// Longest run time, seconds: the budget, or what the trials take.
    pub seconds: Option<f64>,
    /// What is odd but no mistake.
    pub warnings: Vec<String>,
    /// Hash of everything that makes trials comparable.
    pub hash: String,
}

/// Configs in a round of the finals: the best three and the baseline.
const FINALISTS: f64 = 4.0;
/// A capacity search besides its confirmation, seconds: simulated 22 to 33 with 30 s confirmations (growth, refinement
/// and drains; docs: how it measures).
const SEARCH_S: f64 = 27.0;

/// Plans `spec`, whose seed serves the estimate of the legal share.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub fn plan(spec: &StudySpec) -> Plan {
    let share = legal_share(&spec.space, spec.seed);
    let confirm = spec.capacity.confirm.as_secs_f64();
    let deploy = deploy_s(spec);
    let trial_s =
        deploy + spec.capacity.warm_up.as_secs_f64().min(10.0) + SEARCH_S.min(3.0 * confirm) + confirm;
    let round = FINALISTS * (deploy + 5.0 + confirm);
    let finals_s = finals_s(spec, round);
    let fit = spec
        .budget
        .map(|b| ((b.as_secs_f64() - finals_s) / trial_s).max(0.0) as u64);
    let trials = [
        fit,
        spec.trials.map(u64::from),
        share.legal.filter(|_| share.exact),
    ]
    .into_iter()
    .flatten()
    .min();
    let needed = trials.map(|n| n as f64 * trial_s + finals_s);
    let seconds = match (spec.budget.map(|b| b.as_secs_f64()), needed) {
        (Some(b), Some(n)) => Some(b.min(n.max(trial_s))),
        (b, n) => b.or(n),
    };
    let mut warnings = spec.warnings.clone();
    if spec.sut.is_some() {
        warnings.extend(few_trials(fit, trial_s, finals_s));
    }
    Plan {
        study: spec.name.clone(),
        sut: spec
            .sut
            .as_ref()
            .map(|s| format!("{} at {}", kind(&s.kind), s.url)),
        parameters: spec.space.parameters.iter().map(|p| planned(p, spec)).collect(),
        configs: share.total,
        legal: share.legal,
        legal_share: share.share,
        legal_share_interval: share.interval,
        counted: share.exact,
        objective: match (&spec.objective, &spec.space.cost) {
            (Objective::CostAt(rate), _) => format!("the cheapest config that carries {rate}"),
            (Objective::SustainableRps, Some(cost)) => {
                format!(
                    "the highest sustainable rate; within its noise the lowest {}",
                    cost.text()
                )
            }
            (Objective::SustainableRps, None) => "the highest sustainable rate".into(),
        },
        trial_s,
        finals_s,
        trials,
        restarts: trials.map(|n| n + u64::from(spec.confirm.pairs) * FINALISTS as u64 + 1),
        seconds,
        warnings,
        hash: spec.hash.clone(),
    }
}

/// Kept for the finals, seconds, by the agenda's own rule: a share of the budget at most.
fn finals_s(spec: &StudySpec, round: f64) -> f64 {
    let all = f64::from(spec.confirm.pairs) * round;
    let most = spec
        .budget
        .map_or(f64::INFINITY, |b| b.as_secs_f64() * crate::agenda::FINALS_SHARE);
    spec.confirm
        .reserve
        .map_or(all.min(most), |reserve| reserve.as_secs_f64())
}

/// A budget that holds hardly anything, in words.
fn few_trials(fit: Option<u64>, trial_s: f64, finals_s: f64) -> Option<String> {
    let how_many = match fit? {
        0 => "no trial fits".to_owned(),
        1 => "about one trial fits".to_owned(),
        n @ 2..5 => format!("about {n} trials fit"),
        _ => return None,
    };
    Some(format!(
        "{how_many} into the budget: a trial takes about {}, the finals {}; raise [study] budget",
        show_duration(Duration::from_secs_f64(trial_s)),
        show_duration(Duration::from_secs_f64(finals_s)),
    ))
}

/// Stopping, starting and getting ready, seconds: about 3 for a container (stop 1, start 0.4, ready 1 to 3.7).
fn deploy_s(spec: &StudySpec) -> f64 {
    match spec.sut.as_ref().map(|s| &s.kind) {
        Some(SutKind::Docker(_)) => 3.0,
        // Two to five tasks take 3 to 9 s.
        Some(SutKind::Swarm(_)) => 6.0,
        Some(SutKind::Command { .. }) => 10.0,
        Some(SutKind::Process { .. } | SutKind::Demo) => 1.0,
        Some(SutKind::Simulated { .. }) | None => 0.0,
    }
}

fn kind(kind: &SutKind) -> String {
    match kind {
        SutKind::Docker(DockerRef::Service { service, project }) => {
            let of = project
                .as_ref()
                .map_or(String::new(), |p| format!(" of project {p}"));
            format!("compose service {service}{of}")
        }
        SutKind::Docker(DockerRef::Container(name)) => format!("container {name}"),
        SutKind::Swarm(target) => format!("swarm service {}", target.service),
        SutKind::Process { command } => format!("process {}", command.first().map_or("", String::as_str)),
        SutKind::Command { deploy, .. } => format!("command {}", deploy.first().map_or("", String::as_str)),
        SutKind::Simulated { model } => format!("simulated service {model}"),
        SutKind::Demo => "the built-in demo API".into(),
    }
}

fn planned(p: &Parameter, spec: &StudySpec) -> PlannedParameter {
    let sets = match &p.binding {
        Binding::Env(name) => name.clone(),
        Binding::Limit(Limit::Cpus) => "CPU limit (cores)".into(),
        Binding::Limit(Limit::Memory) => "memory limit (MiB)".into(),
        Binding::Limit(Limit::CpuReservation) => "CPU reservation (cores)".into(),
        Binding::Limit(Limit::MemoryReservation) => "memory reservation (MiB)".into(),
        Binding::Replicas => "instances".into(),
        Binding::Unbound => "nothing here".into(),
    };
    let unknown = spec.baseline_unknown.contains(&p.name);
    PlannedParameter {
        name: p.name.clone(),
        range: p.domain.to_string(),
        sets,
        baseline: (!unknown).then(|| p.baseline.to_string()),
    }
}

/// Writes the plan, what preflight found, what the requests answered and why a run would be refused: lines for people, or one JSON document.
pub fn show(
    plan: &Plan,
    facts: Option<&SutFacts>,
    sampled: Option<&Sampled>,
    refused: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if json {
        let found =
            facts.map(|f| serde_json::json!({ "found": f.lines, "warnings": f.warnings, "today": f.today }));
        let smoke = sampled.map(|s| match s {
            Sampled::Judged(smoke) => smoke.json(),
            Sampled::Not(why) | Sampled::Silent(why) => serde_json::json!({ "not_sampled": why }),
        });
        let document =
            serde_json::json!({ "plan": plan, "preflight": found, "smoke": smoke, "refused": refused });
        return writeln!(out, "{document:#}");
    }
    for line in lines(plan) {
        writeln!(out, "{line}")?;
    }
    for line in facts.into_iter().flat_map(|f| &f.lines) {
        writeln!(out, "{line}")?;
    }
    match sampled {
        Some(Sampled::Judged(smoke)) => {
            let n: usize = smoke.lines.iter().map(|l| l.samples).sum();
            writeln!(
                out,
                "sent {n} requests of the mix to what runs there now, about one a second; nothing was parked:"
            )?;
            write!(out, "{}", smoke.table())?;
            writeln!(out, "{}", smoke.sentence)?;
        }
        Some(Sampled::Not(why) | Sampled::Silent(why)) => {
            writeln!(out, "the requests of the mix were not tried: {why}")?;
        }
        None => {}
    }
    for warning in plan
        .warnings
        .iter()
        .chain(facts.into_iter().flat_map(|f| &f.warnings))
    {
        writeln!(out, "warning: {warning}")?;
    }
    if let Some(why) = refused {
        writeln!(out, "a run would be refused: {why}")?;
    }
    Ok(())
}

fn lines(plan: &Plan) -> Vec<String> {
    let time = |s: f64| show_duration(Duration::from_secs_f64(s.clamp(0.0, 1e9)));
    let mut out = vec![format!("study {}: {}", plan.study, plan.objective)];
    out.extend(plan.sut.iter().map(|s| format!("deploys {s}")));
    let width = plan.parameters.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for p in &plan.parameters {
        let today = p.baseline.as_deref().unwrap_or("read from the service");
        out.push(format!(
            "  {:width$}  {} -> {}, today {today}",
            p.name, p.range, p.sets
        ));
    }
    let percent = plan.legal_share * 100.0;
    out.push(match (plan.counted, plan.legal, plan.configs) {
        (true, Some(legal), Some(all)) => format!("{legal} of {all} configs are legal ({percent:.1} %)"),
        (_, Some(legal), Some(all)) => {
            let [lo, hi] = plan.legal_share_interval.map(|x| x * 100.0);
            format!("about {legal} of {all} configs are legal ({percent:.1} %, 95 % interval {lo:.1} to {hi:.1} %)")
        }
        _ => format!("about {percent:.1} % of the space is legal"),
    });
    if plan.sut.is_none() {
        out.push(
            "no [sut]: for ask and tell; how long a trial takes is up to the tools that deploy and measure"
                .to_owned(),
        );
        return out;
    }
    let trials = plan
        .trials
        .map_or(String::new(), |n| format!("about {n} trials of "));
    let end = plan
        .seconds
        .map_or(String::new(), |s| format!("; {} at most in all", time(s)));
    let restarts = plan
        .restarts
        .map_or(String::new(), |n| format!("; about {n} restarts of the service"));
    out.push(format!(
        "{trials}{} each, finals {}{end}{restarts}",
        time(plan.trial_s),
        time(plan.finals_s)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> StudySpec {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.toml"));
        crate::spec::load(&path, &|_| None).unwrap()
    }

    fn shown(name: &str) -> String {
        let mut out = Vec::new();
        show(&plan(&spec(name)), None, None, None, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Fails when smoke.toml no longer fits into its four minutes.
    #[test]
    fn smoke_fits_its_budget() {
        let p = plan(&spec("smoke"));
        assert_eq!(p.trials, Some(4), "{p:?}");
        assert!(p.seconds.unwrap() <= 240.0, "{p:?}");
        assert!(p.warnings.is_empty(), "{:?}", p.warnings);
        // 64 pool sizes x 65 overflows x 6 numbers of workers x 7 CPU limits: too many to be counted one by one.
        assert_eq!((p.configs, p.counted), (Some(174_720), false));
    }

    /// Fails when the legal configs of a small grid are estimated, or counted wrongly.
    #[test]
    fn a_small_grid_is_counted() {
        let mut spec = spec("smoke");
        spec.space.parameters.truncate(2);
        let names = crate::space::Space::names(&spec.space.parameters);
        let that = crate::expr::Expr::compile("pool_size + max_overflow <= 45", &names).unwrap();
        spec.space.constraints.truncate(1);
        spec.space.constraints[0].that = that;
        let p = plan(&spec);
        // Of 64 pool sizes x 65 overflows the pairs up to 45: 45 + 44 + ... + 1.
        assert_eq!((p.configs, p.legal, p.counted), (Some(4_160), Some(1_035), true));
    }

    #[test]
    fn a_night_has_hundreds_of_trials() {
        let p = plan(&spec("pool"));
        assert!(p.trials.is_some_and(|n| (200..600).contains(&n)), "{p:?}");
        // Pool and overflow with a sum of at most 90: evenly over the grid, not over the log scale.
        let pairs = 80.0 * 81.0;
        let legal = (1..=80)
            .map(|pool| f64::from((90 - pool).min(80) + 1))
            .sum::<f64>()
            / pairs;
        assert!(!p.counted, "{p:?}");
        assert!(
            p.legal_share_interval[0] <= legal && legal <= p.legal_share_interval[1],
            "{legal} {p:?}"
        );
        let text = shown("pool");
        assert!(text.contains("POOL_SIZE, today read from the service"), "{text}");
    }

    #[test]
    fn a_budget_that_is_too_short_is_said() {
        let mut s = spec("pool");
        s.budget = Some(Duration::from_secs(300));
        assert!(plan(&s).warnings.iter().any(|w| w.contains("into the budget")));
        s.budget = Some(Duration::from_secs(10));
        let p = plan(&s);
        assert_eq!(p.trials, Some(0));
        assert!(p.warnings.iter().any(|w| w.contains("no trial fits")), "{p:?}");
    }

    /// Fails when `check` promises times and restarts for what others deploy.
    #[test]
    fn a_file_for_ask_and_tell_is_promised_nothing() {
        let mut s = spec("pool");
        s.sut = None;
        s.budget = Some(Duration::from_secs(10));
        let p = plan(&s);
        assert!(!p.warnings.iter().any(|w| w.contains("into the budget")), "{p:?}");
        let text = lines(&p).join("\n");
        assert!(
            text.contains("for ask and tell") && !text.contains("restarts"),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_document() {
        let mut out = Vec::new();
        show(
            &plan(&spec("quickstart")),
            Some(&SutFacts::default()),
            Some(&Sampled::Not("it is a test".into())),
            None,
            true,
            &mut out,
        )
        .unwrap();
        let v: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(v["plan"]["study"], "demo");
        assert!(v["preflight"]["found"].is_array());
        assert_eq!(v["smoke"]["not_sampled"], "it is a test");
    }
}
