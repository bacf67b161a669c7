//! The columns of every table, PgBouncer's first, by its names, types and order; ours behind them.
//! Source: `src/admin.c` and `src/stats.c` of PgBouncer 1.25. `docs/console.md` is made from this.

use crate::admin::command::Show;
use crate::admin::table::{Column, int, long, numeric_of, text};

/// The columns that a `SHOW` answers; none for one that answers no rows.
pub(in crate::admin) fn columns(show: &Show) -> Option<Vec<Column>> {
    let columns: &[Column] = match show {
        Show::Help | Show::Fds => return None,
        Show::Parameter(name) => return super::setting(name).map(|(name, _)| vec![text(name)]),
        Show::Clients => return Some([&SOCKET[..], &CLIENT_OURS].concat()),
        Show::Servers => return Some(SOCKET.to_vec()),
        Show::Sockets | Show::ActiveSockets => return Some([&SOCKET[..], &BUFFERS].concat()),
        Show::Stats => {
            let totals = STATS.iter().map(|stat| numeric_of(stat.total));
            let averages = STATS.iter().map(|stat| numeric_of(stat.average));
            return Some([text("database")].into_iter().chain(totals).chain(averages).collect());
        }
        Show::StatsTotals => return Some(with_database(|stat| stat.alone)),
        Show::StatsAverages => return Some(with_database(|stat| stat.averaged)),
        Show::Pools => &POOLS,
        Show::Databases => &DATABASES,
        Show::Totals => &[text("name"), numeric_of("value")],
        Show::Lists => &[text("list"), int("items")],
        Show::Users => &USERS,
        Show::Config => &[text("key"), text("value"), text("default"), text("changeable")],
        Show::Version => &[text("version")],
        Show::State => &[text("key"), text("value")],
        Show::Mem => &[text("name"), int("size"), int("used"), int("free"), int("memtotal")],
        Show::Peers => &[int("peer_id"), text("host"), int("port"), int("pool_size")],
        Show::PeerPools => &PEER_POOLS,
        Show::DnsHosts => &[text("hostname"), long("ttl"), text("addrs")],
        Show::DnsZones => &[text("zonename"), long("serial"), int("count")],
        Show::Windows => &WINDOWS,
        Show::Window(_) => &[text("key").ours(), text("value").ours()],
        Show::Held(_) => &HELD,
        Show::Blockers(_) => &BLOCKERS,
    };
    Some(columns.to_vec())
}

fn with_database(name: fn(&Stat) -> &'static str) -> Vec<Column> {
    [text("database")].into_iter().chain(STATS.iter().map(|stat| numeric_of(name(stat)))).collect()
}

/// The names of one counter in the four tables that show it; `TOTALS` has its names in rows.
pub(super) struct Stat {
    total: &'static str,
    average: &'static str,
    alone: &'static str,
    averaged: &'static str,
    pub(super) row: &'static str,
}

/// The name of a counter in `STATS`, in `STATS_TOTALS` if that is another, and so on; PgBouncer has its own mind here.
macro_rules! stats {
    ($($total:literal $average:literal $alone:literal $averaged:literal $row:literal;)+) => {
        &[$(Stat { total: $total, average: $average, alone: $alone, averaged: $averaged, row: $row },)+]
    };
}

/// In the order of `pool::stats::Figures`.
pub(super) const STATS: &[Stat] = stats! {
    "total_server_assignment_count" "avg_server_assignment_count" "server_assignment_count" "server_assignment_count" "server_assignment_count";
    "total_xact_count" "avg_xact_count" "xact_count" "xact_count" "xact_count";
    "total_query_count" "avg_query_count" "query_count" "query_count" "query_count";
    "total_received" "avg_recv" "bytes_received" "bytes_received" "client_bytes";
    "total_sent" "avg_sent" "bytes_sent" "bytes_sent" "server_bytes";
    "total_xact_time" "avg_xact_time" "xact_time" "xact_time" "xact_time";
    "total_query_time" "avg_query_time" "query_time" "query_time" "query_time";
    "total_wait_time" "avg_wait_time" "wait_time" "wait_time" "wait_time";
    "total_client_parse_count" "avg_client_parse_count" "client_parse_count" "avg_client_parse_count" "ps_client_parse_count";
    "total_server_parse_count" "avg_server_parse_count" "server_parse_count" "avg_server_parse_count" "ps_server_parse_count";
    "total_bind_count" "avg_bind_count" "bind_count" "avg_bind_count" "ps_bind_count";
    "total_client_login_count" "avg_client_login_count" "client_login_count" "avg_client_login_count" "client_login_count";
};

const POOLS: [Column; 19] = [
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("cl_held").ours(),
    int("paused").ours(),
];

const SOCKET: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
];

const CLIENT_OURS: [Column; 3] = [int("held").ours(), long("transaction_ms").ours(), text("pinned").ours()];

const BUFFERS: [Column; 7] = [
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
];

const DATABASES: [Column; 18] = [
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
    text("apply_user").ours(),
];

const USERS: [Column; 8] = [
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

const PEER_POOLS: [Column; 5] = [
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

const WINDOWS: [Column; 15] = [
    text("id").ours(),
    text("database").ours(),
    text("form").ours(),
    text("phase").ours(),
    text("outcome").ours(),
    text("reason").ours(),
    text("owner").ours(),
    text("started_at").ours(),
    long("elapsed_ms").ours(),
    long("drain_ms").ours(),
    long("hold_ms").ours(),
    long("apply_ms").ours(),
    long("held_now").ours(),
    long("held_peak").ours(),
    long("stall_max_ms").ours(),
];

const HELD: [Column; 8] = [
    text("database").ours(),
    text("user").ours(),
    text("application_name").ours(),
    text("addr").ours(),
    int("port").ours(),
    long("held_ms").ours(),
    long("id").ours(),
    text("window").ours(),
];

const BLOCKERS: [Column; 11] = [
    text("database").ours(),
    text("kind").ours(),
    text("user").ours(),
    text("application_name").ours(),
    text("addr").ours(),
    int("port").ours(),
    text("state").ours(),
    long("age_ms").ours(),
    text("statement").ours(),
    int("server_pid").ours(),
    long("id").ours(),
];
