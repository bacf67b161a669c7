//! What the demo tells at its end: the clients' table, the stall, the timeline and the sums.
//!
//! Pure: what was observed goes in, text of at most 80 columns comes out. The sleeps of the scripts are no waiting
//! and have been taken off before.

use super::change::Outcome;
use super::load::Seen;
use super::observe::{Transaction, median_us, series, worst_moment};
use super::plot::{Timeline, draw, scale};
use crate::cli::client::Rows;
use crate::cli::{pairs, render, seconds};

/// What is shown before the change and after it, in milliseconds.
const BEFORE_MS: u64 = 2_000;
const AFTER_MS: u64 = 3_000;
/// What is shown of the change at most: one that takes longer is cut off on the right.
const CHANGE_MAX_MS: u64 = 60_000;
/// Everything is written for a terminal of this width.
const WIDTH: usize = 80;

/// The sums over all clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) clients: u64,
    pub(crate) transactions: u64,
    pub(crate) errors: u64,
    pub(crate) disconnects: u64,
}

/// Adds up what all groups saw.
pub(crate) fn sums(seen: &[Seen]) -> Sums {
    seen.iter().fold(Sums::default(), |sum, group| Sums {
        clients: sum.clients + u64::from(group.group.clients),
        transactions: sum.transactions + group.log.transactions.len() as u64,
        errors: sum.errors + group.fates.errors,
        disconnects: sum.disconnects + group.fates.disconnects,
    })
}

/// One line for each group of clients, and what went wrong in its own words.
pub(crate) fn clients(seen: &[Seen]) -> String {
    let columns = ["clients", "work", "transactions", "errors", "disconnects", "median"];
    let rows = seen.iter().map(|group| {
        let median = median_us(group.log.transactions.iter().copied());
        [
            format!("{:>2} {}", group.group.clients, group.group.mode),
            group.group.does.to_owned(),
            group.log.transactions.len().to_string(),
            group.fates.errors.to_string(),
            group.fates.disconnects.to_string(),
            median.map(millis).unwrap_or_default(),
        ]
    });
    let rows = rows.map(|row| row.into_iter().map(Some).collect()).collect();
    let table = Rows { columns: columns.map(str::to_owned).to_vec(), rows, tag: String::new() };
    let mut text = render(&table, usize::MAX);
    for group in seen {
        for words in &group.fates.words {
            text.push_str(&format!("  {}: {words}\n", group.group.does));
        }
    }
    text
}

/// How long who waited, for the clients and for the receipt.
pub(crate) fn stall(outcome: &Outcome, all: &[Transaction]) -> String {
    let mut text = String::new();
    if let Some(waiting) = worst_moment(all, outcome.felt_us.0, outcome.felt_us.1) {
        text.push_str(&format!(
            "As the clients measured it: {} waited for the change, {} in the median, {} at most.\n",
            waiting.count,
            seconds(waiting.median_us / 1000),
            seconds(waiting.longest_us / 1000)
        ));
    }
    if !outcome.receipt.is_empty() {
        text.push_str("\nThe receipt\n");
        text.push_str(&pairs(&outcome.receipt, WIDTH));
    }
    text
}

/// The timeline around the change.
pub(crate) fn timeline(outcome: &Outcome, all: &[Transaction]) -> String {
    let (from_us, to_us) = outcome.felt_us;
    let change_ms = (to_us.saturating_sub(from_us) / 1000).min(CHANGE_MAX_MS);
    let (step_ms, columns) = scale(BEFORE_MS + change_ms + AFTER_MS, WIDTH);
    let buckets = series(all, from_us.saturating_sub(BEFORE_MS * 1000), step_ms * 1000, columns);
    let timeline = Timeline { buckets: &buckets, step_ms, from_ms: -(BEFORE_MS as i64), marks: &outcome.marks };
    let mut text = draw(&timeline).join("\n");
    text.push('\n');
    text
}

/// All transactions of these groups; the sleeps of the scripts are no waiting and are taken off already.
pub(crate) fn everybody(seen: &[Seen]) -> Vec<Transaction> {
    seen.iter().flat_map(|group| group.log.transactions.iter().copied()).collect()
}

fn millis(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::load::{GROUPS, NAMED};
    use super::super::observe::{Fates, Log};
    use super::super::plot::Mark;
    use super::*;

    fn seen() -> Vec<Seen> {
        let log = Log {
            transactions: (0..100).map(|n| Transaction { end_us: 10_000_000 + n * 50_000, took_us: 2_000 }).collect(),
            ..Log::default()
        };
        let words = vec!["cached plan must not change result type".to_owned()];
        vec![
            Seen { group: GROUPS[0], log, fates: Fates::default() },
            Seen { group: NAMED, log: Log::default(), fates: Fates { errors: 4, disconnects: 1, words } },
        ]
    }

    #[test]
    fn the_clients_table() {
        let text = clients(&seen());
        assert!(text.contains("|          100 |      0 |           0 | 2.0 ms\n"), "{text}");
        assert!(text.ends_with("  named reads: cached plan must not change result type\n"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert_eq!(sums(&seen()), Sums { clients: 16, transactions: 100, errors: 4, disconnects: 1 });
    }

    #[test]
    fn stall_and_timeline() {
        let outcome = Outcome {
            applied: true,
            reason: String::new(),
            felt_us: (12_000_000, 13_500_000),
            marks: vec![Mark { letter: 'a', name: "apply", from_ms: 0, to_ms: 1500 }],
            receipt: vec![("outcome".to_owned(), "applied".to_owned())],
        };
        let mut all = everybody(&seen());
        all.push(Transaction { end_us: 13_500_000, took_us: 1_400_000 });
        let text = stall(&outcome, &all);
        assert!(text.contains("1 waited for the change, 1.40 s in the median"), "{text}");
        assert!(text.ends_with("outcome | applied\n"));
        let drawn = timeline(&outcome, &all);
        assert!(drawn.contains("aaaaaaaaaaaaaaa─"), "{drawn}");
        assert!(drawn.lines().all(|l| l.chars().count() <= WIDTH), "{drawn}");
    }
}
