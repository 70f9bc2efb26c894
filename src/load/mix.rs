//! The request mix, prepared ahead: what a request costs in the hot path is a few reference counts, and one
//! formatted path or body where it has variables. Pure.
//!
//! Which request an arrival is follows a Weyl sequence (Weyl 1916; Knuth, TAOCP 3, 6.4, "Fibonacci hashing"): the fractional
//! parts of `offset + i * phi` spread evenly, so every stretch of a probe holds the mix's shares almost exactly. Independent draws
//! would put the noise of the draw (18 % for 30 expensive requests) into every comparison of two probes.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::LoadError;
use super::endpoint::Endpoint;
use crate::spec::{LoadSpec, RequestSpec, VarSource};

/// 2^64 / golden ratio, odd.
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
/// Longest path with its variables filled in; hyper's own limit is 65,534.
const LONGEST_PATH: usize = 60_000;

pub(super) type Body = Full<Bytes>;

/// What makes an answer good.
#[derive(Debug, Clone)]
pub(super) struct Expectation {
    /// Statuses; empty means any 2xx.
    pub(super) statuses: Vec<u16>,
    /// Text in the body.
    pub(super) text: Option<Vec<u8>>,
}

/// What an arrival sends: drawn when it is due, made into a request when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    body: Text<Bytes>,
    expectation: Expectation,
}

#[derive(Debug)]
struct Target {
    path: Text<Uri>,
    headers: HeaderMap,
}

#[derive(Debug)]
enum Text<T> {
    Fixed(T),
    Filled(Vec<Piece>),
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
}

impl Picks {
    pub(super) fn new(mix: &Mix, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            weyl: random.next_u64(),
            random,
            next: 0,
            has_vars: !mix.vars.is_empty(),
        }
    }

    /// What the next arrival sends.
    pub(super) fn next(&mut self, mix: &Mix) -> Pick {
        let number = self.next;
        self.next += 1;
        self.weyl = self.weyl.wrapping_add(WEYL);
        let draw = if self.has_vars { self.random.next_u64() } else { 0 };
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
        Ok(Self {
            shares: shares(&spec.requests)?,
            kinds,
            vars,
        })
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

    /// The request of `pick` for `endpoint`; None when its variables make a path that is none, which the
    /// preparation has excluded.
    pub(super) fn request(&self, pick: Pick, endpoint: usize) -> Option<Request<Body>> {
        let kind = self.kinds.get(usize::from(pick.kind))?;
        let target = kind.targets.get(endpoint)?;
        let uri = match &target.path {
            Text::Fixed(uri) => uri.clone(),
            Text::Filled(pieces) => {
                Uri::from_maybe_shared(Bytes::from(self.fill(pieces, pick, push_in_url))).ok()?
            }
        };
        let body = match &kind.body {
            Text::Fixed(bytes) => bytes.clone(),
            Text::Filled(pieces) => Bytes::from(self.fill(pieces, pick, |out, v| out.extend_from_slice(v))),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = kind.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = target.headers.clone();
        Some(request)
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
                Ok(Target {
                    path: path(&format!("{}{}", e.prefix, r.path), vars).map_err(&bad)?,
                    headers: headers(spec, r, e).map_err(&bad)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        let body = match pieces(r.body.as_deref().unwrap_or_default(), vars) {
            p if p.iter().all(|p| matches!(p, Piece::Literal(_))) => {
                Text::Fixed(Bytes::from(r.body.clone().unwrap_or_default()))
            }
            p => Text::Filled(p),
        };
        let expectation = Expectation {
            statuses: r.expect.clone(),
            text: r.expect_body.as_ref().map(|t| t.clone().into_bytes()),
        };
        Ok(Self {
            method,
            targets,
            body,
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

fn path(text: &str, vars: &[Var]) -> Result<Text<Uri>, String> {
    let pieces = pieces(text.as_bytes(), vars);
    let mut longest = 0;
    for p in &pieces {
        longest += match p {
            Piece::Literal(t) if t.iter().any(|b| matches!(b, b'{' | b'}')) => {
                return Err("its path names a variable that [load.vars] does not define".into());
            }
            Piece::Literal(t) => t.len(),
            Piece::Var(at) => match vars.get(*at).map(|v| &v.source) {
                Some(VarSource::Values(values)) => values.iter().map(|v| v.len() * 3).max().unwrap_or(0),
                _ => 20,
            },
        };
    }
    if longest > LONGEST_PATH {
        return Err(format!("its path can become longer than {LONGEST_PATH} bytes"));
    }
    let fixed = |t: &[u8]| {
        let mut out = Vec::with_capacity(t.len());
        push_in_url(&mut out, t);
        Uri::from_maybe_shared(Bytes::from(out)).map_err(|_| "its path cannot be sent".to_owned())
    };
    match pieces.as_slice() {
        [Piece::Literal(only)] => Ok(Text::Fixed(fixed(only)?)),
        _ => Ok(Text::Filled(pieces)),
    }
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
                mix.request(pick, 0).unwrap().uri().to_string()
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
        let Text::Filled(p) = &mix.kinds[0].body else {
            panic!("not filled")
        };
        let pick = Pick {
            number: 0,
            kind: 0,
            draw: 9,
        };
        assert_eq!(
            mix.fill(p, pick, |o, v| o.extend_from_slice(v)),
            br#"{"a": {"id": 1}, "b": "{other}"}"#
        );
    }

    #[test]
    fn headers_of_a_request_replace_the_common_ones() {
        let mut r = request(1.0, "/");
        r.headers = vec![("x-all".into(), "2".into()), ("Host".into(), "shop.test".into())];
        let mix = Mix::prepare(&spec(vec![r], &[]), &endpoints()).unwrap();
        let made = mix
            .request(
                Pick {
                    number: 0,
                    kind: 0,
                    draw: 0,
                },
                0,
            )
            .unwrap();
        assert_eq!(made.headers()["x-all"], "2");
        assert_eq!(made.headers()[HOST], "shop.test");
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
        let mut secret = request(1.0, "/");
        secret.headers = vec![("authorization".into(), "Bearer hun\nter2".into())];
        let text = Mix::prepare(&spec(vec![secret], &[]), &endpoints())
            .unwrap_err()
            .to_string();
        assert!(!text.contains("ter2"), "{text}");
    }

    proptest! {
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
            let pick = Pick { number: 0, kind: 0, draw: 0 };
            prop_assert!(mix.request(pick, 0).is_some());
        }
    }
}
