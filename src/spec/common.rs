//! Rules for texts that several sections share: URLs, hosts, paths, names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A base URL that was taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the spec keeps it: scheme://host:port.
    pub(crate) text: String,
}

/// Takes "http(s)://host:port" apart. Messages never repeat the text: it may hold a password.
pub(crate) fn base_url(url: &str) -> Result<Base, &'static str> {
    let (scheme, rest, standard) = match url.split_once("://") {
        Some(("http", rest)) => ("http", rest, 80),
        Some(("https", rest)) => ("https", rest, 443),
        _ => return Err("must begin with http:// or https://"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err("must not hold a user or password; send them in [load] headers");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("must end after the port; paths belong to [[load.requests]]");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6
                .split_once(']')
                .ok_or("has an IPv6 address that does not end with ]")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| "has no valid IPv6 address between [ and ]")?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':').ok_or("has a text after ]")?)
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("has no host");
    }
    let known = host.len() <= 253
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
    if !known {
        return Err("has a host with characters that a host can't have");
    }
    let port = match port {
        None => standard,
        Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
            p.parse().map_err(|_| "has a port above 65535")?
        }
        Some(_) => return Err("has a port that is no number"),
    };
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Ok(Base {
        host: host.to_owned(),
        port,
        text: format!("{scheme}://{shown}:{port}"),
    })
}

/// Whether load may go to `host` without being allowed: localhost, loopback and private addresses. Other names
/// may resolve to anything, so they have to be named.
pub(crate) fn is_near(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => near4(ip),
        Ok(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
            Some(v4) => near4(v4),
            None => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        },
        Err(_) => false,
    }
}

fn near4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_private() || ip.is_link_local()
}

/// What is wrong with a request's path, if anything.
pub(crate) fn path_problem(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("must begin with /");
    }
    if path.contains('#') {
        return Some("must not have a fragment: # is never sent");
    }
    if path
        .chars()
        .any(|c| c.is_ascii_control() || c == ' ' || !c.is_ascii())
    {
        return Some("must be ASCII without spaces: write %20 for a space");
    }
    (path.len() > 8_000).then_some("is longer than 8000 bytes")
}

/// What is wrong with a header's name, if anything (RFC 9110, tokens).
pub(crate) fn header_name_problem(name: &str) -> Option<&'static str> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || name.len() > 256 || !name.chars().all(token) {
        return Some("is no header name");
    }
    let own = [
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "keep-alive",
    ];
    own.iter()
        .any(|h| name.eq_ignore_ascii_case(h))
        .then_some("is set by the generator and can't be given")
}

/// Whether a header's value can be sent: visible ASCII, spaces and tabs.
pub(crate) fn header_value_ok(value: &str) -> bool {
    value.len() <= 8_192 && value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
}

/// A name that is safe as a folder's: letters, digits, `.`, `_` and `-`, not beginning with a dot or dash.
pub(crate) fn is_folder_name(name: &str) -> bool {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first
        && name.len() <= super::keys::MAX_NAME
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Letters, digits and `_`, beginning with a letter.
pub(crate) fn is_identifier(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    first
        && name.len() <= super::keys::MAX_NAME
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The names in "{name}", each once per place, with the byte offset of the brace.
pub(crate) fn placeholders(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (i, _) in text.match_indices('{') {
        let rest = &text[i + 1..];
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        if rest[end..].starts_with('}') && is_identifier(name) {
            found.push((i, name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_or_refused() {
        let ok = base_url("http://127.0.0.1:18000/").unwrap();
        assert_eq!(
            (ok.host.as_str(), ok.port, ok.text.as_str()),
            ("127.0.0.1", 18000, "http://127.0.0.1:18000")
        );
        assert_eq!(base_url("https://[::1]").unwrap().text, "https://[::1]:443");
        for bad in [
            "127.0.0.1:80",
            "ftp://x",
            "http://",
            "http://u:p@h",
            "http://h/api",
            "http://h:99999",
            "http://h:",
            "http://[::1",
            "http://[zz]:1",
            "http://h:+80",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_loopback_and_private_hosts_are_near() {
        for near in [
            "localhost",
            "api.localhost",
            "127.9.9.9",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in [
            "example.com",
            "8.8.8.8",
            "172.32.0.1",
            "2001:db8::1",
            "api",
            "0.0.0.0",
            "::ffff:8.8.8.8",
            "localhost.example.com",
        ] {
            assert!(!is_near(far), "{far}");
        }
    }

    #[test]
    fn placeholders_are_names_in_braces_and_nothing_of_json() {
        let names = |t| placeholders(t).into_iter().map(|(_, n)| n).collect::<Vec<_>>();
        assert_eq!(names("/items/{id}?q={q_1}"), ["id", "q_1"]);
        assert_eq!(names(r#"{"item_id": {id}, "a": {}, "b": {1}}"#), ["id"]);
        assert!(names("{{{").is_empty());
    }
}
