//! Valid frames for the tests, written by etherparse: an implementation that shares nothing with this crate.

// Each test binary uses a part of this module.
#![allow(dead_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpHeader,
};
use proptest::prelude::*;
use proto::{Protocol, Tuple};

/// Where every IP header starts.
pub const L3: usize = 14;

/// A frame to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub udp: bool,
    pub tcp_flags: u8,
    pub tcp_options: Vec<u8>,
    pub tos: u8,
    pub ttl: u8,
    pub ip_options: Vec<u8>,
    /// IPv6: hop-by-hop options, destination options.
    pub extensions: [Option<Vec<u8>>; 2],
    /// IPv6: a fragment header is there even in a whole packet.
    pub atomic_fragment: bool,
    /// Offset in units of 8 bytes.
    pub fragment_offset: u16,
    pub more_fragments: bool,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub padding: Vec<u8>,
}

impl Spec {
    /// The frame, with correct checksums.
    pub fn build(&self) -> Vec<u8> {
        let ip = self.ip_headers();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ip(ip);
        let mut frame = Vec::new();
        if self.udp {
            builder.udp(self.sport, self.dport).write(&mut frame, &self.payload).unwrap();
        } else {
            builder.tcp_header(self.tcp_header()).write(&mut frame, &self.payload).unwrap();
        }
        frame.extend(&self.padding);
        frame
    }

    fn tcp_header(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.sport, self.dport, 0x0102_0304, 0xf00d);
        let flag = |bit: u32| self.tcp_flags >> bit & 1 != 0;
        (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (flag(0), flag(1), flag(2), flag(3));
        (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (flag(4), flag(5), flag(6), flag(7));
        tcp.set_options_raw(&self.tcp_options).unwrap();
        tcp
    }

    fn ip_headers(&self) -> IpHeaders {
        let fragment_offset = IpFragOffset::try_new(self.fragment_offset).unwrap();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = Ipv4Header {
                    dscp: IpDscp::try_new(self.tos >> 2).unwrap(),
                    ecn: IpEcn::try_new(self.tos & 3).unwrap(),
                    identification: 0x1234,
                    more_fragments: self.more_fragments,
                    fragment_offset,
                    time_to_live: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    options: self.ip_options[..].try_into().unwrap(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                let raw =
                    |payload: &Vec<u8>| Ipv6RawExtHeader::new_raw(IpNumber::IPV6_NO_NEXT_HEADER, payload).unwrap();
                let has_fragment_header = self.atomic_fragment || self.is_fragment();
                let extensions = Ipv6Extensions {
                    hop_by_hop_options: self.extensions[0].as_ref().map(raw),
                    destination_options: self.extensions[1].as_ref().map(raw),
                    fragment: has_fragment_header.then_some(Ipv6FragmentHeader {
                        next_header: IpNumber::IPV6_NO_NEXT_HEADER,
                        fragment_offset,
                        more_fragments: self.more_fragments,
                        identification: 7,
                    }),
                    ..Ipv6Extensions::default()
                };
                IpHeaders::Ipv6(header, extensions)
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        }
    }

    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    pub fn protocol(&self) -> Protocol {
        if self.udp { Protocol::UDP } else { Protocol::TCP }
    }

    pub fn tuple<A: proto::Address>(&self) -> Tuple<A> {
        Tuple {
            src: A::from_ip(self.src).unwrap(),
            dst: A::from_ip(self.dst).unwrap(),
            sport: self.sport,
            dport: self.dport,
            protocol: self.protocol(),
        }
    }

    /// Offset of the transport header.
    pub fn l4(&self) -> usize {
        if self.src.is_ipv4() {
            return L3 + 20 + self.ip_options.len();
        }
        let extensions: usize = self.extensions.iter().flatten().map(|payload| 2 + payload.len()).sum();
        L3 + 40 + extensions + if self.atomic_fragment || self.is_fragment() { 8 } else { 0 }
    }

    /// Offset of the transport checksum.
    pub fn checksum_at(&self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }
}

/// Addresses that may be forwarded between.
pub fn unicast_v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>()
        .prop_map(Ipv4Addr::from)
        .prop_filter("unicast", |a| !a.is_multicast() && !a.is_broadcast() && !a.is_loopback() && !a.is_unspecified())
}

/// Addresses that may be forwarded between.
pub fn unicast_v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>()
        .prop_map(Ipv6Addr::from)
        .prop_filter("unicast", |a| !a.is_multicast() && !a.is_loopback() && !a.is_unspecified())
}

/// A source and a destination in each family, of two hosts.
pub fn endpoints() -> impl Strategy<Value = [(IpAddr, IpAddr); 2]> {
    ((unicast_v4(), unicast_v4()), (unicast_v6(), unicast_v6()))
        .prop_filter("two hosts", |(v4, v6)| v4.0 != v4.1 && v6.0 != v6.1)
        .prop_map(|(v4, v6)| [(v4.0.into(), v4.1.into()), (v6.0.into(), v6.1.into())])
}

fn words(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<[u8; 4]>(), 0..=max).prop_map(|words| words.concat())]
}

/// Payload of an extension header: 6 bytes and multiples of 8 more.
fn extension() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of((0..4usize, any::<u8>()).prop_map(|(n, fill)| vec![fill; 6 + 8 * n]))
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=max)
}

/// Whole packets, TCP and UDP, IPv4 and IPv6, with and without options.
pub fn spec() -> impl Strategy<Value = Spec> {
    let addresses = (endpoints(), any::<bool>()).prop_map(|(of, v6)| of[usize::from(v6)]);
    let ip = (addresses, any::<u8>(), any::<u8>(), words(10), [extension(), extension()], any::<bool>());
    let l4 = (any::<u16>(), any::<u16>(), any::<bool>(), any::<u8>(), words(10));
    (ip, l4, bytes(64), bytes(20)).prop_map(|(ip, l4, payload, padding)| {
        let ((src, dst), tos, ttl, ip_options, extensions, atomic_fragment) = ip;
        let (sport, dport, udp, tcp_flags, tcp_options) = l4;
        Spec {
            src,
            dst,
            sport,
            dport,
            udp,
            tcp_flags,
            tcp_options,
            tos,
            ttl,
            ip_options,
            extensions,
            atomic_fragment,
            fragment_offset: 0,
            more_fragments: false,
            payload,
            padding,
        }
    })
}

/// The simplest frame between two addresses.
pub fn plain(src: &str, dst: &str, udp: bool) -> Spec {
    Spec {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        sport: 40000,
        dport: 80,
        udp,
        tcp_flags: 0x02,
        tcp_options: Vec::new(),
        tos: 0,
        ttl: 64,
        ip_options: Vec::new(),
        extensions: [None, None],
        atomic_fragment: false,
        fragment_offset: 0,
        more_fragments: false,
        payload: b"payload".to_vec(),
        padding: Vec::new(),
    }
}

/// Corrects the header checksum of an IPv4 frame that was changed, by the definition: word by word.
pub fn fix_ipv4(frame: &mut [u8]) {
    let len = usize::from(frame[L3] & 0x0f) * 4;
    frame[L3 + 10..L3 + 12].fill(0);
    let checksum = checksum(&frame[L3..L3 + len]);
    frame[L3 + 10..L3 + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 1071, word by word with the carry added at once.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for word in bytes.chunks(2) {
        let (next, carry) = sum.overflowing_add(u16::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u16::from(low)));
        sum = next + u16::from(carry);
    }
    !sum
}
