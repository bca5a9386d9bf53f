//! What exactly is wrong with a body, and where?

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_path_to_error::Segment;

use crate::api::problem::{Fault, Problem};

/// Fields that answers have and requests may not.
const READ_ONLY: [&str; 7] = ["id", "state", "created_at", "updated_at", "expires_at", "sequence", "has_hmac_secret"];

/// 400 for what is not JSON, 422 with a pointer for JSON of another shape.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
    serde_json::from_str(text).map_err(|_| explain::<T>(text))
}

/// Reads again, minding the way: only bodies that are wrong pay for it.
#[cold]
fn explain<T: DeserializeOwned>(text: &str) -> Problem {
    // A wrong shape ends the reading, so what comes after it was not looked at. This does not recurse,
    // however deep the body.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Problem::bad_request(format!("the body is not JSON: {error}"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return Problem::bad_request("the body could not be read");
    };
    let mut pointer = String::new();
    for segment in error.path() {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let message = error.inner().to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let detail = if let Some(field) = quoted(message, "missing field ") {
        push(&mut pointer, field);
        "it is required".to_owned()
    } else if let Some(field) = quoted(message, "unknown field ") {
        if !pointer.ends_with(&escape(field)) {
            push(&mut pointer, field);
        }
        if READ_ONLY.contains(&field) { "it is read-only".to_owned() } else { "there is no such field".to_owned() }
    } else {
        message.to_owned()
    };
    Problem::wrong(vec![Fault::new(pointer, detail)])
}

fn quoted<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.strip_prefix('`')?.split('`').next()
}

fn push(pointer: &mut String, part: &str) {
    pointer.push('/');
    pointer.push_str(&escape(part));
}

/// RFC 6901, section 3.
pub fn escape(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use poem::error::ResponseError;
    use serde::Deserialize;

    use super::*;
    use crate::api::payload::{given, only_an_object};

    #[derive(Debug, Deserialize)]
    #[serde(remote = "Self", deny_unknown_fields)]
    struct Shape {
        url: String,
        #[serde(default, deserialize_with = "given")]
        number: Option<f64>,
        #[serde(default)]
        list: Vec<Shape>,
    }

    only_an_object!(Shape);

    fn fault(body: &str) -> (u16, String) {
        let problem = parse::<Shape>(body.as_bytes()).expect_err(body);
        let pointer = problem.errors().first().map_or(String::new(), |fault| fault.pointer.clone());
        (problem.status().as_u16(), pointer)
    }

    #[test]
    fn what_is_no_json_is_400_and_what_is_wrong_json_is_422_with_a_pointer() {
        for body in ["", " ", "{", "{\"url\":}", "nul", "{\"url\":\"x\"} x", "\u{feff}{}", "{\"url\":\"\u{1}\"}", "'a'"]
        {
            assert_eq!(fault(body), (400, String::new()), "{body:?}");
        }
        // Wrong in shape and broken after it: not JSON.
        assert_eq!(fault("{\"nope\": 1, \"url\": "), (400, String::new()));
        for (body, pointer) in [
            ("{}", "/url"),
            ("[]", ""),
            ("[\"http://example.com\"]", ""),
            ("{\"url\": \"x\", \"list\": [[\"y\"]]}", "/list/0"),
            ("1", ""),
            ("null", ""),
            ("{\"url\": 1}", "/url"),
            ("{\"url\": null}", "/url"),
            ("{\"url\": \"\\ud800\"}", "/url"),
            ("{\"url\": \"x\", \"id\": 1}", "/id"),
            ("{\"url\": \"x\", \"a/b~c\": 1}", "/a~1b~0c"),
            ("{\"url\": \"x\", \"number\": \"1\"}", "/number"),
            ("{\"url\": \"x\", \"number\": null}", "/number"),
            ("{\"url\": \"x\", \"number\": 1e400}", "/number"),
            ("{\"url\": \"x\", \"list\": [{\"url\": \"y\"}, {\"url\": false}]}", "/list/1/url"),
            ("{\"url\": \"x\", \"list\": [{\"url\": \"y\", \"nope\": 1}]}", "/list/0/nope"),
            ("{\"url\": \"x\", \"list\": [{}]}", "/list/0/url"),
        ] {
            assert_eq!(fault(body), (422, pointer.to_owned()), "{body}");
        }
        assert_eq!(parse::<Shape>(b"{\"url\": \"\xff\"}").expect_err("no UTF-8").status().as_u16(), 400);
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        let deep = format!("{{\"url\": {}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(fault(&deep), (422, "/url".to_owned()));
        let open = format!("{{\"nope\": {}", "[".repeat(1 << 20));
        assert_eq!(fault(&open).0, 400);
    }
}
