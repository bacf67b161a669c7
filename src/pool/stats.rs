//! Counters of one pool. Plain atomics: tasks add to them, the console and the scraper read them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Adds whole microseconds.
    pub fn add_us(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it stands at.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of a pool, since its first use. Times in microseconds.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the names are those of SHOW STATS and the metrics")]
pub struct Stats {
    pub server_assignments: Counter,
    pub transactions: Counter,
    pub queries: Counter,
    /// From clients.
    pub received: Counter,
    /// To clients.
    pub sent: Counter,
    pub transaction_us: Counter,
    pub query_us: Counter,
    pub wait_us: Counter,
    pub logins: Counter,
    /// Parse messages of clients.
    pub client_parses: Counter,
    /// Parse messages that went to servers.
    pub server_parses: Counter,
    /// Bind messages of clients that went to servers.
    pub binds: Counter,
    pub cancels: Counter,
    pub server_connects: Counter,
    pub server_connect_failures: Counter,
    pub server_closes: Counter,
}
