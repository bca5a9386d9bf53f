//! The floors of accepting: what a handler costs that parses the same and answers the same, and what it
//! takes to bring one message through by bare code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::Data;
use poem::{EndpointExt, Route, Server};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi, OpenApiService};
use tokio::sync::mpsc;
use tokio_postgres::Statement;

use super::{Result, cluster};

#[derive(Object)]
struct MessageIn {
    destination_id: i64,
    payload: serde_json::Value,
}

#[derive(Object)]
struct Queued {
    id: String,
    destination_id: i64,
    sequence: i64,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

#[derive(ApiResponse)]
enum Answer {
    #[oai(status = 201)]
    Created(Json<Queued>),
}

/// No database: numbers from memory.
struct Bare(AtomicI64);

#[OpenApi]
impl Bare {
    #[oai(path = "/v1/messages", method = "post")]
    async fn post(&self, body: Json<MessageIn>) -> Answer {
        let sequence = self.0.fetch_add(1, Ordering::Relaxed);
        // What was parsed is of no further use.
        drop(body.0.payload);
        Answer::Created(Json(queued(body.0.destination_id, sequence)))
    }
}

fn queued(destination_id: i64, sequence: i64) -> Queued {
    let created_at = Utc::now();
    let expires_at = created_at + TimeDelta::days(1);
    Queued { id: format!("{destination_id}-{sequence}"), destination_id, sequence, created_at, expires_at }
}

/// Prints its address, and serves until it is ended.
pub fn handler() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let service = OpenApiService::new(Bare(AtomicI64::new(1)), "floor", "1");
        serve(Route::new().nest("/", service)).await
    })
}

async fn serve(app: impl poem::Endpoint + 'static) -> Result<()> {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await?;
    let address = acceptor.local_addr().into_iter().find_map(|address| address.as_socket_addr().copied());
    let address: SocketAddr = address.ok_or("it listens on no address")?;
    println!("{address}");
    Ok(Server::new_with_acceptor(acceptor).run(app).await?)
}

/// One connection inserts, one notifies, one listens; what it hears of it reads and sends.
struct Relay {
    database: tokio_postgres::Client,
    insert: Statement,
    rung: mpsc::UnboundedSender<i64>,
}

#[poem::handler]
async fn relay_post(
    relay: Data<&Arc<Relay>>,
    body: poem::web::Json<serde_json::Value>,
) -> poem::Result<poem::Response> {
    let failed = |_| poem::Error::from_status(http::StatusCode::SERVICE_UNAVAILABLE);
    let destination = body.0["destination_id"].as_i64().unwrap_or(0);
    let payload = body.0["payload"].to_string().into_bytes();
    let row = relay.database.query_one(&relay.insert, &[&payload]).await.map_err(failed)?;
    let sequence: i64 = row.get(0);
    let _ = relay.rung.send(sequence);
    let text = format!(r#"{{"id":"{destination}-{sequence}"}}"#);
    Ok(poem::Response::builder().status(http::StatusCode::CREATED).content_type("application/json").body(text))
}

#[derive(clap::Args)]
pub struct RelayArguments {
    /// Where everything goes.
    #[arg(long)]
    target: String,
}

/// POST, commit, NOTIFY, POST.
pub fn relay(arguments: RelayArguments) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let url = std::env::var("DATABASE_URL")?;
        let writer = cluster::connect(&url).await?;
        writer
            .client
            .batch_execute("create table floor (sequence bigserial primary key, payload bytea not null)")
            .await?;
        let insert = writer.client.prepare("insert into floor (payload) values ($1) returning sequence").await?;
        let (rung, mut bells) = mpsc::unbounded_channel::<i64>();
        let bell = cluster::connect(&url).await?;
        tokio::spawn(async move {
            while let Some(sequence) = bells.recv().await {
                let _ = bell.client.query("select pg_notify('floor', $1)", &[&sequence.to_string()]).await;
            }
        });
        let mut reader = cluster::connect(&url).await?;
        reader.client.batch_execute("listen floor").await?;
        let read = reader.client.prepare("select payload from floor where sequence = $1").await?;
        let client = super::bare::Client::direct();
        tokio::spawn(async move {
            while let Some((_, payload)) = reader.notifications.recv().await {
                let sequence: i64 = payload.parse()?;
                let row = reader.client.query_one(&read, &[&sequence]).await?;
                let body = bytes::Bytes::copy_from_slice(row.get(0));
                let url = arguments.target.parse()?;
                let request = super::bare::request(&url, 1, sequence.unsigned_abs(), body);
                client.send(request).await?;
            }
            Result::Ok(())
        });
        let relay = Arc::new(Relay { database: writer.client, insert, rung });
        serve(Route::new().at("/v1/messages", poem::post(relay_post)).data(relay)).await
    })
}
