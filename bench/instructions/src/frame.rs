//! Frames that come to the director.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::fib::Mac;
use proto::checksum::Sum;
use proto::ethernet::EtherType;
use proto::{Protocol, arp, ethernet, ipv4, ipv6, tcp, udp};

/// MAC address of the director.
pub const OWN_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// MAC address of everybody else.
pub const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
/// Bytes of payload: the shortest frame that Ethernet allows with UDP over IPv4.
const PAYLOAD: usize = 18;

/// A UDP or TCP packet to the director.
pub fn packet(protocol: Protocol, flags: tcp::Flags, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let (header_len, checksum_at) = match protocol {
        Protocol::TCP => (tcp::HEADER_LEN, tcp::CHECKSUM),
        _ => (udp::HEADER_LEN, udp::CHECKSUM),
    };
    let mut l4 = vec![0; header_len + PAYLOAD];
    let l4_len = l4.len() as u16;
    let (sport, dport) = (src.port(), dst.port());
    match protocol {
        Protocol::TCP => tcp::emit(&mut l4, &tcp::Fields { sport, dport, seq: 1, ack: 1, flags, window: 65535 }),
        _ => udp::emit(&mut l4, sport, dport, l4_len),
    }
    let (ethertype, mut ip, pseudo) = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0; ipv4::HEADER_LEN];
            let total_len = ipv4::HEADER_LEN as u16 + l4_len;
            let (tos, id, dont_fragment, ttl) = (0, 0, true, 64);
            ipv4::emit(&mut ip, &ipv4::Fields { tos, total_len, id, dont_fragment, ttl, protocol, src, dst });
            (EtherType::IPV4, ip, Sum::pseudo(src, dst, protocol, l4_len.into()))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = vec![0; ipv6::HEADER_LEN];
            let (traffic_class, flow_label, payload_len, hop_limit) = (0, 0, l4_len, 64);
            let next_header = protocol;
            let fields = ipv6::Fields { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
            ipv6::emit(&mut ip, &fields);
            (EtherType::IPV6, ip, Sum::pseudo(src, dst, protocol, l4_len.into()))
        }
        _ => panic!("{src} and {dst} are of different families"),
    };
    let checksum = pseudo.add_bytes(&l4).finish();
    l4[checksum_at..][..2].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet::emit(&mut frame, OWN_MAC, PEER_MAC, ethertype);
    frame.append(&mut ip);
    frame.append(&mut l4);
    frame
}

/// What the receiver of a packet that left answers. `flags` are those of the reply if it is TCP.
pub fn reply(frame: &[u8], flags: tcp::Flags) -> Vec<u8> {
    let l3 = &frame[ethernet::HEADER_LEN..];
    let address = |at: usize, len: usize| match len {
        4 => IpAddr::from(*l3[at..].first_chunk::<4>().expect("an IPv4 header")),
        _ => IpAddr::from(*l3[at..].first_chunk::<16>().expect("an IPv6 header")),
    };
    let (src, dst, protocol, l4) = match frame[ethernet::ETHERTYPE] {
        0x08 => (address(ipv4::SRC, 4), address(ipv4::DST, 4), l3[ipv4::PROTOCOL], &l3[ipv4::HEADER_LEN..]),
        _ => (address(ipv6::SRC, 16), address(ipv6::DST, 16), l3[ipv6::NEXT_HEADER], &l3[ipv6::HEADER_LEN..]),
    };
    let l4_port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    let (src, dst) = (SocketAddr::new(src, l4_port(0)), SocketAddr::new(dst, l4_port(2)));
    packet(Protocol(protocol), flags, dst, src)
}

/// Somebody asks for the MAC address of `target`.
pub fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::MIN_FRAME_LEN];
    ethernet::emit(&mut frame, ethernet::BROADCAST, PEER_MAC, EtherType::ARP);
    let (operation, sender_mac, sender) = (arp::REQUEST, PEER_MAC, Ipv4Addr::new(192, 0, 2, 2));
    let fields = arp::Fields { operation, sender_mac, sender, target_mac: [0; 6], target };
    arp::emit(&mut frame[ethernet::HEADER_LEN..], &fields);
    frame
}
