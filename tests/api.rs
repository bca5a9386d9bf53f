//! Does the REST API keep its contract, call by call? (No worker runs here: what is queued stays.)

mod bad_input;
mod destinations;
mod idempotency;
mod letters;
mod messages;
mod pages;
mod queues;
mod tenants;

use bytes::Bytes;
use http::{Method, StatusCode};
use orderly::api::{AppState, app};
use orderly::store::enqueue::Enqueuer;
use poem::endpoint::{BoxEndpoint, EndpointExt};
use poem::{Body, Endpoint, Request, Response};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::TestDatabase;

/// The API in this process, on a database of its own.
pub struct Site {
    pub database: TestDatabase,
    app: BoxEndpoint<'static, Response>,
    _stop: DropGuard,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Site {
    pub async fn new() -> Site {
        Site::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut AppState)) -> Site {
        let database = TestDatabase::new().await;
        let store = database.store();
        let stop = CancellationToken::new();
        let mut state = AppState::new(store.clone(), Enqueuer::start(store, stop.clone()));
        change(&mut state);
        Site { database, app: app(state).boxed(), _stop: stop.drop_guard() }
    }

    pub async fn send(&self, request: Request) -> Answer {
        let response = self.app.call(request).await.expect("every error is a problem");
        let (parts, body) = response.into_parts();
        let body = body.into_bytes().await.expect("a whole body");
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if answer.status.is_client_error() || answer.status.is_server_error() {
            answer.check_problem();
        }
        answer
    }

    pub async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri_str(path).content_type("application/json");
        self.send(request.body(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::builder().uri_str(path).finish()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::builder().method(Method::DELETE).uri_str(path).finish()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body.to_string()).await
    }

    /// Without a body.
    pub async fn poke(&self, path: &str) -> Answer {
        self.send(Request::builder().method(Method::POST).uri_str(path).finish()).await
    }

    pub async fn post_under(&self, key: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder().method(Method::POST).uri_str(path).content_type("application/json");
        self.send(request.header("idempotency-key", key).body(body.to_owned())).await
    }

    /// Its id.
    pub async fn destination(&self) -> i64 {
        self.destination_with(json!({"url": "http://127.0.0.1:9/hook"})).await
    }

    pub async fn destination_with(&self, body: Value) -> i64 {
        self.post("/v1/destinations", body).await.expect(201)["id"].as_i64().expect("an id")
    }

    /// Its id.
    pub async fn message(&self, destination: i64, payload: Value) -> String {
        self.message_with(json!({"destination_id": destination, "payload": payload})).await
    }

    pub async fn message_with(&self, body: Value) -> String {
        self.post("/v1/messages", body).await.expect(201)["id"].as_str().expect("an id").to_owned()
    }

    pub async fn sql(&self, statements: &str) {
        self.database.connect().await.client.batch_execute(statements).await.expect(statements);
    }

    /// What is stored, all tables that a client's call may write together.
    pub async fn rows(&self) -> i64 {
        let sql = "select (select count(*) from orderly.messages) + (select count(*) from orderly.destinations)
                        + (select count(*) from orderly.ends) + (select count(*) from orderly.idempotency_keys)";
        self.database.connect().await.client.query_one(sql, &[]).await.expect("a count").get(0)
    }
}

impl Answer {
    /// Its body, if it has that status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { serde_json::from_slice(&self.body).expect("JSON") }
    }

    /// The pointers of a problem's errors.
    #[track_caller]
    pub fn pointers(&self, status: u16) -> Vec<String> {
        let problem = self.expect(status);
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|fault| fault["pointer"].as_str().expect("a pointer").to_owned()).collect()
    }

    #[track_caller]
    fn check_problem(&self) {
        let said = String::from_utf8_lossy(&self.body);
        let kind = self.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(kind, Some("application/problem+json"), "{} {said}", self.status);
        let problem: Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], self.status.as_u16(), "{said}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {said}");
        }
        if [429, 503].contains(&self.status.as_u16()) {
            assert!(self.headers.contains_key("retry-after"), "{said}");
        }
    }
}

/// Ids of a page.
pub fn ids(page: &Value) -> Vec<String> {
    let name = |item: &Value| item["id"].as_str().map_or_else(|| item["id"].to_string(), str::to_owned);
    page["data"].as_array().expect("data").iter().map(name).collect()
}
