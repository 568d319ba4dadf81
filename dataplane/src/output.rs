//! The way out: transmit queues, fragments, and packets that wait for their next hop.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use proto::checksum::Sum;
use proto::{ethernet, ipv4};

use crate::PortId;
use crate::conn::{TICKS_PER_SECOND, Tick};
use crate::fib::{Fib, Resolution};
use crate::ip::Ip;
use crate::packet::{Burst, PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline, address_frame};
use crate::verdict::DropReason;

/// Packets that can wait for neighbours, and for any one of them.
const WAITING: usize = 512;
const WAITING_PER_NEIGHBOUR: usize = 64;
/// How long a packet waits: the three probes of one second after which Linux gives a neighbour up.
const WAIT_TICKS: u32 = 3 * TICKS_PER_SECOND;
/// How often a full transmit queue is tried again before the rest of the burst is dropped.
const TX_RETRIES: usize = 16;

/// Packets on their way out.
pub struct Output<P> {
    queues: Box<[Burst<P>]>,
    waiting: VecDeque<Waiting<P>>,
    /// FIB generation and tick of the last look at the waiting packets.
    looked_at: (u32, Tick),
}

struct Waiting<P> {
    packet: P,
    port: PortId,
    next_hop: IpAddr,
    dst: IpAddr,
    /// Chooses among several next hops, as it did before.
    flow: u32,
    deadline: Tick,
}

impl<P> Output<P> {
    /// Empty queues for `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            queues: std::iter::repeat_with(ArrayVec::new).take(ports).collect(),
            waiting: VecDeque::with_capacity(WAITING),
            looked_at: (0, Tick(0)),
        }
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Queues a finished frame.
    pub(crate) fn transmit(&mut self, port: PortId, packet: Io::Packet) {
        let queue = &mut self.output.queues[usize::from(port.0)];
        queue.push(packet);
        if queue.is_full() {
            self.flush_port(port);
        }
    }

    /// Sends everything that is queued.
    pub fn flush(&mut self) {
        for port in 0..self.output.queues.len() {
            if !self.output.queues[port].is_empty() {
                self.flush_port(PortId(port as u16));
            }
        }
    }

    fn flush_port(&mut self, port: PortId) {
        let queue = &mut self.output.queues[usize::from(port.0)];
        let counters = &self.shared.workers[usize::from(self.id.0)].counters;
        let (packets, bytes) = (queue.len(), queue.iter().map(|p| p.data().len() as u64).sum::<u64>());
        for _ in 0..TX_RETRIES {
            self.io.transmit(port, queue);
            if queue.is_empty() {
                break;
            }
        }
        let unsent = queue.iter().map(|p| p.data().len() as u64).sum::<u64>();
        let of_port = &counters.ports[usize::from(port.0)];
        of_port.tx_packets.add((packets - queue.len()) as u64);
        of_port.tx_bytes.add(bytes - unsent);
        counters.drops[DropReason::TxFull as usize].add(queue.len() as u64);
        queue.clear();
    }

    /// Sends an IPv4 packet, Ethernet header included, in fragments of at most `mtu` bytes each (RFC 791 section 3.2).
    pub(crate) fn transmit_fragments(&mut self, port: PortId, packet: Io::Packet, mtu: u16) {
        let frame = packet.data();
        let ip = &frame[ethernet::HEADER_LEN..];
        let header_len = usize::from(ip[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let first_offset = u16::from_be_bytes([ip[6], ip[7]]);
        let payload = &ip[header_len..total_len];
        // All but the last carry a multiple of 8 bytes.
        let step = (usize::from(mtu).saturating_sub(header_len)) & !7;
        if step == 0 {
            return self.count_drop(DropReason::TooBig);
        }
        for (index, part) in payload.chunks(step).enumerate() {
            let Some(mut fragment) = self.io.allocate() else { return self.count_drop(DropReason::NoBuffer) };
            let ip_len = header_len + part.len();
            if !fragment.append(ethernet::HEADER_LEN + ip_len) {
                return self.count_drop(DropReason::NoBuffer);
            }
            let out = fragment.data_mut();
            out[..ethernet::HEADER_LEN + header_len].copy_from_slice(&frame[..ethernet::HEADER_LEN + header_len]);
            out[ethernet::HEADER_LEN + header_len..].copy_from_slice(part);
            let header = &mut out[ethernet::HEADER_LEN..ethernet::HEADER_LEN + header_len];
            if index > 0 {
                drop_uncopied_options(&mut header[ipv4::HEADER_LEN..]);
            }
            let is_last = index * step + part.len() == payload.len();
            let more = if is_last { first_offset & ipv4::MORE_FRAGMENTS } else { ipv4::MORE_FRAGMENTS };
            let offset = (first_offset & ipv4::OFFSET_MASK) + (index * step / 8) as u16;
            header[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
            header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
            header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
            let checksum = Sum::ZERO.add_bytes(header).finish();
            header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
            self.transmit(port, fragment);
        }
    }

    /// Keeps a packet until its next hop is known and asks the kernel to find it.
    pub(crate) fn wait<A: Ip>(&mut self, job: Job<Io::Packet, A>) {
        let Some((port, next_hop, dst)) = job.waits_for else { return self.count_drop(DropReason::NoRoute) };
        let waiting = &mut self.output.waiting;
        let for_this = waiting.iter().filter(|w| w.next_hop == next_hop && w.port == port).count();
        if waiting.len() >= WAITING || for_this >= WAITING_PER_NEIGHBOUR {
            return self.count_drop(DropReason::NeighbourQueueFull);
        }
        if for_this == 0 {
            // A full queue is no loss: the request is repeated while the packet waits.
            let _ = self.shared.resolve.push((port, next_hop));
        }
        waiting.push_back(Waiting {
            packet: job.packet,
            port,
            next_hop,
            dst,
            flow: job.hash as u32,
            deadline: Tick(self.now.0 + WAIT_TICKS),
        });
    }

    /// Sends waiting packets whose next hop is known by now and gives up those that waited too long. Looks at them only
    /// when the FIB or the tick has changed.
    pub fn retry_waiting(&mut self, fib: &Fib) {
        let look = (fib.generation, self.now);
        if self.output.waiting.is_empty() || self.output.looked_at == look {
            return;
        }
        let asks_again = self.output.looked_at.1.0 / TICKS_PER_SECOND != self.now.0 / TICKS_PER_SECOND;
        let mut asked = None;
        self.output.looked_at = look;
        for _ in 0..self.output.waiting.len() {
            let Some(mut waiting) = self.output.waiting.pop_front() else { return };
            let resolution = match waiting.dst {
                IpAddr::V4(dst) => fib.resolve(dst, waiting.flow),
                IpAddr::V6(dst) => fib.resolve(dst, waiting.flow),
            };
            match resolution {
                Resolution::Ready(adjacency) => {
                    let adjacency = *fib.adjacency(adjacency);
                    address_frame(waiting.packet.data_mut(), &adjacency.dst_mac, &adjacency.src_mac);
                    self.transmit_fitting(adjacency.port, waiting.packet, adjacency.mtu);
                }
                Resolution::NoRoute => self.count_drop(DropReason::NoRoute),
                Resolution::Unresolved { .. } if self.now >= waiting.deadline => {
                    self.count_drop(DropReason::NeighbourUnresolved);
                }
                Resolution::Unresolved { port, next_hop } => {
                    let is_new = (port, next_hop) != (waiting.port, waiting.next_hop);
                    // Packets that wait for the same neighbour mostly follow each other; one request is enough.
                    if (asks_again || is_new) && asked != Some((port, next_hop)) {
                        let _ = self.shared.resolve.push((port, next_hop));
                        asked = Some((port, next_hop));
                    }
                    self.output.waiting.push_back(Waiting { port, next_hop, ..waiting });
                }
            }
        }
    }

    /// Sends a packet whose size could not be checked before its way was known.
    fn transmit_fitting(&mut self, port: PortId, packet: Io::Packet, mtu: u16) {
        let ip = &packet.data()[ethernet::HEADER_LEN..];
        let is_v4 = ip[0] >> 4 == 4;
        let is_padded = packet.data().len() <= ethernet::MIN_FRAME_LEN;
        if is_padded || ip.len() <= usize::from(mtu) {
            self.transmit(port, packet);
        } else if is_v4 && Ipv4Addr::may_fragment(ip) {
            self.transmit_fragments(port, packet, mtu);
        } else {
            self.count_drop(DropReason::TooBig);
        }
    }

    /// How many packets wait for a neighbour.
    pub fn waiting(&self) -> usize {
        self.output.waiting.len()
    }
}

/// Overwrites with "no operation" the options that only the first fragment carries (RFC 791 section 3.1: copied flag 0).
fn drop_uncopied_options(options: &mut [u8]) {
    let mut at = 0;
    while at < options.len() {
        let len = match options[at] {
            0 => return,
            1 => 1,
            _ => match options.get(at + 1) {
                Some(&len) if len >= 2 && at + usize::from(len) <= options.len() => usize::from(len),
                _ => return,
            },
        };
        if options[at] & 0x80 == 0 {
            options[at..at + len].fill(1);
        }
        at += len;
    }
}
