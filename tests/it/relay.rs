//! What goes through is what Postgres said: each script runs directly and through the proxy, and the
//! answers must be the same bytes, also when the script arrives one byte at a time.

use futures_util::SinkExt;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, let_run, ms, secs};
use crate::support::wire::{
    Msg, Target, Wire, bind, close, copy_data, copy_done, copy_fail, describe, execute, extended,
    flush, msg_of, parse, query, sync,
};

/// What a script does next: sends bytes, or reads up to the n-th message with a tag.
enum Step {
    Send(Vec<u8>),
    Until(u8, usize),
}
use Step::{Send, Until};

struct Bench {
    db: Db,
    proxy: Proxy,
    setup: &'static str,
}

impl Bench {
    fn new(setup: &'static str) -> Self {
        let db = Db::new();
        let proxy = Spec::of(&db).pool(2).start();
        Self { db, proxy, setup }
    }

    fn play(&self, target: &Target, script: &[Step], slice: usize) -> Vec<Msg> {
        self.db.setup(&format!(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; {}",
            self.setup
        ));
        let mut wire = target.login();
        let mut answers = vec![];
        for step in script {
            match step {
                Send(bytes) => bytes
                    .chunks(slice)
                    .for_each(|part| wire.send(part).unwrap()),
                Until(tag, count) => match wire.recv_until(*tag, *count) {
                    Ok(more) => answers.extend(more),
                    Err(error) => panic!(
                        "{error}, waiting for {count} x {} after {answers:?}",
                        *tag as char
                    ),
                },
            }
        }
        // Nothing may follow, and the connection must still be in step.
        wire.send(&query("SELECT 'in step'")).unwrap();
        answers.extend(wire.recv_until(b'Z', 1).unwrap());
        wire.close();
        answers
    }

    fn check(&self, script: &[Step]) {
        let direct = self.play(&self.db.direct(), script, usize::MAX);
        let last = &direct[direct.len() - 3];
        assert_eq!(
            last.values(),
            [Some("in step".to_owned())],
            "the script itself is wrong: {direct:?}"
        );
        for (slice, how) in [
            (usize::MAX, "whole"),
            (1, "byte by byte"),
            (7, "in slices of 7"),
        ] {
            let proxied = self.play(&self.proxy.client(), script, slice);
            let first = direct.iter().zip(&proxied).position(|(a, b)| a != b);
            if let Some(at) = first {
                panic!(
                    "sent {how}, message {at} differs:\ndirect  {:?}\nproxied {:?}",
                    direct[at], proxied[at]
                );
            }
            assert_eq!(direct.len(), proxied.len(), "sent {how}: {proxied:?}");
        }
        let back = || self.proxy.pools("sv_active") == 0;
        eventually("every server has come back", secs(5), back);
    }
}

fn check(setup: &'static str, script: &[Step]) {
    Bench::new(setup).check(script);
}

fn q(sql: &str) -> Step {
    Send(query(sql))
}

const Z: Step = Until(b'Z', 1);

#[test]
fn simple_queries() {
    check(
        "CREATE TABLE t(a int, b text)",
        &[
            q("SELECT 1 AS one, NULL::text, 'ä\u{1F600}'"),
            Z,
            q("INSERT INTO t VALUES (1, 'x'), (2, NULL)"),
            Z,
            q("SELECT * FROM t ORDER BY a"),
            Z,
            q("SELECT * FROM t WHERE false"),
            Z,
            q("SELECT nonsense"),
            Z,
            q(""),
            Z,
            q(";"),
            Z,
            q("BEGIN"),
            Z,
            q("SELECT 1/0"),
            Z,
            q("SELECT 1"),
            Z,
            q("ROLLBACK"),
            Z,
        ],
    );
}

#[test]
fn multi_statement_queries() {
    check(
        "CREATE TABLE t(a int)",
        &[
            q("INSERT INTO t VALUES (1); SELECT * FROM t; SELECT 2"),
            Z,
            q("SELECT 1; SELECT 1/0; SELECT 3"),
            Z,
            q("BEGIN; INSERT INTO t VALUES (2)"),
            Z,
            q("SELECT count(*) FROM t; COMMIT"),
            Z,
            q("COMMIT; BEGIN; SELECT 1"),
            Z,
            q("COMMIT AND CHAIN"),
            Z,
            q("COMMIT"),
            Z,
        ],
    );
}

#[test]
fn many_queries_sent_at_once() {
    let many: Vec<u8> = (0..200)
        .flat_map(|n| query(&format!("SELECT {n}")))
        .collect();
    check("", &[Send(many), Until(b'Z', 200)]);
}

#[test]
fn text_that_is_not_utf8_passes_as_bytes() {
    let latin1 = msg_of(b'Q', b"SELECT 'caf\xe9' AS \"\xfc\"\0");
    check(
        "",
        &[
            q("BEGIN; SET LOCAL client_encoding = 'LATIN1'"),
            Z,
            Send(latin1),
            Z,
            q("COMMIT"),
            Z,
        ],
    );
}

#[test]
fn extended_queries() {
    check(
        "CREATE TABLE t(a int, b text)",
        &[
            Send(
                [
                    extended("SELECT $1::int + 1, $2::text", &["41", "x"]),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            Send(
                [
                    parse("", "INSERT INTO t VALUES ($1, $2)"),
                    describe(b'S', ""),
                    bind("", "", &[Some(b"1"), None]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            Send(
                [
                    parse("", ""),
                    bind("", "", &[]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            Send(
                [
                    parse("", "SELECT * FROM t"),
                    bind("", "", &[]),
                    execute("", 0),
                    close(b'P', ""),
                    close(b'S', ""),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            Send(sync()),
            Z,
            Send([sync(), sync(), sync()].concat()),
            Until(b'Z', 3),
            Send([extended("BEGIN", &[]), sync()].concat()),
            Z,
            Send([extended("SELECT count(*) FROM t", &[]), sync()].concat()),
            Z,
            Send([extended("COMMIT", &[]), sync()].concat()),
            Z,
        ],
    );
}

#[test]
fn a_named_statement_within_a_transaction() {
    check(
        "",
        &[
            q("BEGIN"),
            Z,
            Send([parse("plan", "SELECT $1::int * 2"), sync()].concat()),
            Z,
            Send(
                [
                    bind("p", "plan", &[Some(b"4")]),
                    describe(b'P', "p"),
                    execute("p", 0),
                    close(b'S', "plan"),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            q("COMMIT"),
            Z,
        ],
    );
}

#[test]
fn pipelines_with_many_syncs_in_flight() {
    let batch = |n: usize| [extended("SELECT $1::text", &[&n.to_string()]), sync()].concat();
    let many: Vec<u8> = (0..100).flat_map(batch).collect();
    let mixed = [
        batch(1),
        query("SELECT 'between'"),
        batch(2),
        batch(3),
        query("SELECT 1; SELECT 2"),
        batch(4),
    ]
    .concat();
    check(
        "",
        &[Send(many), Until(b'Z', 100), Send(mixed), Until(b'Z', 6)],
    );
}

#[test]
fn a_pipeline_with_transactions_in_it() {
    let run = |sql: &str| [extended(sql, &[]), sync()].concat();
    let script = [
        run("BEGIN"),
        run("INSERT INTO t VALUES (1)"),
        run("COMMIT"),
        run("BEGIN"),
        run("SELECT 1/0"),
        run("SELECT 1"),
        run("ROLLBACK"),
        run("SELECT count(*) FROM t"),
    ];
    check(
        "CREATE TABLE t(a int)",
        &[Send(script.concat()), Until(b'Z', 8)],
    );
}

#[test]
fn flush_without_sync_answers_at_once() {
    check(
        "",
        &[
            Send([parse("", "SELECT $1::int"), describe(b'S', ""), flush()].concat()),
            Until(b'T', 1),
            Send([bind("", "", &[Some(b"7")]), execute("", 0), flush()].concat()),
            Until(b'C', 1),
            Send([bind("", "", &[Some(b"8")]), execute("", 0), flush()].concat()),
            Until(b'C', 1),
            Send(sync()),
            Z,
        ],
    );
}

#[test]
fn after_an_error_everything_up_to_sync_is_skipped() {
    let bad = extended("SELECT 1/0", &[]);
    let good = extended("SELECT 1", &[]);
    check(
        "",
        &[
            Send(
                [
                    good.clone(),
                    bad.clone(),
                    good.clone(),
                    good.clone(),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            Send(
                [
                    bad.clone(),
                    sync(),
                    good.clone(),
                    sync(),
                    bad.clone(),
                    good.clone(),
                    sync(),
                    good.clone(),
                    sync(),
                ]
                .concat(),
            ),
            Until(b'Z', 4),
            Send([parse("", "SELEKT"), bind("", "", &[]), flush()].concat()),
            Until(b'E', 1),
            Send([good.clone(), query("SELECT 'skipped too'"), good, sync()].concat()),
            Z,
            Send([bind("", "no_such_statement", &[]), sync()].concat()),
            Z,
            Send([execute("no_such_portal", 0), sync()].concat()),
            Z,
        ],
    );
}

#[test]
fn a_portal_is_read_in_pieces() {
    check(
        "",
        &[
            q("BEGIN"),
            Z,
            Send(
                [
                    parse("", "SELECT generate_series(1, 5)"),
                    bind("cur", "", &[]),
                    execute("cur", 2),
                    flush(),
                ]
                .concat(),
            ),
            Until(b's', 1),
            Send([execute("cur", 2), sync()].concat()),
            Z,
            Send([execute("cur", 0), close(b'P', "cur"), sync()].concat()),
            Z,
            q("COMMIT"),
            Z,
            // Without BEGIN the portal lives up to Sync only.
            Send(
                [
                    parse("", "SELECT generate_series(1, 3)"),
                    bind("", "", &[]),
                    execute("", 1),
                    flush(),
                ]
                .concat(),
            ),
            Until(b's', 1),
            Send([execute("", 1), sync()].concat()),
            Z,
        ],
    );
}

#[test]
fn copy_in() {
    let rows: Vec<u8> = (0..1000)
        .flat_map(|n| copy_data(format!("{n}\tx\n").as_bytes()))
        .collect();
    check(
        "CREATE TABLE t(a int, b text)",
        &[
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(rows),
            Send(copy_done()),
            Z,
            q("SELECT count(*), sum(a) FROM t"),
            Z,
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_data(b"1\ty\n")),
            Send(copy_fail("changed my mind")),
            Z,
            q("COPY t FROM STDIN; SELECT count(*) FROM t"),
            Until(b'G', 1),
            Send([copy_data(b"7\tz\n"), copy_done()].concat()),
            Z,
            q("BEGIN; COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_done()),
            Z,
            q("ROLLBACK"),
            Z,
        ],
    );
}

/// The client goes on sending after the server has given up: all of it must be swallowed.
#[test]
fn copy_in_with_a_bad_row() {
    let more: Vec<u8> = (0..50)
        .flat_map(|n| copy_data(format!("{n}\n").as_bytes()))
        .collect();
    check(
        "CREATE TABLE t(a int)",
        &[
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_data(b"not a number\n")),
            Until(b'E', 1),
            Z,
            Send([more, copy_done()].concat()),
            q("SELECT count(*) FROM t"),
            Z,
        ],
    );
}

#[test]
fn copy_out() {
    check(
        "CREATE TABLE t(a int, b text); INSERT INTO t SELECT i, repeat('y', i % 50) FROM generate_series(1, 2000) i",
        &[
            q("COPY t TO STDOUT"),
            Z,
            q("COPY (SELECT 1/(a - 1500) FROM t) TO STDOUT"),
            Z,
            Send([extended("COPY t TO STDOUT (FORMAT csv)", &[]), sync()].concat()),
            Z,
        ],
    );
}

/// tokio-postgres sends Sync before the data; Postgres ignores it while the copy runs.
#[test]
fn a_sync_inside_copy_is_not_answered() {
    check(
        "CREATE TABLE t(a int)",
        &[
            Send(
                [
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            ),
            Until(b'G', 1),
            Send(
                [
                    copy_data(b"1\n2\n"),
                    sync(),
                    flush(),
                    copy_data(b"3\n"),
                    copy_done(),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            q("SELECT count(*) FROM t"),
            Z,
            // The same at once, without waiting for the server.
            Send(
                [
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    copy_data(b"4\n"),
                    copy_done(),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            // An error in extended COPY: skipped up to the last Sync.
            Send(
                [
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                ]
                .concat(),
            ),
            Send([flush()].concat()),
            Until(b'G', 1),
            Send([copy_data(b"x\n"), copy_done(), sync()].concat()),
            Z,
        ],
    );
}

#[test]
fn notices_and_changed_parameters_come_in_their_place() {
    check(
        "",
        &[
            q("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$; SELECT 1"),
            Z,
            q("BEGIN; SET LOCAL application_name = 'inside'; SELECT 1"),
            Z,
            q("ROLLBACK"),
            Z,
            q("BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; SELECT 1; COMMIT"),
            Z,
            q("DROP TABLE IF EXISTS nothing_there"),
            Z,
            q("ROLLBACK"),
            Z,
        ],
    );
}

#[test]
fn function_calls() {
    let call = |function: u32, args: &[&[u8]]| {
        let mut body = function.to_be_bytes().to_vec();
        body.extend([0, 1, 0, 1]);
        body.extend(u16::try_from(args.len()).unwrap().to_be_bytes());
        for arg in args {
            body.extend(u32::try_from(arg.len()).unwrap().to_be_bytes());
            body.extend(*arg);
        }
        body.extend([0, 1]);
        msg_of(b'F', &body)
    };
    // 177 is int4pl; 154 is int4div; 1 does not exist.
    let number = |n: u32| n.to_be_bytes();
    check(
        "",
        &[
            Send(call(177, &[&number(40), &number(2)])),
            Z,
            Send(call(154, &[&number(1), &number(0)])),
            Z,
            Send(call(1, &[])),
            Z,
        ],
    );
}

#[test]
fn large_values_of_many_sizes() {
    let script: Vec<Step> = [
        0, 1, 4095, 4096, 8187, 8192, 16_379, 16_384, 65_536, 300_000,
    ]
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
        assert!(
            bench.play(&bench.proxy.client(), &script, slice) == direct,
            "in slices of {slice}"
        );
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
fn a_row_of_100_mb_streams_through_in_bounded_memory() {
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
    wire.send(&[extended("SELECT length($1::text)", &[&value]), sync()].concat())
        .unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    let row = answer.iter().find(|msg| msg.tag == b'D').unwrap();
    assert_eq!(row.values(), [Some("50000000".to_owned())]);
    let grown = proxy.peak_kib() - before;
    assert!(grown < 16 * MIB, "memory grew by {grown} KiB");
}

#[test]
fn a_reader_that_never_reads_hurts_nobody() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let before = proxy.peak_kib();
    let mut lazy = proxy.client().login();
    lazy.start("SELECT repeat('x', 1000) FROM generate_series(1, 300000)")
        .unwrap();
    eventually("the lazy reader's query runs", secs(5), || {
        proxy.pools("sv_active") == 1
    });
    for _ in 0..20 {
        proxy.still_serves();
    }
    let grown = proxy.peak_kib() - before;
    assert!(grown < 16 * MIB, "memory grew by {grown} KiB");
    drop(lazy);
    // Its server is cleaned up or closed, and does not stay taken.
    eventually("its server is free again", secs(10), || {
        proxy.pools("sv_active") == 0
    });
    proxy.still_serves();
}

#[test]
fn replication_is_refused_or_passed_through_but_never_pooled() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let answer = proxy.client().param("replication", "database").connect();
    if let Ok(mut wire) = answer {
        // A walsender understands this; a pooled server does not.
        wire.ok("IDENTIFY_SYSTEM");
        wire.close();
    }
    proxy.still_serves();
}

#[test]
fn a_driver_works_through_it() {
    let db = Db::with("CREATE TABLE t(a int, b text)");
    let proxy = Spec::of(&db).session().start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = format!(
        "host=127.0.0.1 port={} user={} dbname={} password=x",
        proxy.port, db.user, db.name
    );
    runtime.block_on(async {
        let (mut client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls)
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let tx = client.transaction().await.unwrap();
        tx.execute("INSERT INTO t VALUES ($1, $2)", &[&1_i32, &"x"])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let rows = client
            .query("SELECT a, b FROM t WHERE a = $1", &[&1_i32])
            .await
            .unwrap();
        assert_eq!(rows[0].get::<_, String>(1), "x");
        let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(b"2\ty\n3\tz\n"))
            .await
            .unwrap();
        assert_eq!(sink.finish().await.unwrap(), 2);
        assert_eq!(
            client
                .query_one("SELECT count(*) FROM t", &[])
                .await
                .unwrap()
                .get::<_, i64>(0),
            3
        );
        drop(client);
        driver.await.unwrap().unwrap();
    });
}

#[test]
fn a_function_call_body_of_the_right_shape_is_used() {
    // Guards the test above: a wrong frame would be answered by the same error on both sides.
    let db = Db::new();
    let mut wire = db.direct().login();
    let mut body = 177_u32.to_be_bytes().to_vec();
    body.extend([
        0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 40, 0, 0, 0, 4, 0, 0, 0, 2, 0, 1,
    ]);
    wire.send(&msg_of(b'F', &body)).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    assert_eq!(
        (answer[0].tag, &answer[0].body[4..]),
        (b'V', &[0, 0, 0, 42][..])
    );
}
