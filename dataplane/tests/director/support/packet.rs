//! Frames for tests: described by a struct, built with the emitters of `proto`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::fib::Mac;
use proto::checksum::Sum;
use proto::ethernet::{self, EtherType};
use proto::tcp::Flags;
use proto::{Protocol, ipv4, ipv6, tcp, udp};

use super::check::crc32c;

/// What is above IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        flags: Flags,
        options: Vec<u8>,
    },
    /// With or without a checksum.
    Udp {
        has_checksum: bool,
    },
    /// SCTP with this common header's checksum damaged by so many bits; the payload is its chunks.
    Sctp {
        damage: u32,
    },
    /// A protocol without ports.
    Other(Protocol),
}

/// An IP packet with TCP or UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub transport: Transport,
    pub ttl: u8,
    pub dont_fragment: bool,
    /// IPv4 options, or IPv6 extension headers: `(next header, bytes)` with the first byte of each filled in.
    pub ipv4_options: Vec<u8>,
    pub ipv6_extensions: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
    /// TCP's sequence and acknowledgement number.
    pub numbers: (u32, u32),
}

/// A TCP segment without data.
pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: Flags) -> Packet {
    packet(src, dst, Transport::Tcp { flags, options: Vec::new() })
}

/// A UDP datagram with some data.
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Packet {
    packet(src, dst, Transport::Udp { has_checksum: true }).with_payload(b"datagram".to_vec())
}

/// An SCTP packet.
pub fn sctp(src: SocketAddr, dst: SocketAddr, chunks: &[u8]) -> Packet {
    packet(src, dst, Transport::Sctp { damage: 0 }).with_payload(chunks.to_vec())
}

/// A packet of another protocol.
pub fn other(protocol: Protocol, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Packet {
    packet(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), Transport::Other(protocol)).with_payload(payload.to_vec())
}

/// The first packet of a connection of this protocol.
pub fn opening(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> Packet {
    match protocol {
        Protocol::TCP => tcp(src, dst, Flags::SYN),
        _ => udp(src, dst),
    }
}

fn packet(src: SocketAddr, dst: SocketAddr, transport: Transport) -> Packet {
    Packet {
        src,
        dst,
        transport,
        ttl: 64,
        dont_fragment: true,
        ipv4_options: Vec::new(),
        ipv6_extensions: Vec::new(),
        payload: Vec::new(),
        numbers: (0x1234_5678, 0x9abc_def0),
    }
}

impl Packet {
    pub fn with_payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// With sequence and acknowledgement number.
    pub fn with_numbers(mut self, seq: u32, ack: u32) -> Self {
        self.numbers = (seq, ack);
        self
    }

    pub fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn protocol(&self) -> Protocol {
        match self.transport {
            Transport::Tcp { .. } => Protocol::TCP,
            Transport::Udp { .. } => Protocol::UDP,
            Transport::Sctp { .. } => Protocol::SCTP,
            Transport::Other(protocol) => protocol,
        }
    }

    fn segment(&self) -> Vec<u8> {
        let mut bytes = match &self.transport {
            Transport::Tcp { flags, options } => {
                assert!(options.len().is_multiple_of(4), "TCP options come in words");
                let fields = tcp::Fields {
                    sport: self.src.port(),
                    dport: self.dst.port(),
                    seq: self.numbers.0,
                    ack: self.numbers.1,
                    flags: *flags,
                    window: 0x1000,
                };
                let mut header = vec![0; tcp::HEADER_LEN];
                tcp::emit(&mut header, &fields);
                header[tcp::DATA_OFFSET] = ((tcp::HEADER_LEN + options.len()) as u8 / 4) << 4;
                header.extend(options);
                header
            }
            Transport::Udp { .. } => {
                let mut header = vec![0; udp::HEADER_LEN];
                let len = (udp::HEADER_LEN + self.payload.len()) as u16;
                udp::emit(&mut header, self.src.port(), self.dst.port(), len);
                header
            }
            Transport::Sctp { damage } => {
                let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
                let mut bytes = [&ports[..], &[0x5c; 4], &[0; 4], &self.payload].concat();
                let checksum = crc32c(&[&bytes]) ^ damage;
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
                return bytes;
            }
            Transport::Other(_) => return self.payload.clone(),
        };
        bytes.extend(&self.payload);
        let pseudo = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::pseudo(src, dst, self.protocol(), bytes.len() as u32),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::pseudo(src, dst, self.protocol(), bytes.len() as u32),
            _ => panic!("a packet has addresses of one family"),
        };
        let checksum = pseudo.add_bytes(&bytes).finish();
        match self.transport {
            Transport::Tcp { .. } => bytes[tcp::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes()),
            Transport::Udp { has_checksum: false } => {}
            Transport::Udp { has_checksum: true } => {
                let checksum = if checksum == 0 { 0xffff } else { checksum };
                bytes[udp::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
            }
            Transport::Sctp { .. } | Transport::Other(_) => {}
        }
        bytes
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        ip(self, self.protocol(), self.segment())
    }

    /// The frame, padded with garbage to the shortest that Ethernet carries.
    pub fn frame(&self, dst: Mac, src: Mac) -> Vec<u8> {
        frame(&self.ip(), dst, src)
    }
}

fn ip(of: &Packet, protocol: Protocol, payload: Vec<u8>) -> Vec<u8> {
    match (of.src.ip(), of.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header_len = ipv4::HEADER_LEN + of.ipv4_options.len();
            assert!(header_len.is_multiple_of(4), "IPv4 options come in words");
            let mut bytes = vec![0; ipv4::HEADER_LEN];
            let fields = ipv4::Fields {
                tos: 0x28,
                total_len: (header_len + payload.len()) as u16,
                id: 0x4711,
                dont_fragment: of.dont_fragment,
                ttl: of.ttl,
                protocol,
                src,
                dst,
            };
            ipv4::emit(&mut bytes, &fields);
            bytes.extend(&of.ipv4_options);
            bytes[0] = 0x40 | (header_len / 4) as u8;
            bytes[ipv4::CHECKSUM..][..2].fill(0);
            let checksum = Sum::ZERO.add_bytes(&bytes).finish();
            bytes[ipv4::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
            bytes.extend(payload);
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut extensions = Vec::new();
            let mut followers = of.ipv6_extensions.iter().skip(1).map(|(kind, _)| *kind).chain([protocol.0]);
            for (_, bytes) in &of.ipv6_extensions {
                let start = extensions.len();
                extensions.extend(bytes);
                extensions[start] = followers.next().unwrap_or(protocol.0);
            }
            let mut bytes = vec![0; ipv6::HEADER_LEN];
            let fields = ipv6::Fields {
                traffic_class: 0x28,
                flow_label: 0x12345,
                payload_len: (extensions.len() + payload.len()) as u16,
                next_header: Protocol(of.ipv6_extensions.first().map_or(protocol.0, |(kind, _)| *kind)),
                hop_limit: of.ttl,
                src,
                dst,
            };
            ipv6::emit(&mut bytes, &fields);
            bytes.extend(extensions);
            bytes.extend(payload);
            bytes
        }
        _ => panic!("a packet has addresses of one family"),
    }
}

/// An ICMP message of the addresses' family.
pub fn icmp(src: IpAddr, dst: IpAddr, (kind, code, rest): (u8, u8, u32), data: &[u8]) -> Packet {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(data);
    packet(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), Transport::Udp { has_checksum: false })
        .with_payload(message)
}

/// The frame of a packet that [`icmp`] made.
pub fn icmp_frame(of: &Packet, dst: Mac, src: Mac) -> Vec<u8> {
    let mut message = of.payload.clone();
    let (protocol, pseudo) = match (of.src.ip(), of.dst.ip()) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (Protocol::ICMPV6, Sum::pseudo(src, dst, Protocol::ICMPV6, message.len() as u32))
        }
        _ => (Protocol::ICMP, Sum::ZERO),
    };
    let checksum = pseudo.add_bytes(&message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame(&ip(of, protocol, message), dst, src)
}

/// `ip` between two stations.
pub fn frame(ip: &[u8], dst: Mac, src: Mac) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::emit(&mut bytes, dst, src, ethertype);
    bytes.extend(ip);
    if bytes.len() < ethernet::MIN_FRAME_LEN {
        bytes.resize(ethernet::MIN_FRAME_LEN, 0xee);
    }
    bytes
}

/// An ARP request for `target`, to all stations.
pub fn arp_request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN + proto::arp::LEN];
    ethernet::emit(&mut bytes, ethernet::BROADCAST, sender_mac, EtherType::ARP);
    let fields = proto::arp::Fields { operation: proto::arp::REQUEST, sender_mac, sender, target_mac: [0; 6], target };
    proto::arp::emit(&mut bytes[ethernet::HEADER_LEN..], &fields);
    bytes.resize(ethernet::MIN_FRAME_LEN, 0xee);
    bytes
}

/// The IP packet in fragments, whose data begins at these offsets, the first of which is 0. In IPv6 the hop-by-hop header
/// is part of each.
pub fn split(ip: &[u8], offsets: &[usize], id: u16) -> Vec<Vec<u8>> {
    let is_v4 = ip[0] >> 4 == 4;
    let header_len = match is_v4 {
        true => usize::from(ip[0] & 15) * 4,
        false if ip[6] == 0 => 48 + 8 * usize::from(ip[41]),
        false => 40,
    };
    let data = &ip[header_len..];
    let ends = offsets[1..].iter().copied().chain([data.len()]);
    let part = |(&from, to): (&usize, usize)| fragment(&ip[..header_len], &data[from..to], from, to < data.len(), id);
    offsets.iter().zip(ends).map(part).collect()
}

/// A fragment with the headers of its packet.
pub fn fragment(headers: &[u8], data: &[u8], offset: usize, more: bool, id: u16) -> Vec<u8> {
    assert!(offset.is_multiple_of(8));
    let mut bytes = headers.to_vec();
    if headers[0] >> 4 == 4 {
        bytes.extend(data);
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        let field = u16::from(more) << 13 | (offset / 8) as u16;
        bytes[6] &= 0x40;
        bytes[6] |= (field >> 8) as u8;
        bytes[7] = field as u8;
        bytes[10..12].fill(0);
        let checksum = Sum::ZERO.add_bytes(&bytes[..headers.len()]).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let announced = if headers[6] == 0 { 40 } else { 6 };
        let kind = std::mem::replace(&mut bytes[announced], 44);
        bytes.extend([kind, 0]);
        bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
        bytes.extend(u32::from(id).to_be_bytes());
        bytes.extend(data);
        let len = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
    }
    bytes
}
