//! Order, replay and decisions on histories written by hand, and the error rates by simulation.

use super::*;
use crate::space::Value;

fn config(name: i64) -> Config {
    Config::from_iter([("pool_size".to_owned(), Value::Int(name))])
}

fn result(c: &Config, round: u32, rps: f64) -> FinalResult {
    FinalResult {
        config: c.clone(),
        round,
        rate: Rps::new(rps).ok(),
        interval_rps: [rps * 0.98, rps * 1.02],
        at_least: false,
        stable: true,
        latency_ms_p99: None,
        void: None,
    }
}

fn draws(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    move || {
        let u: f64 = 1.0 - rng.random::<f64>();
        let v: f64 = rng.random::<f64>();
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

/// Plays finals in which config `i` carries `rates[i]` with relative deviation `noise`; [0] is the baseline.
fn play(plan: &FinalsPlan, rates: &[f64], noise: f64, seed: u64) -> (Decision, Vec<FinalResult>) {
    let mut normal = draws(seed);
    let configs: Vec<Config> = (0..rates.len()).map(|i| config(i as i64)).collect();
    let mut done = Vec::new();
    for _ in 0..1_000 {
        match next_final(plan, &Space::default(), &configs[1..], &configs[0], &done, true) {
            FinalStep::Decided(d) => return (d, done),
            FinalStep::Measure { config, round } => {
                let i = configs.iter().position(|c| *c == config).unwrap();
                done.push(result(&config, round, rates[i] * (noise * normal()).exp()));
            }
        }
    }
    panic!("finals do not end")
}

#[test]
fn a_threefold_gain_is_a_win_after_two_pairs_even_in_a_plan_of_two() {
    for pairs in [2, 3, 8] {
        for seed in 0..20 {
            let (d, done) = play(&FinalsPlan::new(pairs, seed), &[100.0, 310.0], 0.05, seed);
            assert_eq!(d.verdict, FinalVerdict::Win, "{}", d.words);
            assert_eq!((d.pairs, done.len()), (2, 4));
            assert_eq!(d.config, config(1));
            assert!(d.gain.unwrap()[0] > 0.2, "{}", d.words);
        }
    }
}

#[test]
fn rounds_are_complete_shuffled_and_begin_anywhere() {
    let plan = FinalsPlan::new(8, 3);
    let (_, done) = play(&plan, &[100.0, 101.0, 100.0], 0.05, 5);
    for round in 1..=2 {
        let mut names: Vec<String> = done
            .iter()
            .filter(|r| r.round == round)
            .map(|r| r.config.to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["pool_size=0", "pool_size=1", "pool_size=2"]);
    }
    let firsts: std::collections::BTreeSet<String> = (1..=8)
        .map(|r| format!("{:?}", order(3, r, &[0, 1])[0]))
        .collect();
    assert!(firsts.len() > 1, "the same config is always first");
    assert!(done.windows(2).all(|w| w[0].round <= w[1].round));
}

#[test]
fn a_killed_final_goes_on_where_it_was() {
    let plan = FinalsPlan::new(6, 11);
    let (decision, done) = play(&plan, &[100.0, 104.0, 97.0], 0.05, 7);
    let configs: Vec<Config> = (0..3).map(config).collect();
    for k in 0..done.len() {
        let step = next_final(
            &plan,
            &Space::default(),
            &configs[1..],
            &configs[0],
            &done[..k],
            true,
        );
        let expected = FinalStep::Measure {
            config: done[k].config.clone(),
            round: done[k].round,
        };
        assert_eq!(step, expected, "after {k}");
    }
    let step = next_final(&plan, &Space::default(), &configs[1..], &configs[0], &done, true);
    assert_eq!(step, FinalStep::Decided(decision));
}

#[test]
fn without_time_only_complete_rounds_count() {
    let plan = FinalsPlan::new(8, 1);
    let (b, f) = (config(0), config(1));
    let mut done = vec![result(&b, 1, 100.0), result(&f, 1, 300.0), result(&b, 2, 100.0)];
    let at = |done: &[FinalResult]| {
        next_final(
            &plan,
            &Space::default(),
            std::slice::from_ref(&f),
            &b,
            done,
            false,
        )
    };
    let FinalStep::Decided(d) = at(&done) else {
        panic!("no time is left")
    };
    assert_eq!((d.verdict, d.pairs, &d.config), (FinalVerdict::Undecided, 1, &b));
    assert!(d.gain.is_none());
    done.push(result(&f, 2, 310.0));
    let FinalStep::Decided(d) = at(&done) else {
        panic!("no time is left")
    };
    assert_eq!(d.verdict, FinalVerdict::Win);
}

#[test]
fn a_finalist_that_fails_or_flaps_is_never_recommended() {
    let plan = FinalsPlan::new(2, 1);
    let (b, f) = (config(0), config(1));
    let run = |third: FinalResult| {
        let done = vec![
            result(&b, 1, 100.0),
            result(&f, 1, 300.0),
            result(&b, 2, 100.0),
            third,
        ];
        match next_final(
            &plan,
            &Space::default(),
            std::slice::from_ref(&f),
            &b,
            &done,
            true,
        ) {
            FinalStep::Decided(d) => d,
            FinalStep::Measure { .. } => panic!("decided"),
        }
    };
    let failed = FinalResult {
        rate: None,
        ..result(&f, 2, 1.0)
    };
    assert_eq!(run(failed).verdict, FinalVerdict::Worse);
    let flapped = FinalResult {
        stable: false,
        ..result(&f, 2, 300.0)
    };
    assert_eq!(run(flapped).config, b);
    assert_eq!(
        run(result(&f, 2, 180.0)).config,
        b,
        "300 and 180 are too far apart"
    );
    assert_eq!(run(result(&f, 2, 290.0)).config, f);
}

#[test]
fn a_baseline_that_fails_loses_and_one_at_the_maximum_cannot() {
    let plan = FinalsPlan::new(2, 1);
    let (b, f) = (config(0), config(1));
    let run = |base: [FinalResult; 2]| {
        let [one, two] = base;
        let done = vec![one, result(&f, 1, 300.0), two, result(&f, 2, 300.0)];
        match next_final(
            &plan,
            &Space::default(),
            std::slice::from_ref(&f),
            &b,
            &done,
            true,
        ) {
            FinalStep::Decided(d) => d,
            FinalStep::Measure { .. } => panic!("decided"),
        }
    };
    let dead = |round| FinalResult {
        rate: None,
        ..result(&b, round, 1.0)
    };
    let d = run([dead(1), dead(2)]);
    assert_eq!(
        (d.verdict, d.gain, d.config),
        (FinalVerdict::Win, None, f.clone())
    );
    let capped = |round| FinalResult {
        at_least: true,
        ..result(&b, round, 150.0)
    };
    assert_eq!(run([capped(1), capped(2)]).verdict, FinalVerdict::NoGain);
}

#[test]
fn nothing_found_means_no_gain_at_once() {
    let step = next_final(
        &FinalsPlan::new(8, 1),
        &Space::default(),
        &[],
        &config(0),
        &[],
        true,
    );
    let FinalStep::Decided(d) = step else {
        panic!("nothing to measure")
    };
    assert_eq!((d.verdict, d.config), (FinalVerdict::NoGain, config(0)));
}

#[test]
fn the_baseline_against_itself_is_measured_twice_a_round() {
    let (plan, b) = (FinalsPlan::new(3, 2), config(0));
    let mut done = Vec::new();
    let decision = loop {
        match next_final(
            &plan,
            &Space::default(),
            std::slice::from_ref(&b),
            &b,
            &done,
            true,
        ) {
            FinalStep::Measure { config, round } => {
                done.push(result(&config, round, 100.0 + done.len() as f64));
            }
            FinalStep::Decided(d) => break d,
        }
    };
    assert_eq!(done.len(), 6);
    assert_eq!(decision.verdict, FinalVerdict::NoGain, "{}", decision.words);
}

fn share(plan: &FinalsPlan, rates: &[f64], noise: f64, runs: u64, verdict: FinalVerdict) -> f64 {
    let hits = (0..runs)
        .filter(|seed| {
            let plan = FinalsPlan {
                seed: *seed,
                ..plan.clone()
            };
            play(&plan, rates, noise, seed + 1_000).0.verdict == verdict
        })
        .count();
    hits as f64 / runs as f64
}

#[test]
fn a_config_against_itself_seldom_wins_and_a_gain_of_eight_percent_usually_does() {
    // The full tables are in the bench; these few hundred runs notice a broken boundary.
    let plan = FinalsPlan::new(8, 0);
    let aa = share(&plan, &[100.0, 100.0], 0.05, 300, FinalVerdict::Win);
    assert!(aa <= 0.035, "A/A {aa}");
    let power = share(&plan, &[100.0, 108.0], 0.05, 100, FinalVerdict::Win);
    assert!(power >= 0.7, "power {power}");
    let worse = share(&plan, &[100.0, 65.0], 0.05, 50, FinalVerdict::Worse);
    assert!(worse >= 0.9, "worse {worse}");
}

/// Fails when a finalist that reached the highest rate on offer is quoted with an upper end, or called slower.
#[test]
fn a_finalist_at_the_maximum_has_an_open_end_and_is_never_worse() {
    let (b, f) = (config(0), config(1));
    let run = |base: f64, capped: f64| {
        let plan = FinalsPlan::new(2, 1);
        let top = |round| FinalResult {
            at_least: true,
            ..result(&f, round, capped)
        };
        let done = vec![result(&b, 1, base), top(1), result(&b, 2, base), top(2)];
        match next_final(
            &plan,
            &Space::default(),
            std::slice::from_ref(&f),
            &b,
            &done,
            true,
        ) {
            FinalStep::Decided(d) => d,
            FinalStep::Measure { .. } => panic!("decided"),
        }
    };
    let d = run(100.0, 300.0);
    assert_eq!((d.verdict, d.at_least), (FinalVerdict::Win, true));
    assert!(
        d.words.contains("at least +200.0 % (95 % interval from +") && d.words.contains("open above"),
        "{}",
        d.words
    );
    // The generator sent no more than 100 in its rounds: that it carries less than today's is not shown.
    let d = run(300.0, 100.0);
    assert_eq!(
        (d.verdict, d.at_least, d.config),
        (FinalVerdict::NoGain, true, b.clone())
    );
    assert!(d.words.contains("no gain could be shown"), "{}", d.words);
    let (d, _) = play(&FinalsPlan::new(2, 1), &[100.0, 300.0], 0.01, 1);
    assert!(!d.at_least && !d.words.contains("open above"), "{}", d.words);
}

/// Plays finals of two pairs in which `side` (0: today's, 1: the finalist) could not be offered more than `bound`.
fn with_void(side: i64, bound: Option<f64>, rates: [f64; 2]) -> Decision {
    let plan = FinalsPlan::new(2, 1);
    let (b, f) = (config(0), config(1));
    let mut done = Vec::new();
    for round in 1..=2 {
        for (i, c) in [(0, &b), (1, &f)] {
            let mut r = result(c, round, rates[i as usize]);
            if i == side {
                r.void = Some("clock: agent-2 is 40 ms away".to_owned());
                r.rate = bound.and_then(|x| Rps::new(x).ok());
                r.at_least = true;
            }
            done.push(r);
        }
    }
    match next_final(
        &plan,
        &Space::default(),
        std::slice::from_ref(&f),
        &b,
        &done,
        true,
    ) {
        FinalStep::Decided(d) => d,
        FinalStep::Measure { .. } => panic!("decided"),
    }
}

/// Fails when a side that could not be offered its load counts as failed (the finalist: "worse"; today's: a win for the
/// other), or when what the generator could send is taken for its rate.
#[test]
fn a_side_whose_probes_were_void_leaves_it_undecided_and_is_named() {
    for (bound, rates) in [(None, [100.0, 100.0]), (Some(45.0), [100.0, 100.0])] {
        let d = with_void(1, bound, rates);
        assert_eq!(
            (d.verdict, &d.config),
            (FinalVerdict::Undecided, &config(0)),
            "{}",
            d.words
        );
        assert!(
            d.words
                .contains("the candidate could not be measured in 2 of 2 rounds: clock: agent-2"),
            "{}",
            d.words
        );
        assert_eq!((d.gain, d.winner_rps), (None, None), "{}", d.words);
        let d = with_void(0, bound, rates);
        assert_eq!(
            (d.verdict, &d.config),
            (FinalVerdict::Undecided, &config(0)),
            "{}",
            d.words
        );
        assert!(
            d.words
                .contains("today's configuration could not be measured in 2 of 2 rounds"),
            "{}",
            d.words
        );
    }
    // What the generator could send is enough to beat the other side: that is an answer.
    let d = with_void(1, Some(200.0), [100.0, 300.0]);
    assert_eq!((d.verdict, d.void), (FinalVerdict::Win, None), "{}", d.words);
    let d = with_void(0, Some(200.0), [300.0, 100.0]);
    assert_eq!(d.verdict, FinalVerdict::Worse, "{}", d.words);
}

/// Fails when one void round spoils the others, or is passed over in silence.
#[test]
fn one_void_round_is_left_out_and_said() {
    let plan = FinalsPlan::new(3, 1);
    let (b, f) = (config(0), config(1));
    let mut done = Vec::new();
    for round in 1..=3 {
        done.push(result(&b, round, 100.0));
        done.push(FinalResult {
            void: (round == 1).then(|| "send lag".to_owned()),
            rate: Rps::new(310.0).ok().filter(|_| round > 1),
            ..result(&f, round, 310.0)
        });
    }
    let FinalStep::Decided(d) = next_final(
        &plan,
        &Space::default(),
        std::slice::from_ref(&f),
        &b,
        &done,
        true,
    ) else {
        panic!("all rounds are there")
    };
    assert_eq!((d.verdict, d.pairs), (FinalVerdict::Win, 2), "{}", d.words);
    assert!(
        d.words
            .ends_with("the candidate could not be measured in 1 of 3 rounds: send lag"),
        "{}",
        d.words
    );
}

/// Fails when two rates of the generator's are compared as if they were the service's, and the larger one wins.
#[test]
fn where_the_generator_is_the_limit_of_both_nobody_wins() {
    for rates in [[100.0, 150.0], [150.0, 100.0]] {
        let (b, f) = (config(0), config(1));
        let mut done = Vec::new();
        for round in 1..=3 {
            for (i, c) in [&b, &f].into_iter().enumerate() {
                done.push(FinalResult {
                    void: Some("send lag".to_owned()),
                    at_least: true,
                    ..result(c, round, rates[i])
                });
            }
        }
        let step = next_final(
            &FinalsPlan::new(3, 1),
            &Space::default(),
            std::slice::from_ref(&f),
            &b,
            &done,
            true,
        );
        let FinalStep::Decided(d) = step else {
            panic!("all rounds are there")
        };
        assert_eq!(
            (d.verdict, &d.config),
            (FinalVerdict::Undecided, &b),
            "{}",
            d.words
        );
        assert!(
            d.words
                .contains("could not be measured in 3 of 3 rounds: send lag"),
            "{}",
            d.words
        );
    }
}
