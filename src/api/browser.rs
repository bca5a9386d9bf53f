//! What may a browser do with the API?
//!
//! Pages of other origins nothing, unless they are named; and the one page of ours, `/doc`, may run its own
//! script and talk to the API and to where tokens come from, and cannot be framed.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, IntoResponse, Middleware, Request, Response};
use sha2::{Digest, Sha256};
use url::Url;

/// Cross-origin calls from named origins. Not poem's middleware: that answers 403 to every origin it does not
/// know, our own `/doc` included, whose browser names its origin in each POST. Put it outside of whatever
/// makes answers of errors. No cookie lets anybody in, so what is withheld from others is only reading.
pub struct Cors(Arc<[HeaderValue]>);

impl Cors {
    /// With no origins it does nothing. They are compared byte for byte with the `Origin` header.
    pub fn new(origins: &[String]) -> Cors {
        Cors(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }
}

impl<E: Endpoint> Middleware<E> for Cors {
    type Output = WithCors<E>;

    fn transform(&self, inner: E) -> WithCors<E> {
        WithCors { inner, origins: self.0.clone() }
    }
}

pub struct WithCors<E> {
    inner: E,
    origins: Arc<[HeaderValue]>,
}

impl<E: Endpoint> Endpoint for WithCors<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let origin = request.headers().get(header::ORIGIN).filter(|origin| self.origins.contains(origin)).cloned();
        let preflight = origin.is_some()
            && request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let answer = if preflight {
            Ok(allow_methods())
        } else {
            self.inner.call(request).await.map(IntoResponse::into_response)
        };
        if self.origins.is_empty() {
            return answer;
        }
        let mut response = answer.unwrap_or_else(|error| error.into_response());
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            set(
                headers,
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                "location, retry-after, www-authenticate, x-request-id",
            );
        }
        Ok(response)
    }
}

fn allow_methods() -> Response {
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    let headers = response.headers_mut();
    set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE");
    set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key");
    set(headers, header::ACCESS_CONTROL_MAX_AGE, "600");
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// Headers for a page that carries its scripts within, made for that very text of it.
pub struct PageSecurity(HeaderValue);

impl PageSecurity {
    /// `token_endpoint` is where the page may fetch a token from, besides calling the API.
    pub fn new(html: &str, token_endpoint: Option<&str>) -> PageSecurity {
        let mut policy = "default-src 'none'; script-src".to_owned();
        for script in inline_scripts(html) {
            policy.push_str(&format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(script))));
        }
        // Swagger UI sets styles on elements while it runs, which no hash can foresee.
        policy.push_str("; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'");
        if let Some(Ok(url)) = token_endpoint.map(Url::parse) {
            policy.push_str(&format!(" {}", url.origin().ascii_serialization()));
        }
        policy.push_str("; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
        // All of it is ASCII: hashes and an origin in its ASCII form.
        PageSecurity(HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'")))
    }
}

/// The text of each script element, which ends at the first `</script` and may itself contain `<script`.
fn inline_scripts(html: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once("<script") {
        let Some((script, next)) = after.split_once('>').and_then(|(_, text)| text.split_once("</script")) else {
            break;
        };
        found.push(script);
        rest = next;
    }
    found
}

impl<E: Endpoint> Middleware<E> for PageSecurity {
    type Output = SecuredPage<E>;

    fn transform(&self, inner: E) -> SecuredPage<E> {
        SecuredPage { inner, policy: self.0.clone() }
    }
}

pub struct SecuredPage<E> {
    inner: E,
    policy: HeaderValue,
}

impl<E: Endpoint> Endpoint for SecuredPage<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let mut response = self.inner.call(request).await?.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(headers, header::X_FRAME_OPTIONS, "DENY");
        set(headers, header::REFERRER_POLICY, "no-referrer");
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poem::endpoint::make_sync;
    use poem::test::TestClient;
    use poem::{EndpointExt, Route};

    #[test]
    fn scripts_are_found_whole() {
        let html = "<style>a</style><script charset=\"UTF-8\">if(/<script>/){}</script>\n<script>\n two </script>";
        assert_eq!(inline_scripts(html), ["if(/<script>/){}", "\n two "]);
        assert!(inline_scripts("<script>no end").is_empty());
    }

    #[tokio::test]
    async fn only_named_origins_may_read() {
        let app = Route::new().at("/", make_sync(|_| "hello")).with(Cors::new(&["https://a.example".to_owned()]));
        let client = TestClient::new(app);
        let named = client.get("/").header("origin", "https://a.example").send().await;
        named.assert_status_is_ok();
        named.assert_header("access-control-allow-origin", "https://a.example");
        named.assert_header("vary", "Origin");
        for other in ["https://b.example", "null", "https://a.example.evil", "https://A.example"] {
            let answer = client.post("/").header("origin", other).send().await;
            answer.assert_header_is_not_exist("access-control-allow-origin");
            let preflight = client.options("/").header("origin", other).header("access-control-request-method", "POST");
            let preflight = preflight.send().await;
            preflight.assert_header_is_not_exist("access-control-allow-origin");
        }
        let preflight = client.options("/").header("origin", "https://a.example");
        let preflight = preflight.header("access-control-request-method", "POST").send().await;
        preflight.assert_status(StatusCode::NO_CONTENT);
        preflight.assert_header("access-control-allow-headers", "authorization, content-type, idempotency-key");
    }

    #[tokio::test]
    async fn without_origins_nothing_is_said() {
        let client = TestClient::new(make_sync(|_| "hello").with(Cors::new(&[])));
        let answer = client.get("/").header("origin", "https://a.example").send().await;
        answer.assert_status_is_ok();
        answer.assert_header_is_not_exist("vary");
        answer.assert_header_is_not_exist("access-control-allow-origin");
    }

    #[tokio::test]
    async fn the_page_may_reach_where_tokens_come_from() {
        let security = PageSecurity::new("<script>x</script>", Some("https://idp.example:8443/token?x"));
        let answer = TestClient::new(make_sync(|_| "page").with(security)).get("/").send().await;
        let policy = answer.0.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("connect-src 'self' https://idp.example:8443;"), "{policy}");
        assert!(policy.contains("script-src 'sha256-LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE='"), "{policy}");
        answer.assert_header("x-content-type-options", "nosniff");
    }
}
