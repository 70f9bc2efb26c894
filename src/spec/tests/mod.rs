//! The parser from outside: good files, bad files, hashes, secrets, mutations.

use std::collections::BTreeSet;

use super::keys::{ROOT, Ty};
use super::parse::parse_all;
use super::*;
use crate::space::Binding;

mod mistakes;
mod mutations;

const CANARY: &str = "canary-5ecr3t";

fn files(name: &str) -> Result<Vec<u8>, String> {
    match name {
        "users.csv" => Ok(b"id,name\n7,ann\n8,\"bob, b\"\n".to_vec()),
        "order.json" => Ok(b"{\"user\": {user}}".to_vec()),
        "agent.token" => Ok(b"0123456789abcdef-5ecr3t\n".to_vec()),
        "agents.pem" => Ok(b"-----BEGIN CERTIFICATE-----".to_vec()),
        "short.token" => Ok(b"hunter2\n".to_vec()),
        "binary" => Ok(vec![0, 159, 255]),
        _ => Err("there is no such file".into()),
    }
}

/// Parses with this environment.
fn parsed(text: &str, env: &[(&str, &str)]) -> Result<StudySpec, SpecErrors> {
    let env: BTreeMap<String, String> = env.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    parse(text, "t.toml", &|n| env.get(n).cloned(), &files)
}

fn good(text: &str) -> StudySpec {
    parsed(text, &[("DB", CANARY), ("TOKEN", CANARY)]).unwrap_or_else(|e| panic!("{e}\n---\n{text}"))
}

/// Every section, and nearly every key.
const FULL: &str = r#"
[study]
name = "full"
budget = "8h"
trials = 60
seed = 7
search = "simplex"
results = "out"

[sut]
kind = "docker"
service = "api"
project = "shop"
url = "http://127.0.0.1:18000"
ready = { path = "/ready", timeout = "30s" }
env = { LOG = "warning", SECRET = "${TOKEN}", THREADS = 4 }

[parameters.cache]
type = "choice"
values = ["off", "on"]
baseline = "off"
env = "CACHE"

[parameters.redis_pool]
type = "int"
low = 10
high = 100
step = 10
baseline = 20
only_if = 'cache == "on"'
env = "REDIS_MAX_CONNECTIONS"

[parameters.pool_size]
type = "int"
low = 1
high = 50
log = false
baseline = 5
env = "POOL_SIZE"

[parameters.workers]
type = "int"
low = 1
high = 4
baseline = 1
env = "WEB_CONCURRENCY"

[parameters.replicas]
type = "int"
low = 1
high = 3
baseline = 1
replicas = true

[parameters.cpus]
type = "float"
low = 0.25
high = 2
step = 0.25
baseline = 1
limit = "cpus"

[parameters.memory_mb]
type = "int"
low = "256MiB"
high = "1GiB"
step = 256
limit = "memory"

[[constraints]]
that = "cpus * replicas <= 4"
why = "the cores of the host"

[load]
timeout = "5s"
connections = 500
arrivals = "poisson"
headers = { Authorization = "Bearer ${TOKEN}" }
keep_alive = true
cpu = 1
allow_remote = []
agents = ["10.0.0.2:7650", "https://loader.example:7650"]
agent_token_file = "agent.token"
agent_ca = "agents.pem"

[[load.requests]]
weight = 3
path = "/items/{id}?color={color}"
headers = { Accept = "application/json" }
expect_body = "id"

[[load.requests]]
method = "POST"
path = "/orders"
body_file = "order.json"
expect = [200, 201]

[[load.requests]]
method = "PUT"
path = "/x"
body = "{\"a\": {id}}"

[load.vars]
id = { range = [1, 1000] }
color = { values = ["red", 3, true] }
user = { csv = "users.csv", column = "id" }

[slo]
errors = "5%"
p95 = "100ms"
p99 = "250ms"
mean = "50ms"

[capacity]
start = 50
max = 2000
precision = "5%"
confirm = "30s"
warm_up = "20s"

[objective]
cost = "cpus * replicas + memory_mb / 2048"
minimize = "cost"
at = 200

[budget]
connections = 100
headroom = 5
share = "90%"

[telemetry]
postgres = "postgresql+asyncpg://shop:${DB}@127.0.0.1/shop"
redis = "redis://127.0.0.1:6379"
pool = "/pool"

[confirm]
pairs = 8
reserve = "40m"
"#;

/// A file without sut and load: parameters only.
fn tiny(rest: &str) -> String {
    format!("[parameters.a]\ntype = \"int\"\nlow = 1\nhigh = 9\nbaseline = 2\n{rest}")
}

/// A process under test with its load, to which `rest` is added.
fn process(rest: &str) -> String {
    format!(
        "study = {{ trials = 3 }}\nsut = {{ kind = \"process\", command = [\"api\"] }}\nload = {{ requests = [{{ path = \"/\" }}] }}\n{}\nenv = \"A\"\n{rest}",
        "[parameters.a]\ntype = \"int\"\nlow = 1\nhigh = 9\nbaseline = 2"
    )
}

#[test]
fn the_experiments_are_valid() {
    for name in [
        "pool",
        "smoke",
        "quickstart",
        "report_plan",
        "overnight",
        "balancer",
        "swarm/pool",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.toml"));
        let spec = load(&path, &|_| None).unwrap_or_else(|e| panic!("{e}"));
        assert!(spec.warnings.is_empty(), "{:?}", spec.warnings);
        let read = match name {
            "pool" => 4,
            "swarm/pool" => 2,
            _ => 0,
        };
        assert_eq!(spec.baseline_unknown.len(), read, "{name}");
    }
}

#[test]
fn a_full_file_means_what_it_says() {
    let spec = good(FULL);
    assert_eq!(spec.baseline_unknown, ["memory_mb"]);
    assert_eq!(spec.objective, Objective::CostAt(Rps::new(200.0).unwrap()));
    let load = spec.load.as_ref().unwrap();
    assert_eq!(load.vars["user"], VarSource::Values(vec!["7".into(), "8".into()]));
    assert_eq!(
        load.vars["color"],
        VarSource::Values(vec!["red".into(), "3".into(), "true".into()])
    );
    assert_eq!(load.requests[0].expect, (200..=206).collect::<Vec<u16>>());
    assert_eq!(load.requests[1].body.as_deref(), Some(&b"{\"user\": {user}}"[..]));
    assert_eq!(
        load.requests[2].headers,
        [("Content-Type".to_owned(), "application/json".to_owned())]
    );
    assert_eq!(
        load.headers,
        [("Authorization".to_owned(), format!("Bearer {CANARY}"))]
    );
    assert_eq!(
        load.agents.addresses,
        ["10.0.0.2:7650", "https://loader.example:7650"]
    );
    assert_eq!(
        load.agents.token.as_ref().unwrap().expose(),
        "0123456789abcdef-5ecr3t"
    );
    assert!(
        load.agents.ca.is_some()
            && spec
                .secrets
                .iter()
                .any(|s| s.expose() == "0123456789abcdef-5ecr3t")
    );
    let sut = spec.sut.as_ref().unwrap();
    assert_eq!(sut.env["THREADS"].expose(), "4");
    assert_eq!(
        spec.telemetry.postgres.as_ref().unwrap().expose(),
        format!("postgresql://shop:{CANARY}@127.0.0.1/shop")
    );
    let order: Vec<&str> = spec.space.parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        order,
        [
            "cache",
            "redis_pool",
            "pool_size",
            "workers",
            "replicas",
            "cpus",
            "memory_mb"
        ]
    );
    assert_eq!(
        spec.space.baseline().to_string(),
        "cache=off cpus=1 memory_mb=256 pool_size=5 replicas=1 workers=1"
    );
    assert_eq!(
        spec.space.constraints[1].that.text(),
        "(replicas * workers * pool_size) <= 85"
    );
}

#[test]
fn defaults_hold_where_keys_are_left_out() {
    let spec = good(&process(""));
    let load = spec.load.unwrap();
    let sut = spec.sut.unwrap();
    assert_eq!(
        (load.timeout.as_secs(), load.connections, load.keep_alive),
        (10, 1000, true)
    );
    assert_eq!(
        (
            sut.url.as_str(),
            sut.ready.path.as_str(),
            sut.ready.timeout.as_secs()
        ),
        ("http://127.0.0.1:0", "/health", 60)
    );
    assert_eq!(
        (spec.name.as_str(), spec.seed, spec.results.to_str()),
        ("t", 1, Some("results"))
    );
    assert_eq!((spec.search, good(FULL).search), (Search::Model, Search::Simplex));
    assert_eq!((spec.slo.errors.get(), spec.confirm.pairs), (0.05, 10));
    assert_eq!(
        (
            spec.capacity.max.get(),
            spec.capacity.confirm.as_secs(),
            spec.capacity.warm_up.as_secs()
        ),
        (10_000.0, 30, 20)
    );
}

/// Fails when agents are taken that cannot be spoken to, or a token shows in a message.
#[test]
fn agents_need_a_port_and_a_token() {
    let with = |lines: &str| {
        parsed(
            &process("").replace("load = {", &format!("load = {{ {lines},")),
            &[],
        )
    };
    assert!(with("agents = [\"a:1\", \"b:1\"], agent_token_file = \"agent.token\"").is_ok());
    for (lines, word) in [
        ("agents = [\"a:1\"]", "agent_token_file"),
        (
            "agents = [\"a\"], agent_token_file = \"agent.token\"",
            "a host with a port",
        ),
        (
            "agents = [\"a:0\"], agent_token_file = \"agent.token\"",
            "a host with a port",
        ),
        (
            "agents = [\"http://a:1/x\"], agent_token_file = \"agent.token\"",
            "a host with a port",
        ),
        (
            "agents = [\"a:1\", \"a:1\"], agent_token_file = \"agent.token\"",
            "twice",
        ),
        (
            "agents = [\"a:1\"], agent_token_file = \"nowhere\"",
            "no such file",
        ),
        ("agents = [\"a:1\"], agent_token_file = \"binary\"", "not text"),
        (
            "agents = [\"a:1\"], agent_token_file = \"short.token\"",
            "16 to 512",
        ),
        ("agent_token_file = \"agent.token\"", "belongs to `agents`"),
    ] {
        let e = with(lines).unwrap_err().to_string();
        assert!(e.contains(word) && !e.contains("hunter2"), "{lines}: {e}");
    }
}

/// Fails when a key stands in the table that the parser never reads: it would be accepted and ignored.
#[test]
fn every_key_of_the_table_is_read() {
    let (spec, done) = parse_all(FULL, "t.toml", &|_| Some(CANARY.into()), &files);
    spec.unwrap();
    let asked = done.unwrap().asked;
    let known: BTreeSet<_> = ROOT
        .walk()
        .into_iter()
        .flat_map(|s| s.keys.iter().map(|k| (s.name, k.name)))
        .collect();
    assert_eq!(
        known.difference(&asked).collect::<Vec<_>>(),
        Vec::<&(&str, &str)>::new()
    );
}

/// Fails when the parser stops at the first mistake, or one mistake makes others.
#[test]
fn all_mistakes_come_in_one_pass_and_none_follows_from_another() {
    let text = "[study]\nnam = 1\n[sut]\nkind = \"dokcer\"\n[parameters.a]\ntype = \"int\"\nlow = 3\nhigh = 1\nbaseline = 9\n\
                [[constraints]]\nthat = \"a + b < 2\"\n[slo]\nerrors = \"x\"\n";
    let lines: Vec<usize> = parsed(text, &[]).unwrap_err().iter().map(|e| e.line).collect();
    assert_eq!(lines, [2, 4, 8, 11, 13]);
}

#[test]
fn a_mistake_reads_well() {
    let text = tiny("[[constraints]]\nthat = \"a + bb <= 9\"\n");
    let shown = parsed(&text, &[]).unwrap_err().to_string();
    let expected = "t.toml:7:13: `bb` is no parameter\n   |\n 7 | that = \"a + bb <= 9\"\n   |             ^^\n   = the parameters are a";
    assert_eq!(shown, expected);
}

#[test]
fn a_missing_file_is_exit_64() {
    let e = load(std::path::Path::new("no/such.toml"), &|_| None).unwrap_err();
    assert_eq!(e.exit_code(), 64);
    assert!(
        e.to_string().contains("no/such.toml") && e.to_string().contains("there is no such file"),
        "{e}"
    );
}

/// Fails when a value of the environment or of a secret key gets into an error, the spec's Debug or the hash.
#[test]
fn secrets_never_show() {
    let spec = good(FULL);
    assert!(!format!("{spec:?} {:?}", spec.warnings).contains(CANARY));
    assert!(spec.secrets.iter().any(|s| s.expose() == CANARY));
    let rows = [
        FULL.replace("[study]", "[study]\nx = 1"),
        FULL.replace("budget = \"8h\"", "budget = \"${TOKEN}\""),
        FULL.replace("url = \"http://127.0.0.1:18000\"", "url = \"http://${TOKEN}:x\""),
        FULL.replace(
            "url = \"http://127.0.0.1:18000\"",
            "url = \"http://u:canary-5ecr3t@h\"",
        ),
        FULL.replace("path = \"/orders\"", "path = \"/${TOKEN} {x\""),
        FULL.replace("path = \"/orders\"", "path = \"${BRACES}\""),
        FULL.replace("timeout = \"5s\"", "timeout = \"${TOKEN}\""),
        FULL.replace("connections = 500", "connections = \"${TOKEN}\""),
        FULL.replace("arrivals = \"poisson\"", "arrivals = \"${TOKEN}\""),
        FULL.replace("postgres = \"", "postgres = \"mysql-"),
        FULL.replace("redis = \"redis:", "redis = \"canary-5ecr3t:"),
        FULL.replace(
            "postgres = \"postgresql+asyncpg://shop:${DB}",
            "postgress = \"postgres://shop:canary-5ecr3t",
        ),
        FULL.replace("SECRET = \"${TOKEN}\"", "\"SE CRET\" = \"canary-5ecr3t\""),
        FULL.replace(
            "Authorization = \"Bearer ${TOKEN}\"",
            "\"A B\" = \"canary-5ecr3t\"",
        ),
        FULL.replace(
            "Authorization = \"Bearer ${TOKEN}\"",
            "A = \"\\u00e4 canary-5ecr3t\"",
        ),
        FULL.replace(
            "redis = \"redis://127.0.0.1:6379\"",
            "redis = \"redis://:canary-5ecr3t@h",
        ),
        FULL.replace("column = \"id\"", "column = \"${TOKEN}\""),
        FULL.replace("name = \"full\"", "name = \"/${TOKEN}\""),
    ];
    for text in rows {
        let e = parsed(
            &text,
            &[("DB", CANARY), ("TOKEN", CANARY), ("BRACES", "/{canary}")],
        )
        .expect_err(&format!("accepted:\n{text}"));
        let shown = format!("{e} {e:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn the_hash_is_of_the_meaning() {
    let base = good(FULL);
    let same = [
        format!("# a comment\n\n{FULL}"),
        FULL.replace(" = ", "   =  "),
        FULL.replace("timeout = \"5s\"", "timeout = \"5000ms\""),
        FULL.replace("errors = \"5%\"\n", ""),
        FULL.replace("keep_alive = true\n", ""),
        FULL.replace("trials = 60", "trials = 90")
            .replace("pairs = 8", "pairs = 9")
            .replace("seed = 7", "seed = 8")
            .replace("search = \"simplex\"", "search = \"model\""),
        FULL.replace("why = \"the cores of the host\"", "why = \"cores\""),
        FULL.replace("high = \"1GiB\"", "high = 1024"),
        FULL.replace("path = \"/x\"", "\"path\" = '/x'"),
    ];
    for text in same {
        assert_eq!(good(&text).hash, base.hash, "{text}");
    }
    let rotated = parsed(FULL, &[("DB", "other"), ("TOKEN", "other")]).unwrap();
    assert_eq!(rotated.hash, base.hash, "a rotated password makes no new study");
    let changed = [
        ("parameters", FULL.replace("high = 50", "high = 51")),
        ("parameters", FULL.replace("baseline = 5", "baseline = 6")),
        ("parameters", FULL.replace("log = false\n", "")),
        (
            "constraints",
            FULL.replace("cpus * replicas <= 4", "cpus * replicas <= 5"),
        ),
        ("load", FULL.replace("weight = 3", "weight = 4")),
        ("load", FULL.replace("Bearer ${TOKEN}", "Bearer ${DB}")),
        ("load", FULL.replace("column = \"id\"", "column = \"name\"")),
        ("slo", FULL.replace("p99 = \"250ms\"", "p99 = \"251ms\"")),
        ("capacity", FULL.replace("max = 2000", "max = 2001")),
        ("objective", FULL.replace("at = 200", "at = 201")),
        ("budget", FULL.replace("headroom = 5", "headroom = 6")),
        ("sut", FULL.replace("LOG = \"warning\"", "LOG = \"info\"")),
    ];
    for (section, text) in changed {
        let spec = good(&text);
        assert_ne!(spec.hash, base.hash, "{section}");
        let differ: Vec<&String> = base
            .section_hashes
            .iter()
            .filter(|(k, v)| spec.section_hashes[*k] != **v)
            .map(|(k, _)| k)
            .collect();
        assert_eq!(differ, [section]);
    }
}

#[test]
fn the_environment_is_read_where_it_is_said() {
    let text = process("[telemetry]\npostgres = \"${URL}\"\n").replace("trials = 3", "trials = \"${N}\"");
    let spec = parsed(&text, &[("URL", "postgres://h/db"), ("N", "12")]).unwrap();
    assert_eq!(spec.trials, Some(12));
    assert_eq!(spec.telemetry.postgres.unwrap().expose(), "postgres://h/db");
    let spec = good(&process("").replace(
        "path = \"/\"",
        "path = \"/a\", method = \"POST\", body = \"$${TOKEN} ${TOKEN}\"",
    ));
    assert_eq!(
        spec.load.unwrap().requests[0].body.as_deref(),
        Some(format!("${{TOKEN}} {CANARY}").as_bytes())
    );
}

#[test]
fn odd_things_are_warned_of() {
    let spec = good(&tiny(
        "[load]\nrequests = [{ path = \"/\", method = \"POST\", body = \"{ user {name} }\" }]\n[load.vars.unused]\nrange = [1, 2]",
    ));
    assert_eq!(spec.warnings.len(), 2, "{:?}", spec.warnings);
    assert!(
        spec.warnings
            .iter()
            .any(|w| w.contains("t.toml:8") && w.contains("`unused`"))
    );
    assert!(spec.warnings.iter().any(|w| w.contains("sent as it is")));
}

#[test]
fn baselines_of_the_service_complete_the_study() {
    let mut spec = good(FULL);
    let today = |v: &str| BTreeMap::from([("memory_mb".to_owned(), Value::Text(v.into()))]);
    assert!(
        spec.clone()
            .set_baselines(&BTreeMap::new())
            .unwrap_err()
            .contains("write baseline")
    );
    assert!(
        spec.clone()
            .set_baselines(&today("2048"))
            .unwrap_err()
            .contains("256 to 1024 by 256")
    );
    spec.set_baselines(&today("512")).unwrap();
    assert!(spec.baseline_unknown.is_empty());
    assert_eq!(spec.space.baseline().get("memory_mb"), Some(&Value::Int(512)));
}

#[test]
fn the_database_limits_the_space() {
    let text = FULL
        .replace("connections = 100", "connections = \"postgres\"")
        .replace("limit = \"memory\"", "limit = \"memory\"\nbaseline = 256");
    let spec = good(&text);
    assert_eq!(spec.connections.as_ref().unwrap().usable, None);
    let mut fits = spec.clone();
    fits.limit_connections(97).unwrap();
    assert_eq!(
        fits.space.constraints[1].that.text(),
        "(replicas * workers * pool_size) <= 82"
    );
    let mut tight = spec.clone();
    assert!(tight.limit_connections(10).unwrap_err().contains("5 against 4"));
    assert!(
        spec.clone()
            .limit_connections(5)
            .unwrap_err()
            .contains("leaves nothing")
    );
}

/// A reservation above its limit would fail in the night.
#[test]
fn reservations_stay_below_their_limits() {
    let reserve = FULL.replace(
        "[[constraints]]",
        "[parameters.reserved_mb]\ntype = \"int\"\nlow = 256\nhigh = 1024\nstep = 256\nbaseline = 256\nlimit = \"memory_reservation\"\n[[constraints]]",
    );
    assert!(
        parsed(&reserve, &[("DB", "x"), ("TOKEN", "x")])
            .unwrap_err()
            .to_string()
            .contains("reserved_mb <= memory_mb")
    );
    let kept = reserve.replace(
        "[load]",
        "[[constraints]]\nthat = \"reserved_mb <= memory_mb\"\n[load]",
    );
    let spec = good(&kept);
    assert!(
        spec.space
            .parameters
            .iter()
            .any(|p| p.binding == Binding::Limit(crate::space::Limit::MemoryReservation))
    );
}

/// The bounds of the table, each by a file just beyond it.
#[test]
fn bounds_hold() {
    use super::keys::{MAX_CHOICES, MAX_CONSTRAINTS, MAX_FILE, MAX_PARAMETERS, MAX_REQUESTS, MAX_TEXT};
    let many = |n: usize, f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<String>();
    let parameter =
        |i: usize| format!("[parameters.p{i}]\ntype = \"int\"\nlow = 1\nhigh = 2\nbaseline = 1\n");
    assert!(parsed(&many(MAX_PARAMETERS, &parameter), &[]).is_ok());
    let beyond = [
        (many(MAX_PARAMETERS + 1, &parameter), 65),
        (
            tiny(&many(MAX_CONSTRAINTS + 1, &|_| {
                "[[constraints]]\nthat = \"a < 50\"\n".into()
            })),
            65,
        ),
        (
            tiny(&many(MAX_REQUESTS + 1, &|_| {
                "[[load.requests]]\npath = \"/\"\n".into()
            })),
            65,
        ),
        (
            format!(
                "[parameters.a]\ntype = \"choice\"\nvalues = [{}]",
                many(MAX_CHOICES + 1, &|i| format!("{i},"))
            ),
            65,
        ),
        (
            tiny(&format!(
                "[[load.requests]]\npath = \"/\"\nexpect_body = \"{}\"",
                "x".repeat(MAX_TEXT + 1)
            )),
            65,
        ),
        (
            tiny(&format!("[[constraints]]\nthat = \"{}\"", "(".repeat(3_000))),
            65,
        ),
        (format!("{}\n", "[".repeat(20_000)), 65),
        ("#".repeat(MAX_FILE + 1), 64),
    ];
    for (text, exit) in beyond {
        assert_eq!(parsed(&text, &[]).unwrap_err().exit_code(), exit);
    }
    assert!(matches!(ROOT.key("constraints").unwrap().ty, Ty::List(_)));
}
