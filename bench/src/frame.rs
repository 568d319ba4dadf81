//! Frames that come, and what frames that leave must look like.

use anyhow::{Context, Result, ensure};
use dataplane::fib::Mac;
use proto::{Protocol, Tuple, ethernet, ipv4, ipv6, tcp, udp};

use crate::flows::Family;

/// Bytes at the front that differ from packet to packet, rounded up: all headers are in there.
pub const HEADERS: usize = 80;
/// The longest frame, without frame check sequence: an MTU of 1500.
pub const MAX_FRAME: usize = 1514;
/// The director's MAC address.
pub const OWN_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// MAC address that all packets come from.
pub const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
/// Time to live of all packets that come.
pub const TTL: u8 = 64;

/// Protocol and length of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// TCP flags; no effect on UDP.
    pub flags: tcp::Flags,
    /// Bytes from the Ethernet header on, without frame check sequence.
    pub frame_len: usize,
}

/// Where the transport header is.
pub const fn l4_offset<A: Family>() -> usize {
    ethernet::HEADER_LEN + A::HEADER_LEN
}

/// Bytes of all headers.
pub fn header_len<A: Family>(protocol: Protocol) -> usize {
    l4_offset::<A>() + if protocol == Protocol::TCP { tcp::HEADER_LEN } else { udp::HEADER_LEN }
}

impl Shape {
    /// The shape of frames that have `wire_len` bytes on the wire, frame check sequence included, or more when the
    /// headers need more.
    pub fn new<A: Family>(protocol: Protocol, wire_len: usize) -> Self {
        let flags = tcp::Flags(tcp::Flags::ACK.0 | tcp::Flags::PSH.0);
        Self { flags, frame_len: (wire_len - 4).max(header_len::<A>(protocol)) }
    }

    /// A frame to the director of at least [`HEADERS`] bytes, of which `frame_len` count.
    pub fn build<A: Family>(&self, tuple: &Tuple<A>) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..self.frame_len.max(HEADERS)).map(|i| i as u8).collect();
        frame[ethernet::DST..][..6].copy_from_slice(&OWN_MAC);
        frame[ethernet::SRC..][..6].copy_from_slice(&PEER_MAC);
        frame[ethernet::ETHERTYPE..][..2].copy_from_slice(&A::ETHER_TYPE.to_be_bytes());
        let packet = &mut frame[ethernet::HEADER_LEN..self.frame_len];
        let l4_len = (packet.len() - A::HEADER_LEN) as u16;
        match (tuple.src.into(), tuple.dst.into()) {
            (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => ipv4::emit(
                packet,
                &ipv4::Fields {
                    tos: 0,
                    total_len: l4_len + A::HEADER_LEN as u16,
                    id: 0,
                    dont_fragment: true,
                    ttl: TTL,
                    protocol: tuple.protocol,
                    src,
                    dst,
                },
            ),
            (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => ipv6::emit(
                packet,
                &ipv6::Fields {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: l4_len,
                    next_header: tuple.protocol,
                    hop_limit: TTL,
                    src,
                    dst,
                },
            ),
            _ => {}
        }
        let (ip, l4) = packet.split_at_mut(A::HEADER_LEN);
        let Tuple { sport, dport, .. } = *tuple;
        let at = if tuple.protocol == Protocol::TCP {
            tcp::emit(l4, &tcp::Fields { sport, dport, seq: 1, ack: 1, flags: self.flags, window: 65535 });
            tcp::CHECKSUM
        } else {
            udp::emit(l4, sport, dport, l4_len);
            udp::CHECKSUM
        };
        let checksum = !sum_with_pseudo_header::<A>(ip, l4, tuple.protocol);
        l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }
}

/// The one's complement sum, word by word as RFC 1071 section 4.1 has it: the packet path computes it in another way.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b)));
    words.sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// 0xffff over a segment whose checksum is right.
fn sum_with_pseudo_header<A: Family>(ip: &[u8], l4: &[u8], protocol: Protocol) -> u16 {
    let addresses = sum(&ip[A::SRC..A::SRC + 2 * A::LEN]);
    fold(addresses + u32::from(protocol.0) + l4.len() as u32 + sum(l4))
}

/// What a frame that left must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<A> {
    /// Length of the frame that came.
    pub came_len: usize,
    /// Destination MAC address.
    pub next_hop: Mac,
    /// Source and destination of the packet; of the inner one in a tunnel.
    pub tuple: Tuple<A>,
    /// False when the source may be any.
    pub is_source_known: bool,
    /// Source and destination of the tunnel.
    pub tunnel: Option<(A, A)>,
    /// Time to live; `None` when it may be any.
    pub ttl: Option<u8>,
    /// MAC address of the director.
    pub own_mac: Mac,
    /// Bytes at the start of the payload that may be any.
    pub unpainted: usize,
}

impl<A: Family> Expected<A> {
    /// A packet of this tuple without a tunnel, from [`OWN_MAC`] and with a payload as [`Shape::build`] makes it.
    pub fn of(tuple: Tuple<A>, came_len: usize, next_hop: Mac) -> Self {
        Self {
            came_len,
            next_hop,
            tuple,
            is_source_known: true,
            tunnel: None,
            ttl: None,
            own_mac: OWN_MAC,
            unpainted: 0,
        }
    }
}

/// Checks a frame that left, from the Ethernet header to the last byte.
pub fn check<A: Family>(frame: &[u8], expected: &Expected<A>) -> Result<()> {
    let (ethernet, mut packet) = frame.split_at_checked(ethernet::HEADER_LEN).context("no Ethernet header")?;
    ensure!(ethernet[..6] == expected.next_hop, "next hop is {:x?}, not {:x?}", &ethernet[..6], expected.next_hop);
    ensure!(ethernet[6..12] == expected.own_mac, "source is {:x?}", &ethernet[6..12]);
    ensure!(ethernet[12..] == A::ETHER_TYPE.to_be_bytes(), "EtherType is {:x?}", &ethernet[12..]);
    let len = expected.came_len - ethernet::HEADER_LEN;
    if let Some((src, dst)) = expected.tunnel {
        let outer = Tuple { src, dst, sport: 0, dport: 0, protocol: A::IN_IP };
        let inner_len =
            check_ip(packet, &Expected { tuple: outer, is_source_known: true, ..*expected }, len + A::HEADER_LEN)?;
        packet = &packet[packet.len() - inner_len..];
    }
    let l4_len = check_ip(packet, expected, len)?;

    let (ip, l4) = packet.split_at(packet.len() - l4_len);
    let Tuple { sport, dport, protocol, .. } = expected.tuple;
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    ensure!(!expected.is_source_known || port(0) == sport, "source port is {}, not {sport}", port(0));
    ensure!(port(2) == dport, "destination port is {}, not {dport}", port(2));
    ensure!(sum_with_pseudo_header::<A>(ip, l4, protocol) == 0xffff, "the {protocol:?} checksum is wrong");
    let payload = header_len::<A>(protocol) + expected.unpainted;
    let painted = (payload..).zip(l4.get(payload - l4_offset::<A>()..).unwrap_or_default());
    ensure!(painted.clone().all(|(i, &byte)| byte == i as u8), "the payload has changed");
    Ok(())
}

/// Checks an IP header and returns how much follows it.
fn check_ip<A: Family>(packet: &[u8], expected: &Expected<A>, len: usize) -> Result<usize> {
    let Expected { tuple, is_source_known, .. } = expected;
    ensure!(packet.len() == len, "the packet has {} bytes, not {len}", packet.len());
    let (header, rest) = packet.split_at_checked(A::HEADER_LEN).context("no IP header")?;
    let (ttl, protocol, total_len) = match A::HEADER_LEN {
        ipv4::HEADER_LEN => {
            ensure!(fold(sum(header)) == 0xffff, "the IPv4 header checksum is wrong");
            (header[ipv4::TTL], header[ipv4::PROTOCOL], u16::from_be_bytes([header[2], header[3]]))
        }
        _ => {
            let payload_len = u16::from_be_bytes([header[4], header[5]]);
            (header[ipv6::HOP_LIMIT], header[ipv6::NEXT_HEADER], payload_len + A::HEADER_LEN as u16)
        }
    };
    ensure!(expected.ttl.is_none_or(|expected| ttl == expected), "the time to live is {ttl}");
    ensure!(protocol == tuple.protocol.0, "the protocol is {protocol}");
    ensure!(usize::from(total_len) == len, "the header says {total_len} bytes, not {len}");
    let (src, dst) = (A::read(&header[A::SRC..]), A::read(&header[A::DST..]));
    ensure!(!is_source_known || src == tuple.src, "source is {src}, not {}", tuple.src);
    ensure!(dst == tuple.dst, "destination is {dst}, not {}", tuple.dst);
    Ok(rest.len())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use dataplane::snapshot::ForwardMode;
    use proto::checksum::Delta;

    use super::*;
    use crate::flows::{Flows, Way};

    /// A frame as it would leave in direct routing, and what is expected of it.
    fn sample<A: Family>(protocol: Protocol, wire_len: usize) -> (Vec<u8>, Expected<A>) {
        let tuple = Flows::new(ForwardMode::DirectRouting, protocol, 1, 1).arriving::<A>(0, Way::In);
        let shape = Shape::new::<A>(protocol, wire_len);
        let mut frame = shape.build(&tuple);
        frame.truncate(shape.frame_len);
        frame[..6].copy_from_slice(&[2, 1, 0, 0, 0, 9]);
        frame[6..12].copy_from_slice(&OWN_MAC);
        A::decrement_ttl(&mut frame[ethernet::HEADER_LEN..], Delta::ZERO);
        let came_len = frame.len();
        (frame, Expected { ttl: Some(TTL - 1), ..Expected::of(tuple, came_len, [2, 1, 0, 0, 0, 9]) })
    }

    /// Every bit matters, but those that no rule fixes.
    fn every_damage_is_found<A: Family>(protocol: Protocol) {
        for wire_len in [64, 512, 1518] {
            let (frame, expected) = sample::<A>(protocol, wire_len);
            check(&frame, &expected).unwrap();
            for at in 0..frame.len() {
                let mut damaged = frame.clone();
                damaged[at] ^= 0x10;
                let is_free = A::LEN == 16 && (14..18).contains(&at);
                assert_eq!(check(&damaged, &expected).is_ok(), is_free, "{} {protocol:?}, byte {at}", A::NAME);
            }
            assert!(check(&frame[..frame.len() - 1], &expected).is_err());
        }
    }

    #[test]
    fn damage_is_found() {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            every_damage_is_found::<Ipv4Addr>(protocol);
            every_damage_is_found::<Ipv6Addr>(protocol);
        }
    }
}
