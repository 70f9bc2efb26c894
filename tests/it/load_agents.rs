//! Several generators on one probe: real agents as child processes over loopback, counted at the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use autotune::load::Generator;
use autotune::measurement::{Bin, Measurement, generator_verdict};
use autotune::spec::{AgentsSpec, LoadSpec};

use crate::load_basics::plan;
use crate::load_server::{self, Script, Server};
use crate::support::AUTOTUNE;

const TOKEN: &str = "0123456789abcdef-agents";

/// A running `autotune agent`, killed when dropped.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(token: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(AUTOTUNE)
            .args(["agent", "--listen", "127.0.0.1:0", "--json", "--token-file"])
            .arg(token)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            address: value["listening"].as_str().unwrap().to_owned(),
        }
    }

    fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A folder with a token file.
fn token() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    (dir, file)
}

fn with(agents: &[&Agent]) -> LoadSpec {
    LoadSpec {
        agents: AgentsSpec {
            addresses: agents.iter().map(|a| a.address.clone()).collect(),
            token: Some(AgentsSpec::token_of(TOKEN).unwrap()),
            ca: None,
        },
        ..load_server::spec()
    }
}

async fn drive(spec: &LoadSpec, url: &str, rate: f64, ms: u64) -> Measurement {
    let generator = Generator::prepare(spec, &[url.to_owned()], 1).unwrap();
    generator
        .drive(&plan(rate, Duration::from_millis(ms)), &mut |_| {
            ControlFlow::Continue(())
        })
        .await
        .unwrap()
}

/// One agent with a limit begins nothing beyond it; two carry twice as much, every request of the schedule once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_offer_twice_what_one_may() {
    let (_dir, file) = token();
    let a = Agent::start(&file, &["--max-rate", "150"]);
    let b = Agent::start(&file, &["--max-rate", "150"]);
    let server = Server::start(Script::ok()).await;
    let refused = drive(&with(&[&a]), &server.url(), 300.0, 1_000).await;
    let why = generator_verdict(&refused, None);
    assert!(
        why.len() == 1 && why[0].contains(&a.address) && why[0].contains("--max-rate"),
        "{why:?}"
    );
    assert_eq!((refused.scheduled, server.requests()), (0, 0), "nothing was sent");
    let one = drive(&with(&[&a]), &server.url(), 150.0, 1_000).await;
    assert_eq!((one.scheduled, server.requests()), (150, 150));
    let two = drive(&with(&[&a, &b]), &server.url(), 300.0, 1_000).await;
    assert_eq!((two.scheduled, server.requests()), (300, 450));
    let parts: Vec<(&str, u64)> = two
        .generator
        .agents
        .iter()
        .map(|p| (p.agent.as_str(), p.scheduled))
        .collect();
    assert_eq!(parts, [(a.address.as_str(), 150), (b.address.as_str(), 150)]);
    let h = two.histograms.as_ref().unwrap();
    let late: u64 = h.by_class.values().map(hdrhistogram::Histogram::len).sum();
    assert_eq!(
        h.latency.len() + late,
        300,
        "every request is in the merged histograms"
    );
    assert_eq!(two.bins.iter().map(|b| b.scheduled).sum::<u64>(), 300);
}

/// The same where connections are the limit: a service that takes 100 ms lets four connections send 40 requests a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_have_twice_the_connections() {
    let (_dir, file) = token();
    let agents = [(); 2].map(|()| Agent::start(&file, &["--connections", "4"]));
    let server = Server::start(Script::slow(Duration::from_millis(100))).await;
    let one = drive(&with(&[&agents[0]]), &server.url(), 60.0, 2_000).await;
    let two = drive(&with(&[&agents[0], &agents[1]]), &server.url(), 60.0, 2_000).await;
    assert_eq!((one.scheduled, two.scheduled), (120, 120));
    assert!(
        one.sent <= 84,
        "four connections, ten answers a second each, two seconds: {}",
        one.sent
    );
    assert!(two.sent > 84, "more than one could: {}", two.sent);
    let whose: Vec<&String> = one
        .generator
        .agent_trouble
        .iter()
        .filter(|t| t.contains("4 connections"))
        .collect();
    assert!(
        whose.iter().all(|t| t.contains(&agents[0].address)) && !whose.is_empty(),
        "{:?}",
        one.generator
    );
}

/// What the server sees of a schedule that two agents share. The gaps' spread is printed, not judged: other work on the machine is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_schedule_is_whole() {
    let (_dir, file) = token();
    let agents = [(); 2].map(|()| Agent::start(&file, &[]));
    let server = Server::start(Script::ok()).await;
    let m = drive(&with(&[&agents[0], &agents[1]]), &server.url(), 2_000.0, 1_500).await;
    assert_eq!((m.scheduled, server.requests()), (3_000, 3_000));
    assert_eq!(m.good + m.errors.values().sum::<u64>() + m.in_flight_end, 3_000);
    let gaps = server.gaps();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    let clock: Vec<f64> = m.generator.agents.iter().map(|a| a.clock_error_ms).collect();
    println!(
        "gap CV {:.3} at 2,000 rps of two agents; clock error {clock:.3?} ms; send lag p99 {:.3} ms",
        variance.sqrt() / mean,
        m.generator.send_lag_ms.p99
    );
    assert!(clock.iter().all(|c| *c > 0.0), "the uncertainty is recorded");
}

/// The watch sees merged bins while the probe runs, and its stop ends all windows at the same place of the schedule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_the_window_of_all() {
    let (_dir, file) = token();
    let agents = [(); 2].map(|()| Agent::start(&file, &[]));
    let server = Server::start(Script::ok()).await;
    let generator = Generator::prepare(&with(&[&agents[0], &agents[1]]), &[server.url()], 1).unwrap();
    let mut bins: Vec<Bin> = Vec::new();
    let mut watch = |b: &Bin| {
        bins.push(*b);
        ControlFlow::Break("enough".to_owned())
    };
    let m = generator
        .drive(&plan(200.0, Duration::from_secs(20)), &mut watch)
        .await
        .unwrap();
    assert_eq!((bins.len(), bins[0].scheduled), (1, 100), "half a second of both");
    assert_eq!(m.stopped_early.as_deref(), Some("enough"));
    assert!(m.window_s < 20.0, "{}", m.window_s);
    if m.generator.agent_trouble.is_empty() {
        assert_eq!(m.scheduled as f64, m.window_s * 200.0, "whole bins of both");
    }
}

/// Breaks when a lost generator is taken for a slow service, or nobody is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_voids_the_probe_and_is_named() {
    let (_dir, file) = token();
    let (a, b) = (Agent::start(&file, &[]), Agent::start(&file, &[]));
    let server = Server::start(Script::ok()).await;
    let generator = Generator::prepare(&with(&[&a, &b]), &[server.url()], 1).unwrap();
    let mut watch = |_: &Bin| {
        b.signal(rustix::process::Signal::KILL);
        ControlFlow::Continue(())
    };
    let m = generator
        .drive(&plan(100.0, Duration::from_secs(30)), &mut watch)
        .await
        .unwrap();
    let why = generator_verdict(&m, None);
    assert!(
        why.len() == 1 && why[0].starts_with(&format!("agent {}: ", b.address)),
        "{why:?}"
    );
    assert!(why[0].contains("into the window"), "{why:?}");
    // The one that is left stops with the probe, and is ready for the next.
    server.until_idle().await;
    let alone = drive(&with(&[&a]), &server.url(), 100.0, 300).await;
    assert_eq!(alone.scheduled, 30);
    // The dead one is an error from now on, before anything is sent.
    let e = generator
        .drive(&plan(100.0, Duration::from_secs(1)), &mut |_| {
            ControlFlow::Continue(())
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(
        e.contains(&b.address) && e.contains("is `autotune agent` running there?"),
        "{e}"
    );
}

/// One that hangs is not waited for to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_falls_silent_voids_the_probe_and_is_named() {
    let (_dir, file) = token();
    let (a, b) = (Agent::start(&file, &[]), Agent::start(&file, &[]));
    let server = Server::start(Script::ok()).await;
    let generator = Generator::prepare(&with(&[&a, &b]), &[server.url()], 1).unwrap();
    let mut watch = |_: &Bin| {
        b.signal(rustix::process::Signal::STOP);
        ControlFlow::Continue(())
    };
    let m = generator
        .drive(&plan(50.0, Duration::from_secs(60)), &mut watch)
        .await
        .unwrap();
    let why = generator_verdict(&m, None);
    assert!(
        why.len() == 1 && why[0].starts_with(&format!("agent {}: ", b.address)),
        "{why:?}"
    );
    assert!(why[0].contains("nothing was heard"), "{why:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_speak_tls() {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    let (_dir, file) = token();
    let (cert, key) = (tls.join("server.crt"), tls.join("server.key"));
    let a = Agent::start(
        &file,
        &[
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ],
    );
    let server = Server::start(Script::ok()).await;
    let mut spec = with(&[&a]);
    spec.agents.addresses = vec![format!("localhost:{}", a.port())];
    let plain = Generator::prepare(&spec, &[server.url()], 1)
        .unwrap()
        .reach()
        .await;
    assert!(plain.is_err(), "without TLS");
    spec.agents.addresses = vec![format!("https://localhost:{}", a.port())];
    let unknown = Generator::prepare(&spec, &[server.url()], 1)
        .unwrap()
        .reach()
        .await;
    assert!(
        unknown.unwrap_err().to_string().contains("TLS"),
        "a certificate that nobody vouches for"
    );
    spec.agents.ca = Some(std::fs::read_to_string(tls.join("ca.crt")).unwrap());
    let m = drive(&spec, &server.url(), 100.0, 300).await;
    assert_eq!((m.scheduled, server.requests()), (30, 30));
}

/// `autotune load` as a child process, with what it printed.
async fn load(
    agents: String,
    token: PathBuf,
    url: String,
    more: &'static [&'static str],
) -> std::process::Output {
    tokio::task::spawn_blocking(move || {
        Command::new(AUTOTUNE)
            .args([
                "load",
                "--rate",
                "50",
                "--duration",
                "1s",
                "--json",
                "--url",
                &url,
                "--agents",
                &agents,
            ])
            .arg("--agent-token-file")
            .arg(token)
            .args(more)
            .output()
            .unwrap()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_command_drives_agents_and_logs_their_seconds() {
    let (dir, file) = token();
    let agents = [(); 2].map(|()| Agent::start(&file, &[]));
    let server = Server::start(Script::ok()).await;
    let log = dir.path().join("out.hlog");
    let more = vec!["--histogram".to_owned(), log.display().to_string()];
    let (url, both) = (
        server.url(),
        format!("{},{}", agents[0].address, agents[1].address),
    );
    let out = tokio::task::spawn_blocking(move || {
        Command::new(AUTOTUNE)
            .args([
                "load",
                "--rate",
                "100",
                "--duration",
                "2s",
                "--json",
                "--url",
                &url,
                "--agents",
                &both,
            ])
            .env("AUTOTUNE_AGENT_TOKEN_FILE", file)
            .args(more)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let value: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((value["scheduled"].as_u64(), server.requests()), (Some(200), 200));
    assert_eq!(value["agents"].as_array().unwrap().len(), 2);
    let text = std::fs::read(log).unwrap();
    let logged: u64 = intervals(&text).iter().sum();
    assert_eq!(
        Some(logged),
        value["good"].as_u64(),
        "the seconds add up to the whole"
    );
}

/// Good answers by second of an interval log.
fn intervals(text: &[u8]) -> Vec<u64> {
    use base64::Engine as _;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let mut reader = hdrhistogram::serialization::Deserializer::new();
    IntervalLogIterator::new(text)
        .filter_map(|entry| match entry.unwrap() {
            LogEntry::Interval(i) if i.tag().is_none() => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(i.encoded_histogram())
                    .unwrap();
                let h: hdrhistogram::Histogram<u64> = reader.deserialize(&mut bytes.as_slice()).unwrap();
                Some(h.len())
            }
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_sentences_with_codes() {
    let (dir, file) = token();
    let open = Agent::start(&file, &[]);
    let narrow = Agent::start(&file, &["--allow", "shop.example"]);
    let server = Server::start(Script::ok()).await;
    let wrong = dir.path().join("wrong.token");
    std::fs::write(&wrong, "another-token-altogether").unwrap();
    let short = dir.path().join("short.token");
    std::fs::write(&short, "hunter2").unwrap();
    let other = Script::answer(
        200,
        r#"{"version":2,"tool":"9.9.9","loaded":null,"max_rate":null}"#,
    );
    let other = Server::start(other).await.url().replace("http://", "");
    let cases = [
        (open.address.clone(), &wrong, 77, "the token is not this agent's"),
        (open.address.clone(), &short, 65, "16 to 512"),
        (narrow.address.clone(), &file, 77, "only to shop.example"),
        (other, &file, 69, "version 2 of the protocol"),
        (
            "127.0.0.1:9".to_owned(),
            &file,
            69,
            "is `autotune agent` running there?",
        ),
        ("nonsense".to_owned(), &file, 2, "host:port"),
    ];
    for (agent, token, code, words) in cases {
        let out = load(agent, token.clone(), server.url(), &[]).await;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{words}: {said}");
        assert!(
            said.contains(words) && !said.contains("hunter2") && !said.contains(TOKEN),
            "{said}"
        );
    }
    assert_eq!(server.requests(), 0, "nothing was sent");
}

/// One raw request: status and body of the answer.
fn raw(address: &str, head: &str) -> (u16, String) {
    let mut s = TcpStream::connect(address).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(s, "{head}\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[test]
fn an_agent_answers_whoever_asks_with_a_sentence() {
    let (_dir, file) = token();
    let a = Agent::start(&file, &[]);
    let auth = format!("Authorization: Bearer {TOKEN}");
    let version = "autotune-protocol: 1";
    let cases = [
        ("GET /hello HTTP/1.1".to_owned(), 401, "token"),
        (
            format!("GET /hello HTTP/1.1\r\nAuthorization: Bearer {TOKEN}x\r\n{version}"),
            401,
            "token",
        ),
        (
            format!("GET /hello HTTP/1.1\r\n{auth}\r\nautotune-protocol: 99"),
            426,
            "version 1 of the protocol",
        ),
        (
            format!("GET /hello HTTP/1.1\r\n{auth}"),
            426,
            "the controller none",
        ),
        (
            format!("GET /nothing HTTP/1.1\r\n{auth}\r\n{version}"),
            404,
            "no such path",
        ),
        (
            format!("POST /load HTTP/1.1\r\n{auth}\r\n{version}\r\nContent-Length: 33554433"),
            413,
            "at most 32 MiB",
        ),
        (
            format!("POST /load HTTP/1.1\r\n{auth}\r\n{version}\r\nContent-Length: 0"),
            400,
            "makes no sense",
        ),
        (
            format!("POST /stop HTTP/1.1\r\n{auth}\r\n{version}\r\nContent-Length: 0"),
            400,
            "makes no sense",
        ),
    ];
    for (head, status, words) in cases {
        let (got, body) = raw(&a.address, &head);
        assert_eq!(got, status, "{head}: {body}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(value["error"].as_str().unwrap().contains(words), "{head}: {body}");
        assert!(!body.contains(TOKEN));
    }
    let (status, body) = raw(&a.address, &format!("GET /hello HTTP/1.1\r\n{auth}\r\n{version}"));
    assert!(status == 200 && body.contains("\"version\":1"), "{body}");
}
