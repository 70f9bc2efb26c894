//! Quantities that could be swapped by mistake, each with a checked constructor, a `Display` that people
//! read, and a parser for the forms a space file takes: "30s", "512MiB", "5%".
//!
//! Deliberately not here: arithmetic in every direction. A rate is a rate; what is computed from several
//! quantities is computed where the formula and its source stand.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text or number that is not a quantity; the message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl UnitError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Requests per second: finite and above zero.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rps(f64);

impl Rps {
    /// A rate of `value` requests per second; refuses zero, negative and non-finite values.
    pub fn new(value: f64) -> Result<Self, UnitError> {
        if value.is_finite() && value > 0.0 {
            Ok(Self(value))
        } else {
            Err(UnitError::new(format!(
                "a rate must be a number of requests per second above 0, not {value}"
            )))
        }
    }

    /// `value` clamped into what a rate may be, for arithmetic on rates that are already valid.
    #[must_use]
    pub fn saturating(value: f64) -> Self {
        if value.is_nan() {
            return Self(f64::MIN_POSITIVE);
        }
        Self(value.clamp(1e-9, 1e12))
    }

    /// Requests per second.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// This rate times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self::saturating(self.0 * factor)
    }

    /// The number of arrivals an absolute schedule of this rate has in `window`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn arrivals_in(self, window: Duration) -> u64 {
        (self.0 * window.as_secs_f64()).floor().max(0.0) as u64
    }
}

impl fmt::Display for Rps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        if v >= 100.0 {
            write!(f, "{v:.0} rps")
        } else {
            write!(f, "{v:.1} rps")
        }
    }
}

impl TryFrom<f64> for Rps {
    type Error = UnitError;
    fn try_from(value: f64) -> Result<Self, UnitError> {
        Self::new(value)
    }
}

impl From<Rps> for f64 {
    fn from(value: Rps) -> Self {
        value.0
    }
}

/// A share between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// No share at all.
    pub const ZERO: Self = Self(0.0);
    /// The whole.
    pub const ONE: Self = Self(1.0);

    /// A share; refuses what is outside 0..=1.
    pub fn new(value: f64) -> Result<Self, UnitError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(UnitError::new(format!(
                "a share must be between 0% and 100%, not {value}"
            )))
        }
    }

    /// `value` clamped into 0..=1; not-a-number becomes 1, the cautious reading of a loss.
    #[must_use]
    pub fn saturating(value: f64) -> Self {
        if value.is_nan() {
            return Self(1.0);
        }
        Self(value.clamp(0.0, 1.0))
    }

    /// The share as a fraction.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.0 * 100.0)
    }
}

impl TryFrom<f64> for Ratio {
    type Error = UnitError;
    fn try_from(value: f64) -> Result<Self, UnitError> {
        Self::new(value)
    }
}

impl From<Ratio> for f64 {
    fn from(value: Ratio) -> Self {
        value.0
    }
}

impl FromStr for Ratio {
    type Err = UnitError;

    /// "5%" or "0.05".
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let t = text.trim();
        let parsed = match t.strip_suffix('%') {
            Some(p) => p.trim().parse::<f64>().map(|v| v / 100.0),
            None => t.parse::<f64>(),
        };
        parsed
            .map_err(|_| UnitError::new(format!("`{text}` is not a share; write \"5%\" or 0.05")))
            .and_then(Self::new)
    }
}

/// CPU cores; Docker's `cpus`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cpus(f64);

impl Cpus {
    /// Docker refuses less than a hundredth of a core.
    pub const MIN: f64 = 0.01;

    /// Cores, at least 0.01.
    pub fn new(value: f64) -> Result<Self, UnitError> {
        if value.is_finite() && value >= Self::MIN {
            Ok(Self(value))
        } else {
            Err(UnitError::new(format!(
                "cpus must be at least {}, not {value}",
                Self::MIN
            )))
        }
    }

    /// Cores.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// Docker's `NanoCpus`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn nano(self) -> i64 {
        (self.0 * 1e9).round() as i64
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cpus", self.0)
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    const MIB: u64 = 1 << 20;

    /// A size of `value` bytes.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self(value)
    }

    /// A size of `value` MiB, the unit of memory limits in a space file.
    #[must_use]
    pub fn from_mib(value: u64) -> Self {
        Self(value.saturating_mul(Self::MIB))
    }

    /// Bytes.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// MiB, with a fraction.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn mib(self) -> f64 {
        self.0 as f64 / Self::MIB as f64
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 10 * (1 << 30) {
            write!(f, "{:.1} GiB", self.mib() / 1024.0)
        } else if self.0 >= Self::MIB {
            write!(f, "{:.0} MiB", self.mib())
        } else {
            write!(f, "{} B", self.0)
        }
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    /// "512MiB", "2GiB", "100MB", "4096".
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let t = text.trim();
        let split = t
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(t.len());
        let (number, unit) = t.split_at(split);
        let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "kb" => 1e3,
            "m" | "mib" => 1024.0 * 1024.0,
            "mb" => 1e6,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "gb" => 1e9,
            _ => f64::NAN,
        };
        match number.parse::<f64>() {
            Ok(v) if factor.is_finite() && v * factor < 9e18 => Ok(Self((v * factor) as u64)),
            _ => Err(UnitError::new(format!(
                "`{text}` is not a size; write \"512MiB\" or \"2GiB\""
            ))),
        }
    }
}

/// Parses "30s", "250ms", "1h 30m". The longest time taken is a year: what is longer is a mistake.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let bad = || {
        UnitError::new(format!(
            "`{text}` is not a time; write \"30s\", \"250ms\" or \"1h 30m\""
        ))
    };
    let d = humantime::parse_duration(text.trim()).map_err(|_| bad())?;
    if d > Duration::from_secs(366 * 86_400) {
        return Err(bad());
    }
    Ok(d)
}

/// A duration as people read it: "3 h 20 min", "42 s", "250 ms".
#[must_use]
pub fn show_duration(d: Duration) -> String {
    let s = d.as_secs();
    if d.as_millis() < 1_000 {
        format!("{} ms", d.as_millis())
    } else if s < 10 {
        format!("{:.1} s", d.as_secs_f64())
    } else if s < 120 {
        format!("{s} s")
    } else if s < 3_600 {
        let (m, r) = (s / 60, s % 60);
        if r == 0 || m >= 10 {
            format!("{m} min")
        } else {
            format!("{m} min {r} s")
        }
    } else {
        let (h, m) = (s / 3_600, s % 3_600 / 60);
        if m == 0 {
            format!("{h} h")
        } else {
            format!("{h} h {m} min")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_refuse_what_cannot_be_offered() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Rps::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Rps::new(2.5).unwrap().arrivals_in(Duration::from_secs(4)), 10);
    }

    #[test]
    fn shares_sizes_and_times_parse_as_documented() {
        assert_eq!("5%".parse::<Ratio>().unwrap(), Ratio::new(0.05).unwrap());
        assert!("105%".parse::<Ratio>().is_err());
        assert_eq!("512MiB".parse::<Bytes>().unwrap(), Bytes::from_mib(512));
        assert!("512 parrots".parse::<Bytes>().is_err());
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(show_duration(Duration::from_secs(12_000)), "3 h 20 min");
        assert_eq!(show_duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(show_duration(Duration::from_secs(42)), "42 s");
    }
}
