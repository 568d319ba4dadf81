//! Prints the table as commands that `-R` reads.

use std::io::{self, Write};

use dpvs_api::{
    Family, ForwardMode, LocalPorts, Persistence, Protocol, SchedulerFlag, ServiceId, ServiceStatus, Tunnel,
    TunnelChecksum, TunnelType,
};

use crate::list::endpoint;
use crate::names::Names;
use crate::sort;

/// Prints every service: itself, its local addresses, its servers.
pub(crate) fn save(
    output: &mut dyn Write,
    numeric: bool,
    mut services: Vec<ServiceStatus>,
    names: &dyn Names,
) -> io::Result<()> {
    sort::services(&mut services);
    for status in services {
        let settings = &status.service.settings;
        let protocol = status.service.id.protocol();
        let id = match status.service.id {
            ServiceId::Address { protocol, address } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                format!("{option} {}", endpoint(address, Some(protocol), numeric, names))
            }
            ServiceId::Fwmark { mark, family: Family::Inet } => format!("-f {}", mark.cast_signed()),
            ServiceId::Fwmark { mark, family: Family::Inet6 } => format!("-f {} -6", mark.cast_signed()),
        };
        write!(output, "-A {id} -s {}", settings.scheduler.name())?;
        if let Some(Persistence { timeout, netmask, engine }) = settings.persistence {
            write!(output, " -p {timeout}")?;
            netmask.iter().try_for_each(|mask| write!(output, " -M {mask}"))?;
            engine.iter().try_for_each(|engine| write!(output, " --pe {}", engine.name()))?;
        }
        if settings.one_packet {
            write!(output, " -o")?;
        }
        if !settings.scheduler_flags.is_empty() {
            write!(output, " -b {}", SchedulerFlag::list(&settings.scheduler_flags))?;
        }
        if let Some(timeout) = settings.timeout {
            write!(output, " --conn-timeout {timeout}")?;
        }
        let LocalPorts { first, last } = settings.local_ports;
        if settings.local_ports != LocalPorts::default() {
            write!(output, " --local-ports {first}-{last}")?;
        }
        writeln!(output)?;
        for address in &status.service.local_addresses {
            writeln!(output, "-P {id} -z {address}")?;
        }
        let mut servers = status.server_status;
        sort::servers(&mut servers);
        for server in servers.iter().map(|status| &status.server) {
            let (forward, tunnel) = match server.mode {
                ForwardMode::Nat => ("-m", String::new()),
                ForwardMode::Fullnat => ("-b", String::new()),
                ForwardMode::Dr => ("-g", String::new()),
                ForwardMode::Tun => ("-i", tunnel_options(server.tunnel)),
            };
            let address = endpoint(server.address, protocol, numeric, names);
            write!(output, "-a {id} -r {address} {forward} -w {}{tunnel}", server.weight)?;
            writeln!(output)?;
        }
    }
    Ok(())
}

fn tunnel_options(tunnel: Tunnel) -> String {
    let checksum = match tunnel.checksum {
        _ if tunnel.kind == TunnelType::Ipip => "",
        TunnelChecksum::None => " --tun-nocsum",
        TunnelChecksum::Csum => " --tun-csum",
        TunnelChecksum::Remcsum => " --tun-remcsum",
    };
    let port = tunnel.port.map(|port| format!(" --tun-port {port}")).unwrap_or_default();
    format!(" --tun-type {}{port}{checksum}", tunnel.kind.name())
}
