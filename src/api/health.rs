//! Does this process serve?

use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::document::Tag;
use super::payload::Reply;
use super::problem::{Answers, Serving};
use super::routes::AppState;

pub struct HealthApi {
    pub state: AppState,
}

#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub struct Health {
    /// `ok`
    pub status: String,
}

#[OpenApi(prefix_path = "/health", tag = "Tag::Health")]
impl HealthApi {
    /// Tell whether the process lives
    #[oai(path = "/live", method = "get", operation_id = "live")]
    async fn live(&self) -> Reply<Health> {
        Reply(Health::example())
    }

    /// Tell whether the database is within reach
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self) -> Result<Reply<Health>, Answers<Serving>> {
        self.state.store.ping().await?;
        Ok(Reply(Health::example()))
    }
}

impl Example for Health {
    fn example() -> Self {
        Health { status: "ok".to_owned() }
    }
}
