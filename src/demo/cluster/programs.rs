//! Where the programs of a Postgres installation are.
//!
//! Debian keeps the server's own programs out of `PATH`, and may have several versions; `PG_BIN`
//! settles it. It only looks at files: nothing is run here but `pg_config`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::ClusterError;

/// Finds a program of the Postgres installation (`pgbench`, `psql`, ...): in `PG_BIN`, where
/// `pg_config` says, under `/usr/lib/postgresql` (newest version first), in `PATH`. A `PG_BIN` that holds a server
/// alone settles which server runs; programs that it has not are looked for further on.
///
/// # Errors
/// [`ClusterError::Missing`], which says where it was looked for and how to install it.
pub fn find_tool(name: &str) -> Result<PathBuf, ClusterError> {
    let mut places = places();
    if std::env::var_os("PG_BIN").is_some() {
        places.extend(installed());
    }
    places.iter().map(|folder| folder.join(name)).find(|file| file.is_file()).ok_or_else(|| missing(name, &places))
}

/// The folder that holds both `initdb` and `postgres`. `PATH` alone may lead to wrappers.
pub(super) fn bin_dir() -> Result<PathBuf, ClusterError> {
    let places = places();
    places
        .iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .cloned()
        .ok_or_else(|| missing("initdb", &places))
}

fn missing(tool: &str, places: &[PathBuf]) -> ClusterError {
    let looked_in = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    ClusterError::Missing { tool: tool.to_owned(), looked_in }
}

/// Where a server's programs may be, best first. `PG_BIN` is an order: nothing else is looked at then.
fn places() -> Vec<PathBuf> {
    std::env::var_os("PG_BIN").map_or_else(installed, |folder| vec![PathBuf::from(folder)])
}

/// Where Postgres is installed, best first.
fn installed() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output()
        && output.status.success()
    {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    places.extend(versions.into_iter().map(|(_, folder)| folder));
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path));
    }
    places
}
