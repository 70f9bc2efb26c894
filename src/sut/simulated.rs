//! A deployment that is arithmetic: the URL names the model, the config goes along as its query. Nothing is started;
//! who drives load understands the URL or refuses it.

use std::time::Duration;

use super::{Deployment, Health, Sut, SutError, SutFacts};
use crate::space::{Config, Parameter};

/// Longest time that a model takes to come up.
const LONGEST: f64 = 60.0;

/// The arithmetic service of a named model. A word `ready_after=1.5` makes each deployment take so many seconds.
#[derive(Debug, Clone)]
pub struct SimulatedSut {
    model: String,
    is_up: bool,
}

impl SimulatedSut {
    /// The service of `model`.
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            is_up: false,
        }
    }

    fn ready_after(&self) -> Duration {
        let seconds = self
            .model
            .split_whitespace()
            .find_map(|w| w.strip_prefix("ready_after=")?.parse().ok());
        Duration::from_secs_f64(seconds.unwrap_or(0.0_f64).clamp(0.0, LONGEST))
    }
}

impl Sut for SimulatedSut {
    async fn preflight(&mut self, _parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        Ok(SutFacts {
            lines: vec![format!("simulated service `{}`: nothing is started", self.model)],
            identity: format!("simulated:{}", self.model),
            ..SutFacts::default()
        })
    }

    async fn deploy(
        &mut self,
        _trial: u32,
        _parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        tokio::time::sleep(self.ready_after()).await;
        let query: Vec<String> = config.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self.is_up = true;
        Ok(Deployment {
            urls: vec![format!("simulated://{}?{}", self.model, query.join("&"))],
            proof: query,
            ..Deployment::default()
        })
    }

    async fn health(&mut self) -> Health {
        if self.is_up {
            Health::Running
        } else {
            Health::Unknown("nothing is deployed".into())
        }
    }

    async fn log_tail(&mut self) -> String {
        String::new()
    }

    async fn teardown(&mut self) -> Result<(), SutError> {
        self.is_up = false;
        Ok(())
    }

    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        self.teardown().await.map(|()| None)
    }
}
