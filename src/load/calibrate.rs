//! What this machine can drive at all: rates are doubled against the built-in null server until the generator's own verdict says stop.
//!
//! The server needs CPU too, so this is a lower bound; a rate far above the service's is the point, not the exact figure.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;

use super::null::{NullOptions, NullServer};
use super::{Generator, LoadError};
use crate::capacity::{ProbePhase, ProbePlan};
use crate::measurement::{Measurement, Quantiles, generator_verdict};
use crate::spec::{Arrivals, LoadSpec, RequestSpec};
use crate::units::Rps;

/// First rate, requests per second, and how often it is doubled.
const FIRST: f64 = 1_000.0;
const DOUBLINGS: i32 = 8;
const WINDOW: Duration = Duration::from_secs(2);
/// Short, so that the lag limit is 2 ms: a rate that is met with lag is no rate to measure at.
const TIMEOUT: Duration = Duration::from_millis(100);

/// One calibrated rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationRow {
    /// Offered, requests per second.
    pub offered_rps: f64,
    /// Sent, requests per second.
    pub achieved_rps: f64,
    /// Share of a core that the generator's thread used.
    pub cpu_ratio: f64,
    /// CPU time of that thread per request, microseconds.
    pub cpu_us: f64,
    /// Send lag.
    pub send_lag_ms: Quantiles,
    /// Why the rate does not count; empty when it does.
    pub reasons: Vec<String>,
}

/// Drives a null server at rising rates; the last row is the first that the generator could not drive, or the highest tried.
///
/// # Errors
/// When neither server nor engine can run.
pub async fn calibrate(cpu: Option<usize>) -> Result<Vec<CalibrationRow>, LoadError> {
    let server = NullServer::start(NullOptions::default()).map_err(LoadError::Engine)?;
    let generator = Generator::prepare(&spec(cpu), &[server.url()], 1)?;
    let mut rows = Vec::new();
    for step in 0..=DOUBLINGS {
        let rate = Rps::saturating(FIRST * 2_f64.powi(step));
        let mut plan = ProbePlan::new(ProbePhase::Growth, rate, WINDOW);
        plan.lead_in = Duration::from_millis(500);
        plan.drain = Duration::from_secs(1);
        let m = generator.drive(&plan, &mut |_| ControlFlow::Continue(())).await?;
        rows.push(row(&m));
        if rows.last().is_some_and(|r| !r.reasons.is_empty()) {
            break;
        }
    }
    Ok(rows)
}

#[allow(clippy::cast_precision_loss)]
fn row(m: &Measurement) -> CalibrationRow {
    let mut reasons = generator_verdict(m, None);
    let late = m.scheduled - m.good.min(m.scheduled);
    if reasons.is_empty() && late as f64 > m.scheduled as f64 * 0.005 {
        reasons.push(format!(
            "{late} of {} requests were not answered in the window",
            m.scheduled
        ));
    }
    CalibrationRow {
        offered_rps: m.offered.get(),
        achieved_rps: m.achieved_rps(),
        cpu_ratio: m.generator.cpu_ratio,
        cpu_us: m.generator.cpu_s * 1e6 / m.sent.max(1) as f64,
        send_lag_ms: m.generator.send_lag_ms,
        reasons,
    }
}

fn spec(cpu: Option<usize>) -> LoadSpec {
    LoadSpec {
        timeout: TIMEOUT,
        connections: 200,
        arrivals: Arrivals::Uniform,
        headers: Vec::new(),
        requests: vec![RequestSpec {
            weight: 1.0,
            method: "GET".into(),
            path: "/".into(),
            headers: Vec::new(),
            body: None,
            expect: vec![200],
            expect_body: None,
        }],
        vars: std::collections::BTreeMap::new(),
        cpu,
        keep_alive: true,
        allow_remote: Vec::new(),
        agents: crate::spec::AgentsSpec::default(),
    }
}
