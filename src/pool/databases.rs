//! All databases that clients may ask for, and the way from a client to its pool.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::auto;
use super::database::{Database, Plan, Pool};
use super::ledger::Size;
use super::places::Places;
use super::settings::Settings;
use crate::auth::credential::{Credential, Keychain};
use crate::clock::Clock;
use crate::config::{Config, Database as Entry, Running};
use crate::server::connect::{Manners, Target};
use crate::server::names::Names;
use crate::server::tls::Connector;
use crate::telemetry::metrics::Recorder;

/// The databases of a configuration. Those that only the entry `*` covers are made when first asked for.
#[derive(Debug)]
pub struct Databases {
    running: Arc<Running>,
    clock: Clock,
    recorder: Recorder,
    connector: ArcSwap<Connector>,
    last_server: Arc<AtomicU64>,
    places: Arc<Places>,
    known: Mutex<BTreeMap<String, Arc<Database>>>,
}

impl Databases {
    /// Makes the databases that the configuration names.
    #[must_use]
    pub fn new(running: Arc<Running>, clock: Clock, recorder: Recorder, connector: Connector) -> Arc<Self> {
        let databases = Arc::new(Self {
            running,
            clock,
            recorder,
            connector: ArcSwap::from_pointee(connector),
            last_server: Arc::default(),
            places: Places::new(clock),
            known: Mutex::default(),
        });
        databases.make_named();
        databases.spawn_sweep();
        databases
    }

    /// The configuration as it is now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.running.get()
    }

    /// How servers are asked for TLS.
    #[must_use]
    pub fn connector(&self) -> Arc<Connector> {
        self.connector.load_full()
    }

    /// From now on servers are asked for TLS in this way; [`reload`](Self::reload) then closes those of before.
    pub fn put_connector(&self, connector: Connector) {
        self.connector.store(Arc::new(connector));
    }

    /// All that are known, by name.
    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Database>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes those that the configuration names and that are not there yet.
    pub(super) fn make_named(&self) {
        for name in self.config().databases.keys().filter(|name| *name != "*") {
            self.find(name);
        }
    }

    /// The database with this name, if the configuration has it or an entry `*` that may make one more.
    pub fn find(&self, name: &str) -> Option<Arc<Database>> {
        let mut known = self.known();
        // Read under the lock: a reload removes a database after the configuration has forgotten it.
        let config = self.config();
        config.database(name)?;
        let automatic = !config.databases.contains_key(name);
        if automatic && !known.contains_key(name) && !auto::has_room(&known, &config) {
            return None;
        }
        let make = || {
            let database = Database::new(
                name.to_owned(),
                self.clock,
                (Settings::of(&config, name), Arc::clone(&self.last_server), Arc::clone(&self.places)),
                // One that comes and goes takes its figures along.
                if automatic { self.recorder.apart() } else { self.recorder.clone() },
            );
            database.spawn_upkeep();
            database
        };
        Some(Arc::clone(known.entry(name.to_owned()).or_insert_with(make)))
    }

    /// All databases that are known by now, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Database>> {
        self.known().values().cloned().collect()
    }

    /// The pool for a client: that of its user, or of the user that the entry forces. `credential` finds what a user logs in
    /// to Postgres with; `proved` is what the client has shown to have, worth something only where the pool is its own user's.
    pub fn pool(
        &self,
        database: &Arc<Database>,
        user: &str,
        proved: Option<Credential>,
        credential: impl FnOnce(&str) -> Option<Credential>,
    ) -> Option<Arc<Pool>> {
        let config = self.config();
        let entry = config.database(&database.name)?;
        let role = entry.role(user);
        let own = proved.filter(|_| role == user);
        let credential = of_entry(entry, role).or(own).or_else(|| credential(role));
        let pool = database.pool(role, || plan((&config, &self.connector()), &database.name, role, |_| None));
        // Each time, not only when it is made: a key is learned with a log-in.
        if let Some(credential) = credential {
            pool.learn(credential);
        }
        Some(pool)
    }

    /// Makes the pools that have a minimum and are known before anybody asks: those of forced users.
    pub fn warm(&self, credential: impl Fn(&str) -> Option<Credential>) {
        let config = self.config();
        for (name, entry) in config.databases.iter().filter(|(name, _)| *name != "*") {
            if let Some(role) = entry.user.as_deref().filter(|role| config.pool_limits(entry, role).minimum > 0)
                && let Some(database) = self.find(name)
            {
                self.pool(&database, role, None, &credential);
            }
        }
    }

    /// The pool of this user, if there is one already.
    #[must_use]
    pub fn pool_of(&self, database: &str, user: &str) -> Option<Arc<Pool>> {
        self.known().get(database).cloned()?.pools().into_iter().find(|pool| pool.user == user)
    }

    /// The role that changes a database's schema.
    ///
    /// # Errors
    /// What to put into the configuration, if it cannot be told.
    pub fn apply_role(&self, name: &str, only_user: impl FnOnce() -> Option<String>) -> Result<String, String> {
        let config = self.config();
        let entry = config.database(name);
        let named = entry.and_then(|entry| entry.apply_user.clone().or_else(|| entry.user.clone()));
        named.or_else(only_user).ok_or_else(|| {
            format!(
                "no role to apply changes as: set apply_user (and apply_password) in the entry of database \"{name}\""
            )
        })
    }

    /// Where changes of a database are applied.
    #[must_use]
    pub fn apply_target(&self, name: &str, role: &str, credential: impl FnOnce(&str) -> Option<Credential>) -> Target {
        let config = self.config();
        let entry = config.database(name);
        let own = entry.and_then(|entry| entry.apply_password.as_ref()).map(Credential::of_password);
        let forced = entry.filter(|entry| entry.user.as_deref() == Some(role)).and_then(|entry| of_entry(entry, role));
        target((&config, &self.connector()), name, role, own.or(forced).or_else(|| credential(role)))
    }
}

/// The password of an entry: that of the user that it forces, or of everybody if it forces none.
fn of_entry(entry: &Entry, role: &str) -> Option<Credential> {
    let meant = entry.user.as_deref().is_none_or(|forced| forced == role);
    entry.password.as_ref().filter(|_| meant).map(Credential::of_password)
}

/// What an entry wants of sessions whose client asks for nothing else.
fn settings_of(entry: &Entry) -> Vec<(&'static str, String)> {
    let all =
        [("TimeZone", &entry.timezone), ("DateStyle", &entry.datestyle), ("client_encoding", &entry.client_encoding)];
    all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
}

/// Where a database leads, as this role, which logs in with this.
#[must_use]
pub fn target(
    (config, connector): (&Config, &Arc<Connector>),
    name: &str,
    role: &str,
    credential: Option<Credential>,
) -> Target {
    let entry = config.database(name);
    Target {
        host: entry.map(|entry| entry.host.clone()).unwrap_or_default(),
        port: entry.map_or(0, |entry| entry.port),
        dbname: entry.and_then(|entry| entry.dbname.clone()).unwrap_or_else(|| name.to_owned()),
        user: role.to_owned(),
        keychain: Keychain::new(credential),
        // Our own questions and changes are in UTF-8, whatever clients are given.
        defaults: Vec::new(),
        watch: config.tcp_watch(),
        connector: Arc::clone(connector),
        manners: Manners::default(),
        names: Arc::new(Names::new(config.dns_max_ttl, config.dns_nxdomain_ttl)),
    }
}

/// What a configuration says of the pool of this role.
pub(super) fn plan(
    (config, connector): (&Config, &Arc<Connector>),
    name: &str,
    role: &str,
    credential: impl FnOnce(&str) -> Option<Credential>,
) -> Plan {
    let defaults = Entry::default();
    let entry = config.database(name).unwrap_or(&defaults);
    let limits = config.pool_limits(entry, role);
    let size = Size {
        limit: limits.size,
        minimum: limits.minimum,
        reserve: limits.reserve,
        reserve_after: limits.reserve_after,
        round_robin: config.server_round_robin,
    };
    let credential = of_entry(entry, role).or_else(|| credential(role));
    let target = Target { defaults: settings_of(entry), ..target((config, connector), name, role, credential) };
    Plan { target, mode: config.pool_mode_of(entry, role), size, limits }
}
