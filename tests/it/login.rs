//! Who gets in, who does not, and what each is told.

use std::net::TcpListener;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{DbError, Target, Wire, gss_request, msg_of, query, ssl_request, startup};

fn proxy(db: &Db, auth: &str) -> Proxy {
    Spec::of(db).text("auth_type", auth).pool(3).start()
}

/// Both ways in, for a client that must be served.
fn served(target: &Target, proxy: &Proxy) {
    for addr in [target.addr.clone(), proxy.unix_addr()] {
        let mut wire = Target { addr, ..target.clone() }.login();
        assert_eq!(wire.one("SELECT 41 + 1"), "42");
        assert!(
            wire.params
                .iter()
                .any(|(name, value)| name == "server_version" && value.starts_with(|c: char| c.is_ascii_digit())),
            "{:?}",
            wire.params
        );
        assert!(wire.params.iter().any(|(name, _)| name == "integer_datetimes"));
        assert!(i32::try_from(wire.pid).is_ok_and(|pid| pid > 0), "process id {}", wire.pid);
        assert_eq!(wire.key.len(), 4);
        wire.close();
    }
}

fn refused(target: &Target) -> DbError {
    let error = target.connect().err().expect("the login must be refused").db();
    assert_eq!(error.severity, "FATAL");
    error
}

#[test]
fn trust_lets_known_users_in() {
    let db = Db::new();
    let proxy = proxy(&db, "trust");
    let mut target = proxy.client();
    target.password = "whatever".to_owned();
    served(&target, &proxy);
    target.user = "stranger".to_owned();
    refused(&target);
}

#[test]
fn md5_checks_the_password() {
    let db = Db::new();
    let proxy = proxy(&db, "md5");
    served(&proxy.client(), &proxy);
    check_refusals(&proxy, &db);
}

#[test]
fn scram_checks_the_password() {
    let db = Db::new();
    let proxy = proxy(&db, "scram-sha-256");
    served(&proxy.client(), &proxy);
    check_refusals(&proxy, &db);
}

/// A wrong password and an unknown user cannot be told apart.
fn check_refusals(proxy: &Proxy, db: &Db) {
    let client = proxy.client();
    let wrong = refused(&Target { password: "wrong".to_owned(), ..client.clone() });
    let empty = refused(&Target { password: String::new(), ..client.clone() });
    let unknown = refused(&Target { user: "stranger".to_owned(), ..client });
    assert_eq!(wrong.code, "28P01");
    assert_eq!(empty, wrong);
    assert_eq!(unknown.code, wrong.code);
    let text = |error: &DbError, name: &str| error.message.replace(name, "USER");
    assert_eq!(text(&unknown, "stranger"), text(&wrong, &db.user));
    proxy.still_serves();
}

/// The steps of a login are the same for a user that does not exist.
#[test]
fn scram_answers_an_unknown_user_like_a_known_one() {
    let db = Db::new();
    let proxy = proxy(&db, "scram-sha-256");
    let steps = |user: &str| {
        let mut wire = Wire::open(&proxy.client().addr).unwrap();
        wire.send(&startup(&[("user", user), ("database", &db.name)])).unwrap();
        let asked = wire.recv_ok().unwrap();
        let first = b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=rOprNGfwEbeRWgbNEkqOabcd";
        wire.send(&msg_of(b'p', first)).unwrap();
        let challenge = wire.recv_ok().unwrap();
        let text = String::from_utf8(challenge.body[4..].to_vec()).unwrap();
        let mut parts = text.split(',');
        let (nonce, salt, rounds) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert!(nonce.starts_with("r=rOprNGfwEbeRWgbNEkqO"));
        (asked, salt.to_owned(), salt.len(), rounds.to_owned())
    };
    let (known, stranger) = (steps(&db.user), steps("stranger"));
    assert_eq!((&known.0, known.2, &known.3), (&stranger.0, stranger.2, &stranger.3));
    // A salt that changes at each try would betray that there is no such user.
    assert_eq!(stranger.1, steps("stranger").1);
}

#[test]
fn a_stored_scram_secret_and_a_stored_md5_hash_are_enough() {
    let db = Db::new();
    let scram = db.one(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", db.user));
    assert!(scram.starts_with("SCRAM-SHA-256$"));
    let by_scram = Spec::of(&db).text("auth_type", "scram-sha-256").user(&db.user, &scram).start();
    served(&by_scram.client(), &by_scram);
    check_refusals(&by_scram, &db);
    drop(by_scram);

    db.sql(&format!("SET password_encryption = 'md5'; ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let md5 = db.one(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", db.user));
    assert!(md5.starts_with("md5"));
    // This also logs in to Postgres by md5.
    let by_md5 = Spec::of(&db).text("auth_type", "md5").user(&db.user, &md5).start();
    served(&by_md5.client(), &by_md5);
}

#[test]
fn postgres_may_trust_us_or_ask_for_the_plain_password() {
    for group in ["trusting", "plain"] {
        let db = Db::new();
        db.sql(&format!("GRANT {group} TO {}", db.user));
        let proxy = proxy(&db, "trust");
        proxy.still_serves();
    }
}

#[test]
fn a_wrong_password_towards_postgres_is_an_error_and_not_a_hang() {
    let db = Db::new();
    let proxy = Spec::of(&db).entry(&db, "password", "\"wrong\"").text("query_wait_timeout", "3s").start();
    let result = proxy.client().connect().and_then(|mut wire| wire.query("SELECT 1"));
    let error = result.expect_err("there is no server to run it on").db();
    assert!(!error.message.contains("wrong"), "a secret in an error: {error}");
    assert!(!proxy.log().contains("\"wrong\""), "a secret in the log");
}

#[test]
fn an_unknown_database_is_refused_by_name() {
    let db = Db::new();
    let proxy = proxy(&db, "scram-sha-256");
    let error = refused(&Target { database: "nowhere".to_owned(), ..proxy.client() });
    assert!(error.code == "3D000" || error.message.contains("no such database"), "{error}");
    assert!(error.message.contains("nowhere"), "{error}");
    // Without the password there is no answer to whether a database exists.
    let wrong = Target { password: "wrong".to_owned(), ..proxy.client() };
    let nowhere = Target { database: "nowhere".to_owned(), ..wrong.clone() };
    assert_eq!(refused(&nowhere), refused(&wrong));
}

#[test]
fn trap_39_encryption_requests_are_answered_no_and_the_login_goes_on() {
    let db = Db::new();
    let proxy = proxy(&db, "scram-sha-256");
    let client = proxy.client();
    for requests in [vec![ssl_request()], vec![gss_request()], vec![gss_request(), ssl_request()]] {
        let mut wire = Wire::open(&client.addr).unwrap();
        for request in &requests {
            wire.send(request).unwrap();
            assert_eq!(wire.byte().unwrap(), b'N');
        }
        wire.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
        wire.authenticate(&db.user, &db.password).unwrap();
        wire.recv_until(b'Z', 1).unwrap();
        assert_eq!(wire.one("SELECT 1"), "1");
    }
}

/// What is stuffed behind an SSLRequest came before any encryption: it must never be believed.
#[test]
fn trap_40_bytes_stuffed_behind_an_ssl_request_close_the_connection() {
    let db = Db::new();
    let proxy = proxy(&db, "trust");
    for request in [ssl_request(), gss_request()] {
        let mut wire = Wire::open(&proxy.client().addr).unwrap();
        let mut bytes = request;
        bytes.extend(startup(&[("user", &db.user), ("database", &db.name)]));
        wire.send(&bytes).unwrap();
        let answer = wire.recv_to_end().unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("server_version"), "the stuffed login was accepted: {text:?}");
    }
    proxy.still_serves();
}

#[test]
fn b06_repeated_encryption_requests_end_the_connection() {
    let db = Db::new();
    let proxy = proxy(&db, "trust");
    let mut wire = Wire::open(&proxy.client().addr).unwrap();
    let mut answered = 0;
    for turn in 0..20 {
        let request = if turn % 2 == 0 { ssl_request() } else { gss_request() };
        if wire.send(&request).is_err() {
            break;
        }
        match wire.byte() {
            Ok(b'N') => answered += 1,
            _ => break,
        }
    }
    assert!(answered <= 2, "{answered} requests were answered");
    proxy.still_serves();
}

#[test]
fn more_clients_than_max_client_conn_are_told_so() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 5).start();
    let mut clients: Vec<_> = (0..5).map(|_| proxy.client().login()).collect();
    let error = refused(&proxy.client());
    assert!(error.code == "53300" || error.message.contains("max_client_conn"), "{error}");
    assert_eq!(error.code, "53300", "{error}");
    // The console must stay reachable, and a place that becomes free is given out again.
    proxy.admin("SHOW POOLS");
    assert_eq!(clients[4].one("SELECT 1"), "1");
    clients.pop().unwrap().close();
    eventually("the free place is given out", secs(5), || proxy.client().connect().is_ok());
}

#[test]
fn a_silent_login_ends_at_client_login_timeout() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("client_login_timeout", "2s").start();
    let mut wire = Wire::open(&proxy.client().addr).unwrap();
    assert!(wire.silent(secs(1)), "closed too early");
    wire.limit(secs(5));
    wire.recv_to_end().expect("closed at the deadline");
    // A client that has logged in in time is not hurt by it.
    let mut good = proxy.client().login();
    assert!(good.silent(ms(2500)));
    assert_eq!(good.one("SELECT 1"), "1");
}

#[test]
fn a_user_of_its_own_pool_mode_keeps_its_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).user_section(&db.user, "pool_mode = \"session\"").start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    let pid = |wire: &mut Wire| wire.one("SELECT pg_backend_pid()");
    let (of_a, of_b) = (pid(&mut a), pid(&mut b));
    assert_ne!(of_a, of_b, "in session mode each client has its server");
    assert_eq!((pid(&mut a), pid(&mut b)), (of_a, of_b));
}

#[test]
fn the_application_name_of_the_client_reaches_show_clients() {
    let db = Db::new();
    let proxy = proxy(&db, "trust");
    let mut wire = proxy.client().app("billing").login();
    wire.ok("SELECT 1");
    let clients = proxy.admin("SHOW CLIENTS").maps();
    assert!(
        clients.iter().any(|row| row["application_name"].contains("billing") && row["database"] == db.name),
        "{clients:?}"
    );
}

/// In an outage at the start, drivers give up and come back every few seconds: who has given up takes no place.
#[test]
fn who_has_given_up_on_the_first_server_is_forgotten() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let db = Db::new();
    let proxy = Spec::of(&db).entry(&db, "host", "\"127.0.0.1\"").entry(&db, "port", &port).start();
    let count = || proxy.admin("SHOW CLIENTS").maps().iter().filter(|row| row["database"] == db.name).count();
    let come = |more: &[u8]| {
        let mut wire = Wire::open(&proxy.unix_addr()).unwrap();
        let hello = startup(&[("user", &db.user), ("database", &db.name)]);
        wire.send(&[&hello, more].concat()).unwrap();
        wire
    };
    let (gone, stays) = ([come(b""), come(&query("SELECT 1"))], come(b""));
    eventually("they wait", secs(5), || count() == 3);
    drop(gone);
    eventually("those who have gone are forgotten", secs(5), || count() == 1);
    drop(stays);
}
