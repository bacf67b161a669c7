//! Malformed input before a login is complete: a definite answer, then the end of that connection.

use crate::bad_input::{LENGTHS, ends, raw};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, secs};
use crate::support::wire::*;

#[test]
fn b03_impossible_lengths_before_login() {
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
fn b05_malformed_startup_packets() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let version = 196_608_u32.to_be_bytes();
    let long = "x".repeat(10_001 - 8 - 7);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no NUL", untagged(&[&version[..], b"user"].concat())),
        ("name without value", untagged(&[&version[..], b"user\0"].concat())),
        ("value without NUL", untagged(&[&version[..], b"user\0app"].concat())),
        ("no last NUL", untagged(&[&version[..], b"user\0app\0"].concat())),
        ("no user", startup(&[("database", &db.name)])),
        ("no parameters", untagged(&version)),
        ("empty user", startup(&[("user", ""), ("database", &db.name)])),
        ("10001 bytes", startup(&[("user", &long)])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("protocol 9.9", untagged(&[&(9_u32 << 16 | 9).to_be_bytes()[..], b"user\0app\0\0"].concat())),
        ("short cancel", untagged(&80_877_102_u32.to_be_bytes())),
        ("long cancel", untagged(&[&80_877_102_u32.to_be_bytes()[..], &[7; 600]].concat())),
    ];
    for (what, bytes) in cases {
        let mut wire = raw(&proxy);
        wire.send(&bytes).unwrap();
        ends(&mut wire, what);
    }
    proxy.still_serves();
}

/// A login or an end. Who asks for what we do not speak must be told so, or is turned away by libpq.
fn definite(wire: &mut Wire, what: &str, negotiates: bool) {
    let mut negotiated = false;
    loop {
        match wire.recv() {
            Ok(msg) if msg.tag == b'Z' => {
                assert!(negotiated || !negotiates, "{what}: accepted without saying what is not");
                return;
            }
            Ok(msg) => negotiated |= msg.tag == b'v',
            Err(WireError::Closed) => return,
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// Unusual, not wrong: a definite answer, which is a login or an end.
#[test]
fn b05_unusual_startup_packets_get_a_definite_answer() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let base = [("user", db.user.as_str()), ("database", db.name.as_str())];
    let with = |more: &[(&str, &str)]| startup(&[&base[..], more].concat());
    let minor = |minor: u8, more: &[(&str, &str)]| {
        let mut bytes = with(more);
        bytes[7] = minor;
        bytes
    };
    let many: Vec<(String, String)> = (0..300).map(|n| (format!("x{n}.y"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let cases = [
        ("options -c=", with(&[("options", "-c=")]), false),
        ("options garbage", with(&[("options", "-c a=\\ --- -- \\")]), false),
        ("many parameters", with(&many), false),
        ("a key twice", with(&[("user", "other"), ("application_name", "a"), ("application_name", "b")]), false),
        ("control bytes", with(&[("application_name", "\x1b[31mred\r\nlevel=ERROR forged")]), false),
        ("protocol 3.1", minor(1, &[]), false),
        ("protocol 3.2", minor(2, &[]), false),
        ("protocol 3.3", minor(3, &[]), true),
        ("a protocol option", minor(2, &[("_pq_.test_protocol_negotiation", "1")]), true),
    ];
    for (what, bytes, negotiates) in cases {
        let mut wire = raw(&proxy);
        wire.send(&bytes).unwrap();
        definite(&mut wire, what, negotiates);
    }
    assert!(!proxy.log().contains('\x1b'), "escape codes of a client in the log");
    assert!(!proxy.log().lines().any(|line| line.starts_with("level=ERROR forged")));
    proxy.still_serves();
}

#[test]
fn b04_nothing_but_a_password_is_taken_while_logging_in() {
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
        ("a length that lies", msg_of(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=abc")),
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
    for proof in ["c=biws,r=wrong,p=AAAA", "c=biws,p=AAAA", "r=x", "", "c=biws,r=,p=", "\u{0}"] {
        let mut wire = raw(&proxy);
        wire.send(&login).unwrap();
        wire.recv_ok().unwrap();
        wire.send(&msg_of(b'p', b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=rOprNGfwEbeRWgbNEkqOabcd")).unwrap();
        wire.recv_ok().unwrap();
        wire.send(&msg_of(b'p', proof.as_bytes())).unwrap();
        ends(&mut wire, proof);
    }
    let mut good = proxy.client().login();
    assert_eq!(good.one("SELECT 1"), "1");
}

#[test]
fn b13_names_of_any_bytes_are_answered() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for name in [&b"\xff\xfe"[..], b"a'b\"c", b"\x1b[2J", b"${jndi}", b"%n%s", &[b'x'; 5000]] {
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
    assert!(!proxy.log().contains('\x1b'), "escape codes of a client in the log");
    proxy.still_serves();
}

#[test]
fn trap_42_a_probe_leaves_no_warning_and_nothing_else() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    proxy.still_serves();
    let warnings = || proxy.log().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    let (before, at_start) = (proxy.descriptors(), warnings());
    for n in 0..50 {
        // A look whether somebody listens; one that waits for an answer to SSLRequest; pg_isready's way.
        let mut probe = raw(&proxy);
        if n % 3 == 1 {
            probe.send(&ssl_request()).unwrap();
            probe.byte().unwrap();
        }
        if n % 3 == 2 {
            probe.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
            probe.recv().unwrap();
        }
    }
    eventually("descriptors are given back", secs(5), || proxy.descriptors() <= before + 4);
    assert_eq!(warnings(), at_start, "{}", proxy.log());
}

/// Lies in the second message of SCRAM: one answer, whoever asks.
#[test]
fn b09_lies_in_scram_get_one_answer() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let answer = |user: &str, lie: &dyn Fn(&str) -> String| {
        let mut wire = raw(&proxy);
        wire.send(&startup(&[("user", user), ("database", &db.name)])).unwrap();
        wire.recv_ok().unwrap();
        wire.send(&msg_of(b'p', b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=rOprNGfwEbeRWgbNEkqOabcd")).unwrap();
        let challenge = wire.recv_ok().unwrap();
        let text = String::from_utf8(challenge.body[4..].to_vec()).unwrap();
        let nonce = text.split(',').next().unwrap()[2..].to_owned();
        wire.send(&msg_of(b'p', lie(&nonce).as_bytes())).unwrap();
        let error = wire.recv().unwrap().error();
        wire.recv_to_end().unwrap();
        (error.severity, error.code, error.message.replace(user, "USER"))
    };
    let proof = "A".repeat(43) + "=";
    let short = "AAAA";
    type Lie<'a> = (&'a str, &'a str, Box<dyn Fn(&str) -> String + 'a>);
    let lies: [Lie<'_>; 7] = [
        ("a wrong proof", "28P01", Box::new(|nonce| format!("c=biws,r={nonce},p={proof}"))),
        ("a short proof", "", Box::new(|nonce| format!("c=biws,r={nonce},p={short}"))),
        ("bad base64", "", Box::new(|nonce| format!("c=biws,r={nonce},p=!!!"))),
        ("no proof", "", Box::new(|nonce| format!("c=biws,r={nonce}"))),
        ("no nonce", "", Box::new(|_| format!("c=biws,p={proof}"))),
        ("another nonce", "", Box::new(|nonce| format!("c=biws,r={nonce}x,p={proof}"))),
        ("another binding", "", Box::new(|nonce| format!("c=cD10bHMtdW5pcXVlLCw=,r={nonce},p={proof}"))),
    ];
    for (what, code, lie) in &lies {
        let (known, stranger) = (answer(&db.user, lie), answer("stranger", lie));
        assert_eq!(known, stranger, "{what}");
        assert!(code.is_empty() || known.1 == *code, "{what}: {known:?}");
        assert_eq!(known.0, "FATAL");
    }
    let mut good = proxy.client().login();
    assert_eq!(good.one("SELECT 1"), "1");
}
