//! HTTP/1.1 answers, decoded as their bytes come in (RFC 9112). Pure: no sockets, no clock.
//!
//! The lines of a head are parsed by httparse; here is what follows from them: where the body ends, what is not an answer, and
//! whether the connection can carry another. hyper does the same and more, and costs the generator a third of its CPU (docs/load.md).
//! Bodies are handed on piece by piece and never kept.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

/// Most header lines of an answer.
const HEADERS: usize = 100;
/// Longest line of a chunk's size or of a trailer, bytes.
const LINE: usize = 16 * 1024;
/// Most bytes of all trailers.
const TRAILERS: usize = 64 * 1024;

/// Why bytes are not an answer.
pub(super) type NotHttp = &'static str;

/// Decodes one answer after the other, each with a decoder of its own.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// The request was a HEAD: its answer has no body, whatever it says.
    to_head: bool,
    status: Option<u16>,
    keep_alive: bool,
    /// Bytes of the unfinished head that were looked at.
    seen: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes of the body still to come.
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// With the bytes of the trailers so far.
    Trailers(usize),
    Done,
}

impl Decoder {
    pub(super) fn new(to_head: bool) -> Self {
        Self {
            state: State::Head,
            to_head,
            status: None,
            keep_alive: true,
            seen: 0,
        }
    }

    /// Of the answer, once its head is complete.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// The answer is complete.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the connection can carry another request after this answer.
    pub(super) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Takes the head, if `bytes` hold all of it, and tells how long it was. It is to be given again from its begin when more has come.
    pub(super) fn head(&mut self, bytes: &[u8]) -> Result<usize, NotHttp> {
        let mut at = 0;
        while self.state == State::Head {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(taken) = self.one_head(rest)? else {
                break;
            };
            at += taken;
        }
        Ok(at)
    }

    /// Takes what it can of the body in `bytes` and tells how much that was. What it leaves of an unfinished answer is the begin of a
    /// line: it is to be given again when more has come.
    pub(super) fn body(
        &mut self,
        bytes: &[u8],
        body: &mut impl FnMut(&[u8]) -> Result<(), NotHttp>,
    ) -> Result<usize, NotHttp> {
        let mut at = 0;
        while !matches!(self.state, State::Head | State::Done) {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(taken) = self.step(rest, body)? else {
                break;
            };
            at += taken;
        }
        Ok(at)
    }

    /// The connection has ended. Whether that completes the answer.
    pub(super) fn end(&mut self) -> bool {
        self.keep_alive = false;
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// One part of the body; None when it needs more bytes than `rest`.
    fn step(
        &mut self,
        rest: &[u8],
        body: &mut impl FnMut(&[u8]) -> Result<(), NotHttp>,
    ) -> Result<Option<usize>, NotHttp> {
        if rest.is_empty() {
            return Ok(None);
        }
        match self.state {
            State::Length(left) => {
                let taken = take(rest, left, body)?;
                self.state = match left - taken as u64 {
                    0 => State::Done,
                    left => State::Length(left),
                };
                Ok(Some(taken))
            }
            State::UntilClose => {
                body(rest)?;
                Ok(Some(rest.len()))
            }
            State::ChunkSize => self.chunk_size(rest),
            State::ChunkData(left) => {
                let taken = take(rest, left, body)?;
                self.state = match left - taken as u64 {
                    0 => State::ChunkEnd,
                    left => State::ChunkData(left),
                };
                Ok(Some(taken))
            }
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Some(2))
                }
                [b'\r'] => Ok(None),
                _ => Err("a chunk is longer than its size"),
            },
            State::Trailers(so_far) => self.trailer(rest, so_far),
            State::Head | State::Done => Ok(None),
        }
    }

    /// One head, which may be that of an announcement.
    fn one_head(&mut self, rest: &[u8]) -> Result<Option<usize>, NotHttp> {
        if rest.is_empty() {
            return Ok(None);
        }
        // A head ends with a line; bytes that end none cannot complete it, and looking at all of them each time would be quadratic.
        let news = rest.get(self.seen..).unwrap_or(rest);
        if self.seen > 0 && !news.contains(&b'\n') {
            self.seen = rest.len();
            return Ok(None);
        }
        let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, rest, &mut headers)
            .map_err(not_http)?;
        let Status::Complete(length) = parsed else {
            self.seen = rest.len();
            return Ok(None);
        };
        self.seen = 0;
        let (Some(status), Some(minor)) = (response.code, response.version) else {
            return Err("no status");
        };
        // 100 and 103 announce the answer; after 101 nothing is HTTP any more.
        if (100..200).contains(&status) && status != 101 {
            return Ok(Some(length));
        }
        let framing = Framing::of(minor, response.headers)?;
        self.status = Some(status);
        self.keep_alive = framing.keep_alive && status != 101;
        self.state = if self.to_head || matches!(status, 101 | 204 | 304) {
            State::Done
        } else {
            match framing.body {
                State::Length(0) => State::Done,
                State::UntilClose => {
                    self.keep_alive = false;
                    State::UntilClose
                }
                other => other,
            }
        };
        Ok(Some(length))
    }

    fn chunk_size(&mut self, rest: &[u8]) -> Result<Option<usize>, NotHttp> {
        // httparse takes an empty line for a size of 0.
        if !rest.first().is_some_and(u8::is_ascii_hexdigit) {
            return Err("a chunk has no size");
        }
        match httparse::parse_chunk_size(rest) {
            Err(_) => Err("a chunk's size is not a number"),
            Ok(Status::Partial) if rest.len() > LINE => Err("a chunk's size has no end"),
            Ok(Status::Partial) => Ok(None),
            Ok(Status::Complete((taken, size))) => {
                self.state = match size {
                    0 => State::Trailers(0),
                    size => State::ChunkData(size),
                };
                Ok(Some(taken))
            }
        }
    }

    fn trailer(&mut self, rest: &[u8], so_far: usize) -> Result<Option<usize>, NotHttp> {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return match rest.len() > LINE {
                true => Err("a trailer has no end"),
                false => Ok(None),
            };
        };
        let (taken, so_far) = (end + 1, so_far + end + 1);
        if so_far > TRAILERS {
            return Err("the trailers have no end");
        }
        self.state = match rest.get(..end) {
            Some(b"\r" | b"") => State::Done,
            _ => State::Trailers(so_far),
        };
        Ok(Some(taken))
    }
}

fn take(
    rest: &[u8],
    left: u64,
    body: &mut impl FnMut(&[u8]) -> Result<(), NotHttp>,
) -> Result<usize, NotHttp> {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    body(rest.get(..taken).unwrap_or_default())?;
    Ok(taken)
}

fn not_http(e: httparse::Error) -> NotHttp {
    use httparse::Error as E;
    match e {
        E::HeaderName => "a header's name is invalid",
        E::HeaderValue => "a header's value is invalid",
        E::NewLine => "a line ends wrongly",
        E::Status => "the status is invalid",
        E::Token => "the first line is not HTTP",
        E::TooManyHeaders => "it has more than 100 headers",
        E::Version => "the version is not HTTP/1",
    }
}

/// What the headers say about body and connection (RFC 9112, 6.3 and 9.3).
struct Framing {
    body: State,
    keep_alive: bool,
}

impl Framing {
    fn of(minor: u8, headers: &[Header<'_>]) -> Result<Self, NotHttp> {
        let mut length: Option<u64> = None;
        let mut coded = false;
        let mut chunked = false;
        let mut keep_alive = minor >= 1;
        for h in headers {
            // Few headers matter, and their names differ in length.
            match h.name.len() {
                10 if h.name.eq_ignore_ascii_case("connection") => {
                    for token in tokens(h.value) {
                        if token.eq_ignore_ascii_case(b"close") {
                            keep_alive = false;
                        } else if minor == 0 && token.eq_ignore_ascii_case(b"keep-alive") {
                            keep_alive = true;
                        }
                    }
                }
                14 if h.name.eq_ignore_ascii_case("content-length") => {
                    for token in tokens(h.value) {
                        let n = number(token).ok_or("the content-length is not a number")?;
                        if length.replace(n).is_some_and(|before| before != n) {
                            return Err("it has two content-lengths");
                        }
                    }
                }
                17 if h.name.eq_ignore_ascii_case("transfer-encoding") => {
                    coded = true;
                    if let Some(last) = tokens(h.value).last() {
                        chunked = last.eq_ignore_ascii_case(b"chunked");
                    }
                }
                _ => {}
            }
        }
        let body = match (coded, chunked, length) {
            (true, _, _) if minor == 0 => return Err("HTTP/1.0 has no transfer-encoding"),
            (true, true, _) => State::ChunkSize,
            (true, false, _) | (false, _, None) => State::UntilClose,
            (false, _, Some(n)) => State::Length(n),
        };
        Ok(Self { body, keep_alive })
    }
}

/// A header's list, split at the commas.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, d| match d {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(d - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that came out: the status, the body, whether the connection can be used again, and what was left over.
    type Out = Result<(Option<u16>, Vec<u8>, bool, usize), NotHttp>;

    /// Gives `pieces` as a connection would: what is left of one is given again with the next.
    fn decode(pieces: &[&[u8]], to_head: bool, then_close: bool) -> Out {
        let mut d = Decoder::new(to_head);
        let mut held: Vec<u8> = Vec::new();
        let mut body = Vec::new();
        for piece in pieces {
            held.extend_from_slice(piece);
            let taken = d.head(&held)?;
            held.drain(..taken);
            let taken = d.body(&held, &mut |b| {
                body.extend_from_slice(b);
                Ok(())
            })?;
            held.drain(..taken);
        }
        if then_close {
            d.end();
        }
        Ok((
            d.is_done().then(|| d.status()).flatten(),
            body,
            d.keep_alive(),
            held.len(),
        ))
    }

    fn whole(text: &str) -> Out {
        decode(&[text.as_bytes()], false, false)
    }

    #[test]
    fn bodies_end_where_their_head_says() {
        let ok = |status, body: &str, again| Ok((Some(status), body.as_bytes().to_vec(), again, 0));
        for (text, expected) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                ok(200, "ok", true),
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 2, 2\r\n\r\nok",
                ok(200, "ok", true),
            ),
            ("HTTP/1.1 204 No\r\n\r\n", ok(204, "", true)),
            ("HTTP/1.1 304 No\r\ncontent-length: 9\r\n\r\n", ok(304, "", true)),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
                ok(200, "", false),
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
                ok(200, "x", false),
            ),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx",
                ok(200, "x", true),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n",
                ok(201, "", true),
            ),
            ("HTTP/1.1 101 Go\r\n\r\n", ok(101, "", false)),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\ncontent-length: 1\r\n\r\n2;a=b\r\nok\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n",
                ok(200, "ok!", true),
            ),
        ] {
            assert_eq!(whole(text), expected, "{text:?}");
        }
        assert_eq!(
            decode(&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"], true, false),
            ok(200, "", true)
        );
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection_and_others_do_not() {
        let until = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(
            decode(&[until], false, false),
            Ok((None, b"abc".to_vec(), false, 0))
        );
        assert_eq!(
            decode(&[until], false, true),
            Ok((Some(200), b"abc".to_vec(), false, 0))
        );
        for cut in [
            "HTTP/1.1 200 OK\r\ncontent-le",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            assert_eq!(decode(&[cut.as_bytes()], false, true).unwrap().0, None, "{cut:?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let chunked = |rest: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{rest}");
        for text in [
            "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(),
            "HTTP/2 200\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(),
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)),
            chunked("\r\n"),
            chunked("ZZ\r\n"),
            chunked("fffffffffffffffff\r\n"),
            chunked("1\r\nab\r\n"),
            chunked(&format!("1;{}", "x".repeat(LINE))),
            chunked(&format!("0\r\n{}", "x".repeat(LINE + 1))),
            chunked(&format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS / 5))),
        ] {
            assert!(whole(&text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_follows_an_answer_is_left() {
        assert_eq!(
            whole("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1"),
            Ok((Some(200), b"x".to_vec(), true, 8))
        );
    }

    proptest! {
        /// However the bytes are cut, they mean the same.
        #[test]
        fn cuts_do_not_matter(which in 0_usize..4, cuts in prop::collection::vec(0_usize..120, 0..6)) {
            let text: &[u8] = [
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello".as_slice(),
                b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n3;q\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: u\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            ][which];
            let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(decode(&pieces, false, false), decode(&[text], false, false));
        }

        /// Any bytes at all: an answer, a refusal, or a wait for more; never a panic, and never more taken than given.
        #[test]
        fn any_bytes_are_survived(noise in prop::collection::vec(any::<u8>(), 0..300), chunked: bool) {
            let head = if chunked { b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice() } else { b"HTTP/1.1 " };
            let all = [head, &noise].concat();
            let _ = decode(&[&all], false, true);
            let _ = decode(&[&noise], false, true);
        }
    }
}
