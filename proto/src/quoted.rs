//! The packet that an ICMP error quotes, and which packets may be quoted in one.

use std::net::IpAddr;

use crate::bytes::get_u16;
use crate::parse::{Chain, Fragment, IpPacket};
use crate::{Address, Family, Protocol, Tuple, ethernet, icmp, icmpv6, ipv4, ipv6, tcp};

/// A packet inside an ICMP error. Offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Addresses, protocol and ports as its sender wrote them; ports are 0 for anything but TCP, UDP and SCTP.
    pub tuple: Tuple<A>,
    /// Offset of the quoted IP header.
    pub l3: u16,
    /// Offset of the quoted transport header, of which at least 8 bytes are there.
    pub l4: u16,
    /// Length of the quoted IP header with options or extension headers: `l4 - l3`.
    pub header_len: u16,
    /// Offset behind the last quoted byte: what is beyond, such as TCP's checksum, was cut off.
    pub end: u16,
}

/// Looks at the packet of family `A` that an ICMP error in `frame` quotes at `offset`. `frame` must end where the outer
/// IP packet ends.
///
/// A quote is usually cut short, and its checksums need not be right (RFC 792: a router may have changed the header
/// before it noticed the error), so lengths and checksums are not held against it. `None` if it is not of this family,
/// lacks the first 8 bytes behind the IP header, or is a later fragment, which has no ports.
pub fn parse_quoted<A: Address>(frame: &[u8], offset: usize) -> Option<Quoted<A>> {
    let packet = frame.get(offset..)?;
    let (src, dst, protocol, header_len, len) = match A::FAMILY {
        Family::V4 => {
            let header = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let later = get_u16(header, ipv4::FRAGMENT) & ipv4::OFFSET_MASK != 0;
            if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || later {
                return None;
            }
            let len = usize::from(get_u16(header, ipv4::TOTAL_LEN));
            (ipv4::SRC, ipv4::DST, Protocol(header[ipv4::PROTOCOL]), header_len, len)
        }
        Family::V6 => {
            let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let chain = Chain::follow(packet, header[ipv6::NEXT_HEADER]).ok()?;
            if chain.fragment == Fragment::Later {
                return None;
            }
            let len = ipv6::HEADER_LEN + usize::from(get_u16(header, ipv6::PAYLOAD_LEN));
            (ipv6::SRC, ipv6::DST, chain.protocol, chain.end, len)
        }
    };
    let quoted = &packet[..packet.len().min(len)];
    let l4 = quoted.get(header_len..).filter(|l4| l4.len() >= 8)?;
    let (sport, dport) = match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => (get_u16(l4, tcp::SPORT), get_u16(l4, tcp::DPORT)),
        _ => (0, 0),
    };
    let l3 = u16::try_from(offset).ok()?;
    Some(Quoted {
        tuple: Tuple { src: A::read(&quoted[src..]), dst: A::read(&quoted[dst..]), sport, dport, protocol },
        l3,
        l4: l3.checked_add(header_len as u16)?,
        header_len: header_len as u16,
        end: u16::try_from(offset + quoted.len()).ok()?,
    })
}

/// An ICMP error may be sent about the packet `ip` of `frame` (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)): not
/// about ICMP errors and unknown ICMP messages, fragments other than the first, what went to a group, by its IP or MAC
/// address, nor to a sender that is no single host.
pub fn may_answer_with_error<A: Address>(ip: &IpPacket<A>, frame: &[u8]) -> bool {
    let l3 = usize::from(ip.l3);
    let to_group = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.is_multicast() || addr.is_broadcast(),
        IpAddr::V6(addr) => addr.is_multicast(),
    };
    let (src, dst): (IpAddr, IpAddr) = (ip.tuple.src.into(), ip.tuple.dst.into());
    if ip.fragment == Fragment::Later || to_group(dst) || to_group(src) || src.is_unspecified() || src.is_loopback() {
        return false;
    }
    // Only the first byte of the destination MAC address is looked at.
    let mac = l3.checked_sub(ethernet::HEADER_LEN).and_then(|start| frame.get(start));
    if mac.is_some_and(|first| first & 1 != 0) {
        return false;
    }
    let message_type = frame.get(usize::from(ip.l4)..l3 + usize::from(ip.len)).and_then(|message| message.first());
    match (ip.tuple.protocol, message_type) {
        // Queries and replies: echo, router discovery, timestamp, information, address mask.
        (Protocol::ICMP, message_type) => {
            message_type.is_some_and(|&t| matches!(t, icmp::ECHO_REPLY | icmp::ECHO_REQUEST | 9 | 10 | 13..=18))
        }
        (Protocol::ICMPV6, message_type) => {
            message_type.is_some_and(|&t| !icmpv6::is_error(t) && t != icmpv6::REDIRECT)
        }
        _ => true,
    }
}
