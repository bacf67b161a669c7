//! What PgBouncer 1.25 knows and we do not need, so that an existing `pgbouncer.ini` can be read as it is.
//!
//! Pure. Each such key has a word that says why nothing is lost by it; it is shown in a warning. A value that would make a
//! promise of safety which we cannot keep is a mistake instead. A key that is in the tables of `types.rs` is never looked
//! for here.

use super::text::Place;

/// The version of PgBouncer whose console, files and command line these are: tools look for `PgBouncer x.y.z`, and choose
/// columns by it.
pub const COMPATIBLE: &str = "PgBouncer 1.25.2";

/// What PgBouncer takes for a key of `[pgbouncer]` that its file does not set, where that is not our default. A drop-in
/// must not pool otherwise, or listen elsewhere, than the program whose file it was given.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("listen_addr", ""),
    ("unix_socket_dir", "/tmp"),
    ("auth_type", "md5"),
    ("pool_mode", "session"),
    ("max_client_conn", "100"),
    // A port that PgBouncer does not open may be somebody else's.
    ("metrics_addr", ""),
];

const RUSTLS: &str = "rustls offers safe ciphers and curves only";
const RESOLVER: &str = "names are looked up by the system's resolver";
const BUFFERS: &str = "buffers have the size that they need, and data is relayed piece by piece";
const LDAP_PAM: &str = "log-in through LDAP or PAM is not supported";
const SYSLOG: &str = "logs go to standard error (under systemd: the journal) and to logfile";
const WINDOWS: &str = "it is for Windows only";

/// Keys of `[pgbouncer]`, each with its word.
const MAIN: &[(&str, &str)] = &[
    ("auth_ldap_options", LDAP_PAM),
    ("auth_pam_confdir", LDAP_PAM),
    ("client_tls13_ciphers", RUSTLS),
    ("client_tls_ciphers", RUSTLS),
    ("client_tls_dheparams", RUSTLS),
    ("client_tls_ecdhcurve", RUSTLS),
    ("conffile", "the file is the one that was given on the command line"),
    ("disable_pqexec", "simple queries are never refused"),
    ("dns_zone_check_period", RESOLVER),
    ("job_name", WINDOWS),
    ("load_balance_hosts", "a database has one host; all addresses that its name stands for are tried in turn"),
    ("log_pooler_errors", "errors of the pooler are always logged"),
    ("login_notify_message", "clients are sent no notice when they log in"),
    ("max_packet_size", BUFFERS),
    ("peer_id", "there are no peers: one process uses as many processors as worker_threads says"),
    ("pkt_buf", BUFFERS),
    ("pool_idle_timeout", "an empty pool costs next to nothing and stays"),
    ("resolv_conf", RESOLVER),
    ("sbuf_loopcnt", BUFFERS),
    ("scram_iterations", "secrets that are made from plain passwords have 4096 iterations"),
    ("server_fast_close", "servers that have to go are closed as soon as they are free"),
    ("server_tls13_ciphers", RUSTLS),
    ("server_tls_ciphers", RUSTLS),
    ("service_name", WINDOWS),
    ("so_reuseport", "one process uses as many processors as worker_threads says, a second one cannot share its port"),
    ("suspend_timeout", "there is no SUSPEND"),
    ("syslog", SYSLOG),
    ("syslog_facility", SYSLOG),
    ("syslog_ident", SYSLOG),
    ("tcp_defer_accept", "a client may be silent at first, so connections are accepted at once"),
    ("tcp_socket_buffer", "the kernel sizes its buffers itself"),
    ("track_extra_parameters", "all settings of a session follow their client, not listed ones only"),
];

/// Keys of a connection string under `[databases]`.
const DATABASE: &[(&str, &str)] = &[
    ("application_name", "a server has its client's application_name, and is \"pglull\" before it had one"),
    ("load_balance_hosts", "a database has one host; all addresses that its name stands for are tried in turn"),
];

/// Keys of a line under `[users]`.
const USER: &[(&str, &str)] = &[];

/// Why a key of PgBouncer's is ignored in this place; `None` if PgBouncer does not know it there.
pub(super) fn why_ignored(place: &Place, key: &str) -> Option<&'static str> {
    let keys = match place {
        Place::Main => MAIN,
        Place::Database(_) => DATABASE,
        Place::User(_) => USER,
        Place::Window => return None,
    };
    keys.iter().find(|(known, _)| *known == key).map(|(_, why)| *why)
}

/// The name that a key has here, if PgBouncer has an old one for it too.
pub(super) fn present_name<'a>(place: &Place, key: &'a str) -> &'a str {
    match (place, key) {
        (Place::Database(_), "reserve_pool") => "reserve_pool_size",
        _ => key,
    }
}

/// What must stand there instead, if ignoring the value would leave open what it closes.
pub(super) fn unsafe_to_ignore(place: &Place, key: &str, value: &str) -> Option<&'static str> {
    match (place, key) {
        (Place::Main, "disable_pqexec") if value != "0" => Some("0: simple queries cannot be refused here"),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::types::{Config, Database, Section, UserOverride};
    use super::*;

    /// `bouncer_params` of PgBouncer 1.25's `src/main.c`, in its order; the last ones are unreleased, old, or of some builds.
    pub(in super::super) const PARAMS: &str = "admin_users application_name_add_host auth_dbname auth_file auth_hba_file auth_ident_file \
        auth_ldap_options auth_query auth_type auth_user autodb_idle_timeout cancel_wait_timeout client_idle_timeout \
        client_login_timeout client_tls13_ciphers client_tls_ca_file client_tls_cert_file client_tls_ciphers \
        client_tls_dheparams client_tls_ecdhcurve client_tls_key_file client_tls_protocols client_tls_sslmode conffile \
        default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl dns_zone_check_period idle_transaction_timeout \
        ignore_startup_parameters job_name listen_addr listen_backlog listen_port log_connections log_disconnections \
        log_pooler_errors log_stats logfile max_client_conn max_db_client_connections max_db_connections max_packet_size \
        max_prepared_statements max_user_client_connections max_user_connections min_pool_size peer_id pidfile pkt_buf \
        pool_mode query_timeout query_wait_notify query_wait_timeout reserve_pool_size reserve_pool_timeout resolv_conf \
        sbuf_loopcnt scram_iterations server_check_delay server_check_query server_connect_timeout server_fast_close \
        server_idle_timeout server_lifetime server_login_retry server_reset_query server_reset_query_always \
        server_round_robin server_tls13_ciphers server_tls_ca_file server_tls_cert_file server_tls_ciphers \
        server_tls_key_file server_tls_protocols server_tls_sslmode service_name so_reuseport stats_period stats_users \
        suspend_timeout syslog syslog_facility syslog_ident tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle \
        tcp_keepintvl tcp_socket_buffer tcp_user_timeout track_extra_parameters transaction_timeout unix_socket_dir \
        unix_socket_group unix_socket_mode user verbose \
        auth_pam_confdir load_balance_hosts login_notify_message pool_idle_timeout";
    /// What `parse_database` of `src/loader.c` takes.
    pub(in super::super) const DATABASE_PARAMS: &str = "dbname host port user password auth_user auth_dbname auth_query client_encoding datestyle \
        timezone pool_size min_pool_size reserve_pool reserve_pool_size max_db_connections max_db_client_connections pool_mode \
        connect_query application_name server_lifetime load_balance_hosts query_wait_timeout";
    /// What `parse_user` takes.
    pub(in super::super) const USER_PARAMS: &str = "pool_mode pool_size reserve_pool_size max_user_connections max_user_client_connections \
        client_idle_timeout idle_transaction_timeout query_timeout query_wait_timeout transaction_timeout";

    fn covers<T: Section>(params: &str, place: &Place) {
        for key in params.split_whitespace() {
            let known = T::KEYS.iter().any(|known| known.name == present_name(place, key));
            assert!(known || why_ignored(place, key).is_some(), "{key} has neither a meaning nor a word");
        }
    }

    #[test]
    fn every_key_of_pgbouncer_has_a_meaning_or_a_word() {
        covers::<Config>(PARAMS, &Place::Main);
        covers::<Database>(DATABASE_PARAMS, &Place::Database("a".into()));
        covers::<UserOverride>(USER_PARAMS, &Place::User("a".into()));
    }

    #[test]
    fn words_are_for_keys_of_pgbouncer_only() {
        for (words, params) in [(MAIN, PARAMS), (DATABASE, DATABASE_PARAMS), (USER, USER_PARAMS)] {
            for (key, why) in words {
                assert!(params.split_whitespace().any(|known| known == *key), "{key}");
                assert!(!why.is_empty() && !why.ends_with('.'), "{key}: {why}");
            }
        }
    }
}
