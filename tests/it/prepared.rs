//! Prepared statements in transaction mode: they follow their client from server to server.

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wire::{DbError, Wire, bind, close, describe, execute, flush, parse, query, sync};

/// Runs a statement that was prepared; what it answers, or the error.
pub(crate) fn run(wire: &mut Wire, name: &str, values: &[Option<&[u8]>]) -> Result<Vec<Vec<Option<String>>>, DbError> {
    wire.send(&[bind("", name, values), execute("", 0), sync()].concat()).unwrap();
    rows(wire)
}

pub(crate) fn rows(wire: &mut Wire) -> Result<Vec<Vec<Option<String>>>, DbError> {
    let answer = wire.recv_until(b'Z', 1).unwrap();
    match answer.iter().find(|msg| msg.tag == b'E') {
        Some(error) => Err(error.error()),
        None => Ok(answer.iter().filter(|msg| msg.tag == b'D').map(|msg| msg.values()).collect()),
    }
}

pub(crate) fn one(wire: &mut Wire, name: &str) -> String {
    run(wire, name, &[]).unwrap()[0][0].clone().unwrap()
}

pub(crate) fn prepare(wire: &mut Wire, name: &str, sql: &str) {
    wire.send(&[parse(name, sql), sync()].concat()).unwrap();
    let tags: Vec<u8> = wire.recv_until(b'Z', 1).unwrap().iter().map(|msg| msg.tag).collect();
    assert_eq!(tags, b"1Z", "{name}: {sql}");
}

/// A client that keeps the only other server busy.
pub(crate) fn blocker(proxy: &Proxy) -> Wire {
    let mut wire = proxy.client().login();
    wire.ok("BEGIN");
    wire
}

#[test]
fn trap_14_two_clients_have_names_of_their_own() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    prepare(&mut a, "s", "SELECT 'of a'");
    prepare(&mut b, "s", "SELECT 'of b'");
    for _ in 0..3 {
        assert_eq!(one(&mut a, "s"), "of a");
        assert_eq!(one(&mut b, "s"), "of b");
    }
    a.send(&[close(b'S', "s"), sync()].concat()).unwrap();
    a.recv_until(b'Z', 1).unwrap();
    let error = run(&mut a, "s", &[]).unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("26000", "prepared statement \"s\" does not exist"));
    assert_eq!(one(&mut b, "s"), "of b");
}

#[test]
fn trap_14_a_statement_is_there_on_every_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(4).start();
    let mut wire = proxy.client().login();
    prepare(&mut wire, "who", "SELECT pg_backend_pid()");
    let mut seen = std::collections::BTreeSet::new();
    let mut blockers = Vec::new();
    for _ in 0..4 {
        seen.insert(one(&mut wire, "who"));
        if blockers.len() < 3 {
            blockers.push(blocker(&proxy));
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn trap_14_portals_are_no_statements() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    prepare(&mut wire, "x", "SELECT 7");
    let batch = [bind("x", "x", &[]), describe(b'P', "x"), execute("x", 0), close(b'P', "x"), sync()].concat();
    for _ in 0..2 {
        wire.send(&batch).unwrap();
        let tags: Vec<u8> = wire.recv_until(b'Z', 1).unwrap().iter().map(|msg| msg.tag).collect();
        assert_eq!(tags, b"2TDC3Z");
    }
}

#[test]
fn trap_13_the_unnamed_statement_is_the_clients_own() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    prepare(&mut a, "", "SELECT 'of a'");
    prepare(&mut b, "", "SELECT 'of b'");
    for _ in 0..2 {
        assert_eq!(one(&mut a, ""), "of a");
        assert_eq!(one(&mut b, ""), "of b");
    }
    b.ok("SELECT 1");
    assert_eq!(run(&mut b, "", &[]).unwrap_err().code, "26000", "a simple query has ended it");
    assert_eq!(one(&mut a, ""), "of a");
    // Described in one transaction, bound in the next: asyncpg without a cache.
    a.send(&[parse("", "SELECT $1::int + 1"), describe(b'S', ""), flush()].concat()).unwrap();
    a.recv_until(b'T', 1).unwrap();
    a.send(&sync()).unwrap();
    a.recv_until(b'Z', 1).unwrap();
    prepare(&mut b, "", "SELECT 'of b'");
    assert_eq!(run(&mut a, "", &[Some(b"41")]).unwrap(), [[Some("42".to_owned())]]);
}

/// What the proxy does on a server for another client ends the unnamed statement there, too.
#[test]
fn trap_13_the_proxys_own_queries_end_it_on_the_server_only() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut a = proxy.client().login();
    let mut b = proxy.client().param("TimeZone", "Asia/Tokyo").login();
    prepare(&mut a, "", "SELECT 'of a'");
    prepare(&mut b, "n", "SELECT 1");
    assert_eq!(one(&mut a, ""), "of a");
    b.ok("SET statement_timeout = '5s'");
    prepare(&mut b, "", "SELECT 'of b'");
    a.send(&[parse("n", "SELECT 2"), sync()].concat()).unwrap();
    a.recv_until(b'Z', 1).unwrap();
    assert_eq!((one(&mut b, ""), one(&mut a, "")), ("of b".to_owned(), "of a".to_owned()));
}

#[test]
fn trap_18_sql_deallocates_what_the_protocol_has_prepared() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    prepare(&mut a, "pdo_stmt_1", "SELECT 1");
    prepare(&mut b, "pdo_stmt_1", "SELECT 2");
    a.ok("DEALLOCATE pdo_stmt_1");
    assert_eq!(run(&mut a, "pdo_stmt_1", &[]).unwrap_err().code, "26000");
    assert_eq!(one(&mut b, "pdo_stmt_1"), "2");
    for all in ["DEALLOCATE ALL", "DISCARD ALL"] {
        prepare(&mut a, "again", "SELECT 3");
        assert_eq!(one(&mut a, "again"), "3");
        a.ok(all);
        assert_eq!(run(&mut a, "again", &[]).unwrap_err().code, "26000", "{all}");
        assert_eq!(one(&mut b, "pdo_stmt_1"), "2", "{all} of another client");
    }
}

#[test]
fn trap_17_more_statements_than_a_server_may_have() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).num("max_prepared_statements", 5).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    for n in 0..40 {
        prepare(&mut a, &format!("s{n}"), &format!("SELECT {n}"));
        prepare(&mut b, &format!("s{n}"), &format!("SELECT -{n}"));
    }
    for n in (0..40).rev() {
        assert_eq!(one(&mut a, &format!("s{n}")), n.to_string());
        assert_eq!(one(&mut b, &format!("s{n}")), format!("-{n}").replace("-0", "0"));
    }
    // All in one batch, more than there is room for.
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let batch: Vec<u8> = names.iter().flat_map(|name| [bind("", name, &[]), execute("", 0)].concat()).collect();
    a.send(&[batch, sync()].concat()).unwrap();
    let got: Vec<Option<String>> = rows(&mut a).unwrap().into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(got, (0..40).map(|n| Some(n.to_string())).collect::<Vec<_>>());
    assert!(db_statements(&mut a) <= 6, "the server was not told to forget them");
}

fn db_statements(wire: &mut Wire) -> usize {
    wire.one("SELECT count(*) FROM pg_prepared_statements").parse().unwrap()
}

#[test]
fn equal_statements_of_many_clients_are_one_on_the_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut clients: Vec<Wire> = (0..20).map(|_| proxy.client().login()).collect();
    for (n, wire) in clients.iter_mut().enumerate() {
        prepare(wire, &format!("name{n}"), "SELECT 'shared'");
        assert_eq!(one(wire, &format!("name{n}")), "shared");
    }
    assert_eq!(db_statements(&mut clients[0]), 1);
}

/// asyncpg and pgjdbc: they remember what a Describe has told them, and bind without asking again.
#[test]
fn trap_19_after_a_change_of_shape_a_client_that_was_told_the_old_one_hears_it_once() {
    let db = Db::with("CREATE TABLE t(a int); INSERT INTO t VALUES (1)");
    let proxy = Spec::of(&db).pool(2).start();
    let mut told = proxy.client().login();
    let mut untold = proxy.client().login();
    let mut same = proxy.client().login();
    told.send(&[parse("s", "SELECT * FROM t"), describe(b'S', "s"), sync()].concat()).unwrap();
    told.recv_until(b'Z', 1).unwrap();
    same.send(&[parse("s", "SELECT a FROM t"), describe(b'S', "s"), sync()].concat()).unwrap();
    same.recv_until(b'Z', 1).unwrap();
    prepare(&mut untold, "s", "SELECT * FROM t");
    for wire in [&mut told, &mut untold, &mut same] {
        assert_eq!(one(wire, "s"), "1");
    }
    proxy.apply("add", "", "ALTER TABLE t ADD COLUMN b text DEFAULT 'new'").finish().unwrap();
    let with_b = vec![vec![Some("1".to_owned()), Some("new".to_owned())]];
    assert_eq!(run(&mut untold, "s", &[]).unwrap(), with_b, "it was told nothing: it never notices");
    assert_eq!(one(&mut same, "s"), "1", "its shape is the same: it never notices");
    let error = run(&mut told, "s", &[]).unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("0A000", "cached plan must not change result type"));
    // As those drivers do: prepare it again, under the same name or another.
    told.send(&[close(b'S', "s"), parse("s", "SELECT * FROM t"), describe(b'S', "s"), sync()].concat()).unwrap();
    told.recv_until(b'Z', 1).unwrap();
    assert_eq!(run(&mut told, "s", &[]).unwrap(), with_b);
}

/// In a transaction the error ends that transaction, as Postgres' own would.
#[test]
fn trap_19_the_error_is_the_servers_too() {
    let db = Db::with("CREATE TABLE t(a int); INSERT INTO t VALUES (1)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut told = proxy.client().login();
    told.send(&[parse("s", "SELECT * FROM t"), describe(b'S', "s"), sync()].concat()).unwrap();
    told.recv_until(b'Z', 1).unwrap();
    proxy.apply("add", "", "ALTER TABLE t ADD COLUMN b int").finish().unwrap();
    told.ok("BEGIN");
    assert_eq!(run(&mut told, "s", &[]).unwrap_err().code, "0A000");
    assert_eq!(told.query("SELECT 1").unwrap_err().db().code, "25P02");
    told.ok("ROLLBACK");
    assert_eq!(told.one("SELECT 1"), "1");
}

/// DDL that did not come through us: nobody was told anything that is not true any more, and nobody notices.
#[test]
fn trap_19_ddl_beside_us_costs_no_error() {
    let db = Db::with("CREATE TABLE t(a int); INSERT INTO t VALUES (1)");
    let proxy = Spec::of(&db).pool(3).start();
    let mut clients: Vec<Wire> = (0..3).map(|_| proxy.client().login()).collect();
    for wire in &mut clients {
        prepare(wire, "s", "SELECT * FROM t");
    }
    // On all three servers.
    for wire in &mut clients {
        wire.ok("BEGIN");
        assert_eq!(one(wire, "s"), "1");
    }
    clients.iter_mut().for_each(|wire| drop(wire.ok("COMMIT")));
    db.sql("ALTER TABLE t ADD COLUMN b int");
    let errors: Vec<String> =
        (0..6).filter_map(|n| run(&mut clients[n % 3], "s", &[]).err()).map(|error| error.code).collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn a_statement_too_long_to_carry_keeps_its_client_on_its_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let mut wire = proxy.client().login();
    let sql = format!("SELECT 'x', pg_backend_pid() -- {}", "y".repeat(1_200_000));
    prepare(&mut wire, "long", &sql);
    let _blocker = blocker(&proxy);
    let pid = |wire: &mut Wire| run(wire, "long", &[]).unwrap()[0][1].clone();
    let first = pid(&mut wire);
    assert_eq!(pid(&mut wire), first);
    wire.ok("DEALLOCATE long");
    assert_eq!(run(&mut wire, "long", &[]).unwrap_err().code, "26000");
}

/// It is neither remembered nor left to be another client's.
#[test]
fn trap_13_one_too_long_to_carry_is_there_for_its_transaction() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let (mut wire, mut other) = (proxy.client().login(), proxy.client().login());
    let sql = format!("SELECT 'long' -- {}", "y".repeat(1_200_000));
    for turn in [false, true] {
        wire.ok("BEGIN");
        prepare(&mut wire, "", &sql);
        assert_eq!((one(&mut wire, ""), one(&mut wire, "")), ("long".to_owned(), "long".to_owned()));
        wire.ok("COMMIT");
        prepare(&mut wire, "", &sql);
        let _busy = turn.then(|| blocker(&proxy));
        assert_eq!(run(&mut wire, "", &[]).unwrap_err().code, "26000");
        assert_eq!(run(&mut other, "", &[]).unwrap_err().code, "26000");
    }
}

#[test]
fn clients_that_leave_in_mid_batch_leave_nothing_behind() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut other = proxy.client().login();
    for n in 0..10 {
        let mut wire = proxy.client().login();
        wire.send(&[parse("s", &format!("SELECT pg_sleep(0.0{n})")), bind("", "s", &[]), execute("", 0)].concat())
            .unwrap();
        drop(wire);
        prepare(&mut other, &format!("o{n}"), &format!("SELECT 'other {n}'"));
        assert_eq!(one(&mut other, &format!("o{n}")), format!("other {n}"));
        assert_eq!(one(&mut other, "o0"), "other 0");
    }
}

#[test]
fn a_full_memory_for_statements_is_an_error_and_closing_mends_it() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("prepared_statement_memory", "1MB").start();
    let mut wire = proxy.client().login();
    let sql = |n: usize| format!("SELECT {n} -- {}", "z".repeat(100_000));
    let failed = (0..20).find(|n| {
        wire.send(&[parse(&format!("s{n}"), &sql(*n)), sync()].concat()).unwrap();
        rows(&mut wire).is_err_and(|error| error.code == "53200")
    });
    let failed = failed.expect("it never became full");
    assert!((5..12).contains(&failed), "{failed}");
    for n in 0..failed {
        wire.send(&[close(b'S', &format!("s{n}")), sync()].concat()).unwrap();
        wire.recv_until(b'Z', 1).unwrap();
    }
    prepare(&mut wire, "after", &sql(99));
    assert_eq!(one(&mut wire, "after"), "99");
    wire.send(&query("SELECT 1")).unwrap();
    assert_eq!(rows(&mut wire).unwrap().len(), 1);
}

/// More than a server may have, and more than fit into one batch: each keeps its own meaning.
#[test]
fn b14_many_statements_of_one_client_each_keep_their_meaning() {
    const COUNT: usize = 5000;
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).num("max_prepared_statements", 50).start();
    let mut wire = proxy.client().login();
    let mut other = proxy.client().login();
    for from in (0..COUNT).step_by(500) {
        let batch: Vec<u8> =
            (from..from + 500).flat_map(|n| parse(&format!("s{n}"), &format!("SELECT {n} + $1::int"))).collect();
        wire.send(&[batch, sync()].concat()).unwrap();
        assert!(wire.recv_until(b'Z', 1).unwrap().iter().all(|msg| msg.tag != b'E'));
        // The same names, of somebody else.
        prepare(&mut other, &format!("s{from}"), &format!("SELECT 'other {from}'"));
    }
    // One name, another meaning each time.
    for n in 0..20 {
        prepare(&mut wire, "again", &format!("SELECT 'meaning {n}'"));
        assert_eq!(one(&mut wire, "again"), format!("meaning {n}"));
        wire.send(&[close(b'S', "again"), sync()].concat()).unwrap();
        wire.recv_until(b'Z', 1).unwrap();
    }
    for n in (0..COUNT).rev().step_by(7) {
        let rows = run(&mut wire, &format!("s{n}"), &[Some(b"1")]).unwrap();
        assert_eq!(rows[0][0].as_deref(), Some(&*(n + 1).to_string()));
    }
    assert_eq!(one(&mut other, "s500"), "other 500");
    assert!(db_statements(&mut wire) <= 50);
}

/// What no server sees costs the proxy's memory alone: answers of its own that nobody reads, or that have to wait.
#[test]
fn b14_names_that_come_and_go_without_end_take_a_bounded_room() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let before = proxy.rss_kib();
    for first in [vec![], [parse("", "SELECT pg_sleep(20)"), bind("", "", &[]), execute("", 0)].concat()] {
        let mut wire = proxy.client().login();
        prepare(&mut wire, "known", "SELECT 1");
        wire.send(&first).unwrap();
        let pairs: Vec<u8> = (0..1000).flat_map(|_| [parse("x", "SELECT 1"), close(b'S', "x")].concat()).collect();
        wire.send_until_full(&pairs.repeat(200));
        let grown = proxy.rss_kib().saturating_sub(before);
        assert!(grown < 64 << 10, "{grown} KiB");
    }
    proxy.still_serves();
}

/// What the error advises is put in force where it is given, and so is the way back.
#[test]
fn the_memory_for_statements_can_be_changed_while_clients_are_there() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("prepared_statement_memory", "1MB").start();
    let mut wire = proxy.client().login();
    let mut fill = |from: usize| {
        let is_full = |n: &usize| {
            let sql = format!("SELECT {n} -- {}", "z".repeat(100_000));
            wire.send(&[parse(&format!("s{n}"), &sql), sync()].concat()).unwrap();
            rows(&mut wire).is_err_and(|error| error.code == "53200")
        };
        (from..from + 40).find(is_full).expect("it never became full")
    };
    let first = fill(0);
    assert!((5..12).contains(&first), "{first}");
    proxy.admin("SET prepared_statement_memory = '2MB'");
    let second = fill(first);
    assert!((15..22).contains(&second), "{second}");
    proxy.edit(|text| text.replace("prepared_statement_memory = \"1MB\"", "prepared_statement_memory = \"3MB\""));
    proxy.admin("RELOAD");
    let third = fill(second);
    assert!((25..32).contains(&third), "{third}");
    proxy.admin("SET prepared_statement_memory = '1MB'");
    assert_eq!(fill(third), third);
}
