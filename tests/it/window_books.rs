//! The books of windows and holds: whatever happens in whatever order, nothing that was begun is lost or counted twice.

use std::collections::BTreeMap;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Wire;

/// The sum of a metric over the values of its last label.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

struct Books {
    started: u64,
    ended: u64,
    running: u64,
    held: u64,
    held_ended: u64,
    held_now: u64,
}

impl Books {
    fn of(proxy: &Proxy) -> Self {
        let text = proxy.metrics_text();
        let sum = |name| sum(&text, name);
        Self {
            started: sum("pglull_windows_started_total"),
            ended: sum("pglull_windows_ended_total"),
            running: sum("pglull_window_phase"),
            held: sum("pglull_held_total"),
            held_ended: sum("pglull_held_ended_total"),
            held_now: sum("pglull_held_clients"),
        }
    }

    fn balance(&self) -> bool {
        self.started == self.ended + self.running && self.held == self.held_ended + self.held_now
    }
}

/// Clients, some of which wait for an answer.
struct Clients {
    idle: Vec<Wire>,
    asking: Vec<Wire>,
}

impl Clients {
    /// All that ask have got their answers, or will not any more.
    fn settle(&mut self) {
        for mut wire in self.asking.drain(..) {
            wire.limit(secs(20));
            match wire.finish() {
                Err(error) if error.timed_out() => panic!("a client hangs"),
                _ => self.idle.push(wire),
            }
        }
    }
}

/// One thing that happens, by chance, while a window may be open.
fn happens(proxy: &Proxy, rng: &mut Rng, clients: &mut Clients) -> &'static str {
    match rng.below(6) {
        0 | 1 => {
            let mut wire = clients.idle.pop().unwrap_or_else(|| proxy.client().login());
            wire.start("SELECT 1").unwrap();
            clients.asking.push(wire);
            "asks"
        }
        2 => match clients.asking.pop() {
            Some(wire) => {
                wire.cancel();
                clients.asking.insert(0, wire);
                "cancels"
            }
            None => "nobody cancels",
        },
        3 => {
            drop(clients.asking.pop());
            "leaves"
        }
        4 => {
            clients.idle.push(proxy.client().login());
            "logs in"
        }
        _ => "nothing",
    }
}

/// One window or pause, begun and ended by chance. Gives what was done.
fn window(proxy: &Proxy, db: &Db, rng: &mut Rng, n: u64, clients: &mut Clients) -> Vec<&'static str> {
    let id = format!("w{n}");
    let kind = rng.below(6);
    let mut done = Vec::new();
    let mut token = String::new();
    match kind {
        0 => {
            proxy.admin(&format!("PAUSE {}", db.name));
            done.push("pause");
        }
        1 => {
            proxy.apply(&id, "", "SELECT 1").finish().unwrap();
            done.push("apply");
        }
        2 => {
            proxy.apply(&id, "", "SELECT 1/0").finish().unwrap_err();
            done.push("apply that fails");
        }
        3 => {
            proxy.apply(&id, "", "VACUUM").finish().unwrap_err();
            done.push("apply that is refused");
        }
        _ => {
            token = proxy.open(&id, "hold='20s', tenure='20s'").remove("token").unwrap();
            done.push("open");
        }
    }
    for _ in 0..rng.below(8) {
        done.push(happens(proxy, rng, clients));
        assert!(Books::of(proxy).held_now <= clients.asking.len() as u64 + 20, "{done:?}");
    }
    match (kind, rng.below(3)) {
        (0, _) => drop(proxy.admin(&format!("RESUME {}", db.name))),
        (1..=3, _) => {}
        (_, 0) => drop(proxy.admin(&format!("WINDOW ABORT {id} TOKEN '{token}'"))),
        _ => drop(proxy.close(&id, &token)),
    }
    done
}

#[test]
fn what_has_begun_has_ended_or_goes_on() {
    let db = Db::new();
    let proxy = Spec::of(&db).pool(2).start();
    let mut rng = Rng::new(seed("books"));
    let mut clients = Clients { idle: Vec::new(), asking: Vec::new() };
    let mut kinds = BTreeMap::<&str, u64>::new();
    let mut windows = 0;
    // Chance decides how many of them hold anybody; a few hundred would hold twenty with any seed.
    while windows < 60 || Books::of(&proxy).held <= 20 {
        assert!(windows < 300, "hardly anybody is held: {kinds:?}");
        let done = window(&proxy, &db, &mut rng, windows, &mut clients);
        windows += 1;
        *kinds.entry(done[0]).or_default() += 1;
        // While clients leave and are let go, two scrapes may tell of two moments.
        eventually("the books balance", secs(5), || Books::of(&proxy).balance());
        clients.settle();
    }
    let books = Books::of(&proxy);
    println!("{kinds:?}, {} holds", books.held);
    assert!(books.balance());
    assert_eq!((books.started, books.running, books.held_now), (windows, 0, 0));
}
