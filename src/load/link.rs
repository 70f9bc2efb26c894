//! One connection: opened, used for one exchange after the other, and every way in which it can fail told apart.
//!
//! A request is bytes made ahead (`mix`), an answer is decoded as it comes (`answer`); here are the socket between them and the buffer.
//! Bodies are read to their end and thrown away, except the first bytes of answers that are not good. Deadlines are not
//! kept here: whoever awaits an exchange drops it, and the connection with it.

#[cfg(any(test, fuzzing))]
mod replay;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::LoadError;
use super::answer::{Decoder, NotHttp};
use super::classify::{self, ERROR_TEXT, Finder};
use super::endpoint::Endpoint;
use super::mix::{Expectation, Message};
use crate::measurement::OutcomeClass;

#[cfg(fuzzing)]
pub use replay::check;

/// Most bytes of an answer's head, and of what is read at once.
const HEAD_BYTES: usize = 64 * 1024;
/// What is read at once to begin with; it grows where answers are longer.
const FIRST_READ: usize = 4 * 1024;
/// Most bytes of a body; what is longer has no end for our purposes.
const BODY_BYTES: u64 = 64 * 1024 * 1024;

/// A connection that can carry the next exchange.
pub(super) struct Link {
    stream: Stream,
    buffer: Vec<u8>,
    /// The part of the buffer that was read and not yet decoded.
    from: usize,
    to: usize,
    /// It has ended, or must not be used again.
    done: bool,
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
        Ok(Self::over(stream))
    }

    /// On a stream that is open.
    fn over(stream: Stream) -> Self {
        Self {
            stream,
            buffer: vec![0; FIRST_READ],
            from: 0,
            to: 0,
            done: false,
        }
    }

    /// Whether it can carry another exchange.
    pub(super) async fn is_open(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_closed(cx).is_pending())).await
    }

    /// While nothing is under way: ready when the connection is finished. A server has nothing to say now, so anything it says ends it.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.done {
            ready!(self.stream.poll_read(cx, &mut self.buffer)).ok();
            self.done = true;
        }
        Poll::Ready(())
    }

    /// Sends `message` and reads the answer to its end. `keep` keeps the begin of good bodies too.
    pub(super) async fn exchange(
        &mut self,
        message: &Message,
        expectation: &Expectation,
        keep: bool,
    ) -> Result<Answer, Broken> {
        let mut turn = Turn {
            decoder: Decoder::new(message.to_head),
            written: 0,
            write_over: false,
            any_read: false,
            reader: Reader {
                bytes: 0,
                text: Vec::new(),
                keep: 0,
                finder: Finder::new(None),
            },
        };
        let result = poll_fn(|cx| self.poll_exchange(cx, message, expectation, keep, &mut turn)).await;
        // An answer before the whole request was taken, or more than an answer: nothing can follow that.
        self.done |= result.is_err()
            || message.closes
            || !turn.decoder.keep_alive()
            || turn.written < message.len()
            || self.from < self.to;
        match (result, turn.decoder.status()) {
            (Ok(()), Some(status)) => Ok(Answer {
                status,
                class: classify::answer(status, expectation, turn.reader.finder.found(), &turn.reader.text),
                bytes: turn.reader.bytes,
                text: turn.reader.text,
            }),
            (Ok(()), None) => Err(turn.broken(End::Closed("it ended without an answer".into()))),
            (Err(end), _) => Err(turn.broken(end)),
        }
    }

    /// Writes what is left of the request and reads what there is of the answer. Both at once, since a server may answer, or
    /// stop reading, before it has taken all of a long body.
    fn poll_exchange<'e>(
        &mut self,
        cx: &mut Context<'_>,
        message: &Message,
        expectation: &'e Expectation,
        keep: bool,
        turn: &mut Turn<'e>,
    ) -> Poll<Result<(), End>> {
        if !turn.write_over {
            turn.write_over = self.poll_send(cx, message, &mut turn.written);
        }
        loop {
            self.make_room()?;
            let room = self.buffer.get_mut(self.to..).unwrap_or_default();
            let n = match ready!(self.stream.poll_read(cx, room)) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    return Poll::Ready(Err(End::Malformed(e.to_string())));
                }
                Err(e) => return Poll::Ready(Err(End::Closed(e.to_string()))),
            };
            if n == 0 {
                return Poll::Ready(match turn.decoder.end() {
                    true => Ok(()),
                    false => Err(End::Closed("the server closed the connection".into())),
                });
            }
            turn.any_read = true;
            self.to += n;
            let held = self.buffer.get(self.from..self.to).unwrap_or_default();
            self.from += turn.decode(held, expectation, keep)?;
            if turn.decoder.is_done() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether there is nothing more to write: all of it has left, or the server does not take it. What the server had to say is
    /// then in what can still be read.
    fn poll_send(&mut self, cx: &mut Context<'_>, message: &Message, written: &mut usize) -> bool {
        while *written < message.len() {
            let part = message.from(*written);
            match self.stream.poll_write(cx, part) {
                Poll::Pending => return false,
                Poll::Ready(Ok(n)) if n > 0 => *written += n,
                Poll::Ready(_) => return true,
            }
        }
        // TLS keeps records back until it is flushed.
        self.stream.poll_flush(cx).is_ready()
    }

    /// Makes room behind what is in the buffer, which grows until it holds the longest head; what is longer has no end.
    fn make_room(&mut self) -> Result<(), End> {
        if self.from == self.to {
            // A read that filled the buffer: there is more to come.
            if self.to == self.buffer.len() && self.to < HEAD_BYTES {
                self.buffer.resize(self.to * 2, 0);
            }
            (self.from, self.to) = (0, 0);
        } else if self.to == self.buffer.len() {
            if self.from > 0 {
                self.buffer.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            } else if self.to < HEAD_BYTES {
                self.buffer.resize(self.to * 2, 0);
            } else {
                return Err(End::Malformed(format!(
                    "the head is longer than {} KiB",
                    HEAD_BYTES >> 10
                )));
            }
        }
        Ok(())
    }
}

/// One exchange under way.
struct Turn<'e> {
    decoder: Decoder,
    written: usize,
    /// There is nothing more to write, or the server takes no more.
    write_over: bool,
    any_read: bool,
    reader: Reader<'e>,
}

/// Why there is no complete answer.
enum End {
    Malformed(String),
    Closed(String),
}

impl<'e> Turn<'e> {
    /// Decodes what it can of `held`, and tells how much that was.
    fn decode(&mut self, held: &[u8], expectation: &'e Expectation, keep: bool) -> Result<usize, End> {
        let (decoder, reader) = (&mut self.decoder, &mut self.reader);
        let malformed = |why: NotHttp| End::Malformed(why.to_owned());
        let mut taken = 0;
        if decoder.status().is_none() {
            // The head alone: what is done with the body depends on the status.
            taken = decoder.head(held).map_err(malformed)?;
            let Some(status) = decoder.status() else {
                return Ok(taken);
            };
            let good = classify::status_is_good(status, expectation);
            reader.keep = if good && !keep { 0 } else { ERROR_TEXT };
            reader.finder = Finder::new(expectation.text.as_deref().filter(|_| good));
        }
        let rest = held.get(taken..).unwrap_or_default();
        Ok(taken
            + decoder
                .body(rest, &mut |data| reader.take(data))
                .map_err(malformed)?)
    }

    fn broken(&self, end: End) -> Broken {
        let (class, why) = match end {
            End::Malformed(why) => (OutcomeClass::Malformed, why),
            End::Closed(why) if self.any_read => (OutcomeClass::ResetInBody, why),
            End::Closed(why) => (OutcomeClass::ResetBeforeFirstByte, why),
        };
        Broken {
            class,
            status: self.decoder.status(),
            unsent: self.written == 0 && !self.any_read,
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

struct Reader<'e> {
    bytes: u64,
    text: Vec<u8>,
    keep: usize,
    finder: Finder<'e>,
}

impl Reader<'_> {
    fn take(&mut self, data: &[u8]) -> Result<(), NotHttp> {
        self.bytes += data.len() as u64;
        if self.bytes > BODY_BYTES {
            return Err("the body is longer than 64 MiB");
        }
        let room = self.keep.saturating_sub(self.text.len());
        self.text
            .extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        self.finder.feed(data);
        Ok(())
    }
}

/// The stream under a connection.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, fuzzing))]
    Replay(replay::Replay),
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(match self {
            Self::Plain(s) => Pin::new(s).poll_read(cx, &mut buffer),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, &mut buffer),
            #[cfg(any(test, fuzzing))]
            Self::Replay(s) => Pin::new(s).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, bytes),
            #[cfg(any(test, fuzzing))]
            Self::Replay(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
            #[cfg(any(test, fuzzing))]
            Self::Replay(s) => Pin::new(s).poll_flush(cx),
        }
    }
}
