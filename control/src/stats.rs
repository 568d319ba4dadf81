//! Totals and rates of services and servers, and the other counters as the API shows them.
//!
//! Workers' counters only ever grow. A total is their sum less a baseline, which is taken when a server gets its slot
//! and again when statistics are set to zero, so that a slot's earlier use never shows. What a removed server counted
//! stays in its service's totals.
//!
//! Rates follow the estimator of IPVS (net/netfilter/ipvs/ip_vs_est.c): sampled every 2 s, each sample moves the rate by
//! a quarter of the difference, so that it tells about the last 8 s or so.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::counters::{Counter, ServiceCounters};
use dataplane::shared::Shared;
use dataplane::verdict::DropReason;
use dataplane::{PortId, ServerId as ServerSlot, ServiceId as ServiceSlot};
use dpvs_api::{DropCount, FlowStats, WorkerStats};

use crate::registry::Change;

/// How often [`Stats::sample`] wants to be called.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Share of a new sample in a rate.
const SAMPLE_WEIGHT: f64 = 0.25;

/// Connections, packets in and out, bytes in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts([u64; 5]);

impl Counts {
    fn of_server(shared: &Shared, server: ServerSlot) -> Self {
        shared.workers.iter().fold(Self::default(), |sum, worker| {
            let c = worker.counters.server(server);
            let connections = &worker.counters.load(server).total;
            sum + Counts(
                [connections, &c.in_packets, &c.out_packets, &c.in_bytes, &c.out_bytes].map(|counter| counter.get()),
            )
        })
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Counts(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_sub)
    }
}

/// The five rates, per second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    last: Counts,
    values: [f64; 5],
}

impl Rates {
    fn sample(&mut self, total: Counts, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let grown = total - self.last;
        for (value, grown) in self.values.iter_mut().zip(grown.0) {
            *value += (grown as f64 / seconds - *value) * SAMPLE_WEIGHT;
        }
        self.last = total;
    }
}

fn flow_stats(total: Counts, rates: &Rates) -> FlowStats {
    let [connections, in_packets, out_packets, in_bytes, out_bytes] = total.0;
    let [cps, in_pps, out_pps, in_bps, out_bps] = rates.values.map(|rate| rate.round() as u64);
    FlowStats { connections, in_packets, out_packets, in_bytes, out_bytes, cps, in_pps, out_pps, in_bps, out_bps }
}

/// What is kept for a server's slot while it is in use.
#[derive(Debug)]
struct ServerRecord {
    /// `None` once the service is gone.
    service: Option<ServiceSlot>,
    baseline: Counts,
    rates: Rates,
}

/// What is kept for a service.
#[derive(Debug)]
struct ServiceRecord {
    /// Counts of servers whose slots were freed.
    retired: Counts,
    /// Servers, removed ones included as long as they hold their slots.
    members: Vec<ServerSlot>,
    baseline: ServiceCounts,
    rates: Rates,
}

/// Totals and rates by slot. It follows the registry through its [`Change`]s.
#[derive(Debug)]
pub struct Stats {
    shared: Arc<Shared>,
    servers: Vec<Option<ServerRecord>>,
    services: Vec<Option<ServiceRecord>>,
    sampled: Instant,
}

impl Stats {
    /// Statistics of nothing yet; the first sample is measured from `now`.
    pub fn new(shared: Arc<Shared>, now: Instant) -> Self {
        Self { shared, servers: Vec::new(), services: Vec::new(), sampled: now }
    }

    /// Takes note of what the registry did, in order.
    pub fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::ServiceAdded(slot) => self.add_service(slot),
                Change::ServiceRemoved(slot) => self.remove_service(slot),
                Change::ServerAdded(slot, service) | Change::ServerRevived(slot, Some(service)) => {
                    self.add_server(slot, service);
                }
                Change::ServerRevived(_, None) => {}
                Change::ServerFreed(slot) => self.free_server(slot),
                Change::Zeroed(slot) => self.zero(slot),
            }
        }
    }

    /// Updates the rates; to be called every [`SAMPLE_INTERVAL`] or so.
    pub fn sample(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.sampled);
        if elapsed.is_zero() {
            return;
        }
        self.sampled = now;
        for slot in (0..self.services.len() as u32).map(ServiceSlot) {
            let Some(total) = self.service_total(slot) else { continue };
            if let Some(record) = &mut self.services[slot.0 as usize] {
                record.rates.sample(total, elapsed);
            }
        }
        for (index, record) in self.servers.iter_mut().enumerate() {
            if let Some(record) = record {
                let total = Counts::of_server(&self.shared, ServerSlot(index as u32)) - record.baseline;
                record.rates.sample(total, elapsed);
            }
        }
    }

    /// A server's totals and rates.
    pub fn server(&self, slot: ServerSlot) -> FlowStats {
        match self.servers.get(slot.0 as usize) {
            Some(Some(record)) => flow_stats(Counts::of_server(&self.shared, slot) - record.baseline, &record.rates),
            _ => FlowStats::default(),
        }
    }

    /// A service's totals and rates, those of removed servers included.
    pub fn service(&self, slot: ServiceSlot) -> FlowStats {
        match (self.service_total(slot), self.services.get(slot.0 as usize)) {
            (Some(total), Some(Some(record))) => flow_stats(total, &record.rates),
            _ => FlowStats::default(),
        }
    }

    /// What is counted of a service beside its servers' traffic.
    pub fn service_counts(&self, slot: ServiceSlot) -> ServiceCounts {
        let Some(Some(record)) = self.services.get(slot.0 as usize) else { return ServiceCounts::default() };
        ServiceCounts::of(&self.shared, slot) - record.baseline
    }

    fn service_total(&self, slot: ServiceSlot) -> Option<Counts> {
        let record = self.services.get(slot.0 as usize)?.as_ref()?;
        let members = record.members.iter().filter_map(|&member| {
            let baseline = self.servers.get(member.0 as usize)?.as_ref()?.baseline;
            Some(Counts::of_server(&self.shared, member) - baseline)
        });
        Some(members.fold(record.retired, Counts::add))
    }

    fn add_service(&mut self, slot: ServiceSlot) {
        let record = ServiceRecord {
            retired: Counts::default(),
            members: Vec::new(),
            baseline: ServiceCounts::of(&self.shared, slot),
            rates: Rates::default(),
        };
        put(&mut self.services, slot.0, Some(record));
    }

    fn remove_service(&mut self, slot: ServiceSlot) {
        let Some(record) = self.services.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        for member in record.members {
            if let Some(Some(server)) = self.servers.get_mut(member.0 as usize) {
                server.service = None;
            }
        }
    }

    fn add_server(&mut self, slot: ServerSlot, service: ServiceSlot) {
        let baseline = Counts::of_server(&self.shared, slot);
        let record = ServerRecord { service: Some(service), baseline, rates: Rates::default() };
        put(&mut self.servers, slot.0, Some(record));
        if let Some(Some(service)) = self.services.get_mut(service.0 as usize) {
            service.members.push(slot);
        }
    }

    fn free_server(&mut self, slot: ServerSlot) {
        let Some(record) = self.servers.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        let Some(service) = record.service else { return };
        if let Some(Some(service)) = self.services.get_mut(service.0 as usize) {
            service.members.retain(|&member| member != slot);
            service.retired += Counts::of_server(&self.shared, slot) - record.baseline;
        }
    }

    fn zero(&mut self, slot: ServiceSlot) {
        let Some(Some(service)) = self.services.get_mut(slot.0 as usize) else { return };
        service.retired = Counts::default();
        service.rates = Rates::default();
        service.baseline = ServiceCounts::of(&self.shared, slot);
        for &member in &service.members {
            if let Some(Some(server)) = self.servers.get_mut(member.0 as usize) {
                server.baseline = Counts::of_server(&self.shared, member);
                server.rates = Rates::default();
            }
        }
    }
}

fn put<T>(records: &mut Vec<Option<T>>, slot: u32, record: Option<T>) {
    let index = slot as usize;
    if records.len() <= index {
        records.resize_with(index + 1, || None);
    }
    records[index] = record;
}

/// What workers count for a service beside its servers' traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// New connections dropped because no server took them.
    pub no_server: u64,
    /// New connections dropped because every local port was taken.
    pub local_port_exhausted: u64,
    /// Packets that told the server the client's address.
    pub client_address_sent: u64,
    /// Packets that should have told it and had no room.
    pub client_address_omitted: u64,
}

impl ServiceCounts {
    fn of(shared: &Shared, slot: ServiceSlot) -> Self {
        let sum = |counter: fn(&ServiceCounters) -> &Counter| {
            shared.workers.iter().map(|worker| counter(worker.counters.service(slot)).get()).sum()
        };
        Self {
            no_server: sum(|c| &c.no_server),
            local_port_exhausted: sum(|c| &c.local_port_exhausted),
            client_address_sent: sum(|c| &c.client_address_sent),
            client_address_omitted: sum(|c| &c.client_address_omitted),
        }
    }
}

impl Sub for ServiceCounts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            no_server: self.no_server.wrapping_sub(other.no_server),
            local_port_exhausted: self.local_port_exhausted.wrapping_sub(other.local_port_exhausted),
            client_address_sent: self.client_address_sent.wrapping_sub(other.client_address_sent),
            client_address_omitted: self.client_address_omitted.wrapping_sub(other.client_address_omitted),
        }
    }
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

/// What each worker did. `cores` are those they are pinned to; `capacity` is the size of each worker's tables.
pub fn workers(shared: &Shared, cores: &[usize], capacity: u64) -> Vec<WorkerStats> {
    let stats = |(index, worker): (usize, &_)| {
        let worker: &dataplane::shared::WorkerShared = worker;
        let c = &worker.counters;
        let drops: BTreeMap<String, u64> = DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), c.drops[reason as usize].get()))
            .filter(|(_, packets)| *packets > 0)
            .collect();
        WorkerStats {
            worker: index,
            core: cores.get(index).copied().unwrap_or_default(),
            polls: c.polls.get(),
            busy_polls: c.busy_polls.get(),
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
    shared.workers.iter().map(|padded| &**padded).enumerate().map(stats).collect()
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
