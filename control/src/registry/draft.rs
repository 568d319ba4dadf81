//! A batch of operations worked out on copies of the services it touches: it is committed whole or dropped.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dataplane::ServerId as ServerSlot;
use dpvs_api::{
    ApiError, ErrorKind, MarkRule, Operation, Server, Service, ServiceId, ServiceSettings, SorryServer, SysctlError,
    Sysctls, Timeouts,
};

use super::validate::{self, Problem};
use super::{Effect, Registry};

/// What a batch leads to.
#[derive(Debug)]
pub struct Draft {
    /// Touched services; `None`: removed.
    pub(super) services: BTreeMap<ServiceId, Option<ServiceDraft>>,
    /// True when services that existed before are removed unless `services` says otherwise.
    pub(super) cleared: bool,
    pub(super) timeouts: Timeouts,
    pub(super) sysctls: Sysctls,
    /// `None`: they stay.
    pub(super) marks: Option<Vec<MarkRule>>,
    /// True when the statistics of untouched services are set to zero as well.
    pub(super) zero_all: bool,
    local_addresses: Vec<NewLocalAddress>,
}

/// A local address that a batch brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Mirror interface that the operation asked for.
    pub interface: Option<String>,
    /// Where in the request it stands.
    pub path: String,
}

/// A service as it is to be.
#[derive(Debug)]
pub(super) struct ServiceDraft {
    /// The service exists already and goes on; otherwise it begins anew, counters included.
    pub existing: bool,
    pub settings: ServiceSettings,
    pub local_addresses: Vec<IpAddr>,
    /// In the order they were added.
    pub servers: Vec<ServerDraft>,
    /// As the settings say.
    pub sorry: Option<ServerDraft>,
    pub zero: bool,
    /// Index of the operation that added it.
    pub operation: usize,
}

/// A server as it is to be.
#[derive(Debug)]
pub(super) struct ServerDraft {
    pub server: Server,
    /// Its slot, if it was there before the batch and stayed.
    pub slot: Option<ServerSlot>,
    /// Its weight, or the one before that was set to 0.
    pub last_weight: u32,
    /// What health checks make of it, as far as that is known.
    pub effect: Effect,
    /// Index of the operation that added it.
    pub operation: usize,
}

impl ServerDraft {
    /// A server that an operation adds.
    fn new(server: &Server, operation: usize) -> Self {
        Self { server: server.clone(), slot: None, last_weight: server.weight, effect: Effect::NONE, operation }
    }
}

impl ServiceDraft {
    /// Follows the settings, which an operation has changed.
    fn set_sorry(&mut self, operation: usize) {
        let wanted = self.settings.sorry_server.map(SorryServer::server);
        self.sorry = wanted.map(|server| match self.sorry.take() {
            Some(old) if old.server.address == server.address => ServerDraft { server, ..old },
            _ => ServerDraft::new(&server, operation),
        });
    }
}

impl Draft {
    /// Local addresses that the batch brings, in order; those of services it removes again included.
    pub fn local_addresses(&self) -> &[NewLocalAddress] {
        &self.local_addresses
    }

    /// Services that the batch adds, changes or removes.
    pub fn touched(&self, registry: &Registry) -> BTreeSet<ServiceId> {
        let all = registry.services.keys().filter(|_| self.cleared);
        self.services.keys().chain(all).copied().collect()
    }
}

/// Applies operations to a draft of `registry`.
pub(super) struct Drafter<'a> {
    registry: &'a Registry,
    draft: Draft,
}

impl<'a> Drafter<'a> {
    pub fn new(registry: &'a Registry) -> Self {
        let draft = Draft {
            services: BTreeMap::new(),
            cleared: false,
            timeouts: registry.timeouts,
            sysctls: registry.sysctls,
            marks: None,
            zero_all: false,
            local_addresses: Vec::new(),
        };
        Self { registry, draft }
    }

    /// Works out all operations in order, or says which one is wrong and why.
    pub fn run(mut self, operations: &[Operation]) -> Result<Draft, ApiError> {
        for (index, operation) in operations.iter().enumerate() {
            self.step(index, operation).map_err(|p| p.within(format!("[{index}]")).into_error())?;
        }
        Ok(self.draft)
    }

    fn step(&mut self, index: usize, operation: &Operation) -> Result<(), Problem> {
        match operation {
            Operation::AddService { service } => self.add_service(index, service),
            Operation::EditService { service, settings } => {
                let (id, service) = self.existing(*service)?;
                validate::settings(id, settings).map_err(|p| p.within("settings"))?;
                for server in &service.servers {
                    validate::one_packet(id, settings, &server.server).map_err(|p| p.at("settings.one_packet"))?;
                    validate::client_address(id, settings, &server.server)
                        .map_err(|p| p.at("settings.client_address"))?;
                    validate::health::of_server(id, settings, &server.server).map_err(|p| p.at("settings.health"))?;
                }
                let servers = service.servers.iter().map(|s| s.server.address);
                validate::sorry(id, settings, servers).map_err(|p| p.within("settings"))?;
                service.settings = settings.clone();
                service.set_sorry(index);
                Ok(())
            }
            Operation::DeleteService { service } => {
                let (id, _) = self.existing(*service)?;
                self.draft.services.insert(id, None);
                Ok(())
            }
            Operation::Clear => {
                self.draft.services.clear();
                self.draft.cleared = true;
                Ok(())
            }
            Operation::AddServer { service, server } => {
                let (id, service) = self.existing(*service)?;
                validate::server(id, server).map_err(|p| p.within("server"))?;
                validate::one_packet(id, &service.settings, server).map_err(|p| p.within("server"))?;
                validate::client_address(id, &service.settings, server).map_err(|p| p.within("server"))?;
                validate::health::of_server(id, &service.settings, server).map_err(|p| p.within("server"))?;
                if service.servers.iter().any(|s| s.server.address == server.address) {
                    let message = format!("server {} exists already in service {id}; edit it instead", server.address);
                    return Err(Problem::new(ErrorKind::Exists, "server.address", message));
                }
                validate::sorry(id, &service.settings, [server.address]).map_err(|p| p.at("server.address"))?;
                service.servers.push(ServerDraft::new(server, index));
                Ok(())
            }
            Operation::EditServer { service, server } => {
                let (id, service) = self.existing(*service)?;
                let position = find(id, service, server.address).map_err(|p| p.within("server.address"))?;
                validate::server(id, server).map_err(|p| p.within("server"))?;
                validate::one_packet(id, &service.settings, server).map_err(|p| p.within("server"))?;
                validate::client_address(id, &service.settings, server).map_err(|p| p.within("server"))?;
                validate::health::of_server(id, &service.settings, server).map_err(|p| p.within("server"))?;
                let draft = &mut service.servers[position];
                draft.server = server.clone();
                if server.weight > 0 {
                    draft.last_weight = server.weight;
                }
                Ok(())
            }
            Operation::DeleteServer { service, server } => {
                let (id, service) = self.existing(*service)?;
                let position = find(id, service, *server).map_err(|p| p.within("server"))?;
                service.servers.remove(position);
                Ok(())
            }
            Operation::AddLocalAddress { service, local_address, interface } => {
                let (id, service) = self.existing(*service)?;
                validate::local_address(*local_address).map_err(|p| p.within("local_address"))?;
                if service.local_addresses.contains(local_address) {
                    let message = format!("local address {local_address} exists already in service {id}");
                    return Err(Problem::new(ErrorKind::Exists, "local_address", message));
                }
                service.local_addresses.push(*local_address);
                let path = format!("[{index}].local_address");
                let interface = interface.clone();
                self.draft.local_addresses.push(NewLocalAddress { address: *local_address, interface, path });
                Ok(())
            }
            Operation::DeleteLocalAddress { service, local_address } => {
                let (id, service) = self.existing(*service)?;
                let Some(position) = service.local_addresses.iter().position(|a| a == local_address) else {
                    let message = format!(
                        "local address {local_address} does not exist in service {id}; list the service to see its own"
                    );
                    return Err(Problem::new(ErrorKind::NotFound, "local_address", message));
                };
                service.local_addresses.remove(position);
                Ok(())
            }
            Operation::Zero { service: None } => {
                self.draft.zero_all = true;
                self.draft.services.values_mut().flatten().for_each(|s| s.zero = true);
                Ok(())
            }
            Operation::Zero { service: Some(service) } => {
                let (_, service) = self.existing(*service)?;
                service.zero = true;
                Ok(())
            }
            Operation::SetMarks { rules } => {
                for (position, rule) in rules.iter().enumerate() {
                    validate::mark(rule, &self.registry.ports).map_err(|p| p.within(format!("rules[{position}]")))?;
                }
                validate::mark_count(rules.len())?;
                self.draft.marks = Some(rules.clone());
                Ok(())
            }
            Operation::AddMark { rule, position } => {
                validate::mark(rule, &self.registry.ports).map_err(|p| p.within("rule"))?;
                let marks = self.marks();
                validate::mark_count(marks.len() + 1)?;
                marks.insert(position.unwrap_or(usize::MAX).min(marks.len()), rule.clone());
                Ok(())
            }
            Operation::DeleteMark { rule } => {
                let marks = self.marks();
                let Some(position) = marks.iter().position(|other| other == rule) else {
                    let message = format!("there is no rule '{rule}'; list the rules to see them");
                    return Err(Problem::new(ErrorKind::NotFound, "rule", message));
                };
                marks.remove(position);
                Ok(())
            }
            Operation::SetTimeouts { timeouts } => {
                validate::timeouts(timeouts).map_err(|p| p.within("timeouts"))?;
                let set = |value: &mut u32, new: u32| *value = if new == 0 { *value } else { new };
                set(&mut self.draft.timeouts.tcp, timeouts.tcp);
                set(&mut self.draft.timeouts.tcp_fin, timeouts.tcp_fin);
                set(&mut self.draft.timeouts.udp, timeouts.udp);
                Ok(())
            }
            Operation::SetSysctls { values } => values.iter().try_for_each(|(name, &value)| {
                let invalid =
                    |error: SysctlError| Problem::new(ErrorKind::Invalid, format!("values.{name}"), error.to_string());
                self.draft.sysctls.set(name, value).map_err(invalid)
            }),
        }
    }

    fn marks(&mut self) -> &mut Vec<MarkRule> {
        self.draft.marks.get_or_insert_with(|| self.registry.marks.clone())
    }

    fn add_service(&mut self, index: usize, service: &Service) -> Result<(), Problem> {
        let id = service.id;
        validate::service(service).map_err(|p| p.within("service"))?;
        if self.existing(id).is_ok() {
            let message = format!("service {id} exists already; edit it instead");
            return Err(Problem::new(ErrorKind::Exists, format!("service.{}", validate::id_field(id)), message));
        }
        for (position, address) in service.local_addresses.iter().enumerate() {
            let path = format!("[{index}].service.local_addresses[{position}]");
            self.draft.local_addresses.push(NewLocalAddress { address: *address, interface: None, path });
        }
        let mut draft = ServiceDraft {
            existing: false,
            settings: service.settings.clone(),
            local_addresses: service.local_addresses.clone(),
            servers: service.servers.iter().map(|server| ServerDraft::new(server, index)).collect(),
            sorry: None,
            zero: false,
            operation: index,
        };
        draft.set_sorry(index);
        self.draft.services.insert(id, Some(draft));
        Ok(())
    }

    /// The draft of a service that exists at this point of the batch.
    fn existing(&mut self, id: ServiceId) -> Result<(ServiceId, &mut ServiceDraft), Problem> {
        let missing = || {
            let message = format!("service {id} does not exist; add it first");
            Problem::new(ErrorKind::NotFound, "service", message)
        };
        let draft = match self.draft.services.entry(id) {
            MapEntry::Occupied(entry) => entry.into_mut(),
            MapEntry::Vacant(_) if self.draft.cleared => return Err(missing()),
            MapEntry::Vacant(entry) => {
                let service = self.registry.services.get(&id).ok_or_else(missing)?;
                let member = |m: &super::Member| ServerDraft {
                    server: m.server.clone(),
                    slot: Some(m.slot),
                    last_weight: m.last_weight,
                    effect: m.effect,
                    operation: usize::MAX,
                };
                entry.insert(Some(ServiceDraft {
                    existing: true,
                    settings: service.settings.clone(),
                    local_addresses: service.local_addresses.clone(),
                    servers: service.servers.iter().map(member).collect(),
                    sorry: service.sorry.as_ref().map(member),
                    zero: self.draft.zero_all,
                    operation: usize::MAX,
                }))
            }
        };
        match draft {
            Some(draft) => Ok((id, draft)),
            None => Err(missing()),
        }
    }
}

fn find(id: ServiceId, service: &ServiceDraft, address: SocketAddr) -> Result<usize, Problem> {
    service.servers.iter().position(|s| s.server.address == address).ok_or_else(|| {
        Problem::new(ErrorKind::NotFound, "", format!("server {address} does not exist in service {id}; add it first"))
    })
}
