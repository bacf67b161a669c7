//! What a configuration says of all pools of a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;

use crate::config::Config;
use crate::ids::millis;

/// What a time that is switched off means where something has to end all the same.
const UNBOUNDED: Duration = Duration::from_secs(3600);

/// Settings that all pools of a database share. `None` for a time means off.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For one attempt to open a server, log-in included.
    pub server_connect_timeout: Duration,
    /// The longest pause between attempts.
    pub server_login_retry: Duration,
    /// An idle server is closed after this.
    pub server_idle_timeout: Option<Duration>,
    /// A server is closed when it gets this old, with up to a tenth less, so that not all go at once.
    pub server_lifetime: Option<Duration>,
    /// A server that was idle for longer is asked for a sign of life before it is lent.
    pub server_check_delay: Option<Duration>,
    /// What it is asked.
    pub server_check_query: Bytes,
    /// Run on each server that has been opened, and again where its session is made new.
    pub connect_query: Bytes,
    /// How long a server may be kept back for a cancel that is on its way to it.
    pub cancel_wait_timeout: Duration,
    /// What makes a server forget a client.
    pub reset_query: Bytes,
    /// Whether every transaction ends with it.
    pub reset_always: bool,
    /// Whether a client keeps its server for what cannot be moved.
    pub pin_sessions: bool,
    /// The most prepared statements of one server.
    pub max_prepared_statements: usize,
}

impl Settings {
    /// What a configuration says of all pools of a database.
    pub(super) fn of(config: &Config, name: &str) -> Self {
        let entry = config.database(name);
        let check = match config.server_check_query.as_str() {
            // Postgres answers a statement without words with nothing but ReadyForQuery.
            "<empty>" => ";",
            query => query,
        };
        Self {
            server_connect_timeout: config.server_connect_timeout.unwrap_or(UNBOUNDED),
            server_login_retry: config.server_login_retry,
            server_idle_timeout: config.server_idle_timeout,
            server_lifetime: entry.and_then(|entry| entry.server_lifetime).unwrap_or(config.server_lifetime),
            server_check_delay: Some(config.server_check_delay).filter(|_| !check.is_empty()),
            server_check_query: Bytes::copy_from_slice(check.as_bytes()),
            connect_query: bytes_of(entry.and_then(|entry| entry.connect_query.as_ref())),
            cancel_wait_timeout: config.cancel_wait_timeout.unwrap_or(UNBOUNDED),
            reset_query: bytes_of(Some(&config.server_reset_query)),
            // With nothing to run, what a client leaves is looked for as in other transactions.
            reset_always: config.server_reset_query_always && !config.server_reset_query.is_empty(),
            pin_sessions: config.pin_sessions,
            max_prepared_statements: config.max_prepared_statements,
        }
    }
}

/// The settings as they are now.
#[derive(Debug)]
pub(super) struct Kept {
    all: ArcSwap<Settings>,
    pub(super) often: Often,
}

impl Kept {
    pub(super) fn new(settings: Settings) -> Self {
        let often = Often::default();
        often.follow(&settings);
        Self { all: ArcSwap::from_pointee(settings), often }
    }

    pub(super) fn load(&self) -> Guard<Arc<Settings>> {
        self.all.load()
    }

    pub(super) fn store(&self, settings: Settings) {
        self.often.follow(&settings);
        self.all.store(Arc::new(settings));
    }
}

/// Settings that every transaction asks for, each by itself: to take hold of all takes longer than to read one.
#[derive(Debug, Default)]
pub struct Often {
    reset_always: AtomicBool,
    max_prepared_statements: AtomicUsize,
    /// In milliseconds; [`OFF`] if no server is asked.
    server_check_delay: AtomicU64,
}

const OFF: u64 = u64::MAX;

impl Often {
    fn follow(&self, settings: &Settings) {
        self.reset_always.store(settings.reset_always, Ordering::Relaxed);
        self.max_prepared_statements.store(settings.max_prepared_statements, Ordering::Relaxed);
        self.server_check_delay.store(settings.server_check_delay.map_or(OFF, millis), Ordering::Relaxed);
    }

    /// [`Settings::reset_always`].
    #[must_use]
    pub fn reset_always(&self) -> bool {
        self.reset_always.load(Ordering::Relaxed)
    }

    /// [`Settings::max_prepared_statements`].
    #[must_use]
    pub fn max_prepared_statements(&self) -> usize {
        self.max_prepared_statements.load(Ordering::Relaxed)
    }

    /// Whether a server that was idle for so long is asked for a sign of life: [`Settings::server_check_delay`].
    #[must_use]
    pub fn is_to_be_checked(&self, idle: Duration) -> bool {
        let delay = self.server_check_delay.load(Ordering::Relaxed);
        delay != OFF && millis(idle) >= delay
    }
}

fn bytes_of(text: Option<&String>) -> Bytes {
    text.map(|text| Bytes::copy_from_slice(text.as_bytes())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_often_follows_a_reload() {
        let ms = Duration::from_millis;
        let mut settings = Settings::of(&Config::default(), "shop");
        (settings.reset_always, settings.max_prepared_statements) = (false, 200);
        settings.server_check_delay = Some(ms(500));
        let kept = Kept::new(settings.clone());
        let often = || (kept.often.reset_always(), kept.often.max_prepared_statements());
        assert_eq!(often(), (false, 200));
        assert!(!kept.often.is_to_be_checked(ms(499)) && kept.often.is_to_be_checked(ms(500)));
        (settings.reset_always, settings.max_prepared_statements) = (true, 7);
        settings.server_check_delay = None;
        kept.store(settings);
        assert_eq!(often(), (true, 7));
        assert!(!kept.often.is_to_be_checked(Duration::MAX));
    }
}
