//! `serve DIR`: the live page of a study.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::exit::{self, ExitError};

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autotune serve results/pool    then open the address it prints, on this machine"
)]
pub struct ServeArgs {
    /// The study's folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8790, env = "AUTOTUNE_PORT")]
    pub port: u16,
}

/// Serves until `shutdown` resolves. The address goes to stderr: progress, not a result.
pub async fn serve(
    args: &ServeArgs,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<u8> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
        ExitError::new(
            exit::UNAVAILABLE,
            format!("could not listen on {address}: {e}; choose another with --port, or 0"),
        )
    })?;
    let bound = listener.local_addr()?;
    // Nothing is left to do when stderr itself is gone.
    drop(writeln!(
        std::io::stderr(),
        "{}",
        crate::serve::invitation(bound, &args.dir)
    ));
    crate::serve::serve(listener, args.dir.clone(), shutdown)
        .await
        .map_err(ExitError::from)?;
    Ok(exit::OK)
}
