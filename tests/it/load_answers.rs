//! Every way in which a request can end, from servers that answer well, badly, or without end: each has its own class, and none
//! costs memory or a panic.

use std::time::Duration;

use autotune::measurement::OutcomeClass as C;

use crate::load_basics::{drive, plan};
use crate::load_server::{self, Script, Server, Then};

/// 20 requests, all of one class. What is still running at the end of the window ends in the drain.
async fn all_end_as(script: Script, class: C) {
    all_of(script, class, |_| {}).await;
}

async fn all_of(script: Script, class: C, change: impl FnOnce(&mut autotune::spec::LoadSpec)) {
    let server = Server::start(script.clone()).await;
    let mut spec = load_server::spec();
    change(&mut spec);
    let m = drive(&spec, &server.url(), &plan(40.0, Duration::from_millis(500))).await;
    let h = m.histograms.unwrap();
    let ended = h.by_class.get(&class).map_or(0, |h| h.len());
    assert_eq!(
        (m.scheduled, m.good, m.in_flight_after_drain),
        (20, 0, 0),
        "{class:?} {script:?} {:?}",
        m.errors
    );
    assert_eq!(ended, 20, "{class:?} {script:?} {:?}", m.errors);
}

#[tokio::test]
async fn statuses() {
    for (status, class) in [
        (201, C::UnexpectedStatus),
        (302, C::Redirect),
        (404, C::ClientError),
        (429, C::TooManyRequests),
        (500, C::ServerError),
        (503, C::Unavailable),
    ] {
        all_end_as(Script::answer(status, "no"), class).await;
    }
}

#[tokio::test]
async fn exhausted_pools_by_their_words() {
    let pool =
        "sqlalchemy.exc.TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out";
    all_end_as(Script::answer(500, pool), C::PoolTimeout).await;
    all_end_as(
        Script::answer(500, "FATAL: sorry, too many clients already"),
        C::TooManyClients,
    )
    .await;
}

#[tokio::test]
async fn a_body_check_that_fails() {
    let expect_yes = |s: &mut autotune::spec::LoadSpec| s.requests[0].expect_body = Some("yes".into());
    all_of(Script::answer(200, "no"), C::BodyCheck, expect_yes).await;
}

#[tokio::test]
async fn closed_before_the_first_byte() {
    all_end_as(Script::bytes("", Then::Close), C::ResetBeforeFirstByte).await;
}

#[tokio::test]
async fn cut_off_inside_the_answer() {
    for part in [
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ] {
        all_end_as(Script::bytes(part, Then::Close), C::ResetInBody).await;
    }
}

#[tokio::test]
async fn what_is_not_http() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "\u{0}\u{1}\u{2}\u{3}\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nxx\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nxx\r\n",
    ] {
        all_end_as(Script::bytes(garbage, Then::KeepOpen), C::Malformed).await;
    }
}

#[tokio::test]
async fn headers_without_end() {
    let endless = |line: &str| Script {
        endless: line.repeat(64).into_bytes(),
        ..Script::bytes("HTTP/1.1 200 OK\r\n", Then::Close)
    };
    all_end_as(endless("x-more: and more\r\n"), C::Malformed).await;
    let one = Script {
        endless: vec![b'x'; 4_096],
        ..Script::bytes("HTTP/1.1 200 OK\r\nx-long: ", Then::Close)
    };
    all_end_as(one, C::Malformed).await;
}

#[tokio::test]
async fn bodies_without_end_end_with_the_timeout() {
    // A sip every few bytes: never silent, never finished.
    let slow = Script {
        delay: Duration::from_millis(1),
        ..Script::bytes("HTTP/1.1 200 OK\r\n\r\n", Then::KeepOpen)
    };
    all_of(slow, C::ClientTimeout, |s| s.timeout = Duration::from_millis(150)).await;
}

#[tokio::test]
async fn bodies_beyond_the_bound_are_cut() {
    let server = Server::start(Script {
        endless: vec![b'x'; 256 * 1024],
        ..Script::bytes("HTTP/1.1 200 OK\r\n\r\n", Then::Close)
    })
    .await;
    let mut spec = load_server::spec();
    spec.timeout = Duration::from_secs(60);
    let mut p = plan(2.0, Duration::from_millis(500));
    p.drain = Duration::from_secs(60);
    let m = drive(&spec, &server.url(), &p).await;
    assert_eq!((m.scheduled, m.in_flight_after_drain), (1, 0));
    assert_eq!(
        m.histograms.unwrap().by_class.keys().copied().collect::<Vec<_>>(),
        [C::Malformed]
    );
}

#[tokio::test]
async fn invalid_utf8_is_only_a_body() {
    let mut bytes = b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\n".to_vec();
    bytes.extend([0xff, 0xfe, 0x00, 0x80]);
    all_end_as(Script::bytes(bytes, Then::KeepOpen), C::ServerError).await;
}

#[tokio::test]
async fn a_close_after_each_answer_is_no_error() {
    // nginx closes after 1,000 requests; this one after each, with the length told by the close.
    let server = Server::start(Script::bytes("HTTP/1.1 200 OK\r\n\r\nok", Then::Close)).await;
    let m = drive(
        &load_server::spec(),
        &server.url(),
        &plan(40.0, Duration::from_secs(1)),
    )
    .await;
    assert_eq!(m.good + m.in_flight_end, 40, "{:?}", m.errors);
    assert!(server.connections() >= 39);
}

#[tokio::test]
async fn an_idle_close_is_met_again_and_a_busy_close_is_an_error() {
    // The second request of every connection is met by a close without a word.
    let script = Script {
        answers: 1,
        ..Script::ok()
    };
    let idle = Server::start(script.clone()).await;
    let m = drive(
        &load_server::spec(),
        &idle.url(),
        &plan(0.8, Duration::from_secs(5)),
    )
    .await;
    assert_eq!((m.scheduled, m.good), (4, 4), "{:?}", m.errors);
    assert!(m.generator.retried >= 1, "{:?}", m.generator);

    let busy = Server::start(script).await;
    let m = drive(
        &load_server::spec(),
        &busy.url(),
        &plan(40.0, Duration::from_secs(1)),
    )
    .await;
    assert!(m.count(C::ResetBeforeFirstByte) >= 10, "{:?}", m.errors);
    assert_eq!(m.generator.retried, 0);
}

#[tokio::test]
async fn a_hundred_thousand_open_requests() {
    let server = Server::start(Script::silent()).await;
    let mut spec = load_server::spec();
    spec.timeout = Duration::from_secs(60);
    spec.connections = 20;
    let mut p = plan(100_000.0, Duration::from_secs(1));
    p.drain = Duration::from_millis(100);
    let m = drive(&spec, &server.url(), &p).await;
    assert_eq!(m.scheduled, 100_000);
    assert_eq!(m.in_flight_end + m.count(C::Shed), 100_000);
    assert!(m.sent <= 20 && m.good == 0);
    assert!(m.generator.cap_reached);
}
