//! Windows under load, with a clock: nobody sees an error, and nobody waits longer than said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use tokio::time::Instant;

use crate::support::load::{ACCOUNTS, Load, short_work, slow_work};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{ms, secs};
use crate::support::wire::{bind, execute, parse, sync};

fn number(row: &std::collections::BTreeMap<String, String>, key: &str) -> u64 {
    row[key].parse().unwrap_or_else(|_| panic!("{key} in {row:?}"))
}

#[test]
fn a_change_under_load_is_one_slow_query_for_everybody() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(20).alone().start();
    let load = Load::start(&proxy.client(), 60, short_work);
    let slow = Load::start(&proxy.client(), 4, slow_work);
    load.progress(2);
    slow.progress(1);
    let sql = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7; \
               ALTER TABLE accounts ALTER COLUMN extra TYPE bigint; SELECT pg_sleep(0.2)";
    let row = proxy.apply("big", "", sql).finish().unwrap().maps().remove(0);
    load.progress(2);
    slow.progress(1);
    let (load, slow) = (load.stop(), slow.stop());
    load.assert_clean();
    slow.assert_clean();
    assert_eq!(row["outcome"], "applied", "{row:?}");
    assert!(db.has_column("accounts", "extra"));
    println!("{row:?}, longest seen by a client: {:?}", load.longest);
    // The longest transaction sleeps for 200 ms; what it and its commit need besides on a busy
    // machine is the rest.
    let drain = number(&row, "drain_ms");
    assert!(drain <= 260, "drained in {drain} ms");
    // The figures agree with one another and with what the clients have measured.
    assert!(number(&row, "apply_ms") >= 200, "{row:?}");
    assert!(number(&row, "held_peak") >= 20, "{row:?}");
    let stall = number(&row, "stall_max_ms");
    assert!(stall >= 200, "{row:?}");
    assert!(u128::from(stall) <= load.longest.max(slow.longest).as_millis() + 5, "{stall} ms");
    let whole = drain + number(&row, "apply_ms");
    assert!(load.longest < ms(whole + 500), "a client waited for {:?}, {row:?}", load.longest);
}

#[test]
fn twenty_windows_in_a_row() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(10).start();
    let load = Load::start(&proxy.client(), 32, short_work);
    let slow = Load::start(&proxy.client(), 2, slow_work);
    load.progress(1);
    proxy.apply("warm", "", "SELECT 1").finish().unwrap();
    let (descriptors, memory) = (proxy.descriptors(), proxy.rss_kib());
    for n in 0..20 {
        let sql = format!("ALTER TABLE accounts ADD COLUMN c{n} int NOT NULL DEFAULT {n}");
        let row = proxy.apply(&format!("w{n}"), "", &sql).finish().unwrap().maps().remove(0);
        assert_eq!(row["outcome"], "applied", "{row:?}");
        load.progress(1);
    }
    load.stop().assert_clean();
    slow.stop().assert_clean();
    assert_eq!(db.one("SELECT c0 + c19 FROM accounts WHERE id = 1"), "19");
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 21);
    assert!(proxy.descriptors() <= descriptors + 3, "descriptors leak");
    assert!(proxy.rss_kib() < memory + 6 * 1024, "memory leaks");
    let metrics = proxy.metrics_text();
    assert!(metrics.lines().any(|line| line.contains("applied") && line.ends_with(" 21")), "{metrics}");
}

/// W25. `IT_WINDOWS=500 cargo test --test it w25` takes as many as one wants to wait for.
#[test]
fn w25_windows_back_to_back_under_load_leave_nothing_behind() {
    let rounds: usize = std::env::var("IT_WINDOWS").map_or(60, |text| text.parse().unwrap());
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(10).start();
    let load = Load::start(&proxy.client(), 24, short_work);
    load.progress(2);
    // Half of them fail: what they leave must be as little.
    let window = |n: usize| {
        let column = n / 4;
        let (sql, outcome) = match n % 4 {
            0 => (format!("ALTER TABLE accounts ADD COLUMN c{column} int"), "applied"),
            1 => ("ALTER TABLE accounts ADD COLUMN n int".to_owned(), "aborted"),
            2 => (format!("ALTER TABLE accounts DROP COLUMN c{column}"), "applied"),
            _ => ("VACUUM accounts".to_owned(), "refused"),
        };
        let _ = proxy.apply(&format!("w{n}"), "", &sql).finish();
        let window = proxy.closed(&format!("w{n}"));
        assert_eq!(window["outcome"], outcome, "{window:?}");
    };
    // The list of windows fills up first: it keeps 200.
    let warm = (rounds / 3).max(20);
    (0..warm).for_each(window);
    let (descriptors, memory) = (proxy.descriptors(), proxy.rss_kib());
    let began = Instant::now();
    (warm..rounds).for_each(window);
    load.progress(1);
    let (after, grown) = (proxy.descriptors(), proxy.rss_kib().saturating_sub(memory));
    println!(
        "{} windows in {:?}: descriptors {descriptors} -> {after}, memory {memory} KiB + {grown} KiB",
        rounds - warm,
        began.elapsed()
    );
    let report = load.stop();
    println!("{} transactions, the longest took {:?}", report.transactions, report.longest);
    report.assert_clean();
    assert!(after <= descriptors + 3, "descriptors leak");
    assert!(grown < 6 * 1024, "memory leaks");
}

#[test]
fn windows_without_any_client() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    for n in 0..10 {
        proxy.apply(&format!("w{n}"), "", "SELECT 1").finish().unwrap();
    }
    let open = proxy.open("o", "");
    assert_eq!(open["held_now"], "0");
    proxy.close("o", &open["token"]);
}

#[test]
fn the_last_of_64_held_clients_is_served_within_100_ms() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(20).alone().start();
    // The servers are there, as they are under load.
    let mut warm: Vec<_> = (0..20).map(|_| proxy.client().login()).collect();
    warm.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    warm.iter_mut().for_each(|wire| drop(wire.ok("COMMIT")));
    let open = proxy.open("herd", "hold='20s', tenure='25s'");
    let barrier = Arc::new(Barrier::new(64));
    let clients: Vec<_> = (0..64)
        .map(|n| {
            let (target, barrier) = (proxy.client(), Arc::clone(&barrier));
            thread::spawn(move || {
                let mut wire = target.login();
                barrier.wait();
                wire.ok(&format!("UPDATE accounts SET n = n + 1 WHERE id = {n}"));
                Instant::now()
            })
        })
        .collect();
    proxy.until_held(64);
    let mut console = proxy.console().login();
    let command = format!("WINDOW CLOSE herd TOKEN '{}'", open["token"]);
    let released = Instant::now();
    console.ok(&command);
    let last = clients.into_iter().map(|client| client.join().unwrap()).max().unwrap();
    let took = last - released;
    println!("64 held clients, pool 20: the last was served {took:?} after the release");
    assert!(took <= ms(100), "{took:?}");
    assert!(db.servers() <= 20);
    assert_eq!(db.one("SELECT sum(n) FROM accounts"), "64");
}

/// Held clients are served in the order of their coming.
#[test]
fn held_clients_are_released_in_order() {
    let db = Db::with("CREATE TABLE t(id serial, who int)");
    let proxy = Spec::of(&db).pool(1).start();
    let open = proxy.open("order", "hold='20s', tenure='25s'");
    let mut queue = vec![];
    for who in 0..10 {
        let mut wire = proxy.client().login();
        wire.start(&format!("INSERT INTO t(who) VALUES ({who})")).unwrap();
        proxy.until_held(who + 1);
        queue.push(wire);
    }
    proxy.close("order", &open["token"]);
    for wire in &mut queue {
        wire.finish().unwrap();
    }
    let order = db.one("SELECT string_agg(who::text, ' ' ORDER BY id) FROM t");
    assert_eq!(order, "0 1 2 3 4 5 6 7 8 9");
}

/// A client that waits for a server when the gate shuts is held before those that come later.
#[test]
fn waiters_move_into_the_hold_in_order() {
    let db = Db::with("CREATE TABLE t(id serial, who text)");
    let proxy = Spec::of(&db).pool(1).start();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let mut waiter = proxy.client().login();
    waiter.start("INSERT INTO t(who) VALUES ('waiter')").unwrap();
    crate::support::wait::eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    let window = proxy.apply("w", "drain='10s'", "ALTER TABLE t ADD COLUMN c int");
    proxy.until_phase("w", "draining");
    proxy.until_held(1);
    let mut late = proxy.client().login();
    late.start("INSERT INTO t(who) VALUES ('late')").unwrap();
    proxy.until_held(2);
    open.ok("COMMIT");
    let mut window = window;
    window.finish().unwrap();
    waiter.finish().unwrap();
    late.finish().unwrap();
    assert_eq!(db.one("SELECT string_agg(who, ' ' ORDER BY id) FROM t"), "waiter late");
}

/// Each batch is one transaction; a gate in the middle of it would show as two.
#[test]
fn a_pipelining_client_is_held_between_batches_and_never_within_one() {
    let db = Db::with("CREATE TABLE t(batch int, part int, xid bigint, at timestamptz DEFAULT clock_timestamp())");
    let proxy = Spec::of(&db).pool(4).start();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (target, stop) = (proxy.client(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut wire = target.login();
                let (mut sent, mut answered) = (0_usize, 0);
                while !stop.load(Ordering::Relaxed) || answered < sent {
                    // Up to 8 batches are in flight, and they do not wait for one another.
                    while !stop.load(Ordering::Relaxed) && sent < answered + 8 {
                        let batch = (client * 1_000_000 + sent).to_string();
                        let mut bytes = parse("", "INSERT INTO t VALUES ($1, $2, txid_current())");
                        for part in ["1", "2", "3"] {
                            bytes.extend(bind("", "", &[Some(batch.as_bytes()), Some(part.as_bytes())]));
                            bytes.extend(execute("", 0));
                        }
                        bytes.extend(sync());
                        // In two writes, so that a batch also arrives in pieces.
                        let cut = bytes.len() * (sent % 7) / 7;
                        wire.send(&bytes[..cut]).unwrap();
                        wire.send(&bytes[cut..]).unwrap();
                        sent += 1;
                    }
                    let answer = wire.recv_until(b'Z', 1).unwrap();
                    let tags: Vec<u8> = answer.iter().map(|msg| msg.tag).collect();
                    assert_eq!(tags, b"12C2C2CZ", "{answer:?}");
                    answered += 1;
                }
                sent
            })
        })
        .collect();
    for n in 0..8 {
        let open = proxy.open(&format!("w{n}"), "");
        // While the gate is shut nothing runs, and no batch is there in part.
        let rows = || db.one("SELECT count(*) FROM t");
        let before = rows();
        assert_eq!(db.one("SELECT count(*) FROM (SELECT 1 FROM t GROUP BY batch HAVING count(*) <> 3) x"), "0");
        proxy.until_held(4);
        assert_eq!(rows(), before, "something ran behind a shut gate");
        proxy.close(&format!("w{n}"), &open["token"]);
        crate::support::wait::eventually("the clients go on", secs(5), || rows() != before);
    }
    stop.store(true, Ordering::Relaxed);
    let sent: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(db.one("SELECT count(*) FROM t"), (sent * 3).to_string());
    let split = db.one(
        "SELECT count(*) FROM (SELECT 1 FROM t GROUP BY batch HAVING count(DISTINCT xid) <> 1 OR count(*) <> 3) x",
    );
    assert_eq!(split, "0", "batches that ran in parts");
}
