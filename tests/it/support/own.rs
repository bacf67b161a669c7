//! A Postgres that one test has for itself, to be hurt, and a proxy before it.

use std::io::Write as _;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pglull::demo::cluster::{AuthMethod, Cluster, Options};

use super::load::ACCOUNTS;
use super::postgres::Db;
use super::proxy::{Proxy, Spec, free_port};
use super::wait::{eventually, secs, until};
use super::wire::{Addr, Target, Wire};

/// A Postgres that nobody else uses, and a proxy before it.
pub(crate) struct Own {
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
    pub(crate) db: Db,
}

/// On a port of ours, so that it can be started again there.
pub(crate) fn options() -> Options {
    Options { auth: AuthMethod::Trust, port: Some(free_port()), ..Options::default() }
}

/// Whether there can be standbys. `PG_BIN` may be a folder that has a server's programs and none beside; that is said, past the
/// harness, which keeps what a test that passes has printed.
pub(crate) fn can_have_standbys() -> bool {
    let there = std::env::var_os("PG_BIN").is_none_or(|bin| Path::new(&bin).join("pg_basebackup").exists());
    if !there {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no standbys without pg_basebackup in PG_BIN");
    }
    there
}

impl Own {
    pub(crate) fn start() -> Self {
        Self::with(&[], |spec| spec)
    }

    /// With more settings of Postgres, and of the proxy.
    pub(crate) fn with(more: &[(&str, &str)], change: impl FnOnce(Spec) -> Spec) -> Self {
        // What is committed is there after a crash, without a disk that is waited for.
        let settings = [("synchronous_commit", "on")].iter().chain(more);
        let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let cluster = Cluster::start(Options { settings, ..options() }).unwrap();
        let db = Db::new();
        let own = |database: &str| {
            Target::new(Addr::Tcp(cluster.port()), cluster.superuser(), "", database).app("it-direct").login()
        };
        own("postgres").ok(&format!("CREATE ROLE {} LOGIN", db.user));
        own("postgres").ok(&format!("CREATE DATABASE {} OWNER {}", db.name, db.user));
        let mut wire = own(&db.name);
        wire.ok(ACCOUNTS);
        wire.ok(&format!("ALTER TABLE accounts OWNER TO {}", db.user));
        wire.close();
        let spec = Spec::of(&db).entry(&db, "port", &cluster.port().to_string()).text("server_login_retry", "200ms");
        let proxy = change(spec.text("server_tls_sslmode", "disable").pool(5)).start();
        Self { cluster, proxy, db }
    }

    /// Straight to whatever Postgres is there at this port.
    pub(crate) fn direct_at(&self, port: u16) -> Target {
        Target::new(Addr::Tcp(port), self.cluster.superuser(), "", &self.db.name).app("it-direct")
    }

    pub(crate) fn direct(&self) -> Wire {
        self.direct_at(self.cluster.port()).login()
    }

    /// One backend dies; Postgres ends all others and starts anew, as after any crash.
    pub(crate) fn crash(&self) {
        let (mut wire, mut bystander) = (self.direct(), self.direct());
        let pid = wire.one("SELECT pg_backend_pid()").parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        // Until it has been noticed, the others go on as if nothing had happened; then all of them are ended at once.
        for wire in [&mut wire, &mut bystander] {
            wire.limit(secs(20));
            assert!(wire.recv_to_end().is_ok());
        }
    }

    /// `pg_ctl stop -m immediate`, and `pg_ctl start`.
    pub(crate) fn stop_and_start(&mut self) {
        self.cluster.halt();
        self.cluster.start_again(self.cluster.port()).unwrap();
    }

    /// Waits until Postgres is back: it may still let somebody in just before it ends everybody.
    pub(crate) fn has_column(&self, column: &str) -> bool {
        let sql =
            format!("SELECT count(*) FROM pg_attribute WHERE attrelid = 'accounts'::regclass AND attname = '{column}'");
        let reply = || self.direct_at(self.cluster.port()).connect().ok()?.query(&sql).ok();
        until("Postgres is back", secs(30), reply).one() == "1"
    }

    pub(crate) fn has_extra(&self) -> bool {
        self.has_column("extra")
    }

    pub(crate) fn serves_again(&self) {
        eventually("clients are served again", secs(30), || {
            self.proxy.client().connect().is_ok_and(|mut wire| wire.query("SELECT count(*) FROM accounts").is_ok())
        });
    }
}

/// A client that is held answers within the limit, well or with an error that says why; it does not hang.
pub(crate) fn answers(mut wire: Wire) -> Result<String, String> {
    wire.limit(secs(20));
    match wire.finish() {
        Ok(reply) => Ok(reply.one()),
        Err(error) => {
            assert!(!error.timed_out(), "a client hangs");
            Err(error.to_string())
        }
    }
}
