//! TLS to Postgres: every `server_tls_sslmode` against a Postgres with TLS, one without, and somebody in between.

use crate::support::postgres::{Db, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::tls::{Answer, Between, authority, self_signed, stranger};
use crate::support::wait::{eventually, secs};

const SEALED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// What a client gets for its first query: `t` or `f` for TLS to Postgres, or why it gets nothing.
fn sealed(proxy: &Proxy) -> Result<String, String> {
    let mut wire = proxy.client().connect().map_err(|error| error.to_string())?;
    wire.query(SEALED).map(|reply| reply.one()).map_err(|error| error.to_string())
}

/// A proxy whose only database leads to somebody in between.
fn through(db: &Db, between: &Between, mode: &str) -> Proxy {
    let spec = Spec::of(db).text("server_tls_sslmode", mode).text("server_tls_ca_file", "ca.crt");
    let spec = spec.file("ca.crt", &authority().pem).entry(db, "port", &between.port.to_string());
    spec.pool(1).text("query_wait_timeout", "2s").text("client_login_timeout", "4s").start()
}

#[test]
fn every_sslmode_with_a_postgres_that_has_tls() {
    let db = Db::new();
    for (mode, expected) in
        [("disable", "f"), ("allow", "t"), ("prefer", "t"), ("require", "t"), ("verify-ca", "t"), ("verify-full", "t")]
    {
        let proxy = Spec::of(&db).server_tls(mode).pool(1).start();
        assert_eq!(sealed(&proxy), Ok(expected.to_owned()), "{mode}");
        let shown = proxy.admin("SHOW SERVERS").maps()[0]["tls"].clone();
        assert_eq!(shown.starts_with("TLSv1.3/TLS_"), expected == "t", "{mode}: {shown}");
    }
    // One that insists is reached by default, and not without TLS.
    db.sql(&format!("GRANT sealed TO {}", db.user));
    let proxy = Spec::of(&db).server_tls("prefer").pool(1).start();
    assert_eq!(sealed(&proxy), Ok("t".to_owned()));
    let proxy = Spec::of(&db).server_tls("disable").pool(1).start();
    assert!(sealed(&proxy).unwrap_err().contains("pg_hba.conf rejects connection"));
}

#[test]
fn every_sslmode_with_a_server_without_tls() {
    let db = Db::new();
    let between = Between::start(Answer::Bytes(b"N"));
    for mode in ["disable", "allow", "prefer"] {
        assert_eq!(sealed(&through(&db, &between, mode)), Ok("f".to_owned()), "{mode}");
    }
    let before = between.notes().len();
    for mode in ["require", "verify-ca", "verify-full"] {
        let why = sealed(&through(&db, &between, mode)).unwrap_err();
        assert!(why.contains("the server has no TLS") || why.contains("login"), "{mode}: {why}");
    }
    assert_eq!(between.notes().len(), before, "nothing was sent in the clear");
}

#[test]
fn trap_40_bytes_in_the_clear_behind_the_answer_are_never_the_servers() {
    let db = Db::new();
    for stuffed in [&b"SR\0\0\0\x08\0\0\0\0"[..], b"NR\0\0\0\x08\0\0\0\0", b"E\0\0\0\x30SFATAL\0Mcome here\0\0", b"x"] {
        let between = Between::start(Answer::Bytes(stuffed));
        let proxy = through(&db, &between, "require");
        let why = sealed(&proxy).unwrap_err();
        assert!(!why.contains("come here"), "{why}");
        assert!(between.notes().is_empty(), "nothing was said behind it: {:?}", between.notes());
        eventually("it is in the log", secs(5), || proxy.log().contains("server_tls_sslmode = require"));
        assert!(!proxy.log().contains("come here"));
    }
}

/// As libpq: with `prefer`, TLS that fails is as good as none. With `require` it is not.
#[test]
fn a_handshake_that_fails() {
    let db = Db::new();
    let between = Between::start(Answer::Bytes(b"S"));
    let proxy = through(&db, &between, "prefer");
    // He hangs up on the ClientHello; what comes next is in the clear.
    assert_eq!(sealed(&proxy), Ok("f".to_owned()));
    assert!(proxy.log().contains("going on without"), "{}", proxy.log());
    // Each connection does so, and the log says it once a minute.
    for _ in 0..3 {
        proxy.admin("RECONNECT");
        assert_eq!(sealed(&proxy), Ok("f".to_owned()));
    }
    assert_eq!(proxy.log().matches("going on without").count(), 1, "{}", proxy.log());
    assert!(sealed(&through(&db, &between, "require")).is_err());
}

#[test]
fn certificates_are_believed_as_the_mode_says() {
    let db = Db::new();
    let ours = |hosts: &[&str]| authority().leaf("pg", hosts);
    let no_name = authority().leaf("127.0.0.1", &[]);
    for (leaf, mode, refused) in [
        (stranger().leaf("pg", &["127.0.0.1"]), "require", ""),
        (stranger().leaf("pg", &["127.0.0.1"]), "verify-ca", "UnknownIssuer"),
        (stranger().leaf("pg", &["127.0.0.1"]), "verify-full", "UnknownIssuer"),
        (ours(&["db.example.org"]), "verify-ca", ""),
        (ours(&["db.example.org"]), "verify-full", "not valid for name \"127.0.0.1\""),
        (ours(&["127.0.0.1"]), "verify-full", ""),
        // As libpq: the common name counts where there is no other.
        (no_name, "verify-full", ""),
    ] {
        let between = Between::start(Answer::Tls(leaf));
        let proxy = through(&db, &between, mode);
        let got = sealed(&proxy);
        if refused.is_empty() {
            assert_eq!(got, Ok("f".to_owned()), "{mode}");
            assert_eq!(between.notes(), ["tls startup"]);
        } else {
            assert!(got.is_err(), "{mode}: {got:?}");
            let said = format!("server_tls_sslmode = {mode}: invalid peer certificate: ");
            let log = proxy.log();
            assert!(log.contains(&said) && log.contains(refused), "{mode} {refused}: {log}");
            assert!(between.notes().is_empty(), "{mode}");
        }
    }
}

/// Of X.509 version 1, as Postgres' manual makes them: rustls reads none.
#[test]
fn a_certificate_of_version_1_is_as_good() {
    let db = Db::new();
    let ours = authority().leaf_of_version_1("127.0.0.1");
    let other_name = authority().leaf_of_version_1("db.example.org");
    let theirs = stranger().leaf_of_version_1("127.0.0.1");
    for (leaf, mode, refused) in [
        (&theirs, "prefer", ""),
        (&theirs, "require", ""),
        (&theirs, "verify-ca", "UnknownIssuer"),
        (&other_name, "verify-ca", ""),
        (&other_name, "verify-full", "NotValidForName"),
        (&ours, "verify-full", ""),
    ] {
        for protocols in ["tlsv1.2", "tlsv1.3"] {
            let between = Between::start(Answer::Tls(leaf.clone()));
            let spec = Spec::of(&db).text("server_tls_sslmode", mode).text("server_tls_ca_file", "ca.crt");
            let spec = spec.file("ca.crt", &authority().pem).text("server_tls_protocols", protocols);
            let spec = spec.entry(&db, "port", &between.port.to_string()).pool(1);
            let proxy = spec.text("query_wait_timeout", "2s").text("client_login_timeout", "4s").start();
            assert_eq!(sealed(&proxy).is_ok(), refused.is_empty(), "{mode} {protocols}: {}", proxy.log());
            assert!(proxy.log().contains(refused), "{mode} {protocols}: {}", proxy.log());
            let notes: &[&str] = if refused.is_empty() { &["tls startup"] } else { &[] };
            assert_eq!(between.notes(), notes, "{mode} {protocols}");
        }
    }
}

#[test]
fn a_certificate_of_version_1_is_shown_to_clients_with_its_own_key_only() {
    let db = Db::new();
    let (leaf, other) = (authority().leaf_of_version_1("127.0.0.1"), authority().leaf_of_version_1("127.0.0.1"));
    let spec = Spec::of(&db).client_tls("require").file("client.crt", &leaf.cert).file("client.key", &leaf.key);
    let proxy = spec.start();
    let port = proxy.port.to_string();
    let psql = |mode: &str| {
        let mut psql = tool("psql");
        psql.args(["-XAtc", "SELECT 'sealed'", "-h", "127.0.0.1", "-p", &port, "-U", &db.user, "-d", &db.name]);
        psql.env("PGPASSWORD", &db.password).env("PGSSLMODE", mode).env("PGSSLROOTCERT", proxy.dir().join("ca.crt"));
        String::from_utf8(psql.output().unwrap().stdout).unwrap()
    };
    assert_eq!(psql("verify-full"), "sealed\n");
    std::fs::write(proxy.dir().join("client.key"), &other.key).unwrap();
    let error = proxy.admin_err("RELOAD");
    assert!(error.detail.contains("the key of another certificate"), "{}", error.detail);
}

/// A certificate that is its own authority, put into `server_tls_ca_file` as it is.
#[test]
fn a_self_signed_certificate_is_believed_if_it_is_known() {
    let db = Db::new();
    let (leaf, other) = (self_signed("127.0.0.1"), self_signed("127.0.0.1"));
    for (known, good) in [(&leaf, true), (&other, false)] {
        let between = Between::start(Answer::Tls(leaf.clone()));
        let spec = Spec::of(&db).text("server_tls_sslmode", "verify-full").text("server_tls_ca_file", "ca.crt");
        let spec = spec.file("ca.crt", &known.cert).entry(&db, "port", &between.port.to_string());
        let proxy = spec.pool(1).text("query_wait_timeout", "2s").text("client_login_timeout", "4s").start();
        assert_eq!(sealed(&proxy).is_ok(), good);
    }
}

#[test]
fn a_certificate_of_our_own_for_postgres() {
    let db = Db::new();
    db.sql(&format!("GRANT certified TO {}", db.user));
    for (name, good) in [(&*db.user, true), ("somebody", false)] {
        let leaf = authority().leaf(name, &[]);
        let spec = Spec::of(&db).server_tls("verify-full").file("own.crt", &leaf.cert).file("own.key", &leaf.key);
        let spec = spec.text("server_tls_cert_file", "own.crt").text("server_tls_key_file", "own.key");
        let proxy = spec.pool(1).text("query_wait_timeout", "2s").text("client_login_timeout", "4s").start();
        assert_eq!(sealed(&proxy).is_ok(), good, "{name}");
    }
    let proxy = Spec::of(&db).server_tls("verify-full").pool(1).start();
    assert!(sealed(&proxy).is_err(), "without a certificate");
}

#[test]
fn trap_35_a_cancel_reaches_the_server_by_the_way_of_its_target() {
    let db = Db::new();
    for (answer, mode, expected) in [
        (Answer::Tls(authority().leaf("pg", &["127.0.0.1"])), "verify-full", ["tls startup", "tls cancel"]),
        (Answer::Tls(authority().leaf("pg", &["127.0.0.1"])), "prefer", ["tls startup", "tls cancel"]),
        (Answer::Bytes(b"N"), "prefer", ["plain startup", "plain cancel"]),
    ] {
        let between = Between::start(answer);
        let proxy = through(&db, &between, mode);
        let mut wire = proxy.client().login();
        wire.start("SELECT pg_sleep(20)").unwrap();
        eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
        wire.cancel();
        assert_eq!(wire.finish().unwrap_err().db().code, "57014");
        assert_eq!(between.notes(), expected);
        assert_eq!(wire.one("SELECT 'again'"), "again");
    }
}

#[test]
fn trap_44_channel_binding_to_servers() {
    let db = Db::new();
    let leaf = authority().leaf("pg", &["127.0.0.1"]);
    let between = Between::start(Answer::Scram(leaf));
    let proxy = through(&db, &between, "require");
    assert!(sealed(&proxy).is_err());
    let said = between.notes()[0].clone();
    assert!(said.starts_with("SCRAM-SHA-256-PLUS\0") && said.contains("p=tls-server-end-point,,"), "{said:?}");
    // Postgres checks the binding. That it is the certificate's is shown by its letting us in.
    let proxy = Spec::of(&db).server_tls("require").pool(1).start();
    assert_eq!(sealed(&proxy), Ok("t".to_owned()));
}

/// A server that died while idle costs no client an error, whatever lies between.
#[test]
fn idle_servers_that_die_are_noticed_behind_tls() {
    let db = Db::new();
    let proxy = Spec::of(&db).server_tls("require").pool(1).start();
    let mut wire = proxy.client().login();
    for _ in 0..5 {
        let pid = wire.one("SELECT pg_backend_pid()");
        db.sql(&format!("SELECT pg_terminate_backend({pid})"));
        eventually("it is gone", secs(5), || db.servers() == 0 || !db.running("").contains(&pid));
        assert_ne!(wire.one("SELECT pg_backend_pid()"), pid);
    }
}
