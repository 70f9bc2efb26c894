//! Every way in which a request can end, from servers that answer well, badly, or without end: each has its own class, and none
//! costs memory or a panic.

use std::time::Duration;

use autotune::measurement::OutcomeClass as C;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// A server for one connection: reads a head and `body` bytes, answers, and tells what it read. It reads no further.
async fn one_connection(body: usize, answer: &'static str) -> (String, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let told = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut text, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let head = text.windows(4).take(1_000).position(|w| w == b"\r\n\r\n");
            if head.is_some_and(|end| text.len() >= end + 4 + body) {
                break;
            }
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the request ended after {} bytes", text.len());
            text.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Open until the client goes; an early close would take the answer with it.
        stream.readable().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        text
    });
    (url, told)
}

#[tokio::test]
async fn method_host_headers_and_a_long_body_arrive_as_they_are_written() {
    let (url, told) = one_connection(1 << 20, "HTTP/1.1 200 X\r\ncontent-length: 3\r\n\r\nyes").await;
    let mut spec = load_server::spec();
    let request = &mut spec.requests[0];
    request.method = "PUT".into();
    request.path = "/a b?q={n}".into();
    request.headers = vec![("Host".into(), "shop.test".into()), ("X-Key".into(), "k".into())];
    request.body = Some(vec![b'x'; 1 << 20]);
    request.expect_body = Some("yes".into());
    spec.vars
        .insert("n".into(), autotune::spec::VarSource::Range(7, 7));
    let m = drive(&spec, &url, &plan(2.0, Duration::from_millis(500))).await;
    assert_eq!((m.scheduled, m.in_flight_after_drain), (1, 0), "{:?}", m.errors);
    assert_eq!(m.histograms.unwrap().latency.len(), 1, "{:?}", m.errors);
    let text = String::from_utf8(told.await.unwrap()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("PUT /a%20b?q=7 HTTP/1.1\r\n"), "{head}");
    for line in ["host: shop.test", "x-key: k", "content-length: 1048576"] {
        assert_eq!(head.lines().filter(|l| *l == line).count(), 1, "{head}");
    }
    assert!(!head.contains("127.0.0.1"), "{head}");
    assert!(body.len() == 1 << 20 && body.bytes().all(|b| b == b'x'));
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_counts() {
    // More than the sockets hold, of which nothing is read.
    let (url, told) = one_connection(0, "HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n").await;
    let mut spec = load_server::spec();
    spec.requests[0].method = "POST".into();
    spec.requests[0].body = Some(vec![b'x'; 32 << 20]);
    let m = drive(&spec, &url, &plan(2.0, Duration::from_millis(500))).await;
    let ended = m.histograms.unwrap();
    assert_eq!(
        ended.by_class.get(&C::ClientError).map_or(0, |h| h.len()),
        1,
        "{:?}",
        m.errors
    );
    told.await.unwrap();
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
