//! ICMP errors that open connections (`schedule_icmp`).

use dataplane::snapshot::ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
use dataplane::snapshot::Service;
use dataplane::verdict::DropReason;
use proto::state::State;
use proto::{Family, Protocol};

use crate::support::check::check_quoted;
use crate::support::packet::{Packet, icmp, icmp_frame, opening, tcp, udp};
use crate::support::*;

/// A director that schedules ICMP errors.
fn director(workers: usize, service: Service) -> Director {
    let mut director = Director::new(Setup::workers(workers), vec![service]);
    director.settings.schedule_icmp = true;
    director.publish();
    director
}

/// What a service's server sent to a client.
fn reply(family: Family, protocol: Protocol, cport: u16) -> Packet {
    let (from, to) = (virt(family, 1), client(family, cport));
    match protocol {
        Protocol::TCP => tcp(from, to, proto::tcp::Flags::ACK),
        _ => udp(from, to),
    }
}

/// A router before the client says that `about` did not get there.
fn error(about: &Packet) -> Packet {
    let family = Family::of(about.src.ip());
    let unreachable = if family == Family::V4 { (3, 3, 0) } else { (1, 4, 0) };
    icmp(on_client_link(family, 98), vip(family, 1), unreachable, &about.ip())
}

fn report(director: &mut Director, worker: usize, error: &Packet) -> Vec<Sent> {
    director.arrive(worker, CLIENTS, &icmp_frame(error, port_mac(CLIENTS), mac_of(error.src.ip())));
    director.run()
}

#[test]
fn the_error_and_the_client_reach_the_same_server() {
    for family in FAMILIES {
        for mode in MODES {
            for protocol in PROTOCOLS {
                for workers in [1, 2, 4] {
                    let mut director = director(workers, service(1, family, protocol, mode, &[1, 2, 3]));
                    let about = reply(family, protocol, 600);
                    let sent = report(&mut director, workers - 1, &error(&about));
                    assert_eq!(sent.len(), 1, "{family:?} {mode:?} {protocol:?}: {:?}", director.drops());
                    let (mac, outer) = (sent[0].seen().dst_mac, sent[0].seen().ip);
                    let message = outer.clone().innermost();
                    let record = director.connection();
                    let (daddr, dport) = record.server;
                    assert_eq!((sent[0].port, mac), (SERVERS, mac_of(daddr)));
                    // The quoted packet is the one that the server sent.
                    let quoted = check_quoted(&message.payload[8..]);
                    let router = on_client_link(family, 98);
                    let (src, dst, from, to) = match mode {
                        Nat => (router, daddr, (daddr, dport), (about.dst.ip(), about.dst.port())),
                        FullNat => (record.local.0, daddr, (daddr, dport), record.local),
                        DirectRouting | Tunnel => {
                            (router, vip(family, 1), (vip(family, 1), VPORT), (about.dst.ip(), about.dst.port()))
                        }
                    };
                    assert_eq!((message.src.ip(), message.dst.ip(), message.ttl), (src, dst, 63));
                    assert_eq!((quoted.src, quoted.dst), (from.into(), to.into()), "{family:?} {mode:?} {protocol:?}");
                    let state = if protocol == Protocol::TCP { State::None } else { State::Udp };
                    assert_eq!((record.state, record.expires), (state, 3));

                    let (_, seen) = director.forward(0, CLIENTS, &opening(protocol, about.dst, about.src));
                    let inner = seen.ip.innermost();
                    assert_eq!(seen.dst_mac, mac);
                    let record = director.connection();
                    assert_eq!(record.server, (daddr, dport));
                    let (state, timeout) =
                        if protocol == Protocol::TCP { (State::SynRecv, 60) } else { (State::Udp, 300) };
                    assert_eq!((record.state, record.expires), (state, timeout), "{inner:?}");
                    assert_eq!(director.total(|c| c.load(record.server_id).total.get()), 1);
                    assert_eq!(director.drops(), []);
                    director.finish();
                }
            }
        }
    }
}

/// A stream of datagrams, whose timeout must not stay that of the error.
#[test]
fn a_connection_waits_three_seconds_for_a_packet() {
    for family in FAMILIES {
        let mut director = director(2, service(1, family, Protocol::UDP, Nat, &[1]));
        assert_eq!(report(&mut director, 0, &error(&reply(family, Protocol::UDP, 600))).len(), 1);
        director.pass_seconds(5);
        assert_eq!(director.connections(), []);
        assert_eq!(report(&mut director, 0, &error(&reply(family, Protocol::UDP, 600))).len(), 1);
        for worker in [0, 1, 0] {
            director.forward(worker, CLIENTS, &udp(client(family, 600), virt(family, 1)));
        }
        director.pass_seconds(200);
        assert_eq!(director.connection().state, State::Udp);
        director.finish();
    }
}

#[test]
fn what_opens_nothing() {
    for family in FAMILIES {
        let about = reply(family, Protocol::UDP, 600);
        let alike = service(1, family, Protocol::UDP, Nat, &[1]);
        let is_punted = |mut director: Director, packet: &Packet| {
            assert_eq!(report(&mut director, 0, packet).len(), 0);
            assert_eq!(director.punted().len(), 1);
            assert_eq!(director.connections(), []);
            director.finish();
        };
        is_punted(Director::new(Setup::workers(1), vec![alike.clone()]), &error(&about));
        // Another service, a packet to the service, a client that is an FTP server.
        let mut other = about.clone();
        other.src.set_port(VPORT + 1);
        is_punted(director(1, alike.clone()), &error(&other));
        is_punted(director(1, alike.clone()), &error(&udp(about.dst, about.src)));
        is_punted(director(1, alike.clone()), &error(&reply(family, Protocol::UDP, 20)));
        let is_dropped = |mut director: Director, reason: DropReason| {
            let mut frame = icmp_frame(&error(&about), port_mac(CLIENTS), mac_of(on_client_link(family, 98)));
            if reason == DropReason::BadIcmp {
                *frame.last_mut().expect("a byte") ^= 1;
            }
            director.arrive(0, CLIENTS, &frame);
            assert_eq!(director.run().len(), 0);
            assert_eq!((director.drops(), director.connections()), (vec![(reason, 1)], vec![]));
            director.finish();
        };
        is_dropped(director(1, service(1, family, Protocol::UDP, Nat, &[])), DropReason::NoServer);
        is_dropped(director(1, alike.clone()), DropReason::BadIcmp);
        let mut draining = director(1, alike);
        draining.settings.draining = true;
        draining.publish();
        is_dropped(draining, DropReason::Draining);
    }
}

#[test]
fn one_packet_scheduling_keeps_nothing() {
    for family in FAMILIES {
        let mut balanced = service(1, family, Protocol::UDP, Nat, &[1, 2]);
        balanced.one_packet = true;
        let mut director = director(2, balanced);
        for n in [1, 2] {
            let sent = report(&mut director, 0, &error(&reply(family, Protocol::UDP, 600)));
            assert_eq!(sent[0].seen().ip.dst.ip(), server(family, n));
        }
        assert_eq!(director.connections(), []);
        director.finish();
    }
}
