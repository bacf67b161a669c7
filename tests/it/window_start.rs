//! `start_within`: a good moment is waited for, a bad one holds nobody, and the end of the time is told with its reasons.

use crate::support::load::ACCOUNTS;
use crate::support::msg::DbError;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Wire;

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

#[test]
fn a_good_moment_is_waited_for() {
    let (db, proxy) = scene();
    let mut beside = db.direct().app("in the way").login();
    beside.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut window = proxy.apply("patient", "start_within='1min'", ADD);
    // It looks, and does not start; nobody is held meanwhile.
    let why = told(&mut window);
    assert!(why.contains("sessions") && why.contains("in the way"), "{why}");
    let mut client = proxy.client().login();
    assert_eq!(client.one("SELECT 1"), "1");
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 0);
    beside.ok("COMMIT");
    beside.close();
    let reply = window.finish().unwrap();
    assert_eq!(reply.maps()[0]["outcome"], "applied");
    let notices: Vec<_> = reply.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(notices.iter().any(|text| text.starts_with("try 1: drain bound 250 ms")), "{notices:?}");
    assert!(db.has_column("accounts", "extra"));
}

/// Waits until the operator is told why the window waits; what it is told.
fn told(window: &mut Wire) -> String {
    window.limit(secs(20));
    let mut notices = std::iter::repeat_with(|| DbError::parse(&window.recv_ok().unwrap().body).message);
    notices.find(|text| text.starts_with("waiting:")).unwrap()
}

#[test]
fn a_try_that_fails_is_tried_again_and_the_end_is_reported() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window("classes", "wait application=keeper").start();
    let mut keeper = db.direct().app("keeper").login();
    keeper.ok("BEGIN; LOCK TABLE accounts");
    let error = proxy.apply("vain", "apply='800ms', start_within='7s'", ADD).finish().unwrap_err().db();
    assert_eq!(error.code, "55000", "{error}");
    assert!(error.message.contains("within 7.0 s") && error.message.contains("keeper"), "{error:?}");
    assert!(error.detail.contains("try 1") && error.detail.contains("try 2"), "{error:?}");
    assert!(!db.has_column("accounts", "extra"));
    // Each try has its receipt; the id is free for the next one.
    let listed = proxy.admin("SHOW WINDOWS").maps();
    assert!(
        listed.len() >= 2 && listed.iter().all(|row| row["id"] == "vain" && row["outcome"] == "aborted"),
        "{listed:?}"
    );
    keeper.ok("COMMIT");
    keeper.close();
    assert_eq!(proxy.apply("vain", "", ADD).finish().unwrap().maps()[0]["outcome"], "applied");
    proxy.still_serves();
}

#[test]
fn what_time_does_not_mend_is_told_at_once() {
    let (db, proxy) = scene();
    let error = proxy.apply("wrong", "start_within='1h'", "ALTER TABLE nobody ADD COLUMN x int").finish().unwrap_err();
    assert_eq!(error.db().code, "42P01");
    let error = proxy.apply("vacuum", "start_within='1h'", "VACUUM").finish().unwrap_err();
    assert_eq!(error.db().code, "55000");
    assert_eq!(proxy.apply("used", "", ADD).finish().unwrap().maps()[0]["outcome"], "applied");
    let error = proxy.apply("used", "start_within='1h'", "CREATE TABLE other()").finish().unwrap_err().db();
    assert!(error.message.contains("another change was applied as used"), "{error:?}");
    // What is there already needs no good moment: this is none, by the bound.
    let mut busy = proxy.client().login();
    busy.ok("BEGIN; SELECT 1");
    let again = proxy.apply("used", "drain='1ms', start_within='1h'", ADD).finish().unwrap();
    assert_eq!(again.maps()[0]["outcome"], "already_applied");
    busy.ok("COMMIT");
    db.sql("ALTER TABLE accounts DROP COLUMN extra");
    // An operator that leaves ends the waiting.
    let mut beside = db.direct().login();
    beside.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut window = proxy.apply("gone", "start_within='1h'", ADD);
    told(&mut window);
    drop(window);
    eventually("it looks no more", secs(10), || {
        let rows = proxy.admin("SHOW CLIENTS").maps();
        rows.iter().filter(|row| row["database"] == "pgbouncer").count() <= 1
    });
    beside.close();
    assert!(!db.has_column("accounts", "extra"));
}

/// Both look once a second and begin in the same moment: whoever comes second tries again.
#[test]
fn two_who_wait_for_the_same_moment_both_get_one() {
    let (db, proxy) = scene();
    let mut beside = db.direct().login();
    beside.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut windows: Vec<Wire> = (1..=4)
        .map(|n| proxy.apply(&format!("w{n}"), "start_within='1min'", &format!("CREATE TABLE made{n}()")))
        .collect();
    windows.iter_mut().for_each(|window| drop(told(window)));
    beside.ok("COMMIT");
    beside.close();
    for mut window in windows {
        window.limit(secs(60));
        assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    }
}
