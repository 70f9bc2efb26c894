//! What several instances need of the driver: the connection budget asked and kept, and uneven load between them told.

use super::Study;
use crate::event::{Event, Sink};
use crate::exit::{self, ExitError};
use crate::space::{Binding, Config, Limit, Space, samples};
use crate::spec::{Connections, StudySpec};
use crate::store::{Journal, kinds};
use crate::sut::SutFacts;
use crate::telemetry::{self, names};
use crate::trial::{Probe, Trial};

/// How much more than the mean an instance may get before it is said.
const UNEVEN: f64 = 1.2;
/// Requests in a probe below which shares say nothing.
const ENOUGH: u64 = 200;
/// Configs among which the largest is looked for.
const TRIED: u64 = 512;

/// The budget of `spec` with what is usable, the database being asked where the file says so; None without a budget.
/// `service` are the addresses that the service itself connects from.
pub async fn connections(spec: &StudySpec, service: &[String]) -> Result<Option<Connections>, ExitError> {
    let Some(budget) = &spec.connections else {
        return Ok(None);
    };
    if let Some(usable) = budget.usable {
        return Ok(Some(Connections::of(budget, usable, None)));
    }
    let Some(url) = &spec.telemetry.postgres else {
        let what = "[budget] connections = \"postgres\" needs [telemetry] postgres, the database to ask";
        return Err(ExitError::new(exit::DATA, what));
    };
    let usable = telemetry::usable_connections(url, service).await.map_err(|why| {
        let what = format!(
            "[budget] connections: the database of [telemetry] postgres could not be asked ({why}); mend that, or write the \
             number of usable connections there"
        );
        ExitError::new(exit::UNAVAILABLE, what)
    })?;
    Ok(Some(Connections::of(budget, usable.count(), Some(usable))))
}

/// Makes the budget a constraint of `spec`; the arithmetic in words, None without a budget. Refused with exit code 65.
pub async fn limit(spec: &mut StudySpec, service: &[String]) -> Result<Option<String>, ExitError> {
    match connections(spec, service).await? {
        Some(c) => apply(spec, &c).map(Some),
        None => Ok(None),
    }
}

fn apply(spec: &mut StudySpec, c: &Connections) -> Result<String, ExitError> {
    spec.apply_connections(c)
        .map_err(|why| ExitError::new(exit::DATA, why))
}

/// The same for a study with a journal: what the database said when the study began stays, so that a resumed study has the
/// same space; other limits of the database are refused.
pub(super) async fn limit_journalled(
    spec: &mut StudySpec,
    service: &[String],
    store: &impl Journal,
    sink: &mut dyn Sink,
) -> Result<(), ExitError> {
    let Some(now) = connections(spec, service).await? else {
        return Ok(());
    };
    let kept = kept_budget(store).await?;
    let fixed = |c: &Connections| c.asked.map(|u| (u.max_connections, u.reserved));
    let used = match kept {
        Some(kept) if fixed(&kept) != fixed(&now) => {
            return Err(ExitError::new(
                exit::DATA,
                format!(
                    "the database allows other connections than when this study began ({} then, {} now): trials would not be \
                     comparable; change it back, or begin again with --fresh (the old study is kept)",
                    kept.limit_words(),
                    now.limit_words()
                ),
            ));
        }
        Some(kept) => kept,
        None => {
            store
                .log(
                    kinds::CONNECTIONS,
                    &serde_json::to_value(&now).unwrap_or_default(),
                )
                .await?;
            // Two workers that begin a study at once: what was written first counts for both.
            kept_budget(store).await?.unwrap_or(now)
        }
    };
    sink.event(&Event::Note(apply(spec, &used)?));
    Ok(())
}

/// The same for those who deploy with other tools: the database is asked by the first ask, and what it said stays. The
/// addresses of the service are not known here, so what it holds today counts as used by others.
pub(crate) async fn limit_asked(
    spec: &mut StudySpec,
    store: &impl Journal,
) -> Result<Option<String>, ExitError> {
    if spec.connections.is_none() {
        return Ok(None);
    }
    let used = match kept_budget(store).await? {
        Some(kept) => kept,
        None => match connections(spec, &[]).await? {
            Some(now) => {
                let said = serde_json::to_value(&now).unwrap_or_default();
                store.log(kinds::CONNECTIONS, &said).await?;
                now
            }
            None => return Ok(None),
        },
    };
    apply(spec, &used).map(Some)
}

async fn kept_budget(store: &impl Journal) -> Result<Option<Connections>, ExitError> {
    let first = store.events(kinds::CONNECTIONS).await?.into_iter().next();
    Ok(first.and_then(|v| serde_json::from_value(v).ok()))
}

/// Says where instances with limits of their own could ask for more cores than the engine's host has.
pub fn overcommitted(space: &Space, facts: &SutFacts) -> Option<String> {
    let cores: f64 = facts.environment.get("engine_cpus")?.parse().ok()?;
    let named = |wanted: &Binding| {
        space
            .parameters
            .iter()
            .find(|p| p.binding == *wanted)
            .map(|p| p.name.clone())
    };
    let (replicas, cpus) = (named(&Binding::Replicas)?, named(&Binding::Limit(Limit::Cpus))?);
    let total = |c: &Config| Some(c.get(&replicas)?.as_f64()? * c.get(&cpus)?.as_f64()?);
    let most = samples(space, 1, TRIED)
        .filter(|c| space.is_legal(c))
        .filter_map(|c| total(&c))
        .fold(0.0, f64::max);
    (most > cores).then(|| {
        format!(
            "limits are of one instance: together they may reach {most} cpus on a host of {cores}, where instances only take from \
             each other; add [[constraints]] that = \"{replicas} * {cpus} <= {cores}\""
        )
    })
}

/// Whether the load was uneven between instances, in words: judged on the last probe with enough requests.
fn uneven(probes: &[Probe]) -> Option<String> {
    let figure = |p: &Probe, key: &str| p.telemetry.get(key).copied();
    let probe = probes.iter().rev().find(|p| {
        p.measurement.scheduled >= ENOUGH && p.telemetry.contains_key(names::INSTANCE_TRAFFIC_RATIO)
    })?;
    let ratio = figure(probe, names::INSTANCE_TRAFFIC_RATIO).filter(|r| *r > UNEVEN)?;
    let count = figure(probe, names::CONTAINERS).unwrap_or(0.0);
    let cpu = match (
        figure(probe, names::INSTANCE_CPU_MAX),
        figure(probe, names::INSTANCE_CPU_MIN),
    ) {
        (Some(a), Some(b)) => format!(" (busiest {a:.2} cores, idlest {b:.2})"),
        _ => String::new(),
    };
    Some(format!(
        "of {count} instances one got {ratio:.2} times the mean of the traffic{cpu}: the balancer's policy, or long connections, \
         keep the others from helping"
    ))
}

impl Study<'_> {
    /// Says where the instances of a trial did not share the load.
    pub(super) async fn tell_uneven(&mut self, trial: &Trial) {
        if let Some(words) = uneven(&trial.probes) {
            self.warn_once(vec![format!("trial {}: {words}", trial.number)])
                .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::ProbePhase;
    use crate::measurement::Measurement;
    use crate::slo::Verdict;
    use crate::units::Rps;

    fn probe(scheduled: u64, figures: &[(&str, f64)]) -> Probe {
        let mut measurement = Measurement::empty(Rps::saturating(100.0), std::time::Duration::from_secs(10));
        measurement.scheduled = scheduled;
        Probe {
            number: 1,
            phase: ProbePhase::Growth,
            measurement,
            verdict: Verdict::Meets,
            reason: String::new(),
            loss_upper: 0.0,
            recovered: None,
            telemetry: figures.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        }
    }

    #[test]
    fn more_cores_than_the_host_has_are_said_unless_a_constraint_keeps_them_away() {
        let text = |rest: &str| {
            format!(
                "[parameters.replicas]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nreplicas = true\n\
                 [parameters.cpus]\ntype = \"float\"\nlow = 0.5\nhigh = 1.0\nstep = 0.5\nbaseline = 1.0\nlimit = \"cpus\"\n\
                 [sut]\nkind = \"docker\"\nservice = \"api\"\nurl = \"http://127.0.0.1:1\"\n[study]\ntrials = 2\n\
                 [load]\nrequests = [{{ path = \"/\" }}]\n{rest}"
            )
        };
        let space = |rest: &str| {
            crate::spec::parse(&text(rest), "x.toml", &|_| None, &|_| Err(String::new()))
                .unwrap_or_else(|e| panic!("{e}"))
                .space
        };
        let mut facts = SutFacts::default();
        assert_eq!(
            overcommitted(&space(""), &facts),
            None,
            "nothing is known of the host"
        );
        facts.environment.insert("engine_cpus".into(), "2".into());
        assert!(
            overcommitted(&space(""), &facts)
                .unwrap()
                .contains("replicas * cpus <= 2")
        );
        let kept = space("[[constraints]]\nthat = \"replicas * cpus <= 2\"\n");
        assert_eq!(overcommitted(&kept, &facts), None);
    }

    #[test]
    fn uneven_load_is_said_and_even_load_is_not() {
        let of = |ratio: f64, scheduled: u64| {
            uneven(&[probe(
                scheduled,
                &[(names::INSTANCE_TRAFFIC_RATIO, ratio), (names::CONTAINERS, 3.0)],
            )])
        };
        assert_eq!(of(1.05, 1_000), None);
        assert_eq!(of(2.5, 20), None, "a few requests are never even");
        assert!(of(2.5, 1_000).unwrap().contains("2.50 times"));
        assert_eq!(uneven(&[probe(1_000, &[])]), None);
    }
}
