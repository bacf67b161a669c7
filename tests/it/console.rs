//! The console, as psql and scripts see it.

use std::process::Output;

use crate::support::postgres::{Db, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::wire::{Addr, Target, extended, sync};

fn psql(host: &str, proxy: &Proxy, user: &str, password: &str, command: &str) -> Output {
    let mut psql = tool("psql");
    psql.env("PGHOST", host)
        .env("PGPORT", proxy.port.to_string())
        .env("PGUSER", user)
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "5")
        .args(["-X", "-d", "pglull", "-c", command]);
    psql.output().unwrap()
}

fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Each SHOW with columns that it must have, PgBouncer's first and in its order.
const SHOWS: [(&str, &[&str]); 9] = [
    ("VERSION", &["version"]),
    (
        "POOLS",
        &[
            "database",
            "user",
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
            "maxwait_us",
            "pool_mode",
        ],
    ),
    ("CLIENTS", &["type", "user", "database"]),
    ("SERVERS", &["type", "user", "database"]),
    ("DATABASES", &["name", "host", "port", "database", "force_user", "pool_size"]),
    ("STATS", &["database"]),
    ("LISTS", &["list", "items"]),
    ("CONFIG", &["key", "value"]),
    ("STATE", &["key", "value"]),
];

#[test]
fn psql_shows_everything_over_the_admin_socket() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    proxy.still_serves();
    let host = proxy.console_dir().to_string_lossy().into_owned();
    for (what, columns) in SHOWS {
        let output = psql(&host, &proxy, "anybody", "", &format!("SHOW {what}"));
        let shown = text(&output);
        assert!(output.status.success(), "SHOW {what}: {shown}");
        let mut header = shown.lines().next().unwrap().split('|').map(str::trim);
        for column in columns {
            assert_eq!(header.next(), Some(*column), "SHOW {what}: {shown}");
        }
    }
    for what in ["WINDOWS", "HELD", "BLOCKERS", "HELP"] {
        let output = psql(&host, &proxy, "anybody", "", &format!("SHOW {what}"));
        assert!(output.status.success(), "SHOW {what}: {}", text(&output));
    }
    let help = text(&psql(&host, &proxy, "anybody", "", "SHOW HELP"));
    assert!(help.contains("PAUSE") && help.contains("WINDOW APPLY"), "{help}");
}

#[test]
fn the_columns_of_windows_held_and_blockers_are_those_of_the_contract() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    assert_eq!(
        proxy.admin("SHOW WINDOWS").columns,
        [
            "id",
            "database",
            "form",
            "phase",
            "outcome",
            "reason",
            "owner",
            "started_at",
            "elapsed_ms",
            "drain_ms",
            "hold_ms",
            "apply_ms",
            "held_now",
            "held_peak",
            "stall_max_ms"
        ]
    );
    assert_eq!(
        proxy.admin("SHOW HELD").columns,
        ["database", "user", "application_name", "addr", "port", "held_ms", "id", "window"]
    );
    assert_eq!(
        proxy.admin("SHOW BLOCKERS").columns,
        [
            "database",
            "kind",
            "user",
            "application_name",
            "addr",
            "port",
            "state",
            "age_ms",
            "statement",
            "server_pid",
            "id"
        ]
    );
}

#[test]
fn shows_tell_the_truth() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(7).start();
    let mut busy = proxy.client().app("busy").login();
    let idle = proxy.client().app("quiet").login();
    busy.ok("BEGIN");
    assert_eq!(proxy.pools("sv_active"), 1);
    assert_eq!(proxy.pools("cl_waiting"), 0);
    let clients = proxy.admin("SHOW CLIENTS").maps();
    assert_eq!(clients.iter().filter(|row| row["database"] == db.name).count(), 2, "{clients:?}");
    let servers = proxy.admin("SHOW SERVERS").maps();
    let active = servers.iter().filter(|row| row["state"] == "active");
    assert_eq!(active.count(), 1, "{servers:?}");
    let databases = proxy.admin("SHOW DATABASES").maps();
    let row = databases.iter().find(|row| row["name"] == db.name).unwrap();
    assert_eq!((row["pool_size"].as_str(), row["force_user"].as_str()), ("7", db.user.as_str()));
    busy.ok("COMMIT");
    idle.close();
    busy.close();
    let stats = proxy.admin("SHOW STATS").maps();
    let row = stats.iter().find(|row| row["database"] == db.name).unwrap();
    assert_eq!(row["total_xact_count"], "1", "{row:?}");
    assert_eq!(row["total_query_count"], "2", "{row:?}");
}

#[test]
fn no_secret_is_shown_or_logged() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").text("log_level", "debug").start();
    proxy.still_serves();
    let mut all = proxy.log();
    for (what, _) in SHOWS {
        all.push_str(&format!("{:?}", proxy.admin(&format!("SHOW {what}"))));
    }
    all.push_str(&proxy.metrics_text());
    for secret in [db.password.as_str(), "boss pw", "SCRAM-SHA-256$"] {
        assert!(!all.contains(secret), "{secret:?} is visible");
    }
}

#[test]
fn admin_users_reach_the_console_over_the_listeners_and_nobody_else() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let run = |user: &str, password: &str, command: &str| psql("127.0.0.1", &proxy, user, password, command);
    let boss = run("boss", "boss pw", "SHOW VERSION");
    assert!(boss.status.success(), "{}", text(&boss));
    assert!(!run("boss", "wrong", "SHOW VERSION").status.success());
    let user = run(&db.user, &db.password, "SHOW VERSION");
    assert!(!user.status.success(), "an ordinary user is on the console: {}", text(&user));
    assert!(!run("stranger", "", "SHOW VERSION").status.success());
    // stats_users may look and not touch.
    let scribe = run("scribe", "scribe pw", "SHOW POOLS");
    assert!(scribe.status.success(), "{}", text(&scribe));
    for command in ["PAUSE".to_owned(), "RESUME".to_owned(), "SHUTDOWN".to_owned(), format!("WINDOW OPEN {}", db.name)]
    {
        let output = run("scribe", "scribe pw", &command);
        assert!(!output.status.success(), "{command} by a stats user: {}", text(&output));
    }
    proxy.still_serves();
}

#[test]
fn the_console_answers_to_both_its_names() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = Target { database: "pgbouncer".to_owned(), ..proxy.console() }.login();
    assert_eq!(wire.ok("SHOW VERSION").rows.len(), 1);
    assert_eq!(wire.ok("show version;").rows.len(), 1);
}

#[test]
fn extended_queries_are_answered_on_the_console() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    wire.send(&[extended("SHOW VERSION", &[]), sync()].concat()).unwrap();
    let answer = wire.recv_until(b'Z', 1).unwrap();
    let tags: Vec<u8> = answer.iter().map(|msg| msg.tag).collect();
    // Rows, or one clear refusal for the whole batch; and the console stays in step.
    assert!(tags == b"12TDCZ" || tags == b"EZ", "{answer:?}");
    assert_eq!(wire.ok("SHOW VERSION").rows.len(), 1);
}

#[test]
fn a_wrong_command_is_a_clear_error_and_the_console_goes_on() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.console().login();
    for (command, named) in [
        ("SHOW NONSENSE", "NONSENSE"),
        ("FROBNICATE", "FROBNICATE"),
        ("PAUSE nowhere", "nowhere"),
        ("WINDOW OPEN nowhere", "nowhere"),
        ("SHOW WINDOW nothing", "nothing"),
        ("WINDOW APPLY", ""),
        (&format!("WINDOW OPEN {} WITH (dryness='2s')", db.name), "dryness"),
        (&format!("WINDOW OPEN {} WITH (drain='soon')", db.name), "duration"),
        (&format!("WINDOW APPLY {} AS $$ no end", db.name), ""),
    ] {
        let error = wire.query(command).expect_err(command).db();
        assert_eq!(error.severity, "ERROR", "{command}: {error}");
        assert_eq!(error.code.len(), 5, "{command}: {error}");
        let whole = error.to_string().to_lowercase();
        assert!(whole.contains(&named.to_lowercase()), "{command}: {error}");
    }
    assert_eq!(wire.ok("SHOW VERSION").rows.len(), 1);
    proxy.still_serves();
}

#[test]
fn the_admin_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let Addr::Unix(path) = proxy.console().addr else { unreachable!() };
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn metrics_and_health_answer_over_http() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    proxy.still_serves();
    for path in ["/healthz", "/readyz"] {
        let (status, body) = proxy.http(path);
        assert!(status.contains("200"), "{path}: {status} {body}");
    }
    let text = proxy.metrics_text();
    assert!(text.lines().any(|line| line.starts_with("pglull_")), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let value = line.rsplit_once(' ').expect(line).1;
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(proxy.http("/nothing").0.contains("404"));
}

#[test]
fn one_of_many_bad_http_requests_disturbs_nobody() {
    use std::io::Write;
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    for bytes in [&b"\0\0\0\0"[..], b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", &[b'A'; 100_000]] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.metrics)).unwrap();
        let _ = stream.write_all(bytes);
    }
    assert!(proxy.http("/healthz").0.contains("200"));
    proxy.still_serves();
}
