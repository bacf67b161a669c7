//! The bank: what was acknowledged is there exactly once, what failed is absent, and no money is
//! lost, under load, with windows in a row and with clients that die at any point.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::postgres::Db;
use crate::support::proxy::Spec;
use crate::support::rng::{Rng, seed};
use crate::support::wait::{let_run, secs};
use crate::support::wire::{Msg, Target, Wire, WireError, extended, sync};
use crate::truth::windows_in_a_row;

/// A row of the ledger: worker, number, nonce.
type Row = (usize, u64, String);

/// What a worker of the bank knows of one of its transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Done,
    Failed,
    Unknown,
}

/// Intent and outcome of each transaction of one worker, by its nonce.
type Journal = BTreeMap<String, (u64, Known)>;

const BANK: &str = "CREATE TABLE account(id int PRIMARY KEY, balance bigint NOT NULL); \
     INSERT INTO account SELECT i, 1000 FROM generate_series(1, 20) i; \
     CREATE TABLE ledger(worker int, seq bigint, nonce text)";

/// Moves money until told to stop.
fn bank(target: &Target, worker: usize, seed: u64, stop: &AtomicBool) -> (Journal, Vec<String>) {
    let mut rng = Rng::new(seed ^ (worker as u64) << 40);
    let (mut journal, mut errors) = (Journal::new(), vec![]);
    let mut wire = target.login();
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let nonce = rng.nonce();
        // The intent is written before anything is sent.
        journal.insert(nonce.clone(), (seq, Known::Unknown));
        // Always in the order of the accounts, so that no two can block each other for ever.
        let (a, b, x) = (1 + rng.below(10), 11 + rng.below(10), 1 + rng.below(50));
        let statements = [
            "BEGIN".to_owned(),
            format!("INSERT INTO ledger(worker, seq, nonce) VALUES ({worker}, {seq}, '{nonce}')"),
            format!("UPDATE account SET balance = balance - {x} WHERE id = {a}"),
            format!("UPDATE account SET balance = balance + {x} WHERE id = {b}"),
            "COMMIT".to_owned(),
        ];
        let dies = rng.below(40);
        let known = match rng.below(3) {
            0 => one_query(&mut wire, &statements, dies),
            1 => pipelined(&mut wire, &statements, dies),
            _ => step_by_step(&mut wire, &statements, dies),
        };
        match known {
            Ok(Some(known)) => drop(journal.insert(nonce, (seq, known))),
            // It died by its own will.
            Ok(None) => wire = target.login(),
            Err(error) => {
                errors.push(error.to_string());
                wire = target.login();
            }
        }
    }
    (journal, errors)
}

/// All in one simple query; `None` if the client has died without knowing.
fn one_query(wire: &mut Wire, statements: &[String], dies: u64) -> Result<Option<Known>, WireError> {
    wire.start(&statements.join(";"))?;
    if dies == 0 {
        return Ok(None);
    }
    wire.finish().map(|_| Some(Known::Done))
}

/// Each statement in a batch of its own, all sent at once.
fn pipelined(wire: &mut Wire, statements: &[String], dies: u64) -> Result<Option<Known>, WireError> {
    let bytes: Vec<u8> = statements.iter().flat_map(|sql| [extended(sql, &[]), sync()].concat()).collect();
    if dies == 0 {
        wire.send(&bytes[..bytes.len() / 2])?;
        return Ok(None);
    }
    wire.send(&bytes)?;
    if dies == 1 {
        return Ok(None);
    }
    let answers = wire.recv_until(b'Z', statements.len())?;
    let bad: Option<&Msg> = answers.iter().find(|msg| msg.tag == b'E');
    bad.map_or(Ok(Some(Known::Done)), |msg| Err(WireError::Db(msg.error())))
}

fn step_by_step(wire: &mut Wire, statements: &[String], dies: u64) -> Result<Option<Known>, WireError> {
    let (commit, before) = statements.split_last().unwrap();
    for (n, sql) in before.iter().enumerate() {
        if dies == n as u64 {
            return Ok(None);
        }
        wire.query(sql)?;
    }
    if dies == 10 || dies == 11 {
        // Changes its mind: this is certain to be absent.
        wire.query("ROLLBACK")?;
        return Ok(Some(Known::Failed));
    }
    wire.start(commit)?;
    if dies == 20 {
        return Ok(None);
    }
    let reply = wire.finish()?;
    assert_eq!(reply.tags, ["COMMIT"], "a failed transaction was called committed");
    Ok(Some(Known::Done))
}

/// What is wrong between the journals and the table, each a sentence.
fn audit(journals: &[Journal], rows: &[Row], total: i64) -> Vec<String> {
    let mut wrong = vec![];
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last = vec![0; journals.len()];
    for (worker, seq, nonce) in rows {
        *found.entry(nonce).or_default() += 1;
        match journals[*worker].get(nonce) {
            None => wrong.push(format!("row without an intent: {worker} {seq} {nonce}")),
            Some((intended, _)) if intended != seq => wrong.push(format!("row {nonce} has seq {seq}, not {intended}")),
            Some((_, Known::Done)) if *seq <= last[*worker] => {
                wrong.push(format!("worker {worker}: {seq} after {}", last[*worker]))
            }
            Some((_, Known::Done)) => last[*worker] = *seq,
            Some(_) => {}
        }
    }
    for (nonce, (seq, known)) in journals.iter().flatten() {
        let count = found.get(nonce.as_str()).copied().unwrap_or(0);
        let right = match known {
            Known::Done => count == 1,
            Known::Failed => count == 0,
            Known::Unknown => count <= 1,
        };
        if !right {
            wrong.push(format!("{known:?} transaction {seq} is there {count} times"));
        }
    }
    if total != 20_000 {
        wrong.push(format!("the sum of all balances is {total}"));
    }
    wrong
}

/// The ledger in the order in which it was written, and the sum of all balances.
fn books(db: &Db) -> (Vec<Row>, i64) {
    let rows = db.sql("SELECT worker, seq, nonce FROM ledger ORDER BY worker, xmin::text::bigint, ctid").rows;
    let rows = rows.into_iter().map(|row| {
        let text = |n: usize| row[n].clone().unwrap();
        (text(0).parse().unwrap(), text(1).parse().unwrap(), text(2))
    });
    (rows.collect(), db.one("SELECT sum(balance) FROM account").parse().unwrap())
}

#[test]
fn bank_ledger_under_windows() {
    let seed = seed("bank_ledger_under_windows");
    let db = Db::with(BANK);
    let proxy = Spec::of(&db).pool(5).start();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..24)
        .map(|worker| {
            let (target, stop) = (proxy.client(), Arc::clone(&stop));
            thread::spawn(move || bank(&target, worker, seed, &stop))
        })
        .collect();
    let windows = thread::scope(|scope| {
        // The change is made to the table that the clients write to.
        let windows = scope.spawn(|| windows_in_a_row(&proxy, "ledger", &stop));
        let_run(secs(8));
        stop.store(true, Ordering::Relaxed);
        windows.join().unwrap()
    });
    let (journals, errors): (Vec<Journal>, Vec<Vec<String>>) =
        workers.into_iter().map(|worker| worker.join().unwrap()).unzip();
    crate::support::wait::eventually("every server has come back", secs(10), || proxy.pools("sv_active") == 0);
    // Also what died at the last moment has ended.
    crate::support::wait::eventually("nothing is open", secs(10), || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()",
            db.name
        );
        db.one(&sql) == "0"
    });
    let (rows, total) = books(&db);
    println!("{} transactions, {windows} windows", rows.len());
    let errors: Vec<String> = errors.into_iter().flatten().collect();
    assert!(errors.is_empty(), "seed {seed}: {} client errors: {:?}", errors.len(), &errors[..errors.len().min(10)]);
    let wrong = audit(&journals, &rows, total);
    assert!(wrong.is_empty(), "seed {seed}: {} mistakes: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    assert!(windows >= 5, "only {windows} windows");
    assert!(rows.len() > 200, "only {} transactions", rows.len());
}

/// The audit's own sharpness: it passes for an honest run without the proxy, and notices each kind of lie.
#[test]
fn the_audit_notices_each_kind_of_lie() {
    let db = Db::with(BANK);
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (target, stop) = (db.direct(), Arc::clone(&stop));
            thread::spawn(move || bank(&target, worker, 7, &stop))
        })
        .collect();
    crate::support::wait::eventually("there is enough to audit", secs(20), || {
        db.one("SELECT count(*) FROM ledger").parse::<u32>().unwrap() > 300
    });
    stop.store(true, Ordering::Relaxed);
    let journals: Vec<Journal> = workers.into_iter().map(|worker| worker.join().unwrap().0).collect();
    let (rows, total) = books(&db);
    assert_eq!(audit(&journals, &rows, total), Vec::<String>::new());

    let done =
        |rows: &[Row]| rows.iter().position(|(worker, _, nonce)| journals[*worker][nonce].1 == Known::Done).unwrap();
    let lie = |change: &dyn Fn(&mut Vec<Row>)| {
        let mut rows = rows.clone();
        change(&mut rows);
        audit(&journals, &rows, total)
    };
    assert_eq!(audit(&journals, &rows, total + 1).len(), 1, "money from nowhere");
    assert!(!lie(&|rows| drop(rows.remove(done(rows)))).is_empty(), "a lost commit");
    assert!(!lie(&|rows| rows.push(rows[done(rows)].clone())).is_empty(), "a commit twice");
    assert!(!lie(&|rows| rows.push((0, 1, "stranger".to_owned()))).is_empty(), "a row of nobody");
    let failed = journals.iter().enumerate().find_map(|(worker, journal)| {
        let (nonce, (seq, _)) = journal.iter().find(|(_, (_, known))| *known == Known::Failed)?;
        Some((worker, *seq, nonce.clone()))
    });
    let failed = failed.expect("some have changed their mind");
    assert!(!lie(&|rows| rows.push(failed.clone())).is_empty(), "a rollback that stayed");
}
