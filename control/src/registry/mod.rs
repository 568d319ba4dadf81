//! The model of virtual services and real servers, and the tables that workers get from it.
//!
//! Operations have the meaning that IPVS gives them. A batch is drafted first, which changes nothing and finds all that
//! is wrong with it, and then committed.
//!
//! List order: IPVS puts a new server at the *head* of its service's list (`ipvsadm -Ln --nosort` on Linux 6.1 lists the
//! server added last first), so round robin begins with the newest one, and a server that is removed and added again
//! moves to the head. Here servers are kept in the order they were added and the packet path gets them reversed.
//!
//! Slots: each server has an index in the workers' counters. A removed server keeps its slot while connections of its
//! are left ("in the trash", as IPVS calls it), so that they are counted down where they were counted up; added again to
//! the same service, it gets its slot and its connections back.

mod compile;
mod draft;
mod effect;
mod slots;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::Arc;

use dataplane::marks::MarkTable;
use dataplane::snapshot::ServiceTable;
use dataplane::{ServerId as ServerSlot, ServiceId as ServiceSlot, snapshot};
use dpvs_api::{
    ApiError, ErrorKind, Family, ForwardMode, MarkRule, Network, Operation, Server, Service, ServiceId,
    ServiceSettings, Sysctls, Timeouts,
};

pub(crate) use compile::{encapsulation, service_id};
pub use draft::{Draft, NewLocalAddress};
use draft::{Drafter, ServerDraft, ServiceDraft};
pub use effect::Effect;
use slots::Slots;
pub(crate) use validate::unicast;
pub use validate::{MAX_TIMEOUT, MAX_WEIGHT};

/// What a commit did to the slots, for those who keep something per slot. In order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service begins.
    ServiceAdded(ServiceSlot),
    /// A service is gone; its removed servers may still have connections.
    ServiceRemoved(ServiceSlot),
    /// A server begins in a slot that has no connections, as part of a service.
    ServerAdded(ServerSlot, ServiceSlot),
    /// A removed server is back while connections of its were left. `None`: in the service it had left; else in a new
    /// service of the same name, where its counts begin anew as in IPVS.
    ServerRevived(ServerSlot, Option<ServiceSlot>),
    /// A removed server's slot is free.
    ServerFreed(ServerSlot),
    /// Statistics of a service and its servers were set to zero.
    Zeroed(ServiceSlot),
}

/// Tells whether connections of a server are left, or may yet appear because some worker still uses an older snapshot.
/// While it says so, the server's slot is not used for anything else.
pub type IsBusy<'a> = &'a dyn Fn(ServerSlot) -> bool;

/// All services and servers.
#[derive(Debug)]
pub struct Registry {
    services: BTreeMap<ServiceId, Entry>,
    service_slots: Slots,
    server_slots: Slots,
    /// Removed servers whose slot is not free yet.
    trash: HashMap<(ServiceId, SocketAddr), Trashed>,
    /// Servers, removed ones included, that are or once were reached by NAT: such connections may be left.
    nat_servers: HashSet<(ServiceId, SocketAddr)>,
    timeouts: Timeouts,
    sysctls: Sysctls,
    /// Rules that give packets firewall marks.
    marks: Vec<MarkRule>,
    /// Names of the director's ports, which rules may name.
    ports: Vec<String>,
    /// Number given last to a version of a service or to a service as such.
    last_number: u64,
    /// Number of the last change of anything.
    revision: u64,
    table: Arc<ServiceTable>,
}

/// A service in the registry.
#[derive(Debug)]
pub struct Entry {
    /// Tells a service from one of the same name before it.
    incarnation: u64,
    /// That of `compiled`, or, once health checks have changed that, of the one before.
    version: u64,
    slot: ServiceSlot,
    settings: ServiceSettings,
    local_addresses: Vec<IpAddr>,
    servers: Vec<Member>,
    sorry: Option<Member>,
    compiled: Arc<snapshot::Service>,
}

/// A server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its configuration.
    pub server: Server,
    /// Index of its counters.
    pub slot: ServerSlot,
    /// Its weight, or the one before that was set to 0; 0 if there was none.
    last_weight: u32,
    /// What health checks make of it.
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
struct Trashed {
    slot: ServerSlot,
    /// Of the service it belonged to.
    incarnation: u64,
}

impl Entry {
    /// Index of its counters.
    pub fn slot(&self) -> ServiceSlot {
        self.slot
    }

    /// Changes with its configuration, and is that of no service before it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its servers in the order they were added; IPVS lists them the other way round.
    pub fn servers(&self) -> &[Member] {
        &self.servers
    }

    /// What of it can be edited.
    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// Its sorry server.
    pub fn sorry(&self) -> Option<&Member> {
        self.sorry.as_ref()
    }

    /// What workers get, as health checks and the configuration have it now.
    pub fn in_force(&self) -> &Arc<snapshot::Service> {
        &self.compiled
    }

    /// Makes what workers get anew, as a version of this number.
    fn compile(&mut self, id: ServiceId, version: u64) {
        let numbers = (self.incarnation, version);
        let (settings, addresses, sorry) = (&self.settings, &self.local_addresses, self.sorry.as_ref());
        let mut new = compile::service(id, self.slot, numbers, settings, addresses, &self.servers, sorry);
        new.scheduler = new.scheduler.after(&self.compiled.scheduler);
        self.compiled = Arc::new(new);
    }

    /// Its configuration without servers.
    pub fn without_servers(&self, id: ServiceId) -> Service {
        Service {
            id,
            settings: self.settings.clone(),
            local_addresses: self.local_addresses.clone(),
            servers: Vec::new(),
        }
    }

    /// Its configuration.
    pub fn service(&self, id: ServiceId) -> Service {
        let servers = self.servers.iter().map(|m| m.server.clone()).collect();
        Service { servers, ..self.without_servers(id) }
    }
}

impl Registry {
    /// An empty registry for that many services and servers, removed ones with connections left included.
    pub fn new(max_services: usize, max_servers: usize) -> Self {
        Self {
            services: BTreeMap::new(),
            service_slots: Slots::new(max_services),
            server_slots: Slots::new(max_servers),
            trash: HashMap::new(),
            nat_servers: HashSet::new(),
            timeouts: Timeouts::default(),
            sysctls: Sysctls::default(),
            marks: Vec::new(),
            ports: Vec::new(),
            last_number: 0,
            revision: 0,
            table: Arc::default(),
        }
    }

    /// The same registry for a director with ports of these names.
    pub fn with_ports(self, ports: Vec<String>) -> Self {
        Self { ports, ..self }
    }

    /// The rules that give packets firewall marks, in order.
    pub fn marks(&self) -> &[MarkRule] {
        &self.marks
    }

    /// The addresses that rules for the marks of services name.
    pub fn marked_hosts(&self) -> impl Iterator<Item = IpAddr> {
        let is_served = |mark, family| self.services.contains_key(&ServiceId::Fwmark { mark, family });
        let host = |rule: &MarkRule| {
            let Network { address, prefix_len } = rule.destination?;
            let is_host = prefix_len == if address.is_ipv4() { 32 } else { 128 };
            is_host.then_some((rule.mark, address))
        };
        let hosts = self.marks.iter().filter_map(host);
        hosts.filter(move |(mark, host)| is_served(*mark, Family::of(*host))).map(|(_, host)| host)
    }

    /// The services, sorted by protocol, address and port; then those of firewall marks.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (ServiceId, &Entry)> {
        self.services.iter().map(|(id, entry)| (*id, entry))
    }

    /// Those after a service, which need not exist; all without one.
    pub fn services_after(&self, id: Option<ServiceId>) -> impl Iterator<Item = (ServiceId, &Entry)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.services.range((from, Bound::Unbounded)).map(|(id, entry)| (*id, entry))
    }

    /// A service.
    pub fn service(&self, id: ServiceId) -> Option<&Entry> {
        self.services.get(&id)
    }

    /// Servers of all services, sorry servers included.
    pub fn server_count(&self) -> usize {
        self.services.values().map(|entry| entry.servers.len() + usize::from(entry.sorry.is_some())).sum()
    }

    /// Director-wide connection timeouts in seconds; none is 0.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Run-time settings.
    pub fn sysctls(&self) -> Sysctls {
        self.sysctls
    }

    /// Local addresses of all services.
    pub fn local_addresses(&self) -> HashSet<IpAddr> {
        self.services.values().flat_map(|entry| entry.local_addresses.iter().copied()).collect()
    }

    /// Changes with everything that is configured.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What workers get; the same `Arc` until something changes.
    pub fn table(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.table)
    }

    /// Works the operations out without applying them. A draft is good until the next commit.
    pub fn draft(&self, operations: &[Operation]) -> Result<Draft, ApiError> {
        Drafter::new(self).run(operations)
    }

    /// Applies a draft. Fails, with nothing changed, only if there is no room.
    pub fn commit(&mut self, draft: Draft, is_busy: IsBusy) -> Result<Vec<Change>, ApiError> {
        let mut draft = draft;
        if draft.cleared {
            for id in self.services.keys() {
                draft.services.entry(*id).or_insert(None);
            }
        }
        let mut changes = self.make_room(&draft, is_busy)?;
        let removed = self.remove(&draft, &mut changes);
        let mut modified = removed;
        if draft.zero_all {
            changes.extend(self.services.values().map(|entry| Change::Zeroed(entry.slot)));
        }
        for (id, service) in draft.services {
            let Some(service) = service else { continue };
            modified |= self.update(id, service, &mut changes);
        }
        let settings_changed = (self.timeouts, self.sysctls) != (draft.timeouts, draft.sysctls);
        self.timeouts = draft.timeouts;
        self.sysctls = draft.sysctls;
        if let Some(marks) = draft.marks {
            modified |= self.marks != marks;
            self.marks = marks;
        }
        if modified {
            self.rebuild();
        }
        if modified || settings_changed {
            self.revision = self.number();
        }
        Ok(changes)
    }

    /// Has health checks take effect; returns whether that is new for the workers. Each service's are in the order in which
    /// its servers were added.
    pub fn set_effects(&mut self, effects: impl IntoIterator<Item = (ServiceId, Vec<Effect>)>) -> bool {
        let mut modified = false;
        for (id, effects) in effects {
            let Some(entry) = self.services.get_mut(&id) else { continue };
            let pairs = entry.servers.iter_mut().zip(effects);
            let changed = pairs.fold(false, |changed, (member, effect)| {
                changed | (std::mem::replace(&mut member.effect, effect) != effect)
            });
            if changed {
                self.last_number += 1;
                entry.compile(id, self.last_number);
                modified = true;
            }
        }
        if modified {
            self.rebuild();
        }
        modified
    }

    /// Makes the table that workers get.
    fn rebuild(&mut self) {
        let services = self.services.values().map(|entry| Arc::clone(&entry.compiled));
        let nat_servers = self.nat_servers.iter().map(|(id, addr)| (compile::key(*id), addr.ip(), addr.port()));
        let rules = self.marks.iter().map(|rule| compile::mark_rule(rule, &self.ports)).collect();
        let marks = Arc::new(MarkTable::new(rules));
        self.table = Arc::new(ServiceTable::with_former(services, nat_servers).with_marks(marks));
    }

    /// [`draft`](Self::draft) and [`commit`](Self::commit) in one.
    pub fn apply(&mut self, operations: &[Operation], is_busy: IsBusy) -> Result<Vec<Change>, ApiError> {
        let draft = self.draft(operations)?;
        self.commit(draft, is_busy)
    }

    /// Frees the slots of removed servers that have no connection left.
    pub fn sweep(&mut self, is_busy: IsBusy) -> Vec<Change> {
        let mut changes = Vec::new();
        let Self { server_slots, nat_servers, .. } = self;
        self.trash.retain(|server, trashed| {
            let busy = is_busy(trashed.slot);
            if !busy {
                nat_servers.remove(server);
                server_slots.give(trashed.slot.0);
                changes.push(Change::ServerFreed(trashed.slot));
            }
            busy
        });
        changes
    }

    /// Makes sure that the commit finds a slot for everything.
    fn make_room(&mut self, draft: &Draft, is_busy: IsBusy) -> Result<Vec<Change>, ApiError> {
        let mut added: Vec<usize> = Vec::new();
        let mut room = self.service_slots.available();
        for (id, service) in &draft.services {
            let replaced = service.as_ref().is_none_or(|s| !s.existing);
            room += usize::from(replaced && self.services.contains_key(id));
            added.extend(service.iter().filter(|s| !s.existing).map(|s| s.operation));
        }
        added.sort_unstable();
        if let Some(&operation) = added.get(room) {
            return Err(full(operation, "service", "services", self.services.len()));
        }

        let mut changes = Vec::new();
        if self.server_slots.available() < self.new_servers(draft).len() {
            changes = self.sweep(is_busy);
        }
        let mut added = self.new_servers(draft);
        added.sort_unstable();
        if let Some(&operation) = added.get(self.server_slots.available()) {
            let servers = self.services.values().map(|entry| entry.servers.len()).sum::<usize>() + self.trash.len();
            return Err(full(operation, "server", "servers", servers));
        }
        Ok(changes)
    }

    /// For each server that needs a slot not its own yet, the operation that adds it.
    fn new_servers(&self, draft: &Draft) -> Vec<usize> {
        let mut operations = Vec::new();
        for (id, service) in draft.services.iter().filter_map(|(id, service)| Some((id, service.as_ref()?))) {
            let before: HashSet<SocketAddr> = match self.services.get(id) {
                Some(entry) => entry.servers.iter().chain(&entry.sorry).map(|m| m.server.address).collect(),
                None => HashSet::new(),
            };
            let is_new = |address| !before.contains(&address) && !self.trash.contains_key(&(*id, address));
            let new =
                service.servers.iter().chain(&service.sorry).filter(|s| s.slot.is_none() && is_new(s.server.address));
            operations.extend(new.map(|s| s.operation));
        }
        operations
    }

    /// Moves services and servers that the draft lacks to the trash; returns whether there were any.
    fn remove(&mut self, draft: &Draft, changes: &mut Vec<Change>) -> bool {
        let mut any = false;
        for (id, service) in &draft.services {
            let Some(entry) = self.services.get_mut(id) else { continue };
            let kept: HashSet<ServerSlot> = match service {
                Some(service) if service.existing => {
                    service.servers.iter().chain(&service.sorry).filter_map(|s| s.slot).collect()
                }
                _ => HashSet::new(),
            };
            for member in entry.servers.iter().chain(&entry.sorry).filter(|m| !kept.contains(&m.slot)) {
                let trashed = Trashed { slot: member.slot, incarnation: entry.incarnation };
                self.trash.insert((*id, member.server.address), trashed);
                any = true;
            }
            entry.servers.retain(|m| kept.contains(&m.slot));
            entry.sorry.take_if(|m| !kept.contains(&m.slot));
            if service.as_ref().is_none_or(|s| !s.existing) {
                let slot = entry.slot;
                self.services.remove(id);
                self.service_slots.give(slot.0);
                changes.push(Change::ServiceRemoved(slot));
                any = true;
            }
        }
        any
    }

    /// Brings a service to the drafted state; returns whether that is new for the workers.
    fn update(&mut self, id: ServiceId, draft: ServiceDraft, changes: &mut Vec<Change>) -> bool {
        let (incarnation, slot, before) = match self.services.remove(&id) {
            Some(entry) => (entry.incarnation, entry.slot, Some(entry)),
            None => {
                let slot = ServiceSlot(self.service_slots.take().expect("make_room counted the services"));
                changes.push(Change::ServiceAdded(slot));
                (self.number(), slot, None)
            }
        };
        let mut member = |server: ServerDraft| {
            let slot = match server.slot {
                Some(slot) => slot,
                None => self.slot_for(id, server.server.address, incarnation, slot, changes),
            };
            if server.server.mode == ForwardMode::Nat {
                self.nat_servers.insert((id, server.server.address));
            }
            Member { server: server.server, slot, last_weight: server.last_weight, effect: server.effect }
        };
        let servers: Vec<Member> = draft.servers.into_iter().map(&mut member).collect();
        let sorry = draft.sorry.map(member);
        if draft.zero {
            changes.push(Change::Zeroed(slot));
        }
        let compiled = match &before {
            Some(entry)
                if entry.settings == draft.settings
                    && entry.local_addresses == draft.local_addresses
                    && entry.compiled.servers.len() == servers.iter().filter(|m| !m.effect.removed).count()
                    && entry.servers == servers
                    && entry.sorry == sorry =>
            {
                Arc::clone(&entry.compiled)
            }
            _ => {
                let version = self.number();
                let numbers = (incarnation, version);
                let mut new = compile::service(
                    id,
                    slot,
                    numbers,
                    &draft.settings,
                    &draft.local_addresses,
                    &servers,
                    sorry.as_ref(),
                );
                if let Some(before) = &before {
                    new.scheduler = new.scheduler.after(&before.compiled.scheduler);
                }
                Arc::new(new)
            }
        };
        let kept = before.filter(|entry| Arc::ptr_eq(&entry.compiled, &compiled));
        let (modified, version) = (kept.is_none(), kept.map_or(compiled.version, |entry| entry.version));
        let ServiceDraft { settings, local_addresses, .. } = draft;
        self.services
            .insert(id, Entry { incarnation, version, slot, settings, local_addresses, servers, sorry, compiled });
        modified
    }

    /// A slot for a server that is new to its service: its old one if connections of its are left.
    fn slot_for(
        &mut self,
        id: ServiceId,
        address: SocketAddr,
        incarnation: u64,
        service: ServiceSlot,
        changes: &mut Vec<Change>,
    ) -> ServerSlot {
        if let Some(trashed) = self.trash.remove(&(id, address)) {
            let moved = (trashed.incarnation != incarnation).then_some(service);
            changes.push(Change::ServerRevived(trashed.slot, moved));
            return trashed.slot;
        }
        let slot = ServerSlot(self.server_slots.take().expect("make_room counted the servers"));
        changes.push(Change::ServerAdded(slot, service));
        slot
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

fn full(operation: usize, field: &str, what: &str, present: usize) -> ApiError {
    ApiError {
        kind: ErrorKind::Full,
        message: format!(
            "no room for another {field}: {present} are configured or still have connections; \
             raise limits.{what} in the configuration file and restart dpvsd"
        ),
        path: Some(format!("[{operation}].{field}")),
    }
}
