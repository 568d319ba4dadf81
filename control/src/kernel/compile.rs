//! From the kernel's state to the packet path's [`Fib`].

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use dataplane::PortId;
use dataplane::fib::{Fib, Mac, NextHop, PortInfo, Route};
use netlink_packet_route::address::{AddressFlags, AddressScope};
use netlink_packet_route::route::RouteType;

use super::model::{InterfaceAddress, KernelRoute, Model};

/// A port's mirror interface, for the compiler.
#[derive(Clone, Debug)]
pub(super) struct MirrorPort {
    /// Interface index.
    pub index: u32,
    /// The port's MAC address.
    pub mac: Mac,
    /// MTU to be assumed while the kernel does not know the interface.
    pub mtu: u16,
}

/// Compiles FIBs, and only when something that they contain has changed.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    /// By [`PortId`].
    mirrors: Vec<MirrorPort>,
    generation: u32,
    last: Option<Contents>,
}

/// What a FIB is made of.
#[derive(Clone, Debug, PartialEq)]
struct Contents {
    /// MTU and addresses by [`PortId`].
    ports: Vec<(u16, Vec<IpAddr>)>,
    routes: Vec<Route>,
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    local: HashSet<IpAddr>,
}

impl Compiler {
    /// A compiler whose first FIB has generation 1.
    pub fn new(mirrors: Vec<MirrorPort>) -> Self {
        Self { mirrors, generation: 0, last: None }
    }

    /// The FIB of `model`, or `None` when it would equal the previous one.
    pub fn compile(&mut self, model: &Model) -> Option<Fib> {
        let contents = self.contents(model);
        if self.last.as_ref() == Some(&contents) {
            return None;
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        let Contents { ports, routes, neighbours, local } = contents.clone();
        self.last = Some(contents);
        let infos = self.mirrors.iter().zip(ports).map(|(m, (mtu, addresses))| PortInfo { mac: m.mac, mtu, addresses });
        Some(Fib::new(self.generation, infos.collect(), routes, neighbours, local))
    }

    fn contents(&self, model: &Model) -> Contents {
        let ports_by_index: HashMap<u32, PortId> =
            self.mirrors.iter().enumerate().map(|(port, mirror)| (mirror.index, PortId(port as u16))).collect();
        let mut routes: Vec<&KernelRoute> = model.routes.iter().collect();
        routes.sort_by_key(|route| (route.table, route.metric));
        let own = model.routes.iter().filter(|route| route.is_own_address()).map(|route| route.network);
        Contents {
            ports: self.mirrors.iter().map(|mirror| port_info(mirror, model)).collect(),
            routes: routes.into_iter().filter_map(|route| compile_route(route, &ports_by_index)).collect(),
            neighbours: model
                .neighbours
                .iter()
                .filter_map(|((index, ip), n)| Some(((*ports_by_index.get(index)?, *ip), n.usable_mac()?)))
                .collect(),
            local: model.addresses.iter().map(|a| a.address).chain(own).collect(),
        }
    }
}

/// MTU and addresses of a mirror interface. Addresses come in the order in which they should be used as a source.
fn port_info(mirror: &MirrorPort, model: &Model) -> (u16, Vec<IpAddr>) {
    let mtu = model.links.get(&mirror.index).map_or(mirror.mtu, |link| u16::try_from(link.mtu).unwrap_or(u16::MAX));
    let mut addresses: Vec<&InterfaceAddress> =
        model.addresses.iter().filter(|a| a.index == mirror.index && a.is_usable()).collect();
    addresses.sort_by_key(|a| {
        let unwanted = AddressFlags::Secondary | AddressFlags::Deprecated;
        // A host address among others is a service's rather than the interface's own.
        let is_host = a.prefix_len == if a.address.is_ipv4() { 32 } else { 128 };
        (a.address.is_ipv6(), scope_order(a.scope), a.flags.intersects(unwanted), is_host)
    });
    (mtu, addresses.into_iter().map(|a| a.address).collect())
}

fn scope_order(scope: AddressScope) -> u8 {
    match scope {
        AddressScope::Universe => 0,
        AddressScope::Site => 1,
        _ => 2,
    }
}

/// The packet path's view of a route; `None` when the route is to be passed over.
fn compile_route(route: &KernelRoute, ports: &HashMap<u32, PortId>) -> Option<Route> {
    let mut next_hops = Vec::new();
    if route.kind == RouteType::Unicast {
        let alive = || route.hops.iter().filter(|hop| !hop.dead);
        let usable = alive().filter(|hop| !hop.encapsulated);
        next_hops.extend(usable.filter_map(|hop| {
            Some(NextHop { port: *ports.get(&hop.index)?, gateway: hop.gateway, weight: hop.weight.max(1) })
        }));
        let all_dead = !route.hops.is_empty() && alive().next().is_none();
        // Link-local prefixes exist once per interface; those of other interfaces say nothing about ours.
        if next_hops.is_empty() && (all_dead || is_link_local(route.network)) {
            return None;
        }
    }
    Some(Route {
        network: route.network,
        prefix_len: route.prefix_len,
        next_hops,
        preferred_source: route.preferred_source,
        mtu: route.mtu,
    })
}

fn is_link_local(network: IpAddr) -> bool {
    match network {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
