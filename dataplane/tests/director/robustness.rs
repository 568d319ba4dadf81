//! Whatever arrives, no worker panics, and every packet is accounted for.

use std::net::SocketAddr;

use dataplane::snapshot::{ServiceKey, Settings};
use proptest::prelude::*;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::cross::cross_service;
use crate::support::packet::{Transport, frame, icmp, icmp_frame, opening, split, tcp, udp};
use crate::support::*;

/// How a frame is damaged.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        4 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..400).prop_map(Damage::Append),
    ]
}

/// One frame: which of the live connections' packets it is made from, or bytes out of nothing.
#[derive(Clone, Debug)]
enum Input {
    Damaged { packet: prop::sample::Index, damages: Vec<Damage>, fix_checksum: bool, keep_ethernet: bool },
    Garbage { bytes: Vec<u8>, ethertype: u16 },
}

fn input() -> impl Strategy<Value = Input> {
    let damaged = (any::<prop::sample::Index>(), prop::collection::vec(damage(), 0..4), any::<bool>(), any::<bool>())
        .prop_map(|(packet, damages, fix_checksum, keep_ethernet)| Input::Damaged {
            packet,
            damages,
            fix_checksum,
            keep_ethernet,
        });
    let garbage = (prop::collection::vec(any::<u8>(), 0..200), prop::sample::select(vec![0x0800, 0x86dd, 0x0806]))
        .prop_map(|(bytes, ethertype)| Input::Garbage { bytes, ethertype });
    prop_oneof![8 => damaged, 1 => garbage]
}

/// Makes the IPv4 header checksum right again, so that the damage is found by the code behind it.
fn fix_ipv4_checksum(frame: &mut [u8]) {
    let Some(ip) = frame.get_mut(14..) else { return };
    let header_len = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    if ip.first().is_none_or(|b| b >> 4 != 4) || header_len < 20 || ip.len() < header_len {
        return;
    }
    ip[10..12].fill(0);
    let checksum = proto::checksum::Sum::ZERO.add_bytes(&ip[..header_len]).finish();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn build(input: &Input, packets: &[(dataplane::PortId, Vec<u8>)]) -> (dataplane::PortId, Vec<u8>) {
    match input {
        Input::Garbage { bytes, ethertype } => {
            let mut frame = [&port_mac(CLIENTS)[..], &[2; 6][..], &ethertype.to_be_bytes()[..]].concat();
            frame.extend(bytes);
            (CLIENTS, frame)
        }
        Input::Damaged { packet, damages, fix_checksum, keep_ethernet } => {
            let (port, mut frame) = packet.get(packets).clone();
            let from = if *keep_ethernet { 14 } else { 0 };
            for damage in damages {
                let len = frame.len();
                if len <= from {
                    break;
                }
                match damage {
                    Damage::Set(at, value) => frame[from + at.index((len - from).min(80))] = *value,
                    Damage::Flip(at, bit) => frame[from + at.index(len - from)] ^= 1 << bit,
                    Damage::Cut(at) => frame.truncate(from + at.index(len - from)),
                    Damage::Append(bytes) => frame.extend(bytes),
                }
            }
            if *fix_checksum {
                fix_ipv4_checksum(&mut frame);
            }
            (port, frame)
        }
    }
}

/// A director with connections of every kind, and packets of all of them, errors about them included.
fn director(workers: usize) -> (Director, Vec<(dataplane::PortId, Vec<u8>)>) {
    let mut services = Vec::new();
    let mut id = 1;
    for family in FAMILIES {
        for mode in MODES {
            for protocol in PROTOCOLS {
                let balanced = service(id, family, protocol, mode, &[id]);
                services.push(balanced);
                id += 1;
            }
        }
        for protocol in PROTOCOLS {
            services.push(cross_service(id, family, protocol, &[id]));
            id += 1;
        }
    }
    let keys: Vec<(ServiceKey, bool)> = services.iter().map(|s| (s.key, s.servers[0].mode.sees_replies())).collect();
    let setup = Setup { connections: 48, slow_path_frames: 64, ..Setup::workers(workers) };
    let mut director = Director::new(setup, services);
    let mut packets = Vec::new();
    for (i, (key, sees_replies)) in keys.into_iter().enumerate() {
        let family = Family::of(key.vaddr);
        let (from, to) = (client(family, 1000 + i as u16), SocketAddr::new(key.vaddr, key.vport));
        let mut first = opening(key.protocol, from, to).with_payload(vec![1; 30]);
        if let Transport::Tcp { options, .. } = &mut first.transport {
            *options = vec![2, 4, 5, 180, 1, 1, 1, 0];
        }
        if family == Family::V6 {
            first.ipv6_extensions = vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        } else {
            first.ipv4_options = vec![148, 4, 0, 0];
        }
        let (_, seen) = director.forward(i % workers, CLIENTS, &first);
        packets.push((CLIENTS, frame_for(CLIENTS, &first)));
        let outer = seen.ip.clone();
        let at_server = seen.ip.innermost();
        let packet = |src, dst| match key.protocol {
            Protocol::TCP => tcp(src, dst, Flags::ACK),
            _ => udp(src, dst),
        };
        let mut large = packet(from, to).with_payload(vec![2; 1460]);
        large.dont_fragment = i % 2 == 0;
        packets.push((CLIENTS, frame_for(CLIENTS, &large)));
        for ip in split(&large.ip(), &[0, 496, 992], i as u16) {
            packets.push((CLIENTS, frame(&ip, port_mac(CLIENTS), mac_of(from.ip()))));
        }
        if sees_replies {
            let reply = match key.protocol {
                Protocol::TCP => tcp(at_server.dst, at_server.src, Flags::ACK),
                _ => udp(at_server.dst, at_server.src),
            };
            let reply = reply.with_payload(vec![3; 100]);
            packets.push((SERVERS, frame_for(SERVERS, &reply)));
        }
        let too_big = |family| if family == Family::V4 { (3, 4) } else { (2, 0) };
        let (kind, code) = too_big(Family::of(outer.src.ip()));
        let router = on_server_link(Family::of(outer.src.ip()), 99);
        let error = icmp(router, outer.src.ip(), (kind, code, 1400), &outer.bytes);
        packets.push((SERVERS, icmp_frame(&error, port_mac(SERVERS), mac_of(router))));
        let error = icmp(router, outer.src.ip(), (kind, code, 1400), &[outer.bytes, vec![7; 1400]].concat()[..1440]);
        packets.push((SERVERS, icmp_frame(&error, port_mac(SERVERS), mac_of(router))));
        let (kind, code) = too_big(family);
        let router = on_client_link(family, 99);
        let error = icmp(router, to.ip(), (kind, code, 1400), &packet(to, from).with_payload(vec![3; 1300]).ip());
        packets.push((CLIENTS, icmp_frame(&error, port_mac(CLIENTS), mac_of(router))));
        let error = icmp(router, to.ip(), (kind, code, 1400), &packet(to, from).ip());
        packets.push((CLIENTS, icmp_frame(&error, port_mac(CLIENTS), mac_of(router))));
    }
    (director, packets)
}

proptest! {
    #[test]
    fn no_bytes_break_a_worker(
        workers in 1usize..4,
        inputs in prop::collection::vec((input(), any::<prop::sample::Index>()), 1..60),
        mtu in prop::sample::select(vec![576u16, 1280, 1500]),
        unresolved in any::<bool>(),
        draining in any::<bool>(),
    ) {
        let (mut director, packets) = director(workers);
        director.settings = Settings { draining, ..Settings::default() };
        director.publish();
        director.rewire(|network| {
            network.mtu[1] = mtu;
            if unresolved {
                network.unresolved = (1..9).map(|n| server(Family::V4, n)).collect();
            }
        });
        for (i, (input, worker)) in inputs.iter().enumerate() {
            let (port, frame) = build(input, &packets);
            director.arrive(worker.index(workers), port, &frame);
            // Bursts of several packets, and time that passes.
            if i % 5 == 4 {
                director.pass(1);
            }
        }
        director.turn();
        while director.turn() > 0 {}
        for sent in director.take_sent() {
            let mtu = if sent.port == SERVERS { mtu } else { 1500 };
            prop_assert_eq!(&sent.frame[6..12], &port_mac(sent.port)[..], "source of {:02x?}", &sent.frame);
            prop_assert!(sent.frame.len() <= 14 + usize::from(mtu), "{} bytes out of {:?}", sent.frame.len(), sent.port);
        }
        director.settle();
        director.punted();
        director.finish();
    }
}
