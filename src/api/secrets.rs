//! How does a destination get a secret of its own, for receivers that check HMAC signatures?
//!
//! Beside Ed25519, whose private key nobody but Orderly has, Standard Webhooks knows a secret that both sides
//! share. It leaves here once, in the answer that made it.

use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::payload::{Created, Gone};
use super::problem::{Answers, Ending, Problem};
use super::routes::AppState;
use crate::delivery::{generate_hmac_secret, whsec};
use crate::domain::{DestinationId, HmacSecret};
use crate::store::control::Control;

pub struct SecretsApi {
    pub state: AppState,
}

/// A destination's secret; it is not shown again
// No Debug: it stands here in the clear.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct HmacSecretMade {
    /// `whsec_`, and 32 bytes in base64, as Standard Webhooks writes it
    pub secret: String,
}

impl Example for HmacSecretMade {
    fn example() -> Self {
        HmacSecretMade { secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw/3V5eW5tAbc=".to_owned() }
    }
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Destinations")]
impl SecretsApi {
    /// Make a secret for HMAC signatures
    ///
    /// From the next try on, also of what is queued, each request carries a `v1` signature with it beside the
    /// `v1a` ones. It takes the place of the secret that was there; pause the destination while the receiver
    /// learns the new one.
    #[oai(path = "/destinations/:id/hmac-secret", method = "post", operation_id = "makeHmacSecret")]
    async fn make(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Created<HmacSecretMade>, Answers<Ending>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        self.state.check_visible(id.0, tenancy.as_deref()).await?;
        if self.state.refuses_secrets {
            let detail = "secrets are kept only encrypted; the operator must give --secrets-key";
            return Err(Problem::conflict(detail).into());
        }
        let secret = generate_hmac_secret();
        self.set(id.0, tenancy.as_deref(), Some(&secret)).await?;
        Ok(Created(HmacSecretMade { secret: whsec(&secret) }))
    }

    /// Take the secret away
    ///
    /// From the next try on there is no `v1` signature. Also 204 when there was no secret.
    #[oai(path = "/destinations/:id/hmac-secret", method = "delete", operation_id = "removeHmacSecret")]
    async fn remove(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Gone, Answers<Ending>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        self.set(id.0, tenancy.as_deref(), None).await?;
        Ok(Gone)
    }
}

impl SecretsApi {
    /// Stores it and tells the worker that serves the destination.
    async fn set(&self, id: DestinationId, tenant: Option<&str>, secret: Option<&HmacSecret>) -> Result<(), Problem> {
        let store = &self.state.store;
        if !store.set_hmac_secret(id, tenant, secret).await? {
            return Err(Problem::not_found());
        }
        Ok(store.control(id, Control::Reload).await?)
    }
}
