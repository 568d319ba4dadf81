//! The four ways to forward, in both families, with TCP and UDP, wherever packets arrive.

use std::net::SocketAddr;

use dataplane::ServerId;
use dataplane::snapshot::ForwardMode;
use proto::state::State;
use proto::tcp::Flags;
use proto::{Family, Protocol};

use crate::support::check::{Seen, SeenIp};
use crate::support::packet::{Packet, Transport, tcp, udp};
use crate::support::*;

const SERVER: ServerId = ServerId(16);
const ACK: Flags = Flags::ACK;

/// One client, one service, one server.
struct Flow {
    family: Family,
    mode: ForwardMode,
    client: SocketAddr,
    virt: SocketAddr,
    server: SocketAddr,
    /// Whom the server sees; in FULLNAT mode known after the first packet.
    seen_client: SocketAddr,
}

impl Flow {
    fn new(family: Family, mode: ForwardMode, cport: u16) -> Self {
        let client = client(family, cport);
        let virt = virt(family, 1);
        let server = server(family, 1);
        let server = SocketAddr::new(server, if mode.sees_replies() { DPORT } else { VPORT });
        Self { family, mode, client, virt, server, seen_client: client }
    }

    /// The packet in `seen` that the server takes for the client's; checks everything around it.
    fn at_server(&mut self, port: dataplane::PortId, seen: Seen, sent: &Packet) -> SeenIp {
        assert_eq!(port, SERVERS);
        assert_eq!(seen.src_mac, port_mac(SERVERS));
        assert_eq!(seen.dst_mac, mac_of(self.server.ip()));
        let ip = match self.mode {
            ForwardMode::Tunnel => {
                let outer = seen.ip;
                assert_eq!(outer.src.ip(), own(self.family, SERVERS));
                assert_eq!(outer.dst.ip(), self.server.ip());
                assert_eq!(outer.ttl, sent.ttl - 1);
                assert_eq!(outer.protocol, if self.family == Family::V4 { 4 } else { 41 });
                assert_eq!(outer.dont_fragment, sent.dont_fragment && self.family == Family::V4);
                *outer.inner.expect("a packet in the tunnel")
            }
            _ => seen.ip,
        };
        if self.mode == ForwardMode::FullNat && self.seen_client == self.client {
            self.seen_client = ip.src;
            assert_eq!(ip.src.ip(), local(self.family, 1));
        }
        let dst = if self.mode.sees_replies() { self.server } else { self.virt };
        assert_eq!((ip.src, ip.dst), (self.seen_client, dst));
        assert_unchanged(&ip, sent);
        ip
    }

    /// Checks what the client gets.
    fn at_client(&self, port: dataplane::PortId, seen: &Seen, sent: &Packet) {
        assert_eq!((port, seen.src_mac, seen.dst_mac), (CLIENTS, port_mac(CLIENTS), mac_of(self.client.ip())));
        assert_eq!((seen.ip.src, seen.ip.dst), (self.virt, self.client));
        assert_unchanged(&seen.ip, sent);
    }
}

fn assert_unchanged(ip: &SeenIp, sent: &Packet) {
    assert_eq!(ip.ttl, sent.ttl - 1, "time to live");
    assert_eq!(ip.payload, sent.payload, "payload");
    let extensions = sent.ipv6_extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert_eq!(ip.options.len(), sent.ipv4_options.len() + extensions, "IP options");
    match &sent.transport {
        Transport::Tcp { flags, options } => {
            assert_eq!((ip.protocol, ip.flags), (6, flags.0));
            let segment = &ip.bytes[ip.bytes.len() - sent.payload.len() - options.len()..];
            assert_eq!(&segment[..options.len()], options, "TCP options");
        }
        Transport::Udp { has_checksum } => {
            assert_eq!(ip.protocol, 17);
            assert_eq!(ip.udp_checksum != 0, *has_checksum, "UDP checksum {:#06x}", ip.udp_checksum);
        }
        Transport::Sctp { damage } => assert_eq!((ip.protocol, ip.sctp_damage), (132, *damage)),
        Transport::Other(protocol) => assert_eq!(ip.protocol, protocol.0),
    }
}

/// Every combination that matters for steering: how many workers, and where the first packet arrives.
fn arrivals() -> impl Iterator<Item = (usize, usize)> {
    [1, 2, 4].into_iter().flat_map(|workers| (0..workers).map(move |first| (workers, first)))
}

#[test]
fn tcp_handshake_data_and_close() {
    use State::{CloseWait, Established, FinWait, SynRecv, TimeWait};
    let steps_seen_both_ways = [
        (true, Flags::SYN, 0, SynRecv),
        (false, Flags::SYN | ACK, 0, SynRecv),
        (true, ACK, 0, Established),
        (true, ACK | Flags::PSH, 333, Established),
        (false, ACK, 1400, Established),
        (true, Flags::FIN | ACK, 0, CloseWait),
        (false, ACK, 0, CloseWait),
        (false, Flags::FIN | ACK, 1, TimeWait),
        (true, ACK, 0, TimeWait),
    ];
    let steps_seen_one_way = [
        (true, Flags::SYN, 0, SynRecv),
        (true, ACK, 0, Established),
        (true, ACK | Flags::PSH, 333, Established),
        (true, Flags::FIN | ACK, 0, FinWait),
        (true, ACK, 0, FinWait),
    ];
    for family in FAMILIES {
        for mode in MODES {
            let steps = if mode.sees_replies() { &steps_seen_both_ways[..] } else { &steps_seen_one_way };
            for (workers, first) in arrivals() {
                let mut director =
                    Director::new(Setup::workers(workers), vec![service(1, family, Protocol::TCP, mode, &[1])]);
                let mut flow = Flow::new(family, mode, 40000 + first as u16);
                let (mut in_bytes, mut out_bytes) = (0, 0);
                for (i, &(from_client, flags, len, state)) in steps.iter().enumerate() {
                    let worker = (first + i) % workers;
                    let payload = (0..len).map(|n: i32| n as u8).collect();
                    if from_client {
                        let packet = tcp(flow.client, flow.virt, flags).with_payload(payload);
                        let (port, seen) = director.forward(worker, CLIENTS, &packet);
                        flow.at_server(port, seen, &packet);
                        in_bytes += packet.ip().len() as u64;
                    } else {
                        let packet = tcp(flow.server, flow.seen_client, flags).with_payload(payload);
                        let (port, seen) = director.forward(worker, SERVERS, &packet);
                        flow.at_client(port, &seen, &packet);
                        out_bytes += packet.ip().len() as u64;
                    }
                    let conn = director.connection();
                    assert_eq!(conn.state, state, "{family:?} {mode:?} step {i}");
                    assert_eq!(
                        (conn.client, conn.virt, conn.local, conn.server),
                        (
                            (flow.client.ip(), flow.client.port()),
                            (flow.virt.ip(), flow.virt.port()),
                            (flow.seen_client.ip(), flow.seen_client.port()),
                            (flow.server.ip(), flow.server.port())
                        )
                    );
                    let load = if state.is_active() { (1, 0) } else { (0, 1) };
                    assert_eq!(director.load(SERVER), load, "{family:?} {mode:?} step {i}");
                }
                let sent_by_client = steps.iter().filter(|s| s.0).count() as u64;
                assert_eq!(director.total(|c| c.load(SERVER).total.get()), 1);
                assert_eq!(director.total(|c| c.server(SERVER).in_packets.get()), sent_by_client);
                assert_eq!(director.total(|c| c.server(SERVER).in_bytes.get()), in_bytes);
                assert_eq!(director.total(|c| c.server(SERVER).out_packets.get()), steps.len() as u64 - sent_by_client);
                assert_eq!(director.total(|c| c.server(SERVER).out_bytes.get()), out_bytes);
                assert_eq!(director.drops(), []);
                director.settle();
                director.pass_seconds(119);
                assert_eq!(director.load(SERVER), (0, 1), "{family:?} {mode:?} before the timeout");
                director.pass_seconds(2);
                assert_eq!(director.load(SERVER), (0, 0), "{family:?} {mode:?} after the timeout");
                assert_eq!(director.connections(), []);
                director.settle();
            }
        }
    }
}

#[test]
fn udp_both_ways() {
    for family in FAMILIES {
        for mode in MODES {
            for (workers, first) in arrivals() {
                let mut director =
                    Director::new(Setup::workers(workers), vec![service(1, family, Protocol::UDP, mode, &[1])]);
                let mut flow = Flow::new(family, mode, 50000 + first as u16);
                for i in 0..5 {
                    let worker = (first + i) % workers;
                    let packet = udp(flow.client, flow.virt);
                    let (port, seen) = director.forward(worker, CLIENTS, &packet);
                    flow.at_server(port, seen, &packet);
                    if mode.sees_replies() {
                        let packet = udp(flow.server, flow.seen_client).with_payload(vec![7; 99 + i]);
                        let (port, seen) = director.forward((worker + 1) % workers, SERVERS, &packet);
                        flow.at_client(port, &seen, &packet);
                    }
                    assert_eq!(director.connection().state, State::Udp);
                    assert_eq!(director.load(SERVER), (0, 1), "UDP connections are inactive");
                    director.pass_seconds(200);
                }
                director.pass_seconds(99);
                assert_eq!(director.connection().expires, 1);
                director.pass_seconds(2);
                assert_eq!(director.load(SERVER), (0, 0));
                assert_eq!(director.drops(), []);
                director.settle();
            }
        }
    }
}

/// Lengths, options and padding that could confuse an offset or a checksum.
#[test]
fn odd_lengths_options_and_padding() {
    let lengths = [0, 1, 2, 3, 5, 6, 7, 12, 13, 17, 18, 19, 99, 1001, 1300];
    let tcp_options = [vec![], vec![2, 4, 5, 180], vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]];
    let ipv4_options = [vec![], vec![1, 1, 1, 0], vec![148, 4, 0, 0, 7, 7, 4, 1, 2, 3, 4, 0]];
    let hop_by_hop = (0, vec![0, 0, 5, 2, 0, 0, 1, 0]);
    let destination = (60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ipv6_extensions = [vec![], vec![hop_by_hop.clone()], vec![hop_by_hop, destination]];
    for family in FAMILIES {
        for mode in MODES {
            let services = vec![service(1, family, Protocol::TCP, mode, &[1]), Service1Udp::of(family, mode)];
            let mut director = Director::new(Setup::workers(2), services);
            let mut tcp_flow = Flow::new(family, mode, 41000);
            let mut udp_flow = Flow::new(family, mode, 42000);
            let syn = tcp(tcp_flow.client, tcp_flow.virt, Flags::SYN);
            let (port, seen) = director.forward(0, CLIENTS, &syn);
            tcp_flow.at_server(port, seen, &syn);
            for (i, len) in lengths.into_iter().enumerate() {
                for variant in 0..3 {
                    let payload: Vec<u8> = (0..len).map(|n: u32| (n * 7 + i as u32) as u8 | 1).collect();
                    let dress = |mut packet: Packet| {
                        match family {
                            Family::V4 => packet.ipv4_options = ipv4_options[variant].clone(),
                            Family::V6 => packet.ipv6_extensions = ipv6_extensions[variant].clone(),
                        }
                        if let Transport::Tcp { options, .. } = &mut packet.transport {
                            *options = tcp_options[(variant + i) % 3].clone();
                        }
                        packet.with_payload(payload.clone()).with_ttl(2 + i as u8)
                    };
                    for flow in [&mut tcp_flow, &mut udp_flow] {
                        let is_tcp = flow.client.port() == 41000;
                        let packet = |src, dst| dress(if is_tcp { tcp(src, dst, ACK) } else { udp(src, dst) });
                        let inbound = packet(flow.client, flow.virt);
                        let (port, seen) = director.forward(i % 2, CLIENTS, &inbound);
                        flow.at_server(port, seen, &inbound);
                        if mode.sees_replies() {
                            let reply = packet(flow.server, flow.seen_client);
                            let (port, seen) = director.forward(variant % 2, SERVERS, &reply);
                            flow.at_client(port, &seen, &reply);
                        }
                    }
                }
            }
            assert_eq!(director.drops(), []);
            director.settle();
        }
    }
}

/// The UDP twin of service 1.
struct Service1Udp;

impl Service1Udp {
    fn of(family: Family, mode: ForwardMode) -> dataplane::snapshot::Service {
        let twin = service(2, family, Protocol::UDP, mode, &[1]);
        dataplane::snapshot::Service {
            key: dataplane::snapshot::ServiceKey { vaddr: vip(family, 1), ..twin.key },
            ..twin
        }
    }
}

/// RFC 768: 0 means "no checksum" and stays; a checksum that comes to 0 is written 0xffff.
#[test]
fn udp_checksum_zero() {
    for family in FAMILIES {
        for mode in MODES {
            let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            let mut flow = Flow::new(family, mode, 43000);
            let mut without = udp(flow.client, flow.virt);
            without.transport = Transport::Udp { has_checksum: false };
            let (port, seen) = director.forward(0, CLIENTS, &without);
            flow.at_server(port, seen, &without);

            // The payload whose sum, together with the addresses that the server sees, is 0xffff.
            let dst = if mode.sees_replies() { flow.server } else { flow.virt };
            let probe = udp(flow.seen_client, dst).with_payload(vec![0, 0]).ip();
            let filler = probe[probe.len() - 4..][..2].to_vec();
            let packet = udp(flow.client, flow.virt).with_payload(filler);
            let (port, seen) = director.forward(0, CLIENTS, &packet);
            let ip = flow.at_server(port, seen, &packet);
            assert_eq!(ip.udp_checksum, 0xffff, "{family:?} {mode:?}");
            director.settle();
        }
    }
}

/// RFC 6864: packets that may be fragmented need identifications that differ, whichever worker made them.
#[test]
fn tunnel_identifications_differ_between_workers() {
    let family = Family::V4;
    let mut director =
        Director::new(Setup::workers(4), vec![service(1, family, Protocol::UDP, ForwardMode::Tunnel, &[1])]);
    let mut ids = std::collections::HashSet::new();
    for cport in 0..400 {
        let mut packet = udp(client(family, 2000 + cport), virt(family, 1));
        packet.dont_fragment = false;
        let (_, seen) = director.forward(0, CLIENTS, &packet);
        assert!(ids.insert(seen.ip.bytes[4..6].to_vec()), "packet {cport} has an identification for the second time");
    }
    director.settle();
}
