//! The running configuration: one snapshot, swapped as a whole by a reload.
//!
//! Whoever needs a setting takes the snapshot at that moment and keeps it for that one use, never for its life: so a
//! reload reaches everybody, and nobody sees half of one.

use super::types::Config;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, MutexGuard};

/// The configuration that is in force. See the module's text.
#[derive(Debug)]
pub struct Running {
    now: ArcSwap<Config>,
    /// How often another one was put in force.
    edition: AtomicU32,
    turn: Mutex<()>,
}

impl Running {
    /// Begins with this one.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self { now: ArcSwap::from_pointee(config), edition: AtomicU32::new(0), turn: Mutex::default() })
    }

    /// The configuration as it is now. Without a lock; what is returned does not change.
    #[must_use]
    pub fn get(&self) -> Arc<Config> {
        self.now.load_full()
    }

    /// The right to change it, for one at a time. Cancel-safe.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Puts another one in force. Only `admin::reload` does, after everybody has agreed to it.
    pub fn put(&self, config: Arc<Config>) {
        self.now.store(config);
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Another number for another configuration, for what is derived from one at every transaction: who finds the number unchanged
    /// need not derive it anew. To be read before the configuration itself. One load.
    #[must_use]
    pub fn edition(&self) -> u32 {
        self.edition.load(Ordering::Acquire)
    }
}
