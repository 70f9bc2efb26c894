//! The connection budget's arithmetic: what the database gives, what a config takes, and every sentence about it.
//!
//! Pure. Asking the database is `telemetry`'s, putting both together `study`'s; the journal keeps a [`Connections`], so
//! that a recommendation can be judged for any number of instances later, without the space file.

use serde::{Deserialize, Serialize};

use super::{ConnectionBudget, StudySpec};
use crate::expr::Expr;
use crate::space::{Binding, Config, Space, Value, legal_share, samples};

/// Configs among which the smallest and the largest are looked for.
const TRIED: u64 = 512;
/// Most instances that are asked about.
pub const MOST_INSTANCES: u32 = 100_000;

/// What the database said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usable {
    /// `max_connections`.
    pub max_connections: u32,
    /// Kept for superusers and for the role `pg_use_reserved_connections`.
    pub reserved: u32,
    /// Open for others than the service, this tool's own included.
    pub others: u32,
}

impl Usable {
    /// What is left for the service.
    #[must_use]
    pub fn count(self) -> u32 {
        self.max_connections
            .saturating_sub(self.reserved)
            .saturating_sub(self.others)
    }

    /// "100 max_connections - 3 reserved - 2 of others".
    #[must_use]
    pub fn words(self) -> String {
        format!(
            "{} max_connections - {} reserved - {} of others",
            self.max_connections, self.reserved, self.others
        )
    }
}

/// A budget with the number of usable connections: everything that judging a config needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Usable connections.
    pub usable: u32,
    /// What the database said, where it was asked.
    pub asked: Option<Usable>,
    /// The part that may be taken, 0..=1.
    pub share: f64,
    /// Left free.
    pub headroom: u32,
    /// What a config takes, all instances together: an expression over the parameters.
    pub uses: String,
}

/// A config at a number of instances that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Instances.
    pub instances: u32,
    /// The arithmetic.
    pub words: String,
}

impl Connections {
    /// Of the file's budget and what is usable.
    #[must_use]
    pub fn of(budget: &ConnectionBudget, usable: u32, asked: Option<Usable>) -> Self {
        Self {
            usable,
            asked,
            share: budget.share.get(),
            headroom: budget.headroom,
            uses: budget.uses.text().to_owned(),
        }
    }

    /// The most that may be taken.
    #[must_use]
    pub fn most(&self) -> f64 {
        (self.share * f64::from(self.usable)).floor() - f64::from(self.headroom)
    }

    /// "92 (100 max_connections - 3 reserved - 5 of others)"
    #[must_use]
    pub fn limit_words(&self) -> String {
        let source = match self.asked {
            Some(u) => u.words(),
            None => format!("{} usable", self.usable),
        };
        let part = if self.share < 1.0 {
            format!("{} % of ({source})", self.share * 100.0)
        } else {
            source
        };
        let free = match self.headroom {
            0 => String::new(),
            n => format!(" - {n} of headroom"),
        };
        format!("{} ({part}{free})", self.most())
    }

    fn expression(&self, space: &Space) -> Result<Expr, String> {
        Expr::compile(&self.uses, &Space::names(&space.parameters))
            .map_err(|e| format!("`{}`: {e}", self.uses))
    }

    /// What `config` takes, and the sum: "replicas * (pool + overflow) = 3 * (50 + 100) = 450".
    pub fn taken(&self, space: &Space, config: &Config) -> Result<(f64, String), String> {
        let total = self
            .expression(space)?
            .number(config)
            .map_err(|e| format!("`{}`: {e}", self.uses))?;
        let filled = filled(&self.uses, space, config);
        let words = if filled.chars().any(|c| "+-*/%(".contains(c)) {
            format!("{} = {filled} = {total}", self.uses)
        } else {
            format!("{} = {total}", self.uses)
        };
        Ok((total, words))
    }

    /// The smallest and the largest sum among `configs`.
    fn extremes(&self, space: &Space, configs: &[Config]) -> Result<Option<[(f64, String); 2]>, String> {
        let mut all = configs
            .iter()
            .map(|c| self.taken(space, c))
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(all.first().cloned().zip(all.last().cloned()).map(|(a, b)| [a, b]))
    }

    /// `config` on `n` instances in production: the sum where it fits, the sum and what would fit where it does not. A
    /// study with one instance takes what it measured `n` times.
    pub fn for_instances(&self, space: &Space, config: &Config, n: u32) -> Result<Fit, String> {
        if n == 0 || n > MOST_INSTANCES {
            return Err(format!(
                "the number of instances must be from 1 to {MOST_INSTANCES}"
            ));
        }
        let at = |n: u32| self.at_instances(space, config, n);
        let (total, words) = at(n)?;
        let limit = self.limit_words();
        if total <= self.most() {
            let words = format!("{words} <= {limit}");
            return Ok(Fit { instances: n, words });
        }
        // More instances never take less: the last that fits is found by halving.
        let (mut fits, mut fails) = (0, n);
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2;
            if at(middle)?.0 <= self.most() {
                fits = middle;
            } else {
                fails = middle;
            }
        }
        let room = (self.most() / f64::from(n)).floor();
        let instead = match fits {
            0 => "not even one instance fits".to_owned(),
            1 => "1 instance fits".to_owned(),
            k => format!("{k} instances fit"),
        };
        Err(format!(
            "{n} {} of this configuration do not fit the connection budget: {words} > {limit}; {instead}; {n} may take {room} \
             connections each: lower the pools, raise max_connections, or put a pooler such as PgBouncer in between",
            if n == 1 { "instance" } else { "instances" }
        ))
    }

    fn at_instances(&self, space: &Space, config: &Config, n: u32) -> Result<(f64, String), String> {
        let replicas = space
            .parameters
            .iter()
            .find(|p| p.binding == Binding::Replicas && mentions(&self.uses, &p.name));
        if let Some(p) = replicas {
            let mut config = config.clone();
            config.set(&p.name, Value::Int(i64::from(n)));
            return self.taken(space, &config);
        }
        let (one, _) = self.taken(space, config)?;
        let filled = filled(&self.uses, space, config);
        let total = one * f64::from(n);
        let inner = |t: &str| match t.starts_with('(') && t.ends_with(')') && !t[1..].contains('(') {
            true => t.to_owned(),
            false => format!("({t})"),
        };
        let words = format!(
            "{n} instances * {} = {n} * {} = {total}",
            inner(&self.uses),
            inner(&filled)
        );
        Ok((total, words))
    }
}

impl StudySpec {
    /// Makes the budget a constraint of the space and returns the arithmetic for people. Refused, with the arithmetic: a
    /// database that leaves nothing, a configuration of today beyond the budget, a space of which nothing fits.
    pub fn apply_connections(&mut self, c: &Connections) -> Result<String, String> {
        let Some(budget) = self.connections.clone() else {
            return Ok(String::new());
        };
        let limit = c.limit_words();
        let leaves_nothing = |e: String| format!("{e}: {limit}");
        let constraint = budget.constraint(c.usable).map_err(leaves_nothing)?;
        let space = &mut self.space;
        let today = space.baseline();
        let (total, today_words) = c.taken(space, &today)?;
        if self.baseline_unknown.is_empty() && total > c.most() {
            return Err(format!(
                "today's configuration exceeds the connection budget: {today_words} > {limit}; lower its pools or raise \
                 max_connections before anything is tuned"
            ));
        }
        let mut configs: Vec<Config> = samples(space, 1, TRIED).filter(|x| space.is_legal(x)).collect();
        configs.extend(corners(space));
        let extremes = c.extremes(space, &configs)?;
        if space
            .constraints
            .iter()
            .all(|x| x.that.text() != constraint.that.text())
        {
            space.constraints.push(constraint);
        }
        if let Some([(least, words), _]) = &extremes
            && *least > c.most()
            && legal_share(space, 1).legal.is_none_or(|n| n == 0)
        {
            return Err(format!(
                "the space exceeds the connection budget: no config fits, the smallest takes {words} > {limit}; lower the \
                 ranges or raise max_connections"
            ));
        }
        let most = extremes.map_or(String::new(), |[_, (most, words)]| {
            if most > c.most() {
                format!("; configs beyond that are left out, the largest would be {words}")
            } else {
                format!("; every config fits, the largest is {words}")
            }
        });
        Ok(format!(
            "connection budget: {} <= {limit}; today {today_words}{most}",
            c.uses
        ))
    }
}

/// All lowest and all highest values.
fn corners(space: &Space) -> Vec<Config> {
    [0.0, 1.0]
        .map(|u| space.decode(&vec![u; space.parameters.len()]))
        .to_vec()
}

/// Pieces of an expression: names and what is between them.
fn pieces(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = is_word(first);
        let end = rest.find(|c| is_word(c) != word).unwrap_or(rest.len());
        let (piece, left) = rest.split_at(end);
        out.push(piece);
        rest = left;
    }
    out
}

fn mentions(text: &str, name: &str) -> bool {
    pieces(text).contains(&name)
}

/// The expression with the values in place of the names; a parameter that is not active is 0.
fn filled(text: &str, space: &Space, config: &Config) -> String {
    let value = |name: &str| {
        let known = space.parameters.iter().any(|p| p.name == name);
        known.then(|| config.get(name).map_or("0".to_owned(), Value::to_string))
    };
    pieces(text)
        .into_iter()
        .map(|p| value(p).unwrap_or_else(|| p.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(low: i64, replicas: &str) -> StudySpec {
        let text = format!(
            "[parameters.pool_size]\ntype = \"int\"\nlow = {low}\nhigh = 50\nbaseline = {low}\nenv = \"POOL_SIZE\"\n\
             [parameters.max_overflow]\ntype = \"int\"\nlow = 0\nhigh = 100\nbaseline = 0\nenv = \"MAX_OVERFLOW\"\n{replicas}\
             [budget]\nconnections = \"postgres\"\n[telemetry]\npostgres = \"postgres://a@127.0.0.1/b\"\n\
             [sut]\nkind = \"docker\"\nservice = \"api\"\nurl = \"http://127.0.0.1:1\"\n[study]\ntrials = 2\n\
             [load]\nrequests = [{{ path = \"/\" }}]\n"
        );
        crate::spec::parse(&text, "x.toml", &|_| None, &|_| Err(String::new()))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    const REPLICAS: &str =
        "[parameters.replicas]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nreplicas = true\n";

    fn connections(s: &StudySpec, max_connections: u32) -> Connections {
        let asked = Usable {
            max_connections,
            reserved: 3,
            others: 2,
        };
        Connections::of(s.connections.as_ref().unwrap(), asked.count(), Some(asked))
    }

    #[test]
    fn the_arithmetic_is_printed_and_becomes_a_constraint() {
        let mut s = spec(2, REPLICAS);
        let c = connections(&s, 100);
        let words = s.apply_connections(&c).unwrap();
        for part in [
            "replicas * (pool_size + max_overflow) <= 95 (100 max_connections - 3 reserved - 2 of others)",
            "today replicas * (pool_size + max_overflow) = 1 * (2 + 0) = 2",
            "3 * (50 + 100) = 450",
        ] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(s.space.constraints.len(), 1);
        let mut large = s.space.baseline();
        large.set("replicas", Value::Int(3));
        large.set("pool_size", Value::Int(31));
        assert!(s.space.is_legal(&large));
        large.set("max_overflow", Value::Int(1));
        assert!(!s.space.is_legal(&large));
        // asked again on resume: still one
        s.apply_connections(&c).unwrap();
        assert_eq!(s.space.constraints.len(), 1);
    }

    #[test]
    fn what_exceeds_the_budget_is_refused_with_the_arithmetic() {
        let mut s = spec(20, REPLICAS);
        let c = connections(&s, 20);
        let today = s.apply_connections(&c).unwrap_err();
        assert!(
            today.contains("1 * (20 + 0) = 20 > 15 (20 max_connections - 3 reserved - 2 of others)"),
            "{today}"
        );
        let mut s = spec(20, REPLICAS);
        s.baseline_unknown.push("pool_size".into());
        let none = s.apply_connections(&c).unwrap_err();
        assert!(
            none.contains("no config fits") && none.contains("= 20 > 15"),
            "{none}"
        );
        let c = connections(&s, 5);
        let nothing = s.apply_connections(&c).unwrap_err();
        assert!(
            nothing.contains("leaves nothing") && nothing.contains("5 max_connections - 3"),
            "{nothing}"
        );
    }

    #[test]
    fn a_recommendation_for_many_instances_fits_or_is_refused_with_what_would() {
        for (replicas, words) in [(REPLICAS, "12 * (7 + 0) = 84"), ("", "12 * (7 + 0) = 84")] {
            let s = spec(2, replicas);
            let c = connections(&s, 100);
            let mut config = s.space.baseline();
            config.set("pool_size", Value::Int(7));
            let fit = c.for_instances(&s.space, &config, 12).unwrap();
            assert!(
                fit.words.contains(words) && fit.words.contains("<= 95"),
                "{}",
                fit.words
            );
            config.set("pool_size", Value::Int(8));
            let refused = c.for_instances(&s.space, &config, 12).unwrap_err();
            for part in ["12 * (8 + 0) = 96 > 95", "11 instances fit", "7 connections each"] {
                assert!(refused.contains(part), "{refused}");
            }
            assert!(c.for_instances(&s.space, &config, 0).is_err());
        }
    }

    /// Fails when variables that nobody tunes, or a factor that is not active, drop out of the sum.
    #[test]
    fn what_is_not_tuned_counts_too() {
        let head =
            "[parameters.pool_size]\ntype = \"int\"\nlow = 2\nhigh = 50\nbaseline = 2\nenv = \"POOL_SIZE\"\n";
        let tail = "[budget]\nconnections = \"postgres\"\n[telemetry]\npostgres = \"postgres://a@127.0.0.1/b\"\n\
             [study]\ntrials = 2\n[load]\nrequests = [{ path = \"/\" }]\n[sut]\nkind = \"docker\"\nservice = \"api\"\n\
             url = \"http://127.0.0.1:1\"\n";
        let uses = |middle: &str, env: &str, container: &[(&str, f64)]| {
            let mut s = crate::spec::parse(
                &format!("{head}{middle}{tail}{env}"),
                "x.toml",
                &|_| None,
                &|_| Err(String::new()),
            )
            .unwrap_or_else(|e| panic!("{e}"));
            s.count_fixed(&container.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect());
            s.connections.unwrap().uses.text().to_owned()
        };
        assert_eq!(uses("", "", &[]), "pool_size");
        assert_eq!(uses("", "env = { WORKERS = \"4\" }\n", &[]), "4 * pool_size");
        assert_eq!(
            uses("", "", &[("WORKERS", 4.0), ("DB_MAX_OVERFLOW", 20.0)]),
            "4 * (pool_size + 20)"
        );
        // The file's own variable is what the trials get.
        assert_eq!(
            uses("", "env = { WORKERS = \"2\" }\n", &[("WORKERS", 4.0)]),
            "2 * pool_size"
        );
        let server = "[parameters.server]\ntype = \"choice\"\nvalues = [\"one\", \"many\"]\nbaseline = \"one\"\nenv = \"SERVER\"\n\
             [parameters.workers]\ntype = \"int\"\nlow = 1\nhigh = 4\nbaseline = 1\nenv = \"WORKERS\"\n\
             only_if = 'server == \"many\"'\n";
        assert_eq!(
            uses(server, "", &[("WORKERS", 4.0)]),
            "max(1, workers) * pool_size"
        );
    }

    #[test]
    fn a_share_and_headroom_are_part_of_the_sum() {
        let s = spec(2, "");
        let mut c = connections(&s, 100);
        (c.share, c.headroom) = (0.9, 5);
        assert_eq!(
            c.limit_words(),
            "80 (90 % of (100 max_connections - 3 reserved - 2 of others) - 5 of headroom)"
        );
    }
}
