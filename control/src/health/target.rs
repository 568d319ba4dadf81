//! Which checks a server has, and where they go.

use std::fmt;
use std::net::SocketAddr;

use dpvs_api::{Check, Probe, Server, ServiceId, ServiceSettings};
use regex::bytes::{Regex, RegexBuilder};

/// Largest memory that a regular expression may take once it is compiled.
const MAX_PATTERN: usize = 1 << 20;

/// A check and where it goes. What is equal is run once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub check: Check,
    pub target: SocketAddr,
}

impl Spec {
    /// What the check of a server of this service comes to.
    pub fn new(id: ServiceId, server: SocketAddr, check: &Check) -> Self {
        let target = target(id, server, check);
        // Checks that differ only in what they need not name are the same.
        Self { check: Check { address: None, port: None, ..check.clone() }, target }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target;
        let secure = |tls: bool| if tls { "s" } else { "" };
        match &self.check.probe {
            Probe::Tcp(probe) if probe.tls.is_some() => write!(f, "tls {target}"),
            Probe::Tcp(_) => write!(f, "tcp {target}"),
            Probe::Http(probe) => {
                let host = probe.host.as_ref().map(|host| format!(" ({host})")).unwrap_or_default();
                write!(f, "http{} {target}{}{host}", secure(probe.tls.is_some()), probe.path)
            }
            Probe::Dns(probe) => write!(f, "dns {target} {} {}", probe.record_type.name(), probe.name),
            Probe::Udp(_) => write!(f, "udp {target}"),
            Probe::Icmp(_) => write!(f, "icmp {}", target.ip()),
            Probe::Smtp(_) => write!(f, "smtp {target}"),
            Probe::Grpc(probe) => {
                write!(f, "grpc{} {target}", secure(probe.tls.is_some()))?;
                if probe.service.is_empty() { Ok(()) } else { write!(f, " {}", probe.service) }
            }
            Probe::External(probe) => write!(f, "external {} for {target}", probe.command.join(" ")),
        }
    }
}

/// The checks of a server: its own, or else its service's.
pub(crate) fn checks_of<'a>(settings: &'a ServiceSettings, server: &'a Server) -> &'a [Check] {
    let own = server.health.as_ref().and_then(|health| health.checks.as_deref());
    own.or(settings.health.as_deref().map(|health| health.checks.as_slice())).unwrap_or_default()
}

/// Address and port that a check of a server goes to; the port is 0 if nothing names one.
pub(crate) fn target(id: ServiceId, server: SocketAddr, check: &Check) -> SocketAddr {
    let named = [check.port, Some(server.port()), Some(id.port())].into_iter().flatten().find(|port| *port != 0);
    let port = named.filter(|_| !matches!(check.probe, Probe::Icmp(_)));
    SocketAddr::new(check.address.unwrap_or(server.ip()), port.unwrap_or(0))
}

/// A regular expression about a body.
pub(crate) fn body_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build()
}
