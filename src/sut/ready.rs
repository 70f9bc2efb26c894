//! Waits until a deployment answers its ready path, looking meanwhile whether it still lives.

use std::time::{Duration, Instant};

use super::SutError;
use crate::spec::ReadySpec;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Why it is not ready.
#[derive(Debug)]
pub enum NotReady {
    /// The budget is used up; what the last attempt saw.
    Late(String),
    /// `alive` said that waiting is pointless.
    Ended(SutError),
}

/// Polls `base` + `ready.path` until 2xx, at most until `ready.timeout` after `since`. `alive` is asked between attempts.
pub async fn wait(
    base: &str,
    ready: &ReadySpec,
    since: Instant,
    mut alive: impl AsyncFnMut() -> Result<(), SutError>,
) -> Result<(), NotReady> {
    let client = client(base).map_err(NotReady::Ended)?;
    let url = format!("{}{}", base.trim_end_matches('/'), ready.path);
    let deadline = since + ready.timeout;
    loop {
        let last = match attempt(&client, &url).await {
            Ok(()) => return Ok(()),
            Err(seen) => seen,
        };
        alive().await.map_err(NotReady::Ended)?;
        if Instant::now() + PAUSE >= deadline {
            return Err(NotReady::Late(last));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks the ready path `times` times at once, on connections of their own: every answer must be 2xx. An error is what one
/// of the others saw.
pub async fn round(base: &str, ready: &ReadySpec, times: usize) -> Result<(), String> {
    let client = client(base).map_err(|e| e.to_string())?;
    let url = format!("{}{}", base.trim_end_matches('/'), ready.path);
    let asked = futures_util::future::join_all((0..times).map(|_| attempt(&client, &url)));
    asked.await.into_iter().collect()
}

async fn attempt(client: &reqwest::Client, url: &str) -> Result<(), String> {
    match client.get(url).send().await {
        Ok(r) if r.status().is_success() => Ok(()),
        Ok(r) => Err(format!("status {}", r.status().as_u16())),
        Err(e) if e.is_timeout() => Err(format!("no answer within {} s", ATTEMPT.as_secs())),
        Err(e) if e.is_connect() => Err("connection refused".into()),
        Err(_) => Err("the connection was closed without an answer".into()),
    }
}

/// No proxy, no redirects, no retries: what answers is the service itself, or nobody.
fn client(base: &str) -> Result<reqwest::Client, SutError> {
    let mut builder = reqwest::Client::builder();
    if !base.starts_with("https:") {
        // No certificate will be looked at: a machine without a trust store (a slim image) must do.
        builder = builder.tls_certs_only([]);
    }
    builder
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(0)
        .timeout(ATTEMPT)
        .build()
        .map_err(|e| SutError::Infrastructure(format!("no HTTP client: {}", causes(&e))))
}

/// An error with its causes: "builder error" alone helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        words.push_str(&format!(": {e}"));
        next = e.source();
    }
    words
}
