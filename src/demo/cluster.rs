//! A throwaway Postgres: made from nothing in about a second, gone without a trace.
//!
//! Owns one temporary folder and one `postgres` process in it. Whatever ends us (return, panic,
//! SIGKILL), the server stops and the folder goes: a guard process waits for the end of a pipe that
//! only we hold. Postgres refuses to run as root, so there it runs as `nobody`.
//! It knows nothing of the proxy; the demo and the integration tests use it alike.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

mod programs;
mod standby;

use programs::bin_dir;
pub use programs::find_tool;

/// How long a server may take to accept connections after it was started.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How often a starting server is looked at.
const READY_STEP: Duration = Duration::from_millis(10);
/// Another process may take the free port that we found before Postgres does: then we try again.
const PORT_TRIES: usize = 3;
/// How much of the server's log an error shows, in bytes.
const LOG_TAIL: usize = 4096;

/// Waits for our end and then cleans up, unless it is told that all is done. It runs in a process
/// group of its own, so that Ctrl-C in a terminal does not end it before us.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r word
[ "$word" = done ] && exit 0
kill -QUIT "$1" 2>/dev/null
tries=0
while [ -e "$2/data/postmaster.pid" ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
kill -KILL "$1" 2>/dev/null
rm -rf "$2"
"#;

/// How a password is checked when somebody logs in to the throwaway server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuthMethod {
    /// `scram-sha-256`.
    #[default]
    Scram,
    /// `md5`; a role whose password is stored as a SCRAM secret still logs in by SCRAM.
    Md5,
    /// Everybody is let in.
    Trust,
}

impl AuthMethod {
    /// The word that `pg_hba.conf` and `initdb -A` use.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Scram => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Trust => "trust",
        }
    }
}

/// What a throwaway server should be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How passwords are checked, over TCP and over the Unix socket.
    pub auth: AuthMethod,
    /// Lines of `pg_hba.conf` that stand before the general ones.
    pub hba: Vec<String>,
    /// Server settings, name and value, added to those that make it quick and quiet.
    pub settings: Vec<(String, String)>,
    /// Name of the superuser.
    pub superuser: String,
    /// Password of the superuser.
    pub password: String,
    /// The TCP port; one that is free if there is none. It must not be one that the kernel gives to outgoing connections
    /// if the server is to be started again.
    pub port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: AuthMethod::default(),
            hba: Vec::new(),
            settings: Vec::new(),
            superuser: "postgres".to_owned(),
            password: "secret".to_owned(),
            port: None,
        }
    }
}

/// Why there is no throwaway server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program of the Postgres installation was not found.
    #[error(
        "{tool} was not found (looked in {looked_in}): install PostgreSQL, on Debian and Ubuntu with \
         `apt-get install postgresql`, or set PG_BIN to the folder that holds {tool}"
    )]
    Missing {
        /// The program.
        tool: String,
        /// The folders that were looked at.
        looked_in: String,
    },
    /// We are root, Postgres must not be, and there is no user `nobody` to run it as.
    #[error("PostgreSQL cannot run as root, and this machine has no user \"nobody\": run this as another user")]
    NoUser,
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What we tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended with an error, or the server did not become ready.
    #[error("{what}:\n{output}")]
    Failed {
        /// Which program, doing what.
        what: String,
        /// Its output, or the end of the server's log.
        output: String,
    },
}

/// Puts what we tried in front of what the system said.
fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let what = what.into();
    move |source| ClusterError::Io { what, source }
}

/// A running throwaway server; dropping it stops the server and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    // The order of the fields does not matter: `Drop` takes everything down by hand.
    server: Child,
    guard: Child,
    dir: TempDir,
    port: u16,
    options: Options,
}

impl Cluster {
    /// Makes a server from nothing and waits until it accepts connections. Blocks for about a
    /// second, 30 seconds at most.
    ///
    /// # Errors
    /// [`ClusterError`]: Postgres is not installed, or it cannot be set up or started here.
    pub fn start(options: Options) -> Result<Self, ClusterError> {
        Self::made(options, init)
    }

    fn made(
        options: Options,
        make: impl FnOnce(&Path, &Owner, &Path, &Options) -> Result<(), ClusterError>,
    ) -> Result<Self, ClusterError> {
        let bin = bin_dir()?;
        let owner = Owner::find()?;
        let dir = tempfile::Builder::new()
            .prefix("pglull-pg-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .map_err(io_error("cannot make a temporary folder"))?;
        owner.give(dir.path())?;
        make(&bin, &owner, dir.path(), &options)?;
        let mut tries = 1;
        loop {
            match launch(&bin, &owner, dir.path(), options.port) {
                Ok((server, guard, port)) => {
                    return Ok(Self { server, guard, dir, port, options });
                }
                Err(ClusterError::Failed { output, .. })
                    if tries < PORT_TRIES && output.contains("Address already in use") =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The TCP port, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket `.s.PGSQL.PORT`; also the place for files that should vanish with the server.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Name of the superuser.
    #[must_use]
    pub fn superuser(&self) -> &str {
        &self.options.superuser
    }

    /// Password of the superuser.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.options.password
    }

    /// Process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The end of the server's log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.dir.path().join("log"))
    }

    /// A command that runs the tool `name` (psql, pgbench, ...) as the superuser against this server:
    /// host, port, user and password are in its environment.
    ///
    /// # Errors
    /// [`ClusterError::Missing`] if the tool is not installed.
    pub fn tool(&self, name: &str) -> Result<Command, ClusterError> {
        let mut command = clean_command(&find_tool(name)?);
        command
            .env("PGHOST", Ipv4Addr::LOCALHOST.to_string())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.options.superuser)
            .env("PGPASSWORD", &self.options.password)
            .stdin(Stdio::null());
        Ok(command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        stop(&mut self.server);
        // The folder is removed by its own drop, after us: the guard need not do anything.
        if let Some(mut pipe) = self.guard.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.guard.wait();
    }
}

/// Stops a server at once (`-m immediate`) and waits for it; kills it if it does not go.
fn stop(server: &mut Child) {
    if !matches!(server.try_wait(), Ok(None)) {
        return;
    }
    // Postgres reads SIGQUIT as "immediate". The child is not yet reaped, so the id is still its own.
    if let Ok(id) = i32::try_from(server.id()) {
        let _ = kill(Pid::from_raw(id), Signal::SIGQUIT);
    }
    for _ in 0..READY_LIMIT.as_millis() / READY_STEP.as_millis() {
        match server.try_wait() {
            Ok(None) => std::thread::sleep(READY_STEP),
            Ok(Some(_)) | Err(_) => return,
        }
    }
    let _ = server.kill();
    let _ = server.wait();
}

/// Who the server runs as, where that is not ourselves.
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn find() -> Result<Self, ClusterError> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        match User::from_name("nobody") {
            Ok(Some(user)) => Ok(Self(Some((user.uid.as_raw(), user.gid.as_raw())))),
            Ok(None) | Err(_) => Err(ClusterError::NoUser),
        }
    }

    fn give(&self, path: &Path) -> Result<(), ClusterError> {
        let Some((uid, gid)) = self.0 else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).map_err(io_error(format!("cannot give {} to nobody", path.display())))
    }

    /// A command that runs as the owner, in `dir`, in a process group of its own.
    fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = clean_command(program);
        // The standard library also drops root's supplementary groups when it changes the user.
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command.current_dir(dir).stdin(Stdio::null()).process_group(0);
        command
    }
}

/// A command without the caller's `PG*` variables, which would redirect it.
fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs initdb and writes the configuration files.
fn init(bin: &Path, owner: &Owner, dir: &Path, options: &Options) -> Result<(), ClusterError> {
    let secret = dir.join("pw");
    fs::write(&secret, &options.password).map_err(io_error("cannot write the password file"))?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))
        .map_err(io_error("cannot protect the password file"))?;
    owner.give(&secret)?;
    let output = owner
        .command(&bin.join("initdb"), dir)
        .args(["-D", "data", "-E", "UTF8", "--locale=C", "--no-sync", "--pwfile=pw"])
        .args(["-A", options.auth.keyword(), "-U", &options.superuser])
        .output()
        .map_err(io_error("cannot run initdb"))?;
    let _ = fs::remove_file(&secret);
    if !output.status.success() {
        return Err(ClusterError::Failed {
            what: format!("initdb ended with {}", output.status),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let data = dir.join("data");
    append(&data.join("postgresql.conf"), &settings(options))?;
    prepend(&data.join("pg_hba.conf"), &options.hba)
}

/// The lines that make the server quick and quiet, then those of the caller, which win.
fn settings(options: &Options) -> String {
    let mut text = String::from(
        "\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nlisten_addresses = '127.0.0.1'\n\
         logging_collector = off\nlog_timezone = 'UTC'\ntimezone = 'UTC'\n",
    );
    for (name, value) in &options.settings {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    text
}

fn append(file: &Path, text: &str) -> Result<(), ClusterError> {
    fs::OpenOptions::new()
        .append(true)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .map_err(io_error(format!("cannot write {}", file.display())))
}

fn prepend(file: &Path, lines: &[String]) -> Result<(), ClusterError> {
    let what = || format!("cannot write {}", file.display());
    let rest = fs::read_to_string(file).map_err(io_error(what()))?;
    // Writing into the existing file keeps its owner and mode.
    fs::write(file, format!("{}\n{rest}", lines.join("\n"))).map_err(io_error(what()))
}

/// Starts the server on this port or a free one, its guard beside it, and waits until it is ready.
fn launch(bin: &Path, owner: &Owner, dir: &Path, port: Option<u16>) -> Result<(Child, Child, u16), ClusterError> {
    let port = port.map_or_else(free_port, Ok)?;
    let log = fs::File::create(dir.join("log")).map_err(io_error("cannot make the log file"))?;
    let same = log.try_clone().map_err(io_error("cannot share the log file"))?;
    let mut server = owner
        .command(&bin.join("postgres"), dir)
        .args(["-D", "data", "-p", &port.to_string(), "-k"])
        .arg(dir)
        .stdout(log)
        .stderr(same)
        .spawn()
        .map_err(io_error("cannot start postgres"))?;
    let guard = Command::new("sh")
        .args([
            OsStr::new("-c"),
            OsStr::new(GUARD),
            OsStr::new("pglull-guard"),
            OsStr::new(&server.id().to_string()),
            dir.as_os_str(),
        ])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut guard = match guard {
        Ok(guard) => guard,
        Err(error) => {
            stop(&mut server);
            return Err(io_error("cannot start the guard process sh")(error));
        }
    };
    match wait_ready(&mut server, dir) {
        Ok(()) => Ok((server, guard, port)),
        Err(error) => {
            stop(&mut server);
            if let Some(mut pipe) = guard.stdin.take() {
                let _ = pipe.write_all(b"done\n");
            }
            let _ = guard.wait();
            Err(error)
        }
    }
}

/// Waits for the word that the postmaster writes into its pid file when it accepts connections.
fn wait_ready(server: &mut Child, dir: &Path) -> Result<(), ClusterError> {
    let failed = |what: String| Err(ClusterError::Failed { what, output: tail(&dir.join("log")) });
    for _ in 0..READY_LIMIT.as_millis() / READY_STEP.as_millis() {
        if let Some(status) = server.try_wait().map_err(io_error("cannot look at postgres"))? {
            return failed(format!("postgres ended at its start with {status}"));
        }
        let pid_file = fs::read_to_string(dir.join("data").join("postmaster.pid")).unwrap_or_default();
        if pid_file.lines().nth(7).is_some_and(|word| word.trim() == "ready") {
            return Ok(());
        }
        std::thread::sleep(READY_STEP);
    }
    failed(format!("postgres was not ready after {} s", READY_LIMIT.as_secs()))
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, ClusterError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(io_error("cannot find a free port"))
}

/// The end of a text file; empty if it cannot be read.
fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_TAIL);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}
