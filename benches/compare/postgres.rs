//! A throwaway Postgres with what the figures read and write, kept until the run ends.

use std::process::Command;

use pglull::demo::cluster::{AuthMethod, Cluster, Options};

use crate::Result;

/// Makes a server with the databases `bench` and `other`, each with pgbench's tables. Everybody is trusted over TCP.
pub(crate) fn start(hba: &[&str]) -> Result<Cluster> {
    let settings = [("max_connections", "400"), ("shared_buffers", "256MB"), ("autovacuum", "off")];
    let cluster = Cluster::start(Options {
        auth: AuthMethod::Trust,
        hba: hba.iter().map(ToString::to_string).collect(),
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        superuser: "bench".to_owned(),
        password: "secret".to_owned(),
        ..Options::default()
    })?;
    for (database, scale) in [("bench", "10"), ("other", "1")] {
        let mut create = cluster.tool("psql")?;
        create.args(["-Xqc", &format!("CREATE DATABASE {database}"), "postgres"]);
        finished(create)?;
        let mut fill = cluster.tool("pgbench")?;
        fill.args(["-i", "-q", "-s", scale, database]);
        finished(fill)?;
    }
    Ok(cluster)
}

/// Runs a program to its end.
///
/// # Errors
/// What it said, if it failed.
pub(crate) fn finished(mut command: Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
