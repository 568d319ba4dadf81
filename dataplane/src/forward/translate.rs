//! From one IP version to the other: the header is replaced, what it carries stays (RFC 7915).
//!
//! What the header does not say is not carried over: IPv4 options and IPv6 extension headers are left out, the flow label is
//! 0 (sections 4.1 and 5.1).

use proto::checksum::{Delta, Sum};
use proto::parse::IpPacket;
use proto::{Address, Family, Protocol, Tuple, ethernet, ipv4, ipv6, sctp, tcp, udp};

use super::nat;
use crate::ip::{Inherited, Ip};
use crate::packet::PacketBuf;
use crate::verdict::DropReason;

/// What IPv4's header has and IPv6's has not.
#[derive(Clone, Copy, Debug)]
pub struct Fragmentation {
    /// Routers must not fragment the packet.
    pub dont_fragment: bool,
    /// The packet's identification.
    pub id: u16,
}

/// Forwards a packet with source and destination of `new`, of the other version: its time to live is decremented, which
/// must not be 0. `ip` is where its headers are; its length is read anew. Checksums are updated incrementally (RFC 1624);
/// a datagram without gets one, as IPv6 asks for (section 4.5).
pub fn translate<A: Ip>(
    packet: &mut impl PacketBuf,
    ip: &IpPacket<A>,
    new: &Tuple<A::Other>,
    fragmentation: Fragmentation,
) -> Result<(), DropReason> {
    const L3: usize = ethernet::HEADER_LEN;
    let l4 = usize::from(ip.l4);
    let header = &packet.data()[L3..];
    let old = (A::read(&header[A::SRC..]), A::read(&header[A::DST..]));
    let ttl = if A::FAMILY == Family::V4 { header[ipv4::TTL] } else { header[ipv6::HOP_LIMIT] };
    let inherited = Inherited {
        traffic_class: A::traffic_class(header),
        ttl: ttl.saturating_sub(1),
        dont_fragment: fragmentation.dont_fragment,
    };
    let payload_len = L3 + packet_len::<A>(header) - l4;
    if A::Other::HEADER_LEN + payload_len > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }

    // Padding must not become part of the packet.
    packet.truncate(l4 + payload_len);
    let l4 = match (L3 + A::Other::HEADER_LEN).checked_sub(l4) {
        Some(more) if !packet.prepend(more) => return Err(DropReason::NoBuffer),
        Some(more) => l4 + more,
        None => {
            let less = l4 - L3 - A::Other::HEADER_LEN;
            packet.trim_front(less);
            l4 - less
        }
    };
    let (headers, segment) = packet.data_mut().split_at_mut(l4);
    headers[ethernet::ETHERTYPE..L3].copy_from_slice(&A::Other::ETHER_TYPE.to_be_bytes());
    let between = (new.src, new.dst);
    let outer = &mut headers[L3..];
    A::Other::write_outer(outer, inherited, new.protocol, payload_len as u16, between, fragmentation.id);
    translate_transport::<A>(segment, old, new);
    Ok(())
}

/// Length of an IP packet in bytes, by its header.
pub fn packet_len<A: Ip>(header: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    match A::FAMILY {
        Family::V4 => word(ipv4::TOTAL_LEN),
        Family::V6 => ipv6::HEADER_LEN + word(ipv6::PAYLOAD_LEN),
    }
}

/// Writes the ports, and the checksum that covers them and the addresses, of which `old` were source and destination.
fn translate_transport<A: Ip>(segment: &mut [u8], old: (A, A), new: &Tuple<A::Other>) {
    match new.protocol {
        Protocol::TCP => {
            let delta = nat::replace_ports(segment, new.sport, new.dport).combine(addresses(old, (new.src, new.dst)));
            delta.apply_at(segment, tcp::CHECKSUM);
        }
        Protocol::UDP => {
            let delta = nat::replace_ports(segment, new.sport, new.dport).combine(addresses(old, (new.src, new.dst)));
            match segment[udp::CHECKSUM..udp::CHECKSUM + 2] {
                [0, 0] if A::FAMILY == Family::V4 => fill_udp_checksum(segment, new),
                _ => delta.apply_udp_at(segment, udp::CHECKSUM),
            }
        }
        // Its checksum covers no addresses.
        Protocol::SCTP => sctp::replace_ports(segment, new.sport, new.dport),
        _ => {}
    }
}

/// The difference that addresses of another version make to the pseudo-header's sum; protocol and length add to it what they
/// did before.
pub(crate) fn addresses<A: Ip>(old: (A, A), new: (A::Other, A::Other)) -> Delta {
    // An IPv4 address is one with 0 before it.
    let (old_src, old_dst, new_src, new_dst) = (old.0.words(), old.1.words(), new.0.words(), new.1.words());
    Delta::ZERO
        .replace_word(old_src.0, new_src.0)
        .replace_word(old_src.1, new_src.1)
        .replace_word(old_dst.0, new_dst.0)
        .replace_word(old_dst.1, new_dst.1)
}

fn fill_udp_checksum<A: Ip>(datagram: &mut [u8], tuple: &Tuple<A>) {
    let len = u16::from_be_bytes([datagram[udp::LEN], datagram[udp::LEN + 1]]);
    // It was compared with the packet's.
    let Some(covered) = datagram.get(..len.into()) else { return };
    let checksum = match Sum::pseudo(tuple.src, tuple.dst, Protocol::UDP, len.into()).add_bytes(covered).finish() {
        0 => 0xffff,
        sum => sum,
    };
    datagram[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
