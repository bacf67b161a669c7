//! A client's connection to the console: simple and extended queries in, tables out, over whatever socket it came by.
//!
//! Frames are cut by `wire::frame`, which checks lengths. A command that takes its time (`PAUSE`, `WAIT_CLOSE`, `WINDOW ..`)
//! watches the socket and the operator's cancel key meanwhile: one who has gone, or has pressed Ctrl-C, is noticed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::sync::watch;

use super::command::{self, Command, CommandError, Role};
use super::extended::Extended;
use super::operator::Operator;
use super::table::{Formats, Table, describe};
use super::verbs::unless_interrupted;
use super::{reload, show, upgrade, verbs, windows};
use crate::net::listen::Share;
use crate::pool::stats::Periods;
use crate::process::notify::Notify;
use crate::session::front::Front;
use crate::session::greet::ConsoleGuest;
use crate::telemetry::trace::Logs;
use crate::window::registry::Registry;
use crate::wire::extended;
use crate::wire::reply::{self, Report, Severity, sqlstate};
use crate::wire::tags::client;

/// What the console works on.
#[derive(Clone)]
pub struct Env {
    /// The process.
    pub front: Front,
    /// Its windows.
    pub registry: Arc<Registry>,
    /// When the periods of its averages began.
    pub periods: Arc<Periods>,
    /// How the process is told to end.
    pub shutdown: watch::Sender<Ending>,
    /// How many commands are being carried out: the process does not end before it has answered them.
    pub answering: watch::Sender<usize>,
    /// The process's logs.
    pub logs: Arc<Logs>,
    /// The way to the service manager.
    pub notify: Arc<Notify>,
    /// What listens, for a process that takes over.
    pub shares: Arc<ArcSwap<Vec<Share>>>,
}

/// One command that is being carried out.
struct Answering(watch::Sender<usize>);

impl Answering {
    fn start(env: &Env) -> Self {
        env.answering.send_modify(|count| *count += 1);
        Self(env.answering.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// How far the process is asked to end. A later word is a harder one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ending {
    /// Not at all.
    Run,
    /// Another process takes clients in: it has taken over, and this one ends when its last client has left or moved; or this
    /// one is to take over, and it is not its turn yet.
    Moved,
    /// When all clients have left.
    WaitForClients,
    /// When all transactions have ended.
    WaitForServers,
    /// At once.
    Now,
}

impl Ending {
    /// This process takes clients in from here on, if the other one did. Returns whether it was so.
    pub fn comes_back(shutdown: &watch::Sender<Self>) -> bool {
        Self::turns(shutdown, Self::Moved, Self::Run)
    }

    /// Another process takes clients in from here on, if this one did. Returns whether it was so.
    pub fn moves(shutdown: &watch::Sender<Self>) -> bool {
        Self::turns(shutdown, Self::Run, Self::Moved)
    }

    fn turns(shutdown: &watch::Sender<Self>, from: Self, to: Self) -> bool {
        shutdown.send_if_modified(|ending| {
            let fits = *ending == from;
            if fits {
                *ending = to;
            }
            fits
        })
    }

    /// Whether not even the console takes anybody in any more.
    #[must_use]
    pub fn leaves_all_to_others(self) -> bool {
        matches!(self, Self::Moved | Self::Now)
    }
}

/// What a command comes to.
pub(super) enum Answer {
    /// Rows, and a tag.
    Rows(Table, &'static str),
    /// A tag.
    Done(&'static str),
    /// A notice and a tag.
    Say(String, &'static str),
}

/// Why a command was not carried out.
pub(super) enum Problem {
    /// The operator is told.
    Say(Box<Report>),
    /// The operator has gone.
    Gone,
}

impl From<Report> for Problem {
    fn from(report: Report) -> Self {
        Self::Say(Box::new(report))
    }
}

impl From<std::io::Error> for Problem {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// Serves the console to one operator until it leaves.
pub async fn serve(guest: ConsoleGuest, env: Env) {
    let ConsoleGuest { stream, buf, presence, admin } = guest;
    let name = format!("{}@{}", presence.client().user, presence.client().peer);
    let operator = Operator { stream, buf, presence, clock: env.front.clock, name, admin };
    tracing::info!(operator = %operator.name, admin, "console log-in");
    let mut console = Console { operator, extended: Extended::default(), in_transaction: false };
    if console.greet().await.is_ok() {
        let _ = console.serve(&env).await;
    }
    console.operator.stream.close().await;
}

/// One connection, and what its driver has prepared on it.
pub(super) struct Console {
    pub(super) operator: Operator,
    pub(super) extended: Extended,
    /// The driver has said `BEGIN`, and wants to see itself in a transaction.
    in_transaction: bool,
}

impl Console {
    async fn greet(&mut self) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        reply::authentication_ok(&mut out);
        for (name, value) in show::SETTINGS {
            reply::parameter_status(name.as_bytes(), value.as_bytes(), &mut out);
        }
        let superuser: &[u8] = if self.operator.admin { b"on" } else { b"off" };
        reply::parameter_status(b"is_superuser", superuser, &mut out);
        reply::backend_key_data(&self.operator.presence.client().key, &mut out);
        extended::ready_for_query(false, &mut out);
        self.operator.send(&out).await
    }

    async fn serve(&mut self, env: &Env) -> Result<(), Problem> {
        let mut skipping = false;
        loop {
            let (tag, body) = self.operator.message().await?;
            let _answering = Answering::start(env);
            match tag {
                client::TERMINATE => return Ok(()),
                client::SYNC => {
                    skipping = false;
                    self.ready().await?;
                }
                // After an error nothing counts before Sync, whatever it is.
                _ if skipping => {}
                client::QUERY => {
                    let text = body.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
                    match text {
                        Some(text) if !text.contains('\0') => self.query(text, env).await?,
                        _ => self.error(&malformed()).await?,
                    }
                    self.ready().await?;
                }
                client::FUNCTION_CALL => {
                    self.error(&Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "the console has no functions")).await?;
                    self.ready().await?;
                }
                client::PARSE | client::BIND | client::DESCRIBE | client::EXECUTE | client::CLOSE => {
                    match self.extended_message(tag, &body, env).await {
                        Ok(()) => {}
                        Err(Problem::Say(report)) => {
                            skipping = true;
                            self.error(&report).await?;
                        }
                        Err(Problem::Gone) => return Err(Problem::Gone),
                    }
                }
                // Everything is sent at once; data of a COPY that failed to begin is ignored.
                client::FLUSH | client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => {}
                other => {
                    let text = format!("invalid frontend message type {other}");
                    return Err(self.operator.farewell(&Report::new(sqlstate::PROTOCOL_VIOLATION, text)).await);
                }
            }
        }
    }

    /// The end of a request. What was bound in it ends with it, as with a transaction.
    async fn ready(&mut self) -> Result<(), Problem> {
        if !self.in_transaction {
            self.extended.end_portals();
        }
        let mut out = BytesMut::new();
        extended::ready_for_query(self.in_transaction, &mut out);
        self.operator.send(&out).await
    }

    async fn error(&mut self, report: &Report) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        report.write(Severity::Error, &mut out);
        self.operator.send(&out).await
    }

    /// Runs the commands of one query message; the first that fails ends it.
    async fn query(&mut self, text: &str, env: &Env) -> Result<(), Problem> {
        let statements = command::split(text);
        let mut out = BytesMut::new();
        if statements.is_empty() {
            reply::empty_query(&mut out);
            self.operator.send(&out).await?;
        }
        for statement in statements {
            let answer = match command::parse(statement.text) {
                Ok(command) => self.run(command, env).await,
                Err(error) => Err(mistaken(error).into()),
            };
            out.clear();
            match answer {
                Ok(answer) => answer.write(&mut out),
                Err(Problem::Gone) => return Err(Problem::Gone),
                Err(Problem::Say(report)) => return self.error(&report).await,
            }
            self.operator.send(&out).await?;
        }
        Ok(())
    }

    /// Carries out a command, if this operator may give it.
    pub(super) async fn run(&mut self, command: Command, env: &Env) -> Result<Answer, Problem> {
        let role = if self.operator.admin { Role::Admin } else { Role::Stats };
        if command.needs() > role {
            return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "admin access needed").into());
        }
        // A renewal comes again and again, and changes nothing that is news.
        if command.needs() == Role::Admin && !matches!(command, Command::WindowRenew { .. }) {
            tracing::info!(operator = %self.operator.name, command = %windows::brief(&command), "console command");
        }
        self.operator.begins();
        let answer = self.carry_out(command, env).await;
        self.operator.ends();
        answer
    }

    async fn carry_out(&mut self, command: Command, env: &Env) -> Result<Answer, Problem> {
        unless_interrupted(upgrade::barred(&command, env), &mut self.operator).await??;
        match command {
            Command::Show(show) => show::show(&show, env),
            Command::Begin => {
                self.in_transaction = true;
                Ok(Answer::Done("BEGIN"))
            }
            Command::End(tag) => {
                self.in_transaction = false;
                Ok(Answer::Done(tag))
            }
            Command::Deallocate(name) => self.extended.deallocate(name.as_deref()),
            Command::NoOp(tag) => Ok(Answer::Done(tag)),
            Command::Empty => Ok(Answer::Done("")),
            Command::Kill { .. }
            | Command::KillClient(_)
            | Command::Reconnect { .. }
            | Command::WaitClose { .. }
            | Command::Disable { .. }
            | Command::Enable { .. }
            | Command::Shutdown(_) => verbs::run(command, &mut self.operator, env).await,
            Command::Upgrade => upgrade::run(&mut self.operator, env).await,
            Command::Reload => reload::run(env).await,
            Command::Set { key, value } => reload::set_one(&key, &value, env).await,
            windows => windows::run(windows, &mut self.operator, env).await,
        }
    }
}

/// A message that is not what its tag says.
pub(super) fn malformed() -> Report {
    Report::new(sqlstate::PROTOCOL_VIOLATION, "invalid message format")
}

/// The report of a text that is no command.
pub(super) fn mistaken(error: CommandError) -> Report {
    let report = Report::new(sqlstate::SYNTAX_ERROR, error.message);
    match error.hint {
        None => report,
        Some(hint) => report.hint(hint),
    }
}

impl Answer {
    fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Rows(table, tag) => {
                let text = Formats::default();
                describe(&table.columns, &text, out);
                table.write_rows(0, usize::MAX, &text, out);
                reply::command_complete(tag, out);
            }
            Self::Done("") => reply::empty_query(out),
            Self::Done(tag) => reply::command_complete(tag, out),
            Self::Say(text, tag) => {
                Report::new("00000", text.as_str()).write(Severity::Notice, out);
                reply::command_complete(tag, out);
            }
        }
    }
}

/// What SIGUSR1 does: `PAUSE`.
pub async fn pause_all(env: Env) {
    signalled(windows::pause_all(&env).await, "PAUSE");
}

/// What SIGUSR2 does: `RESUME`.
pub async fn resume_all(env: Env) {
    signalled(windows::resume(None, &env).await, "RESUME");
}

fn signalled(answer: Result<Answer, Problem>, command: &str) {
    if let Err(Problem::Say(report)) = answer {
        tracing::warn!(%report, command, "the command of a signal was not carried out");
    }
}
