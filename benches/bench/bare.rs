//! The floors of delivering: the same requests by the same HTTP client, without a queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use orderly::delivery::{SigningKey, SigningKeys, sign};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::Result;
use super::cluster;
use super::payloads::Payloads;

#[derive(clap::Args)]
pub struct DeliverArguments {
    #[arg(long)]
    base: String,
    #[arg(long)]
    destinations: u64,
    /// For each destination.
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    concurrency: usize,
    /// Signs each request as a worker does, with one key.
    #[arg(long)]
    sign: bool,
    /// Sends by reqwest, not by the client that a worker uses.
    #[arg(long)]
    reqwest: bool,
    #[arg(long)]
    payloads: Option<std::path::PathBuf>,
}

#[derive(clap::Args)]
pub struct SingleArguments {
    #[arg(long)]
    url: String,
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    payloads: Option<std::path::PathBuf>,
}

#[derive(Serialize, Deserialize)]
pub struct Took {
    pub seconds: f64,
}

/// Each destination's messages one after the other, all destinations side by side, as many requests in
/// flight as a worker has.
pub fn deliver(arguments: DeliverArguments) -> Result<()> {
    let payloads = Payloads::load(arguments.payloads.as_deref())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = if arguments.reqwest { Client::Reqwest(reqwest_client()?) } else { Client::direct() };
        let slots = Arc::new(Semaphore::new(arguments.concurrency));
        let keys = if arguments.sign { vec![SigningKey::generate()?] } else { Vec::new() };
        let keys = SigningKeys::new(keys)?;
        let started = Instant::now();
        let mut lanes = tokio::task::JoinSet::new();
        for destination in 1..=arguments.destinations {
            let (client, slots, payloads, keys) = (client.clone(), slots.clone(), payloads.clone(), keys.clone());
            let url: Uri = format!("{}/d/{destination}", arguments.base).parse()?;
            lanes.spawn(async move {
                for n in 1..=arguments.messages {
                    let _slot = slots.acquire().await?;
                    let body = payloads.nth(n + destination);
                    let signature = signature(&keys, destination, n, &body);
                    let mut request = request(&url, destination, n, body);
                    if let Some(signature) = signature {
                        request.headers_mut().insert("webhook-signature", signature);
                    }
                    client.send(request).await?;
                }
                Result::Ok(())
            });
        }
        while let Some(done) = lanes.join_next().await {
            done??;
        }
        tell(started.elapsed())
    })
}

/// One request after the other, each followed by one commit that deletes its message.
pub fn single(arguments: SingleArguments) -> Result<()> {
    let payloads = Payloads::load(arguments.payloads.as_deref())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = Client::direct();
        let url: Uri = format!("{}/d/1", arguments.url).parse()?;
        let database = cluster::connect(&std::env::var("DATABASE_URL")?).await?;
        let delete = database.client.prepare("delete from floor where sequence = $1").await?;
        let started = Instant::now();
        for n in 1..=arguments.messages {
            let request = request(&url, 1, n, payloads.nth(n));
            client.send(request).await?;
            database.client.execute(&delete, &[&n.cast_signed()]).await?;
        }
        tell(started.elapsed())
    })
}

fn tell(took: Duration) -> Result<()> {
    println!("{}", serde_json::to_string(&Took { seconds: took.as_secs_f64() })?);
    Ok(())
}

/// What sends the requests.
#[derive(Clone)]
pub enum Client {
    Direct(Arc<legacy::Client<legacy::connect::HttpConnector, Full<bytes::Bytes>>>),
    Reqwest(reqwest::Client),
}

impl Client {
    /// A worker's own, without its address guard and TLS.
    pub fn direct() -> Client {
        let mut tcp = legacy::connect::HttpConnector::new();
        tcp.set_nodelay(true);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(4))
            .pool_max_idle_per_host(256)
            .build(tcp);
        Client::Direct(Arc::new(client))
    }

    /// Until the answer has been read.
    pub async fn send(&self, request: Request<Full<bytes::Bytes>>) -> Result<()> {
        match self {
            Client::Direct(client) => drop(client.request(request).await?.collect().await?),
            Client::Reqwest(client) => {
                let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
                drop(client.execute(request).await?.bytes().await?);
            }
        }
        Ok(())
    }
}

/// As a worker's was, and still is through a proxy.
pub fn reqwest_client() -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .tls_backend_preconfigured(tls)
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(4))
        .pool_max_idle_per_host(256)
        .build()?)
}

/// Of this very message, by a worker's own code; none without a key.
fn signature(keys: &SigningKeys, destination: u64, n: u64, body: &[u8]) -> Option<HeaderValue> {
    if keys.is_empty() {
        return None;
    }
    let signature = sign(keys, None, &format!("{destination}-{n}"), "1700000000", body);
    HeaderValue::try_from(signature).ok()
}

/// With the headers a worker sends, the signature included (always the same one).
pub fn request(url: &Uri, destination: u64, n: u64, body: bytes::Bytes) -> Request<Full<bytes::Bytes>> {
    const SIGNATURE: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
    let mut headers = HeaderMap::with_capacity(16);
    let name = HeaderName::from_static;
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("Orderly/0.1.0"));
    if let Ok(id) = HeaderValue::try_from(format!("{destination}-{n}")) {
        headers.insert(name("webhook-id"), id);
    }
    headers.insert(name("webhook-timestamp"), 1_700_000_000_u64.into());
    headers.insert(name("webhook-signature"), HeaderValue::from_static(SIGNATURE));
    headers.insert(name("orderly-sequence"), n.into());
    headers.insert(name("orderly-previous-sequence"), (n - 1).into());
    headers.insert(name("orderly-skipped"), 0.into());
    headers.insert(name("orderly-attempt"), 1.into());
    headers.insert(name("orderly-epoch"), 1.into());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.clone();
    *request.headers_mut() = headers;
    request
}

#[derive(clap::Args)]
pub struct InsertArguments {
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    rows: u64,
    #[arg(long)]
    destinations: u64,
    #[arg(long)]
    payloads: Option<std::path::PathBuf>,
}

/// Messages into their table by one connection, so many rows a commit.
pub fn insert(arguments: InsertArguments) -> Result<()> {
    let payloads = Payloads::load(arguments.payloads.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = cluster::connect(&std::env::var("DATABASE_URL")?).await?;
        let insert = database
            .client
            .prepare(
                "insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, payload)
                 select d, nextval('orderly.message_sequence'), now(), now() + interval '1 day', false, 'application/json', p
                 from unnest($1::bigint[], $2::bytea[]) as u (d, p)",
            )
            .await?;
        let started = Instant::now();
        let mut next = 0;
        while next < arguments.messages {
            let range = next..(next + arguments.rows).min(arguments.messages);
            let destinations: Vec<i64> = range.clone().map(|n| (1 + n % arguments.destinations).cast_signed()).collect();
            let bodies: Vec<bytes::Bytes> = range.clone().map(|n| payloads.nth(n)).collect();
            let bodies: Vec<&[u8]> = bodies.iter().map(AsRef::as_ref).collect();
            database.client.execute(&insert, &[&destinations, &bodies]).await?;
            next = range.end;
        }
        tell(started.elapsed())
    })
}
