//! As a service: sockets that systemd has opened, its watchdog, probes, and what tools ask that only want to know who is there.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::bad_input::raw;
use crate::support::postgres::{Db, cluster, tool};
use crate::support::proxy::{Spec, binary, free_port};
use crate::support::wait::{eventually, secs, until};
use crate::support::wire::{Addr, Target, ssl_request, startup};

/// A folder with a configuration, as a package lays it out.
struct Site {
    dir: TempDir,
    db: Db,
}

/// A child that does not outlive its test.
struct Own(Child);

impl Own {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        until("it has ended", secs(15), || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Site {
    /// What stands under `[pglull]` besides.
    fn new(more: &str) -> Self {
        let (db, dir, metrics) = (Db::new(), tempfile::tempdir().unwrap(), free_port());
        let (name, user, password, there) = (&db.name, &db.user, &db.password, cluster().port());
        let text = format!(
            "[pglull]\nauth_type = \"trust\"\nauth_file = \"users\"\nmetrics_addr = \"127.0.0.1:{metrics}\"\n{more}\n\
             [databases.{name}]\nhost = \"127.0.0.1\"\nport = {there}\nuser = \"{user}\"\npassword = \"{password}\"\n"
        );
        for (name, text) in [("pglull.toml", text), ("users", format!("\"{user}\" \"{password}\"\n"))] {
            fs::write(dir.path().join(name), text).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { dir, db }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn start(&self) -> Own {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(binary().get_program());
        command.args(["run", "pglull.toml"]).current_dir(self.dir.path()).stderr(log);
        Own(command.spawn().unwrap())
    }

    /// Started as systemd does it: these sockets are descriptors 3 and 4, and two variables say so.
    fn start_with(&self, first: impl Into<OwnedFd>, second: impl Into<OwnedFd>, names: &str) -> Own {
        let script = r#"exec 3<&0 4<&1 </dev/null >&2; export LISTEN_PID=$$ LISTEN_FDS=2; exec "$@""#;
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(binary().get_program()).args(["run", "pglull.toml"]);
        command.env("LISTEN_FDNAMES", names).current_dir(self.dir.path()).stderr(log);
        Own(command.stdin(Stdio::from(first.into())).stdout(Stdio::from(second.into())).spawn().unwrap())
    }

    fn client(&self, port: u16) -> Target {
        Target::new(Addr::Tcp(port), &self.db.user, &self.db.password, &self.db.name)
    }
}

/// A restart with a `.socket` unit refuses nobody: who comes in between waits in the kernel's line.
#[test]
fn sockets_of_systemd_are_served_and_outlive_the_process() {
    // What the file names is taken: it is not opened.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::new(&format!("listen_port = {}", taken.local_addr().unwrap().port()));
    let clients = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = clients.local_addr().unwrap().port();
    let console = site.dir.path().join("console");
    let admin = UnixListener::bind(&console).unwrap();
    let start = || site.start_with(clients.try_clone().unwrap(), admin.try_clone().unwrap(), "clients:admin");
    let mut child = start();
    assert_eq!(site.client(port).login().one("SELECT current_database()"), site.db.name);
    let operator = Target::new(Addr::Unix(console.clone()), "it", "", "pgbouncer");
    assert_eq!(operator.login().ok("SHOW DATABASES").maps()[0]["name"], site.db.name);
    assert!(site.log().contains("open no others"), "{}", site.log());
    child.signal(Signal::SIGINT);
    assert_eq!(child.ended(), Some(0));
    assert!(console.exists(), "the file is systemd's to remove");

    let waiting = std::thread::spawn({
        let target = site.client(port);
        move || target.login().one("SELECT 41 + 1")
    });
    let _again = start();
    assert_eq!(waiting.join().unwrap(), "42");
}

#[test]
fn a_file_that_is_no_socket_is_not_removed_and_says_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    fs::write(&there, "precious").unwrap();
    let path = there.display();
    for (key, why) in [
        (format!("admin_socket = \"{path}\""), "there is something else than a socket"),
        (format!("state_dir = \"{path}\""), "name a folder"),
        (format!("logfile = \"{path}/log\""), "its folder must be there"),
        (format!("pidfile = \"{path}\""), "remove the file"),
    ] {
        let site = Site::new(&format!("listen_port = {}\n{key}", free_port()));
        let mut child = site.start();
        assert_eq!(child.ended(), Some(1), "{key}: {}", site.log());
        assert!(site.log().contains(why), "{key}: {}", site.log());
        assert_eq!(fs::read_to_string(&there).unwrap(), "precious");
    }
}

#[test]
fn what_is_handed_over_and_is_no_listening_socket_is_named() {
    let site = Site::new("");
    let nothing = || fs::File::open("/dev/null").unwrap();
    let (listener, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), site.dir.path().join("unix"));
    let unix = UnixListener::bind(unix).unwrap();
    let cases: [(Own, &str); 3] = [
        (site.start_with(nothing(), nothing(), "web:x"), "cannot use the socket \\\"web\\\""),
        (
            site.start_with(listener.try_clone().unwrap(), listener, "x:admin"),
            "\\\"admin\\\" that was handed over: expected a Unix socket",
        ),
        (
            site.start_with(unix.try_clone().unwrap(), unix, "metrics:x"),
            "\\\"metrics\\\" that was handed over: expected a TCP socket",
        ),
    ];
    for (mut child, why) in cases {
        assert_eq!(child.ended(), Some(1));
        assert!(site.log().contains(&why.replace('\\', "")), "{why}: {}", site.log());
    }
}

#[test]
fn the_watchdog_is_shown_life() {
    let site = Site::new(&format!("listen_port = {}", free_port()));
    let socket = UnixDatagram::bind(site.dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(secs(15))).unwrap();
    let mut command = binary();
    command.args(["run", "pglull.toml"]).current_dir(site.dir.path()).stderr(Stdio::null()).stdout(Stdio::null());
    command.env("NOTIFY_SOCKET", site.dir.path().join("notify")).env("WATCHDOG_USEC", "200000");
    let child = Own(command.spawn().unwrap());
    let mut heard = Vec::new();
    until("three signs of life", secs(15), || {
        let mut buf = [0; 1024];
        let length = socket.recv(&mut buf).unwrap();
        heard.push(String::from_utf8_lossy(&buf[..length]).into_owned());
        (heard.iter().filter(|text| *text == "WATCHDOG=1").count() >= 3).then_some(())
    });
    assert!(heard[0].starts_with("READY=1"), "{heard:?}");
    drop(child);
}

fn probe(arguments: &[&str], port: u16) -> (Option<i32>, String) {
    let addr = format!("127.0.0.1:{port}");
    let output: Output = binary().arg("probe").args(arguments).args(["--addr", &addr]).output().unwrap();
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    (output.status.code(), said.trim().to_owned())
}

#[test]
fn a_probe_tells_ready_from_live() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    assert_eq!(probe(&[], proxy.metrics), (Some(0), "ready".to_owned()));
    assert_eq!(probe(&["live", "--after", "0"], proxy.metrics), (Some(0), "ok".to_owned()));
    // A window is no illness.
    proxy.admin("PAUSE");
    assert_eq!(probe(&["ready"], proxy.metrics).0, Some(0));
    proxy.admin("RESUME");
    let client = proxy.client().login();
    proxy.signal(Signal::SIGTERM);
    eventually("it is not ready", secs(10), || {
        probe(&[], proxy.metrics) == (Some(1), "pglull: not ready: shutting down".to_owned())
    });
    assert_eq!(probe(&["live"], proxy.metrics).0, Some(0));
    client.close();
    assert!(proxy.ended(secs(15)).success());

    let (code, said) = probe(&[], proxy.metrics);
    assert!(code == Some(1) && said.contains("cannot ask") && said.contains("metrics_addr"), "{code:?} {said}");
    let (code, said) = probe(&["--timeout", "5"], cluster().port());
    assert!(code == Some(1) && said.contains("not HTTP"), "{code:?} {said}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = probe(&["--timeout", "1"], silent.local_addr().unwrap().port());
    assert!(code == Some(1) && said.contains("no answer from"), "{code:?} {said}");
    assert_eq!(binary().args(["probe", "ill"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn pg_isready_and_conninfo_of_psql() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    let port = proxy.port.to_string();
    let ready = |user: &str, database: &str| {
        let output = tool("pg_isready").args(["-t", "5", "-p", &port, "-U", user, "-d", database]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = ready(&db.user, &db.name);
    assert!(code == Some(0) && said.contains("accepting connections"), "{code:?} {said}");
    // As Postgres has it: whoever asks, and for what, an answer is an answer.
    assert_eq!(ready("nobody_at_all", "nothing").0, Some(0));
    for database in [db.name.as_str(), "pgbouncer"] {
        let user = if database == "pgbouncer" { "boss" } else { db.user.as_str() };
        let mut psql = tool("psql");
        psql.args(["-X", "-p", &port, "-U", user, "-d", database, "-c", "\\conninfo"]).env("PGPASSWORD", "boss pw");
        let output = psql.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let told = format!("You are connected to database \"{database}\" as user \"{user}\"");
        assert!(output.status.success() && said.contains(&told) && said.contains(&port), "{said}");
    }
    let warnings = proxy.log().lines().filter(|line| line.contains("WARN") && !line.contains("as root")).count();
    assert_eq!(warnings, 0, "{}", proxy.log());
    let client = proxy.client().login();
    proxy.signal(Signal::SIGTERM);
    eventually("it takes nobody any more", secs(10), || ready(&db.user, &db.name).0 != Some(0));
    client.close();
}

/// Unit files, manifests, rules, snippets and scripts, as far as the tools that read them are installed.
#[test]
fn what_is_in_deploy_is_read_by_its_tools() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/test-deploy.sh");
    let output = Command::new("timeout")
        .args(["120", script])
        .env("PGLULL", binary().get_program())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{said}");
    for line in said.lines().filter(|line| line.starts_with("skipped ")) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", &line["skipped ".len()..]);
    }
}

/// Accepted just before the end: it gets a word that it can act on, not a connection that breaks.
#[test]
fn whoever_logs_in_while_it_ends_is_told() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    let (mut early, silent) = (raw(&proxy), raw(&proxy));
    early.send(&ssl_request()).unwrap();
    early.byte().unwrap();
    proxy.signal(Signal::SIGINT);
    eventually("it is not ready", secs(10), || !proxy.http("/readyz").0.contains("200"));
    early.send(&startup(&[("user", &db.user), ("database", &db.name)])).unwrap();
    let error =
        until("an error", secs(5), || Some(early.recv().unwrap()).filter(|message| message.tag == b'E')).error();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("57P03", "pooler is shutting down"));
    // One that says nothing does not keep the process.
    assert!(proxy.ended(secs(15)).success());
    drop(silent);
}

/// What pgbadger takes from PgBouncer's log: attempts, ends, errors. It is asked itself where it is installed.
#[test]
fn the_log_in_pgbouncers_shape_is_read_by_pgbadger() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).text("log_format", "pgbouncer").text("auth_type", "scram-sha-256").start();
    for _ in 0..5 {
        proxy.client().login().close();
    }
    let mut liar = proxy.client();
    liar.password = "wrong".to_owned();
    liar.connect().err().unwrap();
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.ended(secs(15)).success());
    let (log, user) = (proxy.log(), format!("{}/{}@127.0.0.1:", db.name, db.user));
    for line in log.lines().filter(|line| !line.starts_with("warning: ")) {
        let (head, rest) = line.split_once(" UTC [").unwrap_or_else(|| panic!("{line}"));
        assert!(head.len() == 23 && head.as_bytes()[10] == b' ' && head.as_bytes()[19] == b'.', "{line}");
        let level = rest.split_whitespace().nth(1).unwrap();
        assert!(["LOG", "WARNING", "ERROR"].contains(&level), "{line}");
    }
    let lines = |text: &str| log.lines().filter(|line| line.contains(text) && line.contains(&user)).count();
    assert_eq!((lines(" login attempt: db="), lines(" closing because: client close request (age=")), (6, 5), "{log}");

    let Ok(version) = Command::new("pgbadger").arg("--version").output() else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: pgbadger is not here");
        return;
    };
    assert!(version.status.success());
    let report = proxy.dir().join("report.json");
    let mut pgbadger = Command::new("pgbadger");
    pgbadger.args(["-q", "-f", "pgbouncer3", "-x", "json", "-o"]).arg(&report).arg(proxy.dir().join("log"));
    let output = pgbadger.current_dir(proxy.dir()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains(&db.name) && report.contains(&db.user), "{report}");
}
