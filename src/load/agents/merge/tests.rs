//! Parts against the whole: one ledger that saw everything, and one for each part, through the wire.

use proptest::prelude::*;

use super::super::wire::{self, DoneLine, IntervalLine};
use super::*;
use crate::load::ledger::{End, Ledger};
use crate::measurement::OutcomeClass;

const MS: u64 = 1_000_000;
const WINDOW: u64 = 2_000 * MS;
const RATE: f64 = 10.0;

fn rate() -> Rps {
    Rps::new(RATE).unwrap()
}

fn ledger() -> Ledger {
    let mut l = Ledger::open(Frame::new(rate(), 1_000 * MS, WINDOW), 2, 20_000_000).unwrap();
    l.keep_bin_histograms();
    l.keep_intervals();
    l
}

/// One request: due, how long until sent and ended, how it ended; times in microseconds.
#[derive(Debug, Clone)]
struct Case {
    due: u64,
    wait: u64,
    took: Option<u64>,
    class: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let took = prop::option::weighted(0.9, 1_u64..2_500_000);
    (0_u64..3_000_000, 0_u64..400_000, took, 0..OutcomeClass::ALL.len()).prop_map(
        |(due, wait, took, class)| Case {
            due,
            wait,
            took,
            class,
        },
    )
}

/// What a generator with `cases` tells: bins and seconds as they are over, and the result.
fn play(cases: &[Case], cut: Option<u64>) -> (Vec<BinLine>, Vec<IntervalLine>, Measurement, Histogram<u64>) {
    let mut l = ledger();
    let mut events: Vec<(u64, u8, Case)> = Vec::new();
    for c in cases {
        events.push((c.due, 0, c.clone()));
        events.push((c.due + c.wait, 1, c.clone()));
        if let Some(took) = c.took {
            events.push((c.due + c.wait + took, 2, c.clone()));
        }
    }
    // Moments at which nothing happens but what the clock brings: the stop, half a second before it takes effect, and the end.
    let nothing = Case {
        due: 0,
        wait: 0,
        took: None,
        class: 0,
    };
    events.extend(cut.map(|cut| (cut - 500_000, 9, nothing.clone())));
    events.push((60_000_000, 9, nothing));
    events.sort_by_key(|e| (e.0, e.1));
    let (mut bins, mut seconds) = (Vec::new(), Vec::new());
    let mut shortened = false;
    for (at, what, c) in events {
        let now = at * 1_000;
        while let Some(bin) = l.close_bin(now) {
            let (number, latency) = l.closed_latency().unwrap();
            bins.push(BinLine::new(number, &bin, &latency).unwrap());
        }
        while let Some(interval) = l.take_interval(now) {
            seconds.push(IntervalLine::new(&interval).unwrap());
        }
        if let Some(cut) = cut.filter(|cut| !shortened && at + 500_000 >= *cut) {
            assert!(l.shorten(cut * 1_000));
            shortened = true;
        }
        let beyond = cut.is_some_and(|cut| c.due >= cut);
        let (due, sent) = (c.due * 1_000, (c.due + c.wait) * 1_000);
        match what {
            _ if beyond => {}
            0 => l.arrived(due),
            1 => {
                l.sent(due, sent);
                l.lagged(due, sent);
            }
            2 => l.ended(End {
                due,
                sent: Some(sent),
                at: now,
                class: OutcomeClass::ALL[c.class],
                status: (c.class < 5).then_some(200 + c.class as u16),
                endpoint: c.class % 2,
            }),
            _ => {}
        }
    }
    let names = ["a".to_owned(), "b".to_owned()];
    let m = l.close(rate(), &names, GeneratorHealth::default());
    (bins, seconds, m, l.lag().clone())
}

fn over_the_wire(m: Measurement, lag: &Histogram<u64>) -> (Measurement, Histogram<u64>) {
    let text = serde_json::to_string(&DoneLine::new(m, lag, None).unwrap()).unwrap();
    serde_json::from_str::<DoneLine>(&text).unwrap().unpack().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens to which request, the parts together say what one generator would have said: every count, every
    /// histogram, every bin and its quantiles, every second.
    #[test]
    fn the_parts_say_what_the_whole_says(
        mut cases in prop::collection::vec(case(), 0..80),
        of in 1_usize..5,
        early in prop::option::of(2_usize..4),
    ) {
        cases.sort_by_key(|c| c.due);
        let frame = Frame::new(rate(), 1_000 * MS, WINDOW);
        let cut = early.map(|at| frame.start_of(at) / 1_000);
        let (whole_bins, whole_seconds, whole, whole_lag) = play(&cases, cut);
        let mut bins = Bins::new(rate(), WINDOW, of);
        let mut live = Vec::new();
        let mut seconds: Vec<Vec<Interval>> = Vec::new();
        let mut parts = Vec::new();
        for index in 0..of {
            let own: Vec<Case> = cases.iter().skip(index).step_by(of).cloned().collect();
            let (told, own_seconds, m, lag) = play(&own, cut);
            for line in &told {
                bins.enter(line).unwrap();
                live.extend(std::iter::from_fn(|| bins.complete()));
            }
            for (at, s) in own_seconds.iter().enumerate() {
                seconds.resize_with(seconds.len().max(at + 1), Vec::new);
                seconds[at].push(s.unpack().unwrap());
            }
            let (measurement, lag) = over_the_wire(m, &lag);
            parts.push(PartDone {
                agent: index.to_string(),
                measurement,
                lag,
                first_ms: None,
                clock_error_ms: 0.0,
            });
        }
        let (mut merged, _) = merge(rate(), &parts, &bins, None).unwrap();
        prop_assert_eq!(&merged.histograms, &whole.histograms, "histograms");
        prop_assert_eq!(merged.generator.send_lag_ms, Quantiles::of_micros(&whole_lag));
        prop_assert_eq!(live.len(), whole_bins.len());
        for (ours, theirs) in live.iter().zip(&whole_bins) {
            prop_assert_eq!(
                (ours.scheduled, ours.completed_good, ours.completed_bad, ours.in_flight_end),
                (theirs.scheduled, theirs.completed_good, theirs.completed_bad, theirs.in_flight_end)
            );
        }
        for (ours, theirs) in seconds.into_iter().zip(&whole_seconds) {
            let (ours, theirs) = (merge_intervals(ours).unwrap(), theirs.unpack().unwrap());
            prop_assert_eq!(ours.width, theirs.width);
            for (tag, h) in &theirs.histograms {
                prop_assert_eq!(&ours.histograms.iter().find(|(t, _)| t == tag).unwrap().1, h);
            }
            prop_assert_eq!(ours.histograms.len(), theirs.histograms.len());
        }
        merged.generator = whole.generator.clone();
        prop_assert_eq!(merged, whole);
    }

    /// Random samples, split at random: the merged histogram is the histogram of all samples.
    #[test]
    fn a_merged_histogram_is_that_of_all_samples(
        samples in prop::collection::vec((1_u64..60_000_000, 0_usize..6), 1..2_000),
    ) {
        let new = || Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
        let (mut all, mut parts) = (new(), vec![new(); 6]);
        for (us, part) in &samples {
            all.record(*us).unwrap();
            parts[*part].record(*us).unwrap();
        }
        let mut merged = wire::unpack(&wire::pack(&parts[0]).unwrap()).unwrap();
        for part in &parts[1..] {
            add(&mut merged, &wire::unpack(&wire::pack(part).unwrap()).unwrap());
        }
        prop_assert_eq!(merged.len(), samples.len() as u64);
        prop_assert_eq!(&merged, &all);
        prop_assert_eq!(Quantiles::of_micros(&merged), Quantiles::of_micros(&all));
    }
}

#[test]
fn trouble_of_one_part_is_said_with_its_name() {
    let part = |name: &str, clock: f64, window: f64, busy: f64| {
        let (_, _, mut measurement, lag) = play(
            &[Case {
                due: 1_500_000,
                wait: 0,
                took: Some(10),
                class: 0,
            }],
            None,
        );
        measurement.window_s = window;
        measurement.generator.cpu_ratio = busy;
        PartDone {
            agent: name.into(),
            measurement,
            lag,
            first_ms: None,
            clock_error_ms: clock,
        }
    };
    let bins = Bins::new(rate(), WINDOW, 2);
    let of = |b: PartDone| {
        merge(rate(), &[part("a:1", 0.1, 2.0, 0.1), b], &bins, None)
            .unwrap()
            .0
            .generator
    };
    assert_eq!(of(part("b:1", 0.2, 2.0, 0.1)).agent_trouble, Vec::<String>::new());
    let words = |g: GeneratorHealth, word: &str| {
        assert!(
            g.agent_trouble.len() == 1 && g.agent_trouble[0].starts_with("agent b:1: "),
            "{:?}",
            g.agent_trouble
        );
        assert!(g.agent_trouble[0].contains(word), "{:?}", g.agent_trouble);
    };
    words(of(part("b:1", 11.0, 2.0, 0.1)), "its clock");
    words(of(part("b:1", 0.2, 1.5, 0.1)), "its window ended 500 ms");
    words(of(part("b:1", 0.2, 2.0, 0.9)), "busy");
    let g = of(part("b:1", 0.2, 2.0, 0.3));
    assert_eq!((g.agents.len(), g.agents[1].agent.as_str()), (2, "b:1"));
    assert!((g.cpu_ratio - 0.3).abs() < 1e-9);
}

#[test]
fn the_end_of_a_stopped_window_is_the_next_bins_begin() {
    let bins = Bins::new(Rps::new(100.0).unwrap(), 3_000 * MS, 2);
    assert_eq!(bins.boundary_after(1), Some(500 * MS));
    assert_eq!(bins.boundary_after(500 * MS), Some(500 * MS));
    assert_eq!(bins.boundary_after(501 * MS), Some(1_000 * MS));
    assert_eq!(bins.boundary_after(2_600 * MS), None);
}
