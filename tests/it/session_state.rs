//! What a client leaves in its session: settings follow it, what cannot be moved keeps it on its server, and nobody
//! else ever finds any of it.

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Wire, extended, sync};

fn pid(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

/// Two clients and one server.
fn two(db: &Db) -> (Proxy, Wire, Wire) {
    let proxy = Spec::of(db).pool(1).start();
    let (a, b) = (proxy.client().login(), proxy.client().login());
    (proxy, a, b)
}

#[test]
fn trap_20_settings_follow_their_client_and_reach_nobody_else() {
    let db = Db::new();
    let (_proxy, mut a, mut b) = two(&db);
    for (set, show, mine, theirs) in [
        ("SET search_path = pg_catalog, pg_temp", "SHOW search_path", "pg_catalog, pg_temp", "\"$user\", public"),
        ("SET statement_timeout = '77s'", "SHOW statement_timeout", "77s", "0"),
        ("SELECT set_config('app.tenant', 'it''s', false)", "SELECT current_setting('app.tenant', true)", "it's", ""),
        ("SET work_mem TO '5MB'; SET enable_seqscan = off", "SHOW work_mem", "5MB", "4MB"),
    ] {
        a.ok(set);
        let seen = b.query(show).unwrap().maps();
        let seen = seen[0].values().next().cloned().unwrap_or_default();
        assert_eq!(seen.replace("NULL", ""), theirs, "{set}: another client");
        assert_eq!(a.one(show), mine, "{set}");
    }
    assert_eq!(a.one("SHOW search_path"), "pg_catalog, pg_temp", "all of them at once");
    a.ok("RESET statement_timeout");
    b.ok("SELECT 1");
    assert_eq!(a.one("SHOW statement_timeout"), "0");
    a.ok("DISCARD ALL");
    b.ok("SELECT 1");
    assert_eq!(a.one("SHOW search_path"), "\"$user\", public");
}

#[test]
fn trap_20_a_setting_that_was_rolled_back_or_local_is_none() {
    let db = Db::new();
    let (_proxy, mut a, mut b) = two(&db);
    a.ok("BEGIN; SET statement_timeout = '5s'; ROLLBACK");
    a.ok("BEGIN; SET LOCAL work_mem = '9MB'; SELECT set_config('app.x', 'y', true); COMMIT");
    b.ok("SELECT 1");
    assert_eq!(a.one("SHOW statement_timeout"), "0");
    assert_eq!(a.one("SHOW work_mem"), "4MB");
    a.ok("SET statement_timeout = '5s'");
    a.ok("BEGIN; SET statement_timeout = '6s'; SAVEPOINT s; SET statement_timeout = '7s'; ROLLBACK TO s; COMMIT");
    b.ok("SELECT 1");
    assert_eq!(a.one("SHOW statement_timeout"), "6s");
}

#[test]
fn trap_20_a_role_follows_its_client() {
    let db = Db::new();
    let role = format!("{}_other", db.user);
    db.sql(&format!("CREATE ROLE {role}; GRANT {role} TO {}", db.user));
    let (_proxy, mut a, mut b) = two(&db);
    a.ok(&format!("SET ROLE {role}"));
    assert_eq!(b.one("SELECT current_user"), db.user);
    assert_eq!(a.one("SELECT current_user"), role);
    a.ok("RESET ROLE");
    assert_eq!(b.one("SELECT current_user"), db.user);
    assert_eq!(a.one("SELECT current_user"), db.user);
}

/// Each state with what makes it, what shows it, and what ends it.
const STATES: &[(&str, &str, &str, &str)] = &[
    ("temporary", "CREATE TEMP TABLE mine(a int)", "SELECT count(*) FROM mine", "DROP TABLE mine"),
    ("temporary", "CREATE TEMP TABLE more AS SELECT 1 AS x", "SELECT count(*) FROM more", "DISCARD ALL"),
    (
        "advisory lock",
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "SELECT pg_advisory_unlock(4711)",
    ),
    ("prepare", "PREPARE mine AS SELECT 1", "EXECUTE mine", "DEALLOCATE mine"),
    (
        "cursor",
        "BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*) FROM pg_cursors",
        "CLOSE mine",
    ),
    ("listen", "LISTEN mine", "SELECT pg_listening_channels()", "UNLISTEN mine"),
    (
        "temporary",
        "DO $$ BEGIN CREATE TEMP TABLE hidden(a int); END $$",
        "SELECT count(*) FROM hidden",
        "DROP TABLE hidden",
    ),
];

#[test]
fn traps_18_22_23_24_what_cannot_be_moved_keeps_its_client_until_it_is_gone() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    for (why, make, show, end) in STATES {
        let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
        a.ok(make);
        let mine = pid(&mut a);
        let clients = proxy.admin("SHOW CLIENTS").maps();
        let pinned: Vec<&str> =
            clients.iter().map(|row| row["pinned"].as_str()).filter(|why| !why.is_empty()).collect();
        assert_eq!(pinned, [*why], "{make}");
        for _ in 0..3 {
            assert_ne!(pid(&mut b), mine, "{make}: the server was given away");
            assert!(a.query(show).is_ok(), "{show}");
        }
        a.ok(end);
        assert!(b.query("SELECT 1").is_ok());
        let both = || {
            let mut c = proxy.client().login();
            c.ok("BEGIN");
            let seen = [pid(&mut c), pid(&mut b)];
            seen.contains(&mine)
        };
        eventually(&format!("{why}: after {end} the server is anybody's"), secs(5), both);
    }
}

#[test]
fn a_kept_server_is_clean_when_its_client_has_left() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for (_, make, _, _) in STATES {
        let mut a = proxy.client().login();
        a.ok(make);
        a.close();
        let mut b = proxy.client().login();
        for nothing in [
            "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "SELECT count(*) FROM pg_prepared_statements WHERE from_sql",
            "SELECT count(*) FROM pg_cursors WHERE is_holdable",
            "SELECT count(*) FROM pg_listening_channels()",
        ] {
            assert_eq!(b.one(nothing), "0", "after {make}: {nothing}");
        }
    }
}

#[test]
fn trap_24_a_client_that_listens_is_told_and_nobody_else() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    a.ok("LISTEN news");
    b.ok("NOTIFY news, 'first'");
    let notified = a.recv().unwrap();
    assert_eq!(notified.tag, b'A');
    assert!(notified.body.windows(5).any(|window| window == b"first"));
    assert!(b.silent(std::time::Duration::from_millis(50)));
    a.ok("UNLISTEN *");
    b.ok("NOTIFY news, 'second'");
    assert!(a.silent(std::time::Duration::from_millis(50)));
}

#[test]
fn a_kept_client_is_held_by_a_window_like_any_other() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    let mut a = proxy.client().login();
    a.ok("CREATE TEMP TABLE mine AS SELECT 5 AS x");
    let mine = pid(&mut a);
    let opened = proxy.open("w", "");
    a.start("SELECT x FROM mine").unwrap();
    proxy.until_held(1);
    proxy.close("w", &opened["token"]);
    assert_eq!(a.finish().unwrap().one(), "5");
    assert_eq!(pid(&mut a), mine);
}

#[test]
fn server_reset_query_always_makes_every_transaction_a_new_session() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("server_reset_query_always", "on").start();
    let mut a = proxy.client().login();
    a.ok("SET statement_timeout = '5s'");
    assert_eq!(a.one("SHOW statement_timeout"), "0");
    a.ok("CREATE TEMP TABLE mine(a int)");
    assert_eq!(a.query("SELECT * FROM mine").unwrap_err().db().code, "42P01");
    // What Postgres reports of the settings is carried along: the client was told, and reads and writes by it.
    let mut b = proxy.client().login();
    a.ok("SET timezone = 'Asia/Tokyo'; SET client_encoding = 'LATIN1'");
    for _ in 0..2 {
        assert_eq!((a.one("SHOW timezone"), a.one("SHOW client_encoding")), ("Asia/Tokyo".into(), "LATIN1".into()));
        assert_eq!(b.one("SHOW client_encoding"), "UTF8");
    }
    // Statements of the protocol too.
    for _ in 0..3 {
        a.send(&[extended("SELECT $1::text", &["x"]), sync()].concat()).unwrap();
        assert!(a.recv_until(b'Z', 1).unwrap().iter().all(|msg| msg.tag != b'E'));
    }
}

#[test]
fn a_timeout_of_the_clients_own_loses_nothing() {
    let db = Db::new();
    let (_proxy, mut a, mut b) = two(&db);
    a.ok("SET statement_timeout = '1ms'");
    // Whatever became of our own question: the setting is there, and nobody else has it.
    let slow = "SELECT pg_sleep(0.2)";
    assert_eq!(a.query(slow).unwrap_err().db().code, "57014");
    a.query("SET statement_timeout = 0").unwrap();
    assert!(b.query(slow).is_ok());
    assert!(a.query(slow).is_ok());
}

const PATH: &str = "SHOW search_path";

#[test]
fn what_connect_query_sets_is_there_for_every_client() {
    let db = Db::new();
    let query = "\"SET search_path TO app, public\"";
    let proxy = Spec::of(&db).pool(1).entry(&db, "connect_query", query).start();
    let mut a = proxy.client().param("extra_float_digits", "3").login();
    let mut b = proxy.client().login();
    for _ in 0..2 {
        assert_eq!((a.one(PATH), a.one("SHOW extra_float_digits")), ("app, public".into(), "3".into()));
        assert_eq!((b.one(PATH), b.one("SHOW extra_float_digits")), ("app, public".into(), "1".into()));
    }
    for text in ["SET work_mem = '5MB'", "SET search_path TO DEFAULT", "DO 'BEGIN END'", "RESET ALL", "DISCARD ALL"] {
        b.ok(text);
        assert_eq!(b.one(PATH), "app, public", "{text}: itself");
        b.ok(text);
        assert_eq!(a.one(PATH), "app, public", "{text}: another client");
        assert_eq!(b.one(PATH), "app, public", "{text}");
    }
    a.ok("SET search_path TO pg_catalog");
    assert_eq!(b.one(PATH), "app, public");
    assert_eq!(a.one(PATH), "pg_catalog", "what a client sets itself comes first");
}

#[test]
fn what_connect_query_sets_outlives_the_reset_query() {
    let db = Db::new();
    let of = |query: &str| {
        let entry = "\"SET search_path TO app, public\"";
        Spec::of(&db).pool(1).text("server_reset_query", query).entry(&db, "connect_query", entry)
    };
    for spec in [
        of("DISCARD ALL").session(),
        of("RESET ALL").session(),
        of("DISCARD ALL").text("server_reset_query_always", "on"),
    ] {
        let proxy = spec.start();
        let mut server = String::new();
        for _ in 0..3 {
            let mut wire = proxy.client().login();
            assert_eq!(wire.one(PATH), "app, public");
            let before = std::mem::replace(&mut server, pid(&mut wire));
            assert!(before.is_empty() || before == server, "it is the same server");
            wire.ok("SET search_path TO pg_catalog");
            wire.close();
        }
    }
}

#[test]
fn a_server_that_refuses_to_run_connect_query_again_costs_nobody_an_error() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).entry(&db, "connect_query", "\"PREPARE mine AS SELECT 1\"").start();
    let mut a = proxy.client().param("extra_float_digits", "3").login();
    let mut b = proxy.client().login();
    for _ in 0..2 {
        for wire in [&mut a, &mut b] {
            assert_eq!(wire.one("SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'"), "1");
        }
    }
}

/// Where there is no reset query, there is nothing to run after every transaction: what a client leaves is seen to as always.
#[test]
fn server_reset_query_always_without_a_query_lets_nothing_through() {
    let db = Db::new();
    let spec = Spec::of(&db).pool(1).text("server_reset_query_always", "on").text("server_reset_query", "");
    let proxy = spec.start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    a.ok("SET statement_timeout = '5s'");
    assert_eq!(b.one("SHOW statement_timeout"), "0");
    assert_eq!(a.one("SHOW statement_timeout"), "5s");
    a.ok("LISTEN news");
    assert_eq!(a.one("SELECT count(*) FROM pg_listening_channels()"), "1");
    a.ok("UNLISTEN *");
    assert_eq!(b.one("SELECT count(*) FROM pg_listening_channels()"), "0");
}

/// In transaction mode the next client never finds what was kept for one alone, also where the reset query does nothing about it.
#[test]
fn what_kept_a_client_is_gone_with_it_whatever_the_reset_query_is() {
    let db = Db::new();
    for (pins, query) in [("on", ""), ("off", ""), ("on", "SELECT 1")] {
        let spec = Spec::of(&db).pool(1).text("server_reset_query", query).text("pin_sessions", pins);
        let proxy = spec.start();
        let mut b = proxy.client().login();
        for leaves in
            ["LISTEN news", "SELECT pg_advisory_lock(7)", "CREATE TEMP TABLE mine(a int)", "PREPARE p AS SELECT 1"]
        {
            let mut a = proxy.client().login();
            a.ok(leaves);
            if pins == "on" {
                a.close();
            }
            let left = "SELECT (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_prepared_statements WHERE from_sql) \
                 + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
                 + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())";
            assert_eq!(b.one(left), "0", "{pins} {query}: {leaves}");
        }
    }
}
