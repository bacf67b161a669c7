//! What every session needs of the process. Built once by `app.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use crate::auth::users::Users;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config::Config;
use crate::pool::databases::Databases;
use crate::telemetry::metrics::ProxyMetrics;

/// The process as a session sees it.
#[derive(Clone)]
pub struct Front {
    /// The configuration.
    pub config: Arc<Config>,
    /// The clock.
    pub clock: Clock,
    /// Who is logged in.
    pub clients: Arc<Clients>,
    /// Who may log in.
    pub users: Arc<Users>,
    /// Where they may go.
    pub databases: Arc<Databases>,
    /// Counters of the process.
    pub metrics: Arc<ProxyMetrics>,
    /// Places for connections that are not logged in yet: as many as there may be clients, and some for cancels.
    pub guests: Arc<Semaphore>,
    /// Set when nobody may log in any more.
    pub closing: Arc<AtomicBool>,
}

impl Front {
    /// Whether the process is shutting down.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Through which socket a connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// One that applications use.
    Listener,
    /// The console's own: peers are known by their uid.
    AdminSocket,
}

/// The names under which clients ask for the console instead of a database.
pub const CONSOLE: [&str; 2] = ["pgbouncer", "pglull"];
