//! A director in memory and the network around it.
//!
//! Port 0 leads to clients (192.0.2.0/24, 2001:db8:1::/64), port 1 to servers (198.51.100.0/24, 2001:db8:2::/64).

pub mod check;
pub mod packet;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dataplane::conn::{ConnRecord, TICKS_PER_SECOND, Tick};
use dataplane::counters::WorkerCounters;
use dataplane::fib::{Fib, Mac, NextHop, PortInfo, Route};
use dataplane::io::memory::{HeapPacket, MemoryIo};
use dataplane::shared::{Command, Limits, Publisher, Reply, Shared};
use dataplane::snapshot::{ForwardMode, Server, Service, ServiceKey, ServiceTable, Settings, Snapshot};
use dataplane::steer::Rss;
use dataplane::verdict::DropReason;
use dataplane::worker::{self, Idle, Worker, WorkerConfig};
use dataplane::{PortId, ServerId, ServiceId};
use proto::{Family, Protocol};
use sched::{Kind, Scheduler};

use check::Seen;
use packet::Packet;

pub const CLIENTS: PortId = PortId(0);
pub const SERVERS: PortId = PortId(1);
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub const MODES: [ForwardMode; 4] =
    [ForwardMode::Nat, ForwardMode::FullNat, ForwardMode::DirectRouting, ForwardMode::Tunnel];
pub const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];
pub const VPORT: u16 = 80;
/// Ports of servers in NAT and FULLNAT modes.
pub const DPORT: u16 = 8080;

fn address(family: Family, v4: [u8; 3], v6: u16, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(v4[0], v4[1], v4[2], host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, v6, 0, 0, 0, 0, u16::from(host)).into(),
    }
}

/// Host `n` on the clients' link.
pub fn on_client_link(family: Family, n: u8) -> IpAddr {
    address(family, [192, 0, 2], 1, n)
}

/// Host `n` on the servers' link.
pub fn on_server_link(family: Family, n: u8) -> IpAddr {
    address(family, [198, 51, 100], 2, n)
}

/// The director's own address on a port.
pub fn own(family: Family, port: PortId) -> IpAddr {
    if port == CLIENTS { on_client_link(family, 1) } else { on_server_link(family, 1) }
}

pub fn client(family: Family, cport: u16) -> SocketAddr {
    SocketAddr::new(on_client_link(family, 100), cport)
}

/// Virtual address `n`.
pub fn vip(family: Family, n: u8) -> IpAddr {
    address(family, [203, 0, 113], 0xf, n)
}

/// The address of server `n`, from 1.
pub fn server(family: Family, n: u8) -> IpAddr {
    on_server_link(family, 10 + n)
}

/// Local address `n`, from 1.
pub fn local(family: Family, n: u8) -> IpAddr {
    on_server_link(family, 200 + n)
}

pub fn port_mac(port: PortId) -> Mac {
    [2, 0, 0, 0, 0, port.0 as u8]
}

/// The MAC address of a host.
pub fn mac_of(addr: IpAddr) -> Mac {
    match addr {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            [2, 4, a, b, c, d]
        }
        IpAddr::V6(a) => {
            let s = a.segments();
            [2, 6, s[2] as u8, 0, (s[7] >> 8) as u8, s[7] as u8]
        }
    }
}

/// Everything around the director.
#[derive(Clone)]
pub struct Network {
    pub mtu: [u16; 2],
    pub routes: Vec<Route>,
    /// Hosts whose MAC address the kernel does not know.
    pub unresolved: Vec<IpAddr>,
    /// Hosts whose MAC address is not [`mac_of`] them.
    pub moved: Vec<(IpAddr, Mac)>,
}

impl Default for Network {
    fn default() -> Self {
        let mut routes = Vec::new();
        for family in FAMILIES {
            let prefix_len = if family == Family::V4 { 24 } else { 64 };
            for port in [CLIENTS, SERVERS] {
                routes.push(Route {
                    network: own(family, port),
                    prefix_len,
                    next_hops: vec![NextHop { port, gateway: None, weight: 1 }],
                    preferred_source: None,
                    mtu: None,
                });
            }
        }
        Self { mtu: [1500; 2], routes, unresolved: Vec::new(), moved: Vec::new() }
    }
}

impl Network {
    fn fib(&self, generation: u32) -> Fib {
        let ports = [CLIENTS, SERVERS].map(|port| PortInfo {
            mac: port_mac(port),
            mtu: self.mtu[usize::from(port.0)],
            addresses: FAMILIES.map(|family| own(family, port)).to_vec(),
        });
        let hosts = FAMILIES.into_iter().flat_map(|family| {
            (2..=254).flat_map(move |n| [(CLIENTS, on_client_link(family, n)), (SERVERS, on_server_link(family, n))])
        });
        let neighbours = hosts.filter(|(_, addr)| !self.unresolved.contains(addr)).map(|(port, addr)| {
            let moved = self.moved.iter().find(|(host, _)| *host == addr);
            ((port, addr), moved.map_or(mac_of(addr), |(_, mac)| *mac))
        });
        let mut own_addresses = Vec::new();
        for family in FAMILIES {
            own_addresses.extend([own(family, CLIENTS), own(family, SERVERS), vip(family, 1), local(family, 1)]);
        }
        Fib::new(generation, ports.to_vec(), self.routes.clone(), neighbours, own_addresses)
    }
}

/// A service on virtual address `id` with these servers, each of weight 1; the ids of its servers begin at `id * 16`.
pub fn service(id: u8, family: Family, protocol: Protocol, mode: ForwardMode, servers: &[u8]) -> Service {
    let port = if mode.sees_replies() { DPORT } else { VPORT };
    let servers = servers.iter().enumerate().map(|(i, &n)| Server {
        id: ServerId(u32::from(id) * 16 + i as u32),
        addr: server(family, n),
        port,
        mode,
        encapsulation: Default::default(),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    });
    Service {
        id: ServiceId(id.into()),
        incarnation: 1,
        version: 0,
        key: ServiceKey { protocol, vaddr: vip(family, id), vport: VPORT },
        scheduler: Scheduler::new(Kind::Rr, &[]),
        servers: servers.collect(),
        local_addresses: if mode == ForwardMode::FullNat { vec![local(family, 1)] } else { Vec::new() },
        local_ports: (1024, 65535),
        timeout: None,
        one_packet: false,
        persistence: None,
        client_address: None,
        sorry: None,
    }
}

/// The virtual endpoint of the service `id`.
pub fn virt(family: Family, id: u8) -> SocketAddr {
    SocketAddr::new(vip(family, id), VPORT)
}

/// A frame that left.
#[derive(Clone, Debug)]
pub struct Sent {
    pub port: PortId,
    pub frame: Vec<u8>,
}

impl Sent {
    pub fn seen(&self) -> Seen {
        check::check(&self.frame)
    }
}

/// What [`Director::new`] may vary.
#[derive(Clone, Copy)]
pub struct Setup {
    pub workers: usize,
    /// Connections per worker and family.
    pub connections: usize,
    pub slow_path_frames: usize,
}

impl Setup {
    pub fn workers(workers: usize) -> Self {
        Self { workers, connections: 4096, slow_path_frames: 256 }
    }
}

pub struct Director {
    pub shared: Arc<Shared>,
    pub network: Network,
    pub settings: Settings,
    pub now: Tick,
    publisher: Publisher,
    services: Vec<Service>,
    /// Endpoints of NAT servers that there are or were.
    nat_servers: HashSet<(ServiceKey, IpAddr, u16)>,
    workers: Vec<Worker<MemoryIo>>,
    wires: Vec<MemoryIo>,
    kind: Kind,
    version: u64,
    fib_generation: u32,
    /// Frames that left, and frames of the kernel: for [`settle`](Self::settle).
    frames_out: u64,
    injected: u64,
}

impl Director {
    /// A director with these services, scheduled round robin.
    pub fn new(setup: Setup, services: Vec<Service>) -> Self {
        let shared = Shared::new(Limits {
            workers: setup.workers,
            ports: 2,
            max_services: 64,
            max_servers: 1024,
            templates: 1024,
            call_ids: 1024,
            noted_replies: 1024,
            slow_path_frames: setup.slow_path_frames,
            max_frame: 9018,
        });
        let wires: Vec<MemoryIo> = (0..setup.workers).map(|_| MemoryIo::new(2)).collect();
        let config = WorkerConfig {
            connections: setup.connections,
            seed: [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321],
            idle: Idle::Yield,
            rss: Rss::software(setup.workers),
        };
        let mut director = Self {
            workers: worker::build(wires.clone(), &shared, &config),
            publisher: Publisher::new(Arc::clone(&shared)),
            shared,
            network: Network::default(),
            settings: Settings::default(),
            now: Tick(1),
            services,
            nat_servers: HashSet::new(),
            wires,
            kind: Kind::Rr,
            version: 0,
            fib_generation: 0,
            frames_out: 0,
            injected: 0,
        };
        director.publish();
        director
    }

    pub fn with_scheduler(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self.publish();
        self
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The family of the first service.
    pub fn family(&self) -> Family {
        if self.services[0].key.vaddr.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Changes the configuration and publishes it; the FIB stays as it is.
    pub fn configure(&mut self, change: impl FnOnce(&mut Vec<Service>)) {
        change(&mut self.services);
        let fib = Arc::clone(&self.publisher.current().fib);
        self.publish_with(fib);
    }

    /// Changes the network and publishes the new FIB; the services stay as they are.
    pub fn rewire(&mut self, change: impl FnOnce(&mut Network)) {
        change(&mut self.network);
        self.fib_generation += 1;
        let fib = Arc::new(self.network.fib(self.fib_generation));
        let current = self.publisher.current();
        self.publisher.publish(Snapshot { fib, ..(*current).clone() });
    }

    /// Publishes everything anew.
    pub fn publish(&mut self) {
        self.fib_generation += 1;
        let fib = Arc::new(self.network.fib(self.fib_generation));
        self.publish_with(fib);
    }

    fn publish_with(&mut self, fib: Arc<Fib>) {
        self.version += 1;
        for service in &mut self.services {
            let server = |s: &Server| sched::Server {
                address: SocketAddr::new(s.addr, s.port),
                weight: s.weight,
                last_weight: s.weight,
            };
            let servers: Vec<sched::Server> = service.servers.iter().map(server).collect();
            service.scheduler = Scheduler::new(self.kind, &servers).after(&service.scheduler);
            service.version = self.version;
            let nat_servers = service.servers.iter().filter(|s| s.mode == ForwardMode::Nat);
            self.nat_servers.extend(nat_servers.map(|s| (service.key, s.addr, s.port)));
        }
        let services = self.services.iter().cloned().map(Arc::new);
        let snapshot = Snapshot {
            generation: 0,
            fib_since: 0,
            services: Arc::new(ServiceTable::with_former(services, self.nat_servers.iter().copied())),
            fib,
            settings: self.settings.clone(),
        };
        self.publisher.publish(snapshot);
    }

    /// A frame arrives at a worker's queue of `port`.
    pub fn arrive(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        self.wires[worker].push(port, frame);
    }

    pub fn arrive_packet(&mut self, worker: usize, port: PortId, packet: HeapPacket) {
        self.wires[worker].push_packet(port, packet);
    }

    pub fn workers_mut(&mut self) -> &mut [Worker<MemoryIo>] {
        &mut self.workers
    }

    pub fn wire(&self, worker: usize) -> &MemoryIo {
        &self.wires[worker]
    }

    /// Turns of all workers until none finds a packet. Returns what left.
    pub fn run(&mut self) -> Vec<Sent> {
        while self.turn() > 0 {}
        self.take_sent()
    }

    /// One turn of each worker.
    pub fn turn(&mut self) -> usize {
        self.workers.iter_mut().map(|worker| worker.turn_at(self.now)).sum()
    }

    /// A turn of one worker alone.
    pub fn turn_of(&mut self, worker: usize) -> usize {
        self.workers[worker].turn_at(self.now)
    }

    pub fn take_sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for wire in &self.wires {
            for port in [CLIENTS, SERVERS] {
                sent.extend(wire.drain(port).into_iter().map(|frame| Sent { port, frame }));
            }
        }
        self.frames_out += sent.len() as u64;
        sent
    }

    /// `packet` arrives and everything is done that follows from it.
    pub fn receive(&mut self, worker: usize, port: PortId, packet: &Packet) -> Vec<Sent> {
        self.arrive(worker, port, &frame_for(port, packet));
        self.run()
    }

    /// The same, where exactly one frame follows. Returns its port and content.
    pub fn forward(&mut self, worker: usize, port: PortId, packet: &Packet) -> (PortId, Seen) {
        let sent = self.receive(worker, port, packet);
        assert_eq!(sent.len(), 1, "one frame for {packet:?}; drops: {:?}", self.drops());
        (sent[0].port, sent[0].seen())
    }

    /// Lets time pass, tick by tick.
    pub fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = Tick(self.now.0 + 1);
            while self.turn() > 0 {}
        }
    }

    pub fn pass_seconds(&mut self, seconds: u32) {
        self.pass(seconds * TICKS_PER_SECOND);
    }

    /// Hands a frame of the kernel to the director.
    pub fn inject(&mut self, port: PortId, frame: &[u8]) {
        let mut slow = self.shared.inject.take_empty().expect("a buffer");
        assert!(slow.fill(port, frame));
        self.shared.inject.send(slow);
        self.injected += 1;
    }

    /// What the kernel got: ports and frames.
    pub fn punted(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = self.shared.punt.receive() {
            frames.push((frame.port, frame.data().to_vec()));
            self.shared.punt.recycle(frame);
        }
        frames
    }

    /// Neighbours that the kernel was asked to find.
    pub fn requests(&mut self) -> Vec<(PortId, IpAddr)> {
        std::iter::from_fn(|| self.shared.resolve.pop()).collect()
    }

    /// The sum of a counter over all workers.
    pub fn total(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.shared.workers.iter().map(|w| counter(&w.counters)).fold(0, u64::wrapping_add)
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.total(|c| c.drops[reason as usize].get())
    }

    /// All reasons that packets were dropped for, and how many.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let counts = DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)));
        counts.filter(|&(_, n)| n > 0).collect()
    }

    /// Active and inactive connections of a server.
    pub fn load(&self, id: ServerId) -> (u64, u64) {
        (self.total(|c| c.load(id).active.get()), self.total(|c| c.load(id).inactive.get()))
    }

    /// All connections, by worker, asked for in slices of `slice`.
    pub fn connections_by(&mut self, slice: usize) -> Vec<(usize, ConnRecord)> {
        let mut all = Vec::new();
        for worker in 0..self.workers.len() {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let command = Command::Dump { cursor: from, records: Vec::with_capacity(slice) };
                self.shared.workers[worker].commands.push(command).expect("room for a command");
                let answer = (0..100).find_map(|_| {
                    self.workers[worker].turn_at(self.now);
                    self.shared.workers[worker].replies.pop()
                });
                let Reply::Dump { next, records } = answer.expect("an answer within 100 turns");
                assert!(records.len() <= slice, "{} records in a slice of {slice}", records.len());
                all.extend(records.into_iter().map(|record| (worker, record)));
                cursor = next;
            }
        }
        all
    }

    pub fn connections(&mut self) -> Vec<ConnRecord> {
        self.connections_by(64).into_iter().map(|(_, record)| record).collect()
    }

    /// The only connection there is.
    pub fn connection(&mut self) -> ConnRecord {
        let all = self.connections();
        assert_eq!(all.len(), 1, "one connection: {all:?}");
        all[0]
    }

    pub fn waiting(&self) -> usize {
        self.workers.iter().map(Worker::waiting).sum()
    }

    /// Fragments that wait for others.
    pub fn held_fragments(&self) -> usize {
        self.workers.iter().map(Worker::held_fragments).sum()
    }

    /// Checks the books: every packet that came in left, waits or was dropped, and the servers' counters agree with the
    /// connections there are.
    pub fn settle(&mut self) {
        self.run();
        let received = self.total(|c| c.ports.iter().map(|p| p.rx_packets.get()).sum());
        let transmitted = self.total(|c| c.ports.iter().map(|p| p.tx_packets.get()).sum());
        let dropped: u64 = self.drops().iter().map(|(_, n)| n).sum();
        let (punted, originated) =
            (self.total(|c| c.punted.get()), self.total(|c| c.icmp_sent.get() + c.inserted.get()));
        let (joined, wholes) = (self.total(|c| c.fragments.get()), self.total(|c| c.reassembled.get()));
        let (made, fragmented) = (self.total(|c| c.fragments_made.get()), self.total(|c| c.fragmented.get()));
        let held = self.held_fragments() as u64;
        assert_eq!(
            received + self.injected + originated + made + wholes,
            transmitted + punted + dropped + self.waiting() as u64 + fragmented + joined + held,
            "received {received} + injected {} + originated {originated} + fragments made {made} + put together {wholes} \
             = transmitted {transmitted} + punted {punted} + dropped {:?} + waiting {} + fragmented {fragmented} + joined \
             {joined} + held {held}",
            self.injected,
            self.drops(),
            self.waiting()
        );
        assert_eq!(
            self.shared.whole_packets.available(),
            self.workers.len() * dataplane::reassembly::WHOLE_PACKETS,
            "buffers of whole packets"
        );
        assert_eq!(transmitted, self.frames_out, "frames on the wire");
        let connections = self.connections();
        assert_eq!(self.total(|c| c.table_entries.get()), connections.len() as u64, "table entries");
        for id in (0..self.shared.limits.max_servers as u32).map(ServerId) {
            let of_server = connections.iter().filter(|c| c.server_id == id);
            let (active, inactive): (Vec<&ConnRecord>, Vec<_>) = of_server.partition(|c| c.state.is_active());
            let expected = (active.len() as u64, inactive.len() as u64);
            assert_eq!(self.load(id), expected, "active and inactive connections of server {id:?}");
        }
    }

    /// Ends all connections by letting time pass, and checks the books.
    pub fn finish(mut self) {
        // Second by second, and one more than the longest default timeout.
        for _ in 0..901 {
            self.now = self.now.after(1);
            while self.turn() > 0 {}
        }
        self.settle();
        assert_eq!(self.connections(), [], "connections after every timeout");
    }

    /// Gives the workers away, to be run by threads.
    pub fn into_workers(self) -> (Vec<Worker<MemoryIo>>, Vec<MemoryIo>, Arc<Shared>, Publisher) {
        (self.workers, self.wires, self.shared, self.publisher)
    }
}

/// The frame of a packet as it arrives on `port`: from the sender, if it is on the link, to the director.
pub fn frame_for(port: PortId, packet: &Packet) -> Vec<u8> {
    packet.frame(port_mac(port), mac_of(packet.src.ip()))
}

/// Opens a connection and returns the client's packet as its server gets it, without a tunnel around it.
pub fn open(
    director: &mut Director,
    worker: usize,
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> check::SeenIp {
    let (port, seen) = director.forward(worker, CLIENTS, &packet::opening(protocol, from, to));
    assert_eq!(port, SERVERS, "{from} to {to}");
    seen.ip.innermost()
}
