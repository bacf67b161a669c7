//! The figures of `/metrics` by the names that `pgbouncer_exporter` gives them, for dashboards and alerts that are there already.
//!
//! That exporter reads the console's tables and names their columns; so does this, from the same tables, at each scrape.
//! Source of the names: `collector.go` of prometheus-community/pgbouncer_exporter.

use std::fmt::Write as _;

use super::command::Show;
use super::console::{Answer, Env};
use super::show;
use super::table::Table;
use crate::config::COMPATIBLE;
use crate::telemetry::metrics::labels;

/// A table of the console, and what becomes of its columns.
struct Source {
    show: Show,
    /// What the names begin with. Counters have been called both ways, and dashboards use either.
    prefixes: &'static [&'static str],
    kind: &'static str,
    labels: &'static [&'static str],
    /// Column, and the rest of the name; one that ends in `seconds_total` is counted in microseconds in the table.
    figures: &'static [(&'static str, &'static str)],
}

const SOURCES: [Source; 3] = [
    Source {
        show: Show::Databases,
        prefixes: &["databases_"],
        kind: "gauge",
        labels: &["name", "host", "port", "database", "force_user", "pool_mode"],
        figures: &[
            ("pool_size", "pool_size"),
            ("reserve_pool_size", "reserve_pool"),
            ("max_connections", "max_connections"),
            ("current_connections", "current_connections"),
            ("paused", "paused"),
            ("disabled", "disabled"),
        ],
    },
    Source {
        show: Show::Pools,
        prefixes: &["pools_"],
        kind: "gauge",
        labels: &["database", "user"],
        figures: &[
            ("cl_active", "client_active_connections"),
            ("cl_active_cancel_req", "client_active_cancel_connections"),
            ("cl_waiting", "client_waiting_connections"),
            ("cl_waiting_cancel_req", "client_waiting_cancel_connections"),
            ("sv_active", "server_active_connections"),
            ("sv_active_cancel", "server_active_cancel_connections"),
            ("sv_being_canceled", "server_being_canceled_connections"),
            ("sv_idle", "server_idle_connections"),
            ("sv_used", "server_used_connections"),
            ("sv_tested", "server_testing_connections"),
            ("sv_login", "server_login_connections"),
            ("maxwait", "client_maxwait_seconds"),
        ],
    },
    Source {
        show: Show::StatsTotals,
        prefixes: &["stats_", "stats_totals_"],
        kind: "counter",
        labels: &["database"],
        figures: &[
            ("query_count", "queries_pooled_total"),
            ("query_time", "queries_duration_seconds_total"),
            ("bytes_received", "received_bytes_total"),
            ("bytes_sent", "sent_bytes_total"),
            ("wait_time", "client_wait_seconds_total"),
            ("xact_count", "sql_transactions_pooled_total"),
            ("xact_time", "server_in_transaction_seconds_total"),
            ("server_assignment_count", "server_assignments_total"),
            ("client_parse_count", "client_parses_total"),
            ("server_parse_count", "server_parses_total"),
            ("bind_count", "binds_total"),
        ],
    },
];

/// Rows of `SHOW LISTS`, and their names.
const LISTS: [(&str, &str); 11] = [
    ("databases", "databases"),
    ("users", "users"),
    ("pools", "pools"),
    ("free_clients", "free_clients"),
    ("used_clients", "used_clients"),
    ("login_clients", "login_clients"),
    ("free_servers", "free_servers"),
    ("used_servers", "used_servers"),
    ("dns_names", "cached_dns_names"),
    ("dns_zones", "cached_dns_zones"),
    ("dns_queries", "in_flight_dns_queries"),
];

/// Rows of `SHOW CONFIG`, and their names.
const CONFIG: [(&str, &str); 2] =
    [("max_client_conn", "config_max_client_connections"), ("max_user_connections", "config_max_user_connections")];

/// All of them, in Prometheus' text format.
#[must_use]
pub fn render(env: &Env) -> String {
    let mut out = String::new();
    family(&mut out, "up", "gauge", "the console's tables");
    let _ = writeln!(out, "pgbouncer_up 1");
    family(&mut out, "version_info", "gauge", "the console's tables");
    let _ = writeln!(out, "pgbouncer_version_info{} 1", labels(&["version"], &[COMPATIBLE]));
    for source in &SOURCES {
        columns(&mut out, source, &rows_of(&source.show, env));
    }
    for (show, known) in [(Show::Lists, &LISTS[..]), (Show::Config, &CONFIG[..])] {
        let table = rows_of(&show, env);
        for (row, name) in known {
            let value = table.rows.iter().find(|cells| cells[0].0.as_deref() == Some(row)).map(|cells| &cells[1].0);
            if let Some(Some(value)) = value.filter(|value| value.as_deref().is_some_and(is_number)) {
                family(&mut out, name, "gauge", &format!("{row} of the console"));
                let _ = writeln!(out, "pgbouncer_{name} {value}");
            }
        }
    }
    out
}

fn rows_of(show: &Show, env: &Env) -> Table {
    match show::show(show, env) {
        Ok(Answer::Rows(table, _)) => table,
        _ => Table::default(),
    }
}

fn family(out: &mut String, name: &str, kind: &str, origin: &str) {
    let _ = writeln!(out, "# HELP pgbouncer_{name} From {origin}.\n# TYPE pgbouncer_{name} {kind}");
}

fn columns(out: &mut String, source: &Source, table: &Table) {
    let at = |column: &str| table.columns.iter().position(|known| known.name == column);
    for (column, rest) in source.figures {
        let Some(figure) = at(column) else { continue };
        for prefix in source.prefixes {
            let name = format!("{prefix}{rest}");
            family(out, &name, source.kind, &format!("{column} of the console"));
            for row in &table.rows {
                let text = |column: &&str| at(column).and_then(|at| row[at].0.as_deref()).unwrap_or_default();
                let values: Vec<&str> = source.labels.iter().map(text).collect();
                let value = row[figure].0.as_deref().unwrap_or("0");
                let value = if rest.ends_with("seconds_total") { seconds(value) } else { value.to_owned() };
                let _ = writeln!(out, "pgbouncer_{name}{} {value}", labels(source.labels, &values));
            }
        }
    }
}

/// From a whole number of microseconds, without a float's rounding.
fn seconds(micros: &str) -> String {
    let micros: u64 = micros.parse().unwrap_or_default();
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_that_is_named_exists() {
        for source in SOURCES {
            let there = show::columns(&source.show).unwrap();
            let named = source.labels.iter().chain(source.figures.iter().map(|(column, _)| column));
            for column in named {
                assert!(there.iter().any(|known| known.name == *column), "{column}");
            }
        }
    }

    #[test]
    fn microseconds_are_exact() {
        assert_eq!((seconds("1500000").as_str(), seconds("7").as_str()), ("1.500000", "0.000007"));
        assert_eq!(seconds("18446744073709551615"), "18446744073709.551615");
    }
}
