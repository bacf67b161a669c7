//! The figures of one pool: histograms that are recorded as things happen, and totals that are published
//! when somebody scrapes.
//!
//! The hot path touches only the three histograms; everything else the pool counts in plain atomics of its
//! own and hands over as [`Totals`].

use std::time::Duration;

use super::{Recorder, Timing, table};

/// Histograms of one pool. Resolve once, when the pool is made.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    /// How long clients waited for a server, held time not counted.
    pub wait: Timing,
    /// From a request's first byte to the server until its ReadyForQuery.
    pub query: Timing,
    /// From a lease to the boundary that ended the transaction.
    pub transaction: Timing,
}

impl PoolMetrics {
    /// The handles of the pool of `database` and `user`.
    #[must_use]
    pub fn new(recorder: &Recorder, database: &str, user: &str) -> Self {
        let labels = [database, user];
        Self {
            wait: recorder.timing(&table::WAIT, &labels),
            query: recorder.timing(&table::QUERY, &labels),
            transaction: recorder.timing(&table::TRANSACTION, &labels),
        }
    }
}

/// What a pool has counted since the process started, and what it holds now. Counters must never go down.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Transactions that have ended at a boundary.
    pub transactions: u64,
    /// Requests that were answered.
    pub queries: u64,
    /// Bytes from clients.
    pub client_bytes_received: u64,
    /// Bytes to clients.
    pub client_bytes_sent: u64,
    /// Connections to Postgres that were made.
    pub server_connects: u64,
    /// Attempts to connect that failed.
    pub server_connect_failures: u64,
    /// Connections to Postgres that have ended.
    pub server_closes: u64,
    /// Cancel requests that reached something.
    pub cancels: u64,
    /// Microseconds that clients have waited for a server, held time not counted.
    pub wait_time_us: u64,
    /// Microseconds that servers have spent in transactions.
    pub transaction_time_us: u64,
    /// Microseconds that servers have spent answering.
    pub query_time_us: u64,
    /// Clients that have a server now.
    pub clients_active: u64,
    /// Clients that are idle now.
    pub clients_idle: u64,
    /// Clients that wait for a server now.
    pub clients_waiting: u64,
    /// Clients that are held now.
    pub clients_held: u64,
    /// Servers that are leased now.
    pub servers_active: u64,
    /// Servers that are idle now.
    pub servers_idle: u64,
    /// Servers that are being connected now.
    pub servers_connecting: u64,
    /// How long the client that has waited longest has waited, in microseconds; 0 if none waits.
    pub maxwait_us: u64,
}

/// Publishes the totals of the pool of `database` and `user`. For scrape time; looks every handle up anew.
pub fn publish(recorder: &Recorder, database: &str, user: &str, totals: &Totals) {
    let labels = [database, user];
    for (spec, value) in [
        (&table::TRANSACTIONS, totals.transactions),
        (&table::QUERIES, totals.queries),
        (&table::CLIENT_RECEIVED, totals.client_bytes_received),
        (&table::CLIENT_SENT, totals.client_bytes_sent),
        (&table::SERVER_CONNECTS, totals.server_connects),
        (&table::SERVER_CONNECT_FAILURES, totals.server_connect_failures),
        (&table::SERVER_CLOSES, totals.server_closes),
        (&table::CANCELS, totals.cancels),
    ] {
        recorder.counter(spec, &labels).absolute(value);
    }
    for (spec, microseconds) in [
        (&table::CLIENT_WAIT, totals.wait_time_us),
        (&table::SERVER_TRANSACTION, totals.transaction_time_us),
        (&table::SERVER_QUERY, totals.query_time_us),
    ] {
        recorder.counter_seconds(spec, &labels, Duration::from_micros(microseconds));
    }
    for (spec, state, value) in [
        (&table::POOL_CLIENTS, "active", totals.clients_active),
        (&table::POOL_CLIENTS, "idle", totals.clients_idle),
        (&table::POOL_CLIENTS, "waiting", totals.clients_waiting),
        (&table::POOL_CLIENTS, "held", totals.clients_held),
        (&table::POOL_SERVERS, "active", totals.servers_active),
        (&table::POOL_SERVERS, "idle", totals.servers_idle),
        (&table::POOL_SERVERS, "connecting", totals.servers_connecting),
    ] {
        recorder.gauge(spec, &[database, user, state]).set(value as f64);
    }
    recorder.gauge(&table::POOL_MAXWAIT, &labels).set(Duration::from_micros(totals.maxwait_us).as_secs_f64());
}
