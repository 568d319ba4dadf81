//! One pass over a received frame that yields what the packet path needs of it.
//!
//! No length is trusted: when a packet is returned, its headers lie inside the IP packet and the IP packet inside the
//! frame, so that code downstream may index with the offsets. A frame may be longer than its IP packet (Ethernet pads
//! to 60 bytes); [`IpPacket::len`] counts.
//!
//! The IPv4 header checksum is verified, as a router must (RFC 1812 section 5.2.2). TCP and UDP checksums are *not*:
//! the director updates them incrementally (RFC 1624), so an error that happened before stays visible to the receiver,
//! and one that happens inside the director does too.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::get_u16;
use crate::checksum::Sum;
use crate::{Address, Protocol, Tuple, ethernet, ipv4, ipv6, sctp, tcp, udp};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A valid IPv4 packet.
    Ipv4(IpPacket<Ipv4Addr>),
    /// A valid IPv6 packet.
    Ipv6(IpPacket<Ipv6Addr>),
    /// Anything else: ARP, VLAN, LLDP, ...; for the kernel.
    Other,
}

/// An IP packet inside a frame. Offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket<A> {
    /// Addresses, protocol and ports. Ports are 0 for anything but TCP, UDP and SCTP, and in fragments.
    pub tuple: Tuple<A>,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header, in later fragments of the data. `l3 + len` if there is nothing behind the header.
    pub l4: u16,
    /// Length of the IP packet in bytes, header included: IPv4's total length, IPv6's payload length + 40.
    pub len: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TCP's flags; empty for other protocols and in fragments.
    pub flags: tcp::Flags,
    /// Whether the packet is a fragment, and which.
    pub fragment: Fragment,
    /// IPv4 options or IPv6 extension headers are present.
    pub has_options: bool,
}

impl<A> IpPacket<A> {
    /// A whole packet whose transport header follows IP's fixed header at once.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.fragment == Fragment::None && !self.has_options
    }
}

/// Whether a packet is whole. Fragments are put together before anybody looks at what they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// A whole packet. An IPv6 "atomic" fragment (RFC 6946) is one.
    None,
    /// The fragment that starts with the transport header.
    First,
    /// Any other fragment.
    Later,
}

/// Why a frame is not worth looking at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseError {
    /// The frame, or the packet in it, ends before a header it promises.
    Truncated,
    /// The version field contradicts the EtherType.
    BadIpVersion,
    /// The IPv4 header length is below 20 or beyond the frame.
    BadIpHeaderLength,
    /// The total or payload length is below the header's or beyond the frame.
    BadIpLength,
    /// The IPv4 header checksum is wrong.
    BadIpChecksum,
    /// IPv6 extension headers that are too many, too long, out of order, or that hide the final destination.
    ExtensionHeaders,
    /// The TCP data offset is below 20 bytes or beyond the packet.
    BadTcpHeader,
    /// The UDP length is below 8 or beyond the packet.
    BadUdpLength,
    /// An address that must not be forwarded from or to (RFC 1812 section 5.3.7, RFC 4291).
    Martian,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParseError::Truncated => "frame ends before a header it promises",
            ParseError::BadIpVersion => "IP version contradicts the EtherType",
            ParseError::BadIpHeaderLength => "IPv4 header length is out of bounds",
            ParseError::BadIpLength => "IP length is out of bounds",
            ParseError::BadIpChecksum => "IPv4 header checksum is wrong",
            ParseError::ExtensionHeaders => "IPv6 extension headers are not followed",
            ParseError::BadTcpHeader => "TCP data offset is out of bounds",
            ParseError::BadUdpLength => "UDP length is out of bounds",
            ParseError::Martian => "address must not appear on the wire",
        })
    }
}

impl std::error::Error for ParseError {}

/// IPv6 extension headers that are followed before giving up (RFC 8504 section 5.3 allows a limit of 8).
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes of IPv6 extension headers that are followed.
pub const MAX_EXTENSION_BYTES: usize = 512;

/// Looks at an Ethernet frame.
pub fn parse(frame: &[u8]) -> Result<Parsed, ParseError> {
    if frame.len() < ethernet::HEADER_LEN {
        return Err(ParseError::Truncated);
    }
    match ethernet::EtherType(get_u16(frame, ethernet::ETHERTYPE)) {
        ethernet::EtherType::IPV4 => parse_ipv4(frame, ethernet::HEADER_LEN).map(Parsed::Ipv4),
        ethernet::EtherType::IPV6 => parse_ipv6(frame, ethernet::HEADER_LEN).map(Parsed::Ipv6),
        _ => Ok(Parsed::Other),
    }
}

/// Looks at the IPv4 packet at offset `l3` of `frame`.
#[inline]
pub fn parse_ipv4(frame: &[u8], l3: usize) -> Result<IpPacket<Ipv4Addr>, ParseError> {
    let packet = frame.get(l3..).unwrap_or_default();
    let Some(header) = packet.first_chunk::<{ ipv4::HEADER_LEN }>() else {
        return Err(ParseError::Truncated);
    };
    if header[0] >> 4 != 4 {
        return Err(ParseError::BadIpVersion);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < ipv4::HEADER_LEN || header_len > packet.len() {
        return Err(ParseError::BadIpHeaderLength);
    }
    let len = get_u16(header, ipv4::TOTAL_LEN);
    let Some(packet) = bounded(packet, header_len, len.into(), l3) else {
        return Err(ParseError::BadIpLength);
    };
    let mut sum = Sum::ZERO.add_bytes(header);
    if header_len > ipv4::HEADER_LEN {
        sum = sum.add_bytes(&packet[ipv4::HEADER_LEN..header_len]);
    }
    if sum.finish() != 0 {
        return Err(ParseError::BadIpChecksum);
    }
    let (src, dst) = (Ipv4Addr::read(&header[ipv4::SRC..]), Ipv4Addr::read(&header[ipv4::DST..]));
    if is_martian_ipv4(src, dst) {
        return Err(ParseError::Martian);
    }
    let fragmentation = get_u16(header, ipv4::FRAGMENT);
    let fragment = match (fragmentation & ipv4::OFFSET_MASK, fragmentation & ipv4::MORE_FRAGMENTS) {
        (0, 0) => Fragment::None,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    let protocol = Protocol(header[ipv4::PROTOCOL]);
    let payload = &packet[header_len..];
    Transport::check(payload, protocol, fragment)?;
    let transport = Transport::read(payload, protocol, fragment);
    if transport.has_ports && src == dst {
        return Err(ParseError::Martian);
    }
    Ok(IpPacket {
        tuple: Tuple { src, dst, sport: transport.sport, dport: transport.dport, protocol },
        l3: l3 as u16,
        l4: (l3 + header_len) as u16,
        len,
        ttl: header[ipv4::TTL],
        flags: transport.flags,
        fragment,
        has_options: header_len > ipv4::HEADER_LEN,
    })
}

/// Looks at the IPv6 packet at offset `l3` of `frame`.
#[inline]
pub fn parse_ipv6(frame: &[u8], l3: usize) -> Result<IpPacket<Ipv6Addr>, ParseError> {
    let packet = frame.get(l3..).unwrap_or_default();
    let Some(header) = packet.first_chunk::<{ ipv6::HEADER_LEN }>() else {
        return Err(ParseError::Truncated);
    };
    if header[0] >> 4 != 6 {
        return Err(ParseError::BadIpVersion);
    }
    // A jumbogram (RFC 2675) has payload length 0 and so is found to be without the headers it promises.
    let len = ipv6::HEADER_LEN + usize::from(get_u16(header, ipv6::PAYLOAD_LEN));
    let Some(packet) = bounded(packet, ipv6::HEADER_LEN, len, l3) else {
        return Err(ParseError::BadIpLength);
    };
    let (src, dst) = (Ipv6Addr::read(&header[ipv6::SRC..]), Ipv6Addr::read(&header[ipv6::DST..]));
    if is_martian_ipv6(src, dst) {
        return Err(ParseError::Martian);
    }
    let chain = if is_extension(header[ipv6::NEXT_HEADER]) {
        Chain::follow(packet, header[ipv6::NEXT_HEADER])?
    } else {
        Chain { protocol: Protocol(header[ipv6::NEXT_HEADER]), end: ipv6::HEADER_LEN, fragment: Fragment::None }
    };
    let payload = &packet[chain.end..];
    Transport::check(payload, chain.protocol, chain.fragment)?;
    let transport = Transport::read(payload, chain.protocol, chain.fragment);
    if transport.has_ports && src == dst {
        return Err(ParseError::Martian);
    }
    Ok(IpPacket {
        tuple: Tuple { src, dst, sport: transport.sport, dport: transport.dport, protocol: chain.protocol },
        l3: l3 as u16,
        l4: (l3 + chain.end) as u16,
        len: len as u16,
        ttl: header[ipv6::HOP_LIMIT],
        flags: transport.flags,
        fragment: chain.fragment,
        has_options: chain.end > ipv6::HEADER_LEN,
    })
}

/// `packet` cut to `len` bytes, if it has them, they hold the header, and every offset fits 16 bits.
#[inline(always)]
fn bounded(packet: &[u8], header_len: usize, len: usize, l3: usize) -> Option<&[u8]> {
    if len < header_len || l3 + len > usize::from(u16::MAX) { None } else { packet.get(..len) }
}

/// Addresses that a router must not forward from or to (RFC 1812 sections 4.2.2.11, 4.2.3.1 and 5.3.7), except that
/// the unspecified source is let through towards all hosts or a group: DHCP and IGMP are the kernel's.
#[inline(always)]
fn is_martian_ipv4(src: Ipv4Addr, dst: Ipv4Addr) -> bool {
    src.is_multicast()
        || src.is_broadcast()
        || src.is_loopback()
        || dst.is_loopback()
        || dst.is_unspecified()
        || (src.is_unspecified() && !dst.is_multicast() && !dst.is_broadcast())
}

/// Likewise for IPv6 (RFC 4291 sections 2.5.2, 2.5.3 and 2.7). The unspecified source is that of duplicate address
/// detection and of MLD, both towards groups.
#[inline(always)]
fn is_martian_ipv6(src: Ipv6Addr, dst: Ipv6Addr) -> bool {
    src.is_multicast()
        || src.is_loopback()
        || dst.is_loopback()
        || dst.is_unspecified()
        || (src.is_unspecified() && !dst.is_multicast())
}

/// The headers between IPv6's and the transport's.
pub(crate) struct Chain {
    pub(crate) protocol: Protocol,
    /// Offset behind the last of them, from the start of the IPv6 header.
    pub(crate) end: usize,
    pub(crate) fragment: Fragment,
}

/// Headers that the parser steps over. AH and ESP are not among them: to a load balancer they are transport protocols
/// without ports.
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::DESTINATION_OPTIONS)
}

impl Chain {
    /// Follows the extension headers of `packet`, the first of which is `next_header` (RFC 8200 section 4).
    #[cold] // Few packets have any.
    pub(crate) fn follow(packet: &[u8], mut next_header: u8) -> Result<Chain, ParseError> {
        let mut end = ipv6::HEADER_LEN;
        let mut fragment = None;
        let mut position = 0;
        while is_extension(next_header) {
            if position == MAX_EXTENSION_HEADERS {
                return Err(ParseError::ExtensionHeaders);
            }
            let Some(header) = packet[end..].first_chunk::<8>() else {
                return Err(ParseError::Truncated);
            };
            let mut header_len = 8 + usize::from(header[1]) * 8;
            match next_header {
                // Only right behind the IPv6 header (RFC 8200 section 4.1).
                ipv6::HOP_BY_HOP if position > 0 => return Err(ParseError::ExtensionHeaders),
                // With segments left the destination field is not the final one, which transport checksums cover.
                ipv6::ROUTING if header[3] != 0 => return Err(ParseError::ExtensionHeaders),
                ipv6::FRAGMENT if fragment.is_some() => return Err(ParseError::ExtensionHeaders),
                ipv6::FRAGMENT => {
                    header_len = 8;
                    let field = get_u16(header, 2);
                    fragment = Some(match (field >> 3, field & 1) {
                        (0, 0) => Fragment::None,
                        (0, _) => Fragment::First,
                        _ => Fragment::Later,
                    });
                }
                _ => {}
            }
            next_header = header[0];
            end += header_len;
            if end > packet.len() {
                return Err(ParseError::Truncated);
            }
            if end > ipv6::HEADER_LEN + MAX_EXTENSION_BYTES {
                return Err(ParseError::ExtensionHeaders);
            }
            position += 1;
            if fragment == Some(Fragment::Later) {
                break; // What follows is data from the middle of the packet.
            }
        }
        Ok(Chain { protocol: Protocol(next_header), end, fragment: fragment.unwrap_or(Fragment::None) })
    }
}

/// What a transport header says.
struct Transport {
    sport: u16,
    dport: u16,
    flags: tcp::Flags,
    has_ports: bool,
}

impl Transport {
    /// Checks `payload`, which is what follows the IP header up to the end of the IP packet.
    /// A fragment's is checked when all of the packet is there.
    #[inline(always)]
    fn check(payload: &[u8], protocol: Protocol, fragment: Fragment) -> Result<(), ParseError> {
        if fragment != Fragment::None {
            return Ok(());
        }
        match protocol {
            Protocol::TCP => {
                let header = payload.first_chunk::<{ tcp::HEADER_LEN }>().ok_or(ParseError::Truncated)?;
                let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
                if header_len < tcp::HEADER_LEN || header_len > payload.len() {
                    return Err(ParseError::BadTcpHeader);
                }
            }
            Protocol::UDP => {
                let header = payload.first_chunk::<{ udp::HEADER_LEN }>().ok_or(ParseError::Truncated)?;
                let len = usize::from(get_u16(header, udp::LEN));
                // Shorter than the IP payload is tolerated, as by Linux.
                if len < udp::HEADER_LEN || len > payload.len() {
                    return Err(ParseError::BadUdpLength);
                }
            }
            Protocol::SCTP if payload.len() < sctp::HEADER_LEN => return Err(ParseError::Truncated),
            _ => {}
        }
        Ok(())
    }

    /// Reads from a payload that [`check`](Self::check) accepted. Apart from it, so that no result goes through memory.
    #[inline(always)]
    fn read(payload: &[u8], protocol: Protocol, fragment: Fragment) -> Transport {
        let is_tcp = protocol == Protocol::TCP;
        let has_ports =
            fragment == Fragment::None && matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        if !has_ports {
            return Transport { sport: 0, dport: 0, flags: tcp::Flags(0), has_ports };
        }
        // All have their ports at the same place.
        let flags = tcp::Flags(if is_tcp { payload[tcp::FLAGS] } else { 0 });
        Transport { sport: get_u16(payload, tcp::SPORT), dport: get_u16(payload, tcp::DPORT), flags, has_ports }
    }
}
