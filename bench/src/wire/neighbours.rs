//! Address resolution: the generator answers for its router and its servers, and asks for the device under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::fib::Mac;
use proto::ethernet::{self, EtherType, Ethernet};
use proto::icmpv6::{self, Icmpv6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use proto::ipv6::{self, Ipv6};
use proto::{Protocol, arp};

use crate::flows::{Family, Net, mac_of};

/// Length of a neighbour solicitation or advertisement with one option (RFC 4861 sections 4.3, 4.4).
const ND_LEN: usize = 32;
/// Target address in both.
const TARGET: usize = 8;
/// The option: type, length in units of 8 bytes, MAC address.
const OPTION: usize = 24;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Solicited and override.
const ADVERTISEMENT_FLAGS: u8 = 0x60;

/// What a frame of address resolution asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this frame.
    Answer(Vec<u8>),
    /// The address has this MAC address.
    Learned(IpAddr, Mac),
    /// Nothing.
    Ignored,
}

/// True for an address that the generator has: its router, and any server.
fn is_ours(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a == Ipv4Addr::host(Net::Link, 2) || is_in(a, Net::Server),
        IpAddr::V6(a) => a == Ipv6Addr::host(Net::Link, 2) || is_in(a, Net::Server),
    }
}

/// True for an address of the network.
pub fn is_in<A: Family>(addr: A, net: Net) -> bool {
    let bits = |addr: A| {
        let value = match addr.into() {
            IpAddr::V4(addr) => u128::from(u32::from(addr)),
            IpAddr::V6(addr) => u128::from(addr),
        };
        value >> (A::LEN * 8 - usize::from(A::prefix_len(net)))
    };
    bits(addr) == bits(A::host(net, 0))
}

/// What to do about a frame that is none of the measured packets.
pub fn handle(frame: &[u8]) -> Outcome {
    let Ok(ethernet) = Ethernet::new_checked(frame) else { return Outcome::Ignored };
    match ethernet.ethertype() {
        EtherType::ARP => handle_arp(ethernet.payload()),
        EtherType::IPV6 => handle_nd(ethernet.payload()),
        _ => Outcome::Ignored,
    }
}

fn handle_arp(packet: &[u8]) -> Outcome {
    let Ok(arp) = arp::Arp::new_checked(packet) else { return Outcome::Ignored };
    match arp.operation() {
        arp::REQUEST if is_ours(arp.target().into()) => {
            let own = mac_of(arp.target().into());
            Outcome::Answer(arp_frame(
                arp.sender_mac(),
                arp::REPLY,
                (own, arp.target()),
                (arp.sender_mac(), arp.sender()),
            ))
        }
        arp::REPLY => Outcome::Learned(arp.sender().into(), arp.sender_mac()),
        _ => Outcome::Ignored,
    }
}

fn handle_nd(packet: &[u8]) -> Outcome {
    let Ok(ip) = Ipv6::new_checked(packet) else { return Outcome::Ignored };
    let Ok(message) = Icmpv6::new_checked(ip.payload()) else { return Outcome::Ignored };
    let is_nd = ip.next_header() == Protocol::ICMPV6 && ip.hop_limit() == 255 && ip.payload().len() >= 24;
    if !is_nd || !message.checksum_ok(ip.src(), ip.dst()) {
        return Outcome::Ignored;
    }
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&ip.payload()[TARGET..TARGET + 16]).unwrap_or_default());
    let option = |kind: u8| {
        let option = ip.payload().get(OPTION..OPTION + 8).filter(|option| option[..2] == [kind, 1])?;
        <Mac>::try_from(&option[2..]).ok()
    };
    match message.message_type() {
        NEIGHBOUR_SOLICITATION if is_ours(target.into()) => {
            // Without the option somebody checks whether the address is taken (RFC 4862): it is not asked for ours.
            let Some(asker) = option(SOURCE_LINK_LAYER) else { return Outcome::Ignored };
            let own = mac_of(target.into());
            let nd =
                Nd { kind: NEIGHBOUR_ADVERTISEMENT, flags: ADVERTISEMENT_FLAGS, target, option: TARGET_LINK_LAYER };
            Outcome::Answer(nd.frame((own, target), (asker, ip.src())))
        }
        NEIGHBOUR_ADVERTISEMENT => {
            option(TARGET_LINK_LAYER).map_or(Outcome::Ignored, |mac| Outcome::Learned(target.into(), mac))
        }
        _ => Outcome::Ignored,
    }
}

/// A frame that asks for the device under test on behalf of the router.
pub fn question<A: Family>() -> Vec<u8> {
    match (A::host(Net::Link, 1).into(), A::host(Net::Link, 2).into()) {
        (IpAddr::V4(device), IpAddr::V4(router)) => {
            let own = mac_of(router.into());
            arp_frame(ethernet::BROADCAST, arp::REQUEST, (own, router), ([0; 6], device))
        }
        (IpAddr::V6(device), IpAddr::V6(router)) => {
            // The solicited-node multicast address (RFC 4291 section 2.7.1) and its MAC address (RFC 2464 section 7).
            let low = u128::from(device) & 0xff_ffff;
            let group = Ipv6Addr::from(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low);
            let [.., a, b, c, d] = group.octets();
            let nd = Nd { kind: NEIGHBOUR_SOLICITATION, flags: 0, target: device, option: SOURCE_LINK_LAYER };
            nd.frame((mac_of(router.into()), router), ([0x33, 0x33, a, b, c, d], group))
        }
        _ => Vec::new(),
    }
}

fn arp_frame(dst: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = vec![0; ethernet::MIN_FRAME_LEN];
    ethernet::emit(&mut frame, dst, sender.0, EtherType::ARP);
    let fields =
        arp::Fields { operation, sender_mac: sender.0, sender: sender.1, target_mac: target.0, target: target.1 };
    arp::emit(&mut frame[ethernet::HEADER_LEN..], &fields);
    frame
}

/// A solicitation or advertisement.
struct Nd {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: u8,
}

impl Nd {
    /// As a frame; the option has the sender's MAC address.
    fn frame(&self, from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr)) -> Vec<u8> {
        let mut frame = vec![0; ethernet::HEADER_LEN + ipv6::HEADER_LEN + ND_LEN];
        ethernet::emit(&mut frame, to.0, from.0, EtherType::IPV6);
        let header = ipv6::Fields {
            traffic_class: 0,
            flow_label: 0,
            payload_len: ND_LEN as u16,
            next_header: Protocol::ICMPV6,
            hop_limit: 255,
            src: from.1,
            dst: to.1,
        };
        ipv6::emit(&mut frame[ethernet::HEADER_LEN..], &header);
        let message = &mut frame[ethernet::HEADER_LEN + ipv6::HEADER_LEN..];
        message[icmpv6::TYPE] = self.kind;
        message[icmpv6::REST] = self.flags;
        message[TARGET..TARGET + 16].copy_from_slice(&self.target.octets());
        message[OPTION..OPTION + 2].copy_from_slice(&[self.option, 1]);
        message[OPTION + 2..].copy_from_slice(&from.0);
        if let Ok(mut view) = Icmpv6::new_checked(message) {
            view.fill_checksum(from.1, to.1);
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn arp_for_router_and_servers_is_answered_and_nothing_else() {
        let device = Ipv4Addr::host(Net::Link, 1);
        for (target, is_answered) in [
            (Ipv4Addr::host(Net::Link, 2), true),
            (Ipv4Addr::host(Net::Server, 1), true),
            (Ipv4Addr::host(Net::Server, 0xf_ffff), true),
            (Ipv4Addr::host(Net::Link, 3), false),
            (Ipv4Addr::host(Net::Client, 5), false),
            (device, false),
        ] {
            let frame = arp_frame(ethernet::BROADCAST, arp::REQUEST, (ASKER, device), ([0; 6], target));
            let answer = match handle(&frame) {
                Outcome::Answer(answer) => answer,
                other => {
                    assert_eq!((other, is_answered), (Outcome::Ignored, false), "{target}");
                    continue;
                }
            };
            assert!(is_answered, "{target}");
            assert_eq!(answer[..6], ASKER);
            assert_eq!(handle(&answer), Outcome::Learned(target.into(), mac_of(target.into())));
        }
    }

    #[test]
    fn solicitations_are_answered_with_right_checksums() {
        let (device, target) = (Ipv6Addr::host(Net::Link, 1), Ipv6Addr::host(Net::Server, 3));
        let nd = Nd { kind: NEIGHBOUR_SOLICITATION, flags: 0, target, option: SOURCE_LINK_LAYER };
        let frame = nd.frame((ASKER, device), ([0x33, 0x33, 0xff, 0, 0, 3], "ff02::1:ff00:3".parse().unwrap()));
        let Outcome::Answer(answer) = handle(&frame) else { panic!("no answer") };
        assert_eq!(answer[..6], ASKER);
        assert_eq!(handle(&answer), Outcome::Learned(target.into(), mac_of(target.into())));
        for at in ethernet::HEADER_LEN + ipv6::HEADER_LEN..answer.len() {
            let mut damaged = answer.clone();
            damaged[at] ^= 0x10;
            assert_eq!(handle(&damaged), Outcome::Ignored, "byte {at}");
        }
    }

    #[test]
    fn questions_ask_for_the_device() {
        let v4 = question::<Ipv4Addr>();
        let arp = arp::Arp::new_checked(&v4[ethernet::HEADER_LEN..]).unwrap();
        assert_eq!((arp.operation(), arp.target()), (arp::REQUEST, Ipv4Addr::host(Net::Link, 1)));
        let v6 = question::<Ipv6Addr>();
        assert_eq!(v6[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        let ip = Ipv6::new_checked(&v6[ethernet::HEADER_LEN..]).unwrap();
        assert_eq!(ip.dst(), "ff02::1:ff00:1".parse::<Ipv6Addr>().unwrap());
        assert!(Icmpv6::new_checked(ip.payload()).unwrap().checksum_ok(ip.src(), ip.dst()));
    }

    #[test]
    fn short_frames_are_ignored() {
        let whole = question::<Ipv6Addr>();
        for len in 0..whole.len() {
            assert_eq!(handle(&whole[..len]), Outcome::Ignored);
        }
    }
}
