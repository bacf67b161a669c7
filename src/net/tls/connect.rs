//! Our side of TLS towards Postgres: which certificates are believed, and the handshake.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{BadTls, Encrypted, cert, first, provider, versions};
use crate::config::{Config, SslMode, TlsSide};
use crate::telemetry::seldom::Seldom;

/// How Postgres is asked for TLS. Made whole from a configuration; by default it is not asked.
#[derive(Default)]
pub struct Connector {
    /// For the log: connections that went on without TLS, because it did not come about.
    pub fallbacks: Seldom,
    side: TlsSide,
    tls: Option<TlsConnector>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({})", self.side.sslmode)
    }
}

const SIDE: &str = "TLS to Postgres";

impl Connector {
    /// From `server_tls_*`. The authorities are read into one store, which all connections share.
    ///
    /// # Errors
    /// [`BadTls`]; nothing that was read without a mistake is known to cause one.
    pub fn new(config: &Config) -> Result<Self, BadTls> {
        let side = config.server_tls.clone();
        if side.sslmode == SslMode::Disable {
            return Ok(Self { side, ..Self::default() });
        }
        let bad = |why: Error| BadTls::new(SIDE, why);
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&versions(side.protocols)).map_err(bad)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(&side)));
        let mut config = match &side.identity {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own)))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(Self { side, tls: Some(TlsConnector::from(Arc::new(config))), ..Self::default() })
    }

    /// When TLS is used.
    #[must_use]
    pub const fn mode(&self) -> SslMode {
        self.side.sslmode
    }

    /// Whether another was made from the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.side == other.side
    }

    /// The handshake with `host`. Dropping it closes the connection; bounded by the caller.
    ///
    /// # Errors
    /// What the peer or the socket did, or why its certificate is not believed.
    pub async fn handshake(&self, tcp: TcpStream, host: &str) -> io::Result<Encrypted> {
        let Some(tls) = &self.tls else { return Err(io::ErrorKind::Unsupported.into()) };
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.side.sslmode == SslMode::VerifyFull => {
                return Err(io::Error::other(format!("no certificate can be for the host name \"{host}\"")));
            }
            // The name is not compared with anything, and an address is not sent.
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))),
        };
        let stream = tls.connect(name, tcp).await?;
        let end_point =
            stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(|leaf| cert::end_point(leaf));
        Ok(Encrypted::new(stream.into(), end_point.map(Arc::from)))
    }
}

/// Believes certificates as far as the mode asks for: all, those of known authorities, those of the host.
#[derive(Debug)]
struct Verifier {
    mode: SslMode,
    roots: RootCertStore,
    /// Certificates that are believed as they are: a self-signed one is its own authority, as OpenSSL sees it.
    known: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(side: &TlsSide) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(side.authorities.iter().cloned());
        Self { mode: side.sslmode, roots, known: side.authorities.clone(), provider: provider() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.mode.verifies() {
            return Ok(ServerCertVerified::assertion());
        }
        if first::is_first(end_entity) {
            first::believe(end_entity, &self.known, now, &self.provider.signature_verification_algorithms)?;
            // It has no names but the common one.
            if self.mode == SslMode::VerifyFull && !cert::common_name_is(end_entity, &server_name.to_str()) {
                return Err(CertificateError::NotValidForName.into());
            }
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if !self.known.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        } else if !cert::in_force(end_entity, now.as_secs()) {
            return Err(CertificateError::Expired.into());
        }
        if self.mode == SslMode::VerifyFull
            && let Err(error) = verify_server_name(&parsed, server_name)
            && !cert::common_name_is(end_entity, &server_name.to_str())
        {
            return Err(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    // That the server has the certificate's key is always verified: SCRAM's channel binding rests on it.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        first::verify_tls12(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        first::verify_tls13(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
