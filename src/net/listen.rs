//! Listening sockets: bound before anything else starts, so that a port in use is known at once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::unistd::Group;
use tokio::net::{TcpListener, UnixListener};

use super::stream::Stream;
use crate::config::TcpWatch;

/// A bound socket that accepts clients.
#[derive(Debug)]
pub enum Listener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed when this is dropped, if we have made it.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket; removed on drop, unless somebody else has made it and goes on to keep it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    ours: Arc<AtomicBool>,
}

/// A listening socket, as another process of ours gets it.
#[derive(Debug)]
pub struct Share {
    /// What it is for: `admin`, `metrics`, or empty for clients. `state` does not listen: it is the lock of the state_dir.
    pub name: String,
    /// A copy of it.
    pub socket: OwnedFd,
    /// Its file, of a Unix socket: the name under which it was bound is another one.
    pub path: Option<PathBuf>,
    ours: Arc<AtomicBool>,
}

impl Share {
    /// Another file of ours, by this name.
    #[must_use]
    pub fn of_file(name: &str, socket: OwnedFd) -> Self {
        Self { name: name.to_owned(), socket, path: None, ours: Arc::default() }
    }

    /// Whether this process removes its file when it does not listen any more.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours.load(Ordering::Acquire)
    }

    /// Makes its file this process's to remove, or another's.
    pub fn set_ours(&self, ours: bool) {
        self.ours.store(ours, Ordering::Release);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours.load(Ordering::Acquire) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Binds a TCP address; so many connections may wait to be accepted.
    ///
    /// # Errors
    /// The kernel's, with the address in the text; `AddrNotAvailable` also if there is nothing of its kind on this machine.
    pub fn tcp(addr: SocketAddr, backlog: usize) -> io::Result<Self> {
        let bind = || {
            let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None);
            let socket = socket.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAFNOSUPPORT) => io::Error::new(io::ErrorKind::AddrNotAvailable, error),
                _ => error,
            })?;
            if addr.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
            TcpListener::from_std(socket.into())
        };
        bind().map(Self::Tcp).map_err(|error| named(&error, &format!("cannot listen on {addr}")))
    }

    /// Binds a Unix socket with the given file mode and group, replacing a socket that nobody serves any more.
    ///
    /// # Errors
    /// The kernel's, with the path in the text; `AddrInUse` if somebody answers there, `AlreadyExists` if what is there is no
    /// socket.
    pub fn unix(path: &Path, mode: u32, group: Option<&str>) -> io::Result<Self> {
        let bind = || {
            // Only what can be a socket that somebody has left is ours to remove.
            if let Ok(there) = std::fs::symlink_metadata(path) {
                if !there.file_type().is_socket() {
                    let text = "there is something else than a socket: name another path, or remove it";
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                match std::os::unix::net::UnixStream::connect(path) {
                    Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it")),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                    // It may be served, for others than us.
                    Err(error) => {
                        return Err(io::Error::other(format!("{error}: remove it if nobody serves it")));
                    }
                }
            }
            // Bound under another name and renamed when its mode is right: at no moment is it open to more than it should be.
            let fresh = path.with_file_name(format!(".{}.{}", std::process::id(), file_name(path)));
            let _ = std::fs::remove_file(&fresh);
            let listener = UnixListener::bind(&fresh)?;
            if let Some(group) = group {
                let found = Group::from_name(group)?.ok_or_else(|| io::Error::other(format!("no group {group}")))?;
                std::os::unix::fs::chown(&fresh, None, Some(found.gid.as_raw()))?;
            }
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
            std::fs::rename(&fresh, path)?;
            Ok(Self::Unix(listener, SocketFile { path: path.to_owned(), ours: Arc::new(true.into()) }))
        };
        bind().map_err(|error| named(&error, &format!("cannot listen on {}", path.display())))
    }

    /// Takes a socket that listens already and that somebody else has made: systemd, or a process before this one. A Unix
    /// socket's file stays when this is dropped.
    ///
    /// # Errors
    /// It is no listening TCP or Unix socket.
    pub fn ready_made(socket: OwnedFd, path: Option<PathBuf>) -> io::Result<Self> {
        let socket = socket2::Socket::from(socket);
        let stream = socket.r#type().is_ok_and(|kind| kind == socket2::Type::STREAM);
        if !stream || !socket.is_listener().unwrap_or(false) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a stream socket that listens"));
        }
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        if addr.is_unix() {
            let path = path.or_else(|| addr.as_pathname().map(Path::to_owned)).unwrap_or_default();
            return Ok(Self::Unix(UnixListener::from_std(socket.into())?, SocketFile { path, ours: Arc::default() }));
        }
        TcpListener::from_std(socket.into()).map(Self::Tcp)
    }

    /// The same socket, for another process; see [`Share`].
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn share(&self, name: &str) -> io::Result<Share> {
        let (socket, path, ours) = match self {
            Self::Tcp(listener) => (listener.as_fd(), None, Arc::default()),
            Self::Unix(listener, file) => (listener.as_fd(), Some(file.path.clone()), Arc::clone(&file.ours)),
        };
        Ok(Share { name: name.to_owned(), socket: socket.try_clone_to_owned()?, path, ours })
    }

    /// The same TCP socket once more, for whoever wants one of its own.
    ///
    /// # Errors
    /// Out of descriptors; it is no TCP socket.
    pub fn again(&self) -> io::Result<TcpListener> {
        match self {
            Self::Tcp(listener) => {
                TcpListener::from_std(std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?))
            }
            Self::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Waits for the next connection, and then asks how it is to be watched. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's: out of descriptors, or a peer that is gone already.
    pub async fn accept(&self, watch: impl Fn() -> TcpWatch) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Stream::tcp(listener.accept().await?.0, &watch()),
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }

    /// Where it listens, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".to_owned(), |addr| addr.to_string()),
            Self::Unix(_, file) => file.path.display().to_string(),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn named(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
