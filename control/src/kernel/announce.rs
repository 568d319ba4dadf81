//! Announcements of addresses: neighbours that still know an address under another MAC address, of a director that ran
//! before or elsewhere, learn of the change at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::PortId;
use dataplane::shared::Shared;
use proto::icmpv6::{self, Icmpv6};
use proto::{Protocol, arp, ethernet, ipv6};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Type, code, checksum, flags, target address, target link-layer address option (RFC 4861 sections 4.4 and 4.6.1).
const ADVERTISEMENT_LEN: usize = 32;
const OVERRIDE: u8 = 0x20;

/// Queues an announcement of `address` at `mac` to leave by `port`. Without a free buffer there is none: it is a courtesy.
pub(super) fn announce(shared: &Shared, port: PortId, mac: [u8; 6], address: IpAddr) {
    let frame = match address {
        IpAddr::V4(address) => arp_announcement(mac, address),
        IpAddr::V6(address) => neighbour_advertisement(mac, address),
    };
    if let Some(mut buffer) = shared.inject.take_empty() {
        match buffer.fill(port, &frame) {
            true => shared.inject.send(buffer),
            false => shared.inject.recycle(buffer),
        }
    }
}

/// An ARP announcement (RFC 5227 section 3).
fn arp_announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::MIN_FRAME_LEN];
    ethernet::emit(&mut frame, ethernet::BROADCAST, mac, ethernet::EtherType::ARP);
    let fields =
        arp::Fields { operation: arp::REQUEST, sender_mac: mac, sender: address, target_mac: [0; 6], target: address };
    arp::emit(&mut frame[ethernet::HEADER_LEN..], &fields);
    frame
}

/// An unsolicited neighbour advertisement that overrides what is known (RFC 4861 section 7.2.6).
fn neighbour_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER_LEN + ipv6::HEADER_LEN + ADVERTISEMENT_LEN];
    ethernet::emit(&mut frame, ALL_NODES_MAC, mac, ethernet::EtherType::IPV6);
    let (header, message) = frame[ethernet::HEADER_LEN..].split_at_mut(ipv6::HEADER_LEN);
    let fields = ipv6::Fields {
        traffic_class: 0,
        flow_label: 0,
        payload_len: ADVERTISEMENT_LEN as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: 255,
        src: address,
        dst: ALL_NODES,
    };
    ipv6::emit(header, &fields);
    message[0] = icmpv6::NEIGHBOUR_ADVERTISEMENT;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    // Option 2, target link-layer address, of one unit of 8 bytes.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac);
    if let Ok(mut message) = Icmpv6::new_checked(message) {
        message.fill_checksum(address, ALL_NODES);
    }
    frame
}

#[cfg(test)]
mod tests {
    use proto::parse::{Parsed, parse};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn arp_announces_sender_and_target_alike() {
        let address = Ipv4Addr::new(192, 0, 2, 100);
        let frame = arp_announcement(MAC, address);
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6]);
        // Ethernet, IPv4, 6, 4, request; sender, target.
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 192, 0, 2, 100]);
        assert_eq!(frame[32..42], [0, 0, 0, 0, 0, 0, 192, 0, 2, 100]);
    }

    #[test]
    fn the_advertisement_is_a_valid_packet() {
        let address: Ipv6Addr = "2001:db8::100".parse().unwrap();
        let frame = neighbour_advertisement(MAC, address);
        let Ok(Parsed::Ipv6(packet)) = parse(&frame) else { panic!("not IPv6: {frame:?}") };
        assert_eq!((packet.tuple.src, packet.tuple.dst, packet.ttl), (address, ALL_NODES, 255));
        let message = Icmpv6::new_checked(&frame[packet.l4.into()..]).unwrap();
        assert!(message.checksum_ok(address, ALL_NODES));
        assert_eq!((message.message_type(), message.code()), (136, 0));
    }
}
