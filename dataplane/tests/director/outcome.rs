//! What becomes of connections, as workers count it for passive health checks.

use std::net::{IpAddr, SocketAddr};

use dataplane::ServerId;
use dataplane::defence::{Defences, Mode};
use dataplane::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat, Tunnel};
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::cross;
use crate::support::check::SeenIp;
use crate::support::packet::{Packet, icmp, icmp_frame, opening, sctp, tcp, udp};
use crate::support::*;

const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// The first server of the first service.
const SERVER: ServerId = ServerId(16);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    answered: u64,
    refused: u64,
    unanswered: u64,
    expired: u64,
    unreachable: u64,
}

const NONE: Counts = Counts { answered: 0, refused: 0, unanswered: 0, expired: 0, unreachable: 0 };

fn counts(director: &Director) -> Counts {
    Counts {
        answered: director.total(|c| c.outcomes(SERVER).answered.get()),
        refused: director.total(|c| c.outcomes(SERVER).refused.get()),
        unanswered: director.total(|c| c.outcomes(SERVER).unanswered.get()),
        expired: director.total(|c| c.outcomes(SERVER).expired.get()),
        unreachable: director.total(|c| c.outcomes(SERVER).unreachable.get()),
    }
}

fn director(family: Family, protocol: Protocol, mode: ForwardMode) -> Director {
    Director::new(Setup::workers(2), vec![service(1, family, protocol, mode, &[1])])
}

/// Directors whose services see replies, in every way there is.
fn translating(family: Family, protocol: Protocol) -> [Director; 3] {
    let [nat, fullnat] = [Nat, FullNat].map(|mode| director(family, protocol, mode));
    [nat, fullnat, cross::director(family, protocol, 2)]
}

/// An error about a packet that left for the servers, as a router there or the server reports it.
fn report(director: &mut Director, about: &SeenIp, (kind, code): (u8, u8)) {
    let router = on_server_link(Family::of(about.src.ip()), 99);
    let error = icmp(router, about.src.ip(), (kind, code, 0), &about.bytes);
    director.arrive(1, SERVERS, &icmp_frame(&error, port_mac(SERVERS), mac_of(router)));
    director.run();
}

/// "Port unreachable" and "too big", of an address's version.
fn errors(of: IpAddr) -> [(u8, u8); 2] {
    if of.is_ipv4() { [(3, 3), (3, 4)] } else { [(1, 4), (2, 0)] }
}

#[test]
fn the_first_reply_is_an_answer_or_a_refusal() {
    for family in FAMILIES {
        for mut director in translating(family, Protocol::TCP) {
            for (cport, flags) in [(1000, SYN_ACK), (1001, RST_ACK), (1002, SYN_ACK)] {
                let at_server = open(&mut director, 0, Protocol::TCP, client(family, cport), virt(family, 1));
                for flags in [flags, Flags::ACK, RST_ACK] {
                    director.receive(1, SERVERS, &tcp(at_server.dst, at_server.src, flags));
                }
            }
            assert_eq!(counts(&director), Counts { answered: 2, refused: 1, ..NONE });
            // A client that tries again from the same port, over the remains, has a new connection.
            for refused in 2..4 {
                let at_server = open(&mut director, 0, Protocol::TCP, client(family, 1001), virt(family, 1));
                director.receive(0, SERVERS, &tcp(at_server.dst, at_server.src, RST_ACK));
                assert_eq!(counts(&director), Counts { answered: 2, refused, ..NONE });
            }
            director.finish();
        }
    }
}

#[test]
fn the_first_datagram_is_an_answer_and_silence_is_nothing() {
    for family in FAMILIES {
        for mut director in translating(family, Protocol::UDP) {
            let silent = udp(client(family, 1000), virt(family, 1));
            director.forward(0, CLIENTS, &silent);
            let at_server = open(&mut director, 0, Protocol::UDP, client(family, 1001), virt(family, 1));
            assert_eq!(counts(&director), NONE);
            for _ in 0..2 {
                for _ in 0..3 {
                    director.forward(1, SERVERS, &udp(at_server.dst, at_server.src));
                    director.forward(1, CLIENTS, &silent);
                }
                director.rewire(|network| network.mtu[0] = 1400);
            }
            director.pass_seconds(400);
            assert_eq!(counts(&director), Counts { answered: 1, ..NONE });
            director.finish();
        }
    }
}

/// A new FIB makes connections forget their ways, but not that their server has been silent.
#[test]
fn a_server_is_silent_until_the_third_syn_or_until_the_client_gives_up() {
    for family in FAMILIES {
        for mut director in translating(family, Protocol::TCP) {
            let syn = |cport| opening(Protocol::TCP, client(family, cport), virt(family, 1));
            // One client asks once, another twice, and one as Linux does: after 1, 3, 7 seconds.
            director.receive(0, CLIENTS, &syn(1000));
            director.receive(0, CLIENTS, &syn(1001));
            let at_server = open(&mut director, 0, Protocol::TCP, client(family, 1002), virt(family, 1));
            director.pass_seconds(1);
            director.receive(0, CLIENTS, &syn(1001));
            director.receive(1, CLIENTS, &syn(1002));
            director.publish();
            assert_eq!(counts(&director), NONE, "a segment may be lost");
            director.pass_seconds(2);
            director.receive(0, CLIENTS, &syn(1002));
            assert_eq!(counts(&director), Counts { unanswered: 1, ..NONE });
            director.pass_seconds(4);
            director.receive(0, CLIENTS, &syn(1002));
            // It counts once, an answer that comes after all included.
            director.receive(0, SERVERS, &tcp(at_server.dst, at_server.src, SYN_ACK));
            assert_eq!(counts(&director), Counts { unanswered: 1, ..NONE });
            director.pass_seconds(52);
            assert_eq!(counts(&director), Counts { unanswered: 1, ..NONE });
            director.pass_seconds(10);
            assert_eq!(counts(&director), Counts { unanswered: 1, expired: 2, ..NONE });
            director.finish();
        }
    }
}

#[test]
fn a_client_cannot_be_too_quick_for_a_server() {
    for family in FAMILIES {
        for mut director in translating(family, Protocol::TCP) {
            let syn = opening(Protocol::TCP, client(family, 1000), virt(family, 1));
            let (_, seen) = director.forward(0, CLIENTS, &syn);
            for _ in 0..3 {
                director.pass(6);
                for _ in 0..5 {
                    director.receive(0, CLIENTS, &syn);
                }
            }
            assert_eq!(counts(&director), NONE);
            director.receive(0, SERVERS, &tcp(seen.ip.dst, seen.ip.src, SYN_ACK));
            assert_eq!(counts(&director), Counts { answered: 1, ..NONE });
            director.finish();
        }
    }
}

/// A flood of SYNs from addresses that do not exist: the server answers, and nobody acknowledges it.
#[test]
fn a_flood_of_syns_is_answered() {
    let mut director = director(Family::V4, Protocol::TCP, Nat);
    for cport in 1001..=1300 {
        let at_server = open(&mut director, 0, Protocol::TCP, client(Family::V4, cport), virt(Family::V4, 1));
        director.forward(0, SERVERS, &tcp(at_server.dst, at_server.src, SYN_ACK));
    }
    director.pass_seconds(61);
    assert_eq!(counts(&director), Counts { answered: 300, ..NONE });
    director.finish();
}

#[test]
fn errors_count_once_and_until_the_server_answers() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for mut director in translating(family, protocol) {
                let reply = |at: &SeenIp| match protocol {
                    Protocol::TCP => tcp(at.dst, at.src, SYN_ACK),
                    _ => udp(at.dst, at.src),
                };
                let at_server = open(&mut director, 0, protocol, client(family, 1000), virt(family, 1));
                let [unreachable, too_big] = errors(at_server.src.ip());
                report(&mut director, &at_server, too_big);
                assert_eq!(counts(&director), NONE, "the server can be reached by smaller packets");
                // About a connection that does not exist.
                let mut unknown = at_server.clone();
                let port = if unknown.src.is_ipv4() { 20 } else { 40 };
                unknown.bytes[port] ^= 0x40;
                report(&mut director, &unknown, unreachable);
                assert_eq!(counts(&director), NONE);
                report(&mut director, &at_server, unreachable);
                report(&mut director, &at_server, unreachable);
                assert_eq!(counts(&director), Counts { unreachable: 1, ..NONE });
                director.receive(0, SERVERS, &reply(&at_server));

                let at_server = open(&mut director, 0, protocol, client(family, 1001), virt(family, 1));
                let (_, answer) = director.forward(0, SERVERS, &reply(&at_server));
                report(&mut director, &at_server, unreachable);
                // The client cannot be reached: that is not the server's fault.
                let error = icmp(
                    answer.ip.dst.ip(),
                    answer.ip.src.ip(),
                    {
                        let (kind, code) = errors(answer.ip.dst.ip())[0];
                        (kind, code, 0)
                    },
                    &answer.ip.bytes,
                );
                director.arrive(0, CLIENTS, &icmp_frame(&error, port_mac(CLIENTS), mac_of(answer.ip.dst.ip())));
                assert_eq!(director.run().len(), 1, "it is passed on");
                assert_eq!(counts(&director), Counts { answered: 1, unreachable: 1, ..NONE });
                director.finish();
            }
        }
    }
}

#[test]
fn a_damaged_error_says_nothing() {
    let family = Family::V4;
    let mut director = director(family, Protocol::UDP, FullNat);
    let at_server = open(&mut director, 0, Protocol::UDP, client(family, 1000), virt(family, 1));
    let error = icmp(at_server.dst.ip(), at_server.src.ip(), (3, 3, 0), &at_server.bytes);
    let mut frame = icmp_frame(&error, port_mac(SERVERS), mac_of(at_server.dst.ip()));
    frame[40] ^= 1;
    director.arrive(0, SERVERS, &frame);
    director.run();
    assert_eq!(counts(&director), NONE);
    director.finish();
}

#[test]
fn where_replies_go_past_the_director_silence_is_nothing() {
    let cases = [DirectRouting, Tunnel].into_iter().flat_map(|mode| [(mode, Mode::Off), (mode, Mode::Always)]);
    for family in FAMILIES {
        for (mode, secure_tcp) in cases.clone() {
            let mut director = director(family, Protocol::TCP, mode);
            director.settings.defences = Defences { secure_tcp, ..Defences::default() };
            director.publish();
            let syn = |cport| opening(Protocol::TCP, client(family, cport), virt(family, 1));
            for cport in [1000, 1000, 1000, 1001] {
                director.receive(0, CLIENTS, &syn(cport));
                director.pass_seconds(2);
            }
            director.pass_seconds(61);
            assert_eq!(counts(&director), NONE);
            // A client that goes on has been answered.
            director.receive(0, CLIENTS, &syn(1002));
            director.receive(0, CLIENTS, &tcp(client(family, 1002), virt(family, 1), Flags::ACK));
            assert_eq!(counts(&director), Counts { answered: 1, ..NONE });
            director.finish();
        }
    }
}

#[test]
fn errors_about_tunnel_packets_count_if_they_name_the_server() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut director = director(family, protocol, Tunnel);
            let unreachable = errors(vip(family, 1))[0];
            let through = |director: &mut Director, cport| {
                let packet = opening(protocol, client(family, cport), virt(family, 1));
                director.forward(0, CLIENTS, &packet).1.ip
            };
            let outer = through(&mut director, 1000);
            // Somebody who knows his own packets, and not the server.
            let mut forged = outer.clone();
            let last_of_destination = if family == Family::V4 { 19 } else { 39 };
            forged.bytes[last_of_destination] ^= 1;
            report(&mut director, &forged, unreachable);
            assert_eq!(counts(&director), NONE);
            report(&mut director, &outer, unreachable);
            report(&mut director, &outer, unreachable);
            assert_eq!(counts(&director), Counts { unreachable: 1, ..NONE });
            if protocol == Protocol::TCP {
                let outer = through(&mut director, 1001);
                director.receive(0, CLIENTS, &tcp(client(family, 1001), virt(family, 1), Flags::ACK));
                report(&mut director, &outer, unreachable);
                assert_eq!(counts(&director), Counts { answered: 1, unreachable: 1, ..NONE });
            }
            director.finish();
        }
    }
}

#[test]
fn sctp_is_refused_by_abort() {
    const INIT: &[u8] = &[1, 0, 0, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    const INIT_ACK: &[u8] = &[2, 0, 0, 4];
    const ABORT: &[u8] = &[6, 0, 0, 4];
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            let mut director = director(family, Protocol::SCTP, mode);
            let init = |cport| sctp(client(family, cport), virt(family, 1), INIT);
            let mut ask = |cport, answer: &[u8]| -> Packet {
                let (_, seen) = director.forward(0, CLIENTS, &init(cport));
                sctp(seen.ip.dst, seen.ip.src, answer)
            };
            for reply in [ask(1000, ABORT), ask(1001, INIT_ACK), ask(1001, ABORT)] {
                director.receive(1, SERVERS, &reply);
            }
            director.receive(0, CLIENTS, &init(1002));
            for _ in 0..2 {
                director.pass_seconds(2);
                director.receive(0, CLIENTS, &init(1002));
            }
            director.receive(0, CLIENTS, &init(1003));
            director.pass_seconds(5);
            assert_eq!(counts(&director), Counts { answered: 1, refused: 1, unanswered: 1, expired: 1, ..NONE });
            director.finish();
        }
    }
}

/// Datagrams that are scheduled one by one leave no connection that an error could be about.
#[test]
fn nothing_is_known_of_single_datagrams() {
    let family = Family::V4;
    let mut single = service(1, family, Protocol::UDP, Nat, &[1]);
    single.one_packet = true;
    let mut director = Director::new(Setup::workers(2), vec![single]);
    let (_, seen) = director.forward(0, CLIENTS, &udp(client(family, 1000), virt(family, 1)));
    report(&mut director, &seen.ip, (3, 3));
    let reply: (SocketAddr, SocketAddr) = (seen.ip.dst, seen.ip.src);
    director.receive(0, SERVERS, &udp(reply.0, reply.1));
    assert_eq!(counts(&director), NONE);
    director.finish();
}
