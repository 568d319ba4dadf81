//! Totals of services and servers, and what they are reckoned from.

use std::ops::{Add, AddAssign, Sub};
use std::sync::Arc;

use dataplane::counters::{Counter, ServerOutcomes, ServiceCounters};
use dataplane::shared::Shared;
use dataplane::{ServerId as ServerSlot, ServiceId as ServiceSlot};

use crate::registry::Change;

/// Counts that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const N: usize>(pub [u64; N]);

impl<const N: usize> Counts<N> {
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Counts(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Add for Counts<N> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }
}

impl<const N: usize> AddAssign for Counts<N> {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<const N: usize> Sub for Counts<N> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_sub)
    }
}

/// Connections, packets in and out, bytes in and out.
pub type FlowCounts = Counts<5>;

/// A server's counters as they stand, its slot's earlier uses included.
fn server_counters(shared: &Shared, server: ServerSlot) -> FlowCounts {
    shared.workers.iter().fold(FlowCounts::default(), |sum, worker| {
        let c = worker.counters.server(server);
        let connections = &worker.counters.load(server).total;
        sum + Counts([connections, &c.in_packets, &c.out_packets, &c.in_bytes, &c.out_bytes].map(Counter::get))
    })
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

/// What became of a server's connections: each counts at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The server answered.
    pub answered: u64,
    /// It refused.
    pub refused: u64,
    /// It did not answer until the client had asked three times.
    pub unanswered: u64,
    /// It did not answer until the client gave up.
    pub expired: u64,
    /// It could not be reached.
    pub unreachable: u64,
}

impl Outcomes {
    /// The counters as they stand, earlier uses of the slot included.
    pub fn of(shared: &Shared, slot: ServerSlot) -> Self {
        let sum = |counter: fn(&ServerOutcomes) -> &Counter| {
            shared.workers.iter().map(|worker| counter(worker.counters.outcomes(slot)).get()).sum()
        };
        Self {
            answered: sum(|c| &c.answered),
            refused: sum(|c| &c.refused),
            unanswered: sum(|c| &c.unanswered),
            expired: sum(|c| &c.expired),
            unreachable: sum(|c| &c.unreachable),
        }
    }
}

impl Sub for Outcomes {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            answered: self.answered.wrapping_sub(other.answered),
            refused: self.refused.wrapping_sub(other.refused),
            unanswered: self.unanswered.wrapping_sub(other.unanswered),
            expired: self.expired.wrapping_sub(other.expired),
            unreachable: self.unreachable.wrapping_sub(other.unreachable),
        }
    }
}

/// Baselines by slot. They change with the configuration only, so that whoever wants totals can hold a copy and read the
/// workers' counters himself.
#[derive(Clone, Debug, Default)]
pub struct Books {
    servers: Vec<Option<ServerBook>>,
    services: Vec<Option<Arc<ServiceBook>>>,
}

/// What is kept for a server's slot while it is in use.
#[derive(Clone, Copy, Debug)]
struct ServerBook {
    /// `None` once the service is gone.
    service: Option<ServiceSlot>,
    baseline: FlowCounts,
    outcomes: Outcomes,
}

/// What is kept for a service.
#[derive(Clone, Debug)]
struct ServiceBook {
    /// Counts of servers whose slots were freed.
    retired: FlowCounts,
    /// Servers, removed ones included as long as they hold their slots.
    members: Vec<ServerSlot>,
    baseline: ServiceCounts,
}

impl Books {
    /// A server's totals, if there is a server in the slot.
    pub fn server(&self, shared: &Shared, slot: ServerSlot) -> Option<FlowCounts> {
        let book = self.servers.get(slot.0 as usize)?.as_ref()?;
        Some(server_counters(shared, slot) - book.baseline)
    }

    /// What became of a server's connections, if there is a server in the slot.
    pub fn outcomes(&self, shared: &Shared, slot: ServerSlot) -> Option<Outcomes> {
        let book = self.servers.get(slot.0 as usize)?.as_ref()?;
        Some(Outcomes::of(shared, slot) - book.outcomes)
    }

    /// A service's totals, those of removed servers included.
    pub fn service(&self, shared: &Shared, slot: ServiceSlot) -> Option<FlowCounts> {
        let book = self.services.get(slot.0 as usize)?.as_ref()?;
        let members = book.members.iter().filter_map(|&member| self.server(shared, member));
        Some(members.fold(book.retired, FlowCounts::add))
    }

    /// What is counted of a service beside its servers' traffic.
    pub fn service_counts(&self, shared: &Shared, slot: ServiceSlot) -> ServiceCounts {
        let Some(Some(book)) = self.services.get(slot.0 as usize) else { return ServiceCounts::default() };
        ServiceCounts::of(shared, slot) - book.baseline
    }

    /// Takes note of a change.
    pub(super) fn follow(&mut self, shared: &Shared, change: Change) {
        match change {
            Change::ServiceAdded(slot) => {
                let baseline = ServiceCounts::of(shared, slot);
                let book = ServiceBook { retired: FlowCounts::default(), members: Vec::new(), baseline };
                put(&mut self.services, slot.0, Some(Arc::new(book)));
            }
            Change::ServiceRemoved(slot) => self.remove_service(slot),
            Change::ServerAdded(slot, service) | Change::ServerRevived(slot, Some(service)) => {
                let (baseline, outcomes) = (server_counters(shared, slot), Outcomes::of(shared, slot));
                let book = ServerBook { service: Some(service), baseline, outcomes };
                put(&mut self.servers, slot.0, Some(book));
                if let Some(service) = self.service_mut(service) {
                    service.members.push(slot);
                }
            }
            Change::ServerRevived(_, None) => {}
            Change::ServerFreed(slot) => self.free_server(shared, slot),
            Change::Zeroed(slot) => self.zero(shared, slot),
        }
    }

    /// The slots of a service's servers, removed ones included as long as they hold them.
    pub fn members(&self, slot: ServiceSlot) -> &[ServerSlot] {
        self.services.get(slot.0 as usize).and_then(Option::as_ref).map_or(&[], |book| &book.members)
    }

    fn service_mut(&mut self, slot: ServiceSlot) -> Option<&mut ServiceBook> {
        self.services.get_mut(slot.0 as usize)?.as_mut().map(Arc::make_mut)
    }

    fn remove_service(&mut self, slot: ServiceSlot) {
        let Some(book) = self.services.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        for member in &book.members {
            if let Some(Some(server)) = self.servers.get_mut(member.0 as usize) {
                server.service = None;
            }
        }
    }

    fn free_server(&mut self, shared: &Shared, slot: ServerSlot) {
        let Some(book) = self.servers.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        if let Some(service) = book.service.and_then(|service| self.service_mut(service)) {
            service.members.retain(|&member| member != slot);
            service.retired += server_counters(shared, slot) - book.baseline;
        }
    }

    fn zero(&mut self, shared: &Shared, slot: ServiceSlot) {
        let Some(service) = self.service_mut(slot) else { return };
        service.retired = FlowCounts::default();
        service.baseline = ServiceCounts::of(shared, slot);
        for member in service.members.clone() {
            if let Some(Some(server)) = self.servers.get_mut(member.0 as usize) {
                server.baseline = server_counters(shared, member);
                server.outcomes = Outcomes::of(shared, member);
            }
        }
    }
}

pub(super) fn put<T: Default>(records: &mut Vec<T>, slot: u32, record: T) {
    let index = slot as usize;
    if records.len() <= index {
        records.resize_with(index + 1, T::default);
    }
    records[index] = record;
}
