//! Databases that the entry `*` has made: never more than `max_auto_databases`, and forgotten after
//! `autodb_idle_timeout` without a user. Only clients that have proved who they are make one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::databases::Databases;
use crate::config::Config;
use crate::ids::Moment;

/// How often they are looked over.
const PERIOD: Duration = Duration::from_secs(1);

/// May the entry `*` make one more?
pub(super) fn has_room(known: &BTreeMap<String, Arc<Database>>, config: &Config) -> bool {
    let automatic = known.keys().filter(|name| !config.databases.contains_key(*name)).count();
    automatic < config.max_auto_databases
}

impl Databases {
    /// Forgets those that nobody has used for long, for as long as there is somebody to ask for them.
    pub(super) fn spawn_sweep(self: &Arc<Self>) {
        let databases = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut idle_since = BTreeMap::new();
            let mut period = tokio::time::interval(PERIOD);
            loop {
                period.tick().await;
                let Some(databases) = databases.upgrade() else { return };
                databases.sweep(&mut idle_since);
            }
        });
    }

    fn sweep(&self, idle_since: &mut BTreeMap<String, Moment>) {
        let config = self.config();
        let gone: Vec<_> = {
            let mut known = self.known();
            idle_since.retain(|name, _| known.contains_key(name));
            let forget = |name: &String, database: &mut Arc<Database>| {
                // Under the lock: nobody can get hold of one that is not in anybody's hands now.
                if config.databases.contains_key(name) || database.is_shut() || !database.nobody_has() {
                    idle_since.remove(name);
                    return false;
                }
                let now = database.clock.now();
                let since = *idle_since.entry(name.clone()).or_insert(now);
                config.autodb_idle_timeout.is_some_and(|bound| now.since(since) >= bound)
            };
            known.extract_if(.., forget).map(|(_, database)| database).collect()
        };
        for database in gone {
            tracing::info!(database = %database.name, "autodb idle timeout: the database is forgotten");
            database.retire();
        }
    }
}
