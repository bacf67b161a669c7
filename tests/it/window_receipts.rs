//! Receipts outlive the process, and a window whose record cannot be written does not start.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};
use crate::support::wait::{secs, until};

const COUNT: &str = "UPDATE accounts SET n = n + 1 WHERE id = 1";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

fn records(proxy: &Proxy) -> Vec<PathBuf> {
    let files = fs::read_dir(proxy.dir().join("state")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "record")).collect();
    files.sort();
    files
}

#[test]
fn receipts_are_there_after_a_restart_as_they_were_before() {
    let (_db, mut proxy) = scene();
    let open = proxy.open("held", "");
    let mut wire = proxy.client().login();
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    proxy.close("held", &open["token"]);
    wire.finish().unwrap();
    proxy.apply("good", "", COUNT).finish().unwrap();
    proxy.apply("good", "", COUNT).finish().unwrap();
    proxy.apply("bad", "", "SELECT 1/0").finish().unwrap_err();
    proxy.apply("refused", "", "VACUUM").finish().unwrap_err();
    proxy.admin("PAUSE");
    proxy.admin("RESUME");
    let windows = proxy.admin("SHOW WINDOWS").maps();
    let shown = ["held", "good", "bad", "refused"].map(|id| proxy.window(id));
    let outcomes: Vec<_> = windows.iter().map(|row| row["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["applied", "applied", "already_applied", "aborted", "refused", "resumed"]);
    proxy.kill();
    proxy.restart();
    assert_eq!(proxy.admin("SHOW WINDOWS").maps(), windows);
    for before in shown {
        assert_eq!(proxy.window(&before["id"]), before);
    }
    let error = proxy.admin_err(&format!("WINDOW CLOSE held TOKEN '{}'", open["token"]));
    assert!(error.message.contains("has ended: applied"), "{error}");
    let receipt: serde_json::Value = serde_json::from_str(&proxy.window("held")["receipt"]).unwrap();
    let phases: Vec<_> = receipt["edges"].as_array().unwrap().iter().map(|edge| edge["phase"].clone()).collect();
    let way = ["preflight", "recording", "draining", "holding", "healing", "releasing", "closed"];
    assert_eq!(phases, way, "{receipt}");
    let stalled: u64 = receipt["stalls"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap()).sum();
    assert_eq!(stalled, 1, "{receipt}");
    assert!(receipt["samples"].as_array().unwrap().iter().any(|sample| sample["held"] == 1), "{receipt}");
    // They are for us alone.
    use std::os::unix::fs::PermissionsExt as _;
    for path in records(&proxy) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn only_so_many_receipts_are_kept() {
    let (_db, mut proxy) = scene();
    let mut wire = proxy.console().login();
    wire.query(&proxy.apply_text("first", "", "VACUUM")).unwrap_err();
    for _ in 0..205 {
        wire.query(&proxy.apply_text("many", "", "VACUUM")).unwrap_err();
    }
    let rows = proxy.admin("SHOW WINDOWS").maps();
    assert_eq!((rows.len(), rows[0]["id"].as_str()), (200, "first"), "tries that failed go before those of others");
    until("the files of the others are gone", secs(5), || (records(&proxy).len() == 200).then_some(()));
    // One of long ago goes at the next start.
    let newest = records(&proxy).pop().unwrap();
    let text = fs::read_to_string(&newest).unwrap();
    fs::write(proxy.dir().join("state/20200101T000000.000Z-old.record"), text).unwrap();
    proxy.kill();
    proxy.restart();
    until("it is gone", secs(5), || (records(&proxy).len() <= 200).then_some(()));
    assert!(records(&proxy)[0].to_string_lossy().contains("first"));
}

#[test]
fn a_window_whose_record_cannot_be_written_does_not_start() {
    let (db, proxy) = scene();
    let state = proxy.dir().join("state");
    let aside = proxy.dir().join("aside");
    fs::rename(&state, &aside).unwrap();
    let error = proxy.apply("lost", "", COUNT).finish().unwrap_err().db();
    assert_eq!(error.code, "55000", "{error}");
    assert!(error.message.contains("record cannot be written to state_dir"), "{error}");
    assert!(error.message.contains("No such file or directory"), "{error}");
    assert_eq!(proxy.closed("lost")["outcome"], "refused");
    proxy.admin_err(&format!("WINDOW OPEN {} WITH (id='hand')", db.name));
    assert_eq!(proxy.window("hand")["outcome"], "refused");
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), "0");
    // A PAUSE changes nothing that would have to be decided after a crash: it works.
    proxy.admin("PAUSE");
    proxy.admin("RESUME");
    proxy.still_serves();
    fs::rename(&aside, &state).unwrap();
    proxy.apply("lost", "", COUNT).finish().unwrap();
}

#[test]
fn a_record_that_is_damaged_is_said_and_hinders_nobody() {
    let (db, mut proxy) = scene();
    proxy.apply("whole", "", COUNT).finish().unwrap();
    proxy.apply("torn", "", COUNT).finish().unwrap();
    proxy.kill();
    let torn = records(&proxy).pop().unwrap();
    let text = fs::read_to_string(&torn).unwrap();
    fs::write(&torn, &text[..text.len() / 2]).unwrap();
    proxy.restart();
    let rows = proxy.admin("SHOW WINDOWS").maps();
    let of = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap().clone();
    assert_eq!(of("whole")["outcome"], "applied");
    assert_eq!(of("torn")["outcome"], "unknown");
    assert!(of("torn")["reason"].contains("it is damaged"), "{rows:?}");
    assert!(proxy.log().contains("a record cannot be read"), "the log does not say it");
    // What it was is known to the database all the same.
    assert_eq!(proxy.apply("torn", "", COUNT).finish().unwrap().maps()[0]["outcome"], "already_applied");
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), "2");
}

/// What a start with this configuration says before it ends.
fn start_fails(proxy: &Proxy, change: impl FnOnce(&str) -> String) -> String {
    let text = fs::read_to_string(proxy.dir().join("pglull.toml")).unwrap();
    let (port, metrics) = (proxy.port, proxy.metrics);
    let (free, other) = (crate::support::proxy::free_port(), crate::support::proxy::free_port());
    let text = change(&text).replace(&format!("listen_port = {port}"), &format!("listen_port = {free}"));
    let text = text.replace(&format!("127.0.0.1:{metrics}"), &format!("127.0.0.1:{other}"));
    let text = text.replace("/admin/", "/admin/other-");
    let file = proxy.dir().join("other.toml");
    fs::write(&file, text).unwrap();
    let child =
        binary().arg("run").arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let status = until("the start fails", secs(10), || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_state_dir_that_cannot_be_used_is_known_at_the_start() {
    let (_db, proxy) = scene();
    let said = start_fails(&proxy, str::to_owned);
    assert!(said.contains("belongs to another pglull that runs"), "{said}");
    let said = start_fails(&proxy, |text| text.replace("/state\"", "/log\""));
    assert!(said.contains("cannot make the folder"), "{said}");
    proxy.still_serves();
}

/// The text nodes of a drawing; fails where it is no XML: tags nest, attributes are quoted, nothing is bare.
fn texts_of_xml(text: &str) -> Vec<String> {
    let (mut open, mut texts, mut rest) = (vec![], vec![], text.trim());
    while let Some((before, tail)) = rest.split_once('<') {
        let (tag, after) = tail.split_once('>').expect("a tag ends");
        for entity in before.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#"];
            assert!(known.iter().any(|name| entity.starts_with(name)), "a bare & in {before}");
        }
        if !before.trim().is_empty() {
            assert!(!open.is_empty(), "text outside: {before}");
            texts.push(before.trim().to_owned());
        }
        rest = after;
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.to_owned()), "in {text}");
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert_eq!(tag.matches("=\"").count() * 2, tag.matches('"').count(), "{tag}");
        if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap().to_owned());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}, {rest}");
    texts
}

#[test]
fn a_receipt_is_drawn_as_svg() {
    let (_db, proxy) = scene();
    let mut command = binary();
    command.args(["window", "show", "drawn", "--svg", "--socket"]);
    command.arg(proxy.console_dir().join(format!(".s.PGSQL.{}", proxy.port)));
    proxy.open("drawn", "");
    let mut wire = proxy.client().login();
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "there is no receipt yet");
    proxy.admin("WINDOW ABORT drawn REASON '<b> & \"quoted\"'");
    wire.finish().unwrap();
    proxy.closed("drawn");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let svg = String::from_utf8(output.stdout).unwrap();
    assert!(svg.trim_start().starts_with("<svg") || svg.trim_start().starts_with("<?xml"), "{svg}");
    let texts = texts_of_xml(&svg).join("\n");
    for expect in ["drawn", "preflight", "draining", "holding", "releasing", "aborted"] {
        assert!(texts.contains(expect), "{expect}: {texts}");
    }
}

/// The window closes 5 s after its gate has opened, whoever still waits for a server.
#[test]
fn who_still_waits_at_the_end_counts_with_its_stall_so_far() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(1).start();
    let open = proxy.open("long", "");
    let [mut first, mut second] = [proxy.client().login(), proxy.client().login()];
    first.start("BEGIN").unwrap();
    proxy.until_held(1);
    second.start("SELECT 'served'").unwrap();
    proxy.until_held(2);
    proxy.close("long", &open["token"]);
    first.finish().unwrap();
    let closed = proxy.closed("long");
    first.ok("COMMIT");
    assert_eq!(second.finish().unwrap().one(), "served");
    assert_eq!((closed["released"].as_str(), closed["held_now"].as_str()), ("1", "1"));
    let number = |key: &str| closed[key].parse::<u64>().unwrap();
    assert!(number("stall_max_ms") >= number("release_ms") && number("release_ms") >= 5000, "{closed:?}");
    assert_eq!(number("stall_p99_ms"), number("stall_max_ms"));
    let receipt: serde_json::Value = serde_json::from_str(&closed["receipt"]).unwrap();
    let stalled: u64 = receipt["stalls"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap()).sum();
    assert_eq!(stalled, 2, "{receipt}");
}
