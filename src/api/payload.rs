//! How does a request's body become a value, and a value an answer's body?
//!
//! poem-openapi's own `Json` goes through `serde_json::Value`, which reorders keys and refuses `1e400`; here
//! serde reads the bytes, and the bytes stay at hand for an idempotency key.

mod fault;
pub(super) mod object;

pub use fault::{escape, parse};
pub(super) use object::only_an_object;

use std::io;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::{Body, IntoResponse, Request, RequestBody, Response};
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::problem::Problem;

/// The largest request body.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// What a request's body may be.
pub trait RequestShape: DeserializeOwned + Type {
    /// Whether it may come as `application/merge-patch+json`, too.
    const MERGE_PATCH: bool = false;

    /// What an empty body stands for, where one will do.
    fn when_absent() -> Option<Self> {
        None
    }
}

/// A JSON request body, and the bytes it was read from.
#[derive(Debug)]
pub struct JsonBody<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T: RequestShape> Payload for JsonBody<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: RequestShape> ParsePayload for JsonBody<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        Ok(read(request.headers(), body).await?)
    }
}

impl<'a, T: RequestShape> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: <Self as Payload>::CONTENT_TYPE, schema: T::schema_ref() }],
            required: T::when_absent().is_none(),
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        <Self as ParsePayload>::from_request(request, body).await
    }
}

async fn read<T: RequestShape>(headers: &HeaderMap, body: &mut RequestBody) -> Result<JsonBody<T>, Problem> {
    let body = body.take().map_err(|_| Problem::bad_request("the body was read before"))?;
    if let Some(absent) = T::when_absent() {
        let bytes = collect(headers, body).await?;
        if bytes.is_empty() {
            return Ok(JsonBody { value: absent, bytes });
        }
        check_content_type(headers, T::MERGE_PATCH)?;
        return Ok(JsonBody { value: fault::parse(&bytes)?, bytes });
    }
    // Before the body is read: a client that waits for `100 Continue` need not send it.
    check_content_type(headers, T::MERGE_PATCH)?;
    let bytes = collect(headers, body).await?;
    Ok(JsonBody { value: fault::parse(&bytes)?, bytes })
}

/// Reads up to the limit, with or without a Content-Length. A body of one frame is not copied.
async fn collect(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || Problem::too_large("the request is larger than 16 MiB");
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let frames: BoxBody<Bytes, io::Error> = body.into();
    match Limited::new(frames, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::bad_request("the body could not be read to its end")),
    }
}

fn check_content_type(headers: &HeaderMap, merge_patch: bool) -> Result<(), Problem> {
    let unsupported = |detail: &'static str| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(unsupported("the body must not be compressed"));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(unsupported("the request has no Content-Type; it must be application/json"));
    };
    let essence = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let accepted = essence.eq_ignore_ascii_case(b"application/json")
        || merge_patch && essence.eq_ignore_ascii_case(b"application/merge-patch+json");
    if accepted { Ok(()) } else { Err(unsupported("the Content-Type must be application/json")) }
}

/// For fields that may be left out but not be null, or whose null is a value: serde takes a null for an
/// absent one otherwise.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An answer's body: serde writes it, so that a stored payload comes out as it stands.
#[derive(Debug)]
pub struct Reply<T>(pub T);

impl<T: Serialize + Type> Payload for Reply<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Serialize + Send> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(256);
        if let Err(error) = serde_json::to_writer(&mut body, &self.0) {
            tracing::error!(error = &error as &dyn std::error::Error, "an answer could not be written");
            return StatusCode::INTERNAL_SERVER_ERROR.into();
        }
        Response::builder()
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Body::from_vec(body))
    }
}

impl<T: Serialize + Type> ApiResponse for Reply<T> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![success::<T>(200, "Done")] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A 201.
#[derive(Debug)]
pub struct Created<T>(pub T);

impl<T: Serialize + Send> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = Reply(self.0).into_response();
        if response.status() == StatusCode::OK {
            response.set_status(StatusCode::CREATED);
        }
        response
    }
}

impl<T: Serialize + Type> ApiResponse for Created<T> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![success::<T>(201, "Accepted, and safe from now on")] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A 204.
#[derive(Debug)]
pub struct Gone;

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into()
    }
}

impl ApiResponse for Gone {
    fn meta() -> MetaResponses {
        let none = MetaResponse {
            description: "Gone",
            status: Some(204),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: vec![none] }
    }

    fn register(_registry: &mut Registry) {}
}

fn success<T: Type>(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }],
        headers: vec![],
    }
}
