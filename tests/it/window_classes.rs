//! Who is cut for a window, and who never is: the classes of clients at the drain bound, and of sessions beside us that stand
//! in the change's way. Each cut is counted, named, and told whom it was for.

use crate::support::between::{Between, Catch};
use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene(classes: &str) -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).window("classes", classes).start();
    (db, proxy)
}

/// Those whom the receipt of a window names as cut: kind, application and policy.
fn cuts(proxy: &Proxy, id: &str) -> Vec<(String, String, String)> {
    let receipt: serde_json::Value = serde_json::from_str(&proxy.closed(id)["receipt"]).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let cuts = receipt["cuts"].as_array().unwrap().iter();
    cuts.map(|cut| (text(&cut["kind"]), text(&cut["application_name"]), text(&cut["policy"]))).collect()
}

/// What the receipt of a window has to say besides.
fn notices(proxy: &Proxy, id: &str) -> String {
    let receipt: serde_json::Value = serde_json::from_str(&proxy.closed(id)["receipt"]).unwrap();
    receipt["notices"].to_string().replace("\\\"", "\"")
}

fn counted(proxy: &Proxy, policy: &str) -> bool {
    let label = format!("policy=\"{policy}\"}} 1");
    proxy.metrics_text().lines().any(|line| line.starts_with("pglull_cut_total") && line.ends_with(&label))
}

#[test]
fn a_client_is_cut_as_its_class_says_and_is_told_the_window() {
    let (db, proxy) = scene("terminate application=batch, cancel application=report");
    let mut batch = proxy.client().app("batch").login();
    batch.ok("BEGIN; UPDATE accounts SET n = -1 WHERE id = 1");
    let mut report = proxy.client().app("report").login();
    report.start("SELECT pg_sleep(30)").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep(30)").is_empty());
    let mut window = proxy.apply("sorted", "drain='300ms'", ADD);
    batch.limit(secs(10));
    let error = batch.recv_ok().expect_err("it is cut").db();
    assert_eq!(error.code, "57P01", "{error}");
    assert!(error.to_string().contains("sorted"), "{error}");
    report.limit(secs(10));
    assert_eq!(report.finish().unwrap_err().db().code, "57014");
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(report.one("SELECT 1"), "1", "cancelled, not disconnected");
    let mut named = cuts(&proxy, "sorted");
    named.sort();
    let cut = |application: &str, policy: &str| ("client".to_owned(), application.to_owned(), policy.to_owned());
    assert_eq!(named, [cut("batch", "terminate"), cut("report", "cancel")]);
    assert_eq!(proxy.window("sorted")["cut"], "2");
    assert!(counted(&proxy, "terminate") && counted(&proxy, "cancel"));
}

#[test]
fn nobody_is_cut_in_vain() {
    let (db, proxy) = scene("terminate application=batch");
    let mut batch = proxy.client().app("batch").login();
    batch.ok("BEGIN");
    let mut other = proxy.client().app("other").login();
    other.ok("BEGIN");
    let error = proxy.apply("vain", "drain='200ms'", ADD).finish().unwrap_err().db();
    assert!(error.to_string().contains("drain bound"), "{error}");
    assert_eq!(cuts(&proxy, "vain"), []);
    assert!(!db.has_column("accounts", "extra"));
    batch.ok("COMMIT");
    other.ok("COMMIT");
    // A rule that protects counts for more than the window's own policy.
    let (_db, proxy) = scene("wait application=precious");
    let mut precious = proxy.client().app("precious").login();
    precious.ok("BEGIN");
    let error = proxy.apply("kept", "drain='200ms', stragglers='terminate'", "SELECT 1").finish().unwrap_err().db();
    assert!(error.to_string().contains("precious"), "{error}");
    precious.ok("COMMIT");
}

/// A transaction counts for the name that it began under, whatever its client has called itself since.
#[test]
fn who_takes_another_name_in_mid_transaction_is_known_by_the_one_it_began_with() {
    let (db, proxy) = scene("");
    let named = |name: &str| proxy.client().param("application_name", name).login();
    let (mut job, mut web) = (named("job"), named("web-1"));
    for (wire, other) in [(&mut job, "web-7"), (&mut web, "batch")] {
        wire.ok("BEGIN");
        wire.ok(&format!("SET application_name = '{other}'"));
    }
    let found = proxy.apply("kept", "drain='300ms', applications='web*'", ADD).finish().unwrap_err().db();
    assert!(found.to_string().contains("batch") && !found.to_string().contains("web-7"), "{found}");
    let mut window = proxy.apply("cut", "drain='300ms', applications='web*', stragglers='terminate'", ADD);
    web.limit(secs(10));
    assert_eq!(web.recv_ok().expect_err("it is cut").db().code, "57P01");
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(cuts(&proxy, "cut"), [("client".into(), "batch".into(), "terminate".into())]);
    job.ok("COMMIT");
    assert!(db.has_column("accounts", "extra"));
    // The next one is what it calls itself now.
    job.ok("BEGIN");
    let mut next = proxy.apply("next", "drain='20s', applications='web*'", "SELECT 1");
    proxy.until_phase("next", "draining");
    eventually("it is waited for", secs(5), || {
        proxy.admin("SHOW BLOCKERS").maps().iter().any(|row| row["application_name"] == "web-7")
    });
    job.ok("COMMIT");
    assert_eq!(next.finish().unwrap().maps()[0]["outcome"], "applied");
}

#[test]
fn a_session_beside_us_is_cut_only_where_it_stands_in_the_way() {
    let (db, proxy) = scene("terminate application='cron*'");
    let mut way = db.direct().app("cron 1").login();
    way.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut elsewhere = db.direct().app("cron 2").login();
    elsewhere.ok("CREATE TABLE other(a int); BEGIN; INSERT INTO other VALUES (1)");
    let mut window = proxy.apply("cron", "apply='9s'", ADD);
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(way.query("SELECT 1").unwrap_err().db().code, "57P01");
    elsewhere.ok("COMMIT");
    elsewhere.close();
    assert_eq!(cuts(&proxy, "cron"), [("session".into(), "cron 1".into(), "terminate".into())]);
    assert!(counted(&proxy, "terminate"));
}

#[test]
fn a_statement_beside_us_is_cancelled() {
    let (db, proxy) = scene("cancel application=report");
    let mut report = db.direct().app("report").login();
    report.start("SELECT count(*), pg_sleep(30) FROM accounts").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep(30)").is_empty());
    let mut window = proxy.apply("report", "apply='9s'", ADD);
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(report.finish().unwrap_err().db().code, "57014");
    assert_eq!(cuts(&proxy, "report"), [("session".into(), "report".into(), "cancel".into())]);
    report.close();
}

/// The change goes on as soon as the session is gone; that it was a cut is told later, and still stands in the receipt. Nobody is
/// held for it.
#[test]
fn a_cut_whose_answer_comes_after_the_change_is_told() {
    let (db, proxy) = scene("cancel application=report");
    // The answer is kept back until we give the lock.
    db.sql(
        "ALTER FUNCTION pg_catalog.pg_cancel_backend(int) RENAME TO cancel_now; \
         CREATE FUNCTION pg_catalog.pg_cancel_backend(int) RETURNS bool STRICT LANGUAGE plpgsql AS \
         'DECLARE done bool := pg_catalog.cancel_now($1); BEGIN PERFORM pg_advisory_xact_lock(7); RETURN done; END'",
    );
    let mut answer = db.direct().login();
    answer.ok("SELECT pg_advisory_lock(7)");
    let mut report = db.direct().app("report").login();
    report.start("SELECT count(*), pg_sleep(30) FROM accounts").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep(30)").is_empty());
    let (mut busy, mut held) = (proxy.client().login(), proxy.client().login());
    busy.ok("BEGIN; SELECT 1");
    let mut window = proxy.apply("late", "drain='9s', apply='9s'", ADD);
    proxy.until_phase("late", "draining");
    held.start("SELECT min(extra) FROM accounts").unwrap();
    proxy.until_held(1);
    busy.ok("COMMIT");
    assert_eq!(held.finish().unwrap().one(), "7");
    assert_ne!(proxy.window("late")["phase"], "closed", "it waits for the answer");
    answer.ok("SELECT pg_advisory_unlock(7)");
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(report.finish().unwrap_err().db().code, "57014");
    assert_eq!(cuts(&proxy, "late"), [("session".into(), "report".into(), "cancel".into())]);
    assert_eq!(proxy.window("late")["cut"], "1");
    assert!(counted(&proxy, "cancel"));
    report.close();
    answer.close();
}

#[test]
fn whoever_keeps_the_lock_is_named_in_the_reason() {
    let (db, proxy) = scene("wait application=keeper");
    let mut keeper = db.direct().app("keeper").login();
    keeper.ok("BEGIN; LOCK TABLE accounts");
    let error = proxy.apply("named", "apply='800ms'", ADD).finish().unwrap_err().db();
    let text = error.to_string();
    assert!(text.contains("keeper") && text.contains("beside pglull") && text.contains("LOCK TABLE"), "{text}");
    let receipt: serde_json::Value = serde_json::from_str(&proxy.closed("named")["receipt"]).unwrap();
    assert_eq!(receipt["blockers"][0]["kind"], "beside", "{receipt}");
    assert_eq!(receipt["cuts"].as_array().unwrap().len(), 0);
    keeper.ok("COMMIT");
    keeper.close();
}

/// A cancel of a session that runs nothing is answered with success, and does nothing.
#[test]
fn a_session_beside_us_that_runs_nothing_is_not_called_cut() {
    let (db, proxy) = scene("cancel application=report");
    let mut report = db.direct().app("report").login();
    report.ok("BEGIN; LOCK TABLE accounts IN ACCESS SHARE MODE");
    let error = proxy.apply("idle", "apply='800ms'", ADD).finish().unwrap_err().db();
    assert!(error.to_string().contains("report"), "{error}");
    assert_eq!(cuts(&proxy, "idle"), []);
    assert_eq!(proxy.window("idle")["cut"], "0");
    assert!(!counted(&proxy, "cancel") && !db.has_column("accounts", "extra"));
    // It is looked at again: its next statement can be cancelled.
    let mut window = proxy.apply("later", "apply='9s'", ADD);
    let named = || proxy.log().matches("the change waits").count() == 2;
    eventually("it is in the way", secs(8), named);
    report.start("SELECT pg_sleep(30)").unwrap();
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(report.finish().unwrap_err().db().code, "57014");
    assert!(named(), "it is named once");
    report.close();
}

/// Whether a session was cut is not always known when the receipt is written: then it says so.
#[test]
fn a_cut_that_is_never_answered_is_told_as_such() {
    let (db, proxy) = scene("cancel application=report");
    db.sql(
        "ALTER FUNCTION pg_catalog.pg_cancel_backend(int) RENAME TO cancel_now; \
         CREATE FUNCTION pg_catalog.pg_cancel_backend(int) RETURNS bool STRICT LANGUAGE plpgsql AS \
         'DECLARE done bool := pg_catalog.cancel_now($1); BEGIN PERFORM pg_advisory_xact_lock(7); RETURN done; END'",
    );
    let mut answer = db.direct().login();
    answer.ok("SELECT pg_advisory_lock(7)");
    let mut report = db.direct().app("report").login();
    report.start("SELECT count(*), pg_sleep(30) FROM accounts").unwrap();
    eventually("it runs", secs(5), || !db.running("pg_sleep(30)").is_empty());
    let reply = proxy.apply("mute", "drain='9s', apply='9s'", ADD).finish().unwrap();
    assert_eq!(reply.maps()[0]["outcome"], "applied");
    assert_eq!(report.finish().unwrap_err().db().code, "57014");
    assert_eq!(cuts(&proxy, "mute"), []);
    let said = notices(&proxy, "mute");
    assert!(said.contains("application \"report\"") && said.contains("is not known"), "{said}");
    assert!(reply.notices.iter().any(|notice| said.contains(&notice.message)), "the operator is told too");
    report.close();
    answer.close();
}

/// The same where the change itself has not ended.
#[test]
fn a_receipt_that_is_written_before_the_change_has_ended_says_so() {
    let (db, between) = (Db::with(ACCOUNTS), Between::start());
    let spec = Spec::of(&db).text("server_tls_sslmode", "disable").window("classes", "terminate application=batch");
    let proxy = spec.entry(&db, "port", &between.port.to_string()).start();
    between.trap("\0\0\0\x0bCOMMIT\0", Catch::After);
    let mut window = proxy.apply("late", "apply='500ms'", ADD);
    between.caught();
    between.hold_answers(true);
    assert_eq!(window.finish().unwrap_err().db().code, "40003");
    assert_eq!(proxy.closed("late")["outcome"], "unknown");
    let said = notices(&proxy, "late");
    assert!(said.contains("had not ended") && said.contains("is not in here"), "{said}");
}
