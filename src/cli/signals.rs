//! SIGINT, SIGTERM and SIGHUP become one stop signal; a second one skips the grace.

use tokio::signal::unix::{Signal, SignalKind, signal};
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
    // Under nohup it is ignored, and stays so: the night is not to end with the connection.
    let mut hup = match ignored(1) {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let (send, stop) = watch::channel(None);
    let impatient = tokio::spawn(async move {
        let mut seen = 0_u32;
        loop {
            let number = tokio::select! {
                _ = int.recv() => 2,
                _ = term.recv() => 15,
                () = hung_up(&mut hup) => 1,
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

async fn hung_up(hup: &mut Option<Signal>) {
    match hup {
        Some(hup) => drop(hup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with the signal ignored (Linux; elsewhere: no).
fn ignored(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_in(&status, number)
}

/// Whether the line `SigIgn` of a status holds the signal: a mask in hexadecimal, bit 0 is signal 1.
fn is_in(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|l| l.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_is_seen() {
        assert!(is_in("Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0\n", 1));
        assert!(!is_in("SigIgn:\t0000000000001000\n", 1));
        assert!(is_in("SigIgn:\t0000000000001000\n", 13));
        assert!(!is_in("", 1));
    }
}
