//! PgBouncer's command line and its file: `pgbouncer -d -u user pgbouncer.ini`, pidfile, logfile, systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, getsid};
use tempfile::TempDir;

use crate::support::postgres::{Db, cluster};
use crate::support::proxy::{binary, free_port};
use crate::support::wait::{eventually, secs, until};
use crate::support::wire::{Addr, Target, cancel};

/// A folder with a `pgbouncer.ini` and a link to our program that is called `pgbouncer`.
struct Site {
    dir: TempDir,
    port: u16,
    db: Db,
}

impl Site {
    /// With more lines under `[pgbouncer]`.
    fn new(more: &str) -> Self {
        let (db, dir, port) = (Db::new(), tempfile::tempdir().unwrap(), free_port());
        // Whoever it becomes has to write its files here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let at = dir.path().display();
        let (name, user, password, there) = (&db.name, &db.user, &db.password, cluster().port());
        fs::write(
            dir.path().join("databases.ini"),
            format!("{name} = host=127.0.0.1 port={there} user={user} password='{password}'\n"),
        )
        .unwrap();
        let text = format!(
            ";; as an operator has it\n[databases]\n%include databases.ini\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir = {at}\nauth_type = trust\nauth_file = userlist.txt\nadmin_users = boss\n\
             disable_pqexec = 0\npool_mode = transaction\n{}\n",
            more.replace("DIR", &at.to_string())
        );
        fs::write(dir.path().join("pgbouncer.ini"), text).unwrap();
        fs::write(dir.path().join("userlist.txt"), format!("\"{user}\" \"{password}\"\n\"boss\" \"boss\"\n")).unwrap();
        std::os::unix::fs::symlink(binary().get_program(), dir.path().join("pgbouncer")).unwrap();
        Self { dir, port, db }
    }

    /// `pgbouncer ARGUMENTS pgbouncer.ini`, started in the folder.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("pgbouncer"));
        command.args(arguments).arg("pgbouncer.ini").current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same, under a user that is not root.
    fn safely(&self, arguments: &[&str]) -> Command {
        let user = if Uid::current().is_root() { vec!["-u", "nobody"] } else { vec![] };
        self.command(&[arguments, &user].concat())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn client(&self) -> Target {
        Target::new(Addr::Tcp(self.port), &self.db.user, &self.db.password, &self.db.name)
    }

    fn console(&self) -> Target {
        Target::new(Addr::Tcp(self.port), "boss", "boss", "pgbouncer")
    }

    fn serves(&self) {
        eventually("it serves", secs(15), || self.client().connect().is_ok());
        assert_eq!(self.client().login().one("SELECT current_database()"), self.db.name);
    }

    fn pid(&self) -> Option<Pid> {
        self.text("pid").trim().parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Site {
    /// What runs in the background is nobody's child.
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// A child that does not outlive its test.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

fn field(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

const FILES: &str = "pidfile = DIR/pid\nlogfile = DIR/log";

#[test]
fn a_link_named_pgbouncer_is_a_drop_in() {
    let site = Site::new(FILES);
    let mut child = Own(site.safely(&["-q"]).spawn().unwrap());
    site.serves();
    let pid = child.0.id();
    assert_eq!(site.text("pid").trim(), pid.to_string());
    if Uid::current().is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        assert_eq!(field(pid, "Uid:"), nobody.uid.to_string());
        assert_eq!(field(pid, "Gid:"), nobody.gid.to_string());
    }
    let why = "disable_pqexec: ignored: simple queries are never refused";
    assert!(site.text("log").contains(&format!("pgbouncer.ini:12: {why}")), "{}", site.text("log"));
    let mut console = site.console().login();
    let rows = console.ok("SHOW CONFIG").maps();
    let setting = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap()["value"].clone();
    // What the file does not say is as in PgBouncer.
    assert_eq!((setting("max_client_conn"), setting("metrics_addr")), ("100".into(), String::new()));
    console.ok("RELOAD");
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGINT).unwrap();
    assert!(until("it has ended", secs(15), || child.0.try_wait().unwrap()).success());
    assert!(!site.path("pid").exists());
    let mut quiet = String::new();
    std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut quiet).unwrap();
    assert_eq!(quiet, "", "-q");
    assert!(site.text("log").contains("closing because: "), "{}", site.text("log"));
}

#[test]
fn in_the_background() {
    let site = Site::new(FILES);
    let output = site.safely(&["-d"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // It was served before the first process ended.
    assert_eq!(site.client().login().one("SELECT 1"), "1");
    let pid = site.pid().unwrap();
    assert_eq!(getsid(Some(pid)).unwrap(), pid, "the leader of a session of its own");
    assert!(site.text("log").contains("listening"));

    let output = site.safely(&["-d"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("exists, another instance running?"), "{}", said(&output));
    assert_eq!(site.pid(), Some(pid));

    // One that has died leaves its file and its socket; neither is in the way.
    kill(pid, Signal::SIGKILL).unwrap();
    eventually("it is dead", secs(10), || kill(pid, None).is_err());
    let output = site.safely(&["-d", "-v"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let fresh = site.pid().unwrap();
    assert_ne!(fresh, pid);
    let mut console = site.console().login();
    console.ok("SHUTDOWN");
    eventually("it has ended, and its files are gone", secs(10), || {
        kill(fresh, None).is_err() && !site.path("pid").exists()
    });
}

#[test]
fn what_goes_wrong_is_said_where_it_was_typed() {
    let refused = |site: &Site, arguments: &[&str], why: &str| {
        let output = site.safely(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(why), "{arguments:?}: {}", said(&output));
        assert!(!site.path("pid").exists());
    };
    refused(&Site::new(""), &["-d"], "daemon needs pidfile configured");
    refused(&Site::new("colour = red"), &[], "pgbouncer.ini:14: colour: expected a known key");
    refused(&Site::new("disable_pqexec = 1"), &[], "0: simple queries cannot be refused here");
    let site = Site::new(FILES);
    refused(&site, &["-R"], "'pglull upgrade' has the program");
    refused(&site, &["-x"], "unexpected argument");
    refused(&site, &["-u", "no-such-user"], "");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    refused(&site, &["-d"], "cannot listen on 127.0.0.1");
    if Uid::current().is_root() {
        let output = site.command(&[]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("should not run as root"), "{}", said(&output));
        let output = site.command(&["-u", "no-such-user"]).output().unwrap();
        assert!(said(&output).contains("there is no user no-such-user"), "{}", said(&output));
    }
    let output = Command::new(site.path("pgbouncer")).arg("-V").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // Scripts look for the first words.
    assert_eq!(said(&output).trim(), concat!("PgBouncer 1.25.2 (pglull ", env!("CARGO_PKG_VERSION"), ")"));
    let output = Command::new(site.path("pgbouncer")).arg("--help").output().unwrap();
    assert!(output.status.success() && said(&output).contains("CONFIG_FILE"));
}

#[test]
fn the_log_file_is_opened_anew_by_a_reload() {
    let site = Site::new(FILES);
    let child = Own(site.safely(&["-q"]).spawn().unwrap());
    site.serves();
    fs::rename(site.path("log"), site.path("log.1")).unwrap();
    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), Signal::SIGHUP).unwrap();
    eventually("there is a new file", secs(10), || site.text("log").contains("configuration reloaded"));
    let mut console = site.console().login();
    assert!(!site.text("log").contains("DEBUG"));
    console.ok("SET verbose = 1");
    eventually("verbose = 1 says more", secs(10), || {
        cancel(&Addr::Tcp(site.port), 1, &[0; 4]);
        site.text("log").contains("DEBUG")
    });
    console.ok("RELOAD");
    let text = site.text("pgbouncer.ini").replace("/log\n", "/no/such/folder/log\n");
    fs::write(site.path("pgbouncer.ini"), text).unwrap();
    let error = console.query("RELOAD").err().unwrap().db();
    assert!(error.detail.contains("logfile"), "{}", error.detail);
}

#[test]
fn a_converted_file_serves_as_the_one_that_it_was_made_from() {
    let site = Site::new("pkt_buf = 8192");
    let run = |verb: &str, file: &str| binary().args([verb, file]).current_dir(site.dir.path()).output().unwrap();
    let output = run("convert", "pgbouncer.ini");
    assert!(output.status.success(), "{}", said(&output));
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warnings.contains("pgbouncer.ini:14: pkt_buf: ignored: "), "{warnings}");
    fs::write(site.path("pglull.toml"), &output.stdout).unwrap();
    let checked = run("check", "pglull.toml");
    assert!(checked.status.success(), "{}", said(&checked));
    let _child = Own(binary().args(["run", "pglull.toml"]).current_dir(site.dir.path()).spawn().unwrap());
    site.serves();
    assert_eq!(run("convert", "pglull.toml").status.code(), Some(2));
}

#[test]
fn a_conversion_as_json_is_the_same_text_with_the_same_warnings() {
    let site = Site::new("pkt_buf = 8192");
    let run = |args: &[&str]| {
        let output = binary().arg("convert").args(args).current_dir(site.dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (code, told) = run(&["pgbouncer.ini", "--json"]);
    let told = json(&told);
    assert_eq!((code, told["ok"].as_bool()), (Some(0), Some(true)));
    assert_eq!(told["toml"].as_str().unwrap(), run(&["pgbouncer.ini"]).1);
    assert!(told["warnings"].to_string().contains("pkt_buf: ignored"), "{told}");
    fs::write(site.path("bad.ini"), "[pgbouncer]\nno_such_key = 1\n").unwrap();
    let (code, told) = run(&["bad.ini", "--json"]);
    let told = json(&told);
    assert_eq!((code, told["ok"].as_bool(), told["toml"].is_null()), (Some(2), Some(false), true));
    assert!(told["mistakes"].to_string().contains("no_such_key"), "{told}");
}

#[test]
fn systemd_is_told() {
    let site = Site::new("");
    let socket = UnixDatagram::bind(site.path("notify")).unwrap();
    fs::set_permissions(site.path("notify"), fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(secs(15))).unwrap();
    let next = || {
        let mut buf = [0; 1024];
        let length = socket.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..length]).into_owned()
    };
    let mut child = Own(site.safely(&[]).env("NOTIFY_SOCKET", site.path("notify")).spawn().unwrap());
    assert!(next().starts_with("READY=1\nSTATUS="));
    site.serves();
    let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    let reloading = until("RELOADING=1", secs(10), || Some(next()).filter(|text| text.starts_with("RELOADING=1")));
    let micros: u64 = reloading.split_once("MONOTONIC_USEC=").unwrap().1.parse().unwrap();
    let up: f64 = fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(micros > 0 && micros / 1_000_000 <= up as u64 + 1, "{micros} us, up for {up} s");
    until("READY=1", secs(10), || Some(next()).filter(|text| text.starts_with("READY=1")));
    kill(pid, Signal::SIGTERM).unwrap();
    until("STOPPING=1", secs(10), || Some(next()).filter(|text| text.starts_with("STOPPING=1")));
    assert!(until("it has ended", secs(15), || child.0.try_wait().unwrap()).success());
}
