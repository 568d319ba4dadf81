//! The client's address as a TCP option.

use std::net::{IpAddr, SocketAddr};

use dataplane::ServiceId;
use dataplane::io::memory::HeapPacket;
use dataplane::packet::PacketBuf;
use dataplane::snapshot::ClientAddress;
use dataplane::snapshot::ForwardMode::{FullNat, Nat};
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::cross::cross_service;
use crate::support::check::{self, SeenIp};
use crate::support::packet::{Packet, Transport, tcp};
use crate::support::*;

const ACK: Flags = Flags::ACK;

fn director(family: Family, workers: usize) -> Director {
    let mut service = service(1, family, Protocol::TCP, FullNat, &[1]);
    service.client_address = Some(ClientAddress::Toa);
    Director::new(Setup::workers(workers), vec![service])
}

fn with_options(mut packet: Packet, bytes: &[u8]) -> Packet {
    if let Transport::Tcp { options, .. } = &mut packet.transport {
        *options = bytes.to_vec();
    }
    packet
}

/// The options of a segment.
fn options(ip: &SeenIp) -> Vec<u8> {
    let headers = ip.bytes.len() - ip.payload.len();
    let at = if ip.src.is_ipv4() { 20 } else { 40 } + 20;
    ip.bytes[at..headers].to_vec()
}

/// The option that tells of this client.
fn told(client: SocketAddr) -> Vec<u8> {
    let port = client.port().to_be_bytes();
    match client.ip() {
        IpAddr::V4(addr) => [&[254, 8][..], &port, &addr.octets()].concat(),
        IpAddr::V6(addr) => [&[254, 20][..], &port, &addr.octets()].concat(),
    }
}

fn counted(director: &Director) -> (u64, u64) {
    let of = |c: &dataplane::counters::WorkerCounters| {
        let service = c.service(ServiceId(1));
        (service.client_address_sent.get(), service.client_address_omitted.get())
    };
    (director.total(|c| of(c).0), director.total(|c| of(c).1))
}

/// A director with one connection, whose handshake is complete but for the client's acknowledgement; the local endpoint.
fn opened(family: Family, workers: usize) -> (Director, SocketAddr) {
    let mut director = director(family, workers);
    let syn = open(&mut director, 0, Protocol::TCP, client(family, 4000), virt(family, 1));
    let from = SocketAddr::new(server(family, 1), DPORT);
    director.forward(0, SERVERS, &tcp(from, syn.src, Flags::SYN | ACK));
    (director, syn.src)
}

#[test]
fn segments_tell_the_address_until_the_server_answers() {
    for family in FAMILIES {
        for workers in [1, 2, 4] {
            let mut director = director(family, workers);
            let (client, virt) = (client(family, 4000), virt(family, 1));
            let server = SocketAddr::new(server(family, 1), DPORT);
            let told = told(client);
            // As Linux sends them: the options of a SYN leave 20 bytes, those of an acknowledgement 28.
            let of_syn = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
            let timestamps = [1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4];
            let inbound = |director: &mut Director, packet: Packet, worker| {
                let (port, seen) = director.forward(worker, CLIENTS, &packet);
                assert_eq!((port, seen.ip.dst), (SERVERS, server));
                assert_eq!(seen.ip.payload, packet.payload);
                seen.ip
            };
            let syn = inbound(&mut director, with_options(tcp(client, virt, Flags::SYN), &of_syn), 0);
            assert_eq!(options(&syn), [&told[..], &of_syn].concat());
            let (_, reply) = director.forward(0, SERVERS, &tcp(server, syn.src, Flags::SYN | ACK));
            assert_eq!(reply.ip.dst, client);
            for worker in 0..workers {
                let ack = with_options(tcp(client, virt, ACK), &timestamps);
                assert_eq!(options(&inbound(&mut director, ack.clone(), worker)), [&told[..], &timestamps].concat());
                // More than one word of the checksum carries, and the length is odd.
                let data = ack.with_payload((0..=254).collect());
                assert_eq!(options(&inbound(&mut director, data, worker)), [&told[..], &timestamps].concat());
            }
            assert_eq!(counted(&director), (1 + 2 * workers as u64, 0));
            director.forward(0, SERVERS, &tcp(server, syn.src, ACK));
            let after = inbound(&mut director, with_options(tcp(client, virt, ACK), &timestamps), 0);
            assert_eq!(options(&after), timestamps);
            assert_eq!(counted(&director), (1 + 2 * workers as u64, 0));
            director.finish();
        }
    }
}

/// The option says in its own version who the client is, whatever the server's is, and full segments have room for it.
#[test]
fn a_server_of_the_other_version_is_told_the_same() {
    for (family, plain, mss) in [(Family::V4, 1440u16, 1432u16), (Family::V6, 1460, 1420)] {
        let mut balanced = cross_service(1, family, Protocol::TCP, &[1]);
        balanced.client_address = Some(ClientAddress::Toa);
        let mut director = Director::new(Setup::workers(2), vec![balanced]);
        let (client, virt) = (client(family, 4000), virt(family, 1));
        let told = told(client);
        let syn = open(&mut director, 0, Protocol::TCP, client, virt);
        assert_eq!(options(&syn), told);
        let announced = |mss: u16| [2, 4, (mss >> 8) as u8, mss as u8];
        let reply = with_options(tcp(syn.dst, syn.src, Flags::SYN | ACK), &announced(plain));
        assert_eq!(options(&director.forward(0, SERVERS, &reply).1.ip), announced(mss));
        let full = tcp(client, virt, ACK).with_payload(vec![0x5a; mss.into()]);
        let (_, seen) = director.forward(1, CLIENTS, &full);
        assert_eq!((options(&seen.ip), &seen.ip.payload), (told, &full.payload));
        director.forward(1, SERVERS, &tcp(syn.dst, syn.src, ACK));
        assert_eq!(options(&director.forward(0, CLIENTS, &full).1.ip), []);
        assert_eq!(counted(&director), (2, 0));
        director.finish();
    }
}

#[test]
fn an_answer_to_the_syn_from_an_older_connection_ends_nothing() {
    for family in FAMILIES {
        let mut director = director(family, 1);
        let (client, virt) = (client(family, 4000), virt(family, 1));
        let syn = open(&mut director, 0, Protocol::TCP, client, virt);
        let server = SocketAddr::new(server(family, 1), DPORT);
        // The server's socket is in TIME_WAIT; the client will reset it, but the reset is lost, and try again.
        director.forward(0, SERVERS, &tcp(server, syn.src, ACK));
        let again = open(&mut director, 0, Protocol::TCP, client, virt);
        assert_eq!((again.src, options(&again)), (syn.src, told(client)));
        let (_, reset) = director.forward(0, CLIENTS, &tcp(client, virt, Flags::RST));
        assert_eq!(options(&reset.ip), []);
    }
}

#[test]
fn others_are_told_nothing() {
    for family in FAMILIES {
        for (mode, way) in [(FullNat, None), (Nat, Some(ClientAddress::Toa))] {
            let mut service = service(1, family, Protocol::TCP, mode, &[1]);
            service.client_address = way;
            let mut director = Director::new(Setup::workers(1), vec![service]);
            let syn = open(&mut director, 0, Protocol::TCP, client(family, 4000), virt(family, 1));
            assert_eq!(options(&syn), []);
            assert_eq!(counted(&director), (0, 0));
        }
    }
}

#[test]
fn room_in_segments_is_made_by_a_smaller_mss() {
    for (family, mss) in [(Family::V4, 1452u16), (Family::V6, 1440 - 20)] {
        let plain = if family == Family::V4 { 1460u16 } else { 1440 };
        for padding in 0..3 {
            let mut director = director(family, 1);
            let syn = open(&mut director, 0, Protocol::TCP, client(family, 4000), virt(family, 1));
            let server = SocketAddr::new(server(family, 1), DPORT);
            let mut given = vec![1; padding];
            given.extend([2, 4, (plain >> 8) as u8, plain as u8]);
            given.resize(8, 1);
            let reply = with_options(tcp(server, syn.src, Flags::SYN | ACK), &given);
            let (_, seen) = director.forward(0, SERVERS, &reply);
            let mut expected = given.clone();
            expected[padding + 2..padding + 4].copy_from_slice(&mss.to_be_bytes());
            assert_eq!(options(&seen.ip), expected);
            // What the client then sends fits exactly.
            let full = tcp(client(family, 4000), virt(family, 1), ACK).with_payload(vec![0x5a; mss.into()]);
            let (_, seen) = director.forward(0, CLIENTS, &full);
            assert_eq!((options(&seen.ip), seen.ip.bytes.len()), (told(client(family, 4000)), 1500));
        }
        // Small ones stay: every host takes those.
        let mut director = director(family, 1);
        let syn = open(&mut director, 0, Protocol::TCP, client(family, 4000), virt(family, 1));
        let reply = tcp(SocketAddr::new(server(family, 1), DPORT), syn.src, Flags::SYN | ACK);
        for (given, expected) in [(536u16, 536u16), (537, 536), (0, 0), (40, 40)] {
            let mss = |mss: u16| [2, 4, (mss >> 8) as u8, mss as u8];
            let (_, seen) = director.forward(0, SERVERS, &with_options(reply.clone(), &mss(given)));
            assert_eq!(options(&seen.ip), mss(expected));
        }
        let malformed = [3, 3, 7, 2, 40, 5, 180, 0];
        let (_, seen) = director.forward(0, SERVERS, &with_options(reply, &malformed));
        assert_eq!(options(&seen.ip), malformed);
    }
}

#[test]
fn a_segment_without_room_goes_without() {
    for family in FAMILIES {
        let (mut director, _) = opened(family, 1);
        let (client, virt) = (client(family, 4000), virt(family, 1));
        let told_before = counted(&director).0;
        let fixed = if family == Family::V4 { 40 } else { 60 };
        let option = told(client).len();
        let mut omitted = 0;
        let mut check = |director: &mut Director, packet: &Packet, given: &[u8], has_room: bool| {
            let (_, seen) = director.forward(0, CLIENTS, packet);
            let expected = if has_room { [&told(client)[..], given].concat() } else { given.to_vec() };
            assert_eq!(options(&seen.ip), expected);
            assert_eq!(seen.ip.payload, packet.payload);
            omitted += u64::from(!has_room);
            assert_eq!(counted(director).1, omitted);
        };
        // Forty bytes of options are all that a header can have.
        for len in [40 - option, 40 - option + 4, 40] {
            let given = vec![1; len];
            let packet = with_options(tcp(client, virt, ACK), &given);
            check(&mut director, &packet, &given, len + option <= 40);
        }
        for len in [1500 - fixed - option, 1500 - fixed - option + 1, 1500 - fixed] {
            let packet = tcp(client, virt, ACK).with_payload(vec![7; len]);
            check(&mut director, &packet, &[], len + fixed + option <= 1500);
        }
        assert_eq!(counted(&director).0, told_before + 2);
        // What must be sent in fragments has none either.
        if family == Family::V4 {
            director.rewire(|network| network.mtu = [1500, 600]);
            let mut packet = tcp(client, virt, ACK).with_payload(vec![7; 1000]);
            packet.dont_fragment = false;
            let sent = director.receive(0, CLIENTS, &packet);
            let parts: Vec<SeenIp> = sent.iter().map(|sent| sent.seen().ip).collect();
            assert_eq!(options(&check::reassemble(&parts)), []);
            assert_eq!(counted(&director).1, omitted + 1);
        }
        director.finish();
    }
}

#[test]
fn a_frame_without_headroom_goes_without() {
    let (mut director, _) = opened(Family::V4, 1);
    let packet = tcp(client(Family::V4, 4000), virt(Family::V4, 1), ACK);
    let frame = frame_for(CLIENTS, &packet);
    let mut buffer = HeapPacket::with_room(0, frame.len());
    assert!(buffer.append(frame.len()));
    buffer.data_mut().copy_from_slice(&frame);
    director.arrive_packet(0, CLIENTS, buffer);
    let sent = director.run();
    assert_eq!((options(&sent[0].seen().ip), counted(&director).1), (vec![], 1));
}
