//! Fragments: where each belongs in its packet (RFC 791 section 3.2, RFC 8200 section 4.5), and the headers of the packet.

use crate::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::checksum::Sum;
use crate::parse::{Fragment, IpPacket};
use crate::{Address, Family, Protocol, ipv4, ipv6};

/// Length of IPv6's fragment header (RFC 8200 section 4.5).
pub const HEADER_LEN: usize = 8;

/// A fragment's place in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification: tells the fragments of one packet from those of others between the same addresses.
    pub id: u32,
    /// The packet's protocol in IPv4, where each has identifications of its own; 0 in IPv6.
    pub protocol: Protocol,
    /// Bytes of the packet's data before this fragment's; a multiple of 8.
    pub offset: u32,
    /// Bytes of data in this fragment.
    pub len: u32,
    /// Other fragments follow: this is not the packet's end.
    pub more: bool,
    /// Where the data begins in the frame. In IPv6 the fragment header is right before it.
    pub data: u16,
    /// IPv4's "don't fragment", which need not keep a sender from fragmenting.
    pub dont_fragment: bool,
    /// Explicit congestion notification: the two bits of the IP header.
    pub ecn: u8,
}

/// The place of the fragment that [`parse`](crate::parse::parse) found in `frame`. `None` for a whole packet.
pub fn piece<A: Address>(frame: &[u8], ip: &IpPacket<A>) -> Option<Piece> {
    if ip.fragment == Fragment::None {
        return None;
    }
    let start = usize::from(ip.l3);
    let end = start + usize::from(ip.len);
    let packet = frame.get(start..end)?;
    let (data, piece) = match A::FAMILY {
        Family::V4 => {
            let word = get_u16(packet, ipv4::FRAGMENT);
            let data = usize::from(ip.l4);
            let piece = Piece {
                id: get_u16(packet, ipv4::ID).into(),
                protocol: ip.tuple.protocol,
                offset: u32::from(word & ipv4::OFFSET_MASK) * 8,
                len: 0,
                more: word & ipv4::MORE_FRAGMENTS != 0,
                data: 0,
                dont_fragment: word & ipv4::DONT_FRAGMENT != 0,
                ecn: packet[ipv4::TOS] & 3,
            };
            (data, piece)
        }
        Family::V6 => {
            let at = Headers::before(packet, |kind| kind == ipv6::FRAGMENT)?.end;
            let header = packet.get(at..at + HEADER_LEN)?;
            let word = get_u16(header, 2);
            let piece = Piece {
                id: get_u32(header, 4),
                protocol: Protocol(0),
                offset: u32::from(word & !7),
                len: 0,
                more: word & 1 != 0,
                data: 0,
                dont_fragment: false,
                ecn: packet[1] >> 4 & 3,
            };
            (start + at + HEADER_LEN, piece)
        }
    };
    Some(Piece { data: u16::try_from(data).ok()?, len: u32::try_from(end.checked_sub(data)?).ok()?, ..piece })
}

/// Makes the headers of a packet's first fragment those of the packet, which has `data_len` bytes of data, and returns
/// their new length: IPv6's fragment header, which is the end of `headers`, is left out. `headers` begins with the IP header.
pub fn join_headers<A: Address>(headers: &mut [u8], data_len: usize, dont_fragment: bool, ecn: u8) -> Option<usize> {
    match A::FAMILY {
        Family::V4 => {
            let total_len = u16::try_from(headers.len() + data_len).ok()?;
            set_u16(headers, ipv4::TOTAL_LEN, total_len);
            headers[ipv4::TOS] = headers[ipv4::TOS] & !3 | ecn;
            set_u16(headers, ipv4::FRAGMENT, if dont_fragment { ipv4::DONT_FRAGMENT } else { 0 });
            set_u16(headers, ipv4::CHECKSUM, 0);
            let checksum = Sum::ZERO.add_bytes(headers).finish();
            set_u16(headers, ipv4::CHECKSUM, checksum);
            Some(headers.len())
        }
        Family::V6 => {
            let before = Headers::before(headers, |kind| kind == ipv6::FRAGMENT)?;
            if before.end + HEADER_LEN != headers.len() {
                return None;
            }
            headers[before.next_header] = headers[before.end];
            let payload_len = u16::try_from(before.end - ipv6::HEADER_LEN + data_len).ok()?;
            set_u16(headers, ipv6::PAYLOAD_LEN, payload_len);
            headers[1] = headers[1] & !0x30 | ecn << 4;
            Some(before.end)
        }
    }
}

/// The part of an IPv6 packet that each of its fragments carries (RFC 8200 section 4.5): its length in bytes, and the
/// offset of the byte in it that says what follows.
pub fn unfragmentable(packet: &[u8]) -> Option<(usize, usize)> {
    let routes = Headers::before(packet, |kind| kind == ipv6::ROUTING).is_some();
    // Destination options are for the stops on the way if a routing header follows.
    let is_for_stops = |kind| kind == ipv6::HOP_BY_HOP || (routes && kind == ipv6::DESTINATION_OPTIONS);
    let mut headers = Headers::of(packet)?;
    while is_for_stops(headers.kind) {
        headers = headers.next(packet)?;
    }
    if routes && headers.kind == ipv6::ROUTING {
        headers = headers.next(packet)?;
    }
    Some((headers.end, headers.next_header))
}

/// Writes the fragment header of a packet's data from `offset` on.
pub fn emit(header: &mut [u8], next_header: u8, offset: u16, more: bool, id: u32) {
    header[0] = next_header;
    header[1] = 0;
    // The offset counts units of 8 bytes and stands 3 bits up: it is the number of bytes.
    set_u16(header, 2, offset & !7 | u16::from(more));
    set_u32(header, 4, id);
}

/// The first headers of an IPv6 packet.
struct Headers {
    /// Offset behind the last of them.
    end: usize,
    /// Offset of the byte that says what follows.
    next_header: usize,
    /// What follows.
    kind: u8,
}

impl Headers {
    /// IPv6's own.
    fn of(packet: &[u8]) -> Option<Self> {
        let kind = *packet.get(ipv6::NEXT_HEADER)?;
        Some(Self { end: ipv6::HEADER_LEN, next_header: ipv6::NEXT_HEADER, kind })
    }

    /// One more.
    fn next(self, packet: &[u8]) -> Option<Self> {
        let header = packet.get(self.end..self.end + 2)?;
        let end = self.end + 8 + usize::from(header[1]) * 8;
        (end <= packet.len()).then_some(Self { end, next_header: self.end, kind: header[0] })
    }

    /// Those before the first that `is_wanted`.
    fn before(packet: &[u8], is_wanted: impl Fn(u8) -> bool) -> Option<Self> {
        let mut headers = Self::of(packet)?;
        while !is_wanted(headers.kind) {
            if !matches!(headers.kind, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS) {
                return None;
            }
            headers = headers.next(packet)?;
        }
        Some(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse};

    const L3: usize = 14;
    const UDP: u8 = 17;

    /// A frame with a first IPv6 header, these extension headers of eight bytes each, and `data`.
    fn v6(extensions: &[(u8, [u8; 7])], protocol: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; L3 + 40];
        frame[12..L3 + 1].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[L3 + 1] = 0x20;
        frame[L3 + 7] = 64;
        frame[L3 + 8..L3 + 10].copy_from_slice(&[0x20, 1]);
        frame[L3 + 24..L3 + 26].copy_from_slice(&[0x20, 2]);
        let kinds = extensions.iter().map(|(kind, _)| *kind).chain([protocol]);
        let mut at = L3 + 6;
        for (kind, rest) in kinds.zip(extensions.iter().map(|(_, rest)| Some(rest)).chain([None])) {
            frame[at] = kind;
            if let Some(rest) = rest {
                at = frame.len();
                frame.push(0);
                frame.extend(rest);
            }
        }
        frame.extend(data);
        let len = (frame.len() - L3 - 40) as u16;
        frame[L3 + 4..L3 + 6].copy_from_slice(&len.to_be_bytes());
        frame
    }

    const HOP: (u8, [u8; 7]) = (0, [0, 1, 4, 0, 0, 0, 0]);
    const OPTIONS: (u8, [u8; 7]) = (60, [0, 1, 4, 0, 0, 0, 0]);
    const ROUTING: (u8, [u8; 7]) = (43, [0, 4, 0, 0, 0, 0, 0]);

    fn fragment(offset: u16, more: bool) -> (u8, [u8; 7]) {
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        (44, [0, high, low, 0xde, 0xad, 0xbe, 0xef])
    }

    fn piece_in(frame: &[u8]) -> Option<Piece> {
        match parse(frame).unwrap() {
            Parsed::Ipv4(ip) => piece(frame, &ip),
            Parsed::Ipv6(ip) => piece(frame, &ip),
            Parsed::Other => None,
        }
    }

    #[test]
    fn places_are_read_behind_other_headers() {
        for (extensions, offset, more) in [
            (vec![fragment(0, true)], 0, true),
            (vec![HOP, OPTIONS, ROUTING, fragment(1480, true)], 1480, true),
            (vec![HOP, fragment(65528, false)], 65528, false),
            (vec![fragment(0, true), OPTIONS], 0, true),
        ] {
            let frame = v6(&extensions, UDP, &[7; 16]);
            let found = piece_in(&frame).unwrap();
            assert_eq!((found.id, found.offset, found.more, found.ecn), (0xdead_beef, offset, more, 2));
            let headers = extensions.iter().position(|(kind, _)| *kind == 44).unwrap() + 1;
            assert_eq!(usize::from(found.data), L3 + 40 + 8 * headers);
            assert_eq!(usize::from(found.data) + found.len as usize, frame.len());
        }
        // An atomic fragment is a whole packet (RFC 6946), and so is one without the header.
        assert_eq!(piece_in(&v6(&[fragment(0, false)], UDP, &[0, 1, 0, 2, 0, 8, 0, 0])), None);
        assert_eq!(piece_in(&v6(&[], 59, &[])), None);
    }

    #[test]
    fn headers_of_a_first_fragment_become_those_of_the_packet() {
        let frame = v6(&[HOP, fragment(0, true)], UDP, &[0, 1, 0, 2, 0, 24, 0, 0]);
        let mut headers = frame[L3..L3 + 56].to_vec();
        let len = join_headers::<std::net::Ipv6Addr>(&mut headers, 24, false, 3).unwrap();
        let mut expected = v6(&[HOP], UDP, &[0; 24])[L3..L3 + 48].to_vec();
        expected[1] = 0x30;
        assert_eq!(&headers[..len], expected);
        assert_eq!(join_headers::<std::net::Ipv6Addr>(&mut [0; 40], 24, false, 0), None, "no fragment header");
        assert_eq!(join_headers::<std::net::Ipv6Addr>(&mut frame[L3..L3 + 56].to_vec(), 65530, false, 0), None);
    }

    #[test]
    fn the_headers_that_every_fragment_carries() {
        for (extensions, expected) in [
            (vec![], (40, 6)),
            (vec![HOP], (48, 40)),
            (vec![OPTIONS], (40, 6)),
            (vec![HOP, OPTIONS], (48, 40)),
            (vec![HOP, OPTIONS, ROUTING], (64, 56)),
            (vec![ROUTING, OPTIONS], (48, 40)),
        ] {
            let frame = v6(&extensions, UDP, &[0; 8]);
            assert_eq!(unfragmentable(&frame[L3..]), Some(expected), "{extensions:?}");
        }
        assert_eq!(unfragmentable(&v6(&[(0, [9, 0, 0, 0, 0, 0, 0])], UDP, &[])[L3..]), None, "cut");
    }
}
