//! How does a command of this program call the API without a network?
//!
//! The same handlers, statements and answers, in this process and as whoever owns the database: no tokens,
//! no scopes, no tenants.

use bytes::Bytes;
use http::{Request, Response};
use poem::endpoint::BoxEndpoint;
use poem::{Endpoint, EndpointExt};
use tokio_util::sync::CancellationToken;

use super::routes::app;
use super::site::base_state;
use crate::config::CommonSettings;
use crate::delivery::Guard;
use crate::store::Store;
use crate::store::enqueue::Enqueuer;

pub struct Inside {
    endpoint: BoxEndpoint<'static, poem::Response>,
    enqueuer: Enqueuer,
    writing: CancellationToken,
}

impl Inside {
    /// Ends with [`Inside::finish`].
    pub fn new(store: Store, guard: Guard, common: &CommonSettings) -> Inside {
        let writing = CancellationToken::new();
        let enqueuer = Enqueuer::start(store.clone(), writing.clone());
        let state = base_state(store, enqueuer.clone(), guard, common);
        Inside { endpoint: app(state).boxed(), enqueuer, writing }
    }

    pub async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let (head, body) = request.into_parts();
        let mut request = poem::Request::builder().method(head.method).uri(head.uri).body(body);
        *request.headers_mut() = head.headers;
        let (head, body) = self.endpoint.get_response(request).await.into_parts();
        let mut response = Response::new(body.into_bytes().await.unwrap_or_default());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    /// Returns when the last bell has been rung: a process that ends at once would leave it to the sweep.
    pub async fn finish(self) {
        self.writing.cancel();
        self.enqueuer.stopped().await;
    }
}
