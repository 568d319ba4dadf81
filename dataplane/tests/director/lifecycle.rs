//! Which packets open connections, and when a connection gives way to a new one.

use std::net::SocketAddr;

use dataplane::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat, Tunnel};
use dataplane::snapshot::{Reuse, Server};
use dataplane::verdict::DropReason;
use dataplane::{ServerId, ServiceId};
use proto::state::State;
use proto::tcp::Flags;
use proto::{Family, Protocol};
use sched::Kind;

use crate::support::packet::{opening, tcp, udp};
use crate::support::*;

const FIN: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const RST: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// A director with a service of two servers.
fn director(family: Family, workers: usize, protocol: Protocol, mode: ForwardMode) -> Director {
    Director::new(Setup::workers(workers), vec![service(1, family, protocol, mode, &[1, 2])])
}

/// The server that a client's segment reaches; arrives at the last worker.
fn reaches(director: &mut Director, cport: u16, flags: Flags) -> Option<ServerId> {
    let family = director.family();
    let worker = director.shared.limits.workers - 1;
    let segment = tcp(client(family, cport), virt(family, 1), flags);
    match director.receive(worker, CLIENTS, &segment).len() {
        0 => None,
        _ => Some(director.connection().server_id),
    }
}

/// Brings the only connection into a state by segments of the client.
fn lead_to(director: &mut Director, cport: u16, state: State) {
    let segments: &[Flags] = match state {
        State::SynRecv => &[Flags::SYN],
        State::Established => &[Flags::SYN, Flags::ACK],
        State::FinWait => &[Flags::SYN, Flags::ACK, FIN],
        State::Close => &[Flags::SYN, Flags::ACK, RST],
        State::TimeWait => &[Flags::SYN, FIN],
        _ => panic!("no way to {state}"),
    };
    for &flags in segments {
        reaches(director, cport, flags);
    }
    assert_eq!(director.connection().state, state);
}

#[test]
fn a_port_used_again_is_scheduled_anew_as_the_mode_says() {
    use State::{Close, Established, FinWait, SynRecv, TimeWait};
    // Mode of forwarding, state -> the settings with which a SYN is scheduled anew.
    let cases: [(ForwardMode, State, &[Reuse]); 9] = [
        (Nat, SynRecv, &[]),
        (Nat, Established, &[]),
        (Nat, TimeWait, &[Reuse::Ended, Reuse::Closing]),
        (Nat, Close, &[Reuse::Ended, Reuse::Closing]),
        (FullNat, Close, &[Reuse::Ended, Reuse::Closing]),
        (DirectRouting, Established, &[]),
        (DirectRouting, FinWait, &[Reuse::Closing]),
        (Tunnel, FinWait, &[Reuse::Closing]),
        (Tunnel, Close, &[Reuse::Ended, Reuse::Closing]),
    ];
    for family in FAMILIES {
        for workers in [1, 2] {
            for (mode, state, anew) in cases {
                for reuse in [Reuse::Never, Reuse::Ended, Reuse::Closing] {
                    let mut director = director(family, workers, Protocol::TCP, mode);
                    director.settings.reuse = reuse;
                    director.publish();
                    lead_to(&mut director, 1000, state);
                    let before = director.connection().server_id;
                    let after = reaches(&mut director, 1000, Flags::SYN).expect("forwarded");
                    assert_eq!(after != before, anew.contains(&reuse), "{mode:?} {state} {reuse:?}");
                    director.settle();
                }
            }
        }
    }
}

#[test]
fn a_server_of_weight_zero_loses_new_connections_of_known_ports() {
    for family in FAMILIES {
        for expire_nodest_conn in [false, true] {
            let mut director = director(family, 2, Protocol::TCP, Nat);
            director.settings.expire_nodest_conn = expire_nodest_conn;
            director.settings.reuse = Reuse::Never;
            lead_to(&mut director, 1000, State::Established);
            let before = director.connection().server_id;
            director.configure(|services| {
                let server = services[0].servers.iter_mut().find(|s| s.id == before);
                server.expect("its server").weight = 0;
            });
            assert_eq!(reaches(&mut director, 1000, Flags::ACK), Some(before), "it drains");
            let after = reaches(&mut director, 1000, Flags::SYN).expect("forwarded");
            assert_eq!(after != before, expire_nodest_conn);
            director.settle();
        }
    }
}

#[test]
fn connections_of_a_removed_server_rest_or_end() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = director(family, 2, Protocol::UDP, mode);
            let datagram = udp(client(family, 1000), virt(family, 1));
            director.forward(0, CLIENTS, &datagram);
            let before = director.connection().server_id;
            let removed = *director.services()[0].servers.iter().find(|s| s.id == before).expect("its server");
            director.configure(|services| services[0].servers.retain(|s| s.id != before));
            assert_eq!(director.receive(0, CLIENTS, &datagram).len(), 0, "its packets are dropped");
            assert_eq!(director.dropped(DropReason::ServerGone), 1);

            director.configure(|services| services[0].servers.push(removed));
            director.forward(0, CLIENTS, &datagram);
            assert_eq!(director.connection().server_id, before, "the server is back");

            director.settings.expire_nodest_conn = true;
            director.configure(|services| services[0].servers.retain(|s| s.id != before));
            director.forward(0, CLIENTS, &datagram);
            assert_ne!(director.connection().server_id, before, "{mode:?}: the packet is scheduled anew");
            assert_eq!(director.dropped(DropReason::ServerGone), 1);
            director.finish();
        }
    }
}

#[test]
fn a_segment_of_a_removed_servers_connection_does_not_open_another() {
    let mut director = director(Family::V4, 2, Protocol::TCP, Nat);
    director.settings.expire_nodest_conn = true;
    lead_to(&mut director, 1000, State::Established);
    let before = director.connection().server_id;
    director.configure(|services| services[0].servers.retain(|s| s.id != before));
    assert_eq!(reaches(&mut director, 1000, Flags::ACK), None);
    assert_eq!((director.punted().len(), director.connections().len()), (1, 0), "the kernel resets it");
    assert!(reaches(&mut director, 1000, Flags::SYN).is_some());
    director.finish();
}

#[test]
fn sloppy_tcp_takes_any_segment_but_a_reset() {
    let cases = [
        (Flags::SYN, true, State::SynRecv),
        (Flags::ACK, false, State::Established),
        (FIN, false, State::Close),
        (Flags(0), false, State::Close),
    ];
    for family in FAMILIES {
        for mode in MODES {
            for sloppy_tcp in [false, true] {
                for (flags, opens_always, state) in cases {
                    let mut director = director(family, 2, Protocol::TCP, mode);
                    director.settings.sloppy_tcp = sloppy_tcp;
                    director.publish();
                    let opened = reaches(&mut director, 1000, flags).is_some();
                    assert_eq!(opened, opens_always || sloppy_tcp, "{flags:?} sloppy_tcp {sloppy_tcp}");
                    if opened {
                        assert_eq!(director.connection().state, state, "{flags:?}");
                    }
                    director.settle();
                }
                for flags in [RST, Flags(Flags::RST.0 | Flags::SYN.0)] {
                    let mut director = director(family, 2, Protocol::TCP, mode);
                    director.settings.sloppy_tcp = sloppy_tcp;
                    director.publish();
                    assert_eq!((reaches(&mut director, 1000, flags), director.punted().len()), (None, 1));
                }
            }
        }
    }
}

#[test]
fn the_sorry_server_stands_in_while_no_server_is_available() {
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 2] {
                let mut director = director(family, workers, Protocol::UDP, mode);
                let sorry = ServerId(30);
                let opens = |director: &mut Director, cport| {
                    director.receive(0, CLIENTS, &udp(client(family, cport), virt(family, 1)));
                    director.connections().iter().find(|c| c.client.1 == cport).map(|c| c.server_id)
                };
                director.configure(|services| {
                    let like = services[0].servers[0];
                    services[0].sorry = Some(Server { id: sorry, addr: server(family, 9), ..like });
                });
                assert_ne!(opens(&mut director, 1000), Some(sorry));
                director.configure(|services| services[0].servers.iter_mut().for_each(|s| s.weight = 0));
                assert_eq!(opens(&mut director, 1001), Some(sorry), "all have weight 0");
                assert_ne!(opens(&mut director, 1000), Some(sorry), "known connections drain");
                let servers = director.services()[0].servers.clone();
                director.configure(|services| services[0].servers.clear());
                assert_eq!(opens(&mut director, 1002), Some(sorry), "there are none");
                director.configure(|services| services[0].servers = servers);
                director.configure(|services| services[0].servers[1].weight = 1);
                assert_eq!(opens(&mut director, 1003), Some(ServerId(17)), "one is back");
                assert_eq!(opens(&mut director, 1001), Some(sorry), "known connections go on");
                director.configure(|services| services[0].servers[1].upper_threshold = 1);
                assert_eq!(opens(&mut director, 1004), Some(sorry), "the only one is full");
                assert_eq!(director.total(|c| c.service(ServiceId(1)).no_server.get()), 0);
                director.configure(|services| services[0].sorry = None);
                assert_eq!(opens(&mut director, 1005), None);
                assert_eq!(director.total(|c| c.load(sorry).total.get()), 3);
                director.finish();
            }
        }
    }
}

#[test]
fn the_sorry_server_does_not_help_a_scheduler_that_insists() {
    // Source hashing without its fallback: who hashes to a server of weight 0 gets none, though there is another.
    let mut director = director(Family::V4, 1, Protocol::UDP, Nat).with_scheduler(Kind::Dh);
    director.configure(|services| {
        let like = services[0].servers[0];
        services[0].sorry = Some(Server { id: ServerId(30), addr: server(Family::V4, 9), ..like });
    });
    let datagram = udp(client(Family::V4, 1000), virt(Family::V4, 1));
    director.receive(0, CLIENTS, &datagram);
    let chosen = director.connection().server_id;
    director.configure(|services| {
        services[0].servers.iter_mut().filter(|s| s.id == chosen).for_each(|s| s.weight = 0);
    });
    director.receive(0, CLIENTS, &udp(client(Family::V4, 1001), virt(Family::V4, 1)));
    assert_eq!((director.connections().len(), director.dropped(DropReason::NoServer)), (1, 1));
    director.settle();
}

#[test]
fn nat_servers_are_told_of_packets_without_a_connection() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for nat_icmp_send in [false, true] {
                let mut director = director(family, 2, protocol, Nat);
                director.settings.nat_icmp_send = nat_icmp_send;
                director.publish();
                let stray = |sport| {
                    let from = SocketAddr::new(server(family, 1), sport);
                    let mut packet = opening(protocol, from, client(family, 1000));
                    if protocol == Protocol::TCP {
                        packet = tcp(from, client(family, 1000), Flags::ACK);
                    }
                    packet
                };
                let sent = director.receive(1, SERVERS, &stray(DPORT));
                assert_eq!(sent.len(), usize::from(nat_icmp_send));
                if let [error] = sent.as_slice() {
                    assert_eq!(error.seen().ip.dst.ip(), server(family, 1));
                    assert_eq!((director.dropped(DropReason::Stray), director.punted().len()), (1, 0));
                }
                director.punted();
                assert_eq!(director.receive(1, SERVERS, &stray(9)).len(), 0, "no server has this port");
                assert_eq!(director.punted().len(), 1);
                director.settle();
            }
        }
        let mut director = director(family, 2, Protocol::TCP, Nat);
        director.settings.nat_icmp_send = true;
        director.publish();
        let reset = tcp(SocketAddr::new(server(family, 1), DPORT), client(family, 1000), RST);
        assert_eq!((director.receive(0, SERVERS, &reset).len(), director.punted().len()), (0, 1));
    }
}

#[test]
fn health_checks_come_back_but_open_nothing() {
    // A check asks a DR server at the virtual address, from an address of the director's, perhaps one that FULLNAT uses.
    for family in FAMILIES {
        for workers in [1, 3] {
            for own in [own(family, SERVERS), local(family, 1)] {
                let services = vec![
                    service(1, family, Protocol::TCP, DirectRouting, &[1, 2]),
                    service(2, family, Protocol::TCP, FullNat, &[1, 2]),
                ];
                let mut director = Director::new(Setup::workers(workers), services);
                let check = SocketAddr::new(own, 40_000);
                for worker in 0..workers {
                    // The server's answer is the kernel's, wherever it comes.
                    let sent = director.receive(worker, SERVERS, &tcp(virt(family, 1), check, Flags::SYN | Flags::ACK));
                    assert_eq!((sent.len(), director.punted().len()), (0, 1));
                    // A server without the virtual address may send the check back.
                    let sent = director.receive(worker, SERVERS, &tcp(check, virt(family, 1), Flags::SYN));
                    assert_eq!((sent.len(), director.punted().len()), (0, 0));
                }
                assert_eq!(director.drops(), [(DropReason::Martian, workers as u64)]);
                assert_eq!(director.connections(), []);
            }
        }
    }
}
