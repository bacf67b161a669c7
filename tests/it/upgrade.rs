//! `UPGRADE`: another process takes over, and nobody notices.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::tls::client_config;
use crate::support::wait::{eventually, secs};
use crate::support::wire::{Target, Wire, WireError, bind, describe, execute, parse, sync};

fn until_gone(proxy: &mut Proxy, pid: u32) {
    eventually("the process of before has ended", secs(10), || !proxy.lives(pid));
}

fn run(wire: &mut Wire, name: &str) -> Result<String, WireError> {
    wire.send(&[bind("", name, &[]), execute("", 0), sync()].concat())?;
    let answer = wire.recv_until(b'Z', 1)?;
    match answer.iter().find(|msg| msg.tag == b'E') {
        Some(error) => Err(WireError::Db(error.error())),
        None => Ok(answer.iter().find(|msg| msg.tag == b'D').unwrap().values()[0].clone().unwrap()),
    }
}

/// Prepares once, then runs what was prepared.
fn prepared_work(_: usize, wire: &mut Wire, round: u64) -> Result<(), WireError> {
    // The first round of each connection: `Load` connects anew after an error only, and there is none.
    if round == 0 {
        wire.send(&[parse("s", "SELECT sum(n)::text FROM accounts"), describe(b'S', "s"), sync()].concat())?;
        wire.recv_until(b'Z', 1)?;
    }
    run(wire, "s").map(drop)
}

/// Logs in anew for each transaction.
fn comer(target: Target) -> impl Fn(usize, &mut Wire, u64) -> Result<(), WireError> {
    move |_, _, _| {
        let mut wire = target.connect()?;
        wire.query("SELECT 1")?;
        wire.close();
        Ok(())
    }
}

#[test]
fn twenty_upgrades_under_load_are_noticed_by_nobody() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).pool(5).start();
    let loads = [
        Load::start(&proxy.client(), 8, short_work),
        Load::start(&proxy.unix_client(), 4, prepared_work),
        Load::start(&proxy.client(), 2, comer(proxy.client())),
        Load::start(&proxy.unix_client(), 1, comer(proxy.unix_client())),
    ];
    loads.iter().for_each(|load| load.progress(3));
    for _ in 0..20 {
        let (row, before) = proxy.upgrade();
        assert_eq!(row["version"], env!("CARGO_PKG_VERSION"));
        assert!(row["clients_moved"].parse::<u64>().unwrap() >= 10 && row["clients_left"] == "0", "{row:?}");
        until_gone(&mut proxy, before);
        loads.iter().for_each(|load| load.progress(2));
    }
    for load in loads {
        load.stop().assert_clean();
    }
    eventually("the servers of before are closed", secs(10), || db.servers() <= 5);
    // Its windows hold everybody.
    proxy.apply("w", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
}

#[test]
fn what_a_client_has_goes_along() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).pool(2).start();
    let mut wire = proxy.client().param("search_path", "pg_catalog").app("first").login();
    wire.send(&[parse("s", "SELECT current_setting('TimeZone')"), sync()].concat()).unwrap();
    wire.recv_until(b'Z', 1).unwrap();
    wire.ok("SET TimeZone = 'Asia/Tokyo'");
    wire.ok("SET statement_timeout = '77s'");
    wire.ok("SET application_name = 'second'");
    let (_, before) = proxy.upgrade();
    until_gone(&mut proxy, before);
    assert_eq!(run(&mut wire, "s").unwrap(), "Asia/Tokyo");
    for (name, value) in [
        ("statement_timeout", "77s"),
        ("application_name", "second"),
        ("search_path", "pg_catalog"),
        ("TimeZone", "Asia/Tokyo"),
    ] {
        assert_eq!(wire.one(&format!("SHOW {name}")), value);
    }
    let clients = proxy.admin("SHOW CLIENTS").maps();
    let mine: Vec<_> = clients.iter().filter(|row| row["database"] == db.name).collect();
    assert_eq!(mine.len(), 1);
    assert_eq!((mine[0]["application_name"].as_str(), mine[0]["prepared_statements"].as_str()), ("second", "1"));
    // A session that is made new has what it had at its log-in.
    wire.ok("DISCARD ALL");
    assert_eq!(wire.one("SHOW application_name"), "first");
    assert_eq!(wire.one("SHOW search_path"), "pg_catalog");
    assert_ne!(wire.one("SHOW TimeZone"), "Asia/Tokyo");
    // Its key is good at the new process.
    wire.start("SELECT pg_sleep(60)").unwrap();
    eventually("it runs", secs(5), || {
        db.one("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()") == "1"
    });
    wire.cancel();
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
    assert_eq!(run(&mut wire, "s").unwrap_err().db().code, "26000");
}

#[test]
fn whoever_is_busy_or_has_tls_is_served_by_the_old_process() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).pool(3).client_tls("prefer").start();
    let plain = |proxy: &Proxy| proxy.unix_client().login();
    let mut busy = plain(&proxy);
    busy.ok("BEGIN");
    busy.ok("UPDATE accounts SET n = 5 WHERE id = 1");
    let mut sealed = proxy.client().tls(&client_config(false, None), false).login();
    sealed.ok("SELECT 1");
    let mut idle = plain(&proxy);
    let (row, before) = proxy.upgrade();
    assert_eq!((row["clients_moved"].as_str(), row["clients_left"].as_str()), ("1", "2"));
    idle.ok("SELECT 1");
    sealed.ok("SELECT 1");
    assert_eq!(busy.one("SELECT n FROM accounts WHERE id = 1"), "5");
    // Its cancel comes to the new process, which does not know it.
    busy.start("SELECT pg_sleep(60)").unwrap();
    eventually("it runs", secs(5), || {
        db.one("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()") == "1"
    });
    busy.cancel();
    assert_eq!(busy.finish().unwrap_err().db().code, "57014");
    busy.ok("ROLLBACK");
    eventually("the one that was busy has moved", secs(5), || {
        proxy.admin("SHOW CLIENTS").maps().iter().filter(|row| row["database"] == db.name).count() == 2
    });
    // A window of the new process would not hold the client of the old one.
    let refused = proxy.apply("w", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap_err().db();
    assert_eq!(refused.code, "55000", "{refused}");
    for command in ["PAUSE", "UPGRADE"] {
        assert!(proxy.admin_err(command).message.contains("still serves clients"));
    }
    assert!(proxy.lives(before));
    sealed.close();
    until_gone(&mut proxy, before);
    busy.ok("SELECT 1");
    proxy.apply("w2", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
}

#[test]
fn a_process_that_cannot_serve_changes_nothing() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).pool(3).start();
    let load = Load::start(&proxy.client(), 4, short_work);
    let good = proxy.edit(|text| format!("{text}\n[nonsense]\nkey = 1\n"));
    let error = proxy.admin_err("UPGRADE");
    assert!(error.message.contains("has ended at its start"), "{error}");
    load.progress(3);
    proxy.edit(|_| good.clone());
    // Nothing may be held or shut when clients change hands.
    let open = proxy.open("w", "hold='30s', tenure='30s', applications='nobody'");
    assert_eq!(proxy.admin_err("UPGRADE").message, "window w is running");
    proxy.close("w", &open["token"]);
    proxy.closed("w");
    proxy.admin(&format!("DISABLE {}", db.name));
    assert!(proxy.admin_err("UPGRADE").message.contains("is disabled"));
    proxy.admin(&format!("ENABLE {}", db.name));
    load.progress(2);
    let (_, before) = proxy.upgrade();
    until_gone(&mut proxy, before);
    load.progress(2);
    load.stop().assert_clean();
}

#[test]
fn if_the_new_process_dies_the_old_one_goes_on() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut busy = proxy.client().login();
    busy.ok("BEGIN");
    // Not `upgrade`: this test's process stays the old one.
    let row = proxy.admin("UPGRADE").maps().remove(0);
    assert_eq!(row["clients_left"], "1");
    kill(Pid::from_raw(row["pid"].parse().unwrap()), Signal::SIGKILL).unwrap();
    eventually("the old one is in charge again", secs(10), || proxy.log().contains("this one goes on"));
    proxy.still_serves();
    busy.ok("COMMIT");
    busy.ok("SELECT 1");
    proxy.apply("w", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
    assert!(proxy.metrics_text().contains("pglull_"));
    assert!(
        proxy.admin("UPGRADE").maps()[0]["pid"].parse::<i32>().is_ok_and(|pid| kill(
            Pid::from_raw(pid),
            Signal::SIGKILL
        )
        .is_ok())
    );
}

#[test]
fn files_belong_to_the_process_that_serves() {
    let db = Db::new();
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let mut proxy = Spec::of(&db).pool(3).text("pidfile", &pidfile.to_string_lossy()).start();
    let pid = || std::fs::read_to_string(&pidfile).map(|text| text.trim().to_owned()).unwrap_or_default();
    for _ in 0..2 {
        let (_, before) = proxy.upgrade();
        until_gone(&mut proxy, before);
        assert_eq!(pid(), proxy.pid().to_string());
        proxy.unix_client().login().ok("SELECT 1");
        assert!(proxy.metrics_text().contains("pglull_"));
    }
    let socket = proxy.dir().join(format!(".s.PGSQL.{}", proxy.port));
    assert!(socket.exists());
    let last = proxy.pid();
    proxy.signal(Signal::SIGTERM);
    until_gone(&mut proxy, last);
    assert_eq!((socket.exists(), pidfile.exists()), (false, false));
}

/// Stopped, it neither takes clients nor lets go of the link: nobody waits for it for ever.
#[test]
fn a_new_process_that_hangs_is_killed_and_loses_nobody() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut busy = proxy.client().login();
    busy.ok("BEGIN");
    let row = proxy.admin("UPGRADE").maps().remove(0);
    let heir = Pid::from_raw(row["pid"].parse().unwrap());
    kill(heir, Signal::SIGSTOP).unwrap();
    // It becomes idle, is to go, and comes back.
    busy.ok("COMMIT");
    busy.limit(secs(30));
    assert_eq!(busy.one("SELECT 'still here'"), "still here");
    eventually("the old one is in charge again", secs(20), || proxy.log().contains("this one goes on"));
    proxy.still_serves();
    busy.ok("SELECT 1");
}

#[test]
fn a_client_whose_server_is_reset_each_time_goes_along() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).pool(2).text("server_reset_query_always", "on").start();
    let (mut one, mut other) = (proxy.client().login(), proxy.client().login());
    one.ok("SET work_mem = '5MB'");
    other.ok("SELECT 1");
    let (row, before) = proxy.upgrade();
    assert_eq!((row["clients_moved"].as_str(), row["clients_left"].as_str()), ("2", "0"));
    until_gone(&mut proxy, before);
    assert_eq!(one.one("SHOW work_mem"), "4MB");
    other.ok("SELECT 1");
}
