//! New connections: which server takes one, and from which local port.

use std::sync::Arc;

use proto::state::{Direction, State, Timeouts, tcp_next};
use proto::{Protocol, Tuple};
use sched::Pool;

use crate::ServerId;
use crate::conn::{Conn, ConnId, InsertError};
use crate::counters::ServerLoad;
use crate::fib::AdjacencyId;
use crate::ip::Ip;
use crate::packet::WorkerIo;
use crate::pipeline::{Job, Pipeline};
use crate::shared::{Limits, Shared};
use crate::snapshot::{ForwardMode, Server, Service, Snapshot};
use crate::verdict::DropReason;

/// Local ports tried for one connection, per worker. With 95 % of the ports taken one in a thousand connections finds
/// none; a pool smaller than this is used to the last port.
const PORT_ATTEMPTS: usize = 128;

/// What a worker remembers of services between connections. Sized at start-up.
pub struct Scheduling {
    /// By [`ServiceId`](crate::ServiceId).
    services: Box<[ServiceState]>,
    /// By [`ServerId`]: over the upper threshold and not yet below the lower one again.
    overloaded: Box<[bool]>,
    random: u64,
}

#[derive(Clone, Default)]
struct ServiceState {
    incarnation: u64,
    version: u64,
    scheduler: sched::State,
    last: Option<ServerId>,
    /// Some server has a connection threshold.
    has_thresholds: bool,
    /// Index of the local address and port tried last.
    local_address: usize,
    local_port: u16,
}

impl Scheduling {
    /// Room for every service and server that the limits allow.
    pub fn new(limits: &Limits, seed: u64) -> Self {
        Self {
            services: vec![ServiceState::default(); limits.max_services].into_boxed_slice(),
            overloaded: vec![false; limits.max_servers].into_boxed_slice(),
            random: seed | 1,
        }
    }

    /// Chooses a server of `service`.
    fn pick<'s>(&mut self, shared: &Shared, service: &'s Service) -> Option<&'s Server> {
        if self.bring_up_to_date(service).has_thresholds {
            self.note_thresholds(shared, service);
        }
        let state = &mut self.services[service.id.0 as usize];
        let pool = Servers { shared, servers: &service.servers, overloaded: &self.overloaded };
        let choice = service.scheduler.pick(&mut state.scheduler, &pool)?;
        let server = &service.servers[choice];
        state.last = Some(server.id);
        Some(server)
    }

    /// The state of `service`, brought up to date if the service has changed.
    fn bring_up_to_date(&mut self, service: &Service) -> &ServiceState {
        let state = &mut self.services[service.id.0 as usize];
        if state.version != service.version {
            if state.incarnation != service.incarnation {
                // Begin at a port nobody can guess.
                self.random = xorshift(self.random);
                let (first, last) = service.local_ports;
                let ports = u64::from(last.saturating_sub(first)) + 1;
                *state = ServiceState {
                    incarnation: service.incarnation,
                    local_port: first + ((self.random >> 32) % ports) as u16,
                    ..ServiceState::default()
                };
            }
            let last = state.last.and_then(|id| {
                let gone_from = state.scheduler.last();
                let at = service.servers.iter().position(|server| server.id == id);
                // If it is gone, the turn goes back to the server before it (ip_vs_rr.c, ip_vs_rr_del_dest).
                at.or_else(|| gone_from?.checked_sub(1))
            });
            service.scheduler.resume(&mut state.scheduler, last);
            state.last = last.and_then(|at| service.servers.get(at)).map(|server| server.id);
            state.version = service.version;
            state.has_thresholds = service.servers.iter().any(|server| server.upper_threshold > 0);
            for server in service.servers.iter().filter(|server| server.upper_threshold == 0) {
                self.overloaded[server.id.0 as usize] = false;
            }
        }
        state
    }

    /// Sets and clears the servers' overload flags (ip_vs_conn.c, ip_vs_bind_dest and ip_vs_unbind_dest).
    fn note_thresholds(&mut self, shared: &Shared, service: &Service) {
        for server in service.servers.iter().filter(|server| server.upper_threshold > 0) {
            let flag = &mut self.overloaded[server.id.0 as usize];
            let total = total(shared, server.id, |c| c.active.get().wrapping_add(c.inactive.get()));
            let upper = u64::from(server.upper_threshold);
            let is_low = match server.lower_threshold {
                0 => total * 4 < upper * 3,
                lower => total < u64::from(lower),
            };
            *flag = total >= upper || (*flag && !is_low);
        }
    }

    /// The next local address and port in turn.
    fn next_local(&mut self, service: &Service) -> (std::net::IpAddr, u16) {
        let state = &mut self.services[service.id.0 as usize];
        let (first, last) = service.local_ports;
        if state.local_port < first || state.local_port >= last {
            state.local_port = first;
            state.local_address += 1;
        } else {
            state.local_port += 1;
        }
        if state.local_address >= service.local_addresses.len() {
            state.local_address = 0;
        }
        (service.local_addresses[state.local_address], state.local_port)
    }
}

fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

/// A service's servers with the connection counts of the whole director.
struct Servers<'a> {
    shared: &'a Shared,
    servers: &'a [Server],
    overloaded: &'a [bool],
}

impl Pool for Servers<'_> {
    fn len(&self) -> usize {
        self.servers.len()
    }
    fn weight(&self, server: usize) -> u32 {
        self.servers[server].weight
    }
    fn is_overloaded(&self, server: usize) -> bool {
        self.overloaded[self.servers[server].id.0 as usize]
    }
    fn active(&self, server: usize) -> u64 {
        total(self.shared, self.servers[server].id, |c| c.active.get())
    }
    fn inactive(&self, server: usize) -> u64 {
        total(self.shared, self.servers[server].id, |c| c.inactive.get())
    }
}

fn total(shared: &Shared, id: ServerId, value: impl Fn(&ServerLoad) -> u64) -> u64 {
    shared.workers.iter().map(|worker| value(worker.counters.load(id))).sum()
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Opens a connection for the packet, whose destination is `service`.
    pub(crate) fn schedule<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        job: &Job<Io::Packet, A>,
    ) -> Result<ConnId, DropReason> {
        if snapshot.settings.draining {
            return Err(DropReason::Draining);
        }
        let Some(server) = self.scheduling.pick(&self.shared, service) else {
            self.counters().service(service.id).no_server.add(1);
            return Err(DropReason::NoServer);
        };
        // The control thread keeps servers in their service's family.
        let daddr = A::from_ip(server.addr).ok_or(DropReason::NoServer)?;
        let tuple = job.ip.tuple;
        let mut conn = Conn {
            caddr: tuple.src,
            vaddr: tuple.dst,
            laddr: tuple.src,
            daddr,
            cport: tuple.sport,
            vport: tuple.dport,
            lport: tuple.sport,
            dport: server.port,
            protocol: tuple.protocol,
            mode: server.mode,
            state: initial_state(tuple.protocol, server.mode, job),
            has_own_timeout: service.timeout.is_some(),
            server: server.id,
            to_server: AdjacencyId::NONE,
            to_client: AdjacencyId::NONE,
            fib_generation: snapshot.fib.generation,
            timer: Default::default(),
        };
        if server.mode == ForwardMode::FullNat {
            (conn.laddr, conn.lport) = self.local_endpoint(service, daddr, server.port)?;
        }
        self.open(conn, &snapshot.settings.timeouts)
    }

    fn open<A: Ip>(&mut self, conn: Conn<A>, timeouts: &Timeouts) -> Result<ConnId, DropReason> {
        let (server, state) = (conn.server, conn.state);
        let id =
            A::table(&mut self.tables).insert(conn, timeouts.get(state), self.now).map_err(|error| match error {
                InsertError::Full => DropReason::TableFull,
                InsertError::Exists => DropReason::TupleConflict,
            })?;
        let counters = self.counters();
        counters.server(server).connections.add(1);
        match state.is_active() {
            true => counters.load(server).active.add(1),
            false => counters.load(server).inactive.add(1),
        }
        Ok(id)
    }

    /// A local address and port that are free towards the server and whose replies come to this worker.
    fn local_endpoint<A: Ip>(&mut self, service: &Service, daddr: A, dport: u16) -> Result<(A, u16), DropReason> {
        if service.local_addresses.is_empty() {
            return Err(DropReason::NoLocalAddress);
        }
        let (first, last) = service.local_ports;
        let pool = service.local_addresses.len() * (usize::from(last - first) + 1);
        let workers = self.shared.limits.workers;
        for _ in 0..pool.min(PORT_ATTEMPTS * workers) {
            let (laddr, lport) = self.scheduling.next_local(service);
            let Some(laddr) = A::from_ip(laddr) else { continue };
            let reply = Tuple { src: daddr, dst: laddr, sport: dport, dport: lport, protocol: service.key.protocol };
            if workers > 1 && self.ownership.owner(&reply) != self.id {
                continue;
            }
            if !A::table(&mut self.tables).contains(&reply) {
                return Ok((laddr, lport));
            }
        }
        self.counters().service(service.id).local_port_exhausted.add(1);
        Err(DropReason::LocalPortExhausted)
    }
}

/// The state that the first packet leads to; tracking the packet then comes to the same state.
fn initial_state<P, A>(protocol: Protocol, mode: ForwardMode, job: &Job<P, A>) -> State {
    match protocol {
        Protocol::TCP if mode.sees_replies() => tcp_next(State::None, Direction::In, job.ip.flags),
        Protocol::TCP => tcp_next(State::None, Direction::InOnly, job.ip.flags),
        _ => State::Udp,
    }
}
