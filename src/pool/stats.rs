//! Counters of one pool. Plain atomics: tasks add to them, the console and the scraper read them.
//!
//! What they stood at one and two periods ago is kept beside them, so that averages are those of the last period and what
//! has come since.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::{Moment, millis};
use crate::telemetry::metrics::{PoolMetrics, Timing};

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
    /// From clients.
    pub received: Counter,
    /// To clients.
    pub sent: Counter,
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
    /// How long clients have waited for a server, held time not counted; one for each server that was assigned.
    pub wait: Timing,
    /// From a request that was let through to the end of its answer.
    pub query: Timing,
    /// From a lease to the boundary that ended the transaction.
    pub transaction: Timing,
    /// What the timings stood at when this pool was made: the scraper's go on where an earlier one of its name left off.
    born: Figures,
    before: Mutex<Before>,
}

/// What the counters stood at: one period ago at most, and two.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    newer: Figures,
    older: Figures,
}

/// The counters that `SHOW STATS` shows, in its order, all of one moment; or what they grew by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures(pub [u64; 12]);

/// Places in [`Figures`] that averages are made of in a way of their own.
const TRANSACTIONS: usize = 1;
const QUERIES: usize = 2;
const TRANSACTION_TIME: usize = 5;
const QUERY_TIME: usize = 6;

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(value);
        }
    }
}

impl Figures {
    /// What they have grown by, a second; times of transactions and queries are means of one. `then` is what they stood at
    /// `elapsed` ago. As PgBouncer, less than a second counts as one.
    #[must_use]
    pub fn averages(&self, then: &Self, elapsed: Duration) -> Self {
        let grown: Vec<u64> = self.0.iter().zip(then.0).map(|(now, then)| now.saturating_sub(then)).collect();
        let of = |place: usize| grown.get(place).copied().unwrap_or_default();
        let ms = millis(elapsed).max(1000);
        let mut averages = Self::default();
        for (place, average) in averages.0.iter_mut().enumerate() {
            *average = match place {
                TRANSACTION_TIME => of(place).checked_div(of(TRANSACTIONS)).unwrap_or_default(),
                QUERY_TIME => of(place).checked_div(of(QUERIES)).unwrap_or_default(),
                _ => of(place).saturating_mul(1000) / ms,
            };
        }
        averages
    }
}

impl Stats {
    /// All at zero; the timings are those of the scraper.
    #[must_use]
    pub fn new(PoolMetrics { wait, query, transaction }: PoolMetrics) -> Self {
        let mut stats = Self { wait, query, transaction, ..Self::default() };
        stats.born = stats.figures();
        stats
    }

    /// What the counters stand at.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = Figures([
            self.wait.count(),
            self.transaction.count(),
            self.query.count(),
            self.received.value(),
            self.sent.value(),
            self.transaction.sum_us(),
            self.query.sum_us(),
            self.wait.sum_us(),
            self.client_parses.value(),
            self.server_parses.value(),
            self.binds.value(),
            self.logins.value(),
        ]);
        for (figure, born) in figures.0.iter_mut().zip(self.born.0) {
            *figure -= born.min(*figure);
        }
        figures
    }

    fn before(&self) -> MutexGuard<'_, Before> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they stood at when the period before this one began; zero for a pool that is younger.
    #[must_use]
    pub fn older(&self) -> Figures {
        self.before().older
    }

    /// A period is over.
    pub fn turn(&self) {
        let now = self.figures();
        let mut before = self.before();
        *before = Before { older: before.newer, newer: now };
    }
}

/// When the periods of the averages began. One for all pools, so that their figures can be added up.
#[derive(Debug, Default)]
pub struct Periods(Mutex<(Moment, Moment)>);

impl Periods {
    fn edges(&self) -> MutexGuard<'_, (Moment, Moment)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When [`Stats::older`] was taken.
    #[must_use]
    pub fn older(&self) -> Moment {
        self.edges().0
    }

    /// A period is over.
    pub fn turn(&self, now: Moment) {
        let mut edges = self.edges();
        *edges = (edges.1, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_of_the_last_period_and_what_came_since() {
        let stats = Stats::default();
        let us = Duration::from_micros;
        (0..1000).for_each(|_| stats.transaction.record(Duration::ZERO));
        stats.turn();
        assert_eq!(stats.older(), Figures::default());
        (0..20).for_each(|_| stats.transaction.record(us(200)));
        (0..40).for_each(|_| stats.query.record(us(10)));
        stats.wait.record(us(30));
        stats.turn();
        stats.received.add(500);
        let (now, then) = (stats.figures(), stats.older());
        let averages = now.averages(&then, Duration::from_secs(10));
        assert_eq!(averages.0, [0, 2, 4, 50, 0, 200, 10, 3, 0, 0, 0, 0]);
        // Nothing is divided by nothing.
        assert_eq!(then.averages(&then, Duration::ZERO), Figures::default());
        assert_eq!(now.averages(&then, Duration::from_millis(10)).0[1], 20, "less than a second counts as one");
    }

    #[test]
    fn periods_follow_each_other() {
        let periods = Periods::default();
        for (now, older) in [(60_000, 0), (120_000, 60_000), (180_000, 120_000)] {
            periods.turn(Moment(now));
            assert_eq!(periods.older(), Moment(older));
        }
    }
}
