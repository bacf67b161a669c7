//! Figures say what happened: each is moved by what it is named for, in a pool of a forced user too.

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};

/// The value of the one series of this database whose name begins so.
fn figure(proxy: &Proxy, db: &Db, name: &str) -> f64 {
    let database = format!("database=\"{}\"", db.name);
    let text = proxy.metrics_text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&database));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[test]
fn queries_waits_and_cancels_are_measured_for_a_forced_user() {
    let db = Db::new();
    let forced = format!("{:?}", db.user);
    let proxy = Spec::of(&db).entry(&db, "user", &forced).user("guest", "guest pw").start();
    let mut client = proxy.client();
    client.user = "guest".to_owned();
    let mut wire = client.login();
    assert_eq!(proxy.pools("cl_active"), 1, "the client is in the forced user's pool");
    for _ in 0..3 {
        wire.ok("SELECT 1");
    }
    eventually("three queries are timed", secs(5), || figure(&proxy, &db, "pglull_query_seconds_count") >= 3.0);
    let sum = figure(&proxy, &db, "pglull_query_seconds_sum");
    assert!(sum > 0.0 && sum < 5.0, "finer than a millisecond: {sum}");
    assert!(figure(&proxy, &db, "pglull_transaction_seconds_sum") > 0.0);

    wire.start("SELECT pg_sleep(60)").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep(60)").is_empty());
    wire.cancel();
    wire.finish().unwrap_err();
    eventually("the cancel is counted", secs(5), || figure(&proxy, &db, "pglull_cancels_total") >= 1.0);
}

#[test]
fn held_time_is_no_waiting_time() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.ok("SELECT 1");
    proxy.admin(&format!("PAUSE {}", db.name));
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    eventually("it was held for a while", secs(5), || {
        let held = proxy.admin("SHOW HELD").maps();
        held.first().is_some_and(|row| row["held_ms"].parse::<u64>().unwrap() >= 400)
    });
    proxy.admin(&format!("RESUME {}", db.name));
    wire.finish().unwrap();
    eventually("the stall is counted", secs(5), || figure(&proxy, &db, "pglull_stall_seconds_sum") >= 0.4);
    let waited = figure(&proxy, &db, "pglull_wait_seconds_sum");
    assert!(waited < 0.3, "{waited}");
}
