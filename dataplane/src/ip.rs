//! What differs between IPv4 and IPv6 on the packet path; everything else is generic over [`Ip`].

use std::net::{Ipv4Addr, Ipv6Addr};

use proto::checksum::Delta;
use proto::icmp::ErrorFields;
use proto::{Address, Protocol, icmp, icmpv6, ipv4, ipv6};

use crate::conn::ConnTable;

/// A worker's connection tables.
pub struct Tables {
    /// IPv4 connections.
    pub v4: ConnTable<Ipv4Addr>,
    /// IPv6 connections.
    pub v6: ConnTable<Ipv6Addr>,
}

/// An IP version as the packet path sees it. `header` is always a slice that starts with a parsed IP header.
pub trait Ip: Address {
    /// The other version.
    type Other: Ip<Other = Self>;
    /// Length of a header without options.
    const HEADER_LEN: usize;
    /// What every link must carry in one packet, in bytes.
    const MIN_MTU: u16;
    /// Offset of the source address.
    const SRC: usize;
    /// Offset of the destination address.
    const DST: usize;
    /// EtherType.
    const ETHER_TYPE: u16;
    /// The family's control protocol.
    const ICMP: Protocol;
    /// The protocol number of this version inside an IP packet.
    const IN_IP: Protocol;

    /// The family's table.
    fn table(tables: &mut Tables) -> &mut ConnTable<Self>;
    /// Decrements time to live or hop limit, which must not be 0, and corrects the header's own checksum, if the version
    /// has one, for this and for other changes of `delta`.
    fn decrement_ttl(header: &mut [u8], delta: Delta);
    /// Corrects the header's own checksum, if the version has one, after a change of its fields.
    fn fix_header(header: &mut [u8], delta: Delta);
    /// Gives the packet another identification, if the version's header has one.
    fn renumber(header: &mut [u8], id: u16);
    /// True when routers may fragment the packet.
    fn may_fragment(header: &[u8]) -> bool;
    /// Length of an ICMP error about an IP packet of `len` bytes.
    fn error_len(len: usize) -> usize;
    /// Writes an ICMP error; see [`icmp::emit_error`].
    fn emit_error(out: &mut [u8], src: Self, about: &[u8], error: &ErrorFields) -> Option<usize>;
    /// Type of service or traffic class.
    fn traffic_class(header: &[u8]) -> u8;
    /// What the header of a tunnel around a packet with this one takes over from it.
    fn inherited(header: &[u8]) -> Inherited;
    /// Writes a tunnel's header, without options, in front of `payload_len` bytes of `protocol`.
    fn write_outer(
        outer: &mut [u8],
        from: Inherited,
        protocol: Protocol,
        payload_len: u16,
        between: (Self, Self),
        id: u16,
    );
}

/// What a tunnel's header takes over from the packet in the tunnel (RFC 2003 section 3.1, RFC 2473 section 6).
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// An IPv4 packet that must not be fragmented. IPv6 has no such field, and an IPv4 tunnel of it may be fragmented.
    pub dont_fragment: bool,
}

impl Ip for Ipv4Addr {
    type Other = Ipv6Addr;
    const HEADER_LEN: usize = ipv4::HEADER_LEN;
    const MIN_MTU: u16 = 68; // RFC 791 section 3.2
    const SRC: usize = ipv4::SRC;
    const DST: usize = ipv4::DST;
    const ETHER_TYPE: u16 = 0x0800;
    const ICMP: Protocol = Protocol::ICMP;
    const IN_IP: Protocol = Protocol::IPIP;

    #[inline(always)]
    fn table(tables: &mut Tables) -> &mut ConnTable<Self> {
        &mut tables.v4
    }

    #[inline(always)]
    fn decrement_ttl(header: &mut [u8], delta: Delta) {
        header[ipv4::TTL] -= 1;
        // The time to live is the upper byte of its word; what is in the lower one makes no difference.
        delta.replace_u16(0x0100, 0).apply_at(header, ipv4::CHECKSUM);
    }

    #[inline(always)]
    fn fix_header(header: &mut [u8], delta: Delta) {
        delta.apply_at(header, ipv4::CHECKSUM);
    }

    fn renumber(header: &mut [u8], id: u16) {
        let old = u16::from_be_bytes([header[ipv4::ID], header[ipv4::ID + 1]]);
        header[ipv4::ID..ipv4::ID + 2].copy_from_slice(&id.to_be_bytes());
        Delta::ZERO.replace_u16(old, id).apply_at(header, ipv4::CHECKSUM);
    }

    #[inline(always)]
    fn may_fragment(header: &[u8]) -> bool {
        header[6] & 0x40 == 0
    }

    fn error_len(len: usize) -> usize {
        icmp::error_len(len)
    }

    fn emit_error(out: &mut [u8], src: Self, about: &[u8], error: &ErrorFields) -> Option<usize> {
        icmp::emit_error(out, src, about, error)
    }

    #[inline(always)]
    fn traffic_class(header: &[u8]) -> u8 {
        header[ipv4::TOS]
    }

    #[inline(always)]
    fn inherited(header: &[u8]) -> Inherited {
        Inherited {
            traffic_class: outer_traffic_class(Self::traffic_class(header)),
            ttl: header[ipv4::TTL],
            dont_fragment: !Self::may_fragment(header),
        }
    }

    #[inline(always)]
    fn write_outer(
        outer: &mut [u8],
        from: Inherited,
        protocol: Protocol,
        payload_len: u16,
        between: (Self, Self),
        id: u16,
    ) {
        ipv4::emit(
            outer,
            &ipv4::Fields {
                tos: from.traffic_class,
                total_len: payload_len + Self::HEADER_LEN as u16,
                id,
                dont_fragment: from.dont_fragment,
                ttl: from.ttl,
                protocol,
                src: between.0,
                dst: between.1,
            },
        );
    }
}

impl Ip for Ipv6Addr {
    type Other = Ipv4Addr;
    const HEADER_LEN: usize = ipv6::HEADER_LEN;
    const MIN_MTU: u16 = ipv6::MIN_MTU as u16;
    const SRC: usize = ipv6::SRC;
    const DST: usize = ipv6::DST;
    const ETHER_TYPE: u16 = 0x86dd;
    const ICMP: Protocol = Protocol::ICMPV6;
    const IN_IP: Protocol = Protocol::IPV6;

    #[inline(always)]
    fn table(tables: &mut Tables) -> &mut ConnTable<Self> {
        &mut tables.v6
    }

    #[inline(always)]
    fn decrement_ttl(header: &mut [u8], _delta: Delta) {
        header[ipv6::HOP_LIMIT] -= 1;
    }

    #[inline(always)]
    fn fix_header(_header: &mut [u8], _delta: Delta) {}

    fn renumber(_header: &mut [u8], _id: u16) {}

    #[inline(always)]
    fn may_fragment(_header: &[u8]) -> bool {
        false
    }

    fn error_len(len: usize) -> usize {
        icmpv6::error_len(len)
    }

    fn emit_error(out: &mut [u8], src: Self, about: &[u8], error: &ErrorFields) -> Option<usize> {
        icmpv6::emit_error(out, src, about, error)
    }

    #[inline(always)]
    fn traffic_class(header: &[u8]) -> u8 {
        header[0] << 4 | header[1] >> 4
    }

    #[inline(always)]
    fn inherited(header: &[u8]) -> Inherited {
        Inherited {
            traffic_class: outer_traffic_class(Self::traffic_class(header)),
            ttl: header[ipv6::HOP_LIMIT],
            dont_fragment: false,
        }
    }

    #[inline(always)]
    fn write_outer(
        outer: &mut [u8],
        from: Inherited,
        protocol: Protocol,
        payload_len: u16,
        between: (Self, Self),
        _id: u16,
    ) {
        ipv6::emit(
            outer,
            &ipv6::Fields {
                traffic_class: from.traffic_class,
                flow_label: 0,
                payload_len,
                next_header: protocol,
                hop_limit: from.ttl,
                src: between.0,
                dst: between.1,
            },
        );
    }
}

/// DSCP and ECN of a tunnel header: those of the inner header, except that "congestion experienced" becomes ECT(0)
/// outside (RFC 3168 section 9.1.1, full functionality; what Linux tunnels do).
fn outer_traffic_class(inner: u8) -> u8 {
    const ECN: u8 = 0b11;
    const ECT_0: u8 = 0b10;
    if inner & ECN == ECN { inner & !ECN | ECT_0 } else { inner }
}

/// Writes source and destination address of an IP header and returns the difference they make to checksums.
#[inline(always)]
pub fn replace_addresses<A: Ip>(header: &mut [u8], src: A, dst: A) -> Delta {
    const { assert!(A::DST == A::SRC + A::LEN) };
    let (old_src, old_dst) = header[A::SRC..A::SRC + 2 * A::LEN].split_at_mut(A::LEN);
    let old = (A::read(old_src), A::read(old_dst));
    src.write(old_src);
    dst.write(old_dst);
    if A::LEN == 4 {
        // Both in one word.
        let word = |src: A, dst: A| src.words().1 | dst.words().1 << 32;
        Delta::ZERO.replace_word(word(old.0, old.1), word(src, dst))
    } else {
        Delta::ZERO.replace_addr(old.0, src).replace_addr(old.1, dst)
    }
}
