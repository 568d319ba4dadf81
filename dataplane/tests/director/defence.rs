//! Defences against floods, and connections that end before their time.

use dataplane::ServerId;
use dataplane::defence::{Defences, Mode};
use dataplane::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat, Tunnel};
use dataplane::verdict::DropReason;
use proto::state::State;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::packet::{tcp, udp};
use crate::support::*;

const FIN: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);

fn director(workers: usize, protocol: Protocol, mode: ForwardMode, defences: Defences) -> Director {
    director_of(Family::V4, workers, protocol, mode, defences)
}

fn director_of(family: Family, workers: usize, protocol: Protocol, mode: ForwardMode, defences: Defences) -> Director {
    let mut director = Director::new(Setup::workers(workers), vec![service(1, family, protocol, mode, &[1, 2])]);
    director.settings.defences = defences;
    director.publish();
    director
}

/// A client's segments, one connection for each port.
fn segments(director: &mut Director, cports: std::ops::Range<u16>, flags: &[Flags]) {
    let family = director.family();
    for cport in cports {
        for &flags in flags {
            director.receive(0, CLIENTS, &tcp(client(family, cport), virt(family, 1), flags));
        }
    }
}

#[test]
fn half_open_connections_are_reaped_a_thirty_second_part_a_second() {
    for family in FAMILIES {
        for workers in [1, 2] {
            let defences = Defences { drop_entry: Mode::Always, ..Defences::default() };
            let mut director = director_of(family, workers, Protocol::TCP, FullNat, defences);
            segments(&mut director, 1000..3048, &[Flags::SYN]);
            segments(&mut director, 5000..5500, &[Flags::SYN, Flags::ACK]);
            segments(&mut director, 6000..6500, &[Flags::SYN, Flags::ACK, FIN]);
            director.pass_seconds(1);
            for _ in 0..20 {
                director.turn();
            }
            let reaped = director.total(|c| c.reaped.get());
            assert!((32..=100).contains(&reaped), "{reaped} of 2048 in a second");
            director.pass_seconds(9);
            let reaped = director.total(|c| c.reaped.get());
            // 1 - (31/32)^10 of them.
            assert!((480..=650).contains(&reaped), "{reaped} of 2048 in ten seconds");
            // The last second's looks end while connections are listed.
            director.connections();
            let left = director.connections();
            let reaped = director.total(|c| c.reaped.get());
            let in_state = |state| left.iter().filter(|c| c.state == state).count() as u64;
            assert_eq!(in_state(State::SynRecv), 2048 - reaped);
            assert_eq!((in_state(State::Established), in_state(State::CloseWait)), (500, 500), "no other is");
            director.settle();
        }
    }
}

#[test]
fn little_used_connections_are_reaped_once_idle() {
    let defences = Defences { drop_entry: Mode::Always, ..Defences::default() };
    for (packets, expected) in [(1, 230..=350), (2, 115..=175), (8, 28..=43), (9, 0..=0)] {
        let mut director = director(2, Protocol::UDP, DirectRouting, defences);
        for cport in 1000..2000 {
            for _ in 0..packets {
                director.receive(0, CLIENTS, &udp(client(Family::V4, cport), virt(Family::V4, 1)));
            }
        }
        director.pass_seconds(60);
        assert_eq!(director.total(|c| c.reaped.get()), 0, "used within the minute");
        director.pass_seconds(10);
        let reaped = director.total(|c| c.reaped.get());
        // 272 of 1000 are looked at in ten seconds; a connection may be looked at twice.
        assert!(expected.contains(&reaped), "{reaped} with {packets} packets each");
        director.settle();
    }
}

#[test]
fn nothing_is_reaped_in_peace_or_from_before_the_war() {
    let mut director = director(2, Protocol::UDP, Nat, Defences::default());
    let datagram = |cport| udp(client(Family::V4, cport), virt(Family::V4, 1));
    (1000..1200).for_each(|cport| drop(director.receive(0, CLIENTS, &datagram(cport))));
    director.pass_seconds(100);
    assert_eq!(director.connections().len(), 200);
    // How many packets they had is not known: it may be many.
    director.settings.defences.drop_entry = Mode::Always;
    director.publish();
    director.pass_seconds(100);
    assert_eq!((director.connections().len(), director.total(|c| c.reaped.get())), (200, 0));
    director.settle();
}

#[test]
fn drop_packet_drops_what_would_open_a_connection() {
    for protocol in PROTOCOLS {
        let defences = Defences { drop_packet: Mode::Always, am_droprate: 4, ..Defences::default() };
        let mut director = director(1, protocol, Tunnel, defences);
        let packet = |cport| packet::opening(protocol, client(Family::V4, cport), virt(Family::V4, 1));
        let opened: Vec<u16> =
            (1000..1010).filter(|&cport| !director.receive(0, CLIENTS, &packet(cport)).is_empty()).collect();
        assert_eq!(opened, [1001, 1002, 1003, 1005, 1006, 1007, 1009], "all but each fourth");
        assert_eq!(director.dropped(DropReason::DropPacket), 3);
        for cport in opened {
            assert_eq!(director.receive(0, CLIENTS, &packet(cport)).len(), 1, "known connections go on");
        }
        director.settle();
    }
}

#[test]
fn automatic_defences_wake_when_entries_are_short() {
    let setup = Setup { connections: 256, ..Setup::workers(2) };
    let mut director = Director::new(setup, vec![service(1, Family::V4, Protocol::UDP, Nat, &[1, 2])]);
    director.settings.defences = Defences {
        drop_entry: Mode::Automatic,
        drop_packet: Mode::Automatic,
        secure_tcp: Mode::Automatic,
        amemthresh: 200,
        ..Defences::default()
    };
    director.publish();
    let defences = |director: &Director| director.total(|c| c.defences.get());
    let open = |director: &mut Director, cports: std::ops::Range<u16>| {
        for cport in cports {
            director.receive(0, CLIENTS, &udp(client(Family::V4, cport), virt(Family::V4, 1)));
        }
    };
    open(&mut director, 1000..1200);
    director.pass_seconds(1);
    assert_eq!(defences(&director), 0, "about 312 entries are free");
    open(&mut director, 1200..1400);
    director.pass_seconds(1);
    // All three, on both workers.
    assert_eq!(defences(&director), 14, "about 112 entries are free");
    director.settings.defences.amemthresh = 20;
    director.publish();
    director.run();
    assert_eq!(defences(&director), 0, "a setting takes effect at once");
    director.settle();
}

/// Segments, and whether they are the client's.
type Segments = &'static [(bool, Flags)];

/// What a connection's state is after segments of client (`true`) and server.
fn state_after(director: &mut Director, segments: &[(bool, Flags)]) -> State {
    let (c, v) = (client(Family::V4, 1000), virt(Family::V4, 1));
    let mut server = None;
    for &(is_client, flags) in segments {
        if is_client {
            let sent = director.receive(1, CLIENTS, &tcp(c, v, flags));
            server = sent.first().map(|sent| sent.seen().ip.dst).or(server);
        } else {
            let reply = tcp(server.expect("a server"), c, flags);
            assert_eq!(director.receive(1, SERVERS, &reply).len(), 1);
        }
    }
    director.connection().state
}

#[test]
fn with_secure_tcp_only_the_server_establishes_a_connection() {
    const C: bool = true;
    const S: bool = false;
    // Mode of forwarding, segments -> state with secure_tcp off, on.
    let cases: [(ForwardMode, Segments, State, State); 6] = [
        (Nat, &[(C, Flags::SYN)], State::SynRecv, State::SynRecv),
        (Nat, &[(C, Flags::SYN), (C, Flags::ACK)], State::Established, State::SynRecv),
        (Nat, &[(C, Flags::SYN), (S, SYN_ACK)], State::SynRecv, State::SynAck),
        (Nat, &[(C, Flags::SYN), (S, SYN_ACK), (C, Flags::ACK)], State::Established, State::SynAck),
        (
            Nat,
            &[(C, Flags::SYN), (S, SYN_ACK), (C, Flags::ACK), (S, Flags::ACK)],
            State::Established,
            State::Established,
        ),
        (DirectRouting, &[(C, Flags::SYN)], State::SynRecv, State::SynAck),
    ];
    for (mode, segments, normal, secure) in cases {
        for (secure_tcp, expected) in [(Mode::Off, normal), (Mode::Always, secure)] {
            let defences = Defences { secure_tcp, ..Defences::default() };
            let mut director = director(2, Protocol::TCP, mode, defences);
            assert_eq!(state_after(&mut director, segments), expected, "{mode:?} {segments:?} {secure_tcp:?}");
            director.settle();
        }
    }
    // At run time it holds for connections that there are.
    let mut director = director(2, Protocol::TCP, Nat, Defences::default());
    assert_eq!(state_after(&mut director, &[(C, Flags::SYN)]), State::SynRecv);
    director.settings.defences.secure_tcp = Mode::Always;
    director.publish();
    assert_eq!(state_after(&mut director, &[(C, Flags::ACK)]), State::SynRecv);
    director.settings.defences.secure_tcp = Mode::Off;
    director.publish();
    assert_eq!(state_after(&mut director, &[(C, Flags::ACK)]), State::Established);
}

#[test]
fn connections_of_a_removed_server_end_without_a_packet() {
    for family in FAMILIES {
        for expire_nodest_conn in [false, true] {
            let mut director = director_of(family, 2, Protocol::TCP, Nat, Defences::default());
            director.settings.expire_nodest_conn = expire_nodest_conn;
            director.publish();
            segments(&mut director, 1000..1500, &[Flags::SYN, Flags::ACK]);
            director.configure(|services| services[0].servers.truncate(1));
            for _ in 0..50 {
                director.turn();
            }
            let left = director.connections();
            assert_eq!(left.len(), if expire_nodest_conn { 250 } else { 500 });
            let gone = left.iter().filter(|c| c.server_id == ServerId(17)).count();
            assert_eq!(gone, if expire_nodest_conn { 0 } else { 250 });
            director.settle();
        }
    }
}
