//! The typed configuration. Every key stands here once: its name, type, place, default and help are one line of
//! the table from which the struct, the parser, `SHOW CONFIG` and the test of `reference.toml` are made.
//!
//! Pure, plain data. Nothing here reads a file; see `build.rs` for how entries become a [`Config`].

use super::classes::Classes;
use super::crowd::Crowd;
use super::hba::Hba;
use super::hours::Hours;
use super::ident::IdentMaps;
use super::mistake::quoted;
use super::tls::{TlsProtocols, TlsSide};
use super::value::{AuthType, LogFormat, PoolMode, Secret, Slot, SslMode, Stragglers};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One key of a section.
pub(crate) struct Key<T: 'static> {
    /// As it is written.
    pub(crate) name: &'static str,
    /// The default as it would be written; empty for none.
    pub(crate) default: &'static str,
    /// One line for people.
    pub(crate) help: &'static str,
    /// The typed place in the section.
    pub(crate) slot: fn(&mut T) -> Slot<'_>,
}

/// A section with a table of keys.
pub(crate) trait Section: Default + 'static {
    /// Every key, in the order in which they are shown.
    const KEYS: &'static [Key<Self>];
}

/// Makes a section's struct, its table of keys and its `Default`; fields after `also` are not keys.
macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident
        { $($(#[doc = $help:literal])+ $key:ident: $type:ty = $slot:ident($default:literal);)+ }
        $(also { $($(#[$also_doc:meta])* $also:ident: $also_type:ty,)+ })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $($(#[doc = $help])+ pub $key: $type,)+
            $($($(#[$also_doc])* pub $also: $also_type,)+)?
        }

        impl Section for $name {
            const KEYS: &'static [Key<Self>] = &[$(Key {
                name: stringify!($key),
                default: $default,
                help: concat!($($help),+),
                slot: |section| Slot::$slot(&mut section.$key),
            },)+];
        }

        impl Default for $name {
            fn default() -> Self {
                let mut section = Self {
                    $($key: Default::default(),)+
                    $($($also: Default::default(),)+)?
                };
                for key in Self::KEYS.iter().filter(|key| !key.default.is_empty()) {
                    // That every default is a good value is shown by a test.
                    let _ = (key.slot)(&mut section).set(key.default);
                }
                section
            }
        }
    };
}

section!(
    /// Everything that can be configured. `Config::default()` holds the documented defaults and no database.
    Config {
        /// Addresses or host names to listen on, a comma list or an array; "*" is all, "" is none.
        listen_addr: Vec<String> = Listen("127.0.0.1");
        /// TCP port, and the number in the name of the Unix socket.
        listen_port: u16 = Port("6432");
        /// How many connections may wait to be accepted, as far as the kernel allows.
        listen_backlog: usize = Size("1024");
        /// Folder of the clients' Unix socket `.s.PGSQL.PORT`; "" is none.
        unix_socket_dir: Option<PathBuf> = Path("");
        /// File mode of that socket, in octal digits.
        unix_socket_mode: u32 = Mode("0777");
        /// Group of that socket; "" is the group of the process.
        unix_socket_group: Option<String> = OptText("");
        /// Path of the console's own socket (mode 0600, the peer's uid is checked); "" is none.
        admin_socket: Option<PathBuf> = Path("");
        /// Users that may do everything on the console over the listeners.
        admin_users: Vec<String> = Names("");
        /// Users that may only SHOW on the console over the listeners.
        stats_users: Vec<String> = Names("");
        /// How clients prove who they are: scram-sha-256, md5 (SCRAM where the secret is one), plain, cert, hba, trust or any.
        auth_type: AuthType = Choice("scram-sha-256");
        /// File of users and their secrets, beside this file unless its path is absolute; needed where passwords are checked and no auth_user is set. There is no default.
        auth_file: Option<PathBuf> = Path("");
        /// File of rules in the form of pg_hba.conf, for auth_type = hba; the first rule that fits decides.
        auth_hba_file: Option<PathBuf> = Path("");
        /// File of maps in the form of pg_ident.conf: which name of a certificate or of the system may be which user.
        auth_ident_file: Option<PathBuf> = Path("");
        /// Role that looks up users that are not in auth_file; its own secret is there. "" is no look-up.
        auth_user: Option<String> = OptText("");
        /// Query of the look-up: one row of user and secret for the name $1. Only the name is bound, and nothing else of the client gets there.
        auth_query: String = Text("SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin");
        /// Entry of a database in which users are looked up; "" is the one that the client asks for.
        auth_dbname: Option<String> = OptText("");
        /// How long the result of a look-up is used again; 0 is not at all. A user that was not found is looked up again after 2s.
        auth_query_cache_time: Duration = Span("10s");
        /// For how long a client keeps its server: transaction, session or statement.
        pool_mode: PoolMode = Choice("transaction");
        /// Most servers of one pool, that is of one database and user; 0 is no limit.
        default_pool_size: usize = Count("20");
        /// Servers of a pool that are kept open even when nobody needs them.
        min_pool_size: usize = Count("0");
        /// Servers that a pool may have beyond its size while a client has waited longer than reserve_pool_timeout.
        reserve_pool_size: usize = Count("0");
        /// How long a client waits before the reserve is used; 0 is never.
        reserve_pool_timeout: Option<Duration> = Timeout("5s");
        /// Most servers of one database, whoever their users are; 0 is no limit.
        max_db_connections: usize = Count("0");
        /// Most servers of one user, in all databases; 0 is no limit.
        max_user_connections: usize = Count("0");
        /// Most clients at once.
        max_client_conn: usize = Size("1000");
        /// Most clients of one database; 0 is no limit.
        max_db_client_connections: usize = Count("0");
        /// Most clients of one user, in all databases; 0 is no limit.
        max_user_client_connections: usize = Count("0");
        /// Lend the server that has rested longest instead of the one that was used last.
        server_round_robin: bool = Flag("false");
        /// Threads that relay; 0 is one for every four cores, and one where there are fewer. With more, each transaction costs more.
        worker_threads: usize = Count("0");
        /// How long a client waits for a server at most; 0 is for ever. Time held by a window does not count.
        query_wait_timeout: Option<Duration> = Timeout("120s");
        /// A client that has waited for so long, for a server or in a window, gets a notice; 0 is never.
        query_wait_notify: Option<Duration> = Timeout("5s");
        /// How long connecting to Postgres and logging in may take; 0 is for ever.
        server_connect_timeout: Option<Duration> = Timeout("15s");
        /// Longest pause between attempts to connect while they fail; after so long those who wait are told.
        server_login_retry: Duration = Span("15s");
        /// A server that nobody used for so long is closed; 0 is never.
        server_idle_timeout: Option<Duration> = Timeout("600s");
        /// A server that is this old is closed once it is free; 0 is never.
        server_lifetime: Option<Duration> = Timeout("3600s");
        /// A server that was idle for so long is checked before it is used; 0 is always.
        server_check_delay: Duration = Span("30s");
        /// What it is checked with; by default an empty query, "" is no check.
        server_check_query: String = Text("<empty>");
        /// Run on a server before another client gets it, in session mode; "" is none.
        server_reset_query: String = Text("DISCARD ALL");
        /// Run it after every transaction, in every pool mode: of a session, only prepared statements and the settings that
        /// Postgres reports outlive a transaction, whatever is done unseen. Nothing where there is no server_reset_query.
        server_reset_query_always: bool = Flag("false");
        /// In transaction mode, a client whose session has what cannot be moved (LISTEN, temporary tables, advisory locks ...)
        /// keeps its server until that is gone; if off, the server is reset and it is lost.
        pin_sessions: bool = Flag("true");
        /// Prepared statements of clients that one server has at most, in transaction mode; 0: they are not carried along.
        max_prepared_statements: usize = Count("200");
        /// Memory for the texts of prepared statements, all clients together.
        prepared_statement_memory: usize = Bytes("128MB");
        /// Start-up parameters of clients that are dropped instead of being set, by name; `options` is all that stands there.
        ignore_startup_parameters: Vec<String> = Names("");
        /// How long a client may take to log in; 0 is for ever.
        client_login_timeout: Option<Duration> = Timeout("60s");
        /// A client that is silent for so long between transactions is disconnected; 0 is never.
        client_idle_timeout: Option<Duration> = Timeout("0");
        /// A client that is silent for so long within a transaction is disconnected; 0 is never.
        idle_transaction_timeout: Option<Duration> = Timeout("0");
        /// A database that the entry "*" has made is forgotten when nobody has used it for so long; 0 is never.
        autodb_idle_timeout: Option<Duration> = Timeout("3600s");
        /// Most databases that the entry "*" makes at once.
        max_auto_databases: usize = Size("256");
        /// A client whose transaction lasts longer is disconnected; 0 is never.
        transaction_timeout: Option<Duration> = Timeout("0");
        /// A client whose query runs longer is disconnected, and the query is cancelled; 0 is never.
        query_timeout: Option<Duration> = Timeout("0");
        /// How long SIGTERM, SIGINT and SHUTDOWN wait for clients or servers, before the process ends all the same; 0 is for ever.
        shutdown_timeout: Option<Duration> = Timeout("0");
        /// How long a cancel request may wait for its connection; 0 is for ever.
        cancel_wait_timeout: Option<Duration> = Timeout("10s");
        /// TLS of clients: disable, allow or prefer (as they wish), require, verify-ca or verify-full (they need a certificate).
        client_tls_sslmode: SslMode = Choice("disable");
        /// PEM file with the key of client_tls_cert_file; all files of TLS are beside this file unless their path is absolute.
        client_tls_key_file: Option<PathBuf> = Path("");
        /// PEM file with the certificate that clients are shown, and the chain to its authority.
        client_tls_cert_file: Option<PathBuf> = Path("");
        /// PEM file of the authorities whose certificates clients may have.
        client_tls_ca_file: Option<PathBuf> = Path("");
        /// Versions of TLS towards clients: secure (1.2 and 1.3), tlsv1.2 or tlsv1.3.
        client_tls_protocols: TlsProtocols = Protocols("secure");
        /// TLS to Postgres: disable, allow or prefer (if it has it), require, verify-ca, or verify-full (it must be the host).
        server_tls_sslmode: SslMode = Choice("prefer");
        /// PEM file of the authorities that may vouch for Postgres.
        server_tls_ca_file: Option<PathBuf> = Path("");
        /// PEM file with the key of server_tls_cert_file.
        server_tls_key_file: Option<PathBuf> = Path("");
        /// PEM file with the certificate that Postgres is shown, and the chain to its authority.
        server_tls_cert_file: Option<PathBuf> = Path("");
        /// Versions of TLS to Postgres: secure (1.2 and 1.3), tlsv1.2 or tlsv1.3.
        server_tls_protocols: TlsProtocols = Protocols("secure");
        /// How long a host's looked-up addresses are good; servers at an address that is no more are closed when free.
        dns_max_ttl: Duration = Span("15s");
        /// How long a host that could not be looked up is not looked up again.
        dns_nxdomain_ttl: Duration = Span("15s");
        /// Put the client's address and port behind its application_name.
        application_name_add_host: bool = Flag("false");
        /// TCP keepalive on clients and servers.
        tcp_keepalive: bool = Flag("true");
        /// How long a connection is silent before it is probed; 0 is the kernel's value, here and in the next two.
        tcp_keepidle: Option<Duration> = Timeout("60s");
        /// How long after a probe without an answer the next one is sent.
        tcp_keepintvl: Option<Duration> = Timeout("10s");
        /// How many probes without an answer end a connection.
        tcp_keepcnt: usize = Count("3");
        /// How long sent data may stay without an acknowledgement before the connection ends; a bare number is milliseconds, 0 is the kernel's choice.
        tcp_user_timeout: Option<Duration> = Millis("0");
        /// Shape of log lines: text, json, or pgbouncer for tools that read its log.
        log_format: LogFormat = Choice("text");
        /// Least important log lines that are written: error, warn, info, debug or trace.
        log_level: String = Level("info");
        /// PgBouncer's way to say it: 1 is log_level = debug, 2 and more are trace; 0 leaves it to log_level.
        verbose: usize = Count("0");
        /// File that log lines are added to, besides standard error; opened anew by a reload, for log rotation; "" is none.
        logfile: Option<PathBuf> = Path("");
        /// Log each client that logs in.
        log_connections: bool = Flag("true");
        /// Log each client that leaves, and why.
        log_disconnections: bool = Flag("true");
        /// Address of /metrics, /healthz, /readyz and the status page; "" is none.
        metrics_addr: Option<SocketAddr> = Address("127.0.0.1:9632");
        /// Show the figures on /metrics also by the names of pgbouncer_exporter, for dashboards that are there already.
        metrics_pgbouncer_names: bool = Flag("false");
        /// Show a page for people at metrics_addr: pools, traffic, windows and their receipts, read-only.
        status_page: bool = Flag("true");
        /// File that holds the process id while pglull runs; needed to run in the background; "" is none.
        pidfile: Option<PathBuf> = Path("");
        /// User of the operating system to become after the start as root, where that is not wanted; "" is to stay.
        user: Option<String> = OptText("");
        /// How long a period of the averages of SHOW STATS and of the line in the log lasts.
        stats_period: Duration = Bound("60s");
        /// Log the averages of each period.
        log_stats: bool = Flag("true");
        /// How often to look whether this file, or one that it names, has changed, and to reload if so; 0 is never.
        watch_config: Duration = Span("0s");
        /// Folder of the records and receipts of windows, for one process alone; a window whose record cannot be written does not
        /// start. "" is none: receipts end with the process, and a crash in a window leaves none.
        state_dir: Option<PathBuf> = Path("");
    }
    also {
        /// Bounds of every window that does not name its own: `[pglull.window]`.
        window: WindowDefaults,
        /// The databases by the name that clients ask for; `*` is the fallback.
        databases: BTreeMap<String, Database>,
        /// What differs for single users, by name: `[users.NAME]`.
        user_overrides: BTreeMap<String, UserOverride>,
        /// The users of `auth_file`.
        users: BTreeMap<String, UserSecret>,
        /// TLS of clients, with what stood in its files.
        client_tls: TlsSide,
        /// TLS to Postgres, with what stood in its files.
        server_tls: TlsSide,
        /// The file that it was read from.
        file: PathBuf,
        /// What `-v` on the command line asks for; as `verbose`, and not changed by a reload.
        at_least_verbose: usize,
        /// What `-u` on the command line says: it wins over `user`, after a reload too.
        user_of_command_line: Option<String>,
        /// The rules of `auth_hba_file`.
        hba: Hba,
        /// The maps of `auth_ident_file`.
        ident_maps: IdentMaps,
        /// A number for what stood in all its files: with another one, something has changed.
        fingerprint: u64,
        /// What is not wrong but should be known; one line each.
        warnings: Vec<String>,
    }
);

section!(
    /// Bounds of a window.
    WindowDefaults {
        /// How long open transactions may take to finish.
        drain: Duration = Span("2s");
        /// How long the change may take.
        apply: Duration = Bound("4s");
        /// Longest stall of any one client, from the first hold to the last release.
        hold: Duration = Bound("10s");
        /// How long an owner may be silent before its window ends by itself.
        tenure: Duration = Bound("25s");
        /// How long a plain PAUSE lasts at most; 0 is for ever.
        pause_max: Option<Duration> = Timeout("5min");
        /// A window that would hold more clients ends; 0 is max_client_conn.
        max_held: usize = Count("0");
        /// What happens to transactions still open at the drain bound: abort, cancel or terminate.
        stragglers: Stragglers = Choice("abort");
        /// How single users and applications are treated, through pglull and beside it; the first rule that fits decides.
        classes: Classes = Parsed("");
        /// Who gets an error at once (55P03) instead of being held.
        fail_fast: Crowd = Parsed("");
        /// Whose `SELECT 1`, or empty query, pglull answers itself while they would be held.
        probes: Crowd = Parsed("");
        /// A window is not started while a transaction is older than this, through pglull or beside it.
        long_transaction: Duration = Bound("15s");
        /// How many standbys must be streaming for a window to start.
        standbys: usize = Count("0");
        /// How far a standby may be behind for a window to start, in time; 0 is any.
        max_lag: Option<Duration> = Timeout("60s");
        /// The same, in bytes of WAL.
        max_lag_bytes: usize = Bytes("64MB");
        /// When windows may be started: days and times of the week in UTC; "" is always. At other times a window needs force.
        windows: Hours = Parsed("");
        /// Table in which each database notes the changes that windows have made to it, so that none is made twice; it is made
        /// when it is needed first. "" is none: then a lost answer to COMMIT may stay unknown, and an id says nothing.
        change_table: Option<String> = Table("pglull.change");
    }
);

section!(
    /// One entry under `[databases]`: where the name that clients ask for leads.
    Database {
        /// Address, name, or absolute path of the folder of a Unix socket; by default `unix_socket_dir`.
        host: String = Host("");
        /// Port of Postgres.
        port: u16 = Port("5432");
        /// Name of the database in Postgres; by default the name of the entry.
        dbname: Option<String> = OptText("");
        /// Every client is this user in Postgres, and all share one pool; by default each is itself.
        user: Option<String> = OptText("");
        /// Password of that user; by default its secret in auth_file.
        password: Option<Secret> = Secret("");
        /// Role that looks up users of this database; by default the global auth_user.
        auth_user: Option<String> = OptText("");
        /// Query of the look-up; by default the global auth_query.
        auth_query: Option<String> = OptText("");
        /// Entry of a database in which its users are looked up; by default the global auth_dbname.
        auth_dbname: Option<String> = OptText("");
        /// Role that applies changes in windows; by default `user`, or the only user of auth_file with a plain password.
        apply_user: Option<String> = OptText("");
        /// Password of that role; by default its secret in auth_file.
        apply_password: Option<Secret> = Secret("");
        /// Most servers of one pool; by default default_pool_size.
        pool_size: Option<usize> = OptCount("");
        /// Servers kept open; by default the global min_pool_size.
        min_pool_size: Option<usize> = OptCount("");
        /// Servers beyond the pool's size; by default the global reserve_pool_size.
        reserve_pool_size: Option<usize> = OptCount("");
        /// Most servers of all pools of this database; by default the global max_db_connections.
        max_db_connections: Option<usize> = OptCount("");
        /// Most clients of this database; by default the global max_db_client_connections.
        max_db_client_connections: Option<usize> = OptCount("");
        /// How long a client waits for a server; by default the global query_wait_timeout.
        query_wait_timeout: Option<Option<Duration>> = OptTimeout("");
        /// The age at which a server is closed; by default the global server_lifetime.
        server_lifetime: Option<Option<Duration>> = OptTimeout("");
        /// Time zone of clients that ask for none; by default that of the role and database in Postgres.
        timezone: Option<String> = OptText("");
        /// DateStyle of clients that ask for none; likewise.
        datestyle: Option<String> = OptText("");
        /// Encoding of clients that ask for none; likewise.
        client_encoding: Option<String> = OptText("");
        /// Run on each server when it has been opened, and again where what it has set was reset for the next client.
        connect_query: Option<String> = OptText("");
        /// For how long a client keeps its server; by default the global pool_mode.
        pool_mode: Option<PoolMode> = OptPoolMode("");
    }
);

section!(
    /// What differs for one user.
    UserOverride {
        /// For how long this user's clients keep their server; beats the database's and the global one.
        pool_mode: Option<PoolMode> = OptPoolMode("");
        /// Most servers of this user's pools; beats the database's and the global one.
        pool_size: Option<usize> = OptCount("");
        /// Servers beyond the size of this user's pools; beats the database's and the global one.
        reserve_pool_size: Option<usize> = OptCount("");
        /// Most servers of this user in all databases; by default the global max_user_connections.
        max_user_connections: Option<usize> = OptCount("");
        /// Most clients of this user in all databases; by default the global max_user_client_connections.
        max_user_client_connections: Option<usize> = OptCount("");
        /// How long this user's clients wait for a server; beats the database's and the global one.
        query_wait_timeout: Option<Option<Duration>> = OptTimeout("");
        /// As the global key, for this user's clients.
        client_idle_timeout: Option<Option<Duration>> = OptTimeout("");
        /// As the global key, for this user's clients.
        idle_transaction_timeout: Option<Option<Duration>> = OptTimeout("");
        /// As the global key, for this user's clients.
        transaction_timeout: Option<Option<Duration>> = OptTimeout("");
        /// As the global key, for this user's clients.
        query_timeout: Option<Option<Duration>> = OptTimeout("");
    }
);

/// What `auth_file` says of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UserSecret {
    /// The password itself.
    Plain(Secret),
    /// Several passwords, any of which is right, for a change without haste; the first is used towards Postgres.
    Several(Vec<Secret>),
    /// `md5` and 32 hexadecimal digits.
    Md5(Secret),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(Secret),
}

/// Keys of `[pglull]` that only a restart changes: what is made once, at the start. All others follow a reload.
pub(super) const FIXED: &[&str] = &[
    "listen_addr",
    "listen_port",
    "listen_backlog",
    "unix_socket_dir",
    "unix_socket_mode",
    "unix_socket_group",
    "admin_socket",
    "worker_threads",
    "log_format",
    "metrics_addr",
    "pidfile",
    "user",
    "state_dir",
];
/// Keys that come with a file of their own: `RELOAD` changes them, `SET` does not.
pub(super) const BY_RELOAD: &[&str] = &[
    "auth_type",
    "auth_file",
    "auth_hba_file",
    "auth_ident_file",
    "auth_user",
    "auth_query",
    "auth_dbname",
    "client_tls_sslmode",
    "client_tls_key_file",
    "client_tls_cert_file",
    "client_tls_ca_file",
    "client_tls_protocols",
    "server_tls_sslmode",
    "server_tls_ca_file",
    "server_tls_key_file",
    "server_tls_cert_file",
    "server_tls_protocols",
];

/// One row of `SHOW CONFIG`: key, value, default, changeable while it runs.
pub type Setting = (String, String, String, bool);

impl Database {
    /// The role of Postgres that the servers of this client log in as: `user`, or the client's own name.
    #[must_use]
    pub fn role<'a>(&'a self, user: &'a str) -> &'a str {
        self.user.as_deref().unwrap_or(user)
    }
}

impl Config {
    /// The entry that a client's database name leads to: its own, or else the fallback `*`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or_else(|| self.databases.get("*"))
    }

    /// [`Database::role`] for the entry that this name leads to; the client's own name where there is none.
    #[must_use]
    pub fn role<'a>(&'a self, database: &str, user: &'a str) -> &'a str {
        self.database(database).map_or(user, |entry| entry.role(user))
    }

    /// Least important log lines that are written: `log_level`, or what `verbose` makes of it.
    #[must_use]
    pub fn level(&self) -> &str {
        match self.verbose.max(self.at_least_verbose) {
            0 => &self.log_level,
            1 => "debug",
            _ => "trace",
        }
    }

    /// Takes over from the running configuration what only a restart changes. Returns the keys in which they differ.
    pub fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        self.at_least_verbose = running.at_least_verbose;
        self.user_of_command_line.clone_from(&running.user_of_command_line);
        self.user = self.user_of_command_line.clone().or(self.user.take());
        let mut running = running.clone();
        let fixed = Self::KEYS.iter().filter(|key| FIXED.contains(&key.name));
        let differs = fixed.filter_map(|key| {
            let now = (key.slot)(&mut running).show();
            let changed = (key.slot)(self).show() != now;
            // What is shown can be read again, so this cannot fail.
            changed.then(|| (key.slot)(self).set(&now).map(|()| key.name).unwrap_or(key.name))
        });
        differs.collect()
    }

    /// Itself with another value of one key, for `SET`; keys of windows are named `window.drain` and so on.
    ///
    /// # Errors
    /// Why not, in words for the operator.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, String> {
        let mut changed = self.clone();
        let set = match key.strip_prefix("window.") {
            Some(name) => set(&mut changed.window, name, value),
            None if FIXED.contains(&key) => {
                return Err(format!("{key} cannot be changed while pglull runs: restart it"));
            }
            None if BY_RELOAD.contains(&key) => {
                return Err(format!("{key} is changed in the file, followed by RELOAD"));
            }
            None => set(&mut changed, key, value),
        };
        match set {
            None => Err(super::build::unknown_setting(key)),
            Some(Err(expected)) => Err(format!("{key}: expected {expected}, got {}", quoted(value))),
            Some(Ok(())) => super::check::agree(&changed).map(|()| changed),
        }
    }

    /// The rows of `SHOW CONFIG`, in the order of the tables; those of windows are named `window.drain` and so on.
    /// Databases and users are not among them, and no secret is.
    #[must_use]
    pub fn show(&self) -> Vec<Setting> {
        let mut rows = rows("", &mut self.clone());
        rows.extend(self::rows("window.", &mut self.window.clone()));
        rows
    }
}

/// Sets one key of a section; `None` if it has no such key.
fn set<T: Section>(section: &mut T, key: &str, value: &str) -> Option<Result<(), &'static str>> {
    let known = T::KEYS.iter().find(|known| known.name == key)?;
    Some((known.slot)(section).set(value))
}

fn rows<T: Section>(prefix: &str, section: &mut T) -> Vec<Setting> {
    let mut defaults = T::default();
    let row = |key: &Key<T>| {
        let default = (key.slot)(&mut defaults).show_plain();
        let changeable = !prefix.is_empty() || !FIXED.contains(&key.name);
        (format!("{prefix}{}", key.name), (key.slot)(section).show_plain(), default, changeable)
    };
    T::KEYS.iter().map(row).collect()
}
