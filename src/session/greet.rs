//! From an accepted socket to a session: first packet, authentication, welcome.
//!
//! Nobody is known here yet: each step is bounded in bytes and, by the caller, in time. Identity is written once, by
//! one StartupMessage (CVE-2026-107350 came from a second), and no byte of the client reaches a server before it is proved.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::front::{Front, Via};
use super::login;
use super::task::Session;
use super::welcome;
use crate::auth::rules::Asked;
use crate::clients::{Cancel, Entry, Local, Presence};
use crate::config::CONSOLE;
use crate::ids::Moment;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::accept::Acceptor;
use crate::pool::database::Database;
use crate::server::cancel;
use crate::wire::frame::Flow;
use crate::wire::reply::{self, Report, Severity, sqlstate};
use crate::wire::startup::{self, CancelKey, Packet, Startup};

/// How long a cancel of a client may take whose database was removed.
const CANCEL_BOUND: Duration = Duration::from_secs(10);

/// How long a client may take to read why it is refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that is not logged in yet.
pub(super) struct Guest {
    pub(super) stream: Stream,
    pub(super) buf: BytesMut,
    /// What it is told together with the next thing that it has to answer: one packet, and it is woken once.
    pub(super) unsent: BytesMut,
    pub(super) peer: Peer,
    pub(super) connected_at: Moment,
    /// The minor version of the protocol that it asked for, as far as we speak it.
    minor: u16,
    /// It speaks a protocol before 3, in which errors have another form.
    old: bool,
}

/// What became of a connection.
pub enum Greeted {
    /// It is over: a probe, a cancel request, or refused with a word.
    Over,
    /// Logged in to a database.
    Session(Box<Session>),
    /// Logged in to the console.
    Console(ConsoleGuest),
}

/// A client of the console.
pub struct ConsoleGuest {
    /// Its socket.
    pub stream: Stream,
    /// What it sent behind its log-in.
    pub buf: BytesMut,
    /// Its place among those at the console.
    pub presence: Presence,
    /// Whether it may change things, or only look.
    pub admin: bool,
}

/// Why a log-in ended early.
pub(super) enum Refusal {
    /// The client has gone, or was never there.
    Gone,
    /// It is told why; the second word is the metric's label.
    Say(Report, &'static str),
    /// It is told nothing more; the word is the metric's label.
    Silent(&'static str),
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Logs a connection in. Cancel-safe in the sense that dropping it closes the connection.
pub async fn greet(stream: Stream, front: &Front, via: Via) -> Greeted {
    let Ok(peer) = stream.peer() else { return Greeted::Over };
    let mut guest = Guest {
        stream,
        buf: BytesMut::new(),
        unsent: BytesMut::new(),
        peer,
        connected_at: front.clock.now(),
        minor: 0,
        old: false,
    };
    let bound = front.config().client_login_timeout;
    let outcome = match bound {
        Some(bound) => {
            let late =
                || Err(Refusal::Say(Report::new(sqlstate::PROTOCOL_VIOLATION, "client_login_timeout"), "timeout"));
            tokio::time::timeout(bound, first_packets(&mut guest, front, via)).await.unwrap_or_else(|_| late())
        }
        None => first_packets(&mut guest, front, via).await,
    };
    match outcome {
        Ok(Step::Cancel(key)) => {
            // Outside of the log-in's bound: a cancel has its own.
            cancel(&key, front).await;
            Greeted::Over
        }
        Err(Refusal::Gone) => Greeted::Over,
        Ok(Step::Session(make)) => Greeted::Session(Box::new(make.session(guest))),
        Ok(Step::Console { user, admin }) => Greeted::Console(at_console(guest, front, user, admin)),
        Err(Refusal::Silent(reason)) => {
            front.metrics.login_failed(reason);
            Greeted::Over
        }
        Err(Refusal::Say(report, reason)) => {
            front.metrics.login_failed(reason);
            let age = front.clock.now().since(guest.connected_at).as_secs();
            tracing::info!(peer = %guest.peer, refused = reason, "closing because: {} (age={age}s)", report.message);
            if guest.old {
                report.write_old(&mut guest.unsent);
            } else {
                report.write(Severity::Fatal, &mut guest.unsent);
            }
            // A client that does not read does not get its farewell.
            let _ = tokio::time::timeout(FAREWELL, guest.flush()).await;
            guest.stream.close().await;
            Greeted::Over
        }
    }
}

fn at_console(guest: Guest, front: &Front, user: String, admin: bool) -> ConsoleGuest {
    let entry = Entry {
        pool_user: user.clone(),
        user,
        database: CONSOLE[0].to_owned(),
        peer: guest.peer,
        local: Local::of(&guest.stream),
        connected_at: guest.connected_at,
        application_name: String::new(),
        minor: guest.minor,
        tls: guest.stream.tls().map(ToString::to_string),
    };
    ConsoleGuest { presence: front.clients.operators().take_in(entry), stream: guest.stream, buf: guest.buf, admin }
}

/// How the first packets ended.
enum Step {
    Cancel(CancelKey),
    Session(welcome::Ready),
    Console { user: String, admin: bool },
}

async fn first_packets(guest: &mut Guest, front: &Front, via: Via) -> Result<Step, Refusal> {
    let acceptor = front.door.acceptor.load_full();
    let (mut asked_tls, mut asked_gss) = (false, false);
    if guest.stream.begins_with_tls().await? {
        guest.begin_with_tls(&acceptor).await?;
    }
    loop {
        match guest.packet().await? {
            // As Postgres: within TLS there is nothing more to negotiate.
            Packet::Ssl | Packet::Gss if guest.stream.tls().is_some() => {
                return Err(violation("encryption was asked for within TLS"));
            }
            Packet::Ssl if !asked_tls => {
                asked_tls = true;
                guest.answer_ssl(&acceptor).await?;
            }
            Packet::Gss if !asked_gss => {
                asked_gss = true;
                guest.nothing_behind("received unencrypted data after GSSAPI encryption request")?;
                guest.stream.write_all(b"N").await?;
            }
            Packet::Ssl | Packet::Gss => return Err(violation("encryption was asked for twice")),
            // Without TLS too, whatever the mode: libpq before 17 sends no other.
            Packet::Cancel(key) => return Ok(Step::Cancel(key)),
            Packet::Startup(startup) => {
                guest.is_private_enough(&acceptor)?;
                let step = log_in(guest, front, via, &startup).await?;
                guest.flush().await?;
                return Ok(step);
            }
        }
    }
}

fn violation(text: &str) -> Refusal {
    Refusal::Say(Report::new(sqlstate::PROTOCOL_VIOLATION, text), "protocol_error")
}

impl Guest {
    /// Sends what is unsent.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.unsent).await
    }

    async fn packet(&mut self) -> Result<Packet, Refusal> {
        loop {
            match startup::take(&mut self.buf) {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => {
                    self.buf.reserve(1024);
                    if self.stream.read_buf(&mut self.buf).await? == 0 {
                        return Err(Refusal::Gone);
                    }
                }
                Err(startup::BadPacket::Cancel) => return Err(Refusal::Gone),
                Err(bad @ startup::BadPacket::Version { major, .. }) => {
                    let report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, bad.to_string());
                    self.old = major < 3;
                    return Err(Refusal::Say(report, "unsupported"));
                }
                Err(bad) => return Err(violation(&bad.to_string())),
            }
        }
    }

    /// Bytes behind a request for encryption were sent before its answer: in the clear, by whoever sits in between
    /// (CVE-2021-23214), so they are never taken for the session's.
    fn nothing_behind(&self, stuffed: &str) -> Result<(), Refusal> {
        if self.buf.is_empty() { Ok(()) } else { Err(violation(stuffed)) }
    }

    /// Answers an SSLRequest: `S` and a handshake, or `N`. A Unix socket needs no TLS and gets none.
    async fn answer_ssl(&mut self, acceptor: &Acceptor) -> Result<(), Refusal> {
        self.nothing_behind("received unencrypted data after SSL request")?;
        if !acceptor.offers() || !matches!(self.stream, Stream::Tcp(_)) {
            return Ok(self.stream.write_all(b"N").await?);
        }
        self.stream.write_all(b"S").await?;
        self.handshake(acceptor).await
    }

    /// A client that begins with TLS at once (`sslnegotiation=direct`). It must name the protocol by ALPN: else bytes of a
    /// browser could be made to look like ours.
    async fn begin_with_tls(&mut self, acceptor: &Acceptor) -> Result<(), Refusal> {
        if !acceptor.offers() {
            tracing::info!(peer = %self.peer, "log-in refused: the client begins with TLS, and client_tls_sslmode is disable");
            return Err(Refusal::Gone);
        }
        self.handshake(acceptor).await?;
        match self.stream.tls() {
            Some(tls) if tls.alpn => Ok(()),
            _ => Err(violation("received direct SSL connection request without ALPN protocol negotiation extension")),
        }
    }

    async fn handshake(&mut self, acceptor: &Acceptor) -> Result<(), Refusal> {
        let done = self.stream.accept_tls(acceptor).await;
        done.map_err(|error| {
            tracing::info!(peer = %self.peer, %error, "TLS handshake with a client failed");
            // TLS itself has told it what it could.
            Refusal::Silent("tls")
        })
    }

    /// As PgBouncer says it: tools look for these words.
    fn note_attempt(&self, asked: &Asked<'_>) {
        let Asked { user, database, replication } = asked;
        let tls = self.stream.tls().map_or_else(|| "no".to_owned(), ToString::to_string);
        let replication = if *replication { "yes" } else { "no" };
        let text = format!("login attempt: db={database} user={user} tls={tls} replication={replication}");
        tracing::info!(peer = %self.peer, %database, %user, "{text}");
    }

    /// Whether the client may go on without TLS, if it does.
    fn is_private_enough(&self, acceptor: &Acceptor) -> Result<(), Refusal> {
        let needs_tls = matches!(self.peer, Peer::Tcp(..)) && acceptor.demands();
        if !needs_tls || self.stream.tls().is_some() {
            return Ok(());
        }
        let report = Report::new(sqlstate::INVALID_AUTHORIZATION, "SSL required")
            .hint("Connections without TLS are not accepted here: connect with sslmode=require or stricter.");
        Err(Refusal::Say(report, "not_allowed"))
    }
}

async fn log_in(guest: &mut Guest, front: &Front, via: Via, startup: &Startup) -> Result<Step, Refusal> {
    guest.minor = startup.speaks();
    let name = |key| startup.parameter(key).filter(|value| !value.is_empty());
    let Some(user) = name("user") else {
        let report =
            Report::new(sqlstate::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet");
        return Err(Refusal::Say(report, "protocol_error"));
    };
    let database = name("database").unwrap_or(user);
    let user = String::from_utf8_lossy(user).into_owned();
    let database = String::from_utf8_lossy(database).into_owned();
    let replication = name("replication").is_some_and(|value| !is_false(value));
    if via == Via::Listener && front.config().log_connections {
        guest.note_attempt(&Asked { user: &user, database: &database, replication });
    }
    negotiate(guest, startup);
    if replication {
        let report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "replication connections are not supported")
            .hint("Connect replication clients to Postgres itself.");
        return Err(Refusal::Say(report, "unsupported"));
    }
    let console = CONSOLE.contains(&database.as_str());
    if via == Via::AdminSocket {
        return admin_socket(guest, user, console).await;
    }
    if console && is_own_pgbouncer(guest, &user) {
        return Ok(Step::Console { user, admin: true });
    }
    let asked = Asked { user: &user, database: &database, replication: false };
    let proven = login::authenticate(guest, front, asked).await?;
    if console {
        let config = front.config();
        // Whoever may be anybody is nobody here, whatever the name.
        let listed = |names: &[String]| !proven.anonymous && names.contains(&user);
        let admin = listed(&config.admin_users);
        if !admin && !listed(&config.stats_users) {
            let report = Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "not allowed")
                .hint("The console is for admin_users and stats_users, and for the admin_socket.");
            return Err(Refusal::Say(report, "not_allowed"));
        }
        return Ok(Step::Console { user, admin });
    }
    if front.is_closing() {
        return Err(Refusal::Say(Report::new(sqlstate::CANNOT_CONNECT_NOW, "pooler is shutting down"), "shutdown"));
    }
    let database = open_database(front, &database)?;
    let entry = Entry {
        pool_user: front.config().role(&database.name, &user).to_owned(),
        user,
        database: database.name.clone(),
        peer: guest.peer,
        tls: guest.stream.tls().map(ToString::to_string),
        local: Local::of(&guest.stream),
        connected_at: guest.connected_at,
        application_name: String::new(),
        minor: guest.minor,
    };
    welcome::welcome(guest, front, startup, (entry, database, proven.credential)).await.map(Step::Session)
}

/// The database that a client asks for, if it may have it.
fn open_database(front: &Front, name: &str) -> Result<Arc<Database>, Refusal> {
    let Some(database) = front.databases.find(name) else {
        return Err(match front.config().database(name) {
            None => no_such_database(name),
            Some(_) => {
                let text = "no more databases allowed (max_auto_databases)";
                Refusal::Say(Report::new(sqlstate::TOO_MANY_CONNECTIONS, text), "too_many_clients")
            }
        });
    };
    if database.is_disabled() {
        let report =
            Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, format!("database \"{}\" is disabled", database.name));
        return Err(Refusal::Say(report, "disabled"));
    }
    Ok(database)
}

pub(super) fn no_such_database(name: &str) -> Refusal {
    Refusal::Say(Report::new(sqlstate::INVALID_CATALOG_NAME, format!("no such database: {name}")), "no_database")
}

fn own_uid() -> u32 {
    nix::unistd::Uid::effective().as_raw()
}

/// PgBouncer's rule: over the listeners' Unix socket a process of the same user as ours needs no password to be user
/// `pgbouncer` at the console. The kernel says whose process it is.
fn is_own_pgbouncer(guest: &Guest, user: &str) -> bool {
    user == "pgbouncer" && matches!(guest.peer, Peer::Unix { uid, .. } if uid == own_uid())
}

/// Whether Postgres takes this for a false (`parse_bool`).
fn is_false(value: &[u8]) -> bool {
    let word = value.to_ascii_lowercase();
    !word.is_empty() && (word == b"0" || b"false".starts_with(&word) || b"no".starts_with(&word))
        || matches!(&word[..], b"of" | b"off")
}

/// On the console's own socket the kernel says who is there: this process's user, or root.
async fn admin_socket(guest: &Guest, user: String, console: bool) -> Result<Step, Refusal> {
    let own = own_uid();
    let known = matches!(guest.peer, Peer::Unix { uid, .. } if uid == own || uid == 0);
    if !known {
        return Err(Refusal::Say(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "not allowed"), "not_allowed"));
    }
    if !console {
        let report = Report::new(sqlstate::INVALID_CATALOG_NAME, "this socket serves the console only")
            .hint("Ask for database pglull, or connect to the listeners.");
        return Err(Refusal::Say(report, "no_database"));
    }
    Ok(Step::Console { user, admin: true })
}

/// Tells a client that asked for more than there is what it gets, once, with every option that we do not know: libpq
/// gives up if one that it sent is missing from the list (it sends one that nobody knows, to see).
fn negotiate(guest: &mut Guest, startup: &Startup) {
    if startup.asks_for_more() {
        reply::negotiate_version(startup.speaks(), startup.protocol_options(), &mut guest.unsent);
    }
}

/// Passes a cancel request on to whoever it is for. Nothing is answered, whatever happens.
pub async fn cancel(key: &CancelKey, front: &Front) {
    if let Some(operator) = front.clients.operators().by_key(key) {
        // Its command is told, if one is waiting.
        let _ = operator.cancel();
        return;
    }
    let Some(client) = front.clients.by_key(key) else {
        // It may be for somebody whom the process before this one still serves.
        let elder = front.door.elder.borrow().clone();
        if elder.is_none_or(|elder| elder.cancels.try_send(key.clone()).is_err()) {
            tracing::debug!(pid = key.pid, "cancel request with an unknown key");
        }
        return;
    };
    let outcome = client.cancel();
    let pool = front.databases.pool_of(&client.database, &client.pool_user);
    if let Some(pool) = pool.as_ref().filter(|_| !matches!(outcome, Cancel::Nothing)) {
        pool.stats.cancels.add(1);
    }
    match outcome {
        Cancel::Told | Cancel::Nothing => {}
        Cancel::Send(link, under_way) => {
            let bound = pool.map_or(CANCEL_BOUND, |pool| pool.database.settings().cancel_wait_timeout);
            match cancel::send(&link, bound).await {
                Ok(()) => under_way.done(),
                Err(error) => tracing::warn!(client = client.id.0, %error, "cancel request did not get through"),
            }
        }
    }
}

impl welcome::Ready {
    fn session(self, guest: Guest) -> Session {
        Session::new(self.front, self.presence, self.pool, (guest.stream, Flow::new(guest.buf), self.asked))
    }
}
