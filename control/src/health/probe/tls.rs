//! TLS of probes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpvs_api::Tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use super::{Failure, Run};

/// How long files are believed before they are read again, as certificates are renewed.
const AGE: Duration = Duration::from_secs(60);

/// Settings and the application protocols that are offered.
type Key = (Tls, &'static [&'static [u8]]);

/// Configurations of TLS, which many checks share.
#[derive(Default)]
pub(in crate::health) struct TlsConfigs(Mutex<HashMap<Key, (Arc<ClientConfig>, Instant)>>);

impl TlsConfigs {
    fn get(&self, key: Key) -> Result<Arc<ClientConfig>, Failure> {
        let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, made)) = configs.get(&key)
            && made.elapsed() < AGE
        {
            return Ok(Arc::clone(config));
        }
        // Those that are no longer used go.
        configs.retain(|_, (_, made)| made.elapsed() < AGE);
        let config = Arc::new(make(&key.0, key.1)?);
        configs.insert(key, (Arc::clone(&config), Instant::now()));
        Ok(config)
    }
}

/// Shakes hands. `host` is the name that the probe asks for.
pub(super) async fn connect(
    stream: TcpStream,
    run: &Run<'_>,
    settings: &Tls,
    host: Option<&str>,
    protocols: &'static [&'static [u8]],
) -> Result<TlsStream<TcpStream>, Failure> {
    let config = run.tools.tls.get((settings.clone(), protocols))?;
    let host = host.and_then(|host| host.parse::<hyper::http::uri::Authority>().ok());
    let name = settings.server_name.as_deref().or(host.as_ref().map(|host| host.host()));
    let name = match name {
        Some(name) => ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Failure::unexpected(format!("'{name}' cannot be the name of a server in TLS")))?,
        None => ServerName::from(run.spec.asked().ip()),
    };
    TlsConnector::from(config).connect(name, stream).await.map_err(Failure::io("TLS"))
}

fn make(settings: &Tls, protocols: &[&[u8]]) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = match settings.verify {
        true => {
            let roots = Arc::new(roots(settings.ca_file.as_deref())?);
            WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| Failure::unexpected(format!("TLS: {error}")))?
        }
        false => Arc::new(AnyCertificate(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match (&settings.certificate_file, &settings.key_file) {
        (Some(certificate), Some(key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.sni;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Every run is to see the server's certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let message =
                    "has no certificates of authorities: install the package ca-certificates, or name a ca_file";
                return Err(Failure::unexpected(format!("TLS: the system {message}")));
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bad = |error: rustls::pki_types::pem::Error| Failure::File(file.display().to_string(), error.to_string());
    let found: Vec<_> = CertificateDer::pem_file_iter(file).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
    match found.is_empty() {
        true => Err(Failure::File(file.display().to_string(), "has no certificate".to_owned())),
        false => Ok(found),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| Failure::File(file.display().to_string(), error.to_string()))
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
