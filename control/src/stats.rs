//! Totals and rates of services and servers, and the other counters as the API shows them.
//!
//! Workers' counters only ever grow. A total is their sum less a baseline, which is taken when a server gets its slot
//! and again when statistics are set to zero, so that a slot's earlier use never shows. What a removed server counted
//! stays in its service's totals.
//!
//! Rates follow the estimator of IPVS (net/netfilter/ipvs/ip_vs_est.c): sampled every 2 s, each sample moves the rate by
//! a quarter of the difference, so that it tells about the last 8 s or so.

mod books;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::shared::{Shared, WorkerShared};
use dataplane::verdict::DropReason;
use dataplane::{PortId, ServerId as ServerSlot, ServiceId as ServiceSlot};
use dpvs_api::{DropCount, FlowStats, WorkerStats};

pub use self::books::{Books, Counts, FlowCounts, Outcomes, ServiceCounts};
use crate::registry::Change;

/// How often [`Stats::sample`] wants to be called.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Share of a new sample in a rate.
const SAMPLE_WEIGHT: f64 = 0.25;

/// Rates per second.
#[derive(Clone, Copy, Debug)]
struct Rates<const N: usize> {
    last: Counts<N>,
    values: [f64; N],
}

impl<const N: usize> Default for Rates<N> {
    fn default() -> Self {
        Self { last: Counts::default(), values: [0.0; N] }
    }
}

impl<const N: usize> Rates<N> {
    fn sample(&mut self, total: Counts<N>, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let grown = total - self.last;
        for (value, grown) in self.values.iter_mut().zip(grown.0) {
            *value += (grown as f64 / seconds - *value) * SAMPLE_WEIGHT;
        }
        self.last = total;
    }
}

fn flow_stats(total: FlowCounts, rates: &Rates<5>) -> FlowStats {
    let [connections, in_packets, out_packets, in_bytes, out_bytes] = total.0;
    let [cps, in_pps, out_pps, in_bps, out_bps] = rates.values.map(|rate| rate.round() as u64);
    FlowStats { connections, in_packets, out_packets, in_bytes, out_bytes, cps, in_pps, out_pps, in_bps, out_bps }
}

/// Totals and rates by slot. It follows the registry through its [`Change`]s.
#[derive(Debug)]
pub struct Stats {
    shared: Arc<Shared>,
    books: Arc<Books>,
    servers: Vec<Rates<5>>,
    services: Vec<Rates<5>>,
    workers: Vec<Rates<4>>,
    sampled: Instant,
}

impl Stats {
    /// Statistics of nothing yet; the first sample is measured from `now`.
    pub fn new(shared: Arc<Shared>, now: Instant) -> Self {
        let workers = vec![Rates::default(); shared.workers.len()];
        Self { shared, books: Arc::default(), servers: Vec::new(), services: Vec::new(), workers, sampled: now }
    }

    /// Takes note of what the registry did, in order.
    pub fn follow(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        // Copied if somebody still reckons by what there was.
        let books = Arc::make_mut(&mut self.books);
        for &change in changes {
            books.follow(&self.shared, change);
            match change {
                Change::ServiceAdded(slot) => books::put(&mut self.services, slot.0, Rates::default()),
                Change::ServerAdded(slot, _) | Change::ServerRevived(slot, Some(_)) => {
                    books::put(&mut self.servers, slot.0, Rates::default());
                }
                Change::Zeroed(slot) => {
                    books::put(&mut self.services, slot.0, Rates::default());
                    for member in books.members(slot) {
                        books::put(&mut self.servers, member.0, Rates::default());
                    }
                }
                Change::ServiceRemoved(_) | Change::ServerRevived(_, None) | Change::ServerFreed(_) => {}
            }
        }
    }

    /// What totals are reckoned from, as it is now.
    pub fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books)
    }

    /// Updates the rates; to be called every [`SAMPLE_INTERVAL`] or so.
    pub fn sample(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.sampled);
        if elapsed.is_zero() {
            return;
        }
        self.sampled = now;
        for (slot, rates) in (0..).map(ServiceSlot).zip(&mut self.services) {
            if let Some(total) = self.books.service(&self.shared, slot) {
                rates.sample(total, elapsed);
            }
        }
        for (slot, rates) in (0..).map(ServerSlot).zip(&mut self.servers) {
            if let Some(total) = self.books.server(&self.shared, slot) {
                rates.sample(total, elapsed);
            }
        }
        for (worker, rates) in self.shared.workers.iter().zip(&mut self.workers) {
            let c = &worker.counters;
            let total = [&c.packets, &c.bursts, &c.cycles, &c.busy_cycles].map(|counter| counter.get());
            rates.sample(Counts(total), elapsed);
        }
    }

    /// A server's totals and rates.
    pub fn server(&self, slot: ServerSlot) -> FlowStats {
        match (self.books.server(&self.shared, slot), self.servers.get(slot.0 as usize)) {
            (Some(total), Some(rates)) => flow_stats(total, rates),
            _ => FlowStats::default(),
        }
    }

    /// A service's totals and rates, those of removed servers included.
    pub fn service(&self, slot: ServiceSlot) -> FlowStats {
        match (self.books.service(&self.shared, slot), self.services.get(slot.0 as usize)) {
            (Some(total), Some(rates)) => flow_stats(total, rates),
            _ => FlowStats::default(),
        }
    }

    /// What is counted of a service beside its servers' traffic.
    pub fn service_counts(&self, slot: ServiceSlot) -> ServiceCounts {
        self.books.service_counts(&self.shared, slot)
    }

    /// What each worker did. `cores` are those they are pinned to; `capacity` is the size of each worker's tables.
    pub fn workers(&self, cores: &[usize], capacity: u64) -> Vec<WorkerStats> {
        let generation = self.shared.snapshot.load().generation;
        let stats = |((index, worker), rates): ((usize, &_), &Rates<4>)| {
            let worker: &WorkerShared = worker;
            let c = &worker.counters;
            let drops: BTreeMap<String, u64> = DropReason::ALL
                .iter()
                .map(|&reason| (reason.name().to_owned(), c.drops[reason as usize].get()))
                .filter(|(_, packets)| *packets > 0)
                .collect();
            let [packets, bursts, cycles, busy_cycles] = rates.values;
            WorkerStats {
                worker: index,
                core: cores.get(index).copied().unwrap_or_default(),
                polls: c.polls.get(),
                busy_polls: c.busy_polls.get(),
                packets: c.packets.get(),
                bursts: c.bursts.get(),
                pps: packets.round() as u64,
                busy_ratio: ratio(busy_cycles, cycles),
                cycles_per_packet: ratio(busy_cycles, packets),
                packets_per_burst: ratio(packets, bursts),
                snapshots_behind: generation.saturating_sub(c.snapshot_generation.get()),
                connections: c.table_entries.get(),
                capacity,
                steered: c.steered.get(),
                punted: c.punted.get(),
                icmp_sent: c.icmp_sent.get(),
                reaped: c.reaped.get(),
                reassembled: c.reassembled.get(),
                drops,
            }
        };
        let workers = self.shared.workers.iter().map(|padded| &**padded).enumerate();
        workers.zip(&self.workers).map(stats).collect()
    }
}

/// The quotient of two rates; 0 where there is nothing to divide by.
fn ratio(of: f64, to: f64) -> f64 {
    // A rate that only decays is never quite zero: below one in a hundred seconds it is.
    if to < 0.01 { 0.0 } else { of / to }
}

/// Active and inactive connections of a server now.
pub fn connections(shared: &Shared, server: ServerSlot) -> (u64, u64) {
    // A worker's counts can be seen in the middle of a change from active to inactive: the sum is off by one then.
    shared.workers.iter().fold((0, 0), |(active, inactive), worker| {
        let load = worker.counters.load(server);
        (active + load.active.get(), inactive + load.inactive.get())
    })
}

/// Persistence templates of a server now.
pub fn persistent(shared: &Shared, server: ServerSlot) -> u64 {
    let templates = shared.workers.iter().map(|worker| worker.counters.load(server).persistent.get());
    // Between two changes of different workers the sum may be below 0.
    let sum = templates.fold(0, u64::wrapping_add).cast_signed();
    sum.max(0).cast_unsigned()
}

/// Connections in all tables.
pub fn table_entries(shared: &Shared) -> u64 {
    shared.workers.iter().map(|worker| worker.counters.table_entries.get()).sum()
}

/// All drop reasons, summed over workers.
pub fn drops(shared: &Shared) -> Vec<DropCount> {
    let count = |&reason: &DropReason| DropCount {
        reason: reason.name().to_owned(),
        description: reason.description().to_owned(),
        packets: shared.workers.iter().map(|worker| worker.counters.drops[reason as usize].get()).sum(),
    };
    DropReason::ALL.iter().map(count).collect()
}

/// Traffic of a port as the workers counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTraffic {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Sums a port's counters over the workers.
pub fn port_traffic(shared: &Shared, port: PortId) -> PortTraffic {
    shared.workers.iter().fold(PortTraffic::default(), |sum, worker| {
        let c = &worker.counters.ports[usize::from(port.0)];
        PortTraffic {
            rx_packets: sum.rx_packets + c.rx_packets.get(),
            rx_bytes: sum.rx_bytes + c.rx_bytes.get(),
            tx_packets: sum.tx_packets + c.tx_packets.get(),
            tx_bytes: sum.tx_bytes + c.tx_bytes.get(),
        }
    })
}

#[cfg(test)]
mod tests;
