//! `autotune agent`: a generator for others. It sends its share of a probe that a controller divides between several machines.
//!
//! It holds one load ready and runs one probe at a time, to the hosts that its own owner allows, within bounds on every length.
//! Whoever has the token may order that and nothing else. A probe ends with the connection that ordered it, so a controller that
//! was killed leaves no load behind. The protocol is `load::agents::wire`; the door (connections, TLS, bounds) is `door`.
//!
//! Deliberately not here: what rate, which config, what a measurement means.

mod door;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, body::Bytes};
use futures_util::stream;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::capacity::{ProbePhase, ProbePlan};
use crate::load::agents::wire::{
    self, BEAT, BinLine, ClockNow, DoneLine, Hello, IntervalLine, LONGEST_DRAIN, LONGEST_PROBE, Line, Load,
    Loaded, MOST_AGENTS, MOST_ORDER, ProbeOrder, Refusal, StopOrder, VERSION, VERSION_HEADER,
};
use crate::load::schedule::Part;
use crate::load::{Brake, Generator, LoadError, Progress, Share, ShareResult};
use crate::spec::Secret;
use crate::units::Rps;
use door::Door;

/// Lines that may wait for the controller to read them; it is lost when it leaves more.
const LINES: usize = 256;
/// Longest wait for the controller to take the result.
const LAST_LINE: Duration = Duration::from_secs(10);
/// Longest wait for a probe whose controller has just gone to end.
const LEAVE: Duration = Duration::from_secs(2);
/// An order must come this long before its start.
const NOTICE: Duration = Duration::from_millis(20);
/// A start further ahead than this is a mistake.
const FARTHEST_START: Duration = Duration::from_secs(60);
/// Longest wait for the names of a load's hosts.
const RESOLVE: Duration = Duration::from_secs(8);
/// Longest timeout of a request.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Most base URLs of a load.
const MOST_URLS: usize = 1_000;

/// What the agent's owner allows.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// What a controller must show.
    pub token: Secret,
    /// The hosts that may get load, as they stand in URLs; empty: this machine and private networks.
    pub allow: Vec<String>,
    /// Most requests per second.
    pub max_rate: Option<Rps>,
    /// Most connections.
    pub connections: u32,
    /// CPU that the generator's thread is pinned to.
    pub cpu: Option<usize>,
}

struct Agent {
    options: AgentOptions,
    /// Digests are compared, so that not even a length shows in the time it takes.
    token: [u8; 32],
    /// Zero of the clock that controllers read.
    epoch: Instant,
    loaded: Mutex<Option<(String, Arc<Generator>)>>,
    running: Mutex<Option<Brake>>,
    slot: Arc<Semaphore>,
}

/// A sentence with a status.
struct No(StatusCode, String);

impl No {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self(status, why.into())
    }

    fn unprocessable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, why)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

/// Serves `options` on `listener`, over TLS where `tls` is given, until `shutdown` resolves; a probe that runs then ends at once.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    options: AgentOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let agent = Arc::new(Agent {
        token: Sha256::digest(options.token.expose()).into(),
        options,
        epoch: Instant::now(),
        loaded: Mutex::new(None),
        running: Mutex::new(None),
        slot: Arc::new(Semaphore::new(1)),
    });
    let app = Router::new()
        .route("/hello", get(hello))
        .route("/clock", get(clock))
        .route("/load", post(load))
        .route("/probe", post(probe))
        .route("/stop", post(stop))
        .fallback(|| async { No::new(StatusCode::NOT_FOUND, "an agent has no such path") })
        .layer(DefaultBodyLimit::max(MOST_ORDER))
        .layer(middleware::from_fn_with_state(Arc::clone(&agent), guard))
        .with_state(agent);
    let door = Door::open(listener, tls)?;
    tokio::select! {
        served = axum::serve(door, app) => served,
        () = shutdown => Ok(()),
    }
}

async fn guard(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    match refused(&agent, request.headers()) {
        Some(no) => no.into_response(),
        None => next.run(request).await,
    }
}

/// The token, then the version, then the length; before a body is read.
fn refused(agent: &Agent, headers: &HeaderMap) -> Option<No> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let shown = text(header::AUTHORIZATION.as_str());
    let shown = shown.strip_prefix("Bearer ").unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(shown).into();
    if !bool::from(digest.ct_eq(&agent.token)) {
        let why = "the token is not this agent's: `agent_token_file` must hold what its --token-file holds";
        return Some(No::new(StatusCode::UNAUTHORIZED, why));
    }
    let version = text(VERSION_HEADER);
    if version != VERSION.to_string() {
        let said = if version.is_empty() { "none" } else { version };
        let why = format!(
            "this agent speaks version {VERSION} of the protocol (autotune {}), the controller {}: run the same autotune on both",
            env!("CARGO_PKG_VERSION"),
            said.chars()
                .filter(|c| !c.is_control())
                .take(20)
                .collect::<String>(),
        );
        return Some(No::new(StatusCode::UPGRADE_REQUIRED, why));
    }
    let declared = text(header::CONTENT_LENGTH.as_str())
        .parse::<usize>()
        .unwrap_or(0);
    (declared > MOST_ORDER).then(|| {
        let why = format!("an order has at most {} MiB", MOST_ORDER >> 20);
        No::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })
}

async fn hello(State(agent): State<Arc<Agent>>) -> Json<Hello> {
    let loaded = agent.loaded.lock().unwrap_or_else(PoisonError::into_inner);
    Json(Hello {
        version: VERSION,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        loaded: loaded.as_ref().map(|(digest, _)| digest.clone()),
        max_rate: agent.options.max_rate.map(Rps::get),
    })
}

async fn clock(State(agent): State<Arc<Agent>>) -> Json<ClockNow> {
    Json(ClockNow {
        now_ns: wire::nanos(agent.epoch.elapsed()),
    })
}

/// An order as it came, within its bound.
fn order<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<(T, Bytes), No> {
    let body = body.map_err(|e| {
        let why = match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => format!("an order has at most {} MiB", MOST_ORDER >> 20),
            _ => "the order broke off".to_owned(),
        };
        No::new(e.status(), why)
    })?;
    let value = serde_json::from_slice(&body)
        .map_err(|e| No::new(StatusCode::BAD_REQUEST, format!("the order makes no sense: {e}")))?;
    Ok((value, body))
}

/// Takes a load and holds it ready.
async fn load(
    State(agent): State<Arc<Agent>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Loaded>, No> {
    let (load, body): (Load, Bytes) = order(body)?;
    let digest = wire::digest(&body);
    let urls = load.urls.clone();
    if urls.len() > MOST_URLS {
        return Err(No::unprocessable(format!("a load has at most {MOST_URLS} URLs")));
    }
    let options = &agent.options;
    for url in &urls {
        allowed(url, &options.allow)?;
    }
    let mut spec = load
        .into_spec(options.allow.clone(), options.cpu)
        .map_err(No::unprocessable)?;
    if spec.timeout > LONGEST_TIMEOUT {
        return Err(No::unprocessable("a request's timeout is at most 10 minutes"));
    }
    spec.connections = spec.connections.min(options.connections);
    // Resolving a name blocks.
    let prepared = tokio::task::spawn_blocking(move || Generator::prepare(&spec, &urls, 0));
    let generator = match tokio::time::timeout(RESOLVE, prepared).await {
        Ok(Ok(Ok(generator))) => generator,
        Ok(Ok(Err(LoadError::Remote { host, address }))) => {
            return Err(No::new(
                StatusCode::FORBIDDEN,
                format!(
                    "{host} ({address}) is neither this agent's machine nor a private network: if it is yours, start the agent with --allow {host}"
                ),
            ));
        }
        Ok(Ok(Err(e))) => return Err(No::unprocessable(e.to_string())),
        Ok(Err(_)) => {
            return Err(No::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the load could not be prepared",
            ));
        }
        Err(_) => {
            return Err(No::unprocessable(
                "the load's hosts could not be resolved in time",
            ));
        }
    };
    *agent.loaded.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((digest.clone(), Arc::new(generator)));
    Ok(Json(Loaded { load: digest }))
}

/// Whether `url` may get load: its host is listed, or nothing is (then the engine's own rule holds: this machine and private networks).
fn allowed(url: &str, allow: &[String]) -> Result<(), No> {
    let host = url.parse::<axum::http::Uri>().ok().and_then(|u| {
        u.host()
            .map(|h| h.trim_start_matches('[').trim_end_matches(']').to_owned())
    });
    let Some(host) = host else {
        return Err(No::unprocessable("a base URL names no host"));
    };
    if allow.is_empty() || allow.iter().any(|a| a.eq_ignore_ascii_case(&host)) {
        return Ok(());
    }
    let why = format!(
        "this agent sends load only to {} (its --allow), not to {host}",
        allow.join(", ")
    );
    Err(No::new(StatusCode::FORBIDDEN, why))
}

/// Begins a probe; the answer is its lines.
async fn probe(State(agent): State<Arc<Agent>>, body: Result<Bytes, BytesRejection>) -> Result<Response, No> {
    let (order, _): (ProbeOrder, Bytes) = order(body)?;
    let (plan, part) = check(&order, agent.options.max_rate)?;
    let place = tokio::time::timeout(LEAVE, Arc::clone(&agent.slot).acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        let why = "it is at work on another probe; an agent has one controller at a time";
        return Err(No::new(StatusCode::CONFLICT, why));
    };
    let generator = {
        let loaded = agent.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded.as_ref() {
            Some((digest, generator)) if *digest == order.load => Arc::clone(generator),
            _ => {
                let why = "it was given another load meanwhile; an agent has one controller at a time";
                return Err(No::new(StatusCode::CONFLICT, why));
            }
        }
    };
    let start = Duration::from_nanos(order.start_ns);
    let now = agent.epoch.elapsed();
    if start < now + NOTICE {
        let why = format!(
            "the start had passed, or was less than {} ms ahead, when the order came",
            NOTICE.as_millis()
        );
        return Err(No::new(StatusCode::REQUEST_TIMEOUT, why));
    }
    if start > now + FARTHEST_START {
        return Err(No::unprocessable("the start is more than a minute ahead"));
    }
    let share = Share {
        part,
        seed: order.seed,
        start: agent.epoch + start,
        intervals: order.intervals,
    };
    let (sender, lines) = mpsc::channel(LINES);
    let brake = Brake::default();
    *agent.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(brake.clone());
    tokio::spawn(run(
        Arc::clone(&agent),
        generator,
        plan,
        share,
        brake,
        place,
        sender,
    ));
    let lines = stream::unfold(lines, |mut lines| async move {
        let line: Bytes = lines.recv().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

/// What is ordered, where it is within all bounds.
fn check(order: &ProbeOrder, max_rate: Option<Rps>) -> Result<(ProbePlan, Part), No> {
    let rate = Rps::new(order.rate).map_err(|e| No::unprocessable(format!("the rate: {e}")))?;
    let (of, index) = (order.of, order.index);
    if of == 0 || of as usize > MOST_AGENTS || index >= of {
        return Err(No::unprocessable(format!(
            "part {index} of {of} is none: at most {MOST_AGENTS} agents drive a probe"
        )));
    }
    let lead_in = Duration::from_nanos(order.lead_in_ns);
    let window = Duration::from_nanos(order.window_ns);
    let drain = Duration::from_nanos(order.drain_ns);
    if lead_in.saturating_add(window) > LONGEST_PROBE || drain > LONGEST_DRAIN || window.is_zero() {
        return Err(No::unprocessable(format!(
            "a probe lasts at most {} minutes and drains at most {}",
            LONGEST_PROBE.as_secs() / 60,
            LONGEST_DRAIN.as_secs() / 60
        )));
    }
    let share = rate.get() / f64::from(of);
    if let Some(most) = max_rate.filter(|most| share > most.get() * (1.0 + 1e-9)) {
        return Err(No::unprocessable(format!(
            "a share of {share:.0} rps is more than the {:.0} rps of its --max-rate",
            most.get()
        )));
    }
    let mut plan = ProbePlan::new(ProbePhase::Growth, rate, window);
    plan.lead_in = lead_in;
    plan.drain = drain;
    Ok((plan, Part { index, of }))
}

/// Drives a share and tells its lines. Ends when the controller is gone or does not read.
async fn run(
    agent: Arc<Agent>,
    generator: Arc<Generator>,
    plan: ProbePlan,
    share: Share,
    brake: Brake,
    place: OwnedSemaphorePermit,
    sender: mpsc::Sender<Bytes>,
) {
    let overrun = Notify::new();
    let tell = |line: Result<Line, String>| {
        let told = line.and_then(|l| text(&l)).map(|t| sender.try_send(t));
        if !matches!(told, Ok(Ok(()))) {
            overrun.notify_one();
        }
    };
    let ended = {
        let mut hear = |progress: Progress<'_>| {
            tell(match progress {
                Progress::Bin(at, bin, latency) => BinLine::new(at, bin, latency).map(Line::Bin),
                Progress::Interval(interval) => IntervalLine::new(interval).map(Line::Interval),
            });
        };
        let mut drive = std::pin::pin!(generator.drive_share(&plan, share, &brake, &mut hear));
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Bounded by the probe's own length.
        loop {
            tokio::select! {
                ended = &mut drive => break Some(ended),
                _ = beat.tick() => tell(Ok(Line::Beat)),
                () = overrun.notified() => break None,
                () = sender.closed() => break None,
            }
        }
    };
    *agent.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    // The next probe may be ordered as soon as the result is read.
    drop(place);
    let Some(ended) = ended else { return };
    let last = ended.map_err(|e| e.to_string()).and_then(|r| {
        let ShareResult {
            measurement,
            lag,
            first_ms,
        } = r;
        DoneLine::new(measurement, &lag, first_ms)
    });
    let last = last.map_or_else(Line::Failed, |done| Line::Done(Box::new(done)));
    if let Ok(line) = text(&last) {
        // Nobody listens any more, or not in time: the controller says so.
        let _ = tokio::time::timeout(LAST_LINE, sender.send(line)).await;
    }
}

fn text(line: &Line) -> Result<Bytes, String> {
    let mut text = serde_json::to_vec(line).map_err(|e| e.to_string())?;
    text.push(b'\n');
    Ok(Bytes::from(text))
}

/// Ends the window of the probe that runs.
async fn stop(
    State(agent): State<Arc<Agent>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, No> {
    let (stop, _): (StopOrder, Bytes) = order(body)?;
    let running = agent
        .running
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let Some(brake) = running else {
        return Err(No::new(StatusCode::CONFLICT, "no probe runs here"));
    };
    let reason: String = stop
        .reason
        .chars()
        .filter(|c| !c.is_control())
        .take(500)
        .collect();
    brake.end_at(Duration::from_nanos(stop.offset_ns), reason);
    Ok(Json(serde_json::json!({ "stopping": true })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> ProbeOrder {
        ProbeOrder {
            load: String::new(),
            index: 1,
            of: 2,
            seed: 1,
            rate: 100.0,
            lead_in_ns: 0,
            window_ns: 1_000_000_000,
            drain_ns: 0,
            start_ns: 0,
            intervals: false,
        }
    }

    #[test]
    fn orders_beyond_the_bounds_are_refused() {
        let most = Some(Rps::new(50.0).unwrap());
        assert!(check(&order(), most).is_ok(), "half of 100");
        type Change = fn(&mut ProbeOrder);
        let bad: [(&str, Change); 7] = [
            ("50 rps", |o| o.rate = 101.0),
            ("the rate", |o| o.rate = f64::NAN),
            ("the rate", |o| o.rate = 0.0),
            ("is none", |o| o.index = 2),
            ("is none", |o| o.of = 0),
            ("minutes", |o| o.window_ns = u64::MAX),
            ("minutes", |o| o.window_ns = 0),
        ];
        for (word, change) in bad {
            let mut o = order();
            change(&mut o);
            let Err(No(status, why)) = check(&o, most) else {
                panic!("{word}")
            };
            assert!(
                status == StatusCode::UNPROCESSABLE_ENTITY && why.contains(word),
                "{word}: {why}"
            );
        }
    }

    #[test]
    fn only_listed_hosts_get_load_where_any_is_listed() {
        let listed = ["Shop.example".to_owned(), "::1".to_owned()];
        assert!(allowed("http://shop.example:8000/x", &listed).is_ok());
        assert!(allowed("http://[::1]:1", &listed).is_ok());
        assert!(allowed("http://127.0.0.1:1", &[]).is_ok());
        for bad in [
            "http://127.0.0.1:1",
            "http://shop.example.evil:1",
            "http://user@evil:1",
            "nonsense",
            "",
        ] {
            assert!(allowed(bad, &listed).is_err(), "{bad}");
        }
    }
}
