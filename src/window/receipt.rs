//! The record that a window leaves: what, who, phases, stalls, blockers, outcome. Pure; rendered by the console and the CLI.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Outcome;
use super::machine::{Times, Window};
use super::plan::Bounds;
use super::preflight::Line;
use crate::ids::{Moment, millis};

/// A word of ours; one that was read from a record is not static.
pub type Word = Cow<'static, str>;

/// Who keeps a drain from finishing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocker {
    /// The database.
    pub database: String,
    /// `transaction`: open through us. `beside`: a session that does not come through us.
    pub kind: Word,
    /// Who.
    pub user: String,
    /// What it calls itself.
    pub application_name: String,
    /// From where.
    pub addr: String,
    /// The port there.
    pub port: u16,
    /// `active` or `idle in transaction`.
    pub state: Word,
    /// Age of its transaction in milliseconds.
    pub age_ms: u64,
    /// The beginning of its last statement; passwords redacted.
    pub statement: String,
    /// The process of its server.
    pub server_pid: i32,
    /// The client's number in `SHOW CLIENTS`.
    pub id: u64,
}

/// Somebody who was cut for a window, by a policy that the operator named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// The database.
    pub database: String,
    /// `client` of ours, or `session` beside us.
    pub kind: Word,
    /// Its number: of the client in `SHOW CLIENTS`, or of the session's process.
    pub id: u64,
    /// Who.
    pub user: String,
    /// What it calls itself.
    pub application_name: String,
    /// `cancel` or `terminate`.
    pub policy: Word,
}

impl Blocker {
    /// One line for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        if self.kind == "beside" {
            return format!(
                "process {} ({}, application \"{}\", beside pglull) {} for {} ms, last statement: {}",
                self.server_pid, self.user, self.application_name, self.state, self.age_ms, self.statement
            );
        }
        format!(
            "client {} ({} at {}:{}, application \"{}\") {} for {} ms, last statement: {}",
            self.id, self.user, self.addr, self.port, self.application_name, self.state, self.age_ms, self.statement
        )
    }
}

/// What the shut gate did to clients, over all databases of the window.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Held {
    pub held_now: u64,
    pub held_peak: u64,
    pub held_total: u64,
    pub released: u64,
    pub cancelled: u64,
    pub left: u64,
    pub expired: u64,
    pub cut: u64,
    pub stall_p50_ms: u64,
    pub stall_p99_ms: u64,
    pub stall_max_ms: u64,
}

impl Held {
    /// Sets the stall figures from single stalls.
    pub fn stalls(&mut self, mut stalls_ms: Vec<u64>) {
        stalls_ms.sort_unstable();
        let at = |percent: usize| {
            let rank = (stalls_ms.len() * percent).div_ceil(100).max(1) - 1;
            stalls_ms.get(rank).copied().unwrap_or_default()
        };
        (self.stall_p50_ms, self.stall_p99_ms) = (at(50), at(99));
        self.stall_max_ms = stalls_ms.last().copied().unwrap_or_default();
    }
}

/// A text of Postgres', cut where it is longer than a record should be.
#[must_use]
pub fn shorten(text: &str) -> String {
    const KEPT: usize = 2000;
    match text.char_indices().nth(KEPT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} ... ({} bytes in all)", text.get(..end).unwrap_or_default(), text.len()),
    }
}

/// How long each phase took, in milliseconds; a phase that runs counts up to `now`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Took {
    pub elapsed_ms: u64,
    pub preflight_ms: u64,
    pub drain_ms: u64,
    pub hold_ms: u64,
    pub apply_ms: u64,
    pub heal_ms: u64,
    pub release_ms: u64,
}

impl Took {
    /// Measures a window at `now`.
    #[must_use]
    pub fn of(window: &Window, now: Moment) -> Self {
        let Times { started, shut, drained, apply_began, apply_ended, opened, closed } = window.times;
        let end = closed.unwrap_or(now);
        let between = |from: Option<Moment>, to: &[Option<Moment>]| match from {
            Some(from) => millis(to.iter().flatten().next().copied().unwrap_or(end).since(from)),
            None => 0,
        };
        Self {
            elapsed_ms: millis(end.since(started)),
            preflight_ms: between(Some(started), &[shut]),
            drain_ms: between(shut, &[drained, opened]),
            hold_ms: between(shut, &[opened]),
            apply_ms: between(apply_began, &[apply_ended, opened]),
            heal_ms: if window.phase.outcome().is_some_and(|outcome| *outcome == Outcome::Applied) {
                between(apply_ended, &[opened])
            } else {
                0
            },
            release_ms: between(opened, &[]),
        }
    }
}

/// The bounds that it had, in milliseconds; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Limits {
    pub drain_limit_ms: u64,
    pub apply_limit_ms: u64,
    pub hold_limit_ms: u64,
    pub tenure_limit_ms: u64,
}

impl Limits {
    /// Those of a plan.
    #[must_use]
    pub fn of(bounds: &Bounds) -> Self {
        let limit = |limit: Option<Duration>| limit.map(millis).unwrap_or_default();
        Self {
            drain_limit_ms: limit(bounds.drain),
            apply_limit_ms: limit(Some(bounds.apply)),
            hold_limit_ms: limit(bounds.hold),
            tenure_limit_ms: limit(bounds.tenure),
        }
    }
}

/// The beginning of a phase, in milliseconds after the start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Edge {
    pub at_ms: u64,
    pub phase: Word,
}

/// How many clients were held at a moment, in milliseconds after the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Sample {
    pub at_ms: u64,
    pub held: u64,
}

/// How many requests were stalled for up to so long, and longer than the bucket before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bucket {
    pub up_to_ms: u64,
    pub count: u64,
}

/// Sorts stalls into buckets that grow by half, the empty ones at both ends left out.
#[must_use]
pub fn buckets(stalls_ms: &[u64]) -> Vec<Bucket> {
    let (Some(least), Some(most)) = (stalls_ms.iter().min(), stalls_ms.iter().max()) else { return Vec::new() };
    let mut found = Vec::new();
    let (mut from, mut up_to) = (0, 1);
    while found.is_empty() || from < *most {
        if up_to >= *least {
            let within = |stall: &&u64| **stall <= up_to && (**stall > from || from == 0);
            let count = stalls_ms.iter().filter(within).count();
            found.push(Bucket { up_to_ms: up_to, count: u64::try_from(count).unwrap_or(u64::MAX) });
        }
        (from, up_to) = (up_to, (up_to + up_to / 2).max(up_to + 1));
    }
    found
}

/// The receipt itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of SHOW WINDOW")]
pub struct Receipt {
    pub id: String,
    pub databases: Vec<String>,
    pub form: Word,
    pub owner: String,
    pub change_sha256: String,
    pub started_at: String,
    /// By the wall clock; empty while it runs.
    pub ended_at: String,
    pub phase: Word,
    pub outcome: Word,
    pub reason: String,
    #[serde(flatten)]
    pub limits: Limits,
    #[serde(flatten)]
    pub took: Took,
    #[serde(flatten)]
    pub held: Held,
    pub preflight: Vec<Line>,
    pub blockers: Vec<Blocker>,
    pub cuts: Vec<Cut>,
    pub notices: Vec<String>,
    /// The phases that it has been in.
    pub edges: Vec<Edge>,
    /// Clients held over time.
    pub samples: Vec<Sample>,
    /// The distribution of the stalls.
    pub stalls: Vec<Bucket>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_sorted_into_buckets() {
        assert_eq!(buckets(&[]), []);
        let found = buckets(&[0, 0, 1, 2, 9]);
        let pairs: Vec<_> = found.iter().map(|bucket| (bucket.up_to_ms, bucket.count)).collect();
        assert_eq!(pairs, [(1, 3), (2, 1), (3, 0), (4, 0), (6, 0), (9, 1)]);
        let found = buckets(&[5000]);
        assert_eq!((found.len(), found[0].count), (1, 1));
        assert!(found[0].up_to_ms >= 5000);
        for most in [0, 1, 7, 100, 3_600_000] {
            let stalls: Vec<u64> = (0..=most).step_by(1 + most as usize / 50).collect();
            let found = buckets(&stalls);
            assert!(found.len() < 40, "{most}");
            assert_eq!(found.iter().map(|bucket| bucket.count).sum::<u64>(), stalls.len() as u64, "{most}");
        }
    }

    #[test]
    fn percentiles_of_few_and_many() {
        let mut held = Held::default();
        held.stalls(vec![]);
        assert_eq!((held.stall_p50_ms, held.stall_p99_ms, held.stall_max_ms), (0, 0, 0));
        held.stalls(vec![7]);
        assert_eq!((held.stall_p50_ms, held.stall_p99_ms, held.stall_max_ms), (7, 7, 7));
        held.stalls((1..=100).rev().collect());
        assert_eq!((held.stall_p50_ms, held.stall_p99_ms, held.stall_max_ms), (50, 99, 100));
    }
}
