//! Certificates of X.509 version 1. rustls reads none, but whoever follows Postgres' manual has one: `openssl x509 -req` makes it
//! where no extensions are asked for. Pure.
//!
//! Such a certificate cannot vouch for another one here, and only an authority itself can vouch for it.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{Decode as _, Encode};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::cert::in_force;

/// Whether it is one.
#[must_use]
pub(super) fn is_first(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|cert| cert.tbs_certificate().version() == Version::V1)
}

/// Whether the holder of the certificate's key has signed the message, in a handshake of TLS 1.2; of any version.
///
/// # Errors
/// It has not, or in a way that was not offered.
pub(super) fn verify_tls12(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !is_first(cert) {
        return verify_tls12_signature(message, cert, dss, supported);
    }
    let offered = supported.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let (_, algorithms) = offered.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let key = key_of(cert)?;
    let good = algorithms.iter().any(|algorithm| signed(*algorithm, &key, message, dss.signature()));
    if good { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}

/// The same for TLS 1.3.
///
/// # Errors
/// It has not, or in a way that was not offered.
pub(super) fn verify_tls13(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !is_first(cert) {
        return verify_tls13_signature(message, cert, dss, supported);
    }
    let key = key_of(cert)?.to_der().map_err(|_| CertificateError::BadEncoding)?;
    verify_tls13_signature_with_raw_key(message, &key.into(), dss, supported)
}

/// Believes a certificate of version 1 that an authority has signed, or that is one, in its time.
///
/// # Errors
/// Why it is not believed.
pub(super) fn believe(
    cert: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    if !authorities.iter().any(|authority| authority == cert || is_issued(cert, authority, supported)) {
        return Err(CertificateError::UnknownIssuer.into());
    }
    if in_force(cert, now.as_secs()) { Ok(()) } else { Err(CertificateError::Expired.into()) }
}

/// Whether this authority has signed this certificate, and says so in both.
fn is_issued(der: &[u8], authority: &[u8], supported: &WebPkiSupportedAlgorithms) -> bool {
    let issued = || {
        let (cert, authority) = (Certificate::from_der(der).ok()?, Certificate::from_der(authority).ok()?);
        let (of_cert, of_authority) = (cert.tbs_certificate(), authority.tbs_certificate());
        let named = of_cert.issuer() == of_authority.subject() && of_cert.signature() == cert.signature_algorithm();
        let (message, signature) = (of_cert.to_der().ok()?, cert.signature().as_bytes()?);
        let (wanted, key) = (contents(cert.signature_algorithm())?, of_authority.subject_public_key_info());
        let mut algorithms = supported.all.iter().filter(|one| *one.signature_alg_id() == *wanted);
        Some(named && algorithms.any(|algorithm| signed(*algorithm, key, &message, signature)))
    };
    issued().unwrap_or(false)
}

fn key_of(der: &[u8]) -> Result<SubjectPublicKeyInfoOwned, CertificateError> {
    let cert = Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    Ok(cert.tbs_certificate().subject_public_key_info().clone())
}

fn signed(
    algorithm: &dyn SignatureVerificationAlgorithm,
    key: &SubjectPublicKeyInfoOwned,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let is_for = contents(&key.algorithm).is_some_and(|own| *algorithm.public_key_alg_id() == *own);
    let bytes = key.subject_public_key.as_bytes();
    is_for && bytes.is_some_and(|key| algorithm.verify_signature(key, message, signature).is_ok())
}

/// What is in a sequence of fewer than 128 bytes, as identifiers of algorithms are.
fn contents(of: &impl Encode) -> Option<Vec<u8>> {
    let der = of.to_der().ok()?;
    let (length, rest) = der.get(1..)?.split_first()?;
    (usize::from(*length) == rest.len()).then(|| rest.to_vec())
}
