//! What controller and agent say to each other: JSON over HTTP, one version, every size bounded. Pure.
//!
//! A probe's answer is a stream of lines, each a JSON document: bins and seconds as they are over, a beat when there is nothing
//! else to tell, and the result. Histograms travel in HdrHistogram's own V2 deflate form, in base64: without loss, and what a
//! receiver adds up is what one generator would have recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::load::Interval;
use crate::measurement::{Bin, Histograms, Measurement, OutcomeClass};
use crate::spec::{Arrivals, LoadSpec, RequestSpec, VarSource};

/// The protocol's version; both sides must have the same.
pub(crate) const VERSION: u32 = 1;
/// Names the version in every request.
pub(crate) const VERSION_HEADER: &str = "autotune-protocol";
/// Largest order, bytes: a mix with 16 MiB of bodies fits in base64.
pub(crate) const MOST_ORDER: usize = 32 << 20;
/// Longest line of an answer, bytes. A result with twenty full histograms is some 500 KB.
pub(crate) const LONGEST_LINE: usize = 16 << 20;
/// Longest lead-in and window together.
pub(crate) const LONGEST_PROBE: Duration = Duration::from_secs(7_200);
/// Longest drain.
pub(crate) const LONGEST_DRAIN: Duration = Duration::from_secs(1_200);
/// Most generators of one probe.
pub(crate) const MOST_AGENTS: usize = crate::spec::MOST_AGENTS;
/// A line comes at least this often.
pub(crate) const BEAT: Duration = Duration::from_millis(500);

/// GET /hello: what the agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// Version of the tool, for people.
    pub(crate) tool: String,
    /// Digest of the load that it holds ready.
    pub(crate) loaded: Option<String>,
    /// Most requests per second that it sends.
    pub(crate) max_rate: Option<f64>,
}

/// GET /clock.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ClockNow {
    /// Nanoseconds of the agent's own clock.
    pub(crate) now_ns: u64,
}

/// What an agent says that won't.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// POST /load: what is sent, and where to.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) urls: Vec<String>,
    timeout_ns: u64,
    /// The agent's own share of the connections.
    pub(crate) connections: u32,
    arrivals: Arrivals,
    headers: Vec<(String, String)>,
    requests: Vec<Request>,
    vars: BTreeMap<String, Var>,
    keep_alive: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Request {
    weight: f64,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    expect: Vec<u16>,
    expect_body: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Var {
    Range(i64, i64),
    Values(Vec<String>),
}

/// POST /load is answered with the digest under which it was kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) load: String,
}

/// POST /probe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProbeOrder {
    /// Digest of the load that is meant.
    pub(crate) load: String,
    pub(crate) index: u32,
    pub(crate) of: u32,
    pub(crate) seed: u64,
    /// Of all parts together, requests per second.
    pub(crate) rate: f64,
    pub(crate) lead_in_ns: u64,
    pub(crate) window_ns: u64,
    pub(crate) drain_ns: u64,
    /// When the lead-in begins, on the agent's clock.
    pub(crate) start_ns: u64,
    pub(crate) intervals: bool,
}

/// POST /stop: end the window early.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StopOrder {
    /// From the window's begin, nanoseconds.
    pub(crate) offset_ns: u64,
    pub(crate) reason: String,
}

/// A line of a probe's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Nothing new; it is alive.
    Beat,
    Bin(BinLine),
    Interval(IntervalLine),
    Done(Box<DoneLine>),
    /// The engine could not run.
    Failed(String),
}

/// A bin of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BinLine {
    pub(crate) at: usize,
    pub(crate) scheduled: u64,
    pub(crate) scheduled_good: u64,
    pub(crate) completed_good: u64,
    pub(crate) completed_bad: u64,
    pub(crate) in_flight_end: u64,
    /// Latencies of the good answers that came in it.
    pub(crate) latency: String,
}

/// A second of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IntervalLine {
    pub(crate) start_ns: u64,
    pub(crate) width_ns: u64,
    pub(crate) histograms: Vec<(Option<String>, String)>,
}

/// The result of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DoneLine {
    pub(crate) measurement: Measurement,
    pub(crate) latency: String,
    pub(crate) service: String,
    pub(crate) by_class: BTreeMap<OutcomeClass, String>,
    pub(crate) lag: String,
    pub(crate) first_ms: Option<f64>,
}

/// A histogram as text.
pub(crate) fn pack(h: &Histogram<u64>) -> Result<String, String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(h, &mut bytes)
        .map_err(|e| e.to_string())?;
    Ok(STANDARD.encode(bytes))
}

/// The histogram of a text.
pub(crate) fn unpack(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|e| format!("not a histogram: {e:?}"))
}

/// The digest that names a load.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Load {
    /// What one of `parts` agents needs of `spec`.
    pub(crate) fn new(spec: &LoadSpec, urls: &[String], parts: u32) -> Self {
        Self {
            urls: urls.to_vec(),
            timeout_ns: nanos(spec.timeout),
            connections: spec.connections.div_ceil(parts.max(1)),
            arrivals: spec.arrivals,
            headers: spec.headers.clone(),
            requests: spec
                .requests
                .iter()
                .map(|r| Request {
                    weight: r.weight,
                    method: r.method.clone(),
                    path: r.path.clone(),
                    headers: r.headers.clone(),
                    body: r.body.as_ref().map(|b| STANDARD.encode(b)),
                    expect: r.expect.clone(),
                    expect_body: r.expect_body.clone(),
                })
                .collect(),
            vars: spec
                .vars
                .iter()
                .map(|(name, source)| {
                    let var = match source {
                        VarSource::Range(low, high) => Var::Range(*low, *high),
                        VarSource::Values(values) => Var::Values(values.clone()),
                    };
                    (name.clone(), var)
                })
                .collect(),
            keep_alive: spec.keep_alive,
        }
    }

    /// As the agent's engine takes it. Which hosts may get load is the agent's to say, not the order's.
    pub(crate) fn into_spec(self, allow: Vec<String>, cpu: Option<usize>) -> Result<LoadSpec, String> {
        let requests = self
            .requests
            .into_iter()
            .map(|r| {
                Ok(RequestSpec {
                    weight: r.weight,
                    method: r.method,
                    path: r.path,
                    headers: r.headers,
                    body: r
                        .body
                        .map(|b| {
                            STANDARD
                                .decode(b)
                                .map_err(|e| format!("a body is not base64: {e}"))
                        })
                        .transpose()?,
                    expect: r.expect,
                    expect_body: r.expect_body,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(LoadSpec {
            timeout: Duration::from_nanos(self.timeout_ns),
            connections: self.connections,
            arrivals: self.arrivals,
            headers: self.headers,
            requests,
            vars: self
                .vars
                .into_iter()
                .map(|(name, var)| {
                    let source = match var {
                        Var::Range(low, high) => VarSource::Range(low, high),
                        Var::Values(values) => VarSource::Values(values),
                    };
                    (name, source)
                })
                .collect(),
            cpu,
            keep_alive: self.keep_alive,
            allow_remote: allow,
            agents: crate::spec::AgentsSpec::default(),
        })
    }
}

impl BinLine {
    pub(crate) fn new(at: usize, bin: &Bin, latency: &Histogram<u64>) -> Result<Self, String> {
        Ok(Self {
            at,
            scheduled: bin.scheduled,
            scheduled_good: bin.scheduled_good,
            completed_good: bin.completed_good,
            completed_bad: bin.completed_bad,
            in_flight_end: bin.in_flight_end,
            latency: pack(latency)?,
        })
    }
}

impl IntervalLine {
    pub(crate) fn new(interval: &Interval) -> Result<Self, String> {
        let histograms = interval
            .histograms
            .iter()
            .map(|(tag, h)| Ok((tag.map(str::to_owned), pack(h)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            start_ns: nanos(interval.start),
            width_ns: nanos(interval.width),
            histograms,
        })
    }

    pub(crate) fn unpack(&self) -> Result<Interval, String> {
        let histograms = self
            .histograms
            .iter()
            .map(|(tag, h)| Ok((tag.as_deref().map(known_tag).transpose()?, unpack(h)?)))
            .collect::<Result<_, String>>()?;
        Ok(Interval {
            start: Duration::from_nanos(self.start_ns),
            width: Duration::from_nanos(self.width_ns),
            histograms,
        })
    }
}

impl DoneLine {
    pub(crate) fn new(
        measurement: Measurement,
        lag: &Histogram<u64>,
        first_ms: Option<f64>,
    ) -> Result<Self, String> {
        let h = measurement
            .histograms
            .as_ref()
            .ok_or("a measurement without histograms")?;
        Ok(Self {
            latency: pack(&h.latency)?,
            service: pack(&h.service)?,
            by_class: h
                .by_class
                .iter()
                .map(|(class, h)| Ok((*class, pack(h)?)))
                .collect::<Result<_, String>>()?,
            lag: pack(lag)?,
            first_ms,
            measurement,
        })
    }

    /// The measurement with its histograms, and the send lag.
    pub(crate) fn unpack(self) -> Result<(Measurement, Histogram<u64>), String> {
        let mut measurement = self.measurement;
        measurement.histograms = Some(Box::new(Histograms {
            latency: unpack(&self.latency)?,
            service: unpack(&self.service)?,
            by_class: self
                .by_class
                .iter()
                .map(|(class, h)| Ok((*class, unpack(h)?)))
                .collect::<Result<_, String>>()?,
        }));
        Ok((measurement, unpack(&self.lag)?))
    }
}

/// The tag of an interval's histogram, as the engine has it.
fn known_tag(tag: &str) -> Result<&'static str, String> {
    std::iter::once("service")
        .chain(OutcomeClass::ALL.iter().map(|c| c.name()))
        .find(|known| *known == tag)
        .ok_or_else(|| format!("unknown kind of histogram `{tag}`"))
}

/// Nanoseconds of a duration, saturating.
pub(crate) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_arrives_as_it_was_sent_with_the_agents_own_rules() {
        let spec = LoadSpec {
            timeout: Duration::from_millis(1_500),
            connections: 101,
            arrivals: Arrivals::Poisson,
            headers: vec![("Authorization".into(), "Bearer x".into())],
            requests: vec![RequestSpec {
                weight: 0.1,
                method: "POST".into(),
                path: "/x/{id}?c={c}".into(),
                headers: vec![],
                body: Some(vec![0, 159, 255]),
                expect: vec![200, 201],
                expect_body: Some("ok".into()),
            }],
            vars: BTreeMap::from([
                ("id".into(), VarSource::Range(-5, 7)),
                ("c".into(), VarSource::Values(vec!["ü".into()])),
            ]),
            cpu: Some(3),
            keep_alive: false,
            allow_remote: vec!["far.example".into()],
            agents: crate::spec::AgentsSpec::default(),
        };
        let text = serde_json::to_vec(&Load::new(&spec, &["http://a".into()], 2)).unwrap();
        let load: Load = serde_json::from_slice(&text).unwrap();
        assert_eq!(load.urls, ["http://a"]);
        let back = load.into_spec(vec!["own.example".into()], None).unwrap();
        let expected = LoadSpec {
            connections: 51,
            cpu: None,
            allow_remote: vec!["own.example".into()],
            ..spec
        };
        assert_eq!(back, expected);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(unpack("%%%").is_err() && unpack("AAAA").is_err() && unpack("").is_err());
        assert!(known_tag("good").is_ok() && known_tag("service").is_ok() && known_tag("x").is_err());
    }
}
