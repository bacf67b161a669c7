//! A client's connection to the console: simple queries in, tables out, over whatever socket it came by.
//!
//! Frames are cut by `wire::frame`, which checks lengths; answers are `pgwire`'s typed messages. A command that takes
//! its time (`PAUSE`, `WINDOW ..`) watches the socket meanwhile: an operator who has gone is noticed.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::command::{self, Command, CommandError};
use super::{reload, show, windows};
use crate::net::stream::Stream;
use crate::process::notify::Notify;
use crate::session::front::Front;
use crate::session::greet::ConsoleGuest;
use crate::telemetry::trace::Logs;
use crate::window::registry::Registry;
use crate::wire::frame;
use crate::wire::reply::{self, Report, Severity, sqlstate};
use crate::wire::tags::client;

/// The longest command: a change's SQL may be long.
const COMMAND_MAX: usize = 16 << 20;

/// What the console works on.
#[derive(Clone)]
pub struct Env {
    /// The process.
    pub front: Front,
    /// Its windows.
    pub registry: Arc<Registry>,
    /// How the process is told to end.
    pub shutdown: watch::Sender<Ending>,
    /// How many commands are being carried out: the process does not end before it has answered them.
    pub answering: watch::Sender<usize>,
    /// The process's logs.
    pub logs: Arc<Logs>,
    /// The way to the service manager.
    pub notify: Arc<Notify>,
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
    /// When all clients have left.
    WaitForClients,
    /// When all transactions have ended.
    WaitForServers,
    /// At once.
    Now,
}

/// A table to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
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

/// The operator's end of the connection.
pub(super) struct Operator {
    stream: Stream,
    buf: BytesMut,
    /// Who it is, for receipts and the log.
    pub(super) name: String,
    pub(super) admin: bool,
}

impl Operator {
    /// Sends a notice now.
    pub(super) async fn notice(&mut self, text: String) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        Report::new("00000", text).write(Severity::Notice, &mut out);
        Ok(self.stream.write_all(&out).await?)
    }

    /// Ready when the operator has gone. What it sends on is kept for later, up to a bound. Cancel-safe.
    pub(super) async fn gone(&mut self) {
        loop {
            if self.buf.len() > COMMAND_MAX {
                return;
            }
            self.buf.reserve(1024);
            match self.stream.read_buf(&mut self.buf).await {
                // A driver that says good-bye has gone too, even while its socket is still open.
                Ok(n) if n > 0 && self.buf.first() != Some(&client::TERMINATE) => {}
                _ => return,
            }
        }
    }
}

/// Serves the console to one operator until it leaves.
pub async fn serve(guest: ConsoleGuest, env: Env) {
    let ConsoleGuest { stream, buf, user, peer, admin } = guest;
    let mut operator = Operator { stream, buf, name: format!("{user}@{peer}"), admin };
    tracing::info!(operator = %operator.name, admin, "console log-in");
    if operator.greet().await.is_ok() {
        let _ = operator.serve(&env).await;
    }
    operator.stream.close().await;
}

impl Operator {
    async fn greet(&mut self) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        reply::authentication_ok(&mut out);
        let version = concat!(env!("CARGO_PKG_VERSION"), "/pglull");
        for (name, value) in [
            ("server_version", version),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("standard_conforming_strings", "on"),
            ("integer_datetimes", "on"),
            ("is_superuser", if self.admin { "on" } else { "off" }),
        ] {
            reply::parameter_status(name.as_bytes(), value.as_bytes(), &mut out);
        }
        reply::ready_for_query(&mut out);
        Ok(self.stream.write_all(&out).await?)
    }

    async fn serve(&mut self, env: &Env) -> Result<(), Problem> {
        let mut skipping = false;
        loop {
            let (tag, body) = self.message().await?;
            let _answering = Answering::start(env);
            let mut out = BytesMut::new();
            match tag {
                client::TERMINATE => return Ok(()),
                client::QUERY => {
                    let text = body.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
                    match text {
                        Some(text) if !text.contains('\0') => self.query(text, env).await?,
                        _ => self.error(&Report::new(sqlstate::PROTOCOL_VIOLATION, "invalid message format")).await?,
                    }
                    reply::ready_for_query(&mut out);
                }
                client::SYNC => {
                    skipping = false;
                    reply::ready_for_query(&mut out);
                }
                client::PARSE | client::BIND | client::DESCRIBE | client::EXECUTE | client::CLOSE => {
                    if !std::mem::replace(&mut skipping, true) {
                        let report =
                            Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "the console takes simple queries only")
                                .hint("psql sends those; in a driver switch prepared statements off.");
                        self.error(&report).await?;
                    }
                }
                client::FLUSH | client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => {}
                other => {
                    Report::new(sqlstate::PROTOCOL_VIOLATION, format!("invalid frontend message type {other}"))
                        .write(Severity::Fatal, &mut out);
                    self.stream.write_all(&out).await?;
                    return Ok(());
                }
            }
            self.stream.write_all(&out).await?;
        }
    }

    async fn message(&mut self) -> Result<(u8, BytesMut), Problem> {
        loop {
            match frame::take(&mut self.buf, COMMAND_MAX) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {
                    self.buf.reserve(4096);
                    if self.stream.read_buf(&mut self.buf).await? == 0 {
                        return Err(Problem::Gone);
                    }
                }
                Err(bad) => {
                    let mut out = BytesMut::new();
                    Report::new(sqlstate::PROTOCOL_VIOLATION, bad.to_string()).write(Severity::Fatal, &mut out);
                    let _ = self.stream.write_all(&out).await;
                    return Err(Problem::Gone);
                }
            }
        }
    }

    async fn error(&mut self, report: &Report) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        report.write(Severity::Error, &mut out);
        Ok(self.stream.write_all(&out).await?)
    }

    /// Runs the commands of one query message; the first that fails ends it.
    async fn query(&mut self, text: &str, env: &Env) -> Result<(), Problem> {
        let statements = command::split(text);
        let mut out = BytesMut::new();
        if statements.is_empty() {
            reply::empty_query(&mut out);
            self.stream.write_all(&out).await?;
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
                Err(Problem::Say(report)) => {
                    report.write(Severity::Error, &mut out);
                    self.stream.write_all(&out).await?;
                    return Ok(());
                }
            }
            self.stream.write_all(&out).await?;
        }
        Ok(())
    }

    async fn run(&mut self, command: Command, env: &Env) -> Result<Answer, Problem> {
        let looks_only = matches!(command, Command::Show(_) | Command::NoOp(_) | Command::Empty);
        if !looks_only {
            if !self.admin {
                return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "admin access needed").into());
            }
            tracing::info!(operator = %self.name, command = %windows::brief(&command), "console command");
        }
        match command {
            Command::Show(show) => show::show(&show, env),
            Command::NoOp(tag) => Ok(Answer::Done(tag)),
            Command::Empty => Ok(Answer::Done("")),
            Command::Shutdown(how) => {
                use command::Shutdown;
                let ending = match how {
                    Shutdown::WaitForClients => Ending::WaitForClients,
                    Shutdown::WaitForServers => Ending::WaitForServers,
                    Shutdown::Now => Ending::Now,
                };
                env.shutdown.send_if_modified(|now| std::mem::replace(now, ending.max(*now)) != *now);
                Ok(Answer::Done("SHUTDOWN"))
            }
            Command::KillClient(id) => kill_client(id, env),
            Command::Reload => reload::run(env).await,
            Command::Set { key, value } => reload::set_one(&key, &value, env).await,
            windows => windows::run(windows, self, env).await,
        }
    }
}

fn kill_client(id: u64, env: &Env) -> Result<Answer, Problem> {
    let clients = env.front.clients.list();
    let Some(client) = clients.iter().find(|client| client.id.0 == id) else {
        return Err(Report::new(sqlstate::UNDEFINED_OBJECT, format!("no such client: {id}"))
            .hint("SHOW CLIENTS has their ids.")
            .into());
    };
    client.dismiss(Report::new(sqlstate::ADMIN_SHUTDOWN, "admin forced disconnect"));
    Ok(Answer::Done("KILL_CLIENT"))
}

fn mistaken(error: CommandError) -> Report {
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
                reply::row_description(table.columns.iter().copied(), out);
                for row in &table.rows {
                    reply::data_row(row.iter().map(|value| Some(value.as_str())), out);
                }
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
    signalled(windows::pause(None, "SIGUSR1", &env).await, "PAUSE");
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
