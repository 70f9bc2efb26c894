//! Rounds that compare nothing, because one side could not be offered its load: the generator, its clock or an agent was
//! the limit. Neither a failure of the config nor a rate of it, so that it must not read as "worse". Pure.

use super::FinalResult;

/// What a round says of a finalist beside the baseline.
pub(super) enum Pair<'a> {
    /// One of them was not measured in this round.
    Missing,
    /// One side could not be offered its load: whose, and why.
    Void(Side, &'a str),
    /// The finalist's result and the baseline's.
    Told(&'a FinalResult, &'a FinalResult),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Candidate,
    Today,
}

impl<'a> Pair<'a> {
    pub(super) fn of(finalist: &'a FinalResult, baseline: &'a FinalResult) -> Self {
        // A finalist that failed has failed, whatever the other side did.
        let has_failed = finalist.rate.is_none() && finalist.void.is_none();
        if let Some(why) = says_nothing(finalist, baseline) {
            Self::Void(Side::Candidate, why)
        } else if let Some(why) = says_nothing(baseline, finalist).filter(|_| !has_failed) {
            Self::Void(Side::Today, why)
        } else {
            Self::Told(finalist, baseline)
        }
    }
}

/// The load of `r` could not be offered, and what was offered instead is less than what `other` carries: nothing can be
/// said of the two, not even which is faster. Where the generator was the limit of both, the lower of its two rates says
/// nothing either.
fn says_nothing<'a>(r: &'a FinalResult, other: &FinalResult) -> Option<&'a str> {
    let why = r.void.as_deref()?;
    let is_short = r
        .rate
        .is_none_or(|x| other.rate.is_some_and(|y| y.get() > x.get()));
    is_short.then_some(why)
}

impl Side {
    /// How many of `rounds` compare nothing for this side's sake, for people.
    pub(super) fn void_words(self, void: usize, rounds: usize, why: &str) -> String {
        let who = match self {
            Self::Candidate => "the candidate",
            Self::Today => "today's configuration",
        };
        let of = match rounds {
            1 => "the only round".to_owned(),
            _ => format!("{void} of {rounds} rounds"),
        };
        format!("{who} could not be measured in {of}: {why}")
    }
}
