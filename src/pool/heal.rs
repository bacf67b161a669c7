//! Behind a change of the schema, while everybody is still held: what servers have prepared and run lately is prepared anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::database::{Database, Pool};
use super::lease::Lease;

/// How long a server may take. Whoever is held waits for the slowest, and what is not prepared then is when it is asked for.
const BOUND: Duration = Duration::from_millis(100);

impl Database {
    /// Has the servers that rest prepare anew what they ran last; the schema [has changed](super::schema::Schema::changed).
    /// Does nothing if the gate is open: each server does it before its next use then. Cancel-safe: servers that are at it
    /// are closed.
    pub async fn heal(&self) {
        if !self.is_shut() {
            return;
        }
        let mut at_it = JoinSet::new();
        for pool in self.pools() {
            for lease in pool.lend_idle() {
                at_it.spawn(lease.heal(BOUND));
            }
        }
        while at_it.join_next().await.is_some() {}
    }
}

impl Pool {
    /// The servers that rest and have something prepared, for an errand of ours.
    fn lend_idle(self: &Arc<Self>) -> Vec<Lease> {
        let idle = self.database.books().lend_idle(self.ix, |rested| !rested.server().slots.is_empty());
        idle.into_iter().map(|rested| Lease::of_ours(Arc::clone(self), rested)).collect()
    }
}
