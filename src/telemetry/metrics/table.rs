//! Every metric of pglull: name, kind, unit, labels and help, in one table. `docs/metrics.md` is rendered
//! from it, and no name is written anywhere else.
//!
//! Names have the prefix `pglull_`, base units (seconds, bytes) and, for counters, the ending `_total`.
//! Labels are `database` and `user` where a figure belongs to a pool, never an address or a statement.
//! `values` lists what the last label can be where the code decides that.

/// What a figure does: only rise, rise and fall, or spread over buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only rises, from 0 at the start of the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts samples by size.
    Histogram,
}

impl Kind {
    /// As the text format calls it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a figure is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// One metric.
#[derive(Debug)]
pub struct Spec {
    /// Its full name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Its unit; the name ends with it.
    pub unit: Unit,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What the last label can be, where the code decides that; else empty.
    pub values: &'static [&'static str],
    /// One sentence for HELP and the documentation.
    pub help: &'static str,
}

/// Writes each line once, as a constant for those who record and as an entry of [`TABLE`], so that neither can
/// be forgotten.
macro_rules! metrics_table {
    ($($name:ident: $kind:ident $unit:ident $text:literal $labels:tt $values:tt $help:literal;)*) => {
        $(#[doc = $help] pub static $name: Spec = Spec {
            name: $text, kind: Kind::$kind, unit: Unit::$unit, labels: &$labels, values: &$values, help: $help,
        };)*
        /// All metrics, in the order of the documentation.
        pub static TABLE: &[&Spec] = &[$(&$name),*];
    };
}

metrics_table! {
    // Windows and holds.
    STALL: Histogram Seconds "pglull_stall_seconds" ["database"] []
        "How long each held request waited because of a window, from its arrival to its release.";
    DRAIN: Histogram Seconds "pglull_drain_seconds" ["database"] []
        "How long the open transactions of a window took to finish after its gate was shut.";
    HOLD: Histogram Seconds "pglull_hold_seconds" ["database"] []
        "How long the gate of a window was shut, from the first hold to the last release.";
    APPLY: Histogram Seconds "pglull_apply_seconds" ["database"] []
        "How long the change of a window took, from its first statement to its commit or rollback.";
    WINDOWS_STARTED: Counter Count "pglull_windows_started_total" ["database"] []
        "Windows and pauses that were started.";
    WINDOWS_ENDED: Counter Count "pglull_windows_ended_total" ["database", "outcome"]
        ["applied", "already_applied", "aborted", "refused", "unknown", "resumed", "rehearsed"]
        "Windows and pauses that have ended, by outcome.";
    WINDOW_PHASE: Gauge Count "pglull_window_phase" ["database", "phase"]
        ["preflight", "recording", "draining", "holding", "applying", "healing", "releasing", "aborting"]
        "1 for the phase in which the window of this database is, 0 for all others; all 0 when there is none.";
    HELD_CLIENTS: Gauge Count "pglull_held_clients" ["database"] []
        "Clients that are held now by a shut gate.";
    HELD: Counter Count "pglull_held_total" ["database"] []
        "Holds that have begun: one for each time a client was kept waiting by a shut gate.";
    HELD_ENDED: Counter Count "pglull_held_ended_total" ["database", "how"]
        ["released", "cancelled", "left", "expired", "cut"]
        "Holds that have ended, by how: each hold ends exactly once.";
    CUT: Counter Count "pglull_cut_total" ["database", "policy"] ["cancel", "terminate"]
        "Clients, and sessions beside us, whose open transaction was ended by a policy that the operator named.";

    // Pools: one (database, user).
    WAIT: Histogram Seconds "pglull_wait_seconds" ["database", "user"] []
        "How long clients waited for a server, without the time in which they were held.";
    QUERY: Histogram Seconds "pglull_query_seconds" ["database", "user"] []
        "Time from a request's first byte sent to the server to its ReadyForQuery.";
    TRANSACTION: Histogram Seconds "pglull_transaction_seconds" ["database", "user"] []
        "Time from the lease of a server to the boundary that ended the transaction.";
    TRANSACTIONS: Counter Count "pglull_transactions_total" ["database", "user"] []
        "Transactions that have ended at a boundary.";
    QUERIES: Counter Count "pglull_queries_total" ["database", "user"] []
        "Requests that a server has answered with ReadyForQuery.";
    CLIENT_RECEIVED: Counter Bytes "pglull_client_received_bytes_total" ["database", "user"] []
        "Bytes received from clients and passed to servers.";
    CLIENT_SENT: Counter Bytes "pglull_client_sent_bytes_total" ["database", "user"] []
        "Bytes received from servers and passed to clients.";
    CLIENT_WAIT: Counter Seconds "pglull_client_wait_seconds_total" ["database", "user"] []
        "Time that clients have spent waiting for a server, summed.";
    SERVER_TRANSACTION: Counter Seconds "pglull_server_transaction_seconds_total" ["database", "user"] []
        "Time that servers have spent in transactions, summed; includes idling in one.";
    SERVER_QUERY: Counter Seconds "pglull_server_query_seconds_total" ["database", "user"] []
        "Time that servers have spent answering, summed.";
    SERVER_CONNECTS: Counter Count "pglull_server_connects_total" ["database", "user"] []
        "Connections to Postgres that were opened and logged in.";
    SERVER_CONNECT_FAILURES: Counter Count "pglull_server_connect_failures_total" ["database", "user"] []
        "Attempts to connect to Postgres that failed.";
    SERVER_CLOSES: Counter Count "pglull_server_closes_total" ["database", "user"] []
        "Connections to Postgres that have ended, for any reason.";
    CANCELS: Counter Count "pglull_cancels_total" ["database", "user"] []
        "Cancel requests of clients that reached a running query, a waiting client or a held one.";
    POOL_CLIENTS: Gauge Count "pglull_pool_clients" ["database", "user", "state"]
        ["active", "idle", "waiting", "held"]
        "Clients of this pool now: with a server, idle, waiting for a server, or held by a shut gate.";
    POOL_SERVERS: Gauge Count "pglull_pool_servers" ["database", "user", "state"]
        ["active", "idle", "connecting"]
        "Connections to Postgres of this pool now: leased, idle, or being made.";
    POOL_MAXWAIT: Gauge Seconds "pglull_pool_maxwait_seconds" ["database", "user"] []
        "How long the client that has waited longest for a server has waited; 0 if none waits.";

    // The proxy as a whole.
    CLIENTS_CONNECTED: Gauge Count "pglull_clients_connected" [] []
        "Clients that are logged in now.";
    CLIENT_CONNECTIONS: Counter Count "pglull_client_connections_total" [] []
        "Clients that have logged in.";
    CLIENT_DISCONNECTIONS: Counter Count "pglull_client_disconnections_total" ["reason"]
        ["client_close", "client_lost", "protocol_error", "server_error", "dismissed", "moved", "internal"]
        "Clients whose connections have ended, by reason; `dismissed` is an idle limit, a window's policy, the console or a shutdown.";
    LOGINS_FAILED: Counter Count "pglull_logins_failed_total" ["reason"]
        ["no_database", "bad_password", "not_allowed", "too_many_clients", "timeout", "protocol_error",
         "tls", "server_unreachable", "unsupported", "shutdown", "disabled", "dismissed"]
        "Log-ins that were refused or given up, by reason.";
    PROTOCOL_ERRORS: Counter Count "pglull_protocol_errors_total" [] []
        "Connections that were ended because of bytes that the protocol does not allow.";
    BUILD_INFO: Gauge Count "pglull_build_info" ["version"] []
        "Always 1; the label is the version of this program.";
    PROCESS_MEMORY: Gauge Bytes "pglull_process_resident_memory_bytes" [] []
        "Resident memory of the process (Linux).";
    PROCESS_CPU: Counter Seconds "pglull_process_cpu_seconds_total" [] []
        "User and system time that the process has used.";
    PROCESS_OPEN_FDS: Gauge Count "pglull_process_open_fds" [] []
        "File descriptors that are open (Linux).";
    PROCESS_MAX_FDS: Gauge Count "pglull_process_max_fds" [] []
        "The limit on open file descriptors.";
    PROCESS_START: Gauge Seconds "pglull_process_start_time_seconds" [] []
        "When the process started, in seconds since 1970-01-01 UTC.";
}
