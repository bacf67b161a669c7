//! A window from the clients' side: who is held, who is not, and how each is treated meanwhile.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Wire, bind, execute, extended, flush, parse, sync};

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

#[test]
fn apply_on_a_quiet_database_answers_with_one_row_and_its_receipt() {
    let (db, proxy) = scene();
    let mut window = proxy.apply("quiet", "", ADD);
    let reply = window.finish().unwrap();
    assert_eq!(
        reply.columns,
        ["id", "outcome", "reason", "drain_ms", "hold_ms", "apply_ms", "held_peak", "stall_max_ms"]
    );
    let row = &reply.maps()[0];
    assert_eq!((row["id"].as_str(), row["outcome"].as_str()), ("quiet", "applied"));
    assert_eq!(reply.tags, ["WINDOW"]);
    assert!(!reply.notices.is_empty(), "progress comes as notices");
    assert!(db.has_column("accounts", "extra"));
    let shown = proxy.window("quiet");
    assert_eq!((shown["phase"].as_str(), shown["outcome"].as_str()), ("closed", "applied"));
    assert_eq!((shown["form"].as_str(), shown["database"].as_str()), ("apply", db.name.as_str()));
    assert_eq!(shown["change_sha256"].len(), 64, "{shown:?}");
    let receipt: serde_json::Value = serde_json::from_str(&shown["receipt"]).unwrap();
    assert!(receipt.is_object());
    let listed = proxy.admin("SHOW WINDOWS").maps();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["outcome"].as_str()), ("quiet", "applied"));
    proxy.still_serves();
}

#[test]
fn the_change_is_one_transaction() {
    let (db, proxy) = scene();
    let mut window = proxy.apply(
        "one",
        "",
        "CREATE TABLE a AS SELECT txid_current() AS x; CREATE TABLE b AS SELECT txid_current() AS x",
    );
    window.finish().unwrap();
    assert_eq!(db.one("SELECT count(DISTINCT x) FROM (SELECT x FROM a UNION ALL SELECT x FROM b) u"), "1");
}

#[test]
fn an_open_transaction_finishes_first_and_new_ones_wait() {
    let (db, proxy) = scene();
    let mut open = proxy.client().app("open").login();
    open.ok("BEGIN; UPDATE accounts SET n = 1 WHERE id = 1");
    let mut window = proxy.apply("drain", "drain='10s'", ADD);
    proxy.until_phase("drain", "draining");
    let mut late = proxy.client().app("late").login();
    late.start("SELECT extra FROM accounts WHERE id = 1").unwrap();
    proxy.until_held(1);
    let held = proxy.admin("SHOW HELD").maps().remove(0);
    assert_eq!((held["application_name"].as_str(), held["window"].as_str()), ("late", "drain"));
    assert_eq!(proxy.window("drain")["open_transactions"], "1");
    // The open transaction goes on as if nothing were.
    for n in 0..5 {
        open.ok(&format!("UPDATE accounts SET n = {n} WHERE id = 1"));
    }
    assert!(!db.has_column("accounts", "extra"));
    assert_eq!(open.ok("COMMIT").status, b'I');
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(late.finish().unwrap().one(), "7", "the late query sees the new schema");
    assert_eq!(proxy.held(), 0);
    let shown = proxy.window("drain");
    assert_eq!((shown["held_peak"].as_str(), shown["released"].as_str()), ("1", "1"));
    assert_eq!(open.one("SELECT n FROM accounts WHERE id = 1"), "4");
}

#[test]
fn nothing_of_a_client_is_open_while_the_change_applies() {
    let (db, proxy) = scene();
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client().login()).collect();
    let mut window = proxy.apply("solo", "", "SELECT pg_sleep(0.5); CREATE TABLE seen AS SELECT count(*) AS others FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR state <> 'idle') AND backend_type = 'client backend'");
    proxy.until_phase("solo", "applying");
    for wire in &mut clients {
        wire.start("UPDATE accounts SET n = n + 1 WHERE id = 1").unwrap();
    }
    proxy.until_held(4);
    window.finish().unwrap();
    for wire in &mut clients {
        wire.finish().unwrap();
    }
    assert_eq!(db.one("SELECT others FROM seen"), "0");
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), "4");
}

#[test]
fn other_databases_do_not_feel_it() {
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy = Spec::of(&db).also(&other).start();
    let open = proxy.open("here", "");
    let mut there = proxy.client_of(&other).login();
    there.limit(secs(3));
    assert_eq!(there.one("SELECT 'free'"), "free");
    let mut here = proxy.client().login();
    here.start("SELECT 1").unwrap();
    proxy.until_held(1);
    assert_eq!(proxy.admin(&format!("SHOW HELD {}", other.name)).rows.len(), 0);
    assert_eq!(proxy.admin(&format!("SHOW HELD {}", db.name)).rows.len(), 1);
    proxy.close("here", &open["token"]);
    here.finish().unwrap();
}

#[test]
fn a_held_client_that_cancels_is_answered_and_its_query_never_runs() {
    let (db, proxy) = scene();
    let open = proxy.open("cancels", "");
    let mut wire = proxy.client().login();
    wire.start("UPDATE accounts SET n = 99").unwrap();
    proxy.until_held(1);
    wire.cancel();
    wire.limit(secs(2));
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
    assert_eq!(proxy.held(), 0);
    // It may ask again, and is held again.
    wire.limit(secs(20));
    wire.start("SELECT 'later'").unwrap();
    proxy.until_held(1);
    proxy.close("cancels", &open["token"]);
    assert_eq!(wire.finish().unwrap().one(), "later");
    assert_eq!(db.one("SELECT max(n) FROM accounts"), "0");
    assert_eq!(proxy.window("cancels")["cancelled"], "1");
}

#[test]
fn a_held_client_that_leaves_is_forgotten_and_its_insert_never_runs() {
    let (db, proxy) = scene();
    let open = proxy.open("leavers", "");
    let insert = "INSERT INTO accounts VALUES (1000, 0)";
    let mut by_query = proxy.client().login();
    by_query.start(insert).unwrap();
    let mut by_batch = proxy.client().login();
    by_batch.send(&[extended(insert, &[]), sync()].concat()).unwrap();
    let mut by_goodbye = proxy.client().login();
    by_goodbye.start(insert).unwrap();
    proxy.until_held(3);
    by_goodbye.send(&crate::support::wire::msg_of(b'X', b"")).unwrap();
    drop((by_query, by_batch, by_goodbye));
    proxy.until_held(0);
    proxy.close("leavers", &open["token"]);
    proxy.still_serves();
    assert_eq!(db.one("SELECT count(*) FROM accounts WHERE id = 1000"), "0");
    assert_eq!(proxy.window("leavers")["left"], "3");
}

#[test]
fn a_login_while_held_completes() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    // Also before any client has come: then no server is there from which to learn the parameters.
    let open = proxy.open("logins", "");
    let mut target = proxy.client();
    for _ in 0..3 {
        let mut wire = target.login();
        assert!(wire.params.iter().any(|(name, _)| name == "server_version"));
        wire.start("SELECT 1").unwrap();
        proxy.until_held(1);
        drop(wire);
        proxy.until_held(0);
    }
    target.password = "wrong".to_owned();
    assert_eq!(target.connect().err().unwrap().db().code, "28P01");
    proxy.close("logins", &open["token"]);
}

#[test]
fn a_session_mode_client_is_held_at_its_boundary_and_keeps_its_session() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).session().start();
    let mut idle = proxy.client().login();
    idle.ok("CREATE TEMP TABLE mine(a int); SET work_mem = '7MB'");
    let server = idle.one("SELECT pg_backend_pid()");
    let mut busy = proxy.client().login();
    busy.ok("BEGIN");

    let mut window = proxy.apply("session", "drain='10s'", &format!("SELECT pg_sleep(1); {ADD}"));
    proxy.until_phase("session", "draining");
    idle.start("SELECT extra FROM accounts WHERE id = 1").unwrap();
    proxy.until_held(1);
    busy.ok("UPDATE accounts SET n = 1 WHERE id = 1; COMMIT");
    busy.start("SELECT 1").unwrap();
    proxy.until_held(2);
    window.finish().unwrap();
    assert_eq!(idle.finish().unwrap().one(), "7");
    busy.finish().unwrap();
    assert_eq!(idle.one("SELECT pg_backend_pid()"), server);
    assert_eq!(idle.one("SHOW work_mem"), "7MB");
    idle.ok("SELECT * FROM mine");
}

#[test]
fn a_batch_without_sync_is_an_open_transaction() {
    let (db, proxy) = scene();
    let mut wire = proxy.client().app("half").login();
    wire.send(
        &[parse("", "UPDATE accounts SET n = 5 WHERE id = 1"), bind("", "", &[]), execute("", 0), flush()].concat(),
    )
    .unwrap();
    wire.recv_until(b'C', 1).unwrap();
    let mut window = proxy.apply("half", "drain='10s'", ADD);
    proxy.until_phase("half", "draining");
    // The rest of the batch goes through: a batch is never split by a gate.
    wire.send(&[bind("", "", &[]), execute("", 0), flush()].concat()).unwrap();
    wire.limit(secs(3));
    wire.recv_until(b'C', 1).unwrap();
    assert!(!db.has_column("accounts", "extra"));
    wire.send(&sync()).unwrap();
    wire.recv_until(b'Z', 1).unwrap();
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
}

#[test]
fn a_message_that_arrives_in_two_halves_around_the_window_runs_once() {
    let (db, proxy) = scene();
    let mut wire = proxy.client().login();
    let bytes = crate::support::wire::query("UPDATE accounts SET n = n + 1 WHERE id = 1");
    let open = proxy.open("halves", "");
    wire.send(&bytes[..9]).unwrap();
    proxy.admin("SHOW HELD");
    wire.send(&bytes[9..]).unwrap();
    proxy.until_held(1);
    proxy.close("halves", &open["token"]);
    wire.finish().unwrap();
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), "1");
}

/// A client that goes on sending while it is held is not read beyond a buffer.
#[test]
fn a_held_client_that_keeps_sending_costs_no_memory() {
    let (db, proxy) = scene();
    let open = proxy.open("flood", "hold='20s', tenure='25s'");
    let before = proxy.rss_kib();
    let mut wire = proxy.client().login();
    let flood = std::thread::spawn(move || {
        let value = "z".repeat(1 << 20);
        let batch = [extended("SELECT length($1)", &[&value]), sync()].concat();
        let mut sent = 0;
        for _ in 0..64 {
            wire.send(&batch).expect("the flood was cut");
            sent += 1;
        }
        (wire, sent)
    });
    proxy.until_held(1);
    crate::support::wait::let_run(ms(500));
    let grown = proxy.rss_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "memory grew by {grown} KiB");
    assert!(!flood.is_finished(), "64 MiB were taken from a held client");
    proxy.close("flood", &open["token"]);
    // Its answers are small; they fit into the socket's buffers while it sends.
    let (mut wire, sent) = flood.join().unwrap();
    wire.recv_until(b'Z', sent).unwrap();
    assert_eq!(db.one("SELECT 1"), "1");
}

#[test]
fn statements_that_were_prepared_before_see_the_new_schema() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).session().start();
    let mut wire = proxy.client().login();
    wire.send(&[parse("plan", "UPDATE accounts SET n = n + 1 WHERE id = $1"), sync()].concat()).unwrap();
    wire.recv_until(b'Z', 1).unwrap();
    proxy.apply("plans", "", ADD).finish().unwrap();
    wire.send(&[bind("", "plan", &[Some(b"1")]), execute("", 0), sync()].concat()).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    assert!(answer.iter().all(|msg| msg.tag != b'E'), "{answer:?}");
}

/// The clocks of a client stand still while it is held.
#[test]
fn a_hold_is_longer_than_query_wait_timeout_and_nobody_is_told_so() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).text("query_wait_timeout", "300ms").text("client_idle_timeout", "700ms").start();
    let open = proxy.open("clocks", "");
    let mut wire = proxy.client().login();
    wire.start("SELECT 'patient'").unwrap();
    proxy.until_held(1);
    assert!(wire.silent(ms(1000)), "something came while held");
    proxy.close("clocks", &open["token"]);
    assert_eq!(wire.finish().unwrap().one(), "patient");
}

#[test]
fn a_server_that_dies_in_the_hold_is_replaced_unnoticed() {
    let (db, proxy) = scene();
    let mut wire = proxy.client().login();
    let server = wire.one("SELECT pg_backend_pid()");
    let open = proxy.open("dies", "");
    wire.start("SELECT pg_backend_pid()").unwrap();
    proxy.until_held(1);
    db.sql(&format!("SELECT pg_terminate_backend({server})"));
    eventually("it is gone", secs(5), || {
        db.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {server}")) == "0"
    });
    proxy.close("dies", &open["token"]);
    assert_ne!(wire.finish().expect("the held client notices nothing").one(), server);
}

#[test]
fn the_console_and_metrics_answer_while_held() {
    let (_db, proxy) = scene();
    let open = proxy.open("seen", "");
    let mut wire: Wire = proxy.client().login();
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    for command in ["SHOW POOLS", "SHOW CLIENTS", "SHOW WINDOWS", "SHOW HELD", "SHOW BLOCKERS", "SHOW STATS"] {
        proxy.admin(command);
    }
    let metrics = proxy.metrics_text();
    let held =
        metrics.lines().find(|line| line.starts_with("pglull_") && line.contains("held") && line.ends_with(" 1"));
    assert!(held.is_some(), "no metric says that one client is held:\n{metrics}");
    assert!(proxy.http("/healthz").0.contains("200"));
    proxy.close("seen", &open["token"]);
    wire.finish().unwrap();
}
