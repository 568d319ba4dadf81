//! Packets to send, whose addresses are names until they are sent.

use std::net::{IpAddr, SocketAddr};

/// An IP packet. Hosts are named (`C1:4000`), so that one description serves IPv4 and IPv6 and any lab.
#[derive(Clone, Debug)]
pub struct Packet {
    from: String,
    to: String,
    body: Body,
    ttl: u8,
    tos: u8,
    id: u16,
    df: bool,
    options: Vec<u8>,
    fragment: Option<usize>,
    damaged: bool,
    names_hosts: bool,
    only: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
enum Body {
    Tcp { flags: u8, seq: u32, ack: u32, options: Vec<u8>, payload: Vec<u8> },
    Udp { payload: Vec<u8>, checksum: bool },
    Sctp { chunks: Vec<u8> },
    Icmp { kind: Kind, quoted: Quoted },
    Tunnel(Box<Packet>),
    Raw { protocol: u8, bytes: Vec<u8> },
    Tunnelled { protocol: u8, header: Vec<u8>, packet: Box<Packet> },
}

#[derive(Clone, Debug)]
enum Quoted {
    Bytes(Vec<u8>),
    Packet(Box<Packet>, usize),
}

/// Kinds of ICMP messages that both families have, and any other by its numbers.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Echo { id: u16, sequence: u16 },
    EchoReply { id: u16, sequence: u16 },
    PortUnreachable,
    HostUnreachable,
    TooBig(u16),
    TimeExceeded,
    ParameterProblem,
    Other { kind: u8, code: u8, rest: u32 },
}

/// UDP port where GUE tunnels end.
pub const GUE_PORT: u16 = 6080;

/// A TCP segment with the flags of `S`, `A`, `F`, `R`, `P`, `U` that `flags` names.
pub fn tcp(from: &str, to: &str, flags: &str) -> Packet {
    let bit = |flag| match flag {
        'F' => 0x01,
        'S' => 0x02,
        'R' => 0x04,
        'P' => 0x08,
        'A' => 0x10,
        'U' => 0x20,
        other => panic!("TCP has no flag {other}"),
    };
    let flags = flags.chars().map(bit).fold(0, |all, bit| all | bit);
    Packet::new(from, to, Body::Tcp { flags, seq: 1000, ack: 0, options: Vec::new(), payload: Vec::new() })
}

/// A UDP datagram with `length` bytes.
pub fn udp(from: &str, to: &str, length: usize) -> Packet {
    Packet::new(from, to, Body::Udp { payload: filler(length), checksum: true })
}

/// An SCTP packet with these chunks.
pub fn sctp(from: &str, to: &str, chunks: &[u8]) -> Packet {
    Packet::new(from, to, Body::Sctp { chunks: chunks.to_vec() })
}

/// An ICMP or ICMPv6 message with `length` bytes after its header.
pub fn icmp(from: &str, to: &str, kind: Kind, length: usize) -> Packet {
    Packet::new(from, to, Body::Icmp { kind, quoted: Quoted::Bytes(filler(length)) })
}

/// An ICMP or ICMPv6 error about `packet`, as it looked where the error arose.
pub fn icmp_error(from: &str, to: &str, kind: Kind, packet: Packet) -> Packet {
    Packet::new(from, to, Body::Icmp { kind, quoted: Quoted::Packet(Box::new(packet), usize::MAX) })
}

/// `packet` in an IP packet.
pub fn ipip(from: &str, to: &str, packet: Packet) -> Packet {
    Packet::new(from, to, Body::Tunnel(Box::new(packet)))
}

/// Any other protocol; `bytes` follow the IP header.
pub fn raw(from: &str, to: &str, protocol: u8, bytes: &[u8]) -> Packet {
    Packet::new(from, to, Body::Raw { protocol, bytes: bytes.to_vec() })
}

/// A packet in a tunnel: `header` and `packet` follow the IP header.
pub fn tunnelled(from: &str, to: &str, protocol: u8, header: &[u8], packet: Packet) -> Packet {
    Packet::new(from, to, Body::Tunnelled { protocol, header: header.to_vec(), packet: Box::new(packet) })
}

fn filler(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n % 26) as u8).collect()
}

impl Packet {
    fn new(from: &str, to: &str, body: Body) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            body,
            ttl: 64,
            tos: 0,
            id: 0x4321,
            df: false,
            options: Vec::new(),
            fragment: None,
            damaged: false,
            names_hosts: false,
            only: None,
        }
    }

    /// Sequence number of TCP; 1000 otherwise.
    pub fn seq(mut self, number: u32) -> Self {
        if let Body::Tcp { seq, .. } = &mut self.body {
            *seq = number;
        }
        self
    }

    /// Acknowledged sequence number of TCP; 0 otherwise.
    pub fn ack(mut self, number: u32) -> Self {
        if let Body::Tcp { ack, .. } = &mut self.body {
            *ack = number;
        }
        self
    }

    /// Payload of TCP or UDP, chunks of SCTP; what follows the header of an ICMP message.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        match &mut self.body {
            Body::Tcp { payload, .. } | Body::Udp { payload, .. } => *payload = bytes.to_vec(),
            Body::Icmp { quoted, .. } => *quoted = Quoted::Bytes(bytes.to_vec()),
            Body::Sctp { chunks } => *chunks = bytes.to_vec(),
            Body::Raw { bytes: all, .. } | Body::Tunnelled { header: all, .. } => *all = bytes.to_vec(),
            Body::Tunnel(_) => {}
        }
        self
    }

    /// Text of TCP in which `<C1>` stands for the host's address, `<C1,>` for its bytes with commas (as FTP writes it), and
    /// `<1|2>` for what is left of the bar over IPv4 and right of it over IPv6.
    pub fn text(mut self, text: &str) -> Self {
        self.names_hosts = true;
        self.payload(text.as_bytes())
    }

    /// Payload of `length` letters.
    pub fn length(self, length: usize) -> Self {
        self.payload(&filler(length))
    }

    /// TCP options, a multiple of four bytes.
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        assert!(bytes.len().is_multiple_of(4) && bytes.len() <= 40, "TCP options are up to 40 bytes, in words");
        if let Body::Tcp { options, .. } = &mut self.body {
            *options = bytes.to_vec();
        }
        self
    }

    /// UDP over IPv4 without a checksum.
    pub fn no_checksum(mut self) -> Self {
        if let Body::Udp { checksum, .. } = &mut self.body {
            *checksum = false;
        }
        self
    }

    /// An ICMP error quotes only `length` bytes of its packet.
    pub fn quote(mut self, length: usize) -> Self {
        if let Body::Icmp { quoted: Quoted::Packet(_, limit), .. } = &mut self.body {
            *limit = length;
        }
        self
    }

    /// Hops it may take; 64 otherwise.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Type of service or traffic class.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Identification, of the IPv4 header or of fragments, from 0x4300 to 0x43ff: these are shown in what arrives. 0x4321 otherwise.
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// "Don't fragment", for IPv4.
    pub fn df(mut self) -> Self {
        self.df = true;
        self
    }

    /// Options of the IPv4 header, a multiple of four bytes.
    pub fn ip_options(mut self, bytes: &[u8]) -> Self {
        assert!(bytes.len().is_multiple_of(4) && bytes.len() <= 40, "IPv4 options are up to 40 bytes, in words");
        self.options = bytes.to_vec();
        self
    }

    /// Its last byte is another one than its checksum says.
    pub fn damaged(mut self) -> Self {
        self.damaged = true;
        self
    }

    /// Sent as fragments with up to `bytes` bytes of payload each, a multiple of eight.
    pub fn fragmented(mut self, bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(8), "fragments are cut at multiples of eight bytes");
        self.fragment = Some(bytes);
        self
    }

    /// Only these of its fragments, counted from 0, in this order.
    pub fn only(mut self, fragments: &[usize]) -> Self {
        self.only = Some(fragments.to_vec());
        self
    }

    /// Name of the sender.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Name of the receiver.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The IP packet or its fragments, in order. `resolve` gives names' addresses; those without port have port 0.
    pub fn encode(&self, resolve: &dyn Fn(&str) -> SocketAddr) -> Vec<Vec<u8>> {
        let (from, to) = (resolve(&self.from), resolve(&self.to));
        let (protocol, mut payload) = self.content(from, to, resolve);
        if self.damaged
            && let Some(last) = payload.last_mut()
        {
            *last ^= 1;
        }
        let Some(size) = self.fragment else { return vec![self.packet(from.ip(), to.ip(), protocol, &payload, None)] };
        let last = payload.len().div_ceil(size) - 1;
        let fragment = |(n, part)| self.packet(from.ip(), to.ip(), protocol, part, Some((n * size, n < last)));
        let all: Vec<_> = payload.chunks(size).enumerate().map(fragment).collect();
        match &self.only {
            Some(only) => only.iter().map(|&n| all[n].clone()).collect(),
            None => all,
        }
    }

    /// Protocol number, and what follows the IP header.
    fn content(&self, from: SocketAddr, to: SocketAddr, resolve: &dyn Fn(&str) -> SocketAddr) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        match &self.body {
            Body::Tcp { flags, seq, ack, options, payload } => {
                bytes.extend(from.port().to_be_bytes());
                bytes.extend(to.port().to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([((20 + options.len()) << 2) as u8, *flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(options);
                match self.names_hosts {
                    true => bytes.extend(spell(&String::from_utf8_lossy(payload), from.is_ipv6(), resolve).bytes()),
                    false => bytes.extend(payload),
                }
                put_checksum(&mut bytes, 16, pseudo(from.ip(), to.ip(), 6));
                (6, bytes)
            }
            Body::Udp { payload, checksum } => {
                bytes.extend(from.port().to_be_bytes());
                bytes.extend(to.port().to_be_bytes());
                bytes.extend((8 + payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                if *checksum {
                    put_checksum(&mut bytes, 6, pseudo(from.ip(), to.ip(), 17));
                }
                (17, bytes)
            }
            Body::Sctp { chunks } => {
                bytes.extend(from.port().to_be_bytes());
                bytes.extend(to.port().to_be_bytes());
                bytes.extend([0x5c; 4]);
                bytes.extend([0; 4]);
                bytes.extend(chunks);
                let checksum = crc32c(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&checksum);
                (132, bytes)
            }
            Body::Icmp { kind, quoted } => {
                let (kind, code, rest) = kind.numbers(from.is_ipv6());
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                match quoted {
                    Quoted::Bytes(payload) => bytes.extend(payload),
                    Quoted::Packet(packet, limit) => {
                        let packet = packet.encode(resolve).swap_remove(0);
                        bytes.extend(&packet[..packet.len().min(*limit)]);
                    }
                }
                let v6 = from.is_ipv6();
                put_checksum(&mut bytes, 2, if v6 { pseudo(from.ip(), to.ip(), 58) } else { Vec::new() });
                (if v6 { 58 } else { 1 }, bytes)
            }
            Body::Tunnel(packet) => {
                let inner = packet.encode(resolve).swap_remove(0);
                (if inner[0] >> 4 == 4 { 4 } else { 41 }, inner)
            }
            Body::Raw { protocol, bytes } => (*protocol, bytes.clone()),
            Body::Tunnelled { protocol, header, packet } => {
                (*protocol, [header.clone(), packet.encode(resolve).swap_remove(0)].concat())
            }
        }
    }

    fn packet(&self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8], part: Option<(usize, bool)>) -> Vec<u8> {
        let (offset, more) = part.unwrap_or_default();
        let place = (offset / 8) as u16;
        let mut bytes = Vec::new();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + self.options.len();
                bytes.extend([0x40 | (header / 4) as u8, self.tos]);
                bytes.extend(((header + payload.len()) as u16).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                let flags = u16::from(self.df) << 14 | u16::from(more) << 13;
                bytes.extend((flags | place).to_be_bytes());
                bytes.extend([self.ttl, protocol, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(&self.options);
                put_checksum(&mut bytes, 10, Vec::new());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let fragment = if part.is_some() { 8 } else { 0 };
                bytes.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                bytes.extend(((fragment + payload.len()) as u16).to_be_bytes());
                bytes.extend([if part.is_some() { 44 } else { protocol }, self.ttl]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                if part.is_some() {
                    bytes.extend([protocol, 0]);
                    bytes.extend((place << 3 | u16::from(more)).to_be_bytes());
                    bytes.extend(u32::from(self.id).to_be_bytes());
                }
            }
            _ => panic!("{} and {} are of two families", self.from, self.to),
        }
        bytes.extend(payload);
        bytes
    }
}

/// Writes out the names in a text.
fn spell(text: &str, v6: bool, resolve: &dyn Fn(&str) -> SocketAddr) -> String {
    let mut parts = text.split('<');
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('>').expect("a name in a text ends with >");
        match (name.split_once('|'), name.strip_suffix(',')) {
            (Some((four, six)), _) => spelled += if v6 { six } else { four },
            (None, Some(name)) => spelled += &resolve(name).ip().to_string().replace('.', ","),
            (None, None) => spelled += &resolve(name).ip().to_string(),
        }
        spelled += rest;
    }
    spelled
}

impl Kind {
    /// Type, code and the four bytes after the checksum.
    fn numbers(self, v6: bool) -> (u8, u8, u32) {
        let pair = |id: u16, sequence: u16| u32::from(id) << 16 | u32::from(sequence);
        match (self, v6) {
            (Kind::Echo { id, sequence }, false) => (8, 0, pair(id, sequence)),
            (Kind::Echo { id, sequence }, true) => (128, 0, pair(id, sequence)),
            (Kind::EchoReply { id, sequence }, false) => (0, 0, pair(id, sequence)),
            (Kind::EchoReply { id, sequence }, true) => (129, 0, pair(id, sequence)),
            (Kind::PortUnreachable, false) => (3, 3, 0),
            (Kind::PortUnreachable, true) => (1, 4, 0),
            (Kind::HostUnreachable, false) => (3, 1, 0),
            (Kind::HostUnreachable, true) => (1, 3, 0),
            (Kind::TooBig(mtu), false) => (3, 4, mtu.into()),
            (Kind::TooBig(mtu), true) => (2, 0, mtu.into()),
            (Kind::TimeExceeded, false) => (11, 0, 0),
            (Kind::TimeExceeded, true) => (3, 0, 0),
            (Kind::ParameterProblem, false) => (12, 0, 8 << 24),
            (Kind::ParameterProblem, true) => (4, 0, 40),
            (Kind::Other { kind, code, rest }, _) => (kind, code, rest),
        }
    }
}

/// SCTP's checksum (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 })
    })
}

/// The pseudo header of TCP, UDP and ICMPv6 without the length, which [`put_checksum`] adds.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend([0, protocol]);
    bytes
}

/// Writes the Internet checksum of `bytes` at `at`.
fn put_checksum(bytes: &mut [u8], at: usize, pseudo: Vec<u8>) {
    bytes[at..at + 2].fill(0);
    let sum = checksum(bytes, &pseudo);
    // A UDP checksum of 0 would mean that there is none; the others cannot be told from 0xffff.
    let sum = if sum == 0 && !pseudo.is_empty() { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) of `bytes` and, if there is one, of a pseudo header with their length; 0 if `bytes`
/// hold the right one.
pub(super) fn checksum(bytes: &[u8], pseudo: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let length = if pseudo.is_empty() { 0 } else { bytes.len() as u64 };
    let mut sum = words(bytes) + words(pseudo) + length;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// The checksum over a received TCP, UDP or ICMPv6 packet; 0 if it is right.
pub(super) fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    checksum(bytes, &pseudo(from, to, protocol))
}
