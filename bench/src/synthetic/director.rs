//! A director with one worker between the ends of a synthetic source, and the two programs it is compared with.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use dataplane::conn::Tick;
use dataplane::counters::WorkerCounters;
use dataplane::fib::{Fib, NextHop, PortInfo, Route};
use dataplane::packet::{Burst, WorkerIo};
use dataplane::shared::{Limits, Publisher, Shared};
use dataplane::snapshot::{ForwardMode, Server, Service, ServiceKey, ServiceTable, Snapshot};
use dataplane::steer::Rss;
use dataplane::verdict::DropReason;
use dataplane::worker::{self, Idle, Worker, WorkerConfig};
use dataplane::{PortId, ServerId, ServiceId, WorkerId};
use dpdk::{Mbuf, Mempool};
use proto::{Protocol, Tuple, ethernet, tcp};
use sched::{Kind, Scheduler};

use super::source::{Capture, Source};
use crate::flows::{Family, Flows, LOCAL_PORTS, Net, Way, mac_of};
use crate::frame::{Expected, OWN_MAC, PEER_MAC, Shape, TTL, check, l4_offset};
use crate::pick::Pick;

/// The only port: packets leave where they came from.
const PORT: PortId = PortId(0);
/// Larger than any packet with a tunnel header.
const MTU: u16 = 2000;

/// Flags of the answer to a SYN.
pub const SYN_ACK: tcp::Flags = tcp::Flags(tcp::Flags::SYN.0 | tcp::Flags::ACK.0);

/// What handles the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Nothing: they are made and freed.
    Bare,
    /// Exchanges addresses and ports, which leaves all checksums right, as testpmd's `5tswap` does.
    Swap,
    /// The director.
    Director,
}

/// A worker of a director with its source.
pub struct Director<A: Family> {
    /// What the director's workers share with its control thread.
    pub shared: Arc<Shared>,
    /// Packets that were checked byte by byte.
    pub verified: u64,
    /// The time, when it is not that of the clock.
    pub now: Option<Tick>,
    id: WorkerId,
    worker: Worker<Source<A>>,
    burst: Burst<Mbuf>,
    fib: Arc<Fib>,
}

impl<A: Family> Director<A> {
    /// A director for these flows with room for `capacity` connections, and one worker. No flow is known to it yet.
    pub fn new(pool: &Mempool, flows: Flows, shape: Shape, capacity: usize) -> Self {
        let director = Self::without_services(pool, vec![flows], shape, capacity).remove(0);
        director.publish_services();
        director
    }

    /// A director with as many workers as there are numberings of flows, which differ in the clients only. It has no
    /// services yet.
    pub fn without_services(pool: &Mempool, flows: Vec<Flows>, shape: Shape, capacity: usize) -> Vec<Self> {
        let fib = Arc::new(fib::<A>(&flows[0]));
        let shared = Shared::new(Limits {
            workers: flows.len(),
            ports: 1,
            max_services: flows[0].services as usize,
            max_servers: flows[0].servers() as usize,
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 64,
            max_frame: 2048,
        });
        let config = WorkerConfig {
            connections: capacity,
            seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            idle: Idle::Poll,
            rss: Rss::software(flows.len()),
        };
        let none = Pick::Sequence { next: 0, end: 0 };
        let sources = flows.into_iter().map(|flows| Source::new(pool, flows, shape, none)).collect();
        let workers = worker::build(sources, &shared, &config).into_iter().zip(0..);
        let director = |(worker, id)| Self {
            shared: Arc::clone(&shared),
            verified: 0,
            now: None,
            id: WorkerId(id),
            worker,
            burst: Burst::new(),
            fib: Arc::clone(&fib),
        };
        workers.map(director).collect()
    }

    /// Puts the services in force in which the source's flows go.
    pub fn publish_services(&self) {
        // Nothing is published later, so that the publisher need not be kept.
        Publisher::new(Arc::clone(&self.shared)).publish(Snapshot {
            services: Arc::new(ServiceTable::new(services::<A>(&self.source().flows))),
            fib: Arc::clone(&self.fib),
            ..Snapshot::default()
        });
    }

    /// Where packets come from.
    pub fn source(&self) -> &Source<A> {
        self.worker.io()
    }

    /// Where packets come from, to be changed.
    pub fn source_mut(&mut self) -> &mut Source<A> {
        self.worker.io_mut()
    }

    /// The routes and neighbours.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// The worker's number.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// What the worker counts.
    pub fn counters(&self) -> &WorkerCounters {
        &self.shared.worker(self.id).counters
    }

    /// Makes the director know the first `flows` flows, TCP ones established, and checks every packet of it.
    pub fn open(&mut self, flows: u32, shape: Shape) -> Result<()> {
        let Flows { protocol, mode, .. } = self.source().flows;
        let before = self.counters().table_entries.get();
        let with = |flags| Shape { flags, ..shape };
        self.one_each(0..flows, Way::In, with(tcp::Flags::SYN)).context("first packets")?;
        if mode.sees_replies() && self.knows_local() {
            // Without TCP, too: the first reply of a flow finds its route, and the others remember it.
            self.one_each(0..flows, Way::Out, with(SYN_ACK)).context("first replies")?;
        }
        if protocol == Protocol::TCP {
            self.one_each(0..flows, Way::In, with(tcp::Flags::ACK)).context("ACKs")?;
        }
        let entries = self.counters().table_entries.get() - before;
        ensure!(entries == u64::from(flows), "{entries} more connections in the table, not {flows}");
        Ok(())
    }

    /// A packet of every flow, each of which is checked.
    pub fn one_each(&mut self, flows: Range<u32>, way: Way, shape: Shape) -> Result<()> {
        self.source_mut().send(way, shape);
        self.source_mut().pick = Pick::Sequence { next: flows.start, end: flows.end };
        let mut done = flows.start;
        while done < flows.end {
            done += self.verified_turn(Program::Director, way)? as u32;
        }
        Ok(())
    }

    /// A turn of a program; returns how many packets came.
    #[inline(always)]
    pub fn turn(&mut self, program: Program) -> usize {
        match program {
            Program::Bare => self.alone(|_| ()),
            Program::Swap => self.alone(swap::<A>),
            Program::Director => match self.now {
                Some(now) => self.worker.turn_at(now),
                None => self.worker.turn(),
            },
        }
    }

    #[inline(always)]
    fn alone(&mut self, mut handle: impl FnMut(&mut Mbuf)) -> usize {
        let source = self.worker.io_mut();
        source.receive(PORT, &mut self.burst);
        let packets = self.burst.len();
        self.burst.iter_mut().for_each(&mut handle);
        source.transmit(PORT, &mut self.burst);
        packets
    }

    /// Whether the local endpoint of each flow is known: the director takes them in turn, but for each service and only
    /// those whose replies come to the worker.
    fn knows_local(&self) -> bool {
        let flows = &self.source().flows;
        let is_numbered = flows.services == 1 && self.shared.limits.workers == 1 && flows.start.is_known;
        is_numbered || flows.mode != ForwardMode::FullNat
    }

    /// A turn whose packets are checked one by one.
    pub fn verified_turn(&mut self, program: Program, way: Way) -> Result<usize> {
        self.capture();
        let packets = self.turn(program);
        self.check_capture(program, way)?;
        Ok(packets)
    }

    /// Records all packets from now on.
    pub fn capture(&mut self) {
        self.source_mut().capture = Some(Capture::default());
    }

    /// Checks all that was recorded and stops recording.
    pub fn check_capture(&mut self, program: Program, way: Way) -> Result<()> {
        let mut is_local_known = self.knows_local();
        let shared = Arc::clone(&self.shared);
        let source = self.source_mut();
        let Some(capture) = source.capture.take() else { return Ok(()) };
        ensure!(
            capture.frames().len() == capture.came.len(),
            "{} packets came, {} left: {}",
            capture.came.len(),
            capture.frames().len(),
            drops(&shared)
        );
        for (&(n, came_len), frame) in capture.came.iter().zip(capture.frames()) {
            if n == 0 && way == Way::In && program == Program::Director {
                let (src, dst, sport) = seen::<A>(frame)?;
                source.flows.learn((src, sport), dst);
                is_local_known |= source.flows.services == 1 && shared.limits.workers == 1;
            }
            let expected = match program {
                Program::Bare => return Ok(()),
                Program::Swap => swapped::<A>(source.flows.arriving(n, way), came_len),
                Program::Director => expected(&source.flows, n, way, came_len, is_local_known),
            };
            check(frame, &expected).with_context(|| format!("{program:?}, {way:?}, flow {n}"))?;
        }
        self.verified += capture.came.len() as u64;
        Ok(())
    }

    /// Fails when the director has dropped anything or handed it to the kernel.
    pub fn check_no_loss(&self) -> Result<()> {
        self.check_only_drops(&[])
    }

    /// Fails when the director has handed anything to the kernel, or dropped it for other reasons than these.
    pub fn check_only_drops(&self, reasons: &[DropReason]) -> Result<()> {
        let counters = self.counters();
        let port = &counters.ports[0];
        let (came, left) = (port.rx_packets.get(), port.tx_packets.get());
        let dropped = |reason: DropReason| counters.drops[reason as usize].get();
        let expected: u64 = reasons.iter().map(|&reason| dropped(reason)).sum();
        let others = DropReason::ALL.iter().filter(|reason| !reasons.contains(reason)).map(|&reason| dropped(reason));
        if came != left + expected || counters.punted.get() != 0 || others.sum::<u64>() != 0 {
            bail!(
                "of {came} packets {left} left, {} went to the kernel; {}",
                counters.punted.get(),
                drops(&self.shared)
            );
        }
        Ok(())
    }
}

/// The drop counters that moved.
pub fn drops(shared: &Shared) -> String {
    let of_all = |reason| shared.workers.iter().map(|worker| worker.counters.drops[reason as usize].get()).sum::<u64>();
    let moved = DropReason::ALL.iter().map(|&reason| (reason, of_all(reason))).filter(|(_, n)| *n > 0);
    let list: Vec<String> = moved.map(|(reason, n)| format!("{reason} {n}")).collect();
    if list.is_empty() { "no drops".to_owned() } else { format!("drops: {}", list.join(", ")) }
}

/// Exchanges MAC addresses, addresses and ports.
#[inline(always)]
fn swap<A: Family>(packet: &mut Mbuf) {
    let Some((ethernet, packet)) = packet.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else { return };
    exchange(&mut ethernet[..12]);
    let Some((ip, l4)) = packet.split_at_mut_checked(A::HEADER_LEN) else { return };
    exchange(&mut ip[A::SRC..A::SRC + 2 * A::LEN]);
    exchange(&mut l4[..4]);
}

#[inline(always)]
fn exchange(pair: &mut [u8]) {
    let (first, second) = pair.split_at_mut(pair.len() / 2);
    first.swap_with_slice(second);
}

/// Source and destination address and source port of a frame.
fn seen<A: Family>(frame: &[u8]) -> Result<(A, A, u16)> {
    let l4 = l4_offset::<A>();
    let [high, low] = *frame.get(l4..).and_then(<[u8]>::first_chunk).context("the frame is too short")?;
    let ip = &frame[ethernet::HEADER_LEN..];
    Ok((A::read(&ip[A::SRC..]), A::read(&ip[A::DST..]), u16::from_be_bytes([high, low])))
}

fn expected<A: Family>(flows: &Flows, n: u32, way: Way, came_len: usize, is_local_known: bool) -> Expected<A> {
    let server = flows.server::<A>(n);
    let next_hop = match way {
        Way::In => mac_of(server.into()),
        Way::Out => mac_of(A::host(Net::Link, 2).into()),
    };
    let tunnel = (flows.mode == ForwardMode::Tunnel).then(|| (A::host(Net::Link, 1), server));
    Expected {
        is_source_known: is_local_known,
        tunnel,
        ttl: Some(TTL - 1),
        ..Expected::of(flows.leaving(n, way), came_len, next_hop)
    }
}

fn swapped<A: Family>(came: Tuple<A>, came_len: usize) -> Expected<A> {
    Expected { ttl: Some(TTL), ..Expected::of(came.reversed(), came_len, PEER_MAC) }
}

fn services<A: Family>(flows: &Flows) -> Vec<Arc<Service>> {
    let server = |n: u32| Server {
        id: ServerId(n),
        addr: A::host(Net::Server, 1 + n).into(),
        port: flows.dport(),
        mode: flows.mode,
        encapsulation: Default::default(),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let service = |id: u32| {
        let servers = id * flows.servers_of_each()..(id + 1) * flows.servers_of_each();
        let (vaddr, vport) = Flows::virt::<A>(id);
        Arc::new(Service {
            id: ServiceId(id),
            incarnation: 1,
            version: 1,
            key: ServiceKey { protocol: flows.protocol, vaddr: vaddr.into(), vport },
            scheduler: Scheduler::new(Kind::Rr, &[]),
            servers: servers.map(server).collect(),
            local_addresses: (0..flows.locals).map(|n| A::host(Net::Local, 1 + n).into()).collect(),
            local_ports: LOCAL_PORTS,
            timeout: None,
            one_packet: false,
            sorry: None,
            persistence: None,
            client_address: None,
        })
    };
    (0..flows.services).map(service).collect()
}

fn fib<A: Family>(flows: &Flows) -> Fib {
    let (own, router) = (A::host(Net::Link, 1).into(), A::host(Net::Link, 2).into());
    let route = |net, gateway| Route {
        network: A::host(net, 0).into(),
        prefix_len: A::prefix_len(net),
        next_hops: vec![NextHop { port: PORT, gateway, weight: 1 }],
        preferred_source: None,
        mtu: None,
    };
    let routes = [route(Net::Link, None), route(Net::Server, None), route(Net::Client, Some(router))];
    let servers = (0..flows.servers()).map(|n| A::host(Net::Server, 1 + n).into());
    let neighbours = servers.chain([router]).map(|addr| ((PORT, addr), mac_of(addr)));
    let port = PortInfo { mac: OWN_MAC, mtu: MTU, addresses: vec![own] };
    Fib::new(1, vec![port], routes, neighbours, [own])
}
