//! New connections, configuration changes under traffic, and the tables' limits.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use dataplane::shared::{Command, Reply};
use dataplane::snapshot::ForwardMode::{DirectRouting, FullNat, Nat};
use dataplane::verdict::DropReason;
use dataplane::{ServerId, ServiceId};
use proto::state::State;
use proto::tcp::Flags;
use proto::{Family, Protocol};
use sched::{Key, Kind};

use crate::support::packet::{opening, tcp, udp};
use crate::support::*;

const ICMP_PROTOCOLS: [u8; 2] = [1, 58];

/// Opens `n` connections one after the other, arriving at the workers in turn, and counts them by server address.
fn spread(director: &mut Director, family: Family, workers: usize, cports: std::ops::Range<u16>) -> Vec<(u8, usize)> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for cport in cports {
        let at_server =
            open(director, usize::from(cport) % workers, Protocol::TCP, client(family, cport), virt(family, 1));
        *counts.entry(at_server.dst.ip()).or_default() += 1;
    }
    let mut counts: Vec<_> = (1..=8).filter_map(|n| counts.get(&server(family, n)).map(|&count| (n, count))).collect();
    counts.sort();
    counts
}

#[test]
fn connections_spread_by_scheduler_and_weight() {
    // Scheduler, weights, connections -> connections by server.
    let cases = [
        (Kind::Rr, [1, 1, 1], 9, [3, 3, 3]),
        (Kind::Rr, [5, 1, 1], 9, [3, 3, 3]),
        (Kind::Wrr, [1, 2, 3], 12, [2, 4, 6]),
        (Kind::Wrr, [6, 0, 2], 8, [6, 0, 2]),
        (Kind::Wlc, [1, 1, 1], 9, [3, 3, 3]),
        (Kind::Wlc, [1, 3, 4], 16, [2, 6, 8]),
        (Kind::Wlc, [1, 0, 1], 8, [4, 0, 4]),
        (Kind::Lc, [1, 3, 4], 9, [3, 3, 3]),
        (Kind::Lc, [7, 0, 1], 8, [4, 0, 4]),
        (Kind::Sed, [1, 2, 4], 14, [2, 4, 8]),
        (Kind::Sed, [1, 4, 0], 3, [0, 3, 0]),
        (Kind::Nq, [1, 4, 0], 3, [1, 2, 0]),
        (Kind::Fo, [1, 4, 2], 9, [0, 9, 0]),
        (Kind::Ovf, [1, 4, 2], 9, [1, 5, 3]),
        (Kind::Lblc, [5, 5, 5], 9, [6, 3, 0]),
        (Kind::Lblcr, [5, 5, 5], 9, [6, 3, 0]),
    ];
    for family in FAMILIES {
        for (kind, weights, connections, expected) in cases {
            let mut balanced = service(1, family, Protocol::TCP, Nat, &[1, 2, 3]);
            for (server, weight) in balanced.servers.iter_mut().zip(weights) {
                server.weight = weight;
            }
            // Schedulers that only remember what their own worker did are exact with one worker; the others look at the
            // whole director's connections and are exact with any number.
            let worker_counts: &[usize] = if matches!(kind, Kind::Rr | Kind::Wrr) { &[1] } else { &[1, 2, 4] };
            for &workers in worker_counts {
                let mut director = Director::new(Setup::workers(workers), vec![balanced.clone()]).with_scheduler(kind);
                let found = spread(&mut director, family, workers, 1000..1000 + connections);
                let expected: Vec<_> = (1..=3).zip(expected).filter(|&(_, count)| count > 0).collect();
                assert_eq!(found, expected, "{kind:?} {weights:?} with {workers} workers");
                director.settle();
            }
        }
    }
}

#[test]
fn a_quic_connection_keeps_its_server_when_the_client_moves() {
    for family in FAMILIES {
        let balanced = service(1, family, Protocol::UDP, DirectRouting, &[1, 2, 3]);
        let mut director = Director::new(Setup::workers(2), vec![balanced]).with_scheduler(Kind::Conhash(Key::QuicId));
        let mut servers = HashSet::new();
        for id in 0..20 {
            // An Initial packet with an id of 8 bytes, then a short header from other ports, as after a rebinding.
            let initial = [&[0xc0, 0, 0, 0, 1, 8][..], &[id; 8], &[0; 30]].concat();
            let short = [&[0x40][..], &[id; 8], &[0; 30]].concat();
            let server_of = |director: &mut Director, cport, payload: Vec<u8>| {
                let packet = udp(client(family, cport), virt(family, 1)).with_payload(payload);
                director.forward(usize::from(id) % 2, CLIENTS, &packet).1.dst_mac
            };
            let server = server_of(&mut director, 1000 + u16::from(id), initial);
            for cport in 2000..2004 {
                assert_eq!(server_of(&mut director, cport + u16::from(id) * 4, short.clone()), server);
            }
            servers.insert(server);
        }
        assert_eq!(servers.len(), 3, "ids are spread");
    }
}

#[test]
fn round_robin_is_fair_over_several_workers() {
    let services = vec![service(1, Family::V4, Protocol::TCP, Nat, &[1, 2, 3, 4])];
    let mut director = Director::new(Setup::workers(4), services);
    let found = spread(&mut director, Family::V4, 4, 1000..1400);
    // Each worker takes turns by itself, so they differ by less than one connection per worker.
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|&(_, count)| count.abs_diff(100) <= 4), "{found:?}");
    director.settle();
}

#[test]
fn weight_zero_drains() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::TCP, Nat, &[1, 2])]);
        let before = [100, 101, 102, 103]
            .map(|cport| (cport, open(&mut director, 0, Protocol::TCP, client(family, cport), virt(family, 1)).dst));
        director.configure(|services| services[0].servers[0].weight = 0);
        assert_eq!(spread(&mut director, family, 2, 200..206), [(2, 6)], "new connections");
        for (cport, server) in before {
            let ack = tcp(client(family, cport), virt(family, 1), Flags::ACK);
            let (_, seen) = director.forward(0, CLIENTS, &ack);
            assert_eq!(seen.ip.dst, server, "existing connections go on");
        }
        director.configure(|services| services[0].servers[1].weight = 0);
        let (port, seen) = director.forward(1, CLIENTS, &tcp(client(family, 300), virt(family, 1), Flags::SYN));
        assert_eq!(port, CLIENTS);
        assert!(ICMP_PROTOCOLS.contains(&seen.ip.protocol), "port unreachable");
        assert_eq!(director.drops(), [(DropReason::NoServer, 1)]);
        assert_eq!(director.total(|c| c.service(ServiceId(1)).no_server.get()), 1);
        director.finish();
    }
}

/// Opens an established connection; a reset then makes it end after ten seconds.
fn establish(director: &mut Director, cport: u16) -> bool {
    let (from, to) = (client(Family::V4, cport), virt(Family::V4, 1));
    let sent = director.receive(0, CLIENTS, &tcp(from, to, Flags::SYN));
    let is_open = sent[0].port == SERVERS;
    if is_open {
        director.forward(0, CLIENTS, &tcp(from, to, Flags::ACK));
    }
    is_open
}

fn reset(director: &mut Director, cport: u16) {
    director.forward(0, CLIENTS, &tcp(client(Family::V4, cport), virt(Family::V4, 1), Flags::RST));
}

#[test]
fn thresholds_have_hysteresis() {
    // Upper and lower threshold, and at how many connections a server takes new ones again.
    for (upper, lower, resumes_at) in [(4, 2, 1), (4, 4, 3), (4, 0, 2), (8, 0, 5)] {
        let mut balanced = service(1, Family::V4, Protocol::TCP, Nat, &[1]);
        balanced.servers[0].upper_threshold = upper;
        balanced.servers[0].lower_threshold = lower;
        let mut director = Director::new(Setup::workers(1), vec![balanced]);
        for cport in 0..upper as u16 {
            assert!(establish(&mut director, 100 + cport), "connection {cport} below the threshold of {upper}");
        }
        assert!(!establish(&mut director, 200), "at the upper threshold {upper}");
        let mut left = upper;
        while left > resumes_at {
            assert!(!establish(&mut director, 200), "{left} left of {upper}, lower threshold {lower}");
            left -= 1;
            reset(&mut director, 100 + left as u16);
            director.pass_seconds(11);
            assert_eq!(director.connections().len() as u32, left);
        }
        assert!(establish(&mut director, 300), "{left} left of {upper}, lower threshold {lower}");
        director.finish();
    }
}

#[test]
fn a_removed_server_loses_its_connections_only() {
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 2, 4] {
                let services = vec![
                    service(1, family, Protocol::TCP, mode, &[1, 2]),
                    service(2, family, Protocol::TCP, mode, &[1]),
                ];
                let mut director = Director::new(Setup::workers(workers), services);
                for cport in 1000..1020 {
                    for id in [1, 2] {
                        // Each service has its own clients: DR servers and NAT servers would see one tuple twice.
                        let client = client(family, cport + 1000 * u16::from(id));
                        open(&mut director, usize::from(cport) % workers, Protocol::TCP, client, virt(family, id));
                    }
                }
                let gone = ServerId(16);
                director.configure(|services| {
                    services[0].servers.remove(0);
                });
                let connections = director.connections();
                let mut lost = 0;
                for (i, conn) in connections.iter().enumerate() {
                    let ack = tcp(conn.client.into(), conn.virt.into(), Flags::ACK);
                    let sent = director.receive(i % workers, CLIENTS, &ack);
                    assert_eq!(sent.len(), usize::from(conn.server_id != gone), "{conn:?}");
                    lost += u64::from(conn.server_id == gone);
                }
                assert!(lost >= 4, "{lost} connections were the removed server's");
                assert_eq!(director.drops(), [(DropReason::ServerGone, lost)]);
                director.settle();
                director.pass_seconds(61);
                assert_eq!(director.load(gone), (0, 0), "dropped packets keep no connection alive");
                director.finish();
            }
        }
    }
}

#[test]
fn an_edit_keeps_the_turn() {
    let services = vec![service(1, Family::V4, Protocol::TCP, Nat, &[1, 2, 3])];
    let mut director = Director::new(Setup::workers(1), services);
    let next = |director: &mut Director, cport| {
        open(director, 0, Protocol::TCP, client(Family::V4, cport), virt(Family::V4, 1)).dst.ip()
    };
    assert_eq!(next(&mut director, 1), server(Family::V4, 1));
    director.configure(|services| services[0].timeout = Some(60));
    assert_eq!(next(&mut director, 2), server(Family::V4, 2));
    // A server before the last one goes, and one comes at the head.
    director.configure(|services| {
        services[0].servers.remove(0);
    });
    director.configure(|services| {
        let mut new = services[0].servers[0];
        (new.id, new.addr) = (ServerId(25), server(Family::V4, 7));
        services[0].servers.push(new);
        let order = [server(Family::V4, 7), server(Family::V4, 2), server(Family::V4, 3)];
        services[0].servers.sort_by_key(|s| order.iter().position(|&a| a == s.addr));
    });
    assert_eq!(next(&mut director, 3), server(Family::V4, 3));
    assert_eq!(next(&mut director, 4), server(Family::V4, 7));
    assert_eq!(next(&mut director, 5), server(Family::V4, 2));
    director.finish();
}

/// Round robin steps back to the server before the removed one (ip_vs_rr.c, ip_vs_rr_del_dest).
#[test]
fn round_robin_goes_on_where_the_last_server_was_removed() {
    for chosen in 1..=4u8 {
        let services = vec![service(1, Family::V4, Protocol::TCP, Nat, &[1, 2, 3, 4])];
        let mut director = Director::new(Setup::workers(1), services);
        let next = |director: &mut Director, cport| {
            open(director, 0, Protocol::TCP, client(Family::V4, cport), virt(Family::V4, 1)).dst.ip()
        };
        for n in 1..=chosen {
            assert_eq!(next(&mut director, n.into()), server(Family::V4, n));
        }
        director.configure(|services| {
            services[0].servers.remove(usize::from(chosen) - 1);
        });
        for (i, n) in (chosen + 1..=4).chain(1..chosen).enumerate() {
            assert_eq!(next(&mut director, 100 + i as u16), server(Family::V4, n), "after the removal of {chosen}");
        }
        director.finish();
    }
}

/// A service in the slot of another, with servers in slots of others, owes nothing to them.
#[test]
fn a_service_in_a_used_slot_begins_at_the_head() {
    // How many connections the former service of weights 4, 3, 2 takes, and the first turns of the new one.
    for (kind, expected) in [(Kind::Rr, [1, 2, 3, 1]), (Kind::Wrr, [1, 1, 2, 1])] {
        for before in 0..9 {
            let mut former = service(1, Family::V4, Protocol::TCP, Nat, &[1, 2, 3]);
            for (server, weight) in former.servers.iter_mut().zip([4, 3, 2]) {
                server.weight = weight;
            }
            let mut director = Director::new(Setup::workers(1), vec![former.clone()]).with_scheduler(kind);
            spread(&mut director, Family::V4, 1, 100..100 + before);
            director.configure(|services| services[0].incarnation += 1);
            for (i, n) in expected.into_iter().enumerate() {
                let from = client(Family::V4, 200 + i as u16);
                let at_server = open(&mut director, 0, Protocol::TCP, from, virt(Family::V4, 1));
                assert_eq!(at_server.dst.ip(), server(Family::V4, n), "{kind:?}, {before} connections before");
            }
            director.finish();
        }
    }
}

#[test]
fn publishing_under_traffic_loses_nothing() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director =
                Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1, 2, 3])]);
            let mut servers = HashMap::new();
            for round in 0..6 {
                for cport in 500..520 {
                    match (cport + round) % 4 {
                        0 => director.publish(),
                        1 => director.rewire(|_| {}),
                        2 => director.configure(|services| services[0].servers.rotate_left(1)),
                        _ => {}
                    }
                    let client = client(family, cport);
                    let (_, seen) =
                        director.forward(usize::from(cport + round) % 2, CLIENTS, &udp(client, virt(family, 1)));
                    let at_server = (seen.dst_mac, seen.ip.src, seen.ip.dst);
                    assert_eq!(*servers.entry(cport).or_insert(at_server), at_server, "a connection keeps its server");
                }
            }
            assert_eq!(director.connections().len(), 20);
            assert_eq!(director.drops(), []);
            director.finish();
        }
    }
}

#[test]
fn a_timeout_of_the_service_replaces_that_of_established_connections() {
    let mut own = service(1, Family::V4, Protocol::TCP, Nat, &[1]);
    own.timeout = Some(30);
    let mut director = Director::new(Setup::workers(1), vec![own]);
    assert!(establish(&mut director, 1));
    assert_eq!(director.connection().expires, 30);
    director.configure(|services| services[0].timeout = None);
    director.forward(0, CLIENTS, &tcp(client(Family::V4, 1), virt(Family::V4, 1), Flags::ACK));
    assert_eq!(director.connection().expires, 900);
    director.finish();
}

#[test]
fn a_timeout_of_the_director_holds_from_the_next_packet_on() {
    for (protocol, workers) in [(Protocol::UDP, 1), (Protocol::TCP, 2)] {
        let mut director = Director::new(Setup::workers(workers), vec![service(1, Family::V4, protocol, Nat, &[1])]);
        let (from, to) = (client(Family::V4, 1), virt(Family::V4, 1));
        open(&mut director, 0, protocol, from, to);
        let packet = || if protocol == Protocol::UDP { udp(from, to) } else { tcp(from, to, Flags::ACK) };
        director.forward(0, CLIENTS, &packet());
        let before = director.connection().expires;
        director.settings.timeouts.set_udp(100);
        director.settings.timeouts.set_tcp(100);
        director.publish();
        assert_eq!(director.connection().expires, before);
        director.forward(0, CLIENTS, &packet());
        assert_eq!(director.connection().expires, 100);
        director.pass_seconds(60);
        director.forward(0, CLIENTS, &packet());
        assert_eq!(director.connection().expires, 100);
        director.finish();
    }
}

#[test]
fn a_removed_server_is_still_heard_and_comes_back_to_its_connections() {
    for family in FAMILIES {
        let services = vec![service(1, family, Protocol::UDP, FullNat, &[1, 2])];
        let mut director = Director::new(Setup::workers(1), services.clone());
        let (from, to) = (client(family, 7), virt(family, 1));
        let seen = open(&mut director, 0, Protocol::UDP, from, to);
        let reply = || udp(seen.dst, seen.src);
        let data = || udp(from, to);
        director.forward(0, CLIENTS, &data());
        director.forward(0, SERVERS, &reply());
        director.configure(|services| services[0].servers.clear());
        for _ in 0..2 {
            assert_eq!(director.receive(0, CLIENTS, &data()).len(), 0);
            director.forward(0, SERVERS, &reply());
        }
        director.rewire(|network| network.moved.push((from.ip(), [2, 9, 9, 9, 9, 9])));
        for _ in 0..2 {
            let (_, sent) = director.forward(0, SERVERS, &reply());
            assert_eq!(sent.dst_mac, [2, 9, 9, 9, 9, 9], "the new FIB holds for it, too");
        }
        assert_eq!(director.drops(), [(DropReason::ServerGone, 2)]);
        director.configure(|current| *current = services);
        director.forward(0, CLIENTS, &data());
        director.forward(0, SERVERS, &reply());
        assert_eq!(director.drops(), [(DropReason::ServerGone, 2)]);
        director.finish();
    }
}

#[test]
fn a_syn_over_an_ended_connection_is_scheduled_anew() {
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 4] {
                let mut director =
                    Director::new(Setup::workers(workers), vec![service(1, family, Protocol::TCP, mode, &[1, 2])]);
                let (from, to) = (client(family, 1234), virt(family, 1));
                let first = open(&mut director, 0, Protocol::TCP, from, to);
                // Not ended: the SYN belongs to the connection, as a repetition would.
                for worker in 0..workers {
                    director.forward(worker, CLIENTS, &tcp(from, to, Flags::SYN));
                }
                let before = director.connection();
                director.forward(0, CLIENTS, &tcp(from, to, Flags::ACK));
                director.forward(0, CLIENTS, &tcp(from, to, Flags::RST));
                assert_eq!(director.connection().state, State::Close);
                let (_, again) = director.forward(workers - 1, CLIENTS, &tcp(from, to, Flags::SYN));
                let after = director.connection();
                assert_eq!(after.state, State::SynRecv);
                assert_ne!(before.server_id, after.server_id, "round robin goes on");
                if mode == FullNat {
                    assert_ne!((again.ip.src, again.ip.dst), (first.src, first.dst), "replies can be told apart");
                }
                let connections = |id| director.total(|c| c.load(id).total.get());
                assert_eq!([ServerId(16), ServerId(17)].map(connections), [1, 1]);
                assert_eq!(director.drops(), []);
                director.finish();
            }
        }
    }
}

#[test]
fn only_a_syn_opens_a_tcp_connection() {
    for family in FAMILIES {
        let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::TCP, Nat, &[1])]);
        let all =
            [Flags::ACK, Flags::FIN, Flags::RST, Flags::SYN | Flags::RST, Flags::default(), Flags::ACK | Flags::PSH];
        for (i, flags) in all.into_iter().enumerate() {
            let stray = tcp(client(family, 99), virt(family, 1), flags).with_payload(vec![1, 2, 3]);
            assert!(director.receive(i % 2, CLIENTS, &stray).is_empty(), "{flags:?}");
            assert_eq!(director.punted(), [(CLIENTS, frame_for(CLIENTS, &stray))], "{flags:?}: as it came");
        }
        // Nor is there a service on another port, for another protocol, or at another address.
        for (i, other) in [
            tcp(client(family, 99), std::net::SocketAddr::new(vip(family, 1), 81), Flags::SYN),
            udp(client(family, 99), virt(family, 1)),
            tcp(client(family, 99), virt(family, 2), Flags::SYN),
        ]
        .iter()
        .enumerate()
        {
            assert!(director.receive(i % 2, CLIENTS, other).is_empty());
            assert_eq!(director.punted().len(), 1, "{other:?}");
        }
        assert_eq!(director.connections(), []);
        director.finish();
    }
}

/// A full burst of new connections in every turn: as many end as begin.
#[test]
fn expiry_keeps_up_with_a_flood() {
    const SECONDS: u32 = 40;
    const TICKS: u32 = SECONDS * dataplane::conn::TICKS_PER_SECOND;
    let setup = Setup { connections: 1 << 16, ..Setup::workers(1) };
    let mut director = Director::new(setup, vec![service(1, Family::V4, Protocol::UDP, DirectRouting, &[1])]);
    director.settings.timeouts.set_udp(SECONDS);
    director.publish();
    let mut most = 0;
    for turn in 0..4 * TICKS {
        for n in 0..64 {
            let client = std::net::SocketAddr::new(
                on_client_link(Family::V4, 2 + (turn % 250) as u8),
                n + 64 * (turn / 250) as u16 + 1,
            );
            director.arrive(0, CLIENTS, &frame_for(CLIENTS, &udp(client, virt(Family::V4, 1))));
        }
        director.now.0 += 1;
        assert_eq!(director.turn_of(0), 64);
        director.take_sent();
        most = most.max(director.total(|c| c.table_entries.get()));
    }
    assert!(most < u64::from(64 * TICKS * 3 / 2), "{most} connections");
    director.settle();
}

/// A reset is none of a new connection's packets, whatever else it says.
#[test]
fn a_reset_reopens_nothing() {
    let mut director = Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::TCP, Nat, &[1])]);
    let (from, to) = (client(Family::V4, 1), virt(Family::V4, 1));
    assert!(establish(&mut director, 1));
    reset(&mut director, 1);
    director.forward(0, CLIENTS, &tcp(from, to, Flags::RST | Flags::SYN));
    assert_eq!(director.connection().state, State::Close);
    director.finish();
}

#[test]
fn a_full_table_refuses_new_connections_only() {
    for family in FAMILIES {
        for mode in MODES {
            let setup = Setup { connections: 20, ..Setup::workers(1) };
            let mut director = Director::new(setup, vec![service(1, family, Protocol::UDP, mode, &[1, 2])]);
            for cport in 0..30 {
                let sent =
                    director.receive(0, CLIENTS, &opening(Protocol::UDP, client(family, 100 + cport), virt(family, 1)));
                assert_eq!(sent.len(), usize::from(cport < 20), "connection {cport}");
            }
            assert_eq!(director.drops(), [(DropReason::TableFull, 10)]);
            for cport in 0..20 {
                director.forward(0, CLIENTS, &udp(client(family, 100 + cport), virt(family, 1)));
            }
            director.settle();
            director.pass_seconds(301);
            assert_eq!(director.connections(), []);
            open(&mut director, 0, Protocol::UDP, client(family, 200), virt(family, 1));
            director.finish();
        }
    }
}

/// Two services with one NAT server: a client's second connection from the same port could not be told from the first.
#[test]
fn nat_refuses_a_second_connection_with_the_same_reply_tuple() {
    let services = [1, 2].map(|id| service(id, Family::V4, Protocol::UDP, Nat, &[1])).to_vec();
    let mut director = Director::new(Setup::workers(1), services);
    director.forward(0, CLIENTS, &udp(client(Family::V4, 7), virt(Family::V4, 1)));
    assert!(director.receive(0, CLIENTS, &udp(client(Family::V4, 7), virt(Family::V4, 2))).is_empty());
    assert_eq!(director.drops(), [(DropReason::TupleConflict, 1)]);
    director.finish();
}

#[test]
fn draining_refuses_new_connections_only() {
    let mut director =
        Director::new(Setup::workers(2), vec![service(1, Family::V4, Protocol::UDP, DirectRouting, &[1])]);
    director.forward(0, CLIENTS, &udp(client(Family::V4, 7), virt(Family::V4, 1)));
    director.settings.draining = true;
    director.publish();
    director.forward(1, CLIENTS, &udp(client(Family::V4, 7), virt(Family::V4, 1)));
    assert!(director.receive(1, CLIENTS, &udp(client(Family::V4, 8), virt(Family::V4, 1))).is_empty());
    assert_eq!(director.drops(), [(DropReason::Draining, 1)]);
    director.finish();
}

#[test]
fn connections_are_listed_in_slices() {
    let services =
        vec![service(1, Family::V4, Protocol::UDP, Nat, &[1]), service(2, Family::V6, Protocol::UDP, FullNat, &[2])];
    for (v4, v6) in [(0, 0), (40, 0), (0, 40), (33, 21)] {
        let mut director = Director::new(Setup::workers(2), services.clone());
        for cport in 0..v4 {
            open(&mut director, 0, Protocol::UDP, client(Family::V4, 100 + cport), virt(Family::V4, 1));
        }
        for cport in 0..v6 {
            open(&mut director, 0, Protocol::UDP, client(Family::V6, 100 + cport), virt(Family::V6, 2));
        }
        for slice in [1, 2, 7, 64, 1000] {
            let listed = director.connections_by(slice);
            let clients: HashSet<_> = listed.iter().map(|(_, conn)| conn.client).collect();
            assert_eq!(
                (listed.len(), clients.len()),
                (usize::from(v4 + v6), usize::from(v4 + v6)),
                "slices of {slice}"
            );
            assert!(listed.iter().all(|(_, conn)| conn.expires == 300 && conn.state == State::Udp));
        }
        director.finish();
    }
}

#[test]
fn a_listing_leaves_the_worker_to_the_packets() {
    let mut director =
        Director::new(Setup::workers(1), vec![service(1, Family::V4, Protocol::UDP, DirectRouting, &[1])]);
    let packet = |n: u16| udp(client(Family::V4, 100 + n), virt(Family::V4, 1));
    for n in 0..200 {
        director.forward(0, CLIENTS, &packet(n));
    }
    let mut turns_of_a_listing = |with_packets: bool| {
        let command = Command::Dump { cursor: 0, records: Vec::with_capacity(200) };
        director.shared.workers[0].commands.push(command).unwrap();
        for turn in 1.. {
            if with_packets {
                director.arrive(0, CLIENTS, &frame_for(CLIENTS, &packet(turn % 200)));
            }
            director.turn();
            if let Some(Reply::Dump { records, .. }) = director.shared.workers[0].replies.pop() {
                assert_eq!(records.len(), 200);
                director.take_sent();
                return turn;
            }
        }
        unreachable!()
    };
    let (busy, idle) = (turns_of_a_listing(true), turns_of_a_listing(false));
    assert!((50..=201).contains(&busy), "{busy} turns: a few connections in each turn with packets");
    assert!(idle <= 10, "{idle} turns: many in each without");
    director.finish();
}
