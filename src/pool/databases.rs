//! All databases that clients may ask for, and the way from a client to its pool.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::database::{Database, Pool, Settings, Size};
use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::server::connect::Target;
use crate::telemetry::metrics::Recorder;

/// The databases of a configuration. Those that only the entry `*` covers are made when first asked for.
#[derive(Debug)]
pub struct Databases {
    config: Arc<Config>,
    clock: Clock,
    settings: Arc<Settings>,
    recorder: Recorder,
    last_server: Arc<AtomicU64>,
    known: Mutex<BTreeMap<String, Arc<Database>>>,
}

/// What a time that is switched off means where something has to end all the same.
const UNBOUNDED: Duration = Duration::from_secs(3600);

impl Databases {
    /// The settings that all pools share.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes the databases that the configuration names.
    #[must_use]
    pub fn new(config: Arc<Config>, clock: Clock, recorder: Recorder) -> Arc<Self> {
        let settings = Settings {
            server_connect_timeout: config.server_connect_timeout.unwrap_or(UNBOUNDED),
            server_login_retry: config.server_login_retry,
            server_idle_timeout: config.server_idle_timeout,
            server_lifetime: config.server_lifetime,
            server_check_delay: Some(config.server_check_delay),
            query_wait_timeout: config.query_wait_timeout,
            cancel_wait_timeout: config.cancel_wait_timeout.unwrap_or(UNBOUNDED),
            reset_query: bytes::Bytes::from(config.server_reset_query.clone().into_bytes()),
        };
        let names: Vec<String> = config.databases.keys().filter(|name| *name != "*").cloned().collect();
        let databases = Arc::new(Self {
            config,
            clock,
            settings: Arc::new(settings),
            recorder,
            last_server: Arc::default(),
            known: Mutex::default(),
        });
        for name in names {
            databases.find(&name);
        }
        databases
    }

    /// The database with this name, if the configuration has it or an entry `*`.
    pub fn find(&self, name: &str) -> Option<Arc<Database>> {
        self.config.database(name)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let database = Database::new(
                name.to_owned(),
                self.clock,
                (Arc::clone(&self.settings), Arc::clone(&self.last_server)),
                &self.recorder,
            );
            database.spawn_upkeep();
            database
        };
        Some(Arc::clone(known.entry(name.to_owned()).or_insert_with(make)))
    }

    /// All databases that are known by now, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Database>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The pool for a client: that of its user, or of the user that the entry forces. `password` finds the secret of a user.
    pub fn pool(
        &self,
        database: &Arc<Database>,
        user: &str,
        password: impl FnOnce(&str) -> Option<Secret>,
    ) -> Option<Arc<Pool>> {
        let entry = self.config.database(&database.name)?;
        let role = entry.user.as_deref().unwrap_or(user);
        Some(database.pool(role, &self.recorder, || {
            let limit = self.config.pool_size_of(entry, role);
            let size = Size { limit, minimum: entry.min_pool_size.unwrap_or(self.config.min_pool_size).min(limit) };
            let target = self.target(&database.name, role, password);
            (target, self.config.pool_mode_of(entry, role), size)
        }))
    }

    /// The pool of this user, if there is one already.
    #[must_use]
    pub fn pool_of(&self, database: &str, user: &str) -> Option<Arc<Pool>> {
        self.find(database)?.pools().into_iter().find(|pool| pool.user == user)
    }

    /// The role that changes a database's schema.
    ///
    /// # Errors
    /// What to put into the configuration, if it cannot be told.
    pub fn apply_role(&self, name: &str, only_user: impl FnOnce() -> Option<String>) -> Result<String, String> {
        let entry = self.config.database(name);
        let named = entry.and_then(|entry| entry.apply_user.clone().or_else(|| entry.user.clone()));
        named.or_else(only_user).ok_or_else(|| {
            format!(
                "no role to apply changes as: set apply_user (and apply_password) in the entry of database \"{name}\""
            )
        })
    }

    /// Where changes of a database are applied.
    #[must_use]
    pub fn apply_target(&self, name: &str, role: &str, password: impl FnOnce(&str) -> Option<Secret>) -> Target {
        let entry = self.config.database(name);
        let own = entry.and_then(|entry| entry.apply_password.clone());
        let forced = entry.filter(|entry| entry.user.as_deref() == Some(role)).and_then(|entry| entry.password.clone());
        let password = own.or(forced).or_else(|| password(role));
        Target { password, ..self.target(name, role, |_| None) }
    }

    /// Where a database leads, as this role.
    pub fn target(&self, name: &str, role: &str, password: impl FnOnce(&str) -> Option<Secret>) -> Target {
        let entry = self.config.database(name);
        Target {
            host: entry.map(|entry| entry.host.clone()).unwrap_or_default(),
            port: entry.map_or(0, |entry| entry.port),
            dbname: entry.and_then(|entry| entry.dbname.clone()).unwrap_or_else(|| name.to_owned()),
            user: role.to_owned(),
            password: entry.and_then(|entry| entry.password.clone()).or_else(|| password(role)),
            keepalive: self.config.tcp_keepalive,
        }
    }
}
