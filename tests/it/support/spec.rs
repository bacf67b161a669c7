//! The configuration of a proxy, written by a test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use super::postgres::{Db, cluster};
use super::tls::{authority, postgres_with_tls};

/// Whether tests that do not care get TLS on both sides: a second way through all of them.
pub(super) fn tls_everywhere() -> bool {
    std::env::var_os("IT_TLS").is_some()
}

/// The configuration of a proxy that is not yet started.
#[derive(Clone)]
pub(crate) struct Spec {
    main: BTreeMap<String, String>,
    window: BTreeMap<String, String>,
    databases: BTreeMap<String, BTreeMap<String, String>>,
    users: String,
    userlist: Vec<(String, String)>,
    files: Vec<(String, String)>,
    pub(super) vars: Vec<(String, String)>,
    pub(super) client: (String, String, String),
    pub(super) alone: bool,
}

impl Spec {
    /// A proxy for this database, under its own name, with a pool of 20; clients are trusted.
    pub(crate) fn of(db: &Db) -> Self {
        let mut spec = Self {
            main: BTreeMap::new(),
            window: BTreeMap::new(),
            databases: BTreeMap::new(),
            users: String::new(),
            userlist: vec![
                (db.user.clone(), db.password.clone()),
                ("boss".to_owned(), "boss pw".to_owned()),
                ("scribe".to_owned(), "scribe pw".to_owned()),
            ],
            files: vec![],
            vars: vec![],
            client: (db.user.clone(), db.password.clone(), db.name.clone()),
            alone: false,
        };
        spec = spec
            .text("listen_addr", "127.0.0.1")
            .text("auth_type", "trust")
            .text("auth_file", "userlist.txt")
            .text("server_tls_sslmode", "disable")
            .text("admin_users", "boss")
            .text("stats_users", "scribe")
            .num("default_pool_size", 20);
        if tls_everywhere() {
            spec = spec.client_tls("prefer").server_tls("require");
        }
        spec.also(db)
    }

    /// Serves one more database.
    pub(crate) fn also(mut self, db: &Db) -> Self {
        let entry = [
            ("host", "127.0.0.1".to_owned()),
            ("dbname", db.name.clone()),
            ("user", db.user.clone()),
            ("password", db.password.clone()),
        ];
        let mut entry: BTreeMap<_, _> =
            entry.into_iter().map(|(key, value)| (key.to_owned(), format!("{value:?}"))).collect();
        entry.insert("port".to_owned(), cluster().port().to_string());
        self.databases.insert(db.name.clone(), entry);
        if !self.userlist.iter().any(|(name, _)| *name == db.user) {
            self.userlist.push((db.user.clone(), db.password.clone()));
        }
        self
    }

    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.main.insert(key.to_owned(), format!("{value:?}"));
        self
    }

    pub(crate) fn num(mut self, key: &str, value: u32) -> Self {
        self.main.insert(key.to_owned(), value.to_string());
        self
    }

    /// One worker thread or two where the test does not say, by its name: one is what most installations run, and two find what
    /// only threads do. `IT_WORKERS` is for all tests.
    pub(crate) fn workers(self) -> Self {
        if self.main.contains_key("worker_threads") {
            return self;
        }
        let of_name = || thread::current().name().map_or(0, str::len) % 2 + 1;
        let count = std::env::var("IT_WORKERS").map_or_else(|_| of_name(), |text| text.parse().unwrap());
        self.num("worker_threads", u32::try_from(count).unwrap())
    }

    pub(crate) fn pool(self, size: u32) -> Self {
        self.num("default_pool_size", size)
    }

    pub(crate) fn session(self) -> Self {
        self.text("pool_mode", "session")
    }

    /// A default of every window.
    pub(crate) fn window(mut self, key: &str, value: &str) -> Self {
        self.window.insert(key.to_owned(), format!("{value:?}"));
        self
    }

    pub(crate) fn window_num(mut self, key: &str, value: u32) -> Self {
        self.window.insert(key.to_owned(), value.to_string());
        self
    }

    /// A key of the database entry; the value is TOML.
    pub(crate) fn entry(mut self, db: &Db, key: &str, value: &str) -> Self {
        let entry = self.databases.get_mut(&db.name).unwrap();
        entry.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Every client of the database is itself in Postgres too: its entry forces no user.
    pub(crate) fn unforced(mut self, db: &Db) -> Self {
        let entry = self.databases.get_mut(&db.name).unwrap();
        entry.remove("user");
        entry.remove("password");
        self
    }

    /// An entry `*` that leads where this database is.
    pub(crate) fn fallback(mut self, db: &Db) -> Self {
        let mut entry = self.databases[&db.name].clone();
        for key in ["dbname", "user", "password"] {
            entry.remove(key);
        }
        self.databases.insert("\"*\"".to_owned(), entry);
        self
    }

    /// Another file beside the configuration.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// A variable of the proxy's environment.
    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a user out of userlist.txt.
    pub(crate) fn no_user(mut self, name: &str) -> Self {
        self.userlist.retain(|(known, _)| known != name);
        self
    }

    /// One more line for a user in userlist.txt.
    pub(crate) fn also_password(mut self, name: &str, secret: &str) -> Self {
        self.userlist.push((name.to_owned(), secret.to_owned()));
        self
    }

    /// Puts a line into userlist.txt.
    pub(crate) fn user(mut self, name: &str, secret: &str) -> Self {
        self.userlist.retain(|(known, _)| known != name);
        self.userlist.push((name.to_owned(), secret.to_owned()));
        self
    }

    /// A `[users.NAME]` section; the lines are TOML.
    pub(crate) fn user_section(mut self, name: &str, lines: &str) -> Self {
        let _ = writeln!(self.users, "[users.{name}]\n{lines}");
        self
    }

    /// TLS of clients, with a certificate for 127.0.0.1 of the tests' authority, which also knows clients.
    pub(crate) fn client_tls(self, mode: &str) -> Self {
        let leaf = authority().leaf("pglull", &["127.0.0.1"]);
        let spec = self.text("client_tls_sslmode", mode).file("client.crt", &leaf.cert).file("client.key", &leaf.key);
        let spec = spec.text("client_tls_cert_file", "client.crt").text("client_tls_key_file", "client.key");
        spec.text("client_tls_ca_file", "ca.crt").file("ca.crt", &authority().pem)
    }

    /// TLS to the shared Postgres, whose authority is known.
    pub(crate) fn server_tls(self, mode: &str) -> Self {
        postgres_with_tls();
        let spec = self.text("server_tls_sslmode", mode).file("server-ca.crt", &authority().pem);
        spec.text("server_tls_ca_file", "server-ca.crt")
    }

    /// No other test runs beside this one: it measures time.
    pub(crate) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    pub(super) fn write(&self, dir: &Path) -> PathBuf {
        let mut text = String::from("[pglull]\n");
        let section = |text: &mut String, keys: &BTreeMap<String, String>| {
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        };
        section(&mut text, &self.main);
        if !self.window.is_empty() {
            text.push_str("\n[pglull.window]\n");
            section(&mut text, &self.window);
        }
        for (name, keys) in &self.databases {
            let _ = writeln!(text, "\n[databases.{name}]");
            section(&mut text, keys);
        }
        let _ = writeln!(text, "\n{}", self.users);
        let list: String = self.userlist.iter().map(|(name, secret)| format!("\"{name}\" \"{secret}\"\n")).collect();
        let file = dir.join("pglull.toml");
        let others = self.files.iter().map(|(name, text)| (dir.join(name), text.clone()));
        for (path, text) in others.chain([(dir.join("userlist.txt"), list), (file.clone(), text)]) {
            fs::write(&path, text).unwrap();
            // They hold secrets.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        file
    }
}
