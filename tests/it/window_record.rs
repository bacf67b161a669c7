//! The record of a window cannot be written: not at the start, not in the change, not at the end; or its disk hangs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::time::Instant;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};

const COUNT: &str = "UPDATE accounts SET n = n + 1 WHERE id = 1";

struct Scene {
    db: Db,
    proxy: Proxy,
}

impl Scene {
    fn new(change: impl FnOnce(Spec) -> Spec) -> Self {
        let db = Db::with(ACCOUNTS);
        let proxy = change(Spec::of(&db).pool(3)).start();
        Self { db, proxy }
    }

    /// What a record is written to before it takes its name.
    fn file(&self) -> PathBuf {
        self.proxy.dir().join("state/record.new")
    }

    /// The next writing finds a disk that is full.
    fn disk_is_full(&self) {
        symlink("/dev/full", self.file()).unwrap();
    }

    /// The next writing does not come to an end.
    fn disk_hangs(&self) {
        mkfifo(&self.file(), Mode::S_IRWXU).unwrap();
    }

    fn times(&self) -> String {
        self.db.one("SELECT n FROM accounts WHERE id = 1")
    }

    fn goes_on(&self, id: &str) {
        self.proxy.still_serves();
        assert_eq!(self.proxy.held(), 0);
        let row = self.proxy.apply(id, "", COUNT).finish().unwrap().maps().remove(0);
        assert_eq!((row["outcome"].as_str(), self.times().as_str()), ("applied", "1"));
    }
}

#[test]
fn w30_a_disk_that_is_full_at_the_start() {
    let scene = Scene::new(|spec| spec);
    scene.disk_is_full();
    let error = scene.proxy.apply("full", "", COUNT).finish().unwrap_err().db();
    assert!(error.message.contains("record cannot be written") && error.message.contains("No space left"), "{error}");
    let window = scene.proxy.closed("full");
    assert_eq!((window["outcome"].as_str(), window["held_total"].as_str()), ("refused", "0"), "{window:?}");
    scene.goes_on("full");
}

/// Without a change table the transaction is recorded in the change, before anything is done in it.
#[test]
fn w30_a_disk_that_is_full_in_the_change() {
    let mut scene = Scene::new(|spec| spec.window("change_table", ""));
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN");
    let mut window = scene.proxy.apply("full", "drain='10s'", COUNT);
    scene.proxy.until_phase("full", "draining");
    let mut held = scene.proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    scene.proxy.until_held(1);
    scene.disk_is_full();
    open.ok("COMMIT");
    let error = window.finish().unwrap_err().db();
    assert!(error.message.contains("record cannot be written") && error.message.contains("No space left"), "{error}");
    assert_eq!(scene.proxy.closed("full")["outcome"], "aborted");
    assert_eq!(held.finish().unwrap().one(), "served");
    assert_eq!(scene.times(), "0");
    open.close();
    scene.goes_on("next");
    // The record of it is complete.
    scene.proxy.kill();
    scene.proxy.restart();
    assert_eq!(scene.proxy.window("full")["outcome"], "aborted");
    assert_eq!(scene.proxy.window("next")["outcome"], "applied");
}

/// The change is committed, and only its receipt is lost: the operator is told what happened, and the next process finds it out.
#[test]
fn w30_a_disk_that_is_full_at_the_end() {
    let mut scene = Scene::new(|spec| spec);
    let mut window = scene.proxy.apply("full", "", &format!("{COUNT}; SELECT pg_sleep(0.3)"));
    scene.proxy.until_phase("full", "applying");
    scene.disk_is_full();
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(scene.proxy.closed("full")["outcome"], "applied");
    assert!(scene.proxy.log().contains("No space left"), "the log does not say it");
    scene.proxy.still_serves();
    scene.proxy.kill();
    scene.proxy.restart();
    eventually("it is known", secs(10), || scene.proxy.window("full")["outcome"] == "applied");
    let again = scene.proxy.apply("full", "", &format!("{COUNT}; SELECT pg_sleep(0.3)")).finish().unwrap();
    assert_eq!((again.maps()[0]["outcome"].as_str(), scene.times().as_str()), ("already_applied", "1"));
}

/// Nothing was begun: the next process knows of no window.
#[test]
fn w30_killed_while_recording() {
    let mut scene = Scene::new(|spec| spec);
    scene.disk_hangs();
    let _window = scene.proxy.apply("killed", "", COUNT);
    scene.proxy.until_phase("killed", "recording");
    scene.proxy.still_serves();
    scene.proxy.kill();
    fs::remove_file(scene.file()).unwrap();
    scene.proxy.restart();
    assert_eq!(scene.proxy.admin("SHOW WINDOWS").rows.len(), 0);
    scene.goes_on("killed");
}

/// Nobody is held for it, an operator can end it, and so can a signal the process.
#[test]
fn w30_a_disk_that_hangs_keeps_nobody() {
    let mut scene = Scene::new(|spec| spec);
    scene.disk_hangs();
    let mut window = scene.proxy.apply("hangs", "", COUNT);
    scene.proxy.until_phase("hangs", "recording");
    scene.proxy.still_serves();
    assert_eq!(scene.proxy.held(), 0);
    let began = Instant::now();
    scene.proxy.admin("WINDOW ABORT hangs");
    window.finish().unwrap_err();
    assert_eq!(scene.proxy.closed("hangs")["outcome"], "aborted");
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    assert_eq!(scene.times(), "0");
    let began = Instant::now();
    scene.proxy.signal(Signal::SIGTERM);
    let status = scene.proxy.ended(secs(15));
    println!("{status} after {:?}", began.elapsed());
    assert!(status.success() && began.elapsed() > ms(0), "{status}");
}
