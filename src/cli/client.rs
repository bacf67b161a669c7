//! A small client of the console: one connection, one command at a time, notices as they come.
//!
//! Every wait has an end, except the answer of a command that may run for long ([`Console::run`]), which ends with
//! the connection. A future that is dropped half-way leaves the connection useless, and it says so when used again.

use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::login;
use super::reply::{self, NotAConsole, Reply, Report};

/// How long connecting, logging in or a short command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a console listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Its own socket.
    Unix(PathBuf),
    /// A listener, as `HOST:PORT`.
    Tcp(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Who logs in.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password, where one is asked for.
    pub password: Option<String>,
}

/// Why the console gave no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or we may not.
    #[error("cannot reach the console at {endpoint}: {source}")]
    Connect {
        /// Where we tried.
        endpoint: Endpoint,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No answer within the time that a healthy console needs.
    #[error("the console did not answer within {} s ({what})", PATIENCE.as_secs())]
    Silent {
        /// What we waited for.
        what: &'static str,
    },
    /// The connection ended before the answer was complete.
    #[error("the console closed the connection before it had answered")]
    Closed,
    /// The connection broke.
    #[error("the connection to the console broke: {0}")]
    Io(#[from] std::io::Error),
    /// Something else listens there.
    #[error(transparent)]
    Protocol(#[from] NotAConsole),
    /// The log-in asks for something that we cannot give.
    #[error("cannot log in: {0}")]
    Login(String),
    /// The console refused the command, or the command failed.
    #[error("{0}")]
    Server(Box<Report>),
    /// An earlier command on this connection was given up half-way.
    #[error("an earlier command on this connection did not end")]
    Busy,
}

impl ClientError {
    /// What the operator can do about it, or empty.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Connect { source, endpoint } => match source.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    "is pglull running? name its socket with --socket PATH or PGLULL_ADMIN_SOCKET \
                     (the setting is admin_socket)"
                        .to_owned()
                }
                std::io::ErrorKind::PermissionDenied => "run this as the user that runs pglull, or as root".to_owned(),
                // What resolving a name and reading an address come to.
                _ if matches!(endpoint, Endpoint::Tcp(_)) => "--url takes HOST:PORT, such as 127.0.0.1:6432".to_owned(),
                _ => String::new(),
            },
            Self::Silent { .. } => "look at the log of pglull; is it stopped or overloaded?".to_owned(),
            Self::Closed | Self::Io(_) => "`pglull window list` tells what has become of a window".to_owned(),
            Self::Protocol(_) => "check the path or the address".to_owned(),
            Self::Login(_) => "give the name with --user and the password in PGPASSWORD".to_owned(),
            // Class 28: who we are is not believed, or not enough.
            Self::Server(report) if report.hint.is_empty() && report.code.starts_with("28") => {
                "give a name of admin_users or stats_users with --user, and its password in PGPASSWORD; \
                 the console's own socket (--socket) asks for none"
                    .to_owned()
            }
            Self::Server(report) => report.hint.clone(),
            Self::Busy => "connect again".to_owned(),
        }
    }
}

/// The answer to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The names of the columns; empty if the statement has no rows.
    pub columns: Vec<String>,
    /// The rows; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// The tag, such as `SHOW` or `WINDOW`.
    pub tag: String,
}

impl Rows {
    /// The value in the first row under this name.
    #[must_use]
    pub fn first(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|c| c == column)?;
        self.rows.first()?.get(at)?.as_deref()
    }

    /// The value of one of its rows under this name; empty for NULL and for what is not there.
    pub(crate) fn value<'a>(&self, row: &'a [Option<String>], column: &str) -> &'a str {
        let at = self.columns.iter().position(|c| c == column);
        at.and_then(|at| row.get(at)).and_then(Option::as_deref).unwrap_or_default()
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One connection to a console, logged in.
pub struct Console {
    wire: Box<dyn Wire>,
    input: BytesMut,
    output: BytesMut,
    idle: bool,
}

impl Console {
    /// Connects and logs in, within 10 s.
    ///
    /// # Errors
    /// Every kind of [`ClientError`]; a refused log-in is [`ClientError::Server`].
    pub async fn connect(endpoint: &Endpoint, login: &Login) -> Result<Self, ClientError> {
        let opening = async {
            let unreachable = |source| ClientError::Connect { endpoint: endpoint.clone(), source };
            let wire: Box<dyn Wire> = match endpoint {
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unreachable)?),
                Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await.map_err(unreachable)?),
            };
            let mut console = Self { wire, input: BytesMut::new(), output: BytesMut::new(), idle: false };
            console.log_in(login).await?;
            Ok(console)
        };
        timeout(PATIENCE, opening).await.map_err(|_| ClientError::Silent { what: "log-in" })?
    }

    /// Sends one command that answers soon, and waits up to 10 s. Not cancel-safe: a dropped call ends the connection's use.
    ///
    /// # Errors
    /// Every kind of [`ClientError`] except `Connect`.
    pub async fn query(&mut self, command: &str) -> Result<Vec<Rows>, ClientError> {
        let running = self.run(command, |_| {});
        timeout(PATIENCE, running).await.map_err(|_| ClientError::Silent { what: "a short command" })?
    }

    /// Sends one command and waits for as long as it runs; notices are handed over as they come.
    /// Not cancel-safe: a dropped call ends the connection's use.
    ///
    /// # Errors
    /// Every kind of [`ClientError`] except `Connect` and `Silent`.
    pub async fn run(
        &mut self,
        command: &str,
        mut on_notice: impl FnMut(Report) + Send,
    ) -> Result<Vec<Rows>, ClientError> {
        if !self.idle {
            return Err(ClientError::Busy);
        }
        self.idle = false;
        frontend::query(command, &mut self.output)?;
        self.flush().await?;
        let (mut done, mut current, mut failure) = (Vec::new(), Rows::default(), None);
        loop {
            match self.receive().await? {
                Reply::Columns(columns) => current.columns = columns,
                Reply::Row(row) => current.rows.push(row),
                Reply::Done(tag) => {
                    current.tag = tag;
                    done.push(std::mem::take(&mut current));
                }
                Reply::Notice(report) => on_notice(report),
                Reply::Error(report) => failure = Some(report),
                Reply::Ready => break,
                Reply::Auth(..) | Reply::Other => {}
            }
        }
        self.idle = true;
        failure.map_or(Ok(done), |report| Err(ClientError::Server(Box::new(report))))
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), ClientError> {
        let parameters = [("user", login.user.as_str()), ("database", "pglull"), ("application_name", "pglull")];
        frontend::startup_message(parameters, &mut self.output)?;
        self.flush().await?;
        let mut exchange = login::Exchange::new(login);
        loop {
            match self.receive().await? {
                Reply::Auth(kind, body) => {
                    exchange.answer(kind, &body, &mut self.output)?;
                    self.flush().await?;
                }
                Reply::Error(report) => return Err(ClientError::Server(Box::new(report))),
                Reply::Ready => break,
                _ => {}
            }
        }
        self.idle = true;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        let out = self.output.split();
        let sending = self.wire.write_all(&out);
        timeout(PATIENCE, sending).await.map_err(|_| ClientError::Silent { what: "taking the command" })??;
        Ok(())
    }

    async fn receive(&mut self) -> Result<Reply, ClientError> {
        loop {
            if let Some(reply) = reply::next(&mut self.input)? {
                return Ok(reply);
            }
            if self.wire.read_buf(&mut self.input).await? == 0 {
                return Err(ClientError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
