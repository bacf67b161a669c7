//! What the clients saw, from pgbench's own logs and words: pure text in, numbers out.
//!
//! pgbench logs one line a transaction; with a rate it counts the wait for the schedule into the time and names
//! it in a seventh field, which is taken off again: what counts is how long a client waited for its answer.

use std::collections::BTreeMap;

/// One transaction of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// When it was over, in microseconds of the wall clock since 1970.
    pub(crate) end_us: u64,
    /// How long the client waited for it, in microseconds.
    pub(crate) took_us: u64,
}

/// What pgbench's log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    /// Every transaction that succeeded, in the log's order.
    pub(crate) transactions: Vec<Transaction>,
    /// Transactions that failed.
    pub(crate) failed: u64,
    /// Lines that are no log lines.
    pub(crate) odd: u64,
}

/// Reads a log. `own_us` is what the script itself sleeps in each transaction; that is no waiting.
pub(crate) fn read_log(text: &str, own_us: u64) -> Log {
    let mut log = Log::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let when = number(4).zip(number(5)).map(|(s, us)| s.saturating_mul(1_000_000).saturating_add(us));
        match (number(2), when) {
            (Some(time), Some(end_us)) => {
                let took_us = time.saturating_sub(number(6).unwrap_or(0)).saturating_sub(own_us);
                log.transactions.push(Transaction { end_us, took_us });
            }
            (None, Some(_)) if matches!(fields[2], "failed" | "serialization" | "deadlock") => log.failed += 1,
            (None, Some(_)) if fields[2] == "skipped" => {}
            _ => log.odd += 1,
        }
    }
    log
}

/// What became of the clients of one pgbench.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// Clients that got an error, and transactions that pgbench counts as failed.
    pub(crate) errors: u64,
    /// Clients whose connection ended, or that never got one.
    pub(crate) disconnects: u64,
    /// The first words of each kind of trouble, without repetition.
    pub(crate) words: Vec<String>,
}

/// Words by which libpq and pgbench tell that a connection has ended or was not made.
const LOST: [&str; 6] = [
    "server closed the connection",
    "perhaps the backend died",
    "terminating connection",
    "connection to server",
    "could not create connection",
    "no connection to the server",
];

/// Reads pgbench's output and its complaints. `good_exit` is whether it ended with 0.
pub(crate) fn read_fates(output: &str, complaints: &str, good_exit: bool) -> Fates {
    let mut fates = Fates::default();
    // A client that loses its connection may be complained about twice.
    let mut clients: BTreeMap<u64, bool> = BTreeMap::new();
    let mut nobody_lost = 0;
    for line in complaints.lines().map(|l| l.trim_start_matches("pgbench: ").trim()) {
        let lost = LOST.iter().any(|words| line.contains(words));
        let client = line.split("client ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        match client {
            Some(client) if lost || line.contains("aborted") => *clients.entry(client).or_default() |= lost,
            _ if lost && line.starts_with("error") => nobody_lost += 1,
            _ if line.contains("Run was aborted") => continue,
            _ if line.starts_with("error") || line.starts_with("fatal") => {}
            _ => continue,
        }
        let words = line.split_once(": ERROR:").or_else(|| line.split_once(": FATAL:"));
        let words = words.map_or(line, |(_, what)| what.trim()).to_owned();
        if fates.words.len() < 5 && !fates.words.contains(&words) {
            fates.words.push(words);
        }
    }
    fates.disconnects = nobody_lost + clients.values().filter(|lost| **lost).count() as u64;
    fates.errors = clients.values().filter(|lost| !**lost).count() as u64;
    let failed = output.lines().find_map(|l| l.strip_prefix("number of failed transactions: "));
    fates.errors += failed.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    if !good_exit && fates.errors + fates.disconnects == 0 {
        fates.errors = 1;
        fates.words.push("pgbench ended with an error".to_owned());
    }
    fates
}

/// One step of the timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Transactions that were over in it.
    pub(crate) count: u64,
    /// The longest wait among them, in microseconds.
    pub(crate) worst_us: u64,
}

/// The transactions by steps of `step_us`, from `from_us` on; those outside are left out.
pub(crate) fn series(transactions: &[Transaction], from_us: u64, step_us: u64, steps: usize) -> Vec<Bucket> {
    let mut out = vec![Bucket::default(); steps];
    for transaction in transactions {
        let at = transaction.end_us.checked_sub(from_us).map(|after| after / step_us.max(1));
        if let Some(bucket) = at.and_then(|at| out.get_mut(usize::try_from(at).ok()?)) {
            bucket.count += 1;
            bucket.worst_us = bucket.worst_us.max(transaction.took_us);
        }
    }
    out
}

/// Those who waited at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// How many.
    pub(crate) count: usize,
    /// Their median wait, in microseconds.
    pub(crate) median_us: u64,
    /// The longest wait among them, in microseconds.
    pub(crate) longest_us: u64,
}

/// Who waited in the worst of many moments between these two: the one where the waits add up to the most.
/// The moment is searched for because two clocks and a busy machine never agree to the millisecond.
pub(crate) fn worst_moment(transactions: &[Transaction], from_us: u64, to_us: u64) -> Option<Waiting> {
    const MOMENTS: u64 = 50;
    let begin = |t: &Transaction| t.end_us.saturating_sub(t.took_us);
    let near: Vec<&Transaction> = transactions.iter().filter(|t| t.end_us >= from_us && begin(t) <= to_us).collect();
    let waits_at = |moment: u64| {
        let there = near.iter().filter(|t| begin(t) <= moment && moment < t.end_us);
        there.map(|t| t.took_us).collect::<Vec<u64>>()
    };
    let moments = (0..=MOMENTS).map(|n| from_us + to_us.saturating_sub(from_us) * n / MOMENTS);
    let mut waits = moments.map(waits_at).max_by_key(|waits| waits.iter().sum::<u64>())?;
    waits.sort_unstable();
    let (median_us, longest_us) = (*waits.get(waits.len() / 2)?, *waits.last()?);
    Some(Waiting { count: waits.len(), median_us, longest_us })
}

/// The median wait of these transactions, in microseconds.
pub(crate) fn median_us(transactions: impl Iterator<Item = Transaction>) -> Option<u64> {
    let mut waits: Vec<u64> = transactions.map(|t| t.took_us).collect();
    let middle = waits.len() / 2;
    (middle < waits.len()).then(|| *waits.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines() {
        let text = "0 1 3612 0 1795361579 229804 73\n1 1 3528 0 1795361579 241398\n2 9 failed 0 1795361580 000001\n\
                    2 9 skipped 0 1795361580 000001 5\n2 9 deadlock 0 1795361580 1\nnonsense\n3 1 35";
        let log = read_log(text, 0);
        let expect = [
            Transaction { end_us: 1_795_361_579_229_804, took_us: 3539 },
            Transaction { end_us: 1_795_361_579_241_398, took_us: 3528 },
        ];
        assert_eq!((log.transactions.as_slice(), log.failed, log.odd), (&expect[..], 2, 2));
        assert_eq!(read_log("0 1 203612 0 1 0", 200_000).transactions[0].took_us, 3612);
        assert_eq!(read_log("0 1 100 0 1 0", 200_000).transactions[0].took_us, 0);
    }

    #[test]
    fn fates_of_clients() {
        let good = "number of failed transactions: 0 (0.000%)\n";
        assert_eq!(read_fates(good, "", true), Fates::default());
        assert_eq!(read_fates(good, "pgbench: warning: something\n", true), Fates::default());
        let cases = [
            (
                "pgbench: error: client 0 script 0 aborted in command 1 query 0: ERROR:  cached plan must not change result type\n\
                 pgbench: error: client 3 script 0 aborted in command 1 query 0: ERROR:  cached plan must not change result type\n\
                 pgbench: error: Run was aborted; the above results are incomplete.\n",
                (2, 0),
                "cached plan must not change result type",
            ),
            (
                "pgbench: error: client 2 script 0 aborted in command 4 query 0: FATAL:  terminating connection due to administrator command\n\
                 pgbench:error: client 2 aborted in command 4 (SQL) of script 0; perhaps the backend died while processing\n",
                (0, 1),
                "terminating connection due to administrator command",
            ),
            (
                "pgbench: error: connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n\
                 pgbench: error: could not create connection for setup\n",
                (0, 2),
                "error: connection to server at \"127.0.0.1\", port 1 failed: Connection refused",
            ),
        ];
        for (complaints, expect, words) in cases {
            let fates = read_fates("", complaints, false);
            assert_eq!((fates.errors, fates.disconnects), expect, "{complaints}");
            assert_eq!(fates.words[0], words);
        }
        assert_eq!(read_fates("number of failed transactions: 3 (0.1%)", "", true).errors, 3);
        assert_eq!(read_fates("", "", false).errors, 1);
    }

    fn transactions(list: &[(u64, u64)]) -> Vec<Transaction> {
        list.iter().map(|&(end_us, took_us)| Transaction { end_us, took_us }).collect()
    }

    #[test]
    fn steps_of_the_timeline() {
        let given = transactions(&[(99, 1), (100, 5), (199, 9), (200, 2), (399, 7), (400, 1)]);
        let found: Vec<_> = series(&given, 100, 100, 3).iter().map(|b| (b.count, b.worst_us)).collect();
        assert_eq!(found, [(2, 9), (1, 2), (1, 7)]);
    }

    #[test]
    fn who_waits_in_the_worst_moment() {
        let given = transactions(&[(90, 50), (150, 60), (200, 150), (200, 99), (210, 120)]);
        let expect = Waiting { count: 4, median_us: 120, longest_us: 150 };
        assert_eq!(worst_moment(&given, 90, 250), Some(expect));
        assert_eq!(worst_moment(&given, 500, 600), None);
        assert_eq!(median_us(given.into_iter()), Some(99));
        assert_eq!(median_us(std::iter::empty()), None);
    }
}
