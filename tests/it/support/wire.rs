//! A raw, blocking client of the Postgres protocol: it shows every byte and hides no mistake.
//!
//! Drivers repair and reorder; these tests must see exactly what the proxy sends. Every read has a
//! time limit, so that a test cannot hang.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub(crate) use super::msg::*;

/// No answer that a test waits for takes longer than this.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(15);

/// Where a server or the proxy listens.
#[derive(Clone, Debug)]
pub(crate) enum Addr {
    Tcp(u16),
    Unix(PathBuf),
}

/// Everything that a login needs.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) addr: Addr,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) tls: Option<Tls>,
}

/// How a client asks for TLS.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// With its first byte, not with an SSLRequest.
    pub(crate) direct: bool,
}

impl Target {
    pub(crate) fn new(addr: Addr, user: &str, password: &str, database: &str) -> Self {
        let text = str::to_owned;
        Self { addr, user: text(user), password: text(password), database: text(database), params: vec![], tls: None }
    }

    /// Over TLS.
    pub(crate) fn tls(mut self, config: &Arc<ClientConfig>, direct: bool) -> Self {
        self.tls = Some(Tls { config: Arc::clone(config), direct });
        self
    }

    pub(crate) fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn app(self, name: &str) -> Self {
        self.param("application_name", name)
    }

    pub(crate) fn connect(&self) -> Result<Wire, WireError> {
        Wire::connect(self)
    }

    /// Connects; a failure fails the test.
    pub(crate) fn login(&self) -> Wire {
        self.connect().unwrap_or_else(|error| panic!("login of {} to {} failed: {error}", self.user, self.database))
    }
}

/// What can go wrong for a client.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The peer answered with an error.
    Db(DbError),
    /// The peer closed the connection, perhaps after a last error.
    Closed,
    /// The socket failed; `TimedOut` and `WouldBlock` mean that no answer came in time.
    Io(io::Error),
    /// The peer sent what it must not send here.
    Protocol(String),
}

impl WireError {
    /// The error of the peer; anything else fails the test.
    pub(crate) fn db(self) -> DbError {
        match self {
            Self::Db(error) => error,
            other => panic!("expected an ErrorResponse, got: {other}"),
        }
    }

    pub(crate) fn timed_out(&self) -> bool {
        matches!(self, Self::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Db(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "connection closed"),
            Self::Io(error) => write!(f, "socket: {error}"),
            Self::Protocol(text) => write!(f, "protocol violation: {text}"),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// The answer to a simple query that succeeded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
    pub(crate) tags: Vec<String>,
    pub(crate) notices: Vec<DbError>,
    pub(crate) status: u8,
}

impl Reply {
    /// The only value of the only row.
    pub(crate) fn one(&self) -> String {
        assert_eq!(self.rows.len(), 1, "expected one row: {self:?}");
        self.rows[0][0].clone().expect("a value, not NULL")
    }

    /// Each row as column name and value; NULL is "".
    pub(crate) fn maps(&self) -> Vec<std::collections::BTreeMap<String, String>> {
        self.rows
            .iter()
            .map(|row| {
                let values = row.iter().map(|value| value.clone().unwrap_or_default());
                self.columns.iter().cloned().zip(values).collect()
            })
            .collect()
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection.
pub(crate) struct Wire {
    stream: Stream,
    buf: Vec<u8>,
    at: usize,
    /// What a cancel request needs.
    pub(crate) pid: u32,
    pub(crate) key: Vec<u8>,
    /// ParameterStatus as of the login.
    pub(crate) params: Vec<(String, String)>,
    addr: Addr,
    tls: Option<Tls>,
}

impl Wire {
    /// A connection on which nothing was said yet.
    pub(crate) fn open(addr: &Addr) -> Result<Self, WireError> {
        let stream = match addr {
            Addr::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Addr::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let wire =
            Self { stream, buf: vec![], at: 0, pid: 0, key: vec![], params: vec![], addr: addr.clone(), tls: None };
        wire.limit(READ_LIMIT);
        Ok(wire)
    }

    /// The same, encrypted if that is wanted.
    pub(crate) fn open_as(addr: &Addr, tls: Option<&Tls>) -> Result<Self, WireError> {
        let wire = Self::open(addr)?;
        match tls {
            Some(tls) => wire.encrypt(tls),
            None => Ok(wire),
        }
    }

    /// Asks for TLS, unless it is direct, and does the handshake.
    pub(crate) fn encrypt(mut self, tls: &Tls) -> Result<Self, WireError> {
        if !tls.direct {
            self.send(&ssl_request())?;
            let answer = self.byte()?;
            assert_eq!(answer, b'S', "the answer to SSLRequest");
        }
        let Stream::Tcp(mut tcp) = self.stream else { panic!("TLS is for TCP") };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut session = ClientConnection::new(Arc::clone(&tls.config), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(session, tcp)));
        self.tls = Some(tls.clone());
        Ok(self)
    }

    /// The certificate that the peer has shown.
    pub(crate) fn peer_certificate(&self) -> Vec<u8> {
        let Stream::Tls(stream) = &self.stream else { panic!("no TLS") };
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    fn connect(target: &Target) -> Result<Self, WireError> {
        let mut wire = Self::open_as(&target.addr, target.tls.as_ref())?;
        let mut params = vec![("user", target.user.as_str()), ("database", target.database.as_str())];
        params.extend(target.params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        wire.send(&startup(&params))?;
        wire.authenticate(&target.user, &target.password)?;
        wire.welcome()?;
        Ok(wire)
    }

    /// Answers whatever authentication is asked for, up to AuthenticationOk.
    pub(crate) fn authenticate(&mut self, user: &str, password: &str) -> Result<(), WireError> {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let msg = self.recv_ok()?;
            if msg.tag != b'R' {
                return Err(WireError::Protocol(format!("{msg:?} while logging in")));
            }
            let kind = u32::from_be_bytes(msg.body[..4].try_into().unwrap());
            match kind {
                0 => return Ok(()),
                3 => self.send(&msg_of(b'p', &cstr(password)))?,
                5 => {
                    let salt = msg.body[4..8].try_into().unwrap();
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                    self.send(&msg_of(b'p', &cstr(&hash)))?;
                }
                10 => {
                    let unsupported = ChannelBinding::unsupported();
                    let state = scram.insert(ScramSha256::new(password.as_bytes(), unsupported));
                    let mut body = cstr("SCRAM-SHA-256");
                    body.extend(u32::try_from(state.message().len()).unwrap().to_be_bytes());
                    body.extend(state.message());
                    self.send(&msg_of(b'p', &body))?;
                }
                11 => {
                    let state = scram.as_mut().expect("AuthenticationSASL comes first");
                    state.update(&msg.body[4..])?;
                    let answer = state.message().to_vec();
                    self.send(&msg_of(b'p', &answer))?;
                }
                12 => {
                    let mut state = scram.take().expect("AuthenticationSASL comes first");
                    // The proof of the other side: a proxy that cannot give it is not ours.
                    state.finish(&msg.body[4..])?;
                }
                other => return Err(WireError::Protocol(format!("authentication {other}"))),
            }
        }
    }

    /// From AuthenticationOk to the first ReadyForQuery.
    fn welcome(&mut self) -> Result<(), WireError> {
        loop {
            let msg = self.recv_ok()?;
            match msg.tag {
                b'S' => {
                    let mut parts = msg.body.split(|byte| *byte == 0);
                    let mut next = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
                    self.params.push((next(), next()));
                }
                b'K' => {
                    self.pid = u32::from_be_bytes(msg.body[..4].try_into().unwrap());
                    self.key = msg.body[4..].to_vec();
                }
                b'N' => {}
                b'Z' => return Ok(()),
                _ => return Err(WireError::Protocol(format!("{msg:?} in the welcome"))),
            }
        }
    }

    /// The longest time that a read waits from now on.
    pub(crate) fn limit(&self, limit: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(limit)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
        }
        .unwrap();
        match &self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(READ_LIMIT)),
            Stream::Tls(stream) => stream.sock.set_write_timeout(Some(READ_LIMIT)),
            Stream::Unix(stream) => stream.set_write_timeout(Some(READ_LIMIT)),
        }
        .unwrap();
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
        .map_err(WireError::from)
    }

    /// Sends this again and again until nobody takes any more of it: all buffers on the way are full.
    pub(crate) fn send_until_full(&mut self, bytes: &[u8]) {
        let limit = Some(Duration::from_millis(300));
        match &self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(limit),
            Stream::Tls(stream) => stream.sock.set_write_timeout(limit),
            Stream::Unix(stream) => stream.set_write_timeout(limit),
        }
        .unwrap();
        while self.send(bytes).is_ok() {}
        self.limit(READ_LIMIT);
    }

    fn fill(&mut self) -> Result<(), WireError> {
        if self.at > 0 {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        let mut chunk = [0; 16384];
        let count = loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut chunk),
                Stream::Tls(stream) => stream.read(&mut chunk),
                Stream::Unix(stream) => stream.read(&mut chunk),
            };
            match read {
                // With a limit it ends so where the process was stopped and goes on, which says nothing of the peer (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(WireError::Closed);
        }
        self.buf.extend_from_slice(&chunk[..count]);
        Ok(())
    }

    /// A raw byte, for answers that are not messages ('N' to SSLRequest).
    pub(crate) fn byte(&mut self) -> Result<u8, WireError> {
        while self.buf.len() == self.at {
            self.fill()?;
        }
        self.at += 1;
        Ok(self.buf[self.at - 1])
    }

    /// The next message, whatever it is.
    pub(crate) fn recv(&mut self) -> Result<Msg, WireError> {
        loop {
            let have = &self.buf[self.at..];
            if have.len() >= 5 {
                let len = u32::from_be_bytes(have[1..5].try_into().unwrap()) as usize;
                if !(4..=1 << 30).contains(&len) {
                    return Err(WireError::Protocol(format!("length {len} received")));
                }
                if have.len() > len {
                    let msg = Msg { tag: have[0], body: have[5..=len].to_vec() };
                    self.at += len + 1;
                    return Ok(msg);
                }
            }
            self.fill()?;
        }
    }

    /// The next message; an ErrorResponse becomes an error.
    pub(crate) fn recv_ok(&mut self) -> Result<Msg, WireError> {
        let msg = self.recv()?;
        if msg.tag == b'E' {
            return Err(WireError::Db(msg.error()));
        }
        Ok(msg)
    }

    /// All messages up to and including the `count`th with this tag.
    pub(crate) fn recv_until(&mut self, tag: u8, count: usize) -> Result<Vec<Msg>, WireError> {
        let mut seen = 0;
        let mut all = vec![];
        while seen < count {
            let msg = self.recv()?;
            seen += usize::from(msg.tag == tag);
            all.push(msg);
        }
        Ok(all)
    }

    /// Reads one message without keeping its body: returns tag and length of the body.
    pub(crate) fn skim(&mut self) -> Result<(u8, usize), WireError> {
        while self.buf.len() - self.at < 5 {
            self.fill()?;
        }
        let header = &self.buf[self.at..self.at + 5];
        let tag = header[0];
        let len = u32::from_be_bytes(header[1..5].try_into().unwrap()) as usize - 4;
        self.at += 5;
        let mut left = len;
        loop {
            let take = left.min(self.buf.len() - self.at);
            self.at += take;
            left -= take;
            if left == 0 {
                return Ok((tag, len));
            }
            self.fill()?;
        }
    }

    /// Everything until the peer closes, which it must within the limit.
    pub(crate) fn recv_to_end(&mut self) -> Result<Vec<u8>, WireError> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(WireError::Closed) => return Ok(self.buf.split_off(self.at)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end; whether that was announced by TLS (`close_notify`), not a cut.
    pub(crate) fn ended_by_close_notify(&mut self) -> bool {
        let Stream::Tls(stream) = &mut self.stream else { panic!("no TLS") };
        stream.read_to_end(&mut Vec::new()).is_ok()
    }

    /// Sends a simple query and does not wait.
    pub(crate) fn start(&mut self, sql: &str) -> Result<(), WireError> {
        self.send(&query(sql))
    }

    /// Reads the answer to a simple query. An error is returned after ReadyForQuery has come (or
    /// the connection has ended).
    pub(crate) fn finish(&mut self) -> Result<Reply, WireError> {
        let mut reply = Reply::default();
        let mut error = None;
        loop {
            let msg = match self.recv() {
                Ok(msg) => msg,
                Err(WireError::Closed) if error.is_some() => {
                    return Err(WireError::Db(error.unwrap()));
                }
                Err(other) => return Err(other),
            };
            match msg.tag {
                b'T' => reply.columns = msg.columns(),
                b'D' => reply.rows.push(msg.values()),
                b'C' => reply.tags.push(String::from_utf8_lossy(&msg.body[..msg.body.len() - 1]).into_owned()),
                b'N' => reply.notices.push(DbError::parse(&msg.body)),
                b'E' => error = Some(msg.error()),
                b'I' | b'S' => {}
                b'Z' => {
                    reply.status = msg.body[0];
                    return error.map_or(Ok(reply), |error| Err(WireError::Db(error)));
                }
                _ => return Err(WireError::Protocol(format!("{msg:?} after a query"))),
            }
        }
    }

    /// A simple query from beginning to end.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Reply, WireError> {
        self.start(sql)?;
        self.finish()
    }

    /// A simple query that must succeed.
    pub(crate) fn ok(&mut self, sql: &str) -> Reply {
        self.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The only value that a query answers.
    pub(crate) fn one(&mut self, sql: &str) -> String {
        self.ok(sql).one()
    }

    /// Whether nothing arrives for this long: the query is waiting or held.
    pub(crate) fn silent(&mut self, time: Duration) -> bool {
        if self.buf.len() > self.at {
            return false;
        }
        self.limit(time);
        let quiet = matches!(self.fill(), Err(error) if error.timed_out());
        self.limit(READ_LIMIT);
        quiet
    }

    /// Asks, on a connection of its own, for the running query of this one to be cancelled.
    pub(crate) fn cancel(&self) {
        cancel_as(&self.addr, self.tls.as_ref(), (self.pid, &self.key));
    }

    /// Ends one direction of the connection.
    pub(crate) fn shutdown(&self, how: std::net::Shutdown) {
        // The peer may have closed already.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Tls(stream) => stream.sock.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Ends the connection with a reset, as a host does that has forgotten it.
    pub(crate) fn reset(self) {
        let Stream::Tcp(stream) = &self.stream else { panic!("a reset is for TCP") };
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Says goodbye and waits for the peer to close, so that it is really gone.
    pub(crate) fn close(mut self) {
        if self.send(&msg_of(b'X', b"")).is_ok() {
            let _ = self.recv_to_end();
        }
    }
}

/// Sends a CancelRequest and waits until the peer has closed, as libpq does.
pub(crate) fn cancel(addr: &Addr, pid: u32, key: &[u8]) {
    cancel_as(addr, None, (pid, key));
}

fn cancel_as(addr: &Addr, tls: Option<&Tls>, (pid, key): (u32, &[u8])) {
    let mut wire = Wire::open_as(addr, tls).unwrap();
    let mut body = 80_877_102_u32.to_be_bytes().to_vec();
    body.extend(pid.to_be_bytes());
    body.extend(key);
    wire.send(&untagged(&body)).unwrap();
    let answer = wire.recv_to_end().unwrap();
    assert!(answer.is_empty(), "a cancel request gets no answer");
}
