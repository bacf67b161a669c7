//! Where a database is, for a command that goes there beside the proxy: the environment that libpq and most tools read.
//!
//! Pure but for [`program`]. The console tells no secret, so none is here: the password is the operator's own
//! (`PGPASSWORD`, `~/.pgpass`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::client::Rows;

/// What would lead elsewhere, whatever else is set.
pub(super) const CLEARED: [&str; 3] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"];

/// The variables that lead to a database, from `SHOW DATABASES` and `SHOW CONFIG`. `None` if there is no such database.
pub(super) fn environment(databases: &Rows, config: &Rows, name: &str) -> Option<Vec<(&'static str, String)>> {
    let column = |wanted: &str| databases.columns.iter().position(|column| column == wanted);
    let named = column("name")?;
    let row = databases.rows.iter().find(|row| row.get(named).and_then(Option::as_deref) == Some(name))?;
    let value = |wanted: &str| row.get(column(wanted)?)?.clone().filter(|value| !value.is_empty());
    let setting = |key: &str| {
        let row = config.rows.iter().find(|row| row.first().and_then(Option::as_deref) == Some(key))?;
        row.get(1)?.clone().filter(|value| !value.is_empty())
    };
    let all = [
        ("PGHOST", value("host")),
        ("PGPORT", value("port")),
        ("PGDATABASE", value("database")),
        ("PGUSER", value("apply_user").or_else(|| value("force_user"))),
        ("PGSSLMODE", setting("server_tls_sslmode")),
        ("PGSSLROOTCERT", setting("server_tls_ca_file")),
        ("PGSSLCERT", setting("server_tls_cert_file")),
        ("PGSSLKEY", setting("server_tls_key_file")),
    ];
    Some(all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

/// Whether this host is another machine's own: a socket in its files, or its loopback.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    host.is_empty() || host.starts_with('/') || host == "localhost" || loopback
}

/// `PGOPTIONS`: nothing that a command has asked for may go on for long after it was stopped. What the operator has set comes
/// later and wins.
pub(super) fn options(own: Option<&str>, left_ms: u128) -> String {
    let ours = format!(
        "-c lock_timeout={left_ms} -c statement_timeout={left_ms} -c client_connection_check_interval={NOTICED}"
    );
    own.map_or_else(|| ours.clone(), |own| format!("{ours} {own}"))
}

/// How soon Postgres notices that a command is gone, in milliseconds. Every version that is maintained knows it (14 and later).
const NOTICED: u32 = 500;

/// The file of a command: at its path, or in a folder of `path`.
///
/// # Errors
/// Why it cannot be run.
pub(super) fn program(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let runs = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    let shown = name.to_string_lossy();
    if shown.contains('/') {
        let file = PathBuf::from(name);
        return match (file.exists(), runs(&file)) {
            (_, true) => Ok(file),
            (true, false) => Err(format!("{shown} is not an executable file; nothing was started")),
            (false, false) => Err(format!("there is no command {shown}; nothing was started")),
        };
    }
    let folders = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| runs(file));
    found.ok_or_else(|| format!("there is no command {shown} in PATH; nothing was started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], rows: &[&[&str]]) -> Rows {
        let value = |text: &&str| (!text.is_empty()).then(|| (*text).to_owned());
        Rows {
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            rows: rows.iter().map(|row| row.iter().map(value).collect()).collect(),
            tag: String::new(),
        }
    }

    #[test]
    fn the_way_to_a_database() {
        let columns = ["name", "host", "port", "database", "force_user", "apply_user"];
        let databases =
            rows(&columns, &[&["a", "h", "1", "x", "", ""], &["b", "/run", "2", "y", "app", "ddl"], &["c"]]);
        let config = rows(&["key", "value"], &[&["server_tls_sslmode", "verify-full"], &["server_tls_ca_file", "/ca"]]);
        let of = |name: &str| environment(&databases, &config, name).map(|all| format!("{all:?}"));
        let tls = "(\"PGSSLMODE\", \"verify-full\"), (\"PGSSLROOTCERT\", \"/ca\")";
        assert_eq!(
            of("a").unwrap(),
            format!("[(\"PGHOST\", \"h\"), (\"PGPORT\", \"1\"), (\"PGDATABASE\", \"x\"), {tls}]")
        );
        assert!(of("b").unwrap().contains("(\"PGUSER\", \"ddl\")"));
        assert_eq!(of("c").unwrap(), format!("[{tls}]"));
        assert_eq!(of("d"), None);
    }

    #[test]
    fn hosts_that_only_the_machine_itself_means() {
        for host in ["", "/run/postgresql", "localhost", "127.0.0.2", "::1", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["db", "10.0.0.1", "::2", "localhost.example"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_said_before() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let path = Some(dir.path().as_os_str());
        assert!(program(OsStr::new("plain"), path).unwrap_err().contains("no command plain in PATH"));
        let plain = dir.path().join("plain");
        assert!(program(plain.as_os_str(), None).unwrap_err().contains("is not an executable file"));
        assert!(program(dir.path().as_os_str(), None).unwrap_err().contains("is not an executable file"));
        assert!(program(dir.path().join("none").as_os_str(), None).unwrap_err().contains("there is no command"));
        assert_eq!(program(OsStr::new("sh"), Some(OsStr::new("/bin"))), Ok("/bin/sh".into()));
    }

    #[test]
    fn the_operators_options_come_last() {
        let text = options(Some("-c statement_timeout=0"), 4000);
        assert!(text.starts_with("-c lock_timeout=4000 -c statement_timeout=4000 "), "{text}");
        assert!(text.ends_with(" -c statement_timeout=0"), "{text}");
    }
}
