//! The packet's way, top to bottom.
//!
//! ```text
//! burst → parse → lookup → [steer | schedule] → route → track → rewrite → output
//! ```
//!
//! The stages up to lookup take the whole burst, so that the cache misses of one packet overlap with the others' work:
//! parse and hash every packet and prefetch its bucket, then scan every bucket and prefetch the entry, then finish packet
//! by packet. Nearly every packet is finished by [`established`](crate::established), which does only what such packets
//! need; the others take the long way from [`decide`](Pipeline::decide) on.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use proto::checksum::Delta;
use proto::parse::{Fragment, IpPacket, ParseError, Parsed, parse};
use proto::state::{Direction, State};
use proto::{Protocol, Tuple, ethernet, ipv6, plain, sctp};

use crate::conn::{Candidate, Conn, ConnFlags, ConnId, ConnTable, Side, TICKS_PER_SECOND, Tick};
use crate::conn_log::{ConnLog, EndReason};
use crate::counters::WorkerCounters;
use crate::defence::Defence;
use crate::forward::nat;
use crate::forward::tun::Tunnel;
use crate::helper::Helpers;
use crate::icmp::{self, IcmpError};
use crate::ip::{Ip, Tables};
use crate::lifecycle::{self, Fate, count_ended};
use crate::limit::RateLimit;
use crate::outcome::note_opening;
use crate::output::Output;
use crate::packet::{BURST, Burst, PacketBuf, WorkerIo};
use crate::persistence;
use crate::reap::Reaper;
use crate::reassembly::{Carrier, Fragments};
use crate::schedule::Scheduling;
use crate::shared::Shared;
use crate::snapshot::{ForwardMode, Snapshot};
use crate::steer::{Links, Ownership, Steered};
use crate::templates::Sweep;
use crate::verdict::{DropReason, Verdict};
use crate::way::{Overhead, Way, fit, send, way_to_client, way_to_server};
use crate::{PortId, WorkerId};

/// Packets per second that one worker hands to the kernel, beside address resolution.
const PUNT_RATE: u32 = 50_000;
/// ARP and neighbour discovery packets per second to the kernel: they must get through when other traffic floods it.
const RESOLUTION_PUNT_RATE: u32 = 5_000;
/// ICMP errors per second that one worker originates (Linux: icmp_msgs_per_sec), and how many at once: a tick's worth.
const ICMP_RATE: u32 = 1_000;
const ICMP_BURST: u32 = ICMP_RATE / TICKS_PER_SECOND;

/// Packets of one family in the stages that take a whole burst, and what is known of each.
struct Batch<P, A> {
    packets: Burst<P>,
    met: ArrayVec<Met<A>, BURST>,
}

/// What the first stages find out about a packet.
pub(crate) struct Met<A> {
    pub ip: IpPacket<A>,
    /// Hash of the tuple.
    pub hash: u64,
    /// The connection that it most likely belongs to.
    pub candidate: Candidate,
}

/// How a burst came here.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub ingress: PortId,
    /// The workers that had it before, a bit each.
    pub tried: u64,
}

/// A packet on the long way.
pub(crate) struct Job<P, A> {
    pub packet: Carrier<P>,
    pub ip: IpPacket<A>,
    pub ingress: PortId,
    /// The workers that had the packet before, a bit each.
    pub tried: u64,
    /// Hash of the tuple.
    pub hash: u64,
    /// Where to when the verdict is [`Verdict::Wait`].
    pub waits_for: Option<(PortId, IpAddr, IpAddr)>,
    /// When the packet must leave in fragments: the length in bytes that each may have.
    pub fragment_mtu: Option<u16>,
}

impl<P: PacketBuf, A> Job<P, A> {
    /// The frame up to the end of the IP packet, without padding.
    pub fn ip_mut(&mut self) -> &mut [u8] {
        let end = usize::from(self.ip.l3) + usize::from(self.ip.len);
        &mut self.packet.data_mut()[..end]
    }

    /// The transport header and what follows, up to the end of the IP packet.
    pub fn segment(&self) -> &[u8] {
        segment(&self.packet, &self.ip)
    }
}

fn segment<'a, A>(packet: &'a impl PacketBuf, ip: &IpPacket<A>) -> &'a [u8] {
    let end = usize::from(ip.l3) + usize::from(ip.len);
    &packet.data()[ip.l4.into()..end]
}

/// A worker's packet path with all that it owns.
pub struct Pipeline<Io: WorkerIo> {
    pub(crate) id: WorkerId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) io: Io,
    pub(crate) tables: Tables,
    pub(crate) scheduling: Scheduling,
    pub(crate) ownership: Ownership,
    pub(crate) links: Links<Io::Packet>,
    pub(crate) output: Output<Io::Packet>,
    pub(crate) defence: Defence,
    pub(crate) reaper: Reaper,
    pub(crate) fragments: Fragments<Io::Packet>,
    pub(crate) icmp_limit: RateLimit,
    pub(crate) now: Tick,
    pub(crate) sweep: Sweep,
    /// Identification of the last tunnel header or IPv6 fragment.
    pub(crate) ip_id: u32,
    pub(crate) helpers: Helpers,
    /// For those who keep a log of connections.
    pub(crate) log: Option<Box<ConnLog>>,
    punt_limit: RateLimit,
    resolution_punt_limit: RateLimit,
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// An idle packet path for `connections` connections of each family.
    pub fn new(
        id: WorkerId,
        shared: Arc<Shared>,
        io: Io,
        links: Links<Io::Packet>,
        ownership: Ownership,
        connections: usize,
        seed: [u64; 2],
    ) -> Self {
        let now = Tick(1);
        Self {
            id,
            tables: Tables {
                v4: ConnTable::new(connections, seed, now),
                v6: ConnTable::new(connections, [seed[1], seed[0].rotate_left(32)], now),
            },
            scheduling: Scheduling::new(&shared.limits, seed[0]),
            output: Output::new(shared.limits.ports),
            defence: Defence::default(),
            reaper: Reaper::new(seed[1]),
            fragments: Fragments::new(),
            shared,
            io,
            links,
            ownership,
            now,
            sweep: Sweep::default(),
            ip_id: (seed[1] as u32).wrapping_add(id.0.into()),
            helpers: Helpers::new(seed[0].rotate_left(32) ^ seed[1]),
            log: None,
            icmp_limit: RateLimit::new(ICMP_RATE, ICMP_BURST),
            punt_limit: RateLimit::new(PUNT_RATE, PUNT_RATE / 10),
            resolution_punt_limit: RateLimit::new(RESOLUTION_PUNT_RATE, RESOLUTION_PUNT_RATE / 5),
        }
    }

    /// Takes the packets of a burst, all received on `ingress`, through all stages and leaves it empty. `tried` are the
    /// workers that had them before, a bit each.
    pub fn process(&mut self, snapshot: &Snapshot, ingress: PortId, tried: u64, burst: &mut Burst<Io::Packet>) {
        let mut v4 = Batch::new();
        let mut v6 = Batch::new();
        let mac = snapshot.fib.ports.get(usize::from(ingress.0)).map(|port| &port.mac);
        for packet in burst.drain(..) {
            let frame = packet.data();
            if packet.is_contiguous() && mac.is_some_and(|mac| frame.starts_with(mac)) {
                if let Some(ip) = plain::ipv4(frame) {
                    v4.add(&self.tables.v4, packet, ip);
                    continue;
                }
                if let Some(ip) = plain::ipv6(frame) {
                    v6.add(&self.tables.v6, packet, ip);
                    continue;
                }
            }
            match self.admit(snapshot, ingress, &packet) {
                Ok(Parsed::Ipv4(ip)) => v4.add(&self.tables.v4, packet, ip),
                Ok(Parsed::Ipv6(ip)) => v6.add(&self.tables.v6, packet, ip),
                Ok(Parsed::Other) => self.punt(ingress, packet.data()),
                Err(reason) => self.count_drop(reason),
            }
        }
        let origin = Origin { ingress, tried };
        self.run(snapshot, origin, &mut v4);
        self.run(snapshot, origin, &mut v6);
    }

    /// Parses a frame that is meant for this station.
    #[cold]
    #[inline(never)]
    fn admit(&self, snapshot: &Snapshot, ingress: PortId, packet: &Io::Packet) -> Result<Parsed, DropReason> {
        if !packet.is_contiguous() {
            return Err(DropReason::MultiSegment);
        }
        let frame = packet.data();
        let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN }>() else { return Err(DropReason::Truncated) };
        let is_multicast = header[ethernet::DST] & 1 != 0;
        if is_multicast {
            return Ok(Parsed::Other);
        }
        match snapshot.fib.ports.get(usize::from(ingress.0)) {
            Some(port) if header.starts_with(&port.mac) => parse(frame).map_err(DropReason::from),
            _ => Err(DropReason::WrongMac),
        }
    }

    #[inline(always)]
    fn run<A: Ip>(&mut self, snapshot: &Snapshot, origin: Origin, batch: &mut Batch<Io::Packet, A>) {
        let table = A::table(&mut self.tables);
        for met in &mut batch.met {
            met.candidate = table.prefetch_entry(met.hash);
        }
        if snapshot.services.has_many_servers() {
            // One miss in the cache for each would cost more than all the rest.
            let counters = &self.shared.workers[usize::from(self.id.0)].counters;
            for (conn, side) in batch.met.iter().filter_map(|met| table.candidate(met.candidate)) {
                hw::prefetch(counters.server(conn.server));
                snapshot.fib.get(conn.way(side)).inspect(|adjacency| hw::prefetch(*adjacency));
            }
        }
        for (mut packet, met) in batch.packets.drain(..).zip(&batch.met) {
            match self.forward_established(snapshot, &mut packet, met) {
                Some(port) => self.transmit(port, packet),
                None => self.take_long_way(snapshot, origin, packet, met),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn take_long_way<A: Ip>(&mut self, snapshot: &Snapshot, origin: Origin, packet: Io::Packet, met: &Met<A>) {
        let Origin { ingress, tried } = origin;
        let Met { ip, hash, .. } = *met;
        if ip.fragment != Fragment::None && snapshot.services.concerns(ip.tuple.src, ip.tuple.dst) {
            return self.gather(snapshot, origin, packet, &ip);
        }
        let packet = Carrier::Frame(packet);
        let mut job = Job { packet, ip, ingress, tried, hash, waits_for: None, fragment_mtu: None };
        let verdict = self.decide(snapshot, &mut job);
        self.carry_out(verdict, job);
    }

    /// What becomes of a packet; rewrites it on the way.
    pub(crate) fn decide<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>) -> Verdict {
        match job.ip.tuple.protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => {}
            Protocol::ESP | Protocol::AH => return self.forward_ipsec(snapshot, job),
            protocol if protocol == A::ICMP => return icmp::receive(self, snapshot, job),
            _ => return Verdict::Punt,
        }
        if job.ip.fragment != Fragment::None {
            return Verdict::Punt;
        }
        match A::table(&mut self.tables).find(job.hash, &job.ip.tuple) {
            Some((id, Side::Inbound)) => self.inbound(snapshot, job, id),
            Some((id, Side::Outbound)) => self.outbound(snapshot, job, id),
            None => match A::Other::table(&mut self.tables).find_far(&job.ip.tuple) {
                Some(id) => self.outbound_across::<A::Other>(snapshot, job, id),
                None => match self.elsewhere(snapshot, &job.ip.tuple, job.tried) {
                    Some(owner) => Verdict::Steer(owner),
                    None => self.unknown(snapshot, job),
                },
            },
        }
    }

    /// The worker to pass a packet to whose connection is not in this worker's table.
    pub(crate) fn elsewhere<A: Ip>(&self, snapshot: &Snapshot, tuple: &Tuple<A>, tried: u64) -> Option<WorkerId> {
        if self.shared.limits.workers == 1 {
            return None;
        }
        let tried = tried | 1 << self.id.0;
        if let Some(owner) = self.shared.directory.find(tuple) {
            return Some(owner).filter(|owner| tried & (1 << owner.0) == 0);
        }
        if let Some(replies) = &self.shared.replies
            && snapshot.services.is_nat_source(tuple.src)
            && let Some(worker) = replies.find(tuple, tried)
        {
            return Some(worker);
        }
        self.ownership.next_owner(tuple, &snapshot.services, tried)
    }

    /// A packet of no connection: the first of a new one, or none of ours.
    fn unknown<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>) -> Verdict {
        match self.open_announced(job) {
            None => {}
            Some(Ok((id, Side::Inbound))) => return self.inbound(snapshot, job, id),
            Some(Ok((id, Side::Outbound))) => return self.outbound(snapshot, job, id),
            Some(Err(reason)) => return Verdict::Drop(reason),
        }
        let Tuple { sport, dport, protocol, .. } = job.ip.tuple;
        let Some(service) = snapshot.services.service_for(&job.ip.tuple, job.ingress) else {
            return match lifecycle::is_stray(snapshot, job) {
                true => self.reject(snapshot, job, IcmpError::PortUnreachable, DropReason::Stray),
                false => Verdict::Punt,
            };
        };
        if snapshot.fib.is_local(job.ip.tuple.src.into()) {
            // The director's own address, of a health check's packet that a server without the virtual address sent back by
            // its default route: to schedule it would have another server answer (fib_validate_source in
            // net/ipv4/fib_frontend.c).
            return Verdict::Drop(DropReason::Martian);
        }
        if sport == persistence::FTP_DATA {
            // A server's end of an FTP data connection is never a client (ip_vs_core.c, ip_vs_schedule).
            return Verdict::Punt;
        }
        if !lifecycle::opens(snapshot, job) {
            return Verdict::Punt; // The kernel resets or aborts what is left.
        }
        if self.defence.drops_packet() {
            return Verdict::Drop(DropReason::DropPacket);
        }
        if job.ip.ttl <= 1 {
            return self.reject(snapshot, job, IcmpError::TimeExceeded, DropReason::TtlExceeded);
        }
        let forwarded = match service.one_packet && protocol == Protocol::UDP {
            true => self.forward_one_packet(snapshot, service, job),
            false => self.schedule(snapshot, service, job).map(|id| self.forward_inbound(snapshot, job, id)),
        };
        match forwarded {
            Ok(verdict) => verdict,
            // Other ports of an FTP server's address may be the host's (ip_vs_core.c, ip_vs_leave).
            Err(DropReason::NoServer) if service.key.vport == persistence::FTP && dport != persistence::FTP => {
                Verdict::Punt
            }
            Err(DropReason::NoServer) => self.reject(snapshot, job, IcmpError::PortUnreachable, DropReason::NoServer),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// A packet from the client of a known connection.
    pub(crate) fn inbound<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>, id: ConnId) -> Verdict {
        match lifecycle::fate(snapshot, A::table(&mut self.tables).get(id), lifecycle::begins(job)) {
            Fate::GoesOn => {}
            Fate::Rests => return Verdict::Drop(DropReason::ServerGone),
            Fate::Ends => {
                let reason = match snapshot.services.is_live(A::table(&mut self.tables).get(id).server) {
                    true => EndReason::Replaced,
                    false => EndReason::ServerGone,
                };
                self.end_connection::<A>(id, reason);
                return self.unknown(snapshot, job);
            }
        }
        if job.ip.ttl <= 1 {
            return self.reject(snapshot, job, IcmpError::TimeExceeded, DropReason::TtlExceeded);
        }
        self.forward_inbound(snapshot, job, id)
    }

    /// Ends a connection before its time.
    pub(crate) fn end_connection<A: Ip>(&mut self, id: ConnId, reason: EndReason) {
        let table = A::table(&mut self.tables);
        let template = table.template(id);
        let ended = table.remove(id);
        count_ended(&self.shared, self.id, &ended, template);
        if let Some(log) = &mut self.log {
            let counters = &self.shared.worker(self.id).counters;
            log.end::<A>(id, reason, self.now, counters, || self.scheduling.record(&ended, self.now));
        }
    }

    /// Logs that a connection begins, if connections are logged.
    pub(crate) fn log_begin<A: Ip>(&mut self, id: ConnId) {
        if let Some(log) = &mut self.log {
            let counters = &self.shared.worker(self.id).counters;
            let (now, scheduling) = (self.now, &self.scheduling);
            log.begin(A::table(&mut self.tables), id, now, counters, |conn| scheduling.record(conn, now));
        }
    }

    /// Sends a client's packet to the connection's server.
    fn forward_inbound<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>, id: ConnId) -> Verdict {
        let table = A::table(&mut self.tables);
        if table.get(id).flags.contains(ConnFlags::FAR) {
            return self.inbound_across(snapshot, job, id);
        }
        let header =
            table.extra(id).and_then(|extra| extra.proxy).map_or(0, |header| header.overhead(job.ip.tuple.protocol));
        let conn = table.get_mut(id);
        let way = way_to_server(conn, snapshot, job.hash);
        let tunnel = Tunnel::of(conn, snapshot);
        let mut overhead = Tunnel::overhead(&tunnel);
        overhead.len += header;
        if let Err((error, reason)) = fit(job, &snapshot.fib, way, overhead) {
            return self.reject_aged(snapshot, job, error, reason);
        }
        let Way::Hop(_) = way else { return Verdict::Drop(DropReason::NoRoute) };

        if A::table(&mut self.tables).get(id).flags.contains(ConnFlags::TOA) {
            self.toa_inbound(snapshot, job, id, way);
        }
        self.track(snapshot, &job.packet, &job.ip, id, Side::Inbound);
        if let Err(verdict) = self.help(snapshot, job, id, Side::Inbound, way) {
            return verdict;
        }

        let ip_id = self.next_ip_id() as u16;
        match readdress_inbound(job, A::table(&mut self.tables).get(id), tunnel, ip_id) {
            Ok(()) => match self.change_inbound(snapshot, job, id, way) {
                Ok(()) => send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for),
                Err(reason) => Verdict::Drop(reason),
            },
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Sends a server's packet to the connection's client.
    pub(crate) fn outbound<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>, id: ConnId) -> Verdict {
        self.hear_server::<A, _>(id, job);
        if job.ip.ttl <= 1 {
            return self.reject(snapshot, job, IcmpError::TimeExceeded, DropReason::TtlExceeded);
        }
        let way = way_to_client(A::table(&mut self.tables).get_mut(id), snapshot, job.hash);
        if let Err((error, reason)) = fit(job, &snapshot.fib, way, Overhead::default()) {
            return self.reject(snapshot, job, error, reason);
        }
        let Way::Hop(_) = way else { return Verdict::Drop(DropReason::NoRoute) };

        if A::table(&mut self.tables).get(id).flags.contains(ConnFlags::TOA) {
            self.toa_outbound::<A, _>(job, id);
        }
        self.track(snapshot, &job.packet, &job.ip, id, Side::Outbound);
        if let Err(verdict) = self.help(snapshot, job, id, Side::Outbound, way) {
            return verdict;
        }

        let ip_id = self.next_ip_id() as u16;
        let conn = A::table(&mut self.tables).get(id);
        let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
        let new = Tuple { protocol: job.ip.tuple.protocol, ..conn.translated(Side::Outbound) };
        nat::forward_any(job.ip_mut(), l3, l4, &new);
        renumber(job, ip_id);
        self.adjust_data::<A, _>(job, id, Side::Outbound);
        send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for)
    }

    /// Moves the connection's state machine, restarts its timeout and counts the packet, in which `ip` says where its headers
    /// are. The connection has been compared with the snapshot, then.
    pub(crate) fn track<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        packet: &Carrier<Io::Packet>,
        ip: &IpPacket<A>,
        id: ConnId,
        side: Side,
    ) {
        let table = A::table(&mut self.tables);
        let conn = table.get_mut(id);
        let before = conn.state;
        let direction = match side {
            Side::Outbound => Direction::Out,
            Side::Inbound if conn.mode.sees_replies() => Direction::In,
            Side::Inbound => Direction::InOnly,
        };
        match conn.protocol {
            Protocol::TCP => conn.state = self.defence.tcp_next(before, direction, ip.flags),
            Protocol::SCTP => {
                if let Some(event) = sctp::Event::of(segment(packet, ip)) {
                    conn.state = sctp::next(before, direction, event);
                }
            }
            _ => {}
        }
        let (after, server) = (conn.state, conn.server);
        // Not with the packet that opened the connection.
        let is_another = || before != after || conn.timer.last_seen() != self.now;
        if before.is_opening() && side == Side::Inbound && is_another() {
            let counters = &self.shared.workers[usize::from(self.id.0)].counters;
            note_opening(conn, ip.flags, || segment(packet, ip), self.now, counters);
        }
        let is_assured = matches!(after, State::Established | State::SctpEstablished)
            || (after == State::Udp && side == Side::Outbound);
        let is_controlled = conn.flags.contains(ConnFlags::CONTROLLED);
        if snapshot.services.is_live(server) {
            conn.epoch = snapshot.epoch();
        }
        let timeout = conn.timeout(snapshot);
        table.set_timeout(id, timeout, self.now);
        if side == Side::Inbound {
            table.count_packet(id);
        }
        if is_controlled && is_assured {
            table.template(id).inspect(|&template| self.shared.templates.assure(template));
        }

        let counters = self.counters().server(server);
        if before.is_active() != after.is_active() {
            let load = self.counters().load(server);
            let (from, to) = match after.is_active() {
                true => (&load.inactive, &load.active),
                false => (&load.active, &load.inactive),
            };
            from.sub(1);
            to.add(1);
        }
        counters.count(side, ip.len);
        if let Some(log) = &mut self.log {
            log.count::<A>(id, side, ip.len);
        }
    }

    /// Drops a packet and tells its sender why, rate permitting.
    pub(crate) fn reject<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &Job<Io::Packet, A>,
        error: IcmpError,
        reason: DropReason,
    ) -> Verdict {
        icmp::originate(self, snapshot, job, error);
        Verdict::Drop(reason)
    }

    /// [`reject`](Self::reject) as late as IPVS does it: the error quotes a time to live that is decremented already.
    pub(crate) fn reject_aged<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        error: IcmpError,
        reason: DropReason,
    ) -> Verdict {
        A::decrement_ttl(&mut job.packet.data_mut()[job.ip.l3.into()..], Delta::ZERO);
        self.reject(snapshot, job, error, reason)
    }

    pub(crate) fn carry_out<A: Ip>(&mut self, verdict: Verdict, job: Job<Io::Packet, A>) {
        match verdict {
            Verdict::Transmit(port) => match (job.packet, job.fragment_mtu) {
                (Carrier::Frame(packet), None) => self.transmit(port, packet),
                (packet, mtu) => {
                    self.fragment(packet.data(), mtu.unwrap_or(u16::MAX), |this, part| this.transmit(port, part))
                }
            },
            Verdict::Punt => match job.packet {
                Carrier::Frame(packet) => self.punt(job.ingress, packet.data()),
                Carrier::Whole(whole) => {
                    self.fragment(whole.data(), whole.largest(), |this, part| this.punt(job.ingress, part.data()))
                }
            },
            Verdict::Steer(owner) => self.steer(owner, job.packet, job.ingress, job.tried),
            Verdict::Wait => self.wait(job),
            Verdict::Drop(reason) => self.count_drop(reason),
        }
    }

    /// Hands a frame to the kernel. Address resolution has a rate of its own.
    fn punt(&mut self, ingress: PortId, data: &[u8]) {
        let limit = match resolves_addresses(data) {
            true => &mut self.resolution_punt_limit,
            false => &mut self.punt_limit,
        };
        if !limit.allow(self.now) {
            return self.count_drop(DropReason::PuntLimit);
        }
        let Some(mut frame) = self.shared.punt.take_empty() else {
            return self.count_drop(DropReason::PuntFull);
        };
        if frame.fill(ingress, data) {
            self.shared.punt.send(frame);
            self.counters().punted.add(1);
        } else {
            self.shared.punt.recycle(frame);
            self.count_drop(DropReason::Truncated);
        }
    }

    pub(crate) fn steer(&mut self, owner: WorkerId, packet: Carrier<Io::Packet>, ingress: PortId, tried: u64) {
        let tried = tried | 1 << self.id.0;
        let pushed = match &mut self.links.outgoing[usize::from(owner.0)] {
            Some(ring) => ring.push(Steered { packet, ingress, tried }).is_ok(),
            None => false,
        };
        match pushed {
            true => self.counters().steered.add(1),
            false => self.count_drop(DropReason::SteerFull),
        }
    }

    /// Identification for a tunnel header, of which IPv4 uses the low half. Workers share source and destination, so
    /// each has numbers of its own: fragments of different packets must not be put together (RFC 6864).
    pub(crate) fn next_ip_id(&mut self) -> u32 {
        self.ip_id = self.ip_id.wrapping_add(self.shared.limits.workers as u32);
        self.ip_id
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.counters().drops[reason as usize].add(1);
    }

    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.shared.workers[usize::from(self.id.0)].counters
    }
}

impl<P: PacketBuf, A: Ip> Batch<P, A> {
    fn new() -> Self {
        Self { packets: Burst::new(), met: ArrayVec::new() }
    }

    /// Begins the lookup of a packet.
    #[inline(always)]
    fn add(&mut self, table: &ConnTable<A>, mut packet: P, ip: IpPacket<A>) {
        // What follows the IP packet is padding; more than Ethernet needs would be sent beyond the MTU of the way out.
        packet.truncate(ethernet::MIN_FRAME_LEN.max(usize::from(ip.l3) + usize::from(ip.len)));
        let hash = table.hash(&ip.tuple);
        table.prefetch_bucket(hash);
        self.packets.push(packet);
        self.met.push(Met { ip, hash, candidate: Candidate::NONE });
    }
}

/// True for ARP and for the messages of IPv6 neighbour discovery, which have no extension headers in practice.
fn resolves_addresses(frame: &[u8]) -> bool {
    const NEXT_HEADER: usize = ethernet::HEADER_LEN + ipv6::NEXT_HEADER;
    const ICMP_TYPE: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
    match frame.get(ethernet::ETHERTYPE..ethernet::HEADER_LEN) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => {
            frame.get(NEXT_HEADER) == Some(&Protocol::ICMPV6.0)
                // Router solicitation and advertisement, neighbour solicitation and advertisement (RFC 4861).
                && frame.get(ICMP_TYPE).is_some_and(|kind| (133..=136).contains(kind))
        }
        _ => false,
    }
}

/// Makes a client's packet one for the connection's server; `ip_id` is for the tunnel's header if it goes through one.
pub(crate) fn readdress_inbound<P: PacketBuf, A: Ip>(
    job: &mut Job<P, A>,
    conn: &Conn<A>,
    tunnel: Option<Tunnel>,
    ip_id: u16,
) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
    match conn.mode {
        ForwardMode::Nat | ForwardMode::FullNat => {
            let new = Tuple { protocol: job.ip.tuple.protocol, ..conn.translated(Side::Inbound) };
            nat::forward_any(job.ip_mut(), l3, l4, &new);
            renumber(job, ip_id);
        }
        ForwardMode::DirectRouting => A::decrement_ttl(&mut job.packet.data_mut()[l3..], Delta::ZERO),
        ForwardMode::Tunnel => {
            let (packet, len, flow) = (&mut job.packet, job.ip.len, job.hash as u32);
            if !tunnel.is_some_and(|tunnel| tunnel.wrap::<A>(packet, len, ip_id, flow)) {
                return Err(DropReason::NoBuffer);
            }
        }
    }
    Ok(())
}

/// Gives a packet that leaves in fragments, translated, an identification of the director's. Its sender's need differ only
/// from those of other packets between the old addresses (RFC 6864 section 4.1).
fn renumber<P: PacketBuf, A: Ip>(job: &mut Job<P, A>, id: u16) {
    if job.fragment_mtu.is_some() {
        A::renumber(&mut job.packet.data_mut()[job.ip.l3.into()..], id);
    }
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Truncated => DropReason::Truncated,
            ParseError::BadIpVersion => DropReason::BadIpVersion,
            ParseError::BadIpHeaderLength => DropReason::BadIpHeaderLength,
            ParseError::BadIpLength => DropReason::BadIpLength,
            ParseError::BadIpChecksum => DropReason::BadIpChecksum,
            ParseError::ExtensionHeaders => DropReason::ExtensionHeaders,
            ParseError::BadTcpHeader => DropReason::BadTcpHeader,
            ParseError::BadUdpLength => DropReason::BadUdpLength,
            ParseError::Martian => DropReason::Martian,
        }
    }
}
