//! The judgement of the smoke test, before any trial: does every request of the mix work at all, and if errors remain,
//! do they come with the load? Pure: `load` sends the samples, `study` and `check` print the table.
//!
//! A service that refuses three of four requests at one a second refuses them at two hundred; tuning its pool for a
//! night finds nothing. That is said here, in the first seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measurement::{Measurement, OutcomeClass, generator_verdict};

/// One sample of the smoke test.
#[derive(Debug, Clone, PartialEq)]
pub struct SmokeRow {
    /// Index into the mix.
    pub request: usize,
    /// How it ended.
    pub class: OutcomeClass,
    /// HTTP status, where an answer came.
    pub status: Option<u16>,
    /// Length of the answer's body, bytes.
    pub bytes: u64,
    /// From the send to the last byte, milliseconds.
    pub latency_ms: f64,
    /// The beginning of the body, for the table; made harmless here.
    pub first_bytes: String,
}

/// A request of the mix, as far as the table needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct MixRequest {
    /// Share of the mix, relative to the others' sum.
    pub weight: f64,
    /// HTTP method.
    pub method: String,
    /// Path with its variables as typed.
    pub path: String,
    /// Statuses that are good.
    pub expect: Vec<u16>,
}

impl From<&crate::spec::RequestSpec> for MixRequest {
    fn from(r: &crate::spec::RequestSpec) -> Self {
        Self {
            weight: r.weight,
            method: r.method.clone(),
            path: r.path.clone(),
            expect: r.expect.clone(),
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct SmokeLine {
    /// The request.
    pub request: MixRequest,
    /// Samples taken.
    pub samples: usize,
    /// Of these, good.
    pub good: usize,
    /// Answers by status; 0 stands for no answer.
    pub statuses: BTreeMap<u16, usize>,
    /// Classes of what was not good.
    pub classes: BTreeMap<OutcomeClass, usize>,
    /// Smallest and largest body, bytes.
    pub bytes: (u64, u64),
    /// Median, milliseconds.
    pub latency_ms: f64,
    /// The beginning of a body that was not good, harmless, at most 60 characters.
    pub says: String,
}

/// What the smoke test says about the mix.
#[derive(Debug, Clone, PartialEq)]
pub enum SmokeVerdict {
    /// Every request works.
    Sound,
    /// Requests that fail without any load. The run must not start.
    Broken {
        /// Share of the mix, by weight, 0..=1.
        share: f64,
    },
    /// Answers 429 at about one request a second: a limiter, or a key that is used up.
    Limited {
        /// Share of the mix, by weight.
        share: f64,
    },
    /// Server errors, or no answer: the service is not up, or something behind it is away.
    Failing {
        /// Share of the mix, by weight.
        share: f64,
    },
}

/// The verdict with its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoke {
    /// What it comes to.
    pub verdict: SmokeVerdict,
    /// A line a request, in the order of the mix.
    pub lines: Vec<SmokeLine>,
    /// One sentence: what is wrong and what to do, or that all is well.
    pub sentence: String,
}

/// A request counts as broken when at least this share of its samples fails without load.
const BROKEN: f64 = 0.5;

/// Judges the samples of a mix, taken one after another at about one a second.
#[must_use]
pub fn judge_mix(rows: &[SmokeRow], mix: &[MixRequest]) -> Smoke {
    let lines: Vec<SmokeLine> = mix.iter().enumerate().map(|(i, r)| line(i, r, rows)).collect();
    let total: f64 = mix.iter().map(|r| r.weight.max(0.0)).sum();
    let share_of = |which: &dyn Fn(&SmokeLine) -> bool| {
        let bad: f64 = lines
            .iter()
            .filter(|l| which(l))
            .map(|l| l.request.weight.max(0.0))
            .sum();
        if total > 0.0 { bad / total } else { 0.0 }
    };
    let wrong = share_of(&|l| l.mostly(&WRONG));
    let limited = share_of(&|l| l.mostly(&[OutcomeClass::TooManyRequests]));
    let failing =
        share_of(&|l| l.is_bad() && !l.mostly(&WRONG) && !l.mostly(&[OutcomeClass::TooManyRequests]));
    // A service that is down says nothing about the mix; a wrong request is the user's to mend first.
    let verdict = if wrong > 0.0 {
        SmokeVerdict::Broken { share: wrong }
    } else if failing > 0.0 {
        SmokeVerdict::Failing { share: failing }
    } else if limited > 0.0 {
        SmokeVerdict::Limited { share: limited }
    } else {
        SmokeVerdict::Sound
    };
    let sentence = sentence(&verdict, &lines);
    Smoke {
        verdict,
        lines,
        sentence,
    }
}

const WRONG: [OutcomeClass; 4] = [
    OutcomeClass::ClientError,
    OutcomeClass::UnexpectedStatus,
    OutcomeClass::Redirect,
    OutcomeClass::BodyCheck,
];

#[allow(clippy::cast_precision_loss)]
impl SmokeLine {
    fn is_bad(&self) -> bool {
        self.samples == 0 || (self.samples - self.good) as f64 >= BROKEN * self.samples as f64
    }

    fn mostly(&self, classes: &[OutcomeClass]) -> bool {
        let bad = self.samples.saturating_sub(self.good);
        let of: usize = classes.iter().filter_map(|c| self.classes.get(c)).sum();
        self.is_bad() && bad > 0 && 2 * of >= bad
    }
}

fn line(index: usize, request: &MixRequest, rows: &[SmokeRow]) -> SmokeLine {
    let mine: Vec<&SmokeRow> = rows.iter().filter(|r| r.request == index).collect();
    let mut out = SmokeLine {
        request: request.clone(),
        samples: mine.len(),
        good: 0,
        statuses: BTreeMap::new(),
        classes: BTreeMap::new(),
        bytes: (
            mine.iter().map(|r| r.bytes).min().unwrap_or(0),
            mine.iter().map(|r| r.bytes).max().unwrap_or(0),
        ),
        latency_ms: median(mine.iter().map(|r| r.latency_ms).collect()),
        says: String::new(),
    };
    for r in mine {
        *out.statuses.entry(r.status.unwrap_or(0)).or_default() += 1;
        if r.class == OutcomeClass::Good {
            out.good += 1;
        } else {
            *out.classes.entry(r.class).or_default() += 1;
            if out.says.is_empty() {
                out.says = harmless(&r.first_bytes);
            }
        }
    }
    out
}

fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|v| v.is_finite());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// One line of printable text: what a service sends goes to a terminal.
fn harmless(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| {
            if c.is_control() || c.is_whitespace() {
                ' '
            } else {
                c
            }
        })
        .filter(|c| !is_bidi(*c))
        .take(60)
        .collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters that turn the direction of writing around.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn sentence(verdict: &SmokeVerdict, lines: &[SmokeLine]) -> String {
    let bad = lines.iter().filter(|l| l.is_bad()).count();
    let of = lines.len();
    let statuses = seen_statuses(lines);
    match verdict {
        SmokeVerdict::Sound => format!("every request of the mix works ({of})"),
        SmokeVerdict::Broken { share } => format!(
            "broken request mix: {bad} of {of} requests fail without any load ({statuses}), {:.0} % of what would be sent; \
             mend [load] first: no setting of the service changes these answers",
            share * 100.0
        ),
        SmokeVerdict::Limited { share } => format!(
            "rate limiter: {bad} of {of} requests are refused at about one a second ({statuses}), {:.0} % of what would be sent; \
             raise the limit or use a key that is exempt from it",
            share * 100.0
        ),
        SmokeVerdict::Failing { share } => format!(
            "failing service: {bad} of {of} requests end in a server error or get no answer ({statuses}), {:.0} % of what would be \
             sent; look at the service's log and at what is behind it",
            share * 100.0
        ),
    }
}

fn seen_statuses(lines: &[SmokeLine]) -> String {
    let mut all = BTreeMap::<u16, usize>::new();
    for (s, n) in lines.iter().filter(|l| l.is_bad()).flat_map(|l| &l.statuses) {
        *all.entry(*s).or_default() += n;
    }
    let words: Vec<String> = all
        .keys()
        .map(|s| {
            if *s == 0 {
                "no answer".to_owned()
            } else {
                s.to_string()
            }
        })
        .collect();
    if words.is_empty() {
        "not sampled".to_owned()
    } else {
        words.join(", ")
    }
}

impl Smoke {
    /// Whether trials may start.
    #[must_use]
    pub fn may_start(&self) -> bool {
        self.verdict == SmokeVerdict::Sound
    }

    /// The code of docs/diagnosis.md, where something is wrong.
    #[must_use]
    pub fn code(&self) -> Option<crate::diagnosis::Code> {
        use crate::diagnosis::Code;
        match self.verdict {
            SmokeVerdict::Sound => None,
            SmokeVerdict::Broken { .. } => Some(Code::BrokenMix),
            SmokeVerdict::Limited { .. } => Some(Code::RateLimiter),
            SmokeVerdict::Failing { .. } => Some(Code::FailingService),
        }
    }

    /// The exit code of a run that this stops: a mix that cannot work is the space file's fault.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            SmokeVerdict::Broken { .. } => crate::exit::DATA,
            _ => crate::exit::UNAVAILABLE,
        }
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let lines: Vec<serde_json::Value> = self
            .lines
            .iter()
            .map(|l| {
                serde_json::json!({
                    "request": harmless(&format!("{} {}", l.request.method, l.request.path)),
                    "samples": l.samples,
                    "good": l.good,
                    "statuses": l.statuses,
                    "latency_ms": l.latency_ms,
                })
            })
            .collect();
        serde_json::json!({
            "sound": self.may_start(),
            "code": self.code().map(crate::diagnosis::Code::name),
            "sentence": self.sentence,
            "requests": lines,
        })
    }

    /// The table, for a terminal: a line a request.
    #[must_use]
    pub fn table(&self) -> String {
        let name = |l: &SmokeLine| harmless(&format!("{} {}", l.request.method, l.request.path));
        let width = self
            .lines
            .iter()
            .map(|l| name(l).chars().count())
            .max()
            .unwrap_or(7)
            .max(7);
        let mut out = format!(
            "{:width$}  {:>6}  {:>9}  {:>12}  {:>12}  {:>9}  says\n",
            "request", "share", "good", "statuses", "bytes", "median"
        );
        let total: f64 = self.lines.iter().map(|l| l.request.weight.max(0.0)).sum();
        for l in &self.lines {
            let statuses: Vec<String> = l
                .statuses
                .iter()
                .map(|(s, n)| match s {
                    0 => format!("none x{n}"),
                    _ => format!("{s} x{n}"),
                })
                .collect();
            let bytes = if l.bytes.0 == l.bytes.1 {
                l.bytes.0.to_string()
            } else {
                format!("{}-{}", l.bytes.0, l.bytes.1)
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{:width$}  {:>4.0} %  {:>9}  {:>12}  {:>12}  {:>6.1} ms  {}",
                name(l),
                if total > 0.0 {
                    l.request.weight.max(0.0) / total * 100.0
                } else {
                    0.0
                },
                format!("{}/{}", l.good, l.samples),
                statuses.join(" "),
                bytes,
                l.latency_ms,
                l.says
            );
        }
        out
    }
}

/// What errors at two rates say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TwoRates {
    /// Next to no errors at both.
    Sound,
    /// The same share at both: what is sent is wrong, or something behind the service is away. No load problem.
    ConstantShare {
        /// The share at both, 0..=1.
        share: f64,
    },
    /// The same goodput at both: somebody limits the rate.
    ConstantGoodput {
        /// Good answers a second.
        rps: f64,
    },
    /// Errors come with the load: what a capacity search is for.
    LoadDependent,
    /// The rates lie too close together, or too little was answered.
    Unclear,
}

/// Errors under this share are not worth explaining.
const FEW: f64 = 0.02;

/// Compares the errors at a low and a high rate, which should lie at least a factor of two apart.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn judge_two_rates(low: &Measurement, high: &Measurement) -> TwoRates {
    let rates = high.offered.get() / low.offered.get();
    let n = low.scheduled.min(high.scheduled);
    if rates < 1.5 || n < 20 {
        return TwoRates::Unclear;
    }
    let (a, b) = (low.error_response_ratio(), high.error_response_ratio());
    let loss = high.loss();
    if a < FEW && b < FEW && loss < 2.0 * FEW {
        return TwoRates::Sound;
    }
    let p = f64::midpoint(a, b);
    // Two standard errors of the difference of two shares, and three points for what is not chance.
    let by_chance =
        0.03 + 2.0 * (p * (1.0 - p) * (1.0 / low.scheduled as f64 + 1.0 / high.scheduled as f64)).sqrt();
    if a >= FEW && (a - b).abs() <= by_chance {
        return TwoRates::ConstantShare { share: p };
    }
    let (good_low, good_high) = (low.goodput_rps(), high.goodput_rps());
    // At the low rate the limiter may have let everything pass: then it is constant from its limit on, which must show
    // in refusals that are faster than answers, at an unchanged latency.
    let flat = good_low > 0.0 && (good_high / good_low - 1.0).abs() <= 0.12 && a >= FEW;
    let policy =
        high.count(OutcomeClass::TooManyRequests) as f64 >= 0.8 * (b * high.scheduled as f64) && b >= FEW;
    if flat || policy {
        return TwoRates::ConstantGoodput { rps: good_high };
    }
    TwoRates::LoadDependent
}

/// What two rates come to, for the run.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoRatesSaid {
    /// The code of docs/diagnosis.md, where something is wrong.
    pub code: Option<crate::diagnosis::Code>,
    /// One sentence with both rates.
    pub sentence: String,
    /// No trial would say anything.
    pub stops: bool,
}

/// Says what the errors at two rates mean, given the share of errors that the objective allows (0..=1).
#[must_use]
pub fn say_two_rates(low: &Measurement, high: &Measurement, allowed: f64) -> TwoRatesSaid {
    use crate::diagnosis::Code;
    let at = |m: &Measurement| format!("{:.0} rps", m.offered.get());
    let errors = |m: &Measurement| format!("{:.0} %", m.error_response_ratio() * 100.0);
    let both = format!(
        "{} errors at {}, {} at {}",
        errors(low),
        at(low),
        errors(high),
        at(high)
    );
    let said = |code, sentence, stops| TwoRatesSaid {
        code,
        sentence,
        stops,
    };
    let own = generator_verdict(high, Some(low.service_ms.p50).filter(|ms| *ms > 0.0));
    if high.error_response_ratio() < FEW && !own.is_empty() {
        let sentence = format!(
            "generator-limited: {:.0} rps sent where {} were asked ({}); this is not the service's limit",
            high.achieved_rps(),
            at(high),
            own.join("; ")
        );
        return said(Some(Code::Generator), sentence, false);
    }
    match judge_two_rates(low, high) {
        TwoRates::Sound => said(
            None,
            format!("two rates: no errors at {} and {}", at(low), at(high)),
            false,
        ),
        TwoRates::LoadDependent => said(None, with_the_load(low, high), false),
        TwoRates::Unclear => said(None, format!("two rates: nothing can be said ({both})"), false),
        TwoRates::ConstantShare { share } => {
            let (code, what) = if mostly(high, &WRONG) {
                (Code::BrokenMix, "broken request mix")
            } else {
                (Code::FailingService, "failing service")
            };
            let figures = format!(
                "the same share fails at both rates ({both}; p95 of the errors {:.0} and {:.0} ms, goodput {:.0} and {:.0} rps), \
                 so it does not come with the load",
                low.error_latency_ms.p95,
                high.error_latency_ms.p95,
                low.goodput_rps(),
                high.goodput_rps()
            );
            said(Some(code), format!("{what}: {figures}"), share > allowed)
        }
        TwoRates::ConstantGoodput { rps } => said(
            Some(Code::RateLimiter),
            format!(
                "rate limiter: {rps:.0} rps good where {} are asked ({both}; refusals in {:.0} ms, answers in {:.0} ms); \
                 nothing tuned here moves it",
                at(high),
                high.error_latency_ms.p50,
                high.latency_ms.p50
            ),
            false,
        ),
    }
}

/// What is lost as the rate rises: also what is never answered, which is no error response.
fn with_the_load(low: &Measurement, high: &Measurement) -> String {
    format!(
        "two rates: what is lost comes with the load ({:.0} % at {:.0} rps, {:.0} % at {:.0} rps)",
        low.loss() * 100.0,
        low.offered.get(),
        high.loss() * 100.0,
        high.offered.get()
    )
}

/// Most of the error responses are of `classes`.
fn mostly(m: &Measurement, classes: &[OutcomeClass]) -> bool {
    let all: u64 = m
        .errors
        .iter()
        .filter(|(c, _)| !c.is_local())
        .map(|(_, n)| n)
        .sum();
    let of: u64 = classes.iter().map(|c| m.count(*c)).sum();
    2 * of >= all && all > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rps;
    use proptest::prelude::*;
    use std::time::Duration;

    fn request(weight: f64, path: &str) -> MixRequest {
        MixRequest {
            weight,
            method: "GET".to_owned(),
            path: path.to_owned(),
            expect: vec![200],
        }
    }

    fn row(request: usize, class: OutcomeClass, status: Option<u16>) -> SmokeRow {
        SmokeRow {
            request,
            class,
            status,
            bytes: 20,
            latency_ms: 3.0,
            first_bytes: "{\"detail\":\"token missing\"}".to_owned(),
        }
    }

    #[test]
    fn the_reports_mix_is_named_with_its_table() {
        // Three of four requests always fail: a missing token, a wrong path, a wrong body.
        let mix = [
            request(1.0, "/items"),
            request(1.0, "/me"),
            request(1.0, "/itemz/1"),
            request(1.0, "/orders"),
        ];
        let rows: Vec<SmokeRow> = (0..3)
            .flat_map(|_| {
                [
                    row(0, OutcomeClass::Good, Some(200)),
                    row(1, OutcomeClass::ClientError, Some(401)),
                    row(2, OutcomeClass::ClientError, Some(404)),
                    row(3, OutcomeClass::ClientError, Some(422)),
                ]
            })
            .collect();
        let smoke = judge_mix(&rows, &mix);
        assert_eq!(smoke.verdict, SmokeVerdict::Broken { share: 0.75 });
        assert!(!smoke.may_start());
        assert_eq!(smoke.code(), Some(crate::diagnosis::Code::BrokenMix));
        assert!(
            smoke.sentence.contains("401, 404, 422") && smoke.sentence.contains("75 %"),
            "{}",
            smoke.sentence
        );
        let table = smoke.table();
        assert_eq!(table.lines().count(), 5, "{table}");
        for part in ["GET /itemz/1", "404 x3", "0/3", "token missing"] {
            assert!(table.contains(part), "{part}\n{table}");
        }
    }

    #[test]
    fn a_limiter_and_a_dead_service_are_not_called_a_broken_mix() {
        let mix = [request(1.0, "/a")];
        let limited = judge_mix(&[row(0, OutcomeClass::TooManyRequests, Some(429))], &mix);
        assert_eq!(limited.verdict, SmokeVerdict::Limited { share: 1.0 });
        for (class, status) in [
            (OutcomeClass::ConnectRefused, None),
            (OutcomeClass::ServerError, Some(500)),
            (OutcomeClass::ClientTimeout, None),
        ] {
            let v = judge_mix(&[row(0, class, status)], &mix).verdict;
            assert_eq!(v, SmokeVerdict::Failing { share: 1.0 }, "{class:?}");
        }
        let unsampled = judge_mix(&[], &mix);
        assert_eq!(unsampled.verdict, SmokeVerdict::Failing { share: 1.0 });
    }

    #[test]
    fn one_hiccup_is_not_a_broken_request() {
        let mix = [request(1.0, "/a")];
        let mut rows = vec![row(0, OutcomeClass::Good, Some(200)); 4];
        rows.push(row(0, OutcomeClass::ClientError, Some(404)));
        assert_eq!(judge_mix(&rows, &mix).verdict, SmokeVerdict::Sound);
    }

    #[test]
    fn hostile_bodies_cannot_reach_the_terminal() {
        let mut bad = row(0, OutcomeClass::ClientError, Some(404));
        bad.first_bytes = "\u{1b}[2J\u{202e}evil\r\nnext\0".repeat(50);
        let table = judge_mix(&[bad], &[request(1.0, "/\u{1b}]0;x\u{7}")]).table();
        assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table:?}");
        assert!(!table.contains('\u{202e}'));
    }

    fn measured(rate: f64, good: u64, errors: &[(OutcomeClass, u64)]) -> Measurement {
        let mut m = Measurement::empty(Rps::new(rate).unwrap(), Duration::from_secs(10));
        m.scheduled = good + errors.iter().map(|(_, n)| n).sum::<u64>();
        m.sent = m.scheduled;
        m.good = good;
        m.errors = errors.iter().copied().collect();
        m
    }

    #[test]
    fn two_rates_tell_a_wrong_mix_from_a_limiter_and_from_load() {
        // The report: 72.9 % at 25 rps, 74.2 % at 200 rps, goodput 6.7 -> 52 rps.
        let low = measured(25.0, 68, &[(OutcomeClass::ClientError, 182)]);
        let high = measured(200.0, 516, &[(OutcomeClass::ClientError, 1_484)]);
        let TwoRates::ConstantShare { share } = judge_two_rates(&low, &high) else {
            panic!("{:?}", judge_two_rates(&low, &high));
        };
        assert!((share - 0.735).abs() < 0.01, "{share}");
        let said = say_two_rates(&low, &high, 0.05);
        assert!(
            said.stops && said.code == Some(crate::diagnosis::Code::BrokenMix),
            "{said:?}"
        );
        assert!(
            said.sentence.contains("73 % errors at 25 rps, 74 % at 200 rps"),
            "{}",
            said.sentence
        );
        assert!(!say_two_rates(&low, &high, 0.8).stops, "the objective allows it");
        // A limiter at 30 rps.
        let low = measured(40.0, 300, &[(OutcomeClass::TooManyRequests, 100)]);
        let high = measured(120.0, 301, &[(OutcomeClass::TooManyRequests, 899)]);
        assert!(
            matches!(judge_two_rates(&low, &high), TwoRates::ConstantGoodput { rps } if (rps - 30.1).abs() < 0.1)
        );
        let silent = measured(120.0, 301, &[(OutcomeClass::Unavailable, 899)]);
        let low503 = measured(40.0, 300, &[(OutcomeClass::Unavailable, 100)]);
        assert!(matches!(
            judge_two_rates(&low503, &silent),
            TwoRates::ConstantGoodput { .. }
        ));
        let said = say_two_rates(&low503, &silent, 0.05);
        assert!(
            !said.stops && said.code == Some(crate::diagnosis::Code::RateLimiter),
            "{said:?}"
        );
        // A full pool.
        let low = measured(30.0, 300, &[]);
        let high = measured(90.0, 420, &[(OutcomeClass::PoolTimeout, 480)]);
        assert_eq!(judge_two_rates(&low, &high), TwoRates::LoadDependent);
        // Requests that are not answered are no error responses: the sentence must not say 0 %.
        let mut queue = measured(90.0, 600, &[]);
        queue.scheduled = 900;
        queue.in_flight_end = 300;
        let said = say_two_rates(&low, &queue, 0.05).sentence;
        assert!(said.contains("0 % at 30 rps, 33 % at 90 rps"), "{said}");
        assert_eq!(judge_two_rates(&low, &low), TwoRates::Unclear);
        assert_eq!(judge_two_rates(&low, &measured(90.0, 900, &[])), TwoRates::Sound);
    }

    proptest! {
        #[test]
        fn no_table_breaks_it(
            rows in prop::collection::vec((0usize..6, 0usize..19, proptest::option::of(0u16..1000), -1.0f64..1e9, ".{0,80}"), 0..60),
            weights in prop::collection::vec(-1.0f64..10.0, 0..5),
        ) {
            let mix: Vec<MixRequest> = weights.iter().map(|w| request(*w, "/x")).collect();
            let rows: Vec<SmokeRow> = rows.into_iter().map(|(request, class, status, latency_ms, first_bytes)| SmokeRow {
                request, class: OutcomeClass::ALL[class], status, bytes: 1, latency_ms, first_bytes,
            }).collect();
            let smoke = judge_mix(&rows, &mix);
            prop_assert_eq!(smoke.lines.len(), mix.len());
            prop_assert_eq!(smoke.table().lines().count(), mix.len() + 1);
            if smoke.may_start() {
                // Only weightless requests may be bad in a mix that is called sound.
                prop_assert!(smoke.lines.iter().all(|l| !l.is_bad() || l.request.weight <= 0.0));
            }
        }
    }
}
