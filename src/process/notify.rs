//! What systemd is told (`Type=notify`, `notify-reload`): datagrams to the socket in `NOTIFY_SOCKET`.
//!
//! Source: `sd_notify(3)`. Without that socket nothing is sent. Nothing here waits or fails: a lost message is systemd's
//! to notice.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify(Option<UnixDatagram>);

impl Notify {
    /// As the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let path = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
        if path.is_empty() {
            return Self::default();
        }
        match connect(&path) {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::warn!(%error, path, "cannot reach NOTIFY_SOCKET: systemd is told nothing");
                Self::default()
            }
        }
    }

    /// Everything is there: clients are served, with the configuration that is in force.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving clients");
    }

    /// A reload begins; [`ready`](Self::ready) ends it, however it went.
    pub fn reloading(&self) {
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
        let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Everything still moves: to be said again within [`watchdog`].
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// From here on another process is the service; it says itself that it is ready.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=waiting for clients to leave");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace('\n', " ")));
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(text.as_bytes());
        }
    }
}

/// How long systemd waits for a sign of life (`WatchdogSec=`), if it waits for one of this process.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let var = |name| std::env::var(name).ok();
    within(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), std::process::id())
}

/// Source: `sd_watchdog_enabled(3)`. Without a process id it is meant for everybody.
fn within(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    meant.then_some(Duration::from_micros(micros))
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_that_waits_for_us() {
        let second = Some(Duration::from_secs(1));
        for (micros, pid, expected) in [
            (None, None, None),
            (Some("1000000"), None, second),
            (Some("1000000"), Some("7"), second),
            (Some("1000000"), Some("8"), None),
            (Some("1000000"), Some("seven"), None),
            (Some("0"), Some("7"), None),
            (Some("-1"), None, None),
            (Some("soon"), None, None),
        ] {
            assert_eq!(within(micros, pid, 7), expected, "{micros:?} {pid:?}");
        }
    }
}
