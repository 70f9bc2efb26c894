//! The space under random domains, conditions and constraints.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn int_domain() -> impl Strategy<Value = Domain> {
    (-1_000_i64..1_000_000, 1_i64..5_000, 0_i64..5_000, any::<bool>()).prop_map(|(low, step, n, log)| {
        Domain::Int {
            low,
            high: low + step * n,
            step,
            log: log && low >= 0,
        }
    })
}

/// Decimal grids as people type them: 0.05, 0.25, 3.
fn float_domain() -> impl Strategy<Value = Domain> {
    (-2_000_i32..20_000, 1_i32..500, 0_i32..2_000, any::<bool>()).prop_map(|(low, step, n, log)| {
        let of = |hundredths: i32| f64::from(hundredths) / 100.0;
        Domain::Float {
            low: of(low),
            high: of(low + step * n),
            step: Some(of(step)),
            log: log && low >= 0,
        }
    })
}

fn choice_domain() -> impl Strategy<Value = Domain> {
    proptest::collection::btree_set("[a-z =\"]{0,6}", 1..8).prop_map(|s| Domain::Choice {
        values: s.into_iter().map(Value::Text).collect(),
    })
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![int_domain(), float_domain(), choice_domain()]
}

/// Up to five small parameters; each may depend on an earlier one, and a sum may be limited.
fn small_space() -> impl Strategy<Value = Space> {
    let one = (0_i64..3, 0_i64..5, proptest::option::of((0_usize..5, 0_i64..4)));
    (
        proptest::collection::vec(one, 1..6),
        proptest::option::of(0_i64..15),
    )
        .prop_map(|(parts, limit)| {
            let mut parameters: Vec<Parameter> = Vec::new();
            for (i, (low, n, condition)) in parts.into_iter().enumerate() {
                let names = Space::names(&parameters);
                let only_if = condition
                    .filter(|_| i > 0)
                    .and_then(|(of, least)| Expr::compile(&format!("p{} >= {least}", of % i), &names).ok());
                parameters.push(Parameter {
                    name: format!("p{i}"),
                    domain: Domain::Int {
                        low,
                        high: low + n,
                        step: 1,
                        log: false,
                    },
                    baseline: Value::Int(low),
                    binding: Binding::Unbound,
                    only_if,
                });
            }
            let names = Space::names(&parameters);
            let sum: Vec<String> = parameters.iter().map(|p| p.name.clone()).collect();
            let constraints = limit
                .and_then(|l| Expr::compile(&format!("{} <= {l}", sum.join(" + ")), &names).ok())
                .map(|that| Constraint {
                    that,
                    why: "limit".into(),
                })
                .into_iter()
                .collect();
            Space {
                parameters,
                constraints,
                cost: None,
            }
        })
}

proptest! {
    /// Fails when the scales, the rounding to the grid or `nth` disagree.
    #[test]
    fn every_value_of_a_grid_survives_the_unit_interval(d in domain(), k in any::<u64>()) {
        let size = d.size().unwrap();
        for k in [0, size - 1, k % size] {
            let v = d.nth(k).unwrap();
            prop_assert!(d.contains(&v), "{v:?} is not in {d:?}");
            let u = d.encode(&v);
            prop_assert!((0.0..=1.0).contains(&u));
            prop_assert_eq!(d.decode(u), v.clone());
            prop_assert_eq!(d.adopt(&Value::Text(v.to_string())), Some(v));
        }
        prop_assert_eq!(d.nth(size), None);
    }

    /// Fails when a point decodes to something outside the domain, or off its grid.
    #[test]
    fn every_point_is_a_value(d in domain(), u in prop_oneof![0.0..=1.0, Just(f64::NAN), -1e9..1e9]) {
        let v = d.decode(u);
        prop_assert!(d.contains(&v), "{v:?} is not in {d:?}");
        prop_assert_eq!(d.decode(d.encode(&v)), v);
    }

    #[test]
    fn continuous_values_survive_within_rounding(low in 0.0..1e3, width in 1e-3..1e6, log in any::<bool>(), u in 0.0..=1.0) {
        let d = Domain::Float { low, high: low + width, step: None, log };
        let v = d.decode(u);
        prop_assert!(d.contains(&v));
        prop_assert!((d.encode(&v) - u).abs() < 1e-6);
    }

    /// Fails when values are shown so that two configs look the same.
    #[test]
    fn keys_are_equal_exactly_for_equal_configs(
        a in proptest::collection::btree_map("[ab]", "[ab=\" 1]{0,5}", 0..3),
        b in proptest::collection::btree_map("[ab]", "[ab=\" 1]{0,5}", 0..3),
    ) {
        let config = |m: &BTreeMap<String, String>| -> Config {
            m.iter().map(|(k, v)| (k.clone(), Value::Text(v.clone()))).collect()
        };
        prop_assert_eq!(config(&a).key() == config(&b).key(), a == b);
    }

    /// Fails when a condition is judged with a value that is itself inactive.
    #[test]
    fn a_decoded_config_breaks_constraints_at_most(space in small_space(), point in proptest::collection::vec(0.0..=1.0, 5)) {
        let config = space.decode(&point);
        let free = Space { constraints: vec![], ..space.clone() };
        prop_assert_eq!(free.violation(&config), None);
        prop_assert_eq!(space.decode(&space.encode(&config)), config);
    }

    /// The walk over all configs against the definition: every grid point decoded, doubles dropped.
    #[test]
    fn the_walk_finds_every_config_once(space in small_space()) {
        let walked = all_configs(&space, 1_000_000).unwrap();
        let keys: BTreeSet<String> = walked.iter().map(Config::key).collect();
        prop_assert_eq!(keys.len(), walked.len(), "a config came twice");
        let sizes: Vec<u64> = space.parameters.iter().map(|p| p.domain.size().unwrap()).collect();
        let mut expected = BTreeSet::new();
        for mut i in 0..sizes.iter().product::<u64>() {
            let mut full = Config::default();
            for (p, n) in space.parameters.iter().zip(&sizes) {
                full.set(&p.name, p.domain.nth(i % n).unwrap());
                i /= n;
            }
            expected.insert(space.decode(&space.encode(&full)).key());
        }
        prop_assert_eq!(&keys, &expected);
        let share = legal_share(&space, 7);
        prop_assert!(share.exact);
        prop_assert_eq!(share.total, Some(walked.len() as u64));
        prop_assert_eq!(share.legal, Some(walked.iter().filter(|c| space.is_legal(c)).count() as u64));
    }
}

#[test]
#[allow(clippy::cast_precision_loss)]
fn a_large_space_is_estimated_within_its_interval() {
    let wide = |name: &str| Parameter {
        name: name.into(),
        domain: Domain::Int {
            low: 1,
            high: 1_000,
            step: 1,
            log: true,
        },
        baseline: Value::Int(1),
        binding: Binding::Unbound,
        only_if: None,
    };
    let parameters = vec![wide("a"), wide("b")];
    let that = Expr::compile("a + b <= 1000", &Space::names(&parameters)).unwrap();
    let constraints = vec![Constraint {
        that,
        why: String::new(),
    }];
    let space = Space {
        parameters,
        constraints,
        cost: None,
    };
    let share = legal_share(&space, 3);
    let truth = (999.0 * 1000.0 / 2.0) / 1e6;
    assert!(!share.exact);
    assert!(
        share.interval[0] <= truth && truth <= share.interval[1],
        "{share:?}"
    );
    assert_eq!(share.total, Some(1_000_000));
    assert_eq!(
        share,
        legal_share(&space, 3),
        "the same seed gives the same estimate"
    );
}

#[test]
fn conditions_chain() {
    let choice = |name: &str, only_if: Option<Expr>| Parameter {
        name: name.into(),
        domain: Domain::Choice {
            values: vec![Value::Text("off".into()), Value::Text("on".into())],
        },
        baseline: Value::Text("off".into()),
        binding: Binding::Unbound,
        only_if,
    };
    let mut parameters = vec![choice("a", None)];
    let on = |of: &str, ps: &[Parameter]| Expr::compile(&format!("{of} == \"on\""), &Space::names(ps)).ok();
    let b = choice("b", on("a", &parameters));
    parameters.push(b);
    let c = choice("c", on("b", &parameters));
    parameters.push(c);
    let space = Space {
        parameters,
        ..Space::default()
    };
    let shown: Vec<String> = all_configs(&space, 100)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        ["a=off", "a=on b=off", "a=on b=on c=off", "a=on b=on c=on"]
    );
    assert_eq!(space.decode(&[0.1, 0.9, 0.9]).to_string(), "a=off");
    let extra: Config = [("a", "off"), ("b", "on")]
        .map(|(k, v)| (k.to_owned(), Value::Text(v.into())))
        .into_iter()
        .collect();
    assert_eq!(space.violation(&extra).unwrap(), "b is not active here");
}

#[test]
fn a_broken_constraint_is_told_with_its_numbers() {
    let p = Parameter {
        name: "pool".into(),
        domain: Domain::Int {
            low: 1,
            high: 100,
            step: 1,
            log: true,
        },
        baseline: Value::Int(5),
        binding: Binding::Unbound,
        only_if: None,
    };
    let that = Expr::compile("pool * 4 <= 97", &Space::names(std::slice::from_ref(&p))).unwrap();
    let space = Space {
        parameters: vec![p],
        constraints: vec![Constraint {
            that,
            why: "max_connections".into(),
        }],
        cost: None,
    };
    let config = Config::from_iter([("pool".to_owned(), Value::Int(50))]);
    let why = space.violation(&config).unwrap();
    assert!(
        why.contains("200 against 97") && why.contains("max_connections"),
        "{why}"
    );
}
