//! Which limit holds for whom: the user's word beats the database's, which beats the global one.
//!
//! Pure. Whoever needs a limit asks here, at the moment of its use, so that a reload reaches everybody. Names and
//! meanings are PgBouncer's; what counts servers goes by the role that they log in as, what counts or times clients by
//! the user that logged in.

use super::types::{Config, Database, UserOverride};
use super::value::PoolMode;
use std::time::Duration;

/// The limits of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolLimits {
    /// The most servers; `usize::MAX` is no limit.
    pub size: usize,
    /// The fewest that are kept open.
    pub minimum: usize,
    /// How many more it may have while somebody has waited for `reserve_after`.
    pub reserve: usize,
    /// `None`: the reserve is not used.
    pub reserve_after: Option<Duration>,
    /// The most servers of its database; `None` is no limit.
    pub database_servers: Option<usize>,
    /// The most servers of its role, in all databases; `None` is no limit.
    pub user_servers: Option<usize>,
}

/// The limits of one client. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the keys")]
pub struct ClientLimits {
    pub pool_mode: PoolMode,
    pub query_wait_timeout: Option<Duration>,
    pub query_wait_notify: Option<Duration>,
    pub client_idle_timeout: Option<Duration>,
    pub idle_transaction_timeout: Option<Duration>,
    pub transaction_timeout: Option<Duration>,
    pub query_timeout: Option<Duration>,
}

/// How a TCP connection notices that its peer is gone without a word. `None` is the kernel's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpWatch {
    /// `tcp_keepalive`: is a silent peer probed?
    pub keepalive: bool,
    /// `tcp_keepidle`.
    pub idle: Option<Duration>,
    /// `tcp_keepintvl`.
    pub interval: Option<Duration>,
    /// `tcp_keepcnt`.
    pub probes: Option<u32>,
    /// `tcp_user_timeout`.
    pub user_timeout: Option<Duration>,
}

const fn unless_zero(count: usize) -> Option<usize> {
    if count == 0 { None } else { Some(count) }
}

impl Config {
    fn user(&self, name: &str) -> Option<&UserOverride> {
        self.user_overrides.get(name)
    }

    /// How TCP connections to clients and servers are watched.
    #[must_use]
    pub fn tcp_watch(&self) -> TcpWatch {
        TcpWatch {
            keepalive: self.tcp_keepalive,
            idle: self.tcp_keepidle,
            interval: self.tcp_keepintvl,
            probes: unless_zero(self.tcp_keepcnt).and_then(|count| u32::try_from(count).ok()),
            user_timeout: self.tcp_user_timeout,
        }
    }

    /// For how long clients keep their server.
    #[must_use]
    pub fn pool_mode_of(&self, database: &Database, user: &str) -> PoolMode {
        self.user(user).and_then(|user| user.pool_mode).or(database.pool_mode).unwrap_or(self.pool_mode)
    }

    /// The limits of the pool of `role` in a database.
    #[must_use]
    pub fn pool_limits(&self, database: &Database, role: &str) -> PoolLimits {
        let user = self.user(role);
        let size = user.and_then(|user| user.pool_size).or(database.pool_size).unwrap_or(self.default_pool_size);
        let size = unless_zero(size).unwrap_or(usize::MAX);
        let reserve = user.and_then(|user| user.reserve_pool_size).or(database.reserve_pool_size);
        let of_user = user.and_then(|user| user.max_user_connections).unwrap_or(self.max_user_connections);
        PoolLimits {
            size,
            minimum: database.min_pool_size.unwrap_or(self.min_pool_size).min(size),
            reserve: reserve.unwrap_or(self.reserve_pool_size),
            reserve_after: self.reserve_pool_timeout,
            database_servers: unless_zero(database.max_db_connections.unwrap_or(self.max_db_connections)),
            user_servers: unless_zero(of_user),
        }
    }

    /// The limits of a client of `user` in the database with this name.
    #[must_use]
    pub fn client_limits(&self, database: &str, user: &str) -> ClientLimits {
        let database = self.database(database);
        let user = self.user(user);
        let own = |pick: fn(&UserOverride) -> Option<Option<Duration>>| user.and_then(pick);
        let of_database = database.and_then(|database| database.query_wait_timeout);
        let mode = user.and_then(|user| user.pool_mode).or_else(|| database.and_then(|database| database.pool_mode));
        ClientLimits {
            pool_mode: mode.unwrap_or(self.pool_mode),
            query_wait_timeout: own(|user| user.query_wait_timeout).or(of_database).unwrap_or(self.query_wait_timeout),
            query_wait_notify: self.query_wait_notify,
            client_idle_timeout: own(|user| user.client_idle_timeout).unwrap_or(self.client_idle_timeout),
            idle_transaction_timeout: own(|user| user.idle_transaction_timeout)
                .unwrap_or(self.idle_transaction_timeout),
            transaction_timeout: own(|user| user.transaction_timeout).unwrap_or(self.transaction_timeout),
            query_timeout: own(|user| user.query_timeout).unwrap_or(self.query_timeout),
        }
    }

    /// The most clients of a database and of a user; `None` is no limit.
    #[must_use]
    pub fn client_caps(&self, database: &str, user: &str) -> (Option<usize>, Option<usize>) {
        let of_database = self.database(database).and_then(|database| database.max_db_client_connections);
        let of_user = self.user(user).and_then(|user| user.max_user_client_connections);
        (
            unless_zero(of_database.unwrap_or(self.max_db_client_connections)),
            unless_zero(of_user.unwrap_or(self.max_user_client_connections)),
        )
    }

    /// The shortest time that any client is measured by; `None` if none is.
    #[must_use]
    pub fn shortest_client_timeout(&self) -> Option<Duration> {
        let global =
            [self.client_idle_timeout, self.idle_transaction_timeout, self.transaction_timeout, self.query_timeout];
        let of_users = self.user_overrides.values().flat_map(|user| {
            [user.client_idle_timeout, user.idle_transaction_timeout, user.transaction_timeout, user.query_timeout]
        });
        global.into_iter().chain(of_users.map(Option::flatten)).flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.databases.insert("db".to_owned(), Database::default());
        config.user_overrides.insert("ann".to_owned(), UserOverride::default());
        config
    }

    #[test]
    fn the_user_beats_the_database_which_beats_the_global_key() {
        let mut config = config();
        config.pool_mode = PoolMode::Session;
        config.query_wait_timeout = Some(Duration::from_secs(1));
        let look = |config: &Config, user: &str| {
            let limits = config.client_limits("db", user);
            (limits.pool_mode, limits.query_wait_timeout)
        };
        assert_eq!(look(&config, "ann"), (PoolMode::Session, Some(Duration::from_secs(1))));
        let database = config.databases.get_mut("db").unwrap();
        (database.pool_mode, database.query_wait_timeout) = (Some(PoolMode::Statement), Some(None));
        assert_eq!(look(&config, "ann"), (PoolMode::Statement, None), "0 is a word too");
        let user = config.user_overrides.get_mut("ann").unwrap();
        (user.pool_mode, user.query_wait_timeout) = (Some(PoolMode::Transaction), Some(Some(Duration::from_secs(3))));
        assert_eq!(look(&config, "ann"), (PoolMode::Transaction, Some(Duration::from_secs(3))));
        assert_eq!(look(&config, "bob"), (PoolMode::Statement, None));
    }

    #[test]
    fn sizes_and_caps() {
        let mut config = config();
        (config.default_pool_size, config.min_pool_size, config.max_user_connections) = (0, 3, 7);
        let database = config.databases.get("db").unwrap().clone();
        let limits = config.pool_limits(&database, "bob");
        assert_eq!((limits.size, limits.minimum), (usize::MAX, 3), "0 is no limit");
        assert_eq!((limits.database_servers, limits.user_servers), (None, Some(7)));
        let user = config.user_overrides.get_mut("ann").unwrap();
        (user.pool_size, user.max_user_connections, user.max_user_client_connections) = (Some(2), Some(0), Some(5));
        let limits = config.pool_limits(&database, "ann");
        assert_eq!((limits.size, limits.minimum, limits.user_servers), (2, 2, None));
        config.max_db_client_connections = 9;
        assert_eq!(config.client_caps("db", "ann"), (Some(9), Some(5)));
        assert_eq!(config.client_caps("db", "bob"), (Some(9), None));
    }

    #[test]
    fn the_shortest_time_of_anybody() {
        let mut config = config();
        assert_eq!(config.shortest_client_timeout(), None);
        config.query_timeout = Some(Duration::from_secs(9));
        config.user_overrides.get_mut("ann").unwrap().transaction_timeout = Some(Some(Duration::from_secs(2)));
        assert_eq!(config.shortest_client_timeout(), Some(Duration::from_secs(2)));
    }
}
