//! Cancel requests to Postgres, and the guard that keeps a server from others while one is on its way to it.
//!
//! A cancel is done when the *server* closes the connection that carried it; only then may the server that it
//! is for be lent again (the race of PgBouncer#717). Source: "Canceling Requests in Progress" in the protocol chapter.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::connect::Target;
use crate::wire::startup::{self, CancelKey};

/// More cancels than this on their way to one server stop nothing that these would not: the rest are dropped.
const MOST: usize = 8;

/// How to reach what runs on a server from beside it.
#[derive(Debug)]
pub struct Link {
    /// Where the server is.
    pub target: Arc<Target>,
    /// The address that its connection leads to: a name may stand for several machines.
    pub addr: Option<SocketAddr>,
    /// Its process id and cancel key; without a secret if it has told none (some services do not).
    pub key: CancelKey,
    /// Version and cipher of its TLS, if it has any.
    pub tls: Option<String>,
    /// How many prepared statements of clients it had at its last boundary.
    pub prepared: AtomicUsize,
    /// Cancels that are on their way to it.
    pub guard: Arc<CancelGuard>,
}

/// Counts the cancels that are on their way to one server.
#[derive(Debug, Default)]
pub struct CancelGuard {
    under_way: AtomicUsize,
    lost: AtomicBool,
    done: Notify,
}

/// One cancel on its way. Dropped before it is [`done`](UnderWay::done), it may hit at any time: the server is lost.
#[derive(Debug)]
pub struct UnderWay {
    guard: Arc<CancelGuard>,
    done: bool,
}

impl UnderWay {
    /// The server has closed the connection that carried the cancel.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Link {
    /// Notes that a cancel is on its way. To be called under the lock that says the client still has the server.
    /// `None`: there is no key to cancel with, or more are under way than could be of use.
    #[must_use]
    pub fn start_cancel(&self) -> Option<UnderWay> {
        if self.key.secret.is_empty() {
            return None;
        }
        let room = |count| (count < MOST).then_some(count + 1);
        self.guard.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(UnderWay { guard: Arc::clone(&self.guard), done: false })
    }
}

impl CancelGuard {
    /// Whether one was given up without knowing whether it has had its effect.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether a cancel may still hit the server.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.busy() || self.lost()
    }

    /// How many are on their way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// Whether one is on its way.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    /// Waits until none is. Cancel-safe; bounded by the caller.
    pub async fn quiet(&self) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if !self.busy() {
                return;
            }
            done.await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.done {
            self.guard.lost.store(true, Ordering::Release);
        }
        self.guard.under_way.fetch_sub(1, Ordering::AcqRel);
        self.guard.done.notify_waiters();
    }
}

/// Sends a CancelRequest to the server with this key and waits until the server has closed that connection.
///
/// # Errors
/// If it cannot be reached within `bound`. The cancel may have had its effect all the same.
pub async fn send(link: &Link, bound: Duration) -> io::Result<()> {
    if link.key.secret.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the server has given no cancel key"));
    }
    let errand = async {
        let mut stream = link.target.open(link.addr).await?;
        let mut out = BytesMut::new();
        startup::write_cancel(&link.key, &mut out);
        stream.write_all(&out).await?;
        let mut nothing = [0_u8; 64];
        loop {
            match stream.read(&mut nothing).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // The postmaster's child ends without TLS' good-bye; what counts is that it ends.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    tokio::time::timeout(bound, errand).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
