//! Runs a change: SQL in one transaction on a connection of its own, and the truth about its COMMIT.
//!
//! The change is committed or it never happened, and the verdict says which. As long as COMMIT has not been sent, a lost
//! connection means rolled back. When the answer to COMMIT is lost, the database itself is asked, by the transaction's id
//! (`pg_xact_status`, PostgreSQL 10 and later; `pg_current_xact_id`, 13 and later).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::event::Verdict;
use crate::clock::Clock;
use crate::ids::{Moment, ServerId, millis};
use crate::server::cancel;
use crate::server::conn::{Answer, Failure, Server};
use crate::server::connect::{Target, connect};
use crate::wire::reply::{Report, sqlstate};

/// How long one errand of ours may take: connecting, asking, rolling back.
const ERRAND: Duration = Duration::from_secs(3);
/// How often and how patiently a transaction that is still being ended is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_TIMES: usize = 20;

/// A change that is ready to run: its connection stands before anybody is held.
pub(super) struct Change {
    server: Box<Server>,
    target: Arc<Target>,
    clock: Clock,
    sql: Arc<str>,
}

/// Opens the connection for a change and checks that the database can take one.
///
/// # Errors
/// Why it cannot, in words for the operator.
pub(super) async fn prepare(target: Target, clock: Clock, sql: Arc<str>) -> Result<Change, String> {
    let target = Arc::new(target);
    let rested = connect(&target, ServerId(0), clock.now(), ERRAND).await;
    let mut server = rested.map_err(|failure| format!("cannot connect to apply the change: {failure}"))?.wake();
    let asked = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only')";
    let answer = server
        .query_within(asked.as_bytes(), ERRAND)
        .await
        .map_err(|failure| format!("cannot ask the database: {failure}"))?;
    match (value(&answer, 0).as_deref(), value(&answer, 1).as_deref()) {
        (Some("f"), Some("off")) => Ok(Change { server, target, clock, sql }),
        (Some("t"), _) => Err("the server is in recovery: it is a standby and takes no changes".to_owned()),
        _ => Err("transactions are read-only there: default_transaction_read_only is on".to_owned()),
    }
}

fn value(answer: &Answer, column: usize) -> Option<String> {
    let bytes = answer.rows.first()?.get(column)?.as_ref()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn failed(report: &Report) -> Verdict {
    Verdict::Failed { sqlstate: report.sqlstate.clone(), message: report.message.clone() }
}

fn lost(failure: &Failure) -> Verdict {
    match failure {
        Failure::Refused(report) => failed(report),
        other => Verdict::Failed { sqlstate: sqlstate::CONNECTION_FAILURE.to_owned(), message: other.to_string() },
    }
}

impl Change {
    /// Runs it, to be committed by `deadline`. `stop` ends it earlier; until COMMIT has been sent that means rolled back.
    pub(super) async fn run(
        mut self,
        deadline: Moment,
        stop: Arc<Notify>,
        notice: impl FnMut(Report) + Send,
    ) -> Verdict {
        let left = millis(deadline.since(self.clock.now())).max(1);
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {left}; SET LOCAL statement_timeout = {left}; \
             SET LOCAL idle_in_transaction_session_timeout = {left}; SELECT pg_catalog.pg_current_xact_id()"
        );
        let begun = match self.server.query_within(begin.as_bytes(), ERRAND).await {
            Ok(answer) => value(&answer, 0),
            Err(failure) => return lost(&failure),
        };
        let Some(transaction) = begun else {
            return lost(&Failure::Protocol("no transaction id".to_owned()));
        };
        if let Err(failure) = self.change(&stop, notice).await {
            // Rolling back ends the locks now; if it cannot be said, closing the connection does it in a moment.
            if matches!(failure, Failure::Refused(_)) {
                let _ = self.server.query_within(b"ROLLBACK", ERRAND).await;
            }
            return lost(&failure);
        }
        if !self.server.in_transaction() {
            let message = "the change ended the window's transaction itself; part of it may be committed";
            return Verdict::Unknown(message.to_owned());
        }
        if self.clock.now() >= deadline {
            let _ = self.server.query_within(b"ROLLBACK", ERRAND).await;
            return failed(&Report::new(sqlstate::QUERY_CANCELED, "the change was not committed in time"));
        }
        match self.server.query_within(b"COMMIT", ERRAND).await {
            Ok(answer) if answer.tags.iter().any(|tag| tag == "COMMIT") => Verdict::Applied,
            // A failed transaction answers COMMIT with ROLLBACK.
            Ok(_) => failed(&Report::new("25P02", "the transaction was rolled back")),
            Err(Failure::Refused(report)) if !self.server.progress.broken() => failed(&report),
            Err(failure) => self.ask(&transaction, &failure).await,
        }
    }

    /// Runs the SQL. Told to stop, it has Postgres cancel it and goes on reading until that is said.
    async fn change(&mut self, stop: &Notify, notice: impl FnMut(Report)) -> Result<(), Failure> {
        let link = Arc::clone(&self.server.link);
        let query = self.server.query(self.sql.as_bytes(), notice);
        tokio::pin!(query);
        tokio::select! {
            biased;
            answer = &mut query => return answer.map(|_| ()),
            () = stop.notified() => {}
        }
        let gives_up = Instant::now() + ERRAND;
        if let Err(error) = cancel::send(&link, ERRAND).await {
            tracing::warn!(%error, "the change could not be cancelled; its connection is closed instead");
            return Err(Failure::Lost(error));
        }
        match tokio::time::timeout_at(gives_up, query).await {
            // The cancel came when the last statement had just ended: it is not committed, and it will not be.
            Ok(Ok(_)) => {
                Err(Failure::Refused(Report::new(sqlstate::QUERY_CANCELED, "the change was stopped before COMMIT")))
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Late(ERRAND)),
        }
    }

    /// COMMIT was sent and its answer did not come: asks the database what became of the transaction.
    async fn ask(&self, transaction: &str, failure: &Failure) -> Verdict {
        let sql = format!("SELECT pg_catalog.pg_xact_status('{transaction}'::pg_catalog.xid8)");
        let unknown =
            || Verdict::Unknown(format!("the answer to COMMIT was lost ({failure}), transaction {transaction}"));
        for _ in 0..ASK_TIMES {
            let Ok(rested) = connect(&self.target, ServerId(0), self.clock.now(), ERRAND).await else {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            };
            let Ok(answer) = rested.wake().query_within(sql.as_bytes(), ERRAND).await else { return unknown() };
            match value(&answer, 0).as_deref() {
                Some("committed") => return Verdict::Applied,
                Some("aborted") => return lost(failure),
                // Its backend has not noticed yet that we are gone.
                Some("in progress") => tokio::time::sleep(ASK_AGAIN).await,
                _ => return unknown(),
            }
        }
        unknown()
    }
}
