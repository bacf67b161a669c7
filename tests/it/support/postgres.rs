//! One throwaway Postgres for the whole test binary; a database and a role of its own for each test.
//!
//! The server is a static and is never dropped: its guard process stops it when this process ends.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pglull::demo::cluster::{AuthMethod, Cluster, Options, find_tool};

use super::wire::{Addr, Reply, Target};

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The shared server. A role logs in by SCRAM or md5 as its password is stored; members of
/// `trusting` are let in, members of `plain` send theirs in clear, members of `sealed` need TLS and those of `certified`
/// a certificate besides.
pub(crate) fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(|| {
        raise_descriptor_limit();
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let cluster = Cluster::start(Options {
            auth: AuthMethod::Md5,
            hba: [
                "host all +trusting 127.0.0.1/32 trust",
                "local all +trusting trust",
                "host all +plain 127.0.0.1/32 password",
                "hostnossl all +sealed 127.0.0.1/32 reject",
                "hostssl all +certified 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
            ]
            .map(str::to_owned)
            .to_vec(),
            settings: vec![
                setting("max_connections", "400"),
                // initdb makes this md5 where the method is md5.
                setting("password_encryption", "scram-sha-256"),
                setting("shared_buffers", "64MB"),
                // It would take locks that the tests did not ask for.
                setting("autovacuum", "off"),
                setting("log_line_prefix", "%m %p %d %a "),
                setting("max_wal_size", "4GB"),
            ],
            ..Options::default()
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let mut wire = superuser(&cluster, "postgres").login();
        wire.ok("CREATE ROLE trusting; CREATE ROLE plain; CREATE ROLE sealed; CREATE ROLE certified");
        wire.close();
        cluster
    })
}

/// A thousand clients need more descriptors than many shells allow at first; the proxy inherits the limit.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}

/// A tool of Postgres that ends by itself, whatever the proxy does.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).arg(find_tool(name).unwrap());
    command.env("PGHOST", "127.0.0.1").env("PGCONNECT_TIMEOUT", "10").stdin(Stdio::null());
    command
}

pub(super) fn superuser(cluster: &Cluster, database: &str) -> Target {
    let addr = Addr::Tcp(cluster.port());
    Target::new(addr, cluster.superuser(), cluster.password(), database).app("it-direct")
}

/// A database of its own with the role that owns it.
pub(crate) struct Db {
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Db {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let db =
            Self { name: format!("it_{number}"), user: format!("app_{number}"), password: format!("pw of {number}") };
        let mut wire = superuser(cluster(), "postgres").login();
        wire.ok(&format!("CREATE ROLE {} LOGIN PASSWORD '{}'", db.user, db.password));
        wire.ok(&format!("CREATE DATABASE {} OWNER {} TEMPLATE template0", db.name, db.user));
        wire.close();
        db
    }

    /// A fresh database in which the application's role has run `sql`.
    pub(crate) fn with(sql: &str) -> Self {
        let db = Self::new();
        db.setup(sql);
        db
    }

    /// Straight to Postgres, as the superuser.
    pub(crate) fn root(&self) -> Target {
        superuser(cluster(), &self.name)
    }

    /// Straight to Postgres, as the application's role.
    pub(crate) fn direct(&self) -> Target {
        let addr = Addr::Tcp(cluster().port());
        Target::new(addr, &self.user, &self.password, &self.name)
    }

    /// Runs SQL as the application's role, on a connection that is gone afterwards: a session
    /// beside the proxy would be a blocker of a window.
    pub(crate) fn setup(&self, sql: &str) {
        let mut wire = self.direct().login();
        wire.ok(sql);
        wire.close();
    }

    /// Runs SQL as the superuser, on a connection that is gone afterwards.
    pub(crate) fn sql(&self, sql: &str) -> Reply {
        let mut wire = self.root().login();
        let reply = wire.ok(sql);
        wire.close();
        reply
    }

    /// The only value that a query answers.
    pub(crate) fn one(&self, sql: &str) -> String {
        self.sql(sql).one()
    }

    /// How many sessions the application's role has in this database now.
    pub(crate) fn servers(&self) -> usize {
        self.one(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename = '{}'",
            self.name, self.user
        ))
        .parse()
        .unwrap()
    }

    /// Whether a table has a column.
    pub(crate) fn has_column(&self, table: &str, column: &str) -> bool {
        let sql = format!(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = '{table}'::regclass \
             AND attname = '{column}' AND NOT attisdropped"
        );
        self.one(&sql) == "1"
    }

    /// The process ids of this database's backends that run a statement with this text.
    pub(crate) fn running(&self, text: &str) -> Vec<String> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND state = 'active' \
             AND pid <> pg_backend_pid() AND query LIKE '%{text}%'",
            self.name
        );
        let rows = self.sql(&sql).rows;
        rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
    }
}
