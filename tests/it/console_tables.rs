//! Every table of the console: its columns, by name, type and order, and that what it says is true.

use std::collections::BTreeMap;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Msg, Reply, Wire, parse, sync};

/// PgBouncer's letters for types: s text, i int4, q int8, N numeric, T a time as text.
fn oid(letter: char) -> u32 {
    match letter {
        's' | 'T' => 25,
        'i' => 23,
        'q' => 20,
        'N' => 1700,
        other => panic!("{other}"),
    }
}

const SOCKET: &str = "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us \
     close_needed ptr link remote_pid tls application_name prepared_statements id";
const SOCKET_TYPES: &str = "ssssssisiTTiiississii";
const BUFFERS: &str = "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail";
const TOTALS: &str = "total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time \
     total_query_time total_wait_time total_client_parse_count total_server_parse_count total_bind_count total_client_login_count";
const AVERAGES: &str = "avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time \
     avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count";

/// Each table: PgBouncer's columns and types, in its order, and ours behind them.
fn tables() -> Vec<(&'static str, String, String, &'static str)> {
    let plain = |name, columns: &str, types: &str, ours| (name, columns.to_owned(), types.to_owned(), ours);
    vec![
        plain(
            "POOLS",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
             sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
            "ssiiiiiiiiiiiiiss",
            "cl_held paused",
        ),
        plain("CLIENTS", SOCKET, SOCKET_TYPES, "held transaction_ms pinned"),
        plain("SERVERS", SOCKET, SOCKET_TYPES, ""),
        ("SOCKETS", format!("{SOCKET} {BUFFERS}"), format!("{SOCKET_TYPES}iiiiiii"), ""),
        ("ACTIVE_SOCKETS", format!("{SOCKET} {BUFFERS}"), format!("{SOCKET_TYPES}iiiiiii"), ""),
        plain(
            "DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode \
             load_balance_hosts max_connections current_connections max_client_connections current_client_connections paused \
             disabled",
            "ssissiiiissiiiiii",
            "apply_user",
        ),
        plain(
            "USERS",
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections max_user_client_connections \
             current_client_connections",
            "ssssiiii",
            "",
        ),
        ("STATS", format!("database {TOTALS} {AVERAGES}"), format!("s{}", "N".repeat(24)), ""),
        plain(
            "STATS_TOTALS",
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
             client_parse_count server_parse_count bind_count client_login_count",
            "sNNNNNNNNNNNN",
            "",
        ),
        plain(
            "STATS_AVERAGES",
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
             avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
            "sNNNNNNNNNNNN",
            "",
        ),
        plain("TOTALS", "name value", "sN", ""),
        plain("LISTS", "list items", "si", ""),
        plain("CONFIG", "key value default changeable", "ssss", ""),
        plain("VERSION", "version", "s", ""),
        plain("STATE", "key value", "ss", ""),
        plain("MEM", "name size used free memtotal", "siiii", ""),
        plain("PEERS", "peer_id host port pool_size", "isii", ""),
        plain(
            "PEER_POOLS",
            "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
            "iiiii",
            "",
        ),
        plain("DNS_HOSTS", "hostname ttl addrs", "sqs", ""),
        plain("DNS_ZONES", "zonename serial count", "sqi", ""),
    ]
}

/// Names and types of a RowDescription.
fn fields(msg: &Msg) -> Vec<(String, u32)> {
    let mut found = vec![];
    let mut rest = &msg.body[2..];
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let oid = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
        found.push((name, oid));
        rest = &rest[end + 19..];
    }
    found
}

#[test]
fn every_table_has_pgbouncers_columns_in_its_order_and_ours_behind_them() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    for (name, columns, types, ours) in tables() {
        wire.start(&format!("SHOW {name}")).unwrap();
        let answer = wire.recv_until(b'Z', 1).unwrap();
        assert_eq!(answer[0].tag, b'T', "SHOW {name}: {answer:?}");
        let found = fields(&answer[0]);
        let expected: Vec<(String, u32)> =
            columns.split_whitespace().map(str::to_owned).zip(types.chars().map(oid)).collect();
        assert_eq!(columns.split_whitespace().count(), types.len(), "the test's own table of {name}");
        assert_eq!(found[..expected.len().min(found.len())], expected[..], "SHOW {name}");
        let rest: Vec<&str> = found[expected.len()..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(rest, ours.split_whitespace().collect::<Vec<_>>(), "SHOW {name}: ours");
        // What says that it is a number is one.
        for row in answer.iter().filter(|msg| msg.tag == b'D') {
            for ((column, oid), value) in found.iter().zip(row.values()) {
                let number = value.is_none_or(|value| value.parse::<u64>().is_ok());
                assert!(*oid == 25 || number, "SHOW {name}: {column}");
            }
        }
    }
}

#[test]
fn rows_of_lists_state_and_totals_are_those_that_scripts_look_for() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let keys = |what: &str| -> Vec<String> {
        proxy.admin(what).rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
    };
    assert_eq!(
        keys("SHOW LISTS").join(" "),
        "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers dns_names \
         dns_zones dns_queries dns_pending"
    );
    assert_eq!(keys("SHOW STATE"), ["active", "paused", "suspended"]);
    let names = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time wait_time \
         ps_client_parse_count ps_server_parse_count ps_bind_count client_login_count";
    let expected = ["total", "avg"].map(|prefix| names.split_whitespace().map(move |name| format!("{prefix}_{name}")));
    assert_eq!(keys("SHOW TOTALS"), expected.into_iter().flatten().collect::<Vec<_>>());
    let config: BTreeMap<String, String> =
        proxy.admin("SHOW CONFIG").maps().into_iter().map(|row| (row["key"].clone(), row["value"].clone())).collect();
    for (key, value) in [
        ("max_client_conn", "1000"),
        ("query_wait_timeout", "120"),
        ("tcp_keepalive", "1"),
        ("pool_mode", "transaction"),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert!(proxy.admin("SHOW MEM").rows.iter().any(|row| row[0].as_deref() == Some("server_cache")));
}

fn find<'a>(rows: &'a [BTreeMap<String, String>], key: &str, value: &str) -> &'a BTreeMap<String, String> {
    rows.iter().find(|row| row[key] == value).unwrap_or_else(|| panic!("no {key} {value}: {rows:?}"))
}

#[test]
fn clients_servers_and_sockets_tell_who_is_linked_to_whom() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut busy = proxy.client().app("busy").login();
    let _quiet = proxy.client().app("quiet").login();
    busy.ok("BEGIN");
    let clients = proxy.admin("SHOW CLIENTS").maps();
    let client = find(&clients, "application_name", "busy");
    assert_eq!(
        (client["state"].as_str(), client["addr"].as_str(), client["type"].as_str()),
        ("active", "127.0.0.1", "C")
    );
    assert_eq!(client["local_port"], proxy.port.to_string());
    assert_eq!(find(&clients, "application_name", "quiet")["state"], "idle");
    let servers = proxy.admin("SHOW SERVERS").maps();
    let server = find(&servers, "state", "active");
    assert_eq!((&server["link"], &server["ptr"]), (&client["ptr"], &client["link"]));
    assert_eq!(server["remote_pid"], busy.one("SELECT pg_backend_pid()"));
    assert_eq!((server["application_name"].as_str(), server["close_needed"].as_str()), ("busy", "0"));
    // Those at the console are seen too: the one that asks.
    let operator = find(&clients, "database", "pgbouncer");
    assert_eq!((operator["state"].as_str(), operator["addr"].as_str()), ("active", "unix"));
    assert_eq!(operator["remote_pid"], std::process::id().to_string());
    let states = |what: &str| -> Vec<String> {
        let mut found: Vec<_> =
            proxy.admin(what).maps().into_iter().map(|mut row| row.remove("state").unwrap()).collect();
        found.sort();
        found
    };
    assert_eq!(states("SHOW SOCKETS"), ["cl_active", "cl_active", "sv_active"]);
    assert_eq!(states("SHOW ACTIVE_SOCKETS"), ["cl_active", "sv_active"]);
    busy.ok("COMMIT");
    assert_eq!(states("SHOW SOCKETS"), ["cl_active", "cl_active", "sv_idle"]);
    assert_eq!(states("SHOW ACTIVE_SOCKETS"), Vec::<String>::new());
}

#[test]
fn prepared_statements_are_counted_for_clients_and_for_servers() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).num("max_prepared_statements", 2).start();
    let (mut first, mut second) = (proxy.client().app("first").login(), proxy.client().app("second").login());
    let prepare = |wire: &mut Wire, name: &str, sql: &str| {
        wire.send(&[parse(name, sql), sync()].concat()).unwrap();
        wire.recv_until(b'Z', 1).unwrap();
    };
    let count = |what: &str, app: &str| {
        let rows = proxy.admin(what).maps();
        let row = if app.is_empty() { &rows[0] } else { find(&rows, "application_name", app) };
        row["prepared_statements"].parse::<u64>().unwrap()
    };
    prepare(&mut first, "a", "SELECT 1");
    prepare(&mut second, "x", "SELECT 1");
    // An answer may be with its client a moment before it is in the books, where another worker serves the console.
    let counted = |what: &str, app: &str, expected: u64| {
        eventually(&format!("{expected} in {what} {app}"), secs(5), || count(what, app) == expected);
    };
    counted("SHOW CLIENTS", "first", 1);
    counted("SHOW CLIENTS", "second", 1);
    assert_eq!(count("SHOW SERVERS", ""), 1, "equal statements are one");
    prepare(&mut first, "b", "SELECT 2");
    prepare(&mut first, "c", "SELECT 3");
    counted("SHOW CLIENTS", "first", 3);
    counted("SHOW SERVERS", "", 2);
    assert_eq!(count("SHOW SOCKETS", "first"), 3);
}

#[test]
fn a_waiter_and_a_pool_are_shown_as_they_are() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut first = proxy.client().login();
    first.ok("BEGIN");
    let mut second = proxy.client().app("second").login();
    second.start("SELECT 1").unwrap();
    eventually("one waits", secs(5), || proxy.pools("cl_waiting") == 1);
    let clients = proxy.admin("SHOW CLIENTS").maps();
    assert_eq!(find(&clients, "application_name", "second")["state"], "waiting");
    let pools = proxy.admin("SHOW POOLS").maps();
    let pool = find(&pools, "database", &db.name);
    let number = |column: &str| pool[column].parse::<u64>().unwrap();
    assert_eq!((number("cl_active"), number("sv_active"), number("sv_idle"), number("cl_held")), (1, 1, 0, 0));
    eventually("the wait is counted", secs(5), || proxy.pools("maxwait") * 1_000_000 + proxy.pools("maxwait_us") > 0);
    first.ok("COMMIT");
    second.finish().unwrap();
    assert_eq!(proxy.pools("cl_waiting"), 0);
    proxy.admin(&format!("PAUSE {}", db.name));
    let databases = proxy.admin("SHOW DATABASES").maps();
    assert_eq!((find(&databases, "name", &db.name)["paused"].as_str(), proxy.pools("paused")), ("1", 1));
    proxy.admin("RESUME");
}

fn stat(proxy: &Proxy, what: &str, database: &str, column: &str) -> u64 {
    find(&proxy.admin(what).maps(), "database", database)[column].parse().unwrap()
}

#[test]
fn averages_are_of_the_last_period_and_the_log_has_its_line() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("stats_period", "1s").start();
    let mut client = proxy.client().login();
    (0..50).for_each(|_| drop(client.ok("BEGIN; SELECT pg_sleep(0.001); COMMIT")));
    // Within two periods of the work it is in the averages; one transaction took a millisecond and not an age.
    let seen = |column: &str| stat(&proxy, "SHOW STATS", &db.name, column);
    assert!(seen("avg_xact_count") > 0, "{:?}", proxy.admin("SHOW STATS").maps());
    assert!((1000..1_000_000).contains(&seen("avg_xact_time")), "{}", seen("avg_xact_time"));
    assert!(seen("avg_recv") > 0 && seen("avg_sent") > 0);
    assert_eq!((seen("total_xact_count"), seen("total_client_login_count")), (50, 1));
    assert_eq!(stat(&proxy, "SHOW STATS_TOTALS", &db.name, "xact_count"), 50);
    // After two periods of rest it is not.
    eventually("it is over", secs(10), || seen("avg_xact_count") == 0 && seen("avg_recv") == 0);
    assert_eq!(stat(&proxy, "SHOW STATS_AVERAGES", &db.name, "xact_count"), 0);
    assert_eq!(seen("total_xact_count"), 50);
    let totals = proxy.admin("SHOW TOTALS").maps();
    assert_eq!(find(&totals, "name", "total_xact_count")["value"], "50");
    eventually("the line", secs(5), || proxy.log().contains("stats: ") && proxy.log().contains(" server parses/s, "));
}

/// What pgbouncer_exporter asks, and how it reads it: columns by name, each label a text or a number, each figure a number.
#[test]
fn the_exporter_of_prometheus_can_read_everything_that_it_asks_for() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    proxy.still_serves();
    let mut wire = proxy.console().login();
    wire.ok("SET extra_float_digits = 2");
    let number = |reply: &Reply, what: &str, columns: &[&str]| {
        assert!(!reply.rows.is_empty(), "{what}");
        for row in reply.maps() {
            for column in columns {
                assert!(row[*column].parse::<f64>().is_ok(), "{what} {column}: {row:?}");
            }
        }
    };
    assert!(wire.ok("SHOW STATS").rows.len() == 1);
    let version = wire.ok("SHOW VERSION;");
    assert_eq!(version.columns, ["version"]);
    assert!(version.one().starts_with("PgBouncer 1.") && version.one().contains("(pglull "), "{}", version.one());
    let lists = wire.ok("SHOW LISTS;");
    assert_eq!(lists.columns.len(), 2);
    number(&lists, "LISTS", &["items"]);
    let config = wire.ok("SHOW CONFIG;");
    assert_eq!(config.columns.len(), 4);
    assert_eq!(find(&config.maps(), "key", "max_client_conn")["value"], "1000");
    number(
        &wire.ok("SHOW databases;"),
        "databases",
        &["port", "pool_size", "max_connections", "current_connections", "paused", "disabled"],
    );
    number(
        &wire.ok("SHOW stats_totals;"),
        "stats_totals",
        &[
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "server_assignment_count",
        ],
    );
    number(
        &wire.ok("SHOW pools;"),
        "pools",
        &[
            "cl_active",
            "cl_active_cancel_req",
            "cl_waiting",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    );
    number(&wire.ok("SHOW CLIENTS;"), "clients", &["port", "wait", "id"]);
}
