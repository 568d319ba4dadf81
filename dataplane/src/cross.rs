//! FULLNAT between IP versions: an IPv6 client and an IPv4 server, or the reverse.
//!
//! The connection is one of the client's version. Its packets are handled in that form like those of any other connection;
//! just before they leave for the server, and just before replies leave for the client, they are translated
//! ([`translate`]). They always take the long way. Replies are found by what the connection has beside its entry
//! ([`FarEnd`]); local ports are chosen so that they come to the connection's worker.
//!
//! Section numbers are those of RFC 7915.

use proto::parse::IpPacket;
use proto::translation::HEADER_DIFFERENCE;
use proto::{Address, Family, Protocol, Tuple, fragment, ipv4, ipv6, tcp};

use crate::conn::{Conn, ConnFlags, ConnId, FarEnd, InsertError, Side};
use crate::fib::Fib;
use crate::forward::translate::{Fragmentation, translate};
use crate::icmp::IcmpError;
use crate::ip::Ip;
use crate::mss::lower_mss;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::schedule::PORT_ATTEMPTS;
use crate::snapshot::{Service, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::way::{Way, send, way_across, way_to_client};

/// IPv4 packets up to this length, which had at most 1280 bytes in IPv6, may be fragmented (section 5.1).
const MAX_FRAGMENTABLE: usize = ipv6::MIN_MTU - HEADER_DIFFERENCE as usize;
/// Bytes by which an IPv6 fragment is longer than an IPv4 fragment of the same data.
const FRAGMENT_DIFFERENCE: u16 = HEADER_DIFFERENCE + fragment::HEADER_LEN as u16;

impl<Io: WorkerIo> Pipeline<Io> {
    /// Inserts a connection whose server is of the other version, with a local endpoint that is free towards it and whose
    /// replies come to this worker.
    pub(crate) fn insert_across<A: Ip>(
        &mut self,
        service: &Service,
        mut conn: Conn<A>,
        timeout: u32,
    ) -> Result<ConnId, DropReason> {
        let server = self.scheduling.address_of(conn.server);
        let (first, last) = service.local_ports;
        let ports = usize::from(last - first) + 1;
        let pool = service.local_addresses.len().max(1) * ports;
        for _ in 0..pool.min(PORT_ATTEMPTS * self.shared.limits.workers) {
            let local = self.scheduling.local::<A::Other>(service, conn.server);
            let Some((laddr, lport)) = local else { return Err(DropReason::NoLocalAddress) };
            self.scheduling.advance_local(service, conn.server);
            conn.lport = lport;
            let far = FarEnd { server, local: laddr.into() };
            let Some(reply) = far.outbound::<A::Other, A>(&conn) else { return Err(DropReason::NoServer) };
            if !self.owns(&reply) {
                continue;
            }
            // A connection within the server's version may have it.
            let table = A::Other::table(&mut self.tables);
            if table.find(table.hash(&reply), &reply).is_some() {
                continue;
            }
            match A::table(&mut self.tables).insert_far(conn.clone(), far, timeout, self.now) {
                Ok(id) => return Ok(id),
                Err(InsertError::Exists) => {}
                Err(InsertError::Full) => return Err(DropReason::TableFull),
            }
        }
        self.counters().service(service.id).local_port_exhausted.add(1);
        Err(DropReason::LocalPortExhausted)
    }

    /// Sends a client's packet to the connection's server, which is of the other version.
    #[cold]
    #[inline(never)]
    pub(crate) fn inbound_across<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
    ) -> Verdict {
        if is_source_routed(job) {
            return self.reject(snapshot, job, IcmpError::SourceRouteFailed, DropReason::Untranslatable);
        }
        let table = A::table(&mut self.tables);
        let header =
            table.extra(id).and_then(|extra| extra.proxy).map_or(0, |header| header.overhead(job.ip.tuple.protocol));
        let Some(server) = table.far(id).and_then(|far| A::Other::from_ip(far.server)) else {
            return Verdict::Drop(DropReason::ServerGone);
        };
        let way = way_across(table.get_mut(id), server, snapshot, job.hash);
        if let Err((error, reason)) = fit_across(job, &snapshot.fib, way, header) {
            return self.reject_aged(snapshot, job, error, reason);
        }
        let Way::Hop(_) = way else { return Verdict::Drop(DropReason::NoRoute) };

        lower_mss_across(job);
        if A::table(&mut self.tables).get(id).flags.contains(ConnFlags::TOA) {
            self.toa_inbound(snapshot, job, id, way);
        }
        self.track(snapshot, &job.packet, &job.ip, id, Side::Inbound);
        let sent = self
            .change_inbound(snapshot, job, id, way)
            .and_then(|()| self.cross_over(&mut job.packet, &job.ip, id, job.fragment_mtu.is_some()));
        match sent {
            Ok(()) => send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Translates a client's packet if the connection's server is of the other version; otherwise it stays as it is.
    pub(crate) fn cross_over<A: Ip>(
        &mut self,
        packet: &mut impl PacketBuf,
        ip: &IpPacket<A>,
        id: ConnId,
        is_fragmented: bool,
    ) -> Result<(), DropReason> {
        let table = A::table(&mut self.tables);
        let conn = table.get(id);
        let Some(far) = table.far(id) else { return Ok(()) };
        let Some(reply) = far.outbound::<A::Other, A>(conn) else { return Err(DropReason::ServerGone) };
        let new = Tuple { protocol: ip.tuple.protocol, ..reply.reversed() };
        let fragmentation = self.fragmentation::<A>(packet.data(), usize::from(ip.l4 - ip.l3), is_fragmented);
        translate(packet, ip, &new, fragmentation)
    }

    /// Sends a server's packet to the client of a connection, which is of the other version.
    #[cold]
    #[inline(never)]
    pub(crate) fn outbound_across<C: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, C::Other>,
        id: ConnId,
    ) -> Verdict {
        self.hear_server::<C, _>(id, job);
        if job.ip.ttl <= 1 {
            return self.reject(snapshot, job, IcmpError::TimeExceeded, DropReason::TtlExceeded);
        }
        if is_source_routed(job) {
            return self.reject(snapshot, job, IcmpError::SourceRouteFailed, DropReason::Untranslatable);
        }
        let way = way_to_client(C::table(&mut self.tables).get_mut(id), snapshot, job.hash);
        if let Err((error, reason)) = fit_across(job, &snapshot.fib, way, 0) {
            return self.reject(snapshot, job, error, reason);
        }
        let Way::Hop(_) = way else { return Verdict::Drop(DropReason::NoRoute) };

        lower_mss_across(job);
        if C::table(&mut self.tables).get(id).flags.contains(ConnFlags::TOA) {
            self.toa_outbound::<C, _>(job, id);
        }
        let conn = C::table(&mut self.tables).get(id);
        let new = Tuple { protocol: job.ip.tuple.protocol, ..conn.translated(Side::Outbound) };
        let IpPacket { tuple: _, l3, l4, len, ttl, flags, fragment, has_options } = job.ip;
        let ip = IpPacket { tuple: new, l3, l4, len, ttl, flags, fragment, has_options };
        self.track(snapshot, &job.packet, &ip, id, Side::Outbound);
        self.adjust_data::<C, _>(job, id, Side::Outbound);
        let header_len = usize::from(job.ip.l4 - job.ip.l3);
        let fragmentation = self.fragmentation::<C::Other>(job.packet.data(), header_len, job.fragment_mtu.is_some());
        match translate(&mut job.packet, &job.ip, &new, fragmentation) {
            Ok(()) => send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// What a packet of version `A` in `frame`, with so long a header, gets where the other version has fields for it: IPv6
    /// packets that every link must carry need not be found too big for IPv4 links, those that are longer take part in path
    /// MTU discovery (section 5.1).
    fn fragmentation<A: Ip>(&mut self, frame: &[u8], header_len: usize, is_fragmented: bool) -> Fragmentation {
        let len = crate::forward::translate::packet_len::<A>(&frame[proto::ethernet::HEADER_LEN..]);
        let dont_fragment = !is_fragmented && ipv4::HEADER_LEN + len - header_len > MAX_FRAGMENTABLE;
        Fragmentation { dont_fragment, id: self.next_ip_id() as u16 }
    }
}

/// What fits the way to the connection's server in one packet of the client's version.
pub(crate) fn room<A: Ip>(conn: &Conn<A>, way: Way, fib: &Fib) -> Option<u16> {
    let mtu = way.mtu(fib)?;
    Some(match (conn.flags.contains(ConnFlags::FAR), A::FAMILY) {
        (false, _) => mtu,
        (true, Family::V4) => mtu.saturating_sub(HEADER_DIFFERENCE),
        (true, Family::V6) => mtu.saturating_add(HEADER_DIFFERENCE),
    })
}

/// Checks that the packet, translated and with `added` more bytes, fits its way out; if it may be fragmented, notes that it
/// must be.
///
/// To IPv6: what may be fragmented in IPv4 leaves in fragments that every link carries, as its sender would not listen to
/// "too big" (section 4). To IPv4: routers may fragment what is no longer than 1280 bytes in IPv6 (section 5.1). Packets
/// that came in fragments leave in fragments with no more data than those.
fn fit_across<P: PacketBuf, A: Ip>(
    job: &mut Job<P, A>,
    fib: &Fib,
    way: Way,
    added: u16,
) -> Result<(), (IcmpError, DropReason)> {
    let Some(mtu) = way.mtu(fib) else { return Ok(()) };
    let payload_len = usize::from(job.ip.len - (job.ip.l4 - job.ip.l3)) + usize::from(added);
    let len = A::Other::HEADER_LEN + payload_len;
    let largest = job.packet.largest_fragment();
    let may_fragment = A::may_fragment(&job.packet.data()[job.ip.l3.into()..]);
    let too_big = |room: u16| Err((IcmpError::TooBig(room.saturating_sub(added).max(A::MIN_MTU)), DropReason::TooBig));
    match (A::FAMILY, largest) {
        (Family::V4, Some(largest)) => {
            if !may_fragment && u32::from(largest) + u32::from(FRAGMENT_DIFFERENCE + added) > u32::from(mtu) {
                return too_big(mtu.saturating_sub(FRAGMENT_DIFFERENCE));
            }
            let longest = if may_fragment { ipv6::MIN_MTU as u16 } else { largest.saturating_add(FRAGMENT_DIFFERENCE) };
            job.fragment_mtu = Some(mtu.min(longest));
        }
        (Family::V4, None) if may_fragment => {
            let longest = mtu.min(ipv6::MIN_MTU as u16);
            job.fragment_mtu = (len > usize::from(longest)).then_some(longest);
        }
        (Family::V4, None) if len > usize::from(mtu) => return too_big(mtu.saturating_sub(HEADER_DIFFERENCE)),
        (Family::V6, Some(largest)) => {
            job.fragment_mtu = Some(mtu.min(largest.saturating_sub(FRAGMENT_DIFFERENCE)).max(A::Other::MIN_MTU));
        }
        (Family::V6, None) if len > usize::from(mtu) => {
            if len - usize::from(added) > MAX_FRAGMENTABLE {
                return too_big(mtu.saturating_add(HEADER_DIFFERENCE));
            }
            job.fragment_mtu = Some(mtu);
        }
        (_, None) => {}
    }
    Ok(())
}

/// A host that announces in IPv4 what fits its link in one segment does not count on the longer header of its peer's IPv6.
fn lower_mss_across<P: PacketBuf, A: Ip>(job: &mut Job<P, A>) {
    if A::FAMILY == Family::V4 && job.ip.tuple.protocol == Protocol::TCP && job.ip.flags.contains(tcp::Flags::SYN) {
        let (l4, end) = (usize::from(job.ip.l4), usize::from(job.ip.l3) + usize::from(job.ip.len));
        lower_mss(&mut job.packet.data_mut()[l4..end], HEADER_DIFFERENCE);
    }
}

/// True for IPv4 packets with a source route that leads elsewhere first. All other options are left out (section 4.1).
fn is_source_routed<P: PacketBuf, A: Ip>(job: &Job<P, A>) -> bool {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    if !job.ip.has_options || A::FAMILY == Family::V6 {
        return false;
    }
    let start = usize::from(job.ip.l3) + ipv4::HEADER_LEN;
    let mut options = &job.packet.data()[start.min(job.ip.l4.into())..job.ip.l4.into()];
    loop {
        let len = match *options {
            // RFC 791 section 3.1: the pointer is beyond the end of a route that has been gone.
            [LOOSE | STRICT, len, pointer, ..] => return pointer <= len,
            [0, ..] | [] => return false,
            [1, ..] => 1,
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => return false,
        };
        let Some(rest) = options.get(len..) else { return false };
        options = rest;
    }
}
