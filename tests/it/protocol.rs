//! Versions of the protocol, on both sides, and the cancel keys that come with them.

use crate::support::fake::{Fake, Manners};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, secs};
use crate::support::wire::*;

/// A StartupMessage of any version.
fn startup_of(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = startup(params);
    bytes[4..8].copy_from_slice(&version.to_be_bytes());
    bytes
}

const fn version(major: u32, minor: u32) -> u32 {
    (major << 16) | minor
}

/// Logs in with this version and these further parameters: the connection, ready, and all that was said.
fn log_in(to: &Target, asked: u32, more: &[(&str, &str)]) -> (Wire, Vec<Msg>) {
    let mut wire = Wire::open(&to.addr).unwrap();
    let base = [("user", to.user.as_str()), ("database", to.database.as_str())];
    wire.send(&startup_of(asked, &[&base[..], more].concat())).unwrap();
    let all = wire.recv_until(b'Z', 1).unwrap();
    let key = all.iter().find(|msg| msg.tag == b'K').unwrap();
    wire.pid = u32::from_be_bytes(key.body[..4].try_into().unwrap());
    wire.key = key.body[4..].to_vec();
    (wire, all)
}

/// The NegotiateProtocolVersion messages among these: version and options.
fn negotiated(all: &[Msg]) -> Vec<(u32, Vec<String>)> {
    let read = |msg: &Msg| {
        let word = |at: usize| u32::from_be_bytes(msg.body[at..at + 4].try_into().unwrap());
        let names = msg.body[8..].split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned());
        let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        assert_eq!(names.len(), word(4) as usize);
        (word(0), names)
    };
    all.iter().filter(|msg| msg.tag == b'v').map(read).collect()
}

/// libpq 19 asks every server for a version and an option that do not exist, to see whether they are answered.
#[test]
fn trap_37_grease_is_answered_once_with_what_there_is() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let option = "_pq_.test_protocol_negotiation";
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (asked, options, answer) in [
        (9999, vec![option], Some((2, named(&[option])))),
        (9999, vec![], Some((2, vec![]))),
        (3, vec![], Some((2, vec![]))),
        (2, vec![option, "_pq_.command_tag"], Some((2, named(&[option, "_pq_.command_tag"])))),
        (0, vec![option], Some((0, named(&[option])))),
        (2, vec![], None),
        // Never published; Postgres takes it for what it is.
        (1, vec![], None),
        (0, vec![], None),
    ] {
        let more: Vec<(&str, &str)> = options.iter().map(|name| (*name, "")).collect();
        let (mut wire, all) = log_in(&proxy.client(), version(3, asked), &more);
        let expected: Vec<_> = answer.into_iter().map(|(minor, names)| (version(3, minor), names)).collect();
        assert_eq!(negotiated(&all), expected, "3.{asked} {options:?}");
        assert_eq!(wire.key.len(), if asked >= 2 { 32 } else { 4 }, "3.{asked}");
        // An option is none of the server's business.
        assert_eq!(wire.one("SELECT 'served'"), "served");
    }
}

/// What Postgres 15 says itself to 3.0 with an option that it does not know is what we say.
#[test]
fn trap_37_the_answer_has_the_shape_of_postgres_own() {
    let db = Db::new();
    db.sql(&format!("GRANT trusting TO {}", db.user));
    let proxy = Spec::of(&db).start();
    let more = [("_pq_.x", "1")];
    let (_, direct) = log_in(&db.direct(), version(3, 0), &more);
    let (_, ours) = log_in(&proxy.client(), version(3, 0), &more);
    assert_eq!(negotiated(&ours), negotiated(&direct));
    for asked in [version(2, 0), version(4, 0), version(9, 9), version(1, 0), version(0, 7)] {
        let refused = |to: &Target| {
            let mut wire = Wire::open(&to.addr).unwrap();
            wire.send(&startup_of(asked, &[("user", &db.user)])).unwrap();
            String::from_utf8_lossy(&wire.recv_to_end().unwrap()).into_owned()
        };
        // It names the newest version that there is: 3.2 here, 3.0 there before Postgres 18. Postgres adds file and line.
        let [ours, direct] = [proxy.client(), db.direct()].map(|to| refused(&to).replace("to 3.2", "to 3.0"));
        let fields = |text: &str| {
            text.split('\0').skip_while(|field| *field != "VFATAL").take(3).map(str::to_owned).collect::<Vec<_>>()
        };
        if asked >> 16 < 3 {
            assert_eq!(ours, direct);
        } else {
            assert_eq!(fields(&ours), fields(&direct));
        }
    }
}

#[test]
fn trap_38_long_keys_cancel_and_no_other_key_does() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    for client in [proxy.client(), proxy.unix_client()] {
        let (mut wire, _) = log_in(&client, version(3, 2), &[]);
        wire.start("SELECT pg_sleep(20)").unwrap();
        eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
        let mut rng = Rng::new(seed("trap_38"));
        let key = wire.key.clone();
        let mut wrong = vec![key[..4].to_vec(), key[..31].to_vec(), [&key[..], &[0]].concat(), key[28..].to_vec()];
        for byte in 0..32 {
            let mut other = key.clone();
            other[byte] ^= 1;
            wrong.push(other);
        }
        wrong.extend([4, 5, 31, 33, 255, 256].map(|length| rng.bytes(length)));
        for key in &wrong {
            cancel(&client.addr, wire.pid, key);
        }
        assert_eq!(db.running("pg_sleep").len(), 1, "cancelled by a wrong key");
        wire.cancel();
        wire.limit(secs(5));
        assert_eq!(wire.finish().unwrap_err().db().code, "57014");
        assert_eq!(wire.one("SELECT 1"), "1");
    }
}

fn fake(minor: u16, rude: bool, key: Option<Vec<u8>>) -> (Fake, Db, Proxy) {
    let fake = Fake::start(Manners { minor, rude, key, version: "15.1".to_owned() });
    let db = Db::new();
    let spec = Spec::of(&db).entry(&db, "host", "\"127.0.0.1\"").entry(&db, "port", &fake.port.to_string()).pool(1);
    let proxy = spec.start();
    (fake, db, proxy)
}

/// Client and server speak different versions, and the server's key is as long as it can be.
#[test]
fn trap_38_a_server_may_give_a_key_of_256_bytes() {
    for length in [4, 32, 256] {
        let key: Vec<u8> = (0..length).map(|n: usize| n.to_be_bytes()[7]).collect();
        let (fake, _db, proxy) = fake(2, false, Some(key.clone()));
        for asked in [0, 2] {
            let (mut wire, _) = log_in(&proxy.client(), version(3, asked), &[]);
            wire.start("sleep").unwrap();
            eventually("it runs", secs(5), || fake.sleeps());
            wire.cancel();
            assert_eq!(wire.finish().unwrap_err().db().code, "57014");
            eventually("the pool is free", secs(5), || proxy.pools("sv_active") == 0);
        }
        assert!(fake.keys().iter().all(|seen| *seen == key));
        assert!(fake.versions().iter().all(|minor| *minor == 2));
    }
}

#[test]
fn trap_38_a_server_that_has_less_or_takes_offence_is_served_all_the_same() {
    // It says that it has 3.0.
    let (polite, _db, proxy) = fake(0, false, Some(vec![1; 4]));
    proxy.client().login().ok("anything");
    assert_eq!(polite.versions(), [2]);
    drop(proxy);
    // It refuses; the second connection does not ask again.
    let (rude, _db, proxy) = fake(0, true, Some(vec![1; 4]));
    proxy.client().login().ok("anything");
    assert_eq!(rude.versions(), [2, 0]);
    // The fake speaks 3.2 from here on, and is asked for 3.0 all the same.
    rude.manners.lock().unwrap().minor = 2;
    let mut wire = proxy.client().login();
    wire.ok("close");
    eventually("another server is opened", secs(10), || {
        // One that meets the server in the moment of its end is told so.
        proxy.client().login().query("anything").is_ok() && rude.versions().len() > 2
    });
    assert!(rude.versions()[1..].iter().all(|minor| *minor == 0), "{:?}", rude.versions());
}

/// Some services send no BackendKeyData: nothing can be cancelled there, and everything else works.
#[test]
fn trap_34_a_server_without_a_key_is_used_and_never_cancelled() {
    let (fake, _db, proxy) = fake(0, false, None);
    let mut wire = proxy.client().login();
    assert!(i32::try_from(wire.pid).unwrap() > 0);
    wire.ok("anything");
    wire.start("sleep").unwrap();
    eventually("it runs", secs(5), || fake.sleeps());
    wire.cancel();
    assert!(fake.keys().is_empty());
    // Whoever leaves a query running there costs a server, nobody else an answer.
    drop(wire);
    proxy.client().login().ok("anything");
    assert!(fake.keys().is_empty());
}

/// What a client is told of the server is what the last server that was opened has said.
#[test]
fn trap_26_the_welcome_follows_an_upgrade_of_the_server() {
    let (fake, _db, proxy) = fake(2, false, Some(vec![1; 4]));
    let version = |wire: &Wire| {
        wire.params.iter().find(|(name, _)| name == "server_version").map(|(_, value)| value.clone()).unwrap()
    };
    let mut old = proxy.client().login();
    assert_eq!(version(&old), "15.1");
    fake.manners.lock().unwrap().version = "18.0".to_owned();
    // The server goes down in the upgrade; the next one that is opened is the new one.
    old.ok("close");
    eventually("the new version is told", secs(10), || {
        // One that meets the server in the moment of its end is told so, and cannot ask again.
        let _ = proxy.client().login().query("anything");
        version(&proxy.client().login()) == "18.0"
    });
}

/// Before a question for the last number of a sequence goes out, its server forgets those of others: a cancel that hits that is
/// for the question.
#[test]
fn trap_32_a_cancel_in_the_midst_of_an_errand_costs_no_connection() {
    let (fake, _db, proxy) = fake(2, false, Some(vec![1; 4]));
    let (mut other, mut wire) = (proxy.client().login(), proxy.client().login());
    for (block, status) in [(false, b"I"), (true, b"E")] {
        other.ok("SELECT nextval('s')");
        if block {
            wire.ok("BEGIN");
        }
        // The second time, it is done again: what was cancelled has not made the server forget anything.
        for _ in 0..=usize::from(!block) {
            wire.start("SELECT lastval()").unwrap();
            eventually("it is done first", secs(5), || fake.sleeps());
            wire.cancel();
            let answer = wire.recv_until(b'Z', 1).unwrap();
            assert_eq!((answer[0].error().code.as_str(), answer.len()), ("57014", 2), "{answer:?}");
            assert_eq!(answer[1].body, status);
        }
        wire.ok("ROLLBACK");
    }
    other.ok("SELECT 'goes on'");
    assert_eq!(fake.versions().len(), 1, "nothing was wrong with the server");
}
