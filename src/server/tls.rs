//! TLS to Postgres: the request for it, the answer, and what every connection shares.
//!
//! Source: "SSL Session Encryption" in the protocol chapter, and libpq's `sslmode`. As in PgBouncer, `allow` does what
//! `prefer` does: asks for TLS and goes on without where there is none.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connect::Target;
use crate::config::SslMode;
use crate::net::stream::Stream;
pub use crate::net::tls::connect::Connector;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

impl Target {
    /// Opens a connection to the server, to this address of it if one is given, with TLS as the configuration wants it. Cancel-safe; bounded by the caller.
    ///
    /// # Errors
    /// The kernel's, the resolver's or TLS' own, with the address in the text.
    pub async fn open(&self, at: Option<SocketAddr>) -> io::Result<Stream> {
        let mut stream = self.dial(at).await?;
        if !matches!(stream, Stream::Tcp(_)) {
            return Ok(stream);
        }
        let mode = self.connector.mode();
        match encrypt(&mut stream, &self.connector, &self.host).await {
            Ok(()) => Ok(stream),
            Err(error) if mode.demands() => {
                let text = format!("{}:{}: server_tls_sslmode = {mode}: {error}", self.host, self.port);
                Err(io::Error::new(error.kind(), text))
            }
            // As libpq: TLS that both sides have and that does not come about is as good as none.
            Err(error) => {
                if let Some(left_out) = self.connector.fallbacks.turn() {
                    tracing::warn!(host = %self.host, port = self.port, %error, left_out, "TLS to the server failed: going on without");
                }
                self.dial(at).await
            }
        }
    }
}

/// Asks for TLS. `Ok` without it: the server has none, and the mode does not ask for more.
async fn encrypt(stream: &mut Stream, connector: &Connector, host: &str) -> io::Result<()> {
    if connector.mode() == SslMode::Disable {
        return Ok(());
    }
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0_u8; 16];
    let length = stream.read(&mut answer).await?;
    match &answer[..length] {
        b"S" => stream.connect_tls(connector, host).await,
        b"N" if connector.mode().demands() => Err(io::Error::other("the server has no TLS")),
        b"N" => Ok(()),
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        // Sent in the clear, before the handshake, by whoever sits in between (CVE-2021-23222).
        [b'S' | b'N', ..] => Err(io::Error::other("received unencrypted data after SSL response")),
        // What it says is not passed on: nobody knows who says it (CVE-2024-10977).
        [other, ..] => Err(io::Error::other(format!("the server answers the request for TLS with byte {other:#04x}"))),
    }
}
