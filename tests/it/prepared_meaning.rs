//! A prepared statement means what its client meant: by the client's own settings, and by its last text.

use crate::prepared::{blocker, one, prepare, rows, run};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wire::{Target, bind, close, describe, execute, parse, query, sync};

/// Postgres makes constants of literals when it parses them, by the settings of that moment.
#[test]
fn literals_are_read_by_the_settings_of_the_client_that_prepares() {
    const TIMES: &str =
        "SELECT extract(epoch from '2024-01-01 00:00'::timestamptz)::int, '01/02/2024'::date - '2024-01-01'::date";
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for (settings, others, sql) in [
        (
            &[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")],
            &[("TimeZone", "America/New_York"), ("DateStyle", "ISO, DMY")],
            TIMES,
        ),
        (&[("client_encoding", "UTF8"); 2], &[("client_encoding", "LATIN1"); 2], "SELECT length('\u{e9}')"),
        (
            &[("standard_conforming_strings", "on"); 2],
            &[("standard_conforming_strings", "off"); 2],
            "SELECT length('a\\\\b')",
        ),
    ] {
        let mut seen = Vec::new();
        let mut all: Vec<_> = [settings, others]
            .iter()
            .map(|settings| {
                let with = |client| settings.iter().fold(client, |client: Target, (k, v)| client.param(k, v));
                (with(proxy.client()).login(), with(db.direct()).login())
            })
            .collect();
        for wire in all.iter_mut().flat_map(|(through, direct)| [through, direct]) {
            // Some say that they do not like the text.
            wire.send(&[parse("st", sql), sync()].concat()).unwrap();
            assert!(rows(wire).unwrap().is_empty());
        }
        for (through, direct) in &mut all {
            let expected = run(direct, "st", &[]).unwrap();
            assert_eq!(run(through, "st", &[]).unwrap(), expected, "{sql}");
            seen.push(expected);
        }
        assert_ne!(seen[0], seen[1], "the settings matter: {sql}");
    }
}

/// The client's own settings change, in one go with what is prepared by them, and it changes its server.
#[test]
fn literals_are_read_by_the_settings_as_they_are() {
    const SQL: &str = "SELECT extract(epoch from '2024-01-01 00:00'::timestamptz)::int";
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let mut a = proxy.client().param("TimeZone", "UTC").login();
    let mut b = proxy.client().param("TimeZone", "UTC").login();
    prepare(&mut a, "s", SQL);
    let utc = one(&mut a, "s");
    // In front of the Parse, as a query and as a statement.
    a.send(&[query("SET TimeZone TO 'Asia/Tokyo'"), parse("t", SQL), sync()].concat()).unwrap();
    a.recv_until(b'Z', 2).unwrap();
    let tokyo = one(&mut a, "t");
    assert_eq!(tokyo.parse::<i64>().unwrap(), utc.parse::<i64>().unwrap() - 9 * 3600);
    prepare(&mut b, "s", SQL);
    assert_eq!(one(&mut b, "s"), utc);
    let back = [parse("", "SET TimeZone TO 'UTC'"), bind("", "", &[]), execute("", 0), parse("u", SQL), sync()];
    a.send(&back.concat()).unwrap();
    a.recv_until(b'Z', 1).unwrap();
    assert_eq!((one(&mut a, "u"), one(&mut b, "s")), (utc.clone(), utc.clone()));
    // On another server it is prepared anew: by what holds now.
    a.ok("SET TimeZone TO 'Asia/Tokyo'");
    let _busy = blocker(&proxy);
    assert_eq!((one(&mut a, "u"), one(&mut b, "s")), (tokyo, utc));
}

/// A portal of a named statement, then one of the unnamed statement with the same name: pgjdbc's BEGIN and the first query.
#[test]
fn a_portal_is_of_the_statement_that_was_bound_last() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let mut a = proxy.client().login();
    let query = [parse("", "SELECT 1 AS x"), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    let begin = [bind("", "S_1", &[]), execute("", 0)].concat();
    a.send(&[parse("S_1", "BEGIN"), begin.clone(), query.clone()].concat()).unwrap();
    assert_eq!(rows(&mut a).unwrap().len(), 1);
    a.ok("COMMIT");
    let _busy = blocker(&proxy);
    for _ in 0..2 {
        a.send(&[begin.clone(), query.clone()].concat()).unwrap();
        assert_eq!(rows(&mut a).unwrap(), [[Some("1".to_owned())]]);
        a.ok("COMMIT");
    }
    // A portal that was closed is no longer anything.
    let gone = [bind("", "S_1", &[]), close(b'P', ""), describe(b'P', ""), sync()].concat();
    a.send(&gone).unwrap();
    assert_eq!(rows(&mut a).unwrap_err().code, "34000");
}

/// Behind an error the rest of a batch is skipped: the unnamed statement is what it was, and on this server that is an older one.
#[test]
fn a_skipped_request_does_not_bring_an_older_unnamed_statement_back() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    for skipped in [query("SELECT 3"), close(b'S', ""), parse("", "SELECT 4")] {
        let mut a = proxy.client().login();
        prepare(&mut a, "", "SELECT 1");
        assert_eq!(one(&mut a, ""), "1");
        let mut first = blocker(&proxy);
        prepare(&mut a, "", "SELECT 2");
        assert_eq!(one(&mut a, ""), "2");
        let mut second = blocker(&proxy);
        first.ok("COMMIT");
        a.send(&[execute("nope", 0), skipped, sync()].concat()).unwrap();
        assert_eq!(rows(&mut a).unwrap_err().code, "34000");
        assert_eq!(one(&mut a, ""), "2");
        second.ok("COMMIT");
    }
}
