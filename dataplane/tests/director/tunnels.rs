//! Tunnels of all kinds, within a family and across: headers, sizes, errors, changes.

use dataplane::snapshot::{Encapsulation, ForwardMode, Service};
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::check::{SeenIp, check_carried, check_quoted, ones_complement_sum, reassemble};
use crate::support::packet::{Packet, icmp, icmp_frame, tcp, udp};
use crate::support::*;

const GUE_PORT: u16 = 6080;
const KINDS: [Encapsulation; 5] = [
    Encapsulation::Ipip,
    Encapsulation::Gue { port: GUE_PORT, checksum: false },
    Encapsulation::Gue { port: GUE_PORT, checksum: true },
    Encapsulation::Gre { checksum: false },
    Encapsulation::Gre { checksum: true },
];

/// A service of one family whose only server is of another, perhaps.
fn tunnelled(family: Family, outer: Family, protocol: Protocol, encapsulation: Encapsulation) -> Service {
    let mut service = service(1, family, protocol, ForwardMode::Tunnel, &[1]);
    service.servers[0].addr = server(outer, 1);
    service.servers[0].encapsulation = encapsulation;
    service
}

/// Families inside and outside, with every kind of tunnel.
fn combinations() -> impl Iterator<Item = (Family, Family, Encapsulation)> {
    let families = FAMILIES.into_iter().flat_map(|inner| FAMILIES.map(|outer| (inner, outer)));
    families.flat_map(|(inner, outer)| KINDS.map(|kind| (inner, outer, kind)))
}

fn overhead(outer: Family, kind: Encapsulation) -> usize {
    let ip = if outer == Family::V4 { 20 } else { 40 };
    ip + match kind {
        Encapsulation::Ipip => 0,
        Encapsulation::Gue { .. } => 12,
        Encapsulation::Gre { checksum: false } => 4,
        Encapsulation::Gre { checksum: true } => 8,
    }
}

/// Checks all of a tunnel packet that is around the packet in it, and returns that, with the UDP source port.
fn unwrap(outer: &SeenIp, inner_family: Family, kind: Encapsulation) -> (SeenIp, u16) {
    let outer_family = Family::of(outer.src.ip());
    assert_eq!((outer.src.ip(), outer.dst.ip()), (own(outer_family, SERVERS), server(outer_family, 1)));
    assert_eq!(outer.options, []);
    let traffic_class = match outer_family {
        Family::V4 => outer.bytes[1],
        Family::V6 => {
            assert_eq!(outer.bytes[..4], [0x62, 0x80, 0, 0], "traffic class, no flow label");
            outer.bytes[0] << 4 | outer.bytes[1] >> 4
        }
    };
    assert_eq!(traffic_class, 0x28);
    let (protocol, ethertype) = if inner_family == Family::V4 { (4, [8, 0]) } else { (41, [0x86, 0xdd]) };
    let (bytes, sport) = match kind {
        Encapsulation::Ipip => {
            assert_eq!(outer.protocol, protocol);
            (&outer.payload[..], 0)
        }
        Encapsulation::Gue { port, checksum } => {
            assert_eq!((outer.protocol, outer.dst.port()), (17, port));
            assert!((32768..61000).contains(&outer.src.port()), "{}", outer.src);
            // A checksum that is there has been examined.
            assert_eq!(outer.udp_checksum != 0, checksum);
            assert_eq!(outer.payload[..4], [0, protocol, 0, 0]);
            (&outer.payload[4..], outer.src.port())
        }
        Encapsulation::Gre { checksum } => {
            assert_eq!(outer.protocol, 47);
            assert_eq!(outer.payload[..2], [if checksum { 0x80 } else { 0 }, 0]);
            assert_eq!(outer.payload[2..4], ethertype);
            if checksum {
                assert_eq!(ones_complement_sum(&[&outer.payload]), 0xffff);
                assert_eq!(outer.payload[6..8], [0, 0]);
            }
            (&outer.payload[if checksum { 8 } else { 4 }..], 0)
        }
    };
    let inner = check_carried(bytes);
    assert_eq!((outer.ttl, Family::of(inner.src.ip())), (inner.ttl, inner_family));
    assert_eq!(outer.dont_fragment, inner.dont_fragment && outer_family == Family::V4);
    (inner, sport)
}

#[test]
fn packets_of_either_family_go_through_tunnels_of_either() {
    for (inner, outer, kind) in combinations() {
        for workers in [1, 2, 4] {
            let service = tunnelled(inner, outer, Protocol::TCP, kind);
            let mut director = Director::new(Setup::workers(workers), vec![service]);
            let (client, virt) = (client(inner, 4000), virt(inner, 1));
            let mut sports = Vec::new();
            let lengths = [(Flags::SYN, 0), (Flags::ACK, 0), (Flags::ACK, 333), (Flags::ACK, 1), (Flags::FIN, 0)];
            for (worker, (flags, len)) in lengths.into_iter().enumerate() {
                let packet = tcp(client, virt, flags).with_payload((0..len).map(|n: u32| n as u8).collect());
                let (port, seen) = director.forward(worker % workers, CLIENTS, &packet);
                assert_eq!((port, seen.dst_mac), (SERVERS, mac_of(server(outer, 1))));
                let (inside, sport) = unwrap(&seen.ip, inner, kind);
                assert_eq!((inside.src, inside.dst, inside.ttl), (client, virt, 63));
                assert_eq!((inside.flags, &inside.payload), (flags.0, &packet.payload));
                sports.push(sport);
            }
            sports.dedup();
            assert_eq!(sports.len(), 1, "a flow has one source port");
            let record = director.connection();
            assert_eq!((record.server, record.local), ((server(outer, 1), VPORT), (client.ip(), client.port())));
            director.finish();
        }
    }
}

#[test]
fn flows_have_source_ports_of_their_own() {
    let kind = Encapsulation::Gue { port: GUE_PORT, checksum: false };
    let mut director = Director::new(Setup::workers(1), vec![tunnelled(Family::V4, Family::V4, Protocol::UDP, kind)]);
    let mut sports: Vec<u16> = (0..100)
        .map(|n| {
            let (_, seen) = director.forward(0, CLIENTS, &udp(client(Family::V4, 4000 + n), virt(Family::V4, 1)));
            unwrap(&seen.ip, Family::V4, kind).1
        })
        .collect();
    sports.sort_unstable();
    sports.dedup();
    assert!(sports.len() > 95, "{}", sports.len());
}

fn datagram(family: Family, len: usize, dont_fragment: bool) -> Packet {
    let headers = if family == Family::V4 { 28 } else { 48 };
    let payload = (0..len - headers).map(|n| n as u8).collect();
    Packet { dont_fragment, ..udp(client(family, 4000), virt(family, 1)).with_payload(payload) }
}

#[test]
fn the_largest_packet_that_fits_is_reported_to_the_client() {
    for (inner, outer, kind) in combinations() {
        let mut director = Director::new(Setup::workers(2), vec![tunnelled(inner, outer, Protocol::UDP, kind)]);
        let largest = 1500 - overhead(outer, kind);
        let (port, seen) = director.forward(0, CLIENTS, &datagram(inner, largest, true));
        assert_eq!((port, seen.ip.bytes.len()), (SERVERS, 1500));
        unwrap(&seen.ip, inner, kind);
        for worker in 0..2 {
            let (port, seen) = director.forward(worker, CLIENTS, &datagram(inner, largest + 1, true));
            assert_eq!((port, seen.ip.dst.ip()), (CLIENTS, client(inner, 0).ip()));
            let message = &seen.ip.payload;
            let expected = if inner == Family::V4 { [3, 4] } else { [2, 0] };
            assert_eq!(message[..2], expected);
            assert_eq!(message[4..8], (largest as u32).to_be_bytes(), "{inner:?} in {outer:?} {kind:?}");
        }
        director.finish();
    }
}

/// IPv4 packets that routers may fragment, and IPv6 packets where the tunnel cannot carry even the least (RFC 4213
/// section 3.2.1): the tunnel packet is fragmented, and the server puts it together.
#[test]
fn a_packet_that_may_be_fragmented_is_so_outside() {
    for (inner, outer, kind) in combinations() {
        let mut director = Director::new(Setup::workers(2), vec![tunnelled(inner, outer, Protocol::UDP, kind)]);
        let (mtu, len) = if inner == Family::V4 { (1500, 1500) } else { (1280, 1280) };
        director.rewire(|network| network.mtu = [mtu; 2]);
        let sent = director.receive(1, CLIENTS, &datagram(inner, len, false));
        assert_eq!(sent.len(), 2, "{inner:?} in {outer:?} {kind:?}: {:?}", director.drops());
        let parts: Vec<SeenIp> = sent.iter().map(|sent| sent.seen().ip).collect();
        let (inside, _) = unwrap(&reassemble(&parts), inner, kind);
        assert_eq!(inside.bytes.len(), len);
        director.finish();
    }
}

/// While `pmtu_disc` is 0 no tunnel of IPv4 packets says "don't fragment", and what does not fit leaves in fragments.
#[test]
fn without_path_mtu_discovery_packets_are_fragmented_outside() {
    for (outer, kind) in combinations().filter(|(inner, ..)| *inner == Family::V4).map(|(_, outer, kind)| (outer, kind))
    {
        let mut director = Director::new(Setup::workers(2), vec![tunnelled(Family::V4, outer, Protocol::UDP, kind)]);
        let carried = |director: &mut Director, len: usize| {
            let sent = director.receive(1, CLIENTS, &datagram(Family::V4, len, true));
            let parts: Vec<SeenIp> = sent.iter().map(|sent| sent.seen().ip).collect();
            let whole = if parts.len() > 1 { reassemble(&parts) } else { parts[0].clone() };
            let dont_fragment = whole.dont_fragment;
            // The rest of the outer header is as ever.
            let (inner, _) = unwrap(&SeenIp { dont_fragment: outer == Family::V4, ..whole }, Family::V4, kind);
            (parts.len(), dont_fragment, inner)
        };
        // It is the setting of the moment that counts, for connections as well that have been forwarded before.
        for (fragment_tunnels, len, parts) in [(false, 100, 1), (true, 100, 1), (true, 1500, 2), (false, 100, 1)] {
            director.settings.fragment_tunnels = fragment_tunnels;
            director.publish();
            for _ in 0..2 {
                let (count, dont_fragment, inner) = carried(&mut director, len);
                assert_eq!((count, inner.bytes.len()), (parts, len), "{outer:?} {kind:?}");
                assert!(inner.dont_fragment);
                assert_eq!(dont_fragment, !fragment_tunnels && outer == Family::V4, "{outer:?} {kind:?}");
            }
        }
        director.finish();
    }
}

/// What a router on the way to the server says about a tunnel packet becomes an error about the client's packet.
#[test]
fn errors_about_tunnel_packets_reach_the_client() {
    for (inner, outer, kind) in combinations() {
        let (client, virt) = (client(inner, 4000), virt(inner, 1));
        let mut director = Director::new(Setup::workers(4), vec![tunnelled(inner, outer, Protocol::TCP, kind)]);
        director.forward(0, CLIENTS, &tcp(client, virt, Flags::SYN));
        let (_, seen) = director.forward(1, CLIENTS, &tcp(client, virt, Flags::ACK).with_payload(vec![7; 500]));
        let router = on_server_link(outer, 99);
        let quoted = &seen.ip.bytes[..seen.ip.bytes.len().min(180)];
        let (too_big, unreachable, exceeded) = match outer {
            Family::V4 => ((3, 4, 1400), (3, 13, 0), (11, 0, 0)),
            Family::V6 => ((2, 0, 1400), (1, 1, 0), (3, 0, 0)),
        };
        for (worker, error) in [too_big, unreachable, exceeded].into_iter().enumerate() {
            let message = icmp(router, own(outer, SERVERS), error, quoted);
            director.arrive(worker, SERVERS, &icmp_frame(&message, port_mac(SERVERS), mac_of(router)));
            let sent = director.run();
            assert_eq!(sent.len(), 1, "{inner:?} in {outer:?} {kind:?} {error:?}: {:?}", director.drops());
            assert_eq!(sent[0].port, CLIENTS);
            let seen = sent[0].seen().ip;
            assert_eq!((seen.src.ip(), seen.dst.ip()), (virt.ip(), client.ip()));
            let mtu = 1400 - overhead(outer, kind) as u32;
            let expected = match (error, inner) {
                (error, Family::V4) if error == too_big => (3, 4, mtu),
                (error, Family::V6) if error == too_big => (2, 0, mtu.max(1280)),
                (error, _) if inner == outer => error,
                (_, Family::V4) => (3, 1, 0),
                (_, Family::V6) => (1, 3, 0),
            };
            let rest = u32::from_be_bytes(seen.payload[4..8].try_into().expect("4 bytes"));
            assert_eq!((seen.payload[0], seen.payload[1], rest), expected, "{inner:?} in {outer:?} {kind:?}");
            let about = check_quoted(&seen.payload[8..]);
            assert_eq!((about.src, about.dst), (client, virt));
        }
        director.finish();
    }
}

/// Errors that do not quote a tunnel packet of ours are none of ours; whatever they quote, nothing panics.
#[test]
fn other_errors_about_tunnels_are_the_kernels() {
    for (inner, outer, kind) in combinations() {
        let mut director = Director::new(Setup::workers(1), vec![tunnelled(inner, outer, Protocol::TCP, kind)]);
        let (client, virt) = (client(inner, 4000), virt(inner, 1));
        let (_, seen) = director.forward(0, CLIENTS, &tcp(client, virt, Flags::SYN));
        let router = on_server_link(outer, 99);
        let whole = seen.ip.bytes;
        let kind = if outer == Family::V4 { (3, 1, 0) } else { (1, 0, 0) };
        let mut report = |quoted: &[u8]| {
            let message = icmp(router, own(outer, SERVERS), kind, quoted);
            director.arrive(0, SERVERS, &icmp_frame(&message, port_mac(SERVERS), mac_of(router)));
            let sent = director.run();
            (sent.len(), director.punted().len())
        };
        let needed = whole.len() - 12;
        for len in 0..whole.len() {
            let expected = if len >= needed { (1, 0) } else { (0, 1) };
            assert_eq!(report(&whole[..len]), expected, "a quote of {len} bytes, {needed} needed");
        }
        // From somebody else's address.
        let mut forged = whole.clone();
        let at = if outer == Family::V4 { 15 } else { 23 };
        forged[at] ^= 0x7e;
        assert_eq!(report(&forged), (0, 1));
    }
}

/// Packets of a connection go the way that its server is configured for, whatever it was when it began.
#[test]
fn connections_follow_an_edit_of_their_server() {
    let [ipip, gue, _, gre, _] = KINDS;
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![tunnelled(family, family, Protocol::UDP, ipip)]);
        let packet = udp(client(family, 4000), virt(family, 1));
        for kind in [ipip, gue, gre, ipip, gue] {
            director.configure(|services| services[0].servers[0].encapsulation = kind);
            for worker in [0, 1, 0] {
                let (_, seen) = director.forward(worker, CLIENTS, &packet);
                unwrap(&seen.ip, family, kind);
            }
        }
        assert_eq!(director.connections().len(), 1);
        director.finish();
    }
}

/// Without an address of the tunnel's family there is no way.
#[test]
fn a_removed_server_or_route_ends_the_tunnel() {
    let mut director =
        Director::new(Setup::workers(1), vec![tunnelled(Family::V4, Family::V6, Protocol::UDP, KINDS[1])]);
    let packet = udp(client(Family::V4, 4000), virt(Family::V4, 1));
    director.forward(0, CLIENTS, &packet);
    director.rewire(|network| network.routes.retain(|route| route.network.is_ipv4()));
    assert_eq!(director.receive(0, CLIENTS, &packet).len(), 0);
    director.rewire(|network| network.routes = Network::default().routes);
    director.forward(0, CLIENTS, &packet);
    director.configure(|services| services[0].servers.clear());
    assert_eq!(director.receive(0, CLIENTS, &packet).len(), 0);
    let counted = director.drops();
    assert_eq!(counted.len(), 2, "{counted:?}");
    director.finish();
}
