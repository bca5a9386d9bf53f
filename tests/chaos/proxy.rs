//! What lies between one process and Postgres, and how is it broken?
//!
//! A TCP proxy of its own for each process. It forwards, delays, cuts (RST), or goes silent: half-open,
//! neither bytes nor the end of either side pass, and new connections are accepted and lead nowhere.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    Hole,
    /// Each piece of data comes so much later.
    Delay(Duration),
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    upstream: u16,
    mode: watch::Sender<Mode>,
    /// By the port that Postgres sees.
    connections: Mutex<HashMap<u16, CancellationToken>>,
}

impl Proxy {
    pub async fn start(upstream: u16) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { upstream, mode: watch::Sender::new(Mode::Pass), connections: Mutex::default() });
        let end = CancellationToken::new();
        let (accepting, ending) = (shared.clone(), end.clone());
        tokio::spawn(async move {
            let accept = async {
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => {
                            let connection = carry(client, accepting.clone());
                            tokio::spawn(ending.child_token().run_until_cancelled_owned(connection));
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            };
            ending.run_until_cancelled(accept).await;
        });
        Ok(Proxy { port, shared, _end: end.drop_guard() })
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Resets every connection, on both sides.
    pub fn cut(&self) {
        let cut: Vec<_> = self.lock().drain().collect();
        for (_, token) in cut {
            token.cancel();
        }
    }

    /// The ports by which Postgres knows this process.
    pub fn ports(&self) -> Vec<u16> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u16, CancellationToken>> {
        self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    if mode.wait_for(|mode| *mode != Mode::Hole).await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", shared.upstream)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let Ok(port) = server.local_addr().map(|address| address.port()) else { return };
    let cut = CancellationToken::new();
    let connections = || shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
    connections().insert(port, cut.clone());
    let was_cut = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            () = pump(&mut from_client, &mut to_server, shared.mode.subscribe()) => false,
            () = pump(&mut from_server, &mut to_client, shared.mode.subscribe()) => false,
            () = cut.cancelled() => true,
        }
    };
    if was_cut {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
    connections().remove(&port);
}

/// Until the end of `from`, which passes through no hole either.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let Ok(now) = mode.wait_for(|mode| *mode != Mode::Hole).await.map(|mode| *mode) else { return };
        if let Mode::Delay(by) = now {
            tokio::time::sleep(by).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
