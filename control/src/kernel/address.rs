//! Adding and removing addresses of the host.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Requests, errno};

/// Addresses that were added on behalf of the configuration, and the socket to do it.
pub(super) struct Addresses {
    requests: Requests,
    /// Interface index by address.
    added: HashMap<IpAddr, u32>,
}

impl Addresses {
    pub fn new(requests: Requests) -> Self {
        Self { requests, added: HashMap::new() }
    }

    /// Adds `address` as a host address to `interface` unless the host has it; returns whether it was added.
    /// `ErrorKind::NotFound` if there is no such interface.
    pub async fn ensure(&mut self, interface: &str, address: IpAddr) -> io::Result<bool> {
        if self.requests.addresses().await?.iter().any(|a| a.address == address) {
            return Ok(false);
        }
        let links = self.requests.links().await?;
        let (&index, _) = links.iter().find(|(_, link)| link.name == interface).ok_or(io::ErrorKind::NotFound)?;
        let length = if address.is_ipv4() { 32 } else { 128 };
        match add(&mut self.requests, index, address, length, AddressFlags::Noprefixroute).await {
            Ok(()) => {
                self.added.insert(address, index);
                Ok(true)
            }
            // Somebody was faster.
            Err(error) if error.raw_os_error() == Some(errno::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes `address` if [`ensure`](Self::ensure) added it; returns whether it did.
    pub async fn remove(&mut self, address: IpAddr) -> io::Result<bool> {
        let Some(&index) = self.added.get(&address) else { return Ok(false) };
        let length = if address.is_ipv4() { 32 } else { 128 };
        let message = RouteNetlinkMessage::DelAddress(message(index, address, length));
        match self.requests.change(message, 0).await {
            Ok(()) => {}
            // Somebody removed it, or its interface, before us.
            Err(error) if matches!(error.raw_os_error(), Some(errno::EADDRNOTAVAIL | errno::ENODEV)) => {}
            Err(error) => return Err(error),
        }
        self.added.remove(&address);
        Ok(true)
    }

    /// The addresses that were added and not removed.
    pub fn added(&self) -> Vec<IpAddr> {
        self.added.keys().copied().collect()
    }
}

/// Adds an address. IPv6 addresses are usable at once: duplicate address detection would take a second or two, in which
/// the packet path has already begun to use them. Those of a full prefix are most likely virtual ones, and deprecated: by
/// RFC 6724 section 5 rule 8 the kernel would prefer them to the director's own as a source, and a server in mode dr or tun,
/// which has them, too, would take its packets for forged.
pub(super) async fn add(
    requests: &mut Requests,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
    flags: AddressFlags,
) -> io::Result<()> {
    let mut message = message(index, address, prefix_len);
    let flags = if address.is_ipv6() { flags | AddressFlags::Nodad } else { flags };
    message.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
    message.attributes.push(AddressAttribute::Flags(flags));
    if address.is_ipv6() && prefix_len == 128 {
        // No more than 0 seconds preferred, and valid for ever.
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    requests.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await
}

fn message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.header.scope = match address {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    };
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    if let IpAddr::V4(ip) = address
        && prefix_len < 31
    {
        let broadcast = ip | std::net::Ipv4Addr::from(u32::MAX >> prefix_len);
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

/// The link-local address that an interface with this MAC address gets (RFC 4291, appendix A: modified EUI-64).
pub(super) fn link_local(mac: [u8; 6]) -> IpAddr {
    let [a, b, c, d, e, f] = mac;
    let bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    IpAddr::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_carry_the_mac() {
        let expected: IpAddr = "fe80::ff:fe00:11".parse().unwrap();
        assert_eq!(link_local([2, 0, 0, 0, 0, 0x11]), expected);
        let expected: IpAddr = "fe80::3656:78ff:fe9a:bcde".parse().unwrap();
        assert_eq!(link_local([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]), expected);
    }

    #[test]
    fn broadcast_addresses_follow_from_the_prefix() {
        let broadcast = |ip: &str, len| {
            let message = message(1, ip.parse().unwrap(), len);
            message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Broadcast(ip) => Some(ip.to_string()),
                _ => None,
            })
        };
        assert_eq!(broadcast("10.1.2.3", 24).as_deref(), Some("10.1.2.255"));
        assert_eq!(broadcast("10.1.2.3", 9).as_deref(), Some("10.127.255.255"));
        assert_eq!(broadcast("10.1.2.3", 31), None);
        assert_eq!(broadcast("10.1.2.3", 32), None);
        assert_eq!(broadcast("fd00::1", 64), None);
    }
}
