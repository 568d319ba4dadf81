//! Services and servers.

use std::fmt;
use std::time::Instant;

use dataplane::snapshot::{ForwardMode, Service};
use dpvs_api::{CheckStatus, HealthState, ServerState};

use super::Scene;
use super::seen::{SeenServer, SeenService};
use super::sheet::Sheet;
use crate::stats::{self, FlowCounts, Outcomes, ServiceCounts};

/// A service as it is shown.
struct ServiceRow<'a> {
    seen: &'a SeenService,
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
    seen: &'a SeenServer,
    /// Its service's place among the rows.
    service: usize,
    name: String,
    flow: FlowCounts,
    outcomes: Outcomes,
    active: u64,
    inactive: u64,
    /// With names that differ.
    checks: Vec<CheckStatus>,
}

pub(super) fn write(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    sheet.gauge("services", "Virtual services.", scene.seen.service_count as u64)?;
    let help = "Real servers of all services, sorry servers included.";
    sheet.gauge("servers", help, scene.seen.server_count as u64)?;

    let rows: Vec<ServiceRow<'_>> = scene.seen.services.iter().map(|seen| service_row(scene, seen)).collect();
    let members = scene.seen.services.iter().enumerate();
    let members = members.flat_map(|(place, seen)| seen.servers.iter().map(move |server| (place, server)));
    let now = Instant::now();
    let servers: Vec<ServerRow<'_>> = members.map(|(place, seen)| server_row(scene, place, seen, now)).collect();
    let help = "Services without metrics of their own, as metrics.services in the configuration says.";
    sheet.gauge("metrics_omitted_services", help, (scene.seen.service_count - rows.len()) as u64)?;
    let help = "Servers without metrics of their own, as metrics.servers in the configuration says.";
    sheet.gauge("metrics_omitted_servers", help, (scene.seen.server_count - servers.len()) as u64)?;

    write_services(&rows, sheet)?;
    write_servers(scene, &rows, &servers, sheet)?;
    write_outcomes(&rows, &servers, sheet)?;
    write_checks(&rows, &servers, sheet)
}

fn service_row<'a>(scene: &Scene, seen: &'a SeenService) -> ServiceRow<'a> {
    let (shared, service) = (&scene.shared, &*seen.in_force);
    let loads = || scene.books.members(service.id).iter().map(|&member| stats::connections(shared, member));
    let (active, inactive) = loads().fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1));
    ServiceRow {
        seen,
        name: seen.id.to_string(),
        flow: scene.books.service(shared, service.id).unwrap_or_default(),
        counts: scene.books.service_counts(shared, service.id),
        active,
        inactive,
        available: service.servers.iter().filter(|server| server.weight > 0).count() as u64,
        local: local_ports(scene, service),
    }
}

fn local_ports(scene: &Scene, service: &Service) -> Option<LocalPorts> {
    let (first, last) = service.local_ports;
    let members = service.servers.iter().chain(&service.sorry);
    let of_fullnat = members.filter(|server| server.mode == ForwardMode::FullNat);
    let used = of_fullnat.map(|server| stats::connections(&scene.shared, server.id)).map(|(a, i)| a + i).max()?;
    let endpoints = service.local_addresses.len() as u64 * (u64::from(last.saturating_sub(first)) + 1);
    Some(LocalPorts { endpoints, used })
}

fn server_row<'a>(scene: &Scene, service: usize, seen: &'a SeenServer, now: Instant) -> ServerRow<'a> {
    let (active, inactive) = stats::connections(&scene.shared, seen.slot);
    let flow = scene.books.server(&scene.shared, seen.slot).unwrap_or_default();
    let outcomes = scene.books.outcomes(&scene.shared, seen.slot).unwrap_or_default();
    let checks = distinct(seen.health.iter().flat_map(|health| health.checks(now)).collect());
    ServerRow { seen, service, name: seen.address.to_string(), flow, outcomes, active, inactive, checks }
}

/// Checks that differ in what their names do not tell get numbers: no series may come twice.
fn distinct(mut checks: Vec<CheckStatus>) -> Vec<CheckStatus> {
    for place in (1..checks.len()).rev() {
        let (before, from) = checks.split_at_mut(place);
        let same = before.iter().filter(|check| check.check == from[0].check).count();
        if same > 0 {
            from[0].check += &format!(" ({})", same + 1);
        }
    }
    checks
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
    let told = rows.iter().filter(|row| row.seen.in_force.client_address.is_some()).flat_map(|row| {
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
    let help = "Servers in the configuration, without the sorry server.";
    gauges("service_servers", help, |row| Some(row.seen.configured_servers as u64))?;
    let help = "Servers that take new connections: in the service, with a weight above 0.";
    gauges("service_available_servers", help, |row| Some(row.available))?;
    let help = "1 while enough servers are up, 0 while they are not. Services without health checks have none.";
    gauges("service_quorum_reached", help, |row| row.seen.has_quorum.map(u64::from))?;
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
    let mut gauges = |name: &str, help: &str, value: &dyn Fn(&ServerRow<'_>) -> Option<u64>| {
        sheet.gauges(name, help, rows.iter().filter_map(|row| Some((labels(services, row), value(row)?))))
    };
    let help = "Weight in force: less than configured during a slow start, 0 while the server is out.";
    gauges("server_weight", help, &|row| Some(row.seen.weight.into()))?;
    let help = "Weight in the configuration.";
    gauges("server_configured_weight", help, &|row| Some(row.seen.configured_weight.into()))?;
    let help = "1 while the server is up by its health checks, 0 while it is down or ejected. Missing where none is configured, \
                and before their first result.";
    gauges("server_up", help, &|row| is_server_up(row.seen.health.as_ref()?.state))?;
    gauges("server_active_connections", "Connections in an active state.", &|row| Some(row.active))?;
    gauges("server_inactive_connections", "Connections in any other state.", &|row| Some(row.inactive))?;
    gauges("server_persistence_templates", "Persistence templates.", &|row| {
        services[row.service].seen.in_force.persistence?;
        Some(stats::persistent(&scene.shared, row.seen.slot))
    })
}

/// What became of connections, and what followed from that.
fn write_outcomes(services: &[ServiceRow<'_>], rows: &[ServerRow<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    // What servers send in DR mode does not pass here, nor do errors about what they get.
    let watched = || rows.iter().filter(|row| row.seen.mode != dpvs_api::ForwardMode::Dr);
    let answered = watched().map(|row| (labels(services, row), row.outcomes.answered));
    let help = "Connections that the server answered; in mode tun, that clients went on with (TCP).";
    sheet.counters("server_answered_connections", help, answered)?;
    let failed = watched().flat_map(|row| {
        let Outcomes { refused, unanswered, expired, unreachable, .. } = row.outcomes;
        let counts = [("refused", refused), ("timeout", unanswered + expired), ("unreachable", unreachable)];
        let [service, server] = labels(services, row);
        counts.map(|(reason, count)| ([service, server, ("reason", reason)], count))
    });
    let help = "Connections that the server refused or did not answer, or for which it could not be reached.";
    sheet.counters("server_failed_connections", help, failed)?;
    let ejections =
        || rows.iter().filter_map(|row| Some((labels(services, row), row.seen.health.as_ref()?.ejections?)));
    let help = "Times that the server was ejected because too many connections to it failed.";
    sheet.counters("server_ejections", help, ejections().map(|(labels, ejections)| (labels, ejections.count)))?;
    let now = ejections().map(|(labels, ejections)| (labels, u64::from(ejections.is_ejected)));
    sheet.gauges("server_ejected", "1 while the server is ejected, else 0.", now)
}

/// `None`: not known yet.
fn is_server_up(state: ServerState) -> Option<u64> {
    match state {
        ServerState::Unknown => None,
        ServerState::Up => Some(1),
        ServerState::Down | ServerState::Ejected => Some(0),
    }
}

/// `None`: not known yet.
fn is_up(state: HealthState) -> Option<u64> {
    match state {
        HealthState::Unknown => None,
        HealthState::Up => Some(1),
        HealthState::Down => Some(0),
    }
}

/// Health checks. One that several servers share is shown for each of them.
fn write_checks(services: &[ServiceRow<'_>], rows: &[ServerRow<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    let checks = || {
        rows.iter().flat_map(|row| {
            let [service, server] = labels(services, row);
            row.checks.iter().map(move |check| ([service, server, ("check", check.check.as_str())], check))
        })
    };
    let states = checks().filter_map(|(labels, check)| Some((labels, is_up(check.state)?)));
    let help = "1 while the check passes, 0 while it fails, by 'rise' and 'fall'. Missing before its first result.";
    sheet.gauges("check_up", help, states)?;
    sheet.counters("check_runs", "Runs of a check.", checks().map(|(labels, check)| (labels, check.runs)))?;
    let failures = checks().map(|(labels, check)| (labels, check.failures));
    sheet.counters("check_failed_runs", "Runs of a check that failed.", failures)?;
    let durations = checks().filter(|(_, check)| check.runs > 0);
    let durations = durations.map(|(labels, check)| (labels, check.duration_us as f64 / 1e6));
    sheet.gauges("check_duration_seconds", "How long the last run of a check took.", durations)
}
