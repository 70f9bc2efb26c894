//! What `check` asks of a service that runs now, as a study would ask it: the requests of the mix, the ready path, the pool
//! page, the database. Judged elsewhere (`smoke`, `diagnosis`); nothing is parked or changed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnosis;
use crate::exit::{self, ExitError};
use crate::load::Generator;
use crate::smoke::Smoke;
use crate::spec::{Secret, StudySpec, SutKind, TelemetrySpec};
use crate::sut::{self, SutFacts};
use crate::telemetry::{Telemetry, names};
use crate::units::show_duration;

/// Between two requests of the smoke test: what runs there is in production.
const GAP: Duration = Duration::from_secs(1);

/// The smoke test of what runs now.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampled {
    /// Judged.
    Judged(Box<Smoke>),
    /// Nothing was sent; why.
    Not(String),
    /// The service that runs does not answer at its url: a study would find nothing to measure.
    Silent(String),
}

/// Whether what a study would replace answers at [sut] url now. Where each task of a service is, only a deployment says.
fn runs_at_url(kind: &SutKind) -> bool {
    match kind {
        SutKind::Docker(_) => true,
        SutKind::Swarm(target) => target.task_url.is_none(),
        _ => false,
    }
}

/// Sends the mix to the service that runs now, slowly. Only a container or a service runs before a study deploys it.
pub(super) async fn sample_what_runs(spec: &StudySpec, secrets: &[Secret]) -> Result<Sampled, ExitError> {
    let (Some(sut), Some(load)) = (&spec.sut, &spec.load) else {
        return Ok(Sampled::Not("there is no [load]".to_owned()));
    };
    if !runs_at_url(&sut.kind) {
        let why = "nothing is known to answer before a study deploys it; a study begins with this test";
        return Ok(Sampled::Not(why.to_owned()));
    }
    let generator = Generator::prepare(load, std::slice::from_ref(&sut.url), spec.seed)
        .map_err(|e| ExitError::new(exit::UNAVAILABLE, e.to_string()))?;
    if let Err(e) = generator.reach().await {
        return Ok(Sampled::Silent(format!(
            "{e}; is [sut] url where the service is published?"
        )));
    }
    let smoke = crate::study::smoke::sample(spec, &generator, GAP, secrets).await?;
    Ok(Sampled::Judged(Box::new(smoke)))
}

/// Asks what a study asks besides the requests, where it can be reached now: the ready path and the pool page of a
/// container that runs, the database and Redis of [telemetry]. False where a trial would never count as ready.
pub(super) async fn look_beside(spec: &StudySpec, facts: &mut SutFacts) -> bool {
    let Some(sut) = &spec.sut else { return true };
    let runs = runs_at_url(&sut.kind);
    let mut is_ready = true;
    if runs {
        let path = &sut.ready.path;
        match sut::ready::round(&sut.url, &sut.ready, 1).await {
            Ok(()) => facts.lines.push(format!("ready path {path}: answers 2xx")),
            Err(seen) => {
                is_ready = false;
                facts.warnings.push(format!(
                    "ready path {path}: {seen}; a trial waits {} for 2xx there and then counts as never ready: correct `ready` in [sut]",
                    show_duration(sut.ready.timeout)
                ));
            }
        }
    }
    let wanted = TelemetrySpec {
        pool: spec.telemetry.pool.clone().filter(|_| runs),
        ..spec.telemetry.clone()
    };
    let mut telemetry = Telemetry::open(&wanted, &sut.url, &[], &[]).await;
    let without = telemetry
        .warnings()
        .iter()
        .map(|w| format!("[telemetry] {w}; its figures would be missing"));
    facts.warnings.extend(without);
    if wanted.pool.is_some() && telemetry.warnings().iter().all(|w| !w.starts_with("pool")) {
        telemetry.start();
        let seen = telemetry.stop().await.figures;
        facts.lines.extend(pool_words(&seen));
        facts
            .warnings
            .extend(diagnosis::not_read_now(&spec.space, &sut.env, &seen));
    }
    is_ready
}

/// What the pool page shows.
fn pool_words(seen: &BTreeMap<String, f64>) -> Option<String> {
    let used = seen.get(names::POOL_CHECKED_OUT_PEAK)?;
    Some(match seen.get(names::POOL_CAPACITY) {
        Some(all) => format!("pool page: {used:.0} of {all:.0} connections in use now"),
        None => format!("pool page: {used:.0} connections in use now; it names no maximum"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Answers `n` requests with `status` and a body, one connection each.
    fn answering(n: usize, status: &'static str, body: &'static str) -> String {
        use std::io::Read as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().take(n) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        url
    }

    fn running(url: String) -> StudySpec {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/pool.toml");
        let mut s = crate::spec::load(&path, &|_| None).unwrap();
        s.telemetry = TelemetrySpec {
            pool: Some("/pool".to_owned()),
            ..TelemetrySpec::default()
        };
        if let Some(sut) = &mut s.sut {
            (sut.url, sut.env) = (url, BTreeMap::new());
        }
        s.space.parameters.retain(|p| p.name == "pool_size");
        s
    }

    /// Fails when a container that would never count as ready, or whose pool page is none, is called fine.
    #[tokio::test]
    async fn what_runs_is_asked_as_a_study_would_ask() {
        let mut facts = SutFacts::default();
        let s = running(answering(2, "404 Not Found", "{}"));
        assert!(!look_beside(&s, &mut facts).await);
        let said = facts.warnings.join("\n");
        assert!(
            said.contains("status 404") && said.contains("never ready"),
            "{said}"
        );
        assert!(said.contains("pool endpoint: answered 404"), "{said}");

        let mut facts = SutFacts::default();
        let mut s = running(answering(9, "200 OK", r#"{"checked_out": 1, "capacity": 64}"#));
        s.space.parameters[0].baseline = crate::space::Value::Int(5);
        assert!(look_beside(&s, &mut facts).await);
        let said = format!("{}\n{}", facts.lines.join("\n"), facts.warnings.join("\n"));
        assert!(said.contains("1 of 64 connections in use now"), "{said}");
        assert!(said.contains("POOL_SIZE seems not to be read, or"), "{said}");
    }
}
