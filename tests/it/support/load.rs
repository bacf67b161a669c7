//! Clients that work in loops and write down everything that goes wrong for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use super::wait::{eventually, secs};
use super::wire::{Target, Wire, WireError};

/// What the clients of a load saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) transactions: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) disconnects: Vec<String>,
    pub(crate) longest: Duration,
}

impl Report {
    /// Nobody saw an error, nobody was disconnected, and there was work.
    pub(crate) fn assert_clean(&self) {
        assert!(self.errors.is_empty(), "client errors: {:?}", self.errors);
        assert!(self.disconnects.is_empty(), "disconnects: {:?}", self.disconnects);
        assert!(self.transactions > 0, "the load did nothing");
    }
}

/// A running load. Dropping it lets its clients end by themselves.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts `count` clients; each runs `job(client, connection, round)` until it is told to stop.
    pub(crate) fn start(
        target: &Target,
        count: usize,
        job: impl Fn(usize, &mut Wire, u64) -> Result<(), WireError> + Send + Sync + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let job = Arc::new(job);
        let done: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let threads = (0..count)
            .map(|worker| {
                let (target, stop, job) = (target.clone(), Arc::clone(&stop), Arc::clone(&job));
                let done = Arc::clone(&done[worker]);
                let work = move || work(&target, &stop, &done, |wire, n| job(worker, wire, n));
                let named = Builder::new().name(format!("load-{worker}"));
                named.stack_size(512 * 1024).spawn(work).unwrap()
            })
            .collect();
        Self { stop, done, threads }
    }

    /// Waits until every client has finished `rounds` more transactions than now.
    pub(crate) fn progress(&self, rounds: u64) {
        let from: Vec<_> = self.done.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        eventually("every client of the load goes on", secs(20), || {
            let now = self.done.iter().map(|count| count.load(Ordering::Relaxed));
            now.zip(&from).all(|(now, from)| now >= from + rounds)
        });
    }

    /// Ends the load after the clients' current transactions.
    pub(crate) fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().expect("a client of the load panicked");
            all.transactions += one.transactions;
            all.errors.extend(one.errors);
            all.disconnects.extend(one.disconnects);
            all.longest = all.longest.max(one.longest);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn work(
    target: &Target,
    stop: &AtomicBool,
    done: &AtomicU64,
    job: impl Fn(&mut Wire, u64) -> Result<(), WireError>,
) -> Report {
    let mut report = Report::default();
    let mut wire: Option<Wire> = None;
    // A client that only fails must not fill the memory, nor keep a processor busy for nothing.
    while !stop.load(Ordering::Relaxed) && report.errors.len() + report.disconnects.len() < 100 {
        let open = match wire.as_mut() {
            Some(open) => open,
            None => match target.connect() {
                Ok(new) => wire.insert(new),
                Err(error) => {
                    report.errors.push(format!("login: {error}"));
                    continue;
                }
            },
        };
        let start = Instant::now();
        match job(open, report.transactions) {
            Ok(()) => {
                report.transactions += 1;
                report.longest = report.longest.max(start.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error @ (WireError::Closed | WireError::Io(_))) => {
                report.disconnects.push(error.to_string());
                wire = None;
            }
            Err(error) => {
                report.errors.push(error.to_string());
                wire = None;
            }
        }
    }
    report
}

/// A transaction of two statements on table `accounts(id, n)` with 100 rows, or one statement, by turns.
pub(crate) fn short_work(worker: usize, wire: &mut Wire, round: u64) -> Result<(), WireError> {
    // Each client has its row: the clients wait for the proxy, never for each other.
    let update = format!("UPDATE accounts SET n = n + 1 WHERE id = {worker}");
    if round.is_multiple_of(2) {
        wire.query(&update)?;
    } else {
        wire.query("BEGIN")?;
        wire.query(&update)?;
        wire.query("SELECT sum(n) FROM accounts WHERE id < 10")?;
        let status = wire.query("COMMIT")?.status;
        assert_eq!(status, b'I');
    }
    Ok(())
}

/// A transaction that stays open for 200 ms.
pub(crate) fn slow_work(_: usize, wire: &mut Wire, _: u64) -> Result<(), WireError> {
    wire.query("BEGIN")?;
    wire.query("SELECT count(*), pg_sleep(0.2) FROM accounts")?;
    wire.query("COMMIT")?;
    Ok(())
}

/// What the loads work on.
pub(crate) const ACCOUNTS: &str = "CREATE TABLE accounts(id int PRIMARY KEY, n bigint NOT NULL); \
     INSERT INTO accounts SELECT i, 0 FROM generate_series(0, 99) i";
