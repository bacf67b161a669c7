//! `pglull window apply DB -- command`: the command makes the change beside the proxy while the clients are held.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::{Db, cluster, tool};
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::tls::authority;
use crate::support::wait::{eventually, secs, until};

/// A proxy, its database, and a folder for what scripts leave.
struct Scene {
    db: Db,
    proxy: Proxy,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let db = Db::with(ACCOUNTS);
        let proxy = Spec::of(&db).pool(5).start();
        Self { db, proxy, dir: tempfile::tempdir().unwrap() }
    }

    /// `pglull window apply .. -- sh -c SCRIPT`, with `$psql` and `$dir`.
    fn apply(&self, id: &str, options: &[&str], script: &str) -> Command {
        let mut command = self.window(id, options);
        command.args(["--", "sh", "-c", script]);
        command
    }

    fn window(&self, id: &str, options: &[&str]) -> Command {
        let mut command = binary();
        let socket = self.proxy.console_dir().join(format!(".s.PGSQL.{}", self.proxy.port));
        command.args(["window", "apply", &self.db.name, "--id", id, "--socket"]).arg(socket).args(options);
        command.env("PGPASSWORD", &self.db.password).env("psql", tool("psql").get_args().last().unwrap());
        // What stands in an operator's environment must not lead the command to the proxy.
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.proxy.port.to_string()).env("PGHOSTADDR", "127.0.0.9");
        command.env("dir", self.dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The processes whose numbers a script has written down.
    fn pids(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.path("pids")).unwrap_or_default();
        text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    fn all_gone(&self) -> bool {
        self.pids().iter().all(|pid| !lives(*pid))
    }

    /// A client that is held from when the command runs, and how it fares.
    fn aborted(&self, id: &str, reasons: &[&str]) {
        let window = self.proxy.closed(id);
        assert_eq!(window["outcome"], "aborted", "{window:?}");
        for reason in reasons {
            assert!(window["reason"].contains(reason), "{reason}: {}", window["reason"]);
        }
        self.proxy.still_serves();
    }
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

/// One that is not left behind by a test that fails.
struct Own(Option<Child>);

impl Own {
    fn of(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.as_ref().unwrap().id()).unwrap()), signal).unwrap();
    }

    fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_command_changes_the_database_itself_while_the_clients_are_held() {
    let scene = Scene::new();
    let load = Load::start(&scene.proxy.client(), 8, short_work);
    load.progress(2);
    let script = "\"$psql\" -XAtqc 'SELECT current_database(), inet_server_port(), current_user; \
                  ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7; SHOW application_name' && \
                  cat && echo to stderr >&2";
    let mut child = scene.apply("one", &[], script).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"from stdin\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    load.progress(2);
    load.stop().assert_clean();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let expect = format!("{}|{}|{}\npglull window one\nfrom stdin\n", scene.db.name, cluster().port(), scene.db.user);
    assert!(stdout.starts_with(&expect), "{stdout}");
    assert!(stderr.contains("\nto stderr\n") && stderr.contains("the command ended with exit code 0"), "{stderr}");
    assert!(scene.db.has_column("accounts", "extra"));
    let window = scene.proxy.closed("one");
    assert_eq!((window["outcome"].as_str(), window["form"].as_str()), ("applied", "open"));
    assert!(stdout.contains("applied"), "the receipt: {stdout}");

    // With --json, standard output is the receipt alone.
    let output = scene.apply("two", &["--json"], "echo words").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let receipt: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(receipt["outcome"], "applied");
    assert!(String::from_utf8_lossy(&output.stderr).contains("words"));
}

#[test]
fn w03_a_command_that_exits_non_zero() {
    let scene = Scene::new();
    for (id, script, reason) in [
        ("code", "exit 3", "the command ended with exit code 3"),
        ("signal", "kill -SEGV $$", "the command was ended by SIGSEGV"),
    ] {
        let output = scene.apply(id, &[], script).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(reason), "{}", said(&output));
        scene.aborted(id, &["aborted by the operator: ", reason]);
    }
}

#[test]
fn w03_a_command_that_prints_100_mb() {
    let scene = Scene::new();
    // Its parent is the command line itself.
    let script = "head -c 100000000 /dev/zero; grep VmHWM: /proc/$PPID/status >&2";
    let mut child = Own::of(&mut scene.apply("loud", &["--apply", "30s", "--hold", "40s"], script));
    let mut stdout = child.0.as_mut().unwrap().stdout.take().unwrap();
    let (mut buf, mut zeros) = (vec![0; 1 << 16], 0_usize);
    loop {
        match stdout.read(&mut buf).unwrap() {
            0 => break,
            length => zeros += buf[..length].iter().filter(|byte| **byte == 0).count(),
        }
    }
    let output = child.output();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(zeros, 100_000_000);
    let text = said(&output);
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 60_000, "{peak} KiB");
    assert_eq!(scene.proxy.closed("loud")["outcome"], "applied");
}

#[test]
fn w03_a_command_that_ignores_sigterm() {
    let scene = Scene::new();
    let script = "trap '' TERM; echo $$ > \"$dir/pids\"; while :; do sleep 0.2; done";
    let start = Instant::now();
    let child = Own::of(&mut scene.apply("deaf", &["--apply", "700ms"], script));
    scene.proxy.until_phase("deaf", "holding");
    let mut held = scene.proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    let output = child.output();
    assert!(scene.all_gone() && scene.pids().len() == 1, "{:?}", scene.pids());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(held.finish().unwrap().one(), "served");
    assert!(start.elapsed() < secs(8), "{:?}", start.elapsed());
    scene.aborted("deaf", &["the apply bound of 0.70 s was reached", "was ended by SIGKILL"]);
}

#[test]
fn w03_a_command_that_listens_to_sigterm_may_tidy_up() {
    let scene = Scene::new();
    let script = "trap 'touch \"$dir/tidy\"; exit 0' TERM; while :; do sleep 0.05; done";
    let output = scene.apply("tidy", &["--apply", "500ms"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(scene.path("tidy").exists());
    scene.aborted("tidy", &["the apply bound of 0.50 s was reached; the command ended with exit code 0"]);
}

/// What a command leaves behind belongs to it, in its group or out of it.
#[test]
fn w03_a_command_that_forks_into_the_background() {
    let scene = Scene::new();
    let script = "sh -c 'echo $$ >> \"$dir/pids\"; exec sleep 60' & \
                  setsid sh -c 'echo $$ >> \"$dir/pids\"; trap \"\" TERM; sleep 60; sleep 60' & exit 0";
    let output = scene.apply("fork", &["--apply", "1s"], script).output().unwrap();
    assert!(scene.all_gone() && scene.pids().len() == 2, "{:?}", scene.pids());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    scene.aborted("fork", &["the apply bound of 1.00 s was reached", "what it left behind was killed"]);

    // If that ends by itself, nobody is let go before.
    let script = "setsid sh -c 'sleep 0.5; exec \"$psql\" -Xqc \"ALTER TABLE accounts ADD COLUMN late int\"' & exit 0";
    let output = scene.apply("late", &[], script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(scene.db.has_column("accounts", "late"));
    assert_eq!(scene.proxy.closed("late")["outcome"], "applied");
}

/// What a killed command has asked Postgres for does not go on for long.
#[test]
fn w03_the_statement_of_a_command_that_was_killed_ends_with_it() {
    let scene = Scene::new();
    let sql = "SELECT pg_sleep(30) AS left_behind; ALTER TABLE accounts ADD COLUMN no int";
    let script = format!("trap '' TERM; exec \"$psql\" -Xqc '{sql}'");
    let output = scene.apply("gone", &["--apply", "600ms"], &script).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    eventually("its backend is gone", secs(5), || scene.db.running("left_behind").is_empty());
    assert!(!scene.db.has_column("accounts", "no"));
    scene.aborted("gone", &[]);
}

#[test]
fn an_interrupt_stops_the_command_first() {
    let scene = Scene::new();
    let script = "echo $$ > \"$dir/pids\"; exec sleep 60";
    for (id, signal) in [("int", Signal::SIGINT), ("term", Signal::SIGTERM)] {
        let child = Own::of(&mut scene.apply(id, &["--apply", "20s", "--hold", "30s"], script));
        eventually("the command runs", secs(10), || scene.pids().len() == 1);
        child.signal(signal);
        let output = child.output();
        assert!(scene.all_gone());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        scene.aborted(id, &["interrupted by its operator; the command was ended by SIGTERM"]);
        fs::remove_file(scene.path("pids")).unwrap();
    }
}

/// Killed, it can do nothing any more: the tenure ends the window, and a guard ends the command.
#[test]
fn a_command_line_that_is_killed_takes_the_command_with_it() {
    let scene = Scene::new();
    let script = "echo $$ > \"$dir/pids\"; sleep 60; touch \"$dir/alive\"";
    let child = Own::of(&mut scene.apply("orphan", &["--apply", "20s", "--hold", "30s", "--tenure", "1s"], script));
    eventually("the command runs", secs(10), || scene.pids().len() == 1);
    child.signal(Signal::SIGKILL);
    scene.aborted("orphan", &["tenure over"]);
    eventually("the command is gone", secs(5), || scene.all_gone());
    assert!(!scene.path("alive").exists());
}

#[test]
fn a_command_is_stopped_when_the_window_ends_without_it() {
    let mut scene = Scene::new();
    let script = "echo $$ > \"$dir/pids\"; exec sleep 60";
    let options = ["--apply", "20s", "--hold", "30s"];
    let child = Own::of(&mut scene.apply("other", &options, script));
    eventually("the command runs", secs(10), || scene.pids().len() == 1);
    scene.proxy.admin("WINDOW ABORT other REASON 'too busy'");
    let output = child.output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(scene.all_gone());
    assert!(said(&output).contains("the window ended before the command"), "{}", said(&output));
    scene.aborted("other", &["aborted by the operator: too busy"]);
    fs::remove_file(scene.path("pids")).unwrap();

    let child = Own::of(&mut scene.apply("crash", &options, script));
    eventually("the command runs", secs(10), || scene.pids().len() == 1);
    scene.proxy.kill();
    let output = child.output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(scene.all_gone());
    assert!(said(&output).contains("does not answer any more"), "{}", said(&output));
    scene.proxy.restart();
    let window = until("it is settled", secs(20), || {
        Some(scene.proxy.window("crash")).filter(|window| !window["outcome"].is_empty())
    });
    assert_eq!(window["outcome"], "aborted", "{window:?}");
}

/// What is wrong with the call is said before anybody is held.
#[test]
fn a_command_that_cannot_be_started_holds_nobody() {
    let scene = Scene::new();
    fs::write(scene.path("plain"), "").unwrap();
    let plain = scene.path("plain").to_string_lossy().into_owned();
    for (args, why) in [
        (vec!["--", "no-such-command"], "there is no command no-such-command in PATH; nothing was started"),
        (vec!["--", "/no/such"], "there is no command /no/such"),
        (vec!["--", &plain], "is not an executable file"),
        (vec!["--verify", "SELECT true", "--", "true"], "--verify and --start-within are for SQL"),
        (vec!["--start-within", "1min", "--", "true"], "--verify and --start-within are for SQL"),
        (vec!["-c", "SELECT 1", "--", "true"], "cannot be used with"),
    ] {
        let output = scene.window("never", &args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(why), "{args:?}: {}", said(&output));
    }
    assert!(scene.proxy.admin("SHOW WINDOWS").rows.is_empty());
}

/// Files of the configuration that are named from its own folder are found from wherever the command runs.
#[test]
fn a_command_gets_the_tls_files_of_the_configuration() {
    let db = Db::with(ACCOUNTS);
    let leaf = authority().leaf(&db.user, &[]);
    let spec = Spec::of(&db).server_tls("verify-full").file("own.crt", &leaf.cert).file("own.key", &leaf.key);
    let spec = spec.text("server_tls_cert_file", "own.crt").text("server_tls_key_file", "own.key");
    let scene = Scene { db, proxy: spec.pool(5).start(), dir: tempfile::tempdir().unwrap() };
    let script = "\"$psql\" -XAtqc 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()' && \
                  ls \"$PGSSLROOTCERT\" \"$PGSSLCERT\" \"$PGSSLKEY\"";
    let output = scene.apply("sealed", &[], script).current_dir(scene.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let files = ["server-ca.crt", "own.crt", "own.key"].map(|name| scene.proxy.dir().join(name).display().to_string());
    let mut listed: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(listed.remove(0), "t");
    assert!(files.iter().all(|file| listed.contains(file)), "{listed:?}");
}
