//! Windows that an operator opens and closes by hand, tenures, and PAUSE and RESUME.

use tokio::time::Instant;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

#[test]
fn open_renew_close() {
    let (db, proxy) = scene();
    // Each command is on a connection of its own: the token is the tenure, not the connection.
    let open = proxy.open("hand", "tenure='2s', hold='20s'");
    assert_eq!(open["id"], "hand");
    assert!(open["token"].len() >= 16, "{open:?}");
    assert!(open["hold_until_ms"].parse::<u64>().is_ok(), "{open:?}");
    let mut wire = proxy.client().login();
    wire.start("SELECT extra FROM accounts WHERE id = 1").unwrap();
    proxy.until_held(1);

    let token = &open["token"];
    let refused = proxy.admin_err("WINDOW RENEW hand TOKEN 'not the token'");
    assert!(!refused.message.contains(token.as_str()), "the token in an error: {refused}");
    proxy.admin_err("WINDOW CLOSE hand TOKEN 'not the token'");
    proxy.admin_err("WINDOW CLOSE other TOKEN 'not the token'");
    // Renewing carries it beyond its first tenure.
    let start = Instant::now();
    while start.elapsed() < ms(2600) {
        proxy.admin(&format!("WINDOW RENEW hand TOKEN '{token}'"));
        assert!(wire.silent(ms(400)), "released although renewed");
    }
    // The operator's own tool makes the change, beside the proxy.
    db.setup("ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7");
    proxy.close("hand", token);
    assert_eq!(wire.finish().unwrap().one(), "7");
    assert_eq!(proxy.closed("hand")["outcome"], "applied");
    // Over is over.
    for command in ["RENEW", "CLOSE", "ABORT"] {
        proxy.admin_err(&format!("WINDOW {command} hand TOKEN '{token}'"));
    }
    proxy.still_serves();
}

#[test]
fn abort_by_hand_releases() {
    let (_db, proxy) = scene();
    let open = proxy.open("hand", "");
    let mut wire = proxy.client().login();
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    proxy.admin(&format!("WINDOW ABORT hand TOKEN '{}'", open["token"]));
    wire.limit(secs(2));
    wire.finish().unwrap();
    assert_eq!(proxy.closed("hand")["outcome"], "aborted");
}

#[test]
fn open_and_nobody_closes_ends_within_the_tenure() {
    let (_db, proxy) = scene();
    let start = Instant::now();
    proxy.open("lost", "tenure='1s', hold='20s'");
    let mut wire = proxy.client().login();
    wire.start("SELECT 'free'").unwrap();
    proxy.until_held(1);
    assert!(wire.silent(ms(400)), "released before its tenure was over");
    assert_eq!(wire.finish().unwrap().one(), "free");
    let took = start.elapsed();
    assert!(took < ms(2500), "released after {took:?}");
    let lost = proxy.closed("lost");
    assert_eq!(lost["outcome"], "aborted");
    assert!(lost["reason"].contains("tenure"), "{lost:?}");
}

#[test]
fn no_client_is_held_longer_than_the_hold() {
    let (_db, proxy) = scene();
    let open = proxy.open("long", "tenure='20s', hold='1s'");
    let mut wire = proxy.client().login();
    let start = Instant::now();
    wire.start("SELECT 'free'").unwrap();
    assert_eq!(wire.finish().unwrap().one(), "free");
    let took = start.elapsed();
    assert!(took < ms(2000), "held for {took:?}");
    let long = proxy.closed("long");
    assert_eq!(long["outcome"], "aborted");
    assert!(long["reason"].contains("hold"), "{long:?}");
    proxy.admin_err(&format!("WINDOW CLOSE long TOKEN '{}'", open["token"]));
}

#[test]
fn open_waits_for_the_drain_and_gives_up_at_its_bound() {
    let (_db, proxy) = scene();
    let mut open = proxy.client().app("slow").login();
    open.ok("BEGIN");
    let error = proxy.admin_err(&format!("WINDOW OPEN {} WITH (id='no', drain='300ms')", open_database(&proxy)));
    assert!(error.message.contains("no"), "{error}");
    assert_eq!(proxy.closed("no")["outcome"], "aborted");
    open.ok("SELECT 1; COMMIT");
    proxy.still_serves();
}

fn open_database(proxy: &Proxy) -> String {
    proxy.client().database
}

#[test]
fn a_second_window_on_the_same_database_is_refused_and_told_of_the_first() {
    let (_db, proxy) = scene();
    let open = proxy.open("first", "");
    let name = open_database(&proxy);
    for command in [
        format!("WINDOW OPEN {name} WITH (id='second')"),
        format!("WINDOW APPLY {name} WITH (id='third') AS $$ SELECT 1 $$"),
        format!("PAUSE {name}"),
    ] {
        let error = proxy.admin_err(&command);
        assert_eq!(error.code, "55000", "{command}: {error}");
        assert!(error.to_string().contains("first"), "{command}: {error}");
    }
    assert_eq!(proxy.window("first")["phase"], "holding");
    proxy.close("first", &open["token"]);
    proxy.apply("fourth", "", "SELECT 1").finish().unwrap();
}

#[test]
fn windows_of_two_databases_do_not_meet() {
    let (one, two) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy = Spec::of(&one).also(&two).start();
    let a = proxy.open("a", "");
    let b = proxy.admin(&format!("WINDOW OPEN {} WITH (id='b')", two.name)).maps().remove(0);
    proxy.close("a", &a["token"]);
    let mut free = proxy.client_of(&one).login();
    assert_eq!(free.one("SELECT 1"), "1");
    let mut held = proxy.client_of(&two).login();
    held.start("SELECT 1").unwrap();
    proxy.until_held(1);
    proxy.close("b", &b["token"]);
    held.finish().unwrap();
}

#[test]
fn pause_holds_and_resume_releases() {
    let (db, proxy) = scene();
    for command in [format!("PAUSE {}", db.name), "PAUSE".to_owned()] {
        let load = Load::start(&proxy.client(), 8, short_work);
        load.progress(2);
        proxy.admin(&command);
        assert_eq!(proxy.pools("sv_active"), 0, "paused and not drained");
        proxy.until_held(8);
        let before: String = db.one("SELECT sum(n) FROM accounts");
        crate::support::wait::let_run(ms(200));
        assert_eq!(db.one("SELECT sum(n) FROM accounts"), before, "something ran while paused");
        proxy.admin(&command.replace("PAUSE", "RESUME"));
        load.progress(2);
        load.stop().assert_clean();
    }
    let listed = proxy.admin("SHOW WINDOWS").maps();
    assert!(listed.iter().all(|row| row["form"] == "pause" && row["outcome"] == "resumed"), "{listed:?}");
}

#[test]
fn pause_waits_for_open_transactions() {
    let (db, proxy) = scene();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let mut pause = proxy.admin_start(&format!("PAUSE {}", db.name));
    assert!(pause.silent(ms(300)), "paused with a transaction open");
    open.ok("COMMIT");
    pause.limit(secs(3));
    pause.finish().unwrap();
    proxy.admin(&format!("RESUME {}", db.name));
    proxy.still_serves();
}

#[test]
fn resume_while_pause_drains_answers_both() {
    let (db, proxy) = scene();
    let mut open = proxy.client().login();
    open.ok("BEGIN");
    let mut pause = proxy.admin_start(&format!("PAUSE {}", db.name));
    let mut late = proxy.client().login();
    late.start("SELECT 1").unwrap();
    proxy.until_held(1);
    let mut resume = proxy.admin_start(&format!("RESUME {}", db.name));
    for (what, wire) in [("PAUSE", &mut pause), ("RESUME", &mut resume)] {
        wire.limit(secs(3));
        let answer = wire.finish();
        // Yes or no, but an answer.
        assert!(matches!(&answer, Ok(_) | Err(crate::support::wire::WireError::Db(_))), "{what}: {answer:?}");
    }
    late.finish().unwrap();
    open.ok("COMMIT");
    proxy.still_serves();
}

#[test]
fn resume_of_what_is_not_paused_is_an_error() {
    let (db, proxy) = scene();
    let error = proxy.admin_err(&format!("RESUME {}", db.name));
    assert_eq!(error.code, "55000", "{error}");
    proxy.still_serves();
}

#[test]
fn a_pause_ends_by_itself_at_pause_max() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window("pause_max", "800ms").start();
    proxy.admin(&format!("PAUSE {}", db.name));
    let mut wire = proxy.client().login();
    wire.start("SELECT 1").unwrap();
    wire.limit(secs(3));
    wire.finish().expect("released by itself");
    eventually("it is said", secs(2), || proxy.admin("SHOW WINDOWS").maps()[0]["phase"] == "closed");
}

#[test]
fn a_window_that_would_hold_more_than_max_held_ends() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).window_num("max_held", 3).start();
    proxy.open("full", "");
    let mut clients: Vec<_> = (0..6).map(|_| proxy.client().login()).collect();
    for wire in &mut clients {
        wire.start("SELECT 1").unwrap();
    }
    for wire in &mut clients {
        wire.limit(secs(3));
        wire.finish().expect("nobody is refused");
    }
    let full = proxy.closed("full");
    assert_eq!(full["outcome"], "aborted");
    assert!(full["reason"].contains("held"), "{full:?}");
}

/// Only clients of some applications are held; the others flow on, through the same pool.
#[test]
fn a_window_for_some_applications_leaves_the_others_alone() {
    let (_db, proxy) = scene();
    let mut clients = ["web 1", "job", "web 2"].map(|name| proxy.client().param("application_name", name).login());
    let mut renamed = proxy.client().login();
    renamed.ok("SET application_name = 'web 3'");
    let mut busy = proxy.client().param("application_name", "job").login();
    busy.ok("BEGIN");
    let open = proxy.open("web", "applications='web*', drain='1s'");
    let mut late = proxy.client().param("application_name", "job").login();
    for wire in [&mut clients[1], &mut late] {
        assert_eq!(wire.ok("SELECT 'flows'").one(), "flows");
        wire.ok("BEGIN");
        wire.ok("COMMIT");
    }
    busy.ok("COMMIT");
    busy.ok("SELECT 1");
    let [first, _, second] = &mut clients;
    for wire in [&mut *first, &mut *second, &mut renamed] {
        wire.start("SELECT 'held'").unwrap();
    }
    proxy.until_held(3);
    // Who takes another name stands in another line from then on.
    clients[1].ok("SET application_name = 'web 4'");
    clients[1].start("SELECT 'held'").unwrap();
    proxy.until_held(4);
    proxy.close("web", &open["token"]);
    for wire in clients.iter_mut().chain([&mut renamed]) {
        assert_eq!(wire.finish().unwrap().one(), "held");
    }
    proxy.still_serves();
}

/// However many names there have been: who comes later is told apart too, and nobody is taken for another.
#[test]
fn a_thousand_names_that_are_gone_do_not_make_everybody_alike() {
    let (_db, proxy) = scene();
    let named = |name: &str| proxy.client().param("application_name", name).login();
    let (mut web, mut job) = (named("web 1"), named("job 1"));
    for wire in [&mut web, &mut job] {
        wire.ok("SELECT 1");
    }
    let mut many = proxy.client().login();
    for n in 0..2100 {
        let name = if n % 2 == 0 { "worker" } else { "web worker" };
        many.ok(&format!("SET application_name = '{name} {n}'"));
    }
    let (mut late_web, mut late_job) = (named("web 2"), named("job 2"));
    late_job.ok("SELECT 1");
    late_job.ok("BEGIN");
    let open = proxy.open("web", "applications='web*', drain='1s'");
    late_job.ok("COMMIT");
    for wire in [&mut job, &mut late_job] {
        wire.limit(secs(5));
        assert_eq!(wire.ok("SELECT 'flows'").one(), "flows");
    }
    for wire in [&mut web, &mut late_web] {
        wire.start("SELECT 'held'").unwrap();
    }
    proxy.until_held(2);
    proxy.close("web", &open["token"]);
    for wire in [&mut web, &mut late_web] {
        assert_eq!(wire.finish().unwrap().one(), "held");
    }
}

/// A change is made in one database while others, which lead there too, are held with it.
#[test]
fn a_change_may_hold_other_databases_too() {
    let (db, other) = (Db::with(ACCOUNTS), Db::new());
    let proxy = Spec::of(&db).also(&other).start();
    let mut wire = proxy.client_of(&other).login();
    let mut window = proxy.apply("both", &format!("also='{}'", other.name), "SELECT pg_sleep(1)");
    proxy.until_phase("both", "applying");
    wire.start("SELECT 'held'").unwrap();
    proxy.until_held(1);
    window.finish().unwrap();
    assert_eq!(wire.finish().unwrap().one(), "held");
    let all = proxy.admin("WINDOW OPEN * WITH (id='all')").maps().remove(0);
    wire.start("SELECT 'held'").unwrap();
    proxy.until_held(1);
    proxy.close("all", &all["token"]);
    assert_eq!(wire.finish().unwrap().one(), "held");
}

/// The first of all would be changed alone, and the answer would say that all was done.
#[test]
fn a_change_of_every_database_is_refused() {
    let (db, other) = (Db::with(ACCOUNTS), Db::with(ACCOUNTS));
    let proxy = Spec::of(&db).also(&other).start();
    let sql = "ALTER TABLE accounts ADD COLUMN extra int";
    for command in [
        format!("WINDOW APPLY * WITH (id='all') AS $$ {sql} $$"),
        format!("WINDOW APPLY * WITH (start_within='1min') AS $$ {sql} $$"),
        format!("WINDOW REHEARSE * WITH (rollback) AS $$ {sql} $$"),
        format!("WINDOW REHEARSE * AS $$ {sql} $$"),
    ] {
        let error = proxy.admin_err(&command);
        assert_eq!(error.code, "0A000", "{command}: {error}");
        assert!(error.message.contains("one database"), "{command}: {error}");
    }
    assert_eq!(proxy.admin("SHOW WINDOWS").rows.len(), 0);
    assert!(!db.has_column("accounts", "extra") && !other.has_column("accounts", "extra"));
    // Without a change all are looked at, and others are held beside the one that is changed.
    assert!(proxy.admin("WINDOW REHEARSE *").rows.len() > 1);
    proxy.apply("one", "also='*'", sql).finish().unwrap();
    assert!(db.has_column("accounts", "extra") && !other.has_column("accounts", "extra"));
}
