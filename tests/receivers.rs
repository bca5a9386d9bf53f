//! Do the verifiers of docs/RECEIVERS.md believe Orderly's requests, and no others?
//!
//! The code is taken from the page and run against requests that went over the wire. What cannot run here
//! for want of an interpreter or a library is skipped, and says so.

pub mod example;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use orderly::delivery::{ClientSettings, DeliveryClient, Guard, Meta, SigningKey, SigningKeys};
use orderly::domain::{DestinationId, Headers, Message, MessageId, OnExhausted, Policy, Sequence};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../docs/RECEIVERS.md");

/// One request and what a receiver should make of it.
#[derive(Clone)]
struct Case {
    headers: HashMap<String, String>,
    body: Vec<u8>,
    now: u64,
    expected: &'static str,
}

/// A request as a receiver gets it.
type Received = (HashMap<String, String>, Vec<u8>);

/// Sends by the real client, and gives back what arrived.
async fn deliver(keys: SigningKeys, tries: &[(i64, i64, i64, &'static [u8])]) -> Vec<Received> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let received: Arc<Mutex<Vec<Received>>> = Arc::default();
    let store = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let store = store.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let store = store.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
                    let headers =
                        head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
                    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
                    store.lock().expect("not poisoned").push((headers, body));
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let guard = Guard::new(vec!["127.0.0.0/8".parse().expect("a network")], Vec::new(), false);
    let settings = ClientSettings { guard, keys, egress_proxy: None, extra_roots: Vec::new() };
    let client = DeliveryClient::new(settings).expect("a client");
    let target = client.target(&Policy {
        url: url.parse().expect("a URL"),
        headers: Headers::default(),
        on_exhausted: OnExhausted::Discard,
        retry: None,
        timeout: Duration::from_secs(30),
        max_per_second: None,
        hmac_secret: None,
    });
    for (sequence, previous, epoch, payload) in tries {
        let message = Message {
            sequence: Sequence(*sequence),
            payload: Bytes::from_static(payload),
            content_type: "application/json".to_owned(),
            headers: Headers::default(),
            created_at: chrono::Utc::now(),
            replay_of: None,
        };
        let id = MessageId { destination: DestinationId(1), sequence: Sequence(*sequence) };
        let meta = Meta { id, attempt: 1, epoch: *epoch, previous: Sequence(*previous), skipped: 0 };
        let outcome = client.deliver(&target, &message, &meta, || true).await.expect("the gate is open");
        assert!(outcome.delivered(), "{:?}", outcome.result);
    }
    std::mem::take(&mut received.lock().expect("not poisoned"))
}

/// The receiver's key, and the cases in the order in which it meets them.
async fn cases() -> (SigningKey, Vec<Case>) {
    let [old, new, stranger] = [(); 3].map(|()| SigningKey::generate().expect("random numbers"));
    // Sequence, previous, epoch, payload; the receiver starts anew with the first.
    let tries: [(i64, i64, i64, &'static [u8], &'static str); 8] = [
        (10, 7, 1, b"{}", "new"),
        (10, 7, 1, b"{}", "duplicate"),
        (12, 10, 1, b"\xff\x00 any bytes", "new"),
        (20, 12, 2, b"", "new"),
        (21, 20, 1, b"{}", "refused"),
        (20, 12, 2, b"", "duplicate"),
        (30, 25, 2, b"{}", "missed"),
        (29, 25, 2, b"{}", "refused"),
    ];
    let sent: Vec<_> =
        tries.iter().map(|(sequence, previous, epoch, body, _)| (*sequence, *previous, *epoch, *body)).collect();
    let keys = SigningKeys::new(vec![old, new.clone()]).expect("two keys");
    let received = deliver(keys, &sent).await;
    let mut cases: Vec<Case> = received
        .into_iter()
        .zip(tries)
        .map(|((headers, body), (.., expected))| {
            let now = headers["webhook-timestamp"].parse().expect("seconds");
            Case { headers, body, now, expected }
        })
        .collect();
    let good = Case { expected: "refused", ..cases[0].clone() };
    let mut bad = |change: &dyn Fn(&mut Case)| {
        let mut case = good.clone();
        change(&mut case);
        cases.push(case);
    };
    bad(&|case| case.body.push(b' '));
    bad(&|case| case.now += 301);
    bad(&|case| case.now -= 301);
    bad(&|case| drop(case.headers.insert("webhook-id".to_owned(), "1-11".to_owned())));
    bad(&|case| drop(case.headers.insert("webhook-timestamp".to_owned(), "soon".to_owned())));
    bad(&|case| drop(case.headers.insert("webhook-signature".to_owned(), "v1a,AAAA v1a, v1a v1,x".to_owned())));
    bad(&|case| drop(case.headers.remove("webhook-signature")));
    bad(&|case| drop(case.headers.remove("webhook-timestamp")));
    let forged = deliver(SigningKeys::new(vec![stranger]).expect("one key"), &[(40, 30, 2, b"{}")]).await;
    cases.extend(forged.into_iter().map(|(headers, body)| {
        let now = headers["webhook-timestamp"].parse().expect("seconds");
        Case { headers, body, now, expected: "refused" }
    }));
    (new, cases)
}

pub fn code(language: &str) -> &'static str {
    let start = PAGE.split_once(&format!("```{language}\n")).expect("the page has this language").1;
    start.split_once("```").expect("the block ends").0
}

/// Runs a script of the page's code and `harness`, which reads the cases as JSON and prints the verdicts as
/// JSON.
async fn run(program: &str, extension: &str, language: &str, harness: &str) {
    let (key, cases) = cases().await;
    let input = json!({
        "key": key.whpk(),
        "cases": cases.iter().map(|case| json!({
            "headers": case.headers, "body": STANDARD.encode(&case.body), "now": case.now,
        })).collect::<Vec<_>>(),
    });
    let name = format!("orderly-receiver-{}-{}.{extension}", std::process::id(), key.id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, format!("{}\n{harness}", code(language))).expect("the script is written");
    let mut child = Command::new(program)
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was there a moment ago");
    child.stdin.take().expect("piped").write_all(input.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let _ = std::fs::remove_file(&file);
    assert!(output.status.success(), "{program} failed");
    let verdicts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected: Vec<&str> = cases.iter().map(|case| case.expected).collect();
    assert_eq!(verdicts, json!(expected));
}

pub fn runs(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let runs = found.is_ok_and(|status| status.success());
    if !runs {
        eprintln!("SKIPPED: `{program} {}` does not run here", arguments.join(" "));
    }
    runs
}

#[tokio::test]
async fn the_python_receiver_believes_orderly_and_nobody_else() {
    if runs("python3", &["-c", "import cryptography"]) {
        run("python3", "py", "python", PYTHON).await;
    }
}

#[tokio::test]
async fn the_javascript_receiver_believes_orderly_and_nobody_else() {
    if runs("node", &["--version"]) {
        run("node", "mjs", "javascript", JAVASCRIPT).await;
    }
}

#[tokio::test]
async fn the_rust_receiver_believes_orderly_and_nobody_else() {
    let (key, cases) = cases().await;
    let keys = [example::public_key(&key.whpk()).expect("a key")];
    let mut order = example::Order::default();
    for (number, case) in cases.iter().enumerate() {
        let verdict = example::verify(&keys, &case.headers, &case.body, case.now)
            .and_then(|()| order.accept(&case.headers))
            .map(|verdict| match verdict {
                example::Verdict::New => "new",
                example::Verdict::Missed => "missed",
                example::Verdict::Duplicate => "duplicate",
            });
        assert_eq!(verdict.as_ref().unwrap_or(&"refused"), &case.expected, "case {number}: {verdict:?}");
    }
}

#[test]
fn the_rust_code_of_the_page_is_the_code_that_is_tested() {
    assert_eq!(code("rust"), include_str!("receivers/example.rs"));
}

const PYTHON: &str = r#"
import json, sys
given = json.load(sys.stdin)
keys, order, verdicts = [public_key(given["key"])], Order(), []
for case in given["cases"]:
    try:
        verify(keys, case["headers"], base64.b64decode(case["body"]), case["now"])
        verdicts.append(order.accept(case["headers"]))
    except Refused:
        verdicts.append("refused")
print(json.dumps(verdicts))
"#;

const JAVASCRIPT: &str = r#"
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const keys = [publicKey(given.key)];
const order = new Order();
const verdicts = given.cases.map(({ headers, body, now }) => {
  try {
    verify(keys, headers, Buffer.from(body, "base64"), now);
    return order.accept(headers);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return "refused";
  }
});
console.log(JSON.stringify(verdicts));
"#;
