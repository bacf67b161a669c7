//! Clients that are known by their certificate: `auth_type = cert`, and the method `cert` of a rule, over real TLS.

use crate::auth::refused;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::tls::{Leaf, authority, client_config, stranger};
use crate::support::wire::Target;

/// A client that says it is `user` and shows this certificate; it knows no password.
fn shows(proxy: &Proxy, user: &str, own: Option<&Leaf>) -> Target {
    let client = Target { user: user.to_owned(), password: String::new(), ..proxy.client() };
    client.tls(&client_config(false, own), false)
}

fn message(target: &Target) -> (String, String) {
    let error = refused(target);
    (error.code, error.message)
}

#[test]
fn the_common_name_of_a_certificate_is_the_users() {
    let db = Db::new();
    let ours = authority().leaf(&db.user, &[]);
    for mode in ["verify-ca", "verify-full"] {
        let proxy = Spec::of(&db).client_tls(mode).text("auth_type", "cert").start();
        assert_eq!(shows(&proxy, &db.user, Some(&ours)).login().one("SELECT current_user"), db.user, "{mode}");
        // As Postgres' manual makes them.
        let first = authority().leaf_of_version_1(&db.user);
        assert_eq!(shows(&proxy, &db.user, Some(&first)).login().one("SELECT 1"), "1", "{mode}");
        // Another user, one that is not known, and names that are nearly the same.
        for user in ["boss", "stranger", &db.user.to_uppercase(), &format!("{} ", db.user)] {
            let expected = format!("certificate authentication failed for user \"{user}\"");
            assert_eq!(message(&shows(&proxy, user, Some(&ours))), ("28000".to_owned(), expected), "{mode}");
        }
        for odd in [
            stranger().leaf(&db.user, &[]),
            stranger().leaf_of_version_1(&db.user),
            Leaf { cert: first.cert.clone(), ..ours.clone() },
            authority().leaf("", &[]),
            authority().leaf("nobody", &[&db.user.replace('_', "-")]),
            authority().leaf(&format!("{}\0.evil", db.user), &[]),
        ] {
            assert!(shows(&proxy, &db.user, Some(&odd)).connect().is_err(), "{mode}");
        }
        // Without a certificate there is no handshake, without TLS no log-in, and over the Unix socket no certificate.
        assert!(shows(&proxy, &db.user, None).connect().is_err());
        let plain = Target { tls: None, ..proxy.client() };
        assert_eq!(refused(&plain).message, "SSL required");
        assert_eq!(refused(&proxy.unix_client()).code, "28000");
        // The console asks for no less.
        let boss = authority().leaf("boss", &[]);
        let console = |user, own| Target { database: "pgbouncer".to_owned(), ..shows(&proxy, user, Some(own)) };
        assert_eq!(console("boss", &boss).login().ok("SHOW VERSION").rows.len(), 1);
        assert_eq!(refused(&console("boss", &ours)).code, "28000");
    }
}

#[test]
fn a_rule_may_map_common_names_to_users() {
    let db = Db::new();
    let rules = format!(
        "hostssl {0} boss all cert\nhostssl {0} all all cert map=apps\nhost all all all scram-sha-256\n",
        db.name
    );
    let maps =
        format!("apps \"shop frontend\" {0}\napps svc-scribe scribe\napps svc-any all\nother {0} scribe\n", db.user);
    let spec = Spec::of(&db).text("auth_type", "hba").text("auth_hba_file", "hba").file("hba", &rules);
    let spec = spec.text("auth_ident_file", "ident").file("ident", &maps);
    let proxy = spec.client_tls("verify-ca").start();
    let leaf = |name: &str| authority().leaf(name, &[]);
    assert_eq!(shows(&proxy, &db.user, Some(&leaf("shop frontend"))).login().one("SELECT 1"), "1");
    assert_eq!(shows(&proxy, "scribe", Some(&leaf("svc-scribe"))).login().one("SELECT 1"), "1");
    // With a map the same name alone is nothing; without one nothing else is.
    for (user, name) in [
        (&*db.user, &*db.user),
        (&db.user, "svc-scribe"),
        ("scribe", "shop frontend"),
        ("boss", "svc-any"),
        ("scribe", "SVC-SCRIBE"),
    ] {
        let expected = format!("certificate authentication failed for user \"{user}\"");
        assert_eq!(message(&shows(&proxy, user, Some(&leaf(name)))), ("28000".to_owned(), expected), "{name}");
    }
    shows(&proxy, "boss", Some(&leaf("boss"))).login();
    shows(&proxy, "scribe", Some(&leaf("svc-any"))).login();
    // Every user is not everybody: one that is not known is none.
    assert_eq!(refused(&shows(&proxy, "ghost", Some(&leaf("svc-any")))).code, "28000");
}

/// Nobody could log in: that is said before the start, not by each client.
#[test]
fn certificates_need_a_mode_that_asks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = authority().leaf("a", &["127.0.0.1"]);
    for (name, text) in [
        ("a.crt", &*leaf.cert),
        ("a.key", &leaf.key),
        ("ca.crt", &authority().pem),
        ("hba", "hostssl all all all cert\n"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    for (auth, mode, good, said) in [
        (
            "auth_type = \"cert\"",
            "require",
            false,
            "client_tls_sslmode: expected verify-ca or verify-full, for auth_type = cert, got require",
        ),
        (
            "auth_type = \"cert\"",
            "disable",
            false,
            "client_tls_sslmode: expected verify-ca or verify-full, for auth_type = cert, got disable",
        ),
        ("auth_type = \"cert\"", "verify-ca", true, ""),
        ("auth_type = \"hba\"\nauth_hba_file = \"hba\"", "prefer", true, "method cert in auth_hba_file lets nobody in"),
        ("auth_type = \"hba\"\nauth_hba_file = \"hba\"", "verify-full", true, ""),
    ] {
        let text = format!(
            "[pglull]\n{auth}\nclient_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = \"a.crt\"\nclient_tls_key_file = \"a.key\"\n\
             client_tls_ca_file = \"ca.crt\"\n[databases.d]\nhost = \"127.0.0.1\"\n"
        );
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let output = binary().arg("check").arg(&file).output().unwrap();
        let all = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), good, "{auth} {mode}: {all}");
        assert!(all.contains(said) && (!said.is_empty() || !all.contains("cert")), "{auth} {mode}: {all}");
    }
}
