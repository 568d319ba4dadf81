//! Errors about packets between IP versions: what one side is told about a packet that the director translated, the other
//! side is told about the packet that it sent (RFC 7915 sections 4.2, 4.3, 5.2 and 5.3).

use proto::icmp::ErrorFields;
use proto::translation::{error_to_v4, error_to_v6};
use proto::{Address, Family, Protocol, Tuple, icmp, ipv4, ipv6, tcp, udp};

use super::{Quote, count, emit, says_unreachable};
use crate::conn::{ConnId, Side};
use crate::forward::nat;
use crate::forward::translate::{addresses, packet_len};
use crate::ip::{Inherited, Ip};
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::reassembly::Carrier;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};
use crate::way::{way_across, way_to_client};

/// The longest quote in an error (RFC 4443 section 2.4 (c)).
const MAX_QUOTE: usize = ipv6::MIN_MTU - ipv6::HEADER_LEN - icmp::HEADER_LEN;

/// Passes an error from the server's side on to the client of a connection. As within one version it comes from the virtual
/// address.
pub(super) fn relay_to_client<Io: WorkerIo, C: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, C::Other>,
    id: ConnId,
    quoted: &Quote<C::Other>,
) -> Verdict {
    let message = &job.packet.data()[job.ip.l4.into()..];
    pipeline.note_error::<C>(id, says_unreachable(C::Other::FAMILY, message));
    // A copy, as the server's first packet is to find the way anew: see `Unanswered`.
    let mut conn = C::table(&mut pipeline.tables).get(id).clone();
    let mtu = way_to_client(&mut conn, snapshot, job.hash).mtu(&snapshot.fib);
    count(pipeline, &conn, Side::Outbound, job.ip.len);
    relay(pipeline, snapshot, job, quoted, conn.vaddr, &conn.inbound(), mtu)
}

/// Passes an error from the client's side on to the server of a connection, which may know no route to whoever reports it.
pub(super) fn relay_to_server<Io: WorkerIo, C: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, C>,
    id: ConnId,
    quoted: &Quote<C>,
) -> Verdict {
    let table = C::table(&mut pipeline.tables);
    let reply = table.far(id).and_then(|far| far.outbound::<C::Other, C>(table.get(id)));
    let Some(reply) = reply else { return Verdict::Drop(DropReason::ServerGone) };
    let conn = table.get_mut(id);
    let mtu = way_across(conn, reply.src, snapshot, job.hash).mtu(&snapshot.fib);
    let conn = conn.clone();
    count(pipeline, &conn, Side::Inbound, job.ip.len);
    relay(pipeline, snapshot, job, quoted, reply.dst, &reply, mtu)
}

/// Makes the packet in `job` an error of the other version, from `src` to the sender of the quoted packet, which that sender
/// knows as `inner`.
fn relay<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
    quoted: &Quote<A>,
    src: A::Other,
    inner: &Tuple<A::Other>,
    mtu: Option<u16>,
) -> Verdict {
    if job.ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExceeded);
    }
    if quoted.tuple.protocol != inner.protocol {
        return Verdict::Punt; // ESP and AH, which FULLNAT does not forward.
    }
    let Some(mtu) = mtu else { return Verdict::Drop(DropReason::NoRoute) };
    let frame = job.packet.data();
    let message = &frame[job.ip.l4.into()..];
    let error = ErrorFields {
        message_type: message[icmp::TYPE],
        code: message[icmp::CODE],
        rest: u32::from_be_bytes([message[4], message[5], message[6], message[7]]),
    };
    let quoted_len = packet_len::<A>(&frame[quoted.l3..]);
    let error = match A::FAMILY {
        Family::V4 => error_to_v6(&error, quoted_len.min(u16::MAX.into()) as u16, mtu),
        Family::V6 => error_to_v4(&error, mtu),
    };
    let Some(error) = error else { return Verdict::Drop(DropReason::Untranslatable) };
    let mut about = [0; MAX_QUOTE];
    let about = translate_quote(frame, quoted, inner, &mut about);
    let room = usize::from(mtu).saturating_sub(A::Other::HEADER_LEN + icmp::HEADER_LEN);
    let about = &about[..about.len().min(room)];
    match emit(&mut pipeline.io, snapshot, src, error, about) {
        Ok((port, packet)) => {
            job.packet = Carrier::Frame(packet);
            Verdict::Transmit(port)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Writes to `out` the quoted packet as its sender knows it, as far as it is there. Its transport checksum is kept right if it
/// was quoted.
fn translate_quote<'a, A: Ip>(
    frame: &[u8],
    quoted: &Quote<A>,
    new: &Tuple<A::Other>,
    out: &'a mut [u8; MAX_QUOTE],
) -> &'a [u8] {
    let header = &frame[quoted.l3..];
    let (ttl, dont_fragment) = match A::FAMILY {
        Family::V4 => (header[ipv4::TTL], !A::may_fragment(header)),
        // What the sender's packet had is not known.
        Family::V6 => (header[ipv6::HOP_LIMIT], true),
    };
    let inherited = Inherited { traffic_class: A::traffic_class(header), ttl, dont_fragment };
    let payload_len = packet_len::<A>(header).saturating_sub(quoted.l4 - quoted.l3);
    let payload_len = payload_len.min(usize::from(u16::MAX) - A::Other::HEADER_LEN) as u16;

    let payload = &frame[quoted.l4..quoted.end];
    let payload = &payload[..payload.len().min(MAX_QUOTE - A::Other::HEADER_LEN)];
    let (outer, rest) = out.split_at_mut(A::Other::HEADER_LEN);
    A::Other::write_outer(outer, inherited, new.protocol, payload_len, (new.src, new.dst), 0);
    let segment = &mut rest[..payload.len()];
    segment.copy_from_slice(payload);
    let old = (quoted.tuple.src, quoted.tuple.dst);
    let delta = nat::replace_ports(segment, new.sport, new.dport).combine(addresses(old, (new.src, new.dst)));
    match new.protocol {
        Protocol::TCP if segment.len() >= tcp::CHECKSUM + 2 => delta.apply_at(segment, tcp::CHECKSUM),
        Protocol::UDP if segment.len() >= udp::CHECKSUM + 2 => delta.apply_udp_at(segment, udp::CHECKSUM),
        // SCTP's covers the whole packet, of which a quote has but the beginning.
        _ => {}
    }
    &out[..A::Other::HEADER_LEN + payload.len()]
}
