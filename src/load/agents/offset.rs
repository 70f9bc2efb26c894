//! What another machine's clock shows, from round trips. Pure.
//!
//! A clock is asked between two looks at the own one; its answer belongs to some moment between them (Cristian 1989). The shortest
//! of several round trips says most: half of it bounds the error, whatever the path there and back.

/// One question and its answer, nanoseconds; the first two on the own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The other clock.
    pub(super) shown: u64,
}

impl Exchange {
    /// The round trip.
    pub(super) fn took(&self) -> u64 {
        self.received.saturating_sub(self.sent)
    }
}

/// The other clock minus the own one, nanoseconds, and how far off that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) ns: i64,
    pub(super) error_ns: u64,
}

impl Offset {
    /// From the exchange with the shortest round trip.
    pub(super) fn of(exchanges: &[Exchange]) -> Option<Self> {
        let best = exchanges.iter().min_by_key(|e| e.took())?;
        let middle = best.sent + best.took() / 2;
        let ns = i128::from(best.shown) - i128::from(middle);
        Some(Self {
            ns: i64::try_from(ns).ok()?,
            error_ns: best.took().div_ceil(2),
        })
    }

    /// The time `own` on the other clock; 0 where that lies before its epoch.
    pub(super) fn there(&self, own: u64) -> u64 {
        u64::try_from(i128::from(own) + i128::from(self.ns)).unwrap_or(0)
    }

    /// How far the other clock may have been from where it was taken to be, between this measurement and a later one.
    pub(super) fn error_until(&self, later: &Self) -> u64 {
        self.error_ns.saturating_add(self.ns.abs_diff(later.ns))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the delays there and back, the truth lies within the error, and the error is half of the shortest trip.
        #[test]
        fn the_truth_lies_within_the_error(
            truth in -1_000_000_000_000_i64..1_000_000_000_000,
            trips in prop::collection::vec((0_u64..5_000_000, 0_u64..5_000_000, 0_u64..1_000_000), 1..20),
        ) {
            let mut now = 2_000_000_000_000_u64;
            let exchanges: Vec<Exchange> = trips
                .iter()
                .map(|(there, back, pause)| {
                    let sent = now;
                    let shown = u64::try_from(i128::from(sent + there) + i128::from(truth)).unwrap();
                    now += there + back + pause;
                    Exchange { sent, received: sent + there + back, shown }
                })
                .collect();
            let found = Offset::of(&exchanges).unwrap();
            prop_assert!(found.ns.abs_diff(truth) <= found.error_ns + 1);
            let shortest = trips.iter().map(|t| t.0 + t.1).min().unwrap();
            prop_assert_eq!(found.error_ns, shortest.div_ceil(2));
            prop_assert!(found.there(now).abs_diff(u64::try_from(i128::from(now) + i128::from(truth)).unwrap()) <= found.error_ns + 1);
        }
    }

    #[test]
    fn a_clock_that_moved_meanwhile_is_not_trusted() {
        let at = |ns| Offset { ns, error_ns: 100 };
        assert_eq!(at(5_000).error_until(&at(5_050)), 150);
        assert_eq!(at(0).error_until(&at(-30_000_000)), 30_000_100);
        assert_eq!(Offset::of(&[]), None);
    }
}
