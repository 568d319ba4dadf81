//! Prints the table.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use dpvs_api::{
    Family, FlowStats, ForwardMode, Persistence, Protocol, SchedulerFlag, ServerStatus, ServiceId, ServiceStatus,
    Tunnel, TunnelChecksum, TunnelType,
};

use crate::command::{Format, View};
use crate::names::Names;
use crate::sort;

/// Longest text of an address and port; longer names are cut.
const ENDPOINT_MAX: usize = 59;

/// Prints services under a title.
pub(crate) fn table(
    output: &mut dyn Write,
    format: Format,
    mut services: Vec<ServiceStatus>,
    names: &dyn Names,
) -> io::Result<()> {
    output.write_all(title(format.view).as_bytes())?;
    if !format.no_sort {
        sort::services(&mut services);
    }
    for service in services {
        print_service(output, format, service, names)?;
    }
    Ok(())
}

fn title(view: View) -> String {
    let head = "Prot LocalAddress:Port";
    let servers = "  -> RemoteAddress:Port";
    match view {
        View::Table => {
            format!("{head} Scheduler Flags\n{servers}           Forward Weight ActiveConn InActConn\n")
        }
        View::TunInfo => {
            format!("{head} Scheduler Flags\n{servers}           Forward TunnelInfo    Weight ActiveConn InActConn\n")
        }
        View::Stats => counters_title(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        View::Rate => counters_title(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        View::Thresholds => columns_title(["Uthreshold", "Lthreshold"], 10),
        View::PersistentConn => {
            format!(
                "{head:<33} {:<9} {:<11} {:<10} {:<10}\n{servers}\n",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            )
        }
    }
}

fn counters_title(columns: [&str; 5]) -> String {
    let columns: String = columns.iter().map(|column| format!(" {column:>8}")).collect();
    format!("{:<33}{columns}\n  -> RemoteAddress:Port\n", "Prot LocalAddress:Port")
}

fn columns_title(columns: [&str; 2], width: usize) -> String {
    let [first, second] = columns;
    format!(
        "{:<33} {first:<width$} {second:<width$} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
        "Prot LocalAddress:Port", "ActiveConn", "InActConn"
    )
}

fn print_service(output: &mut dyn Write, format: Format, status: ServiceStatus, names: &dyn Names) -> io::Result<()> {
    let settings = &status.service.settings;
    let protocol = status.service.id.protocol();
    let name = service_name(status.service.id, format.numeric, names);
    match format.view {
        View::Stats | View::Rate => writeln!(output, "{name:<33}{}", counters(&status.stats, format))?,
        _ => {
            let timeout = settings.timeout.map(|timeout| format!(" conn-timeout {timeout}")).unwrap_or_default();
            let flags = match SchedulerFlag::list(&settings.scheduler_flags) {
                flags if flags.is_empty() => flags,
                flags => format!(" ({flags})"),
            };
            let persistence = settings.persistence.map(persistence).unwrap_or_default();
            let ops = if settings.one_packet { " ops" } else { "" };
            writeln!(output, "{name} {}{flags}{persistence}{ops}{timeout}", settings.scheduler.name())?;
        }
    }
    // As keepalived has it: what health checks have taken out is not there, and a sorry server is while it is needed.
    let is_sorry_needed = status.quorum_status.is_some_and(|quorum| !quorum.reached);
    let mut servers = status.server_status;
    servers.retain(|server| server.effective_weight.is_some());
    servers.extend(status.sorry_server_status.filter(|_| is_sorry_needed));
    if !format.no_sort {
        sort::servers(&mut servers);
    }
    for server in servers {
        print_server(output, format, protocol, &server, names)?;
    }
    Ok(())
}

/// How a service's line says that it is persistent.
fn persistence(persistence: Persistence) -> String {
    let Persistence { timeout, netmask, engine } = persistence;
    let mask = netmask.map(|mask| format!(" mask {mask}")).unwrap_or_default();
    let engine = engine.map(|engine| format!(" pe {}", engine.name())).unwrap_or_default();
    format!(" persistent {timeout}{mask}{engine}")
}

/// The first columns of a service's line.
fn service_name(id: ServiceId, numeric: bool, names: &dyn Names) -> String {
    let mut name = match id {
        ServiceId::Address { protocol, address } => {
            let name = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            format!("{name:<4} {}", endpoint(address, Some(protocol), numeric, names))
        }
        ServiceId::Fwmark { mark, family: Family::Inet } => format!("FWM  {}", mark.cast_signed()),
        ServiceId::Fwmark { mark, family: Family::Inet6 } => format!("FWM  {} IPv6", mark.cast_signed()),
    };
    if id.family() == Family::Inet {
        cut(&mut name, 33);
    }
    name
}

fn print_server(
    output: &mut dyn Write,
    format: Format,
    protocol: Option<Protocol>,
    status: &ServerStatus,
    names: &dyn Names,
) -> io::Result<()> {
    let server = &status.server;
    let mut name = endpoint(server.address, protocol, format.numeric, names);
    if server.address.is_ipv4() {
        cut(&mut name, 28);
    }
    let (active, inactive) = (status.active_connections, status.inactive_connections);
    let (forward, weight) = (forward_name(server.mode), status.effective_weight.unwrap_or(0));
    write!(output, "  -> {name:<28}")?;
    match format.view {
        View::Stats | View::Rate => writeln!(output, "{}", counters(&status.stats, format)),
        View::Thresholds => {
            let (upper, lower) = (server.upper_threshold, server.lower_threshold);
            writeln!(output, " {upper:<10} {lower:<10} {active:<10} {inactive:<10}")
        }
        View::PersistentConn => {
            let persistent = status.persistent_connections;
            writeln!(output, " {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
        }
        View::TunInfo => {
            let tunnel = if server.mode == ForwardMode::Tun { tunnel_info(server.tunnel) } else { "n/a".to_owned() };
            writeln!(output, " {forward:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}")
        }
        View::Table => writeln!(output, " {forward:<7} {weight:<6} {active:<10} {inactive:<10}"),
    }
}

/// Type, port and checksum of a tunnel.
fn tunnel_info(tunnel: Tunnel) -> String {
    let checksum = match tunnel.checksum {
        _ if tunnel.kind == TunnelType::Ipip => "",
        TunnelChecksum::None => ":-c",
        TunnelChecksum::Csum => ":+c",
        TunnelChecksum::Remcsum => ":r+c",
    };
    let port = tunnel.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}{checksum}", tunnel.kind.name())
}

fn forward_name(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::Nat => "Masq",
        ForwardMode::Fullnat => "FullNat",
        ForwardMode::Dr => "Route",
        ForwardMode::Tun => "Tunnel",
    }
}

/// Five columns of counters or rates.
fn counters(stats: &FlowStats, format: Format) -> String {
    let values = if format.view == View::Rate {
        [stats.cps, stats.in_pps, stats.out_pps, stats.in_bps, stats.out_bps]
    } else {
        [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes]
    };
    values.iter().map(|&value| large_number(value, format.exact)).collect()
}

/// A number in nine places, the first of them blank; from a hundred million on in units of 1000.
fn large_number(value: u64, exact: bool) -> String {
    const UNITS: [(u64, u64, char); 3] =
        [(1_000_000_000, 1_000, 'K'), (100_000_000_000, 1_000_000, 'M'), (100_000_000_000_000, 1_000_000_000, 'G')];
    if exact || value < 100_000_000 {
        // The blank keeps long exact numbers apart.
        return format!(" {value:>8}");
    }
    let unit = UNITS.iter().find(|(below, ..)| value < *below);
    let &(_, divisor, letter) = unit.unwrap_or(&(u64::MAX, 1_000_000_000_000, 'T'));
    format!("{:>8}{letter}", value / divisor)
}

/// Prints the local addresses of services, as DPVS does. dpvsd does not count per local address: those columns hold
/// dashes.
pub(crate) fn local_addresses(output: &mut dyn Write, mut services: Vec<ServiceStatus>) -> io::Result<()> {
    sort::services(&mut services);
    writeln!(output, "{:<20} {:<8} {:<20} {:<10} {:<10}", "VIP:VPORT", "TOTAL", "SNAT_IP", "CONFLICTS", "CONNS")?;
    for service in services.iter().map(|status| &status.service) {
        let name = service.id.address().map_or_else(|| service.id.to_string(), |address| address.to_string());
        writeln!(output, "{name:<20} {:<8} ", service.local_addresses.len())?;
        for address in &service.local_addresses {
            writeln!(output, "{:<20} {:<8} {:<20} {:<10} {:<10}", "", "", address.to_string(), "-", "-")?;
        }
    }
    Ok(())
}

/// Address and port, as numbers or as names where there are any; IPv6 in brackets. Ports of no protocol in particular
/// (those of firewall marks) have no names.
pub(crate) fn endpoint(address: SocketAddr, protocol: Option<Protocol>, numeric: bool, names: &dyn Names) -> String {
    let mut text = if numeric {
        address.to_string()
    } else {
        let host = names.host(address.ip()).unwrap_or_else(|| address.ip().to_string());
        let port = protocol.and_then(|protocol| names.service(address.port(), protocol));
        let port = port.unwrap_or_else(|| address.port().to_string());
        match address.ip() {
            IpAddr::V4(_) => format!("{host}:{port}"),
            IpAddr::V6(_) => format!("[{host}]:{port}"),
        }
    };
    cut(&mut text, ENDPOINT_MAX);
    text
}

/// Cuts a text to a number of bytes, at a character.
fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers() {
        for (value, expected) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (100_000_000_000_000, "     100T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(large_number(value, false), expected, "{value}");
        }
        assert_eq!(large_number(7, true), "        7");
        assert_eq!(large_number(123_456_789_012, true), " 123456789012");
    }

    #[test]
    fn names_are_cut_at_characters() {
        let mut text = "äöü".to_owned();
        cut(&mut text, 3);
        assert_eq!(text, "ä");
    }
}
