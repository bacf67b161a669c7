//! A cancel request stops the query of the client that it names, and nothing else.

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, let_run, ms, secs};
use crate::support::wire::{Wire, cancel, extended, sync, untagged};

#[test]
fn a_running_query_is_cancelled_and_no_other() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    a.start("SELECT pg_sleep(20), 'a'").unwrap();
    b.start("SELECT pg_sleep(1.5), 'b'").unwrap();
    eventually("both run", secs(5), || db.running("pg_sleep").len() == 2);
    a.cancel();
    a.limit(secs(5));
    assert_eq!(a.finish().unwrap_err().db().code, "57014");
    assert!(b.finish().is_ok(), "the wrong query was cancelled");
    assert_eq!(a.one("SELECT 'again'"), "again");
}

#[test]
fn a_cancel_works_over_the_unix_socket_and_in_extended_queries() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.unix_client().login();
    wire.send(&[extended("SELECT pg_sleep(20)", &[]), sync()].concat()).unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    wire.cancel();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    let error = answer.iter().find(|msg| msg.tag == b'E').unwrap().error();
    assert_eq!(error.code, "57014");
}

#[test]
fn trap_33_a_waiting_client_is_answered_at_once() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut waiter = proxy.client().login();
    waiter.start("INSERT INTO t VALUES (1)").unwrap();
    eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    waiter.cancel();
    waiter.limit(secs(2));
    assert_eq!(waiter.finish().unwrap_err().db().code, "57014");
    // The connection goes on, and the cancelled request is never run.
    waiter.start("SELECT 'still here'").unwrap();
    first.ok("COMMIT");
    waiter.limit(secs(10));
    assert_eq!(waiter.finish().unwrap().one(), "still here");
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_waiting_batch_that_is_cancelled_gets_one_ready_for_query() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut waiter = proxy.client().login();
    waiter.send(&[extended("INSERT INTO t VALUES (1)", &[]), sync()].concat()).unwrap();
    eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    waiter.cancel();
    let answer = waiter.recv_until(b'Z', 1).unwrap();
    let tags: Vec<u8> = answer.iter().map(|msg| msg.tag).collect();
    assert_eq!(tags, b"EZ", "{answer:?}");
    assert_eq!(answer[0].error().code, "57014");
    assert!(waiter.silent(ms(200)));
    first.ok("COMMIT");
    assert_eq!(waiter.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn an_idle_client_cancels_nobody() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut idle = proxy.client().login();
    idle.ok("SELECT 1");
    // The server that has just served the idle client now works for another.
    let mut busy = proxy.client().login();
    busy.start("SELECT pg_sleep(0.7), 'done'").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    for _ in 0..5 {
        idle.cancel();
    }
    busy.finish().expect("cancelled by somebody else's key");
    assert_eq!(idle.one("SELECT 1"), "1");
}

#[test]
fn b15_a_wrong_key_does_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.start("SELECT pg_sleep(0.8)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    let addr = proxy.client().addr;
    let mut rng = Rng::new(seed("b15_a_wrong_key_does_nothing"));
    let mut wrong = wire.key.clone();
    wrong[0] ^= 1;
    cancel(&addr, wire.pid, &wrong);
    cancel(&addr, wire.pid ^ 1, &wire.key);
    for _ in 0..100 {
        cancel(&addr, wire.pid, &rng.bytes(4));
    }
    for length in [5, 32, 256] {
        cancel(&addr, wire.pid, &rng.bytes(length));
    }
    // These are no keys at all, and may be told so.
    for length in [0, 1, 3, 257, 5000] {
        let body = [&80_877_102_u32.to_be_bytes()[..], &wire.pid.to_be_bytes(), &rng.bytes(length)].concat();
        let mut raw = Wire::open(&addr).unwrap();
        raw.send(&untagged(&body)).unwrap();
        raw.recv_to_end().unwrap();
    }
    wire.finish().expect("cancelled by a wrong key");
    proxy.still_serves();
}

#[test]
fn trap_34_keys_cannot_be_told_from_one_another() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let clients: Vec<_> = (0..50).map(|_| proxy.client().login()).collect();
    let keys: std::collections::BTreeSet<_> = clients.iter().map(|wire| wire.key.clone()).collect();
    assert_eq!(keys.len(), 50);
    let pids: std::collections::BTreeSet<_> = clients.iter().map(|wire| wire.pid).collect();
    assert_eq!(pids.len(), 50, "two clients have the same process id");
    // With any byte the same in all keys, guessing would be easier.
    for byte in 0..4 {
        let values: std::collections::BTreeSet<_> = keys.iter().map(|key| key[byte]).collect();
        assert!(values.len() > 20, "byte {byte} takes only {} values", values.len());
    }
}

#[test]
fn b15_the_key_of_a_client_that_left_does_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut gone = proxy.client().login();
    gone.ok("SELECT 1");
    let (pid, key) = (gone.pid, gone.key.clone());
    gone.close();
    let mut wire = proxy.client().login();
    wire.start("SELECT pg_sleep(0.4)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    cancel(&proxy.client().addr, pid, &key);
    wire.finish().unwrap();
}

/// Cancels race with the end of queries, on a single server that goes from hand to hand: a cancel
/// that comes late must not hit the next one.
#[test]
fn trap_32_a_storm_of_late_cancels_hits_only_its_own_client() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(1).start();
    let innocent = Load::start(&proxy.client(), 4, short_work);
    let target = proxy.client();
    let stormer = Load::start(&target, 3, |_, wire, round| {
        wire.start("SELECT pg_sleep(0.002)")?;
        let_run(std::time::Duration::from_micros((round % 8) * 500));
        wire.cancel();
        match wire.finish() {
            Err(crate::support::wire::WireError::Db(error)) if error.code == "57014" => Ok(()),
            Err(other) => Err(other),
            Ok(_) => Ok(()),
        }
    });
    stormer.progress(100);
    stormer.stop().assert_clean();
    innocent.progress(5);
    innocent.stop().assert_clean();
}
