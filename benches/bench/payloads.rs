//! What is sent?

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Result;

/// Of the synthetic body.
const BYTES: usize = 500;

/// Bodies, sent in turn.
#[derive(Clone)]
pub struct Payloads {
    pub bodies: Arc<[Bytes]>,
    pub name: String,
    pub file: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl Payloads {
    pub fn load(file: Option<&Path>) -> Result<Payloads> {
        let Some(file) = file else {
            return Ok(Payloads { bodies: [synthetic()].into(), name: format!("{BYTES} bytes"), file: None });
        };
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let body = |line: &str| {
            let payload = serde_json::from_str::<Line<'_>>(line).map_or(line, |line| line.payload.get());
            Bytes::copy_from_slice(payload.as_bytes())
        };
        let bodies: Arc<[Bytes]> = text.lines().filter(|line| !line.trim().is_empty()).map(body).collect();
        if bodies.is_empty() {
            return Err(format!("{} has no payloads", file.display()).into());
        }
        let mut sizes: Vec<usize> = bodies.iter().map(Bytes::len).collect();
        sizes.sort_unstable();
        let name = format!("{} real bodies, median {} bytes", sizes.len(), sizes[sizes.len() / 2]);
        Ok(Payloads { bodies, name, file: Some(file.display().to_string()) })
    }

    pub fn nth(&self, n: u64) -> Bytes {
        self.bodies[(n % self.bodies.len() as u64) as usize].clone()
    }

    /// For a part of this program.
    pub fn arguments(&self) -> Vec<String> {
        self.file.iter().flat_map(|file| ["--payloads".to_owned(), file.clone()]).collect()
    }
}

/// An order, as a shop would tell it.
fn synthetic() -> Bytes {
    let head = r#"{"type":"order.updated","data":{"id":"ord_2f8a61","customer":"cus_90125","currency":"EUR","total":12995,"items":[{"sku":"A-1001","quantity":2,"price":4500},{"sku":"B-2002","quantity":1,"price":3995}],"status":"paid","note":""#;
    let tail = r#""}}"#;
    let filling = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ";
    let note: String = filling.chars().cycle().take(BYTES - head.len() - tail.len()).collect();
    Bytes::from(format!("{head}{note}{tail}"))
}
