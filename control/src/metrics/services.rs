//! Services and servers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::snapshot::{ForwardMode, Server, Service};

use super::sheet::Sheet;
use super::{Extent, Scene};
use crate::registry::service_id;
use crate::stats::{self, FlowCounts, ServiceCounts};

/// A service as it is shown.
struct ServiceRow<'a> {
    service: &'a Service,
    name: String,
    flow: FlowCounts,
    counts: ServiceCounts,
    active: u64,
    inactive: u64,
    available: u64,
    local: Option<LocalPorts>,
}

/// How much of its local addresses and ports a service with FULLNAT servers uses.
#[derive(Clone, Copy)]
struct LocalPorts {
    /// Endpoints that connections to one server can have.
    endpoints: u64,
    /// Connections of the server that has most.
    used: u64,
}

/// A server as it is shown.
struct ServerRow<'a> {
    server: &'a Server,
    /// Its service's place among the rows.
    service: usize,
    name: String,
    flow: FlowCounts,
    active: u64,
    inactive: u64,
}

pub(super) fn write(scene: &Scene, extent: Extent, sheet: &mut Sheet<'_>) -> fmt::Result {
    // The same order in every scrape, so that it is always the same ones that are left out.
    let mut services: Vec<&Arc<Service>> = scene.services.iter().collect();
    services.sort_unstable_by_key(|service| service.key);
    let all_servers: usize = services.iter().map(|service| members(service).count()).sum();
    sheet.gauge("services", "Virtual services.", services.len() as u64)?;
    sheet.gauge("servers", "Real servers of all services, sorry servers included.", all_servers as u64)?;

    let shown: Vec<&Arc<Service>> = services.iter().take(extent.services.0).copied().collect();
    let rows: Vec<ServiceRow<'_>> = shown.iter().map(|service| service_row(scene, service)).collect();
    let mut servers: Vec<ServerRow<'_>> = Vec::new();
    for (place, service) in shown.iter().enumerate() {
        let room = extent.servers.0 - servers.len();
        servers.extend(members(service).take(room).map(|server| server_row(scene, place, server)));
    }
    let help = "Services without metrics of their own, as metrics.services in the configuration says.";
    sheet.gauge("metrics_omitted_services", help, (services.len() - rows.len()) as u64)?;
    let help = "Servers without metrics of their own, as metrics.servers in the configuration says.";
    sheet.gauge("metrics_omitted_servers", help, (all_servers - servers.len()) as u64)?;

    write_services(&rows, sheet)?;
    write_servers(scene, &rows, &servers, sheet)
}

fn members(service: &Service) -> impl Iterator<Item = &Server> {
    service.servers.iter().chain(&service.sorry)
}

fn service_row<'a>(scene: &Scene, service: &'a Service) -> ServiceRow<'a> {
    let shared = &scene.shared;
    let loads = || scene.books.members(service.id).iter().map(|&member| stats::connections(shared, member));
    let (active, inactive) = loads().fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1));
    let (first, last) = service.local_ports;
    let of_fullnat = || members(service).filter(|server| server.mode == ForwardMode::FullNat);
    let used = of_fullnat().map(|server| stats::connections(shared, server.id)).map(|(a, i)| a + i).max();
    let endpoints = service.local_addresses.len() as u64 * (u64::from(last.saturating_sub(first)) + 1);
    ServiceRow {
        service,
        name: service_id(&service.key).to_string(),
        flow: scene.books.service(shared, service.id).unwrap_or_default(),
        counts: scene.books.service_counts(shared, service.id),
        active,
        inactive,
        available: service.servers.iter().filter(|server| server.weight > 0).count() as u64,
        local: used.map(|used| LocalPorts { endpoints, used }),
    }
}

fn server_row<'a>(scene: &Scene, service: usize, server: &'a Server) -> ServerRow<'a> {
    let (active, inactive) = stats::connections(&scene.shared, server.id);
    let name = SocketAddr::new(server.addr, server.port).to_string();
    let flow = scene.books.server(&scene.shared, server.id).unwrap_or_default();
    ServerRow { server, service, name, flow, active, inactive }
}

fn of_service<'a>(row: &'a ServiceRow<'_>) -> [(&'static str, &'a str); 1] {
    [("service", row.name.as_str())]
}

fn labels<'a>(services: &'a [ServiceRow<'_>], row: &'a ServerRow<'_>) -> [(&'static str, &'a str); 2] {
    [("service", services[row.service].name.as_str()), ("server", row.name.as_str())]
}

/// What a flow's counts are called.
const FLOW: [(&str, &str); 5] = [
    ("connections", "Connections scheduled."),
    ("incoming_packets", "Packets from clients."),
    ("outgoing_packets", "Packets from servers."),
    ("incoming_bytes", "Bytes from clients, IP headers included."),
    ("outgoing_bytes", "Bytes from servers, IP headers included."),
];

fn write_services(rows: &[ServiceRow<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    for (index, (name, help)) in FLOW.into_iter().enumerate() {
        let members = rows.iter().map(|row| (of_service(row), row.flow.0[index]));
        sheet.counters(&format!("service_{name}"), help, members)?;
    }
    let refusals = rows.iter().flat_map(|row| {
        let counts = [("no_server", row.counts.no_server), ("no_local_port", row.counts.local_port_exhausted)];
        counts.map(|(reason, count)| ([("service", row.name.as_str()), ("reason", reason)], count))
    });
    sheet.counters("service_refused_connections", "New connections dropped, by reason.", refusals)?;
    let told = rows.iter().filter(|row| row.service.client_address.is_some()).flat_map(|row| {
        let counts = [("sent", row.counts.client_address_sent), ("omitted", row.counts.client_address_omitted)];
        counts.map(|(result, count)| ([("service", row.name.as_str()), ("result", result)], count))
    });
    let help = "Packets that told the server the client's address, or should have and had no room.";
    sheet.counters("service_client_address_packets", help, told)?;

    let mut gauges = |name: &str, help: &str, value: fn(&ServiceRow<'_>) -> Option<u64>| {
        sheet.gauges(name, help, rows.iter().filter_map(|row| Some((of_service(row), value(row)?))))
    };
    gauges("service_active_connections", "Connections in an active state.", |row| Some(row.active))?;
    gauges("service_inactive_connections", "Connections in any other state.", |row| Some(row.inactive))?;
    let help = "Servers, without the sorry server.";
    gauges("service_servers", help, |row| Some(row.service.servers.len() as u64))?;
    gauges("service_available_servers", "Servers with a weight above 0.", |row| Some(row.available))?;
    let help = "FULLNAT: local addresses and ports that connections to any one server can have.";
    gauges("service_local_endpoints", help, |row| row.local.map(|local| local.endpoints))?;
    let help = "FULLNAT: connections, each with a local address and port, of the server that has most.";
    gauges("service_local_endpoints_used", help, |row| row.local.map(|local| local.used))
}

fn write_servers(
    scene: &Scene,
    services: &[ServiceRow<'_>],
    rows: &[ServerRow<'_>],
    sheet: &mut Sheet<'_>,
) -> fmt::Result {
    for (index, (name, help)) in FLOW.into_iter().enumerate() {
        let members = rows.iter().map(|row| (labels(services, row), row.flow.0[index]));
        sheet.counters(&format!("server_{name}"), help, members)?;
    }
    sheet.gauges(
        "server_weight",
        "Share of new connections.",
        rows.iter().map(|row| (labels(services, row), row.server.weight)),
    )?;
    let active = rows.iter().map(|row| (labels(services, row), row.active));
    sheet.gauges("server_active_connections", "Connections in an active state.", active)?;
    let inactive = rows.iter().map(|row| (labels(services, row), row.inactive));
    sheet.gauges("server_inactive_connections", "Connections in any other state.", inactive)?;
    let persistent = rows.iter().filter(|row| services[row.service].service.persistence.is_some());
    let persistent = persistent.map(|row| (labels(services, row), stats::persistent(&scene.shared, row.server.id)));
    sheet.gauges("server_persistence_templates", "Persistence templates.", persistent)
}
