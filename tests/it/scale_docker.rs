//! Several instances on a real engine, without a balancer: each is reached by itself, all are gone afterwards. Skipped, with
//! the reason, where no engine answers.

use std::collections::BTreeSet;

use autotune::space::{Binding, Config, Domain, Parameter, Value};
use autotune::spec::DockerRef;
use autotune::sut::docker::engine::FaultPlan;
use autotune::sut::docker::parking::{self, Filter, ORIGINAL};
use autotune::sut::{Health, Sut, SutError};
use autotune::trial::Failure;

use crate::docker_kit::{Given, config, get, kit, parameters};

fn with_replicas() -> Vec<Parameter> {
    let mut all = parameters();
    all.push(Parameter {
        name: "replicas".into(),
        domain: Domain::Int {
            low: 1,
            high: 3,
            step: 1,
            log: false,
        },
        baseline: Value::Int(1),
        binding: Binding::Replicas,
        only_if: None,
    });
    all
}

fn of(replicas: i64, mode: &str) -> Config {
    let mut c = config(3, mode);
    c.set("replicas", Value::Int(replicas));
    c
}

/// Host names that answer at `urls`.
async fn hosts(urls: &[String]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for url in urls {
        let body = get(url).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        seen.insert(json["host"].as_str().unwrap().to_owned());
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_deployed_reached_and_taken_away_together() {
    let Some(mut kit) = kit("instances_are_deployed_reached_and_taken_away_together").await else {
        return;
    };
    // A fixed port, which only one of them can have.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let given = Given {
        port: Some(port),
        ..Given::default()
    };
    let id = kit.original("api", given).await;
    let name = kit.name("api");
    let target = kit.service("api");
    let mut spec = kit.spec(target.clone());
    spec.url = format!("http://127.0.0.1:{port}");
    let mut sut = kit.sut_of(&spec, &target, kit.engine.clone());
    let facts = sut.preflight(&with_replicas()).await.unwrap();
    assert_eq!(facts.today["replicas"], Value::Int(1));

    for count in [3_usize, 1] {
        let replicas = i64::try_from(count).unwrap();
        let up = sut
            .deploy(1, &with_replicas(), &of(replicas, "ok"))
            .await
            .unwrap();
        assert_eq!((up.urls.len(), up.containers.len()), (count, count));
        assert_eq!(up.urls[0], spec.url, "the first has the original's port");
        assert!(up.proof.contains(&format!("instances={count}")), "{:?}", up.proof);
        assert_eq!(hosts(&up.urls).await.len(), count, "each url is another instance");
        assert_eq!(sut.health().await, Health::Running);
        assert_eq!(kit.left_over().await.len(), count);
        for c in &up.containers {
            let seen = kit.engine.inspect(c).await.unwrap();
            assert_eq!(
                seen["HostConfig"]["Memory"],
                64 << 20,
                "limits are of each instance"
            );
            assert_eq!(seen["Config"]["Labels"][ORIGINAL], id.as_str());
        }
    }
    sut.teardown().await.unwrap();
    assert_eq!(kit.left_over().await, Vec::<String>::new());
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &name, true, "several instances").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_is_noticed_whichever_it_is() {
    let Some(mut kit) = kit("an_instance_that_dies_is_noticed_whichever_it_is").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let mut sut = kit.sut("api");
    let up = sut.deploy(1, &with_replicas(), &of(2, "ok")).await.unwrap();
    let _ = get(&format!("{}/exit", up.urls[1])).await;
    let mut last = Health::Running;
    let seen = crate::docker_kit::eventually(async || {
        last = sut.health().await;
        last != Health::Running
    })
    .await;
    assert!(
        seen && matches!(&last, Health::Failed(Failure::Crash, d) if d.contains("status 4")),
        "{last:?}"
    );
    let error = sut
        .deploy(2, &with_replicas(), &of(2, "crash"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            SutError::Config {
                failure: Failure::Crash,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        kit.left_over().await,
        Vec::<String>::new(),
        "a failed trial leaves nothing"
    );
    sut.restore().await.unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "after a crash")
        .await;
}

/// As after kill -9: somebody who knows nothing but Docker's labels gives the container back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_killed_run_are_removed_by_their_labels() {
    let Some(mut kit) = kit("instances_of_a_killed_run_are_removed_by_their_labels").await else {
        return;
    };
    let id = kit.original("api", Given::default()).await;
    let target = DockerRef::Service {
        service: "api".into(),
        project: Some(kit.prefix.clone()),
    };
    // Dead after the second create, which Docker still carries out: rename, stop, create, start, create.
    let engine = kit.engine.clone().with_faults(FaultPlan {
        at: 5,
        carried_out: true,
        changes_only: true,
    });
    let mut sut = kit.sut_of(&kit.spec(target.clone()), &target, engine);
    sut.deploy(1, &with_replicas(), &of(3, "ok")).await.unwrap_err();
    assert_eq!(kit.left_over().await.len(), 2, "two instances were made");
    drop(sut);
    parking::restore_all(&kit.engine, &Filter::Originals(vec![id.clone()]))
        .await
        .unwrap();
    kit.assert_given_back(&id, &kit.name("api"), true, "after a kill")
        .await;
}
