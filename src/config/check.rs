//! What concerns several keys at once, or a key and the world: done after every key has been read.
//!
//! Pure but for the reading of the files of users and rules (`auth_files.rs`), which is a function of the caller. A check whose own keys were refused is
//! left out: the mistake is reported already, and the default in its place would only make a second one.

use super::auth_files;
use super::build::{Draft, Reader};
use super::mistake::quoted;
use super::text::{Format, Place};
use super::tls;
use super::types::Config;
use super::value::{AuthType, show_duration};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The names under which clients ask for the console instead of a database.
pub const CONSOLE: [&str; 2] = ["pgbouncer", "pglull"];
/// The longest path of a Unix socket on Linux, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Runs every check.
pub(super) fn all(draft: &mut Draft<'_>, read: Reader<'_>) {
    if !draft.broken {
        absent(draft);
    }
    listeners(draft);
    threads(draft);
    databases(draft);
    circles(draft);
    pool_sizes(draft);
    window(draft);
    auth_files::all(draft, read);
    tls::files(draft, read);
    habits_of_pgbouncer(draft);
}

/// Whether the values of a configuration agree with each other, after one of them was changed.
pub(super) fn agree(config: &Config) -> Result<(), String> {
    let mut draft = Draft::of(config.clone(), Path::new("SET"));
    pool_sizes(&mut draft);
    window(&mut draft);
    match draft.mistakes.into_vec().first() {
        None => Ok(()),
        Some(found) => Err(format!("{}: expected {}, got {}", found.key, found.expected, found.got)),
    }
}

/// What must be there at all.
fn absent(draft: &mut Draft<'_>) {
    if draft.config.databases.is_empty() && !draft.mistakes.about("databases") {
        draft.mistakes.add(1, "databases", "at least one database, as [databases.NAME]", "none");
    }
    let unheard = draft.config.listen_addr.is_empty() && draft.config.unix_socket_dir.is_none();
    if unheard && draft.sound(&Place::Main, &["listen_addr", "unix_socket_dir"]) {
        draft.mistake(&Place::Main, "listen_addr", "an address, or a folder in unix_socket_dir", "no listener at all");
    }
}

fn listeners(draft: &mut Draft<'_>) {
    let Config { listen_port, unix_socket_dir, admin_socket, .. } = &draft.config;
    let clients = unix_socket_dir.as_ref().map(|dir| dir.join(format!(".s.PGSQL.{listen_port}")));
    let console = admin_socket.clone();
    for (key, path) in [("unix_socket_dir", clients), ("admin_socket", console)] {
        let length = path.map_or(0, |path| path.as_os_str().len());
        if length > SOCKET_PATH_MAX {
            let expected = format!("a socket's path of at most {SOCKET_PATH_MAX} bytes");
            draft.mistake(&Place::Main, key, expected, format!("{length} bytes"));
        }
    }
}

/// So many would not start in a reasonable time, and no machine has use for them.
fn threads(draft: &mut Draft<'_>) {
    const MOST: usize = 1024;
    let threads = draft.config.worker_threads;
    if threads > MOST {
        draft.mistake(&Place::Main, "worker_threads", format!("at most {MOST}"), threads.to_string());
    }
}

/// Whether clients are served at this address, as far as names tell.
fn serves(config: &Config, host: &str, port: u16) -> bool {
    let ip = |name: &str| if name == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { name.parse::<IpAddr>() };
    let tcp = || match ip(host) {
        Ok(wanted) => config.listen_addr.iter().any(|addr| {
            let any = addr == "*" || ip(addr).is_ok_and(|ip| ip.is_unspecified());
            ip(addr) == Ok(wanted) || wanted.is_unspecified() || (any && wanted.is_loopback())
        }),
        Err(_) => config.unix_socket_dir.as_ref().is_some_and(|dir| Path::new(host) == dir),
    };
    port == config.listen_port && tcp()
}

/// Nothing of ours is where clients are served: no scrapes, and no Postgres, which would be we ourselves.
fn circles(draft: &mut Draft<'_>) {
    let config = &draft.config;
    if let Some(addr) = config.metrics_addr.filter(|addr| serves(config, &addr.ip().to_string(), addr.port())) {
        draft.mistake(&Place::Main, "metrics_addr", "another port than listen_port", addr.to_string());
    }
    let config = &draft.config;
    let own = config.databases.iter().filter(|(_, database)| serves(config, &database.host, database.port));
    let own: Vec<_> =
        own.map(|(name, database)| (name.clone(), format!("{}:{}", database.host, database.port))).collect();
    for (name, at) in own {
        let expected = "the port of Postgres, not one that pglull itself listens on";
        draft.mistake(&Place::Database(name), "port", expected, at);
    }
}

fn databases(draft: &mut Draft<'_>) {
    let fallback = draft.config.unix_socket_dir.as_ref().map(|dir| dir.display().to_string());
    let names: Vec<String> = draft.config.databases.keys().cloned().collect();
    for name in names {
        let place = Place::Database(name.clone());
        if CONSOLE.contains(&name.as_str()) {
            draft.mistake(&place, "", "another name, this one is the console's", quoted(&name));
        }
        if name.is_empty() || name.contains('\0') {
            draft.mistake(&place, "", "a name", quoted(&name));
        }
        if !draft.given(&place, "host") {
            match (&fallback, draft.config.databases.get_mut(&name)) {
                (Some(host), Some(database)) => database.host.clone_from(host),
                _ => draft.mistake(&place, "host", "a host, or unix_socket_dir as its default", "no host"),
            }
        }
    }
}

fn pool_sizes(draft: &mut Draft<'_>) {
    let main = Place::Main;
    let Config { default_pool_size, min_pool_size, .. } = draft.config;
    if !draft.sound(&main, &["default_pool_size", "min_pool_size"]) {
        return;
    }
    // A size of 0 is no limit.
    if min_pool_size > default_pool_size && default_pool_size > 0 {
        let expected = format!("at most default_pool_size, which is {default_pool_size}");
        draft.mistake(&main, "min_pool_size", expected, min_pool_size.to_string());
    }
    let found: Vec<_> =
        draft.config.databases.iter().map(|(name, d)| (name.clone(), d.pool_size, d.min_pool_size)).collect();
    for (name, own_size, own_min) in found {
        let place = Place::Database(name);
        let (size, min) = (own_size.unwrap_or(default_pool_size), own_min.unwrap_or(min_pool_size));
        let own = own_size.is_some() || own_min.is_some();
        if own && min > size && size > 0 && draft.sound(&place, &["pool_size", "min_pool_size"]) {
            let (key, expected, got) = match own_min {
                Some(min) => ("min_pool_size", format!("at most pool_size, which is {size}"), min),
                None => ("pool_size", format!("at least min_pool_size, which is {min}"), size),
            };
            draft.mistake(&place, key, expected, got.to_string());
        }
    }
}

/// No phase of a window can be longer than the longest stall of a client.
fn window(draft: &mut Draft<'_>) {
    let window = &draft.config.window;
    let hold = window.hold;
    for (key, bound) in [("drain", window.drain), ("apply", window.apply)] {
        if bound > hold && draft.sound(&Place::Window, &[key, "hold"]) {
            // The line of whichever of the two was written.
            let at = if draft.given(&Place::Window, key) { key } else { "hold" };
            let line = draft.line(&Place::Window, at);
            let expected = format!("at most hold, which is {}", show_duration(hold));
            draft.mistakes.add(line, &Place::Window.path(key), expected, show_duration(bound));
        }
    }
}

/// Included files can hold passwords as well.
pub(super) fn readable(draft: &mut Draft<'_>, world_readable: &[PathBuf]) {
    if draft.config.databases.values().any(|database| database.password.is_some()) {
        for file in world_readable {
            draft.warn(&format!("%include {} can be read by everybody: chmod o-rwx", file.display()));
        }
    }
}

/// What is not wrong but may surprise.
fn habits_of_pgbouncer(draft: &mut Draft<'_>) {
    let Config { auth_type, listen_addr, server_lifetime, .. } = &draft.config;
    let near = |addr: &String| addr == "localhost" || addr.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let open = matches!(auth_type, AuthType::Trust | AuthType::Any) && !listen_addr.iter().all(near);
    let open = open.then_some(*auth_type);
    let once = draft.format == Format::Ini && server_lifetime.is_none();
    if let Some(open) = open {
        draft.warn(&format!("auth_type = {open}: whoever reaches listen_addr is whoever they say"));
    }
    if once && draft.sound(&Place::Main, &["server_lifetime"]) {
        draft.warn("server_lifetime = 0 is no limit here; in PgBouncer each server is used once");
    }
}
