//! Plain HTTP/1.1 to the daemon's socket, bounded in size, and the reading of its errors. What is sent is JSON as it is:
//! a typed body would lose the fields that this version does not know.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};

use super::engine::EngineError;

/// Largest answer that is read whole; a host with a thousand containers lists in about 3 MB.
const MAX_BODY: usize = 64 << 20;
/// Largest log tail.
const MAX_LOG: usize = 64 << 10;
/// Longest line of a stream.
const MAX_LINE: usize = 1 << 20;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    pub(super) fn parse(host: &str) -> Result<Self, EngineError> {
        let bad = || {
            EngineError::Missing(format!(
                "DOCKER_HOST `{host}` is not supported; use unix:///path/to/docker.sock or tcp://host:port \
                 (for a remote engine: ssh -L /tmp/docker.sock:/var/run/docker.sock HOST)"
            ))
        };
        if let Some(path) = host.strip_prefix("unix://") {
            return if path.is_empty() {
                Err(bad())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let tcp = host.strip_prefix("tcp://").or(host.strip_prefix("http://"));
        match tcp.map(|t| t.trim_end_matches('/')) {
            Some(t) if t.contains(':') && !t.contains('/') => Ok(Self::Tcp(t.to_owned())),
            _ => Err(bad()),
        }
    }
}

/// No socket there: what to do about it.
pub(super) fn missing(host: &str) -> EngineError {
    EngineError::Missing(format!(
        "no docker engine at {host}: start it (`systemctl start docker`), or set DOCKER_HOST to where it listens \
         (`docker context inspect` says where)"
    ))
}

/// Walks to the first I/O error below `e` and says what it means for us.
pub(super) fn by_cause(host: &str, e: &(dyn std::error::Error + 'static)) -> EngineError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    for _ in 0..16 {
        let Some(c) = cause else { break };
        if let Some(io) = c.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::NotFound => missing(host),
                std::io::ErrorKind::PermissionDenied => EngineError::Forbidden(format!(
                    "permission denied at {host}: add yourself to the docker group \
                     (`sudo usermod -aG docker $USER`, then log in again) or run as root"
                )),
                kind => EngineError::Away(format!(
                    "the docker engine at {host} does not answer ({kind}): is it running (`systemctl status docker`), \
                     and is DOCKER_HOST where it listens (`docker context inspect` says where)?"
                )),
            };
        }
        cause = c.source();
    }
    EngineError::Away(format!(
        "the docker engine at {host} broke off the answer ({})",
        crate::sut::redact::printable(&e.to_string(), 200)
    ))
}

/// An answer that is not 2xx.
pub(super) fn by_status(status: u16, message: &str) -> EngineError {
    let message = crate::sut::redact::printable(message, 600);
    match status {
        404 => EngineError::NotFound(message),
        409 => EngineError::Conflict(message),
        _ => EngineError::Status(status, message),
    }
}

/// Percent-encodes what may not stand in a path segment or query value.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

async fn open(host: &str, path: &str) -> Result<hyper::Response<Incoming>, EngineError> {
    ask(host, hyper::Request::get(path), Bytes::new()).await
}

async fn ask(
    host: &str,
    request: hyper::http::request::Builder,
    body: Bytes,
) -> Result<hyper::Response<Incoming>, EngineError> {
    let request = request
        .header("host", "docker")
        .header("connection", "close")
        .body(Full::new(body))
        .map_err(|e| EngineError::Unreadable(format!("not a path: {e}")))?;
    match Address::parse(host)? {
        Address::Unix(socket) => {
            let stream = tokio::net::UnixStream::connect(socket).await;
            send(host, request, stream.map_err(|e| by_cause(host, &e))?).await
        }
        Address::Tcp(address) => {
            let stream = tokio::net::TcpStream::connect(address).await;
            send(host, request, stream.map_err(|e| by_cause(host, &e))?).await
        }
    }
}

async fn send<S>(
    host: &str,
    request: hyper::Request<Full<Bytes>>,
    stream: S,
) -> Result<hyper::Response<Incoming>, EngineError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| by_cause(host, &e))?;
    // Ends when the response's body is read or dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| by_cause(host, &e))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = collect(host, response.into_body(), MAX_LINE).await?;
    let message = serde_json::from_slice::<Json>(&body)
        .ok()
        .and_then(|j| j.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_default();
    Err(by_status(status, &message))
}

async fn collect(host: &str, mut body: Incoming, most: usize) -> Result<Bytes, EngineError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| by_cause(host, &e))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > most {
                return Err(EngineError::Unreadable(format!(
                    "docker's answer is larger than {most} bytes"
                )));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// Sends a JSON body; what comes back is not looked at. The status is.
pub(super) async fn post_json(host: &str, path: &str, json: &Json) -> Result<(), EngineError> {
    let request = hyper::Request::post(path).header("content-type", "application/json");
    let body = Bytes::from(json.to_string());
    let answer = ask(host, request, body).await?;
    collect(host, answer.into_body(), MAX_LINE).await.map(|_| ())
}

/// One JSON answer. The error never quotes the answer: it may be somebody's environment.
pub(super) async fn get_json(host: &str, path: &str) -> Result<Json, EngineError> {
    let body = collect(host, open(host, path).await?.into_body(), MAX_BODY).await?;
    serde_json::from_slice(&body).map_err(|e| {
        EngineError::Unreadable(format!(
            "docker's answer is not JSON (line {}, column {})",
            e.line(),
            e.column()
        ))
    })
}

/// The end of a body: what is longer than the bound loses its beginning.
pub(super) async fn get_bytes(host: &str, path: &str) -> Result<Bytes, EngineError> {
    let mut body = open(host, path).await?.into_body();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // A log that breaks off is still worth showing.
        let Ok(frame) = frame else { break };
        if let Ok(data) = frame.into_data() {
            all.extend_from_slice(&data);
            if all.len() > 8 * MAX_LOG {
                let cut = all.len() - MAX_LOG;
                let _ = all.split_to(cut);
            }
        }
    }
    Ok(all.freeze())
}

/// Docker frames logs of containers without a terminal: stream, three zeros, length (big endian), text.
pub(super) fn demultiplex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().min(MAX_LOG));
    let mut rest = bytes;
    while let [stream @ 0..=2, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let _ = stream;
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (chunk, after) = tail.split_at(length.min(tail.len()));
        text.extend_from_slice(chunk);
        rest = after;
    }
    text.extend_from_slice(rest);
    let cut = text.len().saturating_sub(MAX_LOG);
    String::from_utf8_lossy(text.get(cut..).unwrap_or_default()).into_owned()
}

/// A body of JSON lines that goes on.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// The next line that is JSON; None when the stream ended, which says nothing about why.
    pub async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if let Ok(json) = serde_json::from_slice(&line) {
                    return Some(json);
                }
                continue;
            }
            if self.buffer.len() > MAX_LINE {
                return None;
            }
            let data = self.body.frame().await?.ok()?.into_data().unwrap_or_default();
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// Opens a stream of JSON lines; when this returns, the daemon has accepted the subscription.
pub(super) async fn open_lines(host: &str, path: &str) -> Result<Lines, EngineError> {
    Ok(Lines {
        body: open(host, path).await?.into_body(),
        buffer: BytesMut::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_frames_are_joined_and_plain_logs_pass() {
        let framed = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"ab\n",
            &[2, 0, 0, 0, 0, 0, 0, 2],
            b"c\n",
        ]
        .concat();
        assert_eq!(demultiplex(&framed), "ab\nc\n");
        assert_eq!(demultiplex(b"plain\n"), "plain\n");
        // a length beyond the end is a cut log, not a reason to fail
        assert_eq!(demultiplex(&[1, 0, 0, 0, 0, 0, 0, 99, b'x']), "x");
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encode(r#"{"a":["b c"]}"#), "%7B%22a%22:%5B%22b%20c%22%5D%7D");
    }
}
