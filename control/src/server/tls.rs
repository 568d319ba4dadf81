//! The API over TCP, for peers elsewhere: TLS with certificates on both sides. What a peer may do depends on its certificate.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dpvs_api::Author;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::Role;
use crate::config::CertificateName;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of use.
    #[error("{}: {reason}: name a PEM file with {what} that dpvsd may read", path.display())]
    File {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are no pair, or of a kind that TLS does not know.
    #[error("certificate and key cannot be used: {0}: give a certificate and the private key that belongs to it")]
    Pair(rustls::Error),
    /// The authorities' certificates cannot be used.
    #[error("{0}: give the certificates of those who sign the clients'")]
    Authorities(String),
}

impl TlsError {
    /// The key of the configuration that is to blame.
    pub fn key(&self) -> &'static str {
        match self {
            TlsError::File { key, .. } => key,
            TlsError::Pair(_) => "api.certificate",
            TlsError::Authorities(_) => "api.client_ca",
        }
    }
}

/// What TLS connections are made with; all of it can change while the daemon runs.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    writers: Vec<CertificateName>,
}

impl Tls {
    /// Reads the daemon's certificate (with those between it and its root) and key, and the certificates of the authorities
    /// that sign clients' certificates. Clients with one of the names in `writers` may change something.
    pub fn load(
        certificate: &Path,
        key: &Path,
        client_ca: &Path,
        writers: Vec<CertificateName>,
    ) -> Result<Self, TlsError> {
        let chain = certificates("api.certificate", certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(unusable("api.key", key, "a private key"))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates("api.client_ca", client_ca)? {
            roots.add(authority).map_err(|error| TlsError::Authorities(error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Authorities(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that is resumed would not be verified again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), writers })
    }

    /// Does the handshake, which fails if the peer has no certificate that one of the authorities signed.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Author, Role)> {
        let stream = self.acceptor.accept(stream).await?;
        let names = stream.get_ref().1.peer_certificates().and_then(|chain| names(chain.first()?)).unwrap_or_default();
        let role = if names.iter().any(|name| self.writers.contains(name)) { Role::Write } else { Role::Read };
        let name = names.first().map_or_else(|| "without a name".to_owned(), CertificateName::to_string);
        Ok((stream, Author::Certificate { name }, role))
    }
}

fn unusable<'a>(key: &'static str, path: &'a Path, what: &'static str) -> impl Fn(pem::Error) -> TlsError + use<'a> {
    move |error| {
        let reason = match error {
            pem::Error::Io(error) => error.to_string(),
            pem::Error::NoItemsFound => format!("it does not hold {what}"),
            error => error.to_string(),
        };
        TlsError::File { key, path: path.to_owned(), what, reason }
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = unusable(key, path, "certificates");
    let certificates: Vec<CertificateDer> =
        CertificateDer::pem_file_iter(path).map_err(&failed)?.collect::<Result<_, _>>().map_err(&failed)?;
    if certificates.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

/// The names in a certificate that has been verified, its common name first.
fn names(certificate: &CertificateDer) -> Option<Vec<CertificateName>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let common = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let units = subject.iter_organizational_unit().filter_map(|name| name.as_str().ok());
    let mut names: Vec<CertificateName> = common.map(|name| CertificateName::Common(name.to_owned())).collect();
    if let Ok(Some(others)) = certificate.subject_alternative_name() {
        names.extend(others.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
            GeneralName::RFC822Name(name) => Some(CertificateName::Email((*name).to_owned())),
            GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
            _ => None,
        }));
    }
    names.extend(units.map(|name| CertificateName::Unit(name.to_owned())));
    Some(names)
}

/// Listens for TLS connections.
#[derive(Debug)]
pub struct TlsListener {
    tcp: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_struct("Tls").field("writers", &self.writers).finish_non_exhaustive()
    }
}

impl TlsListener {
    /// Listens at an address. When `tls` changes, connections made with what was there before end as soon as they can.
    pub async fn bind(address: SocketAddr, tls: watch::Receiver<Arc<Tls>>) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub(super) async fn accept(&self) -> io::Result<(TcpStream, watch::Receiver<Arc<Tls>>)> {
        let (stream, _) = self.tcp.accept().await?;
        // Answers are written in one piece or are events: waiting for more gains nothing.
        stream.set_nodelay(true)?;
        Ok((stream, self.tls.clone()))
    }
}
