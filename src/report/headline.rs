//! The sentences that every rendering shares: the verdict in one sentence, what changes, the objective.
//!
//! They say what was decided and no more: a bound is called one, and what was not compared is not given a figure.

use super::text::{clean, percent, rate, signed_percent};
use super::{FinalDecision, FinalVerdict, Summary};
use crate::slo::Slo;
use crate::space::Config;
use crate::units::show_duration;

/// Longest part of what binds that the headline takes in, characters.
const BINDS: usize = 240;
/// The same of what could not be measured.
const VOID: usize = 400;

impl Summary<'_> {
    /// The verdict in one sentence.
    #[must_use]
    pub fn headline(&self) -> String {
        let Some(d) = &self.decision else {
            return match self.ended() {
                Some(why) => self.ended_headline(why),
                None => self.open_headline(),
            };
        };
        if let Some(rate) = self.meta.about.required_rps.filter(|_| !d.words.is_empty()) {
            // The dual question has no gain in rate: the decision's own words say what was proven.
            let change = match d.verdict {
                FinalVerdict::Win => format!(": {}", self.changes(&d.config)),
                _ => String::new(),
            };
            return format!(
                "The cheapest configuration for {} rps; {}{change}.{}",
                super::text::rate(rate),
                d.words,
                self.next_step(d)
            );
        }
        let found = if d.is_compared() {
            let bound = if d.at_least { "at least " } else { "" };
            format!(
                "the best candidate differs by {bound}{} % ({})",
                signed_percent(d.gain[1]),
                evidence(d)
            )
        } else {
            match &d.void {
                Some(void) => clean(void, VOID),
                None => "too few rounds of the finals were finished to compare anything".to_owned(),
            }
        };
        match d.verdict {
            FinalVerdict::Win => self.win_headline(d),
            FinalVerdict::NoGain if d.at_least => format!(
                "No gain could be shown: keep today's configuration; {found}; the candidate reached the highest rate that could be \
                 offered."
            ),
            // The whole interval is above zero and yet it did not win: the finals never recommend what is unstable.
            FinalVerdict::NoGain if d.is_compared() && d.gain[0] > 0.0 => format!(
                "No gain: keep today's configuration; {found}, but it failed once or its own measurements lie more than 30 % apart: \
                 what is unstable is never recommended."
            ),
            FinalVerdict::NoGain => format!(
                "No gain: keep today's configuration; {found}; a gain of {} % would have been seen.",
                percent(d.minimum_detectable_gain)
            ),
            FinalVerdict::Worse => format!("Worse when measured again: keep today's configuration; {found}."),
            FinalVerdict::Undecided => {
                format!(
                    "Undecided: keep today's configuration; {found}.{}",
                    self.next_step(d)
                )
            }
        }
    }

    /// What follows an open decision.
    fn next_step(&self, d: &FinalDecision) -> String {
        match self.confirm_command() {
            Some(command) if d.verdict == FinalVerdict::Undecided => {
                let quiet = if d.void.is_some() {
                    ", once that is mended"
                } else {
                    ""
                };
                format!(" To decide it{quiet}: {command}")
            }
            _ => String::new(),
        }
    }

    /// The command that measures the recommendation again, as it is typed for this study, with `FILE` and `DIR` where it is
    /// not known from where it ran; None where it can't be given: for the demo, and for studies that workers share.
    #[must_use]
    pub fn confirm_command(&self) -> Option<String> {
        let known = &self.notes.environment;
        if self.meta.about.kind == "demo" || known.contains_key(super::WORKER) {
            return None;
        }
        let of = |key: &str, name: &str| known.get(key).map_or_else(|| name.to_owned(), |p| shell_word(p));
        Some(format!(
            "autotune confirm --space {} --study {}",
            of(super::SPACE_FILE, "FILE"),
            of(super::STUDY_FOLDER, "DIR")
        ))
    }

    fn win_headline(&self, d: &FinalDecision) -> String {
        let changes = self.changes(&d.config);
        let bound = if d.at_least { "at least " } else { "" };
        if !d.is_compared() {
            return format!(
                "Today's configuration carried nothing when it was measured again, the recommended one {bound}{} rps: {changes}.",
                rate(d.winner_rps)
            );
        }
        format!(
            "{}{} % over today's configuration ({}): {changes}.",
            if d.at_least { "At least " } else { "" },
            signed_percent(d.gain[1]),
            evidence(d)
        )
    }

    /// Nothing was decided yet.
    fn open_headline(&self) -> String {
        match self.best_row().and_then(|i| self.rows.get(i)) {
            Some(r) => format!(
                "Not confirmed yet: the best trial so far carried {}{} rps; nothing is recommended on a single measurement.",
                if r.verdict == "sustainable" {
                    ""
                } else {
                    "at least "
                },
                rate(r.rate_rps.unwrap_or(0.0))
            ),
            None => "Nothing measured yet.".to_owned(),
        }
    }

    /// The study ended without finals: why, and what binds.
    fn ended_headline(&self, why: &str) -> String {
        let why = clean(why, 400);
        // What binds has its own place with all its figures: here its first part alone, and not what `why` says already.
        let subject = |t: &str| t.split(':').next().unwrap_or_default().to_owned();
        let binds = self
            .notes
            .binds
            .as_deref()
            .and_then(|b| b.split("; ").next()?.split(" [D").next())
            .filter(|b| subject(b) != subject(&why))
            .map_or(String::new(), |b| format!("; {}", clean(b, BINDS)));
        format!("Keep today's configuration: {why}{binds}.")
    }

    /// "raise pool_size 5 -> 24, keep cpus 1".
    #[must_use]
    pub fn changes(&self, to: &Config) -> String {
        let mut changed = Vec::new();
        let mut kept = Vec::new();
        for p in &self.space.parameters {
            let name = clean(&p.name, 80);
            let show = |v: &crate::space::Value| clean(&v.to_string(), 80);
            match (self.baseline.get(&p.name), to.get(&p.name)) {
                (Some(a), Some(b)) if a == b || a.as_f64().is_some_and(|x| Some(x) == b.as_f64()) => {
                    kept.push(format!("{name} {}", show(b)));
                }
                (Some(a), Some(b)) => {
                    let verb = match (a.as_f64(), b.as_f64()) {
                        (Some(x), Some(y)) if y > x => "raise",
                        (Some(_), Some(_)) => "lower",
                        _ => "set",
                    };
                    changed.push(format!("{verb} {name} {} → {}", show(a), show(b)));
                }
                (None, Some(b)) => changed.push(format!("set {name} {}", show(b))),
                (Some(_), None) => changed.push(format!("{name} no longer applies")),
                (None, None) => {}
            }
        }
        if !kept.is_empty() {
            changed.push(format!("keep {}", kept.join(", ")));
        }
        changed.join(", ")
    }
}

/// The objective as people read it: "at most 5 % errors, p99 within 250 ms".
#[must_use]
pub fn objective_words(slo: &Slo) -> String {
    let mut words = format!("at most {} % errors", percent(slo.errors.get()));
    for (name, limit) in [("p95", slo.p95), ("p99", slo.p99), ("mean", slo.mean)] {
        if let Some(d) = limit {
            words.push_str(&format!(", {name} within {}", show_duration(d)));
        }
    }
    words
}

/// A path as a shell takes it.
fn shell_word(path: &str) -> String {
    let path = clean(path, 300);
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:,=".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        path
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

/// "95 % interval +128 to +157 %, 8 pairs".
fn evidence(d: &FinalDecision) -> String {
    let pairs = format!("{} {}", d.pairs, if d.pairs == 1 { "pair" } else { "pairs" });
    let (lo, hi) = (signed_percent(d.gain[0]), signed_percent(d.gain[2]));
    if d.at_least {
        format!("95 % interval from {lo} %, open above, {pairs}")
    } else {
        format!("95 % interval {lo} to {hi} %, {pairs}")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_is_one_word_of_a_shell() {
        let word = super::shell_word;
        assert_eq!(word("experiments/pool.toml"), "experiments/pool.toml");
        assert_eq!(word("my study/it's"), r"'my study/it'\''s'");
    }
}
