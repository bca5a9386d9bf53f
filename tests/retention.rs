//! Does what is kept for a time go when its time is over, and not before?

use std::time::Duration;

use serde_json::json;

use crate::support::{Answer, Receiver, Stage, until};

/// The first sweep of a worker prunes, too: 20 s after its start.
const PRUNED: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_kept_for_a_time_goes_when_that_is_over() {
    let stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.json() == "bad" { 500 } else { 200 })).await;
    let retry = json!({ "max_retries": 0 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    let mut given_up = Vec::new();
    let first = stage.worker(&["--keep-payloads", "2"]).await;
    for _ in 0..3 {
        given_up.push(stage.api.post_message(id, json!("bad")).await);
    }
    let good = [stage.api.post_message(id, json!("good")).await, stage.api.post_message(id, json!("good")).await];
    stage.until_empty(id).await;
    drop(first);
    // A key of a day ago, and one of now.
    let post = |key: &str, body: serde_json::Value| {
        let api = stage.api.with_header("idempotency-key", key);
        async move { api.post("/v1/messages", body).await }
    };
    let message = |payload: &str| json!({ "destination_id": id, "payload": payload });
    let before = post("old", message("one")).await.expect(201).json();
    let kept = post("new", message("one")).await.expect(201).json();
    let [old_letter, young_letter] = [0, 1].map(|n| crate::support::stage::sequence(&given_up[n]));
    let [old_payload, young_payload] = [0, 1].map(|n| crate::support::stage::sequence(&good[n]));
    // Time passes: for the log, a partition of ten days ago and one of five, and the default one.
    stage
        .queue
        .sql(&format!(
            "update orderly.ends set ended_at = ended_at - interval '3 days 1 minute' where sequence = {old_letter};
             update orderly.ends set ended_at = ended_at - interval '2 days 23 hours' where sequence = {young_letter};
             update orderly.kept set delivered_at = delivered_at - interval '2 hours 1 minute' where sequence = {old_payload};
             update orderly.kept set delivered_at = delivered_at - interval '1 hour 59 minutes' where sequence = {young_payload};
             update orderly.idempotency_keys set created_at = created_at - interval '24 hours 1 minute' where key = 'old';
             update orderly.idempotency_keys set created_at = created_at - interval '23 hours 50 minutes' where key = 'new';
             set timezone = 'UTC';
             do $$
             declare
                 days integer;
                 day date;
             begin
                 foreach days in array array[10, 5] loop
                     day := current_date - days;
                     execute format('create table orderly.attempts_%s partition of orderly.attempts for values from (%L) to (%L)',
                                    to_char(day, 'YYYYMMDD'), day::timestamptz, (day + 1)::timestamptz);
                 end loop;
                 foreach days in array array[10, 5, 20, 6] loop
                     insert into orderly.attempts (destination_id, sequence, number, at, delivered, duration_ms)
                     values ({id}, 1000 + days, 1, (current_date - days)::timestamptz + interval '1 hour', false, 1);
                 end loop;
             end $$"
        ))
        .await;
    let old_attempts = "select count(*) from orderly.attempts where sequence > 1000 and destination_id = ";
    assert_eq!(stage.queue.number(&format!("{old_attempts}{id}"), &[]).await, 4);
    // A day is over by the clock alone: the key is new, to who posts again, before anybody prunes.
    let again = post("old", message("another")).await.expect(201).json();
    assert_ne!(again, before);
    assert_eq!(post("new", message("one")).await.expect(201).json(), kept);
    post("new", message("another")).await.expect(422);
    stage
        .queue
        .sql("update orderly.idempotency_keys set created_at = created_at - interval '25 hours' where key = 'old'")
        .await;

    let keeping = ["--keep-dead-letters", "3", "--keep-attempts", "7", "--keep-payloads", "2"];
    let _worker = stage.worker(&keeping).await;
    let left = async || {
        let mut left = Vec::new();
        for table in ["ends", "kept", "idempotency_keys"] {
            left.push(stage.queue.number(&format!("select count(*) from orderly.{table}"), &[]).await);
        }
        left.push(stage.queue.number(&format!("{old_attempts}{id}"), &[]).await);
        left
    };
    // Three letters less one; what was posted under keys is kept by this worker, too: five payloads less one.
    until(PRUNED, left, |left| *left == [2, 4, 1, 2]).await;
    let letters = stage.api.dead_letters(id).await;
    let listed: Vec<&str> = letters.iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!(listed, &given_up[1..]);
    stage.api.get(&format!("/v1/dead-letters/{}", given_up[0])).await.expect(404);
    stage.api.get(&format!("/v1/messages/{}", given_up[1])).await.expect(200);
    let partitions = stage.queue.number(
        "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'orderly.attempts'::regclass and c.relname = 'attempts_' || to_char(
             (clock_timestamp() at time zone 'UTC')::date - 10, 'YYYYMMDD')",
        &[],
    );
    assert_eq!(partitions.await, 0, "a day that is over goes as a whole");
    let ahead = stage.queue.number(
        "select count(*) from generate_series(0, 2) n
         where to_regclass('orderly.attempts_' || to_char((clock_timestamp() at time zone 'UTC')::date + n, 'YYYYMMDD')) is not null",
        &[],
    );
    assert_eq!(ahead.await, 3, "today's and the next two days' are there");
    // Only what was kept is replayed.
    let replayed = stage.api.post(&format!("/v1/destinations/{id}/replay"), json!({ "from_sequence": 1 })).await;
    assert_eq!(replayed.expect(200).json()["queued"], 4);
}
