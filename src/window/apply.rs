//! Runs a change: SQL in one transaction on a connection of its own, and the truth about its COMMIT.
//!
//! The change is committed or it never happened, and the verdict says which. Where the connection does not say it, the
//! database is asked: see `witness`. A backend that goes on with a change that nobody waits for is ended: it would keep
//! its locks while clients run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::change_table::{ChangeTable, Note, literal};
use super::event::Verdict;
use super::receipt::shorten;
use super::record::{Pledge, Record};
use super::store::Store;
use super::verify::Judge;
use super::witness::{Found, SINCE, Trace, Witness, place, value};
use crate::clock::Clock;
use crate::ids::{Moment, ServerId, millis};
use crate::server::cancel;
use crate::server::conn::{Failure, Server};
use crate::server::connect::{Target, connect};
use crate::wire::reply::{Report, sqlstate};
use crate::wire::tags;

/// How long one errand of ours may take: connecting, asking, rolling back.
pub(super) const ERRAND: Duration = Duration::from_secs(3);
/// How long the first connection may take. Nobody is held meanwhile, and a busy server may be slow to take one more.
const CONNECT: Duration = Duration::from_secs(8);
/// How long a change that is cancelled may take to say so, before its backend is ended; well within the grace of the machine.
const CANCEL_PATIENCE: Duration = Duration::from_millis(400);
/// For how long the database is asked what became of a transaction: without a COMMIT, and with one.
const ASK_CHANGE: Duration = Duration::from_secs(2);
const ASK_COMMIT: Duration = Duration::from_secs(10);
/// The longest `lock_timeout` and the like that Postgres takes.
const TIMEOUT_MAX: u64 = i32::MAX as u64;
/// What a change must not leave to the next one of the same window.
const AFRESH: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET search_path";
/// How soon Postgres notices that we are gone, in milliseconds. A change must not outlive a proxy that was killed.
const NOTICED: u32 = 500;

/// A change that is ready to run: its connection stands before anybody is held.
pub(super) struct Change {
    pub(super) server: Box<Server>,
    pub(super) target: Arc<Target>,
    clock: Clock,
    script: Script,
    pub(super) note: Note,
    trace: Trace,
    place: String,
    /// Where its transaction is recorded before anything is done in it, if it is the only witness.
    ledger: Option<(Arc<Store>, Record)>,
    /// It is a rehearsal: nothing of it stays.
    pub(super) trial: bool,
}

/// During what Postgres had something to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum During {
    /// The change itself.
    Change,
    /// Its COMMIT, or what would check at a rehearsal whether it can be one.
    Commit,
}

/// What is to be run.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// The change.
    pub(super) sql: Arc<str>,
    /// What must hold before COMMIT; empty for nothing.
    pub(super) verify: Arc<str>,
}

/// Opens the connection for a change.
///
/// # Errors
/// Why it cannot, in words for the operator.
pub(super) async fn prepare(target: Target, clock: Clock, script: Script, note: Note) -> Result<Change, String> {
    let target = Arc::new(target);
    let rested = connect(&target, ServerId(0), clock.now(), CONNECT).await;
    let mut server = rested.map_err(|failure| format!("cannot connect to apply the change: {failure}"))?.wake();
    // Postgres 14 and later, on systems that can tell; elsewhere a change goes on to the end of its statement.
    let noticed = format!("SET client_connection_check_interval = {NOTICED}");
    // The console's text is UTF-8, whatever the database stores.
    let asked = format!(
        "SET client_encoding = 'UTF8'; SET application_name = {}; \
         SELECT pid, {SINCE} FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()",
        literal(&format!("pglull window {}", note.id))
    );
    let answer = match server.query_within(noticed.as_bytes(), ERRAND).await {
        Ok(_) | Err(Failure::Refused(_)) => server.query_within(asked.as_bytes(), ERRAND).await,
        Err(failure) => Err(failure),
    };
    let answer = answer.map_err(|failure| format!("cannot ask the database: {failure}"))?;
    let number = |column| value(&answer, column).and_then(|text| text.parse().ok());
    let (Some(pid), Some(since)) = (number(0), number(1)) else {
        return Err("the database does not show us our own session in pg_stat_activity".to_owned());
    };
    let trace = Trace { pid, since, transaction: None };
    let place = place(&mut server).await.map_err(|failure| format!("cannot ask the database: {failure}"))?;
    Ok(Change { server, target, clock, script, note, trace, place, ledger: None, trial: false })
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
    /// What is needed to find out what became of it, after a crash.
    pub(super) fn pledge(&self) -> Pledge {
        Pledge {
            change_table: self.note.table.as_ref().map(ChangeTable::name),
            pid: self.trace.pid,
            since: self.trace.since,
            transaction: self.trace.transaction,
            place: self.place.clone(),
        }
    }

    /// Gives it the record in which its transaction is to stand, where nothing else will tell.
    pub(super) fn entrust(&mut self, store: Arc<Store>, record: Record) {
        self.ledger = self.note.table.is_none().then_some((store, record));
    }

    /// Runs it, to be committed by `deadline`. `stop` ends it earlier; until COMMIT has been sent that means rolled back.
    pub(super) async fn run(
        mut self,
        deadline: Moment,
        stop: Arc<Notify>,
        mut notice: impl FnMut(During, Report) + Send,
    ) -> Verdict {
        let transaction = match self.begin(deadline).await {
            Ok(transaction) => transaction,
            Err(failure) => return lost(&failure),
        };
        if let Some((store, mut record)) = self.ledger.take() {
            record.pledge = Some(self.pledge());
            if let Err(why) = store.keep(record).await {
                return self.roll_back(transaction, &Report::new(sqlstate::IO_ERROR, why)).await;
            }
        }
        let verify = Arc::clone(&self.script.verify);
        let mut judge = Judge::default();
        let (mut ended, mut stopped) = self.execute(&stop, watch(During::Change, &mut notice)).await;
        if ended.is_ok() && !stopped && !verify.is_empty() && self.server.in_transaction() {
            let see = |tag, body: &[u8]| judge.see(tag, body);
            (ended, stopped) = stoppable(&mut self.server, &verify, &stop, see).await;
        }
        let open = self.server.in_transaction();
        let late = stopped || self.clock.now() >= deadline;
        let see = watch(During::Commit, &mut notice);
        let report = match (ended, judge.objection()) {
            (Ok(_), None) if !late && open && self.trial => return self.take_back(transaction, &stop, see).await,
            (Ok(_), None) if !late && open => return self.commit(transaction, &stop, see).await,
            (Ok(_), Some(objection)) => Report::new(sqlstate::ASSERT_FAILURE, objection),
            (Ok(_), None) => Report::new(sqlstate::QUERY_CANCELED, "the change was stopped before COMMIT"),
            (Err(Failure::Refused(report)), _) if self.server.progress.broken() => return failed(&report),
            (Err(Failure::Refused(report)), _) => report,
            (Err(failure), _) => return self.abandoned(transaction, &failure).await,
        };
        if open { self.roll_back(transaction, &report).await } else { ended_itself() }
    }

    /// Runs the change, or all that it is made of, one after the other.
    async fn execute(&mut self, stop: &Notify, mut see: impl FnMut(u8, &[u8])) -> (Result<String, Failure>, bool) {
        let parts = self.note.parts.clone();
        if parts.is_empty() {
            let sql = Arc::clone(&self.script.sql);
            return stoppable(&mut self.server, &sql, stop, see).await;
        }
        let (mut ended, mut stopped) = (Ok(String::new()), false);
        for part in &parts {
            (ended, stopped) = stoppable(&mut self.server, &part.sql, stop, &mut see).await;
            if let Err(Failure::Refused(report)) = &mut ended {
                report.message = format!("{}: {}", part.id, report.message);
            }
            if ended.is_err() || stopped || !self.server.in_transaction() {
                break;
            }
            // The next one begins as if it were alone.
            (ended, stopped) = stoppable(&mut self.server, AFRESH, stop, |_, _| {}).await;
            if ended.is_err() || stopped {
                break;
            }
        }
        (ended, stopped)
    }

    /// Opens the transaction and gives its id.
    async fn begin(&mut self, deadline: Moment) -> Result<u64, Failure> {
        let left = millis(deadline.since(self.clock.now())).clamp(1, TIMEOUT_MAX);
        // A little shorter than the bound: then Postgres says that it was a lock.
        let lock = (left - left / 10).max(1);
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {left}; \
             SET LOCAL idle_in_transaction_session_timeout = {left}; {}SELECT pg_catalog.pg_current_xact_id()",
            self.note.begin()
        );
        let answer = self.server.query_within(begin.as_bytes(), ERRAND).await.map_err(|failure| match failure {
            Failure::Refused(report) if report.sqlstate == sqlstate::UNIQUE_VIOLATION => {
                let one = if self.note.parts.is_empty() { "" } else { ", or one of those that it is made of," };
                let text = format!("change {}{one} was applied meanwhile by somebody else", self.note.id);
                Failure::Refused(Report::new(sqlstate::UNIQUE_VIOLATION, text))
            }
            other => other,
        })?;
        let transaction = value(&answer, 0).and_then(|id| id.parse().ok());
        self.trace.transaction = transaction;
        transaction.ok_or_else(|| Failure::Protocol("no transaction id".to_owned()))
    }

    /// Notes that the change is complete. Nothing of it may be committed by now, whatever it has done to our transaction.
    async fn complete(&mut self, transaction: u64) -> Result<(), Verdict> {
        let answer = match self.server.query_within(self.note.complete().as_bytes(), ERRAND).await {
            Ok(answer) => answer,
            Err(Failure::Refused(report)) if !self.server.progress.broken() => {
                return Err(self.roll_back(transaction, &report).await);
            }
            Err(failure) => return Err(self.abandoned(transaction, &failure).await),
        };
        let number = |column| value(&answer, column).and_then(|text| text.parse::<u64>().ok());
        match (number(0), number(1)) {
            (Some(current), _) if current != transaction => Err(ended_itself()),
            (Some(_), Some(rows)) if rows == self.note.rows() => Ok(()),
            _ => {
                let report =
                    Report::new(sqlstate::INTERNAL_ERROR, "the change has removed its row of the change table");
                Err(self.roll_back(transaction, &report).await)
            }
        }
    }

    async fn commit(&mut self, transaction: u64, stop: &Notify, see: impl FnMut(u8, &[u8])) -> Verdict {
        if let Err(verdict) = self.complete(transaction).await {
            return verdict;
        }
        if stop.notified().now_or_never().is_some() {
            let report = Report::new(sqlstate::QUERY_CANCELED, "the change was stopped before COMMIT");
            return self.roll_back(transaction, &report).await;
        }
        match stoppable(&mut self.server, "COMMIT", stop, see).await.0 {
            Ok(tag) if tag == "COMMIT" => Verdict::Applied,
            // A failed transaction answers COMMIT with ROLLBACK.
            Ok(_) => failed(&Report::new("25P02", "the transaction was rolled back")),
            Err(Failure::Refused(report)) if !self.server.progress.broken() => failed(&report),
            Err(failure) => match self.ask(ASK_COMMIT).await {
                Some(Found::Applied) => Verdict::Applied,
                Some(Found::NotApplied) => lost(&failure),
                Some(Found::Half) => ended_itself(),
                None => {
                    Verdict::Unknown(format!("the answer to COMMIT was lost ({failure}), transaction {transaction}"))
                }
            },
        }
    }

    /// The end of a rehearsal: what COMMIT would check is checked, and nothing stays.
    async fn take_back(&mut self, transaction: u64, stop: &Notify, see: impl FnMut(u8, &[u8])) -> Verdict {
        const PLANNED: &str = "00000";
        let report = match stoppable(&mut self.server, "SET CONSTRAINTS ALL IMMEDIATE", stop, see).await.0 {
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
        match self.ask(ASK_CHANGE).await {
            Some(Found::Applied | Found::Half) => ended_itself(),
            Some(Found::NotApplied) => lost(failure),
            None => {
                tracing::warn!(transaction, "whether the backend of a change has ended could not be found out");
                lost(failure)
            }
        }
    }

    /// Asks the database what became of the change, and ends the backend that is still at it.
    async fn ask(&self, patience: Duration) -> Option<Found> {
        let witness =
            Witness { target: &self.target, clock: self.clock, note: &self.note, trace: &self.trace, place: "" };
        witness.ask(patience).await
    }
}

/// Passes on Postgres' notices.
fn watch(during: During, notice: &mut impl FnMut(During, Report)) -> impl FnMut(u8, &[u8]) {
    move |tag, body| {
        if tag == tags::server::NOTICE {
            notice(during, Report::parse(body));
        }
    }
}

/// Runs SQL. Told to stop, it has Postgres cancel it and goes on reading until that is said, for a while. Also tells
/// whether it was told to stop.
async fn stoppable(
    server: &mut Server,
    sql: &str,
    stop: &Notify,
    see: impl FnMut(u8, &[u8]),
) -> (Result<String, Failure>, bool) {
    let link = Arc::clone(&server.link);
    let running = execute(server, sql, see);
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

/// Runs SQL to its end and gives the last command tag. Each message is seen and dropped as it comes: a change may answer
/// with many rows.
async fn execute(server: &mut Server, sql: &str, mut see: impl FnMut(u8, &[u8])) -> Result<String, Failure> {
    server.send(tags::client::QUERY, &[sql.as_bytes(), &[0]].concat()).await?;
    let (mut last, mut refused) = (String::new(), None);
    loop {
        let (tag, body) = server.next().await?;
        see(tag, &body);
        match tag {
            tags::server::COMMAND_COMPLETE => {
                last = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
            }
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
