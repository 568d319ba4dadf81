//! A director in memory with one service, and the function whose instructions count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use crossbeam::queue::ArrayQueue;
use dataplane::conn::Tick;
use dataplane::conn_log::ConnLogConfig;
use dataplane::counters::WorkerCounters;
use dataplane::fib::{Fib, NextHop, PortInfo, Route};
use dataplane::packet::BURST;
use dataplane::shared::{Limits, Publisher, Shared};
use dataplane::snapshot::{ClientAddress, ForwardMode, Server, Service, ServiceKey, ServiceTable, Settings, Snapshot};
use dataplane::steer::Rss;
use dataplane::worker::{self, Idle, Worker, WorkerConfig};
use dataplane::{PortId, ServerId, ServiceId};
use proto::{Protocol, tcp};
use sched::{Kind, Scheduler};

use crate::frame::{self, OWN_MAC, PEER_MAC};
use crate::wire::Wire;

/// Connections that a worker has room for, in each family.
const CONNECTIONS: usize = 1 << 16;
const SERVERS: u8 = 4;
/// Entries of a log that nobody reads: more than any scenario makes.
const LOG_EVENTS: usize = 1 << 16;
const VPORT: u16 = 80;
const DPORT: u16 = 8080;

/// What the service is like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub mode: ForwardMode,
    pub is_v6: bool,
    pub protocol: Protocol,
    pub workers: usize,
    pub client_address: Option<ClientAddress>,
    /// Connections are logged; if so, whether with their packets and bytes.
    pub log: Option<bool>,
}

/// The director and the wires to it.
pub struct Bed {
    pub shared: Arc<Shared>,
    pub now: Tick,
    config: Config,
    workers: Vec<Worker<Wire>>,
    wires: Vec<Wire>,
    _publisher: Publisher,
}

/// A worker's turn whose instructions count. Callgrind finds the function by its name.
#[inline(never)]
fn counted_turn(worker: &mut Worker<Wire>, now: Tick) -> usize {
    worker.turn_at(now)
}

/// Ends a scenario: here callgrind writes down the count and begins anew.
#[inline(never)]
pub fn scenario_ends(work: u64) -> u64 {
    std::hint::black_box(work)
}

/// Host `n` of network `net`: 192.0.2.0/24 and 2001:db8::/64 is the link.
fn host(is_v6: bool, net: Net, n: u32) -> IpAddr {
    match is_v6 {
        false => Ipv4Addr::from(net as u32 | n).into(),
        true => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(net as u32) << 64 | u128::from(n)).into(),
    }
}

/// Networks: addresses for private use, documentation and benchmarks (RFC 1918, 5737, 2544).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Net {
    Link = 0xc000_0200,
    Client = 0x0a00_0000,
    Virtual = 0xcb00_7100,
    Local = 0xc612_0000,
}

impl Bed {
    pub fn new(config: Config) -> Self {
        let shared = Shared::new(Limits {
            workers: config.workers,
            ports: 1,
            max_services: 4,
            max_servers: SERVERS.into(),
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 2 * BURST,
            max_frame: 2048,
        });
        let mut publisher = Publisher::new(Arc::clone(&shared));
        publisher.publish(Snapshot {
            services: Arc::new(ServiceTable::new([Arc::new(service(&config))])),
            fib: Arc::new(fib(config.is_v6)),
            settings: Settings::default(),
            ..Snapshot::default()
        });
        let wires: Vec<Wire> = (0..config.workers).map(|_| Wire::default()).collect();
        let workers = WorkerConfig {
            connections: CONNECTIONS,
            seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            idle: Idle::Poll,
            rss: Rss::software(config.workers),
        };
        let mut workers = worker::build(wires.clone(), &shared, &workers);
        if let Some(traffic) = config.log {
            let events = Arc::new(ArrayQueue::new(LOG_EVENTS));
            let log = ConnLogConfig { events, rate: 0, traffic };
            workers.iter_mut().for_each(|worker| worker.log_connections(log.clone()));
        }
        Self { shared, now: Tick(1), config, workers, wires, _publisher: publisher }
    }

    /// The endpoint of client `n`.
    pub fn client(&self, n: u32) -> SocketAddr {
        // Far apart, whatever the numbers.
        SocketAddr::new(host(self.config.is_v6, Net::Client, n.wrapping_mul(0x9e_3779b1) & 0xff_ffff), 4711)
    }

    /// The virtual endpoint.
    pub fn virt(&self) -> SocketAddr {
        SocketAddr::new(host(self.config.is_v6, Net::Virtual, 1), VPORT)
    }

    /// A packet of client `n` to the service.
    pub fn request(&self, n: u32, flags: tcp::Flags) -> Vec<u8> {
        frame::packet(self.config.protocol, flags, self.client(n), self.virt())
    }

    /// Frames arrive at the first worker, at most a burst.
    pub fn arrive<'a>(&mut self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        frames.into_iter().for_each(|frame| self.wires[0].push(frame));
    }

    /// A turn of every worker, in order, that counts.
    pub fn turn(&mut self) {
        for worker in &mut self.workers {
            counted_turn(worker, self.now);
        }
    }

    /// A turn of every worker that does not count.
    pub fn free_turn(&mut self) {
        for worker in &mut self.workers {
            worker.turn_at(self.now);
        }
    }

    /// Sends each of these frames, a burst at a time, and returns what left, which must be as many.
    pub fn exchange(&mut self, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        self.wires.iter().for_each(Wire::capture);
        for burst in frames.chunks(BURST) {
            self.arrive(burst);
            self.free_turn();
        }
        let left: Vec<_> = self.wires.iter().flat_map(Wire::captured).collect();
        ensure!(left.len() == frames.len(), "{} packets of {} left", left.len(), frames.len());
        Ok(left)
    }

    /// Frames that left.
    pub fn sent(&self) -> u64 {
        self.wires.iter().map(Wire::sent).sum()
    }

    /// The sum of a counter over all workers.
    pub fn total(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.shared.workers.iter().map(|worker| counter(&worker.counters)).sum()
    }

    /// The kernel takes what there is for it.
    pub fn take_punted(&self) {
        while let Some(frame) = self.shared.punt.receive() {
            self.shared.punt.recycle(frame);
        }
    }
}

fn service(config: &Config) -> Service {
    let server = |n: u8| Server {
        id: ServerId(n.into()),
        addr: host(config.is_v6, Net::Link, 10 + u32::from(n)),
        port: if config.mode.sees_replies() { DPORT } else { VPORT },
        mode: config.mode,
        encapsulation: Default::default(),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let locals = if config.mode == ForwardMode::FullNat { 1..5 } else { 0..0 };
    Service {
        id: ServiceId(0),
        incarnation: 1,
        version: 1,
        key: ServiceKey { protocol: config.protocol, vaddr: host(config.is_v6, Net::Virtual, 1), vport: VPORT },
        scheduler: Scheduler::new(Kind::Rr, &[]),
        servers: (0..SERVERS).map(server).collect(),
        local_addresses: locals.map(|n| host(config.is_v6, Net::Local, n)).collect(),
        local_ports: (1024, 65535),
        timeout: None,
        one_packet: false,
        sorry: None,
        persistence: None,
        client_address: config.client_address,
    }
}

/// Servers are on the link, clients behind a router.
fn fib(is_v6: bool) -> Fib {
    let port = PortId(0);
    let (own, router) = (host(is_v6, Net::Link, 1), host(is_v6, Net::Link, 2));
    let route = |net, prefix_len, gateway| Route {
        network: host(is_v6, net, 0),
        prefix_len,
        next_hops: vec![NextHop { port, gateway, weight: 1 }],
        preferred_source: None,
        mtu: None,
    };
    let routes = match is_v6 {
        false => [route(Net::Link, 24, None), route(Net::Client, 8, Some(router))],
        true => [route(Net::Link, 64, None), route(Net::Client, 64, Some(router))],
    };
    let servers = (0..SERVERS).map(|n| host(is_v6, Net::Link, 10 + u32::from(n)));
    let neighbours = servers.chain([router]).map(|addr| ((port, addr), PEER_MAC));
    Fib::new(1, vec![PortInfo { mac: OWN_MAC, mtu: 1500, addresses: vec![own] }], routes, neighbours, [own])
}
