//! A server that does nothing but answer: what the generator is calibrated and compared against.
//!
//! It answers every request head with the same few bytes, on a thread and a runtime of its own, and keeps the gaps between the requests it
//! sees, so that a schedule can be judged from the other side: `GET /stats` tells and forgets them. It reads GETs only and is no
//! example of how to write a server.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Longest request head.
const HEAD: usize = 16 * 1024;

/// How the server behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullOptions {
    /// Port on loopback; 0 for any.
    pub port: u16,
    /// Every so often (first) it answers nothing for so long (second).
    pub stall: Option<(Duration, Duration)>,
}

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct NullServer {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Option<oneshot::Sender<()>>,
}

/// What it saw, with the gaps between requests by Welford's method (Knuth, TAOCP 2, 4.2.2).
#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    last: Option<Instant>,
    gaps: u64,
    mean: f64,
    m2: f64,
}

impl Seen {
    #[allow(clippy::cast_precision_loss)]
    fn request(&mut self, at: Instant) {
        self.requests += 1;
        if let Some(last) = self.last.replace(at) {
            let gap = at.saturating_duration_since(last).as_secs_f64();
            self.gaps += 1;
            let delta = gap - self.mean;
            self.mean += delta / self.gaps as f64;
            self.m2 += delta * (gap - self.mean);
        }
    }

    /// Standard deviation over mean of the gaps: 0 for a metronome, 1 for Poisson arrivals.
    #[allow(clippy::cast_precision_loss)]
    fn gap_cv(&self) -> f64 {
        if self.gaps < 2 || self.mean <= 0.0 {
            return 0.0;
        }
        (self.m2 / (self.gaps - 1) as f64).sqrt() / self.mean
    }
}

impl NullServer {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When the port is taken or a thread cannot be had.
    pub fn start(options: NullOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = oneshot::channel();
        let inner = Arc::clone(&seen);
        std::thread::Builder::new()
            .name("autotune-null".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(async {
                        tokio::select! {
                            _ = accept(listener, options, &inner) => {}
                            _ = stopped => {}
                        }
                    });
                }
            })?;
        Ok(Self {
            address,
            seen,
            stop: Some(stop),
        })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests seen, and the coefficient of variation of the gaps between them.
    #[must_use]
    pub fn seen(&self) -> (u64, f64) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.requests, seen.gap_cv())
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

async fn accept(listener: TcpListener, options: NullOptions, seen: &Arc<Mutex<Seen>>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let begun = Instant::now();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, options, Arc::clone(seen), begun));
            }
            // Out of descriptors, or a client that left already: later ones may do better.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    options: NullOptions,
    seen: Arc<Mutex<Seen>>,
    begun: Instant,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0_u8; HEAD];
    let mut filled = 0;
    loop {
        let free = buffer.get_mut(filled..).unwrap_or_default();
        let n = stream.read(free).await?;
        if n == 0 {
            return Ok(());
        }
        let at = Instant::now();
        filled += n;
        let mut from = 0;
        while let Some(head) = buffer.get(from..filled)
            && let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n")
        {
            if head.starts_with(b"GET /stats ") {
                stream.write_all(stats(&seen).as_bytes()).await?;
            } else {
                seen.lock().unwrap_or_else(PoisonError::into_inner).request(at);
                if let Some((every, long)) = options.stall {
                    tokio::time::sleep(stalled(begun.elapsed(), every, long)).await;
                }
                stream.write_all(ANSWER).await?;
            }
            from += end + 4;
        }
        buffer.copy_within(from..filled, 0);
        filled -= from;
        if filled == buffer.len() {
            return Ok(());
        }
    }
}

/// How long the server still answers nothing at `now`: the first `long` of every `every` from its start.
#[allow(clippy::cast_possible_truncation)]
fn stalled(now: Duration, every: Duration, long: Duration) -> Duration {
    let into = Duration::from_nanos((now.as_nanos() % every.as_nanos().max(1)) as u64);
    long.saturating_sub(into)
}

fn stats(seen: &Mutex<Seen>) -> String {
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let body = format!(
        "{{\"requests\": {}, \"gap_cv\": {:.3}}}\n",
        seen.requests,
        seen.gap_cv()
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_of_a_metronome_and_of_pairs() {
        let begin = Instant::now();
        let cv = |ms: &[u64]| {
            let mut seen = Seen::default();
            ms.iter()
                .for_each(|m| seen.request(begin + Duration::from_millis(*m)));
            seen.gap_cv()
        };
        assert!(cv(&[0, 10, 20, 30]) < 1e-6);
        // Gaps of 0 and 10 in turn: mean 5, sample deviation 5.77.
        assert!((cv(&[0, 0, 10, 10, 20]) - 1.1547).abs() < 1e-3);
    }

    #[test]
    fn a_stall_is_the_first_part_of_each_period() {
        let ms = Duration::from_millis;
        assert_eq!(stalled(ms(4_050), ms(2_000), ms(200)), ms(150));
        assert_eq!(stalled(ms(4_250), ms(2_000), ms(200)), ms(0));
    }
}
