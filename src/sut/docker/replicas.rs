//! Several instances of the service side by side: what distinguishes them, where each is reached, and whether the
//! balancer in front of them sends each its part.
//!
//! The first instance is the trial as ever: under the original's name, with its published ports. The others have the
//! same network aliases, so that a balancer finds them through Docker's DNS, names of their own, and random host ports
//! where the original publishes one. All carry the trial's labels: teardown, restore and the guardian go by those.
//! Pure, but for the waits at the end. Not here: the balancer itself, which belongs to the stack and is not tuned.

use std::time::{Duration, Instant};

use bollard::models::{ContainerInspectResponse, EndpointSettings, PortBinding};
use futures_util::future::join_all;
use serde_json::Value as Json;

use super::clone::Blueprint;
use super::engine::Engine;
use crate::space::{Binding, Config, Domain, Parameter, Value};
use crate::sut::{SutError, ready};

/// Most instances: telemetry and the event watch follow no more.
pub const MOST: u32 = 64;
/// Requests that an instance gets in a round of the balancer's proof, on average.
const ASKS: usize = 6;
/// Bytes that an instance must receive in such a round: a few requests, and more than the noise of ARP.
const SEEN_BYTES: u64 = 500;
/// A balancer has at least this long to notice instances that are ready (Caddy and HAProxy ask the DNS each second).
const NOTICE: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether the number of instances is a parameter.
#[must_use]
pub fn is_tuned(parameters: &[Parameter]) -> bool {
    parameters.iter().any(|p| p.binding == Binding::Replicas)
}

/// Instances that `config` asks for; 1 where it says nothing.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn wanted(parameters: &[Parameter], config: &Config) -> u32 {
    parameters
        .iter()
        .filter(|p| p.binding == Binding::Replicas)
        .find_map(|p| config.get(&p.name)?.as_f64())
        .map_or(1, |n| n.round().clamp(1.0, f64::from(MOST)) as u32)
}

/// The name of instance `k`, from 1: the first has the original's.
#[must_use]
pub fn name(original: &str, k: u32) -> String {
    match k {
        0 | 1 => original.to_owned(),
        _ => format!("{original}.autotune-instance-{k}"),
    }
}

/// Makes `plan`, the first instance's, the plan of instance `k`: nothing in it that only one container can have.
pub fn adapt(plan: &mut Blueprint, original: &str, k: u32) {
    if k < 2 {
        return;
    }
    if let Some(h) = &mut plan.body.hostname {
        *h = format!("{h}-{k}");
    }
    let bindings = plan
        .body
        .host_config
        .as_mut()
        .and_then(|h| h.port_bindings.as_mut());
    for binding in bindings.into_iter().flat_map(|b| b.values_mut()).flatten() {
        binding.truncate(1);
        for b in binding.iter_mut() {
            b.host_port = Some(String::new());
        }
    }
    let given = plan
        .body
        .networking_config
        .as_mut()
        .and_then(|n| n.endpoints_config.as_mut());
    let first = given.into_iter().flat_map(|e| e.iter_mut());
    let more = plan.extra_networks.iter_mut().map(|(n, e)| (&*n, e));
    for (network, e) in first.chain(more) {
        // An address of the original's own can't be had twice.
        e.ipam_config = None;
        if has_names(network) {
            share_aliases(e, original);
        }
    }
}

/// Docker's DNS knows no names on its default networks.
fn has_names(network: &str) -> bool {
    !matches!(network, "bridge" | "host" | "none" | "default" | "nat")
}

/// The service's aliases, without the container's own name; that one where there is no other to find it by.
fn share_aliases(e: &mut EndpointSettings, original: &str) {
    let aliases = e.aliases.get_or_insert_default();
    aliases.retain(|a| a != original);
    if aliases.is_empty() {
        aliases.push(original.to_owned());
    }
}

/// What `url` of the space file is to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// A port that the container publishes; its own port is "8000/tcp" or the like. Load goes to all instances in turn.
    Direct(String),
    /// Something else: a balancer. With the container's own port, where there is only one.
    Balancer(Option<String>),
}

/// Whether `port` is `asked` or lies in a range such as "18000-18009".
fn covers(asked: &str, port: u16) -> bool {
    let number = |t: &str| t.trim().parse::<u16>().ok();
    match asked.split_once('-') {
        Some((a, b)) => matches!((number(a), number(b)), (Some(a), Some(b)) if a <= port && port <= b),
        None => number(asked) == Some(port),
    }
}

/// Finds out whether `url` is the container's own address or a balancer's.
#[must_use]
pub fn front(url: &str, original: &ContainerInspectResponse) -> Front {
    let port = reqwest::Url::parse(url)
        .ok()
        .and_then(|u| u.port_or_known_default())
        .unwrap_or(80);
    let maps = [
        original
            .host_config
            .as_ref()
            .and_then(|h| h.port_bindings.clone()),
        original.network_settings.as_ref().and_then(|n| n.ports.clone()),
    ];
    let mut published: Vec<(String, Vec<PortBinding>)> = maps
        .into_iter()
        .flatten()
        .flatten()
        .filter(|(key, _)| key.ends_with("/tcp"))
        .map(|(key, bindings)| (key, bindings.unwrap_or_default()))
        .collect();
    published.sort_by(|a, b| a.0.cmp(&b.0));
    let of_url = published.iter().find(|(_, bindings)| {
        let mut ports = bindings.iter().filter_map(|b| b.host_port.as_deref());
        ports.any(|p| covers(p, port))
    });
    let mut keys: Vec<String> = published.iter().map(|(k, _)| k.clone()).collect();
    keys.dedup();
    if let Some((key, _)) = of_url {
        return Front::Direct(key.clone());
    }
    if let ([one], 0) = (keys.as_slice(), port) {
        return Front::Direct(one.clone());
    }
    let exposed = original.config.as_ref().and_then(|c| c.exposed_ports.clone());
    let mut exposed: Vec<String> = exposed.unwrap_or_default().into_iter().collect();
    exposed.retain(|k| k.ends_with("/tcp"));
    let only = |list: &[String]| match list {
        [one] => Some(one.clone()),
        _ => None,
    };
    Front::Balancer(only(&keys).or_else(|| only(&exposed)))
}

/// Where an instance answers by itself, past any balancer: its published port on the host of `url`, else, where the
/// engine is on this machine, its address in Docker's network. None where neither is known.
#[must_use]
pub fn own_address(url: &str, key: Option<&str>, instance: &Json, is_local: bool) -> Option<String> {
    let key = key?;
    let network = &instance["NetworkSettings"];
    let published = network["Ports"][key]
        .as_array()
        .and_then(|b| b.first()?["HostPort"].as_str()?.parse::<u16>().ok());
    if let Some(port) = published {
        let mut own = reqwest::Url::parse(url).ok()?;
        own.set_path("");
        own.set_port(Some(port)).ok()?;
        return Some(own.as_str().trim_end_matches('/').to_owned());
    }
    let port = key.split('/').next()?;
    let ip = network["Networks"]
        .as_object()?
        .values()
        .filter_map(|n| n["IPAddress"].as_str())
        .find(|ip| !ip.is_empty())?;
    is_local.then(|| format!("http://{ip}:{port}"))
}

/// The base URLs that the load goes to: the balancer's, or every instance's own. `own` are the instances' addresses.
#[must_use]
pub fn load_urls(front: &Front, base: &str, own: &[Option<String>]) -> Vec<String> {
    match front {
        Front::Balancer(_) => vec![base.to_owned()],
        Front::Direct(_) => {
            let others = own.iter().skip(1).flatten().cloned();
            std::iter::once(base.to_owned()).chain(others).collect()
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn highest(parameters: &[Parameter], wanted: &Binding) -> Option<f64> {
    let p = parameters.iter().find(|p| p.binding == *wanted)?;
    match &p.domain {
        Domain::Int { high, .. } => Some(*high as f64),
        Domain::Float { high, .. } => Some(*high),
        Domain::Choice { values } => values.iter().filter_map(Value::as_f64).reduce(f64::max),
    }
}

/// Refuses a space whose instances could not run side by side; returns what a person should know.
pub fn check(
    parameters: &[Parameter],
    url: &str,
    name: &str,
    original: &ContainerInspectResponse,
) -> Result<Vec<String>, SutError> {
    let most = highest(parameters, &Binding::Replicas).unwrap_or(1.0);
    if !is_tuned(parameters) || most < 2.0 {
        return Ok(Vec::new());
    }
    let refuse = |message: String| SutError::Refused { exit: 65, message };
    if most > f64::from(MOST) {
        return Err(refuse(format!(
            "up to {most} instances are asked for, {MOST} are the most"
        )));
    }
    let host = original.host_config.clone().unwrap_or_default();
    let mode = host.network_mode.unwrap_or_default();
    if mode == "host" {
        return Err(refuse(format!(
            "container `{name}` uses the host's network, where a second instance finds its port taken; give it a network \
             of its own, or tune one instance"
        )));
    }
    if mode == "none" {
        return Err(refuse(format!(
            "container `{name}` has no network: instances of it can't be reached"
        )));
    }
    let networks = original
        .network_settings
        .as_ref()
        .and_then(|n| n.networks.clone());
    let named = networks.unwrap_or_default().keys().any(|n| has_names(n));
    if matches!(front(url, original), Front::Balancer(_)) && !named {
        return Err(refuse(format!(
            "[sut] url ({url}) is no port of container `{name}`, so it is taken for a balancer's; but on Docker's default \
             network a balancer can't find instances by name: put both on a network of their own (compose does), or \
             give a published port of the container as url, and the load goes to all instances in turn"
        )));
    }
    let mut notes = Vec::new();
    let volumes = host
        .mounts
        .unwrap_or_default()
        .into_iter()
        .filter_map(|m| m.target);
    let binds = host.binds.unwrap_or_default();
    let binds = binds
        .iter()
        .filter(|b| !b.ends_with(":ro"))
        .filter_map(|b| b.split(':').nth(1).map(str::to_owned));
    let shared: Vec<String> = volumes.chain(binds).collect();
    if !shared.is_empty() {
        notes.push(format!(
            "all instances share the volumes at {}: does the service bear that?",
            shared.join(", ")
        ));
    }
    Ok(notes)
}

/// Waits until each of `own` answers the ready path; an error says which did not, by its index.
pub(super) async fn wait_each(
    own: &[String],
    spec: &crate::spec::ReadySpec,
    since: Instant,
) -> Result<(), (usize, String)> {
    let waits = own
        .iter()
        .map(|base| ready::wait(base, spec, since, async || Ok(())));
    for (i, done) in join_all(waits).await.into_iter().enumerate() {
        match done {
            Ok(()) => {}
            Err(ready::NotReady::Late(seen)) => return Err((i, seen)),
            Err(ready::NotReady::Ended(e)) => return Err((i, e.to_string())),
        }
    }
    Ok(())
}

/// Waits until the balancer at `base` answers and every instance gets its part of what is asked there. What an instance
/// got is read from its network counters, which needs no cooperation of the service.
pub(super) async fn wait_balanced(
    engine: &Engine,
    base: &str,
    ids: &[String],
    spec: &crate::spec::ReadySpec,
    since: Instant,
) -> Result<(), String> {
    let deadline = (since + spec.timeout).max(Instant::now() + NOTICE);
    loop {
        let before = received(engine, ids).await?;
        let asked = ready::round(base, spec, ids.len() * ASKS).await;
        let after = received(engine, ids).await?;
        let left_out: Vec<usize> = before
            .iter()
            .zip(&after)
            .enumerate()
            .filter(|(_, (b, a))| a.saturating_sub(**b) < SEEN_BYTES)
            .map(|(i, _)| i + 1)
            .collect();
        let wrong = match asked {
            Ok(()) if left_out.is_empty() => return Ok(()),
            Ok(()) => format!(
                "the balancer at {base} sends nothing to instance {}; does it find the service by its network alias, and \
                 ask again (Caddy: `dynamic a`; HAProxy: `server-template` with `resolvers`), and does its policy use all?",
                left_out
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
            Err(seen) => format!(
                "the instances are ready, but the balancer at {base} does not pass {} on ({seen})",
                spec.path
            ),
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(wrong);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn received(engine: &Engine, ids: &[String]) -> Result<Vec<u64>, String> {
    let all = join_all(ids.iter().map(|id| engine.received_bytes(id))).await;
    all.into_iter()
        .collect::<Result<_, _>>()
        .map_err(|e| format!("cannot read what the instances received: {e}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::clone::{Limits, blueprint};
    use super::*;

    fn original(ports: &serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(serde_json::json!({
            "Id": "738a0ba97c6d5674", "Image": "sha256:a77a",
            "Config": {"Hostname": "shop", "ExposedPorts": {"8000/tcp": {}}},
            "HostConfig": {"NetworkMode": "shop_default", "PortBindings": ports},
            "NetworkSettings": {"Networks": {
                "shop_default": {"Aliases": ["shop-api-1", "api"], "IPAMConfig": {"IPv4Address": "172.18.0.4"}}}}
        }))
        .unwrap()
    }

    fn replicas(high: i64) -> Parameter {
        Parameter {
            name: "replicas".into(),
            domain: Domain::Int {
                low: 1,
                high,
                step: 1,
                log: false,
            },
            baseline: Value::Int(1),
            binding: Binding::Replicas,
            only_if: None,
        }
    }

    #[test]
    fn only_the_first_instance_has_what_one_container_can_have() {
        let ports = serde_json::json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000"}]});
        let first = blueprint(
            &original(&ports),
            &BTreeMap::new(),
            Limits::default(),
            &BTreeMap::new(),
        );
        let mut second = first.clone();
        adapt(&mut second, "shop-api-1", 2);
        let endpoint = |b: &Blueprint| {
            let all = b
                .body
                .networking_config
                .clone()
                .unwrap()
                .endpoints_config
                .unwrap();
            all["shop_default"].clone()
        };
        assert_eq!(endpoint(&first).aliases.unwrap(), ["shop-api-1", "api"]);
        assert_eq!(endpoint(&second).aliases.unwrap(), ["api"]);
        assert!(endpoint(&first).ipam_config.is_some() && endpoint(&second).ipam_config.is_none());
        let port = |b: &Blueprint| {
            let all = b.body.host_config.clone().unwrap().port_bindings.unwrap();
            all["8000/tcp"].clone().unwrap()[0].clone()
        };
        assert_eq!(port(&first).host_port.as_deref(), Some("18000"));
        assert_eq!(port(&second).host_port.as_deref(), Some(""));
        assert_eq!(
            port(&second).host_ip.as_deref(),
            Some("127.0.0.1"),
            "no wider than the original"
        );
        assert_eq!(second.body.hostname.as_deref(), Some("shop-2"));
        assert_eq!(name("shop-api-1", 1), "shop-api-1");
        assert_ne!(name("shop-api-1", 2), name("shop-api-1", 3));
    }

    #[test]
    fn an_instance_without_an_alias_is_found_by_the_originals_name() {
        let mut e = EndpointSettings {
            aliases: Some(vec!["web".into()]),
            ..EndpointSettings::default()
        };
        share_aliases(&mut e, "web");
        assert_eq!(e.aliases.unwrap(), ["web"]);
    }

    #[test]
    fn a_url_that_is_no_port_of_the_container_is_a_balancer() {
        let fixed = serde_json::json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000"}]});
        let range = serde_json::json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000-18009"}]});
        let key = "8000/tcp".to_owned();
        for ports in [&fixed, &range] {
            let o = original(ports);
            assert_eq!(front("http://127.0.0.1:18000", &o), Front::Direct(key.clone()));
            assert_eq!(front("http://127.0.0.1:0", &o), Front::Direct(key.clone()));
            assert_eq!(
                front("http://127.0.0.1:18080", &o),
                Front::Balancer(Some(key.clone()))
            );
        }
        let none = original(&serde_json::json!({}));
        assert_eq!(front("http://127.0.0.1:18080", &none), Front::Balancer(Some(key)));
    }

    #[test]
    fn an_instance_is_reached_by_its_own_port_or_in_dockers_network() {
        let published = serde_json::json!({"NetworkSettings": {
            "Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32770"}]},
            "Networks": {"n": {"IPAddress": "172.18.0.9"}}}});
        let inner = serde_json::json!({"NetworkSettings": {
            "Ports": {"8000/tcp": null}, "Networks": {"n": {"IPAddress": "172.18.0.9"}}}});
        let url = "http://localhost:18080/shop";
        let key = Some("8000/tcp");
        assert_eq!(
            own_address(url, key, &published, true).unwrap(),
            "http://localhost:32770"
        );
        assert_eq!(
            own_address(url, key, &inner, true).unwrap(),
            "http://172.18.0.9:8000"
        );
        assert_eq!(
            own_address(url, key, &inner, false),
            None,
            "another machine's network"
        );
        assert_eq!(own_address(url, None, &inner, true), None);
        let own = [Some("a".to_owned()), Some("b".to_owned())];
        assert_eq!(
            load_urls(&Front::Direct("8000/tcp".into()), "u", &own),
            ["u", "b"]
        );
        assert_eq!(load_urls(&Front::Balancer(None), "u", &own), ["u"]);
    }

    #[test]
    fn what_cannot_run_side_by_side_is_refused_in_preflight() {
        let ports = serde_json::json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000"}]});
        let ok = original(&ports);
        let run = |o: &ContainerInspectResponse, url: &str, high: i64| {
            check(&[replicas(high)], url, "web", o).map_err(|e| e.to_string())
        };
        let own = "http://127.0.0.1:18000";
        assert_eq!(run(&ok, own, 3), Ok(vec![]));
        assert!(run(&ok, own, 65).unwrap_err().contains("64"));
        let mut host = ok.clone();
        host.host_config.as_mut().unwrap().network_mode = Some("host".into());
        assert!(run(&host, own, 2).unwrap_err().contains("host's network"));
        assert_eq!(run(&host, own, 1), Ok(vec![]), "one instance is no conflict");
        let mut bridge = ok.clone();
        bridge.network_settings.as_mut().unwrap().networks =
            Some([("bridge".to_owned(), EndpointSettings::default())].into());
        assert!(
            run(&bridge, "http://127.0.0.1:18080", 2)
                .unwrap_err()
                .contains("balancer")
        );
        assert_eq!(run(&bridge, own, 2), Ok(vec![]));
    }
}
