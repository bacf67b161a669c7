//! What operators do to a database's servers and doors: `RECONNECT`, `WAIT_CLOSE`, `KILL`, `DISABLE`, `ENABLE`.
//!
//! Servers are never taken out of a client's transaction: those of an earlier generation are closed when they come back,
//! and refused when they would be lent.

use std::sync::atomic::Ordering;

use super::database::{Database, Pool};

/// Why a server is closed that is older than the last `RECONNECT`.
pub(super) const RECONNECT: &str = "reconnect";

impl Database {
    /// Replaces all servers: the idle ones are closed now, the lent ones when their clients give them back.
    pub fn reconnect(&self) {
        for pool in self.pools() {
            pool.roster.advance();
            pool.close_outdated();
            pool.open_servers();
        }
    }

    /// Waits until all servers from before the last [`reconnect`](Self::reconnect) are closed. Cancel-safe.
    pub async fn renewed(&self) {
        for pool in self.pools() {
            pool.roster.renewed().await;
        }
    }

    /// Lets nobody log in any more; those who are there stay.
    pub fn disable(&self) {
        self.disabled.store(true, Ordering::Release);
    }

    /// Undoes [`disable`](Self::disable).
    pub fn enable(&self) {
        self.disabled.store(false, Ordering::Release);
    }

    /// Whether nobody may log in.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }
}

impl Pool {
    fn close_outdated(&self) {
        let closed = self.database.books().take_idle(self.ix, |rested| rested.server().is_outdated());
        self.close(closed, RECONNECT);
    }
}
