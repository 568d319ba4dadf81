//! FULLNAT: local addresses and ports.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use dataplane::snapshot::ForwardMode::{FullNat, Nat};
use dataplane::steer::{Ownership, Rss};
use dataplane::verdict::DropReason;
use dataplane::{ServiceId, WorkerId};
use proto::tcp::Flags;
use proto::{Address, Family, Protocol, Tuple};

use crate::support::packet::{opening, tcp, udp};
use crate::support::*;

/// The worker to which RSS would deliver a packet.
fn owner(workers: usize, protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> WorkerId {
    fn of<A: Address>(workers: usize, protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> WorkerId {
        let addr = |ip: IpAddr| A::from_ip(ip).expect("one family");
        let (sport, dport) = (src.port(), dst.port());
        let tuple = Tuple { src: addr(src.ip()), dst: addr(dst.ip()), sport, dport, protocol };
        Ownership::new(&Rss::software(workers)).owner(&tuple)
    }
    match src {
        SocketAddr::V4(_) => of::<std::net::Ipv4Addr>(workers, protocol, src, dst),
        SocketAddr::V6(_) => of::<std::net::Ipv6Addr>(workers, protocol, src, dst),
    }
}

#[test]
fn replies_belong_to_the_worker_that_chose_the_port() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for workers in [1, 2, 4] {
                let mut balanced = service(1, family, protocol, FullNat, &[1, 2]);
                balanced.local_addresses = vec![local(family, 1), local(family, 2), local(family, 3)];
                balanced.local_ports = (2000, 2039);
                let mut director = Director::new(Setup::workers(workers), vec![balanced]);
                for cport in 101..=200 {
                    open(&mut director, usize::from(cport) % workers, protocol, client(family, cport), virt(family, 1));
                }
                let connections = director.connections_by(7);
                assert_eq!(connections.len(), 100);
                let mut replies = HashSet::new();
                for (worker, conn) in &connections {
                    let (from, to) = (SocketAddr::from(conn.server), SocketAddr::from(conn.local));
                    assert!(replies.insert((from, to)), "two connections with replies from {from} to {to}");
                    assert_eq!(owner(workers, protocol, from, to), WorkerId(*worker as u16), "reply {from} to {to}");
                    let (from, to) = (SocketAddr::from(conn.client), SocketAddr::from(conn.virt));
                    assert_eq!(owner(workers, protocol, from, to), WorkerId(*worker as u16), "request {from} to {to}");
                    assert!((2000..=2039).contains(&conn.local.1));
                }
                let addresses: HashSet<_> = connections.iter().map(|(_, conn)| conn.local.0).collect();
                assert!(addresses.len() > 1, "one local address of three: {addresses:?}");
                director.settle();
            }
        }
    }
}

#[test]
fn a_pool_is_used_to_the_last_port_and_again_after_expiry() {
    let ports = (5000, 5011);
    for family in FAMILIES {
        for (workers, addresses) in [(1, 1), (1, 3), (2, 2), (4, 2)] {
            let mut balanced = service(1, family, Protocol::TCP, FullNat, &[1]);
            balanced.local_addresses = (1..=addresses).map(|n| local(family, n)).collect();
            balanced.local_ports = ports;
            let mut director = Director::new(Setup::workers(workers), vec![balanced]);
            let server = SocketAddr::new(server(family, 1), DPORT);
            let mut expected: HashMap<usize, usize> = HashMap::new();
            for n in 1..=addresses {
                for lport in ports.0..=ports.1 {
                    let reply_to = SocketAddr::new(local(family, n), lport);
                    *expected.entry(owner(workers, Protocol::TCP, server, reply_to).0.into()).or_default() += 1;
                }
            }
            let pool: usize = expected.values().sum();
            assert_eq!(pool, usize::from(addresses) * 12);
            for round in 0..3 {
                let tries = 60 * workers;
                for i in 0..tries {
                    let syn = tcp(client(family, 10000 + i as u16), virt(family, 1), Flags::SYN);
                    director.receive(i % workers, CLIENTS, &syn);
                }
                let mut found: HashMap<usize, usize> = HashMap::new();
                for (worker, _) in director.connections_by(64) {
                    *found.entry(worker).or_default() += 1;
                }
                assert_eq!(found, expected, "{family:?}, {workers} workers, {addresses} addresses, round {round}");
                let refused = ((round + 1) * (tries - pool)) as u64;
                assert_eq!(director.drops(), [(DropReason::LocalPortExhausted, refused)]);
                assert_eq!(director.total(|c| c.service(ServiceId(1)).local_port_exhausted.get()), refused);
                director.settle();
                director.pass_seconds(61);
                assert_eq!(director.connections(), [], "SYN_RECV has timed out");
            }
        }
    }
}

#[test]
fn each_server_has_all_ports_and_services_share_them() {
    for family in FAMILIES {
        // Two services with one local address of eight ports; the first has a server of its own besides a common one.
        let mut first = service(1, family, Protocol::UDP, FullNat, &[1, 2]);
        first.local_ports = (6000, 6007);
        let mut second = service(2, family, Protocol::UDP, FullNat, &[1]);
        second.local_ports = (6000, 6007);
        let mut director = Director::new(Setup::workers(1), vec![first, second]);
        for cport in 0..30 {
            director.receive(0, CLIENTS, &opening(Protocol::UDP, client(family, 7000 + cport), virt(family, 1)));
            director.receive(0, CLIENTS, &opening(Protocol::UDP, client(family, 7000 + cport), virt(family, 2)));
        }
        let mut pairs = HashSet::new();
        for conn in director.connections() {
            assert!(pairs.insert((conn.local, conn.server)), "{conn:?} shares its reply tuple");
        }
        assert_eq!(pairs.len(), 16, "eight ports towards each of two servers");
        let [first, second] = [1, 2].map(|id| director.total(|c| c.service(ServiceId(id)).local_port_exhausted.get()));
        assert_eq!(director.drops(), [(DropReason::LocalPortExhausted, first + second)]);
        director.finish();
    }
}

#[test]
fn a_service_without_local_address_opens_nothing() {
    let mut balanced = service(1, Family::V4, Protocol::TCP, FullNat, &[1]);
    balanced.local_addresses.clear();
    let mut director = Director::new(Setup::workers(1), vec![balanced]);
    let syn = tcp(client(Family::V4, 1), virt(Family::V4, 1), Flags::SYN);
    assert!(director.receive(0, CLIENTS, &syn).is_empty());
    assert_eq!(director.drops(), [(DropReason::NoLocalAddress, 1)]);
    director.finish();
}

/// One server endpoint may serve a NAT service and a FULLNAT one: which worker owns a reply must not be confused.
#[test]
fn nat_and_fullnat_share_a_server() {
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            let services =
                vec![service(1, family, Protocol::UDP, Nat, &[1]), service(2, family, Protocol::UDP, FullNat, &[1])];
            let mut director = Director::new(Setup::workers(workers), services);
            for cport in 3000..3040 {
                for id in [1, 2] {
                    // Different client ports, as the two would have the same address and port at the server otherwise.
                    let client = client(family, cport + 1000 * u16::from(id));
                    let at_server =
                        open(&mut director, usize::from(cport) % workers, Protocol::UDP, client, virt(family, id));
                    for worker in 0..workers {
                        let (port, seen) = director.forward(worker, SERVERS, &udp(at_server.dst, at_server.src));
                        assert_eq!((port, seen.ip.src, seen.ip.dst), (CLIENTS, virt(family, id), client));
                    }
                }
            }
            assert_eq!(director.drops(), []);
            director.finish();
        }
    }
}

#[test]
fn connections_outlive_their_local_address() {
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            let mut director =
                Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, FullNat, &[1])]);
            let flows: Vec<_> = (0..20)
                .map(|cport| {
                    let client = client(family, 100 + cport);
                    (client, open(&mut director, 0, Protocol::UDP, client, virt(family, 1)))
                })
                .collect();
            director.configure(|services| services[0].local_addresses = vec![local(family, 2)]);
            for (client, at_server) in flows {
                for worker in 0..workers {
                    let (_, seen) = director.forward(worker, SERVERS, &udp(at_server.dst, at_server.src));
                    assert_eq!((seen.ip.src, seen.ip.dst), (virt(family, 1), client));
                    let (_, seen) = director.forward(worker, CLIENTS, &udp(client, virt(family, 1)));
                    assert_eq!(seen.ip.src, at_server.src);
                }
            }
            let new = open(&mut director, 0, Protocol::UDP, client(family, 50), virt(family, 1));
            assert_eq!(new.src.ip(), local(family, 2));
            director.finish();
        }
    }
}
