//! Which worker owns a connection, and how packets get there.
//!
//! A connection's owner is the worker that a NIC's RSS chooses for the packets which arrive for it: the Toeplitz hash of
//! the four-tuple, through the redirection table. Where the NIC has no usable RSS the same function is evaluated here.
//!
//! * Client to virtual service: the hash of the packet itself.
//! * FULLNAT replies: likewise; the local port was chosen so that they hash to the same worker
//!   ([`crate::schedule`]). No flow rule in the NIC is needed.
//! * NAT replies: the hash of the packet that they answer, client to virtual service. The service follows from the
//!   server's endpoint; if several services share a NAT server, their owners are tried in turn.
//!
//! A packet at another worker is passed to its owner over a bounded single-producer ring.

use proto::toeplitz::Toeplitz;
use proto::{Address, Tuple};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::reassembly::Carrier;
use crate::snapshot::{ServiceKey, ServiceTable};
use crate::{PortId, WorkerId};

/// The most workers there can be: a steered packet carries a bit per worker that had it.
pub const MAX_WORKERS: usize = 64;

/// Receive side scaling as the ports do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Toeplitz key.
    pub key: Vec<u8>,
    /// Redirection table: which worker takes a hash, by its low bits. The length is a power of two.
    pub table: Vec<WorkerId>,
}

impl Rss {
    /// The key that most NICs come with and Microsoft's RSS specification uses in its examples.
    pub const DEFAULT_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// The default key and a table that spreads hashes evenly, for ports without RSS.
    pub fn software(workers: usize) -> Self {
        let table = (0..128).map(|i| WorkerId((i % workers) as u16)).collect();
        Self { key: Self::DEFAULT_KEY.to_vec(), table }
    }
}

/// The function from tuples to workers. All workers have the same.
#[derive(Clone)]
pub struct Ownership {
    toeplitz: Toeplitz,
    table: Box<[WorkerId]>,
}

impl Ownership {
    /// The function that `rss` describes.
    pub fn new(rss: &Rss) -> Self {
        assert!(rss.table.len().is_power_of_two(), "a redirection table has a power of two of entries");
        Self { toeplitz: Toeplitz::new(&rss.key), table: rss.table.clone().into_boxed_slice() }
    }

    /// The owner of a packet that is not a NAT reply.
    pub fn owner<A: Address>(&self, tuple: &Tuple<A>) -> WorkerId {
        self.table[self.toeplitz.hash(tuple) as usize & (self.table.len() - 1)]
    }

    /// Where a packet belongs that no worker in `tried` (a bit per worker) knows; `None` when all candidates were tried.
    pub fn next_owner<A: Address>(&self, tuple: &Tuple<A>, services: &ServiceTable, tried: u64) -> Option<WorkerId> {
        let untried = |worker: &WorkerId| tried & (1 << worker.0) == 0;
        match services.nat_services(tuple.protocol, tuple.src, tuple.sport) {
            // What goes to a virtual or local address is no NAT reply, though a NAT server sends it: the server may be
            // a client itself, or take FULLNAT connections on the same port.
            keys if !keys.is_empty() && !services.is_destination(tuple.dst) => {
                let of_replies = keys.iter().filter_map(|key| self.owner_of_reply(tuple, key));
                // Last where it would belong if it were none: to a FULLNAT connection of a former local address.
                of_replies.chain([self.owner(tuple)]).find(untried)
            }
            _ => Some(self.owner(tuple)).filter(untried),
        }
    }

    /// The owner of a reply to a client of the service `key`.
    fn owner_of_reply<A: Address>(&self, reply: &Tuple<A>, key: &ServiceKey) -> Option<WorkerId> {
        let vaddr = A::from_ip(key.vaddr)?;
        let request =
            Tuple { src: reply.dst, dst: vaddr, sport: reply.dport, dport: key.vport, protocol: reply.protocol };
        Some(self.owner(&request))
    }
}

/// A packet on its way to its owner.
#[derive(Debug)]
pub struct Steered<P> {
    /// The packet.
    pub packet: Carrier<P>,
    /// The port it came in by.
    pub ingress: PortId,
    /// The workers that had it, a bit each.
    pub tried: u64,
}

/// One worker's rings from and to the others.
pub struct Links<P> {
    /// By worker; none to itself.
    pub outgoing: Vec<Option<Producer<Steered<P>>>>,
    /// From every other worker.
    pub incoming: Vec<Consumer<Steered<P>>>,
}

/// Connects every worker with every other by rings of `capacity` packets.
pub fn mesh<P>(workers: usize, capacity: usize) -> Vec<Links<P>> {
    let mut links: Vec<Links<P>> =
        (0..workers).map(|_| Links { outgoing: (0..workers).map(|_| None).collect(), incoming: Vec::new() }).collect();
    for from in 0..workers {
        for to in (0..workers).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(capacity);
            links[from].outgoing[to] = Some(producer);
            links[to].incoming.push(consumer);
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use proto::Protocol;

    use super::*;
    use crate::snapshot::{ForwardMode, Server, Service};
    use crate::{ServerId, ServiceId};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

    fn vip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, n)
    }

    fn nat_service(id: u32) -> Arc<Service> {
        Arc::new(Service {
            id: ServiceId(id),
            incarnation: 1,
            version: 1,
            key: ServiceKey { protocol: Protocol::TCP, vaddr: vip(id as u8).into(), vport: 80 },
            scheduler: sched::Scheduler::new(sched::Kind::Rr, &[]),
            servers: vec![Server {
                id: ServerId(id),
                addr: SERVER.into(),
                port: 8080,
                mode: ForwardMode::Nat,
                encapsulation: Default::default(),
                weight: 1,
                upper_threshold: 0,
                lower_threshold: 0,
            }],
            local_addresses: Vec::new(),
            local_ports: (1024, 65535),
            timeout: None,
            one_packet: false,
            persistence: None,
            client_address: None,
            sorry: None,
        })
    }

    fn tuple(src: Ipv4Addr, sport: u16, dst: Ipv4Addr, dport: u16) -> Tuple<Ipv4Addr> {
        Tuple { src, dst, sport, dport, protocol: Protocol::TCP }
    }

    #[test]
    fn nat_replies_belong_to_the_owner_of_the_request() {
        let ownership = Ownership::new(&Rss::software(4));
        let services = ServiceTable::new([nat_service(1)]);
        for cport in 1..500 {
            let request = tuple(CLIENT, cport, vip(1), 80);
            let reply = tuple(SERVER, 8080, CLIENT, cport);
            assert_eq!(ownership.next_owner(&reply, &services, 0), Some(ownership.owner(&request)));
        }
    }

    #[test]
    fn a_server_shared_by_services_is_tried_at_each_owner_once() {
        let ownership = Ownership::new(&Rss::software(8));
        let services = ServiceTable::new((1..=5).map(nat_service));
        let reply = tuple(SERVER, 8080, CLIENT, 4711);
        let mut tried = 0;
        let mut visited = Vec::new();
        while let Some(worker) = ownership.next_owner(&reply, &services, tried) {
            tried |= 1 << worker.0;
            visited.push(worker);
        }
        let mut expected: Vec<_> = (1..=5).map(|n| ownership.owner(&tuple(CLIENT, 4711, vip(n), 80))).collect();
        // If it is no reply of these it might be one of FULLNAT.
        expected.push(ownership.owner(&reply));
        expected.sort();
        expected.dedup();
        visited.sort();
        assert_eq!(visited, expected);
    }

    #[test]
    fn the_mesh_connects_each_pair_once() {
        let mut links = mesh::<u32>(3, 2);
        for (from, link) in links.iter_mut().enumerate() {
            assert!(link.outgoing[from].is_none());
            for to in (0..3).filter(|&to| to != from) {
                let packet = Carrier::Frame((from * 10 + to) as u32);
                let steered = Steered { packet, ingress: PortId(0), tried: 0 };
                link.outgoing[to].as_mut().expect("a ring to every other").push(steered).expect("room");
            }
        }
        for (to, link) in links.iter_mut().enumerate() {
            let frame = |steered: Steered<u32>| match steered.packet {
                Carrier::Frame(packet) => packet,
                Carrier::Whole(whole) => panic!("{whole:?} was not sent"),
            };
            let mut received: Vec<u32> = link.incoming.iter_mut().map(|c| frame(c.pop().expect("one each"))).collect();
            received.sort();
            let expected: Vec<u32> = (0..3).filter(|&from| from != to).map(|from| (from * 10 + to) as u32).collect();
            assert_eq!(received, expected);
        }
    }
}
