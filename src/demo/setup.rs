//! What stands before the load can begin: roles, tables, the view, and the proxy as a process of its own.
//!
//! Everything is written into the folder of the throwaway cluster and vanishes with it. The proxy is this same
//! program, run as an operator would run it; it is asked to end, and ended where it does not.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::DemoError;
use super::cluster::Cluster;
use crate::cli::Site;
use crate::cli::args::ConsoleArgs;

/// The database, at Postgres and at the proxy.
pub(crate) const DATABASE: &str = "bench";
/// Who owns the tables and works in transaction pooling.
pub(crate) const APP: &str = "app";
/// Who works in session pooling; a member of the owner.
pub(crate) const SESSION_APP: &str = "app_session";
/// pgbench's scale: so many times 100,000 accounts.
pub(crate) const SCALE: u32 = 10;
/// Servers that the proxy may use at once for each user.
pub(crate) const POOL: u32 = 20;

/// Filling the tables takes about 2 s; a slow machine gets its time.
const FILL_LIMIT: Duration = Duration::from_secs(40);
/// One statement of ours.
const STATEMENT_LIMIT: Duration = Duration::from_secs(15);
/// From the start of the proxy to its first answer.
const PROXY_LIMIT: Duration = Duration::from_secs(15);
/// What the proxy gets for a clean end.
const GOODBYE: Duration = Duration::from_secs(3);

/// The view as it is before the change.
const VIEW: &str = "CREATE VIEW account_overview AS SELECT aid, bid, abalance, filler FROM pgbench_accounts";

/// Makes roles and database, fills pgbench's tables, adds the view.
pub(crate) async fn fill(cluster: &Cluster) -> Result<(), DemoError> {
    let secret = cluster.password().replace('\'', "''");
    for statement in [
        format!("CREATE ROLE {APP} LOGIN PASSWORD '{secret}'"),
        format!("CREATE ROLE {SESSION_APP} LOGIN PASSWORD '{secret}' IN ROLE {APP}"),
        format!("CREATE DATABASE {DATABASE} OWNER {APP}"),
    ] {
        psql(cluster, (cluster.superuser(), "postgres"), &statement).await?;
    }
    let mut pgbench = Command::from(cluster.tool("pgbench")?);
    pgbench.env("PGUSER", APP).args(["-i", "-q", "-s", &SCALE.to_string(), DATABASE]);
    finished("pgbench -i", pgbench, FILL_LIMIT).await?;
    psql(cluster, (APP, DATABASE), VIEW).await?;
    Ok(())
}

/// Runs statements as this user in this database, in one transaction; answers what psql prints.
pub(crate) async fn psql(cluster: &Cluster, (user, database): (&str, &str), sql: &str) -> Result<String, DemoError> {
    let mut command = Command::from(cluster.tool("psql")?);
    command.env("PGUSER", user).args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
    finished("psql", command, STATEMENT_LIMIT).await
}

/// Runs a program to its end and answers its output; its complaints are the error.
async fn finished(name: &'static str, mut command: Command, limit: Duration) -> Result<String, DemoError> {
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    let failed = |why: String| DemoError::Tool { name, why };
    let done = timeout(limit, command.output())
        .await
        .map_err(|_| failed(format!("did not end within {} s", limit.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
    }
}

/// The proxy, a process of its own.
pub(crate) struct Proxy {
    child: Child,
    log: PathBuf,
    /// Where clients connect, on 127.0.0.1.
    pub(crate) port: u16,
    /// Its console.
    pub(crate) console: Site,
}

impl Proxy {
    /// Writes a configuration, starts this program with it, waits until the console answers.
    pub(crate) async fn start(cluster: &Cluster, folder: &Path) -> Result<Self, DemoError> {
        let (port, metrics) = (free_port()?, free_port()?);
        let socket = folder.join("admin.sock");
        let file = folder.join("demo.toml");
        fs::write(&file, config(cluster.port(), port, metrics, &socket))?;
        write_secret(&folder.join("userlist.txt"), &userlist(cluster.password()))?;
        let log = folder.join("proxy.log");
        let output = fs::File::create(&log)?;
        let mut command = tied(&std::env::current_exe()?);
        command.arg("run").arg(&file).current_dir(folder);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        let console = Site::find(&ConsoleArgs { socket: Some(socket), ..ConsoleArgs::default() });
        let mut proxy = Self { child, log, port, console };
        proxy.wait_until_ready().await?;
        Ok(proxy)
    }

    async fn wait_until_ready(&mut self) -> Result<(), DemoError> {
        let until = Instant::now() + PROXY_LIMIT;
        loop {
            let asked = async { self.console.connect().await?.query("SHOW VERSION").await };
            let last = match timeout(PROXY_LIMIT, asked).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the console does not answer".to_owned(),
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= until {
                let how = ended.map_or(last, |status| format!("it ended with {status}"));
                return Err(DemoError::Proxy { how, log: self.log_tail() });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it still runs, as it should.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines that it logged.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Asks it to end, and ends it where it does not.
    pub(crate) async fn stop(mut self) -> Result<(), DemoError> {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended in this moment: then there is nobody to ask.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
        }
        if timeout(GOODBYE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// A command that dies with us, even if we are killed, where `setpriv` is there to arrange it.
fn tied(program: &Path) -> Command {
    let known = ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().find(|path| Path::new(path).exists());
    let Some(setpriv) = known else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn config(postgres: u16, port: u16, metrics: u16, socket: &Path) -> String {
    let socket = socket.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        r#"[pglull]
listen_addr = "127.0.0.1"
listen_port = {port}
admin_socket = "{socket}"
auth_type = "scram-sha-256"
auth_file = "userlist.txt"
pool_mode = "transaction"
default_pool_size = {POOL}
max_client_conn = 200
metrics_addr = "127.0.0.1:{metrics}"
log_connections = false
log_disconnections = false

[databases.{DATABASE}]
host = "127.0.0.1"
port = {postgres}
dbname = "{DATABASE}"
apply_user = "{APP}"

[users.{SESSION_APP}]
pool_mode = "session"
"#
    )
}

fn userlist(password: &str) -> String {
    let secret = password.replace('"', "\"\"");
    format!("\"{APP}\" \"{secret}\"\n\"{SESSION_APP}\" \"{secret}\"\n")
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// A folder of our own that vanishes with the cluster, whatever ends us.
pub(crate) fn folder(cluster: &Cluster) -> std::io::Result<PathBuf> {
    let folder = cluster.socket_dir().join("demo");
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    Ok(folder)
}

/// A port that nobody listens on now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml() {
        let text = config(1, 2, 3, Path::new("/tmp/a\"b/admin.sock"));
        let value: toml::Table = text.parse().unwrap();
        assert_eq!(value["pglull"]["admin_socket"].as_str(), Some("/tmp/a\"b/admin.sock"));
        assert_eq!(value["databases"][DATABASE]["port"].as_integer(), Some(1));
        assert_eq!(value["users"][SESSION_APP]["pool_mode"].as_str(), Some("session"));
    }

    #[test]
    fn a_secret_with_quotes_stays_one_field() {
        assert!(userlist("a\"b").starts_with("\"app\" \"a\"\"b\"\n"));
    }
}
