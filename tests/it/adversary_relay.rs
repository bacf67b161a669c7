//! What an adversary found on the relay's way: each test once failed.

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, let_run, ms, secs, until};
use crate::support::wire::{Wire, bind, copy_data, copy_done, execute, parse, query, sync};

/// The half message would swallow the requests of whoever gets the server next.
#[test]
fn trap_12_half_a_message_that_asks_nothing_never_reaches_the_next_client() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut leaver = proxy.client().login();
    let half = &copy_data(&[0; 5000])[..2000];
    leaver.send(&[&query("SELECT 1")[..], half].concat()).unwrap();
    leaver.recv_until(b'Z', 1).unwrap();
    drop(leaver);
    let mut next = proxy.client().login();
    next.limit(secs(10));
    assert_eq!(next.one("SELECT 'mine'"), "mine");
    eventually("no lease is left", secs(5), || proxy.pools("sv_active") == 0);
}

/// Its turn comes in the moment in which it has left: the leave that it was given has to be taken back.
#[test]
fn a_session_client_that_leaves_as_the_gate_opens_is_not_counted_for_ever() {
    let db = Db::new();
    let proxy = Spec::of(&db).session().start();
    let mut console = proxy.console().login();
    for round in 0..5 {
        let mut held = proxy.client().login();
        assert_eq!(held.one("SELECT 1"), "1");
        console.ok(&format!("PAUSE {}", db.name));
        // More than is read ahead: its departure shows at the next look only.
        held.send(&query("SELECT 2").repeat(5000)).unwrap();
        proxy.until_held(1);
        drop(held);
        console.ok(&format!("RESUME {}", db.name));
        let id = format!("w{round}");
        until("the window has run", secs(10), || match proxy.apply(&id, "drain='2s'", "SELECT 1").finish() {
            Ok(_) => Some(()),
            Err(error) => {
                let error = error.db();
                // RESUME answers while the pause is still releasing.
                assert!(error.message.ends_with("releasing"), "{error}");
                None
            }
        });
    }
}

/// What it has sent fills every buffer, so its departure cannot be read: its query must not run on for nobody. (Over TCP
/// the kernel tells of it only behind the bytes that it still holds, if those fit.)
#[test]
fn trap_48_a_client_that_leaves_behind_a_full_buffer_is_noticed() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut leaver = proxy.unix_client().login();
    leaver.start("SELECT pg_sleep(60)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    leaver.send_until_full(&query("SELECT 1").repeat(10_000));
    assert_eq!(db.running("pg_sleep").len(), 1);
    drop(leaver);
    eventually("its query is cancelled", secs(5), || db.running("pg_sleep").is_empty());
    let mut next = proxy.client().login();
    next.limit(secs(10));
    assert_eq!(next.one("SELECT 'mine'"), "mine");
}

/// The same client, but what it sent moves on: all of it is taken before its departure is noticed.
#[test]
fn what_moves_is_not_taken_for_left_behind() {
    let db = Db::with("CREATE TABLE t(a text)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut loader = proxy.client().login();
    loader.ok("BEGIN");
    loader.start("COPY t FROM STDIN").unwrap();
    loader.recv_until(b'G', 1).unwrap();
    let row = copy_data(format!("{}\n", "x".repeat(1000)).as_bytes());
    for _ in 0..50 {
        loader.send(&row.repeat(1000)).unwrap();
    }
    loader.send(&copy_done()).unwrap();
    assert!(loader.finish().is_ok());
    loader.ok("COMMIT");
    assert_eq!(db.one("SELECT count(*) FROM t"), "50000");
}

#[test]
fn trap_29_copy_data_sent_ahead_of_a_copy_that_fails_keeps_no_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    wire.send(&[query("COPY nothing FROM STDIN"), copy_data(b"1\n"), copy_done()].concat()).unwrap();
    wire.recv_until(b'Z', 1).unwrap();
    let mut next = proxy.client().login();
    next.limit(secs(5));
    assert_eq!(next.one("SELECT 'mine'"), "mine");
}

/// A Sync was sent ahead of COPY data, and the COPY fails before the server has read it: two ReadyForQuery come.
#[test]
fn trap_30_a_copy_that_fails_before_it_reads_leaves_no_surplus_answer() {
    let db = Db::with(
        "CREATE TABLE t(a int);
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.3); RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION no()",
    );
    let proxy = Spec::of(&db).pool(1).start();
    let copy = [parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat();
    for late in [true, false] {
        for _ in 0..5 {
            let mut wire = proxy.client().login();
            wire.send(&copy).unwrap();
            wire.recv_until(b'G', 1).unwrap();
            let rest = [copy_data(b"1\n"), copy_done(), sync()].concat();
            if late {
                let answer = wire.recv_until(b'Z', 1).unwrap();
                assert_eq!(answer[0].error().message, "no");
                wire.send(&rest).unwrap();
                wire.recv_until(b'Z', 1).unwrap();
                assert_eq!(wire.one("SELECT 'again'"), "again");
            } else {
                wire.send(&rest).unwrap();
                let mut next = proxy.client().login();
                next.start("SELECT 'mine'").unwrap();
                assert_eq!(wire.recv_until(b'Z', 1).unwrap()[0].error().message, "no");
                next.limit(secs(5));
                assert_eq!(next.finish().unwrap().one(), "mine");
            }
        }
    }
}

#[test]
fn nobody_goes_on_dialling_a_server_for_a_login_that_has_failed() {
    let db = Db::new();
    let proxy = Spec::of(&db).entry(&db, "dbname", "\"nowhere\"").start();
    assert!(proxy.client().connect().is_err());
    let tries = || proxy.log().matches("cannot open a server").count();
    // One more may follow for those who come next.
    let_run(ms(1600));
    let before = tries();
    let_run(ms(3000));
    assert_eq!(tries(), before, "still dialling, for nobody");
}

#[test]
fn a_table_made_by_a_query_is_gone_for_the_next_client() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).text("pin_sessions", "off").start();
    let extended = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    for (sql, table) in [
        ("CREATE TEMP TABLE a AS SELECT 1 AS x", "a"),
        ("SELECT 1 AS x INTO TEMP b", "b"),
        ("CREATE TEMP TABLE c AS SELECT 1 AS x WHERE false", "c"),
        ("SELECT 'a row first'; CREATE TEMP TABLE d AS SELECT 1 AS x; SELECT 'and last'", "d"),
        ("DO $$ BEGIN CREATE TEMP TABLE e(x int); END $$", "e"),
    ] {
        for simple in [true, false] {
            if !simple && sql.contains("; SELECT") {
                continue;
            }
            let mut wire = proxy.client().login();
            wire.send(&if simple { query(sql) } else { extended(sql) }).unwrap();
            wire.recv_until(b'Z', 1).unwrap();
            let mut next = proxy.client().login();
            let seen = next.one(&format!("SELECT (to_regclass('pg_temp.{table}') IS NULL)::text"));
            assert_eq!(seen, "true", "{sql} (simple: {simple})");
        }
    }
}

/// What is said at the end must not be taken for the rest of a row.
#[test]
fn no_farewell_is_written_into_half_a_row() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    wire.start("SELECT repeat('x', 60000000)").unwrap();
    assert_eq!(wire.recv().unwrap().tag, b'T');
    eventually("it is stuck", secs(10), || !db.running("repeat").is_empty());
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%repeat%' AND pid <> pg_backend_pid()");
    eventually("it is gone", secs(10), || db.servers() == 0);
    let bytes = wire.recv_to_end().unwrap();
    assert_eq!(bytes.first(), Some(&b'D'));
    assert!(!bytes.windows(7).any(|window| window == b"crashed"), "the farewell is in the row");
}

/// Postgres itself would refuse the log-in. To go on with other settings would mean wrong bytes.
#[test]
fn settings_that_postgres_refuses_are_not_dropped_in_silence() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let target = proxy.client().param("client_encoding", "LATIN1").param("TimeZone", "No/Where");
    let error = match target.connect() {
        Err(error) => error.db(),
        Ok(mut wire) => wire.query("SELECT chr(233)").unwrap_err().db(),
    };
    assert_eq!(error.code, "22023", "{error}");
    proxy.still_serves();
    assert_eq!(db.servers(), 1);
}

/// The unnamed statement is the server's: the next client's Bind without a Parse would run it.
#[test]
fn an_unnamed_statement_of_another_client_is_never_run() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.send(&[parse("", "SELECT 'theirs'"), sync()].concat()).unwrap();
    first.recv_until(b'Z', 1).unwrap();
    let mut second = proxy.client().login();
    second.send(&[bind("", "", &[]), execute("", 0), sync()].concat()).unwrap();
    let answer = second.recv().unwrap();
    assert_eq!(answer.tag, b'E');
    assert!(String::from_utf8_lossy(&answer.body).contains("26000"), "{answer:?}");
    // Its own goes on, on the same server.
    first.send(&[bind("", "", &[]), execute("", 0), sync()].concat()).unwrap();
    let tags: Vec<u8> = first.recv_until(b'Z', 1).unwrap().iter().map(|message| message.tag).collect();
    assert_eq!(tags, b"2DCZ");
}

/// Postgres gives such a connection up; its words reach the client, and nothing is kept of it.
#[test]
fn trap_31_a_request_inside_copy_data_ends_its_client_and_keeps_no_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.client().login();
    wire.ok("CREATE TABLE inside (n int)");
    wire.send(&query("COPY inside FROM STDIN")).unwrap();
    wire.recv_until(b'G', 1).unwrap();
    wire.send(&query("SELECT 1")).unwrap();
    let rest = wire.recv_to_end().unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("protocol synchronization was lost"), "{rest:?}");
    eventually("no lease is left", secs(5), || proxy.pools("sv_active") == 0);
    proxy.still_serves();
}

/// Whoever connects and says nothing takes no more places than there are.
#[test]
fn silent_connections_are_bounded_and_make_room_again() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 3).start();
    let addr = proxy.client().addr;
    // 13 more than the 3 and the 64 besides; which of them are turned away is not said.
    let mut silent: Vec<Wire> = (0..80).map(|_| Wire::open(&addr).unwrap()).collect();
    silent.iter().for_each(|wire| wire.limit(ms(5)));
    eventually("13 are turned away", secs(10), || {
        silent.retain_mut(|wire| !wire.recv_to_end().is_ok_and(|bytes| bytes.is_empty()));
        silent.len() == 67
    });
    let mut more = Wire::open(&addr).unwrap();
    assert!(more.recv_to_end().unwrap().is_empty());
    proxy.console().login().ok("SHOW POOLS");
    silent.clear();
    eventually("there is room again", secs(5), || proxy.client().connect().is_ok());
}

/// Answers that come in a burst are written behind each other. Whoever is sent away in between gets the one that is there, and a farewell
/// behind it: the commit that it tells of has happened.
#[test]
fn who_is_sent_away_in_a_burst_of_answers_gets_its_answer_and_a_farewell() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for round in 0..6 {
        let (answers, answered) = std::sync::mpsc::channel();
        let clients: Vec<_> = (0..24)
            .map(|_| {
                let (mut wire, answers) = (proxy.client().login(), answers.clone());
                std::thread::spawn(move || {
                    loop {
                        // Where it cannot be sent any more there still is something to be read.
                        let _ = wire.start("SELECT 1");
                        match wire.finish() {
                            Ok(reply) => assert_eq!(reply.one(), "1"),
                            Err(error) => return error,
                        }
                        let _ = answers.send(());
                    }
                })
            })
            .collect();
        for _ in 0..500 {
            answered.recv_timeout(secs(10)).unwrap();
        }
        proxy.admin(&format!("KILL {}", db.name));
        for client in clients {
            let end = client.join().unwrap();
            assert_eq!(end.db().code, "57P01", "round {round}");
        }
        proxy.admin(&format!("RESUME {}", db.name));
    }
}

/// What is left of a COPY that has failed, without end: it is thrown away as it comes, and the worker has others to serve.
#[test]
fn who_sends_without_end_what_asks_for_nothing_holds_up_nobody() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("worker_threads", 1).start();
    let (mut flood, mut other) = (proxy.client().login(), proxy.client().login());
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&over);
    let rows = copy_data(&[b'x'; 195]).repeat(1000);
    let flooding = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            flood.send(&rows).unwrap();
        }
        flood
    });
    for _ in 0..50 {
        other.limit(secs(5));
        assert_eq!(other.one("SELECT 1"), "1");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(flooding.join().unwrap().one("SELECT 2"), "2");
}
