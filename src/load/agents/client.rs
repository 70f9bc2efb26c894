//! One agent as the controller sees it: an address, and short-lived connections with a deadline on every step.
//!
//! A connection is polled by whoever asks on it, so that a clock is read without a detour over other tasks. Nothing is kept from
//! probe to probe: an agent that was restarted meanwhile is found again by the next question.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::offset::Exchange;
use super::wire::{ClockNow, LONGEST_LINE, Line, Refusal, VERSION, VERSION_HEADER};
use crate::load::LoadError;
use crate::load::endpoint::is_near;
use crate::load::link::{Tls, tls_connector};
use crate::spec::{AgentsSpec, Secret};

/// Longest wait for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for a short answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Longest short answer, bytes.
const MOST_ANSWER: usize = 64 << 10;

/// What kind of trouble an agent makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentFault {
    /// Nobody answers there, or not in time, or it is at work for somebody else.
    Unavailable,
    /// The token is wrong, or the agent does not send load where it is wanted.
    Refused,
    /// It speaks another version.
    Version,
}

/// Trouble with an agent whose name the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) fault: AgentFault,
    pub(super) why: String,
    /// It would work with more time before the start.
    pub(super) late: bool,
}

impl Trouble {
    pub(super) fn new(fault: AgentFault, why: impl Into<String>) -> Self {
        Self {
            fault,
            why: why.into(),
            late: false,
        }
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(AgentFault::Unavailable, why)
    }

    pub(super) fn of(self, agent: &Address) -> LoadError {
        LoadError::Agent {
            agent: agent.name.clone(),
            fault: self.fault,
            why: self.why,
        }
    }
}

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// "host:port".
    pub(super) name: String,
    host: String,
    port: u16,
    tls: bool,
}

impl Address {
    /// Whether it is spoken to over TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Of "host:port" or "https://host:port".
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self, String> {
        let (rest, tls) = match text.strip_prefix("https://") {
            Some(rest) => (rest, true),
            None => (text, tls),
        };
        let parts = rest.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse::<u16>().ok().filter(|p| *p > 0)?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let sound = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
            sound.then(|| (host.to_owned(), port))
        });
        let (host, port) = parts.ok_or("an agent is written host:port, or https://host:port with TLS")?;
        Ok(Self {
            name: rest.to_owned(),
            host,
            port,
            tls,
        })
    }
}

/// What every agent is shown: the token, and which certificates are believed.
#[derive(Debug, Clone)]
pub(super) struct Key {
    token: Secret,
    tls: Option<Tls>,
}

impl Key {
    pub(super) fn new(spec: &AgentsSpec, any_tls: bool) -> Result<Self, LoadError> {
        let token = spec.token.clone().ok_or_else(|| {
            LoadError::Request("agents need a token: name the file in `agent_token_file`".into())
        })?;
        let tls = match (&spec.ca, any_tls) {
            (_, false) => None,
            (None, true) => Some(tls_connector()?),
            (Some(pem), true) => Some(trusting(pem)?),
        };
        Ok(Self { token, tls })
    }
}

/// Trusts the certificates of `pem` and no others.
fn trusting(pem: &str) -> Result<Tls, LoadError> {
    let broken = |e: &dyn std::fmt::Display| LoadError::Tls(format!("`agent_ca`: {e}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| broken(&e))?;
        roots.add(certificate).map_err(|e| broken(&e))?;
    }
    if roots.is_empty() {
        return Err(broken(&"there is no certificate in it"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| broken(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls(tokio_rustls::TlsConnector::from(Arc::new(config))))
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// What moves a connection's bytes; it is polled beside whatever waits for them.
struct Pump {
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    over: bool,
}

impl Pump {
    /// `work`, with the connection kept going. A connection that ends meanwhile may have brought what is waited for.
    async fn during<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // How it ended is told by the work, which fails then.
                _ = &mut self.connection, if !self.over => self.over = true,
            }
        }
    }
}

/// An open connection to an agent.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    pump: Pump,
    host: String,
    token: Secret,
}

impl Connection {
    pub(super) async fn open(agent: &Address, key: &Key) -> Result<Self, Trouble> {
        match timeout(CONNECT, Self::connect(agent, key)).await {
            Ok(opened) => opened,
            Err(_) => Err(Trouble::unavailable(format!(
                "no connection within {} s",
                CONNECT.as_secs()
            ))),
        }
    }

    async fn connect(agent: &Address, key: &Key) -> Result<Self, Trouble> {
        let broken = |what: &str, e: &dyn std::fmt::Display| Trouble::unavailable(format!("{what}: {e}"));
        let tcp = TcpStream::connect((agent.host.as_str(), agent.port))
            .await
            .map_err(|e| broken("cannot connect; is `autotune agent` running there?", &e))?;
        tcp.set_nodelay(true)
            .map_err(|e| broken("cannot set up the connection", &e))?;
        let near = tcp.peer_addr().is_ok_and(|a| is_near(a.ip()));
        let wire: Box<dyn Wire> = match &key.tls {
            Some(tls) if agent.tls => {
                let name = ServerName::try_from(agent.host.clone())
                    .map_err(|e| broken("its host is no name for a certificate", &e))?;
                let secured = tls.0.connect(name, tcp).await;
                Box::new(secured.map_err(|e| broken("no TLS connection", &e))?)
            }
            _ if near => Box::new(tcp),
            _ => {
                let why = "it is beyond this machine and private networks: its token goes there over TLS only, write https://host:port";
                return Err(Trouble::new(AgentFault::Refused, why));
            }
        };
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|e| broken("no HTTP connection", &e))?;
        Ok(Self {
            sender,
            pump: Pump {
                connection: Box::pin(connection),
                over: false,
            },
            host: agent.name.clone(),
            token: key.token.clone(),
        })
    }

    fn request(&self, path: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, Trouble> {
        let method = if body.is_some() { "POST" } else { "GET" };
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .header(VERSION_HEADER, VERSION)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|_| Trouble::new(AgentFault::Refused, "the token cannot be sent in a header"))
    }

    /// Sends a request and waits for the head of the answer; refusals are trouble.
    async fn head(&mut self, path: &str, body: Option<Bytes>) -> Result<Response<Incoming>, Trouble> {
        let request = self.request(path, body)?;
        let answer = self.pump.during(self.sender.send_request(request)).await;
        answer.map_err(|e| Trouble::unavailable(format!("the connection was lost: {e}")))
    }

    /// A short question.
    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, Trouble> {
        let whole = async {
            let answer = self.head(path, body).await?;
            let status = answer.status();
            let bytes = self.short(answer.into_body()).await?;
            if !status.is_success() {
                return Err(refusal(status, &bytes));
            }
            serde_json::from_slice(&bytes)
                .map_err(|e| Trouble::unavailable(format!("its answer to {path} makes no sense: {e}")))
        };
        timeout(ANSWER, whole).await.unwrap_or_else(|_| {
            Err(Trouble::unavailable(format!(
                "no answer to {path} within {} s",
                ANSWER.as_secs()
            )))
        })
    }

    async fn short(&mut self, body: Incoming) -> Result<Bytes, Trouble> {
        let all = self.pump.during(Limited::new(body, MOST_ANSWER).collect()).await;
        all.map(http_body_util::Collected::to_bytes)
            .map_err(|e| Trouble::unavailable(format!("its answer broke off: {e}")))
    }

    /// Reads the agent's clock once; times are nanoseconds since `epoch`.
    pub(super) async fn clock(&mut self, epoch: Instant) -> Result<Exchange, Trouble> {
        let request = self.request("/clock", None)?;
        let whole = async {
            let since = |at: Instant| super::wire::nanos(at.saturating_duration_since(epoch));
            let sent = Instant::now();
            let answer = self.pump.during(self.sender.send_request(request)).await;
            let received = Instant::now();
            let answer = answer.map_err(|e| Trouble::unavailable(format!("the connection was lost: {e}")))?;
            let status = answer.status();
            let bytes = self.short(answer.into_body()).await?;
            if !status.is_success() {
                return Err(refusal(status, &bytes));
            }
            let now: ClockNow = serde_json::from_slice(&bytes)
                .map_err(|e| Trouble::unavailable(format!("its clock makes no sense: {e}")))?;
            Ok(Exchange {
                sent: since(sent),
                received: since(received),
                shown: now.now_ns,
            })
        };
        timeout(ANSWER, whole).await.unwrap_or_else(|_| {
            Err(Trouble::unavailable(format!(
                "its clock did not answer within {} s",
                ANSWER.as_secs()
            )))
        })
    }

    /// Orders a probe; the answer is its lines.
    pub(super) async fn lines(mut self, path: &str, body: Bytes) -> Result<Lines, Trouble> {
        let accepted = async {
            let answer = self.head(path, Some(body)).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer.into_body());
            }
            let bytes = self.short(answer.into_body()).await?;
            Err(refusal(status, &bytes))
        };
        let body = timeout(ANSWER, accepted).await.unwrap_or_else(|_| {
            Err(Trouble::unavailable(format!(
                "no answer to {path} within {} s",
                ANSWER.as_secs()
            )))
        })?;
        Ok(Lines {
            body,
            pump: self.pump,
            buffer: BytesMut::new(),
        })
    }
}

/// What a status that is no success means; the agent says it in a sentence.
fn refusal(status: StatusCode, body: &[u8]) -> Trouble {
    let why = serde_json::from_slice::<Refusal>(body).map_or_else(
        |_| format!("it answered {status}, which no agent of this version does"),
        |r| r.error,
    );
    let fault = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AgentFault::Refused,
        StatusCode::UPGRADE_REQUIRED => AgentFault::Version,
        _ => AgentFault::Unavailable,
    };
    Trouble {
        late: status == StatusCode::REQUEST_TIMEOUT,
        ..Trouble::new(fault, why)
    }
}

/// The lines of a running probe. Dropped, the connection closes, and the agent stops its load.
pub(super) struct Lines {
    body: Incoming,
    pump: Pump,
    buffer: BytesMut,
}

impl Lines {
    /// The next line; the caller keeps the deadline. Errors are words for what was lost.
    pub(super) async fn next(&mut self) -> Result<Line, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line)
                    .map_err(|e| format!("it sent a line that makes no sense: {e}"));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(format!("it sent a line of more than {} MiB", LONGEST_LINE >> 20));
            }
            match self.pump.during(self.body.frame()).await {
                None => return Err("it ended the connection before the result".to_owned()),
                Some(Err(e)) => return Err(format!("the connection was lost: {e}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports() {
        let a = Address::parse("10.0.0.2:7650", false).unwrap();
        assert_eq!((a.name.as_str(), a.port, a.tls), ("10.0.0.2:7650", 7650, false));
        let b = Address::parse("https://[::1]:1", false).unwrap();
        assert_eq!((b.host.as_str(), b.tls), ("::1", true));
        for bad in ["", "a", "a:", ":1", "a:0", "a:70000", "http://a:1/x", "u@a:1"] {
            assert!(Address::parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_keep_the_agents_sentence() {
        let r = refusal(StatusCode::FORBIDDEN, br#"{"error":"no load there"}"#);
        assert_eq!((r.fault, r.why.as_str()), (AgentFault::Refused, "no load there"));
        assert_eq!(
            refusal(StatusCode::UPGRADE_REQUIRED, b"{}").fault,
            AgentFault::Version
        );
        assert!(refusal(StatusCode::REQUEST_TIMEOUT, b"").late);
    }
}
