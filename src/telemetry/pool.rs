//! The API's own pool endpoint: how many connections are checked out of how many, who waits. JSON, read by the names
//! that pools use for these things. It speaks for the process that answers, one of several workers.
//!
//! The service under test answers it, so it is also a probe of its event loop: how long the answer took is a figure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sampler::{Record, Source};
use super::{Figures, names};

const MAX_BODY: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_millis(850);

pub(super) struct PoolEndpoint {
    client: reqwest::Client,
    url: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct PoolSample {
    fields: BTreeMap<String, f64>,
    latency_ms: f64,
}

/// Figure, then the names under which pools tell it: SQLAlchemy, HikariCP, deadpool and node-postgres style.
const ALIASES: &[(&str, &[&str])] = &[
    (
        names::POOL_CHECKED_OUT_PEAK,
        &[
            "checked_out",
            "checkedout",
            "in_use",
            "active",
            "active_connections",
            "used",
        ],
    ),
    (
        names::POOL_CAPACITY,
        &[
            "capacity",
            "max_size",
            "maximum_pool_size",
            "max",
            "max_connections",
            "limit",
        ],
    ),
    (
        names::POOL_WAITING_PEAK,
        &[
            "waiting",
            "pending",
            "queued",
            "threads_awaiting_connection",
            "waiting_count",
        ],
    ),
    (names::POOL_OVERFLOW_PEAK, &["overflow"]),
];
const TIMEOUTS: &[&str] = &["timeouts", "timeout_count", "connection_timeouts"];
const REDIS_IN_USE: &[&str] = &["redis_in_use_or_waiting", "redis_in_use", "redis_checked_out"];
const REDIS_CAPACITY: &[&str] = &["redis_max_connections", "redis_capacity"];
const REDIS_ERRORS: &[&str] = &["redis_errors"];

impl PoolEndpoint {
    pub(super) async fn open(base_url: &str, path: Option<&str>) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder();
        if !base_url.starts_with("https:") {
            // No certificate will be looked at: a machine without a trust store (a slim image) must do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .no_proxy()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|e| e.without_url().to_string())?;
        let path = path.unwrap_or("/");
        let mut endpoint = Self {
            client,
            url: format!(
                "{}/{}",
                base_url.trim_end_matches('/'),
                path.trim_start_matches('/')
            ),
        };
        let first = endpoint.sample().await?;
        let told = |figure: &str| {
            ALIASES
                .iter()
                .any(|(f, keys)| *f == figure && any(&first.fields, keys).is_some())
        };
        if told(names::POOL_CHECKED_OUT_PEAK) {
            Ok(endpoint)
        } else {
            Err(format!(
                "{path} names no connections in use; expected JSON with `checked_out` and `capacity`"
            ))
        }
    }
}

fn any(fields: &BTreeMap<String, f64>, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|k| fields.get(&plain(k)).copied())
}

/// A name without its style: `checked_out`, `checkedOut` and `checked-out` are one.
fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Every number of a JSON object by its path, in plain letters; two levels, 256 fields.
fn flatten(value: &Value) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |key: String, v: &Value| {
        if let Some(n) = v.as_f64()
            && n.is_finite()
            && out.len() < 256
        {
            out.insert(plain(&key), n);
        }
    };
    for (k, v) in value.as_object().into_iter().flatten() {
        put(k.clone(), v);
        for (inner, v) in v.as_object().into_iter().flatten() {
            put(format!("{k}_{inner}"), v);
        }
    }
    out
}

/// node-postgres tells how many connections there are and how many of them idle.
fn derived(mut fields: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    if let (Some(all), Some(idle)) = (fields.get("totalcount"), fields.get("idlecount")) {
        let used = (all - idle).max(0.0);
        fields.entry("checkedout".to_owned()).or_insert(used);
    }
    fields
}

impl Source for PoolEndpoint {
    type Sample = PoolSample;
    const NAME: &'static str = "pool";

    async fn sample(&mut self) -> Result<PoolSample, String> {
        let asked = Instant::now();
        let plain = |e: reqwest::Error| {
            if e.is_timeout() {
                format!("no answer within {} ms", TIMEOUT.as_millis())
            } else {
                e.without_url().to_string()
            }
        };
        let mut response = self.client.get(&self.url).send().await.map_err(plain)?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(plain)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err("its answer is longer than 64 KiB".to_owned());
            }
        }
        let value = serde_json::from_slice(&body).map_err(|_| "its answer is not JSON".to_owned())?;
        Ok(PoolSample {
            fields: derived(flatten(&value)),
            latency_ms: asked.elapsed().as_secs_f64() * 1e3,
        })
    }

    fn figures(&self, record: &Record<'_, PoolSample>) -> Figures {
        let mut out = Figures::new();
        let peak = |keys: &[&str]| {
            let told: Vec<f64> = record.values().filter_map(|s| any(&s.fields, keys)).collect();
            (!told.is_empty()).then(|| told.into_iter().fold(0.0, f64::max))
        };
        for (figure, keys) in ALIASES {
            if let Some(v) = peak(keys) {
                out.insert((*figure).to_owned(), v);
            }
        }
        let mean = |keys: &[&str]| record.mean(|s| any(&s.fields, keys).unwrap_or(0.0));
        for (figure, keys) in [
            (names::POOL_CHECKED_OUT_MEAN, ALIASES[0].1),
            (names::POOL_WAITING_MEAN, ALIASES[2].1),
            (names::REDIS_POOL_IN_USE_MEAN, REDIS_IN_USE),
        ] {
            if peak(keys).is_some() {
                out.insert(figure.to_owned(), mean(keys));
            }
        }
        if let Some(v) = peak(REDIS_IN_USE) {
            out.insert(names::REDIS_POOL_IN_USE_PEAK.to_owned(), v);
        }
        if let Some(v) = peak(REDIS_CAPACITY) {
            out.insert(names::REDIS_POOL_CAPACITY.to_owned(), v);
        }
        for (figure, keys) in [
            (names::POOL_TIMEOUTS, TIMEOUTS),
            (names::REDIS_POOL_ERRORS, REDIS_ERRORS),
        ] {
            // Not `growth`: with several workers the answers are of different processes, and each counts for itself.
            let told: Vec<f64> = record.values().filter_map(|s| any(&s.fields, keys)).collect();
            if let (Some(low), Some(high)) = (
                told.iter().copied().reduce(f64::min),
                told.iter().copied().reduce(f64::max),
            ) {
                out.insert(figure.to_owned(), high - low);
            }
        }
        out.insert(
            names::POOL_ANSWER_MS_MEAN.to_owned(),
            record.mean(|s| s.latency_ms),
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> PoolEndpoint {
        PoolEndpoint {
            client: reqwest::Client::new(),
            url: String::new(),
        }
    }

    fn sample(text: &str) -> PoolSample {
        PoolSample {
            fields: derived(flatten(&serde_json::from_str(text).unwrap())),
            latency_ms: 2.0,
        }
    }

    #[test]
    fn pools_of_several_kinds_are_read_by_their_own_names() {
        for (text, used, capacity) in [
            (r#"{"checked_out": 3, "capacity": 20, "waiting": 0}"#, 3.0, 20.0),
            (
                r#"{"active": 7, "maximum_pool_size": 10, "pending": 2}"#,
                7.0,
                10.0,
            ),
            (r#"{"in_use": 1, "max": 4}"#, 1.0, 4.0),
            (
                r#"{"totalCount": 9, "idleCount": 2, "waitingCount": 3, "max": 10}"#,
                7.0,
                10.0,
            ),
            (
                r#"{"activeConnections": 9, "maximumPoolSize": 12, "threadsAwaitingConnection": 4}"#,
                9.0,
                12.0,
            ),
        ] {
            let samples = [(Duration::ZERO, sample(text))];
            let f = endpoint().figures(&Record(&samples));
            assert!((f[names::POOL_CHECKED_OUT_PEAK] - used).abs() < 1e-9, "{text}");
            assert!((f[names::POOL_CAPACITY] - capacity).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn peaks_means_and_counters_are_told_apart() {
        let samples = [
            (
                Duration::ZERO,
                sample(r#"{"checked_out": 20, "waiting": 0, "timeouts": 100, "redis": {"errors": 0}}"#),
            ),
            (
                Duration::from_secs(1),
                sample(r#"{"checked_out": 10, "waiting": 8, "timeouts": 122, "redis": {"errors": 5}}"#),
            ),
        ];
        let f = endpoint().figures(&Record(&samples));
        for (key, want) in [
            (names::POOL_CHECKED_OUT_PEAK, 20.0),
            (names::POOL_CHECKED_OUT_MEAN, 15.0),
            (names::POOL_WAITING_PEAK, 8.0),
            (names::POOL_WAITING_MEAN, 4.0),
            (names::POOL_TIMEOUTS, 22.0),
            (names::REDIS_POOL_ERRORS, 5.0),
        ] {
            assert!((f[key] - want).abs() < 1e-9, "{key}: {f:?}");
        }
        assert!(
            !f.contains_key(names::POOL_CAPACITY),
            "what was not told is absent, not zero"
        );
    }

    #[test]
    fn what_is_not_an_object_has_no_fields() {
        for text in ["[]", "3", "\"x\"", "{}"] {
            assert!(flatten(&serde_json::from_str(text).unwrap()).is_empty(), "{text}");
        }
    }
}
