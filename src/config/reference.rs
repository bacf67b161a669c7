//! The reference configuration: every key with its default and one line of help, made from the tables.
//!
//! Pure. `proxy-config/reference.toml` is this text; a test compares them, so that no key can be forgotten.

use super::types::{Config, Database, Key, Section, UserOverride, WindowDefaults};

const HEAD: &str = "\
# Every key with its default and what it is for: a key that is left out has the value shown here. Only auth_file and
# the databases and users are examples.
# Durations: \"250ms\", \"15s\", \"2min\", \"1h\"; a bare number is seconds. Sizes are whole numbers.
# Keys that PgBouncer has too mean the same; pglull reads a pgbouncer.ini as well.

[pglull]
";
const WINDOW: &str = "
# Bounds of every schema-change window that does not name its own. On a breach the old schema stays and everybody
# runs again.
[pglull.window]
";
const DATABASE: &str = "
# One section for each name that clients ask for; \"*\" is the fallback for all other names. The values are examples.
[databases.bench]
";
const USER: &str = "
# What differs for single users. The values are examples.
[users.reporting]
";
/// Values of keys that have no default, or whose default would not let the file be loaded as it is.
const EXAMPLES: [(&str, &str); 24] = [
    ("auth_file", "users.example"),
    ("host", "127.0.0.1"),
    ("port", "5433"),
    ("dbname", "bench"),
    ("user", "app"),
    ("password", "change me"),
    ("pool_size", "20"),
    ("min_pool_size", "0"),
    ("pool_mode", "session"),
    ("reserve_pool_size", "5"),
    ("max_db_connections", "50"),
    ("max_user_connections", "30"),
    ("max_db_client_connections", "500"),
    ("max_user_client_connections", "500"),
    ("query_wait_timeout", "30s"),
    ("server_lifetime", "3600s"),
    ("timezone", "UTC"),
    ("datestyle", "ISO, MDY"),
    ("client_encoding", "UTF8"),
    ("connect_query", "SET search_path = app"),
    ("client_idle_timeout", "1h"),
    ("idle_transaction_timeout", "60s"),
    ("transaction_timeout", "1h"),
    ("query_timeout", "10min"),
];

/// The text of `proxy-config/reference.toml`.
#[must_use]
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    write_keys::<Config>(&mut text, &["auth_file"]);
    text.push_str(WINDOW);
    write_keys::<WindowDefaults>(&mut text, &[]);
    text.push_str(DATABASE);
    write_keys::<Database>(&mut text, &EXAMPLES.map(|(key, _)| key));
    text.push_str(USER);
    write_keys::<UserOverride>(&mut text, &EXAMPLES.map(|(key, _)| key));
    text
}

fn write_keys<T: Section>(text: &mut String, with_example: &[&str]) {
    for Key { name, default, help, .. } in T::KEYS {
        let example = EXAMPLES.iter().find(|(key, _)| default.is_empty() && key == name && with_example.contains(key));
        let value = example.map_or(*default, |(_, value)| value);
        let bare = matches!(value, "true" | "false") || value == "0" || is_number(value);
        let value = if bare { value.to_owned() } else { format!("\"{value}\"") };
        text.push_str(&format!("# {}\n{name} = {value}\n", help.trim()));
    }
}

/// Is it a number that TOML takes without quotes? One with a leading zero is not.
fn is_number(value: &str) -> bool {
    !value.starts_with('0') && !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit())
}
