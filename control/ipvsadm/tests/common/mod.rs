//! A model of dpvsd and of the machine's names, and a way to run command lines against them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use dpvs_api::{
    ApiError, Connection, ErrorKind, FlowStats, Operation, Protocol, Server, ServerStatus, Service, ServiceId,
    ServiceStatus, Timeouts,
};
use dpvs_client::ClientError;
use dpvs_ipvsadm::{Director, Names, Streams, run};

/// Services in the order they were added, and what tests put there.
#[derive(Clone, Default)]
pub struct Table {
    pub services: Vec<Service>,
    pub timeouts: Timeouts,
    pub connections: Vec<Connection>,
    /// Counters of services and (with the server's address) of servers.
    pub stats: BTreeMap<(ServiceId, Option<std::net::SocketAddr>), FlowStats>,
    /// Active and inactive connections of servers.
    pub loads: BTreeMap<std::net::SocketAddr, (u64, u64)>,
    /// Servers that health checks have taken out.
    pub removed: Vec<std::net::SocketAddr>,
}

#[derive(Default)]
pub struct Model {
    pub table: RefCell<Table>,
    /// Batches as they arrived, refused ones too.
    pub batches: RefCell<Vec<Vec<Operation>>>,
}

impl Director for Model {
    fn table_capacity(&self) -> Result<u64, ClientError> {
        Ok(4096)
    }

    fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        let table = self.table.borrow();
        Ok(table.services.iter().map(|service| status(&table, service)).collect())
    }

    fn service(&self, id: ServiceId) -> Result<ServiceStatus, ClientError> {
        let table = self.table.borrow();
        let service = table.services.iter().find(|service| service.id == id);
        let missing = || error(ErrorKind::NotFound, "service").into();
        service.map(|service| status(&table, service)).ok_or_else(missing)
    }

    fn timeouts(&self) -> Result<Timeouts, ClientError> {
        Ok(self.table.borrow().timeouts)
    }

    fn connections(&self) -> Box<dyn Iterator<Item = Result<Connection, ClientError>> + '_> {
        Box::new(self.table.borrow().connections.clone().into_iter().map(Ok))
    }

    fn apply(&self, operations: &[Operation]) -> Result<(), ClientError> {
        self.batches.borrow_mut().push(operations.to_vec());
        let mut table = self.table.borrow().clone();
        for (index, operation) in operations.iter().enumerate() {
            table.step(operation).map_err(|mut error| {
                error.path = error.path.map(|path| format!("[{index}].{path}"));
                error
            })?;
        }
        *self.table.borrow_mut() = table;
        Ok(())
    }
}

fn status(table: &Table, service: &Service) -> ServiceStatus {
    let id = service.id;
    let stats = |server| table.stats.get(&(id, server)).copied().unwrap_or_default();
    // As dpvsd lists them, the newest first.
    let server_status = service.servers.iter().rev().map(|server| {
        let (active_connections, inactive_connections) = table.loads.get(&server.address).copied().unwrap_or_default();
        ServerStatus {
            server: server.clone(),
            persistent_connections: 0,
            active_connections,
            inactive_connections,
            stats: stats(Some(server.address)),
            effective_weight: match table.removed.contains(&server.address) {
                true => None,
                false => Some(server.weight),
            },
            health_status: None,
        }
    });
    ServiceStatus {
        server_status: server_status.collect(),
        service: Service { servers: Vec::new(), ..service.clone() },
        stats: stats(None),
        no_server: 0,
        local_port_exhausted: 0,
        sorry_server_status: None,
        client_address_sent: 0,
        client_address_omitted: 0,
        quorum_status: None,
    }
}

fn error(kind: ErrorKind, path: &str) -> ApiError {
    ApiError { kind, message: format!("the model says {kind:?} about {path}"), path: Some(path.into()) }
}

impl Table {
    fn find(&mut self, id: ServiceId) -> Result<&mut Service, ApiError> {
        let found = self.services.iter_mut().find(|service| service.id == id);
        found.ok_or_else(|| error(ErrorKind::NotFound, "service"))
    }

    fn step(&mut self, operation: &Operation) -> Result<(), ApiError> {
        match operation.clone() {
            Operation::AddService { service } => {
                if self.services.iter().any(|other| other.id == service.id) {
                    return Err(error(ErrorKind::Exists, "service.address"));
                }
                self.services.push(service);
            }
            Operation::EditService { service, settings } => self.find(service)?.settings = settings,
            Operation::DeleteService { service: id } => {
                self.find(id)?;
                self.services.retain(|service| service.id != id);
            }
            Operation::Clear => self.services.clear(),
            Operation::AddServer { service, server } => {
                let service = self.find(service)?;
                check(&server)?;
                if service.servers.iter().any(|other| other.address == server.address) {
                    return Err(error(ErrorKind::Exists, "server.address"));
                }
                service.servers.push(server);
            }
            Operation::EditServer { service, server } => {
                let service = self.find(service)?;
                check(&server)?;
                let old = service.servers.iter_mut().find(|other| other.address == server.address);
                *old.ok_or_else(|| error(ErrorKind::NotFound, "server.address"))? = server;
            }
            Operation::DeleteServer { service, server } => {
                let service = self.find(service)?;
                let before = service.servers.len();
                service.servers.retain(|other| other.address != server);
                if service.servers.len() == before {
                    return Err(error(ErrorKind::NotFound, "server"));
                }
            }
            Operation::AddLocalAddress { service, local_address, .. } => {
                self.find(service)?.local_addresses.push(local_address);
            }
            Operation::DeleteLocalAddress { service, local_address } => {
                self.find(service)?.local_addresses.retain(|other| *other != local_address);
            }
            Operation::Zero { service: Some(service) } => {
                self.find(service).map_err(|_| error(ErrorKind::NotFound, "service"))?;
            }
            // ipvsadm has no option for these.
            Operation::Zero { service: None }
            | Operation::SetSysctls { .. }
            | Operation::SetMarks { .. }
            | Operation::AddMark { .. }
            | Operation::DeleteMark { .. } => {}
            Operation::SetTimeouts { timeouts } => {
                for (old, new) in [
                    (&mut self.timeouts.tcp, timeouts.tcp),
                    (&mut self.timeouts.tcp_fin, timeouts.tcp_fin),
                    (&mut self.timeouts.udp, timeouts.udp),
                ] {
                    if new != 0 {
                        *old = new;
                    }
                }
            }
        }
        Ok(())
    }
}

fn check(server: &Server) -> Result<(), ApiError> {
    let address = server.address.ip();
    if address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST {
        return Err(error(ErrorKind::Invalid, "server.address"));
    }
    if server.lower_threshold > server.upper_threshold {
        return Err(error(ErrorKind::Invalid, "server.lower_threshold"));
    }
    Ok(())
}

/// Names as they were where the sessions were recorded.
pub struct FixedNames {
    pub hosts: Vec<(IpAddr, String)>,
}

impl Default for FixedNames {
    fn default() -> Self {
        Self { hosts: vec![(Ipv4Addr::LOCALHOST.into(), "localhost".into())] }
    }
}

const SERVICES: [(&str, u16); 4] = [("domain", 53), ("http", 80), ("https", 443), ("http-alt", 8080)];

impl Names for FixedNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        self.hosts.iter().find_map(|(address, name)| match address {
            IpAddr::V4(address) if name == host => Some(*address),
            _ => None,
        })
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        let found = SERVICES.into_iter().find(|(name, _)| *name == service);
        found.map(|(_, port)| port).filter(|&port| is_registered(port, protocol))
    }

    fn host(&self, address: IpAddr) -> Option<String> {
        self.hosts.iter().find(|(other, _)| *other == address).map(|(_, name)| name.clone())
    }

    fn service(&self, l4_port: u16, protocol: Protocol) -> Option<String> {
        let found = SERVICES.into_iter().find(|(_, port)| *port == l4_port);
        found.map(|(name, _)| name.to_owned()).filter(|_| is_registered(l4_port, protocol))
    }
}

/// HTTP has no UDP port in /etc/services, and SCTP none at all.
fn is_registered(l4_port: u16, protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp => true,
        Protocol::Udp => l4_port != 80,
        Protocol::Sctp => false,
    }
}

/// Runs a command line; returns standard output and standard error together, and the exit status.
pub fn ipvsadm(model: &Model, names: &FixedNames, words: &[&str], input: &str) -> (String, u8) {
    let arguments: Vec<String> = std::iter::once(&"ipvsadm").chain(words).map(|&word| word.to_owned()).collect();
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut streams = Streams { input: Box::new(input.as_bytes()), output: &mut output, errors: Box::new(&mut errors) };
    let status = run(&arguments, &mut streams, model, names);
    drop(streams);
    output.append(&mut errors);
    (String::from_utf8(output).unwrap(), status)
}

/// A service without servers.
#[allow(dead_code, reason = "not every test program needs it")]
pub fn service(id: &str) -> Service {
    Service::new(id.parse().unwrap())
}
