//! What rustls does not tell of a certificate. Pure.
//!
//! Nothing here decides whether a certificate is believed; a certificate that cannot be read has no name and no hash.

use aws_lc_rs::digest::{self, Algorithm};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Tag, Tagged as _};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// The first common name of the subject, as Postgres and PgBouncer take it. `None` if there is none, or if it holds what a
/// name cannot: a zero byte (CVE-2009-4034) or no UTF-8.
#[must_use]
pub fn common_name(der: &[u8]) -> Option<String> {
    let cert = Certificate::from_der(der).ok()?;
    let value = &cert.tbs_certificate().subject().iter().find(|attribute| attribute.oid == COMMON_NAME)?.value;
    let bytes = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => value.value(),
        // Other alphabets: only where they agree with ASCII.
        Tag::TeletexString if value.value().is_ascii() => value.value(),
        _ => return None,
    };
    let name = std::str::from_utf8(bytes).ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

/// Whether a certificate without alternative names has this host as its common name, as libpq accepts it: letters in any
/// case, `*.` for one label.
#[must_use]
pub fn common_name_is(der: &[u8], host: &str) -> bool {
    let Ok(cert) = Certificate::from_der(der) else { return false };
    let extensions = cert.tbs_certificate().extensions();
    if extensions.is_some_and(|all| all.iter().any(|one| one.extn_id == SUBJECT_ALT_NAME)) {
        return false;
    }
    let Some(name) = common_name(der) else { return false };
    let wild = name.strip_prefix("*.").zip(host.split_once('.'));
    name.eq_ignore_ascii_case(host)
        || wild.is_some_and(|(rest, (label, domain))| {
            !label.is_empty() && rest.contains('.') && rest.eq_ignore_ascii_case(domain)
        })
}

/// Whether the time, in seconds since 1970, is within the certificate's.
#[must_use]
pub fn in_force(der: &[u8], now: u64) -> bool {
    let Ok(cert) = Certificate::from_der(der) else { return false };
    let validity = cert.tbs_certificate().validity();
    (validity.not_before.to_unix_duration().as_secs()..=validity.not_after.to_unix_duration().as_secs()).contains(&now)
}

/// The channel binding `tls-server-end-point` (RFC 5929, section 4.1): the certificate's hash by the hash of its
/// signature, SHA-256 in place of MD5 and SHA-1. `None` where the signature names no hash (Ed25519), or names it in
/// parameters (RSA-PSS), which Postgres before 16 does not read.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let cert = Certificate::from_der(der).ok()?;
    let algorithm = hash_of(&cert.signature_algorithm().oid.to_string())?;
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

fn hash_of(signature: &str) -> Option<&'static Algorithm> {
    Some(match signature {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => &digest::SHA256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &digest::SHA256,
        // The same pairs, by their hash.
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => &digest::SHA224,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SignatureAlgorithm};

    fn cert(alg: &'static SignatureAlgorithm, sans: &[&str], names: &[DnValue]) -> Vec<u8> {
        let sans: Vec<String> = sans.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, name.clone());
        }
        params.self_signed(&KeyPair::generate_for(alg).unwrap()).unwrap().der().to_vec()
    }

    fn named(name: &str) -> DnValue {
        DnValue::Utf8String(name.to_owned())
    }

    #[test]
    fn the_common_name_is_read() {
        let alg = &rcgen::PKCS_ECDSA_P256_SHA256;
        assert_eq!(common_name(&cert(alg, &[], &[named("älice")])), Some("älice".to_owned()));
        let printable = DnValue::PrintableString("bob".try_into().unwrap());
        assert_eq!(common_name(&cert(alg, &[], &[printable])), Some("bob".to_owned()));
        assert_eq!(common_name(&cert(alg, &[], &[])), None);
        assert_eq!(common_name(&cert(alg, &[], &[named("a\0b")])), None);
        assert_eq!(common_name(&cert(alg, &[], &[named("")])), None);
        for bad in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0x30; 64]] {
            assert_eq!(common_name(bad), None);
            assert_eq!(end_point(bad), None);
            assert!(!in_force(bad, 0));
        }
    }

    #[test]
    fn a_common_name_stands_for_the_host_where_nothing_else_does() {
        let alg = &rcgen::PKCS_ECDSA_P256_SHA256;
        for (name, sans, host, expected) in [
            ("db.example.org", &[][..], "db.example.org", true),
            ("db.example.org", &[], "DB.Example.org", true),
            ("db.example.org", &["other.example.org"], "db.example.org", false),
            ("*.example.org", &[], "db.example.org", true),
            ("*.example.org", &[], "a.db.example.org", false),
            ("*.example.org", &[], "example.org", false),
            ("*.org", &[], "example.org", false),
            ("*", &[], "db", false),
            ("127.0.0.1", &[], "127.0.0.1", true),
            ("db", &[], "db.example.org", false),
        ] {
            assert_eq!(common_name_is(&cert(alg, sans, &[named(name)]), host), expected, "{name} {sans:?} {host}");
        }
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (alg, size) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_RSA_SHA256, Some(32)),
            (&rcgen::PKCS_RSA_SHA384, Some(48)),
            (&rcgen::PKCS_RSA_SHA512, Some(64)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            assert_eq!(end_point(&cert(alg, &["x"], &[])).map(|hash| hash.len()), size, "{alg:?}");
        }
    }

    #[test]
    fn a_certificate_has_its_time() {
        let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        for (now, expected) in
            [(1_577_836_799, false), (1_577_836_800, true), (1_609_459_200, true), (1_609_459_201, false)]
        {
            assert_eq!(in_force(&der, now), expected, "{now}");
        }
    }
}
