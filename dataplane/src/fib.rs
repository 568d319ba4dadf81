//! The forwarding information base: which port and MAC address lead to an IP address.
//!
//! Compiled by the control thread from the kernel's routes, neighbours and addresses. Workers resolve a
//! destination once per connection and generation and keep the [`AdjacencyId`] in the connection.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use proto::{Address, Family};

use crate::PortId;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Index of an [`Adjacency`]; valid within one [`Fib`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdjacencyId(pub u32);

impl AdjacencyId {
    /// Not resolved yet.
    pub const NONE: Self = Self(u32::MAX);
    /// From here on, all are as good as [`NONE`](Self::NONE): connections tell several apart.
    pub(crate) const FIRST_NONE: Self = Self(u32::MAX - 3);

    /// Whether it leads nowhere.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0 >= Self::FIRST_NONE.0
    }
}

/// A resolved next hop: all that is needed to send a packet there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// The way out.
    pub port: PortId,
    /// Largest IP packet in bytes that fits.
    pub mtu: u16,
    /// The neighbour's address.
    pub dst_mac: Mac,
    /// The port's address.
    pub src_mac: Mac,
}

/// What a destination resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The next hop is known.
    Ready(AdjacencyId),
    /// There is a route, but the kernel must find the neighbour's MAC address first.
    Unresolved {
        /// The way out.
        port: PortId,
        /// The neighbour to be resolved.
        next_hop: IpAddr,
        /// Largest IP packet in bytes that fits.
        mtu: u16,
    },
    /// No route leads out of a port of ours.
    NoRoute,
}

/// A port as the packet path sees it.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// The port's MAC address, which its mirror interface has too.
    pub mac: Mac,
    /// MTU of the mirror interface, which the port follows; an IP packet may be this long.
    pub mtu: u16,
    /// The kernel's addresses on the mirror interface, primary first; sources of the ICMP messages we originate.
    pub addresses: Vec<IpAddr>,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The way out.
    pub port: PortId,
    /// The router; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of flows, at least 1.
    pub weight: u16,
}

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub network: IpAddr,
    /// Length of its prefix in bits.
    pub prefix_len: u8,
    /// Ways out; empty for unreachable, blackhole and prohibit routes and for those out of other interfaces.
    pub next_hops: Vec<NextHop>,
    /// The source the kernel prefers for packets of its own; TUN uses it as outer source.
    pub preferred_source: Option<IpAddr>,
    /// MTU of the route when it has one.
    pub mtu: Option<u16>,
}

/// Routes of one family: one map per prefix length, longest first.
#[derive(Debug, Default)]
struct Lpm {
    by_length: Vec<(u8, HashMap<u128, Route>)>,
}

impl Lpm {
    fn insert(&mut self, route: Route) {
        let len = route.prefix_len;
        let at = match self.by_length.binary_search_by(|(l, _)| len.cmp(l)) {
            Ok(at) => at,
            Err(at) => {
                self.by_length.insert(at, (len, HashMap::new()));
                at
            }
        };
        let key = masked(left_aligned(route.network), len);
        self.by_length[at].1.insert(key, route);
    }

    fn lookup(&self, addr: IpAddr) -> Option<&Route> {
        let bits = left_aligned(addr);
        self.by_length.iter().find_map(|(len, map)| map.get(&masked(bits, *len)))
    }
}

fn left_aligned(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

fn masked(bits: u128, len: u8) -> u128 {
    if len == 0 { 0 } else { bits & (u128::MAX << (128 - u32::from(len))) }
}

/// Place of an address among 256 bits.
#[inline]
fn end_of(addr: IpAddr) -> (usize, u64) {
    let end = match addr {
        IpAddr::V4(a) => u32::from(a),
        IpAddr::V6(a) => u128::from(a) as u32,
    };
    let end = end ^ end >> 8;
    ((end >> 6) as usize % 4, 1 << (end % 64))
}

/// The compiled forwarding information base.
#[derive(Debug, Default)]
pub struct Fib {
    /// Grows with every change; a cached [`AdjacencyId`] is valid while it stands. Never 0 once built.
    pub generation: u32,
    /// By [`PortId`].
    pub ports: Vec<PortInfo>,
    v4: Lpm,
    v6: Lpm,
    /// Neighbours by port and address, one adjacency per usable neighbour and distinct MTU.
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    adjacencies: Vec<Adjacency>,
    by_next_hop: HashMap<(PortId, IpAddr, u16), AdjacencyId>,
    local: HashSet<IpAddr>,
    /// A bit for each of them, by the end of the address: nearly all others are told from them without a hash.
    local_ends: [u64; 4],
}

impl Fib {
    /// Compiles the kernel's state. `local` are all addresses of the director host, on any interface.
    /// Of two routes to the same prefix the first counts: pass them in order of metric.
    pub fn new(
        generation: u32,
        ports: Vec<PortInfo>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = ((PortId, IpAddr), Mac)>,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut fib = Fib {
            generation,
            ports,
            neighbours: neighbours.into_iter().collect(),
            local: local.into_iter().collect(),
            ..Self::default()
        };
        for &addr in &fib.local {
            let (word, bit) = end_of(addr);
            fib.local_ends[word] |= bit;
        }
        let mut mtus: HashMap<PortId, Vec<u16>> = HashMap::new();
        for (index, port) in fib.ports.iter().enumerate() {
            mtus.insert(PortId(index as u16), vec![port.mtu]);
        }
        for route in routes {
            for hop in &route.next_hops {
                if let Some(mtu) = route.mtu
                    && let Some(of_port) = mtus.get_mut(&hop.port)
                    && !of_port.contains(&mtu.min(of_port[0]))
                {
                    of_port.push(mtu.min(of_port[0]));
                }
            }
            let lpm = match Family::of(route.network) {
                Family::V4 => &mut fib.v4,
                Family::V6 => &mut fib.v6,
            };
            if lpm.exact(&route).is_none() {
                lpm.insert(route);
            }
        }
        for (&(port, next_hop), &dst_mac) in &fib.neighbours {
            let Some(info) = fib.ports.get(usize::from(port.0)) else { continue };
            for &mtu in &mtus[&port] {
                let id = AdjacencyId(fib.adjacencies.len() as u32);
                fib.adjacencies.push(Adjacency { port, mtu, dst_mac, src_mac: info.mac });
                fib.by_next_hop.insert((port, next_hop, mtu), id);
            }
        }
        fib
    }

    /// The way to `dst`. Of several next hops, `flow` (any hash of the flow) chooses.
    pub fn resolve<A: Address>(&self, dst: A, flow: u32) -> Resolution {
        self.resolve_ip(dst.into(), flow)
    }

    fn resolve_ip(&self, dst: IpAddr, flow: u32) -> Resolution {
        let Some((route, hop)) = self.next_hop(dst, flow) else { return Resolution::NoRoute };
        let Some(info) = self.ports.get(usize::from(hop.port.0)) else { return Resolution::NoRoute };
        let next_hop = hop.gateway.unwrap_or(dst);
        let mtu = route.mtu.unwrap_or(info.mtu).min(info.mtu);
        match self.by_next_hop.get(&(hop.port, next_hop, mtu)) {
            Some(&id) => Resolution::Ready(id),
            None => Resolution::Unresolved { port: hop.port, next_hop, mtu },
        }
    }

    /// The way to `dst` if all flows take the same one and its next hop is known.
    pub fn resolve_for_all(&self, dst: IpAddr) -> Option<AdjacencyId> {
        let (route, _) = self.next_hop(dst, 0)?;
        match self.resolve_ip(dst, 0) {
            Resolution::Ready(adjacency) if route.next_hops.len() == 1 => Some(adjacency),
            _ => None,
        }
    }

    /// The source address the kernel would choose for packets of its own to `dst`: the route's preferred one,
    /// else the first of the port's addresses in `dst`'s family.
    pub fn source_for<A: Address>(&self, dst: A) -> Option<A> {
        let (route, hop) = self.next_hop(dst.into(), 0)?;
        match route.preferred_source.and_then(A::from_ip) {
            Some(source) => Some(source),
            None => self.port_address(hop.port),
        }
    }

    /// [`source_for`](Self::source_for) where the family is known at run time only.
    pub fn source_for_ip(&self, dst: IpAddr) -> Option<IpAddr> {
        match dst {
            IpAddr::V4(dst) => self.source_for(dst).map(IpAddr::V4),
            IpAddr::V6(dst) => self.source_for(dst).map(IpAddr::V6),
        }
    }

    /// The first address of a port's mirror interface in the family of `A`.
    pub fn port_address<A: Address>(&self, port: PortId) -> Option<A> {
        self.ports.get(usize::from(port.0))?.addresses.iter().copied().find_map(A::from_ip)
    }

    /// An adjacency of this FIB.
    #[inline(always)]
    pub fn adjacency(&self, id: AdjacencyId) -> &Adjacency {
        &self.adjacencies[id.0 as usize]
    }

    /// An adjacency of this FIB; `None` for [`AdjacencyId::NONE`].
    #[inline(always)]
    pub fn get(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        [&self.v4, &self.v6].into_iter().flat_map(|lpm| &lpm.by_length).map(|(_, routes)| routes.len()).sum()
    }

    /// How many neighbours have a known MAC address.
    pub fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// True when the director host itself has this address, on any interface.
    #[inline]
    pub fn is_local(&self, addr: IpAddr) -> bool {
        let (word, bit) = end_of(addr);
        self.local_ends[word] & bit != 0 && self.local.contains(&addr)
    }

    fn next_hop(&self, dst: IpAddr, flow: u32) -> Option<(&Route, NextHop)> {
        let lpm = match Family::of(dst) {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let route = lpm.lookup(dst)?;
        let total: u32 = route.next_hops.iter().map(|h| u32::from(h.weight)).sum();
        // Scales the 32-bit hash to 0..total without a division.
        let mut ticket = ((u64::from(flow) * u64::from(total)) >> 32) as u32;
        for hop in &route.next_hops {
            let weight = u32::from(hop.weight);
            if ticket < weight {
                return Some((route, *hop));
            }
            ticket -= weight;
        }
        None
    }
}

impl Lpm {
    fn exact(&self, route: &Route) -> Option<&Route> {
        let key = masked(left_aligned(route.network), route.prefix_len);
        let (_, map) = self.by_length.iter().find(|(l, _)| *l == route.prefix_len)?;
        map.get(&key)
    }
}
