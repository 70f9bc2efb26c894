//! The live page of a study: the report, drawn again when a trial begins or ends, on loopback only.
//!
//! It reads the journal through its own read-only connection and never writes. A page elsewhere on the web
//! must not read it through a name that it points at this machine (DNS rebinding), so the Host header must
//! name loopback. The caller owns the socket and the stop signal.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::Stream;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use crate::report::{self, Page};
use crate::results::Study;
use crate::store::{Sqlite, StoreError};

/// How often the journal is looked at: a count of rows, some microseconds.
const LOOK: Duration = Duration::from_millis(500);
/// From a run's end to the page's: a look at the journal and the time to fetch what it found.
const LAST_NEWS: Duration = Duration::from_millis(2_000);
/// Most pages that are kept informed at a time.
const MOST_PAGES: usize = 32;

/// Everything that a revision of the study is shown as.
struct Drawn {
    revision: i64,
    page: Vec<u8>,
    main: Vec<u8>,
    trials: Vec<u8>,
    probes: Vec<u8>,
    json: Vec<u8>,
}

struct Live {
    journal: Sqlite,
    drawn: Mutex<Option<Arc<Drawn>>>,
    revision: watch::Receiver<i64>,
    pages: Arc<Semaphore>,
}

/// Serves the study in `dir` on `listener`, which must be bound to loopback, until `shutdown` resolves.
///
/// Errors: the journal cannot be read, or the listener is not on loopback.
pub async fn serve(
    listener: TcpListener,
    dir: PathBuf,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), StoreError> {
    let io = |e: std::io::Error| StoreError::Io(format!("could not serve the page: {e}"));
    let address = listener.local_addr().map_err(io)?;
    if !address.ip().is_loopback() {
        return Err(StoreError::Conflict(format!(
            "the live page is for loopback only, not {address}"
        )));
    }
    let journal = Sqlite::open_read_only(&dir).await?;
    let (news, revision) = watch::channel(journal.revision().await?);
    let pages = Arc::new(Semaphore::new(MOST_PAGES));
    let live = Arc::new(Live {
        journal: journal.clone(),
        drawn: Mutex::new(None),
        revision,
        pages: Arc::clone(&pages),
    });
    let port = address.port();
    let app = Router::new()
        .route(
            "/",
            get(|s: State<Arc<Live>>| part(s, "text/html; charset=utf-8", |d| &d.page)),
        )
        .route(
            "/main",
            get(|s: State<Arc<Live>>| part(s, "text/html; charset=utf-8", |d| &d.main)),
        )
        .route(
            "/trials.csv",
            get(|s: State<Arc<Live>>| part(s, "text/csv; charset=utf-8", |d| &d.trials)),
        )
        .route(
            "/probes.csv",
            get(|s: State<Arc<Live>>| part(s, "text/csv; charset=utf-8", |d| &d.probes)),
        )
        .route(
            "/study.json",
            get(|s: State<Arc<Live>>| part(s, "application/json", |d| &d.json)),
        )
        .route("/events", get(events))
        .layer(middleware::from_fn(move |request, next| {
            guard(port, request, next)
        }))
        .with_state(live);
    let watching = tokio::spawn(watch_journal(journal, news));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.await;
    });
    let mut server = std::pin::pin!(server.into_future());
    let served = tokio::select! {
        served = &mut server => served,
        () = shutdown => {
            if pages.available_permits() < MOST_PAGES {
                // Somebody is looking: the run's last news is shown before the page goes.
                tokio::time::sleep(LAST_NEWS).await;
            }
            // Open event streams end with the watcher's channel, which lets the server finish.
            watching.abort();
            let _ = stop.send(());
            match tokio::time::timeout(Duration::from_secs(2), server).await {
                Ok(served) => served,
                Err(_) => Ok(()), // a slow reader is let go
            }
        }
    };
    watching.abort();
    served.map_err(io)
}

/// Tells the pages when the journal has something new. A read that fails is tried again: the run may be
/// folding its log, and the page stays as it was.
async fn watch_journal(journal: Sqlite, news: watch::Sender<i64>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if let Ok(now) = journal.revision().await {
            news.send_if_modified(|known| {
                let new = *known != now;
                *known = now;
                new
            });
        }
    }
}

impl Live {
    /// The study as it is now; drawn once a revision, one at a time.
    async fn now(&self) -> Result<Arc<Drawn>, StoreError> {
        let mut drawn = self.drawn.lock().await;
        let revision = self.journal.revision().await?;
        if let Some(d) = drawn.as_ref().filter(|d| d.revision == revision) {
            return Ok(Arc::clone(d));
        }
        let study = Study::read(&self.journal).await?;
        let new = tokio::task::spawn_blocking(move || draw(&study, revision))
            .await
            .map_err(|e| StoreError::Conflict(format!("the page could not be drawn: {e}")))?
            .map_err(|e| StoreError::Conflict(e.to_string()))?;
        let new = Arc::new(new);
        *drawn = Some(Arc::clone(&new));
        Ok(new)
    }
}

fn draw(study: &Study, revision: i64) -> Result<Drawn, report::RenderError> {
    let s = study.summary();
    let main = report::main_html(&s, Page::Live);
    Ok(Drawn {
        revision,
        page: report::page_around(&s, Page::Live, &main),
        main: main.into_bytes(),
        trials: report::trials_csv(&s)?,
        probes: report::probes_csv(&s)?,
        json: report::summary_json(&s).to_string().into_bytes(),
    })
}

async fn part(
    State(live): State<Arc<Live>>,
    kind: &'static str,
    of: impl Fn(&Drawn) -> &Vec<u8>,
) -> Response {
    match live.now().await {
        Ok(d) => ([(header::CONTENT_TYPE, kind)], of(&d).clone()).into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, e.to_string()).into_response(),
    }
}

/// What an open event stream holds on to.
struct Pages {
    revision: watch::Receiver<i64>,
    first: bool,
    _place: OwnedSemaphorePermit,
}

/// `changed` whenever the study did; one at the start, so that a page that was away catches up.
async fn events(State(live): State<Arc<Live>>) -> Response {
    let Ok(place) = Arc::clone(&live.pages).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open").into_response();
    };
    let pages = Pages {
        revision: live.revision.clone(),
        first: true,
        _place: place,
    };
    Sse::new(changes(pages))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn changes(pages: Pages) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(pages, |mut p| async move {
        if !std::mem::take(&mut p.first) {
            // An error means that the server stops.
            p.revision.changed().await.ok()?;
        }
        let revision = *p.revision.borrow_and_update();
        Some((
            Ok(Event::default().event("changed").data(revision.to_string())),
            p,
        ))
    })
}

/// Refuses requests that came by another name than loopback's, and closes what a browser would leave open.
async fn guard(port: u16, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    if !is_loopback_host(host, port) {
        return (StatusCode::FORBIDDEN, "this page answers to localhost only\n").into_response();
    }
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn is_loopback_host(host: &str, port: u16) -> bool {
    ["127.0.0.1", "localhost", "[::1]"]
        .into_iter()
        .any(|name| host == format!("{name}:{port}") || (port == 80 && host == name))
}

/// The folder of a study as its page's address is printed for people.
#[must_use]
pub fn invitation(address: std::net::SocketAddr, dir: &Path) -> String {
    format!("live page of {}: http://{address}/", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks when a foreign name that resolves to this machine is answered.
    #[test]
    fn only_loopback_names_are_answered() {
        for good in ["127.0.0.1:8790", "localhost:8790", "[::1]:8790"] {
            assert!(is_loopback_host(good, 8790), "{good}");
        }
        for bad in [
            "",
            "evil.example:8790",
            "localhost:1",
            "127.0.0.1",
            "localhost.evil.example:8790",
            "127.0.0.1:87900",
        ] {
            assert!(!is_loopback_host(bad, 8790), "{bad}");
        }
    }
}
