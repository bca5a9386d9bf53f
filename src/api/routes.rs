//! Which addresses are there, and what stands around them?

use std::sync::Arc;

use futures_util::future::BoxFuture;
use poem::web::{Html, Json};
use poem::{Endpoint, EndpointExt, IntoEndpoint, Response, Route, endpoint::make_sync};
use url::Url;

use super::auth::{Verifier, document_token_endpoint};
use super::browser::{Cors, PageSecurity};
use super::document::{All, Apis, description};
use super::front::{Addresses, Front, ShowCauses};
use super::limits::RateLimits;
use super::metrics;
use super::problem::Problem;
use crate::delivery::DeliveryClient;
use crate::domain::{DestinationId, Headers, parse_url};
use crate::store::Store;
use crate::store::enqueue::Enqueuer;
use crate::worker::Counters;

/// Says whether a URL may be registered, and if not, why.
pub type UrlCheck = Arc<dyn Fn(Url) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub store: Store,
    pub enqueuer: Enqueuer,
    pub verifier: Verifier,
    pub check_url: UrlCheck,
    /// The public keys that deliveries are signed with (RFC 7517).
    pub jwks: Arc<serde_json::Value>,
    pub limits: RateLimits,
    pub cors_origins: Vec<String>,
    /// Sends test requests.
    pub client: Option<DeliveryClient>,
    /// Of a worker in the same process.
    pub counters: Option<Arc<Counters>>,
    /// Header values would stand in the database in the clear, which production does not allow.
    pub refuses_secrets: bool,
    pub causes: ShowCauses,
}

impl AppState {
    /// Lets everybody do everything, and every URL pass.
    pub fn new(store: Store, enqueuer: Enqueuer) -> AppState {
        let check_url: UrlCheck = Arc::new(|_| Box::pin(std::future::ready(Ok(()))));
        AppState {
            store,
            enqueuer,
            verifier: Verifier::disabled(),
            check_url,
            jwks: Arc::new(serde_json::json!({ "keys": [] })),
            limits: RateLimits::new(None, None),
            cors_origins: Vec::new(),
            client: None,
            counters: None,
            refuses_secrets: false,
            causes: ShowCauses::No,
        }
    }

    /// 422 for a URL that leads where none may lead.
    pub(super) async fn check_url(&self, url: &str) -> Result<(), Problem> {
        let url = parse_url(url).map_err(|error| Problem::wrong_at("/url", error.to_string()))?;
        (self.check_url)(url).await.map_err(|reason| Problem::wrong_at("/url", reason))
    }

    /// 422 for header values where production would have to keep them in the clear.
    pub(super) fn check_secrets(&self, headers: &Headers) -> Result<(), Problem> {
        if self.refuses_secrets && !headers.is_empty() {
            return Err(Problem::wrong_at(
                "/headers",
                "header values are kept only encrypted; the operator must give --secrets-key",
            ));
        }
        Ok(())
    }

    /// 404 for a destination that is not there for this tenant. Who may see all need not be asked.
    pub(super) async fn check_visible(&self, id: DestinationId, tenant: Option<&str>) -> Result<(), Problem> {
        if tenant.is_none() || self.store.destination_is_visible(id, tenant).await? {
            Ok(())
        } else {
            Err(Problem::not_found())
        }
    }
}

/// The API, its document and `/doc`. Needs no server: `poem::test::TestClient` takes it as it is.
pub fn app(state: AppState) -> impl Endpoint<Output = Response> {
    let verifier = state.verifier.clone();
    let causes = state.causes;
    let (jwks, limits, cors) = (state.jwks.clone(), state.limits.clone(), Cors::new(&state.cors_origins));
    let measured = state.clone();
    let token_endpoint = verifier.token_endpoint().map(str::to_owned);
    if let Some(url) = &token_endpoint {
        document_token_endpoint(url);
    }
    let service = description(Apis::of(state));
    let page = service.swagger_ui_html();
    let secured = PageSecurity::new(&page, token_endpoint.as_deref());
    let (json, yaml) = (service.spec_endpoint(), service.spec_endpoint_yaml());
    let api = Arc::new(service.into_endpoint().boxed());
    // The page is 1.5 MB, and the same for all who ask.
    let page = Arc::new(make_sync(move |_| Html(page.clone())).with(secured));
    let routes = Route::new()
        .at("/doc", page.clone())
        .at("/doc/", page)
        .at("/openapi.json", json)
        .at("/openapi.yaml", yaml)
        .at("/.well-known/jwks.json", make_sync(move |_| Json(jwks.as_ref().clone())))
        .at("/metrics", metrics::endpoint(measured))
        .nest("/", api.clone());
    let addresses = Addresses::of::<All>();
    Front { api, rest: routes.boxed(), limits, verifier, addresses, causes }.with(cors)
}
