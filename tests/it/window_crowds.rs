//! Crowds at a shut gate: hundreds who log in, who are let go at once, and storms of cancel requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::tls::client_config;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::Wire;

/// Cancels what these clients run, again and again, each on a connection of its own; gives how many were sent.
fn storm(targets: Vec<Wire>, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            targets.iter().for_each(Wire::cancel);
            sent += targets.len() as u64;
        }
        sent
    })
}

/// Over TCP and TLS, on both sides of the proxy. Who runs something in the drain is cancelled at once, which ends the drain; who has
/// nothing that runs has nothing that could be hit; and those who were held are not kept waiting by what is left of the storm.
fn a_storm_of_cancels(tls_to_postgres: bool) {
    let db = Db::with(ACCOUNTS);
    let spec = Spec::of(&db).pool(12).client_tls("prefer");
    let proxy = if tls_to_postgres { spec.server_tls("require") } else { spec }.alone().start();
    let sealed = proxy.client().tls(&client_config(false, None), false);
    let loads = [Load::start(&proxy.client(), 12, short_work), Load::start(&sealed, 12, short_work)];
    loads.iter().for_each(|load| load.progress(2));
    let stop = Arc::new(AtomicBool::new(false));
    let targets = || [proxy.client(), sealed.clone()].into_iter();
    let storms: Vec<_> = targets().map(|target| storm((0..4).map(|_| target.login()).collect(), &stop)).collect();
    for n in 0..3 {
        let mut victims: Vec<Wire> = targets().chain(targets()).map(|target| target.login()).collect();
        for wire in &mut victims {
            wire.ok("BEGIN");
            wire.start("SELECT pg_sleep(30)").unwrap();
        }
        eventually("they run", secs(10), || db.running("pg_sleep(30)").len() == victims.len());
        let mut window = proxy.apply(&format!("w{n}"), "drain='20s', hold='30s', force", "SELECT pg_sleep(0.05)");
        proxy.until_phase(&format!("w{n}"), "draining");
        proxy.until_held(24);
        let began = Instant::now();
        for _ in 0..5 {
            victims.iter().for_each(Wire::cancel);
        }
        for mut wire in victims {
            wire.limit(secs(5));
            assert_eq!(wire.finish().unwrap_err().db().code, "57014");
            wire.close();
        }
        let row = window.finish().unwrap().maps().remove(0);
        loads.iter().for_each(|load| load.progress(1));
        let took = began.elapsed();
        println!("everybody was served {took:?} after the cancels: {row:?}");
        assert_eq!(row["outcome"], "applied", "{row:?}");
        assert!(took < secs(5), "{took:?}: {row:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let sent: u64 = storms.into_iter().map(|storm| storm.join().unwrap()).sum();
    println!("{sent} cancels at clients with nothing to cancel");
    assert!(sent > 100, "{sent}");
    loads.into_iter().for_each(|load| load.stop().assert_clean());
}

#[test]
fn a_storm_of_cancels_in_the_drain_holds_nobody_up() {
    a_storm_of_cancels(false);
}

#[test]
fn a_storm_of_cancels_in_the_drain_holds_nobody_up_with_tls_to_postgres() {
    a_storm_of_cancels(true);
}

/// Logs in and asks, `count` times in each of `threads` threads; gives the slowest log-in and the clients, all of them held.
fn crowd_logs_in(proxy: &Proxy, threads: usize, count: usize) -> (Duration, Vec<Wire>) {
    let crowd: Vec<_> = (0..threads)
        .map(|_| {
            let target = proxy.client();
            thread::spawn(move || {
                let logs_in = |_| {
                    let began = Instant::now();
                    let wire = target.login();
                    (began.elapsed(), wire)
                };
                (0..count).map(logs_in).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut wires = Vec::new();
    let mut slowest = ms(0);
    for (took, mut wire) in crowd.into_iter().flat_map(|thread| thread.join().unwrap()) {
        slowest = slowest.max(took);
        wire.start("SELECT 'served'").unwrap();
        wires.push(wire);
    }
    (slowest, wires)
}

/// With `auth_query`, SCRAM, and a pool that has never had a server.
#[test]
fn w16_log_ins_complete_in_the_hold() {
    const CROWD: usize = 60;
    let db = Db::with(ACCOUNTS);
    let looker = format!("look_{}", db.user);
    db.sql(&format!("CREATE ROLE {looker} LOGIN SUPERUSER PASSWORD 'pw of looker'"));
    let proxy = Spec::of(&db)
        .unforced(&db)
        .text("auth_type", "scram-sha-256")
        .text("auth_user", &looker)
        .user(&looker, "pw of looker")
        .no_user(&db.user)
        .num("max_client_conn", 2000)
        .pool(5)
        .start();
    let open = proxy.open("w", "hold='300s', tenure='300s'");
    let began = Instant::now();
    let (slowest, mut wires) = crowd_logs_in(&proxy, 4, CROWD / 4);
    let took = began.elapsed();
    proxy.until_held(CROWD);
    println!("{CROWD} log-ins in the hold within {took:?}, the slowest took {slowest:?}");
    assert!(slowest < secs(5), "{slowest:?}");
    // Whoever asks for the state of things is not held.
    let began = Instant::now();
    assert_eq!(proxy.held(), CROWD);
    assert!(proxy.metrics_text().contains("pglull_held_clients"));
    assert!(began.elapsed() < secs(2));
    proxy.close("w", &open["token"]);
    for wire in &mut wires {
        assert_eq!(wire.finish().unwrap().one(), "served");
    }
    assert!(db.servers() <= 5);
}

/// Asks again and again until it is told to stop; gives how often it did and the slowest answer.
fn asks(stop: &Arc<AtomicBool>, mut ask: impl FnMut() + Send + 'static) -> thread::JoinHandle<(u64, Duration)> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut count, mut slowest) = (0, ms(0));
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            ask();
            (count, slowest) = (count + 1, slowest.max(began.elapsed()));
        }
        (count, slowest)
    })
}

/// As fast as they come (about 1000 a second where nothing else runs), with `auth_query` and a pool that has never had a
/// server; probes, the console and the metrics are answered meanwhile. `IT_CROWD` sets how many.
#[test]
fn w16_a_rush_of_log_ins_in_the_hold_while_probes_console_and_metrics_answer() {
    let crowd: usize = std::env::var("IT_CROWD").map_or(600, |text| text.parse().unwrap());
    let db = Db::with(ACCOUNTS);
    let looker = format!("look_{}", db.user);
    db.sql(&format!("CREATE ROLE {looker} LOGIN SUPERUSER PASSWORD 'pw of looker'"));
    db.sql(&format!("SET password_encryption = md5; ALTER ROLE {} PASSWORD '{}'", db.user, db.password));
    let prober = format!("probe_{}", db.user);
    db.sql(&format!("CREATE ROLE {prober} LOGIN PASSWORD 'pw'"));
    let spec = Spec::of(&db).unforced(&db).text("auth_type", "md5").text("auth_user", &looker);
    let spec = spec.user(&looker, "pw of looker").no_user(&db.user).user(&prober, "pw");
    let spec = spec.num("max_client_conn", 15_000).window_num("max_held", 15_000).window("probes", "user=probe*");
    let proxy = spec.pool(5).start();
    let open = proxy.open("w", "hold='300s', tenure='300s'");
    let stop = Arc::new(AtomicBool::new(false));
    let mut probe = proxy.client_as(&prober).login();
    let mut console = proxy.console().login();
    let address = ("127.0.0.1", proxy.metrics);
    let others = [
        ("probe", asks(&stop, move || assert_eq!(probe.one("SELECT 1"), "1"))),
        ("console", asks(&stop, move || drop(console.ok("SHOW POOLS")))),
        ("metrics", asks(&stop, move || assert!(fetch(address).contains("pglull_held_clients")))),
    ];
    let began = Instant::now();
    let (slowest, mut wires) = crowd_logs_in(&proxy, 4, crowd / 4);
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    println!("{} log-ins within {took:?}, the slowest took {slowest:?}", wires.len());
    assert!(slowest < secs(5), "{slowest:?}");
    for (what, thread) in others {
        let (count, slowest) = thread.join().unwrap();
        println!("{what}: answered {count} times, the slowest took {slowest:?}");
        assert!(count > 0 && slowest < secs(2), "{what}: {slowest:?}");
    }
    eventually("all are held", secs(20), || proxy.pools("cl_held") == wires.len() as u64);
    proxy.close("w", &open["token"]);
    for wire in &mut wires {
        assert_eq!(wire.finish().unwrap().one(), "served");
    }
}

fn fetch(address: (&str, u16)) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(10))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Hundreds are let go at once: Postgres sees no more of them than the pool has servers, and another database sees nothing.
#[test]
fn w22_a_crowd_is_let_go_at_the_pace_of_its_pool() {
    const CROWD: usize = 600;
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy =
        Spec::of(&db).also(&other).pool(20).num("max_client_conn", 5000).window_num("max_held", 5000).alone().start();
    let open = proxy.open("w", "hold='300s', tenure='300s'");
    let (_, mut crowd) = crowd_logs_in(&proxy, 2, CROWD / 2);
    proxy.until_held(CROWD);
    let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let neighbour = {
        let (target, stop, longest) = (proxy.client_of(&other), Arc::clone(&stop), Arc::clone(&longest));
        thread::spawn(move || {
            let mut wire = target.login();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                wire.one("SELECT 1");
                longest.fetch_max(u64::try_from(began.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            }
        })
    };
    eventually("the neighbour works", secs(5), || longest.swap(0, Ordering::Relaxed) > 0);
    let released = Instant::now();
    proxy.close("w", &open["token"]);
    for wire in &mut crowd {
        assert_eq!(wire.finish().unwrap().one(), "served");
    }
    let took = released.elapsed();
    stop.store(true, Ordering::Relaxed);
    neighbour.join().unwrap();
    let neighbours = longest.load(Ordering::Relaxed);
    println!("{CROWD} were served {took:?} after the release; the slowest query of a neighbour took {neighbours} ms");
    assert!(took < secs(10), "{took:?}");
    assert!(neighbours < 500, "{neighbours} ms");
    assert!(db.servers() <= 20);
    let window = proxy.window("w");
    assert_eq!(window["released"], CROWD.to_string(), "{window:?}");
}
