//! What the director accepts: ranges, addresses and combinations. Each check says which field is wrong.

pub(super) mod health;

use std::net::{IpAddr, SocketAddr};

use dpvs_api::{
    ApiError, ClientAddress, ErrorKind, Family, ForwardMode, LocalPorts, MarkRule, Netmask, Persistence, Protocol,
    SchedulerFlag, Server, Service, ServiceId, ServiceSettings, Timeouts, Tunnel, TunnelChecksum, TunnelType,
};

/// Longest timeout in seconds: 31 days, as in ipvsadm.
pub const MAX_TIMEOUT: u32 = 31 * 86_400;

/// Largest weight of a server, as in IPVS's documentation.
pub const MAX_WEIGHT: u32 = 65_535;

/// What is wrong with a field; the path is relative to the thing that was checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    kind: ErrorKind,
    message: String,
    path: String,
}

impl Problem {
    pub fn new(kind: ErrorKind, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), path: path.into() }
    }

    fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, message)
    }

    /// The same problem seen from the thing that holds the one checked, under the name `holder`.
    pub fn within(mut self, holder: impl Into<String>) -> Self {
        let holder = holder.into();
        self.path = match self.path.as_str() {
            "" => holder,
            path if path.starts_with('[') => format!("{holder}{path}"),
            path => format!("{holder}.{path}"),
        };
        self
    }

    /// The same problem in another field.
    pub fn at(self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self }
    }

    pub fn into_error(self) -> ApiError {
        ApiError { kind: self.kind, message: self.message, path: Some(self.path) }
    }
}

type Check = Result<(), Problem>;

/// A service that is to be added, with all it brings.
pub(super) fn service(service: &Service) -> Check {
    let id = service.id;
    service_id(id).map_err(|p| p.within(id_field(id)))?;
    settings(id, &service.settings)?;
    for (index, address) in service.local_addresses.iter().enumerate() {
        let here = || format!("local_addresses[{index}]");
        local_address(*address).map_err(|p| p.within(here()))?;
        if service.local_addresses[..index].contains(address) {
            return Err(Problem::new(ErrorKind::Exists, here(), twice("local address", address, id)));
        }
    }
    for (index, member) in service.servers.iter().enumerate() {
        let here = || format!("servers[{index}]");
        server(id, member).map_err(|p| p.within(here()))?;
        one_packet(id, &service.settings, member).map_err(|p| p.within(here()))?;
        client_address(id, &service.settings, member).map_err(|p| p.within(here()))?;
        health::of_server(id, &service.settings, member).map_err(|p| p.within(here()))?;
    }
    sorry(id, &service.settings, service.servers.iter().map(|member| member.address))?;
    // A service can have thousands of servers: sort instead of comparing each with each.
    let mut order: Vec<usize> = (0..service.servers.len()).collect();
    order.sort_by_key(|&i| (service.servers[i].address, i));
    for pair in order.windows(2) {
        let address = service.servers[pair[1]].address;
        if service.servers[pair[0]].address == address {
            let path = format!("servers[{}].address", pair[1]);
            return Err(Problem::new(ErrorKind::Exists, path, twice("server", address, id)));
        }
    }
    Ok(())
}

fn twice(what: &str, value: impl std::fmt::Display, id: ServiceId) -> String {
    format!("{what} {value} stands twice in service {id}; remove one")
}

/// The field that a complaint about a service's id is about.
pub(super) fn id_field(id: ServiceId) -> &'static str {
    match id {
        ServiceId::Address { .. } => "address",
        ServiceId::Fwmark { .. } => "fwmark",
    }
}

fn service_id(id: ServiceId) -> Check {
    let fail = |message: String| Err(Problem::invalid("", message));
    let address = match id {
        ServiceId::Fwmark { mark: 0, .. } => return fail("0 is no firewall mark; give 1 to 4294967295".to_owned()),
        ServiceId::Fwmark { .. } => return Ok(()),
        ServiceId::Address { address, .. } => address,
    };
    unicast(address.ip(), "virtual address").or_else(fail)?;
    without_zone(address).or_else(fail)?;
    Ok(())
}

/// How long and for whom a service is persistent.
fn persistence(id: ServiceId, persistence: Option<&Persistence>) -> Check {
    let fail = |field: &str, message: String| Err(Problem::invalid(field, message));
    let Some(Persistence { timeout: seconds, netmask, .. }) = persistence else {
        return match id.address() {
            Some(address) if address.port() == 0 => fail(
                "persistence",
                format!("service {id} stands for every port, which needs persistence; give it some, or name a port"),
            ),
            _ => Ok(()),
        };
    };
    timeout(*seconds).or_else(|message| fail("persistence.timeout", format!("service {id}: {message}")))?;
    match (id.family(), netmask) {
        (Family::Inet6, Some(Netmask::Mask(mask))) => {
            let message = format!("netmask {mask} of service {id} is for IPv4; give the length of a prefix, 1 to 128");
            return fail("persistence.netmask", message);
        }
        (Family::Inet, Some(Netmask::Prefix(length @ 33..))) => {
            return fail("persistence.netmask", format!("prefix {length} of service {id} is too long; give 0 to 32"));
        }
        _ => {}
    }
    Ok(())
}

/// Most rules for firewall marks.
const MAX_MARKS: usize = 4096;

/// A number of rules for firewall marks.
pub(super) fn mark_count(count: usize) -> Check {
    if count > MAX_MARKS {
        return Err(Problem::new(ErrorKind::Full, "rules", format!("{count} rules are too many; give {MAX_MARKS}")));
    }
    Ok(())
}

/// A rule that gives packets a firewall mark. `ports` are the names of the director's ports.
pub(super) fn mark(rule: &MarkRule, ports: &[String]) -> Check {
    let fail = |field: &str, message: String| Err(Problem::invalid(field, message));
    if rule.mark == 0 {
        return fail("mark", "0 is no firewall mark; give 1 to 4294967295".to_owned());
    }
    if let (Some(source), Some(destination)) = (rule.source, rule.destination)
        && source.address.is_ipv4() != destination.address.is_ipv4()
    {
        let message = format!("no packet goes from {source} to {destination}: give addresses of one family");
        return fail("destination", message);
    }
    if let Some(name) = &rule.ingress
        && !ports.contains(name)
    {
        return fail("ingress", format!("there is no port '{name}'; there are: {}", ports.join(", ")));
    }
    Ok(())
}

/// New settings of a service.
pub(super) fn settings(id: ServiceId, settings: &ServiceSettings) -> Check {
    let ServiceSettings {
        scheduler,
        ref scheduler_flags,
        timeout: of_service,
        one_packet,
        local_ports,
        client_address,
        sorry_server,
        persistence: _,
        health: _,
    } = *settings;
    let LocalPorts { first, last } = local_ports;
    for (index, flag) in scheduler_flags.iter().enumerate() {
        if !flag.goes_with(scheduler) {
            let fitting: Vec<_> = SchedulerFlag::ALL.into_iter().filter(|flag| flag.goes_with(scheduler)).collect();
            let (flag, name, fitting) = (flag.name(), scheduler.name(), SchedulerFlag::list(&fitting));
            let message = format!("scheduler {name} of service {id} has no flag {flag}; it takes {fitting}");
            return Err(Problem::invalid(format!("scheduler_flags[{index}]"), message));
        }
        if *flag == SchedulerFlag::ConhashQid && id.protocol() != Some(Protocol::Udp) {
            let message = format!("service {id} cannot hash QUIC connection ids: QUIC needs a UDP service");
            return Err(Problem::invalid(format!("scheduler_flags[{index}]"), message));
        }
    }
    if let Some(seconds) = of_service {
        timeout(seconds).map_err(|message| Problem::invalid("timeout", format!("service {id}: {message}")))?;
    }
    if one_packet && id.protocol().is_some_and(|protocol| protocol != Protocol::Udp) {
        let message = format!("service {id} cannot be scheduled packet by packet: only UDP can; leave out one_packet");
        return Err(Problem::invalid("one_packet", message));
    }
    persistence(id, settings.persistence.as_ref())?;
    health::of_service(id, settings).map_err(|p| p.within("health"))?;
    if first == 0 || first > last {
        let message = format!("local ports {first} to {last} of service {id} are no range; need 1 <= first <= last");
        return Err(Problem::invalid("local_ports", message));
    }
    let is_other = id.protocol().is_some_and(|protocol| protocol != Protocol::Tcp);
    if let (true, Some(way @ (ClientAddress::Toa | ClientAddress::ProxyV1))) = (is_other, client_address) {
        let way = way.name();
        let message = format!("{way} is for TCP, service {id} cannot have it; UDP can have proxy-v2 as client_address");
        return Err(Problem::invalid("client_address", message));
    }
    if let Some(sorry) = sorry_server {
        server(id, &sorry.server()).map_err(|p| p.within("sorry_server"))?;
        self::one_packet(id, settings, &sorry.server()).map_err(|p| p.within("sorry_server"))?;
        self::client_address(id, settings, &sorry.server()).map_err(|p| p.within("sorry_server"))?;
    }
    Ok(())
}

/// Whether a service with these settings can have these servers beside its sorry server.
pub(super) fn sorry(id: ServiceId, settings: &ServiceSettings, servers: impl IntoIterator<Item = SocketAddr>) -> Check {
    match settings.sorry_server.map(|sorry| sorry.address) {
        Some(address) if servers.into_iter().any(|server| server == address) => {
            let message = format!("{address} cannot be both a server and the sorry server of service {id}; remove one");
            Err(Problem::new(ErrorKind::Exists, "sorry_server.address", message))
        }
        _ => Ok(()),
    }
}

/// Whether a server can be one of a service that tells its servers the clients' addresses this way.
pub(super) fn client_address(id: ServiceId, settings: &ServiceSettings, server: &Server) -> Check {
    match settings.client_address {
        Some(way @ (ClientAddress::ProxyV1 | ClientAddress::ProxyV2)) if server.mode != ForwardMode::Fullnat => {
            let (way, address) = (way.name(), server.address);
            let message = format!(
                "server {address} of service {id} would not get the header of {way} that the others get, only mode \
                 fullnat can add it; use mode fullnat, or a service without client_address"
            );
            Err(Problem::invalid("mode", message))
        }
        _ => Ok(()),
    }
}

/// Whether a server can be one of a service with these settings.
pub(super) fn one_packet(id: ServiceId, settings: &ServiceSettings, server: &Server) -> Check {
    if settings.one_packet && server.mode == ForwardMode::Fullnat {
        let message = format!(
            "server {} cannot have mode fullnat in service {id}, which schedules every packet by itself (one_packet): no \
             connection stays to translate replies; use mode nat, dr or tun, or leave out one_packet",
            server.address
        );
        return Err(Problem::invalid("mode", message));
    }
    Ok(())
}

/// A server that is to be added or edited.
pub(super) fn server(id: ServiceId, server: &Server) -> Check {
    let Server { address, mode, tunnel, weight, upper_threshold: upper, lower_threshold: lower, health: _ } = *server;
    let fail = |path: &str, message: String| Err(Problem::invalid(path, message));
    unicast(address.ip(), "server address").or_else(|m| fail("address", m))?;
    without_zone(address).or_else(|m| fail("address", m))?;
    if Family::of(address.ip()) != id.family() && !matches!(mode, ForwardMode::Tun | ForwardMode::Fullnat) {
        let message = format!(
            "server {address} and service {id} are of different address families, which only modes fullnat and tun can \
             join; use one of them, or a server of the service's family"
        );
        return fail("address", message);
    }
    if id.address().is_some_and(|virt| virt.ip() == address.ip()) {
        let message = format!(
            "server {address} has the virtual address of service {id}; give the server's own address: \
             services that run on the director itself are not supported"
        );
        return fail("address", message);
    }
    // Port 0 stands for the port that the packet goes to.
    let is_translated = id.address().is_some_and(|virt| virt.port() != address.port());
    if matches!(mode, ForwardMode::Dr | ForwardMode::Tun) && is_translated {
        let name = if mode == ForwardMode::Dr { "dr" } else { "tun" };
        let port = id.port();
        let message = format!(
            "server {address} has another port than service {id}, but mode {name} cannot change ports; \
             use port {port}, or mode nat or fullnat"
        );
        return fail("address", message);
    }
    self::tunnel(address, mode, tunnel)?;
    if weight > MAX_WEIGHT {
        return fail("weight", format!("weight {weight} of server {address} is too large; give 0 to {MAX_WEIGHT}"));
    }
    if lower > upper {
        let message = format!(
            "lower threshold {lower} of server {address} exceeds its upper threshold {upper}; \
             lower it, or raise upper_threshold"
        );
        return fail("lower_threshold", message);
    }
    Ok(())
}

/// How packets to a server are wrapped.
fn tunnel(address: SocketAddr, mode: ForwardMode, tunnel: Tunnel) -> Check {
    let Tunnel { kind, port, checksum } = tunnel;
    let name = kind.name();
    let fail = |path: &str, message: String| Err(Problem::invalid(path, message));
    if mode != ForwardMode::Tun && !tunnel.is_plain() {
        let message =
            format!("server {address} has a tunnel, which goes with mode tun only; remove it, or use that mode");
        return fail("tunnel", message);
    }
    match (kind, port) {
        (TunnelType::Gue, None | Some(0)) => {
            let message =
                format!("the tunnel of server {address} has type gue, which needs a UDP port from 1 to 65535");
            return fail("tunnel.port", message);
        }
        (TunnelType::Ipip | TunnelType::Gre, Some(_)) => {
            let message = format!("the tunnel of server {address} has type {name}, which has no port; remove the port");
            return fail("tunnel.port", message);
        }
        _ => {}
    }
    let fitting = match (kind, checksum) {
        (TunnelType::Ipip, TunnelChecksum::Csum | TunnelChecksum::Remcsum) => "none",
        (TunnelType::Gre, TunnelChecksum::Remcsum) => "none or csum",
        _ => return Ok(()),
    };
    let checksum = checksum.name();
    let message =
        format!("the tunnel of server {address} has type {name}, which has no checksum {checksum}; use {fitting}");
    fail("tunnel.checksum", message)
}

/// A source address for FULLNAT servers of its family.
pub(super) fn local_address(address: IpAddr) -> Check {
    unicast(address, "local address").map_err(|m| Problem::invalid("", m))
}

/// New director-wide timeouts; 0 leaves a value as it is.
pub(super) fn timeouts(timeouts: &Timeouts) -> Check {
    let Timeouts { tcp, tcp_fin, udp } = *timeouts;
    for (name, seconds) in [("tcp", tcp), ("tcp_fin", tcp_fin), ("udp", udp)] {
        if seconds != 0 {
            timeout(seconds).map_err(|message| Problem::invalid(name, message))?;
        }
    }
    Ok(())
}

fn timeout(seconds: u32) -> Result<(), String> {
    if (1..=MAX_TIMEOUT).contains(&seconds) {
        return Ok(());
    }
    Err(format!("a timeout of {seconds} seconds is out of range; give 1 to {MAX_TIMEOUT} (31 days)"))
}

/// Refuses addresses that no single host on the network can have.
pub(crate) fn unicast(address: IpAddr, what: &str) -> Result<(), String> {
    let kind = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_multicast() => "multicast",
        _ if address.is_loopback() => "loopback",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "IPv4-mapped",
        _ => return Ok(()),
    };
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u', 'I']) { "an" } else { "a" };
    Err(format!("{what} {address} is {article} {kind} address; give a unicast address"))
}

fn without_zone(address: SocketAddr) -> Result<(), String> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.flowinfo() != 0 => {
            Err(format!("address {address} has a zone, which is not supported; leave out the part after %"))
        }
        _ => Ok(()),
    }
}
