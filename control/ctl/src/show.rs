//! What people see.

use dpvs_api::{
    Connection, DropCount, ForwardMode, LocalPorts, MarkRule, PassiveStatus, Persistence, PortStats, Protocol,
    QuorumStatus, SchedulerFlag, ServerStatus, ServiceStatus, Status, Sysctls, Timeouts, WorkerStats,
};

use crate::numbers::{count, duration, percent};
use crate::table::Column::{Number, Text};
use crate::table::Table;

/// The word for a mode, as the API writes it.
pub(crate) fn mode_name(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::Nat => "nat",
        ForwardMode::Fullnat => "fullnat",
        ForwardMode::Dr => "dr",
        ForwardMode::Tun => "tun",
    }
}

/// Names and values, one pair a line.
fn pairs<const N: usize>(pairs: [(&'static str, String); N]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

pub(crate) fn status(status: &Status) -> String {
    let state = if status.draining { ", draining" } else { "" };
    let mut text = pairs([
        ("Version", format!("{} on DPDK {}", status.version, status.dpdk)),
        ("Process", format!("{}, up {}{state}", status.pid, duration(status.uptime))),
        ("Configuration", format!("{}, generation {}", status.config, status.generation)),
        ("Socket", status.socket.clone()),
        ("Services", status.services.to_string()),
        (
            "Connections",
            format!(
                "{} of {} ({})",
                status.connections,
                status.table_capacity,
                percent(status.connections, status.table_capacity)
            ),
        ),
        (
            "Persistent",
            format!(
                "{} clients of {} ({})",
                status.templates,
                status.template_capacity,
                percent(status.templates, status.template_capacity)
            ),
        ),
        ("Routes", status.routes.to_string()),
        ("Neighbours", status.neighbours.to_string()),
    ]);
    if !status.unanswered_vips.is_empty() {
        let addresses: Vec<String> = status.unanswered_vips.iter().map(ToString::to_string).collect();
        text += &format!(
            "Unanswered     {}\n  (no address of this host: nobody answers ARP, ND and ping for them; add them with 'ip addr add')\n",
            addresses.join(", ")
        );
    }
    text
}

pub(crate) fn services(services: &[ServiceStatus]) -> String {
    if services.is_empty() {
        return "There are no services: add one with 'dpvs-ctl services add'.\n".to_owned();
    }
    let mut table = Table::new([
        Text("SERVICE"),
        Text("SCHEDULER"),
        Number("SERVERS"),
        Number("ACTIVE"),
        Number("INACTIVE"),
        Number("CONN/S"),
    ]);
    for status in services {
        let servers = &status.server_status;
        let usable = servers.iter().filter(|server| server.effective_weight.is_some_and(|weight| weight > 0)).count();
        let active: u64 = servers.iter().map(|server| server.active_connections).sum();
        let inactive: u64 = servers.iter().map(|server| server.inactive_connections).sum();
        table.row([
            status.service.id.to_string(),
            status.service.settings.scheduler.name().to_owned(),
            format!("{usable}/{}", servers.len()),
            active.to_string(),
            inactive.to_string(),
            count(status.stats.cps),
        ]);
    }
    table.render()
}

pub(crate) fn service(status: &ServiceStatus) -> String {
    let (service, settings) = (&status.service, &status.service.settings);
    let LocalPorts { first, last } = settings.local_ports;
    let scheduler = match SchedulerFlag::list(&settings.scheduler_flags) {
        flags if flags.is_empty() => settings.scheduler.name().to_owned(),
        flags => format!("{} ({flags})", settings.scheduler.name()),
    };
    let addresses: Vec<String> = service.local_addresses.iter().map(ToString::to_string).collect();
    let mut text = pairs([
        ("Service", service.id.to_string()),
        ("Scheduler", scheduler),
        ("Timeout", settings.timeout.map_or("the director's".to_owned(), |timeout| format!("{timeout} s"))),
        ("Persistence", settings.persistence.map_or("none".to_owned(), persistence)),
        ("Local addresses", if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }),
        ("Local ports", format!("{first} to {last}")),
        ("Client address", client_address(status)),
        ("Without server", format!("{} connections", status.no_server)),
        ("Without local port", format!("{} connections", status.local_port_exhausted)),
    ]);
    if settings.one_packet {
        text += "One packet          every datagram is scheduled by itself\n";
    }
    if let Some(QuorumStatus { reached, seconds, weight }) = status.quorum_status {
        let (quorum, time) = (settings.health.as_deref().map_or(1, |health| health.quorum), duration(seconds));
        let state = if reached { "reached" } else { "lost" };
        text +=
            &format!("Quorum              {state} for {time}: servers of weight {weight} are up, {quorum} needed\n");
    }
    let mut table = Table::new([
        Text("SERVER"),
        Text("MODE"),
        Number("WEIGHT"),
        Number("UPPER"),
        Number("LOWER"),
        Number("ACTIVE"),
        Number("INACTIVE"),
        Number("PERSISTENT"),
        Number("CONN/S"),
    ]);
    for (name, status) in servers(status) {
        let server = &status.server;
        table.row([
            name,
            match server.tunnel.is_plain() {
                true => mode_name(server.mode).to_owned(),
                false => format!("{} {}", mode_name(server.mode), server.tunnel),
            },
            weight(status),
            threshold(server.upper_threshold),
            threshold(server.lower_threshold),
            status.active_connections.to_string(),
            status.inactive_connections.to_string(),
            status.persistent_connections.to_string(),
            count(status.stats.cps),
        ]);
    }
    text.push('\n');
    text += &table.render();
    if status.server_status.iter().any(|server| server.health_status.is_some()) {
        text.push('\n');
        text += &checks(&status.server_status);
    }
    text
}

/// A server's weight, and the one in force if that is another.
fn weight(status: &ServerStatus) -> String {
    let configured = status.server.weight;
    match status.effective_weight {
        None => format!("{configured} (out)"),
        Some(weight) if weight != configured => format!("{configured} (now {weight})"),
        Some(_) => configured.to_string(),
    }
}

/// How servers do by their checks and their connections.
fn checks(servers: &[ServerStatus]) -> String {
    let mut table = Table::new([
        Text("SERVER"),
        Text("STATE"),
        Text("CHECK"),
        Text("STATE"),
        Text("FOR"),
        Number("RUNS"),
        Number("FAILED"),
        Number("LAST RUN"),
        Text("LAST ERROR"),
    ]);
    for status in servers {
        let Some(health) = &status.health_status else { continue };
        for (index, check) in health.checks.iter().enumerate() {
            let first = |text: String| if index == 0 { text } else { String::new() };
            let weight = check.weight.map(|weight| format!(" (weight {weight})")).unwrap_or_default();
            let error = check.error.as_deref().unwrap_or("-");
            let ago = check.error_seconds.map(|seconds| format!(" ({} ago)", duration(seconds))).unwrap_or_default();
            table.row([
                first(status.server.address.to_string()),
                first(health.state.name().to_owned()),
                format!("{}{weight}", check.check),
                check.state.name().to_owned(),
                duration(check.seconds),
                check.runs.to_string(),
                check.failures.to_string(),
                format!("{:.1} ms", check.duration_us as f64 / 1000.0),
                format!("{error}{ago}"),
            ]);
        }
        if let Some(passive) = &health.passive {
            let first = |text: String| if health.checks.is_empty() { text } else { String::new() };
            let failed = passive.refused + passive.timed_out + passive.unreachable;
            table.row([
                first(status.server.address.to_string()),
                first(health.state.name().to_owned()),
                "passive".to_owned(),
                if passive.returns_in.is_some() { "ejected" } else { "up" }.to_owned(),
                passive.returns_in.and(passive.reason_seconds).map_or("-".to_owned(), duration),
                (passive.answered + failed).to_string(),
                failed.to_string(),
                "-".to_owned(),
                ejection(passive),
            ]);
        }
    }
    table.render()
}

/// Why a server was ejected last, and when it returns or how long ago that was.
fn ejection(passive: &PassiveStatus) -> String {
    let Some(reason) = &passive.reason else { return "-".to_owned() };
    match (passive.returns_in, passive.reason_seconds) {
        (Some(seconds), _) => format!("{reason} (returns in {})", duration(seconds)),
        (None, Some(seconds)) => format!("{reason} ({} ago)", duration(seconds)),
        (None, None) => reason.clone(),
    }
}

/// The service's servers and what they are called.
fn servers(status: &ServiceStatus) -> impl Iterator<Item = (String, &ServerStatus)> {
    let servers = status.server_status.iter().map(|server| (server.server.address.to_string(), server));
    let sorry = status.sorry_server_status.iter().map(|server| (format!("{} (sorry)", server.server.address), server));
    servers.chain(sorry)
}

fn client_address(status: &ServiceStatus) -> String {
    match status.service.settings.client_address {
        None => "not told".to_owned(),
        Some(way) => {
            let (sent, omitted) = (status.client_address_sent, status.client_address_omitted);
            format!("{}: in {sent} packets, no room in {omitted}", way.name())
        }
    }
}

fn persistence(persistence: Persistence) -> String {
    let Persistence { timeout, netmask, engine } = persistence;
    let mask = netmask.map(|mask| format!(", netmask {mask}")).unwrap_or_default();
    let engine = engine.map(|engine| format!(", by {}", engine.name())).unwrap_or_default();
    format!("{timeout} s{mask}{engine}")
}

pub(crate) fn marks(rules: &[MarkRule]) -> String {
    if rules.is_empty() {
        return "There are no rules: add one with 'dpvs-ctl marks add'.\n".to_owned();
    }
    let mut table = Table::new([
        Number("MARK"),
        Text("PROTO"),
        Text("SOURCE"),
        Text("PORTS"),
        Text("DESTINATION"),
        Text("PORTS"),
        Text("INGRESS"),
    ]);
    let any = |value: Option<String>| value.unwrap_or_else(|| "any".to_owned());
    for rule in rules {
        table.row([
            rule.mark.to_string(),
            any(rule.protocol.map(|protocol| protocol.to_string())),
            any(rule.source.map(|network| network.to_string())),
            any(rule.source_ports.map(|ports| ports.to_string())),
            any(rule.destination.map(|network| network.to_string())),
            any(rule.destination_ports.map(|ports| ports.to_string())),
            any(rule.ingress.clone()),
        ]);
    }
    table.render()
}

fn threshold(value: u32) -> String {
    if value == 0 { "-".to_owned() } else { value.to_string() }
}

pub(crate) fn local_addresses(services: &[ServiceStatus]) -> String {
    let mut table =
        Table::new([Text("SERVICE"), Text("LOCAL ADDRESS"), Number("PORTS"), Number("CONNECTIONS WITHOUT PORT")]);
    for status in services {
        let LocalPorts { first, last } = status.service.settings.local_ports;
        for address in &status.service.local_addresses {
            table.row([
                status.service.id.to_string(),
                address.to_string(),
                format!("{first}-{last}"),
                status.local_port_exhausted.to_string(),
            ]);
        }
    }
    table.render()
}

pub(crate) fn stats(services: &[ServiceStatus]) -> String {
    let mut table = Table::new([
        Text("SERVICE / SERVER"),
        Number("CONNS"),
        Number("IN PKTS"),
        Number("OUT PKTS"),
        Number("IN BYTES"),
        Number("OUT BYTES"),
        Number("CONN/S"),
        Number("IN PKT/S"),
        Number("OUT PKT/S"),
        Number("IN B/S"),
        Number("OUT B/S"),
        Number("NO SERVER"),
        Number("NO PORT"),
    ]);
    for status in services {
        let lost = [count(status.no_server), count(status.local_port_exhausted)];
        let servers =
            servers(status).map(|(name, server)| (format!("  {name}"), &server.stats, ["".to_owned(), "".to_owned()]));
        let service = (status.service.id.to_string(), &status.stats, lost);
        for (name, stats, lost) in std::iter::once(service).chain(servers) {
            let numbers = [
                stats.connections,
                stats.in_packets,
                stats.out_packets,
                stats.in_bytes,
                stats.out_bytes,
                stats.cps,
                stats.in_pps,
                stats.out_pps,
                stats.in_bps,
                stats.out_bps,
            ];
            let cells: Vec<String> = std::iter::once(name).chain(numbers.map(count)).chain(lost).collect();
            table.row(cells);
        }
    }
    table.render()
}

/// Columns of fixed width: connections are printed while they arrive, so none can be measured beforehand.
fn connection_line(cells: [&str; 8]) -> String {
    let [protocol, state, expires, client, service, mode, local, server] = cells;
    let line =
        format!("{protocol:<5} {state:<11} {expires:>7} {client:<22} {service:<22} {mode:<7} {local:<22} {server}");
    line + "\n"
}

pub(crate) fn connections_heading() -> String {
    connection_line(["PROTO", "STATE", "EXPIRES", "CLIENT", "SERVICE", "MODE", "LOCAL", "SERVER"])
}

pub(crate) fn connection(connection: &Connection) -> String {
    let is_fullnat = connection.mode == ForwardMode::Fullnat;
    let local = if is_fullnat { connection.local.to_string() } else { "-".to_owned() };
    connection_line([
        connection.protocol.map_or("any", Protocol::name),
        &connection.state,
        &format!("{}s", connection.expires),
        &connection.client.to_string(),
        &connection.virtual_service.to_string(),
        mode_name(connection.mode),
        &local,
        &connection.server.to_string(),
    ])
}

pub(crate) fn drops(drops: &[DropCount]) -> String {
    if drops.is_empty() {
        return "No packet was dropped.\n".to_owned();
    }
    let mut table = Table::new([Text("REASON"), Number("PACKETS"), Text("MEANING")]);
    for drop in drops {
        table.row([drop.reason.clone(), drop.packets.to_string(), drop.description.clone()]);
    }
    table.render()
}

pub(crate) fn workers(workers: &[WorkerStats]) -> String {
    let mut table = Table::new([
        Number("WORKER"),
        Number("CORE"),
        Number("BUSY"),
        Number("PKT/S"),
        Number("PKT/BURST"),
        Number("CYCLES/PKT"),
        Number("CONNECTIONS"),
        Number("CAPACITY"),
        Number("STEERED"),
        Number("PUNTED"),
        Number("ICMP SENT"),
        Number("REAPED"),
        Number("REASSEMBLED"),
        Number("BEHIND"),
        Number("DROPS"),
    ]);
    for worker in workers {
        table.row([
            worker.worker.to_string(),
            worker.core.to_string(),
            format!("{:.1}%", worker.busy_ratio * 100.0),
            count(worker.pps),
            format!("{:.1}", worker.packets_per_burst),
            format!("{:.0}", worker.cycles_per_packet),
            worker.connections.to_string(),
            worker.capacity.to_string(),
            count(worker.steered),
            count(worker.punted),
            count(worker.icmp_sent),
            count(worker.reaped),
            count(worker.reassembled),
            worker.snapshots_behind.to_string(),
            count(worker.drops.values().sum()),
        ]);
    }
    table.render()
}

pub(crate) fn ports(ports: &[PortStats]) -> String {
    let mut table = Table::new([
        Text("PORT"),
        Text("DEVICE"),
        Text("INTERFACE"),
        Text("MAC"),
        Number("QUEUES"),
        Number("RX PKTS"),
        Number("RX BYTES"),
        Number("TX PKTS"),
        Number("TX BYTES"),
        Number("RX MISSED"),
    ]);
    for port in ports {
        table.row([
            port.name.clone(),
            port.device.clone(),
            port.interface.clone(),
            port.mac.clone(),
            port.queues.to_string(),
            count(port.rx_packets),
            count(port.rx_bytes),
            count(port.tx_packets),
            count(port.tx_bytes),
            port.rx_missed.to_string(),
        ]);
    }
    table.render()
}

pub(crate) fn timeouts(timeouts: &Timeouts) -> String {
    pairs([
        ("TCP established", format!("{} s", timeouts.tcp)),
        ("TCP after FIN", format!("{} s", timeouts.tcp_fin)),
        ("UDP", format!("{} s", timeouts.udp)),
    ])
}

pub(crate) fn sysctls(sysctls: &Sysctls) -> String {
    let mut table = Table::new([Text("SETTING"), Number("VALUE"), Number("DEFAULT"), Text("RANGE"), Text("MEANING")]);
    for (setting, value) in sysctls.iter() {
        let range = format!("{} to {}", setting.min, setting.max);
        let (default, meaning) = (setting.default.to_string(), setting.meaning.to_owned());
        table.row([setting.name.to_owned(), value.to_string(), default, range, meaning]);
    }
    table.render()
}

#[cfg(test)]
#[path = "show_tests.rs"]
pub(crate) mod tests;
