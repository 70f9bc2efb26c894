//! Executes the capacity search's steps against a running service: the one driver that both the
//! `capacity` command and every trial use.
//!
//! It decides nothing: `capacity::next_step` says what to do, `capacity::judge` what a measurement means. It keeps two
//! promises: a probe is durable before the next one starts, and the number of steps is bounded.

use std::ops::ControlFlow;

use crate::capacity::{
    Capacity, Plan, ProbePhase, ProbePlan, Step, Watch, after_restart, conclude, judge, next_step, simulated,
};
use crate::measurement::{Bin, Measurement};
use crate::trial::Probe;
use crate::units::Rps;

/// Something that can offer a rate and measure what comes back.
#[allow(async_fn_in_trait)] // used generically in this crate only
pub trait Drive {
    /// Offers `plan` and shows every finished bin of the window to `watch`, which may end it. Errors are for what makes
    /// measuring impossible; a service that fails is a measurement.
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String>;
}

/// What the driver asks of its caller around the probes.
#[allow(async_fn_in_trait)] // used generically in this crate only
pub trait Attendant {
    /// A probe is about to be offered: for the console, and to begin sampling.
    async fn before(&mut self, _number: u32, _plan: &ProbePlan) {}
    /// A probe was measured and judged: add what was sampled meanwhile, make it durable, then return.
    async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String>;
    /// The service did not recover from `tripped_at`. Deploy it again and return true, or false where that is not
    /// possible: the search then ends.
    async fn restart(&mut self, tripped_at: Rps) -> Result<bool, String>;
}

/// Why a search could not be carried through. What the service did wrong is never here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbingError {
    /// The load could not be driven at all.
    #[error("the load could not be driven: {0}")]
    Drive(String),
    /// A probe could not be kept.
    #[error("a probe could not be recorded: {0}")]
    Record(String),
    /// The deployment again failed.
    #[error("the service could not be restarted: {0}")]
    Restart(String),
}

/// Runs the search to its end. `before` are the probes recorded already, of an interrupted search; the answer comes with
/// all of them.
pub async fn find_capacity<D: Drive, A: Attendant>(
    plan: &Plan,
    before: Vec<Probe>,
    driver: &mut D,
    attendant: &mut A,
) -> Result<(Capacity, Vec<Probe>), ProbingError> {
    let mut probes = before;
    // Every step but a restart adds a probe, and a restart is followed by one.
    for _ in 0..=plan.max_probes {
        let probe = match next_step(plan, &probes) {
            Step::Done(capacity) => return Ok((capacity, probes)),
            Step::Probe(probe) => probe,
            Step::Restart { tripped_at } => {
                if !attendant
                    .restart(tripped_at)
                    .await
                    .map_err(ProbingError::Restart)?
                {
                    let why = "the service did not recover and cannot be deployed again from here";
                    return Ok((conclude(plan, &probes, Some(why)), probes));
                }
                after_restart(plan)
            }
        };
        let number = u32::try_from(probes.len()).unwrap_or(u32::MAX).saturating_add(1);
        attendant.before(number, &probe).await;
        let mut done = run(plan, &probe, number, driver).await?;
        attendant
            .on_probe(&mut done)
            .await
            .map_err(ProbingError::Record)?;
        probes.push(done);
    }
    let capacity = conclude(plan, &probes, Some("the bound on the number of probes was met"));
    Ok((capacity, probes))
}

/// Offers one probe and judges it.
async fn run<D: Drive>(
    plan: &Plan,
    probe: &ProbePlan,
    number: u32,
    driver: &mut D,
) -> Result<Probe, ProbingError> {
    let mut watch = Watch::new(plan, probe);
    let measurement = driver
        .drive(probe, &mut |bin| watch.observe(bin))
        .await
        .map_err(ProbingError::Drive)?;
    let judgement = judge(plan, probe, &measurement);
    Ok(Probe {
        number,
        phase: probe.phase,
        recovered: (probe.phase != ProbePhase::Idle).then_some(measurement.drained_s.is_some()),
        measurement,
        verdict: judgement.verdict,
        reason: judgement.reason,
        loss_upper: judgement.loss_upper,
        telemetry: std::collections::BTreeMap::new(),
    })
}

/// A service of arithmetic is driven in no time.
impl Drive for simulated::Service {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        Ok(Self::drive(self, plan, watch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::CapacityVerdict;
    use crate::capacity::simulated::{Law, Model, Service};
    use crate::slo::Slo;

    #[derive(Default)]
    struct Keeper {
        kept: Vec<Probe>,
        restarts: u32,
    }

    impl Attendant for Keeper {
        async fn on_probe(&mut self, probe: &mut Probe) -> Result<(), String> {
            self.kept.push(probe.clone());
            Ok(())
        }
        async fn restart(&mut self, _: Rps) -> Result<bool, String> {
            self.restarts += 1;
            Ok(false)
        }
    }

    fn plan() -> Plan {
        Plan::new(Slo::default(), Rps::saturating(100_000.0))
    }

    #[tokio::test]
    async fn a_pool_queue_is_found_and_every_probe_is_kept_in_order() {
        for capacity in [20.0, 200.0, 2000.0] {
            let mut service = Service::new(Model::new(capacity, Law::PoolQueue { timeout_s: 30.0 }), 1);
            let mut keeper = Keeper::default();
            let (found, probes) = find_capacity(&plan(), Vec::new(), &mut service, &mut keeper)
                .await
                .unwrap();
            assert_eq!(found.verdict, CapacityVerdict::Sustainable, "{found:?}");
            let rate = found.sustainable_rps.unwrap();
            assert!((rate / capacity - 1.0).abs() < 0.03, "{rate} of {capacity}");
            assert_eq!(probes, keeper.kept);
            assert!(probes.iter().enumerate().all(|(i, p)| p.number as usize == i + 1));
        }
    }

    #[tokio::test]
    async fn an_interrupted_search_goes_on_from_its_probes() {
        let model = Model::new(200.0, Law::PoolQueue { timeout_s: 1.0 });
        let mut service = Service::new(model, 1);
        let (whole, probes) = find_capacity(&plan(), Vec::new(), &mut service, &mut Keeper::default())
            .await
            .unwrap();
        let (again, same) = find_capacity(&plan(), probes.clone(), &mut service, &mut Keeper::default())
            .await
            .unwrap();
        assert_eq!((&whole, &probes), (&again, &same));
        let half = probes[..probes.len() / 2].to_vec();
        let (resumed, all) = find_capacity(&plan(), half, &mut service, &mut Keeper::default())
            .await
            .unwrap();
        assert!(all.len() > probes.len() / 2);
        assert_eq!(resumed.verdict, CapacityVerdict::Sustainable);
    }
}
