//! Fragments of packets that concern a service.
//!
//! Only the first fragment of a packet has ports. As in Linux, the fragments are put together, the packet takes the long
//! way like any other, and leaves in fragments again, none larger than those that came.
//!
//! All fragments of a packet have to meet at one worker: the one that RSS chooses by the addresses alone, which is what
//! NICs do with fragments. The packet then goes to its connection's owner, as a whole.

mod table;
mod whole;

use std::net::Ipv4Addr;

use proto::parse::{IpPacket, Parsed, parse};
use proto::{Protocol, Tuple, ethernet, fragment, tcp, udp};

pub(crate) use self::table::Fragments;
pub use self::table::MAX_HELD;
use self::table::{Complete, Key};
pub use self::whole::{Carrier, Whole, WholePool};
use crate::PortId;
use crate::icmp::{self, IcmpError};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Origin, Pipeline};
use crate::snapshot::Snapshot;
use crate::verdict::DropReason;

/// Whole packets that can be under way for each worker: in its hands, and on their way to others.
pub const WHOLE_PACKETS: usize = 64;

/// Packets that are given up in a turn of the worker, at most.
const EXPIRE_BUDGET: usize = 32;

impl<Io: WorkerIo> Pipeline<Io> {
    /// Takes a fragment that concerns a service; if the packet is complete by it, processes the packet.
    pub(crate) fn gather<A: Ip>(&mut self, snapshot: &Snapshot, origin: Origin, packet: Io::Packet, ip: &IpPacket<A>) {
        let Tuple { src, dst, .. } = ip.tuple;
        if self.shared.limits.workers > 1 {
            let gatherer = self.ownership.owner(&Tuple { src, dst, sport: 0, dport: 0, protocol: ip.tuple.protocol });
            if gatherer != self.id {
                return self.steer(gatherer, Carrier::Frame(packet), origin.ingress, origin.tried);
            }
        }
        let Some(piece) = fragment::piece(packet.data(), ip) else {
            return self.count_drop(DropReason::FragmentInvalid);
        };
        let source = self.hash_of_source(src);
        let counters = &self.shared.workers[usize::from(self.id.0)].counters;
        let mut drop = |reason, n| counters.drops[reason as usize].add(n);
        let key = Key::new(src, dst, &piece);
        let arrival = (packet, ip.len, origin.ingress);
        let complete = self.fragments.add(key, source, &piece, arrival, self.now, &mut drop);
        let Some(complete) = complete else { return };
        let joined = self.join::<A>(complete);
        let pieces = self.fragments.release(complete);
        let counters = self.counters();
        match joined {
            Ok((whole, ingress)) => {
                counters.fragments.add(pieces);
                counters.reassembled.add(1);
                self.process_whole(snapshot, Origin { ingress, tried: 0 }, whole);
            }
            Err(reason) => counters.drops[reason as usize].add(pieces),
        }
    }

    /// A secret hash of the source: of the address, in IPv6 of its /64 network, in which one host can have any number.
    fn hash_of_source<A: Ip>(&self, src: A) -> u64 {
        let (high, low) = src.words();
        let network = if A::LEN == 4 { low } else { high };
        let [src, dst] = [network as u32, (network >> 32) as u32].map(Ipv4Addr::from);
        self.tables.v4.hash(&Tuple { src, dst, sport: 0, dport: 0, protocol: Protocol(0) })
    }

    /// Copies the fragments of a complete packet into one buffer. Also returns the port that the first came in by.
    fn join<A: Ip>(&self, complete: Complete) -> Result<(Whole, PortId), DropReason> {
        let fragments = &self.fragments;
        let facts = fragments.facts(complete);
        let first = fragments.parts(complete).next().ok_or(DropReason::FragmentInvalid)?;
        let dont_fragment = facts.largest == facts.largest_unfragmentable;
        let ecn = joined_ecn(facts.ecn).ok_or(DropReason::FragmentInvalid)?;

        let mut whole = self.shared.whole_packets.take(facts.largest).ok_or(DropReason::NoBuffer)?;
        let mut at = first.data;
        if !whole.append(at + facts.data_len as usize) {
            return Err(DropReason::FragmentInvalid);
        }
        let frame = whole.data_mut();
        frame[..at].copy_from_slice(&first.packet.data()[..at]);
        let headers = &mut frame[ethernet::HEADER_LEN..at];
        let headers_len = fragment::join_headers::<A>(headers, facts.data_len as usize, dont_fragment, ecn);
        at = ethernet::HEADER_LEN + headers_len.ok_or(DropReason::FragmentInvalid)?;
        let end_of_first = at + first.len;
        for part in fragments.parts(complete) {
            let data = &part.packet.data()[part.data..][..part.len];
            frame[at..at + part.len].copy_from_slice(data);
            at += part.len;
        }
        whole.truncate(at);
        if A::LEN == 16 && !has_headers_up_to(whole.data(), end_of_first) {
            return Err(DropReason::FragmentInvalid);
        }
        Ok((whole, first.ingress))
    }

    /// Takes a packet that was put together, here or at another worker, through the long way.
    pub(crate) fn process_whole(&mut self, snapshot: &Snapshot, origin: Origin, whole: Whole) {
        match parse(whole.data()) {
            Ok(Parsed::Ipv4(ip)) => self.decide_whole(snapshot, origin, whole, ip),
            Ok(Parsed::Ipv6(ip)) => self.decide_whole(snapshot, origin, whole, ip),
            Ok(Parsed::Other) => self.count_drop(DropReason::FragmentInvalid),
            Err(reason) => self.count_drop(reason.into()),
        }
    }

    fn decide_whole<A: Ip>(&mut self, snapshot: &Snapshot, origin: Origin, whole: Whole, ip: IpPacket<A>) {
        let hash = A::table(&mut self.tables).hash(&ip.tuple);
        let Origin { ingress, tried } = origin;
        let packet = Carrier::Whole(whole);
        let mut job = Job { packet, ip, ingress, tried, hash, waits_for: None, fragment_mtu: None };
        let verdict = self.decide(snapshot, &mut job);
        self.carry_out(verdict, job);
    }

    /// Gives up packets that did not become complete in time, a bounded number per turn. Whose first fragment came, hears of
    /// it (RFC 1122 section 3.3.2, RFC 8200 section 4.5), as from Linux.
    pub(crate) fn expire_fragments(&mut self, snapshot: &Snapshot) {
        for _ in 0..EXPIRE_BUDGET {
            let counters = &self.shared.workers[usize::from(self.id.0)].counters;
            let mut drop = |reason, n| counters.drops[reason as usize].add(n);
            let mut first = None;
            let keep = |packet, ingress| first = Some((packet, ingress));
            if !self.fragments.expire(self.now, &mut drop, keep) {
                return;
            }
            let Some((packet, ingress)) = first else { continue };
            match parse(packet.data()) {
                Ok(Parsed::Ipv4(ip)) => self.report_timeout(snapshot, packet, ingress, ip),
                Ok(Parsed::Ipv6(ip)) => self.report_timeout(snapshot, packet, ingress, ip),
                _ => {}
            }
        }
    }

    fn report_timeout<A: Ip>(&mut self, snapshot: &Snapshot, packet: Io::Packet, ingress: PortId, ip: IpPacket<A>) {
        let packet = Carrier::Frame(packet);
        let job = Job { packet, ip, ingress, tried: 0, hash: 0, waits_for: None, fragment_mtu: None };
        icmp::originate(self, snapshot, &job, IcmpError::ReassemblyTimeExceeded);
    }

    /// How many fragments wait for others.
    pub fn held_fragments(&self) -> usize {
        self.fragments.len()
    }
}

/// All headers of the packet in `frame` were in its first fragment, the data of which ended at `end` (RFC 8200 section 4.5; as
/// Linux, without TCP's options).
fn has_headers_up_to(frame: &[u8], end: usize) -> bool {
    let Ok(Parsed::Ipv6(ip)) = parse(frame) else { return true };
    let len = match ip.tuple.protocol {
        Protocol::TCP => tcp::HEADER_LEN,
        Protocol::UDP => udp::HEADER_LEN,
        Protocol::ICMPV6 => proto::icmp::HEADER_LEN,
        _ => 1,
    };
    usize::from(ip.l4) + len <= end
}

/// The ECN field of a packet whose fragments had the values of `seen`, a bit each (RFC 3168 section 5.3). `None` if one that
/// knows of ECN met one that does not.
fn joined_ecn(seen: u8) -> Option<u8> {
    const NOT_ECT: u8 = 1 << 0;
    const ECT_1: u8 = 1 << 1;
    const ECT_0: u8 = 1 << 2;
    match seen {
        NOT_ECT => Some(0),
        ECT_1 => Some(1),
        ECT_0 => Some(2),
        _ if seen & NOT_ECT != 0 => None,
        // Both codepoints of "capable" mean the same.
        _ if seen == ECT_0 | ECT_1 => Some(2),
        _ => Some(3),
    }
}
