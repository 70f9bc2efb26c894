//! `autotune capacity`: the highest sustainable rate of what runs there now.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::agent::AgentFlags;
use super::load::{coded, duration, header, print, read_body, split_url};
use crate::capacity::{Capacity, CapacityVerdict, Plan, ProbePhase, ProbePlan};
use crate::exit::{self, ExitError};
use crate::load::Generator;
use crate::measurement::{Bin, Measurement};
use crate::probing::{Attendant, Drive, find_capacity};
use crate::slo::{Slo, Verdict};
use crate::spec::{Arrivals, LoadSpec, RequestSpec};
use crate::trial::Probe;
use crate::units::{Ratio, Rps};

/// The highest rate that a running service sustains, and how sure that is.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  autotune capacity --url http://127.0.0.1:8000/items\n  \
                  autotune capacity --url http://127.0.0.1:8000/items --p99 250ms --json\n  \
                  autotune capacity --url http://127.0.0.1:8000/items --errors-only   for comparison with other tools\n\n\
                  Sustainable: at most 5 % of the scheduled requests without a good answer, what is still waiting\n\
                  included, and a queue that does not grow. docs/capacity.md has the method.\n\n\
                  Exit codes: 0 a rate was found, 3 none is sustained, 69 the service does not answer as expected."
)]
pub struct CapacityArgs {
    /// URL to request; several take turns (replicas).
    #[arg(
        long,
        value_name = "URL",
        env = "AUTOTUNE_URL",
        value_delimiter = ',',
        required = true
    )]
    url: Vec<String>,
    /// Largest share of requests without a good answer.
    #[arg(long, value_name = "SHARE", env = "AUTOTUNE_ERRORS", default_value = "5%")]
    errors: Ratio,
    /// Largest 95th percentile of the latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_P95", value_parser = duration)]
    p95: Option<Duration>,
    /// Largest 99th percentile of the latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_P99", value_parser = duration)]
    p99: Option<Duration>,
    /// Largest mean latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_MEAN", value_parser = duration)]
    mean: Option<Duration>,
    /// Never offer more requests per second.
    #[arg(long, value_name = "R", env = "AUTOTUNE_MAX_RATE", default_value = "50000", value_parser = super::load::rate)]
    max_rate: Rps,
    /// A guess of the answer, requests per second: saves the first steps.
    #[arg(long, value_name = "R", env = "AUTOTUNE_START", value_parser = super::load::rate)]
    start: Option<Rps>,
    /// Length of the confirmation that counts.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_CONFIRM", default_value = "30s", value_parser = duration)]
    confirm: Duration,
    /// Width of the belief at which the search stops refining.
    #[arg(long, value_name = "SHARE", env = "AUTOTUNE_PRECISION", default_value = "3%")]
    precision: Ratio,
    /// Longest warm-up; it ends as soon as the latency settles.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_WARM_UP", default_value = "30s", value_parser = duration)]
    warm_up: Duration,
    /// Judge by error responses alone, as other tools do, and say what that hides.
    #[arg(long, env = "AUTOTUNE_ERRORS_ONLY")]
    errors_only: bool,
    /// HTTP method.
    #[arg(long, value_name = "M", env = "AUTOTUNE_METHOD", default_value = "GET")]
    method: String,
    /// Header 'Name: value'; may be repeated.
    #[arg(long, value_name = "K: V", env = "AUTOTUNE_HEADER", hide_env_values = true, value_parser = header)]
    header: Vec<(String, String)>,
    /// File with the request body.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_BODY")]
    body: Option<PathBuf>,
    /// Status that counts as good; any 2xx when none is given.
    #[arg(long, value_name = "STATUS", env = "AUTOTUNE_EXPECT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(100..=599))]
    expect: Vec<u16>,
    /// Longest wait for a complete answer, from the scheduled time.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Most connections.
    #[arg(long, value_name = "N", env = "AUTOTUNE_CONNECTIONS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// CPU to pin the generator's thread to.
    #[arg(long, value_name = "CPU", env = "AUTOTUNE_CPU")]
    cpu: Option<usize>,
    /// Seed of everything random.
    #[arg(long, value_name = "N", env = "AUTOTUNE_SEED", default_value_t = 1)]
    seed: u64,
    /// Host outside this machine and private networks that load may go to; may be repeated.
    #[arg(
        long,
        value_name = "HOST",
        env = "AUTOTUNE_ALLOW_REMOTE",
        value_delimiter = ','
    )]
    allow_remote: Vec<String>,
    #[command(flatten)]
    agents: AgentFlags,
}

/// Runs it: a line a probe to stderr, the answer to stdout.
///
/// # Errors
/// What keeps load from being sent at all, as an `ExitError` where it has an exit code of its own.
pub async fn run(args: &CapacityArgs, json: bool, quiet: bool) -> anyhow::Result<u8> {
    let (spec, bases) = args.spec()?;
    let generator = Generator::prepare(&spec, &bases, args.seed).map_err(|e| coded(&e))?;
    generator.reach().await.map_err(|e| coded(&e))?;
    let plan = args.plan();
    let began = Instant::now();
    let mut driver = Engine(generator);
    let mut watcher = Console {
        quiet,
        live: !quiet && std::io::stderr().is_terminal(),
        began,
        started_s: Vec::new(),
    };
    let search = find_capacity(&plan, Vec::new(), &mut driver, &mut watcher);
    let (found, probes) = tokio::select! {
        found = search => found.map_err(|e| ExitError::new(exit::UNAVAILABLE, e.to_string()))?,
        _ = tokio::signal::ctrl_c() => return Ok(130),
    };
    let seconds = began.elapsed().as_secs_f64();
    print(&if json {
        document(&found, &probes, &watcher.started_s, seconds)?
    } else {
        answer(&found, &probes, seconds)
    })?;
    Ok(code(&found, &probes))
}

/// A rate is a result; none after real load is "nothing feasible"; none before any load is a service that is not there.
fn code(found: &Capacity, probes: &[Probe]) -> u8 {
    let loaded = probes.iter().any(|p| p.phase != ProbePhase::Idle);
    match (found.sustainable_rps, loaded) {
        (Some(_), _) => exit::OK,
        (None, true) => exit::NO_GAIN,
        (None, false) => exit::UNAVAILABLE,
    }
}

impl CapacityArgs {
    fn plan(&self) -> Plan {
        let slo = Slo {
            errors: self.errors,
            p95: self.p95,
            p99: self.p99,
            mean: self.mean,
        };
        Plan {
            prior: self.start,
            precision: self.precision,
            confirm: self.confirm,
            warm_up: self.warm_up,
            errors_only: self.errors_only,
            ..Plan::new(slo, self.max_rate)
        }
    }

    fn spec(&self) -> anyhow::Result<(LoadSpec, Vec<String>)> {
        let split: Vec<(String, String)> = self.url.iter().map(|u| split_url(u)).collect();
        let path = split.first().map_or_else(|| "/".to_owned(), |s| s.1.clone());
        if split.iter().any(|s| s.1 != path) {
            let message = "several --url must have the same path: they are replicas of one service";
            return Err(ExitError::new(exit::USAGE, message).into());
        }
        let request = RequestSpec {
            weight: 1.0,
            method: self.method.to_ascii_uppercase(),
            path,
            headers: Vec::new(),
            body: self.body.as_deref().map(read_body).transpose()?,
            expect: self.expect.clone(),
            expect_body: None,
        };
        let spec = LoadSpec {
            timeout: self.timeout,
            connections: self.connections,
            arrivals: Arrivals::Uniform,
            headers: self.header.clone(),
            requests: vec![request],
            vars: BTreeMap::new(),
            cpu: self.cpu,
            keep_alive: true,
            allow_remote: self.allow_remote.clone(),
            agents: self.agents.spec()?,
        };
        Ok((spec, split.into_iter().map(|s| s.0).collect()))
    }
}

/// The load engine as the search sees it.
struct Engine(Generator);

impl Drive for Engine {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        self.0.drive(plan, watch).await.map_err(|e| e.to_string())
    }
}

/// Tells each probe; can deploy nothing.
struct Console {
    quiet: bool,
    /// On a terminal the probe under way has a line too, which its result then replaces.
    live: bool,
    began: Instant,
    /// When each probe began, seconds since the search did.
    started_s: Vec<f64>,
}

impl Attendant for Console {
    async fn before(&mut self, number: u32, plan: &ProbePlan) {
        self.started_s.push(self.began.elapsed().as_secs_f64());
        if self.live {
            let most = (plan.lead_in + plan.window).as_secs_f64();
            // Progress is a courtesy: where it cannot be written nothing is lost.
            drop(write!(
                std::io::stderr(),
                "{number:>3} {:<8} {:>9.1} rps, {most:.0} s at most ...",
                phase_name(plan.phase),
                plan.rate.get()
            ));
        }
    }

    async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String> {
        if !self.quiet {
            let clear = if self.live { "\r\x1b[K" } else { "" };
            drop(writeln!(std::io::stderr(), "{clear}{}", probe_line(probe)));
        }
        Ok(())
    }

    async fn restart(&mut self, _tripped_at: Rps) -> Result<bool, String> {
        Ok(false)
    }
}

fn phase_name(phase: ProbePhase) -> &'static str {
    match phase {
        ProbePhase::Idle => "idle",
        ProbePhase::WarmUp => "warm-up",
        ProbePhase::Growth => "growth",
        ProbePhase::Refine => "refine",
        ProbePhase::Confirm => "confirm",
        ProbePhase::Race => "race",
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Meets => "meets",
        Verdict::Violates => "violates",
        Verdict::Void => "void",
    }
}

fn probe_line(p: &Probe) -> String {
    let m = &p.measurement;
    format!(
        "{:>3} {:<8} {:>9.1} rps {:>5.1} s  goodput {:>9.1}  p50 {:>7.1} ms  in flight {:>5}  {:<8} {}",
        p.number,
        phase_name(p.phase),
        m.offered.get(),
        m.window_s,
        m.goodput_rps(),
        m.latency_ms.p50,
        m.in_flight_end,
        verdict_name(p.verdict),
        p.reason
    )
}

fn verdict_word(found: &Capacity) -> &'static str {
    match found.verdict {
        CapacityVerdict::Sustainable => "sustainable",
        CapacityVerdict::AtLeast => "at_least",
        CapacityVerdict::GeneratorLimited => "generator_limited",
        // Without an incumbent there is no race to lose.
        CapacityVerdict::AtMost | CapacityVerdict::None => "none",
    }
}

fn document(found: &Capacity, probes: &[Probe], started_s: &[f64], seconds: f64) -> anyhow::Result<String> {
    let rows: Vec<serde_json::Value> = probes
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let m = &p.measurement;
            let errors: BTreeMap<&str, u64> = m.errors.iter().map(|(c, n)| (c.name(), *n)).collect();
            json!({
                "probe": p.number,
                "phase": phase_name(p.phase),
                "started_s": started_s.get(i),
                "offered_rps": m.offered.get(),
                "achieved_rps": m.achieved_rps(),
                "goodput_rps": m.goodput_rps(),
                "scheduled": m.scheduled,
                "sent": m.sent,
                "good": m.good,
                "errors": errors,
                "error_ratio_upper": p.loss_upper,
                "in_flight_end": m.in_flight_end,
                "latency_ms": m.latency_ms,
                "send_lag_ms_p99": m.generator.send_lag_ms.p99,
                "drained_s": m.drained_s,
                "seconds": m.window_s,
                "verdict": verdict_name(p.verdict),
                "reason": p.reason,
            })
        })
        .collect();
    let value = json!({
        "verdict": verdict_word(found),
        "sustainable_rps": found.sustainable_rps,
        "goodput_rps": found.goodput_rps,
        "interval_rps": found.interval_rps,
        "error_ratio_upper": found.error_ratio_upper,
        "probes": rows,
        "peak_offered_rps": found.peak_offered_rps,
        "seconds": seconds,
        "reasons": found.reasons,
    });
    serde_json::to_string(&value).context("cannot print the result")
}

fn answer(found: &Capacity, probes: &[Probe], seconds: f64) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let [lo, hi] = found.interval_rps;
    match (found.verdict, found.sustainable_rps) {
        (CapacityVerdict::Sustainable, Some(rate)) => {
            line(format!(
                "sustainable: {rate:.1} rps  (90 % interval of the capacity {lo:.1} to {hi:.1})"
            ));
        }
        (_, Some(rate)) => line(format!("at least {rate:.1} rps")),
        (_, None) => line("no rate was found to be sustainable".to_owned()),
    }
    if found.sustainable_rps.is_some() {
        line(format!(
            "goodput {:.1} rps, loss under {:.1} % with 95 % confidence",
            found.goodput_rps,
            found.error_ratio_upper * 100.0
        ));
    }
    for reason in &found.reasons {
        line(format!("note: {reason}"));
    }
    line(format!(
        "{} probes in {seconds:.0} s, the highest at {:.1} rps",
        probes.len(),
        found.peak_offered_rps
    ));
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        capacity: CapacityArgs,
    }

    fn parse(args: &[&str]) -> Result<CapacityArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"capacity").chain(args)).map(|l| l.capacity)
    }

    #[test]
    fn the_documented_flags_make_the_plan() {
        let args = parse(&[
            "--url",
            "http://127.0.0.1:1/x",
            "--errors",
            "1%",
            "--p99",
            "250ms",
            "--max-rate",
            "900",
            "--confirm",
            "6s",
        ])
        .unwrap();
        let plan = args.plan();
        assert_eq!(plan.slo.p99, Some(Duration::from_millis(250)));
        assert!((plan.slo.errors.get() - 0.01).abs() < 1e-12);
        assert_eq!(
            (plan.max.get() as u32, plan.confirm),
            (900, Duration::from_secs(6))
        );
        assert!(parse(&[]).is_err());
        assert!(parse(&["--url", "http://127.0.0.1", "--max-rate", "0"]).is_err());
    }

    /// The names that interface.md fixes.
    #[test]
    fn the_json_has_the_documented_keys() {
        let found = crate::capacity::conclude(&Plan::new(Slo::default(), Rps::saturating(10.0)), &[], None);
        let value: serde_json::Value =
            serde_json::from_str(&document(&found, &[], &[], 1.0).unwrap()).unwrap();
        for key in [
            "verdict",
            "sustainable_rps",
            "goodput_rps",
            "interval_rps",
            "error_ratio_upper",
            "probes",
            "peak_offered_rps",
            "seconds",
            "reasons",
        ] {
            assert!(value.get(key).is_some(), "{key} is missing");
        }
        assert_eq!(value["verdict"], "none");
        assert_eq!(code(&found, &[]), exit::UNAVAILABLE);
    }
}
