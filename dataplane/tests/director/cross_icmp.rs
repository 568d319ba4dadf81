//! ICMP errors between IP versions.

use std::net::IpAddr;

use dataplane::PortId;
use dataplane::verdict::DropReason;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::cross::{director, other};
use crate::support::check::{SeenIp, check_quoted};
use crate::support::packet::{Packet, Transport, frame, icmp, icmp_frame, split, tcp, udp};
use crate::support::*;

/// Type, code and the four bytes behind the checksum.
type Error = (u8, u8, u32);

/// What happens in IPv4, and the same in IPv6.
const PAIRS: [(Error, Error); 6] = [
    ((3, 4, 1380), (2, 0, 1400)),
    ((3, 3, 0), (1, 4, 0)),
    ((3, 1, 0), (1, 0, 0)),
    ((3, 10, 0), (1, 1, 0)),
    ((11, 0, 0), (3, 0, 0)),
    ((12, 0, 16 << 24), (4, 0, 24)),
];

fn message(ip: &SeenIp) -> (Error, &[u8]) {
    assert_eq!(ip.protocol, if ip.src.is_ipv4() { 1 } else { 58 }, "ICMP: {ip:?}");
    let rest = u32::from_be_bytes(ip.payload[4..8].try_into().expect("4 bytes"));
    ((ip.payload[0], ip.payload[1], rest), &ip.payload[8..])
}

/// How much of a packet an error may quote: header and 8 bytes, parts, all.
fn quotes(bytes: &[u8]) -> Vec<&[u8]> {
    let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
    let lengths = [header + 8, header + 16, header + 18, header + 20, bytes.len()];
    lengths.into_iter().filter(|&len| len <= bytes.len()).map(|len| &bytes[..len]).collect()
}

/// The client's packet and the server's, as they are sent and as they arrive.
fn exchange(director: &mut Director, family: Family, protocol: Protocol) -> [(Packet, SeenIp); 2] {
    let (from, to) = (client(family, 600), virt(family, 1));
    open(director, 0, protocol, from, to);
    let packet = |src, dst, len| match protocol {
        Protocol::TCP => tcp(src, dst, Flags::ACK).with_payload(vec![7; len]),
        _ => udp(src, dst).with_payload(vec![7; len]),
    };
    let inbound = packet(from, to, 1300);
    let at_server = director.forward(0, CLIENTS, &inbound).1.ip;
    let answer = packet(at_server.dst, at_server.src, 1333);
    let at_client = director.forward(0, SERVERS, &answer).1.ip;
    [(inbound, at_server), (answer, at_client)]
}

/// An error about `seen` from a router on the link of `port` arrives.
fn report(director: &mut Director, worker: usize, port: PortId, error: Error, to: IpAddr, quote: &[u8]) -> Vec<Sent> {
    let family = Family::of(to);
    let router = if port == SERVERS { on_server_link(family, 99) } else { on_client_link(family, 99) };
    let error = icmp(router, to, error, quote);
    director.arrive(worker, port, &icmp_frame(&error, port_mac(port), mac_of(router)));
    director.run()
}

#[test]
fn errors_reach_the_sender_in_its_version() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for workers in [1, 2, 4] {
                let mut director = director(family, protocol, workers);
                let [(inbound, at_server), (answer, at_client)] = exchange(&mut director, family, protocol);
                let before = director.connection();
                let ways = [
                    (SERVERS, inbound, at_server, vip(family, 1)),
                    (CLIENTS, answer, at_client, local(other(family), 1)),
                ];
                for (port, sent_packet, seen, from) in ways {
                    for (i, (v4, v6)) in PAIRS.into_iter().enumerate() {
                        let (error, expected) = if seen.src.is_ipv4() { (v4, v6) } else { (v6, v4) };
                        for quote in quotes(&seen.bytes) {
                            let sent = report(&mut director, i % workers, port, error, seen.src.ip(), quote);
                            assert_eq!(sent.len(), 1, "{family:?} {error:?}: {:?}", director.drops());
                            let ip = sent[0].seen().ip;
                            assert_eq!(sent[0].port, if port == SERVERS { CLIENTS } else { SERVERS });
                            assert_eq!((ip.src.ip(), ip.dst.ip()), (from, sent_packet.src.ip()));
                            let (found, found_quote) = message(&ip);
                            assert_eq!(found, expected);
                            let inner = check_quoted(found_quote);
                            assert_eq!((inner.src, inner.dst), (sent_packet.src, sent_packet.dst));
                            // What it was sent with, as far as it is there; IPv4's identification is the director's own.
                            let was = sent_packet.clone().with_ttl(63).ip();
                            let [old, new] =
                                [&was[..], found_quote].map(|ip| &ip[if ip[0] >> 4 == 4 { 20 } else { 40 }..]);
                            let is_cut = new.len() < old.len();
                            assert_eq!(new, &old[..new.len()], "{family:?} {protocol:?}");
                            assert!(is_cut || quote.len() == seen.bytes.len());
                            let length_at = if was[0] >> 4 == 4 { 2 } else { 4 };
                            assert_eq!(found_quote[length_at..length_at + 2], was[length_at..length_at + 2]);
                            assert_eq!(inner.ttl, 63);
                        }
                    }
                }
                let after = director.connection();
                assert_eq!(after.state, before.state, "errors do not move the state");
                assert_eq!(director.drops(), []);
                assert_eq!(director.total(|c| c.icmp_sent.get()), 0, "translated, not originated");
                director.finish();
            }
        }
    }
}

#[test]
fn what_the_other_version_cannot_say_is_dropped() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 1);
        let [(_, at_server), (_, at_client)] = exchange(&mut director, family, Protocol::UDP);
        for (port, seen) in [(SERVERS, at_server), (CLIENTS, at_client)] {
            let errors: [Error; 3] = match seen.src.is_ipv4() {
                true => [(4, 0, 0), (3, 14, 0), (12, 1, 0)],
                false => [(1, 5, 0), (4, 2, 40), (100, 0, 0)],
            };
            for error in errors {
                assert!(report(&mut director, 0, port, error, seen.src.ip(), &seen.bytes).is_empty());
            }
        }
        assert_eq!(director.drops(), [(DropReason::Untranslatable, 6)]);
        director.finish();
    }
}

#[test]
fn a_wrong_checksum_is_not_translated() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 1);
        let [(_, at_server), (_, at_client)] = exchange(&mut director, family, Protocol::UDP);
        for (port, seen) in [(SERVERS, at_server), (CLIENTS, at_client)] {
            let family = Family::of(seen.src.ip());
            let kind = if family == Family::V4 { (3, 3, 0) } else { (1, 4, 0) };
            let error = icmp(on_client_link(family, 99), seen.src.ip(), kind, &seen.bytes);
            let mut frame = icmp_frame(&error, port_mac(port), mac_of(on_client_link(family, 99)));
            *frame.last_mut().expect("bytes") ^= 1;
            director.arrive(0, port, &frame);
            assert!(director.run().is_empty());
        }
        assert_eq!(director.drops(), [(DropReason::BadIcmp, 2)]);
        director.finish();
    }
}

/// An error about the first fragment that left is one about the datagram.
#[test]
fn errors_about_fragments_are_about_their_datagram() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 2);
        let (from, to) = (client(family, 600), virt(family, 1));
        let mut packet = udp(from, to).with_payload(vec![7; 3000]);
        packet.dont_fragment = false;
        let mut sent = Vec::new();
        for ip in split(&packet.ip(), &[0, 1400, 2800], 9) {
            director.arrive(0, CLIENTS, &frame(&ip, port_mac(CLIENTS), mac_of(from.ip())));
            sent.extend(director.run());
        }
        let first = sent.iter().map(|sent| sent.seen().ip).find(|ip| ip.fragment.0 == 0).expect("a first fragment");
        let (error, expected) = match family {
            Family::V6 => ((3, 3, 0), (1, 4, 0)),
            Family::V4 => ((1, 4, 0), (3, 3, 0)),
        };
        let sent = report(&mut director, 1, SERVERS, error, first.src.ip(), &first.bytes);
        assert_eq!(sent.len(), 1, "{:?}", director.drops());
        let ip = sent[0].seen().ip;
        let (found, quote) = message(&ip);
        assert_eq!((found, ip.dst.ip()), (expected, from.ip()));
        let ports = &quote[if family == Family::V4 { 20 } else { 40 }..][..4];
        assert_eq!(ports, [from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
        director.finish();
    }
}

#[test]
fn a_datagram_without_checksum_is_quoted_without() {
    let mut director = director(Family::V6, Protocol::UDP, 1);
    let [_, (mut answer, _)] = exchange(&mut director, Family::V6, Protocol::UDP);
    answer.transport = Transport::Udp { has_checksum: false };
    let at_client = director.forward(0, SERVERS, &answer).1.ip;
    assert_ne!(at_client.udp_checksum, 0);
    let sent = report(&mut director, 0, CLIENTS, (1, 4, 0), at_client.src.ip(), &at_client.bytes);
    let ip = sent[0].seen().ip;
    check_quoted(message(&ip).1);
    director.finish();
}

/// With `schedule_icmp` an error about a reply that the director never saw goes to the server that the client would get.
#[test]
fn an_error_opens_a_connection_across_versions() {
    for family in FAMILIES {
        let mut director = director(family, Protocol::UDP, 1);
        director.settings.schedule_icmp = true;
        director.publish();
        let answer = udp(virt(family, 1), client(family, 600)).with_payload(vec![7; 100]);
        let (error, expected) = match family {
            Family::V6 => ((1, 4, 0), (3, 3, 0)),
            Family::V4 => ((3, 3, 0), (1, 4, 0)),
        };
        let sent = report(&mut director, 0, CLIENTS, error, vip(family, 1), &answer.ip());
        assert_eq!((sent.len(), sent[0].port), (1, SERVERS), "{:?}", director.drops());
        let ip = sent[0].seen().ip;
        let conn = director.connection();
        assert_eq!((ip.src.ip(), ip.dst.ip()), (conn.local.0, server(other(family), 1)));
        let (found, quote) = message(&ip);
        let inner = check_quoted(quote);
        assert_eq!((found, inner.src, inner.dst), (expected, conn.server.into(), conn.local.into()));
        director.finish();
    }
}
