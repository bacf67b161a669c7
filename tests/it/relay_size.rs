//! Large values, slow readers, and a driver: what goes through must not stay in memory.

use futures_util::SinkExt;

use crate::relay::{Bench, Send, Step, Z, q};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, let_run, ms, secs};
use crate::support::wire::*;

#[test]
fn trap_11_large_values_of_many_sizes() {
    let script: Vec<Step> = [0, 1, 4095, 4096, 8187, 8192, 16_379, 16_384, 65_536, 300_000]
        .into_iter()
        .flat_map(|size| {
            let value = "v".repeat(size);
            [
                Send([extended("SELECT $1::text, length($1)", &[&value]), sync()].concat()),
                Z,
                q(&format!("SELECT repeat('w', {size})")),
                Z,
            ]
        })
        .collect();
    let bench = Bench::new("");
    let direct = bench.play(&bench.db.direct(), &script, usize::MAX);
    for slice in [usize::MAX, 4096, 1000] {
        assert!(bench.play(&bench.proxy.client(), &script, slice) == direct, "in slices of {slice}");
    }
}

const MIB: u64 = 1024;

/// Reads the answer to a query whose row is `size` bytes long, keeping nothing.
fn read_big_row(wire: &mut Wire, size: usize) {
    let mut row = 0;
    loop {
        let (tag, len) = wire.skim().unwrap();
        match tag {
            b'D' => row = len,
            b'E' => panic!("an error instead of the row"),
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(row, size + 6);
}

#[test]
fn trap_11_a_row_of_100_mb_streams_through_in_bounded_memory() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.ok("SELECT 1");
    let before = proxy.peak_kib();
    wire.start("SELECT repeat('x', 100000000)").unwrap();
    // A reader that does not read for a while: the proxy must not read ahead for it.
    let_run(ms(300));
    read_big_row(&mut wire, 100_000_000);
    let value = "y".repeat(50_000_000);
    wire.send(&[extended("SELECT length($1::text)", &[&value]), sync()].concat()).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    let row = answer.iter().find(|msg| msg.tag == b'D').unwrap();
    assert_eq!(row.values(), [Some("50000000".to_owned())]);
    // Two buffers of 64 KiB, and what of the program was not in memory before.
    let grown = proxy.peak_kib() - before;
    println!("memory grew by {grown} KiB");
    assert!(grown < 4 * MIB, "memory grew by {grown} KiB");
}

#[test]
fn a_reader_that_never_reads_hurts_nobody() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let before = proxy.peak_kib();
    let mut lazy = proxy.client().login();
    lazy.start("SELECT repeat('x', 1000) FROM generate_series(1, 300000)").unwrap();
    eventually("the lazy reader's query runs", secs(5), || proxy.pools("sv_active") == 1);
    for _ in 0..20 {
        proxy.still_serves();
    }
    let grown = proxy.peak_kib() - before;
    assert!(grown < 16 * MIB, "memory grew by {grown} KiB");
    drop(lazy);
    // Its server is cleaned up or closed, and does not stay taken.
    eventually("its server is free again", secs(10), || proxy.pools("sv_active") == 0);
    proxy.still_serves();
}

#[test]
fn a_driver_works_through_it() {
    let db = Db::with("CREATE TABLE t(a int, b text)");
    let proxy = Spec::of(&db).session().start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = format!("host=127.0.0.1 port={} user={} dbname={} password=x", proxy.port, db.user, db.name);
    runtime.block_on(async {
        let (mut client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let tx = client.transaction().await.unwrap();
        tx.execute("INSERT INTO t VALUES ($1, $2)", &[&1_i32, &"x"]).await.unwrap();
        tx.commit().await.unwrap();
        let rows = client.query("SELECT a, b FROM t WHERE a = $1", &[&1_i32]).await.unwrap();
        assert_eq!(rows[0].get::<_, String>(1), "x");
        let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(b"2\ty\n3\tz\n")).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 2);
        assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 3);
        drop(client);
        driver.await.unwrap().unwrap();
    });
}
