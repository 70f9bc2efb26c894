//! How an answer, or the lack of one, is named. Pure.
//!
//! Patterns of exhausted pools are those of the libraries' own messages; an error body is looked at up to
//! [`ERROR_TEXT`] bytes and only where the answer was not good.

use crate::measurement::OutcomeClass;

use super::mix::Expectation;

/// How much of an answer that was not good is kept to look for a pattern, bytes.
pub(super) const ERROR_TEXT: usize = 8 * 1024;

/// Waiting for a connection of the service's own pool took too long. In the order of the libraries named.
const POOL_TIMEOUT: &[&str] = &[
    "QueuePool limit of size",                                      // SQLAlchemy
    "pool timed out while waiting for an open connection",          // sqlx
    "timed out waiting for connection",                             // r2d2, bb8
    "Timeout occurred while waiting for a slot",                    // deadpool
    "couldn't get a connection after",                              // psycopg_pool
    "Connection is not available, request timed out after",         // HikariCP
    "timeout exceeded when trying to connect",                      // node-postgres
    "Timed out fetching a new connection from the connection pool", // Prisma
    "Timeout acquiring a connection",                               // knex
    "could not obtain a connection from the pool within",           // ActiveRecord
    "connection not available and request was dropped from queue",  // Ecto
    "The connection pool has been exhausted",                       // Npgsql
    "Timed out acquiring connection from connection pool",          // PostgREST
    "query_wait_timeout",                                           // PgBouncer
    "connection pool exhausted",                                    // psycopg2
    "No connection is available in the pool",                       // lettuce, commons-pool wrappers
];

/// The database itself had no connection left.
const TOO_MANY_CLIENTS: &[&str] = &[
    "too many clients already",                // PostgreSQL, 53300
    "remaining connection slots are reserved", // PostgreSQL, 53300
    "too many connections",                    // MySQL 1040, PostgreSQL per role or database
    "Too many connections",
    "no more connections allowed", // PgBouncer
];

/// The class of a complete answer. `body_ok` is the body check's result, `text` the begin of a body that is not good.
pub(super) fn answer(status: u16, expectation: &Expectation, body_ok: bool, text: &[u8]) -> OutcomeClass {
    use OutcomeClass as C;
    if status_is_good(status, expectation) {
        return if body_ok { C::Good } else { C::BodyCheck };
    }
    if let Some(class) = exhausted(text) {
        return class;
    }
    match status {
        429 => C::TooManyRequests,
        503 => C::Unavailable,
        300..=399 => C::Redirect,
        400..=499 => C::ClientError,
        500.. => C::ServerError,
        _ => C::UnexpectedStatus,
    }
}

/// An expected status: the given ones, or any 2xx.
pub(super) fn status_is_good(status: u16, expectation: &Expectation) -> bool {
    if expectation.statuses.is_empty() {
        return (200..300).contains(&status);
    }
    expectation.statuses.contains(&status)
}

fn exhausted(text: &[u8]) -> Option<OutcomeClass> {
    // The database's own refusal is the cause where both show.
    let any = |patterns: &[&str]| patterns.iter().any(|p| contains(text, p.as_bytes()));
    if any(TOO_MANY_CLIENTS) || has_word(text, b"53300") {
        return Some(OutcomeClass::TooManyClients);
    }
    any(POOL_TIMEOUT).then_some(OutcomeClass::PoolTimeout)
}

pub(super) fn contains(text: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || text.windows(needle.len()).any(|w| w == needle)
}

/// `word` with no letter or digit beside it: 53300 is a code, 1533007 is not.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).enumerate().any(|(at, w)| {
        let edge = |b: Option<&u8>| b.is_none_or(|b| !b.is_ascii_alphanumeric());
        w == word && edge(at.checked_sub(1).and_then(|i| text.get(i))) && edge(text.get(at + word.len()))
    })
}

/// Searches for a text in a body that comes in pieces, keeping no more of it than the text's length.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    needle: &'a [u8],
    tail: Vec<u8>,
    found: bool,
}

impl<'a> Finder<'a> {
    pub(super) fn new(needle: Option<&'a [u8]>) -> Self {
        let needle = needle.unwrap_or_default();
        Self {
            needle,
            tail: Vec::new(),
            found: needle.is_empty(),
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        if contains(piece, self.needle) {
            self.found = true;
            return;
        }
        let keep = self.needle.len() - 1;
        let head = piece.get(..keep.min(piece.len())).unwrap_or(piece);
        self.tail.extend_from_slice(head);
        if contains(&self.tail, self.needle) {
            self.found = true;
            return;
        }
        if piece.len() >= keep {
            self.tail.clear();
            self.tail
                .extend_from_slice(piece.get(piece.len() - keep..).unwrap_or_default());
        } else {
            let surplus = self.tail.len().saturating_sub(keep);
            self.tail.drain(..surplus);
        }
    }

    pub(super) fn found(&self) -> bool {
        self.found
    }
}

/// The class of a failed connection attempt.
pub(super) fn connect_error(e: &std::io::Error) -> OutcomeClass {
    use std::io::ErrorKind;
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let raw = e.raw_os_error();
        if raw == Some(Errno::MFILE.raw_os_error()) || raw == Some(Errno::NFILE.raw_os_error()) {
            return OutcomeClass::NoFileDescriptors;
        }
    }
    match e.kind() {
        ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => OutcomeClass::NoPorts,
        ErrorKind::TimedOut => OutcomeClass::ConnectTimeout,
        // A host or network that cannot be reached refuses as well as a port does.
        _ => OutcomeClass::ConnectRefused,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expect(statuses: &[u16]) -> Expectation {
        Expectation {
            statuses: statuses.to_vec(),
            text: None,
        }
    }

    #[test]
    fn statuses_have_their_classes() {
        use OutcomeClass as C;
        let table = [
            (200, C::Good),
            (201, C::UnexpectedStatus),
            (302, C::Redirect),
            (404, C::ClientError),
            (429, C::TooManyRequests),
            (500, C::ServerError),
            (503, C::Unavailable),
            (599, C::ServerError),
            (999, C::ServerError),
            (101, C::UnexpectedStatus),
        ];
        for (status, class) in table {
            assert_eq!(answer(status, &expect(&[200]), true, b""), class, "{status}");
        }
        assert_eq!(answer(204, &expect(&[]), true, b""), C::Good);
        assert_eq!(answer(404, &expect(&[404]), true, b""), C::Good);
        assert_eq!(answer(200, &expect(&[200]), false, b""), C::BodyCheck);
    }

    #[test]
    fn exhausted_pools_are_found_in_error_bodies_only() {
        use OutcomeClass as C;
        let queue = b"TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out";
        assert_eq!(answer(500, &expect(&[200]), true, queue), C::PoolTimeout);
        assert_eq!(answer(503, &expect(&[200]), true, queue), C::PoolTimeout);
        assert_eq!(answer(200, &expect(&[200]), true, queue), C::Good);
        assert_eq!(
            answer(
                500,
                &expect(&[200]),
                true,
                b"FATAL: sorry, too many clients already"
            ),
            C::TooManyClients
        );
        assert_eq!(
            answer(500, &expect(&[200]), true, b"SQLSTATE 53300"),
            C::TooManyClients
        );
        assert_eq!(
            answer(500, &expect(&[200]), true, b"order 1533007"),
            C::ServerError
        );
        assert_eq!(
            answer(500, &expect(&[200]), true, b"\xff\xfe\x00 not text"),
            C::ServerError
        );
    }

    proptest! {
        /// However a body is cut into pieces, what is in it is found, and what is not is not.
        #[test]
        fn pieces_do_not_hide_a_text(body in "[ab]{0,40}", needle in "[ab]{1,6}", cuts in prop::collection::vec(0_usize..40, 0..8)) {
            let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(body.len())).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let mut finder = Finder::new(Some(needle.as_bytes()));
            at.windows(2).for_each(|w| finder.feed(&body.as_bytes()[w[0]..w[1]]));
            prop_assert_eq!(finder.found(), body.contains(&needle));
        }
    }
}
