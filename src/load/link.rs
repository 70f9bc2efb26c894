//! One connection: opened, used for one exchange after the other, and every way in which it can fail told apart.
//!
//! HTTP is hyper's; its connection is polled in the task that uses it, which costs one wake an answer instead of two. Bodies are read
//! to their end and thrown away, except the first bytes of answers that are not good. Deadlines are not kept here: whoever
//! awaits an exchange drops it.

#[cfg(any(test, fuzzing))]
mod replay;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::LoadError;
use super::classify::{self, ERROR_TEXT, Finder};
use super::endpoint::Endpoint;
use super::mix::{Body, Expectation};
use crate::measurement::OutcomeClass;

#[cfg(fuzzing)]
pub use replay::check;

/// Most bytes of an answer's head, and of what is read at once.
const HEAD_BYTES: usize = 64 * 1024;
/// Most bytes of a body; what is longer has no end for our purposes.
const BODY_BYTES: u64 = 64 * 1024 * 1024;

/// A connection that can carry the next exchange.
pub(super) struct Link {
    sender: http1::SendRequest<Body>,
    connection: http1::Connection<TokioIo<Wire>, Body>,
    /// The connection future is finished and must not be polled again.
    done: bool,
    traffic: Arc<Traffic>,
}

/// Bytes that crossed the wire, to tell a reset before the answer from one inside it.
#[derive(Debug, Default)]
struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) class: OutcomeClass,
    /// Of the body.
    pub(super) bytes: u64,
    /// The body's begin, where it was kept.
    pub(super) text: Vec<u8>,
}

/// An exchange that ended without a complete answer.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) class: OutcomeClass,
    pub(super) status: Option<u16>,
    /// Not a byte of the request was written.
    pub(super) unsent: bool,
    /// For people.
    pub(super) why: String,
}

/// A connection that could not be opened.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) class: OutcomeClass,
    /// For people.
    pub(super) why: String,
}

impl Link {
    /// Connects to `endpoint`.
    pub(super) async fn open(endpoint: &Endpoint, tls: Option<&TlsConnector>) -> Result<Self, NotOpened> {
        let io_error = |e: &io::Error| NotOpened {
            class: classify::connect_error(e),
            why: e.to_string(),
        };
        let tcp = TcpStream::connect(endpoint.address)
            .await
            .map_err(|e| io_error(&e))?;
        // Requests are small and are to leave when they are due.
        tcp.set_nodelay(true).map_err(|e| io_error(&e))?;
        let stream = match (endpoint.tls, tls) {
            (true, Some(connector)) => {
                let malformed = |why: String| NotOpened {
                    class: OutcomeClass::Malformed,
                    why,
                };
                let name =
                    ServerName::try_from(endpoint.host.clone()).map_err(|e| malformed(e.to_string()))?;
                let tls = connector.connect(name, tcp).await.map_err(|e| match e.kind() {
                    io::ErrorKind::InvalidData => malformed(e.to_string()),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => NotOpened {
                        class: OutcomeClass::ResetBeforeFirstByte,
                        why: e.to_string(),
                    },
                    _ => io_error(&e),
                })?;
                Stream::Tls(Box::new(tls))
            }
            _ => Stream::Plain(tcp),
        };
        Self::over(stream).await
    }

    /// HTTP on a stream that is open.
    async fn over(stream: Stream) -> Result<Self, NotOpened> {
        let traffic = Arc::new(Traffic::default());
        let wire = Wire {
            stream,
            traffic: Arc::clone(&traffic),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|e| NotOpened {
                class: OutcomeClass::Malformed,
                why: e.to_string(),
            })?;
        Ok(Self {
            sender,
            connection,
            done: false,
            traffic,
        })
    }

    /// Drives the connection; ready when it is finished.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.done && Pin::new(&mut self.connection).poll(cx).is_ready() {
            self.done = true;
        }
        if self.done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the next request can be written at once.
    pub(super) fn is_ready(&self) -> bool {
        !self.done && self.sender.is_ready()
    }

    /// Sends `request` and reads the answer to its end. `keep` keeps the begin of good bodies too.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Body>,
        expectation: &Expectation,
        keep: bool,
    ) -> Result<Answer, Broken> {
        let before = (
            self.traffic.read.load(Ordering::Relaxed),
            self.traffic.written.load(Ordering::Relaxed),
        );
        let head = {
            let mut answer = pin!(self.sender.try_send_request(request));
            let (connection, done) = (&mut self.connection, &mut self.done);
            poll_fn(|cx| {
                if !*done && Pin::new(&mut *connection).poll(cx).is_ready() {
                    *done = true;
                }
                match answer.as_mut().poll(cx) {
                    Poll::Ready(r) => Poll::Ready(r.map_err(|e| e.into_error().to_string_with_kind())),
                    // A finished connection has told its exchange, so this does not happen; waiting would be for ever.
                    Poll::Pending if *done => {
                        Poll::Ready(Err((Kind::Closed, "connection closed".to_owned())))
                    }
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        let response = match head {
            Ok(r) => r,
            Err((kind, why)) => return Err(self.broken(before, kind, None, why)),
        };
        let status = response.status().as_u16();
        let good = classify::status_is_good(status, expectation);
        let mut reader = Reader {
            bytes: 0,
            text: Vec::new(),
            keep: if good && !keep { 0 } else { ERROR_TEXT },
            finder: Finder::new(expectation.text.as_deref().filter(|_| good)),
        };
        if let Err((kind, why)) = self.read(response.into_body(), &mut reader).await {
            return Err(self.broken(before, kind, Some(status), why));
        }
        let class = classify::answer(status, expectation, reader.finder.found(), &reader.text);
        Ok(Answer {
            status,
            class,
            bytes: reader.bytes,
            text: reader.text,
        })
    }

    async fn read(&mut self, mut body: Incoming, reader: &mut Reader<'_>) -> Result<(), (Kind, String)> {
        while !body.is_end_stream() {
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                    return Poll::Ready(frame);
                }
                // Finished or not, what it still had to say about the body is in the body's channel now.
                let _ = self.poll_closed(cx);
                Pin::new(&mut body).poll_frame(cx)
            })
            .await;
            match frame {
                None => break,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        reader.take(data)?;
                    }
                }
                Some(Err(e)) => return Err(e.to_string_with_kind()),
            }
        }
        Ok(())
    }

    fn broken(&self, before: (u64, u64), kind: Kind, status: Option<u16>, why: String) -> Broken {
        let unread = self.traffic.read.load(Ordering::Relaxed) == before.0;
        let unsent = self.traffic.written.load(Ordering::Relaxed) == before.1;
        let class = match kind {
            Kind::Malformed => OutcomeClass::Malformed,
            Kind::Closed if unread => OutcomeClass::ResetBeforeFirstByte,
            Kind::Closed => OutcomeClass::ResetInBody,
        };
        Broken {
            class,
            status,
            unsent: unsent && unread,
            why,
        }
    }
}

/// A connector that has no `Debug`.
#[derive(Clone)]
pub(super) struct Tls(pub(super) TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Trusts what the host trusts.
pub(super) fn tls_connector() -> Result<Tls, LoadError> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    use tokio_rustls::rustls::{ClientConfig, crypto};
    let broken = |e: tokio_rustls::rustls::Error| LoadError::Tls(e.to_string());
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_platform_verifier()
        .map_err(broken)?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls(TlsConnector::from(Arc::new(config))))
}

struct Reader<'a> {
    bytes: u64,
    text: Vec<u8>,
    keep: usize,
    finder: Finder<'a>,
}

impl Reader<'_> {
    fn take(&mut self, data: &Bytes) -> Result<(), (Kind, String)> {
        self.bytes += data.len() as u64;
        if self.bytes > BODY_BYTES {
            return Err((
                Kind::Malformed,
                format!("the body is longer than {} MiB", BODY_BYTES >> 20),
            ));
        }
        let room = self.keep.saturating_sub(self.text.len());
        self.text
            .extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        self.finder.feed(data);
        Ok(())
    }
}

/// What an error of hyper says about the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Malformed,
    Closed,
}

trait ToKind {
    fn to_string_with_kind(&self) -> (Kind, String);
}

impl ToKind for hyper::Error {
    fn to_string_with_kind(&self) -> (Kind, String) {
        let source = std::error::Error::source(self);
        let io = source
            .and_then(|s| s.downcast_ref::<io::Error>())
            .map(io::Error::kind);
        let chunked_garbage = matches!(io, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput));
        let malformed = (self.is_parse() && !self.is_incomplete_message()) || chunked_garbage;
        let why = source.map_or_else(|| self.to_string(), |s| format!("{self}: {s}"));
        (if malformed { Kind::Malformed } else { Kind::Closed }, why)
    }
}

/// The stream under a connection, counting.
struct Wire {
    stream: Stream,
    traffic: Arc<Traffic>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, fuzzing))]
    Replay(replay::Replay),
}

macro_rules! on_stream {
    ($self:expr, $s:ident => $call:expr) => {
        match &mut $self.stream {
            Stream::Plain($s) => {
                let $s = Pin::new($s);
                $call
            }
            Stream::Tls($s) => {
                let $s = Pin::new($s.as_mut());
                $call
            }
            #[cfg(any(test, fuzzing))]
            Stream::Replay($s) => {
                let $s = Pin::new($s);
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = on_stream!(self, s => s.poll_read(cx, buf));
        let read = (buf.filled().len() - before) as u64;
        if read > 0 {
            self.traffic.read.fetch_add(read, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = on_stream!(self, s => s.poll_write(cx, buf));
        if let Poll::Ready(Ok(n)) = result {
            self.traffic.written.fetch_add(n as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = on_stream!(self, s => s.poll_write_vectored(cx, bufs));
        if let Poll::Ready(Ok(n)) = result {
            self.traffic.written.fetch_add(n as u64, Ordering::Relaxed);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(s) => s.is_write_vectored(),
            Stream::Tls(s) => s.is_write_vectored(),
            #[cfg(any(test, fuzzing))]
            Stream::Replay(_) => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, s => s.poll_shutdown(cx))
    }
}
