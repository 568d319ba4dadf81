//! Tunnels: IP in IP (RFC 2003, RFC 2473, RFC 4213), in GRE (RFC 2784) or in GUE (draft-ietf-intarea-gue), within a family
//! or across.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::checksum::{Delta, Sum};
use proto::ethernet::{self, EtherType};
use proto::{Family, Protocol, gre, gue, ipv4, udp};

use crate::conn::{Conn, ConnFlags};
use crate::ip::Ip;
use crate::packet::PacketBuf;
use crate::snapshot::{Encapsulation, ForwardMode, Snapshot};
use crate::way::Overhead;

/// UDP source ports of GUE: Linux's default range of ephemeral ports (net.ipv4.ip_local_port_range).
const GUE_SPORTS: (u16, u16) = (32768, 60999);

/// A tunnel to a server, as a packet needs it.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    src: IpAddr,
    dst: IpAddr,
    encapsulation: Encapsulation,
    /// Its packets may be fragmented though those in them must not be: IPv4 ones, while `pmtu_disc` is 0.
    may_fragment: bool,
}

impl Tunnel {
    /// The tunnel that packets of a connection go through, whose [way](crate::way::way_to_server) is known; `None` in the
    /// modes without. Connections through special ones, and those that may fragment, leave the fast lane.
    pub(crate) fn of<A: Ip>(conn: &mut Conn<A>, snapshot: &Snapshot) -> Option<Self> {
        if conn.mode != ForwardMode::Tunnel {
            return None;
        }
        let (src, dst) = (conn.laddr.into(), conn.daddr.into());
        let special = snapshot.services.tunnel(conn.server);
        let may_fragment = may_fragment::<A>(snapshot);
        if special.is_some() || may_fragment {
            conn.flags.insert(ConnFlags::LONG_WAY);
        }
        let Some(special) = special else {
            return Some(Self { src, dst, encapsulation: Encapsulation::Ipip, may_fragment });
        };
        // A connection has no room for addresses of the other family.
        let src = match A::from_ip(special.server) {
            Some(_) => Some(src),
            None => snapshot.fib.source_for_ip(special.server),
        };
        Some(Self { src: src?, dst: special.server, encapsulation: special.encapsulation, may_fragment })
    }

    /// The tunnel to `server` for packets of family `A` that belong to no connection; `None` without a route there.
    pub fn to<A: Ip>(server: IpAddr, encapsulation: Encapsulation, snapshot: &Snapshot) -> Option<Self> {
        let src = snapshot.fib.source_for_ip(server)?;
        Some(Self { src, dst: server, encapsulation, may_fragment: may_fragment::<A>(snapshot) })
    }

    /// What a tunnel, if there is one, puts in front of a packet.
    pub(crate) fn overhead(tunnel: &Option<Self>) -> Overhead {
        let Some(tunnel) = tunnel else { return Overhead::default() };
        let outer = match tunnel.dst {
            IpAddr::V4(_) => Ipv4Addr::HEADER_LEN,
            IpAddr::V6(_) => Ipv6Addr::HEADER_LEN,
        };
        Overhead { len: (outer + tunnel.encapsulation.header_len()) as u16, may_fragment: tunnel.may_fragment }
    }

    /// [`encapsulate`] for every kind of tunnel. `flow` is any hash of the flow.
    pub fn wrap<A: Ip>(&self, packet: &mut impl PacketBuf, len: u16, id: u16, flow: u32) -> bool {
        let wrapped = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => wrap::<A, _>(packet, len, (src, dst), self.encapsulation, id, flow),
            (IpAddr::V6(src), IpAddr::V6(dst)) => wrap::<A, _>(packet, len, (src, dst), self.encapsulation, id, flow),
            _ => false,
        };
        if wrapped && self.may_fragment && self.dst.is_ipv4() {
            allow_fragments(&mut packet.data_mut()[ethernet::HEADER_LEN..]);
        }
        wrapped
    }
}

/// Whether tunnel packets around those of family `A` may be fragmented though those must not be.
fn may_fragment<A: Ip>(snapshot: &Snapshot) -> bool {
    snapshot.settings.fragment_tunnels && A::FAMILY == Family::V4
}

/// Takes "don't fragment" out of an IPv4 header.
fn allow_fragments(header: &mut [u8]) {
    let old = u16::from_be_bytes([header[ipv4::FRAGMENT], header[ipv4::FRAGMENT + 1]]);
    let new = old & !ipv4::DONT_FRAGMENT;
    header[ipv4::FRAGMENT..ipv4::FRAGMENT + 2].copy_from_slice(&new.to_be_bytes());
    Delta::ZERO.replace_u16(old, new).apply_at(header, ipv4::CHECKSUM);
}

impl Encapsulation {
    /// Bytes between the outer header and the packet in the tunnel.
    pub fn header_len(self) -> usize {
        match self {
            Encapsulation::Ipip => 0,
            Encapsulation::Gue { .. } => udp::HEADER_LEN + gue::HEADER_LEN,
            Encapsulation::Gre { checksum } => gre::header_len(checksum),
        }
    }
}

/// Forwards the packet of `len` bytes behind the Ethernet header in one from `src` to `dst`: its own time to live is
/// decremented (RFC 2003 section 3.1, RFC 2473 section 3.1). Returns false, and leaves it as it is but for padding, when
/// the buffer has no room in front, or the packet would be longer than 65535 bytes.
#[inline(always)]
pub fn encapsulate<A: Ip>(packet: &mut impl PacketBuf, len: u16, src: A, dst: A, id: u16) -> bool {
    wrap::<A, A>(packet, len, (src, dst), Encapsulation::Ipip, id, 0)
}

/// The same for a packet of family `A` in a tunnel of family `O`.
#[inline(always)]
fn wrap<A: Ip, O: Ip>(
    packet: &mut impl PacketBuf,
    len: u16,
    between: (O, O),
    encapsulation: Encapsulation,
    id: u16,
    flow: u32,
) -> bool {
    // Ethernet padding must not become part of the tunnel's payload.
    packet.truncate(ethernet::HEADER_LEN + usize::from(len));
    let added = encapsulation.header_len();
    let headers = O::HEADER_LEN + added;
    let fits = usize::from(len) + headers <= usize::from(u16::MAX);
    if !fits || !packet.prepend(headers) {
        return false;
    }
    // The Ethernet header in front is written on the way out; only its EtherType must be there.
    let frame = packet.data_mut();
    // Checked once, here; it is always so.
    if frame.len() < ethernet::HEADER_LEN + headers + A::HEADER_LEN {
        return false;
    }
    let (ethernet, ip) = frame.split_at_mut(ethernet::HEADER_LEN);
    ethernet[12..14].copy_from_slice(&O::ETHER_TYPE.to_be_bytes());
    let (outer, payload) = ip.split_at_mut(O::HEADER_LEN);
    let inner = &mut payload[added..];
    A::decrement_ttl(inner, Delta::ZERO);
    let inherited = A::inherited(inner);
    let protocol = match encapsulation {
        Encapsulation::Ipip => A::IN_IP,
        Encapsulation::Gre { checksum } => {
            gre::emit(payload, EtherType(A::ETHER_TYPE), checksum);
            Protocol::GRE
        }
        Encapsulation::Gue { port, checksum } => {
            write_gue::<A, O>(payload, between, port, checksum, flow);
            Protocol::UDP
        }
    };
    O::write_outer(outer, inherited, protocol, len + added as u16, between, id);
    true
}

/// Writes the headers of UDP and GUE to the start of `datagram`.
fn write_gue<A: Ip, O: Ip>(datagram: &mut [u8], (src, dst): (O, O), dport: u16, has_checksum: bool, flow: u32) {
    let (first, last) = GUE_SPORTS;
    // As routers spread flows by the source port, a flow keeps one (udp_flow_src_port in include/net/udp.h).
    let sport = first + ((u64::from(flow) * u64::from(last - first)) >> 32) as u16;
    let len = datagram.len();
    udp::emit(datagram, sport, dport, len as u16);
    gue::emit(&mut datagram[udp::HEADER_LEN..], A::IN_IP);
    if has_checksum {
        let checksum = match Sum::pseudo(src, dst, Protocol::UDP, len as u32).add_bytes(datagram).finish() {
            0 => 0xffff,
            sum => sum,
        };
        datagram[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}
