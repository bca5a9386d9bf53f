//! What is done with each request before a handler has it, and with each answer after?
//!
//! In one place instead of a layer for each: a layer keeps the request, half a kilobyte, in its future, and as many
//! futures are moved about as there are layers.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use poem::endpoint::{BoxEndpoint, DynEndpoint};
use poem::error::MethodNotAllowedError;
use poem::http::{HeaderValue, StatusCode};
use poem::{Endpoint, Request, Response};
use poem_openapi::OpenApi;

use super::auth::Verifier;
use super::limits::RateLimits;
use super::problem::{Problem, into_problem, into_problem_with_causes};

/// Where the API's own paths begin. Only calls to these are counted; health checks are not.
const API: &str = "/v1";

/// Counts calls, gives handlers what checks tokens, makes a problem of each error, and tells with a 405 what
/// would be allowed (RFC 9110, section 15.5.6), which poem does not know any more by then.
pub struct Front {
    pub api: Arc<BoxEndpoint<'static, Response>>,
    /// All other addresses; beside them the API's own that are not counted.
    pub rest: BoxEndpoint<'static, Response>,
    pub limits: RateLimits,
    pub verifier: Verifier,
    pub addresses: Addresses,
    pub causes: ShowCauses,
}

/// Whether problems tell what lies behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowCauses {
    No,
    /// In development.
    Yes,
}

/// The paths of a document, and what each takes.
pub struct Addresses(Vec<Address>);

/// A path as the document has it, with `{…}` for what may be anything.
struct Address {
    path: String,
    methods: HeaderValue,
}

impl Addresses {
    pub fn of<T: OpenApi>() -> Addresses {
        let paths = T::meta().into_iter().flat_map(|api| api.paths);
        let mut known: Vec<(String, BTreeSet<String>)> = Vec::new();
        for path in paths {
            let methods = path.operations.iter().map(|operation| operation.method.to_string());
            match known.iter_mut().find(|(other, _)| *other == path.path) {
                Some((_, all)) => all.extend(methods),
                None => known.push((path.path, methods.collect())),
            }
        }
        let addresses = known.into_iter().filter_map(|(path, methods)| {
            let methods: Vec<String> = methods.into_iter().collect();
            Some(Address { path, methods: HeaderValue::try_from(methods.join(", ")).ok()? })
        });
        Addresses(addresses.collect())
    }

    fn methods_at(&self, path: &str) -> Option<HeaderValue> {
        let address = self.0.iter().find(|address| address.path == path);
        let address = address.or_else(|| self.0.iter().find(|address| matches(&address.path, path)));
        address.map(|address| address.methods.clone())
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern.split('/').count() == path.split('/').count()
        && pattern.split('/').zip(path.split('/')).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
}

impl Endpoint for Front {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let uri = request.uri().clone();
        request.extensions_mut().insert(self.verifier.clone());
        let endpoint = if uri.path().starts_with(API) {
            if let Err(too_many) = self.limits.admit(&mut request) {
                return Ok(into_problem(too_many.into()));
            }
            self.api.as_ref()
        } else {
            &self.rest
        };
        let error = match AssertUnwindSafe(DynEndpoint::call(endpoint.as_ref(), request)).catch_unwind().await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
            Err(_) => {
                tracing::error!("a handler panicked");
                let problem =
                    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log says what");
                return Ok(into_problem(problem.into()));
            }
        };
        if error.is::<MethodNotAllowedError>() {
            let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method");
            if let Some(methods) = self.addresses.methods_at(uri.path()) {
                problem = problem.with_allow(methods);
            }
            return Ok(into_problem(problem.into()));
        }
        Ok(match self.causes {
            ShowCauses::Yes => into_problem_with_causes(error),
            ShowCauses::No => into_problem(error),
        })
    }
}
