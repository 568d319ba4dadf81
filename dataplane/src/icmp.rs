//! ICMP and ICMPv6: errors that belong to connections are translated, errors of our own are originated.
//!
//! Everything else (echo, neighbour discovery, router advertisements, errors about packets of the host itself) is the
//! kernel's.

mod cross;
mod opening;
pub mod tunnel;

use proto::checksum::{Delta, Sum};
use proto::icmp::ErrorFields;
use proto::parse::Fragment;
use proto::{Family, Protocol, Tuple, ethernet, icmp, icmpv6, tcp, udp};

use crate::conn::{Conn, ConnFlags, Side};
use crate::fib::Resolution;
use crate::forward::nat;
use crate::forward::tun::Tunnel;
use crate::ip::{Ip, replace_addresses};
use crate::ipsec::connection_tuple;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::way::{address_frame, fit, send, way_to_client, way_to_server};

/// Errors that the director originates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Time to live or hop limit exceeded in transit.
    TimeExceeded,
    /// Not all fragments of a packet came in time.
    ReassemblyTimeExceeded,
    /// No server takes the connection.
    PortUnreachable,
    /// The server is beyond reach.
    HostUnreachable,
    /// An IPv4 packet's source route cannot be followed.
    SourceRouteFailed,
    /// The packet does not fit; the largest that does, in bytes.
    TooBig(u16),
}

impl IcmpError {
    fn fields<A: Ip>(self) -> ErrorFields {
        let (message_type, code, rest) = match (A::FAMILY, self) {
            (Family::V4, IcmpError::TimeExceeded) => (icmp::TIME_EXCEEDED, icmp::TTL_EXCEEDED, 0),
            (Family::V4, IcmpError::ReassemblyTimeExceeded) => (icmp::TIME_EXCEEDED, icmp::REASSEMBLY_TIME_EXCEEDED, 0),
            (Family::V4, IcmpError::PortUnreachable) => (icmp::DESTINATION_UNREACHABLE, icmp::PORT_UNREACHABLE, 0),
            (Family::V4, IcmpError::HostUnreachable) => (icmp::DESTINATION_UNREACHABLE, icmp::HOST_UNREACHABLE, 0),
            (Family::V4, IcmpError::TooBig(mtu)) => {
                (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED, mtu.into())
            }
            (Family::V4, IcmpError::SourceRouteFailed) => (icmp::DESTINATION_UNREACHABLE, icmp::SOURCE_ROUTE_FAILED, 0),
            (Family::V6, IcmpError::TimeExceeded) => (icmpv6::TIME_EXCEEDED, icmpv6::HOP_LIMIT_EXCEEDED, 0),
            (Family::V6, IcmpError::ReassemblyTimeExceeded) => {
                (icmpv6::TIME_EXCEEDED, icmpv6::REASSEMBLY_TIME_EXCEEDED, 0)
            }
            (Family::V6, IcmpError::PortUnreachable) => (icmpv6::DESTINATION_UNREACHABLE, icmpv6::PORT_UNREACHABLE, 0),
            (Family::V6, IcmpError::HostUnreachable) => {
                (icmpv6::DESTINATION_UNREACHABLE, icmpv6::ADDRESS_UNREACHABLE, 0)
            }
            (Family::V6, IcmpError::SourceRouteFailed) => (icmpv6::DESTINATION_UNREACHABLE, icmpv6::NO_ROUTE, 0),
            (Family::V6, IcmpError::TooBig(mtu)) => (icmpv6::PACKET_TOO_BIG, 0, mtu.into()),
        };
        ErrorFields { message_type, code, rest }
    }
}

/// The headers of a packet that an ICMP error quotes, found where they must be.
struct Quote<A> {
    tuple: Tuple<A>,
    l3: usize,
    l4: usize,
    /// Where the quote ends, which may be before the message does.
    end: usize,
}

fn quote<A: Ip>(message: &[u8], at: usize) -> Option<Quote<A>> {
    let quoted = icmp::parse_quoted::<A>(message, at)?;
    Some(Quote { tuple: quoted.tuple, l3: quoted.l3.into(), l4: quoted.l4.into(), end: quoted.end.into() })
}

/// Decides on a received ICMP packet.
pub(crate) fn receive<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
) -> Verdict {
    if job.ip.fragment != Fragment::None {
        return Verdict::Punt;
    }
    let end = usize::from(job.ip.l3) + usize::from(job.ip.len);
    let l4 = usize::from(job.ip.l4);
    let packet = &job.packet.data()[..end];
    let is_error = match (A::FAMILY, packet.get(l4)) {
        // A redirect is for the host that routes: the kernel.
        (Family::V4, Some(&kind)) => icmp::is_error(kind) && kind != icmp::REDIRECT,
        (Family::V6, Some(&kind)) => icmpv6::is_error(kind),
        (_, None) => false,
    };
    if !is_error {
        return Verdict::Punt;
    }
    let Some(outer) = quote::<A>(packet, l4 + icmp::HEADER_LEN) else { return Verdict::Punt };
    if let Some(within) = tunnel::within(snapshot, packet, &outer) {
        return tunnel::receive(pipeline, snapshot, job, within);
    }
    if !matches!(outer.tuple.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::ESP | Protocol::AH) {
        return Verdict::Punt;
    }
    // The quoted packet went the other way.
    let tuple = connection_tuple(outer.tuple.reversed());
    let table = A::table(&mut pipeline.tables);
    match table.find(table.hash(&tuple), &tuple) {
        Some(_) if !checksum_is_right::<A>(packet, l4, job) => Verdict::Drop(DropReason::BadIcmp),
        Some((id, Side::Inbound)) if table.get(id).flags.contains(ConnFlags::FAR) => {
            cross::relay_to_server(pipeline, snapshot, job, id, &outer)
        }
        Some((id, side)) => {
            if side == Side::Outbound {
                pipeline.note_error::<A>(id, says_unreachable(A::FAMILY, &packet[l4..]));
            }
            let conn = A::table(&mut pipeline.tables).get(id).clone();
            relay(pipeline, snapshot, job, conn, side, outer)
        }
        None => match A::Other::table(&mut pipeline.tables).find_far(&tuple) {
            Some(_) if !checksum_is_right::<A>(packet, l4, job) => Verdict::Drop(DropReason::BadIcmp),
            Some(id) => cross::relay_to_client::<Io, A::Other>(pipeline, snapshot, job, id, &outer),
            None => match pipeline.elsewhere(snapshot, &tuple, job.tried) {
                Some(owner) => Verdict::Steer(owner),
                None if snapshot.settings.schedule_icmp => opening::receive(pipeline, snapshot, job, outer),
                None => Verdict::Punt,
            },
        },
    }
}

fn pseudo_header<A: Ip>(src: A, dst: A, len: usize) -> Sum {
    match A::FAMILY {
        Family::V4 => Sum::ZERO,
        Family::V6 => Sum::pseudo(src, dst, A::ICMP, len as u32),
    }
}

fn checksum_is_right<A: Ip>(packet: &[u8], l4: usize, job: &Job<impl PacketBuf, A>) -> bool {
    let message = &packet[l4..];
    let sum = pseudo_header(job.ip.tuple.src, job.ip.tuple.dst, message.len());
    sum.add_bytes(message).finish() == 0
}

/// Whether an error says that a host or port cannot be reached, whatever is sent there. Errors that find fault with the packet
/// (its size, its source address, a source route) say nothing of the sort.
fn says_unreachable(family: Family, message: &[u8]) -> bool {
    match (family, message[icmp::TYPE], message[icmp::CODE]) {
        (Family::V4, icmp::DESTINATION_UNREACHABLE, code) => {
            !matches!(code, icmp::FRAGMENTATION_NEEDED | icmp::SOURCE_ROUTE_FAILED)
        }
        (Family::V6, icmpv6::DESTINATION_UNREACHABLE, code) => {
            // Also the code of a route that rejects (RFC 4443 section 3.1).
            const REJECTED: u8 = 6;
            matches!(
                code,
                icmpv6::NO_ROUTE
                    | icmpv6::PROHIBITED
                    | icmpv6::ADDRESS_UNREACHABLE
                    | icmpv6::PORT_UNREACHABLE
                    | REJECTED
            )
        }
        _ => false,
    }
}

/// Passes an error on to the other end of the connection, its quoted packet as that end knows it.
fn relay<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
    mut conn: Conn<A>,
    side: Side,
    quoted: Quote<A>,
) -> Verdict {
    if job.ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExceeded);
    }
    let hash = job.hash;
    let conn = &mut conn;
    let (way, outer, inner) = match side {
        // From the server's side about a packet to the server: for the client, about the packet it sent. As in IPVS the
        // error then comes from the virtual address (ip_vs_core.c, ip_vs_nat_icmp).
        Side::Outbound => (
            way_to_client(conn, snapshot, hash),
            Tuple { src: conn.vaddr, dst: conn.caddr, ..job.ip.tuple },
            conn.inbound(),
        ),
        // From the client's side about a reply: for the server, about the reply it sent. In FULLNAT mode the server
        // may know no route to whoever reports it.
        Side::Inbound => (
            way_to_server(conn, snapshot, hash),
            Tuple {
                src: if conn.mode == ForwardMode::FullNat { conn.laddr } else { job.ip.tuple.src },
                dst: conn.daddr,
                ..job.ip.tuple
            },
            conn.outbound(),
        ),
    };
    let tunnel = Tunnel::of(conn, snapshot);
    // No error is sent about an error; those of sane size always fit.
    if let Err((_, reason)) = fit(job, &snapshot.fib, way, Tunnel::overhead(&tunnel)) {
        return Verdict::Drop(reason);
    }
    let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
    let end = l3 + usize::from(job.ip.len);
    let frame = &mut job.packet.data_mut()[..end];
    match conn.mode {
        ForwardMode::Nat | ForwardMode::FullNat => {
            A::decrement_ttl(&mut frame[l3..], Delta::ZERO);
            rewrite_quoted(frame, &quoted, &inner);
            rewrite_outer(frame, l3, l4, &outer);
        }
        ForwardMode::DirectRouting => A::decrement_ttl(&mut frame[l3..], Delta::ZERO),
        ForwardMode::Tunnel => {
            let ip_id = pipeline.next_ip_id() as u16;
            if !tunnel.is_some_and(|tunnel| tunnel.wrap::<A>(&mut job.packet, job.ip.len, ip_id, hash as u32)) {
                return Verdict::Drop(DropReason::NoBuffer);
            }
        }
    }
    count(pipeline, conn, side, job.ip.len);
    send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for)
}

/// Gives the quoted packet the source and destination of `new`. Its transport checksum is kept right if it was quoted.
fn rewrite_quoted<A: Ip>(frame: &mut [u8], quoted: &Quote<A>, new: &Tuple<A>) {
    let header = &mut frame[quoted.l3..];
    let addresses = replace_addresses(header, new.src, new.dst);
    A::fix_header(header, addresses);
    if matches!(quoted.tuple.protocol, Protocol::ESP | Protocol::AH) {
        return; // No ports.
    }
    let ports = &mut frame[quoted.l4..quoted.end];
    let delta = nat::replace_ports(ports, new.sport, new.dport).combine(addresses);
    match new.protocol {
        Protocol::TCP if ports.len() >= tcp::CHECKSUM + 2 => delta.apply_at(ports, tcp::CHECKSUM),
        Protocol::UDP if ports.len() >= udp::CHECKSUM + 2 => delta.apply_udp_at(ports, udp::CHECKSUM),
        // SCTP's covers the whole packet, of which a quote has but the beginning.
        _ => {}
    }
}

/// Gives the ICMP packet itself new addresses and computes its checksum.
fn rewrite_outer<A: Ip>(frame: &mut [u8], l3: usize, l4: usize, new: &Tuple<A>) {
    let header = &mut frame[l3..];
    let addresses = replace_addresses(header, new.src, new.dst);
    A::fix_header(header, addresses);
    fill_checksum(&mut frame[l4..], new.src, new.dst);
}

fn fill_checksum<A: Ip>(message: &mut [u8], src: A, dst: A) {
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].fill(0);
    let checksum = pseudo_header(src, dst, message.len()).add_bytes(message).finish();
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Tells the sender of `job`'s packet why it was not forwarded, if that is allowed and the rate permits.
pub(crate) fn originate<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &Job<Io::Packet, A>,
    error: IcmpError,
) {
    let Tuple { src, dst, .. } = job.ip.tuple;
    if !icmp::may_answer_with_error(&job.ip, job.packet.data()) || !pipeline.icmp_limit.allow(pipeline.now) {
        return;
    }
    // Like the kernel: from the address that the packet was for, if it is ours, else from that of the way back.
    let source = match snapshot.services.is_destination(dst) {
        true => Some(dst),
        false => snapshot.fib.source_for(src),
    };
    let Some(source) = source else { return };
    let start = usize::from(job.ip.l3);
    let packet = &job.packet.data()[start..start + usize::from(job.ip.len)];
    if let Ok((port, packet)) = emit(&mut pipeline.io, snapshot, source, error.fields::<A>(), packet) {
        pipeline.counters().icmp_sent.add(1);
        pipeline.transmit(port, packet);
    }
}

/// Builds an ICMP error from `src` to the sender of `about`, an IP packet whose header has been parsed.
fn emit<Io: WorkerIo, A: Ip>(
    io: &mut Io,
    snapshot: &Snapshot,
    src: A,
    error: ErrorFields,
    about: &[u8],
) -> Result<(crate::PortId, Io::Packet), DropReason> {
    let dst = A::read(&about[A::SRC..]);
    let Resolution::Ready(adjacency) = snapshot.fib.resolve(dst, 0) else { return Err(DropReason::NoRoute) };
    let adjacency = snapshot.fib.adjacency(adjacency);
    let len = A::error_len(about.len());
    let mut packet = io.allocate().ok_or(DropReason::NoBuffer)?;
    if !packet.append(ethernet::HEADER_LEN + len) {
        return Err(DropReason::NoBuffer);
    }
    let (ethernet, ip) = packet.data_mut().split_at_mut(ethernet::HEADER_LEN);
    address_frame(ethernet, &adjacency.dst_mac, &adjacency.src_mac);
    ethernet[ethernet::ETHERTYPE..].copy_from_slice(&A::ETHER_TYPE.to_be_bytes());
    A::emit_error(ip, src, about, &error).ok_or(DropReason::Truncated)?;
    Ok((adjacency.port, packet))
}

fn count<Io: WorkerIo, A: Ip>(pipeline: &Pipeline<Io>, conn: &Conn<A>, side: Side, len: u16) {
    pipeline.counters().server(conn.server).count(side, len);
}
