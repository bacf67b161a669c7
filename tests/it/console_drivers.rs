//! The console as drivers use it: the extended protocol by hand and through tokio-postgres, cancels, roles, transactions.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::postgres::{Db, tool};
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, secs};
use crate::support::wire::{
    Addr, Msg, Target, Wire, bind, close, cstr, describe, execute, extended, flush, msg_of, parse, query, sync,
};

fn tags(messages: &[Msg]) -> String {
    messages.iter().map(|msg| char::from(msg.tag)).collect()
}

/// Sends a batch and gives the answer up to its last ReadyForQuery.
fn ask(wire: &mut Wire, parts: &[Vec<u8>]) -> Vec<Msg> {
    wire.send(&parts.concat()).unwrap();
    let syncs = parts.iter().filter(|part| matches!(part.first(), Some(b'S' | b'Q'))).count();
    wire.recv_until(b'Z', syncs).unwrap()
}

/// A Bind that asks for these result formats.
fn bind_as(portal: &str, name: &str, formats: &[i16]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(name), vec![0; 4]].concat();
    body.extend(i16::try_from(formats.len()).unwrap().to_be_bytes());
    formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
    msg_of(b'B', &body)
}

#[test]
fn named_statements_portals_and_row_limits_are_as_in_postgres() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    let answer = ask(&mut wire, &[parse("s", "SHOW STATE;"), describe(b'S', "s"), sync()]);
    assert_eq!(tags(&answer), "1tTZ");
    assert_eq!(answer[1].body, [0, 0], "no parameters");
    // Three rows, two at a time; at the end, and for each fetch after it, the tag.
    let answer = ask(
        &mut wire,
        &[bind("p", "s", &[]), describe(b'P', "p"), execute("p", 2), execute("p", 2), execute("p", 2), sync()],
    );
    assert_eq!(tags(&answer), "2TDDsDCCZ");
    // The portal is gone with its request, the statement is not.
    let answer = ask(&mut wire, &[execute("p", 0), sync()]);
    assert_eq!((tags(&answer).as_str(), answer[0].error().code.as_str()), ("EZ", "34000"));
    let answer = ask(&mut wire, &[bind("", "s", &[]), execute("", 0), close(b'P', ""), close(b'S', "s"), sync()]);
    assert_eq!(tags(&answer), "2DDDC33Z");
    let answer = ask(&mut wire, &[describe(b'S', "s"), sync()]);
    assert_eq!((tags(&answer).as_str(), answer[0].error().code.as_str()), ("EZ", "26000"));
    // What has no rows says so; a second run of it is an error, an empty text is none.
    let answer =
        ask(&mut wire, &[parse("", "RECONNECT"), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()]);
    assert_eq!(tags(&answer), "12nCZ");
    let answer = ask(&mut wire, &[bind("", "", &[]), execute("", 0), execute("", 0), sync()]);
    assert_eq!((tags(&answer).as_str(), answer[2].error().code.as_str()), ("2CEZ", "55000"));
    let answer = ask(&mut wire, &[parse("", " ; "), bind("", "", &[]), execute("", 0), sync()]);
    assert_eq!(tags(&answer), "12IZ");
    // An answer does not wait for Sync.
    wire.send(&[parse("", "SHOW VERSION"), describe(b'S', ""), flush()].concat()).unwrap();
    assert_eq!(tags(&wire.recv_until(b'T', 1).unwrap()), "1tT");
    assert_eq!(tags(&ask(&mut wire, &[sync()])), "Z");
}

#[test]
fn an_error_skips_to_sync_and_says_what_postgres_would() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    assert_eq!(tags(&ask(&mut wire, &[parse("s", "SHOW POOLS"), sync()])), "1Z");
    for (parts, code) in [
        (vec![parse("", "SHOW NOTHING")], "42601"),
        (vec![parse("", "SHOW POOLS; SHOW LISTS")], "42601"),
        (vec![parse("", "SHOW POOLS WHERE x = $1")], "42601"),
        (vec![parse("s", "SHOW LISTS")], "42P05"),
        (vec![bind("", "none", &[])], "26000"),
        (vec![describe(b'P', "none")], "34000"),
        (vec![bind("", "s", &[Some(b"1")])], "08P01"),
        (vec![bind_as("", "s", &[0, 1])], "08P01"),
        (vec![bind_as("", "s", &[2])], "22023"),
        (vec![msg_of(b'P', b"no end")], "08P01"),
        (vec![parse("x", "PAUSE nowhere"), bind("", "x", &[]), execute("", 0)], "3D000"),
    ] {
        // Whatever follows in the batch is not done, a simple query neither.
        let rest = [execute("", 0), query("DISABLE nowhere"), extended("SHOW LISTS", &[]), sync()];
        let sent: Vec<Vec<u8>> = parts.into_iter().chain(rest).collect();
        wire.send(&sent.concat()).unwrap();
        let answer = wire.recv_until(b'Z', 1).unwrap();
        let errors: Vec<_> = answer.iter().filter(|msg| msg.tag == b'E').map(|msg| msg.error()).collect();
        assert_eq!(errors.len(), 1, "{answer:?}");
        assert_eq!(errors[0].code, code, "{}", errors[0]);
        assert_eq!(tags(&ask(&mut wire, &[close(b'S', "x"), sync()])), "3Z", "in step after {code}");
    }
    assert_eq!(tags(&ask(&mut wire, &[extended("SHOW VERSION", &[]), sync()])), "12TDCZ");
}

#[test]
fn declared_types_are_given_back_and_binary_numbers_are_binary() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    proxy.still_serves();
    let mut wire = proxy.console().login();
    let declared = msg_of(b'P', &[cstr("t"), cstr("SHOW STATE"), vec![0, 1, 0, 0, 0, 25]].concat());
    let answer = ask(&mut wire, &[declared, describe(b'S', "t"), bind("", "t", &[None]), sync()]);
    assert_eq!((tags(&answer).as_str(), &answer[1].body[..]), ("1tT2Z", &[0, 1, 0, 0, 0, 25][..]));
    let answer = ask(&mut wire, &[parse("", "SHOW LISTS"), bind_as("", "", &[0, 1]), execute("", 1), sync()]);
    assert_eq!(tags(&answer), "12DsZ");
    // databases, 1: as a text of 9 bytes and an int4.
    assert_eq!(answer[2].body, [&b"\0\x02\0\0\0\x09databases\0\0\0\x04"[..], &1_i32.to_be_bytes()].concat());
}

/// The same through a driver that prepares everything and reads numbers in their binary form only.
#[test]
fn tokio_postgres_runs_show_pause_and_windows() {
    let db = Db::with("CREATE TABLE t (a int)");
    let proxy = Spec::of(&db).start();
    let config = format!("host=127.0.0.1 port={} user=boss password=pw dbname=pglull", proxy.port);
    tokio::runtime::Runtime::new().unwrap().block_on(through_a_driver(&config, &db));
}

async fn through_a_driver(config: &str, db: &Db) {
    let (client, connection) = tokio_postgres::connect(config, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query("SHOW DATABASES", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>("name"), db.name);
    assert_eq!((rows[0].get::<_, i32>("pool_size"), rows[0].get::<_, Option<&str>>("pool_mode")), (20, None));
    let statement = client.prepare("SHOW POOLS").await.unwrap();
    assert_eq!(statement.columns()[2].type_(), &tokio_postgres::types::Type::INT4);
    assert_eq!(client.query(&statement, &[]).await.unwrap().len(), client.query(&statement, &[]).await.unwrap().len());
    let windows = client.query("SHOW WINDOWS", &[]).await.unwrap();
    assert!(windows.is_empty());
    client.execute(&format!("PAUSE {}", db.name), &[]).await.unwrap();
    assert_eq!(client.query_one("SHOW DATABASES", &[]).await.unwrap().get::<_, i32>("paused"), 1);
    client.execute("RESUME", &[]).await.unwrap();
    let change = format!("WINDOW APPLY {} WITH (id='by-driver') AS $$ ALTER TABLE t ADD b int $$", db.name);
    let row = client.query_one(&change, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>("outcome"), row.get::<_, i64>("held_peak")), ("applied", 0));
    let error = client.query("SHOW WINDOW nothing", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42704");
    let error = client.execute("DISABLE nowhere", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3D000");
    let messages = client.simple_query("SHOW VERSION; SHOW STATE").await.unwrap();
    assert!(messages.len() >= 6, "{messages:?}");
}

#[test]
fn what_drivers_say_by_habit_is_tolerated() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    for (text, tag) in [
        ("SET extra_float_digits = 3", "SET"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET"),
        ("SET application_name = 'psycopg'", "SET"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("UNLISTEN *", "UNLISTEN"),
        ("CLOSE ALL", "CLOSE CURSOR"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("RESET ALL", "RESET"),
    ] {
        assert_eq!(wire.ok(text).tags, [tag], "{text}");
    }
    for (text, column, value) in [
        ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation", "read committed"),
        ("SHOW default_transaction_isolation", "default_transaction_isolation", "read committed"),
        ("SHOW standard_conforming_strings", "standard_conforming_strings", "on"),
        ("SHOW client_encoding", "client_encoding", "UTF8"),
        ("show datestyle", "DateStyle", "ISO, MDY"),
        ("SHOW TIME ZONE", "TimeZone", "UTC"),
        ("SHOW search_path", "search_path", "\"$user\", public"),
    ] {
        let reply = wire.ok(text);
        assert_eq!((reply.columns[0].as_str(), reply.one().as_str()), (column, value), "{text}");
    }
    assert!(wire.ok("SELECT version()").one().starts_with("PgBouncer "));
    // A driver that begins sees itself in a transaction until it ends it, and nothing is locked out by an error.
    assert_eq!(wire.ok("BEGIN").status, b'T');
    assert_eq!(wire.ok("SHOW STATE").status, b'T');
    wire.query("NONSENSE").unwrap_err();
    assert_eq!(wire.ok("ROLLBACK TO SAVEPOINT x").status, b'T');
    // Portals live as long as the transaction does: a driver that fetches row by row needs that.
    let answer = ask(
        &mut wire,
        &[parse("", "SHOW STATE"), bind("c", "", &[]), execute("c", 1), sync(), execute("c", 0), sync()],
    );
    assert_eq!(tags(&answer), "12DsZDDCZ");
    assert_eq!(wire.ok("COMMIT").status, b'I');
    let answer = ask(&mut wire, &[execute("c", 0), sync()]);
    assert_eq!(tags(&answer), "EZ");
    let reply = wire.ok("SHOW HELP");
    assert_eq!((reply.rows.len(), reply.notices.len()), (0, 1));
    assert!(reply.notices[0].to_string().contains("KILL_CLIENT"));
    let version = wire.params.iter().find(|(name, _)| name == "server_version").unwrap();
    assert!(version.1.ends_with("/bouncer"), "{version:?}");
}

#[test]
fn statements_and_their_bytes_are_bounded() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    let parses: Vec<u8> = (0..1001).flat_map(|n| parse(&format!("s{n}"), "SHOW STATE")).chain(sync()).collect();
    wire.send(&parses).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    assert_eq!((answer.len(), answer[1000].error().code.as_str()), (1002, "54000"));
    wire.ok("DEALLOCATE s0");
    assert_eq!(wire.query("DEALLOCATE s0").unwrap_err().db().code, "26000");
    wire.ok("DEALLOCATE ALL");
    let long = format!("SHOW STATE -- {}", "x".repeat(9 << 20));
    let answer = ask(&mut wire, &[parse("a", &long), parse("b", &long), sync()]);
    assert_eq!((tags(&answer).as_str(), answer[1].error().code.as_str()), ("1EZ", "54000"));
    assert_eq!(wire.ok("SHOW STATE").rows.len(), 3);
}

/// An operator's cancel, as psql sends it at Ctrl-C, with a transaction open that keeps the command from ending.
#[test]
fn a_cancel_ends_the_command_that_waits_and_nothing_else() {
    let db = Db::with("CREATE TABLE t (a int)");
    let proxy = Spec::of(&db).window("drain", "60s").window("hold", "120s").start();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    for (command, waits) in [
        (format!("PAUSE {}", db.name), "draining"),
        ("PAUSE".to_owned(), "draining"),
        (format!("WINDOW APPLY {} AS $$ ALTER TABLE t ADD b int $$", db.name), "draining"),
        (format!("WINDOW OPEN {}", db.name), "draining"),
        ("RECONNECT; WAIT_CLOSE".to_owned(), ""),
    ] {
        let mut wire = proxy.admin_start(&command);
        if waits.is_empty() {
            let closing = || proxy.admin("SHOW SERVERS").maps().iter().any(|row| row["close_needed"] == "1");
            eventually("the server is to be closed", secs(5), closing);
        } else {
            let draining = || proxy.admin("SHOW WINDOWS").maps().iter().any(|row| row["phase"] == waits);
            eventually(&format!("{command} drains"), secs(5), draining);
        }
        // Windows tell their phases meanwhile.
        let quiet = command.starts_with("WINDOW") || wire.silent(std::time::Duration::from_millis(100));
        assert!(quiet || command.contains(';'), "{command} has ended by itself");
        wire.cancel();
        let error = wire.finish().expect_err(&command).db();
        assert_eq!(error.code, "57014", "{command}: {error}");
        // Nobody is held any more, and the connection goes on.
        assert_eq!(wire.ok("SHOW DATABASES").maps()[0]["paused"], "0", "{command}");
        assert_eq!(proxy.client().login().one("SELECT 1"), "1", "{command}");
        // A cancel that comes late, or has another's key, does nothing.
        wire.cancel();
        crate::support::wire::cancel(&proxy.console().addr, wire.pid, b"wrong");
        assert_eq!(wire.ok("SHOW STATE").rows.len(), 3);
    }
    assert_eq!(open.one("SELECT count(*) FROM t"), "0");
    open.ok("COMMIT");
    assert!(!db.has_column("t", "b"));
}

#[test]
fn ctrl_c_in_psql_takes_a_window_back() {
    let db = Db::with("CREATE TABLE t (a int)");
    let proxy = Spec::of(&db).window("drain", "60s").window("hold", "120s").start();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let mut psql = tool("psql");
    psql.env("PGHOST", proxy.console_dir()).env("PGPORT", proxy.port.to_string()).env("PGUSER", "anybody");
    let change = format!("WINDOW APPLY {} WITH (id='typed') AS $$ ALTER TABLE t ADD b int $$", db.name);
    psql.args(["-X", "-d", "pglull", "-c", &change]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let psql = psql.spawn().unwrap();
    proxy.until_phase("typed", "draining");
    kill(Pid::from_raw(i32::try_from(psql.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = psql.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("window typed aborted"), "{said}");
    assert_eq!(proxy.closed("typed")["outcome"], "aborted");
    open.ok("COMMIT");
    assert!(!db.has_column("t", "b"));
}

fn refused(target: &Target) -> String {
    target.connect().err().expect("refused").db().to_string()
}

#[test]
fn user_pgbouncer_of_the_same_uid_needs_no_password_on_the_unix_socket() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let over = |addr: Addr, user: &str, database: &str| Target::new(addr, user, "", database);
    for database in ["pgbouncer", "pglull"] {
        let mut wire = over(proxy.unix_addr(), "pgbouncer", database).login();
        assert_eq!(wire.ok("RECONNECT").tags, ["RECONNECT"], "it is an admin");
    }
    // Not over TCP, not as somebody else, not into a database.
    refused(&over(Addr::Tcp(proxy.port), "pgbouncer", "pgbouncer"));
    refused(&over(proxy.unix_addr(), "boss", "pgbouncer"));
    refused(&over(proxy.unix_addr(), "pgbouncer", &db.name));
}

#[test]
fn a_stats_user_sees_everything_and_changes_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let mut scribe = Target::new(Addr::Tcp(proxy.port), "scribe", "scribe pw", "pgbouncer").login();
    let client = proxy.client().login();
    for what in ["POOLS", "CLIENTS", "SERVERS", "STATS", "LISTS", "CONFIG", "WINDOWS", "BLOCKERS", "HELP"] {
        scribe.ok(&format!("SHOW {what}"));
    }
    let id = scribe.ok("SHOW CLIENTS").maps().iter().find(|row| row["database"] == db.name).unwrap()["id"].clone();
    let name = &db.name;
    for command in [
        "SHOW FDS".to_owned(),
        format!("KILL_CLIENT {id}"),
        format!("KILL {name}"),
        "KILL".to_owned(),
        "PAUSE".to_owned(),
        "RESUME".to_owned(),
        format!("DISABLE {name}"),
        format!("ENABLE {name}"),
        "RECONNECT".to_owned(),
        "WAIT_CLOSE".to_owned(),
        "RELOAD".to_owned(),
        "SET log_stats = 0".to_owned(),
        "SHUTDOWN".to_owned(),
        format!("WINDOW OPEN {name}"),
        "WINDOW ABORT x".to_owned(),
    ] {
        for error in [
            scribe.query(&command).expect_err(&command).db(),
            ask(&mut scribe, &[extended(&command, &[]), sync()]).iter().find(|msg| msg.tag == b'E').unwrap().error(),
        ] {
            assert_eq!(error.code, "42501", "{command}: {error}");
        }
    }
    client.close();
    assert_eq!(proxy.admin_err("SHOW FDS").code, "0A000");
    assert_eq!(proxy.admin_err("SUSPEND").severity, "ERROR");
}
