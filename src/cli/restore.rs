//! `autotune restore`: gives parked containers, and services of a swarm their own specs, back after a reboot, or after tool and guardian were both killed. It waits for
//! an engine that is not up yet: whoever starts it at boot or after a crash has nobody who tries again.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::Global;
use crate::exit::{self, ExitError};
use crate::lock::{Holder, Lock, container_key};
use crate::spec::SutKind;
use crate::sut::SutError;
use crate::sut::docker::engine::{Engine, EngineError, Listed};
use crate::sut::docker::find;
use crate::sut::docker::parking::{self, Filter, GiveBack, Parked, RestoreError, Restored};
use crate::sut::swarm;
use crate::sut::swarm::spec::Service;
use crate::units::{parse_duration, show_duration};

/// Between two attempts, growing from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Flags of `restore`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  autotune restore             everything that a run left parked on this engine\n  \
              autotune restore --wait 10m  at boot, when the engine may not be up yet\n\n\
              What a living run works on is left alone (exit 75). Running it again changes nothing."
)]
pub(super) struct RestoreArgs {
    /// Only the container or service of this space file; a service also where its run was on another machine.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: Option<PathBuf>,
    /// How long an engine that is away, starting or failing is waited for, and a name that is taken; 0s tries once.
    #[arg(long, value_name = "TIME", env = "AUTOTUNE_WAIT", default_value = "1m", value_parser = parse_duration)]
    wait: Duration,
}

/// How long to go on trying, and who is told about it.
struct Patience {
    until: Instant,
    wait: Duration,
    is_quiet: bool,
    has_said: bool,
    pause: Duration,
}

impl Patience {
    fn new(wait: Duration, is_quiet: bool) -> Self {
        Self {
            // More than a year is for ever.
            until: Instant::now() + wait.min(Duration::from_secs(400 * 24 * 3600)),
            wait,
            is_quiet,
            has_said: false,
            pause: PAUSES.0,
        }
    }

    /// Whether there is time for another attempt; says once why it is needed, and waits until it is due.
    async fn allows_another(&mut self, why: &str) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        if !self.has_said && !self.is_quiet {
            // Nothing is left to do when stderr itself is gone.
            drop(writeln!(
                std::io::stderr(),
                "waiting, at most {}: {why}",
                show_duration(self.wait)
            ));
        }
        self.has_said = true;
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}

/// What an engine lists that is there, or will be in time.
async fn listed<T>(
    patience: &mut Patience,
    mut ask: impl AsyncFnMut() -> Result<T, EngineError>,
) -> Result<T, SutError> {
    loop {
        let e = match ask().await {
            Ok(all) => return Ok(all),
            Err(e) => e,
        };
        let may_pass = matches!(
            e,
            EngineError::Away(_)
                | EngineError::Missing(_)
                | EngineError::Late(_)
                | EngineError::Unreadable(_)
                | EngineError::Status(500.., _)
        );
        if !(may_pass && patience.allows_another(&e.to_string()).await) {
            return Err(e.into());
        }
    }
}

/// Which services are given their own spec back.
enum Services {
    /// None: the space file is of something else, and the swarm is not asked.
    None,
    /// All that this machine's runs left.
    All,
    /// That of a space file.
    Named(String),
}

/// The services that are meant. Asked after the containers have been given back: a swarm without a leader, a locked one, or
/// a proxy that lets nobody see services must not keep a container parked.
async fn meant(engine: &Engine, which: &Services, patience: &mut Patience) -> Result<Vec<Service>, SutError> {
    match which {
        Services::None => Ok(Vec::new()),
        Services::All => {
            let all = listed(patience, async || swarm::services(engine).await).await;
            all.map_err(|e| match e {
                SutError::Infrastructure(why) => SutError::Infrastructure(format!(
                    "{why}; containers were looked at all the same, services of the swarm could not be"
                )),
                other => other,
            })
        }
        // No swarm is an error here: there the service is on another engine.
        Services::Named(name) => {
            let all = listed(patience, async || swarm::all(engine).await).await?;
            Ok(vec![swarm::refuse::find(&all, name)?])
        }
    }
}

/// Gives back what is parked and nobody works on.
pub(super) async fn run(args: &RestoreArgs, global: &Global) -> anyhow::Result<u8> {
    let engine = Engine::from_env()
        .map_err(SutError::from)
        .map_err(ExitError::from)?;
    let mut patience = Patience::new(args.wait, global.quiet);
    let listed = listed(&mut patience, async || engine.list().await).await;
    let all: Vec<Listed> = listed.map_err(ExitError::from)?;
    let mut services = Services::None;
    let filter = match &args.space {
        None => {
            services = Services::All;
            Filter::All
        }
        Some(path) => {
            let spec = super::run::load(path)?;
            match spec.sut.map(|s| s.kind) {
                Some(SutKind::Docker(target)) => {
                    Filter::Originals(vec![find::find(&all, &target).map_err(ExitError::from)?.id])
                }
                Some(SutKind::Swarm(target)) => {
                    services = Services::Named(target.service);
                    Filter::Originals(Vec::new())
                }
                _ => Filter::Originals(Vec::new()),
            }
        }
    };
    let mut done = Vec::new();
    let mut failed = None;
    for parked in parking::observe(&all, &filter) {
        match one(&engine, &parked, &mut patience).await {
            Ok(more) => done.extend(more),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    let mut specs = Vec::new();
    let left = meant(&engine, &services, &mut patience).await;
    let left = left.unwrap_or_else(|e| {
        failed = failed.take().or(Some(e));
        Vec::new()
    });
    for s in &left {
        match one_service(&engine, s, args.space.is_some(), &mut patience).await {
            Ok(more) => specs.extend(more),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    report(&done, &specs, global.json)?;
    match failed {
        Some(e) => Err(ExitError::from(e).into()),
        None => Ok(exit::OK),
    }
}

async fn one(engine: &Engine, parked: &Parked, patience: &mut Patience) -> Result<Vec<Restored>, SutError> {
    let o = &parked.original;
    let holder = Holder::this("restore", &format!("container {}", o.name), true);
    let warn = |why: &str| drop(writeln!(std::io::stderr(), "warning: {why}"));
    let _lock = Lock::to_give_back(&container_key(parking::short(&o.id)), &holder, warn).await?;
    // A guardian that was waited for may have done it meanwhile: looked at again under the lock.
    let filter = Filter::Originals(vec![o.id.clone()]);
    let mut attempts = GiveBack::new(engine, &filter);
    insist(patience, async || attempts.attempt().await).await
}

/// Gives a service its own spec back. One that a run on another machine has is left alone, unless it was named.
async fn one_service(
    engine: &Engine,
    service: &Service,
    is_named: bool,
    patience: &mut Patience,
) -> Result<Vec<Restored>, SutError> {
    if swarm::restore::step(service) == swarm::restore::Step::Nothing {
        return Ok(Vec::new());
    }
    if !is_named {
        swarm::refuse::elsewhere(service, &swarm::host())?;
    }
    let holder = Holder::this("restore", &format!("service {}", service.name), true);
    let warn = |why: &str| drop(writeln!(std::io::stderr(), "warning: {why}"));
    let _lock = Lock::to_give_back(&swarm::lock_key(&service.id), &holder, warn).await?;
    insist(patience, async || {
        swarm::restore::give_back(engine, &service.id).await
    })
    .await
}

async fn insist(
    patience: &mut Patience,
    mut attempt: impl AsyncFnMut() -> Result<Vec<Restored>, RestoreError>,
) -> Result<Vec<Restored>, SutError> {
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(e) if e.may_pass() && patience.allows_another(&e.to_string()).await => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn report(containers: &[Restored], services: &[Restored], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let row = |kind: &str, r: &Restored| serde_json::json!({kind: r.name, "id": r.id, "running": r.runs, "what": r.what});
        let list: Vec<_> = containers
            .iter()
            .map(|r| row("container", r))
            .chain(services.iter().map(|r| row("service", r)))
            .collect();
        return writeln!(out, "{}", serde_json::json!({ "restored": list }));
    }
    if containers.is_empty() && services.is_empty() {
        return writeln!(out, "nothing is parked");
    }
    for r in containers.iter().chain(services) {
        writeln!(out, "{}", r.what)?;
    }
    Ok(())
}
