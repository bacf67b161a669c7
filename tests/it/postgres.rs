//! The ground that the other tests stand on: the throwaway server and the raw client, without the proxy.

use std::path::Path;

use pglull::demo::cluster::{AuthMethod, Cluster, Options};

use crate::support::postgres::Db;
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::{Addr, Target, Wire, bind, execute, parse, startup, sync};

fn target(cluster: &Cluster, password: &str) -> Target {
    let addr = Addr::Tcp(cluster.port());
    Target::new(addr, cluster.superuser(), password, "postgres")
}

#[test]
fn a_cluster_serves_and_leaves_nothing_behind() {
    for auth in [AuthMethod::Scram, AuthMethod::Md5, AuthMethod::Trust] {
        let options = Options {
            auth,
            password: "a 'quoted' word".to_owned(),
            settings: vec![("work_mem".to_owned(), "7MB".to_owned())],
            ..Options::default()
        };
        let cluster = Cluster::start(options).unwrap();
        let mut wire = target(&cluster, "a 'quoted' word").login();
        assert_eq!(wire.one("SHOW work_mem"), "7MB");
        let wrong = target(&cluster, "wrong").connect();
        assert_eq!(wrong.is_ok(), auth == AuthMethod::Trust, "{auth:?}");
        let socket = cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port()));
        let unix = Target::new(Addr::Unix(socket), "postgres", "a 'quoted' word", "postgres");
        assert_eq!(unix.login().one("SELECT 1"), "1");

        let (dir, pid) = (cluster.socket_dir().to_owned(), cluster.pid());
        drop(cluster);
        assert!(!dir.exists(), "{} is still there", dir.display());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn a_cluster_ends_with_a_panic() {
    let seen = std::sync::Mutex::new(None);
    let result = std::panic::catch_unwind(|| {
        let cluster = Cluster::start(Options::default()).unwrap();
        *seen.lock().unwrap() = Some((cluster.socket_dir().to_owned(), cluster.pid()));
        std::panic::resume_unwind(Box::new("as if a test had failed"));
    });
    assert!(result.is_err());
    let (dir, pid) = seen.into_inner().unwrap().unwrap();
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_cluster_ends_with_a_killed_owner() {
    // This binary again, as the owner: it starts a cluster and waits to be killed.
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "postgres::owner_to_be_killed", "--ignored", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let line = lines.find_map(|line| {
        let line = line.unwrap();
        line.split_once("cluster at ").map(|(_, rest)| rest.to_owned())
    });
    let (pid, dir) = line.as_deref().and_then(|line| line.split_once(' ')).unwrap();
    assert!(Path::new(dir).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let gone = || !Path::new(dir).exists() && !Path::new(&format!("/proc/{pid}")).exists();
    eventually("server and folder are gone", secs(10), gone);
}

#[test]
#[ignore = "the other half of a_cluster_ends_with_a_killed_owner"]
fn owner_to_be_killed() {
    let cluster = Cluster::start(Options::default()).unwrap();
    println!("cluster at {} {}", cluster.pid(), cluster.socket_dir().display());
    eventually("we are killed", secs(60), || false);
}

#[test]
fn a_setting_that_postgres_refuses_is_an_error_with_its_log() {
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = Cluster::start(Options { settings, ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn the_raw_client_speaks_the_protocol() {
    let db = Db::with("CREATE TABLE t(a int, b text)");
    let mut wire = db.direct().app("raw").login();
    assert!(wire.params.iter().any(|(name, _)| name == "server_version"));
    assert_eq!(wire.one("SHOW application_name"), "raw");
    let reply = wire.ok("INSERT INTO t VALUES (1, NULL); SELECT a, b FROM t");
    assert_eq!(reply.columns, ["a", "b"]);
    assert_eq!(reply.rows, [[Some("1".to_owned()), None]]);
    assert_eq!(reply.tags, ["INSERT 0 1", "SELECT 1"]);
    assert_eq!(wire.query("SELECT 1/0").unwrap_err().db().code, "22012");
    assert_eq!(wire.ok("BEGIN").status, b'T');

    let batch = [parse("", "SELECT $1::text"), bind("", "", &[Some(b"x")]), execute("", 0), sync()];
    wire.send(&batch.concat()).unwrap();
    let answers = wire.recv_until(b'Z', 1).unwrap();
    let tags: Vec<u8> = answers.iter().map(|msg| msg.tag).collect();
    assert_eq!(tags, b"12DCZ");
    assert_eq!(answers[2].values(), [Some("x".to_owned())]);

    wire.start("SELECT pg_sleep(20)").unwrap();
    assert!(wire.silent(ms(50)));
    wire.cancel();
    assert_eq!(wire.finish().unwrap_err().db().code, "57014");
    wire.close();
}

#[test]
fn the_raw_client_sees_every_failure() {
    let db = Db::new();
    let mut wrong = db.direct();
    wrong.password = "wrong".to_owned();
    assert_eq!(wrong.connect().err().unwrap().db().code, "28P01");
    let mut victim = db.direct().login();
    let pid = victim.one("SELECT pg_backend_pid()");
    db.sql(&format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!(victim.query("SELECT 1").unwrap_err().db().code, "57P01");
    let mut wire = Wire::open(&db.direct().addr).unwrap();
    wire.send(&startup(&[("user", "nobody_such"), ("database", &db.name)])).unwrap();
    assert!(wire.authenticate("nobody_such", "x").is_err());
}
