//! How clients prove who they are, and what servers are then logged in to with.

use crate::support::postgres::{Db, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::secs;
use crate::support::wire::*;

/// What an attempt to log in is told, step by step: tags, kinds of request, error fields; no salt, nonce or name.
pub(crate) fn steps(target: &Target) -> Vec<String> {
    let mut wire = Wire::open(&target.addr).unwrap();
    let mut params = vec![("user", target.user.as_str()), ("database", target.database.as_str())];
    params.extend(target.params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    wire.send(&startup(&params)).unwrap();
    let mut seen = vec![];
    let mut scram = None;
    while let Ok(msg) = wire.recv() {
        if msg.tag != b'R' {
            let text = if msg.tag == b'E' { msg.error().to_string() } else { String::new() };
            seen.push(format!("{} {}", char::from(msg.tag), text.replace(&target.user, "USER")));
            break;
        }
        let kind = u32::from_be_bytes(msg.body[..4].try_into().unwrap());
        seen.push(format!("R{kind} {}", msg.body.len()));
        match kind {
            3 => wire.send(&msg_of(b'p', &cstr(&target.password))).unwrap(),
            5 => wire.send(&msg_of(b'p', &cstr("md5ffffffffffffffffffffffffffffffff"))).unwrap(),
            10 => {
                use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
                let state = scram.insert(ScramSha256::new(target.password.as_bytes(), ChannelBinding::unsupported()));
                let first = state.message();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                wire.send(&msg_of(b'p', &[&cstr("SCRAM-SHA-256")[..], &length, first].concat())).unwrap();
            }
            11 => {
                let state = scram.as_mut().unwrap();
                state.update(&msg.body[4..]).unwrap();
                let last = state.message().to_vec();
                wire.send(&msg_of(b'p', &last)).unwrap();
            }
            _ => {}
        }
    }
    seen
}

pub(crate) fn refused(target: &Target) -> DbError {
    let error = target.connect().err().expect("the login must be refused").db();
    assert_eq!(error.severity, "FATAL");
    error
}

/// Wrong password, empty password and unknown user are told the same in the same steps.
pub(crate) fn cannot_be_told_apart(client: &Target) {
    let wrong = steps(&Target { password: "wrong".to_owned(), ..client.clone() });
    assert!(wrong.last().unwrap().contains("28P01"), "{wrong:?}");
    for user in ["stranger", "x", "another one"] {
        assert_eq!(steps(&Target { user: user.to_owned(), password: "wrong".to_owned(), ..client.clone() }), wrong);
    }
    assert_eq!(steps(&Target { password: String::new(), ..client.clone() }), wrong);
}

fn stored(db: &Db) -> String {
    db.one(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", db.user))
}

fn psql(proxy: &Proxy, user: &str, password: &str, database: &str) -> (bool, String) {
    let mut command = tool("psql");
    command.args(["-XAt", "-p", &proxy.port.to_string(), "-U", user, "-d", database, "-c", "SELECT current_user"]);
    let output = command.env("PGPASSWORD", password).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[test]
fn every_method_lets_the_right_password_in_and_no_other() {
    let db = Db::new();
    for auth in ["scram-sha-256", "md5", "plain"] {
        let proxy = Spec::of(&db).text("auth_type", auth).start();
        let (ok, text) = psql(&proxy, &db.user, &db.password, &db.name);
        assert!(ok && text == db.user, "{auth}: {text}");
        let (ok, text) = psql(&proxy, &db.user, "wrong", &db.name);
        assert!(!ok && text.contains("password authentication failed"), "{auth}: {text}");
        cannot_be_told_apart(&proxy.client());
    }
}

/// Where the stored secret is a SCRAM or md5 one.
#[test]
fn stored_secrets_are_enough_for_a_plain_password() {
    let db = Db::new();
    let scram = stored(&db);
    db.sql(&format!("SET password_encryption = 'md5'; ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let md5 = stored(&db);
    for secret in [scram, md5] {
        let proxy = Spec::of(&db).unforced(&db).text("auth_type", "plain").user(&db.user, &secret).start();
        cannot_be_told_apart(&proxy.client());
        // The password that was proved is what servers are logged in to with.
        assert_eq!(proxy.client().login().one("SELECT current_user"), db.user);
    }
}

#[test]
fn any_of_several_passwords_is_right() {
    let db = Db::new();
    for auth in ["scram-sha-256", "md5", "plain"] {
        let spec = Spec::of(&db).unforced(&db).text("auth_type", auth).also_password(&db.user, "the next one");
        let proxy = spec.start();
        for password in [db.password.as_str(), "the next one"] {
            let client = Target { password: password.to_owned(), ..proxy.client() };
            assert_eq!(client.login().one("SELECT current_user"), db.user, "{auth}");
        }
        cannot_be_told_apart(&proxy.client());
    }
}

#[test]
fn what_a_client_proves_by_scram_logs_in_to_postgres() {
    let db = Db::new();
    let proxy = Spec::of(&db).unforced(&db).text("auth_type", "scram-sha-256").user(&db.user, &stored(&db)).start();
    refused(&Target { password: "wrong".to_owned(), ..proxy.client() });
    let mut wire = proxy.client().login();
    assert_eq!(wire.one("SELECT current_user"), db.user);
    // A second server is opened with what the first log-in taught.
    let mut other = proxy.client().login();
    wire.ok("BEGIN");
    assert_eq!(other.one("SELECT current_user"), db.user);
    assert!(!proxy.log().contains("SCRAM-SHA-256$"), "a secret in the log");
}

#[test]
fn another_secret_in_postgres_is_an_error_that_says_so() {
    let db = Db::new();
    let secret = stored(&db);
    // The same password, another salt: another secret.
    db.sql(&format!("ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let proxy = Spec::of(&db).unforced(&db).text("auth_type", "scram-sha-256").user(&db.user, &secret).start();
    let error = refused(&proxy.client());
    assert_eq!(error.code, "28P01", "{error}");
    assert!(error.message.contains("SCRAM secret"), "{error}");
    drop(proxy);
    // The same salt, another key: Postgres itself says no.
    let (head, _) = secret.rsplit_once('$').unwrap();
    let (_, other_keys) = stored(&db).rsplit_once('$').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    db.sql(&format!("ALTER ROLE {} PASSWORD '{head}${other_keys}'", db.user));
    let proxy = Spec::of(&db).unforced(&db).text("auth_type", "scram-sha-256").user(&db.user, &secret).start();
    let error = refused(&proxy.client());
    assert_eq!(error.code, "28P01", "{error}");
    assert!(error.message.contains("password authentication failed"), "{error}");
}

/// The key of a client is for its own role only.
#[test]
fn a_forced_user_logs_in_with_its_own_password() {
    let db = Db::new();
    let own = Db::new();
    let secret = stored(&own);
    let spec = Spec::of(&db).text("auth_type", "scram-sha-256").user(&own.user, &secret);
    let client = |proxy: &Proxy| Target { user: own.user.clone(), password: own.password.clone(), ..proxy.client() };
    let proxy = spec.clone().start();
    assert_eq!(client(&proxy).login().one("SELECT current_user"), db.user);
    drop(proxy);
    // Without a password of the forced user nothing of the client's is tried in its place.
    let spec = spec.unforced(&db).entry(&db, "user", &format!("{:?}", db.user)).user(&db.user, &stored(&db));
    let proxy = spec.start();
    let error = refused(&client(&proxy));
    assert!(error.code == "28P01" && error.message.contains("none is known"), "{error}");
    drop(proxy);
}

#[test]
fn a_stored_md5_hash_logs_in_where_postgres_wants_md5() {
    let db = Db::new();
    db.sql(&format!("SET password_encryption = 'md5'; ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let proxy = Spec::of(&db).unforced(&db).text("auth_type", "md5").user(&db.user, &stored(&db)).start();
    assert_eq!(proxy.client().login().one("SELECT current_user"), db.user);
}

/// `any` lets every name in, as the forced user; the console is not for everybody.
#[test]
fn any_name_is_the_forced_user_and_nobody_on_the_console() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "any").start();
    for user in ["whoever", "boss", "postgres"] {
        let client = Target { user: user.to_owned(), password: String::new(), ..proxy.client() };
        assert_eq!(client.login().one("SELECT current_user"), db.user);
        let error = refused(&Target { database: "pgbouncer".to_owned(), ..client });
        assert_eq!(error.code, "42501", "{error}");
    }
}

/// Trap 43: what Postgres says at its log-in is what the client hears.
#[test]
fn trap_43_postgres_own_words_at_its_log_in_reach_the_client() {
    let db = Db::new();
    let told = |proxy: &Proxy| refused(&proxy.client());
    let wrong = told(&Spec::of(&db).entry(&db, "password", "\"wrong\"").start());
    assert_eq!(wrong.code, "28P01");
    assert_eq!(wrong.message, format!("password authentication failed for user \"{}\"", db.user));
    let nowhere = told(&Spec::of(&db).entry(&db, "dbname", "\"gone_for_good\"").start());
    assert_eq!(
        (nowhere.code.as_str(), nowhere.message.as_str()),
        ("3D000", "database \"gone_for_good\" does not exist")
    );
    db.sql(&format!("ALTER ROLE {} NOLOGIN", db.user));
    let role = told(&Spec::of(&db).start());
    assert_eq!(role.code, "28000", "{role}");
    assert!(role.message.contains("is not permitted to log in"), "{role}");
    // One that may pass is waited for, and told when the waiting has lasted too long.
    db.sql(&format!("ALTER ROLE {} LOGIN CONNECTION LIMIT 0", db.user));
    let full = told(&Spec::of(&db).text("client_login_timeout", "2s").start());
    assert_eq!(full.code, "53300", "{full}");
    assert!(full.message.contains("too many connections for role"), "{full}");
}

/// Trap 43: a refusal that may pass fails nobody who can wait.
#[test]
fn trap_43_a_refusal_that_passes_fails_nobody() {
    let db = Db::new();
    db.sql(&format!("ALTER ROLE {} CONNECTION LIMIT 0", db.user));
    let proxy = Spec::of(&db).start();
    let target = proxy.client();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            std::thread::spawn({
                let target = target.clone();
                move || target.login().one("SELECT 1")
            })
        })
        .collect();
    crate::support::wait::eventually("servers were refused", secs(10), || {
        proxy.log().contains("too many connections for role")
    });
    db.sql(&format!("ALTER ROLE {} CONNECTION LIMIT -1", db.user));
    for client in clients {
        assert_eq!(client.join().unwrap(), "1");
    }
}

/// Trap 44: odd SCRAM messages end the log-in, and channel binding that was not offered is not taken.
#[test]
fn trap_44_odd_scram_messages_are_refused() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let answer = |mechanism: &str, first: &[u8]| {
        let mut wire = Wire::open(&proxy.client().addr).unwrap();
        wire.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
        let asked = wire.recv_ok().unwrap();
        assert_eq!(&asked.body[4..], b"SCRAM-SHA-256\0\0");
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        wire.send(&msg_of(b'p', &[&cstr(mechanism)[..], &length, first].concat())).unwrap();
        wire.recv().unwrap()
    };
    assert_eq!(answer("SCRAM-SHA-256", b"n,,n=,r=abc").tag, b'R');
    assert_eq!(answer("SCRAM-SHA-256", b"y,,n=,r=abc").tag, b'R');
    for (mechanism, first) in [
        ("SCRAM-SHA-256-PLUS", &b"p=tls-server-end-point,,n=,r=abc"[..]),
        ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-256", b""),
        ("SCRAM-SHA-256", b"n,,n="),
        ("SCRAM-SHA-256", b"n,,n=,r="),
        ("SCRAM-SHA-256", b"n,a=boss,n=,r=abc"),
        ("SCRAM-SHA-1", b"n,,n=,r=abc"),
        ("SCRAM-SHA-256", &[b'n'; 1030]),
    ] {
        let refused = answer(mechanism, first);
        assert_eq!((refused.tag, refused.error().code.as_str()), (b'E', "08P01"), "{mechanism} {first:?}");
    }
    proxy.still_serves();
}

/// Trap 44: an md5 secret cannot answer SCRAM. The client hears what everybody hears; the operator is told at the start.
#[test]
fn trap_44_an_md5_secret_and_scram_is_said_to_the_operator() {
    let db = Db::new();
    db.sql(&format!("SET password_encryption = 'md5'; ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").user(&db.user, &stored(&db)).start();
    assert_eq!(refused(&proxy.client()).code, "28P01");
    cannot_be_told_apart(&proxy.client());
    assert!(proxy.log().contains("has an md5 secret and cannot log in"), "{}", proxy.log());
}

/// Trap 52: hashing passwords keeps no client waiting that is logged in.
#[test]
fn trap_52_slow_passwords_do_not_slow_those_who_are_in() {
    let db = Db::new();
    // A million rounds: some tenths of a second each.
    let keys = format!("{}=:{}=", "A".repeat(43), "A".repeat(43));
    let slow = format!("SCRAM-SHA-256$1000000:c2FsdHNhbHRzYWx0c2FsdA==${keys}");
    let proxy = Spec::of(&db).text("auth_type", "plain").num("worker_threads", 1).user("slow", &slow).start();
    let mut wire = proxy.client().login();
    let mut crowd: Vec<Wire> = (0..12)
        .map(|_| {
            let mut wire = Wire::open(&proxy.client().addr).unwrap();
            wire.send(&startup(&[("user", "slow"), ("database", &db.name)])).unwrap();
            wire.recv_ok().unwrap();
            wire.send(&msg_of(b'p', &cstr("guess"))).unwrap();
            wire
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(wire.one("SELECT 1"), "1");
    }
    // All that was answered while the guesses were still being hashed, on the one thread that there is.
    assert!(crowd.last_mut().unwrap().silent(crate::support::wait::ms(1)), "hashing was too fast to show anything");
    for mut guess in crowd {
        guess.limit(secs(60));
        assert_eq!(guess.recv().unwrap().error().code, "28P01");
    }
}

/// Neither a reload that says nothing new nor one that brings another password loses what logs in to Postgres.
#[test]
fn a_reload_keeps_what_was_learned_and_takes_new_passwords() {
    let db = Db::new();
    let proxy = Spec::of(&db).unforced(&db).text("auth_type", "scram-sha-256").user(&db.user, &stored(&db)).start();
    let mut wire = proxy.client().login();
    assert_eq!(wire.one("SELECT 1"), "1");
    proxy.admin("RELOAD");
    wire.ok("BEGIN");
    // A server of its own, by the key that was learned before.
    assert_eq!(proxy.client().login().one("SELECT current_user"), db.user);
    wire.ok("COMMIT");
    db.sql(&format!("ALTER ROLE {} PASSWORD 'another'", db.user));
    let list = format!("\"{}\" \"another\"\n", db.user);
    std::fs::write(proxy.dir().join("userlist.txt"), list).unwrap();
    proxy.admin("RELOAD");
    assert_eq!(refused(&proxy.client()).code, "28P01");
    db.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", db.user));
    let client = Target { password: "another".to_owned(), ..proxy.client() };
    assert_eq!(client.login().one("SELECT current_user"), db.user);
}
