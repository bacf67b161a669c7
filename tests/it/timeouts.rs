//! One test for each time that a client or a server is measured by, named after its key.
//!
//! Where a client is told, the text is PgBouncer's and the code is Postgres' own for the same setting.

use crate::support::own::Own;
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{DbError, Wire};

/// What the client is told when it is disconnected: nothing else comes, and then the end.
fn last_words(wire: &mut Wire) -> DbError {
    wire.limit(secs(10));
    let word = wire.recv().expect("a word before the end").error();
    assert_eq!(word.severity, "FATAL", "{word}");
    assert_eq!(wire.recv_to_end().unwrap(), b"", "more than one word");
    word
}

fn told(wire: &mut Wire, code: &str, message: &str) {
    let word = last_words(wire);
    assert_eq!((word.code.as_str(), word.message.as_str()), (code, message), "{word}");
}

#[test]
fn client_idle_timeout_is_the_users_before_the_global_one() {
    let db = Db::new();
    let spec = Spec::of(&db).text("client_idle_timeout", "400ms").user("patient", "pw");
    let proxy = spec.user_section("patient", "client_idle_timeout = 0").start();
    let mut patient = proxy.client_as("patient").login();
    let mut idle = proxy.client().login();
    idle.ok("SELECT 1");
    told(&mut idle, "57P05", "client_idle_timeout");
    patient.ok("SELECT 1");
    assert!(patient.silent(ms(900)), "the user's own word does not count");
    patient.ok("SELECT 1");
}

#[test]
fn idle_transaction_timeout_ends_the_transaction_and_keeps_the_server() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).text("idle_transaction_timeout", "400ms").start();
    let mut other = proxy.client().login();
    let server = other.one("SELECT pg_backend_pid()");
    let mut idle = proxy.client().login();
    idle.ok("BEGIN; INSERT INTO t VALUES (1)");
    told(&mut idle, "25P03", "idle transaction timeout");
    assert_eq!(other.one("SELECT count(*) FROM t"), "0", "not rolled back");
    assert_eq!(other.one("SELECT pg_backend_pid()"), server);
    // Not idle: one that works for longer than that.
    other.ok("BEGIN");
    for _ in 0..4 {
        other.ok("SELECT pg_sleep(0.2)");
    }
    other.ok("COMMIT");
}

#[test]
fn transaction_timeout_counts_from_the_begin() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).text("transaction_timeout", "600ms").start();
    let mut busy = proxy.client().login();
    busy.ok("BEGIN; INSERT INTO t VALUES (1)");
    // Never silent for long, and over all the same.
    let error = loop {
        match busy.query("SELECT pg_sleep(0.05)") {
            Ok(_) => {}
            Err(error) => break error.db(),
        }
    };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("25P04", "transaction timeout"), "{error}");
    let mut other = proxy.client().login();
    assert_eq!(other.one("SELECT count(*) FROM t"), "0");
    // Each transaction has its own clock.
    for _ in 0..10 {
        other.ok("SELECT pg_sleep(0.1)");
    }
}

#[test]
fn query_timeout_cancels_the_query_and_keeps_the_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("query_timeout", "400ms").start();
    let mut other = proxy.client().login();
    let server = other.one("SELECT pg_backend_pid()");
    let mut long = proxy.client().login();
    long.start("SELECT pg_sleep(30)").unwrap();
    told(&mut long, "57014", "query timeout");
    eventually("nothing runs on", secs(5), || db.running("pg_sleep(30)").is_empty());
    assert_eq!(other.one("SELECT pg_backend_pid()"), server, "the server was thrown away");
    // In a transaction that lasts, each query has its own time; so has each of a pipeline.
    other.ok("BEGIN");
    for _ in 0..4 {
        other.ok("SELECT pg_sleep(0.2)");
    }
    other.ok("COMMIT");
    let pipeline: Vec<u8> = (0..4).flat_map(|_| crate::support::wire::query("SELECT pg_sleep(0.2)")).collect();
    other.send(&pipeline).unwrap();
    other.recv_until(b'Z', 4).unwrap();
}

#[test]
fn query_wait_timeout_is_the_users_then_the_databases() {
    let db = Db::new();
    let spec = Spec::of(&db).pool(1).text("query_wait_timeout", "60s").user("quick", "pw");
    let spec = spec.entry(&db, "query_wait_timeout", "\"1200ms\"");
    let proxy = spec.user_section("quick", "query_wait_timeout = \"300ms\"").start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let (mut waiter, mut quick) = (proxy.client().login(), proxy.client_as("quick").login());
    waiter.start("SELECT 1").unwrap();
    quick.start("SELECT 1").unwrap();
    let error = quick.finish().unwrap_err().db();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "53300"), "{error}");
    assert_eq!(error.message, "query_wait_timeout");
    assert!(waiter.silent(ms(300)), "the user's word is not everybody's");
    waiter.limit(secs(10));
    assert_eq!(waiter.finish().unwrap_err().db().message, "query_wait_timeout");
    // Both stay connected and are served later.
    first.ok("COMMIT");
    quick.ok("SELECT 1");
    waiter.ok("SELECT 1");
}

#[test]
fn query_wait_notify_tells_a_client_that_it_waits() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("query_wait_notify", "200ms").start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut waiter = proxy.client().login();
    waiter.start("SELECT 'served'").unwrap();
    let notice = waiter.recv().unwrap();
    assert_eq!(notice.tag, b'N');
    let notice = DbError::parse(&notice.body);
    assert_eq!(notice.severity, "NOTICE");
    assert_eq!(notice.message, "No server connection available in postgres backend, client being queued");
    assert!(waiter.silent(ms(500)), "one notice is enough");
    first.ok("COMMIT");
    assert_eq!(waiter.finish().unwrap().one(), "served");
}

#[test]
fn query_wait_notify_tells_a_held_client_why_and_how_long() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("query_wait_notify", "200ms").start();
    let mut wire = proxy.client().login();
    let row = proxy.open("w", "hold='8s'");
    wire.start("SELECT 'served'").unwrap();
    let notice = wire.recv().unwrap();
    assert_eq!(notice.tag, b'N');
    let notice = DbError::parse(&notice.body);
    assert!(notice.message.contains("change of its schema"), "{notice}");
    assert!(notice.detail.contains("goes on by itself"), "{notice}");
    proxy.close("w", &row["token"]);
    assert_eq!(wire.finish().unwrap().one(), "served");
}

#[test]
fn client_login_timeout_ends_a_log_in_that_takes_too_long() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("client_login_timeout", "3s").start();
    let mut wire = Wire::open(&proxy.client().addr).unwrap();
    let word = last_words(&mut wire);
    assert_eq!((word.code.as_str(), word.message.as_str()), ("08P01", "client_login_timeout"));
    proxy.still_serves();
}

#[test]
fn server_idle_timeout_closes_what_nobody_uses_but_the_minimum() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("server_idle_timeout", "500ms").num("min_pool_size", 1).start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client().login()).collect();
    clients.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    assert_eq!(db.servers(), 3);
    clients.iter_mut().for_each(|wire| drop(wire.ok("COMMIT")));
    eventually("one is left", secs(10), || db.servers() == 1);
    clients.iter_mut().for_each(|wire| drop(wire.ok("SELECT 1")));
}

#[test]
fn server_lifetime_of_a_database_beats_the_global_one() {
    let (short, long) = (Db::new(), Db::new());
    let spec = Spec::of(&short).also(&long).pool(1).entry(&short, "server_lifetime", "\"500ms\"");
    let proxy = spec.start();
    let pid = |db: &Db| proxy.client_of(db).login().one("SELECT pg_backend_pid()");
    let (first, other) = (pid(&short), pid(&long));
    eventually("it is replaced", secs(10), || pid(&short) != first);
    assert_eq!(pid(&long), other);
}

#[test]
fn server_check_query_is_run_on_servers_that_rested() {
    let db = Db::with("CREATE TABLE checks(a serial)");
    let spec = Spec::of(&db).pool(1).num("server_check_delay", 0);
    let proxy = spec.text("server_check_query", "INSERT INTO checks DEFAULT VALUES").start();
    let mut wire = proxy.client().login();
    for _ in 0..3 {
        wire.ok("SELECT 1");
    }
    assert_eq!(db.one("SELECT count(*) >= 3 FROM checks"), "t");
}

#[test]
fn dns_max_ttl_a_name_is_looked_up_again_and_its_servers_stay_while_it_stands_for_them() {
    let db = Db::new();
    // Where the name stands for ::1 as well, nobody listens there.
    let spec = Spec::of(&db).pool(1).entry(&db, "host", "\"localhost\"").text("dns_max_ttl", "100ms");
    let proxy = spec.start();
    let mut wire = proxy.client().login();
    let server = wire.one("SELECT pg_backend_pid()");
    // The upkeep looks once a second.
    crate::support::wait::let_run(ms(2500));
    assert_eq!(wire.one("SELECT pg_backend_pid()"), server);
}

#[test]
fn server_connect_timeout_and_server_login_retry_bound_an_outage() {
    let db = Db::new();
    // Accepts into its backlog and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let spec = Spec::of(&db).entry(&db, "port", &port);
    let proxy = spec.text("server_connect_timeout", "200ms").text("server_login_retry", "600ms").start();
    let error = proxy.client().connect().map(drop).unwrap_err().db();
    assert!(error.message.starts_with("server login has been failing, cached error: "), "{error}");
    assert!(error.message.ends_with("(server_login_retry)"), "{error}");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08001"));
    // Once that is known, nobody waits for it again.
    let begun = tokio::time::Instant::now();
    let error = proxy.client().connect().map(drop).unwrap_err().db();
    assert!(error.message.starts_with("server login has been failing"), "{error}");
    assert!(begun.elapsed() < secs(2), "{:?}", begun.elapsed());
}

/// One server more than Postgres allows is refused, and not needed in the end: that is no outage, then or later.
#[test]
fn a_refusal_of_long_ago_does_not_make_a_short_outage_a_long_one() {
    let mut own = Own::with(&[], |spec| spec.pool(2).text("server_login_retry", "4s"));
    own.direct().ok(&format!("ALTER ROLE {} CONNECTION LIMIT 1", own.db.user));
    let (mut first, mut second) = (own.proxy.client().login(), own.proxy.client().login());
    first.ok("BEGIN");
    second.start("SELECT 'served'").unwrap();
    eventually("a second server is refused", secs(10), || own.proxy.log().contains("53300"));
    first.ok("COMMIT");
    assert_eq!(second.finish().unwrap().one(), "served");
    crate::support::wait::let_run(secs(4));
    own.cluster.halt();
    first.start("SELECT 'served again'").unwrap();
    assert!(first.silent(ms(700)), "a short outage is waited for");
    own.cluster.start_again(own.cluster.port()).unwrap();
    first.limit(secs(20));
    assert_eq!(first.finish().unwrap().one(), "served again");
}
