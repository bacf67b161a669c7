//! What the console's verbs do to real clients and servers.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs, until};
use crate::support::wire::{Wire, query, startup};

fn pid(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

/// The ids of the clients of this name.
fn id_of(proxy: &Proxy, app: &str) -> String {
    let clients = proxy.admin("SHOW CLIENTS").maps();
    clients.iter().find(|row| row["application_name"] == app).unwrap_or_else(|| panic!("{clients:?}"))["id"].clone()
}

fn old_servers(proxy: &Proxy) -> usize {
    proxy.admin("SHOW SERVERS").maps().iter().filter(|row| row["close_needed"] == "1").count()
}

#[test]
fn reconnect_replaces_servers_when_they_are_free_and_not_in_a_transaction() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let (mut busy, mut idle) = (proxy.client().login(), proxy.client().login());
    busy.ok("BEGIN");
    let kept = pid(&mut busy);
    let first = pid(&mut idle);
    assert_ne!(kept, first);
    proxy.admin(&format!("RECONNECT {}", db.name));
    // The idle one is gone now; the other goes on until its transaction is over, and with it.
    eventually("the idle server is closed", secs(5), || db.servers() == 1);
    assert_eq!(old_servers(&proxy), 1);
    let mut waiter = proxy.admin_start(&format!("WAIT_CLOSE {}", db.name));
    assert!(waiter.silent(std::time::Duration::from_millis(200)), "WAIT_CLOSE did not wait");
    assert_eq!(pid(&mut busy), kept);
    assert_ne!(pid(&mut idle), first);
    busy.ok("COMMIT");
    assert_eq!(waiter.finish().unwrap().tags, ["WAIT_CLOSE"]);
    assert_eq!(old_servers(&proxy), 0);
    assert_ne!(pid(&mut busy), kept);
    // Nothing is old: it answers at once. All databases alike.
    proxy.admin("WAIT_CLOSE");
    let now = pid(&mut idle);
    proxy.admin("RECONNECT");
    proxy.admin("WAIT_CLOSE");
    assert_ne!(pid(&mut idle), now);
    assert_eq!(proxy.admin_err("RECONNECT nowhere").code, "3D000");
    assert_eq!(proxy.admin_err("WAIT_CLOSE nowhere").code, "3D000");
}

#[test]
fn in_session_mode_a_server_is_replaced_when_its_client_leaves() {
    let db = Db::new();
    let proxy = Spec::of(&db).session().start();
    let mut client = proxy.client().login();
    let kept = pid(&mut client);
    proxy.admin("RECONNECT");
    assert_eq!(pid(&mut client), kept);
    let mut waiter = proxy.admin_start("WAIT_CLOSE");
    client.close();
    assert_eq!(waiter.finish().unwrap().tags, ["WAIT_CLOSE"]);
    assert_ne!(pid(&mut proxy.client().login()), kept);
}

#[test]
fn reconnect_loses_nobody_under_load() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(4).start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = || {
            let mut client = proxy.client().login();
            let mut count = 0_u64;
            while count < 100 || !stop.load(std::sync::atomic::Ordering::Acquire) {
                assert_eq!(client.one("SELECT 41 + 1"), "42");
                count += 1;
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        for _ in 0..20 {
            proxy.admin("RECONNECT");
            proxy.admin("WAIT_CLOSE");
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert!(db.servers() <= 4);
}

#[test]
fn kill_client_cuts_one_and_nobody_else() {
    let db = Db::with("CREATE TABLE t (a int)");
    let proxy = Spec::of(&db).start();
    let (mut victim, mut other) = (proxy.client().app("victim").login(), proxy.client().app("other").login());
    victim.ok("BEGIN; INSERT INTO t VALUES (1)");
    proxy.admin(&format!("KILL_CLIENT {}", id_of(&proxy, "victim")));
    let error = victim.finish().unwrap_err().db();
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "57P01", "admin forced disconnect")
    );
    assert_eq!(other.one("SELECT count(*) FROM t"), "0");
    eventually("it is off the list", secs(5), || proxy.pools("cl_active") == 1);
    assert_eq!(proxy.admin_err("KILL_CLIENT 999999").code, "42704");
    assert_eq!(proxy.admin_err("KILL_CLIENT x").code, "42601");
    // One that sits at the console too.
    let mut operator = proxy.console().login();
    let clients = operator.ok("SHOW CLIENTS").maps();
    // The last that came; others may be about to leave.
    let own = clients.iter().rfind(|row| row["database"] == "pgbouncer").unwrap()["id"].clone();
    proxy.admin(&format!("KILL_CLIENT {own}"));
    assert_eq!(operator.finish().unwrap_err().db().code, "57P01");
}

#[test]
fn kill_leaves_a_paused_database_without_clients_and_servers() {
    let (db, beside) = (Db::with("CREATE TABLE t (a int)"), Db::new());
    let proxy = Spec::of(&db).also(&beside).start();
    let (mut idle, mut busy, mut running) = (proxy.client().login(), proxy.client().login(), proxy.client().login());
    let mut untouched = proxy.client_of(&beside).login();
    let server = pid(&mut untouched);
    busy.ok("BEGIN; INSERT INTO t VALUES (1)");
    running.start("SELECT pg_sleep(60)").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep").is_empty());
    proxy.admin(&format!("KILL {}", db.name));
    for wire in [&mut idle, &mut busy, &mut running] {
        assert_eq!(wire.finish().unwrap_err().db().code, "57P01");
    }
    // What they were doing is over, in Postgres too, and their servers are closed.
    eventually("no server is left", secs(5), || db.servers() == 0);
    assert!(db.running("pg_sleep").is_empty());
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
    // Paused, as in PgBouncer: who comes waits for RESUME.
    let mut next = proxy.client().login();
    next.start("SELECT 'back'").unwrap();
    assert!(next.silent(std::time::Duration::from_millis(200)), "it was not paused");
    assert_eq!(pid(&mut untouched), server, "another database was touched");
    proxy.admin(&format!("RESUME {}", db.name));
    assert_eq!(next.finish().unwrap().one(), "back");
    assert_eq!(proxy.admin_err("KILL nowhere").code, "3D000");
    // Without a name: all of them, and one that is paused already stays so.
    proxy.admin(&format!("PAUSE {}", db.name));
    proxy.admin("KILL");
    assert_eq!(untouched.finish().unwrap_err().db().code, "57P01");
    assert!(proxy.admin("SHOW DATABASES").maps().iter().all(|row| row["paused"] == "1"));
    proxy.admin("RESUME");
    proxy.still_serves();
}

#[test]
fn kill_is_refused_while_a_window_runs() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut client = proxy.client().login();
    let opened = proxy.open("w", "");
    assert_eq!(proxy.admin_err(&format!("KILL {}", db.name)).code, "55000");
    proxy.close("w", &opened["token"]);
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn a_disabled_database_refuses_log_ins_and_keeps_its_clients() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut inside = proxy.client().login();
    proxy.admin(&format!("DISABLE {}", db.name));
    let error = proxy.client().connect().err().expect("refused").db();
    assert_eq!(
        (error.severity.as_str(), error.message.as_str()),
        ("FATAL", &*format!("database \"{}\" is disabled", db.name))
    );
    assert_eq!(proxy.admin("SHOW DATABASES").maps()[0]["disabled"], "1");
    assert_eq!(inside.one("SELECT 1"), "1");
    proxy.admin(&format!("ENABLE {}", db.name));
    assert_eq!(proxy.admin("SHOW DATABASES").maps()[0]["disabled"], "0");
    proxy.still_serves();
    assert_eq!(proxy.admin_err("DISABLE nowhere").code, "3D000");
}

#[test]
fn shutdown_that_waits_for_clients_serves_them_until_they_leave() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    let (mut first, mut second) = (proxy.client().login(), proxy.client().login());
    assert_eq!(proxy.admin("SHUTDOWN WAIT_FOR_CLIENTS").tags, ["SHUTDOWN"]);
    eventually("nobody new", secs(5), || proxy.client().connect().is_err());
    first.ok("BEGIN");
    assert_eq!((first.one("SELECT 1"), second.one("SELECT 2")), ("1".to_owned(), "2".to_owned()));
    first.ok("COMMIT");
    first.close();
    assert_eq!(second.one("SELECT 3"), "3");
    assert!(proxy.running());
    second.close();
    assert!(proxy.ended(secs(10)).success());
}

#[test]
fn shutdown_that_waits_for_servers_lets_transactions_finish() {
    let db = Db::with("CREATE TABLE t (a int)");
    let mut proxy = Spec::of(&db).start();
    let (mut open, mut idle) = (proxy.client().login(), proxy.client().login());
    open.ok("BEGIN; INSERT INTO t VALUES (1)");
    assert_eq!(idle.one("SELECT 1"), "1");
    assert_eq!(proxy.admin("SHUTDOWN WAIT_FOR_SERVERS").tags, ["SHUTDOWN"]);
    // Those who rest go now.
    assert_eq!(idle.finish().unwrap_err().db().code, "57P01");
    assert!(proxy.running());
    open.ok("INSERT INTO t VALUES (2)");
    open.ok("COMMIT");
    assert_eq!(open.finish().unwrap_err().db().code, "57P01");
    assert!(proxy.ended(secs(10)).success());
    assert_eq!(db.one("SELECT count(*) FROM t"), "2");
}

#[test]
fn shutdown_timeout_bounds_the_wait_for_clients() {
    let db = Db::with("CREATE TABLE t (a int)");
    for (wait, signal) in [("SHUTDOWN WAIT_FOR_CLIENTS", None), ("", Some(Signal::SIGTERM)), ("", Some(Signal::SIGINT))]
    {
        let mut proxy = Spec::of(&db).text("shutdown_timeout", "2s").start();
        let mut client = proxy.client().login();
        client.ok("BEGIN; INSERT INTO t VALUES (1)");
        match signal {
            Some(signal) => proxy.signal(signal),
            None => drop(proxy.admin(wait)),
        }
        eventually("nobody new", secs(5), || proxy.client().connect().is_err());
        assert_eq!(client.one("SELECT 1"), "1");
        assert_eq!(client.finish().unwrap_err().db().code, "57P01");
        assert!(proxy.ended(secs(10)).success());
        assert!(proxy.log().contains("shutdown_timeout: ending although clients are connected clients=1"));
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn shutdown_at_once_is_answered() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    let mut client = proxy.client().login();
    client.ok("BEGIN");
    assert_eq!(proxy.admin("SHUTDOWN").tags, ["SHUTDOWN"]);
    assert_eq!(client.finish().unwrap_err().db().code, "57P01");
    assert!(proxy.ended(secs(10)).success());
}

/// The first client of a pool waits for the first server, of which nothing is known yet: it hears, like any other, that it is to go.
#[test]
fn who_waits_for_the_first_server_can_be_sent_away() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let db = Db::new();
    let mut proxy = Spec::of(&db).entry(&db, "host", "\"127.0.0.1\"").entry(&db, "port", &port).start();
    let comes = |proxy: &Proxy| {
        let mut wire = Wire::open(&proxy.unix_addr()).unwrap();
        wire.limit(secs(5));
        wire.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
        let there = || proxy.admin("SHOW CLIENTS").maps().into_iter().find(|row| row["database"] == db.name);
        (wire, until("it is on the list", secs(5), there)["id"].clone())
    };
    let (mut victim, id) = comes(&proxy);
    proxy.admin(&format!("KILL_CLIENT {id}"));
    let word = victim.recv().unwrap().error();
    assert_eq!((word.code.as_str(), word.message.as_str()), ("57P01", "admin forced disconnect"));
    assert_eq!(victim.recv_to_end().unwrap(), b"");
    let (mut last, _) = comes(&proxy);
    proxy.signal(Signal::SIGINT);
    assert_eq!(last.recv().unwrap().error().message, "pooler is shutting down");
    assert!(proxy.ended(secs(10)).success());
}

#[test]
fn an_operator_that_does_not_read_can_be_sent_away() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut deaf = proxy.console().login();
    let of_console = || proxy.admin("SHOW CLIENTS").maps().into_iter().filter(|row| row["database"] == "pgbouncer");
    let id = deaf.ok("SHOW CLIENTS").maps().iter().rfind(|row| row["database"] == "pgbouncer").unwrap()["id"].clone();
    deaf.send_until_full(&query("SHOW CONFIG").repeat(100));
    proxy.admin(&format!("KILL_CLIENT {id}"));
    eventually("it is off the list", secs(5), || of_console().all(|row| row["id"] != id));
}
