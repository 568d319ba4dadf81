//! Counters with one writer each: the worker adds with plain loads and stores, the control thread reads.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crossbeam::utils::CachePadded;

use crate::conn::Side;
use crate::verdict::DropReason;
use crate::{ServerId, ServiceId};

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: two writers would lose counts.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts `n`; the same rule holds.
    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets the value; the same rule holds.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Sets the value; the same rule holds. Who then reads it with [`get_acquire`](Self::get_acquire) sees all that
    /// the writer counted before.
    pub fn set_release(&self, value: u64) {
        self.0.store(value, Release);
    }

    /// The value that [`set_release`](Self::set_release) set.
    pub fn get_acquire(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// The value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts for one real server with every packet; half a cache line, as there may be many servers.
///
/// Inbound is client to server. Bytes are those of the IP packet as received, header included, as IPVS
/// counts them. A service's totals are the sums over its servers.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct ServerCounters {
    /// Packets from clients.
    pub in_packets: Counter,
    /// Bytes from clients.
    pub in_bytes: Counter,
    /// Packets from the server.
    pub out_packets: Counter,
    /// Bytes from the server.
    pub out_bytes: Counter,
}

impl ServerCounters {
    /// Counts an IP packet of `len` bytes that came from `side`.
    #[inline(always)]
    pub fn count(&self, side: Side, len: u16) {
        let (packets, bytes) = match side {
            Side::Inbound => (&self.in_packets, &self.in_bytes),
            Side::Outbound => (&self.out_packets, &self.out_bytes),
        };
        packets.add(1);
        bytes.add(len.into());
    }
}

/// One worker's connections to one real server.
///
/// Apart from [`ServerCounters`], which change with every packet: all workers read these when they choose a server.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct ServerLoad {
    /// Connections scheduled to the server since start.
    pub total: Counter,
    /// Connections now in an active state (see [`proto::state`]).
    pub active: Counter,
    /// Connections now in any other state.
    pub inactive: Counter,
    /// Persistence templates. Another worker may end what this one has made: only the sum over workers means something.
    pub persistent: Counter,
}

/// What became of one worker's connections to one real server, as far as the director sees it. A connection counts at most
/// once, by what is first heard of its server.
///
/// Apart from the others, as established packets have nothing to do with it.
#[derive(Debug, Default)]
pub struct ServerOutcomes {
    /// The server answered. In modes where its packets are not seen: the client went on as if it had (TCP).
    pub answered: Counter,
    /// It refused: a reset in answer to a SYN, ABORT in answer to INIT.
    pub refused: Counter,
    /// It did not answer until the client had asked three times.
    pub unanswered: Counter,
    /// It did not answer, and the client gave up earlier: counted when the connection's time is over.
    pub expired: Counter,
    /// An ICMP error said that it cannot be reached.
    pub unreachable: Counter,
}

/// What one worker counts for one service besides its servers' counters.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// New connections dropped because no server took them.
    pub no_server: Counter,
    /// New connections dropped because every local port was taken.
    pub local_port_exhausted: Counter,
    /// Packets that told the server the client's address.
    pub client_address_sent: Counter,
    /// Packets that should have told it and had no room.
    pub client_address_omitted: Counter,
}

/// Packets and bytes of one worker on one port, and what the poll loop did.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received, Ethernet header included.
    pub rx_bytes: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes sent, Ethernet header included.
    pub tx_bytes: Counter,
}

/// Everything one worker counts. Nothing in it is written by another thread.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Dropped packets, by [`DropReason`] as index.
    pub drops: CachePadded<[Counter; DropReason::COUNT]>,
    /// Per port, by [`PortId`](crate::PortId).
    pub ports: Box<[CachePadded<PortCounters>]>,
    /// Packets handed to the kernel.
    pub punted: Counter,
    /// Packets passed to another worker.
    pub steered: Counter,
    /// ICMP messages this worker originated (time exceeded, too big, unreachable).
    pub icmp_sent: Counter,
    /// Segments of this worker's own that it put into connections.
    pub inserted: Counter,
    /// Packets put together from fragments.
    pub reassembled: Counter,
    /// The fragments that they were put together from.
    pub fragments: Counter,
    /// Packets that left in fragments.
    pub fragmented: Counter,
    /// The fragments that were made.
    pub fragments_made: Counter,
    /// Fragments that wait for others at the moment.
    pub fragments_held: Counter,
    /// Turns of the poll loop.
    pub polls: Counter,
    /// Turns that found at least one packet.
    pub busy_polls: Counter,
    /// Packets that turns found: received, passed by other workers, sent by the kernel.
    pub packets: Counter,
    /// Bursts that they came in.
    pub bursts: Counter,
    /// Processor cycles of all turns, and of the rest between them.
    pub cycles: Counter,
    /// Processor cycles of the turns that found packets.
    pub busy_cycles: Counter,
    /// Connections that `drop_entry` ended.
    pub reaped: Counter,
    /// Events of connections that were not logged because there were too many in a second.
    pub log_suppressed: Counter,
    /// Events of connections that were not logged because the ring was full.
    pub log_overflowed: Counter,
    /// The [defences](crate::defence) that act at the moment, a bit each.
    pub defences: Counter,
    /// Entries now in the connection tables.
    pub table_entries: Counter,
    /// Of these, those of IPv6.
    pub table_entries_v6: Counter,
    /// Generation of the snapshot in use; tells the control thread that a change has arrived.
    pub snapshot_generation: Counter,
    servers: Box<[ServerCounters]>,
    loads: Box<[ServerLoad]>,
    outcomes: Box<[ServerOutcomes]>,
    services: Box<[ServiceCounters]>,
}

impl WorkerCounters {
    /// Counters for `ports` ports and for ids below `max_servers` and `max_services`.
    pub fn new(ports: usize, max_servers: usize, max_services: usize) -> Self {
        fn filled<T: Default>(n: usize) -> Box<[T]> {
            let mut counters = Vec::with_capacity(n);
            hw::populate(counters.spare_capacity_mut());
            counters.resize_with(n, T::default);
            counters.into_boxed_slice()
        }
        Self {
            drops: CachePadded::new(std::array::from_fn(|_| Counter::default())),
            ports: filled(ports),
            punted: Counter::default(),
            steered: Counter::default(),
            icmp_sent: Counter::default(),
            inserted: Counter::default(),
            reassembled: Counter::default(),
            fragments: Counter::default(),
            fragmented: Counter::default(),
            fragments_made: Counter::default(),
            fragments_held: Counter::default(),
            polls: Counter::default(),
            busy_polls: Counter::default(),
            packets: Counter::default(),
            bursts: Counter::default(),
            cycles: Counter::default(),
            busy_cycles: Counter::default(),
            reaped: Counter::default(),
            log_suppressed: Counter::default(),
            log_overflowed: Counter::default(),
            defences: Counter::default(),
            table_entries: Counter::default(),
            table_entries_v6: Counter::default(),
            snapshot_generation: Counter::default(),
            servers: filled(max_servers),
            loads: filled(max_servers),
            outcomes: filled(max_servers),
            services: filled(max_services),
        }
    }

    /// The counters of a server. Ids come from the control thread, which keeps them below the maximum.
    #[inline(always)]
    pub fn server(&self, id: ServerId) -> &ServerCounters {
        &self.servers[id.0 as usize]
    }

    /// The connections of a server.
    #[inline(always)]
    pub fn load(&self, id: ServerId) -> &ServerLoad {
        &self.loads[id.0 as usize]
    }

    /// What became of a server's connections.
    #[inline(always)]
    pub fn outcomes(&self, id: ServerId) -> &ServerOutcomes {
        &self.outcomes[id.0 as usize]
    }

    /// The counters of a service.
    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> &ServiceCounters {
        &self.services[id.0 as usize]
    }
}
