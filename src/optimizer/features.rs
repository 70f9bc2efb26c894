//! What the model sees of a config: its parameters on their scales, and a few inputs derived from the user's
//! own expressions.
//!
//! A known constraint is knowledge about the service. Where `(pool_size + max_overflow) * workers <= 97` is
//! a rule, the share of the 97 that a config uses is likely to matter, so its logarithm is an input of its
//! own; so is every product of parameters in the cost expression. A derived input costs one length scale,
//! which the fit makes long where the input does not matter.

use crate::expr::Expr;
use crate::space::{Config, Domain, Space, Value};

use super::field::Field;

/// One-hot coordinates are this long: two values then lie as far apart as the ends of a range.
const ONE_HOT: f64 = 0.7;
/// Sobol points that give a derived input its range.
const RANGE_POINTS: u32 = 256;
/// Most derived inputs; a file with more constraints than that uses the first.
const MAX_DERIVED: usize = 8;

#[derive(Debug, Clone)]
enum Column {
    /// A number on its scale; 0.5 where it is not active.
    Scaled(usize),
    /// A choice between numbers: their place between the smallest and the largest, on a log scale.
    Ordered { parameter: usize, low: f64, high: f64 },
    /// One value of a choice.
    OneHot { parameter: usize, value: usize },
    /// From an expression, brought to 0..=1.
    Derived { from: Source, low: f64, high: f64 },
}

#[derive(Debug, Clone)]
enum Source {
    /// ln(left / right) of a constraint.
    Sides(Expr),
    /// ln of a product in the cost.
    Term(Expr),
}

/// The inputs of the model for one space.
#[derive(Debug, Clone)]
pub(super) struct Features {
    space: Space,
    columns: Vec<Column>,
    /// The length scale that each column uses; the columns of one choice share theirs.
    pub(super) groups: Vec<usize>,
    /// Number of length scales.
    pub(super) group_count: usize,
}

impl Features {
    pub(super) fn new(field: &Field) -> Self {
        let space = field.space.clone();
        let mut columns = Vec::new();
        let mut groups = Vec::new();
        let mut group = 0;
        for (i, p) in space.parameters.iter().enumerate() {
            match &p.domain {
                Domain::Choice { values } => match ordered(values) {
                    Some((low, high)) => columns.push(Column::Ordered {
                        parameter: i,
                        low,
                        high,
                    }),
                    None => columns.extend((0..values.len()).map(|v| Column::OneHot {
                        parameter: i,
                        value: v,
                    })),
                },
                Domain::Int { .. } | Domain::Float { .. } => columns.push(Column::Scaled(i)),
            }
            groups.resize(columns.len(), group);
            group += 1;
        }
        for (from, low, high) in derived(field) {
            columns.push(Column::Derived { from, low, high });
            groups.push(group);
            group += 1;
        }
        Self {
            space,
            columns,
            groups,
            group_count: group,
        }
    }

    /// The inputs of `config`.
    pub(super) fn of(&self, config: &Config) -> Vec<f64> {
        self.columns.iter().map(|c| self.column(c, config)).collect()
    }

    fn column(&self, column: &Column, config: &Config) -> f64 {
        let value = |i: usize| {
            let p = self.space.parameters.get(i)?;
            config.get(&p.name).map(|v| (p, v))
        };
        match column {
            Column::Scaled(i) => value(*i).map_or(0.5, |(p, v)| p.domain.encode(v)),
            Column::Ordered { parameter, low, high } => value(*parameter)
                .and_then(|(_, v)| v.as_f64())
                .map_or(0.5, |x| (x.ln() - low) / (high - low)),
            Column::OneHot { parameter, value: k } => value(*parameter)
                .and_then(|(p, v)| match &p.domain {
                    Domain::Choice { values } => values.get(*k).filter(|w| *w == v),
                    _ => None,
                })
                .map_or(0.0, |_| ONE_HOT),
            Column::Derived { from, low, high } => match reading(from, config) {
                Some(x) => ((x - low) / (high - low)).clamp(-0.5, 1.5),
                None => 0.5,
            },
        }
    }
}

/// The logarithms of the bounds where `values` are at least three positive numbers.
fn ordered(values: &[Value]) -> Option<(f64, f64)> {
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    for v in values {
        let x = v.as_f64().filter(|x| *x > 0.0)?;
        low = low.min(x.ln());
        high = high.max(x.ln());
    }
    (values.len() >= 3 && high > low).then_some((low, high))
}

fn reading(from: &Source, config: &Config) -> Option<f64> {
    let x = match from {
        Source::Sides(e) => {
            let (l, r) = e.sides(config)?;
            l / r
        }
        Source::Term(e) => e.number(config).ok()?,
    };
    (x > 0.0 && x.is_finite()).then(|| x.ln())
}

/// The derived inputs that vary over the space, with their ranges.
fn derived(field: &Field) -> Vec<(Source, f64, f64)> {
    let space = &field.space;
    let names = Space::names(&space.parameters);
    let mentioned = |text: &str| {
        words(text)
            .filter(|w| names.iter().any(|(n, _)| n == w))
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    let mut sources: Vec<(String, Source)> = space
        .constraints
        .iter()
        .filter(|c| mentioned(c.that.text()) >= 2)
        .map(|c| (c.that.text().to_owned(), Source::Sides(c.that.clone())))
        .collect();
    for term in space.cost.as_ref().map_or(Vec::new(), |e| terms(e.text())) {
        if mentioned(term) >= 2
            && let Ok(e) = Expr::compile(term, &names)
        {
            sources.push((term.to_owned(), Source::Term(e)));
        }
    }
    sources.dedup_by(|a, b| a.0 == b.0);
    let sample: Vec<Config> = (0..RANGE_POINTS)
        .map(|i| space.decode(&field.sobol(i, 0)))
        .filter(|c| space.is_legal(c))
        .collect();
    sources
        .into_iter()
        .filter_map(|(_, from)| {
            let seen: Vec<f64> = sample.iter().filter_map(|c| reading(&from, c)).collect();
            let low = seen.iter().copied().fold(f64::INFINITY, f64::min);
            let high = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Where the expression is often without a logarithm it would mislead more than help.
            (seen.len() * 4 >= sample.len() * 3 && high - low > 1e-6).then_some((from, low, high))
        })
        .take(MAX_DERIVED)
        .collect()
}

/// The words of an expression.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
}

/// The terms of a sum: the text split at `+` and `-` outside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0_i32, 0);
    let mut found = Vec::new();
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '+' | '-' if depth == 0 => {
                found.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found.retain(|t| !t.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::conformance::spaces;

    #[test]
    fn sums_split_outside_parentheses() {
        assert_eq!(
            terms("cpus * (a + b) + memory_mb / 2048 - 1"),
            ["cpus * (a + b)", "memory_mb / 2048", "1"]
        );
    }

    #[test]
    fn inputs_are_within_the_cube_and_differ_for_different_configs() {
        for space in spaces::all() {
            let field = Field::new(&space);
            let features = Features::new(&field);
            let configs = field.sobol_legal(60, 8_000, 2, |_, _, u| u);
            for (i, (_, a)) in configs.iter().enumerate() {
                let x = features.of(a);
                assert_eq!(x.len(), features.groups.len());
                assert!(x.iter().all(|u| (-0.5..=1.5).contains(u)), "{a}: {x:?}");
                for (_, b) in &configs[..i] {
                    assert_ne!(x, features.of(b), "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn the_connection_budget_is_an_input_of_its_own() {
        let field = Field::new(&spaces::pool());
        let features = Features::new(&field);
        // pool_size, max_overflow, workers, cpus, memory_mb, and one from the constraint.
        assert_eq!(features.group_count, field.dimensions() + 1);
        let mut small = field.space.baseline();
        small.set("pool_size", Value::Int(1));
        let mut large = small.clone();
        large.set("pool_size", Value::Int(40));
        let last = features.groups.len() - 1;
        assert!(features.of(&small)[last] + 0.2 < features.of(&large)[last]);
    }
}
