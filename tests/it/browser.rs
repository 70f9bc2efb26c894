//! Headless Chromium over its debugging pipe: what the page tests need and nothing more. Every wait has a
//! deadline; the browser ends with its handle.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

pub struct Browser {
    child: Child,
    input: File,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// Events of the page since the last `take_events`.
    events: Vec<Value>,
    _dir: tempfile::TempDir,
}

impl Browser {
    /// Starts it; None, with the reason on stderr, where no Chromium is installed.
    pub fn start() -> Option<Self> {
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find(|name| {
                Command::new(name)
                    .arg("--version")
                    .output()
                    .is_ok_and(|o| o.status.success())
            });
        let Some(program) = found else {
            assert!(
                std::env::var_os("AUTOTUNE_TEST_BROWSER").is_none(),
                "scripts/tools found a chromium and it does not start"
            );
            eprintln!("skipped: no chromium is installed (Debian: apt-get install chromium)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        assert!(
            Command::new("mkfifo")
                .args([&to, &from])
                .status()
                .unwrap()
                .success()
        );
        let child = Command::new("sh")
            .arg("-c")
            // The browser reads commands on descriptor 3 and answers on 4.
            .arg(r#"exec "$1" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                 --disable-background-networking --disable-component-update --hide-scrollbars \
                 --user-data-dir="$2" --remote-debugging-pipe about:blank 3<"$3" 4>"$4""#)
            .args(["sh", program])
            .args([&dir.path().join("profile"), &to, &from])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // In the shell's order: opening a pipe waits for the other side.
        let input = OpenOptions::new().write(true).open(&to).unwrap();
        let output = File::open(&from).unwrap();
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for part in BufReader::new(output).split(0) {
                let Ok(bytes) = part else { return };
                if let Ok(v) = serde_json::from_slice(&bytes)
                    && send.send(v).is_err()
                {
                    return;
                }
            }
        });
        let mut b = Self {
            child,
            input,
            messages,
            session: None,
            last: 0,
            events: Vec::new(),
            _dir: dir,
        };
        let target = b.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = b.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        b.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            b.call(&format!("{domain}.enable"), json!({}));
        }
        Some(b)
    }

    /// One command and its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(s) = &self.session {
            message["sessionId"] = json!(s);
        }
        self.input.write_all(message.to_string().as_bytes()).unwrap();
        self.input.write_all(&[0]).unwrap();
        let id = self.last;
        let answer = self.until(method, |m| m["id"].as_u64() == Some(id));
        assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    fn until(&mut self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let m = self
                .messages
                .recv_timeout(left)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            if found(&m) {
                return m;
            }
            self.events.push(m);
        }
    }

    /// Goes to `url` and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert!(gone.get("errorText").is_none(), "{gone}");
        if !self.events.iter().any(|e| e["method"] == "Page.loadEventFired") {
            self.until("load", |m| m["method"] == "Page.loadEventFired");
        }
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let r = self.call("Runtime.evaluate", params);
        assert!(
            r.get("exceptionDetails").is_none(),
            "{expression}: {}",
            r["exceptionDetails"]
        );
        r["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true; false after `longest`.
    pub fn wait_for(&mut self, expression: &str, longest: Duration) -> bool {
        // The page itself looks again at each frame, so nothing sleeps here.
        let script = format!(
            "new Promise((yes) => {{ const end = performance.now() + {}; const look = () => {{ \
             if ({expression}) yes(true); else if (performance.now() > end) yes(false); else setTimeout(look, 10); }}; look(); }})",
            longest.as_millis()
        );
        self.eval(&script) == json!(true)
    }

    /// Console errors, exceptions, and refused or failed loads so far.
    pub fn complaints(&self) -> Vec<String> {
        let bad = |e: &&Value| match e["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Network.loadingFailed" | "Log.entryAdded") => true,
            Some("Runtime.consoleAPICalled") => e["params"]["type"] == "error",
            _ => false,
        };
        self.events
            .iter()
            .filter(bad)
            .map(|e| e["params"].to_string())
            .collect()
    }

    /// URLs of every request so far.
    pub fn requests(&self) -> Vec<String> {
        let sent = self
            .events
            .iter()
            .filter(|e| e["method"] == "Network.requestWillBeSent");
        sent.map(|e| {
            e["params"]["request"]["url"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
    }

    /// Width and colours of the screen.
    pub fn screen(&mut self, width: u32, height: u32, dark: bool) {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// A PNG of the whole page, or of its first screen.
    pub fn screenshot(&mut self, path: &Path, whole: bool) {
        let shot = self.call(
            "Page.captureScreenshot",
            json!({ "captureBeyondViewport": whole }),
        );
        std::fs::write(path, decode64(shot["data"].as_str().unwrap())).unwrap();
    }
}

fn decode64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').collect();
    for chunk in digits.chunks(4) {
        let n = chunk.iter().fold(0, |n, c| n << 6 | value(*c)) << (6 * (4 - chunk.len()));
        out.extend(&n.to_be_bytes()[1..chunk.len()]);
    }
    out
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
