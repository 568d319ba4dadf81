//! TFTP: servers that answer from another port than the one they were asked at.

use std::net::SocketAddr;

use dataplane::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat};
use proto::{Family, Protocol};

use crate::support::packet::{Packet, udp};
use crate::support::*;

const READ: &[u8] = b"\x00\x01pxelinux.0\x00octet\x00";
const DATA: &[u8] = b"\x00\x03\x00\x01data";
const ACK: &[u8] = b"\x00\x04\x00\x01";

fn director(family: Family, mode: ForwardMode, workers: usize) -> Director {
    let mut director = Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, mode, &[1, 2])]);
    director.settings.helper_ports.tftp.push(VPORT);
    director.publish();
    director
}

fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Packet {
    udp(from, to).with_payload(payload.to_vec())
}

/// A client asks; the request as the server gets it, and whom the server answers.
fn ask(director: &mut Director, worker: usize, from: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (port, seen) = director.forward(worker, CLIENTS, &datagram(from, virt(director.family(), 1), READ));
    assert_eq!((port, &seen.ip.payload[..]), (SERVERS, READ));
    (seen.ip.dst, seen.ip.src)
}

#[test]
fn a_transfer_goes_on_between_other_ports() {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for workers in [1, 2, 4] {
                let mut director = director(family, mode, workers);
                for n in 0..8 {
                    let from = client(family, 600 + n as u16);
                    let (server, peer) = ask(&mut director, n % workers, from);
                    let transfer = SocketAddr::new(server.ip(), 40_000 + n as u16);
                    for step in 0..3 {
                        let worker = (n + step) % workers;
                        let (port, seen) = director.forward(worker, SERVERS, &datagram(transfer, peer, DATA));
                        assert_eq!((port, &seen.ip.payload[..]), (CLIENTS, DATA));
                        assert_eq!((seen.ip.src, seen.ip.dst), ((vip(family, 1), transfer.port()).into(), from));
                        let (port, seen) = director.forward(worker, CLIENTS, &datagram(from, seen.ip.src, ACK));
                        assert_eq!((port, &seen.ip.payload[..]), (SERVERS, ACK), "{family:?} {mode:?} {workers}");
                        assert_eq!((seen.ip.src, seen.ip.dst), (peer, transfer));
                    }
                }
                assert_eq!(director.connections().len(), 16);
                assert_eq!(director.drops(), []);
                director.finish();
            }
        }
    }
}

/// The server's port is that of another connection of the client: here that of its request.
#[test]
fn a_port_that_is_taken_is_replaced() {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for workers in [1, 3] {
                let mut director = director(family, mode, workers);
                let from = client(family, 600);
                let (server, peer) = ask(&mut director, 0, from);
                let transfer = SocketAddr::new(server.ip(), VPORT);
                let (_, seen) = director.forward(workers - 1, SERVERS, &datagram(transfer, peer, DATA));
                assert_eq!((seen.ip.src.ip(), seen.ip.dst), (vip(family, 1), from));
                assert!(seen.ip.src.port() >= 1024 && seen.ip.src.port() != VPORT, "{:?}", seen.ip);
                for worker in 0..workers {
                    let (_, seen) = director.forward(worker, CLIENTS, &datagram(from, seen.ip.src, ACK));
                    assert_eq!((seen.ip.src, seen.ip.dst), (peer, transfer));
                }
                director.finish();
            }
        }
    }
}

/// A client that asks again, because it got no answer or for another file, meets a server that answers from a new port.
#[test]
fn a_client_asks_again() {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            let mut director = director(family, mode, 2);
            let from = client(family, 600);
            ask(&mut director, 0, from);
            for n in 0..5 {
                let (server, peer) = ask(&mut director, n % 2, from);
                let transfer = SocketAddr::new(server.ip(), 40_000 + n as u16);
                let (_, seen) = director.forward(1, SERVERS, &datagram(transfer, peer, DATA));
                assert_eq!((seen.ip.src.port(), seen.ip.dst), (transfer.port(), from));
            }
            assert_eq!(director.connections().len(), 6);
            director.finish();
        }
    }
}

#[test]
fn nothing_is_expected_without_a_request() {
    for family in FAMILIES {
        for mode in [Nat, DirectRouting] {
            let mut director = director(family, mode, 2);
            let from = client(family, 600);
            let payload = if mode == Nat { ACK } else { READ };
            director.forward(0, CLIENTS, &datagram(from, virt(family, 1), payload));
            assert_eq!(director.connections().len(), 1);
            let answer = datagram(SocketAddr::new(server(family, 1), 40_000), from, DATA);
            assert!(director.receive(0, SERVERS, &answer).is_empty());
            assert_eq!(director.punted().len(), 1);
            director.finish();
        }
    }
}

/// An expected transfer that does not begin ends, and with it what it kept alive.
#[test]
fn what_is_expected_does_not_wait_forever() {
    for family in FAMILIES {
        let mut director = director(family, Nat, 2);
        ask(&mut director, 0, client(family, 600));
        assert_eq!((director.connections().len(), director.shared.directory.len()), (2, 1));
        director.pass_seconds(130);
        assert_eq!((director.connections().len(), director.shared.directory.len()), (1, 0));
        director.finish();
    }
}
