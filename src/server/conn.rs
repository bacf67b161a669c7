//! A connection to Postgres after its log-in: stream, buffer, progress, parameters, cancel key.
//!
//! In the relay its parts are driven by `session::relay`; here are the proxy's own errands on it (reset,
//! rollback, parameters, the change of a window), which read replies whole because they are small.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::cancel::Link;
use super::parameters::Parameters;
use super::progress::{Boundary, Progress, Status};
use super::residue::Settings;
use super::roster::Badge;
use crate::ids::{Moment, ServerId, SessionId};
use crate::net::stream::Stream;
use crate::prepared::slots::Slots;
use crate::wire::frame::{self, BadLength, Flow};
use crate::wire::reply::Report;
use crate::wire::tags;

/// One connection to Postgres.
#[derive(Debug)]
pub struct Server {
    /// Our number for it.
    pub id: ServerId,
    /// The socket.
    pub stream: Stream,
    /// What it owes.
    pub progress: Progress,
    /// Bytes that it sent, on their way to the client.
    pub flow: Flow,
    /// What it says of its settings.
    pub parameters: Parameters,
    /// What it said of them at its log-in: RESET leads back to these.
    pub initial: Arc<Parameters>,
    /// Which client's requests it has run last.
    pub client: Option<SessionId>,
    /// How to reach what runs on it from beside: address, process id, cancel key.
    pub link: Arc<Link>,
    /// When it logged in.
    pub connected_at: Moment,
    /// When it was last put back.
    pub used_at: Moment,
    /// When it is closed at the next boundary.
    pub expires_at: Option<Moment>,
    /// A client left state on it: it is reset before anybody else gets it.
    pub dirty: bool,
    /// It has, or may have, what must not reach the next client, whatever the reset query is.
    pub leftovers: bool,
    /// The prepared statements that it has.
    pub slots: Slots,
    /// The settings, beside those that it reports, that it was given for the client that it served last.
    pub settings: Option<Arc<Settings>>,
    /// Which state of the database's schema its prepared statements are of.
    pub schema: u64,
    /// What it takes up elsewhere while it is open; given back by its drop.
    pub place: Option<Box<dyn std::fmt::Debug + Send + Sync>>,
    /// Notifications that came during an errand of the proxy's own, for a client that listens.
    pub notifications: BytesMut,
    /// It has sent an error that ends the connection.
    pub said_farewell: bool,
    /// It may have settings of its last client's that nobody can list.
    pub unlisted: bool,
    /// What it ran when it was opened, and runs again where its session is made new; empty for nothing.
    pub connect_query: Bytes,
    /// What its `connect_query` has set may be gone.
    pub bare: bool,
    /// The only client whose `nextval`s it may remember; `None`: those of several.
    pub numbers: Option<SessionId>,
    /// Its place on the list of its pool's servers, if it is a pool's.
    pub badge: Option<Badge>,
}

/// A server that stands at a boundary, with the proof: the only form in which a pool keeps one.
#[derive(Debug)]
pub struct Rested {
    server: Box<Server>,
    _proof: Boundary,
}

impl Rested {
    /// Joins a server and its proof.
    pub fn new(server: Box<Server>, proof: Boundary) -> Self {
        server.note_prepared();
        Self { server, _proof: proof }
    }

    /// Takes the server to work with; the proof is spent.
    #[must_use]
    pub fn wake(self) -> Box<Server> {
        self.server
    }

    /// A look at it.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether its socket is open and brings no farewell; asks the kernel. One system call.
    #[must_use]
    pub fn looks_alive(&mut self) -> bool {
        self.server.looks_alive()
    }

    /// Sets when it is to be closed.
    pub fn set_expiry(&mut self, at: Option<Moment>) {
        self.server.expires_at = at;
    }

    /// Takes its place on the list of its pool's servers.
    pub fn wear(&mut self, badge: Badge) {
        badge.logged_in(&self.server);
        self.server.badge = Some(badge);
    }

    /// Ties something to its life.
    pub fn keep(&mut self, place: Box<dyn std::fmt::Debug + Send + Sync>) {
        self.server.place = Some(place);
    }

    /// Whether it is still what it was when it was put back: connected, and silent but for news of its settings.
    /// Costs no system call while nothing has come.
    pub fn still_fresh(&mut self) -> bool {
        let server = &mut *self.server;
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            match server.stream.read_into(&mut cx, &mut server.flow.buf, 1024) {
                None => return true,
                Some(Ok(1..)) if server.news_only() => {}
                Some(_) => return false,
            }
        }
    }
}

/// A server that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The socket failed or was closed.
    #[error("server connection lost: {0}")]
    Lost(#[from] io::Error),
    /// It sent something that the protocol does not allow here.
    #[error("unexpected answer from server: {0}")]
    Protocol(String),
    /// It refused what was asked; the connection itself may be good.
    #[error("{0}")]
    Refused(Report),
    /// It did not answer in time.
    #[error("no answer from server within {} ms", .0.as_millis())]
    Late(Duration),
}

impl From<BadLength> for Failure {
    fn from(bad: BadLength) -> Self {
        Self::Protocol(bad.to_string())
    }
}

/// What a simple query answered: the rows of all its statements, and the command tags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Values as text; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// One for each statement.
    pub tags: Vec<String>,
}

/// The longest message that is read whole in an errand of our own.
const ERRAND_LIMIT: usize = 16 << 20;

impl Server {
    /// Whether its pool was told to reconnect since it was opened.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.badge.as_ref().is_some_and(Badge::is_outdated)
    }

    /// Whether the socket is open and, as far as its first byte tells, brings no farewell. One system call.
    #[must_use]
    fn looks_alive(&mut self) -> bool {
        match self.stream.glance() {
            Ok(Some(first)) => first != tags::server::ERROR,
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Looks at what came while nobody had it. Only news are allowed: settings, notices, notifications.
    fn news_only(&mut self) -> bool {
        loop {
            match frame::take(&mut self.flow.buf, ERRAND_LIMIT) {
                Ok(None) => return true,
                Ok(Some((tags::server::PARAMETER_STATUS, body))) => {
                    self.parameters.report(&body);
                }
                Ok(Some((tags::server::NOTICE | tags::server::NOTIFICATION, _))) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }

    /// Writes a message of the proxy's own. **Not cancel-safe**: a half-written message ends the connection.
    ///
    /// # Errors
    /// If the socket is dead.
    pub async fn send(&mut self, tag: u8, body: &[u8]) -> Result<(), Failure> {
        let mut out = BytesMut::with_capacity(frame::HEADER + body.len());
        self.append(tag, body, &mut out)?;
        self.stream.write_all(&out).await?;
        Ok(())
    }

    /// Adds a message of the proxy's own to what the caller sends next; its reply is owed from now on.
    pub(super) fn append(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        let length = u32::try_from(body.len() + 4).map_err(|_| Failure::Protocol("message too long".to_owned()))?;
        out.put_u8(tag);
        out.put_u32(length);
        out.put_slice(body);
        self.progress.sent(tag);
        Ok(())
    }

    /// Reads the next message. Cancel-safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// If the socket is dead, or the message is not one that was owed.
    pub async fn next(&mut self) -> Result<(u8, BytesMut), Failure> {
        loop {
            if let Some((tag, body)) = frame::take(&mut self.flow.buf, ERRAND_LIMIT)? {
                if tag == tags::server::PARAMETER_STATUS {
                    self.parameters.report(&body);
                }
                let expected = self.progress.received(tag, &body);
                // An error that nobody asked for is a farewell; its text is worth more than our surprise.
                if tag != tags::server::ERROR {
                    expected.map_err(|unexpected| Failure::Protocol(unexpected.to_string()))?;
                }
                return Ok((tag, body));
            }
            self.flow.buf.reserve(8192);
            if self.stream.read_buf(&mut self.flow.buf).await? == 0 {
                return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Drops what was on its way to a client that has gone, to the end of the message that was half passed on.
    ///
    /// # Errors
    /// If the socket is dead.
    pub async fn skip_message(&mut self) -> Result<(), Failure> {
        self.flow.forget_pending();
        while self.flow.mid_message() {
            if self.stream.read_buf(&mut self.flow.buf).await? == 0 {
                return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            self.flow.walk(|_, _, _| Ok::<_, BadLength>(frame::Verdict::Stop))?;
            self.flow.forget_pending();
        }
        Ok(())
    }

    /// Runs a simple query of the proxy's own to its end. Notices go to `notice`. **Not cancel-safe.**
    ///
    /// # Errors
    /// [`Failure::Refused`] with Postgres' own report if a statement failed (the connection is good and, outside a
    /// transaction block, clean); any other if the connection is not to be used again.
    pub async fn query(&mut self, sql: &[u8], mut notice: impl FnMut(Report)) -> Result<Answer, Failure> {
        let mut body = BytesMut::with_capacity(sql.len() + 1);
        body.put_slice(sql);
        body.put_u8(0);
        self.send(tags::client::QUERY, &body).await?;
        // A simple query ends the unnamed statement, whoever's it is.
        self.slots.unnamed.sent_query(false, self.slots.batch);
        let mut answer = Answer::default();
        let mut refused = None;
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                tags::server::DATA_ROW => answer.rows.push(row(body.freeze())?),
                tags::server::COMMAND_COMPLETE => {
                    answer.tags.push(String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned());
                }
                tags::server::NOTICE => notice(Report::parse(&body)),
                tags::server::NOTIFICATION => self.keep_notification(&body),
                tags::server::ERROR => {
                    let report = Report::parse(&body);
                    if self.progress.broken() {
                        return Err(Failure::Refused(report));
                    }
                    refused.get_or_insert(report);
                }
                // Nobody is there to give or take COPY data: end it, the server says the rest.
                tags::server::COPY_IN => self.send(tags::client::COPY_FAIL, b"not possible here\0").await?,
                tags::server::READY_FOR_QUERY => {
                    self.take_news().await?;
                    return refused.map_or(Ok(answer), |report| Err(Failure::Refused(report)));
                }
                _ => {}
            }
        }
    }

    /// Takes what has come behind the answer: news only, which may come at any time.
    async fn take_news(&mut self) -> Result<(), Failure> {
        while !self.flow.buf.is_empty() {
            match frame::take(&mut self.flow.buf, ERRAND_LIMIT)? {
                Some((tags::server::NOTIFICATION, body)) => self.keep_notification(&body),
                Some((tags::server::PARAMETER_STATUS, body)) => {
                    self.parameters.report(&body);
                }
                Some((tags::server::NOTICE, _)) => {}
                Some((tag, _)) => {
                    return Err(Failure::Protocol(format!("message type {tag:#04x} that nobody asked for")));
                }
                None if self.stream.read_buf(&mut self.flow.buf).await? == 0 => {
                    return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
                None => {}
            }
        }
        // Clients' answers are read in steps of their own, from small ones on.
        self.flow.release_memory();
        Ok(())
    }

    fn keep_notification(&mut self, body: &[u8]) {
        if self.notifications.len() + body.len() <= ERRAND_LIMIT {
            self.notifications.put_u8(tags::server::NOTIFICATION);
            // Postgres limits it to 8000 bytes.
            self.notifications.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
            self.notifications.put_slice(body);
        }
    }

    /// The same, bounded in time. A server that was late is in doubt and must be closed.
    ///
    /// # Errors
    /// As [`query`](Self::query), and [`Failure::Late`].
    pub async fn query_within(&mut self, sql: &[u8], bound: Duration) -> Result<Answer, Failure> {
        tokio::time::timeout(bound, self.query(sql, |_| {})).await.unwrap_or(Err(Failure::Late(bound)))
    }

    /// Says good-bye before the socket is closed, if the socket takes it at once; Postgres then logs no lost connection.
    pub fn farewell(mut self: Box<Self>) {
        use tokio::io::AsyncWrite as _;
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut stream = std::pin::Pin::new(&mut self.stream);
        if stream.as_mut().poll_write(&mut cx, &[tags::client::TERMINATE, 0, 0, 0, 4]).is_ready() {
            let _ = stream.poll_shutdown(&mut cx);
        }
    }

    /// Whether it says that it is Postgres 18 or newer.
    #[must_use]
    pub fn is_18_or_newer(&self) -> bool {
        let version = self.parameters.value(b"server_version").map_or(&b""[..], |version| version);
        let major = version.iter().take_while(|byte| byte.is_ascii_digit());
        major.fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))) >= 18
    }

    /// Lets others see how many prepared statements it has; for each boundary.
    pub fn note_prepared(&self) {
        self.link.prepared.store(self.slots.len(), Ordering::Relaxed);
    }

    /// The proof that it is clean, if it is.
    #[must_use]
    pub fn boundary(&self) -> Option<Boundary> {
        self.progress.boundary(None, &self.flow)
    }

    /// Whether a transaction is open on it as far as it has told.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.progress.status() != Status::Idle
    }
}

/// Splits a DataRow into its values.
pub(super) fn row(mut body: Bytes) -> Result<Vec<Option<Bytes>>, Failure> {
    use bytes::Buf as _;
    let short = || Failure::Protocol("a DataRow shorter than it says".to_owned());
    let columns = body.try_get_u16().map_err(|_| short())?;
    let mut values = Vec::with_capacity(usize::from(columns));
    for _ in 0..columns {
        let length = body.try_get_i32().map_err(|_| short())?;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= body.len() => Some(body.split_to(length)),
            Ok(_) => return Err(short()),
        });
    }
    Ok(values)
}
