//! Base URLs: parsed, resolved, and checked against invariant 8 (load goes to this machine and private networks
//! only, unless the user names the host).
//!
//! Names are resolved once, before anything is sent: a resolver inside a probe would be measured with it, and a name
//! that changes its address halfway would send load where nobody checked.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::LoadError;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// scheme://host:port/prefix, as given, for tables.
    pub(super) name: String,
    /// Host, for the `Host` header and for TLS.
    pub(super) host: String,
    /// `host` or `host:port` where the port is not the scheme's.
    pub(super) authority: String,
    /// What every path begins with; empty, or "/api".
    pub(super) prefix: String,
    /// The resolved address.
    pub(super) address: SocketAddr,
    /// https.
    pub(super) tls: bool,
}

/// This machine, or a network that is not routed publicly. Link-local addresses are left out on purpose: they are where
/// clouds keep their metadata service.
pub(super) fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_private() || a.is_unspecified(),
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(mapped) => is_near(IpAddr::V4(mapped)),
            None => a.is_loopback() || a.is_unspecified() || a.is_unique_local(),
        },
    }
}

impl Endpoint {
    /// Parses and resolves `url`; refuses a host that is neither near nor in `allow_remote`.
    pub(super) fn open(url: &str, allow_remote: &[String]) -> Result<Self, LoadError> {
        let bad = |why: &str| LoadError::Url {
            url: shown(url),
            why: why.to_owned(),
        };
        let uri: hyper::Uri = url
            .trim()
            .parse()
            .map_err(|_| bad("it is not a URL; write http://127.0.0.1:8000"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad(
                "it must not hold a user or password; send an Authorization header instead",
            ));
        }
        if uri.query().is_some() {
            return Err(bad("a base URL has no query; put it into the request's path"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = port_of(authority.as_str(), tls)
            .ok_or_else(|| bad("its port is not a number from 1 to 65535"))?;
        let address = resolve(&host, port, allow_remote)?;
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            name: format!("{}://{}{path}", if tls { "https" } else { "http" }, authority),
            host,
            authority: authority.to_string(),
            prefix: path.to_owned(),
            address,
            tls,
        })
    }
}

/// The port of `authority`, or its scheme's.
fn port_of(authority: &str, tls: bool) -> Option<u16> {
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match after_host.rsplit_once(':') {
        None if tls => Some(443),
        None => Some(80),
        Some((_, digits)) => digits.parse::<u16>().ok().filter(|p| *p > 0),
    }
}

/// The address that load goes to, if it may.
fn resolve(host: &str, port: u16, allow_remote: &[String]) -> Result<SocketAddr, LoadError> {
    let unknown = |why: String| LoadError::Resolve {
        host: host.to_owned(),
        why,
    };
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| unknown(e.to_string()))?
        .collect();
    let named = allow_remote.iter().any(|h| h.eq_ignore_ascii_case(host));
    if !named && let Some(far) = addresses.iter().find(|a| !is_near(a.ip())) {
        return Err(LoadError::Remote {
            host: host.to_owned(),
            address: far.ip(),
        });
    }
    // `localhost` has two addresses, and services mostly listen on the older generation's.
    addresses
        .iter()
        .find(|a| a.is_ipv4())
        .or(addresses.first())
        .copied()
        .ok_or_else(|| unknown("it has no address".into()))
}

/// A URL as it may be shown: without what stands before an `@`.
fn shown(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://***@{}", &url[..scheme], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_loopback_and_private_only() {
        for near in [
            "127.0.0.1",
            "10.1.2.3",
            "172.20.0.5",
            "192.168.1.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in [
            "8.8.8.8",
            "169.254.169.254",
            "172.32.0.1",
            "2001:db8::1",
            "::ffff:8.8.8.8",
            "fe80::1",
        ] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
    }

    #[test]
    fn a_far_host_needs_to_be_named() {
        let far = Endpoint::open("http://203.0.113.7:8000", &[]).unwrap_err();
        assert!(matches!(far, LoadError::Remote { .. }), "{far}");
        assert!(Endpoint::open("http://203.0.113.7:8000", &["203.0.113.7".into()]).is_ok());
        assert!(Endpoint::open("http://203.0.113.7:8000", &["203.0.113.8".into()]).is_err());
    }

    #[test]
    fn parts_of_a_url() {
        let e = Endpoint::open("http://127.0.0.1:8000/api/", &[]).unwrap();
        assert_eq!(
            (e.prefix.as_str(), e.authority.as_str(), e.tls),
            ("/api", "127.0.0.1:8000", false)
        );
        let six = Endpoint::open("https://[::1]:8443", &[]).unwrap();
        assert_eq!(
            (six.host.as_str(), six.address.port(), six.tls),
            ("::1", 8443, true)
        );
        assert_eq!(
            Endpoint::open("http://127.0.0.1", &[]).unwrap().address.port(),
            80
        );
    }

    #[test]
    fn what_is_not_a_url_is_said_and_passwords_are_not() {
        for bad in [
            "",
            "127.0.0.1:8000",
            "ftp://127.0.0.1",
            "http://",
            "http://127.0.0.1:0",
            "http://127.0.0.1:99999",
        ] {
            assert!(Endpoint::open(bad, &[]).is_err(), "{bad}");
        }
        let text = Endpoint::open("http://me:hunter2@127.0.0.1/", &[])
            .unwrap_err()
            .to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
