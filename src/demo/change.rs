//! The schema change of the demo, the two ways to run it, and the proof that it happened, and nothing else.
//!
//! In a window it goes the operator's way, over the console, with the same code as `pglull window apply`;
//! directly it is one `psql`. Whether it is there is asked of the database, not of the receipt.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::DemoError;
use super::cluster::Cluster;
use super::plot::Mark;
use super::setup::{APP, DATABASE, psql};
use crate::cli::args::BoundsArgs;
use crate::cli::{Change, Ended, Site, View, apply, new_id};

/// One transaction on the table that everybody uses: a new column that must not be empty, a column of another
/// type, which writes the whole table anew, and a view that shows both.
pub(crate) const CHANGE: &str = "\
DROP VIEW account_overview;
ALTER TABLE pgbench_accounts
  ADD COLUMN tier smallint NOT NULL DEFAULT 1,
  ALTER COLUMN filler TYPE text;
CREATE VIEW account_overview AS
  SELECT aid, bid, abalance, tier, filler FROM pgbench_accounts;
";

/// The change in a window ends by its bounds; this is for the case that even those fail.
const WINDOW_LIMIT: Duration = Duration::from_secs(40);

/// The change, seen from outside.
pub(crate) struct Outcome {
    pub(crate) applied: bool,
    /// Why not, or empty.
    pub(crate) reason: String,
    /// From the first to the last moment in which clients could feel it, in microseconds since 1970.
    pub(crate) felt_us: (u64, u64),
    /// What to mark in the timeline; zero is the start of `felt_us`.
    pub(crate) marks: Vec<Mark>,
    /// The receipt, where there was a window.
    pub(crate) receipt: Vec<(String, String)>,
}

/// Runs the change in a window.
pub(crate) async fn in_window(console: &Site, view: View) -> Result<Outcome, DemoError> {
    // The table is written anew: that takes about 2 s here, and more on a slow machine.
    let bounds = BoundsArgs { apply: Some("10s".into()), hold: Some("15s".into()), ..BoundsArgs::default() };
    let id = new_id();
    let change = Change {
        database: DATABASE,
        bounds: &bounds,
        id: &id,
        sql: CHANGE,
        parts: &[],
        verify: None,
        start_within: None,
    };
    let ended = timeout(WINDOW_LIMIT, apply(console, &change, view))
        .await
        .map_err(|_| DemoError::Stuck("the window"))?
        .map_err(DemoError::Console)?;
    Ok(outcome_of(&ended))
}

fn outcome_of(ended: &Ended) -> Outcome {
    let phase = |key: &str| ended.status.as_ref().and_then(|s| s.number(key)).unwrap_or(0);
    let (sent, answered) = (unix_us(ended.sent), unix_us(ended.answered));
    let preflight = phase("preflight_ms");
    let shut_us = sent + preflight * 1000;
    let mut marks = Vec::new();
    let mut at = 0;
    for (letter, name, key) in [
        ('d', "drain", "drain_ms"),
        ('a', "apply", "apply_ms"),
        ('h', "heal", "heal_ms"),
        ('r', "release", "release_ms"),
    ] {
        let took = phase(key);
        let to = at + i64::try_from(took).unwrap_or(0);
        if took > 0 {
            marks.push(Mark { letter, name, from_ms: at, to_ms: to });
        }
        at = to;
    }
    let applied_us = shut_us + (phase("drain_ms") + phase("apply_ms")) * 1000;
    Outcome {
        applied: ended.applied(),
        reason: ended.answer.as_ref().err().map(ToString::to_string).unwrap_or_default(),
        felt_us: (shut_us, answered.max(applied_us)),
        marks,
        receipt: ended.status.as_ref().map(crate::cli::receipt).unwrap_or_default(),
    }
}

/// Runs the change straight on Postgres.
pub(crate) async fn direct(cluster: &Cluster) -> Outcome {
    let sent = unix_us(SystemTime::now());
    let result = psql(cluster, (APP, DATABASE), CHANGE).await;
    let answered = unix_us(SystemTime::now());
    let took_ms = i64::try_from((answered - sent) / 1000).unwrap_or(i64::MAX);
    Outcome {
        applied: result.is_ok(),
        reason: result.err().map(|e| e.to_string()).unwrap_or_default(),
        felt_us: (sent, answered),
        marks: vec![Mark { letter: 'c', name: "change", from_ms: 0, to_ms: took_ms }],
        receipt: Vec::new(),
    }
}

/// Looks into the database whether the change is there as a whole and the books balance.
///
/// # Errors
/// The first thing that is not as it should be, as a sentence.
pub(crate) async fn verify(cluster: &Cluster) -> Result<(), DemoError> {
    for (question, expect, wrong) in [
        (
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull, ', ' ORDER BY attname) \
             FROM pg_attribute WHERE attrelid = 'pgbench_accounts'::regclass AND attname IN ('tier', 'filler')",
            "filler text false, tier smallint true",
            "the table does not have its new columns",
        ),
        ("SELECT count(DISTINCT tier) || ' ' || min(tier) FROM account_overview", "1 1", "the view is not the new one"),
        (
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
            "t",
            "the accounts do not add up to their history",
        ),
    ] {
        let found = psql(cluster, (APP, DATABASE), question).await?;
        if found != expect {
            return Err(DemoError::Wrong { what: wrong, found });
        }
    }
    Ok(())
}

/// Microseconds of the wall clock since 1970.
pub(crate) fn unix_us(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
