//! Session leaks: whatever a client does to its session, the next client finds a fresh one (X01 to X12 of the fault
//! catalogue). The pool has one server, so the next client gets the very one that the last client had.

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Wire, bind, execute, msg_of, parse, query, sync};

/// All that a session may carry, as one text: settings, who it is, temporary relations, locks, statements, cursors,
/// channels. What belongs to the connection and not to the session (addresses, the process, loaded languages) is left out.
const SESSION: &str = "SELECT concat_ws(E'\\n', \
    (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
        WHERE name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
        AND name NOT LIKE 'plpgsql.%'), \
    current_user, session_user, \
    (SELECT string_agg(s, ' ') FROM unnest(current_schemas(true)) s WHERE s NOT LIKE 'pg_temp%'), \
    (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND pg_table_is_visible(oid)), \
    (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'), \
    (SELECT string_agg(statement, ' ') FROM pg_prepared_statements WHERE from_sql), \
    (SELECT string_agg(name, ' ') FROM pg_cursors WHERE name <> ''), \
    (SELECT string_agg(c, ' ') FROM pg_listening_channels() c))";

struct House {
    db: Db,
    proxy: Proxy,
    fresh: String,
}

impl House {
    fn new(setup: &str) -> Self {
        let db = Db::with("CREATE TABLE t(id int PRIMARY KEY, v text); CREATE SEQUENCE seq");
        if !setup.is_empty() {
            db.sql(&setup.replace("$user", &db.user).replace("$db", &db.name));
        }
        let proxy = Spec::of(&db).pool(1).start();
        // Before anybody did anything; and it is what Postgres itself gives to a new session.
        let fresh = proxy.client().login().one(SESSION);
        assert_eq!(fresh, db.direct().login().one(SESSION));
        Self { db, proxy, fresh }
    }

    /// The next client's session is fresh: `proofs` are errors (SQLSTATE) or values of statements beyond the snapshot.
    fn assert_fresh(&self, after: &str, proofs: &[(&str, &str)]) {
        let mut next = self.proxy.client().login();
        assert_eq!(next.one(SESSION), self.fresh, "after {after}");
        for (sql, expected) in proofs {
            let got = match next.query(sql) {
                Ok(reply) => reply.rows.first().and_then(|row| row[0].clone()).unwrap_or_default(),
                Err(error) => error.db().code,
            };
            assert_eq!(got, *expected, "{sql}, after {after}");
        }
        next.close();
    }

    /// One client does each of these and then rests, leaves, or vanishes; each time the next finds nothing of it.
    fn each(&self, dirt: &[&[&str]], proofs: &[(&str, &str)]) {
        for statements in dirt {
            for ending in ["leaves", "vanishes", "rests"] {
                let mut one = self.proxy.client().login();
                for sql in *statements {
                    // An error is as good a way as any to leave something behind.
                    let _ = one.query(sql);
                }
                let after = format!("{statements:?}, and the client {ending}");
                match ending {
                    "leaves" => one.close(),
                    "vanishes" => drop(one),
                    _ => {
                        // In transaction mode it rests beside the next one, unless it keeps its server.
                        if self.proxy.pools("sv_active") == 0 {
                            self.assert_fresh(&after, proofs);
                        }
                        one.close();
                    }
                }
                self.assert_fresh(&after, proofs);
            }
        }
    }
}

#[test]
fn x01_set_reset_and_their_rollback() {
    House::new("").each(
        &[
            &["SET work_mem = '7MB'"],
            &["SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'German'", "SET client_encoding = 'LATIN1'"],
            &["SET application_name = 'leak'"],
            &["BEGIN", "SET work_mem = '7MB'", "ROLLBACK"],
            &["BEGIN", "SET work_mem = '7MB'", "COMMIT"],
            &["BEGIN", "SET LOCAL work_mem = '7MB'"],
            &["BEGIN; SET work_mem = '7MB'; SAVEPOINT s; SET work_mem = '8MB'; ROLLBACK TO s; COMMIT"],
            &["BEGIN", "SET enable_seqscan = off", "SELECT 1/0"],
            &["SET work_mem = '7MB'; SELECT 1; RESET work_mem; SET enable_seqscan = off"],
            &["SET a.b = 'c'; RESET a.b"],
            &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
            &["SET default_transaction_isolation = 'serializable'"],
        ],
        &[("SHOW work_mem", "4MB"), ("SHOW transaction_read_only", "off")],
    );
}

#[test]
fn x02_set_role_and_session_authorization() {
    let house = House::new("CREATE ROLE other_$user; GRANT other_$user TO $user; ALTER ROLE $user SUPERUSER");
    let other = format!("other_{}", house.db.user);
    house.each(
        &[
            &[&format!("SET ROLE {other}")],
            &[&format!("SET SESSION AUTHORIZATION {other}")],
            &["BEGIN", &format!("SET LOCAL ROLE {other}")],
            &["BEGIN", &format!("SET ROLE {other}"), "COMMIT"],
            &[&format!("SELECT 1; SET ROLE {other}; SELECT 2")],
        ],
        &[("SELECT current_user = session_user", "t")],
    );
}

#[test]
fn x03_temporary_tables_and_sequences() {
    House::new("").each(
        &[
            &["CREATE TEMP TABLE leak(a int)"],
            &["CREATE TEMP TABLE t(a int, leak text)"],
            &["SELECT 1 AS a INTO TEMP leak"],
            &["BEGIN", "CREATE TEMP TABLE leak AS SELECT 1", "COMMIT"],
            &["CREATE TEMP VIEW leak AS SELECT 1", "CREATE TEMP SEQUENCE leak2"],
            &["BEGIN; CREATE TEMP TABLE leak(a int) ON COMMIT DELETE ROWS; INSERT INTO leak VALUES (1)"],
        ],
        &[("SELECT * FROM leak", "42P01"), ("SELECT count(id) FROM t", "0")],
    );
}

#[test]
fn x04_advisory_locks() {
    let house = House::new("");
    house.each(
        &[
            &["SELECT pg_advisory_lock(1)"],
            &["SELECT pg_advisory_lock(1); SELECT pg_advisory_lock(1)"],
            &["SELECT pg_try_advisory_lock_shared(1)"],
            &["BEGIN", "SELECT pg_advisory_xact_lock(1)"],
            &["BEGIN", "SELECT pg_advisory_lock(1)", "ROLLBACK"],
        ],
        &[],
    );
    assert_eq!(house.db.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

#[test]
fn x05_listen() {
    let house = House::new("");
    house.each(&[&["LISTEN leak"], &["BEGIN", "LISTEN leak", "COMMIT"], &["LISTEN a; LISTEN b; UNLISTEN a"]], &[]);
    let mut one = house.proxy.client().login();
    one.ok("LISTEN leak");
    one.close();
    // What is told to the channel now reaches nobody.
    let mut next = house.proxy.client().login();
    house.db.sql("NOTIFY leak");
    next.start("SELECT 1").unwrap();
    let tags: Vec<u8> = next.recv_until(b'Z', 1).unwrap().iter().map(|msg| msg.tag).collect();
    assert_eq!(tags, b"TDCZ");
}

#[test]
fn x06_cursors_with_hold() {
    House::new("").each(
        &[
            &["DECLARE leak CURSOR WITH HOLD FOR SELECT 1"],
            &["BEGIN; DECLARE leak CURSOR WITH HOLD FOR SELECT generate_series(1, 9); FETCH 2 FROM leak; COMMIT"],
            &["BEGIN", "DECLARE leak CURSOR FOR SELECT 1"],
        ],
        &[("FETCH 1 FROM leak", "34000")],
    );
}

#[test]
fn x07_prepared_statements() {
    let house = House::new("");
    house.each(
        &[
            &["PREPARE leak AS SELECT 'leak'"],
            &["PREPARE leak AS SELECT 'leak'; EXECUTE leak"],
            &["BEGIN", "PREPARE leak AS SELECT 'leak'", "ROLLBACK"],
            &["PREPARE leak AS SELECT 1; DEALLOCATE ALL; PREPARE leak AS SELECT 2"],
            &["PREPARE leak AS SELECT 1; DISCARD ALL"],
        ],
        &[("EXECUTE leak", "26000"), ("DEALLOCATE leak", "26000")],
    );
    // The same names in the protocol are each client's own.
    let mut one = house.proxy.client().login();
    one.send(&[parse("leak", "SELECT 'leak'"), sync()].concat()).unwrap();
    one.recv_until(b'Z', 1).unwrap();
    one.close();
    let mut next = house.proxy.client().login();
    next.send(&[bind("", "leak", &[]), execute("", 0), sync()].concat()).unwrap();
    let answer = next.recv_until(b'Z', 1).unwrap();
    assert_eq!(answer[0].error().code, "26000");
}

#[test]
fn x08_load_search_path_and_timeouts() {
    House::new("CREATE SCHEMA elsewhere AUTHORIZATION $user; CREATE TABLE elsewhere.t(here int)").each(
        &[
            &["SET search_path = elsewhere"],
            &["SET search_path = ''"],
            &["SET statement_timeout = 1000; SET lock_timeout = 1000; SET idle_in_transaction_session_timeout = 1000"],
            &["SET session_replication_role = replica"],
            &["LOAD 'auto_explain'"],
        ],
        &[("SELECT count(id) FROM t", "0"), ("SHOW statement_timeout", "0")],
    );
}

#[test]
fn x09_a_failed_transaction_at_the_end() {
    let house = House::new("");
    house.each(
        &[
            &["BEGIN", "INSERT INTO t VALUES (1, 'leak')", "SELECT 1/0"],
            &["BEGIN; INSERT INTO t VALUES (1, 'leak')"],
            &["BEGIN; SAVEPOINT s; SELECT 1/0"],
        ],
        &[("SELECT count(*) FROM t", "0"), ("SAVEPOINT s", "25P01")],
    );
    // Amid a pipeline that has no Sync.
    let mut one = house.proxy.client().login();
    let half = [parse("", "INSERT INTO t VALUES (1, 'leak')"), bind("", "", &[]), execute("", 0)].concat();
    one.send(&half).unwrap();
    drop(one);
    house.assert_fresh("a pipeline without its Sync", &[("SELECT count(*) FROM t", "0")]);
}

#[test]
fn x10_prepared_transactions() {
    let house = House::new("");
    house.each(
        &[&["BEGIN", "INSERT INTO t VALUES (1, 'leak')", "PREPARE TRANSACTION 'leak'"]],
        &[("SELECT count(*) FROM t", "0")],
    );
}

#[test]
fn x11_defaults_of_the_role_and_of_the_database() {
    let house = House::new("ALTER ROLE $user SET work_mem = '9MB'; ALTER DATABASE $db SET search_path = public");
    let proofs = [("SHOW work_mem", "9MB"), ("SHOW search_path", "public")];
    house.each(
        &[
            &["SET work_mem = '7MB'", "SET search_path = pg_catalog"],
            &["RESET ALL", "SET work_mem TO DEFAULT"],
            &["DISCARD ALL"],
        ],
        &proofs,
    );
}

#[test]
fn x12_chained_and_hidden_transactions() {
    let house = House::new("");
    house.each(
        &[
            &["SELECT 1; BEGIN; INSERT INTO t VALUES (1, 'leak')"],
            &["BEGIN; COMMIT AND CHAIN", "INSERT INTO t VALUES (1, 'leak')"],
            &["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "ROLLBACK AND CHAIN"],
            &["BEGIN; SELECT 1; COMMIT; BEGIN"],
        ],
        &[("SELECT count(*) FROM t", "0"), ("SHOW transaction_isolation", "read committed")],
    );
    eventually("the server is back", secs(5), || house.proxy.pools("sv_active") == 0);
}

/// The snapshot's own sharpness: it tells a session that carries something from a fresh one.
#[test]
fn a_session_that_carries_something_is_noticed() {
    let db = Db::new();
    let fresh = db.direct().login().one(SESSION);
    for sql in [
        "SET work_mem = '7MB'",
        "SET search_path = pg_temp",
        "CREATE TEMP TABLE leak(a int)",
        "SELECT pg_advisory_lock(1)",
        "LISTEN leak",
        "PREPARE leak AS SELECT 1",
        "DECLARE leak CURSOR WITH HOLD FOR SELECT 1",
    ] {
        let mut wire: Wire = db.direct().login();
        wire.ok(sql);
        assert_ne!(wire.one(SESSION), fresh, "{sql}");
    }
}

/// Settings with a prefix are not in Postgres' own list: only the text has their names, and there are many ways to write one.
#[test]
fn x01_settings_of_an_applications_own_however_they_are_set() {
    let long = format!("SELECT '{}'; SET app.x = 'leak'", "x".repeat(70_000));
    House::new("").each(
        &[
            &["/* ; */ SET app.x = 'leak'"],
            &["-- for; the tenant\n SET SESSION app.x = 'leak'"],
            &["SELECT 1; -- so; what\nSET/**/app . \"x\" TO 'leak'"],
            &["DO $$BEGIN SET app.x = 'leak'; END$$"],
            &["DO $$BEGIN EXECUTE 'set app.' || 'x=1'; END$$", "SELECT 1"],
            &["SELECT set_config('app' || '.x', 'leak', false)"],
            &["SELECT set_config('app.x', $$leak, true, $$, false)"],
            &["SELECT set_config('app.x', E'\\', true, leak', false)"],
            &["SET U&\"app\".x = 'leak'"],
            &[&long],
        ],
        &[("SELECT coalesce(current_setting('app.x', true), '')", "")],
    );
}

/// A FunctionCall has no text at all; what stays is found all the same.
#[test]
fn x11_function_calls_leave_nothing() {
    let house = House::new("");
    let call = |function: u32, args: &[&str]| {
        let mut body = [&function.to_be_bytes()[..], &[0, 0]].concat();
        body.extend(u16::try_from(args.len()).unwrap().to_be_bytes());
        for arg in args {
            body.extend(u32::try_from(arg.len()).unwrap().to_be_bytes());
            body.extend(arg.bytes());
        }
        msg_of(b'F', &[body, vec![0, 0]].concat())
    };
    // 2078 is set_config, 2880 pg_advisory_lock.
    for bytes in [call(2078, &["app.x", "leak", "f"]), call(2880, &["7"])] {
        let mut one = house.proxy.client().login();
        one.send(&bytes).unwrap();
        let answer = one.recv_until(b'Z', 1).unwrap();
        assert_eq!(answer[0].tag, b'V', "{answer:?}");
        one.close();
        house.assert_fresh("a function call", &[("SELECT coalesce(current_setting('app.x', true), '')", "")]);
    }
}

/// What a client asks a sequence for is never answered with another client's number, wherever the question stands.
#[test]
fn x03_the_last_number_of_a_sequence_is_nobody_elses() {
    let house = House::new("");
    let named = [parse("s", "SELECT currval('seq')"), bind("", "s", &[]), execute("", 0), sync()].concat();
    for (what, first, asked) in [
        ("at once", vec![], query("SELECT lastval()")),
        ("in a transaction", query("BEGIN"), query("SELECT currval('seq')")),
        ("behind settings", query("BEGIN; SET LOCAL work_mem = '1MB'; SAVEPOINT a"), query("SELECT currval('seq')")),
        ("in a pipeline", vec![], [query("BEGIN"), query("SELECT currval('seq')")].concat()),
        ("behind a Sync", vec![], [sync(), query("SELECT currval('seq')")].concat()),
        ("by a name", vec![], named),
    ] {
        house.proxy.client().login().one("SELECT nextval('seq')");
        let mut wire = house.proxy.client().login();
        if !first.is_empty() {
            wire.send(&first).unwrap();
            wire.recv_until(b'Z', 1).unwrap();
        }
        wire.send(&asked).unwrap();
        let answer = wire.recv_until(b'E', 1).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer.iter().all(|msg| msg.tag != b'D'), "{what}: {answer:?}");
        assert_eq!(answer.last().unwrap().error().code, "55000", "{what}");
    }
    // Its own it gets, in the transaction that asked for it.
    let mut wire = house.proxy.client().login();
    wire.ok("BEGIN");
    let own = wire.one("SELECT nextval('seq')");
    assert_eq!(wire.one("SELECT currval('seq')"), own);
    wire.ok("COMMIT");
}

/// A table that is temporary by the search path alone, or by an EXPLAIN ANALYZE that makes it.
#[test]
fn x03_temporary_tables_that_do_not_look_like_it() {
    House::new("").each(
        &[
            &["SET search_path = pg_temp", "CREATE TABLE leak(a int)"],
            &["SET search_path = pg_temp, public", "SELECT 1 AS a INTO leak"],
            &["EXPLAIN ANALYZE CREATE TEMP TABLE leak AS SELECT 1"],
        ],
        &[("SELECT * FROM leak", "42P01")],
    );
}
