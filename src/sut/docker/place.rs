//! Where a trial can be reached, and what of the original's surroundings a trial does not have. Pure, but for one bind.

use std::net::TcpListener;

use bollard::models::{ContainerInspectResponse, PortMap};
use serde_json::Value as Json;

use super::Found;
use crate::sut::SutError;

fn wrong(exit: u8, message: String) -> SutError {
    SutError::Refused { exit, message }
}

fn parse(url: &str) -> Result<reqwest::Url, SutError> {
    reqwest::Url::parse(url).map_err(|e| wrong(65, format!("`{url}` is not a URL: {e}")))
}

/// The container port behind the spec's host port, where the original publishes it on a port that Docker picks
/// at each start.
fn moving_port(port: u16, inspect: &ContainerInspectResponse) -> Option<String> {
    let asked = inspect.host_config.as_ref()?.port_bindings.as_ref()?;
    let now = inspect.network_settings.as_ref()?.ports.as_ref()?;
    let published = |map: &PortMap, key: &str| -> Vec<String> {
        let bindings = map.get(key).cloned().flatten().unwrap_or_default();
        bindings.into_iter().filter_map(|b| b.host_port).collect()
    };
    let text = port.to_string();
    let key = now.keys().find(|k| published(now, k).contains(&text))?;
    let is_fixed = published(asked, key).contains(&text);
    (!is_fixed).then(|| key.clone())
}

/// The trial's base URL: the spec's, with the port that was published now where Docker picks one.
pub(super) fn url(spec: &str, original: &ContainerInspectResponse, trial: &Json) -> Result<String, SutError> {
    let mut url = parse(spec)?;
    let port = url.port_or_known_default().unwrap_or(80);
    let ports = trial["NetworkSettings"]["Ports"].as_object();
    let published: Vec<(&String, u16)> = ports
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.ends_with("/tcp"))
        .filter_map(|(key, bindings)| {
            let first = bindings.as_array()?.first()?;
            Some((key, first["HostPort"].as_str()?.parse().ok()?))
        })
        .collect();
    let wanted = if port == 0 {
        match published.as_slice() {
            [(_, one)] => Some(*one),
            [] => {
                return Err(wrong(
                    65,
                    "url has port 0, but the container publishes no port; give the port in [sut] url".into(),
                ));
            }
            many => {
                let list: Vec<String> = many.iter().map(|(k, p)| format!("{k} on {p}")).collect();
                return Err(wrong(
                    65,
                    format!(
                        "url has port 0, but the container publishes several ports ({}); give one in [sut] url",
                        list.join(", ")
                    ),
                ));
            }
        }
    } else {
        moving_port(port, original)
            .and_then(|key| published.iter().find(|(k, _)| **k == key))
            .map(|(_, p)| *p)
    };
    if let Some(p) = wanted {
        url.set_port(Some(p))
            .map_err(|()| wrong(65, format!("`{spec}` can't have a port")))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// A stopped original does not hold its port: somebody else may.
pub(super) fn check(spec: &str, found: &Found) -> Result<(), SutError> {
    parse(spec)?;
    if found.original.was_running {
        return Ok(());
    }
    let bindings = found
        .inspect
        .host_config
        .as_ref()
        .and_then(|h| h.port_bindings.clone());
    for binding in bindings.unwrap_or_default().into_values().flatten().flatten() {
        let port: u16 = binding
            .host_port
            .as_deref()
            .and_then(|p| p.parse().ok())
            .unwrap_or(0);
        let ip = binding
            .host_ip
            .filter(|ip| !ip.is_empty())
            .unwrap_or_else(|| "0.0.0.0".into());
        if port == 0 {
            continue;
        }
        // Only "in use" says something; an address of another machine or a low port does not.
        let busy =
            TcpListener::bind((ip.as_str(), port)).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
        if busy {
            return Err(wrong(
                69,
                format!(
                    "port {port} of container `{}` is in use by another program; `ss -ltnp` says by which",
                    found.original.name
                ),
            ));
        }
    }
    Ok(())
}

/// Volumes without a name belong to one container: a trial gets new, empty ones.
pub(super) fn anonymous_volumes(inspect: &ContainerInspectResponse) -> Vec<String> {
    let declared = inspect
        .config
        .as_ref()
        .and_then(|c| c.volumes.clone())
        .unwrap_or_default();
    let bound: Vec<String> = inspect
        .host_config
        .as_ref()
        .and_then(|h| h.binds.clone())
        .unwrap_or_default()
        .iter()
        .filter_map(|b| b.split(':').nth(1).map(str::to_owned))
        .collect();
    let mounted: Vec<String> = inspect
        .host_config
        .as_ref()
        .and_then(|h| h.mounts.clone())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|m| m.target)
        .collect();
    declared
        .into_iter()
        .filter(|path| !bound.contains(path) && !mounted.contains(path))
        .map(|path| format!("{path} is an anonymous volume: trials start with an empty one"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(asked: &str, now: &str) -> ContainerInspectResponse {
        serde_json::from_value(serde_json::json!({
            "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": asked}]}},
            "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": now}]}}
        }))
        .unwrap()
    }

    fn trial(ports: &serde_json::Value) -> Json {
        serde_json::json!({"NetworkSettings": {"Ports": ports}})
    }

    #[test]
    fn a_fixed_port_stays_a_picked_one_is_read_again() {
        let at = |p: &str| trial(&serde_json::json!({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": p}]}));
        let spec = "http://127.0.0.1:18000";
        assert_eq!(
            url(spec, &original("18000", "18000"), &at("18000")).unwrap(),
            spec
        );
        for picked in ["", "0", "18000-18009"] {
            let u = url(spec, &original(picked, "18000"), &at("18003")).unwrap();
            assert_eq!(u, "http://127.0.0.1:18003", "asked {picked:?}");
        }
        // a balancer in front: not a port of this container
        let balancer = "http://127.0.0.1:18080";
        assert_eq!(
            url(balancer, &original("", "18000"), &at("18003")).unwrap(),
            balancer
        );
    }

    #[test]
    fn port_zero_takes_the_only_published_port_or_asks() {
        let one =
            trial(&serde_json::json!({"8000/tcp": [{"HostPort": "32768"}], "9/udp": [{"HostPort": "9"}]}));
        let o = ContainerInspectResponse::default();
        assert_eq!(
            url("http://localhost:0/", &o, &one).unwrap(),
            "http://localhost:32768"
        );
        let two =
            trial(&serde_json::json!({"8000/tcp": [{"HostPort": "1"}], "9000/tcp": [{"HostPort": "2"}]}));
        assert!(
            url("http://localhost:0", &o, &two)
                .unwrap_err()
                .to_string()
                .contains("several")
        );
        assert!(
            url(
                "http://localhost:0",
                &o,
                &trial(&serde_json::json!({"8000/tcp": null}))
            )
            .is_err()
        );
    }
}
