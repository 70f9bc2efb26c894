//! What the run says beside its rates: how much the same configuration differs from itself, which knobs do nothing, how
//! the machine drifts, and what binds at the recommended configuration. Judged in `diagnosis` and `noise`; here it
//! is said and journalled.

use super::Study;
use crate::diagnosis::{self, Code, Effect};
use crate::event::Event;
use crate::exit::ExitError;
use crate::finals::Decision;
use crate::noise::{Anchor, Drift};
use crate::store::{Journal, kinds};
use crate::trial::{Trial, TrialPhase};

/// The kind under which the noise floor is journalled.
const NOISE: &str = "noise";
/// The kind under which the judgement of the knobs is journalled.
const KNOBS: &str = "knobs";

impl Study<'_> {
    /// After each trial of the search: the noise floor after a repeat of the baseline, knobs without effect, drift.
    pub(crate) async fn say_what_was_learned(&mut self) {
        let phase = self.trials.last().map(|t| t.phase);
        if phase == Some(TrialPhase::Anchor) {
            self.noise_floor().await;
            self.drift().await;
        }
        for said in diagnosis::not_read(&self.spec, &self.trials) {
            if !self.warned.iter().any(|w| diagnosis::is_same_doubt(w, &said)) {
                self.warn_once(vec![said]).await;
            }
        }
        for f in diagnosis::knob_findings(&self.spec.space, &self.trials) {
            if f.frozen {
                let frozen = format!(
                    "{}; {} stays as it is today for the rest of the study",
                    f.sentence, f.name
                );
                self.warn_once(vec![frozen]).await;
            } else if phase == Some(TrialPhase::Knob)
                && matches!(f.effect, Effect::Live { .. } | Effect::None { .. })
            {
                self.note_once(KNOBS, f.sentence).await;
            }
        }
    }

    /// A note on the terminal and in the journal, once.
    async fn note_once(&mut self, kind: &str, text: String) {
        if !self.warned.insert(text.clone()) {
            return;
        }
        self.sink.event(&Event::Note(text.clone()));
        if let Err(e) = self.store.log(kind, &serde_json::Value::String(text)).await {
            tracing::debug!("a note was not journalled: {e}");
        }
    }

    async fn noise_floor(&mut self) {
        let noise = diagnosis::study_noise(&self.trials);
        if noise.repeats() == 0 {
            return; // no two rates of one configuration yet
        }
        let pairs = usize::try_from(self.spec.confirm.pairs).unwrap_or(1).max(1);
        let text = format!(
            "noise floor: today's configuration again; one measurement varies by about {:.1} % ({} {}), so {pairs} pairs find a gain \
             of {:.0} % or more",
            noise.cv() * 100.0,
            noise.repeats(),
            if noise.repeats() == 1 { "repeat" } else { "repeats" },
            noise.detectable(pairs, pairs) * 100.0,
        );
        self.note_once(NOISE, text).await;
    }

    async fn drift(&mut self) {
        let noise = diagnosis::study_noise(&self.trials);
        let anchors = anchors(&self.trials);
        let Some(d) = Drift::of(&anchors, &noise).filter(|d| d.significant) else {
            return;
        };
        self.warn_once(vec![format!(
            "drift: today's configuration, measured {} times, changes by {:+.1} % an hour (95 % interval {:+.1} to {:+.1} %); the finals \
             compare within the same hour, so that they are not affected",
            anchors.len(),
            d.per_hour * 100.0,
            d.interval[0] * 100.0,
            d.interval[1] * 100.0
        )])
        .await;
    }

    /// One sentence on what binds at the configuration that is recommended (today's where nothing won), with what was
    /// found about the knobs: for the summary, recommended.toml and the report.
    pub(crate) async fn say_what_binds(&mut self, decision: Option<&Decision>) -> Result<(), ExitError> {
        let config = decision.map_or_else(|| self.spec.space.baseline(), |d| d.config.clone());
        let Some(found) = diagnosis::binds_at(&self.spec, &self.trials, &config) else {
            // What was said of an earlier recommendation must not stand beside this one.
            let none = "no single limit was found for the recommended configuration";
            self.store.log(kinds::BINDS, &none.into()).await?;
            return Ok(());
        };
        let frozen = diagnosis::knob_findings(&self.spec.space, &self.trials)
            .into_iter()
            .filter(|f| f.frozen)
            .map(|f| f.sentence);
        let frozen: Vec<String> = frozen
            .chain(diagnosis::not_read(&self.spec, &self.trials))
            .collect();
        let mut text = format!(
            "{} [{} {}, {}]",
            found.sentence,
            found.code.id(),
            found.code.name(),
            found.confidence.name()
        );
        if !frozen.is_empty() {
            text = format!("{text}; {}", frozen.join("; "));
        }
        self.store
            .log(kinds::BINDS, &serde_json::Value::String(text))
            .await?;
        if found.code == Code::Generator {
            self.warn_once(vec![found.sentence]).await;
        }
        Ok(())
    }
}

/// Today's configuration over the hours of work.
fn anchors(trials: &[Trial]) -> Vec<Anchor> {
    let mut hours = 0.0;
    let mut found = Vec::new();
    for t in trials {
        hours += t.seconds.max(0.0) / 3600.0;
        if !matches!(t.phase, TrialPhase::Baseline | TrialPhase::Anchor) {
            continue;
        }
        let rate = t
            .capacity()
            .filter(|c| c.verdict == crate::capacity::CapacityVerdict::Sustainable)
            .and_then(|c| c.sustainable_rps);
        found.extend(rate.map(|rps| Anchor { hours, rps }));
    }
    found
}
