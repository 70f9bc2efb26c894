//! One contract for every optimizer: legal, deterministic, never twice by accident, ends, and never panics
//! whatever the history says.

use proptest::prelude::*;

use super::*;
use crate::trial::{Observation, Seen};

/// Spaces that the tests of this room share.
pub(super) mod spaces {
    use crate::expr::Expr;
    use crate::space::{Binding, Constraint, Domain, Parameter, Space, Value};

    fn parameter(
        name: &str,
        domain: Domain,
        baseline: Value,
        only_if: Option<&str>,
    ) -> (Parameter, Option<String>) {
        let p = Parameter {
            name: name.into(),
            domain,
            baseline,
            binding: Binding::Unbound,
            only_if: None,
        };
        (p, only_if.map(ToOwned::to_owned))
    }

    fn int(name: &str, low: i64, high: i64, baseline: i64) -> (Parameter, Option<String>) {
        let domain = Domain::Int {
            low,
            high,
            step: 1,
            log: false,
        };
        parameter(name, domain, Value::Int(baseline), None)
    }

    fn float(
        name: &str,
        low: f64,
        high: f64,
        step: Option<f64>,
        baseline: f64,
    ) -> (Parameter, Option<String>) {
        let domain = Domain::Float {
            low,
            high,
            step,
            log: false,
        };
        parameter(name, domain, Value::Float(baseline), None)
    }

    fn choice(name: &str, values: &[&str]) -> (Parameter, Option<String>) {
        let values: Vec<Value> = values.iter().map(|v| Value::Text((*v).into())).collect();
        let first = values[0].clone();
        parameter(name, Domain::Choice { values }, first, None)
    }

    fn space(
        parameters: Vec<(Parameter, Option<String>)>,
        constraints: &[&str],
        cost: Option<&str>,
    ) -> Space {
        let plain: Vec<Parameter> = parameters.iter().map(|(p, _)| p.clone()).collect();
        let names = Space::names(&plain);
        let compile = |text: &str| Expr::compile(text, &names).unwrap();
        Space {
            parameters: parameters
                .into_iter()
                .map(|(p, only_if)| Parameter {
                    only_if: only_if.as_deref().map(compile),
                    ..p
                })
                .collect(),
            constraints: constraints
                .iter()
                .map(|c| Constraint {
                    that: compile(c),
                    why: "the test says so".into(),
                })
                .collect(),
            cost: cost.map(compile),
        }
    }

    /// A pool, its limits, and a connection budget.
    pub(in crate::optimizer) fn pool() -> Space {
        space(
            vec![
                int("pool_size", 1, 64, 5),
                int("max_overflow", 0, 40, 10),
                int("workers", 1, 8, 2),
                float("cpus", 0.5, 4.0, Some(0.25), 1.0),
                int("memory_mb", 128, 4_096, 512),
            ],
            &["(pool_size + max_overflow) * workers <= 97"],
            Some("cpus + memory_mb / 2048"),
        )
    }

    /// A choice, and a parameter that exists for one of its values only.
    pub(in crate::optimizer) fn conditional() -> Space {
        let mut ttl = int("ttl_s", 1, 600, 60);
        ttl.1 = Some("cache == \"on\"".into());
        space(
            vec![
                choice("cache", &["off", "on", "tiered"]),
                ttl,
                float("cpus", 0.5, 2.0, None, 1.0),
            ],
            &[],
            None,
        )
    }

    /// Twelve points, eight of them legal.
    pub(in crate::optimizer) fn tiny() -> Space {
        space(
            vec![int("a", 0, 3, 1), int("b", 1, 3, 1)],
            &["a + b <= 4", "a < 3"],
            Some("a + b"),
        )
    }

    /// About one config in a hundred is legal.
    pub(in crate::optimizer) fn tight() -> Space {
        space(
            vec![int("a", 1, 400, 2), int("b", 1, 400, 2), int("c", 1, 400, 2)],
            &["a * b * c <= 900", "a + b >= 4"],
            None,
        )
    }

    pub(in crate::optimizer) fn all() -> Vec<Space> {
        vec![pool(), conditional(), tiny(), tight()]
    }
}

/// A small effort: the contract does not depend on it.
const SMALL: GaussianProcess = GaussianProcess {
    scattered: 60,
    around: 8,
};

fn optimizers() -> Vec<(&'static str, Box<dyn Optimizer>)> {
    vec![
        ("random", Box::new(Random)),
        ("sobol", Box::new(Sobol)),
        ("model-free", Box::new(ModelFree)),
        ("gaussian process", Box::new(SMALL)),
    ]
}

fn seed(seed: u64) -> AskContext {
    AskContext {
        seed,
        ..AskContext::default()
    }
}

fn told(config: Config, seen: Seen) -> Observation {
    Observation {
        config,
        seen,
        phase: TrialPhase::Search,
        prior: false,
    }
}

fn exactly(rps: f64) -> Seen {
    Seen::Rate {
        rps,
        lo: rps * 0.97,
        hi: rps * 1.03,
    }
}

/// A smooth hill over the unit cube, with a cliff.
fn answer(space: &Space, config: &Config) -> Seen {
    let x = space.encode(config);
    let off: f64 = x
        .iter()
        .enumerate()
        .map(|(i, u)| (u - 0.2 * (i % 5) as f64).powi(2))
        .sum();
    if x.first().is_some_and(|u| *u > 0.93) {
        Seen::Failed
    } else {
        exactly(200.0 * (-off).exp())
    }
}

/// Breaks when the start of a study asks for what failed in the study that it begins with.
#[test]
fn what_failed_in_an_earlier_study_is_not_asked_at_the_start() {
    let space = spaces::pool();
    let today = told(space.baseline(), exactly(90.0));
    let next = |earlier: Vec<Observation>| {
        let history: History = earlier.into_iter().chain([today.clone()]).collect();
        match GaussianProcess::default().ask(&space, &history, &seed(1)) {
            Ask::Config(c) => c,
            Ask::Stop(why) => panic!("{why}"),
        }
    };
    let first = next(vec![]);
    let earlier = |seen| Observation {
        prior: true,
        ..told(first.clone(), seen)
    };
    assert_ne!(next(vec![earlier(Seen::Failed)]), first);
    // What was measured there is worth measuring here: the two studies are compared by it.
    assert_eq!(next(vec![earlier(exactly(200.0))]), first);
}

/// Breaks when `[study] search` names one optimizer and another answers.
#[test]
fn each_name_of_a_search_is_its_own_optimizer() {
    let space = spaces::pool();
    let (history, _) = run(&Sobol, &space, &seed(4), 9);
    let model: Box<dyn Optimizer> = Box::new(GaussianProcess::default());
    let named: [(Search, Box<dyn Optimizer>); 4] = [
        (Search::Model, model),
        (Search::Simplex, Box::new(ModelFree)),
        (Search::Sobol, Box::new(Sobol)),
        (Search::Random, Box::new(Random)),
    ];
    let asks: Vec<Ask> = named
        .iter()
        .map(|(name, o)| {
            let ask = name.ask(&space, &history, &seed(4));
            assert_eq!(ask, o.ask(&space, &history, &seed(4)), "{name:?}");
            ask
        })
        .collect();
    for (i, ask) in asks.iter().enumerate() {
        assert!(!asks[..i].contains(ask), "{:?} is not told apart", named[i].0);
    }
}

/// Lets an optimizer work for `steps` asks.
fn run(
    optimizer: &dyn Optimizer,
    space: &Space,
    context: &AskContext,
    steps: usize,
) -> (History, Option<String>) {
    let mut history = History::new();
    for _ in 0..steps {
        match optimizer.ask(space, &history, context) {
            Ask::Config(config) => {
                let seen = answer(space, &config);
                history.push(told(config, seen));
            }
            Ask::Stop(reason) => return (history, Some(reason)),
        }
    }
    (history, None)
}

#[test]
fn all_ask_for_the_baseline_first_and_then_for_legal_new_configs() {
    for space in spaces::all() {
        for (name, o) in optimizers() {
            let (history, _) = run(&*o, &space, &seed(3), 16);
            assert_eq!(history[0].config, space.baseline(), "{name}");
            for (i, line) in history.iter().enumerate() {
                assert_eq!(space.violation(&line.config), None, "{name}");
                let repeated = history[..i].iter().any(|l| l.config == line.config);
                assert!(!repeated, "{name} asks twice for {}", line.config);
            }
        }
    }
}

#[test]
fn an_ask_is_a_function_of_its_prefix() {
    let space = spaces::pool();
    for (name, o) in optimizers() {
        let (history, _) = run(&*o, &space, &seed(8), 14);
        for k in 0..history.len() {
            let again = o.ask(&space, &history[..k].to_vec(), &seed(8));
            assert_eq!(again, Ask::Config(history[k].config.clone()), "{name} at {k}");
        }
    }
}

#[test]
fn other_seeds_search_differently() {
    let space = spaces::pool();
    for (name, o) in optimizers() {
        let (a, _) = run(&*o, &space, &seed(1), 6);
        let (b, _) = run(&*o, &space, &seed(2), 6);
        assert_ne!(a, b, "{name}");
    }
}

#[test]
fn all_end_on_a_small_grid_and_none_before_its_end_without_a_model() {
    let space = spaces::tiny();
    for (name, o) in optimizers() {
        let (history, stop) = run(&*o, &space, &seed(4), 60);
        assert!(stop.is_some(), "{name} never stops");
        assert!(history.len() <= 8 + 10, "{name}: {}", history.len());
        if name != "gaussian process" {
            assert_eq!(history.len(), 8, "{name}");
        }
    }
}

#[test]
fn the_budget_ends_every_search() {
    let context = AskContext {
        trials: Some(4),
        ..seed(1)
    };
    for (name, o) in optimizers() {
        let (history, stop) = run(&*o, &spaces::pool(), &context, 10);
        assert_eq!(history.len(), 4, "{name}");
        assert!(stop.unwrap().contains("budget of 4 trials"), "{name}");
    }
}

#[test]
fn several_asked_and_not_told_are_different_configs() {
    let space = spaces::pool();
    for (name, o) in optimizers() {
        let (mut history, _) = run(&*o, &space, &seed(5), 10);
        for _ in 0..4 {
            let Ask::Config(c) = o.ask(&space, &history, &seed(5)) else {
                panic!("{name} stopped")
            };
            assert!(history.iter().all(|l| l.config != c), "{name}");
            history.push(told(c, Seen::Pending));
        }
    }
}

#[test]
fn an_illegal_baseline_is_not_asked_for() {
    let mut space = spaces::pool();
    space.parameters[0].baseline = crate::space::Value::Int(64);
    space.parameters[2].baseline = crate::space::Value::Int(8);
    for (name, o) in optimizers() {
        let Ask::Config(c) = o.ask(&space, &History::new(), &seed(1)) else {
            panic!("{name} stopped")
        };
        assert!(space.is_legal(&c), "{name}");
    }
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let rate = prop_oneof![
        3 => 1.0..1_000.0,
        1 => Just(0.0),
        1 => Just(-5.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(1e300),
        1 => Just(1e-300),
        2 => Just(100.0),
    ];
    prop_oneof![
        4 => (rate.clone(), rate.clone(), rate.clone()).prop_map(|(rps, lo, hi)| Seen::Rate { rps, lo, hi }),
        1 => rate.clone().prop_map(Seen::AtLeast),
        1 => rate.prop_map(Seen::AtMost),
        2 => Just(Seen::Failed),
        1 => Just(Seen::Pending),
    ]
}

/// Lines of a history: where (a Sobol index; few of them, so that repeats are common), what, from before.
fn any_history() -> impl Strategy<Value = Vec<(u32, Seen, bool)>> {
    let one = (0_u32..24, any_seen(), proptest::bool::weighted(0.15)).boxed();
    prop_oneof![
        6 => proptest::collection::vec(one.clone(), 0..22),
        1 => proptest::collection::vec(one.clone().prop_map(|(i, _, p)| (i, Seen::Failed, p)), 0..22),
        1 => proptest::collection::vec(one.prop_map(|(i, _, p)| (i, exactly(50.0), p)), 0..22),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_answered_legally_and_twice_the_same(
        lines in any_history(),
        which in 0_usize..4,
        trials in proptest::option::of(1_u32..60),
    ) {
        let space = spaces::all().remove(which);
        let field = super::field::Field::new(&space);
        let points = field.sobol_legal(24, 6_000, 9, |_, _, u| u);
        let history: History = lines
            .into_iter()
            .filter_map(|(i, seen, prior)| {
                let config = points.get(i as usize)?.1.clone();
                Some(Observation { prior, ..told(config, seen) })
            })
            .collect();
        let context = AskContext { seed: 11, trials, required: None };
        for (name, o) in optimizers() {
            let ask = o.ask(&space, &history, &context);
            prop_assert_eq!(&ask, &o.ask(&space, &history, &context), "{}", name);
            if let Ask::Config(c) = ask {
                prop_assert_eq!(space.violation(&c), None, "{}", name);
            }
        }
        if let Some(r) = recommend(&space, &history, None) {
            prop_assert!(space.is_legal(&r.recommended.config));
            prop_assert!(r.recommended.rps.is_finite());
            let failed = |c: &Config| history.iter().any(|o| !o.prior && o.config == *c && o.seen == Seen::Failed);
            prop_assert!(!failed(&r.recommended.config) && !failed(&r.fastest.config));
        }
    }
}
