//! Malformed input, before and after login: that connection ends at most, nobody else feels it,
//! and nothing grows, spins or crashes (the proxy's own end fails each test that uses it).

use std::net::Shutdown;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, let_run, ms, secs};
use crate::support::wire::{
    Msg, Wire, WireError, cstr, extended, msg_of, query, startup, sync, untagged,
};

/// Lengths that no message may have.
const LENGTHS: [i32; 6] = [i32::MIN, -1, 0, 1, 3, i32::MAX];

fn raw(proxy: &Proxy) -> Wire {
    let wire = Wire::open(&proxy.client().addr).unwrap();
    wire.limit(secs(5));
    wire
}

/// The proxy closes the connection, and says at most an error before.
fn ends(wire: &mut Wire, what: &str) {
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
fn impossible_lengths_before_login() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for length in LENGTHS {
        for rest in [&b""[..], b"\0\x03\0\0user\0x\0\0"] {
            let mut wire = raw(&proxy);
            wire.send(&[&length.to_be_bytes(), rest].concat()).unwrap();
            // A length of 1 GiB and more is known to be wrong at once; nobody waits for the rest.
            ends(&mut wire, &format!("length {length}"));
        }
    }
    proxy.still_serves();
}

#[test]
fn malformed_startup_packets() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let version = 196_608_u32.to_be_bytes();
    let long = "x".repeat(10_001 - 8 - 7);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no NUL", untagged(&[&version[..], b"user"].concat())),
        (
            "name without value",
            untagged(&[&version[..], b"user\0"].concat()),
        ),
        (
            "value without NUL",
            untagged(&[&version[..], b"user\0app"].concat()),
        ),
        (
            "no last NUL",
            untagged(&[&version[..], b"user\0app\0"].concat()),
        ),
        ("no user", startup(&[("database", &db.name)])),
        ("no parameters", untagged(&version)),
        (
            "empty user",
            startup(&[("user", ""), ("database", &db.name)]),
        ),
        ("10001 bytes", startup(&[("user", &long)])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        (
            "protocol 2.0",
            untagged(&[&131_072_u32.to_be_bytes()[..], b"user\0app\0\0"].concat()),
        ),
        (
            "protocol 9.9",
            untagged(&[&(9_u32 << 16 | 9).to_be_bytes()[..], b"user\0app\0\0"].concat()),
        ),
        ("short cancel", untagged(&80_877_102_u32.to_be_bytes())),
        (
            "long cancel",
            untagged(&[&80_877_102_u32.to_be_bytes()[..], &[7; 600]].concat()),
        ),
    ];
    for (what, bytes) in cases {
        let mut wire = raw(&proxy);
        wire.send(&bytes).unwrap();
        ends(&mut wire, what);
    }
    proxy.still_serves();
}

/// Unusual, not wrong: a definite answer, which is a login or an end.
#[test]
fn unusual_startup_packets_get_a_definite_answer() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let base = [("user", db.user.as_str()), ("database", db.name.as_str())];
    let with = |more: &[(&str, &str)]| startup(&[&base[..], more].concat());
    let minor = |minor: u8, more: &[(&str, &str)]| {
        let mut bytes = with(more);
        bytes[7] = minor;
        bytes
    };
    let many: Vec<(String, String)> = (0..300)
        .map(|n| (format!("x{n}.y"), "1".to_owned()))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let cases = [
        ("options -c=", with(&[("options", "-c=")]), false),
        (
            "options garbage",
            with(&[("options", "-c a=\\ --- -- \\")]),
            false,
        ),
        ("many parameters", with(&many), false),
        (
            "a key twice",
            with(&[
                ("user", "other"),
                ("application_name", "a"),
                ("application_name", "b"),
            ]),
            false,
        ),
        (
            "control bytes",
            with(&[("application_name", "\x1b[31mred\r\nlevel=ERROR forged")]),
            false,
        ),
        ("protocol 3.1", minor(1, &[]), true),
        ("protocol 3.2", minor(2, &[]), true),
        (
            "a protocol option",
            minor(2, &[("_pq_.test_protocol_negotiation", "1")]),
            true,
        ),
    ];
    for (what, bytes, negotiates) in cases {
        let mut wire = raw(&proxy);
        wire.send(&bytes).unwrap();
        let mut negotiated = false;
        loop {
            match wire.recv() {
                Ok(msg) if msg.tag == b'Z' => {
                    assert!(
                        negotiated || !negotiates,
                        "{what}: accepted without saying what is not"
                    );
                    break;
                }
                Ok(msg) => negotiated |= msg.tag == b'v',
                Err(WireError::Closed) => break,
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    assert!(
        !proxy.log().contains('\x1b'),
        "escape codes of a client in the log"
    );
    assert!(
        !proxy
            .log()
            .lines()
            .any(|line| line.starts_with("level=ERROR forged"))
    );
    proxy.still_serves();
}

#[test]
fn random_bytes() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(3).start();
    let mut rng = Rng::new(seed("random_bytes"));
    for case in 0..300 {
        let mut wire = if case % 3 == 0 {
            raw(&proxy)
        } else {
            proxy.client().login()
        };
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
    eventually("every server has come back", secs(10), || {
        proxy.pools("sv_active") == 0
    });
}

#[test]
fn impossible_lengths_after_login() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(2).start();
    for length in LENGTHS {
        for tag in *b"QPBDECSHFdcfXpz\0\x01\xff" {
            let in_transaction = tag % 2 == 0;
            let mut wire = proxy.client().login();
            if in_transaction {
                wire.ok("BEGIN; INSERT INTO t VALUES (1)");
            }
            wire.send(&[&[tag][..], &length.to_be_bytes()].concat())
                .unwrap();
            // Only a length that is too large may be waited for, where streaming has begun; not here:
            // no message may be as long as that.
            ends(
                &mut wire,
                &format!("{:?} with length {length}", tag as char),
            );
        }
        proxy.still_serves();
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
}

#[test]
fn messages_in_a_wrong_state() {
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
    wire.send(
        &[
            msg_of(b'd', b"1\n"),
            msg_of(b'c', b""),
            msg_of(b'f', b"no\0"),
            query("SELECT 5"),
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(wire.finish().unwrap().one(), "5");
    proxy.still_serves();
}

#[test]
fn nothing_but_a_password_is_taken_while_logging_in() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let login = startup(&[("user", &db.user), ("database", &db.name)]);
    let other = startup(&[("user", "boss"), ("database", "pglull")]);
    let first = b"SCRAM-SHA-256\0\0\0\0\x08n,,n=,r=";
    let cases: [(&str, Vec<u8>); 12] = [
        ("a query", query("SELECT 1")),
        ("extended", [extended("SELECT 1", &[]), sync()].concat()),
        ("Sync", sync()),
        ("Terminate", msg_of(b'X', b"")),
        ("a second startup", login.clone()),
        ("a startup of somebody else", other),
        ("an empty password", msg_of(b'p', b"\0")),
        ("an empty message", msg_of(b'p', b"")),
        ("no mechanism", msg_of(b'p', b"PLAIN\0\0\0\0\x01x")),
        ("an empty nonce", msg_of(b'p', first)),
        (
            "a length that lies",
            msg_of(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=abc"),
        ),
        ("a long password", msg_of(b'p', &[b'x'; 70_000])),
    ];
    for (what, bytes) in cases {
        let mut wire = raw(&proxy);
        wire.send(&login).unwrap();
        wire.recv_ok().unwrap();
        // The proxy may close while we are still sending.
        let _ = wire.send(&bytes);
        loop {
            match wire.recv() {
                Ok(Msg { tag: b'E', .. }) => {}
                Ok(Msg { tag: b'R', body }) => assert_ne!(body[..4], [0; 4], "{what}: logged in"),
                Ok(msg) => panic!("{what}: {msg:?}"),
                Err(WireError::Closed) => break,
                Err(error) => panic!("{what}: not closed: {error}"),
            }
        }
    }
    // The same between the two steps of SCRAM.
    for proof in [
        "c=biws,r=wrong,p=AAAA",
        "c=biws,p=AAAA",
        "r=x",
        "",
        "c=biws,r=,p=",
        "\u{0}",
    ] {
        let mut wire = raw(&proxy);
        wire.send(&login).unwrap();
        wire.recv_ok().unwrap();
        wire.send(&msg_of(
            b'p',
            b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=rOprNGfwEbeRWgbNEkqOabcd",
        ))
        .unwrap();
        wire.recv_ok().unwrap();
        wire.send(&msg_of(b'p', proof.as_bytes())).unwrap();
        ends(&mut wire, proof);
    }
    let mut good = proxy.client().login();
    assert_eq!(good.one("SELECT 1"), "1");
}

#[test]
fn a_session_in_one_byte_segments_gets_the_same_answers() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let session = [
        startup(&[("user", &db.user), ("database", &db.name)]),
        query("SELECT 1; SELECT 'two'"),
        [extended("SELECT $1::int", &["3"]), sync()].concat(),
        msg_of(b'X', b""),
    ]
    .concat();
    let play = |slice: usize| {
        let mut wire = raw(&proxy);
        session
            .chunks(slice)
            .for_each(|part| wire.send(part).unwrap());
        let mut answers = vec![];
        while let Ok(msg) = wire.recv() {
            // The cancel key is the client's own.
            if msg.tag != b'K' {
                answers.push(msg);
            }
        }
        answers
    };
    let whole = play(usize::MAX);
    assert_eq!(
        whole.iter().filter(|msg| msg.tag == b'Z').count(),
        3,
        "{whole:?}"
    );
    for slice in [1, 2, 3, 5, 11] {
        assert_eq!(play(slice), whole, "in slices of {slice}");
    }
}

#[test]
fn a_session_cut_after_each_byte() {
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
    eventually("every server has come back", secs(5), || {
        proxy.pools("sv_active") == 0
    });
    eventually("descriptors are given back", secs(5), || {
        proxy.descriptors() <= before + 4
    });
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
    assert!(
        spun < 20,
        "busy with nothing: {spun} ticks of 10 ms in half a second"
    );
    let grown = proxy.rss_kib().saturating_sub(before);
    assert!(grown < 20 * 1024, "memory grew by {grown} KiB");
    drop(open);
    proxy.still_serves();
}

#[test]
fn names_of_any_bytes_are_answered() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for name in [
        &b"\xff\xfe"[..],
        b"a'b\"c",
        b"\x1b[2J",
        b"${jndi}",
        b"%n%s",
        &[b'x'; 5000],
    ] {
        for key in [&b"user\0"[..], b"database\0"] {
            let mut body = 196_608_u32.to_be_bytes().to_vec();
            if key == b"database\0" {
                body.extend(cstr("user"));
                body.extend(cstr(&db.user));
            }
            body.extend(key);
            body.extend(name);
            body.extend([0, 0]);
            let mut wire = raw(&proxy);
            wire.send(&untagged(&body)).unwrap();
            ends(&mut wire, &String::from_utf8_lossy(name));
        }
    }
    assert!(
        !proxy.log().contains('\x1b'),
        "escape codes of a client in the log"
    );
    proxy.still_serves();
}

#[test]
fn the_console_survives_bad_input_too() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut rng = Rng::new(seed("the_console_survives_bad_input_too"));
    for length in LENGTHS {
        let mut wire = proxy.console().login();
        wire.send(&[&b"Q"[..], &length.to_be_bytes()].concat())
            .unwrap();
        ends(&mut wire, &format!("length {length} on the console"));
    }
    for _ in 0..50 {
        let mut wire = proxy.console().login();
        wire.send(&msg_of(b'Q', &[rng.bytes(60), vec![0]].concat()))
            .unwrap();
        wire.shutdown(Shutdown::Write);
        wire.limit(secs(5));
        wire.recv_to_end().unwrap();
    }
    assert_eq!(proxy.admin("SHOW VERSION").rows.len(), 1);
    proxy.still_serves();
}
