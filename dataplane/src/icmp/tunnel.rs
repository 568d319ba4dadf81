//! Errors about tunnel packets become errors about the clients' packets in them (ip_vs_core.c, ip_vs_in_icmp).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use proto::ethernet::EtherType;
use proto::icmp::ErrorFields;
use proto::{Family, Protocol, Tuple, gre, gue, icmp, icmpv6, udp};

use super::{IcmpError, Quote, checksum_is_right, count, emit, quote, says_unreachable};
use crate::conn::Side;
use crate::ip::Ip;
use crate::ipsec::connection_tuple;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::reassembly::Carrier;
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// A client's packet in a tunnel packet of ours that an error quotes.
pub(super) enum Within {
    V4(Quote<Ipv4Addr>),
    V6(Quote<Ipv6Addr>),
}

/// What is in the quoted packet if that is of a tunnel.
pub(super) fn within<A: Ip>(snapshot: &Snapshot, message: &[u8], outer: &Quote<A>) -> Option<Within> {
    match carried(snapshot, message, &outer.tuple, outer.l4..outer.end)? {
        (Family::V4, at) => quote(message, at).map(Within::V4),
        (Family::V6, at) => quote(message, at).map(Within::V6),
    }
}

/// The family of the packet in a packet with `tuple`, if that is of a tunnel that begins here, and where it is in `message`.
/// `l4` is where the tunnel packet's IP payload is.
pub fn carried<A: Ip>(
    snapshot: &Snapshot,
    message: &[u8],
    tuple: &Tuple<A>,
    l4: Range<usize>,
) -> Option<(Family, usize)> {
    let payload = message.get(l4.clone())?;
    let (family, added) = match tuple.protocol {
        Protocol::IPIP => (Family::V4, 0),
        Protocol::IPV6 => (Family::V6, 0),
        Protocol::GRE => match gre::parse(payload)? {
            (EtherType::IPV4, len) => (Family::V4, len),
            (EtherType::IPV6, len) => (Family::V6, len),
            _ => return None,
        },
        Protocol::UDP if snapshot.services.is_gue_endpoint(tuple.dst, tuple.dport) => {
            match gue::parse(payload.get(udp::HEADER_LEN..)?)? {
                (Protocol::IPIP, len) => (Family::V4, udp::HEADER_LEN + len),
                (Protocol::IPV6, len) => (Family::V6, udp::HEADER_LEN + len),
                _ => return None,
            }
        }
        _ => return None,
    };
    snapshot.fib.is_local(tuple.src.into()).then_some((family, l4.start + added))
}

/// Decides on an error about a tunnel packet with `within` in it.
pub(super) fn receive<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
    within: Within,
) -> Verdict {
    match within {
        Within::V4(inner) => relay(pipeline, snapshot, job, inner),
        Within::V6(inner) => relay(pipeline, snapshot, job, inner),
    }
}

fn relay<Io: WorkerIo, A: Ip, B: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
    inner: Quote<B>,
) -> Verdict {
    let tuple = connection_tuple(inner.tuple);
    let table = B::table(&mut pipeline.tables);
    let (id, conn) = match table.find(table.hash(&tuple), &tuple) {
        Some((id, Side::Inbound)) if table.get(id).mode == ForwardMode::Tunnel => (id, table.get(id).clone()),
        _ => {
            return match pipeline.elsewhere(snapshot, &tuple, job.tried) {
                Some(owner) => Verdict::Steer(owner),
                None => Verdict::Punt,
            };
        }
    };
    let end = usize::from(job.ip.l3) + usize::from(job.ip.len);
    let packet = &job.packet.data()[..end];
    let l4 = usize::from(job.ip.l4);
    if !checksum_is_right(packet, l4, job) {
        return Verdict::Drop(DropReason::BadIcmp);
    }
    // Anybody knows the packets that he sent: only if the error also names the server, it says something of it.
    let names_server = A::from_ip(pipeline.scheduling.address_of(conn.server))
        == Some(A::read(&packet[l4 + icmp::HEADER_LEN + A::DST..]));
    pipeline.note_error::<B>(id, names_server && says_unreachable(A::FAMILY, &packet[l4..]));
    // From the outer header to the inner one.
    let overhead = (inner.l3 - l4 - icmp::HEADER_LEN) as u32;
    let error = about_inner::<A, B>(&packet[l4..], overhead);
    count(pipeline, &conn, Side::Inbound, job.ip.len);
    match emit(&mut pipeline.io, snapshot, conn.vaddr, error, &packet[inner.l3..inner.end]) {
        Ok((port, packet)) => {
            job.packet = Carrier::Frame(packet);
            Verdict::Transmit(port)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// What an error about a tunnel packet says of the packet in it, which is `overhead` bytes shorter. IPVS takes the outer
/// IP header alone off the MTU, which is too little for GRE and GUE: it depends on its own kernel to know better when the
/// client tries again.
pub fn about_inner<A: Ip, B: Ip>(message: &[u8], overhead: u32) -> ErrorFields {
    let (message_type, code) = (message[icmp::TYPE], message[icmp::CODE]);
    let rest = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    let mtu = match (A::FAMILY, message_type, code) {
        (Family::V4, icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => Some(rest & 0xffff),
        (Family::V6, icmpv6::PACKET_TOO_BIG, _) => Some(rest),
        _ => None,
    };
    match (mtu, B::FAMILY) {
        // A report of 0 (RFC 1191 section 4) says nothing to correct.
        (Some(mtu), Family::V4) => IcmpError::TooBig(mtu.saturating_sub(overhead).min(u16::MAX.into()) as u16),
        (Some(mtu), Family::V6) => {
            let mtu = mtu.saturating_sub(overhead).clamp(B::MIN_MTU.into(), u16::MAX.into());
            IcmpError::TooBig(mtu as u16)
        }
        (None, family) if family == A::FAMILY => return ErrorFields { message_type, code, rest: 0 },
        // Of a tunnel of the other family the client learns that the server cannot be reached (RFC 2473 section 8).
        (None, _) => IcmpError::HostUnreachable,
    }
    .fields::<B>()
}
