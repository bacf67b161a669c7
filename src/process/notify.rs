//! What systemd is told (`Type=notify`, `notify-reload`): datagrams to the socket in `NOTIFY_SOCKET`.
//!
//! Source: `sd_notify(3)`. Without that socket nothing is sent. Nothing here waits or fails: a lost message is systemd's
//! to notice.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

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

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}
