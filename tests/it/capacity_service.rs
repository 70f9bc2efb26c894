//! Services over HTTP whose capacity is known by construction, on a thread and a runtime of their own: N workers with
//! a fixed service time behind a queue.
//!
//! Workers are a timetable, not threads: a request is given the earliest free worker from the moment it is read, and
//! answered when that worker is done by the timetable. A late timer answers late and takes nothing from the capacity,
//! so `workers / service` holds on a busy machine too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// Most bytes of a request's head.
const HEAD: usize = 16 * 1024;

/// How the service is built.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Requests served side by side.
    pub workers: usize,
    /// What each takes.
    pub service: Duration,
    /// Most requests that wait for a worker; one more is refused with 503.
    pub queue: usize,
    /// Longest wait for a worker; then 500 with the words of a pool that is exhausted.
    pub pool_timeout: Duration,
    /// So much work in the queue trips it: from then on everything takes five times as long, until it is restarted.
    pub trips_at: Option<Duration>,
    /// Answers 429 beyond so many requests a second.
    pub limiter: Option<f64>,
}

impl Build {
    /// `workers` with a service time that gives `capacity` requests a second, and an unbounded queue.
    pub fn of(capacity: f64, workers: usize, pool_timeout: Duration) -> Self {
        Self {
            workers,
            service: Duration::from_secs_f64(workers as f64 / capacity),
            queue: usize::MAX,
            pool_timeout,
            trips_at: None,
            limiter: None,
        }
    }
}

/// What the connections share.
struct Shared {
    build: Build,
    free: Mutex<BinaryHeap<Reverse<Instant>>>,
    tokens: Mutex<(f64, Instant)>,
    waiting: AtomicUsize,
    tripped: AtomicBool,
    requests: AtomicU64,
}

/// What is to become of a request.
struct Fate {
    /// When it leaves the queue, if it had to wait.
    begin: Option<Instant>,
    /// When it is answered.
    end: Instant,
    answer: &'static [u8],
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";
const LIMITED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nslow";
const EXHAUSTED: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 42\r\n\r\nTimeoutError: QueuePool limit of size 5...";

impl Shared {
    fn new(build: Build) -> Self {
        let shared = Self {
            build,
            free: Mutex::default(),
            tokens: Mutex::new((1.0, Instant::now())),
            waiting: AtomicUsize::new(0),
            tripped: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        };
        shared.restart();
        shared
    }

    fn restart(&self) {
        let mut free = self.free.lock().unwrap();
        free.clear();
        free.extend((0..self.build.workers).map(|_| Reverse(Instant::now())));
        self.tripped.store(false, Ordering::SeqCst);
    }

    fn admit(&self, now: Instant) -> Fate {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let at_once = |answer| Fate {
            begin: None,
            end: now,
            answer,
        };
        if self.build.limiter.is_some_and(|rate| !self.token(rate, now)) {
            return at_once(LIMITED);
        }
        let mut free = self.free.lock().unwrap();
        let earliest = free.peek().unwrap().0;
        let begin = earliest.max(now);
        if begin > now && self.waiting.load(Ordering::SeqCst) >= self.build.queue {
            return at_once(FULL);
        }
        let wait = begin - now;
        if self.build.trips_at.is_some_and(|limit| wait > limit) {
            self.tripped.store(true, Ordering::SeqCst);
        }
        if wait > self.build.pool_timeout {
            let end = now + self.build.pool_timeout;
            return Fate {
                begin: Some(end),
                end,
                answer: EXHAUSTED,
            };
        }
        let slow = if self.tripped.load(Ordering::SeqCst) { 5 } else { 1 };
        let end = begin + self.build.service * slow;
        free.pop();
        free.push(Reverse(end));
        Fate {
            begin: (begin > now).then_some(begin),
            end,
            answer: OK,
        }
    }

    /// One of `rate` tokens a second, of which a tenth of a second's worth may pile up.
    fn token(&self, rate: f64, now: Instant) -> bool {
        let mut bucket = self.tokens.lock().unwrap();
        bucket.0 = (bucket.0 + rate * (now - bucket.1).as_secs_f64()).min((rate / 10.0).max(1.0));
        bucket.1 = now;
        let granted = bucket.0 >= 1.0;
        bucket.0 -= if granted { 1.0 } else { 0.0 };
        granted
    }
}

/// A running one; it ends when dropped.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub fn start(build: Build) -> Self {
        let shared = Arc::new(Shared::new(build));
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let inner = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = accept(listener, inner) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: address.recv_timeout(Duration::from_secs(10)).unwrap(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Requests seen so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// As if it were deployed again: nothing queued, untripped.
    pub fn restart(&self) {
        self.shared.restart();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that goes away in the middle is the client's business.
            let _ = serve(stream, &shared).await;
        });
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head: Vec<u8> = Vec::with_capacity(512);
    let mut buffer = [0_u8; 2048];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 || head.len() > HEAD {
            return Ok(());
        }
        let now = Instant::now();
        head.extend_from_slice(&buffer[..n]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let fate = shared.admit(now);
        if let Some(begin) = fate.begin {
            shared.waiting.fetch_add(1, Ordering::SeqCst);
            sleep_until(begin).await;
            shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if fate.end > now {
            sleep_until(fate.end).await;
        }
        stream.write_all(fate.answer).await?;
    }
}
