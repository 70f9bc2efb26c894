//! From the inspected original and a config to the body that creates the trial. Pure.
//!
//! Copied: what the container was given. Replaced: tuned variables in their place, tuned limits. Left out: compose's
//! labels (compose would remove the trial, or keep it as the real one), the MAC address, aliases that Docker makes
//! itself, the health check (a Python one every second costs 0.08 core of the quota that is being measured).

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HealthConfig,
    HostConfig, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};

use crate::space::{Binding, Config, Domain, Limit, Parameter, Value};
use crate::units::{Bytes, Cpus};

/// Labels that belong to whoever made the original and would make others think the trial is theirs.
const FOREIGN_LABELS: [&str; 3] = ["com.docker.compose.", "com.docker.swarm.", "com.docker.stack."];
/// Docker's weight of one full core.
const SHARES_PER_CPU: f64 = 1024.0;

/// What a trial is created from.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// For `create`.
    pub body: ContainerCreateBody,
    /// Connected before the start: engines before API 1.44 take one network at create.
    pub extra_networks: Vec<(String, EndpointSettings)>,
}

/// Limits as Docker counts them; None where the config says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Billionths of a core.
    pub nano_cpus: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Relative weight, 1024 for a core.
    pub cpu_shares: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<i64>,
}

impl Limits {
    /// The limits that `config` sets.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn of(parameters: &[Parameter], config: &Config) -> Self {
        let mut limits = Self::default();
        for p in parameters {
            let (Binding::Limit(limit), Some(v)) = (&p.binding, config.get(&p.name).and_then(Value::as_f64))
            else {
                continue;
            };
            match limit {
                Limit::Cpus => limits.nano_cpus = Cpus::new(v).ok().map(Cpus::nano),
                Limit::Memory => limits.memory = Some(mib(v)),
                Limit::CpuReservation => {
                    limits.cpu_shares = Some((v * SHARES_PER_CPU).round().max(2.0) as i64);
                }
                Limit::MemoryReservation => limits.memory_reservation = Some(mib(v)),
            }
        }
        limits
    }
}

#[allow(clippy::cast_possible_truncation)]
fn mib(v: f64) -> i64 {
    (v * 1024.0 * 1024.0).round() as i64
}

/// The trial of `original`: `env` replaces or adds variables, `labels` are ours.
#[must_use]
pub fn blueprint(
    original: &ContainerInspectResponse,
    env: &BTreeMap<String, String>,
    limits: Limits,
    labels: &BTreeMap<String, String>,
) -> Blueprint {
    let c = original.config.clone().unwrap_or_default();
    let id = original.id.as_deref().unwrap_or_default();
    let host = host_config(original.host_config.clone().unwrap_or_default(), limits);
    let mode = host.network_mode.clone().unwrap_or_default();
    let (first, extra_networks) = networks(original, &mode, id);
    let body = ContainerCreateBody {
        hostname: hostname(&c, &mode, id),
        domainname: c.domainname.filter(|d| !d.is_empty()),
        user: c.user,
        tty: c.tty,
        open_stdin: c.open_stdin,
        stdin_once: c.stdin_once,
        exposed_ports: c.exposed_ports,
        env: Some(merged_env(c.env.as_deref().unwrap_or_default(), env)),
        cmd: c.cmd,
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        // The id, never the tag: a tag moves when somebody builds or pulls.
        image: original.image.clone(),
        volumes: c.volumes,
        working_dir: c.working_dir,
        entrypoint: c.entrypoint,
        network_disabled: c.network_disabled,
        labels: Some(merged_labels(c.labels.unwrap_or_default(), labels)),
        stop_signal: c.stop_signal,
        stop_timeout: c.stop_timeout,
        host_config: Some(host),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(first.into_iter().collect()),
        }),
        ..ContainerCreateBody::default()
    };
    Blueprint { body, extra_networks }
}

/// The original's own short id is Docker's default, and not a name that anybody chose.
fn hostname(c: &ContainerConfig, mode: &str, id: &str) -> Option<String> {
    let chosen = c
        .hostname
        .clone()
        .filter(|h| !h.is_empty() && !id.starts_with(h.as_str()));
    let own_namespace = mode != "host" && !mode.starts_with("container:");
    chosen.filter(|_| own_namespace)
}

fn merged_env(original: &[String], ours: &BTreeMap<String, String>) -> Vec<String> {
    let mut left = ours.clone();
    let mut env: Vec<String> = original
        .iter()
        .map(|entry| {
            let name = entry.split_once('=').map_or(entry.as_str(), |(n, _)| n);
            match ours.get(name) {
                Some(v) => {
                    left.remove(name);
                    format!("{name}={v}")
                }
                None => entry.clone(),
            }
        })
        .collect();
    env.extend(left.into_iter().map(|(k, v)| format!("{k}={v}")));
    env
}

fn merged_labels(
    mut labels: HashMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> HashMap<String, String> {
    labels.retain(|k, _| !FOREIGN_LABELS.iter().any(|f| k.starts_with(f)));
    labels.extend(ours.iter().map(|(k, v)| (k.clone(), v.clone())));
    labels
}

fn host_config(mut h: HostConfig, limits: Limits) -> HostConfig {
    h.restart_policy = Some(RestartPolicy {
        name: Some(RestartPolicyNameEnum::NO),
        maximum_retry_count: None,
    });
    h.auto_remove = Some(false);
    h.container_id_file = None;
    h.links = h.links.map(|l| l.iter().map(|link| plain_link(link)).collect());
    if let Some(nano) = limits.nano_cpus {
        // Docker refuses NanoCpus beside a quota.
        h.nano_cpus = Some(nano);
        h.cpu_quota = None;
        h.cpu_period = None;
    }
    if let Some(shares) = limits.cpu_shares {
        h.cpu_shares = Some(shares);
    }
    if let Some(memory) = limits.memory {
        // Memory alone would allow the same again as swap.
        h.memory = Some(memory);
        h.memory_swap = Some(memory);
        // Docker refuses a reservation above the limit.
        h.memory_reservation = h.memory_reservation.map(|r| r.min(memory));
    }
    if let Some(reservation) = limits.memory_reservation {
        h.memory_reservation = Some(reservation);
    }
    h
}

/// An inspect says "/db:/web/database", a create wants "db:database".
fn plain_link(link: &str) -> String {
    let (from, to) = link.split_once(':').unwrap_or((link, link));
    let alias = to.rsplit('/').next().unwrap_or(to);
    format!("{}:{alias}", from.trim_start_matches('/'))
}

type Endpoint = (String, EndpointSettings);

/// The network given at create, and the others.
fn networks(original: &ContainerInspectResponse, mode: &str, id: &str) -> (Option<Endpoint>, Vec<Endpoint>) {
    let all = original
        .network_settings
        .as_ref()
        .and_then(|n| n.networks.clone())
        .unwrap_or_default();
    let mut all: BTreeMap<String, EndpointSettings> = all.into_iter().collect();
    let primary_name = if mode == "default" { "bridge" } else { mode };
    let primary = all
        .iter()
        .find(|(name, e)| name.as_str() == primary_name || e.network_id.as_deref() == Some(mode))
        .map(|(name, _)| name.clone());
    let take = |name: String, e: EndpointSettings| {
        let kept = endpoint(&name, e, id);
        (name, kept)
    };
    let first = primary.and_then(|name| all.remove(&name).map(|e| take(name, e)));
    (first, all.into_iter().map(|(name, e)| take(name, e)).collect())
}

fn endpoint(network: &str, e: EndpointSettings, id: &str) -> EndpointSettings {
    let is_user_defined = !matches!(network, "bridge" | "host" | "none" | "default" | "nat");
    let aliases = e.aliases.map(|a| {
        a.into_iter()
            .filter(|alias| !(alias.len() >= 12 && id.starts_with(alias.as_str())))
            .collect()
    });
    EndpointSettings {
        ipam_config: e.ipam_config.filter(|_| is_user_defined),
        links: e.links.filter(|_| is_user_defined),
        aliases: aliases.filter(|_| is_user_defined),
        driver_opts: e.driver_opts,
        gw_priority: e.gw_priority,
        ..EndpointSettings::default()
    }
}

/// The values that the original has today, as `parameters` would set them; and what could not be read, as sentences.
#[must_use]
pub fn today(
    original: &ContainerInspectResponse,
    parameters: &[Parameter],
) -> (BTreeMap<String, Value>, Vec<String>) {
    let mut values = BTreeMap::new();
    let mut unread = Vec::new();
    let host = original.host_config.clone().unwrap_or_default();
    for p in parameters {
        let found = match &p.binding {
            Binding::Env(name) => match env_value(original, name) {
                Some(text) => typed(&p.domain, text)
                    .ok_or_else(|| format!("{name} is set to something that is no value of `{}`", p.name)),
                None => Err(not_set(original, name)),
            },
            Binding::Limit(limit) => limit_today(&host, *limit)
                .and_then(|v| typed_number(&p.domain, v))
                .ok_or_else(|| format!("the container has no `{}` today", limit_name(*limit))),
            Binding::Replicas => Ok(Value::Int(1)),
            Binding::Unbound => continue,
        };
        match found {
            Ok(v) => {
                values.insert(p.name.clone(), v);
            }
            Err(why) => unread.push(format!("{}: {why}", p.name)),
        }
    }
    (values, unread)
}

/// That the container has no variable `name`, and which of its own may be meant: names alone, never values.
fn not_set(original: &ContainerInspectResponse, name: &str) -> String {
    let plain = |n: &str| -> String {
        n.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let wanted = plain(name);
    let env = original.config.as_ref().and_then(|c| c.env.as_ref());
    let near = env
        .into_iter()
        .flatten()
        .filter_map(|e| e.split_once('='))
        .map(|(n, _)| (strsim::jaro_winkler(&plain(n), &wanted), n))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, other)) => format!("the container has no {name}; it has {other}"),
        None => format!("the container has no {name}"),
    }
}

/// Names this much alike (Jaro-Winkler, 0 to 1) may be meant for each other.
const ALIKE: f64 = 0.92;

/// A limit as the space file calls it.
#[must_use]
pub fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Cpus => "cpus",
        Limit::Memory => "memory",
        Limit::CpuReservation => "cpu_reservation",
        Limit::MemoryReservation => "memory_reservation",
    }
}

fn env_value<'a>(original: &'a ContainerInspectResponse, name: &str) -> Option<&'a str> {
    let env = original.config.as_ref()?.env.as_ref()?;
    // The last one wins, as it does for the process.
    env.iter()
        .rev()
        .find_map(|e| e.split_once('=').filter(|(n, _)| *n == name))
        .map(|(_, v)| v)
}

#[allow(clippy::cast_precision_loss)]
/// Variables that count in the connection budget and are not tuned, where they are numbers.
#[must_use]
pub fn fixed(original: &ContainerInspectResponse, parameters: &[Parameter]) -> BTreeMap<String, f64> {
    let env = original.config.as_ref().and_then(|c| c.env.as_ref());
    env.into_iter()
        .flatten()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| crate::spec::counts_connections(name))
        .filter(|(name, _)| {
            !parameters
                .iter()
                .any(|p| matches!(&p.binding, Binding::Env(v) if v == name))
        })
        .filter_map(|(name, value)| {
            let n: f64 = value.trim().parse().ok()?;
            (n.is_finite() && n >= 0.0).then(|| (name.to_owned(), n))
        })
        .collect()
}

fn limit_today(h: &HostConfig, limit: Limit) -> Option<f64> {
    let positive = |v: Option<i64>| v.filter(|v| *v > 0).map(|v| v as f64);
    let bytes = |v: Option<i64>| {
        let b = v.filter(|v| *v > 0)?;
        Some(Bytes::new(b.unsigned_abs()).mib())
    };
    match limit {
        Limit::Cpus => positive(h.nano_cpus).map(|n| n / 1e9).or_else(|| {
            let quota = positive(h.cpu_quota)?;
            // Docker's default period: 100 ms.
            Some(quota / positive(h.cpu_period).unwrap_or(100_000.0))
        }),
        Limit::Memory => bytes(h.memory),
        Limit::CpuReservation => positive(h.cpu_shares).map(|s| s / SHARES_PER_CPU),
        Limit::MemoryReservation => bytes(h.memory_reservation),
    }
}

/// `text` as a value of the domain's type; it may lie outside the bounds, today's value often does.
#[must_use]
pub fn typed(domain: &Domain, text: &str) -> Option<Value> {
    let text = text.trim();
    match domain {
        Domain::Int { .. } => text.parse().ok().map(Value::Int),
        Domain::Float { .. } => text
            .parse::<f64>()
            .ok()
            .filter(|v| v.is_finite())
            .map(Value::Float),
        Domain::Choice { values } => values.iter().find(|v| v.to_string() == text).cloned(),
    }
}

#[allow(clippy::cast_possible_truncation)]
fn typed_number(domain: &Domain, v: f64) -> Option<Value> {
    match domain {
        Domain::Int { .. } => Some(Value::Int(v.round() as i64)),
        Domain::Float { .. } => Some(Value::Float(v)),
        Domain::Choice { values } => values
            .iter()
            .find(|x| x.as_f64().is_some_and(|x| (x - v).abs() < 1e-9))
            .cloned(),
    }
}

/// What of `env` and `limits` the inspected trial does not have; empty when everything is live. Values are the tuned ones.
#[must_use]
pub fn missing(
    trial: &ContainerInspectResponse,
    env: &BTreeMap<String, String>,
    limits: Limits,
) -> Vec<String> {
    let h = trial.host_config.clone().unwrap_or_default();
    let mut out: Vec<String> = env
        .iter()
        .filter(|(k, v)| env_value(trial, k) != Some(v.as_str()))
        .map(|(k, _)| k.clone())
        .collect();
    let pairs = [
        ("cpus", limits.nano_cpus, h.nano_cpus),
        ("memory", limits.memory, h.memory),
        ("memory and swap", limits.memory, h.memory_swap),
        ("cpu shares", limits.cpu_shares, h.cpu_shares),
        (
            "memory reservation",
            limits.memory_reservation,
            h.memory_reservation,
        ),
    ];
    for (name, wanted, is) in pairs {
        if wanted.is_some() && wanted != is {
            out.push(format!(
                "{name} (asked {}, is {})",
                wanted.unwrap_or(0),
                is.unwrap_or(0)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> ContainerInspectResponse {
        serde_json::from_value(serde_json::json!({
            "Id": "738a0ba97c6d5674", "Name": "/shop-api-1", "Image": "sha256:a77a",
            "Config": {
                "Hostname": "738a0ba97c6d", "User": "nobody", "Image": "shop:latest",
                "Env": ["POOL_SIZE=2", "DATABASE_URL=postgres://canary", "POOL_SIZE_2=9"],
                "Labels": {"com.docker.compose.project": "shop", "traefik.enable": "true"},
                "Healthcheck": {"Test": ["CMD", "./healthcheck"], "Interval": 1},
                "StopSignal": "SIGINT", "StopTimeout": 7, "Entrypoint": ["./entrypoint"]
            },
            "HostConfig": {
                "NetworkMode": "shop_default", "CpuQuota": 150000, "CpuPeriod": 100000, "NanoCpus": 0,
                "Memory": 536870912, "MemorySwap": 1073741824, "MemoryReservation": 268435456, "ShmSize": 67108864,
                "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}, "Links": ["/db:/shop-api-1/database"],
                "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000"}]}, "Isolation": ""
            },
            "NetworkSettings": {"Networks": {
                "shop_default": {"Aliases": ["shop-api-1", "api", "738a0ba97c6d"], "MacAddress": "02:42:ac:12:00:04",
                    "IPAMConfig": {"IPv4Address": "172.18.0.4"}, "IPAddress": "172.18.0.4", "NetworkID": "n1"},
                "metrics": {"Aliases": ["api"], "NetworkID": "n2"}
            }}
        }))
        .unwrap()
    }

    fn parameter(name: &str, binding: Binding, domain: Domain) -> Parameter {
        Parameter {
            name: name.into(),
            domain,
            baseline: Value::Int(0),
            binding,
            only_if: None,
        }
    }

    fn int() -> Domain {
        Domain::Int {
            low: 1,
            high: 50,
            step: 1,
            log: false,
        }
    }

    fn made() -> Blueprint {
        let env = BTreeMap::from([
            ("POOL_SIZE".to_owned(), "12".to_owned()),
            ("NEW".to_owned(), "x".to_owned()),
        ]);
        let limits = Limits {
            nano_cpus: Some(500_000_000),
            memory: Some(128 << 20),
            ..Limits::default()
        };
        blueprint(
            &original(),
            &env,
            limits,
            &BTreeMap::from([("autotune.run".to_owned(), "r1".to_owned())]),
        )
    }

    #[test]
    fn tuned_variables_are_replaced_in_place_and_the_rest_is_copied() {
        let body = made().body;
        let env = body.env.unwrap();
        assert_eq!(
            env,
            [
                "POOL_SIZE=12",
                "DATABASE_URL=postgres://canary",
                "POOL_SIZE_2=9",
                "NEW=x"
            ]
        );
        assert_eq!(body.image.as_deref(), Some("sha256:a77a"));
        assert_eq!(body.hostname, None);
        assert_eq!(
            (body.stop_signal.as_deref(), body.stop_timeout),
            (Some("SIGINT"), Some(7))
        );
        assert_eq!(body.healthcheck.unwrap().test.unwrap(), ["NONE"]);
    }

    #[test]
    fn compose_labels_go_others_stay_ours_come() {
        let labels = made().body.labels.unwrap();
        let mut keys: Vec<_> = labels.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["autotune.run", "traefik.enable"]);
    }

    #[test]
    fn limits_are_set_so_that_docker_takes_them() {
        let h = made().body.host_config.unwrap();
        assert_eq!(
            (h.nano_cpus, h.cpu_quota, h.cpu_period),
            (Some(500_000_000), None, None)
        );
        assert_eq!((h.memory, h.memory_swap), (Some(128 << 20), Some(128 << 20)));
        assert_eq!(h.memory_reservation, Some(128 << 20));
        assert_eq!(h.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(h.links.unwrap(), ["db:database"]);
        assert_eq!(h.shm_size, Some(67_108_864));
    }

    #[test]
    fn untuned_limits_stay_as_they_were() {
        let b = blueprint(&original(), &BTreeMap::new(), Limits::default(), &BTreeMap::new());
        let h = b.body.host_config.unwrap();
        assert_eq!(
            (h.cpu_quota, h.nano_cpus, h.memory_swap),
            (Some(150_000), Some(0), Some(1 << 30))
        );
    }

    #[test]
    fn networks_keep_aliases_and_addresses_but_not_what_docker_makes() {
        let b = made();
        let first = b.body.networking_config.unwrap().endpoints_config.unwrap();
        let e = &first["shop_default"];
        assert_eq!(e.aliases.as_ref().unwrap(), &["shop-api-1", "api"]);
        assert_eq!(
            e.ipam_config.as_ref().unwrap().ipv4_address.as_deref(),
            Some("172.18.0.4")
        );
        assert_eq!((&e.mac_address, &e.ip_address), (&None, &None));
        assert_eq!(b.extra_networks.len(), 1);
        assert_eq!(b.extra_networks[0].0, "metrics");
        let on_bridge = endpoint(
            "bridge",
            EndpointSettings {
                aliases: Some(vec!["x".into()]),
                ..EndpointSettings::default()
            },
            "id",
        );
        assert_eq!(on_bridge.aliases, None);
    }

    #[test]
    fn today_is_read_by_type_and_says_what_it_cannot_read() {
        let float = Domain::Float {
            low: 0.1,
            high: 2.0,
            step: None,
            log: false,
        };
        let parameters = [
            parameter("pool_size", Binding::Env("POOL_SIZE".into()), int()),
            parameter("cpus", Binding::Limit(Limit::Cpus), float),
            parameter("memory", Binding::Limit(Limit::Memory), int()),
            parameter("url", Binding::Env("DATABASE_URL".into()), int()),
            parameter("shares", Binding::Limit(Limit::CpuReservation), int()),
        ];
        let (values, unread) = today(&original(), &parameters);
        assert_eq!(values["pool_size"], Value::Int(2));
        assert_eq!(values["cpus"], Value::Float(1.5));
        assert_eq!(values["memory"], Value::Int(512));
        assert_eq!(unread.len(), 2);
        // a value that does not parse may be a password that was bound by mistake
        assert!(!unread.join(" ").contains("canary"), "{unread:?}");
    }

    /// Fails when a misspelt variable is only called missing, or another variable's value is shown with its name.
    #[test]
    fn a_misspelt_variable_is_named_beside_the_one_that_is_meant() {
        let said = |name: &str| {
            let p = [parameter("pool_size", Binding::Env(name.into()), int())];
            today(&original(), &p).1.join(" ")
        };
        assert_eq!(
            said("POOLSIZE"),
            "pool_size: the container has no POOLSIZE; it has POOL_SIZE"
        );
        assert_eq!(
            said("POOL_SZIE"),
            "pool_size: the container has no POOL_SZIE; it has POOL_SIZE"
        );
        assert_eq!(said("WORKERS"), "pool_size: the container has no WORKERS");
        assert!(!said("DATABASEURL").contains("canary"), "{}", said("DATABASEURL"));
    }

    #[test]
    fn proof_names_what_is_not_live() {
        let env = BTreeMap::from([("POOL_SIZE".to_owned(), "3".to_owned())]);
        let limits = Limits {
            memory: Some(1),
            ..Limits::default()
        };
        let m = missing(&original(), &env, limits);
        assert_eq!(m.len(), 3, "{m:?}");
        let same = BTreeMap::from([("POOL_SIZE".to_owned(), "2".to_owned())]);
        assert!(missing(&original(), &same, Limits::default()).is_empty());
    }
}
