//! `autotune ladder`: fixed steps of load, as a hand-made load test has them, on what runs there now.
//!
//! So that such a test can be repeated and laid beside the search's answer. Steps are judged like the search's short
//! probes; a fixed ladder neither refines nor confirms, and closed-loop users say nothing about a rate.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::load::{coded, duration, header, print, rate, read_body, split_url};
use crate::capacity::{Plan, ProbePhase, ProbePlan, judge};
use crate::exit::{self, ExitError};
use crate::load::{Generator, MOST_USERS, UsersPlan};
use crate::measurement::{Measurement, Quantiles};
use crate::slo::{Slo, Verdict};
use crate::spec::{Arrivals, LoadSpec, RequestSpec};
use crate::units::{Ratio, Rps, parse_duration, show_duration};

/// The steps of the test that this command repeats by default.
const RATES: [f64; 5] = [60.0, 90.0, 150.0, 240.0, 360.0];
const USERS: [u32; 3] = [50, 100, 200];
/// Most steps of one ladder.
const MOST_STEPS: usize = 100;
/// Error shares of different rates that differ by less than this, relative to the largest, are the same.
const SAME_SHARE: f64 = 0.15;
/// An error share that is worth a remark.
const MANY_ERRORS: f64 = 0.05;

/// Fixed steps of load on a running service: rates of an open loop, then closed-loop users.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  autotune ladder --url http://127.0.0.1:18000/items\n  \
                  autotune ladder --space experiments/report_plan.toml --step 66s\n  \
                  autotune ladder --url http://127.0.0.1:18000/items --rates 60,90,150 --json\n  \
                  autotune ladder --url http://127.0.0.1:18000/items --users 50,100,200 --think 500ms\n\n\
                  Without --rates and --users both are climbed: 60, 90, 150, 240, 360 rps and 50, 100, 200 users.\n\
                  A step is short and is not confirmed: `autotune capacity` finds the rate that is sustained."
)]
pub struct LadderArgs {
    /// URL to request; several take turns (replicas).
    #[arg(
        long,
        value_name = "URL",
        env = "AUTOTUNE_URL",
        value_delimiter = ',',
        required_unless_present = "space",
        conflicts_with = "space"
    )]
    url: Vec<String>,
    /// Take the requests of this space file's [load], the address of its [sut] and the limits of its [slo].
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: Option<PathBuf>,
    /// Rates of the open loop, requests per second.
    #[arg(long, value_name = "R,R", env = "AUTOTUNE_RATES", value_delimiter = ',', value_parser = rate)]
    rates: Vec<Rps>,
    /// Closed-loop users.
    #[arg(long, value_name = "N,N", env = "AUTOTUNE_USERS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_USERS)))]
    users: Vec<u32>,
    /// Length of a step.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_STEP", default_value = "20s", value_parser = duration)]
    step: Duration,
    /// Before each step at its load, not counted.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_LEAD_IN", default_value = "2s", value_parser = parse_duration)]
    lead_in: Duration,
    /// Pause of a user after each answer.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_THINK", default_value = "1s", value_parser = parse_duration)]
    think: Duration,
    /// Pause between steps, for the service to recover.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_REST", default_value = "2s", value_parser = parse_duration)]
    rest: Duration,
    /// Largest share of requests without a good answer; 5% where no space file says it.
    #[arg(long, value_name = "SHARE", env = "AUTOTUNE_ERRORS")]
    errors: Option<Ratio>,
    /// Largest 95th percentile of the latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_P95", value_parser = duration)]
    p95: Option<Duration>,
    /// Largest 99th percentile of the latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_P99", value_parser = duration)]
    p99: Option<Duration>,
    /// Largest mean latency.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_MEAN", value_parser = duration)]
    mean: Option<Duration>,
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
    /// Longest wait for a complete answer.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Most connections of the open loop.
    #[arg(long, value_name = "N", env = "AUTOTUNE_CONNECTIONS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Seed of everything random: the same seed sends the same requests.
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
}

/// A step as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Rate(Rps),
    Users(u32),
}

/// A step and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    /// "rate" or "users".
    kind: &'static str,
    /// Requests per second that were asked for; None for users.
    asked_rps: Option<f64>,
    users: Option<u32>,
    sent_rps: f64,
    goodput_rps: f64,
    scheduled: u64,
    sent: u64,
    good: u64,
    /// What was not good by the end of the step, over what was to be sent.
    error_ratio: f64,
    errors: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<u16, u64>,
    in_flight_end: u64,
    latency_ms: Quantiles,
    /// meets, violates, void; None for users, whose rate is no promise.
    verdict: Option<&'static str>,
    reason: String,
    seconds: f64,
}

/// Climbs the ladder: a line a step to stderr, the table or the JSON to stdout.
///
/// # Errors
/// What keeps load from being sent at all, as an `ExitError` where it has an exit code of its own.
pub async fn run(args: &LadderArgs, json: bool, quiet: bool) -> anyhow::Result<u8> {
    let (spec, bases, slo) = args.load()?;
    let steps = args.steps()?;
    let generator = Generator::prepare(&spec, &bases, args.seed).map_err(|e| coded(&e))?;
    generator.reach().await.map_err(|e| coded(&e))?;
    let climb = async {
        let mut rows = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            if i > 0 {
                tokio::time::sleep(args.rest).await;
            }
            let row = args.measure(&generator, *step, &slo, &spec).await?;
            if !quiet {
                // Progress is a courtesy: where it cannot be written nothing is lost.
                drop(writeln!(std::io::stderr(), "{}", line(&row)));
            }
            rows.push(row);
        }
        anyhow::Ok(rows)
    };
    let rows = tokio::select! {
        rows = climb => rows?,
        _ = tokio::signal::ctrl_c() => return Ok(130),
    };
    print(&if json { document(&rows)? } else { table(&rows) })?;
    Ok(exit::OK)
}

impl LadderArgs {
    fn slo(&self, from_file: Option<&Slo>) -> Slo {
        let base = from_file.cloned().unwrap_or_default();
        Slo {
            errors: self.errors.unwrap_or(base.errors),
            p95: self.p95.or(base.p95),
            p99: self.p99.or(base.p99),
            mean: self.mean.or(base.mean),
        }
    }

    /// What is sent, where, and what must hold.
    fn load(&self) -> anyhow::Result<(LoadSpec, Vec<String>, Slo)> {
        if let Some(path) = &self.space {
            let spec = super::run::load(path)?;
            let slo = self.slo(Some(&spec.slo));
            let (Some(load), Some(sut)) = (spec.load, spec.sut) else {
                let what = format!("{} has no [load] or no [sut]: give --url", path.display());
                return Err(ExitError::new(exit::DATA, what).into());
            };
            if sut.url.ends_with(":0") {
                let what = format!(
                    "{}: url has no fixed port: nothing runs there now; give --url",
                    path.display()
                );
                return Err(ExitError::new(exit::DATA, what).into());
            }
            return Ok((load, vec![sut.url], slo));
        }
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
            cpu: None,
            keep_alive: true,
            allow_remote: self.allow_remote.clone(),
            agents: crate::spec::AgentsSpec::default(),
        };
        Ok((spec, split.into_iter().map(|s| s.0).collect(), self.slo(None)))
    }

    fn steps(&self) -> anyhow::Result<Vec<Step>> {
        let (rates, users) = match (self.rates.is_empty(), self.users.is_empty()) {
            (true, true) => (RATES.map(Rps::saturating).to_vec(), USERS.to_vec()),
            _ => (self.rates.clone(), self.users.clone()),
        };
        let steps: Vec<Step> = rates
            .into_iter()
            .map(Step::Rate)
            .chain(users.into_iter().map(Step::Users))
            .collect();
        if steps.len() > MOST_STEPS {
            let message = format!("a ladder has {MOST_STEPS} steps at most");
            return Err(ExitError::new(exit::USAGE, message).into());
        }
        Ok(steps)
    }

    async fn measure(
        &self,
        generator: &Generator,
        step: Step,
        slo: &Slo,
        spec: &LoadSpec,
    ) -> anyhow::Result<Row> {
        match step {
            Step::Rate(rate) => {
                let mut probe = ProbePlan::new(ProbePhase::Growth, rate, self.step);
                probe.lead_in = self.lead_in;
                probe.drain = spec.timeout + Duration::from_secs(1);
                let mut watch = |_: &crate::measurement::Bin| ControlFlow::Continue(());
                let m = generator.drive(&probe, &mut watch).await.map_err(|e| coded(&e))?;
                let judged = judge(&Plan::new(slo.clone(), rate), &probe, &m);
                let mut row = row("rate", &m);
                row.asked_rps = Some(rate.get());
                row.verdict = Some(match judged.verdict {
                    Verdict::Meets => "meets",
                    Verdict::Violates => "violates",
                    Verdict::Void => "void",
                });
                row.reason = judged.reason;
                Ok(row)
            }
            Step::Users(users) => {
                let plan = UsersPlan {
                    users,
                    lead_in: self.lead_in,
                    window: self.step,
                    think: self.think,
                };
                let m = generator.users(plan).await.map_err(|e| coded(&e))?;
                let mut row = row("users", &m);
                row.users = Some(users);
                row.reason = match self.think {
                    Duration::ZERO => String::new(),
                    t => format!(
                        "with {} between requests they send {:.0} rps at most",
                        show_duration(t),
                        f64::from(users) / t.as_secs_f64()
                    ),
                };
                Ok(row)
            }
        }
    }
}

fn row(kind: &'static str, m: &Measurement) -> Row {
    Row {
        kind,
        asked_rps: None,
        users: None,
        sent_rps: m.achieved_rps(),
        goodput_rps: m.goodput_rps(),
        scheduled: m.scheduled,
        sent: m.sent,
        good: m.good,
        error_ratio: m.loss(),
        errors: m.errors.iter().map(|(c, n)| (c.name(), *n)).collect(),
        statuses: m.statuses.clone(),
        in_flight_end: m.in_flight_end,
        latency_ms: m.latency_ms,
        verdict: None,
        reason: String::new(),
        seconds: m.window_s,
    }
}

fn asked(r: &Row) -> String {
    match (r.asked_rps, r.users) {
        (Some(rps), _) => format!("{rps} rps"),
        (None, users) => format!("{} users", users.unwrap_or(0)),
    }
}

fn line(r: &Row) -> String {
    let l = r.latency_ms;
    format!(
        "{:>10} {:>9.1} {:>9.1} {:>8.2} {:>9.1} {:>9.1} {:>9.1} {:>9.1}  {:<9}{}",
        asked(r),
        r.sent_rps,
        r.goodput_rps,
        r.error_ratio * 100.0,
        l.mean,
        l.p50,
        l.p95,
        l.p99,
        r.verdict.unwrap_or("-"),
        r.reason
    )
}

fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:>10} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}  {}\n",
        "asked", "sent/s", "good/s", "bad %", "mean ms", "p50", "p95", "p99", "step"
    );
    for r in rows {
        let _ = writeln!(out, "{}", line(r));
    }
    for remark in remarks(rows) {
        let _ = writeln!(out, "note: {remark}");
    }
    out.truncate(out.trim_end().len());
    out
}

/// The highest rate of the ladder below its first failure, and that first failure.
fn carried(rows: &[Row]) -> (Option<f64>, Option<f64>) {
    let mut judged: Vec<&Row> = rows
        .iter()
        .filter(|r| r.verdict.is_some_and(|v| v != "void"))
        .collect();
    judged.sort_by(|a, b| a.asked_rps.unwrap_or(0.0).total_cmp(&b.asked_rps.unwrap_or(0.0)));
    let failed = judged.iter().position(|r| r.verdict == Some("violates"));
    let below = judged.get(..failed.unwrap_or(judged.len())).unwrap_or_default();
    (
        below.last().and_then(|r| r.asked_rps),
        failed.and_then(|i| judged.get(i)?.asked_rps),
    )
}

/// What a reader of such a table must not overlook.
fn remarks(rows: &[Row]) -> Vec<String> {
    let mut out = Vec::new();
    let (highest, failed) = carried(rows);
    match (highest, failed) {
        (Some(a), Some(b)) => out.push(format!(
            "carried {a} rps, not {b}: the limit is in between; `autotune capacity` finds and confirms it"
        )),
        (Some(a), None) => out.push(format!(
            "carried every step up to {a} rps: the limit is not in this ladder"
        )),
        (None, Some(b)) => out.push(format!("not even {b} rps was carried")),
        (None, None) => {}
    }
    let void: Vec<String> = rows
        .iter()
        .filter(|r| r.verdict == Some("void"))
        .map(asked)
        .collect();
    if !void.is_empty() {
        out.push(format!(
            "at {} the generator was the limit: these steps say nothing about the service",
            void.join(", ")
        ));
    }
    out.extend(same_errors(rows));
    out.extend(users_wait(rows));
    out
}

/// Errors with the same share at every rate do not come from load.
fn same_errors(rows: &[Row]) -> Option<String> {
    let of = |r: &Row| (r.sent_rps, r.error_ratio);
    let all: Vec<(f64, f64)> = rows
        .iter()
        .filter(|r| r.verdict != Some("void") && r.sent > 0)
        .map(of)
        .collect();
    let ends = |v: &mut dyn Iterator<Item = f64>| {
        v.fold((f64::INFINITY, 0.0_f64), |(lo, hi), x| (lo.min(x), hi.max(x)))
    };
    let (slow, fast) = ends(&mut all.iter().map(|x| x.0));
    let (least, most) = ends(&mut all.iter().map(|x| x.1));
    let is_same =
        all.len() > 1 && fast >= 2.0 * slow && least > MANY_ERRORS && (most - least) / most < SAME_SHARE;
    is_same.then(|| {
        format!(
            "the share of errors is the same at {slow:.0} and at {fast:.0} rps ({:.1} to {:.1} %): these requests fail whatever \
             the load, for their path, token or body; no tuning mends that, and no capacity can be read from this table",
            least * 100.0,
            most * 100.0
        )
    })
}

/// Users that wait for answers hide an overload in the rate.
fn users_wait(rows: &[Row]) -> Option<String> {
    let users: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|r| Some((f64::from(r.users?), r.sent_rps)))
        .collect();
    let (first, last) = (users.first()?, users.last()?);
    let more = last.0 / first.0;
    let sent = last.1 / first.1.max(1e-9);
    (more > 1.2 && sent < 0.8 * more).then(|| {
        format!(
            "{:.0} users sent {sent:.1} times what {:.0} sent, {more:.1} times as many: they wait for answers, so their rate is what \
             the service lets through, not what was asked of it",
            last.0, first.0
        )
    })
}

fn document(rows: &[Row]) -> anyhow::Result<String> {
    let (highest, failed) = carried(rows);
    let value = serde_json::json!({
        "steps": rows, "carried_rps": highest, "failed_rps": failed, "remarks": remarks(rows),
    });
    serde_json::to_string(&value).context("cannot print the result")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ladder: LadderArgs,
    }

    fn parse(args: &[&str]) -> Result<LadderArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"ladder").chain(args)).map(|l| l.ladder)
    }

    fn step(asked: f64, sent: f64, errors: f64, verdict: &'static str) -> Row {
        let window = Duration::from_secs(10);
        let mut m = Measurement::empty(Rps::saturating(asked), window);
        m.scheduled = (asked * 10.0) as u64;
        m.sent = (sent * 10.0) as u64;
        m.good = (asked * 10.0 * (1.0 - errors)) as u64;
        let mut r = row("rate", &m);
        r.asked_rps = Some(asked);
        r.verdict = Some(verdict);
        r
    }

    #[test]
    fn the_default_is_the_ladder_of_the_report() {
        let url = ["--url", "http://127.0.0.1:1/x"];
        let all = parse(&url).unwrap().steps().unwrap();
        assert_eq!(all.len(), 8);
        assert_eq!(all[4], Step::Rate(Rps::saturating(360.0)));
        assert_eq!(all[7], Step::Users(200));
        let some = parse(&[url[0], url[1], "--rates", "10,20"])
            .unwrap()
            .steps()
            .unwrap();
        assert_eq!(some, [10.0, 20.0].map(|r| Step::Rate(Rps::saturating(r))));
        assert!(parse(&[]).is_err());
        assert!(parse(&[url[0], url[1], "--users", "0"]).is_err());
    }

    #[test]
    fn the_limit_lies_between_two_steps() {
        let rows = [
            step(60.0, 60.0, 0.0, "meets"),
            step(90.0, 90.0, 0.01, "meets"),
            step(150.0, 150.0, 0.4, "violates"),
            step(240.0, 80.0, 0.7, "void"),
        ];
        assert_eq!(carried(&rows), (Some(90.0), Some(150.0)));
        let said = remarks(&rows).join("\n");
        assert!(
            said.contains("carried 90 rps, not 150") && said.contains("240 rps the generator"),
            "{said}"
        );
        assert!(
            !said.contains("share of errors"),
            "errors that grow with load are a capacity: {said}"
        );
    }

    /// The table of the report that this command repeats: 72.9 % at 25 rps, 74.2 % at 200.
    #[test]
    fn the_same_share_of_errors_at_every_rate_is_no_capacity() {
        let rows = [
            step(25.0, 25.0, 0.729, "violates"),
            step(200.0, 200.0, 0.742, "violates"),
        ];
        let said = remarks(&rows).join("\n");
        assert!(
            said.contains("the share of errors is the same at 25 and at 200 rps (7"),
            "{said}"
        );
    }

    #[test]
    fn users_that_wait_are_said_to() {
        let users = |n: u32, sent: f64| {
            let mut r = step(sent, sent, 0.0, "meets");
            (r.users, r.asked_rps, r.verdict) = (Some(n), None, None);
            r
        };
        let said = remarks(&[users(50, 50.0), users(200, 90.0)]).join("\n");
        assert!(said.contains("they wait for answers"), "{said}");
        assert!(remarks(&[users(50, 50.0), users(200, 199.0)]).is_empty());
    }

    #[test]
    fn json_has_a_row_a_step() {
        let v: serde_json::Value =
            serde_json::from_str(&document(&[step(60.0, 60.0, 0.0, "meets")]).unwrap()).unwrap();
        assert_eq!(v["steps"][0]["asked_rps"], 60.0);
        assert_eq!(v["carried_rps"], 60.0);
        assert!(v["failed_rps"].is_null());
    }
}
