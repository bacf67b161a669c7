//! Where scripts run: two copies of one database, one reached directly, one through a proxy with one server.

use super::allowed::level;
use super::notation::{Script, Wait, Who};
use super::peer::{Event, Peer, Slices};
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wire::{Msg, Target, Wire, msg_of, query, sync};

/// What scripts find.
const SETUP: &str = "
    CREATE TABLE t(id int PRIMARY KEY, v text);
    CREATE TABLE wide(a int, b bigint, c text, d bool, e float8, f numeric, g bytea, h date, i timestamptz, j jsonb);
    INSERT INTO wide VALUES (1, 2, 'three', true, 0.5, 6.25, '\\x0708', '2020-02-29', '2020-02-29 12:00:00+00', '{\"k\": 1}'),
        (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE SEQUENCE seq;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE parent(id int PRIMARY KEY);
    CREATE TABLE child(id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE SCHEMA other;
    CREATE TABLE other.t(id int, only_here text);
    CREATE FUNCTION noisy(n int) RETURNS int LANGUAGE plpgsql AS
        $$BEGIN FOR i IN 1..n LOOP RAISE NOTICE 'notice %', i; END LOOP; RETURN n; END$$;
    CREATE FUNCTION fails(text) RETURNS int LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION USING MESSAGE = $1, DETAIL = 'its detail', HINT = 'its hint', ERRCODE = 'PG001'; END$$;
    CREATE FUNCTION sets(text, text) RETURNS text LANGUAGE sql AS $$SELECT set_config($1, $2, false)$$;
    CREATE PROCEDURE twice() LANGUAGE plpgsql AS $$BEGIN INSERT INTO t VALUES (100, 'a'); COMMIT;
        INSERT INTO t VALUES (101, 'b'); END$$;
";

/// Puts back what scripts change. Tables that a script makes are the script's to drop.
const RESET: &str = "DROP TABLE IF EXISTS made, made2; DROP TYPE IF EXISTS made; TRUNCATE t, parent, child, other.t; ALTER SEQUENCE seq RESTART; \
    INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 5) i; INSERT INTO other.t VALUES (7, 'other')";

pub(crate) struct Ground {
    direct: Db,
    pub(crate) proxy: Proxy,
    first_new_oid: u32,
    /// A session in each database that puts the tables back.
    janitors: [Wire; 2],
    /// Sessions straight to Postgres that scripts use one after the other.
    kept: [Option<Wire>; 2],
    clean: bool,
    /// Scripts with a simple query amid a pipeline may differ. From Postgres 18 on it may lose its own place behind one ("unexpected
    /// state STARTED"), which `Progress::was_mixed` keeps from the proxy's clients.
    pub(crate) mixing_fails: bool,
    /// The last script was such a one.
    lost: bool,
    /// How long an answer may take, in seconds.
    pub(crate) patience: u64,
}

/// Where answers differ.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) who: Who,
    pub(crate) at: usize,
    pub(crate) direct: Option<Event>,
    pub(crate) proxied: Option<Event>,
}

impl Difference {
    /// What came instead of what: tags, and the codes of errors.
    pub(crate) fn kind(&self) -> [String; 2] {
        [&self.direct, &self.proxied].map(|event| match event {
            Some(Event::Message(msg)) if msg.tag == b'E' => {
                let error = msg.error();
                format!("{} {}", error.severity, error.code)
            }
            Some(Event::Message(msg)) => char::from(msg.tag).to_string(),
            other => format!("{other:?}"),
        })
    }
}

/// What became of a script.
#[derive(Debug)]
pub(crate) enum Outcome {
    Equal,
    Differs(Difference),
    /// Postgres itself, without the proxy, does not get through it.
    Wrong(String),
}

impl Ground {
    /// `pool` servers, and further settings of the proxy.
    pub(crate) fn new(pool: u32, settings: impl Fn(Spec) -> Spec) -> Self {
        let model = Db::with(SETUP);
        model.sql(&format!("GRANT trusting TO {}", model.user));
        let copy = |end: &str| {
            let name = format!("{}_{end}", model.name);
            let mut wire = Target { database: "postgres".to_owned(), ..model.root() }.login();
            wire.ok(&format!("CREATE DATABASE {name} OWNER {} TEMPLATE {}", model.user, model.name));
            wire.close();
            Db { name, user: model.user.clone(), password: model.password.clone() }
        };
        let first_new_oid = model.one("SELECT max(oid::bigint) + 1 FROM pg_class").parse().unwrap();
        let (direct, proxied) = (copy("direct"), copy("proxied"));
        let janitors = [direct.direct().login(), proxied.direct().login()];
        let proxy = settings(Spec::of(&proxied).pool(pool)).start();
        Self {
            direct,
            proxy,
            first_new_oid,
            janitors,
            kept: [None, None],
            clean: false,
            mixing_fails: false,
            lost: false,
            patience: 5,
        }
    }

    /// Runs a script both ways.
    pub(crate) fn check(&mut self, script: &Script, slices: Slices) -> Outcome {
        let expected = match self.direct(script) {
            Ok(expected) => expected,
            Err(why) => {
                self.clean = false;
                return Outcome::Wrong(why);
            }
        };
        let got = self.proxied(script, slices);
        self.clean = !writes(script);
        for who in [Who::A, Who::B] {
            let (direct, proxied) = (&expected[who as usize], &got[who as usize]);
            let longest = direct.len().max(proxied.len());
            if let Some(at) = (0..longest).find(|at| direct.get(*at) != proxied.get(*at)) {
                if self.lost {
                    return Outcome::Wrong("Postgres loses its place".to_owned());
                }
                let (direct, proxied) = (direct.get(at).cloned(), proxied.get(at).cloned());
                return Outcome::Differs(Difference { who, at, direct, proxied });
            }
        }
        Outcome::Equal
    }

    fn reset(&mut self, which: usize) {
        if !self.clean {
            self.janitors[which].ok(RESET);
        }
    }

    fn direct(&mut self, script: &Script) -> Result<[Vec<Event>; 2], String> {
        self.reset(0);
        let login = |_| self.direct.direct().login();
        let wires = [0, 1].map(|n| self.kept[n].take().unwrap_or_else(|| login(n)));
        let mut peers = wires.map(|wire| Peer::new(wire, Slices::Whole, self.patience));
        let right = play(script, &mut peers);
        let found = seen(&peers, self.first_new_oid);
        let stuck = found.iter().flatten().any(|event| *event == Event::Stuck);
        let mixed = peers.iter().any(|peer| peer.mixed);
        // Only a setting with a name of its own cannot be forgotten.
        if script.option("sessions") != Some("new") && !stuck && !(mixed && self.mixing_fails) {
            self.kept = peers.map(|peer| if peer.ended { None } else { Some(forgotten(peer.into_wire())) });
        } else {
            peers.into_iter().for_each(|peer| peer.into_wire().close());
        }
        right?;
        self.lost = mixed && self.mixing_fails;
        if stuck { Err(format!("Postgres does not answer: {found:?}")) } else { Ok(found) }
    }

    fn proxied(&mut self, script: &Script, slices: Slices) -> [Vec<Event>; 2] {
        self.reset(1);
        let mut peers = [0, 1].map(|_| Peer::new(self.proxy.client().login(), slices, self.patience));
        // That the order is right was seen with the direct run.
        let _ = play(script, &mut peers);
        let found = seen(&peers, self.first_new_oid);
        peers.into_iter().for_each(|peer| peer.into_wire().close());
        found
    }
}

fn seen(peers: &[Peer; 2], first_new: u32) -> [Vec<Event>; 2] {
    [0, 1].map(|n| {
        let leveled = |event: &Event| match event {
            Event::Message(msg) => Event::Message(level(msg.clone(), first_new)),
            other => other.clone(),
        };
        let mut seen: Vec<Event> = peers[n].seen.iter().map(leveled).collect();
        // Settings that change together are reported in no order that Postgres promises.
        for reports in seen.chunk_by_mut(|one, other| is_report(one) && is_report(other)) {
            reports.sort_unstable_by(|one, other| body(one).cmp(body(other)));
        }
        seen
    })
}

fn body(event: &Event) -> &[u8] {
    if let Event::Message(msg) = event { &msg.body } else { &[] }
}

const fn is_report(event: &Event) -> bool {
    matches!(event, Event::Message(Msg { tag: b'S', .. }))
}

/// All that a session may have kept is gone, at the cost of a few statements instead of a new session.
fn forgotten(mut wire: Wire) -> Wire {
    wire.send(&[msg_of(b'C', b"S\0"), sync(), query("DISCARD ALL")].concat()).unwrap();
    wire.recv_until(b'Z', 2).unwrap();
    wire
}

/// Plays all steps; an error if the script would have a client wait for one that cannot go on.
fn play(script: &Script, peers: &mut [Peer; 2]) -> Result<(), String> {
    let shared = script.option("pool").is_none();
    for step in &script.steps {
        let (me, other) = (step.who as usize, 1 - step.who as usize);
        if script.settles() {
            peers[other].settle();
        } else if shared && !peers[other].at_rest() && !peers[other].waiting {
            if step.wait != Wait::Nothing {
                return Err(format!("{step}: the other client still has the server"));
            }
            peers[me].waiting = true;
        }
        peers[me].step(&step.messages, &step.wait);
    }
    // One that is in a transaction keeps the other one waiting.
    let first = usize::from(peers[0].idle());
    peers[first].settle();
    peers[1 - first].settle();
    peers.iter_mut().for_each(Peer::prove_in_step);
    Ok(())
}

/// Whether a script may have changed tables.
fn writes(script: &Script) -> bool {
    let text = |step: &super::notation::Step| step.to_string().to_lowercase();
    const WORDS: [&str; 14] = [
        "insert", "update", "delete", "copy", "create", "drop", "alter", "truncate", "nextval", "setval", "merge",
        "call", "raw", "into",
    ];
    script.steps.iter().map(text).any(|text| WORDS.iter().any(|word| text.contains(word)))
}
