//! The live page: news within two seconds, loopback names only, an end when it is asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use autotune::store::{Journal, Sqlite, kinds};
use tokio::sync::oneshot;

use crate::browser::Browser;
use crate::support::AUTOTUNE;
use crate::synthetic::Synthetic;

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<Result<(), autotune::store::StoreError>>,
}

async fn serve(dir: &Path) -> Served {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let dir = dir.to_owned();
    let done = tokio::spawn(async move {
        autotune::serve::serve(listener, dir, async move {
            let _ = stopped.await;
        })
        .await
    });
    Served { address, stop, done }
}

/// One request on a connection of its own: status line and everything after it.
fn ask(address: SocketAddr, path: &str, host: &str) -> String {
    let mut s = std::net::TcpStream::connect(address).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        s,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    text
}

/// Breaks when a foreign name is answered, a download is missing, or the server does not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_page_answers_to_loopback_names_only() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    Synthetic {
        trials: 5,
        pairs: 2,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    let served = serve(tmp.path()).await;
    let (address, port) = (served.address, served.address.port());
    let asked = tokio::task::spawn_blocking(move || {
        let ok = |path: &str| ask(address, path, &format!("localhost:{port}"));
        let evil = ask(address, "/study.json", &format!("evil.example:{port}"));
        (
            ok("/"),
            ok("/trials.csv"),
            ok("/study.json"),
            ok("/nothing"),
            evil,
        )
    });
    let (page, trials, json, nothing, evil) = asked.await.unwrap();
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("data-live") && page.contains("connect-src 'self'")
    );
    assert!(page.to_lowercase().contains("cache-control: no-store"));
    assert!(trials.contains("trial,phase,outcome,reason,pool_size"));
    assert!(json.contains("\"verdict\":\"win\""));
    assert!(nothing.starts_with("HTTP/1.1 404"));
    assert!(
        evil.starts_with("HTTP/1.1 403") && !evil.contains("pool_size"),
        "{evil}"
    );
    served.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), served.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Breaks when a listener beyond loopback is served.
#[tokio::test]
async fn other_addresses_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    Synthetic {
        trials: 2,
        pairs: 0,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let e = autotune::serve::serve(listener, tmp.path().to_owned(), std::future::pending())
        .await
        .unwrap_err();
    assert!(e.to_string().contains("loopback"), "{e}");
}

/// Breaks when the page does not show a new trial within two seconds of its end, or forgets the filter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_trial_shows_within_two_seconds() {
    let Some(mut b) = Browser::start() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let journal = Sqlite::open(tmp.path()).await.unwrap();
    let s = Synthetic {
        trials: 6,
        pairs: 0,
        ..Synthetic::default()
    };
    s.fill(&journal).await;
    let served = serve(tmp.path()).await;
    let url = format!("http://{}/", served.address);
    let journal = tokio::task::spawn_blocking(move || {
        b.open(&url);
        assert!(b.wait_for("document.querySelectorAll('#table tbody tr').length == 6", Duration::from_secs(10)));
        b.eval("(e => { e.value = 'search'; e.dispatchEvent(new Event('input', { bubbles: true })); })(document.getElementById('filter'))");
        tokio::runtime::Handle::current().block_on(async {
            s.one_more(&journal).await;
            journal.log(kinds::WARNING, &serde_json::json!("a late warning")).await.unwrap();
        });
        let shown = "document.querySelectorAll('#table tbody tr[data-o=measured]').length == 6 + 1 - \
                     document.querySelectorAll('#table tbody tr:not([data-o=measured])').length && \
                     document.querySelectorAll('#table tbody tr').length == 7";
        assert!(b.wait_for(shown, Duration::from_secs(2)), "the new trial did not show");
        assert!(b.wait_for("document.getElementById('warnings').textContent.includes('a late warning')", Duration::from_secs(2)));
        assert_eq!(b.eval("document.getElementById('filter').value"), "search");
        assert_eq!(b.eval("document.querySelector('#table tbody tr').hidden"), true, "the baseline is filtered out still");
        assert_eq!(b.complaints(), Vec::<String>::new());
        journal
    })
    .await
    .unwrap();
    journal.close().await;
    served.stop.send(()).unwrap();
    // An open event stream must not hold the end up.
    tokio::time::timeout(Duration::from_secs(10), served.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Breaks when `--serve` shows nothing of the run beside it, outlives it, or `--notify` is not told how it ended.
#[test]
fn a_run_serves_its_page_and_tells_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let space = dir.path().join("tiny.toml");
    std::fs::write(
        &space,
        format!(
            r#"
[study]
name = "tiny"
trials = 1
[sut]
kind = "process"
command = ["{AUTOTUNE}", "demo-api"]
url = "http://127.0.0.1:0"
ready = {{ path = "/ready", timeout = "20s" }}
[parameters.pool_size]
type = "int"
low = 1
high = 2
baseline = 1
env = "POOL_SIZE"
[[load.requests]]
path = "/items/1"
[capacity]
start = 40
max = 45
confirm = "1s"
warm_up = "1s"
[confirm]
pairs = 1
"#
        ),
    )
    .unwrap();
    let told = dir.path().join("told");
    let mut child = Command::new(AUTOTUNE)
        .arg("--space")
        .arg(&space)
        .arg("--results")
        .arg(dir.path().join("r"))
        // A slim image has no trust store; a service without TLS needs none.
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .args(["--serve", "0", "--notify"])
        .arg(format!(
            r#"printf '%s %s\n' "$AUTOTUNE_CODE" "$AUTOTUNE_VERDICT" >{0}; cat >>{0}"#,
            told.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let invitation = lines.next().unwrap();
    let address: SocketAddr = invitation
        .split("http://")
        .nth(1)
        .and_then(|a| a.trim_end_matches('/').parse().ok())
        .unwrap_or_else(|| panic!("{invitation}"));
    // The page is asked while the run is under way: it is answered once the study has begun.
    let page = ask(address, "/", &address.to_string());
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("data-live"),
        "{page}"
    );
    let rest: Vec<String> = lines.collect();
    let out = child.wait_with_output().unwrap();
    let code = out.status.code().unwrap();
    assert!(code == 0 || code == 3, "{code}: {rest:?}");
    let told = std::fs::read_to_string(told).unwrap();
    let (head, summary) = told.split_once('\n').unwrap();
    assert!(head.starts_with(&format!("{code} ")), "{told}");
    assert_eq!(summary.trim(), String::from_utf8_lossy(&out.stdout).trim());
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "the page ends with the run"
    );
}
