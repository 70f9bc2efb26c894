//! An answer from bytes instead of a socket, for the fuzz target `http_answer` and its bounded form below. Compiled for
//! those two alone.

#![allow(clippy::panic)] // an invariant that does not hold ends the fuzz target

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::classify::ERROR_TEXT;
use super::super::mix::{Expectation, Message};
use super::{Answer, Broken, Link, Stream};
use crate::measurement::OutcomeClass;

/// Gives `bytes` in pieces once something was written to it, then the end.
pub(super) struct Replay {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    asked: bool,
    waiting: Option<Waker>,
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let n = rest.len().min(self.piece).min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls to the end; an exchange over bytes that are all there must not wait for anything.
fn finish<T>(future: impl Future<Output = T>, most: usize) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..most {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
    }
    panic!("an exchange waits although its whole answer is there");
}

/// Reads `data` as what a service sent back to two requests on one connection: the first two bytes say in which pieces it
/// comes and what is expected, the rest is the answer.
///
/// # Panics
/// Where an invariant of reading answers does not hold.
#[allow(unreachable_pub)] // public for the fuzz target alone
pub fn check(data: &[u8]) {
    let [piece, expected, bytes @ ..] = data else {
        return;
    };
    let replay = Replay {
        bytes: bytes.to_vec(),
        at: 0,
        piece: usize::from(*piece) * usize::from(*piece) + 1,
        asked: false,
        waiting: None,
    };
    let expectation = Expectation {
        statuses: [vec![], vec![200], vec![201, 404], vec![500]][usize::from(expected % 4)].clone(),
        text: (expected & 4 != 0).then(|| b"ok".to_vec()),
    };
    let most = 100 + 8 * bytes.len();
    let mut link = Link::over(Stream::Replay(replay));
    let message = Message::of(b"POST /items HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}");
    let mut seen = 0_u64;
    for _ in 0..2 {
        let keep = expected & 8 != 0;
        match finish(link.exchange(&message, &expectation, keep), most) {
            Ok(answer) => seen += complete(&answer, &expectation, keep),
            Err(broken) => incomplete(&broken),
        }
        assert!(seen <= bytes.len() as u64, "more bytes than were sent");
        if !finish(link.is_open(), 1) {
            return;
        }
    }
}

fn complete(answer: &Answer, expectation: &Expectation, keep: bool) -> u64 {
    let good = super::classify::status_is_good(answer.status, expectation);
    assert!(answer.text.len() <= ERROR_TEXT && answer.text.len() as u64 <= answer.bytes);
    assert!(keep || !good || answer.text.is_empty(), "a good body was kept");
    let is_good = matches!(answer.class, OutcomeClass::Good | OutcomeClass::BodyCheck);
    assert_eq!(is_good, good, "{answer:?}");
    assert!(expectation.text.is_some() || answer.class != OutcomeClass::BodyCheck);
    answer.bytes
}

fn incomplete(broken: &Broken) {
    use OutcomeClass as C;
    assert!(
        matches!(
            broken.class,
            C::Malformed | C::ResetBeforeFirstByte | C::ResetInBody
        ),
        "{broken:?}"
    );
    assert!(!broken.unsent || broken.status.is_none(), "{broken:?}");
    assert!(!broken.why.is_empty());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEEDS: [&str; 12] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 500 \r\ncontent-length: 30\r\n\r\nQueuePool limit of size 5 over",
        "HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nok",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
    ];

    #[test]
    fn the_seeds_end_as_they_should() {
        for (n, seed) in SEEDS.iter().enumerate() {
            for piece in [0, 1, 3, 255] {
                for expected in 0..16 {
                    let mut data = vec![piece, expected];
                    data.extend_from_slice(seed.as_bytes());
                    println!("seed {n}, {piece}, {expected}");
                    check(&data);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_answer_breaks_the_reader(
            head in any::<[u8; 2]>(),
            seed in 0..SEEDS.len(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..12),
            tail in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = SEEDS[seed].as_bytes().to_vec();
            for (at, byte, how) in edits {
                let at = at.index(bytes.len().max(1));
                match how {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 => bytes.insert(at.min(bytes.len()), byte),
                    2 if at < bytes.len() => { bytes.remove(at); }
                    _ => {}
                }
            }
            bytes.extend(tail);
            check(&[&head[..], &bytes[..]].concat());
        }

        #[test]
        fn noise_breaks_nothing(data in prop::collection::vec(any::<u8>(), 0..2_048)) {
            check(&data);
        }
    }
}
