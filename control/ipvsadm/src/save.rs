//! Prints the table as commands that `-R` reads.

use std::io::{self, Write};

use dpvs_api::{ForwardMode, LocalPorts, Protocol, SchedulerFlag, ServiceStatus};

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
        let service = &status.service;
        let protocol = service.protocol;
        let option = match protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        };
        let id = format!("{option} {}", endpoint(service.address, protocol, numeric, names));
        write!(output, "-A {id} -s {}", service.scheduler.name())?;
        if service.one_packet {
            write!(output, " -o")?;
        }
        if !service.scheduler_flags.is_empty() {
            write!(output, " -b {}", SchedulerFlag::list(&service.scheduler_flags))?;
        }
        if let Some(timeout) = service.timeout {
            write!(output, " --conn-timeout {timeout}")?;
        }
        let LocalPorts { first, last } = service.local_ports;
        if service.local_ports != LocalPorts::default() {
            write!(output, " --local-ports {first}-{last}")?;
        }
        writeln!(output)?;
        for address in &service.local_addresses {
            writeln!(output, "-P {id} -z {address}")?;
        }
        let mut servers = status.server_status;
        sort::servers(&mut servers);
        for server in servers.iter().map(|status| &status.server) {
            let (forward, tunnel) = match server.mode {
                ForwardMode::Nat => ("-m", ""),
                ForwardMode::Fullnat => ("-b", ""),
                ForwardMode::Dr => ("-g", ""),
                ForwardMode::Tun => ("-i", " --tun-type ipip"),
            };
            let address = endpoint(server.address, protocol, numeric, names);
            write!(output, "-a {id} -r {address} {forward} -w {}{tunnel}", server.weight)?;
            writeln!(output)?;
        }
    }
    Ok(())
}
