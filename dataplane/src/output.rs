//! The way out: transmit queues, and packets that wait for their next hop.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use proto::ethernet;

use crate::PortId;
use crate::conn::{TICKS_PER_SECOND, Tick};
use crate::fib::{Fib, Resolution};
use crate::ip::Ip;
use crate::packet::{Burst, PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::reassembly::Carrier;
use crate::verdict::DropReason;
use crate::way::address_frame;

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
    /// It may be fragmented although its header does not say so: the length in bytes that each fragment may have.
    fragment_mtu: Option<u16>,
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
    #[inline(always)]
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

    /// Keeps a packet until its next hop is known and asks the kernel to find it.
    pub(crate) fn wait<A: Ip>(&mut self, job: Job<Io::Packet, A>) {
        let Some((port, next_hop, dst)) = job.waits_for else { return self.count_drop(DropReason::NoRoute) };
        let Job { packet, hash, fragment_mtu, .. } = job;
        // Fragments of a packet that was put together say themselves whether they may be.
        let of_frame = fragment_mtu.filter(|_| packet.largest_fragment().is_none());
        let flow = hash as u32;
        let deadline = Tick(self.now.0 + WAIT_TICKS);
        let waiting = |packet| Waiting { packet, port, next_hop, dst, flow, fragment_mtu: of_frame, deadline };
        match packet {
            Carrier::Frame(packet) => self.push_waiting(waiting(packet)),
            Carrier::Whole(whole) => {
                let mtu = fragment_mtu.unwrap_or(u16::MAX);
                self.fragment(whole.data(), mtu, |this, part| this.push_waiting(waiting(part)));
            }
        }
    }

    fn push_waiting(&mut self, packet: Waiting<Io::Packet>) {
        let Waiting { port, next_hop, .. } = packet;
        let waiting = &mut self.output.waiting;
        let for_this = waiting.iter().filter(|w| w.next_hop == next_hop && w.port == port).count();
        if waiting.len() >= WAITING || for_this >= WAITING_PER_NEIGHBOUR {
            return self.count_drop(DropReason::NeighbourQueueFull);
        }
        if for_this == 0 {
            // A full queue is no loss: the request is repeated while the packet waits.
            let _ = self.shared.resolve.push((port, next_hop));
        }
        waiting.push_back(packet);
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
                    self.transmit_fitting(adjacency.port, waiting.packet, adjacency.mtu, waiting.fragment_mtu);
                }
                Resolution::NoRoute => self.count_drop(DropReason::NoRoute),
                Resolution::Unresolved { .. } if self.now >= waiting.deadline => {
                    self.count_drop(DropReason::NeighbourUnresolved);
                }
                Resolution::Unresolved { port, next_hop, .. } => {
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

    /// Sends a packet whose way may have become narrower since its size was checked.
    fn transmit_fitting(&mut self, port: PortId, packet: Io::Packet, mtu: u16, fragment_mtu: Option<u16>) {
        let mtu = fragment_mtu.map_or(mtu, |fragment_mtu| fragment_mtu.min(mtu));
        let ip = &packet.data()[ethernet::HEADER_LEN..];
        let is_v4 = ip[0] >> 4 == 4;
        let is_padded = packet.data().len() <= ethernet::MIN_FRAME_LEN;
        if is_padded || ip.len() <= usize::from(mtu) {
            self.transmit(port, packet);
        } else if fragment_mtu.is_some() || is_v4 && Ipv4Addr::may_fragment(ip) {
            self.fragment(packet.data(), mtu, |this, part| this.transmit(port, part));
        } else {
            self.count_drop(DropReason::TooBig);
        }
    }

    /// How many packets wait for a neighbour.
    pub fn waiting(&self) -> usize {
        self.output.waiting.len()
    }
}
