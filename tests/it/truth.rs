//! Every client gets its own answers, and what was acknowledged is there exactly once: under load,
//! with windows in a row and with clients that die at any point. `IT_SEED` repeats a run's choices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::rng::{Rng, seed};
use crate::support::wait::{let_run, secs};
use crate::support::wire::{
    Target, Wire, WireError, bind, copy_data, copy_done, execute, extended, parse, query, sync,
};

/// Applies small changes one after the other until told to stop; how many were applied.
pub(crate) fn windows_in_a_row(proxy: &Proxy, table: &str, stop: &AtomicBool) -> usize {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = format!("ALTER TABLE {table} ADD COLUMN extra_{count} int NOT NULL DEFAULT {count}");
        let reply = proxy.apply(&format!("w{count}"), "", &sql).finish();
        let row = reply.unwrap_or_else(|error| panic!("window {count}: {error}")).maps().remove(0);
        assert_eq!(row["outcome"], "applied", "{row:?}");
        count += 1;
        let_run(std::time::Duration::from_millis(150));
    }
    count
}

/// One shape of question, with its answer: what to send, and the values that must come back.
struct Echo {
    bytes: Vec<u8>,
    syncs: usize,
    values: Vec<String>,
}

impl Echo {
    /// A nonce as literal and as parameter, with the client's number, in one of many shapes.
    fn new(rng: &mut Rng, client: usize) -> Self {
        let size = [0, 1, 100, 5000, 30_000][usize::try_from(rng.below(5)).unwrap()];
        let nonce = format!("{}{}", rng.nonce(), "p".repeat(size));
        let one = |nonce: &str| format!("{nonce}/{client}");
        let both = |nonce: &str| vec![nonce.to_owned(), one(nonce)];
        let sql = |nonce: &str| format!("SELECT $1::text, '{nonce}' || '/{client}'");
        match rng.below(6) {
            0 => {
                Self { bytes: query(&format!("SELECT '{nonce}', '{nonce}/{client}'")), syncs: 1, values: both(&nonce) }
            }
            1 => Self { bytes: [extended(&sql(&nonce), &[&nonce]), sync()].concat(), syncs: 1, values: both(&nonce) },
            2 => {
                // A pipeline: several batches at once, each with a nonce of its own.
                let nonces: Vec<String> = (0..2 + rng.below(6)).map(|_| rng.nonce()).collect();
                Self {
                    bytes: nonces.iter().flat_map(|n| [extended(&sql(n), &[n]), sync()].concat()).collect(),
                    syncs: nonces.len(),
                    values: nonces.iter().flat_map(|n| both(n)).collect(),
                }
            }
            3 => {
                // An explicit transaction with many rows.
                let text = format!("BEGIN; SELECT '{nonce}/{client}' FROM generate_series(1, 3); COMMIT");
                Self { bytes: query(&text), syncs: 1, values: vec![one(&nonce); 3] }
            }
            4 => {
                // One statement, bound twice in one batch.
                let (a, b) = (rng.nonce(), rng.nonce());
                let parts = [
                    parse("", "SELECT $1::text"),
                    bind("", "", &[Some(a.as_bytes())]),
                    execute("", 0),
                    bind("", "", &[Some(b.as_bytes())]),
                    execute("", 0),
                    sync(),
                ];
                Self { bytes: parts.concat(), syncs: 1, values: vec![a, b] }
            }
            _ => {
                let text = format!("COPY (SELECT '{nonce}/{client}') TO STDOUT");
                Self { bytes: query(&text), syncs: 1, values: vec![one(&nonce)] }
            }
        }
    }

    fn read(&self, wire: &mut Wire) -> Result<Vec<String>, WireError> {
        let mut values = vec![];
        for msg in wire.recv_until(b'Z', self.syncs)? {
            match msg.tag {
                b'D' => values.extend(msg.values().into_iter().map(Option::unwrap)),
                b'd' => values.push(String::from_utf8(msg.body).unwrap().trim_end().to_owned()),
                b'E' => return Err(WireError::Db(msg.error())),
                _ => {}
            }
        }
        Ok(values)
    }
}

/// Enough of each value to tell whose it is.
fn short(values: &[String]) -> Vec<String> {
    let both_ends = |value: &String| {
        let end = value.rsplit('p').next().unwrap_or_default();
        let start: String = value.chars().take(8).collect();
        format!("{start}..{}[{}]", end.get(end.len().saturating_sub(3)..).unwrap_or_default(), value.len())
    };
    values.iter().map(both_ends).collect()
}

/// One client asks until it is told to stop; it also dies, at random points, and comes again.
fn ask(target: &Target, client: usize, seed: u64, stop: &AtomicBool, asked: &AtomicU64) {
    let mut rng = Rng::new(seed ^ (client as u64) << 32);
    let mut wire = target.login();
    let mut last: Vec<String> = vec![];
    while !stop.load(Ordering::Relaxed) {
        let echo = Echo::new(&mut rng, client);
        match rng.below(60) {
            // Dies after a part of the question.
            0 => {
                let part = usize::try_from(rng.below(echo.bytes.len() as u64 + 1)).unwrap();
                wire.send(&echo.bytes[..part]).unwrap();
                wire = target.login();
                continue;
            }
            // Dies with the answer under way, or unread.
            1 => {
                wire.send(&echo.bytes).unwrap();
                if rng.below(2) == 0 {
                    let _ = wire.recv();
                }
                wire = target.login();
                continue;
            }
            // Takes its question back: the answer is its own, or 57014.
            2 => {
                wire.start("SELECT pg_sleep(0.02)").unwrap();
                wire.cancel();
                if let Err(error) = wire.finish() {
                    assert_eq!(error.db().code, "57014");
                }
                continue;
            }
            _ => {}
        }
        wire.send(&echo.bytes).unwrap();
        match echo.read(&mut wire) {
            Ok(values) => assert!(
                values == echo.values,
                "client {client}, seed {seed}: asked for {:?}, got {:?}; before that: {:?}",
                short(&echo.values),
                short(&values),
                short(&last)
            ),
            // A cancel of its own may come late; Postgres allows that, and no other error.
            Err(error) => assert_eq!(error.db().code, "57014", "client {client}, seed {seed}"),
        }
        last = echo.values;
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nonce_echo_under_windows() {
    let seed = seed("nonce_echo_under_windows");
    let db = Db::with("CREATE TABLE t(a int)");
    let proxy = Spec::of(&db).pool(5).start();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..40)
        .map(|client| {
            let (target, stop, asked) = (proxy.client(), Arc::clone(&stop), Arc::clone(&asked));
            thread::spawn(move || ask(&target, client, seed, &stop, &asked))
        })
        .collect();
    let windows = thread::scope(|scope| {
        let windows = scope.spawn(|| windows_in_a_row(&proxy, "t", &stop));
        let_run(secs(8));
        stop.store(true, Ordering::Relaxed);
        windows.join().unwrap()
    });
    let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
    let asked = asked.load(Ordering::Relaxed);
    println!("{asked} echoes, {windows} windows");
    assert_eq!(failed, 0, "clients that failed");
    assert!(windows >= 5, "only {windows} windows");
    assert!(asked > 1000, "only {asked} echoes");
    crate::support::wait::eventually("every server has come back", secs(5), || proxy.pools("sv_active") == 0);
}

/// The test's own sharpness: an answer that belongs to another is noticed.
#[test]
fn a_wrong_echo_is_noticed() {
    let db = Db::new();
    let mut wire = db.direct().login();
    let mut rng = Rng::new(1);
    for client in 0..60 {
        let (one, other) = (Echo::new(&mut rng, client), Echo::new(&mut rng, client + 1));
        wire.send(&one.bytes).unwrap();
        let values = one.read(&mut wire).unwrap();
        assert_eq!(values, one.values);
        assert_ne!(values, other.values);
    }
}

/// COPY IN carries each client's own rows, whatever happens around it.
#[test]
fn copies_of_many_clients_do_not_mix() {
    let db = Db::with("CREATE TABLE t(client int, nonce text)");
    let proxy = Spec::of(&db).pool(3).start();
    let seed = seed("copies_of_many_clients_do_not_mix");
    let clients: Vec<_> = (0..12)
        .map(|client| {
            let target = proxy.client();
            thread::spawn(move || {
                let mut rng = Rng::new(seed + client);
                let mut wire = target.login();
                let mut sent = vec![];
                for _ in 0..10 {
                    wire.start("COPY t FROM STDIN").unwrap();
                    wire.recv_until(b'G', 1).unwrap();
                    for _ in 0..20 {
                        let nonce = rng.nonce();
                        wire.send(&copy_data(format!("{client}\t{nonce}\n").as_bytes())).unwrap();
                        sent.push(nonce);
                    }
                    wire.send(&copy_done()).unwrap();
                    assert_eq!(wire.finish().unwrap().tags, ["COPY 20"]);
                }
                sent.sort();
                sent.join(" ")
            })
        })
        .collect();
    for n in 0..5 {
        proxy.apply(&format!("w{n}"), "", &format!("CREATE TABLE t{n}(a int)")).finish().unwrap();
    }
    for (client, thread) in clients.into_iter().enumerate() {
        let sent = thread.join().unwrap();
        let sql = format!("SELECT string_agg(nonce, ' ' ORDER BY nonce COLLATE \"C\") FROM t WHERE client = {client}");
        assert_eq!(db.one(&sql), sent);
    }
}
