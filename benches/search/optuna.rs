//! Optuna as a peer, through a child process that speaks JSON lines. Illegal proposals cost it nothing, and
//! the log scales that our search finds by itself are declared to it: generous, so that what remains is the
//! algorithm.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use autotune::space::{Config, Domain, Space, Value};
use serde_json::json;

use crate::race::Searcher;

const SCRIPT: &str = include_str!("optuna_peer.py");

fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn imports(modules: &str) -> bool {
    Command::new(python())
        .args(["-c", &format!("import {modules}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The samplers that this machine has.
pub fn samplers() -> Vec<Searcher> {
    if !imports("optuna") {
        println!("\nOptuna is not installed (pip install optuna; PYTHON names the interpreter): left out");
        return vec![];
    }
    let mut all = vec![Searcher::Optuna("TPE")];
    if imports("torch, scipy") {
        all.push(Searcher::Optuna("GPSampler"));
    }
    all
}

pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(sampler: &str, space: &Space, seed: u64) -> Self {
        let mut child = Command::new(python())
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut peer = Self {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        let parameters: Vec<serde_json::Value> = space.parameters.iter().map(described).collect();
        let baseline = serde_json::to_value(space.baseline()).unwrap();
        peer.say(&json!({"sampler": sampler, "seed": seed, "parameters": parameters, "baseline": baseline}));
        peer
    }

    fn say(&mut self, line: &serde_json::Value) {
        writeln!(self.to, "{line}").unwrap();
        self.to.flush().unwrap();
    }

    /// The next legal config; illegal ones are told and cost no trial, up to a bound.
    pub fn ask(&mut self, space: &Space) -> Config {
        for _ in 0..300 {
            self.say(&json!({"ask": true}));
            let mut line = String::new();
            self.from.read_line(&mut line).unwrap();
            let flat: std::collections::BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&line).unwrap();
            let full: Config = space
                .parameters
                .iter()
                .map(|p| (p.name.clone(), typed(&p.domain, &flat[&p.name])))
                .collect();
            let config = space.decode(&space.encode(&full));
            if space.is_legal(&config) {
                return config;
            }
            self.say(&json!({"tell": null}));
        }
        space.baseline()
    }

    pub fn tell(&mut self, rate: Option<f64>) {
        self.say(&json!({"tell": rate}));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn described(p: &autotune::space::Parameter) -> serde_json::Value {
    match &p.domain {
        Domain::Int { low, high, step, .. } => {
            let log = *step == 1 && *low > 0 && high / low >= 8;
            json!({"name": p.name, "type": "int", "low": low, "high": high, "step": step, "log": log})
        }
        Domain::Float { low, high, step, .. } => {
            let log = step.is_none() && *low > 0.0 && high / low >= 8.0;
            json!({"name": p.name, "type": "float", "low": low, "high": high, "step": step, "log": log})
        }
        Domain::Choice { values } => json!({"name": p.name, "type": "choice", "values": values}),
    }
}

fn typed(domain: &Domain, v: &serde_json::Value) -> Value {
    match domain {
        Domain::Int { .. } => Value::Int(v.as_i64().unwrap()),
        Domain::Float { .. } => Value::Float(v.as_f64().unwrap()),
        Domain::Choice { .. } => Value::Text(v.as_str().unwrap().to_owned()),
    }
}
