//! Malformed input, before and after login: that connection ends at most, nobody else feels it,
//! and nothing grows, spins or crashes (the proxy's own end fails each test that uses it).

use std::net::Shutdown;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, let_run, ms, secs};
use crate::support::wire::*;

/// Lengths that no message may have.
pub(crate) const LENGTHS: [i32; 6] = [i32::MIN, -1, 0, 1, 3, i32::MAX];

pub(crate) fn raw(proxy: &Proxy) -> Wire {
    let wire = Wire::open(&proxy.client().addr).unwrap();
    wire.limit(secs(5));
    wire
}

/// The proxy closes the connection, and says at most an error before.
pub(crate) fn ends(wire: &mut Wire, what: &str) {
    wire.limit(secs(5));
    loop {
        match wire.recv() {
            Ok(msg) if matches!(msg.tag, b'E' | b'N') => {}
            // Answers to what came before the bad input.
            Ok(msg) if b"12nTDCISZtR".contains(&msg.tag) => {}
            Ok(msg) => panic!("{what}: {msg:?}"),
            Err(WireError::Closed) => return,
            Err(error) => panic!("{what}: the connection was not closed: {error}"),
        }
    }
}

#[test]
fn random_bytes() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(3).start();
    let mut rng = Rng::new(seed("random_bytes"));
    for case in 0..300 {
        let mut wire = if case % 3 == 0 { raw(&proxy) } else { proxy.client().login() };
        let count = 1 + usize::try_from(rng.below(200)).unwrap();
        let mut bytes = rng.bytes(count);
        if case % 3 == 2 {
            // A plausible header in front: the body is then looked at.
            let tags = b"QPBDECSHFdcfXp";
            let tag = tags[usize::try_from(rng.below(tags.len() as u64)).unwrap()];
            bytes = msg_of(tag, &bytes);
        }
        wire.send(&bytes).unwrap();
        wire.shutdown(Shutdown::Write);
        wire.limit(secs(10));
        let answer = wire.recv_to_end();
        assert!(answer.is_ok(), "case {case} is not closed: {bytes:?}");
        if case % 50 == 49 {
            proxy.still_serves();
        }
    }
    proxy.still_serves();
    eventually("every server has come back", secs(10), || proxy.pools("sv_active") == 0);
}

#[test]
fn b03_impossible_lengths_after_login() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    for length in LENGTHS {
        for tag in *b"QPBDECSHFdcfXpz\0\x01\xff" {
            let in_transaction = tag % 2 == 0;
            let mut wire = proxy.client().login();
            if in_transaction {
                wire.ok("BEGIN; INSERT INTO t VALUES (1)");
            }
            wire.send(&[&[tag][..], &length.to_be_bytes()].concat()).unwrap();
            // Only a length that is too large may be waited for, where streaming has begun; not here:
            // no message may be as long as that.
            ends(&mut wire, &format!("{:?} with length {length}", tag as char));
        }
        proxy.still_serves();
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn b04_messages_in_a_wrong_state() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let login = startup(&[("user", &db.user), ("database", &db.name)]);
    let cases: [(&str, Vec<u8>); 4] = [
        ("a second startup", login),
        ("a password after login", msg_of(b'p', b"secret\0")),
        ("an unknown type", msg_of(b'!', b"")),
        ("a server's message", msg_of(b'Z', b"I")),
    ];
    for (what, bytes) in &cases {
        for in_transaction in [false, true] {
            let mut wire = proxy.client().login();
            if in_transaction {
                wire.ok("BEGIN");
            }
            wire.send(bytes).unwrap();
            ends(&mut wire, what);
        }
    }
    // Copy messages out of place are ignored by Postgres, and so by us.
    let mut wire = proxy.client().login();
    wire.send(&[msg_of(b'd', b"1\n"), msg_of(b'c', b""), msg_of(b'f', b"no\0"), query("SELECT 5")].concat()).unwrap();
    assert_eq!(wire.finish().unwrap().one(), "5");
    proxy.still_serves();
}

#[test]
fn b02_a_session_in_one_byte_segments_gets_the_same_answers() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let session = [
        startup(&[("user", &db.user), ("database", &db.name)]),
        query("SELECT 1; SELECT 'two'"),
        [extended("SELECT $1::int", &["3"]), sync()].concat(),
    ]
    .concat();
    let play = |slice: usize| {
        let mut wire = raw(&proxy);
        session.chunks(slice).for_each(|part| wire.send(part).unwrap());
        let mut answers = wire.recv_until(b'Z', 3).unwrap();
        // The cancel key is the client's own.
        answers.retain(|msg| msg.tag != b'K');
        answers
    };
    let whole = play(usize::MAX);
    for slice in [1, 2, 3, 5, 11] {
        assert_eq!(play(slice), whole, "in slices of {slice}");
    }
}

#[test]
fn b01_a_session_cut_after_each_byte() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    let session = [
        startup(&[("user", &db.user), ("database", &db.name)]),
        query("BEGIN"),
        extended("INSERT INTO t VALUES ($1::int)", &["3"]),
        sync(),
        query("SELECT 1"),
    ]
    .concat();
    proxy.still_serves();
    let before = proxy.descriptors();
    for cut in 0..session.len() {
        let mut wire = raw(&proxy);
        wire.send(&session[..cut]).unwrap();
        drop(wire);
    }
    proxy.still_serves();
    eventually("every server has come back", secs(5), || proxy.pools("sv_active") == 0);
    eventually("descriptors are given back", secs(5), || proxy.descriptors() <= before + 4);
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_gibibyte_that_is_declared_and_not_sent_costs_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("client_login_timeout", "5s").start();
    proxy.still_serves();
    let before = proxy.rss_kib();
    let huge = (1_i32 << 30).to_be_bytes();
    let mut open = vec![];
    for n in 0..200 {
        let mut before_login = raw(&proxy);
        before_login.send(&huge).unwrap();
        let mut after = proxy.client().login();
        let tag = b"QPB"[n % 3];
        after.send(&[&[tag][..], &huge].concat()).unwrap();
        open.push((before_login, after));
    }
    let cpu = proxy.cpu_ticks();
    let_run(ms(500));
    let spun = proxy.cpu_ticks() - cpu;
    assert!(spun < 20, "busy with nothing: {spun} ticks of 10 ms in half a second");
    let grown = proxy.rss_kib().saturating_sub(before);
    assert!(grown < 20 * 1024, "memory grew by {grown} KiB");
    drop(open);
    proxy.still_serves();
}

#[test]
fn the_console_survives_bad_input_too() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut rng = Rng::new(seed("the_console_survives_bad_input_too"));
    for length in LENGTHS {
        let mut wire = proxy.console().login();
        wire.send(&[&b"Q"[..], &length.to_be_bytes()].concat()).unwrap();
        ends(&mut wire, &format!("length {length} on the console"));
    }
    for _ in 0..50 {
        let mut wire = proxy.console().login();
        wire.send(&msg_of(b'Q', &[rng.bytes(60), vec![0]].concat())).unwrap();
        wire.shutdown(Shutdown::Write);
        wire.limit(secs(5));
        wire.recv_to_end().unwrap();
    }
    assert_eq!(proxy.admin("SHOW VERSION").rows.len(), 1);
    proxy.still_serves();
}

/// Postgres judges what is in a Bind; the stream stays in step.
#[test]
fn b10_binds_that_disagree_with_themselves_keep_the_stream_in_step() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let counted = |formats: u16, values: u16, tail: &[u8]| {
        let body = [&b"\0\0"[..], &formats.to_be_bytes(), &values.to_be_bytes(), tail].concat();
        msg_of(b'B', &body)
    };
    let null = (-1_i32).to_be_bytes();
    let most: Vec<u8> = std::iter::repeat_n(null, 65_535).flatten().chain([0, 0]).collect();
    let cases = [
        counted(0, 65_535, &most),
        counted(0, 65_535, &[0, 0]),
        counted(0, 1, &[0x7f, 0xff, 0xff, 0xff, 0, 0]),
        counted(0, 1, &[0xff, 0xff, 0xff, 0xfe, 0, 0]),
        counted(65_535, 0, &[0, 0]),
        msg_of(b'B', b""),
        msg_of(b'B', b"\0"),
        msg_of(b'B', b"\0\0\0"),
        msg_of(b'B', b"no zero"),
    ];
    for (n, bad) in cases.iter().enumerate() {
        let batch = [parse("", "SELECT $1::int"), bad.clone(), execute("", 0), sync()].concat();
        let answer = |to: &Target| {
            let mut wire = to.login();
            wire.send(&batch).unwrap();
            let all = wire.recv_until(b'Z', 1).unwrap();
            let error = all.iter().find(|msg| msg.tag == b'E').unwrap().error();
            assert_eq!(wire.one("SELECT 'in step'"), "in step");
            (all.iter().map(|msg| msg.tag).collect::<Vec<_>>(), error)
        };
        assert_eq!(answer(&proxy.client()), answer(&db.direct()), "case {n}");
    }
    proxy.still_serves();
}

/// The end of a connection, said or not, in every state that a session can be in.
#[test]
fn b16_terminate_and_silence_at_each_state_leave_a_clean_server() {
    let db = Db::with("CREATE TABLE t(a int); CREATE TABLE c(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    let insert = || extended("INSERT INTO t VALUES ($1::int)", &["3"]);
    let states: [(&str, Vec<u8>, u8); 9] = [
        ("idle", query("SELECT 1"), b'Z'),
        ("in a transaction", query("BEGIN; INSERT INTO t VALUES (1)"), b'Z'),
        ("in a failed transaction", query("BEGIN; INSERT INTO t VALUES (1); SELECT 1/0"), b'E'),
        ("behind a Flush", [insert(), flush()].concat(), b'C'),
        (
            "with a suspended portal",
            [query("BEGIN"), parse("", "SELECT generate_series(1, 9)"), bind("", "", &[]), execute("", 2), flush()]
                .concat(),
            b's',
        ),
        ("in COPY to the server", query("BEGIN; INSERT INTO t VALUES (1); COPY c FROM STDIN"), b'G'),
        ("in mid-COPY", [query("COPY c FROM STDIN"), copy_data(b"1\n")].concat(), b'G'),
        (
            "in a long answer",
            query("BEGIN; INSERT INTO t VALUES (1); SELECT repeat('x', 1000) FROM generate_series(1, 20000)"),
            b'D',
        ),
        ("while it runs", query("INSERT INTO t SELECT 1 FROM pg_sleep(30)"), 0),
    ];
    for (what, bytes, until_tag) in &states {
        for polite in [true, false] {
            let mut wire = proxy.client().login();
            wire.send(bytes).unwrap();
            if *until_tag == 0 {
                eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
            } else {
                wire.recv_until(*until_tag, 1).unwrap();
            }
            if polite {
                wire.send(&msg_of(b'X', b"")).unwrap();
            }
            drop(wire);
            eventually(&format!("{what}: the server has come back"), secs(5), || proxy.pools("sv_active") == 0);
            // It is not active any more as soon as it is told to stop.
            eventually(&format!("{what}: nothing runs"), secs(5), || db.running("pg_sleep").is_empty());
            let mut next = proxy.client().login();
            assert_eq!(next.one("SELECT count(*) FROM t"), "0", "{what}");
            assert_eq!(next.one("SELECT count(*) FROM c"), "0", "{what}");
        }
    }
}

/// Impossible lengths where COPY data, or the rest of a batch, is expected.
#[test]
fn b03_impossible_lengths_inside_copy_and_batches() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    let begun = [query("COPY t FROM STDIN"), [extended("INSERT INTO t VALUES ($1::int)", &["3"]), flush()].concat()];
    for (n, begun) in begun.iter().enumerate() {
        for length in LENGTHS {
            for tag in *b"dcfSHQB" {
                let mut wire = proxy.client().login();
                wire.send(begun).unwrap();
                wire.recv_until(if n == 0 { b'G' } else { b'C' }, 1).unwrap();
                wire.send(&[&[tag][..], &length.to_be_bytes()].concat()).unwrap();
                ends(&mut wire, &format!("{:?} with length {length} in state {n}", tag as char));
            }
        }
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
    proxy.still_serves();
}

/// Replication is refused with a word, COPY BOTH never begins, and a FunctionCall is a request like any other.
#[test]
fn b17_replication_is_refused_and_function_calls_leave_the_server_free() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for value in ["true", "database"] {
        let error = proxy.client().param("replication", value).connect().err().expect("it must be refused").db();
        assert_eq!((&*error.severity, &*error.code), ("FATAL", "0A000"), "{error}");
    }
    let mut wire = proxy.client().login();
    for command in ["START_REPLICATION 0/0", "IDENTIFY_SYSTEM"] {
        assert_eq!(wire.query(command).unwrap_err().db().code, "42601", "{command}");
    }
    // int4pl(40, 2); one that does not exist; bodies that end too early.
    let call = [&177_u32.to_be_bytes()[..], b"\0\0\0\x02\0\0\0\x0240\0\0\0\x012\0\0"].concat();
    for (body, tags) in [(&call[..], "VZ"), (&[0; 10], "EZ"), (&call[..9], "EZ"), (b"", "EZ")] {
        wire.send(&msg_of(b'F', body)).unwrap();
        let answer: String = wire.recv_until(b'Z', 1).unwrap().iter().map(|msg| char::from(msg.tag)).collect();
        assert_eq!(answer, tags, "{body:?}");
        assert_eq!(proxy.client().login().one("SELECT 'free'"), "free");
    }
    proxy.still_serves();
}
