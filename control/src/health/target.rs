//! Which checks a server has, and where they go.

use std::fmt;
use std::net::SocketAddr;

use dpvs_api::{Check, Destination, ForwardMode, Probe, Server, ServiceId, ServiceSettings, Tunnel};
use regex::bytes::{Regex, RegexBuilder};

/// Largest memory that a regular expression may take once it is compiled.
const MAX_PATTERN: usize = 1 << 20;

/// A check and where it goes. What is equal is run once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub check: Check,
    /// What sockets are connected to.
    pub target: SocketAddr,
    /// Where their packets really go.
    pub detour: Option<VirtualAddress>,
}

/// A virtual address, at the server whose own one a check has as its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VirtualAddress {
    pub address: SocketAddr,
    /// The server's tunnel; `None`: direct routing.
    pub tunnel: Option<Tunnel>,
}

impl Spec {
    /// What the check of a server of this service comes to.
    pub fn new(id: ServiceId, server: &Server, check: &Check) -> Self {
        let target = target(id, server.address, check);
        let detour = virtual_address(id, server, check, target);
        // Checks that differ only in what they need not name are the same.
        let check = Check { address: None, port: None, destination: Destination::default(), ..check.clone() };
        Self { check, target, detour }
    }

    /// The address that the server is asked at.
    pub fn asked(&self) -> SocketAddr {
        self.detour.map_or(self.target, |detour| detour.address)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.asked();
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
        }?;
        match self.detour {
            None => Ok(()),
            Some(VirtualAddress { tunnel: None, .. }) => write!(f, " at {} (dr)", self.target.ip()),
            Some(VirtualAddress { tunnel: Some(tunnel), .. }) => write!(f, " at {} (tun, {tunnel})", self.target.ip()),
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

/// The address that a check asks a server at in place of its own.
fn virtual_address(id: ServiceId, server: &Server, check: &Check, target: SocketAddr) -> Option<VirtualAddress> {
    let tunnel = match server.mode {
        ForwardMode::Dr => None,
        ForwardMode::Tun => Some(server.tunnel),
        ForwardMode::Nat | ForwardMode::Fullnat => return None,
    };
    let address = id.address()?.ip();
    let is_direct = check.address.is_some()
        || check.destination == Destination::Server
        // Programs make their own connections.
        || matches!(check.probe, Probe::External(_))
        // A socket has one family, and a tunnel may be of the other one.
        || address.is_ipv4() != target.is_ipv4();
    (!is_direct).then(|| VirtualAddress { address: SocketAddr::new(address, target.port()), tunnel })
}

/// A regular expression about a body.
pub(crate) fn body_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(service: &str, server: serde_json::Value, check: serde_json::Value) -> Spec {
        let server: Server = serde_json::from_value(server).unwrap();
        Spec::new(service.parse().unwrap(), &server, &serde_json::from_value(check).unwrap())
    }

    #[test]
    fn checks_go_where_clients_go() {
        let dr = json!({ "address": "10.0.0.1:80", "mode": "dr" });
        let gue = json!({ "address": "10.0.0.1:80", "mode": "tun", "tunnel": { "type": "gue", "port": 6080 } });
        let across = json!({ "address": "[2001:db8::1]:80", "mode": "tun" });
        let wide = json!({ "address": "10.0.0.1:0", "mode": "dr" });
        let nat = json!({ "address": "10.0.0.1:8000", "mode": "nat" });
        let http = json!({ "probe": { "http": { "path": "/a", "host": "www.example" } } });
        let script = json!({ "probe": { "external": { "command": ["/a"] } } });
        let one = "tcp/192.0.2.1:80";
        for (service, server, check, expected) in [
            (one, &dr, json!({ "probe": "tcp" }), "tcp 192.0.2.1:80 at 10.0.0.1 (dr)"),
            (one, &dr, http, "http 192.0.2.1:80/a (www.example) at 10.0.0.1 (dr)"),
            (one, &dr, json!({ "probe": "icmp" }), "icmp 192.0.2.1 at 10.0.0.1 (dr)"),
            (one, &dr, json!({ "probe": "tcp", "port": 81 }), "tcp 192.0.2.1:81 at 10.0.0.1 (dr)"),
            (one, &gue, json!({ "probe": "tcp" }), "tcp 192.0.2.1:80 at 10.0.0.1 (tun, gue:6080)"),
            (
                "udp/192.0.2.1:0",
                &wide,
                json!({ "probe": "dns", "port": 53 }),
                "dns 192.0.2.1:53 SOA . at 10.0.0.1 (dr)",
            ),
            (one, &dr, json!({ "probe": "tcp", "destination": "server" }), "tcp 10.0.0.1:80"),
            (one, &dr, json!({ "probe": "tcp", "address": "10.0.0.9" }), "tcp 10.0.0.9:80"),
            (one, &dr, script, "external /a for 10.0.0.1:80"),
            (one, &nat, json!({ "probe": "tcp" }), "tcp 10.0.0.1:8000"),
            (one, &across, json!({ "probe": "tcp" }), "tcp [2001:db8::1]:80"),
            ("fwmark/7", &dr, json!({ "probe": "tcp" }), "tcp 10.0.0.1:80"),
        ] {
            assert_eq!(spec(service, server.clone(), check).to_string(), expected);
        }
    }

    #[test]
    fn equal_checks_are_those_with_equal_packets() {
        let server = |mode: &str| json!({ "address": "10.0.0.1:80", "mode": mode });
        let tcp = json!({ "probe": "tcp" });
        let of = |service: &str, mode: &str| spec(service, server(mode), tcp.clone());
        assert_eq!(of("tcp/192.0.2.1:80", "dr"), of("udp/192.0.2.1:80", "dr"));
        assert_eq!(of("tcp/192.0.2.1:80", "nat"), of("tcp/192.0.2.2:80", "fullnat"));
        assert_ne!(of("tcp/192.0.2.1:80", "dr"), of("tcp/192.0.2.2:80", "dr"));
        assert_ne!(of("tcp/192.0.2.1:80", "dr"), of("tcp/192.0.2.1:80", "tun"));
        assert_ne!(of("tcp/192.0.2.1:80", "dr"), of("tcp/192.0.2.1:80", "nat"));
        let own = json!({ "probe": "tcp", "destination": "server" });
        assert_eq!(spec("tcp/192.0.2.1:80", server("dr"), own), of("tcp/192.0.2.1:80", "nat"));
    }
}
