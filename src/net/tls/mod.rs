//! TLS on a TCP connection, by rustls with the provider aws-lc-rs, which is always named: nothing relies on a default of
//! the process.
//!
//! [`accept::Acceptor`] is our side towards clients, [`connect::Connector`] that towards Postgres. Both are made whole from
//! a configuration and never change; who swaps them keeps the old connections as they are.

pub mod accept;
pub mod cert;
pub mod connect;
mod first;

use std::fmt;
use std::io::{self, BufRead as _, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::config::TlsProtocols;

/// The name of the protocol in ALPN; a client that begins with TLS at once must offer it.
pub const ALPN: &[u8] = b"postgresql";

/// What is known of a connection's TLS once its handshake is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite by its registered name.
    pub cipher: String,
    /// Whether both sides agreed on the protocol `postgresql` by ALPN.
    pub alpn: bool,
    /// The common name in the peer's certificate. A client's is verified wherever it was asked for: with
    /// `client_tls_sslmode` of `verify-ca` or `verify-full`; else there is none.
    pub peer_cert_cn: Option<String>,
    /// What SCRAM-SHA-256-PLUS binds to (`tls-server-end-point`, RFC 5929): the hash of the certificate of the side that
    /// accepted. `None` where its signature has no hash of its own (Ed25519).
    pub end_point: Option<Arc<[u8]>>,
}

impl fmt::Display for TlsInfo {
    /// As PgBouncer shows it in `SHOW CLIENTS`: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.cipher)
    }
}

/// An encrypted TCP connection.
#[derive(Debug)]
pub struct Encrypted {
    io: TlsStream<TcpStream>,
    info: TlsInfo,
    /// Bytes that rustls has taken and the socket has not, in whole or in part; the caller still counts them as its own.
    owed: usize,
}

impl Encrypted {
    fn new(io: TlsStream<TcpStream>, end_point: Option<Arc<[u8]>>) -> Self {
        let (_, session) = io.get_ref();
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("?");
        let info = TlsInfo {
            version,
            // rustls has its own prefix for the suites of 1.3.
            cipher: suite.strip_prefix("TLS13_").map_or_else(|| suite.to_owned(), |rest| format!("TLS_{rest}")),
            alpn: session.alpn_protocol() == Some(ALPN),
            peer_cert_cn: session.peer_certificates().and_then(<[_]>::first).and_then(|leaf| cert::common_name(leaf)),
            end_point,
        };
        Self { io, info, owed: 0 }
    }

    /// What was agreed on.
    #[must_use]
    pub const fn info(&self) -> &TlsInfo {
        &self.info
    }

    /// The peer's certificate in DER, if it has shown one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.io.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// The socket beneath.
    pub(super) fn socket(&self) -> &TcpStream {
        self.io.get_ref().0
    }

    /// Whether decrypted bytes, or the peer's good-bye, wait to be read: the socket's readiness says nothing of them.
    pub(super) fn holds_input(&self) -> bool {
        !self.io.get_ref().1.wants_read()
    }

    /// The first decrypted byte that waits to be read, if there is one, after everything that the kernel has is taken in.
    pub(super) fn glance(&mut self) -> io::Result<Option<u8>> {
        loop {
            let (tcp, session) = match &mut self.io {
                TlsStream::Client(stream) => {
                    let (tcp, session) = stream.get_mut();
                    (tcp, &mut **session as &mut rustls::ConnectionCommon<_>)
                }
                // Only servers are glanced at, and to those we are the client.
                TlsStream::Server(_) => return Ok(None),
            };
            if !session.wants_read() {
                let waiting = session.reader().fill_buf()?.first().copied();
                return waiting.map(Some).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
            }
            match session.read_tls(&mut AtOnce(tcp)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    session.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads what the kernel has, whatever the runtime last heard of it.
struct AtOnce<'a>(&'a TcpStream);

impl Read for AtOnce<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        use std::os::fd::AsRawFd as _;
        nix::sys::socket::recv(self.0.as_raw_fd(), buf, nix::sys::socket::MsgFlags::MSG_DONTWAIT).map_err(Into::into)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    /// Says that bytes are written when the socket has them all, as on a plain connection: whoever counts the unwritten
    /// (the relay, at a boundary) need not know that a layer between has a buffer of its own. After `Pending`, the next
    /// call must bring the same bytes again.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.owed == 0 {
            this.owed = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        }
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.owed)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    /// Says good-bye (`close_notify`) before it closes: a peer can tell the end from a cut.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Why TLS cannot be set up with a configuration that was read without a mistake.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up {side}: {why}")]
pub struct BadTls {
    side: &'static str,
    why: String,
}

impl BadTls {
    fn new(side: &'static str, why: impl fmt::Display) -> Self {
        Self { side, why: why.to_string() }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn versions(protocols: TlsProtocols) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(protocols.tls13, &rustls::version::TLS13), (protocols.tls12, &rustls::version::TLS12)];
    known.into_iter().filter_map(|(spoken, version)| spoken.then_some(version)).collect()
}
