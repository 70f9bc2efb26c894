//! `autotune load`: one open-loop probe as a tool of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::json;

use super::agent::AgentFlags;
use crate::capacity::{ProbePhase, ProbePlan};
use crate::exit::{self, ExitError};
use crate::load::{
    AgentFault, CalibrationRow, Generator, Interval, LoadError, NullOptions, NullServer, calibrate,
};
use crate::measurement::{Bin, Measurement, Quantiles, generator_verdict};
use crate::spec::{Arrivals, LoadSpec, RequestSpec};
use crate::units::{Rps, parse_duration, show_duration};

/// More than any machine sends over HTTP/1.1 from one thread; a typo, not a rate.
const HIGHEST_RATE: f64 = 1e6;
/// Most bytes of a body file.
const BODY_FILE: u64 = 64 * 1024 * 1024;

/// One open-loop probe: offers a rate for a while and tells what came back, and whether the generator kept up.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  autotune load --url http://127.0.0.1:8000/items --rate 200 --duration 10s\n  \
                        autotune load --url http://127.0.0.1:8000/orders --rate 50 --duration 30s --method POST \\\n      \
                        --header 'content-type: application/json' --body order.json --json\n  \
                        autotune load --calibrate          what this machine can drive at all\n\n\
                        Latency counts from the scheduled time of a request, so waiting is never left out."
)]
pub struct LoadArgs {
    /// URL to request; several take turns (replicas).
    #[arg(long, value_name = "URL", env = "AUTOTUNE_URL", value_delimiter = ',', required_unless_present_any = ["calibrate", "null_server"])]
    url: Vec<String>,
    /// Requests per second.
    #[arg(long, value_name = "R", env = "AUTOTUNE_RATE", value_parser = rate, required_unless_present_any = ["calibrate", "null_server"])]
    rate: Option<Rps>,
    /// How long to measure: 10s, 2m.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Offered at the same rate before the measurement and not counted.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_LEAD_IN", default_value = "0s", value_parser = parse_duration)]
    lead_in: Duration,
    /// Spacing of the requests.
    #[arg(long, value_enum, env = "AUTOTUNE_ARRIVALS", default_value_t = Spacing::Uniform)]
    arrivals: Spacing,
    /// HTTP method.
    #[arg(long, value_name = "M", env = "AUTOTUNE_METHOD", default_value = "GET")]
    method: String,
    /// Header 'Name: value'; may be repeated. `Host` replaces the URL's.
    #[arg(long, value_name = "K: V", env = "AUTOTUNE_HEADER", hide_env_values = true, value_parser = header)]
    header: Vec<(String, String)>,
    /// File with the request body.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_BODY")]
    body: Option<PathBuf>,
    /// Status that counts as good; any 2xx when none is given.
    #[arg(long, value_name = "STATUS", env = "AUTOTUNE_EXPECT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(100..=599))]
    expect: Vec<u16>,
    /// Text that a good answer's body contains.
    #[arg(long, value_name = "TEXT", env = "AUTOTUNE_EXPECT_BODY")]
    expect_body: Option<String>,
    /// Longest wait for a complete answer, from the scheduled time.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Most connections; they are opened as they are needed.
    #[arg(long, value_name = "N", env = "AUTOTUNE_CONNECTIONS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// A new connection for every request.
    #[arg(long, env = "AUTOTUNE_NO_KEEP_ALIVE")]
    no_keep_alive: bool,
    /// CPU to pin the generator's thread to.
    #[arg(long, value_name = "CPU", env = "AUTOTUNE_CPU")]
    cpu: Option<usize>,
    /// Seed of Poisson arrivals.
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
    /// Write latencies second by second in HdrHistogram's interval log format.
    #[arg(long, value_name = "FILE.hlog", env = "AUTOTUNE_HISTOGRAM")]
    histogram: Option<PathBuf>,
    /// Find out what this machine can drive, against a built-in server, and end.
    #[arg(long, env = "AUTOTUNE_CALIBRATE")]
    calibrate: bool,
    /// Serve as the null server of the benchmarks on this port of loopback until interrupted.
    #[arg(long, value_name = "PORT", hide = true)]
    null_server: Option<u16>,
    /// The null server answers nothing for the first 200 ms of every 2 s.
    #[arg(long, hide = true, requires = "null_server")]
    stall: bool,
}

/// `--arrivals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Spacing {
    /// Evenly.
    Uniform,
    /// Exponential gaps from the seed.
    Poisson,
}

pub(super) fn rate(text: &str) -> Result<Rps, String> {
    let value: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a number of requests per second"))?;
    if value > HIGHEST_RATE {
        return Err(format!(
            "{value} requests per second is more than this tool drives; the most is {HIGHEST_RATE}"
        ));
    }
    Rps::new(value).map_err(|e| e.to_string())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        other => other.map_err(|e| e.to_string()),
    }
}

pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Runs it: the table or the JSON to stdout, a live line to stderr. The exit code is 0 when a measurement was made, whatever it says.
///
/// # Errors
/// What keeps the probe from being made, as an `ExitError` where it has an exit code of its own.
pub async fn run(args: &LoadArgs, json: bool, quiet: bool) -> anyhow::Result<u8> {
    if let Some(port) = args.null_server {
        return serve_null(port, args.stall).await;
    }
    if args.calibrate {
        let rows = calibrate(args.cpu).await.map_err(|e| coded(&e))?;
        print(&if json {
            calibration_json(&rows)?
        } else {
            calibration_table(&rows)
        })?;
        return Ok(exit::OK);
    }
    let Some(rate) = args.rate else {
        return Ok(exit::USAGE);
    };
    let (spec, bases) = args.spec()?;
    let generator = Generator::prepare(&spec, &bases, args.seed).map_err(|e| coded(&e))?;
    generator.reach().await.map_err(|e| coded(&e))?;
    let mut plan = ProbePlan::new(ProbePhase::Growth, rate, args.duration);
    plan.lead_in = args.lead_in;
    plan.drain = args.timeout + Duration::from_secs(1);
    let mut log = args.histogram.as_deref().map(HistogramLog::create).transpose()?;
    let live = Live::new(quiet);
    let mut watch = |bin: &Bin| {
        live.show(bin);
        ControlFlow::Continue(())
    };
    let mut write = log.as_mut().map(|log| |i: &Interval| log.write(i));
    let drive = generator.drive_logged(
        &plan,
        &mut watch,
        write.as_mut().map(|w| w as &mut (dyn FnMut(&Interval) + Send)),
    );
    let measured = tokio::select! {
        m = drive => m.map_err(|e| coded(&e))?,
        _ = tokio::signal::ctrl_c() => return Ok(130),
    };
    live.end();
    if let Some(log) = log {
        log.finish()?;
    }
    let reasons = generator_verdict(&measured, None);
    print(&if json {
        measurement_json(&measured, &reasons)?
    } else {
        table(args, &measured, &reasons)
    })?;
    Ok(exit::OK)
}

impl LoadArgs {
    /// What is sent, and the base URLs without the path.
    fn spec(&self) -> anyhow::Result<(LoadSpec, Vec<String>)> {
        let mut bases = Vec::new();
        let mut path: Option<String> = None;
        for url in &self.url {
            let (base, rest) = split_url(url);
            if path.get_or_insert_with(|| rest.clone()) != &rest {
                let message = "several --url must have the same path: they are replicas of one service";
                return Err(ExitError::new(exit::USAGE, message).into());
            }
            bases.push(base);
        }
        let request = RequestSpec {
            weight: 1.0,
            method: self.method.to_ascii_uppercase(),
            path: path.unwrap_or_else(|| "/".into()),
            headers: Vec::new(),
            body: self.body.as_deref().map(read_body).transpose()?,
            expect: self.expect.clone(),
            expect_body: self.expect_body.clone(),
        };
        let spec = LoadSpec {
            timeout: self.timeout,
            connections: self.connections,
            arrivals: match self.arrivals {
                Spacing::Uniform => Arrivals::Uniform,
                Spacing::Poisson => Arrivals::Poisson,
            },
            headers: self.header.clone(),
            requests: vec![request],
            vars: BTreeMap::new(),
            cpu: self.cpu,
            keep_alive: !self.no_keep_alive,
            allow_remote: self.allow_remote.clone(),
            agents: self.agents.spec()?,
        };
        Ok((spec, bases))
    }
}

/// "http://host:1/a?b#c" as "http://host:1" and "/a?b".
pub(super) fn split_url(url: &str) -> (String, String) {
    let url = url.split('#').next().unwrap_or_default();
    let after_scheme = url.find("://").map_or(0, |i| i + 3);
    let at = url[after_scheme..]
        .find(['/', '?'])
        .map_or(url.len(), |i| after_scheme + i);
    let (base, path) = url.split_at(at);
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    (base.to_owned(), path)
}

pub(super) fn read_body(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(BODY_FILE + 1)
            .read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().map_err(|e| {
        ExitError::new(
            exit::NO_INPUT,
            format!("cannot read the body {}: {e}", path.display()),
        )
    })?;
    if bytes.len() as u64 > BODY_FILE {
        let message = format!(
            "the body {} is longer than {} MiB",
            path.display(),
            BODY_FILE >> 20
        );
        return Err(ExitError::new(exit::DATA, message).into());
    }
    Ok(bytes)
}

/// With the exit code of what went wrong.
pub(super) fn coded(e: &LoadError) -> anyhow::Error {
    let code = match e {
        LoadError::Url { .. } | LoadError::Request(_) | LoadError::Cpu { .. } => exit::USAGE,
        LoadError::Resolve { .. } | LoadError::Unreachable { .. } => exit::UNAVAILABLE,
        LoadError::Agent { fault, .. } => match fault {
            AgentFault::Unavailable | AgentFault::Version => exit::UNAVAILABLE,
            AgentFault::Refused => exit::PERMISSION,
        },
        LoadError::Remote { .. } => exit::PERMISSION,
        LoadError::Tls(_) | LoadError::Engine(_) => exit::IO,
        LoadError::Died => exit::SOFTWARE,
    };
    ExitError::new(code, e.to_string()).into()
}

async fn serve_null(port: u16, stall: bool) -> anyhow::Result<u8> {
    let stall = stall.then_some((Duration::from_secs(2), Duration::from_millis(200)));
    let server = NullServer::start(NullOptions { port, stall }).context("cannot start the null server")?;
    print(&server.url())?;
    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for the interrupt")?;
    Ok(exit::OK)
}

/// A result to stdout; a reader that has gone is not our failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// The line on a terminal that follows the probe.
struct Live {
    on: bool,
}

impl Live {
    fn new(quiet: bool) -> Self {
        Self {
            on: !quiet && std::io::stderr().is_terminal(),
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn show(&self, b: &Bin) {
        if self.on {
            let per_s = |n: u64| n as f64 / b.width_s.max(1e-9);
            let line = format!(
                "{:5.1} s  {:.0} good/s  {:.0} bad/s  {} in flight  p50 {:.1} ms  p95 {:.1} ms",
                b.start_s + b.width_s,
                per_s(b.completed_good),
                per_s(b.completed_bad),
                b.in_flight_end,
                b.latency_ms_p50,
                b.latency_ms_p95,
            );
            // The line is a courtesy: where it cannot be written nothing is lost.
            drop(write!(std::io::stderr(), "\r\x1b[K{line}"));
        }
    }

    fn end(&self) {
        if self.on {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

/// The interval log, written as the seconds come in and checked at the end.
struct HistogramLog {
    path: PathBuf,
    file: std::io::BufWriter<std::fs::File>,
    begun: bool,
    failed: Option<String>,
}

impl HistogramLog {
    /// Before anything is sent, so that a file that cannot be written costs no probe.
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(path)
            .map_err(|e| ExitError::new(exit::IO, format!("cannot write {}: {e}", path.display())))?;
        Ok(Self {
            path: path.to_owned(),
            file: std::io::BufWriter::new(file),
            begun: false,
            failed: None,
        })
    }

    fn write(&mut self, interval: &Interval) {
        if let Err(e) = self.try_write(interval) {
            self.failed.get_or_insert(e);
        }
    }

    fn try_write(&mut self, interval: &Interval) -> Result<(), String> {
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        builder.with_max_value_divisor(1_000.0);
        if !self.begun {
            let now = std::time::SystemTime::now();
            let start = now.checked_sub(interval.start + interval.width).unwrap_or(now);
            builder.add_comment(
                "[autotune load: latency from the scheduled time, microseconds; maxima in milliseconds]",
            );
            builder.with_start_time(start).with_base_time(start);
        }
        let mut text = Vec::new();
        let mut log = builder
            .begin_log_with(&mut text, &mut serializer)
            .map_err(|e| e.to_string())?;
        for (tag, histogram) in &interval.histograms {
            log.write_histogram(histogram, interval.start, interval.width, tag.and_then(Tag::new))
                .map_err(|e| e.to_string())?;
        }
        drop(log);
        // The header belongs to the begin only, and the writer cannot be kept: it borrows its parts.
        let text = match self.begun {
            false => text,
            true => lines_without_header(&text),
        };
        self.begun = true;
        self.file.write_all(&text).map_err(|e| e.to_string())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.file.flush().map_err(|e| e.to_string());
        match self.failed.map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(e) => {
                Err(ExitError::new(exit::IO, format!("cannot write {}: {e}", self.path.display())).into())
            }
        }
    }
}

fn lines_without_header(text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|b| *b == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .flatten()
        .copied()
        .collect()
}

fn quantiles_json(q: &Quantiles) -> serde_json::Value {
    json!({"mean": q.mean, "p50": q.p50, "p90": q.p90, "p95": q.p95, "p99": q.p99, "p999": q.p999, "max": q.max})
}

fn measurement_json(m: &Measurement, reasons: &[String]) -> anyhow::Result<String> {
    let errors: BTreeMap<&str, u64> = m.errors.iter().map(|(c, n)| (c.name(), *n)).collect();
    let g = &m.generator;
    let value = json!({
        "offered_rps": m.offered.get(),
        "achieved_rps": m.achieved_rps(),
        "goodput_rps": m.goodput_rps(),
        "scheduled": m.scheduled,
        "sent": m.sent,
        "good": m.good,
        "loss": m.loss(),
        "errors": errors,
        "statuses": m.statuses,
        "latency_ms": quantiles_json(&m.latency_ms),
        "service_ms": quantiles_json(&m.service_ms),
        "send_lag_ms": {"p50": g.send_lag_ms.p50, "p99": g.send_lag_ms.p99, "max": g.send_lag_ms.max},
        "in_flight_end": m.in_flight_end,
        "in_flight_after_drain": m.in_flight_after_drain,
        "verdict": if reasons.is_empty() { "valid" } else { "generator_limited" },
        "reasons": reasons,
        "seconds": m.window_s,
        "by_endpoint": m.by_endpoint,
        "agents": g.agents,
        "generator": {
            "cpu_ratio": g.cpu_ratio,
            "cpu_wait_ratio": g.cpu_wait_ratio,
            "throttled_ratio": g.throttled_ratio,
            "connections_opened": g.connections_opened,
            "retried": g.retried,
        },
    });
    serde_json::to_string(&value).context("cannot print the result")
}

fn table(args: &LoadArgs, m: &Measurement, reasons: &[String]) -> String {
    let spacing = match args.arrivals {
        Spacing::Uniform => "evenly spaced",
        Spacing::Poisson => "Poisson arrivals",
    };
    let window = show_duration(Duration::from_secs_f64(m.window_s));
    [
        format!(
            "{} {}, {} for {window}, {spacing}\n",
            args.method,
            args.url.join(", "),
            m.offered
        ),
        format!(
            "  offered    {:>10.1} rps   {} scheduled",
            m.offered.get(),
            m.scheduled
        ),
        format!("  achieved   {:>10.1} rps   {} sent", m.achieved_rps(), m.sent),
        format!(
            "  goodput    {:>10.1} rps   {} good, loss {:.2} %",
            m.goodput_rps(),
            m.good,
            m.loss() * 100.0
        ),
        format!(
            "  in flight  {:>10} at the end, {} after the drain\n",
            m.in_flight_end, m.in_flight_after_drain
        ),
        quantile_rows(m),
        outcome_rows(m),
        generator_row(m, reasons),
    ]
    .join("\n")
}

fn quantile_rows(m: &Measurement) -> String {
    let names = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
    let mut out = format!(
        "  {:<10}{}\n",
        "ms",
        names.iter().map(|n| format!("{n:>9}")).collect::<String>()
    );
    for (name, q, what) in [
        ("latency", &m.latency_ms, "from the scheduled time"),
        ("service", &m.service_ms, "from the send"),
        ("send lag", &m.generator.send_lag_ms, "of the generator"),
    ] {
        let values = [q.mean, q.p50, q.p90, q.p95, q.p99, q.p999, q.max];
        let cells: String = values.iter().map(|v| format!("{v:>9.2}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name:<10}{cells}   {what}");
    }
    out
}

fn outcome_rows(m: &Measurement) -> String {
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(", ")
        }
    };
    let classes = list(
        m.errors
            .iter()
            .map(|(c, n)| format!("{} {n}", c.name()))
            .collect(),
    );
    let statuses = list(m.statuses.iter().map(|(s, n)| format!("{s}: {n}")).collect());
    let mut out = format!("  not good   {classes}\n  statuses   {statuses}");
    if m.by_endpoint.len() > 1 {
        let endpoints = list(m.by_endpoint.iter().map(|(e, n)| format!("{e}: {n}")).collect());
        let _ = write!(out, "\n  endpoints  {endpoints}");
    }
    out
}

fn generator_row(m: &Measurement, reasons: &[String]) -> String {
    let verdict = match reasons {
        [] => "kept up".to_owned(),
        _ => format!("LIMITED THIS PROBE: {}", reasons.join("; ")),
    };
    let g = &m.generator;
    format!(
        "  generator  {verdict} ({:.0} % of a core, {} connections opened)",
        g.cpu_ratio * 100.0,
        g.connections_opened
    )
}

fn calibration_json(rows: &[CalibrationRow]) -> anyhow::Result<String> {
    let highest = rows
        .iter()
        .filter(|r| r.reasons.is_empty())
        .map(|r| r.offered_rps)
        .fold(0.0, f64::max);
    serde_json::to_string(&json!({"drivable_rps": highest, "rows": rows})).context("cannot print the result")
}

fn calibration_table(rows: &[CalibrationRow]) -> String {
    let mut out = format!(
        "{:>11}{:>12}{:>9}{:>14}{:>14}{:>14}\n",
        "offered", "achieved", "core", "us/request", "lag p50 ms", "lag p99 ms"
    );
    for r in rows {
        let lag = &r.send_lag_ms;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:>11.0}{:>12.0}{:>7.0} %{:>14.1}{:>14.3}{:>14.3}   {}",
            r.offered_rps,
            r.achieved_rps,
            r.cpu_ratio * 100.0,
            r.cpu_us,
            lag.p50,
            lag.p99,
            r.reasons.join("; ")
        );
    }
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
        load: LoadArgs,
    }

    fn parse(args: &[&str]) -> Result<LoadArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"load").chain(args)).map(|l| l.load)
    }

    #[test]
    fn urls_are_split_into_base_and_path() {
        for (url, base, path) in [
            ("http://h:1/a/b?c=d#e", "http://h:1", "/a/b?c=d"),
            ("http://h:1", "http://h:1", "/"),
            ("http://h?x=1", "http://h", "/?x=1"),
        ] {
            assert_eq!(split_url(url), (base.to_owned(), path.to_owned()));
        }
    }

    #[test]
    fn rates_that_cannot_be_are_refused_with_a_sentence() {
        for bad in ["0", "-1", "NaN", "inf", "2e6", "many"] {
            let e = parse(&["--url", "http://127.0.0.1", &format!("--rate={bad}")]).unwrap_err();
            assert!(e.to_string().contains("per second"), "{bad}: {e}");
        }
        assert!(parse(&["--url", "http://127.0.0.1", "--rate", "0.5"]).is_ok());
        assert!(parse(&["--url", "http://127.0.0.1"]).is_err());
        assert!(parse(&["--calibrate"]).is_ok());
    }

    #[test]
    fn replicas_must_have_one_path() {
        let args = |a, b| parse(&["--rate", "1", "--url", a, "--url", b]).unwrap();
        let (spec, bases) = args("http://127.0.0.1:1/x", "http://127.0.0.1:2/x")
            .spec()
            .unwrap();
        assert_eq!((spec.requests[0].path.as_str(), bases.len()), ("/x", 2));
        assert!(
            args("http://127.0.0.1:1/x", "http://127.0.0.1:2/y")
                .spec()
                .is_err()
        );
    }

    /// The names that interface.md fixes.
    #[test]
    fn the_json_has_the_documented_keys() {
        let m = Measurement::empty(Rps::saturating(5.0), Duration::from_secs(1));
        let value: serde_json::Value =
            serde_json::from_str(&measurement_json(&m, &["late".into()]).unwrap()).unwrap();
        for key in [
            "offered_rps",
            "achieved_rps",
            "goodput_rps",
            "sent",
            "good",
            "errors",
            "latency_ms",
            "service_ms",
            "send_lag_ms",
            "in_flight_end",
            "verdict",
            "reasons",
            "seconds",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["verdict"], "generator_limited");
        for key in ["p50", "p90", "p95", "p99", "p999", "max"] {
            assert!(value["latency_ms"].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn an_interval_log_reads_back_without_loss() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.hlog");
        let mut log = HistogramLog::create(&path).unwrap();
        for second in 0..3_u64 {
            let mut h = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
            h.record_n(1_000 * (second + 1), second + 1).unwrap();
            log.write(&Interval {
                start: Duration::from_secs(second),
                width: Duration::from_secs(1),
                histograms: vec![(None, h.clone()), (Some("service"), h)],
            });
        }
        log.finish().unwrap();
        let text = std::fs::read(&path).unwrap();
        let mut sum = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
        let mut tags = 0;
        for entry in IntervalLogIterator::new(&text) {
            if let LogEntry::Interval(i) = entry.unwrap() {
                tags += usize::from(i.tag().is_some());
                if i.tag().is_none() {
                    let bytes = decode(i.encoded_histogram());
                    let mut reader = hdrhistogram::serialization::Deserializer::new();
                    sum.add(reader.deserialize::<u64, _>(&mut bytes.as_slice()).unwrap())
                        .unwrap();
                }
            }
        }
        assert_eq!((sum.len(), tags), (6, 3));
        assert_eq!(sum.max(), sum.highest_equivalent(3_000));
        assert_eq!(text.windows(11).filter(|w| w == b"#[StartTime").count(), 1);
    }

    /// RFC 4648 base64, for the test alone.
    fn decode(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut out, mut bits, mut n) = (Vec::new(), 0_u32, 0);
        for b in text.bytes().filter(|b| *b != b'=') {
            bits = bits << 6 | ALPHABET.iter().position(|a| *a == b).unwrap() as u32;
            n += 6;
            if n >= 8 {
                n -= 8;
                out.push((bits >> n) as u8);
                bits &= (1 << n) - 1;
            }
        }
        out
    }
}
