//! Windows against somebody who tries to break them: changes that do not let go, that lie, that flood, proxies that are
//! told to end at the worst moment.

use std::process::ExitStatus;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::wait::{eventually, secs};

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int";
/// Catches every cancel and goes on.
const STUBBORN: &str = "DO $do$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); \
     EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $do$";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

#[test]
fn a_change_that_catches_its_cancel_does_not_outlive_its_window() {
    let (db, proxy) = scene();
    let mut window = proxy.apply("stubborn", "apply='500ms'", &format!("{ADD}; {STUBBORN}"));
    let error = window.finish().unwrap_err().db();
    eventually("its backend has gone", secs(5), || db.running("pg_sleep(60)").is_empty());
    assert_eq!(proxy.closed("stubborn")["outcome"], "aborted", "{error}");
    assert_eq!(proxy.client().login().one("SELECT count(*) FROM accounts"), "100");
    assert!(!db.has_column("accounts", "extra"));
}

#[test]
fn a_commit_that_catches_its_cancel_does_not_outlive_its_window() {
    let (db, proxy) = scene();
    let sql = "SET LOCAL statement_timeout = 0; \
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); \
            EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $f$; \
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f(); \
        UPDATE accounts SET n = 7 WHERE id = 1";
    let mut window = proxy.apply("late", "apply='500ms'", sql);
    window.finish().unwrap_err();
    assert_eq!(proxy.closed("late")["outcome"], "aborted");
    eventually("its backend has gone", secs(3), || db.running("COMMIT").is_empty());
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), "0");
}

#[test]
fn a_proxy_killed_in_mid_apply_leaves_no_change_behind() {
    let (db, mut proxy) = scene();
    let _window = proxy.apply("orphan", "apply='20s', hold='25s'", &format!("{ADD}; SELECT pg_sleep(60)"));
    eventually("it applies", secs(5), || !db.running("pg_sleep(60)").is_empty());
    proxy.signal(Signal::SIGKILL);
    proxy.ended(secs(5));
    eventually("nothing of it goes on", secs(5), || db.running("pg_sleep(60)").is_empty());
    assert!(!db.has_column("accounts", "extra"));
}

#[test]
fn a_commit_that_hides_from_the_check_is_never_reported_as_rolled_back() {
    let (db, proxy) = scene();
    for (at, hidden) in ["-- a note\rCOMMIT", "SELECT 1 WHERE 'x' LIKE'\\'; COMMIT; --'"].iter().enumerate() {
        let id = format!("hides{at}");
        let table = format!("before_{at}");
        let mut window = proxy.apply(&id, "", &format!("CREATE TABLE {table}(a int); {hidden}\r\n; SELECT 1/0"));
        window.finish().unwrap_err();
        let window = proxy.closed(&id);
        let there = db.one(&format!("SELECT (to_regclass('{table}') IS NOT NULL)::text")) == "true";
        assert!(!there, "{hidden:?} ran: {window:?}");
        assert_eq!(window["outcome"], "refused", "{window:?}");
    }
}

#[test]
fn a_change_that_chains_transactions_is_not_called_aborted() {
    let (db, proxy) = scene();
    // The text is built so that no check of it can see the COMMIT.
    let role = &db.user;
    db.sql(&format!("ALTER ROLE {role} SET standard_conforming_strings = off"));
    let sql = "CREATE TABLE before_it(a int); SELECT 'a\\'; SELECT '; COMMIT AND CHAIN; SELECT 1/0; --'";
    let mut window = proxy.apply("chains", "", sql);
    window.finish().unwrap_err();
    let there = db.one("SELECT (to_regclass('before_it') IS NOT NULL)::text") == "true";
    let window = proxy.closed("chains");
    assert!(!there || window["outcome"] == "unknown", "there: {there}, {window:?}");
}

#[test]
fn a_function_with_a_body_in_sql_can_be_applied() {
    let (db, proxy) = scene();
    let sql = "CREATE FUNCTION twice(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN a > 0 THEN a END; SELECT a * 2; END; \
               INSERT INTO accounts SELECT 5000, length(E'don\\'t; end it') ";
    proxy.apply("atomic", "", sql).finish().unwrap();
    assert_eq!(db.one("SELECT twice(4)"), "8");
}

#[test]
fn a_change_may_answer_with_more_than_fits_into_memory() {
    let (db, proxy) = scene();
    proxy.still_serves();
    let before = proxy.rss_kib();
    let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 200000); \
        DO $do$ BEGIN FOR i IN 1..60 LOOP RAISE NOTICE '%', repeat('n', 4000000); END LOOP; END $do$";
    proxy.apply("flood", "apply='20s', hold='25s'", sql).finish().unwrap();
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "memory grew by {grown} KiB");
    let notices = proxy.window("flood")["receipt"].len();
    assert!(notices < 200_000, "the receipt is {notices} bytes long");
    assert_eq!(db.one("SELECT 1"), "1");
}

#[test]
fn an_error_text_of_megabytes_is_cut() {
    let (_db, proxy) = scene();
    let sql = "DO $do$ BEGIN RAISE EXCEPTION '%', repeat('e', 4000000); END $do$";
    let error = proxy.apply("loud", "", sql).finish().unwrap_err().db();
    assert!(error.message.len() < 5000, "{} bytes", error.message.len());
}

#[test]
fn bounds_of_a_month_are_within_what_postgres_takes() {
    let (db, proxy) = scene();
    proxy.apply("month", "apply='30d', hold='40d', drain='30d', tenure='30d'", ADD).finish().unwrap();
    assert!(db.has_column("accounts", "extra"));
}

#[test]
fn a_change_means_the_same_in_a_database_of_another_encoding() {
    let db = Db::new();
    db.sql(&format!(
        "CREATE DATABASE {0}_latin OWNER {1} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
        db.name, db.user
    ));
    let name = format!("{}_latin", db.name);
    let proxy = Spec::of(&db).entry(&db, "dbname", &format!("{name:?}")).start();
    let sql = "CREATE TABLE t AS SELECT length('\u{e4}') AS l, '\u{e4}'::text AS v";
    proxy.apply("latin", "", sql).finish().unwrap();
    assert_eq!(proxy.client().login().one("SELECT l FROM t"), "1");
}

/// Whoever was told that a window is over may begin the next one.
#[test]
fn the_database_is_free_when_the_operator_is_told_so() {
    let (db, proxy) = scene();
    let mut wire = proxy.console().login();
    for n in 0..150 {
        wire.ok(&format!("WINDOW APPLY {} WITH (id='f{n}') AS $$ SELECT 1 $$", db.name));
        wire.ok(&format!("PAUSE {}", db.name));
        wire.ok(&format!("RESUME {}", db.name));
        wire.ok(&format!("WINDOW OPEN {} WITH (id='o{n}')", db.name));
        wire.ok(&format!("WINDOW ABORT o{n}"));
    }
}

#[test]
fn a_straggler_that_was_idle_was_not_cut_by_a_cancel() {
    let (_db, proxy) = scene();
    let mut open = proxy.client().login();
    open.ok("BEGIN; SELECT 1");
    proxy.apply("cuts", "drain='300ms', stragglers='cancel'", ADD).finish().unwrap_err();
    assert_eq!(open.ok("COMMIT").status, b'I');
    assert_eq!(proxy.closed("cuts")["cut"], "0");
}

fn clean(status: ExitStatus) {
    assert_eq!(status.code(), Some(0), "{status:?}");
}

#[test]
fn a_signal_in_each_phase_strands_nobody_and_tells_the_operator() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        for phase in ["draining", "applying"] {
            let (db, mut proxy) = scene();
            let mut open = proxy.client().login();
            if phase == "draining" {
                open.ok("BEGIN");
            }
            let mut window =
                proxy.apply("ends", "drain='20s', apply='20s', hold='25s'", &format!("{ADD}; SELECT pg_sleep(60)"));
            proxy.until_phase("ends", phase);
            let mut held = proxy.client().login();
            held.start("SELECT 'served'").unwrap();
            proxy.until_held(1);
            let start = Instant::now();
            proxy.signal(signal);
            let error = window.finish().unwrap_err().db();
            assert!(error.message.contains("shutting down"), "{signal} {phase}: {error}");
            if signal != Signal::SIGQUIT {
                assert_eq!(held.finish().unwrap().one(), "served", "{signal} {phase}");
            }
            if phase == "draining" && signal != Signal::SIGQUIT {
                open.ok("COMMIT");
            }
            if signal == Signal::SIGTERM {
                assert!(proxy.running(), "it did not wait for its clients");
                open.close();
                held.close();
            }
            clean(proxy.ended(secs(5)));
            assert!(start.elapsed() < secs(6), "{signal} {phase}: {:?}", start.elapsed());
            assert!(!db.has_column("accounts", "extra"));
            eventually("nothing of it goes on", secs(3), || db.running("pg_sleep(60)").is_empty());
        }
    }
}

#[test]
fn a_second_signal_escalates() {
    let (_db, mut proxy) = scene();
    let mut idle = proxy.client().login();
    proxy.signal(Signal::SIGTERM);
    eventually("it is shutting down", secs(5), || !proxy.http("/readyz").0.contains("200"));
    assert_eq!(idle.one("SELECT 'on'"), "on");
    assert!(proxy.running());
    proxy.signal(Signal::SIGTERM);
    clean(proxy.ended(secs(5)));
}

#[test]
fn shutdown_over_the_console_is_answered() {
    for how in ["", " WAIT_FOR_SERVERS", " WAIT_FOR_CLIENTS"] {
        let (_db, mut proxy) = scene();
        proxy.still_serves();
        let mut wire = proxy.console().login();
        let reply = wire.query(&format!("SHUTDOWN{how}")).expect("an answer");
        assert_eq!(reply.tags, ["SHUTDOWN"]);
        clean(proxy.ended(secs(5)));
    }
}

#[test]
fn a_pause_ends_with_the_process_and_its_clients_are_served() {
    let (db, mut proxy) = scene();
    proxy.admin(&format!("PAUSE {}", db.name));
    let mut held = proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    proxy.until_held(1);
    proxy.signal(Signal::SIGINT);
    assert_eq!(held.finish().unwrap().one(), "served");
    clean(proxy.ended(secs(5)));
}

#[test]
fn the_command_line_killed_in_each_phase() {
    for phase in ["draining", "applying"] {
        let (db, proxy) = scene();
        let mut open = proxy.client().login();
        if phase == "draining" {
            open.ok("BEGIN");
        }
        let socket = proxy.console_dir().join(format!(".s.PGSQL.{}", proxy.port));
        let mut cli = binary()
            .args([
                "window", "apply", &db.name, "--id", "cli", "--drain", "20s", "--apply", "20s", "--hold", "25s", "-c",
            ])
            .arg(format!("{ADD}; SELECT pg_sleep(60)"))
            .arg("--socket")
            .arg(socket)
            .spawn()
            .unwrap();
        proxy.until_phase("cli", phase);
        let mut held = proxy.client().login();
        held.start("SELECT 'served'").unwrap();
        proxy.until_held(1);
        cli.kill().unwrap();
        cli.wait().unwrap();
        held.limit(secs(3));
        assert_eq!(held.finish().unwrap().one(), "served", "{phase}");
        let window = proxy.closed("cli");
        assert_eq!(window["outcome"], "aborted", "{window:?}");
        eventually("nothing of it goes on", secs(3), || db.running("pg_sleep(60)").is_empty());
    }
}

#[test]
fn a_role_that_cannot_log_in_is_refused_and_nobody_is_held() {
    let db = Db::with(ACCOUNTS);
    for (key, value) in [("apply_user", "\"nobody_here\""), ("apply_password", "\"wrong\"")] {
        let proxy = Spec::of(&db).entry(&db, key, value).start();
        let error = proxy.apply("role", "", ADD).finish().unwrap_err().db();
        assert!(
            error.message.contains("password authentication failed") || error.message.contains("cannot connect"),
            "{error}"
        );
        let window = proxy.closed("role");
        assert_eq!((window["outcome"].as_str(), window["held_peak"].as_str()), ("refused", "0"), "{window:?}");
        proxy.still_serves();
    }
}

/// The same id twice, two operators, and every command with a token that is not its own: one definite answer each.
#[test]
fn two_operators_get_a_definite_answer_each() {
    let (db, proxy) = scene();
    let open = proxy.open("mine", "hold='20s', tenure='20s'");
    let refused = proxy.admin_err(&format!("WINDOW OPEN {} WITH (id='mine')", db.name));
    assert_eq!(refused.code, "55000", "{refused}");
    let busy = proxy.admin_err(&format!("WINDOW APPLY {} WITH (id='yours') AS $$ SELECT 1 $$", db.name));
    assert!(busy.message.contains("mine"), "{busy}");
    proxy.admin_err(&format!("PAUSE {}", db.name));
    proxy.admin_err("PAUSE");
    proxy.admin_err(&format!("RESUME {}", db.name));
    proxy.admin_err("WINDOW ABORT mine TOKEN 'x'");
    proxy.close("mine", &open["token"]);
    for command in ["CLOSE", "RENEW", "ABORT"] {
        let error = proxy.admin_err(&format!("WINDOW {command} mine TOKEN '{}'", open["token"]));
        assert!(error.message.contains("has ended"), "{error}");
    }
    proxy.still_serves();
}

/// `held = released + cancelled + left + expired + waiting`, in the console and in the metrics, over windows in a row.
#[test]
fn every_held_client_leaves_in_one_way_that_is_counted() {
    let (_db, proxy) = scene();
    for round in 1..=3_u64 {
        let id = format!("books{round}");
        let open = proxy.open(&id, "hold='20s', tenure='20s'");
        let mut wires: Vec<_> = (0..4).map(|_| proxy.client().login()).collect();
        wires.iter_mut().for_each(|wire| wire.start("SELECT 1").unwrap());
        proxy.until_held(4);
        wires[0].cancel();
        assert_eq!(wires[0].finish().unwrap_err().db().code, "57014");
        drop(wires.remove(1));
        proxy.until_held(2);
        proxy.close(&id, &open["token"]);
        wires[1..].iter_mut().for_each(|wire| drop(wire.finish().unwrap()));
        let window = proxy.window(&id);
        let count = |key: &str| window[key].parse::<u64>().unwrap();
        assert_eq!(count("held_total"), 4);
        let ends = ["released", "cancelled", "left", "expired", "held_now"].map(count);
        assert_eq!(ends, [2, 1, 1, 0, 0], "{window:?}");
        let metrics = proxy.metrics_text();
        let sum = |part: &str| -> u64 {
            let lines = metrics.lines().filter(|line| line.starts_with(part));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        assert_eq!(sum("pglull_held_total"), 4 * round, "{metrics}");
        assert_eq!(sum("pglull_held_ended_total"), 4 * round, "{metrics}");
    }
}

#[test]
fn a_hold_shorter_than_the_drain_ends_the_window_first() {
    let (_db, proxy) = scene();
    let mut open = proxy.client().app("sleeper").login();
    open.ok("BEGIN; SELECT 1");
    let start = Instant::now();
    let mut window = proxy.apply("short", "hold='600ms', drain='20s'", ADD);
    proxy.until_phase("short", "draining");
    let mut held = proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    assert_eq!(held.finish().unwrap().one(), "served");
    let error = window.finish().unwrap_err().db();
    assert!(error.message.contains("hold bound") && error.message.contains("sleeper"), "{error}");
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    assert_eq!(open.ok("COMMIT").status, b'I');
}

/// What a second operator and the first one are told when one resumes what the other still drains.
#[test]
fn resume_of_everything_while_one_database_drains_and_one_is_paused() {
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy = Spec::of(&db).also(&other).start();
    let mut open = proxy.client().login();
    open.ok("BEGIN; SELECT 1");
    let mut pause = proxy.admin_start("PAUSE");
    let mut held = proxy.client_of(&other).login();
    eventually("both are shut", secs(5), || {
        proxy.admin("SHOW WINDOWS").maps().iter().filter(|w| w["phase"] != "preflight").count() == 2
    });
    held.start("SELECT 'served'").unwrap();
    proxy.until_held(1);
    proxy.admin("RESUME");
    assert_eq!(held.finish().unwrap().one(), "served");
    assert!(pause.finish().unwrap_err().db().message.contains("RESUME"));
    open.ok("COMMIT");
    proxy.admin("PAUSE");
    proxy.admin("RESUME");
    assert_eq!(proxy.admin_err("RESUME").code, "55000");
    proxy.still_serves();
}

/// Bytes that are no text, commands without an end and prepared statements get an error, and the console goes on.
#[test]
fn nonsense_on_the_console_gets_an_error_and_no_hang() {
    use crate::support::wire::{extended, flush, msg_of, parse, sync};
    let (db, proxy) = scene();
    let mut wire = proxy.console().login();
    wire.limit(secs(5));
    wire.send(&msg_of(b'Q', b"SHOW \xff\xfe\0")).unwrap();
    assert!(wire.finish().is_err());
    for bytes in [
        [extended("SHOW \u{1}", &[]), sync()].concat(),
        [parse("", "SHOW"), flush(), sync()].concat(),
        [msg_of(b'B', b"no zero"), sync()].concat(),
        [msg_of(b'D', b"Xx\0"), sync()].concat(),
        [msg_of(b'E', b"nothing\0\0\0\0\0"), sync()].concat(),
    ] {
        wire.send(&bytes).unwrap();
        assert_eq!(wire.finish().unwrap_err().db().severity, "ERROR");
    }
    for command in [
        "WINDOW APPLY",
        "WINDOW APPLY nope AS $$ SELECT 1 $$",
        "WINDOW OPEN x WITH (hold='0s')",
        "WINDOW CLOSE x TOKEN ''",
        "PAUSE nope",
        "RESUME nope",
    ] {
        wire.query(command).expect_err(command);
    }
    let huge = format!("WINDOW APPLY {} WITH (id='huge') AS $$ SELECT '{}' $$", db.name, "x".repeat(8 << 20));
    wire.limit(secs(20));
    assert_eq!(wire.query(&huge).unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(wire.ok("SHOW VERSION").rows.len(), 1);
    proxy.still_serves();
}
