//! The probes that the search asks for: the rates at rest and of the warm-up, windows and lead-ins of all.
//!
//! How long a probe is depends on its phase, its rate and how long the service takes; which rate comes after the first is
//! `search`'s business.

use std::time::Duration;

use crate::units::Rps;

use super::reading::Reading;
use super::{Plan, ProbePhase, ProbePlan, Step};

/// The first probe of a search, and the first after a restart: a minimal rate, to see how the service is at rest.
#[must_use]
pub fn after_restart(plan: &Plan) -> ProbePlan {
    let window = Duration::from_secs_f64((plan.confirm.as_secs_f64() / 15.0).clamp(1.0, 3.0));
    let rate = (5.0 / window.as_secs_f64())
        .max(plan.min.get())
        .min(plan.max.get());
    ProbePlan::new(ProbePhase::Idle, Rps::saturating(rate), window)
}

/// A probe at a real rate, as long as its phase, its rate and the service's latency need.
pub(super) fn load(plan: &Plan, r: &Reading<'_>, phase: ProbePhase, rate: f64) -> Step {
    let rate = rate.clamp(
        plan.min.get().min(plan.max.get()),
        r.ceiling(plan).max(plan.min.get()).min(plan.max.get()),
    );
    let confirm_s = plan.confirm.as_secs_f64();
    let idle_s = r.idle_ms.unwrap_or(0.0) / 1e3;
    let (window, lead_in) = match phase {
        ProbePhase::Confirm => {
            let requests = (10.0 * confirm_s).clamp(60.0, 300.0);
            let window = confirm_s.max((requests / rate).min(3.0 * confirm_s.max(30.0)));
            (
                window,
                (confirm_s / 30.0).clamp(0.5, 1.0).max(3.0 * idle_s).min(5.0),
            )
        }
        ProbePhase::Growth | ProbePhase::WarmUp | ProbePhase::Idle => (
            (6.0 * idle_s).max(8.0 / rate).clamp(1.0, 5.0),
            (2.0 * idle_s).clamp(0.2, 3.0),
        ),
        ProbePhase::Refine | ProbePhase::Race => {
            let least = (confirm_s / 10.0).clamp(2.0, 3.0);
            (
                (10.0 * idle_s).max(60.0 / rate).clamp(least, 6.0),
                (2.0 * idle_s).clamp(0.2, 3.0),
            )
        }
    };
    Step::Probe(ProbePlan {
        lead_in: Duration::from_secs_f64(lead_in),
        idle_ms: r.idle_ms,
        ..ProbePlan::new(phase, Rps::saturating(rate), Duration::from_secs_f64(window))
    })
}

/// What any service carries without a prior: one that answers one request in t carries at least 1/t, whatever its pool; half of that.
fn least(plan: &Plan, r: &Reading<'_>) -> f64 {
    match r.idle_ms {
        Some(ms) if ms > 0.0 => 500.0 / ms,
        _ => plan.min.get() * 4.0,
    }
}

/// The first step up. The warm-up was one already.
pub(super) fn first_rate(plan: &Plan, r: &Reading<'_>) -> f64 {
    match (plan.prior, r.warmed_at) {
        (Some(prior), _) => prior.get() * 0.6,
        (None, Some(warm)) if warm >= least(plan, r) * 0.99 => warm * 2.0,
        (None, _) => least(plan, r),
    }
}

/// At 40 % of what is expected; the watch ends it as soon as the medians settle.
pub(super) fn warm_up(plan: &Plan, r: &Reading<'_>) -> ProbePlan {
    let expected = plan.prior.or(plan.incumbent).map(|x| x.get() * 0.4);
    let rate = expected
        .unwrap_or_else(|| first_rate(plan, r))
        .clamp(plan.min.get().min(plan.max.get()), plan.max.get());
    let tripped = r.restarts.iter().copied().fold(f64::INFINITY, f64::min) * 0.4;
    ProbePlan {
        idle_ms: r.idle_ms,
        ..ProbePlan::new(
            ProbePhase::WarmUp,
            Rps::saturating(rate.min(tripped)),
            plan.warm_up,
        )
    }
}

/// A few requests at rest.
pub(super) fn recovery(plan: &Plan, r: &Reading<'_>, checks: u32) -> ProbePlan {
    let rate = (0.2 * r.last_rate).min(10.0).max(plan.min.get().min(1.0));
    let window = (3.0 / rate).clamp(0.5, 3.0) * f64::from(1_u32 << checks.min(4));
    ProbePlan {
        idle_ms: r.idle_ms,
        ..ProbePlan::new(
            ProbePhase::Idle,
            Rps::saturating(rate),
            Duration::from_secs_f64(window.min(8.0)),
        )
    }
}
