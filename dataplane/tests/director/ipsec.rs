//! ESP and AH follow the IKE connection of their addresses.

use std::net::{IpAddr, SocketAddr};

use dataplane::ServerId;
use dataplane::snapshot::ForwardMode::{self, FullNat, Nat, Tunnel};
use dataplane::snapshot::Service;
use dataplane::verdict::DropReason;
use proto::{Family, Protocol};

use crate::support::check::check_quoted;
use crate::support::packet::{Packet, icmp, icmp_frame, other, udp};
use crate::support::*;

const IKE: u16 = 500;

fn ike_service(family: Family, mode: ForwardMode) -> Service {
    let mut balanced = service(1, family, Protocol::UDP, mode, &[1, 2, 3]);
    balanced.key.vport = IKE;
    for server in &mut balanced.servers {
        server.port = IKE;
    }
    balanced
}

fn gateway(family: Family, n: u8) -> IpAddr {
    on_client_link(family, 50 + n)
}

fn ike(family: Family, n: u8) -> Packet {
    udp(SocketAddr::new(gateway(family, n), IKE), SocketAddr::new(vip(family, 1), IKE))
}

fn esp(protocol: Protocol, src: IpAddr, dst: IpAddr) -> Packet {
    other(protocol, src, dst, b"\x00\x00\x12\x34\x00\x00\x00\x01what nobody on the way can read")
}

#[test]
fn packets_follow_the_ike_connection() {
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 2, 4] {
                let mut director = Director::new(Setup::workers(workers), vec![ike_service(family, mode)]);
                for n in 0..6 {
                    let worker = usize::from(n) % workers;
                    for protocol in [Protocol::ESP, Protocol::AH] {
                        let packet = esp(protocol, gateway(family, n), vip(family, 1));
                        assert!(director.receive(worker, CLIENTS, &packet).is_empty(), "no connection yet");
                        assert_eq!(director.punted(), [(CLIENTS, frame_for(CLIENTS, &packet))]);
                    }
                    let (_, first) = director.forward(worker, CLIENTS, &ike(family, n));
                    director.pass_seconds(200);
                    for protocol in [Protocol::ESP, Protocol::AH] {
                        let packet = esp(protocol, gateway(family, n), vip(family, 1));
                        if mode == FullNat {
                            assert!(director.receive(worker, CLIENTS, &packet).is_empty());
                            assert_eq!(director.punted(), [(CLIENTS, frame_for(CLIENTS, &packet))]);
                            continue;
                        }
                        let (port, seen) = director.forward((worker + 1) % workers, CLIENTS, &packet);
                        assert_eq!((port, seen.dst_mac), (SERVERS, first.dst_mac), "the server of the connection");
                        assert_eq!((seen.ip.src.ip(), seen.ip.dst.ip()), (first.ip.src.ip(), first.ip.dst.ip()));
                        let (ip, at) = (seen.ip.innermost(), first.ip.clone().innermost());
                        assert_eq!((ip.src.ip(), ip.dst.ip()), (at.src.ip(), at.dst.ip()));
                        assert_eq!((ip.protocol, ip.ttl, &ip.payload), (protocol.0, 63, &packet.payload));
                        if mode == Nat {
                            let reply = esp(protocol, ip.dst.ip(), ip.src.ip());
                            let (port, seen) = director.forward(worker, SERVERS, &reply);
                            assert_eq!(
                                (port, seen.ip.src.ip(), seen.ip.dst.ip()),
                                (CLIENTS, vip(family, 1), ip.src.ip())
                            );
                            assert_eq!((seen.ip.protocol, &seen.ip.payload), (protocol.0, &reply.payload));
                        }
                    }
                    let connections = director.connections();
                    let newest = connections.iter().find(|c| c.client.0 == gateway(family, n)).expect("the connection");
                    assert_eq!(newest.expires, if mode == FullNat { 100 } else { 300 }, "they keep it alive");
                }
                let counted = |id| director.total(|c| c.server(ServerId(id)).in_packets.get());
                let each = if mode == FullNat { 2 } else { 6 };
                assert_eq!((16..19).map(counted).sum::<u64>(), 3 * each);
                director.finish();
            }
        }
    }
}

#[test]
fn a_connection_from_another_port_is_not_followed() {
    let family = Family::V4;
    let mut director = Director::new(Setup::workers(2), vec![ike_service(family, Nat)]);
    let from = SocketAddr::new(gateway(family, 1), 4500);
    director.forward(0, CLIENTS, &udp(from, SocketAddr::new(vip(family, 1), IKE)));
    assert!(director.receive(0, CLIENTS, &esp(Protocol::ESP, from.ip(), vip(family, 1))).is_empty());
    assert_eq!(director.punted().len(), 1);
    director.finish();
}

#[test]
fn errors_and_refusals() {
    for family in FAMILIES {
        for mode in [Nat, Tunnel] {
            let mut director = Director::new(Setup::workers(2), vec![ike_service(family, mode)]);
            director.forward(0, CLIENTS, &ike(family, 1));
            let packet = esp(Protocol::ESP, gateway(family, 1), vip(family, 1));
            let (port, _) = director.forward(0, CLIENTS, &packet.clone().with_ttl(1));
            assert_eq!((port, director.drops()), (CLIENTS, vec![(DropReason::TtlExceeded, 1)]));
            // What is said about the packet to the server is for the client.
            if mode == Nat {
                let (_, seen) = director.forward(1, CLIENTS, &packet);
                let kind = if family == Family::V4 { (3, 4, 1400) } else { (2, 0, 1400) };
                let error = icmp(seen.ip.dst.ip(), seen.ip.src.ip(), kind, &seen.ip.bytes);
                director.arrive(1, SERVERS, &icmp_frame(&error, port_mac(SERVERS), mac_of(seen.ip.dst.ip())));
                let sent = director.run();
                assert_eq!(sent.len(), 1);
                let ip = sent[0].seen().ip;
                assert_eq!((ip.src.ip(), ip.dst.ip()), (vip(family, 1), gateway(family, 1)));
                let about = check_quoted(&ip.payload[8..]);
                assert_eq!((about.src.ip(), about.dst.ip()), (gateway(family, 1), vip(family, 1)));
                assert_eq!(about.payload, packet.payload);
            }
            director.configure(|services| services[0].servers.clear());
            assert!(director.receive(0, CLIENTS, &packet).is_empty());
            assert_eq!(director.dropped(DropReason::ServerGone), 1);
            director.finish();
        }
    }
}
