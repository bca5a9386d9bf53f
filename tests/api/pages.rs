//! Does a list show everything once, while things come and go?

use serde_json::json;

use super::{Site, ids};

async fn walk(site: &Site, path: &str, mut between: impl AsyncFnMut()) -> Vec<String> {
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = site.get(&format!("{path}{after}")).await.expect(200);
        seen.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { return seen };
        assert!(next.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{next}");
        after = format!("&after={next}");
        between().await;
    }
}

#[tokio::test]
async fn messages_are_listed_by_destination_then_sequence_while_some_come_and_go() {
    let site = Site::new().await;
    let mut expected = Vec::new();
    let mut destinations = Vec::new();
    for _ in 0..5 {
        destinations.push(site.destination().await);
    }
    // Round and round, so that the order of the list is not that of their arrival.
    let mut names = vec![Vec::new(); 5];
    for n in 0..7 {
        for (place, destination) in destinations.iter().enumerate() {
            if place != 2 {
                names[place].push(site.message(*destination, json!(n)).await);
            }
        }
    }
    expected.extend(names.concat());
    assert_eq!(walk(&site, "/v1/messages?limit=3", async || {}).await, expected);
    assert_eq!(walk(&site, "/v1/messages?limit=28", async || {}).await, expected, "exactly one page");
    let own = walk(&site, &format!("/v1/messages?limit=2&destination_id={}", destinations[3]), async || {}).await;
    assert_eq!(own, names[3]);

    // Behind the reader something comes, before it something goes, and where it stands, too.
    let mut gone = vec![names[0][2].clone(), names[3][1].clone(), names[4][6].clone()];
    let taken_away = gone.clone();
    let seen = walk(&site, "/v1/messages?limit=3", async || {
        if let Some(name) = gone.pop() {
            site.delete(&format!("/v1/messages/{name}")).await.expect(204);
            site.message(destinations[0], json!("late")).await;
        }
    })
    .await;
    let stayed = expected.iter().filter(|name| !taken_away.contains(name)).cloned().collect::<Vec<_>>();
    let shown =
        seen.iter().filter(|name| !taken_away.contains(name) && expected.contains(name)).cloned().collect::<Vec<_>>();
    assert_eq!(shown, stayed, "what stayed is shown once, in order");
    assert!(!seen.contains(&names[3][1]) && !seen.contains(&names[4][6]), "deleted before it was reached");
}

#[tokio::test]
async fn lists_end_and_know_their_cursors() {
    let site = Site::new().await;
    for _ in 0..3 {
        site.destination().await;
    }
    let page = site.get("/v1/destinations?limit=2").await.expect(200);
    let cursor = page["next"].as_str().expect("a cursor");
    let rest = site.get(&format!("/v1/destinations?after={cursor}&limit=500")).await.expect(200);
    assert_eq!((ids(&rest).len(), &rest["next"]), (1, &json!(null)));
    for other in ["/v1/messages", "/v1/dead-letters", "/v1/workers"] {
        site.get(&format!("{other}?after={cursor}")).await.expect(422);
    }
    assert_eq!(site.get("/v1/messages?destination_id=999").await.expect(200), json!({"data": [], "next": null}));
    assert_eq!(site.get("/v1/messages?destination_id=-1").await.expect(200), json!({"data": [], "next": null}));
    assert_eq!(site.get("/v1/dead-letters?destination_id=999").await.expect(200), json!({"data": [], "next": null}));
}

#[tokio::test]
async fn a_list_touches_what_it_returns_however_much_there_is() {
    let site = Site::new().await;
    // 20,000 destinations, every 100th with messages; a tenant with two of them; statistics of an empty table.
    site.sql(
        "with d as (insert into orderly.destinations (tenant, url, headers)
                    select case when n % 10000 = 0 then 't' end, 'http://a/', '\\x007b7d' from generate_series(1, 20000) n returning id, tenant),
              q as (insert into orderly.queues (destination_id, tenant) select id, tenant from d)
         insert into orderly.claims (destination_id) select id from d;
         insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, payload)
         select d, d * 1000 + n, now(), now() + interval '1 day', false, 'application/json', '1'
         from generate_series(100, 20000, 100) d, generate_series(1, 200) n;
         insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, content_type, payload)
         select destination_id, sequence - 500, 'exhausted', created_at, expires_at, 1, content_type, payload from orderly.messages",
    )
    .await;
    let connection = site.database.connect().await;
    let client = &connection.client;
    for (call, most_blocks) in [
        ("orderly.list_messages(null, null, 0, 0, 51)", 600),
        ("orderly.list_messages(null, null, 15000, 15000100, 51)", 600),
        ("orderly.list_messages(null, 15000, 15000, 15000100, 51)", 300),
        ("orderly.list_messages('t', null, 0, 0, 51)", 600),
        ("orderly.list_messages('nobody', null, 0, 0, 51)", 100),
        ("orderly.list_dead_letters(null, null, 0, 0, 51)", 600),
        ("orderly.list_dead_letters('t', null, 0, 0, 51)", 600),
        ("orderly.find_message(15000, 15000100, null)", 150),
    ] {
        // Twice: the first call of a session reads the catalogue.
        let sql = format!("explain (analyze, buffers, format json) select * from {call}");
        let mut blocks = 0;
        for _ in 0..3 {
            let plan: serde_json::Value = client.query_one(&sql, &[]).await.expect(call).get(0);
            let plan = &plan[0]["Plan"];
            blocks = plan["Shared Hit Blocks"].as_i64().unwrap_or(0) + plan["Shared Read Blocks"].as_i64().unwrap_or(0);
        }
        assert!(blocks <= most_blocks, "{call} touched {blocks} blocks");
    }
}
