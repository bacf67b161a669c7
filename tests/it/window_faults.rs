//! Windows that go wrong: the old schema stays, the clients run again, and the receipt says why.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::support::load::{ACCOUNTS, Load, short_work, slow_work};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{DbError, Wire};

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int";

/// A database under load.
struct Scene {
    db: Db,
    proxy: Proxy,
    load: Load,
}

impl Scene {
    fn new() -> Self {
        let db = Db::with(ACCOUNTS);
        let proxy = Spec::of(&db).pool(8).start();
        let load = Load::start(&proxy.client().app("load"), 12, short_work);
        load.progress(1);
        Self { db, proxy, load }
    }

    /// Nothing has changed, no client has seen more than a slow query, and the receipt says so.
    fn aborted(self, id: &str) -> BTreeMap<String, String> {
        let window = self.proxy.closed(id);
        assert_eq!(window["outcome"], "aborted", "{window:?}");
        assert!(!window["reason"].is_empty(), "{window:?}");
        let receipt: serde_json::Value = serde_json::from_str(&window["receipt"]).unwrap();
        assert_eq!(receipt["outcome"], "aborted", "{receipt}");
        self.load.progress(2);
        assert!(!self.db.has_column("accounts", "extra"), "half a change is there");
        assert_eq!(self.proxy.held(), 0);
        self.load.stop().assert_clean();
        // The next window is not hindered.
        self.proxy.apply("next", "", ADD).finish().unwrap();
        assert!(self.db.has_column("accounts", "extra"));
        window
    }
}

fn failed(mut window: Wire, id: &str) -> DbError {
    let error = window.finish().expect_err("the window must not be applied").db();
    let text = error.to_string();
    assert!(text.contains(id), "the window is not named: {text}");
    assert!(error.hint.contains(&format!("SHOW WINDOW {id}")), "{text}");
    error
}

#[test]
fn a_syntax_error() {
    let scene = Scene::new();
    let window = scene.proxy.apply("syntax", "", &format!("{ADD}; ALTER TABEL accounts"));
    assert_eq!(failed(window, "syntax").code, "42601");
    scene.aborted("syntax");
}

#[test]
fn an_error_in_the_second_statement_takes_back_the_first() {
    let scene = Scene::new();
    let window = scene.proxy.apply("second", "", &format!("{ADD}; SELECT 1/0"));
    assert_eq!(failed(window, "second").code, "22012");
    scene.aborted("second");
}

/// A change may not end the transaction that is its safety.
#[test]
fn a_change_that_commits_by_itself_is_not_called_applied() {
    let scene = Scene::new();
    let window = scene.proxy.apply("commits", "", &format!("CREATE TABLE before_it(a int); COMMIT; {ADD}; SELECT 1/0"));
    failed(window, "commits");
    let outcome = &scene.proxy.closed("commits")["outcome"];
    let left = scene.db.one("SELECT (to_regclass('before_it') IS NOT NULL)::text") == "true";
    assert!(outcome != "aborted" || !left, "said aborted, and the table is there");
    assert_ne!(outcome, "applied");
    scene.load.progress(2);
    scene.load.stop().assert_clean();
}

#[test]
fn a_lock_that_a_session_beside_us_holds() {
    let scene = Scene::new();
    // It comes after the start, so that a check before the start cannot see it: a client's open
    // transaction keeps the window draining meanwhile.
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN; SELECT 1");
    let start = Instant::now();
    let window = scene.proxy.apply("lock", "drain='10s', apply='1s'", ADD);
    scene.proxy.until_phase("lock", "draining");
    let mut beside = scene.db.root().login();
    beside.ok("BEGIN; LOCK TABLE accounts IN ACCESS SHARE MODE");
    open.ok("COMMIT");
    let error = failed(window, "lock");
    assert!(["55P03", "57014"].contains(&error.code.as_str()), "{error}");
    assert!(start.elapsed() < secs(6), "{:?}", start.elapsed());
    beside.ok("SELECT count(*) FROM accounts; COMMIT");
    beside.close();
    scene.aborted("lock");
}

#[test]
fn an_apply_beyond_its_budget() {
    let scene = Scene::new();
    let start = Instant::now();
    let window = scene.proxy.apply("budget", "apply='700ms'", &format!("{ADD}; SELECT pg_sleep(20)"));
    let error = failed(window, "budget");
    assert_eq!(error.code, "57014", "{error}");
    assert!(start.elapsed() < secs(4), "{:?}", start.elapsed());
    eventually("nothing of it goes on", secs(2), || scene.db.running("pg_sleep(20)").is_empty());
    let window = scene.aborted("budget");
    assert!(window["stall_max_ms"].parse::<u64>().unwrap() < 2500, "{window:?}");
}

#[test]
fn an_apply_beyond_its_budget_in_many_small_statements() {
    let scene = Scene::new();
    // No statement alone is too long.
    let sql = format!("{ADD}; {}", "SELECT pg_sleep(0.1); ".repeat(50));
    let window = scene.proxy.apply("crumbs", "apply='700ms'", &sql);
    let start = Instant::now();
    failed(window, "crumbs");
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    scene.aborted("crumbs");
}

#[test]
fn the_backend_killed_in_mid_apply() {
    let scene = Scene::new();
    let window = scene.proxy.apply("killed", "apply='10s'", &format!("{ADD}; SELECT pg_sleep(9)"));
    eventually("it applies", secs(5), || !scene.db.running("pg_sleep(9)").is_empty());
    let pid = scene.db.running("pg_sleep(9)").remove(0);
    scene.db.sql(&format!("SELECT pg_terminate_backend({pid})"));
    failed(window, "killed");
    scene.aborted("killed");
}

#[test]
fn a_transaction_that_never_ends_is_named_and_not_cut() {
    let scene = Scene::new();
    let mut open = scene.proxy.client().app("never-ends").login();
    open.ok("BEGIN");
    open.ok("UPDATE accounts SET n = 1 WHERE id = 99");
    let start = Instant::now();
    let window = scene.proxy.apply("drain", "drain='700ms'", ADD);
    scene.proxy.until_phase("drain", "draining");
    let shown = scene.proxy.admin("SHOW BLOCKERS").maps();
    let blocker = shown.iter().find(|row| row["application_name"] == "never-ends");
    let blocker = blocker.unwrap_or_else(|| panic!("not in SHOW BLOCKERS: {shown:?}"));
    assert_eq!((blocker["kind"].as_str(), blocker["state"].as_str()), ("transaction", "idle in transaction"));
    assert!(blocker["statement"].contains("UPDATE accounts"), "{blocker:?}");
    let error = failed(window, "drain");
    let took = start.elapsed();
    assert!((ms(650)..ms(2500)).contains(&took), "{took:?}");
    assert_eq!(error.code, "57014", "{error}");
    assert!(error.to_string().contains("never-ends"), "the blocker is not named: {error}");
    // It was not cut.
    assert_eq!(open.one("SELECT n FROM accounts WHERE id = 99"), "1");
    open.ok("COMMIT");
    open.close();
    let user = scene.db.user.clone();
    let window = scene.aborted("drain");
    let blockers: serde_json::Value = serde_json::from_str(&window["blockers"]).unwrap();
    let blocker = &blockers.as_array().unwrap()[0];
    assert_eq!(blocker["application_name"], "never-ends", "{blockers}");
    assert_eq!(blocker["user"], user.as_str(), "{blockers}");
    assert_eq!(window["cut"], "0");
}

#[test]
fn the_operator_gone_while_draining() {
    let scene = Scene::new();
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN");
    let window = scene.proxy.apply("gone", "drain='20s', hold='25s'", ADD);
    scene.proxy.until_phase("gone", "draining");
    drop(window);
    // The load runs again although the drain would go on for long.
    let start = Instant::now();
    scene.load.progress(2);
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    open.ok("COMMIT");
    open.close();
    scene.aborted("gone");
}

#[test]
fn the_operator_gone_while_applying() {
    let scene = Scene::new();
    let window = scene.proxy.apply("gone", "apply='20s', hold='25s'", &format!("{ADD}; SELECT pg_sleep(19)"));
    eventually("it applies", secs(5), || !scene.db.running("pg_sleep(19)").is_empty());
    drop(window);
    let start = Instant::now();
    scene.load.progress(2);
    assert!(start.elapsed() < secs(4), "{:?}", start.elapsed());
    eventually("nothing of it goes on", secs(3), || scene.db.running("pg_sleep(19)").is_empty());
    scene.aborted("gone");
}

#[test]
fn an_abort_by_another_operator() {
    for phase in ["draining", "applying"] {
        let scene = Scene::new();
        let mut open = scene.proxy.client().login();
        if phase == "draining" {
            open.ok("BEGIN");
        }
        let window =
            scene.proxy.apply("stop", "drain='20s', apply='20s', hold='25s'", &format!("{ADD}; SELECT pg_sleep(19)"));
        scene.proxy.until_phase("stop", phase);
        scene.proxy.admin("WINDOW ABORT stop");
        assert_eq!(failed(window, "stop").code, "57014");
        if phase == "draining" {
            open.ok("COMMIT");
        }
        open.close();
        scene.aborted("stop");
    }
}

#[test]
fn stragglers_cancel_cuts_the_running_query_of_the_straggler_only() {
    let scene = Scene::new();
    let mut straggler = scene.proxy.client().app("straggler").login();
    straggler.ok("BEGIN");
    straggler.start("SELECT pg_sleep(30)").unwrap();
    eventually("it runs", secs(5), || !scene.db.running("pg_sleep(30)").is_empty());
    let mut window = scene.proxy.apply("cut", "drain='500ms', stragglers='cancel'", ADD);
    straggler.limit(secs(10));
    let error = straggler.finish().unwrap_err().db();
    assert_eq!(error.code, "57014", "{error}");
    // Its transaction has failed; that ends it as soon as it says so.
    let _ = straggler.query("ROLLBACK");
    let row = window.finish().unwrap().maps().remove(0);
    assert_eq!(row["outcome"], "applied", "{row:?}");
    assert_eq!(straggler.one("SELECT 1"), "1", "cancelled, not disconnected");
    scene.load.progress(1);
    scene.load.stop().assert_clean();
    assert_eq!(
        scene.proxy.closed("cut")["cancelled"].parse::<u32>().unwrap()
            + scene.proxy.closed("cut")["cut"].parse::<u32>().unwrap(),
        1
    );
}

#[test]
fn stragglers_terminate_ends_the_straggler_only_and_names_the_window() {
    let scene = Scene::new();
    let mut idle = scene.proxy.client().app("idle").login();
    idle.ok("BEGIN; UPDATE accounts SET n = -1 WHERE id = 98");
    let mut busy = scene.proxy.client().app("busy").login();
    busy.start("SELECT pg_sleep(30)").unwrap();
    eventually("it runs", secs(5), || !scene.db.running("pg_sleep(30)").is_empty());
    let mut window = scene.proxy.apply("cutter", "drain='500ms', stragglers='terminate'", ADD);
    for (what, wire) in [("idle", &mut idle), ("busy", &mut busy)] {
        wire.limit(secs(10));
        let error = wire.recv_ok().expect_err(what).db();
        assert_eq!(error.code, "57P01", "{what}: {error}");
        assert!(error.to_string().contains("cutter"), "{what}: {error}");
        assert!(wire.recv().is_err(), "{what} goes on");
    }
    let row = window.finish().unwrap().maps().remove(0);
    assert_eq!(row["outcome"], "applied", "{row:?}");
    scene.load.progress(1);
    scene.load.stop().assert_clean();
    assert_eq!(scene.db.one("SELECT n FROM accounts WHERE id = 98"), "0");
    assert_eq!(scene.proxy.closed("cutter")["cut"], "2");
}

#[test]
fn slow_transactions_within_the_drain_are_not_stragglers() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(8).start();
    let load = Load::start(&proxy.client(), 6, slow_work);
    load.progress(1);
    proxy.apply("slow", "drain='2s', stragglers='terminate'", ADD).finish().unwrap();
    load.progress(1);
    load.stop().assert_clean();
    assert_eq!(proxy.closed("slow")["cut"], "0");
}

/// A statement that cannot run in a transaction is refused, by us or by Postgres, without harm.
#[test]
fn a_statement_that_cannot_run_in_a_transaction() {
    let scene = Scene::new();
    let mut window = scene.proxy.apply("vacuum", "", "VACUUM accounts");
    let error = window.finish().unwrap_err().db();
    assert!(["25001", "55000", "0A000"].contains(&error.code.as_str()), "{error}");
    scene.load.progress(2);
    scene.load.stop().assert_clean();
}

#[test]
fn a_window_on_a_database_that_cannot_be_reached() {
    let db = Db::new();
    let proxy = Spec::of(&db).entry(&db, "port", "1").text("server_connect_timeout", "1s").start();
    let mut window = proxy.apply("nobody", "", "SELECT 1");
    window.limit(secs(15));
    let error = window.finish().unwrap_err().db();
    assert!(error.to_string().contains("nobody"), "{error}");
    assert_eq!(proxy.held(), 0);
    assert_eq!(proxy.admin("SHOW VERSION").rows.len(), 1);
}
