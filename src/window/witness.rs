//! What became of a change whose connection does not say it: asked of the database itself, until it is certain.
//!
//! Two witnesses are heard: the row that the change has in the change table, and the status of its transaction. Neither
//! counts as "no" while the backend of the change may still be at it: it is ended, and waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::change_table::{Note, Noted};
use crate::clock::Clock;
use crate::ids::ServerId;
use crate::server::conn::{Answer, Failure, Server};
use crate::server::connect::{Target, connect};

/// How long one look may take: connecting, asking.
const LOOK: Duration = Duration::from_secs(3);
/// How often it is looked again.
const AGAIN: Duration = Duration::from_millis(50);
/// Postgres' codes for a schema or table that is not there.
const NO_SUCH: [&str; 2] = ["3F000", "42P01"];

/// Which backend runs a change, and in which transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// Its process.
    pub pid: i64,
    /// When that began, in microseconds since 1970 by the server's clock: numbers of processes are used again.
    pub since: i64,
    /// The transaction, once it has begun.
    pub transaction: Option<u64>,
}

/// What was found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// The change is committed.
    Applied,
    /// It is not, and will not be.
    NotApplied,
    /// It has ended its transaction by itself: part of it may be committed.
    Half,
}

/// What one look has shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The server is a standby: it may not know yet.
    pub standby: bool,
    /// The backend of the change is still there.
    pub running: bool,
    /// Postgres' word for the status of the transaction, where it has one.
    pub status: Option<String>,
    /// What the change table says, where there is one.
    pub noted: Option<Noted>,
    /// It is not the database in which the change was begun.
    pub elsewhere: bool,
}

/// What follows from one look. `Ok(None)`: look again.
///
/// # Errors
/// If no look will ever tell.
pub fn judge(seen: &Seen) -> Result<Option<Found>, &'static str> {
    // Another database knows nothing of our transaction, but what is noted in it came from ours.
    let committed = !seen.elsewhere && seen.status.as_deref() == Some("committed");
    match &seen.noted {
        Some(Noted::Applied(_)) => return Ok(Some(Found::Applied)),
        // Its row would be complete.
        Some(_) if committed => return Ok(Some(Found::Half)),
        None if committed => return Ok(Some(Found::Applied)),
        _ => {}
    }
    if seen.elsewhere {
        return Err("the entry leads to another database now, and the change is not noted there");
    }
    if seen.running || seen.standby || seen.status.as_deref() == Some("in progress") {
        return Ok(None);
    }
    match (&seen.noted, seen.status.as_deref()) {
        (Some(Noted::Half(_)), _) => Ok(Some(Found::Half)),
        (Some(_), _) | (None, Some("aborted")) => Ok(Some(Found::NotApplied)),
        (None, _) => Err("there is no change table, and the database does not know the transaction any more"),
    }
}

/// Where and what is asked.
pub(super) struct Witness<'a> {
    pub(super) target: &'a Arc<Target>,
    pub(super) clock: Clock,
    pub(super) note: &'a Note,
    pub(super) trace: &'a Trace,
    /// Which database it was; empty if that is not known.
    pub(super) place: &'a str,
}

impl Witness<'_> {
    /// Asks until it is certain, for so long. Cancel-safe.
    pub(super) async fn ask(&self, patience: Duration) -> Option<Found> {
        let until = Instant::now() + patience;
        loop {
            let judged = match self.look().await {
                Ok(seen) => judge(&seen),
                // The server is not back yet, perhaps.
                Err(_) => Ok(None),
            };
            match judged {
                Ok(Some(found)) => return Some(found),
                Ok(None) | Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Looks once, and ends the backend that is still at it. Cancel-safe.
    ///
    /// # Errors
    /// If the database could not be asked.
    pub(super) async fn look(&self) -> Result<Seen, Failure> {
        let mut server = connect(self.target, ServerId(0), self.clock.now(), LOOK).await?.wake();
        let answer = server.query_within(self.backend().as_bytes(), LOOK).await?;
        let elsewhere = !self.place.is_empty() && place(&mut server).await? != self.place;
        // Only when the backend is known to be gone may the table say no, so it is asked second.
        let noted = match self.note.look() {
            Some(sql) => Some(self.noted(&mut server, &sql).await?),
            None => None,
        };
        server.farewell();
        let (standby, running) = (value(&answer, 0), value(&answer, 1));
        Ok(Seen {
            standby: standby.as_deref() != Some("f"),
            running: running.as_deref() != Some("0"),
            status: value(&answer, 2),
            noted,
            elsewhere,
        })
    }

    async fn noted(&self, server: &mut Server, sql: &str) -> Result<Noted, Failure> {
        match server.query_within(sql.as_bytes(), LOOK).await {
            Ok(answer) => Ok(read(self.note, &answer)),
            Err(Failure::Refused(report)) if NO_SUCH.contains(&report.sqlstate.as_str()) => Ok(Noted::Never),
            Err(failure) => Err(failure),
        }
    }

    /// Asks for the backend and the transaction, and ends the backend.
    fn backend(&self) -> String {
        let Trace { pid, since, transaction } = *self.trace;
        // A transaction of another server's future cannot be asked for: that would be an error.
        let status = transaction.map_or_else(
            || "NULL".to_owned(),
            |id| {
                let id = format!("'{id}'::pg_catalog.xid8");
                let known = "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())";
                format!("CASE WHEN {id} < {known} THEN pg_catalog.pg_xact_status({id}) END")
            },
        );
        format!(
            "SELECT pg_catalog.pg_is_in_recovery(), (SELECT pg_catalog.count(*) + 0 * pg_catalog.count( \
             CASE WHEN pg_catalog.pg_has_role(usesysid, 'MEMBER') THEN pg_catalog.pg_terminate_backend(pid) END) \
             FROM pg_catalog.pg_stat_activity WHERE pid = {pid} AND (backend_start IS NULL OR {SINCE} = {since})), {status}"
        )
    }
}

/// Which database a connection leads to: the identifier of the system, which its standbys share, and the database's number.
///
/// # Errors
/// If it could not be asked.
pub(super) async fn place(server: &mut Server) -> Result<String, Failure> {
    let number = "(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";
    let whole = format!("SELECT system_identifier || '/' || {number} FROM pg_catalog.pg_control_system()");
    let answer = match server.query_within(whole.as_bytes(), LOOK).await {
        Err(Failure::Refused(_)) => server.query_within(format!("SELECT {number}").as_bytes(), LOOK).await?,
        other => other?,
    };
    Ok(value(&answer, 0).unwrap_or_default())
}

/// When a process of `pg_stat_activity` began, in microseconds.
pub(super) const SINCE: &str = "(pg_catalog.date_part('epoch', backend_start) * 1000000)::pg_catalog.int8";

/// What an answer to [`Note::look`] says.
pub(super) fn read(note: &Note, answer: &Answer) -> Noted {
    let text = |column| value(answer, column);
    let (sha256, began, applied) = (text(0), text(1), text(2));
    let row = (!answer.rows.is_empty()).then_some([sha256.as_deref(), began.as_deref(), applied.as_deref()]);
    note.read(row)
}

/// A value of an answer's first row, as text.
pub(super) fn value(answer: &Answer, column: usize) -> Option<String> {
    let bytes = answer.rows.first()?.get(column)?.as_ref()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_testimony_has_its_verdict() {
        let applied = || Some(Noted::Applied("t".to_owned()));
        let half = || Some(Noted::Half("t".to_owned()));
        let (never, another) = (|| Some(Noted::Never), || Some(Noted::Another("t".to_owned())));
        let seen = |standby, running, status: &str, noted| Seen {
            standby,
            running,
            status: Some(status.to_owned()).filter(|status| !status.is_empty()),
            noted,
            elsewhere: false,
        };
        for (seen, verdict) in [
            // A complete row is proof, whatever else is seen.
            (seen(true, true, "in progress", applied()), Ok(Some(Found::Applied))),
            (seen(false, false, "", applied()), Ok(Some(Found::Applied))),
            // No row is proof only when nothing can write one any more.
            (seen(false, true, "", never()), Ok(None)),
            (seen(true, false, "aborted", never()), Ok(None)),
            (seen(false, false, "in progress", never()), Ok(None)),
            (seen(false, false, "aborted", never()), Ok(Some(Found::NotApplied))),
            (seen(false, false, "", never()), Ok(Some(Found::NotApplied))),
            (seen(false, false, "", another()), Ok(Some(Found::NotApplied))),
            // The witnesses disagree: the change has meddled with its transaction or with its row.
            (seen(false, false, "committed", never()), Ok(Some(Found::Half))),
            (seen(false, false, "committed", half()), Ok(Some(Found::Half))),
            (seen(false, true, "", half()), Ok(None)),
            (seen(false, false, "", half()), Ok(Some(Found::Half))),
            // One witness alone.
            (seen(false, false, "committed", None), Ok(Some(Found::Applied))),
            (seen(false, false, "aborted", None), Ok(Some(Found::NotApplied))),
            (seen(false, true, "", None), Ok(None)),
        ] {
            assert_eq!(judge(&seen), verdict, "{seen:?}");
        }
        assert!(judge(&seen(false, false, "", None)).is_err());
        // Another database may have got the row with its data, but proves nothing by not having it.
        let elsewhere = |seen| Seen { elsewhere: true, ..seen };
        assert_eq!(judge(&elsewhere(seen(false, false, "", applied()))), Ok(Some(Found::Applied)));
        for other in [seen(false, false, "committed", never()), seen(false, false, "aborted", None)] {
            assert!(judge(&elsewhere(other)).is_err());
        }
    }
}
