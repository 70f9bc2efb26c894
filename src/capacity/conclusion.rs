//! The answer of a search from its probes: verdict, rate, interval, and the reasons in words.

use crate::slo::Verdict;
use crate::trial::Probe;
use crate::units::Rps;

use super::judge::is_policy;
use super::posterior::Posterior;
use super::reading::{Mode, Reading};
use super::{Capacity, CapacityVerdict, Plan};

/// How the reason begins where the generator was the limit; what stopped it follows.
pub const GENERATOR_LIMITED: &str = "generator-limited: ";

/// The answer from `probes` as they are, with `why` the search ends where that is not a confirmation.
#[must_use]
pub fn conclude(plan: &Plan, probes: &[Probe], why: Option<&str>) -> Capacity {
    let r = Reading::of(plan, probes);
    let confirmed = r.confirmed.filter(|_| !matches!(r.mode, Mode::Tripped));
    let rate = confirmed.map(|p| p.measurement.offered.get());
    let (pass, fail) = (r.highest(Verdict::Meets), r.lowest_fail());
    // A service that could not even be asked at rest has not failed.
    let unasked = r.unasked && confirmed.is_none();
    let limited = unasked || r.generator_cap.is_some_and(|cap| fail.is_none_or(|f| f > cap));
    let verdict = match rate {
        _ if limited => CapacityVerdict::GeneratorLimited,
        Some(x) if x >= plan.max.get() * 0.999 && fail.is_none() => CapacityVerdict::AtLeast,
        Some(_) => CapacityVerdict::Sustainable,
        None => CapacityVerdict::None,
    };
    let open = matches!(
        verdict,
        CapacityVerdict::AtLeast | CapacityVerdict::GeneratorLimited
    );
    let interval = match (Posterior::of(plan, &r.loads), fail) {
        _ if open => [rate.or(pass).unwrap_or(0.0), plan.max.get()],
        (Some(belief), Some(_)) => [belief.quantile(0.05), belief.quantile(0.95)],
        _ => [pass.unwrap_or(0.0), fail.unwrap_or(plan.max.get())],
    };
    Capacity {
        verdict,
        sustainable_rps: rate,
        goodput_rps: confirmed.map_or(0.0, |p| p.measurement.goodput_rps()),
        interval_rps: interval,
        error_ratio_upper: confirmed.map_or(1.0, |p| p.loss_upper),
        peak_offered_rps: probes
            .iter()
            .map(|p| p.measurement.offered.get())
            .fold(0.0, f64::max),
        confirmed_by: confirmed.map(|p| p.number),
        reasons: reasons(plan, probes, &r, verdict, why),
    }
}

fn reasons(
    plan: &Plan,
    probes: &[Probe],
    r: &Reading<'_>,
    verdict: CapacityVerdict,
    why: Option<&str>,
) -> Vec<String> {
    let mut said: Vec<String> = why.map(str::to_owned).into_iter().collect();
    let mut tripped = r.restarts.clone();
    if r.mode == Mode::Tripped {
        tripped.push(r.last_rate);
    }
    for rate in tripped {
        said.push(format!(
            "METASTABLE: it did not recover after {}",
            Rps::saturating(rate)
        ));
    }
    if r.loads
        .iter()
        .any(|p| p.verdict == Verdict::Violates && is_policy(&p.measurement))
    {
        said.push("policy, not capacity: a rate limiter answers 429, no setting of a pool moves it".into());
    }
    if r.unsettled {
        said.push("the latency did not settle within the warm-up".into());
    }
    match verdict {
        CapacityVerdict::AtLeast => {
            said.push(format!("all is well at the highest rate allowed, {}", plan.max));
        }
        CapacityVerdict::GeneratorLimited => {
            let limit = probes.iter().rev().find(|p| p.verdict == Verdict::Void);
            said.push(format!(
                "{GENERATOR_LIMITED}{}",
                limit.map_or("", |p| p.reason.as_str())
            ));
        }
        CapacityVerdict::None if why.is_none() => said.push("nothing was confirmed".into()),
        _ => {}
    }
    if plan.errors_only {
        let unseen = r
            .loads
            .iter()
            .map(|p| p.measurement.in_flight_end)
            .max()
            .unwrap_or(0);
        said.push(format!(
            "judged by error responses alone: this hides requests that are never answered, up to {unseen} at the end of a probe"
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capacity::{ProbePhase, Step, next_step};
    use crate::measurement::Measurement;
    use crate::slo::Slo;

    /// Fails when a service that the generator could not even ask at rest counts as one that carries nothing: the search
    /// would call its config infeasible, and the finals "worse".
    #[test]
    fn what_could_not_be_asked_at_rest_has_not_failed() {
        let plan = Plan::new(Slo::default(), Rps::saturating(1_000.0));
        let mut probes = Vec::new();
        let found = loop {
            match next_step(&plan, &probes) {
                Step::Done(c) => break c,
                Step::Restart { .. } => panic!("nothing tripped"),
                Step::Probe(p) => {
                    assert_eq!(p.phase, ProbePhase::Idle);
                    probes.push(Probe {
                        number: u32::try_from(probes.len()).unwrap() + 1,
                        phase: p.phase,
                        measurement: Measurement::empty(p.rate, Duration::from_secs(1)),
                        verdict: Verdict::Void,
                        reason: "send lag".to_owned(),
                        loss_upper: 1.0,
                        recovered: None,
                        telemetry: std::collections::BTreeMap::new(),
                    });
                    assert!(probes.len() < 20, "it asks for ever");
                }
            }
        };
        assert_eq!(
            (found.verdict, found.sustainable_rps),
            (CapacityVerdict::GeneratorLimited, None),
            "{found:?}"
        );
        assert!(
            found.reasons.iter().any(|r| r == "generator-limited: send lag"),
            "{found:?}"
        );
    }
}
