//! `pglull window apply` as somebody sees it who is tired: what it shows while it runs, and what it says when it has failed.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::terminal::{Terminal, command};
use crate::support::wait::{secs, until};

#[test]
fn a_window_is_drawn_in_a_terminal_and_leaves_its_receipt() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.ok("BEGIN");
    let arguments =
        ["window", "apply", &db.name, "--id", "seen", "--drain", "20s", "--hold", "25s", "-c", "CREATE TABLE made()"];
    let mut apply = Terminal::start(command(&proxy, &arguments));
    for part in ["window seen on", "\x1b[1mdraining\x1b[0m", "of 20.0 s", "tenure", "waits for"] {
        apply.shows(part);
    }
    apply.type_in("");
    wire.ok("COMMIT");
    apply.shows("nobody was disconnected");
    let status = until("it has ended", secs(20), || apply.child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(apply.seen().contains("outcome       | applied"), "{}", apply.seen());
    let show = Terminal::start(command(&proxy, &["window", "show", "seen"]));
    show.shows("preflight         | ok script: ");
    assert!(!show.seen().contains("[{"), "{}", show.seen());
    // And its line fits the terminal.
    let list = Terminal::start(command(&proxy, &["window", "list"]));
    list.shows("pglull window show ID");
    let seen = list.seen();
    assert!(
        seen.contains("applied") && seen.contains("seen") && seen.lines().all(|line| line.chars().count() <= 80),
        "{seen}"
    );
}

#[test]
fn who_waits_for_a_good_moment_sees_why() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    // Beside pglull, and with a lock: no window starts before it has gone.
    let mut beside = db.direct().login();
    beside.ok("BEGIN; LOCK TABLE accounts");
    let arguments =
        ["window", "apply", &db.name, "--start-within", "60s", "--force", "transactions", "-c", "CREATE TABLE made()"];
    let mut apply = Terminal::start(command(&proxy, &arguments));
    apply.shows("waiting: sessions: ");
    beside.ok("ROLLBACK");
    apply.shows("try 1: drain bound");
    apply.shows("nobody was disconnected");
    assert_eq!(until("it has ended", secs(20), || apply.child.0.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn what_postgres_says_to_the_change_is_shown_in_a_terminal_too() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let apply = Terminal::start(command(&proxy, &["window", "apply", &db.name, "-c", "DROP TABLE IF EXISTS nowhere"]));
    apply.shows("does not exist, skipping");
    apply.shows("nobody was disconnected");
    assert!(!apply.seen().contains("draining (+"), "the phases are drawn: {}", apply.seen());
}

#[test]
fn a_window_is_drawn_as_wide_as_the_terminal_is_now() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.ok("BEGIN");
    let arguments = ["window", "apply", &db.name, "--drain", "20s", "--hold", "25s", "-c", "CREATE TABLE made()"];
    let mut plain = command(&proxy, &arguments);
    plain.env("NO_COLOR", "1");
    let mut apply = Terminal::start(plain);
    apply.shows("holding > applying > healing > releasing");
    apply.resize(24, 40);
    apply.type_in("");
    apply.shows("  [draining]");
    apply.shows("s of 20.0 s");
    wire.ok("COMMIT");
    apply.shows("was disconnected");
}

#[test]
fn what_was_not_begun_has_no_receipt_of_an_earlier_window() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let apply = |id: &str| {
        command(&proxy, &["window", "apply", &db.name, "--id", id, "--json", "-c", "SELECT 1"]).output().unwrap()
    };
    assert_eq!(apply("release-1").status.code(), Some(0));
    let open = proxy.open("other", "hold='30s'");
    // A pipeline that reads the receipt must not take the earlier one for the answer.
    let output = apply("release-1");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ""));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("is in window other of") && text.contains("WINDOW ABORT other"), "{text}");
    proxy.close("other", &open["token"]);
    let output = apply("other");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SHOW WINDOW other has"));
}

fn failed(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = command(proxy, arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[test]
fn who_failed_is_told_what_is_the_case_and_what_to_do() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let name = db.name.as_str();
    let text = failed(&proxy, &["window", "apply", name, "-c", "ALTER TABLE nowhere ADD x int"]);
    assert!(text.contains("the old schema stays, and the clients go on"), "{text}");
    assert!(text.contains("next: mend the change"), "{text}");
    assert_eq!(text.matches("42P01").count(), 1, "{text}");
    assert!(!text.contains("SHOW WINDOW"), "the receipt was shown: {text}");
    let mut wire = proxy.client().login();
    wire.ok("BEGIN");
    let text = failed(&proxy, &["window", "apply", name, "--drain", "100ms", "-c", "SELECT 1"]);
    assert!(text.contains(&format!("next: `pglull window blockers {name}`")), "{text}");
    wire.ok("COMMIT");
    let text = failed(&proxy, &["window", "apply", name, "-c", "VACUUM"]);
    assert!(text.contains("nobody was held, and nothing is changed"), "{text}");
    // Of a command only the command knows what it has left.
    let text = failed(&proxy, &["window", "apply", name, "--id", "by-hand", "--", "false"]);
    assert!(
        text.contains("pglull: window by-hand aborted: aborted by the operator: the command ended with exit code 1"),
        "{text}"
    );
    assert!(
        text.contains("What the command has committed by itself is there") && !text.contains("old schema"),
        "{text}"
    );
}
