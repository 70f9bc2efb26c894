//! A Docker Engine in memory on a unix socket, for what a healthy daemon won't do: die, stall, answer 500 or break off
//! at the N-th request. Its containers "run" as far as they answer 200 on their published port.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

use crate::fake_swarm::FakeSwarm;

/// What goes wrong, and when.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The request is answered with 500, not carried out.
    Status,
    /// No answer at all, not carried out.
    Stall,
    /// Carried out, but the connection breaks instead of an answer.
    BreakAfter,
    /// Carried out, headers and half of a body come, then nothing.
    HalfBody,
    /// SIGKILL to the process, before or after the request is carried out.
    Kill { pid: Arc<AtomicU64>, after: bool },
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) config: Json,
    pub(crate) host: Json,
    pub(crate) networks: Json,
    pub(crate) running: bool,
    exit_code: i64,
    starts: u64,
    server: Option<Arc<tokio::task::JoinHandle<()>>>,
}

impl Container {
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.config["Labels"][key].as_str()
    }

    pub(crate) fn port(&self) -> Option<u16> {
        let bindings = self.host["PortBindings"].as_object()?;
        bindings.values().next()?.as_array()?.first()?["HostPort"]
            .as_str()?
            .parse()
            .ok()
    }
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<String, Container>,
    fault: Option<(u64, Fault)>,
    requests: u64,
    log: Vec<String>,
    next_id: u64,
    /// Answered as an engine of API 1.44+ with cgroup v2 would.
    is_new: bool,
    stalls: bool,
    refused: Option<String>,
    /// The next request whose path ends so is carried out late, whoever waits for it.
    slow: Option<(String, Duration)>,
    /// Late requests that are still under way.
    late: u32,
    /// When the first is stopped, the second ends and is started again.
    follower: Option<(String, String)>,
    /// Of the image, instead of the usual id.
    image: Option<String>,
    swarm: FakeSwarm,
}

/// The daemon. Dropped, its socket is gone.
pub(crate) struct FakeEngine {
    state: Arc<Mutex<State>>,
    pub(crate) host: String,
    events: broadcast::Sender<String>,
    task: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
        for c in self.state.lock().unwrap().containers.values() {
            if let Some(s) = &c.server {
                s.abort();
            }
        }
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(status: u16, json: &Json) -> Response<Body> {
    let bytes = if json.is_null() {
        Bytes::new()
    } else {
        Bytes::from(json.to_string())
    };
    let body = Full::new(bytes).map_err(|e| match e {}).boxed();
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn error(status: u16, message: &str) -> Response<Body> {
    full(status, &json!({ "message": message }))
}

static UNIQUE: AtomicU64 = AtomicU64::new(1);

impl FakeEngine {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let state = Arc::new(Mutex::new(State::default()));
        let (events, _) = broadcast::channel(1024);
        let task = serve(socket.clone(), state.clone(), events.clone());
        Self {
            state,
            host: format!("unix://{}", socket.display()),
            events,
            task,
            folder,
        }
    }

    /// An engine of API 1.47 with cgroup v2.
    pub(crate) fn newer(self) -> Self {
        self.state.lock().unwrap().is_new = true;
        self
    }

    /// The daemon goes away: socket gone, connections dead, containers as they are.
    pub(crate) fn stop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(self.socket());
    }

    /// And comes back; what ran is dead, as after a dockerd that was killed, without live-restore.
    pub(crate) fn start_again(&mut self) {
        self.start_again_with(137);
    }

    /// The same where what ran ended with that status: a dockerd that is stopped in order sends SIGTERM first.
    pub(crate) fn start_again_with(&mut self, code: i64) {
        for c in self.state.lock().unwrap().containers.values_mut() {
            if c.running {
                down(c, code);
            }
        }
        self.task = serve(self.socket(), self.state.clone(), self.events.clone());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Puts a container there.
    pub(crate) fn add(&self, name: &str, labels: Json, running: bool) -> String {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = json!({"Image": "shop:latest", "Labels": labels, "StopTimeout": 1,
            "Env": ["POOL_SIZE=2", format!("DATABASE_URL=postgresql://shop:{}@db/shop", crate::docker_kit::CANARY)]});
        let host = json!({"NetworkMode": "bridge", "Memory": 512 << 20,
            "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]}});
        let mut state = self.state.lock().unwrap();
        let id = new_id(&mut state);
        let container = Container {
            id: id.clone(),
            name: name.into(),
            config,
            host,
            networks: json!({"bridge": {"NetworkID": "n"}}),
            ..Container::default()
        };
        state.containers.insert(id.clone(), container);
        if running {
            up(state.containers.get_mut(&id).unwrap());
        }
        id
    }

    /// An id as engines make them, that no other test has.
    pub(crate) fn new_id(&self) -> String {
        new_id(&mut self.state.lock().unwrap())
    }

    /// The swarm that this engine manages, if it has nodes.
    pub(crate) fn swarm<T>(&self, act: impl FnOnce(&mut FakeSwarm) -> T) -> T {
        act(&mut self.state.lock().unwrap().swarm)
    }

    /// From now on the `n`-th request meets `fault`, once.
    pub(crate) fn plan(&self, n: u64, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.requests = 0;
        state.log.clear();
        state.fault = Some((n, fault));
    }

    /// Requests since the last plan, "METHOD path".
    pub(crate) fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }

    /// Whether the planned fault has not come yet.
    pub(crate) fn is_armed(&self) -> bool {
        self.state.lock().unwrap().fault.is_some()
    }

    pub(crate) fn containers(&self) -> Vec<Container> {
        self.state.lock().unwrap().containers.values().cloned().collect()
    }

    pub(crate) fn container(&self, id: &str) -> Option<Container> {
        self.state.lock().unwrap().containers.get(id).cloned()
    }

    /// From now on no request is answered, or all are again.
    pub(crate) fn stall_all(&self, on: bool) {
        self.state.lock().unwrap().stalls = on;
    }

    /// From now on requests whose path ends so are answered with 500.
    pub(crate) fn refuse(&self, path_end: &str) {
        self.state.lock().unwrap().refused = Some(path_end.to_owned());
    }

    /// And none is any more.
    pub(crate) fn allow(&self) {
        self.state.lock().unwrap().refused = None;
    }

    /// The next request whose path ends so is carried out only after `delay`, also when nobody waits for it any more.
    pub(crate) fn slow(&self, path_end: &str, delay: Duration) {
        self.state.lock().unwrap().slow = Some((path_end.to_owned(), delay));
    }

    /// Whether the late request has come and is carried out.
    pub(crate) fn is_through(&self) -> bool {
        let s = self.state.lock().unwrap();
        s.slow.is_none() && s.late == 0
    }

    /// From now on `follower` ends, and is started again, when `leader` is stopped.
    pub(crate) fn follow(&self, leader: &str, follower: &str) {
        self.state.lock().unwrap().follower = Some((leader.to_owned(), follower.to_owned()));
    }

    /// From now on the image has another id: somebody built it anew.
    pub(crate) fn set_image(&self, id: &str) {
        self.state.lock().unwrap().image = Some(id.to_owned());
    }

    /// Somebody removes a container.
    pub(crate) fn remove(&self, id: &str) {
        if let Some(mut c) = self.state.lock().unwrap().containers.remove(id) {
            down(&mut c, 137);
        }
    }

    /// A container's main process ends by itself.
    pub(crate) fn end(&self, id: &str, code: i64) {
        let mut state = self.state.lock().unwrap();
        let c = state.containers.get_mut(id).unwrap();
        down(c, code);
        emit(&self.events, "die", c, &json!({"exitCode": code.to_string()}));
    }

    /// A container ends and is started again by something inside of the daemon: no event says by whom.
    pub(crate) fn start_over(&self, id: &str) {
        let mut state = self.state.lock().unwrap();
        let c = state.containers.get_mut(id).unwrap();
        down(c, 1);
        up(c);
    }

    /// Somebody stops or starts a container.
    pub(crate) fn turn(&self, id: &str, on: bool) {
        let mut state = self.state.lock().unwrap();
        let c = state.containers.get_mut(id).unwrap();
        if on {
            up(c);
            emit(&self.events, "start", c, &json!({}));
        } else {
            down(c, 0);
            emit(&self.events, "kill", c, &json!({"signal": "15"}));
            emit(&self.events, "die", c, &json!({"exitCode": "0"}));
        }
    }

    /// A process of it is killed for memory; the main one lives.
    pub(crate) fn oom(&self, id: &str) {
        emit(&self.events, "oom", &self.container(id).unwrap(), &json!({}));
    }

    /// I1 and I2.
    pub(crate) fn violation(&self, id: &str, name: &str, running: bool) -> Option<String> {
        let Some(c) = self.container(id) else {
            return Some("the original is gone".into());
        };
        let left: Vec<_> = self
            .containers()
            .into_iter()
            .filter(|c| c.label("autotune.run").is_some())
            .map(|c| c.name)
            .collect();
        if c.name != name || c.running != running {
            Some(format!("original: {} running={}", c.name, c.running))
        } else if !left.is_empty() {
            Some(format!("left over: {left:?}"))
        } else {
            None
        }
    }
}

fn new_id(state: &mut State) -> String {
    state.next_id += 1;
    let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
    // Locks go by the first twelve digits: no two tests may share one.
    format!(
        "{:06x}{unique:06x}{:052x}",
        std::process::id() & 0xff_ffff,
        state.next_id
    )
}

fn up(c: &mut Container) {
    c.running = true;
    c.starts += 1;
    let Some(port) = c.port() else { return };
    // So that there is something to find: twelve requests a second for each connection of its pool.
    let pool: usize = c.config["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|e| e.as_str()?.strip_prefix("POOL_SIZE=")?.parse().ok())
        .unwrap_or(1_000);
    let most = pool * 12;
    // A port that is still in use is bound as soon as it is free.
    let server = async move {
        let listener = loop {
            match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                Ok(l) => break l,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut last_second = std::collections::VecDeque::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let now = tokio::time::Instant::now();
            while last_second
                .front()
                .is_some_and(|t| now - *t > Duration::from_secs(1))
            {
                last_second.pop_front();
            }
            last_second.push_back(now);
            let answer: &[u8] = if last_second.len() <= most {
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
            } else {
                b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            };
            tokio::spawn(async move {
                let mut buffer = [0_u8; 2048];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
            });
        }
    };
    c.server = Some(Arc::new(tokio::spawn(server)));
}

fn down(c: &mut Container, code: i64) {
    c.running = false;
    c.exit_code = code;
    if let Some(s) = c.server.take() {
        s.abort();
    }
}

fn emit(events: &broadcast::Sender<String>, action: &str, c: &Container, more: &Json) {
    static NANO: AtomicU64 = AtomicU64::new(1_700_000_000_000_000_000);
    let mut attributes = c.config["Labels"].as_object().cloned().unwrap_or_default();
    attributes.insert("name".into(), json!(c.name));
    attributes.extend(more.as_object().cloned().unwrap_or_default());
    let event = json!({"Type": "container", "Action": action, "timeNano": NANO.fetch_add(1, Ordering::Relaxed),
        "Actor": {"ID": c.id, "Attributes": attributes}});
    let _ = events.send(format!("{event}\n"));
}

fn serve(
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<String>,
) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (state, events) = (state.clone(), events.clone());
            connections.spawn(async move {
                let service = hyper::service::service_fn(|request| {
                    let (state, events) = (state.clone(), events.clone());
                    async move { answer(request, &state, &events).await }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

fn kill(pid: &AtomicU64) {
    let pid = i32::try_from(pid.load(Ordering::SeqCst)).unwrap();
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &Arc<Mutex<State>>,
    events: &broadcast::Sender<String>,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|p| p.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let fault = {
        let mut s = state.lock().unwrap();
        s.requests += 1;
        let line = format!("{} {path}", parts.method);
        s.log.push(line);
        if s.refused.as_ref().is_some_and(|r| path.ends_with(r.as_str())) {
            return Ok(error(500, "refused for the test"));
        }
        let due = s.fault.as_ref().is_some_and(|(n, _)| *n == s.requests);
        if due { s.fault.take().map(|(_, f)| f) } else { None }
    };
    while state.lock().unwrap().stalls {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match &fault {
        Some(Fault::Status) => return Ok(error(500, "injected")),
        Some(Fault::Stall) => std::future::pending::<()>().await,
        Some(Fault::Kill { pid, after: false }) => {
            kill(pid);
            return Err(std::io::Error::other("the client is dead"));
        }
        _ => {}
    }
    let delay = {
        let mut s = state.lock().unwrap();
        let due = s.slow.take_if(|(end, _)| path.ends_with(end.as_str()));
        s.late += u32::from(due.is_some());
        due.map(|(_, delay)| delay)
    };
    if let Some(delay) = delay {
        let (state, events) = (state.clone(), events.clone());
        let work = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let response = carry_out(&parts.method, &path, &query, &bytes, &state, &events);
            state.lock().unwrap().late -= 1;
            response
        });
        return work.await.map_err(std::io::Error::other);
    }
    let response = carry_out(&parts.method, &path, &query, &bytes, state, events);
    match fault {
        Some(Fault::BreakAfter) => Err(std::io::Error::other("broken off")),
        Some(Fault::Kill { pid, after: true }) => {
            kill(&pid);
            Ok(response)
        }
        Some(Fault::HalfBody) => {
            let bytes = response.into_body().collect().await?.to_bytes();
            let half = bytes.slice(..bytes.len() / 2);
            let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Frame::data(half))]);
            let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            Ok(Response::new(BodyExt::boxed(StreamBody::new(stream))))
        }
        _ => Ok(response),
    }
}

fn carry_out(
    method: &Method,
    path: &str,
    query: &BTreeMap<String, String>,
    bytes: &[u8],
    state: &Mutex<State>,
    events: &broadcast::Sender<String>,
) -> Response<Body> {
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let words = match words.as_slice() {
        [v, rest @ ..] if v.starts_with("v1.") => rest.to_vec(),
        all => all.to_vec(),
    };
    let mut state = state.lock().unwrap();
    if let Some((status, json)) = state.swarm.answer(method.as_str(), &words, query, bytes) {
        return full(status, &json);
    }
    match (method.as_str(), words.as_slice()) {
        ("GET", ["version"]) => full(200, &json!({"Version": "fake", "ApiVersion": "1.47"})),
        ("GET", ["info"]) => {
            let cgroup = if state.is_new { "2" } else { "1" };
            full(
                200,
                &json!({"NCPU": 64, "MemTotal": 64_u64 << 30, "CgroupVersion": cgroup, "Swarm": state.swarm.info()}),
            )
        }
        ("GET", ["images", ..]) => full(200, &json!({"Id": image(&state)})),
        ("GET", ["events"]) => stream(events),
        ("GET", ["containers", "json"]) => {
            let list: Vec<Json> = state
                .containers
                .values()
                .map(|c| listed(c, state.is_new))
                .collect();
            full(200, &json!(list))
        }
        ("POST", ["containers", "create"]) => create(&mut state, query, bytes, events),
        ("POST", ["networks", ..]) => full(200, &Json::Null),
        (_, ["containers", id, rest @ ..]) => of_container(&mut state, method, id, rest, query, events),
        _ => error(404, "page not found"),
    }
}

fn stream(events: &broadcast::Sender<String>) -> Response<Body> {
    let receiver = events.subscribe();
    let stream = futures_util::stream::unfold(receiver, |mut r| async move {
        let line = r.recv().await.ok()?;
        Some((Ok::<_, std::io::Error>(Frame::data(Bytes::from(line))), r))
    });
    Response::new(BodyExt::boxed(StreamBody::new(stream)))
}

fn listed(c: &Container, is_new: bool) -> Json {
    // A newer engine has values that no client of today knows.
    let state = match (c.running, is_new) {
        (true, _) => "running",
        (false, false) => "exited",
        (false, true) => "hibernated",
    };
    json!({"Id": c.id, "Names": [format!("/{}", c.name)], "State": state, "Labels": c.config["Labels"],
        "HostConfig": {"NetworkMode": c.host["NetworkMode"]}})
}

fn image(state: &State) -> String {
    state.image.clone().unwrap_or_else(|| "sha256:fake".into())
}

fn inspected(c: &Container, image: &str) -> Json {
    let ports = c.port().filter(|_| c.running).map_or(
        json!({}),
        |p| json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": p.to_string()}]}),
    );
    json!({"Id": c.id, "Name": format!("/{}", c.name), "Image": image, "Config": c.config, "HostConfig": c.host,
        "State": {"Status": if c.running { "running" } else { "exited" }, "Running": c.running, "OOMKilled": false,
            "ExitCode": c.exit_code, "StartedAt": format!("start {}", c.starts), "Pid": 0},
        "NetworkSettings": {"Networks": c.networks, "Ports": ports}})
}

fn create(
    state: &mut State,
    query: &BTreeMap<String, String>,
    bytes: &[u8],
    events: &broadcast::Sender<String>,
) -> Response<Body> {
    let name = query.get("name").cloned().unwrap_or_default();
    if state.containers.values().any(|c| c.name == name) {
        return error(409, "Conflict. The container name is already in use");
    }
    let mut config: Json = serde_json::from_slice(bytes).unwrap_or_default();
    let host = config["HostConfig"].take();
    let networks = config["NetworkingConfig"]["EndpointsConfig"].take();
    let id = new_id(state);
    let c = Container {
        id: id.clone(),
        name,
        config,
        host,
        networks,
        ..Container::default()
    };
    emit(events, "create", &c, &json!({}));
    state.containers.insert(id.clone(), c);
    full(201, &json!({"Id": id, "Warnings": []}))
}

fn of_container(
    state: &mut State,
    method: &Method,
    id: &str,
    rest: &[&str],
    query: &BTreeMap<String, String>,
    events: &broadcast::Sender<String>,
) -> Response<Body> {
    let names: Vec<String> = state.containers.values().map(|c| c.name.clone()).collect();
    let ports: Vec<u16> = state
        .containers
        .values()
        .filter(|c| c.running && c.id != id)
        .filter_map(Container::port)
        .collect();
    let image = image(state);
    let follower = state
        .follower
        .as_ref()
        .filter(|(leader, _)| leader == id)
        .map(|(_, f)| f.clone());
    let Some(c) = state.containers.get_mut(id) else {
        return error(404, &format!("No such container: {id}"));
    };
    let nothing = json!({});
    match (method.as_str(), rest) {
        ("GET", ["json"]) => full(200, &inspected(c, &image)),
        ("GET", ["logs"]) => full(200, &json!("a line of the log")),
        ("POST", ["start"]) if c.running => full(304, &Json::Null),
        ("POST", ["start"]) => {
            if c.port().is_some_and(|p| ports.contains(&p)) {
                return error(500, "Bind for 127.0.0.1 failed: port is already allocated");
            }
            up(c);
            emit(events, "start", c, &nothing);
            full(204, &Json::Null)
        }
        ("POST", ["stop"]) if !c.running => full(304, &Json::Null),
        ("POST", ["stop"]) => {
            down(c, 0);
            for action in ["kill", "die", "stop"] {
                emit(events, action, c, &json!({"exitCode": "0"}));
            }
            if let Some(f) = follower.and_then(|f| state.containers.get_mut(&f)) {
                down(f, 0);
                emit(events, "die", f, &json!({"exitCode": "0"}));
                up(f);
                emit(events, "start", f, &nothing);
            }
            full(204, &Json::Null)
        }
        ("POST", ["rename"]) => {
            let name = query.get("name").cloned().unwrap_or_default();
            if names.contains(&name) {
                return error(409, "Conflict. The container name is already in use");
            }
            c.name = name;
            emit(events, "rename", c, &nothing);
            full(204, &Json::Null)
        }
        ("DELETE", []) => {
            down(c, 137);
            emit(events, "destroy", c, &nothing);
            state.containers.remove(id);
            full(204, &Json::Null)
        }
        _ => error(404, "page not found"),
    }
}
