//! New connections: which server takes one, and from which local port.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proto::state::{Direction, State};
use proto::{Protocol, Tuple, quic, udp};
use sched::{Expirations, Pool, Request};

use crate::ServerId;
use crate::conn::{Conn, ConnFlags, ConnId, ConnRecord, InsertError, TICKS_PER_SECOND, Tick, Unanswered};
use crate::counters::ServerLoad;
use crate::defence::Mode;
use crate::fib::{AdjacencyId, Fib};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::shared::{Limits, Shared};
use crate::snapshot::{ClientAddress, ForwardMode, Server, Service, Snapshot};
use crate::templates::TemplateId;
use crate::verdict::DropReason;

/// Local ports tried for one connection, per worker. With 95 % of the ports taken one in a thousand connections finds
/// none; a pool smaller than this is used to the last port.
pub(crate) const PORT_ATTEMPTS: usize = 128;

/// What a worker remembers of services between connections. Sized at start-up.
pub struct Scheduling {
    /// By [`ServiceId`](crate::ServiceId).
    services: Box<[ServiceState]>,
    /// By [`ServerId`].
    servers: Box<[ServerState]>,
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
    /// Where every server's turn through the local endpoints begins.
    first_local: LocalEndpoint,
}

/// A local endpoint of a service: the index of its address, and the port.
#[derive(Clone, Copy, Default)]
struct LocalEndpoint {
    address: u32,
    port: u16,
}

#[derive(Clone)]
struct ServerState {
    /// Whose state this is: another server may have had the id before.
    addr: IpAddr,
    /// The local endpoint to try next. Each server has a turn of its own, because an endpoint has to be free towards one
    /// server only, and because the next one of a server can be foreseen and prefetched.
    next_local: LocalEndpoint,
    /// Generation of the FIB that `way` belongs to; 0: none.
    fib_generation: u32,
    /// The way to the server, if it is the same for all connections.
    way: AdjacencyId,
}

impl ServerState {
    const NONE: Self = Self {
        addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        next_local: LocalEndpoint { address: 0, port: 0 },
        fib_generation: 0,
        way: AdjacencyId::NONE,
    };
}

impl Scheduling {
    /// Room for every service and server that the limits allow.
    pub fn new(limits: &Limits, seed: u64) -> Self {
        Self {
            services: vec![ServiceState::default(); limits.max_services].into_boxed_slice(),
            servers: vec![ServerState::NONE; limits.max_servers].into_boxed_slice(),
            random: seed | 1,
        }
    }

    /// Chooses a server of `service`.
    fn pick<'s>(&mut self, shared: &Shared, service: &'s Service, request: &impl Request) -> Option<&'s Server> {
        let has_thresholds = self.bring_up_to_date(shared, service).has_thresholds;
        if has_thresholds {
            note_thresholds(shared, &service.servers);
        }
        let state = &mut self.services[service.id.0 as usize];
        let pool = Servers { shared, servers: &service.servers, has_thresholds };
        let server = match service.scheduler.pick(&mut state.scheduler, request, &pool) {
            Some(choice) => {
                let server = &service.servers[choice];
                state.last = Some(server.id);
                server
            }
            None => {
                let is_available = |server: usize| pool.weight(server) > 0 && !pool.is_overloaded(server);
                service.sorry.as_ref().filter(|_| !(0..pool.len()).any(is_available))?
            }
        };
        self.remember(shared, service, server);
        Some(server)
    }

    /// Makes sure that what is remembered of a chosen server is its own.
    pub(crate) fn remember(&mut self, shared: &Shared, service: &Service, server: &Server) {
        if self.servers[server.id.0 as usize].addr != server.addr {
            let next_local = self.bring_up_to_date(shared, service).first_local;
            self.servers[server.id.0 as usize] = ServerState { addr: server.addr, next_local, ..ServerState::NONE };
        }
    }

    /// The state of `service`, brought up to date if the service has changed.
    fn bring_up_to_date(&mut self, shared: &Shared, service: &Service) -> &ServiceState {
        let state = &mut self.services[service.id.0 as usize];
        if state.version != service.version {
            if state.incarnation != service.incarnation {
                // Begin where nobody can guess.
                self.random = xorshift(self.random);
                let (first, last) = service.local_ports;
                let ports = u64::from(last.saturating_sub(first)) + 1;
                let addresses = service.local_addresses.len().max(1) as u64;
                let first_local = LocalEndpoint {
                    address: ((self.random & 0xffff) % addresses) as u32,
                    port: first + ((self.random >> 32) % ports) as u16,
                };
                *state = ServiceState {
                    incarnation: service.incarnation,
                    scheduler: sched::State::new(self.random),
                    first_local,
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
                shared.overloaded[server.id.0 as usize].store(false, Relaxed);
            }
        }
        state
    }

    /// The way to a server chosen that all its connections take, if there is one; remembered while the FIB stays the same.
    fn way_to(&mut self, server: &Server, fib: &Fib) -> AdjacencyId {
        let state = &mut self.servers[server.id.0 as usize];
        if state.fib_generation != fib.generation {
            state.fib_generation = fib.generation;
            state.way = fib.resolve_for_all(server.addr).unwrap_or(AdjacencyId::NONE);
        }
        state.way
    }

    /// The connection as the control thread sees it, with the server's address if the connection has no room for it.
    pub(crate) fn record<A: Ip>(&self, conn: &Conn<A>, now: Tick) -> ConnRecord {
        let mut record = conn.record(now);
        if record.server.0.is_unspecified() {
            record.server.0 = self.address_of(conn.server);
        }
        record
    }

    /// The address of a server that has connections of this worker.
    pub(crate) fn address_of(&self, server: ServerId) -> IpAddr {
        self.servers[server.0 as usize].addr
    }

    /// The local endpoint that is next in turn towards a server chosen; `None` if the service has no local address of the
    /// version.
    pub(crate) fn local<A: Ip>(&mut self, service: &Service, server: ServerId) -> Option<(A, u16)> {
        let state = &mut self.servers[server.0 as usize];
        // The service may have changed since.
        let LocalEndpoint { address, port } = &mut state.next_local;
        let (first, last) = service.local_ports;
        if *port < first || *port > last {
            *port = first;
        }
        for _ in 0..service.local_addresses.len() {
            if *address as usize >= service.local_addresses.len() {
                *address = 0;
            }
            if let Some(laddr) = A::from_ip(service.local_addresses[*address as usize]) {
                return Some((laddr, *port));
            }
            *address += 1;
            *port = first;
        }
        None
    }

    /// Ends the turn of a server's local endpoint.
    pub(crate) fn advance_local(&mut self, service: &Service, server: ServerId) {
        let LocalEndpoint { address, port } = &mut self.servers[server.0 as usize].next_local;
        match *port < service.local_ports.1 {
            true => *port += 1,
            false => {
                *port = service.local_ports.0;
                *address += 1;
            }
        }
    }
}

fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

/// Sets and clears the servers' overload flags (ip_vs_conn.c, ip_vs_bind_dest and ip_vs_unbind_dest).
fn note_thresholds(shared: &Shared, servers: &[Server]) {
    for server in servers.iter().filter(|server| server.upper_threshold > 0) {
        let flag = &shared.overloaded[server.id.0 as usize];
        let total = total(shared, server.id, |c| c.active.get().wrapping_add(c.inactive.get()));
        let upper = u64::from(server.upper_threshold);
        let is_low = match server.lower_threshold {
            0 => total * 4 < upper * 3,
            lower => total < u64::from(lower),
        };
        flag.store(total >= upper || (flag.load(Relaxed) && !is_low), Relaxed);
    }
}

/// A service's servers with the connection counts of the whole director.
struct Servers<'a> {
    shared: &'a Shared,
    servers: &'a [Server],
    has_thresholds: bool,
}

impl Pool for Servers<'_> {
    fn len(&self) -> usize {
        self.servers.len()
    }
    fn id(&self, server: usize) -> u32 {
        self.servers[server].id.0
    }
    fn weight(&self, server: usize) -> u32 {
        self.servers[server].weight
    }
    fn is_overloaded(&self, server: usize) -> bool {
        self.has_thresholds && self.shared.overloaded[self.servers[server].id.0 as usize].load(Relaxed)
    }
    fn active(&self, server: usize) -> u64 {
        total(self.shared, self.servers[server].id, |c| c.active.get())
    }
    fn inactive(&self, server: usize) -> u64 {
        total(self.shared, self.servers[server].id, |c| c.inactive.get())
    }
}

/// The packet that opens a connection, as schedulers see it.
struct Opening<'a, A> {
    tuple: &'a Tuple<A>,
    /// From the transport header on.
    segment: &'a [u8],
    now: Tick,
    expirations: Expirations,
}

impl<A: Ip> Request for Opening<'_, A> {
    fn source(&self) -> IpAddr {
        self.tuple.src.into()
    }
    fn source_port(&self) -> u16 {
        self.tuple.sport
    }
    fn destination(&self) -> IpAddr {
        self.tuple.dst.into()
    }
    fn quic_id(&self) -> Option<u64> {
        match self.tuple.protocol {
            Protocol::UDP => quic::connection_id(self.segment.get(udp::HEADER_LEN..)?),
            _ => None,
        }
    }
    fn now(&self) -> u32 {
        self.now.0 / TICKS_PER_SECOND
    }
    fn expirations(&self) -> Expirations {
        self.expirations
    }
}

fn total(shared: &Shared, id: ServerId, value: impl Fn(&ServerLoad) -> u64) -> u64 {
    shared.workers.iter().map(|worker| value(worker.counters.load(id))).sum()
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Chooses a server for the packet, whose destination is `service`: the connection that would be opened.
    #[inline(always)]
    pub(crate) fn assign<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        job: &Job<Io::Packet, A>,
    ) -> Result<(Conn<A>, Option<TemplateId>), DropReason> {
        if snapshot.settings.draining {
            return Err(DropReason::Draining);
        }
        let (server, template) = match &service.persistence {
            None => (self.pick_server(snapshot, service, job)?, None),
            Some(persistence) => self.pick_persistent(snapshot, service, persistence, job)?,
        };
        let daddr = match A::from_ip(server.addr) {
            Some(daddr) => daddr,
            // The end of a tunnel of the other family is known by the server's id, a FULLNAT server by the connection's extra.
            None if matches!(server.mode, ForwardMode::Tunnel | ForwardMode::FullNat) => A::UNSPECIFIED,
            // The control thread keeps other servers in their service's family.
            None => return Err(DropReason::NoServer),
        };
        let tuple = job.ip.tuple;
        let mut conn = Conn {
            caddr: tuple.src,
            vaddr: tuple.dst,
            laddr: tuple.src,
            daddr,
            cport: tuple.sport,
            vport: tuple.dport,
            lport: tuple.sport,
            dport: server_port(service, server, tuple.dport),
            protocol: tuple.protocol,
            mode: server.mode,
            state: self.initial_state(tuple.protocol, server.mode, job),
            flags: flags::<A>(service, server, tuple.protocol),
            server: server.id,
            to_server: AdjacencyId::NONE,
            to_client: Unanswered::Once.code(),
            epoch: snapshot.epoch(),
            timer: Default::default(),
        };
        if server.mode != ForwardMode::Tunnel {
            conn.to_server = self.scheduling.way_to(server, &snapshot.fib);
        }
        Ok((conn, template))
    }

    /// Has the service's scheduler choose a server.
    pub(crate) fn pick_server<'s, A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &'s Service,
        job: &Job<Io::Packet, A>,
    ) -> Result<&'s Server, DropReason> {
        let segment = job.packet.data().get(usize::from(job.ip.l4)..).unwrap_or_default();
        let expirations = snapshot.settings.expirations;
        let opening = Opening { tuple: &job.ip.tuple, segment, now: self.now, expirations };
        self.scheduling.pick(&self.shared, service, &opening).ok_or_else(|| {
            self.counters().service(service.id).no_server.add(1);
            DropReason::NoServer
        })
    }

    /// Opens a connection for the packet, whose destination is `service`.
    #[inline(always)]
    pub(crate) fn schedule<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        job: &Job<Io::Packet, A>,
    ) -> Result<ConnId, DropReason> {
        let (conn, template) = self.assign(snapshot, service, job)?;
        let server = conn.server;
        let timeout = conn.timeout(snapshot);
        let is_active = conn.state.is_active();
        let inserted = match conn.mode {
            ForwardMode::FullNat if conn.flags.contains(ConnFlags::FAR) => self.insert_across(service, conn, timeout),
            ForwardMode::FullNat => self.insert_with_local_endpoint(service, conn, timeout),
            _ => self.insert(service, conn, timeout),
        };
        let id = match (inserted, template) {
            (Ok(id), Some(template)) => {
                A::table(&mut self.tables).set_template(id, template);
                id
            }
            (Ok(id), None) => id,
            (Err(reason), template) => {
                template.inspect(|&template| self.shared.templates.release(template));
                return Err(reason);
            }
        };
        if snapshot.settings.defences.drop_entry != Mode::Off {
            A::table(&mut self.tables).begin_counting(id);
        }
        if let Some(ClientAddress::Proxy(version)) = service.client_address {
            self.expect_proxy_header::<A>(id, version);
        }
        self.log_begin::<A>(id);
        let load = self.counters().load(server);
        load.total.add(1);
        match is_active {
            true => load.active.add(1),
            false => load.inactive.add(1),
        }
        // It may fall below the upper threshold again before anybody asks.
        if self.scheduling.services[service.id.0 as usize].has_thresholds {
            note_thresholds(&self.shared, &service.servers);
        }
        self.attach_helper::<A>(snapshot, service, id);
        Ok(id)
    }

    /// Inserts a connection that keeps the client's address. Other workers learn of it if its replies do not tell them.
    fn insert<A: Ip>(&mut self, service: &Service, mut conn: Conn<A>, timeout: u32) -> Result<ConnId, DropReason> {
        let is_elsewhere = conn.mode == ForwardMode::Nat && conn.vport != service.key.vport;
        let reply = conn.outbound();
        let noted = self.shared.replies.as_ref().filter(|_| is_elsewhere);
        if let Some(replies) = noted {
            if !replies.insert(&reply, self.id) {
                return Err(DropReason::TableFull);
            }
            conn.flags.insert(ConnFlags::NOTED);
        }
        A::table(&mut self.tables).insert(conn, timeout, self.now).map_err(|error| {
            noted.inspect(|replies| replies.remove(&reply, self.id));
            match error {
                InsertError::Full => DropReason::TableFull,
                InsertError::Exists => DropReason::TupleConflict,
            }
        })
    }

    /// Inserts the connection with a local address and port that are free towards the server and whose replies come to
    /// this worker.
    fn insert_with_local_endpoint<A: Ip>(
        &mut self,
        service: &Service,
        mut conn: Conn<A>,
        timeout: u32,
    ) -> Result<ConnId, DropReason> {
        if service.local_addresses.is_empty() {
            return Err(DropReason::NoLocalAddress);
        }
        let (first, last) = service.local_ports;
        let pool = service.local_addresses.len() * (usize::from(last - first) + 1);
        for _ in 0..pool.min(PORT_ATTEMPTS * self.shared.limits.workers) {
            let Some(local) = self.scheduling.local(service, conn.server) else {
                return Err(DropReason::NoLocalAddress);
            };
            self.scheduling.advance_local(service, conn.server);
            (conn.laddr, conn.lport) = local;
            if !self.takes_reply(&conn.outbound()) {
                continue;
            }
            match A::table(&mut self.tables).insert(conn.clone(), timeout, self.now) {
                Ok(id) => {
                    self.prefetch_next_local(service, conn);
                    return Ok(id);
                }
                Err(InsertError::Exists) => {}
                Err(InsertError::Full) => return Err(DropReason::TableFull),
            }
        }
        self.counters().service(service.id).local_port_exhausted.add(1);
        Err(DropReason::LocalPortExhausted)
    }

    /// Loads what the server's next connection will need of the index.
    fn prefetch_next_local<A: Ip>(&mut self, service: &Service, mut conn: Conn<A>) {
        for _ in 0..4 * self.shared.limits.workers {
            let Some(local) = self.scheduling.local(service, conn.server) else { return };
            (conn.laddr, conn.lport) = local;
            let reply = conn.outbound();
            if self.owns(&reply) {
                let table = A::table(&mut self.tables);
                return table.prefetch_bucket(table.hash(&reply));
            }
            self.scheduling.advance_local(service, conn.server);
        }
    }

    /// The state of a connection before its first packet is tracked: with TCP and UDP the one that it leads to.
    fn initial_state<A>(&self, protocol: Protocol, mode: ForwardMode, job: &Job<Io::Packet, A>) -> State {
        match protocol {
            Protocol::TCP if mode.sees_replies() => self.defence.tcp_next(State::None, Direction::In, job.ip.flags),
            Protocol::TCP => self.defence.tcp_next(State::None, Direction::InOnly, job.ip.flags),
            // Unlike TCP's machine this one counts its steps: tracking the packet is the first.
            Protocol::SCTP => State::SctpNone,
            _ => State::Udp,
        }
    }

    /// True when replies with this tuple come to this worker and belong to no connection of the other IP version.
    pub(crate) fn takes_reply<A: Ip>(&mut self, reply: &Tuple<A>) -> bool {
        self.owns(reply) && A::Other::table(&mut self.tables).find_far(reply).is_none()
    }

    /// True when packets with this tuple come to this worker.
    pub(crate) fn owns<A: Ip>(&self, tuple: &Tuple<A>) -> bool {
        self.shared.limits.workers == 1 || self.ownership.owner(tuple) == self.id
    }
}

/// The port that packets for `vport` are sent to.
fn server_port(service: &Service, server: &Server, vport: u16) -> u16 {
    // A persistent service gives its servers' ports to packets for its own port only (ip_vs_sched_persist).
    let is_translated = service.persistence.is_none() || vport == service.key.vport;
    if is_translated && server.port != 0 { server.port } else { vport }
}

/// What is special about a new connection.
fn flags<A: Ip>(service: &Service, server: &Server, protocol: Protocol) -> ConnFlags {
    let mut flags = ConnFlags::empty();
    flags.set(ConnFlags::OWN_TIMEOUT, service.timeout.is_some());
    let has_address = service.client_address == Some(ClientAddress::Toa) && server.mode == ForwardMode::FullNat;
    flags.set(ConnFlags::FAR, server.mode == ForwardMode::FullNat && A::from_ip(server.addr).is_none());
    flags.set(ConnFlags::TOA, has_address && protocol == Protocol::TCP);
    flags
}
