//! Tests of the registry: a table of refusals, the rules of slots and list order, and a comparison with a simple model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dpvs_api::{
    ClientAddress, ErrorKind, Family, ForwardMode, LocalPorts, Protocol, Scheduler, SchedulerFlag, SorryServer, Tunnel,
    TunnelChecksum, TunnelType,
};
use proptest::prelude::*;

use super::*;

fn idle(_: ServerSlot) -> bool {
    false
}

fn busy(_: ServerSlot) -> bool {
    true
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const VIP: &str = "192.0.2.1:80";

fn id(text: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: addr(text) }
}

fn mark(mark: u32) -> ServiceId {
    ServiceId::Fwmark { mark, family: Family::Inet }
}

fn service(address: &str, servers: &[&str]) -> Service {
    let settings = ServiceSettings { scheduler: Scheduler::Rr, ..ServiceSettings::default() };
    Service { settings, servers: servers.iter().map(|s| server(s)).collect(), ..Service::new(id(address)) }
}

fn server(address: &str) -> Server {
    Server::new(addr(address), ForwardMode::Nat)
}

fn add(address: &str, servers: &[&str]) -> Operation {
    Operation::AddService { service: service(address, servers) }
}

fn delete(address: &str) -> Operation {
    Operation::DeleteService { service: id(address) }
}

fn add_server(address: &str, server: Server) -> Operation {
    Operation::AddServer { service: id(address), server }
}

fn edit_server(address: &str, server: Server) -> Operation {
    Operation::EditServer { service: id(address), server }
}

fn delete_server(address: &str, server: &str) -> Operation {
    Operation::DeleteServer { service: id(address), server: addr(server) }
}

fn add_local(address: &str, local: &str) -> Operation {
    let local_address = local.parse().unwrap();
    Operation::AddLocalAddress { service: id(address), local_address, interface: None }
}

fn timeouts(tcp: u32, tcp_fin: u32, udp: u32) -> Operation {
    Operation::SetTimeouts { timeouts: Timeouts { tcp, tcp_fin, udp } }
}

fn registry(operations: &[Operation]) -> Registry {
    let mut registry = Registry::new(8, 16);
    registry.apply(operations, &idle).unwrap();
    registry
}

fn slot_of(registry: &Registry, service: &str, server: &str) -> ServerSlot {
    let entry = registry.service(id(service)).unwrap();
    entry.servers().iter().find(|m| m.server.address == addr(server)).unwrap().slot
}

fn compiled(registry: &Registry, service: &str) -> Arc<snapshot::Service> {
    let address = addr(service);
    let table = registry.table();
    let found = match address.ip() {
        IpAddr::V4(ip) => table.find(proto::Protocol::TCP, ip, address.port()),
        IpAddr::V6(ip) => table.find(proto::Protocol::TCP, ip, address.port()),
    };
    Arc::clone(found.unwrap())
}

#[test]
fn one_packet_and_fullnat_exclude_each_other() {
    let id = format!("udp/{VIP}").parse().unwrap();
    let settings = ServiceSettings { one_packet: true, ..ServiceSettings::default() };
    let whole = Service { id, settings, ..service(VIP, &["10.0.0.1:80"]) };
    let mut registry = registry(&[Operation::AddService { service: whole.clone() }]);
    let compiled = |registry: &Registry| Arc::clone(&registry.services[&id].compiled);
    assert!(compiled(&registry).one_packet);
    let fullnat = Server { mode: ForwardMode::Fullnat, ..server("10.0.0.1:80") };
    let edit = Operation::EditServer { service: id, server: fullnat.clone() };
    let error = registry.apply(std::slice::from_ref(&edit), &idle).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].server.mode"));
    let add = Operation::AddServer { service: id, server: Server { address: addr("10.0.0.2:80"), ..fullnat } };
    assert_eq!(registry.apply(&[add], &idle).unwrap_err().path.as_deref(), Some("[0].server.mode"));

    let with = |one_packet| Operation::EditService {
        service: id,
        settings: ServiceSettings { one_packet, ..whole.settings.clone() },
    };
    registry.apply(&[with(false), edit], &idle).unwrap();
    assert!(!compiled(&registry).one_packet);
    let error = registry.apply(&[with(true)], &idle).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].settings.one_packet"));
    assert!(error.message.contains("server 10.0.0.1:80"), "{}", error.message);
}

/// What each operation fails with, on a registry with one service, one server and one local address.
#[test]
fn refusals() {
    let with = |change: &dyn Fn(&mut Service)| {
        let mut service = service("192.0.2.2:80", &["10.0.0.1:80", "10.0.0.2:80"]);
        change(&mut service);
        Operation::AddService { service }
    };
    let member = |change: &dyn Fn(&mut Server)| {
        let mut server = server("10.0.0.9:80");
        change(&mut server);
        add_server(VIP, server)
    };
    let settings = |settings| Operation::EditService { service: id(VIP), settings };
    let edit = |timeout| settings(ServiceSettings { timeout: Some(timeout), ..ServiceSettings::default() });
    let ports = |first, last| {
        settings(ServiceSettings { local_ports: LocalPorts { first, last }, ..ServiceSettings::default() })
    };
    use ErrorKind::{Exists, Invalid, NotFound};
    use TunnelChecksum::{Csum as Full, None as Off, Remcsum as Remote};
    use TunnelType::{Gre, Gue, Ipip};
    let tunnel = |kind, port, checksum| Tunnel { kind, port, checksum };
    let wrapped =
        |kind, port, checksum| member(&|s| (s.mode, s.tunnel) = (ForwardMode::Tun, tunnel(kind, port, checksum)));
    let cases: &[(Operation, ErrorKind, &str, &str)] = &[
        (add(VIP, &[]), Exists, "service.address", "service tcp/192.0.2.1:80 exists already; edit it instead"),
        (add("0.0.0.0:80", &[]), Invalid, "service.address", "virtual address 0.0.0.0 is an unspecified address"),
        (add("224.0.0.1:80", &[]), Invalid, "service.address", "is a multicast address; give a unicast address"),
        (add("127.0.0.1:80", &[]), Invalid, "service.address", "is a loopback address"),
        (add("255.255.255.255:80", &[]), Invalid, "service.address", "is a broadcast address"),
        (add("[::]:80", &[]), Invalid, "service.address", "is an unspecified address"),
        (add("[::1]:80", &[]), Invalid, "service.address", "is a loopback address"),
        (add("[ff02::1]:80", &[]), Invalid, "service.address", "is a multicast address"),
        (add("[::ffff:192.0.2.1]:80", &[]), Invalid, "service.address", "is an IPv4-mapped address"),
        (add("[fe80::1%2]:80", &[]), Invalid, "service.address", "has a zone"),
        (Operation::AddService { service: Service::new(mark(0)) }, Invalid, "service.fwmark", "0 is no firewall mark"),
        (add("192.0.2.2:0", &[]), Invalid, "service.persistence", "stands for every port, which needs persistence"),
        (
            with(&|s| s.settings.timeout = Some(0)),
            Invalid,
            "service.timeout",
            "0 seconds is out of range; give 1 to 2678400",
        ),
        (with(&|s| s.settings.timeout = Some(2_678_401)), Invalid, "service.timeout", "(31 days)"),
        (with(&|s| s.settings.one_packet = true), Invalid, "service.one_packet", "only UDP can"),
        (
            with(&|s| {
                (s.id, s.settings.one_packet) = ("udp/192.0.2.2:80".parse().unwrap(), true);
                s.servers[1].mode = ForwardMode::Fullnat;
            }),
            Invalid,
            "service.servers[1].mode",
            "server 10.0.0.2:80 cannot have mode fullnat in service udp/192.0.2.2:80",
        ),
        (with(&|s| s.settings.local_ports.first = 0), Invalid, "service.local_ports", "need 1 <= first <= last"),
        (with(&|s| s.settings.local_ports.last = 9), Invalid, "service.local_ports", "local ports 1025 to 9"),
        (with(&|s| s.servers[1].weight = 65536), Invalid, "service.servers[1].weight", "give 0 to 65535"),
        (
            with(&|s| s.servers[1].address = s.servers[0].address),
            Exists,
            "service.servers[1].address",
            "server 10.0.0.1:80 stands twice in service tcp/192.0.2.2:80; remove one",
        ),
        (
            with(&|s| s.local_addresses = vec![[10, 0, 0, 5].into(), [10, 0, 0, 5].into()]),
            Exists,
            "service.local_addresses[1]",
            "stands twice",
        ),
        (
            with(&|s| s.local_addresses = vec!["::1".parse().unwrap()]),
            Invalid,
            "service.local_addresses[0]",
            "is a loopback address",
        ),
        (edit(0), Invalid, "settings.timeout", "service tcp/192.0.2.1:80: a timeout of 0 seconds"),
        (ports(7, 6), Invalid, "settings.local_ports", "are no range"),
        (delete("192.0.2.9:80"), NotFound, "service", "service tcp/192.0.2.9:80 does not exist; add it first"),
        (add_server("192.0.2.9:80", server("10.0.0.9:80")), NotFound, "service", "does not exist"),
        (add_server(VIP, server("10.0.0.1:80")), Exists, "server.address", "exists already in service"),
        (
            add_server(VIP, server("[2001:db8::1]:80")),
            Invalid,
            "server.address",
            "which only modes fullnat and tun can join",
        ),
        (member(&|s| s.tunnel = tunnel(Gre, None, Full)), Invalid, "server.tunnel", "goes with mode tun only"),
        (wrapped(Gue, None, Off), Invalid, "server.tunnel.port", "needs a UDP port from 1 to 65535"),
        (wrapped(Gue, Some(0), Off), Invalid, "server.tunnel.port", "needs a UDP port from 1 to 65535"),
        (wrapped(Gre, Some(6080), Off), Invalid, "server.tunnel.port", "type gre, which has no port; remove the port"),
        (wrapped(Ipip, Some(6080), Off), Invalid, "server.tunnel.port", "type ipip, which has no port"),
        (wrapped(Ipip, None, Full), Invalid, "server.tunnel.checksum", "which has no checksum csum; use none"),
        (wrapped(Gre, None, Remote), Invalid, "server.tunnel.checksum", "no checksum remcsum; use none or csum"),
        (add_server(VIP, server("192.0.2.1:8080")), Invalid, "server.address", "give the server's own address"),
        (add_server(VIP, server("0.0.0.0:80")), Invalid, "server.address", "server address 0.0.0.0 is an unspecified"),
        (add_server(VIP, server("239.1.1.1:80")), Invalid, "server.address", "multicast"),
        (member(&|s| s.weight = 65_536), Invalid, "server.weight", "weight 65536 of server 10.0.0.9:80 is too large"),
        (member(&|s| s.lower_threshold = 1), Invalid, "server.lower_threshold", "exceeds its upper threshold 0"),
        (
            member(&|s| (s.mode, s.address) = (ForwardMode::Dr, addr("10.0.0.9:81"))),
            Invalid,
            "server.address",
            "mode dr cannot change ports; use port 80, or mode nat or fullnat",
        ),
        (
            member(&|s| (s.mode, s.address) = (ForwardMode::Tun, addr("10.0.0.9:81"))),
            Invalid,
            "server.address",
            "mode tun cannot change ports",
        ),
        (edit_server(VIP, server("10.0.0.9:80")), NotFound, "server.address", "server 10.0.0.9:80 does not exist"),
        (delete_server(VIP, "10.0.0.9:80"), NotFound, "server", "does not exist in service tcp/192.0.2.1:80"),
        (add_local(VIP, "10.9.9.9"), Exists, "local_address", "exists already"),
        (add_local(VIP, "ff02::1"), Invalid, "local_address", "multicast"),
        (
            Operation::DeleteLocalAddress { service: id(VIP), local_address: [10, 9, 9, 8].into() },
            NotFound,
            "local_address",
            "does not exist",
        ),
        (
            Operation::Zero { service: Some(format!("udp/{VIP}").parse().unwrap()) },
            NotFound,
            "service",
            "service udp/192.0.2.1:80 does not exist",
        ),
        (timeouts(2_678_401, 0, 0), Invalid, "timeouts.tcp", "give 1 to 2678400"),
        (timeouts(1, 2_678_401, 0), Invalid, "timeouts.tcp_fin", "give 1 to 2678400"),
        (timeouts(1, 2, u32::MAX), Invalid, "timeouts.udp", "give 1 to 2678400"),
    ];
    for (operation, kind, path, message) in cases {
        let mut registry = registry(&[add(VIP, &["10.0.0.1:80"]), add_local(VIP, "10.9.9.9")]);
        let (before, table) = (configuration(&registry), registry.table());
        // Something that would succeed comes first: it must not be applied either.
        let batch = [timeouts(7, 7, 7), add("192.0.2.77:80", &["10.0.0.1:80"]), operation.clone()];
        let error = registry.apply(&batch, &idle).expect_err(path);
        assert_eq!(error.kind, *kind, "{error}");
        assert_eq!(error.path.as_deref(), Some(format!("[2].{path}").as_str()), "{error}");
        assert!(error.message.contains(message), "'{message}' is not in '{error}'");
        assert_eq!(configuration(&registry), before, "{error}");
        assert_eq!(registry.timeouts(), Timeouts::default(), "{error}");
        assert!(Arc::ptr_eq(&registry.table(), &table), "{error}");
    }
}

#[test]
fn workers_see_the_newest_server_first() {
    let mut registry = registry(&[add(VIP, &["10.0.0.1:80", "10.0.0.2:80"])]);
    let order = |registry: &Registry| -> Vec<String> {
        compiled(registry, VIP).servers.iter().map(|s| s.addr.to_string()).collect()
    };
    registry.apply(&[add_server(VIP, server("10.0.0.3:80"))], &idle).unwrap();
    assert_eq!(order(&registry), ["10.0.0.3", "10.0.0.2", "10.0.0.1"]);
    registry.apply(&[edit_server(VIP, Server { weight: 9, ..server("10.0.0.2:80") })], &idle).unwrap();
    assert_eq!(order(&registry), ["10.0.0.3", "10.0.0.2", "10.0.0.1"], "an edit keeps the place");
    let again = [delete_server(VIP, "10.0.0.1:80"), add_server(VIP, server("10.0.0.1:80"))];
    registry.apply(&again, &busy).unwrap();
    assert_eq!(order(&registry), ["10.0.0.1", "10.0.0.3", "10.0.0.2"]);
}

#[test]
fn flags_go_with_their_scheduler() {
    let with = |scheduler, flag| {
        let settings = ServiceSettings { scheduler, scheduler_flags: vec![flag], ..ServiceSettings::default() };
        let whole = Service { settings, ..service(VIP, &[]) };
        Registry::new(1, 1).apply(&[Operation::AddService { service: whole }], &idle)
    };
    for (scheduler, flag) in [
        (Scheduler::Sh, SchedulerFlag::ShPort),
        (Scheduler::Mh, SchedulerFlag::MhFallback),
        (Scheduler::Rr, SchedulerFlag::Flag1),
    ] {
        with(scheduler, flag).unwrap();
    }
    for (scheduler, flag) in [
        (Scheduler::Mh, SchedulerFlag::ShPort),
        (Scheduler::Wlc, SchedulerFlag::MhFallback),
        (Scheduler::Sh, SchedulerFlag::Flag1),
        (Scheduler::Sh, SchedulerFlag::ConhashQid),
    ] {
        let error = with(scheduler, flag).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("[0].service.scheduler_flags[0]"));
        let message =
            format!("scheduler {} of service tcp/{VIP} has no flag {}; it takes ", scheduler.name(), flag.name());
        assert!(error.message.starts_with(&message), "{error}");
    }
    let error = with(Scheduler::Conhash, SchedulerFlag::ConhashQid).unwrap_err();
    assert_eq!(error.message, format!("service tcp/{VIP} cannot hash QUIC connection ids: QUIC needs a UDP service"));
}

#[test]
fn ways_to_tell_the_clients_address_are_for_some_protocols() {
    let with = |protocol: &str, way| {
        let settings = ServiceSettings { client_address: Some(way), ..ServiceSettings::default() };
        let whole = Service { settings, ..Service::new(format!("{protocol}/{VIP}").parse().unwrap()) };
        Registry::new(8, 8).apply(&[Operation::AddService { service: whole }], &idle)
    };
    for (protocol, way) in [("udp", ClientAddress::Toa), ("udp", ClientAddress::ProxyV1)] {
        let error = with(protocol, way).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("[0].service.client_address"));
        assert!(error.message.starts_with(&format!("{} is for TCP, service udp/{VIP}", way.name())), "{error}");
    }
    with("udp", ClientAddress::ProxyV2).unwrap();
    for way in ClientAddress::ALL {
        with("tcp", way).unwrap();
    }
}

#[test]
fn servers_that_would_get_no_proxy_header_are_refused_beside_others() {
    let mut whole = service(VIP, &[]);
    whole.settings.client_address = Some(ClientAddress::ProxyV2);
    whole.servers = vec![Server { mode: ForwardMode::Fullnat, ..server("10.0.0.1:80") }];
    let mut registry = registry(&[Operation::AddService { service: whole.clone() }]);
    let nat = server("10.0.0.1:80");
    let other = Server { address: addr("10.0.0.2:80"), ..nat.clone() };
    for operation in [edit_server(VIP, nat.clone()), add_server(VIP, other)] {
        let error = registry.apply(&[operation], &idle).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("[0].server.mode"));
        assert!(error.message.contains("would not get the header of proxy-v2"), "{error}");
    }
    let with = |client_address| {
        let settings = ServiceSettings { client_address, ..whole.settings.clone() };
        Operation::EditService { service: whole.id, settings }
    };
    registry.apply(&[with(Some(ClientAddress::Toa)), edit_server(VIP, nat.clone())], &idle).unwrap();
    let error = registry.apply(&[with(Some(ClientAddress::ProxyV1))], &idle).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].settings.client_address"));
    let added = Operation::AddService { service: Service { servers: vec![nat], ..whole.clone() } };
    let error = Registry::new(8, 8).apply(&[added], &idle).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].service.servers[0].mode"));
}

#[test]
fn maglev_hashing_keeps_the_place_of_a_server_without_weight() {
    let table = |operations: &[Operation]| {
        let mut whole = service(VIP, &["10.0.0.1:80", "10.0.0.2:80"]);
        whole.settings.scheduler = Scheduler::Mh;
        let mut registry = registry(&[Operation::AddService { service: whole }]);
        registry.apply(operations, &idle).unwrap();
        format!("{:?}", compiled(&registry, VIP).scheduler)
    };
    let weight = |weight| edit_server(VIP, Server { weight, ..server("10.0.0.2:80") });
    let (one, five) = (table(&[]), table(&[weight(5)]));
    assert_ne!(one, five);
    assert_eq!(table(&[weight(5), weight(0)]), five);
    assert_eq!(table(&[weight(0)]), one);
    let anew = [delete_server(VIP, "10.0.0.2:80"), add_server(VIP, Server { weight: 0, ..server("10.0.0.2:80") })];
    assert_ne!(table(&anew), one);
}

#[test]
fn the_sorry_server_is_a_server_of_its_own() {
    let sorry = |text: &str, mode| ServiceSettings {
        sorry_server: Some(SorryServer { address: addr(text), mode }),
        ..ServiceSettings::default()
    };
    let edit = |settings| Operation::EditService { service: id(VIP), settings };
    let mut registry = registry(&[add(VIP, &["10.0.0.1:80"]), edit(sorry("10.0.0.9:80", ForwardMode::Nat))]);
    let slot = |registry: &Registry| compiled(registry, VIP).sorry.map(|server| server.id);
    let first = slot(&registry).unwrap();
    assert!(registry.table().is_live(first));
    assert_eq!(compiled(&registry, VIP).servers.len(), 1);
    // Another mode, the same server.
    registry.apply(&[edit(sorry("10.0.0.9:80", ForwardMode::Dr))], &idle).unwrap();
    assert_eq!(slot(&registry), Some(first));
    for (operation, path, message) in [
        (edit(sorry("10.0.0.1:80", ForwardMode::Nat)), "settings.sorry_server.address", "both a server and the sorry"),
        (add_server(VIP, server("10.0.0.9:80")), "server.address", "both a server and the sorry server"),
        (edit(sorry("10.0.0.9:81", ForwardMode::Dr)), "settings.sorry_server.address", "cannot change ports"),
        (edit(sorry("[2001:db8::9]:80", ForwardMode::Nat)), "settings.sorry_server.address", "address families"),
    ] {
        let error = registry.apply(&[operation], &idle).unwrap_err();
        assert_eq!(error.path, Some(format!("[0].{path}")), "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    // Gone, while it has connections, and back as a real server: it has them again.
    let as_server = [edit(ServiceSettings::default()), add_server(VIP, server("10.0.0.9:80"))];
    registry.apply(&as_server, &busy).unwrap();
    assert_eq!((slot(&registry), compiled(&registry, VIP).servers[0].id), (None, first));
    registry.apply(&[Operation::Clear], &idle).unwrap();
    registry.sweep(&idle);
    assert!(registry.trash.is_empty());
}

#[test]
fn compiled_services_carry_everything() {
    let mut whole = service("[2001:db8::1]:443", &[]);
    whole.settings.scheduler = Scheduler::Wrr;
    whole.settings.timeout = Some(77);
    whole.settings.local_ports = LocalPorts { first: 5000, last: 6000 };
    whole.settings.client_address = Some(ClientAddress::Toa);
    whole.local_addresses = vec!["2001:db8::aa".parse().unwrap()];
    let member = Server { weight: 3, upper_threshold: 10, lower_threshold: 5, ..server("[2001:db8::2]:443") };
    let modes = [ForwardMode::Nat, ForwardMode::Fullnat, ForwardMode::Dr, ForwardMode::Tun];
    for (index, mode) in modes.into_iter().enumerate() {
        whole.servers.push(Server { mode, address: addr(&format!("[2001:db8::{}]:443", index + 2)), ..member.clone() });
    }
    let registry = registry(&[Operation::AddService { service: whole.clone() }]);
    let got = compiled(&registry, "[2001:db8::1]:443");
    assert_eq!(got.scheduler.kind(), sched::Kind::Wrr);
    assert_eq!((got.timeout, got.local_ports), (Some(77), (5000, 6000)));
    assert_eq!(got.client_address, Some(snapshot::ClientAddress::Toa));
    assert_eq!(got.local_addresses, whole.local_addresses);
    use snapshot::ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
    let modes: Vec<_> = got.servers.iter().map(|s| s.mode).collect();
    assert_eq!(modes, [Tunnel, DirectRouting, FullNat, Nat]);
    let last = got.servers[3];
    assert_eq!((last.addr, last.port), (addr("[2001:db8::2]:443").ip(), 443));
    assert_eq!((last.weight, last.upper_threshold, last.lower_threshold), (3, 10, 5));
    assert_eq!(registry.service(whole.id).unwrap().service(whole.id), whole);
}

#[test]
fn unchanged_services_are_shared_and_changed_ones_get_a_new_version() {
    let mut registry = registry(&[add(VIP, &["10.0.0.1:80"]), add("192.0.2.2:80", &["10.0.0.1:80"])]);
    let (one, two, table) = (compiled(&registry, VIP), compiled(&registry, "192.0.2.2:80"), registry.table());
    // Edits that change nothing, statistics and timeouts are nothing to the table.
    let nothing = [edit_server(VIP, server("10.0.0.1:80")), Operation::Zero { service: None }, timeouts(5, 0, 0)];
    registry.apply(&nothing, &idle).unwrap();
    assert!(Arc::ptr_eq(&registry.table(), &table));
    assert_eq!(registry.timeouts(), Timeouts { tcp: 5, ..Timeouts::default() });

    registry.apply(&[edit_server(VIP, Server { weight: 2, ..server("10.0.0.1:80") })], &idle).unwrap();
    assert!(compiled(&registry, VIP).version > one.version);
    assert_eq!(compiled(&registry, VIP).id, one.id);
    assert!(Arc::ptr_eq(&compiled(&registry, "192.0.2.2:80"), &two));

    // A service that is replaced by one of the same content is a new one.
    registry.apply(&[delete("192.0.2.2:80"), add("192.0.2.2:80", &["10.0.0.1:80"])], &idle).unwrap();
    assert!(compiled(&registry, "192.0.2.2:80").version > two.version);
}

#[test]
fn a_removed_server_keeps_its_slot_until_its_connections_are_gone() {
    let mut registry = Registry::new(2, 2);
    registry.apply(&[add(VIP, &["10.0.0.1:80", "10.0.0.2:80"])], &idle).unwrap();
    let slot = slot_of(&registry, VIP, "10.0.0.1:80");
    assert_eq!(registry.apply(&[delete_server(VIP, "10.0.0.1:80")], &busy), Ok(vec![]));
    assert!(!registry.table().is_live(slot));

    let third = [add_server(VIP, server("10.0.0.3:80"))];
    let error = registry.apply(&third, &|s| s == slot).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    assert_eq!(error.path.as_deref(), Some("[0].server"));
    assert!(error.message.contains("raise limits.servers"), "{error}");
    assert_eq!(registry.sweep(&busy), []);

    // Back again: the same slot, and its counts go on.
    let changes = registry.apply(&[add_server(VIP, server("10.0.0.1:80"))], &busy).unwrap();
    assert_eq!(changes, [Change::ServerRevived(slot, None)]);
    assert_eq!(slot_of(&registry, VIP, "10.0.0.1:80"), slot);
    assert!(registry.table().is_live(slot));

    // Once it is idle, the slot is taken by the next server that needs one.
    registry.apply(&[delete_server(VIP, "10.0.0.1:80")], &busy).unwrap();
    let changes = registry.apply(&third, &idle).unwrap();
    let service = registry.service(id(VIP)).unwrap().slot();
    assert_eq!(changes, [Change::ServerFreed(slot), Change::ServerAdded(slot, service)]);
}

/// Replies of its connections are steered by its endpoint.
#[test]
fn a_nat_server_is_known_until_its_connections_are_gone() {
    let other = || add_server(VIP, server("10.0.0.9:80"));
    let direct = Server { mode: ForwardMode::Dr, ..server("10.0.0.1:80") };
    for gone in [delete(VIP), delete_server(VIP, "10.0.0.1:80"), edit_server(VIP, direct)] {
        let is_edit = matches!(gone, Operation::EditServer { .. });
        let mut registry = registry(&[add(VIP, &["10.0.0.1:80"])]);
        let services_of = |registry: &Registry| {
            let table = registry.table();
            table.nat_services(proto::Protocol::TCP, std::net::Ipv4Addr::new(10, 0, 0, 1), 80).to_vec()
        };
        let before = services_of(&registry);
        assert_eq!(before.len(), 1);
        registry.apply(&[gone], &busy).unwrap();
        assert_eq!(services_of(&registry), before);
        if is_edit {
            registry.apply(&[delete_server(VIP, "10.0.0.1:80")], &busy).unwrap();
            assert_eq!(services_of(&registry), before);
        }
        registry.sweep(&idle);
        let again = if registry.service(id(VIP)).is_some() { other() } else { add(VIP, &["10.0.0.9:80"]) };
        registry.apply(&[again], &idle).unwrap();
        assert_eq!(services_of(&registry), []);
        assert!(registry.nat_servers.len() == 1, "{:?}", registry.nat_servers);
    }
}

#[test]
fn a_server_of_a_new_service_of_the_same_name_is_revived_anew() {
    let mut registry = registry(&[add(VIP, &["10.0.0.1:80"])]);
    let slot = slot_of(&registry, VIP, "10.0.0.1:80");
    let old = registry.service(id(VIP)).unwrap().slot();
    let changes = registry.apply(&[delete(VIP), add(VIP, &["10.0.0.1:80"])], &busy).unwrap();
    let new = registry.service(id(VIP)).unwrap().slot();
    let expected = [Change::ServiceRemoved(old), Change::ServiceAdded(new), Change::ServerRevived(slot, Some(new))];
    assert_eq!(changes, expected);
}

#[test]
fn the_same_server_in_another_service_has_a_slot_of_its_own() {
    let mut registry = registry(&[add(VIP, &["10.0.0.1:80"])]);
    registry.apply(&[delete_server(VIP, "10.0.0.1:80"), add("192.0.2.2:80", &["10.0.0.1:80"])], &busy).unwrap();
    assert_ne!(slot_of(&registry, "192.0.2.2:80", "10.0.0.1:80"), ServerSlot(0));
}

#[test]
fn a_full_table_can_be_replaced_in_one_batch() {
    let mut registry = Registry::new(1, 1);
    registry.apply(&[add(VIP, &["10.0.0.1:80"])], &idle).unwrap();
    let error = registry.apply(&[add("192.0.2.2:80", &[])], &idle).unwrap_err();
    assert_eq!((error.kind, error.path.as_deref()), (ErrorKind::Full, Some("[0].service")));
    assert!(error.message.contains("raise limits.services"), "{error}");
    registry.apply(&[delete(VIP), add("192.0.2.2:80", &[])], &idle).unwrap();
    registry.apply(&[Operation::Clear, add(VIP, &["10.0.0.2:80"])], &idle).unwrap();
    assert_eq!(registry.services().len(), 1);
}

#[test]
fn zero_reaches_the_named_service_or_all() {
    let mut registry = registry(&[add(VIP, &[]), add("192.0.2.2:80", &[])]);
    let slot = |text| registry.service(id(text)).unwrap().slot();
    let (one, two) = (slot(VIP), slot("192.0.2.2:80"));
    let zero = Operation::Zero { service: Some(id(VIP)) };
    assert_eq!(registry.apply(&[zero], &idle).unwrap(), [Change::Zeroed(one)]);
    assert_eq!(
        registry.apply(&[Operation::Zero { service: None }], &idle).unwrap(),
        [Change::Zeroed(one), Change::Zeroed(two)]
    );
}

#[test]
fn drafts_name_the_local_addresses_they_bring() {
    let registry = registry(&[add(VIP, &[])]);
    let mut with_local = service("192.0.2.2:80", &[]);
    with_local.local_addresses = vec![[10, 0, 0, 7].into()];
    let draft = registry.draft(&[add_local(VIP, "10.0.0.6"), Operation::AddService { service: with_local }]).unwrap();
    let got: Vec<_> = draft.local_addresses().iter().map(|l| (l.address.to_string(), l.path.as_str())).collect();
    assert_eq!(
        got,
        [("10.0.0.6".to_owned(), "[0].local_address"), ("10.0.0.7".to_owned(), "[1].service.local_addresses[0]")]
    );
}

#[test]
fn ten_thousand_services_apply_fast() {
    let services: Vec<Operation> = (0..10_000u32)
        .map(|i| {
            let mut service = service("192.0.2.1:80", &[]);
            service.id = id(&format!("{}:80", IpAddr::from((0x0a00_0000 + i).to_be_bytes())));
            let member = |j: u32| Server {
                address: SocketAddr::new(IpAddr::from((0x0b00_0000 + i * 10 + j).to_be_bytes()), 8080),
                ..server("10.0.0.1:1")
            };
            service.servers = (0..10).map(member).collect();
            Operation::AddService { service }
        })
        .collect();
    let mut registry = Registry::new(10_000, 100_000);
    let start = std::time::Instant::now();
    registry.apply(&services, &idle).unwrap();
    let took = start.elapsed();
    assert_eq!(registry.services().len(), 10_000);
    // Some 60 ms with optimisation; without it, and on a loaded machine, a quadratic step would still show.
    assert!(took.as_secs() < 10, "{took:?}");
}

/// Services in full, as the API would show them.
fn configuration(registry: &Registry) -> Vec<Service> {
    registry.services().map(|(id, entry)| entry.service(id)).collect()
}

/// The plainest model: a map of services. It knows nothing of slots.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<ServiceId, Service>);

impl Model {
    fn apply(&mut self, operations: &[Operation]) -> Result<(), usize> {
        let mut after = self.clone();
        for (index, operation) in operations.iter().enumerate() {
            after.step(operation).ok_or(index)?;
        }
        *self = after;
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> Option<()> {
        match operation.clone() {
            Operation::AddService { service } => match self.0.insert(service.id, service) {
                None => Some(()),
                Some(_) => None,
            },
            Operation::EditService { service, settings } => {
                let service = self.0.get_mut(&service)?;
                let sorry = settings.sorry_server.map(|sorry| sorry.address);
                if service.servers.iter().any(|s| Some(s.address) == sorry) {
                    return None;
                }
                service.settings = settings;
                Some(())
            }
            Operation::DeleteService { service } => self.0.remove(&service).map(|_| ()),
            Operation::Clear => {
                self.0.clear();
                Some(())
            }
            Operation::AddServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let sorry = service.settings.sorry_server.map(|sorry| sorry.address);
                if sorry == Some(server.address) || service.servers.iter().any(|s| s.address == server.address) {
                    return None;
                }
                service.servers.push(server);
                Some(())
            }
            Operation::EditServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let place = service.servers.iter_mut().find(|s| s.address == server.address)?;
                *place = server;
                Some(())
            }
            Operation::DeleteServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let before = service.servers.len();
                service.servers.retain(|s| s.address != server);
                (service.servers.len() < before).then_some(())
            }
            Operation::AddLocalAddress { service, local_address, .. } => {
                let service = self.0.get_mut(&service)?;
                if service.local_addresses.contains(&local_address) {
                    return None;
                }
                service.local_addresses.push(local_address);
                Some(())
            }
            Operation::DeleteLocalAddress { service, local_address } => {
                let service = self.0.get_mut(&service)?;
                let before = service.local_addresses.len();
                service.local_addresses.retain(|a| *a != local_address);
                (service.local_addresses.len() < before).then_some(())
            }
            Operation::Zero { service: Some(service) } => self.0.get(&service).map(|_| ()),
            Operation::SetMarks { .. } | Operation::AddMark { .. } | Operation::DeleteMark { .. } => Some(()),
            Operation::Zero { service: None } | Operation::SetTimeouts { .. } | Operation::SetSysctls { .. } => {
                Some(())
            }
        }
    }
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let vip = (0u8..4).prop_map(|i| match i {
        3 => mark(7),
        _ => id(&format!("192.0.2.{}:80", i + 1)),
    });
    let member = (0u8..5, 0u32..3).prop_map(|(i, weight)| Server { weight, ..server(&format!("10.0.0.{}:80", i + 1)) });
    let local = (0u8..3).prop_map(|i| IpAddr::from([10, 1, 0, i + 1]));
    prop_oneof![
        3 => (vip.clone(), proptest::collection::vec(member.clone(), 0..3)).prop_map(|(id, mut servers)| {
            servers.sort_by_key(|s| s.address);
            servers.dedup_by_key(|s| s.address);
            Operation::AddService { service: Service { id, servers, ..service(VIP, &[]) } }
        }),
        3 => (vip.clone(), 1u32..4, proptest::option::of(member.clone())).prop_map(|(service, timeout, sorry)| {
            let sorry_server = sorry.map(|s| SorryServer { address: s.address, mode: s.mode });
            let settings = ServiceSettings { timeout: Some(timeout), sorry_server, ..ServiceSettings::default() };
            Operation::EditService { service, settings }
        }),
        2 => vip.clone().prop_map(|service| Operation::DeleteService { service }),
        1 => Just(Operation::Clear),
        4 => (vip.clone(), member.clone())
            .prop_map(|(service, server)| Operation::AddServer { service, server }),
        2 => (vip.clone(), member.clone())
            .prop_map(|(service, server)| Operation::EditServer { service, server }),
        4 => (vip.clone(), member)
            .prop_map(|(service, s)| Operation::DeleteServer { service, server: s.address }),
        1 => (vip.clone(), local.clone()).prop_map(|(service, local_address)| {
            Operation::AddLocalAddress { service, local_address, interface: None }
        }),
        1 => (vip.clone(), local).prop_map(|(service, local_address)| {
            Operation::DeleteLocalAddress { service, local_address }
        }),
        1 => proptest::option::of(vip)
            .prop_map(|service| Operation::Zero { service }),
    ]
}

/// A batch and the bits of the slots that have connections left while it is applied.
fn any_batches() -> impl Strategy<Value = Vec<(Vec<Operation>, u32)>> {
    proptest::collection::vec((proptest::collection::vec(any_operation(), 1..5), any::<u32>()), 1..30)
}

proptest! {
    /// Whatever is done, the registry holds what the model holds and fails where the model fails; live and trashed slots
    /// never coincide; a slot with connections left is only ever given to the server that had it.
    #[test]
    fn behaves_like_the_model(batches in any_batches()) {
        // Room for every server there can be, live or in the trash: 4 services x 5 servers.
        let mut registry = Registry::new(4, 20);
        let mut model = Model::default();
        let mut owners: HashMap<ServerSlot, (ServiceId, SocketAddr)> = HashMap::new();
        let mut versions: HashMap<ServiceId, (u64, Service, ServiceSlot)> = HashMap::new();
        for (operations, busy_bits) in batches {
            let is_busy = |slot: ServerSlot| busy_bits & (1 << slot.0) != 0;
            for change in registry.sweep(&is_busy) {
                let Change::ServerFreed(slot) = change else { panic!("{change:?}") };
                prop_assert!(!is_busy(slot));
                prop_assert!(owners.remove(&slot).is_some());
            }
            let before = configuration(&registry);
            let expected = model.apply(&operations);
            match (registry.apply(&operations, &is_busy), expected) {
                (Ok(changes), Ok(())) => prop_assert!(changes.iter().all(|c| !matches!(c, Change::ServerFreed(_)))),
                (Err(error), Err(index)) => {
                    prop_assert!(error.path.as_deref().unwrap_or("").starts_with(&format!("[{index}]")), "{error}");
                    prop_assert_eq!(&configuration(&registry), &before);
                }
                (got, expected) => prop_assert!(false, "registry {got:?}, model {expected:?}"),
            }
            prop_assert_eq!(&configuration(&registry), &model.0.values().cloned().collect::<Vec<_>>());

            let mut live = HashMap::new();
            for (id, entry) in registry.services() {
                for member in entry.servers().iter().chain(entry.sorry()) {
                    let owner = (id, member.server.address);
                    prop_assert_eq!(live.insert(member.slot, owner), None);
                    prop_assert!(registry.table().is_live(member.slot));
                    if let Some(former) = owners.get(&member.slot) {
                        prop_assert_eq!(*former, owner, "a slot that was not freed changed hands");
                    }
                }
                // The same version means the same content, for ever.
                let compiled = &entry.compiled;
                prop_assert_eq!(compiled.servers.len(), entry.servers().len());
                prop_assert_eq!(compiled.sorry.map(|s| s.id), entry.sorry().map(|s| s.slot));
                let now = (compiled.version, entry.service(id), entry.slot());
                if let Some(then) = versions.insert(id, now.clone())
                    && then.0 == now.0
                {
                    prop_assert_eq!(then, now);
                }
            }
            for ((id, address), trashed) in &registry.trash {
                prop_assert_eq!(live.insert(trashed.slot, (*id, *address)), None);
                prop_assert!(!registry.table().is_live(trashed.slot));
            }
            prop_assert_eq!(live.len() + registry.server_slots.available(), 20);
            owners.extend(live);
            prop_assert_eq!(registry.table().iter().count(), registry.services().len());
        }
        registry.apply(&[Operation::Clear], &busy).unwrap();
        registry.sweep(&idle);
        prop_assert_eq!((registry.server_slots.available(), registry.service_slots.available()), (20, 4));
    }
}

#[test]
fn settings_are_set_all_or_none() {
    let mut registry = Registry::new(1, 1);
    let set = |registry: &mut Registry, values: &[(&str, u32)]| {
        let values = values.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        registry.apply(&[Operation::SetSysctls { values }], &idle)
    };
    set(&mut registry, &[("sloppy_tcp", 1), ("conn_reuse_mode", 0)]).unwrap();
    let expected = Sysctls { sloppy_tcp: 1, conn_reuse_mode: 0, ..Sysctls::default() };
    assert_eq!(registry.sysctls(), expected);
    let error = set(&mut registry, &[("conn_reuse_mode", 1), ("sloppy_tcp", 2)]).unwrap_err();
    assert_eq!((error.kind, error.path.as_deref()), (ErrorKind::Invalid, Some("[0].values.sloppy_tcp")));
    assert_eq!(registry.sysctls(), expected);
}
