//! Carries out a command line.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use dpvs_api::{Operation, Server, ServerHealth, ServiceId, ServiceSettings, ServiceStatus};

use crate::arguments::{Parsed, parse};
use crate::command::{Action, Change, Format, List, action};
use crate::director::Director;
use crate::failure::{Failure, LISTING};
use crate::names::Names;
use crate::{connections, help, list, restore, save};

/// Where a command reads and writes.
pub struct Streams<'a> {
    /// Standard input, read by `-R`.
    pub input: Box<dyn Read + 'a>,
    /// Standard output.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: Box<dyn Write + 'a>,
}

/// Runs a command line, the program's name first. Returns the exit status.
pub fn run(arguments: &[String], streams: &mut Streams<'_>, director: &dyn Director, names: &dyn Names) -> u8 {
    let (program, words) = match arguments.split_first() {
        Some((program, words)) => (program.as_str(), words),
        None => ("ipvsadm", &[][..]),
    };
    let result = carry_out(program, words, streams, director, names);
    // What was printed before a failure comes before its message.
    let _ = streams.output.flush();
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(streams.errors, "{}", failure.message);
            }
            failure.status
        }
    }
}

fn carry_out(
    program: &str,
    words: &[String],
    streams: &mut Streams<'_>,
    director: &dyn Director,
    names: &dyn Names,
) -> Result<(), Failure> {
    let action = if words.is_empty() {
        Action::List(List::Table(Format::default(), None))
    } else {
        match parse(program, words, names)? {
            Parsed::Help => return help::help(streams.output, program).map_err(broken_output),
            Parsed::Version => return help::version(streams.output).map_err(broken_output),
            Parsed::Command(arguments) => action(*arguments)?,
        }
    };
    match action {
        Action::Change(change) => {
            let operation = operation_of(change, &[], director)?;
            let applied = director.apply(std::slice::from_ref(&operation));
            applied.map_err(|error| Failure::operation(error, &operation))
        }
        Action::Restore => restore::restore(program, &mut streams.input, director, names),
        Action::Save { numeric } => {
            let services = director.services().map_err(Failure::listing)?;
            save::save(streams.output, numeric, services, names).map_err(broken_output)
        }
        Action::LocalAddresses(id) => {
            let services = services(director, id)?;
            list::local_addresses(streams.output, services).map_err(broken_output)
        }
        Action::List(what) => print_list(streams.output, what, director, names),
    }
}

fn services(director: &dyn Director, id: Option<ServiceId>) -> Result<Vec<ServiceStatus>, Failure> {
    match id {
        Some(id) => director.service(id).map(|service| vec![service]).map_err(Failure::listing),
        None => director.services().map_err(Failure::listing),
    }
}

fn print_list(output: &mut dyn Write, what: List, director: &dyn Director, names: &dyn Names) -> Result<(), Failure> {
    match what {
        List::Table(format, id) => {
            let services = services(director, id)?;
            if id.is_none() {
                let capacity = director.table_capacity().map_err(Failure::listing)?;
                writeln!(output, "IP Virtual Server version {} (size={capacity})", help::IPVS_VERSION)
                    .map_err(broken_output)?;
            }
            list::table(output, format, services, names).map_err(broken_output)
        }
        List::Connections(format) => {
            let mut connections = director.connections().peekable();
            // An error of the first page comes before the title.
            if let Some(Err(_)) = connections.peek() {
                connections.next().transpose().map_err(Failure::listing)?;
            }
            connections::title(output, format).map_err(broken_output)?;
            for connection in connections {
                let connection = connection.map_err(Failure::listing)?;
                connections::connection(output, format, &connection, names).map_err(broken_output)?;
            }
            Ok(())
        }
        List::Timeouts => {
            let timeouts = director.timeouts().map_err(Failure::listing)?;
            let (tcp, tcp_fin, udp) = (timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
            writeln!(output, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}").map_err(broken_output)
        }
        // dpvsd runs none, and where none runs the real one prints nothing.
        List::Daemons => Ok(()),
    }
}

/// The operation of a change. An edit starts from what the service or server is, or will be after the `earlier` operations
/// of the same batch.
pub(crate) fn operation_of(
    change: Change,
    earlier: &[Operation],
    director: &dyn Director,
) -> Result<Operation, Failure> {
    let (id, scheduler, scheduler_flags, timeout, persistence, one_packet, local_ports) = match change {
        Change::Operation(Operation::EditServer { service, server }) => {
            let health = health_of(service, server.address, earlier, director);
            return Ok(Operation::EditServer { service, server: Server { health, ..server } });
        }
        Change::Operation(operation) => return Ok(operation),
        Change::EditService { id, scheduler, scheduler_flags, timeout, persistence, one_packet, local_ports } => {
            (id, scheduler, scheduler_flags, timeout, persistence, one_packet, local_ports)
        }
    };
    let planned = earlier.iter().rev().find_map(|operation| match operation {
        Operation::AddService { service } if service.id == id => Some(service.settings.clone()),
        Operation::EditService { service, settings } if *service == id => Some(settings.clone()),
        // The edit will fail; let the daemon say so.
        Operation::DeleteService { service } if *service == id => Some(ServiceSettings::default()),
        Operation::Clear => Some(ServiceSettings::default()),
        _ => None,
    });
    let old = match planned {
        Some(planned) => planned,
        None => match director.service(id) {
            Ok(status) => status.service.settings,
            Err(error) => {
                let settings = ServiceSettings::default();
                let edit = Operation::EditService { service: id, settings };
                return Err(Failure::operation(error, &edit));
            }
        },
    };
    Ok(Operation::EditService {
        service: id,
        settings: ServiceSettings {
            scheduler,
            scheduler_flags,
            timeout: timeout.or(old.timeout),
            persistence,
            one_packet,
            local_ports: local_ports.unwrap_or(old.local_ports),
            ..old
        },
    })
}

/// A server's health checks, which ipvsadm does not know and must not take away. If there is no such server, the edit
/// will fail; let the daemon say so.
fn health_of(
    id: ServiceId,
    address: SocketAddr,
    earlier: &[Operation],
    director: &dyn Director,
) -> Option<Box<ServerHealth>> {
    let is_it = |server: &&Server| server.address == address;
    for operation in earlier.iter().rev() {
        match operation {
            Operation::AddServer { service, server } | Operation::EditServer { service, server }
                if *service == id && is_it(&server) =>
            {
                return server.health.clone();
            }
            Operation::AddService { service } if service.id == id => {
                return service.servers.iter().find(is_it)?.health.clone();
            }
            Operation::DeleteServer { service, server } if *service == id && *server == address => return None,
            Operation::DeleteService { service } if *service == id => return None,
            Operation::Clear => return None,
            _ => {}
        }
    }
    let status = director.service(id).ok()?;
    status.server_status.into_iter().map(|status| status.server).find(|server| is_it(&server))?.health
}

/// A listing that could not be printed. A reader that has seen enough (`ipvsadm -L | head`) is told nothing.
fn broken_output(error: io::Error) -> Failure {
    let is_closed = error.kind() == io::ErrorKind::BrokenPipe;
    let message = if is_closed { String::new() } else { format!("standard output: {error}") };
    Failure { status: LISTING, message }
}
