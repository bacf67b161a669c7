//! Runs the real binary with a configuration of its own, and asks its console, metrics and /proc.
//!
//! `PGLULL_BIN` runs another build of it, for example the release build.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::postgres::{Db, cluster};
pub(crate) use super::spec::Spec;
use super::spec::tls_everywhere;
use super::tls::client_config;
use super::wait::{eventually, secs, until};
use super::wire::{Addr, DbError, Reply, Target, Wire, WireError};

/// Tests that measure time run alone; all others share the machine.
static HALL: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held for their drop: they let the next test go on")]
enum Place {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A port outside of the range from which the kernel takes the ports of outgoing connections: such
/// a port stays free until the proxy takes it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 97).unwrap() * 100;
    for _ in 0..10_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 30000");
}

/// The binary under test.
pub(crate) fn binary() -> Command {
    let program = std::env::var_os("PGLULL_BIN");
    Command::new(program.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pglull")), PathBuf::from))
}

impl Spec {
    /// Starts the proxy, when the other tests allow it, and waits until its console answers.
    pub(crate) fn start(self) -> Proxy {
        cluster();
        let place = if self.alone {
            Place::Alone(HALL.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Place::Shared(HALL.read().unwrap_or_else(PoisonError::into_inner))
        };
        // Somebody else may take a port between our look and the proxy's.
        for _ in 0..5 {
            if let Some((child, dir, port, metrics, admin)) = self.clone().launch() {
                let guard = guard(child.id(), dir.path());
                return Proxy {
                    child,
                    heir: None,
                    guard,
                    dir,
                    port,
                    metrics,
                    admin,
                    client: self.client,
                    told: false,
                    _place: place,
                };
            }
        }
        panic!("five times in a row a free port was taken by somebody else");
    }

    /// Starts the proxy and waits until its console answers; `None` if a port was taken.
    fn launch(self) -> Option<(Child, TempDir, u16, u16, PathBuf)> {
        let dir = tempfile::Builder::new().prefix("pglull-it-").tempdir().unwrap();
        let (port, metrics, vars) = (free_port(), free_port(), self.vars.clone());
        // psql finds a socket by folder and port only, so the console's own has such a name too.
        let admin = dir.path().join("admin").join(format!(".s.PGSQL.{port}"));
        fs::create_dir(dir.path().join("admin")).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let file = self
            .num("listen_port", u32::from(port))
            .text("unix_socket_dir", &dir.path().to_string_lossy())
            .text("admin_socket", &admin.to_string_lossy())
            .workers()
            .text("metrics_addr", &format!("127.0.0.1:{metrics}"))
            .text("state_dir", &dir.path().join("state").to_string_lossy())
            .write(dir.path());
        let log_file = dir.path().join("log");
        let log = fs::File::create(&log_file).unwrap();
        let mut command = binary();
        command.arg("run").arg(file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).envs(vars);
        let mut child = command.spawn().unwrap();
        let console = console(&admin);
        let ready = until("the console answers", secs(15), || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(&log_file).unwrap_or_default();
                assert!(log.contains("Address already in use"), "the proxy ended at its start with {status}:\n{log}");
                return Some(false);
            }
            console.connect().is_ok().then_some(true)
        });
        ready.then_some((child, dir, port, metrics, admin))
    }
}

/// The console, by the name that PgBouncer has for it too: what does not concern windows can then be
/// run against PgBouncer, to check the tests themselves.
fn console(socket: &Path) -> Target {
    Target::new(Addr::Unix(socket.to_owned()), "it", "", "pgbouncer")
}

/// Over TLS where all clients are.
fn sealed(target: Target) -> Target {
    if tls_everywhere() { target.tls(&client_config(false, None), false) } else { target }
}

/// Kills the proxy and removes its folder when we end without having done so.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r word
[ "$word" = done ] && exit 0
kill -KILL "$1"
rm -rf "$2"
"#;

fn guard(pid: u32, dir: &Path) -> Child {
    Command::new("sh")
        .args(["-c", GUARD, "it-guard", &pid.to_string()])
        .arg(dir)
        .stdin(Stdio::piped())
        // Of its own, so that what ends a whole group does not end the guard first.
        .process_group(0)
        .spawn()
        .unwrap()
}

/// A running proxy; dropping it kills it, and prints its log if the test fails.
pub(crate) struct Proxy {
    child: Child,
    /// The process that has taken over, if one has; it is no child of ours.
    heir: Option<u32>,
    guard: Child,
    dir: TempDir,
    pub(crate) port: u16,
    pub(crate) metrics: u16,
    admin: PathBuf,
    client: (String, String, String),
    /// The test has asked it to end.
    told: bool,
    _place: Place,
}

impl Proxy {
    /// A client of the test's database over TCP.
    pub(crate) fn client(&self) -> Target {
        let (user, password, database) = &self.client;
        sealed(Target::new(Addr::Tcp(self.port), user, password, database))
    }

    /// The same over the Unix socket.
    pub(crate) fn unix_client(&self) -> Target {
        let (user, password, database) = &self.client;
        Target::new(self.unix_addr(), user, password, database)
    }

    pub(crate) fn unix_addr(&self) -> Addr {
        Addr::Unix(self.dir.path().join(format!(".s.PGSQL.{}", self.port)))
    }

    /// A client of another database that this proxy serves.
    pub(crate) fn client_of(&self, db: &Db) -> Target {
        sealed(Target::new(Addr::Tcp(self.port), &db.user, &db.password, &db.name))
    }

    /// Another user of the test's database; its password is `pw`.
    pub(crate) fn client_as(&self, user: &str) -> Target {
        Target::new(Addr::Tcp(self.port), user, "pw", &self.client.2)
    }

    /// The console, over its own socket.
    pub(crate) fn console(&self) -> Target {
        console(&self.admin)
    }

    /// The folder of the console's socket, as `psql -h` wants it.
    pub(crate) fn console_dir(&self) -> &Path {
        self.admin.parent().unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a console command on a connection of its own.
    pub(crate) fn admin(&self, command: &str) -> Reply {
        let mut wire = self.console().login();
        let reply = wire.ok(command);
        wire.close();
        reply
    }

    /// Runs a console command that must be refused.
    pub(crate) fn admin_err(&self, command: &str) -> DbError {
        let mut wire = self.console().login();
        match wire.query(command) {
            Ok(reply) => panic!("{command} was not refused: {reply:?}"),
            Err(error) => error.db(),
        }
    }

    /// Starts a console command and leaves it running.
    pub(crate) fn admin_start(&self, command: &str) -> Wire {
        let mut wire = self.console().login();
        wire.start(command).unwrap();
        wire
    }

    /// `WINDOW APPLY` on this test's database, left running.
    pub(crate) fn apply(&self, id: &str, with: &str, sql: &str) -> Wire {
        self.admin_start(&self.apply_text(id, with, sql))
    }

    pub(crate) fn apply_text(&self, id: &str, with: &str, sql: &str) -> String {
        let comma = if with.is_empty() { "" } else { ", " };
        format!("WINDOW APPLY {} WITH (id='{id}'{comma}{with}) AS $$ {sql} $$", self.client.2)
    }

    /// `WINDOW OPEN` on this test's database; returns the row of the answer.
    pub(crate) fn open(&self, id: &str, with: &str) -> BTreeMap<String, String> {
        let comma = if with.is_empty() { "" } else { ", " };
        let text = format!("WINDOW OPEN {} WITH (id='{id}'{comma}{with})", self.client.2);
        self.admin(&text).maps().remove(0)
    }

    pub(crate) fn close(&self, id: &str, token: &str) -> Reply {
        self.admin(&format!("WINDOW CLOSE {id} TOKEN '{token}'"))
    }

    /// `SHOW WINDOW id` as a map.
    pub(crate) fn window(&self, id: &str) -> BTreeMap<String, String> {
        self.admin(&format!("SHOW WINDOW {id}"))
            .maps()
            .into_iter()
            .map(|mut row| (row.remove("key").unwrap(), row.remove("value").unwrap()))
            .collect()
    }

    /// Waits until a window is in this phase; the window need not exist yet.
    pub(crate) fn until_phase(&self, id: &str, phase: &str) {
        let mut last = String::new();
        let mut wire = self.console().login();
        let command = format!("SHOW WINDOW {id}");
        let found = || {
            match wire.query(&command) {
                Err(WireError::Db(error)) => last = error.to_string(),
                Err(other) => panic!("console: {other}"),
                Ok(reply) => {
                    let rows = reply.maps();
                    let row = rows.iter().find(|row| row["key"] == "phase");
                    last = row.map(|row| row["value"].clone()).unwrap_or_default();
                    assert!(last != "closed" || phase == "closed", "window {id} closed before {phase}: {rows:?}");
                }
            }
            last == phase
        };
        eventually(&format!("window {id} is {phase}"), secs(30), found);
    }

    /// Waits until a window is closed, which need not exist yet; what it left.
    pub(crate) fn closed(&self, id: &str) -> BTreeMap<String, String> {
        self.until_phase(id, "closed");
        self.window(id)
    }

    /// How many clients are held now.
    pub(crate) fn held(&self) -> usize {
        self.admin("SHOW HELD").rows.len()
    }

    pub(crate) fn until_held(&self, count: usize) {
        eventually(&format!("{count} clients are held"), secs(15), || self.held() == count);
    }

    /// A column of `SHOW POOLS` for the test's database, summed over its users.
    pub(crate) fn pools(&self, column: &str) -> u64 {
        let rows = self.admin("SHOW POOLS").maps();
        rows.iter().filter(|row| row["database"] == self.client.2).map(|row| row[column].parse::<u64>().unwrap()).sum()
    }

    /// A plain HTTP GET of the metrics listener: status line and body.
    pub(crate) fn http(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        stream.set_read_timeout(Some(secs(10))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    pub(crate) fn metrics_text(&self) -> String {
        let (status, body) = self.http("/metrics");
        assert!(status.contains("200"), "{status}");
        body
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.heir.unwrap_or(self.child.id())
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).unwrap())
    }

    /// `UPGRADE`, which must go well; from here on this is the process that has taken over. Returns the row of the answer, and
    /// the process of before.
    pub(crate) fn upgrade(&mut self) -> (BTreeMap<String, String>, u32) {
        let row = self.admin("UPGRADE").maps().remove(0);
        let before = self.pid();
        self.heir = Some(row["pid"].parse().unwrap());
        self.told = true;
        let _ = self.guard.stdin.take().unwrap().write_all(b"done\n");
        let _ = self.guard.wait();
        self.guard = guard(self.pid(), self.dir.path());
        (row, before)
    }

    /// Whether a process of before the last upgrade still runs.
    pub(crate) fn lives(&mut self, pid: u32) -> bool {
        // Ours is a zombie until we look.
        let _ = self.child.try_wait();
        Path::new(&format!("/proc/{pid}")).exists()
    }

    fn proc_kib(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Memory in use now, KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.proc_kib("VmRSS:")
    }

    /// The most memory that was ever in use, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.proc_kib("VmHWM:")
    }

    /// CPU time used so far, in clock ticks (1/100 s).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let rest = text.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Rewrites the configuration file; returns what was there before, or is there if nothing was changed.
    pub(crate) fn edit(&self, change: impl FnOnce(&str) -> String) -> String {
        let file = self.dir.path().join("pglull.toml");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(&before)).unwrap();
        before
    }

    /// Sends a signal that does not end it.
    pub(crate) fn hangup(&self, signal: Signal) {
        kill(self.raw_pid(), signal).unwrap();
    }

    /// Sends a signal that ends it, now or later.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.told = true;
        kill(self.raw_pid(), signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended(secs(10));
    }

    /// Starts it again after its end, with the configuration and the folders that it had.
    pub(crate) fn restart(&mut self) {
        assert!(!self.running());
        let _ = self.guard.stdin.take().unwrap().write_all(b"done\n");
        let _ = self.guard.wait();
        let log = fs::File::options().append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = binary();
        command.arg("run").arg(self.dir.path().join("pglull.toml")).stdin(Stdio::null());
        self.child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.guard = guard(self.child.id(), self.dir.path());
        self.told = false;
        let console = self.console();
        until("the console answers again", secs(15), || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended at its start:\n{}", self.log());
            console.connect().ok()
        });
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended, as it was told to.
    pub(crate) fn ended(&mut self, limit: Duration) -> ExitStatus {
        self.told = true;
        until("the proxy has ended", limit, || self.child.try_wait().unwrap())
    }

    /// A good client is served, now.
    pub(crate) fn still_serves(&self) {
        let mut wire = self.client().login();
        wire.limit(Duration::from_secs(10));
        assert_eq!(wire.one("SELECT 'good'"), "good");
        wire.close();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        if self.heir.is_some() {
            let _ = kill(self.raw_pid(), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.guard.stdin.take().unwrap().write_all(b"done\n");
        let _ = self.guard.wait();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the end of the proxy's log\n{tail}\n---");
        } else {
            assert!(self.told || matches!(ended, Ok(None)), "the proxy ended by itself: {ended:?}\n{log}");
            assert!(!log.contains("panicked at"), "the proxy panicked:\n{log}");
        }
    }
}
