//! Is a tenant's own all that it sees, and is a scope needed for each call?

use http::Method;
use orderly::api::auth::Scope;
use poem::Request;
use serde_json::{Value, json};

use super::{Answer, Site, ids};
use crate::support::keys::{file_verifier, token};

async fn guarded() -> Site {
    Site::with(|state| state.verifier = file_verifier()).await
}

/// A caller with its token.
struct As<'a>(&'a Site, String);

impl As<'_> {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request =
            Request::builder().method(method).uri_str(path).header("authorization", format!("Bearer {}", self.1));
        if body.is_some() {
            request = request.content_type("application/json");
        }
        self.0.send(request.body(body.map_or(String::new(), |body| body.to_string()))).await
    }
}

/// Every call that names a thing of somebody's.
fn calls(destination: i64, message: &str) -> Vec<(Method, String, Option<Value>)> {
    let url = json!({"url": "http://b/"});
    let destination = format!("/v1/destinations/{destination}");
    vec![
        (Method::GET, destination.clone(), None),
        (Method::PUT, destination.clone(), Some(url.clone())),
        (Method::PATCH, destination.clone(), Some(url)),
        (Method::GET, format!("{destination}/queue"), None),
        (Method::POST, format!("{destination}/pause"), None),
        (Method::POST, format!("{destination}/resume"), None),
        (Method::POST, format!("{destination}/retry-now"), None),
        (Method::POST, format!("{destination}/skip"), None),
        (Method::POST, format!("{destination}/skip"), Some(json!({"message_id": "1-1"}))),
        (Method::POST, format!("{destination}/purge"), None),
        (Method::POST, format!("{destination}/hmac-secret"), None),
        (Method::DELETE, format!("{destination}/hmac-secret"), None),
        (Method::DELETE, destination, None),
        (Method::GET, format!("/v1/messages/{message}"), None),
        (Method::GET, format!("/v1/messages/{message}/attempts"), None),
        (Method::DELETE, format!("/v1/messages/{message}"), None),
        (Method::GET, format!("/v1/dead-letters/{message}"), None),
        (Method::POST, format!("/v1/dead-letters/{message}/redrive"), None),
        (Method::DELETE, format!("/v1/dead-letters/{message}"), None),
    ]
}

#[tokio::test]
async fn what_is_another_tenants_is_not_there() {
    let site = guarded().await;
    let everything = Scope::ALL;
    let (operator, one, two) = (
        As(&site, token(&everything, None)),
        As(&site, token(&everything, Some("one"))),
        As(&site, token(&everything, Some("two"))),
    );
    let body = json!({"url": "http://a/"});
    let own =
        one.call(Method::POST, "/v1/destinations", Some(body.clone())).await.expect(201)["id"].as_i64().expect("an id");
    let other = two.call(Method::POST, "/v1/destinations", Some(body)).await.expect(201)["id"].as_i64().expect("an id");
    let message = json!({"destination_id": own, "payload": 1});
    let queued = one.call(Method::POST, "/v1/messages", Some(message.clone())).await.expect(201);
    let dead = one.call(Method::POST, "/v1/messages", Some(message.clone())).await.expect(201);
    let dead = dead["id"].as_str().expect("an id").to_owned();
    site.sql(&format!(
        "with gone as (delete from orderly.messages where sequence = {} returning *)
         insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, content_type, payload)
         select destination_id, sequence, 'exhausted', created_at, expires_at, 4, content_type, payload from gone",
        dead.split('-').nth(1).expect("a sequence")
    ))
    .await;

    for name in [queued["id"].as_str().expect("an id"), &dead] {
        for (method, path, body) in calls(own, name) {
            let answer = two.call(method.clone(), &path, body).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
    assert_eq!(two.call(Method::POST, "/v1/messages", Some(message.clone())).await.pointers(422), ["/destination_id"]);
    let batch = json!({"messages": [{"destination_id": other, "payload": 1}, message]});
    assert_eq!(
        two.call(Method::POST, "/v1/messages/batch", Some(batch)).await.pointers(422),
        ["/messages/1/destination_id"]
    );
    let redrive = json!({"destination_id": own});
    assert_eq!(
        two.call(Method::POST, "/v1/dead-letters/redrive", Some(redrive)).await.pointers(422),
        ["/destination_id"]
    );
    for list in [
        "/v1/messages".to_owned(),
        "/v1/dead-letters".to_owned(),
        format!("/v1/messages?destination_id={own}"),
        format!("/v1/dead-letters?destination_id={own}"),
    ] {
        assert_eq!(two.call(Method::GET, &list, None).await.expect(200)["data"], json!([]), "{list}");
        for caller in [&one, &operator] {
            assert_eq!(ids(&caller.call(Method::GET, &list, None).await.expect(200)).len(), 1, "{list}");
        }
    }
    let seen = ids(&two.call(Method::GET, "/v1/destinations", None).await.expect(200));
    assert_eq!(seen, [other.to_string()]);
    assert_eq!(ids(&operator.call(Method::GET, "/v1/destinations", None).await.expect(200)).len(), 2);
    two.call(Method::GET, "/v1/workers", None).await.expect(403);
    operator.call(Method::GET, "/v1/workers", None).await.expect(200);
}

#[tokio::test]
async fn each_call_needs_its_scope() {
    let site = guarded().await;
    let mut all = calls(1, "1-1");
    let message = json!({"destination_id": 1, "payload": 1});
    all.extend([
        (Method::GET, "/v1/destinations".to_owned(), None),
        (Method::POST, "/v1/destinations".to_owned(), Some(json!({"url": "http://a/"}))),
        (Method::GET, "/v1/messages".to_owned(), None),
        (Method::POST, "/v1/messages".to_owned(), Some(message.clone())),
        (Method::POST, "/v1/messages/batch".to_owned(), Some(json!({"messages": [message]}))),
        (Method::GET, "/v1/dead-letters".to_owned(), None),
        (Method::POST, "/v1/dead-letters/redrive".to_owned(), Some(json!({"destination_id": 1}))),
        (Method::GET, "/v1/workers".to_owned(), None),
    ]);
    for (method, path, body) in all {
        let of_messages = path.starts_with("/v1/messages") || path.starts_with("/v1/dead-letters");
        let needed = match (of_messages, method == Method::GET) {
            (true, true) => Scope::MessagesRead,
            (true, false) => Scope::MessagesWrite,
            (false, true) => Scope::DestinationsRead,
            (false, false) => Scope::DestinationsWrite,
        };
        let others: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| *scope != needed).collect();
        let refused = As(&site, token(&others, None)).call(method.clone(), &path, body.clone()).await;
        assert_eq!(refused.status, 403, "{method} {path}");
        let nobody = site.send(Request::builder().method(method.clone()).uri_str(&path).finish()).await;
        assert_eq!(nobody.status, 401, "{method} {path}");
        assert_eq!(nobody.headers["www-authenticate"], "Bearer");
        let let_in = As(&site, token(&[needed], None)).call(method.clone(), &path, body).await;
        assert!(![401, 403].contains(&let_in.status.as_u16()), "{method} {path}: {let_in:?}");
    }
    for open in ["/doc", "/openapi.json", "/openapi.yaml", "/health/live", "/health/ready"] {
        assert_eq!(site.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn keys_of_idempotency_belong_to_their_tenant() {
    let site = guarded().await;
    let mut made = Vec::new();
    for tenant in [Some("one"), Some("two"), None] {
        let token = token(&Scope::ALL, tenant);
        let post = || {
            Request::builder()
                .method(Method::POST)
                .uri_str("/v1/destinations")
                .content_type("application/json")
                .header("authorization", format!("Bearer {token}"))
                .header("idempotency-key", "same")
                .body(r#"{"url":"http://a/"}"#)
        };
        let first = site.send(post()).await.expect(201);
        assert_eq!(site.send(post()).await.expect(201), first);
        made.push(first["id"].clone());
    }
    made.dedup();
    assert_eq!(made.len(), 3);
}

#[tokio::test]
async fn secrets_are_refused_where_they_would_be_stored_in_the_clear() {
    let site = Site::with(|state| state.refuses_secrets = true).await;
    let secret = json!({"url": "http://a/", "headers": {"authorization": "secret"}});
    assert_eq!(site.post("/v1/destinations", secret.clone()).await.pointers(422), ["/headers"]);
    let id = site.destination().await;
    let path = format!("/v1/destinations/{id}");
    assert_eq!(site.call(Method::PUT, &path, secret.to_string()).await.pointers(422), ["/headers"]);
    site.call(Method::PATCH, &path, r#"{"description":"d"}"#).await.expect(200);
    let refused = site.poke(&format!("{path}/hmac-secret")).await.expect(409);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("--secrets-key")), "{refused}");
    assert_eq!(site.get(&path).await.expect(200)["has_hmac_secret"], false);
    site.delete(&format!("{path}/hmac-secret")).await.expect(204);
}
