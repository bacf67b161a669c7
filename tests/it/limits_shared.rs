//! Caps that several pools share: they hold, and nobody starves under them (trap 51).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tokio::time::Instant;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::Target;

/// A proxy whose clients log in to Postgres as themselves: users `u1_...` to `un_...`, with password `pw`.
fn with_users(db: &Db, count: usize, tune: impl FnOnce(Spec) -> Spec) -> (Proxy, Vec<String>) {
    let users: Vec<_> = (1..=count).map(|n| format!("u{n}_{}", db.name)).collect();
    let mut spec = Spec::of(db).entry(db, "user", "\"\"").entry(db, "password", "\"\"");
    for user in &users {
        db.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'pw'"));
        spec = spec.user(user, "pw");
    }
    (tune(spec).start(), users)
}

/// Looks at how many servers there are, all the time; what was the most.
fn watch(by: &str, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    // From another database, so that it counts nowhere.
    let mut eye = Db::new().root().login();
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {by} AND backend_type = 'client backend' AND usename <> 'postgres'"
    );
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut most = 0;
        while !stop.load(Ordering::Relaxed) {
            most = most.max(eye.one(&sql).parse().unwrap());
        }
        most
    })
}

/// Clients that run short transactions until they are told to stop; how many they ran.
fn busy(target: &Target, clients: usize, stop: &Arc<AtomicBool>) -> Vec<Arc<AtomicU64>> {
    let run = |_| {
        let (target, stop, done) = (target.clone(), Arc::clone(stop), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&done);
        thread::spawn(move || {
            let mut wire = target.login();
            while !stop.load(Ordering::Relaxed) {
                wire.ok("SELECT pg_sleep(0.002)");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        done
    };
    (0..clients).map(run).collect()
}

#[test]
fn max_db_connections_bounds_all_users_of_a_database() {
    let db = Db::new();
    let (proxy, users) = with_users(&db, 2, |spec| spec.entry(&db, "max_db_connections", "2"));
    let servers = || {
        db.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename LIKE 'u%'", db.name))
    };
    let mut first: Vec<_> = (0..3).map(|_| proxy.client_as(&users[0]).login()).collect();
    first[0].ok("BEGIN");
    first[1].ok("BEGIN");
    first[2].start("SELECT 'third'").unwrap();
    assert!(first[2].silent(ms(300)), "a third server was opened");
    first[0].ok("COMMIT");
    assert_eq!(first[2].finish().unwrap().one(), "third");
    // Another user's log-in needs a server: an idle one is closed for it, and none that is in use.
    let mut second = proxy.client_as(&users[1]).login();
    assert_eq!(second.one("SELECT current_user"), users[1]);
    assert_eq!(first[1].one("SELECT current_user"), users[0]);
    assert_eq!(servers(), "2");
    first[1].ok("COMMIT");
    eventually("each is served", secs(5), || first[2].one("SELECT 1") == "1" && second.one("SELECT 1") == "1");
    assert_eq!(servers(), "2");
}

#[test]
fn max_user_connections_bounds_a_user_in_all_databases() {
    let (db, other) = (Db::new(), Db::new());
    // Both entries force the same role.
    db.sql(&format!("GRANT CONNECT ON DATABASE {} TO {}", other.name, db.user));
    let spec = Spec::of(&db).also(&other).num("max_user_connections", 2);
    let spec = spec.entry(&other, "user", &format!("{:?}", db.user));
    let proxy = spec.entry(&other, "password", &format!("{:?}", db.password)).start();
    let mut here: Vec<_> = (0..2).map(|_| proxy.client_of(&db).login()).collect();
    here.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    let target = proxy.client_of(&other);
    let waiting = thread::spawn(move || {
        let mut wire = target.login();
        wire.one("SELECT current_database()")
    });
    let servers = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{}'", db.user);
    eventually("both are used", secs(5), || db.one(&servers) == "2");
    crate::support::wait::let_run(ms(300));
    assert!(!waiting.is_finished(), "a third server was opened");
    here[0].ok("COMMIT");
    assert_eq!(waiting.join().unwrap(), other.name);
    assert_eq!(db.one(&servers), "2");
    here[1].ok("COMMIT");
}

/// Who is held has no use for a server: another database keeps those that it has until the gate opens.
#[test]
fn trap_51_the_held_take_no_server_from_another_database() {
    let (db, other) = (Db::new(), Db::new());
    db.sql(&format!("GRANT CONNECT ON DATABASE {} TO {}", other.name, db.user));
    let spec = Spec::of(&db).also(&other).num("max_user_connections", 2);
    let spec = spec.entry(&other, "user", &format!("{:?}", db.user));
    let proxy = spec.entry(&other, "password", &format!("{:?}", db.password)).start();
    // A log-in may need a server.
    let mut held: Vec<_> = (0..3).map(|_| proxy.client().login()).collect();
    let mut theirs: Vec<_> = (0..2).map(|_| proxy.client_of(&other).login()).collect();
    let mut servers = || {
        theirs.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
        let mut pids: Vec<_> = theirs.iter_mut().map(|wire| wire.one("SELECT pg_backend_pid()")).collect();
        theirs.iter_mut().for_each(|wire| drop(wire.ok("COMMIT")));
        pids.sort();
        pids
    };
    let before = servers();
    let open = proxy.open("w", "hold='60s', tenure='60s'");
    held.iter_mut().for_each(|wire| wire.start("SELECT 'served'").unwrap());
    proxy.until_held(3);
    // The upkeep looks once a second for what is missing.
    crate::support::wait::let_run(ms(1500));
    assert_eq!(servers(), before);
    proxy.close("w", &open["token"]);
    for wire in &mut held {
        wire.limit(secs(10));
        assert_eq!(wire.finish().unwrap().one(), "served");
    }
}

#[test]
fn trap_51_a_busy_user_does_not_starve_another_under_a_shared_cap() {
    let db = Db::new();
    let (proxy, users) = with_users(&db, 2, |spec| spec.entry(&db, "max_db_connections", "2"));
    let stop = Arc::new(AtomicBool::new(false));
    let most = watch(&format!("datname = '{}'", db.name), &stop);
    let load = busy(&proxy.client_as(&users[0]), 12, &stop);
    eventually("the load runs", secs(10), || load.iter().all(|done| done.load(Ordering::Relaxed) > 5));
    let begun = Instant::now();
    let mut quiet = proxy.client_as(&users[1]).login();
    for _ in 0..50 {
        quiet.ok("SELECT 1");
    }
    let took = begun.elapsed();
    assert!(took < secs(20), "50 requests of the quiet user took {took:?}");
    let before: Vec<_> = load.iter().map(|done| done.load(Ordering::Relaxed)).collect();
    eventually("the busy ones go on", secs(10), || {
        load.iter().zip(&before).all(|(done, before)| done.load(Ordering::Relaxed) > before + 5)
    });
    stop.store(true, Ordering::Relaxed);
    assert!(most.join().unwrap() <= 2, "more servers than the cap");
}

#[test]
fn trap_51_more_busy_users_than_places_take_turns() {
    let db = Db::new();
    let (proxy, users) = with_users(&db, 5, |spec| spec.entry(&db, "max_db_connections", "2"));
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = users.iter().map(|user| busy(&proxy.client_as(user), 3, &stop)).collect();
    for round in 0..3 {
        let count =
            |load: &Vec<Arc<AtomicU64>>| load.iter().map(|done| done.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before: Vec<_> = loads.iter().map(count).collect();
        eventually(&format!("every client of every user is served, round {round}"), secs(20), || {
            loads.iter().zip(&before).all(|(load, before)| count(load).iter().zip(before).all(|(now, then)| now > then))
        });
    }
    stop.store(true, Ordering::Relaxed);
}
