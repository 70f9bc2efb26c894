//! Renderings of a study: CSV, recommendation files, HTML. Returns bytes; never measures, never writes.
//!
//! [`summarise`] reads the journal's trials once into a [`Summary`]; each rendering is a function of it.
//! The decision itself is made in `finals`: nothing here weighs one config against another.

mod compare;
mod export;
mod headline;
mod html;
mod importance;
mod recommend;
mod summary;
mod tables;
mod text;
mod warnings;

use serde::{Deserialize, Serialize};

pub use compare::{Comparison, compare};
pub use export::{ExportError, Format, export, for_instances, summary_json};
pub use headline::objective_words;
pub use html::{Page, main_html, page_around, picture, report_html};
pub use importance::{Share, importance};
pub use recommend::{compose_override, environment_toml, recommended_env, recommended_toml};
pub use summary::{Notes, Row, Sample, Summary, summarise};
pub use tables::{probes_csv, trials_csv};
pub use text::{clean, csv_text};
pub use warnings::warnings;

use crate::space::Config;

/// What the finals found, in the terms of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalVerdict {
    /// The recommended config beats today's beyond the noise.
    Win,
    /// Nothing beats today's config: keep it.
    NoGain,
    /// What the search found is worse when measured again: keep today's.
    Worse,
    /// The finals were cut short, or too noisy to tell.
    Undecided,
}

impl FinalVerdict {
    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Win => "win",
            Self::NoGain => "no_gain",
            Self::Worse => "worse",
            Self::Undecided => "undecided",
        }
    }
}

/// The decision of the finals, as it is journalled (`store::kinds::DECISION`) and printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalDecision {
    /// What was found.
    pub verdict: FinalVerdict,
    /// The config to run: the winner, or today's where nothing won.
    pub config: Config,
    /// The config that `gain` and `winner_rps` speak of; None where none was compared, and in the journals of older
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Config>,
    /// The candidate reached the highest rate that could be offered: its rate and the gain are lower bounds, and the upper
    /// end of `gain` says nothing.
    #[serde(default)]
    pub at_least: bool,
    /// Gain of the best candidate over the baseline as a fraction (0.43 is +43 %): lower end, point, upper
    /// end of the 95 % interval. Where nothing won it is the best candidate's, not the recommendation's.
    pub gain: [f64; 3],
    /// Rounds in which both were measured.
    pub pairs: u32,
    /// The smallest gain that these rounds could have shown, as a fraction.
    pub minimum_detectable_gain: f64,
    /// Today's sustainable rate in the finals, requests per second.
    pub baseline_rps: f64,
    /// The best candidate's, requests per second.
    pub winner_rps: f64,
    /// Which side could not be measured in how many of the rounds, and why: these rounds compare nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// Remarks of the decision, for people.
    #[serde(default)]
    pub words: String,
}

impl FinalDecision {
    /// Whether both were measured often enough for a gain to be known; the fields of the gain are zero otherwise.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.pairs >= 2 || self.gain.iter().any(|g| g.abs() > 0.0)
    }
}

/// The key of the study's facts under which the space file's path is kept, as it was typed.
pub const SPACE_FILE: &str = "space_file";
/// The same for the study's folder.
pub const STUDY_FOLDER: &str = "study_folder";
/// The same for the host of a worker: its study is shared.
pub const WORKER: &str = "worker";

/// A rendering that could not be made: a bug, with what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not render {what}: {why}")]
pub struct RenderError {
    what: &'static str,
    why: String,
}

impl RenderError {
    fn new(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

/// A file of the results folder: its bytes, or None where it must not be there (an old recommendation that
/// no longer holds).
pub type File = (&'static str, Option<Vec<u8>>);

/// Every derived file of a study, in the order of their importance.
pub fn files(summary: &Summary<'_>) -> Result<Vec<File>, RenderError> {
    let toml = summary
        .recommended()
        .is_some()
        .then(|| recommended_toml(summary))
        .transpose()?;
    Ok(vec![
        ("trials.csv", Some(trials_csv(summary)?)),
        ("probes.csv", Some(probes_csv(summary)?)),
        ("environment.toml", Some(environment_toml(summary)?)),
        ("recommended.toml", toml),
        (
            "recommended.env",
            summary.is_win().then(|| recommended_env(summary)),
        ),
        (
            "docker-compose.recommended.yml",
            summary.is_win().then(|| compose_override(summary)).flatten(),
        ),
        ("report.html", Some(report_html(summary, Page::File))),
    ])
}
