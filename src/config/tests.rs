//! Whole configurations: every mistake with its line, both formats, the sample files, and no secret anywhere.

use super::build::{Content, build};
use super::mistake::Mistake;
use super::text::{self, Format};
use super::types::{Config, Key, Section, UserSecret, WindowDefaults};
use super::value::{AuthType, PoolMode, Secret, Stragglers};
use super::{load, reference};
use proptest::prelude::*;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const USERS: &str = "\"app\" \"hunter2\"\n";

/// Builds `text` as `c/pglull.toml`, with a good file of users.
fn check(text: &str) -> Result<Config, Vec<Mistake>> {
    check_with(text, USERS)
}

fn check_with(text: &str, users: &str) -> Result<Config, Vec<Mistake>> {
    let read = |path: &Path| {
        let known = (path == Path::new("c/users")).then(|| users.to_owned());
        let text = known.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Content { text, world_readable: false })
    };
    build(Path::new("c/pglull.toml"), text, &read)
}

/// The lines that the mistakes of `text` are shown as.
fn mistakes(text: &str) -> Vec<String> {
    check(text).expect_err("mistakes").iter().map(|m| m.to_string().replace("c/pglull.toml:", "")).collect()
}

const GOOD: &str = "[pglull]\nauth_file = \"users\"\n[databases.bench]\nhost = \"h\"\nport = 5433\n";

/// `GOOD` with more lines under `[pglull]`; the first of them is line 3.
fn with(lines: &str) -> String {
    GOOD.replace("[databases", &format!("{lines}\n[databases"))
}

#[test]
fn the_least_is_enough_and_the_rest_is_default() {
    let config = check(GOOD).unwrap();
    assert_eq!(config.listen_addr, ["127.0.0.1"]);
    assert_eq!(config.listen_port, 6432);
    assert_eq!(config.unix_socket_mode, 0o777);
    assert_eq!(config.auth_type, AuthType::ScramSha256);
    assert_eq!(config.auth_file, Some(PathBuf::from("c/users")));
    assert_eq!(config.query_wait_timeout, Some(Duration::from_secs(120)));
    assert_eq!(config.client_idle_timeout, None);
    assert_eq!(config.metrics_addr, "127.0.0.1:9632".parse().ok());
    assert_eq!(config.window.pause_max, Some(Duration::from_secs(300)));
    assert_eq!(config.window.stragglers, Stragglers::Abort);
    assert_eq!(config.databases["bench"].port, 5433);
    assert!(matches!(&config.users["app"], UserSecret::Plain(secret) if secret.expose() == "hunter2"));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn every_default_is_a_good_value() {
    fn all<T: Section>() {
        for Key { name, default, help, slot, .. } in T::KEYS {
            let mut section = T::default();
            if !default.is_empty() {
                assert_eq!(slot(&mut section).set(default), Ok(()), "{name}");
            }
            assert!(help.trim().ends_with('.'), "{name}");
        }
    }
    all::<Config>();
    all::<WindowDefaults>();
    all::<super::Database>();
    all::<super::UserOverride>();
}

#[test]
fn many_mistakes_are_reported_at_once() {
    let text = "\
[pglull]
listen_port = 0
pool_mode = \"pinned\"
query_wait_timeout = \"5 parsecs\"
lisen_addr = \"*\"
pkt_buf = 200
[pglull.window]
drain = \"20s\"
[databases.bench]
host = \"a,b\"
pool_size = 2
min_pool_size = 3
";
    assert_eq!(
        mistakes(text),
        [
            "1: auth_file: expected a file of users, for auth_type = scram-sha-256, got none",
            "2: listen_port: expected a port from 1 to 65535, got `0`",
            "3: pool_mode: expected transaction, session or statement, got `pinned`",
            "4: query_wait_timeout: expected a duration like 250ms, 15s, 2min or 1h (a bare number is seconds), at most 365d, got `5 parsecs`",
            "5: lisen_addr: expected a known key, perhaps `listen_addr`, got `lisen_addr`",
            "6: pkt_buf: expected a known key (PgBouncer's; buffers have the size that they need, and data is relayed piece by piece), got `pkt_buf`",
            "8: window.drain: expected at most hold, which is 10s, got 20s",
            "10: databases.bench.host: expected one address, one host name, or the absolute path of the folder of a Unix socket, got `a,b`",
            "12: databases.bench.min_pool_size: expected at most pool_size, which is 2, got 3",
        ]
    );
}

#[test]
fn one_mistake_each() {
    for (lines, expect) in [
        (
            "listen_addr = \"\"",
            "3: listen_addr: expected an address, or a folder in unix_socket_dir, got no listener at all",
        ),
        (
            "listen_addr = [\"::1\", \"::1\"]",
            "3: listen_addr: expected addresses or host names, each once, or * for all, got `::1,::1`",
        ),
        ("min_pool_size = 21", "3: min_pool_size: expected at most default_pool_size, which is 20, got 21"),
        ("max_client_conn = 0", "3: max_client_conn: expected a whole number from 1 to 1000000, got `0`"),
        (
            "metrics_addr = 9632",
            "3: metrics_addr: expected an address with a port like 127.0.0.1:9632, or nothing, got `9632`",
        ),
        (
            "auth_type = \"pam\"",
            "3: auth_type: expected scram-sha-256, md5, plain, cert, hba, trust or any (pam and ldap are not supported), got `pam`",
        ),
        ("auth_type = \"hba\"", "3: auth_hba_file: expected a file of rules, for auth_type = hba, got none"),
        (
            "auth_type = \"any\"",
            "4: databases.bench.user: expected a user that every client is, for auth_type = any, got none",
        ),
        ("auth_dbname = \"gone\"", "3: auth_dbname: expected the name of an entry under [databases], got `gone`"),
        ("auth_query = \"\"", "3: auth_query: expected a query, got nothing"),
        ("tcp_keepalive = 2", "3: tcp_keepalive: expected true or false (or 1 or 0), got `2`"),
        ("log_level = \"loud\"", "3: log_level: expected error, warn, info, debug or trace, got `loud`"),
        (
            "max_client_conn = { a = 1 }",
            "3: max_client_conn: expected a plain value or a list of them, got a table or a list of lists",
        ),
        (
            "[pglull.window]\napply = 0",
            "4: window.apply: expected a duration above 0 like 250ms, 15s, 2min or 1h, at most 365d, got `0`",
        ),
        ("[pglull.window]\nhold = \"3s\"", "4: window.apply: expected at most hold, which is 3s, got 4s"),
        (
            "[users.app]\npol_mode = \"session\"",
            "4: users.app.pol_mode: expected a known key, perhaps `pool_mode`, got `pol_mode`",
        ),
        (
            "[databases.pglull]\nhost=\"h\"\nport=1",
            "3: databases.pglull: expected another name, this one is the console's, got `pglull`",
        ),
        (
            "[databases.\"*\"]\nport=1",
            "3: databases.*.host: expected a host, or unix_socket_dir as its default, got no host",
        ),
        (
            "[database]",
            "3: database: expected one of the sections [pglull], [pglull.window], [databases.NAME], [users.NAME], perhaps `databases`, got something else",
        ),
    ] {
        assert_eq!(mistakes(&with(lines)), [expect], "{lines}");
    }
    let long = format!("unix_socket_dir = \"/{}\"", "x".repeat(100));
    assert_eq!(
        mistakes(&with(&long)),
        ["3: unix_socket_dir: expected a socket's path of at most 107 bytes, got 115 bytes"]
    );
    assert_eq!(
        mistakes("[pglull]\nauth_file = \"users\""),
        ["1: databases: expected at least one database, as [databases.NAME], got none"]
    );
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    for (text, line) in [
        ("[pglull]\nlisten_port = \n", 2),
        ("[pglull]\nlisten_port = 1\nlisten_port = 2\n", 3),
        ("[pglull]\n\n[pglull]\n", 3),
        ("[pglull]\r\nlog_level = \"info\r\n", 2),
        ("[databases.a]\npassword = hunter2 x\n", 2),
    ] {
        let found = check(text).expect_err("mistakes");
        assert_eq!(found[0].line, line, "{found:?}");
        assert_eq!(found[0].key, "TOML");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
}

#[test]
fn the_file_of_users() {
    let gone = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let found = build(Path::new("pglull.toml"), GOOD, &gone).expect_err("mistakes");
    assert_eq!(
        found[0].to_string(),
        "pglull.toml:2: auth_file: expected a file that can be read, got `users` (entity not found: is the path right?)"
    );

    let found = check_with(&with("listen_port = 0"), "nonsense\n").expect_err("mistakes");
    let files: Vec<_> = found.iter().map(|m| (m.file.to_str().unwrap(), m.line)).collect();
    assert_eq!(files, [("c/pglull.toml", 3), ("c/users", 1)]);

    let users = "\"a\" \"\"\n\"b\" \"md50123456789abcdef0123456789abcdef\"\n";
    let config = check_with(GOOD, users).unwrap();
    assert_eq!(config.users.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        config.warnings,
        [
            "c/pglull.toml: user a has an empty secret and cannot log in",
            "c/pglull.toml: user b has an md5 secret and cannot log in with auth_type = scram-sha-256",
        ]
    );
    let config = check_with(&with("auth_type = \"trust\""), users).unwrap();
    assert_eq!(config.users.len(), 2);
    assert_eq!(config.warnings, [""; 0]);

    let config =
        check(&with("auth_type = \"trust\"\nlisten_addr = \"*\"").replace("auth_file = \"users\"", "")).unwrap();
    assert_eq!(config.warnings, ["c/pglull.toml: auth_type = trust: whoever reaches listen_addr is whoever they say"]);
}

#[test]
fn an_ini_is_read_as_pgbouncer_reads_it() {
    let text = "\u{feff};; comment\r
[databases]\r
bench = host=127.0.0.1 port=5433 password='it''s = hunter2' timezone=x
\"odd \"\"name\" = port=1 dbname='a b' pool_mode=transaction
* = host=/run/pg port=5433
[peers]
1 = host=a
[users]
app = pool_mode=session pool_size=10
[pgbouncer]
listen_addr = 127.0.0.1, ::1
# comment
unix_socket_dir = /tmp
auth_file = users
pkt_buf = 4096
client_tls_ciphers = default
server_tls_protocols = legacy
server_lifetime = 0
tcp_socket_buffer = 0
tcp_keepalive=0
tcp_keepidle=30
tcp_keepcnt=0
tcp_user_timeout=12500
[pglull.window]
hold = 11
";
    let config = check(text).unwrap();
    assert_eq!(config.databases["bench"].password.as_ref().map(Secret::expose), Some("it's = hunter2"));
    assert_eq!(config.databases["odd \"name"].host, "/tmp");
    assert_eq!(config.databases["odd \"name"].dbname.as_deref(), Some("a b"));
    assert_eq!(config.database("anything").map(|d| d.host.as_str()), Some("/run/pg"));
    assert_eq!(config.listen_addr, ["127.0.0.1", "::1"]);
    assert_eq!(config.window.hold, Duration::from_secs(11));
    let watch = config.tcp_watch();
    assert_eq!((watch.keepalive, watch.idle, watch.probes), (false, Some(Duration::from_secs(30)), None));
    // PgBouncer has this one in milliseconds.
    assert_eq!(watch.user_timeout, Some(Duration::from_millis(12_500)));
    assert_eq!(config.pool_mode_of(&config.databases["bench"], "app"), PoolMode::Session);
    assert_eq!(config.pool_mode_of(&config.databases["odd \"name"], "x"), PoolMode::Transaction);
    let warnings: Vec<_> = config.warnings.iter().map(|w| w.trim_start_matches("c/pglull.toml:")).collect();
    let soon = |line: &str| warnings.iter().any(|w| w.starts_with(line));
    assert!(soon("6: [peers]: ignored: there are no peers"), "{warnings:?}");
    assert_eq!(config.databases["bench"].timezone.as_deref(), Some("x"));
    assert!(soon("15: pkt_buf: ignored: buffers have the size that they need"), "{warnings:?}");
    assert!(soon("16: client_tls_ciphers: ignored: rustls offers safe ciphers and curves only"), "{warnings:?}");
    assert!(soon(" TLS 1.0 and 1.1 are not spoken"), "{warnings:?}");
    assert!(soon(" server_lifetime = 0 is no limit here; in PgBouncer each server is used once"), "{warnings:?}");
    assert!(soon("19: tcp_socket_buffer: ignored: the kernel sizes its buffers itself"), "{warnings:?}");
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    // What is not there is as in PgBouncer.
    assert_eq!((config.pool_mode, config.auth_type, config.max_client_conn), (PoolMode::Session, AuthType::Md5, 100));
    assert_eq!(config.metrics_addr, None);
}

#[test]
fn mistakes_of_an_ini() {
    let text = "\
listen_port = 1
[databases]
a = host=h port=5433
a = host=h password=hunter2
b = host=h password='hunter2
c = host=h port=1 pasword=hunter2 port=2
nonsense hunter2
[pgbouncer]
%include other.ini
listen_port = 6432 ; no comment here
auth_file = users
auth_file = users
server_tls_sslmode = required
colour = red
[pgbouncers]
x = y
";
    let found = mistakes(text);
    assert_eq!(
        found,
        [
            "1: listen_port: expected a section like [pgbouncer] before the first key, got no section",
            "5: databases.b: expected key=value pairs with blanks between, a value with blanks in 'single quotes', got something else after character 7 of the value",
            "6: databases.c.pasword: expected a known key, perhaps `password`, got `pasword`",
            "7: line: expected name = value, got something else",
            "9: %include: expected a file that can be read, got `other.ini` (entity not found: is the path right?)",
            "10: listen_port: expected a port from 1 to 65535, got `6432 ; no comment here`",
            "13: server_tls_sslmode: expected disable, allow, prefer, require, verify-ca or verify-full, got `required`",
            "14: colour: expected a known key (reference.toml lists them all), got `colour`",
            "15: section: expected one of the sections [databases], [users], [pgbouncer], [pglull.window], perhaps `pgbouncer`, got `[pgbouncers]`",
        ]
    );
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn in_an_ini_the_last_word_counts_as_in_pgbouncer() {
    let text = "[databases]\na = host=x pool_size=1\na = host=h\n[pgbouncer]\nauth_file = users\nlisten_port=1\nlisten_port=2\n";
    let config = check(text).unwrap();
    assert_eq!((config.databases["a"].host.as_str(), config.databases["a"].pool_size), ("h", None));
    assert_eq!(config.listen_port, 2);
    assert_eq!(
        config.warnings,
        [
            "c/pglull.toml:3: databases.a: given twice, this one is in force (the first is in c/pglull.toml:2)",
            "c/pglull.toml:7: listen_port: given twice, this one is in force (the first is in c/pglull.toml:6)",
        ]
    );
}

#[test]
fn included_lines_stand_where_the_directive_stood() {
    let files = |path: &Path| {
        let text = match path.to_str().unwrap() {
            "/c/a.ini" => "listen_port = 7000\n%include sub/b.ini\ncolour = red\n",
            "/c/sub/b.ini" => {
                "max_client_conn = many\n[databases]\nd = host=h\n%include from-where-we-started.ini\n[pgbouncer]\n"
            }
            "from-where-we-started.ini" => "e = host=h2 port=x\n",
            "/c/loop.ini" => "[pgbouncer]\n%include loop.ini\n",
            "/c/users" => USERS,
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Content { text: text.to_owned(), world_readable: true })
    };
    let found = |text: &str| -> Vec<String> {
        let mistakes = build(Path::new("/c/p.ini"), text, &files).expect_err("mistakes");
        mistakes.iter().map(ToString::to_string).collect()
    };
    let text = "[pgbouncer]\nauth_file = users\n %include  a.ini \npool_mode = fast\n";
    assert_eq!(
        found(text),
        [
            "/c/a.ini:3: colour: expected a known key (reference.toml lists them all), got `colour`",
            "/c/p.ini:4: pool_mode: expected transaction, session or statement, got `fast`",
            "/c/sub/b.ini:1: max_client_conn: expected a whole number from 1 to 1000000, got `many`",
            "from-where-we-started.ini:1: databases.e.port: expected a port from 1 to 65535, got `x`",
        ]
    );
    assert!(
        found("%include loop.ini\n")
            .iter()
            .any(|m| m.starts_with("/c/loop.ini:2: %include: expected at most 10 files deep"))
    );
    assert_eq!(found("[pgbouncer]\n%include\n%included x\n")[..2].len(), 2);
    let good =
        "[pgbouncer]\nauth_file = users\n[databases]\nd = host=h password=x\n%include sub/../from-where-we-started.ini";
    assert!(
        found(good).iter().any(|m| m.contains("from-where-we-started.ini` (entity not found: is the path right?)"))
    );
}

/// Everything that a configuration says, secrets included.
fn all(config: &Config) -> String {
    fn keys<T: Section>(section: &mut T) -> Vec<String> {
        T::KEYS.iter().map(|key| format!("{}={}", key.name, (key.slot)(section).show())).collect()
    }
    let mut all = format!("{:?}\n", config.show());
    for (name, mut entry) in config.databases.clone() {
        let secrets =
            [&entry.password, &entry.apply_password].map(|s| s.as_ref().map(Secret::expose).map(str::to_owned));
        all += &format!("{name:?} {:?} {secrets:?}\n", keys(&mut entry));
    }
    for (name, mut user) in config.user_overrides.clone() {
        all += &format!("{name:?} {:?}\n", keys(&mut user));
    }
    all
}

#[test]
fn a_converted_file_is_the_same_configuration() {
    let read = |path: &Path| {
        let text = match path.to_str() {
            Some("c/users") => USERS,
            Some("c/more.ini") => "odd-one = host=10.0.0.1 reserve_pool=3\n",
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Content { text: text.to_owned(), world_readable: false })
    };
    let text = "\
;; The shop, and
;; what belongs to it.
[databases]
; the shop itself
shop = host=h port=5433 password='it''s \"= \\hunter2' pool_mode=transaction timezone=UTC
\"my db\" = port=1 dbname='a b' pool_size=007
shop2 = host=a
shop2 = host=b user=u
%include more.ini
* = host=/run/pg
[users]
app = pool_mode=session pool_size=10
empty =
[pgbouncer]
# where
listen_addr = 127.0.0.1, ::1
listen_port = 7000
listen_port = 7001
unix_socket_mode = 0700
auth_file = users
client_idle_timeout = 1.5
server_reset_query = SELECT 'x'; DISCARD ALL
pkt_buf = 4096
admin_users = a, b
log_connections = 0
[pglull.window]
hold = 11
";
    let ini = build(Path::new("c/p.ini"), text, &read).unwrap();
    let (toml, warnings) = super::convert::to_toml(Path::new("c/p.ini"), text, &read).unwrap();
    let again = build(Path::new("c/p.toml"), &toml, &read).unwrap_or_else(|found| panic!("{found:?}\n{toml}"));
    assert_eq!(all(&ini), all(&again), "{toml}");
    assert!(all(&ini).contains("it's \\\"= \\\\hunter2"), "{}", all(&ini));
    for part in
        ["# the shop itself\n[databases.shop]\n", "# where\nlisten_addr = ", "\"my db\"]\n", "pool_mode = \"session\""]
    {
        assert!(toml.contains(part), "{part} is not in\n{toml}");
    }
    assert_eq!(warnings, ini.warnings);
    assert!(!toml.contains("pkt_buf"));
    // What is TOML already, or wrong, is not converted.
    assert!(super::convert::to_toml(Path::new("c/p.toml"), &toml, &read).is_err());
    assert!(super::convert::to_toml(Path::new("c/p.ini"), "[pgbouncer]\ncolour = red\n", &read).is_err());
}

#[test]
fn formats_are_told_apart_by_content() {
    for (text, expect) in [
        ("", Format::Toml),
        ("# only\n[pglull]", Format::Toml),
        ("[pglull.window]\n[databases]\n", Format::Toml),
        ("[databases]\na = { host = \"h\" }\n", Format::Toml),
        ("[databases.a]\nhost = 'h'", Format::Toml),
        ("[databases]\na.port = 1\n[pglull]", Format::Toml),
        ("[databases]\n# a = b=c\na = host=h", Format::Ini),
        ("[databases]\n* =\n", Format::Ini),
        ("[users]\n[pgbouncer]\n", Format::Ini),
        ("\n ;comment\n", Format::Ini),
        ("%include x", Format::Ini),
    ] {
        assert_eq!(
            text::parse(Path::new("f"), text, &|_| Err(io::ErrorKind::NotFound.into())).format,
            expect,
            "{text}"
        );
    }
}

#[test]
fn toml_forms_of_the_same() {
    let text = "[pglull]\nauth_file='users'\nlisten_addr=['127.0.0.1','::1']\nunix_socket_mode = 0o600\nmax_client_conn = 1_000\n\
        server_lifetime = 0.5\nwindow.drain = \"1s\"\n[databases]\nbench = { host = 'h', port = 5_433 }\n\"my.db\".host = '::1'\n\"my.db\".port = 1\n";
    let config = check(text).unwrap();
    assert_eq!(config.listen_addr, ["127.0.0.1", "::1"]);
    assert_eq!(config.unix_socket_mode, 0o600);
    assert_eq!(config.max_client_conn, 1000);
    assert_eq!(config.server_lifetime, Some(Duration::from_millis(500)));
    assert_eq!(config.window.drain, Duration::from_secs(1));
    assert_eq!(config.databases["bench"].port, 5433);
    assert_eq!(config.databases["my.db"].host, "::1");
    let found = mistakes("[pglull]\nauth_file='users'\n[databases]\nbench = 'host=h password=hunter2'\n");
    assert_eq!(found, ["4: databases.bench: expected a section of its own, with keys, got a plain value"]);
}

#[test]
fn show_has_every_key_and_no_secret() {
    let config =
        check(&with("query_wait_timeout = \"5min\"").replace("port = 5433", "port = 5433\npassword = \"hunter2\""))
            .unwrap();
    let rows = config.show();
    assert_eq!(rows.len(), Config::KEYS.len() + WindowDefaults::KEYS.len());
    let row = |key: &str| rows.iter().find(|row| row.0 == key).cloned().unwrap();
    assert_eq!(row("query_wait_timeout"), ("query_wait_timeout".into(), "300".into(), "120".into(), true));
    assert_eq!(row("unix_socket_mode").1, "0777");
    assert_eq!(row("client_idle_timeout").1, "0");
    assert_eq!(row("auth_file").1, "c/users");
    assert_eq!(row("window.stragglers").1, "abort");
    for shown in [format!("{config:?}"), format!("{config:#?}"), format!("{rows:?}")] {
        assert!(!shown.contains("hunter2"));
    }
}

/// The samples' folder.
fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy-config")
}

#[test]
fn the_sample_files_load() {
    for (file, databases) in [("minimal.toml", 1), ("reference.toml", 1), ("pgbouncer.ini", 3)] {
        let config = load(&samples().join(file)).unwrap_or_else(|found| panic!("{file}: {found:?}"));
        assert_eq!(config.databases.len(), databases, "{file}");
        assert_eq!(config.users.len(), 3, "{file}");
        assert!(matches!(config.users["reporting"], UserSecret::Scram(_)));
    }
    let missing = load(Path::new("/nowhere/pglull.toml")).expect_err("mistake");
    assert!(
        missing[0]
            .to_string()
            .starts_with("/nowhere/pglull.toml:1: file: expected a file that can be read, got No such")
    );
}

/// To bring the file up to date, write what `reference()` returns to it.
#[test]
fn the_reference_is_complete_and_equals_the_defaults() {
    let path = samples().join("reference.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text == reference(), "proxy-config/reference.toml should be:\n{}", reference());
    for (key, value, default, _) in load(&path).unwrap().show() {
        if key != "auth_file" {
            assert_eq!(value, default, "{key}");
        }
    }
    let Config { user_overrides, databases, .. } = load(&path).unwrap();
    assert_eq!(user_overrides["reporting"].pool_mode, Some(PoolMode::Session));
    assert_eq!(databases["bench"].password.as_ref().map(Secret::expose), Some("change me"));
}

#[test]
fn files_that_everybody_can_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (file, users) = (folder.path().join("p.toml"), folder.path().join("users"));
    std::fs::write(&file, format!("{GOOD}password = \"hunter2\"\n")).unwrap();
    std::fs::write(&users, USERS).unwrap();
    for (mode, expect) in [(0o644, 2), (0o600, 0)] {
        for path in [&file, &users] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let warnings = load(&file).unwrap().warnings;
        assert_eq!(warnings.iter().filter(|w| w.contains("chmod o-rwx")).count(), expect, "{warnings:?}");
    }
}

/// Texts that look like a configuration, and are not always one.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[pglull]".to_owned()),
        Just("[pgbouncer]".to_owned()),
        Just("[databases]".to_owned()),
        Just("[databases.a]".to_owned()),
        Just("a = host=h port='1".to_owned()),
        Just("listen_port = ".to_owned()),
        Just("\n".to_owned()),
        Just("\"\"\"".to_owned()),
        any::<String>(),
        "[ -~]{0,20}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in texts(), users in texts()) {
        let read = |_: &Path| Ok(Content { text: users.clone(), world_readable: true });
        match build(Path::new("f"), &text, &read) {
            Ok(config) => drop(config.show()),
            Err(found) => {
                prop_assert!(!found.is_empty());
                for mistake in found {
                    prop_assert!(!mistake.to_string().contains('\n'), "{mistake:?}");
                    prop_assert!(mistake.line >= 1);
                    prop_assert!(mistake.file != Path::new("f") || mistake.line <= text.lines().count().max(1) + 1);
                }
            }
        }
    }

    #[test]
    fn any_duration_is_read_or_refused(text in any::<String>(), number in 0_u64..=31_536_000) {
        let _ = super::parse_duration(&text);
        prop_assert_eq!(super::parse_duration(&number.to_string()), Ok(Duration::from_secs(number)));
    }
}

#[test]
fn what_only_a_restart_changes_is_kept() {
    let running = check(&with("listen_port = 7000\ndefault_pool_size = 5")).unwrap();
    let mut new = check(&with("listen_addr = \"\"\nunix_socket_dir = \"/run\"\ndefault_pool_size = 6")).unwrap();
    assert_eq!(new.keep_fixed(&running), ["listen_addr", "listen_port", "unix_socket_dir"]);
    assert_eq!((new.listen_addr.join(","), new.listen_port, new.unix_socket_dir), ("127.0.0.1".into(), 7000, None));
    assert_eq!(new.default_pool_size, 6);
    for (key, value, _, changeable) in running.show() {
        // What is shown can be read again; SET agrees with the column.
        let set = running.with(&key, &value);
        let restart = set.as_ref().is_err_and(|why| why.contains("restart"));
        assert_eq!(restart, !changeable, "{key} = {value}: {set:?}");
    }
}

#[test]
fn nothing_leads_to_where_clients_are_served() {
    let own = "[databases.own]\nhost = \"HOST\"\nport = 6432\n";
    for (listens, host, wrong) in [
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "localhost", true),
        ("localhost", "127.0.0.1", true),
        ("*", "localhost", true),
        ("0.0.0.0", "127.0.0.1", true),
        ("10.1.2.3", "127.0.0.1", false),
        ("10.1.2.3,127.0.0.1", "10.1.2.3", true),
        ("*", "10.1.2.3", false),
        ("127.0.0.1", "db", false),
        ("127.0.0.1", "/run/own", true),
        ("127.0.0.1", "/run/other", false),
    ] {
        let settings = with(&format!("listen_addr = \"{listens}\"\nunix_socket_dir = \"/run/own\""));
        let found = check(&format!("{settings}{}", own.replace("HOST", host)));
        assert_eq!(found.is_err(), wrong, "{listens} {host}: {:?}", found.err());
    }
    assert_eq!(
        mistakes(&format!("{GOOD}{}", own.replace("HOST", "127.0.0.1"))),
        [
            "8: databases.own.port: expected the port of Postgres, not one that pglull itself listens on, got 127.0.0.1:6432"
        ]
    );
    assert_eq!(
        mistakes(&with("metrics_addr = \"0.0.0.0:6432\"\nworker_threads = 5000")),
        [
            "3: metrics_addr: expected another port than listen_port, got 0.0.0.0:6432",
            "4: worker_threads: expected at most 1024, got 5000"
        ]
    );
}

#[test]
fn comments_may_be_of_any_encoding_and_all_else_says_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let (file, users) = (folder.path().join("p.ini"), folder.path().join("users"));
    let put = |path: &Path, text: &[u8]| std::fs::write(path, text).unwrap();
    put(&users, USERS.as_bytes());
    put(&file, b"; caf\xe9\n[databases]\nx = host=h\n[pgbouncer]\n# \xe4\nauth_file = users\n");
    assert!(load(&file).is_ok());
    put(&users, b"\"app\" \"hunt\xe9r2\"\n");
    let found = load(&file).unwrap_err();
    assert!(found[0].got.contains("line 1 is not UTF-8: save it as UTF-8 text"), "{found:?}");
    assert!(load(Path::new("/dev/zero")).unwrap_err()[0].got.contains("larger than 256 MB"));
    assert_eq!(super::decoded(b"caf\xe9\n-----BEGIN X\n".to_vec()).unwrap(), "caf\u{fffd}\n-----BEGIN X\n");
}
