//! `autotune restore`: gives parked containers back after a reboot, or after tool and guardian were both killed.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::Global;
use crate::exit::{self, ExitError};
use crate::lock::{Holder, Lock, container_key};
use crate::spec::SutKind;
use crate::sut::SutError;
use crate::sut::docker::engine::Engine;
use crate::sut::docker::find;
use crate::sut::docker::parking::{self, Filter, Parked, Restored};

/// Flags of `restore`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autotune restore          everything that a run left parked on this engine\n\n\
              What a living run works on is left alone (exit 75). Running it again changes nothing."
)]
pub(super) struct RestoreArgs {
    /// Only the container of this space file.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_SPACE")]
    space: Option<PathBuf>,
}

/// Gives back what is parked and nobody works on.
pub(super) async fn run(args: &RestoreArgs, global: &Global) -> anyhow::Result<u8> {
    let engine = Engine::from_env()
        .map_err(SutError::from)
        .map_err(ExitError::from)?;
    let all = engine
        .list()
        .await
        .map_err(SutError::from)
        .map_err(ExitError::from)?;
    let filter = match &args.space {
        None => Filter::All,
        Some(path) => {
            let spec = super::run::load(path)?;
            match spec.sut.map(|s| s.kind) {
                Some(SutKind::Docker(target)) => {
                    Filter::Originals(vec![find::find(&all, &target).map_err(ExitError::from)?.id])
                }
                _ => Filter::Originals(Vec::new()),
            }
        }
    };
    let mut done = Vec::new();
    let mut failed = None;
    for parked in parking::observe(&all, &filter) {
        match one(&engine, &parked).await {
            Ok(more) => done.extend(more),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    report(&done, global.json)?;
    match failed {
        Some(e) => Err(ExitError::from(e).into()),
        None => Ok(exit::OK),
    }
}

async fn one(engine: &Engine, parked: &Parked) -> Result<Vec<Restored>, SutError> {
    let o = &parked.original;
    let holder = Holder::this("restore", &format!("container {}", o.name), true);
    let _lock = Lock::container(&container_key(parking::short(&o.id)), &holder).await?;
    // A guardian that was waited for may have done it meanwhile: looked at again under the lock.
    Ok(parking::restore_all(engine, &Filter::Originals(vec![o.id.clone()])).await?)
}

fn report(done: &[Restored], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = done
            .iter()
            .map(|r| serde_json::json!({"container": r.name, "id": r.id, "running": r.runs, "what": r.what}))
            .collect();
        return writeln!(out, "{}", serde_json::json!({ "restored": list }));
    }
    if done.is_empty() {
        return writeln!(out, "nothing is parked");
    }
    for r in done {
        writeln!(out, "{}", r.what)?;
    }
    Ok(())
}
