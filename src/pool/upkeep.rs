//! What happens to idle servers over time: the dead, the old and the long idle are closed, the minimum is kept.

use std::sync::Arc;
use std::time::Duration;

use super::database::{Database, Pool};

/// How often a database is looked over.
const PERIOD: Duration = Duration::from_secs(1);

impl Database {
    /// Looks the pools over, once a second, for as long as the database lives.
    pub fn spawn_upkeep(self: &Arc<Self>) {
        let database = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut period = tokio::time::interval(PERIOD);
            period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                period.tick().await;
                let Some(database) = database.upgrade() else { return };
                for pool in database.pools() {
                    pool.look_up();
                    pool.close_idle(None);
                    pool.open_servers();
                }
            }
        });
    }
}

impl Database {
    /// Closes idle servers that nobody has used for so long, beyond the minimum.
    pub fn shrink(&self, unused_for: Duration) {
        self.pools().iter().for_each(|pool| pool.close_idle(Some(unused_for)));
    }
}

impl Pool {
    /// Keeps what is known of the host's addresses fresh, while there are servers: see [`names`](crate::server::names).
    fn look_up(&self) {
        let counts = self.counts();
        if counts.idle + counts.lent > 0 {
            let target = self.target();
            target.names.refresh(&target.host, self.database.settings().server_connect_timeout);
        }
    }

    /// Closes idle servers that are dead, too old, or have been idle for too long (those beyond the minimum).
    fn close_idle(&self, at_most: Option<Duration>) {
        let database = &self.database;
        let now = database.clock.now();
        let settings = database.settings.load();
        let idle_timeout = at_most.or(settings.server_idle_timeout);
        let target = self.target();
        let closed = {
            let mut books = database.books();
            let counts = books.counts(self.ix);
            let mut spare = (counts.idle + counts.lent).saturating_sub(counts.minimum);
            let mut surplus = books.surplus(self.ix);
            books.take_idle(self.ix, |rested| {
                // A reload may have given it another lifetime.
                rested.expires(settings.server_lifetime);
                let server = rested.server();
                let old = server.expires_at.is_some_and(|at| now >= at);
                let unused = spare > 0 && idle_timeout.is_some_and(|bound| now.since(server.used_at) >= bound);
                let moved = target.has_left(server.link.addr);
                let close = old || unused || moved || surplus > 0 || !rested.still_fresh();
                spare = spare.saturating_sub(usize::from(close));
                surplus = surplus.saturating_sub(usize::from(close));
                close
            })
        };
        self.close(closed, "idle, old, or gone");
    }
}
