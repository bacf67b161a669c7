//! Rehearsals: what is predicted, what a fire drill measures, what a trial leaves behind (nothing), and their command line.

use std::process::Command;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Reply;

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

/// The reason of the row with this check and subject; its verdict must be as expected.
fn said(reply: &Reply, (check, subject): (&str, &str), verdict: &str) -> String {
    let rows = reply.maps();
    let row = rows.iter().find(|row| row["check"] == check && row["subject"].starts_with(subject));
    let row = row.unwrap_or_else(|| panic!("no {check} {subject}: {rows:#?}"));
    assert_eq!(row["verdict"], verdict, "{row:?}");
    row["reason"].clone()
}

/// More names at work at once than can be told apart: whom a window for some would hold besides is said before.
#[test]
fn that_clients_cannot_be_told_apart_is_said() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(1).num("max_client_conn", 3000).start();
    let rehearse = |with: &str| proxy.admin(&format!("WINDOW REHEARSE {} WITH ({with})", db.name));
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let crowd = |n| {
        let mut wire = proxy.client().param("application_name", &format!("worker {n}")).login();
        wire.start("SELECT 1").unwrap();
        wire
    };
    let mut crowd: Vec<_> = (0..999).map(crowd).collect();
    eventually("they wait", secs(20), || proxy.pools("cl_waiting") == 999);
    for with in ["users='app*'", "drain='1s'"] {
        let rows = rehearse(with).maps();
        let told = rows.iter().any(|row| row["check"] == "transactions" && row["reason"].contains("tell all apart"));
        assert_eq!(told, with.starts_with("users"), "{rows:#?}");
    }
    open.ok("COMMIT");
    for wire in &mut crowd {
        wire.finish().unwrap();
    }
    let rows = rehearse("users='app*'").maps();
    assert!(!rows.iter().any(|row| row["reason"].contains("tell all apart")), "{rows:#?}");
}

#[test]
fn a_rehearsal_looks_and_predicts_and_holds_nobody() {
    let (db, proxy) = scene();
    let mut open = proxy.client().app("open").login();
    open.ok("BEGIN");
    open.ok("SELECT pg_sleep(0.3)");
    let command = format!("WINDOW REHEARSE {} WITH (drain='100ms') AS $$ {ADD} $$", db.name);
    let reply = proxy.admin(&command);
    assert_eq!(reply.columns, ["check", "verdict", "subject", "reason"]);
    assert_eq!(reply.tags, ["WINDOW"]);
    for check in ["script", "hours", "target", "transactions", "sessions", "prepared", "standbys", "window"] {
        said(&reply, (check, ""), "ok");
    }
    let drain = said(&reply, ("drain", "predicted"), "warn");
    assert!(drain.contains("of 100 ms") && drain.contains("1 open transactions"), "{drain}");
    let stall = said(&reply, ("stall", "predicted"), "ok");
    assert!(stall.contains("nothing is known yet") && stall.contains("of 1 clients"), "{stall}");
    open.ok("COMMIT");
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 0, "a look is no window");
    assert!(!db.has_column("accounts", "extra"));
    let reply = proxy.admin(&format!("WINDOW REHEARSE {} AS $$ VACUUM $$", db.name));
    said(&reply, ("script", ""), "refuse");
    let error = proxy.admin_err("WINDOW REHEARSE nobody");
    assert_eq!(error.code, "3D000", "{error}");
}

#[test]
fn another_window_is_told() {
    let (db, proxy) = scene();
    let open = proxy.open("first", "");
    let reply = proxy.admin(&format!("WINDOW REHEARSE {} WITH (fire_drill=true)", db.name));
    let why = said(&reply, ("window", ""), "refuse");
    assert!(why.contains("first") && why.contains("holding"), "{why}");
    proxy.close("first", &open["token"]);
}

#[test]
fn a_fire_drill_really_drains_and_lets_go() {
    let (db, proxy) = scene();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let command = format!("WINDOW REHEARSE {} WITH (id='drill', fire_drill=true, drain='10s')", db.name);
    let mut drill = proxy.admin_start(&command);
    proxy.until_phase("drill", "draining");
    let mut held = proxy.client().login();
    held.start("SELECT 'held'").unwrap();
    proxy.until_held(1);
    open.ok("COMMIT");
    assert_eq!(held.finish().unwrap().one(), "held");
    let reply = drill.finish().unwrap();
    assert!(said(&reply, ("drain", "measured in window drill"), "ok").contains('s'));
    assert!(said(&reply, ("stall", "measured"), "ok").starts_with("1 held"));
    let shown = proxy.window("drill");
    assert_eq!((shown["form"].as_str(), shown["outcome"].as_str()), ("drill", "rehearsed"));
    assert!(proxy.metrics_text().contains("outcome=\"rehearsed\"} 1"));
    // One that does not drain is told, and nobody is cut.
    open.ok("BEGIN");
    let command = format!("WINDOW REHEARSE {} WITH (fire_drill=true, drain='50ms')", db.name);
    let why = said(&proxy.admin(&command), ("drill", "measured"), "refuse");
    assert!(why.contains("drain bound"), "{why}");
    open.ok("COMMIT");
}

#[test]
fn a_trial_applies_and_rolls_back_and_is_the_estimate_from_then_on() {
    let (db, proxy) = scene();
    let change = "SELECT pg_sleep(0.2); ALTER TABLE accounts ADD COLUMN extra int";
    let mut window =
        proxy.admin_start(&format!("WINDOW REHEARSE {} WITH (id='trial', rollback=true) AS $$ {change} $$", db.name));
    let reply = window.finish().unwrap();
    assert!(said(&reply, ("apply", "measured in window trial"), "ok").contains("estimate"));
    assert!(!db.has_column("accounts", "extra"));
    let shown = proxy.window("trial");
    assert_eq!((shown["form"].as_str(), shown["outcome"].as_str()), ("trial", "rehearsed"));
    assert!(shown["apply_ms"].parse::<u64>().unwrap() >= 200, "{shown:?}");
    let reply = proxy.admin(&format!("WINDOW REHEARSE {} AS $$ {change} $$", db.name));
    let stall = said(&reply, ("stall", "predicted"), "ok");
    assert!(stall.contains("as it took before"), "{stall}");
    // What COMMIT would find is found.
    db.setup("CREATE TABLE parent(a int PRIMARY KEY); CREATE TABLE child(a int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)");
    let reply =
        proxy.admin(&format!("WINDOW REHEARSE {} WITH (rollback) AS $$ INSERT INTO child VALUES (1) $$", db.name));
    let why = said(&reply, ("trial", "measured"), "refuse");
    assert!(why.contains("foreign key") && why.contains("23503"), "{why}");
    proxy.still_serves();
}

#[test]
fn the_command_line_rehearses() {
    let (db, proxy) = scene();
    let run = |args: &[&str]| {
        let socket = proxy.console_dir().join(format!(".s.PGSQL.{}", proxy.port));
        let mut command: Command = binary();
        command.args(["window", "rehearse", &db.name]).args(args).arg("--socket").arg(socket);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("predicted") && text.contains("sessions"), "{text}");
    let (code, text) = run(&["-c", "VACUUM"]);
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = run(&["-c", ADD, "--rollback", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"apply\"") && !db.has_column("accounts", "extra"), "{text}");
    assert_eq!(run(&["--rollback"]).0, Some(2));
}
