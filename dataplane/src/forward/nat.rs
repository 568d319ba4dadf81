//! Address and port translation for NAT and FULLNAT.

use proto::checksum::Delta;
use proto::{Protocol, Tuple, sctp, tcp, udp};

use crate::ip::{Ip, replace_addresses};

/// Forwards the packet at `l3` of `frame` with source and destination of `new`: its time to live is decremented. `l4` is
/// the offset of its TCP or UDP header. Checksums are updated incrementally (RFC 1624), so that damage done before stays
/// visible to the receiver.
#[inline(always)]
pub fn forward<A: Ip>(frame: &mut [u8], l3: usize, l4: usize, new: &Tuple<A>) {
    let header = &mut frame[l3..];
    let addresses = replace_addresses(header, new.src, new.dst);
    A::decrement_ttl(header, addresses);
    rewrite_transport(frame, l4, new, addresses);
}

/// [`forward`], except that the time to live stays.
#[inline(always)]
pub fn rewrite<A: Ip>(frame: &mut [u8], l3: usize, l4: usize, new: &Tuple<A>) {
    let header = &mut frame[l3..];
    let addresses = replace_addresses(header, new.src, new.dst);
    A::fix_header(header, addresses);
    rewrite_transport(frame, l4, new, addresses);
}

/// [`forward`] for any protocol: `packet` begins with the Ethernet header and ends where the IP packet does. Protocols
/// without ports keep all but their addresses.
pub fn forward_any<A: Ip>(packet: &mut [u8], l3: usize, l4: usize, new: &Tuple<A>) {
    if matches!(new.protocol, Protocol::TCP | Protocol::UDP) {
        return forward(packet, l3, l4, new);
    }
    let header = &mut packet[l3..];
    let addresses = replace_addresses(header, new.src, new.dst);
    A::decrement_ttl(header, addresses);
    if new.protocol == Protocol::SCTP {
        sctp::replace_ports(&mut packet[l4..], new.sport, new.dport);
    }
}

/// Writes the ports, and the checksum that covers them and the addresses.
#[inline(always)]
fn rewrite_transport<A: Ip>(frame: &mut [u8], l4: usize, new: &Tuple<A>, addresses: Delta) {
    let delta = replace_ports(&mut frame[l4..], new.sport, new.dport).combine(addresses);
    match new.protocol {
        Protocol::TCP => delta.apply_at(frame, l4 + tcp::CHECKSUM),
        _ => delta.apply_udp_at(frame, l4 + udp::CHECKSUM),
    }
}

/// Writes source and destination port, which TCP and UDP have at the same place.
#[inline(always)]
pub fn replace_ports(l4: &mut [u8], sport: u16, dport: u16) -> Delta {
    let ports = &mut l4[..4];
    let old = u32::from_ne_bytes([ports[0], ports[1], ports[2], ports[3]]);
    let new = (u32::from(sport) << 16 | u32::from(dport)).to_be();
    ports.copy_from_slice(&new.to_ne_bytes());
    Delta::ZERO.replace_word(old.into(), new.into())
}
