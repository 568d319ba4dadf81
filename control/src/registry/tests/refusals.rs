//! What is refused.

use super::*;

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
