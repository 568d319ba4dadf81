//! Packets that arrive at another worker than their connection's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dataplane::snapshot::ForwardMode::{DirectRouting, FullNat, Nat};
use dataplane::snapshot::Service;
use dataplane::verdict::DropReason;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::packet::{Packet, opening, tcp, udp};
use crate::support::*;

#[test]
fn replies_of_a_nat_server_of_several_services_find_their_way() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for workers in [1, 2, 4] {
                let services = (1..=4).map(|id| service(id, family, protocol, Nat, &[1])).collect();
                let mut director = Director::new(Setup::workers(workers), services);
                for n in 0..80u16 {
                    let (id, client) = (1 + (n % 4) as u8, client(family, 20000 + n));
                    let at_server = open(&mut director, usize::from(n) % workers, protocol, client, virt(family, id));
                    assert_eq!(at_server.src, client, "NAT leaves the client's address");
                    for worker in 0..workers {
                        let reply = match protocol {
                            Protocol::TCP => ack(at_server.dst, client),
                            _ => udp(at_server.dst, client),
                        };
                        let (port, seen) = director.forward(worker, SERVERS, &reply);
                        assert_eq!((port, seen.ip.src, seen.ip.dst), (CLIENTS, virt(family, id), client));
                    }
                }
                assert_eq!(director.drops(), []);
                assert_eq!(director.total(|c| c.steered.get()) > 0, workers > 1);
                director.settle();
            }
        }
    }
}

/// Many at once, so that a ring holds packets which have been at different workers before.
#[test]
fn replies_find_their_way_in_bursts() {
    for workers in [2, 4] {
        let services = (1..=8).map(|id| service(id, Family::V4, Protocol::UDP, Nat, &[1])).collect();
        let mut director = Director::new(Setup::workers(workers), services);
        let mut replies = Vec::new();
        for n in 0..160u16 {
            let (id, client) = (1 + (n % 8) as u8, client(Family::V4, 20000 + n));
            let at_server = open(&mut director, 0, Protocol::UDP, client, virt(Family::V4, id));
            replies.push(udp(at_server.dst, client));
        }
        for worker in 0..workers {
            for (n, reply) in replies.iter().enumerate() {
                director.arrive((n + worker) % workers, SERVERS, &frame_for(SERVERS, reply));
            }
            let sent = director.run();
            assert_eq!(sent.len(), replies.len(), "{workers} workers; punted: {}", director.punted().len());
        }
        assert_eq!(director.drops(), []);
        director.settle();
    }
}

fn ack(src: SocketAddr, dst: SocketAddr) -> Packet {
    tcp(src, dst, Flags::ACK)
}

/// A name server that answers for one service and asks another, from its service port.
#[test]
fn a_nat_server_may_be_a_client_from_its_service_port() {
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            for first in 0..workers {
                let services = vec![
                    service(1, family, Protocol::UDP, Nat, &[1]),
                    service(2, family, Protocol::UDP, Nat, &[2]),
                    service(3, family, Protocol::UDP, FullNat, &[2]),
                ];
                let mut director = Director::new(Setup::workers(workers), services);
                let asking = SocketAddr::new(server(family, 1), DPORT);
                for id in [2, 3] {
                    for i in 0..workers {
                        let (_, seen) =
                            director.forward((first + i) % workers, SERVERS, &udp(asking, virt(family, id)));
                        let answer = udp(seen.ip.dst, seen.ip.src);
                        let (_, seen) = director.forward((first + 3 * i + 1) % workers, SERVERS, &answer);
                        assert_eq!((seen.ip.src, seen.ip.dst), (virt(family, id), asking));
                    }
                }
                assert_eq!(director.connections().len(), 2, "one connection each, wherever its packets arrive");
                director.finish();
            }
        }
    }
}

/// Connections of removed servers end by their timers; until then the servers' packets are translated, as by IPVS, and
/// find their way from any worker as before.
#[test]
fn replies_of_removed_servers_find_their_way() {
    type Change = fn(&mut Vec<Service>);
    let changes: [(&str, Change); 4] = [
        ("server removed", |services| {
            services[0].servers.remove(0);
        }),
        ("service removed", |services| {
            services.remove(0);
        }),
        ("local address removed", |services| services[0].local_addresses.clear()),
        ("mode changed", |services| services[0].servers[0].mode = DirectRouting),
    ];
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for workers in [1, 2, 4] {
                for (what, change) in changes {
                    // The endpoint is a NAT server of another service, too.
                    let services = vec![
                        service(1, family, Protocol::UDP, mode, &[1]),
                        service(2, family, Protocol::UDP, Nat, &[1]),
                    ];
                    let mut director = Director::new(Setup::workers(workers), services);
                    let at_servers: Vec<_> = (0..16u16)
                        .map(|n| {
                            let client = client(family, 20000 + n);
                            (client, open(&mut director, 0, Protocol::UDP, client, virt(family, 1)))
                        })
                        .collect();
                    director.configure(change);
                    for (client, at_server) in at_servers {
                        for worker in 0..workers {
                            let reply = udp(at_server.dst, at_server.src);
                            let sent = director.receive(worker, SERVERS, &reply);
                            assert_eq!(sent.len(), 1, "{what}: {mode:?}, {workers} workers, at {worker}");
                            let ip = sent[0].seen().ip;
                            assert_eq!((ip.src, ip.dst), (virt(family, 1), client), "{what}");
                        }
                    }
                    assert_eq!(director.drops(), []);
                    director.finish();
                }
            }
        }
    }
}

#[test]
fn what_no_worker_knows_is_punted_once_by_whichever() {
    for workers in [1, 2, 4] {
        let services = (1..=4).map(|id| service(id, Family::V4, Protocol::UDP, Nat, &[1])).collect();
        let mut director = Director::new(Setup::workers(workers), services);
        let server = SocketAddr::new(server(Family::V4, 1), DPORT);
        for cport in 0..50 {
            let stray = udp(server, client(Family::V4, 30000 + cport));
            assert!(director.receive(usize::from(cport) % workers, SERVERS, &stray).is_empty());
            assert_eq!(director.punted(), [(SERVERS, frame_for(SERVERS, &stray))]);
        }
        director.settle();
    }
}

#[test]
fn a_full_ring_drops_and_counts() {
    let mut director = Director::new(Setup::workers(2), vec![service(1, Family::V4, Protocol::UDP, Nat, &[1])]);
    // Far more packets at worker 0 than its ring to worker 1 holds, of connections that worker 1 owns.
    open(&mut director, 0, Protocol::UDP, client(Family::V4, 1), virt(Family::V4, 1));
    let (worker, _) = director.connections_by(8)[0];
    let packet = frame_for(CLIENTS, &udp(client(Family::V4, 1), virt(Family::V4, 1)));
    for _ in 0..3000 {
        director.arrive(1 - worker, CLIENTS, &packet);
    }
    for _ in 0..3000 / 64 + 1 {
        director.turn_of(1 - worker);
    }
    let sent = director.run().len() as u64;
    assert_eq!(sent, 1024, "what the ring holds");
    assert_eq!(director.drops(), [(DropReason::SteerFull, 3000 - sent)]);
    director.settle();
}

/// Real threads, as the daemon runs them.
#[test]
fn threads_forward_and_stop() {
    const WORKERS: usize = 3;
    const CLIENTS_EACH: u16 = 50;
    let services = vec![
        service(1, Family::V4, Protocol::UDP, FullNat, &[1, 2]),
        service(2, Family::V6, Protocol::TCP, Nat, &[1, 2]),
    ];
    let (workers, wires, shared, publisher) = Director::new(Setup::workers(WORKERS), services).into_workers();
    let threads: Vec<_> = workers.into_iter().map(|w| std::thread::spawn(move || w.run())).collect();
    let mut expected = 0;
    for n in 0..CLIENTS_EACH {
        for (i, wire) in wires.iter().enumerate() {
            let cport = 1000 + n * 8 + i as u16;
            let v4 = opening(Protocol::UDP, client(Family::V4, cport), virt(Family::V4, 1));
            let v6 = opening(Protocol::TCP, client(Family::V6, cport), virt(Family::V6, 2));
            wire.push(CLIENTS, &frame_for(CLIENTS, &v4));
            wire.push(CLIENTS, &frame_for(CLIENTS, &v6));
            expected += 2;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut answered = 0;
    while answered < expected {
        assert!(Instant::now() < deadline, "{answered} of {expected} connections answered");
        for (i, wire) in wires.iter().enumerate() {
            for frame in wire.drain(SERVERS) {
                let seen = check::check(&frame);
                // The server answers; its answer arrives at the next worker.
                let protocol = Protocol(seen.ip.protocol);
                let answer = match protocol {
                    Protocol::TCP => ack(seen.ip.dst, seen.ip.src),
                    _ => udp(seen.ip.dst, seen.ip.src),
                };
                wires[(i + 1) % WORKERS].push(SERVERS, &frame_for(SERVERS, &answer));
            }
            for frame in wire.drain(CLIENTS) {
                let seen = check::check(&frame);
                assert!(seen.ip.src == virt(Family::V4, 1) || seen.ip.src == virt(Family::V6, 2), "{seen:?}");
                answered += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(publisher.is_adopted());
    shared.stop();
    for thread in threads {
        thread.join().expect("the worker returned without panic");
    }
}
