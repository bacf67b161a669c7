//! `docs/console.md`, made from the tables of columns and the grammar. Run the test with `PGLULL_WRITE_DOCS=1` to write it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::columns;
use crate::admin::command::{self, Command, Role, Show};

const HEAD: &str = "\
# The console

A virtual database named `pgbouncer` or `pglull`, reached with psql, any driver, or `pglull admin 'COMMAND'`. This page is made from the code; a test
compares them, and `PGLULL_WRITE_DOCS=1 cargo test console_page` writes it anew.

**Who may log in.** Over `admin_socket`: processes of the user that runs pglull, and root; they may do everything. Over the listeners: `admin_users`, who
may do everything, and `stats_users`, who may look, both with their passwords; and, without a password, user `pgbouncer` over the Unix socket in
`unix_socket_dir` if its process runs as the same user as pglull. Whatever is not marked *all* below is for admins only. `max_client_conn` does not count
connections to the console.

**How drivers see it.** Simple queries, several in one text too, and the extended protocol with named statements, row limits and binary results. Commands
take no parameters. `BEGIN`, `COMMIT`, `SET` of settings that drivers set by habit, and `SHOW` of those that they ask for are answered and have no effect: each
command counts at once, and a failed one does not lock the others out. `SELECT` means `SHOW`. A cancel (Ctrl-C in psql) ends a running `PAUSE`,
`WAIT_CLOSE`, `KILL` or `WINDOW ..` with 57014; a window is rolled back, a pause is let go.

**Version.** `SHOW VERSION` answers `PgBouncer x.y.z (pglull a.b.c)`: x.y.z is the PgBouncer whose tables these are, which is what tools look for, and a.b.c is
ours. `server_version` is that of the same PgBouncer.

";

const COMMANDS_HEAD: &str = "## Commands

| Command | Who | What it does |
|---|---|---|
";

/// Each command: as it is written in the page, one that can be parsed, and what it does.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("`SHOW name`", "SHOW POOLS", "The tables below. `SHOW HELP` answers a notice."),
    (
        "`PAUSE [db]`",
        "PAUSE",
        "Lets open transactions finish, holds everybody who begins one; answers when all are held. Ends by itself at `pause_max`. Servers stay connected.",
    ),
    ("`RESUME [db]`", "RESUME", "Lets those go on who are held by `PAUSE` or `KILL`."),
    (
        "`RECONNECT [db]`",
        "RECONNECT",
        "Replaces all servers: idle ones are closed now, others when their client gives them back (in session mode: when it leaves).",
    ),
    (
        "`WAIT_CLOSE [db]`",
        "WAIT_CLOSE",
        "Answers when all servers from before the last `RECONNECT` are closed (`close_needed` of `SHOW SERVERS`).",
    ),
    (
        "`KILL [db]`",
        "KILL",
        "Disconnects all clients, rolls back what they were doing, closes all servers, and leaves the database paused, as PgBouncer does: who comes back waits for `RESUME`, but not beyond `pause_max`. Refused while a window of another kind runs.",
    ),
    (
        "`KILL_CLIENT id`",
        "KILL_CLIENT 1",
        "Disconnects one client or one operator of the console; `id` as in `SHOW CLIENTS`.",
    ),
    ("`DISABLE db`", "DISABLE db", "Refuses new log-ins: `database \"db\" is disabled`. Who is there stays."),
    ("`ENABLE db`", "ENABLE db", "Undoes `DISABLE`."),
    ("`SET key = value`", "SET log_stats = 0", "Gives a setting another value until the next reload."),
    (
        "`RELOAD`",
        "RELOAD",
        "Reads the configuration again and puts it in force, whole or not at all; a notice says what has changed and what waits for a restart.",
    ),
    (
        "`UPGRADE`",
        "UPGRADE",
        "Starts the program once more, from its file as it is now, and hands everything over: sockets that listen, and each client when it is between transactions. Nobody is refused or disconnected: `docs/upgrade.md`.",
    ),
    ("`SHUTDOWN`", "SHUTDOWN", "Ends the process at once; windows are rolled back first."),
    (
        "`SHUTDOWN WAIT_FOR_SERVERS`",
        "SHUTDOWN WAIT_FOR_SERVERS",
        "Takes no more clients, disconnects each at the end of its transaction, then ends; at the latest after `shutdown_timeout`.",
    ),
    (
        "`SHUTDOWN WAIT_FOR_CLIENTS`",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "Takes no more clients, serves those that are there until they leave, then ends; at the latest after `shutdown_timeout`.",
    ),
    (
        "`WINDOW APPLY db [WITH (..)] AS $$ SQL $$` or `AS CHANGE 'id' $$ SQL $$, ..`",
        "WINDOW APPLY db AS 'x'",
        "Holds everybody, applies a change in one transaction, lets everybody go on.",
    ),
    ("`WINDOW OPEN db [, ..] [WITH (..)]`", "WINDOW OPEN db", "Holds everybody while an operator works by hand."),
    (
        "`WINDOW REHEARSE db [, ..] [WITH (.., fire_drill=true, rollback=true)] [AS ..]`",
        "WINDOW REHEARSE db",
        "Looks and predicts, and holds nobody; `fire_drill` really drains and lets go at once, `rollback` really applies and rolls back.",
    ),
    (
        "`WINDOW RENEW`, `CLOSE`, `ABORT id [TOKEN '..'] [REASON '..']`",
        "WINDOW ABORT w",
        "Steer a window. The reason of an abort stands in the receipt.",
    ),
];

const REFUSED: &str = "
`SUSPEND` and `SHOW FDS` are refused: they served PgBouncer's online restart; `UPGRADE` does all of it.

## Tables

Columns are PgBouncer's, by its names, types and order; those in *italics* are ours and stand behind them. Counters start with the process; `avg_` columns are
of the last `stats_period` and what has come since: a second's worth, but for the times of transactions and queries, which are microseconds for one.

- The console itself has no row in `POOLS`, `DATABASES` and `STATS`; those who are at it stand in `CLIENTS`.
- `POOLS`: `cl_waiting` counts held clients too, `cl_held` those alone; `maxwait` leaves them out. `cl_active` counts clients that are idle, as PgBouncer does.
- `SERVERS`: `used` is idle for longer than `server_check_delay`, `tested` is being checked or made to forget its client.
- `SERVERS`: `prepared_statements` is as of the last boundary. `SOCKETS`: the seven columns about buffers are 0: buffers are a session's own, and an idle one has none. `ACTIVE_SOCKETS` leaves idle clients and servers out.
- `MEM`: the least that what is there takes, without buffers.
- `PEERS`, `PEER_POOLS`, `DNS_HOSTS`, `DNS_ZONES` are empty: there are no peers, and names are looked up by the system.
- Settings in `CONFIG` have PgBouncer's forms: times in seconds, switches 1 or 0.

| `SHOW` | Who | Columns |
|---|---|---|
";

const SHOWN: &[&str] = &[
    "POOLS",
    "CLIENTS",
    "SERVERS",
    "SOCKETS",
    "ACTIVE_SOCKETS",
    "DATABASES",
    "USERS",
    "STATS",
    "STATS_TOTALS",
    "STATS_AVERAGES",
    "TOTALS",
    "LISTS",
    "CONFIG",
    "VERSION",
    "STATE",
    "MEM",
    "PEERS",
    "PEER_POOLS",
    "DNS_HOSTS",
    "DNS_ZONES",
    "WINDOWS",
    "WINDOW id",
    "HELD [db]",
    "BLOCKERS [db]",
];

fn who(command: &Command) -> &'static str {
    match command.needs() {
        Role::Stats => "all",
        Role::Admin => "admins",
    }
}

fn shown(name: &str) -> Show {
    let text = format!("SHOW {}", name.replace(" [db]", ""));
    match command::parse(&text) {
        Ok(Command::Show(show)) => show,
        other => panic!("{text}: {other:?}"),
    }
}

fn page() -> String {
    let mut page = format!("{HEAD}{COMMANDS_HEAD}");
    for (form, sample, what) in COMMANDS {
        let command = command::parse(sample).unwrap();
        let _ = writeln!(page, "| {form} | {} | {what} |", who(&command));
    }
    page.push_str(REFUSED);
    for name in SHOWN {
        let show = shown(name);
        let column = |column: &crate::admin::table::Column| {
            let mark = if column.ours { "*" } else { "" };
            format!("{mark}{} {}{mark}", column.name, column.kind.name())
        };
        let columns: Vec<_> = columns(&show).unwrap().iter().map(column).collect();
        let _ = writeln!(page, "| `{name}` | {} | {} |", who(&Command::Show(show)), columns.join(", "));
    }
    page
}

#[test]
fn console_page_equals_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console.md");
    if std::env::var_os("PGLULL_WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/console.md is out of date: PGLULL_WRITE_DOCS=1 cargo test console_page");
}
