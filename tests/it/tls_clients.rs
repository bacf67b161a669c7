//! TLS of clients: every `client_tls_sslmode` against psql's, direct TLS, what must be refused, and bytes in bulk.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::support::postgres::{Db, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::tls::{client_config, stranger};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{
    Addr, Tls, Wire, copy_data, copy_done, gss_request, msg_of, query, ssl_request, startup, untagged,
};

/// What psql prints, or why it fails.
fn psql(proxy: &Proxy, db: &Db, how: &str) -> Result<String, String> {
    let (port, dir) = (proxy.port, proxy.dir().display());
    let how = how.replace("DIR", &dir.to_string());
    let conninfo =
        format!("host=127.0.0.1 port={port} dbname={} user={} password='{}' {how}", db.name, db.user, db.password);
    let output = tool("psql").args(["-XAt", "-d", &conninfo, "-c", "SELECT 41 + 1"]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn tls(proxy: &Proxy, alpn: bool, direct: bool) -> Wire {
    proxy.client().tls(&client_config(alpn, None), direct).login()
}

#[test]
fn every_sslmode_of_clients_has_its_outcome() {
    let db = Db::new();
    let own = "sslcert=DIR/own.crt sslkey=DIR/own.key";
    let odd = "sslcert=DIR/odd.crt sslkey=DIR/odd.key";
    let (none, no_tls, needed, certificate) = ("", "server does not support SSL", "SSL required", "ertificate");
    for (mode, plain, wanted, demanded, with_own, with_odd) in [
        ("disable", none, none, no_tls, no_tls, no_tls),
        ("allow", none, none, none, none, none),
        ("prefer", none, none, none, none, none),
        ("require", needed, none, none, none, none),
        ("verify-ca", needed, certificate, certificate, none, "unknown ca"),
        ("verify-full", needed, certificate, certificate, none, "unknown ca"),
    ] {
        let (ours, theirs) = (crate::support::tls::authority().leaf(&db.user, &[]), stranger().leaf(&db.user, &[]));
        let spec = Spec::of(&db).text("auth_type", "scram-sha-256").client_tls(mode).pool(2);
        let spec = spec.file("own.crt", &ours.cert).file("own.key", &ours.key);
        let proxy = spec.file("odd.crt", &theirs.cert).file("odd.key", &theirs.key).start();
        let full = "sslmode=verify-full sslrootcert=DIR/ca.crt";
        for (how, expected) in [
            ("sslmode=disable".to_owned(), plain),
            ("sslmode=prefer".to_owned(), wanted),
            ("sslmode=require".to_owned(), demanded),
            (full.to_owned(), demanded),
            (format!("{full} {own}"), with_own),
            (format!("sslmode=require {odd}"), with_odd),
        ] {
            let got = psql(&proxy, &db, &how);
            match expected {
                "" => assert_eq!(got, Ok("42".to_owned()), "client_tls_sslmode = {mode}, {how}"),
                part => {
                    let why = got.expect_err(&format!("client_tls_sslmode = {mode}, {how}"));
                    assert!(why.contains(part), "client_tls_sslmode = {mode}, {how}: {why}");
                }
            }
        }
        // A Unix socket is private by itself.
        proxy.unix_client().login().ok("SELECT 1");
        let mut wire = Wire::open(&proxy.unix_addr()).unwrap();
        wire.send(&ssl_request()).unwrap();
        assert_eq!(wire.byte().unwrap(), b'N');
    }
}

#[test]
fn tls_is_shown_and_logged() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("prefer").pool(2).start();
    let mut sealed = tls(&proxy, false, false);
    let mut plain = proxy.client().app("plain").login();
    sealed.ok("SET application_name = 'sealed'");
    plain.ok("SELECT 1");
    let shown = |name: &str| {
        let rows = proxy.admin("SHOW CLIENTS").maps();
        rows.iter().find(|row| row["application_name"] == name).unwrap()["tls"].clone()
    };
    assert!(["TLSv1.3/TLS_AES_256_GCM_SHA384", "TLSv1.3/TLS_AES_128_GCM_SHA256"].contains(&&*shown("sealed")));
    assert_eq!(shown("plain"), "");
    let log = proxy.log();
    let attempt = format!("login attempt: db={} user={} tls=", db.name, db.user);
    assert!(log.contains(&format!("{attempt}TLSv1.3/TLS_AES_")), "{log}");
    assert!(log.lines().any(|line| line.contains(&format!("{attempt}no replication=no peer=127.0.0.1:"))), "{log}");
}

#[test]
fn only_the_configured_versions_are_spoken() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").text("client_tls_protocols", "tlsv1.2").start();
    assert_eq!(psql(&proxy, &db, "sslmode=require"), Ok("42".to_owned()));
    let why = psql(&proxy, &db, "sslmode=require ssl_min_protocol_version=TLSv1.3").unwrap_err();
    assert!(why.contains("protocol version") || why.contains("alert"), "{why}");
    let mut wire = tls(&proxy, false, false);
    wire.ok("SELECT 1");
    let rows = proxy.admin("SHOW CLIENTS").maps();
    assert!(rows.iter().any(|row| row["tls"].starts_with("TLSv1.2/TLS_ECDHE_")), "{rows:?}");
}

#[test]
fn direct_tls_needs_alpn() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").start();
    assert_eq!(tls(&proxy, true, true).one("SELECT 'direct'"), "direct");
    let target = proxy.client().tls(&client_config(false, None), true);
    let error = target.connect().err().unwrap().db();
    assert!(error.message.contains("without ALPN"), "{error}");
    // libpq 17 sends ALPN behind an SSLRequest too.
    assert_eq!(tls(&proxy, true, false).one("SELECT 'asked'"), "asked");
    let off = Spec::of(&db).start();
    let target = off.client().tls(&client_config(true, None), true);
    assert!(target.connect().is_err());
    off.still_serves();
}

#[test]
fn trap_40_bytes_in_the_clear_behind_a_request_for_tls_are_never_the_sessions() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("prefer").start();
    let hello = startup(&[("user", &db.user), ("database", &db.name)]);
    for (request, word) in [(ssl_request(), "SSL request"), (gss_request(), "GSSAPI encryption request")] {
        let mut wire = Wire::open(&Addr::Tcp(proxy.port)).unwrap();
        wire.send(&[request, hello.clone()].concat()).unwrap();
        let error = wire.recv_ok().unwrap_err().db();
        assert_eq!(error.message, format!("received unencrypted data after {word}"));
        assert!(wire.recv_to_end().unwrap().is_empty());
    }
    // The same in the next segment: what is no TLS after the answer ends the connection.
    let mut wire = Wire::open(&Addr::Tcp(proxy.port)).unwrap();
    wire.send(&ssl_request()).unwrap();
    assert_eq!(wire.byte().unwrap(), b'S');
    wire.send(&hello).unwrap();
    let rest = wire.recv_to_end().unwrap();
    // An alert of TLS at most.
    assert!(rest.is_empty() || rest[0] == 0x15, "{rest:?}");
    proxy.still_serves();
}

#[test]
fn trap_41_nothing_is_negotiated_within_tls() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("prefer").start();
    for direct in [false, true] {
        for request in [ssl_request(), gss_request()] {
            let way = Tls { config: client_config(true, None), direct };
            let mut wire = Wire::open_as(&Addr::Tcp(proxy.port), Some(&way)).unwrap();
            wire.send(&request).unwrap();
            let error = wire.recv_ok().unwrap_err().db();
            assert_eq!((&*error.code, &*error.message), ("08P01", "encryption was asked for within TLS"));
            assert!(wire.recv_to_end().unwrap().is_empty());
        }
    }
    // A packet that is too long is refused within TLS as without.
    let way = Tls { config: client_config(false, None), direct: false };
    let mut wire = Wire::open_as(&Addr::Tcp(proxy.port), Some(&way)).unwrap();
    wire.send(&[0, 0, 0x27, 0x11, 0, 3, 0, 0]).unwrap();
    assert_eq!(wire.recv_ok().unwrap_err().db().code, "08P01");
    // GSS first, then TLS: each is asked for once.
    let mut wire = Wire::open(&Addr::Tcp(proxy.port)).unwrap();
    wire.send(&gss_request()).unwrap();
    assert_eq!(wire.byte().unwrap(), b'N');
    drop(wire.encrypt(&way).unwrap());
    proxy.still_serves();
}

/// A ClientHello in as many pieces as it has bytes.
#[test]
fn a_handshake_may_come_byte_by_byte() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").start();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut session = rustls::ClientConnection::new(client_config(true, None), name).unwrap();
    let mut hello = vec![];
    session.write_tls(&mut hello).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(secs(10))).unwrap();
    for byte in hello {
        tcp.write_all(&[byte]).unwrap();
    }
    while session.is_handshaking() {
        session.complete_io(&mut tcp).unwrap();
    }
    let mut stream = rustls::StreamOwned::new(session, tcp);
    for byte in startup(&[("user", &db.user), ("database", &db.name)]) {
        stream.write_all(&[byte]).unwrap();
    }
    let mut tag = [0];
    stream.read_exact(&mut tag).unwrap();
    assert_eq!(tag, *b"R");
}

#[test]
fn trap_42_probes_and_broken_handshakes_do_not_alarm() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").text("client_login_timeout", "1s").start();
    let open = proxy.descriptors();
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut probe = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        probe.write_all(sent).unwrap();
        drop(probe);
    }
    // One that stays silent in the middle of its handshake is sent away in time.
    let mut wire = Wire::open(&Addr::Tcp(proxy.port)).unwrap();
    wire.send(&ssl_request()).unwrap();
    assert_eq!(wire.byte().unwrap(), b'S');
    wire.send(b"\x16\x03\x01\x02\x00").unwrap();
    wire.limit(secs(10));
    assert!(wire.recv_to_end().unwrap().is_empty());
    eventually("nothing is left of them", secs(10), || proxy.descriptors() <= open);
    let log = proxy.log();
    let since = log.split_once("listening").unwrap().1;
    assert!(!since.contains("WARN") && !since.contains("ERROR"), "{log}");
}

#[test]
fn trap_35_cancel_over_tls() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").server_tls("require").pool(2).start();
    for direct in [false, true] {
        let mut wire = tls(&proxy, true, direct);
        wire.start("SELECT pg_sleep(20)").unwrap();
        eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
        wire.cancel();
        assert_eq!(wire.finish().unwrap_err().db().code, "57014");
        assert_eq!(wire.one("SELECT 'again'"), "again");
    }
    // libpq before 17 sends it in the clear, also where TLS is demanded.
    let mut wire = tls(&proxy, false, false);
    wire.start("SELECT pg_sleep(20)").unwrap();
    eventually("it runs", secs(5), || db.running("pg_sleep").len() == 1);
    crate::support::wire::cancel(&Addr::Tcp(proxy.port), wire.pid, &wire.key);
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
}

#[test]
fn trap_44_channel_binding_with_libpq() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").client_tls("prefer").start();
    let bound = "channel_binding=require";
    assert_eq!(psql(&proxy, &db, &format!("sslmode=require {bound}")), Ok("42".to_owned()));
    assert_eq!(psql(&proxy, &db, "sslmode=require channel_binding=disable"), Ok("42".to_owned()));
    assert_eq!(psql(&proxy, &db, "sslmode=disable channel_binding=prefer"), Ok("42".to_owned()));
    let why = psql(&proxy, &db, &format!("sslmode=disable {bound}")).unwrap_err();
    assert!(why.contains("channel binding"), "{why}");
    let why = psql(&proxy, &db, &format!("sslmode=require {bound} password=wrong")).unwrap_err();
    assert!(why.contains("password authentication failed"), "{why}");
}

#[test]
fn trap_44_channel_binding_is_not_taken_away_unnoticed() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").client_tls("prefer").start();
    let offered = |way: Option<&Tls>, mechanism: &str, first: &str| {
        let mut wire = Wire::open_as(&Addr::Tcp(proxy.port), way).unwrap();
        wire.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
        let offer = wire.recv_ok().unwrap();
        let mut body = format!("{mechanism}\0").into_bytes();
        body.extend(untagged(first.as_bytes()));
        let length = body.len() - first.len() - 4;
        body[length..length + 4].copy_from_slice(&u32::try_from(first.len()).unwrap().to_be_bytes());
        wire.send(&msg_of(b'p', &body)).unwrap();
        let offer = String::from_utf8_lossy(&offer.body[4..]).into_owned();
        (offer, wire.recv_ok().map(|_| ()).map_err(|error| error.db()))
    };
    let way = Tls { config: client_config(false, None), direct: false };
    let (offer, answer) = offered(Some(&way), "SCRAM-SHA-256", "y,,n=,r=abc");
    assert_eq!(offer, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let error = answer.unwrap_err();
    assert_eq!((&*error.code, &*error.message), ("28000", "SCRAM channel binding negotiation error"));
    assert!(offered(Some(&way), "SCRAM-SHA-256", "n,,n=,r=abc").1.is_ok());
    for (mechanism, first) in [
        ("SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-256-PLUS", "n,,n=,r=abc"),
        ("SCRAM-SHA-256-PLUS", "y,,n=,r=abc"),
        ("SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=abc"),
    ] {
        assert_eq!(offered(Some(&way), mechanism, first).1.unwrap_err().code, "08P01", "{mechanism} {first}");
    }
    // Without TLS there is nothing to bind to.
    let (offer, answer) = offered(None, "SCRAM-SHA-256", "y,,n=,r=abc");
    assert_eq!(offer, "SCRAM-SHA-256\0\0");
    assert!(answer.is_ok());
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        let refused = offered(None, mechanism, "p=tls-server-end-point,,n=,r=abc").1;
        assert_eq!(refused.unwrap_err().code, "08P01", "{mechanism}");
    }
}

/// Requests that came in one record of TLS, and answers that are larger than all buffers (PgBouncer#1530: bytes that stay
/// in the layer between, while the socket is silent).
#[test]
fn trap_11_no_bytes_stay_behind_in_the_tls_layer() {
    let db = Db::with("CREATE TABLE t(a text)");
    let proxy = Spec::of(&db).client_tls("require").server_tls("require").pool(1).start();
    let mut wire = tls(&proxy, false, false);
    for count in [2, 50, 400] {
        let batch: Vec<u8> = (0..count).flat_map(|n| query(&format!("SELECT {n}"))).collect();
        wire.send(&batch).unwrap();
        let answers = wire.recv_until(b'Z', count).unwrap();
        assert_eq!(answers.iter().filter(|msg| msg.tag == b'D').count(), count);
    }
    // A row of 64 MB to a client that begins late to read, and one of each size around those of records and buffers.
    wire.start("SELECT repeat('x', 64 << 20)").unwrap();
    assert!(!wire.silent(secs(10)));
    let mut sizes = vec![];
    loop {
        match wire.skim().unwrap() {
            (b'D', size) => sizes.push(size),
            (b'Z', _) => break,
            _ => {}
        }
    }
    assert_eq!(sizes, [(64 << 20) + 6]);
    for size in [4095, 8191, 8192, 16_383, 16_384, 16_385, 32_768, 65_536, 131_073] {
        assert_eq!(wire.one(&format!("SELECT repeat('y', {size})")).len(), size);
        assert_eq!(wire.one(&format!("SELECT length('{}')", "z".repeat(size))), size.to_string());
    }
    // COPY in and out.
    wire.start("COPY t FROM STDIN").unwrap();
    assert_eq!(wire.recv_ok().unwrap().tag, b'G');
    let line = format!("{}\n", "w".repeat(999));
    for _ in 0..200 {
        wire.send(&copy_data(line.repeat(100).as_bytes())).unwrap();
    }
    wire.send(&copy_done()).unwrap();
    assert_eq!(wire.finish().unwrap().tags, ["COPY 20000"]);
    wire.start("COPY t TO STDOUT").unwrap();
    let (mut rows, mut end) = (0, false);
    while !end {
        let (tag, _) = wire.skim().unwrap();
        rows += usize::from(tag == b'd');
        end = tag == b'Z';
    }
    assert_eq!(rows, 20_000);
    wire.close();
}

#[test]
fn a_client_that_leaves_is_noticed_whichever_way_it_goes() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").pool(1).start();
    let connected = || proxy.admin("SHOW CLIENTS").maps().iter().filter(|row| row["database"] == db.name).count();
    // Idle, without TLS' good-bye and with ours.
    let wire = tls(&proxy, false, false);
    wire.shutdown(Shutdown::Both);
    eventually("the first is gone", secs(5), || connected() == 0);
    tls(&proxy, false, false).close();
    eventually("the second is gone", secs(5), || connected() == 0);
    // Waiting for a server.
    let mut first = tls(&proxy, false, false);
    first.ok("BEGIN");
    let mut waiter = tls(&proxy, false, false);
    waiter.start("SELECT 'never'").unwrap();
    eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    waiter.shutdown(Shutdown::Both);
    eventually("it waits no more", secs(5), || proxy.pools("cl_waiting") == 0);
    // In the middle of an answer that it does not read.
    first.start("SELECT repeat('x', 64 << 20)").unwrap();
    assert!(!first.silent(secs(10)));
    first.shutdown(Shutdown::Both);
    let mut next = tls(&proxy, false, false);
    next.limit(secs(10));
    assert_eq!(next.one("SELECT 'next'"), "next");
}

/// The proxy says good-bye in the words of TLS: a peer can tell the end from a cut.
#[test]
fn the_end_is_announced() {
    let db = Db::new();
    let proxy = Spec::of(&db).client_tls("require").start();
    let mut wire = tls(&proxy, false, false);
    wire.send(&msg_of(b'X', b"")).unwrap();
    assert!(wire.ended_by_close_notify());
    // Also after a farewell: one that is too long in a transaction.
    let proxy = Spec::of(&db).client_tls("require").text("idle_transaction_timeout", "100ms").start();
    let mut wire = tls(&proxy, false, false);
    wire.ok("BEGIN");
    assert_eq!(wire.recv_ok().unwrap_err().db().message, "idle transaction timeout");
    assert!(wire.ended_by_close_notify());
}

/// Clients on TLS wait at a shut gate as others do.
#[test]
fn a_window_holds_clients_on_tls() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).client_tls("require").server_tls("require").pool(2).start();
    let mut wire = tls(&proxy, false, false);
    wire.ok("INSERT INTO t VALUES (1)");
    let opened = proxy.open("w", "");
    wire.start("INSERT INTO t VALUES (2)").unwrap();
    proxy.until_held(1);
    let mut late = tls(&proxy, true, true);
    late.start("SELECT 'late'").unwrap();
    proxy.until_held(2);
    assert!(wire.silent(ms(100)));
    proxy.close("w", &opened["token"]);
    assert_eq!(wire.finish().unwrap().tags, ["INSERT 0 1"]);
    assert_eq!(late.finish().unwrap().one(), "late");
}

/// The console is reached over TLS too.
#[test]
fn the_console_over_tls() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").client_tls("require").start();
    let mut target = proxy.client().tls(&client_config(false, None), false);
    (target.user, target.password, target.database) = ("boss".into(), "boss pw".into(), "pgbouncer".into());
    let mut wire = target.login();
    assert!(!wire.ok("SHOW CONFIG").rows.is_empty());
    wire.send(&msg_of(b'X', b"")).unwrap();
    assert!(wire.ended_by_close_notify());
    // Raw bytes to be sure that nothing is said in the clear.
    let mut raw = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    raw.write_all(&startup(&[("user", "boss"), ("database", "pgbouncer")])).unwrap();
    let mut said = vec![];
    raw.read_to_end(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said).contains("SSL required"));
}
