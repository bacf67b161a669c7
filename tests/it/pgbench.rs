//! pgbench, the most used load generator, in each of its modes.

use std::process::Output;

use crate::support::postgres::{Db, cluster, tool};
use crate::support::proxy::{Proxy, Spec};

fn pgbench(db: &Db, port: u16, args: &[&str]) -> Output {
    let mut command = tool("pgbench");
    command
        .env("PGPORT", port.to_string())
        .env("PGUSER", &db.user)
        .env("PGPASSWORD", &db.password)
        .args(args)
        .arg(&db.name);
    command.output().unwrap()
}

fn prepared() -> Db {
    let db = Db::new();
    let output = pgbench(&db, cluster().port(), &["-i", "-q", "-s", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    db
}

/// Runs it, and wants exit code 0, no word of an error, and every transaction done.
fn runs(db: &Db, proxy: &Proxy, clients: u32, each: u32, args: &[&str]) {
    let (clients_text, each_text) = (clients.to_string(), each.to_string());
    let mut all = vec!["-n", "-j", "2", "-c", &clients_text, "-t", &each_text];
    all.extend(args);
    let output = pgbench(db, proxy.port, &all);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbench {all:?}: {}\n{out}\n{err}", output.status);
    assert!(!err.to_lowercase().contains("error"), "pgbench {all:?}:\n{err}");
    let done = format!("transactions actually processed: {0}/{0}", clients * each);
    assert!(out.contains(&done), "pgbench {all:?}:\n{out}\n{err}");
    assert!(out.contains("number of failed transactions: 0 "), "pgbench {all:?}:\n{out}");
}

/// After TPC-B, the sums of its three tables and of its history agree.
fn books_agree(db: &Db) {
    let sums = db.one(
        "SELECT count(DISTINCT s) FROM (SELECT sum(abalance) FROM pgbench_accounts UNION ALL \
         SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT sum(tbalance) FROM pgbench_tellers \
         UNION ALL SELECT sum(delta) FROM pgbench_history) x(s)",
    );
    assert_eq!(sums, "1");
}

fn matrix(db: &Db, proxy: &Proxy, mode: &str) {
    for (clients, each) in [(1, 100), (50, 10), (200, 3)] {
        runs(db, proxy, clients, each * 5, &["-M", mode, "-S"]);
        runs(db, proxy, clients, each, &["-M", mode]);
    }
    books_agree(db);
}

#[test]
fn simple_protocol_in_transaction_mode() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).start();
    matrix(&db, &proxy, "simple");
}

#[test]
fn extended_protocol_in_transaction_mode() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).start();
    matrix(&db, &proxy, "extended");
}

#[test]
fn prepared_statements_in_session_mode() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).session().start();
    runs(&db, &proxy, 1, 100, &["-M", "prepared"]);
    runs(&db, &proxy, 10, 50, &["-M", "prepared", "-S"]);
    runs(&db, &proxy, 10, 20, &["-M", "prepared"]);
    books_agree(&db);
}

#[test]
fn more_session_clients_than_servers_take_turns() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).session().start();
    // Each transaction is a session of its own, so that the others get their turn. Not with prepared
    // statements: pgbench waits for each Parse with the whole thread, and so for its own clients.
    runs(&db, &proxy, 50, 4, &["-S", "-C"]);
}

#[test]
fn a_new_connection_for_each_transaction() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).start();
    runs(&db, &proxy, 1, 50, &["-C", "-S"]);
    runs(&db, &proxy, 50, 5, &["-C"]);
    books_agree(&db);
}

#[test]
fn by_scram_and_over_the_unix_socket() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).text("auth_type", "scram-sha-256").start();
    runs(&db, &proxy, 10, 20, &["-S"]);
    let dir = proxy.dir().to_string_lossy().into_owned();
    runs(&db, &proxy, 10, 20, &["-S", "-h", &dir]);
}

#[test]
fn five_hundred_clients_on_a_pool_of_ten() {
    let db = prepared();
    let proxy = Spec::of(&db).pool(10).start();
    runs(&db, &proxy, 500, 4, &["-S"]);
    assert!(db.servers() <= 10);
}
