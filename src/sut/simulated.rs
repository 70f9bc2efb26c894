//! A deployment that is arithmetic: the URL names the model, the config goes along as its query. Nothing is started;
//! who drives load understands the URL or refuses it.

use super::{Deployment, Health, Sut, SutError, SutFacts};
use crate::space::{Config, Parameter};

/// The arithmetic service of a named model.
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
