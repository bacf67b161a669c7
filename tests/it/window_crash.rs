//! `kill -9` of the proxy at each point of a window, before and after each effect: the next process decides from the
//! database what became of the change, serves at once, and never applies twice.

use crate::support::between::{Between, Catch, Fate};
use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs, until};

const COUNT: &str = "UPDATE accounts SET n = n + 1 WHERE id = 1";
/// Bounds that end nothing by themselves.
const PATIENT: &str = "drain='60s', apply='60s', hold='90s', tenure='90s'";
/// The whole message but its type, which no other of ours ends with.
const COMMIT: &str = "\0\0\0\x0bCOMMIT\0";

struct Scene {
    db: Db,
    between: Between,
    proxy: Proxy,
}

impl Scene {
    fn new(change: impl FnOnce(Spec) -> Spec) -> Self {
        let (db, between) = (Db::with(ACCOUNTS), Between::start());
        let spec = Spec::of(&db).text("server_tls_sslmode", "disable");
        let proxy = change(spec.entry(&db, "port", &between.port.to_string())).start();
        Self { db, between, proxy }
    }

    fn times(&self) -> String {
        self.db.one("SELECT n FROM accounts WHERE id = 1")
    }

    /// Starts the proxy again. It serves at once, decides rightly, and applies what is not applied when asked again.
    fn decides(&mut self, what: &str) -> String {
        self.proxy.restart();
        let mut wire = self.proxy.client().login();
        wire.limit(secs(5));
        assert_eq!(wire.one("SELECT 'served'"), "served", "{what}");
        let window = self.closed("crash");
        let applied = self.times();
        assert_eq!(window["outcome"], if applied == "1" { "applied" } else { "aborted" }, "{what}: {window:?}");
        assert!(window["reason"].starts_with("proxy restarted"), "{what}: {window:?}");
        assert_eq!(window["form"], "apply");
        eventually("its backend has gone", secs(5), || {
            self.db.one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pglull window crash'") == "0"
        });
        let again = self.proxy.apply("crash", "", COUNT).finish().unwrap().maps().remove(0);
        let expected = if applied == "1" { "already_applied" } else { "applied" };
        assert_eq!((again["outcome"].as_str(), self.times().as_str()), (expected, "1"), "{what}");
        window["outcome"].clone()
    }

    fn closed(&self, id: &str) -> std::collections::BTreeMap<String, String> {
        until("its outcome is known", secs(20), || Some(self.proxy.window(id)).filter(|w| !w["outcome"].is_empty()))
    }
}

/// Each message that the proxy sends on the connection of the change, just before and just after Postgres has it. What was
/// on its way when the proxy died arrives, or does not, before or after the next process looks.
#[test]
fn killed_before_and_after_each_message_of_the_change() {
    let messages = ["INSERT INTO \"pglull\"", COUNT, "verify me", "RESET SESSION AUTHORIZATION", COMMIT];
    for text in messages {
        for catch in [Catch::Before, Catch::After] {
            for arrives in [None, Some(Fate::GoesOn), Some(Fate::IsLost)] {
                let what = format!("{catch:?} {text:?}, then {arrives:?}");
                let mut scene = Scene::new(|spec| spec);
                scene.proxy.admin("SHOW VERSION");
                scene.between.trap(text, catch);
                let with = format!("{PATIENT}, verify='SELECT n = 1 /* verify me */ FROM accounts WHERE id = 1'");
                let window = scene.proxy.apply("crash", &with, COUNT);
                scene.between.caught();
                assert_eq!(scene.proxy.window("crash")["phase"], "applying", "{what}");
                scene.proxy.kill();
                drop(window);
                match arrives {
                    Some(fate) => scene.between.fate(fate),
                    None => scene.between.sated(),
                }
                let outcome = scene.decides(&what);
                // What Postgres had when the proxy died counts; so does what reached it before anybody looked.
                let commits = text == COMMIT && (catch == Catch::After || arrives == Some(Fate::GoesOn));
                if arrives != Some(Fate::GoesOn) || text != COMMIT || catch == Catch::After {
                    assert_eq!(outcome == "applied", commits, "{what}");
                }
                scene.between.fate(Fate::GoesOn);
                assert_eq!(scene.times(), "1", "{what}: what was caught arrived late");
            }
        }
    }
}

#[test]
fn killed_in_preflight_leaves_nothing() {
    for (text, catch) in [("SET application_name", Catch::After), ("CREATE TABLE IF NOT EXISTS", Catch::Before)] {
        let mut scene = Scene::new(|spec| spec);
        scene.between.trap(text, catch);
        let _window = scene.proxy.apply("crash", PATIENT, COUNT);
        scene.between.caught();
        assert_eq!(scene.proxy.window("crash")["phase"], "preflight");
        scene.proxy.kill();
        scene.between.fate(Fate::IsLost);
        scene.proxy.restart();
        assert_eq!(scene.proxy.admin("SHOW WINDOWS").rows.len(), 0, "nothing had begun");
        assert_eq!(scene.proxy.apply("crash", "", COUNT).finish().unwrap().maps()[0]["outcome"], "applied");
        assert_eq!(scene.times(), "1");
    }
}

#[test]
fn killed_while_draining_and_while_held_clients_wait() {
    let mut scene = Scene::new(|spec| spec);
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN");
    let _window = scene.proxy.apply("crash", PATIENT, COUNT);
    scene.proxy.until_phase("crash", "draining");
    let mut held = scene.proxy.client().login();
    held.start("SELECT 1").unwrap();
    scene.proxy.until_held(1);
    scene.proxy.kill();
    assert!(held.finish().is_err());
    assert_eq!(scene.decides("draining"), "aborted");
    // What a window counts is conserved, over the restart too.
    let text = scene.proxy.metrics_text();
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(sum("pglull_windows_started_total"), sum("pglull_windows_ended_total"), "{text}");
}

#[test]
fn killed_in_mid_change() {
    let mut scene = Scene::new(|spec| spec);
    let _window = scene.proxy.apply("crash", PATIENT, &format!("{COUNT}; SELECT pg_sleep(60)"));
    eventually("it applies", secs(5), || !scene.db.running("pg_sleep(60)").is_empty());
    scene.proxy.kill();
    scene.proxy.restart();
    let window = scene.closed("crash");
    assert_eq!(window["outcome"], "aborted", "{window:?}");
    assert_eq!(scene.times(), "0");
    eventually("nothing of it goes on", secs(2), || scene.db.running("pg_sleep(60)").is_empty());
}

#[test]
fn killed_while_it_is_open_by_hand() {
    let mut scene = Scene::new(|spec| spec);
    let open = scene.proxy.open("hand", "hold='60s', tenure='60s'");
    scene.proxy.kill();
    scene.proxy.restart();
    scene.proxy.still_serves();
    let window = scene.closed("hand");
    assert_eq!((window["outcome"].as_str(), window["form"].as_str()), ("aborted", "open"));
    assert!(window["reason"].starts_with("proxy restarted"), "{window:?}");
    let error = scene.proxy.admin_err(&format!("WINDOW CLOSE hand TOKEN '{}'", open["token"]));
    assert!(error.message.contains("has ended"), "{error}");
}

/// Without the table, the transaction stands in the record before anything is done in it.
#[test]
fn killed_around_commit_without_a_change_table() {
    for (catch, fate, outcome) in [
        (Catch::Before, Fate::IsLost, "aborted"),
        (Catch::After, Fate::IsLost, "applied"),
        (Catch::After, Fate::GoesOn, "applied"),
    ] {
        let mut scene = Scene::new(|spec| spec.window("change_table", ""));
        scene.between.trap(COMMIT, catch);
        let _window = scene.proxy.apply("crash", PATIENT, COUNT);
        scene.between.caught();
        scene.proxy.kill();
        scene.between.fate(fate);
        scene.proxy.restart();
        let window = scene.closed("crash");
        assert_eq!(window["outcome"], outcome, "{catch:?}: {window:?}");
        assert_eq!(scene.times(), if outcome == "applied" { "1" } else { "0" });
    }
}

/// The database cannot be asked: clients of others are served, nothing is applied, and it is decided when it can be.
#[test]
fn a_database_that_is_away_is_waited_for() {
    let mut scene = Scene::new(|spec| spec);
    let other = Db::new();
    scene.between.trap(COMMIT, Catch::After);
    let _window = scene.proxy.apply("crash", PATIENT, COUNT);
    scene.between.caught();
    scene.proxy.kill();
    scene.between.fate(Fate::IsLost);
    let port = scene.between.port;
    scene.proxy.edit(|text| text.replace(&format!("port = {port}"), "port = 1"));
    scene.proxy.restart();
    assert_eq!(scene.proxy.window("crash")["phase"], "recovering");
    let text = scene.proxy.apply_text("crash", "", COUNT);
    assert!(scene.proxy.admin_err(&text).message.contains("there is a window crash already"));
    let busy = scene.proxy.admin_err(&scene.proxy.apply_text("another", "", COUNT));
    assert!(busy.message.contains("recovering"), "{busy}");
    let steered = scene.proxy.admin_err("WINDOW CLOSE crash TOKEN 'x'");
    assert!(steered.message.contains("the proxy was restarted"), "{steered}");
    // A kill while it recovers loses nothing.
    scene.proxy.kill();
    scene.proxy.restart();
    scene.proxy.edit(|text| text.replace("port = 1\n", &format!("port = {port}\n")));
    scene.proxy.admin("RELOAD");
    assert_eq!(scene.closed("crash")["outcome"], "applied");
    drop(other);
}

/// An operator who cannot wait for the database says so; whatever is lost with a lost database is called unknown.
#[test]
fn an_operator_may_give_up_and_a_database_that_is_gone_is_unknown() {
    for gone in [false, true] {
        let mut scene = Scene::new(|spec| spec);
        scene.between.trap(COMMIT, Catch::After);
        let _window = scene.proxy.apply("crash", PATIENT, COUNT);
        scene.between.caught();
        scene.proxy.kill();
        scene.between.fate(Fate::IsLost);
        let (name, port) = (scene.db.name.clone(), scene.between.port);
        scene.proxy.edit(|text| match gone {
            true => text.replace(&format!("[databases.{name}]"), "[databases.renamed]"),
            false => text.replace(&format!("port = {port}"), "port = 1"),
        });
        scene.proxy.restart();
        if !gone {
            scene.proxy.admin("WINDOW ABORT crash");
        }
        let window = scene.closed("crash");
        assert_eq!(window["outcome"], "unknown", "{window:?}");
        // The next process asks again.
        scene.proxy.kill();
        scene.proxy.edit(|text| {
            let text = text.replace("[databases.renamed]", &format!("[databases.{name}]"));
            text.replace("port = 1\n", &format!("port = {port}\n"))
        });
        scene.proxy.restart();
        eventually("it is known after all", secs(10), || scene.proxy.window("crash")["outcome"] == "applied");
    }
}

/// The entry leads to another database now, in which the change is not noted: that proves nothing.
#[test]
fn another_database_in_its_place_proves_nothing() {
    let mut scene = Scene::new(|spec| spec);
    let other = Db::with(ACCOUNTS);
    scene.between.trap(COMMIT, Catch::After);
    let _window = scene.proxy.apply("crash", PATIENT, COUNT);
    scene.between.caught();
    scene.proxy.kill();
    scene.between.fate(Fate::IsLost);
    other.sql(&format!("GRANT CONNECT ON DATABASE {} TO {}", other.name, scene.db.user));
    let name = scene.db.name.clone();
    scene.proxy.edit(|text| text.replace(&format!("dbname = \"{name}\""), &format!("dbname = \"{}\"", other.name)));
    scene.proxy.restart();
    let window = scene.closed("crash");
    assert_eq!(window["outcome"], "unknown", "{window:?}");
    assert!(window["reason"].contains("another database"), "{window:?}");
}

/// The answer to COMMIT has come, and the receipt is not written yet: clients are being released.
#[test]
fn killed_while_releasing() {
    let mut scene = Scene::new(|spec| spec.pool(1));
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN");
    let _window = scene.proxy.apply("crash", PATIENT, COUNT);
    scene.proxy.until_phase("crash", "draining");
    let mut held = [0, 1].map(|_| scene.proxy.client().login());
    held.iter_mut().for_each(|wire| wire.start("SELECT pg_sleep(4)").unwrap());
    scene.proxy.until_held(2);
    open.ok("COMMIT");
    scene.proxy.until_phase("crash", "releasing");
    scene.proxy.kill();
    assert_eq!(scene.decides("releasing"), "applied");
}

/// Each window of a process that died is settled, whatever becomes of the others.
#[test]
fn killed_with_windows_on_two_databases() {
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let mut proxy = Spec::of(&db).also(&other).start();
    proxy.open("hand", "hold='60s', tenure='60s'");
    let text = format!("WINDOW APPLY {} WITH (id='sql', {PATIENT}) AS $$ {COUNT}; SELECT pg_sleep(60) $$", other.name);
    let _window = proxy.admin_start(&text);
    proxy.until_phase("sql", "applying");
    proxy.kill();
    proxy.restart();
    for id in ["hand", "sql"] {
        eventually("it is settled", secs(10), || proxy.window(id)["outcome"] == "aborted");
    }
    assert_eq!(other.one("SELECT n FROM accounts WHERE id = 1"), "0");
    proxy.apply("next", "", COUNT).finish().unwrap();
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 3);
}
