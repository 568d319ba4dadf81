//! A worker: one thread, one poll loop.
//!
//! ```text
//! loop {
//!     snapshot in force → defences → waiting packets → receive and process every port's burst → packets steered here
//!     → frames from the kernel → expiry of connections and fragments, bounded → commands of the control thread → flush
//! }
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};

use crate::clock::Clock;
use crate::conn::{ConnRecord, Tick};
use crate::conn_log::{ConnLog, ConnLogConfig, EndReason};
use crate::lifecycle::count_ended;
use crate::outcome::count_expired;
use crate::packet::{BURST, Burst, PacketBuf, WorkerIo};
use crate::pipeline::{Origin, Pipeline};
use crate::reassembly::Carrier;
use crate::shared::{Command, Reply, Shared};
use crate::snapshot::Snapshot;
use crate::steer::{self, Links, Ownership, Rss, Steered};
use crate::verdict::DropReason;
use crate::{PortId, WorkerId};

/// Places in the ring from one worker to another.
const STEER_RING: usize = 1024;
/// Connections looked at for expiry per turn and family. Each is looked at about twice before it ends, and a turn can
/// begin a burst of them per port.
const EXPIRE_BUDGET: usize = 256;
/// Bit of a dump's cursor that says "IPv6".
const V6_CURSOR: u64 = 1 << 63;
/// Entries that a listing visits in a turn with packets. A full turn takes some microseconds; this takes 1 % of it.
const BUSY_DUMP_SLOTS: usize = 2;
/// Entries that a listing visits in a turn without packets.
const IDLE_DUMP_SLOTS: usize = 64;
/// Entries visited for one request, by record that it has room for; so that the answer comes though most are free.
const DUMP_SLOTS_PER_RECORD: usize = 16;

/// What a worker does when it finds no packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Looks again at once: lowest latency, the core is always busy.
    #[default]
    Poll,
    /// Gives the core to others, and sleeps shortly when nothing has come for a while: for shared cores.
    Yield,
}

/// What all workers are built with.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Connections per family in each worker's tables.
    pub connections: usize,
    /// Random key of the connection hash; a client who knows it can choose collisions.
    pub seed: [u64; 2],
    /// What to do without packets.
    pub idle: Idle,
    /// The ports' RSS, or [`Rss::software`].
    pub rss: Rss,
}

/// A worker with its queues and tables, ready to run on its own thread.
pub struct Worker<Io: WorkerIo> {
    pipeline: Pipeline<Io>,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    generation: u64,
    clock: Clock,
    /// The cycle counter when the turn before began, and whether that found packets.
    lap: (u64, bool),
    idle: Idle,
    idle_turns: u32,
    burst: Burst<Io::Packet>,
    listing: Option<Listing>,
}

/// A request for connections that is being answered, some in each turn.
struct Listing {
    cursor: u64,
    records: Vec<ConnRecord>,
    /// Entries that may yet be visited for this request.
    slots: usize,
}

/// What a turn found.
#[derive(Default)]
struct Found {
    packets: usize,
    bursts: u64,
}

impl Found {
    fn burst(&mut self, packets: usize) {
        self.packets += packets;
        self.bursts += u64::from(packets > 0);
    }
}

/// Builds the workers, one for each element of `io`, and connects them. Allocates all that they will ever need.
pub fn build<Io: WorkerIo>(io: Vec<Io>, shared: &Arc<Shared>, config: &WorkerConfig) -> Vec<Worker<Io>> {
    let ownership = Ownership::new(&config.rss);
    let links = steer::mesh(io.len(), STEER_RING);
    // What workers share has one time.
    let start = Instant::now();
    let parts = io.into_iter().zip(links).enumerate();
    parts
        .map(|(id, (io, links))| Worker::new(WorkerId(id as u16), io, links, &ownership, shared, config, start))
        .collect()
}

impl<Io: WorkerIo> Worker<Io> {
    fn new(
        id: WorkerId,
        io: Io,
        links: Links<Io::Packet>,
        ownership: &Ownership,
        shared: &Arc<Shared>,
        config: &WorkerConfig,
        start: Instant,
    ) -> Self {
        let seed = [config.seed[0] ^ u64::from(id.0), config.seed[1]];
        let shared = Arc::clone(shared);
        let clock = Clock::since(start);
        Self {
            snapshot: Cache::new(Arc::clone(&shared.snapshot)),
            generation: 0,
            pipeline: Pipeline::new(id, shared, io, links, ownership.clone(), config.connections, seed),
            lap: (clock.cycles(), false),
            clock,
            idle: config.idle,
            idle_turns: 0,
            burst: Burst::new(),
            listing: None,
        }
    }

    /// The worker's queues.
    pub fn io(&self) -> &Io {
        &self.pipeline.io
    }

    /// The worker's queues, to be changed between turns.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.pipeline.io
    }

    /// From now on, connections are logged. To be called before the first turn.
    pub fn log_connections(&mut self, config: ConnLogConfig) {
        let connections = self.pipeline.tables.v4.capacity();
        self.pipeline.log = Some(Box::new(ConnLog::new(config, connections)));
    }

    /// How many packets wait for a neighbour.
    pub fn waiting(&self) -> usize {
        self.pipeline.waiting()
    }

    /// How many fragments wait for others.
    pub fn held_fragments(&self) -> usize {
        self.pipeline.held_fragments()
    }

    /// Memory of the connection tables in bytes.
    pub fn table_bytes(&self) -> usize {
        self.pipeline.tables.v4.memory_bytes() + self.pipeline.tables.v6.memory_bytes()
    }

    /// Polls until the control thread says stop; sends what is queued before it returns.
    pub fn run(mut self) {
        while !self.pipeline.shared.is_stopping() {
            let packets = self.turn();
            if packets > 0 {
                self.idle_turns = 0;
            } else if self.idle == Idle::Yield {
                self.rest();
            }
        }
        self.turn();
    }

    /// One turn of the loop; returns how many packets it found.
    pub fn turn(&mut self) -> usize {
        let now = self.clock.now();
        self.count_cycles();
        let packets = self.turn_at(now);
        self.lap.1 = packets > 0;
        packets
    }

    /// Counts the cycles from the beginning of the turn before to that of this one.
    fn count_cycles(&mut self) {
        let (before, was_busy) = self.lap;
        self.lap.0 = self.clock.cycles();
        let spent = self.lap.0.wrapping_sub(before);
        let counters = self.pipeline.counters();
        counters.cycles.add(spent);
        if was_busy {
            counters.busy_cycles.add(spent);
        }
    }

    /// A turn at a time that the caller says; it never goes back, and begins at tick 1.
    pub fn turn_at(&mut self, now: Tick) -> usize {
        let snapshot = self.snapshot.load();
        let pipeline = &mut self.pipeline;
        pipeline.now = now;
        let has_changed = snapshot.generation != self.generation;
        if has_changed {
            self.generation = snapshot.generation;
            pipeline.counters().snapshot_generation.set_release(snapshot.generation);
        }

        pipeline.tend(snapshot, has_changed);
        // Before what is received now: packets of one connection keep their order when its next hop becomes known.
        pipeline.retry_waiting(&snapshot.fib);
        let mut found = Found::default();
        for port in 0..pipeline.shared.limits.ports {
            found.burst(receive(pipeline, snapshot, PortId(port as u16), &mut self.burst));
        }
        take_steered(pipeline, snapshot, &mut self.burst, &mut found);
        if pipeline.id == WorkerId(0) {
            found.burst(inject(pipeline));
        }
        expire(pipeline);
        pipeline.expire_fragments(snapshot);
        obey(pipeline, &mut self.listing, found.packets);
        pipeline.flush();

        let counters = pipeline.counters();
        counters.polls.add(1);
        if found.packets > 0 {
            counters.busy_polls.add(1);
            counters.packets.add(found.packets as u64);
            counters.bursts.add(found.bursts);
        }
        found.packets
    }

    /// Nothing to do: lets others have the core.
    fn rest(&mut self) {
        self.idle_turns = self.idle_turns.saturating_add(1);
        match self.idle_turns {
            0..64 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

fn receive<Io: WorkerIo>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    port: PortId,
    burst: &mut Burst<Io::Packet>,
) -> usize {
    pipeline.io.receive(port, burst);
    let packets = burst.len();
    if packets > 0 {
        let counters = &pipeline.counters().ports[usize::from(port.0)];
        counters.rx_packets.add(packets as u64);
        counters.rx_bytes.add(burst.iter().map(|p| p.data().len() as u64).sum());
        pipeline.process(snapshot, port, 0, burst);
    }
    packets
}

/// Processes packets that other workers passed here. Those of one port and history go together.
fn take_steered<Io: WorkerIo>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    burst: &mut Burst<Io::Packet>,
    found: &mut Found,
) {
    for from in 0..pipeline.links.incoming.len() {
        let mut origin = None;
        let mut packets = 0;
        for _ in 0..BURST {
            let Ok(Steered { packet, ingress, tried }) = pipeline.links.incoming[from].pop() else { break };
            packets += 1;
            if let Some((ingress_before, tried_before)) = origin
                && (ingress, tried) != (ingress_before, tried_before)
            {
                pipeline.process(snapshot, ingress_before, tried_before, burst);
            }
            origin = Some((ingress, tried));
            match packet {
                Carrier::Frame(packet) => burst.push(packet),
                Carrier::Whole(whole) => pipeline.process_whole(snapshot, Origin { ingress, tried }, whole),
            }
        }
        if let Some((ingress, tried)) = origin {
            pipeline.process(snapshot, ingress, tried, burst);
        }
        found.burst(packets);
    }
}

/// Sends frames of the kernel.
fn inject<Io: WorkerIo>(pipeline: &mut Pipeline<Io>) -> usize {
    let mut frames = 0;
    while frames < BURST {
        let Some(frame) = pipeline.shared.inject.receive() else { break };
        frames += 1;
        match pipeline.copy_of(frame.data()) {
            Some(packet) => pipeline.transmit(frame.port, packet),
            None => pipeline.count_drop(DropReason::NoBuffer),
        }
        pipeline.shared.inject.recycle(frame);
    }
    frames
}

/// Ends connections whose time is up, a bounded number per turn.
fn expire<Io: WorkerIo>(pipeline: &mut Pipeline<Io>) {
    let now = pipeline.now;
    let (id, shared) = (pipeline.id, &*pipeline.shared);
    let counters = &shared.worker(id).counters;
    let Pipeline { tables, log, scheduling, .. } = pipeline;
    tables.v4.expire(now, EXPIRE_BUDGET, |conn_id, conn, template| {
        count_ended(shared, id, conn, template);
        count_expired(counters, conn);
        if let Some(log) = log {
            log.end::<Ipv4Addr>(conn_id, EndReason::Timeout, now, counters, || scheduling.record(conn, now));
        }
    });
    tables.v6.expire(now, EXPIRE_BUDGET, |conn_id, conn, template| {
        count_ended(shared, id, conn, template);
        count_expired(counters, conn);
        if let Some(log) = log {
            log.end::<Ipv6Addr>(conn_id, EndReason::Timeout, now, counters, || scheduling.record(conn, now));
        }
    });
    shared.templates.sweep(&mut pipeline.sweep, (id.0.into(), shared.limits.workers), now, |server| {
        counters.load(server).persistent.sub(1);
    });
    pipeline.release_announced();
    let counters = pipeline.counters();
    let (v4, v6) = (pipeline.tables.v4.len() as u64, pipeline.tables.v6.len() as u64);
    counters.table_entries.set(v4 + v6);
    counters.table_entries_v6.set(v6);
    counters.fragments_held.set(pipeline.held_fragments() as u64);
}

/// Answers the control thread's requests, little by little: packets do not wait for a listing.
fn obey<Io: WorkerIo>(pipeline: &Pipeline<Io>, listing: &mut Option<Listing>, packets: usize) {
    let me = &pipeline.shared.workers[usize::from(pipeline.id.0)];
    let Some(current) = listing else {
        if !me.commands.is_empty() && !me.replies.is_full() {
            let command = me.commands.pop();
            *listing = command.map(|Command::Dump { cursor, records }| {
                let slots = (records.capacity() - records.len()).saturating_mul(DUMP_SLOTS_PER_RECORD);
                Listing { cursor, records, slots }
            });
        }
        return;
    };
    let slots = current.slots.min(if packets > 0 { BUSY_DUMP_SLOTS } else { IDLE_DUMP_SLOTS });
    current.slots -= slots;
    let next = dump(pipeline, current.cursor, &mut current.records, slots);
    current.cursor = next.unwrap_or(current.cursor);
    let is_full = current.records.len() == current.records.capacity() || current.slots == 0;
    if (is_full || next.is_none())
        && let Some(Listing { records, .. }) = listing.take()
    {
        // Room was made sure of, and nobody else answers.
        let _ = me.replies.push(Reply::Dump { next, records });
    }
}

/// A slice of the tables, IPv4 first.
fn dump<Io: WorkerIo>(
    pipeline: &Pipeline<Io>,
    cursor: u64,
    records: &mut Vec<ConnRecord>,
    slots: usize,
) -> Option<u64> {
    let (tables, now) = (&pipeline.tables, pipeline.now);
    let first = records.len();
    let next = match cursor & V6_CURSOR {
        0 => Some(tables.v4.dump(cursor, records, slots, now).unwrap_or(V6_CURSOR)),
        _ => tables.v6.dump(cursor & !V6_CURSOR, records, slots, now).map(|next| next | V6_CURSOR),
    };
    for record in &mut records[first..] {
        let (addr, _) = &mut record.server;
        if addr.is_unspecified() {
            // Of the other family: the connection has no room for it.
            *addr = pipeline.scheduling.address_of(record.server_id);
        }
    }
    next
}
