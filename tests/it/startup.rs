//! What clients ask for in their start-up packet: it reaches their session, and nobody else's.

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, secs};
use crate::support::wire::*;

fn show(wire: &mut Wire, name: &str) -> String {
    wire.one(&format!("SELECT current_setting('{name}')"))
}

/// JDBC, lib/pq, SQLAlchemy and psql send such parameters at every log-in.
#[test]
fn settings_of_the_startup_packet_follow_their_client_and_no_other() {
    let db = Db::with("CREATE SCHEMA app");
    for spec in [Spec::of(&db).pool(1), Spec::of(&db).pool(2).session()] {
        let proxy = spec.start();
        let mut plain = proxy.client().login();
        let names = ["search_path", "statement_timeout", "extra_float_digits", "geqo", "work_mem"];
        let before = names.map(|name| show(&mut plain, name));
        let mut rich = proxy
            .client()
            .param("extra_float_digits", "2")
            .param("Geqo", "off")
            .param("options", r"-c search_path=app,public --statement-timeout=12s -cwork_mem=5MB")
            .login();
        for _ in 0..3 {
            assert_eq!(names.map(|name| show(&mut rich, name)), ["app,public", "12s", "2", "off", "5MB"]);
            assert_eq!(names.map(|name| show(&mut plain, name)), before);
        }
        // A RESET or DISCARD of its own does not lose them for its next transaction.
        rich.ok("DISCARD ALL");
        if spec_is_shared(&mut rich, &mut plain) {
            assert_eq!(show(&mut rich, "statement_timeout"), "12s");
        }
        assert_eq!(names.map(|name| show(&mut plain, name)), before);
    }
}

/// Whether both get the same server.
fn spec_is_shared(a: &mut Wire, b: &mut Wire) -> bool {
    a.one("SELECT pg_backend_pid()") == b.one("SELECT pg_backend_pid()")
}

#[test]
fn options_are_read_as_postgres_reads_them() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for (options, name) in [
        (r"-c application_name=a\ b\\c", "application_name"),
        (r"-c application_name=a=b+c", "application_name"),
        (r"--application-name=x\=y", "application_name"),
        (r"  -c  x.y=1+1=2   -c x.z=3 ", "x.y"),
        (r"-c x.y=one -c x.y=two", "x.y"),
        (r"-cx.y=", "x.y"),
        ("-c\tx.y=tab", "x.y"),
    ] {
        let ask = |to: &Target| show(&mut to.clone().param("options", options).login(), name);
        assert_eq!(ask(&proxy.client()), ask(&db.direct()), "{options}");
    }
}

/// Not fatal to us; what Postgres does not know it refuses itself, with its own words.
#[test]
fn what_postgres_does_not_know_is_refused_by_postgres_and_may_be_ignored() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for (name, value) in [("no_such_setting", "1"), ("work_mem", "much"), ("options", "-c no_such_setting=1")] {
        let direct = db.direct().param(name, value).connect().err().unwrap().db();
        let mut wire = proxy.client().param(name, value).login();
        let ours = wire.query("SELECT 1").unwrap_err().db();
        assert_eq!((&ours.severity, &ours.code, &ours.message), (&direct.severity, &direct.code, &direct.message));
        // The server is as good as before.
        proxy.still_serves();
    }
    drop(proxy);
    let ignored = "no_such_setting, extra_float_digits, Work_Mem";
    let proxy = Spec::of(&db).pool(1).text("ignore_startup_parameters", ignored).start();
    let mut plain = proxy.client().login();
    let client = proxy.client().param("no_such_setting", "1").param("work_mem", "much");
    let mut wire = client.param("options", "-c extra_float_digits=3 -c geqo=off").login();
    assert_eq!(show(&mut wire, "extra_float_digits"), show(&mut plain, "extra_float_digits"));
    assert_eq!(show(&mut wire, "geqo"), "off");
}

#[test]
fn trap_27_spellings_of_an_encoding_cost_nothing_and_are_told_as_postgres_tells_them() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    for spelling in ["'utf-8'", "utf8", "UNICODE", "latin1", "ISO-8859-15", "windows-1252", "sql_ascii"] {
        let told = |to: &Target| {
            let wire = to.clone().param("client_encoding", spelling).login();
            wire.params.iter().find(|(name, _)| name == "client_encoding").unwrap().1.clone()
        };
        assert_eq!(told(&proxy.client()), told(&db.direct()), "{spelling}");
    }
    let mut wire = proxy.client().param("client_encoding", "'utf-8'").login();
    assert_eq!(wire.one("SELECT 1"), "1");
    let pid = wire.one("SELECT pg_backend_pid()");
    // The last statement on the server is the client's own: nothing was set.
    let last = db.one(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"));
    assert_eq!(last, "SELECT pg_backend_pid()");
}

/// Names and values are bytes: in the encoding of the database, whatever client had the server before.
#[test]
fn trap_46_values_that_are_not_ascii_arrive_as_they_are() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut latin = proxy.client().param("client_encoding", "LATIN1").login();
    let mut rich = proxy.client().param("x.name", "Zo\u{eb} \u{4e16}").login();
    for _ in 0..2 {
        latin.ok("SELECT 1");
        assert_eq!(show(&mut rich, "x.name"), "Zo\u{eb} \u{4e16}");
        assert_eq!(show(&mut rich, "client_encoding"), "UTF8");
    }
    // Not even text: as Postgres makes of it what it can.
    for name in [&b"caf\xe9"[..], b"\xff\xfe", b"a\x01b", "na\u{ef}ve".as_bytes()] {
        let ask = |to: &Target| {
            let mut body = 196_608_u32.to_be_bytes().to_vec();
            for text in
                [&b"user"[..], to.user.as_bytes(), b"database", to.database.as_bytes(), b"application_name", name]
            {
                body.extend(text);
                body.push(0);
            }
            body.push(0);
            let mut wire = Wire::open(&to.addr).unwrap();
            wire.send(&untagged(&body)).unwrap();
            wire.authenticate(&to.user, &to.password).unwrap();
            let welcome = wire.recv_until(b'Z', 1).unwrap();
            let told = welcome.into_iter().find(|msg| msg.body.starts_with(b"application_name\0")).unwrap();
            (told.body, show(&mut wire, "application_name"))
        };
        assert_eq!(ask(&proxy.client()), ask(&db.direct()), "{name:?}");
    }
    proxy.still_serves();
}

#[test]
fn trap_47_replication_is_refused_and_the_word_for_none_is_not() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for value in ["database", "on", "true", "1", "yes", "maybe"] {
        let error = proxy.client().param("replication", value).connect().err().expect("it must be refused").db();
        assert_eq!((&*error.severity, &*error.code), ("FATAL", "0A000"), "{error}");
        assert!(error.message.contains("replication"), "{error}");
    }
    for value in ["off", "false", "0", "no", "f", "OFF", ""] {
        assert_eq!(proxy.client().param("replication", value).login().one("SELECT 1"), "1", "{value}");
    }
    eventually("no server is in use", secs(5), || proxy.pools("sv_active") == 0);
}

/// Nothing that a client may send at its log-in is a statement of its own.
#[test]
fn values_of_the_startup_packet_are_never_sql() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).start();
    for value in ["$v$, false); DROP TABLE t; --", "'); DROP TABLE t; --", "$v", "$$", "\\", "$vv$ $v$"] {
        let mut wire = proxy.client().param("x.y", value).login();
        assert_eq!(show(&mut wire, "x.y"), value);
    }
    for name in ["x.y$v$, $v$1$v$, false); DROP TABLE t; --", "x y", "", "1"] {
        // Refused by Postgres, if it is not a name.
        let _ =
            proxy.client().param("options", &format!("-c {}=1", name.replace(' ', "\\ "))).login().query("SELECT 1");
    }
    assert_eq!(db.one("SELECT count(*) FROM t"), "0");
    proxy.still_serves();
}
