//! Looks at a frame that left the director, with code that shares nothing with `proto`, and panics if anything is wrong
//! with it: lengths, padding, checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane::fib::Mac;

/// A frame that is right in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub dst_mac: Mac,
    pub src_mac: Mac,
    pub ip: SeenIp,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenIp {
    /// Ports are 0 where there are none.
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub dont_fragment: bool,
    /// Offset in bytes, and whether more follow.
    pub fragment: (usize, bool),
    /// TCP's flags.
    pub flags: u8,
    /// UDP's checksum.
    pub udp_checksum: u16,
    /// By which bits SCTP's checksum is wrong.
    pub sctp_damage: u32,
    /// IPv4 options or IPv6 extension headers.
    pub options: Vec<u8>,
    /// Behind the transport header with its options; the whole of it in ICMP; all data in fragments.
    pub payload: Vec<u8>,
    /// The packet in a tunnel packet.
    pub inner: Option<Box<SeenIp>>,
    /// The packet as it stands on the wire.
    pub bytes: Vec<u8>,
}

impl SeenIp {
    /// The packet in the tunnel, if it is in one.
    pub fn innermost(self) -> SeenIp {
        match self.inner {
            Some(inner) => *inner,
            None => self,
        }
    }
}

const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1])
}

/// RFC 1071, literally: 16-bit words added one by one.
pub fn ones_complement_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
    }
    sum as u16
}

/// RFC 9260 appendix A, bit by bit.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    !parts.concat().iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 })
    })
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Examines a frame.
pub fn check(frame: &[u8]) -> Seen {
    assert!(frame.len() >= 34, "a frame of {} bytes", frame.len());
    let ethertype = word(frame, 12);
    let version = frame[14] >> 4;
    assert!(
        (ethertype, version) == (0x0800, 4) || (ethertype, version) == (0x86dd, 6),
        "EtherType {ethertype:#06x} with IP version {version}"
    );
    let ip_len = match version {
        4 => usize::from(word(frame, 16)),
        _ => 40 + usize::from(word(frame, 18)),
    };
    assert!(14 + ip_len <= frame.len(), "IP length {ip_len} in a frame of {}", frame.len());
    assert!(
        frame.len() <= (14 + ip_len).max(60),
        "{} bytes behind an IP packet of {ip_len}",
        frame.len() - 14 - ip_len
    );
    Seen {
        dst_mac: frame[0..6].try_into().expect("6 bytes"),
        src_mac: frame[6..12].try_into().expect("6 bytes"),
        ip: check_ip(&frame[14..14 + ip_len], true),
    }
}

/// Examines a packet that an ICMP error quotes, from its IP header on: header checksum, and transport checksum if all of
/// it is there.
pub fn check_quoted(bytes: &[u8]) -> SeenIp {
    check_ip(bytes, false)
}

/// Examines a whole IP packet that something else than IP carries.
pub fn check_carried(bytes: &[u8]) -> SeenIp {
    check_ip(bytes, true)
}

fn check_ip(bytes: &[u8], is_whole: bool) -> SeenIp {
    let is_v4 = bytes[0] >> 4 == 4;
    let (mut protocol, header_len, declared, fragment, ttl);
    let (src, dst): (IpAddr, IpAddr);
    let options_from;
    if is_v4 {
        header_len = usize::from(bytes[0] & 15) * 4;
        assert_eq!(ones_complement_sum(&[&bytes[..header_len]]), 0xffff, "IPv4 header checksum");
        declared = usize::from(word(bytes, 2));
        fragment = (usize::from(word(bytes, 6) & 0x1fff) * 8, word(bytes, 6) & 0x2000 != 0);
        ttl = bytes[8];
        protocol = bytes[9];
        src = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[12..16]).expect("4 bytes")).into();
        dst = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[16..20]).expect("4 bytes")).into();
        options_from = 20;
    } else {
        assert_eq!(bytes[0] >> 4, 6, "IP version");
        declared = 40 + usize::from(word(bytes, 4));
        ttl = bytes[7];
        protocol = bytes[6];
        src = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[8..24]).expect("16 bytes")).into();
        dst = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[24..40]).expect("16 bytes")).into();
        let mut end = 40;
        while matches!(protocol, 0 | 43 | 60) {
            protocol = bytes[end];
            end += 8 + 8 * usize::from(bytes[end + 1]);
        }
        fragment = match protocol {
            FRAGMENT if is_whole => {
                assert_eq!(bytes[end + 1], 0, "reserved byte of the fragment header");
                let field = word(bytes, end + 2);
                end += 8;
                (usize::from(field & !7), field & 1 != 0)
            }
            _ => (0, false),
        };
        header_len = end;
        options_from = 40;
    }
    let is_cut = bytes.len() < declared;
    assert!(!is_whole || bytes.len() == declared, "IP length {declared} of {} bytes", bytes.len());
    let data = &bytes[header_len..bytes.len().min(declared)];
    let mut seen = SeenIp {
        src: SocketAddr::new(src, 0),
        dst: SocketAddr::new(dst, 0),
        protocol,
        ttl,
        dont_fragment: is_v4 && bytes[6] & 0x40 != 0,
        fragment,
        flags: 0,
        udp_checksum: 0,
        sctp_damage: 0,
        options: bytes[options_from..header_len].to_vec(),
        payload: data.to_vec(),
        inner: None,
        bytes: bytes.to_vec(),
    };
    if fragment != (0, false) {
        return seen;
    }
    let mut pseudo = [octets(src), octets(dst)].concat();
    pseudo.extend((data.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    match protocol {
        TCP | UDP => {
            seen.src.set_port(word(data, 0));
            seen.dst.set_port(word(data, 2));
            if is_cut {
                return seen;
            }
            let sum = ones_complement_sum(&[&pseudo, data]);
            if protocol == TCP {
                assert_eq!(sum, 0xffff, "TCP checksum");
                seen.flags = data[13];
                seen.payload = data[usize::from(data[12] >> 4) * 4..].to_vec();
            } else {
                assert_eq!(usize::from(word(data, 4)), data.len(), "UDP length");
                seen.udp_checksum = word(data, 6);
                assert!(seen.udp_checksum == 0 || sum == 0xffff, "UDP checksum {:#06x}", seen.udp_checksum);
                seen.payload = data[8..].to_vec();
            }
        }
        SCTP => {
            seen.src.set_port(word(data, 0));
            seen.dst.set_port(word(data, 2));
            if is_cut {
                return seen;
            }
            let checksum = u32::from_le_bytes(data[8..12].try_into().expect("4 bytes"));
            seen.sctp_damage = checksum ^ crc32c(&[&data[..8], &[0; 4], &data[12..]]);
            seen.payload = data[12..].to_vec();
        }
        ICMP if is_whole => assert_eq!(ones_complement_sum(&[data]), 0xffff, "ICMP checksum"),
        ICMPV6 if is_whole => assert_eq!(ones_complement_sum(&[&pseudo, data]), 0xffff, "ICMPv6 checksum"),
        IPIP | IPV6 if is_whole => seen.inner = Some(Box::new(check_ip(data, true))),
        _ => {}
    }
    seen
}

/// Puts the fragments of one packet together again and examines the result.
pub fn reassemble(fragments: &[SeenIp]) -> SeenIp {
    let mut sorted = fragments.to_vec();
    sorted.sort_by_key(|f| f.fragment.0);
    let first = &sorted[0];
    let is_v4 = first.src.is_ipv4();
    let header_len = first.bytes.len() - first.payload.len();
    let mut bytes = first.bytes[..header_len].to_vec();
    for (i, part) in sorted.iter().enumerate() {
        assert_eq!(part.fragment.0, bytes.len() - header_len, "fragments follow each other");
        assert_eq!(part.fragment.1, i + 1 < sorted.len(), "all but the last say that more follow");
        let id_at = if is_v4 { 4..6 } else { 44..48 };
        assert_eq!(part.bytes[id_at.clone()], first.bytes[id_at], "identification");
        assert_eq!((part.src, part.dst, part.protocol, part.ttl), (first.src, first.dst, first.protocol, first.ttl));
        bytes.extend(&part.payload);
    }
    if !is_v4 {
        let headers: Vec<u8> = bytes.drain(40..48).collect();
        bytes[6] = headers[0];
        let payload_len = bytes.len() as u16 - 40;
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        return check_ip(&bytes, true);
    }
    let total_len = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
    bytes[6..8].fill(0);
    bytes[10..12].fill(0);
    let checksum = !ones_complement_sum(&[&bytes[..header_len]]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    check_ip(&bytes, true)
}
