//! ICMP: errors of the director's own, errors that belong to connections, fragments.

use std::net::{IpAddr, SocketAddr};

use dataplane::PortId;
use dataplane::snapshot::ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
use dataplane::verdict::DropReason;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::check::{SeenIp, check_quoted, reassemble};
use crate::support::packet::{Packet, icmp, icmp_frame, opening, tcp, udp};
use crate::support::*;

/// An error's type and code, in IPv4 and in IPv6.
type Kind = [(u8, u8); 2];

const TIME_EXCEEDED: Kind = [(11, 0), (3, 0)];
const PORT_UNREACHABLE: Kind = [(3, 3), (1, 4)];
const TOO_BIG: Kind = [(3, 4), (2, 0)];

fn of(kind: Kind, family: Family) -> (u8, u8) {
    kind[usize::from(family == Family::V6)]
}

/// The error in `ip`: type and code, the four bytes behind the checksum, and the quote.
fn message(ip: &SeenIp) -> ((u8, u8), u32, &[u8]) {
    assert!(ip.protocol == 1 || ip.protocol == 58, "ICMP: {ip:?}");
    let rest = u32::from_be_bytes(ip.payload[4..8].try_into().expect("4 bytes"));
    ((ip.payload[0], ip.payload[1]), rest, &ip.payload[8..])
}

/// Checks an error that the director originated about `packet`, which came from its link.
fn assert_error(sent: &[Sent], port: PortId, src: IpAddr, kind: Kind, rest: u32, packet: &Packet) {
    assert_eq!(sent.len(), 1, "one error about {packet:?}");
    let seen = sent[0].seen();
    assert_eq!((sent[0].port, seen.src_mac, seen.dst_mac), (port, port_mac(port), mac_of(packet.src.ip())));
    let family = Family::of(src);
    assert_eq!((seen.ip.src.ip(), seen.ip.dst.ip(), seen.ip.ttl), (src, packet.src.ip(), 64));
    let (found, found_rest, quote) = message(&seen.ip);
    assert_eq!((found, found_rest), (of(kind, family), rest));
    let longest = if family == Family::V4 { 576 - 28 } else { 1280 - 48 };
    let about = packet.ip();
    assert_eq!(quote, &about[..about.len().min(longest)], "the quote is the packet as it came");
}

/// The connection's packet to the server and the server's to the client, as they arrive.
fn both_ways(director: &mut Director, family: Family, protocol: Protocol) -> [(PortId, Packet); 2] {
    let (from, to) = (client(family, 600), virt(family, 1));
    let at_server = open(director, 0, protocol, from, to);
    let packet = |src, dst| match protocol {
        Protocol::TCP => tcp(src, dst, Flags::ACK),
        _ => udp(src, dst),
    };
    [(CLIENTS, packet(from, to)), (SERVERS, packet(at_server.dst, at_server.src))]
}

#[test]
fn time_exceeded() {
    for family in FAMILIES {
        for mode in MODES {
            for protocol in PROTOCOLS {
                for ttl in [0, 1] {
                    let mut director = Director::new(Setup::workers(2), vec![service(1, family, protocol, mode, &[1])]);
                    let first = opening(protocol, client(family, 600), virt(family, 1)).with_ttl(ttl);
                    let sent = director.receive(1, CLIENTS, &first);
                    assert_error(&sent, CLIENTS, vip(family, 1), TIME_EXCEEDED, 0, &first);
                    assert_eq!(director.connections(), [], "a packet that goes nowhere opens nothing");

                    let [(port, inbound), (reply_port, reply)] = both_ways(&mut director, family, protocol);
                    let inbound = inbound.with_ttl(ttl);
                    let sent = director.receive(0, port, &inbound);
                    assert_error(&sent, CLIENTS, vip(family, 1), TIME_EXCEEDED, 0, &inbound);
                    let mut errors = 2;
                    if mode.sees_replies() {
                        let reply = reply.with_ttl(ttl);
                        let sent = director.receive(1, reply_port, &reply);
                        let from = if mode == FullNat { local(family, 1) } else { own(family, SERVERS) };
                        assert_error(&sent, SERVERS, from, TIME_EXCEEDED, 0, &reply);
                        errors += 1;
                    }
                    assert_eq!(director.drops(), [(DropReason::TtlExceeded, errors)]);
                    assert_eq!(director.total(|c| c.icmp_sent.get()), errors);
                    director.settle();
                }
            }
        }
    }
}

#[test]
fn port_unreachable_without_server() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut director = Director::new(Setup::workers(2), vec![service(1, family, protocol, Nat, &[])]);
            let packet = opening(protocol, client(family, 5), virt(family, 1)).with_payload(vec![9; 1300]);
            let sent = director.receive(0, CLIENTS, &packet);
            assert_error(&sent, CLIENTS, vip(family, 1), PORT_UNREACHABLE, 0, &packet);
            assert_eq!(director.drops(), [(DropReason::NoServer, 1)]);
            director.finish();
        }
    }
}

#[test]
fn too_big() {
    for family in FAMILIES {
        for mode in MODES {
            let overhead = match (mode, family) {
                (Tunnel, Family::V4) => 20,
                (Tunnel, Family::V6) => 40,
                _ => 0,
            };
            for (port, mtu) in [(SERVERS, 1400u16), (CLIENTS, 1300)] {
                if port == CLIENTS && !mode.sees_replies() {
                    continue;
                }
                let mut director =
                    Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1])]);
                let [inbound, reply] = both_ways(&mut director, family, Protocol::UDP);
                director.rewire(|network| network.mtu[usize::from(port.0)] = mtu);
                let (ingress, packet) = if port == SERVERS { inbound } else { reply };
                let headers = if family == Family::V4 { 28 } else { 48 };
                let fitting = usize::from(mtu) - headers - overhead;
                // To the byte: the largest that fits, and one more.
                let fits = packet.clone().with_payload(vec![1; fitting]);
                let sent = director.receive(0, ingress, &fits);
                assert_eq!(sent[0].port, port);
                assert_eq!(sent[0].seen().ip.bytes.len(), usize::from(mtu), "{family:?} {mode:?}");
                let large = packet.with_payload(vec![1; fitting + 1]);
                let sent = director.receive(1, ingress, &large);
                let from = match (ingress, mode) {
                    (CLIENTS, _) => vip(family, 1),
                    (_, FullNat) => local(family, 1),
                    _ => own(family, SERVERS),
                };
                // As in IPVS, a client's packet has lost a hop when its size is looked at.
                let quoted = if ingress == CLIENTS { large.with_ttl(63) } else { large };
                assert_error(&sent, ingress, from, TOO_BIG, u32::from(mtu) - overhead as u32, &quoted);
                assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
                director.settle();
            }
        }
    }
}

/// No sender of IPv6 need make packets smaller than 1280 bytes: a tunnel that has less room left is fragmented (RFC 2473
/// section 7.1).
#[test]
fn a_narrow_ipv6_tunnel_is_fragmented() {
    let family = Family::V6;
    for mtu in [1280, 1281, 1300, 1319, 1320] {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, Tunnel, &[1])]);
        director.rewire(|network| network.mtu[1] = mtu);
        let packet = udp(client(family, 9), virt(family, 1));
        for (i, len) in [100, 1239, 1240, 1241, 1279, 1280].into_iter().enumerate() {
            let packet = packet.clone().with_payload((0..len - 48).map(|n| n as u8).collect());
            let sent = director.receive(i % 2, CLIENTS, &packet);
            let fragments: Vec<SeenIp> = sent.iter().map(|s| s.seen().ip).collect();
            assert_eq!(fragments.len(), if len + 40 > usize::from(mtu) { 2 } else { 1 }, "{len} bytes over {mtu}");
            assert!(fragments.iter().all(|f| f.bytes.len() <= usize::from(mtu)));
            let outer = if fragments.len() > 1 { reassemble(&fragments) } else { fragments[0].clone() };
            assert_eq!(outer.dst.ip(), server(family, 1));
            assert_eq!(outer.innermost().bytes, packet.with_ttl(63).ip(), "{len} bytes over {mtu}");
        }
        let large = packet.with_payload(vec![1; 1281 - 48]);
        let sent = director.receive(0, CLIENTS, &large);
        assert_error(&sent, CLIENTS, vip(family, 1), TOO_BIG, 1280, &large.with_ttl(63));
        assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
        director.finish();
    }
}

#[test]
fn fragments_are_made_where_allowed() {
    for mode in MODES {
        for (mtu, len, options) in
            [(1400, 1500, vec![]), (600, 1450, vec![]), (576, 1400, vec![1, 1, 1, 0]), (68, 700, vec![148, 4, 0, 0])]
        {
            let mut director =
                Director::new(Setup::workers(2), vec![service(1, Family::V4, Protocol::UDP, mode, &[1])]);
            let [(ingress, packet), (reply_ingress, reply)] = both_ways(&mut director, Family::V4, Protocol::UDP);
            director.rewire(|network| network.mtu = [mtu; 2]);
            let dress = |packet: Packet| {
                let payload = (0..len - 28 - options.len()).map(|n| n as u8).collect();
                Packet { dont_fragment: false, ipv4_options: options.clone(), ..packet.with_payload(payload) }
            };
            let mut ways = vec![(ingress, SERVERS, dress(packet))];
            if mode.sees_replies() {
                ways.push((reply_ingress, CLIENTS, dress(reply)));
            }
            for (ingress, egress, packet) in ways {
                let sent = director.receive(1, ingress, &packet);
                assert!(sent.len() > 1, "{} fragments", sent.len());
                let fragments: Vec<SeenIp> = sent.iter().map(|s| s.seen().ip).collect();
                assert!(fragments.iter().all(|f| f.bytes.len() <= usize::from(mtu)));
                assert!(sent.iter().all(|s| s.port == egress && s.seen().src_mac == port_mac(egress)));
                let whole = reassemble(&fragments).innermost();
                assert_eq!((whole.ttl, &whole.payload), (packet.ttl - 1, &packet.payload), "{mode:?}");
                assert_eq!(whole.options, packet.ipv4_options);
            }
            assert_eq!(director.drops(), []);
            director.settle();
        }
    }
}

/// Only options with the copied flag are in later fragments (RFC 791 section 3.1).
#[test]
fn later_fragments_carry_the_options_they_must() {
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, Nat, &[1])]);
    director.rewire(|network| network.mtu[1] = 600);
    let mut packet = udp(client(Family::V4, 600), virt(Family::V4, 1)).with_payload(vec![3; 1200]);
    packet.dont_fragment = false;
    // Record route (7), not copied; router alert (148), copied.
    packet.ipv4_options = vec![7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];
    let sent = director.receive(0, CLIENTS, &packet);
    assert_eq!(sent[0].seen().ip.options, packet.ipv4_options);
    for later in &sent[1..] {
        assert_eq!(later.seen().ip.options, [1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0, 0]);
    }
    director.settle();
}

/// How much of a packet an error may quote: header and 8 bytes, a part, all.
fn quotes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
    let mut lengths = vec![header + 8, header + 16, header + 18, header + 20, bytes.len()];
    lengths.retain(|&len| len <= bytes.len());
    lengths.into_iter().map(|len| bytes[..len].to_vec()).collect()
}

#[test]
fn errors_are_translated_both_ways() {
    let kinds: [(Kind, u32); 4] = [(TOO_BIG, 1400), (TIME_EXCEEDED, 0), (PORT_UNREACHABLE, 0), ([(12, 0), (4, 0)], 8)];
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for protocol in PROTOCOLS {
                for workers in [1, 2, 4] {
                    let mut director =
                        Director::new(Setup::workers(workers), vec![service(1, family, protocol, mode, &[1])]);
                    let [(_, inbound), (_, reply)] = both_ways(&mut director, family, protocol);
                    let (inbound, reply) = (inbound.with_payload(vec![7; 33]), reply.with_payload(vec![8; 44]));
                    let at_server = director.forward(0, CLIENTS, &inbound).1.ip;
                    let at_client = director.forward(0, SERVERS, &reply).1.ip;
                    let before = director.connection();
                    let mut errors = 0;
                    for (i, (kind, rest)) in kinds.into_iter().enumerate() {
                        let (kind, code) = of(kind, family);
                        // From a router before the server, about the client's packet.
                        let router = on_server_link(family, 99);
                        for quote in quotes(&at_server.bytes) {
                            let error = icmp(router, at_server.src.ip(), (kind, code, rest), &quote);
                            let frame = icmp_frame(&error, port_mac(SERVERS), mac_of(router));
                            director.arrive(i % workers, SERVERS, &frame);
                            let sent = director.run();
                            assert_eq!(sent.len(), 1, "{family:?} {mode:?} {protocol:?}: {:?}", director.drops());
                            let seen = sent[0].seen();
                            assert_eq!((sent[0].port, seen.dst_mac), (CLIENTS, mac_of(inbound.src.ip())));
                            assert_eq!((seen.ip.src.ip(), seen.ip.dst.ip()), (vip(family, 1), inbound.src.ip()));
                            assert_eq!(seen.ip.ttl, 63);
                            let (found, found_rest, found_quote) = message(&seen.ip);
                            assert_eq!((found, found_rest), ((kind, code), rest));
                            let expected = inbound.clone().with_ttl(63).ip();
                            assert_eq!(found_quote, &expected[..quote.len()], "{family:?} {mode:?} {protocol:?}");
                            let inner = check_quoted(found_quote);
                            assert_eq!((inner.src, inner.dst), (inbound.src, inbound.dst));
                            errors += 1;
                        }
                        // From a router before the client, about the server's packet.
                        let router = on_client_link(family, 98);
                        for quote in quotes(&at_client.bytes) {
                            let error = icmp(router, vip(family, 1), (kind, code, rest), &quote);
                            let frame = icmp_frame(&error, port_mac(CLIENTS), mac_of(router));
                            director.arrive((i + 1) % workers, CLIENTS, &frame);
                            let sent = director.run();
                            assert_eq!(sent.len(), 1, "{family:?} {mode:?} {protocol:?}: {:?}", director.drops());
                            let seen = sent[0].seen();
                            assert_eq!((sent[0].port, seen.dst_mac), (SERVERS, mac_of(server(family, 1))));
                            let from = if mode == FullNat { local(family, 1) } else { router };
                            assert_eq!((seen.ip.src.ip(), seen.ip.dst.ip()), (from, server(family, 1)));
                            let (found, found_rest, found_quote) = message(&seen.ip);
                            assert_eq!((found, found_rest), ((kind, code), rest));
                            let expected = reply.clone().with_ttl(63).ip();
                            assert_eq!(found_quote, &expected[..quote.len()], "{family:?} {mode:?} {protocol:?}");
                            errors += 1;
                        }
                    }
                    let after = director.connection();
                    assert_eq!(after.state, before.state, "errors do not move the state");
                    assert_eq!(director.drops(), []);
                    assert_eq!(director.total(|c| c.icmp_sent.get()), 0, "translated, not originated: {errors}");
                    director.settle();
                }
            }
        }
    }
}

#[test]
fn errors_of_the_clients_side_reach_servers_that_answer_directly() {
    for family in FAMILIES {
        for mode in [DirectRouting, Tunnel] {
            for protocol in PROTOCOLS {
                for worker in 0..4 {
                    let mut director = Director::new(Setup::workers(4), vec![service(1, family, protocol, mode, &[1])]);
                    let (from, to) = (client(family, 700), virt(family, 1));
                    open(&mut director, 0, protocol, from, to);
                    // The server's answer, which did not pass the director.
                    let answer = opening(protocol, to, from).with_payload(vec![1; 50]).ip();
                    let (router, (kind, code)) = (on_client_link(family, 97), of(TOO_BIG, family));
                    let error = icmp(router, to.ip(), (kind, code, 1300), &answer);
                    let frame = icmp_frame(&error, port_mac(CLIENTS), mac_of(router));
                    director.arrive(worker, CLIENTS, &frame);
                    let sent = director.run();
                    assert_eq!(sent.len(), 1);
                    let seen = sent[0].seen();
                    assert_eq!((sent[0].port, seen.dst_mac), (SERVERS, mac_of(server(family, 1))));
                    let ip = seen.ip.innermost();
                    assert_eq!((ip.src.ip(), ip.dst.ip(), ip.ttl), (router, to.ip(), 63));
                    assert_eq!(message(&ip), ((kind, code), 1300, &answer[..]));
                    director.settle();
                }
            }
        }
    }
}

#[test]
fn an_error_about_a_tunnel_packet_becomes_one_about_the_clients() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for worker in 0..4 {
                let mut director = Director::new(Setup::workers(4), vec![service(1, family, protocol, Tunnel, &[1])]);
                let (from, to) = (client(family, 700), virt(family, 1));
                let packet = opening(protocol, from, to).with_payload(vec![4; 900]);
                let (_, seen) = director.forward(0, CLIENTS, &packet);
                let (outer, overhead) = (seen.ip, if family == Family::V4 { 20 } else { 40 });
                // No less than what IPv6 must carry.
                let least = if family == Family::V4 { 0 } else { 1280 };
                for (kind, rest, expected) in [
                    (TOO_BIG, 1400, 1400 - overhead),
                    (TOO_BIG, 1300, least.max(1300 - overhead)),
                    (TOO_BIG, 0, least),
                    (TIME_EXCEEDED, 0, 0),
                ] {
                    let (router, (kind, code)) = (on_server_link(family, 97), of(kind, family));
                    let quote = &outer.bytes[..500];
                    let error = icmp(router, outer.src.ip(), (kind, code, rest), quote);
                    director.arrive(worker, SERVERS, &icmp_frame(&error, port_mac(SERVERS), mac_of(router)));
                    let sent = director.run();
                    assert_eq!(sent.len(), 1, "{family:?} {protocol:?}: {:?}", director.drops());
                    let seen = sent[0].seen();
                    assert_eq!((sent[0].port, seen.dst_mac), (CLIENTS, mac_of(from.ip())));
                    assert_eq!((seen.ip.src.ip(), seen.ip.dst.ip()), (to.ip(), from.ip()));
                    let inner = &packet.clone().with_ttl(63).ip()[..500 - overhead as usize];
                    assert_eq!(message(&seen.ip), ((kind, code), expected, inner));
                }
                assert_eq!(director.drops(), []);
                director.settle();
            }
        }
    }
}

#[test]
fn errors_about_nothing_known_are_the_kernels() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(4), vec![service(1, family, Protocol::TCP, Nat, &[1])]);
        let router = on_server_link(family, 97);
        let (kind, code) = of(TIME_EXCEEDED, family);
        let about = |src: SocketAddr, dst: SocketAddr| tcp(src, dst, Flags::ACK).ip();
        let cases = [
            about(client(family, 1), SocketAddr::new(server(family, 1), DPORT)),
            about(virt(family, 1), client(family, 1)),
            about(SocketAddr::new(own(family, SERVERS), 22), SocketAddr::new(server(family, 3), 22)),
            vec![0x45; 10],
            Vec::new(),
        ];
        for (i, quote) in cases.iter().enumerate() {
            let error = icmp(router, own(family, SERVERS), (kind, code, 0), quote);
            let frame = icmp_frame(&error, port_mac(SERVERS), mac_of(router));
            director.arrive(i % 4, SERVERS, &frame);
            assert!(director.run().is_empty(), "case {i}");
            assert_eq!(director.punted(), [(SERVERS, frame)], "case {i}: {:?}", director.drops());
        }
        director.finish();
    }
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            let at_server = open(&mut director, 0, Protocol::UDP, client(family, 8), virt(family, 1));
            let (router, (kind, code)) = (on_server_link(family, 97), of(TOO_BIG, family));
            let error = icmp(router, at_server.src.ip(), (kind, code, 1400), &at_server.bytes);
            let frame = icmp_frame(&error, port_mac(SERVERS), mac_of(router));
            // Any byte of the message that is not needed to find the connection.
            let message_at = 14 + if family == Family::V4 { 20 } else { 40 };
            for at in [message_at + 2, message_at + 3, message_at + 7, frame.len() - 1] {
                let mut broken = frame.clone();
                broken[at] ^= 0x10;
                director.arrive(1, SERVERS, &broken);
                assert!(director.run().is_empty(), "byte {at}");
            }
            assert_eq!(director.drops(), [(DropReason::BadIcmp, 4)]);
            director.finish();
        }
    }
}

/// Errors are small; one that quotes more than it should is held to the MTU like any packet.
#[test]
fn large_errors_are_held_to_the_mtu() {
    for (family, dont_fragment) in [(Family::V4, false), (Family::V4, true), (Family::V6, true)] {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        open(&mut director, 0, Protocol::UDP, client(family, 8), virt(family, 1));
        director.rewire(|network| network.mtu[0] = 1290);
        let packet = udp(client(family, 8), virt(family, 1)).with_payload(vec![6; 1400]);
        let at_server = director.forward(0, CLIENTS, &packet).1.ip;
        let (router, (kind, code)) = (on_server_link(family, 97), of(TOO_BIG, family));
        let mut error = icmp(router, at_server.src.ip(), (kind, code, 1400), &at_server.bytes);
        error.dont_fragment = dont_fragment;
        director.arrive(0, SERVERS, &icmp_frame(&error, port_mac(SERVERS), mac_of(router)));
        let sent = director.run();
        if dont_fragment {
            assert_eq!((sent.len(), director.drops()), (0, vec![(DropReason::TooBig, 1)]), "no error about an error");
            assert_eq!(director.total(|c| c.icmp_sent.get()), 0);
        } else {
            let whole = reassemble(&sent.iter().map(|s| s.seen().ip).collect::<Vec<_>>());
            assert_eq!(message(&whole), ((kind, code), 1400, &packet.with_ttl(63).ip()[..]));
        }
        director.finish();
    }
}

#[test]
fn errors_do_not_live_forever() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let at_server = open(&mut director, 0, Protocol::UDP, client(family, 8), virt(family, 1));
        let (router, (kind, code)) = (on_server_link(family, 97), of(TOO_BIG, family));
        let error = icmp(router, at_server.src.ip(), (kind, code, 1400), &at_server.bytes).with_ttl(1);
        director.arrive(0, SERVERS, &icmp_frame(&error, port_mac(SERVERS), mac_of(router)));
        assert!(director.run().is_empty(), "no error about an error");
        assert_eq!(director.drops(), [(DropReason::TtlExceeded, 1)]);
        assert_eq!(director.total(|c| c.icmp_sent.get()), 0);
        director.finish();
    }
}

#[test]
fn errors_are_sent_at_a_limited_rate() {
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, Nat, &[])]);
    let packet = udp(client(Family::V4, 5), virt(Family::V4, 1));
    let flood = |director: &mut Director| {
        for _ in 0..1000 {
            director.arrive(0, CLIENTS, &frame_for(CLIENTS, &packet));
        }
        director.run().len()
    };
    let burst = flood(&mut director);
    assert!((50..=150).contains(&burst), "{burst} errors at once");
    let mut in_a_second = 0;
    for _ in 0..dataplane::conn::TICKS_PER_SECOND {
        director.pass(1);
        in_a_second += flood(&mut director);
    }
    assert_eq!(in_a_second, 1000, "errors in a second");
    assert_eq!(director.drops(), [(DropReason::NoServer, 9000)], "packets are dropped all the same");
    director.settle();
}
