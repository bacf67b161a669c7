//! What is compared: nothing in between, the floor, PgBouncer, pglull, and other builds of pglull.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;
use crate::load::Client;
use crate::process::{Running, Site};
use crate::stream::PASSWORD;

/// How long a proxy may take to answer its first client.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A way to the backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Direct,
    Floor,
    Bouncer(PathBuf),
    Pglull(PathBuf),
}

/// A way to the backend, by the name that the report gives it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

impl Target {
    /// Whether it shares servers among clients and has a console.
    pub(crate) fn pools(&self) -> bool {
        matches!(self.kind, Kind::Bouncer(_) | Kind::Pglull(_))
    }
}

/// How clients prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Auth {
    #[default]
    Trust,
    /// By SCRAM, from a password that the proxy has as a text.
    Plain,
    /// By SCRAM, from a secret like that in `pg_authid`.
    Stored,
}

/// What a proxy is told: both read the same `pgbouncer.ini`.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// The backend's port.
    pub(crate) backend: u16,
    /// More lines of the section `[pgbouncer]`.
    pub(crate) lines: Vec<String>,
    /// How clients are let in.
    pub(crate) auth: Auth,
    /// The floor has clients only, and answers them itself: the least that a task with a socket takes.
    pub(crate) idle: bool,
    /// More lines for pglull alone.
    pub(crate) pglull_lines: Vec<String>,
}

/// A target that clients can connect to.
pub(crate) struct Live {
    pub(crate) name: String,
    pub(crate) port: u16,
    process: Option<Running>,
}

impl Live {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// The end of what it has said, for an error.
    pub(crate) fn said(&self) -> String {
        self.process.as_ref().map(Running::said).unwrap_or_default()
    }
}

/// Starts a target and waits until a client can log in through it.
pub(crate) async fn start(site: &Site, target: &Target, setup: &Setup) -> Result<Live> {
    let (port, process) = match &target.kind {
        Kind::Direct => (setup.backend, None),
        Kind::Floor => {
            let role = if setup.idle { "idle" } else { "floor" };
            let (running, port) = site.start_role(role, Some(setup.backend))?;
            (port, Some(running))
        }
        Kind::Bouncer(program) => start_proxy(site, target, program, setup)?,
        Kind::Pglull(program) => start_proxy(site, target, program, setup)?,
    };
    let live = Live { name: target.name.clone(), port, process };
    let began = Instant::now();
    loop {
        match Client::log_in(port, "bench").await {
            Ok(_) => return Ok(live),
            Err(error) if began.elapsed() > START_LIMIT => {
                return Err(format!("{} does not answer: {error}\n{}", target.name, live.said()).into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn start_proxy(site: &Site, target: &Target, program: &Path, setup: &Setup) -> Result<(u16, Option<Running>)> {
    let port = free_port()?;
    let lull = matches!(target.kind, Kind::Pglull(_));
    let secret = match setup.auth {
        Auth::Stored => postgres_protocol::password::scram_sha_256(PASSWORD.as_bytes()),
        Auth::Trust | Auth::Plain => PASSWORD.to_owned(),
    };
    let auth = if setup.auth == Auth::Trust { "trust" } else { "scram-sha-256" };
    let users = site.write(&format!("users-{port}"), &format!("\"bench\" \"{secret}\"\n"))?;
    let mut ini = format!(
        "[databases]\nbench = host=127.0.0.1 port={0} dbname=bench user=bench password={PASSWORD}\n\
         other = host=127.0.0.1 port={0} dbname=other user=bench password={PASSWORD}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = {auth}\n\
         auth_file = {1}\nadmin_users = bench\npool_mode = transaction\ndefault_pool_size = 20\n\
         max_client_conn = 12000\nserver_tls_sslmode = disable\nlog_connections = 0\nlog_disconnections = 0\n",
        setup.backend,
        users.display(),
    );
    let more: &[String] = if lull { &setup.pglull_lines } else { &[] };
    for line in setup.lines.iter().chain(more) {
        ini += &format!("{line}\n");
    }
    if lull {
        ini += "metrics_addr =\n";
    }
    let config = site.write(&format!("{}.ini", target.name), &ini)?;
    let mut command = Command::new(program);
    if lull {
        command.arg("run");
    }
    command.arg(config);
    Ok((port, Some(site.start(&target.name, command)?)))
}

/// A port that nobody listens on, below those that the kernel gives to connections.
fn free_port() -> Result<u16> {
    let start = std::process::id() as u16 % 89 * 100;
    let free =
        (0..9_000).map(|n| 21_000 + (start + n) % 9_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| "no free port between 21000 and 30000".into())
}
