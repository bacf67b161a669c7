//! A change is applied once, whoever tries again: its id and hash stand in a table of the database.

use crate::support::between::{Between, Catch, Fate};
use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::secs;

/// The whole message but its type, which no other of ours ends with.
const COMMIT: &str = "\0\0\0\x0bCOMMIT\0";
const COUNT: &str = "UPDATE accounts SET n = n + 1 WHERE id = 1";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

fn times(db: &Db) -> String {
    db.one("SELECT n FROM accounts WHERE id = 1")
}

/// Applies it and gives the row of the answer.
fn applied(proxy: &Proxy, id: &str, sql: &str) -> (String, String) {
    let row = proxy.apply(id, "", sql).finish().unwrap().maps().remove(0);
    (row["outcome"].clone(), row["reason"].clone())
}

#[test]
fn the_change_is_noted_in_its_own_transaction() {
    let (db, proxy) = scene();
    applied(&proxy, "noted", &format!("{COUNT}; CREATE TABLE own AS SELECT pg_current_xact_id()::text AS x"));
    let row = "SELECT id || ' ' || (xmin::text = (SELECT x FROM own))::text || ' ' || (applied_at >= began_at)::text FROM pglull.change";
    assert_eq!(db.one(row), "noted true true");
    assert_eq!(db.one("SELECT sha256 FROM pglull.change"), proxy.window("noted")["change_sha256"]);
    assert_eq!(db.one("SELECT owner FROM pglull.change"), proxy.window("noted")["owner"]);
    // What is rolled back leaves nothing.
    proxy.apply("failed", "", "SELECT 1/0").finish().unwrap_err();
    assert_eq!(db.one("SELECT count(*) FROM pglull.change"), "1");
}

#[test]
fn the_same_change_again_is_already_applied_and_holds_nobody() {
    let (db, proxy) = scene();
    assert_eq!(applied(&proxy, "once", COUNT).0, "applied");
    // A transaction that would keep it from draining does not matter: nobody is held.
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let mut again = proxy.apply("once", "drain='60s', hold='90s'", COUNT);
    again.limit(secs(5));
    let row = again.finish().unwrap().maps().remove(0);
    assert_eq!(row["outcome"], "already_applied");
    assert!(row["reason"].starts_with("already applied at 20"), "{row:?}");
    let shown = proxy.closed("once");
    assert_eq!((shown["outcome"].as_str(), shown["held_total"].as_str()), ("already_applied", "0"));
    open.ok("COMMIT");
    assert_eq!(times(&db), "1");
    // And so says another proxy, which knows of the first one only what the database knows.
    let other = Spec::of(&db).start();
    assert_eq!(applied(&other, "once", COUNT).0, "already_applied");
    assert_eq!(times(&db), "1");
    let metric = "pglull_windows_ended_total";
    assert!(proxy.metrics_text().lines().any(|line| line.starts_with(metric) && line.contains("already_applied")));
}

#[test]
fn another_change_under_the_same_id_is_refused() {
    let (db, proxy) = scene();
    applied(&proxy, "mine", COUNT);
    let error = proxy.apply("mine", "", &format!("{COUNT}; {COUNT}")).finish().unwrap_err().db();
    assert_eq!(error.code, "55000", "{error}");
    assert!(error.message.contains("another change was applied as mine at 20"), "{error}");
    assert_eq!(times(&db), "1");
}

#[test]
fn a_change_that_failed_may_be_tried_again_under_its_id() {
    let (db, proxy) = scene();
    proxy.apply("try", "", &format!("{COUNT}; SELECT n FROM later")).finish().unwrap_err();
    proxy.apply("try", "", "SELECT 1; VACUUM").finish().unwrap_err();
    db.setup("CREATE TABLE later (n int)");
    assert_eq!(applied(&proxy, "try", &format!("{COUNT}; SELECT n FROM later")).0, "applied");
    assert_eq!(proxy.closed("try")["outcome"], "applied", "the last one with this id is shown");
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 3);
}

/// Their proxies know nothing of each other, and no table is there yet.
#[test]
fn two_proxies_with_the_same_change_apply_it_once() {
    let db = Db::with(ACCOUNTS);
    let proxies = [Spec::of(&db).start(), Spec::of(&db).start()];
    for round in 0..5 {
        let id = format!("both-{round}");
        let mut windows =
            proxies.each_ref().map(|proxy| proxy.apply(&id, "", &format!("{COUNT}; SELECT pg_sleep(0.1)")));
        let outcomes: Vec<String> = windows
            .iter_mut()
            .map(|window| match window.finish() {
                Ok(reply) => reply.maps()[0]["outcome"].clone(),
                Err(error) => error.db().message,
            })
            .collect();
        assert_eq!(times(&db), (round + 1).to_string(), "{outcomes:?}");
        assert!(outcomes.contains(&"applied".to_owned()), "{outcomes:?}");
        let other = |text: &String| text == "already_applied" || text.contains("meanwhile by somebody else");
        assert!(outcomes.iter().any(other), "{outcomes:?}");
    }
    assert_eq!(db.one("SELECT count(*) FROM pglull.change"), "5");
}

/// The owner of nothing: it may change a table, but create no schema.
#[test]
fn a_role_that_may_not_create_the_table_is_told_what_to_do() {
    let (db, _) = scene();
    let role = format!("{}_changer", db.user);
    db.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT ALL ON accounts TO {role}"));
    let spec = Spec::of(&db).entry(&db, "apply_user", &format!("{role:?}")).entry(&db, "apply_password", "\"pw\"");
    let proxy = spec.clone().start();
    let error = proxy.apply("first", "", COUNT).finish().unwrap_err().db();
    assert_eq!(proxy.closed("first")["outcome"], "refused");
    assert!(error.message.contains(&format!("not there for role \"{role}\"")), "{error}");
    let remedy =
        error.message.split("may run once: ").nth(1).and_then(|rest| rest.split("; or set change_table").next());
    db.sql(remedy.unwrap_or_else(|| panic!("no remedy: {error}")));
    assert_eq!(applied(&proxy, "first", COUNT).0, "applied");
    assert_eq!(applied(&proxy, "first", COUNT).0, "already_applied");
    // A right that is missing is seen before anybody is held, too.
    db.sql(&format!("REVOKE UPDATE ON pglull.change FROM {role}"));
    let error = proxy.apply("second", "", COUNT).finish().unwrap_err().db();
    assert_eq!((error.code.as_str(), proxy.closed("second")["outcome"].as_str()), ("55000", "refused"));
    drop(proxy);
    db.sql("DROP SCHEMA pglull CASCADE");
    let proxy = spec.window("change_table", "").start();
    assert_eq!(applied(&proxy, "third", COUNT).0, "applied");
    assert_eq!(db.one("SELECT (to_regnamespace('pglull') IS NULL)::text"), "true");
    // Without the table, an id that was applied is spent.
    assert!(proxy.apply("third", "", COUNT).finish().unwrap_err().db().message.contains("already"));
    drop(proxy);
    db.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn the_table_has_the_name_that_the_configuration_gives_it() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window("change_table", "public.Done \\ it's").start();
    assert_eq!(applied(&proxy, "named", COUNT).0, "applied");
    assert_eq!(applied(&proxy, "named", COUNT).0, "already_applied");
    assert_eq!(db.one("SELECT id FROM public.\"Done \\ it's\""), "named");
}

/// The text is built so that no check of it can see the COMMIT.
#[test]
fn a_change_that_ended_its_own_transaction_is_not_run_again_blindly() {
    let (db, proxy) = scene();
    db.sql(&format!("ALTER ROLE {} SET standard_conforming_strings = off", db.user));
    let sql = format!("{COUNT}; SELECT 'a\\'; SELECT '; COMMIT AND CHAIN; SELECT 1/0; --'");
    proxy.apply("half", "", &sql).finish().unwrap_err();
    assert_eq!(proxy.closed("half")["outcome"], "unknown");
    let error = proxy.apply("half", "", &sql).finish().unwrap_err().db();
    assert!(error.message.contains("part of it may be committed"), "{error}");
    assert_eq!(times(&db), "1");
    // The way out that it names.
    let remedy = error.message.split("to let it run again: ").nth(1).unwrap().to_owned();
    db.sql(remedy.split(':').next().unwrap());
    assert_eq!(applied(&proxy, "half", COUNT).0, "applied");
}

/// A change may take another role, and leave it.
#[test]
fn a_change_that_takes_another_role_is_noted_all_the_same() {
    let (db, proxy) = scene();
    let role = format!("{}_other", db.user);
    db.sql(&format!("CREATE ROLE {role}; GRANT {role} TO {}; GRANT UPDATE, SELECT ON accounts TO {role}", db.user));
    assert_eq!(applied(&proxy, "role", &format!("SET LOCAL ROLE {role}; {COUNT}")).0, "applied");
    assert_eq!(applied(&proxy, "role", &format!("SET LOCAL ROLE {role}; {COUNT}")).0, "already_applied");
    proxy.apply("thief", "", "DELETE FROM pglull.change").finish().unwrap_err();
    assert_eq!(proxy.closed("thief")["outcome"], "aborted");
    assert_eq!(db.one("SELECT count(*) FROM pglull.change"), "1");
    db.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// The connection is lost around COMMIT: only the database knows on which side of it.
#[test]
fn a_lost_answer_to_commit_is_found_in_the_table() {
    for (catch, outcome) in [(Catch::Before, "aborted"), (Catch::After, "applied")] {
        for table in ["pglull.change", ""] {
            let (db, between) = (Db::with(ACCOUNTS), Between::start());
            let spec = Spec::of(&db).text("server_tls_sslmode", "disable").window("change_table", table);
            let proxy = spec.entry(&db, "port", &between.port.to_string()).start();
            between.trap(COMMIT, catch);
            let mut window = proxy.apply("lost", "", COUNT);
            between.caught();
            between.fate(Fate::IsLost);
            let answer = window.finish();
            assert_eq!(proxy.closed("lost")["outcome"], outcome, "{catch:?} {table:?}: {answer:?}");
            assert_eq!(answer.is_ok(), catch == Catch::After);
            assert_eq!(times(&db), u8::from(catch == Catch::After).to_string());
        }
    }
}

/// What is only rehearsed, and what was given up, leaves the id to the change itself.
#[test]
fn an_id_is_used_up_only_by_what_has_changed_something() {
    let (db, proxy) = scene();
    proxy.admin(&format!("WINDOW REHEARSE {} WITH (id='trial', rollback) AS $$ {COUNT} $$", db.name));
    assert_eq!(proxy.closed("trial")["outcome"], "rehearsed");
    proxy.admin(&format!("WINDOW REHEARSE {} WITH (id='trial', fire_drill)", db.name));
    assert_eq!(applied(&proxy, "trial", COUNT).0, "applied");
    // By hand, once nobody keeps it from draining.
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let command = format!("WINDOW OPEN {} WITH (id='hand', drain='50ms')", db.name);
    assert!(proxy.admin_err(&command).message.contains("drain bound"));
    open.ok("COMMIT");
    let row = proxy.admin(&command).maps().remove(0);
    proxy.admin("WINDOW ABORT hand");
    let again = proxy.admin(&command).maps().remove(0);
    assert_ne!(row["token"], again["token"]);
    proxy.close("hand", &again["token"]);
    // What was done is not done again.
    assert!(proxy.admin_err(&command).message.contains("already"));
    let error = proxy.admin_err(&format!("WINDOW OPEN {} WITH (id='trial')", db.name));
    assert!(error.message.contains("already"), "{error}");
    assert_eq!(times(&db), "1");
}
