//! Statements that a change has made stale, as drivers use them: whose knowledge is still true never notices; who goes by an older
//! description gets Postgres' own error, before anything has run, in the form that makes drivers prepare anew.

use crate::support::msg::Msg;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wire::{Wire, bind, bind_as, close, describe, execute, flush, parse, sync};

const TABLE: &str = "CREATE TABLE t(a int, b text DEFAULT 'b'); INSERT INTO t VALUES (1)";
const ALL: &str = "SELECT * FROM t";

/// Sends and gives the answer up to the end of the batch.
fn batch(wire: &mut Wire, parts: &[Vec<u8>]) -> Vec<Msg> {
    wire.send(&[parts.concat(), sync()].concat()).unwrap();
    wire.recv_until(b'Z', 1).unwrap()
}

fn tags(answer: &[Msg]) -> String {
    answer.iter().map(|msg| char::from(msg.tag)).collect()
}

/// psycopg and pgbench: the portal is described each time.
fn as_libpq(wire: &mut Wire) -> Vec<Msg> {
    batch(wire, &[bind("", "s", &[]), describe(b'P', ""), execute("", 0)])
}

/// pgjdbc: a format for each column of the result, as it was described once.
fn as_pgjdbc(wire: &mut Wire, columns: usize) -> Vec<Msg> {
    batch(wire, &[bind_as(b"", b"s", &[], &vec![0; columns]), execute("", 0)])
}

/// As drivers know it: asyncpg and pgjdbc look for the routine.
fn is_healable(answer: &[Msg]) -> bool {
    answer.iter().any(|msg| {
        let text = String::from_utf8_lossy(&msg.body).into_owned();
        msg.tag == b'E' && text.contains("\0C0A000\0") && text.contains("\0RRevalidateCachedQuery\0")
    })
}

/// So many clients, with the statement prepared on as many servers.
fn prepared_everywhere(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let mut clients: Vec<Wire> = (0..count).map(|_| proxy.client().login()).collect();
    for wire in &mut clients {
        assert_eq!(tags(&batch(wire, &[parse("s", ALL)])), "1Z");
    }
    for wire in &mut clients {
        wire.ok("BEGIN");
        assert_eq!(tags(&as_libpq(wire)), "2TDCZ");
    }
    for wire in &mut clients {
        wire.ok("COMMIT");
    }
    clients
}

#[test]
fn trap_19_ddl_beside_us_is_not_noticed_by_those_who_ask_each_time() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(3).start();
    let mut clients = prepared_everywhere(&proxy, 3);
    for (ddl, columns) in [
        ("ALTER TABLE t ADD COLUMN c int", 3),
        ("ALTER TABLE t ALTER COLUMN a TYPE bigint", 3),
        ("ALTER TABLE t DROP COLUMN b", 2),
    ] {
        db.sql(ddl);
        for n in 0..9 {
            let answer = as_libpq(&mut clients[n % 3]);
            assert_eq!(tags(&answer), "2TDCZ", "{ddl}: {n}");
            assert_eq!(answer[2].values().len(), columns, "{ddl}: {n}");
        }
    }
    // All of it at once, as it may come from a socket.
    db.sql("ALTER TABLE t DROP COLUMN c");
    let twice = [bind("", "s", &[]), execute("", 0), sync(), bind("", "s", &[]), execute("", 0), sync()].concat();
    clients[0].send(&twice).unwrap();
    let answer = tags(&clients[0].recv_until(b'Z', 2).unwrap());
    assert!(
        ["2DCZ2DCZ", "EZ2DCZ", "EZEZ"].contains(&answer.as_str()),
        "what was sent behind a batch cannot be overtaken: {answer}"
    );
    assert_eq!(tags(&as_libpq(&mut clients[0])), "2TDCZ");
}

/// asyncpg prepares under a new name, with a Flush: that another client's statement is stale on the server is not its affair.
#[test]
fn trap_19_a_name_that_is_given_now_is_never_stale() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(2).start();
    let clients = prepared_everywhere(&proxy, 2);
    db.sql("ALTER TABLE t ADD COLUMN c int");
    for end in [flush(), sync()] {
        let mut wire = proxy.client().login();
        wire.send(&[parse("n", ALL), describe(b'S', "n"), end.clone()].concat()).unwrap();
        let answer = wire.recv_until(b'T', 1).unwrap();
        assert_eq!(tags(&answer), "1tT");
        let last = [bind("", "n", &[]), execute("", 0), sync()].concat();
        wire.send(&last).unwrap();
        if end == sync() {
            assert_eq!(wire.recv().unwrap().tag, b'Z');
        }
        assert_eq!(tags(&wire.recv_until(b'Z', 1).unwrap()), "2DCZ");
    }
    drop(clients);
}

#[test]
fn trap_19_who_goes_by_an_older_description_is_told_as_drivers_want_it() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(2).start();
    for (n, by_window) in [true, false].into_iter().enumerate() {
        let mut wire = proxy.client().login();
        assert_eq!(tags(&batch(&mut wire, &[parse("s", ALL)])), "1Z");
        let columns = as_libpq(&mut wire)[2].values().len();
        assert_eq!(tags(&as_pgjdbc(&mut wire, columns)), "2DCZ");
        let ddl = format!("ALTER TABLE t ADD COLUMN added{n} int");
        if by_window {
            proxy.apply("add", "", &ddl).finish().unwrap();
        } else {
            db.sql(&ddl);
        }
        let answer = as_pgjdbc(&mut wire, columns);
        assert!(is_healable(&answer), "{answer:?}");
        batch(&mut wire, &[close(b'S', "s"), parse("s", ALL)]);
        assert_eq!(as_libpq(&mut wire)[2].values().len(), columns + 1);
        for _ in 0..3 {
            assert_eq!(tags(&as_pgjdbc(&mut wire, columns + 1)), "2DCZ");
        }
    }
}

/// In a block only what Postgres itself would say: once, and the block has failed.
#[test]
fn trap_19_in_a_block_a_stale_statement_ends_it_once() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(3).start();
    let mut clients = prepared_everywhere(&proxy, 3);
    db.sql("ALTER TABLE t ADD COLUMN c int");
    let mut failed = 0;
    for n in 0..9 {
        let wire = &mut clients[n % 3];
        wire.ok("BEGIN");
        let answer = as_libpq(wire);
        if tags(&answer) == "EZ" {
            assert!(is_healable(&answer));
            assert_eq!(wire.query("SELECT 1").unwrap_err().db().code, "25P02");
            failed += 1;
        }
        wire.ok("ROLLBACK");
    }
    assert_eq!(failed, 1);
}

/// The code has other meanings. Those errors are Postgres' own, and what raised them has not run twice.
#[test]
fn errors_with_the_same_code_for_other_reasons_are_passed_on() {
    let db = Db::with(TABLE);
    db.setup(
        "CREATE SEQUENCE tried; \
         CREATE FUNCTION odd(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = '0A000'; END $$; \
         CREATE FUNCTION late() RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM nextval('tried'); RAISE EXCEPTION 'late' USING ERRCODE = '0A000'; END $$; \
         CREATE OR REPLACE FUNCTION odd(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;",
    );
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    batch(&mut wire, &[parse("planned", "SELECT odd(1)"), parse("run", "SELECT late()")]);
    assert_eq!(tags(&batch(&mut wire, &[bind("", "planned", &[]), execute("", 0)])), "2DCZ");
    db.setup(
        "CREATE OR REPLACE FUNCTION odd(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = '0A000'; END $$",
    );
    for _ in 0..2 {
        let answer = batch(&mut wire, &[bind("", "planned", &[]), execute("", 0)]);
        assert_eq!((tags(&answer).as_str(), answer[0].error().message.as_str()), ("EZ", "odd"));
        let answer = batch(&mut wire, &[bind("", "run", &[]), execute("", 0)]);
        assert_eq!((tags(&answer).as_str(), answer[1].error().message.as_str()), ("2EZ", "late"));
    }
    assert_eq!(db.one("SELECT last_value FROM tried"), "2");
}

/// What was run last is ready when the clients are let go; what the new schema does not allow takes nothing with it.
#[test]
fn hot_statements_are_prepared_while_everybody_is_held() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    for (name, sql) in [("s", ALL), ("gone", "SELECT b FROM t"), ("one", "SELECT 1")] {
        assert_eq!(tags(&batch(&mut wire, &[parse(name, sql), bind("", name, &[]), execute("", 0)])), "12DCZ");
    }
    let open = proxy.open("w", "");
    db.sql("ALTER TABLE t DROP COLUMN b");
    let changed = db.one("SELECT clock_timestamp()");
    proxy.close("w", &open["token"]);
    proxy.closed("w");
    let ready = format!(
        "SELECT string_agg(statement, '; ' ORDER BY statement) FROM pg_prepared_statements WHERE prepare_time > '{changed}'"
    );
    assert_eq!(wire.one(&ready), format!("{ALL}; SELECT 1"));
    let parses = || {
        let stats = proxy.admin("SHOW STATS_TOTALS").maps();
        stats.iter().find(|row| row["database"] == db.name).unwrap()["server_parse_count"].clone()
    };
    let before = parses();
    assert_eq!(as_libpq(&mut wire)[2].values().len(), 1);
    assert_eq!(tags(&batch(&mut wire, &[bind("", "one", &[]), execute("", 0)])), "2DCZ");
    assert_eq!(parses(), before);
    let answer = batch(&mut wire, &[bind("", "gone", &[]), execute("", 0)]);
    assert_eq!(answer[0].error().code, "42703", "{answer:?}");
}

/// A lock that somebody has left behind keeps those waiting who need the table, and nobody else.
#[test]
fn what_cannot_be_prepared_in_time_keeps_nobody_held() {
    let db = Db::with(TABLE);
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    assert_eq!(tags(&batch(&mut wire, &[parse("s", ALL), bind("", "s", &[]), execute("", 0)])), "12DCZ");
    // Each of them needs the table: calling one off must not mean to wait for the next.
    for name in (1..=15).map(|n| format!("s{n}")) {
        let sql = format!("SELECT '{name}', * FROM t");
        assert_eq!(tags(&batch(&mut wire, &[parse(&name, &sql), bind("", &name, &[]), execute("", 0)])), "12DCZ");
    }
    let server = wire.one("SELECT pg_backend_pid()");
    let open = proxy.open("w", "");
    let mut other = db.direct().login();
    other.ok("BEGIN");
    other.ok("ALTER TABLE t ADD COLUMN c int");
    wire.start("SELECT pg_backend_pid()").unwrap();
    proxy.until_held(1);
    proxy.close("w", &open["token"]);
    assert_eq!(wire.finish().unwrap().one(), server, "its server was not lost");
    assert_eq!(proxy.closed("w")["outcome"], "applied");
    other.ok("COMMIT");
    assert_eq!(as_libpq(&mut wire)[2].values().len(), 3);
    assert_eq!(tags(&batch(&mut wire, &[bind("", "s7", &[]), describe(b'P', ""), execute("", 0)])), "2TDCZ");
}
