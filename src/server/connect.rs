//! Opening a connection to Postgres: dial, start-up packet, authentication, the server's account of itself.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::cancel::Link;
use super::conn::{Failure, Rested, Server};
use super::names::Names;
use super::parameters::Parameters;
use super::progress::Progress;
use super::tls::Connector;
use crate::auth::credential::{Credential, Keychain};
use crate::auth::scram::Keys;
use crate::auth::scram_client;
use crate::auth::users::md5_of_stored;
use crate::config::TcpWatch;
use crate::ids::{Moment, ServerId};
use crate::net::stream::{Peer, Stream};
use crate::prepared::slots::Slots;
use crate::wire::frame::{self, Flow};
use crate::wire::reply::{Report, sqlstate};
use crate::wire::startup::{self, CancelKey};
use crate::wire::tags::server as tag;

/// Where servers of a pool lead, and as whom.
#[derive(Debug)]
pub struct Target {
    /// A host name or address, or the folder of a Unix socket if it begins with `/`.
    pub host: String,
    /// The port, also part of a Unix socket's name.
    pub port: u16,
    /// The database on the server.
    pub dbname: String,
    /// The role to log in as.
    pub user: String,
    /// What to log in with, as far as it is known by now.
    pub keychain: Keychain,
    /// Settings that a session begins with, for clients that ask for none of their own.
    pub defaults: Vec<(&'static str, String)>,
    /// How TCP connections notice that the server is gone.
    pub watch: TcpWatch,
    /// How TLS is asked for.
    pub connector: Arc<Connector>,
    /// What was found out about it.
    pub manners: Manners,
    /// The addresses of `host`.
    pub names: Arc<Names>,
}

/// What a server turned out to be able to.
#[derive(Debug, Default)]
pub struct Manners {
    /// It refuses whoever asks for more than protocol 3.0, instead of saying that it has no more (Postgres before 9.3,
    /// some poolers).
    only_3_0: AtomicBool,
}

impl Target {
    /// Whether both lead to the same place, by the same way, as the same role. Whether they prove it alike does not
    /// matter to a server that is logged in.
    #[must_use]
    pub fn leads_where(&self, other: &Self) -> bool {
        let place = |target: &Self| (target.port, target.watch, target.defaults.clone());
        let alike = self.host.starts_with('/') || self.connector.same(&other.connector);
        alike
            && place(self) == place(other)
            && self.host == other.host
            && self.dbname == other.dbname
            && self.user == other.user
    }

    /// Opens a socket to the server, without TLS; to this address of it if one is given. Cancel-safe; bounded by the caller.
    ///
    /// # Errors
    /// The kernel's or the resolver's, with the address in the text.
    pub(super) async fn dial(&self, at: Option<SocketAddr>) -> io::Result<Stream> {
        let dialled = if self.host.starts_with('/') {
            let path = Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port));
            UnixStream::connect(path).await.map(Stream::Unix)
        } else {
            let dialled = match at {
                Some(addr) => TcpStream::connect(addr).await,
                None => self.dial_any().await,
            };
            match dialled {
                Ok(stream) => Stream::tcp(stream, &self.watch),
                Err(error) => Err(error),
            }
        };
        dialled.map_err(|error| io::Error::new(error.kind(), format!("{}:{}: {error}", self.host, self.port)))
    }
}

impl Target {
    /// Connects to the first of the host's addresses that answers.
    async fn dial_any(&self) -> io::Result<TcpStream> {
        let addresses = self.names.addresses(&self.host, self.port).await?;
        let mut last = io::Error::other("the name has no address");
        for address in addresses {
            let mut attempt = self.names.attempt();
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    attempt.reached();
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether a server at this address is one that the host's name does not stand for any more.
    #[must_use]
    pub fn has_left(&self, at: Option<SocketAddr>) -> bool {
        at.is_some_and(|at| self.names.has_left(at.ip()))
    }
}

/// The most SCRAM iterations that a server may ask for (CVE-2026-6669: more is an attack on the proxy's processor).
const ITERATIONS_MAX: u32 = 100_000;
/// The gs2-headers of SCRAM (RFC 5802, section 7): bound to the certificate; able to, but the server does not offer it; not able to.
const BOUND: &str = "p=tls-server-end-point,,";
const TAKEN_AWAY: &str = "y,,";
const UNBOUND: &str = "n,,";
/// The longest message during a log-in.
const LOGIN_LIMIT: usize = 64 << 10;
/// What a server says of itself: its settings and its cancel key.
type Account = (Parameters, CancelKey);
/// `application_name` until a client brings its own.
const APPLICATION_NAME: &str = "pglull";

/// Opens a connection and logs in.
///
/// # Errors
/// [`Failure::Refused`] with Postgres' own report, or what went wrong on the way. Cancel-safe: dropping it closes the socket.
pub async fn connect(target: &Arc<Target>, id: ServerId, now: Moment, bound: Duration) -> Result<Rested, Failure> {
    tokio::time::timeout(bound, log_in(target, id, now)).await.unwrap_or(Err(Failure::Late(bound)))
}

/// Asks for the newest protocol, because its cancel keys cannot be guessed; every supported Postgres answers with what it
/// has instead. Whoever takes offence is asked for 3.0, and never again for more.
async fn log_in(target: &Arc<Target>, id: ServerId, now: Moment) -> Result<Rested, Failure> {
    if !target.manners.only_3_0.load(Ordering::Relaxed) {
        let mut greeting = Greeting::open(target, startup::NEWEST_MINOR).await?;
        match greeting.log_in(target).await {
            Err(failure) if greeting.offended(&failure) => {}
            outcome => return Ok(greeting.into_server(target, id, now, outcome?)),
        }
    }
    let mut greeting = Greeting::open(target, 0).await?;
    let account = greeting.log_in(target).await?;
    target.manners.only_3_0.store(true, Ordering::Relaxed);
    Ok(greeting.into_server(target, id, now, account))
}

/// A connection that is not logged in yet.
struct Greeting {
    stream: Stream,
    buf: BytesMut,
    /// The minor version that was asked for, or what the server has instead.
    minor: u16,
    /// It has begun to authenticate us: it takes the version.
    accepted: bool,
}

impl Greeting {
    /// Connects, and asks for a session with this minor version of the protocol.
    async fn open(target: &Target, minor: u16) -> Result<Self, Failure> {
        let stream = target.open(None).await?;
        let mut greeting = Self { stream, buf: BytesMut::with_capacity(4096), minor, accepted: false };
        let mut out = BytesMut::new();
        let (user, database) = (target.user.as_str(), target.dbname.as_str());
        let named = [("user", user), ("database", database), ("application_name", APPLICATION_NAME)];
        let defaults = target.defaults.iter().map(|(name, value)| (*name, value.as_str()));
        let parameters: Vec<_> = named.into_iter().chain(defaults).collect();
        startup::write(minor, &parameters, &mut out);
        greeting.stream.write_all(&out).await?;
        Ok(greeting)
    }

    async fn log_in(&mut self, target: &Target) -> Result<Account, Failure> {
        self.authenticate(target).await?;
        self.account().await
    }

    /// Whether the log-in may have failed because of the version: refused as unknown or malformed, or hung up on,
    /// before anything else was said.
    fn offended(&self, failure: &Failure) -> bool {
        !self.accepted
            && match failure {
                Failure::Refused(report) => {
                    matches!(&*report.sqlstate, sqlstate::FEATURE_NOT_SUPPORTED | sqlstate::PROTOCOL_VIOLATION)
                }
                Failure::Lost(_) => true,
                Failure::Protocol(_) | Failure::Late(_) => false,
            }
    }

    /// The server has less than we asked for. We sent no options, so it can complain of none.
    fn negotiated(&mut self, body: &[u8]) -> Result<(), Failure> {
        let word = |at: usize| body.get(at..at + 4).and_then(|word| word.first_chunk()).map(|w| u32::from_be_bytes(*w));
        // Some send the minor version only, as the documentation could be read.
        let minor = word(0).map(|version| if version >> 16 == 3 { version & 0xffff } else { version });
        match (minor.and_then(|minor| u16::try_from(minor).ok()), word(4)) {
            (Some(minor), Some(0)) if minor <= self.minor && !self.accepted => {
                self.minor = minor;
                Ok(())
            }
            _ => Err(Failure::Protocol("the server wants a protocol version that was not offered".to_owned())),
        }
    }

    fn into_server(self, target: &Arc<Target>, id: ServerId, now: Moment, (parameters, key): Account) -> Rested {
        let (progress, proof) = Progress::fresh();
        let addr = match self.stream.peer() {
            Ok(Peer::Tcp(ip, port)) => Some(SocketAddr::new(ip, port)),
            Ok(Peer::Unix { .. }) | Err(_) => None,
        };
        let tls = self.stream.tls().map(ToString::to_string);
        let server = Server {
            id,
            stream: self.stream,
            progress,
            flow: Flow::new(self.buf),
            initial: Arc::new(parameters.clone()),
            client: None,
            parameters,
            link: Arc::new(Link {
                target: Arc::clone(target),
                addr,
                key,
                tls,
                prepared: AtomicUsize::new(0),
                guard: Arc::default(),
            }),
            connected_at: now,
            used_at: now,
            expires_at: None,
            dirty: false,
            leftovers: false,
            slots: Slots::default(),
            settings: None,
            schema: 0,
            place: None,
            notifications: BytesMut::new(),
            said_farewell: false,
            unlisted: false,
            connect_query: Bytes::new(),
            bare: false,
            numbers: None,
            badge: None,
        };
        Rested::new(Box::new(server), proof)
    }

    /// The next message; an ErrorResponse ends the attempt with the server's own words.
    async fn next(&mut self) -> Result<(u8, Bytes), Failure> {
        loop {
            match frame::take(&mut self.buf, LOGIN_LIMIT)? {
                Some((tag::ERROR, body)) => return Err(Failure::Refused(Report::parse(&body))),
                Some((tag::NOTICE, _)) => {}
                Some((tag, body)) => return Ok((tag, body.freeze())),
                None => {
                    if self.stream.read_buf(&mut self.buf).await? == 0 {
                        return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    async fn authenticate(&mut self, target: &Target) -> Result<(), Failure> {
        const OK: u32 = 0;
        const CLEARTEXT: u32 = 3;
        const MD5: u32 = 5;
        const SASL: u32 = 10;
        loop {
            let mut body = match self.next().await? {
                (tag::AUTHENTICATION, body) => body,
                (tag::NEGOTIATE_VERSION, body) => {
                    self.negotiated(&body)?;
                    continue;
                }
                (tag, _) => return Err(unexpected(tag)),
            };
            self.accepted = true;
            let kind = body.try_get_u32().map_err(|_| Failure::Protocol("short authentication request".to_owned()))?;
            if kind == OK {
                return Ok(());
            }
            let credential = target.keychain.get();
            let mut out = BytesMut::new();
            match (kind, credential.as_deref()) {
                (CLEARTEXT, Some(Credential::Password(password))) => {
                    frontend::password_message(password.expose().as_bytes(), &mut out)?;
                }
                (MD5, Some(Credential::Password(_) | Credential::Md5(_))) => {
                    let salt =
                        *body.first_chunk::<4>().ok_or_else(|| Failure::Protocol("short md5 salt".to_owned()))?;
                    let hash = credential.as_deref().and_then(|credential| md5_answer(&target.user, credential, salt));
                    frontend::password_message(hash.unwrap_or_default().as_bytes(), &mut out)?;
                }
                (SASL, Some(Credential::Password(password))) => {
                    self.scram(&body, password.expose().to_owned()).await?;
                    continue;
                }
                (SASL, Some(Credential::Keys(keys))) => {
                    self.scram_by_keys(&body, keys, &target.user).await?;
                    continue;
                }
                (CLEARTEXT | MD5 | SASL, _) => return Err(Failure::Refused(no_password(&target.user))),
                (other, _) => {
                    return Err(Failure::Protocol(format!(
                        "the server asks for authentication method {other}, which is not supported"
                    )));
                }
            }
            self.stream.write_all(&out).await?;
        }
    }

    /// The mechanism of those that the server offers, its gs2-header, and the data that it binds to.
    fn mechanism(&self, offered: &Bytes) -> Result<(&'static str, &'static str, Arc<[u8]>), Failure> {
        let offers = |wanted: &str| offered.split(|&byte| byte == 0).any(|name| name == wanted.as_bytes());
        match self.stream.tls().and_then(|tls| tls.end_point.clone()) {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => Ok((SCRAM_SHA_256_PLUS, BOUND, hash)),
            // A server that did offer it learns that the offer was taken away on its way to us.
            Some(_) if offers(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, TAKEN_AWAY, Arc::default())),
            None if offers(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, UNBOUND, Arc::default())),
            _ => Err(Failure::Protocol("the server offers no SASL mechanism that is supported".to_owned())),
        }
    }

    /// SCRAM-SHA-256 (RFC 7677), bound to the server's certificate where both sides can.
    async fn scram(&mut self, mechanisms: &Bytes, password: String) -> Result<(), Failure> {
        let (mechanism, header, bound) = self.mechanism(mechanisms)?;
        let binding = match header {
            BOUND => ChannelBinding::tls_server_end_point(bound.to_vec()),
            TAKEN_AWAY => ChannelBinding::unrequested(),
            _ => ChannelBinding::unsupported(),
        };
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut out)?;
        self.stream.write_all(&out).await?;
        let first = self.sasl_body(11).await?;
        if iterations(&first).is_none_or(|count| count > ITERATIONS_MAX) {
            return Err(Failure::Protocol(format!("the server asks for more than {ITERATIONS_MAX} SCRAM iterations")));
        }
        // Thousands of hash rounds: not on a thread that serves clients.
        let scram = tokio::task::spawn_blocking(move || scram.update(&first).map(|()| scram)).await;
        let mut scram = scram.map_err(|_| Failure::Protocol("SCRAM was interrupted".to_owned()))??;
        let mut out = BytesMut::new();
        frontend::sasl_response(scram.message(), &mut out)?;
        self.stream.write_all(&out).await?;
        let last = self.sasl_body(12).await?;
        scram.finish(&last)?;
        Ok(())
    }

    /// The same, with keys that a client has proved to have: Postgres must hold the same secret as we do.
    async fn scram_by_keys(&mut self, mechanisms: &Bytes, keys: &Keys, user: &str) -> Result<(), Failure> {
        let (mechanism, header, bound) = self.mechanism(mechanisms)?;
        let refused = |failed| Failure::Refused(other_secret(user, failed));
        let mut random = [0; 18];
        rand::fill(&mut random).map_err(|_| Failure::Protocol("no random bytes".to_owned()))?;
        let (client, first) = scram_client::Client::begin(keys, (header, &bound), &random);
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(mechanism, first.as_bytes(), &mut out)?;
        self.stream.write_all(&out).await?;
        let answer = self.sasl_body(11).await?;
        let (proved, last) = client.prove(&answer).map_err(refused)?;
        out.clear();
        frontend::sasl_response(last.as_bytes(), &mut out)?;
        self.stream.write_all(&out).await?;
        let answer = self.sasl_body(12).await?;
        proved.finish(&answer).map_err(refused)
    }

    async fn sasl_body(&mut self, expected: u32) -> Result<Bytes, Failure> {
        let (tag, mut body) = self.next().await?;
        match (tag, body.try_get_u32()) {
            (tag::AUTHENTICATION, Ok(kind)) if kind == expected => Ok(body),
            _ => Err(unexpected(tag)),
        }
    }

    /// Everything up to ReadyForQuery: settings and cancel key.
    async fn account(&mut self) -> Result<Account, Failure> {
        let mut parameters = Parameters::default();
        let mut key = CancelKey { pid: 0, secret: Bytes::new() };
        loop {
            match self.next().await? {
                (tag::PARAMETER_STATUS, body) => {
                    parameters.report(&body);
                }
                (tag::BACKEND_KEY_DATA, mut body) if (8..=4 + startup::MAX_SECRET).contains(&body.len()) => {
                    key = CancelKey { pid: body.get_i32(), secret: Bytes::copy_from_slice(&body) };
                }
                (tag::READY_FOR_QUERY, body) if body == "I"[..] => return Ok((parameters, key)),
                (tag, _) => return Err(unexpected(tag)),
            }
        }
    }
}

/// The iteration count in a SCRAM server-first-message (RFC 5802, section 7).
fn iterations(first: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(first).ok()?;
    text.split(',').find_map(|attribute| attribute.strip_prefix("i="))?.parse().ok()
}

fn unexpected(tag: u8) -> Failure {
    Failure::Protocol(format!("message type {tag:#04x} during log-in"))
}

fn md5_answer(user: &str, credential: &Credential, salt: [u8; 4]) -> Option<String> {
    match credential {
        Credential::Password(password) => Some(md5_hash(user.as_bytes(), password.expose().as_bytes(), salt)),
        Credential::Md5(stored) => md5_of_stored(stored, salt),
        Credential::Keys(_) => None,
    }
}

fn no_password(user: &str) -> Report {
    let text = format!("the server asks for a password of user \"{user}\" and none is known that it would take");
    Report::new(sqlstate::INVALID_PASSWORD, text).hint(
        "Put the plain-text password of this user into auth_file, or its SCRAM secret as the server has it, or user= and \
         password= into the database's entry.",
    )
}

fn other_secret(user: &str, failed: scram_client::Failed) -> Report {
    let text = format!("cannot log in to the server as user \"{user}\" by its SCRAM secret");
    Report::new(sqlstate::INVALID_PASSWORD, text)
        .detail(failed.to_string())
        .hint("Put the secret into auth_file exactly as pg_authid has it.")
}
