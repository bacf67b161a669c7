//! One test for each limit on servers and clients, named after its key; and the pool modes.

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Wire, WireError, execute, extended, query, sync};

fn refused(result: Result<Wire, WireError>, message: &str) {
    let error = result.map(drop).unwrap_err().db();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"), "{error}");
    assert_eq!(error.message, message);
}

#[test]
fn max_client_conn_bounds_all_clients_and_not_the_console() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 2).start();
    let (first, _second) = (proxy.client().login(), proxy.client().login());
    refused(proxy.client().connect(), "no more connections allowed (max_client_conn)");
    proxy.admin("SHOW CLIENTS");
    first.close();
    eventually("a place is free", secs(5), || proxy.client().connect().is_ok());
}

/// Connections that never log in take places too: that there are none left is said, once, and counted.
#[test]
fn a_crowd_that_does_not_log_in_is_noticed() {
    let db = Db::new();
    let proxy = Spec::of(&db).num("max_client_conn", 2).start();
    // Who comes through the console's own socket takes no place from clients, also before it has said who it is.
    let _silent = Wire::open(&proxy.console().addr).unwrap();
    let crowd: Vec<_> = (0..66).map(|_| Wire::open(&proxy.client().addr).unwrap()).collect();
    eventually("they are there", secs(10), || {
        let lists = proxy.admin("SHOW LISTS").maps();
        lists.iter().any(|row| row["list"] == "login_clients" && row["items"] == "66")
    });
    for _ in 0..3 {
        assert!(proxy.client().connect().is_err());
    }
    let text = "no more connections allowed (max_client_conn): too many that are not logged in";
    assert_eq!(proxy.log().matches(text).count(), 1, "{}", proxy.log());
    let metric = |text: String| {
        let line =
            text.lines().find(|line| line.starts_with("pglull_") && line.contains("reason=\"too_many_clients\""));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(metric(proxy.metrics_text()), 3.0);
    drop(crowd);
    eventually("there are places again", secs(10), || proxy.client().connect().is_ok());
}

#[test]
fn max_db_client_connections_bounds_the_clients_of_a_database() {
    let (db, other) = (Db::new(), Db::new());
    let spec = Spec::of(&db).also(&other).num("max_db_client_connections", 2);
    let proxy = spec.entry(&other, "max_db_client_connections", "1").start();
    let (first, _second) = (proxy.client().login(), proxy.client().login());
    refused(proxy.client().connect(), "client connections exceeded (max_db_client_connections)");
    let _only = proxy.client_of(&other).login();
    refused(proxy.client_of(&other).connect(), "client connections exceeded (max_db_client_connections)");
    first.close();
    eventually("a place is free", secs(5), || proxy.client().connect().is_ok());
}

#[test]
fn max_user_client_connections_bounds_the_clients_of_a_user_in_all_databases() {
    let (db, other) = (Db::new(), Db::new());
    let spec = Spec::of(&db).also(&other).user("ann", "pw").user_section("ann", "max_user_client_connections = 2");
    let proxy = spec.start();
    let ann = |db: &Db| {
        let mut target = proxy.client_of(db);
        (target.user, target.password) = ("ann".to_owned(), "pw".to_owned());
        target
    };
    let (first, _second) = (ann(&db).login(), ann(&other).login());
    for db in [&db, &other] {
        refused(ann(db).connect(), "client connections exceeded (max_user_client_connections)");
        proxy.client_of(db).login().close();
    }
    first.close();
    eventually("a place is free", secs(5), || ann(&db).connect().is_ok());
}

#[test]
fn default_pool_size_of_zero_is_no_limit() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(0).start();
    let mut clients: Vec<_> = (0..25).map(|_| proxy.client().login()).collect();
    clients.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    assert_eq!(db.servers(), 25);
}

#[test]
fn min_pool_size_of_a_forced_user_is_opened_before_anybody_asks() {
    let db = Db::new();
    let _proxy = Spec::of(&db).entry(&db, "min_pool_size", "2").start();
    eventually("two servers wait", secs(10), || db.servers() == 2);
}

#[test]
fn reserve_pool_size_helps_those_who_waited_for_reserve_pool_timeout() {
    let db = Db::new();
    let spec = Spec::of(&db).pool(1).entry(&db, "reserve_pool_size", "1").text("reserve_pool_timeout", "500ms");
    let proxy = spec.start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client().login()).collect();
    clients[0].ok("BEGIN");
    clients[1].start("BEGIN").unwrap();
    assert!(clients[1].silent(ms(300)), "the reserve is for those who waited");
    clients[1].limit(secs(10));
    clients[1].finish().unwrap();
    clients[2].start("SELECT 1").unwrap();
    assert!(clients[2].silent(ms(1800)), "one more, and no more than that");
    assert_eq!(db.servers(), 2);
    clients[0].ok("COMMIT");
    clients[2].finish().unwrap();
}

#[test]
fn server_round_robin_lends_the_one_that_rested_longest() {
    for (on, expected) in [(false, 1), (true, 3)] {
        let db = Db::new();
        let proxy = Spec::of(&db).num("min_pool_size", 3).text("server_round_robin", &on.to_string()).start();
        eventually("three servers wait", secs(10), || proxy.pools("sv_idle") == 3);
        let mut wire = proxy.client().login();
        let used: std::collections::BTreeSet<_> = (0..6).map(|_| wire.one("SELECT pg_backend_pid()")).collect();
        assert_eq!(used.len(), expected, "server_round_robin = {on}");
    }
}

#[test]
fn pool_mode_is_the_users_then_the_databases_then_the_global_one() {
    let (db, other) = (Db::new(), Db::new());
    let spec = Spec::of(&db).also(&other).session().pool(1).user("ann", "pw");
    let spec = spec.entry(&db, "pool_mode", "\"transaction\"").user_section("ann", "pool_mode = \"session\"");
    let proxy = spec.start();
    // Transaction mode by the database's word: two share a server.
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    a.ok("SELECT 1");
    b.ok("SELECT 1");
    // Session mode by the user's word, though the pool is the one of the forced user.
    let mut ann = proxy.client_as("ann").login();
    ann.ok("SELECT 1");
    a.start("SELECT 1").unwrap();
    assert!(a.silent(ms(200)), "ann keeps the only server");
    ann.close();
    a.finish().unwrap();
    // Session mode by the global word.
    let (mut c, mut d) = (proxy.client_of(&other).login(), proxy.client_of(&other).login());
    c.ok("SELECT 1");
    d.start("SELECT 1").unwrap();
    assert!(d.silent(ms(200)));
    c.close();
    d.finish().unwrap();
}

const NO_BLOCKS: &str = "transaction blocks not allowed in statement pooling mode";

#[test]
fn trap_08_statement_mode_refuses_transaction_blocks() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).text("pool_mode", "statement").start();
    let mut good = proxy.client().login();
    let server = good.one("SELECT pg_backend_pid()");
    let failed_block = [extended("BEGIN", &[]), extended("SELECT 1/0", &[]), sync()].concat();
    let more_behind = [query("BEGIN"), query("INSERT INTO t VALUES (3)")].concat();
    for (name, bytes) in [
        ("BEGIN", query("BEGIN")),
        ("a block in one message", query("BEGIN; INSERT INTO t VALUES (1)")),
        ("a block by the extended protocol", [extended("BEGIN", &[]), sync()].concat()),
        ("a failed block", failed_block),
        ("with more behind", more_behind),
    ] {
        let mut wire = proxy.client().login();
        wire.limit(secs(10));
        wire.send(&bytes).unwrap();
        let fatal = loop {
            let msg = wire.recv().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_ne!(msg.tag, b'Z', "{name}: a transaction block is open");
            if msg.tag == b'E' && msg.error().severity == "FATAL" {
                break msg.error();
            }
        };
        assert_eq!((fatal.code.as_str(), fatal.message.as_str()), ("0A000", NO_BLOCKS), "{name}");
        // The server is rolled back and goes on, or was closed; the next client finds it clean.
        assert_eq!(good.one("SELECT count(*) FROM t"), "0", "after {name}");
        assert_eq!(good.one("SELECT (txid_current_if_assigned() IS NULL)::text"), "true", "after {name}");
    }
    assert_eq!(good.one("SELECT pg_backend_pid()"), server);
}

#[test]
fn statement_mode_shares_a_server_between_statements() {
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(1).text("pool_mode", "statement").start();
    let (mut a, mut b) = (proxy.client().login(), proxy.client().login());
    for _ in 0..3 {
        a.ok("INSERT INTO t VALUES (1)");
        b.ok("INSERT INTO t VALUES (2)");
    }
    // Several statements in one message, and in one batch, are one transaction that ends by itself.
    a.ok("INSERT INTO t VALUES (3); INSERT INTO t VALUES (4)");
    a.ok("BEGIN; INSERT INTO t VALUES (5); COMMIT");
    b.send(&[extended("INSERT INTO t VALUES (6)", &[]), execute("", 0), sync()].concat()).unwrap();
    b.recv_until(b'Z', 1).unwrap();
    assert_eq!(a.query("SELECT 1/0").unwrap_err().db().code, "22012");
    assert_eq!(a.one("SELECT sum(a) >= 21 FROM t"), "t");
    assert_eq!(db.servers(), 1);
}

#[test]
fn a_databases_settings_are_those_of_clients_that_ask_for_none() {
    let db = Db::new();
    let spec = Spec::of(&db).pool(1).entry(&db, "timezone", "\"Asia/Tokyo\"").entry(&db, "datestyle", "\"SQL, DMY\"");
    let proxy = spec.entry(&db, "client_encoding", "\"LATIN1\"").start();
    let shown =
        |wire: &mut Wire| ["TimeZone", "DateStyle", "client_encoding"].map(|name| wire.one(&format!("SHOW {name}")));
    let mut plain = proxy.client().login();
    assert_eq!(shown(&mut plain), ["Asia/Tokyo", "SQL, DMY", "LATIN1"]);
    let mut own = proxy.client().param("TimeZone", "Europe/Rome").param("client_encoding", "UTF8").login();
    assert_eq!(shown(&mut own), ["Europe/Rome", "SQL, DMY", "UTF8"]);
    assert_eq!(shown(&mut plain), ["Asia/Tokyo", "SQL, DMY", "LATIN1"]);
    plain.ok("SET TimeZone = 'Europe/Paris'");
    plain.ok("RESET TimeZone");
    assert_eq!(shown(&mut plain), ["Asia/Tokyo", "SQL, DMY", "LATIN1"]);
    // What is ours is in UTF-8 all the same.
    proxy.apply("w", "", &format!("COMMENT ON DATABASE {} IS 'ü'", db.name)).finish().unwrap();
    assert_eq!(
        db.one("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"),
        "ü"
    );
    // Another value replaces the servers.
    proxy.edit(|text| text.replace("Asia/Tokyo", "Asia/Seoul"));
    proxy.admin("RELOAD");
    assert_eq!(proxy.client().login().one("SHOW TimeZone"), "Asia/Seoul");
}

#[test]
fn connect_query_runs_once_on_each_server() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).entry(&db, "connect_query", "\"SET work_mem = '5MB'\"").start();
    let mut wire = proxy.client().login();
    assert_eq!(wire.one("SHOW work_mem"), "5MB");
}

#[test]
fn application_name_add_host_says_where_a_client_is() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("application_name_add_host", "true").start();
    let mut wire = proxy.client().app("shop").login();
    let name = wire.one("SELECT current_setting('application_name')");
    assert!(name.starts_with("shop - 127.0.0.1:"), "{name}");
}
