//! How does a handler learn who calls it?
//!
//! [`Caller`] is a handler's first argument, before anything of the body is read. poem-openapi's own bearer
//! scheme refuses a call without a header before any code of ours runs, so authentication could not be
//! switched off, and takes the first of two headers; hence an extractor by hand.

use std::sync::{Arc, OnceLock};

use poem::http::header;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaOAuthFlow, MetaOAuthFlows, MetaOAuthScope, MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, OAuthScopes};

use super::{AuthError, Principal, Scope, Verifier};
use crate::api::limits::RateLimits;

const BEARER: &str = "Bearer";
const OAUTH2: &str = "OAuth2";

/// poem-openapi describes types, not values, so what the document tells of the issuer must be static.
static TOKEN_ENDPOINT: OnceLock<&'static str> = OnceLock::new();

/// Makes the document offer OAuth2 client credentials at this URL. Once, before the document is made.
pub fn document_token_endpoint(url: &str) {
    TOKEN_ENDPOINT.get_or_init(|| Box::leak(url.to_owned().into_boxed_str()));
}

/// Whose rows a call may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenancy {
    All,
    Confined(String),
}

impl Tenancy {
    /// For statements: null is everybody.
    pub fn as_deref(&self) -> Option<&str> {
        match self {
            Tenancy::All => None,
            Tenancy::Confined(tenant) => Some(tenant),
        }
    }
}

/// Whoever made this call. Needs a [`Verifier`] in the request's data.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Principal>);

impl Caller {
    pub fn principal(&self) -> &Principal {
        &self.0
    }

    /// The rows that this call may touch, if it has the scope.
    pub fn require(&self, scope: Scope) -> Result<Tenancy, AuthError> {
        if !self.0.scopes.contains(scope) {
            return Err(AuthError::Scope(scope));
        }
        Ok(self.0.tenant.clone().map_or(Tenancy::All, Tenancy::Confined))
    }

    /// For what belongs to no tenant, such as the list of workers.
    pub fn require_operator(&self, scope: Scope) -> Result<(), AuthError> {
        match self.require(scope)? {
            Tenancy::All => Ok(()),
            Tenancy::Confined(_) => Err(AuthError::Tenant),
        }
    }

    /// For routes outside poem-openapi.
    pub async fn identify(request: &Request) -> Result<Caller, AuthError> {
        let Some(verifier) = request.data::<Verifier>() else {
            tracing::error!("the application was put together without a Verifier");
            return Err(AuthError::NotSetUp);
        };
        if !verifier.is_enabled() {
            return Ok(Caller(Arc::new(Principal::unrestricted())));
        }
        let identified = match bearer_token(request) {
            Ok(token) => verifier.verify(token).await,
            Err(error) => Err(error),
        };
        if let Err(AuthError::Invalid(reason)) = identified {
            tracing::debug!(reason, "a token was refused");
        }
        identified.map(Caller)
    }
}

/// The one token of the one header. Two headers may be read differently by whoever stands in front of us.
fn bearer_token(request: &Request) -> Result<&str, AuthError> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION).into_iter();
    let first = headers.next().ok_or(AuthError::Missing)?;
    if headers.next().is_some() {
        return Err(AuthError::Invalid("two Authorization headers"));
    }
    let text = first.to_str().map_err(|_| AuthError::Invalid("the header is not ASCII"))?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Invalid("not a bearer token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Invalid("not a bearer token"));
    }
    Ok(token.trim_matches(' '))
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let bearer = MetaSecurityScheme {
            ty: "http",
            description: Some("A JWT signed by EdDSA, ES256 or RS256, with `exp` and `scope`"),
            scheme: Some("bearer"),
            bearer_format: Some("JWT"),
            ..empty_scheme()
        };
        registry.create_security_scheme(BEARER, bearer);
        if let Some(token_endpoint) = TOKEN_ENDPOINT.get() {
            registry.create_security_scheme(OAUTH2, client_credentials(token_endpoint));
        }
    }

    fn security_schemes() -> Vec<&'static str> {
        if TOKEN_ENDPOINT.get().is_some() { vec![BEARER, OAUTH2] } else { vec![BEARER] }
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let caller = Caller::identify(request).await?;
        if let (Some(tenant), Some(limits)) = (&caller.0.tenant, request.data::<RateLimits>()) {
            limits.check_tenant(tenant)?;
        }
        Ok(caller)
    }
}

fn empty_scheme() -> MetaSecurityScheme {
    MetaSecurityScheme {
        ty: "",
        description: None,
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    }
}

fn client_credentials(token_endpoint: &'static str) -> MetaSecurityScheme {
    let scopes: Vec<MetaOAuthScope> = Scope::meta();
    let flow = MetaOAuthFlow { authorization_url: None, token_url: Some(token_endpoint), refresh_url: None, scopes };
    let flows =
        MetaOAuthFlows { implicit: None, password: None, client_credentials: Some(flow), authorization_code: None };
    MetaSecurityScheme { ty: "oauth2", flows: Some(flows), ..empty_scheme() }
}
