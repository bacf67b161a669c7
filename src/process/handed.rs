//! Listening sockets that systemd has opened for us: its `.socket` units, and what was kept in its store.
//!
//! Source: `sd_listen_fds(3)`. They are ours from here on, and no child of ours has them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A socket that was opened before us, and what it is called (`FileDescriptorName=`; empty if it has no name).
#[derive(Debug)]
pub struct Handed {
    /// Its name.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
    /// The file of a Unix socket, where it is another than the socket's own name says.
    pub path: Option<PathBuf>,
}

/// More than anybody means to hand over: a larger number is a mistake in the environment.
const MOST: u32 = 64;

/// Takes what this process was handed. Call it once, before there are other threads and before anything else is opened.
///
/// # Errors
/// In words for the operator: the environment is not as systemd makes it.
pub fn take() -> io::Result<Vec<Handed>> {
    let count = std::env::var("LISTEN_FDS").unwrap_or_default();
    if count.parse::<u32>().is_ok_and(|count| count > MOST) {
        return Err(io::Error::other(format!("LISTEN_FDS={count}: expected at most {MOST} sockets")));
    }
    let found = sd_listen_fds::get().map_err(|error| io::Error::other(format!("LISTEN_PID, LISTEN_FDS: {error}")))?;
    let own = |(name, socket): (Option<String>, sd_listen_fds::OwnedFd)| {
        let socket = socket.into_std();
        let name = name.unwrap_or_default();
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| {
            io::Error::new(io::Error::from(error).kind(), format!("handed socket {name:?}: {error}"))
        })?;
        Ok(Handed { name, socket, path: None })
    };
    found.into_iter().map(own).collect()
}
