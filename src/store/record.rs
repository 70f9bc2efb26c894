//! The search space and what a reader must know of a study, in a form that can be kept: expressions as the
//! texts that were typed. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::expr::{Expr, ExprError};
use crate::slo::Slo;
use crate::space::{Binding, Constraint, Domain, Parameter, Space, Value};
use crate::spec::{DockerRef, Objective, StudySpec, SutKind};
use crate::store::StudyMeta;

/// A [`Space`] with its expressions as texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SpaceRecord {
    /// In the order of the file.
    pub parameters: Vec<ParameterRecord>,
    /// Condition and reason.
    #[serde(default)]
    pub constraints: Vec<(String, String)>,
    /// The cost expression.
    #[serde(default)]
    pub cost: Option<String>,
}

/// A parameter with its condition as a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParameterRecord {
    /// Name.
    pub name: String,
    /// Its values.
    pub domain: Domain,
    /// Today's value.
    pub baseline: Value,
    /// What it sets.
    pub binding: Binding,
    /// It exists only where this holds.
    #[serde(default)]
    pub only_if: Option<String>,
}

impl SpaceRecord {
    /// The record of `space`.
    #[must_use]
    pub fn of(space: &Space) -> Self {
        let text = |e: &Expr| e.text().to_owned();
        Self {
            parameters: space
                .parameters
                .iter()
                .map(|p| ParameterRecord {
                    name: p.name.clone(),
                    domain: p.domain.clone(),
                    baseline: p.baseline.clone(),
                    binding: p.binding.clone(),
                    only_if: p.only_if.as_ref().map(text),
                })
                .collect(),
            constraints: space
                .constraints
                .iter()
                .map(|c| (text(&c.that), c.why.clone()))
                .collect(),
            cost: space.cost.as_ref().map(text),
        }
    }

    /// The space again; an error means that the record was edited or written by another version.
    pub fn space(&self) -> Result<Space, ExprError> {
        let bare: Vec<Parameter> = self
            .parameters
            .iter()
            .map(|p| Parameter {
                name: p.name.clone(),
                domain: p.domain.clone(),
                baseline: p.baseline.clone(),
                binding: p.binding.clone(),
                only_if: None,
            })
            .collect();
        let names = Space::names(&bare);
        let mut parameters = bare;
        for (p, r) in parameters.iter_mut().zip(&self.parameters) {
            p.only_if = r.only_if.as_ref().map(|t| Expr::compile(t, &names)).transpose()?;
        }
        let constraints = self
            .constraints
            .iter()
            .map(|(that, why)| {
                Ok(Constraint {
                    that: Expr::compile(that, &names)?,
                    why: why.clone(),
                })
            })
            .collect::<Result<_, ExprError>>()?;
        Ok(Space {
            parameters,
            constraints,
            cost: self.cost.as_ref().map(|t| Expr::compile(t, &names)).transpose()?,
        })
    }
}

/// What a reader of the results must know besides the space. Nothing here may hold a secret: headers,
/// bodies, the fixed environment and the telemetry URLs stay out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// What "sustainable" means.
    pub slo: Slo,
    /// Set when the study looks for the cheapest config at a required rate, requests per second.
    pub required_rps: Option<f64>,
    /// Compose service that was tuned, where it was one.
    pub service: Option<String>,
    /// Container that was tuned, where it was named.
    pub container: Option<String>,
    /// Kind of deployment: docker, swarm, process, command, simulated, demo.
    pub kind: String,
    /// The mix as people read it: method, path template, share.
    pub requests: Vec<String>,
    /// Length of a confirmation window, seconds.
    pub confirm_s: f64,
    /// The highest rate that was allowed, requests per second; 0 where it was not said.
    pub max_rps: f64,
}

impl About {
    /// What may be kept of `spec`.
    #[must_use]
    pub fn of(spec: &StudySpec) -> Self {
        let (kind, service, container) = match spec.sut.as_ref().map(|s| &s.kind) {
            Some(SutKind::Docker(DockerRef::Service { service, .. })) => {
                ("docker", Some(service.clone()), None)
            }
            Some(SutKind::Docker(DockerRef::Container(name))) => ("docker", None, Some(name.clone())),
            // No compose service: nothing that compose would read is written for it.
            Some(SutKind::Swarm(target)) => ("swarm", None, Some(target.service.clone())),
            Some(SutKind::Process { .. }) => ("process", None, None),
            Some(SutKind::Command { .. }) => ("command", None, None),
            Some(SutKind::Simulated { .. }) => ("simulated", None, None),
            Some(SutKind::Demo) => ("demo", None, None),
            None => ("ask and tell", None, None),
        };
        let requests = spec.load.as_ref().map_or_else(Vec::new, |l| {
            let sum: f64 = l.requests.iter().map(|r| r.weight).sum();
            l.requests
                .iter()
                .map(|r| {
                    // A query may carry a key: the path alone says which request it is.
                    let path = r.path.split('?').next().unwrap_or_default();
                    format!(
                        "{} {path} ({:.0} %)",
                        r.method,
                        100.0 * r.weight / sum.max(f64::MIN_POSITIVE)
                    )
                })
                .collect()
        });
        Self {
            slo: spec.slo.clone(),
            required_rps: match spec.objective {
                Objective::CostAt(rate) => Some(rate.get()),
                Objective::SustainableRps => None,
            },
            service,
            container,
            kind: kind.to_owned(),
            requests,
            confirm_s: spec.capacity.confirm.as_secs_f64(),
            max_rps: spec.capacity.max.get(),
        }
    }

    /// The confirmation window.
    #[must_use]
    pub fn confirm(&self) -> Duration {
        Duration::try_from_secs_f64(self.confirm_s).unwrap_or_default()
    }
}

impl StudyMeta {
    /// The facts of a study of `spec`, run on `identity` (an image id or an executable's hash).
    #[must_use]
    pub fn of(spec: &StudySpec, identity: &str, version: &str, created_at: &str) -> Self {
        Self {
            name: spec.name.clone(),
            seed: spec.seed,
            spec_hash: spec.hash.clone(),
            section_hashes: spec.section_hashes.clone(),
            identity: identity.to_owned(),
            version: version.to_owned(),
            created_at: created_at.to_owned(),
            space: SpaceRecord::of(&spec.space),
            about: About::of(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Config;

    /// Breaks when a record loses a condition, a constraint or the cost on its way through JSON.
    #[test]
    fn a_space_survives_its_record() {
        let mut space = Space {
            parameters: vec![
                Parameter {
                    name: "cache".into(),
                    domain: Domain::Choice {
                        values: vec![Value::Text("on".into()), Value::Text("off".into())],
                    },
                    baseline: Value::Text("off".into()),
                    binding: Binding::Env("CACHE".into()),
                    only_if: None,
                },
                Parameter {
                    name: "ttl".into(),
                    domain: Domain::Float {
                        low: 0.5,
                        high: 8.0,
                        step: Some(0.5),
                        log: false,
                    },
                    baseline: Value::Float(1.0),
                    binding: Binding::Unbound,
                    only_if: None,
                },
            ],
            ..Space::default()
        };
        let names = Space::names(&space.parameters);
        space.parameters[1].only_if = Some(Expr::compile(r#"cache == "on""#, &names).unwrap());
        space.constraints.push(Constraint {
            that: Expr::compile("ttl * 2 <= 9", &names).unwrap(),
            why: "memory".into(),
        });
        space.cost = Some(Expr::compile("ttl / 2", &names).unwrap());
        let json = serde_json::to_string(&SpaceRecord::of(&space)).unwrap();
        let back = serde_json::from_str::<SpaceRecord>(&json)
            .unwrap()
            .space()
            .unwrap();
        assert_eq!(back, space);
        let mut c = Config::default();
        c.set("cache", Value::Text("on".into()));
        c.set("ttl", Value::Float(5.0));
        assert!(!back.is_legal(&c), "the constraint is alive");
        assert_eq!(back.cost_of(&c).unwrap(), Some(2.5));
    }
}
