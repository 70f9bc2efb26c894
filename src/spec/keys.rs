//! The one table of the space file's keys: names, types, bounds, defaults, meaning.
//!
//! The parser reads through it (a key that is not here can't be read, an unknown key is an error), the JSON
//! Schema and docs/space-file.md are generated from it. Rules between keys are in `parse` and its neighbours.

/// Largest space file, bytes.
pub(crate) const MAX_FILE: usize = 1 << 20;
/// Largest body or CSV file that a space file names, bytes.
pub(crate) const MAX_DATA_FILE: usize = 16 << 20;
/// Most parameters.
pub(crate) const MAX_PARAMETERS: usize = 32;
/// Most values of a choice.
pub(crate) const MAX_CHOICES: usize = 64;
/// Most constraints.
pub(crate) const MAX_CONSTRAINTS: usize = 64;
/// Most requests in the mix.
pub(crate) const MAX_REQUESTS: usize = 100;
/// Most generators of a probe.
pub(crate) const MAX_AGENTS: usize = 200;
/// Most variables.
pub(crate) const MAX_VARS: usize = 50;
/// Most values of one variable.
pub(crate) const MAX_VAR_VALUES: usize = 1_000_000;
/// Longest text, bytes; a body in the file is one.
pub(crate) const MAX_TEXT: usize = 64 << 10;
/// Longest name, characters.
pub(crate) const MAX_NAME: usize = 64;
/// Whole numbers are between minus and plus this: what a float holds exactly, with room for logarithms.
pub(crate) const MAX_INT: i64 = 1_000_000_000_000;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ty {
    /// A text; `${NAME}` is read from the environment.
    Text,
    /// A text whose value is never shown.
    Secret,
    /// An expression over the parameters; `${NAME}` is not read.
    Expr,
    /// true or false.
    Bool,
    /// A whole number.
    Whole { min: i64, max: i64 },
    /// A number.
    Number { min: f64, max: f64 },
    /// A time as text, bounds in milliseconds.
    Time { min_ms: u64, max_ms: u64 },
    /// "5%" or 0.05.
    Share,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// Name and scalar; values are never shown.
    Env,
    /// Name and text; values are never shown.
    Headers,
    /// A number, text or truth: typed by the parameter.
    Scalar,
    /// A list of numbers, texts or truths.
    Scalars,
    /// [first, last], whole numbers.
    Range,
    /// A list of HTTP statuses.
    Statuses,
    /// "postgres" or a whole number.
    Connections,
    /// A table.
    Table(&'static Section),
    /// Tables under names that the user chooses.
    Named(&'static Section),
    /// A list of tables.
    List(&'static Section),
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    /// Where its section is.
    Required,
    /// What is missing has no value; the description says what that means.
    Optional,
    /// As a TOML value.
    Default(&'static str),
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) ty: Ty,
    pub(crate) need: Need,
    pub(crate) doc: &'static str,
    /// As a TOML value, for hints and the reference.
    pub(crate) example: &'static str,
}

/// A table of keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// As people write it: "load.requests".
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
}

const fn key(name: &'static str, ty: Ty, need: Need, example: &'static str, doc: &'static str) -> Key {
    Key {
        name,
        ty,
        need,
        doc,
        example,
    }
}

use Need::{Default, Optional, Required};

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;

/// The whole file.
#[rustfmt::skip] // a table: a key a line
pub(crate) static ROOT: Section = Section {
    name: "",
    doc: "A space file is TOML. Times are texts such as \"30s\", \"250ms\", \"1h 30m\"; shares are \"5%\" or 0.05; memory is in MiB or a \
          text such as \"512MiB\". In texts of [study], [sut], [load] and [telemetry], `${NAME}` is replaced by the environment variable NAME \
          (and `$${` stands for `${`). Unknown keys are errors.",
    keys: &[
        key("study", Ty::Table(&STUDY), Optional, "", "name, budget, seed"),
        key("sut", Ty::Table(&SUT), Optional, "", "what is deployed; left out where only `ask` and `tell` are used"),
        key("parameters", Ty::Named(&PARAMETER), Required, "", "what is searched"),
        key("constraints", Ty::List(&CONSTRAINT), Optional, "", "conditions that every config keeps"),
        key("load", Ty::Table(&LOAD), Optional, "", "what is sent; left out where only `ask` and `tell` are used"),
        key("slo", Ty::Table(&SLO), Optional, "", "what sustainable means"),
        key("capacity", Ty::Table(&CAPACITY), Optional, "", "how the sustainable rate is searched"),
        key("objective", Ty::Table(&OBJECTIVE), Optional, "", "what is wanted: the highest rate, or the lowest cost"),
        key("budget", Ty::Table(&BUDGET), Optional, "", "the database connections that all instances may use together"),
        key("telemetry", Ty::Table(&TELEMETRY), Optional, "", "what is sampled beside the load"),
        key("confirm", Ty::Table(&CONFIRM), Optional, "", "how the finals are run"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static STUDY: Section = Section {
    name: "study",
    doc: "The study as a whole. At least one of `budget` and `trials` is needed where something is deployed.",
    keys: &[
        key("name", Ty::Text, Optional, "\"pool\"", "the study's folder under `results`; the file's name without its ending where it is left out"),
        key("budget", Ty::Time { min_ms: 10 * SECOND, max_ms: 30 * DAY }, Optional, "\"8h\"", "longest run time in all, finals and restoring included"),
        key("trials", Ty::Whole { min: 1, max: 100_000 }, Optional, "60", "most trials of the search, baseline included"),
        key("seed", Ty::Whole { min: 0, max: MAX_INT }, Default("1"), "1", "the seed of everything random; the same seed gives the same search"),
        key("search", Ty::OneOf(&["model", "simplex", "sobol", "random"]), Default("\"model\""), "\"model\"", "who chooses the configs; `model` (docs/search.md) needs the fewest trials, the others are there to compare with: argmin's simplex, a Sobol sequence, chance"),
        key("results", Ty::Text, Default("\"results\""), "\"results\"", "folder that the study's folder is made in, from where the tool is started"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static SUT: Section = Section {
    name: "sut",
    doc: "The system under test, and how a config becomes a running service.",
    keys: &[
        key("kind", Ty::OneOf(&["docker", "swarm", "process", "command", "simulated", "demo"]), Required, "\"docker\"", "docker: your container, parked and replaced by trials; swarm: a service of a Docker Swarm, updated to each trial and given its own spec back (docs/swarm.md); process: a child process with the parameters as environment variables (and PORT where `url` has port 0); command: your own scripts; simulated: an arithmetic service; demo: the tool's built-in API"),
        key("service", Ty::Text, Optional, "\"api\"", "docker: the compose service; swarm: the service's name"),
        key("project", Ty::Text, Optional, "\"shop\"", "docker: the compose project, where several have that service"),
        key("container", Ty::Text, Optional, "\"shop-api-1\"", "docker: container name or id, instead of `service`"),
        key("task_url", Ty::Text, Optional, "\"http://{node}:1830{slot}\"", "swarm: where each task answers by itself, instead of `url`, which is a balancer's: {node} is its node's address, {slot} its number; the load goes to all tasks in turn"),
        key("command", Ty::Texts, Optional, "[\"python\", \"app.py\"]", "process: program and arguments"),
        key("deploy", Ty::Texts, Optional, "[\"./deploy.sh\"]", "command: run with the parameters as environment variables; returns when the service is up"),
        key("teardown", Ty::Texts, Optional, "[\"./down.sh\"]", "command: run after each trial"),
        key("model", Ty::Text, Default("\"pool\""), "\"pool\"", "simulated: which arithmetic service"),
        key("url", Ty::Text, Optional, "\"http://127.0.0.1:18000\"", "base URL, http(s)://host:port; port 0 (process and demo): the tool picks a free one. Process and demo: http://127.0.0.1:0 where it is left out"),
        key("ready", Ty::Table(&READY), Optional, "", "when a deployment counts as ready"),
        key("env", Ty::Env, Optional, "{ LOG_LEVEL = \"warning\" }", "environment variables that are added and not tuned; their values are never shown"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static READY: Section = Section {
    name: "sut.ready",
    doc: "When a deployment counts as ready.",
    keys: &[
        key("path", Ty::Text, Default("\"/health\""), "\"/ready\"", "path that must answer 2xx"),
        key("timeout", Ty::Time { min_ms: 100, max_ms: DAY }, Default("\"60s\""), "\"60s\"", "from start to ready; a config that takes longer has failed"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static PARAMETER: Section = Section {
    name: "parameters.NAME",
    doc: "A dimension of the search. NAME is used in expressions and as a CSV column. Exactly one of `env`, `limit` and `replicas` says what it sets \
          (none where somebody else deploys: without [sut], and with a simulated one).",
    keys: &[
        key("type", Ty::OneOf(&["int", "float", "choice"]), Required, "\"int\"", "whole numbers, numbers, or one of a few values without an order"),
        key("low", Ty::Scalar, Optional, "1", "int, float: smallest value"),
        key("high", Ty::Scalar, Optional, "50", "int, float: largest value"),
        key("step", Ty::Scalar, Optional, "5", "distance between neighbours; it divides high - low. int: 1 where it is left out; float: any value in the range"),
        key("log", Ty::Bool, Optional, "true", "equal ratios are equal distances; where it is left out, true if high is at least 8 times low"),
        key("values", Ty::Scalars, Optional, "[\"on\", \"off\"]", "choice: the values"),
        key("baseline", Ty::Scalar, Optional, "5", "the value in production today; docker and swarm: read from the container or service where it is left out"),
        key("only_if", Ty::Expr, Optional, "'cache == \"on\"'", "the parameter exists only where this holds; it uses parameters that stand before it"),
        key("env", Ty::Text, Optional, "\"POOL_SIZE\"", "sets this environment variable"),
        key("limit", Ty::OneOf(&["cpus", "memory", "cpu_reservation", "memory_reservation"]), Optional, "\"cpus\"", "sets this limit of the container; CPU in cores, memory in MiB"),
        key("replicas", Ty::Bool, Optional, "true", "sets the number of instances, in a swarm of tasks; limits are of one instance (docs/instances.md)"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static CONSTRAINT: Section = Section {
    name: "constraints",
    doc: "A condition that every config keeps. A parameter that is not active counts as 0, \"\" or false.",
    keys: &[
        key("that", Ty::Expr, Required, "\"(pool_size + max_overflow) * workers <= 97\"", "the condition"),
        key("why", Ty::Text, Default("\"\""), "\"max_connections of the database\"", "the reason, for people"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static LOAD: Section = Section {
    name: "load",
    doc: "What is sent, on an open-loop schedule.",
    keys: &[
        key("timeout", Ty::Time { min_ms: 1, max_ms: 600 * SECOND }, Default("\"10s\""), "\"10s\"", "longest wait for an answer, from the scheduled time"),
        key("connections", Ty::Whole { min: 1, max: 60_000 }, Default("1000"), "1000", "most connections"),
        key("arrivals", Ty::OneOf(&["uniform", "poisson"]), Default("\"uniform\""), "\"uniform\"", "spacing of the requests"),
        key("headers", Ty::Headers, Optional, "{ Authorization = \"Bearer ${TOKEN}\" }", "sent with every request; values are never shown"),
        key("keep_alive", Ty::Bool, Default("true"), "true", "false: a new connection for every request"),
        key("cpu", Ty::Whole { min: 0, max: 4_095 }, Optional, "0", "CPU that the generator is pinned to; not pinned where it is left out"),
        key("allow_remote", Ty::Texts, Default("[]"), "[\"staging.example.com\"]", "hosts beyond localhost and private addresses that may get load: name them only if they are yours"),
        key("agents", Ty::Texts, Default("[]"), "[\"10.0.0.2:7650\", \"10.0.0.3:7650\"]", "machines that run `autotune agent` and share the load out between them, each host:port, or https://host:port; without any, this machine drives it (docs/agents.md)"),
        key("agent_token_file", Ty::Text, Optional, "\"agent.token\"", "file with the agents' token, from the space file's folder"),
        key("agent_ca", Ty::Text, Optional, "\"agents.pem\"", "file with the certificates that are believed of agents, which are then all spoken to over TLS; for https:// the host's trust store where it is left out"),
        key("requests", Ty::List(&REQUEST), Required, "", "the mix, at least one"),
        key("vars", Ty::Named(&VAR), Optional, "", "what fills \"{name}\" in paths and bodies"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static REQUEST: Section = Section {
    name: "load.requests",
    doc: "One request of the mix. \"{name}\" in a path or body is filled from [load.vars.name]; in a body, a name without a variable stays as it is.",
    keys: &[
        key("weight", Ty::Number { min: 1e-6, max: 1e6 }, Default("1"), "3", "share of the mix, relative to the others"),
        key("method", Ty::OneOf(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]), Default("\"GET\""), "\"POST\"", "HTTP method"),
        key("path", Ty::Text, Required, "\"/items/{id}\"", "path and query"),
        key("headers", Ty::Headers, Optional, "{ Accept = \"application/json\" }", "sent after the common ones; values are never shown"),
        key("body", Ty::Text, Optional, "'{\"item_id\": {id}}'", "the body; say its Content-Type in `headers`, or application/json is sent where it begins with { or ["),
        key("body_file", Ty::Text, Optional, "\"order.json\"", "file with the body, from the space file's folder"),
        key("expect", Ty::Statuses, Optional, "[200, 201]", "statuses that are good; 200 to 206 where it is left out"),
        key("expect_body", Ty::Text, Optional, "\"\\\"id\\\":\"", "text that a good body contains"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static VAR: Section = Section {
    name: "load.vars.NAME",
    doc: "Values for \"{NAME}\": one of `range`, `values`, and `csv` with `column`.",
    keys: &[
        key("range", Ty::Range, Optional, "[1, 1000]", "whole numbers from the first to the last, drawn from the seed"),
        key("values", Ty::Scalars, Optional, "[\"red\", \"green\"]", "these, in turn"),
        key("csv", Ty::Text, Optional, "\"users.csv\"", "file with a header line, from the space file's folder"),
        key("column", Ty::Text, Optional, "\"id\"", "the column of `csv`"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static SLO: Section = Section {
    name: "slo",
    doc: "What a rate must keep to be sustainable. Latencies count from the scheduled send time.",
    keys: &[
        key("errors", Ty::Share, Default("\"5%\""), "\"5%\"", "largest goodput loss: one minus good responses over scheduled requests"),
        key("success", Ty::Share, Optional, "\"95%\"", "the same from the other side, instead of `errors`"),
        key("p95", Ty::Time { min_ms: 0, max_ms: 600 * SECOND }, Optional, "\"100ms\"", "largest 95th percentile"),
        key("p99", Ty::Time { min_ms: 0, max_ms: 600 * SECOND }, Optional, "\"250ms\"", "largest 99th percentile"),
        key("mean", Ty::Time { min_ms: 0, max_ms: 600 * SECOND }, Optional, "\"20ms\"", "largest mean"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static CAPACITY: Section = Section {
    name: "capacity",
    doc: "How the sustainable rate of a config is searched.",
    keys: &[
        key("start", Ty::Number { min: 0.1, max: 1e6 }, Optional, "50", "first guess, requests per second; found by growth where it is left out"),
        key("max", Ty::Number { min: 0.1, max: 1e6 }, Default("10000"), "2000", "never offer more, requests per second"),
        key("precision", Ty::Share, Default("\"5%\""), "\"5%\"", "relative width at which refinement stops"),
        key("confirm", Ty::Time { min_ms: SECOND, max_ms: 3_600 * SECOND }, Default("\"30s\""), "\"30s\"", "length of the confirmation window"),
        key("warm_up", Ty::Time { min_ms: 0, max_ms: 600 * SECOND }, Default("\"20s\""), "\"20s\"", "longest warm-up after a deployment"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static OBJECTIVE: Section = Section {
    name: "objective",
    doc: "The highest sustainable rate, the cheapest within the noise of it where `cost` is given; or with `minimize` the cheapest config that carries a rate.",
    keys: &[
        key("cost", Ty::Expr, Optional, "\"cpus + memory_mb / 2048\"", "what a config costs, in any unit"),
        key("maximize", Ty::OneOf(&["sustainable_rps"]), Optional, "\"sustainable_rps\"", "the default, said aloud"),
        key("minimize", Ty::OneOf(&["cost"]), Optional, "\"cost\"", "the lowest cost at the rate `at`"),
        key("at", Ty::Number { min: 0.1, max: 1e6 }, Optional, "200", "the required rate of `minimize`, requests per second"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static BUDGET: Section = Section {
    name: "budget",
    doc: "The connection budget: uses <= share * usable - headroom, kept by every config.",
    keys: &[
        key("connections", Ty::Connections, Required, "\"postgres\"", "the connections that are usable: a number, or \"postgres\" to ask [telemetry] postgres for max_connections, less the reserved and those of others"),
        key("uses", Ty::Expr, Optional, "\"replicas * workers * (pool_size + max_overflow)\"", "what a config uses; where it is left out, the product of the parameters bound to replicas, WORKERS or WEB_CONCURRENCY, and POOL_SIZE + MAX_OVERFLOW"),
        key("headroom", Ty::Whole { min: 0, max: 100_000 }, Default("0"), "5", "connections left free for others"),
        key("share", Ty::Share, Default("\"100%\""), "\"90%\"", "the part of the usable connections that may be taken"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static TELEMETRY: Section = Section {
    name: "telemetry",
    doc: "What is sampled beside the load. All of it is optional; without it the diagnosis knows less.",
    keys: &[
        key("postgres", Ty::Secret, Optional, "\"${DATABASE_URL}\"", "URL of the database; one connection, opened before the load"),
        key("redis", Ty::Secret, Optional, "\"${REDIS_URL}\"", "URL of Redis"),
        key("pool", Ty::Text, Optional, "\"/pool\"", "path of the API's own pool figures as JSON"),
    ],
};

#[rustfmt::skip] // a table: a key a line
static CONFIRM: Section = Section {
    name: "confirm",
    doc: "The finals: the best few and the baseline, measured again in interleaved rounds. Only they decide.",
    keys: &[
        key("pairs", Ty::Whole { min: 1, max: 100 }, Default("10"), "10", "most rounds, each with every finalist and the baseline"),
        key("reserve", Ty::Time { min_ms: 0, max_ms: 30 * DAY }, Optional, "\"40m\"", "kept of the budget for finals and restoring; computed from measured times where it is left out"),
    ],
};

impl Section {
    /// The key of that name.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key>
    where
        Self: 'static,
    {
        let keys: &'static [Key] = self.keys;
        keys.iter().find(|k| k.name == name)
    }

    /// This section and those inside it, in the order of the file.
    pub(crate) fn walk(&'static self) -> Vec<&'static Section> {
        let mut all = vec![self];
        for k in self.keys {
            if let Ty::Table(s) | Ty::Named(s) | Ty::List(s) = k.ty {
                all.extend(s.walk());
            }
        }
        all
    }
}

impl Ty {
    /// What is expected, for messages: "a time such as \"30s\"".
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Secret => "a URL as text".into(),
            Self::Expr => "an expression as text".into(),
            Self::Bool => "true or false".into(),
            Self::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Time { min_ms, max_ms } => {
                let show = |ms: &u64| crate::units::show_duration(std::time::Duration::from_millis(*ms));
                format!(
                    "a time such as \"30s\", from {} to {}",
                    show(min_ms),
                    show(max_ms)
                )
            }
            Self::Share => "a share such as \"5%\" or 0.05".into(),
            Self::OneOf(values) => match values {
                [one] => format!("\"{one}\""),
                _ => format!("one of {}", values.map_quoted()),
            },
            Self::Texts => "a list of texts".into(),
            Self::Env | Self::Headers => "a table of names and texts".into(),
            Self::Scalar => "a number, a text, true or false".into(),
            Self::Scalars => "a list of numbers, texts, true or false".into(),
            Self::Range => "a list of two whole numbers such as [1, 1000]".into(),
            Self::Statuses => "a list of HTTP statuses such as [200, 201]".into(),
            Self::Connections => "\"postgres\" or a whole number".into(),
            Self::Table(_) | Self::Named(_) => "a table".into(),
            Self::List(s) => format!("a list of tables, written [[{}]]", s.name),
        }
    }
}

trait MapQuoted {
    fn map_quoted(&self) -> String;
}

impl MapQuoted for &[&str] {
    fn map_quoted(&self) -> String {
        let quoted: Vec<String> = self.iter().map(|v| format!("\"{v}\"")).collect();
        quoted.join(", ")
    }
}
