//! The record of a window as it stands on the disk: its receipt, and until it has ended what is needed to find out how. Pure.
//!
//! A file is one line that says what it is, with a hash of the rest, and the rest is JSON. There is one file for each
//! window, from before its first effect to the end: the receipt takes the place of what stood there.

use std::collections::{BTreeSet, HashSet};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::receipt::{Limits, Receipt};

/// What a file begins with; the number is that of its form.
const HEAD: &str = "pglull record 1 sha256=";
/// How the name of a record's file ends.
const SUFFIX: &str = ".record";
/// The longest record that is read, in bytes; those that we write are far below.
pub const LONGEST: u64 = 4 << 20;

/// What is needed to find out what became of a change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pledge {
    /// The table in which the change is noted, `schema.table`, if anywhere.
    pub change_table: Option<String>,
    /// The process that runs it.
    pub pid: i64,
    /// When that began, in microseconds by the server's clock.
    pub since: i64,
    /// Its transaction, where that is the only witness.
    pub transaction: Option<u64>,
    /// Which database it is: the system's identifier and the database's number.
    pub place: String,
}

impl Receipt {
    /// The name of its record's file: sorted by name, files are sorted by age.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}-{}{SUFFIX}", compact(&self.started_at), self.id)
    }
}

/// The record of a window.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// As far as it is known; its outcome is empty until the window has ended.
    pub receipt: Receipt,
    /// Of a change that may have been begun, until it is known what became of it.
    pub pledge: Option<Pledge>,
}

impl Record {
    /// Whether the window has ended and it is known how.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.pledge.is_none() && !self.receipt.outcome.is_empty()
    }

    /// The file.
    ///
    /// # Errors
    /// If there is no JSON for it, which does not happen.
    pub fn encode(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{HEAD}{}\n{json}\n", hash(&json)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Why it is none of ours, or not as we wrote it.
    pub fn decode(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix(HEAD) else {
            return Err("it does not begin as a record does".to_owned());
        };
        let Some((expected, json)) = rest.split_once('\n') else {
            return Err("it ends in its first line".to_owned());
        };
        let json = json.strip_suffix('\n').unwrap_or(json);
        if hash(json) != expected {
            return Err("it is damaged: its hash is another".to_owned());
        }
        serde_json::from_str(json).map_err(|error| format!("it cannot be read: {error}"))
    }

    /// What is left to be said of a window whose file cannot be read. `None`: the file's name is none of ours.
    #[must_use]
    pub fn unreadable(file_name: &str, why: &str) -> Option<Self> {
        let (started, id) = file_name.strip_suffix(SUFFIX)?.split_once('-')?;
        let receipt = Receipt {
            id: id.to_owned(),
            databases: Vec::new(),
            form: "".into(),
            owner: String::new(),
            change_sha256: String::new(),
            started_at: expanded(started)?,
            ended_at: String::new(),
            phase: "closed".into(),
            outcome: "unknown".into(),
            reason: format!("its record {file_name} is of no use: {why}"),
            limits: Limits::default(),
            took: super::receipt::Took::default(),
            held: super::receipt::Held::default(),
            preflight: Vec::new(),
            blockers: Vec::new(),
            cuts: Vec::new(),
            notices: Vec::new(),
            edges: Vec::new(),
            samples: Vec::new(),
            stalls: Vec::new(),
        };
        Some(Self { receipt, pledge: None })
    }
}

/// Whether a file's name is that of a record.
#[must_use]
pub fn is_record(file_name: &str) -> bool {
    file_name.ends_with(SUFFIX)
}

/// Which of these receipts (sorted by age) are from before `oldest`, or too many. Of those that are too many, tries that failed
/// and were followed by another under their id go first: whoever tries for hours does not push out what others have done.
#[must_use]
pub fn superfluous(sorted: &[Receipt], most: usize, oldest: Option<&str>) -> BTreeSet<usize> {
    let old = sorted.partition_point(|receipt| receipt.started_at.as_str() < oldest.unwrap_or_default());
    let too_many = (sorted.len() - old).saturating_sub(most);
    let mut later = HashSet::new();
    let mut tries = BTreeSet::new();
    for (ix, receipt) in sorted.iter().enumerate().skip(old).rev() {
        let followed = !later.insert(receipt.id.as_str());
        if followed && matches!(receipt.outcome.as_ref(), "refused" | "aborted") {
            tries.insert(ix);
        }
    }
    let others = (old..sorted.len()).filter(|ix| !tries.contains(ix));
    (0..old).chain(tries.iter().copied().chain(others).take(too_many)).collect()
}

fn compact(time: &str) -> String {
    time.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// `20261122T081500.123Z` as it is in receipts.
fn expanded(time: &str) -> Option<String> {
    let (date, clock) = time.split_once('T')?;
    let part = |text: &str, from: usize, to: usize| text.get(from..to).map(str::to_owned);
    let (year, month, day) = (part(date, 0, 4)?, part(date, 4, 6)?, part(date, 6, 8)?);
    let (hour, minute, second) = (part(clock, 0, 2)?, part(clock, 2, 4)?, clock.get(4..)?);
    Some(format!("{year}-{month}-{day}T{hour}:{minute}:{second}"))
}

fn hash(json: &str) -> String {
    digest::digest(&digest::SHA256, json.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::receipt::{Blocker, Edge};
    use super::*;

    fn record() -> Record {
        let mut record = Record::unreadable("20261122T081500.123Z-w-1:a.b.record", "x").unwrap();
        record.receipt.outcome = "".into();
        record.receipt.edges = vec![Edge { at_ms: 1, phase: "draining".into() }];
        record.receipt.blockers = vec![Blocker {
            database: "d\n\"".to_owned(),
            kind: "transaction".into(),
            user: "ü".to_owned(),
            application_name: String::new(),
            addr: "::1".to_owned(),
            port: 1,
            state: "active".into(),
            age_ms: u64::MAX,
            statement: "select '\\'".to_owned(),
            server_pid: -1,
            id: 7,
        }];
        record.pledge = Some(Pledge { pid: 7, transaction: Some(u64::MAX), ..Pledge::default() });
        record
    }

    #[test]
    fn what_is_written_is_read() {
        let record = record();
        assert_eq!(Record::decode(&record.encode().unwrap()), Ok(record.clone()));
        assert_eq!(record.receipt.file_name(), "20261122T081500.123Z-w-1:a.b.record");
        assert!(!record.settled());
        assert_eq!(record.receipt.started_at, "2026-11-22T08:15:00.123Z");
    }

    #[test]
    fn what_is_damaged_is_not_believed() {
        let good = record().encode().unwrap();
        for cut in (0..good.len() - 1).filter(|cut| good.is_char_boundary(*cut)) {
            assert!(Record::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(Record::decode(&text).is_err(), "another byte at {at}");
            }
        }
        let future = good.replacen("record 1", "record 2", 1);
        assert!(Record::decode(&future).unwrap_err().contains("does not begin"));
    }

    #[test]
    fn the_name_of_an_unreadable_file_says_what_it_was() {
        let record = Record::unreadable("20261122T081500.123Z-w-1.record", "why").unwrap();
        assert_eq!((record.receipt.id.as_str(), record.receipt.outcome.as_ref()), ("w-1", "unknown"));
        for name in ["x", "x.record", "-.record", "2026-w.record", "ü-x.record", ".record"] {
            assert_eq!(Record::unreadable(name, "why"), None, "{name}");
        }
    }

    #[test]
    fn the_oldest_are_superfluous() {
        let all = [receipt(2025, "a", "applied"), receipt(2026, "b", "aborted"), receipt(2027, "c", "refused")];
        let gone = |most, oldest| superfluous(&all, most, oldest).into_iter().collect::<Vec<_>>();
        assert!(gone(10, None).is_empty());
        assert_eq!(gone(1, None), [0, 1]);
        assert_eq!(gone(10, Some("2026-06-01T00:00:00.000Z")), [0, 1]);
        assert_eq!(gone(0, Some("1970-01-01T00:00:00.000Z")), [0, 1, 2]);
    }

    fn receipt(year: u16, id: &str, outcome: &'static str) -> Receipt {
        let record = Record::unreadable(&format!("{year}0101T000000.000Z-{id}.record"), "x").unwrap();
        Receipt { outcome: outcome.into(), ..record.receipt }
    }

    #[test]
    fn tries_that_failed_go_before_what_others_have_done() {
        let all = [
            receipt(2020, "old", "applied"),
            receipt(2021, "try", "applied"),
            receipt(2022, "try", "aborted"),
            receipt(2023, "other", "aborted"),
            receipt(2024, "try", "refused"),
            receipt(2025, "try", "aborted"),
        ];
        let gone = |most, oldest| superfluous(&all, most, oldest).into_iter().collect::<Vec<_>>();
        assert!(gone(6, None).is_empty());
        assert_eq!(gone(5, None), [2], "the oldest try");
        assert_eq!(gone(4, None), [2, 4], "the last under its id is no try");
        assert_eq!(gone(3, None), [0, 2, 4], "then the oldest of all");
        assert_eq!(gone(4, Some("2021-06-01T00:00:00.000Z")), [0, 1], "what is old makes room too");
        assert_eq!(gone(0, None), [0, 1, 2, 3, 4, 5]);
    }
}
