//! Sorts of operators and clients that a window meets: some do not read, some keep a server, some have no patience.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, let_run, ms, secs};

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(8).start();
    (db, proxy)
}

/// As one whose process was stopped, or whose network takes nothing any more. The window ends by its own plan.
#[test]
fn w01_an_operator_that_reads_nothing_keeps_no_window() {
    let (db, proxy) = scene();
    let noise = "ALTER TABLE accounts ADD COLUMN extra int; \
                 DO 'BEGIN FOR i IN 1..3000 LOOP RAISE WARNING ''%'', repeat(''x'', 2000); END LOOP; END'";
    let _deaf = proxy.apply("deaf", "", noise);
    assert_eq!(proxy.closed("deaf")["outcome"], "applied");
    assert!(db.has_column("accounts", "extra"));
    let _open = proxy.open("silent", "tenure='400ms'");
    assert_eq!(proxy.closed("silent")["outcome"], "aborted");
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let _draining = proxy.apply("draining", "drain='500ms'", "SELECT 1");
    assert_eq!(proxy.closed("draining")["outcome"], "aborted");
    open.ok("COMMIT");
    proxy.still_serves();
}

/// Who keeps a server is listed with the reason, is held between transactions like all others, and has the same session
/// afterwards; a notification for it comes all the same.
#[test]
fn w09_clients_that_keep_their_server_keep_it_over_a_window() {
    let (db, proxy) = scene();
    let ways = [
        ("LISTEN news", "SELECT pg_listening_channels()", "news"),
        ("CREATE TEMP TABLE mine AS SELECT 7 AS a", "SELECT a FROM mine", "7"),
        (
            "SELECT pg_advisory_lock(42)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "1",
        ),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 3; COMMIT", "FETCH c", "3"),
    ];
    let mut wires = ways.map(|(first, ..)| {
        let mut wire = proxy.client().login();
        wire.ok(first);
        let pid = wire.one("SELECT pg_backend_pid()");
        (wire, pid)
    });
    let pinned = || proxy.admin("SHOW CLIENTS").maps().into_iter().filter(|row| !row["pinned"].is_empty()).count();
    eventually("they are listed", secs(5), || pinned() == ways.len());
    let open = proxy.open("w", "hold='30s', tenure='30s'");
    for ((wire, _), (_, ask, _)) in wires.iter_mut().zip(ways) {
        wire.start(ask).unwrap();
    }
    proxy.until_held(ways.len());
    db.sql("NOTIFY news, 'in the hold'");
    db.sql("ALTER TABLE accounts ADD COLUMN extra int");
    proxy.close("w", &open["token"]);
    let mut notified = false;
    for ((wire, pid), (first, _, answer)) in wires.iter_mut().zip(ways) {
        let messages = wire.recv_until(b'Z', 1).unwrap();
        notified |= messages.iter().any(|msg| msg.tag == b'A');
        let row = messages.iter().find(|msg| msg.tag == b'D').unwrap_or_else(|| panic!("{first}: {messages:?}"));
        assert_eq!(row.values()[0].as_deref(), Some(answer), "{first}");
        assert_eq!(wire.one("SELECT pg_backend_pid()"), *pid, "{first}: it was moved");
    }
    assert!(notified, "the notification was lost");
}

/// What a client has asked Postgres to bound does not run in the hold, so that bound does not strike; a client whose own
/// patience ends cancels or leaves, and its request never runs.
#[test]
fn w15_clients_with_less_patience_than_the_hold() {
    let (db, proxy) = scene();
    let mut bounded = proxy.client().login();
    bounded.ok("SET statement_timeout = '300ms'; SET lock_timeout = '300ms'");
    let [mut cancels, mut leaves] = [0, 1].map(|_| proxy.client().login());
    let open = proxy.open("w", "hold='30s', tenure='30s'");
    bounded.start("UPDATE accounts SET n = 1 WHERE id = 1").unwrap();
    cancels.start("UPDATE accounts SET n = 2 WHERE id = 2").unwrap();
    leaves.start("UPDATE accounts SET n = 3 WHERE id = 3").unwrap();
    proxy.until_held(3);
    let_run(ms(400));
    cancels.cancel();
    assert_eq!(cancels.finish().unwrap_err().db().code, "57014");
    drop(leaves);
    proxy.until_held(1);
    proxy.close("w", &open["token"]);
    bounded.finish().unwrap();
    assert_eq!(cancels.one("SELECT 'goes on'"), "goes on");
    assert_eq!(db.one("SELECT string_agg(n::text, ' ' ORDER BY id) FROM accounts WHERE id IN (1, 2, 3)"), "1 0 0");
}
