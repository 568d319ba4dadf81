//! Fragments of packets that concern a service.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use dataplane::conn::TICKS_PER_SECOND;
use dataplane::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat, Tunnel};
use dataplane::verdict::DropReason;
use dataplane::{PortId, ServerId};
use proptest::prelude::*;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::check::{SeenIp, reassemble};
use crate::support::packet::{self, Packet, fragment, icmp, icmp_frame, split, tcp, udp};
use crate::support::*;

/// The offsets at which a sender on Ethernet cuts 4,000 bytes: 1500 bytes a fragment.
fn even(family: Family) -> [usize; 3] {
    if family == Family::V4 { [0, 1480, 2960] } else { [0, 1448, 2896] }
}

fn large(from: SocketAddr, to: SocketAddr, len: usize) -> Packet {
    let mut packet = udp(from, to).with_payload((0..len).map(|i| (i * 7 + i / 251) as u8).collect());
    packet.dont_fragment = false;
    packet
}

fn frame(port: PortId, ip: &[u8], from: IpAddr) -> Vec<u8> {
    packet::frame(ip, port_mac(port), mac_of(from))
}

/// Fragments arrive one after the other at the workers in turn; all that leaves.
fn arrive(director: &mut Director, port: PortId, fragments: &[Vec<u8>], from: IpAddr) -> Vec<Sent> {
    let workers = director.shared.limits.workers;
    let mut sent = Vec::new();
    for (i, ip) in fragments.iter().enumerate() {
        director.arrive(i % workers, port, &frame(port, ip, from));
        sent.extend(director.run());
    }
    sent
}

/// What left in fragments out of `port`, put together and taken out of its tunnel. No fragment is larger than `largest`.
fn joined(sent: &[Sent], port: PortId, largest: usize) -> SeenIp {
    assert!(sent.iter().all(|s| s.port == port));
    let fragments: Vec<SeenIp> = sent.iter().map(|s| s.seen().ip).collect();
    assert!(fragments.len() > 1 && fragments.iter().all(|f| f.bytes.len() <= largest), "{} fragments", fragments.len());
    reassemble(&fragments).innermost()
}

/// Data offsets that make fragments small enough for a tunnel's packet to fit into 1500 bytes.
fn offsets(family: Family, mode: ForwardMode) -> [usize; 3] {
    if (family, mode) == (Family::V6, Tunnel) { [0, 1408, 2816] } else { even(family) }
}

#[test]
fn large_datagrams_pass_there_and_back_in_any_order() {
    let orders: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 2, 4] {
                let mut director =
                    Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, mode, &[1, 2])]);
                let from = client(family, 4711);
                let request = large(from, virt(family, 1), 4000);
                for (id, order) in (1..).zip(orders) {
                    let fragments = split(&request.ip(), &offsets(family, mode), id);
                    let shuffled = order.map(|i| fragments[i].clone());
                    let sent = arrive(&mut director, CLIENTS, &shuffled, from.ip());
                    let seen = joined(&sent, SERVERS, 1500);
                    assert_eq!((seen.ttl, &seen.payload), (63, &request.payload), "{mode:?}");
                    assert_eq!(seen.dst.ip() == server(family, 1), mode.sees_replies());
                    if !mode.sees_replies() {
                        assert_eq!((seen.src, seen.dst), (from, virt(family, 1)));
                        continue;
                    }
                    let reply = large(seen.dst, seen.src, 4000);
                    let fragments = split(&reply.ip(), &even(family), id);
                    let shuffled = order.map(|i| fragments[i].clone());
                    let sent = arrive(&mut director, SERVERS, &shuffled, seen.dst.ip());
                    let seen = joined(&sent, CLIENTS, 1500);
                    assert_eq!((seen.src, seen.dst, &seen.payload), (virt(family, 1), from, &reply.payload));
                }
                // IPVS counts what it put together: one packet.
                let server = ServerId(16);
                let counts = |c: &dataplane::counters::WorkerCounters| {
                    let c = c.server(server);
                    [c.in_packets.get(), c.in_bytes.get(), c.out_packets.get()]
                };
                let ip_len = request.ip().len() as u64;
                let replies = if mode.sees_replies() { 6 } else { 0 };
                assert_eq!(
                    [0, 1, 2].map(|i| director.total(|c| counts(c)[i])),
                    [6, 6 * ip_len, replies],
                    "{family:?} {mode:?}"
                );
                assert_eq!(director.connections().len(), 1);
                assert_eq!(director.drops(), []);
                director.finish();
            }
        }
    }
}

/// A whole datagram and one in fragments are of the same connection, whichever is first.
#[test]
fn fragments_and_whole_packets_share_a_connection() {
    for family in FAMILIES {
        for workers in [1, 4] {
            let mut director =
                Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, FullNat, &[1, 2, 3])]);
            for cport in 31..=60 {
                let (from, to) = (client(family, cport), virt(family, 1));
                let fragments = split(&large(from, to, 4000).ip(), &even(family), cport);
                let mut sources = HashSet::new();
                for is_whole in [cport % 2 == 0, cport % 2 == 1, true] {
                    let seen = match is_whole {
                        true => director.forward(usize::from(cport) % workers, CLIENTS, &udp(from, to)).1.ip,
                        false => joined(&arrive(&mut director, CLIENTS, &fragments, from.ip()), SERVERS, 1500),
                    };
                    sources.insert((seen.src, seen.dst));
                }
                assert_eq!(sources.len(), 1);
            }
            assert_eq!(director.connections().len(), 30);
            director.settle();
        }
    }
}

/// Clients number their packets as they like; the server sees them all come from one address.
#[test]
fn equal_identifications_of_clients_do_not_meet_at_the_server() {
    for mode in [FullNat, Nat] {
        let mut director = Director::new(Setup::workers(4), vec![service(1, Family::V4, Protocol::UDP, mode, &[1])]);
        let mut by_id: HashMap<(IpAddr, u16), Vec<SeenIp>> = HashMap::new();
        for n in 2..40 {
            let from = SocketAddr::new(on_client_link(Family::V4, n), 999);
            for s in arrive(
                &mut director,
                CLIENTS,
                &split(&large(from, virt(Family::V4, 1), 4000).ip(), &even(Family::V4), 77),
                from.ip(),
            ) {
                let ip = s.seen().ip;
                let id = u16::from_be_bytes([ip.bytes[4], ip.bytes[5]]);
                by_id.entry((ip.src.ip(), id)).or_default().push(ip);
            }
        }
        assert_eq!(by_id.len(), 38);
        let sources: HashSet<_> = by_id.values().map(|fragments| reassemble(fragments).src).collect();
        assert_eq!(sources.len(), 38, "{mode:?}");
        director.settle();
    }
}

#[test]
fn segments_pass_in_fragments() {
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            let mut director =
                Director::new(Setup::workers(workers), vec![service(1, family, Protocol::TCP, Nat, &[1])]);
            let (from, to) = (client(family, 5), virt(family, 1));
            // Not even a SYN is too small. IPv6 wants all headers in the first fragment (RFC 8200 section 4.5).
            let mut syn = tcp(from, to, Flags::SYN).with_payload(vec![1; 8]);
            syn.dont_fragment = false;
            let tiny: &[usize] = if family == Family::V4 { &[0, 8, 16, 24] } else { &[0, 24] };
            let sent = arrive(&mut director, CLIENTS, &split(&syn.ip(), tiny, 1), from.ip());
            let seen = match family {
                Family::V4 => joined(&sent, SERVERS, 28),
                // Without the fragment header it is as short as the first fragment was.
                Family::V6 => sent[0].seen().ip,
            };
            assert_eq!((seen.dst, seen.flags), (SocketAddr::new(server(family, 1), DPORT), Flags::SYN.0));
            let mut answer = tcp(seen.dst, seen.src, Flags::SYN | Flags::ACK).with_payload(vec![2; 2000]);
            answer.dont_fragment = false;
            let sent = arrive(&mut director, SERVERS, &split(&answer.ip(), &[0, 1400], 9), seen.dst.ip());
            let seen = joined(&sent, CLIENTS, 1500);
            assert_eq!((seen.src, seen.dst, seen.payload), (to, from, vec![2; 2000]));
            let mut data = tcp(from, to, Flags::ACK).with_payload(vec![3; 3000]);
            data.dont_fragment = false;
            let sent = arrive(&mut director, CLIENTS, &split(&data.ip(), &[0, 1000, 2000], 2), from.ip());
            let largest = if family == Family::V4 { 1040 } else { 1068 };
            assert_eq!(joined(&sent, SERVERS, largest).payload, data.payload);
            assert_eq!(director.connection().state, proto::state::State::Established);
            director.finish();
        }
    }
}

#[test]
fn other_headers_stay_where_they_belong() {
    let mut director = Director::new(
        Setup::workers(2),
        vec![
            service(1, Family::V6, Protocol::UDP, FullNat, &[1]),
            service(2, Family::V4, Protocol::UDP, FullNat, &[1]),
        ],
    );
    let from = client(Family::V6, 5);
    let mut request = large(from, virt(Family::V6, 1), 3000);
    let hop_by_hop = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let options = vec![0, 0, 1, 4, 1, 1, 1, 1];
    request.ipv6_extensions = vec![(0, hop_by_hop), (60, options)];
    let fragments = split(&request.ip(), &[0, 1400, 2800], 5);
    let sent = arrive(&mut director, CLIENTS, &fragments, from.ip());
    for s in &sent {
        assert_eq!((s.frame[14 + 6], s.frame[14 + 40]), (0, 44), "hop-by-hop options, then the fragment header");
    }
    let parts: Vec<Vec<u8>> = sent.iter().map(|s| s.seen().ip.payload).collect();
    assert_eq!(parts.concat()[..8], [17, 0, 1, 4, 1, 1, 1, 1], "destination options are data of the fragments");
    assert_eq!(parts.concat()[16..], request.payload);
    // IPv4 options: those of the first fragment count.
    let from = client(Family::V4, 5);
    let mut request = large(from, virt(Family::V4, 2), 3000);
    request.ipv4_options = vec![148, 4, 0, 0];
    let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &[0, 1400, 2800], 5), from.ip());
    let seen = joined(&sent, SERVERS, 1424);
    assert_eq!((seen.options, seen.payload), (request.ipv4_options, request.payload));
    assert_eq!(director.drops(), []);
    director.settle();
}

/// One with a fragment header and nothing missing is a packet like any other (RFC 6946), and none of those that wait.
#[test]
fn atomic_fragments_stand_alone() {
    let mut director = Director::new(Setup::workers(2), vec![service(1, Family::V6, Protocol::UDP, Nat, &[1])]);
    let from = client(Family::V6, 5);
    let request = large(from, virt(Family::V6, 1), 3000);
    let fragments = split(&request.ip(), &[0, 1400, 2800], 5);
    assert!(arrive(&mut director, CLIENTS, &fragments[..2], from.ip()).is_empty());
    let small = udp(from, virt(Family::V6, 1)).ip();
    let atomic = fragment(&small[..40], &small[40..], 0, false, 5);
    let sent = arrive(&mut director, CLIENTS, &[atomic], from.ip());
    assert!(sent[0].seen().ip.payload.ends_with(b"datagram"));
    assert_eq!(sent[0].frame[14 + 6], 44, "the header stays");
    let sent = arrive(&mut director, CLIENTS, &fragments[2..], from.ip());
    assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload);
    director.settle();
}

#[test]
fn what_overlaps_or_contradicts_itself_is_refused() {
    let overlapping = [
        // Offset, length, and whether more follow, in order of arrival; then what remains is offered in full.
        ("in the middle", vec![(0, 1480, true), (1472, 1480, true)]),
        ("a hole in it", vec![(0, 800, true), (1600, 800, true), (400, 1600, true)]),
        ("around another", vec![(800, 400, true), (0, 1480, true)]),
        ("before the end that was", vec![(2960, 1048, false), (1480, 1488, true)]),
        ("two ends", vec![(2960, 1048, false), (4008, 8, false)]),
        ("beyond the end", vec![(1480, 1000, false), (2960, 800, true)]),
        ("an end before another's data", vec![(2960, 800, true), (1480, 1000, false)]),
    ];
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, FullNat, &[1])]);
        let from = client(family, 5);
        let ip = large(from, virt(family, 1), 5000).ip();
        let (headers, data) = ip.split_at(if family == Family::V4 { 20 } else { 40 });
        let mut dropped = 0;
        for (id, (what, pieces)) in (1..).zip(&overlapping) {
            let fragments: Vec<_> = pieces
                .iter()
                .map(|&(at, len, more)| fragment(headers, &data[at..at + len], at, more, id))
                .chain(split(&ip, &[0, 1440, 2880, 4320], id))
                .collect();
            assert!(arrive(&mut director, CLIENTS, &fragments, from.ip()).is_empty(), "{what}");
            dropped += fragments.len() as u64;
            assert_eq!(director.drops(), [(DropReason::FragmentOverlap, dropped)], "{what}");
        }
        // The next packet is none the worse.
        let sent = arrive(&mut director, CLIENTS, &split(&ip, &[0, 1440, 2880, 4320], 99), from.ip());
        assert_eq!(joined(&sent, SERVERS, 1500).payload, large(from, virt(family, 1), 5000).payload);
        assert_eq!(director.connections().len(), 1);
        director.finish();
    }
}

#[test]
fn duplicates_change_nothing() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let from = client(family, 5);
        let request = large(from, virt(family, 1), 4000);
        let [a, b, c] = split(&request.ip(), &even(family), 6).try_into().expect("three");
        // Also a part of what is there, as Linux has it.
        let header_len = if family == Family::V4 { 20 } else { 40 };
        let ip = request.ip();
        let part = fragment(&ip[..header_len], &ip[header_len + 8..header_len + 808], 8, true, 6);
        let order = [&a, &a, &c, &c, &a, &part, &b].map(Clone::clone);
        let sent = arrive(&mut director, CLIENTS, &order, from.ip());
        assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload);
        assert_eq!(director.drops(), [(DropReason::FragmentDuplicate, 4)]);
        // One that comes late waits for others in vain.
        assert!(arrive(&mut director, CLIENTS, &[b], from.ip()).is_empty());
        assert_eq!(director.held_fragments(), 1);
        director.pass_seconds(31);
        assert_eq!((director.held_fragments(), director.dropped(DropReason::FragmentTimeout)), (0, 1));
        director.finish();
    }
}

#[test]
fn fragments_of_impossible_length_are_dropped() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let from = client(family, 5);
        let ip = large(from, virt(family, 1), 1400).ip();
        let (headers, data) = ip.split_at(if family == Family::V4 { 20 } else { 40 });
        let odd = fragment(headers, &data[..1001], 0, true, 1);
        let empty = fragment(headers, &[], 800, true, 2);
        let too_far = fragment(headers, data, 65528 - 800, false, 3);
        assert!(arrive(&mut director, CLIENTS, &[odd, empty, too_far], from.ip()).is_empty());
        assert_eq!((director.drops(), director.held_fragments()), (vec![(DropReason::FragmentInvalid, 3)], 0));
        director.settle();
    }
}

/// RFC 8200 section 4.5. IPv4 has no such rule, and a whole packet is what is looked at.
#[test]
fn an_ipv6_first_fragment_has_all_headers() {
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V6, Protocol::TCP, Nat, &[1])]);
    let from = client(Family::V6, 5);
    let syn = tcp(from, virt(Family::V6, 1), Flags::SYN).with_payload(vec![1; 100]).ip();
    assert!(arrive(&mut director, CLIENTS, &split(&syn, &[0, 16], 1), from.ip()).is_empty());
    assert_eq!(director.drops(), [(DropReason::FragmentInvalid, 2)]);
    director.settle();
}

#[test]
fn what_is_whole_is_looked_at_like_any_packet() {
    let mut director = Director::new(Setup::workers(2), vec![service(1, Family::V4, Protocol::UDP, Nat, &[1])]);
    let from = client(Family::V4, 5);
    let request = large(from, virt(Family::V4, 1), 4000);
    let mut wrong = request.ip();
    wrong[20 + 4] = 0xff; // The length in UDP's header.
    arrive(&mut director, CLIENTS, &split(&wrong, &even(Family::V4), 1), from.ip());
    assert_eq!(director.drops(), [(DropReason::BadUdpLength, 1)]);
    let last_hop = request.with_ttl(1);
    let sent = arrive(&mut director, CLIENTS, &split(&last_hop.ip(), &even(Family::V4), 2), from.ip());
    assert_eq!(sent.len(), 1);
    let error = sent[0].seen().ip;
    assert_eq!((error.dst.ip(), &error.payload[..2]), (from.ip(), &[11, 0][..]), "time exceeded");
    assert_eq!(director.dropped(DropReason::TtlExceeded), 1);
    director.settle();
}

/// Linux answers so, too: who sent the first fragment hears of it.
#[test]
fn what_does_not_become_complete_is_given_up() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let from = client(family, 5);
        let request = large(from, virt(family, 1), 4000);
        let fragments = split(&request.ip(), &even(family), 1);
        arrive(&mut director, CLIENTS, &fragments[..2], from.ip());
        arrive(&mut director, CLIENTS, &split(&request.ip(), &even(family), 2)[1..], from.ip());
        director.pass(30 * TICKS_PER_SECOND - 1);
        assert_eq!((director.take_sent().len(), director.held_fragments()), (0, 4));
        director.pass(2);
        let sent = director.take_sent();
        assert_eq!((sent.len(), director.held_fragments()), (1, 0));
        let error = sent[0].seen().ip;
        let expected = if family == Family::V4 { [11, 1] } else { [3, 1] };
        assert_eq!((error.src.ip(), error.dst.ip()), (vip(family, 1), from.ip()));
        assert_eq!(error.payload[..2], expected);
        assert_eq!(director.drops(), [(DropReason::FragmentTimeout, 4)]);
        assert_eq!(director.connections(), [], "nothing incomplete opens a connection");
        // Too late.
        assert!(arrive(&mut director, CLIENTS, &fragments[2..], from.ip()).is_empty());
        director.finish();
    }
}

/// Flooding sources displace their own packets, and not those of others; memory is bounded.
#[test]
fn floods_are_bounded_and_leave_others_alone() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let (flooder, other) = (on_client_link(family, 50), client(family, 5));
        // In IPv6 the hosts of the link share a network, and so a bound.
        let flooder = if family == Family::V6 { "2001:db8:66::1".parse().expect("an address") } else { flooder };
        let flood = large(SocketAddr::new(flooder, 9), virt(family, 1), 4000).ip();
        let request = large(other, virt(family, 1), 4000);
        for id in 0..5000u16 {
            director.arrive(
                0,
                CLIENTS,
                &frame(CLIENTS, &split(&flood, &even(family), id)[usize::from(id) % 3], flooder),
            );
            if id % 100 == 0 {
                director.run();
            }
            if id % 1000 == 0 {
                // Its fragments come at long intervals.
                let fragments = split(&request.ip(), &even(family), id);
                let part = usize::from(id / 1000) % 3;
                assert!(part == 2 || arrive(&mut director, CLIENTS, &[fragments[part].clone()], other.ip()).is_empty());
            }
        }
        director.run();
        assert!(director.held_fragments() < 40, "{} fragments", director.held_fragments());
        assert!(director.dropped(DropReason::FragmentLimit) > 4900);
        let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &even(family), 3)[..], other.ip());
        assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload);

        // One packet in far too many fragments; and many sources.
        let tiny: Vec<usize> = (0..200).map(|i| i * 8).collect();
        arrive(&mut director, CLIENTS, &split(&flood, &tiny, 7), flooder);
        for n in 0..20_000u32 {
            let source = match family {
                Family::V4 => IpAddr::V4((0x0a00_0000 + n).into()),
                Family::V6 => IpAddr::V6((0x2001_0db8_0066_u128 << 80 | u128::from(n) << 64).into()),
            };
            let ip = large(SocketAddr::new(source, 9), virt(family, 1), 4000).ip();
            director.arrive(0, CLIENTS, &frame(CLIENTS, &split(&ip, &even(family), 1)[1], on_client_link(family, 50)));
            if n % 64 == 0 {
                director.run();
            }
        }
        director.run();
        assert!((900..=1024).contains(&director.held_fragments()), "{} fragments", director.held_fragments());
        let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &even(family), 4)[..], other.ip());
        assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload);
        director.finish();
    }
}

#[test]
fn without_buffers_a_packet_is_lost_and_nothing_else() {
    for mode in MODES {
        let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, mode, &[1])]);
        let from = client(Family::V4, 5);
        let request = large(from, virt(Family::V4, 1), 4000);
        director.wire(0).limit_buffers(2);
        let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &even(Family::V4), 1), from.ip());
        assert_eq!((sent.len(), director.drops()), (2, vec![(DropReason::NoBuffer, 1)]));
        director.wire(0).limit_buffers(usize::MAX);
        let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &even(Family::V4), 2), from.ip());
        assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload);
        director.settle();
    }
}

#[test]
fn large_datagrams_wait_for_their_neighbour() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            director.rewire(|network| network.unresolved.push(server(family, 1)));
            let from = client(family, 5);
            let request = large(from, virt(family, 1), 4000);
            let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &offsets(family, mode), 1), from.ip());
            assert!(sent.is_empty() && director.waiting() >= 3);
            director.rewire(|network| network.unresolved.clear());
            let sent = director.run();
            assert_eq!(joined(&sent, SERVERS, 1500).payload, request.payload, "{family:?} {mode:?}");
            director.settle();
        }
    }
}

/// The way on is narrower, or a tunnel's header is in the way: IPv4 is fragmented anew if it may be, the others hear of it.
#[test]
fn fragments_are_held_to_the_mtu() {
    for (family, dont_fragment, mode) in [
        (Family::V4, false, Nat),
        (Family::V4, true, Nat),
        (Family::V6, true, Nat),
        (Family::V4, false, Tunnel),
        (Family::V4, true, Tunnel),
        (Family::V6, true, Tunnel),
        (Family::V6, true, DirectRouting),
    ] {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
        director.rewire(|network| network.mtu[1] = 1400);
        let from = client(family, 5);
        let mut request = large(from, virt(family, 1), 4000);
        request.dont_fragment = dont_fragment;
        let sent = arrive(&mut director, CLIENTS, &split(&request.ip(), &even(family), 1), from.ip());
        if !dont_fragment {
            assert_eq!(joined(&sent, SERVERS, 1400).payload, request.payload);
            continue;
        }
        let room = match (mode, family) {
            (Tunnel, Family::V4) => 1380,
            (Tunnel, Family::V6) => 1360,
            _ => 1400u32,
        };
        assert_eq!((sent.len(), sent[0].port), (1, CLIENTS));
        let error = sent[0].seen().ip;
        assert_eq!(error.payload[..2], if family == Family::V4 { [3, 4] } else { [2, 0] });
        assert_eq!(error.payload[4..8], room.to_be_bytes());
        assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
        // With fragments of the size that was asked for it works.
        let step = (room as usize - if family == Family::V4 { 20 } else { 48 }) & !7;
        let offsets: Vec<usize> = (0..4008).step_by(step).collect();
        let fragments = split(&request.ip(), &offsets, 2);
        let sent = arrive(&mut director, CLIENTS, &fragments, from.ip());
        assert_eq!(joined(&sent, SERVERS, 1400).payload, request.payload, "{family:?} {mode:?}");
        director.finish();
    }
}

/// The kernel gets what is for it, in fragments as before; what concerns no service is not even put together.
#[test]
fn what_no_service_takes_is_the_kernels() {
    for family in FAMILIES {
        for workers in [1, 2] {
            let mut director =
                Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
            let from = client(family, 5);
            let to_other_port = large(from, SocketAddr::new(vip(family, 1), 81), 4000).ip();
            assert!(arrive(&mut director, CLIENTS, &split(&to_other_port, &even(family), 1), from.ip()).is_empty());
            let kind = if family == Family::V4 { 8 } else { 128 };
            let mut echo = icmp(from.ip(), vip(family, 1), (kind, 0, 0x0001_0001), &[5; 4000]);
            echo.dont_fragment = false;
            let echo = icmp_frame(&echo, port_mac(CLIENTS), mac_of(from.ip()))[14..].to_vec();
            assert!(arrive(&mut director, CLIENTS, &split(&echo, &even(family), 2), from.ip()).is_empty());
            let punted = director.punted();
            assert_eq!(punted.len(), 6);
            for (whole, frames) in [&to_other_port, &echo].into_iter().zip(punted.chunks(3)) {
                let seen: Vec<SeenIp> = frames.iter().map(|(_, frame)| check::check(frame).ip).collect();
                assert!(seen.iter().all(|f| f.bytes.len() <= 1500));
                let joined = reassemble(&seen);
                assert_eq!(joined.bytes.len(), whole.len());
                assert!(whole.ends_with(&joined.payload) && joined.ttl == 64);
            }
            let to_us = large(from, SocketAddr::new(own(family, CLIENTS), 80), 4000).ip();
            for piece in split(&to_us, &even(family), 3) {
                let frame = frame(CLIENTS, &piece, from.ip());
                director.arrive(0, CLIENTS, &frame);
                director.run();
                assert_eq!(director.punted(), [(CLIENTS, frame)]);
            }
            assert_eq!((director.held_fragments(), director.drops()), (0, vec![]));
            director.settle();
        }
    }
}

/// An error that came in fragments is translated like one that did not.
#[test]
fn errors_in_fragments_reach_the_client() {
    for workers in [1, 2, 4] {
        let family = Family::V4;
        let mut director =
            Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, FullNat, &[1])]);
        let from = client(family, 5);
        let request = udp(from, virt(family, 1)).with_payload(vec![6; 1400]);
        let at_server = director.forward(0, CLIENTS, &request).1.ip;
        let router = on_server_link(family, 97);
        let mut error = icmp(router, at_server.src.ip(), (3, 4, 1300), &at_server.bytes);
        error.dont_fragment = false;
        let error = icmp_frame(&error, port_mac(SERVERS), mac_of(router))[14..].to_vec();
        let sent = arrive(&mut director, SERVERS, &split(&error, &[0, 576], 4), router);
        let seen = joined(&sent, CLIENTS, 1500);
        assert_eq!((seen.src.ip(), seen.dst.ip(), &seen.payload[..8][..2]), (vip(family, 1), from.ip(), &[3, 4][..]));
        let quoted = check::check_quoted(&seen.payload[8..]);
        assert_eq!((quoted.src, quoted.dst), (from, virt(family, 1)));
        director.settle();
    }
}

/// What is known of congestion is not lost (RFC 3168 section 5.3).
#[test]
fn congestion_is_passed_on() {
    for (fields, expected) in [
        ([2, 2, 2], Some(2)),
        ([2, 3, 2], Some(3)),
        ([1, 1, 3], Some(3)),
        ([0, 0, 0], Some(0)),
        ([0, 3, 0], None),
        ([0, 2, 2], None),
    ] {
        for family in FAMILIES {
            let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
            let from = client(family, 5);
            let mut fragments = split(&large(from, virt(family, 1), 4000).ip(), &even(family), 1);
            for (ip, ecn) in fragments.iter_mut().zip(fields) {
                if family == Family::V4 {
                    ip[1] = ip[1] & !3 | ecn;
                    ip[10..12].fill(0);
                    let checksum = proto::checksum::Sum::ZERO.add_bytes(&ip[..20]).finish();
                    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                } else {
                    ip[1] = ip[1] & !0x30 | ecn << 4;
                }
            }
            let sent = arrive(&mut director, CLIENTS, &fragments, from.ip());
            let found = sent.first().map(|s| if family == Family::V4 { s.frame[15] & 3 } else { s.frame[15] >> 4 & 3 });
            assert_eq!(found, expected, "{fields:?}");
            assert_eq!(director.dropped(DropReason::FragmentInvalid), if expected.is_none() { 3 } else { 0 });
            director.settle();
        }
    }
}

/// A datagram of the property test: its length, and where it is cut; no fragment has more than 1400 bytes of data.
fn datagram() -> impl Strategy<Value = (usize, BTreeSet<usize>)> {
    (100usize..9000).prop_flat_map(|len| {
        let cuts = prop::collection::btree_set((1..(len + 8).div_ceil(8)).prop_map(|cut| cut * 8), 0..20);
        (Just(len), cuts.prop_map(move |cuts| cuts.into_iter().chain((0..len + 8).step_by(1400)).collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Datagrams of several clients, cut anywhere, their fragments mixed and some of them twice, at any worker: each leaves
    /// once, as it was sent.
    #[test]
    fn any_fragments_in_any_order_make_the_datagrams_that_were_sent(
        is_v6: bool,
        mode in prop::sample::select(MODES.to_vec()),
        workers in prop::sample::select(vec![1usize, 2, 4]),
        datagrams in prop::collection::vec(datagram(), 1..8),
        seed: u64,
    ) {
        let family = if is_v6 { Family::V6 } else { Family::V4 };
        let mut director =
            Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, mode, &[1])]);
        let mut random = seed;
        let mut next = |n: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % n
        };
        let mut frames = Vec::new();
        let mut expected = Vec::new();
        for (n, (len, cuts)) in datagrams.iter().enumerate() {
            // All with the same identification, from different clients.
            let from = SocketAddr::new(on_client_link(family, 10 + n as u8), 7);
            let request = large(from, virt(family, 1), *len);
            let offsets: Vec<usize> = cuts.iter().copied().collect();
            let fragments = if offsets.len() == 1 { vec![request.ip()] } else { split(&request.ip(), &offsets, 1) };
            let copies = fragments.len();
            for ip in &fragments {
                frames.push((from.ip(), ip.clone()));
            }
            if copies > 1 && next(2) == 0 {
                // Not behind the last: it would wait for others.
                let again = fragments[next(copies)].clone();
                let at = frames.len() - copies;
                frames.insert(at, (from.ip(), again));
            }
            expected.push((n, request.payload));
        }
        // Mixed within a window, so that duplicates mostly stay before the end; what waits in vain is counted below.
        for i in 0..frames.len() {
            let j = i + next((frames.len() - i).min(12));
            frames.swap(i, j);
        }
        let mut sent = Vec::new();
        for (from, ip) in &frames {
            director.arrive(next(workers), CLIENTS, &frame(CLIENTS, ip, *from));
            if next(3) == 0 {
                sent.extend(director.run());
            }
        }
        sent.extend(director.run());
        let mut by_packet: HashMap<Vec<u8>, Vec<SeenIp>> = HashMap::new();
        for s in &sent {
            let ip = s.seen().ip;
            let id = if is_v6 { ip.options.get(4..8).unwrap_or_default() } else { &ip.bytes[4..6] };
            let key = match ip.fragment {
                (0, false) => ip.bytes.clone(),
                _ => [id, ip.src.to_string().as_bytes()].concat(),
            };
            by_packet.entry(key).or_default().push(ip);
        }
        let mut payloads: Vec<Vec<u8>> = by_packet
            .into_values()
            .map(|fragments| match fragments.len() {
                1 => fragments[0].clone().innermost().payload,
                _ => reassemble(&fragments).innermost().payload,
            })
            .collect();
        let mut expected: Vec<Vec<u8>> = expected.into_iter().map(|(_, payload)| payload).collect();
        payloads.sort();
        expected.sort();
        prop_assert!(payloads == expected, "{} datagrams of {} came; drops {:?}", payloads.len(), expected.len(), director.drops());
        director.settle();
    }
}
