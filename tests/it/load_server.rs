//! Servers for the load tests: a socket that answers by script, counting what it saw. Bytes are written by hand, since most of
//! them are not what an HTTP library would send.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use autotune::spec::{Arrivals, LoadSpec, RequestSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with each request.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Before each answer.
    pub(crate) delay: Duration,
    /// Written for each request; None: nothing is ever answered.
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) then: Then,
    /// After the answer, again and again until the client goes.
    pub(crate) endless: Vec<u8>,
    /// Requests answered on a connection; at the next one it is closed without a word.
    pub(crate) answers: usize,
    /// Stalls: every so often, no answer for so long.
    pub(crate) stall: Option<(Duration, Duration)>,
}

/// What happens after the answer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    KeepOpen,
    Close,
}

impl Script {
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        Self {
            delay: Duration::ZERO,
            answer: Some(bytes.into()),
            then,
            endless: Vec::new(),
            answers: usize::MAX,
            stall: None,
        }
    }

    pub(crate) fn answer(status: u16, body: &str) -> Self {
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::bytes(text, Then::KeepOpen)
    }

    pub(crate) fn ok() -> Self {
        Self::answer(200, "ok")
    }

    pub(crate) fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::ok() }
    }

    pub(crate) fn silent() -> Self {
        Self {
            answer: None,
            ..Self::ok()
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    /// When each came.
    times: Mutex<Vec<Instant>>,
}

/// A running server on loopback; it ends with its runtime.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    seen: Arc<Seen>,
}

impl Server {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let (inner, begun) = (Arc::clone(&seen), Instant::now());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                inner.connections.fetch_add(1, Ordering::SeqCst);
                inner.open.fetch_add(1, Ordering::SeqCst);
                let (seen, script) = (Arc::clone(&inner), script.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &script, &seen, begun).await;
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Gaps between the requests as they came, seconds.
    pub(crate) fn gaps(&self) -> Vec<f64> {
        let times = self.seen.times.lock().unwrap();
        times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect()
    }

    /// Until no connection is open.
    pub(crate) async fn until_idle(&self) {
        for _ in 0..1_000 {
            if self.seen.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("connections stayed open");
    }
}

async fn serve(mut stream: TcpStream, script: &Script, seen: &Seen, begun: Instant) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut text: Vec<u8> = Vec::new();
    let mut served = 0;
    loop {
        while let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
            text.drain(..end + 4);
            seen.requests.fetch_add(1, Ordering::SeqCst);
            seen.times.lock().unwrap().push(Instant::now());
            served += 1;
            if served > script.answers {
                return Ok(());
            }
            if let Some((every, long)) = script.stall {
                let into = Duration::from_nanos((begun.elapsed().as_nanos() % every.as_nanos()) as u64);
                if into < long {
                    tokio::time::sleep(long - into).await;
                }
            }
            if script.delay > Duration::ZERO {
                tokio::time::sleep(script.delay).await;
            }
            if let Some(answer) = &script.answer {
                stream.write_all(answer).await?;
                while !script.endless.is_empty() {
                    stream.write_all(&script.endless).await?;
                }
                if script.then == Then::Close {
                    return Ok(());
                }
            }
        }
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        text.extend_from_slice(&buffer[..n]);
    }
}

/// GET / with a timeout of 10 s on up to 200 connections.
pub(crate) fn spec() -> LoadSpec {
    LoadSpec {
        timeout: Duration::from_secs(10),
        connections: 200,
        arrivals: Arrivals::Uniform,
        headers: vec![],
        requests: vec![RequestSpec {
            weight: 1.0,
            method: "GET".into(),
            path: "/".into(),
            headers: vec![],
            body: None,
            expect: vec![200],
            expect_body: None,
        }],
        vars: Default::default(),
        cpu: None,
        keep_alive: true,
        allow_remote: vec![],
        agents: Default::default(),
    }
}
