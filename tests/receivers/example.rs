use std::collections::{HashMap, HashSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};

/// Answer 400: this request is not to be believed.
#[derive(Debug, PartialEq)]
pub struct Refused(pub &'static str);

/// `whpk_…`, as Orderly's operator gave it to you.
pub fn public_key(text: &str) -> Option<VerifyingKey> {
    let bytes = STANDARD.decode(text.strip_prefix("whpk_")?).ok()?;
    VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
}

/// Fails unless one of these keys signed this request within five minutes of now.
pub fn verify(keys: &[VerifyingKey], headers: &HashMap<String, String>, body: &[u8], now: u64) -> Result<(), Refused> {
    let header = |name: &str| headers.get(name).ok_or(Refused("not a signed request"));
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let sent: u64 = timestamp.parse().map_err(|_| Refused("not a signed request"))?;
    if now.abs_diff(sent) > 300 {
        return Err(Refused("too old, or a clock is wrong"));
    }
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let good = header("webhook-signature")?
        .split(' ')
        .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1a,")?).ok())
        .filter_map(|bytes| Signature::from_slice(&bytes).ok())
        .any(|signature| keys.iter().any(|key| key.verify_strict(&signed, &signature).is_ok()));
    if good { Ok(()) } else { Err(Refused("no signature is good")) }
}

/// What to remember of one destination.
#[derive(Default)]
pub struct Order {
    done: HashSet<String>,
    last: i64,
    epoch: i64,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Do its work.
    New,
    /// Do its work, and look after what came before: you acknowledged something that you do not have.
    Missed,
    /// Answer 200 and do nothing.
    Duplicate,
}

impl Order {
    pub fn accept(&mut self, headers: &HashMap<String, String>) -> Result<Verdict, Refused> {
        let number = |name: &str| headers.get(name)?.parse::<i64>().ok();
        let (Some(id), Some(sequence), Some(previous), Some(epoch)) = (
            headers.get("webhook-id"),
            number("orderly-sequence"),
            number("orderly-previous-sequence"),
            number("orderly-epoch"),
        ) else {
            return Err(Refused("not a request of Orderly's"));
        };
        if epoch < self.epoch {
            return Err(Refused("from a worker that was replaced"));
        }
        self.epoch = epoch;
        if self.done.contains(id) {
            return Ok(Verdict::Duplicate);
        }
        if sequence <= self.last {
            return Err(Refused("out of order"));
        }
        let missed = self.last != 0 && previous > self.last;
        self.done.insert(id.clone());
        self.last = sequence;
        Ok(if missed { Verdict::Missed } else { Verdict::New })
    }
}
