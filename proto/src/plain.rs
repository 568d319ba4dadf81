//! A parser for the packets that nearly all are: TCP or UDP in IP without options, extension headers or fragments.
//!
//! It looks at fields of fixed places. What it accepts, [`parse`](crate::parse::parse) accepts with the same result; it
//! may decline anything.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::get_u16;
use crate::checksum::Sum;
use crate::parse::{Fragment, IpPacket};
use crate::{Address, Protocol, Tuple, ethernet, ipv4, ipv6, tcp, udp};

const L3: usize = ethernet::HEADER_LEN;

/// The IPv4 packet in `frame`, if it is plain.
#[inline(always)]
pub fn ipv4(frame: &[u8]) -> Option<IpPacket<Ipv4Addr>> {
    const L4: usize = L3 + ipv4::HEADER_LEN;
    let head = frame.first_chunk::<{ L4 + udp::HEADER_LEN }>()?;
    let ip = &head[L3..L4];
    let is_whole = get_u16(ip, ipv4::FRAGMENT) & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) == 0;
    if head[ethernet::ETHERTYPE..=L3] != [0x08, 0x00, 0x45] || !is_whole || Sum::ZERO.add_bytes(ip).finish() != 0 {
        return None;
    }
    let (src, dst) = (Ipv4Addr::read(&ip[ipv4::SRC..]), Ipv4Addr::read(&ip[ipv4::DST..]));
    // More than the martians, by the first byte alone.
    let is_odd = |net: u8| net == 0 || net == 127;
    if is_odd(ip[ipv4::SRC]) || ip[ipv4::SRC] >= 224 || is_odd(ip[ipv4::DST]) || src == dst {
        return None;
    }
    let len = get_u16(ip, ipv4::TOTAL_LEN);
    let protocol = Protocol(ip[ipv4::PROTOCOL]);
    let transport = Transport::of(frame, head, L4, len.into(), protocol)?;
    Some(transport.packet(src, dst, protocol, L4, len, ip[ipv4::TTL]))
}

/// The IPv6 packet in `frame`, if it is plain.
#[inline(always)]
pub fn ipv6(frame: &[u8]) -> Option<IpPacket<Ipv6Addr>> {
    const L4: usize = L3 + ipv6::HEADER_LEN;
    let head = frame.first_chunk::<{ L4 + udp::HEADER_LEN }>()?;
    let ip = &head[L3..L4];
    if head[ethernet::ETHERTYPE..L3] != [0x86, 0xdd] || ip[0] >> 4 != 6 {
        return None;
    }
    let (src, dst) = (Ipv6Addr::read(&ip[ipv6::SRC..]), Ipv6Addr::read(&ip[ipv6::DST..]));
    // More than the martians: those begin with 0x00 or, as sources, with 0xff.
    if ip[ipv6::SRC] == 0 || ip[ipv6::SRC] == 0xff || ip[ipv6::DST] == 0 || src == dst {
        return None;
    }
    let len = ipv6::HEADER_LEN + usize::from(get_u16(ip, ipv6::PAYLOAD_LEN));
    let protocol = Protocol(ip[ipv6::NEXT_HEADER]);
    let transport = Transport::of(frame, head, L4, len, protocol)?;
    // It fits: the frame is not longer than `Transport::of` allows.
    Some(transport.packet(src, dst, protocol, L4, len as u16, ip[ipv6::HOP_LIMIT]))
}

/// A transport header that is inside its IP packet.
struct Transport {
    sport: u16,
    dport: u16,
    flags: tcp::Flags,
}

impl Transport {
    /// The header at `l4`, if it is TCP's or UDP's and the lengths of frame, IP packet and header agree. `head` is the
    /// beginning of the frame and holds at least eight bytes of the header.
    #[inline(always)]
    fn of(frame: &[u8], head: &[u8], l4: usize, len: usize, protocol: Protocol) -> Option<Self> {
        let (header_len, least, flags) = match protocol {
            Protocol::TCP => {
                let fields = frame.get(l4 + tcp::DATA_OFFSET..=l4 + tcp::FLAGS)?;
                (usize::from(fields[0] >> 4) * 4, tcp::HEADER_LEN, fields[1])
            }
            Protocol::UDP => (usize::from(get_u16(head, l4 + udp::LEN)), udp::HEADER_LEN, 0),
            _ => return None,
        };
        let fits = header_len >= least && l4 - L3 + header_len <= len && L3 + len <= frame.len().min(u16::MAX.into());
        let (sport, dport) = (get_u16(head, l4 + tcp::SPORT), get_u16(head, l4 + tcp::DPORT));
        fits.then_some(Self { sport, dport, flags: tcp::Flags(flags) })
    }

    #[inline(always)]
    fn packet<A: Address>(&self, src: A, dst: A, protocol: Protocol, l4: usize, len: u16, ttl: u8) -> IpPacket<A> {
        IpPacket {
            tuple: Tuple { src, dst, sport: self.sport, dport: self.dport, protocol },
            l3: L3 as u16,
            l4: l4 as u16,
            len,
            ttl,
            flags: self.flags,
            fragment: Fragment::None,
            has_options: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_ipv6;

    #[test]
    fn a_plain_packet_takes_the_short_way_and_one_byte_of_difference_the_long_one() {
        const UDP: u8 = 17;
        let mut v4 = vec![0; 60];
        v4[L3 - 2..L3 + 4].copy_from_slice(&[0x08, 0x00, 0x45, 0, 0, 40]);
        v4[L3 + 8..L3 + 20].copy_from_slice(&[64, UDP, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
        v4[L3 + 24..L3 + 26].copy_from_slice(&[0, 20]);
        let mut v6 = vec![0; 62];
        v6[L3 - 2..L3 + 8].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, UDP, 64]);
        v6[L3 + 8..L3 + 10].copy_from_slice(&[0x20, 0x01]);
        v6[L3 + 24..L3 + 26].copy_from_slice(&[0x20, 0x02]);
        v6[L3 + 44..L3 + 46].copy_from_slice(&[0, 8]);
        let checked = |mut frame: Vec<u8>| {
            let checksum = Sum::ZERO.add_bytes(&frame[L3..L3 + 20]).finish().to_be_bytes();
            frame[L3 + 10..L3 + 12].copy_from_slice(&checksum);
            frame
        };
        assert!(ipv4(&checked(v4.clone())).is_some() && ipv4(&v4).is_none());
        assert_eq!(ipv6(&v6), Some(parse_ipv6(&v6, L3).unwrap()));
        for (at, value) in
            [(0, 0x46), (3, 60), (6, 0x20), (7, 1), (9, 1), (12, 127), (12, 224), (16, 0), (25, 7), (25, 21)]
        {
            let mut frame = v4.clone();
            frame[L3 + at] = value;
            assert_eq!(ipv4(&checked(frame)), None, "IPv4 byte {at}");
        }
        for (at, value) in [(0, 0x50), (5, 9), (6, 0), (6, 58), (8, 0), (8, 0xff), (24, 0), (45, 7), (45, 9)] {
            let mut frame = v6.clone();
            frame[L3 + at] = value;
            assert_eq!(ipv6(&frame), None, "IPv6 byte {at}");
        }
    }
}
