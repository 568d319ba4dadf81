//! From netlink messages to answers of the FIB, without a kernel.

use dataplane::fib::Resolution;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteVia,
};

use super::super::model::{Link, Neighbour};
use super::*;

/// Interface indices: two mirrors, and an interface that is none.
const FIRST: u32 = 10;
const SECOND: u32 = 11;
const OTHER: u32 = 2;

const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn compiler() -> Compiler {
    let mirror = |index, last| MirrorPort { index, mac: [2, 0, 0, 0, 1, last], mtu: 1500 };
    Compiler::new(vec![mirror(FIRST, 0), mirror(SECOND, 1)])
}

fn compile(model: &Model) -> Fib {
    compiler().compile(model).unwrap()
}

/// A unicast route of table main without attributes other than its destination.
fn bare_route(network: &str) -> RouteMessage {
    let (address, len) = network.split_once('/').unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = if address.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = len.parse().unwrap();
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    if len != "0" {
        message.attributes.push(RouteAttribute::Destination(ip(address).into()));
    }
    message
}

/// A route out of an interface, with further attributes.
fn route(network: &str, index: u32, attributes: &[RouteAttribute]) -> RouteMessage {
    let mut message = bare_route(network);
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend_from_slice(attributes);
    message
}

fn of_kind(mut message: RouteMessage, table: u8, kind: RouteType) -> RouteMessage {
    (message.header.table, message.header.kind) = (table, kind);
    message
}

fn gateway(address: &str) -> RouteAttribute {
    RouteAttribute::Gateway(ip(address).into())
}

fn hop(index: u32, hops: u8, attributes: &[RouteAttribute]) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    (hop.interface_index, hop.hops, hop.attributes) = (index, hops, attributes.to_vec());
    hop
}

fn model_of(routes: impl IntoIterator<Item = RouteMessage>) -> Model {
    Model { routes: routes.into_iter().filter_map(|m| KernelRoute::from_message(&m)).collect(), ..Model::default() }
}

fn neighbour(index: u32, address: &str, state: NeighbourState, mac: Option<&[u8]>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    (message.header.ifindex, message.header.state) = (index, state);
    let destination = match ip(address) {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    message
}

fn address(index: u32, text: &str, scope: AddressScope, flags: AddressFlags) -> AddressMessage {
    let (address, len) = text.split_once('/').unwrap();
    let mut message = AddressMessage::default();
    message.header.family = if address.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
    (message.header.index, message.header.scope) = (index, scope);
    message.header.prefix_len = len.parse().unwrap();
    message.attributes.push(AddressAttribute::Address(ip(address)));
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn model_with(addresses: &[AddressMessage]) -> Model {
    Model { addresses: addresses.iter().filter_map(InterfaceAddress::from_message).collect(), ..Model::default() }
}

fn resolve(fib: &Fib, dst: &str, flow: u32) -> Resolution {
    match ip(dst) {
        IpAddr::V4(ip) => fib.resolve(ip, flow),
        IpAddr::V6(ip) => fib.resolve(ip, flow),
    }
}

/// The neighbour that a packet to `dst` would be sent to: port and address.
fn way(fib: &Fib, dst: &str) -> Option<(u16, IpAddr)> {
    match resolve(fib, dst, 0) {
        Resolution::Unresolved { port, next_hop, .. } => Some((port.0, next_hop)),
        Resolution::NoRoute => None,
        Resolution::Ready(id) => panic!("{dst} leads to {:?} without neighbours", fib.adjacency(id)),
    }
}

#[test]
fn each_kind_of_route_leads_where_the_kernel_would_send() {
    let via6 = RouteAttribute::Via(RouteVia::Inet6("fe80::7".parse().unwrap()));
    let mpls = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
    let mut cloned = route("192.0.2.0/24", FIRST, &[]);
    cloned.header.flags = RouteFlags::Cloned;
    let mut by_tos = route("192.0.2.0/24", FIRST, &[]);
    by_tos.header.tos = 16;
    let mut by_source = route("2001:db8::/32", FIRST, &[]);
    by_source.header.source_prefix_length = 64;
    let mut dead = route("192.0.2.0/24", FIRST, &[]);
    dead.header.flags = RouteFlags::Linkdown;
    let mut other_table = route("192.0.2.0/24", FIRST, &[]);
    other_table.header.table = 100;
    let mut large_table = route("192.0.2.0/24", FIRST, &[RouteAttribute::Table(1000)]);
    large_table.header.table = 252;
    let mut dead_hop = hop(FIRST, 0, &[gateway("10.0.0.1")]);
    dead_hop.flags = RouteNextHopFlags::Dead;
    let half_dead = RouteAttribute::MultiPath(vec![dead_hop.clone(), hop(SECOND, 0, &[gateway("10.1.0.1")])]);
    let mut multipath = bare_route("192.0.2.0/24");
    multipath.attributes.push(half_dead);
    let mut all_dead = bare_route("192.0.2.0/24");
    all_dead.attributes.push(RouteAttribute::MultiPath(vec![dead_hop]));

    // Behind each route there is a default route by the second mirror, to see what is passed over and what is not.
    let default4 = Some((1, ip("10.9.9.9")));
    let default6 = Some((1, ip("fe80::9")));
    let target = "192.0.2.5";
    let target6 = "2001:db8::5";
    let cases = [
        ("on the link", route("192.0.2.0/24", FIRST, &[]), target, Some((0, ip(target)))),
        ("by a router", route("192.0.2.0/24", FIRST, &[gateway("10.0.0.1")]), target, Some((0, ip("10.0.0.1")))),
        ("IPv6", route("2001:db8::/32", FIRST, &[gateway("fe80::1")]), target6, Some((0, ip("fe80::1")))),
        ("by an IPv6 router", route("192.0.2.0/24", SECOND, &[via6]), target, Some((1, ip("fe80::7")))),
        ("out of another interface", route("192.0.2.0/24", OTHER, &[]), target, None),
        ("encapsulated", route("192.0.2.0/24", FIRST, &[mpls]), target, None),
        ("unreachable", of_kind(bare_route("192.0.2.0/24"), 254, RouteType::Unreachable), target, None),
        ("blackhole", of_kind(bare_route("192.0.2.0/24"), 254, RouteType::BlackHole), target, None),
        ("prohibit", of_kind(bare_route("2001:db8::/32"), 254, RouteType::Prohibit), target6, None),
        ("local network", of_kind(route("192.0.2.0/24", 1, &[]), 255, RouteType::Local), target, None),
        ("broadcast", of_kind(route("192.0.2.5/32", FIRST, &[]), 255, RouteType::Broadcast), target, None),
        (
            "default table",
            of_kind(route("192.0.2.0/24", FIRST, &[]), 253, RouteType::Unicast),
            target,
            Some((0, ip(target))),
        ),
        ("cache entry", cloned, target, default4),
        ("of a type of service", by_tos, target, default4),
        ("by source address", by_source, target6, default6),
        ("of another table", other_table, target, default4),
        ("of a table above 255", large_table, target, default4),
        ("without carrier", dead, target, default4),
        ("one hop dead", multipath, target, Some((1, ip("10.1.0.1")))),
        ("all hops dead", all_dead, target, default4),
    ];
    for (what, message, dst, expected) in cases {
        let default4 = route("0.0.0.0/0", SECOND, &[gateway("10.9.9.9")]);
        let default6 = route("::/0", SECOND, &[gateway("fe80::9")]);
        let fib = compile(&model_of([default4, default6, message]));
        assert_eq!(way(&fib, dst), expected, "{what}");
    }
}

#[test]
fn the_lowest_metric_of_the_first_table_counts() {
    let with = |metric, gw| route("10.0.0.0/8", FIRST, &[RouteAttribute::Priority(metric), gateway(gw)]);
    let fib = compile(&model_of([with(200, "192.0.2.2"), with(100, "192.0.2.1"), with(300, "192.0.2.3")]));
    assert_eq!(way(&fib, "10.1.1.1"), Some((0, ip("192.0.2.1"))));

    let in_default = of_kind(with(1, "192.0.2.9"), 253, RouteType::Unicast);
    let fib = compile(&model_of([in_default, with(200, "192.0.2.2")]));
    assert_eq!(way(&fib, "10.1.1.1"), Some((0, ip("192.0.2.2"))), "main before default");

    // An unreachable route of a high metric is the usual safety net.
    let net = of_kind(route("10.0.0.0/8", 1, &[RouteAttribute::Priority(u32::MAX)]), 254, RouteType::Unreachable);
    let fib = compile(&model_of([net, with(0, "192.0.2.1")]));
    assert_eq!(way(&fib, "10.1.1.1"), Some((0, ip("192.0.2.1"))));
}

#[test]
fn link_local_networks_of_other_interfaces_do_not_hide_ours() {
    let fib = compile(&model_of([route("fe80::/64", OTHER, &[]), route("fe80::/64", SECOND, &[])]));
    assert_eq!(way(&fib, "fe80::5"), Some((1, ip("fe80::5"))));
}

#[test]
fn multipath_weights_are_shares_of_flows() {
    let mut message = bare_route("0.0.0.0/0");
    let hops = vec![
        hop(FIRST, 0, &[gateway("10.0.0.1")]),
        hop(SECOND, 2, &[gateway("10.1.0.1")]),
        hop(OTHER, 3, &[gateway("10.2.0.1")]),
    ];
    message.attributes.push(RouteAttribute::MultiPath(hops));
    let fib = compile(&model_of([message]));
    let ports: Vec<u16> = (0..4u32)
        .map(|quarter| match resolve(&fib, "192.0.2.1", quarter << 30) {
            Resolution::Unresolved { port, .. } => port.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ports, [0, 1, 1, 1], "one to three, and none by the other interface");
}

#[test]
fn route_mtu_and_preferred_source_are_kept() {
    let attributes = [
        RouteAttribute::Metrics(vec![RouteMetric::Hoplimit(3), RouteMetric::Mtu(1400)]),
        RouteAttribute::PrefSource(RouteAddress::Inet("192.0.2.77".parse().unwrap())),
    ];
    let mut model = model_of([route("10.0.0.0/8", FIRST, &attributes), route("10.2.0.0/16", FIRST, &[])]);
    for dst in ["10.1.1.1", "10.2.1.1"] {
        assert!(model.update_neighbour(&neighbour(FIRST, dst, NeighbourState::Reachable, Some(&MAC))));
    }
    let fib = compile(&model);
    let adjacency = |dst| match resolve(&fib, dst, 0) {
        Resolution::Ready(id) => *fib.adjacency(id),
        other => panic!("{other:?}"),
    };
    assert_eq!(adjacency("10.1.1.1").mtu, 1400);
    assert_eq!(adjacency("10.2.1.1").mtu, 1500);
    assert_eq!(adjacency("10.1.1.1").dst_mac, MAC);
    assert_eq!(adjacency("10.1.1.1").src_mac, [2, 0, 0, 0, 1, 0]);
    assert_eq!(fib.source_for(std::net::Ipv4Addr::new(10, 1, 1, 1)), Some(std::net::Ipv4Addr::new(192, 0, 2, 77)));
}

#[test]
fn neighbours_are_used_in_the_states_in_which_the_kernel_would() {
    use NeighbourState::*;
    let cases = [
        (Reachable, true),
        (Stale, true),
        (Delay, true),
        (Probe, true),
        (Permanent, true),
        (Noarp, true),
        (Incomplete, false),
        (Failed, false),
        (None, false),
    ];
    for (state, usable) in cases {
        let mut model = model_of([route("10.0.0.0/8", FIRST, &[])]);
        let changed = model.update_neighbour(&neighbour(FIRST, "10.0.0.1", state, Some(&MAC)));
        assert_eq!(changed, usable, "{state:?}");
        let ready = matches!(resolve(&compile(&model), "10.0.0.1", 0), Resolution::Ready(_));
        assert_eq!(ready, usable, "{state:?}");
    }
}

#[test]
fn neighbours_without_use_are_left_out() {
    let mut proxy = neighbour(FIRST, "10.0.0.1", NeighbourState::Permanent, Some(&MAC));
    proxy.header.flags = NeighbourFlags::Proxy;
    let cases = [
        ("a proxy entry", proxy),
        ("without address", neighbour(FIRST, "10.0.0.1", NeighbourState::Reachable, None)),
        ("of another medium", neighbour(FIRST, "10.0.0.1", NeighbourState::Reachable, Some(&[1, 2, 3, 4]))),
        ("a group's MAC", neighbour(FIRST, "10.0.0.1", NeighbourState::Noarp, Some(&[1, 0, 0x5e, 0, 0, 1]))),
        ("of another interface", neighbour(OTHER, "10.0.0.1", NeighbourState::Reachable, Some(&MAC))),
        ("on the other mirror", neighbour(SECOND, "10.0.0.1", NeighbourState::Reachable, Some(&MAC))),
    ];
    for (what, message) in cases {
        let mut model = model_of([route("10.0.0.0/8", FIRST, &[])]);
        model.update_neighbour(&message);
        assert_eq!(way(&compile(&model), "10.0.0.1"), Some((0, ip("10.0.0.1"))), "{what}");
    }
    assert_eq!(Neighbour::from_message(&neighbour(FIRST, "ff02::1", NeighbourState::Noarp, Some(&MAC))), None);
}

#[test]
fn only_what_the_packet_path_sees_makes_a_generation() {
    let mut model = model_of([route("10.0.0.0/8", FIRST, &[])]);
    let mut compiler = compiler();
    assert_eq!(compiler.compile(&model).unwrap().generation, 1);
    assert!(compiler.compile(&model).is_none(), "nothing happened");

    let at = |state, mac| neighbour(FIRST, "10.0.0.1", state, mac);
    let other_mac: Mac = [2, 0, 0, 0, 0, 9];
    let steps: [(&str, NeighbourMessage, Option<u32>); 7] = [
        ("resolving", at(NeighbourState::Incomplete, None), None),
        ("resolved", at(NeighbourState::Reachable, Some(&MAC)), Some(2)),
        ("not verified", at(NeighbourState::Stale, Some(&MAC)), None),
        ("verifying", at(NeighbourState::Probe, Some(&MAC)), None),
        ("moved", at(NeighbourState::Reachable, Some(&other_mac)), Some(3)),
        ("gone", at(NeighbourState::Failed, Some(&other_mac)), Some(4)),
        ("still gone", at(NeighbourState::Failed, None), None),
    ];
    for (what, message, generation) in steps {
        assert_eq!(model.update_neighbour(&message), generation.is_some(), "{what}");
        assert_eq!(compiler.compile(&model).map(|fib| fib.generation), generation, "{what}");
    }
    assert!(model.update_neighbour(&at(NeighbourState::Reachable, Some(&MAC))));
    assert!(model.remove_neighbour(&at(NeighbourState::Reachable, Some(&MAC))));
    assert!(!model.remove_neighbour(&at(NeighbourState::Reachable, Some(&MAC))), "it is removed already");

    model.addresses.extend(InterfaceAddress::from_message(&address(
        OTHER,
        "192.0.2.1/24",
        AddressScope::Universe,
        AddressFlags::Permanent,
    )));
    assert_eq!(compiler.compile(&model).unwrap().generation, 5, "a local address of any interface");
}

#[test]
fn addresses_come_in_order_of_preference() {
    use AddressScope::{Link as OnLink, Universe};
    let none = AddressFlags::empty();
    let mut model = model_with(&[
        address(FIRST, "169.254.0.1/16", OnLink, none),
        address(FIRST, "10.0.0.100/32", Universe, none),
        address(FIRST, "10.0.0.2/24", Universe, none),
        address(FIRST, "10.0.0.3/24", Universe, AddressFlags::Secondary),
        address(FIRST, "10.1.0.2/24", Universe, none),
        address(FIRST, "fe80::1/64", OnLink, none),
        address(FIRST, "fd00::1/64", Universe, AddressFlags::Deprecated),
        address(FIRST, "fd00::2/64", Universe, none),
        address(FIRST, "fd00::3/64", Universe, AddressFlags::Tentative),
        address(FIRST, "fd00::4/64", Universe, AddressFlags::Tentative | AddressFlags::Optimistic),
        address(FIRST, "fd00::5/64", Universe, AddressFlags::Dadfailed | AddressFlags::Tentative),
        address(SECOND, "10.2.0.2/24", Universe, none),
        address(OTHER, "127.0.0.1/8", AddressScope::Host, none),
    ]);
    let mut link = LinkMessage::default();
    link.header.index = FIRST;
    link.attributes = vec![LinkAttribute::IfName("dpvs0".into()), LinkAttribute::Mtu(9000)];
    model.links.extend([Link::from_message(&link)]);

    let fib = compile(&model);
    let expected =
        ["10.0.0.2", "10.1.0.2", "10.0.0.100", "10.0.0.3", "169.254.0.1", "fd00::2", "fd00::4", "fd00::1", "fe80::1"];
    assert_eq!(fib.ports[0].addresses, expected.map(ip));
    assert_eq!(fib.ports[1].addresses, [ip("10.2.0.2")]);
    assert_eq!((fib.ports[0].mtu, fib.ports[1].mtu), (9000, 1500));
    for own in ["10.0.0.2", "127.0.0.1", "fd00::3", "fe80::1", "10.2.0.2"] {
        assert!(fib.is_local(ip(own)), "{own}");
    }
    assert!(!fib.is_local(ip("10.0.0.1")));
}

#[test]
fn on_point_to_point_links_the_local_address_is_ours() {
    let mut message = address(OTHER, "10.0.0.9/32", AddressScope::Universe, AddressFlags::empty());
    message.attributes.push(AddressAttribute::Local(ip("10.0.0.8")));
    let fib = compile(&model_with(&[message]));
    assert!(fib.is_local(ip("10.0.0.8")));
    assert!(!fib.is_local(ip("10.0.0.9")), "the peer");
}

#[test]
fn host_routes_of_the_local_table_are_the_hosts_addresses() {
    let fib = compile(&model_of([
        of_kind(route("192.0.2.80/32", 1, &[]), 255, RouteType::Local),
        of_kind(route("fd00::/128", FIRST, &[]), 255, RouteType::Anycast),
        of_kind(route("198.51.100.0/24", 1, &[]), 255, RouteType::Local),
        of_kind(route("192.0.2.255/32", FIRST, &[]), 255, RouteType::Broadcast),
    ]));
    assert!(fib.is_local(ip("192.0.2.80")));
    assert!(fib.is_local(ip("fd00::")));
    assert!(!fib.is_local(ip("192.0.2.255")));
    assert!(!fib.is_local(ip("198.51.100.0")));
}

#[test]
fn stale_neighbours_are_verified_routers_first() {
    let mut model = model_of([route("0.0.0.0/0", FIRST, &[gateway("10.0.0.200")])]);
    for (index, address, state) in [
        (FIRST, "10.0.0.1", NeighbourState::Stale),
        (FIRST, "10.0.0.2", NeighbourState::Reachable),
        (FIRST, "10.0.0.200", NeighbourState::Stale),
        (SECOND, "10.0.0.200", NeighbourState::Stale),
        (OTHER, "10.0.0.1", NeighbourState::Stale),
    ] {
        model.update_neighbour(&neighbour(index, address, state, Some(&MAC)));
    }
    let expected = [(FIRST, ip("10.0.0.200")), (FIRST, ip("10.0.0.1")), (SECOND, ip("10.0.0.200"))];
    assert_eq!(model.stale(&[FIRST, SECOND]), expected);
}

#[test]
fn unexpanded_next_hop_objects_are_noticed() {
    let mut message = bare_route("10.0.0.0/8");
    message.attributes.push(RouteAttribute::NhId(7));
    assert!(KernelRoute::from_message(&message).unwrap().unexpanded);
    message.attributes.push(RouteAttribute::Oif(FIRST));
    assert!(!KernelRoute::from_message(&message).unwrap().unexpanded);
}
