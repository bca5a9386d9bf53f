//! Is this request the same one as an earlier one?

use bytes::Bytes;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::store::enqueue::IdempotencyKey;

const MAX_LENGTH: usize = 255;

/// The `Idempotency-Key` header, if there is one. poem-openapi's own extractor takes a value that is not
/// ASCII for none at all, and the request would be carried out twice.
#[derive(Debug)]
pub struct Idempotency(Option<Named>);

#[derive(Debug)]
struct Named {
    path: String,
    key: String,
}

impl Idempotency {
    /// The key under which this body is carried out once. Takes the body: what was read from it is enough from here
    /// on, and thousands wait for the database with it.
    pub fn of(self, body: Bytes) -> Option<IdempotencyKey> {
        let Named { path, key } = self.0?;
        Some(IdempotencyKey { path, key, body_hash: Sha256::digest(&body).to_vec() })
    }
}

impl<'a> ApiExtractor<'a> for Idempotency {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = false;

    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(MetaSchema {
            min_length: Some(1),
            max_length: Some(MAX_LENGTH),
            pattern: Some("^[ -~]+$".to_owned()),
            ..MetaSchema::new("string")
        })))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let mut values = request.headers().get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Idempotency(None)) };
        let bytes = value.as_bytes();
        let printable = bytes.iter().all(|b| (b' '..=b'~').contains(b));
        if values.next().is_some() || !printable || bytes.is_empty() || bytes.len() > MAX_LENGTH {
            return Err(
                Problem::bad_request("`Idempotency-Key` must be 1 to 255 printable ASCII characters, once").into()
            );
        }
        let key = String::from_utf8_lossy(bytes).into_owned();
        Ok(Idempotency(Some(Named { path: request.uri().path().to_owned(), key })))
    }
}
