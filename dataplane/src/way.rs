//! Where a packet goes next, whether it fits there, and the Ethernet header that takes it there.

use std::net::IpAddr;

use proto::ethernet;

use crate::PortId;
use crate::conn::Conn;
use crate::fib::{AdjacencyId, Fib, Resolution};
use crate::icmp::IcmpError;
use crate::ip::Ip;
use crate::packet::PacketBuf;
use crate::pipeline::Job;
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// Where a packet goes next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// There is a route.
    Hop(Hop),
    /// There is none.
    None,
}

/// A next hop, resolved or not, for a packet to `dst`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hop {
    Ready(AdjacencyId),
    Unresolved { port: PortId, next_hop: IpAddr, dst: IpAddr, mtu: u16 },
}

impl Way {
    /// What fits the way in one packet, in bytes; `None` if there is no way.
    pub fn mtu(self, fib: &Fib) -> Option<u16> {
        match self {
            Way::Hop(Hop::Ready(adjacency)) => Some(fib.adjacency(adjacency).mtu),
            Way::Hop(Hop::Unresolved { mtu, .. }) => Some(mtu),
            Way::None => None,
        }
    }
}

/// Resolves `dst` unless `cached` holds the answer, and keeps the answer there.
fn way<A: Ip>(cached: &mut AdjacencyId, fib: &Fib, dst: A, flow: u64) -> Way {
    if cached.is_none() {
        match fib.resolve(dst, flow as u32) {
            Resolution::Ready(adjacency) => *cached = adjacency,
            Resolution::Unresolved { port, next_hop, mtu } => {
                return Way::Hop(Hop::Unresolved { port, next_hop, dst: dst.into(), mtu });
            }
            Resolution::NoRoute => return Way::None,
        }
    }
    Way::Hop(Hop::Ready(*cached))
}

/// The way of a packet from the client.
pub(crate) fn way_to_server<A: Ip>(conn: &mut Conn<A>, snapshot: &Snapshot, flow: u64) -> Way {
    conn.forget_stale_ways(snapshot);
    let daddr = conn.daddr;
    if conn.mode == ForwardMode::Tunnel && conn.to_server == AdjacencyId::NONE {
        if let Some(tunnel) = snapshot.services.tunnel(conn.server)
            && A::from_ip(tunnel.server).is_none()
        {
            let (fib, cached) = (&snapshot.fib, &mut conn.to_server);
            return match (fib.source_for_ip(tunnel.server), tunnel.server) {
                (None, _) => Way::None,
                (_, IpAddr::V4(server)) => way(cached, fib, server, flow),
                (_, IpAddr::V6(server)) => way(cached, fib, server, flow),
            };
        }
        // The tunnel's source depends on the route, too.
        match snapshot.fib.source_for(daddr) {
            Some(source) => conn.laddr = source,
            None => return Way::None,
        }
    }
    way(&mut conn.to_server, &snapshot.fib, daddr, flow)
}

/// The way of a packet from the client to a server of the other IP version.
pub(crate) fn way_across<A: Ip>(conn: &mut Conn<A>, server: A::Other, snapshot: &Snapshot, flow: u64) -> Way {
    conn.forget_stale_ways(snapshot);
    way(&mut conn.to_server, &snapshot.fib, server, flow)
}

/// The way of a packet from the server.
pub(crate) fn way_to_client<A: Ip>(conn: &mut Conn<A>, snapshot: &Snapshot, flow: u64) -> Way {
    conn.forget_stale_ways(snapshot);
    let caddr = conn.caddr;
    way(&mut conn.to_client, &snapshot.fib, caddr, flow)
}

/// What is to be put in front of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overhead {
    /// Length in bytes.
    pub len: u16,
    /// The packet may be fragmented then, whatever it says.
    pub may_fragment: bool,
}

/// Checks that the packet with `overhead` more bytes of a tunnel fits its way out; if it may be fragmented, notes that it
/// must be. A packet that came in fragments leaves in fragments, and none is larger (ip_output.c, ip_do_fragment): were they,
/// nobody would find out how wide the way on is.
#[inline(always)]
pub(crate) fn fit<P: PacketBuf, A: Ip>(
    job: &mut Job<P, A>,
    fib: &Fib,
    way: Way,
    Overhead { len: overhead, may_fragment: is_hidden }: Overhead,
) -> Result<(), (IcmpError, DropReason)> {
    let Some(mtu) = way.mtu(fib) else { return Ok(()) };
    let may_fragment = is_hidden || A::may_fragment(&job.packet.data()[job.ip.l3.into()..]);
    if let Some(largest) = job.packet.largest_fragment() {
        if !may_fragment && u32::from(largest) + u32::from(overhead) > u32::from(mtu) {
            return Err((IcmpError::TooBig(mtu.saturating_sub(overhead).max(A::MIN_MTU)), DropReason::TooBig));
        }
        job.fragment_mtu = Some(mtu.min(largest));
        return Ok(());
    }
    if u32::from(job.ip.len) + u32::from(overhead) > u32::from(mtu) {
        // What every link must carry is not too big for a tunnel either: its packets are fragmented (RFC 2473 section 7.1).
        let is_small = overhead > 0 && job.ip.len <= A::MIN_MTU;
        if !is_small && !may_fragment {
            return Err((IcmpError::TooBig(mtu.saturating_sub(overhead).max(A::MIN_MTU)), DropReason::TooBig));
        }
        job.fragment_mtu = Some(mtu);
    }
    Ok(())
}

/// Completes the frame for its way out.
pub(crate) fn send<P: PacketBuf>(
    packet: &mut P,
    fib: &Fib,
    way: Way,
    waits_for: &mut Option<(PortId, IpAddr, IpAddr)>,
) -> Verdict {
    match way {
        Way::Hop(Hop::Ready(adjacency)) => {
            let adjacency = fib.adjacency(adjacency);
            address_frame(packet.data_mut(), &adjacency.dst_mac, &adjacency.src_mac);
            Verdict::Transmit(adjacency.port)
        }
        Way::Hop(Hop::Unresolved { port, next_hop, dst, .. }) => {
            *waits_for = Some((port, next_hop, dst));
            Verdict::Wait
        }
        Way::None => Verdict::Drop(DropReason::NoRoute),
    }
}

/// Writes the addresses of an Ethernet header; the EtherType stays.
#[inline(always)]
pub(crate) fn address_frame(frame: &mut [u8], dst: &[u8; 6], src: &[u8; 6]) {
    let header = &mut frame[..ethernet::HEADER_LEN];
    // In an adjacency one follows the other: two loads and two stores are enough.
    let [d0, d1, d2, d3, d4, d5] = *dst;
    let [s0, s1, s2, s3, s4, s5] = *src;
    header[..8].copy_from_slice(&[d0, d1, d2, d3, d4, d5, s0, s1]);
    header[8..12].copy_from_slice(&[s2, s3, s4, s5]);
}
