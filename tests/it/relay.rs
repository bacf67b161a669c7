//! What goes through is what Postgres said: each script runs directly and through the proxy, and the
//! answers must be the same bytes, also when the script arrives one byte at a time.

use std::net::Shutdown;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Msg, Target, bind, close, describe, execute, extended, flush, msg_of, parse, query, sync};

/// What a script does next: sends bytes, or reads up to the n-th message with a tag.
pub(crate) enum Step {
    Send(Vec<u8>),
    Until(u8, usize),
}
pub(crate) use Step::{Send, Until};

pub(crate) struct Bench {
    pub(crate) db: Db,
    pub(crate) proxy: Proxy,
    setup: &'static str,
}

impl Bench {
    pub(crate) fn new(setup: &'static str) -> Self {
        let db = Db::new();
        let proxy = Spec::of(&db).pool(2).start();
        Self { db, proxy, setup }
    }

    pub(crate) fn play(&self, target: &Target, script: &[Step], slice: usize) -> Vec<Msg> {
        // Before Postgres 15 the schema is not its database's owner's.
        self.db.sql(&format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {}", self.db.user));
        self.db.setup(self.setup);
        let mut wire = target.login();
        let mut answers = vec![];
        for step in script {
            match step {
                Send(bytes) => bytes.chunks(slice).for_each(|part| wire.send(part).unwrap()),
                Until(tag, count) => match wire.recv_until(*tag, *count) {
                    Ok(more) => answers.extend(more.into_iter().map(without_oids)),
                    Err(error) => panic!("{error}, waiting for {count} x {} after {answers:?}", *tag as char),
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
        assert_eq!(last.values(), [Some("in step".to_owned())], "the script itself is wrong: {direct:?}");
        for (slice, how) in [(usize::MAX, "whole"), (1, "byte by byte"), (7, "in slices of 7")] {
            let proxied = self.play(&self.proxy.client(), script, slice);
            let first = direct.iter().zip(&proxied).position(|(a, b)| a != b);
            if let Some(at) = first {
                panic!("sent {how}, message {at} differs:\ndirect  {:?}\nproxied {:?}", direct[at], proxied[at]);
            }
            assert_eq!(direct.len(), proxied.len(), "sent {how}: {proxied:?}");
        }
        let back = || self.proxy.pools("sv_active") == 0;
        eventually("every server has come back", secs(5), back);
    }
}

/// The tables are made anew for each run, so their ids differ; all else must be the same.
fn without_oids(mut msg: Msg) -> Msg {
    if msg.tag == b'T' {
        let mut at = 2;
        while at < msg.body.len() {
            at += msg.body[at..].iter().position(|byte| *byte == 0).unwrap() + 1;
            if msg.body[at..at + 4] != [0; 4] {
                msg.body[at..at + 4].fill(0xff);
            }
            at += 18;
        }
    }
    msg
}

pub(crate) fn check(setup: &'static str, script: &[Step]) {
    Bench::new(setup).check(script);
}

pub(crate) fn q(sql: &str) -> Step {
    Send(query(sql))
}

pub(crate) const Z: Step = Until(b'Z', 1);

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
    let many: Vec<u8> = (0..200).flat_map(|n| query(&format!("SELECT {n}"))).collect();
    check("", &[Send(many), Until(b'Z', 200)]);
}

#[test]
fn trap_46_text_that_is_not_utf8_passes_as_bytes() {
    let latin1 = msg_of(b'Q', b"SELECT 'caf\xe9' AS \"\xfc\"\0");
    check("", &[q("BEGIN; SET LOCAL client_encoding = 'LATIN1'"), Z, Send(latin1), Z, q("COMMIT"), Z]);
}

#[test]
fn extended_queries() {
    check(
        "CREATE TABLE t(a int, b text)",
        &[
            Send([extended("SELECT $1::int + 1, $2::text", &["41", "x"]), sync()].concat()),
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
            Send([parse("", ""), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()),
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
                [bind("p", "plan", &[Some(b"4")]), describe(b'P', "p"), execute("p", 0), close(b'S', "plan"), sync()]
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
    let mixed =
        [batch(1), query("SELECT 'between'"), batch(2), batch(3), query("SELECT 1; SELECT 2"), batch(4)].concat();
    check("", &[Send(many), Until(b'Z', 100), Send(mixed), Until(b'Z', 6)]);
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
    check("CREATE TABLE t(a int)", &[Send(script.concat()), Until(b'Z', 8)]);
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
            Send([good.clone(), bad.clone(), good.clone(), good.clone(), sync()].concat()),
            Z,
            Send([bad.clone(), sync(), good.clone(), sync(), bad, good.clone(), sync(), good.clone(), sync()].concat()),
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
                [parse("", "SELECT generate_series(1, 5)"), bind("cur", "", &[]), execute("cur", 2), flush()].concat(),
            ),
            Until(b's', 1),
            Send([execute("cur", 2), sync()].concat()),
            Z,
            Send([execute("cur", 0), close(b'P', "cur"), sync()].concat()),
            Z,
            q("COMMIT"),
            Z,
            // Without BEGIN the portal lives up to Sync only.
            Send([parse("", "SELECT generate_series(1, 3)"), bind("", "", &[]), execute("", 1), flush()].concat()),
            Until(b's', 1),
            Send([execute("", 1), sync()].concat()),
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
fn trap_10_function_calls() {
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
fn a_function_call_body_of_the_right_shape_is_used() {
    // Guards the test above: a wrong frame would be answered by the same error on both sides.
    let db = Db::new();
    let mut wire = db.direct().login();
    let mut body = 177_u32.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 40, 0, 0, 0, 4, 0, 0, 0, 2, 0, 1]);
    wire.send(&msg_of(b'F', &body)).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    assert_eq!((answer[0].tag, &answer[0].body[4..]), (b'V', &[0, 0, 0, 42][..]));
}

/// `printf ... | nc -N`: whoever closes its side is taken for gone, as by PgBouncer; what it has asked for is not worked for.
#[test]
fn a_client_that_closes_its_side_is_gone() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wire = proxy.unix_client().login();
    wire.start("SELECT pg_sleep(20)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    wire.shutdown(Shutdown::Write);
    assert_eq!(wire.recv_to_end().unwrap(), b"");
    eventually("it is cancelled", secs(5), || db.running("pg_sleep").is_empty());
    proxy.still_serves();
}
