//! Windows while the world around them changes: Postgres crashes, configurations and passwords change, clocks jump.

use nix::sys::signal::Signal;

use crate::support::load::{ACCOUNTS, Load, short_work};
use crate::support::own::{Own, answers};
use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::rng::{Rng, seed};
use crate::support::tls::{authority, client_config};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::Wire;

#[test]
fn w07_postgres_crashes_in_the_drain() {
    let own = Own::start();
    let mut open = own.proxy.client().login();
    open.ok("BEGIN");
    open.ok("UPDATE accounts SET n = 1 WHERE id = 1");
    let _window = own.proxy.apply("w", "drain='5s', hold='8s'", "ALTER TABLE accounts ADD COLUMN extra int");
    own.proxy.until_phase("w", "draining");
    let mut held = own.proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    own.proxy.until_held(1);
    own.crash();
    assert!(!own.has_extra(), "it is back, so everybody's connection has died");
    // The transaction is gone, and so the drain is over; the connection for the change has died with the others.
    assert!(open.query("COMMIT").is_err());
    let window = own.proxy.closed("w");
    assert_eq!(window["outcome"], "aborted", "{window:?}");
    let answer = answers(held);
    println!("the held client got {answer:?}; {window:?}");
    assert!(!own.has_extra());
    own.serves_again();
}

#[test]
fn w07_postgres_crashes_in_the_hold() {
    let own = Own::start();
    own.proxy.still_serves();
    let open = own.proxy.open("w", "hold='30s', tenure='30s'");
    let mut held = own.proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    own.proxy.until_held(1);
    own.crash();
    own.has_extra();
    own.proxy.close("w", &open["token"]);
    assert_eq!(answers(held), Ok("served".to_owned()), "Postgres was back before the hold was over");
    assert_eq!(own.proxy.closed("w")["outcome"], "applied");
    own.serves_again();
}

#[test]
fn w07_postgres_crashes_in_the_change() {
    let own = Own::start();
    own.proxy.still_serves();
    let sql = "ALTER TABLE accounts ADD COLUMN extra int; SELECT pg_sleep(20)";
    let mut window = own.proxy.apply("w", "apply='8s', hold='10s'", sql);
    own.proxy.until_phase("w", "applying");
    let mut held = own.proxy.client().login();
    held.start("SELECT 'served'").unwrap();
    own.proxy.until_held(1);
    own.crash();
    let error = window.finish().unwrap_err();
    let closed = own.proxy.closed("w");
    println!("{error}; {closed:?}");
    assert!(["aborted", "unknown"].contains(&&*closed["outcome"]), "{closed:?}");
    assert!(!own.has_extra());
    let answer = answers(held);
    println!("the held client got {answer:?}");
    own.serves_again();
}

#[test]
fn w07_postgres_crashes_in_the_release() {
    let own = Own::start();
    let open = own.proxy.open("w", "hold='30s', tenure='30s'");
    let held: Vec<Wire> = (0..40)
        .map(|_| {
            let mut wire = own.proxy.client().login();
            wire.start("SELECT pg_sleep(0.2)::text || 'served'").unwrap();
            wire
        })
        .collect();
    own.proxy.until_held(40);
    own.proxy.close("w", &open["token"]);
    own.crash();
    let answers: Vec<_> = held.into_iter().map(answers).collect();
    let served = answers.iter().filter(|answer| answer.is_ok()).count();
    println!("{served} of 40 were served; {:?}", answers.iter().find(|answer| answer.is_err()));
    assert_eq!(own.proxy.closed("w")["outcome"], "applied");
    own.serves_again();
}

/// A pool of another size, another certificate, another password of an operator: taken as a whole, and the window goes on.
#[test]
fn w20_a_reload_in_the_hold_disturbs_nobody() {
    let (db, gone) = (Db::with(ACCOUNTS), Db::new());
    let proxy = Spec::of(&db).also(&gone).pool(2).client_tls("prefer").start();
    let sealed = proxy.client().tls(&client_config(false, None), false);
    let mut before = sealed.login();
    let first = before.peer_certificate();
    let open = proxy.open("w", "hold='30s', tenure='30s'");
    let mut held: Vec<Wire> = (0..6)
        .map(|_| {
            let mut wire = sealed.login();
            wire.start("SELECT pg_sleep(0.3), 'served'").unwrap();
            wire
        })
        .collect();
    before.start("SELECT 1, 'served'").unwrap();
    held.push(before);
    proxy.until_held(7);
    let leaf = authority().leaf("pglull", &["127.0.0.1"]);
    std::fs::write(proxy.dir().join("client.crt"), &leaf.cert).unwrap();
    std::fs::write(proxy.dir().join("client.key"), &leaf.key).unwrap();
    proxy.edit(|text| {
        let text = text.replace("default_pool_size = 2", "default_pool_size = 7");
        let section = text.find(&format!("[databases.{}]", gone.name)).unwrap();
        let end = text[section + 1..].find("\n[").map_or(text.len(), |at| section + 1 + at);
        format!("{}{}", &text[..section], &text[end..])
    });
    proxy.hangup(Signal::SIGHUP);
    eventually("another certificate is shown", secs(10), || sealed.login().peer_certificate() != first);
    assert_eq!(proxy.held(), 7, "the window goes on, and holds whom it held");
    assert!(proxy.client_of(&gone).connect().is_err(), "the database is gone");
    // What it was begun with is good to its end.
    proxy.admin(&format!("WINDOW RENEW w TOKEN '{}'", open["token"]));
    proxy.close("w", &open["token"]);
    for wire in &mut held {
        assert_eq!(wire.finish().unwrap().rows[0][1].as_deref(), Some("served"));
    }
    assert_eq!(proxy.closed("w")["outcome"], "applied");
    assert!(db.servers() > 2, "the release has used the pool's new size");
}

/// The held client gets the server's own error, once; nobody tries for ever.
#[test]
fn w28_a_role_that_may_not_log_in_any_more_when_the_hold_ends() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(2).start();
    let mut stays = proxy.client().login();
    stays.ok("SELECT 1");
    let open = proxy.open("w", "hold='30s', tenure='30s'");
    let mut held: Vec<Wire> = (0..4).map(|_| proxy.client().login()).collect();
    held.iter_mut().for_each(|wire| wire.start("SELECT 'served'").unwrap());
    proxy.until_held(4);
    db.sql(&format!("ALTER ROLE {} NOLOGIN", db.user));
    db.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}' AND pid <> pg_backend_pid()",
        db.user
    ));
    eventually("its servers are gone", secs(5), || db.servers() == 0);
    proxy.close("w", &open["token"]);
    for wire in &mut held {
        wire.limit(secs(20));
        let error = wire.finish().unwrap_err();
        assert!(!error.timed_out(), "a client hangs");
        let error = error.db();
        assert!(error.message.contains("not permitted to log in"), "{error}");
    }
    let attempts = || proxy.log().matches("not permitted to log in").count();
    let tried = attempts();
    assert!(tried <= 20, "{tried} attempts in the log");
    db.sql(&format!("ALTER ROLE {} LOGIN", db.user));
    eventually("it is served again", secs(20), || {
        proxy.client().connect().is_ok_and(|mut wire| wire.query("SELECT 1").is_ok())
    });
}

/// The password of the role is changed while everybody waits: the servers that are there go on, and the file brings the new one.
#[test]
fn w28_a_password_that_is_rotated_in_the_hold() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(3).start();
    let mut warm = proxy.client().login();
    warm.ok("SELECT 1");
    let open = proxy.open("w", "hold='30s', tenure='30s'");
    let mut held: Vec<Wire> = (0..5).map(|_| proxy.client().login()).collect();
    held.iter_mut().for_each(|wire| wire.start("SELECT 'served'").unwrap());
    proxy.until_held(5);
    db.sql(&format!("ALTER ROLE {} PASSWORD 'another'", db.user));
    proxy.edit(|text| text.replace(&format!("{:?}", db.password), "\"another\""));
    proxy.admin("RELOAD");
    proxy.close("w", &open["token"]);
    for wire in &mut held {
        assert_eq!(wire.finish().unwrap().one(), "served");
    }
    proxy.apply("next", "", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
    assert!(db.has_column("accounts", "extra"));
}

/// Close, abort, the end of the tenure and of the hold, all at about the same moment: one outcome, and everybody goes on.
#[test]
fn w23_the_last_moments_of_a_window_have_one_outcome() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    let mut rng = Rng::new(seed("w23"));
    let load = Load::start(&proxy.client(), 8, short_work);
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    let rounds = 60;
    for n in 0..rounds {
        let id = format!("w{n}");
        // The way back begins before the hold ends: a hold of 2 s gives some hundreds of milliseconds.
        let command = format!("WINDOW OPEN {} WITH (id='{id}', hold='1500ms', tenure='150ms')", db.name);
        let open = match proxy.console().login().query(&command) {
            Ok(reply) => reply.maps().remove(0),
            // Where the machine is busy the tenure may end before the window holds.
            Err(error) => {
                assert!(error.to_string().contains("tenure over"), "{error}");
                assert_eq!(proxy.closed(&id)["outcome"], "aborted");
                continue;
            }
        };
        let mut operators: Vec<Wire> = (0..2).map(|_| proxy.console().login()).collect();
        crate::support::wait::let_run(ms(100 + rng.below(60)));
        let words = if rng.below(2) == 0 { ["CLOSE", "ABORT"] } else { ["ABORT", "CLOSE"] };
        for (wire, word) in operators.iter_mut().zip(words) {
            wire.start(&format!("WINDOW {word} {id} TOKEN '{}'", open["token"])).unwrap();
        }
        let told = operators.iter_mut().filter_map(|wire| wire.finish().ok()).count();
        let window = proxy.closed(&id);
        let outcome = window["outcome"].clone();
        assert!(["applied", "aborted"].contains(&&*outcome), "{window:?}");
        assert!(told <= 2 && !(outcome == "applied" && told == 0), "{window:?}");
        assert_eq!(window["held_now"], "0", "{window:?}");
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert!(!outcomes.is_empty(), "no window came as far as that");
    load.progress(1);
    load.stop().assert_clean();
    let metrics = proxy.metrics_text();
    let ended: usize = metrics
        .lines()
        .filter(|line| line.starts_with("pglull_windows_ended_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(ended, rounds);
}
