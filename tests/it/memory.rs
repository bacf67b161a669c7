//! How much memory clients cost.

use std::time::Duration;

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::eventually;

#[test]
fn a_thousand_idle_clients_stay_below_40_mib() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 1100).start();
    let empty = proxy.rss_kib();
    let mut clients: Vec<_> = (0..1000).map(|_| proxy.client().login()).collect();
    let idle = proxy.rss_kib();
    // Having worked once must not leave a buffer behind.
    for wire in &mut clients {
        wire.ok("SELECT repeat('x', 20000)");
    }
    let worked = proxy.rss_kib();
    println!("resident: empty {empty} KiB, 1000 clients {idle} KiB, after a query each {worked} KiB");
    assert!(idle < 40 * 1024, "{idle} KiB with 1000 idle clients (empty: {empty} KiB)");
    assert!(worked < 40 * 1024, "{worked} KiB after each has run a query (before: {idle} KiB)");
    assert_eq!(clients[999].one("SELECT 1"), "1");
}

#[test]
fn what_a_crowd_took_is_given_back_when_it_has_left() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 2100).start();
    let mut one = proxy.client().login();
    let empty = proxy.rss_kib();
    let mut clients: Vec<_> = (0..2000).map(|_| proxy.client().login()).collect();
    for wire in &mut clients {
        wire.ok("SELECT 1");
    }
    let full = proxy.rss_kib();
    drop(clients);
    // Nobody asks for anything in the meantime: it is given back all the same.
    eventually("memory to be given back", Duration::from_secs(20), || proxy.rss_kib() < empty + (full - empty) / 2);
    assert_eq!(one.one("SELECT 1"), "1");
}
