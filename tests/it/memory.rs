//! How much memory clients cost.

use crate::support::postgres::Db;
use crate::support::proxy::Spec;

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
