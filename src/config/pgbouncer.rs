//! What PgBouncer knows and we do not have yet, so that an existing `pgbouncer.ini` can be read as it is.
//!
//! Pure. Such keys have no effect and are named in warnings, but for those that would make a promise of safety which
//! we could not keep: these are mistakes.

use super::text::Place;

/// Keys of `[pgbouncer]`.
const MAIN: &[&str] = &[
    "application_name_add_host",
    "auth_dbname",
    "auth_hba_file",
    "auth_ident_file",
    "auth_ldap_options",
    "auth_pam_confdir",
    "auth_query",
    "auth_user",
    "autodb_idle_timeout",
    "client_tls_ca_file",
    "client_tls_cert_file",
    "client_tls_ciphers",
    "client_tls_dheparams",
    "client_tls_ecdhcurve",
    "client_tls_key_file",
    "client_tls_protocols",
    "client_tls_sslmode",
    "client_tls13_ciphers",
    "conffile",
    "disable_pqexec",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "dns_zone_check_period",
    "ignore_startup_parameters",
    "job_name",
    "listen_backlog",
    "load_balance_hosts",
    "log_pooler_errors",
    "log_stats",
    "logfile",
    "login_notify_message",
    "max_db_client_connections",
    "max_db_connections",
    "max_packet_size",
    "max_prepared_statements",
    "max_user_client_connections",
    "max_user_connections",
    "peer_id",
    "pidfile",
    "pkt_buf",
    "pool_idle_timeout",
    "query_timeout",
    "query_wait_notify",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "resolv_conf",
    "sbuf_loopcnt",
    "scram_iterations",
    "server_check_query",
    "server_fast_close",
    "server_reset_query_always",
    "server_round_robin",
    "server_tls_ca_file",
    "server_tls_cert_file",
    "server_tls_ciphers",
    "server_tls_key_file",
    "server_tls_protocols",
    "server_tls_sslmode",
    "server_tls13_ciphers",
    "service_name",
    "so_reuseport",
    "stats_period",
    "suspend_timeout",
    "syslog",
    "syslog_facility",
    "syslog_ident",
    "tcp_defer_accept",
    "tcp_keepcnt",
    "tcp_keepidle",
    "tcp_keepintvl",
    "tcp_socket_buffer",
    "tcp_user_timeout",
    "track_extra_parameters",
    "transaction_timeout",
    "unix_socket_group",
    "user",
    "verbose",
];

/// Keys of a connection string under `[databases]`.
const DATABASE: &[&str] = &[
    "application_name",
    "auth_dbname",
    "auth_query",
    "auth_user",
    "client_encoding",
    "connect_query",
    "datestyle",
    "load_balance_hosts",
    "max_db_client_connections",
    "max_db_connections",
    "query_wait_timeout",
    "reserve_pool",
    "reserve_pool_size",
    "server_lifetime",
    "timezone",
];

/// Keys of a line under `[users]`.
const USER: &[&str] = &[
    "client_idle_timeout",
    "idle_transaction_timeout",
    "max_user_client_connections",
    "max_user_connections",
    "query_timeout",
    "query_wait_timeout",
    "reserve_pool_size",
    "transaction_timeout",
];

/// Does PgBouncer know the key in this place?
pub(super) fn knows(place: &Place, key: &str) -> bool {
    let keys = match place {
        Place::Main => MAIN,
        Place::Database(_) => DATABASE,
        Place::User(_) => USER,
        Place::Window => return false,
    };
    keys.contains(&key)
}

/// What must stand there instead, if ignoring the value would leave open what it closes.
pub(super) fn unsafe_to_ignore(place: &Place, key: &str, value: &str) -> Option<&'static str> {
    let demands_tls = ["require", "verify-ca", "verify-full"].iter().any(|mode| value.eq_ignore_ascii_case(mode));
    match (place, key) {
        (Place::Main, "client_tls_sslmode" | "server_tls_sslmode") if demands_tls => {
            Some("disable, allow or prefer (TLS comes later)")
        }
        _ => None,
    }
}
