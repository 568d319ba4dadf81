//! What the kernel knows about links, addresses, routes and neighbours, as far as the packet path needs it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::fib::Mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};

/// Routing tables that are looked at, in the order in which the kernel's default rules consult them.
const TABLES: [u32; 3] = [255, 254, 253];

/// Everything read from the kernel.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// By interface index.
    pub links: HashMap<u32, Link>,
    /// In the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
    /// In the kernel's order.
    pub routes: Vec<KernelRoute>,
    /// By interface index and address.
    pub neighbours: HashMap<(u32, IpAddr), Neighbour>,
}

impl Model {
    /// Takes a neighbour over from a notification or a dump. Returns whether the packet path can tell the difference.
    pub fn update_neighbour(&mut self, message: &NeighbourMessage) -> bool {
        let Some((key, neighbour)) = Neighbour::from_message(message) else { return false };
        let new = neighbour.usable_mac();
        let old = self.neighbours.insert(key, neighbour).and_then(|n| n.usable_mac());
        old != new
    }

    /// Forgets a neighbour. Returns whether the packet path can tell the difference.
    pub fn remove_neighbour(&mut self, message: &NeighbourMessage) -> bool {
        let Some((key, _)) = Neighbour::from_message(message) else { return false };
        self.neighbours.remove(&key).is_some_and(|n| n.usable_mac().is_some())
    }

    /// Neighbours of the interfaces `of` whose address the kernel has not verified for a while, those that routes lead
    /// through first.
    pub fn stale(&self, of: &[u32]) -> Vec<(u32, IpAddr)> {
        let hops = self.routes.iter().flat_map(|route| &route.hops);
        let gateways: HashSet<_> = hops.filter_map(|hop| Some((hop.index, hop.gateway?))).collect();
        let stale =
            self.neighbours.iter().filter(|((index, _), n)| n.state == NeighbourState::Stale && of.contains(index));
        let mut keys: Vec<_> = stale.map(|(key, _)| (!gateways.contains(key), *key)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    pub mtu: u32,
}

impl Link {
    /// The index and what is kept of a link.
    pub fn from_message(message: &LinkMessage) -> (u32, Link) {
        let mut link = Link { name: String::new(), mtu: 0 };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        (message.header.index, link)
    }
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    pub index: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    pub scope: AddressScope,
    pub flags: AddressFlags,
}

impl InterfaceAddress {
    /// `None` for families other than IPv4 and IPv6.
    pub fn from_message(message: &AddressMessage) -> Option<Self> {
        let header = &message.header;
        // On point-to-point links IFA_ADDRESS is the peer's; IFA_LOCAL is ours where it is present.
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6).then_some(())?;
        Some(Self {
            index: header.index,
            address: local.or(address)?,
            prefix_len: header.prefix_len,
            scope: header.scope,
            flags,
        })
    }

    /// True when the kernel would use it as a source (RFC 4862, section 5.4: not while tentative or a duplicate).
    pub fn is_usable(&self) -> bool {
        let optimistic = self.flags.contains(AddressFlags::Optimistic);
        !self.flags.contains(AddressFlags::Dadfailed) && (optimistic || !self.flags.contains(AddressFlags::Tentative))
    }
}

/// A route of the tables local, main and default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRoute {
    /// Position in the order in which tables are consulted.
    pub table: u8,
    pub network: IpAddr,
    pub prefix_len: u8,
    /// The lowest counts.
    pub metric: u32,
    pub kind: RouteType,
    pub hops: Vec<Hop>,
    pub preferred_source: Option<IpAddr>,
    pub mtu: Option<u16>,
    /// It refers to a next-hop object that the kernel did not spell out (`net.ipv4.nexthop_compat_mode` is 0).
    pub unexpanded: bool,
}

/// One way of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Interface; 0 when there is none.
    pub index: u32,
    pub gateway: Option<IpAddr>,
    pub weight: u16,
    /// The interface is down or has no carrier.
    pub dead: bool,
    /// The kernel would wrap packets (MPLS, segment routing, ...), which the packet path does not.
    pub encapsulated: bool,
}

impl KernelRoute {
    /// `None` for routes that do not count: of other tables and families, cache entries, and routes that apply to some
    /// packets only (a type of service, or source addresses).
    pub fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        if header.flags.contains(RouteFlags::Cloned) || header.tos != 0 || header.source_prefix_length != 0 {
            return None;
        }
        let mut table = u32::from(header.table);
        let mut route = Self {
            table: 0,
            network: unspecified,
            prefix_len: header.destination_prefix_length,
            metric: 0,
            kind: header.kind,
            hops: Vec::new(),
            preferred_source: None,
            mtu: None,
            unexpanded: false,
        };
        let dead = header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
        let mut hop = Hop::new(0, 1, dead, &message.attributes);
        let mut nexthop_object = false;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => route.network = ip(address)?,
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(address) => route.preferred_source = ip(address),
                RouteAttribute::Oif(index) => hop.index = *index,
                RouteAttribute::NhId(_) => nexthop_object = true,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
                        _ => None,
                    });
                }
                RouteAttribute::MultiPath(hops) => {
                    route.hops = hops
                        .iter()
                        .map(|h| {
                            let dead = h.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
                            // On the wire the weight is less one (rtnh_hops).
                            Hop::new(h.interface_index, u16::from(h.hops) + 1, dead, &h.attributes)
                        })
                        .collect();
                }
                _ => {}
            }
        }
        if route.hops.is_empty() && hop.index != 0 {
            route.hops.push(hop);
        }
        route.unexpanded = nexthop_object && route.hops.is_empty() && route.kind == RouteType::Unicast;
        route.table = TABLES.iter().position(|t| *t == table)? as u8;
        Some(route)
    }

    /// True for a route that makes one address the host's own.
    pub fn is_own_address(&self) -> bool {
        let whole = if self.network.is_ipv4() { 32 } else { 128 };
        self.prefix_len == whole && matches!(self.kind, RouteType::Local | RouteType::Anycast)
    }
}

impl Hop {
    fn new(index: u32, weight: u16, dead: bool, attributes: &[RouteAttribute]) -> Self {
        let mut hop = Self { index, gateway: None, weight, dead, encapsulated: false };
        for attribute in attributes {
            match attribute {
                RouteAttribute::Gateway(address) => hop.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => hop.gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => hop.gateway = Some((*address).into()),
                RouteAttribute::EncapType(_) => hop.encapsulated = true,
                _ => {}
            }
        }
        hop
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// An entry of the ARP or neighbour cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub state: NeighbourState,
    pub mac: Option<Mac>,
}

impl Neighbour {
    /// The key and the entry; `None` for bridge and proxy entries and for groups.
    pub fn from_message(message: &NeighbourMessage) -> Option<((u32, IpAddr), Self)> {
        let header = &message.header;
        if header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        let address = address.filter(|ip| !ip.is_multicast())?;
        Some(((header.ifindex, address), Self { state: header.state, mac }))
    }

    /// The MAC address, when a packet may be sent to it; the lowest bit of the first byte marks a group.
    pub fn usable_mac(&self) -> Option<Mac> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let usable = matches!(self.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
        self.mac.filter(|mac| usable && mac[0] & 1 == 0)
    }
}
