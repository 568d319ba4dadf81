//! The synthetic source: packets are made where a NIC would deliver them, in the loop of the worker itself.

use dataplane::PortId;
use dataplane::forward::nat;
use dataplane::packet::{Burst, WorkerIo};
use dpdk::{Mbuf, Mempool};
use proto::Tuple;

use crate::flows::{Family, Flows, Way};
use crate::frame::{HEADERS, Shape, l4_offset};
use crate::pick::Pick;

/// What went in and what came out, for verification.
#[derive(Debug, Default)]
pub struct Capture {
    /// Flow numbers of the packets made and the lengths of their frames, in order.
    pub came: Vec<(u32, usize)>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Capture {
    /// The frames that were sent, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|i| &self.bytes[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]])
    }

    fn add(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }
}

/// First packets of connections that begin, among the others.
#[derive(Clone, Debug)]
pub struct Newcomers {
    /// Number of the next flow.
    pub next: u32,
    /// How many come.
    pub pace: Pace,
    template: Template,
}

/// What packets of one length have in common.
#[derive(Clone, Debug)]
struct Template {
    headers: [u8; HEADERS],
    frame_len: usize,
}

impl Template {
    fn new<A: Family>(shape: Shape, tuple: &Tuple<A>) -> Self {
        let mut headers = [0; HEADERS];
        headers.copy_from_slice(&shape.build(tuple)[..HEADERS]);
        Self { headers, frame_len: shape.frame_len }
    }

    /// Turns a buffer without data into a packet. What there is beyond the headers is in the buffer already.
    #[inline(always)]
    fn make<A: Family>(&self, packet: &mut Mbuf, tuple: &Tuple<A>) {
        if !packet.append(self.frame_len.max(HEADERS)) {
            return;
        }
        let frame = packet.data_mut();
        frame[..HEADERS].copy_from_slice(&self.headers);
        nat::rewrite(frame, proto::ethernet::HEADER_LEN, l4_offset::<A>(), tuple);
        packet.truncate(self.frame_len);
    }
}

/// How many packets there are of something.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many of each burst.
    Burst(usize),
    /// So many per TSC cycle.
    Rate {
        /// Packets per cycle.
        per_cycle: f64,
        /// Packets that are due, and when that was reckoned.
        due: (f64, u64),
    },
}

impl Pace {
    /// So many per TSC cycle from now on.
    pub fn rate(per_cycle: f64) -> Self {
        Pace::Rate { per_cycle, due: (0.0, hw::cycles()) }
    }

    /// How many of the next `n` packets. What is due beyond that is forgotten after a burst.
    #[inline]
    fn next(&mut self, n: usize) -> usize {
        match self {
            Pace::Burst(packets) => n.min(*packets),
            Pace::Rate { per_cycle, due: (due, since) } => {
                let now = hw::cycles();
                *due = (*due + now.wrapping_sub(*since) as f64 * *per_cycle).min(2.0 * n as f64);
                *since = now;
                let packets = n.min(*due as usize);
                *due -= packets as f64;
                packets
            }
        }
    }
}

/// Makes packets and takes them back: a worker's queues.
pub struct Source<A> {
    pool: Mempool,
    /// The numbering of flows.
    pub flows: Flows,
    /// Which flows come.
    pub pick: Pick,
    /// Packets that were sent.
    pub sent: u64,
    /// When set, everything that comes and goes is recorded.
    pub capture: Option<Capture>,
    newcomers: Option<Newcomers>,
    way: Way,
    /// One after the other.
    templates: Vec<Template>,
    turn: usize,
    random: u64,
    family: std::marker::PhantomData<A>,
}

impl<A: Family> Source<A> {
    /// A source of frames of the shape given, from clients.
    pub fn new(pool: &Mempool, flows: Flows, shape: Shape, pick: Pick) -> Self {
        let mut source = Self {
            pool: pool.clone(),
            flows,
            pick,
            sent: 0,
            capture: None,
            newcomers: None,
            way: Way::In,
            templates: Vec::new(),
            turn: 0,
            random: 0x1234_5678_9abc_def1,
            family: std::marker::PhantomData,
        };
        source.paint(shape);
        source.send(Way::In, shape);
        source
    }

    /// From now on the packets go this way and look like this.
    pub fn send(&mut self, way: Way, shape: Shape) {
        self.send_in_turn(way, &[shape]);
    }

    /// From now on the packets go this way and look like one of these after the other, of which there is at least one.
    pub fn send_in_turn(&mut self, way: Way, shapes: &[Shape]) {
        let tuple = self.flows.arriving::<A>(0, way);
        self.way = way;
        self.turn = 0;
        self.templates = shapes.iter().map(|&shape| Template::new(shape, &tuple)).collect();
    }

    /// From now on there are first packets of flows from `first` on among the packets.
    pub fn bring_newcomers(&mut self, first: u32, pace: Pace, shape: Shape) {
        let template = Template::new(shape, &self.flows.arriving::<A>(0, Way::In));
        self.newcomers = Some(Newcomers { next: first, pace, template });
    }

    /// The newcomers, if there are any.
    pub fn newcomers(&mut self) -> &mut Option<Newcomers> {
        &mut self.newcomers
    }

    /// Gives every buffer of the pool the payload, which is never written again: packets differ in their headers only.
    fn paint(&self, shape: Shape) {
        let mut all: Vec<Mbuf> = std::iter::from_fn(|| self.pool.allocate()).collect();
        let frame = Shape { frame_len: crate::frame::MAX_FRAME, ..shape }.build(&self.flows.arriving::<A>(0, Way::In));
        for packet in &mut all {
            if packet.append(frame.len()) {
                packet.data_mut().copy_from_slice(&frame);
            }
        }
    }

    /// Fills the burst.
    #[inline(always)]
    fn fill(&mut self, burst: &mut Burst<Mbuf>) {
        if !self.pool.fill(burst) {
            return;
        }
        burst.truncate(self.pick.available(burst.len()));
        let mut packets = burst.iter_mut();
        if let Some(newcomers) = &mut self.newcomers {
            let first = newcomers.next;
            newcomers.next += newcomers.pace.next(packets.len()) as u32;
            for (n, packet) in (first..newcomers.next).zip(packets.by_ref()) {
                newcomers.template.make::<A>(packet, &self.flows.arriving(n, Way::In));
                if let Some(capture) = &mut self.capture {
                    capture.came.push((n, newcomers.template.frame_len));
                }
            }
        }
        for packet in packets {
            let n = self.pick.next(&mut self.random);
            let template = &self.templates[self.turn];
            template.make::<A>(packet, &self.flows.arriving(n, self.way));
            if let Some(capture) = &mut self.capture {
                capture.came.push((n, template.frame_len));
            }
            self.turn += 1;
            if self.turn == self.templates.len() {
                self.turn = 0;
            }
        }
    }
}

impl<A: Family> WorkerIo for Source<A> {
    type Packet = Mbuf;

    #[inline(always)]
    fn receive(&mut self, _port: PortId, burst: &mut Burst<Mbuf>) {
        self.fill(burst);
    }

    #[inline(always)]
    fn transmit(&mut self, _port: PortId, burst: &mut Burst<Mbuf>) {
        self.sent += burst.len() as u64;
        if let Some(capture) = &mut self.capture {
            for packet in burst.iter() {
                capture.add(packet.data());
            }
        }
        dpdk::mbuf::free_burst(burst);
    }

    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.allocate()
    }
}
