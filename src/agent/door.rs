//! The agent's door: connections, bounded in number and in how long they may be quiet, over TLS where that is asked for.
//!
//! Handshakes run beside each other, so that one that dawdles keeps nobody else waiting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

/// Connections at a time.
const PLACES: usize = 64;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing is read or written for so long is closed. A probe's answer has a line every half second.
const QUIET: Duration = Duration::from_secs(60);
/// After a connection could not be accepted: too many open files, mostly.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Where controllers come in.
pub(super) struct Door {
    address: SocketAddr,
    guests: mpsc::Receiver<(Guest, SocketAddr)>,
    doorman: tokio::task::JoinHandle<()>,
}

impl Door {
    pub(super) fn open(listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let (sender, guests) = mpsc::channel(PLACES);
        Ok(Self {
            address: listener.local_addr()?,
            guests,
            doorman: tokio::spawn(receive(listener, tls, sender)),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.doorman.abort();
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.guests.recv().await {
            Some(guest) => guest,
            // The doorman goes with the door.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Accepts as long as the door is open.
async fn receive(listener: TcpListener, tls: Option<TlsAcceptor>, to: mpsc::Sender<(Guest, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(PLACES));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let (tls, to) = (tls.clone(), to.clone());
                tokio::spawn(async move {
                    if let Some(guest) = admit(tcp, tls, place).await {
                        // The door was closed meanwhile.
                        let _ = to.send((guest, from)).await;
                    }
                });
            }
            Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

async fn admit(tcp: TcpStream, tls: Option<TlsAcceptor>, place: OwnedSemaphorePermit) -> Option<Guest> {
    tcp.set_nodelay(true).ok()?;
    let wire: Pin<Box<dyn Wire>> = match tls {
        None => Box::pin(tcp),
        Some(tls) => Box::pin(
            tokio::time::timeout(HANDSHAKE, tls.accept(tcp))
                .await
                .ok()?
                .ok()?,
        ),
    };
    Some(Guest {
        wire,
        quiet: Box::pin(tokio::time::sleep(QUIET)),
        _place: place,
    })
}

trait Wire: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

/// A connection that is not quiet for long.
pub(super) struct Guest {
    wire: Pin<Box<dyn Wire>>,
    quiet: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// `done`, unless nothing was to be done for too long.
    fn unless_quiet<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.quiet.as_mut().reset(Instant::now() + QUIET);
        } else if self.quiet.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        done
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = self.wire.as_mut().poll_read(cx, into);
        self.unless_quiet(cx, done)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = self.wire.as_mut().poll_write(cx, bytes);
        self.unless_quiet(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.as_mut().poll_shutdown(cx)
    }
}
