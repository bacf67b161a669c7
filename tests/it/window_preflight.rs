//! What preflight has against a start: each check on a real Postgres, what an operator is told, and what force passes over.

use std::net::TcpListener;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::{Db, cluster, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Reply;

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

/// What a refused window says; it has held nobody and changed nothing.
fn refused(db: &Db, proxy: &Proxy, id: &str, with: &str) -> String {
    let error = proxy.apply(id, with, ADD).finish().unwrap_err().db();
    assert_eq!(error.code, "55000", "{error}");
    let shown = proxy.window(id);
    assert_eq!((shown["outcome"].as_str(), shown["held_total"].as_str()), ("refused", "0"));
    assert!(!db.has_column("accounts", "extra"));
    error.to_string()
}

fn applied(proxy: &Proxy, id: &str, with: &str) -> Reply {
    let reply = proxy.apply(id, with, ADD).finish().unwrap();
    assert_eq!(reply.maps()[0]["outcome"], "applied");
    reply
}

fn notices(reply: &Reply) -> String {
    reply.notices.iter().map(|notice| format!("{} {}\n", notice.severity, notice.message)).collect()
}

#[test]
fn a_session_beside_us_that_holds_a_lock_is_named_and_forced_the_change_gives_up_at_its_bound() {
    let (db, proxy) = scene();
    let mut beside = db.direct().app("night job").login();
    beside.ok("BEGIN; SELECT count(*) FROM accounts");
    let pid = beside.one("SELECT pg_backend_pid()");
    let why = refused(&db, &proxy, "beside", "");
    for part in ["sessions", &pid, &db.user, "night job", "idle in transaction", "AccessShareLock on accounts", "force"]
    {
        assert!(why.contains(part), "{part} is not named: {why}");
    }
    // Forced: the change waits for the lock up to its bound; the clients run on.
    let mut client = proxy.client().login();
    let mut window = proxy.apply("forced", "force='sessions', apply='700ms'", ADD);
    proxy.until_phase("forced", "applying");
    client.start("UPDATE accounts SET n = 1 WHERE id = 1").unwrap();
    let error = window.finish().unwrap_err().db();
    assert!(["55P03", "57014"].contains(&error.code.as_str()), "{error}");
    client.finish().unwrap();
    assert!(!db.has_column("accounts", "extra"));
    beside.ok("COMMIT");
    beside.close();
    applied(&proxy, "after", "");
}

#[test]
fn a_pg_dump_beside_us_is_named() {
    let (db, proxy) = scene();
    let dumper = String::from_utf8(tool("pg_dump").arg("--version").output().unwrap().stdout).unwrap();
    let version = |text: &str| text.split(|c: char| !c.is_ascii_digit()).find_map(|part| part.parse::<u32>().ok());
    if version(&dumper) < version(&db.one("SHOW server_version")) {
        println!("skipped: {} does not dump a newer Postgres", dumper.trim());
        return;
    }
    db.setup("CREATE TABLE locked(a int)");
    // It waits for the second table and keeps the lock on the first meanwhile.
    let mut holder = db.direct().login();
    holder.ok("BEGIN; LOCK TABLE locked");
    let mut dump = tool("pg_dump");
    dump.args(["-p", &cluster().port().to_string(), "-U", &db.user, "-f", "/dev/null", &db.name]);
    let mut dump = dump.env("PGPASSWORD", &db.password).spawn().unwrap();
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'pg_dump' AND l.relation = 'accounts'::regclass AND l.granted";
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'";
    eventually("pg_dump waits", secs(20), || db.one(waits) != "0");
    let has_lock = db.one(locks) != "0";
    let why = refused(&db, &proxy, "dump", "force='hours'");
    assert!(why.contains("pg_dump"), "{why}");
    let named = why.contains("AccessShareLock on accounts");
    assert!(named || !has_lock, "{why}");
    holder.ok("COMMIT");
    holder.close();
    assert!(dump.wait().unwrap().success());
    eventually("its session has gone", secs(10), || db.one(waits) == "0");
    applied(&proxy, "after", "");
}

#[test]
fn sessions_that_rest_or_pass_by_do_not_keep_a_window_from_starting() {
    let (db, proxy) = scene();
    let mut rests = db.direct().app("rests").login();
    rests.ok("SELECT 1");
    let mut open = db.direct().app("harmless").login();
    open.ok("BEGIN; SELECT 1");
    let told = notices(&applied(&proxy, "fine", ""));
    assert!(told.contains("WARNING") && told.contains("\"rests\""), "{told}");
    assert!(told.contains("harmless"), "{told}");
    assert!(told.contains("preflight: ok: script, hours, target"), "{told}");
    let receipt: serde_json::Value = serde_json::from_str(&proxy.window("fine")["receipt"]).unwrap();
    let lines = receipt["preflight"].as_array().unwrap();
    let found =
        |check: &str, verdict: &str| lines.iter().any(|line| line["check"] == check && line["verdict"] == verdict);
    assert!(found("sessions", "warn") && found("target", "ok"), "{receipt}");
    open.close();
    rests.close();
}

#[test]
fn a_session_that_we_may_not_look_at_is_known_by_its_locks() {
    let (db, proxy) = scene();
    let mut root = db.root().login();
    root.ok("BEGIN; LOCK TABLE accounts IN ROW SHARE MODE");
    let why = refused(&db, &proxy, "hidden", "");
    assert!(why.contains("RowShareLock on accounts") && why.contains("state unknown"), "{why}");
    let lines = proxy.window("hidden")["preflight"].clone();
    assert!(lines.contains("GRANT pg_read_all_stats"), "{lines}");
    root.close();
}

#[test]
fn classes_say_who_counts() {
    let db = Db::with(ACCOUNTS);
    let classes = "ignore application=monitor, wait application='slow *', refuse application=batch";
    let proxy = Spec::of(&db).window("classes", classes).window("long_transaction", "400ms").start();
    let mut client = proxy.client().app("batch").login();
    client.ok("BEGIN");
    let why = refused(&db, &proxy, "batch", "");
    assert!(why.contains("transactions: client") && why.contains("must not be interrupted"), "{why}");
    client.ok("COMMIT");
    client.close();
    let mut monitor = db.direct().app("monitor").login();
    monitor.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut slow = db.direct().app("slow report").login();
    slow.ok("BEGIN; SELECT count(*) FROM accounts");
    // Both stand in the change's way, but preflight has nothing against a start.
    let error = proxy.apply("waits", "apply='600ms'", ADD).finish().unwrap_err().db();
    assert!(["55P03", "57014"].contains(&error.code.as_str()), "{error}");
    let lines = proxy.window("waits")["preflight"].clone();
    assert!(lines.contains("slow report") && !lines.contains("monitor"), "{lines}");
    monitor.close();
    slow.close();
}

#[test]
fn a_transaction_through_us_that_is_too_old() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window("long_transaction", "50ms").start();
    let mut client = proxy.client().app("reports").login();
    client.ok("BEGIN");
    client.ok("SELECT pg_sleep(0.1)");
    let why = refused(&db, &proxy, "old", "");
    assert!(why.contains("transactions: client") && why.contains("reports") && why.contains("pg_sleep"), "{why}");
    let open = proxy.admin_err(&format!("WINDOW OPEN {}", db.name));
    assert!(open.to_string().contains("reports"), "WINDOW OPEN looks too: {open}");
    client.ok("COMMIT");
    applied(&proxy, "young", "");
}

#[test]
fn a_database_that_takes_no_changes_and_standbys_that_are_missing() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window_num("standbys", 1).start();
    let why = refused(&db, &proxy, "lonely", "");
    assert!(why.contains("standbys: 0 streaming") && why.contains("force='standbys'"), "{why}");
    db.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", db.name));
    let why = refused(&db, &proxy, "both", "force");
    assert!(why.contains("read-only") && !why.contains("force="), "{why}");
    let mut root = db.root().login();
    root.ok("SET default_transaction_read_only = off");
    root.ok(&format!("ALTER DATABASE {} RESET default_transaction_read_only", db.name));
    root.close();
    applied(&proxy, "forced", "force = 'standbys'");
}

#[test]
fn outside_the_allowed_hours_a_window_needs_force() {
    let db = Db::with(ACCOUNTS);
    let day = db.one("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '3 days', 'Dy')");
    let proxy = Spec::of(&db).window("windows", &format!("{day} 02:00 UTC")).start();
    let why = refused(&db, &proxy, "late", "");
    assert!(why.contains("hours: windows may start at") && why.contains("02:00 UTC only"), "{why}");
    applied(&proxy, "urgent", "force='hours'");
}

#[test]
fn each_database_of_a_window_is_looked_at_and_the_first_is_changed() {
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy = Spec::of(&db).also(&other).start();
    let also = format!("also='{}'", other.name);
    let mut beside = other.direct().app("beside the other").login();
    beside.ok("BEGIN; SELECT count(*) FROM accounts");
    let why = refused(&db, &proxy, "other", &also);
    assert!(why.contains(&other.name) && why.contains("beside the other"), "{why}");
    beside.close();
    applied(&proxy, "both", &also);
    assert!(db.has_column("accounts", "extra"));
    assert!(!other.has_column("accounts", "extra"), "it is held, not changed");
}

#[test]
fn what_is_dangerous_in_a_change_is_told_and_does_not_keep_it_from_running() {
    let (db, proxy) = scene();
    let sql = "CREATE INDEX slow ON accounts (n); ALTER TABLE accounts ALTER n TYPE bigint";
    let told = notices(&proxy.apply("lints", "", sql).finish().unwrap());
    assert!(told.contains("lint: \"CREATE INDEX slow ON accounts (n)\"") && told.contains("CONCURRENTLY"), "{told}");
    assert!(told.contains("may rewrite the table"), "{told}");
    assert_eq!(db.one("SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'accounts'::regclass AND attname = 'n'"), "bigint");
}

/// Databases are looked at all at once, and each that does not answer is named: by hand, it may be passed over.
#[test]
fn databases_that_do_not_answer_are_named_in_time_and_can_be_passed_over() {
    let (db, twin, dead) = (Db::new(), Db::new(), [Db::new(), Db::new()]);
    // Connections are taken, and nothing is ever said.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    // Two entries for one database do not take each other's looks for somebody beside them.
    let entry = [("dbname", &db.name), ("user", &db.user), ("password", &db.password)];
    let spec = Spec::of(&db).also(&twin);
    let spec = entry.iter().fold(spec, |spec, (key, value)| spec.entry(&twin, key, &format!("{value:?}")));
    let spec = dead.iter().fold(spec, |spec, dead| spec.also(dead).entry(dead, "port", &port));
    let proxy = spec.start();
    let opened = proxy.admin("WINDOW OPEN * WITH (id='all', force='target')");
    let told = notices(&opened);
    for dead in &dead {
        assert!(told.contains(&format!("target: {}", dead.name)), "{} is not named: {told}", dead.name);
    }
    assert!(!told.contains("pglull window all"), "{told}");
    proxy.close("all", &opened.maps()[0]["token"]);
}
