//! Who gets which server, when, and in what state.

use std::sync::mpsc;
use std::thread;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Wire, extended, msg_of, query, sync};

fn pid(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

#[test]
fn transaction_mode_shares_a_server_between_clients() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    let first = pid(&mut a);
    for _ in 0..5 {
        assert_eq!(pid(&mut b), first);
        assert_eq!(pid(&mut a), first);
    }
    assert_eq!(db.servers(), 1);
}

#[test]
fn a_transaction_keeps_its_server_to_the_end() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    let mut a = proxy.client().login();
    a.ok("BEGIN");
    let mine = pid(&mut a);
    a.ok("INSERT INTO t VALUES (1)");
    let mut b = proxy.client().login();
    for _ in 0..5 {
        assert_ne!(pid(&mut b), mine, "a server in a transaction was given away");
        assert_eq!(b.one("SELECT count(*) FROM t"), "0");
        assert_eq!(pid(&mut a), mine);
    }
    // A failed transaction is still a transaction.
    assert_eq!(a.query("SELECT 1/0").unwrap_err().db().code, "22012");
    assert_ne!(pid(&mut b), mine);
    assert_eq!(a.query("SELECT 1").unwrap_err().db().code, "25P02");
    a.ok("ROLLBACK");
}

#[test]
fn waiters_are_served_in_the_order_of_their_coming() {
    let db = Db::with("CREATE TABLE t(id serial, who int)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut queue = vec![];
    for who in 0..12 {
        let mut wire = proxy.client().login();
        wire.start(&format!("INSERT INTO t(who) VALUES ({who})")).unwrap();
        eventually("it waits", secs(5), || proxy.pools("cl_waiting") == who + 1);
        queue.push(wire);
    }
    first.ok("COMMIT");
    for wire in &mut queue {
        wire.finish().unwrap();
    }
    let order = db.one("SELECT string_agg(who::text, ' ' ORDER BY id) FROM t");
    assert_eq!(order, "0 1 2 3 4 5 6 7 8 9 10 11");
}

#[test]
fn a_waiter_that_leaves_is_forgotten_and_its_query_never_runs() {
    let db = Db::with("CREATE TABLE t(who text)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut leaver = proxy.client().login();
    leaver.start("INSERT INTO t VALUES ('leaver')").unwrap();
    eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    let mut second = proxy.client().login();
    second.start("INSERT INTO t VALUES ('second')").unwrap();
    eventually("both wait", secs(5), || proxy.pools("cl_waiting") == 2);
    drop(leaver);
    eventually("the leaver is forgotten", secs(5), || proxy.pools("cl_waiting") == 1);
    first.ok("COMMIT");
    second.finish().unwrap();
    assert_eq!(db.one("SELECT string_agg(who, ' ') FROM t"), "second");
}

#[test]
fn waiting_ends_at_query_wait_timeout() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("query_wait_timeout", "400ms").start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut waiter = proxy.client().login();
    waiter.start("SELECT 1").unwrap();
    assert!(waiter.silent(ms(250)), "given up too early");
    waiter.limit(secs(5));
    let error = waiter.finish().unwrap_err().db();
    assert!(error.message.contains("query_wait_timeout"), "{error}");
    first.ok("COMMIT");
    proxy.still_serves();
}

#[test]
fn trap_48_a_client_that_vanishes_in_a_transaction_leaves_a_clean_server() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).start();
    type Vanish = fn(&mut Wire);
    let ways: [(&str, Vanish); 7] = [
        ("idle in transaction", |_| {}),
        ("failed transaction", |wire| {
            wire.query("SELECT 1/0").unwrap_err();
        }),
        ("query running", |wire| wire.start("SELECT pg_sleep(30)").unwrap()),
        ("answer not read", |wire| wire.start("SELECT repeat('x', 1000) FROM generate_series(1, 50000)").unwrap()),
        ("half a message", |wire| {
            let bytes = query("SELECT 'only the first half of this was sent'");
            wire.send(&bytes[..20]).unwrap();
        }),
        ("no Sync", |wire| wire.send(&extended("INSERT INTO t VALUES (2)", &[])).unwrap()),
        ("in COPY", |wire| {
            wire.start("COPY t FROM STDIN").unwrap();
            wire.recv_until(b'G', 1).unwrap();
            wire.send(&msg_of(b'd', b"3\n")).unwrap();
        }),
    ];
    for (name, vanish) in ways {
        let mut leaver = proxy.client().login();
        leaver.ok("BEGIN; INSERT INTO t VALUES (1)");
        vanish(&mut leaver);
        drop(leaver);
        let mut next = proxy.client().login();
        next.limit(secs(10));
        assert_eq!(next.one("SELECT 'mine'"), "mine", "after {name}");
        assert_eq!(next.one("SELECT count(*) FROM t"), "0", "after {name}: not rolled back");
        assert_eq!(next.one("SELECT (txid_current_if_assigned() IS NULL)::text"), "true", "after {name}");
        next.close();
        eventually(&format!("after {name}: one server"), secs(5), || db.servers() <= 1);
    }
}

#[test]
fn session_mode_keeps_the_server_and_cleans_it_for_the_next() {
    let db = Db::new();
    let proxy = Spec::of(&db).session().pool(1).start();
    let mut first = proxy.client().login();
    let server = pid(&mut first);
    first.ok("SET work_mem = '7MB'; CREATE TEMP TABLE mine(a int); LISTEN news; PREPARE p AS SELECT 1");
    first.ok("SELECT pg_advisory_lock(4711)");
    assert_eq!(first.one("SHOW work_mem"), "7MB");
    assert_eq!(first.one("SELECT count(*) FROM mine"), "0");
    assert_eq!(pid(&mut first), server);

    let mut second = proxy.client().login();
    second.start("SELECT 1").unwrap();
    assert!(second.silent(ms(200)), "the only server belongs to the first client");
    first.close();
    second.finish().unwrap();
    assert_eq!(pid(&mut second), server, "the server was thrown away instead of reset");
    assert_ne!(second.one("SHOW work_mem"), "7MB");
    assert_eq!(second.one("SELECT (to_regclass('mine') IS NULL)::text"), "true");
    assert_eq!(second.one("SELECT count(*) FROM pg_listening_channels()"), "0");
    assert_eq!(second.one("SELECT count(*) FROM pg_prepared_statements"), "0");
    assert_eq!(second.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

#[test]
fn named_statements_live_as_long_as_a_session() {
    let db = Db::new();
    let proxy = Spec::of(&db).session().start();
    let mut wire = proxy.client().login();
    use crate::support::wire::{bind, execute, parse};
    wire.send(&[parse("plan", "SELECT $1::int * 2"), sync()].concat()).unwrap();
    wire.recv_until(b'Z', 1).unwrap();
    for n in 0..5 {
        let value = n.to_string();
        wire.send(&[bind("", "plan", &[Some(value.as_bytes())]), execute("", 0), sync()].concat()).unwrap();
        let answer = wire.recv_until(b'Z', 1).unwrap();
        assert_eq!(answer[1].values(), [Some((n * 2).to_string())]);
    }
}

#[test]
fn trap_49_a_server_killed_while_idle_is_replaced_unnoticed() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    for round in 0..3 {
        let old = pid(&mut wire);
        db.sql(&format!("SELECT pg_terminate_backend({old})"));
        // Before that the query would meet a living server, and 57P01 would be the honest answer.
        eventually("it is gone", secs(5), || {
            db.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {old}")) == "0"
        });
        // At once, when the proxy may not have looked yet, and later, when it has.
        if round > 0 {
            eventually("the proxy knows it", secs(5), || proxy.pools("sv_idle") == 0);
        }
        let new = wire.query("SELECT pg_backend_pid()").expect("the client notices nothing").one();
        assert_ne!(new, old);
    }
}

#[test]
fn trap_49_a_server_killed_in_a_transaction_is_an_honest_error() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    wire.ok("BEGIN; INSERT INTO t VALUES (1)");
    let server = pid(&mut wire);
    db.sql(&format!("SELECT pg_terminate_backend({server})"));
    // Never a success, and never a code that tells the client to try again.
    match wire.query("COMMIT") {
        Ok(reply) => panic!("an invented answer: {reply:?}"),
        Err(crate::support::wire::WireError::Db(error)) => {
            assert_ne!(error.code, "40001", "{error}")
        }
        Err(_) => {}
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
    proxy.still_serves();
}

#[test]
fn the_pool_is_used_up_and_never_exceeded() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let load = Load::start(&proxy.client(), 30, short_work);
    // One connection that looks all the time, from another database, so that it counts nowhere.
    let mut eye = Db::new().root().login();
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
        db.name
    );
    let mut most = 0;
    eventually("the pool is used up", secs(10), || {
        most = most.max(eye.one(&sql).parse::<u32>().unwrap());
        most >= 3
    });
    for _ in 0..300 {
        most = most.max(eye.one(&sql).parse::<u32>().unwrap());
    }
    load.progress(5);
    load.stop().assert_clean();
    assert_eq!(most, 3);
}

#[test]
fn min_pool_size_is_kept_without_load() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("min_pool_size", 3).start();
    proxy.still_serves();
    eventually("three servers wait", secs(10), || db.servers() == 3);
    // One that is lost is replaced, though nobody asks for it.
    db.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}' LIMIT 1", db.user));
    eventually("three servers wait again", secs(10), || db.servers() == 3);
    proxy.still_serves();
}

#[test]
fn two_databases_do_not_share_servers() {
    let (one, two) = (Db::new(), Db::new());
    let proxy = Spec::of(&one).also(&two).pool(1).start();
    let mut a = proxy.client_of(&one).login();
    let mut b = proxy.client_of(&two).login();
    a.ok("BEGIN");
    assert_eq!(a.one("SELECT current_database()"), one.name);
    assert_eq!(b.one("SELECT current_database()"), two.name);
    a.ok("COMMIT");
}

#[test]
fn pool_size_of_one_database_wins_over_the_default() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(10).entry(&db, "pool_size", "2").start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client().login()).collect();
    clients[0].ok("BEGIN");
    clients[1].ok("BEGIN");
    clients[2].start("SELECT 1").unwrap();
    assert!(clients[2].silent(ms(200)));
    clients[0].ok("COMMIT");
    clients[2].finish().unwrap();
}

#[test]
fn clients_that_come_and_go_lose_nothing() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(3).start();
    let before = proxy.descriptors();
    let (sender, receiver) = mpsc::channel();
    for worker in 0..8 {
        let (target, sender) = (proxy.client(), sender.clone());
        thread::spawn(move || {
            for n in 0..25 {
                let mut wire = target.login();
                wire.ok(&format!("INSERT INTO t VALUES ({})", worker * 100 + n));
                if n % 2 == 0 {
                    wire.close();
                }
            }
            sender.send(()).unwrap();
        });
    }
    drop(sender);
    assert_eq!(receiver.iter().count(), 8, "a client failed");
    assert_eq!(db.one("SELECT count(DISTINCT a) FROM t"), "200");
    // Three servers may stay, and the console's connection comes and goes.
    eventually("descriptors are given back", secs(5), || proxy.descriptors() <= before + 5);
}
