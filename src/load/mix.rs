//! The request mix, prepared ahead as the bytes that are sent: what a request costs in the hot path is a reference count, or one
//! text put together where it has variables. Pure.
//!
//! Which request an arrival is follows a Weyl sequence (Weyl 1916; Knuth, TAOCP 3, 6.4, "Fibonacci hashing"): the fractional
//! parts of `offset + i * phi` spread evenly, so every stretch of a probe holds the mix's shares almost exactly. Independent draws
//! would put the noise of the draw (18 % for 30 expensive requests) into every comparison of two probes.

use bytes::Bytes;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{HeaderMap, Method, Uri};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::LoadError;
use super::classify;
use super::endpoint::Endpoint;
use super::schedule::Part;
use crate::spec::{LoadSpec, RequestSpec, VarSource};

/// 2^64 / golden ratio, odd.
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
/// Longest path with its variables filled in; the longest that the URI type checks is 65,534.
const LONGEST_PATH: usize = 60_000;
/// A body up to so many bytes is kept behind its head, so that both leave in one write.
const SMALL_BODY: usize = 16 * 1024;

/// What makes an answer good.
#[derive(Debug, Clone)]
pub(super) struct Expectation {
    /// Statuses; empty means any 2xx.
    pub(super) statuses: Vec<u16>,
    /// Text in the body.
    pub(super) text: Option<Vec<u8>>,
}

/// A request as its bytes (RFC 9112).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The head, and behind it a small body.
    head: Bytes,
    /// A body that is not small.
    body: Bytes,
    /// Its answer has no body.
    pub(super) to_head: bool,
    /// It asks for the connection to be closed after the answer.
    pub(super) closes: bool,
}

impl Message {
    /// Of these bytes.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(bytes: &'static [u8]) -> Self {
        Self {
            head: Bytes::from_static(bytes),
            body: Bytes::new(),
            to_head: false,
            closes: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// What is to be written once `written` bytes are: a part, until there is none.
    pub(super) fn from(&self, written: usize) -> &[u8] {
        match self.head.get(written..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.body.get(written - self.head.len()..).unwrap_or_default(),
        }
    }
}

/// What an arrival sends: drawn when it is due, made into a request when it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pick {
    /// Number of the arrival.
    pub(super) number: u64,
    /// Index of the request in the mix.
    pub(super) kind: u16,
    /// Random bits for its variables.
    pub(super) draw: u64,
}

/// The prepared mix.
#[derive(Debug)]
pub(super) struct Mix {
    kinds: Vec<Kind>,
    /// Upper ends of the kinds' shares of 0..2^64.
    shares: Vec<u64>,
    vars: Vec<Var>,
}

#[derive(Debug)]
struct Kind {
    method: Method,
    /// One for each endpoint: their prefixes and hosts differ.
    targets: Vec<Target>,
    body: Vec<Piece>,
    expectation: Expectation,
}

#[derive(Debug)]
struct Target {
    path: Vec<Piece>,
    /// Version and headers, without the length of the body and the empty line.
    headers: Vec<u8>,
    closes: bool,
    /// The whole request, where it has no variables.
    ready: Option<Message>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Var(usize),
}

#[derive(Debug)]
struct Var {
    name: String,
    source: VarSource,
}

/// The sequence of picks of one probe.
#[derive(Debug)]
pub(super) struct Picks {
    random: ChaCha8Rng,
    weyl: u64,
    next: u64,
    has_vars: bool,
    /// Arrivals of other generators before the next own one.
    skip: u64,
    /// The same between two own ones.
    others: u64,
}

impl Picks {
    /// The whole sequence.
    pub(super) fn new(mix: &Mix, seed: u64) -> Self {
        Self::of_part(mix, seed, Part::WHOLE)
    }

    /// What the arrivals of `part` send, of the same sequence as all parts.
    pub(super) fn of_part(mix: &Mix, seed: u64, part: Part) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            weyl: random.next_u64(),
            random,
            next: 0,
            has_vars: !mix.vars.is_empty(),
            skip: u64::from(part.index),
            others: u64::from(part.of.saturating_sub(1)),
        }
    }

    /// What the next arrival sends.
    pub(super) fn next(&mut self, mix: &Mix) -> Pick {
        self.weyl = self.weyl.wrapping_add(WEYL.wrapping_mul(self.skip + 1));
        let number = self.next + self.skip;
        let mut draw = 0;
        for _ in 0..if self.has_vars { self.skip + 1 } else { 0 } {
            draw = self.random.next_u64();
        }
        self.next = number + 1;
        self.skip = self.others;
        Pick {
            number,
            kind: mix.kind_at(self.weyl),
            draw,
        }
    }
}

impl Mix {
    /// Prepares `spec` for `endpoints`; finds what could not be sent.
    pub(super) fn prepare(spec: &LoadSpec, endpoints: &[Endpoint]) -> Result<Self, LoadError> {
        let vars: Vec<Var> = spec
            .vars
            .iter()
            .map(|(name, source)| Var {
                name: name.clone(),
                source: source.clone(),
            })
            .collect();
        for v in &vars {
            match &v.source {
                VarSource::Values(values) if values.is_empty() => {
                    return Err(LoadError::Request(format!("variable `{}` has no values", v.name)));
                }
                VarSource::Range(low, high) if low > high => {
                    return Err(LoadError::Request(format!(
                        "the range of variable `{}` is empty: {low} to {high}",
                        v.name
                    )));
                }
                _ => {}
            }
        }
        if spec.requests.is_empty() || spec.requests.len() > usize::from(u16::MAX) {
            return Err(LoadError::Request("the mix needs at least one request".into()));
        }
        let kinds = spec
            .requests
            .iter()
            .map(|r| Kind::prepare(r, spec, &vars, endpoints))
            .collect::<Result<Vec<_>, _>>()?;
        let mut mix = Self {
            shares: shares(&spec.requests)?,
            kinds,
            vars,
        };
        mix.make_ready();
        Ok(mix)
    }

    /// Makes the requests that have no variables.
    fn make_ready(&mut self) {
        let mut kinds = std::mem::take(&mut self.kinds);
        for kind in &mut kinds {
            let mut targets = std::mem::take(&mut kind.targets);
            for target in &mut targets {
                let mut pieces = target.path.iter().chain(&kind.body);
                if pieces.all(|p| matches!(p, Piece::Literal(_))) {
                    target.ready = Some(self.compose(kind, target, Pick::default()));
                }
            }
            kind.targets = targets;
        }
        self.kinds = kinds;
    }

    /// Number of requests in the mix.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    fn kind_at(&self, x: u64) -> u16 {
        // Almost every mix is short: counting is faster than bisecting.
        let at = self.shares.iter().take_while(|end| x >= **end).count();
        u16::try_from(at.min(self.kinds.len() - 1)).unwrap_or(0)
    }

    pub(super) fn expectation(&self, pick: Pick) -> Option<&Expectation> {
        Some(&self.kinds.get(usize::from(pick.kind))?.expectation)
    }

    /// The request of `pick` for `endpoint`; None when there is no such request or endpoint.
    pub(super) fn request(&self, pick: Pick, endpoint: usize) -> Option<Message> {
        let kind = self.kinds.get(usize::from(pick.kind))?;
        let target = kind.targets.get(endpoint)?;
        Some(match &target.ready {
            Some(message) => message.clone(),
            None => self.compose(kind, target, pick),
        })
    }

    /// "GET /items/7", variables filled in.
    pub(super) fn line(&self, pick: Pick, endpoint: usize) -> Option<String> {
        let kind = self.kinds.get(usize::from(pick.kind))?;
        let path = self.fill(&kind.targets.get(endpoint)?.path, pick, push_in_url);
        Some(format!("{} {}", kind.method, String::from_utf8_lossy(&path)))
    }

    fn compose(&self, kind: &Kind, target: &Target, pick: Pick) -> Message {
        let body = self.fill(&kind.body, pick, |out, v| out.extend_from_slice(v));
        let mut head = Vec::with_capacity(256 + target.headers.len() + body.len().min(SMALL_BODY));
        head.extend_from_slice(kind.method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(&self.fill(&target.path, pick, push_in_url));
        head.extend_from_slice(&target.headers);
        // A method that means a body says so when there is none (RFC 9110, 8.6).
        let means_body = matches!(kind.method, Method::POST | Method::PUT | Method::PATCH);
        if means_body || !body.is_empty() {
            head.extend_from_slice(format!("{CONTENT_LENGTH}: {}\r\n", body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        let body = match body.len() {
            0..=SMALL_BODY => {
                head.extend_from_slice(&body);
                Bytes::new()
            }
            _ => Bytes::from(body),
        };
        Message {
            head: Bytes::from(head),
            body,
            to_head: kind.method == Method::HEAD,
            closes: target.closes,
        }
    }

    fn fill(&self, pieces: &[Piece], pick: Pick, push: impl Fn(&mut Vec<u8>, &[u8])) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        for piece in pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Var(at) => match self.vars.get(*at).map(|v| &v.source) {
                    Some(VarSource::Range(low, high)) => {
                        let value = in_range(*low, *high, mixed(pick.draw, *at as u64));
                        out.extend_from_slice(value.to_string().as_bytes());
                    }
                    // By the arrival's number, so that the columns of one CSV stay in the same row.
                    Some(VarSource::Values(values)) => {
                        let row = usize::try_from(pick.number % values.len().max(1) as u64).unwrap_or(0);
                        push(&mut out, values.get(row).map_or(b"".as_slice(), |v| v.as_bytes()));
                    }
                    None => {}
                },
            }
        }
        out
    }
}

impl Kind {
    fn prepare(
        r: &RequestSpec,
        spec: &LoadSpec,
        vars: &[Var],
        endpoints: &[Endpoint],
    ) -> Result<Self, LoadError> {
        let label = format!("{} {}", r.method, r.path);
        let bad = |why: String| LoadError::Request(format!("request `{label}`: {why}"));
        let method = Method::from_bytes(r.method.as_bytes())
            .ok()
            .filter(|m| *m != Method::CONNECT)
            .ok_or_else(|| bad("this method cannot be sent".into()))?;
        if !r.path.starts_with('/') {
            return Err(bad("a path begins with /".into()));
        }
        let targets = endpoints
            .iter()
            .map(|e| {
                let map = headers(spec, r, e).map_err(&bad)?;
                Ok(Target {
                    path: path(&format!("{}{}", e.prefix, r.path), vars).map_err(&bad)?,
                    headers: header_lines(&map),
                    closes: map
                        .get_all(CONNECTION)
                        .iter()
                        .any(|v| classify::contains(&v.as_bytes().to_ascii_lowercase(), b"close")),
                    ready: None,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        let expectation = Expectation {
            statuses: r.expect.clone(),
            text: r.expect_body.as_ref().map(|t| t.clone().into_bytes()),
        };
        Ok(Self {
            method,
            targets,
            body: pieces(r.body.as_deref().unwrap_or_default(), vars),
            expectation,
        })
    }
}

fn headers(spec: &LoadSpec, r: &RequestSpec, e: &Endpoint) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    let authority =
        HeaderValue::from_str(&e.authority).map_err(|_| "its host is not a header value".to_owned())?;
    map.insert(HOST, authority);
    map.insert(ACCEPT, HeaderValue::from_static("*/*"));
    map.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("autotune/", env!("CARGO_PKG_VERSION"))),
    );
    if !spec.keep_alive {
        map.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    for (scope, list) in [("common", &spec.headers), ("own", &r.headers)] {
        let mut seen = Vec::new();
        for (name, value) in list {
            let n = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("`{name}` is not a header name"))?;
            // The value may be a secret: it is not shown.
            let v = HeaderValue::from_str(value)
                .map_err(|_| format!("the value of {scope} header `{name}` cannot be sent"))?;
            if n == CONTENT_LENGTH || n == TRANSFER_ENCODING {
                return Err(format!(
                    "leave header `{name}` out: the body is sent with its own length"
                ));
            }
            // The nearer scope replaces the farther; within one scope a name may stand twice.
            if seen.contains(&n) {
                map.append(n, v);
            } else {
                map.insert(n.clone(), v);
                seen.push(n);
            }
        }
    }
    Ok(map)
}

/// Version and headers as they are sent.
fn header_lines(map: &HeaderMap) -> Vec<u8> {
    let mut out = b" HTTP/1.1\r\n".to_vec();
    for (name, value) in map {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out
}

fn path(text: &str, vars: &[Var]) -> Result<Vec<Piece>, String> {
    let mut pieces = pieces(text.as_bytes(), vars);
    let mut longest = 0;
    for p in &mut pieces {
        longest += match p {
            Piece::Literal(t) if t.iter().any(|b| matches!(b, b'{' | b'}')) => {
                return Err("its path names a variable that [load.vars] does not define".into());
            }
            Piece::Literal(t) => {
                let mut encoded = Vec::with_capacity(t.len());
                push_in_url(&mut encoded, t);
                *t = encoded;
                t.len()
            }
            Piece::Var(at) => match vars.get(*at).map(|v| &v.source) {
                Some(VarSource::Values(values)) => values.iter().map(|v| v.len() * 3).max().unwrap_or(0),
                _ => 20,
            },
        };
    }
    if longest > LONGEST_PATH {
        return Err(format!("its path can become longer than {LONGEST_PATH} bytes"));
    }
    if let [Piece::Literal(only)] = pieces.as_slice() {
        Uri::from_maybe_shared(Bytes::from(only.clone()))
            .map_err(|_| "its path cannot be sent".to_owned())?;
    }
    Ok(pieces)
}

/// Splits at `{name}` where `name` is a variable; other braces stay as they are (JSON bodies are full of them).
fn pieces(text: &[u8], vars: &[Var]) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let var = (first == b'{')
            .then(|| after.iter().position(|b| *b == b'}'))
            .flatten()
            .and_then(|end| Some((after.get(..end)?, after.get(end + 1..)?)))
            .and_then(|(name, tail)| Some((vars.iter().position(|v| v.name.as_bytes() == name)?, tail)));
        if let Some((at, tail)) = var {
            if !literal.is_empty() {
                out.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            out.push(Piece::Var(at));
            rest = tail;
        } else {
            literal.push(first);
            rest = after;
        }
    }
    if !literal.is_empty() {
        out.push(Piece::Literal(literal));
    }
    out
}

/// Appends `value`, with the bytes that a request line cannot hold percent-encoded (RFC 3986, 2.1). What is encoded
/// already stays as it is.
fn push_in_url(out: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &b in value {
        if b <= b' '
            || b >= 0x7f
            || matches!(
                b,
                b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#'
            )
        {
            out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        } else {
            out.push(b);
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn shares(requests: &[RequestSpec]) -> Result<Vec<u64>, LoadError> {
    let sum: f64 = requests.iter().map(|r| r.weight).sum();
    if requests.iter().any(|r| !r.weight.is_finite() || r.weight < 0.0) || !sum.is_finite() || sum <= 0.0 {
        return Err(LoadError::Request(
            "weights must be 0 or more, with at least one above 0".into(),
        ));
    }
    let mut upto = 0.0;
    let mut ends: Vec<u64> = requests
        .iter()
        .map(|r| {
            upto += r.weight / sum;
            (upto * u64::MAX as f64) as u64
        })
        .collect();
    // Rounding must not leave a gap at the top: the last request that has a weight takes it.
    if let Some(last) = requests.iter().rposition(|r| r.weight > 0.0) {
        ends.iter_mut().skip(last).for_each(|e| *e = u64::MAX);
    }
    Ok(ends)
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): independent bits for each variable from one draw.
fn mixed(draw: u64, salt: u64) -> u64 {
    let mut z = draw.wrapping_add(salt.wrapping_add(1).wrapping_mul(WEYL));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `bits` scaled into low..=high by the high half of a product, without division.
#[allow(clippy::cast_possible_truncation)]
fn in_range(low: i64, high: i64, bits: u64) -> i64 {
    let span = (i128::from(high) - i128::from(low) + 1).unsigned_abs();
    let step = (u128::from(bits).wrapping_mul(span)) >> 64;
    (i128::from(low) + step as i128) as i64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::Arrivals;

    fn request(weight: f64, path: &str) -> RequestSpec {
        RequestSpec {
            weight,
            method: "GET".into(),
            path: path.into(),
            headers: vec![],
            body: None,
            expect: vec![200],
            expect_body: None,
        }
    }

    fn spec(requests: Vec<RequestSpec>, vars: &[(&str, VarSource)]) -> LoadSpec {
        LoadSpec {
            timeout: Duration::from_secs(1),
            connections: 10,
            arrivals: Arrivals::Uniform,
            headers: vec![("X-All".into(), "1".into())],
            requests,
            vars: vars
                .iter()
                .map(|(n, s)| ((*n).to_owned(), s.clone()))
                .collect::<BTreeMap<_, _>>(),
            cpu: None,
            keep_alive: true,
            allow_remote: vec![],
            agents: crate::spec::AgentsSpec::default(),
        }
    }

    fn endpoints() -> Vec<Endpoint> {
        vec![Endpoint::open("http://127.0.0.1:8000/api", &[]).unwrap()]
    }

    fn paths(mix: &Mix, seed: u64, count: usize) -> Vec<String> {
        let mut picks = Picks::new(mix, seed);
        (0..count)
            .map(|_| {
                let pick = picks.next(mix);
                mix.line(pick, 0).unwrap().split_off("GET ".len())
            })
            .collect()
    }

    #[test]
    fn variables_are_filled_and_rows_stay_together() {
        let vars = [
            ("id", VarSource::Range(5, 7)),
            ("name", VarSource::Values(vec!["a b".into(), "ü".into()])),
            ("code", VarSource::Values(vec!["1".into(), "2".into()])),
        ];
        let mix = Mix::prepare(
            &spec(vec![request(1.0, "/x/{id}?n={name}&c={code}")], &vars),
            &endpoints(),
        )
        .unwrap();
        let all = paths(&mix, 3, 200);
        assert!(
            all.iter()
                .all(|p| p.ends_with("n=a%20b&c=1") || p.ends_with("n=%C3%BC&c=2")),
            "{all:?}"
        );
        for id in 5..=7 {
            assert!(all.iter().any(|p| p.starts_with(&format!("/api/x/{id}?"))));
        }
        assert_eq!(all, paths(&mix, 3, 200));
        assert_ne!(all, paths(&mix, 4, 200));
    }

    #[test]
    fn braces_of_a_json_body_are_left_alone() {
        let mut r = request(1.0, "/");
        r.method = "POST".into();
        r.body = Some(br#"{"a": {"id": {id}}, "b": "{other}"}"#.to_vec());
        let mix = Mix::prepare(&spec(vec![r], &[("id", VarSource::Range(1, 1))]), &endpoints()).unwrap();
        assert_eq!(
            text_of(&mix),
            format!(
                "POST /api/ HTTP/1.1\r\nhost: 127.0.0.1:8000\r\naccept: */*\r\nuser-agent: autotune/{}\r\nx-all: 1\r\n\
                 content-length: 32\r\n\r\n{}",
                env!("CARGO_PKG_VERSION"),
                r#"{"a": {"id": 1}, "b": "{other}"}"#
            )
        );
    }

    /// The first request as it is sent.
    fn text_of(mix: &Mix) -> String {
        let message = mix.request(Pick::default(), 0).unwrap();
        let mut out = Vec::new();
        while out.len() < message.len() {
            let part = message.from(out.len());
            assert!(!part.is_empty());
            out.extend_from_slice(part);
        }
        assert!(message.from(out.len()).is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_is_sent_with_its_length_whatever_its_size() {
        for size in [0, 1, SMALL_BODY, SMALL_BODY + 1] {
            let mut r = request(1.0, "/");
            r.method = "PUT".into();
            r.body = Some(vec![b'x'; size]);
            let text = text_of(&Mix::prepare(&spec(vec![r], &[]), &endpoints()).unwrap());
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {size}")), "{head}");
            assert_eq!(body.len(), size);
        }
        let plain = text_of(&Mix::prepare(&spec(vec![request(1.0, "/")], &[]), &endpoints()).unwrap());
        assert!(!plain.contains("content-length"), "{plain}");
    }

    #[test]
    fn headers_of_a_request_replace_the_common_ones() {
        let mut r = request(1.0, "/");
        r.headers = vec![("x-all".into(), "2".into()), ("Host".into(), "shop.test".into())];
        let mix = Mix::prepare(&spec(vec![r], &[]), &endpoints()).unwrap();
        let text = text_of(&mix);
        assert!(
            text.contains("\r\nx-all: 2\r\n") && !text.contains("x-all: 1"),
            "{text}"
        );
        assert_eq!(text.matches("host: ").count(), 1, "{text}");
        assert!(text.contains("\r\nhost: shop.test\r\n"), "{text}");
        assert!(!mix.request(Pick::default(), 0).unwrap().closes);
    }

    #[test]
    fn what_cannot_be_sent_is_said_before() {
        let tries: [(RequestSpec, &[(&str, VarSource)]); 6] = [
            (request(0.0, "/"), &[]),
            (request(f64::NAN, "/"), &[]),
            (request(1.0, "x"), &[]),
            (request(1.0, "/{nobody}"), &[]),
            (request(1.0, "/{v}"), &[("v", VarSource::Values(vec![]))]),
            (request(1.0, "/{v}"), &[("v", VarSource::Range(3, 2))]),
        ];
        for (r, vars) in tries {
            let label = format!("{r:?}");
            assert!(
                Mix::prepare(&spec(vec![r], vars), &endpoints()).is_err(),
                "{label}"
            );
        }
        for name in ["Content-Length", "transfer-encoding"] {
            let mut r = request(1.0, "/");
            r.headers = vec![(name.into(), "1".into())];
            let text = Mix::prepare(&spec(vec![r], &[]), &endpoints())
                .unwrap_err()
                .to_string();
            assert!(text.contains(name), "{text}");
        }
        let mut secret = request(1.0, "/");
        secret.headers = vec![("authorization".into(), "Bearer hun\nter2".into())];
        let text = Mix::prepare(&spec(vec![secret], &[]), &endpoints())
            .unwrap_err()
            .to_string();
        assert!(!text.contains("ter2"), "{text}");
    }

    proptest! {
        /// Each part sends what the whole sends at its arrivals, variables included.
        #[test]
        fn parts_send_the_same_requests(of in 1_u32..6, seed: u64, vars: bool) {
            let var = [("v", VarSource::Range(1, 1_000_000))];
            let path = if vars { "/{v}" } else { "/" };
            let mix = Mix::prepare(
                &spec(vec![request(1.0, path), request(2.0, "/b")], if vars { &var } else { &[] }),
                &endpoints(),
            )
            .unwrap();
            let mut whole = Picks::new(&mix, seed);
            let mut parts: Vec<Picks> = (0..of).map(|index| Picks::of_part(&mix, seed, Part { index, of })).collect();
            for k in 0..60 {
                prop_assert_eq!(whole.next(&mix), parts[k % of as usize].next(&mix));
            }
        }

        /// Any stretch of 1,000 arrivals holds each request's share within a handful: far closer than independent draws.
        #[test]
        fn every_stretch_holds_the_shares(weights in prop::collection::vec(0.01_f64..10.0, 1..6), seed: u64) {
            let mix = Mix::prepare(&spec(weights.iter().map(|w| request(*w, "/")).collect(), &[]), &endpoints()).unwrap();
            let mut picks = Picks::new(&mix, seed);
            let sum: f64 = weights.iter().sum();
            for _ in 0..3 {
                let mut counts = vec![0_u32; weights.len()];
                (0..1_000).for_each(|_| counts[usize::from(picks.next(&mix).kind)] += 1);
                for (count, w) in counts.iter().zip(&weights) {
                    let expected = w / sum * 1_000.0;
                    prop_assert!((f64::from(*count) - expected).abs() < 8.0, "{count} of {expected}");
                }
            }
        }

        #[test]
        fn ranges_keep_their_ends(low: i64, high: i64, bits: u64) {
            let (low, high) = (low.min(high), low.max(high));
            prop_assert!((low..=high).contains(&in_range(low, high, bits)));
            prop_assert_eq!(in_range(low, high, 0), low);
            prop_assert_eq!(in_range(low, high, u64::MAX), high);
        }

        #[test]
        fn any_bytes_can_stand_in_a_path(value in ".{0,50}") {
            let vars = [("v", VarSource::Values(vec![value]))];
            let mix = Mix::prepare(&spec(vec![request(1.0, "/x/{v}")], &vars), &endpoints()).unwrap();
            let line = mix.line(Pick::default(), 0).unwrap();
            prop_assert!(line["GET ".len()..].parse::<Uri>().is_ok(), "{}", line);
        }
    }
}
