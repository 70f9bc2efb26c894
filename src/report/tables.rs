//! trials.csv and probes.csv. The columns are fixed by the documented interface; a parameter's column has its
//! name, with `parameter_` before it where a fixed column has that name already.

use super::text::{csv_text, csv_value, maybe, number};
use super::{RenderError, Summary};
use crate::capacity::ProbePhase;
use crate::measurement::OutcomeClass;
use crate::slo::Verdict;

const TRIAL_HEAD: [&str; 4] = ["trial", "phase", "outcome", "reason"];
const TRIAL_TAIL: [&str; 19] = [
    "offered_rps",
    "goodput_rps",
    "error_ratio",
    "error_ratio_upper",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "cost",
    "cpu_used",
    "throttled_ratio",
    "memory_peak_mb",
    "db_connections_peak",
    "binding_constraint",
    "verdict",
    "seconds",
    "started_at",
    "round",
    "instance_traffic_ratio",
    "host",
];

/// What was sampled beside the load and is worth a column in probes.csv; everything that was is in the journal.
const SAMPLED: [&str; 8] = [
    "cpu_used",
    "throttled_ratio",
    "memory_peak_mb",
    "db_connections_peak",
    "db_running_mean",
    "pool_checked_out_peak",
    "pool_waiting_mean",
    "host_cpu_ratio",
];

/// A row a trial.
pub fn trials_csv(s: &Summary<'_>) -> Result<Vec<u8>, RenderError> {
    let mut header: Vec<String> = TRIAL_HEAD.iter().map(|h| (*h).to_owned()).collect();
    for p in &s.space.parameters {
        let taken = TRIAL_HEAD.contains(&p.name.as_str()) || TRIAL_TAIL.contains(&p.name.as_str());
        let name = csv_text(&p.name);
        header.push(if taken { format!("parameter_{name}") } else { name });
    }
    header.extend(TRIAL_TAIL.iter().map(|h| (*h).to_owned()));
    let rows = s.rows.iter().map(|r| {
        let mut cells = vec![
            r.trial.to_string(),
            r.phase.name().to_owned(),
            r.outcome.to_owned(),
            csv_text(&r.reason),
        ];
        for p in &s.space.parameters {
            cells.push(r.config.get(&p.name).map_or(String::new(), csv_value));
        }
        let latency = |i: usize| maybe(r.latency_ms.and_then(|l| l.get(i).copied()), 3);
        cells.extend([
            maybe(r.rate_rps, 3),
            maybe(r.goodput_rps, 3),
            maybe(r.error_ratio, 6),
            maybe(r.error_ratio_upper, 6),
            latency(0),
            latency(1),
            latency(2),
            maybe(r.cost, 6),
            maybe(r.cpu_used, 4),
            maybe(r.throttled_ratio, 4),
            maybe(r.memory_peak_mb, 1),
            maybe(r.db_connections_peak, 0),
            r.binding.as_deref().map_or(String::new(), csv_text),
            r.verdict.to_owned(),
            number(r.seconds, 3),
            r.started_at.clone(),
            r.round.map_or(String::new(), |n| n.to_string()),
            maybe(r.instance_traffic_ratio, 3),
            csv_text(&r.host),
        ]);
        cells
    });
    csv("trials.csv", &header, rows)
}

/// A row a probe.
pub fn probes_csv(s: &Summary<'_>) -> Result<Vec<u8>, RenderError> {
    let mut header: Vec<String> = [
        "trial",
        "probe",
        "phase",
        "offered_rps",
        "achieved_rps",
        "goodput_rps",
        "sent",
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(OutcomeClass::ALL.iter().map(|c| c.name().to_owned()));
    header.push("in_flight_end".to_owned());
    header.extend(["p50", "p90", "p95", "p99", "p999", "max", "mean"].map(|q| format!("latency_ms_{q}")));
    header.extend(["send_lag_ms_p99", "verdict", "reason", "loss_upper", "window_s"].map(str::to_owned));
    header.extend(SAMPLED.map(str::to_owned));
    let rows = s
        .trials
        .iter()
        .flat_map(|t| t.probes.iter().map(move |p| (t.number, p)))
        .map(|(trial, p)| {
            let m = &p.measurement;
            let mut cells = vec![
                trial.to_string(),
                p.number.to_string(),
                phase_name(p.phase).to_owned(),
                number(m.offered.get(), 3),
                number(m.achieved_rps(), 3),
                number(m.goodput_rps(), 3),
                m.sent.to_string(),
            ];
            cells.extend(OutcomeClass::ALL.iter().map(|c| m.count(*c).to_string()));
            cells.push(m.in_flight_end.to_string());
            let l = m.latency_ms;
            cells.extend([l.p50, l.p90, l.p95, l.p99, l.p999, l.max, l.mean].map(|x| number(x, 3)));
            cells.extend([
                number(m.generator.send_lag_ms.p99, 3),
                verdict_name(p.verdict).to_owned(),
                csv_text(&p.reason),
                number(p.loss_upper, 6),
                number(m.window_s, 3),
            ]);
            cells.extend(SAMPLED.map(|name| maybe(p.telemetry.get(name).copied(), 4)));
            cells
        });
    csv("probes.csv", &header, rows)
}

/// The phase's name in files.
pub(super) fn phase_name(p: ProbePhase) -> &'static str {
    match p {
        ProbePhase::Idle => "idle",
        ProbePhase::WarmUp => "warm_up",
        ProbePhase::Growth => "growth",
        ProbePhase::Refine => "refine",
        ProbePhase::Confirm => "confirm",
        ProbePhase::Race => "race",
    }
}

/// The verdict's name in files.
pub(super) fn verdict_name(v: Verdict) -> &'static str {
    match v {
        Verdict::Meets => "meets",
        Verdict::Violates => "violates",
        Verdict::Void => "void",
    }
}

fn csv(
    what: &'static str,
    header: &[String],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<Vec<u8>, RenderError> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(header).map_err(|e| RenderError::new(what, e))?;
    for row in rows {
        out.write_record(&row).map_err(|e| RenderError::new(what, e))?;
    }
    out.into_inner().map_err(|e| RenderError::new(what, e.error()))
}
