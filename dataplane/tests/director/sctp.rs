//! SCTP: associations through all modes, what opens one, checksums, ICMP errors.

use std::net::SocketAddr;

use dataplane::ServerId;
use dataplane::snapshot::ForwardMode::{self, FullNat, Nat};
use dataplane::verdict::DropReason;
use proto::state::State;
use proto::{Family, Protocol};

use crate::support::check::check_quoted;
use crate::support::packet::{Packet, Transport, icmp, icmp_frame, sctp};
use crate::support::*;

/// A chunk of `len` bytes, padding included.
fn chunk(kind: u8, len: u8) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, len];
    bytes.resize(usize::from(len).next_multiple_of(4).max(4), kind);
    bytes
}

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

fn director(workers: usize, family: Family, mode: ForwardMode, servers: &[u8]) -> Director {
    Director::new(Setup::workers(workers), vec![service(1, family, Protocol::SCTP, mode, servers)])
}

fn init(family: Family, cport: u16) -> Packet {
    sctp(client(family, cport), virt(family, 1), &chunk(INIT, 20))
}

#[test]
fn an_association_in_every_mode() {
    use State::*;
    let seen_both_ways = [
        (true, INIT, SctpInit1),
        (false, INIT_ACK, SctpCookieSent),
        (true, COOKIE_ECHO, SctpCookieReplied),
        (false, COOKIE_ACK, SctpEstablished),
        (true, DATA, SctpEstablished),
        (false, DATA, SctpEstablished),
        (true, SHUTDOWN, SctpShutdownReceived),
        (false, SHUTDOWN_ACK, SctpShutdownAckSent),
        (true, SHUTDOWN_COMPLETE, SctpClosed),
    ];
    let seen_one_way = [
        (true, INIT, SctpInit1),
        (true, COOKIE_ECHO, SctpEstablished),
        (true, DATA, SctpEstablished),
        (true, SHUTDOWN, SctpShutdownReceived),
        (true, SHUTDOWN_COMPLETE, SctpClosed),
    ];
    for family in FAMILIES {
        for mode in MODES {
            for workers in [1, 2, 4] {
                let mut director = director(workers, family, mode, &[1]);
                let (from, to) = (client(family, 4000), virt(family, 1));
                let mut at_server = (from, to);
                let steps = if mode.sees_replies() { &seen_both_ways[..] } else { &seen_one_way };
                for (i, &(from_client, kind, state)) in steps.iter().enumerate() {
                    let chunks = chunk(kind, 4 + 7 * i as u8);
                    if from_client {
                        let (port, seen) = director.forward(i % workers, CLIENTS, &sctp(from, to, &chunks));
                        let ip = seen.ip.innermost();
                        assert_eq!((port, ip.sctp_damage, &ip.payload, ip.ttl), (SERVERS, 0, &chunks, 63));
                        if mode.sees_replies() {
                            assert_eq!(ip.dst, SocketAddr::new(server(family, 1), DPORT));
                            assert_eq!(ip.src == from, mode == Nat);
                        } else {
                            assert_eq!((ip.src, ip.dst), (from, to));
                        }
                        at_server = (ip.src, ip.dst);
                    } else {
                        let reply = sctp(at_server.1, at_server.0, &chunks);
                        let (port, seen) = director.forward(i % workers, SERVERS, &reply);
                        assert_eq!((port, seen.ip.src, seen.ip.dst), (CLIENTS, to, from));
                        assert_eq!((seen.ip.sctp_damage, &seen.ip.payload, seen.ip.ttl), (0, &chunks, 63));
                    }
                    let connection = director.connection();
                    assert_eq!((connection.state, connection.protocol), (state, Protocol::SCTP), "step {i}");
                    let expires = match state {
                        SctpInit1 => 4,
                        SctpEstablished => 900,
                        _ => 61,
                    };
                    assert_eq!(connection.expires, expires, "{state:?}");
                    let is_active = u64::from(state == SctpEstablished);
                    assert_eq!(director.load(ServerId(16)), (is_active, 1 - is_active), "{state:?}");
                }
                director.settle();
                director.pass_seconds(62);
                assert_eq!(director.connections(), []);
                director.finish();
            }
        }
    }
}

#[test]
fn only_an_init_opens() {
    for family in FAMILIES {
        let mut director = director(2, family, Nat, &[1, 2]);
        let (from, to) = (client(family, 4000), virt(family, 1));
        for (n, kind) in [DATA, INIT_ACK, ABORT, COOKIE_ECHO, SHUTDOWN_ACK, 255].into_iter().enumerate() {
            assert!(director.receive(n % 2, CLIENTS, &sctp(from, to, &chunk(kind, 8))).is_empty());
            assert_eq!(director.punted().len(), 1, "the kernel answers chunk {kind}");
        }
        assert!(director.receive(0, CLIENTS, &sctp(from, to, &[])).is_empty(), "no chunk at all");
        assert_eq!((director.connections(), director.punted().len()), (Vec::new(), 1));
        // The server that refuses: the connection ends soon, and an INIT begins it anew at the same server.
        let (_, seen) = director.forward(0, CLIENTS, &init(family, 4000));
        director.forward(1, SERVERS, &sctp(seen.ip.dst, seen.ip.src, &chunk(ABORT, 4)));
        assert_eq!((director.connection().state, director.connection().expires), (State::SctpRejected, 4));
        let (_, again) = director.forward(0, CLIENTS, &init(family, 4000));
        assert_eq!((again.ip.dst, director.connection().state), (seen.ip.dst, State::SctpInit));
        // Over the remains of one that ended, another server may be chosen.
        director.forward(0, CLIENTS, &sctp(from, to, &chunk(ABORT, 4)));
        assert_eq!(director.connection().state, State::SctpClosed);
        let (_, anew) = director.forward(1, CLIENTS, &init(family, 4000));
        assert_ne!(anew.ip.dst, seen.ip.dst);
        assert_eq!(director.connection().state, State::SctpInit1);
        director.finish();
    }
}

#[test]
fn sloppy_sctp_takes_any_packet_but_an_abort() {
    for family in FAMILIES {
        let (from, to) = (client(family, 4000), virt(family, 1));
        for (kind, state) in [
            (DATA, State::SctpEstablished),
            (INIT_ACK, State::SctpCookieWait),
            (COOKIE_ECHO, State::SctpCookieReplied),
            (SHUTDOWN, State::SctpShutdownReceived),
            (SHUTDOWN_COMPLETE, State::SctpClosed),
        ] {
            let mut director = director(2, family, Nat, &[1]);
            director.settings.sloppy_sctp = true;
            director.publish();
            let (port, _) = director.forward(0, CLIENTS, &sctp(from, to, &chunk(kind, 8)));
            assert_eq!((port, director.connection().state), (SERVERS, state));
            director.finish();
        }
        let mut director = director(2, family, Nat, &[1]);
        director.settings.sloppy_sctp = true;
        director.publish();
        for chunks in [chunk(ABORT, 4), Vec::new()] {
            assert!(director.receive(0, CLIENTS, &sctp(from, to, &chunks)).is_empty());
            assert_eq!((director.connections(), director.punted().len()), (Vec::new(), 1));
        }
    }
}

#[test]
fn damage_stays_visible() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = director(1, family, mode, &[1]);
            for (cport, damage) in [(1, 1), (2, 0x8000_0000), (3, u32::MAX)] {
                let mut packet = init(family, cport);
                packet.transport = Transport::Sctp { damage };
                let (_, seen) = director.forward(0, CLIENTS, &packet);
                assert_eq!(seen.ip.innermost().sctp_damage, damage);
            }
            director.finish();
        }
    }
}

#[test]
fn port_unreachable_without_server() {
    for family in FAMILIES {
        let mut director = director(2, family, Nat, &[]);
        let (port, seen) = director.forward(0, CLIENTS, &init(family, 5));
        assert_eq!((port, seen.ip.dst.ip()), (CLIENTS, client(family, 5).ip()));
        let expected = if family == Family::V4 { [3, 3] } else { [1, 4] };
        assert_eq!(seen.ip.payload[..2], expected);
        assert_eq!(director.drops(), [(DropReason::NoServer, 1)]);
        director.finish();
    }
}

#[test]
fn icmp_errors_about_packets_to_the_server_reach_the_client() {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for quoted_len in [8, 32] {
                let mut director = director(2, family, mode, &[1]);
                let (_, seen) = director.forward(0, CLIENTS, &init(family, 4000));
                let header_len = seen.ip.bytes.len() - 32;
                let quote = &seen.ip.bytes[..header_len + quoted_len];
                let kind = if family == Family::V4 { (3, 3, 0) } else { (1, 4, 0) };
                let error = icmp(server(family, 1), seen.ip.src.ip(), kind, quote);
                let frame = icmp_frame(&error, port_mac(SERVERS), mac_of(server(family, 1)));
                director.arrive(1, SERVERS, &frame);
                let sent = director.run();
                assert_eq!(sent.len(), 1);
                let ip = sent[0].seen().ip;
                assert_eq!((ip.src.ip(), ip.dst.ip()), (vip(family, 1), client(family, 0).ip()));
                let about = check_quoted(&ip.payload[8..]);
                assert_eq!((about.src, about.dst), (client(family, 4000), virt(family, 1)));
                director.finish();
            }
        }
    }
}
