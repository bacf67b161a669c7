//! Cancel requests that are slow, early, late or too many: whom they may hit, and who waits for them.

use crate::support::between::Between;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Addr, Wire, cancel, untagged};

/// A proxy whose way to Postgres leads through a relay that can be stopped.
fn proxy_between(db: &Db, more: impl FnOnce(Spec) -> Spec) -> (Between, Proxy) {
    let between = Between::start();
    let spec = Spec::of(db).entry(db, "port", &between.port.to_string()).pool(1);
    (between, more(spec).start())
}

fn pid(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

/// Sends a cancel request and does not wait until it is done.
fn cancel_and_go(wire: &Wire, addr: &Addr) -> Wire {
    let body = [&80_877_102_u32.to_be_bytes()[..], &wire.pid.to_be_bytes(), &wire.key].concat();
    let mut errand = Wire::open(addr).unwrap();
    errand.send(&untagged(&body)).unwrap();
    errand
}

#[test]
fn trap_32_a_server_is_not_lent_again_while_a_cancel_is_on_its_way_to_it() {
    let db = Db::new();
    let (between, proxy) = proxy_between(&db, |spec| spec);
    let mut first = proxy.client().login();
    let server = pid(&mut first);
    between.hold_cancels(true);
    first.start("SELECT pg_sleep(0.3), 'done'").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    let _errand = cancel_and_go(&first, &proxy.client().addr);
    eventually("the cancel is on its way", secs(5), || between.cancels() == 1);
    first.finish().expect("it was over before the cancel came");
    // The cancel may hit whatever runs on that server from now on: nothing may.
    let mut second = proxy.client().login();
    second.start("SELECT pg_backend_pid(), pg_sleep(0.3)").unwrap();
    assert!(second.silent(ms(700)));
    assert_eq!(db.running("pg_sleep").len(), 0);
    between.hold_cancels(false);
    let reply = second.finish().expect("the cancel of somebody else has hit it");
    assert_eq!(reply.rows[0][0].as_deref(), Some(&*server), "the server was good, and is used again");
}

#[test]
fn trap_32_a_cancel_that_does_not_end_costs_the_server_and_nobody_an_answer() {
    let db = Db::new();
    let (between, proxy) = proxy_between(&db, |spec| spec.text("cancel_wait_timeout", "1s"));
    let mut first = proxy.client().login();
    let server = pid(&mut first);
    between.hold_cancels(true);
    first.start("SELECT pg_sleep(0.3)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    let mut errand = cancel_and_go(&first, &proxy.client().addr);
    eventually("the cancel is on its way", secs(5), || between.cancels() == 1);
    first.finish().unwrap();
    let mut second = proxy.client().login();
    second.limit(secs(8));
    assert_ne!(pid(&mut second), server, "a cancel may still hit that one");
    // Whoever has asked for the cancel is let go as well.
    assert!(errand.recv_to_end().unwrap().is_empty());
    between.hold_cancels(false);
    assert_eq!(second.one("SELECT 'unhurt' FROM pg_sleep(0.3)"), "unhurt");
}

/// Between the leave to begin and the first byte to the server, settings are put in place: a cancel is for the request
/// that waits for that, not for the settings.
#[test]
fn trap_32_a_cancel_never_hits_what_the_proxy_does_for_a_client() {
    let db = Db::with("CREATE TABLE t(a int)");
    let (between, proxy) = proxy_between(&db, |spec| spec);
    let mut other = proxy.client().login();
    let server = pid(&mut other);
    let mut wire = proxy.client().param("timezone", "Asia/Tokyo").login();
    between.hold_answers(true);
    wire.start("INSERT INTO t VALUES (1)").unwrap();
    let last_query = format!("SELECT query FROM pg_stat_activity WHERE pid = {server}");
    eventually("its settings are under way", secs(5), || db.one(&last_query).contains("Asia/Tokyo"));
    // Returns when it is done: nobody waits for what it may not hit.
    wire.cancel();
    between.hold_answers(false);
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
    assert_eq!(between.cancels(), 0, "it went to the server");
    assert_eq!(wire.one("SELECT count(*) FROM t"), "0", "the cancelled request has run");
    assert_eq!(wire.one("SHOW timezone"), "Asia/Tokyo");
    assert_eq!(pid(&mut wire), server, "nothing was wrong with the server");
}

/// The cancel of an earlier request is not kept for a later one.
#[test]
fn trap_32_a_cancel_that_finds_nothing_is_forgotten() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().param("timezone", "Asia/Tokyo").login();
    let mut other = proxy.client().login();
    for _ in 0..10 {
        wire.cancel();
        // It has to be tuned again each time.
        assert_eq!(wire.one("SELECT 1"), "1");
        assert_eq!(other.one("SELECT 2"), "2");
    }
}

#[test]
fn trap_33_a_cancel_needs_no_place_in_the_pool_and_many_are_bounded() {
    let db = Db::new();
    let (between, proxy) = proxy_between(&db, |spec| spec.text("cancel_wait_timeout", "3s"));
    let mut wire = proxy.client().login();
    wire.start("SELECT pg_sleep(20)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    let _waiters: Vec<_> = (0..5)
        .map(|_| {
            let mut waiter = proxy.client().login();
            waiter.start("SELECT 1").unwrap();
            waiter
        })
        .collect();
    eventually("the pool is used up", secs(5), || proxy.pools("cl_waiting") == 5);
    between.hold_cancels(true);
    let addr = proxy.client().addr;
    let errands: Vec<_> = (0..200).map(|_| cancel_and_go(&wire, &addr)).collect();
    eventually("some wait", secs(5), || between.cancels() >= 8);
    let mut done = 0;
    for mut errand in errands {
        errand.limit(ms(1));
        done += usize::from(errand.recv_to_end().is_ok());
    }
    assert_eq!(between.cancels(), 8, "each is a connection to Postgres");
    assert!(done >= 150, "{done} of those that are of no use were answered");
    between.hold_cancels(false);
    wire.limit(secs(5));
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
}

#[test]
fn trap_33_a_query_that_keeps_a_drain_waiting_can_be_cancelled() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for client in [proxy.client(), proxy.unix_client()] {
        let id = if matches!(client.addr, Addr::Tcp(_)) { "tcp" } else { "unix" };
        let mut straggler = client.login();
        straggler.start("SELECT pg_sleep(20)").unwrap();
        eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
        let mut change = proxy.apply(id, "drain='8s'", "SELECT 1");
        proxy.until_phase(id, "draining");
        straggler.cancel();
        straggler.limit(secs(5));
        assert_eq!(straggler.finish().unwrap_err().db().code, "57014");
        change.finish().expect("the drain had nothing left to wait for");
    }
}

/// Keys that nobody was given, ten thousand of them: nothing is disturbed and nothing is sent to Postgres.
#[test]
fn b15_a_flood_of_wrong_keys_reaches_nobody() {
    let db = Db::new();
    let (between, proxy) = proxy_between(&db, |spec| spec);
    let mut wire = proxy.client().login();
    wire.start("SELECT pg_sleep(1.5), 'done'").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    let addr = proxy.client().addr;
    let before = proxy.descriptors();
    for n in 0..2000_u32 {
        cancel(&addr, if n % 2 == 0 { wire.pid } else { n }, &(n ^ 0xdead_beef).to_be_bytes());
    }
    wire.finish().expect("cancelled by a wrong key");
    assert_eq!(between.cancels(), 0);
    eventually("descriptors are given back", secs(5), || proxy.descriptors() <= before + 4);
}

/// The same where a client keeps its server and has reset its settings: they are put in place before the next request.
#[test]
fn trap_32_a_cancel_never_hits_what_the_proxy_does_on_a_server_that_is_kept() {
    let db = Db::with("CREATE TABLE t(a int)");
    let (between, proxy) = proxy_between(&db, Spec::session);
    let mut wire = proxy.client().param("timezone", "Asia/Tokyo").login();
    let server = pid(&mut wire);
    wire.ok("RESET ALL");
    between.hold_answers(true);
    wire.start("INSERT INTO t VALUES (1)").unwrap();
    let last_query = format!("SELECT query FROM pg_stat_activity WHERE pid = {server}");
    eventually("its settings are under way", secs(5), || db.one(&last_query).contains("Asia/Tokyo"));
    wire.cancel();
    between.hold_answers(false);
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
    assert_eq!(between.cancels(), 0, "it went to the server");
    assert_eq!(wire.one("SELECT count(*) FROM t"), "0", "the cancelled request has run");
    assert_eq!((wire.one("SHOW timezone"), pid(&mut wire)), ("Asia/Tokyo".to_owned(), server));
}
