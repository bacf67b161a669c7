//! Certificates are changed while clients are there: all of it or nothing, and nobody is disconnected.

use std::fs;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::tls::{Leaf, authority, client_config, stranger};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Wire;

fn tls(proxy: &Proxy) -> Wire {
    proxy.client().tls(&client_config(false, None), false).login()
}

fn put(proxy: &Proxy, leaf: &Leaf) {
    fs::write(proxy.dir().join("client.crt"), &leaf.cert).unwrap();
    fs::write(proxy.dir().join("client.key"), &leaf.key).unwrap();
}

#[test]
fn a_new_certificate_is_shown_to_new_clients_only() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").pool(2).start();
    let mut old = tls(&proxy);
    old.ok("BEGIN");
    let first = old.peer_certificate();
    put(&proxy, &authority().leaf("the next", &["127.0.0.1"]));
    assert_eq!(tls(&proxy).peer_certificate(), first, "not before RELOAD");
    proxy.admin("RELOAD");
    let mut new = tls(&proxy);
    assert_ne!(new.peer_certificate(), first);
    assert_eq!(new.one("SELECT 'new'"), "new");
    assert_eq!(old.one("SELECT 'old'"), "old");
    old.ok("COMMIT");
}

#[test]
fn a_mistake_changes_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").server_tls("verify-full").pool(2).start();
    let first = tls(&proxy).peer_certificate();
    let (good, other) = (authority().leaf("a", &["127.0.0.1"]), authority().leaf("b", &["127.0.0.1"]));
    for (leaf, expected) in [
        (Leaf { key: other.key, ..good.clone() }, "the private key of client_tls_cert_file"),
        (Leaf { cert: String::new(), ..good.clone() }, "no certificate in it"),
        (Leaf { key: "nonsense".to_owned(), ..good.clone() }, "no private key in it"),
    ] {
        put(&proxy, &leaf);
        let error = proxy.admin_err("RELOAD");
        assert!(error.detail.contains("pglull.toml:") && error.detail.contains(expected), "{error}");
        assert_eq!(tls(&proxy).peer_certificate(), first);
    }
    // Good ones for clients, but none for servers: not half of it either.
    put(&proxy, &good);
    fs::remove_file(proxy.dir().join("server-ca.crt")).unwrap();
    let error = proxy.admin_err("RELOAD");
    assert!(error.detail.contains("server_tls_ca_file: expected a file that can be read"), "{error}");
    assert_eq!(tls(&proxy).peer_certificate(), first);
    fs::write(proxy.dir().join("server-ca.crt"), &authority().pem).unwrap();
    proxy.admin("RELOAD");
    assert_ne!(tls(&proxy).peer_certificate(), first);
}

/// PgBouncer closes servers for a TLS change since 1.24, and only then.
#[test]
fn servers_are_replaced_if_their_tls_has_changed_and_only_then() {
    let db = Db::new();
    let proxy = Spec::of(&db).server_tls("verify-full").pool(1).start();
    let mut wire = proxy.client().login();
    let mut pid = || wire.one("SELECT pg_backend_pid()");
    let first = pid();
    proxy.admin("RELOAD");
    assert_eq!(pid(), first, "nothing has changed");
    let authorities = proxy.dir().join("server-ca.crt");
    fs::write(&authorities, format!("{}{}", authority().pem, stranger().pem)).unwrap();
    assert_eq!(pid(), first, "not before RELOAD");
    proxy.admin("RELOAD");
    let second = pid();
    assert_ne!(second, first);
    // Now Postgres is not believed any more: servers in use stay until they are free, new ones are not opened.
    let mut busy = proxy.client().login();
    busy.ok("BEGIN");
    assert_eq!(busy.one("SELECT pg_backend_pid()"), second);
    fs::write(&authorities, &stranger().pem).unwrap();
    proxy.admin("RELOAD");
    assert_eq!(busy.one("SELECT 'still here'"), "still here");
    busy.ok("COMMIT");
    busy.start("SELECT 1").unwrap();
    eventually("it is in the log", secs(5), || proxy.log().contains("UnknownIssuer"));
    fs::write(&authorities, &authority().pem).unwrap();
    proxy.admin("RELOAD");
    assert_eq!(busy.finish().unwrap().one(), "1");
}

#[test]
fn tls_is_not_set_by_one_key() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").start();
    let error = proxy.admin_err("SET client_tls_sslmode = 'disable'");
    assert!(error.message.contains("followed by RELOAD"), "{error}");
}

/// What `pglull check` says of files that cannot be served.
#[test]
fn mistakes_are_named_before_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (authority().leaf("a", &["127.0.0.1"]), authority().leaf("b", &["127.0.0.1"]));
    for (name, text) in
        [("a.crt", &*a.cert), ("a.key", &*a.key), ("b.key", &*b.key), ("ca.crt", &*authority().pem), ("odd", "nothing")]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let head = "[pglull]\nauth_type = \"trust\"\n[databases.d]\nhost = \"127.0.0.1\"\n";
    for (keys, expected) in [
        (
            "client_tls_sslmode=require",
            ":3: client_tls_cert_file: expected a PEM file, for client_tls_sslmode = require, got none",
        ),
        (
            "client_tls_sslmode=allow client_tls_cert_file=a.crt",
            ":3: client_tls_key_file: expected a PEM file, for client_tls_sslmode = allow, got none",
        ),
        (
            "client_tls_sslmode=allow client_tls_cert_file=a.crt client_tls_key_file=b.key",
            ":5: client_tls_key_file: expected the private key of client_tls_cert_file, got `",
        ),
        (
            "client_tls_sslmode=allow client_tls_cert_file=gone client_tls_key_file=a.key",
            ":4: client_tls_cert_file: expected a file that can be read, got `",
        ),
        (
            "client_tls_sslmode=allow client_tls_cert_file=odd client_tls_key_file=a.key",
            ":4: client_tls_cert_file: expected a PEM file of certificates, got `",
        ),
        (
            "client_tls_sslmode=allow client_tls_cert_file=a.crt client_tls_key_file=a.crt",
            ":5: client_tls_key_file: expected a PEM file with a private key, without a passphrase, got `",
        ),
        (
            "client_tls_sslmode=verify-ca client_tls_cert_file=a.crt client_tls_key_file=a.key",
            ":3: client_tls_ca_file: expected a PEM file of the authorities to trust, for client_tls_sslmode = verify-ca, got none",
        ),
        ("server_tls_sslmode=verify-full", ":3: server_tls_ca_file: expected a PEM file of the authorities to trust"),
        (
            "server_tls_cert_file=a.crt",
            ":3: server_tls_key_file: expected a PEM file, for server_tls_cert_file, got none",
        ),
        (
            "server_tls_sslmode=verify-ca server_tls_ca_file=odd",
            ":4: server_tls_ca_file: expected a PEM file of certificates",
        ),
        ("server_tls_protocols=tlsv1.1", ":3: server_tls_protocols: expected secure, all, tlsv1.2, tlsv1.3"),
        (
            "server_tls_sslmode=on",
            ":3: server_tls_sslmode: expected disable, allow, prefer, require, verify-ca or verify-full",
        ),
        (
            "client_tls_ciphers=HIGH",
            ":3: client_tls_ciphers: expected a known key (PgBouncer's; rustls offers safe ciphers and curves only",
        ),
    ] {
        let lines: String = keys.split(' ').map(|key| key.replacen('=', " = \"", 1) + "\"\n").collect();
        let file = dir.path().join("pglull.toml");
        fs::write(&file, head.replace("[databases", &format!("{lines}[databases"))).unwrap();
        let output = binary().arg("check").arg(&file).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(expected), "{keys}: {said}");
        assert!(!said.contains("PRIVATE KEY"), "{keys}");
    }
    // What is switched off is not read.
    let lines = "client_tls_cert_file = \"gone\"\nserver_tls_sslmode = \"disable\"\nserver_tls_ca_file = \"gone\"\n";
    let file = dir.path().join("pglull.toml");
    fs::write(&file, head.replace("[databases", &format!("{lines}[databases"))).unwrap();
    assert!(binary().arg("check").arg(&file).output().unwrap().status.success());
}
