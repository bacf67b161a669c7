//! Our side of TLS towards clients.

use std::io;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{ALPN, BadTls, Encrypted, cert, first, provider, versions};
use crate::config::{Config, SslMode, TlsSide};

/// How clients are answered that ask for TLS. Made whole from a configuration.
pub struct Acceptor {
    side: TlsSide,
    tls: Option<TlsAcceptor>,
    end_point: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({})", self.side.sslmode)
    }
}

const SIDE: &str = "TLS of clients";

impl Acceptor {
    /// From `client_tls_*`.
    ///
    /// # Errors
    /// [`BadTls`]; nothing that was read without a mistake is known to cause one.
    pub fn new(config: &Config) -> Result<Self, BadTls> {
        let side = config.client_tls.clone();
        let identity = match &side.identity {
            Some(identity) if side.sslmode != SslMode::Disable => Arc::clone(identity),
            Some(_) | None => return Ok(Self { side, tls: None, end_point: None }),
        };
        let end_point = identity.end_entity_cert().ok().and_then(|leaf| cert::end_point(leaf)).map(Arc::from);
        let bad = |why: Error| BadTls::new(SIDE, why);
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&versions(side.protocols)).map_err(bad)?;
        let builder = if side.sslmode.verifies() {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(side.authorities.iter().cloned());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            let inner = verifier.map_err(|error| BadTls::new(SIDE, error))?;
            let algorithms = provider().signature_verification_algorithms;
            builder.with_client_cert_verifier(Arc::new(Verifier { inner, known: side.authorities.clone(), algorithms }))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As Postgres: every connection has a handshake of its own. A resumed one would carry a client's certificate past
        // a reload that no longer trusts it.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { side, tls: Some(TlsAcceptor::from(Arc::new(config))), end_point })
    }

    /// Whether clients that ask for TLS get it.
    #[must_use]
    pub const fn offers(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether clients without TLS are refused.
    #[must_use]
    pub const fn demands(&self) -> bool {
        self.side.sslmode.demands()
    }

    /// Whether another was made from the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.side == other.side
    }

    /// The handshake. Dropping it closes the connection; bounded by the caller.
    ///
    /// # Errors
    /// What the peer or the socket did; the peer has been told as far as TLS can tell it.
    pub async fn handshake(&self, tcp: TcpStream) -> io::Result<Encrypted> {
        let Some(tls) = &self.tls else { return Err(io::ErrorKind::Unsupported.into()) };
        let stream = tls.accept(tcp).await?;
        Ok(Encrypted::new(stream.into(), self.end_point.clone()))
    }
}

/// Believes the certificates of clients that an authority vouches for, those of version 1 too.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    known: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if first::is_first(end_entity) {
            first::believe(end_entity, &self.known, now, &self.algorithms)?;
            return Ok(ClientCertVerified::assertion());
        }
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        first::verify_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        first::verify_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
