//! A million questions of 200 clients on 10 servers, each with a nonce as literal and as parameter, in every shape of
//! the protocol, by clients that die at any point: every answer is its asker's own.
//!
//! Without `CI` it is a tenth of that; `ECHO_COUNT` sets another number (10^8 for a long run), `IT_SEED` repeats a run's choices, `PGLULL_BIN` runs
//! another build of the proxy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, scope};

use tokio::time::Instant;

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::rng::{Rng, seed};
use crate::support::wait::{eventually, secs};
use crate::support::wire::{
    Msg, Target, WireError, bind, close, copy_data, copy_done, describe, execute, flush, parse, query, sync,
};

const CLIENTS: usize = 200;

/// Questions of one client that go out in one write.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How many ReadyForQuery end it.
    ends: usize,
    /// The values that must come, in order.
    values: Vec<String>,
    questions: u64,
}

impl Batch {
    fn ask(&mut self, messages: &[Vec<u8>], values: Vec<String>) {
        messages.iter().for_each(|message| self.bytes.extend(message));
        self.ends += 1;
        self.questions += 1;
        self.values.extend(values);
    }

    /// One question in some shape. `fresh` connections have not yet parsed the named statement.
    fn question(&mut self, rng: &mut Rng, client: usize, fresh: &mut bool) {
        let nonce = format!("{}/{client}", rng.nonce());
        let literal = || format!("SELECT $1::text, '{nonce}'");
        let twice = || vec![nonce.clone(), nonce.clone()];
        let given = [Some(nonce.as_bytes())];
        match rng.below(16) {
            0..=2 => self.ask(&[query(&format!("SELECT '{nonce}', '{nonce}'"))], twice()),
            3..=5 => self.ask(&[parse("", &literal()), bind("", "", &given), execute("", 0), sync()], twice()),
            // Described, with a portal of its own, flushed on the way.
            6 => self.ask(
                &[
                    parse("", &literal()),
                    describe(b'S', ""),
                    flush(),
                    bind("p", "", &given),
                    execute("p", 0),
                    close(b'P', "p"),
                    sync(),
                ],
                twice(),
            ),
            // A statement bound twice, in one implicit transaction.
            7 => self.ask(
                &[
                    parse("", "SELECT $1::text"),
                    bind("", "", &given),
                    execute("", 0),
                    bind("", "", &given),
                    execute("", 0),
                    sync(),
                ],
                twice(),
            ),
            // A transaction over several requests.
            8 => {
                self.ask(&[query("BEGIN")], vec![]);
                self.ask(&[parse("", &literal()), bind("", "", &given), execute("", 0), sync()], twice());
                self.ask(&[query("COMMIT")], vec![]);
            }
            9 => self.ask(&[query(&format!("BEGIN; SELECT '{nonce}', '{nonce}'; COMMIT"))], twice()),
            10 => self.ask(&[query(&format!("COPY (SELECT '{nonce}') TO STDOUT"))], vec![nonce.clone()]),
            // Its own rows in, and out again.
            11 => {
                let rows = copy_data(format!("{client}\t{nonce}\n").as_bytes());
                self.ask(&[query("BEGIN; COPY echo FROM STDIN"), rows, copy_done()], vec![]);
                self.ask(&[query("SELECT nonce FROM echo; ROLLBACK")], vec![nonce.clone()]);
            }
            // An error, and what must not be skipped behind it.
            12 => {
                self.ask(
                    &[parse("", &format!("SELECT 1/0, '{nonce}'")), bind("", "", &[]), execute("", 0), sync()],
                    vec!["22012".to_owned()],
                );
                self.ask(&[query(&format!("SELECT '{nonce}'"))], vec![nonce.clone()]);
            }
            // Long ones, over many reads.
            13 if rng.below(8) == 0 => {
                let long = format!("{nonce}{}", "p".repeat(20_000));
                let given = [Some(long.as_bytes())];
                self.ask(
                    &[parse("", "SELECT $1::text"), bind("", "", &given), execute("", 0), sync()],
                    vec![long.clone()],
                );
            }
            // A statement with a name, parsed once on this connection.
            14 => {
                let mut messages = vec![bind("", "echo", &given), execute("", 0), sync()];
                if std::mem::take(fresh) {
                    messages.insert(0, parse("echo", &format!("SELECT $1::text, 'of {client}'")));
                }
                self.ask(&messages, vec![nonce.clone(), format!("of {client}")]);
            }
            _ => self.ask(&[query(&format!("SELECT '{nonce}'"))], vec![nonce.clone()]),
        }
    }

    fn check(&self, answers: &[Msg], client: usize, seed: u64) {
        let mut values = Vec::with_capacity(self.values.len());
        for msg in answers {
            match msg.tag {
                b'D' => values.extend(msg.values().into_iter().flatten()),
                b'd' => values.push(String::from_utf8_lossy(&msg.body).trim_end().to_owned()),
                b'E' => values.push(msg.error().code),
                _ => {}
            }
        }
        let at = (0..values.len().max(self.values.len())).find(|at| values.get(*at) != self.values.get(*at));
        if let Some(at) = at {
            let short = |value: Option<&String>| value.map(|value| value.chars().take(80).collect::<String>());
            let (asked, got) = (short(self.values.get(at)), short(values.get(at)));
            panic!("client {client}, IT_SEED={seed}: value {at} is {got:?}, not {asked:?}");
        }
    }
}

/// One client asks until all together have asked `count`; it dies at random points and comes again.
fn ask(target: &Target, client: usize, seed: u64, asked: &AtomicU64, count: u64) -> Result<u64, WireError> {
    let mut rng = Rng::new(seed ^ (client as u64) << 40);
    let mut deaths = 0;
    let mut wire = target.connect()?;
    let mut fresh = true;
    while asked.load(Ordering::Relaxed) < count {
        let mut batch = Batch::default();
        for _ in 0..1 + rng.below(60) {
            batch.question(&mut rng, client, &mut fresh);
        }
        let death = rng.below(150);
        if death < 3 {
            deaths += 1;
            match death {
                // In the middle of the questions; with the answers under way; with some of them read.
                0 => wire.send(&batch.bytes[..usize::try_from(rng.below(batch.bytes.len() as u64)).unwrap()])?,
                1 => wire.send(&batch.bytes)?,
                _ => {
                    wire.send(&batch.bytes)?;
                    let _ = wire.recv_until(b'Z', 1 + batch.ends / 2)?;
                }
            }
            wire = target.connect()?;
            fresh = true;
            continue;
        }
        wire.send(&batch.bytes)?;
        batch.check(&wire.recv_until(b'Z', batch.ends)?, client, seed);
        asked.fetch_add(batch.questions, Ordering::Relaxed);
    }
    wire.close();
    Ok(deaths)
}

#[test]
fn nonce_echo_of_200_clients_on_10_servers() {
    let usual = if std::env::var_os("CI").is_some() { 1_000_000 } else { 100_000 };
    let count: u64 = std::env::var("ECHO_COUNT").map_or(usual, |text| text.parse().unwrap());
    let seed = seed("nonce_echo_of_200_clients_on_10_servers");
    let db = Db::with("CREATE TABLE echo(client int, nonce text)");
    let proxy = Spec::of(&db).pool(10).num("max_client_conn", 1000).start();
    let asked = AtomicU64::new(0);
    let start = Instant::now();
    let mut deaths = 0;
    scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (target, asked) = (proxy.client(), &asked);
                let work = move || ask(&target, client, seed, asked, count);
                Builder::new().stack_size(512 * 1024).spawn_scoped(scope, work).unwrap()
            })
            .collect();
        for client in clients {
            deaths += client.join().expect("a client got what is not its own").unwrap();
        }
    });
    println!("{} questions, {deaths} deaths, {:.1?}", asked.load(Ordering::Relaxed), start.elapsed());
    assert!(deaths > 0 || count < 100_000);
    eventually("every server has come back", secs(10), || proxy.pools("sv_active") == 0);
    assert!(db.servers() <= 10);
}
