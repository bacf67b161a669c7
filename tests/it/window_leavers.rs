//! Held clients that leave, in every way in which a client can leave.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Wire, bind, execute, msg_of, parse, sync};

/// Logs in and is held with something that must never run.
fn held(proxy: &Proxy, n: usize) -> Wire {
    let mut wire = proxy.client().login();
    wire.start(&format!("INSERT INTO accounts VALUES ({}, 1)", 1_000_000 + n)).unwrap();
    wire
}

/// W12. `IT_CROWD=10000` is as many as the catalogue of faults asks for.
#[test]
fn w12_held_clients_that_leave_are_forgotten_at_once() {
    let crowd: usize = std::env::var("IT_CROWD").map_or(600, |text| text.parse().unwrap());
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).num("max_client_conn", 15_000).window_num("max_held", 15_000).start();
    let open = proxy.open("w", "hold='300s', tenure='300s'");
    let mut stays = held(&proxy, 0);
    proxy.until_held(1);
    let mut figures = vec![(proxy.descriptors(), proxy.rss_kib())];
    let mut most = 0;
    for round in 0..3 {
        let all: Vec<Wire> = (1..=crowd).map(|n| held(&proxy, round * crowd + n)).collect();
        eventually("all are held", secs(60), || proxy.pools("cl_waiting") == crowd as u64 + 1);
        most = most.max(proxy.rss_kib());
        let mut silent = Vec::new();
        for (n, mut wire) in all.into_iter().enumerate() {
            match n % 3 {
                0 => wire.reset(),
                1 => drop(wire),
                // It says goodbye, and does not close.
                _ => {
                    wire.send(&msg_of(b'X', b"")).unwrap();
                    silent.push(wire);
                }
            }
        }
        eventually("nobody else is held any more", secs(20), || proxy.pools("cl_waiting") == 1);
        assert_eq!(proxy.held(), 1);
        for mut wire in silent {
            // It may have been told that it is held; that is all.
            wire.recv_to_end().unwrap();
        }
        eventually("their sockets are closed", secs(10), || proxy.descriptors() <= figures[0].0 + 2);
        figures.push((proxy.descriptors(), proxy.rss_kib()));
    }
    println!("{crowd} clients, three times: descriptors and KiB {figures:?}, {most} KiB while they were held");
    // The allocator keeps pages for the next crowd; it must not ask for more each time.
    let (second, third) = (figures[2].1, figures[3].1);
    assert!(third < second + 1024 + second / 10, "memory leaks: {figures:?}");
    proxy.close("w", &open["token"]);
    stays.finish().unwrap();
    let window = proxy.closed("w");
    assert_eq!((window["released"].as_str(), window["left"].as_str()), ("1", (3 * crowd).to_string().as_str()));
    assert_eq!(db.one("SELECT count(*) FROM accounts WHERE id >= 1000000"), "1", "what they left behind has run");
}

/// What it has sent ahead is called off, one after the other, before the drain is over.
#[test]
fn a_client_that_leaves_a_pipeline_behind_does_not_keep_the_drain() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(1).start();
    let mut client = proxy.client().login();
    let server = client.one("SELECT pg_backend_pid()");
    let slow = [parse("", "SELECT pg_sleep(60)"), bind("", "", &[]), execute("", 0), sync()].concat();
    client.send(&slow.repeat(14)).unwrap();
    eventually("it runs", secs(10), || !db.running("pg_sleep(60)").is_empty());
    drop(client);
    let reply = proxy.apply("w", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
    assert_eq!(reply.maps()[0]["outcome"], "applied");
    assert_eq!(proxy.client().login().one("SELECT pg_backend_pid()"), server, "its server was lost");
}
