//! How does a signal end a command?

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the shell shows for a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// The token is cancelled by the first SIGINT or SIGTERM; the second ends the process at once.
pub(super) fn on_signals() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal ends it at once");
                stop.cancel();
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}
