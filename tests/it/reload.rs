//! RELOAD, SIGHUP and SET: another configuration is put in force, whole or not at all, and nobody notices who need not.

use nix::sys::signal::Signal;

use crate::support::between::{Between, Catch, Fate};
use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::tls::{authority, client_config};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Wire;

/// A value of `SHOW CONFIG`.
fn setting(proxy: &Proxy, key: &str) -> String {
    let rows = proxy.admin("SHOW CONFIG").maps();
    rows.iter().find(|row| row["key"] == key).unwrap()["value"].clone()
}

/// The section of one more database, for the end of a file.
fn entry(name: &str, db: &Db) -> String {
    let (port, real, user, password) = (crate::support::postgres::cluster().port(), &db.name, &db.user, &db.password);
    format!(
        "\n[databases.{name}]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"{real}\"\nuser = \"{user}\"\npassword = \"{password}\"\n"
    )
}

fn backend(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

#[test]
fn a_reload_under_load_is_noticed_by_nobody() {
    let (db, other) = (Db::with(ACCOUNTS), Db::new());
    let proxy = Spec::of(&db).pool(4).start();
    let load = Load::start(&proxy.client(), 10, short_work);
    load.progress(5);
    for round in 0..10 {
        let size = 2 + round % 3;
        proxy.edit(|text| text.replace("default_pool_size = 4", &format!("default_pool_size = {size} # 4")));
        proxy.edit(|text| format!("{text}{}", entry(&format!("more{round}"), &other)));
        assert_eq!(proxy.admin("RELOAD").tags, ["RELOAD"]);
        proxy.edit(|text| text.replace(&format!("default_pool_size = {size} # 4"), "default_pool_size = 4"));
        load.progress(3);
    }
    load.stop().assert_clean();
    let names = proxy.admin("SHOW DATABASES").maps();
    assert!((0..10).all(|round| names.iter().any(|row| row["name"] == format!("more{round}"))));
}

#[test]
fn a_wrong_file_changes_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(7).num("max_client_conn", 50).start();
    let good = proxy.edit(|text| {
        text.replace("default_pool_size = 7", "default_pool_size = \"many\"")
            .replace("max_client_conn = 50", "max_client_conn = 60\nno_such_key = 1")
    });
    let line_of = |text: &str, key: &str| text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let error = proxy.admin_err("RELOAD");
    assert_eq!(error.code, "F0000");
    assert_eq!(error.message, "RELOAD failed, see logs for additional details");
    let bad = proxy.edit(|text| text.to_owned());
    for key in ["default_pool_size", "no_such_key"] {
        let place = format!("pglull.toml:{}: {key}: expected", line_of(&bad, key));
        assert!(error.detail.contains(&place), "{place} is not in {}", error.detail);
        assert!(proxy.log().contains(&place), "{place} is not in the log");
    }
    assert_eq!((setting(&proxy, "default_pool_size"), setting(&proxy, "max_client_conn")), ("7".into(), "50".into()));
    proxy.still_serves();
    proxy.edit(|_| good.replace("max_client_conn = 50", "max_client_conn = 60"));
    proxy.admin("RELOAD");
    assert_eq!((setting(&proxy, "default_pool_size"), setting(&proxy, "max_client_conn")), ("7".into(), "60".into()));
}

#[test]
fn a_file_that_is_gone_or_a_wrong_userlist_changes_nothing() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let file = proxy.dir().join("pglull.toml");
    let aside = proxy.dir().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    assert!(proxy.admin_err("RELOAD").detail.contains("pglull.toml:1: file: expected a file that can be read"));
    std::fs::rename(&aside, &file).unwrap();
    let users = proxy.dir().join("userlist.txt");
    let good = std::fs::read_to_string(&users).unwrap();
    std::fs::write(&users, format!("{good}\"half\n")).unwrap();
    let error = proxy.admin_err("RELOAD");
    assert!(error.detail.contains("userlist.txt:") && !error.detail.contains(&db.password), "{}", error.detail);
    proxy.still_serves();
    std::fs::write(&users, good).unwrap();
    proxy.admin("RELOAD");
}

#[test]
fn a_new_database_is_usable_and_a_removed_one_is_not() {
    let (db, other) = (Db::new(), Db::new());
    let proxy = Spec::of(&db).start();
    let mut target = proxy.client();
    target.database = "second".into();
    assert_eq!(target.connect().err().unwrap().db().message, "no such database: second");
    let before = proxy.edit(|text| format!("{text}{}", entry("second", &other)));
    proxy.admin("RELOAD");
    let mut busy = target.login();
    let mut idle = target.login();
    assert_eq!(busy.one("SELECT current_database()"), other.name);
    busy.ok("BEGIN");
    proxy.edit(|_| before);
    proxy.admin("RELOAD");
    // As PgBouncer: those who are there are disconnected, whatever they do.
    for wire in [&mut busy, &mut idle] {
        let told = wire.query("SELECT 1").err().unwrap();
        let told = told.to_string();
        assert!(told.contains("database removed") || told.contains("closed"), "{told}");
    }
    assert_eq!(target.connect().err().unwrap().db().message, "no such database: second");
    assert!(proxy.admin("SHOW DATABASES").maps().iter().all(|row| row["name"] != "second"));
    eventually("no server of the removed database is left", secs(10), || other.servers() == 0);
    proxy.still_serves();
    proxy.edit(|text| format!("{text}{}", entry("second", &other)));
    proxy.admin("RELOAD");
    assert_eq!(target.login().one("SELECT current_database()"), other.name);
}

#[test]
fn a_database_in_a_window_is_not_removed() {
    let (db, other) = (Db::new(), Db::new());
    let proxy = Spec::of(&db).also(&other).start();
    proxy.admin(&format!("PAUSE {}", other.name));
    let before = proxy.edit(|text| {
        let at = text.find(&format!("[databases.{}]", other.name)).unwrap();
        let end = text[at + 1..].find('[').map_or(text.len(), |next| at + 1 + next);
        format!("{}{}", &text[..at], &text[end..])
    });
    let error = proxy.admin_err("RELOAD");
    assert!(error.detail.contains("covers it"), "{}", error.detail);
    proxy.admin(&format!("RESUME {}", other.name));
    proxy.admin("RELOAD");
    assert!(proxy.admin("SHOW DATABASES").maps().iter().all(|row| row["name"] != other.name));
    proxy.edit(|_| before);
}

#[test]
fn a_changed_pool_size_takes_effect() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let mut wires: Vec<_> = (0..4).map(|_| proxy.client().login()).collect();
    wires[0].ok("BEGIN");
    wires[1].start("BEGIN").unwrap();
    wires[2].start("BEGIN").unwrap();
    eventually("two wait for the only server", secs(10), || proxy.pools("cl_waiting") == 2);
    let one = proxy.edit(|text| text.replace("default_pool_size = 1", "default_pool_size = 3"));
    proxy.admin("RELOAD");
    // Those who wait get theirs from the reload itself.
    wires[1].finish().unwrap();
    wires[2].finish().unwrap();
    assert_eq!(db.servers(), 3);
    proxy.edit(|_| one);
    proxy.admin("RELOAD");
    assert_eq!(db.servers(), 3, "nobody is cut");
    for wire in &mut wires[0..3] {
        wire.ok("COMMIT");
    }
    eventually("the pool has shrunk", secs(10), || db.servers() == 1);
    let four: Vec<_> = wires.iter_mut().map(backend).collect();
    assert!(four.windows(2).all(|pair| pair[0] == pair[1]), "one server serves all: {four:?}");
}

#[test]
fn a_changed_target_recycles_its_servers_and_only_those() {
    let (db, other, third) = (Db::new(), Db::new(), Db::new());
    let proxy = Spec::of(&db).also(&other).start();
    let (mut stays, mut moves, mut open) =
        (proxy.client().login(), proxy.client_of(&other).login(), proxy.client_of(&other).login());
    let (stayed, moved) = (backend(&mut stays), backend(&mut moves));
    open.ok("BEGIN");
    assert_eq!(open.one("SELECT current_database()"), other.name);
    third.sql(&format!("GRANT CONNECT ON DATABASE {} TO {}", third.name, other.user));
    proxy.edit(|text| text.replace(&format!("dbname = {:?}", other.name), &format!("dbname = {:?}", third.name)));
    proxy.admin("RELOAD");
    // The open transaction ends where it began; the next one begins where the entry leads now.
    assert_eq!(open.one("SELECT current_database()"), other.name);
    open.ok("COMMIT");
    assert_eq!(open.one("SELECT current_database()"), third.name);
    assert_eq!(moves.one("SELECT current_database()"), third.name);
    assert_ne!(backend(&mut moves), moved);
    assert_eq!(backend(&mut stays), stayed, "a database that did not change keeps its servers");
    eventually("the old servers are gone", secs(10), || other.servers() == 0);
}

#[test]
fn sighup_is_the_same_as_reload() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(7).start();
    proxy.edit(|text| text.replace("default_pool_size = 7", "default_pool_size = 9"));
    proxy.hangup(Signal::SIGHUP);
    eventually("SIGHUP has been heeded", secs(10), || setting(&proxy, "default_pool_size") == "9");
    proxy.edit(|text| text.replace("default_pool_size = 9", "default_pool_size = -1"));
    proxy.hangup(Signal::SIGHUP);
    eventually("the mistake is in the log", secs(10), || proxy.log().contains("default_pool_size: expected"));
    assert_eq!(setting(&proxy, "default_pool_size"), "9");
    proxy.still_serves();
}

#[test]
fn users_and_their_rights_follow_a_reload() {
    let db = Db::new();
    let proxy = Spec::of(&db).text("auth_type", "scram-sha-256").start();
    let target = |user: &str, password: &str| {
        let mut target = proxy.client();
        (target.user, target.password) = (user.into(), password.into());
        target
    };
    let mut old = target("scribe", "scribe pw").login();
    assert!(target("novice", "novice pw").connect().is_err());
    let users = proxy.dir().join("userlist.txt");
    let list = std::fs::read_to_string(&users).unwrap().replace("scribe pw", "scribe new");
    std::fs::write(&users, format!("{list}\"novice\" \"novice pw\"\n")).unwrap();
    proxy.edit(|text| text.replace("admin_users = \"boss\"", "admin_users = \"novice\""));
    proxy.admin("RELOAD");
    old.ok("SELECT 1");
    assert!(target("scribe", "scribe pw").connect().is_err());
    target("scribe", "scribe new").login().ok("SELECT 1");
    let mut console = target("novice", "novice pw");
    console.database = "pgbouncer".into();
    console.login().ok("RELOAD");
    let mut former = target("boss", "boss pw");
    former.database = "pgbouncer".into();
    assert!(former.connect().is_err());
}

#[test]
fn what_only_a_restart_changes_is_said_and_stays() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let port = proxy.port.to_string();
    proxy.edit(|text| text.replace(&format!("listen_port = {port}"), "listen_port = 1"));
    let reply = proxy.admin("RELOAD");
    assert!(reply.notices[0].message.contains("listen_port has changed: it takes effect at the next start"));
    assert_eq!(setting(&proxy, "listen_port"), port);
    proxy.still_serves();
    let rows = proxy.admin("SHOW CONFIG").maps();
    let changeable = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap()["changeable"].clone();
    assert_eq!((changeable("listen_port"), changeable("default_pool_size")), ("no".into(), "yes".into()));
}

#[test]
fn a_limit_that_changes_reaches_a_client_that_has_waited_under_the_old_one() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(1).start();
    let (mut holder, mut waiter) = (proxy.client().login(), proxy.client().login());
    holder.ok("BEGIN");
    waiter.start("SELECT 1").unwrap();
    eventually("it waits", secs(5), || proxy.pools("cl_waiting") == 1);
    holder.ok("COMMIT");
    waiter.finish().unwrap();
    proxy.admin("SET query_wait_timeout = '200ms'");
    holder.ok("BEGIN");
    let error = waiter.query("SELECT 1").err().unwrap().db();
    assert_eq!(error.message, "query_wait_timeout");
}

#[test]
fn set_changes_one_setting_until_the_next_reload() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let mut holders: Vec<_> = (0..2).map(|_| proxy.client().login()).collect();
    holders.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    proxy.admin("SET query_wait_timeout = '200ms'");
    assert_eq!(setting(&proxy, "query_wait_timeout"), "0.2");
    let error = proxy.client().login().query("SELECT 1").err().unwrap().to_string();
    assert!(error.contains("query_wait_timeout"), "{error}");
    proxy.admin("SET query_wait_timeout = 60; SET default_pool_size TO 3");
    proxy.still_serves();
    proxy.admin("SET window.drain = '1s'");
    assert_eq!(setting(&proxy, "window.drain"), "1");
    proxy.admin("RELOAD");
    assert_eq!(
        (setting(&proxy, "query_wait_timeout"), setting(&proxy, "default_pool_size")),
        ("120".into(), "2".into())
    );
    for (command, why) in [
        ("SET default_pool_size = many", "default_pool_size: expected a whole number"),
        ("SET default_pol_size = 1", "perhaps `default_pool_size`"),
        ("SET listen_port = 1", "listen_port cannot be changed while pglull runs"),
        ("SET auth_type = trust", "auth_type is changed in the file"),
        ("SET min_pool_size = 100", "at most default_pool_size, which is 2"),
        ("SET window.apply = '1h'", "at most hold"),
    ] {
        let error = proxy.admin_err(command);
        assert_eq!(error.code, "22023", "{command}");
        assert!(error.message.contains(why), "{command}: {}", error.message);
    }
    assert_eq!(setting(&proxy, "min_pool_size"), "0");
}

#[test]
fn only_an_admin_may_reload() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    let mut target = proxy.client();
    (target.user, target.password, target.database) = ("scribe".into(), "scribe pw".into(), "pgbouncer".into());
    for command in ["RELOAD", "SET default_pool_size = 1"] {
        assert_eq!(target.login().query(command).err().unwrap().db().message, "admin access needed");
    }
}

/// What a reload has changed is told to whoever asked for it, without secrets.
#[test]
fn a_reload_says_what_has_changed() {
    let (db, other) = (Db::new(), Db::new());
    let proxy = Spec::of(&db).pool(4).start();
    assert!(proxy.admin("RELOAD").notices.is_empty());
    proxy.edit(|text| {
        let text = text.replace("default_pool_size = 4", "default_pool_size = 6");
        let text = text.replace(&format!("listen_port = {}", proxy.port), "listen_port = 1");
        format!("{text}{}", entry("more", &other))
    });
    let told = proxy.admin("RELOAD").notices.remove(0).message;
    let (changed, file) = (["default_pool_size: 4 -> 6", "database more: new"], proxy.dir().join("pglull.toml"));
    assert!(changed.iter().all(|line| told.lines().any(|told| told == *line)), "{told}");
    let fixed = format!("{}: listen_port has changed: it takes effect at the next start", file.display());
    assert!(told.lines().any(|line| line == fixed), "{told}");
    proxy.edit(|text| text.replace(&other.password, "another-secret"));
    let told = proxy.admin("RELOAD").notices.remove(0).message;
    assert!(told.contains("database more: changed") && !told.contains("another-secret"), "{told}");
}

#[test]
fn files_that_are_watched_are_put_in_force_by_themselves() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(7).text("watch_config", "50ms").start();
    proxy.edit(|text| text.replace("default_pool_size = 7", "default_pool_size = 9"));
    eventually("the change is in force", secs(10), || setting(&proxy, "default_pool_size") == "9");
    // A mistake is in the log, once, and changes nothing.
    let good = proxy.edit(|text| text.replace("default_pool_size = 9", "default_pool_size = -1"));
    eventually("the mistake is in the log", secs(10), || proxy.log().contains("default_pool_size: expected"));
    assert_eq!(setting(&proxy, "default_pool_size"), "9");
    // A file that it names, put in the place of the old one as Kubernetes does it.
    proxy.edit(|_| good);
    let (users, fresh) = (proxy.dir().join("userlist.txt"), proxy.dir().join("userlist.new"));
    let text = std::fs::read_to_string(&users).unwrap();
    std::fs::write(&fresh, format!("{text}\"comer\" \"pw\"\n")).unwrap();
    std::fs::rename(&fresh, &users).unwrap();
    eventually("the new user is known", secs(10), || {
        proxy.admin("SHOW USERS").maps().iter().any(|row| row["name"] == "comer")
    });
    assert_eq!(proxy.log().matches("default_pool_size: expected").count(), 1);
}

#[test]
fn a_change_that_a_window_is_in_the_way_of_is_put_in_force_after_it() {
    let (db, other) = (Db::new(), Db::new());
    let proxy = Spec::of(&db).also(&other).text("watch_config", "50ms").start();
    proxy.admin(&format!("PAUSE {}", other.name));
    proxy.edit(|text| text.replace(&format!("[databases.{}]", other.name), "[databases.renamed]"));
    eventually("it is refused", secs(10), || proxy.log().contains("covers it"));
    proxy.admin(&format!("RESUME {}", other.name));
    eventually("it is in force", secs(10), || {
        proxy.admin("SHOW DATABASES").maps().iter().any(|row| row["name"] == "renamed")
    });
}

/// Pools shrink and grow, users come and go, certificates change: whoever is there does not notice.
#[test]
fn two_hundred_reloads_under_load_are_noticed_by_nobody() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(4).client_tls("prefer").start();
    let sealed = proxy.client().tls(&client_config(false, None), false);
    let loads = [Load::start(&proxy.client(), 6, short_work), Load::start(&sealed, 3, short_work)];
    let comers = {
        let (plain, sealed) = (proxy.unix_client(), sealed);
        let come = move |n: usize, _: &mut Wire, _: u64| {
            let mut wire = if n == 0 { plain.connect()? } else { sealed.connect()? };
            wire.query("SELECT 1")?;
            wire.close();
            Ok(())
        };
        Load::start(&proxy.unix_client(), 2, come)
    };
    let leaves = [authority().leaf("a", &["127.0.0.1"]), authority().leaf("b", &["127.0.0.1"])];
    let (config, file) = (proxy.edit(str::to_owned), proxy.dir().join("userlist.txt"));
    let users = std::fs::read_to_string(&file).unwrap();
    let mut console = proxy.console().login();
    for round in 0..200_usize {
        let size = 1 + round % 6;
        proxy.edit(|_| config.replace("default_pool_size = 4", &format!("default_pool_size = {size}")));
        std::fs::write(&file, format!("{users}\"user{}\" \"pw\"\n", round % 7)).unwrap();
        let leaf = &leaves[round / 2 % 2];
        std::fs::write(proxy.dir().join("client.crt"), &leaf.cert).unwrap();
        std::fs::write(proxy.dir().join("client.key"), &leaf.key).unwrap();
        console.ok("RELOAD");
        if round % 20 == 0 {
            loads.iter().for_each(|load| load.progress(1));
        }
    }
    comers.progress(1);
    for load in loads.into_iter().chain([comers]) {
        load.stop().assert_clean();
    }
    assert!(proxy.log().matches("configuration reloaded").count() >= 200);
}

/// A log-in to a cold pool, whose first server stands still on its way to Postgres while the head of the database's section
/// is replaced; `then` says what becomes of that server. Returns the client's time zone.
fn overtaken(head: impl FnOnce(&str) -> String, then: impl FnOnce(&Between)) -> Result<String, String> {
    let (db, between) = (Db::new(), Between::start());
    let spec = Spec::of(&db).text("client_login_timeout", "20s").text("server_tls_sslmode", "disable");
    let proxy = spec.entry(&db, "port", &between.port.to_string()).start();
    between.trap(&db.name, Catch::Before);
    let target = proxy.client();
    let login = std::thread::spawn(move || target.connect());
    between.caught();
    let now = format!("[databases.{}]", db.name);
    proxy.edit(|text| text.replace(&now, &head(&now)));
    proxy.admin("RELOAD");
    then(&between);
    let wire = login.join().unwrap();
    wire.map(|mut wire| wire.one("SHOW TimeZone")).map_err(|error| error.to_string())
}

#[test]
fn a_log_in_waits_for_the_first_server_of_the_new_configuration() {
    let zone = overtaken(|now| format!("{now}\ntimezone = \"Asia/Tokyo\""), |between| between.fate(Fate::GoesOn));
    assert_eq!(zone, Ok("Asia/Tokyo".to_owned()));
}

#[test]
fn a_log_in_to_a_database_that_is_removed_waits_no_more() {
    let refused = overtaken(|_| "[databases.other]".to_owned(), |_| ()).unwrap_err();
    assert!(refused.contains("no such database"), "{refused}");
}
