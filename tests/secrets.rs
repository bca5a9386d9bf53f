//! Does a destination's HMAC secret sign what it should, and is it nowhere to be found afterwards?

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orderly::store::connect::Dedicated;
use serde_json::{Value, json};

use crate::receivers::{code, runs};
use crate::support::{Answer, Api, Process, Received, Receiver, TestDatabase};

/// Of this test alone.
const SECRETS_KEY: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=";

/// An independent implementation of Standard Webhooks, where it is installed.
const REFERENCE: &str = r#"
import base64, json, sys
from standardwebhooks import Webhook, WebhookVerificationError
verdicts = []
for case in json.load(sys.stdin):
    try:
        Webhook(case["secret"]).verify(base64.b64decode(case["body"]), case["headers"])
        verdicts.append(True)
    except WebhookVerificationError:
        verdicts.append(False)
print(json.dumps(verdicts))
"#;

/// Around the code of docs/RECEIVERS.md, which needs nothing but Python.
const OF_THE_PAGE: &str = r#"
import json, sys
print(json.dumps([
    is_signed(case["secret"], case["headers"], base64.b64decode(case["body"])) for case in json.load(sys.stdin)
]))
"#;

/// Which of these requests are signed with these secrets, by every verifier that runs here.
fn verify(cases: &[(&str, &Received)], expected: &[bool]) {
    let input: Vec<Value> = cases
        .iter()
        .map(|(secret, received)| {
            let header = |name: &str| (name.to_owned(), json!(received.header(name)));
            let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
            json!({
                "secret": secret, "body": STANDARD.encode(&received.body),
                "headers": serde_json::Map::from_iter(headers),
            })
        })
        .collect();
    let input = Value::Array(input).to_string();
    let page = format!("{}\n{OF_THE_PAGE}", code("py"));
    for (needs, script) in [("import hmac", page.as_str()), ("import standardwebhooks", REFERENCE)] {
        if runs("python3", &["-c", needs]) {
            let mut child = Command::new("python3")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it was there a moment ago");
            child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
            let output = child.wait_with_output().expect("it ends");
            let verdicts: Value = serde_json::from_slice(&output.stdout).expect("it prints its verdicts");
            assert_eq!(verdicts, json!(expected), "{needs}");
        }
    }
}

async fn make(api: &Api, id: i64) -> String {
    let made = api.post(&format!("/v1/destinations/{id}/hmac-secret"), json!({})).await.expect(201).json();
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(STANDARD.decode(secret.strip_prefix("whsec_").expect("its prefix")).expect("base64").len(), 32);
    secret
}

async fn stored(connection: &Dedicated, id: i64) -> Option<Vec<u8>> {
    let sql = "select hmac_secret from orderly.destinations where id = $1";
    connection.client.query_one(sql, &[&id]).await.expect("the destination").get(0)
}

#[tokio::test]
async fn a_destinations_secret_signs_what_is_queued_from_the_next_try_on() {
    let database = TestDatabase::new().await;
    let connection = database.connect().await;
    let receiver = Receiver::start().await;
    let (server, api) = Api::serve_with(&database, &["--secrets-key", SECRETS_KEY]).await;
    let arguments = ["worker", "--persistent", "--allow-network", "127.0.0.0/8", "--secrets-key", SECRETS_KEY];
    let worker = Process::start(&arguments, &[database.env()]);
    let retry = json!({"max_retries": 100, "delay_seconds": 0.05});
    let id = api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    let path = format!("/v1/destinations/{id}");
    let shown = async || api.get(&path).await.expect(200).json()["has_hmac_secret"].clone();

    // Without one.
    api.post_message(id, json!(1)).await;
    let plain = receiver.wait_for_ended(1).await.remove(0);
    assert!(!plain.header("webhook-signature").contains("v1,"));
    assert_eq!(shown().await, false);

    // With one, told to the worker that has just served the destination.
    let first = make(&api, id).await;
    assert_eq!(shown().await, true);
    api.post_message(id, json!({"a": "ü"})).await;
    let signed = receiver.wait_for_ended(2).await.remove(1);
    let versions: Vec<&str> = signed.header("webhook-signature").split(' ').map(|one| &one[..3]).collect();
    assert_eq!(versions, ["v1a", "v1,"]);
    let mut changed = signed.clone();
    changed.body = "{}".into();
    let another = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    verify(&[(&first, &signed), (another, &signed), (&first, &changed)], &[true, false, false]);

    // Another in its place, while the head is tried again and again.
    receiver.answer(|_| Answer::status(500));
    api.post_message(id, json!(3)).await;
    let old = receiver.wait_for_ended(4).await.remove(3);
    let second = make(&api, id).await;
    assert_ne!(first, second);
    // One try may have been in flight.
    let so_far = receiver.received().len();
    let new = receiver.wait_for_ended(so_far + 2).await.remove(so_far + 1);
    assert_eq!(old.sequence(), new.sequence());
    verify(&[(&first, &old), (&second, &old), (&first, &new), (&second, &new)], &[true, false, false, true]);

    // A change of something else keeps it, sealed.
    api.patch(&path, json!({"description": "d"})).await.expect(200);
    api.put(&path, json!({"url": receiver.url("/x"), "retry": retry})).await.expect(200);
    assert_eq!(shown().await, true);
    let sealed = stored(&connection, id).await.expect("a secret");
    let raw = STANDARD.decode(&second["whsec_".len()..]).expect("base64");
    assert_eq!(sealed[0], 1, "the format of what is sealed");
    assert!(!sealed.windows(8).any(|part| raw.windows(8).any(|secret| secret == part)));

    // None any more. Once more is as good.
    for _ in 0..2 {
        api.delete(&format!("{path}/hmac-secret")).await.expect(204);
    }
    assert_eq!((shown().await, stored(&connection, id).await), (json!(false), None));
    let so_far = receiver.received().len();
    receiver.answer(|_| Answer::ok());
    api.post_message(id, json!(4)).await;
    let rest = receiver.wait_for(|all| all.last().is_some_and(|last| last.body == "4")).await;
    assert!(rest[so_far + 1..].iter().all(|one| !one.header("webhook-signature").contains("v1,")));

    api.post("/v1/destinations/999/hmac-secret", json!({})).await.expect(404);
    api.delete("/v1/destinations/999/hmac-secret").await.expect(404);
    for lines in [server.stdout(), server.stderr(), worker.stdout(), worker.stderr()] {
        let told = lines.join("\n");
        assert!(!told.contains(&first[6..]) && !told.contains(&second[6..]), "{told}");
    }
}
