//! The figures of the proxy as a whole: its clients, and the process itself.
//!
//! The process figures are read from the kernel at scrape time; where a figure cannot be read (no `/proc`,
//! say) it is left out rather than shown as 0.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::family::Family;
use super::{Recorder, table};

/// Handles of the whole proxy. Resolve once, at the start.
#[derive(Clone)]
pub struct ProxyMetrics {
    recorder: Recorder,
    connections: Counter,
    disconnections: Family,
    logins_failed: Family,
    protocol_errors: Counter,
    connected: Gauge,
}

impl ProxyMetrics {
    /// The handles; also notes the version and that the process starts now.
    #[must_use]
    pub fn new(recorder: &Recorder) -> Self {
        recorder.gauge(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        if let Ok(since_epoch) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            recorder.gauge(&table::PROCESS_START, &[]).set(since_epoch.as_secs_f64());
        }
        Self {
            recorder: recorder.clone(),
            connections: recorder.counter(&table::CLIENT_CONNECTIONS, &[]),
            disconnections: Family::new(recorder, &table::CLIENT_DISCONNECTIONS, &[]),
            logins_failed: Family::new(recorder, &table::LOGINS_FAILED, &[]),
            protocol_errors: recorder.counter(&table::PROTOCOL_ERRORS, &[]),
            connected: recorder.gauge(&table::CLIENTS_CONNECTED, &[]),
        }
    }

    /// A client's connection was accepted. The guard counts it as connected until it is dropped, whichever way
    /// its task ends, and then counts the reason.
    #[must_use]
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.increment(1);
        self.connected.increment(1.0);
        Connected { metrics: Arc::clone(self), reason: "internal" }
    }

    /// A log-in was refused or given up; `reason` is one of the table's.
    pub fn login_failed(&self, reason: &'static str) {
        self.logins_failed.increment(reason);
    }

    /// A connection was ended because of bytes that the protocol does not allow.
    pub fn protocol_error(&self) {
        self.protocol_errors.increment(1);
    }

    /// Reads memory, time and descriptors of the process. For scrape time: reads `/proc`.
    pub fn publish_process(&self) {
        if let Some(bytes) = resident_memory_bytes() {
            self.recorder.gauge(&table::PROCESS_MEMORY, &[]).set(bytes as f64);
        }
        if let Some(open) = open_descriptors() {
            self.recorder.gauge(&table::PROCESS_OPEN_FDS, &[]).set(open as f64);
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.recorder.gauge(&table::PROCESS_MAX_FDS, &[]).set(soft as f64);
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let used = timeval(usage.user_time()) + timeval(usage.system_time());
            self.recorder.counter_seconds(&table::PROCESS_CPU, &[], used);
        }
    }
}

impl std::fmt::Debug for ProxyMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyMetrics").finish_non_exhaustive()
    }
}

/// Counts one connection of a client as open for as long as it lives.
#[derive(Debug)]
pub struct Connected {
    metrics: Arc<ProxyMetrics>,
    reason: &'static str,
}

impl Connected {
    /// Says why the connection ends; the last word before the drop counts. Unsaid, it is `internal`, so that a
    /// task that panics is counted as what it is.
    pub fn ends_because(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.metrics.connected.decrement(1.0);
        self.metrics.disconnections.increment(self.reason);
    }
}

fn timeval(time: nix::sys::time::TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let microseconds = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(microseconds)
}

fn resident_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn open_descriptors() -> Option<u64> {
    // One of them is the descriptor of this very listing.
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(listed.saturating_sub(1)).ok()
}
