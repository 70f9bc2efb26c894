//! Evidence -> the binding constraint of a trial at its limit: what would have to change for the service to carry more.
//!
//! Pure: the probes of one trial with the figures sampled beside them go in, a numbered code with its figures, a
//! confidence and a runner-up comes out. `docs/diagnosis.md` documents every code. The order of thought:
//!
//! 1. each cause looks at the evidence by itself and gives a strength with the figures for it (`causes`);
//! 2. causes that are only consequences of a stronger one are discounted: a throttled service *also* exhausts its pool;
//! 3. what is left is ranked. High confidence takes a strong cause, no second one, and no blind spot.
//!
//! Not here: sampling (`telemetry`), the smoke test before the trials (`smoke`), noise (`noise`).

mod causes;
mod code;
mod evidence;
mod knob;
mod live;
mod unread;

pub use code::Code;
pub use evidence::{Evidence, Facts};
pub use knob::{Effect, Knob, KnobKind, Side, compare_knob, is_beyond_tuning};
pub use live::{
    Extremes, KnobFinding, binds_at, extremes, knob_findings, nothing_to_move, study_noise, without_frozen,
};

pub use unread::{is_same_doubt, not_read, not_read_now};

use serde::{Deserialize, Serialize};

use causes::Finding;
use evidence::Reading;

/// How sure the diagnosis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A guess: move the knob before believing it.
    Low,
    /// The evidence points there; something else is possible.
    Medium,
    /// The evidence is unambiguous.
    High,
}

impl Confidence {
    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What binds, and why that is believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The constraint.
    pub code: Code,
    /// One sentence for people: what binds, the figures, what will not help.
    pub sentence: String,
    /// How sure.
    pub confidence: Confidence,
    /// The figures that support it, strongest first.
    pub figures: Vec<String>,
    /// The next best explanation, where there is one.
    pub runner_up: Option<Code>,
    /// What to move next, in words; None where nothing tuned here helps.
    pub next_knob: Option<String>,
}

/// A cause must be at least this strong to be named at all.
const NAMED: f64 = 0.3;
/// From here on a cause stands by itself.
const STANDS: f64 = 0.6;
/// For high confidence: the first at least this strong, the second at most `RIVAL`.
const SURE: f64 = 0.8;
const RIVAL: f64 = 0.45;
/// Two causes this close cannot be told apart.
const CLOSE: f64 = 0.15;

/// What binds in this trial. Never panics; without evidence the answer is [`Code::Unknown`], low.
#[must_use]
pub fn diagnose(evidence: &Evidence<'_>) -> Diagnosis {
    let reading = Reading::of(evidence);
    let mut findings = causes::all(&reading);
    discount_consequences(&mut findings);
    findings.retain(|f| f.strength >= NAMED);
    findings.sort_by(|a, b| b.strength.total_cmp(&a.strength).then(a.code.cmp(&b.code)));
    match findings.first() {
        Some(first) => named(first, &findings, &reading),
        None if reading.at_limit.is_none() && !evidence.probes.is_empty() && reading.f.failure.is_none() => {
            not_reached(evidence)
        }
        None => unknown(&reading),
    }
}

/// `(consequence, cause)`: where the cause stands, the consequence is expected and proves nothing.
const EXPLAINED_BY: &[(Code, &[Code])] = &[
    (
        Code::PoolWait,
        &[
            Code::CpuQuota,
            Code::OneCore,
            Code::DatabaseLocks,
            Code::PoolTooLarge,
            Code::Database,
            Code::MaxConnections,
            Code::HostCpu,
            Code::Memory,
        ],
    ),
    (
        Code::HostCpu,
        &[Code::PoolTooLarge, Code::Database, Code::OneCore, Code::CpuQuota],
    ),
    (Code::Database, &[Code::PoolTooLarge, Code::DatabaseLocks]),
    (Code::PoolTooLarge, &[Code::DatabaseLocks]),
    (Code::RedisPool, &[Code::CpuQuota, Code::OneCore, Code::HostCpu]),
    (
        Code::AcceptQueue,
        &[
            Code::CpuQuota,
            Code::OneCore,
            Code::Memory,
            Code::HostCpu,
            Code::FailingService,
        ],
    ),
    (
        Code::FailingService,
        &[Code::MaxConnections, Code::Memory, Code::PoolWait],
    ),
];

fn discount_consequences(findings: &mut [Finding]) {
    let strengths: Vec<(Code, f64)> = findings.iter().map(|f| (f.code, f.strength)).collect();
    let of = |code: Code| {
        strengths
            .iter()
            .find(|(c, _)| *c == code)
            .map_or(0.0, |(_, s)| *s)
    };
    // A mix that always fails and a generator that could not drive say that nothing else was measured.
    let nothing_measured = of(Code::BrokenMix).max(of(Code::Generator));
    for f in findings.iter_mut() {
        let causes = EXPLAINED_BY
            .iter()
            .find(|(c, _)| *c == f.code)
            .map_or(&[][..], |(_, by)| by);
        let mut by = causes.iter().map(|c| of(*c)).fold(0.0, f64::max);
        if !matches!(f.code, Code::BrokenMix | Code::Generator) && !f.witnessed {
            by = by.max(nothing_measured);
        }
        if by >= STANDS {
            f.strength *= 1.0 - 0.85 * by;
        }
    }
}

fn named(first: &Finding, ranked: &[Finding], reading: &Reading<'_>) -> Diagnosis {
    let second = ranked.get(1);
    if let Some(second) = second
        && second.strength >= STANDS
        && first.strength - second.strength <= CLOSE
        && (second.witnessed || !first.witnessed)
    {
        return several(first, second, reading);
    }
    let rival = second.map_or(0.0, |s| s.strength);
    // What was seen to happen, a kill, is not made doubtful by what was only inferred: workers that start again fill a CPU.
    let stands_apart =
        first.strength - rival >= 0.1 || (first.witnessed && second.is_none_or(|s| !s.witnessed));
    let confidence = if first.strength >= SURE && rival <= RIVAL && !first.blind {
        Confidence::High
    } else if first.strength >= 0.5 && stands_apart {
        Confidence::Medium
    } else {
        Confidence::Low
    };
    let next_knob = knob::next(first.code, reading.f);
    Diagnosis {
        code: first.code,
        sentence: sentence(first.code, &first.figures, confidence, next_knob.as_deref()),
        confidence,
        figures: first.figures.clone(),
        runner_up: second.map(|s| s.code).or_else(|| consequence_of(first, reading)),
        next_knob,
    }
}

/// The strongest thing that was discounted as a consequence, so that it is not passed over in silence.
fn consequence_of(first: &Finding, reading: &Reading<'_>) -> Option<Code> {
    causes::all(reading)
        .into_iter()
        .filter(|f| f.code != first.code && f.strength >= STANDS)
        .max_by(|a, b| a.strength.total_cmp(&b.strength))
        .map(|f| f.code)
}

fn several(first: &Finding, second: &Finding, reading: &Reading<'_>) -> Diagnosis {
    let figures: Vec<String> = first.figures.iter().chain(&second.figures).cloned().collect();
    let steps: Vec<String> = [first.code, second.code]
        .iter()
        .filter_map(|c| knob::next(*c, reading.f))
        .collect();
    Diagnosis {
        code: Code::Several,
        sentence: format!(
            "several constraints bind at once, {} and {}: {}; moving one alone will not help",
            first.code.title(),
            second.code.title(),
            figures.join(", ")
        ),
        confidence: Confidence::Medium,
        figures,
        runner_up: Some(first.code),
        next_knob: (!steps.is_empty()).then(|| format!("together: {}", steps.join(" and "))),
    }
}

fn not_reached(evidence: &Evidence<'_>) -> Diagnosis {
    let top = evidence
        .probes
        .iter()
        .map(|p| p.measurement.offered.get())
        .fold(0.0, f64::max);
    Diagnosis {
        code: Code::NotReached,
        sentence: format!("nothing bound up to {top:.0} rps: the limit was not reached"),
        confidence: if evidence.probes.is_empty() {
            Confidence::Low
        } else {
            Confidence::High
        },
        figures: vec![format!("every probe up to {top:.0} rps met the objective")],
        runner_up: None,
        next_knob: Some("raise [capacity] max".to_owned()),
    }
}

fn unknown(reading: &Reading<'_>) -> Diagnosis {
    let seen = reading.describe();
    Diagnosis {
        code: Code::Unknown,
        sentence: format!("what binds is not known: {seen}"),
        confidence: Confidence::Low,
        figures: vec![seen],
        runner_up: None,
        next_knob: Some("configure [telemetry] postgres and pool, and look at the service's log".to_owned()),
    }
}

fn sentence(code: Code, figures: &[String], confidence: Confidence, next: Option<&str>) -> String {
    let figures = if figures.is_empty() {
        "no figures".to_owned()
    } else {
        figures.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
    };
    let verb = match (code.is_of_the_test(), confidence) {
        (true, Confidence::High) => "",
        (true, _) => " probably",
        (false, Confidence::High) => " binds",
        (false, Confidence::Medium) => " probably binds",
        (false, Confidence::Low) => " may bind",
    };
    let next = next.map(|n| format!("; next: {n}")).unwrap_or_default();
    format!("{}{verb}: {figures}; {}{next}", code.title(), code.futile())
}

/// What a step of the suspected knob alone does to a diagnosis: goodput up confirms it, no change refutes it.
#[must_use]
pub fn confirmed_by(mut diagnosis: Diagnosis, knob: &str, effect: &Effect) -> Diagnosis {
    match effect {
        Effect::Live { ratio } if *ratio > 1.0 => {
            diagnosis.confidence = Confidence::High;
            diagnosis
                .figures
                .push(format!("{knob} alone, one step: {:+.0} %", (ratio - 1.0) * 100.0));
        }
        Effect::Live { ratio } => {
            diagnosis.confidence = Confidence::Low;
            diagnosis.figures.push(format!(
                "but {knob} alone, one step: {:+.0} %",
                (ratio - 1.0) * 100.0
            ));
        }
        Effect::None { detectable, .. } => {
            diagnosis.confidence = Confidence::Low;
            diagnosis.figures.push(format!(
                "but {knob} alone, one step, changed nothing (a gain of {:.0} % would have shown)",
                detectable * 100.0
            ));
        }
        Effect::Unclear { .. } => {}
    }
    diagnosis
}

#[cfg(test)]
mod tests;
