//! Why a run of a check failed.

use std::io;
use std::net::IpAddr;

use dpvs_api::Seconds;
use tokio_rustls::rustls;

/// Why a run of a check failed; one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It took too long.
    #[error("not done within {0}")]
    Timeout(Seconds),
    /// The system or the server refused something.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// TLS cannot be used as the check says.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A file that TLS needs.
    #[error("{0}: {1}")]
    File(String, String),
    /// The protocol broke.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// No local port is free for a check at the virtual address.
    #[error("no local port is free, or too many checks are under way")]
    Busy,
    /// A check at the virtual address of whose packets none came by.
    #[error(
        "no packet to the virtual address at {0} left: the route to {0} must lead out of a port of dpvsd, and what is sent must \
         fit into one packet"
    )]
    Elsewhere(IpAddr),
    /// The probe itself is broken.
    #[error("the check panicked: {0}")]
    Panic(String),
    /// The server's answer is not the one that is expected.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    /// Makes a failure of an error of the system.
    pub fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Failure::Io(action, error)
    }

    /// An answer that is not the one that is expected.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Failure::Unexpected(what.into())
    }

    /// As one line that is not too long; what servers send may be anything.
    pub fn line(&self) -> String {
        const MAX: usize = 200;
        let text = self.to_string();
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(MAX).collect()
    }
}
