//! From commands to the API's operations. Edits start from what is there, so that what is not named stays.

use std::net::{IpAddr, SocketAddr};

use dpvs_api::{
    ApiError, ErrorKind, ForwardMode, MarkRule, Operation, Persistence, Server, Service, ServiceId, ServiceSettings,
    ServiceStatus, Tunnel,
};

use crate::cli::{Load, Rule, Settings, TunnelArguments};

/// A new service with its servers.
pub(crate) fn add_service(
    id: ServiceId,
    settings: &Settings,
    local_addresses: &[IpAddr],
    servers: &[SocketAddr],
    mode: Option<ForwardMode>,
) -> Operation {
    // The grammar asks for a mode if there are servers.
    let mode = mode.unwrap_or(ForwardMode::Nat);
    let server = |&address: &SocketAddr| Server::new(address, mode);
    Operation::AddService {
        service: Service {
            id,
            settings: ServiceSettings {
                scheduler: settings.scheduler.unwrap_or_default(),
                scheduler_flags: settings.scheduler_flags.clone().map(|flags| flags.0).unwrap_or_default(),
                timeout: settings.timeout,
                persistence: persistence(None, settings),
                one_packet: settings.one_packet.unwrap_or_default(),
                local_ports: settings.local_ports.unwrap_or_default(),
                client_address: settings.client_address.and_then(|told| told.0),
                sorry_server: settings.sorry_server.and_then(|sorry| sorry.0),
                health: settings.health.clone().and_then(|health| health.0),
            },
            local_addresses: local_addresses.to_vec(),
            servers: servers.iter().map(server).collect(),
        },
    }
}

/// A service with some settings changed.
pub(crate) fn edit_service(service: &Service, settings: &Settings, no_timeout: bool) -> Operation {
    let old = &service.settings;
    let old_timeout = old.timeout.filter(|_| !no_timeout);
    let scheduler = settings.scheduler.unwrap_or(old.scheduler);
    // Flags belong to one scheduler: another begins without.
    let old_flags = if scheduler == old.scheduler { old.scheduler_flags.clone() } else { Vec::new() };
    Operation::EditService {
        service: service.id,
        settings: ServiceSettings {
            scheduler,
            scheduler_flags: settings.scheduler_flags.clone().map_or(old_flags, |flags| flags.0),
            timeout: settings.timeout.or(old_timeout),
            persistence: persistence(old.persistence, settings),
            one_packet: settings.one_packet.unwrap_or(old.one_packet),
            local_ports: settings.local_ports.unwrap_or(old.local_ports),
            client_address: settings.client_address.map_or(old.client_address, |told| told.0),
            sorry_server: settings.sorry_server.map_or(old.sorry_server, |sorry| sorry.0),
            health: settings.health.clone().map_or_else(|| old.health.clone(), |health| health.0),
        },
    }
}

/// Persistence with some of it changed. What is changed of none makes some.
fn persistence(old: Option<Persistence>, settings: &Settings) -> Option<Persistence> {
    let Settings { persistent, netmask, persistence_engine, .. } = settings;
    let is_named = persistent.is_some() || netmask.is_some() || persistence_engine.is_some();
    if *persistent == Some(0) || (old.is_none() && !is_named) {
        return None;
    }
    let old = old.unwrap_or_default();
    Some(Persistence {
        timeout: persistent.unwrap_or(old.timeout),
        netmask: netmask.or(old.netmask),
        engine: persistence_engine.map_or(old.engine, |choice| choice.0),
    })
}

/// A rule as the API has it.
pub(crate) fn mark_rule(rule: &Rule) -> MarkRule {
    let Rule { mark, protocol, source, destination, source_ports, destination_ports, ref ingress } = *rule;
    MarkRule { mark, protocol, source, destination, source_ports, destination_ports, ingress: ingress.clone() }
}

fn changed(old: Server, mode: Option<ForwardMode>, load: &Load) -> Server {
    let mode = mode.unwrap_or(old.mode);
    Server {
        mode,
        tunnel: changed_tunnel(if mode == ForwardMode::Tun { old.tunnel } else { Tunnel::default() }, &load.tunnel),
        weight: load.weight.unwrap_or(old.weight),
        upper_threshold: load.upper_threshold.unwrap_or(old.upper_threshold),
        lower_threshold: load.lower_threshold.unwrap_or(old.lower_threshold),
        health: load.health.clone().map_or(old.health, |health| health.0),
        ..old
    }
}

fn changed_tunnel(old: Tunnel, arguments: &TunnelArguments) -> Tunnel {
    let kind = arguments.tunnel.unwrap_or(old.kind);
    // Port and checksum belong to one type: another begins without.
    let old = if kind == old.kind { old } else { Tunnel::default() };
    Tunnel {
        kind,
        port: arguments.tunnel_port.or(old.port),
        checksum: arguments.tunnel_checksum.unwrap_or(old.checksum),
    }
}

/// A new server.
pub(crate) fn add_server(id: ServiceId, address: SocketAddr, mode: ForwardMode, load: &Load) -> Operation {
    let server = changed(Server::new(address, mode), None, load);
    Operation::AddServer { service: id, server }
}

/// A server with some settings changed.
pub(crate) fn edit_server(
    status: &ServiceStatus,
    address: SocketAddr,
    mode: Option<ForwardMode>,
    load: &Load,
) -> Result<Operation, ApiError> {
    let id = status.service.id;
    let old = status.server_status.iter().find(|other| other.server.address == address).ok_or_else(|| ApiError {
        kind: ErrorKind::NotFound,
        message: format!("service {id} has no server {address}: 'dpvs-ctl services show {id}' lists them"),
        path: None,
    })?;
    let server = changed(old.server.clone(), mode, load);
    Ok(Operation::EditServer { service: id, server })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dpvs_api::{
        ClientAddress, Health, LocalPorts, Scheduler, SchedulerFlag, ServerHealth, SorryServer, TunnelChecksum,
        TunnelType,
    };

    use super::*;
    use crate::cli::{FromFile, SchedulerFlags, Sorry, Told};
    use crate::show::tests::service_status;

    const NOTHING: Settings = Settings {
        scheduler: None,
        scheduler_flags: None,
        timeout: None,
        persistent: None,
        netmask: None,
        persistence_engine: None,
        one_packet: None,
        local_ports: None,
        client_address: None,
        sorry_server: None,
        health: None,
    };
    const SORRY: SorryServer =
        SorryServer { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 8080), mode: ForwardMode::Nat };
    const NO_TUNNEL: TunnelArguments = TunnelArguments { tunnel: None, tunnel_port: None, tunnel_checksum: None };
    const NO_LOAD: Load =
        Load { weight: None, upper_threshold: None, lower_threshold: None, tunnel: NO_TUNNEL, health: None };

    fn settings_after(settings: &Settings, no_timeout: bool) -> ServiceSettings {
        let Operation::EditService { settings, .. } = edit_service(&service_status().service, settings, no_timeout)
        else {
            panic!("not an edit");
        };
        settings
    }

    #[test]
    fn an_edit_of_a_service_keeps_the_rest() {
        let ports = LocalPorts { first: 2000, last: 2999 };
        let old = ServiceSettings {
            scheduler: Scheduler::Wrr,
            scheduler_flags: Vec::new(),
            timeout: Some(60),
            persistence: None,
            one_packet: false,
            local_ports: ports,
            client_address: Some(ClientAddress::Toa),
            sorry_server: Some(SORRY),
            health: Some(Box::default()),
        };
        assert_eq!(settings_after(&NOTHING, false), old);
        assert_eq!(settings_after(&NOTHING, true), ServiceSettings { timeout: None, ..old.clone() });
        let rr = Settings { scheduler: Some(Scheduler::Rr), ..NOTHING };
        assert_eq!(settings_after(&rr, false), ServiceSettings { scheduler: Scheduler::Rr, ..old.clone() });
        let ops = Settings { one_packet: Some(true), ..NOTHING };
        assert_eq!(settings_after(&ops, false), ServiceSettings { one_packet: true, ..old.clone() });
        let longer = Settings { timeout: Some(99), ..NOTHING };
        assert_eq!(settings_after(&longer, false), ServiceSettings { timeout: Some(99), ..old.clone() });
        let untold = Settings { client_address: Some(Told(None)), ..NOTHING };
        assert_eq!(settings_after(&untold, false), ServiceSettings { client_address: None, ..old.clone() });
        let unapologetic = Settings { sorry_server: Some(Sorry(None)), ..NOTHING };
        assert_eq!(settings_after(&unapologetic, false), ServiceSettings { sorry_server: None, ..old.clone() });
        let unchecked = Settings { health: Some(FromFile(None)), ..NOTHING };
        assert_eq!(settings_after(&unchecked, false), ServiceSettings { health: None, ..old.clone() });
        let health = Box::new(Health { quorum: 2, ..Health::default() });
        let checked = Settings { health: Some(FromFile(Some(health.clone()))), ..NOTHING };
        assert_eq!(settings_after(&checked, false), ServiceSettings { health: Some(health), ..old });
    }

    #[test]
    fn persistence_is_changed_part_by_part() {
        let netmask = "24".parse().ok();
        let some = persistence(None, &Settings { netmask, ..NOTHING }).unwrap();
        assert_eq!(some, Persistence { netmask, ..Persistence::default() });
        assert_eq!(persistence(Some(some), &NOTHING), Some(some));
        let longer = persistence(Some(some), &Settings { persistent: Some(9), ..NOTHING });
        assert_eq!(longer, Some(Persistence { timeout: 9, ..some }));
        assert_eq!(persistence(Some(some), &Settings { persistent: Some(0), ..NOTHING }), None);
        assert_eq!(persistence(None, &NOTHING), None);
    }

    #[test]
    fn flags_stay_with_their_scheduler() {
        let mut service = service_status().service;
        service.settings.scheduler = Scheduler::Sh;
        service.settings.scheduler_flags = vec![SchedulerFlag::ShPort];
        let flags_after = |settings: &Settings| match edit_service(&service, settings, false) {
            Operation::EditService { settings, .. } => settings.scheduler_flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags_after(&NOTHING), [SchedulerFlag::ShPort]);
        assert_eq!(flags_after(&Settings { scheduler: Some(Scheduler::Mh), ..NOTHING }), []);
        let flags = |flags: &[SchedulerFlag]| Some(SchedulerFlags(flags.to_vec()));
        assert_eq!(flags_after(&Settings { scheduler_flags: flags(&[]), ..NOTHING }), []);
        let fallback = Settings { scheduler_flags: flags(&[SchedulerFlag::ShFallback]), ..NOTHING };
        assert_eq!(flags_after(&fallback), [SchedulerFlag::ShFallback]);
    }

    #[test]
    fn an_edit_of_a_server_keeps_the_rest() {
        let status = service_status();
        let old = &status.server_status[0].server;
        let edited = |mode, load: &Load| match edit_server(&status, old.address, mode, load) {
            Ok(Operation::EditServer { server, .. }) => server,
            other => panic!("{other:?}"),
        };
        assert_eq!(edited(None, &NO_LOAD), *old);
        assert_eq!(edited(None, &Load { weight: Some(0), ..NO_LOAD }), Server { weight: 0, ..old.clone() });
        assert_eq!(edited(Some(ForwardMode::Dr), &NO_LOAD), Server { mode: ForwardMode::Dr, ..old.clone() });
        let own = Some(Box::new(ServerHealth::default()));
        let checked = Load { health: Some(FromFile(own.clone())), ..NO_LOAD };
        assert_eq!(edited(None, &checked), Server { health: own, ..old.clone() });
        let error = edit_server(&status, "10.9.9.9:80".parse().unwrap(), None, &NO_LOAD).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.starts_with("service tcp/192.0.2.10:80 has no server 10.9.9.9:80"), "{error}");
    }

    #[test]
    fn a_tunnel_keeps_what_belongs_to_its_type() {
        let gue = Tunnel { kind: TunnelType::Gue, port: Some(6080), checksum: TunnelChecksum::Csum };
        assert_eq!(changed_tunnel(gue, &NO_TUNNEL), gue);
        let port = TunnelArguments { tunnel_port: Some(6081), ..NO_TUNNEL };
        assert_eq!(changed_tunnel(gue, &port), Tunnel { port: Some(6081), ..gue });
        let gre = TunnelArguments { tunnel: Some(TunnelType::Gre), ..NO_TUNNEL };
        assert_eq!(changed_tunnel(gue, &gre), Tunnel { kind: TunnelType::Gre, ..Tunnel::default() });
        let server = Server { tunnel: gue, ..Server::new("10.0.0.1:80".parse().unwrap(), ForwardMode::Tun) };
        assert_eq!(changed(server.clone(), None, &NO_LOAD).tunnel, gue);
        assert_eq!(changed(server, Some(ForwardMode::Dr), &NO_LOAD).tunnel, Tunnel::default());
    }

    #[test]
    fn a_service_comes_with_its_servers() {
        let id: ServiceId = "tcp/192.0.2.1:80".parse().unwrap();
        let servers = ["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()];
        let Operation::AddService { service } = add_service(id, &NOTHING, &[], &servers, Some(ForwardMode::Tun)) else {
            panic!("not an addition");
        };
        assert_eq!(service.id, id);
        assert_eq!((service.settings.scheduler, service.settings.timeout), (Scheduler::Wlc, None));
        let added: Vec<_> = service.servers.iter().map(|server| (server.address, server.mode, server.weight)).collect();
        assert_eq!(added, servers.map(|address| (address, ForwardMode::Tun, 1)));
    }
}
