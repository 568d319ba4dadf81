//! Which checks a server has, and where they go.

use std::net::SocketAddr;

use dpvs_api::{Check, Server, ServiceId, ServiceSettings};
use regex::bytes::{Regex, RegexBuilder};

/// Largest memory that a regular expression may take once it is compiled.
const MAX_PATTERN: usize = 1 << 20;

/// The checks of a server: its own, or else its service's.
pub(crate) fn checks_of<'a>(settings: &'a ServiceSettings, server: &'a Server) -> &'a [Check] {
    let own = server.health.as_ref().and_then(|health| health.checks.as_deref());
    own.or(settings.health.as_deref().map(|health| health.checks.as_slice())).unwrap_or_default()
}

/// Address and port that a check of a server goes to; the port is 0 if nothing names one.
pub(crate) fn target(id: ServiceId, server: SocketAddr, check: &Check) -> SocketAddr {
    let named = [check.port, Some(server.port()), Some(id.port())].into_iter().flatten().find(|port| *port != 0);
    SocketAddr::new(check.address.unwrap_or(server.ip()), named.unwrap_or(0))
}

/// A regular expression about a body.
pub(crate) fn body_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build()
}
