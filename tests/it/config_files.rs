//! What the binary does with the files that it is given, before it starts anything.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;

use crate::support::proxy::{binary, free_port};

fn run(command: &str, file: &Path) -> Output {
    binary().arg(command).arg(file).output().unwrap()
}

fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Wants a line of the report that names the place and the key.
fn names(report: &str, file: &str, line: usize, key: &str) {
    let place = format!("{file}:{line}");
    let found = report.lines().any(|text| {
        let Some((_, rest)) = text.split_once(&place) else {
            return false;
        };
        !rest.starts_with(|next: char| next.is_ascii_digit()) && rest.contains(key)
    });
    assert!(found, "no mistake at {place} about {key} in:\n{report}");
}

#[test]
fn check_reports_all_mistakes_at_once_and_run_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let admin = dir.path().join("admin.sock");
    let config = format!(
        "[pglull]\n\
         listen_addr = \"127.0.0.1\"\n\
         listen_port = {port}\n\
         admin_socket = {admin:?}\n\
         metrics_addr = \"\"\n\
         auth_type = \"trusty\"\n\
         pool_mode = \"pinned\"\n\
         default_pool_size = \"many\"\n\
         query_wait_timeout = \"12 parsecs\"\n\
         no_such_key = 1\n\
         max_client_conn = -5\n\
         \n\
         [pglull.window]\n\
         drain = \"soon\"\n\
         stragglers = \"beg\"\n\
         \n\
         [databases.bench]\n\
         host = \"127.0.0.1\"\n\
         port = 70000\n\
         pool_mod = \"session\"\n"
    );
    let file = dir.path().join("bad.toml");
    fs::write(&file, config).unwrap();
    for command in ["check", "run"] {
        let output = run(command, &file);
        let report = text(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {report}");
        for (line, key) in [
            (6, "auth_type"),
            (7, "pool_mode"),
            (8, "default_pool_size"),
            (9, "query_wait_timeout"),
            (10, "no_such_key"),
            (11, "max_client_conn"),
            (14, "drain"),
            (15, "stragglers"),
            (19, "port"),
            (20, "pool_mod"),
        ] {
            names(&report, "bad.toml", line, key);
        }
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "something listens");
        assert!(!admin.exists(), "the admin socket was made");
    }
}

#[test]
fn mistakes_of_the_user_list_are_reported_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    fs::write(dir.path().join("users.txt"), "\"good\" \"pw\"\n\"no secret\nnonsense\n").unwrap();
    fs::write(&file, "[pglull]\nauth_file = \"users.txt\"\n[databases.x]\nhost = \"127.0.0.1\"\n").unwrap();
    let output = run("check", &file);
    let report = text(&output);
    assert_eq!(output.status.code(), Some(2), "{report}");
    names(&report, "users.txt", 2, "");
    names(&report, "users.txt", 3, "");
    assert!(!report.contains("\"pw\""), "a secret in a report: {report}");
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere.toml");
    let output = run("check", &nowhere);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("nowhere.toml"));

    let binary_file = dir.path().join("b.toml");
    fs::write(&binary_file, [0xff, 0xfe, 0, 1, 2]).unwrap();
    assert_eq!(run("check", &binary_file).status.code(), Some(2));

    let broken = dir.path().join("c.toml");
    fs::write(&broken, "[pglull]\nlisten_port = 1\n\nlisten_addr = \"unclosed\n").unwrap();
    let output = run("check", &broken);
    assert_eq!(output.status.code(), Some(2));
    names(&text(&output), "c.toml", 4, "");
}

#[test]
fn a_good_toml_file_and_a_good_ini_file_pass() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("userlist.txt"), "\"app\" \"pw\"\n").unwrap();
    let toml = dir.path().join("good.toml");
    fs::write(&toml, "[pglull]\nauth_file = \"userlist.txt\"\npool_mode = \"transaction\"\n[pglull.window]\ndrain = \"500ms\"\n[databases.\"*\"]\nhost = \"127.0.0.1\"\n").unwrap();
    let ini = dir.path().join("pgbouncer.ini");
    fs::write(&ini, ";; comment\n[databases]\nbench = host=127.0.0.1 port=5433 dbname=bench\n* = host=127.0.0.1\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 6432\nauth_type = md5\nauth_file = userlist.txt\npool_mode = transaction\nquery_wait_timeout = 120\n").unwrap();
    for file in [toml, ini] {
        let output = run("check", &file);
        assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), text(&output));
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [&["frobnicate"][..], &["run"], &["check"], &["window", "apply"], &["--no-such-option"]] {
        let output = binary().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
    assert!(binary().arg("--help").output().unwrap().status.success());
    assert!(binary().arg("--version").output().unwrap().status.success());
}
