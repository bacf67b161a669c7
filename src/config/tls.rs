//! What the keys `client_tls_*` and `server_tls_*` come to: versions of TLS, and the content of the PEM files.
//!
//! Files are read with the configuration, by the function that the caller gives: a certificate that cannot be served is a
//! mistake with its line, at the start and at a reload alike, and nothing needs the disk afterwards.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use super::auth_files::beside;
use super::build::{Draft, Reader};
use super::mistake::{quoted, unread};
use super::text::Place;
use super::value::SslMode;

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsProtocols {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
    /// Older ones were asked for too; they are not spoken.
    pub(crate) older: bool,
}

impl Default for TlsProtocols {
    fn default() -> Self {
        Self { tls12: true, tls13: true, older: false }
    }
}

impl TlsProtocols {
    /// Reads `secure` (or `default`), `tlsv1.2`, `tlsv1.3`, a list of the two, or `all` and `legacy`.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "secure, all, tlsv1.2, tlsv1.3 or tlsv1.2,tlsv1.3 (older versions of TLS are not spoken)";
        let mut found = Self { tls12: false, tls13: false, older: false };
        for word in text.split([',', ':']).map(str::trim) {
            match word.to_ascii_lowercase().as_str() {
                "secure" | "default" => (found.tls12, found.tls13) = (true, true),
                "all" | "legacy" => found = Self { tls12: true, tls13: true, older: true },
                "tlsv1.2" => found.tls12 = true,
                "tlsv1.3" => found.tls13 = true,
                _ => return Err(EXPECTED),
            }
        }
        Ok(found)
    }
}

impl fmt::Display for TlsProtocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self { older: true, .. } => "all",
            Self { tls12: true, tls13: false, .. } => "tlsv1.2",
            Self { tls12: false, tls13: true, .. } => "tlsv1.3",
            Self { .. } => "secure",
        })
    }
}

/// All that TLS on one side is made of: towards clients, or towards Postgres.
#[derive(Clone, Debug, Default)]
pub struct TlsSide {
    /// When it is used, and what of the peer is verified.
    pub sslmode: SslMode,
    /// The versions that are spoken.
    pub protocols: TlsProtocols,
    /// Our certificate chain and its key, where there is one.
    pub identity: Option<Arc<CertifiedKey>>,
    /// Certificates of the authorities that vouch for the peer.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl PartialEq for TlsSide {
    /// A key belongs to its certificate: equal certificates mean equal keys.
    fn eq(&self, other: &Self) -> bool {
        let chain = |side: &Self| side.identity.as_ref().map(|identity| identity.cert.clone());
        (self.sslmode, self.protocols, &self.authorities) == (other.sslmode, other.protocols, &other.authorities)
            && chain(self) == chain(other)
    }
}

/// Reads the files of both sides, where TLS is not switched off.
pub(super) fn files(draft: &mut Draft<'_>, read: Reader<'_>) {
    let (file, config) = (draft.file, &mut draft.config);
    // Commands beside us are told them too, which run elsewhere.
    let resolve = |path: &mut Option<PathBuf>| {
        *path = path.take().map(|path| beside(file, &path)).map(|path| absolute(&path).unwrap_or(path));
        path.clone()
    };
    let client = Keys {
        names: ["client_tls_sslmode", "client_tls_cert_file", "client_tls_key_file", "client_tls_ca_file"],
        paths: [&mut config.client_tls_cert_file, &mut config.client_tls_key_file, &mut config.client_tls_ca_file]
            .map(resolve),
        needs_identity: true,
    };
    let server = Keys {
        names: ["server_tls_sslmode", "server_tls_cert_file", "server_tls_key_file", "server_tls_ca_file"],
        paths: [&mut config.server_tls_cert_file, &mut config.server_tls_key_file, &mut config.server_tls_ca_file]
            .map(resolve),
        needs_identity: false,
    };
    let (mode, protocols) = (config.client_tls_sslmode, config.client_tls_protocols);
    draft.config.client_tls = client.side(draft, read, (mode, protocols));
    let (mode, protocols) = (draft.config.server_tls_sslmode, draft.config.server_tls_protocols);
    draft.config.server_tls = server.side(draft, read, (mode, protocols));
}

/// The keys of one side, and the paths in them: certificate, key, authorities.
struct Keys {
    names: [&'static str; 4],
    paths: [Option<PathBuf>; 3],
    needs_identity: bool,
}

impl Keys {
    fn side(&self, draft: &mut Draft<'_>, read: Reader<'_>, (sslmode, protocols): (SslMode, TlsProtocols)) -> TlsSide {
        let mut side = TlsSide { sslmode, protocols, identity: None, authorities: Vec::new() };
        if sslmode == SslMode::Disable || !draft.sound(&Place::Main, &self.names) {
            return side;
        }
        if protocols.older {
            draft.warn("TLS 1.0 and 1.1 are not spoken, whatever the protocols say: they are broken");
        }
        side.identity = self.identity(draft, read, sslmode);
        side.authorities = self.authorities(draft, read, sslmode);
        side
    }

    fn identity(&self, draft: &mut Draft<'_>, read: Reader<'_>, mode: SslMode) -> Option<Arc<CertifiedKey>> {
        let [of_mode, of_cert, of_key, _] = self.names;
        let (cert_path, key_path) = match (&self.paths[0], &self.paths[1]) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if !self.needs_identity => return None,
            (cert, _) => {
                let missing = if cert.is_none() { of_cert } else { of_key };
                let other = if cert.is_none() { of_key } else { of_cert };
                let why = if self.needs_identity { format!("{of_mode} = {mode}") } else { other.to_owned() };
                let line = draft.line(&Place::Main, if self.needs_identity { of_mode } else { other });
                draft.mistakes.add(line, missing, format!("a PEM file, for {why}"), "none");
                return None;
            }
        };
        let chain = certificates(draft, read, (of_cert, cert_path));
        let key = key(draft, read, (of_key, key_path));
        let (chain, key) = (chain?, key?);
        match pair(chain, key) {
            Ok(identity) => Some(Arc::new(identity)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                let got = format!("{} (the key of another certificate)", quoted(&key_path.display().to_string()));
                draft.mistake(&Place::Main, of_key, format!("the private key of {of_cert}"), got);
                None
            }
            Err(error) => {
                let got = format!("{} ({error})", quoted(&key_path.display().to_string()));
                draft.mistake(&Place::Main, of_key, format!("a private key and, in {of_cert}, its certificate"), got);
                None
            }
        }
    }

    fn authorities(&self, draft: &mut Draft<'_>, read: Reader<'_>, mode: SslMode) -> Vec<CertificateDer<'static>> {
        let [of_mode, _, _, of_ca] = self.names;
        let Some(path) = &self.paths[2] else {
            if mode.verifies() {
                let expected = format!("a PEM file of the authorities to trust, for {of_mode} = {mode}");
                let line = draft.line(&Place::Main, of_mode);
                draft.mistakes.add(line, of_ca, expected, "none");
            }
            return Vec::new();
        };
        let found = certificates(draft, read, (of_ca, path)).unwrap_or_default();
        let all = found.len();
        // The bundles of systems hold oddities that nobody needs: one good authority is enough.
        let good: Vec<_> = found.into_iter().filter(|one| RootCertStore::empty().add(one.clone()).is_ok()).collect();
        if good.is_empty() && all > 0 {
            let got = format!("{} (none in it can be used)", quoted(&path.display().to_string()));
            draft.mistake(&Place::Main, of_ca, "a PEM file of certificates", got);
        } else if good.len() < all {
            let left_out = all - good.len();
            draft.warn(&format!("{of_ca}: {left_out} of {all} certificates cannot be read and are left out"));
        }
        good
    }
}

fn text(draft: &mut Draft<'_>, read: Reader<'_>, (name, path): (&str, &Path)) -> Option<super::build::Content> {
    read(path)
        .map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::InvalidData => "it is not PEM: openssl x509 -inform der makes it of DER".to_owned(),
                _ => unread(&error),
            };
            let got = format!("{} ({why})", quoted(&path.display().to_string()));
            draft.mistake(&Place::Main, name, "a file that can be read", got);
        })
        .ok()
}

fn certificates(
    draft: &mut Draft<'_>,
    read: Reader<'_>,
    (name, path): (&str, &Path),
) -> Option<Vec<CertificateDer<'static>>> {
    let content = text(draft, read, (name, path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content.text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        other => {
            let why = other.err().map_or_else(|| "no certificate in it".to_owned(), |error| error.to_string());
            let got = format!("{} ({})", quoted(&path.display().to_string()), why.escape_debug());
            draft.mistake(&Place::Main, name, "a PEM file of certificates", got);
            None
        }
    }
}

/// A certificate with its key. Unlike rustls' own way, the certificate may be of X.509 version 1: Postgres' manual makes such.
fn pair(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, rustls::Error> {
    let pair = CertifiedKey::new(chain, default_provider().key_provider.load_private_key(key)?);
    let of_cert = || {
        let cert = Certificate::from_der(pair.cert.first()?).ok()?;
        cert.tbs_certificate().subject_public_key_info().to_der().ok()
    };
    match (pair.keys_match(), pair.key.public_key()) {
        (Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)), _) => Ok(pair),
        (Err(error @ rustls::Error::InvalidCertificate(_)), Some(own)) => match of_cert() {
            Some(of_cert) if of_cert == own.as_ref() => Ok(pair),
            Some(_) => Err(InconsistentKeys::KeyMismatch.into()),
            None => Err(error),
        },
        (Err(error), _) => Err(error),
    }
}

fn key(draft: &mut Draft<'_>, read: Reader<'_>, (name, path): (&str, &Path)) -> Option<PrivateKeyDer<'static>> {
    let content = text(draft, read, (name, path))?;
    if content.world_readable {
        draft.warn(&format!("{name} {} can be read by everybody: chmod o-rwx", path.display()));
    }
    let found = PrivateKeyDer::from_pem_slice(content.text.as_bytes());
    if found.is_err() {
        let encrypted = content.text.contains("ENCRYPTED");
        let why = if encrypted { "an encrypted key" } else { "no private key in it" };
        let got = format!("{} ({why})", quoted(&path.display().to_string()));
        draft.mistake(&Place::Main, name, "a PEM file with a private key, without a passphrase", got);
    }
    found.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_as_pgbouncer_names_them() {
        for (text, tls12, tls13, shown) in [
            ("secure", true, true, "secure"),
            ("default", true, true, "secure"),
            ("tlsv1.2", true, false, "tlsv1.2"),
            ("TLSv1.3", false, true, "tlsv1.3"),
            ("tlsv1.2, tlsv1.3", true, true, "secure"),
            ("tlsv1.2:tlsv1.3", true, true, "secure"),
            ("all", true, true, "all"),
            ("legacy", true, true, "all"),
        ] {
            let found = TlsProtocols::parse(text).unwrap();
            assert_eq!((found.tls12, found.tls13), (tls12, tls13), "{text}");
            assert_eq!(found.to_string(), shown, "{text}");
        }
        for text in ["", "tlsv1.0", "tlsv1.1", "ssl3", "tlsv1.2,", "tlsv1.1,tlsv1.2", "!tlsv1.2"] {
            assert!(TlsProtocols::parse(text).is_err(), "{text}");
        }
    }
}
