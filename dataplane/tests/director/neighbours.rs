//! The way out and the slow path: next hops, packets that wait, frames to and from the kernel.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::PortId;
use dataplane::conn::TICKS_PER_SECOND;
use dataplane::fib::{NextHop, Route};
use dataplane::io::memory::HeapPacket;
use dataplane::snapshot::ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
use dataplane::verdict::DropReason;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::packet::{arp_request, icmp, icmp_frame, tcp, udp};
use crate::support::*;

#[test]
fn packets_wait_for_a_neighbour_and_leave_in_order() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            director.rewire(|network| network.unresolved.push(server(family, 1)));
            let packet = |n: u8| udp(client(family, 9), virt(family, 1)).with_payload(vec![n; 20]);
            for n in 0..10 {
                assert!(director.receive(0, CLIENTS, &packet(n)).is_empty());
            }
            assert_eq!(director.waiting(), 10);
            let requests = director.requests();
            assert!(requests.iter().all(|r| *r == (SERVERS, server(family, 1))), "{requests:?}");
            assert!((1..=2).contains(&requests.len()), "{requests:?}: asked at once, not for every packet");
            director.pass(TICKS_PER_SECOND);
            assert_eq!(director.requests(), [(SERVERS, server(family, 1))], "asked again after a second");
            // The neighbour becomes known at the moment when further packets arrive.
            director.rewire(|network| network.unresolved.clear());
            director.arrive(0, CLIENTS, &frame_for(CLIENTS, &packet(10)));
            director.arrive(0, CLIENTS, &frame_for(CLIENTS, &packet(11)));
            let sent = director.run();
            let order: Vec<u8> = sent
                .iter()
                .map(|s| {
                    let seen = s.seen();
                    assert_eq!((s.port, seen.dst_mac), (SERVERS, mac_of(server(family, 1))));
                    seen.ip.innermost().payload[0]
                })
                .collect();
            assert_eq!(order, (0..12).collect::<Vec<_>>(), "{family:?} {mode:?}");
            assert_eq!((director.waiting(), director.drops()), (0, vec![]));
            director.finish();
        }
    }
}

#[test]
fn packets_are_given_up_after_three_seconds() {
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, Nat, &[1])]);
    director.rewire(|network| network.unresolved.push(server(Family::V4, 1)));
    director.receive(0, CLIENTS, &udp(client(Family::V4, 9), virt(Family::V4, 1)));
    director.pass(3 * TICKS_PER_SECOND - 1);
    assert_eq!((director.waiting(), director.drops()), (1, vec![]));
    director.settle();
    director.pass(1);
    assert_eq!((director.waiting(), director.drops()), (0, vec![(DropReason::NeighbourUnresolved, 1)]));
    director.finish();
}

#[test]
fn waiting_is_bounded_per_neighbour_and_in_total() {
    let servers: Vec<u8> = (1..=16).collect();
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, Nat, &servers)]);
    director.rewire(|network| network.unresolved = servers.iter().map(|&n| server(Family::V4, n)).collect());
    let packet = |cport| udp(client(Family::V4, cport), virt(Family::V4, 1));
    for _ in 0..100 {
        director.receive(0, CLIENTS, &packet(1));
    }
    assert_eq!((director.waiting(), director.drops()), (64, vec![(DropReason::NeighbourQueueFull, 36)]));
    director.requests();
    // The others take the rest of the room; each has its request.
    for cport in 2..=16 {
        for _ in 0..40 {
            director.receive(0, CLIENTS, &packet(cport));
        }
    }
    assert_eq!(director.waiting(), 512);
    assert_eq!(director.dropped(DropReason::NeighbourQueueFull), 36 + 15 * 40 - (512 - 64));
    let mut asked: Vec<_> = director.requests().into_iter().map(|(_, addr)| addr).collect();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 12, "the neighbours that packets wait for");
    director.rewire(|network| network.unresolved.clear());
    assert_eq!(director.run().len(), 512);
    director.finish();
}

/// A packet that turns out to be too large once the way is known.
#[test]
fn waiting_packets_are_held_to_the_mtu() {
    for (mode, dont_fragment) in [(Nat, true), (Nat, false), (Tunnel, true), (Tunnel, false)] {
        let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, mode, &[1])]);
        director.rewire(|network| {
            network.mtu[1] = 1000;
            network.unresolved.push(server(Family::V4, 1));
        });
        let mut large = udp(client(Family::V4, 9), virt(Family::V4, 1)).with_payload(vec![5; 1200]);
        large.dont_fragment = dont_fragment;
        let answers = director.receive(0, CLIENTS, &large);
        // The MTU is the port's, whoever the neighbour: the client is told without waiting.
        assert_eq!(answers.len(), usize::from(dont_fragment), "{mode:?}");
        assert!(answers.iter().all(|answer| answer.port == CLIENTS));
        director.rewire(|network| network.unresolved.clear());
        let sent = director.run();
        if dont_fragment {
            assert_eq!((sent.len(), director.drops()), (0, vec![(DropReason::TooBig, 1)]), "{mode:?}");
        } else {
            let fragments: Vec<_> = sent.iter().map(|s| s.seen().ip).collect();
            assert!(fragments.iter().all(|f| f.bytes.len() <= 1000));
            let whole = check::reassemble(&fragments);
            assert_eq!(whole.innermost().payload, large.payload, "{mode:?}");
        }
        director.settle();
    }
}

/// The MTU shrinks while the packet waits.
#[test]
fn waiting_packets_meet_a_smaller_mtu() {
    for (family, mode, dont_fragment) in
        [(Family::V4, Nat, true), (Family::V4, Nat, false), (Family::V4, Tunnel, false), (Family::V6, Tunnel, true)]
    {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
        director.rewire(|network| {
            network.mtu[1] = 1310;
            network.unresolved.push(server(family, 1));
        });
        let mut large = udp(client(family, 9), virt(family, 1)).with_payload(vec![5; 1280 - 48]);
        large.dont_fragment = dont_fragment;
        assert!(director.receive(0, CLIENTS, &large).is_empty());
        director.rewire(|network| {
            network.mtu[1] = 1000;
            network.unresolved.clear();
        });
        let sent = director.run();
        if (family, dont_fragment) == (Family::V4, true) {
            assert_eq!((sent.len(), director.drops()), (0, vec![(DropReason::TooBig, 1)]));
        } else {
            let fragments: Vec<_> = sent.iter().map(|s| s.seen().ip).collect();
            assert!(fragments.iter().all(|f| f.bytes.len() <= 1000));
            assert_eq!(check::reassemble(&fragments).innermost().payload, large.payload, "{family:?} {mode:?}");
        }
        director.settle();
    }
}

#[test]
fn existing_and_new_connections_follow_the_routes() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            let packet = udp(client(family, 9), virt(family, 1));
            let (_, seen) = director.forward(0, CLIENTS, &packet);
            assert_eq!(seen.dst_mac, mac_of(server(family, 1)));
            let to_client = udp(seen.ip.dst, seen.ip.src);
            // Another MAC address.
            director.rewire(|network| network.moved.push((server(family, 1), [2, 9, 9, 9, 9, 9])));
            assert_eq!(director.forward(1, CLIENTS, &packet).1.dst_mac, [2, 9, 9, 9, 9, 9]);
            // What was remembered of the server for new connections does not outlive the change either.
            let another = udp(client(family, 10), virt(family, 1));
            assert_eq!(director.forward(1, CLIENTS, &another).1.dst_mac, [2, 9, 9, 9, 9, 9]);
            // The same for the client, where the server speaks first.
            if mode.sees_replies() {
                assert_eq!(director.forward(0, SERVERS, &to_client).1.dst_mac, mac_of(client(family, 9).ip()));
                director.rewire(|network| network.moved.push((client(family, 9).ip(), [2, 8, 8, 8, 8, 8])));
                assert_eq!(director.forward(1, SERVERS, &to_client).1.dst_mac, [2, 8, 8, 8, 8, 8]);
            }
            // A host route by way of a router on the other port; and the client behind a router.
            let (gateway, router) = (on_client_link(family, 77), on_server_link(family, 78));
            let host = |network: IpAddr, port, gateway| Route {
                network,
                prefix_len: if family == Family::V4 { 32 } else { 128 },
                next_hops: vec![NextHop { port, gateway: Some(gateway), weight: 1 }],
                preferred_source: None,
                mtu: None,
            };
            director.rewire(|network| {
                network.routes.insert(0, host(server(family, 1), CLIENTS, gateway));
                network.routes.insert(0, host(client(family, 9).ip(), SERVERS, router));
            });
            for cport in [9, 10, 11] {
                let (port, seen) = director.forward(0, CLIENTS, &udp(client(family, cport), virt(family, 1)));
                assert_eq!((port, seen.dst_mac, seen.src_mac), (CLIENTS, mac_of(gateway), port_mac(CLIENTS)));
            }
            let (_, seen) = director.forward(0, CLIENTS, &packet);
            if mode == Tunnel {
                assert_eq!(seen.ip.src.ip(), own(family, CLIENTS), "the outer source follows the route");
            }
            if mode.sees_replies() {
                let (port, seen) = director.forward(0, SERVERS, &to_client);
                assert_eq!((port, seen.dst_mac, seen.src_mac), (SERVERS, mac_of(router), port_mac(SERVERS)));
            }
            // No route at all.
            director.rewire(|network| {
                network.routes[1].next_hops.clear();
            });
            assert!(director.receive(0, CLIENTS, &packet).is_empty());
            assert_eq!(director.drops(), [(DropReason::NoRoute, 1)]);
            director.finish();
        }
    }
}

#[test]
fn a_server_does_not_inherit_the_way_of_the_one_that_had_its_id() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            for (cport, n) in [(1, 1), (2, 2), (3, 1)] {
                director.configure(|services| services[0].servers[0].addr = server(family, n));
                let (_, seen) = director.forward(0, CLIENTS, &udp(client(family, cport), virt(family, 1)));
                assert_eq!(seen.dst_mac, mac_of(server(family, n)), "{family:?}, {mode:?}, server {n}");
            }
            director.finish();
        }
    }
}

#[test]
fn multipath_spreads_connections_and_keeps_each_on_its_path() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let [first, second] = [81, 82].map(|n| on_server_link(family, n));
        let hop = |gateway, weight| NextHop { port: SERVERS, gateway: Some(gateway), weight };
        let route = Route {
            network: server(family, 1),
            prefix_len: if family == Family::V4 { 32 } else { 128 },
            next_hops: vec![hop(first, 1), hop(second, 3)],
            preferred_source: None,
            mtu: None,
        };
        director.rewire(|network| network.routes.insert(0, route));
        let mut on_first = 0;
        for cport in 1000..1400 {
            let packet = udp(client(family, cport), virt(family, 1));
            let path = director.forward(0, CLIENTS, &packet).1.dst_mac;
            assert_eq!(director.forward(1, CLIENTS, &packet).1.dst_mac, path);
            assert!(path == mac_of(first) || path == mac_of(second));
            on_first += i32::from(path == mac_of(first));
        }
        assert!((60..=140).contains(&on_first), "{on_first} of 400 with a share of a quarter");
        // Only the second path's neighbour is unknown: its packets wait for it, they do not change over.
        director.rewire(|network| network.unresolved.push(second));
        for cport in 2000..2040 {
            director.receive(0, CLIENTS, &udp(client(family, cport), virt(family, 1)));
        }
        let waiting = director.waiting();
        assert!(waiting > 10, "{waiting} of 40 wait");
        director.pass(1);
        assert_eq!(director.waiting(), waiting);
        assert!(director.requests().iter().all(|r| *r == (SERVERS, second)));
        director.rewire(|network| network.unresolved.clear());
        let sent = director.run();
        assert_eq!(sent.len(), waiting);
        assert!(sent.iter().all(|s| s.seen().dst_mac == mac_of(second)));
        director.finish();
    }
}

#[test]
fn other_frames_go_to_the_kernel_as_they_are() {
    let mut director = Director::new(Setup::workers(2), vec![service(1, Family::V4, Protocol::TCP, FullNat, &[1])]);
    let (host, mac) = (on_client_link(Family::V4, 50), mac_of(on_client_link(Family::V4, 50)));
    open(&mut director, 0, Protocol::TCP, client(Family::V4, 1), virt(Family::V4, 1));
    let mut frames = Vec::new();
    frames.push(arp_request(mac, Ipv4Addr::new(192, 0, 2, 50), Ipv4Addr::new(192, 0, 2, 1)));
    for family in FAMILIES {
        let echo = if family == Family::V4 { 8 } else { 128 };
        for to in [vip(family, 1), own(family, CLIENTS), local(family, 1)] {
            let ping = icmp(on_client_link(family, 50), to, (echo, 0, 0x0001_0001), b"ping");
            frames.push(icmp_frame(&ping, port_mac(CLIENTS), mac));
        }
    }
    // A redirect about a packet of a connection is for the host that routes, not for the server.
    let quoted = tcp(virt(Family::V4, 1), client(Family::V4, 1), Flags::ACK).ip();
    frames.push(icmp_frame(&icmp(host, vip(Family::V4, 1), (5, 1, 0), &quoted), port_mac(CLIENTS), mac));
    // A VLAN tag, an unknown EtherType, a group address.
    frames.push([&port_mac(CLIENTS)[..], &mac[..], &[0x81, 0, 0, 5, 8, 0], &[0; 46][..]].concat());
    frames.push([&port_mac(CLIENTS)[..], &mac[..], &[0x88, 0xcc], &[0; 46][..]].concat());
    frames.push([&[1, 0, 0x5e, 0, 0, 18][..], &mac[..], &[8, 0], &[7; 46][..]].concat());
    // Another IP protocol to a virtual address.
    let mut gre = tcp(client(Family::V4, 1), virt(Family::V4, 1), Flags::SYN).ip();
    gre[9] = 47;
    let checksum = u16::from_be_bytes([gre[10], gre[11]]).wrapping_sub(47 - 6);
    gre[10..12].copy_from_slice(&checksum.to_be_bytes());
    frames.push(packet::frame(&gre, port_mac(CLIENTS), mac));
    for (i, frame) in frames.iter().enumerate() {
        director.arrive(i % 2, PortId(0), frame);
        assert!(director.run().is_empty(), "frame {i}");
        assert_eq!(director.punted(), [(CLIENTS, frame.clone())], "frame {i}; {:?}", director.drops());
    }
    assert_eq!(director.drops(), []);
    director.finish();
}

#[test]
fn the_kernel_is_not_flooded_and_hears_arp_all_the_same() {
    let setup = Setup { slow_path_frames: 20_000, ..Setup::workers(1) };
    let mut director = Director::new(setup, Vec::new());
    let mac = mac_of(on_client_link(Family::V4, 50));
    let arp = arp_request(mac, Ipv4Addr::new(192, 0, 2, 50), Ipv4Addr::new(192, 0, 2, 1));
    let solicitation = icmp(on_client_link(Family::V6, 50), own(Family::V6, CLIENTS), (135, 0, 0), &[0; 16]);
    let solicitation = icmp_frame(&solicitation, port_mac(CLIENTS), mac);
    let unicast = frame_for(CLIENTS, &udp(client(Family::V4, 1), virt(Family::V4, 1)));
    let mut broadcast = unicast.clone();
    broadcast[..6].fill(0xff);
    let ping = icmp(on_client_link(Family::V6, 50), own(Family::V6, CLIENTS), (128, 0, 0), b"flood");
    let ping = icmp_frame(&ping, port_mac(CLIENTS), mac);
    for flood in [unicast, broadcast, ping] {
        for _ in 0..15_000 {
            director.arrive(0, CLIENTS, &flood);
        }
        director.arrive(0, CLIENTS, &arp);
        director.arrive(0, CLIENTS, &solicitation);
        director.run();
        let punted: Vec<_> = director.punted().into_iter().map(|(_, frame)| frame).collect();
        let flooded = punted.iter().filter(|f| **f == flood).count();
        assert!((1..15_000).contains(&flooded), "{flooded} of 15000 reach the kernel");
        assert_eq!(director.dropped(DropReason::PuntLimit), 15_000 - flooded as u64);
        assert!(punted.contains(&arp), "address resolution gets through");
        assert!(punted.contains(&solicitation), "neighbour discovery gets through");
        director.settle();
        director = Director::new(setup, Vec::new());
    }
}

#[test]
fn a_kernel_that_does_not_listen_loses_frames() {
    let setup = Setup { slow_path_frames: 8, ..Setup::workers(1) };
    let mut director = Director::new(setup, Vec::new());
    for cport in 0..20 {
        director.receive(0, CLIENTS, &udp(client(Family::V4, cport), virt(Family::V4, 1)));
    }
    assert_eq!(director.drops(), [(DropReason::PuntFull, 12)]);
    assert_eq!(director.punted().len(), 8);
    director.receive(0, CLIENTS, &udp(client(Family::V4, 1), virt(Family::V4, 1)));
    assert_eq!(director.punted().len(), 1, "buffers come back");
    director.settle();
}

#[test]
fn frames_of_the_kernel_leave_by_their_port() {
    let mut director = Director::new(Setup::workers(2), Vec::new());
    let frames: Vec<(PortId, Vec<u8>)> = (0..100u8)
        .map(|n| {
            (PortId(u16::from(n) % 2), udp(client(Family::V4, n.into()), virt(Family::V4, n)).frame([2; 6], [4; 6]))
        })
        .collect();
    for (port, frame) in &frames {
        director.inject(*port, frame);
    }
    let sent = director.run();
    for port in [CLIENTS, SERVERS] {
        let expected: Vec<_> = frames.iter().filter(|(p, _)| *p == port).map(|(_, frame)| frame).collect();
        let found: Vec<_> = sent.iter().filter(|s| s.port == port).map(|s| &s.frame).collect();
        assert_eq!(found, expected, "in order, unchanged");
    }
    assert_eq!(director.drops(), []);
    director.settle();
}

#[test]
fn frames_that_are_not_for_us_or_broken() {
    let good = frame_for(CLIENTS, &tcp(client(Family::V4, 1), virt(Family::V4, 1), Flags::SYN));
    let change = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let cases = [
        ("another station's MAC address", change(5, 9), DropReason::WrongMac),
        ("the other port's MAC address", change(5, 1), DropReason::WrongMac),
        ("ends in the Ethernet header", good[..13].to_vec(), DropReason::Truncated),
        ("nothing at all", Vec::new(), DropReason::Truncated),
        ("a group address and nothing else", vec![0xff; 6], DropReason::Truncated),
        ("ends in the IP header", good[..30].to_vec(), DropReason::Truncated),
        ("ends in the TCP header", good[..50].to_vec(), DropReason::BadIpLength),
        ("IP version", change(14, 0x65), DropReason::BadIpVersion),
        ("IP header length", change(14, 0x44), DropReason::BadIpHeaderLength),
        ("IP length", change(16, 0xff), DropReason::BadIpLength),
        ("IP checksum", change(24, good[24] ^ 1), DropReason::BadIpChecksum),
        ("TCP header length", change(46, 0x40), DropReason::BadTcpHeader),
    ];
    for (what, frame, reason) in cases {
        let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::TCP, Nat, &[1])]);
        director.arrive(0, CLIENTS, &frame);
        assert!(director.run().is_empty(), "{what}");
        assert_eq!(director.drops(), [(reason, 1)], "{what}");
        assert_eq!(director.connections(), [], "{what}");
        director.settle();
    }
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::TCP, Nat, &[1])]);
    director.arrive_packet(0, CLIENTS, HeapPacket::from_frame(&good).with_more_segments());
    assert!(director.run().is_empty());
    assert_eq!(director.drops(), [(DropReason::MultiSegment, 1)]);
    director.settle();
}

/// Bytes behind the IP packet must neither make a frame too long nor be taken for part of the packet.
#[test]
fn what_follows_the_packet_is_cut_off() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            let packet = udp(client(family, 9), virt(family, 1));
            for junk in [1, 100, 1900] {
                let mut frame = frame_for(CLIENTS, &packet);
                frame.resize(frame.len() + junk, 0xdd);
                director.arrive(0, CLIENTS, &frame);
                let sent = director.run();
                assert_eq!(sent.len(), 1, "{mode:?}: {junk} bytes of junk");
                let seen = sent[0].seen();
                assert_eq!(seen.ip.innermost().payload, packet.payload);
            }
            director.finish();
        }
    }
}

#[test]
fn full_transmit_queues_and_empty_pools_drop_and_count() {
    let mut director =
        Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, DirectRouting, &[1])]);
    director.wire(0).limit_output(SERVERS, 10);
    for _ in 0..100 {
        director.arrive(0, CLIENTS, &frame_for(CLIENTS, &udp(client(Family::V4, 1), virt(Family::V4, 1))));
    }
    assert_eq!(director.run().len(), 10);
    assert_eq!(director.drops(), [(DropReason::TxFull, 90)]);
    director.wire(0).limit_buffers(0);
    director.inject(CLIENTS, &[1; 60]);
    assert!(director.run().is_empty());
    assert_eq!(director.drops(), [(DropReason::NoBuffer, 1), (DropReason::TxFull, 90)]);
    director.finish();
}
