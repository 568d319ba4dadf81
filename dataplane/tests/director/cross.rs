//! FULLNAT between IP versions. `family` is the client's, the servers have the other.

use std::collections::HashSet;
use std::net::SocketAddr;

use dataplane::snapshot::ForwardMode::FullNat;
use dataplane::snapshot::{Reuse, Service};
use dataplane::verdict::DropReason;
use dataplane::{PortId, ServerId};
use proptest::prelude::*;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::check::{SeenIp, reassemble};
use crate::support::packet::{Packet, Transport, frame, opening, sctp, split, tcp, udp};
use crate::support::*;

pub fn other(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

/// A service whose servers have the other version, and local addresses of both.
pub fn cross_service(id: u8, family: Family, protocol: Protocol, servers: &[u8]) -> Service {
    let mut balanced = service(id, other(family), protocol, FullNat, servers);
    balanced.key.vaddr = vip(family, id);
    balanced.local_addresses = vec![local(family, 1), local(other(family), 1)];
    balanced
}

pub fn director(family: Family, protocol: Protocol, workers: usize) -> Director {
    Director::new(Setup::workers(workers), vec![cross_service(1, family, protocol, &[1])])
}

fn server_at(family: Family) -> SocketAddr {
    SocketAddr::new(server(other(family), 1), DPORT)
}

fn protocols() -> [Protocol; 3] {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
}

/// An INIT chunk.
const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1];

fn first(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Packet {
    if protocol == Protocol::SCTP { sctp(from, to, &INIT) } else { opening(protocol, from, to) }
}

fn reply(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Packet {
    match protocol {
        Protocol::TCP => tcp(from, to, Flags::SYN | Flags::ACK),
        Protocol::SCTP => sctp(from, to, &[&[2][..], &INIT[1..]].concat()),
        _ => udp(from, to),
    }
}

/// Type of service or traffic class.
fn traffic_class(ip: &SeenIp) -> u8 {
    if ip.src.is_ipv4() { ip.bytes[1] } else { ip.bytes[0] << 4 | ip.bytes[1] >> 4 }
}

fn flow_label(ip: &SeenIp) -> u32 {
    u32::from_be_bytes([0, ip.bytes[1] & 15, ip.bytes[2], ip.bytes[3]])
}

/// Nothing of a header but what the other version has, too.
fn assert_fresh(ip: &SeenIp) {
    assert_eq!((traffic_class(ip), ip.options.as_slice(), ip.sctp_damage), (0x28, &[][..], 0));
    assert!(ip.src.is_ipv4() || flow_label(ip) == 0);
}

#[test]
fn packets_pass_both_ways_at_any_worker() {
    for family in FAMILIES {
        for protocol in protocols() {
            for workers in [1, 2, 4] {
                let balanced = cross_service(1, family, protocol, &[1, 2]);
                let mut director = Director::new(Setup::workers(workers), vec![balanced]);
                let mut locals = HashSet::new();
                for cport in 101..=120 {
                    let (from, to) = (client(family, cport), virt(family, 1));
                    let opening = first(protocol, from, to);
                    let (port, seen) = director.forward(usize::from(cport) % workers, CLIENTS, &opening);
                    let at_server = seen.ip;
                    assert_eq!((port, seen.dst_mac), (SERVERS, mac_of(at_server.dst.ip())));
                    let servers = [1, 2].map(|n| SocketAddr::new(server(other(family), n), DPORT));
                    assert!(servers.contains(&at_server.dst), "{at_server:?}");
                    assert_eq!(at_server.src.ip(), local(other(family), 1));
                    assert_eq!((at_server.ttl, &at_server.payload), (63, &opening.payload));
                    assert_fresh(&at_server);
                    assert!(locals.insert((at_server.src, at_server.dst)), "two connections with one reply tuple");
                    for worker in 0..workers {
                        let answer = reply(protocol, at_server.dst, at_server.src);
                        let (port, seen) = director.forward(worker, SERVERS, &answer);
                        assert_eq!((port, seen.dst_mac), (CLIENTS, mac_of(from.ip())));
                        assert_eq!((seen.ip.src, seen.ip.dst, seen.ip.ttl), (to, from, 63));
                        assert_eq!(seen.ip.payload, answer.payload);
                        assert_fresh(&seen.ip);
                        let (port, seen) = director.forward(worker, CLIENTS, &opening);
                        assert_eq!((port, seen.ip.src, seen.ip.dst), (SERVERS, at_server.src, at_server.dst));
                    }
                }
                let records = director.connections();
                assert_eq!(records.len(), 20, "one line each");
                for record in records {
                    assert_eq!(record.client.0, client(family, 1).ip());
                    assert_eq!(record.virt, (vip(family, 1), VPORT));
                    let listed = (SocketAddr::from(record.local), SocketAddr::from(record.server));
                    assert!(locals.contains(&listed), "{record:?}");
                }
                assert_eq!(director.drops(), []);
                let sum = |counts: [u64; 2]| counts.iter().sum::<u64>();
                let counted = [16, 17].map(|id| director.total(|c| c.server(ServerId(id)).in_packets.get()));
                assert_eq!(sum(counted), 20 * (1 + workers as u64));
                let counted = [16, 17].map(|id| director.total(|c| c.server(ServerId(id)).out_packets.get()));
                assert_eq!(sum(counted), 20 * workers as u64);
                director.finish();
            }
        }
    }
}

#[test]
fn a_datagram_without_checksum_gets_one_in_ipv6() {
    for payload in [vec![], vec![1, 2, 3], vec![7; 1000]] {
        let mut director = director(Family::V4, Protocol::UDP, 2);
        let (from, to) = (client(Family::V4, 600), virt(Family::V4, 1));
        let mut packet = udp(from, to).with_payload(payload.clone());
        packet.transport = Transport::Udp { has_checksum: false };
        let (_, seen) = director.forward(0, CLIENTS, &packet);
        assert_ne!(seen.ip.udp_checksum, 0, "checked by the receiver");
        assert_eq!(seen.ip.payload, payload);
        director.finish();
    }
    // In IPv4 it is as good as any.
    let mut director = director(Family::V6, Protocol::UDP, 2);
    let at_server = open(&mut director, 0, Protocol::UDP, client(Family::V6, 600), virt(Family::V6, 1));
    let mut answer = udp(at_server.dst, at_server.src);
    answer.transport = Transport::Udp { has_checksum: false };
    let (_, seen) = director.forward(0, SERVERS, &answer);
    assert_ne!(seen.ip.udp_checksum, 0);
    director.finish();
}

/// A computed 0 is written as 0xffff: 0 would say that there is no checksum.
#[test]
fn a_datagram_whose_sum_is_zero_says_ffff() {
    for has_checksum in [true, false] {
        let mut director = director(Family::V4, Protocol::UDP, 1);
        let (from, to) = (client(Family::V4, 600), virt(Family::V4, 1));
        let with = |word: u16| {
            let mut packet = udp(from, to).with_payload(word.to_be_bytes().to_vec());
            packet.transport = Transport::Udp { has_checksum };
            packet
        };
        let (_, seen) = director.forward(0, CLIENTS, &with(0));
        // What would make the sum of all else and itself 0xffff.
        let (_, seen) = director.forward(0, CLIENTS, &with(seen.ip.udp_checksum));
        assert_eq!(seen.ip.udp_checksum, 0xffff, "{has_checksum}");
        director.finish();
    }
}

#[test]
fn options_and_extension_headers_stay_behind() {
    let extensions: [&[(u8, Vec<u8>)]; 2] = [
        &[(0, vec![0, 0, 5, 2, 0, 0, 1, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
        // An atomic fragment.
        &[(44, vec![0, 0, 0, 0, 0, 0, 0, 9])],
    ];
    for extensions in extensions {
        let mut director = director(Family::V6, Protocol::UDP, 2);
        let mut packet = udp(client(Family::V6, 7), virt(Family::V6, 1));
        packet.ipv6_extensions = extensions.to_vec();
        let (_, seen) = director.forward(0, CLIENTS, &packet);
        assert_eq!((seen.ip.dst, &seen.ip.payload), (server_at(Family::V6), &packet.payload));
        assert_fresh(&seen.ip);
        director.finish();
    }
    // Router alert; more options than the longer header takes; a source route that has been gone.
    for options in [vec![148, 4, 0, 0], [&[1; 28][..], &[0; 4]].concat(), vec![131, 7, 8, 192, 0, 2, 9, 0]] {
        let mut director = director(Family::V4, Protocol::UDP, 2);
        let mut packet = udp(client(Family::V4, 7), virt(Family::V4, 1));
        packet.ipv4_options = options;
        let (_, seen) = director.forward(0, CLIENTS, &packet);
        assert_eq!((seen.ip.dst, &seen.ip.payload), (server_at(Family::V4), &packet.payload));
        assert_fresh(&seen.ip);
        director.finish();
    }
}

#[test]
fn a_source_route_that_leads_elsewhere_is_refused() {
    for options in [vec![131, 7, 4, 192, 0, 2, 9, 0], vec![1, 137, 7, 4, 192, 0, 2, 9]] {
        let mut director = director(Family::V4, Protocol::UDP, 1);
        open(&mut director, 0, Protocol::UDP, client(Family::V4, 7), virt(Family::V4, 1));
        let mut packet = udp(client(Family::V4, 7), virt(Family::V4, 1));
        packet.ipv4_options = options;
        let sent = director.receive(0, CLIENTS, &packet);
        assert_eq!(sent.len(), 1);
        let seen = sent[0].seen();
        assert_eq!((sent[0].port, &seen.ip.payload[..2]), (CLIENTS, &[3, 5][..]));
        assert_eq!(director.drops(), [(DropReason::Untranslatable, 1)]);
        director.finish();
    }
}

/// A packet of a connection to the server, and one of the server, as they arrive.
fn both_ways(director: &mut Director, family: Family, protocol: Protocol) -> [(PortId, Packet); 2] {
    let (from, to) = (client(family, 600), virt(family, 1));
    let at_server = open(director, 0, protocol, from, to);
    let packet = |src, dst| match protocol {
        Protocol::TCP => tcp(src, dst, Flags::ACK),
        _ => udp(src, dst),
    };
    [(CLIENTS, packet(from, to)), (SERVERS, packet(at_server.dst, at_server.src))]
}

fn sized(packet: Packet, len: usize) -> Packet {
    let headers = packet.clone().with_payload(Vec::new()).ip().len();
    packet.with_payload((0..len - headers).map(|i| (i * 7 + i / 251) as u8).collect())
}

#[test]
fn what_does_not_fit_after_translation_is_refused_with_the_right_length() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for (egress, mtu) in [(SERVERS, 1500u16), (SERVERS, 1400), (CLIENTS, 1500), (CLIENTS, 1420)] {
                let mut director = director(family, protocol, 2);
                let [inbound, answer] = both_ways(&mut director, family, protocol);
                director.rewire(|network| network.mtu[usize::from(egress.0)] = mtu);
                let (ingress, packet) = if egress == SERVERS { inbound } else { answer };
                // To the byte: what becomes as long as the way is wide, and one more.
                let is_v4 = packet.src.is_ipv4();
                let largest = if is_v4 { mtu - 20 } else { mtu + 20 };
                let fits = sized(packet.clone(), largest.into());
                let (port, seen) = director.forward(0, ingress, &fits);
                assert_eq!((port, seen.ip.bytes.len()), (egress, usize::from(mtu)));
                assert!(is_v4 || seen.ip.dont_fragment, "longer than every link carries: path MTU discovery");
                let large = sized(packet, usize::from(largest) + 1);
                let sent = director.receive(1, ingress, &large);
                assert_eq!((sent.len(), sent[0].port), (1, ingress));
                let seen = sent[0].seen().ip;
                assert_eq!(seen.dst.ip(), large.src.ip());
                let (kind, said) = (&seen.payload[..2], &seen.payload[4..8]);
                assert_eq!(kind, if is_v4 { [3, 4] } else { [2, 0] });
                assert_eq!(said, u32::from(largest).to_be_bytes());
                assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
                director.finish();
            }
        }
    }
}

/// Fragments that left out of `port`, none longer than `largest`, put together.
fn joined(sent: &[Sent], port: PortId, largest: usize) -> SeenIp {
    let fragments: Vec<SeenIp> = sent.iter().map(|s| s.seen().ip).collect();
    assert!(sent.iter().all(|s| s.port == port) && fragments.len() > 1, "{} fragments", fragments.len());
    assert!(fragments.iter().all(|f| f.bytes.len() <= largest && !f.dont_fragment), "{fragments:?}");
    reassemble(&fragments)
}

/// RFC 7915 section 4: its sender would not listen to "too big", so fragments are small enough for every link.
#[test]
fn what_may_be_fragmented_in_ipv4_is_in_ipv6() {
    for mtu in [1280, 1500] {
        for len in [1260, 1261, 1480, 1500] {
            let mut director = director(Family::V4, Protocol::UDP, 2);
            director.rewire(|network| network.mtu[1] = mtu);
            let mut packet = sized(udp(client(Family::V4, 9), virt(Family::V4, 1)), len);
            packet.dont_fragment = false;
            let sent = director.receive(0, CLIENTS, &packet);
            let seen = if len == 1260 { sent[0].seen().ip } else { joined(&sent, SERVERS, 1280) };
            assert_eq!((seen.dst, &seen.payload), (server_at(Family::V4), &packet.payload), "{len}");
            assert_eq!(director.drops(), []);
            director.finish();
        }
    }
}

/// RFC 7915 section 5.1: whoever sends no more than every link carries is not told to send less.
#[test]
fn what_every_ipv6_link_carries_is_fragmented_for_narrow_ipv4_links() {
    for mtu in [576, 1000, 1259, 1260] {
        let mut director = director(Family::V6, Protocol::UDP, 2);
        director.rewire(|network| network.mtu[1] = mtu);
        let packet = udp(client(Family::V6, 9), virt(Family::V6, 1));
        for len in [100, 1279, 1280] {
            let packet = sized(packet.clone(), len);
            let sent = director.receive(0, CLIENTS, &packet);
            let seen = match len - 20 > usize::from(mtu) {
                true => joined(&sent, SERVERS, mtu.into()),
                false => sent[0].seen().ip,
            };
            assert_eq!(&seen.payload, &packet.payload, "{len} over {mtu}");
            assert!(!seen.dont_fragment);
        }
        let large = sized(packet, 1281);
        let sent = director.receive(0, CLIENTS, &large);
        assert_eq!(sent[0].seen().ip.payload[4..8], 1280u32.to_be_bytes());
        assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
        director.finish();
    }
}

#[test]
fn large_datagrams_pass_in_fragments() {
    let cuts = |packet: &Packet| if packet.src.is_ipv4() { [0, 1480, 2960] } else { [0, 1448, 2896] };
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            for dont_fragment in [false, true] {
                let mut director = director(family, Protocol::UDP, workers);
                let [(_, inbound), (_, answer)] = both_ways(&mut director, family, Protocol::UDP);
                for (ingress, egress, packet) in [(CLIENTS, SERVERS, inbound), (SERVERS, CLIENTS, answer)] {
                    let is_v4 = packet.src.is_ipv4();
                    let packet = Packet { dont_fragment, ..sized(packet, 4000) };
                    // With the header of the other version and room for the fragment header.
                    let cut = if is_v4 && dont_fragment { [0, 1448, 2896] } else { cuts(&packet) };
                    let mut sent = Vec::new();
                    for (i, ip) in split(&packet.ip(), &cut, 7).into_iter().rev().enumerate() {
                        let frame = frame(&ip, port_mac(ingress), mac_of(packet.src.ip()));
                        director.arrive(i % workers, ingress, &frame);
                        sent.extend(director.run());
                    }
                    // Not to IPv6 if the sender forbids more fragments: those that leave carry the data that came in one.
                    let largest = match (is_v4, dont_fragment) {
                        (true, false) => 1280,
                        (true, true) => 1496,
                        (false, _) => 1468,
                    };
                    let seen = joined(&sent, egress, largest);
                    assert_eq!(&seen.payload, &packet.payload, "{family:?}, {workers} workers");
                    assert!(is_v4 && !dont_fragment || sent.len() == 3, "no more than came");
                }
                assert_eq!(director.drops(), []);
                director.finish();
            }
        }
    }
}

#[test]
fn fragments_that_do_not_fit_and_may_not_be_cut_are_refused() {
    let mut director = director(Family::V4, Protocol::UDP, 1);
    let packet = sized(udp(client(Family::V4, 9), virt(Family::V4, 1)), 4000);
    for ip in split(&packet.ip(), &[0, 1480, 2960], 7) {
        director.arrive(0, CLIENTS, &frame(&ip, port_mac(CLIENTS), mac_of(packet.src.ip())));
    }
    let sent = director.run();
    let seen = sent[0].seen().ip;
    // The fragment header takes 8 bytes more.
    assert_eq!((&seen.payload[..2], &seen.payload[4..8]), (&[3, 4][..], &1472u32.to_be_bytes()[..]));
    assert_eq!((sent.len(), director.drops()), (1, vec![(DropReason::TooBig, 1)]));
    director.finish();
}

fn mss(ip: &SeenIp) -> u16 {
    let options = &ip.bytes[ip.bytes.len() - 8..];
    u16::from_be_bytes([options[2], options[3]])
}

fn with_mss(mut packet: Packet, mss: u16) -> Packet {
    let [high, low] = mss.to_be_bytes();
    if let Transport::Tcp { options, .. } = &mut packet.transport {
        *options = vec![2, 4, high, low, 1, 3, 3, 7];
    }
    packet
}

/// A host with IPv4 announces the room that its link has with IPv4's header; the other end fills it with IPv6's.
#[test]
fn segments_fit_behind_the_longer_header() {
    for (family, [of_client, of_server]) in
        [(Family::V4, [(1460, 1440), (1440, 1440)]), (Family::V6, [(1440, 1440), (1460, 1440)])]
    {
        let mut director = director(family, Protocol::TCP, 2);
        let (from, to) = (client(family, 9), virt(family, 1));
        let (_, seen) = director.forward(0, CLIENTS, &with_mss(tcp(from, to, Flags::SYN), of_client.0));
        assert_eq!(mss(&seen.ip), of_client.1, "{family:?}");
        let answer = with_mss(tcp(seen.ip.dst, seen.ip.src, Flags::SYN | Flags::ACK), of_server.0);
        let (_, seen) = director.forward(0, SERVERS, &answer);
        assert_eq!(mss(&seen.ip), of_server.1, "{family:?}");
        director.finish();
    }
}

#[test]
fn servers_use_the_local_addresses_of_their_version() {
    for family in FAMILIES {
        let mut mixed = cross_service(1, family, Protocol::UDP, &[1]);
        mixed.servers.push(dataplane::snapshot::Server {
            id: ServerId(99),
            addr: server(family, 3),
            ..mixed.servers[0]
        });
        mixed.local_addresses = [1, 2].into_iter().flat_map(|n| FAMILIES.map(|family| local(family, n))).collect();
        mixed.local_ports = (5000, 5003);
        let mut director = Director::new(Setup::workers(1), vec![mixed]);
        let mut seen = HashSet::new();
        for cport in 101..=120 {
            for sent in director.receive(0, CLIENTS, &udp(client(family, cport), virt(family, 1))) {
                let ip = sent.seen().ip;
                assert_eq!(ip.src.is_ipv4(), ip.dst.is_ipv4());
                seen.insert((ip.src, ip.dst));
            }
        }
        assert_eq!(seen.len(), 16, "two servers, each with two addresses of four ports");
        assert_eq!(director.drops(), [(DropReason::LocalPortExhausted, 4)]);
        director.finish();
    }
}

#[test]
fn a_service_without_local_address_of_the_servers_version_opens_nothing() {
    for family in FAMILIES {
        for has_own in [false, true] {
            let mut balanced = cross_service(1, family, Protocol::TCP, &[1]);
            balanced.local_addresses = if has_own { vec![local(family, 1)] } else { Vec::new() };
            let mut director = Director::new(Setup::workers(1), vec![balanced]);
            let syn = tcp(client(family, 1), virt(family, 1), Flags::SYN);
            assert!(director.receive(0, CLIENTS, &syn).is_empty());
            assert_eq!(director.drops(), [(DropReason::NoLocalAddress, 1)]);
            director.finish();
        }
    }
}

/// Connections within the server's version and across share local endpoints, but never towards one server.
#[test]
fn reply_tuples_are_used_once_across_versions() {
    for family in FAMILIES {
        let mut across = cross_service(1, family, Protocol::UDP, &[1]);
        let mut within = service(2, other(family), Protocol::UDP, FullNat, &[1]);
        (across.local_ports, within.local_ports) = ((6000, 6007), (6000, 6007));
        let mut director = Director::new(Setup::workers(1), vec![across, within]);
        for cport in 0..20 {
            director.receive(0, CLIENTS, &udp(client(family, 7000 + cport), virt(family, 1)));
            director.receive(0, CLIENTS, &udp(client(other(family), 7000 + cport), virt(other(family), 2)));
        }
        let records = director.connections();
        let locals: HashSet<_> = records.iter().map(|record| record.local).collect();
        assert_eq!((records.len(), locals.len()), (8, 8));
        for record in records {
            let (_, seen) = director.forward(0, SERVERS, &udp(record.server.into(), record.local.into()));
            assert_eq!(seen.ip.dst, SocketAddr::from(record.client));
        }
        director.finish();
    }
}

#[test]
fn a_connection_ends_with_all_that_belongs_to_it() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 2);
        let (from, to) = (client(family, 9), virt(family, 1));
        let at_server = open(&mut director, 0, Protocol::UDP, from, to);
        director.configure(|services| services[0].servers.clear());
        director.settings.expire_nodest_conn = true;
        director.publish();
        director.pass_seconds(2);
        assert_eq!(director.connections(), []);
        let sent = director.receive(1, SERVERS, &udp(at_server.dst, at_server.src));
        assert_eq!((sent.len(), director.punted().len()), (0, 1), "a reply of no connection");
        director.finish();
    }
}

#[test]
fn a_syn_over_an_ended_connection_opens_another() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::TCP, 2);
        director.settings.reuse = Reuse::Ended;
        director.publish();
        let (from, to) = (client(family, 9), virt(family, 1));
        let before = open(&mut director, 0, Protocol::TCP, from, to);
        director.forward(0, SERVERS, &tcp(before.dst, before.src, Flags::SYN | Flags::ACK));
        director.forward(1, CLIENTS, &tcp(from, to, Flags::ACK));
        assert_eq!(director.connection().state, proto::state::State::Established);
        assert_eq!(director.load(ServerId(16)), (1, 0));
        director.forward(0, SERVERS, &tcp(before.dst, before.src, Flags::RST));
        let after = open(&mut director, 1, Protocol::TCP, from, to);
        assert_ne!(after.src, before.src);
        assert_eq!(director.connection().local, (after.src.ip(), after.src.port()));
        director.finish();
    }
}

/// Its commands name addresses of one version.
#[test]
fn ftp_commands_pass_as_they_are() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::TCP, 2);
        director.settings.helper_ports.ftp.push(VPORT);
        director.publish();
        let (from, to) = (client(family, 9), virt(family, 1));
        let at_server = open(&mut director, 0, Protocol::TCP, from, to);
        director.forward(0, SERVERS, &tcp(at_server.dst, at_server.src, Flags::SYN | Flags::ACK));
        director.forward(0, CLIENTS, &tcp(from, to, Flags::ACK));
        for command in [&b"PORT 192,0,2,100,8,1\r\n"[..], b"EPRT |2|2001:db8:1::64|2049|\r\n", b"EPSV\r\n"] {
            let (_, seen) = director.forward(1, CLIENTS, &tcp(from, to, Flags::ACK).with_payload(command.to_vec()));
            assert_eq!(seen.ip.payload, command);
        }
        assert_eq!(director.connections().len(), 1);
        director.finish();
    }
}

#[test]
fn packets_wait_for_neighbours_of_the_other_version() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 1);
        let server = server(other(family), 1);
        director.rewire(|network| network.unresolved = vec![server]);
        let mut packet = sized(udp(client(family, 9), virt(family, 1)), 1480);
        packet.dont_fragment = false;
        let is_fragmented = family == Family::V4;
        assert!(director.receive(0, CLIENTS, &packet).is_empty());
        assert_eq!(director.requests(), [(SERVERS, server)]);
        director.rewire(|network| network.unresolved.clear());
        let sent = director.run();
        assert_eq!(sent[0].seen().dst_mac, mac_of(server));
        let whole = if is_fragmented { joined(&sent, SERVERS, 1280) } else { sent[0].seen().ip };
        assert_eq!(whole.payload, packet.payload);
        director.finish();
    }
}

#[test]
fn hops_count_on_both_sides() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut director = director(family, protocol, 1);
            for (ingress, packet) in both_ways(&mut director, family, protocol) {
                let sent = director.receive(0, ingress, &packet.clone().with_ttl(1));
                assert_eq!((sent.len(), sent[0].port), (1, ingress));
                let seen = sent[0].seen().ip;
                assert_eq!(seen.dst.ip(), packet.src.ip());
                assert_eq!(seen.payload[0], if packet.src.is_ipv4() { 11 } else { 3 });
                let (_, seen) = director.forward(0, ingress, &packet.with_ttl(2));
                assert_eq!(seen.ip.ttl, 1);
            }
            assert_eq!(director.drops(), [(DropReason::TtlExceeded, 2)]);
            director.finish();
        }
    }
}

proptest! {
    /// Whatever the data, every checksum is right afterwards: the frames that leave are examined.
    #[test]
    fn any_data_arrive(
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        is_v4 in any::<bool>(),
        is_tcp in any::<bool>(),
        cport in 1u16..,
        has_checksum in any::<bool>(),
    ) {
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
        let mut director = director(family, protocol, 1);
        let (from, to) = (client(family, cport), virt(family, 1));
        let dress = |mut packet: Packet| {
            if let Transport::Udp { has_checksum: has } = &mut packet.transport {
                *has = has_checksum || packet.src.is_ipv6();
            }
            packet.with_payload(payload.clone())
        };
        let (_, seen) = director.forward(0, CLIENTS, &dress(opening(protocol, from, to)));
        prop_assert_eq!(&seen.ip.payload, &payload);
        let (_, seen) = director.forward(0, SERVERS, &dress(opening(protocol, seen.ip.dst, seen.ip.src)));
        prop_assert_eq!((&seen.ip.payload, seen.ip.src, seen.ip.dst), (&payload, to, from));
        director.settle();
    }
}
