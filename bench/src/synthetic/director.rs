//! A director with one worker between the ends of a synthetic source, and the two programs it is compared with.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use dataplane::conn::Tick;
use dataplane::fib::{Fib, NextHop, PortInfo, Route};
use dataplane::packet::{Burst, WorkerIo};
use dataplane::shared::{Limits, Publisher, Shared};
use dataplane::snapshot::{ForwardMode, Server, Service, ServiceKey, ServiceTable, Settings, Snapshot};
use dataplane::steer::Rss;
use dataplane::verdict::DropReason;
use dataplane::worker::{self, Idle, Worker, WorkerConfig};
use dataplane::{PortId, ServerId, ServiceId};
use dpdk::{Mbuf, Mempool};
use proto::{Protocol, Tuple, ethernet, tcp};
use sched::{Kind, Scheduler};

use super::source::{Capture, Pick, Source, SourceIo};
use crate::flows::{Family, Flows, LOCAL_PORTS, Net, Way, mac_of};
use crate::frame::{Expected, OWN_MAC, Shape, check, l4_offset};

/// The only port: packets leave where they came from.
const PORT: PortId = PortId(0);
/// Larger than any packet with a tunnel header.
const MTU: u16 = 2000;

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

/// Director, source and all around them.
pub struct Director<A: Family> {
    /// Where packets come from.
    pub source: Rc<RefCell<Source<A>>>,
    /// What the director shares with its control thread, which is us.
    pub shared: Arc<Shared>,
    /// Packets that were checked byte by byte.
    pub verified: u64,
    worker: Worker<SourceIo<A>>,
    io: SourceIo<A>,
    burst: Burst<Mbuf>,
    _publisher: Publisher,
}

impl<A: Family> Director<A> {
    /// A director for these flows with room for `capacity` connections. No flow is known to it yet.
    pub fn new(pool: &Mempool, flows: Flows, shape: Shape, capacity: usize) -> Self {
        let shared = Shared::new(Limits {
            workers: 1,
            ports: 1,
            max_services: flows.services as usize,
            max_servers: flows.servers() as usize,
            slow_path_frames: 64,
            max_frame: 2048,
        });
        let mut publisher = Publisher::new(Arc::clone(&shared));
        publisher.publish(Snapshot {
            services: Arc::new(ServiceTable::new(services::<A>(&flows))),
            fib: Arc::new(fib::<A>(&flows)),
            settings: Settings::default(),
            ..Snapshot::default()
        });
        let none = Pick::Sequence { next: 0, end: 0 };
        let source = Rc::new(RefCell::new(Source::new(pool, flows, shape, none)));
        let config = WorkerConfig {
            connections: capacity,
            seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            idle: Idle::Poll,
            rss: Rss::software(1),
        };
        let worker = worker::build(vec![SourceIo(Rc::clone(&source))], &shared, &config).remove(0);
        let io = SourceIo(Rc::clone(&source));
        Self { source, shared, verified: 0, worker, io, burst: Burst::new(), _publisher: publisher }
    }

    /// Makes the director know the first `flows` flows, TCP ones established, and checks every packet of it.
    pub fn open(&mut self, flows: u32, shape: Shape) -> Result<()> {
        let Flows { protocol, mode, .. } = self.source.borrow().flows;
        let with = |flags| Shape { flags, ..shape };
        let syn_ack = tcp::Flags(tcp::Flags::SYN.0 | tcp::Flags::ACK.0);
        self.one_each(flows, Way::In, with(tcp::Flags::SYN)).context("first packets")?;
        if mode.sees_replies() && self.source.borrow().flows.services == 1 {
            // Without TCP, too: the first reply of a flow finds its route, and the others remember it.
            self.one_each(flows, Way::Out, with(syn_ack)).context("first replies")?;
        }
        if protocol == Protocol::TCP {
            self.one_each(flows, Way::In, with(tcp::Flags::ACK)).context("ACKs")?;
        }
        let entries = self.shared.workers[0].counters.table_entries.get();
        ensure!(entries == u64::from(flows), "{entries} connections in the table, not {flows}");
        Ok(())
    }

    /// A packet of every flow.
    fn one_each(&mut self, flows: u32, way: Way, shape: Shape) -> Result<()> {
        {
            let mut source = self.source.borrow_mut();
            source.send(way, shape);
            source.pick = Pick::Sequence { next: 0, end: flows };
        }
        let mut done = 0;
        while done < flows {
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
            Program::Director => self.worker.turn(),
        }
    }

    /// A turn of the director at a time of our choice.
    pub fn turn_at(&mut self, now: Tick) -> usize {
        self.worker.turn_at(now)
    }

    #[inline(always)]
    fn alone(&mut self, mut handle: impl FnMut(&mut Mbuf)) -> usize {
        self.io.receive(PORT, &mut self.burst);
        let packets = self.burst.len();
        self.burst.iter_mut().for_each(&mut handle);
        self.io.transmit(PORT, &mut self.burst);
        packets
    }

    /// A turn whose packets are checked one by one.
    pub fn verified_turn(&mut self, program: Program, way: Way) -> Result<usize> {
        self.capture();
        let packets = self.turn(program);
        let is_local_known = self.source.borrow().flows.services == 1;
        self.check_capture(program, way, is_local_known)?;
        Ok(packets)
    }

    /// Records all packets from now on.
    pub fn capture(&mut self) {
        self.source.borrow_mut().capture = Some(Capture::default());
    }

    /// Checks all that was recorded and stops recording. Without `is_local_known` the director may have used any local
    /// address and port.
    pub fn check_capture(&mut self, program: Program, way: Way, is_local_known: bool) -> Result<()> {
        let mut source = self.source.borrow_mut();
        let Some(capture) = source.capture.take() else { return Ok(()) };
        ensure!(
            capture.frames().len() == capture.flows.len(),
            "{} packets came, {} left: {}",
            capture.flows.len(),
            capture.frames().len(),
            drops(&self.shared)
        );
        let came_len = source.frame_len();
        for (&n, frame) in capture.flows.iter().zip(capture.frames()) {
            if n == 0 && way == Way::In && program == Program::Director && is_local_known {
                let (src, dst, sport) = seen::<A>(frame)?;
                source.flows.learn((src, sport), dst);
            }
            let expected = match program {
                Program::Bare => return Ok(()),
                Program::Swap => swapped::<A>(source.flows.arriving(n, way), came_len),
                Program::Director => expected(&source.flows, n, way, came_len, is_local_known),
            };
            check(frame, &expected).with_context(|| format!("{program:?}, {way:?}, flow {n}"))?;
        }
        self.verified += capture.flows.len() as u64;
        Ok(())
    }

    /// Fails when the director has dropped anything or handed it to the kernel.
    pub fn check_no_loss(&self) -> Result<()> {
        let counters = &self.shared.workers[0].counters;
        let port = &counters.ports[0];
        let (came, left) = (port.rx_packets.get(), port.tx_packets.get());
        if came != left || counters.punted.get() != 0 || counters.drops.iter().any(|drops| drops.get() != 0) {
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
    let counters = &shared.workers[0].counters.drops;
    let moved = DropReason::ALL.iter().map(|&reason| (reason, counters[reason as usize].get())).filter(|(_, n)| *n > 0);
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
        came_len,
        next_hop,
        tuple: flows.leaving(n, way),
        is_source_known: is_local_known,
        tunnel,
        ttl_falls: true,
    }
}

fn swapped<A: Family>(came: Tuple<A>, came_len: usize) -> Expected<A> {
    let next_hop = crate::frame::PEER_MAC;
    Expected { came_len, next_hop, tuple: came.reversed(), is_source_known: true, tunnel: None, ttl_falls: false }
}

fn services<A: Family>(flows: &Flows) -> Vec<Arc<Service>> {
    let server = |n: u32| Server {
        id: ServerId(n),
        addr: A::host(Net::Server, 1 + n).into(),
        port: flows.dport(),
        mode: flows.mode,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let service = |id: u32| {
        let servers = if flows.services == 1 { 0..flows.servers() } else { id..id + 1 };
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
