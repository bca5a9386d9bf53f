//! Does a worker hear what is said, and that a connection of its own has ended?

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::StoreError;
use super::SessionError;

pub(super) type Channel = mpsc::UnboundedReceiver<(String, String)>;

/// What a worker hears, and that one of its connections has ended: with one all must end, and at once, for its locks
/// may be somebody else's by then (G3).
pub struct Notifications {
    pub(super) heard: Channel,
    /// Of the session and the watch, which do not listen: these only end.
    pub(super) silent: [Channel; 2],
}

impl Notifications {
    /// Channel and payload. `None`: a connection has ended. Nothing is lost when this is dropped.
    pub async fn recv(&mut self) -> Option<(String, String)> {
        let [session, watch] = &mut self.silent;
        tokio::select! {
            biased;
            _ = session.recv() => None,
            _ = watch.recv() => None,
            heard = self.heard.recv() => heard,
        }
    }
}

/// Which server, and which start of it, a connection has reached.
pub(super) async fn server(client: &Client) -> Result<Option<String>, StoreError> {
    const SERVER: &str =
        "select pg_postmaster_start_time()::text || coalesce(inet_server_addr()::text, '') || inet_server_port()::text";
    let answer = client.simple_query(SERVER).await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// Notifications must come back to who listens; behind a transaction pooler they do not.
pub(super) async fn hear_oneself(
    listener: &Client,
    speaker: &Client,
    notifications: &mut Channel,
) -> Result<(), SessionError> {
    let hello = format!("h{:016x}", rand::random::<u64>());
    if let Err(error) = speaker.batch_execute(&format!("select orderly.ring('{hello}')")).await {
        let _ = speaker.batch_execute(super::super::bell::MOVE_NOTIFICATIONS).await;
        return Err(StoreError::from(error).into());
    }
    let heard = async {
        while let Some((_, payload)) = notifications.recv().await {
            if payload == hello {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(Duration::from_secs(5), heard).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::Unreachable("the connection broke".into()).into()),
        Err(elapsed) => {
            // A network that failed just now looks the same, save that nothing else answers either.
            match tokio::time::timeout(Duration::from_secs(2), listener.simple_query("select 1")).await {
                Ok(Ok(_)) => Err(SessionError::Pooler),
                Ok(Err(error)) => Err(StoreError::from(error).into()),
                Err(_) => Err(StoreError::Unreachable(Box::new(elapsed)).into()),
            }
        }
    }
}
