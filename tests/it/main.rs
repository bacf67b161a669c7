//! Integration tests: the real binary, a real Postgres, raw clients.
//!
//! They need the programs of a Postgres installation (found by `PG_BIN`, `pg_config`, the usual
//! folders, `PATH`). `PGLULL_BIN` runs another build of the proxy; `IT_SEED` repeats a random run; `IT_TLS=1` runs
//! all of them with TLS on both sides.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod adversary_relay;
mod adversary_window;
mod auth;
mod auth_cert;
mod auth_hba;
mod auth_query;
mod autodb;
mod bad_input;
mod bad_input_login;
mod cancel;
mod cancel_race;
mod command_line;
mod config_files;
mod console;
mod console_drivers;
mod console_tables;
mod console_verbs;
mod dashboards;
mod differential;
mod figures;
mod heal;
mod leaks;
mod limits;
mod limits_shared;
mod login;
mod memory;
mod pgbench;
mod pooling;
mod postgres;
mod prepared;
mod protocol;
mod relay;
mod relay_copy;
mod relay_size;
mod reload;
mod service;
mod session_state;
mod startup;
mod status_page;
mod support;
mod timeouts;
mod tls_clients;
mod tls_reload;
mod tls_servers;
mod truth;
mod truth_bank;
mod truth_echo;
mod window;
mod window_books;
mod window_by_hand;
mod window_classes;
mod window_clock;
mod window_command;
mod window_crash;
mod window_crowds;
mod window_faults;
mod window_files;
mod window_leavers;
mod window_load;
mod window_manners;
mod window_once;
mod window_outage;
mod window_preflight;
mod window_receipts;
mod window_record;
mod window_rehearse;
mod window_sorts;
mod window_standby;
mod window_start;
mod window_verify;
mod window_world;
