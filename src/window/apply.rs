//! Runs a change: SQL in one transaction on a connection of its own, and the truth about its COMMIT.
//!
//! The change is committed or it never happened, and the verdict says which. Where the connection does not say it, the
//! database is asked, by the transaction's id (`pg_xact_status`, PostgreSQL 10 and later; `pg_current_xact_id`, 13 and
//! later). A backend that goes on with a change that nobody waits for is ended: it would keep its locks while clients run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::event::Verdict;
use super::receipt::shorten;
use crate::clock::Clock;
use crate::ids::{Moment, ServerId, millis};
use crate::server::cancel;
use crate::server::conn::{Answer, Failure, Server};
use crate::server::connect::{Target, connect};
use crate::wire::reply::{Report, sqlstate};
use crate::wire::tags;

/// How long one errand of ours may take: connecting, asking, rolling back.
const ERRAND: Duration = Duration::from_secs(3);
/// How long the first connection may take. Nobody is held meanwhile, and a busy server may be slow to take one more.
const CONNECT: Duration = Duration::from_secs(8);
/// How long a change that is cancelled may take to say so, before its backend is ended; well within the grace of the machine.
const CANCEL_PATIENCE: Duration = Duration::from_millis(400);
/// How often the database is asked what became of a transaction, and for how long: without a COMMIT, and with one.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_CHANGE: Duration = Duration::from_secs(2);
const ASK_COMMIT: Duration = Duration::from_secs(10);
/// The longest `lock_timeout` and the like that Postgres takes.
const TIMEOUT_MAX: u64 = i32::MAX as u64;
/// How soon Postgres notices that we are gone, in milliseconds. A change must not outlive a proxy that was killed.
const NOTICED: u32 = 500;

/// A change that is ready to run: its connection stands before anybody is held.
pub(super) struct Change {
    pub(super) server: Box<Server>,
    pub(super) target: Arc<Target>,
    clock: Clock,
    sql: Arc<str>,
    /// It is a rehearsal: nothing of it stays.
    pub(super) trial: bool,
}

/// Opens the connection for a change.
///
/// # Errors
/// Why it cannot, in words for the operator.
pub(super) async fn prepare(target: Target, clock: Clock, sql: Arc<str>) -> Result<Change, String> {
    let target = Arc::new(target);
    let rested = connect(&target, ServerId(0), clock.now(), CONNECT).await;
    let mut server = rested.map_err(|failure| format!("cannot connect to apply the change: {failure}"))?.wake();
    // Postgres 14 and later, on systems that can tell; elsewhere a change goes on to the end of its statement.
    let noticed = format!("SET client_connection_check_interval = {NOTICED}");
    // The console's text is UTF-8, whatever the database stores.
    let answer = match server.query_within(noticed.as_bytes(), ERRAND).await {
        Ok(_) | Err(Failure::Refused(_)) => server.query_within(b"SET client_encoding = 'UTF8'", ERRAND).await,
        Err(failure) => Err(failure),
    };
    answer.map_err(|failure| format!("cannot ask the database: {failure}"))?;
    Ok(Change { server, target, clock, sql, trial: false })
}

fn value(answer: &Answer, column: usize) -> Option<String> {
    let bytes = answer.rows.first()?.get(column)?.as_ref()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn failed(report: &Report) -> Verdict {
    Verdict::Failed { sqlstate: report.sqlstate.clone(), message: shorten(&report.message) }
}

fn lost(failure: &Failure) -> Verdict {
    match failure {
        Failure::Refused(report) => failed(report),
        other => Verdict::Failed { sqlstate: sqlstate::CONNECTION_FAILURE.to_owned(), message: other.to_string() },
    }
}

fn ended_itself() -> Verdict {
    Verdict::Unknown("the change ended the window's transaction itself; part of it may be committed".to_owned())
}

impl Change {
    /// Runs it, to be committed by `deadline`. `stop` ends it earlier; until COMMIT has been sent that means rolled back.
    pub(super) async fn run(
        mut self,
        deadline: Moment,
        stop: Arc<Notify>,
        notice: impl FnMut(Report) + Send,
    ) -> Verdict {
        let transaction = match self.begin(deadline).await {
            Ok(transaction) => transaction,
            Err(failure) => return lost(&failure),
        };
        let sql = Arc::clone(&self.sql);
        let (changed, stopped) = stoppable(&mut self.server, &sql, &stop, notice).await;
        let open = self.server.in_transaction();
        let late = stopped || self.clock.now() >= deadline;
        let report = match changed {
            Ok(_) if !late && open && self.trial => return self.take_back(transaction, &stop).await,
            Ok(_) if !late && open => return self.commit(transaction, &stop).await,
            Ok(_) => Report::new(sqlstate::QUERY_CANCELED, "the change was stopped before COMMIT"),
            Err(Failure::Refused(report)) if self.server.progress.broken() => return failed(&report),
            Err(Failure::Refused(report)) => report,
            Err(failure) => return self.abandoned(transaction, &failure).await,
        };
        if open { self.roll_back(transaction, &report).await } else { ended_itself() }
    }

    /// Opens the transaction and gives its id.
    async fn begin(&mut self, deadline: Moment) -> Result<u64, Failure> {
        let left = millis(deadline.since(self.clock.now())).clamp(1, TIMEOUT_MAX);
        // A little shorter than the bound: then Postgres says that it was a lock.
        let lock = (left - left / 10).max(1);
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {left}; \
             SET LOCAL idle_in_transaction_session_timeout = {left}; {CURRENT}"
        );
        self.transaction(&begin).await?.ok_or_else(|| Failure::Protocol("no transaction id".to_owned()))
    }

    async fn transaction(&mut self, sql: &str) -> Result<Option<u64>, Failure> {
        let answer = self.server.query_within(sql.as_bytes(), ERRAND).await?;
        Ok(value(&answer, 0).and_then(|id| id.parse().ok()))
    }

    async fn commit(&mut self, transaction: u64, stop: &Notify) -> Verdict {
        // Nothing of what was done so far may be committed already, whatever the change has done to our transaction.
        match self.transaction(CURRENT).await {
            Ok(Some(current)) if current == transaction => {}
            Ok(_) => return ended_itself(),
            Err(failure) => return self.abandoned(transaction, &failure).await,
        }
        if stop.notified().now_or_never().is_some() {
            let report = Report::new(sqlstate::QUERY_CANCELED, "the change was stopped before COMMIT");
            return self.roll_back(transaction, &report).await;
        }
        match stoppable(&mut self.server, "COMMIT", stop, |_| {}).await.0 {
            Ok(tag) if tag == "COMMIT" => Verdict::Applied,
            // A failed transaction answers COMMIT with ROLLBACK.
            Ok(_) => failed(&Report::new("25P02", "the transaction was rolled back")),
            Err(Failure::Refused(report)) if !self.server.progress.broken() => failed(&report),
            Err(failure) => match self.ask(transaction, ASK_COMMIT).await {
                Some(true) => Verdict::Applied,
                Some(false) => lost(&failure),
                None => {
                    Verdict::Unknown(format!("the answer to COMMIT was lost ({failure}), transaction {transaction}"))
                }
            },
        }
    }

    /// The end of a rehearsal: what COMMIT would check is checked, and nothing stays.
    async fn take_back(&mut self, transaction: u64, stop: &Notify) -> Verdict {
        const PLANNED: &str = "00000";
        let report = match stoppable(&mut self.server, "SET CONSTRAINTS ALL IMMEDIATE", stop, |_| {}).await.0 {
            Ok(_) => Report::new(PLANNED, "rolled back as planned"),
            Err(Failure::Refused(report)) if !self.server.progress.broken() => report,
            Err(failure) => return self.abandoned(transaction, &failure).await,
        };
        match self.roll_back(transaction, &report).await {
            Verdict::Failed { sqlstate, .. } if sqlstate == PLANNED => Verdict::Rehearsed,
            other => other,
        }
    }

    /// Ends the locks now. A change whose transaction turns out to be committed has ended it itself.
    async fn roll_back(&mut self, transaction: u64, report: &Report) -> Verdict {
        let refused = Failure::Refused(report.clone());
        if self.server.query_within(b"ROLLBACK", ERRAND).await.is_err() {
            return self.abandoned(transaction, &refused).await;
        }
        let sql = format!("SELECT pg_catalog.pg_xact_status('{transaction}'::pg_catalog.xid8)");
        match self.server.query_within(sql.as_bytes(), ERRAND).await {
            Ok(answer) if value(&answer, 0).as_deref() == Some("committed") => ended_itself(),
            _ => failed(report),
        }
    }

    /// The connection is of no use any more and COMMIT was not sent: sees to it that the backend does not go on.
    async fn abandoned(&self, transaction: u64, failure: &Failure) -> Verdict {
        match self.ask(transaction, ASK_CHANGE).await {
            Some(true) => ended_itself(),
            Some(false) => lost(failure),
            None => {
                tracing::warn!(transaction, "whether the backend of a change has ended could not be found out");
                lost(failure)
            }
        }
    }

    /// Asks the database whether the transaction is committed, and ends the backend that is still at it.
    async fn ask(&self, transaction: u64, patience: Duration) -> Option<bool> {
        // The process may have ended and its number be in use again: only one that runs this transaction is ended.
        let sql = format!(
            "SELECT pg_catalog.pg_xact_status('{transaction}'::pg_catalog.xid8), \
             (SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
             WHERE pid = {} AND backend_xid = '{}'::pg_catalog.xid)",
            self.server.link.key.pid,
            transaction & u64::from(u32::MAX),
        );
        let until = Instant::now() + patience;
        loop {
            let asked = async {
                let mut server = connect(&self.target, ServerId(0), self.clock.now(), ERRAND).await?.wake();
                let answer = server.query_within(sql.as_bytes(), ERRAND).await?;
                server.farewell();
                Ok::<_, Failure>(value(&answer, 0))
            };
            match asked.await.as_ref().map(Option::as_deref) {
                Ok(Some("committed")) => return Some(true),
                Ok(Some("aborted")) => return Some(false),
                // Its backend has not ended yet, or the server is not back yet.
                Ok(Some("in progress")) | Err(_) if Instant::now() < until => tokio::time::sleep(ASK_AGAIN).await,
                _ => return None,
            }
        }
    }
}

/// The id of the transaction that is open.
const CURRENT: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// Runs SQL. Told to stop, it has Postgres cancel it and goes on reading until that is said, for a while. Also tells
/// whether it was told to stop.
async fn stoppable(
    server: &mut Server,
    sql: &str,
    stop: &Notify,
    notice: impl FnMut(Report),
) -> (Result<String, Failure>, bool) {
    let link = Arc::clone(&server.link);
    let running = execute(server, sql, notice);
    tokio::pin!(running);
    tokio::select! {
        biased;
        answer = &mut running => return (answer, false),
        () = stop.notified() => {}
    }
    let gives_up = Instant::now() + CANCEL_PATIENCE;
    let answer = match cancel::send(&link, CANCEL_PATIENCE).await {
        Ok(()) => tokio::time::timeout_at(gives_up, running).await.unwrap_or(Err(Failure::Late(CANCEL_PATIENCE))),
        Err(error) => Err(Failure::Lost(error)),
    };
    (answer, true)
}

/// Runs SQL to its end and gives the last command tag. Rows are dropped as they come: a change may answer with many.
async fn execute(server: &mut Server, sql: &str, mut notice: impl FnMut(Report)) -> Result<String, Failure> {
    server.send(tags::client::QUERY, &[sql.as_bytes(), &[0]].concat()).await?;
    let (mut last, mut refused) = (String::new(), None);
    loop {
        let (tag, body) = server.next().await?;
        match tag {
            tags::server::COMMAND_COMPLETE => {
                last = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
            }
            tags::server::NOTICE => notice(Report::parse(&body)),
            tags::server::ERROR => {
                let report = Report::parse(&body);
                if server.progress.broken() {
                    return Err(Failure::Refused(report));
                }
                refused.get_or_insert(report);
            }
            // Nobody is there to give COPY data: end it, the server says the rest.
            tags::server::COPY_IN => server.send(tags::client::COPY_FAIL, b"not possible here\0").await?,
            tags::server::READY_FOR_QUERY => return refused.map_or(Ok(last), |report| Err(Failure::Refused(report))),
            _ => {}
        }
    }
}
