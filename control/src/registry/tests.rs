//! Tests of the registry: the rules of slots and list order; what is refused, and a comparison with a simple model, beside.

mod model;
mod refusals;

use std::collections::HashMap;
use std::sync::Arc;

use dpvs_api::{
    ClientAddress, ErrorKind, Family, ForwardMode, LocalPorts, Protocol, Scheduler, SchedulerFlag, SorryServer, Tunnel,
    TunnelChecksum, TunnelType,
};

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

/// Services in full, as the API would show them.
fn configuration(registry: &Registry) -> Vec<Service> {
    registry.services().map(|(id, entry)| entry.service(id)).collect()
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
