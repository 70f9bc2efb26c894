//! SIGINT, SIGTERM and SIGHUP become one stop signal; a second one skips the grace.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What `signals` hands out.
pub(super) struct Signals {
    /// Set to the signal's number by the first one.
    pub(super) stop: watch::Receiver<Option<u8>>,
    /// Ends with the number when a second one came.
    pub(super) impatient: tokio::task::JoinHandle<u8>,
}

/// Resolves at the first SIGINT or SIGTERM.
pub(super) async fn interrupted() {
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Listens from now on.
pub(super) fn listen() -> std::io::Result<Signals> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    let (send, stop) = watch::channel(None);
    let impatient = tokio::spawn(async move {
        let mut seen = 0_u32;
        loop {
            let number = tokio::select! {
                _ = int.recv() => 2,
                _ = term.recv() => 15,
                _ = hup.recv() => 1,
            };
            seen += 1;
            if seen > 1 {
                return number;
            }
            send.send_replace(Some(number));
        }
    });
    Ok(Signals { stop, impatient })
}
