//! Names of hosts and services.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use dns_lookup::{AddrInfoHints, getaddrinfo, getnameinfo};
use dpvs_api::Protocol;

/// Turns names into numbers and back; a trait, so that tests do not depend on the machine's databases.
pub trait Names {
    /// The IPv4 address of a host.
    fn address_of(&self, host: &str) -> Option<Ipv4Addr>;
    /// The port of a service such as `http`.
    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16>;
    /// The name of a host.
    fn host(&self, address: IpAddr) -> Option<String>;
    /// The name of the service at a port.
    fn service(&self, l4_port: u16, protocol: Protocol) -> Option<String>;
}

/// The system's databases: `/etc/hosts`, `/etc/services`, DNS, as configured in `/etc/nsswitch.conf`.
#[derive(Debug, Default)]
pub struct SystemNames {
    /// Listings repeat addresses, and asking DNS is slow.
    hosts: RefCell<HashMap<IpAddr, Option<String>>>,
    sctp_services: OnceCell<HashMap<u16, String>>,
}

/// Names of SCTP's ports in `/etc/services`.
fn sctp_services() -> HashMap<u16, String> {
    let text = std::fs::read_to_string("/etc/services").unwrap_or_default();
    let entries = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        Some((words.next()?.strip_suffix("/sctp")?.parse().ok()?, name.to_owned()))
    });
    entries.collect()
}

impl Names for SystemNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        (host, 0).to_socket_addrs().ok()?.find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        if service.is_empty() || service.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (socktype, protocol) = match protocol {
            Protocol::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            Protocol::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            Protocol::Sctp => (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        };
        let hints = AddrInfoHints { socktype, protocol, address: libc::AF_INET, ..AddrInfoHints::default() };
        let first = getaddrinfo(None, Some(service), Some(hints)).ok()?.next()?.ok()?;
        Some(first.sockaddr.port())
    }

    fn host(&self, address: IpAddr) -> Option<String> {
        let ask = || {
            let flags = libc::NI_NAMEREQD | libc::NI_NUMERICSERV;
            getnameinfo(&SocketAddr::new(address, 0), flags).ok().map(|(host, _)| host)
        };
        self.hosts.borrow_mut().entry(address).or_insert_with(ask).clone()
    }

    fn service(&self, l4_port: u16, protocol: Protocol) -> Option<String> {
        if protocol == Protocol::Sctp {
            // getnameinfo knows TCP and UDP only.
            return self.sctp_services.get_or_init(sctp_services).get(&l4_port).cloned();
        }
        let datagram = if protocol == Protocol::Udp { libc::NI_DGRAM } else { 0 };
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), l4_port);
        let (_, service) = getnameinfo(&address, libc::NI_NUMERICHOST | datagram).ok()?;
        Some(service).filter(|service| service.parse::<u16>().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_no_names() {
        let names = SystemNames::default();
        assert_eq!(names.port_of("80", Protocol::Tcp), None);
        assert_eq!(names.port_of("no-such-service", Protocol::Tcp), None);
        assert_eq!(names.service(0, Protocol::Tcp), None);
        assert_eq!(names.address_of("localhost"), Some(Ipv4Addr::LOCALHOST));
    }
}
