//! How do tests speak with the REST API?

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{PATIENCE, Process, TestDatabase};

/// A client of one API.
#[derive(Clone)]
pub struct Api {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    headers: HeaderMap,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Panics, with what came, unless it is this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

impl Api {
    /// `base` is `http://host:port`.
    pub fn new(base: &str) -> Api {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Api { base: base.trim_end_matches('/').to_owned(), client, headers: HeaderMap::new() }
    }

    /// An `orderly serve` on this database, with 127.0.0.0/8 allowed as destinations. It ends with the process.
    pub async fn serve(database: &TestDatabase) -> (Process, Api) {
        Api::serve_with(database, &[]).await
    }

    pub async fn serve_with(database: &TestDatabase, arguments: &[&str]) -> (Process, Api) {
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--allow-network", "127.0.0.0/8"];
        let mut process = Process::start(&[&fixed, arguments].concat(), &[database.env()]);
        let line = process.stdout_line("the API listens on ").await;
        let base = line.split_whitespace().find(|word| word.starts_with("http://")).expect("its URL");
        let api = Api::new(base.trim_end_matches(','));
        (process, api)
    }

    /// The same API with a header on every request.
    pub fn with_header(&self, name: &'static str, value: &str) -> Api {
        let mut api = self.clone();
        api.headers.insert(name, value.parse().expect("a header's value"));
        api
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, body.to_string()).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PATCH, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, Bytes::new()).await
    }

    /// The body as it stands; as JSON when there is one.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let body = body.into();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let mut request = request.body(Full::new(body)).expect("a request of the test's own");
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answered = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        let response = answered.expect("an answer in time").expect("the API answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    /// Its id.
    pub async fn post_destination(&self, url: &str) -> i64 {
        self.post_destination_with(json!({ "url": url })).await
    }

    pub async fn post_destination_with(&self, body: Value) -> i64 {
        let reply = self.post("/v1/destinations", body).await.expect(201);
        reply.json()["id"].as_i64().expect("an id")
    }

    /// Its id, `<destination>-<sequence>`.
    pub async fn post_message(&self, destination: i64, payload: Value) -> String {
        self.post_message_with(json!({ "destination_id": destination, "payload": payload })).await
    }

    pub async fn post_message_with(&self, body: Value) -> String {
        let reply = self.post("/v1/messages", body).await.expect(201);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    pub async fn queue(&self, destination: i64) -> Value {
        self.get(&format!("/v1/destinations/{destination}/queue")).await.expect(200).json()
    }
}
