//! The command line as its users meet it: exit codes, JSON, remedies, completions, and `pglull top` on a terminal of its own.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::support::load::ACCOUNTS;
use crate::support::own::Own;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary, free_port};
use crate::support::terminal::{Terminal, command};
use crate::support::wait::{eventually, secs};

fn run(proxy: &Proxy, arguments: &[&str]) -> Output {
    command(proxy, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn exit_codes_are_as_documented() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let name = db.name.as_str();
    for (arguments, code) in [
        (&["window", "apply", name, "--id", "good", "-c", "CREATE TABLE made()"][..], 0),
        (&["window", "apply", name, "--id", "good", "-c", "CREATE TABLE made()"], 0),
        (&["window", "apply", name, "-c", "SELECT 1/0"], 1),
        (&["window", "apply", name, "-c", "VACUUM"], 1),
        (&["window", "apply", name, "-c", "SELECT 1", "--verify", "SELECT false"], 1),
        (&["window", "apply", name, "-c", " "], 2),
        (&["window", "apply", name, "/no/such/file.sql"], 2),
        (&["window", "apply", "no such database", "-c", "SELECT 1"], 1),
        (&["window", "rehearse", name], 0),
        (&["window", "rehearse", name, "-c", "VACUUM"], 1),
        (&["window", "rehearse", name, "--start-within", "1s"], 2),
        (&["window", "open", name, "--start-within", "1s"], 2),
        (&["window", "show", "nothing"], 1),
        (&["window", "abort", "nothing"], 1),
        (&["window", "list"], 0),
        (&["admin", "SHOW POOLS"], 0),
        (&["admin", "SHOW NONSENSE"], 1),
        (&["top", "--once"], 0),
        (&["top", "--once", "--sort", "colour"], 2),
        (&["top"], 2),
        (&["completions", "bash"], 0),
        (&["completions", "tcsh"], 2),
        (&["man"], 0),
        (&["nonsense"], 2),
    ] {
        let output = run(&proxy, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).is_empty(), "{arguments:?}: says nothing");
    }
    let help = said(&binary().arg("--help").output().unwrap());
    assert!(help.contains("Exit codes:") && help.contains("0  done"), "{help}");
}

#[test]
fn json_is_json_everywhere() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    let mut wire = proxy.client().login();
    wire.ok("SELECT 1");
    let name = db.name.as_str();
    let json = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = run(&proxy, &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        let lines = text(&output.stdout);
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{arguments:?}: {line}")))
            .collect()
    };
    let receipt = json(&["window", "apply", name, "--id", "one", "-c", "CREATE TABLE made()"]);
    assert_eq!((receipt[0]["outcome"].as_str(), receipt[0]["id"].as_str()), (Some("applied"), Some("one")));
    let token = json(&["window", "open", name, "--id", "two"])[0]["token"].as_str().unwrap().to_owned();
    assert_eq!(json(&["window", "show", "two"])[0]["phase"], "holding");
    json(&["window", "renew", "two", "--token", &token]);
    assert_eq!(json(&["top"])[0]["windows"][1]["id"], "two");
    json(&["window", "close", "two", "--token", &token]);
    json(&["window", "open", name, "--id", "three"]);
    assert_eq!(json(&["window", "abort", "three"])[0]["outcome"], "aborted");
    assert_eq!(json(&["window", "list"]).len(), 3);
    assert_eq!(json(&["window", "show", "one"])[0]["outcome"], "applied");
    assert!(!json(&["window", "rehearse", name]).is_empty());
    wire.ok("BEGIN");
    assert_eq!(json(&["window", "blockers"])[0]["state"], "idle in transaction");
    assert!(json(&["admin", "SHOW POOLS"]).iter().any(|pool| pool["database"] == name));
    let top = &json(&["top"])[0];
    assert!(top["pools"].is_array() && top["stats"].is_array() && top["servers"].is_array());
    assert!(top["clients"].as_array().unwrap().iter().any(|client| client["database"] == name), "{top}");

    let file = proxy.dir().join("pglull.toml");
    assert_eq!(json(&["check", &file.to_string_lossy()])[0]["ok"], true);
    let bad = proxy.dir().join("bad.toml");
    std::fs::write(&bad, "[pglull]\ncolour = 1\n").unwrap();
    let output = run(&proxy, &["check", "--json", &bad.to_string_lossy()]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &object["ok"]), (Some(2), &false.into()));
    assert!(object["mistakes"].as_array().unwrap().iter().any(|mistake| mistake["line"] == 2), "{object}");
}

/// In a pipe there is nothing but text; in a terminal there is nothing that was not asked for.
#[test]
fn a_pipe_gets_no_escape_codes() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).start();
    for arguments in [
        &["window", "apply", &db.name, "-c", "CREATE TABLE made()"][..],
        &["window", "list"],
        &["top", "--once"],
        &["top", "windows", "--once", "--filter", "applied"],
    ] {
        let output = command(&proxy, arguments).env("TERM", "xterm").output().unwrap();
        assert!(output.status.success() && !said(&output).contains('\x1b'), "{arguments:?}: {}", said(&output));
    }
    let output = run(&proxy, &["window", "apply", &db.name, "-c", "CREATE TABLE more()"]);
    assert!(text(&output.stderr).contains("nobody had to wait, nobody was disconnected"), "{}", said(&output));
}

/// What goes wrong, and words of its remedy.
#[test]
fn a_mistake_is_a_sentence_with_its_remedy() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let dir = proxy.dir();
    let file = |name: &str, lines: &str| {
        let path = dir.join(name);
        std::fs::write(
            &path,
            format!("[pglull]\nauth_type = \"trust\"\n{lines}\n[databases.x]\nhost = \"127.0.0.1\"\n"),
        )
        .unwrap();
        path.to_string_lossy().into_owned()
    };
    let says = |arguments: &[&str], words: &[&str]| {
        let output = run(&proxy, arguments);
        let all = said(&output);
        assert!(!output.status.success(), "{arguments:?}: {all}");
        assert!(words.iter().all(|word| all.contains(word)), "{arguments:?}: {words:?}: {all}");
    };
    let (port, admin) = (proxy.port, proxy.console_dir().join(format!(".s.PGSQL.{}", proxy.port)));
    says(
        &["window", "list", "--socket", "/no/such"],
        &["cannot reach the console at /no/such", "is pglull running?", "--socket"],
    );
    says(&["window", "list", "--url", &format!("127.0.0.1:{}", free_port())], &["is pglull running?"]);
    says(&["window", "list", "--url", "nonsense"], &["--url takes HOST:PORT"]);
    says(
        &["window", "list", "--url", &format!("127.0.0.1:{port}"), "--user", "nobody"],
        &["admin_users", "PGPASSWORD"],
    );
    says(&["window", "show", "none"], &["no such window: none", "SHOW WINDOWS lists them"]);
    says(&["window", "apply", "none", "-c", "SELECT 1"], &["no such database: none", "SHOW DATABASES lists them"]);
    proxy.open("held", "");
    says(&["window", "close", "held", "--token", "wrong"], &["wrong token", "WINDOW ABORT held ends the window"]);
    says(&["window", "apply", &db.name, "-c", "SELECT 1"], &["is in window held"]);
    proxy.admin("WINDOW ABORT held");
    says(&["window", "close", "held", "--token", "wrong"], &["held"]);

    says(&["check", "/no/such.toml"], &["/no/such.toml", "is the path right?"]);
    says(&["check", &file("a", "auth_file = \"gone\"")], &["auth_file", "gone", "is the path right?"]);
    says(&["check", &file("b", "colour = 1")], &[":3: colour", "reference.toml"]);
    says(&["check", &file("c", "listen_prot = 1")], &["perhaps `listen_port`"]);
    says(&["check", "/tmp"], &["name a file in it"]);
    let busy = format!("listen_port = {port}\nmetrics_addr = \"\"");
    says(&["run", &file("d", &busy)], &["cannot listen on 127.0.0.1", "choose another port"]);
    let busy = format!("listen_port = {}\nmetrics_addr = \"127.0.0.1:{}\"", free_port(), proxy.metrics);
    says(&["run", &file("e", &busy)], &["cannot listen on metrics_addr", "choose another port"]);
    let there = format!("listen_port = {}\nmetrics_addr = \"\"\nadmin_socket = {admin:?}", free_port());
    says(&["run", &file("f", &there)], &["another process serves it"]);
    let nowhere = format!("listen_port = {}\nmetrics_addr = \"\"\nadmin_socket = \"/no/such/folder\"", free_port());
    says(&["run", &file("g", &nowhere)], &["the folder of a socket must be there"]);
    let other = format!("listen_addr = \"192.0.2.1\"\nlisten_port = {}\nmetrics_addr = \"\"", free_port());
    says(&["run", &file("h", &other)], &["this machine has no such address"]);

    // A secret that everybody can read is said, and does not stop anything.
    let secret = file("s", "");
    std::fs::write(
        &secret,
        "[pglull]\nauth_type = \"trust\"\n[databases.x]\nhost = \"127.0.0.1\"\npassword = \"geheim\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(&proxy, &["check", &secret]);
    assert!(
        output.status.success() && said(&output).contains("can be read by everybody: chmod o-rwx"),
        "{}",
        said(&output)
    );
    assert!(!said(&output).contains("geheim"));
    if !Uid::current().is_root() {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
        says(&["check", &secret], &["Permission denied", "readable for the user that runs pglull"]);
    }
}

/// Postgres may come later than we: clients are told, the operator's side answers, and nobody has to do anything.
#[test]
fn the_order_of_start_does_not_matter() {
    let mut own = Own::start();
    own.proxy.kill();
    own.cluster.halt();
    own.proxy.restart();
    let (status, body) = own.proxy.http("/");
    assert!(status.contains("200") && body.contains("pglull"), "{status}");
    let output = run(&own.proxy, &["top", "--once"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = run(&own.proxy, &["window", "apply", &own.db.name, "-c", "SELECT 1"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("refused"), "{}", said(&output));
    let port = own.cluster.port();
    own.cluster.start_again(port).unwrap();
    own.serves_again();
}

#[test]
fn bash_completes() {
    if Command::new("bash").arg("--version").output().is_err() {
        return;
    }
    let script = binary().args(["completions", "bash"]).output().unwrap();
    let complete = |words: &str, at: usize| {
        let mut child =
            Command::new("bash").arg("--norc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let last = words.split(' ').next_back().unwrap();
        let ask =
            format!("\nCOMP_WORDS=({words})\nCOMP_CWORD={at}\n_pglull pglull '{last}' x\necho \"${{COMPREPLY[@]}}\"\n");
        let input = text(&script.stdout) + &ask;
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        text(&child.wait_with_output().unwrap().stdout)
    };
    assert!(complete("pglull wi", 1).contains("window"));
    let verbs = complete("pglull window re", 2);
    assert!(verbs.contains("rehearse") && verbs.contains("renew"), "{verbs}");
    assert!(complete("pglull window apply --str", 3).contains("--stragglers"));
}

#[test]
fn top_shows_what_moves_and_gives_the_terminal_back() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).start();
    let mut wire = proxy.client().app("web-7").login();
    wire.ok("SELECT 1");
    let mut top = Terminal::start(command(&proxy, &["top", "--every", "0.2"]));
    top.shows(&db.name);
    top.shows("[1 pools]");
    assert!(!top.is_usual(), "keys are read as they are typed");
    top.type_in("2");
    top.shows("web-7");
    top.type_in("/nobody\r");
    top.shows("nothing with this text");
    top.type_in("\x1b");
    top.shows("web-7");
    top.type_in("?");
    top.shows("It only looks");
    top.type_in("?4");
    proxy.open("w-9", "hold='30s'");
    top.shows("window w-9 on");
    top.shows("left");
    for line in top.seen().split("\x1b[H").flat_map(|frame| frame.split("\r\n")) {
        // Without the codes: from the escape to its letter.
        let mut codes = line.split('\x1b');
        let mut plain = codes.next().unwrap().to_owned();
        let letters =
            |part: &str| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or("").to_owned();
        codes.for_each(|part| plain.push_str(&letters(part)));
        assert!(plain.chars().count() <= 80, "{plain}");
    }
    proxy.admin("WINDOW ABORT w-9");

    // The proxy goes and comes back.
    proxy.kill();
    top.shows("cannot connect, trying again");
    proxy.restart();
    top.type_in("1");
    eventually("it has connected again", secs(20), || {
        let seen = top.seen();
        let last = seen.rsplit("\x1b[H").find(|frame| frame.contains("\x1b[J")).unwrap_or_default().to_owned();
        last.contains("[1 pools]") && !last.contains("cannot connect")
    });
    top.type_in("q");
    assert_eq!(top.ends(), Some(0));
}

#[test]
fn top_ends_by_ctrl_c_and_by_signals() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let start = || {
        let top = Terminal::start(command(&proxy, &["top", "windows"]));
        top.shows("[4 windows]");
        top
    };
    let mut top = start();
    top.type_in("\x03");
    assert_eq!(top.ends(), Some(0));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut top = start();
        kill(Pid::from_raw(i32::try_from(top.child.0.id()).unwrap()), signal).unwrap();
        assert_eq!(top.ends(), Some(0), "{signal}");
    }
    // Nobody is there: it says so and goes on trying.
    let mut alone = binary();
    alone.args(["top", "--socket", "/no/such/socket"]).env("NO_COLOR", "1");
    let mut top = Terminal::start(alone);
    top.shows("cannot connect, trying again: cannot reach the console at /no/such/socket");
    assert!(!top.seen().contains("\x1b[1"), "NO_COLOR: {:?}", top.seen());
    top.type_in("q");
    assert_eq!(top.ends(), Some(0));
}
