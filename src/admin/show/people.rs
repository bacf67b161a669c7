//! `SHOW DATABASES`, `SHOW USERS`, `SHOW LISTS`, `SHOW MEM`: what there is, and how much of it.

use super::of;
use super::sockets::all_pools;
use crate::admin::command::Show;
use crate::admin::console::Env;
use crate::admin::table::{Table, row};
use crate::clients::Client;
use crate::config::PoolMode;
use crate::pool::database::{Database, Pool};
use crate::server::conn::Server;

/// Servers of these pools, those that are being opened not counted.
fn servers<'a>(pools: impl Iterator<Item = &'a std::sync::Arc<Pool>>) -> usize {
    pools.map(|pool| pool.counts()).map(|counts| counts.lent + counts.idle).sum()
}

/// A pool mode where one is set, as PgBouncer shows it: NULL where it is inherited.
fn mode(mode: Option<PoolMode>) -> Option<String> {
    mode.map(|mode| mode.as_str().to_owned())
}

pub(super) fn databases(env: &Env) -> Table {
    let mut table = of(&Show::Databases);
    let config = env.front.config();
    let clients = env.front.clients.list();
    for database in env.front.databases.list() {
        let Some(entry) = config.database(&database.name) else { continue };
        // As PgBouncer does: 0 is no limit.
        let limits = config.pool_limits(entry, "");
        let (most_clients, _) = config.client_caps(&database.name, "");
        let load_balance_hosts: Option<String> = None;
        table.rows.push(row![
            database.name.clone(),
            entry.host.clone(),
            entry.port,
            entry.dbname.clone().unwrap_or_else(|| database.name.clone()),
            entry.user.clone(),
            entry.pool_size.unwrap_or(config.default_pool_size),
            entry.min_pool_size.unwrap_or(config.min_pool_size),
            limits.reserve,
            config.server_lifetime.map(|lifetime| lifetime.as_secs()).unwrap_or_default(),
            mode(entry.pool_mode),
            load_balance_hosts,
            limits.database_servers.unwrap_or_default(),
            servers(database.pools().iter()),
            most_clients.unwrap_or_default(),
            clients.iter().filter(|client| client.database == database.name).count(),
            database.is_shut(),
            database.is_disabled(),
            env.registry.apply_role(&database),
        ]);
    }
    table
}

pub(super) fn users(env: &Env) -> Table {
    let mut table = of(&Show::Users);
    let pools = all_pools(env);
    let clients = env.front.clients.list();
    let config = env.front.config();
    let nowhere = crate::config::Database::default();
    for name in config.users.keys() {
        let own = config.user_overrides.get(name);
        let pool_size = own.and_then(|own| own.pool_size).map(|size| size.to_string());
        table.rows.push(row![
            name.clone(),
            pool_size.unwrap_or_default(),
            "",
            mode(own.and_then(|own| own.pool_mode)),
            config.pool_limits(&nowhere, name).user_servers.unwrap_or_default(),
            servers(pools.iter().filter(|pool| pool.user == *name)),
            config.client_caps("", name).1.unwrap_or_default(),
            clients.iter().filter(|client| client.user == *name).count(),
        ]);
    }
    table
}

pub(super) fn lists(env: &Env) -> Table {
    let mut table = of(&Show::Lists);
    let pools = all_pools(env);
    for (name, count) in [
        ("databases", env.front.databases.list().len()),
        ("users", env.front.config().users.len()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", env.front.clients.count()),
        ("login_clients", env.front.logging_in()),
        ("free_servers", 0),
        ("used_servers", servers(pools.iter())),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ] {
        table.rows.push(row![name, count]);
    }
    table
}

/// There are no caches of our own: what stands here is what things that are there take at least, without their buffers.
pub(super) fn mem(env: &Env) -> Table {
    let mut table = of(&Show::Mem);
    let pools = all_pools(env);
    for (name, size, used) in [
        ("user_cache", size_of::<crate::config::UserSecret>(), env.front.config().users.len()),
        ("db_cache", size_of::<Database>(), env.front.databases.list().len()),
        ("pool_cache", size_of::<Pool>(), pools.len()),
        ("client_cache", size_of::<Client>(), env.front.clients.count()),
        ("server_cache", size_of::<Server>(), servers(pools.iter())),
    ] {
        table.rows.push(row![name, size, used, 0_u8, size * used]);
    }
    table
}
