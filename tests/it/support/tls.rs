//! Certificates of a throwaway authority, the shared Postgres with TLS, and somebody between the proxy and Postgres.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey as _};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, BitString};
use x509_cert::der::{Decode as _, Encode as _, Tag};

use super::postgres::{cluster, superuser};
use super::wait::{eventually, secs};

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Somebody who signs certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate with this common name, for these hosts.
    pub(crate) fn leaf(&self, name: &str, hosts: &[&str]) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let cert = params(name, hosts).signed_by(&key, &self.issuer).unwrap();
        Leaf { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// The same, of X.509 version 1 and so for the host of the common name.
    pub(crate) fn leaf_of_version_1(&self, name: &str) -> Leaf {
        let leaf = self.leaf(name, &[]);
        Leaf { cert: of_version_1(&leaf.cert, self.issuer.key()), ..leaf }
    }
}

/// Makes a certificate one of X.509 version 1, as Postgres' manual makes them: without extensions.
fn of_version_1(pem: &str, issuer: &KeyPair) -> String {
    let cert = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let cert = Certificate::from_der(&cert).unwrap();
    let all = cert.tbs_certificate();
    let sequence = |parts: &[Vec<u8>]| AnyRef::new(Tag::Sequence, &parts.concat()).unwrap().to_der().unwrap();
    let signed = sequence(&[
        all.serial_number().to_der().unwrap(),
        all.signature().to_der().unwrap(),
        all.issuer().to_der().unwrap(),
        all.validity().to_der().unwrap(),
        all.subject().to_der().unwrap(),
        all.subject_public_key_info().to_der().unwrap(),
    ]);
    let signature = BitString::from_bytes(&issuer.sign(&signed).unwrap()).unwrap().to_der().unwrap();
    let whole = sequence(&[signed, cert.signature_algorithm().to_der().unwrap(), signature]);
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(whole))
}

/// A certificate that is its own authority, as `openssl req -x509` makes them: CA, and no names but the common one.
pub(crate) fn self_signed(name: &str) -> Leaf {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    Leaf { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// The authority that the tests trust.
pub(crate) fn authority() -> &'static Authority {
    static ONE: OnceLock<Authority> = OnceLock::new();
    ONE.get_or_init(|| Authority::new("the tests' authority"))
}

/// The authority that nobody trusts.
pub(crate) fn stranger() -> &'static Authority {
    static ONE: OnceLock<Authority> = OnceLock::new();
    ONE.get_or_init(|| Authority::new("a stranger"))
}

/// Makes the shared Postgres speak TLS from now on, with a certificate for 127.0.0.1 and nothing else.
pub(crate) fn postgres_with_tls() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let leaf = authority().leaf("postgres", &["127.0.0.1"]);
        let mut wire = superuser(cluster(), "postgres").login();
        for (file, pem) in [("it.crt", &leaf.cert), ("it.key", &leaf.key), ("it-ca.crt", &authority().pem)] {
            let lines = format!("SELECT unnest(string_to_array($pem${pem}$pem$, chr(10)))");
            wire.ok(&format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {file}'"));
        }
        wire.ok("ALTER SYSTEM SET ssl_cert_file = 'it.crt'");
        wire.ok("ALTER SYSTEM SET ssl_key_file = 'it.key'");
        wire.ok("ALTER SYSTEM SET ssl_ca_file = 'it-ca.crt'");
        wire.ok("ALTER SYSTEM SET ssl = on");
        wire.ok("SELECT pg_reload_conf()");
        wire.close();
        eventually("Postgres has TLS", secs(10), || superuser(cluster(), "postgres").login().one("SHOW ssl") == "on");
    });
}

fn chain(leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap())
}

/// Shows a certificate that rustls has not looked at: one of version 1 as well.
fn resolver(leaf: &Leaf) -> Arc<SingleCertAndKey> {
    let (chain, key) = chain(leaf);
    let key = default_provider().key_provider.load_private_key(key).unwrap();
    Arc::new(SingleCertAndKey::from(Arc::new(CertifiedKey::new(chain, key))))
}

/// A client that trusts the tests' authority; with ALPN as libpq 17 sends it, and a certificate of its own, if wanted.
pub(crate) fn client_config(alpn: bool, own: Option<&Leaf>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority().pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match own.map(resolver) {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    };
    if alpn {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Arc::new(config)
}

/// How somebody between the proxy and Postgres answers a request for TLS.
#[derive(Clone)]
pub(crate) enum Answer {
    /// With these bytes; what follows goes to Postgres.
    Bytes(&'static [u8]),
    /// With TLS by this certificate; what is within goes to Postgres.
    Tls(Leaf),
    /// With TLS, and then as a Postgres that asks for SCRAM; the first answer to that is noted.
    Scram(Leaf),
}

/// Somebody between the proxy and Postgres. He notes what connections begin with, one word each.
pub(crate) struct Between {
    pub(crate) port: u16,
    notes: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Between {
    pub(crate) fn start(answer: Answer) -> Self {
        let postgres = cluster().port();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&notes);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, notes) = (answer.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    // Whoever hangs up early is the subject of some tests.
                    let _ = serve(stream, answer, &notes, postgres).await;
                });
            }
        });
        Self { port, notes, _runtime: runtime }
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, notes: &Mutex<Vec<String>>, postgres: u16) -> io::Result<()> {
    let first = packet(&mut stream).await?;
    if word(&first) != "ssl" {
        return pass_on(stream, first, "plain", notes, postgres).await;
    }
    match answer {
        Answer::Bytes(bytes) => {
            stream.write_all(bytes).await?;
            let first = packet(&mut stream).await?;
            pass_on(stream, first, "plain", notes, postgres).await
        }
        Answer::Tls(leaf) => {
            let mut stream = accept(stream, &leaf).await?;
            let first = packet(&mut stream).await?;
            pass_on(stream, first, "tls", notes, postgres).await
        }
        Answer::Scram(leaf) => {
            let mut stream = accept(stream, &leaf).await?;
            packet(&mut stream).await?;
            let mut ask = b"R\0\0\0\0\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0".to_vec();
            ask[4] = u8::try_from(ask.len() - 1).unwrap();
            stream.write_all(&ask).await?;
            stream.read_u8().await?;
            let response = packet(&mut stream).await?;
            notes.lock().unwrap().push(String::from_utf8_lossy(&response[4..]).into_owned());
            Ok(())
        }
    }
}

async fn accept(mut stream: TcpStream, leaf: &Leaf) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.write_all(b"S").await?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(builder.with_cert_resolver(resolver(leaf)))).accept(stream).await
}

/// A packet that begins with its length.
async fn packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = stream.read_u32().await?.to_be_bytes().to_vec();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    if length > 10_000 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[4..]).await?;
    Ok(bytes)
}

fn word(packet: &[u8]) -> &'static str {
    match u32::from_be_bytes(packet[4..8].try_into().unwrap()) {
        80_877_103 => "ssl",
        80_877_102 => "cancel",
        code if code >> 16 == 3 => "startup",
        _ => "odd",
    }
}

async fn pass_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    first: Vec<u8>,
    way: &str,
    notes: &Mutex<Vec<String>>,
    postgres: u16,
) -> io::Result<()> {
    notes.lock().unwrap().push(format!("{way} {}", word(&first)));
    let mut server = TcpStream::connect(("127.0.0.1", postgres)).await?;
    server.write_all(&first).await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    stream.shutdown().await
}
