//! How some clients are treated while a gate is shut: who wants an error rather than to wait gets it, and a probe gets its
//! answer.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Msg, Wire, WireError, bind, execute, msg_of, parse, query, sync};

fn tags(answer: &[Msg]) -> String {
    answer.iter().map(|msg| char::from(msg.tag)).collect()
}

/// What a request is answered with, message for message.
fn answer(wire: &mut Wire, request: &[u8]) -> Vec<(u8, Vec<u8>)> {
    wire.send(request).unwrap();
    wire.recv_until(b'Z', 1).unwrap().into_iter().map(|msg| (msg.tag, msg.body)).collect()
}

#[test]
fn who_wants_an_error_rather_than_to_wait_gets_it_at_once() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(1).window("fail_fast", "application='web*'").start();
    let mut web = proxy.client().param("application_name", "web 1").login();
    let mut job = proxy.client().param("application_name", "job").login();
    let mut queued = proxy.client().param("application_name", "web 2").login();
    assert_eq!(web.one("SELECT 'open'"), "open", "at an open gate they are like all others");
    // The only server is taken: one that waits for it when the gate is shut is not kept either.
    job.ok("BEGIN");
    queued.start("SELECT 1").unwrap();
    assert!(queued.silent(ms(100)));
    let mut open = proxy.admin_start(&format!("WINDOW OPEN {} WITH (id='w', drain='5s')", db.name));
    let error = queued.finish().unwrap_err().db();
    assert_eq!(error.code, "55P03");
    job.ok("COMMIT");
    let open = open.finish().unwrap().maps().remove(0);
    // Simple and extended; the session goes on.
    let error = web.query("SELECT 1").unwrap_err().db();
    assert_eq!((error.code.as_str(), error.severity.as_str()), ("55P03", "ERROR"));
    assert!(error.hint.contains("Nothing of the request has run"));
    web.send(
        &[parse("", "INSERT INTO accounts VALUES (999999, 0)"), bind("", "", &[]), execute("", 0), sync()].concat(),
    )
    .unwrap();
    assert_eq!(web.finish().unwrap_err().db().code, "55P03");
    job.start("SELECT 'held'").unwrap();
    proxy.until_held(1);
    proxy.close("w", &open["token"]);
    assert_eq!(job.finish().unwrap().one(), "held");
    assert_eq!(web.one("SELECT count(*) FROM accounts WHERE id = 999999"), "0");
    assert_eq!(queued.one("SELECT 'serves'"), "serves");
}

#[test]
fn a_probe_is_answered_while_its_client_would_be_held() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(2).window("probes", "user=*").start();
    let mut pooled = proxy.client().login();
    let mut keeps = proxy.client().login();
    keeps.ok("CREATE TEMP TABLE mine(a int)");
    let as_directly = |request: &[u8]| answer(&mut db.direct().login(), request);
    let open = proxy.open("w", "");
    for text in ["SELECT 1", "select 1;", "", ";"] {
        for wire in [&mut pooled, &mut keeps] {
            assert_eq!(answer(wire, &query(text)), as_directly(&query(text)), "{text}");
        }
    }
    let batch = [parse("", "SELECT 1"), bind("", "", &[]), msg_of(b'D', b"P\0"), execute("", 0), sync()].concat();
    assert_eq!(answer(&mut pooled, &batch), as_directly(&batch));
    // Anything else is held, and so is a probe of which the end has not come.
    let mut other = proxy.client().login();
    other.start("SELECT 2").unwrap();
    proxy.until_held(1);
    let (half, rest) = batch.split_at(batch.len() - 5);
    keeps.send(half).unwrap();
    proxy.until_held(2);
    keeps.send(rest).unwrap();
    assert!(keeps.silent(ms(100)));
    proxy.close("w", &open["token"]);
    other.limit(secs(5));
    assert_eq!(other.finish().unwrap().one(), "2");
    assert_eq!(tags(&keeps.recv_until(b'Z', 1).unwrap()), "12TDCZ");
    // What the probe has prepared is the client's, on whatever server it gets.
    let again = [bind("", "", &[]), execute("", 0), sync()].concat();
    pooled.send(&again).unwrap();
    assert_eq!(tags(&pooled.recv_until(b'Z', 1).unwrap()), "2DCZ");
    pooled.ok("SELECT 'simple'");
    pooled.send(&again).unwrap();
    assert_eq!(pooled.finish().unwrap_err().db().code, "26000");
}

/// Requests without end that are answered without a server, and nobody who reads the answers: that client can be sent away like
/// any other, and gets no half of a message with something else behind it.
#[test]
fn who_does_not_read_what_it_is_told_can_be_sent_away() {
    for key in ["fail_fast", "probes"] {
        for mode in [Spec::session, |spec| spec] {
            let db = Db::new();
            let proxy = mode(Spec::of(&db)).window(key, "application=deaf").start();
            let mut deaf = proxy.client().app("deaf").login();
            deaf.ok("SELECT 1");
            let open = proxy.open("w", "");
            deaf.send_until_full(&query("SELECT 1").repeat(1000));
            let deafs = || {
                let rows = proxy.admin("SHOW CLIENTS").maps();
                rows.into_iter().find(|row| row["application_name"] == "deaf").map(|row| row["id"].clone())
            };
            proxy.admin(&format!("KILL_CLIENT {}", deafs().unwrap()));
            eventually("it is off the list", secs(5), || deafs().is_none());
            loop {
                match deaf.skim() {
                    Ok((tag, _)) => assert!(b"TDCEZ".contains(&tag), "{key}: {tag}"),
                    Err(WireError::Closed) => break,
                    Err(other) => panic!("{key}: {other}"),
                }
            }
            proxy.close("w", &open["token"]);
            proxy.still_serves();
        }
    }
}
