//! Which methods does an address take?

use std::collections::BTreeSet;

use poem::error::MethodNotAllowedError;
use poem::http::HeaderValue;
use poem::{Endpoint, Request, Response};
use poem_openapi::OpenApi;

use super::problem::{Problem, into_problem, into_problem_with_causes};

/// The outermost endpoint: makes a problem of each error, and tells with a 405 what would be allowed
/// (RFC 9110, section 15.5.6), which poem does not know any more by then.
pub struct Outermost<E> {
    inner: E,
    addresses: Vec<Address>,
    causes: ShowCauses,
}

/// Whether problems tell what lies behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowCauses {
    No,
    /// In development.
    Yes,
}

/// A path as the document has it, with `{…}` for what may be anything.
struct Address {
    path: String,
    methods: HeaderValue,
}

impl<E> Outermost<E> {
    pub fn new<T: OpenApi>(inner: E, causes: ShowCauses) -> Outermost<E> {
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
        Outermost { inner, addresses: addresses.collect(), causes }
    }

    fn methods_at(&self, path: &str) -> Option<HeaderValue> {
        let address = self.addresses.iter().find(|address| address.path == path);
        let address = address.or_else(|| self.addresses.iter().find(|address| matches(&address.path, path)));
        address.map(|address| address.methods.clone())
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern.split('/').count() == path.split('/').count()
        && pattern.split('/').zip(path.split('/')).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
}

impl<E: Endpoint<Output = Response>> Endpoint for Outermost<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let uri = request.uri().clone();
        match self.inner.call(request).await {
            Ok(response) => Ok(response),
            Err(error) if error.is::<MethodNotAllowedError>() => {
                let mut problem =
                    Problem::new(poem::http::StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method");
                if let Some(methods) = self.methods_at(uri.path()) {
                    problem = problem.with_allow(methods);
                }
                Ok(into_problem(problem.into()))
            }
            Err(error) => Ok(match self.causes {
                ShowCauses::Yes => into_problem_with_causes(error),
                ShowCauses::No => into_problem(error),
            }),
        }
    }
}
