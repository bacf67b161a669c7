//! Which servers a pool lacks, and when a connect for one may be started.

use super::{Ledger, PoolIx, Waiter};
use crate::ids::Moment;

/// How many connects one pool may have under way at once: more would storm a server that is just coming up.
const CONNECTS_AT_ONCE: usize = 8;

impl<S, T> Ledger<S, T> {
    /// The pause after failures is over: its reason may be.
    pub fn retry_now(&mut self, pool: PoolIx) {
        self.pool(pool).retry_at = Moment(0);
    }

    /// A connect did not succeed; none is tried before `retry_at`.
    pub fn connect_failed(&mut self, pool: PoolIx, retry_at: Moment) {
        let books = self.pool(pool);
        books.connecting = books.connecting.saturating_sub(1);
        books.retry_at = retry_at;
        // Whoever still waits for a welcome says so again.
        books.wanted = false;
    }

    /// A log-in needs to know what a server of this pool says of itself.
    pub fn want_server(&mut self, pool: PoolIx) {
        self.pool(pool).wanted = true;
    }

    /// Whether the pool has as many servers as it may have now, on their way included: whoever waits can only wait.
    #[must_use]
    pub fn is_full(&self, pool: PoolIx, now: Moment) -> bool {
        let shut = self.gate.is_shut();
        self.pools.get(pool.0).is_some_and(|books| books.servers() > 0 && books.servers() >= books.limit(shut, now))
    }

    /// How many connects to start now. They count as connecting from here on: each must end in
    /// [`put_back`](Self::put_back) or [`connect_failed`](Self::connect_failed).
    pub fn start_connects(&mut self, pool: PoolIx, now: Moment) -> usize {
        let shut = self.gate.is_shut();
        let books = self.pool(pool);
        if now < books.retry_at {
            return 0;
        }
        let room = books.limit(shut, now).saturating_sub(books.servers());
        if room == 0 {
            return 0;
        }
        // Counted no further than it matters: the queue may be long.
        let there = books.idle.len() + books.connecting;
        let enough = there + CONNECTS_AT_ONCE;
        let waiting = books.in_need().take(enough).count();
        let short = waiting.saturating_sub(there);
        let below_minimum = books.size.minimum.saturating_sub(books.servers());
        let welcome = usize::from(books.wanted && books.servers() == 0);
        let at_once = CONNECTS_AT_ONCE.saturating_sub(books.connecting);
        let start = short.max(below_minimum).max(welcome).min(room).min(at_once);
        books.connecting += start;
        start
    }

    /// One connect at most; see [`start_connects`](Self::start_connects).
    pub fn start_connect(&mut self, pool: PoolIx, now: Moment) -> bool {
        let started = self.start_connects(pool, now);
        self.connects_denied(pool, started.saturating_sub(1));
        started > 0
    }

    /// Connects that were started on paper do not take place: there is no room for them elsewhere.
    pub fn connects_denied(&mut self, pool: PoolIx, count: usize) {
        let books = self.pool(pool);
        debug_assert!(books.connecting >= count, "more connects were denied than started");
        books.connecting = books.connecting.saturating_sub(count);
    }

    /// Whether somebody needs a server for which no connect is under way, and one may be started now. Who is held has no use for
    /// one before the gate opens: [`start_connects`](Self::start_connects) opens it ahead, but nobody gives up a server for it.
    #[must_use]
    pub fn is_short(&self, pool: PoolIx, now: Moment) -> bool {
        let Some(books) = self.pools.get(pool.0) else { return false };
        let shut = self.gate.is_shut();
        let waits = |waiter: &&Waiter<T>| !shut || waiter.held.is_none();
        let waiting = books.in_need().filter(waits).nth(books.idle.len() + books.connecting).is_some();
        let welcome = books.wanted && books.servers() == 0;
        (waiting || welcome) && now >= books.retry_at && books.servers() < books.limit(shut, now)
    }

    /// The earliest moment at which a connect that is needed may be tried again; `None` if none waits for that.
    #[must_use]
    pub fn retry_at(&self, pool: PoolIx) -> Option<Moment> {
        let books = self.pools.get(pool.0)?;
        let needed = books.wanted || books.servers() < books.size.minimum || books.in_need().next().is_some();
        (needed && books.connecting == 0 && books.servers() < books.size.limit).then_some(books.retry_at)
    }
}
