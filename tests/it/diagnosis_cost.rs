//! What sampling costs and whether it disturbs: the CPU time of this process and of the sampled containers with and
//! without telemetry, and the capacity found with and without, in turns. Part of `make diagnosis`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use autotune::capacity::{Plan, ProbePlan};
use autotune::load::Generator;
use autotune::measurement::{Bin, Measurement};
use autotune::noise::Noise;
use autotune::probing::{Attendant, Drive, find_capacity};
use autotune::slo::Slo;
use autotune::spec::{Secret, TelemetrySpec};
use autotune::telemetry::Telemetry;
use autotune::trial::Probe;
use autotune::units::{Ratio, Rps};

use crate::support::{Stack, docker, stack_wanted};

const PORT: u16 = 18_730;
/// Of each idle look, seconds.
const LOOK_S: u64 = 15;
/// Pairs of capacity searches.
const PAIRS: usize = 3;

/// CPU time of this process, seconds: fields 14 and 15 of /proc/self/stat, in ticks of 10 ms.
fn own_cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// CPU time of a container, seconds, from its control group; None where that is laid out in another way.
fn container_cpu_s(id: &str) -> Option<f64> {
    let v1 = PathBuf::from(format!("/sys/fs/cgroup/cpuacct/docker/{id}/cpuacct.usage"));
    let text = std::fs::read_to_string(v1).ok()?;
    Some(text.trim().parse::<f64>().ok()? / 1e9)
}

fn spec() -> TelemetrySpec {
    TelemetrySpec {
        postgres: Some(Secret::new(format!(
            "postgres://shop:shop@127.0.0.1:{}/shop",
            PORT + 1
        ))),
        redis: Some(Secret::new(format!("redis://127.0.0.1:{}", PORT + 2))),
        pool: Some("/pool".to_owned()),
    }
}

struct Real(Generator);

impl Drive for Real {
    async fn drive(
        &mut self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, String> {
        self.0.drive(plan, watch).await.map_err(|e| e.to_string())
    }
}

/// Samples beside the probes, or does not.
struct Perhaps(Option<Telemetry>);

impl Attendant for Perhaps {
    async fn before(&mut self, _: u32, _: &ProbePlan) {
        if let Some(t) = &mut self.0 {
            t.start();
        }
    }
    async fn on_probe(&mut self, _: &mut Probe) -> Result<(), String> {
        if let Some(t) = &mut self.0 {
            t.stop().await;
        }
        Ok(())
    }
    async fn restart(&mut self, _: Rps) -> Result<bool, String> {
        Ok(false)
    }
}

#[test]
fn stack_diagnosis_telemetry_costs_little_and_disturbs_nothing() {
    if !stack_wanted() || std::env::var_os("AUTOTUNE_TEST_DIAGNOSIS").is_none() {
        println!("skipped: `make diagnosis` runs it");
        return;
    }
    let stack = Stack::up("atcost", PORT, &[("POOL_SIZE", "2")]);
    let ids: Vec<(String, String)> = ["api", "postgres", "redis"]
        .iter()
        .map(|s| {
            let name = format!("{}-{s}-1", stack.project());
            ((*s).to_owned(), docker(&["inspect", "-f", "{{.Id}}", &name]))
        })
        .collect();
    let url = format!("http://127.0.0.1:{PORT}");
    let api = stack.api().0;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let look = async |telemetry: Option<&mut Telemetry>| {
            let before: Vec<Option<f64>> = ids.iter().map(|(_, id)| container_cpu_s(id)).collect();
            let own = own_cpu_s();
            let wait = tokio::time::sleep(Duration::from_secs(LOOK_S));
            match telemetry {
                Some(t) => {
                    t.start();
                    wait.await;
                    t.stop().await;
                }
                None => wait.await,
            }
            let share = |from: f64, to: f64| (to - from) / LOOK_S as f64;
            let own = share(own, own_cpu_s());
            let theirs: Vec<Option<f64>> = ids
                .iter()
                .zip(before)
                .map(|((_, id), b)| Some(share(b?, container_cpu_s(id)?)))
                .collect();
            (own, theirs)
        };
        let mut telemetry = Telemetry::open(&spec(), &url, std::slice::from_ref(&api), &[]).await;
        assert_eq!(telemetry.warnings(), [""; 0]);
        let (_, without) = look(None).await;
        let (own, with) = look(Some(&mut telemetry)).await;
        println!("sampling itself: {:.2} % of a core", own * 100.0);
        for (i, (name, _)) in ids.iter().enumerate() {
            if let (Some(a), Some(b)) = (without[i], with[i]) {
                println!(
                    "{name}: {:.2} % of a core idle, {:.2} % while sampled",
                    a * 100.0,
                    b * 100.0
                );
            }
        }
        assert!(own < 0.01, "sampling costs {:.2} % of a core", own * 100.0);
        drop(telemetry);

        let slo = Slo {
            errors: Ratio::saturating(0.05),
            ..Slo::default()
        };
        let plan = Plan {
            prior: Some(Rps::saturating(30.0)),
            precision: Ratio::saturating(0.05),
            confirm: Duration::from_secs(6),
            warm_up: Duration::from_secs(2),
            max_probes: 40,
            ..Plan::new(slo, Rps::saturating(500.0))
        };
        let load = crate::diagnosis_stack::plain_load();
        let mut rates = [Vec::new(), Vec::new()];
        for i in 0..2 * PAIRS {
            // In turns, each first as often as the other: off on, on off, ...
            let on = (i / 2 + i) % 2 == 1;
            let telemetry = match on {
                true => Some(Telemetry::open(&spec(), &url, std::slice::from_ref(&api), &[]).await),
                false => None,
            };
            let generator = Generator::prepare(&load, std::slice::from_ref(&url), 1).unwrap();
            let (found, _) = find_capacity(&plan, Vec::new(), &mut Real(generator), &mut Perhaps(telemetry))
                .await
                .unwrap();
            println!("telemetry {on}: {:?}", found.sustainable_rps);
            rates[usize::from(on)].extend(found.sustainable_rps);
        }
        let noise = Noise::of(&rates);
        let mean = |v: &[f64]| v.iter().map(|x| x.ln()).sum::<f64>() / v.len() as f64;
        let difference = mean(&rates[1]) - mean(&rates[0]);
        println!(
            "capacity with telemetry {:+.1} %; noise of one measurement {:.1} %, margin {:.1} %",
            difference.exp_m1() * 100.0,
            noise.cv() * 100.0,
            noise.margin(rates[0].len(), rates[1].len()) * 100.0
        );
        assert!(difference.abs() < 2.0 * noise.margin(rates[0].len(), rates[1].len()));
    });
}
