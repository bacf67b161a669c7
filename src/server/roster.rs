//! The servers of one pool, each from its first dial until its socket is closed, whoever has it meanwhile.
//!
//! Who is shown all servers, and who waits until those of an earlier generation are gone, looks here. A server is on the
//! list for as long as its [`Badge`] lives; nothing has to be remembered on any of the ways in which a server can end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::cancel::Link;
use super::conn::Server;
use crate::ids::{Moment, ServerId};

/// The servers of one pool. See the module's text.
#[derive(Debug, Default)]
pub struct Roster {
    generation: AtomicU64,
    listed: Mutex<BTreeMap<ServerId, Arc<Listed>>>,
    /// How many have left so far; for those who wait.
    left: watch::Sender<u64>,
}

/// What is known of one server.
#[derive(Debug)]
pub struct Listed {
    /// Its number.
    pub id: ServerId,
    /// When the connection was begun.
    pub since: Moment,
    generation: u64,
    account: OnceLock<Account>,
}

/// What is known of a server when it has logged in.
#[derive(Debug)]
pub struct Account {
    /// How to reach what runs on it.
    pub link: Arc<Link>,
    /// Our end of a TCP connection.
    pub local: Option<(IpAddr, u16)>,
    /// The other end of a TCP connection.
    pub remote: Option<SocketAddr>,
}

impl Listed {
    /// What is known of it; none before it has logged in.
    #[must_use]
    pub fn account(&self) -> Option<&Account> {
        self.account.get()
    }
}

/// A server's place on the list; it leaves when this is dropped.
#[derive(Debug)]
pub struct Badge {
    listed: Arc<Listed>,
    roster: Arc<Roster>,
}

impl Badge {
    /// It has logged in.
    pub fn logged_in(&self, server: &Server) {
        let account =
            Account { link: Arc::clone(&server.link), local: server.stream.local(), remote: server.stream.remote() };
        // A badge is worn by one server, once.
        let _ = self.listed.account.set(account);
    }

    /// Whether it is of an earlier generation than the present one: it is closed as soon as it is free.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.roster.is_outdated(&self.listed)
    }
}

impl Drop for Badge {
    fn drop(&mut self) {
        self.roster.listed().remove(&self.listed.id);
        self.roster.left.send_modify(|left| *left += 1);
    }
}

impl Roster {
    fn listed(&self) -> MutexGuard<'_, BTreeMap<ServerId, Arc<Listed>>> {
        // Each write is one insert or one remove: a panic elsewhere leaves nothing half done.
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is begun: it is of the present generation.
    #[must_use]
    pub fn enter(self: &Arc<Self>, id: ServerId, since: Moment) -> Badge {
        let generation = self.generation.load(Ordering::Acquire);
        let listed = Arc::new(Listed { id, since, generation, account: OnceLock::new() });
        self.listed().insert(id, Arc::clone(&listed));
        Badge { listed, roster: Arc::clone(self) }
    }

    /// Begins a new generation: all servers that there are now are outdated.
    pub fn advance(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a server is of an earlier generation.
    #[must_use]
    pub fn is_outdated(&self, listed: &Listed) -> bool {
        listed.generation < self.generation.load(Ordering::Acquire)
    }

    /// All servers, in the order of their making.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Listed>> {
        self.listed().values().cloned().collect()
    }

    /// Waits until no server is outdated. Cancel-safe.
    pub async fn renewed(&self) {
        self.until(|listed| !self.is_outdated(listed)).await;
    }

    /// Waits until there is no server at all. Cancel-safe.
    pub async fn empty(&self) {
        self.until(|_| false).await;
    }

    async fn until(&self, fine: impl Fn(&Listed) -> bool) {
        let mut left = self.left.subscribe();
        // The sender lives in the roster, which we borrow: the wait ends by a change only.
        while !self.listed().values().all(|listed| fine(listed)) && left.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn a_server_is_listed_until_its_badge_is_dropped_and_outdated_from_the_next_generation_on() {
        let roster: Arc<Roster> = Arc::default();
        let old = roster.enter(ServerId(1), Moment(5));
        assert!(roster.renewed().now_or_never().is_some());
        roster.advance();
        let new = roster.enter(ServerId(2), Moment(6));
        assert!(old.is_outdated() && !new.is_outdated());
        assert!(roster.renewed().now_or_never().is_none());
        assert_eq!(roster.list().iter().map(|listed| listed.id.0).collect::<Vec<_>>(), [1, 2]);
        drop(old);
        assert!(roster.renewed().now_or_never().is_some() && roster.empty().now_or_never().is_none());
        drop(new);
        assert!(roster.empty().now_or_never().is_some() && roster.list().is_empty());
    }
}
