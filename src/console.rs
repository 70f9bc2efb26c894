//! What people see on the terminal: a bar where there is one, a line a trial where there is none.
//!
//! It only consumes events. Progress goes to stderr, results to stdout (main prints them).

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{Event, Sink, outcome_words};
use crate::slo::Verdict;
use crate::trial::{Trial, TrialPhase};
use crate::units::show_duration;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Lines and the bar.
    Normal,
}

/// The terminal's consumer of events.
#[derive(Debug)]
pub struct Console {
    verbosity: Verbosity,
    bar: ProgressBar,
    color: bool,
    best: Option<f64>,
    done: usize,
    trials: Option<u32>,
}

impl Console {
    /// A console on stderr; a bar only on a terminal.
    #[must_use]
    pub fn new(verbosity: Verbosity) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if !terminal || verbosity == Verbosity::Quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            verbosity,
            bar,
            color,
            best: None,
            done: 0,
            trials: None,
        }
    }

    fn line(&self, text: &str) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        self.always(text);
    }

    /// A closed stderr is no reason to lose a night: a failed write is ignored.
    fn always(&self, text: &str) {
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn status(&self, now: &str, left: Option<Duration>) {
        let of = self.trials.map_or(String::new(), |n| format!(" of {n}"));
        let best = self.best.map_or(String::new(), |b| format!(" · best {b:.1} rps"));
        let left = left.map_or(String::new(), |d| format!(" · {} left", show_duration(d)));
        self.bar
            .set_message(format!("{} trials{of} done{best}{left} · {now}", self.done));
        self.bar.tick();
    }

    fn trial_line(&mut self, t: &Trial, best_rps: Option<f64>) {
        self.done += usize::from(t.phase != TrialPhase::Final);
        let improved = t.phase != TrialPhase::Final
            && best_rps.is_some()
            && best_rps != self.best
            && self.best.is_some();
        self.best = best_rps;
        let round = t.round.map_or(String::new(), |r| format!(" round {r}"));
        let words = outcome_words(t.outcome.as_ref());
        let mark = if improved {
            self.paint("32", "  best so far")
        } else {
            String::new()
        };
        let binds = t.binding.as_ref().map_or(String::new(), |b| format!("  [{b}]"));
        self.line(&format!(
            "trial {:>3}  {:<8}{round}  {}  ->  {}{binds}  ({}){mark}",
            t.number,
            t.phase.name(),
            t.config,
            self.paint("1", &words),
            show_duration(Duration::from_secs_f64(t.seconds.clamp(0.0, 1e7))),
        ));
    }
}

impl Sink for Console {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started {
                name,
                folder,
                resumed,
                trials,
                left,
            } => {
                self.trials = *trials;
                let again = if *resumed > 0 {
                    format!(", resumed after {resumed} trials")
                } else {
                    String::new()
                };
                let time = left.map_or(String::new(), |d| format!(", {} left", show_duration(d)));
                self.line(&format!("study {name} in {folder}{again}{time}"));
            }
            Event::Note(text) => self.line(text),
            Event::Warning(text) => self.always(&format!("{} {text}", self.paint("33", "warning:"))),
            Event::TrialStarted {
                number,
                phase,
                config,
                left,
            } => {
                self.status(
                    &format!("trial {number} ({}) {config}: deploying", phase.name()),
                    *left,
                );
            }
            Event::Deployed { trial, ready_s } => {
                self.status(
                    &format!("trial {trial}: ready after {ready_s:.1} s, warming up"),
                    None,
                );
            }
            Event::ProbeFinished { trial, probe } => {
                let verdict = match probe.verdict {
                    Verdict::Meets => "carried",
                    Verdict::Violates => "too much",
                    Verdict::Void => "void",
                };
                self.status(
                    &format!("trial {trial}: {} {verdict}", probe.measurement.offered),
                    None,
                );
            }
            Event::TrialFinished { trial, best_rps } => self.trial_line(trial, *best_rps),
            Event::SearchEnded(why) => self.line(&format!("search over: {why}")),
            Event::FinalsStarted(list) if list.is_empty() => {}
            Event::FinalsStarted(list) => self.line(&format!(
                "finals: today's configuration against {}, redeployed in turns",
                list.iter()
                    .map(|c| format!("[{c}]"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            Event::Finished { .. } => self.bar.finish_and_clear(),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
