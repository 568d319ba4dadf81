//! Frames there and back, without a kernel: what leaves is what a client would have sent, what comes back is about what the
//! kernel sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::PortId;
use dataplane::fib::{Fib, NextHop, PortInfo, Route};
use dataplane::ip::Ip;
use dataplane::packet::PacketBuf;
use dataplane::snapshot::{Encapsulation, ForwardMode, Server, Service, ServiceKey, ServiceTable, Snapshot};
use dataplane::{ServerId, ServiceId};
use proto::checksum::Sum;
use proto::icmp::{self, parse_quoted};
use proto::parse::{IpPacket, Parsed, parse};
use proto::{Family, Protocol, Tuple, ethernet, gre, gue, icmpv6, ipv4, ipv6, tcp, udp};

use super::*;

const MTU: u16 = 1500;
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 21];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LOCAL_PORT: u16 = 40_000;
const GUE_PORT: u16 = 6080;
const ENCAPSULATIONS: [Encapsulation; 5] = [
    Encapsulation::Ipip,
    Encapsulation::Gre { checksum: false },
    Encapsulation::Gre { checksum: true },
    Encapsulation::Gue { port: GUE_PORT, checksum: false },
    Encapsulation::Gue { port: GUE_PORT, checksum: true },
];

/// The addresses of a family.
trait Lab: Ip {
    fn host(n: u8) -> Self;

    fn local() -> Self {
        Self::host(1)
    }

    fn server() -> Self {
        Self::host(21)
    }

    fn virt() -> Self {
        Self::host(100)
    }

    /// Writes an IP header in front of `payload_len` bytes.
    fn header(out: &mut [u8], src: Self, dst: Self, protocol: Protocol, payload_len: usize);

    fn packet(parsed: Parsed) -> IpPacket<Self>;
}

impl Lab for Ipv4Addr {
    fn host(n: u8) -> Self {
        Ipv4Addr::new(192, 0, 2, n)
    }

    fn header(out: &mut [u8], src: Self, dst: Self, protocol: Protocol, payload_len: usize) {
        let total_len = (ipv4::HEADER_LEN + payload_len) as u16;
        ipv4::emit(out, &ipv4::Fields { tos: 0, total_len, id: 7, dont_fragment: true, ttl: 64, protocol, src, dst });
    }

    fn packet(parsed: Parsed) -> IpPacket<Self> {
        let Parsed::Ipv4(packet) = parsed else { panic!("not IPv4: {parsed:?}") };
        packet
    }
}

impl Lab for Ipv6Addr {
    fn host(n: u8) -> Self {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n.into())
    }

    fn header(out: &mut [u8], src: Self, dst: Self, next_header: Protocol, payload_len: usize) {
        let payload_len = payload_len as u16;
        let fields =
            ipv6::Fields { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit: 64, src, dst };
        ipv6::emit(out, &fields);
    }

    fn packet(parsed: Parsed) -> IpPacket<Self> {
        let Parsed::Ipv6(packet) = parsed else { panic!("not IPv6: {parsed:?}") };
        packet
    }
}

/// What a check speaks: TCP, UDP, or ICMP echo, for which the first number is the identifier.
#[derive(Clone, Copy, Debug)]
enum Talk {
    Tcp,
    Udp,
    Echo,
}

const TALKS: [Talk; 3] = [Talk::Tcp, Talk::Udp, Talk::Echo];

impl Talk {
    fn protocol<A: Lab>(self) -> Protocol {
        match self {
            Talk::Tcp => Protocol::TCP,
            Talk::Udp => Protocol::UDP,
            Talk::Echo => A::ICMP,
        }
    }

    /// The server's port, or the sequence number.
    fn remote_port(self) -> u16 {
        80
    }

    /// The virtual port, which is another one to see that it is written, where there is one.
    fn virtual_port(self) -> u16 {
        if matches!(self, Talk::Echo) { 80 } else { 8080 }
    }
}

/// A frame from `src` to `dst`, complete with checksums. An answer of ICMP echo is one whose source port is `80`.
fn frame<A: Lab>(talk: Talk, src: (A, u16), dst: (A, u16), data: &[u8]) -> Vec<u8> {
    let mut l4 = match talk {
        Talk::Tcp => vec![0; tcp::HEADER_LEN],
        Talk::Udp | Talk::Echo => vec![0; 8],
    };
    l4.extend_from_slice(data);
    let checksum_at = match talk {
        Talk::Tcp => {
            let fields =
                tcp::Fields { sport: src.1, dport: dst.1, seq: 1, ack: 0, flags: tcp::Flags::SYN, window: 1000 };
            tcp::emit(&mut l4, &fields);
            tcp::CHECKSUM
        }
        Talk::Udp => {
            let len = l4.len() as u16;
            udp::emit(&mut l4, src.1, dst.1, len);
            udp::CHECKSUM
        }
        Talk::Echo => {
            let is_reply = src.1 == talk.remote_port();
            let (id, sequence) = if is_reply { (dst.1, src.1) } else { (src.1, dst.1) };
            l4[0] = match (A::FAMILY, is_reply) {
                (Family::V4, false) => icmp::ECHO_REQUEST,
                (Family::V4, true) => icmp::ECHO_REPLY,
                (Family::V6, false) => icmpv6::ECHO_REQUEST,
                (Family::V6, true) => icmpv6::ECHO_REPLY,
            };
            l4[4..6].copy_from_slice(&id.to_be_bytes());
            l4[6..8].copy_from_slice(&sequence.to_be_bytes());
            icmp::CHECKSUM
        }
    };
    let protocol = talk.protocol::<A>();
    let checksum = pseudo(src.0, dst.0, protocol, l4.len()).add_bytes(&l4).finish();
    l4[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    ip_frame(src.0, dst.0, protocol, &l4)
}

fn ip_frame<A: Lab>(src: A, dst: A, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER_LEN + A::HEADER_LEN];
    ethernet::emit(&mut frame, SERVER_MAC, OWN_MAC, ethernet::EtherType(A::ETHER_TYPE));
    A::header(&mut frame[ethernet::HEADER_LEN..], src, dst, protocol, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn pseudo<A: Lab>(src: A, dst: A, protocol: Protocol, len: usize) -> Sum {
    match protocol {
        Protocol::ICMP => Sum::ZERO,
        _ => Sum::pseudo(src, dst, protocol, len as u32),
    }
}

/// The packet at `l3`, whose checksums must be right.
fn valid<A: Lab>(frame: &[u8]) -> IpPacket<A> {
    let packet = A::packet(parse(frame).unwrap());
    let end = usize::from(packet.l3) + usize::from(packet.len);
    let l4 = &frame[packet.l4.into()..end];
    let Tuple { src, dst, protocol, .. } = packet.tuple;
    assert_eq!(pseudo(src, dst, protocol, l4.len()).add_bytes(l4).finish(), 0, "checksum of {packet:?}");
    packet
}

fn snapshot<A: Lab>() -> Snapshot {
    let own: IpAddr = A::local().into();
    let ports = vec![PortInfo { mac: OWN_MAC, mtu: MTU, addresses: vec![own] }];
    let route = Route {
        network: A::host(0).into(),
        prefix_len: 8 * A::LEN as u8 - 8,
        next_hops: vec![NextHop { port: PortId(0), gateway: None, weight: 1 }],
        preferred_source: None,
        mtu: None,
    };
    let key = ServiceKey { protocol: Protocol::TCP, vaddr: A::virt().into(), vport: 8080 };
    let server = Server {
        id: ServerId(0),
        addr: A::server().into(),
        port: 8080,
        mode: ForwardMode::Tunnel,
        encapsulation: Encapsulation::Gue { port: GUE_PORT, checksum: false },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let service = Service {
        id: ServiceId(0),
        incarnation: 1,
        version: 1,
        key,
        scheduler: sched::Scheduler::new(sched::Kind::Rr, &[]),
        servers: vec![server],
        sorry: None,
        local_addresses: Vec::new(),
        local_ports: (1, 1),
        timeout: None,
        one_packet: false,
        persistence: None,
        client_address: None,
    };
    Snapshot {
        fib: Arc::new(Fib::new(1, ports, [route], [], [own, A::virt().into()])),
        services: Arc::new(ServiceTable::new([Arc::new(service)])),
        ..Snapshot::default()
    }
}

/// A flow on a detour, and the director around it.
struct Bench {
    detours: Arc<Detours>,
    detour: Detour,
    snapshot: Snapshot,
}

impl Bench {
    fn new<A: Lab>(talk: Talk, tunnel: Option<Encapsulation>) -> Self {
        let detours = Arc::<Detours>::default();
        let (protocol, local) = (talk.protocol::<A>(), (A::local().into(), LOCAL_PORT));
        let remote = (A::server().into(), talk.remote_port());
        let to = VirtualEnd { end: (A::virt().into(), talk.virtual_port()), tunnel };
        let detour = detours.add(Flow { protocol, local, remote }, to).unwrap();
        Self { detours, detour, snapshot: snapshot::<A>() }
    }

    fn sent(&self, frame: &[u8]) -> Result<Vec<u8>, DoesNotFit> {
        let mut frame = frame.to_vec();
        let wrapped = self.detours.to_server(&mut frame, PortId(0), &self.snapshot)?;
        Ok(wrapped.map_or(frame, |packet| packet.data().to_vec()))
    }

    fn received(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let mut spare = vec![1, 2, 3];
        self.detours.to_kernel(&mut frame, &mut spare, &self.snapshot).to_vec()
    }
}

fn request<A: Lab>(talk: Talk, data: &[u8]) -> Vec<u8> {
    frame(talk, (A::local(), LOCAL_PORT), (A::server(), talk.remote_port()), data)
}

fn request_at_server<A: Lab>(talk: Talk, data: &[u8]) -> Vec<u8> {
    frame(talk, (A::local(), LOCAL_PORT), (A::virt(), talk.virtual_port()), data)
}

fn directly<A: Lab>() {
    for talk in TALKS {
        for data in [&b""[..], b"odd", b"even"] {
            let bench = Bench::new::<A>(talk, None);
            assert!(!bench.detour.was_used());
            assert_eq!(bench.sent(&request::<A>(talk, data)).unwrap(), request_at_server::<A>(talk, data), "{talk:?}");
            assert!(bench.detour.was_used());
            let answer = frame(talk, (A::virt(), talk.virtual_port()), (A::local(), LOCAL_PORT), data);
            let expected = frame(talk, (A::server(), talk.remote_port()), (A::local(), LOCAL_PORT), data);
            assert_eq!(bench.received(answer), expected, "{talk:?}");
        }
    }
}

#[test]
fn direct_routing_exchanges_addresses_and_ports() {
    directly::<Ipv4Addr>();
    directly::<Ipv6Addr>();
}

#[test]
fn padding_of_short_frames_stays_as_it_is() {
    let bench = Bench::new::<Ipv4Addr>(Talk::Udp, None);
    let pad = |mut frame: Vec<u8>| {
        frame.resize(60, 0);
        frame
    };
    let sent = bench.sent(&pad(request::<Ipv4Addr>(Talk::Udp, b"x"))).unwrap();
    assert_eq!(sent, pad(request_at_server::<Ipv4Addr>(Talk::Udp, b"x")));
}

#[test]
fn a_datagram_without_a_checksum_stays_one() {
    let bench = Bench::new::<Ipv4Addr>(Talk::Udp, None);
    let without = |mut frame: Vec<u8>| {
        frame[34 + udp::CHECKSUM..][..2].fill(0);
        frame
    };
    let sent = bench.sent(&without(request::<Ipv4Addr>(Talk::Udp, b"x"))).unwrap();
    assert_eq!(sent, without(request_at_server::<Ipv4Addr>(Talk::Udp, b"x")));
}

/// The packet in a tunnel packet, as a frame of its own.
fn opened<A: Lab>(frame: &[u8], encapsulation: Encapsulation) -> Vec<u8> {
    let outer = A::packet(parse(frame).unwrap());
    assert_eq!((outer.tuple.src, outer.tuple.dst), (A::local(), A::server()));
    assert_eq!(frame[..ethernet::HEADER_LEN], request::<A>(Talk::Tcp, b"")[..ethernet::HEADER_LEN]);
    let payload = &frame[outer.l4.into()..];
    let inner = match encapsulation {
        Encapsulation::Ipip => {
            assert_eq!(outer.tuple.protocol, A::IN_IP);
            payload
        }
        Encapsulation::Gre { checksum } => {
            assert_eq!(outer.tuple.protocol, Protocol::GRE);
            let (kind, len) = gre::parse(payload).unwrap();
            assert_eq!((kind.0, len), (A::ETHER_TYPE, gre::header_len(checksum)));
            &payload[len..]
        }
        Encapsulation::Gue { port, checksum } => {
            assert_eq!((outer.tuple.protocol, outer.tuple.dport), (Protocol::UDP, port));
            assert_eq!(payload[udp::CHECKSUM..][..2] != [0, 0], checksum);
            if checksum {
                valid::<A>(frame);
            }
            let (protocol, len) = gue::parse(&payload[udp::HEADER_LEN..]).unwrap();
            assert_eq!(protocol, A::IN_IP);
            &payload[udp::HEADER_LEN + len..]
        }
    };
    [&frame[..ethernet::HEADER_LEN], inner].concat()
}

fn through_tunnels<A: Lab>() {
    for encapsulation in ENCAPSULATIONS {
        for talk in TALKS {
            let bench = Bench::new::<A>(talk, Some(encapsulation));
            let sent = bench.sent(&request::<A>(talk, b"data")).unwrap();
            let inner = opened::<A>(&sent, encapsulation);
            assert_eq!(valid::<A>(&inner).ttl, 63, "one hop, as for clients' packets");
            let mut expected = request_at_server::<A>(talk, b"data");
            A::decrement_ttl(&mut expected[ethernet::HEADER_LEN..], Default::default());
            assert_eq!(inner, expected, "{talk:?} {encapsulation:?}");
            let answer = frame(talk, (A::virt(), talk.virtual_port()), (A::local(), LOCAL_PORT), b"");
            assert_eq!(valid::<A>(&bench.received(answer)).tuple.src, A::server());
        }
    }
}

#[test]
fn tunnels_are_those_of_the_server() {
    through_tunnels::<Ipv4Addr>();
    through_tunnels::<Ipv6Addr>();
}

#[test]
fn what_does_not_fit_through_a_tunnel_is_not_sent() {
    let bench = Bench::new::<Ipv4Addr>(Talk::Udp, Some(Encapsulation::Ipip));
    let fits = usize::from(MTU) - 20 - 20 - 8;
    assert!(bench.sent(&request::<Ipv4Addr>(Talk::Udp, &vec![0; fits])).is_ok());
    assert_eq!(bench.sent(&request::<Ipv4Addr>(Talk::Udp, &vec![0; fits + 1])), Err(DoesNotFit));
    let unroutable = Bench { snapshot: Snapshot::default(), ..bench };
    assert_eq!(unroutable.sent(&request::<Ipv4Addr>(Talk::Udp, b"")), Err(DoesNotFit));
}

/// An error from `src` about `about`, a frame.
fn error<A: Lab>(src: A, about: &[u8], kind: u8, code: u8, rest: u32) -> Vec<u8> {
    let fields = icmp::ErrorFields { message_type: kind, code, rest };
    let offending = &about[ethernet::HEADER_LEN..];
    let mut frame = about[..ethernet::HEADER_LEN].to_vec();
    frame.resize(ethernet::HEADER_LEN + A::error_len(offending.len()), 0);
    A::emit_error(&mut frame[ethernet::HEADER_LEN..], src, offending, &fields).unwrap();
    frame
}

/// What an error says: who reports it, type, code, the rest of its header, and about what.
fn told<A: Lab>(frame: &[u8]) -> (A, u8, u8, u32, Tuple<A>) {
    let packet = valid::<A>(frame);
    assert_eq!((packet.tuple.dst, packet.tuple.protocol), (A::local(), A::ICMP));
    let message = &frame[packet.l4.into()..];
    let quoted = parse_quoted::<A>(frame, usize::from(packet.l4) + icmp::HEADER_LEN).unwrap();
    let rest = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    (packet.tuple.src, message[0], message[1], rest, quoted.tuple)
}

fn unreachable_port<A: Lab>() -> (u8, u8) {
    match A::FAMILY {
        Family::V4 => (icmp::DESTINATION_UNREACHABLE, icmp::PORT_UNREACHABLE),
        Family::V6 => (icmpv6::DESTINATION_UNREACHABLE, icmpv6::PORT_UNREACHABLE),
    }
}

fn errors<A: Lab>() {
    let (kind, code) = unreachable_port::<A>();
    for talk in TALKS {
        let bench = Bench::new::<A>(talk, None);
        let sent = bench.sent(&request::<A>(talk, b"data")).unwrap();
        let original = A::packet(parse(&request::<A>(talk, b"data")).unwrap()).tuple;
        let back = bench.received(error(A::virt(), &sent, kind, code, 0));
        assert_eq!(told::<A>(&back), (A::server(), kind, code, 0, original), "{talk:?}");
        let quote_at = ethernet::HEADER_LEN + A::HEADER_LEN + icmp::HEADER_LEN;
        assert_eq!(back[quote_at..], request::<A>(talk, b"data")[ethernet::HEADER_LEN..], "checksums included");
        // A router is no less itself.
        let back = bench.received(error(A::host(254), &sent, kind, code, 0));
        assert_eq!(told::<A>(&back), (A::host(254), kind, code, 0, original), "{talk:?}");
        // A quote of eight bytes behind the header, as by RFC 792.
        let short = &sent[..ethernet::HEADER_LEN + A::HEADER_LEN + 8];
        let back = bench.received(error(A::virt(), short, kind, code, 0));
        assert_eq!(told::<A>(&back), (A::server(), kind, code, 0, original), "{talk:?}");
        // Damaged on the way: the kernel is to see that.
        let mut damaged = error(A::virt(), &sent, kind, code, 0);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(bench.received(damaged.clone()), damaged);
        // About a packet of nobody's.
        let other = error(A::virt(), &request_at_server::<A>(Talk::Tcp, b"")[..], kind, code, 0);
        if !matches!(talk, Talk::Tcp) {
            assert_eq!(bench.received(other.clone()), other);
        }
    }
}

#[test]
fn errors_are_about_what_the_kernel_sent() {
    errors::<Ipv4Addr>();
    errors::<Ipv6Addr>();
}

fn errors_of_tunnels<A: Lab>() {
    let (kind, code) = unreachable_port::<A>();
    for encapsulation in ENCAPSULATIONS {
        let bench = Bench::new::<A>(Talk::Tcp, Some(encapsulation));
        let sent = bench.sent(&request::<A>(Talk::Tcp, b"")).unwrap();
        let original = A::packet(parse(&request::<A>(Talk::Tcp, b"")).unwrap()).tuple;
        let back = bench.received(error(A::server(), &sent, kind, code, 0));
        assert_eq!(told::<A>(&back), (A::server(), kind, code, 0, original), "{encapsulation:?}");
        // A router on the way, whose link takes less.
        let (kind, code) = match A::FAMILY {
            Family::V4 => (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED),
            Family::V6 => (icmpv6::PACKET_TOO_BIG, 0),
        };
        let headers = (sent.len() - request::<A>(Talk::Tcp, b"").len()) as u32;
        let back = bench.received(error(A::host(254), &sent, kind, code, 1400));
        assert_eq!(told::<A>(&back), (A::host(254), kind, code, 1400 - headers, original), "{encapsulation:?}");
    }
}

#[test]
fn errors_about_tunnel_packets_are_about_what_was_in_them() {
    errors_of_tunnels::<Ipv4Addr>();
    errors_of_tunnels::<Ipv6Addr>();
}

fn others_are_left_alone<A: Lab>() {
    let bench = Bench::new::<A>(Talk::Tcp, None);
    for other in [
        frame(Talk::Tcp, (A::local(), LOCAL_PORT + 1), (A::server(), 80), b""),
        frame(Talk::Tcp, (A::local(), LOCAL_PORT), (A::server(), 81), b""),
        frame(Talk::Tcp, (A::local(), LOCAL_PORT), (A::host(22), 80), b""),
        frame(Talk::Tcp, (A::host(2), LOCAL_PORT), (A::server(), 80), b""),
        frame(Talk::Udp, (A::local(), LOCAL_PORT), (A::server(), 80), b""),
        frame(Talk::Echo, (A::local(), LOCAL_PORT), (A::server(), 80), b""),
    ] {
        assert_eq!(bench.sent(&other).unwrap(), other);
    }
    assert!(!bench.detour.was_used());
    for other in [
        frame(Talk::Tcp, (A::server(), 80), (A::local(), LOCAL_PORT), b""),
        frame(Talk::Tcp, (A::virt(), 8080), (A::local(), LOCAL_PORT + 1), b""),
        frame(Talk::Tcp, (A::virt(), 80), (A::local(), LOCAL_PORT), b""),
        frame(Talk::Udp, (A::virt(), 8080), (A::local(), LOCAL_PORT), b""),
    ] {
        assert_eq!(bench.received(other.clone()), other);
    }
    let mut arp = vec![0; ethernet::MIN_FRAME_LEN];
    ethernet::emit(&mut arp, ethernet::BROADCAST, OWN_MAC, ethernet::EtherType::ARP);
    assert_eq!(bench.sent(&arp).unwrap(), arp);
}

#[test]
fn other_packets_are_left_alone() {
    others_are_left_alone::<Ipv4Addr>();
    others_are_left_alone::<Ipv6Addr>();
}

#[test]
fn fragments_are_left_alone() {
    let bench = Bench::new::<Ipv4Addr>(Talk::Udp, None);
    let mut fragment = request::<Ipv4Addr>(Talk::Udp, &[0; 16]);
    let header = &mut fragment[ethernet::HEADER_LEN..];
    header[ipv4::FRAGMENT..ipv4::FRAGMENT + 2].copy_from_slice(&ipv4::MORE_FRAGMENTS.to_be_bytes());
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
    let checksum = Sum::ZERO.add_bytes(&header[..ipv4::HEADER_LEN]).finish();
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(bench.sent(&fragment).unwrap(), fragment);
    assert!(!bench.detour.was_used());
}

/// Every frame that is cut short, and every one with a byte that is another: nothing panics, and what is cut is left alone.
#[test]
fn damaged_frames_do_no_harm() {
    for talk in TALKS {
        damage::<Ipv4Addr>(talk);
        damage::<Ipv6Addr>(talk);
    }
}

fn damage<A: Lab>(talk: Talk) {
    let (kind, code) = unreachable_port::<A>();
    let mut frames = vec![
        request::<A>(talk, b"data"),
        frame(talk, (A::virt(), talk.virtual_port()), (A::local(), LOCAL_PORT), b"data"),
        error(A::virt(), &request_at_server::<A>(talk, b"data"), kind, code, 0),
    ];
    for encapsulation in ENCAPSULATIONS {
        let bench = Bench::new::<A>(talk, Some(encapsulation));
        frames.push(error(A::server(), &bench.sent(&request::<A>(talk, b"")).unwrap(), kind, code, 0));
    }
    for tunnel in [None, Some(ENCAPSULATIONS[4])] {
        let bench = Bench::new::<A>(talk, tunnel);
        for whole in &frames {
            for end in 0..whole.len() {
                let cut = whole[..end].to_vec();
                assert_eq!(bench.sent(&cut).unwrap(), cut);
                assert_eq!(bench.received(cut.clone()), cut);
            }
            for at in 0..whole.len() {
                for byte in [0, 1, 0x45, 0x7f, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = byte;
                    let _ = bench.sent(&changed);
                    repair::<A>(&mut changed);
                    let _ = bench.sent(&changed);
                    bench.received(changed);
                }
            }
        }
    }
}

/// Makes the checksums of IPv4's header and of an ICMP message right again, so that what they guard is looked at.
fn repair<A: Lab>(frame: &mut [u8]) {
    let l4 = ethernet::HEADER_LEN + A::HEADER_LEN;
    if A::FAMILY == Family::V4 {
        let header = &mut frame[ethernet::HEADER_LEN..l4];
        header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
        let checksum = Sum::ZERO.add_bytes(header).finish();
        header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    let (header, message) = frame.split_at_mut(l4);
    let ip = &header[ethernet::HEADER_LEN..];
    let sum = pseudo(A::read(&ip[A::SRC..]), A::read(&ip[A::DST..]), A::ICMP, message.len());
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].fill(0);
    let checksum = sum.add_bytes(message).finish();
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
