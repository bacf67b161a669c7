//! `docs/configuration.md`, and the tables of `docs/replacing-pgbouncer.md`, made from the tables of keys. Run the tests with
//! `PGLULL_WRITE_DOCS=1` to write them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::pgbouncer::tests::{DATABASE_PARAMS, PARAMS, USER_PARAMS};
use super::pgbouncer::{DEFAULTS, present_name, why_ignored};
use super::text::Place;
use super::types::{BY_RELOAD, Config, Database, FIXED, Section, UserOverride, WindowDefaults};

const HEAD: &str = "\
# Configuration

Every key, its default, when a change takes effect, and what it is for. This page is made from `src/config/types.rs`; a test compares them, and
`PGLULL_WRITE_DOCS=1 cargo test --lib config::docs` writes it anew. The same as a file to start from: `proxy-config/reference.toml`.

```sh
pglull check pglull.toml             # every mistake at once, with file, line, key and what was expected
pglull admin RELOAD                  # put it in force, whole or not at all
pglull admin SHOW CONFIG             # what is in force now
```

- The file is TOML, or a `pgbouncer.ini` ([replacing-pgbouncer.md](replacing-pgbouncer.md)): told apart by content. A key that PgBouncer has means the same.
- Durations: `250ms`, `15s`, `2min`, `1h`; a bare number is seconds. Sizes are whole numbers, or `128MB`.
- Lists are an array or one text with commas. A path is meant from the folder of the file for what is read (`auth_file`, certificates), and from where
  the process was started for what is made (sockets, `pidfile`, `logfile`, `state_dir`).

| Change | How |
|---|---|
| `SET` | `pglull admin \"SET key = value\"`, until the next reload; for good: in the file, and `RELOAD` |
| `RELOAD` | in the file, then `pglull admin RELOAD`, `systemctl reload pglull` or SIGHUP |
| start | in the file, then a restart; `RELOAD` says so. (`pglull upgrade` keeps the listening sockets.) |
";

/// The title of a section, what stands below it, and its key, default, change and help in rows.
fn section<T: Section>(out: &mut String, title: &str, below: &str, change: impl Fn(&str) -> &'static str) {
    let _ = write!(out, "\n## {title}\n\n{below}\n\n| Key | Default | Change | What it is for |\n|---|---|---|---|\n");
    for key in T::KEYS {
        let help = key.help.trim().replace('|', "\\|");
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let _ = writeln!(out, "| `{}` | {default} | {} | {help} |", key.name, change(key.name));
    }
}

fn configuration() -> String {
    let main = |key: &str| match key {
        key if FIXED.contains(&key) => "start",
        key if BY_RELOAD.contains(&key) => "`RELOAD`",
        _ => "`SET`",
    };
    let mut out = HEAD.to_owned();
    section::<Config>(&mut out, "`[pglull]`", "In an ini: `[pgbouncer]`.", main);
    let below = "The bounds and rules of windows that do not name their own ([windows.md](windows.md)). With `SET`: `SET window.drain = '3s'`.";
    section::<WindowDefaults>(&mut out, "`[pglull.window]`", below, |_| "`SET`");
    let below = "One section for each name that clients ask for; `*` stands for all others. A key without a default follows `[pglull]`, or is none.";
    section::<Database>(&mut out, "`[databases.NAME]`", below, |_| "`RELOAD`");
    let below = "What differs for one user. What is left out follows the database and `[pglull]`.";
    section::<UserOverride>(&mut out, "`[users.NAME]`", below, |_| "`RELOAD`");
    out
}

/// Lines of a table: a key of PgBouncer's, and what it means here.
fn keys<T: Section>(out: &mut String, title: &str, params: &str, place: &Place) {
    let _ = write!(out, "\n### {title}\n\n| PgBouncer's key | Here |\n|---|---|\n");
    let mut names: Vec<&str> = params.split_whitespace().collect();
    names.sort_unstable();
    for name in names {
        let key = T::KEYS.iter().find(|key| key.name == present_name(place, name));
        let here = match key {
            Some(key) if key.name != name => format!("`{}`", key.name),
            Some(key) => {
                let ini = DEFAULTS.iter().find(|(key, _)| matches!(place, Place::Main) && *key == name);
                ini.map_or_else(|| "the same".to_owned(), |(_, ini)| differs(key.default, ini))
            }
            None => format!("ignored: {}", why_ignored(place, name).unwrap_or_default()),
        };
        let _ = writeln!(out, "| `{name}` | {here} |");
    }
}

fn differs(ours: &str, ini: &str) -> String {
    let shown = |value: &str| if value.is_empty() { "none".to_owned() } else { format!("`{value}`") };
    format!("the same; left out it is {} in an ini, {} in our TOML", shown(ini), shown(ours))
}

const BEGIN: &str = "<!-- Made from src/config/pgbouncer.rs: PGLULL_WRITE_DOCS=1 cargo test --lib config::docs -->\n";

fn tables() -> String {
    let mut out = BEGIN.to_owned();
    keys::<Config>(&mut out, "`[pgbouncer]`", PARAMS, &Place::Main);
    keys::<Database>(&mut out, "`[databases]`", DATABASE_PARAMS, &Place::Database(String::new()));
    keys::<UserOverride>(&mut out, "`[users]`", USER_PARAMS, &Place::User(String::new()));
    out
}

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Compares a page with what it should be, or writes it.
fn holds(name: &str, expected: &str) {
    if std::env::var_os("PGLULL_WRITE_DOCS").is_some() {
        std::fs::write(page(name), expected).unwrap();
    }
    let written = std::fs::read_to_string(page(name)).unwrap_or_default();
    assert!(written == expected, "docs/{name} is out of date: PGLULL_WRITE_DOCS=1 cargo test --lib config::docs");
}

#[test]
fn configuration_page_equals_the_tables() {
    holds("configuration.md", &configuration());
}

/// The tables are the end of the page; what stands above them is written by hand.
#[test]
fn replacing_page_ends_with_the_tables() {
    let written = std::fs::read_to_string(page("replacing-pgbouncer.md")).unwrap_or_default();
    let by_hand = written.split(BEGIN).next().unwrap_or_default();
    holds("replacing-pgbouncer.md", &format!("{by_hand}{}", tables()));
}
