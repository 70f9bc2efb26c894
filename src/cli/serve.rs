//! `serve DIR`: the live page of a study.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::Global;
use crate::exit::{self, ExitError};

/// The port where none is named.
pub(super) const USUAL_PORT: u16 = 8790;

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
    #[arg(long, default_value_t = USUAL_PORT, env = "AUTOTUNE_PORT")]
    pub port: u16,
}

/// A listener on loopback; `flag` is what to choose another port with.
pub(super) async fn listen(port: u16, flag: &str) -> Result<TcpListener, ExitError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|e| {
        ExitError::new(
            exit::UNAVAILABLE,
            format!(
                "could not listen on {address}: {e}; choose another port with {flag}, or 0 for a free one"
            ),
        )
    })
}

/// Serves until `shutdown` resolves. The address goes to stderr: progress, not a result; with `--json` it is one.
pub(super) async fn serve(
    args: &ServeArgs,
    global: &Global,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<u8> {
    // First: there is nothing to invite to where no study is.
    super::report::journal(&args.dir).await?.close().await;
    let listener = listen(args.port, "--port").await?;
    let bound = listener.local_addr()?;
    // Nothing is left to do when the reader is gone.
    if global.json {
        let address = serde_json::json!({ "url": format!("http://{bound}/"), "dir": args.dir });
        drop(writeln!(std::io::stdout(), "{address}"));
    } else if !global.quiet {
        let line = crate::serve::invitation(bound, &args.dir);
        drop(writeln!(std::io::stderr(), "{line}"));
    }
    crate::serve::serve(listener, args.dir.clone(), shutdown)
        .await
        .map_err(ExitError::from)?;
    Ok(exit::OK)
}
