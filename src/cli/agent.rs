//! `autotune agent`, and the flags with which other commands name agents.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::load::{print, rate};
use super::{note, signals};
use crate::agent::{AgentOptions, serve};
use crate::exit::{self, ExitError};
use crate::spec::{AgentsSpec, Secret};
use crate::units::Rps;

/// Most bytes of a token, certificate or key file.
const SMALL_FILE: u64 = 1 << 20;

/// Sends its share of a probe that a controller divides between several machines.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  openssl rand -hex 32 > agent.token\n  \
                  autotune agent --token-file agent.token                              loopback, for trying\n  \
                  autotune agent --listen 10.0.0.2:7650 --token-file agent.token --allow shop.internal \\\n      \
                  --tls-cert agent.crt --tls-key agent.key\n\n\
                  The controller names its agents: `agents` and `agent_token_file` in [load], or --agents. docs/agents.md has the rest.")]
pub struct AgentArgs {
    /// Address to listen on; port 0 picks a free one, which is printed.
    #[arg(
        long,
        value_name = "ADDR",
        env = "AUTOTUNE_AGENT_LISTEN",
        default_value = "127.0.0.1:7650"
    )]
    listen: SocketAddr,
    /// File with the token that a controller must show: one line of 16 to 512 characters.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_AGENT_TOKEN_FILE", required = true)]
    token_file: PathBuf,
    /// Certificate chain as PEM: speak TLS.
    #[arg(
        long,
        value_name = "FILE",
        env = "AUTOTUNE_AGENT_TLS_CERT",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key as PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "AUTOTUNE_AGENT_TLS_KEY",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Host that may get load, as it stands in the URL; may be repeated. Where none is given, this machine and private networks may.
    #[arg(
        long,
        value_name = "HOST",
        env = "AUTOTUNE_AGENT_ALLOW",
        value_delimiter = ','
    )]
    allow: Vec<String>,
    /// Most requests per second that it sends; larger shares are not begun.
    #[arg(long, value_name = "R", env = "AUTOTUNE_AGENT_MAX_RATE", value_parser = rate)]
    max_rate: Option<Rps>,
    /// Most connections, whatever its share.
    #[arg(long, value_name = "N", env = "AUTOTUNE_AGENT_CONNECTIONS", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// CPU to pin the generator's thread to.
    #[arg(long, value_name = "CPU", env = "AUTOTUNE_CPU")]
    cpu: Option<usize>,
}

/// The agents that drive a probe in this machine's place.
#[derive(Debug, Args)]
pub struct AgentFlags {
    /// Machines that run `autotune agent` and share the load out, each host:port; may be repeated.
    #[arg(
        long = "agents",
        value_name = "HOST:PORT",
        env = "AUTOTUNE_AGENTS",
        value_delimiter = ',',
        requires = "agent_token_file"
    )]
    agents: Vec<String>,
    /// File with the agents' token.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_AGENT_TOKEN_FILE")]
    agent_token_file: Option<PathBuf>,
    /// File with the certificates that are believed of agents: speak TLS with all of them.
    #[arg(long, value_name = "FILE", env = "AUTOTUNE_AGENT_CA")]
    agent_ca: Option<PathBuf>,
}

impl AgentFlags {
    /// What they say together; nothing where no agent is named.
    pub(super) fn spec(&self) -> anyhow::Result<AgentsSpec> {
        if self.agents.is_empty() {
            return Ok(AgentsSpec::default());
        }
        let token = self.agent_token_file.as_deref().map(token).transpose()?;
        let ca = self.agent_ca.as_deref().map(read).transpose()?;
        Ok(AgentsSpec {
            addresses: self.agents.clone(),
            token,
            ca,
        })
    }
}

/// Serves until it is interrupted; the address that it listens on goes to stdout first.
///
/// # Errors
/// Files that cannot be used, an address that cannot be listened on.
pub async fn run(args: &AgentArgs, json: bool, quiet: bool) -> anyhow::Result<u8> {
    let options = AgentOptions {
        token: token(&args.token_file)?,
        // An empty variable of a stack file names no host.
        allow: args
            .allow
            .iter()
            .filter(|host| !host.is_empty())
            .cloned()
            .collect(),
        max_rate: args.max_rate,
        connections: args.connections,
        cpu: args.cpu,
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(acceptor(cert, key)?),
        _ => None,
    };
    let unable = |e: std::io::Error| {
        let code = match e.kind() {
            std::io::ErrorKind::PermissionDenied => exit::PERMISSION,
            _ => exit::UNAVAILABLE,
        };
        ExitError::new(code, format!("cannot listen on {}: {e}", args.listen))
    };
    let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(unable)?;
    let address = listener.local_addr().map_err(unable)?;
    if !quiet && tls.is_none() && !address.ip().is_loopback() {
        note(&format!(
            "{address} is not loopback, and without --tls-cert the token and the load's headers travel readably"
        ));
    }
    print(&if json {
        serde_json::json!({ "listening": address.to_string() }).to_string()
    } else {
        format!("agent listens on {address}")
    })?;
    // Whoever waits for the line gets it also through a pipe.
    std::io::stdout().flush().context("cannot write to stdout")?;
    serve(listener, tls, options, signals::interrupted())
        .await
        .map_err(unable)?;
    Ok(exit::OK)
}

/// A small text file.
fn read(path: &Path) -> anyhow::Result<String> {
    let fail = |code: u8, why: String| ExitError::new(code, format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| fail(exit::NO_INPUT, format!("can't be read: {e}")))?;
    let mut text = String::new();
    let bytes = file
        .take(SMALL_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| fail(exit::NO_INPUT, format!("can't be read: {e}")))?;
    if bytes as u64 > SMALL_FILE {
        return Err(fail(exit::DATA, "it is larger than 1 MiB".to_owned()).into());
    }
    Ok(text)
}

fn token(path: &Path) -> anyhow::Result<Secret> {
    AgentsSpec::token_of(&read(path)?)
        .map_err(|why| ExitError::new(exit::DATA, format!("{}: {why}", path.display())).into())
}

fn acceptor(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let bad = |path: &Path, e: &dyn std::fmt::Display| {
        ExitError::new(exit::DATA, format!("{} cannot be used: {e}", path.display()))
    };
    let chain = CertificateDer::pem_slice_iter(read(cert)?.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(cert, &e))?;
    let private = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes()).map_err(|e| bad(key, &e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(cert, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| bad(cert, &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
