//! `UPGRADE` when something goes wrong, or comes at the same time: no window runs beside clients that are not held, whoever is
//! in charge is told of the end, and what clients have proved is not lost.

use std::io::Write as _;
use std::net::TcpStream;

use nix::fcntl::{OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs, until};
use crate::support::wire::{DbError, Target, Wire, cstr, msg_of, startup};

/// `UPGRADE`, after which both processes serve: the test's own stays the old one. Returns the new one.
fn beside(proxy: &Proxy) -> Heir {
    let row = proxy.admin("UPGRADE").maps().remove(0);
    Heir(row["pid"].parse().unwrap())
}

/// A process that does not outlive its test.
struct Heir(i32);

impl Heir {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0), signal).unwrap();
    }

    fn lives(&self) -> bool {
        kill(Pid::from_raw(self.0), None).is_ok()
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

/// A client that stays with the old process for as long as it likes.
fn stayer(proxy: &Proxy) -> Wire {
    let mut wire = proxy.client().login();
    wire.ok("BEGIN");
    wire
}

#[test]
fn a_window_that_waits_for_its_moment_does_not_begin_beside_clients_that_have_moved() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut listener = proxy.client().login();
    listener.ok("LISTEN news");
    let mut mover = proxy.client().login();
    let mut outside = db.direct().app("in the way").login();
    outside.ok("BEGIN; SELECT count(*) FROM accounts");
    let mut window = proxy.apply("patient", "start_within='1min'", "ALTER TABLE accounts ADD COLUMN extra int");
    window.limit(secs(20));
    let waits = |wire: &mut Wire| DbError::parse(&wire.recv_ok().unwrap().body).message.starts_with("waiting:");
    while !waits(&mut window) {}
    let heir = beside(&proxy);
    mover.ok("SELECT 1");
    outside.ok("COMMIT");
    outside.close();
    let error = window.finish().unwrap_err().db();
    assert_eq!(error.code, "55000", "{error}");
    assert!(!db.has_column("accounts", "extra"));
    // When the new process is gone, the old one may have windows again.
    heir.signal(Signal::SIGKILL);
    eventually("the old one is in charge again", secs(10), || proxy.log().contains("this one goes on"));
    proxy.apply("w", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
}

#[test]
fn the_end_of_the_new_process_is_the_end_of_the_old_one_too() {
    for (signal, cut) in [(Signal::SIGTERM, false), (Signal::SIGINT, true), (Signal::SIGQUIT, true)] {
        let db = Db::with(ACCOUNTS);
        let mut proxy = Spec::of(&db).pool(3).start();
        let mut stays = proxy.client().login();
        stays.ok("LISTEN news");
        let heir = beside(&proxy);
        heir.signal(signal);
        eventually("the new one has ended", secs(10), || !heir.lives());
        if !cut {
            // It waits for its client, and takes nobody in.
            stays.ok("SELECT 1");
            let refused = || TcpStream::connect(("127.0.0.1", proxy.port)).is_err();
            eventually("nobody is taken in, nor left waiting", secs(5), refused);
            stays.close();
        }
        proxy.ended(secs(10));
        assert!(!proxy.dir().join(format!(".s.PGSQL.{}", proxy.port)).exists(), "{signal}");
    }
}

#[test]
fn the_files_are_the_old_processs_again_if_the_new_one_dies() {
    let db = Db::new();
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let mut proxy = Spec::of(&db).pool(3).text("pidfile", &pidfile.to_string_lossy()).start();
    let pid = || std::fs::read_to_string(&pidfile).map(|text| text.trim().to_owned()).unwrap_or_default();
    let mut stays = stayer(&proxy);
    let heir = beside(&proxy);
    assert_eq!(pid(), heir.0.to_string());
    heir.signal(Signal::SIGKILL);
    eventually("the old one is in charge again", secs(10), || proxy.log().contains("this one goes on"));
    eventually("the pidfile is its own again", secs(5), || pid() == proxy.pid().to_string());
    stays.ok("COMMIT");
    proxy.unix_client().login().ok("SELECT 1");
    stays.close();
    proxy.signal(Signal::SIGTERM);
    proxy.ended(secs(10));
    assert!(!pidfile.exists());
}

/// A log-in that is under way while the process is replaced is finished by the old one, and then moves: what the client has
/// proved goes along, for no file has it.
#[test]
fn who_logs_in_meanwhile_takes_along_what_it_has_proved() {
    let db = Db::new();
    let looker = format!("look_{}", db.user);
    db.sql(&format!("CREATE ROLE {looker} LOGIN SUPERUSER PASSWORD 'pw of looker'"));
    let mut proxy = Spec::of(&db)
        .unforced(&db)
        .text("auth_type", "scram-sha-256")
        .text("auth_user", &looker)
        .user(&looker, "pw of looker")
        .no_user(&db.user)
        .start();
    let target: Target = proxy.client();
    let mut slow = Wire::open(&target.addr).unwrap();
    let (_, before) = proxy.upgrade();
    slow.send(&startup(&[("user", &target.user), ("database", &target.database)])).unwrap();
    slow.authenticate(&target.user, &target.password).unwrap();
    slow.recv_until(b'Z', 1).unwrap();
    eventually("the process of before has ended", secs(10), || !proxy.lives(before));
    assert_eq!(slow.one("SELECT current_user"), db.user);
}

#[test]
fn the_servers_of_the_old_process_do_not_starve_the_new_one() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(3).start();
    // As many as the pool has, and room for one that keeps its own.
    db.sql(&format!("ALTER ROLE {} CONNECTION LIMIT 3", db.user));
    let mut all: Vec<Wire> = (0..3).map(|_| proxy.client().login()).collect();
    all.iter_mut().for_each(|wire| drop(wire.ok("BEGIN")));
    all.iter_mut().skip(1).for_each(|wire| drop(wire.ok("COMMIT")));
    let _heir = beside(&proxy);
    all[1].limit(secs(15));
    assert_eq!(all[1].one("SELECT 1"), "1");
    all[0].ok("COMMIT");
    all[0].ok("SELECT 1");
}

#[test]
fn databases_that_no_entry_names_and_forced_users_go_along() {
    let (db, other) = (Db::new(), Db::new());
    let spec = Spec::of(&db).fallback(&db).text("auth_type", "scram-sha-256").user(&other.user, &other.password);
    let mut proxy = spec.start();
    let (mut forced, mut automatic) = (proxy.client().login(), proxy.client_of(&other).login());
    for _ in 0..2 {
        assert_eq!(automatic.one("SELECT current_database()"), other.name);
        let (row, before) = proxy.upgrade();
        assert_eq!((row["clients_moved"].as_str(), row["clients_left"].as_str()), ("2", "0"));
        eventually("the process of before has ended", secs(10), || !proxy.lives(before));
        assert_eq!(automatic.one("SELECT current_user"), other.user);
        assert_eq!(forced.one("SELECT current_user"), db.user);
    }
}

#[test]
fn a_request_that_comes_in_pieces_is_answered_once() {
    let db = Db::with(ACCOUNTS);
    // Whoever has begun to send a request has a server.
    let mut proxy = Spec::of(&db).pool(60).start();
    let whole = msg_of(b'Q', &cstr("UPDATE accounts SET n = n + 1 WHERE id = 1"));
    let mut pieces: Vec<Wire> = (1..whole.len()).map(|_| proxy.client().login()).collect();
    for (at, wire) in pieces.iter_mut().enumerate() {
        wire.send(&whole[..=at]).unwrap();
    }
    let (_, before) = proxy.upgrade();
    for (at, wire) in pieces.iter_mut().enumerate() {
        wire.send(&whole[at + 1..]).unwrap();
        wire.finish().unwrap();
    }
    eventually("the process of before has ended", secs(10), || !proxy.lives(before));
    assert_eq!(db.one("SELECT n FROM accounts WHERE id = 1"), pieces.len().to_string());
}

#[test]
fn nothing_is_left_open_after_many_upgrades() {
    let db = Db::with(ACCOUNTS);
    let mut proxy = Spec::of(&db).pool(2).start();
    let mut wires: Vec<Wire> = (0..5).map(|_| proxy.client().login()).collect();
    let mut counts = Vec::new();
    for _ in 0..8 {
        let (_, before) = proxy.upgrade();
        eventually("the process of before has ended", secs(10), || !proxy.lives(before));
        wires.iter_mut().for_each(|wire| drop(wire.ok("SELECT 1")));
        let least = proxy.descriptors();
        counts.push((0..5).map(|_| proxy.descriptors()).min().unwrap_or(least));
    }
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 2, "{counts:?}");
    let lists = proxy.admin("SHOW LISTS").maps();
    assert_eq!(lists.iter().find(|row| row["list"] == "used_clients").unwrap()["items"], "5");
}

/// It has read its files, or is about to: what changes them for the one process only is refused until it is in charge.
#[test]
fn nothing_changes_the_configuration_while_the_new_process_starts() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut stays = stayer(&proxy);
    // The new process waits here until somebody writes.
    let file = proxy.dir().join("userlist.txt");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut upgrade = proxy.admin_start("UPGRADE");
    eventually("the upgrade has begun", secs(5), || proxy.log().contains("command=Upgrade"));
    for command in ["SET log_stats = 0".to_owned(), format!("DISABLE {}", db.name), format!("ENABLE {}", db.name)] {
        let refused = || proxy.console().login().query(&command).is_err();
        eventually(&format!("{command} is refused"), secs(5), refused);
        assert_eq!(proxy.admin_err(&command).message, "an upgrade is under way");
    }
    assert_eq!(proxy.admin_err("RELOAD").message, "an upgrade is under way");
    std::fs::write(&file, text).unwrap();
    let heir = Heir(upgrade.finish().unwrap().maps()[0]["pid"].parse().unwrap());
    assert!(heir.lives());
    stays.ok("COMMIT");
}

/// Whoever sends it may know the old process only, and the new one may have read the files before they were changed.
#[test]
fn a_hangup_of_the_old_process_reaches_the_one_in_charge() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut stays = stayer(&proxy);
    let shown = || {
        let config = proxy.admin("SHOW CONFIG").maps();
        config.iter().find(|row| row["key"] == "default_pool_size").unwrap()["value"].clone()
    };
    let resize = |from: u32, to: u32| {
        let line = |size: u32| format!("default_pool_size = {size}\n");
        proxy.edit(|text| text.replace(&line(from), &line(to)));
        let reloads = || proxy.log().matches("configuration reloaded").count();
        let before = reloads();
        proxy.hangup(Signal::SIGHUP);
        eventually("it was heard", secs(5), || reloads() > before);
    };
    // The new process has read the configuration and waits here, in the file of users, until somebody writes.
    let file = proxy.dir().join("userlist.txt");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut upgrade = proxy.admin_start("UPGRADE");
    let open = || open(&file, OFlag::O_WRONLY | OFlag::O_NONBLOCK, Mode::empty()).ok();
    let pipe = until("the new process reads", secs(5), open);
    // Whoever reads from now on finds the file.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &text).unwrap();
    resize(3, 4);
    std::fs::File::from(pipe).write_all(text.as_bytes()).unwrap();
    let heir = Heir(upgrade.finish().unwrap().maps()[0]["pid"].parse().unwrap());
    eventually("it has what was written before it was in charge", secs(5), || shown() == "4");
    resize(4, 5);
    eventually("it has what was written afterwards", secs(5), || shown() == "5");
    assert!(heir.lives());
    stays.ok("COMMIT");
}
