//! The client's address in a PROXY header, under loss, duplication and reordering on both sides of the director.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dataplane::snapshot::ClientAddress;
use dataplane::snapshot::ForwardMode::{FullNat, Nat};
use dataplane::verdict::DropReason;
use dataplane::{PortId, ServiceId};
use proptest::prelude::*;
use proto::checksum::Delta;
use proto::proxy_protocol::{MAX_LEN, Version, header};
use proto::tcp::{ACK as ACK_AT, CHECKSUM, Flags, SEQ};
use proto::{Family, Protocol, tcp_options};

use crate::cross::cross_service;
use crate::support::check::{self, SeenIp};
use crate::support::packet::{Packet, Transport, frame, split, tcp, udp};
use crate::support::*;

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];
const ACK: Flags = Flags::ACK;
/// The client's and the server's first numbers; the client's wrap around in the header or soon after it.
const CLIENT_ISN: u32 = u32::MAX - 40;
const SERVER_ISN: u32 = u32::MAX - 1000;
const CPORT: u16 = 4000;

/// The families of clients and of servers.
const PAIRS: [(Family, Family); 4] =
    [(Family::V4, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V4), (Family::V6, Family::V6)];

fn director((family, far): (Family, Family), protocol: Protocol, version: Version, workers: usize) -> Director {
    let mut service = match family == far {
        true => service(1, family, protocol, FullNat, &[1]),
        false => cross_service(1, family, protocol, &[1]),
    };
    service.client_address = Some(ClientAddress::Proxy(version));
    Director::new(Setup::workers(workers), vec![service])
}

fn header_of(family: Family, protocol: Protocol, version: Version) -> Vec<u8> {
    header(version, protocol, client(family, CPORT), virt(family, 1), &mut [0; MAX_LEN]).to_vec()
}

fn server_at(family: Family) -> SocketAddr {
    SocketAddr::new(server(family, 1), DPORT)
}

/// A TCP segment apart from its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    seq: u32,
    ack: u32,
    flags: Flags,
    options: Vec<u8>,
    data: Vec<u8>,
}

impl Segment {
    fn new(seq: u32, ack: u32, flags: Flags, data: &[u8]) -> Self {
        Self { seq, ack, flags, options: Vec::new(), data: data.to_vec() }
    }

    fn frame(&self, port: PortId, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let mut packet: Packet = tcp(src, dst, self.flags).with_payload(self.data.clone());
        packet.transport = Transport::Tcp { flags: self.flags, options: self.options.clone() };
        let mut frame = frame_for(port, &packet);
        let l4 = 14 + if src.is_ipv4() { 20 } else { 40 };
        let numbers = &mut frame[l4 + SEQ..l4 + ACK_AT + 4];
        let new = [self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat();
        let delta = Delta::ZERO.replace_bytes(numbers, &new);
        numbers.copy_from_slice(&new);
        delta.apply_at(&mut frame, l4 + CHECKSUM);
        frame
    }

    fn read(ip: &SeenIp) -> Self {
        let l4 = if ip.src.is_ipv4() { 20 } else { 40 };
        let word = |at: usize| u32::from_be_bytes(ip.bytes[l4 + at..l4 + at + 4].try_into().unwrap());
        let options = ip.bytes[l4 + 20..ip.bytes.len() - ip.payload.len()].to_vec();
        Self { seq: word(SEQ), ack: word(ACK_AT), flags: Flags(ip.flags), options, data: ip.payload.clone() }
    }

    /// Blocks of a selective acknowledgement.
    fn blocks(&self) -> Vec<(u32, u32)> {
        let data = tcp_options::options(&self.options).find(|option| option.kind == tcp_options::SACK);
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        data.map_or(Vec::new(), |o| o.data.chunks(8).map(|b| (word(&b[..4]), word(&b[4..]))).collect())
    }
}

/// A connection through a director, one segment at a time.
struct Path {
    director: Director,
    family: Family,
    /// The server's.
    far: Family,
    workers: usize,
    turn: usize,
    /// The director's local endpoint.
    local: Option<SocketAddr>,
}

impl Path {
    fn new(families: (Family, Family), version: Version, workers: usize) -> Self {
        let director = director(families, Protocol::TCP, version, workers);
        let (family, far) = families;
        Self { director, family, far, workers, turn: 0, local: None }
    }

    fn pass(&mut self, port: PortId, frame: Vec<u8>) -> Vec<SeenIp> {
        self.turn += 1;
        self.director.arrive(self.turn % self.workers, port, &frame);
        let mut sent: Vec<Sent> = self.director.run();
        // In order of arrival at each queue; the segments of one packet leave from one worker.
        sent.iter_mut().map(|sent| sent.seen().ip).inspect(|ip| assert!(ip.bytes.len() <= 1500)).collect()
    }

    fn client_sends(&mut self, segment: &Segment) -> Vec<Segment> {
        let frame = segment.frame(CLIENTS, client(self.family, CPORT), virt(self.family, 1));
        let seen = self.pass(CLIENTS, frame);
        for ip in &seen {
            assert_eq!(ip.dst, server_at(self.far));
            assert!(self.local.is_none_or(|local| local == ip.src), "one local endpoint");
            self.local = Some(ip.src);
        }
        seen.iter().map(Segment::read).collect()
    }

    fn server_sends(&mut self, segment: &Segment) -> Segment {
        let local = self.local.expect("a connection");
        let seen = self.pass(SERVERS, segment.frame(SERVERS, server_at(self.far), local));
        assert_eq!((seen.len(), seen[0].src, seen[0].dst), (1, virt(self.family, 1), client(self.family, CPORT)));
        Segment::read(&seen[0])
    }

    /// The handshake up to the client's acknowledgement, which is not sent yet.
    fn open(&mut self) {
        let syn = Segment::new(CLIENT_ISN, 0, Flags::SYN, &[]);
        assert_eq!(self.client_sends(&syn), [syn]);
        let reply = Segment::new(SERVER_ISN, CLIENT_ISN + 1, Flags::SYN | ACK, &[]);
        assert_eq!(self.server_sends(&reply), reply);
    }
}

fn each(mut test: impl FnMut(Path, &[u8])) {
    for families in PAIRS {
        for version in VERSIONS {
            for workers in [1, 2, 4] {
                test(Path::new(families, version, workers), &header_of(families.0, Protocol::TCP, version));
            }
        }
    }
}

/// The client's number of its byte `n`, and the server's of the same byte behind `header`.
fn at(n: usize) -> u32 {
    CLIENT_ISN.wrapping_add(1 + n as u32)
}

const REPLY: u32 = SERVER_ISN + 1;

#[test]
fn the_header_leaves_with_the_handshakes_last_segment() {
    each(|mut path, header| {
        path.open();
        let ack = Segment::new(at(0), REPLY, ACK, &[]);
        let expected = Segment::new(at(0), REPLY, ACK, header);
        // Again if the server repeats its SYN because it was lost, and with a FIN.
        for _ in 0..2 {
            assert_eq!(path.client_sends(&ack), std::slice::from_ref(&expected));
        }
        let fin = Segment { flags: ACK | Flags::FIN, ..ack.clone() };
        assert_eq!(path.client_sends(&fin), [Segment { flags: fin.flags, ..expected }]);
        // The server says that it has a part of it, then all.
        for (acked, told) in [(0, 0), (header.len() - 1, 0), (header.len(), 0)] {
            let answer = Segment::new(REPLY, at(acked), ACK, b"220 hello");
            assert_eq!(path.server_sends(&answer), Segment { ack: at(told), ..answer });
        }
        assert_eq!(path.client_sends(&ack), [Segment { seq: at(header.len()), ..ack.clone() }]);
        let data = Segment::new(at(0), REPLY, ACK, b"hello");
        assert_eq!(path.client_sends(&data), [Segment { seq: at(header.len()), ..data.clone() }]);
        let answer = Segment::new(REPLY, at(header.len() + 5), ACK, &[]);
        assert_eq!(path.server_sends(&answer), Segment { ack: at(5), ..answer });
        let sent = path.director.total(|c| c.service(ServiceId(1)).client_address_sent.get());
        assert_eq!((sent, path.director.total(|c| c.inserted.get())), (3, 0));
        path.director.finish();
    });
}

#[test]
fn data_come_behind_a_segment_of_the_directors_own() {
    each(|mut path, header| {
        path.open();
        let full = if (path.family, path.far) == (Family::V4, Family::V4) { 1460 } else { 1440 };
        let data = Segment {
            options: vec![1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4],
            ..Segment::new(at(0), REPLY, ACK | Flags::PSH | Flags::FIN, &vec![b'x'; full - 12])
        };
        let own = Segment { flags: ACK | Flags::PSH, data: header.to_vec(), ..data.clone() };
        let moved = Segment { seq: at(header.len()), ..data.clone() };
        // The acknowledgement was lost on its way to the director; then the client sends again what was lost.
        assert_eq!(path.client_sends(&data), [own.clone(), moved.clone()]);
        assert_eq!(path.client_sends(&data), [own, moved.clone()]);
        assert_eq!(path.director.total(|c| c.inserted.get()), 2);
        // What follows is moved only.
        let more = Segment::new(at(full), REPLY, ACK, b"more");
        assert_eq!(path.client_sends(&more), [Segment { seq: at(full + header.len()), ..more }]);
        let all = Segment::new(REPLY, at(header.len() + full), ACK, &[]);
        assert_eq!(path.server_sends(&all), Segment { ack: at(full), ..all });
        assert_eq!(path.client_sends(&data), [moved]);
        path.director.finish();
    });
}

#[test]
fn data_right_behind_the_handshake_need_no_second_header() {
    each(|mut path, header| {
        path.open();
        path.client_sends(&Segment::new(at(0), REPLY, ACK, &[]));
        let data = Segment::new(at(0), REPLY, ACK, b"GET /");
        let moved = Segment { seq: at(header.len()), ..data.clone() };
        assert_eq!(path.client_sends(&data), std::slice::from_ref(&moved));
        // Sent again: the header is missing.
        assert_eq!(path.client_sends(&data).len(), 2);
        path.director.settle();
    });
}

#[test]
fn a_syn_carries_no_data_and_a_new_one_starts_anew() {
    each(|mut path, header| {
        for (isn, len) in [(77, 1), (78, 2), (78, 1400), (CLIENT_ISN, 0)] {
            let syn = Segment::new(isn, 0, Flags::SYN, &vec![7; len]);
            assert_eq!(path.client_sends(&syn), [Segment::new(isn, 0, Flags::SYN, &[])]);
        }
        // A reset instead of an acknowledgement is where the server expects it.
        let reset = Segment::new(at(0), 0, Flags::RST, &[]);
        path.server_sends(&Segment::new(SERVER_ISN, at(0), Flags::SYN | ACK, &[]));
        let ack = Segment::new(at(0), REPLY, ACK, &[]);
        assert_eq!(path.client_sends(&ack)[0].data, header);
        // Keep-alive probes and such from before the header stay where they are.
        let probe = Segment::new(at(0).wrapping_sub(1), REPLY, ACK, &[]);
        assert_eq!(path.client_sends(&probe), [probe]);
        assert_eq!(path.client_sends(&reset), [Segment { seq: at(header.len()), ..reset }]);
        path.director.settle();
    });
    each(|mut path, _| {
        path.open();
        let reset = Segment::new(at(0), 0, Flags::RST, &[]);
        assert_eq!(path.client_sends(&reset), [reset]);
    });
}

#[test]
fn without_a_buffer_nothing_overtakes_the_header() {
    let mut path = Path::new((Family::V4, Family::V4), Version::V1, 1);
    path.open();
    path.director.wire(0).limit_buffers(0);
    let data = Segment::new(at(0), REPLY, ACK, b"data");
    assert_eq!(path.client_sends(&data), []);
    assert_eq!(path.director.drops(), [(DropReason::NoBuffer, 1)]);
    path.director.wire(0).limit_buffers(usize::MAX);
    assert_eq!(path.client_sends(&data).len(), 2);
    path.director.settle();
}

#[test]
fn the_header_waits_for_the_neighbour_with_what_follows() {
    let mut path = Path::new((Family::V6, Family::V6), Version::V2, 1);
    path.open();
    path.director.rewire(|network| network.unresolved.push(server(Family::V6, 1)));
    assert_eq!(path.client_sends(&Segment::new(at(0), REPLY, ACK, b"data")), []);
    assert_eq!(path.director.waiting(), 2);
    path.director.rewire(|network| network.unresolved.clear());
    path.director.pass(1);
    let sent = path.director.run();
    assert_eq!(sent.iter().map(|sent| Segment::read(&sent.seen().ip).data.len()).collect::<Vec<_>>(), [52, 4]);
    path.director.settle();
}

#[test]
fn every_datagram_has_a_header() {
    for (family, far) in PAIRS {
        for workers in [1, 2, 4] {
            let mut director = director((family, far), Protocol::UDP, Version::V2, workers);
            let header = header_of(family, Protocol::UDP, Version::V2);
            for n in 0..4 {
                for has_checksum in [true, false] {
                    let mut packet = udp(client(family, CPORT), virt(family, 1)).with_payload(vec![n; n.into()]);
                    if family == Family::V4 {
                        packet.transport = Transport::Udp { has_checksum };
                    }
                    let (_, seen) = director.forward(usize::from(n) % workers, CLIENTS, &packet);
                    assert_eq!(seen.ip.payload, [&header[..], &packet.payload].concat());
                    assert_eq!(seen.ip.udp_checksum != 0, has_checksum || (family, far) != PAIRS[0]);
                    let reply = udp(server_at(far), seen.ip.src);
                    assert_eq!(director.forward(0, SERVERS, &reply).1.ip.payload, reply.payload);
                }
            }
            assert_eq!(director.total(|c| c.service(ServiceId(1)).client_address_sent.get()), 8);
            director.finish();
        }
    }
}

#[test]
fn a_datagram_that_grows_too_long_is_reported_or_fragmented() {
    for (family, far) in PAIRS {
        let mut director = director((family, far), Protocol::UDP, Version::V2, 1);
        let header = header_of(family, Protocol::UDP, Version::V2);
        let room = 1500 - if far == Family::V4 { 28 } else { 48 } - header.len();
        let datagram = |len: usize| udp(client(family, CPORT), virt(family, 1)).with_payload(vec![5; len]);
        let (_, seen) = director.forward(0, CLIENTS, &datagram(room));
        assert_eq!(seen.ip.bytes.len(), 1500);
        let sent = director.receive(0, CLIENTS, &datagram(room + 1));
        assert_eq!((sent.len(), sent[0].port), (1, CLIENTS));
        let mtu = match (family, far) {
            (Family::V4, Family::V6) => 1480,
            (Family::V6, Family::V4) => 1520,
            _ => 1500,
        } - header.len() as u16;
        assert_eq!(sent[0].seen().ip.payload[6..8], mtu.to_be_bytes());
        assert_eq!(director.dropped(DropReason::TooBig), 1);
        if family == Family::V4 {
            let packet = Packet { dont_fragment: false, ..datagram(room + 1) };
            let sent = director.receive(0, CLIENTS, &packet);
            let parts: Vec<SeenIp> = sent.iter().map(|sent| sent.seen().ip).collect();
            assert_eq!(check::reassemble(&parts).payload, [&header[..], &packet.payload].concat());
        }
        director.finish();
    }
}

#[test]
fn fragments_become_those_of_a_longer_packet() {
    for (family, far) in PAIRS {
        let header = header_of(family, Protocol::UDP, Version::V2);
        // Routers do not fragment IPv6: the sender has been told to leave room for the header.
        let cuts = if family == Family::V4 { [0, 1480, 2960] } else { [0, 1392, 2784] };
        // The last one leaves room in its last fragment, but not for the header.
        for (len, workers) in [(4000, 1), (4000, 4), (if family == Family::V4 { 4430 } else { 4160 }, 2)] {
            let mut director = director((family, far), Protocol::UDP, Version::V2, workers);
            let mut packet =
                udp(client(family, CPORT), virt(family, 1)).with_payload((0..len).map(|n| n as u8).collect());
            packet.dont_fragment = false;
            let mut sent = Vec::new();
            for (n, ip) in split(&packet.ip(), &cuts, 7).iter().enumerate() {
                director.arrive(n % workers, CLIENTS, &frame(ip, port_mac(CLIENTS), mac_of(packet.src.ip())));
                sent.extend(director.run());
            }
            let parts: Vec<SeenIp> = sent.iter().map(|sent| sent.seen().ip).collect();
            assert!(parts.iter().all(|part| part.bytes.len() <= 1500));
            let whole = check::reassemble(&parts);
            assert!(whole.payload == [&header[..], &packet.payload].concat(), "{family:?} {far:?} {len} {workers}");
        }
    }
}

#[test]
fn other_servers_and_protocols_get_none() {
    for family in FAMILIES {
        for (protocol, mode, version) in [
            (Protocol::TCP, Nat, Version::V1),
            (Protocol::UDP, Nat, Version::V2),
            (Protocol::UDP, FullNat, Version::V1),
        ] {
            let mut service = service(1, family, protocol, mode, &[1]);
            service.client_address = Some(ClientAddress::Proxy(version));
            let mut director = Director::new(Setup::workers(1), vec![service]);
            let first = open(&mut director, 0, protocol, client(family, CPORT), virt(family, 1));
            let ack = tcp(client(family, CPORT), virt(family, 1), ACK);
            match protocol {
                Protocol::TCP => assert_eq!(director.forward(0, CLIENTS, &ack).1.ip.payload, []),
                _ => assert_eq!(first.payload, b"datagram"),
            }
            director.finish();
        }
    }
}

/// What the network does to segments: each draw decides about one.
struct Chance(u64);

impl Chance {
    fn draw(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % n
    }
}

/// Segments under way in one direction.
#[derive(Default)]
struct Wire(Vec<Segment>);

impl Wire {
    /// Sends a segment: it is lost, doubled, or overtakes others.
    fn send(&mut self, segment: Segment, chance: &mut Chance, is_lossy: bool) {
        if !is_lossy {
            return self.0.push(segment);
        }
        let place = match chance.draw(4) {
            0 => chance.draw(self.0.len() as u64 + 1) as usize,
            _ => self.0.len(),
        };
        match chance.draw(8) {
            0 | 1 => {}
            2 => {
                self.0.insert(place, segment.clone());
                self.0.push(segment);
            }
            _ => self.0.insert(place, segment),
        }
    }
}

/// One end of a connection, simple but right: it sends again what is not acknowledged and acknowledges what it has.
struct End {
    isn: u32,
    data: Vec<u8>,
    /// How much of `data` may be sent, has been sent, and is acknowledged.
    ready: usize,
    sent: usize,
    acked: usize,
    peer_isn: Option<u32>,
    /// The peer's bytes by their place in its data.
    parts: BTreeMap<usize, u8>,
    received: usize,
    is_open: bool,
}

impl End {
    fn new(isn: u32, data: Vec<u8>) -> Self {
        let ready = data.len();
        let (parts, peer_isn) = (BTreeMap::new(), None);
        Self { isn, data, ready, sent: 0, acked: 0, peer_isn, parts, received: 0, is_open: false }
    }

    fn number(&self, n: usize) -> u32 {
        self.isn.wrapping_add(1 + n as u32)
    }

    fn acknowledgement(&self) -> u32 {
        self.peer_isn.map_or(0, |isn| isn.wrapping_add(1 + self.received as u32))
    }

    /// The segment that says what has arrived.
    fn answer(&self) -> Segment {
        let mut answer = Segment::new(self.number(self.sent), self.acknowledgement(), ACK, &[]);
        if let Some((&first, _)) = self.parts.range(self.received..).next() {
            let end = (first..).find(|n| !self.parts.contains_key(n)).unwrap();
            let number = |n: usize| self.peer_isn.unwrap().wrapping_add(1 + n as u32).to_be_bytes();
            answer.options = [&[1, 1, 5, 10][..], &number(first), &number(end)].concat();
        }
        answer
    }

    /// Everything that is not acknowledged, in segments of random length; or nothing if there is none.
    fn again(&mut self, chance: &mut Chance, mss: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut from = self.acked;
        while from < self.ready {
            let to = (from + 1 + chance.draw(mss as u64) as usize).min(self.ready);
            let mut segment = self.answer();
            (segment.seq, segment.data, segment.options) = (self.number(from), self.data[from..to].to_vec(), vec![]);
            segments.push(segment);
            from = to;
        }
        self.sent = self.sent.max(from);
        segments
    }

    /// Takes a segment of the open connection in and returns whether an answer is due.
    fn take(&mut self, segment: &Segment) -> bool {
        let acked = segment.ack.wrapping_sub(self.number(0)) as i32;
        assert!(acked <= self.sent as i32, "acknowledges byte {acked} of {}", self.sent);
        // An old one may be before the first byte, once the director has forgotten where the header was.
        assert!(acked >= -(MAX_LEN as i32), "acknowledges byte {acked}");
        self.acked = self.acked.max(acked.max(0) as usize);
        for (left, right) in segment.blocks() {
            let (left, right) = (left.wrapping_sub(self.number(0)) as i32, right.wrapping_sub(self.number(0)) as i32);
            assert!(acked < left && left < right && right <= self.sent as i32, "{left} to {right} behind {acked}");
        }
        let from = segment.seq.wrapping_sub(self.peer_isn.unwrap().wrapping_add(1)) as i32;
        for (n, byte) in segment.data.iter().enumerate() {
            let place = usize::try_from(from + n as i32).expect("no data before the first");
            assert_eq!(*self.parts.entry(place).or_insert(*byte), *byte, "byte {place} differs from what it was");
        }
        while self.parts.contains_key(&self.received) {
            self.received += 1;
        }
        !segment.data.is_empty()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_server_gets_header_and_data_whatever_is_lost(
        seed in 1u64..,
        families in prop::sample::select(PAIRS.to_vec()),
        version in prop::sample::select(VERSIONS.to_vec()),
        workers in prop::sample::select(vec![1usize, 2, 4]),
        sizes in (0usize..4000, 0usize..4000),
        mss in prop::sample::select(vec![3usize, 100, 1420]),
        server_speaks_first in any::<bool>(),
        data_in_syn in any::<bool>(),
    ) {
        let mut chance = Chance(seed);
        let header = header_of(families.0, Protocol::TCP, version);
        let mut path = Path::new(families, version, workers);
        let size = if mss == 3 { (sizes.0 % 60, sizes.1 % 60) } else { sizes };
        let mut client = End::new(CLIENT_ISN, (0..size.0).map(|n| n as u8).collect());
        let mut server = End::new(SERVER_ISN, (0..size.1).map(|n| !n as u8).collect());
        let expected = [&header[..], &client.data].concat();
        // Who does not speak first waits for the other's data.
        server.ready = 0;
        if server_speaks_first {
            client.ready = 0;
        }
        let [mut up, mut far_up, mut down, mut far_down] = [(); 4].map(|()| Wire::default());
        let mut rounds = 0;
        while client.received < server.data.len() || server.received < expected.len() || client.acked < client.data.len() {
            rounds += 1;
            prop_assert!(rounds < 400, "client {}/{} server {}/{}", client.received, server.data.len(), server.received, expected.len());
            let is_lossy = rounds < 60;
            // Timeouts.
            if client.peer_isn.is_none() {
                let data = if data_in_syn { client.data[..client.data.len().min(9)].to_vec() } else { vec![] };
                up.send(Segment::new(CLIENT_ISN, 0, Flags::SYN, &data), &mut chance, is_lossy);
            } else {
                client.again(&mut chance, mss).into_iter().for_each(|s| up.send(s, &mut chance, is_lossy));
            }
            if server.is_open {
                server.again(&mut chance, mss).into_iter().for_each(|s| down.send(s, &mut chance, is_lossy));
            } else if server.peer_isn.is_some() {
                down.send(Segment::new(SERVER_ISN, CLIENT_ISN + 1, Flags::SYN | ACK, &[]), &mut chance, is_lossy);
            }
            while !(up.0.is_empty() && far_up.0.is_empty() && down.0.is_empty() && far_down.0.is_empty()) {
                for segment in std::mem::take(&mut up.0) {
                    path.client_sends(&segment).into_iter().for_each(|s| far_up.send(s, &mut chance, is_lossy));
                }
                for segment in std::mem::take(&mut far_up.0) {
                    if segment.flags.contains(Flags::SYN) {
                        prop_assert!(segment.data.is_empty());
                        if server.peer_isn.replace(segment.seq).is_none() {
                            down.send(Segment::new(SERVER_ISN, segment.seq + 1, Flags::SYN | ACK, &[]), &mut chance, is_lossy);
                        }
                        continue;
                    }
                    server.is_open = true;
                    let is_due = server.take(&segment);
                    let known: Vec<u8> = (0..server.received).map(|n| server.parts[&n]).collect();
                    prop_assert!(expected.starts_with(&known));
                    // The application reads the header before it says anything.
                    let is_its_turn = if server_speaks_first { header.len() } else { expected.len() };
                    if server.received >= is_its_turn {
                        server.ready = server.data.len();
                    }
                    if is_due {
                        down.send(server.answer(), &mut chance, is_lossy);
                    }
                }
                for segment in std::mem::take(&mut down.0) {
                    far_down.send(path.server_sends(&segment), &mut chance, is_lossy);
                }
                for segment in std::mem::take(&mut far_down.0) {
                    if segment.flags.contains(Flags::SYN) {
                        prop_assert!(client.peer_isn.is_some() || segment.ack == client.number(0));
                        client.peer_isn = Some(segment.seq);
                        up.send(client.answer(), &mut chance, is_lossy);
                    } else if client.peer_isn.is_some() {
                        let is_due = client.take(&segment);
                        if client.received >= server.data.len() {
                            client.ready = client.data.len();
                        }
                        if is_due {
                            up.send(client.answer(), &mut chance, is_lossy);
                        }
                    }
                }
            }
        }
        path.director.settle();
    }
}
