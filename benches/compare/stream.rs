//! A socket to a proxy, plain or in TLS, and the log-in over it.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Result;
use crate::process::Site;
use crate::wire::{self, error_text, message};

/// The password of the only user.
pub(crate) const PASSWORD: &str = "secret";

/// Plain, or in TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(crate) async fn open(port: u16, tls: Option<&Tls>) -> Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
        stream.write_all(&wire::tls_please()).await?;
        if stream.read_u8().await? != b'S' {
            return Err("no TLS".into());
        }
        let name = ServerName::try_from("localhost")?;
        Ok(Self::Tls(Box::new(tls.connector.connect(name, stream).await?)))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Self::Plain(stream) => {
                let mut sent = 0;
                while sent < bytes.len() {
                    match stream.try_write(&bytes[sent..]) {
                        Ok(n) => sent += n,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    /// Reads what there is, at least a byte.
    pub(crate) async fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match self {
            Self::Tls(stream) => stream.read(buf).await?,
            Self::Plain(stream) => stream.read(buf).await?,
        };
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(n) }
    }

    /// Logs in, with SCRAM where it is asked for, and reads to the first ReadyForQuery.
    pub(crate) async fn log_in(&mut self, database: &str) -> Result<()> {
        self.send(&wire::startup("bench", database)).await?;
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
        let (mut got, mut buf) = (Vec::new(), [0; 1024]);
        loop {
            while let Some((tag, length)) = wire::header(&got) {
                let body: Vec<u8> = got.drain(..length).skip(5).collect();
                match tag {
                    b'Z' => return Ok(()),
                    b'E' => return Err(error_text(&body).into()),
                    b'R' => self.prove(&mut scram, &body).await?,
                    _ => {}
                }
            }
            let n = self.receive(&mut buf).await?;
            got.extend_from_slice(&buf[..n]);
        }
    }

    async fn prove(&mut self, scram: &mut ScramSha256, body: &[u8]) -> Result<()> {
        let (code, rest) = body.split_first_chunk::<4>().ok_or("a short answer")?;
        let mut out = Vec::new();
        match u32::from_be_bytes(*code) {
            10 => message(&mut out, b'p', |out| {
                wire::text(out, SCRAM_SHA_256);
                out.extend_from_slice(&u32::try_from(scram.message().len()).unwrap_or(0).to_be_bytes());
                out.extend_from_slice(scram.message());
            }),
            11 => {
                scram.update(rest)?;
                message(&mut out, b'p', |out| out.extend_from_slice(scram.message()));
            }
            12 => scram.finish(rest)?,
            0 => {}
            other => return Err(format!("authentication {other} is not known here").into()),
        }
        Ok(self.send(&out).await?)
    }
}

/// A certificate with an RSA key of 2048 bits, as most have, and what trusts it.
pub(crate) struct Tls {
    connector: TlsConnector,
    key: PathBuf,
    certificate: PathBuf,
}

impl Tls {
    pub(crate) fn make(site: &Site) -> Result<Self> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            key: site.write("key.pem", &key.serialize_pem())?,
            certificate: site.write("certificate.pem", &certificate.pem())?,
        })
    }

    /// What both proxies are told of it.
    pub(crate) fn lines(&self) -> Vec<String> {
        vec![
            "client_tls_sslmode = allow".to_owned(),
            format!("client_tls_key_file = {}", self.key.display()),
            format!("client_tls_cert_file = {}", self.certificate.display()),
        ]
    }
}
