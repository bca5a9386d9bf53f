//! Who is let in, seen from outside: handlers, the document, and keys that change while the API runs?

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use orderly::api::auth::{AuthError, Caller, Expectations, Pace, Scope, Source, SourceError, Tenancy, Verifier};
use orderly::api::limits::RateLimits;
use orderly::api::server::{ServerLimits, ServerOptions, serve};
use orderly::cli::token::{TokenArgs, sign};
use poem::http::StatusCode;
use poem::test::TestClient;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route};
use poem_openapi::payload::PlainText;
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::PATIENCE;
use crate::support::keys::{file_verifier, token, token_args};

struct Api;

#[OpenApi]
impl Api {
    #[oai(path = "/mine", method = "get")]
    async fn mine(&self, #[oai(scope = "Scope::MessagesRead")] caller: Caller) -> poem::Result<PlainText<String>> {
        Ok(PlainText(match caller.require(Scope::MessagesRead)? {
            Tenancy::All => "everybody's".to_owned(),
            Tenancy::Confined(tenant) => format!("{tenant}'s"),
        }))
    }

    #[oai(path = "/workers", method = "get")]
    async fn workers(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
    ) -> poem::Result<PlainText<&'static str>> {
        caller.require_operator(Scope::MessagesRead)?;
        Ok(PlainText("all"))
    }
}

fn app(verifier: Verifier, limits: RateLimits) -> TestClient<impl Endpoint> {
    let limited = OpenApiService::new(Api, "test", "1").around(move |service, mut request| {
        let limits = limits.clone();
        async move {
            limits.admit(&mut request)?;
            service.call(request).await
        }
    });
    TestClient::new(Route::new().nest("/", limited).data(verifier))
}

fn no_limits() -> RateLimits {
    RateLimits::new(None, None)
}

async fn get<E: Endpoint>(client: &TestClient<E>, path: &str, authorization: &[String]) -> poem::test::TestResponse {
    let mut request = client.get(path);
    for value in authorization {
        request = request.header("authorization", value);
    }
    request.send().await
}

#[tokio::test]
async fn without_authentication_everybody_is_let_in() {
    let client = app(Verifier::disabled(), no_limits());
    for authorization in [vec![], vec!["Bearer nonsense".to_owned()]] {
        let answer = get(&client, "/mine", &authorization).await;
        answer.assert_status_is_ok();
        answer.assert_text("everybody's").await;
    }
    get(&client, "/workers", &[]).await.assert_status_is_ok();
}

#[tokio::test]
async fn an_application_without_a_verifier_lets_nobody_in() {
    let client = TestClient::new(Route::new().nest("/", OpenApiService::new(Api, "test", "1")));
    get(&client, "/mine", &[]).await.assert_status(StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn who_has_no_token_is_told_what_is_missing_and_no_more() {
    let client = app(file_verifier(), no_limits());
    let good = format!("Bearer {}", token(&[], None));
    let expired = sign(&TokenArgs { expires_in: Duration::ZERO, ..token_args(&[], None) }).expect("a token");
    // Within the skew.
    get(&client, "/mine", &[format!("bearer {expired}")]).await.assert_status_is_ok();

    let invalid = r#"Bearer error="invalid_token""#;
    for (authorization, challenge) in [
        (vec![], "Bearer"),
        (vec![good.clone(), good.clone()], invalid),
        (vec![good.clone(), "Basic eDp5".to_owned()], invalid),
        (vec!["Basic eDp5".to_owned()], invalid),
        (vec!["Bearer".to_owned()], invalid),
        (vec!["Bearer ".to_owned()], invalid),
        (vec![format!("{good}, {good}")], invalid),
        (vec![format!("{good}x")], invalid),
        (vec![good.replace("Bearer ", "Bearer\t")], invalid),
    ] {
        let answer = get(&client, "/mine", &authorization).await;
        answer.assert_status(StatusCode::UNAUTHORIZED);
        answer.assert_header("www-authenticate", challenge);
        answer.assert_header("content-type", "application/problem+json");
        let problem: Value = answer.json().await.value().deserialize();
        assert_eq!(problem["status"], 401, "{authorization:?}");
    }
}

#[tokio::test]
async fn a_scope_is_needed_and_a_tenant_is_confined() {
    let client = app(file_verifier(), no_limits());
    let bearer = |scopes: &[Scope], tenant| vec![format!("Bearer {}", token(scopes, tenant))];
    let mine = get(&client, "/mine", &bearer(&[Scope::MessagesRead], Some("acme"))).await;
    mine.assert_text("acme's").await;
    let refused = get(&client, "/mine", &bearer(&[Scope::MessagesWrite], None)).await;
    refused.assert_status(StatusCode::FORBIDDEN);
    refused.assert_header("www-authenticate", r#"Bearer error="insufficient_scope", scope="messages:read""#);
    get(&client, "/workers", &bearer(&[], Some("acme"))).await.assert_status(StatusCode::FORBIDDEN);
    get(&client, "/workers", &bearer(&[], None)).await.assert_status_is_ok();
}

#[tokio::test]
async fn a_tenant_has_a_rate_of_its_own() {
    let client = app(file_verifier(), RateLimits::new(None, NonZeroU32::new(1)));
    for tenant in ["acme", "umbrella"] {
        let bearer = vec![format!("Bearer {}", token(&[], Some(tenant)))];
        get(&client, "/mine", &bearer).await.assert_status_is_ok();
        let second = get(&client, "/mine", &bearer).await;
        second.assert_status(StatusCode::TOO_MANY_REQUESTS);
        second.assert_header("retry-after", "1");
    }
    let client = app(file_verifier(), RateLimits::new(NonZeroU32::new(1), None));
    get(&client, "/mine", &[]).await.assert_status(StatusCode::UNAUTHORIZED);
    get(&client, "/mine", &[]).await.assert_status(StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn the_document_tells_how_to_get_in() {
    let document: Value = serde_json::from_str(&OpenApiService::new(Api, "test", "1").spec()).expect("JSON");
    let bearer = &document["components"]["securitySchemes"]["Bearer"];
    assert_eq!((&bearer["type"], &bearer["scheme"]), (&json!("http"), &json!("bearer")));
    assert_eq!(document["paths"]["/mine"]["get"]["security"][0], json!({"Bearer": ["messages:read"]}));
}

/// An identity provider whose answers the test can change.
#[derive(Clone, Default)]
struct Provider(Arc<ProviderState>);

#[derive(Default)]
struct ProviderState {
    /// Path and answer; a path that is not there is 404.
    pages: Mutex<Vec<(String, Page)>>,
    fetched: watch::Sender<usize>,
}

#[derive(Clone)]
enum Page {
    Json(Value),
    Text(String),
    Redirect(String),
}

impl Provider {
    fn put(&self, path: &str, page: Page) {
        let mut pages = self.0.pages.lock().expect("not poisoned");
        pages.retain(|(known, _)| known != path);
        pages.push((path.to_owned(), page));
    }

    fn clear(&self) {
        self.0.pages.lock().expect("not poisoned").clear();
    }

    fn fetched(&self) -> usize {
        *self.0.fetched.borrow()
    }

    /// Until it has been asked so often again; what was answered to all but the last is then taken or refused.
    async fn fetched_again(&self, times: usize) {
        let mut fetched = self.0.fetched.subscribe();
        let wanted = *fetched.borrow() + times;
        let seen = tokio::time::timeout(PATIENCE, fetched.wait_for(|count| *count >= wanted)).await;
        seen.expect("it is asked in time").expect("the provider is there");
    }

    async fn start(&self) -> (String, Running) {
        let stop = CancellationToken::new();
        let (told, address) = tokio::sync::oneshot::channel();
        let options = ServerOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: None,
            limits: ServerLimits { grace: Duration::ZERO, ..ServerLimits::default() },
        };
        let (provider, token) = (self.clone(), stop.clone());
        let serving = tokio::spawn(async move {
            let _ = serve(provider, options, token, |address| {
                let _ = told.send(address);
            })
            .await;
        });
        (format!("http://{}", address.await.expect("it listens")), Running { serving, _stop: stop.drop_guard() })
    }
}

/// A provider that listens as long as this is there.
struct Running {
    serving: JoinHandle<()>,
    _stop: DropGuard,
}

impl Running {
    async fn stop(self) {
        let Running { serving, _stop: stop } = self;
        drop(stop);
        tokio::time::timeout(PATIENCE, serving).await.expect("it stops in time").expect("it did not panic");
    }
}

/// By tokio's clock, by which the keys age; nobody waits for it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

impl Endpoint for Provider {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        self.0.fetched.send_modify(|count| *count += 1);
        let pages = self.0.pages.lock().expect("not poisoned").clone();
        let page = pages.into_iter().find(|(path, _)| path == request.uri().path()).map(|(_, page)| page);
        Ok(match page {
            Some(Page::Json(value)) => value.to_string().into_response(),
            Some(Page::Text(text)) => text.into_response(),
            Some(Page::Redirect(to)) => StatusCode::FOUND.with_header("location", to).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        })
    }
}

fn jwks(seeds: &[u8]) -> Page {
    let key = |seed: &u8| {
        let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&[*seed; 32]).verifying_key().as_bytes());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": format!("k{seed}"), "x": x})
    };
    Page::Json(json!({"keys": seeds.iter().map(key).collect::<Vec<_>>()}))
}

fn signed(seed: u8, key_id: &str, issuer: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"alg": "EdDSA", "kid": key_id}));
    let message = format!("{header}.{}", part(json!({"exp": 99_999_999_999_u64, "iss": issuer, "sub": "me"})));
    let signature = SigningKey::from_bytes(&[seed; 32]).sign(message.as_bytes()).to_bytes();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn pace(max_age_ms: u64, min_gap_ms: u64) -> Pace {
    Pace {
        max_age: Duration::from_millis(max_age_ms),
        min_gap: Duration::from_millis(min_gap_ms),
        patience: Duration::from_secs(5),
    }
}

async fn jwks_verifier(base: &str, pace: Pace) -> Result<Verifier, SourceError> {
    let source = Source::Jwks(format!("{base}/jwks").parse().expect("a URL"));
    Verifier::with_source(source, Expectations::default(), pace, CancellationToken::new()).await
}

#[tokio::test]
async fn a_new_key_is_noticed_at_once_and_a_withdrawn_one_refused() {
    let provider = Provider::default();
    provider.put("/jwks", jwks(&[1]));
    let (base, _guard) = provider.start().await;
    let verifier = jwks_verifier(&base, pace(600_000, 0)).await.expect("keys");
    let old = signed(1, "k1", "x");
    assert!(verifier.verify(&old).await.is_ok());
    provider.put("/jwks", jwks(&[2, 3]));
    assert!(verifier.verify(&old).await.is_ok(), "nobody has asked for new keys yet");
    assert!(verifier.verify(&signed(2, "k2", "x")).await.is_ok());
    assert!(verifier.verify(&old).await.is_err(), "not even though it was remembered");
    assert!(verifier.verify(&signed(1, "k2", "x")).await.is_err());
}

#[tokio::test]
async fn made_up_key_names_cause_one_fetch() {
    let provider = Provider::default();
    provider.put("/jwks", jwks(&[1]));
    let (base, _guard) = provider.start().await;
    let verifier = jwks_verifier(&base, pace(600_000, 600_000)).await.expect("keys");
    for n in 0..20 {
        assert!(verifier.verify(&signed(9, &format!("made up {n}"), "x")).await.is_err());
    }
    assert_eq!(provider.fetched(), 1, "the first one has just been");
    let verifier = jwks_verifier(&base, pace(600_000, 50)).await.expect("keys");
    pass(Duration::from_millis(60)).await;
    let before = provider.fetched();
    let tries = (0..20).map(|n| {
        let verifier = verifier.clone();
        async move { verifier.verify(&signed(9, &format!("made up {n}"), "x")).await.is_err() }
    });
    assert!(futures_util::future::join_all(tries).await.into_iter().all(|refused| refused));
    assert_eq!(provider.fetched() - before, 1);
}

#[tokio::test]
async fn the_last_good_keys_outlive_an_outage() {
    let provider = Provider::default();
    provider.put("/jwks", jwks(&[1]));
    let (base, running) = provider.start().await;
    let verifier = jwks_verifier(&base, pace(20, 20)).await.expect("keys");
    for broken in [Page::Text("<html>".into()), Page::Json(json!({"keys": []})), Page::Text("x".repeat(600_000))] {
        provider.put("/jwks", broken);
        provider.fetched_again(2).await;
        assert!(verifier.verify(&signed(1, "k1", "x")).await.is_ok());
    }
    provider.clear();
    running.stop().await;
    for _ in 0..5 {
        pass(Duration::from_millis(20)).await;
        // Once the last try is so old, an unknown key waits for the end of another one.
        assert!(verifier.verify(&signed(2, "k2", "x")).await.is_err());
        assert!(verifier.verify(&signed(1, "k1", "x")).await.is_ok());
    }
}

#[tokio::test]
async fn keys_are_fetched_again_by_age() {
    let provider = Provider::default();
    provider.put("/jwks", jwks(&[1]));
    let (base, _guard) = provider.start().await;
    let verifier = jwks_verifier(&base, pace(20, 600_000)).await.expect("keys");
    provider.put("/jwks", jwks(&[2]));
    provider.fetched_again(2).await;
    assert!(verifier.verify(&signed(1, "k1", "x")).await.is_err());
    assert!(verifier.verify(&signed(2, "k2", "x")).await.is_ok());
}

#[tokio::test]
async fn without_a_first_set_of_keys_it_does_not_start() {
    let provider = Provider::default();
    let (base, _guard) = provider.start().await;
    provider.put("/elsewhere", jwks(&[1]));
    for page in [Page::Redirect("/elsewhere".into()), Page::Json(json!({})), Page::Json(json!({"keys": []}))] {
        provider.put("/jwks", page);
        assert!(jwks_verifier(&base, Pace::default()).await.is_err());
    }
}

async fn issuer_verifier(issuer: &str) -> Result<Verifier, SourceError> {
    let expected = Expectations { issuer: Some(issuer.to_owned()), audiences: Vec::new() };
    let source = Source::Issuer(issuer.to_owned());
    Verifier::with_source(source, expected, Pace::default(), CancellationToken::new()).await
}

#[tokio::test]
async fn an_issuer_leads_to_its_keys() {
    for place in ["/.well-known/oauth-authorization-server/realm", "/realm/.well-known/openid-configuration"] {
        let provider = Provider::default();
        let (base, _guard) = provider.start().await;
        let issuer = format!("{base}/realm");
        provider.put("/keys", jwks(&[1]));
        let metadata = |issuer: &str| {
            Page::Json(json!({
                "issuer": issuer,
                "jwks_uri": format!("{base}/keys"),
                "token_endpoint": format!("{base}/token"),
                "response_types_supported": ["code"],
            }))
        };
        provider.put(place, metadata(&issuer));
        let verifier = issuer_verifier(&issuer).await.expect("keys");
        assert_eq!(verifier.token_endpoint(), Some(format!("{base}/token").as_str()));
        assert!(verifier.verify(&signed(1, "k1", &issuer)).await.is_ok());
        let other = verifier.verify(&signed(1, "k1", "http://other")).await;
        assert_eq!(other, Err(AuthError::Invalid("another issuer")));

        for impostor in ["http://other".to_owned(), format!("{issuer}/"), String::new()] {
            provider.put(place, metadata(&impostor));
            assert!(matches!(issuer_verifier(&issuer).await, Err(SourceError::Issuer { .. })), "{impostor}");
        }
    }
}
