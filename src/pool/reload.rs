//! What a new configuration changes of databases and pools, while they are in use.
//!
//! As in PgBouncer a server stays unless it leads elsewhere than the configuration now says; then it is closed when it
//! is free, so no client notices. A pool that became too big shrinks as its servers come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::database::{Database, Plan, Pool, Shape, Welcome};
use super::databases::{self, Databases};
use super::failing::Failing;
use super::recycle::RECONNECT;
use super::settings::Settings;
use crate::auth::credential::Credential;
use crate::config::Config;
use crate::server::conn::{Rested, Server};
use crate::server::connect::Target;
use crate::server::tls::Connector;

/// Why a server is closed that leads elsewhere than the configuration, in PgBouncer's words.
const MOVED: &str = "database configuration changed";

impl Databases {
    /// Follows the configuration that has just been put in force. `credential` finds what a user logs in with. Returns the
    /// databases that are gone: nobody can log in to them any more, those who are there are for the caller to send away.
    pub fn reload(&self, credential: impl Fn(&str) -> Option<Credential>) -> Vec<Arc<Database>> {
        let config = self.config();
        let gone: Vec<_> = {
            let mut known = self.known();
            known.extract_if(.., |name, _| config.database(name).is_none()).map(|(_, database)| database).collect()
        };
        gone.iter().for_each(Database::retire);
        for database in self.list() {
            database.follow((&config, &self.connector()), &credential);
        }
        self.make_named();
        self.warm(&credential);
        gone
    }
}

impl Database {
    /// The configuration does not have it any more.
    pub(super) fn retire(self: &Arc<Self>) {
        self.remove();
        for pool in self.forget_pools() {
            let idle = pool.database.books().take_idle(pool.ix, |_| true);
            pool.close(idle, "database removed");
            // Whoever waits to hear of its first server is not to wait for that.
            pool.welcome.send_modify(|_| {});
        }
    }

    fn follow(
        self: &Arc<Self>,
        (config, connector): (&Config, &Arc<Connector>),
        credential: impl Fn(&str) -> Option<Credential>,
    ) {
        self.settings.store(Settings::of(config, &self.name));
        let forced = config.database(&self.name).and_then(|entry| entry.user.as_deref());
        for pool in self.pools() {
            let mut plan = databases::plan((config, connector), &self.name, &pool.user, &credential);
            if forced.is_some_and(|forced| forced != pool.user) {
                // Only those who logged in before the entry had this user are left in it.
                plan.size.minimum = 0;
            }
            pool.follow(plan);
        }
    }
}

impl Pool {
    fn follow(self: &Arc<Self>, Plan { target, mode, size, limits }: Plan) {
        self.database.places.follow(&self.database.name, &self.user, &limits);
        let now = self.target();
        let moved = !now.leads_where(&target);
        let credential = target.keychain.get().or_else(|| now.keychain.get());
        let target = if moved || !now.names.as_patient_as(&target.names) { Arc::new(target) } else { now };
        // Before the shape: whoever compares in between compares the targets themselves.
        self.target_at.store(Arc::as_ptr(&target).addr(), Ordering::Release);
        self.shape.store(Arc::new(Shape { target, mode }));
        // What a client has proved is worth as much as before, where the configuration says nothing.
        if let Some(credential) = credential {
            self.learn(Credential::clone(&credential));
        }
        let closed = {
            let mut books = self.database.books();
            books.resize(self.ix, size);
            if moved {
                books.retry_now(self.ix);
            }
            let mut surplus = books.surplus(self.ix);
            self.crowded.store(surplus > 0, Ordering::Release);
            books.take_idle(self.ix, |_| {
                let close = moved || surplus > 0;
                surplus = surplus.saturating_sub(usize::from(close));
                close
            })
        };
        if moved {
            tracing::info!(database = %self.database.name, user = %self.user, "the database leads elsewhere: its servers are closed as they are free");
            *self.failing() = Failing::default();
            // What the old servers said of themselves need not be true of the new ones.
            self.welcome.send_modify(|welcome| *welcome = Welcome::default());
        }
        self.close(closed, if moved { MOVED } else { "too many servers in the pool" });
        self.open_servers();
    }

    /// Why a server that is free now must not be lent again, in PgBouncer's words; `None` if it may be. `fresh`: it has just been
    /// opened, at an address that its host's name stands for.
    pub(super) fn unwanted(&self, server: &Server, fresh: bool) -> Option<&'static str> {
        let target = &server.link.target;
        if server.is_outdated() {
            return Some(RECONNECT);
        }
        if self.database.is_removed() {
            return Some("database removed");
        }
        let current = self.other_target(server);
        if current.as_ref().is_some_and(|current| !current.leads_where(target)) {
            return Some(MOVED);
        }
        if !fresh && current.as_ref().unwrap_or(target).has_left(server.link.addr) {
            return Some(MOVED);
        }
        if self.crowded.load(Ordering::Acquire) {
            let surplus = self.database.books().surplus(self.ix);
            self.crowded.store(surplus > 0, Ordering::Release);
            return (surplus > 0).then_some("too many servers in the pool");
        }
        None
    }

    /// The configuration's target, where it is another one than this server's. One load where it is the same.
    fn other_target(&self, server: &Server) -> Option<Arc<Target>> {
        let target = &server.link.target;
        // As long as the server has it, no other target can be there.
        let same = self.target_at.load(Ordering::Acquire) == Arc::as_ptr(target).addr();
        (!same).then(|| self.target()).filter(|current| !Arc::ptr_eq(current, target))
    }

    /// Whether a server leads elsewhere than the configuration says: one that came back just while that was changing may be among the
    /// idle ones.
    pub(super) fn leads_elsewhere(&self, server: &Server) -> bool {
        self.other_target(server).is_some_and(|current| !current.leads_where(&server.link.target))
    }

    /// Closes servers that were taken out of the books.
    pub(super) fn close(&self, servers: Vec<Rested>, reason: &str) {
        for rested in servers {
            self.stats.server_closes.add(1);
            let id = rested.server().id.0;
            tracing::debug!(database = %self.database.name, user = %self.user, server = id, reason, "closing server");
            rested.wake().farewell();
        }
    }
}
